"""Compute one correlation of entropy and strength over many rollouts, with an interval for other prompts.

The interval comes from resamples of prompts (`resampling`, docs/method.md). A resample is a set of integer weights, so
the series are sorted only once. The module `correlation` correlates within each rollout.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import Method, Unit
from antiphase.statistics.correlation import (
    by_group,
    coefficients,
    least_items,
    unit_of,
    valid_items,
)
from antiphase.statistics.correlation_matrices import partial_from, type_matrices, weighted_ranks
from antiphase.statistics.estimate import check_confidence
from antiphase.statistics.many_items import MANY_ITEMS, matrices_of_many
from antiphase.statistics.resampling import Resampler
from antiphase.types import Correlation


def _weighted_coefficient(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Compute the Pearson correlation of x and y in each resample, weighted by `weights` `[resample, item]`.

    It is NaN if a series is constant in the resample.
    """
    total = weights.sum(1, keepdim=True)
    a = x - (weights * x).sum(1, keepdim=True) / total
    b = y - (weights * y).sum(1, keepdim=True) / total
    scale = ((weights * a * a).sum(1) * (weights * b * b).sum(1)).sqrt()
    return (weights * a * b).sum(1) / scale.masked_fill(scale <= 0, torch.nan)


def pooled_correlation(
    entropy: Float[Tensor, "item"],
    strength: Float[Tensor, "item"],
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
    """Correlate entropy and strength over all tokens, types or steps of all rollouts, with an interval over prompts.

    For tokens and steps, the interval is a bootstrap's: prompts are drawn with replacement, with all their items, and
    the ends are expanded percentiles on Fisher's scale (`Resampler.interval` has the formula). The interval is for the
    ρ that infinitely many prompts would give.

    For types (distinct token ids), the interval is the jackknife's: each of the C prompts is left out in turn, which
    gives a standard error SE, and the interval is ± t_{C−1} SE on Fisher's scale, with Student's quantile t_{C−1}. If
    there are more than `num_resamples` prompts, they are divided at random into `num_resamples` groups, one group is
    left out at a time, and the number of groups replaces C.

    With more prompts there are more rare types, so ρ over types depends on the size of the run. The interval is for
    the mean ρ of runs that have as many prompts and tokens as this one. Compare ρ over types only between runs of the
    same size.

    Args:
        entropy, strength: the values of all tokens or steps of all rollouts, one after another. A pair with a NaN is
            left out.
        clusters: the prompt that each item belongs to.
        unit: what a pair is: `token`, `type` (both series are first averaged over each distinct token id of all
            rollouts), or `step` (a sentence). The default is `type` if token_ids are given, else `token`.
        token_ids: the id of each token, which the unit `type` needs.
        method: `spearman` or `pearson`.
        min_tokens: with fewer pairs, the correlation is undefined. None means `MIN_STEPS` for steps, else
            `MIN_TOKENS`.
        num_resamples: number of bootstrap resamples. For types, the largest number of resamples. Each resample
            leaves out one prompt, or one group of prompts if there are more prompts than resamples.
        seed: seed of the random generator that draws the resamples.
        confidence: the confidence of the interval.

    Returns:
        The correlation over all items. Its interval is NaN with fewer than two prompts.

    Raises:
        InvalidInputError: a series has several axes or another length, a value is infinite, there is no such unit or
            method, or the unit is `type` without token ids.

    Cost: O(num_resamples · tokens) with fewer than `MANY_ITEMS` items. With more, the resamples are computed from
    counts of items (`antiphase.statistics.many_items`), and the cost is O(num_resamples + tokens).
    """
    check_confidence(confidence)
    unit = unit_of(unit, token_ids)
    _check_flat(entropy=entropy, strength=strength, clusters=clusters, token_ids=token_ids)
    x, y, clusters = entropy.detach().cpu().double(), strength.detach().cpu().double(), clusters.cpu()
    valid = valid_items((x, y))
    x, y, clusters = x[valid], y[valid], clusters[valid]
    ids = token_ids.cpu()[valid] if unit == "type" and token_ids is not None else None
    plain = (x, y) if ids is None else by_group(x, y, ids)
    count, least = len(plain[0]), least_items(unit, min_tokens)
    value = coefficients(plain[0][None], plain[1][None], method=method, min_tokens=least).item()
    low = high = math.nan
    if not math.isnan(value) and ids is None:
        resampler = Resampler.of(clusters, num_resamples, seed)
        if count >= MANY_ITEMS:
            resampled = partial_from(matrices_of_many(torch.stack([x, y]), resampler, method), 0, 1)
        else:
            resampled = resampler.apply(_statistic(x, y, method))
        low, high = resampler.interval(value, resampled, confidence)
    elif not math.isnan(value) and ids is not None:
        resampler = Resampler.leaving_out(clusters, num_resamples, seed)
        resampled = partial_from(type_matrices(torch.stack([x, y]), ids, resampler, method), 0, 1)
        low, high = resampler.interval(value, resampled, confidence)
    return Correlation(value, low, high, count, math.nan, method, confidence, unit)


def _check_flat(**series: Tensor | None) -> None:
    """Raise `InvalidInputError` if a series has several axes, or if the lengths of the series differ."""
    shapes = {name: tuple(each.shape) for name, each in series.items() if each is not None}
    if len(set(shapes.values())) > 1 or len(shapes["entropy"]) != 1:
        raise InvalidInputError(
            "all items of all rollouts must stand one after another, in series of one axis and one length; got "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            + ". From a batch, take the measured tokens: signals.entropy[signals.measured]."
        )


def _statistic(x: Tensor, y: Tensor, method: Method) -> Callable[[Tensor], Tensor]:
    """Return a function that maps item weights `[resample, item]` to the correlation of x and y in each resample."""
    if method == "pearson":
        return lambda weights: _weighted_coefficient(x, y, weights)
    ranks_x, ranks_y = weighted_ranks(x), weighted_ranks(y)
    return lambda weights: _weighted_coefficient(ranks_x(weights), ranks_y(weights), weights)


def mean_within(
    values: Float[Tensor, "rollout"],
    clusters: Int[Tensor, "rollout"],
    *,
    unit: Unit = "token",
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    method: Method = "spearman",
) -> Correlation:
    """Average the correlations ρ that were computed within each rollout, with an interval over prompts.

    A correlation over all rollouts (`pooled_correlation`) also contains differences between rollouts. This mean does
    not. Rollouts with an undefined ρ are left out.

    Args:
        values: ρ of each rollout.
        clusters: the prompt that each rollout belongs to.
        unit: what each ρ correlates: `token`, `type` or `step`.
        num_resamples: the number of bootstrap resamples of prompts.
        seed: seed of the random generator that draws the resamples.
        confidence: the confidence of the interval.
        method: the kind of correlation that each ρ is: `spearman` or `pearson`.

    Returns:
        The mean as a `Correlation`, whose `num_tokens` is the number of rollouts that were used.
    """
    defined = values.isfinite()
    kept, clusters = values[defined].cpu().double(), clusters.cpu()[defined.cpu()]
    if len(kept) == 0:
        return Correlation(math.nan, math.nan, math.nan, 0, math.nan, method, confidence, unit)
    resampler = Resampler.of(clusters, num_resamples, seed)
    mean = float(kept.mean())
    resampled = resampler.apply(lambda weights: (weights * kept).sum(1) / weights.sum(1))
    low, high = resampler.interval(mean, resampled, confidence)
    return Correlation(mean, low, high, len(kept), math.nan, method, confidence, unit)
