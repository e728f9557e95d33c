r"""Find the number that a text gives as its answer, if the number stands by itself.

A number that is part of a larger expression, such as the 2 of `\frac{1}{2}`, `x^2`, `v2` and `3-2`, is no answer. The
functions use only strings, and their time is linear in the length of the text. `extraction` uses them for announced
numbers, for numbers in tags and for the last number of a completion.
"""

import re
from collections.abc import Set
from fractions import Fraction

from antiphase.tasks.gym_entries import exact_value
from antiphase.tasks.notation import plain_text
from antiphase.tasks.plain_numbers import join_thousands
from antiphase.tasks.units import units_of

NUMBER = re.compile(r"(?:(?<![\w.)\]}%])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?|(?<![\w.])\.\d+)")
# A number whose thousands are separated by plain spaces, in running text.
_SPACED = re.compile(r"(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?![\d/]|[.,]\d| \d)")
# Text before a number that makes it another number, or no answer, such as "not" or "less than".
_TURNED = re.compile(
    r"[<>\\≤≥≠]|[-+*/^]\s*$|\b(?:not|never|no|less|more|fewer|greater|least|most|than|over|under|between|above|below|minus"
    r"|negative|except|without|nor|unknown|unclear|undefined|undetermined|impossible|cannot)\b|n['’]t\b",
    re.IGNORECASE,
)
# Text after a number that makes it another number, such as "^2" or "million".
_CONTINUED = re.compile(
    r"\s*(?:[\^_!²³±×·⋅÷√π{}\\|]|\*\*|[-+*/=]\s*[\d(\\√π]|[,;/]\s*[-+$]?\d|:\d|[½¼¾⅓⅔])|\.\d"
    r"|(?!(?:k[gm]|[cm]m|m[lp]h?|lbs?|ft|in|am|pm)\b)[A-Za-z]"
    r"|\s+(?:million|billion|trillion|thousand|hundred|dozen|times|plus|minus|over|to|through|squared|cubed|factorial"
    r"|half|and\s+a\b|and\s+[-$]?\d|out\s+of\s+\d|of\s+\d|remainder|r\s+\d|mod\b|modulo\b|\d+/\d+)\b|[ \t]+[-+$]?\d"
    # A quantity of two parts, such as "5 hours 30 minutes" and "5 apples and 3 pears".
    r"|\s+(?:hours?|hrs?|h|minutes?|mins?|min|feet|foot|ft|yards?|pounds?|lbs?|weeks?|days?|months?|years?|degrees?"
    r"|dollars?|meters?|m|km|kg|gallons?|quarts?)\s*,?\s+\d|\s+[A-Za-z]+,?\s+(?:and|plus)\s+\$?\d",
    re.IGNORECASE,
)
_OFFERED = re.compile(
    r"\s*[,;(]?\s*(?:or|maybe|perhaps|possibly|alternatively)\b[^.\n]*\d|\s*([A-Za-z]+)[^.\n]*\bor\b[^.\n]*\d\s*\1\b",
    re.IGNORECASE,
)
# Text directly before a number that makes it a part: a name, an index, an operator, a command or an open brace.
_PART_OF = re.compile(
    r"[A-Za-z_^{]\s?$|(?<=[A-Za-z])-$|[\d][.,:]$"
    r"|[\w)\]}][ \t]*[+*/^×÷·⋅±√][ \t]*[(]?$|[√^±]\s*$|[\d)\]}][ \t]*-[ \t]*$|(?<![A-Za-z])[A-Za-z][ \t]*-[ \t]*$"
    r"|[(\[]\s*-?[\d.]+\s*[,;]\s*$|\\(?!(?:q?quad|approx|implies|therefore|[Rr]ightarrow|to)\b)[A-Za-z]+\s*\(?\s*$",
    re.IGNORECASE,
)
# A word and a space, or the name of a currency. A number after it is no part of it.
_ALONE_AFTER_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{2,}\s|[aAI]\s|US|USD|EUR|GBP|Rs\.?)$")
# Text directly after a number that makes it a part of a larger expression.
_GOES_ON = re.compile(
    r"\s*[_±×·⋅÷√π{}½¼¾⅓⅔²³]|\s*\^(?!\{?\s*\\circ)|\s*[-+*/]\s*(?:[\d(\\√π]|[A-Za-z](?![A-Za-z])(?<!-[A-Za-z])(?<!/[A-Za-z]))|\.\d|:\d|\w"
    r"|\s*\\(?!q?quad|end|\\|%|,|;| |\$|n|approx|[Rr]ightarrow|implies|therefore|\Z)[A-Za-z]+"
    r"|\s+(?:million|billion|trillion|thousand|hundred|dozen|times|plus|minus|squared|cubed|factorial)\b",
    re.IGNORECASE,
)
_GLUED_UNIT = re.compile(
    r"(?:st|nd|rd|th|k[gm]|[cm]m|m[lp]h?|lbs?|ft|in|hrs?|oz|yd|mi|[mghls]|am|pm)\b|(?!sqrt|sin|cos|tan|log|mod)[A-Za-z]{3}",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox|underline|boldsymbol)\{([^{}]*)\}")
# Arithmetic of numbers that stands before an equals sign.
_ARITHMETIC = re.compile(r"(?<![\d.,+*/×÷·()\s$-])[\d.,+*/×÷·()\s$-]*\Z")
_NEAR = 60  # characters before and after a number that are looked at


