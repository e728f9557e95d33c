"""Find where the sentences of a reasoning text begin (docs/method.md).

There are rules for prose, lists, formulas, code, and Chinese, Japanese and other scripts with full stops of their own.

Our reading: the paper cuts a rollout into "reasoning sentences" and does not say how. docs/steps.md lists our rules
and compares them with known libraries on the same texts.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable

from antiphase.steps.spans import protected_spans
from antiphase.steps.words import ends_sentence

_CLOSING = "\"'”’»)\\]}*_`」』）】》〉"
_TAGS = "</?(?:think|thinking|thought|reasoning|reflection|solution|answer)>"
_MARK = re.compile(
    rf"(?P<stop>[.!?…]+)[{_CLOSING}]*"
    rf"|(?P<wide>[。！？｡।॥؟۔]+)[!?…{_CLOSING}]*"
    r"|(?P<break>\n\s*)"
    rf"|(?P<tag>{_TAGS})"
)
TAG = re.compile(_TAGS)
_OPENING = re.compile(_TAGS.replace("/?", ""))
_SPACE = re.compile(r"\s*")
_ITEM = re.compile(r"(?:[-*+•‣◦–]|\(?\d{1,3}[.)]|\(?[A-Za-z]\)|[A-Z]\.|\(?[ivx]{1,4}\))\s|#{1,6}\s")
_HEADING = re.compile(
    r"\s*(?:#{1,6}\s.*|(?:\d{1,3}[.)]\s+)?\*\*[^*\n]+\*\*:?|(?:Step|Case|Part)\s+\w{1,4}[.:]"
    r"|(?:Analysis|Answer|Check|Conclusion|Explanation|Proof|Reasoning|Solution|Summary|Verification):)\s*",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\\\[|\\begin\{|\$\$")
_EQUATION = re.compile(r"\w{1,4}(?:\(\w{1,4}\))?\s*[=<>≤≥≈]|[a-zA-Z] [-+−*/×÷^] [\w(]")
_GOES_ON = ":=+-×÷/<&([{—–\\"
_CONTENT = r"[^\W_]"


def sentence_starts(text: str) -> list[int]:
    r"""Return the offsets at which the sentences of a text begin, except the first sentence.

    >>> text = "Pi is 3.14, e.g. in Fig. 2. So?\n1. Add.\n2. Stop"
    >>> [text[a:b] for a, b in zip([0, *sentence_starts(text)], [*sentence_starts(text), None])]
    ['Pi is 3.14, e.g. in Fig. 2. ', 'So?\n', '1. Add.\n', '2. Stop']

    Args:
        text: the text of a completion.

    Returns:
        The offsets, ascending. Each is the offset of a character that is not a space. The list is empty if the text is
        one sentence. The time is linear in the length of the text.
    """
    spans = protected_spans(text)
    opened = [start for start, _ in spans]
    hard, stops, lines, weak = set[int](), set[int](), set[int](), set[int]()
    begin = 0
    for found in _MARK.finditer(text):
        number = bisect_right(opened, found.start()) - 1
        if number >= 0 and found.start() < spans[number][1]:
            continue
        place = _after(text, found.end())
        kind = found.lastgroup
        if kind == "tag":
            if not found[0].startswith("</"):
                place = found.start()
            hard.add(place)
        elif kind == "break":
            strength = _line_break(text, begin, found)
            if strength is not None:
                {"hard": hard, "line": lines, "weak": weak}[strength].add(place)
            if strength in (None, "weak"):
                continue
        elif kind == "wide":
            if found[0][-1] in "」』”" and text[place : place + 1] in ("と", "っ"):
                continue
            stops.add(place)
        elif ends_sentence(text, begin, found.start("stop"), found.end("stop"), found.end(), place):
            stops.add(place)
        else:
            continue
        begin = max(begin, place)
    stops |= _ends_in_formulas(text, spans)
    places = hard | stops | lines | _lines_without_stop(text, hard, stops, weak)
    return merged(text, sorted(places), content=_CONTENT)


def merged(text: str, places: Iterable[int], *, content: str, tags: bool = True) -> list[int]:
    """Merge each step (sentence or line) without content with a neighbour, and return where the steps then begin.

    A step without content, such as a lone bracket, is merged with the step before it. But if it is the first step of
    the text, or an opening tag such as `<think>`, it is merged with the step after it.

    Args:
        text: the text of the completion.
        places: the offsets at which steps begin, ascending.
        content: a regular expression. A step has content if the expression matches somewhere in it.
        tags: whether tags are treated as special: they do not count as content, and an opening tag belongs to the step
            after it.

    Returns:
        The offsets, ascending. Each is the offset of a character that is not a space. The beginning of the first step
        is left out.
    """
    pattern = re.compile(content)
    plain = TAG.sub(lambda tag: " " * len(tag[0]), text) if tags else text
    kept: list[int] = []
    previous, waits = 0, False
    for place in (_after(text, place) for place in places):
        if place == previous:
            continue
        waits |= tags and _OPENING.search(text, previous, place) is not None
        if pattern.search(plain, previous, place):
            kept.append(place)
            waits = False
        elif kept and not waits:
            kept[-1] = place
        previous = place
    if kept and not pattern.search(plain, previous):
        kept.pop()
    return kept


def _after(text: str, place: int) -> int:
    """Return the offset of the first character that is not white space, at the offset `place` or after it."""
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _line_break(text: str, begin: int, found: "re.Match[str]") -> str | None:
    """Return the kind of a line break outside formulas: `hard`, `line`, `weak` or None.

    A `hard` break ends a sentence and a paragraph. A `line` break ends a sentence. A `weak` break ends a sentence only
    if no sentence of its paragraph ends with a mark such as a full stop. None means that the break ends nothing.

    Args:
        text: the text of the completion.
        begin: the offset at which the current sentence begins.
        found: the match of the line break and the white space after it.
    """
    line = text[max(begin, text.rfind("\n", 0, found.start()) + 1) : found.start()]
    marker = _ITEM.fullmatch(line.strip() + " ")
    formula = _FORMULA.match(text, found.end())
    if not marker and (found[0].count("\n") > 1 or _ITEM.match(text, found.end())):
        return "hard"
    if not marker and not formula and line and _HEADING.fullmatch(line):
        return "hard"
    last = line.rstrip().rstrip("*_").rstrip()[-1:]
    following = text[found.end() : found.end() + 1].lstrip("*_")
    if marker or formula or not last or last in _GOES_ON:
        return None
    starts_line = following.isdigit() or (following.isalpha() and not following.islower())
    if last not in ",;" and (starts_line or following in '"“($' or _EQUATION.match(text, found.end())):
        return "line"
    return "weak"


def _ends_in_formulas(text: str, spans: list[tuple[int, int]]) -> set[int]:
    """Return the offsets of sentences that begin after a formula with a full stop at its end, as in `$x = 5.$ Then`.

    Args:
        text: the text of the completion.
        spans: (start, end) of each formula and each piece of code.
    """
    places = set()
    for start, end in spans:
        inside = text[start:end].rstrip("\\])$").rstrip() if text[start] in "\\$" else ""
        after = _after(text, end)
        if inside[-1:] in (".", "!", "?") and after > end and text[after : after + 1].isupper():
            places.add(after)
    return places


def _lines_without_stop(text: str, hard: set[int], stops: set[int], weak: set[int]) -> set[int]:
    """Return the weak line breaks of those paragraphs in which no mark, such as a full stop, ends a sentence.

    `_line_break` explains weak and hard line breaks.

    Args:
        text: the text of the completion.
        hard: the offsets of hard breaks, which separate paragraphs.
        stops: the offsets at which sentences begin after a mark such as a full stop.
        weak: the offsets after all weak line breaks.
    """
    edges = sorted(hard | {0, len(text)})
    lines: dict[int, set[int]] = {}
    for place in weak:
        lines.setdefault(bisect_right(edges, place) - 1, set()).add(place)
    for place in stops:
        lines.pop(bisect_right(edges, place - 1) - 1, None)
    return set().union(*lines.values())
