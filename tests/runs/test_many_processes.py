"""Several processes share a run: the same files as of one process, and an end in order if one of them is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import antiphase
from antiphase import cli

SIZES = (1, 3, 16)
SHARED = {"max_new_tokens": 16, "min_tokens": 4, "num_resamples": 10, "figures": False, "report": False}
PROBE = {**SHARED, "num_prompts": 5, "samples": 2}
EVAL = {**SHARED, "tasks": ["sums:digits=1|1"], "num_problems": 4, "samples": 2, "greedy": True}
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
COMMANDS = {
    "probe": ("--num-prompts", "24", "--max-new-tokens", "48"),
    "eval": ("--tasks", "sums:digits=1|1", "--num-problems", "12", "--samples", "1", "--max-new-tokens", "48"),
}
# A script of a user, which torchrun starts.
SCRIPT = """
import json, os, sys
import antiphase
model, folder, settings, sizes, names = map(json.loads, sys.argv[1:])
settings["eval"]["tasks"] = tuple(settings["eval"]["tasks"])
for size in sizes:
    for name, call in (("probe", antiphase.probe), ("eval", antiphase.evaluate)):
        if name in names:
            out = f"{folder}/{name}-{size}"
            found = call(model, out=out, batch_size=size, progress=False, **settings[name])
            # One write, so that the outputs of two processes do not mix.
            told = json.dumps([name, size, len(found.rollouts), found.summary["created"]])
            os.write(1, f"RESULT {told}\\n".encode())
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def assert_same_files(left: Path, right: Path) -> None:
    """All tables are the same bytes, and the summaries differ in their time only."""
    tables = sorted(path.name for path in left.glob("*.parquet"))
    assert {"tokens.parquet", "rollouts.parquet", "steps.parquet"} <= set(tables)
    assert tables == sorted(path.name for path in right.glob("*.parquet"))
    for name in tables:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (left, right)]
    for summary in summaries:
        del summary["created"]
    assert summaries[0] == summaries[1]
    assert not (right / "parts").exists()
    assert not (right / ".lock").exists()


def words(name: str, model: Path, out: Path, *more: str) -> list[str]:
    shared = ("--batch-size", "1", "--num-resamples", "10", "--no-figures", "--no-report", "--quiet")
    return [name, str(model), *COMMANDS[name], *shared, "--out", str(out), *more]


@pytest.mark.parametrize("name", ["probe", pytest.param("eval", marks=pytest.mark.slow)])
def test_two_processes_equal_one(model_dir, tmp_path, name) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"probe": PROBE, "eval": EVAL}
    call = {"probe": antiphase.probe, "eval": antiphase.evaluate}[name]
    for size in SIZES:
        options = {**settings[name], **({"tasks": tuple(EVAL["tasks"])} if name == "eval" else {})}
        call(str(model_dir), out=one / f"{name}-{size}", batch_size=size, progress=False, **options)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = [json.dumps(value) for value in (str(model_dir), str(two), settings, SIZES, [name])]
    done = subprocess.run(
        [*LAUNCHER, str(script), *arguments],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for size in SIZES:
        assert_same_files(one / f"{name}-{size}", two / f"{name}-{size}")
    # Both processes get the same result.
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(results) == 2 * len(SIZES)
    assert len(set(results)) == len(SIZES)


def worker(launcher: subprocess.Popen, rank: int) -> psutil.Process:
    """The process with this number that a launcher started."""
    for process in psutil.Process(launcher.pid).children():
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"no process {rank}")


def wait_for_parts(out: Path, number: int, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("parts/*/*.rollouts.parquet"))) < number:
        assert running.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe", "eval"])
