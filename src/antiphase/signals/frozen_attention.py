"""Causal attention whose backward keeps only what reaches a position through itself.

The forward is ordinary softmax attention. In the backward the keys and values of *other* positions are constants, so
one backward of Σ_i z_i yields, at every position, the t = i term of the full-context gradient (METHOD §2, `own`). The
gradient of the queries is the ordinary one in either case: a query reaches only its own output.

With α the attention weights, o the outputs, c' the slope of the softcap (1 without) and s the scale:

    dq_i = s Σ_t α_it c'_it ⟨do_i, v_t − o_i⟩ k_t      dv_i = α_ii do_i      dk_i = s α_ii c'_ii ⟨do_i, v_i − o_i⟩ q_i

summed over the query heads of a group for k and v. Rows are processed in blocks and recomputed in the backward:
memory grows with T, not T².

It is switched on for one model through transformers' AttentionInterface; a `trace` counts the calls, so that a
model which bypasses the interface is refused rather than measured wrongly.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from antiphase.errors import UnsupportedModelError

FROZEN = "antiphase_frozen"
_BLOCK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class AttentionCall:
    """What one attention module was called with: the arguments after RoPE and any q/k-norm, with their graph."""

    query: Float[Tensor, "batch head token dim"]
    key: Float[Tensor, "batch group token dim"]
    value: Float[Tensor, "batch group token vdim"]
    mask: Tensor | None
    scaling: float
    softcap: float | None
    output: Float[Tensor, "batch token head vdim"] | None = None


@dataclass
class AttentionTrace:
    """Which modules called the frozen attention; the arguments are kept for `keep` alone."""

    keep: nn.Module | None = None
    called: set[nn.Module] = field(default_factory=set)
    kept: AttentionCall | None = None


_TRACE: ContextVar[AttentionTrace | None] = ContextVar("antiphase_attention_trace", default=None)


@contextlib.contextmanager
def tracing(keep: nn.Module | None = None) -> Iterator[AttentionTrace]:
    """Collect the calls of the frozen attention made inside the block."""
    trace = AttentionTrace(keep)
    token = _TRACE.set(trace)
    try:
        yield trace
    finally:
        _TRACE.reset(token)


def attention_weights(
    call: AttentionCall, rows: Tensor, num_keys: int
) -> tuple[Float[Tensor, "batch group share row key"], Float[Tensor, "batch group share row key"] | None]:
    """Attention weights of some query rows over the first `num_keys` keys, and the slope of the softcap.

    Args:
        call: the attention's arguments; used without their graph.
        rows: query positions, `[row]` shared by the batch or `[batch, row]`.
        num_keys: keys beyond are not read; every row must be below it.

    Returns:
        weights and slope (None without a softcap), float32 or wider; `share` counts the query heads of a group.
    """
    batch, heads, _, dim = call.query.shape
    groups = call.key.shape[1]
    rows = rows.expand(batch, -1) if rows.ndim == 1 else rows
    wide = torch.promote_types(call.query.dtype, torch.float32)
    index = rows[:, None, :, None].expand(-1, heads, -1, dim)
    query = call.query.detach().gather(2, index).reshape(batch, groups, -1, dim)
    key = call.key.detach()[:, :, :num_keys]
    scores = (query @ key.mT).to(wide).view(batch, groups, heads // groups, -1, num_keys) * call.scaling
    slope = None
    if call.softcap is not None:
        bent = torch.tanh(scores / call.softcap)
        scores, slope = bent * call.softcap, 1 - bent**2
    return _masked(scores, call.mask, rows).softmax(-1), slope


def _masked(scores: Tensor, mask: Tensor | None, rows: Tensor) -> Tensor:
    batch, groups, share, num_rows, num_keys = scores.shape
    # finfo.min and not −inf: a row that sees nothing must stay finite, or 0·NaN poisons later layers.
    lowest = torch.finfo(scores.dtype).min
    if mask is None:
        columns = torch.arange(num_keys, device=rows.device)
        return scores.masked_fill((columns > rows[:, :, None])[:, None, None], lowest)
    mask = mask[..., :num_keys].expand(batch, -1, -1, -1)
    mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys))
    # One mask for all heads, or one for each.
    mask = mask.unsqueeze(2) if mask.shape[1] == 1 else mask.view(batch, groups, share, num_rows, num_keys)
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, lowest)
    return (scores + mask).clamp_min(lowest)


def _blocks(call: AttentionCall) -> Iterator[Tensor]:
    batch, heads, length, _ = call.query.shape
    size = max(1, min(length, _BLOCK_ELEMENTS // max(1, batch * heads * length)))
    return iter(torch.arange(length, device=call.query.device).split(size))


class _FrozenAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
    ) -> Tensor:
        call = AttentionCall(query, key, value, mask, scaling, softcap)
        outputs = []
        for rows in _blocks(call):
            seen = int(rows[-1]) + 1
            weights, _ = attention_weights(call, rows, seen)
            batch, groups, share, num, _ = weights.shape
            flat = weights.to(value.dtype).reshape(batch, groups, share * num, seen)
            outputs.append((flat @ value[:, :, :seen]).reshape(batch, groups * share, num, -1))
        output = torch.cat(outputs, dim=2)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scaling, ctx.softcap = scaling, softcap
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, output = ctx.saved_tensors
        call = AttentionCall(query, key, value, mask, ctx.scaling, ctx.softcap)
        d_query, d_key, d_value = [], [], []
        groups = key.shape[1]
        for rows in _blocks(call):
            first, seen = int(rows[0]), int(rows[-1]) + 1
            weights, slope = attention_weights(call, rows, seen)
            batch, _, share, num, _ = weights.shape
            d_out = grads[0][:, :, rows].reshape(batch, groups, share, num, -1)
            flat = d_out.reshape(batch, groups, share * num, -1)
            gain = (flat @ value[:, :, :seen].mT).view_as(weights)
            # ⟨do, o⟩ as Σ α ⟨do, v⟩: rounding then cancels where one weight is near 1.
            gain = weights * (gain - (weights * gain).sum(-1, keepdim=True))
            gain = (gain if slope is None else gain * slope) * ctx.scaling
            flat_gain = gain.to(key.dtype).reshape(batch, groups, share * num, seen)
            d_query.append((flat_gain @ key[:, :, :seen]).reshape(batch, groups * share, num, -1))
            own_weight = weights.diagonal(first, -2, -1).unsqueeze(-1)
            # ⟨do, v − o⟩ before the product and not after: their difference is small where α_ii is near 1.
            apart = value[:, :, rows].unsqueeze(2) - output[:, :, rows].view_as(d_out)
            own_gain = own_weight * (d_out * apart).sum(-1, keepdim=True) * ctx.scaling
            if slope is not None:
                own_gain = own_gain * slope.diagonal(first, -2, -1).unsqueeze(-1)
            q_rows = query[:, :, rows].reshape(batch, groups, share, num, -1)
            d_key.append((own_gain * q_rows).sum(2).to(key.dtype))
            d_value.append((own_weight * d_out).sum(2).to(value.dtype))
        return torch.cat(d_query, 2), torch.cat(d_key, 2), torch.cat(d_value, 2), None, None, None


def _frozen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    for name in ("s_aux", "position_bias", "alibi"):
        if extras.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} attends with '{name}', which the estimators 'own' and 'last' do not "
                "differentiate. Use the estimator 'full'."
            )
    if query.shape[2] != key.shape[2]:
        raise UnsupportedModelError(
            f"{type(module).__name__} attends from {query.shape[2]} to {key.shape[2]} positions; 'own' and 'last' "
            "need self-attention over one sequence. Use the estimator 'full'."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    output: Tensor = _FrozenAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, attention_mask, scale, softcap
    )
    output = output.transpose(1, 2).contiguous()
    trace = _TRACE.get()
    if trace is not None:
        trace.called.add(module)
        if module is trace.keep:
            trace.kept = AttentionCall(query, key, value, attention_mask, scale, softcap, output)
    return output, None


def register() -> None:
    """Make the implementation known to transformers, with its mask; without the mask function padding is ignored."""
    AttentionInterface.register(FROZEN, _frozen_attention)
    AttentionMaskInterface.register(FROZEN, sdpa_mask)
