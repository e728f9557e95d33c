r"""Cut the list in an answer, such as `(1,2]` or `1, -2`, into its brackets and its items. `\pm` gives two items."""

import itertools
import re
from collections import defaultdict

# The brackets of a set.
SET = "\\{\\}"
SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_TOKEN = re.compile(r"\\[{}]|[()\[\]{},]")


def items_of(text: str) -> tuple[str, list[str]]:
    r"""Return (the brackets around the whole text, its items). Commas inside further brackets do not separate items.

    `(1,2]` gives (`(]`, [`1`, `2`]). If there is only one item, the brackets around it stay part of the item.
    """
    tokens = list(_TOKEN.finditer(text))
    commas: dict[int, list[int]] = defaultdict(list)  # by the number of brackets that are open
    depth, closed = 0, None  # closed: where the first bracket is closed
    for token in tokens:
        if token[0] == ",":
            commas[depth].append(token.start())
        else:
            depth += 1 if token[0] in ("(", "[", "{", "\\{") else -1
            if depth == 0 and closed is None:
                closed = token.end()
    if closed == len(text) and text.startswith(("(", "[", "\\{")):
        inside = _cut(text, tokens[0].end(), tokens[-1].start(), commas[1])
        if len(inside) > 1:
            return tokens[0][0] + tokens[-1][0], inside
    return "", _cut(text, 0, len(text), commas[0])


def _cut(text: str, start: int, stop: int, commas: list[int]) -> list[str]:
    r"""Return the items of text[start:stop], which is cut at the offsets `commas`. An item with `\pm` gives two."""
    edges = [start - 1, *commas, stop]
    items = [text[a + 1 : b].strip() for a, b in itertools.pairwise(edges)]
    return [value for item in items if item for value in _both_signs(item)]


def _both_signs(text: str) -> list[str]:
    r"""Return the two values of an item with `\pm` or `\mp`, as a list; for any other item, a list of this item."""
    if not SIGNS.search(text):
        return [text]
    upper = SIGNS.sub(lambda found: " + " if "pm" in found[0] else " - ", text)
    return [upper, SIGNS.sub(lambda found: " - " if "pm" in found[0] else " + ", text)]
