r"""Find the answers that a completion marks, in `<answer>` tags or in boxes (`\boxed{…}`).

The functions use only strings, and their time is linear in the length of the text.
"""

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
# Text that may stand between two boxes, or two pairs of tags, that make one list.
_BETWEEN = re.compile(
    r"(?:[\s$,;、，./|]|\\(?:quad|qquad|text|mbox)|[{}]|\b(?:and|or|und|et|maybe|perhaps|alternatively)\b|[和或])*",
    re.IGNORECASE,
)


def tagged(text: str) -> str | None:
    """Return the content of the last complete `<answer>…</answer>`; None if the text has no complete pair of tags."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0:
        return None
    content = text[start + len("<answer>") : text.find("</answer>", start)]
    before = text[:start].rpartition("</answer>")
    if before[1] and beside(before[2]) and before[2].strip():
        # `<answer>5</answer> or <answer>7</answer>` offers two answers.
        return f"{before[0].rpartition('<answer>')[2]}, {content}"
    return content


def boxed(text: str) -> str | None:
    r"""Return the content of the last complete `\boxed{…}`; None if the text has no complete box.

    If boxes are nested, the content of the inner one is returned.

    >>> boxed(r"\boxed{1} and \boxed{\{2\}} but \boxed{3")
    '\\{2\\}'
    """
    boxes, _ = boxes_in(text)
    return text[slice(*boxes[-1])] if boxes else None


def boxes_in(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Return two things: the spans of the contents of complete boxes, and whether some box is not closed.

    A span is (start, end). Empty boxes have no span in the list.
    """
    opened: list[int] = []  # the place where each open brace's content starts; negative for a box
    spans: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.endswith("{") and (token == "{" or len(token) > 2):
            opened.append(match.end() if token == "{" else -match.end())
        elif token == "}" and opened:
            start = opened.pop()
            if start < 0 and not (spans and spans[-1][0] > -start):
                spans.append((-start, match.start()))
    # An empty box only repeats the instruction, so it is left out.
    return [span for span in spans if text[slice(*span)].strip()], any(start < 0 for start in opened)


def unboxed(text: str | None, gold: str = "") -> str | None:
    """Return the content of the boxes in a text, or the text itself if it has no box.

    The result is None if the text is None, or if its only box is not closed. If several boxes stand in a row, they
    make one list (see `joined_boxes`, which also explains `gold`).
    """
    if text is None:
        return None
    boxes, begun = boxes_in(text)
    return joined_boxes(text, boxes, gold) if boxes else None if begun else text


def joined_boxes(text: str, boxes: list[tuple[int, int]], gold: str) -> str:
    """Return the content of the last box. If other boxes stand directly before it, all contents make one list.

    If two boxes stand on two lines, the second is a correction and is returned alone, unless `gold` is a list.

    Args:
        text: the text that holds the boxes.
        boxes: the spans of the contents of its boxes, as `boxes_in` returns them; at least one.
        gold: the reference answer.
    """
    first = len(boxes) - 1
    while first > 0 and beside(_between(text, boxes[first - 1], boxes[first])):
        first -= 1
    row = list(dict.fromkeys(text[start:stop].strip() for start, stop in boxes[first:]))
    separators = "".join(_between(text, *pair) for pair in zip(boxes[first:], boxes[first + 1 :], strict=False))
    # If two boxes stand on two lines, the second corrects the first, unless the reference is a list.
    corrected = len(row) == 2 and "\n" in separators and not separators.strip(" $\n.")
    return row[-1] if corrected and "," not in gold else ", ".join(row)


def beside(between: str) -> bool:
    r"""Return whether two answers make one list, judged by the text between them: `\boxed{1} and \boxed{2}` do."""
    return len(between) <= 80 and _BETWEEN.fullmatch(between) is not None


def _between(text: str, left: tuple[int, int], right: tuple[int, int]) -> str:
    """Return the text between two boxes: from the closing brace of the left one to the command of the right one."""
    return re.sub(r"\\(?:boxed|fbox)\s*\{\Z", "", text[left[1] + 1 : right[0]])
