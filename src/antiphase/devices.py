"""Handle the differences between devices: float64 support, random states and out-of-memory errors."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator

import torch

_WITHOUT_DOUBLE = {"mps"}
_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def has_double(device: torch.device) -> bool:
    """Return whether the device can compute in float64. MPS (Apple GPUs) cannot."""
    return device.type not in _WITHOUT_DOUBLE


def says_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device, or the main memory, is exhausted.

    Some devices raise an error type of its own for this. Others raise a RuntimeError, whose message is searched.

    >>> says_out_of_memory(RuntimeError("MPS backend out of memory"))
    True
    """
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY))


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed PyTorch's random generators for a `with` block, and restore their states after the block.

    The generators of the CPU and of all devices of the same type as `device` are seeded.

    Args:
        device: the device on which the block draws random numbers.
        seed: a number below 2³², since PyTorch's CPU generator reads only 32 bits.
    """
    with torch.random.fork_rng(devices=[]):
        if device.type == "cpu":
            # `torch.manual_seed` would also seed GPUs, which this block does not use.
            torch.default_generator.manual_seed(seed)
            yield
            return
        module = torch.get_device_module(device.type)
        # There is only one MPS device, and its functions take no index.
        indices = [()] if device.type == "mps" else [(index,) for index in range(module.device_count())]
        states = [module.get_rng_state(*index) for index in indices]
        try:
            torch.manual_seed(seed)
            yield
        finally:
            for state, index in zip(states, indices, strict=True):
                module.set_rng_state(state, *index)


def return_freed_memory(device: torch.device) -> None:
    """Give main memory that is free in this process back to the operating system, if the device is a CPU.

    The allocator of glibc keeps freed blocks below 32 MB for later use. If each pass needs larger blocks than the last
    one, it cannot use the freed ones, and the memory of the process grows without need. With other allocators, this
    function does nothing.
    """
    trim = _trimmer() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
