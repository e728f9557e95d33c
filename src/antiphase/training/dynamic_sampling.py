"""Decide which groups of rollouts are sampled again: DAPO's dynamic sampling (arXiv 2503.14476, section 3.2).

All rollouts of a prompt form a group. If their task rewards are all equal, the policy learns nothing about the task
from the group, since advantages are differences within a group. Dynamic sampling replaces groups of this kind by
groups of further prompts. The functions of this module are pure; `ResamplingTrainer` applies them to TRL's batches.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from antiphase.inversion.step_metrics import tied_groups
from antiphase.training.random_reward import seeded

PREFIX = "sampling/"


def judged_rewards(
    columns: Float[Tensor, "rollout function"], weights: Float[Tensor, "function"], verifier: int | None
) -> Float[Tensor, "rollout"]:
    """Return the rewards from which `groups_without_signal` finds the groups that are sampled again.

    If the verifier (the function that says which completions are right) has a weight other than 0, its rewards are
    returned. A group is then sampled again if all its answers are right or all are wrong, as in DAPO. Otherwise the
    weighted sum of all task rewards is returned: a verifier with weight 0 is only logged, and must not influence the
    training.

    The inversion reward must not be among the columns. It differs within almost every group, so hardly any group would
    be sampled again.

    >>> columns = torch.tensor([[1.0, 0.25], [1.0, 0.5]])
    >>> judged_rewards(columns, torch.tensor([1.0, 1.0]), 0).tolist()
    [1.0, 1.0]
    >>> judged_rewards(columns, torch.tensor([0.0, 4.0]), 0).tolist()
    [1.0, 2.0]

    Args:
        columns: the reward of each function for each rollout; NaN if the function gave the rollout no reward.
        weights: the weight of each function; 0 for a function whose rewards are not used here.
        verifier: index of the verifier, or None.

    Returns:
        a float64 number for each rollout; NaN if the rollout has none of the rewards that are used.
    """
    columns, weights = columns.double(), weights.double()
    if verifier is not None and weights[verifier] != 0:
        return columns[:, verifier]
    used = weights != 0
    unscored = columns[:, used].isnan().all(1)
    return (columns * weights)[:, used].nansum(1).masked_fill(unscored, torch.nan)


def groups_without_signal(rewards: Float[Tensor, "rollout"], group_size: int) -> Bool[Tensor, "group"]:
    """Return which groups are sampled again: those whose rewards are all equal, and those without any reward.

    >>> groups_without_signal(torch.tensor([1.0, 1.0, 0.0, 1.0, math.nan, math.nan]), 2).tolist()
    [True, False, True]

    Args:
        rewards: what `judged_rewards` returns for all rollouts. The rollouts of a prompt stand next to one another.
        group_size: number of rollouts of each prompt.
    """
    return tied_groups(rewards, group_size) | rewards.view(-1, group_size).isnan().all(1)


def groups_to_sample(missing: int, group_size: int, num_processes: int) -> int:
    """Return how many groups to sample, if at least `missing` groups are needed.

    The number may be above `missing`, because the rollouts must be divided equally among all processes. The smallest
    possible number is returned.

    >>> groups_to_sample(3, 4, 2), groups_to_sample(3, 3, 2)
    (3, 4)

    Args:
        missing: number of groups to replace.
        group_size: number of rollouts of each prompt.
        num_processes: number of processes that share the rollouts.
    """
    step = num_processes // math.gcd(group_size, num_processes)
    return math.ceil(missing / step) * step


def prompt_key(row: Mapping[str, Any]) -> str:
    """Return a short text (a hash of the row's prompt), which is the same for equal prompts.

    Processes exchange these texts to find out which prompts the batch already has.
    """
    text = json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def further_rows(
    rows: Any, known: Sequence[str], *, seed: int, step: int, generation: int
) -> Iterator[Mapping[str, Any]]:
    """Yield rows of a data set in a random order, without the prompts that the batch already has.

    The order depends only on `seed`, `step` and `generation`. So all processes draw the same prompts, and a resumed
    training draws the same prompts as one that was not interrupted. No prompt is yielded twice.

    Args:
        rows: the training data, a sequence of rows.
        known: keys of the prompts that the batch already has; see `prompt_key`.
        seed: seed of the training.
        step: number of optimizer steps done.
        generation: number of earlier batches that were sampled at the same step.
    """
    seen = set(known)
    for place in torch.randperm(len(rows), generator=seeded(seed, step, generation)).tolist():
        row = rows[place]
        key = prompt_key(row)
        if key not in seen:
            seen.add(key)
            yield row


def sampling_metrics(
    *, rounds: int, num_groups: int, num_tied: int, tokens: float, kept_tokens: float, accuracy: float
) -> dict[str, float]:
    """Return a mapping from the names in docs/metrics.md to the metrics of a batch that was sampled dynamically.

    Args:
        rounds: how often groups were replaced after the first sample of the batch.
        num_groups: number of groups that were sampled, the dropped ones included.
        num_tied: how many of the sampled groups had equal rewards or no reward.
        tokens: completion tokens of all sampled groups.
        kept_tokens: completion tokens of the groups that are trained on.
        accuracy: share of right rollouts among the rollouts of the first sample that the verifier judged; NaN if it
            judged none.
    """
    return {
        f"{PREFIX}rounds": float(rounds),
        f"{PREFIX}prompts": float(num_groups),
        f"{PREFIX}tied": num_tied / num_groups,
        f"{PREFIX}dropped_tokens": tokens - kept_tokens,
        f"{PREFIX}accuracy": accuracy,
    }
