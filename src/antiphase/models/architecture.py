"""Find the attention projections (Q, K, V and O) and the backbone of a causal language model.

`layouts` finds the projections of each attention module. Layers without softmax attention are listed too, so that a
measurement of all layers can say what it leaves out. Nothing here changes a model or runs it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.layouts import LAYOUTS, Projection, match
from antiphase.signal_spec import PROJECTIONS, ProjectionName


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module and its projections.

    Args:
        index: the number of the layer among all layers of the decoder, counted from 0.
        name: the name of the attention module in the decoder.
        module: the attention module.
        projections: a mapping from the names `Q`, `K`, `V` and `O` to the projections. A layer that reuses the keys
            and values of another layer has neither K nor V. A layer in which one weight computes keys and values has
            no V.
    """

    index: int
    name: str
    module: nn.Module
    projections: Mapping[ProjectionName, Projection]


@dataclass(frozen=True)
class DecoderLayers:
    """All layers of a text decoder: those with softmax attention, and those without.

    Args:
        attention: the layers with softmax attention, in order.
        num_layers: the number of all layers.
        others: a mapping from the number of each other layer to its kind, such as `linear_attention` or `conv`.
    """

    attention: tuple[AttentionLayer, ...]
    num_layers: int
    others: Mapping[int, str]


def modules_of(layers: Sequence[AttentionLayer], names: Sequence[ProjectionName]) -> list[nn.Module]:
    """Return the modules that compute the projections `names` of some layers, in the order of the layers.

    A module that computes several of these projections occurs only once in the result.
    """
    found = (layer.projections[name].module for layer in layers for name in names if name in layer.projections)
    return list(dict.fromkeys(found))


def unwrap(model: nn.Module) -> nn.Module:
    """Return the Hugging Face model inside the wrappers of `torch.compile` and PEFT.

    A model without such a wrapper is returned itself.

    The returned model has the same weight tensors, and adapters on the weights, such as LoRA, stay active. It runs
    without the compiled code, since a compiled graph would hide the layers from a measurement.

    Raises:
        UnsupportedModelError: an adapter adds virtual tokens to the prompt. The returned model would not see them.
    """
    dynamo, peft = (sys.modules.get(name) for name in ("torch._dynamo", "peft"))
    if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
        return unwrap(cast(nn.Module, model._orig_mod))
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise UnsupportedModelError(
            "this adapter learns a prompt: it adds virtual tokens, which a measurement of the inner model would miss. "
            "Use an adapter that changes the weights, such as LoRA, or a merged model."
        )
    return unwrap(cast(nn.Module, model.get_base_model()))


def backbone(model: nn.Module) -> nn.Module:
    """Return the part of a causal LM that computes the final hidden states, without the output head.

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
    """Return the normalisation modules of the decoder that are outside its layers, such as the final one."""
    found = []
    for name, module in backbone(model).named_modules():
        inside = any(part.isdecimal() for part in name.split("."))
        if not inside and "norm" in type(module).__name__.lower():
            found.append(module)
    return found


def find_attention(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Return the attention layers of the text decoder, in order.

    Raises:
        UnsupportedModelError: antiphase does not know the attention projections of some layer, or two layers have the
            same weights.
    """
    return find_layers(model).attention


def find_layers(model: nn.Module) -> DecoderLayers:
    """Return all layers of the text decoder.

    Layers of linear attention, convolution layers and state-space layers have no attention weights between positions.
    So they are not measured, even if they have modules with names such as `q_proj`.

    Raises:
        UnsupportedModelError: the attention of some or all layers follows no known layout, or two layers have the same
            weights. The message says what was found.
    """
    model = unwrap(model)
    decoder, config = backbone(model), cast(Any, model).config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ())
    found = []
    for name, module in decoder.named_modules(remove_duplicate=False):
        number = _number(name)
        if number is not None and number < len(kinds) and kinds[number] in _WITHOUT_ATTENTION:
            continue
        projections = match(module, config)
        if projections is not None:
            found.append((number, name, module, projections))
    if not found:
        raise UnsupportedModelError(
            f"{_named(model)} has no attention projections that antiphase knows. Looked for {LAYOUTS}; found the "
            f"modules {', '.join(_leaves(decoder)[:12])}."
        )
    numbers = [number for number, *_ in found]
    stack = _stack(decoder, found[0][1])
    if None in numbers or len(set(numbers)) < len(numbers) or stack is None:
        # The names do not say which layer is which, so the attention modules are counted.
        layers = tuple(AttentionLayer(index, *rest) for index, (_, *rest) in enumerate(found))
        number_of_layers, others = len(layers), {}
    else:
        layers = tuple(AttentionLayer(cast(int, number), *rest) for number, *rest in found)
        number_of_layers = len(stack)
        others = {n: _kind(model, n, stack[n], kinds) for n in range(number_of_layers) if n not in numbers}
    _check_weights(model, layers)
    return DecoderLayers(layers, number_of_layers, others)


