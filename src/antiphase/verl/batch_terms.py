"""Compute what the inversion adds to the rewards and advantages of a batch of verl.

In verl, the rollouts of a batch are in any order, a group may lack rollouts that failed, and rows of padding fill the
batch up. This module collects the rollouts of each group. `InversionReward.combine` does the arithmetic, as for TRL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.verl.fact_columns import from_columns


@dataclass(frozen=True)
class BatchTerms:
    """What the inversion adds to the reward and the advantage of each row of a batch, in float64.

    A row is a rollout, or padding. Padding gets 0.

    Args:
        reward: the number that is added to the row's reward before verl computes advantages.
        advantage: the number that is added to the advantage of each of the row's tokens; 0 unless the mode is
            `centered`.
        metrics: the metrics of the largest groups. These are the groups without a failed rollout, if there are such
            groups.
    """

    reward: Float[Tensor, "row"]
    advantage: Float[Tensor, "row"]
    metrics: Mapping[str, float]


def batch_terms(
    reward: InversionReward,
    facts: Float[Tensor, "row fact"],
    task: Float[Tensor, "row"],
    groups: Sequence[str],
    padding: Sequence[bool],
    *,
    weight: float,
) -> BatchTerms:
    """Compute what the inversion adds to the reward and the advantage of each row of a batch.

    Args:
        reward: the inversion reward.
        facts: the numbers that were measured on each row, as `to_columns` returns them.
        task: the task reward of each row.
        groups: a text for each row that identifies its prompt; the rows of one prompt form a group.
        padding: whether each row is padding, which is no rollout.
        weight: the weight λ of the inversion at this step.

    Raises:
        InvalidInputError: the task reward of a rollout is NaN or infinite. verl cannot leave a rollout out of its
            group, so the advantages of the whole group would be NaN.
    """
    task = task.detach().cpu().double()
    rows: dict[str, list[int]] = {}
    for row, (group, padded) in enumerate(zip(groups, padding, strict=True)):
        if not padded:
            if not bool(task[row].isfinite()):
                raise InvalidInputError(
                    f"row {row} has the task reward {float(task[row])}. verl needs a finite reward for every rollout; "
                    "let the reward function return a number, such as 0."
                )
            rows.setdefault(group, []).append(row)
    added, advantage = torch.zeros_like(task), torch.zeros_like(task)
    metrics: Mapping[str, float] = {}
    # Groups of one size are combined together. The last size is the largest, and its metrics stay.
    for size in sorted({len(group) for group in rows.values()}):
        chosen = torch.tensor([row for group in rows.values() if len(group) == size for row in group])
        combined = reward.combine(
            from_columns(facts[chosen].cpu().double()),
            task[chosen],
            group_size=size,
            weight=weight,
            accepted=reward.spec.accepts(task[chosen]),
        )
        added[chosen] = combined.reward - task[chosen]
        advantage[chosen] = combined.advantage
        metrics = combined.metrics
    return BatchTerms(added, advantage, metrics)


def check_sessions(keys: Sequence[str], padding: Sequence[bool]) -> None:
    """Raise an error if an agent loop returned several outputs for one rollout of a batch.

    verl computes the advantage of the last output alone, and gives it to the other outputs too. Which of the outputs
    should be measured is an open question.

    Args:
        keys: verl's keys of the rows, `{uid}_{session}_{index}`. The rows of one session differ only in the index.
        padding: whether each row is padding, which is no rollout.

    Raises:
        InvalidInputError: a session has more than one row.
    """
    seen: set[str] = set()
    for key, padded in zip(keys, padding, strict=True):
        session = key.rpartition("_")[0]
        if padded:
            continue
        if session in seen:
            raise InvalidInputError(
                f"the agent loop returned several outputs for one rollout (session {session}). The inversion is "
                "measured on rollouts of one output. Use an agent loop that returns one output."
            )
        seen.add(session)


def with_term(token_rewards: Sequence[Tensor], term: Float[Tensor, "row"]) -> list[Tensor]:
    """Return the rewards of each row's tokens, `[token]`, after the row's `term` is added to the last reward."""
    changed = []
    for rewards, number in zip(token_rewards, term.tolist(), strict=True):
        copy = rewards.clone()
        copy[-1] += number
        changed.append(copy)
    return changed
