"""What a finished run came to: the content of summary.json."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from antiphase.runs.versions import commit, versions
from antiphase.training.recipe import Recipe
from antiphase.training.trajectory import read_trajectory

FORMAT, FORMAT_VERSION = "antiphase-train", 1


def summarize_run(recipe: Recipe, trainer: Any, seconds: float) -> dict[str, Any]:
    """The content of summary.json, from the trajectory.

    Args:
        recipe: of the run.
        trainer: that has finished.
        seconds: of this sitting, evaluations included.
    """
    trajectory = read_trajectory(Path(recipe.config.output_dir))
    steps = [row for row in trajectory if row["kind"] == "step"]
    evals = [row for row in trajectory if row["kind"] == "eval"]
    tenth = max(1, len(steps) // 10)
    change = {}
    for key in ("heldout/pass@1", "heldout/greedy"):
        if evals:
            change[key] = [evals[0].get(key), evals[-1].get(key)]
    for key in ("task/accuracy", "inversion/mean", "inversion/undefined", "rollout/entropy", "rollout/length"):
        change[key] = [_mean(steps[:tenth], key), _mean(steps[-tenth:], key)]
    settings = {**recipe.resolved, "model_name_or_path": recipe.options.model}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions() | _train_versions(),
        "commit": commit(),
        "seed": recipe.config.seed,
        "device": str(trainer.accelerator.device),
        "num_processes": trainer.accelerator.num_processes,
        "config": settings,
        "change": change,
        "heldout": [evals[0], evals[-1]] if evals else [],
        "num_steps": trainer.state.global_step,
        "alarms": trainer.watch.alarms,
        "sitting_seconds": seconds,
        "measuring_seconds": sum(row["inversion/seconds"] for row in steps),
    }


def _train_versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("trl", "accelerate", "datasets")}


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in steps if row.get(key) is not None]
    return sum(values) / len(values) if values else None
