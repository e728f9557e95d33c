"""Draw the figures of a probe: one of all results, and for each result one by layer and one along a rollout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.figures.correlations import layer_map
from antiphase.figures.rollout import rollout_track
from antiphase.figures.style import (
    BLUE,
    GREY,
    INK,
    Result,
    canvas,
    check_results,
    describe,
    heading,
    headline,
    rows_of_dots,
    statistic,
    token_rows,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def model_comparison(results: Sequence[Result]) -> Figure:
    """Draw three correlations ρ of every result, as dots and as numbers.

    1. ρ of entropy and strength over all rollouts together, in the main unit of the result (its headline).
    2. The mean of the ρ of single rollouts, in the same unit.
    3. The control: the ρ of entropy and ‖∂ ln p_y/∂z‖ over tokens. This norm rises with entropy by construction
       (docs/method.md).

    If the results have different headline units, each line names its unit. An undefined value is written as
    "undefined" and not drawn.

    Args:
        results: the results; each is one line, from top to bottom.
    """
    check_results(results)
    heads = [headline(result) for result in results]
    units = {unit for unit, _ in heads}
    over = f" by {units.pop()}" if len(units) == 1 else ""
    entries: dict[str, list[Result | None]] = {
        "pooled": [entry for _, entry in heads],
        "within": [entry.get("within") for _, entry in heads],
        "control": [result["logprob_control"] for result in results],
    }
    # For each kind: marker, its size, face and edge colour, its offset from the line, the label in the legend, the
    # heading of the column of numbers, and the distance of the column's end from the right side, in points.
    kinds: dict[str, tuple[Any, ...]] = {
        "pooled": ("o", 6, BLUE, BLUE, 0, f"ρ{over} with interval", f"ρ{over} [interval]", -118),
        "within": ("D", 4, "white", BLUE, 0.22, "mean of per-rollout ρ", "per rollout", -58),
        "control": ("o", 6, "none", GREY, 0, "mechanical control (log-probability)", "control", 0),
    }
    with canvas(10.0, 0.36 * len(results) + 1.3) as (_, figure):
        axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
        rows = np.arange(len(results))
        table.set_axis_off()
        for name, (marker, size, face, edge, offset, label, column, end) in kinds.items():
            statistics = np.array([statistic(entry) for entry in entries[name]])
            axes.plot(statistics[:, 0], rows + offset, marker, ms=size, mfc=face, mec=edge, label=label, zorder=3)
            if name == "pooled":
                axes.hlines(rows, *statistics[:, 1:].T, color=BLUE, linewidth=1.6)
            table.annotate(column, (1, 1), (end, 5), "axes fraction", "offset points", ha="right", color=GREY)
            for row, numbers in enumerate(statistics):
                said = describe(*numbers[: 3 if name == "pooled" else 1])
                look: Any = {"ha": "right", "va": "center_baseline", "color": GREY if said == "undefined" else INK}
                table.annotate(said, (1, row), (end, 0), ("axes fraction", "data"), "offset points", **look)
        left, right = min(axes.get_xlim()[0], -0.25), max(axes.get_xlim()[1], 0.25)
        axes.axvspan(left, 0, color=BLUE, alpha=0.06, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.text(0, -0.62, "← inverted ", ha="right", va="bottom", color=BLUE)
        axes.set(xlim=(left, right), ylim=(len(results) - 0.5, -0.5), xlabel=f"Spearman ρ(entropy, strength){over}")
        labels = [heading(result, 36) for result in results]
        axes.set_yticks(
            rows, labels if over else [f"{label} · by {unit}" for label, (unit, _) in zip(labels, heads, strict=True)]
        )
        rows_of_dots(axes, grid="y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def layer_maps(results: Sequence[Result]) -> dict[str, Figure]:
    """Draw a heat map of the correlation ρ by layer and projection for each result.

    A result with only one layer and projection has no figure. The keys of the mapping are the names of the figures,
    `layer_map_<slug>`, where the slug names model and estimator.
    """
    return {
        f"layer_map_{slug}": layer_map(result)
        for slug, result in zip(_slugs(results), results, strict=True)
        if len(result["layers"]) * len(result["projections"]) > 1
    }


def rollouts(tokens: DataFrame, results: Sequence[Result]) -> dict[str, Figure]:
    """Draw, for each result, entropy and strength along its rollout with the most measured tokens.

    If several rollouts have equally many, the first one is drawn. The keys of the mapping are the names of the
    figures, `rollout_<slug>`, where the slug names model and estimator. A result without tokens has no figure.
    """
    figures = {}
    for slug, result in zip(_slugs(results), results, strict=True):
        rows = token_rows(tokens, result, "prompt_id", "rollout_id", "position", "token")
        if len(rows):
            parts = rows.groupby(["prompt_id", "rollout_id"], sort=False, dropna=False)
            (prompt, rollout), rows = max(parts, key=lambda item: int(item[1]["strength"].count()))
            title = f"{heading(result, 48)} · prompt {prompt}, rollout {rollout}"
            figures[f"rollout_{slug}"] = rollout_track(rows, title)
    return figures


def _slugs(results: Sequence[Result]) -> list[str]:
    """Return a slug for each result: a text for file names that no other result has.

    It is made of the names of the model and the estimator.
    """
    slugs: list[str] = []
    for result in results:
        stem = re.sub("[^a-z0-9]+", "-", f"{result['model']}-{result['estimator']}".lower()).strip("-")[-80:]
        names = (f"{stem}-{number}" if number > 1 else stem for number in range(1, len(results) + 1))
        slugs.append(next(name for name in names if name not in slugs))
    return slugs
