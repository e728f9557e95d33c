"""recipes/tiny/sft.py makes a model, and says how often it is right."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_model_of_two_steps(tmp_path):
    words = ["--sentences", "--hidden", "16", "--layers", "1", "--heads", "2", "--digits", "12", "--steps", "2"]
    command = [sys.executable, str(ROOT / "recipes/tiny/sft.py"), *words, "--batch", "4", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "sft.json").read_text())
    assert set(found) == {"accuracy", "reasoned_share", "reasoned_accuracy", "greedy_reasoned_accuracy"}
    assert all(0 <= share <= 1 for share in found.values())
    assert "on held-out problems: accuracy" in done.stdout
