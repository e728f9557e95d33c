"""The interface of the engines that complete prompts.

An engine ignores the checkpoint's generation defaults (top-k, penalties). It returns the completions in the order of
the prompts, each up to and including its end token, and does not change the caller's random state. docs/extend.md
shows how to add an engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from antiphase.rollouts.sampling_spec import Finish, Sampling


@dataclass(frozen=True)
class Completion:
    """A completion.

    Args:
        ids: the token ids, up to and including the end token if there is one.
        finish: `stop` if the completion ended with an end token, `length` if it was cut off.
    """

    ids: tuple[int, ...]
    finish: Finish


class Generator(ABC):
    """An engine that completes prompts.

    Attributes:
        name: the name of the engine, such as `transformers`.
        versions: the versions of the packages that draw the tokens.
    """

    name: str
    versions: Mapping[str, str]

    @abstractmethod
    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_number: int,
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """One completion for each prompt, in order.

        Args:
            prompt_ids: one row for each wanted completion (repeat a prompt to sample it again).
            sampling: how the completions are drawn.
            batch_number: the number of this batch in the run, which is part of the seed.
            tick: is called as the batch advances, with the share of it that has finished since the last call.

        Raises:
            InvalidInputError: the engine cannot use a prompt or a setting.
            OutOfMemoryError: the batch does not fit; lower the batch size or `max_new_tokens`.
        """

    def close(self) -> None:  # noqa: B027  # most engines hold nothing
        """Free what the engine holds. It cannot complete anything afterwards."""
