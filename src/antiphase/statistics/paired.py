"""Compare two models or methods on the same problems: the difference of their means, its interval, and a verdict.

The interval holds for other problems and for other training seeds: both are treated as random samples ("crossed random
effects"). The module `estimate` computes the interval of one model's mean, and `association` correlates numbers across
models.
"""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from antiphase.errors import InvalidInputError
from antiphase.statistics.estimate import (
    check_confidence,
    number_or_none,
    percentile_interval,
    resampled_means,
    student_quantile,
)
from antiphase.statistics.variance import DifferenceVariance, difference_variance

Verdict = Literal["better", "worse", "equal", "no difference shown", "not enough data"]


@dataclass(frozen=True)
class PairedDifference:
    """The difference of the means of two models or methods, left minus right, with its interval and a verdict.

    An undefined number is NaN, never 0. The two models or methods are called the left and the right side.

    Args:
        difference: the mean of the left side minus the mean of the right side, over all seeds and problems.
        low: the lower end of the interval.
        high: the upper end of the interval.
        probability_of_improvement: the probability that the true difference is above 0, estimated from the same
            bootstrap resamples as the interval.
        minimum_detectable: the smallest true difference that a comparison with this number of problems and seeds would
            find with a probability of 80 %.
        num_problems: the number of problems that were used.
        num_seeds_left: the number of seeds of the left side.
        num_seeds_right: the number of seeds of the right side.
        seeds_covered: whether the interval holds for other seeds too. If not, it holds only for other problems and
            other samples.
        verdict: `better`, `worse`, `equal`, `no difference shown` or `not enough data`; see `paired_difference`.
        confidence: the confidence of the interval.
    """

    difference: float
    low: float
    high: float
    probability_of_improvement: float
    minimum_detectable: float
    num_problems: int
    num_seeds_left: int
    num_seeds_right: int
    seeds_covered: bool
    verdict: Verdict
    confidence: float = 0.95

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return the values for JSON; undefined numbers become None."""
        return {
            name: number_or_none(value) if isinstance(value, float) else value for name, value in asdict(self).items()
        }


def paired_difference(
    left: Float[np.ndarray, "seed problem"],
    right: Float[np.ndarray, "other_seed problem"],
    *,
    paired_seeds: bool,
    smallest: float = 0.05,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compute the mean difference between two models or methods, with an interval for other problems and seeds.

    The two models or methods are called the left and the right side. First, `difference_variance` computes V, the
    variance of the mean difference, and its degrees of freedom df. Then a bootstrap makes the interval, in three
    steps:

    1. Each resample draws problems with replacement, the same ones for both sides. A normal random number is added for
       the variation between seeds, because a few seeds allow too few resamples (two seeds allow three).
    2. The deviations from the mean difference are scaled so that their variance is V.
    3. They are multiplied by t_df / z, the quantile of Student's t divided by the normal quantile (expanded
       percentiles, Hesterberg 2015, arXiv 1411.5279). The percentiles of the results are the ends of the interval.

    The probability of improvement is the share of the resamples whose difference is above 0 after step 3; a difference
    of exactly 0 counts half. This probability is therefore never more confident than the interval.

    The smallest detectable difference is (t_{1−α/2} + t_{0.80}) √V, with quantiles of Student's t for df degrees of
    freedom and the confidence 1 − α. The verdict is the first one that applies:

    * `not enough data`: there are fewer than two problems.
    * `better` or `worse`: the interval excludes 0.
    * `equal`: the interval lies within ±smallest.
    * `not enough data`: minimum_detectable is larger than smallest.
    * `no difference shown`: in all other cases.

    If the difference is the same value d for all N problems and all seeds, V is 0, but the true difference is still
    uncertain. By Wilson's bound, at most a share u = t²/(N+t²) of all possible problems has another difference. This
    difference lies in [−1, 1]. So the interval is d(1−u) ± u, and minimum_detectable is u. For values outside [0, 1]
    this bound does not hold: the interval is NaN, and the verdict is `not enough data`.

    Limits: two paired seeds cannot show how much seeds vary. If they vary far more than problems, a 95 % interval from
    two seeds covers the truth in 89 % of cases; use three seeds or more. If a side has only one seed, the interval
    does not cover seeds.

    Args:
        left: the values of the left side. Each is the mean over the samples of one seed on one problem. A problem with
            a NaN on either side is left out.
        right: the values of the right side, with the same problems in the same order. The number of seeds may differ
            unless seeds are paired.
        paired_seeds: whether row i of both sides has the same seed, so that the seed changes both sides alike.
        smallest: the smallest difference that matters.
        confidence: the confidence of the interval.
        num_resamples: number of bootstrap resamples.
        seed: seed of the random generator that draws the resamples.

    Raises:
        InvalidInputError: the sides have different numbers of problems, a side has no seeds, seeds are paired and the
            sides have different numbers of them, a value is infinite, the confidence is outside (0, 1), or `smallest`
            is not above 0.

    >>> problems = np.linspace(0, 1, 40)[None]
    >>> result = paired_difference(problems**0.5, problems, paired_seeds=False)
    >>> print(f"{result.difference:.3f} [{result.low:.3f}, {result.high:.3f}] {result.verdict}")
    0.162 [0.135, 0.187] better
    """
    check_confidence(confidence)
    _check_sides(left, right, paired_seeds, smallest)
    kept = ~(np.isnan(left).any(axis=0) | np.isnan(right).any(axis=0))
    left, right = left[:, kept].astype(np.float64), right[:, kept].astype(np.float64)
    num = int(kept.sum())
    difference = float(left.mean() - right.mean()) if num else math.nan
    low = high = probability = detectable = math.nan
    if num > 1:
        variance = difference_variance(left, right, paired_seeds)
        shares = all(side.min() >= 0 and side.max() <= 1 for side in (left, right))
        if variance.value == 0:
            low, high, probability, detectable = _without_variance(difference, num, shares, confidence)
        else:
            deviations = _resampled(variance, num_resamples, np.random.default_rng(seed))
            quantile = student_quantile(confidence, variance.degrees)
            deviations *= quantile / NormalDist().inv_cdf(0.5 + confidence / 2)
            low, high = percentile_interval(difference, deviations, confidence)
            if shares:
                low, high = max(-1.0, low), min(1.0, high)
            improved = difference + deviations
            probability = float((improved > 0).mean() + (improved == 0).mean() / 2)
            detectable = (quantile + float(stdtrit(variance.degrees, 0.8))) * math.sqrt(variance.value)
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        probability_of_improvement=probability,
        minimum_detectable=detectable,
        num_problems=num,
        num_seeds_left=len(left),
        num_seeds_right=len(right),
        seeds_covered=min(len(left), len(right)) > 1,
        verdict=verdict_of(low, high, detectable, smallest),
        confidence=confidence,
    )


