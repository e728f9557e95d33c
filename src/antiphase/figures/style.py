"""Define the style that all figures share, and helpers that turn names and numbers into text for a figure.

matplotlib comes with the extra `report`. pyplot is not used, and the caller's rcParams are not changed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from antiphase.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


Result = Mapping[str, Any]

INK, GREY, FAINT, BLUE, ORANGE = "#23272e", "#737a84", "#dfe2e6", "#1f5f99", "#d5701c"
# These colours can be told apart with every kind of colour vision.
DIVERGING = (BLUE, "#8fb4d6", "#f8f8f6", "#f0b98a", ORANGE)
DENSITY = ("#dbe6f0", "#8db3d3", BLUE, "#0d2f52")
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "axes.linewidth": 0.6,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titlelocation": "left", "svg.hashsalt": "antiphase",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "text.color": INK, "text.parse_math": False, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "ytick.minor.size": 0,
    "legend.frameon": False, "legend.fontsize": 8, "legend.borderaxespad": 0.3, "figure.constrained_layout.w_pad": 0.1,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[Any]:
    """Yield matplotlib with the project's style. After the `with` block, the caller's rcParams are restored."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "drawing figures") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield matplotlib


@contextmanager
def canvas(width: float, height: float, layout: str | None = "constrained") -> Iterator[tuple[Any, Figure]]:
    """Yield matplotlib and an empty figure of this size in inches. The `with` block draws the figure."""
    with styled() as mpl:
        figure = mpl.figure.Figure(figsize=(width, height), layout=layout)
        yield mpl, figure
        figure.draw_without_rendering()  # The first draw makes the ticks. It must happen while the style is set.


@cache
def _glyphs(font: str) -> frozenset[int]:
    """Return the code points that a font has glyphs for."""
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont(font)).get_charmap())


def drawable(value: object, font: str = "DejaVu Sans") -> str:
    """Return a text that the font can draw: newlines become ⏎, tabs become ⇥, other unknown characters become □."""
    text = re.sub("\r\n|[\n\r\u2028\u2029]", "⏎", unicodedata.normalize("NFC", str(value))).replace("\t", "⇥")
    # Characters of the categories C (controls, overrides, surrogates) and M (combining) are replaced even if the font
    # has glyphs for them. They would reorder the text, break the SVG or join the character beside them.
    glyphs = _glyphs(font)
    return "".join(c if ord(c) in glyphs and unicodedata.category(c)[0] not in "CM" else "□" for c in text)


def shorten(value: object, width: int) -> str:
    """Shorten a text to at most `width` characters by leaving out its middle.

    The part after the last slash is kept if it fits. Otherwise the end of the text is kept.
    """
    text = drawable(value)
    head = min(width // 4, max(3, width - 2 - len(text.rsplit("/", 1)[-1])))
    return text if len(text) <= width else f"{text[:head]}…{text[head + 1 - width :]}"


def heading(result: Result, width: int = 28) -> str:
    """Return a title for a result: the name of its model, cut to `width` characters, and its estimator."""
    return f"{shorten(result['model'], width)} · {drawable(result['estimator'])}"


def grouped(count: int) -> str:
    """Return a number as text, with a narrow space between groups of three digits, such as `3 072`."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Any]:
    """Return axes for `count` panels, row by row, and hide the axes that are left over in the last row.

    Args:
        figure: the figure to draw on.
        count: the number of panels.
        columns: the number of panels in a row.
        options: options of matplotlib's `subplots`.
    """
    axes = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return axes[:count]


def rows_of_dots(axes: Any, grid: str = "x") -> None:
    """Make a panel look like a table: each name has a row, and there is a grid. The left axis has no line."""
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def statistic(entry: Result | None) -> list[float]:
    """Return [value, low, high] of an entry, which is a mapping with these keys; NaN for what is missing or None."""
    found = entry or {}
    return [math.nan if found.get(part) is None else float(found[part]) for part in ("value", "low", "high")]


def headline(result: Result) -> tuple[str, Result]:
    """Return the main unit of a result (`type`, `token` or `step`), and the correlation ρ over this unit.

    ρ comes as a mapping. It has `value`, `low` and `high` of ρ over all rollouts, `within` (the mean of ρ within each
    rollout) and `num_items`. A result that names no units is old, and its unit is `token`.
    """
    if result.get("units"):
        return result["headline"], result["units"][result["headline"]]
    return "token", over_tokens(result)


def over_tokens(result: Result) -> Result:
    """Return a result's correlation ρ over tokens, as a mapping with its interval and its count.

    Its keys are those that the docstring of `headline` lists.
    """
    if entry := (result.get("units") or {}).get("token"):
        return entry  # type: ignore[no-any-return]
    within, count = result.get("spearman_within"), result.get("num_tokens")
    return {**(result["spearman"] or {}), "within": within, "num_items": count}


def describe(*triple: float) -> str:
    """Return a value and its interval as text, such as `−0.31 [−0.36, −0.25]`.

    The text is the value alone if the interval is undefined or missing, and `undefined` if the value is NaN.
    """
    value, *interval = (f"{round(number, 2) + 0.0:.2f}".replace("-", "−") for number in triple)
    if value == "nan":
        return "undefined"
    return f"{value} [{', '.join(interval)}]" if interval and "nan" not in interval else value


def token_rows(tokens: DataFrame, result: Result | None, *names: str) -> DataFrame:
    """Return the rows of a token table that belong to a result, with only some columns.

    Args:
        tokens: the table of tokens.
        result: the result; None takes all rows.
        names: the columns to return. The columns entropy and strength are always returned; if a result is given, so
            are model and estimator.

    Raises:
        InvalidInputError: the table lacks a column.
    """
    names += ("entropy", "strength") if result is None else ("entropy", "strength", "model", "estimator")
    missing = [name for name in names if name not in tokens.columns]
    if missing:
        raise InvalidInputError(f"the token table lacks {', '.join(missing)}. Pass the table that the probe returns.")
    if result is not None:
        tokens = tokens[(tokens["model"] == result["model"]) & (tokens["estimator"] == result["estimator"])]
    return tokens[list(names)].astype({"entropy": float, "strength": float})


def check_results(results: Sequence[Result]) -> None:
    """Raise InvalidInputError if the list of results is empty, so that there is nothing to draw."""
    if not results:
        raise InvalidInputError("results is empty; a figure needs at least one result. Probe a model first.")
