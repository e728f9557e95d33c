"""Compute the partial rank correlation of two series: their correlation with other series held fixed (docs/method.md).

The ranks of both series are fitted by least squares on the ranks of the given series, and the residuals are
correlated. The result shows whether entropy and strength are related beyond what, for example, the length of a step
explains. The result proves no cause. If one series acts on the other through a given series, this path is removed as
well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import METHODS, Method, Unit, check_one_of
from antiphase.statistics.correlation import group_means, least_items, unit_of, valid_items
from antiphase.statistics.correlation_matrices import masked_matrix, partial_from, token_matrices, type_matrices
from antiphase.statistics.resampling import Resampler
from antiphase.types import Correlation


def partial_coefficients(
    x: Float[Tensor, "batch item"],
    y: Float[Tensor, "batch item"],
    given: Sequence[Float[Tensor, "..."]],
    mask: Bool[Tensor, "batch item"] | None = None,
    *,
    method: Method = "spearman",
    min_tokens: int | None = None,
    unit: Unit = "token",
) -> Float[Tensor, "batch"]:
    """Compute the correlation of x and y in each row with the given series held fixed.

    ρ(x, y | g) = Σ u v / √(Σ u² Σ v²). Here u and v are the residuals of x and y after a least-squares fit on the
    given series and a constant. For Spearman's correlation, all series are first replaced by their ranks. With one
    given series, the formula is (ρ_xy − ρ_xg ρ_yg) / √((1 − ρ_xg²)(1 − ρ_yg²)).

    Args:
        x, y: the two series; an item with a NaN is left out.
        given: the series that are held fixed; an item with a NaN in any of them is left out. A series that is
            constant, or a combination of others, changes nothing.
        mask: True where an item is used; None uses all.
        method: `spearman` or `pearson`.
        min_tokens: the smallest number of items for a correlation without given series. Each given series adds one to
            it. None means the default of the unit.
        unit: what an item is: `token`, `type` or `step`.

    Returns:
        The correlations in float64, in [−1, 1]. A row is NaN if it has too few items, or if the given series explain
        the variance of x or y almost completely: all but a share of 10⁻¹⁰.

    Raises:
        InvalidInputError: the shapes differ, a value is infinite, or there is no such method.

    >>> length = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    >>> x, y = torch.tensor([[1.0, 3.0, 2.0, 4.0, 6.0, 5.0]]), torch.tensor([[2.0, 1.0, 3.0, 4.0, 5.0, 6.0]])
    >>> round(partial_coefficients(x, y, [length], min_tokens=4).item(), 3)
    -0.412
    """
    check_one_of("method", method, METHODS)
    series = torch.stack([each.detach().cpu().double() for each in _same_shape([x, y, *given])])
    valid = valid_items(list(series), None if mask is None else mask.cpu())
    value = partial_from(masked_matrix(series, valid, method), 0, 1, range(2, len(series)))
    least = max(least_items(unit, min_tokens), 2) + len(given)
    return value.masked_fill(valid.sum(1) < least, torch.nan)


def _same_shape(series: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the series unchanged. Raise `InvalidInputError` if their shapes differ."""
    shapes = [tuple(each.shape) for each in series]
    if len(set(shapes)) > 1:
        raise InvalidInputError(f"all series must have one shape; got {', '.join(map(str, shapes))}.")
    return series


