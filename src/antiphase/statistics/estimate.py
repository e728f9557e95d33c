"""Compute a mean over problems with its interval. The functions for intervals here also serve other modules.

Each problem has one value, such as the share of its samples that are right. The interval holds for other problems of
the same kind. The module `paired` compares two models, and `association` correlates numbers across models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import stdtrit

from antiphase.errors import InvalidInputError

# A mean this close to 0 or 1 differs from 0 or 1 only by rounding.
_ROUNDING = 1e-12
_RESAMPLE_ELEMENTS = 1 << 22
# Draws of at most so many places are kept: 16 MB each.
_KEPT_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its interval. An undefined number is NaN, never 0.

    Args:
        value: the mean.
        low: the lower end of the interval.
        high: the upper end of the interval.
        num_problems: the number of problems that were used.
        confidence: the confidence of the interval.

    >>> print(Estimate(0.431, 0.38, 0.484, 50))
    0.431 [0.380, 0.484] (n=50)
    """

    value: float
    low: float
    high: float
    num_problems: int
    confidence: float = 0.95

    @property
    def defined(self) -> bool:
        """Return whether the value could be computed."""
        return not math.isnan(self.value)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the values for JSON, without the confidence; undefined numbers become None.

        >>> Estimate(2.0, math.nan, math.nan, 1).to_dict()
        {'value': 2.0, 'low': None, 'high': None, 'num_problems': 1}
        """
        return {name: number_or_none(value) for name, value in vars(self).items() if name != "confidence"}

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined (n={self.num_problems})"
        if math.isnan(self.low):
            return f"{self.value:.3f} [no interval] (n={self.num_problems})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.num_problems})"


def number_or_none(value: float) -> float | None:
    """Return the number, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def check_confidence(confidence: float) -> None:
    """Raise `InvalidInputError` unless the confidence lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1; got {confidence}. 0.95 is usual.")


def student_quantile(confidence: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t: |t| is below it with the probability `confidence`."""
    return float(stdtrit(degrees, 0.5 + confidence / 2))


def half_swap_less(value: float, num: int) -> float:
    """Return a rank correlation of `num` pairs, reduced to at most 1 − 6/(n(n²−1)) in absolute value.

    A perfect order of a few pairs does not prove a perfect correlation. The bound is halfway between 1, which is the
    correlation of the perfect order, and the correlation of the order in which two neighbours are swapped.
    """
    return math.copysign(min(abs(value), 1 - 6 / (num * (num**2 - 1))), value)


def fisher_interval(value: float, num_pairs: float, confidence: float, *, ranks: bool = True) -> tuple[float, float]:
    """Compute Fisher's interval of a correlation, tanh(atanh ρ ± q √(v/(n−3))), with q the normal quantile.

    Args:
        value: the correlation ρ, in (−1, 1).
        num_pairs: the number n of independent pairs, more than 3.
        confidence: the confidence of the interval.
        ranks: whether ρ is Spearman's, so that v = 1 + ρ²/2 (Bonett & Wright 2000). For Pearson's, v = 1.
    """
    variance = (1 + value**2 / 2 if ranks else 1.0) / (num_pairs - 3)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def _defined(values: Float[np.ndarray, "problem"]) -> Float[np.ndarray, "defined"]:
    """Return the values that are not NaN. Raise `InvalidInputError` if a value is infinite."""
    if np.isinf(values).any():
        place = int(np.flatnonzero(np.isinf(values))[0])
        raise InvalidInputError(
            f"problem {place}: a mean needs finite values; got {values[place]}. Put NaN in its place."
        )
    kept: np.ndarray = values[~np.isnan(values)].astype(np.float64)
    return kept


