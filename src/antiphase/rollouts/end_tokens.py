"""The tokens that end a completion, by one rule for probe, evaluation, held-out problems, vLLM and training."""

from collections.abc import Sequence
from typing import Any


def end_token_union(generation_config: Any, tokenizer: Any, extra: Sequence[int] = ()) -> list[int]:
    """Return the end tokens of the generation config, then the tokenizer's, then `extra`; each once.

    TRL's trainer ends completions at the same union. Chat models often name the end of a turn in one of the two places
    and the end of a text in the other.

    Args:
        generation_config: the model's generation config, whose `eos_token_id` is None, a number or a list; or None.
        tokenizer: the model's tokenizer, whose `eos_token_id` may be None.
        extra: token ids that a user adds.
    """
    named = getattr(generation_config, "eos_token_id", None)
    own = [] if named is None else named if isinstance(named, list | tuple) else [named]
    last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys(int(end) for end in (*own, *last, *extra)))
