"""Let a backward pass load offloaded weights again, so that they are not all on the device at once.

An offloaded weight is in main memory or on disk, and accelerate loads the weights of one module at a time to the
device (see `placement`). But a backward pass needs the weights again, so autograd would keep each of them on the
device until then. A model that is larger than the device would not fit. Inside the block of `reloading`, autograd
remembers only where such a weight comes from, and loads it when the backward pass needs it.

The measured numbers do not change. Every backward pass loads each weight once more, which takes time: an estimator
with one backward pass (`own`, `last`) loads each weight twice, and `full` loads it for every token that it measures.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from antiphase.models.placement import Home, is_offloaded, offloaded_by


@dataclass(frozen=True)
class _Loaded:
    """A weight that accelerate has loaded for the call of a module that is running now.

    Args:
        value: the weight on the device.
        home: the place from which it was loaded.
    """

    value: Tensor
    home: Home


@dataclass(frozen=True)
class _Recipe:
    """What is needed to make a tensor again that autograd would otherwise keep until the backward pass.

    The tensor is an offloaded weight, or a view of such a weight, for example its transpose.

    Args:
        home: the place where accelerate keeps the weight.
        device: the device of the tensor.
        dtype: the dtype of the tensor. The stored weight may have another dtype.
        size: the shape of the tensor.
        stride: the strides of the tensor.
        offset: the number of elements of the weight before the first element of the tensor.
    """

    home: Home
    device: torch.device
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def make(self) -> Tensor:
        """Load the weight again, and return the tensor."""
        weight = self.home.read().to(self.device, self.dtype).contiguous()
        return weight.as_strided(self.size, self.stride, int(weight.storage_offset()) + self.offset)


class _Noting:
    """A hook that replaces accelerate's hook on a module. It calls that hook, and notes the weights that are loaded.

    Args:
        hook: the hook of accelerate.
        loaded: a mapping from the `id` of a tensor to the loaded weight. This hook adds and removes entries.
    """

    def __init__(self, hook: Any, loaded: dict[int, _Loaded]) -> None:
        self.hook, self.loaded = hook, loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hook, name)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Let the hook of accelerate load the weights before a call of the module, and note them in `loaded`.

        The result is what accelerate's hook returns.
        """
        found = self.hook.pre_forward(module, *args, **kwargs)
        for name, home in offloaded_by(module).items():
            value = _value(module, name)
            if value.is_contiguous():
                self.loaded[id(value)] = _Loaded(value, home)
        return found

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Remove the weights from `loaded` after a call of the module, and let the hook of accelerate drop them.

        The result is what accelerate's hook returns.
        """
        for name in offloaded_by(module):
            self.loaded.pop(id(_value(module, name)), None)
        return self.hook.post_forward(module, output)


@contextlib.contextmanager
def reloading(model: nn.Module) -> Iterator[None]:
    """Inside a `with` block, let each backward pass load the offloaded weights again.

    Outside the block, autograd keeps these weights on the device until the backward pass. A model without offloaded
    weights runs inside the block as it does outside.

    Args:
        model: a Hugging Face model.
    """
    if not is_offloaded(model):
        yield
        return
    loaded: dict[int, _Loaded] = {}

    def pack(tensor: Tensor) -> Tensor | _Recipe:
        found = loaded.get(id(tensor if tensor._base is None else tensor._base))
        if found is None:
            return tensor
        first = int(found.value.storage_offset())
        return _Recipe(
            found.home,
            tensor.device,
            tensor.dtype,
            tensor.size(),
            tensor.stride(),
            int(tensor.storage_offset()) - first,
        )

    def unpack(kept: Tensor | _Recipe) -> Tensor:
        return kept.make() if isinstance(kept, _Recipe) else kept

    modules = [module for module in model.modules() if offloaded_by(module)]
    before = [vars(module)["_hf_hook"] for module in modules]
    flags = [
        (module, name) for module in modules for name in offloaded_by(module) if _value(module, name).requires_grad
    ]
    try:
        for module, hook in zip(modules, before, strict=True):
            vars(module)["_hf_hook"] = _Noting(hook, loaded)
        for module, name in flags:
            # A graph holds every tensor that requires a gradient. accelerate copies the flag to the loaded weight.
            _value(module, name).requires_grad_(False)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for module, hook in zip(modules, before, strict=True):
            vars(module)["_hf_hook"] = hook
        for module, name in flags:
            _value(module, name).requires_grad_(True)


def _value(module: nn.Module, name: str) -> Tensor:
    """Return a weight of a module, or of a submodule if the name has dots."""
    return cast(Tensor, attrgetter(name)(module))
