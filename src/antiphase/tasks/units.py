r"""Read the units of answers, such as `5\text{ cm}`, `\$6` and `20\%`, and decide whether two units agree.

The functions use only strings, and their time is linear in the length of the text. `math_equality` compares the
values.
"""

import re
from collections.abc import Mapping
from fractions import Fraction

_UNIT = re.compile(
    r"(?P<value>.*[\d})\]])\s*"
    r"(?:\\(?:text|mathrm|mbox)\{\s*(?P<word>[A-Za-z][A-Za-z ./]*)\}|\s(?P<bare>[A-Za-z]{2,}(?:\s[A-Za-z]+){0,2}))"
    r"(?P<power>\s*\^\{?-?\d\}?)?\s*\.?"
)
# A number and a unit of a table without LaTeX, such as `5 m` and `5km`. A letter alone is a unit only after a space.
_PLAIN = re.compile(r"(?P<value>[-+]?[\d.,/]*\d)(?P<space>\s*)(?P<word>[A-Za-z]+)(?P<power>\s*\^\{?-?\d\}?)?\.?")
_NO_UNITS = {
    "or", "and", "plus", "minus", "to", "if", "for", "where", "when", "mod", "not", "no", "is", "maybe", "else",
    "times", "million", "billion", "trillion", "thousand", "hundred", "dozen", "squared", "cubed", "factorial", "half",
    "pi", "xy",
}  # fmt: skip
_LINKED = {"per", "square", "cubic", "of"}
# Other spellings of a unit, in the singular.
_SAME_UNITS = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "inche": "in", "inch": "in", "feet": "ft", "foot": "ft", "yard": "yd",
    "mile": "mi", "hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s", "gram": "g", "kilogram": "kg",
    "milligram": "mg", "ounce": "oz", "lb": "pound", "liter": "l", "litre": "l", "milliliter": "ml",
    "millilitre": "ml", "cents": "cent", "usd": "dollar", "eur": "euro", "gbp": "pound", "yens": "yen",
}  # fmt: skip
# The size of each unit, in the first unit of its row.
_SIZES: tuple[dict[str, str], ...] = (
    {"m": "1", "mm": "1/1000", "cm": "1/100", "km": "1000", "in": "254/10000", "ft": "3048/10000", "yd": "9144/10000",
     "mi": "1609344/1000"},
    {"g": "1", "mg": "1/1000", "kg": "1000"},
    {"s": "1", "min": "60", "h": "3600", "day": "86400"},
    {"l": "1", "ml": "1/1000"},
)  # fmt: skip
_KNOWN = {name for sizes in _SIZES for name in sizes} | {
    "oz", "pound", "dollar", "cent", "euro", "yen", "rupee", "percent", "degree", "radian", "mph", "week",
    "month", "year",
}  # fmt: skip
_SIGN = re.compile(r"\\\$|[€£¥₹%]|\\textdollar|\\(?:euro|pounds)(?![A-Za-z])")
_SIGN_UNITS = {
    "\\$": "dollar", "\\textdollar": "dollar", "€": "euro", "\\euro": "euro", "£": "pound", "\\pounds": "pound",
    "¥": "yen", "₹": "rupee", "%": "percent",
}  # fmt: skip


def sign_units(text: str) -> set[str]:
    r"""Return the units that a text names by signs: currencies, as in `€5`, and percent.

    A single dollar sign without a backslash means money. Two of them enclose a formula.

    >>> sorted(sign_units("\\$20")), sorted(sign_units("20\\%")), sorted(sign_units("$x$")), sorted(sign_units("-$5"))
    (['dollar'], ['percent'], [], ['dollar'])
    """
    found = {_SIGN_UNITS[sign] for sign in _SIGN.findall(text)}
    return found | {"dollar"} if re.match(r"\s*[-+]?\$\d", text) and text.count("$") == 1 else found


def units_of(text: str) -> set[str]:
    r"""Return the known units that a text names by a sign, such as €, or by the word behind the value.

    `5 dollars per day` has the unit `dollar`. Nouns that are no known units, such as `apples`, are left out.

    >>> units_of("6\\text{ euros}"), units_of("\\$6"), units_of("6 dollars per day"), units_of("6 apples")
    ({'euro'}, {'dollar'}, {'dollar'}, set())
    """
    _, unit = without_unit(text)
    unit = re.split(r"\s*(?:\bper\b|/)", unit)[0].strip()
    unit = unit if unit in _KNOWN else _singular(unit)
    return sign_units(text) | ({unit} if unit in _KNOWN else set())


def without_unit(text: str, *, plain: bool = False) -> tuple[str, str]:
    r"""Return (value, unit), with the unit in its common spelling. If there is no unit, the unit is the empty text.

    Args:
        text: the answer, in LaTeX.
        plain: whether a unit may be written as plain letters, as in `5 m` and `5km`. If not, these letters are read as
            variables.

    >>> without_unit("5\\text{ s}"), without_unit("5 m"), without_unit("5 m", plain=True)
    (('5', 's'), ('5 m', ''), ('5', 'm'))
    """
    if plain and (found := _PLAIN.fullmatch(text.strip())) is not None:
        unit = _singular(found["word"].lower())
        if unit in _KNOWN and (found["space"] or len(found["word"]) > 1):
            return found["value"], unit + re.sub(r"[^\d-]", "", found["power"] or "")
    found = _UNIT.fullmatch(text)
    if found is None:
        return text, ""
    word = (found["word"] or found["bare"]).strip().rstrip(".").lower()
    words = word.split()
    linked = len(words) == 1 or bool(set(words) & _LINKED)
    if set(words) & _NO_UNITS or not linked or (len(word) < 3 and _singular(word) not in _KNOWN):
        return text, ""
    word = re.sub(r"\b(?:miles|mi) per hour\b", "mph", re.sub(r"(?:square|cubic)\s+", "", word))
    power = "2" if "square" in words else "3" if "cubic" in words else re.sub(r"[^\d-]", "", found["power"] or "")
    return found["value"].strip(), _singular(word) + power


def ratio_of(unit: str, other: str) -> Fraction | None:
    """Return the factor from `unit` to `other`: 1/10000 from cm² to m². None if they measure different things.

    >>> str(ratio_of("cm2", "m2")), str(ratio_of("s", "s")), ratio_of("cm", "s"), ratio_of("cm2", "cm")
    ('1/10000', '1', None, None)
    """
    if unit == other:
        return Fraction(1)
    (name, power), (other_name, other_power) = (_name_and_power(text) for text in (unit, other))
    sizes: Mapping[str, str] = next((row for row in _SIZES if name in row and other_name in row), {})
    if not sizes or power != other_power:
        return None
    return (Fraction(sizes[name]) / Fraction(sizes[other_name])) ** power


def _name_and_power(unit: str) -> tuple[str, int]:
    """Return the name of a unit and its power: `cm2` has the power 2, and `cm` the power 1."""
    found = re.fullmatch(r"([^\d-]*)(-?\d)", unit)
    return (unit, 1) if found is None else (found[1], int(found[2]))


def _singular(word: str) -> str:
    """Return the name of a unit in the singular and in its common spelling. The name `s` means second."""
    if word in _SAME_UNITS or word in _KNOWN:
        return _SAME_UNITS.get(word, word)
    word = word[:-1] if len(word) > 2 and word.endswith("s") else word
    return _SAME_UNITS.get(word, word)
