r"""Decide whether two mathematical answers are equal, more strictly than math-verify alone.

Plain numbers are compared exactly and equal strings are equal. The rest is decided part by part: an equation counts as
its right side only if its left side is a name, both sides of a chain of equations must hold, lists and tuples are
compared item by item in order, and their brackets must agree. Expressions are parsed by math-verify. Constants are
compared exactly: there is no tolerance, so 1/2004! is not 1/2006!. math-verify (sympy) decides what has variables.
What is extracted from a completion is decided elsewhere.
"""

import itertools
import re
from typing import Any, Literal

from antiphase.errors import MissingExtraError
from antiphase.tasks.answer_shapes import in_shape_of
from antiphase.tasks.notation import in_latex
from antiphase.tasks.plain_numbers import exact_number, join_thousands

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
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_CURRENCY = re.compile(r"[€£¥₹$]")
_UNIT = re.compile(
    r"(?P<value>.*[\d})\]])\s*"
    r"(?:\\(?:text|mathrm|mbox)\{\s*(?P<word>[A-Za-z][A-Za-z ./]*)\}|\s(?P<bare>[A-Za-z]{2,}(?:\s[A-Za-z]+){0,2}))"
    r"(?P<power>\s*\^\{?-?\d\}?)?\s*\.?"
)
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{[^{}]*[A-Za-z]|(?<![\\A-Za-z])[A-Za-z]{4,}|\d\s+[A-Za-z]{2}")
_NO_UNITS = {
    "or", "and", "plus", "minus", "to", "if", "for", "where", "when", "mod", "not", "no", "is", "maybe", "else",
    "times", "million", "billion", "trillion", "thousand", "hundred", "dozen", "squared", "cubed", "factorial", "half",
    "pi", "xy",
}  # fmt: skip
_SHORT_UNITS = {"m", "g", "s", "h", "l", "cm", "mm", "km", "kg", "mg", "ml", "ft", "in", "mi", "hr", "lb", "oz", "yd"}
_LINKED = {"per", "square", "cubic", "of"}
_SAME_UNITS = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "meter": "m", "metre": "m", "kilometer": "km",
    "inche": "in", "inch": "in", "feet": "ft", "foot": "ft", "mile": "mi", "hour": "h", "hr": "h", "minute": "min",
    "second": "s", "sec": "s", "gram": "g", "kilogram": "kg", "liter": "l", "litre": "l", "dollar": "dollar",
}  # fmt: skip
_PAIRS = {"(": ")", "[": "]", "\\{": "\\}"}
_SET = "\\{\\}"
_SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_TOKEN = re.compile(r"\\[{}]|[()\[\]{},]")


def quick_same(answer: str, gold: str) -> bool | None:
    """Whether the two are equal, as far as strings and plain numbers can tell; None where algebra is needed."""
    wanted, given = exact_number(gold), exact_number(answer)
    if wanted is not None and given is None and len(answer) <= MAX_ANSWER_LENGTH:
        given = exact_number(_ABOUT.sub("", _CURRENCY.sub("", in_latex(answer)), count=1))
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
    opened, wanted = _items(gold)
    given_opened, given = _items(answer)
    if len(wanted) > 1 or len(given) > 1:
        ordered = opened != _SET and (bool(opened) or order == "given")
        if _SIGNS.search(answer + gold):
            ordered = False  # the two values of ± have no order
        if order == "any":
            opened, given_opened = (opened.replace(_SET, ""), given_opened.replace(_SET, ""))
        return opened == given_opened and _same_items(given, wanted, ordered, order, compare)
    return _same_item(answer, gold, order, compare)


def _misread(answer: str, gold: str) -> bool:
    """Whether math-verify would read something else than what the answer says."""
    two_numbers = _TWO_NUMBERS.search(answer) and not _TWO_NUMBERS.search(gold)
    bases = _BASE.findall(answer)  # math-verify ignores the base of a number
    return not _balanced(answer) or bool(two_numbers) or (bool(bases) and bases != _BASE.findall(gold))


