"""The layouts of attention modules: which submodule computes which of the projections Q, K, V and O.

A layout is recognised by the names of the submodules. So a new architecture works if its names follow a known layout.
The functions here look at one attention module; `architecture` finds all of them in a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.signal_spec import ProjectionName

_OUTPUT_NAMES = ("o_proj", "out_proj", "dense")
LAYOUTS = (
    f"q_proj + k_proj + v_proj + {'|'.join(_OUTPUT_NAMES)}, qkv_proj + o_proj, "
    "query_key_value + dense (GPT-NeoX), c_attn + c_proj (GPT-2)"
)
# Model types whose q_proj computes, for each head, the query and then a gate of the same size.
_GATED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text")


@dataclass(frozen=True)
class Projection:
    """One of the attention projections Q, K, V and O.

    Args:
        module: the module that computes the projection. A fused module (`qkv_proj`, `c_attn`) computes Q, K and V
            together.
        features: the indices of the module's output features that belong to this projection; None means all.
    """

    module: nn.Module
    features: Tensor | None = None

    def select(self, output: Tensor) -> Tensor:
        """Return the columns of the module's output that belong to this projection, `[..., features]`."""
        return output if self.features is None else output.index_select(-1, self.features.to(output.device))


def _head_counts(config: Any) -> tuple[int, int, int]:
    """Return (number of query heads, number of key/value heads, head dimension) from a model's configuration.

    If the configuration omits them, there are as many key/value heads as query heads, and the head dimension is the
    hidden size divided by the number of query heads.
    """
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return heads, groups, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


_Match = dict[ProjectionName, Projection] | None
_Children = Mapping[str, nn.Module]


# Each of the following rules gets an attention module, its submodules by name, and the model's configuration. It
# returns the projections that the module has, or None if the submodules do not follow its layout.


def _separate(attention: nn.Module, children: _Children, config: Any) -> _Match:
    """Return the projections of an attention with separate modules q_proj, k_proj, v_proj and an output projection.

    Return None if the attention has no such modules.

    A layer of Gemma 3n or Gemma 4 that reuses the keys and values of an earlier layer has only Q and O. A layer of
    Gemma 4 in which one weight computes keys and values has Q, K and O.
    """
    output = next((children[name] for name in _OUTPUT_NAMES if name in children), None)
    if output is None or "q_proj" not in children:
        return None
    found: dict[ProjectionName, Projection] = {"Q": _query(children["q_proj"], output, config)}
    if not vars(attention).get("is_kv_shared_layer", False):
        if "k_proj" not in children:
            return None
        found["K"] = Projection(children["k_proj"])
        if "v_proj" in children:
            found["V"] = Projection(children["v_proj"])
        elif not getattr(config, "attention_k_eq_v", False):
            return None
    found["O"] = Projection(output)
    return found


def _query(module: nn.Module, output: nn.Module, config: Any) -> Projection:
    """Return the projection Q that `q_proj` computes. If `q_proj` also computes a gate, the gate is left out.

    Our reading: Q is the part of the weight that makes the queries. The gate does not enter the attention weights.

    Raises:
        UnsupportedModelError: `q_proj` has twice as many features as the projection O reads, and antiphase does not
            know what the second half is.
    """
    if config.model_type in _GATED:
        heads, _, dim = _head_counts(config)
        return Projection(module, torch.arange(2 * heads * dim).view(heads, 2, dim)[:, 0].flatten())
    features, read = getattr(module, "out_features", None), getattr(output, "in_features", None)
    if features is not None and read is not None and features == 2 * read:
        raise UnsupportedModelError(
            f"model type {config.model_type!r}: q_proj has {features} features and the O projection reads {read}. "
            "antiphase does not know what the other half of q_proj computes, so it cannot measure Q."
        )
    return Projection(module)


def _fused(fused: nn.Module, output: nn.Module, *features: Tensor) -> _Match:
    """Return the projections of an attention whose Q, K and V are computed by one fused module.

    Args:
        fused: the fused module.
        output: the module of the projection O.
        features: the indices of the fused module's output features that belong to Q, to K and to V.
    """
    q, k, v = (Projection(fused, f) for f in features)
    return {"Q": q, "K": k, "V": v, "O": Projection(output)}


def _qkv_proj(attention: nn.Module, children: _Children, config: Any) -> _Match:
    """Return the projections of an attention with a fused qkv_proj; None if it has none.

    The output features of qkv_proj are those of Q, then K, then V.
    """
    if not {"qkv_proj", "o_proj"} <= children.keys():
        return None
    heads, groups, dim = _head_counts(config)
    parts = torch.arange((heads + 2 * groups) * dim).split([heads * dim, groups * dim, groups * dim])
    return _fused(children["qkv_proj"], children["o_proj"], *parts)


def _gpt2(attention: nn.Module, children: _Children, config: Any) -> _Match:
    """Return the projections of an attention with the fused c_attn of GPT-2; None if it has none.

    The output features of c_attn are those of Q, then K, then V.
    """
    if not {"c_attn", "c_proj"} <= children.keys() or config.model_type not in ("gpt2", "openai-gpt"):
        return None
    parts = torch.arange(3 * int(config.hidden_size)).chunk(3)
    return _fused(children["c_attn"], children["c_proj"], *parts)


def _neox(attention: nn.Module, children: _Children, config: Any) -> _Match:
    """Return the projections of an attention with the fused query_key_value of GPT-NeoX; None if it has none.

    The output features of query_key_value are Q, K and V of the first attention head, then those of the second head,
    and so on.
    """
    if not {"query_key_value", "dense"} <= children.keys() or config.model_type != "gpt_neox":
        return None
    heads, _, dim = _head_counts(config)
    # The output features are ordered by heads: q, k and v of head 0, then q, k and v of head 1, and so on.
    parts = torch.arange(3 * heads * dim).view(heads, 3, dim)
    return _fused(children["query_key_value"], children["dense"], *(parts[:, i].flatten() for i in range(3)))


_RULES: tuple[Callable[[nn.Module, _Children, Any], _Match], ...] = (_separate, _qkv_proj, _gpt2, _neox)


def match(module: nn.Module, config: Any) -> _Match:
    """Return a mapping from the names `Q`, `K`, `V` and `O` to the attention projections of a module.

    The first known layout that fits the names of the submodules is used. Return None if no layout fits.
    """
    children = dict(module.named_children())
    return next((found for rule in _RULES if (found := rule(module, children, config)) is not None), None)
