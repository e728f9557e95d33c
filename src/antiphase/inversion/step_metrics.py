"""The metrics of every batch of rollouts, task reward and inversion apart. Pure functions; see docs/metrics.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NGRAM = 4


def repetition(token_ids: Sequence[int]) -> float:
    """Share of the 4-grams that occurred before in the same completion; NaN with fewer than 5 tokens.

    >>> round(repetition([1, 2, 3, 4, 1, 2, 3, 4]), 6)
    0.2
    """
    grams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return math.nan if len(grams) < 2 else 1 - len(set(grams)) / len(grams)


@dataclass(frozen=True)
class BatchFacts:
    """The facts of all rollouts of a step and of all processes, one group after another; NaN where undefined.

    Args:
        task: weighted sum of the task rewards; NaN where no function gave one.
        accepted: whether the verifier accepts the rollout.
        inversion: ι as the reward uses it.
        correlation: ρ of the untouched signals, over the unit of the reward.
        token, type, step: ρ of the untouched signals, over each unit; NaN where it was not measured.
        given_length: ρ over steps with their lengths and places held fixed.
        items: number of items that were correlated.
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
    return float(values.nanmean())


def _std(values: Tensor) -> float:
    kept = values[values.isfinite()]
    return float(kept.std()) if len(kept) > 1 else math.nan


def _within(values: Tensor, group_size: int) -> float:
    """Mean over groups of the standard deviation of their defined values."""
    return _mean(torch.tensor([_std(group) for group in values.view(-1, group_size)], dtype=torch.float64))


def tied_share(task: Float[Tensor, "rollout"], group_size: int) -> float:
    """Share of the groups whose defined task rewards are all equal (the criterion of TRL's frac_reward_zero_std).

    >>> tied_share(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2)
    0.5
    """
    groups = task.view(-1, group_size)
    low = groups.nan_to_num(torch.inf).amin(1)
    high = groups.nan_to_num(-torch.inf).amax(1)
    # A group without any reward has low = ∞ and high = −∞.
    return float(((high >= low) & (high - low <= 1e-8)).double().mean())


def halves_accuracy(facts: BatchFacts, group_size: int) -> tuple[float, float]:
    """The accuracy of the rollouts whose ι is above the median of their group, and of those below, as two numbers.

    Both halves have rollouts of the same prompts, so the difficulty of the prompts cancels. Rollouts at the median,
    and those without ι, are in neither half. The accuracy of an empty half is NaN.
    """
    groups = facts.inversion.view(-1, group_size)
    middle = groups.nanquantile(0.5, dim=1, keepdim=True)
    accepted = facts.accepted.view(-1, group_size).double()
    return float(accepted[groups > middle].mean()), float(accepted[groups < middle].mean())


def step_metrics(facts: BatchFacts, *, group_size: int, weight: float, seconds: float) -> dict[str, float]:
    """The metrics of one batch; NaN where undefined.

    Args:
        facts: the facts of all rollouts.
        group_size: number of rollouts of each prompt.
        weight: λ at this step.
        seconds: time that the slowest process spent measuring.
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
