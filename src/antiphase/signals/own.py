"""The estimator `own`: the own-position term of every token's gradient, in all layers, from one backward pass.

The gradient of a target z_i at a weight is a sum over positions t. This estimator keeps only the term t = i. For this,
the keys and values of other positions are treated as constants. Then position i affects only z_i, and the backward
pass of Σ_i z_i keeps the targets separate: the gradient δ_i at the output of a projection at position i is that of z_i
alone. With a_i, the input of the projection at position i, the term is

    G_i^own = δ_i a_iᵀ,   ‖G_i^own‖ = ‖δ_i‖ ‖a_i‖   (rank one: nuclear = Frobenius = spectral).

No gradient enters a position before the one that predicts the first target. In a chunk with a `prefix`, those
positions are run without autograd graph, once for all rows that share them, and only their keys and values are kept.

The joint gradient of a step is the sum of its tokens' terms, Σ_i δ_i a_iᵀ = Δᵀ A. It is not rank one. Its rank is at
most the number of the step's tokens.

See docs/method.md. This is a *different quantity* from the full gradient of `full` and `oracle`. Name it in results,
and report the correlation ρ(own, full) for a model before you rely on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, find_attention, modules_of
from antiphase.signal_spec import SignalSpec
from antiphase.signals.attention_entropy import mean_over_layers
from antiphase.signals.capture import Capture, Observed, observe
from antiphase.signals.cells import placed
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import HeadSignals, head_signals
from antiphase.signals.frozen_attention import AttentionTrace
from antiphase.signals.joint import StepFactors, per_length
from antiphase.signals.norms import rank_one_norm
from antiphase.signals.passes import run_in_passes

# The greatest number of elements in the factors of steps that a GPU processes at once.
_GROUP_ELEMENTS = 1 << 28


def own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the strength of every target of a chunk that is to be measured, by its own-position term.

    A target is a generated token. If the chunk has steps, their joint strengths are measured too.

    Args:
        model: a Hugging Face causal LM without PEFT wrapper, whose attention uses transformers' AttentionInterface.
        layers: the attention layers to measure.
        chunk: the rollouts that run together, as rows that are padded on the right, and the list of their targets.
        spec: gives the projections, the norm, the target and the temperature.
        tick: a function that is called with the number of targets and steps that were measured since its last call.

    Returns:
        The signals: strength `[measured, layer, projection]` and attention entropy `[target]`. If the chunk has steps,
        there are also joint strength and effective rank `[step, layer, projection]`. Norms are accumulated in float32
        or wider.

    Raises:
        UnsupportedModelError: positions influence each other outside the attention that `frozen_attention` replaces.

    Cost: one forward and one backward pass (for a prefix only a forward pass). The memory is linear in the number of
    tokens. Joint strengths add one small eigenproblem per step and weight matrix.
    """

    def measure(part: Chunk, hidden: Tensor, trace: AttentionTrace) -> ChunkSignals:
        """Measure the targets of one pass over some positions of the rows."""
        check_frozen(model, trace)
        head = head_of_targets(seen, part, spec, hidden, want_seed=True)
        strength, joint, ranks = _strength(seen.capture, layers, part, spec, hidden, seed_of(head, part, hidden))
        attention = mean_over_layers(trace.entropies, layers)[part.rows, part.columns - 1]
        seen.capture.clear()
        tick(len(strength) + part.num_steps)
        return ChunkSignals(head.without_seed(), strength, joint, attention, ranks)

    with observe(model, layers, freeze_attention=True) as seen:
        return ChunkSignals.joined(run_in_passes(seen, chunk, measure))


def head_of_targets(seen: Observed, chunk: Chunk, spec: SignalSpec, hidden: Tensor, *, want_seed: bool) -> HeadSignals:
    """Return the signals of every target that are computed from its logits.

    Args:
        seen: the observed model.
        chunk: the rows and their targets.
        spec: gives the temperature, the target and the number of alternatives.
        hidden: the final hidden states, `[row, token, hidden]`.
        want_seed: whether ∂target/∂hidden is also computed.
    """
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
    """Raise UnsupportedModelError unless every attention layer of the model used the frozen attention."""
    for layer in find_attention(model):
        if layer.module not in trace.called:
            raise UnsupportedModelError(
                f"{type(layer.module).__name__} ({layer.name}) does not route its attention through transformers' "
                "AttentionInterface, which 'own' and 'last' need. Use the estimator 'full'."
            )


def seed_of(head: HeadSignals, chunk: Chunk, hidden: Tensor) -> Tensor:
    """Return the gradient of the sum of all needed targets at the final hidden states, `[row, token, hidden]`.

    Each target's gradient (its seed) stands at the position that predicts the target. All other positions are 0.
    """
    assert head.seed is not None
    seed = torch.zeros_like(hidden)
    chosen = chunk.seeded
    seed[chunk.rows[chosen], chunk.columns[chosen] - 1] = head.seed[chosen].to(seed.dtype)
    return seed


