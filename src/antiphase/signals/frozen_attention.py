"""The frozen attention: causal attention whose backward pass treats other positions as constants.

The forward pass is ordinary softmax attention. In the backward pass the keys and values of *other* positions are
constants. So one backward pass of Σ_i z_i, the sum of all targets, gives the own-position term of the gradient at
every position (`own`). The gradient of the queries is the ordinary one, since a query affects only its own output.

Let α be the attention weights, o the outputs, q, k and v the queries, keys and values, s the scale, and c' the slope
of the softcap (1 without a softcap). A d before a letter means the gradient at it. For k and v, the gradients are
summed over the query heads of a group:

    dq_i = s Σ_t α_it c'_it ⟨do_i, v_t − o_i⟩ k_t      dv_i = α_ii do_i      dk_i = s α_ii c'_ii ⟨do_i, v_i − o_i⟩ q_i

The query positions are processed in blocks, and the attention weights are computed again in the backward pass. So the
memory grows with the length T, not with T².

A pass can start in the middle of its rows. The keys and values of the positions before it then come from an earlier
pass (`Past`), and the model's mask is evaluated at the real positions.

The frozen attention is switched on through transformers' AttentionInterface. A trace records which modules called it.
So a model that does not use the interface is refused, instead of being measured wrongly.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from antiphase.errors import UnsupportedModelError
from antiphase.signals.attention_entropy import mean_over_heads

FROZEN = "antiphase_frozen"
# The greatest number of attention weights in one block. On a CPU a block must fit into the cache: at 1,024 tokens this
# size is three to four times as fast as 1 << 24. A GPU needs larger blocks to be busy.
_BLOCK_ELEMENTS, _GPU_TIMES = 1 << 20, 64


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


@dataclass(frozen=True)
class Past:
    """The keys and values of the prefixes that the rows continue, from an earlier pass.

    Rows with the same prefix share it, so each distinct prefix was run once. The prefixes are padded on the right.

    Args:
        calls: the keys and values `[prefix, group, token, dim]` of every attention call, in order, without graph.
        owner: for each row, the index of its prefix in `calls`.
        lengths: for each row, the number of real tokens of this prefix.
    """

    calls: tuple[tuple[Tensor, Tensor], ...]
    owner: Int[Tensor, "row"]
    lengths: Int[Tensor, "row"]

    @property
    def num_tokens(self) -> int:
        """The number of tokens of the prefixes with their padding."""
        return self.calls[0][0].shape[2]


@dataclass
class AttentionTrace:
    """What was recorded about the calls of the frozen attention in one forward pass.

    Args:
        keep: the attention module whose call is kept; None keeps no call.
        record: whether the keys and values of every call are collected, for the `Past` of another pass.
        past: the keys and values of the tokens before the rows; None if the rows start at position 0.
        called: the attention modules that called the frozen attention.
        kept: the call of the module `keep`.
        recorded: the collected keys and values of every call.
        num_continued: how many calls used `past`.
        entropies: the attention modules whose attention entropies are collected. For each of them, the entropies
            `[batch, row]` of successive blocks of query positions.
    """

    keep: nn.Module | None = None
    record: bool = False
    past: Past | None = None
    called: set[nn.Module] = field(default_factory=set)
    kept: AttentionCall | None = None
    recorded: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    num_continued: int = 0
    entropies: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    @property
    def continued(self) -> bool:
        """Whether the attention of every layer used the keys and values in `past`.

        A call does not use them if its attention mask covers only the new tokens. The property is then False. It is
        also False if there is no `past`.
        """
        return self.past is not None and self.num_continued == len(self.past.calls)


_TRACE: ContextVar[AttentionTrace | None] = ContextVar("antiphase_attention_trace", default=None)


@contextlib.contextmanager
def tracing(
    keep: nn.Module | None = None,
    *,
    record: bool = False,
    past: Past | None = None,
    entropies_of: Iterable[nn.Module] = (),
) -> Iterator[AttentionTrace]:
    """Record the calls of the frozen attention inside the block.

    The arguments are those of `AttentionTrace`; `entropies_of` names the modules in its `entropies`.
    """
    trace = AttentionTrace(keep, record, past, entropies={module: [] for module in entropies_of})
    token = _TRACE.set(trace)
    try:
        yield trace
    finally:
        _TRACE.reset(token)


def attention_weights(
    call: AttentionCall, rows: Tensor, num_keys: int
) -> tuple[Float[Tensor, "batch group share row key"], Float[Tensor, "batch group share row key"] | None]:
    """Return the attention weights of some query positions over the first `num_keys` keys, and the softcap's slope.

    A model with a softcap c bounds each attention score x, before the softmax, by c·tanh(x/c). The softcap's slope is
    the derivative of this bounded score with respect to x, 1 − tanh²(x/c).

    Args:
        call: the arguments of the attention, which are used without their graph.
        rows: the query positions: `[row]` if they are the same for the whole batch, else `[batch, row]`.
        num_keys: the number of keys. Every query position must be below it.

    Returns:
        The weights and the slope (None without a softcap), in float32 or wider. The axis `share` counts the query
        heads that share the keys and values of a group.
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
    """Return the scores with a very low value where a query must not see a key; the mask None means causal."""
    batch, groups, share, num_rows, num_keys = scores.shape
    # The value is finfo.min and not −inf. A row that sees no key then stays finite, and no NaN reaches later layers.
    lowest = torch.finfo(scores.dtype).min
    if mask is None:
        columns = torch.arange(num_keys, device=rows.device)
        return scores.masked_fill((columns > rows[:, :, None])[:, None, None], lowest)
    mask = mask[..., :num_keys].expand(batch, -1, -1, -1)
    mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys))
    # There is one mask for all heads, or one mask for each head.
    mask = mask.unsqueeze(2) if mask.shape[1] == 1 else mask.view(batch, groups, share, num_rows, num_keys)
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, lowest)
    return (scores + mask).clamp_min(lowest)


