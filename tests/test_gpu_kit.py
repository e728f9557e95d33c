"""The kit of benchmarks/gpu: whatever happens to one part, the rows of the others stay; and what its rows become.

`make gpu-dry` runs the parts themselves.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KIT = ROOT / "benchmarks" / "gpu"
ENDS = {
    "well": "part.row('case', status='ok')",
    "fails": "part.row('case', status='ok'); raise RuntimeError('no such kernel')",
    "hangs": "part.row('case', status='ok'); time.sleep(60)",
    "dies": "part.row('case', status='ok'); os.kill(os.getpid(), 9)",
}


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"gpu_kit_{name}", KIT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_in(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The entry, with parts that end in every way; they import nothing."""
    module = loaded("run")
    head = "import json, os, sys, time\nclass part:\n    def row(case, **values):\n"
    head += "        with open(sys.argv[2], 'a') as f:\n"
    head += "            f.write(json.dumps({'part': NAME, 'case': case, **values}) + chr(10))\n"
    for name, code in ENDS.items():
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n{head}{code}\n")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "_GRACE", 1.0)
    monkeypatch.setattr(module, "PARTS", dict.fromkeys(ENDS, (10, 10)))
    return module


def test_a_part_that_ends_badly_costs_itself_alone(run, tmp_path) -> None:
    rows, log = tmp_path / "rows.jsonl", tmp_path / "log.txt"
    statuses = [
        run.run_part(name, 1, rows=rows, log=log, env=dict(os.environ), dry=True)
        for name in ("fails", "hangs", "dies", "well")
    ]
    assert statuses == ["failed", "hung", "killed by signal 9", "ok"]
    found = rows_in(tmp_path)
    assert [row["part"] for row in found if row["case"] == "case"] == ["fails", "hangs", "dies", "well"]
    ends = {row["part"]: row for row in found if row["case"] == "end"}
    assert "no such kernel" in ends["fails"]["last_words"]
    text, well = run.summary(rows, 0)
    assert not well
    assert "well: 2 ok" in text


def test_the_summary_is_of_this_run(run, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    run.write_row(rows, {"part": "fails", "case": "end", "status": "failed"})
    start = rows.stat().st_size
    run.write_row(rows, {"part": "well", "case": "a", "status": "skipped: no time"})
    assert run.summary(rows, 0)[1] is False
    assert run.summary(rows, start) == ("well: 1 skipped", True)


@pytest.mark.parametrize("only", ["wrong", "right,fats"])
def test_an_unknown_part(only, tmp_path) -> None:
    command = [sys.executable, KIT / "run.py", "--out", tmp_path / "out", "--only", only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there are right, agree, fast, train, learn" in done.stderr
    assert not (tmp_path / "out").exists()


def process_of(part, folder):
    """The process of a part that writes into the folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(KIT / f"{part}.py").encode() in words and str(folder / "rows.jsonl").encode() in words:
            return int(entry.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the part's process in /proc")
def test_a_real_part_that_is_killed(tmp_path) -> None:
    command = [sys.executable, KIT / "run.py", "--dry", "--only", "right,fast", "--out", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as entry:
        stop = time.monotonic() + 120
        while not (tmp_path / "rows.jsonl").exists() or not any(r["part"] == "right" for r in rows_in(tmp_path)):
            assert time.monotonic() < stop
            time.sleep(0.1)
        os.kill(process_of("right", tmp_path), signal.SIGKILL)
        said = entry.communicate(timeout=120)[0]
    assert entry.returncode == 1
    assert "right: killed by signal 9" in said
    assert "fast: ok" in said
    found = rows_in(tmp_path)
    assert [row for row in found if row["part"] == "right" and row["case"] != "end"]
    speeds = [row for row in found if row["part"] == "fast" and row["case"] == "speed"]
    assert len(speeds) > 10
    assert all(row["status"] == "ok" for row in speeds)


@pytest.fixture
def results(tmp_path):
    """A folder with one device's results, and a page."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "gpu-nvidia-h200.json").read_text())
    out = tmp_path / "out"
    out.mkdir()
    environment = {"part": "environment", "case": "environment", **stored["runs"][1]["environment"]}
    rows = [environment, *stored["runs"][1]["rows"]]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "page.md").write_text("# On a GPU\n\nProse.\n")
    (tmp_path / "results").mkdir()
    return tmp_path


def test_rows_become_a_result_a_picture_and_tables(results) -> None:
    render = loaded("render")
    for _ in range(2):  # the same run again changes nothing
        path = render.add(results / "out", "a note", results / "results")
        render.write(results / "results", results / "page.md")
    assert path.name == "gpu-nvidia-h200.json"
    stored = json.loads(path.read_text())
    assert len(stored["runs"]) == 1
    assert stored["runs"][0]["rows"] == rows_in(results / "out")[1:]
    page = (results / "page.md").read_text()
    assert page.startswith("# On a GPU\n\nProse.\n")
    assert page.count("## Tables: NVIDIA H200") == 1
    assert "a note" in page
    assert "| `own`, all tokens | 0.210 (5.8) | 0.227 (9.3) | 1.087 (16.5) | 0.481* (25.5) |" in page
    assert "| own, joint steps | 0.50 | 0.35 | 69% | 14.9 |" in page
    assert (results / "results" / "gpu-nvidia-h200.png").stat().st_size > 20_000


def test_a_newer_run_replaces_its_own_cells(results) -> None:
    render = loaded("render")
    path = render.add(results / "out", "old", results / "results")
    speed = {"part": "fast", "case": "speed", "status": "ok", "model": "Qwen3-0.6B", "tokens": 2048, "batch": 1}
    new = [
        {"part": "environment", "case": "environment", "device": "NVIDIA H200", "torch": "2.12.0"},
        {**speed, "operation": "own", "seconds_p50": 0.123, "peak_gib": 4.0, "rounds": 3},
        {**speed, "operation": "last", "status": "out of memory"},
    ]
    (results / "out" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new))
    render.add(results / "out", "new", results / "results")
    render.write(results / "results", results / "page.md", pictures=False)
    page = (results / "page.md").read_text()
    assert len(json.loads(path.read_text())["runs"]) == 2
    assert "| `own`, all tokens | 0.123 (4.0) |" in page
    assert "| `last`, 128 tokens of each row | 0.358 (3.7) |" in page
    assert "| 2 | fast | out of memory | speed last of Qwen3-0.6B, 2,048 tokens |" in page


