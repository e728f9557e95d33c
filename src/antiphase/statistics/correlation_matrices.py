"""Compute correlation matrices of several series in resamples of prompts, and partial correlations from a matrix.

All correlations and partial correlations of some series can be read from one matrix, so the series are ranked only
once.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from antiphase.signal_spec import Method
from antiphase.statistics.correlation import average_ranks, group_bounds
from antiphase.statistics.many_items import MANY_ITEMS, matrices_of_many
from antiphase.statistics.resampling import Resampler

# If less than this share of a series' variance is left, the remainder counts as rounding.
EXPLAINED = 1e-10
_ROUNDING = 1e-11


def partial_from(
    matrix: Float[Tensor, "*row series series"], x: int, y: int, given: Sequence[int] = ()
) -> Float[Tensor, "*row"]:
    """Compute, from correlation matrices, the partial correlation of series x and y with the given series held fixed.

    The given series are removed from the matrix C one by one, C ← C − c_g c_gᵀ / C_gg, where c_g is the column of the
    series g. This leaves the covariances of the residuals of a least-squares fit. A given series without remaining
    variance (it is constant, or a combination of those before it) changes nothing. If x or y has no remaining
    variance, the value is NaN.

    Args:
        matrix: one correlation matrix, or several.
        x, y: the indices of the two series.
        given: the indices of the series that are held fixed.
    """
    rest = matrix
    for series in given:
        pivot = rest[..., series, series, None, None]
        column = rest[..., :, series, None]
        removed = column * column.transpose(-1, -2) / pivot.clamp_min(EXPLAINED)
        rest = rest - removed.masked_fill(pivot <= EXPLAINED, 0.0)
    left = torch.minimum(rest[..., x, x], rest[..., y, y])
    value = rest[..., x, y] / rest[..., x, x].sqrt() / rest[..., y, y].sqrt()
    return value.clamp(-1, 1).masked_fill(~(left > EXPLAINED), torch.nan)


def correlation_matrix(
    series: Float[Tensor, "series row item"], weights: Float[Tensor, "row item"]
) -> Float[Tensor, "row series series"]:
    """Compute the weighted Pearson correlation of every two series in each row; 0 for a series without variance."""
    total = weights.sum(-1).clamp_min(torch.finfo(weights.dtype).tiny)
    mean = torch.einsum("sri,ri->rs", series, weights) / total[:, None]
    rows = (series.transpose(0, 1) - mean[..., None]).mul_(weights.sqrt()[:, None])
    products = rows @ rows.transpose(1, 2)
    variance = products.diagonal(dim1=1, dim2=2)
    # The values of a constant series differ by rounding once they are centred, so its variance need not be exactly 0.
    constant = variance <= _ROUNDING**2 * (variance + total[:, None] * mean**2)
    scale = variance.sqrt().masked_fill(constant, torch.inf)
    matrix: Tensor = products / scale[:, :, None] / scale[:, None, :]
    return matrix


def weighted_ranks(values: Float[Tensor, "item"]) -> Callable[[Tensor], Tensor]:
    """Return a function that maps weights `[resample, item]` to the ranks of the values in each resample.

    In a resample, a value occurs as often as its weight says. Each rank is smaller than usual by one half, which does
    not change a correlation.
    """
    _, place = values.unique(return_inverse=True)
    num = int(place.max()) + 1

    def ranks(weights: Tensor) -> Tensor:
        """Return the ranks of the values in each resample, `[resample, item]`, for weights of the same shape."""
        mass = torch.zeros(len(weights), num, dtype=torch.float64).index_add_(1, place, weights)
        return (mass.cumsum(1) - mass / 2)[:, place]

    return ranks


def token_matrices(
    series: Float[Tensor, "series item"], resampler: Resampler, method: Method
) -> Float[Tensor, "resample series series"]:
    """Compute the correlation matrix of the series over all items (tokens or steps) in every resample.

    With `MANY_ITEMS` items or more, the matrices are computed from counts of items; see `many_items`.

    Args:
        series: the series.
        resampler: the resamples of prompts, with the prompt of each item.
        method: `spearman` or `pearson`.
    """
    if series.shape[1] >= MANY_ITEMS:
        return matrices_of_many(series, resampler, method)
    ranks = [weighted_ranks(row) for row in series] if method == "spearman" else []

    def matrices(draws: Tensor) -> Tensor:
        """Compute the correlation matrices of some resamples from the weights of prompts, `[resample, prompt]`."""
        weights = draws[:, resampler.cluster]
        items = torch.stack([each(weights) for each in ranks]) if ranks else series[:, None].expand(-1, len(draws), -1)
        return correlation_matrix(items, weights)

    return resampler.apply_draws(matrices, series.numel())


def type_matrices(
    series: Float[Tensor, "series token"], token_ids: Int[Tensor, "token"], resampler: Resampler, method: Method
) -> Float[Tensor, "resample series series"]:
    """Compute the correlation matrix of the series over types (distinct token ids) in every resample.

    The value of a type is the mean over its tokens in the resample. A type without tokens in the resample is left out.

    Args:
        series: the series.
        token_ids: the id of each token.
        resampler: the resamples of prompts, with the prompt of each token.
        method: `spearman` or `pearson`.
    """
    _, place = token_ids.unique(return_inverse=True)
    shape = (int(place.max()) + 1, resampler.num_clusters)
    where = (place.numpy(), resampler.cluster.numpy())
    # The sums for each type and prompt. With them, a resample needs no pass over the tokens.
    sums = [sparse.csr_matrix((row.numpy(), where), shape=shape) for row in [torch.ones_like(series[0]), *series]]
    bounds = list(zip(*group_bounds(series, place, shape[0]), strict=True))

    def matrices(draws: Tensor) -> Tensor:
        """Compute the correlation matrices of some resamples from the weights of prompts, `[resample, prompt]`."""
        totals = [torch.from_numpy(each @ draws.T.numpy()).T for each in sums]
        seen = totals[0] > 0
        means = [(total / totals[0]).clamp(*ends) for total, ends in zip(totals[1:], bounds, strict=True)]
        means = [mean.masked_fill(~seen, 0.0) for mean in means]
        items = [average_ranks(mean, seen) for mean in means] if method == "spearman" else means
        return correlation_matrix(torch.stack(items), seen.double())

    return resampler.apply_draws(matrices, shape[0] * len(series))


def masked_matrix(
    series: Float[Tensor, "series row item"], mask: Bool[Tensor, "row item"], method: Method
) -> Float[Tensor, "row series series"]:
    """Compute, for each row, the correlation of every two series. Only the items at which the mask is True are used.

    The correlation of a constant series with any other series is 0.
    """
    wide = series.masked_fill(~mask, 0.0)
    if method == "spearman":
        wide = torch.stack([average_ranks(each, mask) for each in wide])
    return correlation_matrix(wide, mask.double())
