"""Completions of one token or none, and groups of another size at evaluation than in training."""

import math

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import data, parity, run, same, settings, weights

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
MODES = ("penalty", "sum", "centered", "gated", "only")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def rollouts(lengths):
    """A `rollout_func` whose completions have these lengths, the end token included."""

    def given(prompts, trainer):
        tokenizer = trainer.processing_class
        wrote = [
            [*(10 + (7 * place + j) % 90 for j in range(length - 1)), tokenizer.eos_token_id][:length]
            for place, length in enumerate(lengths)
        ]
        return {
            "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
            "completion_ids": wrote,
            "logprobs": None,
        }

    return {"rollout_func": given}


def place_of(completions, **_):
    return [float(place % 3) for place in range(len(completions))]


@pytest.mark.parametrize("combine", MODES)
@pytest.mark.parametrize(
    "lengths", [[1] + [12] * 7, [1] * 4 + [12] * 4, [1] * 8], ids=["one rollout", "one group", "all"]
)
def test_completions_that_are_only_an_end_token(tmp_path, combine, lengths):
    trainer = run(
        tmp_path, rewards=[place_of], extra=rollouts(lengths), max_steps=2, inversion_combine=combine,
        inversion_weight=0.5,
    )  # fmt: skip
    rows = read_trajectory(tmp_path)
    short = sum(length == 1 for length in lengths)
    for row in rows:
        assert row["inversion/undefined"] == short / 8
        assert row["rollout/length"] == sum(lengths) / 8
        assert row["rollout/truncated"] == 0
        assert (row["inversion/mean"] is None) == (short == 8)
        assert math.isfinite(row["rollout/entropy"])
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)
    assert all(weight.isfinite().all() for weight in weights(trainer))


def test_a_batch_without_any_score_trains_as_the_host_does(tmp_path):
    options = {"rewards": [place_of], "extra": rollouts([1] * 8)}
    host = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, **options)
    ours = run(tmp_path / "ours", inversion_weight=0.5, inversion_combine="penalty", **options)
    assert same(host, ours)
    assert any(not torch.equal(a, b) for a, b in zip(weights(ours), tiny_model().parameters(), strict=True))


@pytest.mark.parametrize("combine", MODES)
def test_a_limit_of_one_token(tmp_path, combine):
    trainer = run(tmp_path, max_completion_length=1, inversion_combine=combine, inversion_weight=0.5, max_steps=1)
    row = read_trajectory(tmp_path)[0]
    assert (row["rollout/length"], row["inversion/undefined"]) == (1, 1)
    assert math.isfinite(trainer.state.log_history[0]["loss"])
    assert all(weight.isfinite().all() for weight in weights(trainer))


@pytest.mark.parametrize("lengths", [[12, 0] + [12] * 6, [0] * 8])
def test_completions_without_a_token_are_refused(tmp_path, lengths):
    """TRL fails on them with an IndexError."""
    with pytest.raises(InvalidInputError, match=r"without a token for prompt \d, and TRL cannot train on it"):
        run(tmp_path, extra=rollouts(lengths))


def test_the_wrong_number_of_completions_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="returned 7 completion_ids for 8 prompts"):
        run(tmp_path, extra=rollouts([12] * 7))


def test_completions_of_which_a_tool_wrote_all(tmp_path):
    """They have no token of the policy, so no score and no length."""
    given = rollouts([12] * 8)["rollout_func"]

    def of_a_tool(prompts, trainer):
        return {**given(prompts, trainer), "env_mask": [[0] * 12, *[[1] * 12] * 7]}

    trainer = run(tmp_path, rewards=[place_of], extra={"rollout_func": of_a_tool}, max_steps=1, inversion_weight=0.5)
    row = read_trajectory(tmp_path)[0]
    assert (row["inversion/undefined"], row["rollout/length"]) == (1 / 8, 12 * 7 / 8)
    assert math.isfinite(trainer.state.log_history[0]["loss"])


class TestEvaluation:
    def made(self, folder, **changes):
        return CorRPOTrainer(
            tiny_model(),
            [parity],
            CorRPOConfig(**settings(folder, inversion_weight=0.5, **changes)),
            train_dataset=data(),
            eval_dataset=data().select(range(4)),
            processing_class=byte_tokenizer(),
        )

    @pytest.mark.parametrize("combine", MODES)
    @pytest.mark.parametrize(("group", "batch"), [(1, 1), (1, 4), (2, 4), (8, 8)])
    def test_groups_of_another_size_than_in_training(self, tmp_path, combine, group, batch):
        trainer = self.made(
            tmp_path, inversion_combine=combine, num_generations_eval=group, per_device_eval_batch_size=batch
        )
        found = trainer.evaluate()
        assert math.isfinite(found["eval_loss"])
        assert math.isfinite(found["eval_inversion/mean"])
        assert 0 <= found["eval_task/accuracy"] <= 1
        if group == 1:
            # One rollout has neither a spread nor a half above the median of its group, and it ties with itself.
            assert found["eval_task/within_group_std"] is None
            assert found["eval_inversion/top_accuracy"] is None
            assert found["eval_task/tied_groups"] == found["eval_frac_reward_zero_std"] == 1

    def test_groups_of_one_with_rewards_that_are_normalised_apart(self, tmp_path):
        trainer = self.made(
            tmp_path, num_generations_eval=1, per_device_eval_batch_size=4,
            multi_objective_aggregation="normalize_then_sum",
        )  # fmt: skip
        assert math.isfinite(trainer.evaluate()["eval_loss"])

    def test_an_evaluation_between_steps_leaves_the_training_alone(self, tmp_path):
        """Training goes on with its own group size."""
        trainer = self.made(
            tmp_path, num_generations_eval=1, per_device_eval_batch_size=4, eval_strategy="steps", eval_steps=1,
            inversion_combine="centered", max_steps=2,
        )  # fmt: skip
        trainer.train()
        rows = read_trajectory(tmp_path)
        assert [row["kind"] for row in rows] == ["step", "eval", "step", "eval"]
        assert all(row["task/within_group_std"] is not None for row in rows if row["kind"] == "step")
        assert all(weight.isfinite().all() for weight in weights(trainer))
