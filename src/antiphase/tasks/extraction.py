r"""Find the answer in a completion: in tags, in a box, after an announcement, as the last number, or as the last line.

The functions read the text after the thought of a reasoning model (see `thoughts`). They do not decide whether the
answer is right. They use only strings, and their time is linear in the length of the text. A box that is not closed
(`\boxed{12`) gives no answer.
"""

import functools
import re
from dataclasses import dataclass
from typing import Literal, get_args

from antiphase.tasks.lone_numbers import (
    NUMBER,
    announced_number,
    is_continued,
    joined,
    last_lone_number,
    plain_numbers_text,
)
from antiphase.tasks.marked_answers import beside, boxed, boxes_in, joined_boxes, tagged, unboxed
from antiphase.tasks.plain_numbers import decimal_text
from antiphase.tasks.units import sign_units, units_of

ExtractMode = Literal["auto", "tags", "boxed", "last-number", "last-line", "whole", "after-A"]
EXTRACT_MODES: tuple[ExtractMode, ...] = get_args(ExtractMode)
MAX_LENGTH = 20_000

_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\}")
_ANNOUNCED = re.compile(
    r"\banswer(?:\s+(?:is|are|equals)\b|\s*[:=：])[:：\s*]*|####[ \t*]*|答案(?:\s*(?:是|为|為|：|:))[\s*：:]*",
    re.IGNORECASE,
)
# Bold text that is a number with at most a few words behind it, and no heading.
_BOLD = re.compile(r"\*\*[ \t]*(?=[-+$€£¥(\\]*[\d.])([^*\n]{1,60}?)[ \t.]*\*\*(?!\s*:)")
_ANNOUNCED_LENGTH = 1000  # characters after an announcement that are read
# A formula at the beginning of what is announced, in any of LaTeX's delimiters.
_FORMULA = re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$|\\\((.+?)\\\)|\$([^$\n]+?)\$(?!\d)", re.DOTALL)
_DISPLAY = re.compile(r"(?:\\\[((?:(?!\\\[).)+?)\\\]|\$\$([^$]+?)\$\$)\s*\Z", re.DOTALL)
_SHOWN = re.compile(r"\$([^$\n]+)\$|\\\((.+?)\\\)|\*\*([^*\n]+)\*\*")


