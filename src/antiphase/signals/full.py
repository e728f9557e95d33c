"""The estimator `full`: the norm of the ordinary gradient ∂target/∂W of every token or step, through all positions.

The gradient at a projection's weights is G = Σ_t δ_t a_tᵀ = Δᵀ A. Here a_t is the projection's input at position t,
and δ_t is the gradient at its output. Each backward pass stops at the outputs of the projections, so G itself is never
formed. The decomposition A = L Q (Q with orthonormal rows) is computed once per sequence, and serves all targets and
the projections Q, K and V. Then ‖Δᵀ A‖ = ‖Δᵀ L‖. See docs/method.md.

The target is a token's logit, or the sum of the logits of a step's tokens (for the joint strength of a step). Each
needs one backward pass. The rows of a chunk are independent, so one backward pass serves one target of *every* row.
The targets are taken in blocks. A block runs only the positions that its last target can see.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from antiphase.models.architecture import AttentionLayer, modules_of
from antiphase.signal_spec import ProjectionName, SignalSpec
from antiphase.signals.capture import Observed, observe
from antiphase.signals.cells import present
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import head_signals
from antiphase.signals.joint import per_length
from antiphase.signals.norms import factored_norm, factored_norm_and_rank, shared_factor
from antiphase.signals.own import head_of_targets

_TARGETS_PER_BLOCK = 16


@dataclass(frozen=True)
class _Span:
    """The targets of one row whose sum is differentiated by one backward pass.

    Args:
        row: the row.
        targets: the indices of the targets in the chunk's list of targets.
        place: the index of the result in the list of all norms.
    """

    row: int
    targets: tuple[int, ...]
    place: int


def full(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the strength of targets, and the joint strength of every step, in the full context.

    A target is a generated token; the chunk says which targets are to be measured. The model may use any attention
    implementation. Nuclear norms are accumulated in float64.

    Args:
        model: a Hugging Face causal LM without PEFT wrapper.
        layers: the attention layers to measure.
        chunk: the rollouts that run together, as rows that are padded on the right, and the list of their targets.
        spec: gives the projections, the norm, the target and the temperature.
        tick: a function that is called with the number of targets and steps that were measured since its last call.

    Returns:
        The signals: strength `[measured, layer, projection]`. If the chunk has steps, there are also joint strength
        and effective rank `[step, layer, projection]`.

    Cost: one backward pass per target or step, over the positions up to its last token (rows in parallel). So the cost
    is quadratic in the length. For long rollouts, measure only some targets, or measure steps, of which there are
    about twenty times fewer.
    """
    with observe(model, layers) as seen:
        hidden = seen.hidden(chunk.input_ids, grad=False)
        head = head_of_targets(seen, chunk, spec, hidden, want_seed=False)
        factors = _factors(seen, layers, spec)
        tokens, steps = _token_spans(chunk), _step_spans(chunk)
        dtype, counts = torch.promote_types(hidden.dtype, torch.float32), [len(tokens), chunk.num_steps]
        norms = hidden.new_zeros(sum(counts), len(layers), len(spec.projections), dtype=dtype)
        norms[:, ~present(layers, spec.projections).to(norms.device)] = torch.nan
        ranks = torch.full_like(norms, torch.nan)
        without = dataclasses.replace(spec, num_alternatives=0)
        for spans, ranks_of in ((tokens, None), (steps, ranks)):
            for block in _blocks(spans):
                _measure_block(seen, chunk, without, block, factors, norms, ranks_of, tick)
    strength, joint = norms.split(counts)
    if chunk.steps is None:
        return ChunkSignals(head, strength)
    return ChunkSignals(head, strength, per_length(joint, chunk.steps), effective_rank=ranks[counts[0] :])