def plain_numbers_text(text: str) -> str:
    r"""Return the text with its numbers in ASCII: `$` for `\$`, and a comma for LaTeX's thousands separator `{,}`."""
    return join_thousands(plain_text(text)).replace("\\$", "$")


def joined(text: str) -> str:
    """Return the text without the spaces between the thousands of a number: `12 345` becomes `12345`."""
    return _SPACED.sub(lambda found: found[0].replace(" ", ""), text)


def is_continued(text: str, place: int) -> bool:
    """Return whether the text from offset `place` on continues the formula before it, or offers a second answer."""
    after = text[place : place + 1000]
    return _CONTINUED.match(after) is not None or _OFFERED.match(after) is not None


def announced_number(line: str, units: Set[str] = frozenset()) -> str:
    """Return the number that a line gives as its answer; the whole line if it does not clearly give one number.

    Args:
        line: the text after an announcement, such as "The answer is".
        units: the units of the reference answer. If the number has another known unit, the unit is returned with it.

    >>> [announced_number(line) for line in ("18 dollars.", "5 or 7", "6 × 3 = 18", "v2")]
    ['18', '5 or 7', '18', 'v2']
    """
    plain = joined(plain_numbers_text(re.sub(r"\\[()\[\]]|\*\*|`", "", line)))
    plain = plain if plain.count("$") == 1 else plain.replace("$", "")
    numbers = list(NUMBER.finditer(plain))
    if "=" in plain and numbers and numbers[-1].start() > plain.rindex("="):
        left, _, plain = plain.rpartition("=")
        numbers = list(NUMBER.finditer(plain))
        if numbers and not _holds(left, numbers[0][0]):
            return line
    if not numbers:
        return line
    first = numbers[0]
    before, after = plain[: first.start()], plain[first.end() :]
    if _TURNED.search(before) or _is_part(before) or _CONTINUED.match(after) or _OFFERED.match(after):
        return line
    if len(before.split()) > 4 and len(numbers) > 1:
        return line
    return _with_unit(plain, first, units)


def last_lone_number(text: str, units: Set[str] = frozenset()) -> str | None:
    r"""Return the last number in the text if it stands by itself, or None if it is part of a larger expression.

    Args:
        text: the completion after its thought.
        units: the units of the reference answer. If the number has another known unit, the unit is returned with it.

    >>> [last_lone_number(text) for text in ("She has $18.", "9 * 2 = 18", r"$\frac{1}{2}$", "x^2", "v2", "3-2")]
    ['18', '18', None, None, None, None]
    """
    plain = re.sub(r"\\[()\[\]]|\*\*|`", " ", joined(plain_numbers_text(text)))
    plain = re.sub(r"\$(?!\d)|(?<=\d)\$", " ", _WRAPPED.sub(r" \1 ", plain))
    last = None
    for last in NUMBER.finditer(plain):  # noqa: B007 (the last match is wanted)
        pass
    if last is None:
        return None
    before, after = plain[max(0, last.start() - _NEAR) : last.start()], plain[last.end() : last.end() + _NEAR]
    if _is_part(before) or (_GOES_ON.match(after) and not _GLUED_UNIT.match(after)):
        return None
    if before.rstrip().endswith("=") and not _holds(before.rstrip()[:-1], last[0]):
        return None
    return _with_unit(plain, last, units)


def _is_part(before: str) -> bool:
    """Return whether a number is part of a larger expression. `before` is the text before the number."""
    before = before[-_NEAR:]
    return (_PART_OF.search(before) is not None and _ALONE_AFTER_WORD.search(before) is None) or _named(before)


def _named(before: str) -> bool:
    """Return whether the text before a number ends in a function or a negation, as in `log 2` and `not 7`."""
    return (
        re.search(r"\b(?:log|ln|sqrt|sin|cos|tan|exp|mod|not|never)\s+\(?\$?$|n['’]t\s+\$?$", before, re.IGNORECASE)
        is not None
    )


def _holds(left: str, number: str) -> bool:
    """Return whether the equation `left = number` is true. If `left` is no arithmetic, return True.

    The number may be rounded: `10/3 = 3.33` is true.
    """
    left = left[-200:]
    found = _ARITHMETIC.search(left)
    if found is None or re.match(r"[\w^}\]]", left[: found.start()][-1:]):
        return True
    text = found[0].strip(" .,\n$").replace("$", "").replace(",", "")
    for sign, plain in (("×", "*"), ("·", "*"), ("÷", "/")):
        text = text.replace(sign, plain)
    value = None if not re.search(r"\d\s*[^\d.\s]", text) or text[:1] in "+-*/)" or "." in text else exact_value(text)
    right = number.replace("$", "").replace(",", "")
    if value is None or "/" in right:
        return True
    places = len(right.partition(".")[2])
    return abs(value - Fraction(right)) < Fraction(1, 10**places)


def _with_unit(plain: str, found: re.Match[str], units: Set[str]) -> str:
    """Return the number. If it has a known unit that differs from the units of the reference answer, add this unit.

    If `units` is empty, the number is returned without a unit.

    Args:
        plain: the text that holds the number.
        found: the match of the number in this text.
        units: the units of the reference answer.
    """
    number = found[0].replace(",", "").replace("$", "")
    if not units:
        return number
    sign = re.search(r"[€£¥₹]?\s?$", plain[max(0, found.start() - 2) : found.start()])
    after = re.match(r"\s?[A-Za-z%€£¥₹]*", plain[found.end() : found.end() + 30])
    whole = f"{sign[0] if sign else ''}{found[0]}{after[0] if after else ''}".strip()
    given = units_of(whole)
    return whole if given and not given & units else number
