"""Compute the frozen attention and its gradients for a few query positions at a time.

`antiphase.signals.frozen_attention` has the equations. A block of query positions is sized so that its attention
weights fit into the cache of a CPU. The weights of a block are computed in the forward pass and again in the backward
pass, and are never kept. So the memory grows with the length T, not with T².

The large tensors of a block are changed in place. On a CPU, the forward and the backward pass together then take less
time than those of `scaled_dot_product_attention`, whose backward pass also computes the gradients of all keys and
values (benchmarks/attention.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.signals.attention_entropy import mean_over_heads

# The greatest number of attention weights in one block. On a CPU a block must fit into the cache. A GPU needs larger
# blocks to be busy.
_BLOCK_ELEMENTS, _GPU_TIMES = 1 << 19, 128


@dataclass(frozen=True)
class AttentionCall:
    """The arguments and the output of one call of the attention, with their autograd graph.

    Queries and keys are those after RoPE, and after the normalisation of queries and keys if the model has one.
    """

    query: Float[Tensor, "batch head token dim"]
    key: Float[Tensor, "batch group seen dim"]
    value: Float[Tensor, "batch group seen vdim"]
    mask: Tensor | None
    scaling: float
    softcap: float | None
    output: Float[Tensor, "batch token head vdim"] | None = None


def attention_weights(
    call: AttentionCall, rows: Tensor, num_keys: int
) -> tuple[Float[Tensor, "batch group share row key"], Float[Tensor, "batch group share row key"] | None]:
    """Return the attention weights of some query positions over the first `num_keys` keys, and the softcap's slope.

    A model with a softcap c bounds each attention score x, before the softmax, by c·tanh(x/c). The softcap's slope is
    the derivative of this bounded score with respect to x, 1 − tanh²(x/c).

    Args:
        call: the arguments of the attention, which are used without their graph.
        rows: the query positions of each row of the batch, `[batch, row]`.
        num_keys: the number of keys. Every query position must be below it.

    Returns:
        The weights and the slope (None without a softcap), in float32 or wider. The axis `share` counts the query
        heads that share the keys and values of a group.
    """
    batch, heads, _, dim = call.query.shape
    query = call.query.detach().gather(2, rows[:, None, :, None].expand(-1, heads, -1, dim))
    scores, slope = _scores(call, query, num_keys)
    if call.mask is None:
        columns = torch.arange(num_keys, device=rows.device)
        scores.masked_fill_((columns > rows[:, :, None])[:, None, None], _lowest(scores))
    else:
        mask = call.mask[..., :num_keys].expand(batch, -1, -1, -1)
        _mask(scores, mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys)))
    return scores.softmax(-1), slope


def _scores(call: AttentionCall, query: Tensor, num_keys: int) -> tuple[Tensor, Tensor | None]:
    """Return the attention scores of some queries without mask, `[batch, group, share, row, key]`, and the slope."""
    wide = torch.promote_types(query.dtype, torch.float32)
    batch, heads, num, dim = query.shape
    groups = call.key.shape[1]
    # It is cheaper to scale the queries than the scores. In a narrow dtype this would round the queries again.
    narrow = query.dtype != wide
    query = (query if narrow else query * call.scaling).reshape(batch, groups, -1, dim)
    scores = (query @ call.key.detach()[:, :, :num_keys].mT).to(wide).view(batch, groups, heads // groups, num, -1)
    if narrow:
        scores *= call.scaling
    if call.softcap is None:
        return scores, None
    scores.div_(call.softcap).tanh_()
    slope = 1 - scores**2
    return scores.mul_(call.softcap), slope


def _lowest(scores: Tensor) -> float:
    """Return the score of a key that a query must not see.

    It is finfo.min and not −inf. A row that sees no key then stays finite, and no NaN reaches later layers.
    """
    return torch.finfo(scores.dtype).min


def _mask(scores: Tensor, mask: Tensor) -> None:
    """Write a very low score wherever a query must not see a key. The scores are changed in place.

    Args:
        scores: the scores, `[batch, group, share, row, key]`.
        mask: True where a query sees a key, or numbers to be added to the scores. There is one mask for all heads, or
            one for each head: `[batch, 1 or head, row, key]`.
    """
    _, groups, share, num_rows, num_keys = scores.shape
    heads = (1, 1) if mask.shape[1] == 1 else (groups, share)
    mask = mask.reshape(mask.shape[0], *heads, num_rows, num_keys)
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, _lowest(scores))
    else:
        scores.add_(mask).clamp_min_(_lowest(scores))


def _block_scores(call: AttentionCall, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Return the masked attention scores of a block of query positions over the keys up to its end, and the slope.

    The keys of an earlier pass stand before those of the queries.
    """
    num_keys = call.key.shape[2] - call.query.shape[2] + rows.stop
    scores, slope = _scores(call, call.query.detach()[:, :, rows], num_keys)
    if call.mask is not None:
        _mask(scores, call.mask[:, :, rows, :num_keys])
        return scores, slope
    # The mask None means causal: all keys before the block are seen.
    num = rows.stop - rows.start
    hidden = torch.ones(num, num, dtype=torch.bool, device=scores.device).triu_(1)
    scores[..., num_keys - num :].masked_fill_(hidden, _lowest(scores))
    return scores, slope


