"""The engine `transformers`: completes a padded batch at a time with `sampling.generate`, on any device.

The seed and the batch's number fix the draw. A batch takes as long as its longest completion.
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
    """Completes with the loaded model, a padded batch at a time.

    Args:
        loaded: the model and its tokenizer.
        end_ids: tokens that end a completion besides the model's own end tokens.
    """

    name = "transformers"

    def __init__(self, loaded: LoadedModel, end_ids: Sequence[int] = ()) -> None:
        self._loaded, self._end_ids = loaded, tuple(end_ids)
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_number: int,
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """Complete the prompts with `generate`, which also lists the errors."""
        if not prompt_ids:
            return []
        step = 1 / sampling.max_new_tokens
        rows = generate(
            self._loaded, prompt_ids, sampling, batch_number, end_ids=self._end_ids, tick=lambda: tick(step)
        )
        return [Completion(tuple(ids), finish) for ids, finish in rows]


def make(loaded: LoadedModel | None, *, end_ids: Sequence[int] = (), vllm: Any = None) -> Generator:
    """The engine for a loaded model; `vllm` is ignored.

    Raises:
        InvalidInputError: there is no model.
    """
    if loaded is None:
        raise InvalidInputError("the engine 'transformers' completes with a loaded model; got none.")
    return TransformersGenerator(loaded, end_ids)
