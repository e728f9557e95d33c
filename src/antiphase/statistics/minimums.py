"""The least numbers of items for a correlation, unless a caller gives another. Imports no torch."""

from antiphase.errors import InvalidInputError

MIN_TOKENS = 8
# The least number of steps whose perfect order is significant: p = 2/5! = 0.017, but 2/4! = 0.083.
MIN_STEPS = 5


def check_least(name: str, value: int) -> None:
    """Refuse an option that sets the minimum number of items too low to compute a correlation."""
    if value < 3:
        raise InvalidInputError(f"{name} must be at least 3 for a correlation to mean anything; got {value}.")
