"""Tiny models that think as Qwen3 and DeepSeek-R1 do, through probe, eval and train: the same prompts and ends."""

import json
import re

import pandas as pd
import pytest

import antiphase
from antiphase.models.loading import load_model
from antiphase.rollouts.sampling import end_tokens
from antiphase.training.train import train
from antiphase.training.trainer import CorRPOTrainer
from thinking_training import QUIET, TASK, saved_models, trained_batches
from training_cases import flags

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # as `antiphase train` does
THINKING = {"on": None, "off": {"enable_thinking": False}}
OTHERS = [pytest.param(*case, marks=pytest.mark.slow) for case in (("qwen3", "off"), ("r1", "on"))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return saved_models(tmp_path_factory.mktemp("thinking"))


@pytest.mark.parametrize(("name", "thinking"), [("qwen3", "on"), *OTHERS])
def test_all_commands_give_a_model_the_prompt_of_the_hosts_batch(models, monkeypatch, tmp_path, name, thinking):
    model, options = models[name], THINKING[thinking]
    switch = {} if options is None else {"chat_template_kwargs": json.dumps(options)}
    evaluated = antiphase.evaluate(
        str(model), tasks=(TASK,), split="train", num_problems=40, samples=0, max_new_tokens=12,
        chat_template_kwargs=options, **QUIET,
    ).rollouts  # fmt: skip
    by_eval = {row.prompt: tuple(row.prompt_ids) for row in evaluated.itertuples()}
    questions = list(by_eval)
    probed = antiphase.probe(
        str(model), prompts=questions, num_prompts="all", max_new_tokens=12, chat_template_kwargs=options,
        **QUIET,
    ).rollouts  # fmt: skip
    assert {row.prompt: tuple(row.prompt_ids) for row in probed.itertuples()} == by_eval

    drawn = {}
    held = antiphase.training.train.held_out

    def watched(*arguments):
        drawn["held"] = held(*arguments)
        return drawn["held"]

    monkeypatch.setattr(antiphase.training.train, "held_out", watched)
    seen, ends, result = trained_batches(monkeypatch, model, tmp_path / "out", num_problems=40, **switch)
    assert result.summary is not None
    assert {prompt for prompt, _ in seen} <= set(by_eval.values())

    tokenizer = load_model(str(model)).tokenizer
    tail = {"on": "<|im_start|>assistant\n", "off": "<|im_start|>assistant\n<think>\n\n</think>\n\n"}[thinking]
    tail = "<|Assistant|><think>\n" if name == "r1" else tail
    everything = [*by_eval.values(), *(prompt for prompt, _ in seen), *drawn["held"].prompt_ids]
    assert all(tokenizer.decode(ids).endswith(tail) for ids in everything)
    held_prompts = dict(zip((p.prompt for p in drawn["held"].problems), drawn["held"].prompt_ids, strict=True))
    again = antiphase.probe(
        str(model), prompts=list(held_prompts), num_prompts="all", max_new_tokens=12, chat_template_kwargs=options,
        **QUIET,
    ).rollouts  # fmt: skip
    assert {row.prompt: tuple(row.prompt_ids) for row in again.itertuples()} == held_prompts
    # The ends of the host's batch are those of every other command.
    assert ends == set(end_tokens(load_model(str(model))))


def test_ends_are_those_of_generation_config_and_tokenizer(models):
    loaded = load_model(str(models["qwen3"]))
    turn, text = loaded.tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert end_tokens(loaded) == [turn, text]
    loaded.model.generation_config.eos_token_id = None
    assert end_tokens(loaded, [7]) == [text, 7]
    loaded.model.generation_config.eos_token_id = text
    assert end_tokens(loaded) == [text]


def test_a_completion_ends_at_either_end(models):
    found = antiphase.probe(
        str(models["qwen3"]), prompts=["a", "b", "c", "d"], num_prompts="all", samples=8, max_new_tokens=200,
        temperature=3.0, **QUIET,
    ).rollouts  # fmt: skip
    tokenizer = load_model(str(models["qwen3"])).tokenizer
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    last = [ids[-1] for ids, finish in zip(found.completion_ids, found.finish, strict=True) if finish == "stop"]
    assert {turn, text} == set(last)
    assert not any({turn, text} & set(ids[:-1]) for ids in found.completion_ids)


def test_a_checkpoints_own_sampling_options_stay_out_of_training(models, monkeypatch, tmp_path):
    def saved(name, **options):
        loaded = load_model(str(models["qwen3"]))
        for key, value in options.items():
            setattr(loaded.model.generation_config, key, value)
        loaded.model.save_pretrained(tmp_path / name)
        loaded.tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    common = list(range(3, 200))
    plain, other = (
        saved("plain"),
        saved("other", do_sample=True, suppress_tokens=common, min_p=0.4, no_repeat_ngram_size=1),
    )
    runs = [trained_batches(monkeypatch, model, tmp_path / f"out-{model.name}") for model in (plain, other)]
    assert runs[0][0] == runs[1][0]
    assert any(set(ids) & set(common) for _, ids in runs[1][0])
    # The trained model keeps the options for its users.
    kept = json.loads((tmp_path / "out-other" / "generation_config.json").read_text())
    assert (kept["min_p"], kept["no_repeat_ngram_size"]) == (0.4, 1)


def test_given_rollouts_without_an_end_are_counted(models):
    tokenizer = load_model(str(models["qwen3"])).tokenizer
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    rows = [{"prompt_ids": [5, 6], "completion_ids": [*range(10, 30), *end]} for end in ([turn], [text], [], [])]
    found = antiphase.probe(str(models["qwen3"]), rollouts=rows, **QUIET)
    assert found.summary["results"][0]["num_without_end"] == 2
    assert "2 given rollouts do not end with an end token" in str(found)
    ended = antiphase.probe(str(models["qwen3"]), rollouts=rows[:2], **QUIET)
    assert "end token" not in str(ended)
    generated = antiphase.probe(str(models["qwen3"]), prompts=["a"], num_prompts="all", max_new_tokens=12, **QUIET)
    assert "num_without_end" not in generated.summary["results"][0]


# What a model says that opens its own thought, with A for the right answer and B for a wrong one; and whether this is
# right.
SAID = (
    ("<think>Is it B?\nNo.</think>\nThe answer is A.", True),
    ("<think>Is it A?</think>\nThe answer is B.", False),
    ("<think>It is A, I am sure of it.", False),
    ("<think></think>The answer is A. I did not think.", True),
)
# Where the template has closed the thought in the prompt.
PLAIN = (
    ("The answer is A. That was easy.", True),
    ("The answer is B. That was easy.", False),
    ("A is the answer, not <think> or B? A.", True),
    ("Nothing to say about this here.", False),
)


@pytest.mark.parametrize(("name", "thinking"), [("qwen3", "on"), *OTHERS])
def test_verdicts_and_segments_are_those_of_the_hosts_batch(models, monkeypatch, tmp_path, name, thinking):
    tokenizer = load_model(str(models[name])).tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if name == "qwen3" else tokenizer.eos_token_id
    rows, right, lengths = [], [], []

    def scripted(self, prompt_ids, *_):
        answers = {row["question"]: row["answer"] for row in self.train_dataset}
        said = PLAIN if thinking == "off" else SAID
        for place, ids in enumerate(prompt_ids):
            question = next(text for text in answers if text in tokenizer.decode(ids))
            text, correct = said[place % len(said)]
            text = re.sub(r"\bA\b", answers[question], text)
            text = re.sub(r"\bB\b", str(int(answers[question]) + 1), text)
            text = text.removeprefix("<think>" * (name == "r1"))
            # White space joins the segment before it.
            thought = (re.match(r"(?s).*</think>\s*", text) or [""])[0]
            completion = [*tokenizer(text, add_special_tokens=False).input_ids, end]
            unfinished = thinking == "on" and not thought
            rows.append({"question": question, "prompt_ids": list(ids), "completion_ids": completion})
            right.append(correct)
            lengths.append(
                len(completion) if unfinished else len(tokenizer(thought, add_special_tokens=False).input_ids)
            )
        return [row["completion_ids"] for row in rows[-len(prompt_ids) :]], None

    scores, rewards = [], []
    calculate = CorRPOTrainer._calculate_rewards

    def watched(self, *arguments):
        found = calculate(self, *arguments)
        rewards.extend(found[:, 0].tolist())
        scores.extend(self._measured.scores.by_unit["token"].tolist())
        return found

    segment = "answer" if thinking == "off" else "thought"
    # The policy stays as it is, so that it can be compared with the model on disk.
    options = {"tasks": TASK, "num_problems": 40, "data_seed": 0, "eval_problems": 0, "max_steps": 2}
    options |= {"learning_rate": 0, "max_completion_length": 64}
    options |= {"inversion_unit": "token", "inversion_segment": segment}
    if THINKING[thinking] is not None:
        options["chat_template_kwargs"] = json.dumps(THINKING[thinking])
    with monkeypatch.context() as patch:
        patch.setattr(CorRPOTrainer, "_generate_single_turn", scripted)
        patch.setattr(CorRPOTrainer, "_calculate_rewards", watched)
        train(flags(models[name], tmp_path / "out", **options))
    assert rewards == [float(one) for one in right]

    shared = {
        "tasks": (TASK,),
        "split": "train",
        "num_problems": 40,
        "chat_template_kwargs": THINKING[thinking],
        **QUIET,
    }
    texts = [{key: row[key] for key in ("question", "completion_ids")} for row in rows]
    given, rendered = (antiphase.evaluate(str(models[name]), rollouts=them, **shared) for them in (rows, texts))
    by_id = given.rollouts.set_index("rollout_id")
    # The prompts that eval renders are those of the host's batch.
    pd.testing.assert_series_equal(by_id.prompt_ids, rendered.rollouts.set_index("rollout_id").prompt_ids)
    found = {(tuple(r.prompt_ids), tuple(r.completion_ids)): r for r in given.rollouts.itertuples()}
    counts = given.tokens[given.tokens.segment == "thought"].groupby("rollout_id").size()
    probed = antiphase.probe(str(models[name]), rollouts=rows, **QUIET)
    of_probe = probed.tokens[probed.tokens.segment == "thought"].groupby("rollout_id").size()
    names = {(tuple(r.prompt_ids), tuple(r.completion_ids)): r.rollout_id for r in probed.rollouts.itertuples()}
    for row, correct, length, score in zip(rows, right, lengths, scores, strict=True):
        key = (tuple(row["prompt_ids"]), tuple(row["completion_ids"]))
        assert found[key].correct == correct
        assert counts.get(found[key].rollout_id, 0) == of_probe.get(names[key], 0) == length
        expected = getattr(found[key], f"spearman_token_{segment}")
        assert score == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_thought_that_the_continued_message_began(models):
    chat = [{"role": "user", "content": "Why <think>?"}, {"role": "assistant", "content": "<think>\nSo"}]
    rows = [{"prompt": chat, "completion": text} for text in (" the answer is 4.", " it is 5.</think>It is 4.")]
    found = antiphase.probe(str(models["qwen3"]), rollouts=rows, continue_final=True, **QUIET)
    parts = found.tokens.groupby("rollout_id").segment.agg(lambda part: "".join(name[0] for name in part))
    assert list(parts) == ["t" * 17, "t" * 10 + "a" * 8]
    # A tag in an earlier message, and one in a plain text, begin nothing.
    ended = [chat[0], {"role": "assistant", "content": "So"}]
    for prompt, chats in ((ended, True), ("Begin with\n<think>\nplease", False)):
        rows = [{"prompt": prompt, "completion": " the answer is 4."}]
        found = antiphase.probe(str(models["qwen3"]), rollouts=rows, continue_final=True, chat_template=chats, **QUIET)
        assert set(found.tokens.segment) == {"answer"}
