"""What reasoning models say, as training reads it: real GRPO steps on scripted completions, verdicts by hand."""

import pytest

from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.steps.thoughts import TAGS
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.task_rewards import AccuracyReward, FormatReward, format_reward, rows
from antiphase.training import heldout
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.reward_functions import MajorityVoteReward
from antiphase.training.reward_names import reward_function
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import settings

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore:.*pin_memory.*")]

QWEN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
R1 = QWEN.replace("[assistant]", "[assistant]<think>\n")
PROBLEM = Problem("p", "gsm8k", "How much is 2 + 3?", "5")
LIMIT = 90


def tokenizer_of(template, special, *tokens):
    tokenizer = byte_tokenizer(template)
    tokenizer.add_tokens(list(tokens or ("<think>", "</think>")), special_tokens=special)
    return tokenizer


def trained(folder, texts, tokenizer, rewards, **changes):
    """The rewards of one step whose eight completions are these texts; one that ends in … goes on to the limit."""
    from datasets import Dataset

    ids = [tokenizer(text.removesuffix("…")).input_ids for text in texts]
    ids = [own + tokenizer("." * (LIMIT - len(own))).input_ids if text[-1:] == "…" else [*own, 2]
           for own, text in zip(ids, texts, strict=True)]  # fmt: skip

    class Scripted(CorRPOTrainer):
        def _generate_single_turn(self, prompt_ids, *_):
            assert len(prompt_ids) == len(ids)
            return ids, None

        def _calculate_rewards(self, *arguments):
            self.rewards = super()._calculate_rewards(*arguments)
            return self.rewards

    table = rows([PROBLEM] * 8, chat=tokenizer.chat_template is not None)
    config = CorRPOConfig(**settings(folder, max_steps=1, max_completion_length=LIMIT, num_generations=8, **changes))
    trainer = Scripted(
        tiny_model(), rewards, config, train_dataset=Dataset.from_list(table), processing_class=tokenizer
    )
    trainer.train()
    return [trainer.rewards[:, place].tolist() for place in range(len(rewards))]


