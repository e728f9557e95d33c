"""Finds the tokens that end a completion, in the same way for probes, evaluations, trainings and all engines."""

from collections.abc import Sequence
from typing import Any


def end_token_union(generation_config: Any, tokenizer: Any, extra: Sequence[int] = ()) -> list[int]:
    """Return the ids of all end tokens, each once: those of the generation config, of the tokenizer and in `extra`.

    A chat model has two end tokens: one ends a turn, the other ends a text. Often the generation config names one of
    them, and the tokenizer names the other. TRL's trainer ends completions at the same tokens.

    Args:
        generation_config: the model's generation config, whose `eos_token_id` is None, a number or a list; or None.
        tokenizer: the model's tokenizer, whose `eos_token_id` may be None.
        extra: token ids that a user adds.
    """
    named = getattr(generation_config, "eos_token_id", None)
    own = [] if named is None else named if isinstance(named, list | tuple) else [named]
    last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys(int(end) for end in (*own, *last, *extra)))
