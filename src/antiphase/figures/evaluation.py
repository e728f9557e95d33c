"""Draw the figures of an evaluation: accuracy, and how well each score tells right from wrong rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antiphase.figures.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Result,
    canvas,
    check_results,
    drawable,
    panels,
    rows_of_dots,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = (("avg", "mean of samples", "o", BLUE), ("pass", "pass@k", "^", GREY), ("greedy", "greedy", "D", ORANGE))
_SCORE_NAMES = {
    "inversion": "ι (inversion)",
    "low_entropy": "low entropy",
    "logprob": "log-probability",
    "self_certainty": "self-certainty",
    "logprob_control": "log-prob. control",
    "shuffled": "ι, shuffled strengths",
    "shortness": "shortness",
}
# Scores that older evaluations lack. They are drawn if some result has them.
_LATER_NAMES = {
    "low_impurity": "low impurity",
    "low_attention_entropy": "low attention entropy",
    "unembedding_norm": "‖w_y‖",
    "effective_rank": "effective rank",
}


def evaluation_accuracy(results: Sequence[Result]) -> Figure:
    """Draw the accuracy of every model and task: the mean of the samples, pass@k and greedy, each with its interval.

    Args:
        results: the results of an evaluation. The figure has one line for each model and task, from top to bottom.
    """
    check_results(results)
    rows = _distinct(results)
    with canvas(8.0, 0.42 * len(rows) + 1.4) as (_, figure):
        axes = figure.subplots()
        for prefix, label, marker, color in _KINDS:
            offset = {"avg": 0.0, "pass": -0.18, "greedy": 0.18}[prefix]
            points = [_metric(result, prefix) for result in rows]
            for row, point in enumerate(points):
                if point is not None:
                    axes.plot(point[0], row + offset, marker, color=color, ms=5 if prefix == "avg" else 4, zorder=3)
                    axes.hlines(row + offset, point[1], point[2], color=color, lw=1.6 if prefix == "avg" else 0.8)
            axes.plot([], [], marker, color=color, label=label)
        axes.set_yticks(
            range(len(rows)),
            [f"{shorten(result['model'], 28)} · {shorten(result['task'], 24)}" for result in rows],
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, 95 % interval over problems")
        rows_of_dots(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def right_from_wrong(results: Sequence[Result]) -> Figure:
    """Draw how well each score tells right from wrong rollouts (its AUROC), in one panel for each result.

    The AUROC is the probability that a right rollout has a higher score than a wrong rollout of the same problem; 0.5
    is chance.

    Args:
        results: the results of an evaluation that measured signals.
    """
    check_results(results)
    names = _SCORE_NAMES | {name: label for name, label in _LATER_NAMES.items() if _known(results, name)}
    columns, height = min(2, len(results)), 1.1 + 0.2 * len(names)
    with canvas(8.0, height * math.ceil(len(results) / columns) + 0.4) as (_, figure):
        grid = panels(figure, len(results), columns, sharex=True, sharey=True)
        for axes, result in zip(grid, results, strict=True):
            areas = result["inside"]["auroc"]
            for row, name in enumerate(names):
                point = _triple(areas.get(name))
                color = BLUE if name == "inversion" else GREY
                if point is None:
                    axes.text(0.5, row, " undefined", color=GREY, va="center_baseline", fontsize=7)
                    continue
                axes.plot(point[0], row, "o", color=color, ms=5, zorder=3)
                axes.hlines(row, point[1], point[2], color=color, lw=1.6)
            axes.axvline(0.5, color=INK, lw=0.8)
            axes.set_yticks(range(len(names)), list(names.values()))
            axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
            problems = max((area["num_problems"] for area in areas.values()), default=0)
            title = f"{shorten(result['model'], 22)} · {shorten(result['task'], 22)} · {drawable(result['estimator'])}"
            axes.set_title(f"{title}\n{problems} problems with right and wrong rollouts", fontsize=8)
            rows_of_dots(axes)
        figure.supxlabel("AUROC: right above wrong rollouts of the same problem", fontsize=8.5)
    return figure


def _known(results: Sequence[Result], name: str) -> bool:
    """Return whether at least one result has an AUROC of this score."""
    return any(_triple(result["inside"]["auroc"].get(name)) is not None for result in results)


def measured_scores(results: Sequence[Result]) -> Figure | None:
    """Draw the AUROC of each score for the results that have one; None if no result has.

    `right_from_wrong` draws the figure.
    """
    measured = [
        result
        for result in results
        if any(area["value"] is not None for area in result.get("inside", {}).get("auroc", {}).values())
    ]
    return right_from_wrong(measured) if measured else None


def _distinct(results: Sequence[Result]) -> list[Result]:
    """Return one result for each model and task, because all estimators of a model have the same accuracy."""
    return list({(result["model"], result["task"]): result for result in reversed(results)}.values())[::-1]


def _metric(result: Result, prefix: str) -> tuple[float, float, float] | None:
    """Return (value, low, high) of the metric `prefix`, or of `prefix@k` with the largest k; None if there is none."""
    metrics = result["metrics"]
    names = [name for name in metrics if name.partition("@")[0] == prefix]
    return _triple(metrics[max(names, key=lambda name: int(name.partition("@")[2] or 0))]) if names else None


def _triple(entry: Any) -> tuple[float, float, float] | None:
    """Return (value, low, high) of an entry, which is a mapping with these keys; None if it has no value.

    If an end of the interval is None, the value takes its place.
    """
    if entry is None or entry["value"] is None:
        return None
    ends = [entry["value"] if entry[key] is None else entry[key] for key in ("low", "high")]
    return float(entry["value"]), float(ends[0]), float(ends[1])
