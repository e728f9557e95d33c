"""Differences between devices: float64, random states, and the errors that say that memory is short."""

import contextlib
from collections.abc import Iterator

import torch

_WITHOUT_DOUBLE = {"mps"}
_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def has_double(device: torch.device) -> bool:
    """Whether the device computes in float64; MPS does not."""
    return device.type not in _WITHOUT_DOUBLE


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short. Some devices have an error type for this, others only a message.

    >>> says_out_of_memory(RuntimeError("MPS backend out of memory"))
    True
    """
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY))


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of every device of this kind, and restore their states after the block.

    Args:
        device: the device on which the block draws random numbers.
        seed: a seed below 2³², since PyTorch's CPU generator reads only 32 bits.
    """
    with torch.random.fork_rng(devices=[]):
        if device.type == "cpu":
            # `torch.manual_seed` would also seed GPUs, which this block does not use.
            torch.default_generator.manual_seed(seed)
            yield
            return
        module = torch.get_device_module(device.type)
        # MPS is always one device, and its functions take no index.
        indices = [()] if device.type == "mps" else [(index,) for index in range(module.device_count())]
        states = [module.get_rng_state(*index) for index in indices]
        try:
            torch.manual_seed(seed)
            yield
        finally:
            for state, index in zip(states, indices, strict=True):
                module.set_rng_state(state, *index)
