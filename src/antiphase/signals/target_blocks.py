"""Plan the backward passes of the estimator `full`: which targets share a forward pass, and how long this pass is.

A backward pass runs as many positions as the forward pass that made its graph. A target (a generated token) sees only
the positions before it, so a long forward pass wastes work on early targets. But a forward pass costs about as much as
a backward pass, so a forward pass for each target would be wasteful too. `blocks_of` divides the targets into blocks
so that the work is least. A plan contains no tensors, so the GPU is not needed to make it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# The work of a forward pass, in backward passes of the same length (measured on a CPU, SmolLM2-135M).
_FORWARD = 0.9


@dataclass(frozen=True)
class Span:
    """Some targets (generated tokens) of one row. One backward pass differentiates their sum.

    Args:
        row: the row.
        targets: the indices of the targets in the chunk's list of targets.
        place: the index of the result in the list of all norms.
        reach: the number of positions that the backward pass must run. The last of them predicts the last target.
    """

    row: int
    targets: tuple[int, ...]
    place: int
    reach: int


@dataclass(frozen=True)
class Block:
    """Backward passes that share a forward pass.

    Args:
        rows: for each row of the forward pass, the row of the chunk. A row of the chunk can occur several times.
        length: the number of positions of the forward pass.
        passes: for each backward pass, pairs (row of the forward pass, span that is differentiated in this row).
    """

    rows: tuple[int, ...]
    length: int
    passes: tuple[tuple[tuple[int, Span], ...], ...]


def blocks_of(spans: Sequence[Span], most_passes: int, copies: int = 1, length: int | None = None) -> Iterator[Block]:
    """Divide the backward passes into blocks so that the total work is least.

    The backward passes of a block share one forward pass.

    A block with n backward passes and w rows of L positions takes the work w L (n + 0.9). The unit of work is a
    backward pass over one position; 0.9 is the cost of the forward pass.

    Args:
        spans: what each backward pass differentiates in one row. The spans of a row are taken in the order of their
            reach.
        most_passes: the greatest number of backward passes in a block.
        copies: how often a row is put into a forward pass. A backward pass serves one span of each copy.
        length: the number of positions of every forward pass. If None is given, each block runs only the positions
            that its spans need.
    """
    lanes = _lanes(spans, copies)
    if not lanes:
        return
    num_passes = len(lanes[0])
    widths = [sum(len(lane) > number for lane in lanes) for number in range(num_passes)]
    reaches = [max(lane[number].reach for lane in lanes[: widths[number]]) for number in range(num_passes)]
    if length is not None:
        reaches = [length] * num_passes
    for start, stop in _least_work(widths, reaches, most_passes):
        alive = lanes[: widths[start]]
        yield Block(
            tuple(lane[0].row for lane in alive),
            max(reaches[start:stop]),
            tuple(
                tuple((index, lane[number]) for index, lane in enumerate(alive) if number < len(lane))
                for number in range(start, stop)
            ),
        )


def _lanes(spans: Sequence[Span], copies: int) -> list[list[Span]]:
    """Distribute the spans of each row over the copies of this row, and return one list of spans for each copy.

    A span is what one backward pass differentiates in one row. Each list is in the order of the spans' reach. The
    longest lists come first.
    """
    rows: dict[int, list[Span]] = {}
    for span in spans:
        rows.setdefault(span.row, []).append(span)
    ordered = [sorted(queue, key=lambda span: span.reach) for queue in rows.values()]
    # Neighbouring spans go to different copies, so that one backward pass serves spans of similar reach.
    lanes = [queue[copy::copies] for queue in ordered for copy in range(min(copies, len(queue)))]
    return sorted(lanes, key=len, reverse=True)


def _least_work(widths: Sequence[int], reaches: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Divide the backward passes, in their order, into blocks with the least work in total.

    Returns pairs (a, b): a block has the passes a to b − 1.

    Args:
        widths: for each pass, the number of its rows. It never grows from pass to pass.
        reaches: for each pass, the number of positions that it needs.
        most: the greatest number of passes in a block.

    Cost: O(passes · most), by dynamic programming.

    >>> _least_work([1, 1, 1, 1], [10, 11, 100, 101], 64)
    [(0, 2), (2, 4)]
    """
    best, begins = [0.0], [0]
    for stop in range(1, len(widths) + 1):
        least, begin, reach = float("inf"), 0, 0
        for start in range(stop - 1, max(-1, stop - 1 - most), -1):
            reach = max(reach, reaches[start])
            work = best[start] + widths[start] * reach * (stop - start + _FORWARD)
            if work < least:
                least, begin = work, start
        best.append(least)
        begins.append(begin)
    ends = [len(widths)]
    while ends[-1] > 0:
        ends.append(begins[ends[-1]])
    return list(itertools.pairwise(reversed(ends)))
