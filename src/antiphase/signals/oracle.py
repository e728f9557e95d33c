"""Compute gradient strength by its definition, slowly: one ordinary backward pass per token, then singular values.

`oracle` takes ∂target_i/∂W through the whole sequence. `full` and `last` compute the quantity of `oracle` fast.
`oracle_own` takes the keys and values of earlier positions from a cache without gradient. `own` computes the quantity
of `oracle_own` fast. The fast estimators are tested against `oracle` and `oracle_own`, which work in float64 too and
use none of the shortcuts.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, backbone, modules_of
from antiphase.models.layouts import Projection
from antiphase.signal_spec import Norm, SignalSpec
from antiphase.signals.alternatives import joined
from antiphase.signals.capture import evaluating, watching_norms
from antiphase.signals.cells import placed
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import (
    HeadSignals,
    gini_impurity,
    log_probabilities,
    logit_statistics,
    magnitudes_of,
    self_certainty,
)
from antiphase.signals.joint import per_length
from antiphase.signals.norms import effective_rank
from antiphase.types import Alternatives, Magnitudes


@dataclass(frozen=True)
class _Seen:
    """What the model computed at one position.

    Args:
        logits: the logits `[vocab]`.
        hidden: the final hidden state `[hidden]`, from which the head computed the logits.
        before_norm: the state before the last normalisation layer; None if the model has no such layer.
    """

    logits: Tensor
    hidden: Tensor
    before_norm: Tensor | None


def oracle(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the strength of targets (generated tokens), and the joint strength of every step, by the definition.

    Autograd gives the gradients at the weights, and `svdvals` their singular values. The gradient of a step (sentence)
    is the sum of the gradients of its targets, which are computed one by one.

    Args:
        model: a Hugging Face causal LM without PEFT wrapper.
        layers: the attention layers to measure.
        chunk: the rows and their targets. It says which targets are to be measured.
        spec: gives the projections, the norm, the target and the temperature.
        tick: a function that is called with the number of targets and steps that were measured since its last call.

    Cost: per target, one backward pass to all chosen weights, and the singular values of their gradients.

    Raises:
        UnsupportedModelError: the weights are quantised or offloaded, so nothing can be differentiated with respect to
            them.
    """

    def row_logits(token_ids: Tensor, columns: Tensor) -> Iterator[_Seen]:
        output, hidden, before = _run(model, token_ids, use_cache=False)
        logits = output.logits
        for at in (columns - 1).tolist():
            yield _Seen(logits[0, at], hidden[0, at], None if before is None else before[0, at])

    return _measure(model, layers, chunk, spec, row_logits, tick)


