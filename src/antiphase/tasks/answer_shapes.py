r"""Rewrite an answer in the form of the reference answer: `x = 1, y = 2` as a point `(1,2)`, `x \ge 3` as an interval.

The functions use only strings, and their time is linear in the length of the text. They compare nothing:
`math_equality` compares the answer and the reference afterwards.
"""

import re

_NAMED = re.compile(r"\s*([A-Za-z])\s*=(?!=)([^=,]+)")
# The names of coordinates, in their usual orders. A point has the first names of one of them.
_COORDINATES = ("xyzw", "abcdef", "mnopq", "pqrst", "uvw", "rst", "stu", "ijk", "klmn")
_POINT = re.compile(r"\([^()\[\],]+(?:,[^()\[\],]+)+\)")
_INTERVAL = re.compile(r"[(\[][^,<>]+,[^,<>]+[)\]]")
_RELATION = re.compile(r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])|[<>]=?")
_REPEATING = re.compile(r"(-?)(\d{1,30})\.(\d{0,30})\\overline\s*\{(\d{1,30})\}")
_TIME = re.compile(r"(\d{1,2}:\d{2})\s*(?:\\(?:text|mathrm|mbox)\{)?\s*([apAP])\.?\s?[mM]\.?\s*\}?")
_NO_SOLUTION = re.compile(r"(?:\\(?:text|mbox)\{)?\s*no\s+(real\s+)?solutions?\s*\}?", re.IGNORECASE)
_REMARK = re.compile(r"\s*\\(?:text|mbox)\{\s*\(not [^(){}]{1,40}\)\s*\}\s*\Z")
_INTRODUCED = re.compile(r"\\(?:text|mbox)\{\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)\s*\}\s*", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z]")


def in_shape_of(answer: str, gold: str) -> str:
    r"""Return the answer as a point or an interval, if the reference answer is one.

    If the reference is a point, an answer that names coordinates, such as `x = 1, y = 2`, becomes a point. Its
    coordinates stand in the order of the alphabet. The names must be the first letters of a usual row, such as `xyz`
    or `abc`: `x` and `y` are accepted, `y` and `z` are not. If the reference is an interval, an inequality in one
    variable becomes an interval. Any other answer is returned unchanged.

    Args:
        answer: the answer, after `math_equality` removed what does not change its value, such as currency signs.
        gold: the reference answer, after the same changes.

    >>> in_shape_of("y = 2, x = 1", "(1,2)"), in_shape_of("x \\ge 3", "[3,\\infty)"), in_shape_of("2 > x > 1", "(1,2)")
    ('(1,2)', '[3,\\infty)', '(1,2)')
    """
    if _INTERVAL.fullmatch(gold.strip()) and (interval := as_interval(answer)) is not None:
        return interval
    if _POINT.fullmatch(gold.strip()):
        return _point(answer) or answer
    return answer


def usual_form(text: str) -> str:
    r"""Return the text in the usual form: repeating decimals are fractions, and times have one spelling.

    "No solution" also gets one spelling. A remark such as `\text{ (not 6)}` behind the answer and the words "The
    answer is" before it are left out.

    >>> usual_form("0.\\overline{3}"), usual_form("11:30 A.M."), usual_form("5 \\text{ (not 6)}")
    ('\\frac{3}{9}', '11:30 am', '5')
    """
    text = _INTRODUCED.sub("", _REMARK.sub("", text), count=1)
    text = _REPEATING.sub(_as_fraction, text)
    if (time := _TIME.fullmatch(text)) is not None:
        return f"{time[1]} {time[2].lower()}m"
    if (none := _NO_SOLUTION.fullmatch(text)) is not None:
        return f"no {none[1] or ''}solution".lower()
    return text


def without_half(answer: str, gold: str) -> str:
    """Return the answer without its `am` or `pm`, if the reference answer is a time of day that has neither.

    In all other cases the answer is returned unchanged.

    Args:
        answer: the answer, in the form of `usual_form`.
        gold: the reference answer.
    """
    time = _TIME.fullmatch(answer)
    return answer if time is None or _TIME.fullmatch(gold) or not re.fullmatch(r"\d{1,2}:\d{2}", gold) else time[1]


def other_time(answer: str, gold: str) -> bool:
    """Return whether the answer and the reference answer are different times of day, as `11:30` and `11:45 am` are."""
    clock = re.compile(r"\d{1,2}:\d{2}(?: [ap]m)?")
    return bool(clock.fullmatch(answer) and clock.fullmatch(gold)) and without_half(answer, gold) != gold


def _as_fraction(found: re.Match[str]) -> str:
    sign, whole, fixed, period = found.groups()
    top = int(whole + fixed + period) - int(whole + fixed)
    return rf"{sign}\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _point(text: str) -> str | None:
    """Return the point that a text describes, such as `(1,2)` for `x = 1, y = 2`; None for any other text."""
    found = [_NAMED.fullmatch(part) for part in text.split(",")]
    named = {match[1]: match[2].strip() for match in found if match is not None}
    if len(named) < 2 or len(named) < len(found):
        return None
    names = "".join(sorted(named)).lower()
    if not any(names == "".join(sorted(usual[: len(names)])) for usual in _COORDINATES):
        return None
    return f"({','.join(named[name] for name in sorted(named))})"


def as_interval(text: str) -> str | None:
    r"""Return the solutions of an inequality in one variable, as an interval; None for any other text.

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
