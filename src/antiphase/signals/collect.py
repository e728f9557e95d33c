"""Put the signals of all chunks at their positions in the batch, and compute the signals of steps from them.

A chunk is a group of rollouts that ran together. A step is a part of a rollout, such as a sentence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.models.architecture import AttentionLayer
from antiphase.signal_spec import SignalSpec
from antiphase.signals.cells import mean_of_cells, mean_rank_of_cells, present
from antiphase.signals.chunk import ChunkSignals, Row
from antiphase.types import MAGNITUDES, Alternatives, Magnitudes, StepSignals, TokenBatch, TokenSignals

_OF_HEAD = ("entropy", "logprob", "logprob_control", "self_certainty", "impurity")


def collect(
    batch: TokenBatch,
    layers: Sequence[AttentionLayer],
    spec: SignalSpec,
    done: Sequence[tuple[Sequence[Row], ChunkSignals]],
    steps: Int[Tensor, "batch token"] | None,
) -> TokenSignals:
    """Join the signals of all chunks (rollouts that ran together) in tensors with the shape of the batch.

    The tensors are on the device of the batch. Positions without a measured value are NaN.

    Args:
        batch: the batch that was measured.
        layers: the attention layers that were measured.
        spec: the options of the measurement.
        done: for each chunk, its rows and its signals.
        steps: the step (sentence) of every completion token; None if no steps were given.
    """
    shape, device = batch.input_ids.shape, batch.input_ids.device
    there = present(layers, spec.projections)
    dtype = done[0][1].strength.dtype if done else torch.float32

    def blank(*more: int) -> Tensor:
        return torch.full((*shape, *more), torch.nan, dtype=dtype, device=device)

    values = {name: blank() for name in (*_OF_HEAD, *MAGNITUDES)}
    strength, attention = blank(len(layers), len(spec.projections)), blank()
    measured = torch.zeros(shape, dtype=torch.bool, device=device)
    rank = spec.num_alternatives
    nobody = torch.full((*shape, rank), -1, dtype=torch.long, device=device)
    top = Alternatives(nobody, blank(rank)) if rank else None
    for rows, signals in done:
        index = torch.cat([torch.full_like(row.targets, row.index) for row in rows]).to(device)
        columns = torch.cat([row.targets + row.offset for row in rows]).to(device)
        chosen = torch.cat([row.measured for row in rows]).to(device)
        for name in _OF_HEAD:
            values[name][index, columns] = getattr(signals.head, name).to(device, dtype)
        for name in MAGNITUDES:
            values[name][index, columns] = getattr(signals.head.magnitudes, name).to(device, dtype)
        if signals.attention_entropy is not None:
            attention[index, columns] = signals.attention_entropy.to(device, dtype)
        strength[index[chosen], columns[chosen]] = signals.strength.to(device, dtype)
        measured[index[chosen], columns[chosen]] = True
        if top is not None and signals.head.alternatives is not None:
            top.token_ids[index, columns] = signals.head.alternatives.token_ids.to(device)
            top.logprobs[index, columns] = signals.head.alternatives.logprobs.to(device, dtype)
    strength[..., ~there.to(device)] = torch.nan
    return TokenSignals(
        **{name: values[name] for name in _OF_HEAD},
        strength=mean_of_cells(strength, there),
        strength_by_projection=strength,
        measured=measured,
        layers=tuple(layer.index for layer in layers),
        spec=spec,
        alternatives=top,
        magnitudes=Magnitudes(*(values[name] for name in MAGNITUDES)),
        steps=None if steps is None else _steps(batch, values["entropy"], strength, steps, spec, done, there),
        attention_entropy=None if any(signals.attention_entropy is None for _, signals in done) else attention,
    )


def _steps(
    batch: TokenBatch,
    entropy: Float[Tensor, "batch token"],
    strength: Float[Tensor, "batch token layer projection"],
    steps: Int[Tensor, "batch token"],
    spec: SignalSpec,
    done: Sequence[tuple[Sequence[Row], ChunkSignals]],
    there: Bool[Tensor, "layer projection"],
) -> StepSignals:
    """Compute the entropy, the strength, the length and the position of every step (sentence) of every rollout.

    Args:
        batch: the batch that was measured.
        entropy: the entropy of every token, in nats.
        strength: the gradient strength of every token for each layer and projection.
        steps: the step of every completion token.
        spec: the options of the measurement.
        done: for each chunk (rollouts that ran together), its rows and its signals.
        there: which projections each layer has.
    """
    device, mask, steps = strength.device, batch.completion_mask.cpu(), steps.cpu()
    number = int(steps[mask].max()) + 1 if bool(mask.any()) else 0
    rows, columns = torch.nonzero(mask, as_tuple=True)
    place = rows * number + steps[rows, columns]
    shape = (len(batch), number)

    def mean(values: Tensor) -> Tensor:
        """Return the mean over the tokens of each step, in float64. NaN values are left out.

        The mean is NaN for a step without other values.
        """
        wide = values.cpu()[rows, columns].double()
        there = ~wide.isnan()
        total = wide.new_zeros(shape[0] * shape[1], *wide.shape[1:])
        count = torch.zeros_like(total).index_add_(0, place, there.double())
        means: Tensor = (total.index_add_(0, place, wide.nan_to_num(0.0)) / count).unflatten(0, shape)
        return means

    # The number of completion tokens before each token is its position in the completion.
    before = mask.cumsum(1) - 1
    ranks = None
    if spec.step_strength == "joint":
        blank = torch.full((*shape, *strength.shape[2:]), torch.nan, dtype=strength.dtype)
        by_cell = _placed(blank, done, [signals.joint for _, signals in done])
        if all(signals.effective_rank is not None for _, signals in done):
            by_rank = _placed(blank, done, [signals.effective_rank for _, signals in done])
            ranks = mean_rank_of_cells(by_rank, by_cell, there)
    else:
        by_cell = mean(strength).to(strength.dtype)
    counts = torch.bincount(place, minlength=shape[0] * shape[1]).view(shape)
    by_cell = by_cell.masked_fill((counts == 0)[..., None, None], torch.nan)
    return StepSignals(
        entropy=mean(entropy).to(device, entropy.dtype),
        strength=mean_of_cells(by_cell, there).to(device),
        strength_by_projection=by_cell.to(device),
        num_tokens=counts.to(device),
        position=mean(before).to(device, entropy.dtype),
        effective_rank=None if ranks is None else ranks.to(device),
    )


def _placed(
    blank: Float[Tensor, "batch step layer projection"],
    done: Sequence[tuple[Sequence[Row], ChunkSignals]],
    values: Sequence[Tensor | None],
) -> Float[Tensor, "batch step layer projection"]:
    """Return a copy of `blank` in which the values of every step (sentence) are filled in.

    Args:
        blank: a tensor of NaN on the CPU.
        done: for each chunk (rollouts that ran together), its rows and its signals.
        values: for each chunk, the values `[step, layer, projection]` of its steps, row after row.
    """
    filled = blank.clone()
    for (of_chunk, _), each in zip(done, values, strict=True):
        assert each is not None
        parts = each.to("cpu", blank.dtype).split([row.num_steps for row in of_chunk])
        for row, part in zip(of_chunk, parts, strict=True):
            filled[row.index, : row.num_steps] = part
    return filled
