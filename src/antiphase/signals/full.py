"""`full`: the ordinary gradient ∂target_i/∂W of every target, fast.

G_i = Σ_{t≤i} δ_{i,t} a_tᵀ = Δ_iᵀ A. One vector-Jacobian product per target stops at the projections' outputs, so no
weight gradient is formed; A = L Q once per sequence serves all targets and Q, K and V, and ‖Δ_iᵀ A‖ = ‖Δ_iᵀ L‖.
METHOD §2. Rows of a chunk are independent, so one backward serves one target of *every* row; targets are taken in
blocks, and a block runs on the prefix that its last target can see.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from antiphase.models.architecture import AttentionLayer, modules_of
from antiphase.signals.capture import Observed, observe
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import head_signals
from antiphase.signals.norms import factored_norm, shared_factor
from antiphase.types import ProjectionName, SignalSpec

_TARGETS_PER_BLOCK = 16


def full(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Strength of every measured target by its gradient through the whole sequence.

    Args and errors as for `own`; any attention implementation serves. Nuclear norms are accumulated in float64.

    Cost: one backward over the prefix per target (rows in parallel): quadratic in the length. Subsample the targets
    of long rollouts.
    """
    with observe(model, layers) as seen:
        hidden = seen.hidden(chunk.input_ids, grad=False)
        head = head_signals(model, hidden[chunk.rows, chunk.columns - 1], chunk.token_ids, spec, want_seed=False)
        factors = _factors(seen, layers, spec)
        measured = torch.nonzero(chunk.measured).flatten()
        strength = torch.zeros(
            len(measured),
            len(layers),
            len(spec.projections),
            dtype=torch.promote_types(hidden.dtype, torch.float32),
            device=hidden.device,
        )
        without = dataclasses.replace(spec, num_alternatives=0)
        for block in _blocks(chunk, measured):
            _measure_block(seen, chunk, without, measured, block, factors, strength, tick)
    return ChunkSignals(
        head.entropy, head.logprob, head.logprob_control, head.self_certainty, strength, head.alternatives
    )


def _factors(
    seen: Observed, layers: Sequence[AttentionLayer], spec: SignalSpec
) -> list[Mapping[ProjectionName, Tensor]]:
    factors: list[Mapping[ProjectionName, Tensor]] = []
    for layer in layers:
        shared: dict[int, Tensor] = {}
        chosen: dict[ProjectionName, Tensor] = {}
        for name in spec.projections:
            inputs = seen.capture.input_of(layer.projections[name])
            # Q, K and V read the very same tensor, so its address identifies it while the capture holds it.
            if inputs.data_ptr() not in shared:
                shared[inputs.data_ptr()] = shared_factor(inputs.detach(), spec.norm)
            chosen[name] = shared[inputs.data_ptr()]
        factors.append(chosen)
    return factors


def _blocks(chunk: Chunk, measured: Tensor) -> Iterator[list[list[int]]]:
    """Blocks of steps; a step lists at most one measured target (its place in `measured`) of each row."""
    queues: dict[int, list[int]] = {}
    for place, row in enumerate(chunk.rows[measured].tolist()):
        queues.setdefault(row, []).append(place)
    num_steps = max((len(queue) for queue in queues.values()), default=0)
    for start in range(0, num_steps, _TARGETS_PER_BLOCK):
        steps = range(start, min(start + _TARGETS_PER_BLOCK, num_steps))
        yield [[queue[step] for queue in queues.values() if step < len(queue)] for step in steps]


def _measure_block(
    seen: Observed,
    chunk: Chunk,
    spec: SignalSpec,
    measured: Tensor,
    block: list[list[int]],
    factors: Sequence[Mapping[ProjectionName, Tensor]],
    strength: Tensor,
    tick: Tick,
) -> None:
    places = torch.tensor([place for step in block for place in step], device=measured.device)
    targets = measured[places]
    rows, columns = chunk.rows[targets], chunk.columns[targets]
    alive, local = rows.unique(return_inverse=True)
    length = chunk.input_ids.shape[1] if chunk.whole else int(columns.max())
    hidden = seen.hidden(chunk.input_ids[alive, :length], grad=True)
    head = head_signals(seen.model, hidden[local, columns - 1], chunk.token_ids[targets], spec, want_seed=True)
    assert head.seed is not None
    modules = modules_of(seen.layers, spec.projections)
    outputs = seen.capture.outputs_of(modules)
    start = 0
    for index, step in enumerate(block):
        now = slice(start, start + len(step))
        start += len(step)
        seed = torch.zeros_like(hidden)
        seed[local[now], columns[now] - 1] = head.seed[now].to(seed.dtype)
        deltas = torch.autograd.grad(hidden, outputs, seed, retain_graph=index + 1 < len(block))
        gradients = dict(zip(modules, deltas, strict=True))
        for place, layer in enumerate(seen.layers):
            for column, name in enumerate(spec.projections):
                projection = layer.projections[name]
                delta = projection.select(gradients[projection.module][local[now]])
                factor = factors[place][name][rows[now], :length]
                strength[places[now], place, column] = factored_norm(delta, factor, spec.norm).to(strength.dtype)
        tick(len(step))
