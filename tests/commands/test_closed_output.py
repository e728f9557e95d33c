"""A command whose output nobody reads any more, as in `antiphase sweep … | head -1`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from antiphase import cli

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "paper" / "smoke.yaml"


def test_it_ends_without_a_traceback(tmp_path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "antiphase", "sweep", str(STUDY), "--dry-run", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(
        command, check=False, stdout=write, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    os.close(write)
    assert (ended.returncode, "Traceback" in ended.stderr, "BrokenPipeError" in ended.stderr) == (141, False, False)


def test_another_broken_pipe_is_no_secret(monkeypatch) -> None:
    def run(options, out) -> None:
        raise BrokenPipeError("a worker has ended")

    monkeypatch.setattr(cli.report, "run", run)
    with pytest.raises(BrokenPipeError, match="a worker has ended"):
        cli.main(["report", "somewhere"])
