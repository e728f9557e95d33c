"""Resamples of prompts, and intervals from the values of a statistic in them (METHOD §3).

A claim about a model generalises over prompts, so prompts are resampled, all their tokens with them. A resample is a
row of integer weights, one a prompt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

RESAMPLE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Resampler:
    """Prompt resamples as integer weights: `draws[b, c]` times prompt c in resample b.

    Args:
        cluster: index of the prompt that each item belongs to.
        num_clusters: prompts.
        draws: the weights.
        leaves_out: whether a resample is all prompts but some, instead of prompts drawn with replacement.
    """

    cluster: Int[Tensor, "item"]
    num_clusters: int
    draws: Float[Tensor, "resample cluster"]
    leaves_out: bool = False

    @classmethod
    def of(cls, clusters: Int[Tensor, "item"], num_resamples: int, seed: int) -> "Resampler":
        """As many prompts as there are, drawn with replacement, in every resample."""
        ids, place = clusters.unique(return_inverse=True)
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(len(ids), (num_resamples, len(ids)), generator=generator)
        draws = torch.zeros(num_resamples, len(ids), dtype=torch.float64)
        return cls(place, len(ids), draws.scatter_add_(1, picks, torch.ones_like(draws)))

    @classmethod
    def leaving_out(cls, clusters: Int[Tensor, "item"], most: int, seed: int) -> "Resampler":
        """Each prompt left out in turn; of more than `most` prompts, a group of them (drawn by `seed`) in turn.

        For a statistic whose value depends on how much is seen, as a correlation over types does: prompts drawn with
        replacement hold 63 % of the prompts, and so fewer types, while a prompt left out changes little.
        """
        ids, place = clusters.unique(return_inverse=True)
        groups = max(2, min(len(ids), most))
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        left_out = torch.nn.functional.one_hot(order % groups, groups).T
        return cls(place, len(ids), 1 - left_out.double(), leaves_out=True)

    def apply(self, statistic: Callable[[Tensor], Tensor]) -> Float[Tensor, "resample *value"]:
        """The statistic (of item weights `[resample, item]`) in every resample."""
        return self.apply_draws(lambda draws: statistic(draws[:, self.cluster]), len(self.cluster))

    def apply_draws(self, statistic: Callable[[Tensor], Tensor], width: int) -> Float[Tensor, "resample *value"]:
        """The statistic (of prompt weights `[resample, cluster]`) in every resample, a few at a time.

        Args:
            statistic: of some rows of `draws`.
            width: numbers that it holds for each resample.
        """
        size = max(1, RESAMPLE_ELEMENTS // max(1, width))
        return torch.cat([statistic(part) for part in self.draws.split(size)])

    def interval(self, value: float, resampled: Float[Tensor, "resample"], confidence: float) -> tuple[float, float]:
        """The interval of a value in [−1, 1], on Fisher's scale; NaN with fewer than two prompts.

        **Drawn prompts**: expanded percentiles. The percentiles of resamples are too narrow by √((C−1)/C), and with
        few prompts their noise calls for Student's quantile (Hesterberg 2015, arXiv 1411.5279, applied to z); so
        their distance from the value is stretched by t_{C−1} / z √(C/(C−1)). Percentiles, and not a standard error,
        since with few prompts some resamples are perfectly correlated, and their z is infinite.

        **Prompts left out**: the jackknife, tanh(atanh ρ ± t_{G−1} SE) with SE² = (G−1)/G Σ (z_g − z̄)², z_g without
        the g-th of G groups.
        """
        if math.isnan(value) or self.num_clusters < 2:
            return math.nan, math.nan
        ends = self._jackknife if self.leaves_out else self._percentiles
        return ends(value, resampled, confidence)

    def _percentiles(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        defined = resampled[resampled.isfinite()]
        if len(defined) < 2:
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

    def _jackknife(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        if bool(resampled.isnan().any()):
            return math.nan, math.nan
        if abs(value) == 1.0:
            return value, value
        num, z = len(resampled), torch.atanh(resampled.clamp(-1 + 1e-9, 1 - 1e-9))
        error = math.sqrt((num - 1) / num * float(((z - z.mean()) ** 2).sum()))
        reach = float(stdtrit(num - 1, 0.5 + confidence / 2)) * error
        return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
