"""From score to reward: combine the inversion score, with its weight, with the task reward.

These are pure functions of tensors. They use scores and rewards, never a trainer, so every training engine can share
them. The host (such as TRL) normalises the groups itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from antiphase.reward_options import (
    COMBINES,
    SCHEDULES,
    UNDEFINED,
    Combine,
    Schedule,
    Undefined,
    weight_at,
)

# Names of `reward_options` can also be imported from here.
__all__ = [
    "COMBINES",
    "SCHEDULES",
    "UNDEFINED",
    "Combine",
    "InversionTerm",
    "Schedule",
    "Undefined",
    "group_mean",
    "inversion_term",
    "weight_at",
]


@dataclass(frozen=True)
class InversionTerm:
    """What CorR-PO adds for each rollout. The host multiplies both by the weight λ.

    Args:
        reward: added to the task reward before the host normalises groups.
        advantage: added to the host's advantage.
    """

    reward: Float[Tensor, "rollout"]
    advantage: Float[Tensor, "rollout"]


def group_mean(values: Float[Tensor, "rollout"], group_size: int) -> Float[Tensor, "rollout"]:
    """The mean of the defined values in each rollout's group; 0 if none is defined.

    >>> group_mean(torch.tensor([1.0, torch.nan, 4.0, 6.0]), 2).tolist()
    [1.0, 1.0, 5.0, 5.0]
    """
    means: Tensor = values.view(-1, group_size).nanmean(1).nan_to_num(0.0)
    return means.repeat_interleave(group_size)


def inversion_term(
    inversion: Float[Tensor, "rollout"],
    task: Float[Tensor, "rollout"],
    accepted: Bool[Tensor, "rollout"],
    *,
    group_size: int,
    combine: Combine,
    weight: float,
    clip: float = 1.0,
    undefined: Undefined = "neutral",
    excluded: Bool[Tensor, "rollout"] | None = None,
) -> InversionTerm:
    """The term that each rollout receives (docs/training.md), per unit of λ.

    * `penalty`: R_i = r_i − λ (1 + ρ_i), the paper's own, never positive; 0 is perfect inversion. Within a group it
      trains as `sum` does wherever every ρ is defined, since a group's advantage ignores constants.
    * `sum`: R_i = r_i + λ ι_i. With std normalisation λ is inert where the task rewards of a group tie.
    * `centered`: A_i = A_task,i + λ (ι_i − mean_g ι). The host's advantage is untouched.
    * `gated`: R_i = r_i + λ_g ι_i for accepted rollouts alone, λ_g = min(λ, gap_g / 2·clip), gap_g = least accepted
      minus greatest rejected task reward of the group: no rejected rollout ever outranks an accepted one. Inert
      where the task rewards do not separate them (gap_g ≤ 0).
    * `only`: R_i = λ ι_i; the host is told to weigh the task rewards with 0.

    Our reading: the paper does not say what counts if ρ is undefined, as in a rollout of too few steps. With `neutral`
    the rollout gets the mean of its group's defined scores (with `gated`: of the accepted ones; 0 if there is none),
    so that it neither gains nor loses. With `zero` ρ counts as 0, which rewards or punishes short rollouts by the sign
    of the others' ρ. With `worst` ρ counts as 1 (or `clip`), which always punishes them.

    Args:
        inversion: ι of each rollout, one group after another; NaN is undefined.
        task: the weighted sum of the task rewards; only `gated` uses it.
        accepted: whether the verifier accepts the rollout.
        group_size: the number of rollouts per prompt.
        combine: the mode.
        weight: λ ≥ 0.
        clip: the bound of |ι|.
        undefined: what an undefined ρ counts as.
        excluded: rollouts that the host leaves out. They count as undefined and neutral.

    Returns:
        The term in the dtype of `inversion`, without NaN.
    """
    zero = torch.zeros_like(inversion)
    if undefined != "neutral":
        stand_in = torch.full_like(inversion, 0.0 if undefined == "zero" else -clip)
        replaced = inversion.isnan() if excluded is None else inversion.isnan() & ~excluded
        inversion = inversion.where(~replaced, stand_in)
    neutral = inversion.where(inversion.isfinite(), group_mean(inversion, group_size))
    if combine == "penalty":
        return InversionTerm(neutral - 1.0, zero)
    if combine in ("sum", "only"):
        return InversionTerm(neutral, zero)
    if combine == "centered":
        return InversionTerm(zero, neutral - group_mean(inversion, group_size))
    among = inversion.masked_fill(~accepted, torch.nan)
    bonus = among.where(among.isfinite(), group_mean(among, group_size)).masked_fill(~accepted, 0.0)
    return InversionTerm(bonus * _gate(task, accepted, group_size, weight, clip), zero)


def _gate(task: Tensor, accepted: Tensor, group_size: int, weight: float, clip: float) -> Tensor:
    """λ_g / λ of each rollout."""
    groups, right = task.view(-1, group_size), accepted.view(-1, group_size)
    least = groups.masked_fill(~right, torch.inf).amin(1)
    greatest = groups.masked_fill(right, -torch.inf).amax(1)
    # The bound is infinite if a group is all right or all wrong; then λ is used as it is.
    bound = (least - greatest).clamp_min(0) / (2 * clip)
    share = (bound / weight).clamp_max(1.0) if weight > 0 else torch.ones_like(bound)
    return share.repeat_interleave(group_size)
