"""Turn a batch of rollouts into chunks, the input of every estimator.

A chunk holds rows that are padded on the right, and a list of their targets: the tokens whose signals are wanted. The
rows of a batch can be padded on either side. This padding is removed here, and the rows are sorted by length and
packed into chunks within the token budget. So the results depend neither on the side of the padding nor on the other
rows in the batch. `ChunkSignals` is the output of every estimator.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import SignalSpec
from antiphase.signals.entropy import HeadSignals, joined_head
from antiphase.types import TokenBatch

Tick = Callable[[int], None]


def silent(num_targets: int) -> None:
    """Do nothing. This is the default of the callbacks that report progress."""


@dataclass(frozen=True)
class Row:
    """One rollout without padding.

    Args:
        index: the row of the rollout in the batch.
        offset: the column of its first real token in the batch.
        token_ids: its token ids, without padding.
        targets: the indices of its targets (the generated tokens) in `token_ids`.
        measured: for each target, whether its strength is measured.
        steps: the step (sentence) of each target, counted from 0; None if no steps were given.
    """

    index: int
    offset: int
    token_ids: Int[Tensor, "token"]
    targets: Int[Tensor, "target"]
    measured: Bool[Tensor, "target"]
    steps: Int[Tensor, "target"] | None = None

    @property
    def num_steps(self) -> int:
        """The number of steps (sentences) of the row; 0 if no steps were given."""
        return 0 if self.steps is None else int(self.steps.max()) + 1


@dataclass(frozen=True)
class Prefix:
    """The tokens that come before each row of a chunk. Rows that follow the same tokens share one prefix.

    Args:
        input_ids: the distinct prefixes, padded on the right.
        owner: for each row, the index of its prefix in `input_ids`.
        lengths: for each row, the number of tokens of its prefix.
    """

    input_ids: Int[Tensor, "prefix token"]
    owner: Int[Tensor, "row"]
    lengths: Int[Tensor, "row"]


@dataclass(frozen=True)
class Chunk:
    """Rows that are padded on the right, and the list of their targets, row by row.

    Target k is the token at `[rows[k], columns[k]]`. It is predicted by the hidden state at
    `[rows[k], columns[k] - 1]`. So no target is in column 0. If the row has a prefix, the prefix ends before the
    position that predicts the first target.

    Args:
        input_ids: the token ids; 0 at padded positions.
        lengths: the number of tokens of each row.
        rows: the row of each target.
        columns: the column of each target.
        measured: for each target, whether its strength is measured by itself, not only as a part of its step.
        whole: whether every forward pass must run the rows at full length. This is so if the model's results for the
            first tokens of a row depend on the length of the row.
        prefix: the tokens before the first column, which are run separately and without autograd graph. The columns
            are counted from the end of the prefix.
        steps: the step (sentence) of each target, counted from 0 over all rows of the chunk; None if no joint strength
            of steps is wanted.
        longest_pass: the greatest number of positions in one pass. If it is set, the rows are run one after another,
            each in several passes. A step that is longer than this number is still run in one pass. None runs all
            positions of all rows in one pass. See `antiphase.signals.passes`.
    """

    input_ids: Int[Tensor, "row token"]
    lengths: tuple[int, ...]
    rows: Int[Tensor, "target"]
    columns: Int[Tensor, "target"]
    measured: Bool[Tensor, "target"]
    whole: bool = False
    prefix: Prefix | None = None
    steps: Int[Tensor, "target"] | None = None
    longest_pass: int | None = None

    @property
    def num_steps(self) -> int:
        """The number of steps (sentences) of all rows together."""
        return 0 if self.steps is None else int(self.steps.max()) + 1

    @property
    def seeded(self) -> Bool[Tensor, "target"]:
        """A mask that is True at the targets (generated tokens) whose gradient is needed.

        These are the measured targets, or all targets if the joint strengths of steps are wanted.
        """
        return self.measured if self.steps is None else torch.ones_like(self.measured)

    def on(self, device: torch.device) -> "Chunk":
        """Return a copy of the chunk with its tensors on a device. The chunk must have no prefix."""
        assert self.prefix is None
        return dataclasses.replace(
            self,
            input_ids=self.input_ids.to(device),
            rows=self.rows.to(device),
            columns=self.columns.to(device),
            measured=self.measured.to(device),
            steps=None if self.steps is None else self.steps.to(device),
        )

    @property
    def inputs(self) -> Int[Tensor, "row column"]:
        """The tokens that the model reads: all columns except the last one, which is only predicted."""
        return self.input_ids if self.whole else self.input_ids[:, :-1]

    @property
    def token_ids(self) -> Int[Tensor, "target"]:
        """The token ids of the targets (generated tokens)."""
        return self.input_ids[self.rows, self.columns]


@dataclass(frozen=True)
class ChunkSignals:
    """The signals of the targets (generated tokens) and steps (sentences) of a chunk of rollouts.

    Args:
        head: the entropy and the other signals of every target that are computed from its logits.
        strength: the gradient strength of each *measured* target, in order.
        joint: the joint strength of each step: the norm of the gradient of the sum of its n targets, divided by n^0.9.
            None if the chunk has no steps.
        attention_entropy: the entropy of the attention weights of every target, as the mean over heads and measured
            layers; None if the estimator does not compute attention weights.
        effective_rank: the effective rank of each step's summed gradient; None if it is not computed.
    """

    head: HeadSignals
    strength: Float[Tensor, "measured layer projection"]
    joint: Float[Tensor, "step layer projection"] | None = None
    attention_entropy: Float[Tensor, "target"] | None = None
    effective_rank: Float[Tensor, "step layer projection"] | None = None

    @classmethod
    def joined(cls, parts: Sequence["ChunkSignals"]) -> "ChunkSignals":
        """Concatenate the signals of a chunk that was measured in several passes.

        Args:
            parts: the signals that each pass measured, in the order of the targets and steps.
        """
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> Tensor | None:
            """Concatenate the field `name` of all parts that have it; None if no part has it."""
            there = [value for part in parts if (value := getattr(part, name)) is not None]
            return torch.cat(there) if there else None

        strength = torch.cat([part.strength for part in parts])
        head = joined_head([part.head for part in parts])
        return cls(head, strength, joined("joint"), joined("attention_entropy"), joined("effective_rank"))


def check_steps(batch: TokenBatch, steps: Int[Tensor, "batch token"]) -> None:
    """Raise InvalidInputError unless the steps (sentence numbers) of a rollout's completion tokens are in order.

    Every number must be at least 0, and must not be smaller than the number of the completion token before it.
    """
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
    """Return the rows of a batch without padding, and draw the targets (generated tokens) whose strength is measured.

    Rows without a target are left out. The result is on the CPU; `chunk_of` moves it to the device.

    Args:
        batch: the rollouts.
        spec: says how many targets of a rollout are measured, and the seed of the draw.
        steps: the step (sentence) of every completion token; None if no steps are needed.
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
    """Return a mask `[target]` that is True at the targets (generated tokens) whose strength is measured.

    `spec.targets_per_rollout` targets are drawn at random, without replacement. If this number is None, or is not
    smaller than the number of targets, all targets are measured.

    Args:
        token_ids: the token ids of the rollout without padding. Together with `spec.seed` they make the seed of the
            draw, so that the draw does not depend on the other rollouts of the batch.
        num_targets: the number of targets of the rollout.
        spec: the number of targets to draw, and the seed.
    """
    measured = torch.ones(num_targets, dtype=torch.bool)
    if spec.targets_per_rollout is not None and spec.targets_per_rollout < num_targets:
        order = torch.randperm(num_targets, generator=generator_of(token_ids, spec.seed))
        measured[:] = False
        measured[order[: spec.targets_per_rollout]] = True
    return measured


