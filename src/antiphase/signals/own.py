"""`own`: the t = i term of every token's gradient, in all layers, from one forward and one backward.

If the keys and values of other positions are constant, position i affects only z_i, so the backward of Σ_i z_i keeps
the targets separate: its gradient δ_i at a projection's output is ∂z_i/∂(output at i), and

    G_i^own = δ_i a_iᵀ,   ‖G_i^own‖ = ‖δ_i‖ ‖a_i‖   (rank one: nuclear = Frobenius = spectral).

No gradient enters a position before the one that predicts the first target. In a chunk with a `prefix` those positions
run without graph, once for all rows that share them, and only their keys and values are kept.

A step's joint gradient is the sum of its tokens' terms, Σ_i δ_i a_iᵀ = Δᵀ A. It is no longer rank one; its rank is at
most the number of the step's tokens.

docs/method.md. This is a *different observable* from the full gradient of `full` and `oracle`. Name it in results, and
report ρ(own, full) for a model before you rely on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, find_attention, modules_of
from antiphase.signal_spec import SignalSpec
from antiphase.signals.capture import Capture, Observed, observe
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import HeadSignals, head_signals
from antiphase.signals.frozen_attention import AttentionTrace
from antiphase.signals.joint import StepFactors, per_length
from antiphase.signals.norms import rank_one_norm
from antiphase.signals.prefix import run

# How many elements of step factors a GPU measures at once.
_GROUP_ELEMENTS = 1 << 28


def own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Strength of every measured target by the own-position term.

    Args:
        model: an unwrapped Hugging Face causal LM whose attention goes through transformers' AttentionInterface.
        layers: the attention layers to measure.
        chunk: right-padded rows and their targets.
        spec: gives the projections, the norm, the target and the temperature.
        tick: is called with the number of targets that were measured since the last call.

    Returns:
        The signals: strength `[measured, layer, projection]` and, if the chunk has steps, joint strength
        `[step, layer, projection]`. Norms are accumulated in float32 or wider.

    Raises:
        UnsupportedModelError: positions mix outside the attention that can be frozen.

    Cost: one forward and one backward (for a prefix one forward only); the memory is linear in the number of tokens. A
    joint strength adds one small eigenproblem per step and matrix.
    """
    with observe(model, layers, freeze_attention=True) as seen:
        hidden, trace = run(seen, chunk, grad=True)
        check_frozen(model, trace)
        head = head_of_targets(seen, chunk, spec, hidden, want_seed=True)
        strength, joint = _strength(seen.capture, layers, chunk, spec, hidden, seed_of(head, chunk, hidden))
    tick(len(strength) + chunk.num_steps)
    return ChunkSignals(head.without_seed(), strength, joint)


