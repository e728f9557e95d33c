"""Handle the differences between devices: float64 support, out-of-memory errors and freed memory."""

import ctypes
import functools
import sys
from collections.abc import Callable

import torch

_WITHOUT_DOUBLE = {"mps"}
_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def has_double(device: torch.device) -> bool:
    """Return whether the device can compute in float64. MPS (Apple GPUs) cannot."""
    return device.type not in _WITHOUT_DOUBLE


def says_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device, or the main memory, is exhausted.

    Some devices raise an error of a special type for this. Other devices raise a RuntimeError. Then its message is
    searched for words such as "out of memory".

    >>> says_out_of_memory(RuntimeError("MPS backend out of memory"))
    True
    """
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY))


def held_by_others(device: torch.device | None = None) -> str:
    """Return a sentence on the memory of a GPU that other processes hold, for the message of an out-of-memory error.

    The sentence begins with a space. It is empty if the device is no GPU of CUDA, if other processes hold less than
    1 GiB or a tenth of its memory, or if this cannot be found out. The context of this process itself, less than
    1 GiB, counts as held by others.

    Args:
        device: the device; None is the current GPU.
    """
    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return ""
    try:
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError:
        return ""
    if others < max(total / 10, 2**30):
        return ""
    return (
        f" Other processes hold about {others / 2**30:.0f} of the GPU's {total / 2**30:.0f} GiB. If they are yours, "
        "run fewer of them at once (sweep --jobs)."
    )


def return_freed_memory(device: torch.device) -> None:
    """Give the freed main memory of this process back to the operating system, if the device is a CPU.

    The allocator of glibc keeps freed blocks below 32 MB for later use. If each pass needs larger blocks than the pass
    before, the freed blocks are too small, and the memory of the process grows without need. With other allocators,
    this function does nothing.
    """
    trim = _trimmer() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
