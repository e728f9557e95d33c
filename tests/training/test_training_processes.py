"""Trainings whose weights or rollouts are spread over two CPU processes: as one process, and without a deadlock."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import flags

SCRIPTS = Path(__file__).parents[1] / "launched"


def launch(script, *words, processes=2, limit=240, refused=False):
    """Run a script on some processes, and return what it wrote to its standard output; if refused, its errors."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
            str(SCRIPTS / script), *map(str, words),
        ],
        env=environment, capture_output=True, text=True, timeout=limit, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == refused, done.stderr[-3000:]
    return done.stderr if refused else done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, saved):
    """The folder of the trainings of one process."""
    out = tmp_path_factory.mktemp("alone")
    launch("ragged_training.py", "plain", saved, out, processes=1)
    return out


def measured(out):
    return [json.loads(line) for line in (out / "measured.jsonl").read_text(encoding="utf-8").splitlines()]


def check_ragged(kind, backend, saved, alone, out):
    """Train on ragged rollouts, and compare with one process and with TRL's own trainer."""
    launch("ragged_training.py", kind, saved, out)
    assert (out / "kind.txt").read_text(encoding="utf-8") == backend
    batches = list(zip(measured(alone), measured(out), strict=True))
    assert len(batches) == 4
    for expected, found in batches:
        for name in ("correlation", "entropy", "strength"):
            one, two = torch.tensor(expected[name]), torch.tensor(found[name])
            assert torch.allclose(one, two, atol=1e-5, rtol=1e-5, equal_nan=True), name
    first = torch.tensor(batches[0][1]["correlation"])
    # All rollouts of the first process are one token long, and have no correlation.
    assert first.isnan().tolist() == [True, True, False, False]
    host, zero, ours, one = (torch.load(path) for path in (*(out / f"{n}.pt" for n in NAMES), alone / "host.pt"))
    assert host.keys() == zero.keys() == one.keys()
    for name, value in host.items():
        assert torch.equal(value, zero[name]), name
        assert torch.allclose(value, one[name], atol=1e-4), name
    start = tiny_model().state_dict()
    assert max((host[name] - start[name]).abs().max().item() for name in host) > 1e-3
    assert any(not torch.equal(host[name], ours[name]) for name in host)


NAMES = ("host", "zero", "ours")
RECOMPUTING = pytest.param("fsdp2-recomputing", "FSDP", marks=pytest.mark.slow)


@pytest.mark.parametrize(("kind", "backend"), [("ddp", "MULTI_CPU"), ("fsdp2", "FSDP"), RECOMPUTING])
def test_ragged_rollouts(kind, backend, saved, alone, tmp_path):
    check_ragged(kind, backend, saved, alone, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed: make test-deepspeed")
@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_ragged_rollouts_under_deepspeed(kind, saved, alone, tmp_path):
    check_ragged(kind, "DEEPSPEED", saved, alone, tmp_path)


@pytest.mark.parametrize("trials", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_sharded_models_are_measured_as_whole_ones(trials):
    """Other numbers of rollouts and passes in each process; the gradients before and after stay what they were."""
    out = launch("sharded_trials.py", trials, limit=600)
    assert sorted(out.splitlines()) == [f"rank {rank}: {trials} trials" for rank in (0, 1)]


@pytest.mark.slow
def test_the_command_under_fsdp2(saved, tmp_path):
    """Held-out problems in uneven numbers of batches, sharded checkpoints, a resumed training, and a whole model."""
    out = tmp_path / "run"
    # Of 33 problems, one process completes 17, which are two batches of 16, and the other one 16.
    words = flags(
        saved, out, tasks="digit_sum:base=3,num_digits=6", max_steps=2, per_device_train_batch_size=4,
        eval_problems=33, eval_samples=1, save_steps=1,
        inversion_unit="token", inversion_min_tokens=5,
    )  # fmt: skip
    launch("command.py", *words)
    evaluations = [row for row in read_trajectory(out) if row["kind"] == "eval"]
    assert [row["step"] for row in evaluations] == [0, 2]
    assert all(row["heldout/num_problems"] == 33 for row in evaluations)
    assert any(row.is_dir() for row in (out / "checkpoint-1").glob("pytorch_model_fsdp*"))
    weights, start = load_file(out / "model.safetensors"), tiny_model().state_dict()
    assert weights.keys() == start.keys()
    assert all(weights[name].shape == start[name].shape for name in start)
    assert max((weights[name] - start[name]).abs().max().item() for name in start) > 1e-4
    for path in (out / "summary.json", *(out / "checkpoint-2").iterdir()):
        path.unlink() if path.is_file() else None
    launch("command.py", *words, "--resume")
    resumed = load_file(out / "model.safetensors")
    assert all(torch.allclose(weights[name], resumed[name], atol=1e-6) for name in weights)


@pytest.mark.slow
def test_a_run_under_fsdp2_that_was_killed_before_its_summary(saved, tmp_path):
    """The last checkpoint is loaded, no step is trained, and the missing evaluation and the model are written."""
    out = tmp_path / "run"
    words = flags(
        saved, out, tasks="digit_sum:base=3,num_digits=6", max_steps=2, per_device_train_batch_size=4,
        eval_problems=3, eval_samples=1, save_steps=2, inversion_unit="token", inversion_min_tokens=5,
    )  # fmt: skip
    assert "Run it without the launcher, on one GPU." in launch("command.py", *words, "--dry-run", refused=True)
    assert not out.exists()
    launch("command.py", *words)
    weights, rows = load_file(out / "model.safetensors"), read_trajectory(out)
    for name in ("summary.json", "model.safetensors"):
        (out / name).unlink()
    kept = [row for row in rows if (row["kind"], row["step"]) != ("eval", 2)]
    assert len(kept) == len(rows) - 1
    text = "".join(json.dumps(row) + "\n" for row in kept)
    (out / "trajectory.jsonl").write_text(text, encoding="utf-8")
    launch("command.py", *words, "--resume")
    loaded = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)
    assert [(row["kind"], row["step"]) for row in read_trajectory(out)] == [(row["kind"], row["step"]) for row in rows]
    assert read_trajectory(out)[-1]["heldout/greedy"] == rows[-1]["heldout/greedy"]
    assert (out / "summary.json").is_file()
