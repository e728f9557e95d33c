"""What an out-of-memory error says about other processes on the GPU."""

import pytest
import torch

from antiphase import devices
from antiphase.rollouts.sampling import explained
from antiphase.rollouts.sampling_spec import Sampling

GIB = 2**30


def gpu(monkeypatch, *, free, own, total=80 * GIB):
    """Make torch report a GPU; it does not exist."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: own)


def test_other_processes_are_named(monkeypatch):
    gpu(monkeypatch, free=GIB, own=5 * GIB)
    said = str(explained(torch.OutOfMemoryError("CUDA out of memory"), 8, Sampling(16)))
    assert said.endswith(
        "(now 16). Other processes hold about 74 of the GPU's 80 GiB, so running fewer of them at once may be enough "
        "(sweep --jobs)."
    )


@pytest.mark.parametrize("device", [None, torch.device("cuda")])
def test_a_gpu_of_this_process_alone(monkeypatch, device):
    gpu(monkeypatch, free=2 * GIB, own=77 * GIB)
    assert devices.held_by_others(device) == ""


def test_no_gpu_and_one_that_does_not_answer(monkeypatch):
    assert devices.held_by_others() == ""
    gpu(monkeypatch, free=GIB, own=5 * GIB)
    assert devices.held_by_others(torch.device("cpu")) == ""

    def fails(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert devices.held_by_others(torch.device("cuda", 0)) == ""
