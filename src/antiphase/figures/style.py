"""The style that all figures share, and text in a form that the font can draw.

matplotlib comes with the extra `report`. pyplot and the caller's rcParams stay untouched.
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
DIVERGING = (BLUE, "#8fb4d6", "#f8f8f6", "#f0b98a", ORANGE)  # distinct for every kind of colour vision
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
    """Apply our style to matplotlib's defaults, yield matplotlib, and restore the caller's rcParams afterwards."""
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
    """Yield matplotlib and a figure of this size in inches."""
    with styled() as mpl:
        figure = mpl.figure.Figure(figsize=(width, height), layout=layout)
        yield mpl, figure
        figure.draw_without_rendering()  # the first draw makes the ticks, and must do so in our style


@cache
def _glyphs(font: str) -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont(font)).get_charmap())


def drawable(value: object, font: str = "DejaVu Sans") -> str:
    """Text that the font can draw in reading order: newlines become ⏎, tabs ⇥, other unknown characters □."""
    text = re.sub("\r\n|[\n\r\u2028\u2029]", "⏎", unicodedata.normalize("NFC", str(value))).replace("\t", "⇥")
    # The font may have glyphs for the categories C (controls, overrides, surrogates) and M (combining). But these
    # characters would reorder the text, break the SVG or attach to the character beside them.
    glyphs = _glyphs(font)
    return "".join(c if ord(c) in glyphs and unicodedata.category(c)[0] not in "CM" else "□" for c in text)


def shorten(value: object, width: int) -> str:
    """Cut to at most `width` characters. The part after the last slash stays if it fits; else the end of the text."""
    text = drawable(value)
    head = min(width // 4, max(3, width - 2 - len(text.rsplit("/", 1)[-1])))
    return text if len(text) <= width else f"{text[:head]}…{text[head + 1 - width :]}"


def heading(result: Result, width: int = 28) -> str:
    """The model, its name shortened, and the estimator."""
    return f"{shorten(result['model'], width)} · {drawable(result['estimator'])}"


def grouped(count: int) -> str:
    """`3 072`."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def count_text(count: int) -> str:
    """`1 token`, `3 072 tokens`."""
    return grouped(count) + (" token" if count == 1 else " tokens")


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Any]:
    """Axes for this many panels, row by row. `options` are those of `subplots`; axes that are left over are hidden."""
    axes = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return axes[:count]


def rows_of_dots(axes: Any, grid: str = "x") -> None:
    """The look of a panel with one row for each name on the left."""
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def statistic(entry: Result | None) -> list[float]:
    """The value, low and high end of an entry, NaN where undefined."""
    found = entry or {}
    return [math.nan if found.get(part) is None else float(found[part]) for part in ("value", "low", "high")]


def headline(result: Result) -> tuple[str, Result]:
    """The unit whose ρ stands for a result, and the entry `{value, low, high, …}` with that ρ.

    The entry also holds `within`, the mean of the rollouts' own ρ, and `num_items`. A result without units is old, and
    its ρ is over tokens.
    """
    if result.get("units"):
        return result["headline"], result["units"][result["headline"]]
    return "token", over_tokens(result)


def over_tokens(result: Result) -> Result:
    """The entry with ρ over the tokens of a result, in the form that `headline` returns."""
    if entry := (result.get("units") or {}).get("token"):
        return entry  # type: ignore[no-any-return]
    within, count = result.get("spearman_within"), result.get("num_tokens")
    return {**(result["spearman"] or {}), "within": within, "num_items": count}


def describe(*triple: float) -> str:
    """`−0.31 [−0.36, −0.25]`, or the value alone if the interval is undefined, or `undefined`."""
    value, *interval = (f"{round(number, 2) + 0.0:.2f}".replace("-", "−") for number in triple)
    if value == "nan":
        return "undefined"
    return f"{value} [{', '.join(interval)}]" if interval and "nan" not in interval else value


def token_rows(tokens: DataFrame, result: Result | None, *names: str) -> DataFrame:
    """The rows of a result (None: all rows), with these columns and entropy and strength."""
    names += ("entropy", "strength") if result is None else ("entropy", "strength", "model", "estimator")
    missing = [name for name in names if name not in tokens.columns]
    if missing:
        raise InvalidInputError(f"the token table lacks {', '.join(missing)}. Pass the table that the probe returns.")
    if result is not None:
        tokens = tokens[(tokens["model"] == result["model"]) & (tokens["estimator"] == result["estimator"])]
    return tokens[list(names)].astype({"entropy": float, "strength": float})


def check_results(results: Sequence[Result]) -> None:
    """Raise InvalidInputError if there is nothing to draw."""
    if not results:
        raise InvalidInputError("results is empty; a figure needs at least one result. Probe a model first.")
