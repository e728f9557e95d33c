"""How completions are drawn, whichever engine draws them. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from antiphase.errors import InvalidInputError

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        max_new_tokens: the greatest number of generated tokens.
        temperature: divides the logits; 0 is greedy decoding.
        top_p: the probability of the nucleus; 1 keeps all tokens. Top-k and penalties are never applied, whatever the
            checkpoint's defaults are.
        seed: fixes the draw, together with the batch's number.
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