@dataclass(frozen=True)
class Joint:
    """The correlations of several series over all rollouts, and also in every resample of the prompts.

    Args:
        sample: the correlation matrix over all rollouts.
        resampled: the correlation matrix in every resample.
        resampler: the object that drew the resamples.
        num_items: the number of tokens, types or steps that were used.
        method: `spearman` or `pearson`.
        unit: what is correlated: `token`, `type` or `step`.
    """

    sample: Float[Tensor, "series series"]
    resampled: Float[Tensor, "resample series series"]
    resampler: Resampler
    num_items: int
    method: Method
    unit: Unit

    @classmethod
    def of(
        cls,
        series: Sequence[Float[Tensor, "..."]],
        clusters: Int[Tensor, "item"],
        *,
        unit: Unit | None = None,
        token_ids: Int[Tensor, "item"] | None = None,
        method: Method = "spearman",
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> "Joint":
        """Rank all series, and resample the prompts once for all series.

        The cost is O(num_resamples · items · series). After that, every call of `correlation` is cheap. An item is a
        token or a step. If an item is NaN in one series, it is left out of all series.

        Args:
            series: the series, each with one value for every item of all rollouts.
            clusters: the prompt that each item belongs to.
            unit: what is correlated: `token`, `type` (all series are first averaged over each distinct token id) or
                `step`. The default is `type` if token_ids are given, else `token`.
            token_ids: the id of each token, which the unit `type` needs.
            method: `spearman` or `pearson`.
            num_resamples: the number of resamples of prompts.
            seed: seed of the random generator that draws the resamples.
        """
        check_one_of("method", method, METHODS)
        beside = [clusters] if token_ids is None else [clusters, token_ids]
        _same_shape([*series, *beside])
        stacked = torch.stack([each.detach().cpu().double() for each in series])
        valid = valid_items(list(stacked))
        kept, ids, unit = stacked[:, valid], None, unit_of(unit, token_ids)
        if unit == "type" and token_ids is not None:
            ids = token_ids.cpu()[valid]
        size = len(kept)
        if not bool(valid.any()):
            nothing = Resampler(torch.zeros(0, dtype=torch.long), 0, torch.zeros(0, 0, dtype=torch.float64))
            return cls(torch.zeros(size, size).double(), torch.zeros(0, size, size).double(), nothing, 0, method, unit)
        clusters = clusters.cpu()[valid]
        if ids is None:
            resampler = Resampler.of(clusters, num_resamples, seed)
            items, resampled = kept, token_matrices(kept, resampler, method)
        else:
            resampler = Resampler.leaving_out(clusters, num_resamples, seed)
            items, resampled = group_means(kept, ids), type_matrices(kept, ids, resampler, method)
        everything = torch.ones(1, items.shape[1], dtype=torch.bool)
        sample = masked_matrix(items[:, None], everything, method)[0]
        return cls(sample, resampled, resampler, items.shape[1], method, unit)

    def correlation(
        self, x: int, y: int, given: Sequence[int] = (), *, min_tokens: int | None = None, confidence: float = 0.95
    ) -> Correlation:
        """Compute the correlation of two series with others held fixed, and its interval over prompts.

        Args:
            x, y: the indices of the two series.
            given: the indices of the series that are held fixed.
            min_tokens: the smallest number of items for a correlation without given series. Each given series adds one
                to it. None means the default of the unit.
            confidence: the confidence of the interval.
        """
        value = float(partial_from(self.sample, x, y, given))
        if self.num_items < max(least_items(self.unit, min_tokens), 2) + len(given):
            value = math.nan
        low, high = self.resampler.interval(value, partial_from(self.resampled, x, y, given), confidence)
        return Correlation(value, low, high, self.num_items, math.nan, self.method, confidence, self.unit)

    def undefined_share(self, x: int, y: int, given: Sequence[int] = ()) -> float:
        """Return the share of the resamples in which the correlation of two series is undefined; 0 without resamples.

        Args:
            x, y: the indices of the two series.
            given: the indices of the series that are held fixed.
        """
        if not len(self.resampled):
            return 0.0
        return float(partial_from(self.resampled, x, y, given).isnan().double().mean())


def pooled_partial(
    x: Float[Tensor, "item"],
    y: Float[Tensor, "item"],
    given: Sequence[Float[Tensor, "..."]],
    clusters: Int[Tensor, "item"],
    *,
    unit: Unit | None = None,
    token_ids: Int[Tensor, "item"] | None = None,
    method: Method = "spearman",
    min_tokens: int | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Correlation:
    """Correlate x and y over all rollouts with the given series held fixed, with an interval over prompts.

    `partial_coefficients` explains the formula of the value, and `pooled_correlation` explains the interval. For
    types, all series, including the given ones, are first averaged over each distinct token id.

    Args:
        x, y: the values of all tokens or steps of all rollouts, one after another.
        given: the series that are held fixed, in the same form. A token or step that is NaN in x, in y or in one of
            these series is left out.
        clusters: the prompt that each token or step belongs to.
        unit: what is correlated: `token`, `type` (a distinct token id) or `step` (a sentence). The default is `type`
            if token_ids are given, else `token`.
        token_ids: the id of each token, which the unit `type` needs.
        method: `spearman` or `pearson`.
        min_tokens: with fewer tokens, types or steps, the correlation is undefined. Each series in `given` raises this
            limit by 1. None means the default of the unit.
        num_resamples: the number of resamples of prompts.
        seed: seed of the random generator that draws the resamples.
        confidence: the confidence of the interval.

    Returns:
        The partial correlation; NaN where undefined. The interval is NaN with fewer than two prompts.
    """
    joint = Joint.of(
        [x, y, *given],
        clusters,
        unit=unit,
        token_ids=token_ids,
        method=method,
        num_resamples=num_resamples,
        seed=seed,
    )
    return joint.correlation(0, 1, range(2, 2 + len(given)), min_tokens=min_tokens, confidence=confidence)
