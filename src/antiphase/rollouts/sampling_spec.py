"""The sampling options and the seeds of rollouts, which are the same for all engines. This module imports no torch."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from antiphase.errors import InvalidInputError

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """The options with which completions are sampled.

    Top-k and penalties are never applied, even if the checkpoint's generation config sets them.

    Args:
        max_new_tokens: the greatest number of generated tokens.
        temperature: the number that divides the logits; 0 means greedy decoding.
        top_p: the total probability of the tokens that nucleus sampling keeps; 1 keeps all tokens.
        seed: seed of the run. The seed of each rollout is made from it; see `rollout_seeds`.
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


def rollout_seeds(seed: int, prompt_ids: Sequence[Sequence[int]]) -> list[int]:
    """Return the seed of each rollout, a number below 2⁶³.

    The seed of a rollout is a hash of three things: the seed of the run, the token ids of the prompt, and how often
    the same prompt comes earlier in the list.

    Args:
        seed: the seed of the run.
        prompt_ids: the token ids of the prompt of each rollout, in the order of the run.

    >>> a, b, c = rollout_seeds(0, [[5, 6], [5, 6], [7]])
    >>> [a, b] == rollout_seeds(0, [[5, 6], [5, 6]]), [c, a] == rollout_seeds(0, [[7], [5, 6]])
    (True, True)
    """
    earlier: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for ids in map(tuple, prompt_ids):
        text = f"{seed}/{earlier[ids]}/{','.join(map(str, ids))}"
        seeds.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1)
        earlier[ids] += 1
    return seeds