def test_what_was_cut_off_is_not_said_where_the_same_run_has_it(results) -> None:
    render = loaded("render")
    speed = {"part": "fast", "case": "speed", "model": "Qwen3-0.6B", "tokens": 2048, "batch": 1, "operation": "own"}
    rows = [
        {"part": "environment", "case": "environment", "device": "NVIDIA X"},
        {**speed, "status": "too slow", "limit": 1.0},
        {**speed, "operation": "full", "status": "too slow"},
        {**speed, "operation": "full", "status": "too slow"},
        {**speed, "status": "ok", "seconds_p50": 0.1, "peak_gib": 1.0, "rounds": 1},
    ]
    (results / "out" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(render.add(results / "out", "", results / "results").read_text())
    assert render.unwell(found)[2:] == ["| 1 | fast | too slow | speed full of Qwen3-0.6B, 2,048 tokens |"]


def test_commands_on_the_real_model_become_tables(results) -> None:
    render = loaded("render")
    evaluation = {"part": "real", "case": "heldout", "status": "ok", "method": "dapo", "seed": 1}
    evaluation |= {"heldout/pass@1": 0.5, "heldout/pass@1_low": 0.25, "heldout/pass@1_high": 0.75}
    correlation = {"own": {"token": [-0.5, -0.6, 0.1, 9]}}
    rows = [
        {"part": "environment", "case": "environment", "device": "NVIDIA X"},
        {"part": "real", "case": "probe", "status": "ok", "model": "demo", "correlation": correlation},
        {**evaluation, "step": 10},
        {**evaluation, "step": 0, "seed": 0},
    ]  # fmt: skip
    (results / "out" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(render.add(results / "out", "", results / "results").read_text())
    lines = render.real_lines(found)
    assert "| `own` | −0.500 [−0.600, +0.100] |" in lines
    assert lines[-2:] == [
        "| `dapo`, seed 1 | – | 0.500 [0.250, 0.750] |",
        "| `dapo`, seed 0 | 0.500 [0.250, 0.750] | – |",
    ]


@pytest.mark.parametrize("change", [{"dry": True}, {"device": "cpu"}])
def test_a_run_without_a_gpu_is_no_result(change, results) -> None:
    render = loaded("render")
    rows = rows_in(results / "out")
    rows[0] |= change
    (results / "out" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match="no result"):
        render.add(results / "out", "", results / "results")
    assert not list((results / "results").iterdir())


def test_the_tables_of_the_docs_are_those_of_the_stored_rows(tmp_path) -> None:
    page = ROOT / "docs" / "performance-gpu.md"
    copy = tmp_path / "performance-gpu.md"
    copy.write_text(page.read_text())
    loaded("render").write(ROOT / "benchmarks" / "results", copy, pictures=False)
    assert copy.read_text() == page.read_text()
