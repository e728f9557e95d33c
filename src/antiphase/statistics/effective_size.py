"""Compute the effective number of pairs of a rollout: how many independent pairs would give the same information.

A pair is the entropy and the strength of a token or step. Neighbouring tokens are similar, and so are neighbouring
steps. An interval that treats them as independent is too narrow, so `correlation` makes its intervals from this
smaller, effective number of pairs (docs/method.md).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def effective_pairs(
    x: Float[Tensor, "batch token"],
    y: Float[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    weights: Float[Tensor, "batch token"] | None = None,
) -> Float[Tensor, "batch"]:
    """Compute the effective number of pairs in each row: how many independent pairs would give the same information.

    It is never more than the number of pairs.

    The formula is

        n_eff = n / (1 + (2/n) Σ_k n_k r_x(k) r_y(k))

    Here n is the number of pairs in the row. r_x(k) and r_y(k) are the autocorrelations of the series at lag k, each
    multiplied by 1 − k/span, where the span reaches from the first pair to the last. n_k is the number of positions t
    for which t and t + k are both in the mask. If all positions are in the mask, n_k is n − k, which gives the formula
    of docs/method.md.

    With weights, the values belong to types (distinct token ids). The position t holds the value x_t of its type, and
    has the weight w_t = 1 / (number of occurrences of the type). Then

        n = Σ_t w_t
        n_k = Σ_t w_t w_{t+k}
        r_x(k) = (Σ_t √(w_t w_{t+k}) x_t x_{t+k} / n_k) / (Σ_t w_t x_t² / n)

    so n is the number of types. The roots are needed because the value of a type is a mean over its m tokens. If the
    value of one token changes, the mean changes by 1/m of this change. But the standard deviation of the mean is 1/√m
    of the standard deviation of one value, not 1/m.

    Args:
        x, y: the centred series, 0 outside the mask.
        mask: which positions of the rollout have a pair.
        weights: the weight of each position, 0 outside the mask. If None is given, every position has the weight 1.
    """
    length = x.shape[1]
    if length == 0:
        return x.new_zeros(len(x))
    size = 2 * length

    def lagged(series: Tensor) -> Tensor:
        """Return Σ_t x_t x_{t+k} for every lag k."""
        spectrum = torch.fft.rfft(series, n=size, dim=1)
        moments: Tensor = torch.fft.irfft(spectrum * spectrum.conj(), n=size, dim=1)
        return moments[:, :length]

    if weights is None:
        count, pairs = mask.double().sum(1, keepdim=True), lagged(mask.double()).round().clamp_min(1)
    else:
        count, pairs = weights.sum(1, keepdim=True), lagged(weights).clamp_min(torch.finfo(torch.float64).eps)
        x, y = x * weights.sqrt(), y * weights.sqrt()
    lags = torch.arange(length, device=x.device).double()
    places = lags.expand_as(mask)
    last = places.masked_fill(~mask, -1).amax(1, keepdim=True)
    first = places.masked_fill(~mask, length).amin(1, keepdim=True)
    taper = (1 - lags / (last - first + 1).clamp_min(1)).clamp_min(0)

    def autocorrelation(series: Tensor) -> Tensor:
        """Return the autocorrelation at every lag, already multiplied by the taper 1 − k/span."""
        moments = lagged(series)
        return moments / pairs * taper * count / moments[:, :1]

    products = (pairs * autocorrelation(x) * autocorrelation(y)).nan_to_num(0.0)[:, 1:]
    inflation = 1 + 2 * products.sum(1) / count[:, 0].clamp_min(1)
    worth: Tensor = count[:, 0] / inflation.clamp_min(1)
    return worth


def effective_types(
    x: Float[Tensor, "batch token"],
    y: Float[Tensor, "batch token"],
    home: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
) -> Float[Tensor, "batch"]:
    """Compute the effective number of independent types in each row, by `effective_pairs` with weights.

    A type is a distinct token id. Its value is used at every position where the id occurs.

    Args:
        x, y: the centred values of the types. Each type has one index in the row.
        home: for every token, the index in the row at which x and y hold the values of its type.
        mask: which positions of the rollout have a token.
    """
    occurrences = torch.zeros_like(x).scatter_add_(1, home, mask.double())
    weights = (1 / occurrences.gather(1, home)).masked_fill(~mask, 0.0)
    at_tokens = [series.gather(1, home).masked_fill(~mask, 0.0) for series in (x, y)]
    return effective_pairs(at_tokens[0], at_tokens[1], mask, weights)
