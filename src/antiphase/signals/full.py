"""The estimator `full`: the norm of the ordinary gradient ∂target/∂W of every token or step, through all positions.

The gradient at a projection's weights is G = Σ_t δ_t a_tᵀ = Δᵀ A. Here a_t is the projection's input at position t,
and δ_t is the gradient at its output. Each backward pass stops at the outputs of the projections, so G itself is never
formed. The decomposition A = L Q (Q with orthonormal rows) is computed once per sequence, and serves all targets and
the projections Q, K and V. Then ‖Δᵀ A‖ = ‖Δᵀ L‖. See docs/method.md.

The target is a token's logit, or the sum of the logits of a step's tokens (for the joint strength of a step). Each
target needs one backward pass. The rows of a chunk are independent, so one backward pass serves one target of *every*
row. The targets are taken in blocks. A block runs only the positions that its last target can see.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from antiphase.models.architecture import AttentionLayer, modules_of
from antiphase.signal_spec import ProjectionName, SignalSpec
from antiphase.signals.capture import Observed, observe
from antiphase.signals.cells import present
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.joint import per_length
from antiphase.signals.norms import factored_norm, factored_norm_and_rank, leading, shared_factor
from antiphase.signals.own import head_of_targets
from antiphase.signals.target_blocks import Block, Span, blocks_of

# The greatest number of backward passes that share a forward pass.
_TARGETS_PER_BLOCK = 64
# On a GPU, the norms of several layers are computed at once. Their matrices have at most this many elements together.
_GROUP_ELEMENTS = 1 << 27


def full(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the gradient strength of targets (generated tokens) and of steps (sentences), through all positions.

    The chunk says which targets are to be measured. The joint strength of a step is computed from the gradient of the
    sum of its targets. The model may use any attention implementation. Nuclear norms are accumulated in float64.

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
        head = head_of_targets(seen, chunk, spec, hidden, want_seed=True)
        factors = _factors(seen, layers, spec)
        tokens, steps = _token_spans(chunk), _step_spans(chunk)
        dtype, counts = torch.promote_types(hidden.dtype, torch.float32), [len(tokens), chunk.num_steps]
        norms = hidden.new_zeros(sum(counts), len(layers), len(spec.projections), dtype=dtype)
        norms[:, ~present(layers, spec.projections).to(norms.device)] = torch.nan
        ranks = torch.full_like(norms, torch.nan)
        assert head.seed is not None
        work = _Work(seen, chunk, spec, head.seed, factors, norms)
        length = chunk.input_ids.shape[1] if chunk.whole else None
        for spans, ranks_of in ((tokens, None), (steps, ranks)):
            for block in blocks_of(spans, _TARGETS_PER_BLOCK, _copies(chunk, spec), length):
                _measure_block(work, block, ranks_of, tick)
    head = head.without_seed()
    strength, joint = norms.split(counts)
    if chunk.steps is None:
        return ChunkSignals(head, strength)
    return ChunkSignals(head, strength, per_length(joint, chunk.steps), effective_rank=ranks[counts[0] :])


def joint_of_layers(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> tuple[Tensor | None, Tensor | None]:
    """Return the joint strength and the effective rank of every step (sentence), `[step, layer, projection]` each.

    Both are computed from the gradient of the sum of the step's tokens, and both are None if the chunk has no steps.
    The arguments are those of `full`. Unlike `full`, this function measures no strengths of single tokens.
    """
    if chunk.steps is None:
        return None, None
    nobody = dataclasses.replace(chunk, measured=torch.zeros_like(chunk.measured))
    found = full(model, layers, nobody, dataclasses.replace(spec, num_alternatives=0), tick)
    return found.joint, found.effective_rank


def _token_spans(chunk: Chunk) -> list[Span]:
    """Return one `Span` (what one backward pass differentiates) for each target whose strength is measured by itself.

    A target (generated token) that is measured only as a part of its step has no span here.
    """
    measured = torch.nonzero(chunk.measured).flatten()
    triples = zip(measured.tolist(), chunk.rows[measured].tolist(), chunk.columns[measured].tolist(), strict=True)
    return [Span(row, (target,), place, column) for place, (target, row, column) in enumerate(triples)]


def _step_spans(chunk: Chunk) -> list[Span]:
    """Return one `Span` (what one backward pass differentiates) for each step (sentence) that has targets."""
    if chunk.steps is None:
        return []
    members: dict[int, list[int]] = {}
    for target, step in enumerate(chunk.steps.tolist()):
        members.setdefault(step, []).append(target)
    rows, columns, offset = chunk.rows.tolist(), chunk.columns.tolist(), int(chunk.measured.sum())
    # A step without targets needs no backward; its norms stay 0.
    return [
        Span(rows[targets[0]], tuple(targets), offset + step, max(columns[target] for target in targets))
        for step, targets in members.items()
    ]


def _copies(chunk: Chunk, spec: SignalSpec) -> int:
    """Return how many copies of each row are put into a forward pass.

    One backward pass serves one target of every copy. On a CPU the result is 1, because copies save no time there
    (`benchmarks/full.py`). On other devices, there are as many copies as the token budget allows.
    """
    if chunk.input_ids.device.type == "cpu":
        return 1
    return max(1, spec.token_budget // chunk.input_ids.numel())


def _factors(
    seen: Observed, layers: Sequence[AttentionLayer], spec: SignalSpec
) -> list[Mapping[ProjectionName, Tensor]]:
    """Return, for each layer and projection, the factor L of the projection's inputs; see `norms.shared_factor`.

    Args:
        seen: the model, which has run a forward pass. Its hooks have recorded the inputs.
        layers: the layers to measure.
        spec: gives the projections and the norm.
    """
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


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all backward passes of a chunk need, and the tensor into which they write their results.

    Args:
        seen: the model, with hooks that record the inputs and outputs of its projections.
        chunk: the rows and their targets (generated tokens).
        spec: gives the projections and the norm.
        seed: the gradient of each target at the final hidden state that predicts it, `[target, hidden]`.
        factors: for each layer, the factor L of the inputs of its projections, `[row, token, rank]`.
        norms: the gradient norms, `[place, layer, projection]`; `Span.place` is the index in the first axis.
            `_measure_block` writes into this tensor.
    """

    seen: Observed
    chunk: Chunk
    spec: SignalSpec
    seed: Tensor
    factors: Sequence[Mapping[ProjectionName, Tensor]]
    norms: Tensor


