"""The figure of the verdict: what SFT does to ρ and what CorR-PO does to accuracy, beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from emergence_findings import Value
from emergence_settings import ROLLOUTS
from finding import Finding
from rl_claims import GAINS, RL_CHANGES
from verdict_claims import SFT_CHANGES

from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The sets of texts that are drawn, each with its words, colour and place below the row's middle.
_TEXTS = {"reasoning": ("on held-out reasoning texts", BLUE, -0.14), ROLLOUTS: ("on its own rollouts", ORANGE, 0.14)}
# The methods that are drawn, each with its words, colour, marker and place below the row's middle.
_METHODS = {
    "corr-po": ("CorR-PO", BLUE, "o", -0.24),
    "shuffled": ("control: strengths shuffled", GREY, "s", 0.0),
    "random": ("control: random scores", GREY, "x", 0.24),
}


def verdict_figure(
    changes: Mapping[str, Mapping[str, Value]], gains: Sequence[Finding], lowered: Sequence[Finding]
) -> Figure:
    """Draw the changes of ρ by SFT, the gains of accuracy by CorR-PO, and what CorR-PO does to ρ.

    Args:
        changes: for each corpus that was trained on, the change of ρ by sentence on each set of texts.
        gains: the findings on the accuracy of CorR-PO and its controls.
        lowered: the findings on ρ after CorR-PO, against ρ after GRPO or after the control.
    """
    scales = list(dict.fromkeys(one.scale for one in gains))
    with canvas(15.4, 1.9 + 0.42 * max(len(changes), len(scales) + 1, 3)) as (_, figure):
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.25, 1))
        _changes(left, changes)
        _gains(middle, scales, gains)
        _lowered(right, lowered)
    return figure


def _changes(axis: Axes, changes: Mapping[str, Mapping[str, Value]]) -> None:
    """Draw a row for each corpus, and the range of the published changes as a band."""
    axis.axvspan(*sorted(SFT_CHANGES), color=FAINT, alpha=0.55, linewidth=0, zorder=0)
    axis.text(sum(SFT_CHANGES) / 2, -0.8, "published,\nby type", ha="center", va="center", fontsize=6.5, color=GREY)
    for row, by_texts in enumerate(changes.values()):
        for texts, (words, colour, place) in _TEXTS.items():
            _point(axis, by_texts[texts], row + place, 1.0, colour, "o", words if row == 0 else None)
    _rows(axis, [f"SFT on {corpus}" for corpus in changes] or ["no training has run yet"])
    axis.set(title="Does SFT on reasoning, and only it, turn ρ negative?", xlabel="change of ρ by sentence")
    if changes:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _gains(axis: Axes, scales: Sequence[str], gains: Sequence[Finding]) -> None:
    """Draw the paper's gains in the first row, and a row for each scale of ours."""
    ordered = sorted(GAINS, key=GAINS.__getitem__)
    for place, model in enumerate(ordered):
        axis.plot(GAINS[model], 0, "D", color=INK, markersize=4.5)
        # The first name stands on the left of its mark, the last one on the right, and others stand above.
        side = {0: ("right", (-6, -2)), len(ordered) - 1: ("left", (6, -2))}.get(place, ("center", (0, 7)))
        where = {"ha": side[0], "xytext": side[1], "textcoords": "offset points"}
        axis.annotate(model, (GAINS[model], 0), fontsize=6.5, **where)
    drawn = set()
    for one in gains:
        for method, (words, colour, marker, place) in _METHODS.items():
            if one.what == f"accuracy of {method} minus grpo":
                label = None if method in drawn else words
                _point(axis, one, scales.index(one.scale) + 1 + place, 100.0, colour, marker, label)
                drawn.add(method)
    axis.margins(x=0.1)
    _rows(axis, ["the paper, one run each", *(_short(scale).replace("; ", "\n") for scale in scales)])
    axis.set(title="Does CorR-PO solve more than GRPO?", xlabel="points of accuracy against GRPO")
    if drawn:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _lowered(axis: Axes, lowered: Sequence[Finding]) -> None:
    """Draw the paper's number in the first row, and a row for each comparison of ours."""
    paper = RL_CHANGES["corr-po"] - RL_CHANGES["grpo"]
    axis.plot(paper, 0, "D", color=INK, markersize=4.5)
    names = ["the paper, one run,\nminus GRPO"]
    for row, one in enumerate(lowered, 1):
        against, scale = one.what.rpartition(" minus ")[2], _short(one.scale).replace("; ", ", ")
        _point(axis, one, row, 1.0, GREY if against == "grpo" else BLUE, "o", None)
        names.append(f"{scale}\nminus {'GRPO' if against == 'grpo' else 'shuffled control'}")
    _rows(axis, names)
    axis.set(title="Does CorR-PO lower ρ?", xlabel="difference of ρ by sentence")


def _point(
    axis: Axes, value: Value | Finding, row: float, scale: float, colour: str, marker: str, label: str | None
) -> None:
    """Draw a value with its interval; nothing if it was not measured."""
    if not math.isnan(value.value):
        axis.plot([scale * value.low, scale * value.high], [row, row], color=colour, linewidth=1.5)
        axis.plot(scale * value.value, row, marker, color=colour, markersize=5, linestyle="none", label=label)


def _short(scale: str) -> str:
    """Return a scale without the size of the tiny models, which is the same everywhere."""
    return scale.replace("64x2 · ", "")


def _rows(axis: Axes, names: Sequence[str]) -> None:
    """Name the rows, from top to bottom, and mark 0."""
    axis.axvline(0, color=INK, linewidth=0.7, zorder=0)
    axis.set_ylim(len(names) - 0.4, -1.1)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
