"""Measure equal rollouts of a batch once, and give each of them the signals.

Short answers repeat: a policy that has learned a task often answers a prompt in the same words. Rollouts with the same
token ids and the same measured tokens have the same signals.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from antiphase.types import Alternatives, Magnitudes, StepSignals, TokenBatch, TokenSignals

_T = TypeVar("_T", TokenSignals, StepSignals, Alternatives, Magnitudes)


def first_of_equals(batch: TokenBatch) -> list[int]:
    """Return for each rollout the index of the first rollout that equals it.

    >>> first_of_equals(TokenBatch.from_ids([[1], [1], [1]], [[5, 6], [5, 7], [5, 6]]))
    [0, 1, 0]
    """
    columns = (batch.input_ids, batch.attention_mask.long(), batch.completion_mask.long())
    rows = torch.stack([column.cpu() for column in columns], dim=1)
    first: dict[bytes, int] = {}
    return [first.setdefault(row.numpy().tobytes(), index) for index, row in enumerate(rows)]


def chosen_rows(batch: TokenBatch, rows: Sequence[int]) -> TokenBatch:
    """Return a batch of some rollouts of a batch, with the same columns."""
    index = torch.tensor(rows, device=batch.input_ids.device)
    return TokenBatch(batch.input_ids[index], batch.attention_mask[index], batch.completion_mask[index])


def spread_rows(signals: _T, places: Sequence[int]) -> _T:
    """Return the signals of rollouts of which some are equal.

    Args:
        signals: the signals of the different rollouts.
        places: for each rollout of the result, its place among the different ones.
    """
    changes: dict[str, object] = {}
    for field in dataclasses.fields(signals):
        value = getattr(signals, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = value[torch.tensor(places, device=value.device)]
        elif isinstance(value, StepSignals | Alternatives | Magnitudes):
            changes[field.name] = spread_rows(value, places)
    return dataclasses.replace(signals, **changes)
