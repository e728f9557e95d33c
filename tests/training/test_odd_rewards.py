"""Reward functions that return None or NaN, or their numbers in another form than a list."""

import asyncio
import math
import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.training.batch_checks import UnscoredWarning, check_finite
from antiphase.training.reward_functions import RewardWarning, checked_values
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trajectory import read_trajectory
from training_cases import parity, run, same, weights

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::antiphase.training.batch_checks.UnscoredWarning"),
]
PATTERNS = {"a row": [1], "a group": [0, 1, 2, 3], "all but one of a group": [4, 5, 6], "all": list(range(8))}
WEIGHT = 0.5


def without(places, value=None):
    """A reward function that gives `value` in place of its number at some places of the batch."""

    def some(completions, **_):
        return [value if place in places else reward for place, reward in enumerate(parity(completions))]

    return some


class Seen(CorRPOTrainer):
    """Keeps the measured ι, the rewards and the advantages of each batch."""

    def _calculate_rewards(self, *arguments):
        self.rewards = super()._calculate_rewards(*arguments)
        return self.rewards

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.kept = (self._measured.scores.inversion, self.rewards, output["advantages"])
        return output


def spread(values):
    """Values minus their mean, over their standard deviation; 0 for a single value."""
    return (values - values.mean()) / (values.std() + 1e-4) if len(values) > 1 else torch.zeros_like(values)


def by_hand(task, iota, combine, *, gdpo):
    """The advantages, from the rollouts that have a task reward and from no others."""
    found = torch.zeros(8, dtype=torch.float64)
    used = [place for place in range(8) if combine == "only" or not task[place].isnan()]
    for group in ([p for p in used if p < 4], [p for p in used if p >= 4]):
        if not group:
            continue
        reward, score = task[group].nan_to_num(0.0) * (combine != "only"), iota[group]
        assert score.isfinite().all()
        term = {"penalty": score - 1, "sum": score, "only": score, "centered": torch.zeros_like(score)}.get(combine)
        if combine == "gated":
            # Task rewards are 0 and 1, so the bound of a mixed group is half of the gap of 1, which is λ.
            term = torch.where(reward >= 0.5, score, torch.zeros_like(score))
        if gdpo:
            found[group] = spread(reward) * (combine != "only") + WEIGHT * spread(term)
        else:
            found[group] = spread(reward + WEIGHT * term)
    if gdpo and used:
        found[used] = spread(found[used])
    for group in ([p for p in used if p < 4], [p for p in used if p >= 4]):
        if group and combine == "centered":
            found[group] += WEIGHT * (iota[group] - iota[group].mean())
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("combine", "gdpo"),
    [
        *((combine, False) for combine in ("penalty", "sum", "centered", "gated", "only")),
        *((combine, True) for combine in ("penalty", "sum", "centered", "only")),
    ],
)
def test_rollouts_without_a_task_reward_influence_no_other(tmp_path, combine, gdpo, pattern):
    changes = {"multi_objective_aggregation": "normalize_then_sum"} if gdpo else {}
    trainer = run(
        tmp_path, trainer=Seen, rewards=[without(PATTERNS[pattern])], inversion_weight=WEIGHT,
        inversion_combine=combine, max_steps=1, **changes,
    )  # fmt: skip
    iota, rewards, advantages = trainer.kept
    task = rewards[:, 0].double()
    assert task.isnan().nonzero().flatten().tolist() == PATTERNS[pattern]
    # Of a single rollout there is no deviation, and TRL's is NaN, which becomes an advantage of 0.
    expected = by_hand(task, iota, combine, gdpo=gdpo)
    assert advantages.tolist() == pytest.approx(expected.tolist(), abs=2e-4)
    if combine != "only":
        assert advantages[task.isnan()].tolist() == [0.0] * len(PATTERNS[pattern])
    assert math.isfinite(trainer.state.log_history[0]["loss"])
    assert all(weight.isfinite().all() for weight in weights(trainer))


