"""Checks the values of the user's reward functions, and defines rewards that need no verifier.

The rewards of tasks are in `antiphase.tasks.task_rewards`. All reward functions follow TRL's protocol: a function is
called with lists, and returns a number or None for each completion.
"""

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from trl.trainer.utils import get_callable_name, is_async_callable

from antiphase.errors import InvalidInputError
from antiphase.scores import RolloutScores
from antiphase.steps.thoughts import TAGS, spoken
from antiphase.tasks.task_rewards import ReadingReward
from antiphase.training.completion_texts import CompletionReader


class RewardWarning(UserWarning):
    """Warning about the values of a reward function, such as a NaN."""


# TRL keeps rewards in float32, where a greater number would become infinite.
_GREATEST = torch.finfo(torch.float32).max


def checked_values(name: str, values: Any, expected: int) -> list[float | None]:
    """Return the values of a reward function as a list, after checking them.

    A NaN becomes None, with a warning, because TRL treats both alike: the function has no reward for the completion.

    Args:
        name: the function's name, for messages.
        values: what the function returned: a list, a tuple, a tensor, an array, or something else that yields one
            value after another.
        expected: number of completions.

    Raises:
        InvalidInputError: there is not exactly one value for each completion, a value is neither a number nor None, or
            a number is infinite or too great for float32.
    """
    listed = _listed(name, values, expected)
    if len(listed) != expected:
        raise InvalidInputError(
            f"the reward function '{name}' returned {len(listed)} rewards for {expected} completions. Return exactly "
            "one number (or None where it does not apply) for each."
        )
    found: list[float | None] = []
    for place, value in enumerate(listed):
        if value is None:
            found.append(None)
            continue
        try:
            # The function isnan refuses texts, which the function float would read.
            number = math.nan if math.isnan(value) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidInputError(
                f"the reward function '{name}' returned {value!r} for completion {place}; expected a number or None."
            ) from None
        if abs(number) > _GREATEST:
            raise InvalidInputError(
                f"the reward function '{name}' returned {value} for completion {place}. Return a finite number of "
                "float32, or None where it does not apply."
            )
        found.append(None if math.isnan(number) else number)
    if any(value is not None and number is None for value, number in zip(listed, found, strict=True)):
        # Python shows the same text once only.
        warnings.warn(
            f"the reward function '{name}' returned NaN. It counts as None, which says that the function has no "
            "reward for the completion. If that is meant, return None; otherwise look for a division by 0.",
            RewardWarning,
            stacklevel=2,
        )
    return found


def _listed(name: str, values: Any, expected: int) -> list[Any]:
    """Return the values as a list.

    Raises:
        InvalidInputError: `values` is a single value, a text, a set or a mapping.
    """
    listed = values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else values
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes | Mapping | Set):
        raise InvalidInputError(
            f"the reward function '{name}' returned {type(values).__name__}; expected a list of {expected} numbers, "
            "one for each completion."
        )
    return list(listed)


def checked(function: Any, reader: Callable[[], CompletionReader | None] = lambda: None) -> Any:
    """Return the reward function in a wrapper that checks its values at every call.

    The wrapper has the function's name, and is async if the function is. `unwrapped` returns the function again.
    Reward models, their names, and rewards that read the policy are returned as they are, without a wrapper.

    Args:
        function: the reward function.
        reader: a function that returns the present `CompletionReader`, or None if there is none. A `ReadingReward`
            gets the texts of this reader. Every other function gets the texts of TRL.
    """
    if isinstance(function, str | torch.nn.Module | SignalReward) or not callable(function):
        return function
    name = get_callable_name(function)
    if is_async_callable(function):

        async def call_async(*args: Any, **kwargs: Any) -> list[float | None]:
            return checked_values(name, await function(*args, **kwargs), len(kwargs["completions"]))

        call_async.__name__ = name
        return call_async

    def call(*args: Any, **kwargs: Any) -> list[float | None]:
        reading = reader() if isinstance(function, ReadingReward) else None
        if reading is not None:
            kwargs = reading.arguments(kwargs, function.tags)
        return checked_values(name, function(*args, **kwargs), len(kwargs["completions"]))

    call.__name__ = name
    return functools.wraps(function)(call) if hasattr(function, "__name__") else call


def unwrapped(function: Any) -> Any:
    """Return the original reward function, without the wrapper that `checked` may have put around it."""
    return getattr(function, "__wrapped__", function)