class Unasked:
    """The positions that predict no target whose gradient is needed.

    If a gradient enters one of these positions (a leak), then positions influence each other, and one backward pass
    does not keep the gradients of the targets separate.

    Args:
        chunk: the rows and their targets.
        shape: the number of rows and the number of positions of the gradients.
    """

    def __init__(self, chunk: Chunk, shape: Sequence[int]) -> None:
        mask = torch.ones(*shape, dtype=torch.bool, device=chunk.rows.device)
        mask[chunk.rows[chunk.seeded], chunk.columns[chunk.seeded] - 1] = False
        self.rows, self.columns = torch.nonzero(mask, as_tuple=True)
        self.leaks: list[tuple[str, Tensor]] = []

    def note(self, gradient: Tensor, name: str) -> None:
        """Look for a leak in the gradient of a layer. The result stays on the device, so the CPU need not wait."""
        leaked = gradient[self.rows, self.columns]
        self.leaks.append((name, leaked.isfinite().all() & (leaked != 0).any()))

    def check(self) -> None:
        """Raise UnsupportedModelError if `note` has found a leak.

        A gradient that is not finite does not count as a leak. It raises an error elsewhere.
        """
        if not self.leaks or not bool(torch.stack([leak for _, leak in self.leaks]).any()):
            return
        name = next(name for name, leak in self.leaks if bool(leak))
        raise UnsupportedModelError(
            f"positions influence each other outside softmax attention (seen at {name}), so one backward pass "
            "cannot keep the gradients of the tokens separate. Use the estimator 'full'."
        )


def _strength(
    capture: Capture, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, hidden: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the strengths of the targets to be measured, and the joint strength and effective rank of every step.

    Without steps, the last two are None.
    """
    at = (chunk.rows[chunk.seeded], chunk.columns[chunk.seeded] - 1)
    measured = chunk.measured[chunk.seeded]
    modules = modules_of(layers, spec.projections)
    gradients = dict(zip(modules, torch.autograd.grad(hidden, capture.outputs_of(modules), seed), strict=True))
    unasked = Unasked(chunk, hidden.shape[:2])
    steps = None if chunk.steps is None else StepFactors(chunk.steps, chunk.num_steps, spec.norm)
    norms: list[Tensor] = []
    joints: list[Tensor] = []
    group: list[list[_Term]] = []
    like = hidden.new_empty(int(measured.sum()), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for place, layer in enumerate(layers):
        names = [name for name in spec.projections if name in layer.projections]
        terms = []
        for name in names:
            projection = layer.projections[name]
            gradient, inputs = gradients[projection.module], capture.input_of(projection)
            unasked.note(gradient, layer.name)
            # Q, K and V read the same tensor object. The capture keeps it alive, so its id identifies the input.
            terms.append(_Term(projection.select(gradient[at]), inputs[at].detach(), id(inputs)))
        own_norms = [rank_one_norm(t.delta[measured], t.inputs[measured], spec.norm) for t in terms]
        norms.append(placed(dict(zip(names, own_norms, strict=True)), spec.projections, like))
        if steps is None:
            continue
        group.append(terms)
        others_follow = place + 1 < len(layers) and layers[place + 1].projections.keys() == layer.projections.keys()
        if not others_follow or len(group) == _layers_at_once(terms):
            columns = dict(zip(names, _joint(steps, group).unbind(-1), strict=True)) if terms else {}
            joints.append(placed(columns, spec.projections, like.new_empty(2, chunk.num_steps, len(group))))
            group = []
    unasked.check()
    strength = torch.stack(norms, 1).detach()
    if chunk.steps is None:
        return strength, None, None
    joint, ranks = torch.cat(joints, 2).detach().unbind(0)
    return strength, per_length(joint, chunk.steps), ranks


@dataclass(frozen=True)
class _Term:
    """The factors of one projection's gradient Σ_i δ_i a_iᵀ.

    Args:
        delta: the vectors δ_i.
        inputs: the vectors a_i.
        key: a number that identifies the inputs; projections with the same inputs have the same key.
    """

    delta: Float[Tensor, "target rows"]
    inputs: Float[Tensor, "target columns"]
    key: int


def _layers_at_once(terms: Sequence[_Term]) -> int:
    """Return for how many layers the joint strengths are computed together.

    It is one layer on a CPU, and as many layers as `_GROUP_ELEMENTS` allows on a GPU.
    """
    if not terms or terms[0].delta.device.type != "cuda":
        return 1
    largest = max(len(term.delta) * (term.delta.shape[1] + term.inputs.shape[1]) for term in terms)
    return max(1, _GROUP_ELEMENTS // max(1, largest))


def _joint(steps: StepFactors, group: Sequence[Sequence[_Term]]) -> Float[Tensor, "two step layer projection"]:
    """Return the norms and the effective ranks of the steps' gradients in several layers.

    Each layer gives one term per projection.
    """
    alike = {tuple((term.delta.shape, term.inputs.shape) for term in terms) for terms in group}
    if len(alike) > 1:
        return torch.cat([_joint(steps, [terms]) for terms in group], 2)
    columns = []
    for terms in zip(*group, strict=True):
        keys = tuple(term.key for term in terms)
        found = steps.norms_and_ranks([term.delta for term in terms], [term.inputs for term in terms], keys)
        columns.append(torch.stack(found))
    steps.forget()
    return torch.stack(columns, -1).transpose(1, 2)
