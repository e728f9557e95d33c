"""Dynamic sampling: groups of tied task rewards are replaced by groups of further prompts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.training.dynamic_sampling import (
    further_rows,
    groups_to_sample,
    groups_without_signal,
    judged_rewards,
)
from antiphase.training.reward_functions import MajorityVoteReward, SelfCertaintyReward
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import parity, run, same, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*:UserWarning"),
]
ROOT = Path(__file__).parents[2]
# The groups of a prompt that begins with `e` (easy) are all right, and those of one with `h` (hard) are all wrong.
PROMPTS = [f"e{i}" for i in range(6)] + [f"h{i}" for i in range(6)] + [f"m{i}" for i in range(12)]


def graded(prompts, completion_ids, **_):
    """A verifier whose ties are known: of a medium prompt, every second rollout is right, as their lengths tell."""
    return [
        {"e": 1.0, "h": 0.0}.get(prompt[0], len(ids) % 2 * 1.0)
        for prompt, ids in zip(prompts, completion_ids, strict=True)
    ]


def given(prompts, trainer):
    """Write completions that depend on prompt, place and step, so that every run and layout has the same ones."""
    state = trainer.accelerator
    first = state.process_index * len(prompts)
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = [
        [3 + (31 * sum(p.encode()) + 17 * ((first + i) % 4) + 7 * j + 13 * trainer.state.global_step * j) % 250
         for j in range(9 + (first + i) % 4)]
        for i, p in enumerate(prompts)
    ]  # fmt: skip
    return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None, "note": [f"note of {p}" for p in prompts]}


class Seen(CorRPOTrainer):
    """A trainer that keeps what TRL's loss gets, and the rewards by their columns."""

    def __init__(self, *positional, **named):
        super().__init__(*positional, **named)
        self.batches, self.tables, self.scored, self.measured = [], [], [], 0

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        prompts = self.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
        self.batches.append((prompts, output))
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.scored.append((inputs, prompts, completions, completion_ids_list))
        self.tables.append(super()._calculate_rewards(inputs, prompts, completions, completion_ids_list))
        return self.tables[-1]

    def _measure(self, rollouts):
        self.measured += len(rollouts.completion_ids)
        return super()._measure(rollouts)


def trained(folder, prompts=PROMPTS, rewards=None, trainer=Seen, train=True, rollout_func=given, **changes):
    own = {"dynamic_sampling": 3, "shuffle_dataset": False, "inversion_weight": 0.5, "max_steps": 2}
    if trainer is GRPOTrainer:
        own = {"shuffle_dataset": False, "max_steps": 2}
    config = GRPOConfig if trainer is GRPOTrainer else CorRPOConfig
    made = trainer(
        tiny_model(), rewards or [graded], config(**settings(folder, config, **{**own, **changes})),
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": ["1"] * len(prompts)}),
        processing_class=byte_tokenizer(), rollout_func=rollout_func,
    )  # fmt: skip
    if train:
        made.train()
    return made


class TestDecisions:
    def test_groups(self):
        rewards = torch.tensor([1.0, 1, 1, 0, 0, 0, math.nan, 1, math.nan, math.nan])
        assert groups_without_signal(rewards, 2).tolist() == [True, False, True, True, True]

    def test_the_verifier_judges_if_it_is_trained_on(self):
        columns = torch.tensor([[1.0, 0.1], [1.0, 0.9], [math.nan, math.nan]])
        assert judged_rewards(columns, torch.tensor([1.0, 1.0]), 0)[:2].tolist() == [1, 1]
        assert judged_rewards(columns, torch.tensor([0.0, 2.0]), 0)[:2].tolist() == pytest.approx([0.2, 1.8])
        assert judged_rewards(columns, torch.tensor([1.0, 2.0]), None)[2].isnan()

    @pytest.mark.parametrize(("size", "processes"), [(4, 1), (4, 2), (3, 2), (6, 4), (2, 8), (5, 3)])
    def test_every_process_gets_as_many_rollouts(self, size, processes):
        for missing in range(1, 20):
            groups = groups_to_sample(missing, size, processes)
            assert groups * size % processes == 0
            assert 0 <= groups - missing < processes

    def test_further_prompts(self):
        rows = [{"prompt": text} for text in "abcdefgha"]
        drawn = [row["prompt"] for row in further_rows(rows, [], seed=1, step=2, generation=0)]
        assert sorted(drawn) == list("abcdefgh")
        assert drawn == [row["prompt"] for row in further_rows(rows, [], seed=1, step=2, generation=0)]
        for other in ({"seed": 2}, {"step": 3}, {"generation": 1}):
            place = {"seed": 1, "step": 2, "generation": 0, **other}
            assert drawn != [row["prompt"] for row in further_rows(rows, [], **place)]


