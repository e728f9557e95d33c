"""Draw docs/images/rooms.svg: the packages of src/antiphase, here called rooms, and which may import which.

The rows come from `[tool.importlinter]` in pyproject.toml, which `make check` enforces. The words in a box are the
first sentence of the room's docstring. So the picture says what the code says: a test draws it again.

    python docs/rooms.py
"""

import ast
import html
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import cast

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "rooms.svg"

WIDTH, LEFT, GAP, PADDING = 960, 64, 10, 12
LINE = 17
_CHARACTER = 6.9  # of the small letters, on average
BLUE, INK, GREY, PAPER = "#1f5f99", "#22303c", "#5c6b78", "#eef4f9"


def layers() -> list[list[str]]:
    """The rows of rooms, from the top.

    >>> layers()[0]
    ['cli']
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^layers = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    rows = cast(list[str], ast.literal_eval(found[1]))
    return [row.split(" | ") for row in rows]


def purpose(room: str) -> str:
    """What a room is for: the first sentence of its docstring.

    >>> purpose("errors")
    'The errors that antiphase raises on purpose.'
    """
    package = ROOT / "src" / "antiphase" / room
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.match(r"(.*?\.)(\s|$)", " ".join(docstring.split()))
    assert sentence is not None, path
    return sentence[1].replace("`", "")


def _row(rooms: list[str], top: int) -> tuple[list[str], int]:
    """The boxes of one row, and its height."""
    width = (WIDTH - LEFT - GAP * (len(rooms) - 1)) / len(rooms)
    columns = int((width - 2 * PADDING) / _CHARACTER)
    words = [textwrap.wrap(purpose(room), columns, break_on_hyphens=False) for room in rooms]
    height = 2 * PADDING + LINE * (1 + max(map(len, words))) - 3
    parts = []
    for place, (room, lines) in enumerate(zip(rooms, words, strict=True)):
        left = LEFT + place * (width + GAP)
        name = f"{room}/" if (ROOT / "src" / "antiphase" / room).is_dir() else f"{room}.py"
        parts.append(
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" rx="5" fill="{PAPER}" '
            f'stroke="{BLUE}"/>'
        )
        for number, line in enumerate([name, *lines]):
            kind = "room" if number == 0 else "what"
            x, y = left + PADDING, top + PADDING + 11 + LINE * number
            parts.append(f'<text class="{kind}" x="{x:.0f}" y="{y}">{html.escape(line)}</text>')
    return parts, height


def _rows() -> Iterator[tuple[list[str], int, int]]:
    top = GAP
    for rooms in layers():
        parts, height = _row(rooms, top)
        yield parts, top, height
        top += height + GAP


def picture() -> str:
    """The picture as SVG. It loads nothing."""
    rows = list(_rows())
    bottom = rows[-1][1] + rows[-1][2]
    x = LEFT // 2
    arrow = (
        f'<path d="M{x} {GAP} V{bottom - 14}" stroke="{BLUE}" stroke-width="3"/>'
        f'<path d="M{x - 8} {bottom - 16} H{x + 8} L{x} {bottom} Z" fill="{BLUE}"/>'
        f'<text class="arrow" transform="translate({x - 9} {bottom // 2}) rotate(-90)">may import</text>'
    )
    style = (
        "text{font-family:Helvetica,Arial,sans-serif}"
        f".room{{font:bold 14px Consolas,Menlo,monospace;fill:{INK}}}"
        f".what{{font-size:13px;fill:{GREY}}}"
        f".arrow{{font-size:14px;fill:{BLUE};text-anchor:middle}}"
    )
    boxes = "\n".join(part for parts, _, _ in rows for part in parts)
    size = f'viewBox="0 0 {WIDTH + GAP} {bottom + GAP}" width="{WIDTH + GAP}" height="{bottom + GAP}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<title>The packages of src/antiphase</title>\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n{arrow}\n{boxes}\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
