"""The figures that each kind of run draws into its folder `figures/`, and how to add one.

A figure is a function with an entry in `FIGURES`. It takes the data of a run:

    probe        tokens (one row per estimator and generated token), results
    checkpoints  trajectory (what trajectory.json holds), references (the published curves)
    eval         results
    compare      tasks, points, smallest (the smallest difference that matters)
    study        findings (what findings.json holds), points, smallest
    train        rows (of trajectory.jsonl)

The function returns a matplotlib figure, whose files are named as its entry; or several figures by the names of their
files; or None, if this run has nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from antiphase.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure | Mapping[str, Figure] | None"]

_PLACES = {
    "probe": {
        "entropy_strength": "correlations:entropy_strength",
        "model_comparison": "probes:all_results",
        "layer_map": "probes:layer_maps",
        "rollout": "probes:rollouts",
    },
    "checkpoints": {"trajectory": "checkpoints:checkpoint_curves"},
    "eval": {"accuracy": "evaluation:evaluation_accuracy", "right_from_wrong": "evaluation:measured_scores"},
    "compare": {"differences": "differences:differences", "accuracy_inversion": "differences:accuracy_by_task"},
    "study": {
        "differences": "study:differences",
        "stages": "study:stages",
        "accuracy_inversion": "study:accuracy_by_group",
    },
    "train": {"trajectory": "trajectory:trajectory_curves"},
}
# The figures of each kind of run.
FIGURES: Mapping[str, Registry[Draw]] = {
    kind: Registry("figure", {name: f"antiphase.figures.{place}" for name, place in places.items()})
    for kind, places in _PLACES.items()
}


def figures_of(kind: str, *data: Any) -> dict[str, Figure]:
    """Draw the figures of a run.

    Args:
        kind: the kind of the run, a key of `FIGURES`.
        data: what the functions of this kind take.

    Returns:
        the figures by the names of their files, without suffix.
    """
    found: dict[str, Figure] = {}
    for name, draw in FIGURES[kind].items():
        drawn = draw(*data)
        if drawn is not None:
            found |= drawn if isinstance(drawn, Mapping) else {name: drawn}
    return found