def test_tied_groups_are_replaced(tmp_path):
    """The first two steps have two easy prompts each, so both groups tie whatever the policy writes."""
    trainer = trained(tmp_path)
    for prompts, output in trainer.batches:
        assert {prompt[0] for prompt in prompts} == {"m"}
        assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 8, 4))
        assert len(set(prompts)) == 2
        assert output["advantages"].view(2, 4).std(1).min() > 0.1
    assert trainer.measured == 16
    rows = [row for row in read_trajectory(tmp_path) if row["kind"] == "step"]
    for row in rows:
        assert 1 <= row["sampling/rounds"] <= 3
        assert row["sampling/prompts"] >= 4
        # Every sampled group but the two that are trained on was tied and dropped.
        assert row["sampling/tied"] == pytest.approx(1 - 2 / row["sampling/prompts"])
        assert row["task/tied_groups"] == 0
        assert row["sampling/accuracy"] == 1
        # Each completion has 9 to 12 tokens by its place, so every group has 42.
        assert row["sampling/dropped_tokens"] == 42 * (row["sampling/prompts"] - 2)
    assert trainer.state.num_input_tokens_seen == sum((42 + 8) * row["sampling/prompts"] for row in rows) + sum(
        4 * sum(len(p) - 2 for p in set(prompts)) for prompts, _ in trainer.batches
    )
    assert trainer.state.log_history[0]["sampling/rounds"] == rows[0]["sampling/rounds"]


def test_prompts_rewards_and_completions_stay_together(tmp_path):
    trainer = trained(tmp_path, dynamic_sampling=9)
    for (inputs, prompts, _, ids), table in zip(trainer.scored, trainer.tables, strict=True):
        assert [len(row) for row in ids] == [9, 10, 11, 12] * 2
        # The first token of a completion tells its prompt and its place in the group.
        firsts = [3 + (31 * sum(prompt.encode()) + 17 * (i % 4)) % 250 for i, prompt in enumerate(prompts)]
        assert [row[0] for row in ids] == firsts
        assert [row["prompt"] for row in inputs] == prompts
        assert [row["note"] for row in inputs] == [f"note of {prompt}" for prompt in prompts]
        assert table[:, 0].tolist() == graded(prompts, ids)


def test_the_summed_reward_does_not_judge(tmp_path):
    """The inversion term differs within the tied groups, so the summed reward would have kept all of them."""
    off = trained(tmp_path / "off", dynamic_sampling=0, max_steps=1)
    prompts, output = off.batches[0]
    assert {prompt[0] for prompt in prompts} == {"e"}
    total = off.tables[0] @ torch.tensor([1.0, 0.5])
    assert not groups_without_signal(total, 4).any()
    assert output["advantages"].view(2, 4).std(1).min() > 0.1
    assert not any(key.startswith("sampling/") for key in read_trajectory(tmp_path / "off")[0])
    on = trained(tmp_path / "on", max_steps=1)
    assert {prompt[0] for prompt in on.batches[0][0]} == {"m"}


def test_at_the_bound_the_batch_keeps_tied_groups(tmp_path):
    hard = [f"h{i}" for i in range(20)]
    trainer = trained(tmp_path, hard, dynamic_sampling=2, max_steps=1)
    prompts, _ = trainer.batches[0]
    assert prompts == ["h0"] * 4 + ["h1"] * 4
    row = read_trajectory(tmp_path)[0]
    assert [row[f"sampling/{name}"] for name in ("rounds", "prompts", "tied")] == [2, 6, 1]
    assert row["task/tied_groups"] == 1


def test_the_end_of_the_data_ends_the_rounds(tmp_path):
    trainer = trained(tmp_path, ["h0", "h1", "h2"], dynamic_sampling=50, max_steps=1)
    assert trainer.batches[0][0] == ["h0"] * 4 + ["h1"] * 4
    row = read_trajectory(tmp_path)[0]
    assert [row["sampling/rounds"], row["sampling/prompts"]] == [1, 3]


