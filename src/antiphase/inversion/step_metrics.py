"""Compute the metrics that are logged for every batch of rollouts: of task rewards, inversion, lengths and more.

These are pure functions, which `InversionReward.combine` calls. docs/metrics.md explains every metric.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from antiphase.inversion.rollout_facts import RolloutFacts


def _mean(values: Tensor) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    return float(values.nanmean())


def _std(values: Tensor) -> float:
    """Return the standard deviation of the finite values; NaN with fewer than two."""
    kept = values[values.isfinite()]
    return float(kept.std()) if len(kept) > 1 else math.nan


def _within(values: Tensor, group_size: int) -> float:
    """Compute the standard deviation of the values within each group, and return its mean over the groups.

    A group has `group_size` neighbouring values. Groups with fewer than two finite values are left out.
    """
    return _mean(torch.tensor([_std(group) for group in values.view(-1, group_size)], dtype=torch.float64))


def tied_groups(task: Float[Tensor, "rollout"], group_size: int) -> Bool[Tensor, "group"]:
    """Return a mask that is True for each tied group: all rollouts of the group have the same task reward.

    A group consists of `group_size` neighbouring rollouts of one prompt. NaN values are ignored. A group that has only
    NaN values is not tied. TRL's metric `frac_reward_zero_std` has the same criterion.
    """
    groups = task.view(-1, group_size)
    low = groups.nan_to_num(torch.inf).amin(1)
    high = groups.nan_to_num(-torch.inf).amax(1)
    # A group without any reward has low = ∞ and high = −∞.
    return (high >= low) & (high - low <= 1e-8)


def tied_share(task: Float[Tensor, "rollout"], group_size: int) -> float:
    """Return the share of groups whose task rewards are all equal; see `tied_groups`.

    >>> tied_share(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2)
    0.5
    """
    return float(tied_groups(task, group_size).double().mean())


def distinct_share(digests: Float[Tensor, "rollout"], group_size: int) -> float:
    """Return which share of the completions of a prompt are distinct, as the mean over all prompts.

    Args:
        digests: a number for each completion. Equal completions have equal numbers.
        group_size: the number of completions of each prompt. They stand next to one another.

    >>> distinct_share(torch.tensor([5.0, 5.0, 5.0, 5.0, 1.0, 2.0, 3.0, 4.0]), 4)
    0.625
    """
    groups = digests.view(-1, group_size).tolist()
    return sum(len(set(group)) for group in groups) / (len(groups) * group_size)


def halves_accuracy(
    inversion: Float[Tensor, "rollout"], accepted: Bool[Tensor, "rollout"], group_size: int
) -> tuple[float, float]:
    """Compute the accuracy of the rollouts with a high inversion ι, and that of the rollouts with a low one.

    In each group, ι is high above the median of the group and low below it. Both halves have rollouts of the same
    prompts, so the difficulty of the prompts plays no part. A rollout at the median, or without ι, is in neither half.
    The accuracy of an empty half is NaN.

    Returns:
        (the accuracy of the rollouts with a high ι, the accuracy of those with a low ι).
    """
    groups, right = inversion.view(-1, group_size), accepted.view(-1, group_size).double()
    middle = groups.nanquantile(0.5, dim=1, keepdim=True)
    return float(right[groups > middle].mean()), float(right[groups < middle].mean())


def step_metrics(
    facts: RolloutFacts,
    task: Float[Tensor, "rollout"],
    accepted: Bool[Tensor, "rollout"],
    *,
    group_size: int,
    weight: float,
    judged: Bool[Tensor, "rollout"] | None = None,
) -> dict[str, float]:
    """Compute the metrics of one batch: a mapping from their names to their values, which are NaN where undefined.

    Args:
        facts: the facts (some numbers for each rollout) of all rollouts of the batch, from all processes. The rollouts
            of one prompt form a group, and stand next to one another.
        task: the weighted sum of the task rewards of each rollout; NaN if no reward function gave one.
        accepted: whether the verifier accepts each rollout.
        group_size: number of rollouts of each prompt.
        weight: λ, the weight of inversion at this training step.
        judged: whether the verifier gave a number for each rollout; by default it did for all. The accuracies are over
            these rollouts.
    """
    scores = facts.scores
    unseen = torch.zeros_like(accepted) if judged is None else ~judged
    top, bottom = halves_accuracy(scores.inversion.masked_fill(unseen, torch.nan), accepted, group_size)
    return {
        "task/mean": _mean(task),
        "task/std": _std(task),
        "task/within_group_std": _within(task, group_size),
        "task/accuracy": _mean(accepted.double().masked_fill(unseen, torch.nan)),
        "task/tied_groups": tied_share(task, group_size),
        "inversion/mean": _mean(scores.inversion),
        "inversion/std": _std(scores.inversion),
        "inversion/within_group_std": _within(scores.inversion, group_size),
        "inversion/correlation": _mean(scores.correlation),
        **{
            f"inversion/correlation_{unit}": _mean(scores.by_unit[unit]) if unit in scores.by_unit else math.nan
            for unit in ("token", "type", "step")
        },
        "inversion/correlation_given_length": _mean(scores.given_length),
        "inversion/items": _mean(scores.num_items.double()),
        "inversion/undefined": float(scores.inversion.isnan().double().mean()),
        "inversion/top_accuracy": top,
        "inversion/bottom_accuracy": bottom,
        "inversion/weight": weight,
        "inversion/seconds": float(facts.seconds.max()),
        "rollout/entropy": _mean(scores.entropy),
        "rollout/strength": _mean(scores.strength),
        "rollout/length": _mean(facts.length),
        "rollout/truncated": _mean(facts.truncated),
        "rollout/repetition": _mean(facts.repetition),
        "rollout/distinct": distinct_share(facts.digest, group_size),
    }
