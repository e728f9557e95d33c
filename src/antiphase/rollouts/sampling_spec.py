"""The sampling options, which are the same for all engines. This module imports no torch."""

from dataclasses import dataclass
from typing import Literal

from antiphase.errors import InvalidInputError

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """Sampling options.

    Top-k and penalties are never applied, even if the checkpoint's generation config sets them.

    Args:
        max_new_tokens: the greatest number of generated tokens.
        temperature: the number that divides the logits; 0 means greedy decoding.
        top_p: the probability of the nucleus in nucleus sampling; 1 samples from all tokens.
        seed: seed of the random generator. The seed of each batch is made from this one and the number of the batch.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}.")
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInputError(f"temperature must be 0 (greedy) or positive; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise InvalidInputError(f"top_p must lie in (0, 1]; got {self.top_p}.")