def test_a_killed_run_goes_on_with_one_process(model_dir, tmp_path, name, capsys) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(words(name, model_dir, whole)) == 0
    command = [*LAUNCHER, "-m", "antiphase", *words(name, model_dir, cut)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_for_parts(cut, 3, run)
        worker(run, 1).send_signal(signal.SIGKILL)
        _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    said = [line for line in errors.splitlines() if line.startswith("antiphase: ")]
    assert said == [
        f"antiphase: interrupted. Finished batches are kept: repeat the command with --out {cut} --resume."
    ]
    kept = {path: path.stat().st_mtime_ns for path in cut.glob("parts/*/*.parquet")}
    assert len(kept) >= 9
    assert not (cut / "summary.json").exists()
    assert cli.main(words(name, model_dir, cut, "--resume")) == 0
    assert_same_files(whole, cut)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(*commands: list[str], **more: str) -> list[subprocess.Popen]:
    """Start processes as srun does: with the variables of a launcher, but with nothing that ends them together."""
    port, size, started = str(free_port()), str(len(commands)), []
    for rank, command in enumerate(commands):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}
        full = [sys.executable, "-m", "antiphase", *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(full, env=environment(**own), text=True, **pipes))
    return started


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, list[str]]]:
    """The exit status of each process, and the lines in which it speaks to the user."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors, errors
        found.append((process.returncode, [line for line in errors.splitlines() if line.startswith("antiphase: ")]))
    return found


@pytest.mark.slow
def test_a_silent_process_is_named(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    processes = start(*[words("probe", model_dir, out)] * 2, ANTIPHASE_SILENT_SECONDS="3")
    wait_for_parts(out, 3, processes[0])
    processes[1].kill()
    (status, lines), _ = ends(processes)
    assert status == 2
    assert len(lines) == 1
    assert f"process 1 of 2 on {socket.gethostname()} has given no sign of life for 3 seconds" in lines[0]
    assert f"repeat the command with --out {out} --resume" in lines[0]
    # Two processes continue what two have begun.
    assert [status for status, _ in ends(start(*[words("probe", model_dir, out, "--resume")] * 2))] == [0, 0]
    assert (out / "summary.json").exists()


def test_the_others_end_if_process_0_is_lost(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    processes = start(*[words("probe", model_dir, out)] * 2)
    wait_for_parts(out, 3, processes[0])
    processes[0].kill()
    _, (status, lines) = ends(processes)
    assert status == 2
    assert len(lines) == 1
    assert "the connection to process 0 of 2 is lost" in lines[0]


@pytest.mark.slow
def test_errors_are_printed_once(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    # Both processes find the same error.
    found = ends(start(*[words("probe", model_dir, out, "--layers", "77")] * 2))
    assert [status for status, _ in found] == [2, 2]
    ((line,), none) = (lines for _, lines in found)
    assert none == []
    assert line.startswith("antiphase: error: ")
    assert "77" in line
    assert "process" not in line
    assert not out.exists()
    # Only process 0 looks at the folder, and the other one waits for it.
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    found = ends(start(*[words("probe", model_dir, out)] * 2))
    assert [status for status, _ in found] == [2, 2]
    assert found[0][1] == [
        f"antiphase: error: {str(out)!r} exists and is not an empty folder. Choose another --out. If "
        "the folder holds an earlier run, --resume continues it."
    ]
    assert found[1][1] == []


def test_different_commands_are_refused(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    first, second = words("probe", model_dir, out), words("probe", model_dir, out, "--seed", "7")
    processes = start(first, second)
    (status, lines), (other_status, other_lines) = ends(processes)
    assert (status, other_status) == (2, 2)
    assert lines == []
    assert (
        "process 1 of 2: process 0 and process 1 have different options or packages: seed: 0 and 7" in other_lines[0]
    )


def test_ctrl_c_prints_one_message(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    processes = start(*[words("probe", model_dir, out)] * 2)
    wait_for_parts(out, 3, processes[0])
    for process in processes:
        process.send_signal(signal.SIGINT)
    found = ends(processes)
    assert [status for status, _ in found] == [130, 130]
    assert [line for _, lines in found for line in lines] == [
        f"antiphase: interrupted. Finished batches are kept: repeat the command with --out {out} --resume."
    ]


@pytest.mark.slow
def test_process_0_alone_does_all(model_dir, tmp_path) -> None:
    """The other processes never start."""
    out = tmp_path / "run"
    port = str(free_port())
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "antiphase", *words("eval", model_dir, out)]
    subprocess.run(command, env=environment(**own), check=True, capture_output=True, timeout=120)
    assert (out / "summary.json").exists()
