"""The most probable next tokens at a position: what the model could have said instead.

They come from the same log-probabilities as the entropy, one chunk of logits at a time, so no `[batch, token, vocab]`
tensor exists. They do not depend on the tokens that the rollout contains.
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
    """The most probable tokens of each distribution, in descending order; equally probable tokens by ascending id.

    Args:
        log_p: log-probabilities.
        num_alternatives: how many tokens are kept of each distribution.

    Returns:
        Ids and log-probabilities `[target, rank]`. The log-probabilities are bitwise those of `log_p`. A token of
        probability zero (log-probability −inf) comes last.

    Raises:
        InvalidInputError: more alternatives are asked for than the vocabulary has tokens.

    Cost: one `topk`. Rows in which several tokens share the last rank (common with bf16 logits) need a second one.

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
    # `topk` does not fix the order of equal values, so tokens are sorted by id first, and then stably by value.
    token_ids = token_ids.sort(-1).values
    values, order = log_p.gather(-1, token_ids).sort(dim=-1, descending=True, stable=True)
    return Alternatives(token_ids.gather(-1, order), values)


def joined(parts: Sequence[Alternatives]) -> Alternatives | None:
    """Join the alternatives of successive targets; None if there are none."""
    if not parts:
        return None
    return Alternatives(torch.cat([p.token_ids for p in parts]), torch.cat([p.logprobs for p in parts]))


def _lowest_ids(log_p: Tensor, values: Tensor, token_ids: Tensor) -> Tensor:
    """The same ids, except that of all tokens as probable as the last one, those with the lowest ids are taken."""
    last = values[:, -1:]
    everyone = torch.arange(log_p.shape[-1], device=log_p.device)
    num_alternatives = values.shape[-1]
    equal = everyone.where(log_p == last, log_p.shape[-1]).topk(num_alternatives, largest=False).values
    place = torch.arange(num_alternatives, device=log_p.device) - (values > last).sum(-1, keepdim=True)
    return token_ids.where(place < 0, equal.gather(-1, place.clamp_min(0)))
