"""Find the attention projections and the backbone of a causal LM.

Rules on the names of each attention module's children find them, so an architecture that is not listed works if it
follows a known layout. Nothing here changes a model or runs it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.signal_spec import PROJECTIONS, ProjectionName

_OUTPUT_NAMES = ("o_proj", "out_proj", "dense")
_LAYOUTS = (
    f"q_proj + k_proj + v_proj + {'|'.join(_OUTPUT_NAMES)}, qkv_proj + o_proj, "
    "query_key_value + dense (GPT-NeoX), c_attn + c_proj (GPT-2)"
)


@dataclass(frozen=True)
class Projection:
    """One of Q, K, V and O: a module, and the output features of it that belong to the projection (None means all).

    A fused module (`qkv_proj`, `c_attn`) holds three projections, each with its own `features`.
    """

    module: nn.Module
    features: Tensor | None = None

    def select(self, output: Tensor) -> Tensor:
        """The projection's columns of the module's output, `[..., features]`."""
        return output if self.features is None else output.index_select(-1, self.features.to(output.device))


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module and its four projections."""

    index: int
    name: str
    module: nn.Module
    projections: Mapping[ProjectionName, Projection]


def modules_of(layers: Sequence[AttentionLayer], names: Sequence[ProjectionName]) -> list[nn.Module]:
    """The distinct modules that hold the named projections of some layers, in order."""
    return list(dict.fromkeys(layer.projections[name].module for layer in layers for name in names))


def unwrap(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside a PEFT wrapper (adapters stay active), or the model itself.

    Raises:
        UnsupportedModelError: an adapter adds virtual tokens, which the inner model would not see.
    """
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise UnsupportedModelError(
            "this adapter learns a prompt: it adds virtual tokens, which a measurement of the inner model would miss. "
            "Use an adapter that changes the weights, such as LoRA, or a merged model."
        )
    return cast(nn.Module, model.get_base_model())


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal LM before the head; its output is the final hidden states.

    Raises:
        UnsupportedModelError: the model is not a Hugging Face causal LM with a separate head.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"expected a Hugging Face causal LM (PreTrainedModel); got {type(model).__name__}. Load it with "
            "AutoModelForCausalLM.from_pretrained."
        )
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{_named(model)} is an encoder-decoder; antiphase measures decoder-only models.")
    if model.get_output_embeddings() is None or model.base_model is model:
        raise UnsupportedModelError(f"{_named(model)} has no language-model head on a backbone.")
    return cast(nn.Module, model.get_decoder())


def outer_norms(model: nn.Module) -> list[nn.Module]:
    """The normalisation modules of the decoder outside its list of layers, which include the last norm."""
    found = []
    for name, module in backbone(model).named_modules():
        inside = any(part.isdecimal() for part in name.split("."))
        if not inside and "norm" in type(module).__name__.lower():
            found.append(module)
    return found


def find_attention(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """The attention layers of the text decoder, in order.

    Raises:
        UnsupportedModelError: no module follows a known layout. The message says what was looked for and found.
    """
    model = unwrap(model)
    decoder = backbone(model)
    layers: list[AttentionLayer] = []
    for name, module in decoder.named_modules():
        projections = _match(module, cast(Any, model).config.get_text_config())
        if projections is not None:
            layers.append(AttentionLayer(len(layers), name, module, projections))
    if not layers:
        found = sorted({name.rsplit(".", 1)[-1] for name, m in decoder.named_modules() if not list(m.children())})
        raise UnsupportedModelError(
            f"{_named(model)} has no attention projections that antiphase knows. Looked for {_LAYOUTS}; found the "
            f"modules {', '.join(found[:12])}."
        )
    return tuple(layers)


def _head_counts(config: Any) -> tuple[int, int, int]:
    """(query heads, key/value heads, head dimension). A configuration may omit the last two."""
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return heads, groups, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def rope_switch(config: Any) -> tuple[str, int] | None:
    """(kind, length) if the rotary frequencies depend on a batch's length and change beyond `length`; else None.

    `longrope` has one set of frequencies up to the length and another beyond it. `dynamic` changes them with every
    longer batch.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for entry in nested or [parameters]:
        kind = str(entry.get("rope_type", "default"))
        if kind == "longrope" or "dynamic" in kind:
            length = entry.get("original_max_position_embeddings") or config.max_position_embeddings
            return ("longrope" if kind == "longrope" else "dynamic"), int(length)
    return None


def _named(model: nn.Module) -> str:
    return f"model type {cast(Any, model).config.model_type!r} ({type(model).__name__})"


_Match = dict[ProjectionName, Projection] | None
_Children = Mapping[str, nn.Module]


def _separate(children: _Children, config: Any) -> _Match:
    output = next((children[name] for name in _OUTPUT_NAMES if name in children), None)
    if output is None or not {"q_proj", "k_proj", "v_proj"} <= children.keys():
        return None
    modules = (children["q_proj"], children["k_proj"], children["v_proj"], output)
    return {name: Projection(m) for name, m in zip(PROJECTIONS, modules, strict=True)}


def _fused(fused: nn.Module, output: nn.Module, *features: Tensor) -> _Match:
    q, k, v = (Projection(fused, f) for f in features)
    return {"Q": q, "K": k, "V": v, "O": Projection(output)}


def _qkv_proj(children: _Children, config: Any) -> _Match:
    if not {"qkv_proj", "o_proj"} <= children.keys():
        return None
    heads, groups, dim = _head_counts(config)
    parts = torch.arange((heads + 2 * groups) * dim).split([heads * dim, groups * dim, groups * dim])
    return _fused(children["qkv_proj"], children["o_proj"], *parts)


def _gpt2(children: _Children, config: Any) -> _Match:
    if not {"c_attn", "c_proj"} <= children.keys() or config.model_type not in ("gpt2", "openai-gpt"):
        return None
    parts = torch.arange(3 * int(config.hidden_size)).chunk(3)
    return _fused(children["c_attn"], children["c_proj"], *parts)


def _neox(children: _Children, config: Any) -> _Match:
    if not {"query_key_value", "dense"} <= children.keys() or config.model_type != "gpt_neox":
        return None
    heads, _, dim = _head_counts(config)
    # The rows are ordered by heads: q, k, v of head 0, then of head 1, and so on.
    parts = torch.arange(3 * heads * dim).view(heads, 3, dim)
    return _fused(children["query_key_value"], children["dense"], *(parts[:, i].flatten() for i in range(3)))


_RULES: tuple[Callable[[_Children, Any], _Match], ...] = (_separate, _qkv_proj, _gpt2, _neox)


def _match(module: nn.Module, config: Any) -> _Match:
    children = dict(module.named_children())
    return next((found for rule in _RULES if (found := rule(children, config)) is not None), None)
