r"""Decide whether two mathematical answers are equal, more strictly than math-verify alone.

Plain numbers are compared exactly, and equal strings are equal. math-verify (sympy) decides the rest. It is lenient,
so it sees only parts where this does no harm: an equation counts as its right side only if its left side is a name;
lists and tuples are compared item by item in order, and their brackets must agree.
"""

import itertools
import re
from typing import Any, Literal

from antiphase.errors import MissingExtraError
from antiphase.tasks.plain_numbers import ascii_digits, exact_number, join_thousands

Order = Literal["given", "any"]
Compare = Literal["math", "exact"]
MAX_ANSWER_LENGTH = 1000

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}")
_AND = re.compile(r",?\s*(?:\\(?:text|mbox)\{\s*,?\s*and\s*\}|\band\b)\s*")
_SPACES = re.compile(r"(?<!\\)\\(?:quad|qquad|[ ,;:])|~")
_SIZES = re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_NAME = re.compile(
    r"\\?(?:text|mathrm|angle|triangle|overline)?[ {]*[A-Za-z]+[ }]*"
    r"(?:_\{?\w{1,3}\}?)?'*(?:\(\w{1,3}(?:,\w{1,3})*\))?"
)
_TWO_NUMBERS = re.compile(r"\d\s+\d+(?![\d\s]*/)")
_BASE = re.compile(r"\d\s*_\s*(?:\{\s*)?(?:\\text\{)?\s*(\d+)")
_PAIRS = {"(": ")", "[": "]", "\\{": "\\}"}
_SET = "\\{\\}"
_TOKEN = re.compile(r"\\[{}]|[()\[\]{},]")


def quick_same(answer: str, gold: str) -> bool | None:
    """Whether the two are equal, as far as strings and plain numbers can tell; None where algebra is needed."""
    wanted, given = exact_number(gold), exact_number(answer)
    if wanted is not None and given is not None:
        return wanted == given
    if len(answer) > MAX_ANSWER_LENGTH:
        return answer == gold
    return True if normal_form(answer) == normal_form(gold) else None


def same_answer(answer: str, gold: str, order: Order = "given", compare: Compare = "math") -> bool:
    r"""Whether the answer equals the reference.

    Args:
        answer: the answer that was extracted from a completion.
        gold: the reference.
        order: whether the order of items matters in a list without brackets, such as `1,-2`. It never matters in a
            set `\{ \}`. With `any`, a list without brackets equals the set of the same items.
        compare: `math` asks math-verify; `exact` compares only numbers and text, item by item.

    Raises:
        MissingExtraError: math-verify is needed and not installed.
    """
    quick = quick_same(answer, gold)
    if quick is not None:
        return quick
    answer, gold = _tidy(answer), _tidy(gold)
    if not _balanced(answer) or (_TWO_NUMBERS.search(answer) and not _TWO_NUMBERS.search(gold)):
        return False
    if (bases := _BASE.findall(answer)) and bases != _BASE.findall(gold):
        return False  # math-verify ignores the base of a number
    opened, wanted = _items(gold)
    given_opened, given = _items(answer)
    if len(wanted) > 1 or len(given) > 1:
        ordered = opened != _SET and (bool(opened) or order == "given")
        if order == "any":
            opened, given_opened = (opened.replace(_SET, ""), given_opened.replace(_SET, ""))
        return opened == given_opened and _same_items(given, wanted, ordered, order, compare)
    return _same_item(answer, gold, compare)


def _same_items(given: list[str], wanted: list[str], ordered: bool, order: Order, compare: Compare) -> bool:
    if len(given) != len(wanted):
        return False
    if ordered:
        return all(same_answer(a, g, order, compare) for a, g in zip(given, wanted, strict=True))
    left = list(given)
    for gold in wanted:
        match = next((i for i, answer in enumerate(left) if same_answer(answer, gold, order, compare)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_item(answer: str, gold: str, compare: Compare) -> bool:
    answer_name, answer_value = _assignment(answer)
    gold_name, gold_value = _assignment(gold)
    if answer_name is None and _EQUALS.search(answer) and not (gold_name is None and _EQUALS.search(gold)):
        return False  # math-verify reads `3=4` as 4
    if answer_name is not None and gold_name is not None and normal_form(answer_name) != normal_form(gold_name):
        return False
    if answer_name is not None or gold_name is not None:
        answer, gold = answer_value, gold_value
        quick = quick_same(answer, gold)
        if quick is not None:
            return quick
    return compare == "math" and _verify(answer, gold)


def _assignment(text: str) -> tuple[str | None, str]:
    """(name, value) of `x = 5`; (None, the text) of anything else."""
    sides = _EQUALS.split(text)
    if len(sides) == 2 and sides[1].strip() and _NAME.fullmatch(sides[0].strip()):
        return sides[0].strip(), sides[1].strip()
    return None, text


def _verify(answer: str, gold: str) -> bool:
    try:
        from math_verify import verify
    except ImportError:
        raise MissingExtraError("math-verify", "train", "comparing mathematical answers") from None
    # No timeouts here, since they need signals and the main thread. The pool kills a process that takes too long.
    return bool(verify(_parse(gold), _parse(answer), timeout_seconds=None))


def _parse(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None)


def _tidy(text: str) -> str:
    text = join_thousands(ascii_digits(text)).strip().removesuffix(".")
    text = _SIZES.sub("", text.replace("\\!", "").replace("$", "").replace("°", "^\\circ"))
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    return _AND.sub(", ", _SPACES.sub(" ", text)).strip()


def normal_form(text: str) -> str:
    """The text without layout, for comparison as a string; a space stays only between two word characters."""
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "").replace("\\%", "")
    text = _TEXT.sub(r"\1", _tidy(text))
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", re.sub(r"\s+", " ", text))


def _balanced(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


def _items(text: str) -> tuple[str, list[str]]:
    r"""(the brackets around the whole text, the items between its outer commas): `(1,2]` gives (`(]`, [`1`, `2`])."""
    tokens = [(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text)]
    if tokens and tokens[0][1] == 0 and tokens[0][0] in _PAIRS and tokens[-1][2] == len(text):
        commas, closes = _top_commas(tokens, level=1)
        if closes == len(tokens) - 1:
            inside = _cut(text, tokens[0][2], tokens[-1][1], commas)
            if len(inside) > 1:
                return tokens[0][0] + tokens[-1][0], inside
    return "", _cut(text, 0, len(text), _top_commas(tokens, level=0)[0])


def _top_commas(tokens: list[tuple[str, int, int]], level: int) -> tuple[list[int], int | None]:
    """(positions of the commas at this depth, index of the first token that closes all brackets)."""
    depth, commas, closes = 0, [], None
    for index, (token, start, _) in enumerate(tokens):
        if token == ",":
            if depth == level:
                commas.append(start)
        else:
            depth += 1 if token in ("(", "[", "{", "\\{") else -1
            if depth == 0 and closes is None:
                closes = index
    return commas, closes


def _cut(text: str, start: int, stop: int, commas: list[int]) -> list[str]:
    edges = [start - 1, *commas, stop]
    items = [text[a + 1 : b].strip() for a, b in itertools.pairwise(edges)]
    return [item for item in items if item]
