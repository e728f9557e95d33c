"""Makes reward functions, built-in or the user's own, from their names, and tries them before the training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerState

from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import extract_answer, is_whole
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.task_rewards import AccuracyReward, FormatReward
from antiphase.tasks.user_code import code_place, load_code
from antiphase.training.random_reward import RandomReward
from antiphase.training.reward_choices import check_reward, is_random, probability_of
from antiphase.training.reward_functions import (
    MajorityVoteReward,
    NegativeEntropyReward,
    SelfCertaintyReward,
    SignalReward,
    checked_values,
)


def reward_function(name: str, pool: VerifierPool, seed: int = 0) -> Any:
    """Return the reward function that has this name.

    Args:
        name: one of `reward_choices.NAMES`, `random:γ` with a probability γ, or the user's own function as
            `package.module:function` or `path/to/file.py:function`.
        pool: the verifier processes, which check completions for the reward `accuracy`. The pool also knows the tags
            of thoughts.
        seed: seed of the draws of the random reward.

    Raises:
        InvalidInputError: no reward function has this name; the message suggests the most similar name.
    """
    check_reward(name)
    if is_random(name):
        return RandomReward(probability_of(name), seed)
    place = code_place(name)
    if place is not None:
        function = load_code(place, f"reward function {name!r}", "function").value
        if not callable(function):
            raise InvalidInputError(f"reward function {name!r}: {place.written} has no function {place.name!r}.")
        return function
    makers: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: AccuracyReward(pool=pool),
        "format": lambda: FormatReward(pool.tags),
        "self_certainty": SelfCertaintyReward,
        "negative_entropy": NegativeEntropyReward,
        "majority_vote": lambda: MajorityVoteReward(
            lambda text, kind: extract_answer(text, "auto", kind), pool.tags, is_whole
        ),
    }
    return makers[name]()


def _ignore(*_: Any, **__: Any) -> None:
    """Do nothing. This replaces TRL's functions `log_extra` and `log_metric` while reward functions are tried."""


def try_functions(functions: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Call each reward function on two problems with an empty completion, to find errors before the training.

    Reward models, async functions and functions that read the policy are not tried; the first step calls them. The
    reward `random` is not tried either: its draws depend on the number of calls at a step.

    Raises:
        InvalidInputError: a function raises an error, returns values that TRL's protocol does not allow, or returns
            None or NaN for every problem.
    """
    from trl.trainer.utils import get_callable_name, is_async_callable

    some = [dict(row) for row in rows[:2]]
    chat = not isinstance(some[0]["prompt"], str)
    completions: list[Any] = [[{"role": "assistant", "content": ""}] if chat else "" for _ in some]
    columns: dict[str, Any] = {key: [row[key] for row in some] for key in some[0] if key != "prompt"}
    columns |= {"trainer_state": TrainerState(), "log_extra": _ignore, "log_metric": _ignore}
    for function in functions:
        if not callable(function) or isinstance(function, SignalReward | RandomReward) or is_async_callable(function):
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
        # The user's code can raise any error.
        except Exception as error:
            raise InvalidInputError(
                f"the reward function '{name}' fails on an empty completion ({type(error).__name__}: {error}). It is "
                "called as TRL calls it: f(prompts=, completions=, completion_ids=, **columns)."
            ) from error
        if all(value is None for value in checked_values(name, values, len(some))):
            raise InvalidInputError(
                f"the reward function '{name}' returns None for every problem tried (NaN counts as None), so it would "
                "reward nothing. Return a number for each completion that it applies to."
            )