def _blocks(call: AttentionCall) -> Iterator[slice]:
    """Return blocks of query positions.

    They are Python numbers. If they were on the device, the CPU would wait for the device at every block.
    """
    batch, heads, length, _ = call.query.shape
    most = _BLOCK_ELEMENTS * (_GPU_TIMES if call.query.device.type == "cuda" else 1)
    size = max(1, min(length, most // max(1, batch * heads * call.key.shape[2])))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _joined(past: Tensor | None, owner: Tensor | None, here: Tensor) -> Tensor:
    """Return the keys or values of whole rows: those of each row's prefix, followed by the row's own."""
    if past is None or owner is None:
        return here
    return torch.cat([past.index_select(0, owner.to(past.device)), here], dim=2)


class FrozenAttention(torch.autograd.Function):
    """The forward and backward pass of the frozen attention, by the equations of `frozen_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        softcap: float | None,
        past_key: Tensor | None,
        past_value: Tensor | None,
        owner: Tensor | None,
        entropies: list[Tensor] | None,
    ) -> Tensor:
        """Return the outputs `[batch, head, token, vdim]`, and append the attention entropies of each block."""
        call = AttentionCall(
            query, _joined(past_key, owner, key), _joined(past_value, owner, value), mask, scaling, softcap
        )
        batch, heads, length, _ = query.shape
        groups, vdim = value.shape[1], value.shape[3]
        # transformers wants the output as [batch, token, head, dim]. The transpose of this tensor needs no copy there.
        output = value.new_empty(batch, length, heads, vdim).transpose(1, 2)
        for rows in _blocks(call):
            scores, _ = _block_scores(call, rows)
            if entropies is not None:
                scores -= scores.amax(-1, keepdim=True)
            weights = scores.softmax(-1)
            if entropies is not None:
                entropies.append(mean_over_heads(weights, scores))
            num_keys = weights.shape[-1]
            flat = weights.to(value.dtype).view(batch, groups, -1, num_keys)
            output[:, :, rows] = (flat @ call.value[:, :, :num_keys]).view(batch, heads, -1, vdim)
        # The past is saved once for each prefix. The backward pass joins it to the rows again.
        ctx.save_for_backward(query, key, value, mask, output, past_key, past_value, owner)
        ctx.scaling, ctx.softcap = scaling, softcap
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at the queries, and the own-position terms of those at the keys and values."""
        query, key, value, mask, output, past_key, past_value, owner = ctx.saved_tensors
        call = AttentionCall(
            query, _joined(past_key, owner, key), _joined(past_value, owner, value), mask, ctx.scaling, ctx.softcap
        )
        batch, heads, length, _ = query.shape
        groups, before = key.shape[1], call.key.shape[2] - length
        d_out, d_query = grads[0], torch.empty_like(query)
        wide = torch.promote_types(query.dtype, torch.float32)
        narrow = query.dtype != wide
        # How much the output at each position changes with the position's own score: α_ii c'_ii.
        own_weight = query.new_empty(batch, heads, length, dtype=wide)
        own_slope = None if ctx.softcap is None else torch.empty_like(own_weight)
        for rows in _blocks(call):
            scores, slope = _block_scores(call, rows)
            weights = scores.softmax(-1)
            num_keys = weights.shape[-1]
            flat = d_out[:, :, rows].reshape(batch, groups, -1, d_out.shape[-1])
            gain = (flat @ call.value[:, :, :num_keys].mT).to(wide).view_as(weights)
            # ⟨do, o⟩ is computed as Σ α ⟨do, v⟩, so that rounding errors cancel if one weight is near 1.
            gain.sub_(torch.mul(weights, gain, out=scores).sum(-1, keepdim=True)).mul_(weights)
            if slope is not None and own_slope is not None:
                gain *= slope
                own_slope[:, :, rows] = slope.diagonal(before + rows.start, -2, -1).flatten(1, 2)
            if narrow:
                gain *= ctx.scaling
            flat_gain = gain.to(key.dtype).view(batch, groups, -1, num_keys)
            d_query[:, :, rows] = (flat_gain @ call.key[:, :, :num_keys]).view(batch, heads, -1, query.shape[3])
            own_weight[:, :, rows] = weights.diagonal(before + rows.start, -2, -1).flatten(1, 2)
        if not narrow:
            d_query *= ctx.scaling
        by_group = [x.unflatten(1, (groups, -1)) for x in (query, output, d_out, own_weight.unsqueeze(-1))]
        of_query, of_output, of_d_out, weight = by_group
        # v − o is computed before the product, since it is small if α_ii is near 1: a later difference loses digits.
        own_gain = weight * (of_d_out * (value.unsqueeze(2) - of_output)).sum(-1, keepdim=True) * ctx.scaling
        if own_slope is not None:
            own_gain = own_gain * own_slope.unflatten(1, (groups, -1)).unsqueeze(-1)
        d_key = (own_gain * of_query).sum(2).to(key.dtype)
        return d_query, d_key, (weight * of_d_out).sum(2).to(value.dtype), *(None,) * 7
