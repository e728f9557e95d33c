"""Is A better than B on the same problems? The difference, its interval, and what so many problems could show.

Seeds and problems are crossed random effects: a claim generalises over both. `estimate` has the interval of one
model's mean; `association` has correlations across models.
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
    """Left minus right, with its interval. Undefined is NaN, never 0.

    Args:
        difference: the difference of the two grand means.
        low: the lower end of the interval.
        high: the upper end of the interval.
        probability_of_improvement: the probability that the true difference is above 0, from the same resamples as
            the interval.
        minimum_detectable: the difference that this design would detect with a power of 80 %.
        num_problems: the number of problems that were used.
        num_seeds_left: the number of seeds of the left side.
        num_seeds_right: the number of seeds of the right side.
        seeds_covered: whether the interval holds for other seeds too; if not, only for other problems and samples.
        verdict: `better`, `worse`, `equal`, `no difference shown` or `not enough data`.
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
        """The values for JSON; undefined numbers become None."""
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
    """Difference of the grand means, with an interval over problems and seeds.

    The variance V and its degrees of freedom are those of `difference_variance`. Problems are resampled, jointly for
    both sides. The part of the seeds is added as a normal deviate, since a few seeds have too few resamples for a
    percentile (two seeds have three). The sum is scaled to V and stretched by t_df / z (expanded percentiles,
    Hesterberg 2015, arXiv 1411.5279). The probability of improvement is the share of these stretched differences above
    0, with ties counted half, so that it never claims more than the interval does.

    `minimum_detectable` = (t_{1−α/2} + t_{0.80}) √V. The verdict is the first that holds: `not enough data` (fewer
    than two problems); `better` or `worse` (the interval excludes 0); `equal` (the interval lies within ±smallest);
    `not enough data` (minimum_detectable > smallest); `no difference shown`.

    If every problem and seed differs by the same d, V is 0, but nothing is certain. By Wilson, at most a share
    u = t²/(N+t²) of problems may differ by another value in −1 … 1, so the interval is d(1−u) ± u, and
    minimum_detectable is u. For values outside [0, 1] there is no such bound: the interval is NaN and the verdict is
    `not enough data`.

    Limits: with two paired seeds and a variance between them far above that of problems, a 95 % interval covers 89 %,
    because two seeds cannot show their own variance; use three or more. With one seed on either side the interval does
    not cover seeds.

    Args:
        left: each problem's mean over samples, for each seed; problems with a NaN on either side are left out.
        right: the same problems in the same order; the number of seeds may differ unless seeds are paired.
        paired_seeds: whether row i of both sides has the same seed, and so the same luck.
        smallest: the smallest difference that matters.
        confidence: the confidence of the interval.
        num_resamples: how often the bootstrap draws the problems.
        seed: seeds the bootstrap.

    Raises:
        InvalidInputError: the sides have different problems or no seeds, paired sides have different numbers of seeds,
            a value is infinite, or the confidence is outside (0, 1).

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
    if num == 0:
        return _result(left, right, math.nan, (math.nan, math.nan), math.nan, math.nan, smallest, confidence)
    difference = float(left.mean() - right.mean())
    if num < 2:
        return _result(left, right, difference, (math.nan, math.nan), math.nan, math.nan, smallest, confidence)
    variance = difference_variance(left, right, paired_seeds)
    if variance.value == 0:
        interval, probability, bound = _without_variance(difference, num, _shares(left, right), confidence)
        return _result(left, right, difference, interval, probability, bound, smallest, confidence)
    deviations = _resampled(variance, num_resamples, np.random.default_rng(seed))
    deviations *= student_quantile(confidence, variance.degrees) / NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high = percentile_interval(difference, deviations, confidence)
    if _shares(left, right):
        low, high = max(-1.0, low), min(1.0, high)
    improved = difference + deviations
    probability = float((improved > 0).mean() + (improved == 0).mean() / 2)
    quantiles = student_quantile(confidence, variance.degrees) + float(stdtrit(variance.degrees, 0.8))
    detectable = quantiles * math.sqrt(variance.value)
    return _result(left, right, difference, (low, high), probability, detectable, smallest, confidence)


def _check_sides(left: np.ndarray, right: np.ndarray, paired_seeds: bool, smallest: float) -> None:
    if left.shape[1] != right.shape[1] or min(len(left), len(right)) == 0:
        raise InvalidInputError(
            f"left and right must be [seed, problem] with the same problems and at least one seed; got {left.shape} "
            f"and {right.shape}. Keep the problems that both sides have."
        )
    if paired_seeds and len(left) != len(right):
        raise InvalidInputError(
            f"paired seeds need as many rows on both sides; got {len(left)} and {len(right)}. Keep the shared seeds, "
            "or set paired_seeds=False."
        )
    if np.isinf(left).any() or np.isinf(right).any():
        raise InvalidInputError("a side holds an infinite value; differences need finite ones. Mark it as NaN.")
    if not smallest > 0:
        raise InvalidInputError(f"smallest must be a difference above 0; got {smallest}. 0.05 is usual.")


def _shares(left: np.ndarray, right: np.ndarray) -> bool:
    return all(side.min() >= 0 and side.max() <= 1 for side in (left, right))


def _resampled(
    variance: DifferenceVariance, num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "resample"]:
    deviations = resampled_means(variance.problems, num_resamples, generator)
    if variance.problem_term > 0:
        deviations *= math.sqrt(variance.problem_term / (variance.problems.var() / len(variance.problems)))
    deviations += generator.normal(scale=math.sqrt(variance.seed_term), size=num_resamples)
    resampled: np.ndarray = deviations * math.sqrt(variance.value / (variance.problem_term + variance.seed_term))
    return resampled


def _without_variance(
    difference: float, num: int, shares: bool, confidence: float
) -> tuple[tuple[float, float], float, float]:
    """(interval, probability of improvement, detectable difference) if all problems differ by the same value."""
    probability = 0.5 if difference == 0 else math.nan
    if not shares:
        return (math.nan, math.nan), probability, math.nan
    quantile = student_quantile(confidence, num - 1)
    unseen = quantile**2 / (num + quantile**2)
    center = difference * (1 - unseen)
    return (max(-1.0, center - unseen), min(1.0, center + unseen)), probability, unseen


def verdict_of(low: float, high: float, detectable: float, smallest: float) -> Verdict:
    """The verdict that `paired_difference` gives on an interval."""
    if math.isnan(low):
        return "not enough data"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    if -smallest <= low and high <= smallest:
        return "equal"
    return "not enough data" if detectable > smallest else "no difference shown"


def _result(
    left: np.ndarray,
    right: np.ndarray,
    difference: float,
    interval: tuple[float, float],
    probability: float,
    detectable: float,
    smallest: float,
    confidence: float,
) -> PairedDifference:
    return PairedDifference(
        difference=difference,
        low=interval[0],
        high=interval[1],
        probability_of_improvement=probability,
        minimum_detectable=detectable,
        num_problems=left.shape[1],
        num_seeds_left=len(left),
        num_seeds_right=len(right),
        seeds_covered=min(len(left), len(right)) > 1,
        verdict=verdict_of(*interval, detectable, smallest),
        confidence=confidence,
    )
