"""For the estimator `own`: run a row that is longer than the token budget in several passes, from left to right.

For `own`, the keys and values of other positions are constants. So the backward pass of a position needs no other
position, and a row can be run in several passes, each over a part of its positions. A pass continues from the keys and
values of the positions before it, and its backward pass is run at once. Then only its keys and values are kept. The
results and the work are the same as in one pass over the whole row. The memory is that of one short pass, plus the
keys and values of the row.

Rows with the same prompt are run one after another. Their prefix (see `antiphase.signals.prefix`) is run only once.

There are two cases in which a row is run in one pass, whatever its length. In the first, the model cannot continue
from keys and values alone (`continues` is false). In the second, the row is longer than the length at which the
model's rotary frequencies change.

The joint strength of a step needs all tokens of the step. So if joint strengths are measured, a pass ends where a step
ends. A step that is longer than the token budget is run in one pass.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from antiphase.devices import return_freed_memory
from antiphase.signals.capture import Observed
from antiphase.signals.chunk import Chunk, Row, chunk_of
from antiphase.signals.frozen_attention import AttentionTrace, Past, tracing
from antiphase.signals.prefix import Family, check_continued, chunk_of_families, continues, families_of, run

_T = TypeVar("_T")


def split_long(model: nn.Module, rows: Sequence[Row], token_budget: int) -> tuple[list[Family], list[Row]]:
    """Divide rows into long rows, which are run in several passes, and all other rows.

    A row is long if it has more tokens than the budget. If the model cannot continue a row from the keys and values of
    an earlier pass, no row counts as long.

    Returns:
        (the long rows, as groups with the same prefix; all other rows).
    """
    long = [row for row in rows if len(row.token_ids) > token_budget]
    if not long or not continues(model):
        return [], list(rows)
    return families_of(long), [row for row in rows if len(row.token_ids) <= token_budget]


def chunk_of_long(family: Family, token_budget: int, device: torch.device) -> Chunk:
    """Return the chunk of one family (rows that share a prefix), to be run in passes of `token_budget` positions."""
    if family.length:
        return dataclasses.replace(chunk_of_families([family], device), longest_pass=token_budget)
    rows = [dataclasses.replace(row, token_ids=row.token_ids[: int(row.targets[-1]) + 1]) for row in family.rows]
    return dataclasses.replace(chunk_of(rows, device), longest_pass=token_budget)


def run_in_passes(seen: Observed, chunk: Chunk, measure: Callable[[Chunk, Tensor, AttentionTrace], _T]) -> list[_T]:
    """Run a chunk with an autograd graph, call `measure` after each pass, and return the results of all calls.

    The results are in the order of the targets (generated tokens). If the chunk's `longest_pass` is None, the chunk is
    run in one pass. Otherwise the chunk must have at most one prefix.

    Args:
        seen: the model with hooks, which runs the passes.
        chunk: the rows and their targets.
        measure: a function of three arguments: the rows of a pass as a `Chunk`, their final hidden states
            `[row, token, hidden]`, and the trace of their attention calls. The graph of a pass is freed when the
            function has returned.

    Raises:
        UnsupportedModelError: the model did not make an attention mask that covers the positions of earlier passes.
    """
    if chunk.longest_pass is None:
        return [measure(chunk, *run(seen, chunk, grad=True))]
    before = 0 if chunk.prefix is None else int(chunk.prefix.lengths[0])
    kept = _KeysAndValues(before + max(chunk.lengths))
    if chunk.prefix is not None:
        for ids in chunk.prefix.input_ids[:1, :before].split(chunk.longest_pass, dim=1):
            kept.run(seen, ids, grad=False)
    results = []
    for index in range(len(chunk.lengths)):
        kept.forget_after(before)
        for part in _passes(chunk, index, chunk.longest_pass):
            if len(part.rows):
                results.append(measure(part, *kept.run(seen, part.inputs, grad=True)))
            else:
                kept.run(seen, part.inputs, grad=False)
            return_freed_memory(chunk.input_ids.device)
    return results


@dataclass
class _KeysAndValues:
    """Runs one row in several passes, and keeps the keys and values of the positions that have been run.

    Args:
        size: the number of positions for which there is room.
        filled: the number of positions whose keys and values are in `calls`.
        calls: for each attention call of the model, in order, the keys and the values `[1, group, position, dim]`.
        latest: the keys and values of the latest pass. They are moved to `calls` before the next pass, since autograd
            does not allow a tensor to change before its backward pass.
    """

    size: int
    filled: int = 0
    calls: list[tuple[Tensor, ...]] = field(default_factory=list)
    latest: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def run(self, seen: Observed, input_ids: Tensor, *, grad: bool) -> tuple[Tensor, AttentionTrace]:
        """Run the next positions of the row, and keep their keys and values.

        Args:
            seen: the model with hooks.
            input_ids: the token ids of the next positions, `[1, token]`.
            grad: whether an autograd graph is built.

        Returns:
            The final hidden states of these positions, and the trace of the attention calls.
        """
        self._move_latest()
        attention = [layer.module for layer in seen.layers] if grad else []
        if self.filled == 0:
            with tracing(record=True, entropies_of=attention) as trace:
                hidden = seen.hidden(input_ids, grad=grad)
        else:
            device = input_ids.device
            past = tuple((key[:, :, : self.filled], value[:, :, : self.filled]) for key, value in self.calls)
            first = torch.zeros(1, dtype=torch.long, device=device)
            positions = torch.arange(self.filled, self.filled + input_ids.shape[1], device=device)[None]
            before = Past(past, first, first + self.filled)
            with tracing(record=True, past=before, entropies_of=attention) as trace:
                hidden = seen.hidden(input_ids, grad=grad, positions=positions)
            check_continued(seen.model, trace)
        self.latest = trace.recorded
        return hidden, trace

    def forget_after(self, num_positions: int) -> None:
        """Forget all but the first `num_positions` positions. The next run continues after these."""
        self._move_latest()
        self.filled = num_positions

    def _move_latest(self) -> None:
        if not self.latest:
            return
        if not self.calls:
            self.calls = [
                tuple(one.new_empty(*one.shape[:2], self.size, one.shape[3]) for one in pair) for pair in self.latest
            ]
        stop = self.filled + self.latest[0][0].shape[2]
        for pair, buffers in zip(self.latest, self.calls, strict=True):
            for one, buffer in zip(pair, buffers, strict=True):
                buffer[:, :, self.filled : stop] = one
        self.filled, self.latest = stop, []


def _passes(chunk: Chunk, index: int, longest: int) -> Iterator[Chunk]:
    """Yield the passes over one row of a chunk, from left to right. Each pass is a `Chunk` without a prefix.

    Args:
        chunk: the rows and their targets (generated tokens).
        index: the index of the row.
        longest: the greatest number of positions in one pass.
    """
    here = chunk.rows == index
    columns, measured = chunk.columns[here], chunk.measured[here]
    steps, base = None, 0
    if chunk.steps is not None:
        steps, before = chunk.steps[here], chunk.steps[chunk.rows < index]
        base = int(before.max()) + 1 if len(before) else 0
    ends = _ends(columns.tolist(), None if steps is None else steps.tolist(), longest)
    start = 0
    for end in ends:
        inside = (columns > start) & (columns <= end)
        some = columns[inside] - start
        numbered = None
        if steps is not None and len(some):
            numbered = steps[inside] - base
            base += int(numbered.max()) + 1
        yield Chunk(
            chunk.input_ids[index : index + 1, start : end + 1],
            (end + 1 - start,),
            torch.zeros_like(some),
            some,
            measured[inside],
            steps=numbered,
        )
        start = end


def _ends(columns: Sequence[int], steps: Sequence[int] | None, longest: int) -> list[int]:
    """Return, for each pass over a row, the column of the last token that the pass predicts.

    Args:
        columns: the columns of the row's targets (generated tokens), in ascending order.
        steps: the step (sentence) of each target. A pass then ends where a step ends. If None is given, a pass may end
            anywhere.
        longest: the greatest number of positions in one pass.

    >>> _ends([3, 4, 5, 6, 7], None, 3)
    [3, 6, 7]
    >>> _ends([3, 4, 5, 6, 7], [0, 0, 1, 1, 1], 3)
    [2, 4, 7]
    """
    spans: dict[int, tuple[int, int]] = {}
    for column, step in zip(columns, steps or (), strict=steps is not None):
        spans[step] = (spans.get(step, (column, column))[0], column)
    ends, start, last = [], 0, columns[-1]
    while start < last:
        end = min(start + longest, last)
        for first, final in spans.values():
            if first <= end < final:
                end = first - 1 if first - 1 > start else final
        ends.append(end)
        start = end
    return ends
