"""Draw the figures of a study: differences by group, ρ and accuracy along a training, accuracy against inversion.

ρ is the correlation of entropy and strength. A group is one model and setting of the study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.figures.differences import accuracy_against_inversion, method_differences
from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas, panels, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_stages(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the correlation ρ (blue) and accuracy (orange) at every stage of a training, a panel for each group.

    A stage is a checkpoint along the making of a model; the study evaluates it but does not train it. A group is one
    model and setting. Each seed is a thin line, and the mean over seeds is a thick line.

    Args:
        stages: for each group, a row for each stage and seed, in the order of training.
    """
    columns = min(3, len(stages))
    with canvas(3.2 * columns + 0.6, 2.3 * math.ceil(len(stages) / columns) + 0.5) as (_, figure):
        for axes, (name, rows) in zip(panels(figure, len(stages), columns, sharey=True), stages.items(), strict=True):
            places = list(dict.fromkeys(row["stage"] for row in rows))
            axes.axhline(0, color=INK, linewidth=0.6)
            for color, key in ((BLUE, "spearman"), (ORANGE, "accuracy")):
                _lines(axes, rows, places, key, color)
            axes.set_xticks(range(len(places)), [shorten(place, 10) for place in places], rotation=30, ha="right")
            axes.set_ylim(-1, 1)
            axes.set_title(shorten(name, 36), fontsize=8)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes = figure.axes[0]
        axes.plot([], [], color=BLUE, label="ρ(entropy, strength), pooled")
        axes.plot([], [], color=ORANGE, label="accuracy")
        axes.plot([], [], color=GREY, linewidth=0.6, alpha=0.6, label="one seed")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _lines(axes: Any, rows: Sequence[Mapping[str, Any]], places: Sequence[str], key: str, color: str) -> None:
    """Draw one number (ρ or accuracy) over the stages: a thin line for each seed, and a thick line for their mean.

    Args:
        axes: the axes to draw on.
        rows: a row for each stage and seed.
        places: the names of the stages, from left to right.
        key: the name of the number in a row.
        color: the colour of the lines.
    """
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    curves = np.full((len(seeds), len(places)), np.nan)
    for row in rows:
        value = row[key]["value"] if isinstance(row[key], Mapping) else row[key]
        curves[seeds.index(row["seed"]), places.index(row["stage"])] = np.nan if value is None else value
    axes.plot(curves.T, color=color, linewidth=0.6, alpha=0.5)
    defined = ~np.isnan(curves).all(axis=0)
    axes.plot(np.flatnonzero(defined), np.nanmean(curves[:, defined], axis=0), color=color, linewidth=2)


def differences(findings: Mapping[str, Any], smallest: float) -> Figure | None:
    """Draw the figure `differences` of a study: the differences in accuracy between trained methods.

    It has a panel for each group (one model and setting) with at least two trained methods. Without such a group, the
    result is None.
    """
    trained = {name: task for name, task in _trained(findings).items() if len(task["entrants"]) > 1}
    return method_differences(trained, smallest) if trained else None


def stages(findings: Mapping[str, Any]) -> Figure | None:
    """Draw the figure `stages` of a study; see `training_stages`.

    It has a panel for each group (one model and setting) with at least two stages (checkpoints that are only
    evaluated). Without such a group, the result is None.
    """
    staged = {name: rows for name, rows in findings["stages"].items() if len({row["stage"] for row in rows}) > 1}
    return training_stages(staged) if staged else None


def accuracy_by_group(findings: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the figure `accuracy_inversion` of a study: each point is one evaluated model, each colour one group.

    A group is one model and setting. The figure is None if there is nothing to draw.
    """
    across = findings["across"]["all"]
    if not across or all(point["inversion"] is None for point in points):
        return None
    return accuracy_against_inversion([{**point, "entrant": point["task"]} for point in points], across)


def _trained(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison of each group of a study, with only the trained methods.

    The models before training, whose differences are large, would only widen the axes.
    """
    tasks = findings["groups"]["tasks"]
    stages = {name: {row["stage"] for row in rows} for name, rows in findings["stages"].items()}
    return {
        name: {**task, "entrants": [e for e in task["entrants"] if e["name"] not in stages[name]]}
        for name, task in tasks.items()
    }
