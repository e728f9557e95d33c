"""Read plain numbers (integers, decimals and fractions) as people and models write them, and return exact values."""

import re
from fractions import Fraction

MAX_NUMBER_LENGTH = 100
_LATEX_COMMA = re.compile(r"\{,\}|,\\!\s*")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([-+]?)({_DIGITS}(?:\.\d*)?|\.\d+)")
_FRACTION = re.compile(r"([-+]?)(?:(\d+)/(\d+)|\\[dt]?frac\{(-?\d+)\}\{(\d+)\})")

_TEN = r"10\s*(?:\^|\*\*)\s*(?:\{\s*([+-]?\d{1,3})\s*\}|(\d))"
_TIMES_POWER = re.compile(rf"(?:[eE]([+-]?\d{{1,3}})|\s*(?:\\times|\\cdot|\*|×)\s*{_TEN})\Z")
_POWER = re.compile(rf"(-?){_TEN}")


def ascii_digits(text: str) -> str:
    """Return the text with the digits of all scripts as 0-9, and the minus sign U+2212 as a hyphen.

    Superscript digits stay as they are.
    """
    if text.isascii():
        return text
    return "".join(str(int(c)) if c.isdecimal() and not c.isascii() else c for c in text).replace("\u2212", "-")


def join_thousands(text: str) -> str:
    r"""Return the text with LaTeX's thousands separators as commas: `1{,}234` and `1,\! 234` become `1,234`."""
    return _LATEX_COMMA.sub(",", text)


def strip_units(text: str) -> str:
    r"""Return the text without surrounding spaces, `$`, `%` and final period.

    LaTeX's thousands separators become commas.

    >>> strip_units(r" \$1{,}234.00. ")
    '1,234.00'
    """
    text = join_thousands(ascii_digits(text)).replace("\\!", "").replace("\\$", "$").replace("\\%", "%")
    text = text.strip("$ \t\n").removesuffix(".").rstrip("%$ ")
    sign, rest = ("-", text[1:]) if text.startswith("-") else ("", text)
    return sign + rest.lstrip("$ ")


def decimal_text(text: str) -> str | None:
    """Return the text of an integer or decimal, without `$`, `%` and thousands separators; None for any other text.

    >>> decimal_text("$1,234.50"), decimal_text("007"), decimal_text("1/2"), decimal_text("1,23")
    ('1234.50', '007', None, None)
    """
    if len(text) > 2 * MAX_NUMBER_LENGTH:
        return None
    match = _DECIMAL.fullmatch(strip_units(text))
    if match is None or len(match[2]) > MAX_NUMBER_LENGTH:
        return None
    return match[1].replace("+", "") + match[2].replace(",", "").removesuffix(".")


def plain_number(text: str) -> Fraction | None:
    r"""Return the exact value of an integer, decimal or fraction of at most 100 digits; None for any other text.

    A percent sign is ignored like a unit: `50%` is 50, not 1/2.

    >>> [str(plain_number(t)) for t in ("1,000.50", "-3/6", r"\frac{1}{2}", "50%", "x", "1,2")]
    ['2001/2', '-1/2', '1/2', '50', 'None', 'None']
    """
    decimal = decimal_text(text)
    if decimal is not None:
        return Fraction(decimal)
    if len(text) > 2 * MAX_NUMBER_LENGTH:
        return None
    match = _FRACTION.fullmatch(strip_units(text))
    if match is None:
        return None
    sign, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0:
        return None
    return Fraction(-top if sign == "-" else top, bottom)


def exact_number(text: str) -> Fraction | None:
    r"""Return the exact value of a plain number or of a number in scientific notation; None for any other text.

    Plain numbers are read by `plain_number`. An exponent has at most three digits.

    >>> [str(exact_number(t)) for t in ("4.5e3", r"4.5 \times 10^{3}", "1e-1", "10^{2}", "110^2", "1e9999", "e5")]
    ['4500', '4500', '1/10', '100', 'None', 'None', 'None']
    """
    number = plain_number(text)
    if number is not None or len(text) > 2 * MAX_NUMBER_LENGTH:
        return number
    text = strip_units(text)
    power = _POWER.fullmatch(text)
    if power is not None:
        return _power_of_ten(power[2] or power[3]) * (-1 if power[1] else 1)
    power = _TIMES_POWER.search(text)
    factor = None if power is None else plain_number(text[: power.start()])
    if power is None or factor is None:
        return None
    return factor * _power_of_ten(power[1] or power[2] or power[3])


def _power_of_ten(exponent: str) -> Fraction:
    return Fraction(10) ** int(exponent)
