"""Means with intervals, pass@k and the majority vote, against hand counts and by simulation."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from antiphase.errors import InvalidInputError
from antiphase.statistics.accuracy import majority_at_k, pass_at_k
from antiphase.statistics.estimate import Estimate, _kept_draws, mean_interval, resampled_means, share_interval

shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=12)


# Estimate


def test_an_estimate_prints_and_serialises():
    estimate = Estimate(0.4314, 0.3796, 0.4841, 50)
    assert str(estimate) == "0.431 [0.380, 0.484] (n=50)"
    assert estimate.to_dict() == {"value": 0.4314, "low": 0.3796, "high": 0.4841, "num_problems": 50}


def test_an_undefined_estimate_says_so():
    nothing = share_interval(np.array([math.nan, math.nan]))
    assert not nothing.defined
    assert str(nothing) == "undefined (n=0)"
    assert nothing.to_dict() == {"value": None, "low": None, "high": None, "num_problems": 0}
    assert str(mean_interval(np.array([3.0]))) == "3.000 [no interval] (n=1)"


# share_interval


@pytest.mark.parametrize("num", [2, 7, 50])
def test_an_all_wrong_run_is_not_certain(num):
    bound = student.ppf(0.975, num - 1) ** 2 / (num + student.ppf(0.975, num - 1) ** 2)
    wrong, right = share_interval(np.zeros(num)), share_interval(np.ones(num))
    assert (wrong.low, right.high) == (0, 1)
    assert wrong.high == pytest.approx(bound, rel=1e-12)
    assert right.low == pytest.approx(1 - bound, rel=1e-12)


def test_the_ends_solve_the_score_equation():
    values = np.array([0.0, 0.25, 1.0, 0.5, 0.75, 0.25, 0.0])
    estimate = share_interval(values, confidence=0.9)
    mean = values.mean()
    extra = 4 / values.sum() ** 2
    variance = (((values - mean) ** 2).sum() + extra * mean * (1 - mean)) / (6 + extra)
    size = mean * (1 - mean) / (variance / 7)
    for end in (estimate.low, estimate.high):
        reach = student.ppf(0.95, 6) * math.sqrt(end * (1 - end) / size)
        assert abs(mean - end) == pytest.approx(reach, rel=1e-12)


def test_problems_alike_count_as_problems():
    # 40 problems at ½ look like 40 coin flips, not like a certain half.
    estimate = share_interval(np.full(40, 0.5))
    quantile = student.ppf(0.975, 39)
    assert estimate.high - estimate.low == pytest.approx(quantile / math.sqrt(40 + quantile**2), rel=1e-12)


def test_one_problem_tells_nothing_about_others():
    assert share_interval(np.array([0.5])) == Estimate(0.5, 0.0, 1.0, 1)


@given(shares)
def test_the_mirror_image_of_shares_has_the_mirrored_interval(values):
    estimate, mirrored = share_interval(np.array(values)), share_interval(1 - np.array(values))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high - estimate.low > 0
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-12)
    assert mirrored.high == pytest.approx(1 - estimate.low, abs=1e-12)


@given(shares)
def test_undefined_problems_are_left_out(values):
    gaps = np.array([math.nan, *values, math.nan])
    assert share_interval(gaps) == share_interval(np.array(values))
    assert mean_interval(gaps, num_resamples=50) == mean_interval(np.array(values), num_resamples=50)


@pytest.mark.parametrize("num_problems", [20, 50, 200])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_share_intervals_cover(num_problems, share):
    generator = np.random.default_rng(num_problems)
    for num_samples in (1, 4, 16):
        difficulty = generator.beta(share, 1 - share, size=(1000, num_problems))
        runs = generator.binomial(num_samples, difficulty) / num_samples
        estimates = [share_interval(run) for run in runs]
        covered = np.mean([each.low <= share <= each.high for each in estimates])
        assert covered >= 0.92
        # With fewer than three problems' worth of the rarer outcome the interval may be conservative.
        if num_problems * min(share, 1 - share) >= 3:
            assert covered <= 0.98


@pytest.mark.parametrize("num_problems", [10, 20, 50])
def test_share_intervals_are_conservative_when_few_problems_are_ever_solved(num_problems):
    generator = np.random.default_rng(1)
    difficulty = generator.beta(0.02, 0.98, size=(1000, num_problems))
    runs = generator.binomial(16, difficulty) / 16
    estimates = [share_interval(run) for run in runs]
    assert np.mean([each.low <= 0.02 <= each.high for each in estimates]) >= 0.92


# mean_interval


def test_two_problems_give_the_expanded_range():
    # Resampled means of 0 and 2 are 0, 1 or 2; their percentiles lie 1 off the mean, stretched by t₁/z √2.
    estimate = mean_interval(np.array([0.0, 2.0]))
    reach = student.ppf(0.975, 1) / 1.959963984540054 * math.sqrt(2)
    assert (estimate.low, estimate.high) == pytest.approx((1 - reach, 1 + reach), rel=1e-9)


def test_intervals_follow_affine_changes():
    values = np.random.default_rng(0).exponential(size=30)
    plain, moved = mean_interval(values), mean_interval(100 + 7 * values)
    assert (moved.low, moved.high) == pytest.approx((100 + 7 * plain.low, 100 + 7 * plain.high), rel=1e-9)


@pytest.mark.parametrize("num_problems", [5, 20, 100])
def test_mean_intervals_cover(num_problems):
    runs = np.random.default_rng(2).gamma(4.0, size=(1000, num_problems))
    estimates = [mean_interval(run, num_resamples=400) for run in runs]
    assert 0.92 <= np.mean([each.low <= 4 <= each.high for each in estimates]) <= 0.98


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937])
@pytest.mark.parametrize("size", [7, 300])
def test_kept_draws_are_those_of_the_generator(bits, size):
    """300 values are too many for draws to be kept, and so are those of another kind of generator."""
    before = _kept_draws.cache_info()
    for values in np.random.default_rng(1).normal(size=(2, size)):
        plain, ours = (np.random.Generator(bits(5)) for _ in range(2))
        plain.integers(2**31, dtype=np.uint32), ours.integers(2**31, dtype=np.uint32)
        found = resampled_means(values, 10_000, ours)
        np.testing.assert_array_equal(found, values[plain.integers(size, size=(10_000, size))].mean(axis=1))
        assert ours.normal() == plain.normal()
    after = _kept_draws.cache_info()
    kept = size == 7 and bits is np.random.PCG64
    assert (after.hits - before.hits, after.misses - before.misses) == ((1, 1) if kept else (0, 0))


def test_resampled_means_have_the_variance_of_the_bootstrap():
    values = np.array([0.0, 1.0, 5.0, 10.0])
    means = resampled_means(values, 200_000, np.random.default_rng(0))
    assert len(means) == 200_000
    assert means.mean() == pytest.approx(4.0, abs=0.03)
    assert means.var() == pytest.approx(values.var() / 4, rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share_interval(np.array([0.5, 1.5])), r"a share must lie in \[0, 1\]; got 1.5"),
        (lambda: share_interval(np.array([0.5]), confidence=95), "confidence must lie between 0 and 1; got 95"),
        (lambda: mean_interval(np.array([1.0, math.inf])), "problem 1: a mean needs finite values; got inf"),
        (lambda: mean_interval(np.array([1.0, 2.0]), num_resamples=0), "at least 1 resample; got 0"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


# pass@k


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_counts_subsets(numbers):
    num, right, k = numbers
    exact = 1 - Fraction(math.comb(num - right, k), math.comb(num, k))
    assert pass_at_k(num, right, k) == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_pass_at_k_of_huge_counts():
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1, rel=1e-12)
    assert pass_at_k(10**6, 10**5, 1) == pytest.approx(0.1, rel=1e-12)
    exact = 1 - Fraction(math.comb(99_700, 5000), math.comb(100_000, 5000))
    assert pass_at_k(100_000, 300, 5000) == pytest.approx(float(exact), rel=1e-12)


# The majority vote


def _vote_by_hand(answers, correct, k):
    """Every subset, counted with dictionaries and fractions."""
    total, num = Fraction(0), 0
    for subset in itertools.combinations(range(len(answers)), k):
        votes = [answers[i] for i in subset if answers[i] is not None]
        best = max((votes.count(each) for each in votes), default=0)
        winners = {each for each in votes if votes.count(each) == best}
        for winner in winners:
            own = [right for answer, right in zip(answers, correct, strict=True) if answer == winner]
            total += Fraction(sum(own), len(own)) / len(winners)
        num += 1
    return total / num


samples = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=7)


@given(samples, st.data())
def test_majority_at_k_counts_subsets(pairs, data):
    answers, correct = zip(*pairs, strict=True)
    k = data.draw(st.integers(1, len(pairs)))
    expected = float(_vote_by_hand(answers, correct, k))
    assert majority_at_k(answers, correct, k) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_random_subsets_approach_all_subsets():
    answers = ["7"] * 5 + ["3"] * 4 + [None] * 3 + list("abcd")
    correct = [answer == "7" for answer in answers]
    every = majority_at_k(answers, correct, 8, num_subsets=math.comb(16, 8))
    some = majority_at_k(answers, correct, 8, num_subsets=4000)
    assert some != every
    # Four standard errors of 4000 draws of a value in [0, 1].
    assert some == pytest.approx(every, abs=4 * 0.5 / math.sqrt(4000))
    assert some == majority_at_k(answers, correct, 8, num_subsets=4000, seed=0)


def test_no_answers_are_wrong():
    assert majority_at_k([None, None, None], [False, False, False], 2) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(4, 2, 5), "got k=5 with 4 samples. Draw more samples or lower k"),
        (lambda: pass_at_k(4, 2, 0), "got k=0"),
        (lambda: pass_at_k(4, 5, 1), "num_correct must lie between 0 and the number of samples, 4; got 5"),
        (lambda: majority_at_k(["a"], [True], 2), "got k=2 with 1 samples"),
        (lambda: majority_at_k(["a"], [True, False], 1), "one entry for every sample; got 1 and 2"),
        (lambda: majority_at_k(["a"], [True], 1, num_subsets=0), "num_subsets must be at least 1; got 0"),
    ],
)
def test_bad_draws_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