def test_without_ties_and_weight_0_it_is_the_host_bitwise(tmp_path):
    medium = [f"m{i}" for i in range(8)]
    ours = trained(tmp_path / "ours", medium, inversion_weight=0.0)
    host = trained(tmp_path / "host", medium, trainer=GRPOTrainer)
    assert same(ours, host)
    assert [row["sampling/rounds"] for row in read_trajectory(tmp_path / "ours")] == [0, 0]


def test_with_weight_0_it_is_plain_grpo_on_the_batch_that_it_chose(tmp_path):
    """DAPO: TRL alone, on the prompts that dynamic sampling chose, ends at bitwise the same weights."""
    ours = trained(tmp_path / "ours", inversion_weight=0.0)
    chosen = [prompt for prompts, _ in ours.batches for prompt in prompts[::4]]
    host = trained(tmp_path / "host", chosen, trainer=GRPOTrainer)
    assert same(ours, host)


@pytest.mark.parametrize(
    "changes",
    [
        {"inversion_combine": "penalty"}, {"inversion_combine": "centered"}, {"inversion_combine": "gated"},
        {"scale_rewards": "batch"}, {"multi_objective_aggregation": "normalize_then_sum"}, {"loss_type": "dr_grpo"},
        {"mask_truncated_completions": True}, {"num_iterations": 2}, {"steps_per_generation": 2},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 1},
    ],
)  # fmt: skip
def test_it_goes_with_every_mode(tmp_path, changes):
    trainer = trained(tmp_path, dynamic_sampling=9, **changes)
    assert trainer.state.global_step == 2
    assert all({prompt[0] for prompt in prompts} == {"m"} for prompts, _ in trainer.batches)


def test_with_the_hosts_own_generation_and_rewards_of_every_kind(tmp_path):
    vote = MajorityVoteReward(lambda text, kind: text[:1] or None)
    calls = []

    def logging(completions, log_extra, log_metric, **_):
        calls.append(len(completions))
        log_extra("place", list(range(len(completions))))
        log_metric("calls", 1.0)
        return [None if i % 3 else 0.5 for i in range(len(completions))]

    trainer = trained(
        tmp_path, rewards=[parity, vote, SelfCertaintyReward(), logging], rollout_func=None, max_steps=3,
        reward_weights=[1.0, 0.5, 0.1, 1.0], log_completions=True, num_completions_to_print=0, max_completion_length=6,
        prompts=[f"p{i}" for i in range(200)], dynamic_sampling=10,
    )  # fmt: skip
    rows = [row for row in read_trajectory(tmp_path) if row["kind"] == "step"]
    assert sum(calls) == sum(4 * row["sampling/prompts"] for row in rows)
    assert trainer.measured == 24
    for (_, prompts, completions, _), table in zip(trainer.scored, trainer.tables, strict=True):
        assert table[:, 0].tolist() == parity(completions)
        assert table[:, 2].isfinite().all()
        assert len(prompts) == 8
    assert len(trainer._logs["extra"]["place"]) == 8


def test_evaluation_never_samples_again(tmp_path):
    trainer = trained(tmp_path, train=False)
    counts = []
    trainer.read_completions = lambda *arguments: counts.append(CorRPOTrainer.read_completions(trainer, *arguments))
    metrics = trainer.evaluate(Dataset.from_dict({"prompt": ["e1", "h1"], "answer": ["1", "1"]}))
    assert len(counts) == 1
    assert not any("sampling" in key for key in metrics)


class _StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= 3


@pytest.mark.parametrize("rollout_func", [given, None], ids=["given", "generated"])
def test_a_resumed_run_draws_the_same_prompts(tmp_path, rollout_func):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "rollout_func": rollout_func}
    whole = trained(tmp_path / "whole", **options)
    cut = trained(tmp_path / "cut", train=False, **options)
    cut.add_callback(_StopAt())
    cut.train()
    again = trained(tmp_path / "cut", train=False, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert same(whole, again)
    assert [prompts for prompts, _ in again.batches] == [prompts for prompts, _ in whole.batches[2:]]
    rows = [
        [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in read_trajectory(tmp_path / name)
        ]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]
    assert sum(row["sampling/rounds"] for row in rows[0]) >= 3
    other = trained(tmp_path / "cut", train=False, **options, dynamic_sampling=4)
    with pytest.raises(InvalidInputError, match="dynamic_sampling was 3, is 4"):
        other.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))


