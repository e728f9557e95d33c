"""The frozen attention: causal attention whose backward pass treats other positions as constants.

The forward pass is ordinary softmax attention. In the backward pass the keys and values of *other* positions are
constants. So one backward pass of Σ_i z_i, the sum of all targets, gives the own-position term of the gradient at
every position (`own`). The gradient of the queries is the ordinary one, since a query affects only its own output.

Let α be the attention weights, o the outputs, q, k and v the queries, keys and values, s the scale, and c' the slope
of the softcap (1 without a softcap). A d before a letter means the gradient at it. For k and v, the gradients are
summed over the query heads of a group:

    dq_i = s Σ_t α_it c'_it ⟨do_i, v_t − o_i⟩ k_t      dv_i = α_ii do_i      dk_i = s α_ii c'_ii ⟨do_i, v_i − o_i⟩ q_i

These gradients are computed in blocks of query positions by `antiphase.signals.attention_blocks`.

A pass can start in the middle of its rows. The keys and values of the positions before the start then come from an
earlier pass (`Past`), and the model's mask is evaluated at the real positions.

The frozen attention is switched on through transformers' AttentionInterface. A trace records which modules called the
frozen attention. So a model that does not use the interface is refused, instead of being measured wrongly.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from antiphase.errors import UnsupportedModelError
from antiphase.signals.attention_blocks import AttentionCall, FrozenAttention

FROZEN = "antiphase_frozen"


@dataclass(frozen=True)
class Past:
    """The keys and values of prefixes, from an earlier pass. The rows of this pass continue the prefixes.

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
        """The length of the longest prefix. The others are padded to this length."""
        return self.calls[0][0].shape[2]


@dataclass
class AttentionTrace:
    """What was recorded about the calls of the frozen attention in one forward pass.

    The frozen attention is causal attention whose backward pass treats other positions as constants. The first three
    fields are set before the forward pass, which fills the other fields.

    Args:
        keep: the attention module whose call is kept in `kept`; None keeps no call.
        record: whether the keys and values of every call are collected in `recorded`. The `Past` of another pass needs
            them.
        past: the keys and values of the tokens that come before each row (its prefix); None if the rows have no
            prefixes.
        called: the attention modules that called the frozen attention.
        kept: the arguments and the output of the call of the module `keep`.
        recorded: the keys and values of every call, in order; empty unless `record` is true.
        num_continued: the number of calls that used `past`.
        entropies: a mapping from attention modules to the entropies `[batch, token]` of their attention weights, one
            tensor for each call. Its keys are set before the forward pass. The entropies of other modules are not
            recorded.
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
    """Record the calls of the frozen attention inside a `with` block, and yield the records.

    `AttentionTrace` explains the first three arguments. `entropies_of` are the attention modules whose attention
    entropies are recorded.
    """
    trace = AttentionTrace(keep, record, past, entropies={module: [] for module in entropies_of})
    token = _TRACE.set(trace)
    try:
        yield trace
    finally:
        _TRACE.reset(token)


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
    """Return the outputs of the frozen attention, `[batch, token, head, vdim]`, and None for the attention weights.

    transformers calls this function in place of the model's own attention, and gives it these arguments.
    """
    _check_call(module, query, key, attention_mask, extras)
    trace = _TRACE.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    past = None if trace is None else _past_of_call(trace, key, attention_mask)
    output: Tensor = FrozenAttention.apply(  # type: ignore[no-untyped-call]
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
    """Raise UnsupportedModelError if a module attends in a way whose gradient the frozen attention cannot compute."""
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
    """Return (keys, values, owner) of the prefixes for one attention call, and count the call in `num_continued`.

    A prefix is the tokens before a row, which an earlier pass has run. `owner` is the index of each row's prefix. The
    result is None if the rows have no prefix, or if the mask of the call does not cover the prefixes.
    """
    past = trace.past
    if past is None or mask is None or mask.shape[-1] != past.num_tokens + key.shape[2]:
        return None
    past_key, past_value = past.calls[trace.num_continued]
    trace.num_continued += 1
    return past_key, past_value, past.owner


def _frozen_mask(**options: Any) -> Tensor | None:
    """Return the attention mask that transformers makes for its attention implementation `sdpa`.

    If an earlier pass has run the prefixes of the rows (their first tokens), the mask also covers the prefixes. The
    model's masking rule is then evaluated at the positions that the tokens have in whole rows.
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