@pytest.mark.parametrize("pattern", ["a row", "all"])
@pytest.mark.parametrize("changes", [{}, {"multi_objective_aggregation": "normalize_then_sum"}], ids=["sum", "gdpo"])
def test_weight_0_is_the_host_with_none_and_nan(tmp_path, pattern, changes):
    """The host takes NaN as None; so does the trainer, and says it."""
    host = run(
        tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, rewards=[without(PATTERNS[pattern])], **changes
    )
    ours = run(tmp_path / "none", inversion_weight=0.0, rewards=[without(PATTERNS[pattern])], **changes)
    with pytest.warns(RewardWarning, match="'some' returned NaN"):
        nan = run(tmp_path / "nan", inversion_weight=0.0, rewards=[without(PATTERNS[pattern], math.nan)], **changes)
    assert same(host, ours)
    assert same(host, nan)


def test_an_async_function_may_return_none_and_nan(tmp_path):
    async def slow(completions, **_):
        await asyncio.sleep(0)
        return [None, math.nan, *parity(completions)[2:]]

    with pytest.warns(RewardWarning, match="'slow' returned NaN"):
        trainer = run(tmp_path, trainer=Seen, rewards=[slow], max_steps=1, inversion_weight=WEIGHT)
    assert trainer.kept[1][:2].isnan().all()
    assert trainer.kept[2][:2].tolist() == [0.0, 0.0]


class TestWhatIsSaid:
    def test_each_batch_with_unscored_rollouts_is_named_once(self, tmp_path):
        with pytest.warns(UnscoredWarning) as caught:
            run(tmp_path, rewards=[without([2, 5])], max_steps=2)
        texts = [str(warning.message) for warning in caught if warning.category is UnscoredWarning]
        assert [text.split(" They")[0] for text in texts] == [
            f"step {step}: every reward function returned None for 2 of 8 rollouts." for step in (0, 1)
        ]
        assert all("The first is the completion " in text and "to the prompt '" in text for text in texts)

    def test_one_function_that_scores_is_enough(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnscoredWarning)
            run(tmp_path / "two", rewards=[without(range(8)), parity], max_steps=1)
            run(tmp_path / "only", rewards=[without(range(8))], max_steps=1, inversion_combine="only")

    def test_the_host_does_not_say_it_again(self, tmp_path, caplog):
        """Also if inversion is undefined, so that no column has a number."""
        with pytest.warns(UnscoredWarning):
            run(tmp_path, rewards=[without([0])], max_steps=1, max_completion_length=2)
        assert "All reward functions returned None" not in caplog.text


class TestAccuracy:
    @pytest.mark.parametrize("pattern", ["a row", "a group", "all"])
    def test_it_is_over_the_judged_rollouts(self, tmp_path, pattern):
        trainer = run(tmp_path, trainer=Seen, rewards=[without(PATTERNS[pattern])], max_steps=1)
        task = trainer.kept[1][:, 0]
        expected = None if pattern == "all" else task[~task.isnan()].mean().item()
        assert read_trajectory(tmp_path)[0]["task/accuracy"] == expected

    @pytest.mark.parametrize("pattern", ["a row", "a group", "all"])
    def test_that_of_the_first_sample_too(self, tmp_path, pattern):
        first = []

        class Sampling(Seen):
            def _sample(self, rows, readers):
                first.append(super()._sample(rows, readers))
                return first[-1]

        run(tmp_path, trainer=Sampling, rewards=[without(PATTERNS[pattern])], max_steps=1, dynamic_sampling=1)
        task = first[0].columns[:, 0]
        expected = None if pattern == "all" else pytest.approx(task[~task.isnan()].mean().item())
        assert task.isnan().any()
        assert read_trajectory(tmp_path)[0]["sampling/accuracy"] == expected

    def test_halves_are_of_judged_rollouts(self, tmp_path):
        trainer = run(tmp_path, trainer=Seen, rewards=[without([0, 6])], max_steps=1)
        iota, rewards, _ = trainer.kept
        top = []
        for group in ([1, 2, 3], [4, 5, 7]):
            top += [rewards[p, 0].item() for p in group if iota[p] > iota[group].median()]
        assert read_trajectory(tmp_path)[0]["inversion/top_accuracy"] == pytest.approx(np.mean(top))

    def test_a_rollout_that_only_another_function_scored_is_not_accepted(self, tmp_path):
        """It trains on the other reward. The verifier did not judge it, so it has no bonus and no part in accuracy."""

        def length(completions, **_):
            return [float(len(text)) for text in completions]

        trainer = run(
            tmp_path, trainer=Seen, rewards=[without([1]), length], max_steps=1, inversion_combine="gated",
            inversion_weight=WEIGHT, reward_weights=[1.0, 0.01],
        )  # fmt: skip
        _, rewards, advantages = trainer.kept
        assert rewards[1, 0].isnan()
        assert rewards[1, 2] == 0
        assert advantages[1] != 0
        judged = rewards[:, 0][~rewards[:, 0].isnan()]
        assert read_trajectory(tmp_path)[0]["task/accuracy"] == pytest.approx(judged.mean().item())