def left_out(model: nn.Module) -> dict[str, Any] | None:
    """Return which layers and projections of a model cannot be measured, ready for JSON; None if all can be.

    Returns:
        A mapping with three keys. `num_layers` is the number of all layers. `without_attention` maps each kind of
        layer without softmax attention to the indices of these layers. `without_projection` maps a projection to the
        indices of the attention layers that lack it.
    """
    found = find_layers(model)
    kinds: dict[str, list[int]] = {}
    for number, kind in found.others.items():
        kinds.setdefault(kind, []).append(number)
    absent = {
        name: numbers
        for name in PROJECTIONS
        if (numbers := [layer.index for layer in found.attention if name not in layer.projections])
    }
    if not kinds and not absent:
        return None
    return {"num_layers": found.num_layers, "without_attention": kinds, "without_projection": absent}


# The kinds of layers, in the words of transformers' configurations, that have no attention weights between positions.
_WITHOUT_ATTENTION = ("linear_attention", "conv", "mamba", "recurrent", "moe", "mlp")


def _number(name: str) -> int | None:
    """Return the layer number in the name of a module, such as 7 in `layers.7.self_attn`; None without a number."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _stack(decoder: nn.Module, name: str) -> nn.ModuleList | None:
    """Return the `ModuleList` of layers to which the module with this name belongs; None if it belongs to none."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    stack = None if place is None else decoder.get_submodule(".".join(parts[:place]))
    return stack if isinstance(stack, nn.ModuleList) else None


def _kind(model: nn.Module, number: int, layer: nn.Module, kinds: Sequence[str]) -> str:
    """Return the kind of a layer in which no attention was found, such as `linear_attention` or `conv`.

    Args:
        model: the model, for the error message.
        number: the index of the layer.
        layer: the layer.
        kinds: the kinds of all layers, as the model's configuration names them; empty if it names none.

    Raises:
        UnsupportedModelError: the layer has attention that antiphase does not know, so a measurement would leave out
            this layer.
    """
    kind = kinds[number] if number < len(kinds) else None
    if kind in _WITHOUT_ATTENTION:
        return kind
    attention = [type(module).__name__ for module in layer.modules() if "Attention" in type(module).__name__]
    if kind is not None or attention:
        raise UnsupportedModelError(
            f"{_named(model)}: the attention of layer {number} ({kind or attention[0]}) has no projections that "
            f"antiphase knows, so a part of the layers would be missing. Looked for {LAYOUTS}; found the modules "
            f"{', '.join(_leaves(layer)[:12])}."
        )
    return type(layer).__name__


def _leaves(module: nn.Module) -> list[str]:
    """Return the sorted names of all submodules that have no submodules themselves, such as `q_proj`."""
    return sorted({name.rsplit(".", 1)[-1] for name, m in module.named_modules() if not list(m.children())})


def _check_weights(model: nn.Module, layers: Sequence[AttentionLayer]) -> None:
    """Raise UnsupportedModelError if two projection modules have the same weight.

    The gradient at a shared weight is the sum over both modules, but the estimators measure each module on its own.
    """
    owners: dict[int, AttentionLayer] = {}
    for layer in layers:
        own = {id(weight) for module in modules_of([layer], PROJECTIONS) for weight in module.parameters()}
        for weight in own & owners.keys():
            raise UnsupportedModelError(
                f"{_named(model)}: the layers {owners[weight].index} and {layer.index} have the same attention "
                "weights. antiphase does not measure weights that several layers share."
            )
        owners |= dict.fromkeys(own, layer)


def rope_switch(config: Any) -> tuple[str, int] | None:
    """Return (kind, length) if the model changes its rotary frequencies (RoPE) for inputs longer than `length`.

    Return None if the frequencies never change. The kind `longrope` has one set of frequencies up to this length, and
    another set for longer inputs. The kind `dynamic` computes new frequencies for every longer input.
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
    """Return a text that names the type and the class of a model, for messages."""
    return f"model type {cast(Any, model).config.model_type!r} ({type(model).__name__})"