def joint_of_layers(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> tuple[Tensor | None, Tensor | None]:
    """Return the joint strength and the effective rank of every step, `[step, layer, projection]`; None without steps.

    The arguments are those of `full`. Unlike `full`, this function measures no strengths of single tokens.
    """
    if chunk.steps is None:
        return None, None
    nobody = dataclasses.replace(chunk, measured=torch.zeros_like(chunk.measured))
    found = full(model, layers, nobody, dataclasses.replace(spec, num_alternatives=0), tick)
    return found.joint, found.effective_rank


def _token_spans(chunk: Chunk) -> list[_Span]:
    """Return one span for each target whose own strength is measured."""
    measured = torch.nonzero(chunk.measured).flatten()
    pairs = zip(measured.tolist(), chunk.rows[measured].tolist(), strict=True)
    return [_Span(row, (target,), place) for place, (target, row) in enumerate(pairs)]


def _step_spans(chunk: Chunk) -> list[_Span]:
    """Return one span for each step that has targets."""
    if chunk.steps is None:
        return []
    members: dict[int, list[int]] = {}
    for target, step in enumerate(chunk.steps.tolist()):
        members.setdefault(step, []).append(target)
    rows, offset = chunk.rows.tolist(), int(chunk.measured.sum())
    # A step without targets needs no backward; its norms stay 0.
    return [_Span(rows[targets[0]], tuple(targets), offset + step) for step, targets in members.items()]


def _factors(
    seen: Observed, layers: Sequence[AttentionLayer], spec: SignalSpec
) -> list[Mapping[ProjectionName, Tensor]]:
    """Return the factor L of the inputs of each layer's projections; see `norms.shared_factor`."""
    factors: list[Mapping[ProjectionName, Tensor]] = []
    for layer in layers:
        shared: dict[int, Tensor] = {}
        chosen: dict[ProjectionName, Tensor] = {}
        for name in (name for name in spec.projections if name in layer.projections):
            inputs = seen.capture.input_of(layer.projections[name])
            # Q, K and V read the same tensor object. The capture keeps it alive, so its id identifies the shared
            # factor.
            if id(inputs) not in shared:
                shared[id(inputs)] = shared_factor(inputs.detach(), spec.norm)
            chosen[name] = shared[id(inputs)]
        factors.append(chosen)
    return factors


def _blocks(spans: Sequence[_Span]) -> Iterator[list[list[_Span]]]:
    """Yield blocks of backward passes, each of which is given by its spans.

    A backward pass serves at most one span of each row. The spans of a row are taken in the order of its tokens.
    """
    queues: dict[int, list[_Span]] = {}
    for span in spans:
        queues.setdefault(span.row, []).append(span)
    num_backwards = max((len(queue) for queue in queues.values()), default=0)
    for start in range(0, num_backwards, _TARGETS_PER_BLOCK):
        numbers = range(start, min(start + _TARGETS_PER_BLOCK, num_backwards))
        yield [[queue[number] for queue in queues.values() if number < len(queue)] for number in numbers]


def _measure_block(
    seen: Observed,
    chunk: Chunk,
    spec: SignalSpec,
    block: list[list[_Span]],
    factors: Sequence[Mapping[ProjectionName, Tensor]],
    norms: Tensor,
    ranks: Tensor | None,
    tick: Tick,
) -> None:
    """Write the norms of a block's spans into `norms`, `[place, layer, projection]`.

    Their effective ranks are written into `ranks`, which has the same shape, unless it is None.
    """
    device = chunk.rows.device
    targets = torch.tensor([t for spans in block for span in spans for t in span.targets], device=device)
    rows, columns = chunk.rows[targets], chunk.columns[targets]
    alive, local = rows.unique(return_inverse=True)
    length = chunk.input_ids.shape[1] if chunk.whole else int(columns.max())
    hidden = seen.hidden(chunk.input_ids[alive, :length], grad=True)
    head = head_signals(seen.model, hidden[local, columns - 1], chunk.token_ids[targets], spec, want_seed=True)
    assert head.seed is not None
    modules = modules_of(seen.layers, spec.projections)
    outputs = seen.capture.outputs_of(modules)
    start = 0
    for index, spans in enumerate(block):
        stop = start + sum(len(span.targets) for span in spans)
        now, start = slice(start, stop), stop
        seed = torch.zeros_like(hidden)
        seed[local[now], columns[now] - 1] = head.seed[now].to(seed.dtype)
        deltas = torch.autograd.grad(hidden, outputs, seed, retain_graph=index + 1 < len(block))
        gradients = dict(zip(modules, deltas, strict=True))
        places = torch.tensor([span.place for span in spans], device=device)
        owners = torch.tensor([span.row for span in spans], device=device)
        here = torch.searchsorted(alive, owners)
        for place, layer in enumerate(seen.layers):
            for column, name in enumerate(spec.projections):
                if name not in layer.projections:
                    continue
                projection = layer.projections[name]
                delta = projection.select(gradients[projection.module][here])
                factor = factors[place][name][owners, :length]
                if ranks is None:
                    norms[places, place, column] = factored_norm(delta, factor, spec.norm).to(norms.dtype)
                    continue
                found, rank = factored_norm_and_rank(delta, factor, spec.norm)
                norms[places, place, column] = found.to(norms.dtype)
                ranks[places, place, column] = rank.to(ranks.dtype)
        tick(len(spans))
