"""The estimator `last`: the full-context gradient of the last attention layer, from one forward and one backward pass.

After the last attention layer nothing mixes positions. So the backward pass of Σ_i z_i, the sum of all targets, keeps
the targets separate down to the output of the last attention. From there on the gradients have closed forms.

The symbols are:

* α_{h,it}, the attention weight of head h from position i to position t;
* q̃, k̃, v and o, the queries, keys, values and outputs of the attention, and u_{h,i} = ∂z_i/∂o_{h,i};
* κ, the scale of the attention scores, and c', the slope of their softcap;
* a_t, the input of Q, K and V at position t, and b_i, the input of O at position i;
* δ_i, the gradient of z_i at a projection's output at position i.

With e_{h,it} = c' α_{h,it} ⟨u_{h,i}, v_{g,t} − o_{h,i}⟩, where g is the group of head h, the gradients are
(docs/method.md):

    O: δ_i b_iᵀ (rank one)                       Q: δ_i a_iᵀ (rank one: a query reaches only its own output)
    V: Σ_h u_{h,i} (Σ_t α_{h,it} a_t)ᵀ           (rank ≤ number of heads: a heads × heads problem)
    K: Σ_t (∂k̃_t/∂k_t)ᵀ [κ Σ_{h∈g} e_{h,it} q̃_{h,i}] a_tᵀ

There is no formula here for the Jacobian ∂k̃/∂k of RoPE and of the normalisation of keys. Autograd computes it for
many targets at once, through the model's own graph from the attention's argument to the projection's output. With RoPE
or normalised keys, the K term is not rank one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from antiphase.errors import InvalidInputError
from antiphase.models.architecture import AttentionLayer, find_layers, modules_of
from antiphase.models.layouts import Projection
from antiphase.signal_spec import PROJECTIONS, ProjectionName, SignalSpec
from antiphase.signals.attention_blocks import AttentionCall, attention_weights
from antiphase.signals.attention_entropy import mean_over_layers
from antiphase.signals.capture import Observed, observe
from antiphase.signals.cells import placed
from antiphase.signals.chunk import Chunk, ChunkSignals, Tick, silent
from antiphase.signals.frozen_attention import tracing
from antiphase.signals.full import joint_of_layers
from antiphase.signals.norms import factored_norm, rank_one_norm, shared_factor
from antiphase.signals.own import check_frozen, head_of_targets, seed_of
from antiphase.signals.own_backward import Unasked

# The greatest number of elements of K terms that are computed at once; a GPU needs more of them to be busy.
_CHUNK_ELEMENTS, _GPU_TIMES = 1 << 24, 8


def last_layer(
    model: nn.Module, layers: Sequence[AttentionLayer], chunk: Chunk, spec: SignalSpec, tick: Tick = silent
) -> ChunkSignals:
    """Measure the gradient strength of targets (generated tokens) in the last attention layer, through all positions.

    The chunk says which targets are to be measured. If the chunk has steps (sentences), their joint strengths are
    measured too.

    Args:
        model: a Hugging Face causal LM without PEFT wrapper.
        layers: the attention layers to measure. They must be the last layer alone.
        chunk: the rollouts that run together, as rows that are padded on the right, and the list of their targets.
        spec: gives the projections, the norm, the quantity to differentiate (`spec.target`: logit or log-probability)
            and the temperature.
        tick: a function that is called with the number of targets and steps that were measured since its last call.

    Returns:
        The signals: strength `[measured, 1, projection]` and attention entropy `[target]`. If the chunk has steps,
        there are also joint strength and effective rank `[step, 1, projection]`.

    Raises:
        UnsupportedModelError: the model's attention does not use transformers' AttentionInterface, or positions
            influence each other after the last attention layer.
        InvalidInputError: `layers` does not contain the last layer alone.

    Cost: one forward pass, one backward pass down to the last layer, and one small eigenproblem per target for K.
    Joint strengths need one more backward pass down to the last layer for each step.
    """
    if [layer.index for layer in layers] != [find_layers(model).num_layers - 1]:
        raise InvalidInputError("the estimator 'last' measures the last attention layer alone; use layers='last'.")
    layer, tokens = layers[0], dataclasses.replace(chunk, steps=None)
    device = chunk.rows.device
    kept = tracing(keep=layer.module, entropies_of=[layer.module])
    with observe(model, layers, freeze_attention=True) as seen, kept as trace:
        hidden = seen.hidden(chunk.input_ids, grad=True)
        check_frozen(model, trace)
        assert trace.kept is not None
        head = head_of_targets(seen, tokens, spec, hidden, want_seed=True)
        norms = hidden.new_zeros(0, len(spec.projections), dtype=torch.promote_types(hidden.dtype, torch.float32))
        if bool(chunk.measured.any()):
            norms = _norms(seen, layer, trace.kept, tokens, spec, hidden, seed_of(head, tokens, hidden)).to(device)
    tick(len(norms))
    attention = mean_over_layers(trace.entropies, layers, device)[chunk.rows, chunk.columns - 1]
    joint, ranks = joint_of_layers(model, layers, chunk, spec, tick)
    return ChunkSignals(head.without_seed(), norms[:, None].detach(), joint, attention, ranks)


def _norms(
    seen: Observed,
    layer: AttentionLayer,
    call: AttentionCall,
    chunk: Chunk,
    spec: SignalSpec,
    hidden: Tensor,
    seed: Tensor,
) -> Float[Tensor, "measured projection"]:
    """Return the norm of the gradient of every measured target (generated token), for each chosen projection.

    Args:
        seen: the model, with hooks that have recorded the inputs and outputs of its projections.
        layer: the last attention layer.
        call: the arguments and the output of the layer's attention.
        chunk: the rows and their targets.
        spec: gives the projections and the norm.
        hidden: the final hidden states, with their autograd graph.
        seed: the gradient of the sum of all targets at `hidden`.
    """
    assert call.output is not None
    # The last layer may be on another device than the first one.
    chunk = chunk.on(call.output.device)
    at = (chunk.rows[chunk.measured], chunk.columns[chunk.measured] - 1)
    modules = modules_of(layers=[layer], names=PROJECTIONS)
    outputs = seen.capture.outputs_of(modules)
    # The gradient is taken at the attention's own output and not at the input of the O projection, because a gate or a
    # normalisation may stand between them. The graph from the projections to the attention is needed again for K and
    # V.
    *gradients, d_attended = torch.autograd.grad(hidden, [*outputs, call.output], seed, retain_graph=True)
    by_module = dict(zip(modules, gradients, strict=True))
    unasked = Unasked(chunk, d_attended.shape[:2])
    unasked.note(d_attended, layer.name)
    unasked.check()
    result: dict[ProjectionName, Tensor] = {}
    for name in ("Q", "O"):
        projection = layer.projections[name]
        delta = projection.select(by_module[projection.module][at])
        result[name] = rank_one_norm(delta, seen.capture.input_of(projection)[at], spec.norm)
    if {"K", "V"} & set(spec.projections) & layer.projections.keys():
        result |= _KeyValue(seen, layer, call, d_attended, spec).norms(chunk)
    return placed(result, spec.projections, result["O"])


@dataclass(frozen=True)
class _KeyValue:
    """Computes the norms of the gradients at the projections K and V, for a few targets of every row at a time.

    A target is a generated token.

    Args:
        seen: the model, with hooks that have recorded the inputs and outputs of its projections.
        layer: the last attention layer of the model.
        call: the arguments and the output of the layer's attention.
        d_attended: the gradient of the sum of all targets at the output of the attention.
        spec: gives the norm.
    """

    seen: Observed
    layer: AttentionLayer
    call: AttentionCall
    d_attended: Float[Tensor, "row token head vdim"]
    spec: SignalSpec

    def norms(self, chunk: Chunk) -> dict[ProjectionName, Float[Tensor, "measured"]]:
        """Return a mapping from `K` and from `V` to the norms of the measured targets' gradients at this projection.

        If one weight computes keys and values, the mapping has only `K`. The gradient at this weight is the sum of the
        terms of keys and of values.
        """
        measured = torch.nonzero(chunk.measured).flatten()
        rows, positions = chunk.rows[measured], chunk.columns[measured] - 1
        # steps[row, n] is the position of the row's n-th measured target. Rows with fewer targets are filled with 0,
        # and the results for these places are not used.
        counts = torch.bincount(rows, minlength=len(chunk.lengths))
        step_of = torch.cat([torch.arange(n, device=rows.device) for n in counts.tolist()])
        steps = torch.zeros(len(chunk.lengths), int(counts.max()), dtype=torch.long, device=rows.device)
        steps[rows, step_of] = positions
        inputs = self.seen.capture.input_of(self.layer.projections["K"]).detach()
        factor = shared_factor(inputs, self.spec.norm)
        batch, length = chunk.input_ids.shape
        most = _CHUNK_ELEMENTS * (_GPU_TIMES if rows.device.type == "cuda" else 1)
        size = max(1, most // (batch * length * self.d_attended.shape[2:].numel()))
        # A target sees only the positions up to its own. The numbers are read at once, so a GPU is waited for once.
        ends = (steps.amax(0) + 1).tolist()
        keys, values = [], []
        for place, columns in enumerate(steps.split(size, dim=1)):
            seen = max(ends[place * size : (place + 1) * size])
            d_key, u, weights = self._terms(columns, seen)
            terms, arguments = [d_key], [self.call.key]
            if "V" not in self.layer.projections:
                terms.append(torch.einsum("bgsit,bgsid->bigtd", weights, u))
                arguments.append(self.call.value)
            # L is zero above its diagonal.
            part = factor[:, :seen, :seen] if self.spec.norm != "l1" else factor[:, :seen]
            delta = self._pull_back(terms, arguments, self.layer.projections["K"])
            keys.append(factored_norm(delta, part[:, None], self.spec.norm))
            if "V" in self.layer.projections:
                values.append(self._value_norm(u, weights, inputs[:, :seen], part))
        found: dict[ProjectionName, Tensor] = {"K": torch.cat(keys, 1)[rows, step_of]}
        return found | ({"V": torch.cat(values, 1)[rows, step_of]} if values else {})

    def _terms(self, columns: Tensor, seen: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return three tensors from which the gradients of some targets at K and V are computed.

        In the shapes, the axis `step` counts the targets of a row. It does not mean sentences here.

        Args:
            columns: the positions that predict the targets, `[row, step]`.
            seen: the number of positions, counted from the first one, that these targets see.

        Returns:
            The gradient at the attention's keys `[row, step, group, token, dim]`, the gradient u at the attention's
            output `[row, group, share, step, vdim]`, and the attention weights `[row, group, share, step, token]`.
        """
        weights, slope = attention_weights(self.call, columns, seen)
        batch, groups, share, _, _ = weights.shape

        u = self.d_attended.gather(1, columns[:, :, None, None].expand(-1, -1, *self.d_attended.shape[2:]))
        u = u.view(batch, columns.shape[1], groups, share, -1).permute(0, 2, 3, 1, 4).to(weights.dtype)
        value, key_dim = self.call.value.detach()[:, :, :seen].to(weights.dtype), self.call.query.shape[-1]
        gain = torch.einsum("bgsid,bgtd->bgsit", u, value)
        gain = (gain - (weights * gain).sum(-1, keepdim=True)) * weights * self.call.scaling
        gain = gain if slope is None else gain * slope
        index = columns[:, None, :, None].expand(-1, groups * share, -1, key_dim)
        query = self.call.query.detach().gather(2, index).view(batch, groups, share, -1, key_dim).to(weights.dtype)
        return torch.einsum("bgsit,bgsid->bigtd", gain, query), u, weights

    def _pull_back(self, terms: Sequence[Tensor], arguments: Sequence[Tensor], projection: Projection) -> Tensor:
        """Compute the gradient at the output of a projection from the gradient at the attention's keys or values.

        In the shapes, the axis `step` counts the targets of a row.

        Args:
            terms: for each tensor in `arguments`, the gradient at its first positions,
                `[row, step, group, seen, dim]`. At later positions the gradient is zero.
            arguments: the keys or the values of the attention, or both. They are computed from the projection.
            projection: the projection.

        Returns:
            The gradient at the projection's output, `[row, step, seen, features]`.
        """
        output = self.seen.capture.outputs_of([projection.module])[0]
        seen, length = terms[0].shape[3], output.shape[1]
        seeds = [
            pad(term.transpose(0, 1).to(one.dtype), (0, 0, 0, length - seen))
            for term, one in zip(terms, arguments, strict=True)
        ]
        with torch.autocast(output.device.type, enabled=False):
            (pulled,) = torch.autograd.grad(list(arguments), output, seeds, retain_graph=True, is_grads_batched=True)
        return projection.select(pulled.transpose(0, 1)[:, :, :seen])

    def _value_norm(self, u: Tensor, weights: Tensor, inputs: Tensor, factor: Tensor) -> Float[Tensor, "row step"]:
        """Return the norm of the gradient at the projection V, for some targets of every row.

        In the shapes, the axis `step` counts the targets of a row.

        Args:
            u: the gradient at the attention's output, as `_terms` returns it.
            weights: the attention weights, as `_terms` returns them.
            inputs: the inputs of the projection at the positions that the targets see.
            factor: the result of `shared_factor` for these inputs.
        """
        projection = self.layer.projections["V"]
        output = projection.select(self.seen.capture.outputs_of([projection.module])[0].detach())
        flat = self.call.value.detach().transpose(1, 2).flatten(2)
        if flat.shape != output.shape or not torch.equal(flat, output):
            # Something, such as a normalisation of the values, stands between the projection and the attention. The
            # gradient must go back through it.
            term = torch.einsum("bgsit,bgsid->bigtd", weights, u)
            return factored_norm(
                self._pull_back([term], [self.call.value], projection), factor[:, None], self.spec.norm
            )
        # The norm is ‖Σ_h u_h ā_hᵀ‖ with ā_h = Σ_t α_ht a_t. In ‖Δᵀ A‖, the heads take the place of the tokens.
        batch, groups, share, steps, dim = u.shape
        blocks = torch.zeros(batch, steps, groups, share, groups, dim, dtype=u.dtype, device=u.device)
        for group in range(groups):
            blocks[:, :, group, :, group] = u[:, group].transpose(1, 2)
        mixed = torch.einsum("bgsit,btn->bigsn", weights, inputs.to(weights.dtype)).flatten(2, 3)
        mixed_factor = shared_factor(mixed.flatten(0, 1), self.spec.norm).unflatten(0, mixed.shape[:2])
        return factored_norm(blocks.flatten(4).flatten(2, 3), mixed_factor, self.spec.norm)
