"""Draw how ρ, the correlation of entropy and strength, changes along the checkpoints of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from antiphase.data.published import PublishedCurve
from antiphase.errors import InvalidInputError
from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas, shorten, statistic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, INK, "#3d8a5f", "#8a5aa8")
_MARKS = ("o", "s", "^", "v", "D", "P")
_NAMES = {"type": "ρ by type", "token": "ρ by token", "step": "ρ by step"}
# A panel with published curves shows at least this many steps, because their second point is at step 200.
_LEAST_SPAN = 200
_MOST_LABELS = 12


def checkpoint_curves(trajectory: Mapping[str, Any], references: Sequence[PublishedCurve] = ()) -> Figure:
    """Draw ρ, the correlation of entropy and strength, by training step, with 95 % intervals as bands.

    There is one panel for each unit (type, token, step) and one line for each estimator. A published curve is a dotted
    line in the panel of its unit, as far as the trajectory reaches. If the checkpoints have no training steps, but
    only an index in a list, the published curves are left out.

    Args:
        trajectory: the content of trajectory.json.
        references: the published curves.

    Raises:
        InvalidInputError: no checkpoint was measured.
    """
    points = trajectory["checkpoints"]
    if not points:
        raise InvalidInputError("the trajectory has no checkpoint; measure one first.")
    headline = points[0]["results"][0]["headline"]
    units = [headline, *(unit for unit in _NAMES if unit != headline)]
    numbered = bool(trajectory["numbered"])
    shown = references if numbered else ()
    with canvas(9.6 if shown else 7.6, 2.9) as (_, figure):
        axes = figure.subplots(1, len(units), sharey=True)
        for unit, axis in zip(units, axes, strict=True):
            for place, colour in zip(range(len(points[0]["results"])), _COLOURS * len(points), strict=False):
                _line(axis, points, place, unit, colour)
            drawn = _references(axis, [curve for curve in shown if curve.unit == unit], points[-1]["step"])
            _place_ticks(axis, points, numbered, drawn)
            axis.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
            axis.set(title=_NAMES[unit], xlabel="training step" if numbered else "checkpoint")
        if len(points[0]["results"]) > 1:
            axes[-1].legend(loc="best")
        handles, labels = axes[units.index("type")].get_legend_handles_labels()
        dotted = [(h, text) for h, text in zip(handles, labels, strict=True) if text in {c.label for c in shown}]
        if dotted:
            figure.legend(
                [h for h, _ in dotted], [text for _, text in dotted], loc="outside right upper",
                title="published, over types", title_fontsize=8,
            )  # fmt: skip
    return figure


def _line(axis: Any, points: Sequence[Mapping[str, Any]], place: int, unit: str, colour: str) -> None:
    """Draw the correlation ρ of one estimator over one unit, with its interval, as a line over the checkpoints.

    Args:
        axis: the axes to draw on.
        points: the entries of the checkpoints in trajectory.json.
        place: the index of the estimator in each checkpoint's list of results.
        unit: the unit: `type`, `token` or `step`.
        colour: the colour of the line.
    """
    results = [point["results"][place] for point in points]
    x = [point["step"] for point in points]
    y, low, high = zip(*(statistic(result["units"][unit]) for result in results), strict=True)
    axis.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=results[0]["estimator"], zorder=3)
    if len(x) > 1:
        axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=1)
    else:
        axis.vlines(x, low, high, color=colour, linewidth=0.9)


def _references(axis: Any, curves: Sequence[PublishedCurve], last: int) -> bool:
    """Draw the published curves, and return whether there are any.

    The axis ends at the last step of the trajectory, or at `_LEAST_SPAN` if that is later.
    """
    for curve, mark in zip(curves, _MARKS, strict=False):
        axis.plot(
            curve.steps, curve.spearman, color=GREY, linewidth=0.9, linestyle=":", marker=mark, markersize=2.8,
            markerfacecolor="white", markeredgewidth=0.7, label=curve.label, zorder=2,
        )  # fmt: skip
    if curves:
        span = max(last, _LEAST_SPAN)
        axis.set_xlim(-0.03 * span, 1.03 * span)
    return bool(curves)


def _place_ticks(axis: Any, points: Sequence[Mapping[str, Any]], numbered: bool, drawn: bool) -> None:
    """Label the axis of the training steps.

    If the checkpoints have no training steps (`numbered` is False), their names are the labels. `drawn` says whether
    the panel has published curves.
    """
    if numbered:
        if len(points) == 1 and not drawn:
            axis.set_xticks([points[0]["step"]])
        return
    every = math.ceil(len(points) / _MOST_LABELS)
    axis.set_xticks(
        [point["step"] for point in points[::every]],
        [shorten(point["checkpoint"], 16) for point in points[::every]],
        rotation=35,
        ha="right",
    )