def _bare(answer: str, gold: str) -> str:
    r"""The answer without what may stand before it: `\approx 3`, `x \in [2,5]`, `(x,y) = (3,4)`."""
    # `\text{18 dollars}` is 18 dollars, and of `2\pi \approx 6.28` the exact part counts.
    if (number := _TEXT_NUMBER.fullmatch(answer)) is not None:
        answer = number[1] + (number[2] or "")
    if (exact := _ABOUT_TOO.fullmatch(answer)) is not None and not _NAME.fullmatch(exact[1]):
        answer = exact[1]
    if "\\in" not in gold:
        answer = _ABOUT.sub("", _MEMBER.sub("", answer, count=1), count=1)
    name, value = _assignment(answer)
    return value if name is not None and name.startswith("(") and not _EQUALS.search(gold) else answer


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


def _same_item(answer: str, gold: str, order: Order, compare: Compare) -> bool:
    if _EQUALS.search(answer) or _EQUALS.search(gold):
        return _same_equation(answer, gold, order, compare)
    (value, unit), (wanted, wanted_unit) = _without_unit(answer), _without_unit(gold)
    if unit or wanted_unit:
        return (not unit or not wanted_unit or unit == wanted_unit) and same_answer(value, wanted, order, compare)
    return compare == "math" and _same_value(answer, gold)


def _same_equation(answer: str, gold: str, order: Order, compare: Compare) -> bool:
    """Equality where the answer or the reference has a sign of equality."""
    answer_name, answer_value = _assignment(answer)
    gold_name, gold_value = _assignment(gold)
    if answer_name is not None and _NAME.fullmatch(normal_form(gold)):
        # Where the reference is a name itself, a name before it would be another answer.
        return normal_form(answer_name).lower() in ("answer", "option", "choice") and same_answer(
            answer_value, gold, order, compare
        )
    two = len(_EQUALS.split(answer)) == 2 and len(_EQUALS.split(gold)) == 2
    if _EQUALS.search(gold) and (gold_name is None or (two and answer_name is None)):
        return compare == "math" and two and _same_solutions(answer, gold)
    if answer_name is not None and gold_name is not None and normal_form(answer_name) != normal_form(gold_name):
        return False
    if answer_name is not None or gold_name is not None:
        return same_answer(answer_value, gold_value, order, compare)
    # Every side must be what the reference is: math-verify alone reads `3=4` as 4.
    return all(side.strip() and same_answer(side, gold, order, compare) for side in _EQUALS.split(answer))


def _assignment(text: str) -> tuple[str | None, str]:
    """(name, value) of `x = 5` and of `(x,y) = (3,4)`; (None, the text) of anything else."""
    name, *sides = _EQUALS.split(text, maxsplit=1)
    if sides and sides[0].strip() and (_NAME.fullmatch(name.strip()) or _NAMES.fullmatch(name.strip())):
        return name.strip(), sides[0].strip()
    return None, text


def _without_unit(text: str) -> tuple[str, str]:
    """(the value, its unit in one spelling); without a unit, the text and an empty unit."""
    found = _UNIT.fullmatch(text)
    if found is None:
        return text, ""
    word = (found["word"] or found["bare"]).strip().rstrip(".").lower()
    words = word.split()
    linked = len(words) == 1 or bool(set(words) & _LINKED)
    if set(words) & _NO_UNITS or not linked or (len(word) < 3 and word not in _SHORT_UNITS):
        return text, ""
    word = re.sub(r"\b(?:miles|mi) per hour\b", "mph", re.sub(r"(?:square|cubic)\s+", "", word))
    raised = "2" if "square" in words else "3" if "cubic" in words else ""
    word = word if word in _SAME_UNITS else word.removesuffix("s")
    if raised:
        return found["value"].strip(), _SAME_UNITS.get(word, word) + raised
    return found["value"].strip(), _SAME_UNITS.get(word, word) + re.sub(r"[^\d-]", "", found["power"] or "")


def _same_value(answer: str, gold: str) -> bool:
    """Equality of two expressions: exact where both are constants, else by math-verify."""
    if bool(_WORDS.search(answer)) != bool(_WORDS.search(gold)):
        return False  # math-verify passes over words
    given, wanted = _parse(_in_radians(answer)), _parse(_in_radians(gold))
    exact = _exactly_by_entry(given, wanted)
    if exact is not None:
        return exact
    from math_verify import verify

    # No timeouts here, since they need signals and the main thread. The pool kills a process that takes too long.
    return bool(verify(wanted, given, timeout_seconds=None))


