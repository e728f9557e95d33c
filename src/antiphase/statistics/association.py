"""Correlation across models or checkpoints: is inversion (or a control) related to accuracy?

One point is one model or checkpoint. Checkpoints of one run are similar, so runs are the clusters. `ranking` asks
whether a score tells right from wrong rollouts within a model.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from antiphase.errors import InvalidInputError
from antiphase.statistics.estimate import check_confidence, number_or_none
from antiphase.statistics.pooled_correlation import pooled_correlation

MIN_POINTS = 3
MIN_EXCHANGEABLE = 5
_EXACT_ARRANGEMENTS = math.factorial(7)
_BLOCK = 4096
# The coefficients of equal arrangements can differ by so much through rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Association:
    """Spearman correlation across models. Undefined is NaN, never 0.

    Args:
        spearman: the correlation of the two series, in [−1, 1].
        low: the lower end of the interval.
        high: the upper end of the interval.
        p_value: the two-sided p-value of a permutation test; its null is that the two series are independent.
        num_points: the number of points that were used.
        num_clusters: the number of runs that the points belong to; without clusters, the number of points.
        confidence: the confidence of the interval.
    """

    spearman: float
    low: float
    high: float
    p_value: float
    num_points: int
    num_clusters: int
    confidence: float = 0.95

    @property
    def defined(self) -> bool:
        """Whether the correlation could be computed."""
        return not math.isnan(self.spearman)

    def to_dict(self) -> dict[str, float | int | None]:
        """The values for JSON; undefined numbers become None."""
        return {
            "spearman": number_or_none(self.spearman),
            "low": number_or_none(self.low),
            "high": number_or_none(self.high),
            "p_value": number_or_none(self.p_value),
            "num_points": self.num_points,
            "num_clusters": self.num_clusters,
        }

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined (n={self.num_points})"
        return f"{self.spearman:+.3f} [{self.low:+.3f}, {self.high:+.3f}] p={self.p_value:.3g} (n={self.num_points})"


def rank_association(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    *,
    clusters: Shaped[np.ndarray, "point"] | Sequence[Any] | None = None,
    num_permutations: int = 10_000,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Association:
    """Spearman correlation of two series over models, with an interval and a permutation p-value.

    Without clusters the interval is Fisher's, tanh(atanh ρ ± z √((1+ρ²/2)/(n−3))) (Bonett & Wright 2000). Up to n = 7
    the p-value tries all n! orders, beyond that random ones: p = (1 + those at least as extreme) / (1 + tried). With
    clusters the interval is that of `pooled_correlation` over clusters. The p-value then exchanges whole blocks of y
    between clusters with equally many points; its null is that runs are exchangeable.

    Our reading: a perfect order of few points does not prove that the true correlation is perfect. At |ρ| = 1 the
    interval is made for a correlation that is smaller by half an adjacent swap, 1 − 6/(n(n²−1)), and ends at ±1; n is
    the number of clusters if there are any.

    Args:
        x, y: one value for each model; points with a NaN are left out.
        clusters: the run of each point; None if all points are independent.
        num_permutations: the number of random permutations, if not all are tried.
        num_resamples: how often the bootstrap draws the clusters.
        seed: seeds the permutations and the bootstrap.
        confidence: the confidence of the interval.

    Returns:
        The association. All values are NaN with fewer than 3 points or a constant series. There is no interval with
        fewer than 4 points (2 clusters), and no p-value if fewer than 5 clusters can be exchanged.

    Raises:
        InvalidInputError: the lengths differ, a value is infinite, or the confidence is outside (0, 1).

    >>> print(rank_association(np.array([0.1, 0.2, 0.4, 0.3, 0.6]), np.array([0.2, 0.3, 0.5, 0.6, 0.7])))
    +0.900 [-0.169, +0.996] p=0.0833 (n=5)
    """
    check_confidence(confidence)
    names = _cluster_index(clusters, len(x))
    if len(x) != len(y) or np.isinf(x).any() or np.isinf(y).any():
        raise InvalidInputError(
            f"x and y must hold one finite value (or NaN) a point each; got {len(x)} and {len(y)} values."
        )
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y, names = x[kept].astype(np.float64), y[kept].astype(np.float64), names[kept]
    num, num_clusters = len(x), len(np.unique(names))
    if num < MIN_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Association(math.nan, math.nan, math.nan, math.nan, num, num_clusters, confidence)
    first, second = _standard_ranks(x), _standard_ranks(y)
    value = float(np.clip(first @ second, -1, 1))
    value = math.copysign(1.0, value) if 1 - abs(value) < _ROUNDING else value
    if clusters is None or abs(value) == 1.0:
        low, high = _fisher(value, num_clusters, confidence)
    else:
        tensors = [torch.from_numpy(series) for series in (x, y, names)]
        pooled = pooled_correlation(
            *tensors, min_tokens=MIN_POINTS, num_resamples=num_resamples, seed=seed, confidence=confidence
        )
        low, high = pooled.low, pooled.high
    groups = [np.arange(num)[:, None]] if clusters is None else _exchangeable(names)
    p_value = _permutation_p(first, second, value, groups, num_permutations, seed, clusters is not None)
    return Association(value, low, high, p_value, num, num_clusters, confidence)


def _cluster_index(clusters: np.ndarray | Sequence[Any] | None, num: int) -> Int[np.ndarray, "point"]:
    if clusters is None:
        return np.arange(num)
    if len(clusters) != num:
        raise InvalidInputError(f"clusters must name one run a point; got {len(clusters)} for {num} points.")
    places: dict[Any, int] = {}
    names = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _standard_ranks(values: Float[np.ndarray, "point"]) -> Float[np.ndarray, "point"]:
    ranks = rankdata(values)
    centered = ranks - ranks.mean()
    standard: np.ndarray = centered / np.linalg.norm(centered)
    return standard


def _fisher(value: float, num: int, confidence: float) -> tuple[float, float]:
    if num < 4:
        return math.nan, math.nan
    bounded = math.copysign(min(abs(value), 1 - 6 / (num * (num**2 - 1))), value)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((1 + bounded**2 / 2) / (num - 3))
    low, high = math.tanh(math.atanh(bounded) - reach), math.tanh(math.atanh(bounded) + reach)
    return (-1.0 if value == -1 else low), (1.0 if value == 1 else high)


def _exchangeable(names: Int[np.ndarray, "point"]) -> list[Int[np.ndarray, "cluster member"]]:
    """Groups of at least two clusters with equally many points, each cluster as the indices of its points."""
    by_size: dict[int, list[np.ndarray]] = {}
    for name in np.unique(names):
        places = np.flatnonzero(names == name)
        by_size.setdefault(len(places), []).append(places)
    return [np.stack(members) for members in by_size.values() if len(members) > 1]


def _permutation_p(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    value: float,
    groups: list[Int[np.ndarray, "_cluster _member"]],
    num_permutations: int,
    seed: int,
    clustered: bool,
) -> float:
    if clustered and sum(len(group) for group in groups) < MIN_EXCHANGEABLE:
        return math.nan
    exact = math.prod(math.factorial(len(group)) for group in groups) <= _EXACT_ARRANGEMENTS
    orders = _all_orders(groups, len(x)) if exact else _random_orders(groups, len(x), num_permutations, seed)
    tried = extreme = 0
    for block in orders:
        tried += len(block)
        extreme += int((np.abs(y[block] @ x) >= abs(value) - _ROUNDING).sum())
    return extreme / tried if exact else (1 + extreme) / (1 + tried)


def _all_orders(groups: list[np.ndarray], num: int) -> Iterator[Int[np.ndarray, "_order _point"]]:
    orders = []
    for chosen in itertools.product(*(itertools.permutations(range(len(group))) for group in groups)):
        order = np.arange(num)
        for group, permuted in zip(groups, chosen, strict=True):
            order[group] = group[list(permuted)]
        orders.append(order)
    yield np.stack(orders)


def _random_orders(
    groups: list[np.ndarray], num: int, num_permutations: int, seed: int
) -> Iterator[Int[np.ndarray, "_order _point"]]:
    generator = np.random.default_rng(seed)
    for start in range(0, num_permutations, _BLOCK):
        size = min(_BLOCK, num_permutations - start)
        orders = np.tile(np.arange(num), (size, 1))
        for group in groups:
            permuted = generator.random((size, len(group))).argsort(axis=1)
            orders[:, group] = group[permuted]
        yield orders