# Each text is of a model that opens its thought itself. A template that opens it leaves the tag out of the completion.
CASES = {
    "<think>4 or \\boxed{4}?</think>\nThe answer is 5.": (1, 1),
    "<think>It is \\boxed{5}.</think>\nThe answer is 4.": (0, 1),
    "<think>It is \\boxed{5}, so": (0, 0),
    "<think>It is \\boxed{5}, and then…": (0, 0),
    "<think>4.</think><answer>5</answer>": (1, 1),
    "<think>I close with </answer> then.</think><answer>5</answer>": (1, 1),
    "<think>4.</think>Now, step by step: 2 + 3 = 5 and…": (0, 1),
    "<think>4.</think><answer>4</answer> or so": (0, 1),
}
RIGHT = [float(right) for right, _ in CASES.values()]
FORMAT = [0, 0, 0, 0, 1, 1, 0, 0]
# Answers 5, 4, none, none, 5, 5, none (it was cut off) and 4.
VOTES = [1, 0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("template", [QWEN, R1, None])
def test_rewards_read_what_follows_the_thought(template, special, tmp_path) -> None:
    tokenizer = tokenizer_of(template, special)
    texts = [text.removeprefix("<think>") if template == R1 else text for text in CASES]
    seen = {}

    def own(completions, finishes=None, **_):
        seen.update(completions=completions, finishes=finishes)
        return [0.0] * len(completions)

    with VerifierPool(1) as pool:
        rewards = [AccuracyReward(pool=pool), format_reward, reward_function("majority_vote", pool), own]
        found = trained(tmp_path, texts, tokenizer, rewards)
    assert found == [RIGHT, FORMAT, VOTES, [0.0] * 8]
    (row,) = read_trajectory(tmp_path)
    assert (row["accuracy/no_answer"], row["accuracy/cut_off"]) == (1 / 8, 2 / 8)
    assert (row["accuracy/timeouts"], row["accuracy/errors"]) == (0, 0)
    # A function of the user's own gets what the host gives.
    assert seen["finishes"] is None
    plain = tokenizer.batch_decode([tokenizer(text).input_ids for text in texts[:3]], skip_special_tokens=True)
    said = [text if template is None else text[0]["content"] for text in seen["completions"][:3]]
    assert said == plain
    assert ("<think>" in said[0]) == (not special and template != R1)


PARSED = {
    # Tags of no known family, so that the host alone knows where the thought ends.
    "mull": (QWEN, "[assistant]", {"open": "<mull>", "close_pattern": r"</mull>\s*"}),
    "think": (QWEN, "[assistant]", {"open": "<think>", "close_pattern": r"</think>\s*"}),
    # As TRL parses DeepSeek-R1: without a closing tag, the thought is the content.
    "opened": (R1, "[assistant]<think>\n", {"open_pattern": r"(?=[\s\S]*?</think>)", "close_pattern": r"</think>\s*"}),
}


@pytest.mark.parametrize("name", PARSED)
def test_thoughts_that_the_host_has_parsed(name, tmp_path) -> None:
    template, anchor, reasoning = PARSED[name]
    tag = "mull" if name == "mull" else "think"
    tokenizer = tokenizer_of(template, True, f"<{tag}>", f"</{tag}>")
    fields = {"reasoning_content": {**reasoning, "content": "text"}, "content": {"close_pattern": r"</s>\s*|$"}}
    tokenizer.response_template = {"defaults": {"role": "assistant"}, "start_anchor": anchor, "fields": fields}
    texts = [text.removeprefix("<think>" * (name == "opened")).replace("think>", f"{tag}>") for text in CASES]
    seen = {}

    def own(completions, **_):
        seen.update(message=completions[0][0])
        return [0.0] * len(completions)

    with VerifierPool(1) as pool:
        rewards = [AccuracyReward(pool=pool), FormatReward(), reward_function("majority_vote", pool), own]
        assert trained(tmp_path, texts, tokenizer, rewards)[:3] == [RIGHT, FORMAT, VOTES]
    assert seen["message"]["reasoning_content"] == "4 or \\boxed{4}?"
    assert seen["message"]["content"] == "The answer is 5."


def test_tags_of_ones_own(tmp_path) -> None:
    tokenizer = tokenizer_of(QWEN, True, "<mull>", "</mull>")
    texts = [text.replace("think>", "mull>") for text in CASES]
    with VerifierPool(1, ["<mull> </mull>"]) as pool:
        rewards = [reward_function(name, pool) for name in ("accuracy", "format", "majority_vote")]
        assert trained(tmp_path, texts, tokenizer, rewards) == [RIGHT, FORMAT, VOTES]


def test_the_last_turn_of_a_chat_with_tools() -> None:
    tokenizer = tokenizer_of(QWEN, True)
    ids = [
        tokenizer(text).input_ids for text in ("<think>a</think>call</s>", "[tool]7[assistant]<think>\n", "b</think>5")
    ]
    rollouts = RolloutIds(
        [tokenizer("Hi").input_ids] * 2,
        [[token for turn in ids for token in turn], ids[0]],
        [[1] * len(ids[0]) + [0] * len(ids[1]) + [1] * len(ids[2]), [1] * len(ids[0])],
    )
    call = {"role": "assistant", "content": "", "tool_calls": [{}], "reasoning_content": "a"}
    chats = [[call, {"role": "tool", "content": "7"}, {"role": "assistant", "content": "5"}], [call]]
    reader = CompletionReader(chats, rollouts, tokenizer, {2}, None)
    assert reader.texts(TAGS) == ["<think>\nb</think>5", "<think>\na"]
    assert reader.finishes == ["stop", "stop"]


def test_held_out_problems(monkeypatch) -> None:
    tokenizer = tokenizer_of(R1, True)
    texts = ["4</think>The answer is 5.", "It is \\boxed{5}", "Is it 5?</think>2 + 3 = 5 and", "4</think>It is 4."]

    def generate(loaded, prompts, sampling, seed, *_):
        return [(tokenizer(texts[place % 4]).input_ids, ("stop", "stop", "length", "stop")[place % 4])
                for place in range(len(prompts))]  # fmt: skip

    monkeypatch.setattr(heldout, "generate", generate)
    prompt = tokenizer("[user]How?[assistant]<think>\n").input_ids
    held = heldout.HeldOut((PROBLEM,), (tuple(prompt),), 4, Sampling(max_new_tokens=9), 8)
    with VerifierPool(1) as pool:
        found = heldout.evaluate_policy(LoadedModel("policy", tiny_model(), tokenizer, None), held, pool)
    assert found["heldout/pass@1"] == found["heldout/no_answer"] == found["heldout/cut_off"] == 0.25
    assert found["heldout/timeouts"] == found["heldout/errors"] == 0


def test_rewards_without_our_trainer() -> None:
    """Under another trainer they have the host's texts and prompts alone."""
    vote = MajorityVoteReward(lambda text, kind: text.strip() or None)
    vote.group_size = 4
    texts = ["a</think>7", "7", "b</think>7", "b</think>8"]
    assert vote(completions=texts) == [1, 1, 1, 0]
    assert vote(completions=texts, prompts=["Hi <think>\n"] * 4) == [1, 0, 1, 0]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>"}]
    assert vote(completions=texts, prompts=[chat] * 4) == [1, 0, 1, 0]
    parsed = [[{"role": "assistant", "content": text, "thinking": "so"}] for text in ("7", "", "7", "8")]
    assert vote(completions=parsed, prompts=[chat[:1]] * 4) == [1, 0, 1, 0]


def test_a_completion_that_was_cut_off_has_no_vote() -> None:
    with VerifierPool(1) as pool:
        vote = reward_function("majority_vote", pool)
    vote.group_size = 4
    said = ["so 7", "so 7", "so 7", "The answer is 8."]
    assert vote(said, answer=["8"] * 4, finishes=["length"] * 3 + ["stop"]) == [0, 0, 0, 1]
    assert vote(said, answer=["8"] * 4, finishes=["stop"] * 4) == vote(said, answer=["8"] * 4) == [1, 1, 1, 0]
    # An announced answer was given before the end.
    assert vote(said, answer=["8"] * 4, finishes=["length"] * 4) == [0, 0, 0, 1]