def _in_radians(text: str) -> str:
    """The text with degrees in radians where it has a trigonometric function."""
    return _DEGREES.sub(r"{(\1 \\pi / 180)}", text) if _TRIGONOMETRIC.search(text) else text


def _same_solutions(answer: str, gold: str) -> bool:
    """Whether two equations have the same solutions as they stand: one is a multiple of the other."""
    import sympy

    sides = [_constant_or_none(_parse(side)) for side in (*_EQUALS.split(answer), *_EQUALS.split(gold))]
    if any(side is None for side in sides):
        return False
    left, right = (sides[0] - sides[1], sides[2] - sides[3])
    if left == 0 or right == 0:
        return bool(left == right)
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _constant_or_none(parsed: list[Any]) -> Any:
    """The expression that was parsed, its decimals exact; None where there is none."""
    import sympy

    first = parsed[0] if parsed else None
    if not isinstance(first, sympy.Expr):
        return None
    exact: dict[Any, Any] = {number: sympy.Rational(str(number)) for number in first.atoms(sympy.Float)}
    if {str(symbol) for symbol in first.free_symbols} == {"i"}:
        exact |= dict.fromkeys(first.free_symbols, sympy.I)
    value = first.xreplace(exact).doit()
    return None if value.has(sympy.nan, sympy.zoo) else value


def _exactly_by_entry(given: list[Any], wanted: list[Any]) -> bool | None:
    """Whether two constants, or all entries of two matrices, are equal; None where that takes algebra."""
    from sympy import MatrixBase

    if not (given and wanted and isinstance(given[0], MatrixBase) and isinstance(wanted[0], MatrixBase)):
        return _exactly(given, wanted)
    first, second = given[0], wanted[0]
    if first.shape != second.shape:
        return False
    entries = [_exactly([left], [right]) for left, right in zip(first, second, strict=True)]
    return None if None in entries else all(entries)


def _exactly(given: list[Any], wanted: list[Any]) -> bool | None:
    """Whether two constants are equal; None where either is no constant."""
    import sympy

    left, right = _constant_or_none(given), _constant_or_none(wanted)
    if left is None or right is None:
        return None
    difference = left - right
    if left.free_symbols or right.free_symbols:
        if given[0].atoms(sympy.Float) or wanted[0].atoms(sympy.Float):
            return bool(sympy.simplify(difference) == 0)  # math-verify compares decimals within a tolerance
        difference = sympy.expand(difference)
        return None if difference.free_symbols else bool(difference == 0)
    if left.is_Rational and right.is_Rational:
        return bool(left == right)
    # Sixty digits tell almost all different constants apart; what is left is proved, or compared on many more.
    scale = max(abs(sympy.N(right, 15)), sympy.Float("1e-300"))
    if abs(sympy.N(difference, 60, maxn=2000)) > scale * sympy.Float("1e-50"):
        return False
    proved = difference.equals(0)
    if proved is None:
        proved = abs(sympy.N(difference, 300, maxn=6000)) < scale * sympy.Float("1e-280")
    return bool(proved)


def _parse(text: str) -> list[Any]:
    try:
        from math_verify import LatexExtractionConfig, parse
    except ImportError:
        raise MissingExtraError("math-verify", "train", "comparing mathematical answers") from None
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    found: list[Any] = parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None)
    return found


def _tidy(text: str) -> str:
    text = join_thousands(in_latex(text.strip().strip("*"))).strip().removesuffix(".")
    text = _SIZES.sub("", _CURRENCY.sub("", text.replace("\\!", "").replace("\\$", "")))
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    return _AND.sub(", ", _SPACES.sub(" ", text)).strip()


def normal_form(text: str) -> str:
    """The text without layout, for comparison as a string; a space stays only between two word characters."""
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "").replace("\\%", "")
    text = _TEXT.sub(r"\1", _tidy(text)).strip().removesuffix(".")
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
    return [value for item in items if item for value in _both_signs(item)]


def _both_signs(text: str) -> list[str]:
    r"""The two values of an item with `\pm`; any other item alone."""
    if not _SIGNS.search(text):
        return [text]
    upper = _SIGNS.sub(lambda found: " + " if "pm" in found[0] else " - ", text)
    return [upper, _SIGNS.sub(lambda found: " - " if "pm" in found[0] else " + ", text)]
