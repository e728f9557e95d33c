"""Draw resamples of prompts, and make intervals from the values of a correlation in these resamples (docs/method.md).

A claim about a model must hold for other prompts, so whole prompts are resampled, with all their tokens. A resample is
a row of integer weights, one for each prompt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.statistics.estimate import fisher_interval, half_swap_less, student_quantile

RESAMPLE_ELEMENTS = 1 << 22
# The smallest number of prompts for a verdict, and for the interval of a perfect correlation.
MIN_PROMPTS = 4
# An interval of a rival of ι needs at least 95 % defined resamples. The others are not a random part of all resamples.
MOST_UNDEFINED = 0.05
# A value this close to ±1 differs from it only by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Resampler:
    """Resamples of prompts, from which intervals are made.

    In this class a prompt is called a cluster, and its tokens or steps are called items.

    Args:
        cluster: the index of the prompt that each item belongs to.
        num_clusters: the number of prompts.
        draws: how often each resample contains each prompt: resample b contains prompt c `draws[b, c]` times.
        leaves_out: True if each resample leaves some prompts out, False if prompts are drawn with replacement.
    """

    cluster: Int[Tensor, "item"]
    num_clusters: int
    draws: Float[Tensor, "resample cluster"]
    leaves_out: bool = False

    @classmethod
    def of(cls, clusters: Int[Tensor, "item"], num_resamples: int, seed: int) -> "Resampler":
        """Make resamples by drawing prompts with replacement. Each resample draws as many prompts as there are.

        Args:
            clusters: the prompt of each item.
            num_resamples: the number of resamples.
            seed: seed of the random generator that draws the resamples.
        """
        ids, place = clusters.unique(return_inverse=True)
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(len(ids), (num_resamples, len(ids)), generator=generator)
        draws = torch.zeros(num_resamples, len(ids), dtype=torch.float64)
        return cls(place, len(ids), draws.scatter_add_(1, picks, torch.ones_like(draws)))

    @classmethod
    def leaving_out(cls, clusters: Int[Tensor, "item"], most: int, seed: int) -> "Resampler":
        """Make one resample for each prompt, which leaves out that prompt.

        This is for a statistic that depends on the amount of data, such as a correlation over types (distinct token
        ids). A draw with replacement contains only 63 % of the prompts and therefore fewer types. A resample that
        leaves out one prompt has nearly all types.

        Args:
            clusters: the prompt of each item.
            most: the largest number of resamples. If there are more prompts, groups of prompts are left out.
            seed: seed of the random generator that forms the groups.
        """
        ids, place = clusters.unique(return_inverse=True)
        groups = max(2, min(len(ids), most))
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        left_out = torch.nn.functional.one_hot(order % groups, groups).T
        return cls(place, len(ids), 1 - left_out.double(), leaves_out=True)

    def constant_share(self, values: Float[Tensor, "item"]) -> float:
        """Return the share of the resamples in which all values are equal, so that a correlation is undefined."""
        ends = values.new_zeros(2, self.num_clusters)
        for end, how in zip(ends, ("amin", "amax"), strict=True):
            end.scatter_reduce_(0, self.cluster, values, how, include_self=False)
        drawn = self.draws > 0
        low, high = torch.where(drawn, ends[0], torch.inf).amin(1), torch.where(drawn, ends[1], -torch.inf).amax(1)
        return float((low == high).double().mean())

    def apply(self, statistic: Callable[[Tensor], Tensor]) -> Float[Tensor, "resample *value"]:
        """Compute a statistic in every resample.

        Args:
            statistic: a function that maps item weights `[resample, item]` to one value (or tensor) for each resample.
        """
        return self.apply_draws(lambda draws: statistic(draws[:, self.cluster]), len(self.cluster))

    def apply_draws(self, statistic: Callable[[Tensor], Tensor], width: int) -> Float[Tensor, "resample *value"]:
        """Compute a statistic in every resample, for some resamples at a time, so that memory is bounded.

        Args:
            statistic: a function that maps prompt weights `[resample, cluster]` to one value (or tensor) for each
                resample. It is called with some rows of `draws` at a time.
            width: how many numbers the statistic holds in memory for each resample.
        """
        size = max(1, RESAMPLE_ELEMENTS // max(1, width))
        return torch.cat([statistic(part) for part in self.draws.split(size)])

    def interval(self, value: float, resampled: Float[Tensor, "resample"], confidence: float) -> tuple[float, float]:
        """Make the interval of a correlation; NaN with fewer than two prompts.

        All intervals are made on Fisher's scale, ζ = atanh ρ. C is the number of prompts.

        **If prompts were drawn**, the ends are expanded percentiles (Hesterberg 2015, arXiv 1411.5279, applied to ζ).
        The plain percentiles of the resamples are too close to the value by the factor √((C−1)/C). With few prompts,
        Student's quantile t_{C−1} must also replace the normal quantile q. The distance of each percentile from the
        value is therefore multiplied by (t_{C−1} / q) √(C/(C−1)). With two or three prompts, all resamples may lie on
        one side of the value, so both ends get the larger one of the two distances. (A standard error cannot replace
        the percentiles: with few prompts, some resamples are perfectly correlated, and their atanh is infinite.)

        **If prompts were left out**, the interval is the jackknife's, tanh(atanh ρ ± t_{G−1} SE) with
        SE² = (G−1)/G Σ (ζ_g − ζ̄)². The prompts are divided into G groups of one prompt or more, and ζ_g is the atanh
        of the correlation without group g.

        **If the correlation is perfect** (±1), it is perfect in every resample, but this does not prove that the true
        correlation is perfect. The interval is Fisher's for C pairs with the correlation ±(1 − 6/(C(C²−1))), and the
        end that is nearer to the correlation is set to the correlation. With fewer than 4 prompts there is no
        interval.

        Args:
            value: the correlation of all prompts, in [−1, 1].
            resampled: the correlation in every resample.
            confidence: the confidence of the interval.
        """
        if math.isnan(value) or self.num_clusters < 2:
            return math.nan, math.nan
        if abs(value) >= 1 - _ROUNDING:
            if self.num_clusters < MIN_PROMPTS:
                return math.nan, math.nan
            center = half_swap_less(math.copysign(1 - _ROUNDING, value), self.num_clusters)
            low, high = fisher_interval(center, self.num_clusters, confidence)
            return min(low, value), max(high, value)
        ends = self._jackknife if self.leaves_out else self._percentiles
        return ends(value, resampled, confidence)

    def _percentiles(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        """Make the interval from expanded percentiles, as `interval` explains for prompts that were drawn."""
        defined = resampled[resampled.isfinite()]
        if len(defined) < 2:
            return math.nan, math.nan
        tail = 0.5 - confidence / 2
        normal, student = NormalDist().inv_cdf(1 - tail), student_quantile(confidence, self.num_clusters - 1)
        stretch = student / normal * math.sqrt(self.num_clusters / (self.num_clusters - 1))
        center, z = math.atanh(value), torch.atanh(defined.clamp(-1 + 1e-9, 1 - 1e-9))
        below, above = torch.quantile(z, torch.tensor([tail, 1 - tail], dtype=z.dtype)).tolist()
        # If both percentiles lie on one side of the value (biased resamples), the end of the other side is the value.
        down, up = max(0.0, center - below) * stretch, max(0.0, above - center) * stretch
        if self.num_clusters < MIN_PROMPTS:
            down = up = max(down, up)
        return math.tanh(center - down), math.tanh(center + up)

    def _jackknife(self, value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
        """Make the interval of the jackknife, as `interval` explains for prompts that were left out."""
        if bool(resampled.isnan().any()):
            return math.nan, math.nan
        num, z = len(resampled), torch.atanh(resampled.clamp(-1 + 1e-9, 1 - 1e-9))
        error = math.sqrt((num - 1) / num * float(((z - z.mean()) ** 2).sum()))
        reach = student_quantile(confidence, num - 1) * error
        return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
