"""A reward that knows nothing of right and wrong: the control of the second study for methods that change lengths."""

from collections.abc import Sequence
from typing import Any

# A completion of this many tokens or more gets the whole reward. It is about the length of a worked answer.
LONG = 128


def longer(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return the length of each completion as a share of `LONG` tokens, at most 1.

    Args:
        completions: the texts. They are not read.
        completion_ids: the token ids of each completion.
    """
    return [min(1.0, len(ids) / LONG) for ids in completion_ids]
