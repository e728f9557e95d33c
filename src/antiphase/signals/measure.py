"""`token_signals` measures a batch of rollouts. Probing, training and evaluation all use it.

The function splits the rollouts into chunks (rollouts that run together) within the token budget, runs the chosen
estimator on each chunk, and puts the results at their positions in the batch. It generates no text and writes no
files.
"""

import dataclasses
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

from antiphase.devices import held_by_others, says_out_of_memory
from antiphase.errors import InvalidInputError, NonFiniteError, OutOfMemoryError, UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, find_attention, find_layers, rope_switch, unwrap
from antiphase.models.placement import input_device, numbers_of
from antiphase.models.quantization import check_oracle
from antiphase.models.sharding import check_whole
from antiphase.signal_spec import ESTIMATORS, SignalSpec, parse_layers
from antiphase.signals.alternatives import check_alternatives
from antiphase.signals.cells import present
from antiphase.signals.chunk import Chunk, ChunkSignals, Row, Tick, check_steps, chunk_of, pack, rows_of, silent
from antiphase.signals.collect import collect
from antiphase.signals.passes import chunk_of_long, split_long
from antiphase.signals.prefix import chunk_of_families, pack_families, split
from antiphase.types import TokenBatch, TokenSignals

# For each model, the estimators for which the check of `_check_positions` has passed.
_APART: MutableMapping[nn.Module, set[str]] = WeakKeyDictionary()


def chosen_layers(model: nn.Module, spec: SignalSpec) -> tuple[AttentionLayer, ...]:
    """Return the attention layers that the option `spec.layers` names.

    If the estimator is `last`, `all` means the last layer alone.

    Raises:
        UnsupportedModelError: the model has no attention projections that antiphase knows, or a named layer has no
            softmax attention, or the weights are quantised and the estimator is an oracle.
        InvalidInputError: a layer does not exist, the named layers have none of the projections in `spec.projections`,
            or the estimator is `last` and a layer before the last one is named.
    """
    found = find_layers(model)
    check_oracle(unwrap(model), spec.estimator)
    last_alone = ESTIMATORS[spec.estimator].last_layer_alone
    text = "last" if last_alone and spec.layers == "all" else spec.layers
    indices = parse_layers(text, found.num_layers)
    if last_alone and indices != [found.num_layers - 1]:
        raise InvalidInputError(
            f"the estimator {spec.estimator!r} measures the last attention layer alone; got layers {spec.layers!r}. "
            "Use layers='last', or the estimator 'full'."
        )
    by_index = {layer.index: layer for layer in found.attention}
    without = [] if text == "all" else [index for index in indices if index not in by_index]
    if without:
        raise UnsupportedModelError(
            f"layer {without[0]} of {found.num_layers} has no softmax attention ({found.others[without[0]]}), so "
            f"layers {text!r} cannot be measured. Layers with attention: {', '.join(map(str, by_index))}. Name some "
            "of them (--layers), with the estimator 'full'."
        )
    chosen = tuple(by_index[index] for index in indices if index in by_index)
    if not bool(present(chosen, spec.projections).any()):
        raise InvalidInputError(
            f"the chosen layers have no projection {', '.join(spec.projections)} of their own: their keys and values "
            "come from earlier layers, or both come from one weight. Name other projections or layers."
        )
    return chosen


