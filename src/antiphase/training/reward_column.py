"""Adds the inversion reward to TRL's lists of reward functions while TRL scores a batch, and only then.

At all other times, the trainer's lists `reward_funcs`, `reward_func_names`, `reward_weights` and
`reward_processing_classes` hold only the task rewards, as in TRL. So a callback that reads or sets `reward_weights`
works unchanged.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

_LISTS = ("reward_funcs", "reward_func_names", "reward_processing_classes")


def remove_column(trainer: Any, place: int) -> None:
    """Remove one reward function from the trainer's four lists of reward functions.

    Args:
        trainer: TRL's trainer, after its construction.
        place: the index of the reward function.
    """
    for name in _LISTS:
        values = getattr(trainer, name)
        setattr(trainer, name, [*values[:place], *values[place + 1 :]])
    weights = trainer.reward_weights
    trainer.reward_weights = torch.cat([weights[:place], weights[place + 1 :]])


@contextlib.contextmanager
def added_column(trainer: Any, function: Callable[..., Any], name: str) -> Iterator[None]:
    """Inside the `with` block, add one reward function of weight 0 at the end of the trainer's lists.

    Args:
        trainer: TRL's trainer.
        function: the reward function.
        name: the name under which TRL logs the rewards of this function.
    """
    before = {key: getattr(trainer, key) for key in (*_LISTS, "reward_weights")}
    for key, value in zip(_LISTS, (function, name, None), strict=True):
        setattr(trainer, key, [*before[key], value])
    weights = before["reward_weights"]
    trainer.reward_weights = torch.cat([weights, weights.new_zeros(1)])
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(trainer, key, value)


@contextlib.contextmanager
def chosen_columns(trainer: Any, places: Sequence[int]) -> Iterator[None]:
    """Inside the `with` block, give the trainer only some of its reward functions, and one more that returns zeros.

    TRL would warn about rollouts to which none of the chosen functions gives a reward. The zeros prevent this warning.
    For the batch that is trained on, `warn_unscored` warns instead.

    Args:
        trainer: TRL's trainer.
        places: the indices of the reward functions that stay, ascending.
    """
    before = {key: getattr(trainer, key) for key in _LISTS}
    for key, value in zip(_LISTS, (_zeros, "zeros", None), strict=True):
        setattr(trainer, key, [*(before[key][place] for place in places), value])
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(trainer, key, value)


def _zeros(completions: Sequence[Any], **_: Any) -> list[float]:
    """Return the reward 0 for each completion."""
    return [0.0] * len(completions)
