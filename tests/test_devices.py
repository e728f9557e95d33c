"""What an out-of-memory error says about other processes on the GPU."""

import pytest
import torch

from antiphase import SignalSpec, TokenBatch, devices, token_signals
from antiphase.errors import OutOfMemoryError
from antiphase.rollouts.sampling import explained
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.signals import measure
from antiphase.signals.measure import ESTIMATORS
from conftest import tiny_model

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
        "(now 16). Other processes hold about 74 of the GPU's 80 GiB. If they are yours, run fewer of them at once "
        "(sweep --jobs)."
    )


@pytest.mark.parametrize("device", [None, torch.device("cuda")])
def test_a_gpu_of_this_process_alone(monkeypatch, device):
    gpu(monkeypatch, free=2 * GIB, own=77 * GIB)
    assert devices.held_by_others(device) == ""


def test_the_context_of_this_process_on_a_small_gpu(monkeypatch):
    gpu(monkeypatch, free=0, own=3 * GIB + GIB // 2, total=4 * GIB)
    assert devices.held_by_others() == ""


def test_a_model_on_the_cpu_beside_a_busy_gpu(monkeypatch):
    gpu(monkeypatch, free=GIB, own=5 * GIB)
    error = explained(torch.OutOfMemoryError("out of memory"), 8, Sampling(16), torch.device("cpu"))
    assert str(error).endswith("(now 16).")


def test_measuring_names_them_too(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(ESTIMATORS["own"]), "measure", fails)
    monkeypatch.setattr(measure, "held_by_others", lambda device: f" Others use the {device.type}.")
    batch = TokenBatch.from_ids([[5, 6]], [[7, 8, 9]])
    with pytest.raises(OutOfMemoryError, match=r"now \d+\), shorten .* or fewer layers\. Others use the cpu\.$"):
        token_signals(tiny_model("llama-gqa"), batch, SignalSpec(estimator="own"))


def test_no_gpu_and_one_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.held_by_others() == ""
    gpu(monkeypatch, free=GIB, own=5 * GIB)
    assert devices.held_by_others(torch.device("cpu")) == ""

    def fails(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert devices.held_by_others(torch.device("cuda", 0)) == ""
