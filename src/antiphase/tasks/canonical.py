"""Write answers in a common form, so that a majority vote can count them: equal answers become equal strings.

Only strings and plain numbers are compared. Two answers that only algebra could show to be equal stay different.
"""

from antiphase.tasks.math_equality import MAX_ANSWER_LENGTH, normal_form
from antiphase.tasks.plain_numbers import exact_number


def canonical_math(answer: str) -> str:
    r"""Return a mathematical answer in a common form, in which a majority vote can count equal answers as strings.

    A number becomes a fraction in lowest terms. Other text loses what is only layout, such as spaces and `\left`.

    >>> [canonical_math(text) for text in ("0.5", r"\frac{2}{4}", "$1,000.0", r"\left( 3, x \right)")]
    ['1/2', '1/2', '1000', '(3,x)']
    """
    number = exact_number(answer)
    if number is not None:
        return str(number)
    return writable(answer if len(answer) > MAX_ANSWER_LENGTH else normal_form(answer))


def writable(text: str) -> str:
    r"""Return the text with `?` in place of each lone surrogate. A file in UTF-8 cannot hold lone surrogates.

    >>> writable("a\ud800")
    'a?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")
