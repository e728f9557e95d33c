r"""Find the answer inside a completion: in tags, in a box, as the last number, or on the last line.

Pure string functions, linear in the length of the text. They do not decide whether the answer is right. A box that is
not closed (`\boxed{12`) gives no answer.
"""

import functools
import re
from typing import Literal, get_args

from antiphase.tasks.plain_numbers import ascii_digits, decimal_text, join_thousands

ExtractMode = Literal["auto", "tags", "boxed", "last-number", "last-line", "whole", "after-A"]
EXTRACT_MODES: tuple[ExtractMode, ...] = get_args(ExtractMode)
MAX_LENGTH = 20_000

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}%])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?|(?<![\w.])\.\d+)"
)
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\}")
_ANSWER_IS = re.compile(r"answer(?:\s+is\b|\s*:)[:\s*]*", re.IGNORECASE)


def extract_answer(completion: str, mode: ExtractMode, gold: str) -> str | None:
    r"""The answer that a completion gives; None if it gives none.

    Only the last 20,000 characters are read. If both the reference and the answer are plain numbers, the answer is
    returned in ASCII digits, without `$`, `%`, thousands separators and final period.

    Args:
        completion: the generated text.
        mode: `tags` (the content of the last `<answer>…</answer>`), `boxed` (the content of the last complete
            `\boxed{…}`), `last-number`, `last-line` (the last line that is not blank), `whole` (all of the text),
            `after-A` (the text after the last letter A), or `auto`: tags, else boxed, else the last number if the
            reference is a number, else the text after the last "answer is" or "answer:", else the last line. If
            `<answer>` has no closing tag, `auto` searches only the text after it.
        gold: the reference answer; whether it is a number matters for `auto`.

    >>> extract_answer(r"so \boxed{3}, no, \boxed{\frac{1}{2}}", "auto", "1/2")
    '\\frac{1}{2}'
    >>> extract_answer("She makes $1,234.", "auto", "18")
    '1234'
    """
    text = completion[-MAX_LENGTH:]
    numeric = decimal_text(gold) is not None
    if mode == "auto":
        found = _auto(text, numeric)
    elif mode == "tags":
        found = _unboxed(tagged(text))
    elif mode == "boxed":
        found = boxed(text)
    elif mode == "last-number":
        found = last_number(text)
    elif mode == "last-line":
        found = last_line(text)
    elif mode == "after-A":
        found = text.rpartition("A")[2] if "A" in text else None
    else:
        found = text if len(completion) <= MAX_LENGTH else None
    found = None if found is None else found.strip()
    if numeric and found:
        return decimal_text(found) or found
    return found or None


def presents_answer(completion: str, mode: ExtractMode) -> bool:
    r"""Whether the completion presents an answer, right or wrong, in the form that a mode asks for.

    For `auto` this means a complete box or complete tags with content. For `last-number` the last line must be a
    number and nothing else, except an `=` before it. For the other modes there must be something to extract.

    >>> [presents_answer(text, "auto") for text in (r"\boxed{7}", "<answer>7</answer>", r"\boxed{7", "it is 7")]
    [True, True, False, False]
    >>> presents_answer("=77", "last-number"), presents_answer("about 77", "last-number")
    (True, False)
    """
    text = completion[-MAX_LENGTH:]
    if mode == "last-number":
        return decimal_text((last_line(text) or "").removeprefix("=")) is not None
    if mode == "auto":
        return bool((boxed(text) or "").strip() or (tagged(text) or "").strip())
    return extract_answer(completion, mode, "") is not None


def _auto(text: str, numeric: bool) -> str | None:
    if "<answer>" in text:
        content = tagged(text)
        if content is not None:
            return _unboxed(content)
        text = text.rpartition("<answer>")[2]  # generation often stops at the closing tag, which is then cut off
    box, begun = _last_box(text)
    if box is not None or begun:
        return box
    if numeric:
        return last_number(text)
    # A completion with an empty box gives no answer, whatever stands on its last line.
    return _after_answer_is(text) or (None if _EMPTY_BOX.search(text) else last_line(text))


def _unboxed(text: str | None) -> str | None:
    if text is None:
        return None
    box, begun = _last_box(text)
    return box if box is not None or begun else text


def tagged(text: str) -> str | None:
    """The content of the last complete `<answer>…</answer>`; None if there is none."""
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    start += len("<answer>")
    return text[start : text.find("</answer>", start)]


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` with balanced braces; of nested boxes, the inner one counts.

    >>> boxed(r"\boxed{1} and \boxed{\{2\}} but \boxed{3")
    '\\{2\\}'
    """
    return _last_box(text)[0]


def _last_box(text: str) -> tuple[str | None, bool]:
    """(content of the last complete box that is not empty, whether there is a box that is not closed)."""
    opened: list[int] = []  # where the content of each open brace starts; boxes are negative
    spans: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.endswith("{") and (token == "{" or len(token) > 2):
            opened.append(match.end() if token == "{" else -match.end())
        elif token == "}" and opened:
            start = opened.pop()
            if start < 0 and not (spans and spans[-1][0] > -start):
                spans.append((-start, match.start()))
    # Empty boxes repeat the instruction.
    content = next((text[start:stop] for start, stop in reversed(spans) if text[start:stop].strip()), None)
    return content, any(start < 0 for start in opened)


def last_number(text: str) -> str | None:
    """The last number in the text, with its sign, its decimals or its denominator (`a/b`), and without units.

    A minus sign belongs to the number unless a letter, digit or closing bracket precedes it: `10-4` ends in 4.

    >>> last_number("from -3 to $-1,250.50 or so"), last_number("5-3"), last_number("none")
    ('-1250.50', '3', None)
    """
    text = join_thousands(ascii_digits(text)).replace("\\$", "$")
    last = last_match(_NUMBER, text)
    return None if last is None else last[0].replace(",", "").replace("$", "")


def last_line(text: str) -> str | None:
    """The last line that is not blank."""
    return text.strip().rpartition("\n")[2].strip() or None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern; None if there is none."""
    return functools.reduce(lambda _, match: match, pattern.finditer(text), None)


def _after_answer_is(text: str) -> str | None:
    last = last_match(_ANSWER_IS, text)
    if last is None:
        return None
    return text[last.end() :].partition("\n")[0].strip(" \t*") or None
