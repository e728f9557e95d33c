"""A score beside others: the rank analysis of covariance within problems, against least squares by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from antiphase.statistics.rank_covariance import aligned_ranks, within_problem_association


def by_hand(score, correct, problems, given=()):
    """The same by pandas and least squares: align, rank all, align again, fit on the given ranks, correlate."""
    frame = pd.DataFrame({"score": score, "correct": correct.astype(float), **dict(enumerate(given))})
    align = lambda table: table - table.groupby(np.array(problems)).transform("mean")  # noqa: E731
    ranks = align(frame.drop(columns="correct")).round(12).rank()
    x, *others = (align(ranks)[name].to_numpy() for name in ranks)
    y = align(frame)["correct"].to_numpy()
    if others:
        basis = np.stack(others, 1)
        x, y = (each - basis @ np.linalg.lstsq(basis, each, rcond=None)[0] for each in (x, y))
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


@pytest.fixture
def drawn():
    generator = np.random.default_rng(3)
    problems = np.repeat(np.arange(30), 6).tolist()
    correct = generator.random(180) < 0.5
    rival = correct + generator.normal(size=180)
    score = rival + 0.3 * generator.normal(size=180)
    # A difference between problems must play no part.
    shift = np.repeat(generator.normal(size=30) * 50, 6)
    return score + shift, rival - 3 * shift, correct, problems


def test_aligned_ranks_compare_only_within_problems(drawn) -> None:
    score, _, _, problems = drawn
    ranks = aligned_ranks(score, np.array(problems))
    for name in range(30):
        inside = np.array(problems) == name
        assert ranks[inside].sum() == pytest.approx(0, abs=1e-9)
        assert (stats.rankdata(ranks[inside]) == stats.rankdata(score[inside])).all()
    moved = score + 1000 * np.array(problems)
    np.testing.assert_allclose(aligned_ranks(moved, np.array(problems)), ranks)


def test_association_is_that_of_least_squares_on_ranks(drawn) -> None:
    score, rival, correct, problems = drawn
    alone = within_problem_association(score, correct, problems)
    beside = within_problem_association(score, correct, problems, [rival])
    mixed = [name for name in range(30) if 0 < correct[np.array(problems) == name].sum() < 6]
    assert alone.num_tokens == 6 * len(mixed)
    kept = np.isin(problems, mixed)
    rows = (score[kept], correct[kept], [name for name in problems if name in mixed])
    assert alone.value == pytest.approx(by_hand(*rows), abs=1e-12)
    assert beside.value == pytest.approx(by_hand(*rows, [rival[kept]]), abs=1e-12)
    assert alone.low > 0.2, "the score goes with correctness"
    assert beside.low < 0 < beside.high, "but only because of the rival"


def test_what_a_score_adds_is_found(drawn) -> None:
    _, rival, correct, problems = drawn
    own = correct + np.random.default_rng(5).normal(size=180)
    assert within_problem_association(own, correct, problems, [rival]).low > 0.1


def test_without_mixed_problems_or_with_a_copy_it_is_undefined() -> None:
    problems = np.repeat(np.arange(8), 3).tolist()
    score = np.random.default_rng(0).normal(size=24)
    sure = np.repeat([True, False], 12)
    assert math.isnan(within_problem_association(score, sure, problems).value)
    correct = np.arange(24) % 3 == 0
    assert math.isnan(within_problem_association(score, correct, problems, [2 * score + 1]).value)
    assert math.isnan(within_problem_association(np.zeros(24), correct, problems).value)
    assert math.isnan(within_problem_association(np.full(24, np.nan), correct, problems).value)


def test_rollouts_without_a_score_are_left_out(drawn) -> None:
    score, rival, correct, problems = drawn
    holes = np.where(np.arange(180) % 5 == 0, np.nan, rival)
    holes[7] = np.inf
    kept = np.isfinite(holes)
    whole = within_problem_association(score, correct, problems, [holes])
    part = within_problem_association(
        score[kept], correct[kept], [name for name, there in zip(problems, kept, strict=True) if there], [rival[kept]]
    )
    assert (whole.value, whole.low, whole.high) == (part.value, part.low, part.high)


@pytest.mark.parametrize("num_problems", [20, 60])
def test_intervals_cover_no_association(num_problems: int) -> None:
    """Score and correctness both follow the rival, and have nothing else in common: the interval should contain 0."""
    covered = []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        rival = generator.normal(size=num_problems * 4)
        correct = rival + generator.normal(size=len(rival)) > 0
        score = rival + generator.normal(size=len(rival))
        problems = np.repeat(np.arange(num_problems), 4).tolist()
        found = within_problem_association(score, correct, problems, [rival], num_resamples=200, seed=seed)
        covered.append(found.low <= 0 <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.99