def head_of_targets(seen: Observed, chunk: Chunk, spec: SignalSpec, hidden: Tensor, *, want_seed: bool) -> HeadSignals:
    """What the head says about every target of the chunk, given the final hidden states `[row, token, hidden]`."""
    at = (chunk.rows, chunk.columns - 1)
    before = seen.capture.before_norm
    return head_signals(
        seen.model,
        hidden[at],
        chunk.token_ids,
        spec,
        want_seed=want_seed,
        before=None if before is None else before[at],
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
    """∂Σ_i target_i/∂hidden `[row, token, hidden]`: each needed target's seed, at the position that predicts it."""
    assert head.seed is not None
    seed = torch.zeros_like(hidden)
    chosen = chunk.seeded
    seed[chunk.rows[chosen], chunk.columns[chosen] - 1] = head.seed[chosen].to(seed.dtype)
    return seed


class Unasked:
    """The positions that predict no needed target. A gradient that enters them shows that targets have mixed.

    Args:
        chunk: the rows and their targets.
        shape: the numbers of rows and of positions of the gradients.
    """

    def __init__(self, chunk: Chunk, shape: Sequence[int]) -> None:
        mask = torch.ones(*shape, dtype=torch.bool, device=chunk.rows.device)
        mask[chunk.rows[chunk.seeded], chunk.columns[chunk.seeded] - 1] = False
        self.rows, self.columns = torch.nonzero(mask, as_tuple=True)
        self.leaks: list[tuple[str, Tensor]] = []

    def note(self, gradient: Tensor, name: str) -> None:
        """Look for a leak in a gradient, without waiting for the device."""
        leaked = gradient[self.rows, self.columns]
        self.leaks.append((name, leaked.isfinite().all() & (leaked != 0).any()))

    def check(self) -> None:
        """Raise UnsupportedModelError if there was a leak. A gradient that is not finite raises an error elsewhere."""
        if not self.leaks or not bool(torch.stack([leak for _, leak in self.leaks]).any()):
            return
        name = next(name for name, leak in self.leaks if bool(leak))
        raise UnsupportedModelError(
            f"positions influence each other outside softmax attention (seen at {name}), so one backward cannot keep "
            "the tokens apart. Use the estimator 'full'."
        )


def _strength(
    capture: Capture, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, hidden: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor | None]:
    at = (chunk.rows[chunk.seeded], chunk.columns[chunk.seeded] - 1)
    measured = chunk.measured[chunk.seeded]
    modules = modules_of(layers, spec.projections)
    gradients = dict(zip(modules, torch.autograd.grad(hidden, capture.outputs_of(modules), seed), strict=True))
    unasked = Unasked(chunk, hidden.shape[:2])
    steps = None if chunk.steps is None else StepFactors(chunk.steps, chunk.num_steps, spec.norm)
    rows, joints = [], []
    group: list[list[_Term]] = []
    for place, layer in enumerate(layers):
        terms = []
        for name in spec.projections:
            projection = layer.projections[name]
            gradient, inputs = gradients[projection.module], capture.input_of(projection)
            unasked.note(gradient, layer.name)
            # Q, K and V read the same tensor object, which the capture keeps alive, so its id finds what they share.
            terms.append(_Term(projection.select(gradient[at]), inputs[at].detach(), id(inputs)))
        rows.append(torch.stack([rank_one_norm(t.delta[measured], t.inputs[measured], spec.norm) for t in terms], -1))
        if steps is None:
            continue
        group.append(terms)
        if place + 1 == len(layers) or len(group) == _layers_at_once(terms):
            joints.append(_joint(steps, group))
            group = []
    unasked.check()
    joint = None if chunk.steps is None else per_length(torch.cat(joints, 1), chunk.steps).detach()
    return torch.stack(rows, 1).detach(), joint


@dataclass(frozen=True)
class _Term:
    """The factors of Σ_i δ_i a_iᵀ of one projection, and a key that identifies its inputs."""

    delta: Float[Tensor, "target rows"]
    inputs: Float[Tensor, "target columns"]
    key: int


def _layers_at_once(terms: Sequence[_Term]) -> int:
    """How many layers are measured together for their steps: one on a CPU, as many as memory allows on a GPU."""
    if terms[0].delta.device.type != "cuda":
        return 1
    largest = max(len(term.delta) * (term.delta.shape[1] + term.inputs.shape[1]) for term in terms)
    return max(1, _GROUP_ELEMENTS // max(1, largest))


def _joint(steps: StepFactors, group: Sequence[Sequence[_Term]]) -> Float[Tensor, "step layer projection"]:
    """The joint norms of several layers."""
    alike = {tuple((term.delta.shape, term.inputs.shape) for term in terms) for terms in group}
    if len(alike) > 1:
        return torch.cat([_joint(steps, [terms]) for terms in group], 1)
    columns = []
    for terms in zip(*group, strict=True):
        keys = tuple(term.key for term in terms)
        columns.append(steps.norms([term.delta for term in terms], [term.inputs for term in terms], keys))
    steps.forget()
    return torch.stack(columns, -1).transpose(0, 1)
