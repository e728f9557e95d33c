"""Figures of entropy against gradient strength: by token, by layer, along a rollout, between models.

They draw what was measured elsewhere (METHOD §3): besides display ranks and a running median nothing is computed here,
and no correlation. Undefined statistics are written as such, never drawn. matplotlib is the extra `report`; pyplot and
the caller's rcParams are left alone. Every function raises MissingExtraError without matplotlib, and InvalidInputError
for an empty list of results or a table that lacks a column.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Result = Mapping[str, Any]

INK, GREY, FAINT, BLUE, ORANGE = "#23272e", "#737a84", "#dfe2e6", "#1f5f99", "#d5701c"
DIVERGING = (BLUE, "#8fb4d6", "#f8f8f6", "#f0b98a", ORANGE)  # told apart by every kind of colour vision
DENSITY = ("#dbe6f0", "#8db3d3", BLUE, "#0d2f52")
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "axes.linewidth": 0.6,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titlelocation": "left", "svg.hashsalt": "antiphase",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "text.color": INK, "text.parse_math": False, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "ytick.minor.size": 0,
    "legend.frameon": False, "legend.fontsize": 8, "legend.borderaxespad": 0.3, "figure.constrained_layout.w_pad": 0.1,
}  # fmt: skip
MAX_TOKENS, MAX_LINES, MAX_CHARS, LINE_CHARS = 400, 48, 24, 108
_CHAR, _LINE = 0.08, 0.24  # a character's width, whole pixels at 100 and 150 dpi, and a line's height, in inches
_MONO: Any = {"family": "DejaVu Sans Mono", "fontsize": 9.567, "gid": "token"}  # the size with that width


@contextmanager
def _style() -> Iterator[Any]:
    """Our style on the defaults of matplotlib, which is returned; the caller's rcParams come back afterwards."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "drawing figures") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield matplotlib


@contextmanager
def _canvas(width: float, height: float, layout: str | None = "constrained") -> Iterator[tuple[Any, Figure]]:
    """The module matplotlib and a figure of this size in inches."""
    with _style() as mpl:
        figure = mpl.figure.Figure(figsize=(width, height), layout=layout)
        yield mpl, figure
        figure.draw_without_rendering()  # ticks are made on the first draw, which must see our style


@cache
def _glyphs(font: str) -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont(font)).get_charmap())


def _drawable(value: object, font: str = "DejaVu Sans") -> str:
    """Text in reading order that the font can draw: newlines become ⏎, tabs ⇥, the rest □."""
    text = re.sub("\r\n|[\n\r\u2028\u2029]", "⏎", unicodedata.normalize("NFC", str(value))).replace("\t", "⇥")
    # Categories C (controls, overrides, surrogates) and M (combining) may have glyphs, and yet would reorder the text,
    # break the SVG or attach to a neighbour.
    glyphs = _glyphs(font)
    return "".join(c if ord(c) in glyphs and unicodedata.category(c)[0] not in "CM" else "□" for c in text)


