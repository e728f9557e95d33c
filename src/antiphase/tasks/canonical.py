"""Bring answers to a common form for majority votes: answers that are plainly the same become the same string.

Only string operations are used, so answers that need algebra to be shown equal stay different.
"""

from antiphase.tasks.math_equality import MAX_ANSWER_LENGTH, normal_form
from antiphase.tasks.plain_numbers import exact_number


def canonical_math(answer: str) -> str:
    r"""The common form of a mathematical answer: a number as a fraction in lowest terms, other text without layout.

    >>> [canonical_math(text) for text in ("0.5", r"\frac{2}{4}", "$1,000.0", r"\left( 3, x \right)")]
    ['1/2', '1/2', '1000', '(3,x)']
    """
    number = exact_number(answer)
    if number is not None:
        return str(number)
    return writable(answer if len(answer) > MAX_ANSWER_LENGTH else normal_form(answer))


def writable(text: str) -> str:
    r"""The text with `?` in place of lone surrogates, which cannot be written to a file.

    >>> writable("a\ud800")
    'a?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")