def _check_sides(left: np.ndarray, right: np.ndarray, paired_seeds: bool, smallest: float) -> None:
    """Refuse arguments of `paired_difference` that do not fit together, and infinite values."""
    if left.shape[1] != right.shape[1] or min(len(left), len(right)) == 0:
        raise InvalidInputError(
            "the arguments 'left' and 'right' must have the shape [seed, problem], with the same problems and at "
            f"least one seed; got {left.shape} and {right.shape}. Keep the problems that both sides have."
        )
    if paired_seeds and len(left) != len(right):
        raise InvalidInputError(
            f"paired seeds need equally many rows on both sides; got {len(left)} and {len(right)}. Keep the shared "
            "seeds, or set paired_seeds=False."
        )
    if np.isinf(left).any() or np.isinf(right).any():
        raise InvalidInputError(
            "left or right holds an infinite value, but a difference needs finite values. Put NaN in its place."
        )
    if not smallest > 0:
        raise InvalidInputError(f"smallest must be a difference above 0; got {smallest}. 0.05 is usual.")


def _resampled(
    variance: DifferenceVariance, num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "resample"]:
    """Draw random deviations of the mean difference, whose variance is `variance.value`.

    A deviation is the sum of two numbers: the mean of resampled problems, and a normal random number for the seeds.
    """
    deviations = resampled_means(variance.problems, num_resamples, generator)
    if variance.problem_term > 0:
        deviations *= math.sqrt(variance.problem_term / (variance.problems.var() / len(variance.problems)))
    deviations += generator.normal(scale=math.sqrt(variance.seed_term), size=num_resamples)
    resampled: np.ndarray = deviations * math.sqrt(variance.value / (variance.problem_term + variance.seed_term))
    return resampled


def _without_variance(
    difference: float, num: int, shares: bool, confidence: float
) -> tuple[float, float, float, float]:
    """Return the statistics of a difference whose variance is 0: every problem differs by the same value.

    Args:
        difference: the value by which every problem differs.
        num: the number of problems.
        shares: whether all values lie in [0, 1], as accuracies do. If not, there is no interval.
        confidence: the confidence of the interval.

    Returns:
        The low and the high end of the interval, the probability of improvement, and the smallest difference that the
        data would show (see `paired_difference`). NaN means that a number cannot be computed.
    """
    probability = 0.5 if difference == 0 else math.nan
    if not shares:
        return math.nan, math.nan, probability, math.nan
    quantile = student_quantile(confidence, num - 1)
    unseen = quantile**2 / (num + quantile**2)
    center = difference * (1 - unseen)
    return max(-1.0, center - unseen), min(1.0, center + unseen), probability, unseen


def verdict_of(low: float, high: float, detectable: float, smallest: float) -> Verdict:
    """Return `better`, `worse`, `equal`, `not enough data` or `no difference shown`: the verdict on an interval.

    `paired_difference` gives the rules.

    Args:
        low, high: the ends of the interval; NaN if there is no interval.
        detectable: the smallest difference that the data would show with a probability of 80 %.
        smallest: the smallest difference that matters.
    """
    if math.isnan(low):
        return "not enough data"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    if -smallest <= low and high <= smallest:
        return "equal"
    return "not enough data" if detectable > smallest else "no difference shown"
