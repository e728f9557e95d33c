"""Answers in a form for majority votes: what is plainly the same answer is the same string.

String operations only: answers that only algebra could show to be equal stay different.
"""

from antiphase.tasks.math_equality import MAX_ANSWER_LENGTH, normal_form
from antiphase.tasks.plain_numbers import exact_number


def canonical_math(answer: str) -> str:
    r"""A mathematical answer: numbers as integers or fractions in lowest terms, the rest without layout.

    >>> [canonical_math(text) for text in ("0.5", r"\frac{2}{4}", "$1,000.0", r"\left( 3, x \right)")]
    ['1/2', '1/2', '1000', '(3,x)']
    """
    number = exact_number(answer)
    if number is not None:
        return str(number)
    return writable(answer if len(answer) > MAX_ANSWER_LENGTH else normal_form(answer))


def writable(text: str) -> str:
    r"""The text with `?` for lone surrogates, which no file could hold.

    >>> writable("a\ud800")
    'a?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")
