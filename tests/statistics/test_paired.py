"""Differences of two models on the same problems: hand-computed variances, verdicts, and coverage by simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from antiphase.errors import InvalidInputError
from antiphase.statistics.paired import paired_difference
from antiphase.statistics.variance import difference_variance

tables = st.tuples(st.integers(1, 4), st.integers(2, 8), st.integers(0, 10**6)).map(
    lambda drawn: np.random.default_rng(drawn[2]).integers(0, 5, size=(2, drawn[0], drawn[1])) / 4
)


# The variance


def test_one_seed_is_a_paired_t_test_but_for_its_factor():
    left, right = np.array([[1.0, 0.0, 1.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 0.0]])
    variance = difference_variance(left, right, False)
    # Differences 1, 0, 0, 1: variance ⅓, of the mean 1/12; two problems differ, so twice that.
    assert variance.value == pytest.approx(1 / 6, rel=1e-12)
    assert variance.degrees == 3
    assert variance.seed_term == 0


def test_the_variance_of_paired_seeds_by_hand():
    difference = np.array([[0.5, 0.0, 0.1], [0.9, 0.2, 0.1]])
    variance = difference_variance(difference, np.zeros((2, 3)), True)
    rows = (0.4 - 0.2) ** 2 / 2
    columns = ((0.7 - 0.3) ** 2 + (0.1 - 0.3) ** 2 + (0.1 - 0.3) ** 2) / 2
    # What rows and columns leave: ∓0.1, 0, ±0.1.
    residual = 4 * 0.1**2 / 2
    problem, seed, noise = columns / 3 * (1 + 2 / 3), rows / 2, residual / 6
    assert variance.value == pytest.approx(problem + seed - noise, rel=1e-12)
    assert variance.degrees == pytest.approx((problem + seed) / (problem / 2 + seed / 1), rel=1e-12)


def test_unpaired_seeds_add_their_parts():
    generator = np.random.default_rng(0)
    left = generator.random((2, 30)) + np.array([[0.0], [0.5]])
    right = generator.random((4, 30)) + np.array([[0.0], [0.3], [0.1], [0.4]])

    def seed_part(side):
        rows = side.mean(1).var(ddof=1) / len(side)
        centered = side - side.mean(1, keepdims=True) - side.mean(0) + side.mean()
        return rows, (centered**2).sum() / ((len(side) - 1) * 29) / side.size

    (rows_left, noise_left), (rows_right, noise_right) = seed_part(left), seed_part(right)
    columns = (left.mean(0) - right.mean(0)).var(ddof=1) / 30 * (1 + 2 / 30)
    expected = rows_left + rows_right + columns - noise_left - noise_right
    variance = difference_variance(left, right, False)
    assert variance.value == pytest.approx(expected, rel=1e-12)
    squares = rows_left**2 / 1 + rows_right**2 / 3 + columns**2 / 29 + noise_left**2 / 29 + noise_right**2 / 87
    assert variance.degrees == pytest.approx(expected**2 / squares, rel=1e-12)
    assert variance.seed_term == pytest.approx(rows_left + rows_right, rel=1e-12)


def test_the_variance_never_falls_below_what_one_part_shows():
    # Noise only, so strong that subtracting it would leave less than the problems show.
    left = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0, 1.0]])
    variance = difference_variance(left, np.zeros((3, 5)), True)
    columns = left.mean(0).var(ddof=1) / 5 * (1 + 2 / 5)
    assert variance.value == pytest.approx(columns, rel=1e-12)
    assert variance.degrees == 4


def test_the_expected_variance_is_that_of_the_difference():
    generator = np.random.default_rng(1)
    reps, seeds, problems = 4000, 3, 40
    noise = generator.normal(size=(reps, seeds, problems))
    tables = 0.3 * generator.normal(size=(reps, seeds, 1)) + generator.normal(size=(reps, 1, problems)) + noise
    truth = 0.3**2 / seeds + 1 / problems + 1 / (seeds * problems)
    values = [difference_variance(table, np.zeros_like(table), True).value for table in tables]
    # All problems differ: the factor 1 + 2/40 falls on the problems' part (1 + 1/3)/40.
    assert np.mean(values) == pytest.approx(truth + 2 / 40 * (1 + 1 / 3) / 40, rel=0.02)


# The interval


def test_minimum_detectable_has_its_power():
    generator = np.random.default_rng(2)
    tables = generator.normal(size=(1500, 1, 40))
    results = [paired_difference(t, np.zeros((1, 40)), paired_seeds=True, num_resamples=300) for t in tables]
    detectable = np.mean([each.minimum_detectable for each in results])
    spread = math.sqrt((1 + 2 / 40) / 40)
    assert detectable == pytest.approx((student.ppf(0.975, 39) + student.ppf(0.8, 39)) * spread, rel=0.02)
    found = np.mean([each.low > -detectable for each in results])
    assert found == pytest.approx(0.8, abs=0.05)


@given(tables, st.booleans())
def test_swapping_sides_flips_the_sign(sides, paired):
    left, right = sides
    there = paired_difference(left, right, paired_seeds=paired, num_resamples=200)
    back = paired_difference(right, left, paired_seeds=paired, num_resamples=200)
    assert back.difference == pytest.approx(-there.difference, abs=1e-12)
    assert back.minimum_detectable == pytest.approx(there.minimum_detectable, rel=1e-9)
    assert -1 <= there.low <= there.difference + 1e-12
    assert there.difference - 1e-12 <= there.high <= 1


@given(tables)
def test_the_verdict_follows_the_interval(sides):
    result = paired_difference(*sides, paired_seeds=True, smallest=0.3, num_resamples=200)
    if result.verdict == "better":
        assert result.low > 0
        assert not result.probability_of_improvement < 0.97
    elif result.verdict == "worse":
        assert result.high < 0
        assert not result.probability_of_improvement > 0.03
    else:
        assert result.low <= 0 <= result.high
        within = max(-result.low, result.high) <= 0.3
        assert (result.verdict == "equal") == within
        if not within:
            assert (result.verdict == "not enough data") == (result.minimum_detectable > 0.3)


def test_problems_with_gaps_are_left_out():
    generator = np.random.default_rng(3)
    left, right = generator.random((2, 3, 12))
    gaps = left.copy()
    gaps[1, 4] = math.nan
    kept = np.delete(np.arange(12), 4)
    assert paired_difference(gaps, right, paired_seeds=True) == paired_difference(
        left[:, kept], right[:, kept], paired_seeds=True
    )


def test_seeds_count_only_when_both_sides_have_several():
    generator = np.random.default_rng(4)
    left = generator.random((1, 50))
    right = generator.random((1, 50)) + np.array([[0.0], [3.0], [6.0]])
    narrow = paired_difference(left, right, paired_seeds=False)
    assert not narrow.seeds_covered
    wide = paired_difference(np.repeat(left, 2, axis=0), right, paired_seeds=False)
    assert wide.seeds_covered
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    assert (wide.num_seeds_left, wide.num_seeds_right, wide.num_problems) == (2, 3, 50)


# Verdicts


def _verdict(left, right, smallest=0.05):
    return paired_difference(left, right, paired_seeds=False, smallest=smallest).verdict


def test_every_verdict_can_be_reached():
    generator = np.random.default_rng(5)
    same, noise = np.full((1, 400), 0.5), generator.normal(size=(1, 400))
    noise -= noise.mean()
    assert _verdict(same + 0.1 + 0.1 * noise, same) == "better"
    assert _verdict(same - 0.1 + 0.1 * noise, same) == "worse"
    assert _verdict(same + 0.1 * noise, same) == "equal"
    assert _verdict(same + noise, same) == "not enough data"
    # Sharp enough to show 0.05 (detectable 0.048), yet the interval, −0.014 … 0.054, reaches beyond it.
    assert _verdict(same + 0.02 + 0.34 * noise, same) == "no difference shown"


@pytest.mark.parametrize("num", [0, 1])
def test_fewer_than_two_problems_are_not_enough(num):
    result = paired_difference(np.ones((2, num)), np.zeros((2, num)), paired_seeds=True)
    assert result.verdict == "not enough data"
    assert math.isnan(result.low)
    assert result.num_problems == num
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("num", "verdict"), [(20, "not enough data"), (75, "not enough data"), (76, "equal")])
def test_no_difference_at_all_is_not_certainty(num, verdict):
    table = np.random.default_rng(6).integers(0, 2, size=(2, num)).astype(float)
    result = paired_difference(table, table, paired_seeds=True)
    bound = student.ppf(0.975, num - 1) ** 2 / (num + student.ppf(0.975, num - 1) ** 2)
    assert (result.low, result.high) == pytest.approx((-bound, bound), rel=1e-12)
    assert (result.difference, result.probability_of_improvement, result.verdict) == (0, 0.5, verdict)
    assert result.minimum_detectable == pytest.approx(bound, rel=1e-12)


def test_a_difference_without_variance_is_not_certainty():
    two = paired_difference(np.ones((1, 2)), np.zeros((1, 2)), paired_seeds=False)
    assert two.verdict == "not enough data"
    many = paired_difference(np.full((3, 50), 0.3), np.full((3, 50), 0.1), paired_seeds=True)
    quantile = student.ppf(0.975, 49)
    unseen = quantile**2 / (50 + quantile**2)
    assert (many.low, many.high) == pytest.approx((0.2 * (1 - unseen) - unseen, 0.2 * (1 - unseen) + unseen))
    lengths = paired_difference(np.full((1, 50), 120.0), np.full((1, 50), 100.0), paired_seeds=False)
    assert lengths.verdict == "not enough data"
    assert lengths.to_dict()["low"] is None


@pytest.mark.parametrize(
    ("left", "right", "paired", "message"),
    [
        (np.ones((0, 3)), np.ones((1, 3)), False, "at least one seed"),
        (np.ones((2, 3)), np.ones((1, 3)), True, "equally many rows on both sides; got 2 and 1"),
        (np.full((1, 3), math.inf), np.ones((1, 3)), False, "infinite value"),
    ],
)
def test_bad_sides_are_refused(left, right, paired, message):
    with pytest.raises(InvalidInputError, match=message):
        paired_difference(left, right, paired_seeds=paired)


def test_no_smallest_difference_is_refused():
    with pytest.raises(InvalidInputError, match="above 0; got 0"):
        paired_difference(np.ones((1, 3)), np.ones((1, 3)), paired_seeds=True, smallest=0.0)


# Coverage: seeds shift a side, problems differ in what B adds, samples are Bernoulli.


def _coverage(num_seeds, num_problems, num_samples, paired, seed_spread, generator, reps=1000):
    hits = []
    for _ in range(reps):
        base = generator.uniform(0.2, 0.6, num_problems)
        gain = generator.uniform(-0.1, 0.2, num_problems)
        shifts = [np.clip(seed_spread * generator.normal(size=(n, 1)), -0.1, 0.1) for n in num_seeds]
        left = generator.binomial(num_samples, base + gain + shifts[0]) / num_samples
        right = generator.binomial(num_samples, base + shifts[1]) / num_samples
        result = paired_difference(left, right, paired_seeds=paired, num_resamples=400)
        hits.append(result.low <= 0.05 <= result.high)
    return np.mean(hits)


def test_two_paired_seeds_may_cover_too_much_but_not_too_little():
    generator = np.random.default_rng(9)
    assert _coverage((2, 2), 50, 1, True, 0.0, generator) >= 0.92
    # The limit that the docstring states: seeds that vary far more than problems do. A third seed mends it.
    assert 0.87 <= _coverage((2, 2), 100, 16, True, 0.05, generator, reps=1500) <= 0.92
    assert 0.92 <= _coverage((3, 3), 100, 16, True, 0.05, generator, reps=1500) <= 0.98


@pytest.mark.parametrize("num_problems", [30, 100])
@pytest.mark.parametrize(
    ("num_seeds", "paired"),
    [
        ((1, 1), True),
        ((2, 2), True),
        ((3, 3), True),
        ((5, 5), True),
        ((2, 2), False),
        ((3, 5), False),
        ((5, 5), False),
    ],
)
def test_intervals_cover_over_problems_and_seeds(num_problems, num_seeds, paired):
    generator = np.random.default_rng(num_problems + sum(num_seeds))
    spread = 0.0 if min(num_seeds) == 1 else 0.03
    assert 0.92 <= _coverage(num_seeds, num_problems, 4, paired, spread, generator) <= 0.98


@pytest.mark.parametrize(("num_problems", "share"), [(30, 0.1), (50, 0.05), (100, 0.03), (50, 0.2)])
def test_intervals_cover_when_few_problems_differ(num_problems, share):
    generator = np.random.default_rng(7)
    # B solves all that A does, and a few more.
    tables = (generator.random((800, 1, num_problems)) < share).astype(float)
    zeros = np.zeros((1, num_problems))
    results = [paired_difference(table, zeros, paired_seeds=False, num_resamples=400) for table in tables]
    assert np.mean([each.low <= share <= each.high for each in results]) >= 0.92


def test_equal_models_are_rarely_called_different():
    generator = np.random.default_rng(8)
    verdicts = []
    for _ in range(800):
        draw = generator.random((1, 50))
        table = (draw < 0.05).astype(float) - (draw > 0.95)
        verdicts.append(paired_difference(table, np.zeros((1, 50)), paired_seeds=False, num_resamples=400).verdict)
    assert np.mean([each in ("better", "worse") for each in verdicts]) <= 0.06
