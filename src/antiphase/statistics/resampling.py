"""Resamples of prompts, and intervals from the values of a statistic in them (docs/method.md).

A claim about a model generalises over prompts, so prompts are resampled, with all their tokens. A resample is a row of
integer weights, one for each prompt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.statistics.estimate import student_quantile

RESAMPLE_ELEMENTS = 1 << 22
# The least number of prompts for a verdict, and for the interval of a perfect order.
MIN_PROMPTS = 4
# A value this close to ±1 differs from it only by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Resampler:
    """Resamples of prompts as integer weights: resample b contains prompt c `draws[b, c]` times.

    Args:
        cluster: the index of the prompt that each item belongs to.
        num_clusters: the number of prompts.
        draws: the weights.
        leaves_out: whether a resample leaves some prompts out, instead of drawing prompts with replacement.
    """

    cluster: Int[Tensor, "item"]
    num_clusters: int
    draws: Float[Tensor, "resample cluster"]
    leaves_out: bool = False

    @classmethod
    def of(cls, clusters: Int[Tensor, "item"], num_resamples: int, seed: int) -> "Resampler":
        """In every resample, as many prompts as there are, drawn with replacement."""
        ids, place = clusters.unique(return_inverse=True)
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(len(ids), (num_resamples, len(ids)), generator=generator)
        draws = torch.zeros(num_resamples, len(ids), dtype=torch.float64)
        return cls(place, len(ids), draws.scatter_add_(1, picks, torch.ones_like(draws)))

    @classmethod
    def leaving_out(cls, clusters: Int[Tensor, "item"], most: int, seed: int) -> "Resampler":
        """Each prompt is left out in turn; if there are more than `most`, groups of prompts, which `seed` draws.

        This is for a statistic that depends on the amount of data, such as a correlation over types. A draw with
        replacement contains 63 % of the prompts, and so fewer types, while leaving one prompt out changes little.
        """
        ids, place = clusters.unique(return_inverse=True)
        groups = max(2, min(len(ids), most))
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        left_out = torch.nn.functional.one_hot(order % groups, groups).T
        return cls(place, len(ids), 1 - left_out.double(), leaves_out=True)

    def apply(self, statistic: Callable[[Tensor], Tensor]) -> Float[Tensor, "resample *value"]:
        """The statistic, a function of item weights `[resample, item]`, in every resample."""
        return self.apply_draws(lambda draws: statistic(draws[:, self.cluster]), len(self.cluster))

    def apply_draws(self, statistic: Callable[[Tensor], Tensor], width: int) -> Float[Tensor, "resample *value"]:
        """The statistic, a function of prompt weights `[resample, cluster]`, in every resample, a few at a time.

        Args:
            statistic: is called with some rows of `draws`.
            width: how many numbers the statistic holds in memory for each resample.
        """
        size = max(1, RESAMPLE_ELEMENTS // max(1, width))
        return torch.cat([statistic(part) for part in self.draws.split(size)])

    def interval(self, value: float, resampled: Float[Tensor, "resample"], confidence: float) -> tuple[float, float]:
        """The interval of a value in [−1, 1], on Fisher's scale; NaN with fewer than two prompts.

        **Drawn prompts**: expanded percentiles. The percentiles of resamples are too narrow by √((C−1)/C), and with
        few prompts Student's quantile must replace the normal one (Hesterberg 2015, arXiv 1411.5279, applied to z). So
        their distance from the value is stretched by t_{C−1} / z √(C/(C−1)). A standard error would not work, since
        with few prompts some resamples are perfectly correlated, and their z is infinite. With two or three prompts
        all resamples may lie on one side of the value; then both ends get the distance of the farther one.

        **Prompts left out**: the jackknife, tanh(atanh ρ ± t_{G−1} SE) with SE² = (G−1)/G Σ (z_g − z̄)², where z_g
        leaves out the g-th of G groups.

        **Perfect order** (±1) is perfect in every resample, but this does not prove a perfect correlation. The
        interval is that of one rollout of C items in perfect order, made for half an adjacent swap less (`correlate`,
        Spearman), and ends at ±1. With fewer than 4 prompts there is no interval.
        """
        if math.isnan(value) or self.num_clusters < 2:
            return math.nan, math.nan
        if abs(value) >= 1 - _ROUNDING:
            return _perfect(value, self.num_clusters, confidence)
        ends = self._jackknife if self.leaves_out else self._percentiles
        return ends(value, resampled, confidence)

    def _percentiles(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        defined = resampled[resampled.isfinite()]
        if len(defined) < 2:
            return math.nan, math.nan
        tail = 0.5 - confidence / 2
        normal, student = NormalDist().inv_cdf(1 - tail), student_quantile(confidence, self.num_clusters - 1)
        stretch = student / normal * math.sqrt(self.num_clusters / (self.num_clusters - 1))
        center, z = math.atanh(value), torch.atanh(defined.clamp(-1 + 1e-9, 1 - 1e-9))
        below, above = torch.quantile(z, torch.tensor([tail, 1 - tail], dtype=z.dtype)).tolist()
        # If a percentile lies on the wrong side of the value (biased resamples), the end stays at the value.
        down, up = max(0.0, center - below) * stretch, max(0.0, above - center) * stretch
        if self.num_clusters < MIN_PROMPTS:
            down = up = max(down, up)
        return math.tanh(center - down), math.tanh(center + up)

    def _jackknife(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        if bool(resampled.isnan().any()):
            return math.nan, math.nan
        num, z = len(resampled), torch.atanh(resampled.clamp(-1 + 1e-9, 1 - 1e-9))
        error = math.sqrt((num - 1) / num * float(((z - z.mean()) ** 2).sum()))
        reach = student_quantile(confidence, num - 1) * error
        return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def _perfect(value: float, num: int, confidence: float) -> tuple[float, float]:
    """The interval of ±1 over `num` prompts; each prompt counts as one pair of ranks."""
    if num < MIN_PROMPTS:
        return math.nan, math.nan
    most = math.copysign(min(1 - 6 / (num * (num**2 - 1)), 1 - _ROUNDING), value)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((1 + most**2 / 2) / (num - 3))
    low, high = math.tanh(math.atanh(most) - reach), math.tanh(math.atanh(most) + reach)
    return min(low, value), max(high, value)