How = Literal["tags", "box", "announced", "number", "line", "asked"]
# How a reason says where the answer was found.
PLACES: dict[How, str] = {
    "tags": "in tags", "box": "in a box", "announced": "announced", "number": "the last number",
    "line": "the last line", "asked": "where the task looks",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """An answer, and where it was found.

    Args:
        text: the answer.
        how: the place: `tags`, `box`, `announced` (after "The answer is" or `####`, or in bold), `number` (the last
            number) or `line` (the last line). With a mode other than `auto`, the place is `asked`, since the caller
            asked for this one place.
    """

    text: str
    how: How


def extract_answer(completion: str, mode: ExtractMode, gold: str) -> str | None:
    r"""Return the answer that a completion gives; None if the completion has no answer.

    Only the last 20,000 characters are read. If both the reference answer and the answer are plain numbers, the
    answer is returned in ASCII digits, without `$`, `%`, thousands separators and final period.

    The mode says where the answer is looked for:

    * `tags`: the content of the last `<answer>…</answer>`.
    * `boxed`: the content of the last complete `\boxed{…}`. Several boxes beside each other make one list.
    * `last-number`: the last number.
    * `last-line`: the last line that is not blank.
    * `whole`: the whole text.
    * `after-A`: the text after the last letter A.
    * `auto`: the first place in this order that has an answer: tags; a box; an announcement ("The answer is",
      "Answer:", `####`, 答案) or a number in bold; the last number, if the reference is a number; the last line.
      If `<answer>` has no closing tag, `auto` searches only the text after it.

    Args:
        completion: the generated text after its thought.
        mode: one of the modes above.
        gold: the reference answer, which tells whether the answer is a number or a list.

    >>> extract_answer(r"so \boxed{3}, no, \boxed{\frac{1}{2}}", "auto", "1/2")
    '\\frac{1}{2}'
    >>> extract_answer("She makes $1,234.", "auto", "18")
    '1234'
    >>> extract_answer("The answer is 18. She does this 3 times.", "auto", "18")
    '18'
    """
    found = find_answer(completion, mode, gold)
    return None if found is None else found.text


@functools.lru_cache(maxsize=512)
def is_whole(completion: str, gold: str, finish: str | None) -> bool:
    """Return False if a completion was cut off before it gave an answer, else True.

    A completion that reached its length limit was cut off. Its last number and its last line may come from the middle
    of a calculation, so they do not count as an answer. But an answer in tags, in a box or after an
    announcement counts.

    Args:
        completion: the generated text after its thought.
        gold: the reference answer.
        finish: how the completion ended; `length` means that it reached its length limit.
    """
    if finish != "length":
        return True
    found = find_answer(completion, "auto", gold)
    return found is not None and found.how not in ("number", "line")


def find_answer(completion: str, mode: ExtractMode, gold: str) -> Found | None:
    """Return the answer that a completion gives, and where it was found; None if the completion has no answer.

    Answers are cached, because several callers ask for the same answer.

    Args:
        completion: the generated text after its thought.
        mode: where the answer is looked for; `extract_answer` explains the modes.
        gold: the reference answer, which tells the mode `auto` whether the answer is a number or a list.
    """
    text = completion[-MAX_LENGTH:]
    numeric = decimal_text(gold) is not None
    how: How = "asked"
    if mode == "auto":
        found, how = _auto(text, gold, numeric)
    elif mode == "tags":
        found = unboxed(tagged(text))
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
    if numeric and found and not _other_sign(found, gold):
        found = decimal_text(found) or found
    return Found(found, how) if found else None


def _other_sign(text: str, gold: str) -> bool:
    """Return whether both texts have signs of units, such as `%` or `€`, and no sign in common."""
    given, wanted = sign_units(text), sign_units(gold)
    return bool(given and wanted) and not given & wanted


def presents_answer(completion: str, mode: ExtractMode) -> bool:
    r"""Return whether the completion presents an answer, right or wrong, in the form that a mode asks for.

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


def _auto(text: str, gold: str, numeric: bool) -> tuple[str | None, How]:
    if "<answer>" in text:
        content = tagged(text)
        if content is not None:
            return _said(unboxed(content, gold), gold, numeric), "tags"
        text = text.rpartition("<answer>")[2]  # generation often stops at the closing tag, which is then cut off
        found, how = _auto(text, gold, numeric)
        return found, ("tags" if how in ("number", "line") else how)
    boxes, begun = boxes_in(text)
    if boxes or begun:
        return (joined_boxes(text, boxes, gold) if boxes else None), "box"
    announced = _after_announcement(text, gold, numeric)
    if announced is not None:
        return announced, "announced"
    if numeric:
        return last_lone_number(text, units_of(gold)) or _last_formula(text), "number"
    # A completion with an empty box gives no answer, whatever stands on its last line.
    return (None if _EMPTY_BOX.search(text) else _last_shown(text)), "line"


def _said(content: str | None, gold: str, numeric: bool) -> str | None:
    """Return the answer in the content of `<answer>` tags; None if the content is None.

    Args:
        content: the text between the tags.
        gold: the reference answer.
        numeric: whether the reference answer is a number. A sentence with one number is then cut to this number.
    """
    if content is None or not numeric or decimal_text(content) is not None:
        return content
    announced = _after_announcement(content, gold, numeric)
    if announced is not None:
        return announced
    # An equation is kept whole, since both of its sides must be right. A sentence is cut to its number if it has one.
    if "=" in content or not re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", content)):
        return content
    numbers = NUMBER.findall(plain_numbers_text(content))
    return announced_number(content, units_of(gold)) if len(numbers) == 1 else content


def last_number(text: str) -> str | None:
    """Return the last number in the text, such as `-1.5` or `2/3`, without units; None if the text has no number.

    A minus sign belongs to the number unless a letter, digit or closing bracket precedes it: `10-4` ends in 4.

    >>> last_number("from -3 to $-1,250.50 or so"), last_number("5-3"), last_number("none")
    ('-1250.50', '3', None)
    """
    last = last_match(NUMBER, joined(plain_numbers_text(text)))
    return None if last is None else last[0].replace(",", "").replace("$", "")


def last_line(text: str) -> str | None:
    """Return the last line that is not blank; None if there is no such line."""
    return text.strip().rpartition("\n")[2].strip() or None


def _last_shown(text: str) -> str | None:
    """Return the display formula at the end of the text.

    If the text does not end with a display formula, return the last formula or bold text of the last line. If the last
    line has neither, return the whole line.
    """
    display = _DISPLAY.search(text)
    if display is not None:
        return display[1] or display[2]
    line = last_line(text)
    shown = None if line is None else last_match(_SHOWN, line)
    return line if shown is None else next(part for part in shown.groups() if part is not None)


def _last_formula(text: str) -> str | None:
    """Return the last formula of the last line; None if the formula has no number, or if a number follows it."""
    line = last_line(text) or ""
    found = last_match(_SHOWN, line)
    if found is None or any(character.isdecimal() for character in line[found.end() :]):
        return None
    content = next(part for part in found.groups() if part is not None)
    return content if any(character.isdecimal() for character in content) else None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the last match of a pattern in a text; None if nothing matches."""
    return functools.reduce(lambda _, match: match, pattern.finditer(text), None)


def _after_announcement(text: str, gold: str, numeric: bool) -> str | None:
    """Return the answer in the last announcement, such as "The answer is 5"; None if no answer is announced.

    If a number is wanted, an announcement without a digit is skipped. If no announcement is left, the last number in
    bold is the answer.

    Args:
        text: the text after the thought.
        gold: the reference answer. If the number has another unit than the reference, the unit is kept.
        numeric: whether a number is wanted.
    """
    for found in reversed(list(_ANNOUNCED.finditer(text))):
        line = _announced_line(text[found.end() : found.end() + _ANNOUNCED_LENGTH])
        if not numeric:
            return line or None
        # "The answer is positive." announces no number.
        if any(character.isdecimal() for character in line):
            return announced_number(line, units_of(gold))
    if not numeric:
        return None
    bold = list(_BOLD.finditer(text))
    if not bold:
        return None
    if len(bold) > 1 and bold[-1][1] != bold[-2][1]:
        between = text[bold[-2].end() : bold[-1].start()]
        if beside(between) and between.strip() and "\n" not in between:
            return f"{bold[-2][1]}, {bold[-1][1]}"  # `**10** or **12**` offers two answers
    return announced_number(bold[-1][1], units_of(gold))


def _announced_line(text: str) -> str:
    """Return the line after an announcement, without Markdown signs.

    If the line begins with a formula, only the formula is returned.
    """
    text = text.lstrip().removeprefix("**").lstrip()
    formula = _FORMULA.match(text)
    if formula is not None and not is_continued(text, formula.end()):
        return next(part for part in formula.groups() if part is not None).strip()
    bold = re.match(r"\*\*([^*\n]+)\*\*", text)
    line = (text.partition("\n")[0] if bold is None else bold[1]).strip(" \t*").rstrip(" \t.*$")
    return line if re.match(r"\$\d", line) and line.count("$") == 1 else line.strip(" \t*$")
