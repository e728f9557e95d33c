"""Draw the figures of a comparison: differences between methods, and accuracy against inversion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.errors import InvalidInputError
from antiphase.figures.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    canvas,
    describe,
    drawable,
    panels,
    rows_of_dots,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X<>hp"
_VERDICTS = {"better": BLUE, "worse": ORANGE}


def method_differences(tasks: Mapping[str, Mapping[str, Any]], smallest: float) -> Figure:
    """Draw the difference in accuracy between each method and the reference, in one panel for each task.

    A difference is blue if its verdict is `better`, orange if it is `worse`, and grey otherwise. All differences lie
    within the axis, but the end of a wide interval may lie outside.

    Args:
        tasks: the results of each task, as `Comparison.tasks` holds them.
        smallest: the smallest difference that matters. The figure shows ± this difference as a band.
    """
    if not tasks:
        raise InvalidInputError("there is no task to draw; a figure needs at least one.")
    rows = max(len(task["entrants"]) for task in tasks.values())
    columns = min(3, len(tasks))
    with canvas(3.3 * columns + 1.2, (0.26 * rows + 0.9) * math.ceil(len(tasks) / columns) + 0.4) as (_, figure):
        found = [
            abs(e["differences"]["accuracy"]["difference"])
            for t in tasks.values()
            for e in t["entrants"]
            if "accuracy" in e["differences"]
        ]
        reach = min(1.0, max(4 * smallest, 1.4 * max(found, default=0.0)))
        for axes, (name, task) in zip(panels(figure, len(tasks), columns, sharex=True), tasks.items(), strict=True):
            _forest(axes, name, task, smallest)
            axes.set_xlim(-reach, reach)
        figure.supxlabel("difference in accuracy, 95 % interval over problems and seeds", fontsize=8.5)
    return figure


def _forest(axes: Any, name: str, task: Mapping[str, Any], smallest: float) -> None:
    """Draw the panel of one task: a dot with an interval for each method, and a band of ± `smallest`."""
    entrants = [entrant for entrant in task["entrants"] if entrant["name"] != task["reference"]]
    axes.axvspan(-smallest, smallest, color=FAINT, alpha=0.5, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, entrant in enumerate(entrants):
        difference = entrant["differences"]["accuracy"]
        if difference["low"] is None:
            axes.text(0, row, " no interval", color=GREY, va="center_baseline", fontsize=7)
            continue
        color = _VERDICTS.get(difference["verdict"], GREY)
        axes.plot(difference["difference"], row, "o", color=color, ms=4, zorder=3)
        axes.hlines(row, difference["low"], difference["high"], color=color, linewidth=1.4)
    axes.set_yticks(range(len(entrants)), [shorten(entrant["name"], 24) for entrant in entrants])
    axes.set_ylim(len(entrants) - 0.5, -0.5)
    axes.set_title(f"{shorten(name, 40)}\nagainst {shorten(task['reference'], 24)}", fontsize=8)
    rows_of_dots(axes)


def accuracy_against_inversion(
    points: Sequence[Mapping[str, Any]], across: Mapping[str, Any], name: str = "inversion"
) -> Figure:
    """Draw the accuracy of every run against its inversion ι. Two more panels show it against entropy and length.

    Args:
        points: the accuracy, ι and other numbers of each run, as `Comparison.points` holds them.
        across: the rank correlations of these numbers with accuracy. The titles show them.
        name: the kind of ι: `inversion` (ρ is computed over all rollouts together) or `inversion_within` (the mean of
            the ι of single rollouts).
    """
    kinds = (
        (name, "ι = −ρ, pooled" if name == "inversion" else "mean ι of the rollouts"),
        ("low_entropy", "minus mean entropy (nats)"),
        ("shortness", "minus mean length (tokens)"),
    )
    labels = list(dict.fromkeys(point["entrant"] for point in points))
    with canvas(9.6, 3.4) as (mpl, figure):
        colors = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(2, len(labels))))
        for axes, (kind, title) in zip(figure.subplots(1, 3, sharey=True), kinds, strict=True):
            for place, label in enumerate(labels):
                own = [p for p in points if p["entrant"] == label and p[kind] is not None]
                axes.plot(
                    [p[kind] for p in own],
                    [p["accuracy"] for p in own],
                    _MARKERS[place % len(_MARKERS)],
                    color=colors[place],
                    ms=4,
                    alpha=0.75,
                    mec="white",
                    mew=0.3,
                    label=shorten(label, 24),
                )
            found = across.get(kind)
            triple = [np.nan if found is None or found[k] is None else found[k] for k in ("spearman", "low", "high")]
            axes.set_title(f"{drawable(title)}\nrank correlation {describe(*triple)}", fontsize=8)
            axes.grid(color=FAINT, linewidth=0.6)
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        figure.axes[0].set_ylabel("accuracy")
        if len(labels) <= 24:
            handles, names = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right center", fontsize=7)
    return figure


def accuracy_by_task(tasks: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Draw accuracy against inversion for each task of a comparison that has measured signals and at least 4 runs.

    The keys of the mapping are the names of the figures: `accuracy_inversion`, with a number if there are several
    tasks.
    """
    figures = {}
    for number, (name, task) in enumerate(tasks.items()):
        own = [point for point in points if point["task"] == name]
        if task["across"] and any(point["inversion"] is not None for point in own):
            suffix = f"_{number + 1}" if len(tasks) > 1 else ""
            figures[f"accuracy_inversion{suffix}"] = accuracy_against_inversion(own, task["across"])
    return figures
