"""The definition, slow and obvious: one ordinary backward to the weights per token, then singular values.

`oracle` is ∂target_i/∂W through the whole sequence, what `full` and `last` compute fast. `oracle_own` holds the keys
and values of earlier positions in a cache that carries no gradient, what `own` computes fast. Everything else in this
package is tested against these two; they are float64-capable and use none of the shortcuts.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, Projection, modules_of
from antiphase.signals.alternatives import joined
from antiphase.signals.capture import evaluating
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.entropy import log_probabilities, logit_statistics, self_certainty
from antiphase.types import Alternatives, Norm, SignalSpec


def oracle(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Strength of every measured target from autograd on the weights and `svdvals`.

    Args and returns as for `own`. Cost: one backward to all chosen weights and their singular values per target.

    Raises:
        UnsupportedModelError: the weights are quantised, so nothing can be differentiated with respect to them.
    """

    def row_logits(token_ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
        yield from _run(model, token_ids, use_cache=False).logits[0, columns - 1]

    return _measure(model, layers, chunk, spec, row_logits, tick)


def oracle_own(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """As `oracle`, with the keys and values of earlier positions taken from a cache without gradient."""

    def row_logits(token_ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
        for column in columns.tolist():
            cache = None
            if column > 1:
                with torch.no_grad():
                    cache = _run(model, token_ids[:, : column - 1], use_cache=True).past_key_values
            seen = torch.ones_like(token_ids[:, :column])
            here = token_ids[:, column - 1 : column]
            yield _run(model, here, attention_mask=seen, past_key_values=cache, use_cache=True).logits[0, -1]

    return _measure(model, layers, chunk, spec, row_logits, tick)


def _measure(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    chunk: Chunk,
    spec: SignalSpec,
    row_logits: Callable[[Tensor, Tensor], Iterator[Tensor]],
    tick: Tick,
) -> ChunkSignals:
    weights = [_weight(module) for module in modules_of(layers, spec.projections)]
    place = {module: index for index, module in enumerate(modules_of(layers, spec.projections))}
    statistics, strengths = [], []
    tops: list[Alternatives] = []
    with evaluating(model), _differentiable(weights):
        for row, length in enumerate(chunk.lengths):
            here = torch.nonzero(chunk.rows == row).flatten()
            token_ids = chunk.input_ids[row : row + 1, :length]
            for target, logits in zip(here.tolist(), row_logits(token_ids, chunk.columns[here]), strict=True):
                token_id = chunk.token_ids[target]
                row_of_one = logits.detach()[None]
                said = logit_statistics(row_of_one, token_id[None], spec.temperature)
                statistics.append(torch.cat([*said, self_certainty(row_of_one, spec.temperature)]))
                tops += _first(row_of_one, spec)
                if not chunk.measured[target]:
                    continue
                value = logits[token_id]
                if spec.target == "logprob":
                    value = (logits / spec.temperature).log_softmax(-1)[token_id]
                gradients = torch.autograd.grad(value, weights, retain_graph=True)
                norms = [
                    _norm(layer.projections[name], gradients[place[layer.projections[name].module]], spec.norm)
                    for layer in layers
                    for name in spec.projections
                ]
                strengths.append(torch.stack(norms).view(len(layers), len(spec.projections)))
                tick(1)
    entropy, logprob, control, certainty = torch.stack(statistics).unbind(1)
    return ChunkSignals(entropy, logprob, control, certainty, torch.stack(strengths), joined(tops))


def _first(logits: Tensor, spec: SignalSpec) -> list[Alternatives]:
    if not spec.num_alternatives:
        return []
    log_p = log_probabilities(logits, spec.temperature)
    values, token_ids = log_p.sort(dim=-1, descending=True, stable=True)
    return [Alternatives(token_ids[:, : spec.num_alternatives], values[:, : spec.num_alternatives])]


def _run(model: nn.Module, token_ids: Tensor, **options: Any) -> Any:
    return cast(Any, model)(input_ids=token_ids, **{"attention_mask": torch.ones_like(token_ids), **options})


def _base(module: nn.Module) -> nn.Module:
    # A LoRA wrapper adds BA to its base weight W, so the gradient with respect to the sum is that of W.
    return dict(module.named_children()).get("base_layer", module)


def _weight(module: nn.Module) -> Tensor:
    weight = cast(Tensor, _base(module).weight)
    if not weight.is_floating_point():
        raise UnsupportedModelError(
            f"the weights are stored as {weight.dtype}; the oracle differentiates with respect to them. Use the "
            "estimators 'own', 'last' or 'full', or load without quantisation."
        )
    return weight


@contextlib.contextmanager
def _differentiable(weights: Sequence[Tensor]) -> Iterator[None]:
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
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if projection.features is not None:
        # Linear keeps [features, inputs], GPT-2's Conv1D its transpose.
        axis = 0 if isinstance(_base(projection.module), nn.Linear) else 1
        gradient = gradient.index_select(axis, projection.features.to(gradient.device))
    if norm == "l1":
        return gradient.abs().sum()
    result: Tensor = (
        torch.linalg.matrix_norm(gradient) if norm == "frobenius" else torch.linalg.svdvals(gradient).sum()
    )
    return result
