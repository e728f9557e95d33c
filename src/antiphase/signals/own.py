"""The estimator `own`: the own-position term of every token's gradient, in all layers, from one backward pass.

The gradient of a target z_i at a weight is a sum over positions t. This estimator keeps only the term t = i. For this,
the keys and values of other positions are treated as constants. Then position i affects only z_i, and the backward
pass of Σ_i z_i keeps the targets separate: the gradient δ_i at the output of a projection at position i belongs to z_i
alone. Let a_i be the input of the projection at position i. Then the term is

    G_i^own = δ_i a_iᵀ,   ‖G_i^own‖ = ‖δ_i‖ ‖a_i‖   (rank one: nuclear = Frobenius = spectral).

No gradient enters a position before the one that predicts the first target. In a chunk with a `prefix`, those
positions are run without autograd graph, once for all rows that share them, and only their keys and values are kept.

The joint gradient of a step is the sum of its tokens' terms, Σ_i δ_i a_iᵀ = Δᵀ A. It is not rank one. Its rank is at
most the number of the step's tokens.

See docs/method.md. This is a *different quantity* from the full gradient of `full` and `oracle`. In results, say that
`own` measured them, and report the correlation ρ(own, full) for a model before you rely on it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, find_attention
from antiphase.signal_spec import SignalSpec
from antiphase.signals.attention_entropy import mean_over_layers
from antiphase.signals.capture import Observed, observe
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import HeadSignals, head_signals
from antiphase.signals.frozen_attention import AttentionTrace
from antiphase.signals.own_backward import OwnBackward
from antiphase.signals.passes import run_in_passes


def own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the gradient strength of targets (generated tokens) from the own-position term of their gradients.

    The gradient of a target at the weights is a sum over positions. The own-position term is the summand of the
    position that predicts the target. The chunk says which targets are measured. If it has steps (sentences), their
    joint strengths are measured too.

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
    backward = OwnBackward(layers, spec, keep_inputs=chunk.steps is not None)

    def measure(part: Chunk, hidden: Tensor, trace: AttentionTrace) -> ChunkSignals:
        """Measure the targets (generated tokens) of one pass over some positions of the rows.

        Args:
            part: the rows of the pass and their targets.
            hidden: the final hidden states of the pass.
            trace: the recorded attention calls of the pass.
        """
        check_frozen(model, trace)
        head = head_of_targets(seen, part, spec, hidden, want_seed=True)
        strength, joint, ranks = backward.run(part, hidden, seed_of(head, part, hidden))
        attention = mean_over_layers(trace.entropies, layers, hidden.device)[part.rows, part.columns - 1]
        backward.clear()
        tick(len(strength) + part.num_steps)
        return ChunkSignals(head.without_seed(), strength, joint, attention, ranks)

    with observe(model, layers, freeze_attention=True, capture=backward) as seen:
        return ChunkSignals.joined(run_in_passes(seen, chunk, measure))


def head_of_targets(seen: Observed, chunk: Chunk, spec: SignalSpec, hidden: Tensor, *, want_seed: bool) -> HeadSignals:
    """Return the signals of every target (generated token) that are computed from its logits, such as the entropy.

    Args:
        seen: the model, with hooks that record the inputs and outputs of its projections.
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
    """Raise UnsupportedModelError unless every attention layer of the model used the frozen attention.

    `trace` tells which layers did so in a forward pass.
    """
    for layer in find_attention(model):
        if layer.module not in trace.called:
            raise UnsupportedModelError(
                f"{type(layer.module).__name__} ({layer.name}) does not route its attention through transformers' "
                "AttentionInterface, which 'own' and 'last' need. Use the estimator 'full'."
            )


def seed_of(head: HeadSignals, chunk: Chunk, hidden: Tensor) -> Tensor:
    """Return the gradient with which the backward pass through the network starts, `[row, token, hidden]`.

    It is the gradient, at the final hidden states, of the sum of all targets (generated tokens) whose gradient is
    needed. It is 0 at all positions that predict no such target.

    Args:
        head: the result of the output head. It holds the gradient of each target at the state that predicts it.
        chunk: the rows and their targets.
        hidden: the final hidden states.
    """
    assert head.seed is not None
    seed = torch.zeros_like(hidden)
    chosen = chunk.seeded
    seed[chunk.rows[chosen], chunk.columns[chosen] - 1] = head.seed[chosen].to(seed.dtype)
    return seed
