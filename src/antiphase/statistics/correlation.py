"""Correlation of two token series: ranks, coefficients, and intervals within a rollout (docs/method.md).

Tokens of one rollout are autocorrelated, so a rollout's interval is Fisher's with the number of *effective* pairs.
Claims about a model need intervals over prompts: see `pooled_correlation`. Everything is accumulated in float64. An
undefined value (too few pairs, or a constant series) is NaN.
"""

import math
from dataclasses import replace
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import METHODS, UNITS, Method, Unit, check_one_of
from antiphase.statistics.effective_size import effective_pairs, effective_types
from antiphase.statistics.estimate import check_confidence
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.types import Correlation, TokenSignals


def average_ranks(
    values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch token"]:
    """Ranks, from 1, among the values under the mask in each row; ties get their mean rank. 0 outside the mask.

    >>> average_ranks(torch.tensor([[3.0, 1.0, 3.0, 9.0]]), torch.tensor([[True, True, True, False]])).tolist()
    [[2.5, 1.0, 2.5, 0.0]]
    """
    # Values outside the mask become +inf and sort last, so infinite values under the mask are not allowed.
    wide = values.double().masked_fill(~mask, torch.inf)
    ordered = wide.sort(dim=1).values
    below = torch.searchsorted(ordered, wide, right=False)
    up_to = torch.searchsorted(ordered, wide, right=True)
    ranks: Tensor = (below + up_to + 1).double() / 2
    return ranks.masked_fill(~mask, 0.0)


def _centered(values: Tensor, mask: Tensor) -> Tensor:
    wide = values.double().masked_fill(~mask, 0.0)
    count = mask.sum(1, keepdim=True).clamp_min(1)
    return (wide - wide.sum(1, keepdim=True) / count).masked_fill(~mask, 0.0)


def _prepared(x: Tensor, y: Tensor, mask: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    check_one_of("method", method, METHODS)
    if method == "spearman":
        x, y = average_ranks(x, mask), average_ranks(y, mask)
    return _centered(x, mask), _centered(y, mask)


def _coefficient(x: Tensor, y: Tensor, mask: Tensor, raw: tuple[Tensor, Tensor], min_tokens: int) -> Tensor:
    if x.shape[1] == 0:
        return x.new_full((len(x),), torch.nan)
    # Each series is divided separately, since the product of two small norms may underflow.
    value: Tensor = ((x / x.norm(dim=1, keepdim=True)) * (y / y.norm(dim=1, keepdim=True))).sum(1)
    defined = mask.sum(1) >= max(min_tokens, 2)
    for series in raw:
        # A constant series is found by its raw values: after centring, rounding leaves noise that would correlate.
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
    """The correlation coefficient of each row; NaN where undefined.

    ρ = Σ (x−x̄)(y−ȳ) / √(Σ (x−x̄)² Σ (y−ȳ)²), for Spearman on average ranks. docs/method.md.

    Args:
        x, y: the two series; NaN counts as masked.
        mask: which pairs are used; None means all.
        method: `spearman` or `pearson`.
        min_tokens: rows with fewer pairs are undefined.

    Returns:
        The coefficients in float64, in [−1, 1] or NaN.

    Raises:
        InvalidInputError: there is an infinite value under the mask, or no such method.

    >>> rho = coefficients(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, 5.0, 1.0]]), min_tokens=3)
    >>> round(rho.item(), 12)
    -1.0
    """
    mask = valid_pairs(x, y, mask)
    a, b = _prepared(x, y, mask, method)
    return _coefficient(a, b, mask, (x, y), min_tokens)


def valid_pairs(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """True where both series have a value and the mask, if any, is True. Infinite values are refused."""
    valid = ~(x.isnan() | y.isnan())
    valid = valid if mask is None else valid & mask
    if bool(((x.isinf() | y.isinf()) & valid).any()):
        raise InvalidInputError("a series holds an infinite value; ranks and moments need finite ones.")
    return valid


def _fisher(correlation: Correlation) -> Correlation:
    """The correlation with Fisher's interval added."""
    value, method = correlation.value, correlation.method
    if math.isnan(value):
        return correlation
    if correlation.num_effective <= 3:
        return replace(correlation, low=-1.0, high=1.0)
    center = value
    if method == "spearman" and correlation.unit != "token":
        # A perfect order of few items does not prove a perfect correlation, so half an adjacent swap is taken off.
        most = 1 - 6 / (correlation.num_tokens * (correlation.num_tokens**2 - 1))
        center = math.copysign(min(abs(value), most), value)
    if abs(center) == 1.0:
        return replace(correlation, low=value, high=value)
    variance = (1 + center**2 / 2 if method == "spearman" else 1.0) / (correlation.num_effective - 3)
    reach = NormalDist().inv_cdf(0.5 + correlation.confidence / 2) * math.sqrt(variance)
    low, high = math.tanh(math.atanh(center) - reach), math.tanh(math.atanh(center) + reach)
    return replace(correlation, low=min(low, value), high=max(high, value))


def group_means(series: Float[Tensor, "series item"], groups: Int[Tensor, "item"]) -> Float[Tensor, "series group"]:
    """The mean of every series over the items of each group, such as tokens of one id; groups ascend."""
    ids, place = groups.unique(return_inverse=True)
    wide, count = series.double(), torch.bincount(place, minlength=len(ids)).double()
    total = torch.zeros(len(wide), len(ids), dtype=torch.float64, device=wide.device).index_add_(1, place, wide)
    # The mean of equal values must be exactly that value, so that tied groups also tie in rank.
    means: Tensor = (total / count).clamp(*group_bounds(wide, place, len(ids)))
    return means


def by_group(
    x: Float[Tensor, "item"], y: Float[Tensor, "item"], groups: Int[Tensor, "item"]
) -> tuple[Float[Tensor, "group"], Float[Tensor, "group"]]:
    """`group_means` of two series."""
    means = group_means(torch.stack([x, y]), groups)
    return means[0], means[1]


def group_bounds(
    series: Float[Tensor, "series item"], place: Int[Tensor, "item"], num_groups: int
) -> tuple[Float[Tensor, "series group"], Float[Tensor, "series group"]]:
    """(least, greatest) value of each series in each group; `place` is each item's group, counted from 0."""
    where = place.expand_as(series)
    empty = series.new_zeros(len(series), num_groups)
    least: Tensor = empty.scatter_reduce(1, where, series, "amin", include_self=False)
    greatest: Tensor = empty.scatter_reduce(1, where, series, "amax", include_self=False)
    return least, greatest


def unit_of(unit: Unit | None, token_ids: Tensor | None) -> Unit:
    """The unit that was named; if none was, `type` with token ids and `token` without.

    Raises:
        InvalidInputError: there is no such unit, or the unit is `type` and there are no token ids.
    """
    unit = unit or ("token" if token_ids is None else "type")
    check_one_of("unit", unit, UNITS)
    if unit == "type" and token_ids is None:
        raise InvalidInputError('unit "type" averages over the occurrences of each token id: give token_ids.')
    return unit


def least_items(unit: Unit, min_tokens: int | None) -> int:
    """The least number of items that a correlation needs: `min_tokens` if it is given, else the unit's default."""
    return min_tokens if min_tokens is not None else MIN_STEPS if unit == "step" else MIN_TOKENS


def _two_series(entropy: TokenSignals | Tensor, strength: Tensor | None, unit: Unit) -> tuple[Tensor, Tensor]:
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
    given = torch.atleast_2d(given.cpu())
    if given.shape != series.shape:
        raise InvalidInputError(
            f"{name} must have the shape of the series, {tuple(series.shape)}; got {tuple(given.shape)}."
        )
    return given


def type_means(x: Tensor, y: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(means of x, means of y, place): a type's means stand where it first occurs, which is its tokens' `place`."""
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
    """Correlation of entropy and strength within each rollout, with its interval.

    The interval is Fisher's, tanh(atanh ρ ± z √((1+ρ²/2)/(n_eff−3))) for Spearman and with 1/(n_eff−3) under the root
    for Pearson, where n_eff is the number of pairs by `effective_pairs`. For types or steps in perfect order, the
    interval is made for a correlation smaller by half an adjacent swap, 1 − 6/(n(n²−1)), and ends at ±1: without any
    correlation, one in twelve sets of four steps is in perfect order.

    Args:
        entropy: `[token]` or `[batch, token]`, for steps `[step]` or `[batch, step]`; or `TokenSignals`, which contain
            the strength and the steps too.
        strength: the strength, in the same shape; NaN (not measured) counts as masked.
        unit: what a pair is: `token` (the default), `type` (the default with token_ids; both series are first averaged
            over each distinct id), or `step`.
        mask: which pairs are used.
        token_ids: the id of each token, for types.
        method: `spearman` or `pearson`.
        min_tokens: rollouts with fewer pairs are undefined; None is `MIN_STEPS` for steps, else `MIN_TOKENS`.
        confidence: the confidence of the interval.

    Returns:
        One `Correlation` for each rollout.

    Raises:
        InvalidInputError: the shapes differ, a value is infinite, there is no such unit or method, types have no ids,
            or the signals have no steps.

    >>> x = torch.arange(10.0)
    >>> print(correlate(x, -(x**3))[0])
    -1.000 [-1.000, -1.000] (n=10)
    """
    check_confidence(confidence)
    unit = unit_of(unit, token_ids)
    x, y = _two_series(entropy, strength, unit)
    valid = valid_pairs(x, y, None if mask is None else _like("mask", mask, x))
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