def _measure_block(work: _Work, block: Block, ranks: Tensor | None, tick: Tick) -> None:
    """Run the passes of one block: one forward pass, and all backward passes that share it.

    The gradient norms are written into `work.norms`. The effective ranks of the gradients are written into `ranks`,
    which has the same shape, unless `ranks` is None. `tick` is called with the number of results after each backward
    pass.
    """
    seen, chunk, device = work.seen, work.chunk, work.chunk.rows.device
    rows = torch.tensor(block.rows, device=device)
    hidden = seen.hidden(chunk.input_ids[rows, : block.length], grad=True)
    modules = modules_of(seen.layers, work.spec.projections)
    outputs = seen.capture.outputs_of(modules)
    for number, served in enumerate(block.passes):
        pairs = [(lane, target) for lane, span in served for target in span.targets]
        lanes, targets = torch.tensor(pairs, device=device).unbind(1)
        seed = torch.zeros_like(hidden)
        seed[lanes, chunk.columns[targets] - 1] = work.seed[targets].to(seed.dtype)
        deltas = torch.autograd.grad(hidden, outputs, seed, retain_graph=number + 1 < len(block.passes))
        gradients = dict(zip(modules, deltas, strict=True))
        if device.type == "cpu":
            # A solver of the CPU takes one matrix after another, so each span has only the positions that it sees.
            for pair in served:
                _write_norms(work, gradients, [pair], pair[1].reach, ranks)
        else:
            _write_norms(work, gradients, served, max(span.reach for _, span in served), ranks)
        tick(len(served))


def _write_norms(
    work: _Work,
    gradients: Mapping[nn.Module, Tensor],
    served: Sequence[tuple[int, Span]],
    reach: int,
    ranks: Tensor | None,
) -> None:
    """Compute gradient norms from the result of one backward pass, and write them into `work.norms`.

    Args:
        work: what all backward passes of the chunk share.
        gradients: the gradients Δ at the outputs of the projections' modules, `[row, token, features]`.
        served: pairs of a row of the backward pass and the span that was differentiated in this row. Only these rows
            are used.
        reach: the number of positions that are used. At later positions, the gradients in all these rows are 0.
        ranks: the tensor into which the effective ranks of the gradients are written; None computes no ranks.
    """
    device = work.norms.device
    lanes, rows = [lane for lane, _ in served], [span.row for _, span in served]
    places = torch.tensor([span.place for _, span in served], device=device)
    for column, name in enumerate(work.spec.projections):
        there = [layer for layer, factors in enumerate(work.factors) if name in factors]
        projections = [work.seen.layers[layer].projections[name] for layer in there]
        deltas = {
            layer: one.select(_chosen(gradients[one.module], lanes)[:, :reach])
            for layer, one in zip(there, projections, strict=True)
        }
        factors = {
            layer: leading(_chosen(work.factors[layer][name], rows), reach, work.spec.norm).to(deltas[layer].device)
            for layer in there
        }
        for layers in _alike(deltas, factors):
            delta, factor = (_stacked([of[layer] for layer in layers]) for of in (deltas, factors))
            where = (places[:, None], torch.tensor(layers, device=device), column)
            if ranks is None:
                work.norms[where] = factored_norm(delta, factor, work.spec.norm).mT.to(work.norms)
                continue
            found, rank = factored_norm_and_rank(delta, factor, work.spec.norm)
            work.norms[where], ranks[where] = found.mT.to(work.norms), rank.mT.to(ranks)


def _chosen(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Return the entries of a tensor at some indices of the first axis. For a single index, nothing is copied."""
    if len(indices) == 1:
        return tensor[indices[0] : indices[0] + 1]
    return tensor[torch.tensor(indices, device=tensor.device)]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of the same shape along a new first axis. A single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _alike(deltas: Mapping[int, Tensor], factors: Mapping[int, Tensor]) -> Iterator[list[int]]:
    """Yield groups of layers whose norms can be computed at once. On a CPU each group is a single layer.

    In a group, the tensors of all layers have the same shapes and are on the same device.

    Args:
        deltas: a mapping from the index of each layer to the gradients Δ of one projection in this layer.
        factors: a mapping from the index of each layer to the factor L of this projection's inputs.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for layer, delta in deltas.items():
        alike.setdefault((delta.device, *delta.shape, *factors[layer].shape), []).append(layer)
    for layers in alike.values():
        delta, factor = deltas[layers[0]], factors[layers[0]]
        size = max(1, _GROUP_ELEMENTS // max(1, delta.numel() + factor.numel()))
        size = 1 if delta.device.type == "cpu" else size
        yield from (layers[start : start + size] for start in range(0, len(layers), size))
