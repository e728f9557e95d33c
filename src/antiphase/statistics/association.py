"""Correlate two numbers across models or checkpoints, such as inversion and accuracy, with an interval and a p-value.

One point is one model or checkpoint. Checkpoints of one training run are similar, so all points of a run form a
cluster. The module `ranking` asks, within one model, whether a score tells right rollouts from wrong ones.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from antiphase.errors import InvalidInputError
from antiphase.statistics.estimate import check_confidence, fisher_interval, half_swap_less, number_or_none
from antiphase.statistics.pooled_correlation import pooled_correlation

MIN_POINTS = 3
MIN_EXCHANGEABLE = 5
_EXACT_ARRANGEMENTS = math.factorial(7)
_BLOCK = 4096
# The coefficients of equal arrangements can differ by this much through rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Association:
    """A Spearman correlation of two series of numbers, with one point for each model. An undefined number is NaN.

    Args:
        spearman: the correlation of the two series, in [−1, 1].
        low: the lower end of the interval.
        high: the upper end of the interval.
        p_value: the two-sided p-value of a permutation test of whether the two series are independent.
        num_points: the number of points that were used.
        num_clusters: the number of clusters. All points of one run are a cluster. If no clusters were given, this is
            the number of points.
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
        """Return whether the correlation could be computed."""
        return not math.isnan(self.spearman)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the values for JSON, without the confidence; undefined numbers become None."""
        return {name: number_or_none(value) for name, value in vars(self).items() if name != "confidence"}

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
    """Compute the Spearman correlation of two series over models, with an interval and a permutation p-value.

    Without clusters, the interval is Fisher's, tanh(atanh ρ ± q √((1+ρ²/2)/(n−3))) (Bonett & Wright 2000). Here n is
    the number of points, and q the normal quantile, such as 1.96. The permutation test puts y into other orders. Up to
    n = 7 it tries all n! orders. Beyond that it tries random orders, and the p-value is (1 + number of orders whose
    |ρ| is at least as large) / (1 + number of orders tried).

    With clusters (the points of one training run form a cluster), the interval is a bootstrap's: clusters are drawn
    with replacement, as `pooled_correlation` draws prompts. The permutation test lets clusters of the same size swap
    all their values of y. Its null hypothesis is that the runs can be exchanged.

    Our reading: a perfect order of few points does not prove that the true correlation is perfect. If |ρ| = 1, the
    interval is computed as if |ρ| were 1 − 6/(n(n²−1)), and the end that is nearer to ρ is then set to ρ. With
    clusters, n is their number. `half_swap_less` explains the formula.

    Args:
        x, y: one value for each model; a point with a NaN is left out.
        clusters: the run of each point; None if all points are independent.
        num_permutations: the number of random orders, if there are too many to try all.
        num_resamples: number of bootstrap resamples of the clusters.
        seed: seed of the two random generators: one draws the permutations, one the bootstrap resamples.
        confidence: the confidence of the interval.

    Returns:
        The association. All values are NaN with fewer than 3 points or a constant series. The interval is NaN with
        fewer than 4 points, or with fewer than 2 clusters. With clusters, the p-value is NaN if fewer than
        5 clusters can be exchanged. A cluster can be exchanged if another one has the same number of points.

    Raises:
        InvalidInputError: the lengths differ, a value is infinite, or the confidence is outside (0, 1).

    >>> print(rank_association(np.array([0.1, 0.2, 0.4, 0.3, 0.6]), np.array([0.2, 0.3, 0.5, 0.6, 0.7])))
    +0.900 [-0.169, +0.996] p=0.0833 (n=5)
    """
    check_confidence(confidence)
    names = _cluster_index(clusters, len(x))
    if len(x) != len(y) or np.isinf(x).any() or np.isinf(y).any():
        raise InvalidInputError(
            "the arguments 'x' and 'y' must each hold one finite value (or NaN) for every point; got "
            f"{len(x)} and {len(y)} values."
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
    """Number the clusters from 0, and return the number of each point's cluster.

    `clusters` names the cluster of each point. If it is None, every point is a separate cluster.
    """
    if clusters is None:
        return np.arange(num)
    if len(clusters) != num:
        raise InvalidInputError(f"clusters must name one run for every point; got {len(clusters)} for {num} points.")
    places: dict[Any, int] = {}
    names = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _standard_ranks(values: Float[np.ndarray, "point"]) -> Float[np.ndarray, "point"]:
    """Return the ranks of the values as a centred vector of length 1; ρ is the inner product of two such vectors."""
    ranks = rankdata(values)
    centered = ranks - ranks.mean()
    standard: np.ndarray = centered / np.linalg.norm(centered)
    return standard


def _fisher(value: float, num: int, confidence: float) -> tuple[float, float]:
    """Return Fisher's interval of the correlation `value` over `num` points; NaN with fewer than 4 points.

    If the correlation is ±1, one end of the interval is this ±1. The other end is computed from a value slightly
    inside ±1 (see `half_swap_less`), because Fisher's formula is infinite at ±1.
    """
    if num < 4:
        return math.nan, math.nan
    low, high = fisher_interval(half_swap_less(value, num), num, confidence)
    return (-1.0 if value == -1 else low), (1.0 if value == 1 else high)


def _exchangeable(names: Int[np.ndarray, "point"]) -> list[Int[np.ndarray, "cluster member"]]:
    """Group the clusters by size, so that a permutation test can exchange the clusters of a group.

    A cluster is the set of points of one run, and its size is its number of points. Groups of a single cluster are
    left out.

    Args:
        names: the number of each point's cluster.

    Returns:
        one array `[cluster, member]` for each group. Its row c holds the indices of the points of the c-th cluster.
    """
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
    """Compute the two-sided p-value of a permutation test of a rank correlation.

    The test exchanges clusters (the points of one run each) that have the same size.

    Args:
        x, y: the ranks of both series, as `_standard_ranks` returns them.
        value: the correlation of x and y.
        groups: the groups of clusters that can be exchanged, as `_exchangeable` returns them.
        num_permutations: the number of random orders, if there are too many to try all.
        seed: seed of the random orders.
        clustered: whether there are clusters. With clusters, the p-value is NaN if fewer than `MIN_EXCHANGEABLE`
            clusters can be exchanged.
    """
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
    """Yield one array `[order, point]` with all orders of the points that exchange whole clusters of equal size.

    Each order is a row of indices of points. `groups` are the groups of clusters that `_exchangeable` returns, and
    `num` is the number of points.
    """
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
    """Yield random orders of the points that exchange whole clusters of equal size, as arrays `[order, point]`.

    Each order is a row of indices of points. The arrays together have `num_permutations` rows. `groups` are the groups
    of clusters that `_exchangeable` returns, and `num` is the number of points.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, num_permutations, _BLOCK):
        size = min(_BLOCK, num_permutations - start)
        orders = np.tile(np.arange(num), (size, 1))
        for group in groups:
            permuted = generator.random((size, len(group))).argsort(axis=1)
            orders[:, group] = group[permuted]
        yield orders
