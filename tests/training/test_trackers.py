"""W&B (offline) and trackio: their folders hold the metrics and the table of completions, with undefined scores."""

import importlib.util
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {tests!r})
from training_cases import run

def given(prompts, trainer):
    # Of each group, the first rollout is only an end token, so its score is undefined.
    tokenizer = trainer.processing_class
    wrote = [
        [*(10 + (7 * place + j) % 90 for j in range(0 if place % 4 == 0 else 11)), tokenizer.eos_token_id]
        for place in range(len(prompts))
    ]
    return {{"prompt_ids": [tokenizer(p).input_ids for p in prompts], "completion_ids": wrote, "logprobs": None}}

trainer = run({out!r} + "/run", max_steps=2, report_to={tracker!r}, log_completions=True, num_completions_to_print=0,
    inversion_weight=0.5, extra={{"rollout_func": given}})
with open({out!r} + "/history.json", "w") as file:
    json.dump(trainer.state.log_history[:2], file)
"""


def ran(folder, tracker):
    """Train in another process, with the tracker's files below the folder, and return the trainer's own log."""
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed (pip install {tracker})")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), out=str(folder), tracker=tracker))
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
        "WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(folder / "track"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((folder / "history.json").read_text())
    assert [row["inversion/undefined"] for row in history] == [0.25, 0.25]
    return history


def check_table(rows):
    """Check the rows of a table, in which the first rollout of each group has no score."""
    assert len(rows) == 8
    for place, row in enumerate(rows):
        score = math.nan if row["inversion"] is None else float(row["inversion"])
        assert math.isnan(score) == (place % 4 == 0)
        assert row["entropy"] > 0
        assert row["strength"] > 0
        assert math.isfinite(row["advantage"])


def test_wandb(tmp_path):
    history = ran(tmp_path, "wandb")
    [log] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    for row in history:
        for key in ("inversion/mean", "inversion/weight", "rollout/entropy", "task/within_group_std"):
            # In the log, a key stands before its value, which is JSON.
            values = re.findall(rf"\x12.train/{key}\x82\x01.([-0-9.e]+)".encode(), content, re.DOTALL)
            assert row[key] in [float(value) for value in values], key
    assert re.search(rb"train/inversion/correlation_step\x82\x01\x04null", content)
    tables = sorted(tmp_path.glob("wandb/offline-run-*/files/media/table/*.json"))
    assert tables
    for path in tables:
        table = json.loads(path.read_text())
        check_table([dict(zip(table["columns"], values, strict=True)) for values in table["data"]])


def test_trackio(tmp_path):
    history = ran(tmp_path, "trackio")
    [database] = (tmp_path / "track").glob("*.db")
    connection = sqlite3.connect(database)
    logged = [json.loads(metrics) for (metrics,) in connection.execute("SELECT metrics FROM metrics ORDER BY id")]
    connection.close()
    steps = [row for row in logged if "train/inversion/mean" in row]
    assert len(steps) == 2
    for row, found in zip(history, steps, strict=True):
        for key in ("inversion/mean", "inversion/weight", "rollout/entropy", "task/within_group_std"):
            assert found[f"train/{key}"] == row[key]
        assert found["train/inversion/correlation_step"] is None
    tables = [row["completions"]["_value"] for row in logged if "completions" in row]
    assert tables
    for table in tables:
        check_table(table)
