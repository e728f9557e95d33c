"""Decide whether two mathematical expressions are equal.

The package math-verify parses the expressions for sympy. Two constants are compared exactly, without a tolerance, so
1/2004! is not 1/2006!. Most expressions with variables are compared by math-verify. Parsing and comparing can take
long or hang, so callers use a process that can be killed. The expressions hold no lists and no units: `math_equality`
has split them already.
"""

import re
from collections.abc import Sequence
from typing import Any

from antiphase.errors import MissingExtraError

_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{[^{}]*[A-Za-z]|(?<![\\A-Za-z])[A-Za-z]{4,}|\d\s+[A-Za-z]{2}")


def same_value(answer: str, gold: str) -> bool:
    """Return whether two expressions are equal.

    Two constants must be exactly equal. Most expressions with variables are compared by math-verify.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    if bool(_WORDS.search(answer)) != bool(_WORDS.search(gold)):
        return False  # math-verify ignores words
    given, wanted = _parse(_in_radians(answer)), _parse(_in_radians(gold))
    exact = _exactly_by_entry(given, wanted)
    if exact is not None:
        return exact
    from math_verify import verify

    # No timeouts here, since they need signals and the main thread. The pool kills a process that takes too long.
    return bool(verify(wanted, given, timeout_seconds=None))


def _in_radians(text: str) -> str:
    """Return the text with its angles in radians instead of degrees, if it has a trigonometric function."""
    return _DEGREES.sub(r"{(\1 \\pi / 180)}", text) if _TRIGONOMETRIC.search(text) else text


def same_solutions(answer: Sequence[str], gold: Sequence[str]) -> bool:
    """Return whether one equation is a multiple of the other, so that both have the same solutions.

    Args:
        answer: the two sides of the answer's equation.
        gold: the two sides of the reference's equation.
    """
    import sympy

    sides = [_constant_or_none(_parse(side)) for side in (*answer, *gold)]
    if any(side is None for side in sides):
        return False
    left, right = (sides[0] - sides[1], sides[2] - sides[3])
    if left == 0 or right == 0:
        return bool(left == right)
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _constant_or_none(parsed: list[Any]) -> Any:
    """Return the expression in the output of `_parse`, with its decimals as exact fractions.

    The result is None if there is no expression, or if its value is undefined, as in 1/0.
    """
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
    """Return whether two expressions or two matrices are exactly equal; None if only math-verify can tell.

    Matrices are compared entry by entry. The arguments are outputs of `_parse`.
    """
    from sympy import MatrixBase

    if not (given and wanted and isinstance(given[0], MatrixBase) and isinstance(wanted[0], MatrixBase)):
        return _exactly(given, wanted)
    if given[0].shape != wanted[0].shape:
        return False
    entries = [_exactly([left], [right]) for left, right in zip(given[0], wanted[0], strict=True)]
    return None if None in entries else all(entries)


def _exactly(given: list[Any], wanted: list[Any]) -> bool | None:
    """Return whether two expressions are exactly equal; None if only math-verify can tell.

    The arguments are outputs of `_parse`.
    """
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
    # Sixty digits tell almost all different constants apart. If these agree, sympy tries to prove that the constants
    # are equal. If it cannot decide, 300 digits are compared.
    scale = max(abs(sympy.N(right, 15)), sympy.Float("1e-300"))
    if abs(sympy.N(difference, 60, maxn=2000)) > scale * sympy.Float("1e-50"):
        return False
    proved = difference.equals(0)
    if proved is None:
        proved = abs(sympy.N(difference, 300, maxn=6000)) < scale * sympy.Float("1e-280")
    return bool(proved)


def _parse(text: str) -> list[Any]:
    """Parse a LaTeX text with math-verify, and return its list: the sympy expression, and the text of the expression.

    If math-verify cannot parse the text, the list lacks the sympy expression or is empty.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    try:
        from math_verify import LatexExtractionConfig, parse
    except ImportError:
        raise MissingExtraError("math-verify", "train", "comparing mathematical answers") from None
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    found: list[Any] = parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None)
    return found
