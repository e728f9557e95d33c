r"""Decide whether two mathematical answers are equal, more strictly than math-verify alone.

Plain numbers are compared exactly, and equal strings are equal. Other answers are split into parts:

* `x = 5` counts as 5, because its left side is a name. If the reference is an equation such as `x + y = 2`, the answer
  must be a multiple of that equation. In any other equation or chain of equations, each side must equal the reference.
* Lists and tuples are compared item by item, in order. They must have the same brackets.
* A unit is split from its value. If both the answer and the reference have a unit, the values are compared in the same
  unit, so `0.1 m` equals `10 cm`.

What is left is a single expression, which `expression_equality` compares. `extraction` finds the answer in a
completion.
"""

import itertools
import re
from typing import Literal

from antiphase.tasks.answer_shapes import in_shape_of, other_time, usual_form, without_half
from antiphase.tasks.expression_equality import same_solutions, same_value
from antiphase.tasks.listed_items import SET, SIGNS, items_of
from antiphase.tasks.notation import in_latex
from antiphase.tasks.plain_numbers import exact_number, join_thousands
from antiphase.tasks.units import ratio_of, units_of, without_unit

Order = Literal["given", "any"]
Compare = Literal["math", "exact"]
MAX_ANSWER_LENGTH = 1000

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}")
_AND = re.compile(r",?\s*(?:\\(?:text|mbox)\{\s*,?\s*and\s*\}|\band\b)\s*")
_SPACES = re.compile(r"(?<!\\)\\(?:quad|qquad|[ ,;:])|~")
_SIZES = re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_NAME = re.compile(
    r"(?:m?\\?(?:text|mathrm|angle|triangle|overline)?[ {]*[A-Za-z]+[ }]*|\|[A-Z]{2}\||\\text\{[A-Za-z ]+\})"
    r"(?:_\{?\w{1,3}\}?)?'*(?:\(\w{1,3}(?:,\w{1,3})*\))?"
)
_TEXT_NUMBER = re.compile(r"\\(?:text|mathrm|mbox)\{\s*([-+]?[\d.,]+)(\s[A-Za-z ]+)?\s*\}")
_ABOUT_TOO = re.compile(r"(.+?)\s*\\approx\s*[-+]?[\d.]+(?:\\?%)?")
# A letter in brackets names an option; what follows is the text of the option.
_CHOICE = re.compile(r"\(([A-Z])\)")
_OR = re.compile(r"\s*(?:\\(?:text|mbox)\{\s*or\s*\}|\bor\b|;)\s*")
_NAMES = re.compile(r"\(\s*[A-Za-z](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w\}?)?)+\s*\)")
_MEMBER = re.compile(r"\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_ABOUT = re.compile(r"\s*(?:\\approx|\\simeq|\\sim)(?![A-Za-z])\s*")
_TWO_NUMBERS = re.compile(r"\d\s+\d+(?![\d\s]*/)")
_BASE = re.compile(r"\d\s*_\s*(?:\{\s*)?(?:\\text\{)?\s*(\d+)")
_AFTER_NUMBER = re.compile(r"\d\s*(?:\\(?:l|c|d)?dots(?![A-Za-z])|\.{2,}|…|'|\^\{?\s*\\prime)")
# The name of a line or a figure, such as AB.
_LABEL = re.compile(r"[A-Z]{2,}")
_CURRENCY = re.compile(r"[€£¥₹$]")


def quick_same(answer: str, gold: str) -> bool | None:
    """Return whether the answer equals the reference answer; None if only algebra can tell."""
    if len(answer) <= MAX_ANSWER_LENGTH and _other_units(answer, gold):
        return False
    wanted, given = exact_number(gold), exact_number(answer)
    if wanted is not None and given is None and len(answer) <= MAX_ANSWER_LENGTH:
        given = exact_number(_without_about(_CURRENCY.sub("", in_latex(answer))))
    if wanted is not None and given is not None:
        return wanted == given
    if len(answer) > MAX_ANSWER_LENGTH:
        return answer == gold
    return True if normal_form(answer) == normal_form(gold) else None


def same_answer(answer: str, gold: str, order: Order = "given", compare: Compare = "math") -> bool:
    r"""Return whether the answer equals the reference answer.

    Args:
        answer: the answer that was extracted from a completion.
        gold: the reference answer.
        order: whether the order of items matters in a list without brackets, such as `1,-2`. `given`: the items must
            have the order of the reference. `any`: the order does not matter, and a list such as `1,-2` also equals
            the set `\{1,-2\}`. In a set, the order never matters.
        compare: `math` lets math-verify compare expressions; `exact` compares only numbers and text, item by item.

    Raises:
        MissingExtraError: math-verify is needed but not installed.
    """
    quick = quick_same(answer, gold)
    if quick is not None:
        return quick
    answer, gold = _tidy(answer), _tidy(gold)
    if _CHOICE.match(normal_form(gold)) or _CHOICE.fullmatch(normal_form(answer)):
        letters = [re.match(r"\(([A-Z])\)|([A-Z])\Z", normal_form(text)) for text in (answer, gold)]
        named = [found and (found[1] or found[2]) for found in letters]
        return None not in named and named[0] == named[1]
    answer, gold = in_shape_of(answer, gold), in_shape_of(gold, answer)
    if "," in gold:
        answer = _OR.sub(", ", answer)
    if "\\in" not in answer:
        gold = _MEMBER.sub("", gold, count=1)
    if _misread(answer, gold):
        return False
    bare = _bare(answer, gold)
    if bare != answer:
        return same_answer(bare, gold, order, compare)
    opened, wanted = items_of(gold)
    given_opened, given = items_of(answer)
    if len(wanted) > 1 or len(given) > 1:
        ordered = opened != SET and (bool(opened) or order == "given")
        if SIGNS.search(gold):
            ordered = False  # the two values of ± have no order
        if order == "any":
            opened, given_opened = (opened.replace(SET, ""), given_opened.replace(SET, ""))
        return opened == given_opened and _same_items(given, wanted, ordered, order, compare)
    return _same_item(answer, gold, order, compare)


def _misread(answer: str, gold: str) -> bool:
    r"""Return whether math-verify would misread the answer, so that it must not be asked.

    math-verify misreads times of day, unbalanced braces, and two numbers beside each other. It ignores the base of a
    number that has one. It also ignores dots and primes behind a number, as in `5\ldots` and `5'`.
    """
    if other_time(answer, gold) or (_AFTER_NUMBER.search(answer) and not _AFTER_NUMBER.search(gold)):
        return True
    two_numbers = _TWO_NUMBERS.search(answer) and not _TWO_NUMBERS.search(gold)
    bases = _BASE.findall(answer)
    return not _balanced(answer) or bool(two_numbers) or (bool(bases) and bases != _BASE.findall(gold))


def _bare(answer: str, gold: str) -> str:
    r"""Return the value of the answer, without the words and symbols around it.

    These changes are made in this order:

    1. `\text{18 dollars}` becomes `18 dollars`; the text must begin with a number.
    2. `2\pi \approx 6.28` becomes its exact part `2\pi`, unless the exact part is only a name.
    3. `\approx 3` and `x \approx 3` become `3`, and `x \in [2,5]` becomes `[2,5]`, unless the right answer contains
       `\in`.
    4. `(x,y) = (3,4)` becomes `(3,4)`, unless the right answer contains an equals sign.

    Args:
        answer: the answer of the model.
        gold: the right answer.
    """
    if (number := _TEXT_NUMBER.fullmatch(answer)) is not None:
        answer = number[1] + (number[2] or "")
    answer = without_half(answer, gold)
    if (exact := _ABOUT_TOO.fullmatch(answer)) is not None and not _NAME.fullmatch(exact[1]):
        answer = exact[1]
    if "\\in" not in gold:
        answer = _without_about(_MEMBER.sub("", answer, count=1))
    name, value = _assignment(answer)
    return value if name is not None and name.startswith("(") and not _EQUALS.search(gold) else answer


def _without_about(text: str) -> str:
    r"""Return `3` for `\approx 3` and `x \approx 3`. Other texts, such as `5 \approx 3`, are returned unchanged."""
    before, *value = _ABOUT.split(text, maxsplit=1)
    named = bool(value) and _NAME.fullmatch(before) is not None and _NAME.fullmatch(value[0]) is None
    return value[0] if value and (not before or named) else text


def _same_items(given: list[str], wanted: list[str], ordered: bool, order: Order, compare: Compare) -> bool:
    """Return whether two lists have the same items.

    If `ordered` is True, the items must also have the same order. `same_answer` explains `order` and `compare`, which
    say how two items are compared.
    """
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


def _same_item(answer: str, gold: str, order: Order, compare: Compare) -> bool:
    """Return whether the answer equals the reference answer. Neither of the two is a list.

    `same_answer` explains `order` and `compare`.
    """
    if _EQUALS.search(answer) or _EQUALS.search(gold):
        return _same_equation(answer, gold, order, compare)
    (value, unit), (wanted, wanted_unit) = without_unit(answer), without_unit(gold)
    plain_answer, plain_gold = without_unit(answer, plain=True), without_unit(gold, plain=True)
    if plain_answer[1] and plain_gold[1]:
        (value, unit), (wanted, wanted_unit) = plain_answer, plain_gold
    if not unit and not wanted_unit:
        if _LABEL.fullmatch(normal_form(answer)) and _LABEL.fullmatch(normal_form(gold)):
            return False  # equal labels are equal texts, and math-verify reads labels as products
        return compare == "math" and same_value(answer, gold)
    ratio = ratio_of(unit, wanted_unit) if unit and wanted_unit else 1
    if ratio is None or ratio == 1:
        return ratio is not None and same_answer(value, wanted, order, compare)
    given_number, wanted_number = exact_number(value), exact_number(wanted)
    return given_number is not None and wanted_number is not None and given_number * ratio == wanted_number


def _other_units(answer: str, gold: str) -> bool:
    """Return whether both texts have a known unit, as a sign or a word, and the two units measure different things."""
    given, wanted = units_of(_in_words(answer)), units_of(_in_words(gold))
    return bool(given and wanted) and all(ratio_of(one, other) is None for one in given for other in wanted)


def _in_words(text: str) -> str:
    r"""Return the text in the form that `units_of` needs: without asterisks, final period and `\text{ }` around it."""
    text = join_thousands(in_latex(text.strip().strip("*"))).strip().removesuffix(".")
    number = _TEXT_NUMBER.fullmatch(text)
    return text if number is None else number[1] + (number[2] or "")


def _same_equation(answer: str, gold: str, order: Order, compare: Compare) -> bool:
    """Return whether the answer equals the reference answer. At least one of the two is an equation.

    `same_answer` explains `order` and `compare`.
    """
    answer_name, answer_value = _assignment(answer)
    gold_name, gold_value = _assignment(gold)
    if answer_name is not None and _NAME.fullmatch(normal_form(gold)):
        # Where the reference is a name itself, a name before it would be another answer.
        return normal_form(answer_name).lower() in ("answer", "option", "choice") and same_answer(
            answer_value, gold, order, compare
        )
    two = len(_EQUALS.split(answer)) == 2 and len(_EQUALS.split(gold)) == 2
    if _EQUALS.search(gold) and (gold_name is None or (two and answer_name is None)):
        return compare == "math" and two and same_solutions(_EQUALS.split(answer), _EQUALS.split(gold))
    if answer_name is not None and gold_name is not None and normal_form(answer_name) != normal_form(gold_name):
        return False
    if answer_name is not None or gold_name is not None:
        return same_answer(answer_value, gold_value, order, compare)
    # Every side must equal the reference. math-verify alone reads `3=4` as 4.
    return all(side.strip() and same_answer(side, gold, order, compare) for side in _EQUALS.split(answer))


def _assignment(text: str) -> tuple[str | None, str]:
    """Return (name, value) of an assignment, such as `x = 5` or `(x,y) = (3,4)`; (None, the text) of other texts."""
    name, *sides = _EQUALS.split(text, maxsplit=1)
    if sides and sides[0].strip() and (_NAME.fullmatch(name.strip()) or _NAMES.fullmatch(name.strip())):
        return name.strip(), sides[0].strip()
    return None, text


def _tidy(text: str) -> str:
    r"""Return an answer in LaTeX, without the signs that do not change its value.

    Currency signs, a final period, and the commands for the size of brackets (`\left`, `\big`) are removed. The word
    "and" between two items becomes a comma.
    """
    text = join_thousands(in_latex(text.strip().strip("*"))).strip().removesuffix(".")
    text = _SIZES.sub("", _CURRENCY.sub("", text.replace("\\!", "").replace("\\$", "")))
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    return usual_form(_AND.sub(", ", _SPACES.sub(" ", text)).strip())


def normal_form(text: str) -> str:
    """Return the text without its layout, so that two texts can be compared as strings.

    Spaces are removed, except one between two words or numbers.
    """
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "").replace("\\%", "")
    text = _TEXT.sub(r"\1", _tidy(text)).strip().removesuffix(".")
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", re.sub(r"\s+", " ", text))


def _balanced(text: str) -> bool:
    """Return whether every brace is closed, and none is closed before it is opened."""
    steps = [{"{": 1, "}": -1}.get(token, 0) for token in re.findall(r"\\.|[{}]", text)]
    return sum(steps) == 0 and min(itertools.accumulate(steps), default=0) >= 0
