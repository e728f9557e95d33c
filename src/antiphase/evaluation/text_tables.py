"""Format numbers and make tables of text, for evaluations and comparisons on the console."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
WIDTH = 120
_WIDEST = 240


def share_text(entry: Entry | None) -> str:
    """Return a share with its interval as text, such as `0.431 [0.380, 0.484]`.

    An entry is a mapping with `value`, `low` and `high`. An entry of None is written as a dash, and an entry whose
    value is None as `undefined`.
    """
    if entry is None:
        return "—"
    if entry["value"] is None:
        return "undefined"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def value_text(entry: Entry | None, digits: int = 3) -> str:
    """Return the value of an entry as text, such as `0.431`, without its interval.

    An entry is a mapping with `value`, `low` and `high`. An entry of None is written as a dash, and an entry whose
    value is None as `undefined`.
    """
    if entry is None:
        return "—"
    return "undefined" if entry["value"] is None else f"{entry['value']:.{digits}f}"


def new_table(columns: Sequence[str], left: int = 1) -> Any:
    """Make an empty `Table` of the package rich, with these columns.

    The first `left` columns hold text and are aligned to the left. The others hold numbers and are aligned to the
    right.
    """
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
    """Return tables and notes as one text. Notes are wrapped at `width` characters; tables keep their own width."""
    from rich.console import Console
    from rich.table import Table

    file = io.StringIO()
    for part in parts:
        wide = _WIDEST if isinstance(part, Table) else width
        Console(file=file, width=wide, color_system=None, highlight=False).print(part, markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().split("\n"))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Any:
    """Make a `Table` of the package rich. All its cells are text. The first `left` columns are aligned to the left."""
    from rich.text import Text

    table = new_table(list(header), left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
