"""Real: the commands as users run them, on the embedded model where it is installed: probe, eval and training.

`probe` and `eval` measure GSM8K. The recipe of recipes/smollm2-sums is trained with CorR-PO and with its base method
alone, two seeds each, all at once: what counts is what they learn, so their times say nothing. Every evaluation on
held-out problems is a row. A training that does not end in time keeps the rows that it has.

Where the embedded model is not installed, and in a dry run, a random model of two layers stands for it.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kit import DEVICE, ROOT, Part

RECIPE = ROOT / "recipes" / "smollm2-sums" / "recipe.yaml"
METHODS = {"dapo+corr-po": [], "dapo": ["--preset", "dapo", "--inversion_weight", "0"]}
SEEDS = (0, 1)
PROBE = ["--num-prompts", "16", "--samples", "2", "--max-new-tokens", "64", "--estimator", "own,last,full:3"]
EVAL = ["--tasks", "gsm8k", "--num-problems", "24", "--samples", "4", "--max-new-tokens", "128"]
# The greatest difference of a token, relative to the mean; rounding of float32 is far below it.
AGREE_ROLLOUTS, AGREE_LIMIT = 8, 1e-3
# A dry run only shows that every command goes through.
DRY_PROBE = ["--prompts", "gsm8k", "--num-prompts", "2", "--max-new-tokens", "24", "--estimator", "own", "--device"]
DRY_PROBE += ["cpu", "--no-figures", "--no-report"]
DRY_EVAL = ["--tasks", "sums:digits=2|1", "--num-problems", "2", "--samples", "2", "--max-new-tokens", "16"]
DRY_EVAL += ["--device", "cpu"]
DRY_TRAIN = ["--max_steps", "1", "--eval_problems", "4", "--eval_samples", "1", "--eval_every", "1"]
DRY_TRAIN += ["--per_device_train_batch_size", "4", "--num_generations", "4", "--use_cpu", "true"]


def command(*words: object) -> list[str]:
    """A command of antiphase in a process of its own."""
    return [sys.executable, "-m", "antiphase", *map(str, words)]


def model_of(part: Part, folder: Path) -> str:
    """`demo`, converted once for all, or the folder of a random model."""
    from antiphase.models.demo import demo_model_path, embedded_gguf

    if embedded_gguf() is not None and not part.dry:
        with part.cell("convert") as row:
            row["model"] = Path(demo_model_path()).name
        return "demo"
    from shapes import byte_tokenizer, tiny_model

    tokenizer = byte_tokenizer(300)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    tiny_model("llama", num_hidden_layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(part: Part, words: list[str], row: dict[str, Any]) -> None:
    """Run a command to its end; raise with its last words where it fails."""
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=max(part.left, 1))
    row["seconds"] = round(time.monotonic() - start, 1)
    if done.returncode:
        row["output"] = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{words[3]} ended with {done.returncode}")


def probe(part: Part, model: str, out: Path) -> None:
    """The options of `make demo`; the pooled ρ of every estimator and unit."""
    with part.cell("probe", model=Path(model).name) as row:
        run(part, command("probe", model, *(DRY_PROBE if part.dry else PROBE), "--out", out), row)
        found = json.loads((out / "summary.json").read_text())["results"]
        row["device"], row["dtype"] = found[0]["device"], found[0]["dtype"]
        row["correlation"] = {
            one["estimator"]: {
                name: [unit[key] for key in ("value", "low", "high", "num_items")]
                for name, unit in one["units"].items()
            }
            for one in found
        }


def agree(part: Part, model: str, rollouts: Path, folder: Path) -> None:
    """Measure the same rollouts on the device and on the CPU: all values must be equal but for rounding."""
    import pandas as pd

    with part.cell("agree", model=Path(model).name) as row:
        given = pd.read_parquet(rollouts)
        given = given[given.estimator == given.estimator.iloc[0]].head(AGREE_ROLLOUTS)
        given[["prompt_id", "rollout_id", "prompt_ids", "completion_ids"]].to_parquet(folder / "given.parquet")
        words = [model, "--rollouts", folder / "given.parquet", "--estimator", "own,last,full:3", "--dtype", "float32"]
        words += ["--allow-short", "--no-figures", "--no-report", "--quiet", "--num-resamples", "10"]
        tables = {}
        for device in ("cpu", str(DEVICE)):
            out = folder / f"agree-{len(tables)}"
            run(part, command("probe", *words, "--device", device, "--out", out), row)
            tables[out] = pd.read_parquet(out / "tokens.parquet")
        here, there = tables.values()
        assert here.rollout_id.equals(there.rollout_id)
        assert here.token_id.equals(there.token_id)
        for estimator, same in here.groupby("estimator"):
            for name in ("strength", "entropy"):
                other = there.loc[same.index, name]
                known = same[name].notna()
                difference = (same[name] - other)[known]
                row[f"{estimator}, {name}"] = float(difference.abs().max() / same[name][known].abs().mean())
                if not row[f"{estimator}, {name}"] <= AGREE_LIMIT:
                    row["status"] = "wrong"


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
            probe(part, model, folder / "probe")
            agree(part, model, folder / "probe" / "rollouts.parquet", folder)
            evaluate(part, model, folder / "eval")
            finish(part, started, folder)
        finally:
            for process in started.values():
                process.kill()


if __name__ == "__main__":
    main()
