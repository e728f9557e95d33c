"""The fewest items that a correlation is made of, unless a caller says otherwise. Imports no torch."""

from antiphase.errors import InvalidInputError

MIN_TOKENS = 8
# The fewest steps of which a perfect order is significant: p = 2/5! = 0.017, but 2/4! = 0.083.
MIN_STEPS = 5


def check_least(name: str, value: int) -> None:
    """Raise InvalidInputError for fewer items than a correlation can be made of."""
    if value < 3:
        raise InvalidInputError(f"{name} must be at least 3 for a correlation to mean anything; got {value}.")
