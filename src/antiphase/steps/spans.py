"""Find the formulas and the code in a text. No sentence ends inside them.

The time is linear in the length of the text.
"""

import re
from bisect import bisect_left

_OPENER = re.compile(
    r"^[ \t]*(?P<fence>```|~~~)"
    r"|\\begin\{(?P<name>\w+\*?)\}"
    r"|(?P<display>\\\[|\$\$)|(?P<inline>\\\()|(?<![\\\w$])(?P<dollar>\$)(?=[^\s$])|(?P<code>`)",
    re.MULTILINE,
)
_CLOSERS = {
    "```": re.compile(r"^[ \t]*```[ \t]*$", re.MULTILINE),
    "~~~": re.compile(r"^[ \t]*~~~[ \t]*$", re.MULTILINE),
    "\\[": re.compile(r"\\\]"),
    "\\(": re.compile(r"\\\)"),
    "$$": re.compile(r"\$\$"),
    # This is Pandoc's rule. With it, "$5 and $6" are two prices and not a formula.
    "$": re.compile(r"(?<=[^\s\\])\$(?!\d)"),
    "`": re.compile("`"),
    "\n": re.compile("\n"),
    "blank": re.compile(r"\n[^\S\n]*(?=\n)"),
}
_ENDS = re.compile(r"\\end\{\w+\*?\}")
_LONGEST_DOLLARS = 400


class _Places:
    """Finds the next mark in a text that closes a formula or a piece of code.

    The text is searched only once for each kind of mark, and the offsets of the marks are kept.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.known: dict[str, list[tuple[int, int]]] = {}
        for found in _ENDS.finditer(text):
            self.known.setdefault(found[0], []).append(found.span())

    def after(self, kind: str, place: int) -> tuple[int, int]:
        """Return (start, end) of the first closing mark of a kind at or after an offset.

        If there is no such mark, both numbers are the length of the text.

        Args:
            kind: the mark, such as `$`, or a name in `_CLOSERS`, such as `blank` for a blank line.
            place: the offset.
        """
        if kind not in self.known:
            pattern = _CLOSERS.get(kind)
            self.known[kind] = [found.span() for found in pattern.finditer(self.text)] if pattern else []
        spans = self.known[kind]
        number = bisect_left(spans, (place, 0))
        return spans[number] if number < len(spans) else (len(self.text), len(self.text))


def protected_spans(text: str) -> list[tuple[int, int]]:
    r"""Return (start, end) of each formula and each piece of code in a text, in order and without overlap.

    Formulas are `\[…\]`, `\(…\)`, `$…$`, `$$…$$` and `\begin…\end`. Code stands in fences or between backticks. A
    formula contains no blank line. A formula between single dollars ends on the line on which it begins, and so does
    code between single backticks. If a fence is not closed, the code extends to the end of the text.

    >>> [r"so \(x = 1. y\). $5. Then $6."[a:b] for a, b in protected_spans(r"so \(x = 1. y\). $5. Then $6.")]
    ['\\(x = 1. y\\)']
    """
    places = _Places(text)
    spans: list[tuple[int, int]] = []
    place = 0
    while found := _OPENER.search(text, place):
        end = _closed(found, places)
        if end is not None:
            spans.append((found.start(), end))
        place = found.end() if end is None else max(end, found.end())
    return spans


def _closed(found: "re.Match[str]", places: _Places) -> int | None:
    """Return the offset at which a formula or a piece of code ends; None if its closing mark is missing or too late.

    Args:
        found: the match of the mark that opens the formula or the code.
        places: finds the closing marks of the text.
    """
    mark = found.group("name") or found.group(found.lastgroup or 0)
    begin, size = found.end(), len(places.text)
    if found["fence"]:
        return places.after(mark, places.after("\n", begin)[0])[1]
    start, end = places.after(f"\\end{{{mark}}}" if found["name"] else mark, begin)
    if start == size:
        return None
    limit = places.after("\n" if mark in ("$", "`") else "blank", begin)[0]
    if start > limit or (mark == "$" and start - begin > _LONGEST_DOLLARS):
        return None
    return end
