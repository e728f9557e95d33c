"""Find the most probable next tokens at each position (the alternatives to the generated token).

They are found in the logits that also give the entropy, for a few positions and a part of the vocabulary at a time. So
there is never a tensor `[batch, token, vocab]`. The generated token itself does not matter, and may be among the
alternatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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
    check_alternatives(num_alternatives, log_p.shape[-1])
    places = _best_places(log_p, num_alternatives)
    return in_order(places, log_p.gather(-1, places))


def in_order(token_ids: Int[Tensor, "target rank"], logprobs: Float[Tensor, "target rank"]) -> Alternatives:
    """Sort alternatives by descending log-probability.

    The arguments must be sorted by ascending id. Equally probable tokens keep this order.
    """
    values, order = logprobs.sort(dim=-1, descending=True, stable=True)
    return Alternatives(token_ids.gather(-1, order), values)


@dataclass(frozen=True)
class Candidates:
    """The tokens with the greatest logits in a part of the vocabulary, for each target (generated token).

    Args:
        token_ids: the ids of these tokens, ascending for each target.
        logits: the logits of these tokens, in float32 or wider.
    """

    token_ids: Int[Tensor, "target rank"]
    logits: Float[Tensor, "target rank"]

    @staticmethod
    def of(logits: Tensor, number: int, first: int = 0, before: "Candidates | None" = None) -> "Candidates":
        """Return the tokens with the greatest logits in one tile and in all tiles before it.

        A tile holds the logits of some consecutive tokens of the vocabulary.

        Args:
            logits: the tile, `[target, part of the vocabulary]`.
            number: how many tokens are returned for each target. If there are fewer tokens, all are returned.
            first: the id of the first token of the tile.
            before: the result of this function for the tile before this one; None for the first tile.
        """
        places = _best_places(logits, min(number, logits.shape[-1]))
        values = logits.gather(-1, places).to(torch.promote_types(logits.dtype, torch.float32))
        if before is None:
            return Candidates(places + first, values)
        token_ids = torch.cat([before.token_ids, places + first], -1)
        values = torch.cat([before.logits, values], -1)
        places = _best_places(values, min(number, values.shape[-1]))
        return Candidates(token_ids.gather(-1, places), values.gather(-1, places))

    @staticmethod
    def joined(parts: "Sequence[Candidates]") -> "Candidates | None":
        """Concatenate the candidates of successive targets (generated tokens); None if the list is empty."""
        if not parts:
            return None
        return Candidates(torch.cat([p.token_ids for p in parts]), torch.cat([p.logits for p in parts]))


def joined(parts: Sequence[Alternatives]) -> Alternatives | None:
    """Concatenate the alternatives of successive targets (generated tokens); None if the list is empty."""
    if not parts:
        return None
    return Alternatives(torch.cat([p.token_ids for p in parts]), torch.cat([p.logprobs for p in parts]))


def _best_places(values: Tensor, number: int) -> Tensor:
    """Return the column indices of the greatest values in each row, in ascending order.

    If equal values compete for the last index, the lowest indices are taken.
    """
    size = values.shape[-1]
    best, places = values.topk(min(number + 1, size))
    if number < size:
        shared = best[:, number - 1] == best[:, number]
        best, places = best[:, :number], places[:, :number].clone()
        if bool(shared.any()):
            places[shared] = _lowest_ids(values[shared], best[shared], places[shared])
    # `topk` returns equal values in any order.
    return places.sort(-1).values


def _lowest_ids(log_p: Tensor, values: Tensor, token_ids: Tensor) -> Tensor:
    """Return the ids of the most probable tokens, and choose the lowest ids among equally probable tokens.

    `topk` has returned `token_ids`. If other tokens are as probable as the last of these, `topk` chooses any of them.

    Args:
        log_p: the logits or log-probabilities of all tokens, `[row, vocab]`.
        values: the greatest values in each row of `log_p`, in descending order, `[row, rank]`.
        token_ids: the ids of the tokens with these values, `[row, rank]`.
    """
    last = values[:, -1:]
    everyone = torch.arange(log_p.shape[-1], device=log_p.device)
    num_alternatives = values.shape[-1]
    equal = everyone.where(log_p == last, log_p.shape[-1]).topk(num_alternatives, largest=False).values
    place = torch.arange(num_alternatives, device=log_p.device) - (values > last).sum(-1, keepdim=True)
    # In a row with NaN, there may be fewer equal values than ranks. Such a row raises an error later.
    equal = equal.clamp_max(log_p.shape[-1] - 1)
    return token_ids.where(place < 0, equal.gather(-1, place.clamp_min(0)))