def token_signals(
    model: nn.Module,
    batch: TokenBatch,
    spec: SignalSpec | None = None,
    *,
    steps: Int[Tensor, "batch token"] | None = None,
    progress: Tick = silent,
) -> TokenSignals:
    """Measure the entropy and the gradient strength of every generated token, and of every step if steps are given.

    H_i = −Σ_v p_i(v) ln p_i(v);  s_i = mean over layers ℓ and projections X of ‖∂z_{i,y_i}/∂W_X^ℓ‖_*
    Step k: E_k = mean of H_i, I_k = mean of s_i, or the joint ‖∂Σ_i z_i/∂W‖_* / n^0.9  (docs/method.md).

    Here H_i is the entropy of token i, s_i its strength, z its logits, and y_i the generated token. E_k is the entropy
    of step k, I_k its strength, and n the number of its tokens.

    Args:
        model: a Hugging Face causal LM, with or without PEFT wrapper, on any device and in any floating dtype.
        batch: the rollouts, padded on either side; only the tokens of `completion_mask` are measured.
        spec: the options of the measurement; the default is the estimator `own` on all layers.
        steps: the step (sentence) of every completion token, counted from 0 in each rollout (see `antiphase.steps`);
            values at other positions are not read. If None is given, no steps are measured.
        progress: a function that is called during the measurement, with the number of tokens and steps that were
            measured since its last call.

    Returns:
        The signals at the positions of `batch` and on its device, in float32 or wider; NaN outside the completions.

    Raises:
        UnsupportedModelError: antiphase or this estimator cannot measure the architecture, or the weights are sharded
            over processes.
        InvalidInputError: a layer or a token id does not exist, `spec.num_alternatives` is larger than the vocabulary,
            or the steps do not fit the batch.
        NonFiniteError: logits or gradients are NaN or infinite.
        OutOfMemoryError: the rollouts that run together did not fit into the memory; lower `token_budget`.

    The measurement leaves the model as it was: parameters, `.grad`, hooks, attention implementation, training mode and
    the state of the random generators.

    Cost: see the estimators. The rollouts that run together determine the memory (see `token_budget`).
    """
    spec = spec or SignalSpec()
    model = unwrap(model)
    check_whole(model)
    layers = chosen_layers(model, spec)
    _check_batch(model, batch, spec)
    if steps is not None:
        check_steps(batch, steps)
    elif spec.targets_per_rollout == 0:
        raise InvalidInputError("targets_per_rollout is 0 and no steps were given: nothing would be measured.")
    device = input_device(model)
    done: list[tuple[list[Row], ChunkSignals]] = []
    with torch.inference_mode(False):
        _check_positions(model, layers, spec, device)
        joint = steps if spec.step_strength == "joint" else None
        for rows, chunk in _chunks(model, rows_of(batch, spec, joint), spec, device):
            done.append((rows, _measure(model, layers, chunk, spec, rows, progress)))
    return collect(batch, layers, spec, done, steps)


def _measure(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    chunk: Chunk,
    spec: SignalSpec,
    rows: Sequence[Row],
    progress: Tick,
) -> ChunkSignals:
    """Run the estimator on one chunk (rollouts that run together).

    If it fails, or if a strength is not finite, the error says what to do.
    """
    try:
        signals: ChunkSignals = ESTIMATORS[spec.estimator].measure(model, layers, chunk, spec, progress)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NonFiniteError(
            f"in one of the rows {', '.join(str(row.index) for row in rows)}, the singular values of a gradient do "
            "not converge, so the gradient is NaN or infinite. Check the weights, or load in a wider dtype (--dtype "
            "float32)."
        ) from error
    except RuntimeError as error:
        if says_out_of_memory(error):
            raise OutOfMemoryError(
                f"out of memory while measuring {len(rows)} rollouts of up to "
                f"{max(len(row.token_ids) for row in rows)} tokens. Lower "
                f"token_budget (--token-budget, now {spec.token_budget})"
                + ("." if len(rows) > 1 else ", shorten the rollouts, or choose the estimator 'own' or fewer layers.")
                + held_by_others(chunk.rows.device)
            ) from error
        raise
    there = present(layers, spec.projections).flatten()
    owners = [(signals.strength, chunk.rows[chunk.measured])]
    if signals.joint is not None and chunk.steps is not None:
        owner_of_step = torch.zeros(chunk.num_steps, dtype=torch.long, device=chunk.rows.device)
        owners.append((signals.joint, owner_of_step.scatter(0, chunk.steps, chunk.rows)))
    for strength, owner in owners:
        finite = strength.isfinite().flatten(1)[:, there.to(strength.device)].all(1)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"row {rows[int(owner[~finite][0])].index}: a gradient is NaN or infinite. Check the weights, or load "
                "in a wider dtype (--dtype float32)."
            )
    return signals