def share_interval(values: Float[np.ndarray, "problem"], confidence: float = 0.95) -> Estimate:
    """Compute the mean over problems of a share, such as accuracy or pass@k, with a clustered Wilson interval.

    The interval is Wilson's score interval

        (p + t²/2n ± t √(p(1−p)/n + t²/4n²)) / (1 + t²/n).

    Here p is the mean over C problems. Two things are adjusted, because the samples of one problem are alike (Korn &
    Graubard 1998; on Wilson's interval, Dean & Pagano 2015). t is Student's quantile with C − 1 degrees of freedom, in
    place of the normal quantile. n = p(1−p) / Var(p̄) is the effective number of samples, in place of their number;
    Var(p̄) is the variance between problems divided by C. If all problems have the same value, n is C. A run in which
    everything is wrong therefore gives [0, t²/(C+t²)], never [0, 0].

    Deviation: the variance between problems is moved toward its largest possible value, p(1−p), as if 4/m² further
    problems had this largest variance. Here m = C·min(p, 1−p). The reason: if a model solves few problems, the sample
    may contain no problem that it solves often. The variance of the sample is then too small. Take 16 samples, p =
    0.05 and beta-distributed difficulties. Without this change, a 95 % interval covers the truth in only 86 % of cases
    at C = 20, and in 91 % at C = 50. With this change, it covers the truth in at least 92 % of cases. If problems
    differ little, it covers the truth in 99 % of cases, and is wider than necessary. If m is above 10, the effect
    is negligible.

    Args:
        values: one share for each problem, in [0, 1]; problems with NaN are left out and not counted.
        confidence: the confidence of the interval.

    Returns:
        The mean with its interval. The mean is NaN if there is no problem. With one problem the interval is [0, 1].

    Raises:
        InvalidInputError: a value is outside [0, 1], or the confidence is outside (0, 1).

    >>> print(share_interval(np.array([0.0, 0.25, 1.0, 0.5, 0.75, 0.5])))
    0.500 [0.195, 0.805] (n=6)
    >>> print(share_interval(np.zeros(50)))
    0.000 [0.000, 0.075] (n=50)
    """
    check_confidence(confidence)
    kept = _defined(values)
    outside = (kept < 0) | (kept > 1)
    if outside.any():
        raise InvalidInputError(
            f"a share must lie in [0, 1]; got {kept[outside][0]}. Use mean_interval for unbounded values."
        )
    num = len(kept)
    if num == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, confidence)
    mean = float(kept.mean())
    if num == 1:
        return Estimate(mean, 0.0, 1.0, 1, confidence)
    # Equal values are found by comparison, because their variance may be tiny instead of 0, by rounding.
    alike = kept.min() == kept.max() or min(mean, 1 - mean) < _ROUNDING
    size = float(num) if alike else _effective_size(kept, mean)
    low, high = _wilson(mean, size, student_quantile(confidence, num - 1))
    return Estimate(mean, low, high, num, confidence)


def _effective_size(shares: Float[np.ndarray, "problem"], mean: float) -> float:
    """Return the effective number of samples, which `share_interval` calls n.

    If n samples all came from different problems, the variance of their mean would be that of `mean`.
    """
    num = len(shares)
    extra = 4 / (num * min(mean, 1 - mean)) ** 2
    between = float(((shares - mean) ** 2).sum()) / (mean * (1 - mean))
    return num * (num - 1 + extra) / (between + extra)