def _shorten(value: object, width: int) -> str:
    """At most `width` characters, cut before the part after the last slash or, failing that, near the start."""
    text = _drawable(value)
    head = min(width // 4, max(3, width - 2 - len(text.rsplit("/", 1)[-1])))
    return text if len(text) <= width else f"{text[:head]}…{text[head + 1 - width :]}"


def _heading(result: Result, width: int = 28) -> str:
    return f"{_shorten(result['model'], width)} · {_drawable(result['estimator'])}"


def _tokens(count: int) -> str:
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") + (" token" if count == 1 else " tokens")


def _statistic(result: Result, name: str) -> list[float]:
    """Value, low and high of a statistic; NaN where undefined."""
    found = result[name] or {}
    return [math.nan if found.get(part) is None else float(found[part]) for part in ("value", "low", "high")]


def _describe(*statistic: float) -> str:
    """`−0.31 [−0.36, −0.25]`, without an undefined interval, or `undefined`."""
    value, *interval = (f"{round(number, 2) + 0.0:.2f}".replace("-", "−") for number in statistic)
    if value == "nan":
        return "undefined"
    return f"{value} [{', '.join(interval)}]" if interval and "nan" not in interval else value


def _rows(tokens: DataFrame, result: Result | None, *names: str) -> DataFrame:
    """These columns, entropy and strength of the rows of a result (None: of all rows)."""
    names += ("entropy", "strength") if result is None else ("entropy", "strength", "model", "estimator")
    missing = [name for name in names if name not in tokens.columns]
    if missing:
        raise InvalidInputError(f"the token table lacks {', '.join(missing)}. Pass the table that the probe returns.")
    if result is not None:
        tokens = tokens[(tokens["model"] == result["model"]) & (tokens["estimator"] == result["estimator"])]
    return tokens[list(names)].astype({"entropy": float, "strength": float})


def _check(results: Sequence[Result]) -> None:
    if not results:
        raise InvalidInputError("results is empty; a figure needs at least one result. Probe a model first.")


def entropy_strength(tokens: DataFrame, results: Sequence[Result]) -> Figure:
    """Density of tokens over entropy and strength with the running median, one panel per result.

    Entropy crowds near 0, so its axis is √-scaled, and shared. Strength has no unit common to models and estimators:
    each panel has its own axis, logarithmic where positive values span more than 30× (zeros lie on its lower edge).
    Colour is the number of tokens in a cell, on one log scale.

    Args:
        tokens: one row per (estimator, generated token); needs model, estimator, entropy (nats) and strength.
        results: one panel each, three to a row.
    """
    _check(results)
    points = [_rows(tokens, result)[["entropy", "strength"]].dropna().to_numpy().T for result in results]
    limit = max((float(p[0].max()) for p in points if p.size), default=1.0) or 1.0
    num_columns = min(3, len(results))
    num_rows = math.ceil(len(results) / num_columns)
    with _canvas(3.6 * num_columns + 0.8, 3.0 * num_rows + 0.2) as (mpl, figure):
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


def _panel(mpl: Any, axes: Axes, points: np.ndarray, result: Result, limit: float) -> None:
    """One result's hexagons and running median; `limit` is the largest entropy of all panels."""
    axes.set_title(_heading(result), pad=18)
    said = _describe(*_statistic(result, "spearman"))
    said = f"ρ {'' if said == 'undefined' else '= '}{said}, n = {_tokens(result['num_tokens'])}"
    axes.annotate(said, (0, 1), (0, 6), "axes fraction", "offset points", color=GREY)
    # hexbin knows linear and log only: the data are transformed and the ticks say the original values.
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
    # Median by entropy quantile bin, finer towards the tail; equal entropies share a bin.
    num_bins = min(10, math.isqrt(len(x) // 8))
    edges = np.quantile(x, 1 - np.linspace(1, 0, num_bins + 1) ** 2)
    bins = np.digitize(x, edges[1:-1])
    middles = [(np.median(x[bins == b]), np.median(y[bins == b])) for b in np.unique(bins)]
    for colour, linewidth in (("white", 3.2), (ORANGE, 1.6)) if len(middles) > 1 else ():
        axes.plot(*zip(*middles, strict=True), color=colour, linewidth=linewidth, gid="running-median")


def layer_map(result: Result) -> Figure:
    """Heat map of the pooled Spearman ρ with one layer's one projection as the strength; undefined cells are hatched.

    Args:
        result: reads layers (drawn from left to right), projections and by_projection.
    """
    layers, projections = result["layers"], result["projections"]
    cells = np.array(result["by_projection"], dtype=float).reshape(len(layers), len(projections)).T
    undefined = np.isnan(cells)
    limit = max(0.1, math.ceil(np.abs(cells[~undefined]).max(initial=0.0) * 10 - 1e-9) / 10)
    side = min(0.5, max(0.125, 9 / len(layers)))
    with _canvas(max(5.2, side * len(layers) + 1.9), max(2.6, 0.4 * len(projections) + 1.2)) as (mpl, figure):
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
            axes.text(column + 0.5, row + 0.5, _describe(value), ha="center", va="center", fontsize=7,
                      color="white" if value < -0.6 * limit else INK)  # fmt: skip
        every = math.ceil(len(layers) / 20)
        axes.set_xticks(np.arange(0, len(layers), every) + 0.5, [str(layer) for layer in layers[::every]])
        axes.set_yticks(np.arange(len(projections)) + 0.5, projections)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xlabel="layer", title=_heading(result))
        figure.colorbar(mesh, ax=axes, label="Spearman ρ(entropy, strength)", pad=0.02)
    return figure


def rollout_track(rollout_tokens: DataFrame, title: str) -> Figure:
    """Percentile ranks of entropy and strength along one rollout, above its text shaded by their difference.

    Spearman's ρ = 1 − 6 Σ d² / (n (n² − 1)), d = rank of strength − rank of entropy: tokens in a deep shade of either
    colour make the inversion, pale ones break it. Unmeasured tokens are grey and unshaded. At most `MAX_TOKENS` tokens
    on `MAX_LINES` lines are shown, ranked among all, and the figure says so.

    Args:
        rollout_tokens: one rollout's rows; needs position, token, entropy and strength (NaN: not measured).
        title: of the figure.
    """
    table = _rows(rollout_tokens, None, "position", "token").sort_values("position", kind="stable")
    values = table[["entropy", "strength"]].where(table[["entropy", "strength"]].notna().all(axis=1))
    num_measured = int(values["entropy"].count())
    ranks = (values.rank().to_numpy() - 0.5) * (100 / max(1, num_measured))
    difference = ranks[:, 1] - ranks[:, 0] if values.nunique().min() > 1 else np.full(len(ranks), np.nan)
    with _canvas(1.0, 1.0, layout=None) as (mpl, figure):
        texts = [_drawable(token, "DejaVu Sans Mono") or "□" for token in table["token"]]
        texts = [text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…" for text in texts]
        places = _wrap(texts)
        position, ranks = table["position"].to_numpy()[: len(places)], ranks[: len(places)]
        # Placed in inches by hand: the shaded boxes must be exactly as wide as their glyphs.
        width, text_height = LINE_CHARS * _CHAR + 1.0, _LINE * (places[-1][0] + 1 if places else 1)
        height = text_height + 3.1
        figure.set_size_inches(width, height)
        left, wide = 0.62 / width, 1 - 1 / width
        top = figure.add_axes((left, (text_height + 1.0) / height, wide, 1.7 / height), title=_shorten(title, 76))
        _draw_ranks(top, position, ranks)
        text = figure.add_axes((left, 0.15 / height, wide, text_height / height))
        _draw_text(mpl, text, list(zip(texts, places, position.tolist(), difference.tolist(), strict=False)))
        note = f"{num_measured} of {_tokens(len(texts))} measured"
        note += f", the first {len(places)} shown" if len(places) < len(texts) else ""
        key = ". Blue: strength ranks higher. Orange: entropy does. Deep shades invert, pale ones do not."
        note += ". Nothing to compare: a signal is constant." if np.isnan(difference).all() else key
        text.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", color=GREY)
    return figure


def _wrap(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(line, column) of each token, as far as the page goes; a newline ends its line."""
    places: list[tuple[int, int]] = []
    line = column = 0
    for text in texts[:MAX_TOKENS]:
        if column + len(text) > LINE_CHARS:
            line, column = line + 1, 0
        if line == MAX_LINES:
            break
        places.append((line, column))
        column += len(text)
        if text.endswith("⏎") and column > LINE_CHARS // 4:  # shorter lines go on, or bare newlines fill the page
            line, column = line + 1, 0
    return places


def _draw_ranks(axes: Axes, position: np.ndarray, ranks: np.ndarray) -> None:
    known = np.isfinite(ranks[:, 0])
    window = np.ones(1 + 2 * (int(known.sum()) // 100))  # beyond 100 tokens the ranks alone are a thicket
    mean = f" (mean of {len(window)})" if len(window) > 1 else ""
    smooth = raw = ranks[known].T
    if mean:
        smooth = np.array([np.convolve(r, window, "same") / np.convolve(r**0, window, "same") for r in raw])
    axes.fill_between(position[known], smooth[0], smooth[1], color=FAINT, linewidth=0, alpha=0.7)
    for label, colour, dots, line in zip(("entropy", "strength"), (ORANGE, BLUE), raw, smooth, strict=True):
        axes.plot(position[known], dots, "o", color=colour, markersize=2.6, alpha=0.3 if mean else 1)
        axes.plot(position[known], line, color=colour, linewidth=1.4 if mean else 1, label=label + mean)
    axes.set(ylim=(0, 100), yticks=[0, 50, 100], ylabel="percentile rank", xlabel="position in the completion")
    first, last = (position[0], position[-1]) if len(position) else (0, 0)
    axes.set_xlim(first - 0.5, max(last, first + 7) + 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _draw_text(mpl: Any, axes: Axes, tokens: Sequence[tuple[str, tuple[int, int], int, float]]) -> None:
    """Each token in a box of its width; the gutter says the position that a line begins with."""
    axes.set_axis_off()
    axes.set(xlim=(0, LINE_CHARS), ylim=(tokens[-1][1][0] + 1 if tokens else 1, 0))
    shades = mpl.colors.LinearSegmentedColormap.from_list("diverging", DIVERGING)
    for text, (line, column), position, difference in tokens:
        measured = not math.isnan(difference)
        if column == 0:
            axes.text(-1, line + 0.5, str(position), ha="right", va="center", fontsize=7, color=GREY)
        if measured:
            box = mpl.patches.Rectangle((column, line + 0.05), len(text), 0.9, edgecolor="white", linewidth=0.8)
            axes.add_patch(box).set_facecolor(shades(0.5 - difference / 250))
        start = column + len(text) - len(text.lstrip())
        axes.text(start, line + 0.54, text.strip(), va="center_baseline", color=INK if measured else GREY, **_MONO)


def model_comparison(results: Sequence[Result]) -> Figure:
    """Pooled and per-rollout ρ of every result beside the mechanical control, as dots and in figures.

    The control, ρ of entropy with ‖∂ ln p_y/∂z‖, rises with entropy by construction (METHOD §1).

    Args:
        results: one line each, from the top; undefined values are written as such and not drawn.
    """
    _check(results)
    kinds: Any = {  # marker, size, face, edge, offset, label, heading, where the column ends in points from the right
        "spearman": ("o", 6, BLUE, BLUE, 0, "pooled ρ with interval", "pooled ρ [interval]", -118),
        "spearman_within": ("D", 4, "white", BLUE, 0.22, "mean of per-rollout ρ", "per rollout", -58),
        "logprob_control": ("o", 6, "none", GREY, 0, "mechanical control (log-probability)", "control", 0),
    }
    with _canvas(10.0, 0.36 * len(results) + 1.3) as (_, figure):
        axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
        rows = np.arange(len(results))
        table.set_axis_off()
        for name, (marker, size, face, edge, offset, label, heading, end) in kinds.items():
            statistics = np.array([_statistic(result, name) for result in results])
            axes.plot(statistics[:, 0], rows + offset, marker, ms=size, mfc=face, mec=edge, label=label, zorder=3)
            if name == "spearman":
                axes.hlines(rows, *statistics[:, 1:].T, color=BLUE, linewidth=1.6)
            table.annotate(heading, (1, 1), (end, 5), "axes fraction", "offset points", ha="right", color=GREY)
            for row, statistic in enumerate(statistics):
                said = _describe(*statistic[: 3 if name == "spearman" else 1])
                look: Any = {"ha": "right", "va": "center_baseline", "color": GREY if said == "undefined" else INK}
                table.annotate(said, (1, row), (end, 0), ("axes fraction", "data"), "offset points", **look)
        left, right = min(axes.get_xlim()[0], -0.25), max(axes.get_xlim()[1], 0.25)
        axes.axvspan(left, 0, color=BLUE, alpha=0.06, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.text(0, -0.62, "← inverted ", ha="right", va="bottom", color=BLUE)
        axes.set(xlim=(left, right), ylim=(len(results) - 0.5, -0.5), xlabel="Spearman ρ(entropy, strength)")
        axes.set_yticks(rows, [_heading(result, 36) for result in results])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def save_figures(tokens: DataFrame, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write every figure as PNG (150 dpi) and SVG and return the paths; equal input and versions give equal bytes.

    `entropy_strength`, `model_comparison`, a `layer_map_<slug>` for each result with more than one cell, and a
    `rollout_<slug>` for each result: of the rollout with the most measured tokens, the first of equals.

    Args:
        tokens: one row per (estimator, generated token).
        results: the results to show.
        folder: made if absent; a file appears under its name only when complete.
    """
    figures = {"entropy_strength": entropy_strength(tokens, results), "model_comparison": model_comparison(results)}
    slugs: list[str] = []
    for result in results:
        stem = re.sub("[^a-z0-9]+", "-", f"{result['model']}-{result['estimator']}".lower()).strip("-")[-80:]
        names = (f"{stem}-{number}" if number > 1 else stem for number in range(1, len(results) + 1))
        slugs.append(next(name for name in names if name not in slugs))
        if len(result["layers"]) * len(result["projections"]) > 1:
            figures[f"layer_map_{slugs[-1]}"] = layer_map(result)
        rows = _rows(tokens, result, "prompt_id", "rollout_id", "position", "token")
        if len(rows):
            rollouts = rows.groupby(["prompt_id", "rollout_id"], sort=False, dropna=False)
            (prompt, rollout), rows = max(rollouts, key=lambda item: int(item[1]["strength"].count()))
            title = f"{_heading(result, 48)} · prompt {prompt}, rollout {rollout}"
            figures[f"rollout_{slugs[-1]}"] = rollout_track(rows, title)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in ("png", "svg")]


def _write(figure: Figure, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _style():
            figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata={"Date": None})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