def _chunks(
    model: nn.Module, rows: Sequence[Row], spec: SignalSpec, device: torch.device
) -> Iterator[tuple[list[Row], Chunk]]:
    """Yield chunks (rollouts that run together), each with the list of its rows.

    The results for a row do not depend on which other rows are in its chunk.
    """
    switch = rope_switch(cast(Any, model).config.get_text_config())
    within, beyond = list(rows), []
    if switch is not None:
        kind, length = switch
        within = [row for row in rows if len(row.token_ids) <= length]
        beyond = [row for row in rows if len(row.token_ids) > length]
        if beyond and kind == "dynamic":
            raise UnsupportedModelError(
                f"row {beyond[0].index} has {len(beyond[0].token_ids)} tokens: beyond {length} tokens the model's "
                "dynamic RoPE depends on the rows that it has processed before, so the result could not be "
                "reproduced. Shorten the rollouts."
            )
    if ESTIMATORS[spec.estimator].shares_prefixes:
        long, within = split_long(model, within, spec.token_budget)
        for family in long:
            yield list(family.rows), chunk_of_long(family, spec.token_budget, device)
        families, within = split(model, within)
        num_layers = len(find_attention(model))
        for group in pack_families(families, spec.token_budget, num_layers):
            yield [row for family in group for row in family.rows], chunk_of_families(group, device)
    for packed, whole in ((within, False), (beyond, True)):
        for rows_of_chunk in pack(packed, spec.token_budget):
            yield rows_of_chunk, chunk_of(rows_of_chunk, device, whole=whole)


def trial_batch(model: nn.Module) -> TokenBatch:
    """Return a batch of one short rollout with a single target, to try out a model.

    Token ids whose embedding is zero are avoided; the padding token often has such an embedding. A hidden state of
    zeros stays zero in every normalisation layer, and each such layer multiplies its gradient by about a thousand. In
    a deep model the gradient would overflow.
    """
    weight = numbers_of(cast(Any, model).get_input_embeddings())[:1024]
    used = torch.nonzero(weight.abs().amax(-1) > 0).flatten().tolist() or [0]
    first, second = used[0], used[min(1, len(used) - 1)]
    return TokenBatch.from_ids([[first, second, first]], [[second]])


def _check_positions(
    model: nn.Module, layers: Sequence[AttentionLayer], spec: SignalSpec, device: torch.device
) -> None:
    """Check once per model that the backward pass keeps the gradients of different positions separate.

    The check measures one target (a generated token) at the end of a short row. The gradient of this target must not
    reach earlier positions. Every measurement looks for such leaks too, but cannot see them if all positions predict a
    measured token.
    """
    checked = _APART.setdefault(model, set())
    if not ESTIMATORS[spec.estimator].one_backward or spec.estimator in checked:
        return
    spec = dataclasses.replace(spec, targets_per_rollout=None)
    rows = rows_of(trial_batch(model), spec)
    _measure(model, layers, chunk_of(rows, device), spec, rows, silent)
    checked.add(spec.estimator)


def _check_batch(model: nn.Module, batch: TokenBatch, spec: SignalSpec) -> None:
    """Raise InvalidInputError if a row is too long, a token id does not exist, or too many alternatives are wanted."""
    limit = getattr(cast(Any, model).config.get_text_config(), "max_position_embeddings", None)
    longest = int(batch.attention_mask.sum(1).max())
    if limit is not None and longest > limit:
        raise InvalidInputError(
            f"a row of {longest} tokens is longer than the model's context of {limit}. Shorten the rollouts. If the "
            "model was extended to longer texts, raise max_position_embeddings in its config."
        )
    vocab = int(cast(Any, model).get_input_embeddings().weight.shape[0])
    check_alternatives(spec.num_alternatives, vocab)
    wrong = ((batch.input_ids < 0) | (batch.input_ids >= vocab)) & batch.attention_mask
    for row, column in torch.nonzero(wrong).tolist():
        raise InvalidInputError(
            f"row {row}: token id {int(batch.input_ids[row, column])} is not in the model's vocabulary of {vocab}. "
            "Were the ids made by another tokenizer?"
        )