def _wilson(share: float, size: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `size` samples.

    `quantile` is Student's t for the wanted confidence, such as 2.26 for 95 % and 10 problems.
    """
    shrink = quantile**2 / size
    center = share + shrink / 2
    reach = math.sqrt(shrink * (share * (1 - share) + shrink / 4))
    # Without these bounds, rounding could move an end outside [0, 1] or to the other side of the share.
    low, high = (center - reach) / (1 + shrink), (center + reach) / (1 + shrink)
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def average_interval(parts: Sequence[Estimate]) -> Estimate:
    """Average the shares of several tasks. Each task has the same weight, whatever its number of problems.

    Let p_t be the share of task t, [l_t, u_t] its interval, and w = 1 / (number of tasks). The interval is

        w Σ p_t − w √(Σ (p_t − l_t)²)  …  w Σ p_t + w √(Σ (u_t − p_t)²)

    (Zou, Huang & Zhang 2009, for a linear function of proportions with Wilson intervals). This interval has a width
    even if all answers are right or all are wrong. The formula holds only if the tasks are independent. With several
    training seeds the tasks are not independent, because they share the seeds. So use this function for one seed only.

    Args:
        parts: the result of `share_interval` for each task.

    Returns:
        The average. It is NaN if the share of any task is NaN, because an average over fewer tasks would mean
        something else.

    Raises:
        InvalidInputError: there is no task, or the intervals have different confidences.

    >>> print(average_interval([share_interval(np.array([0.0, 0.5, 1.0])), share_interval(np.array([1.0, 0.75]))]))
    0.688 [0.197, 0.928] (n=5)
    """
    if not parts or len({part.confidence for part in parts}) > 1:
        raise InvalidInputError("an average needs at least one task, and intervals of the same confidence.")
    num, confidence = sum(part.num_problems for part in parts), parts[0].confidence
    if not all(part.defined for part in parts):
        return Estimate(math.nan, math.nan, math.nan, num, confidence)
    mean = sum(part.value for part in parts) / len(parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(mean, max(0.0, mean - below), min(1.0, mean + above), num, confidence)


def mean_interval(
    values: Float[np.ndarray, "problem"], confidence: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Compute the mean over problems of an unbounded value, such as length or entropy, with a bootstrap interval.

    The ends are expanded percentiles of the resampled means, as in `pooled_correlation` (Hesterberg 2015, arXiv
    1411.5279). With C problems, the plain percentiles are too close to the mean by the factor √((C−1)/C). With few
    problems, Student's quantile t_{C−1} must also replace the normal quantile q. The distance of each percentile from
    the mean is therefore multiplied by (t_{C−1} / q) √(C/(C−1)). For shares use `share_interval`: the interval of this
    function has no width if all values are equal.

    Args:
        values: one value for each problem; problems with NaN are left out and not counted.
        confidence: the confidence of the interval.
        num_resamples: number of bootstrap resamples.
        seed: seed of the random generator that draws the resamples.

    Returns:
        The mean with its interval. The mean is NaN if there is no problem. With one problem there is no interval.

    Raises:
        InvalidInputError: a value is infinite, the confidence is outside (0, 1), or `num_resamples` is below 1.

    Cost: O(num_resamples · problems).

    >>> print(mean_interval(np.array([210.0, 180.0, 342.0, 255.0, math.nan])))
    246.750 [149.723, 363.464] (n=4)
    """
    check_confidence(confidence)
    kept = _defined(values)
    num = len(kept)
    if num == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, confidence)
    mean = float(kept.mean())
    if num == 1:
        return Estimate(mean, math.nan, math.nan, 1, confidence)
    deviations = resampled_means(kept - mean, num_resamples, np.random.default_rng(seed))
    deviations *= student_quantile(confidence, num - 1) / NormalDist().inv_cdf(0.5 + confidence / 2)
    deviations *= math.sqrt(num / (num - 1))
    low, high = percentile_interval(mean, deviations, confidence)
    return Estimate(mean, low, high, num, confidence)


def resampled_means(
    values: Float[np.ndarray, "item"], num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "resample"]:
    """Return the mean of each bootstrap resample. A resample draws as many values as there are, with replacement.

    Many intervals of a table draw from the same seed and over equally many values. The last draws are kept, so that
    these intervals share them.
    """
    if num_resamples < 1:
        raise InvalidInputError(f"a bootstrap needs at least 1 resample; got {num_resamples}. 1000 is usual.")
    state = generator.bit_generator.state
    if num_resamples * len(values) <= _KEPT_ELEMENTS and state["bit_generator"] == "PCG64":
        key = (state["state"]["state"], state["state"]["inc"], state["has_uint32"], state["uinteger"])
        places, after = _kept_draws(key, num_resamples, len(values))
        generator.bit_generator.state = after
        means: np.ndarray = values.take(places).mean(axis=1)
        return means
    size = max(1, _RESAMPLE_ELEMENTS // len(values))
    parts = [min(size, num_resamples - start) for start in range(0, num_resamples, size)]
    return np.concatenate(
        [values[generator.integers(len(values), size=(part, len(values)))].mean(axis=1) for part in parts]
    )


@lru_cache(maxsize=4)
def _kept_draws(
    state: tuple[int, int, int, int], num_resamples: int, num_values: int
) -> tuple[Int64[np.ndarray, "resample item"], Mapping[str, Any]]:
    """Return the places of the values that each resample draws, and the state of the generator after that.

    Args:
        state: the two numbers of the state of a PCG64 generator, and its two numbers that hold half of a drawn number.
        num_resamples: number of resamples.
        num_values: number of values that there are.
    """
    generator = np.random.Generator(np.random.PCG64())
    numbers = {"state": state[0], "inc": state[1]}
    generator.bit_generator.state = {
        "bit_generator": "PCG64", "state": numbers, "has_uint32": state[2], "uinteger": state[3],
    }  # fmt: skip
    places = generator.integers(num_values, size=(num_resamples, num_values))
    places.flags.writeable = False
    return places, generator.bit_generator.state


def percentile_interval(
    center: float, deviations: Float[np.ndarray, "resample"], confidence: float
) -> tuple[float, float]:
    """Return the interval between two percentiles of the values center + deviations.

    The interval always contains the center: if both percentiles lie on the same side of it, the center is one end.
    """
    tail = 0.5 - confidence / 2
    below, above = np.quantile(deviations, [tail, 1 - tail]).tolist()
    return center + min(0.0, below), center + max(0.0, above)
