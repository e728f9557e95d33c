"""What every completion engine offers: prompts in, completions out, and what fixes the draw.

An engine keeps the checkpoint's generation defaults out (top-k, penalties), returns the completions in the order of
the prompts, each up to and including its end token, and leaves the caller's random state as it was.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from antiphase.rollouts.sampling_spec import Finish, Sampling


@dataclass(frozen=True)
class Completion:
    """A completion.

    Args:
        ids: up to and including the end token, if it finished with one.
        finish: `stop` with an end token, `length` without.
    """

    ids: tuple[int, ...]
    finish: Finish


class Generator(ABC):
    """An engine that completes prompts.

    Attributes:
        name: `transformers` or `vllm`.
        versions: of the packages that draw the tokens.
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
            prompt_ids: one row per completion wanted (repeat a prompt to sample it again).
            sampling: see there.
            batch_number: of this batch in the run; part of the seed.
            tick: called as the batch advances, with the fraction of it that has finished since the last call.

        Raises:
            InvalidInputError: a prompt or a setting that the engine cannot take.
            OutOfMemoryError: lower the batch size or `max_new_tokens`.
        """

    def close(self) -> None:  # noqa: B027  # most engines hold nothing
        """Free what the engine holds; it completes nothing after this."""