def oracle_own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure what `oracle` measures, but treat the keys and values of earlier positions as constants.

    These keys and values come from a cache without gradient. So the gradient of a token consists only of the term of
    its own position.
    The arguments are those of `oracle`.
    """

    def row_logits(token_ids: Tensor, columns: Tensor) -> Iterator[_Seen]:
        for column in columns.tolist():
            cache = None
            if column > 1:
                with torch.no_grad():
                    before = _run(model, token_ids[:, : column - 1], use_cache=True)[0]
                cache = _cache_of(model, before)
            seen = torch.ones_like(token_ids[:, :column])
            here = token_ids[:, column - 1 : column]
            output, hidden, norm = _run(model, here, attention_mask=seen, past_key_values=cache, use_cache=True)
            yield _Seen(output.logits[0, -1], hidden[0, -1], None if norm is None else norm[0, -1])

    return _measure(model, layers, chunk, spec, row_logits, tick)


def _cache_of(model: nn.Module, output: Any) -> Any:
    """Return the cache of keys and values in the output of a model.

    Raises:
        UnsupportedModelError: the model keeps its states inside itself, so its output has no cache.
    """
    cache = output.get("past_key_values")
    if cache is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} returns no cache of keys and values, which the estimator 'oracle-own' needs. Use "
            "the estimator 'oracle'."
        )
    return cache


def _measure(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    chunk: Chunk,
    spec: SignalSpec,
    row_logits: Callable[[Tensor, Tensor], Iterator[_Seen]],
    tick: Tick,
) -> ChunkSignals:
    """Measure the targets (generated tokens) and the steps of a chunk. The two oracles differ only in `row_logits`.

    Args:
        model: the model.
        layers: the attention layers to measure.
        chunk: the rows and their targets.
        spec: the options of the measurement.
        row_logits: a function of the token ids of a row and the columns of its targets. For each target, it yields
            what the model computed at the position that predicts the target.
        tick: a function that is called with the number of targets and steps that were measured since its last call.
    """
    modules = modules_of(layers, spec.projections)
    weights = [_weight(module) for module in modules]
    place = {module: index for index, module in enumerate(modules)}
    heads: list[HeadSignals] = []
    strengths: list[Tensor] = []
    sums: dict[int, Sequence[Tensor]] = {}

    def norms(gradients: Sequence[Tensor], measure: Callable[[Projection, Tensor, Norm], Tensor] = _norm) -> Tensor:
        found = [
            {
                name: measure(projection, gradients[place[projection.module]], spec.norm)
                for name, projection in layer.projections.items()
                if name in spec.projections
            }
            for layer in layers
        ]
        like = torch.empty((), dtype=torch.promote_types(gradients[0].dtype, torch.float32), device=chunk.rows.device)
        here = [{name: value.to(like.device) for name, value in cells.items()} for cells in found]
        return torch.stack([placed(cells, spec.projections, like) for cells in here])

    with evaluating(model), _differentiable(weights):
        for row, length in enumerate(chunk.lengths):
            here = torch.nonzero(chunk.rows == row).flatten()
            token_ids = chunk.input_ids[row : row + 1, :length]
            for target, seen in zip(here.tolist(), row_logits(token_ids, chunk.columns[here]), strict=True):
                token_id = chunk.token_ids[target]
                heads.append(_head(model, seen, token_id, spec))
                if not chunk.seeded[target]:
                    continue
                value = seen.logits[token_id]
                if spec.target == "logprob":
                    value = (seen.logits / spec.temperature).log_softmax(-1)[token_id]
                gradients = _gradients(value, weights)
                if chunk.measured[target]:
                    strengths.append(norms(gradients))
                    tick(1)
                if chunk.steps is not None:
                    step = int(chunk.steps[target])
                    before = sums.get(step)
                    sums[step] = gradients if before is None else list(map(torch.add, before, gradients))
    dtype = torch.promote_types(heads[0].entropy.dtype, torch.float32)
    nothing = chunk.rows.new_zeros(len(layers), len(spec.projections), dtype=dtype)
    strength = torch.stack(strengths) if strengths else nothing[None][:0]
    joint = ranks = None
    if chunk.steps is not None:
        numbers = range(chunk.num_steps)
        steps = [norms(sums[n]) if n in sums else nothing for n in numbers]
        joint = per_length(torch.stack(steps), chunk.steps)
        undefined = torch.full_like(nothing, torch.nan)
        ranks = torch.stack([norms(sums[n], _rank) if n in sums else undefined for n in numbers])
        tick(chunk.num_steps)
    return ChunkSignals(_joined(heads), strength, joint, effective_rank=ranks)


def _gradients(value: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of `value`, a logit or log-probability of one token, at each of the weights.

    Raises:
        UnsupportedModelError: the cache of the model holds a state that is changed in place, such as that of Mamba.
    """
    try:
        return torch.autograd.grad(value, weights, retain_graph=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise UnsupportedModelError(
            "the model changes its cache in place (as layers with a recurrent state do), so 'oracle-own' cannot "
            "differentiate through it. Use the estimator 'full' or 'oracle'."
        ) from error


def _head(model: nn.Module, seen: _Seen, token_id: Tensor, spec: SignalSpec) -> HeadSignals:
    """Return the signals of one target (generated token) that are computed from its logits, such as the entropy."""
    logits = seen.logits.detach()[None]
    entropy, logprob, control = logit_statistics(logits, token_id[None], spec.temperature)
    before = None if seen.before_norm is None else seen.before_norm[None]
    magnitudes = magnitudes_of(model, seen.hidden.detach()[None], before, logits[:, token_id], token_id[None])
    certainty, impurity = self_certainty(logits, spec.temperature), gini_impurity(logits, spec.temperature)
    return HeadSignals(entropy, logprob, control, certainty, impurity, magnitudes, None, _first(logits, spec))


def _joined(heads: Sequence[HeadSignals]) -> HeadSignals:
    """Concatenate the signals of successive targets (generated tokens)."""

    def of(name: str, owners: Sequence[object]) -> Tensor:
        return torch.cat([getattr(owner, name) for owner in owners])

    magnitudes = [head.magnitudes for head in heads]
    tops = [head.alternatives for head in heads if head.alternatives is not None]
    return HeadSignals(
        entropy=of("entropy", heads),
        logprob=of("logprob", heads),
        logprob_control=of("logprob_control", heads),
        self_certainty=of("self_certainty", heads),
        impurity=of("impurity", heads),
        magnitudes=Magnitudes(*(of(part.name, magnitudes) for part in dataclasses.fields(Magnitudes))),
        alternatives=joined(tops),
    )


def _first(logits: Tensor, spec: SignalSpec) -> Alternatives | None:
    """Return the most probable tokens, by sorting the whole vocabulary; None if none are asked for."""
    if not spec.num_alternatives:
        return None
    log_p = log_probabilities(logits, spec.temperature)
    values, token_ids = log_p.sort(dim=-1, descending=True, stable=True)
    return Alternatives(token_ids[:, : spec.num_alternatives], values[:, : spec.num_alternatives])


def _run(model: nn.Module, token_ids: Tensor, **options: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Run the model, and return (its output, the final hidden states, the states before the last normalisation layer).

    The last value is None if the model has no such layer. `options` are further arguments of the model's forward.
    """
    options = {"attention_mask": torch.ones_like(token_ids), **options}
    seen: list[Tensor] = []
    handle = backbone(model).register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
    try:
        with watching_norms(model) as capture:
            output = cast(Any, model)(input_ids=token_ids, **options)
            capture.find_last_norm(seen[0])
            # The last layers may be on another device than the first ones.
            device, before = token_ids.device, capture.before_norm
            output.logits = output.logits.to(device)
            return output, seen[0].to(device), None if before is None else before.to(device)
    finally:
        handle.remove()


def _base(module: nn.Module) -> nn.Module:
    """Return the module that a LoRA wrapper wraps. A module that is no wrapper is returned itself."""
    # A LoRA wrapper adds BA to its base weight W. The gradient at W + BA equals the gradient at W.
    return dict(module.named_children()).get("base_layer", module)


def _weight(module: nn.Module) -> Tensor:
    """Return the weight of a projection module, or raise UnsupportedModelError if it is quantised or offloaded."""
    weight = getattr(_base(module), "weight", None)
    if isinstance(weight, Tensor) and weight.is_meta:
        raise UnsupportedModelError(
            "some weights are offloaded to main memory or to disk, so nothing can be differentiated with respect to "
            "them, but the oracle needs the gradient at the weights. Use the estimators 'own', 'last' or 'full', or a "
            "device map that offloads nothing."
        )
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = type(module).__name__ if weight is None else str(weight.dtype)
        raise UnsupportedModelError(
            f"the weights are stored as {kind}, which has no gradient, but the oracle needs the gradient at "
            "the weights. Use the estimators 'own', 'last' or 'full', or load the model without quantisation."
        )
    return weight


@contextlib.contextmanager
def _differentiable(weights: Sequence[Tensor]) -> Iterator[None]:
    """Let the weights require gradients inside a `with` block. Afterwards, restore `requires_grad` of each weight."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)


def _norm(projection: Projection, gradient: Tensor, norm: Norm) -> Tensor:
    """Return the norm of the gradient of one projection.

    Args:
        projection: the projection. A fused module computes several projections.
        gradient: the gradient at the whole weight of the projection's module.
        norm: the norm to compute.
    """
    gradient = _part(projection, gradient)
    if norm == "l1":
        return gradient.abs().sum()
    result: Tensor = (
        torch.linalg.matrix_norm(gradient) if norm == "frobenius" else torch.linalg.svdvals(gradient).sum()
    )
    return result


def _rank(projection: Projection, gradient: Tensor, norm: Norm) -> Tensor:
    """Return the effective rank of the gradient of one projection; NaN if the norm is not nuclear.

    The arguments are those of `_norm`.
    """
    rank = effective_rank(torch.linalg.svdvals(_part(projection, gradient)))
    return rank if norm == "nuclear" else torch.full_like(rank, torch.nan)


def _part(projection: Projection, gradient: Tensor) -> Tensor:
    """Return the part of a module's weight gradient that belongs to one projection, in float32 or wider.

    A fused module computes several projections. The output features of its weight are divided among the projections.
    """
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if projection.features is not None:
        # The weight of Linear is [features, inputs]; that of GPT-2's Conv1D is the transpose.
        axis = 0 if isinstance(_base(projection.module), nn.Linear) else 1
        gradient = gradient.index_select(axis, projection.features.to(gradient.device))
    return gradient
