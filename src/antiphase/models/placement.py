"""Find out on which devices the weights of a model are, and read weights that are on no device.

accelerate spreads the layers of a model over devices by a *device map*. Its hooks move the inputs of every layer to
the layer's device. Weights for which the devices have no room are *offloaded*: they stay in main memory or on disk,
and a hook loads the weights of one module at a time. Between two calls, such a weight is a tensor without numbers (on
the device `meta`). The functions here read its numbers from the place where accelerate keeps them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Home:
    """The place where accelerate keeps an offloaded weight, in main memory or on disk.

    Args:
        values: accelerate's mapping from the names of weights to the weights. A lookup may read a file.
        name: the name of the weight in this mapping.
    """

    values: Any
    name: str

    def read(self) -> Tensor:
        """Read the weight, and return it as a tensor in main memory."""
        return cast(Tensor, self.values[self.name]).detach()


def hooks_of(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks that accelerate has put on a module to move the module's inputs to a device.

    Some of these hooks also load the module's weights to the device. Other hooks of accelerate are left out.
    """
    waiting = [vars(module).get("_hf_hook")]
    while waiting:
        hook = waiting.pop()
        waiting += getattr(hook, "hooks", ())
        if hasattr(hook, "execution_device"):
            yield hook


def offloaded_by(module: nn.Module) -> dict[str, Home]:
    """Return the offloaded weights and buffers that accelerate loads for each call of a module.

    The result maps the name of each of them in the module to the place where accelerate keeps it.
    """
    found: dict[str, Home] = {}
    for hook in hooks_of(module):
        if hook.offload:
            recurse = bool(hook.place_submodules)
            names = [name for name, _ in module.named_parameters(recurse=recurse)]
            if hook.offload_buffers:
                names += [name for name, _ in module.named_buffers(recurse=recurse)]
            found |= {name: Home(hook.weights_map, name) for name in names}
    return found


def _homes(module: nn.Module) -> dict[str, Home]:
    """Return where accelerate keeps each offloaded weight and buffer of a module and all its submodules.

    The keys are the full names, such as `layers.0.mlp.weight`.
    """
    return {
        f"{path}.{name}".lstrip("."): home
        for path, part in module.named_modules()
        for name, home in offloaded_by(part).items()
    }


def is_offloaded(module: nn.Module) -> bool:
    """Return whether a weight of a module, or of a submodule, is offloaded to main memory or to disk."""
    return any(hook.offload for part in module.modules() for hook in hooks_of(part))


def numbers_of(module: nn.Module, name: str = "weight") -> Tensor:
    """Return a weight of a module with its numbers. An offloaded weight is read from main memory or from disk.

    Args:
        module: the module. An adapter of peft may be around it.
        name: the attribute that holds the weight.
    """
    value = cast(Tensor, getattr(module, name))
    if value.is_meta:
        homes = _homes(module)
        # peft keeps the module inside an adapter under the name `base_layer`.
        home = homes.get(name) or homes.get(f"base_layer.{name}")
        value = value if home is None else home.read()
    return value.detach()


def named_weights(model: nn.Module, *, buffers: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the values of every parameter. Offloaded weights are read one after another.

    A weight that two modules share is yielded once.

    Args:
        model: a Hugging Face model.
        buffers: whether the buffers are yielded in place of the parameters.
    """
    homes, tied = _homes(model), getattr(model, "all_tied_weights_keys", None) or {}
    for name, value in model.named_buffers() if buffers else model.named_parameters():
        if not value.is_meta or name not in homes:
            yield name, value.detach()
        elif name not in tied:
            # In place of a weight that two modules share, accelerate puts two tensors without numbers.
            yield name, homes[name].read()


def device_of(module: nn.Module) -> torch.device:
    """Return the device on which a module runs.

    This is the device of its first weight. For an offloaded module, it is the device to which accelerate loads it.
    """
    first = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    hooks = (hook for part in module.modules() for hook in hooks_of(part))
    return torch.device(next(hooks).execution_device) if first.type == "meta" else first


def input_device(model: nn.Module) -> torch.device:
    """Return the device on which the input embeddings are applied. Token ids must be on this device."""
    return device_of(cast(Any, model).get_input_embeddings())


@contextlib.contextmanager
def adding_modules(model: nn.Module) -> Iterator[None]:
    """Let transformers put the weights of a new adapter on the devices on which the model's layers run.

    This holds inside the `with` block. Without it, the weights of an adapter in an offloaded layer would be put on
    `cpu` or `disk`, where no hook of accelerate finds them.

    Args:
        model: a Hugging Face model.
    """
    before = vars(model).get("hf_device_map")
    if not before or not is_offloaded(model):
        yield
        return
    parts = {name: model.get_submodule(name) if name else model for name in before}
    vars(model)["hf_device_map"] = {
        name: device_of(part) if is_offloaded(part) else before[name] for name, part in parts.items()
    }
    try:
        yield
    finally:
        vars(model)["hf_device_map"] = before


def devices_text(model: nn.Module) -> str:
    """Return the devices of a model as a text, such as `cuda`, or `cuda:0 + cuda:1 + cpu (offloaded)`.

    If the whole model is on one device, the text has no number. It is then the same in all processes that share a run.

    Args:
        model: a Hugging Face model.
    """
    devices = {str(value.device) for value in model.parameters() if not value.is_meta}
    places = sorted({*devices, str(input_device(model))})
    if not is_offloaded(model):
        return " + ".join(places) if len(places) > 1 else places[0].partition(":")[0]
    text = " + ".join(places)
    # A weight that stays on the CPU is not offloaded. A model that is offloaded as a whole has no device map.
    away = set((getattr(model, "hf_device_map", None) or {"": "cpu"}).values()) - devices
    return text + "".join(f" + {place} (offloaded)" for place in ("cpu", "disk") if place in away)
