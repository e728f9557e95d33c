"""Reward functions by name: the task's verifier, the format, the verifier-free ones, and the user's own."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerState

from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import extract_answer
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.task_rewards import AccuracyReward, format_reward
from antiphase.tasks.user_code import code_place, load_code
from antiphase.training.reward_functions import (
    MajorityVoteReward,
    NegativeEntropyReward,
    SelfCertaintyReward,
    SignalReward,
    checked_values,
)

NAMES = ("accuracy", "format", "self_certainty", "negative_entropy", "majority_vote")


def reward_function(name: str, pool: VerifierPool) -> Any:
    """The reward function of a name.

    Args:
        name: one of `NAMES`, or the user's own as `package.module:function` or `path/to/file.py:function`.
        pool: checks completions for `accuracy`.

    Raises:
        InvalidInputError: no such function; names the nearest.
    """
    place = code_place(name)
    if place is not None:
        function = load_code(place, f"reward function {name!r}", "function").value
        if not callable(function):
            raise InvalidInputError(f"reward function {name!r}: {place.written} has no function {place.name!r}.")
        return function
    if name == "accuracy":
        return AccuracyReward(pool=pool)
    if name == "format":
        return format_reward
    if name == "self_certainty":
        return SelfCertaintyReward()
    if name == "negative_entropy":
        return NegativeEntropyReward()
    if name == "majority_vote":
        return MajorityVoteReward(lambda text, kind: extract_answer(text, "auto", kind))
    near = difflib.get_close_matches(name, NAMES, 1)
    raise InvalidInputError(
        f"unknown reward function {name!r}."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + f" There are {', '.join(NAMES)}, and your own as module:function or file.py:function."
    )


def _ignore(*_: Any, **__: Any) -> None:
    """A logger that nobody listens to."""


def try_functions(functions: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Call each reward function on two problems with an empty completion, before anything long starts.

    Reward models, async functions and those that read the policy are left to the first step.

    Raises:
        InvalidInputError: a function raises, returns what breaks the protocol, or has no reward for any problem.
    """
    from trl.trainer.utils import get_callable_name, is_async_callable

    some = [dict(row) for row in rows[:2]]
    chat = not isinstance(some[0]["prompt"], str)
    completions: list[Any] = [[{"role": "assistant", "content": ""}] if chat else "" for _ in some]
    columns: dict[str, Any] = {key: [row[key] for row in some] for key in some[0] if key != "prompt"}
    columns |= {"trainer_state": TrainerState(), "log_extra": _ignore, "log_metric": _ignore}
    for function in functions:
        if not callable(function) or isinstance(function, SignalReward) or is_async_callable(function):
            continue
        name = get_callable_name(function)
        try:
            values = function(
                prompts=[row["prompt"] for row in some],
                completions=completions,
                completion_ids=[[], []][: len(some)],
                **columns,
            )
        except InvalidInputError:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"the reward function '{name}' fails on an empty completion ({type(error).__name__}: {error}). It is "
                "called as TRL calls it: f(prompts=, completions=, completion_ids=, **columns)."
            ) from error
        if all(value is None for value in checked_values(name, values, len(some))):
            raise InvalidInputError(
                f"the reward function '{name}' returns None for every problem tried, so it would reward nothing. "
                "Return a number for each completion that it applies to."
            )
