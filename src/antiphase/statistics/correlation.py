"""Compute the correlation of entropy and strength within each rollout, with its interval (docs/method.md).

A pair is the entropy and the strength of a token, of a type (a distinct token id) or of a step (a sentence).
Neighbouring tokens are similar, so the interval is Fisher's with the *effective* number of pairs
(`effective_size`). The interval says nothing about other prompts; for a claim about a model use `pooled_correlation`.
Everything is computed in float64. An undefined value (too few pairs, or a constant series) is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import METHODS, UNITS, Method, Unit, check_one_of
from antiphase.statistics.effective_size import effective_pairs, effective_types
from antiphase.statistics.estimate import check_confidence, fisher_interval, half_swap_less
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.types import Correlation, TokenSignals


def average_ranks(
    values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch token"]:
    """Rank the values of each row where the mask is True, from 1. Equal values get their mean rank.

    The rank is 0 where the mask is False.

    >>> average_ranks(torch.tensor([[3.0, 1.0, 3.0, 9.0]]), torch.tensor([[True, True, True, False]])).tolist()
    [[2.5, 1.0, 2.5, 0.0]]
    """
    # Values outside the mask become +inf and sort last. Values where the mask is True must therefore be finite.
    wide = values.double().masked_fill(~mask, torch.inf)
    ordered = wide.sort(dim=1).values
    below = torch.searchsorted(ordered, wide, right=False)
    up_to = torch.searchsorted(ordered, wide, right=True)
    ranks: Tensor = (below + up_to + 1).double() / 2
    return ranks.masked_fill(~mask, 0.0)


def _centered(values: Tensor, mask: Tensor) -> Tensor:
    """Subtract from each row the mean of its values where the mask is True. Elsewhere the result is 0."""
    wide = values.double().masked_fill(~mask, 0.0)
    count = mask.sum(1, keepdim=True).clamp_min(1)
    return (wide - wide.sum(1, keepdim=True) / count).masked_fill(~mask, 0.0)


def _prepared(x: Tensor, y: Tensor, mask: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """Return both series minus their row means. For Spearman's correlation, the values are first replaced by ranks."""
    check_one_of("method", method, METHODS)
    if method == "spearman":
        x, y = average_ranks(x, mask), average_ranks(y, mask)
    return _centered(x, mask), _centered(y, mask)


def _coefficient(x: Tensor, y: Tensor, mask: Tensor, raw: tuple[Tensor, Tensor], min_tokens: int) -> Tensor:
    """Compute the correlation coefficient of each row from the two series that `_prepared` returns.

    `raw` are the series before `_prepared`. They show which rows are constant; such a row is NaN.
    """
    if x.shape[1] == 0:
        return x.new_full((len(x),), torch.nan)
    # Each series is divided separately, since the product of two small norms may underflow.
    value: Tensor = ((x / x.norm(dim=1, keepdim=True)) * (y / y.norm(dim=1, keepdim=True))).sum(1)
    defined = mask.sum(1) >= max(min_tokens, 2)
    for series in raw:
        # A constant series is recognised by its raw values. After centring, it holds rounding noise that may
        # correlate.
        low = series.double().masked_fill(~mask, torch.inf).amin(1)
        defined &= series.double().masked_fill(~mask, -torch.inf).amax(1) > low
    return value.clamp(-1, 1).masked_fill(~defined, torch.nan)


