r"""Bring answers to one notation: mathematics in Unicode or plain text becomes LaTeX.

The functions use only strings, and their time is linear in the length of the text. They do not decide whether two
answers are equal.
"""

import re
import unicodedata

from antiphase.tasks.plain_numbers import ascii_digits

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "±": r"\pm ", "×": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "≈": r"\approx ", "°": r"^\circ ",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
# Dashes that stand for a minus sign.
_MINUS = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-"})
# Spaces that set off thousands: no-break, narrow no-break, thin, figure, and LaTeX's \, and \!.
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:[\u00a0\u202f\u2009\u2007]|\\[,;:!]\s?|\{,\}|,\\!\s*)\d{3})+(?![\d])")
_VULGAR = re.compile(r"(\d+\s*)?([¼-¾⅐-⅞])")
_ROOT = re.compile(r"√\s*(\([^()]*\)|\{[^{}]*\}|\d+(?:\.\d+)?|[A-Za-z])")
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sqrt|pi|infinity|infty)(?![A-Za-z])")
_SQRT_CALL = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_MIXED = re.compile(r"(?<![\d.\\/^{A-Za-z])(-?)(\d+)\s*(?:\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}|\s(\d+)/(\d+))(?![\d/])")


def plain_text(text: str) -> str:
    r"""Return the text with its numbers in ASCII.

    Digits of other scripts become ASCII digits. Minus signs and dashes become the hyphen-minus (-). The special spaces
    between groups of three digits, such as the no-break space U+00A0, are removed.

    >>> plain_text("–5, 12\u00a0345")
    '-5, 12345'
    """
    if text.isascii():
        return text
    text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text.translate(_MINUS))
    return ascii_digits(text)


def in_latex(text: str) -> str:
    r"""Return the text with LaTeX in place of mathematics in Unicode and in plain text.

    >>> in_latex("√2·π"), in_latex("（1，2）"), in_latex("6×10³"), in_latex("3½"), in_latex("12\u00a0345")
    ('\\sqrt{2}\\cdot \\pi ', '(1,2)', '6\\times 10^{3}', '\\frac{7}{2}', '12345')
    """
    if not text.isascii():
        text = plain_text(text)
        text = _VULGAR.sub(_fraction, text)
        text = _SUPERSCRIPT_RUN.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
        text = _SUBSCRIPT_RUN.sub(lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
        text = _SYMBOL.sub(lambda found: _SYMBOLS[found[0]], _ROOT.sub(_root, text))
        # Full-width letters, digits and brackets become ordinary ones.
        text = unicodedata.normalize("NFKC", text)
    text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _FUNCTION.sub(lambda found: r"\infty " if found[1].startswith("inf") else rf"\{found[1]} ", text)
    text = _SQRT_CALL.sub(r"\\sqrt{\1}", text.replace(r"\sqrt (", r"\sqrt("))
    text = text.replace(r"\varnothing", r"\emptyset").replace("**", "^").replace("*", r"\cdot ")
    return _MIXED.sub(_mixed, text)


def _root(found: re.Match[str]) -> str:
    """Return a root, such as √2, in LaTeX."""
    inside = found[1]
    return rf"\sqrt{{{inside[1:-1] if inside[0] in '({' else inside}}}"


def _fraction(found: re.Match[str]) -> str:
    """Return a fraction character in LaTeX, together with a whole number before it: 3½ becomes 7/2."""
    top, _, bottom = unicodedata.normalize("NFKC", found[2]).partition("\u2044")
    whole = int(found[1]) if found[1] else 0
    return rf"\frac{{{whole * int(bottom) + int(top)}}}{{{bottom}}}"


def _mixed(found: re.Match[str]) -> str:
    """Return a mixed number as one fraction in LaTeX: 3 1/2 becomes 7/2."""
    sign, whole, *parts = found.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0 or top >= bottom:
        return found[0]
    return rf"{sign}\frac{{{int(whole) * bottom + top}}}{{{bottom}}}"
