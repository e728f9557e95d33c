"""Chunks: right-padded rows with a flat list of their targets, which every estimator takes; and what it returns.

The rows of a batch may be padded on either side. Here the padding is removed, and the rows are sorted by length and
packed into chunks within the token budget. So the numbers depend neither on the side of the padding nor on the other
rows in the batch.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import SignalSpec
from antiphase.signals.entropy import HeadSignals
from antiphase.types import TokenBatch

Tick = Callable[[int], None]


def silent(num_targets: int) -> None:
    """A tick that does nothing."""


@dataclass(frozen=True)
class Row:
    """One rollout without padding: its place in the batch, its token ids, and its targets and measured columns."""

    index: int
    offset: int
    token_ids: Int[Tensor, "token"]
    targets: Int[Tensor, "target"]
    measured: Bool[Tensor, "target"]
    steps: Int[Tensor, "target"] | None = None
    """The step of each target, counted from 0; None if no steps were given."""

    @property
    def num_steps(self) -> int:
        """How many steps the row has."""
        return 0 if self.steps is None else int(self.steps.max()) + 1


@dataclass(frozen=True)
class Prefix:
    """The tokens before the rows of a chunk: the distinct prefixes, padded on the right, and each row's prefix."""

    input_ids: Int[Tensor, "prefix token"]
    owner: Int[Tensor, "row"]
    lengths: Int[Tensor, "row"]
    """How many tokens each row's prefix has."""


@dataclass(frozen=True)
class Chunk:
    """Rows padded on the right, with their targets listed row by row.

    Target k is the token at `[rows[k], columns[k]]`; the hidden state at column − 1 predicts it.
    """

    input_ids: Int[Tensor, "row token"]
    lengths: tuple[int, ...]
    rows: Int[Tensor, "target"]
    columns: Int[Tensor, "target"]
    measured: Bool[Tensor, "target"]
    whole: bool = False
    """Whether the rows must be run at full length, because the model's numbers at a prefix depend on the length."""

    prefix: Prefix | None = None
    """The tokens before the first column, which are run separately and without graph; columns count from their end."""

    steps: Int[Tensor, "target"] | None = None
    """The step of each target, counted from 0 over all rows of the chunk; None if no joint strength is wanted."""

    @property
    def num_steps(self) -> int:
        """How many steps all rows have together."""
        return 0 if self.steps is None else int(self.steps.max()) + 1

    @property
    def seeded(self) -> Bool[Tensor, "target"]:
        """The targets whose gradient is needed: the measured ones, or all of them if there are steps."""
        return self.measured if self.steps is None else torch.ones_like(self.measured)

    @property
    def inputs(self) -> Int[Tensor, "row column"]:
        """The tokens that are run: all except the last column, which is only predicted."""
        return self.input_ids if self.whole else self.input_ids[:, :-1]

    @property
    def token_ids(self) -> Int[Tensor, "target"]:
        """The target tokens."""
        return self.input_ids[self.rows, self.columns]


@dataclass(frozen=True)
class ChunkSignals:
    """Signals of a chunk's targets.

    Args:
        head: what the output head says about every target.
        strength: the strength of each *measured* target, in order.
        joint: the joint strength of each step; None if the chunk has no steps.
    """

    head: HeadSignals
    strength: Float[Tensor, "measured layer projection"]
    joint: Float[Tensor, "step layer projection"] | None = None


def check_steps(batch: TokenBatch, steps: Int[Tensor, "batch token"]) -> None:
    """Raise InvalidInputError unless the steps of each row's completion tokens are 0 or more and never decrease."""
    if steps.shape != batch.input_ids.shape:
        raise InvalidInputError(
            f"steps must have the shape of the batch, {tuple(batch.input_ids.shape)}; got {tuple(steps.shape)}."
        )
    if steps.is_floating_point():
        raise InvalidInputError(f"steps must be whole numbers, such as batch_steps gives; got {steps.dtype}.")
    mask = batch.completion_mask.cpu()
    for row, (numbers, chosen) in enumerate(zip(steps.cpu(), mask, strict=True)):
        inside = numbers[chosen]
        if bool((inside < 0).any()) or bool((inside.diff() < 0).any()):
            raise InvalidInputError(
                f"row {row}: the steps of the completion tokens must count from 0 upwards and never decrease; got "
                f"{inside.tolist()[:8]}."
            )


def rows_of(batch: TokenBatch, spec: SignalSpec, steps: Int[Tensor, "batch token"] | None = None) -> list[Row]:
    """Remove the padding of a batch's rows and draw the targets to measure; rows without a target are left out.

    The rows are on the CPU, since their sizes decide what is run; `chunk_of` moves them to the device.
    """
    rows = []
    ids, real_places, wanted = (t.cpu() for t in (batch.input_ids, batch.attention_mask, batch.completion_mask))
    steps = None if steps is None else steps.cpu()
    for index in range(len(batch)):
        real = torch.nonzero(real_places[index]).flatten()
        token_ids = ids[index, real]
        targets = torch.nonzero(wanted[index, real]).flatten()
        if len(targets):
            here = None if steps is None else steps[index, real][targets]
            rows.append(Row(index, int(real[0]), token_ids, targets, _draw(token_ids, len(targets), spec), here))
    return rows


def _draw(token_ids: Tensor, num_targets: int, spec: SignalSpec) -> Tensor:
    measured = torch.ones(num_targets, dtype=torch.bool)
    if spec.targets_per_rollout is not None and spec.targets_per_rollout < num_targets:
        order = torch.randperm(num_targets, generator=generator_of(token_ids, spec.seed))
        measured[:] = False
        measured[order[: spec.targets_per_rollout]] = True
    return measured


def generator_of(token_ids: Int[Tensor, "token"], seed: int) -> torch.Generator:
    """Return the random generator of one rollout, whose draws are the same however the rollouts are batched.

    The generator reads only 32 bits of its seed, so the token ids and the seed are hashed into 32 bits.

    Args:
        token_ids: the token ids of the rollout without padding, on the CPU.
        seed: the user's seed.
    """
    return torch.Generator().manual_seed(zlib.crc32(token_ids.numpy().tobytes(), zlib.crc32(str(seed).encode())))


def pack(rows: Sequence[Row], token_budget: int) -> Iterator[list[Row]]:
    """Groups of rows of at most `token_budget` padded tokens, longest first: memory then runs out early or never."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda r: (-len(r.token_ids), r.index)):
        if group and len(group[0].token_ids) * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def chunk_of(rows: Sequence[Row], device: torch.device, *, whole: bool = False) -> Chunk:
    """Pad rows on the right with the id 0, which no real token sees under a causal mask.

    The steps are numbered over all rows, one row after another.
    """
    lengths = tuple(len(row.token_ids) for row in rows)
    input_ids = torch.zeros(len(rows), max(lengths), dtype=torch.long, device=device)
    for index, row in enumerate(rows):
        input_ids[index, : lengths[index]] = row.token_ids.to(device)
    owner = [torch.full_like(row.targets, index) for index, row in enumerate(rows)]
    numbered: list[Tensor] = []
    before = 0
    for row in rows:
        if row.steps is not None:
            numbered.append(row.steps.to(device) + before)
            before += row.num_steps
    return Chunk(
        input_ids,
        lengths,
        torch.cat(owner).to(device),
        torch.cat([row.targets for row in rows]).to(device),
        torch.cat([row.measured for row in rows]).to(device),
        whole,
        steps=torch.cat(numbered) if numbered else None,
    )
