"""Compute the metrics that are logged for every batch of rollouts: of the task rewards, of inversion and of lengths.

These are pure functions. docs/metrics.md explains every metric.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NGRAM = 4


def repetition(token_ids: Sequence[int]) -> float:
    """Return the share of 4-grams that already occurred in the same completion; NaN with fewer than 5 tokens.

    >>> round(repetition([1, 2, 3, 4, 1, 2, 3, 4]), 6)
    0.2
    """
    grams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return math.nan if len(grams) < 2 else 1 - len(set(grams)) / len(grams)


@dataclass(frozen=True)
class BatchFacts:
    """The numbers of all rollouts of one training step, from all processes; NaN where undefined.

    The rollouts of one prompt form a group, and stand next to one another.

    Args:
        task: weighted sum of the task rewards; NaN if no reward function gave one.
        accepted: whether the verifier accepts the rollout.
        inversion: ι as the reward uses it.
        correlation: ρ, the correlation of entropy and strength over the unit of the reward, before any control,
            shrinkage or clipping.
        token, type, step: the same ρ over each unit; NaN if it was not measured.
        given_length: ρ over steps, with the lengths and places of the steps held fixed.
        items: number of tokens, types or steps that were correlated.
        entropy: mean token entropy, in nats.
        strength: mean gradient strength.
        length: number of tokens that the model generated.
        truncated: 1 where the completion has no end token, else 0.
        repetition: share of repeated 4-grams; see `repetition`.
    """

    task: Float[Tensor, "rollout"]
    accepted: Bool[Tensor, "rollout"]
    inversion: Float[Tensor, "rollout"]
    correlation: Float[Tensor, "rollout"]
    token: Float[Tensor, "rollout"]
    type: Float[Tensor, "rollout"]
    step: Float[Tensor, "rollout"]
    given_length: Float[Tensor, "rollout"]
    items: Float[Tensor, "rollout"]
    entropy: Float[Tensor, "rollout"]
    strength: Float[Tensor, "rollout"]
    length: Float[Tensor, "rollout"]
    truncated: Float[Tensor, "rollout"]
    repetition: Float[Tensor, "rollout"]


def _mean(values: Tensor) -> float:
    """Return the mean of the values that are not NaN."""
    return float(values.nanmean())


def _std(values: Tensor) -> float:
    """Return the standard deviation of the finite values; NaN with fewer than two."""
    kept = values[values.isfinite()]
    return float(kept.std()) if len(kept) > 1 else math.nan


def _within(values: Tensor, group_size: int) -> float:
    """Return the mean over groups of the standard deviation within the group."""
    return _mean(torch.tensor([_std(group) for group in values.view(-1, group_size)], dtype=torch.float64))


def tied_share(task: Float[Tensor, "rollout"], group_size: int) -> float:
    """Return the share of groups whose task rewards are all equal. A NaN is ignored.

    TRL's metric `frac_reward_zero_std` has the same criterion.

    >>> tied_share(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2)
    0.5
    """
    groups = task.view(-1, group_size)
    low = groups.nan_to_num(torch.inf).amin(1)
    high = groups.nan_to_num(-torch.inf).amax(1)
    # A group without any reward has low = ∞ and high = −∞.
    return float(((high >= low) & (high - low <= 1e-8)).double().mean())


def halves_accuracy(facts: BatchFacts, group_size: int) -> tuple[float, float]:
    """Compute the accuracy of the rollouts whose ι is above the median of their group, and of those below it.

    Both halves have rollouts of the same prompts, so the difficulty of the prompts plays no part. A rollout at the
    median, or without ι, is in neither half. The accuracy of an empty half is NaN.

    Returns:
        the accuracy of the upper half and that of the lower half.
    """
    groups = facts.inversion.view(-1, group_size)
    middle = groups.nanquantile(0.5, dim=1, keepdim=True)
    accepted = facts.accepted.view(-1, group_size).double()
    return float(accepted[groups > middle].mean()), float(accepted[groups < middle].mean())


def step_metrics(facts: BatchFacts, *, group_size: int, weight: float, seconds: float) -> dict[str, float]:
    """Compute the metrics of one batch by their names; NaN where undefined.

    Args:
        facts: the facts of all rollouts.
        group_size: number of rollouts of each prompt.
        weight: λ at this step.
        seconds: time that the slowest process spent on measuring.
    """
    top, bottom = halves_accuracy(facts, group_size)
    return {
        "task/mean": _mean(facts.task),
        "task/std": _std(facts.task),
        "task/within_group_std": _within(facts.task, group_size),
        "task/accuracy": float(facts.accepted.double().mean()),
        "task/tied_groups": tied_share(facts.task, group_size),
        "inversion/mean": _mean(facts.inversion),
        "inversion/std": _std(facts.inversion),
        "inversion/within_group_std": _within(facts.inversion, group_size),
        "inversion/correlation": _mean(facts.correlation),
        "inversion/correlation_token": _mean(facts.token),
        "inversion/correlation_type": _mean(facts.type),
        "inversion/correlation_step": _mean(facts.step),
        "inversion/correlation_given_length": _mean(facts.given_length),
        "inversion/items": _mean(facts.items),
        "inversion/undefined": float(facts.inversion.isnan().double().mean()),
        "inversion/top_accuracy": top,
        "inversion/bottom_accuracy": bottom,
        "inversion/weight": weight,
        "inversion/seconds": seconds,
        "rollout/entropy": _mean(facts.entropy),
        "rollout/strength": _mean(facts.strength),
        "rollout/length": _mean(facts.length),
        "rollout/truncated": _mean(facts.truncated),
        "rollout/repetition": _mean(facts.repetition),
    }