def coefficients(
    x: Float[Tensor, "batch token"],
    y: Float[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"] | None = None,
    *,
    method: Method = "spearman",
    min_tokens: int = MIN_TOKENS,
) -> Float[Tensor, "batch"]:
    """Compute the correlation coefficient of each row.

    ρ = Σ (x−x̄)(y−ȳ) / √(Σ (x−x̄)² Σ (y−ȳ)²). For Spearman's correlation, x and y are replaced by their ranks
    (docs/method.md).

    Args:
        x, y: the two series; a pair with a NaN is left out.
        mask: True where a pair is used; None uses all.
        method: `spearman` or `pearson`.
        min_tokens: a row with fewer pairs is undefined.

    Returns:
        The coefficients in float64, in [−1, 1]; NaN for a row with too few pairs or a constant series.

    Raises:
        InvalidInputError: a value that is used is infinite, or there is no such method.

    >>> rho = coefficients(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, 5.0, 1.0]]), min_tokens=3)
    >>> round(rho.item(), 12)
    -1.0
    """
    mask = valid_items((x, y), mask)
    a, b = _prepared(x, y, mask, method)
    return _coefficient(a, b, mask, (x, y), min_tokens)


def valid_items(series: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Return a mask that is True where no series is NaN, and where the given mask (if there is one) is True.

    Raises:
        InvalidInputError: a value that is used is infinite.
    """
    valid = torch.stack([~each.isnan() for each in series]).all(0)
    valid = valid if mask is None else valid & mask
    if any(bool((each.isinf() & valid).any()) for each in series):
        raise InvalidInputError("a series holds an infinite value; ranks and moments need finite ones.")
    return valid


def _fisher(correlation: Correlation) -> Correlation:
    """Return a copy of the correlation, to which Fisher's interval is added."""
    value, ranks = correlation.value, correlation.method == "spearman"
    if math.isnan(value):
        return correlation
    if correlation.num_effective <= 3:
        return replace(correlation, low=-1.0, high=1.0)
    center = half_swap_less(value, correlation.num_tokens) if ranks and correlation.unit != "token" else value
    if abs(center) == 1.0:
        return replace(correlation, low=value, high=value)
    low, high = fisher_interval(center, correlation.num_effective, correlation.confidence, ranks=ranks)
    return replace(correlation, low=min(low, value), high=max(high, value))


def group_means(series: Float[Tensor, "series item"], groups: Int[Tensor, "item"]) -> Float[Tensor, "series group"]:
    """Compute the mean of every series over each group of items, such as the tokens with the same id.

    `groups` has the number of each item's group. The result has the groups in ascending order of these numbers.
    """
    ids, place = groups.unique(return_inverse=True)
    wide, count = series.double(), torch.bincount(place, minlength=len(ids)).double()
    total = torch.zeros(len(wide), len(ids), dtype=torch.float64, device=wide.device).index_add_(1, place, wide)
    # The mean of equal values must be exactly that value, so that groups with equal values get equal ranks.
    means: Tensor = (total / count).clamp(*group_bounds(wide, place, len(ids)))
    return means


def by_group(
    x: Float[Tensor, "item"], y: Float[Tensor, "item"], groups: Int[Tensor, "item"]
) -> tuple[Float[Tensor, "group"], Float[Tensor, "group"]]:
    """Compute the means of two series over each group, and return them as two tensors; see `group_means`."""
    means = group_means(torch.stack([x, y]), groups)
    return means[0], means[1]


def group_bounds(
    series: Float[Tensor, "series item"], place: Int[Tensor, "item"], num_groups: int
) -> tuple[Float[Tensor, "series group"], Float[Tensor, "series group"]]:
    """Return the smallest and the greatest value of each series in each group.

    Args:
        series: the series.
        place: the number of each item's group, counted from 0.
        num_groups: the number of groups.
    """
    where = place.expand_as(series)
    empty = series.new_zeros(len(series), num_groups)
    least: Tensor = empty.scatter_reduce(1, where, series, "amin", include_self=False)
    greatest: Tensor = empty.scatter_reduce(1, where, series, "amax", include_self=False)
    return least, greatest


def unit_of(unit: Unit | None, token_ids: Tensor | None) -> Unit:
    """Return the unit, which says what a pair is.

    If `unit` is None, the result is `type` if token ids are given, else `token`.

    Raises:
        InvalidInputError: there is no such unit, or the unit is `type` and there are no token ids.
    """
    unit = unit or ("token" if token_ids is None else "type")
    check_one_of("unit", unit, UNITS)
    if unit == "type" and token_ids is None:
        raise InvalidInputError('unit "type" averages over the occurrences of each token id: give token_ids.')
    return unit


def least_items(unit: Unit, min_tokens: int | None) -> int:
    """Return the smallest number of items for a correlation: `min_tokens`, or the unit's default if this is None."""
    return min_tokens if min_tokens is not None else MIN_STEPS if unit == "step" else MIN_TOKENS


def _two_series(entropy: TokenSignals | Tensor, strength: Tensor | None, unit: Unit) -> tuple[Tensor, Tensor]:
    """Return entropy and strength (of steps for the unit `step`) as `[batch, item]` on the CPU. Shapes are checked."""
    if isinstance(entropy, TokenSignals):
        signals = entropy.steps if unit == "step" else entropy
        if signals is None:
            raise InvalidInputError(
                "these signals hold no steps; give token_signals the step of every token (steps=)."
            )
        entropy, strength = signals.entropy, signals.strength
    if strength is None or entropy.shape != strength.shape or entropy.ndim not in (1, 2):
        axis = "step" if unit == "step" else "token"
        shapes = f"{tuple(entropy.shape)} and {None if strength is None else tuple(strength.shape)}"
        raise InvalidInputError(f"entropy and strength must share a shape [{axis}] or [batch, {axis}]; got {shapes}.")
    return torch.atleast_2d(entropy.detach().cpu()), torch.atleast_2d(strength.detach().cpu())


def _like(name: str, given: Tensor, series: Tensor) -> Tensor:
    """Return the tensor `given` as `[batch, item]` on the CPU.

    Raise InvalidInputError if its shape is not that of `series`. The message calls the tensor `name`.
    """
    given = torch.atleast_2d(given.cpu())
    if given.shape != series.shape:
        raise InvalidInputError(
            f"{name} must have the shape of the series, {tuple(series.shape)}; got {tuple(given.shape)}."
        )
    return given


def type_means(x: Tensor, y: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average x and y over the tokens of each type, in each row. A type is a distinct token id.

    Args:
        x, y: the two series, `[batch, token]`.
        ids: the id of each token.
        valid: True where a token is used.

    Returns:
        Three tensors `[batch, token]`: the means of x, the means of y, and an index for each token. The means of a
        type stand at the position of its first token in the row. At all other positions they are NaN. The index of a
        token says at which position the means of its type stand.
    """
    means = torch.full((2, *x.shape), torch.nan, dtype=torch.float64)
    home = torch.zeros(x.shape, dtype=torch.long)
    for row in range(len(x)):
        kept = torch.nonzero(valid[row]).flatten()
        distinct, group = ids[row, kept].unique(return_inverse=True)
        first = torch.full((len(distinct),), x.shape[1]).scatter_reduce_(0, group, kept, "amin")
        means[:, row, first] = torch.stack(by_group(x[row, kept], y[row, kept], group))
        home[row, kept] = first[group]
    return means[0], means[1], home


def correlate(
    entropy: TokenSignals | Float[Tensor, "..."],
    strength: Float[Tensor, "..."] | None = None,
    *,
    unit: Unit | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    token_ids: Int[Tensor, "..."] | None = None,
    method: Method = "spearman",
    min_tokens: int | None = None,
    confidence: float = 0.95,
) -> list[Correlation]:
    """Compute the correlation of entropy and strength within each rollout, with its interval.

    The interval is Fisher's, tanh(atanh ρ ± q √(v/(n_eff−3))). Here q is the normal quantile, such as 1.96, and v is 1
    + ρ²/2 for Spearman's correlation and 1 for Pearson's. n_eff is the number of independent pairs that carry as much
    information as the n pairs (`effective_pairs`).

    If types or steps are in perfect order (ρ = ±1), the interval is computed as if ρ were ±(1 − 6/(n(n²−1))), and the
    end that is nearer to ρ is then set to ρ (`half_swap_less` explains the formula). The reason is that a perfect
    order can be chance: without any correlation, one in twelve sets of four steps is in perfect order.

    Args:
        entropy: the entropy, `[token]` or `[batch, token]`; for steps `[step]` or `[batch, step]`. It can also be
            `TokenSignals`, which contain the strength and the steps too.
        strength: the strength, in the same shape. A pair with a NaN, which means not measured, is left out.
        unit: what a pair is: `token`, `type` (both series are first averaged over each distinct token id), or `step`
            (a sentence). The default is `type` if token_ids are given, else `token`.
        mask: True where a pair is used; None uses all.
        token_ids: the id of each token, which the unit `type` needs.
        method: `spearman` or `pearson`.
        min_tokens: a rollout with fewer pairs is undefined. None means `MIN_STEPS` for steps, else `MIN_TOKENS`.
        confidence: the confidence of the interval.

    Returns:
        One `Correlation` for each rollout.

    Raises:
        InvalidInputError: the shapes differ, a value is infinite, there is no such unit or method, the unit is `type`
            without token ids, or the unit is `step` and the signals have no steps.

    >>> x = torch.arange(10.0)
    >>> print(correlate(x, -(x**3))[0])
    -1.000 [-1.000, -1.000] (n=10)
    """
    check_confidence(confidence)
    unit = unit_of(unit, token_ids)
    x, y = _two_series(entropy, strength, unit)
    valid = valid_items((x, y), None if mask is None else _like("mask", mask, x))
    items, home = valid, None
    if unit == "type" and token_ids is not None:
        x, y, home = type_means(x, y, _like("token_ids", token_ids, x), valid)
        items = ~x.isnan()
    a, b = _prepared(x, y, items, method)
    values = _coefficient(a, b, items, (x, y), least_items(unit, min_tokens))
    worth = effective_pairs(a, b, valid) if home is None else effective_types(a, b, home, valid)
    return [
        _fisher(Correlation(v, math.nan, math.nan, n, w if n else math.nan, method, confidence, unit))
        for v, w, n in zip(values.tolist(), worth.tolist(), items.sum(1).tolist(), strict=True)
    ]
