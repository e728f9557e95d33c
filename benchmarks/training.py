"""What measuring inversion adds to a training step, and to its memory, against plain GRPO on the same recipe.

Every case trains the recipe of recipes/smollm2-sums for a few steps in a process of its own: plain `GRPOTrainer`, then
CorR-PO with each estimator. The share is taken within each step (measuring ÷ whole step), so that a busy machine slows
both alike. Peak memory is the most that the process (or its GPU) held.

    python benchmarks/training.py [--model demo] [--steps 3] [--out benchmarks/results]

Writes OUT/training-DEVICE.json, one row per case.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from antiphase.runs.versions import commit, versions

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "smollm2-sums" / "recipe.yaml"
# Case → changes to the recipe; `full` measures a few tokens of each rollout, since each costs a backward pass.
CASES = {
    "grpo": None,
    "own": {"inversion_estimator": "own"},
    "last": {"inversion_estimator": "last"},
    "full:4": {"inversion_estimator": "full", "inversion_targets_per_rollout": "4", "inversion_min_tokens": "3"},
}


def train_case(case: str, model: str, steps: int) -> dict[str, object]:
    """Train one case here; seconds of each step after the first, which warms up, and the peak memory."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from antiphase.tasks.pool import VerifierPool
    from antiphase.training import inputs, train
    from antiphase.training.recipe import parse_recipe
    from antiphase.training.reward_names import reward_function

    changes = CASES[case] or {"inversion_weight": "0", "preset": "dapo"}
    with tempfile.TemporaryDirectory() as folder:
        words = ["--config", str(RECIPE), "--model", model, "--out", folder, "--eval_problems", "0"]
        words += ["--max_steps", str(steps + 1), "--save_strategy", "no"]
        recipe = parse_recipe(words + [word for key, value in changes.items() for word in (f"--{key}", value)])
        tokenizer, _ = inputs.load_tokenizer(recipe)
        problems, _ = inputs.draw_problems(recipe)
        table, ends = inputs.table_of(recipe, tokenizer, problems), inputs.end_token_ids(recipe, tokenizer)
        reward = reward_function("accuracy", VerifierPool())
        if case == "grpo":
            train.CorRPOTrainer = GRPOTrainer
        trainer = train._trainer(recipe, [reward], table, tokenizer, ends)
        # From the end of one step to the end of the next: the host generates before it calls on_step_begin.
        marks = []

        class Ends(TrainerCallback):
            def on_step_end(self, *_, **__):
                marks.append(time.perf_counter())

        trainer.add_callback(Ends())
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "reward" in entry][1:]
    measuring = [entry.get("inversion/seconds", 0.0) for entry in logs]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_rss()
    return {
        "step_seconds": list(np.diff(marks)),
        "measuring_seconds": measuring,
        "lengths": [entry["completions/mean_length"] for entry in logs],
        "peak_mib": peak / 2**20,
    }


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def row_of(case: str, found: dict, plain: dict) -> dict[str, object]:
    shares = np.array(found["measuring_seconds"]) / np.array(found["step_seconds"])
    row = {"case": case, "steps": len(shares), "peak_mib": found["peak_mib"]}
    for name, values in (("step_seconds", found["step_seconds"]), ("measuring_share", shares)):
        row |= {f"{name}_p{q}": float(np.percentile(values, q)) for q in (20, 50, 80)}
    row["peak_over_grpo"] = found["peak_mib"] / plain["peak_mib"]
    row["completion_tokens"] = float(np.mean(found["lengths"]))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(train_case(options.case, options.model, options.steps)))
        return
    found = {}
    for case in CASES:
        command = [sys.executable, "-W", "ignore", __file__, "--case", case]
        command += ["--model", options.model, "--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{case}:\n{done.stderr[-3000:]}")
        found[case] = json.loads(done.stdout.strip().splitlines()[-1])
        row = row_of(case, found[case], found["grpo"])
        print(
            f"{case:8} step {row['step_seconds_p50']:.1f} s, measuring {row['measuring_share_p50']:.1%} of it, "
            f"peak {row['peak_mib']:.0f} MiB ({row['peak_over_grpo']:.2f}× GRPO)",
            flush=True,
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result = {
        "model": options.model,
        "recipe": str(RECIPE.relative_to(ROOT)),
        "device": device,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "rows": [row_of(case, found[case], found["grpo"]) for case in CASES],
    }
    slug = "-".join(device.lower().split())
    path = options.out / f"training-{slug}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
