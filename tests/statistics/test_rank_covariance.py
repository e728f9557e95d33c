"""A score beside others: the rank analysis of covariance within problems, against least squares by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from antiphase.statistics.rank_covariance import aligned_ranks, features, within_problem_association


def by_hand(score, correct, problems, given=()):
    """The same by pandas and least squares: align, rank all, align again, fit on the given features, correlate."""
    names = np.array(problems)
    align = lambda each: each - each.groupby(names).transform("mean")  # noqa: E731
    whole = lambda each, like: (each / (1e-5 * like[like != 0].abs().median())).round()  # noqa: E731
    rank_aligned = lambda each: align(whole(align(each), each).rank())  # noqa: E731
    x, y = rank_aligned(pd.Series(score)).to_numpy(), align(pd.Series(correct.astype(float))).to_numpy()
    others = []
    for other in map(pd.Series, given):
        pooled = whole(other, other).rank() / len(other)
        normal = pd.Series(stats.norm.ppf(pooled - 0.5 / len(other)))
        within = whole(align(other), other).groupby(names).rank(pct=True)
        others += [rank_aligned(other), rank_aligned(normal), align(pooled), align(pooled**2), align(within)]
        others.append(rank_aligned(align(other) / other.groupby(names).transform("std", ddof=0)))
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
    whole = (score * 10).round()
    moved = whole + 100 * np.array(problems)
    np.testing.assert_allclose(aligned_ranks(moved, np.array(problems)), aligned_ranks(whole, np.array(problems)))


def test_association_is_that_of_least_squares_on_ranks(drawn) -> None:
    score, rival, correct, problems = drawn
    alone = within_problem_association(score, correct, problems)
    beside = within_problem_association(score, correct, problems, [rival])
    mixed = [name for name in range(30) if 0 < correct[np.array(problems) == name].sum() < 6]
    assert alone.num_tokens == 6 * len(mixed)
    kept = np.isin(problems, mixed)
    rows = (score[kept], correct[kept], [name for name in problems if name in mixed])
    assert alone.value == pytest.approx(by_hand(*rows), abs=1e-12)
    assert beside.value == pytest.approx(by_hand(*rows, [rival[kept]]), abs=1e-9)
    assert beside.num_problems == len(mixed)
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


def test_noise_of_rounding_is_no_score(drawn) -> None:
    score, _, correct, problems = drawn
    generator = np.random.default_rng(0)
    constant = 3.0 * (1 + 1e-7 * generator.normal(size=180))
    assert (aligned_ranks(constant, np.array(problems)) == 0).all()
    assert math.isnan(within_problem_association(constant, correct, problems).value)
    alone = within_problem_association(score, correct, problems)
    beside = within_problem_association(score, correct, problems, [constant])
    assert (beside.value, beside.low) == pytest.approx((alone.value, alone.low))
    # A length is a whole number. Its differences are not noise, even if it is long.
    long = 20_000.0 + np.tile(np.arange(6.0), 30)
    assert (aligned_ranks(long, np.array(problems))[:6] == aligned_ranks(long - 20_000, np.array(problems))[:6]).all()


def test_features_that_repeat_one_another_change_nothing() -> None:
    """With two values, all features are the same series but for a factor; the result is the plain partial."""
    generator = np.random.default_rng(1)
    problems = np.repeat(np.arange(40), 2)
    correct = np.tile([True, False], 40)
    rival = np.tile([1.0, 0.0], 40) * generator.choice([-1, 1], 40).repeat(2)
    rival = (rival - rival.reshape(40, 2).min(1).repeat(2)).round()
    score = generator.normal(size=80) + correct
    columns = np.stack(features(rival, problems))
    assert np.linalg.matrix_rank(columns) == 1
    found = within_problem_association(score, correct, problems.tolist(), [rival])
    assert found.value == pytest.approx(by_hand(score, correct, problems.tolist(), [rival]), abs=1e-9)
    assert found.low < found.value < found.high


def test_an_interval_needs_defined_resamples() -> None:
    """The score varies in one problem of ten. A resample that lacks this problem has no correlation."""
    problems = np.repeat(np.arange(10), 4)
    correct = np.tile([True, True, False, False], 10)
    score = np.where(problems == 3, correct + 1.0 + np.tile([0.0, 0.5, 0.0, 0.2], 10), 1.0)
    found = within_problem_association(score, correct, problems.tolist())
    assert found.value > 0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_only_problems_that_count_are_counted(drawn) -> None:
    score, rival, correct, problems = drawn
    names = np.array(problems)
    infinite = np.where(names < 12, np.inf, rival)
    mixed = [name for name in range(12, 30) if 0 < correct[names == name].sum() < 6]
    assert within_problem_association(score, correct, problems, [infinite]).num_problems == len(mixed)
    seeds = list(zip(problems, np.tile([0, 1], 90).tolist(), strict=True))
    of_seeds = within_problem_association(score, correct, seeds, [rival], clusters=problems)
    mixed_seeds = {name for name in range(30) for seed in (0, 1) if 0 < correct[names == name][seed::2].sum() < 3}
    assert of_seeds.num_problems == len(mixed_seeds)


def normal(generator, problems):
    rival = generator.normal(size=len(problems))
    return rival + generator.normal(size=len(rival)), rival + generator.normal(size=len(rival)), rival


def heavy_tails(generator, problems):
    rival = generator.standard_t(2, size=len(problems))
    return rival + generator.standard_t(2, size=len(rival)), rival + generator.normal(size=len(rival)), rival


def lengths(generator, problems):
    """The rival is a log-normal length. The score and the correctness depend on its logarithm."""
    place = generator.normal(size=problems.max() + 1)[problems]
    inside = generator.normal(size=len(problems))
    length = np.round(np.exp(5 + 0.5 * place + 0.5 * inside))
    noise, luck = generator.normal(size=(2, len(problems)))
    return np.log(length) / 0.5 + 0.5 * noise, inside + luck, length


def exponential(generator, problems):
    shift, rival = generator.normal(size=problems.max() + 1)[problems], generator.normal(size=len(problems))
    noise, luck = generator.normal(size=(2, len(problems)))
    return rival + shift + 0.5 * noise, rival + luck, np.exp(rival + shift)


def scaled_score(generator, problems):
    scale, rival = np.exp(generator.normal(size=problems.max() + 1))[problems], generator.normal(size=len(problems))
    noise, luck = generator.normal(size=(2, len(problems)))
    return scale * (rival + noise), rival + luck, rival


def scaled_rival(generator, problems):
    """Score and rival have different scales in every problem."""
    scales = np.exp(generator.normal(size=(2, problems.max() + 1)))[:, problems]
    rival = generator.normal(size=len(problems))
    noise, luck = generator.normal(size=(2, len(problems)))
    return scales[0] * (rival + 0.5 * noise), rival + luck, scales[1] * rival


POPULATIONS = (normal, heavy_tails, lengths, exponential, scaled_score, scaled_rival)


@pytest.mark.parametrize("population", POPULATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize(("num_problems", "samples"), [(20, 4), (60, 8)])
def test_intervals_cover_no_association(population, num_problems: int, samples: int) -> None:
    """Score and correctness both follow the rival, and have nothing else in common: the interval should contain 0."""
    above, covered = [], []
    for seed in range(60):
        problems = np.repeat(np.arange(num_problems), samples)
        score, ability, rival = population(np.random.default_rng(seed), problems)
        found = within_problem_association(
            score, ability > 0, problems.tolist(), [rival], num_resamples=200, seed=seed
        )
        above.append(found.low > 0)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(above) <= 0.1
    assert np.mean(covered) >= 0.85


def test_what_a_score_adds_to_a_length_is_found() -> None:
    shown = []
    for seed in range(20):
        generator, problems = np.random.default_rng(seed), np.repeat(np.arange(60), 4)
        score, ability, rival = lengths(generator, problems)
        own = generator.normal(size=len(problems))
        found = within_problem_association(
            score + own, ability + own > 0, problems.tolist(), [rival], num_resamples=200, seed=seed
        )
        shown.append(found.low > 0)
    assert np.mean(shown) >= 0.9
