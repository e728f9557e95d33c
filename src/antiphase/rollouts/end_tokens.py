"""Find the tokens that end a completion. Probe, evaluation, held-out problems, vLLM and training use the same rule."""

from collections.abc import Sequence
from typing import Any


def end_token_union(generation_config: Any, tokenizer: Any, extra: Sequence[int] = ()) -> list[int]:
    """Return the ids of all end tokens: those of the generation config, the tokenizer's and `extra`, each once.

    Chat models often name the token that ends a turn in the generation config and the token that ends a text in the
    tokenizer, or the other way round. TRL's trainer ends completions at the same tokens.

    Args:
        generation_config: the model's generation config, whose `eos_token_id` is None, a number or a list; or None.
        tokenizer: the model's tokenizer, whose `eos_token_id` may be None.
        extra: token ids that a user adds.
    """
    named = getattr(generation_config, "eos_token_id", None)
    own = [] if named is None else named if isinstance(named, list | tuple) else [named]
    last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys(int(end) for end in (*own, *last, *extra)))
