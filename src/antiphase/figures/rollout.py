"""Draw entropy and strength along one rollout, above its text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.figures.style import (
    BLUE,
    DIVERGING,
    FAINT,
    GREY,
    INK,
    ORANGE,
    canvas,
    drawable,
    grouped,
    shorten,
    token_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


MAX_TOKENS, MAX_LINES, MAX_CHARS, LINE_CHARS = 400, 48, 24, 108
# The width of a character and the height of a line, in inches. The font size of `_MONO` gives characters of this
# width. It is a whole number of pixels at 100 and at 150 dpi.
_CHAR, _LINE = 0.08, 0.24
_MONO: Any = {"family": "DejaVu Sans Mono", "fontsize": 9.567, "gid": "token"}


def rollout_track(rollout_tokens: DataFrame, title: str) -> Figure:
    """Draw the percentile ranks of entropy and strength along one rollout, above the rollout's text.

    Each token of the text is shaded by the difference d = rank of strength − rank of entropy. Without ties, Spearman's
    correlation over n tokens is ρ = 1 − 6 Σ d² / (n (n² − 1)). So tokens in a deep shade of either colour, whose d² is
    large, make ρ negative (the inversion), and pale tokens make ρ positive. A token that was not measured is grey and
    has no shade. The figure shows at most `MAX_TOKENS` tokens on `MAX_LINES` lines, and says if it leaves tokens out.
    The ranks are always those among all tokens of the rollout.

    Args:
        rollout_tokens: the rows of one rollout, with position, token, entropy and strength (NaN if not measured).
        title: the title of the figure.
    """
    table = token_rows(rollout_tokens, None, "position", "token").sort_values("position", kind="stable")
    values = table[["entropy", "strength"]].where(table[["entropy", "strength"]].notna().all(axis=1))
    num_measured = int(values["entropy"].count())
    ranks = (values.rank().to_numpy() - 0.5) * (100 / max(1, num_measured))
    difference = ranks[:, 1] - ranks[:, 0] if values.nunique().min() > 1 else np.full(len(ranks), np.nan)
    with canvas(1.0, 1.0, layout=None) as (mpl, figure):
        texts = [drawable(token, "DejaVu Sans Mono") or "□" for token in table["token"]]
        texts = [text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…" for text in texts]
        places = _wrap(texts)
        position, ranks = table["position"].to_numpy()[: len(places)], ranks[: len(places)]
        # The axes are placed in inches, because each shaded box must be exactly as wide as its text.
        width, text_height = LINE_CHARS * _CHAR + 1.0, _LINE * (places[-1][0] + 1 if places else 1)
        height = text_height + 3.1
        figure.set_size_inches(width, height)
        left, wide = 0.62 / width, 1 - 1 / width
        top = figure.add_axes((left, (text_height + 1.0) / height, wide, 1.7 / height), title=shorten(title, 76))
        _draw_ranks(top, position, ranks)
        text = figure.add_axes((left, 0.15 / height, wide, text_height / height))
        _draw_text(mpl, text, list(zip(texts, places, position.tolist(), difference.tolist(), strict=False)))
        note = f"{num_measured} of {grouped(len(texts))} token{'' if len(texts) == 1 else 's'} measured"
        note += f", the first {len(places)} shown" if len(places) < len(texts) else ""
        key = ". Blue: strength ranks higher. Orange: entropy does. Deep shades invert, pale ones do not."
        note += ". Nothing to compare: a signal is constant." if np.isnan(difference).all() else key
        text.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", color=GREY)
    return figure


def _wrap(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the (line, column) of each token that the figure has room for."""
    places: list[tuple[int, int]] = []
    line = column = 0
    for text in texts[:MAX_TOKENS]:
        if column + len(text) > LINE_CHARS:
            line, column = line + 1, 0
        if line == MAX_LINES:
            break
        places.append((line, column))
        column += len(text)
        # A newline ends the line only if the line is not very short. Otherwise empty lines could fill the figure.
        if text.endswith("⏎") and column > LINE_CHARS // 4:
            line, column = line + 1, 0
    return places


def _draw_ranks(axes: Axes, position: np.ndarray, ranks: np.ndarray) -> None:
    """Draw the percentile ranks of entropy and strength by position.

    Dots show the ranks, and a line joins them. With 100 measured tokens or more, the line shows running means.
    """
    known = np.isfinite(ranks[:, 0])
    window = np.ones(1 + 2 * (int(known.sum()) // 100))
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
    """Draw the text, with each token in a shaded box. The left margin gives the position of each line's first token.

    Args:
        mpl: matplotlib.
        axes: the axes to draw on.
        tokens: for each token, its text, its (line, column), its position and its difference of ranks.
    """
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
