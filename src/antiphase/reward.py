"""Compute what the inversion score of each rollout adds to its task reward.

The functions of this module are pure functions of tensors and use no trainer, so every training engine can use them.
The training engine, such as TRL, normalises the groups itself.
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

# The names from `reward_options` can also be imported from here.
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
    """The two numbers that CorR-PO adds for each rollout, before they are multiplied by the weight λ.

    Args:
        reward: added to the task reward before the training engine normalises the groups.
        advantage: added to the advantage that the training engine computes.
    """

    reward: Float[Tensor, "rollout"]
    advantage: Float[Tensor, "rollout"]


def group_mean(values: Float[Tensor, "rollout"], group_size: int) -> Float[Tensor, "rollout"]:
    """Return, for each rollout, the mean of the values in its group that are not NaN; 0 if all are NaN.

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
    """Compute the term that each rollout receives for its inversion, before the multiplication by the weight λ.

    The mode `combine` decides how the reward R_i of rollout i, or its advantage A_i, is made from its task reward r_i,
    its correlation ρ_i and its inversion ι_i = −ρ_i (docs/training.md):

    * `penalty`: R_i = r_i − λ (1 + ρ_i). This is the paper's reward. The term is never positive, and is 0 for perfect
      inversion. A group in which every ρ is defined trains as with `sum`, because the advantage ignores a constant
      that is added to all rewards of the group.
    * `sum`: R_i = r_i + λ ι_i. If the task rewards of a group are equal and the training engine divides by the
      group's standard deviation, the size of λ has no effect in this group.
    * `centered`: A_i = A_task,i + λ (ι_i − mean of ι in the group). The reward is not changed.
    * `gated`: R_i = r_i + λ_g ι_i, for accepted rollouts only. In group g, λ_g = min(λ, gap_g / (2·clip)), where gap_g
      is the lowest task reward of an accepted rollout minus the highest of a rejected one. So a rejected rollout never
      gets a higher reward than an accepted one. If gap_g ≤ 0, the term is 0.
    * `only`: R_i = λ ι_i. The training engine must give the task rewards the weight 0.

    Our reading: the paper does not say what counts if ρ is undefined, for example because a rollout has too few steps.
    With `neutral`, the rollout gets the mean of the defined scores of its group, so that it neither gains nor loses.
    In the mode `gated`, this is the mean over the accepted rollouts. If no score is defined, the mean is 0. With
    `zero`, ρ counts as 0, so that short rollouts gain if the ρ of the other rollouts is positive, and lose if it is
    negative. With `worst`, ρ counts as `clip`, which is 1 by default, so that short rollouts always lose.

    Args:
        inversion: ι of each rollout, one group after another; NaN if it is undefined.
        task: the weighted sum of the task rewards; only `gated` uses it.
        accepted: whether the verifier accepts the rollout.
        group_size: the number of rollouts per prompt.
        combine: the mode.
        weight: λ ≥ 0; only `gated` uses it.
        clip: the bound of |ι|.
        undefined: what an undefined ρ counts as: `neutral`, `zero` or `worst`.
        excluded: whether the training engine leaves the rollout out. The ι of such a rollout is NaN, and is always
            replaced as with `neutral`.

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
    """Return, for each rollout, the number in [0, 1] by which the mode `gated` multiplies the weight λ.

    All rollouts of a group get the same number. `inversion_term` has the formula.

    Args:
        task: the task reward of each rollout.
        accepted: whether the verifier accepts each rollout.
        group_size: the number of rollouts per prompt.
        weight: the weight λ.
        clip: the bound of |ι|.
    """
    groups, right = task.view(-1, group_size), accepted.view(-1, group_size)
    least = groups.masked_fill(~right, torch.inf).amin(1)
    greatest = groups.masked_fill(right, -torch.inf).amax(1)
    # If a group is all right or all wrong, the bound is infinite, so λ is not reduced.
    bound = (least - greatest).clamp_min(0) / (2 * clip)
    share = (bound / weight).clamp_max(1.0) if weight > 0 else torch.ones_like(bound)
    return share.repeat_interleave(group_size)
