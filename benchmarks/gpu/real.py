"""Real: the commands as users run them, on the embedded model where it is installed: evaluation and training.

`eval` measures GSM8K. The recipe of recipes/smollm2-sums is trained with CorR-PO and with its base method
alone, two seeds each, all at once: what counts is what they learn, so their times say nothing. Every evaluation on
held-out problems is a row. A training that does not end in time keeps the rows that it has.

Where the embedded model is not installed, and in a dry run, a random model of two layers stands for it.
"""

import itertools
import json
import os
import subprocess
import tempfile
from pathlib import Path

from kit import ROOT, Part

from commands import command, model_of, run

RECIPE = ROOT / "recipes" / "smollm2-sums" / "recipe.yaml"
METHODS = {"dapo+corr-po": [], "dapo": ["--preset", "dapo", "--inversion_weight", "0"]}
SEEDS = (0, 1)
EVAL = ["--tasks", "gsm8k", "--num-problems", "24", "--samples", "4", "--max-new-tokens", "128"]
# A dry run only shows that every command goes through.
DRY_EVAL = ["--tasks", "sums:digits=2|1", "--num-problems", "2", "--samples", "2", "--max-new-tokens", "16"]
DRY_EVAL += ["--device", "cpu"]
DRY_TRAIN = ["--max_steps", "1", "--eval_problems", "4", "--eval_samples", "1", "--eval_every", "1"]
DRY_TRAIN += ["--per_device_train_batch_size", "4", "--num_generations", "4", "--use_cpu", "true"]


def evaluate(part: Part, model: str, out: Path) -> None:
    """Accuracy and ρ on GSM8K, then the page."""
    with part.cell("eval", model=Path(model).name) as row:
        run(part, command("eval", model, *(DRY_EVAL if part.dry else EVAL), "--out", out), row)
        row["results"] = json.loads((out / "summary.json").read_text())["results"]
    with part.cell("report") as row:
        run(part, command("report", out), row)


def trainings(part: Part, model: str, folder: Path) -> dict[tuple[str, int], "subprocess.Popen[bytes]"]:
    """Start every method with every seed."""
    started = {}
    cores = max(1, (os.cpu_count() or 1) // (len(METHODS) * len(SEEDS)))
    env = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    for (method, words), seed in itertools.product(METHODS.items(), SEEDS[: 1 if part.dry else None]):
        out = folder / f"{method}-{seed}"
        with (folder / f"{method}-{seed}.log").open("wb") as log:
            started[method, seed] = subprocess.Popen(
                command("train", "--config", RECIPE, "--model", model, "--out", out, "--seed", seed, *words)
                + (DRY_TRAIN if part.dry else []),
                stdout=log, stderr=log, env=env,
            )  # fmt: skip
    return started


def finish(part: Part, started: dict[tuple[str, int], "subprocess.Popen[bytes]"], folder: Path) -> None:
    """Wait for the trainings as long as there is time; a row for every evaluation, and one for every step."""
    for (method, seed), process in started.items():
        name = f"{method}-{seed}"
        with part.cell("train", method=method, seed=seed) as row:
            try:
                code = process.wait(max(part.left, 1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code, row["status"] = 0, "skipped: no time for all steps"
            trajectory = folder / name / "trajectory.jsonl"
            lines = trajectory.read_text().splitlines() if trajectory.exists() else []
            for entry in map(json.loads, lines):
                case = {"eval": "heldout", "step": "trained step"}.get(entry["kind"])
                if case is not None:
                    values = {key: value for key, value in entry.items() if isinstance(value, int | float | list)}
                    part.row(case, status="ok", method=method, seed=seed, **values)
            if code:
                row["output"] = (folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the training ended with {code}")
            if (folder / name / "summary.json").exists():
                row["summary"] = json.loads((folder / name / "summary.json").read_text())


def main() -> None:
    part = Part.from_command_line("real")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_of(part, folder / "model")
        started = trainings(part, model, folder)
        try:
            evaluate(part, model, folder / "eval")
            finish(part, started, folder)
        finally:
            for process in started.values():
                process.kill()


if __name__ == "__main__":
    main()
