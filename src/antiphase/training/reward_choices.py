"""Lists and checks the names of reward functions, without importing the functions. `reward_names` makes them."""

from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean

NAMES = ("accuracy", "format", "self_certainty", "negative_entropy", "majority_vote")


def check_reward(name: str) -> None:
    """Raise InvalidInputError if no reward function can have this name.

    Args:
        name: one of `NAMES`, or the user's own as `package.module:function` or `path/to/file.py:function`.

    Raises:
        InvalidInputError: the name is unknown (the message names the nearest), or the file does not exist.
    """
    place, colon, _ = name.rpartition(":")
    if colon:
        if place.endswith(".py") and not Path(place).is_file():
            raise InvalidInputError(f"reward function {name!r}: there is no file {place!r}.")
        return
    if name in NAMES:
        return
    raise InvalidInputError(
        f"unknown reward function {name!r}.{did_you_mean(name, NAMES)} There are {', '.join(NAMES)}, and your own as "
        "module:function or file.py:function."
    )