def generator_of(token_ids: Int[Tensor, "token"], seed: int) -> torch.Generator:
    """Return the random generator of one rollout. Its draws do not depend on the other rollouts of the batch.

    The generator's seed is a 32-bit hash of the token ids and the user's seed. More bits would have no effect, because
    a generator reads only 32 bits of its seed.

    Args:
        token_ids: the token ids of the rollout without padding, on the CPU.
        seed: the user's seed.
    """
    return torch.Generator().manual_seed(zlib.crc32(token_ids.numpy().tobytes(), zlib.crc32(str(seed).encode())))


def pack(rows: Sequence[Row], token_budget: int) -> Iterator[list[Row]]:
    """Yield groups of rows with at most `token_budget` padded tokens each.

    The longest rows come first, so that an out-of-memory error comes at the beginning or not at all. A single row may
    be longer than the budget.
    """
    group: list[Row] = []
    for row in sorted(rows, key=lambda r: (-len(r.token_ids), r.index)):
        if group and len(group[0].token_ids) * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def chunk_of(rows: Sequence[Row], device: torch.device, *, whole: bool = False) -> Chunk:
    """Make a chunk from rows: put them into one tensor on a device, padded on the right.

    Padding has the id 0. Under a causal mask, no real token sees it. The steps (sentences) of all rows are numbered
    consecutively, row after row.
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
