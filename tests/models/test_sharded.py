"""Two CPU processes: weights that are sharded over processes are refused, and FSDP 2 is measured after gathering."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import tiny_model

SCRIPT = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.errors import UnsupportedModelError
from antiphase.models.whole_weights import whole_weights

dist.init_process_group("gloo")
load = AutoModelForCausalLM.from_pretrained
batch = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [[10, 11, 12, 13], [60, 61, 62]])
plain, ids = load({model!r}), torch.tensor([[5, 6, 7]])

def refused(model):
    for estimator in ("own", "last", "full", "oracle"):
        try:
            token_signals(model, batch, SignalSpec(estimator))
        except UnsupportedModelError as error:
            message = str(error)
        else:
            raise AssertionError("not refused")
    return message

parallel = load({model!r}, distributed_config=DistributedConfig(tp_size=2, tp_plan="auto"))
with torch.no_grad():
    assert torch.allclose(parallel(ids).logits, plain(ids).logits, atol=1e-4)
message = refused(parallel)
assert "tensor parallelism" in message and "--device-map" in message, message

model, mesh = load({model!r}), init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
message = refused(model)
assert "FSDP 2" in message and "whole_weights.whole_weights(model)" in message, message
for estimator in ("own", "last", "full"):
    with whole_weights(model):
        found = token_signals(model, batch, SignalSpec(estimator)).strength
    expected = token_signals(plain, batch, SignalSpec(estimator)).strength
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True), estimator
refused(model)
print(f"as expected {{dist.get_rank()}}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_sharded_weights_in_two_processes(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path / "tiny")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(tmp_path / "tiny")))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2] / "src"), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {f"as expected {rank}" for rank in (0, 1)} <= set(done.stdout.splitlines())
