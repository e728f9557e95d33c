"""The figure of the study of emergence: ρ by sentence along the trainings, a panel for each set of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from antiphase.data.published import PublishedCurve
from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {
    "reasoning": BLUE, "sentences-shuffled": "#8fb4d6", "words-shuffled": "#8a5aa8", "base": ORANGE,
    "worked": "#3d8a5f", "prose": INK,
}  # fmt: skip
_LAST_PUBLISHED = 1000  # the last step of the published curves that is drawn
_TITLES = {"rollouts": "its own rollouts"}


def curves_figure(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, Any]]]], published: Sequence[PublishedCurve]
) -> Figure:
    """Draw ρ by sentence against the training step, a panel for each set of texts, and the published curves of SFT.

    A point of a training is hollow if it has fewer seeds than another one of its line.

    Args:
        curves: for each set of texts, for each corpus, the steps with their values (`value`, `low`, `high`).
        published: the published curves. Only those of SFT are drawn, up to step 1,000.
    """
    with canvas(9.6, 4.8) as (_, figure):
        axes = figure.subplots(2, 4, sharey=True)
        panels = axes.flat
        for axis, (texts, lines) in zip(panels, curves.items(), strict=False):
            for corpus, points in lines.items():
                known = [(step, value) for step, value in points if not math.isnan(value.value)]
                colour = _COLOURS.get(corpus, GREY)
                steps, values = [step for step, _ in known], [value for _, value in known]
                line = {"color": colour, "linewidth": 1.3, "markersize": 2.8, "label": corpus}
                axis.plot(steps, [value.value for value in values], "o-", **line)
                most = max((value.num_seeds for value in values), default=0)
                fewer = [(step, value.value) for step, value in known if 0 < value.num_seeds < most and step]
                if fewer:
                    axis.plot(*zip(*fewer, strict=True), "o", color=colour, markerfacecolor="white", markersize=2.8)
                ends = [value.low for value in values], [value.high for value in values]
                axis.fill_between(steps, *ends, color=colour, alpha=0.12, linewidth=0)
            axis.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
            axis.set(title=f"on {_TITLES.get(texts, texts)}", xlabel="training step")
        last = axes.flat[len(curves)]
        known = [curve for curve in published if curve.training == "SFT"]
        for place, curve in enumerate(known):
            points = [pair for pair in zip(curve.steps, curve.spearman, strict=True) if pair[0] <= _LAST_PUBLISHED]
            last.plot(*zip(*points, strict=True), "o:", color=GREY, linewidth=1.1, markersize=2.5)
            where = {"xytext": (0, 5 if place % 2 else -11), "textcoords": "offset points", "ha": "right"}
            last.annotate(curve.label, points[-1], fontsize=7, color=GREY, **where)
        last.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        last.set(title="published: SFT, by type", xlabel="training step")
        for empty in axes.flat[len(curves) + 1 :]:
            empty.axis("off")
        axes[0][0].set_ylabel("ρ by sentence")
        axes[1][0].set_ylabel("ρ by sentence")
        handles, labels = axes[0][0].get_legend_handles_labels()
        axes.flat[-1].legend(handles, labels, loc="upper left", title="trained on", alignment="left")
    return figure
