"""Compute the frozen attention and its gradients for a few query positions at a time.

`antiphase.signals.frozen_attention` has the equations. A block of query positions is sized so that its attention
weights fit into the cache of a CPU. The weights of a block are computed in the forward pass and again in the backward
pass, and are never kept. So the memory grows with the length T, not with T².

The large tensors of a block are changed in place. With 1,024 tokens or more on a CPU, a forward and a backward pass
then take about as long as with `scaled_dot_product_attention` (benchmarks/attention.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.signals.attention_entropy import sum_over_heads

# The greatest number of attention weights in one block. On a CPU a block must fit into the cache. A GPU needs larger
# blocks to be busy. With fewer rows than `_LEAST_ROWS`, a block mostly reads keys and values, even if it fits.
_BLOCK_ELEMENTS, _GPU_TIMES = 1 << 19, 128
_LEAST_ROWS = 16


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
    scores, slope = _scores(call, _by_group(query, call.key), call.key.detach()[:, :, :num_keys])
    if call.mask is None:
        columns = torch.arange(num_keys, device=rows.device)
        scores.masked_fill_((columns > rows[:, :, None])[:, None, None], _lowest(scores))
    else:
        mask = call.mask[..., :num_keys].expand(batch, -1, -1, -1)
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys))
        _mask(scores, _mask_by_group(mask, call.key))
    return scores.softmax(-1), slope


def _by_group(heads: Tensor, key: Tensor) -> Tensor:
    """Split the axis of the heads: return a tensor `[batch, head, ...]` as `[batch, group, share, ...]`.

    The heads of a group share one head of `key`, which is `[batch, group, ...]`.
    """
    result: Tensor = heads.unflatten(1, (key.shape[1], -1))
    return result


def _mask_by_group(mask: Tensor, key: Tensor) -> Tensor:
    """Split the axis of the heads of a mask, as `_by_group` does for other tensors.

    A mask `[batch, head, row, key]` becomes `[batch, group, share, row, key]`. If all heads have the same mask, its
    axis of heads has length 1, and so have both new axes.
    """
    return mask.unsqueeze(2) if mask.shape[1] == 1 else _by_group(mask, key)


def _scores(call: AttentionCall, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the attention scores `[batch, group, share, row, key]` without mask, and the softcap's slope.

    Args:
        call: the attention call. Only its scale and its softcap are used.
        query: the queries, `[batch, group, share, row, dim]`.
        key: the keys, `[batch, group, key, dim]`.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    # It is cheaper to scale the queries than the scores. In a narrow dtype this would round the queries again.
    narrow = query.dtype != wide
    flat = (query if narrow else query * call.scaling).flatten(2, 3)
    scores = (flat @ key.mT).to(wide).unflatten(2, query.shape[2:4])
    if narrow:
        scores *= call.scaling
    if call.softcap is None:
        return scores, None
    scores.div_(call.softcap).tanh_()
    slope = 1 - scores**2
    return scores.mul_(call.softcap), slope


def _lowest(scores: Tensor) -> float:
    """Return the attention score that hides a key from a query: the lowest finite number of the dtype.

    With −inf, the softmax of a query that sees no key would be NaN, and the NaN would reach later layers.
    """
    return torch.finfo(scores.dtype).min


def _mask(scores: Tensor, mask: Tensor) -> None:
    """Write a very low score wherever a query must not see a key. The scores are changed in place.

    Args:
        scores: the scores, `[batch, group, share, row, key]`.
        mask: True where a query sees a key, or numbers to be added to the scores. Axes of length 1 are broadcast.
    """
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, _lowest(scores))
    else:
        scores.add_(mask).clamp_min_(_lowest(scores))


@dataclass(frozen=True)
class _Block:
    """Some query positions in some groups of heads, which are computed together.

    Args:
        groups: the groups of heads.
        rows: the query positions.
        num_keys: the number of keys up to the last query position, including the keys of earlier passes.
    """

    groups: slice
    rows: slice
    num_keys: int

    def queries(self, by_group: Tensor) -> Tensor:
        """Return the part of a tensor `[batch, group, share, row, ...]` that belongs to the block."""
        return by_group[:, self.groups, :, self.rows]

    def keys(self, keys: Tensor) -> Tensor:
        """Return the keys (or values) that the queries of the block may see.

        Args:
            keys: all keys, or all values, of the attention call, `[batch, group, key, ...]`.
        """
        return keys[:, self.groups, : self.num_keys]

    def own(self, weights: Tensor) -> Tensor:
        """Return the attention weight from each query position to itself, `[batch, group, share, row]`."""
        return weights.diagonal(self.num_keys - weights.shape[-2], -2, -1)

    def scores(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Return the masked attention scores `[batch, group, share, row, key]`, and the softcap's slope."""
        query = self.queries(_by_group(call.query.detach(), call.key))
        scores, slope = _scores(call, query, self.keys(call.key.detach()))
        if call.mask is not None:
            mask = _mask_by_group(call.mask, call.key)[..., self.rows, : self.num_keys]
            _mask(scores, mask if mask.shape[1] == 1 else mask[:, self.groups])
            return scores, slope
        # The mask None means causal: all keys before the block are seen.
        num = scores.shape[-2]
        hidden = torch.ones(num, num, dtype=torch.bool, device=scores.device).triu_(1)
        scores[..., self.num_keys - num :].masked_fill_(hidden, _lowest(scores))
        return scores, slope


