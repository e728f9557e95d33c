"""Cells and tables of text that the console shows of evaluations and comparisons."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
WIDTH = 120
_WIDEST = 240


def share_text(entry: Entry | None) -> str:
    """A share with its interval, such as `0.431 [0.380, 0.484]`; a dash for None, `undefined` for a null value."""
    if entry is None:
        return "—"
    if entry["value"] is None:
        return "undefined"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def value_text(entry: Entry | None, digits: int = 3) -> str:
    """The value of an entry without its interval; a dash for None, `undefined` for a null value."""
    if entry is None:
        return "—"
    return "undefined" if entry["value"] is None else f"{entry['value']:.{digits}f}"


def new_table(columns: Sequence[str], left: int = 1) -> Any:
    """A rich table with these columns in the style of all tables here. The first `left` columns are text."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        if place < left:
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=24 if place else 44)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def printed(parts: Sequence[Any], width: int = WIDTH) -> str:
    """Tables and notes as text. Tables keep their width, and notes are wrapped at `width`."""
    from rich.console import Console
    from rich.table import Table

    file = io.StringIO()
    for part in parts:
        wide = _WIDEST if isinstance(part, Table) else width
        Console(file=file, width=wide, color_system=None, highlight=False).print(part, markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().split("\n"))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Any:
    """A rich table whose cells are texts."""
    from rich.text import Text

    table = new_table(list(header), left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
