"""Checks what the user's reward functions and `rollout_func` returned and logged for a batch.

TRL itself would mix two metrics or columns that have the same name. It would train on infinite rewards, and fail
without a clear message on completions that have no token. This module raises an error that names the cause, before
the batch changes the policy.
"""

import functools
import reprlib
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.inversion.step_times import PREFIX as TIMES

# The column of the inversion reward, and the columns that antiphase adds to TRL's table of completions.
REWARD = "inversion"
COLUMNS = ("inversion", "entropy", "strength")
# Metrics that antiphase logs at other times than those of a batch begin with one of these.
_AT_OTHER_TIMES = ("heldout/", "probe/", TIMES)
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 200


class UnscoredWarning(UserWarning):
    """Warning that some rollouts got no reward from any reward function."""


def checked_rollouts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `rollout_func` in a wrapper that checks the completions at every call.

    The wrapper raises InvalidInputError in two cases: the function does not return one prompt and one completion for
    each prompt that it got, or a completion has no token.

    Args:
        function: the user's function. TRL calls it as `f(prompts, trainer)`.
    """

    @functools.wraps(function)
    def call(prompts: Any, trainer: Any) -> Any:
        output = function(prompts, trainer)
        for key in ("prompt_ids", "completion_ids"):
            if key in output and len(output[key]) != len(prompts):
                raise InvalidInputError(
                    f"rollout_func returned {len(output[key])} {key} for {len(prompts)} prompts. Return one for each "
                    "prompt, in the same order."
                )
        empty = [place for place, ids in enumerate(output.get("completion_ids", ())) if not len(ids)]
        if empty:
            raise InvalidInputError(
                f"rollout_func returned a completion without a token for prompt {empty[0]}, and TRL cannot train on "
                "it. Return at least the token that ended the completion."
            )
        return output

    return call


def check_names(names: Sequence[str], *, log_completions: bool) -> None:
    """Raise InvalidInputError if a task reward has a name that antiphase uses for a reward or a column of its own.

    TRL would mix the values of two rewards or columns that have the same name.

    Args:
        names: names of the task rewards, which come from reward functions and from environments.
        log_completions: whether TRL writes its table of completions, in which each reward is a column.
    """
    taken = COLUMNS if log_completions else (REWARD,)
    for name in names:
        if name in taken:
            what = "reward" if name == REWARD else "column of the table of completions"
            raise InvalidInputError(
                f"a reward function has the name {name!r}, and antiphase has a {what} of this name. Their numbers "
                "would be mixed. Rename the function."
            )


def check_columns_of(logged: Collection[str]) -> None:
    """Raise InvalidInputError if a reward function logged a column that antiphase adds to the table of completions.

    Args:
        logged: names of the columns that reward functions passed to `log_extra` for the batch.
    """
    for name in COLUMNS:
        if name in logged:
            raise InvalidInputError(
                f"a reward function logs the column {name!r} with log_extra, and antiphase has a column of this name. "
                "Choose another name."
            )


def check_lengths(logged: Mapping[str, Sized], count: int) -> None:
    """Raise InvalidInputError if a logged column does not have one value for each rollout.

    Args:
        logged: a mapping from names to columns, which reward functions passed to `log_extra` for a batch.
        count: number of rollouts that the functions of this process scored.
    """
    for name, values in logged.items():
        if len(values) != count:
            raise InvalidInputError(
                f"a reward function logs the column {name!r} with log_extra. The column has {len(values)} values for "
                f"{count} completions. Log one value for each completion: None for a completion without a value."
            )


def check_metrics(logged: Collection[str], own: Collection[str]) -> None:
    """Raise InvalidInputError if a reward function logged a metric that antiphase logs itself.

    Args:
        logged: names of the metrics that reward functions passed to `log_metric` for the batch.
        own: names of the metrics that antiphase computed for the batch.
    """
    taken = {*own, f"rewards/{REWARD}/mean", f"rewards/{REWARD}/std"}
    for name in logged:
        if name in taken or name.startswith(_AT_OTHER_TIMES):
            raise InvalidInputError(
                f"a reward function logs the metric {name!r} with log_metric, and antiphase has a metric of this "
                "name. TRL would log the mean of both. Choose another name."
            )


def check_finite(rewards: Float[Tensor, "rollout function"], names: Sequence[str]) -> None:
    """Raise InvalidInputError if a reward is infinite.

    The rewards of functions are also checked earlier, when the functions return them. The rewards of reward models and
    of environments are checked only here.

    Args:
        rewards: the rewards of the rollouts of all processes, with a column for each reward function.
        names: the name of each column's reward function.
    """
    for name, column in zip(names, rewards.isinf().any(0).tolist(), strict=True):
        if column:
            raise InvalidInputError(
                f"the reward {name!r} is infinite for a completion, so its group would have no advantages. Return a "
                "finite number, or None where the reward does not apply."
            )


def warn_unscored(
    unscored: Bool[Tensor, "rollout"], prompts: Sequence[Any], completions: Sequence[Any], step: int, process: int
) -> None:
    """Warn on the main process if some rollouts of a batch got no reward from any reward function.

    Args:
        unscored: for each rollout of all processes, True if no reward function gave it a reward.
        prompts, completions: the prompt and the completion of each rollout of this process.
        step: number of optimizer steps before the batch.
        process: index of this process.
    """
    from accelerate.utils import gather_object

    count = int(unscored.sum())
    if not count:
        return
    mine = unscored.view(-1, len(prompts))[process].nonzero()[:1].flatten().tolist()
    first, *_ = gather_object([(prompts[place], completions[place]) for place in mine])
    if process == 0:
        prompt, completion = map(_SHOWN.repr, first)
        warnings.warn(
            f"step {step}: every reward function returned None for {count} of {len(unscored)} rollouts. They have the "
            f"advantage 0 and no influence on others. The first is the completion {completion} to the prompt "
            f"{prompt}. At least one function should return a number for each completion.",
            UnscoredWarning,
            stacklevel=2,
        )