def _blocks(call: AttentionCall) -> Iterator[_Block]:
    """Divide the queries of an attention call into blocks, which together cover all positions and all heads.

    With fewer than `_LEAST_ROWS` query positions, a block would be slow. So if there are many keys, a block has fewer
    groups of heads instead.

    The bounds of a block are Python numbers. If they were on the device, the CPU would wait for the device at every
    block.
    """
    batch, heads, length, _ = call.query.shape
    groups, num_keys = call.key.shape[1:3]
    most = _BLOCK_ELEMENTS * (_GPU_TIMES if call.query.device.type == "cuda" else 1)
    of_group = max(1, batch * heads // groups * num_keys)
    num_groups = max(1, min(groups, most // (of_group * min(length, _LEAST_ROWS))))
    num_rows = max(min(length, _LEAST_ROWS), min(length, most // (of_group * num_groups)))
    for start in range(0, length, num_rows):
        rows = slice(start, min(start + num_rows, length))
        for group in range(0, groups, num_groups):
            yield _Block(slice(group, min(group + num_groups, groups)), rows, num_keys - length + rows.stop)


def _joined(past: Tensor | None, owner: Tensor | None, here: Tensor) -> Tensor:
    """Put the keys (or values) of each row's prefix before the keys (or values) of the row itself.

    Args:
        past: the keys of the prefixes, `[prefix, group, token, dim]`; None if the rows have no prefix.
        owner: for each row, the index of its prefix in `past`.
        here: the keys of the rows without their prefixes, `[batch, group, token, dim]`.
    """
    if past is None or owner is None:
        return here
    # A single prefix is not copied for each row first.
    rows = past.expand(len(here), -1, -1, -1) if len(past) == 1 else past.index_select(0, owner.to(past.device))
    return torch.cat([rows, here], dim=2)


class FrozenAttention(torch.autograd.Function):
    """The forward and backward pass of the frozen attention.

    In the backward pass, the keys and values of other positions are constants. The module `frozen_attention` has the
    equations.
    """

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
        """Return the outputs of the attention, `[batch, head, token, vdim]`.

        The mean entropy of the heads' attention weights, `[batch, token]`, is appended to the list `entropies`. If
        `entropies` is None, it is not computed.
        """
        call = AttentionCall(
            query, _joined(past_key, owner, key), _joined(past_value, owner, value), mask, scaling, softcap
        )
        batch, heads, length, _ = query.shape
        # transformers wants the output as [batch, token, head, dim]. The transpose of this tensor needs no copy there.
        output = value.new_empty(batch, length, heads, value.shape[3]).transpose(1, 2)
        entropy = query.new_zeros(batch, length, dtype=torch.promote_types(query.dtype, torch.float32))
        for block in _blocks(call):
            scores, _ = block.scores(call)
            if entropies is not None:
                scores -= scores.amax(-1, keepdim=True)
            weights = scores.softmax(-1)
            if entropies is not None:
                entropy[:, block.rows] += sum_over_heads(weights, scores)
            seen = weights.to(value.dtype).flatten(2, 3) @ block.keys(call.value)
            block.queries(_by_group(output, key)).copy_(seen.view(*weights.shape[:4], -1))
        if entropies is not None:
            entropies.append(entropy / heads)
        # The past is saved once for each prefix. The backward pass joins it to the rows again.
        ctx.save_for_backward(query, key, value, mask, output, past_key, past_value, owner)
        ctx.scaling, ctx.softcap = scaling, softcap
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at the queries, keys and values; None for the other arguments of `forward`.

        The gradient at a key or value contains only what comes from the query at the same position.
        """
        query, key, value, mask, output, past_key, past_value, owner = ctx.saved_tensors
        call = AttentionCall(
            query, _joined(past_key, owner, key), _joined(past_value, owner, value), mask, ctx.scaling, ctx.softcap
        )
        of_query, of_output, of_d_out = (_by_group(x, key) for x in (query, output, grads[0]))
        wide = torch.promote_types(query.dtype, torch.float32)
        narrow = query.dtype != wide
        d_query = torch.empty_like(of_query)
        # How much the output at each position changes with the position's own score: α_ii, times c'_ii.
        own_weight = torch.empty(of_query.shape[:4], dtype=wide, device=query.device)
        own_gain = own_weight if ctx.softcap is None else torch.empty_like(own_weight)
        for block in _blocks(call):
            scores, slope = block.scores(call)
            weights = scores.softmax(-1)
            d_out = block.queries(of_d_out).flatten(2, 3)
            gain = (d_out @ block.keys(call.value).mT).to(wide).view_as(weights)
            # ⟨do, o⟩ is computed as Σ α ⟨do, v⟩, so that rounding errors cancel if one weight is near 1.
            gain.sub_(torch.mul(weights, gain, out=scores).sum(-1, keepdim=True)).mul_(weights)
            own = block.own(weights)
            block.queries(own_weight).copy_(own)
            if slope is not None:
                gain *= slope
                block.queries(own_gain).copy_(own * block.own(slope))
            if narrow:
                gain *= ctx.scaling
            d_scores = gain.to(key.dtype).flatten(2, 3)
            block.queries(d_query).copy_((d_scores @ block.keys(call.key)).view(*weights.shape[:4], -1))
        if not narrow:
            d_query *= ctx.scaling
        # v − o is computed before the product, since it is small if α_ii is near 1: a later difference loses digits.
        apart = (of_d_out * (value.unsqueeze(2) - of_output)).sum(-1, keepdim=True)
        d_key = (own_gain.unsqueeze(-1) * apart * ctx.scaling * of_query).sum(2).to(key.dtype)
        d_value = (own_weight.unsqueeze(-1) * of_d_out).sum(2).to(value.dtype)
        return d_query.flatten(1, 2), d_key, d_value, *(None,) * 7
