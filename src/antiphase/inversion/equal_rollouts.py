"""Find equal rollouts of a batch, so that they are measured only once, and copy the signals to each of them.

Short answers repeat: a policy that has learned a task often answers a prompt in the same words. Rollouts with the same
token ids and the same measured tokens have the same signals.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from antiphase.types import Alternatives, Magnitudes, StepSignals, TokenBatch, TokenSignals


def first_of_equals(batch: TokenBatch) -> list[int]:
    """Return, for each rollout, the index of the first rollout of the batch that equals it (often itself).

    >>> first_of_equals(TokenBatch.from_ids([[1], [1], [1]], [[5, 6], [5, 7], [5, 6]]))
    [0, 1, 0]
    """
    columns = (batch.input_ids, batch.attention_mask.long(), batch.completion_mask.long())
    rows = torch.stack([column.cpu() for column in columns], dim=1)
    first: dict[bytes, int] = {}
    return [first.setdefault(row.numpy().tobytes(), index) for index, row in enumerate(rows)]


def chosen_rows(batch: TokenBatch, rows: Sequence[int]) -> TokenBatch:
    """Return a batch of the rollouts with the indices `rows`. The columns, with their padding, stay the same."""
    index = torch.tensor(rows, device=batch.input_ids.device)
    return TokenBatch(batch.input_ids[index], batch.attention_mask[index], batch.completion_mask[index])


def spread_rows(signals: TokenSignals, places: Sequence[int]) -> TokenSignals:
    """Copy signals to equal rollouts: return an object in which row i is row `places[i]` of `signals`.

    Args:
        signals: the signals of rollouts that all differ.
        places: for each rollout of the whole batch, the index of the equal rollout in `signals`.
    """
    spread: TokenSignals = _spread(signals, places)
    return spread


def _spread(value: Any, places: Sequence[int]) -> Any:
    """Return the rows of a tensor at the indices `places`. An index may occur more than once.

    For an object of a signal class, such as `TokenSignals`, this is done for each of its tensors. Any other value is
    returned unchanged.
    """
    if isinstance(value, Tensor):
        return value[torch.tensor(places, device=value.device)]
    if isinstance(value, TokenSignals | StepSignals | Alternatives | Magnitudes):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{f.name: _spread(getattr(value, f.name), places) for f in fields})
    return value
