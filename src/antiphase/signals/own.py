"""`own`: the t = i term of every token's gradient, in all layers, from one forward and one backward.

With the keys and values of other positions held constant, position i reaches z_i only through itself, so the backward
of Σ_i z_i keeps the targets apart: its gradient δ_i at a projection's output is ∂z_i/∂(output at i), and

    G_i^own = δ_i a_iᵀ,   ‖G_i^own‖ = ‖δ_i‖ ‖a_i‖   (rank one: nuclear = Frobenius = spectral).

No gradient enters a position before the one that predicts the first target. In a chunk with a `prefix` those positions
run without graph, once for all rows that share them, and only their keys and values are kept.

METHOD §2. This is a *different observable* from the full gradient of `full` and `oracle`: name it, and report
ρ(own, full) for a model before leaning on it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, find_attention, modules_of
from antiphase.signals.capture import Capture, observe
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import HeadSignals, head_signals
from antiphase.signals.frozen_attention import AttentionTrace
from antiphase.signals.norms import rank_one_norm
from antiphase.signals.prefix import run
from antiphase.types import SignalSpec


def own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Strength of every measured target by the own-position term.

    Args:
        model: an unwrapped Hugging Face causal LM whose attention goes through transformers' AttentionInterface.
        layers: the attention layers to measure.
        chunk: right-padded rows and targets.
        spec: projections, norm, target and temperature.
        tick: called with the number of targets that were measured, as they are.

    Returns:
        signals; strength `[measured, layer, projection]`, norms accumulated in float32 or wider.

    Raises:
        UnsupportedModelError: positions mix outside the attention that could be frozen.

    Cost: one forward and one backward, of a prefix one forward; memory linear in the number of tokens.
    """
    with observe(model, layers, freeze_attention=True) as seen:
        hidden, trace = run(seen, chunk, grad=True)
        check_frozen(model, trace)
        head = head_signals(model, hidden[chunk.rows, chunk.columns - 1], chunk.token_ids, spec, want_seed=True)
        strength = _strength(seen.capture, layers, chunk, spec, hidden, seed_of(head, chunk, hidden))
    tick(len(strength))
    return ChunkSignals(
        head.entropy, head.logprob, head.logprob_control, head.self_certainty, strength, head.alternatives
    )


def check_frozen(model: nn.Module, trace: AttentionTrace) -> None:
    """Raise unless every attention layer of the model ran on the frozen attention."""
    for layer in find_attention(model):
        if layer.module not in trace.called:
            raise UnsupportedModelError(
                f"{type(layer.module).__name__} ({layer.name}) does not route its attention through transformers' "
                "AttentionInterface, which 'own' and 'last' need. Use the estimator 'full'."
            )


def seed_of(head: HeadSignals, chunk: Chunk, hidden: Tensor) -> Tensor:
    """∂Σ_i target_i/∂hidden `[row, token, hidden]`: each measured target's seed at the position that predicts it."""
    assert head.seed is not None
    seed = torch.zeros_like(hidden)
    chosen = chunk.measured
    seed[chunk.rows[chosen], chunk.columns[chosen] - 1] = head.seed[chosen].to(seed.dtype)
    return seed


def check_apart(gradient: Tensor, chunk: Chunk, name: str) -> None:
    """Raise if a position that predicts no measured target received a gradient: targets would have mixed."""
    silent = torch.ones(gradient.shape[:2], dtype=torch.bool, device=gradient.device)
    silent[chunk.rows[chunk.measured], chunk.columns[chunk.measured] - 1] = False
    leaked = gradient[silent]
    if bool(leaked.isfinite().all()) and bool((leaked != 0).any()):
        raise UnsupportedModelError(
            f"positions influence each other outside softmax attention (seen at {name}), so one backward cannot keep "
            "the tokens apart. Use the estimator 'full'."
        )


def _strength(
    capture: Capture, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, hidden: Tensor, seed: Tensor
) -> Tensor:
    at = (chunk.rows[chunk.measured], chunk.columns[chunk.measured] - 1)
    modules = modules_of(layers, spec.projections)
    gradients = dict(zip(modules, torch.autograd.grad(hidden, capture.outputs_of(modules), seed), strict=True))
    rows = []
    for layer in layers:
        norms = []
        for name in spec.projections:
            projection = layer.projections[name]
            delta = gradients[projection.module]
            check_apart(delta, chunk, layer.name)
            norms.append(rank_one_norm(projection.select(delta[at]), capture.input_of(projection)[at], spec.norm))
        rows.append(torch.stack(norms, -1))
    return torch.stack(rows, 1).detach()
