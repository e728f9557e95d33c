"""The interface of the engines that generate completions.

Every engine keeps these rules. It ignores the checkpoint's generation defaults, such as top-k and penalties. It
returns the completions in the order of the prompts. A completion includes its end token. The caller's random state
does not change. docs/extend.md shows how to add an engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.rollouts.sampling_spec import Finish, Sampling


@dataclass(frozen=True)
class Completion:
    """A completion that an engine generated.

    Args:
        ids: the token ids, including the end token if there is one.
        finish: `stop` if the completion ended with an end token, `length` if it was cut at the length limit.
    """

    ids: tuple[int, ...]
    finish: Finish


class Generator(ABC):
    """An engine that generates completions.

    Attributes:
        name: the name of the engine, such as `transformers`.
        versions: a mapping from the name of each package that samples the tokens to its version.
        facts: further facts that a run stores about the engine, as values that JSON can hold.
    """

    name: str
    versions: Mapping[str, str]
    facts: Mapping[str, Any] = {}  # a default, which subclasses replace

    @abstractmethod
    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """Generate one completion for each prompt, and return the completions in the order of the prompts.

        Args:
            prompt_ids: the token ids of the prompts. A prompt that is given several times gets several completions.
            sampling: the sampling options.
            seeds: the seed of each rollout, a number below 2⁶³; see `rollout_seeds`.
            tick: function that is called while the batch is generated, for a progress bar. Its argument is the share
                of the batch that was generated since the last call; the shares add up to 1 at most.

        Raises:
            InvalidInputError: the engine cannot use a prompt or an option.
            OutOfMemoryError: the batch does not fit into memory; lower the batch size or `max_new_tokens`.
        """

    def keep_in(self, path: Path | None) -> None:  # noqa: B027  # most engines keep nothing
        """Let the next batch keep its finished rollouts in a file, so that a batch that fails loses little.

        Rollouts that the file contains already are read from it. Only the missing ones are generated, and each is
        added to the file when it is finished. Engines whose rollouts cost money or much time do this. Other engines
        ignore the call and keep nothing.

        Args:
            path: the file. None keeps nothing.
        """

    def close(self) -> None:  # noqa: B027  # most engines hold nothing
        """Free the memory that the engine holds. The engine cannot be used afterwards."""
