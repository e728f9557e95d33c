"""Groups in any order, incomplete groups and padding. These tests need no verl."""

import math

import pytest
import torch

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.verl.batch_terms import batch_terms, check_sessions, with_term
from antiphase.verl.fact_columns import from_columns, num_columns, to_columns


def facts_of(inversions):
    columns = torch.rand(len(inversions), num_columns(), dtype=torch.float64)
    columns[:, 6:8] = 20.0
    columns[:, 0] = torch.tensor(inversions, dtype=torch.float64)
    return columns


def test_facts_come_back_as_they_were_sent():
    columns = facts_of([0.5, math.nan, -0.25])
    facts = from_columns(columns)
    assert torch.equal(to_columns(facts).nan_to_num(9), columns.nan_to_num(9))
    assert facts.scores.num_items.tolist() == [20, 20, 20]
    assert set(facts.scores.by_unit) == {"token", "type", "step"}


def test_a_row_that_was_not_measured_has_no_tokens():
    facts = from_columns(torch.full((1, num_columns()), math.nan, dtype=torch.float64))
    assert facts.scores.num_tokens.tolist() == [0]
    assert bool(facts.scores.inversion.isnan())


def test_the_penalty_of_mixed_incomplete_and_padded_groups_by_hand():
    """R = r − λ (1 + ρ) = r + λ (ι − 1); an undefined ι counts as the mean of its group."""
    inversion = [0.5, math.nan, -0.5, 0.1, math.nan, 0.2]
    task = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    groups, padding = ["a", "b", "a", "b", "pad", "c"], [False] * 4 + [True, False]
    reward = InversionReward(InversionSpec(combine="penalty", unit="token", weight=0.5))
    terms = batch_terms(reward, facts_of(inversion), task, groups, padding, weight=0.5)
    assert terms.reward.tolist() == pytest.approx([-0.25, -0.45, -0.75, -0.45, 0.0, -0.4])
    assert terms.advantage.tolist() == [0.0] * 6
    assert terms.metrics["task/mean"] == 0.5
    assert terms.metrics["inversion/undefined"] == 0.25


def test_only_replaces_the_task_reward():
    reward = InversionReward(InversionSpec(combine="only", unit="token"))
    terms = batch_terms(reward, facts_of([0.5, -0.5]), torch.tensor([1.0, 0.0]), ["a", "a"], [False] * 2, weight=0.1)
    assert (torch.tensor([1.0, 0.0]) + terms.reward).tolist() == pytest.approx([0.05, -0.05])


def test_centered_adds_to_the_advantage_alone():
    reward = InversionReward(InversionSpec(combine="centered", unit="token"))
    terms = batch_terms(reward, facts_of([0.5, -0.1]), torch.tensor([1.0, 0.0]), ["a", "a"], [False] * 2, weight=0.1)
    assert terms.reward.tolist() == [0.0, 0.0]
    assert terms.advantage.tolist() == pytest.approx([0.03, -0.03])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(wrong):
    reward = InversionReward(InversionSpec(unit="token"))
    with pytest.raises(InvalidInputError, match="row 1 has the task reward"):
        batch_terms(reward, facts_of([0.1, 0.2]), torch.tensor([1.0, wrong]), ["a", "a"], [False] * 2, weight=0.1)


def test_an_agent_loop_with_several_outputs_is_refused():
    keys = ["a_b_0_0", "a_b_1_0", "c_0_0", "pad_0_0", "pad_0_1"]
    check_sessions(keys, [False] * 3 + [True] * 2)
    with pytest.raises(InvalidInputError, match=r"several outputs for one rollout \(session a_b_1\)"):
        check_sessions([*keys, "a_b_1_1"], [False] * 3 + [True] * 2 + [False])


def test_the_term_goes_to_the_last_token():
    rows = [torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5])]
    changed = with_term(rows, torch.tensor([-0.25, 0.5]))
    assert [row.tolist() for row in changed] == [[0.0, 0.0, 0.75], [1.0]]
    assert rows[0].tolist() == [0.0, 0.0, 1.0]
