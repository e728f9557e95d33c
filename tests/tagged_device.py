"""A device of tests: its tensors hold their numbers on the CPU, and refuse what a GPU refuses.

`torch.device("tagged")` is a device of its own to PyTorch, so code that asks a tensor for its device, makes a mask or
moves a result meets on it what it would meet on CUDA: an operation on tensors of two devices raises, and so does
`.numpy()`. What CUDA allows is allowed: a CPU number of no dimension beside any tensor, CPU indices, and copies.

`Device.transfers` counts what would wait for a GPU: reads of a number and copies to the CPU.
`Device.has_double = False` makes it refuse float64, as MPS does.
`Device.cpu_is_a_gpu = True` makes the CPU stand for a second GPU: then CPU indices are refused too, and so are CPU
numbers in a stack of numbers. PyTorch's autograd knows only one device of a stand-in, so there is no `tagged:1`.

It needs no GPU and shows no fault of one: kernels, numbers, memory, streams and speed are the CPU's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

NAME = "tagged"
_COPIES = {"copy_", "_to_copy", "_copy_from"}
# The argument of an operation that CUDA takes from the CPU too.
_INDICES = {"index": 1, "index_put_": 1, "index_put": 1, "_index_put_impl_": 1, "_unsafe_index": 1}
_JOINS = {"stack", "cat"}
_WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_consecutive", "_unique2"}


class Device:
    """What the device may do, and what it did."""

    # What `torch.accelerator` says: other tests of this process want no accelerator.
    available = False
    has_double = True
    cpu_is_a_gpu = False
    transfers: ClassVar[Counter[str]] = Counter()


class TaggedTensor(Tensor):
    """A tensor on the device; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "TaggedTensor":
        if inner.dtype == torch.float64 and not Device.has_double:
            raise TypeError("this device has no float64")
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=f"{NAME}:0"
        )

    def __init__(self, inner: Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"tagged({self.inner!r})"

    def tolist(self) -> Any:
        """PyTorch has none for subclasses."""
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _inner(tree: Any) -> Any:
    return tree_map_only(TaggedTensor, lambda tensor: tensor.inner, tree)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    if name in _COPIES:
        return _copied(func, name, args, kwargs)
    _check_devices(name, args, kwargs)
    if name in _WAITS:
        Device.transfers[name] += 1
    if name == "_fused_sdp_choice":
        return 0  # the kernel written out in PyTorch's own operations
    to = torch.device(kwargs.get("device") or NAME).type
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": "cpu"}
    found = func(*_inner(args), **_inner(kwargs))
    resized = [t for t in tree_leaves((args, kwargs)) if isinstance(t, TaggedTensor) and t.shape != t.inner.shape]
    assert not resized, f"{name} resizes its result, which the stand-in cannot follow"
    if to == NAME:
        found = tree_map_only(Tensor, TaggedTensor, found)
    return return_and_correct_aliasing(func, args, kwargs, found)


def _copied(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    if name == "_to_copy":
        to = torch.device(kwargs.get("device") or args[0].device).type
        if to == "meta":
            # accelerate makes parameters of the type that a parameter had before.
            return torch.nn.Parameter(args[0].inner.to("meta"), requires_grad=False)
        if isinstance(args[0], TaggedTensor) and kwargs.get("dtype") == torch.float64 and not Device.has_double:
            raise TypeError("this device has no float64, and converts before it copies")
        found = func(*_inner(args), **{**kwargs, "device": "cpu"})
        if to == NAME:
            return TaggedTensor(found)
        Device.transfers["copy to the CPU"] += 1
        return found
    if not isinstance(args[0], TaggedTensor):
        Device.transfers["copy to the CPU"] += 1
    func(*_inner(args), **_inner(kwargs))
    return args[0]


def _check_devices(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise as CUDA does where tensors of the device meet tensors of the CPU."""
    allowed = None if Device.cpu_is_a_gpu else _INDICES.get(name)
    every = Device.cpu_is_a_gpu and name in _JOINS
    for place, argument in enumerate([*args, *kwargs.values()]):
        for tensor in tree_leaves(argument):
            here = not isinstance(tensor, Tensor) or isinstance(tensor, TaggedTensor)
            if not here and (tensor.ndim or every) and place != allowed:
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {NAME}:0 and cpu")


class _Hook(_DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return Device.available


class _Module(_DummyBackendModule):
    """What `torch.get_device_module` gives: one device, whose random state is the last seed."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self._state = 0

    def is_available(self) -> bool:
        return Device.available

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        self.seeds.append(seed)
        self._state = seed

    def get_rng_state(self, index: int) -> Tensor:
        return torch.tensor([self._state])

    def set_rng_state(self, state: Tensor, index: int) -> None:
        self._state = int(state)


def _empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, **_: Any) -> Tensor:
    return TaggedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _empty(size: Sequence[int], *, dtype: Any = None, **_: Any) -> Tensor:
    return TaggedTensor(torch.empty(size, dtype=dtype))


def _arange(*limits: float, dtype: Any = None, **_: Any) -> Tensor:
    # PyTorch's own resizes an empty tensor, and a wrapper cannot be resized.
    return TaggedTensor(torch.arange(*limits, dtype=dtype))


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(to).copy_(_inner(source))
    return to


def _registered() -> torch.library.Library:
    _setup_privateuseone_for_python_backend(NAME, _Module(), _Hook())
    library = torch.library.Library("aten", "IMPL")
    operators: dict[str, Callable[..., Tensor]] = {
        "empty_strided": _empty_strided,
        "empty.memory_format": _empty,
        "arange": _arange,
        "arange.start": _arange,
        "arange.start_step": _arange,
        "_copy_from": _copy_from,
    }
    for name, operator in operators.items():
        library.impl(name, operator, "PrivateUse1")
    return library


_LIBRARY = _registered()