def _blocks(call: AttentionCall) -> Iterator[slice]:
    """Return blocks of query positions.

    They are Python numbers. If they were on the device, the CPU would wait for the device at every block.
    """
    batch, heads, length, _ = call.query.shape
    most = _BLOCK_ELEMENTS * (_GPU_TIMES if call.query.device.type == "cuda" else 1)
    size = max(1, min(length, most // max(1, batch * heads * call.key.shape[2])))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _numbers(rows: slice, like: Tensor) -> Tensor:
    """Return the numbers from `rows.start` to `rows.stop` − 1 as a tensor on the device of `like`."""
    return torch.arange(rows.start, rows.stop, device=like.device)


def _joined(past: Tensor | None, owner: Tensor | None, here: Tensor) -> Tensor:
    """Return the keys or values of whole rows: those of each row's prefix, followed by the row's own."""
    if past is None or owner is None:
        return here
    return torch.cat([past.index_select(0, owner.to(past.device)), here], dim=2)


class _FrozenAttention(torch.autograd.Function):
    """The forward and backward pass of the frozen attention, by the equations at the top of this module."""

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
        whole_key, whole_value = _joined(past_key, owner, key), _joined(past_value, owner, value)
        call = AttentionCall(query, whole_key, whole_value, mask, scaling, softcap)
        before = whole_key.shape[2] - key.shape[2]
        outputs = []
        for rows in _blocks(call):
            seen = before + rows.stop
            weights, _ = attention_weights(call, _numbers(rows, query), seen)
            if entropies is not None:
                entropies.append(mean_over_heads(weights))
            batch, groups, share, num, _ = weights.shape
            flat = weights.to(value.dtype).reshape(batch, groups, share * num, seen)
            outputs.append((flat @ whole_value[:, :, :seen]).reshape(batch, groups * share, num, -1))
        output = torch.cat(outputs, dim=2)
        # The past is saved once for each prefix. The backward pass joins it to the rows again.
        ctx.save_for_backward(query, key, value, mask, output, past_key, past_value, owner)
        ctx.scaling, ctx.softcap = scaling, softcap
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, output, past_key, past_value, owner = ctx.saved_tensors
        whole_key, whole_value = _joined(past_key, owner, key), _joined(past_value, owner, value)
        call = AttentionCall(query, whole_key, whole_value, mask, ctx.scaling, ctx.softcap)
        before, groups = whole_key.shape[2] - key.shape[2], key.shape[1]
        d_query, d_key, d_value = [], [], []
        for rows in _blocks(call):
            first, seen = before + rows.start, before + rows.stop
            weights, slope = attention_weights(call, _numbers(rows, query), seen)
            batch, _, share, num, _ = weights.shape
            d_out = grads[0][:, :, rows].reshape(batch, groups, share, num, -1)
            flat = d_out.reshape(batch, groups, share * num, -1)
            gain = (flat @ whole_value[:, :, :seen].mT).view_as(weights)
            # ⟨do, o⟩ is computed as Σ α ⟨do, v⟩, so that rounding errors cancel if one weight is near 1.
            gain = weights * (gain - (weights * gain).sum(-1, keepdim=True))
            gain = (gain if slope is None else gain * slope) * ctx.scaling
            flat_gain = gain.to(key.dtype).reshape(batch, groups, share * num, seen)
            d_query.append((flat_gain @ whole_key[:, :, :seen]).reshape(batch, groups * share, num, -1))
            own_weight = weights.diagonal(first, -2, -1).unsqueeze(-1)
            # v − o is computed before the product, since it is small if α_ii is near 1: a later difference loses
            # digits.
            apart = value[:, :, rows].unsqueeze(2) - output[:, :, rows].view_as(d_out)
            own_gain = own_weight * (d_out * apart).sum(-1, keepdim=True) * ctx.scaling
            if slope is not None:
                own_gain = own_gain * slope.diagonal(first, -2, -1).unsqueeze(-1)
            q_rows = query[:, :, rows].reshape(batch, groups, share, num, -1)
            d_key.append((own_gain * q_rows).sum(2).to(key.dtype))
            d_value.append((own_weight * d_out).sum(2).to(value.dtype))
        return torch.cat(d_query, 2), torch.cat(d_key, 2), torch.cat(d_value, 2), *(None,) * 7


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
    """Compute the frozen attention, with the arguments that transformers gives to an attention function."""
    _check_call(module, query, key, attention_mask, extras)
    trace = _TRACE.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    past = None if trace is None else _past_of_call(trace, key, attention_mask)
    output: Tensor = _FrozenAttention.apply(  # type: ignore[no-untyped-call]
        query,
        key,
        value,
        attention_mask,
        scale,
        softcap,
        *(past or (None, None, None)),
        None if trace is None else trace.entropies.get(module),
    )
    output = output.transpose(1, 2).contiguous()
    if trace is not None:
        trace.called.add(module)
        if trace.record:
            trace.recorded.append((key.detach(), value.detach()))
        if module is trace.keep:
            if trace.kept is not None:
                raise UnsupportedModelError(
                    f"{type(module).__name__} attends twice in one forward pass, which the estimator 'last' does not "
                    "differentiate. Use the estimator 'own' or 'full'."
                )
            trace.kept = AttentionCall(query, key, value, attention_mask, scale, softcap, output)
    return output, None


def _check_call(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, extras: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError if a module calls the attention in a way that has no formula here."""
    if mask is not None and mask.requires_grad:
        raise UnsupportedModelError(
            f"{type(module).__name__} computes its attention mask from the hidden states, and the estimators 'own' "
            "and 'last' do not differentiate this mask. Use the estimator 'full'."
        )
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


def _past_of_call(trace: AttentionTrace, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return (keys, values, owners) of the tokens before a call's rows, and count the call as continued.

    The result is None if there are no such tokens, or if the mask of the call does not cover them.
    """
    past = trace.past
    if past is None or mask is None or mask.shape[-1] != past.num_tokens + key.shape[2]:
        return None
    past_key, past_value = past.calls[trace.num_continued]
    trace.num_continued += 1
    return past_key, past_value, past.owner


def _frozen_mask(**options: Any) -> Tensor | None:
    """Return the mask that transformers makes for sdpa attention.

    If the rows continue prefixes, the mask also covers the prefixes. The model's masking rule is then evaluated at the
    positions that the tokens have in whole rows.
    """
    trace = _TRACE.get()
    past = None if trace is None else trace.past
    if past is None:
        return cast("Tensor | None", sdpa_mask(**options))
    rule, before = options["mask_function"], past.num_tokens
    lengths = past.lengths.to(options["device"])

    def whole(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        here = lengths[row]
        place = torch.where(key < before, key, key - before + here)
        return cast(Tensor, rule(row, head, query + here, place)) & ((key >= before) | (key < here))

    shifted = {"mask_function": whole, "q_offset": 0, "kv_offset": 0, "kv_length": before + options["q_length"]}
    return cast(Tensor, sdpa_mask(**{**options, **shifted, "attention_mask": None, "allow_is_causal_skip": False}))


def register() -> None:
    """Register the frozen attention with transformers.

    A mask function is registered too, since transformers would otherwise ignore padding.
    """
    AttentionInterface.register(FROZEN, _frozen_attention)
    AttentionMaskInterface.register(FROZEN, _frozen_mask)
