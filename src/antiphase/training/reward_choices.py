"""The names of the reward functions. Imports none of them; `reward_names` makes them."""

import difflib
from pathlib import Path

from antiphase.errors import InvalidInputError

NAMES = ("accuracy", "format", "self_certainty", "negative_entropy", "majority_vote")


def check_reward(name: str) -> None:
    """Refuse a name that no reward function can have.

    Args:
        name: one of `NAMES`, or the user's own as `package.module:function` or `path/to/file.py:function`.

    Raises:
        InvalidInputError: an unknown name (with the nearest), or a file that is not there.
    """
    place, colon, _ = name.rpartition(":")
    if colon:
        if place.endswith(".py") and not Path(place).is_file():
            raise InvalidInputError(f"reward function {name!r}: there is no file {place!r}.")
        return
    if name in NAMES:
        return
    near = difflib.get_close_matches(name, NAMES, 1)
    raise InvalidInputError(
        f"unknown reward function {name!r}."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + f" There are {', '.join(NAMES)}, and your own as module:function or file.py:function."
    )
