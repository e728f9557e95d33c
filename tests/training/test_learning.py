"""It learns, really: the tiny recipe from scratch, on problems held out from training. Slow: minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from antiphase.training.trajectory import read_trajectory

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_tiny_recipe_gains_ten_points_held_out(tmp_path):
    sft, rl = tmp_path / "sft", tmp_path / "rl"
    run("recipes/tiny/sft.py", "--out", sft, "--seed", 0)
    reasoned = json.loads((sft / "sft.json").read_text())
    # The gate of the recipe: a model that cannot reason has nothing to prefer.
    assert reasoned["reasoned_accuracy"] >= 0.93
    probes = [row for row in read_trajectory(sft) if row["kind"] == "probe"]
    assert len(probes) == 13
    assert all(row["probe/spearman_low"] <= row["probe/spearman"] <= row["probe/spearman_high"] for row in probes)
    run("-m", "antiphase", "train", "--config", "recipes/tiny/recipe.yaml", "--model", sft, "--out", rl)
    start, end = json.loads((rl / "summary.json").read_text())["heldout"]
    assert end["heldout/pass@1"] - start["heldout/pass@1"] >= 0.10
    assert end["heldout/pass@1_low"] > start["heldout/pass@1_high"]
    assert end["heldout/greedy"] >= start["heldout/greedy"]
