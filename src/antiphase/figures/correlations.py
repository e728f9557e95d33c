"""Draw entropy against strength by token, and their correlation ρ by layer and projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.figures.style import (
    DENSITY,
    DIVERGING,
    GREY,
    INK,
    ORANGE,
    Result,
    canvas,
    check_results,
    describe,
    grouped,
    heading,
    headline,
    over_tokens,
    statistic,
    token_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_LINE = 11.0  # The distance of two lines of text above a panel, in points.


def entropy_strength(tokens: DataFrame, results: Sequence[Result]) -> Figure:
    """Draw the tokens by their entropy and strength, with the running median, in one panel for each result.

    The entropy axis has a square-root scale, because most entropies are near 0. All panels share it. Strengths of
    different models or estimators are not comparable, so each panel has its own strength axis. That axis is
    logarithmic if the largest strength is more than 30 times the smallest positive one; zeros then lie on its lower
    edge. The colour of a hexagon is its number of tokens, on one logarithmic scale for all panels. The title gives
    two values of ρ, the correlation of entropy and strength: one over the result's headline unit, and one over tokens.
    The panel shows tokens.

    Args:
        tokens: a table with one row for each estimator and generated token, and the columns model, estimator, entropy
            (nats) and strength.
        results: the results; each has a panel, three in a row.
    """
    check_results(results)
    points = [token_rows(tokens, result)[["entropy", "strength"]].dropna().to_numpy().T for result in results]
    limit = max((float(p[0].max()) for p in points if p.size), default=1.0) or 1.0
    num_columns = min(3, len(results))
    num_rows = math.ceil(len(results) / num_columns)
    with canvas(3.6 * num_columns + 0.8, 3.0 * num_rows + 0.2) as (mpl, figure):
        for index, (pairs, result) in enumerate(zip(points, results, strict=True), 1):
            _panel(mpl, figure.add_subplot(num_rows, num_columns, index), pairs, result, limit)
        meshes: list[Any] = [mesh for axes in figure.axes for mesh in axes.collections]
        largest = max([10, *(mesh.get_array().max() for mesh in meshes)])
        for mesh in meshes:
            mesh.set_norm(mpl.colors.LogNorm(1, largest))
        if meshes:
            bar = figure.colorbar(meshes[0], ax=figure.axes, label="tokens per cell", aspect=28 * num_rows, pad=0.015)
            bar.ax.yaxis.set(major_locator=mpl.ticker.LogLocator(subs=(1, 3)), major_formatter="{x:g}")
    return figure


def _said(unit: str, entry: Result) -> str:
    """Return a line of text that gives the correlation ρ over one unit, for the title of a panel."""
    said = describe(*statistic(entry))
    return f"ρ by {unit} {'' if said == 'undefined' else '= '}{said}, n = {grouped(entry['num_items'])}"


def _panel(mpl: Any, axes: Axes, points: np.ndarray, result: Result, limit: float) -> None:
    """Draw the hexagons and the running median of one result. `limit` is the largest entropy of all panels."""
    units = dict([headline(result), ("token", over_tokens(result))])
    lines = [_said(unit, entry) for unit, entry in units.items()]
    axes.set_title(heading(result), pad=7 + _LINE * len(lines))
    for place, said in enumerate(reversed(lines)):
        axes.annotate(said, (0, 1), (0, 6 + _LINE * place), "axes fraction", "offset points", color=GREY)
    # hexbin has no square-root scale, so the data are transformed, and the ticks are labelled with the original
    # values.
    steps = mpl.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, limit)
    ticks = [0, steps[1] / 10, *(step for step in steps[1:] if step <= limit * 1.05)]
    axes.set_xticks(np.sqrt(ticks).tolist(), [f"{tick:g}" for tick in ticks])
    left, right = -0.04 * math.sqrt(limit), 1.04 * math.sqrt(limit)
    axes.set(xlim=(left, right), xlabel="entropy (nats, √ scale)", ylabel=f"strength ({result['norm']} norm)")
    x, y = np.sqrt(np.maximum(points[0], 0)), points[1]
    if not x.size:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no measured tokens", transform=axes.transAxes, ha="center", color=GREY)
        return
    smallest = y[y > 0].min(initial=np.inf)
    log = bool(y.max() > 30 * smallest)
    y = np.maximum(y, smallest) if log else y
    low, high = np.log10([y.min(), y.max()]) if log else (y.min(), y.max())
    margin = 0.04 * (high - low) or 0.5 * abs(low) or 0.5
    density = mpl.colors.LinearSegmentedColormap.from_list("density", DENSITY)
    axes.hexbin(x, y, gridsize=(30, 17), extent=(left, right, low - margin, high + margin), mincnt=1,
                yscale="log" if log else "linear", cmap=density, linewidths=0.1)  # fmt: skip
    if log:
        locator = mpl.ticker.LogLocator(subs=(1, 2, 5) if high - low < 1.6 else (1, 3))
        axes.yaxis.set(major_locator=locator, major_formatter="{x:g}")
    # The medians of the tokens in each bin of entropy. The bins are quantiles, and hold fewer tokens at high entropy.
    # Tokens of equal entropy are in the same bin.
    num_bins = min(10, math.isqrt(len(x) // 8))
    edges = np.quantile(x, 1 - np.linspace(1, 0, num_bins + 1) ** 2)
    bins = np.digitize(x, edges[1:-1])
    middles = [(np.median(x[bins == b]), np.median(y[bins == b])) for b in np.unique(bins)]
    for colour, linewidth in (("white", 3.2), (ORANGE, 1.6)) if len(middles) > 1 else ():
        axes.plot(*zip(*middles, strict=True), color=colour, linewidth=linewidth, gid="running-median")


def layer_map(result: Result) -> Figure:
    """Draw a heat map of the Spearman correlation ρ over all tokens, for each layer and projection.

    A cell correlates the entropy with the strength of one projection in one layer. Undefined cells are hatched.

    Args:
        result: an entry of the results. Its keys `layers`, `projections` and `by_projection` are used.
    """
    layers, projections = result["layers"], result["projections"]
    cells = np.array(result["by_projection"], dtype=float).reshape(len(layers), len(projections)).T
    undefined = np.isnan(cells)
    limit = max(0.1, math.ceil(np.abs(cells[~undefined]).max(initial=0.0) * 10 - 1e-9) / 10)
    side = min(0.5, max(0.125, 9 / len(layers)))
    with canvas(max(5.2, side * len(layers) + 1.9), max(2.6, 0.4 * len(projections) + 1.2)) as (mpl, figure):
        axes = figure.subplots()
        diverging = mpl.colors.LinearSegmentedColormap.from_list("diverging", DIVERGING)
        mesh = axes.pcolormesh(np.ma.masked_invalid(cells), cmap=diverging, vmin=-limit, vmax=limit,
                               edgecolors="white", linewidth=1 if side > 0.2 else 0.4)  # fmt: skip
        look = {"facecolor": "#eceef0", "edgecolor": "#aab1b9", "hatch": "/////", "linewidth": 0, "label": "undefined"}
        hatched = [axes.add_patch(mpl.patches.Rectangle(at[::-1], 1, 1, **look)) for at in np.argwhere(undefined)]
        if hatched:
            axes.legend(handles=hatched[:1], loc="lower right", bbox_to_anchor=(1, 1))
        for row, column in np.argwhere(~undefined) if side > 0.42 else ():
            value = cells[row, column]
            axes.text(column + 0.5, row + 0.5, describe(value), ha="center", va="center", fontsize=7,
                      color="white" if value < -0.6 * limit else INK)  # fmt: skip
        every = math.ceil(len(layers) / 20)
        axes.set_xticks(np.arange(0, len(layers), every) + 0.5, [str(layer) for layer in layers[::every]])
        axes.set_yticks(np.arange(len(projections)) + 0.5, projections)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xlabel="layer", title=heading(result))
        figure.colorbar(mesh, ax=axes, label="Spearman ρ(entropy, strength) by token", pad=0.02)
    return figure
