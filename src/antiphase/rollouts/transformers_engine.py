"""The engine `transformers`: generates one padded batch at a time with `sampling.generate`, on any device.

The seed of a rollout determines its completion. A batch takes as long as its longest completion.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Completion, Generator
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling


class TransformersGenerator(Generator):
    """Engine that generates completions with a loaded model, one padded batch at a time.

    Args:
        loaded: the model and its tokenizer.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.
    """

    name = "transformers"

    def __init__(self, loaded: LoadedModel, end_ids: Sequence[int] = ()) -> None:
        self._loaded, self._end_ids = loaded, tuple(end_ids)
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

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
            prompt_ids: the token ids of the prompts.
            sampling: the sampling options.
            seeds: the seed of each rollout, a number below 2⁶³; see `rollout_seeds`.
            tick: function for a progress bar. It is called after every generated position, with 1 / `max_new_tokens`.

        Raises:
            OutOfMemoryError: the batch does not fit into memory.
            NonFiniteError: the model's probabilities contain NaN or infinity.
        """
        if not prompt_ids:
            return []
        step = 1 / sampling.max_new_tokens
        rows = generate(self._loaded, prompt_ids, sampling, seeds, end_ids=self._end_ids, tick=lambda: tick(step))
        return [Completion(tuple(ids), finish) for ids, finish in rows]


def make(loaded: LoadedModel | None, *, end_ids: Sequence[int] = (), vllm: Any = None) -> Generator:
    """Return the engine `transformers` for a loaded model. `vllm` is ignored.

    Raises:
        InvalidInputError: `loaded` is None.
    """
    if loaded is None:
        raise InvalidInputError("the engine 'transformers' needs a loaded model; got none.")
    return TransformersGenerator(loaded, end_ids)
