"""Register the figures that each kind of run writes into its folder `figures/`. You can add your own.

A figure is a function with an entry in `FIGURES`. The names of its parameters say which data of the run it takes:

    probe        tokens (one row per estimator and generated token), results
    checkpoints  trajectory (what trajectory.json holds), references (the published curves)
    eval         results
    compare      tasks, points, smallest (the smallest difference that matters)
    study        findings (what findings.json holds), points, smallest
    train        trajectory (the rows of trajectory.jsonl)

The function returns one of three things: a matplotlib figure, whose files get the name of the entry; a mapping from
the names of files to figures; or None if this run has nothing to draw.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from antiphase.errors import InvalidInputError
from antiphase.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure | Mapping[str, Figure] | None"]

_PLACES = {
    "probe": {
        "entropy_strength": "correlations:entropy_strength",
        "model_comparison": "probes:model_comparison",
        "layer_map": "probes:layer_maps",
        "rollout": "probes:rollouts",
    },
    "checkpoints": {"trajectory": "checkpoints:checkpoint_curves"},
    "eval": {"accuracy": "evaluation:evaluation_accuracy", "right_from_wrong": "evaluation:measured_scores"},
    "compare": {"differences": "differences:method_differences", "accuracy_inversion": "differences:accuracy_by_task"},
    "study": {
        "differences": "study:differences",
        "stages": "study:stages",
        "accuracy_inversion": "study:accuracy_by_group",
    },
    "train": {"trajectory": "trajectory:trajectory_curves"},
}
FIGURES: Mapping[str, Registry[Draw]] = {
    kind: Registry("figure", {name: f"antiphase.figures.{place}" for name, place in places.items()})
    for kind, places in _PLACES.items()
}
"""The registry of figures of each kind of run."""


def figures_of(kind: str, **data: Any) -> dict[str, Figure]:
    """Draw the figures of a run.

    Args:
        kind: the kind of the run, a key of `FIGURES`.
        data: the data of the run. The docstring of this module lists their names.

    Returns:
        a mapping from the name of a file, without suffix, to its figure.

    Raises:
        InvalidInputError: a figure's function has a parameter that is not the name of any data of this kind of run.
    """
    found: dict[str, Figure] = {}
    for name, draw in FIGURES[kind].items():
        wanted = inspect.signature(draw).parameters
        if unknown := [key for key in wanted if key not in data]:
            raise InvalidInputError(
                f"the figure {name!r} needs {', '.join(unknown)}, but a run of this kind has only {', '.join(data)}."
            )
        drawn = draw(**{key: data[key] for key in wanted})
        if drawn is not None:
            found |= drawn if isinstance(drawn, Mapping) else {name: drawn}
    return found
