"""Correlation over many rollouts, with intervals over prompts (METHOD §3).

A claim about a model generalises over prompts, so prompts are resampled, all their tokens with them. A resample is a
set of integer weights: ranks need no new sort.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from antiphase.correlation import MIN_TOKENS, by_token, coefficients, valid_pairs
from antiphase.types import Correlation, Method

_RESAMPLE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class _Resampler:
    """Prompt resamples as integer weights: `draws[b, c]` times prompt c in resample b."""

    cluster: Int[Tensor, "token"]
    num_clusters: int
    draws: Float[Tensor, "resample cluster"]

    @classmethod
    def of(cls, clusters: Tensor, num_resamples: int, seed: int) -> "_Resampler":
        ids, place = clusters.unique(return_inverse=True)
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(len(ids), (num_resamples, len(ids)), generator=generator)
        draws = torch.zeros(num_resamples, len(ids), dtype=torch.float64)
        return cls(place, len(ids), draws.scatter_add_(1, picks, torch.ones_like(draws)))

    def apply(self, statistic: Callable[[Tensor], Tensor]) -> Float[Tensor, "resample"]:
        """The statistic (of token weights `[resample, token]`) in every resample."""
        size = max(1, _RESAMPLE_ELEMENTS // max(1, len(self.cluster)))
        return torch.cat([statistic(part[:, self.cluster]) for part in self.draws.split(size)])

    def interval(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        """Expanded percentile interval on Fisher's scale; NaN with fewer than two prompts.

        The percentiles of resamples are too narrow by √((C−1)/C), and with few prompts their noise calls for Student's
        quantile (the expanded percentiles of Hesterberg 2015, arXiv 1411.5279, applied to z); so their distance from
        the value is stretched by t_{C−1} / z √(C/(C−1)). Percentiles, and not a standard error, since with few
        prompts some resamples are perfectly correlated, and their z is infinite.
        """
        defined = resampled[resampled.isfinite()]
        if math.isnan(value) or self.num_clusters < 2 or len(defined) < 2:
            return math.nan, math.nan
        if abs(value) == 1.0:
            return value, value
        tail = 0.5 - confidence / 2
        normal, student = NormalDist().inv_cdf(1 - tail), float(stdtrit(self.num_clusters - 1, 1 - tail))
        stretch = student / normal * math.sqrt(self.num_clusters / (self.num_clusters - 1))
        center, z = math.atanh(value), torch.atanh(defined.clamp(-1 + 1e-9, 1 - 1e-9))
        below, above = torch.quantile(z, torch.tensor([tail, 1 - tail], dtype=z.dtype)).tolist()
        # A percentile on the wrong side of the value (a biased resample) does not move the end past it.
        low, high = min(center, center + (below - center) * stretch), max(center, center + (above - center) * stretch)
        return math.tanh(low), math.tanh(high)


def _weighted_ranks(values: Tensor) -> Callable[[Tensor], Tensor]:
    _, place = values.unique(return_inverse=True)
    num = int(place.max()) + 1

    def ranks(weights: Tensor) -> Tensor:
        mass = torch.zeros(len(weights), num, dtype=torch.float64).index_add_(1, place, weights)
        return (mass.cumsum(1) - mass / 2)[:, place]

    return ranks


def _weighted_coefficient(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum(1, keepdim=True)
    a = x - (weights * x).sum(1, keepdim=True) / total
    b = y - (weights * y).sum(1, keepdim=True) / total
    scale = ((weights * a * a).sum(1) * (weights * b * b).sum(1)).sqrt()
    return (weights * a * b).sum(1) / scale.masked_fill(scale <= 0, torch.nan)


def pooled_correlation(
    entropy: Float[Tensor, "token"],
    strength: Float[Tensor, "token"],
    clusters: Int[Tensor, "token"],
    *,
    token_ids: Int[Tensor, "token"] | None = None,
    method: Method = "spearman",
    min_tokens: int = MIN_TOKENS,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Correlation:
    """Correlation over all tokens of all rollouts, with an interval over prompts.

    Prompts are drawn with replacement, all their tokens with them; a resample is a set of integer weights, so ranks
    need no new sort. The interval runs between the percentiles of the resamples, stretched on Fisher's scale for the
    number of prompts C: by t_{C−1} / z √(C/(C−1)).

    Args:
        entropy, strength: all tokens, one after another; pairs with a NaN are left out.
        clusters: the prompt that each token belongs to.
        token_ids: if given, both series are averaged over each distinct id first.
        method, min_tokens, confidence: as for `correlate`.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        the pooled value; the interval is NaN with fewer than two prompts.

    Cost: O(num_resamples · tokens).
    """
    x, y, clusters = entropy.detach().cpu().double(), strength.detach().cpu().double(), clusters.cpu()
    valid = valid_pairs(x, y, None)
    x, y, clusters = x[valid], y[valid], clusters[valid]
    place, count = None, len(x)
    plain_x, plain_y = x, y
    if token_ids is not None:
        ids = token_ids.cpu()[valid]
        plain_x, plain_y = by_token(x, y, ids)
        place, count = ids.unique(return_inverse=True)[1], len(plain_x)
    value = coefficients(plain_x[None], plain_y[None], method=method, min_tokens=min_tokens).item()
    if math.isnan(value):
        return Correlation(math.nan, math.nan, math.nan, count, math.nan, method, confidence)
    resampler = _Resampler.of(clusters, num_resamples, seed)
    statistic = _unique_statistic(x, y, place, count, method) if place is not None else _statistic(x, y, method)
    low, high = resampler.interval(value, resampler.apply(statistic), confidence)
    return Correlation(value, low, high, count, math.nan, method, confidence)


def _statistic(x: Tensor, y: Tensor, method: Method) -> Callable[[Tensor], Tensor]:
    if method == "pearson":
        return lambda weights: _weighted_coefficient(x, y, weights)
    ranks_x, ranks_y = _weighted_ranks(x), _weighted_ranks(y)
    return lambda weights: _weighted_coefficient(ranks_x(weights), ranks_y(weights), weights)


def _unique_statistic(x: Tensor, y: Tensor, place: Tensor, num_ids: int, method: Method) -> Callable[[Tensor], Tensor]:
    def statistic(weights: Tensor) -> Tensor:
        def total(values: Tensor) -> Tensor:
            return torch.zeros(len(weights), num_ids, dtype=torch.float64).index_add_(1, place, values)

        mass = total(weights)
        seen = mass > 0
        means = [total(weights * series) / mass for series in (x, y)]
        return coefficients(means[0], means[1], seen, method=method, min_tokens=2)

    return statistic


def mean_within(
    values: Float[Tensor, "rollout"],
    clusters: Int[Tensor, "rollout"],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    method: Method = "spearman",
) -> Correlation:
    """Mean of the rollouts' own correlations, with an interval over prompts.

    Pooling mixes differences between rollouts into ρ; this does not. Undefined rollouts are left out; `num_tokens`
    counts the rollouts that entered.
    """
    defined = values.isfinite()
    kept, clusters = values[defined].cpu().double(), clusters.cpu()[defined.cpu()]
    if len(kept) == 0:
        return Correlation(math.nan, math.nan, math.nan, 0, math.nan, method, confidence)
    resampler = _Resampler.of(clusters, num_resamples, seed)
    mean = float(kept.mean())
    resampled = resampler.apply(lambda weights: (weights * kept).sum(1) / weights.sum(1))
    low, high = resampler.interval(mean, resampled, confidence)
    return Correlation(mean, low, high, len(kept), math.nan, method, confidence)
