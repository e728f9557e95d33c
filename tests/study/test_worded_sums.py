"""The sums in words: that they are right, and the three shares of their answers."""

from types import SimpleNamespace

import worded_sums


def test_they_are_right_and_differ():
    problems = worded_sums.worded_sums(24)
    assert len({question for question, _ in problems}) == 24
    for question, answer in problems:
        numbers = [int(word) for word in question.split() if word.isdigit()]
        assert sum(numbers) == int(answer)
        assert len(numbers) == 2


def test_right_named_and_ended_answers(monkeypatch):
    texts = {"a": "4 + 9 = 13.", "b": "4 + 9 = 13, so Tom has 130", "c": "It is 5.", "d": "Let me see: 4"}
    ends = {"a": "stop", "b": "length", "c": "stop", "d": "length"}

    class Generator:
        def __init__(self, loaded):
            pass

        def complete(self, prompts, sampling, seeds):
            assert (sampling.max_new_tokens, sampling.temperature, len(seeds)) == (7, 0.0, 4)
            return [SimpleNamespace(ids=prompt, finish=ends[prompt]) for prompt in prompts]

    monkeypatch.setattr(worded_sums, "TransformersGenerator", Generator)
    monkeypatch.setattr(worded_sums, "prompt_ids", lambda tokenizer, question: question)
    tokenizer = SimpleNamespace(decode=lambda ids, **_: texts[ids[0]])
    found = worded_sums.accuracy(SimpleNamespace(tokenizer=tokenizer), [(name, "13") for name in texts], 7)
    assert found == {"pass@1": 0.25, "named": 0.5, "ended": 0.5, "num_problems": 4}
