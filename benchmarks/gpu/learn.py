"""Learn: the recipe of recipes/tiny from end to end: supervised training from random weights, then CorR-PO.

Each is run as a user runs it, in a process of its own, on the device that it finds. Rows: what supervised training
came to, every evaluation of the training, and its summary.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kit import ROOT, Part

RECIPE = ROOT / "recipes" / "tiny"
# A dry run trains next to nothing: what it shows is that every step is taken.
DRY_SFT = ["--steps", "4", "--hidden", "32"]
DRY_TRAIN = ["--max_steps", "1", "--eval_problems", "4", "--eval_samples", "1", "--eval_every", "1"]
DRY_TRAIN += ["--per_device_train_batch_size", "8", "--num_generations", "4", "--use_cpu", "true"]


def run(part: Part, case: str, command: list[str], row: dict[str, Any]) -> None:
    """Run a command of the recipe; raise with its last words where it fails."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(part.left, 1)
    )
    row["seconds"] = round(time.monotonic() - start, 1)
    if done.returncode:
        row["output"] = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{case} ended with {done.returncode}")


def main() -> None:
    part = Part.from_command_line("learn")
    with tempfile.TemporaryDirectory() as folder:
        sft, rl = Path(folder) / "sft", Path(folder) / "rl"
        with part.cell("sft") as row:
            run(part, "sft.py", [str(RECIPE / "sft.py"), "--out", str(sft), *(DRY_SFT if part.dry else [])], row)
            row.update(json.loads((sft / "sft.json").read_text()))
        if not (sft / "sft.json").exists() or part.left < 5:
            return
        with part.cell("train") as row:
            command = ["-m", "antiphase", "train", "--config", str(RECIPE / "recipe.yaml")]
            command += ["--model", str(sft), "--out", str(rl), *(DRY_TRAIN if part.dry else [])]
            try:
                run(part, "antiphase train", command, row)
            finally:
                trajectory = rl / "trajectory.jsonl"
                for line in trajectory.read_text().splitlines() if trajectory.exists() else ():
                    entry = json.loads(line)
                    if entry["kind"] == "eval":
                        part.row("eval", status="ok", **{k: v for k, v in entry.items() if k != "kind"})
            row["summary"] = json.loads((rl / "summary.json").read_text())


if __name__ == "__main__":
    main()
