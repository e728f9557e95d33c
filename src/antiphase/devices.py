"""Where devices differ: float64, random states, and how they say that memory is short."""

import contextlib
from collections.abc import Iterator

import torch

_WITHOUT_DOUBLE = {"mps"}
_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def has_double(device: torch.device) -> bool:
    """Whether the device computes in float64; MPS does not."""
    return device.type not in _WITHOUT_DOUBLE


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short. Some devices have an error type for it, others only words.

    >>> says_out_of_memory(RuntimeError("MPS backend out of memory"))
    True
    """
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY))


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of every device of this kind; put their states back when the block ends.

    Args:
        device: that the block draws on.
        seed: below 2³²; PyTorch's generator of the CPU reads no more of it.
    """
    with torch.random.fork_rng(devices=[]):
        if device.type == "cpu":
            # Not `torch.manual_seed`: it would seed GPUs that this block has nothing to do with.
            torch.default_generator.manual_seed(seed)
            yield
            return
        module = torch.get_device_module(device.type)
        # The functions of MPS, which is one device, take no index.
        indices = [()] if device.type == "mps" else [(index,) for index in range(module.device_count())]
        states = [module.get_rng_state(*index) for index in indices]
        try:
            torch.manual_seed(seed)
            yield
        finally:
            for state, index in zip(states, indices, strict=True):
                module.set_rng_state(state, *index)
