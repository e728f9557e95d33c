"""Find the most probable next tokens at each position (the alternatives to the generated token).

They are found in the log-probabilities that also give the entropy, for a few positions at a time. So there is never a
tensor `[batch, token, vocab]`. The generated token itself does not matter, and may be among the alternatives.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.types import Alternatives


def check_alternatives(num_alternatives: int, vocabulary: int) -> None:
    """Raise InvalidInputError if more alternatives are asked for than the vocabulary has tokens."""
    if num_alternatives > vocabulary:
        raise InvalidInputError(
            f"{num_alternatives} alternatives were asked for, but the model's vocabulary has {vocabulary} tokens. "
            "Lower num_alternatives (--alternatives)."
        )


def top_alternatives(log_p: Float[Tensor, "target vocab"], num_alternatives: int) -> Alternatives:
    """Return the most probable tokens of each distribution, the most probable first.

    Equally probable tokens are sorted by ascending id.

    Args:
        log_p: the log-probabilities of all tokens of the vocabulary.
        num_alternatives: how many tokens are returned for each distribution.

    Returns:
        Ids and log-probabilities `[target, rank]`. The log-probabilities are bitwise those of `log_p`. A token of
        probability zero (log-probability −inf) comes last.

    Raises:
        InvalidInputError: more alternatives are asked for than the vocabulary has tokens.

    Cost: one `topk`. A second one is needed for rows in which equally probable tokens compete for the last rank. Such
    rows are common with bf16 logits.

    >>> top = top_alternatives(torch.tensor([[0.2, 0.3, 0.2, 0.3]]).log(), 3)
    >>> top.token_ids.tolist()
    [[1, 3, 0]]
    """
    vocabulary = log_p.shape[-1]
    check_alternatives(num_alternatives, vocabulary)
    values, token_ids = log_p.topk(min(num_alternatives + 1, vocabulary))
    if num_alternatives < vocabulary:
        shared = values[:, num_alternatives - 1] == values[:, num_alternatives]
        values, token_ids = values[:, :num_alternatives], token_ids[:, :num_alternatives].clone()
        if bool(shared.any()):
            token_ids[shared] = _lowest_ids(log_p[shared], values[shared], token_ids[shared])
    # `topk` returns equal values in any order. So tokens are sorted by id first, and then stably by value.
    token_ids = token_ids.sort(-1).values
    values, order = log_p.gather(-1, token_ids).sort(dim=-1, descending=True, stable=True)
    return Alternatives(token_ids.gather(-1, order), values)


def joined(parts: Sequence[Alternatives]) -> Alternatives | None:
    """Concatenate the alternatives of successive targets; None if the list is empty."""
    if not parts:
        return None
    return Alternatives(torch.cat([p.token_ids for p in parts]), torch.cat([p.logprobs for p in parts]))


def _lowest_ids(log_p: Tensor, values: Tensor, token_ids: Tensor) -> Tensor:
    """Return the ids, but with the lowest possible ids among the tokens that are as probable as the last one.

    Args:
        log_p: the log-probabilities of all tokens, `[row, vocab]`.
        values: the greatest log-probabilities, in descending order, `[row, rank]`.
        token_ids: the ids that belong to `values`, `[row, rank]`.
    """
    last = values[:, -1:]
    everyone = torch.arange(log_p.shape[-1], device=log_p.device)
    num_alternatives = values.shape[-1]
    equal = everyone.where(log_p == last, log_p.shape[-1]).topk(num_alternatives, largest=False).values
    place = torch.arange(num_alternatives, device=log_p.device) - (values > last).sum(-1, keepdim=True)
    return token_ids.where(place < 0, equal.gather(-1, place.clamp_min(0)))
