"""The figure of the verdict: every number of ours with its interval, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from verdict_claims import FOR, GAINS, SFT_CHANGES, Finding

from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def verdict_figure(found: Sequence[Finding]) -> Figure:
    """Draw changes of ρ on the left and differences of accuracy on the right, a row for each finding.

    The paper's numbers are diamonds. A finding that was not measured has an empty row.

    Args:
        found: the findings. Links of the chain are left out, since they are no changes.
    """
    changes = [one for one in found if one.unit == "ρ" and not one.claim.startswith("Low entropy")]
    gains = [one for one in found if one.unit == "points"]
    height = 1.3 + 0.23 * max(len(changes), len(gains), 4)
    with canvas(11, height) as (_, figure):
        left, right = figure.subplots(1, 2)
        _rows(left, changes, 1)
        for place, size in enumerate(SFT_CHANGES):
            left.plot(size, -0.9, "D", color=INK, markersize=4, label="the paper's" if place == 0 else None)
        left.set(title="Does ρ become more negative?", xlabel="change or difference of ρ (negative: as claimed)")
        _rows(right, gains, 100)
        for gain in GAINS.values():
            right.plot(gain, -0.9, "D", color=INK, markersize=4)
        right.set(title="Does CorR-PO solve more?", xlabel="points of accuracy against GRPO (positive: as claimed)")
        left.legend(loc="lower left")
    return figure


def _rows(axis: Axes, found: Sequence[Finding], scale: float) -> None:
    """Draw a row for each finding: its value with its interval, in blue if it is for the claim."""
    for row, one in enumerate(found):
        colour = BLUE if one.verdict.startswith(FOR) else ORANGE if one.verdict.startswith("against") else GREY
        if not math.isnan(one.value):
            axis.plot(scale * one.value, row, "o", color=colour, markersize=4)
            axis.plot([scale * one.low, scale * one.high], [row, row], color=colour, linewidth=1.4)
    axis.axvline(0, color=FAINT, linewidth=0.9, zorder=0)
    axis.set_ylim(max(len(found), 1) - 0.4, -1.5)
    axis.set_yticks([-0.9, *range(len(found))], ["the paper", *(f"{one.what}\n{one.scale}" for one in found)])
    axis.tick_params(axis="y", labelsize=5.5, length=0)