class TestRefused:
    @pytest.mark.parametrize("value", [-1, True])
    def test_what_is_no_number_of_rounds(self, tmp_path, value):
        with pytest.raises(InvalidInputError, match=f"dynamic_sampling must be 0 or a positive .* got {value}"):
            CorRPOConfig(**settings(tmp_path, dynamic_sampling=value))

    @pytest.mark.parametrize("value", [0.5, math.nan, "3"])
    def test_what_has_another_type(self, tmp_path, value):
        """The field is set after the construction, since the tests check types at every call."""
        config = CorRPOConfig(**settings(tmp_path))
        config.dynamic_sampling = value
        with pytest.raises(InvalidInputError, match=f"dynamic_sampling must be 0 or a positive .* got {value!r}"):
            config.__post_init__()

    def test_streamed_data(self, tmp_path):
        stream = Dataset.from_dict({"prompt": ["a", "b"]}).to_iterable_dataset()
        config = CorRPOConfig(**settings(tmp_path, dynamic_sampling=2))
        with pytest.raises(InvalidInputError, match="Load the data set without streaming=True"):
            CorRPOTrainer(tiny_model(), [parity], config, train_dataset=stream, processing_class=byte_tokenizer())

    def test_nothing_that_can_tie(self, tmp_path):
        with pytest.raises(InvalidInputError, match="read from the policy's distributions always differ"):
            run(tmp_path, rewards=[SelfCertaintyReward()], train=False, dynamic_sampling=2)
        with pytest.raises(InvalidInputError, match="rewards of weight 0 do not count"):
            run(
                tmp_path, rewards=[parity, SelfCertaintyReward()], reward_weights=[0.0, 1.0], train=False,
                dynamic_sampling=2,
            )  # fmt: skip
        with pytest.raises(InvalidInputError, match="'only' trains without a task reward"):
            run(tmp_path, train=False, dynamic_sampling=2, inversion_combine="only")

    def test_tools(self, tmp_path):
        def look(word: str) -> str:
            """Look a word up.

            Args:
                word: the word.
            """
            return word

        trainer = run(tmp_path, train=False, dynamic_sampling=2)
        trainer.tools = [look]
        with pytest.raises(InvalidInputError, match="does not work with tools or environments"):
            trainer.check_dynamic_sampling()


DISTRIBUTED = """
import json, os, sys, torch
sys.path[:0] = [{tests!r}, {tests!r} + "/training"]
from pathlib import Path
import test_dynamic_sampling as cases
world = int(os.environ.get("WORLD_SIZE", 1))
trainer = cases.trained(Path({out!r}), train=False, dynamic_sampling=9, max_steps=3, num_generations={size},
    per_device_train_batch_size={rows} // world, inversion_combine="centered",
    token_advantages="gtpo")
trainer.train()
if trainer.accelerator.is_main_process:
    torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), {out!r} + "/weights.pt")
    Path({out!r}, "tables.json").write_text(json.dumps([table.tolist() for table in trainer.tables]))
"""


@pytest.mark.slow
def test_two_processes_choose_the_same_batch_as_one(tmp_path):
    """Both layouts end with the same rewards and weights. Of the 3 groups of 6, one lies on both processes.

    The advantages of tokens (GTPO) need the entropies of a whole group, so they are part of this test.
    """
    size, rows = 6, 18
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONWARNINGS"] = "ignore"
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        out = tmp_path / name
        out.mkdir()
        script = out / "script.py"
        script.write_text(DISTRIBUTED.format(tests=str(ROOT / "tests"), out=str(out), size=size, rows=rows))
        done = subprocess.run(
            [sys.executable, *launcher, str(script)],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    tables = [torch.tensor(json.loads((tmp_path / name / "tables.json").read_text())) for name in ("one", "two")]
    assert torch.allclose(tables[0], tables[1], atol=1e-4, equal_nan=True)
    assert not groups_without_signal(tables[1][-1][:, 0], size).any()
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    moved = max((one[name] - value).abs().max().item() for name, value in tiny_model().state_dict().items())
    apart = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert apart < 0.05 * moved
    left, right = (read_trajectory(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(left, right, strict=True):
        for key in a:
            if key not in ("kind", "inversion/seconds") and a[key] is not None:
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-4), key
    assert sum(row["sampling/rounds"] for row in right) >= 2
