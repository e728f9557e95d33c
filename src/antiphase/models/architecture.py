"""Find the attention projections (Q, K, V and O) and the backbone of a causal language model.

The projections are found by the names of the submodules of each attention module. So a new architecture works if its
names follow a known layout. Nothing here changes a model or runs it.
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
    """One of the attention projections Q, K, V and O.

    Args:
        module: the module that computes the projection. A fused module (`qkv_proj`, `c_attn`) computes three of them.
        features: the indices of the module's output features that belong to this projection; None means all.
    """

    module: nn.Module
    features: Tensor | None = None

    def select(self, output: Tensor) -> Tensor:
        """Return the columns of the module's output that belong to this projection, `[..., features]`."""
        return output if self.features is None else output.index_select(-1, self.features.to(output.device))


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module and its four projections.

    Args:
        index: the number of the layer, counted from 0.
        name: the name of the attention module in the decoder.
        module: the attention module.
        projections: the projections Q, K, V and O by name.
    """

    index: int
    name: str
    module: nn.Module
    projections: Mapping[ProjectionName, Projection]


def modules_of(layers: Sequence[AttentionLayer], names: Sequence[ProjectionName]) -> list[nn.Module]:
    """Return the modules that compute the named projections of some layers, in order and each once."""
    return list(dict.fromkeys(layer.projections[name].module for layer in layers for name in names))


def unwrap(model: nn.Module) -> nn.Module:
    """Return the Hugging Face model inside a PEFT wrapper, or the model itself if it has no such wrapper.

    Adapters on the weights, such as LoRA, stay active.

    Raises:
        UnsupportedModelError: an adapter adds virtual tokens to the prompt, which the inner model would not see.
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
    """Return the part of a causal LM before its output head. It computes the final hidden states.

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
        raise UnsupportedModelError(f"{_named(model)} has no language-model head that is separate from its backbone.")
    return cast(nn.Module, model.get_decoder())


def outer_norms(model: nn.Module) -> list[nn.Module]:
    """Return the normalisation modules of the decoder that stand outside its layers, such as the last norm."""
    found = []
    for name, module in backbone(model).named_modules():
        inside = any(part.isdecimal() for part in name.split("."))
        if not inside and "norm" in type(module).__name__.lower():
            found.append(module)
    return found


def find_attention(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Return the attention layers of the text decoder, in order.

    Raises:
        UnsupportedModelError: no module follows a known layout. The message lists the known layouts and the names of
            the modules that the model has.
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
    """Return (number of query heads, number of key/value heads, head dimension) from a model's configuration.

    A configuration may omit the last two.
    """
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return heads, groups, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def rope_switch(config: Any) -> tuple[str, int] | None:
    """Return (kind, length) if the rotary frequencies change for inputs longer than `length`; else None.

    The kind `longrope` has one set of frequencies up to this length, and another set beyond it. The kind `dynamic`
    computes new frequencies for every longer input.
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
    """Return how messages name a model: by its type and its class."""
    return f"model type {cast(Any, model).config.model_type!r} ({type(model).__name__})"


_Match = dict[ProjectionName, Projection] | None
_Children = Mapping[str, nn.Module]


# Each of the following rules gets the submodules of one attention module by name, and the model's configuration. It
# returns the four projections, or None if the submodules do not follow its layout.


def _separate(children: _Children, config: Any) -> _Match:
    """Match q_proj, k_proj, v_proj and an output projection in separate modules."""
    output = next((children[name] for name in _OUTPUT_NAMES if name in children), None)
    if output is None or not {"q_proj", "k_proj", "v_proj"} <= children.keys():
        return None
    modules = (children["q_proj"], children["k_proj"], children["v_proj"], output)
    return {name: Projection(m) for name, m in zip(PROJECTIONS, modules, strict=True)}


def _fused(fused: nn.Module, output: nn.Module, *features: Tensor) -> _Match:
    """Return the projections of a fused module; `features` are the output features of Q, K and V."""
    q, k, v = (Projection(fused, f) for f in features)
    return {"Q": q, "K": k, "V": v, "O": Projection(output)}


def _qkv_proj(children: _Children, config: Any) -> _Match:
    """Match a fused qkv_proj, whose output features are Q, then K, then V."""
    if not {"qkv_proj", "o_proj"} <= children.keys():
        return None
    heads, groups, dim = _head_counts(config)
    parts = torch.arange((heads + 2 * groups) * dim).split([heads * dim, groups * dim, groups * dim])
    return _fused(children["qkv_proj"], children["o_proj"], *parts)


def _gpt2(children: _Children, config: Any) -> _Match:
    """Match the fused c_attn of GPT-2, whose output features are Q, then K, then V."""
    if not {"c_attn", "c_proj"} <= children.keys() or config.model_type not in ("gpt2", "openai-gpt"):
        return None
    parts = torch.arange(3 * int(config.hidden_size)).chunk(3)
    return _fused(children["c_attn"], children["c_proj"], *parts)


def _neox(children: _Children, config: Any) -> _Match:
    """Match the fused query_key_value of GPT-NeoX."""
    if not {"query_key_value", "dense"} <= children.keys() or config.model_type != "gpt_neox":
        return None
    heads, _, dim = _head_counts(config)
    # The output features are ordered by heads: q, k and v of head 0, then q, k and v of head 1, and so on.
    parts = torch.arange(3 * heads * dim).view(heads, 3, dim)
    return _fused(children["query_key_value"], children["dense"], *(parts[:, i].flatten() for i in range(3)))


_RULES: tuple[Callable[[_Children, Any], _Match], ...] = (_separate, _qkv_proj, _gpt2, _neox)


def _match(module: nn.Module, config: Any) -> _Match:
    """Return the projections of an attention module by the first rule that matches; None for any other module."""
    children = dict(module.named_children())
    return next((found for rule in _RULES if (found := rule(children, config)) is not None), None)
