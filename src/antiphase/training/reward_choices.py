"""Lists and checks the names of reward functions, without importing the functions.

The module `reward_names` makes the functions.
"""

import math
import re
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean

NAMES = ("accuracy", "format", "self_certainty", "negative_entropy", "majority_vote", "random")


RANDOM = "random"


def is_random(name: str) -> bool:
    """Return whether the name means the random reward: `random`, or with a probability, as in `random:0.1`."""
    return name == RANDOM or re.fullmatch(rf"{RANDOM}:[-+.\d]\S*", name) is not None


def probability_of(name: str) -> float:
    """Return the probability γ that the name of a random reward means: 0.5 for `random`, 0.1 for `random:0.1`.

    Raises:
        InvalidInputError: the text after the colon is not a number, or the number is 0 or less, or 1 or more.
    """
    _, colon, text = name.partition(":")
    try:
        value = float(text) if colon else 0.5
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise InvalidInputError(f"reward function {name!r}: give a probability above 0 and below 1, as in random:0.5.")
    return value


def check_reward(name: str) -> None:
    """Raise InvalidInputError if no reward function can have this name.

    Args:
        name: one of `NAMES`, `random:γ` with a probability γ, or the user's own function as `package.module:function`
            or `path/to/file.py:function`.

    Raises:
        InvalidInputError: the name is unknown (the message suggests the most similar one), γ is not a number above 0
            and below 1, or the file does not exist.
    """
    if is_random(name):
        probability_of(name)
        return
    place, colon, _ = name.rpartition(":")
    if colon:
        if place.endswith(".py") and not Path(place).is_file():
            raise InvalidInputError(f"reward function {name!r}: there is no file {place!r}.")
        return
    if name in NAMES:
        return
    raise InvalidInputError(
        f"unknown reward function {name!r}.{did_you_mean(name, NAMES)} Choose one of {', '.join(NAMES)}, or name your "
        "own function as module:function or file.py:function."
    )
