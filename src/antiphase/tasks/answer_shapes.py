r"""Writes an answer in the shape of the reference: `x = 1, y = 2` as the point `(1,2)`, `x \ge 3` as an interval.

These are pure string functions, linear in the length of the text. They compare nothing: `math_equality` compares the
answer and the reference afterwards.
"""

import re

_NAMED = re.compile(r"\s*([A-Za-z])\s*=(?!=)([^=,]+)")
# The names of coordinates, in their usual orders. A point has the first names of one of them.
_COORDINATES = ("xyzw", "abcdef", "mnopq", "pqrst", "uvw", "rst", "stu", "ijk", "klmn")
_POINT = re.compile(r"\([^()\[\],]+(?:,[^()\[\],]+)+\)")
_INTERVAL = re.compile(r"[(\[][^,<>]+,[^,<>]+[)\]]")
_RELATION = re.compile(r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])|[<>]=?")
_VARIABLE = re.compile(r"[A-Za-z]")


def in_shape_of(answer: str, gold: str) -> str:
    r"""Return the answer in the shape of the reference if it is a known other shape, else the answer as it is.

    If the reference is a point, named coordinates become a point, in the order of the alphabet. The names must be the
    first ones of a usual row, such as x, y, z or a, b, c: `y = 1, z = 2` is not `(1,2)`. If the reference is an
    interval, an inequality of one letter becomes an interval. `math_equality` also writes the reference in the shape
    of the answer.

    Args:
        answer: the answer, tidied as `math_equality` does it.
        gold: the reference, tidied in the same way.

    >>> in_shape_of("y = 2, x = 1", "(1,2)"), in_shape_of("x \\ge 3", "[3,\\infty)"), in_shape_of("2 > x > 1", "(1,2)")
    ('(1,2)', '[3,\\infty)', '(1,2)')
    """
    if _INTERVAL.fullmatch(gold.strip()) and (interval := as_interval(answer)) is not None:
        return interval
    if _POINT.fullmatch(gold.strip()):
        return _point(answer) or answer
    return answer


def _point(text: str) -> str | None:
    """Return the point whose coordinates are named, one letter each, or None for any other text."""
    found = [_NAMED.fullmatch(part) for part in text.split(",")]
    named = {match[1]: match[2].strip() for match in found if match is not None}
    if len(named) < 2 or len(named) < len(found):
        return None
    names = "".join(sorted(named)).lower()
    if not any(names == "".join(sorted(usual[: len(names)])) for usual in _COORDINATES):
        return None
    return f"({','.join(named[name] for name in sorted(named))})"


def as_interval(text: str) -> str | None:
    r"""Return the interval of the numbers that an inequality allows for its one letter; None for any other text.

    >>> as_interval("1 < x \\le 2"), as_interval("5 > x"), as_interval("x < y"), as_interval("x \\ne 2")
    ('(1,2]', '(-\\infty,5)', None, None)
    """
    sides = [side.strip() for side in _RELATION.split(text)]
    signs = [("g" in sign or ">" in sign, "e" in sign or "=" in sign) for sign in _RELATION.findall(text)]
    if len(sides) not in (2, 3) or not all(sides) or "," in text or len({greater for greater, _ in signs}) != 1:
        return None
    if signs[0][0]:
        sides, signs = sides[::-1], signs[::-1]
    places = [place for place, side in enumerate(sides) if _VARIABLE.fullmatch(side)]
    if len(places) != 1 or (len(sides) == 3 and places != [1]):
        return None
    before, after = places[0] - 1, places[0] + 1
    left = ("[" if signs[before][1] else "(") + sides[before] if before >= 0 else "(-\\infty"
    right = sides[after] + ("]" if signs[after - 1][1] else ")") if after < len(sides) else "\\infty)"
    return f"{left},{right}"
