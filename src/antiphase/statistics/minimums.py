"""The smallest numbers of tokens and of steps for which a correlation is computed. This module imports no torch."""

from antiphase.errors import InvalidInputError

MIN_TOKENS = 8
# With 5 steps, a perfect order is significant: its probability by chance is p = 2/5! = 0.017. With 4 it is 2/4! =
# 0.083.
MIN_STEPS = 5


def check_least(name: str, value: int) -> None:
    """Raise `InvalidInputError` if the smallest number of items for a correlation, `value`, is below 3.

    `name` is the name of the option that sets this number; the error message contains it.
    """
    if value < 3:
        raise InvalidInputError(f"{name} must be at least 3 for a correlation to mean anything; got {value}.")