FORMS = {
    "array": np.array,
    "float32 array": lambda values: np.array(values, dtype=np.float32),
    "array of truths": lambda values: np.array(values) > 0.5,
    "array of objects": lambda values: np.array(values, dtype=object),
    "tensor": torch.tensor,
    "bfloat16 tensor": lambda values: torch.tensor(values, dtype=torch.bfloat16),
    "tensor with gradient": lambda values: torch.tensor(values, requires_grad=True),
    "tuple": tuple,
    "generator": iter,
    "NumPy scalars": lambda values: [np.float32(value) for value in values],
    "tensors of one number": lambda values: [torch.tensor(value) for value in values],
    "whole numbers": lambda values: [int(value) for value in values],
    "decimals": lambda values: [Decimal(value) for value in values],
}


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_values_in_every_form_that_the_host_takes(self, form):
        assert checked_values("f", FORMS[form]([1.0, 0.0, 1.0]), 3) == [1.0, 0.0, 1.0]

    def test_series(self):
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        assert checked_values("f", pandas.Series([1.0, 0.0]), 2) == [1.0, 0.0]

    def test_none_among_objects(self):
        assert checked_values("f", np.array([None, 2.0], dtype=object), 2) == [None, 2.0]

    def test_an_array_trains_as_the_list_does(self, tmp_path):
        def array(completions, **_):
            return np.array(parity(completions))

        assert same(run(tmp_path / "list", max_steps=1), run(tmp_path / "array", rewards=[array], max_steps=1))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.array([[1.0], [0.0]]), r"returned \[1.0\] for completion 0; expected a number or None"),
            (np.float64(1.0), "returned float64; expected a list of 2 numbers"),
            (torch.tensor(1.0), "returned Tensor; expected a list"),
            ({0: 1.0, 1: 0.0}, "returned dict; expected a list"),
            ({0.0, 1.0}, "returned set; expected a list"),
            ("10", "returned str; expected a list"),
            (np.array([1.0]), "returned 1 rewards for 2 completions"),
            ([1.0, "0"], "returned '0' for completion 1"),
            ([1.0, np.inf], "returned inf for completion 1"),
            ([1.0, -1e39], r"returned -1e\+39 for completion 1. Return a finite number of float32"),
        ],
    )
    def test_what_no_trainer_could_use_is_refused(self, values, message):
        with pytest.raises(InvalidInputError, match=message):
            checked_values("f", values, 2)


def test_infinite_rewards_of_reward_models_are_refused():
    rewards = torch.tensor([[1.0, math.nan], [0.0, -math.inf]])
    check_finite(rewards[:, :1], ["first"])
    with pytest.raises(InvalidInputError, match="the reward 'second' is infinite"):
        check_finite(rewards, ["first", "second"])