class SignalReward(ABC):
    """Base class of rewards that are computed from the policy's own token distributions.

    A reward is a mean over the measured tokens of a completion: all tokens, or those of `inversion_segment`. The
    trainer sets `scores` before each call.
    """

    __name__ = "signal"
    scores: RolloutScores | None = None

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float | None]:
        """Return a number for each completion, or None if the completion has no measured token."""
        if self.scores is None:
            raise InvalidInputError(
                f"the reward '{self.__name__}' reads the policy's own distributions: use it with CorRPOTrainer."
            )
        values = self._values(self.scores).tolist()
        return [value if math.isfinite(value) else None for value in values]

    @abstractmethod
    def _values(self, scores: RolloutScores) -> torch.Tensor:
        """Return a number for each rollout, or NaN if the rollout has no measured token."""


class SelfCertaintyReward(SignalReward):
    """Mean over the completion's tokens of KL(U‖p), in nats (Intuitor, arXiv 2505.19590, eq. 6 up to its constant).

    U is the uniform distribution over the vocabulary, and p is the policy's distribution of the next token.

    Deviation: p is the distribution of the policy that wrote the completion, at temperature 1. The mean is over every
    token, or over those of `inversion_segment`.
    """

    __name__ = "self_certainty"

    def _values(self, scores: RolloutScores) -> torch.Tensor:
        return scores.self_certainty


class NegativeEntropyReward(SignalReward):
    """Minus the mean token entropy of the completion, in nats (RENT, arXiv 2505.22660).

    Deviation: the mean is over all tokens of the completion, or those of `inversion_segment`; RENT also studies
    means over its last tokens.
    """

    __name__ = "negative_entropy"

    def _values(self, scores: RolloutScores) -> torch.Tensor:
        return -scores.entropy


class MajorityVoteReward(ReadingReward):
    """Reward of 1 if the completion's answer is the most common of its group, else 0 (TTRL, arXiv 2504.16084).

    Answers are compared as `extract` returns them. A completion has no vote and gets 0 if it has no answer, if its
    thought does not end, or if `whole` refuses it. Among equally common answers, the one that came first wins.
    Deviation: only the rollouts of the group vote. In TTRL, 64 samples vote, and 32 of them are trained on.

    Args:
        extract: a function of two texts that returns the answer, or None if there is no answer. The first text is what
            the completion says after its thought. The second is the reference answer; `extract` may use it only to
            learn of what kind the answer is (a number or not).
        tags: pairs of the tag that opens a thought and the tag that closes it.
        whole: a function that returns whether a completion may vote. Its arguments are the two texts that `extract`
            gets, and how the completion ended (`length` if it was cut off). By default every completion may vote; the
            reward that recipes name `majority_vote` uses `is_whole`.
    """

    __name__ = "majority_vote"

    def __init__(
        self,
        extract: Callable[[str, str], str | None],
        tags: Sequence[tuple[str, str]] = TAGS,
        whole: Callable[[str, str, str], bool] = lambda text, kind, finish: True,
    ) -> None:
        super().__init__(tags)
        self.extract, self.whole = extract, whole
        self.group_size = 1

    def __call__(
        self,
        completions: Sequence[Any],
        answer: Sequence[str] | None = None,
        prompts: Sequence[Any] | None = None,
        finishes: Sequence[str] | None = None,
        **_: Any,
    ) -> list[float]:
        """Return 1 for each completion whose answer has the most votes in its group, and 0 for the others.

        A group can be spread over processes, so the answers are gathered from all processes.
        """
        from accelerate import PartialState
        from accelerate.utils import gather_object

        kinds = answer if answer is not None else [""] * len(completions)
        said = [spoken(text, self.tags).answer for text in self.texts(completions, prompts)]
        ends = finishes if finishes is not None else [""] * len(completions)
        own = [
            None if text is None or not self.whole(text, kind, end) else self.extract(text, kind)
            for text, kind, end in zip(said, kinds, ends, strict=True)
        ]
        # A group may be spread over processes.
        answers = gather_object(own)
        rewards = []
        for start in range(0, len(answers), self.group_size):
            group = answers[start : start + self.group_size]
            votes = Counter(answer for answer in group if answer is not None)
            winner = max(votes, key=lambda answer: votes[answer]) if votes else None
            rewards += [float(answer is not None and answer == winner) for answer in group]
        first = PartialState().process_index * len(own)
        return rewards[first : first + len(own)]
