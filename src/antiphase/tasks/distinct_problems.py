"""Draw different problems from a stream, and decide which split a problem belongs to.

A problem belongs to the test split if the crc32 checksum of its prompt is divisible by 5. All other problems belong to
the train split. So the two splits never share a problem, whatever the seeds and the options of a task are.
"""

import zlib
from collections.abc import Iterable

from antiphase.errors import InvalidInputError
from antiphase.tasks.problem import Problem, Split

TEST_SHARE = 5
_MIN_PATIENCE, _MAX_PATIENCE = 500, 20_000


def in_split(prompt: str, split: Split) -> bool:
    """Return whether a problem with this prompt belongs to the split; every problem belongs to the split `all`.

    >>> [in_split(prompt, "test") for prompt in ("1+1=", "1+2=", "1+3=", "1+7=")]
    [False, False, False, True]
    """
    if split == "all":
        return True
    return (zlib.crc32(prompt.encode("utf-8")) % TEST_SHARE == 0) == (split == "test")


def draw_distinct(stream: Iterable[Problem], split: Split, num: int, *, spec: str, exact: bool) -> list[Problem]:
    """Return the first `num` different problems of the split. Problems are different if their prompts are.

    A stream never ends, but it may have no new problem left. It counts as exhausted after 20·n repeats in a row, where
    n is the number of different prompts so far. This limit is at least 500 and at most 20,000.

    Args:
        stream: the problems, which may repeat.
        split: the split that the problems must belong to.
        num: how many problems are wanted.
        spec: the spec of the task, for the error message.
        exact: whether it is an error if there are fewer problems than `num`. If it is no error, all problems that were
            found are returned.

    Raises:
        InvalidInputError: the stream has no problem of the split, or it has fewer than `num` and `exact` is set.
    """
    seen: set[str] = set()
    found: list[Problem] = []
    repeats = 0
    for problem in stream:
        if problem.prompt in seen:
            repeats += 1
            if repeats > min(max(_MIN_PATIENCE, 20 * len(seen)), _MAX_PATIENCE):
                break
            continue
        repeats = 0
        seen.add(problem.prompt)
        if in_split(problem.prompt, split):
            found.append(problem)
            if len(found) == num:
                return found
    if exact or not found:
        where = "" if split == "all" else f" in the {split} split"
        raise InvalidInputError(
            f"task {spec!r}: asked for {num} problems{where}, but only {len(found)} different ones exist "
            f"({len(seen)} in both splits). Ask for fewer, or widen the task's options."
        )
    return found
