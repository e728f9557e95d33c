"""The number of independent pairs that is equivalent to the autocorrelated pairs of a rollout (docs/method.md).

Neighbouring tokens are similar, and so are neighbouring steps. An interval that treats them as independent is too
narrow.
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
    """The equivalent number of independent pairs in each row, at most the number of pairs.

    n_eff = n / (1 + (2/n) Σ_k n_k r_x(k) r_y(k)), where n_k counts the pairs at lag k that are both in the mask (n − k
    if all are, which gives the formula of docs/method.md). Autocorrelations are tapered by 1 − k/span.

    A type stands at all of its places, with the weight w = 1/occurrences. Then n = Σ w is the number of types,
    n_k = Σ w_t w_{t+k}, and r_x(k) = Σ √(w_t w_{t+k}) x_t x_{t+k} / n_k over Σ w x² / n, because one of m values moves
    their mean by 1/m, while the deviation of the mean is 1/√m.

    Args:
        x, y: the centred series, 0 outside the mask.
        mask: which places of the rollout have a pair.
        weights: the weight of each place, 0 outside the mask; None means 1.
    """
    length = x.shape[1]
    if length == 0:
        return x.new_zeros(len(x))
    size = 2 * length

    def lagged(series: Tensor) -> Tensor:
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
    """The equivalent number of independent types in each row: `effective_pairs` with each type at all of its places.

    Args:
        x, y: the centred series of the types, in which each type stands at one place.
        home: for every token, the place of its type.
        mask: which places of the rollout have a token.
    """
    occurrences = torch.zeros_like(x).scatter_add_(1, home, mask.double())
    weights = (1 / occurrences.gather(1, home)).masked_fill(~mask, 0.0)
    at_tokens = [series.gather(1, home).masked_fill(~mask, 0.0) for series in (x, y)]
    return effective_pairs(at_tokens[0], at_tokens[1], mask, weights)
