"""Choose the device of this process, if a launcher started several processes on one machine."""

import os

import torch

from antiphase.errors import InvalidInputError
from antiphase.models.loading import resolve_device
from antiphase.runs.launch import Launch

# By these variables, a launcher shows a process only its own device.
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def own_device(name: str, launched: Launch) -> str:
    """Return the name of the device on which this process loads its models.

    If there is only one process, this is the name that the user gave. If a launcher started several, process i of this
    machine takes device i (`launched.local_rank`), which also becomes torch's current device. If the launcher shows
    each process a single device (by CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES), the process takes this device.

    Args:
        name: the device that the user gave, or `auto`.
        launched: the place of this process among the processes that were started together.

    Raises:
        InvalidInputError: there are several processes, and the user named a single device, such as `cuda:1`; or there
            are fewer devices than processes.
    """
    if not launched.several:
        return name
    place = resolve_device(name)
    if place.index is not None and place.type != "cpu":
        raise InvalidInputError(
            f"{name!r} is one device, but {launched.local_size} processes were started on this machine. Name "
            f"{place.type!r} or 'auto': each process then takes a device of its own."
        )
    if place.type in ("cpu", "mps"):
        return place.type
    module = torch.get_device_module(place.type)
    number = module.device_count()
    if number == 1 and any(os.environ.get(name) for name in _HIDING):
        return f"{place.type}:0"
    if launched.local_rank >= number:
        raise InvalidInputError(
            f"process {launched.rank} has no device of its own: this machine has {launched.local_size} processes and "
            f"{number} devices of the type {place.type!r}. Start at most {number} processes on each machine."
        )
    module.set_device(launched.local_rank)
    return f"{place.type}:{launched.local_rank}"
