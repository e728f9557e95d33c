"""Makes the content of summary.json: the results of a finished training run, from its trajectory."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from antiphase.inversion.alarm import SAMPLED_ACCURACY
from antiphase.inversion.step_times import time_table
from antiphase.models.architecture import left_out, unwrap
from antiphase.models.quantization import quantization_facts, quantization_of
from antiphase.runs.versions import commit, versions
from antiphase.training.out_folder import TRAINING
from antiphase.training.recipe import Recipe
from antiphase.training.trajectory import read_times, read_trajectory


def summarize_run(recipe: Recipe, trainer: Any, seconds: float) -> dict[str, Any]:
    """Return the results of a finished run, which become the content of its summary.json.

    Args:
        recipe: the run's recipe.
        trainer: the trainer, after its training.
        seconds: seconds since the run was started or last resumed, including its evaluations.
    """
    trajectory = read_trajectory(Path(recipe.config.output_dir))
    steps = [row for row in trajectory if row["kind"] == "step"]
    evals = [row for row in trajectory if row["kind"] == "eval"]
    tenth = max(1, len(steps) // 10)
    change = {}
    for key in ("heldout/pass@1", "heldout/greedy"):
        if evals:
            change[key] = [evals[0].get(key), evals[-1].get(key)]
    # Dynamic sampling chooses the batch by its rewards, so the accuracy of the batch would mislead.
    sampled = any(SAMPLED_ACCURACY in row for row in steps)
    accuracy = SAMPLED_ACCURACY if sampled else "task/accuracy"
    for key in (accuracy, "inversion/mean", "inversion/undefined", "rollout/entropy", "rollout/length"):
        change[key] = [_mean(steps[:tenth], key), _mean(steps[-tenth:], key)]
    settings = {**recipe.resolved, "model_name_or_path": recipe.options.model}
    return {
        "format": TRAINING.format,
        "format_version": TRAINING.version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions() | {name: metadata.version(name) for name in ("trl", "accelerate", "datasets")},
        "commit": commit(),
        "seed": recipe.config.seed,
        "device": str(trainer.accelerator.device),
        "quantization": quantization_facts(quantization_of(cast(Any, unwrap(trainer.model)).config)),
        "num_processes": trainer.accelerator.num_processes,
        "left_out": left_out(unwrap(trainer.accelerator.unwrap_model(trainer.model))),
        "config": settings,
        "change": change,
        "heldout": [evals[0], evals[-1]] if evals else [],
        "num_steps": trainer.state.global_step,
        "alarms": trainer.watch.alarms,
        "sitting_seconds": seconds,
        "measuring_seconds": sum(row["inversion/seconds"] for row in steps),
        "times": time_table(read_times(Path(recipe.config.output_dir))),
    }


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in steps if row.get(key) is not None]
    return sum(values) / len(values) if values else None
