"""Equal rollouts of a batch are measured once, and have the same facts as if each had been measured."""

import math

import pytest
import torch

import antiphase.inversion.inversion_reward as module
from antiphase.errors import InvalidInputError
from antiphase.inversion.equal_rollouts import first_of_equals
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model

PROMPTS = [[5, 6], [5, 6], [5, 6], [7], [7], [5, 6]]
ONE, TWO = [9 + 7 * j % 80 for j in range(14)], [11 + 5 * j % 70 for j in range(11)]
COMPLETIONS = [ONE, TWO, ONE, ONE, ONE, TWO]


@pytest.fixture
def counted(monkeypatch):
    """The number of rows of each measurement."""
    rows = []

    def counting(model, batch, *args, **kwargs):
        rows.append(len(batch))
        return token_signals(model, batch, *args, **kwargs)

    monkeypatch.setattr(module, "token_signals", counting)
    return rows


def test_rollouts_are_equal_in_prompt_completion_and_measured_tokens():
    assert first_of_equals(TokenBatch.from_ids(PROMPTS, COMPLETIONS)) == [0, 1, 0, 3, 3, 1]
    generated = [[1] * len(row) for row in COMPLETIONS]
    generated[2][3] = 0
    assert first_of_equals(TokenBatch.from_ids(PROMPTS, COMPLETIONS, generated=generated)) == [0, 1, 2, 3, 3, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "token"},
        {"unit": "step", "splitter": "fixed:2", "min_steps": 4, "step_strength": "joint"},
        {"unit": "token", "estimator": "full", "targets_per_rollout": 5, "min_tokens": 3},
    ],
    ids=["token", "joint", "drawn targets"],
)
def test_the_facts_are_those_of_every_rollout(counted, monkeypatch, changes):
    model, tokenizer, reward = tiny_model().double(), byte_tokenizer(), InversionReward(InversionSpec(**changes))
    rollouts = RolloutIds(PROMPTS, COMPLETIONS)
    found = reward.measure(model, rollouts, tokenizer, by_token=True)
    monkeypatch.setattr(module, "first_of_equals", lambda batch: list(range(len(batch))))
    truth = reward.measure(model, rollouts, tokenizer, by_token=True)
    assert counted == [3, 6]
    for left, right in ((found.scores, truth.scores), (found.tokens, truth.tokens), (found, truth)):
        for name, value in vars(left).items():
            if isinstance(value, torch.Tensor) and name != "seconds":
                torch.testing.assert_close(value, getattr(right, name), rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)
    for unit, values in found.scores.by_unit.items():
        torch.testing.assert_close(values, truth.scores.by_unit[unit], equal_nan=True)
    assert any(math.isfinite(value) for value in found.scores.correlation.tolist())


def test_different_rollouts_are_measured_as_they_are(counted):
    reward = InversionReward(InversionSpec(unit="token"))
    reward.measure(tiny_model(), RolloutIds([[5], [5]], [ONE, TWO]), byte_tokenizer())
    assert counted == [2]


def test_an_error_names_the_row_of_the_whole_batch(counted):
    reward = InversionReward(InversionSpec(unit="token"))
    with pytest.raises(InvalidInputError, match="row 3: token id 300"):
        reward.measure(tiny_model(), RolloutIds([[5]] * 4, [ONE, ONE, ONE, [300, *ONE]]), byte_tokenizer())
