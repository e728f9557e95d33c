"""Put a saved adapter, such as LoRA, on a loaded model.

The adapter is not merged into the weights: peft adds its term in every forward pass. The measured numbers equal those
of a model with a merged adapter, up to rounding.
"""

import importlib.util
from pathlib import Path
from typing import Any, cast

from torch import nn

from antiphase.errors import MissingExtraError, ModelNotFoundError, UnsupportedModelError, first_line
from antiphase.models.placement import adding_modules
from antiphase.models.saved import ADAPTER_CONFIG, ADAPTER_WEIGHTS, has_weights, is_adapter


def check_adapter(adapter: str) -> Any:
    """Check that an adapter can be loaded, without reading its weights, and return its configuration.

    Args:
        adapter: a local directory or a hub id.

    Raises:
        MissingExtraError: peft is not installed.
        ModelNotFoundError: there is no such adapter, its configuration is damaged, or it has no weights.
        UnsupportedModelError: the adapter does not change weights, but learns a prompt (virtual tokens).
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "train", "loading an adapter")
    path = Path(adapter)
    if path.exists() and not is_adapter(path):
        raise ModelNotFoundError(f"{adapter!r} is no saved adapter: it has no {ADAPTER_CONFIG}.")
    if path.exists() and not has_weights(path):
        raise ModelNotFoundError(f"the adapter {adapter!r} has no weights ({ADAPTER_WEIGHTS}).")
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = "is no local directory, and it could not be read from the hub" if not path.exists() else "is damaged"
        raise ModelNotFoundError(f"the adapter {adapter!r} {where} ({first_line(error)}).") from error
    if config.is_prompt_learning:
        raise UnsupportedModelError(
            f"the adapter {adapter!r} learns a prompt: it adds virtual tokens, which a measurement would miss. Use an "
            "adapter that changes the weights, such as LoRA."
        )
    return config


def add_adapter(name: str, model: nn.Module, adapter: str) -> None:
    """Load an adapter into a model. The model is changed in place.

    Args:
        name: the name of the model in messages.
        model: a Hugging Face causal LM without adapter.
        adapter: a local directory or a hub id.

    Raises:
        ModelNotFoundError: the adapter does not fit the model, or its weights cannot be loaded.
    """
    try:
        with adding_modules(model):
            info = cast(Any, model).load_adapter(adapter, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise _unfit(name, adapter, first_line(error)) from error
    for fault, keys in (("lacks the weight", info.missing_keys), ("has the unknown weight", info.unexpected_keys)):
        if keys:
            raise _unfit(name, adapter, f"it {fault} {min(keys)}")


def _unfit(name: str, adapter: str, why: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"the adapter {adapter!r} does not fit the model {name!r} ({why}).")
