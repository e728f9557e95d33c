"""Find the step of every token: steps are contiguous and numbered from 0 (docs/method.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from antiphase.steps.places import PlacedTokens, place_tokens
from antiphase.steps.sentences import TAG
from antiphase.steps.splitter import Splitter
from antiphase.types import TokenBatch


def token_steps(token_ids: Sequence[int], tokenizer: Any, splitter: Splitter | str) -> list[int]:
    """The number of the step of every token of a completion.

    The text is decoded once and cut where the splitter says. A token belongs to the step of its first character that
    is no space. So a token that holds the end of one step and the beginning of the next belongs to the earlier step,
    the space before a word belongs to the word, and a token of white space, or without text, joins the step before it.
    Special tokens end a step, except with `regex`; at the end of the completion they join the last step.

    Our reading: steps end on token boundaries. The paper does not say to which step a token on a boundary belongs.

    Args:
        token_ids: the token ids of the completion.
        tokenizer: a Hugging Face tokenizer.
        splitter: how to cut the text, or the splitter's name, as `Splitter.parse` reads it.

    Returns:
        One number for each token: the first is 0, and each is equal to the one before it or greater by 1.

    Raises:
        InvalidInputError: there is no such splitter, or its pattern takes too long on this text.
    """
    splitter = _splitter(splitter)
    return _steps([int(token) for token in token_ids], tokenizer, splitter, pauses=())


def batch_steps(batch: TokenBatch, tokenizer: Any, splitter: Splitter | str) -> Int[Tensor, "batch token"]:
    """The step of every completion token of a batch, counted from 0 in each rollout; −1 at all other places.

    Tokens that the model did not write, such as a tool's answer, are replaced by a blank line in the text.
    """
    splitter = _splitter(splitter)
    steps = torch.full(batch.input_ids.shape, -1, dtype=torch.long)
    mask = batch.completion_mask.cpu()
    for row, ids in enumerate(batch.input_ids.cpu()):
        places = torch.nonzero(mask[row]).flatten()
        steps[row, places] = torch.tensor(
            _steps(ids[places].tolist(), tokenizer, splitter, pauses=pauses_of(places)), dtype=torch.long
        )
    return steps.to(batch.input_ids.device)


def pauses_of(places: Int[Tensor, "token"]) -> list[int]:
    """Return the indices of the tokens that do not stand directly after the one before them.

    Args:
        places: the columns of a rollout's generated tokens, ascending. Between two of them may stand a tool's answer.
    """
    pauses: list[int] = (torch.nonzero(places.diff() > 1).flatten() + 1).tolist()
    return pauses


def _splitter(given: Splitter | str) -> Splitter:
    return given if isinstance(given, Splitter) else Splitter.parse(given)


def _steps(token_ids: list[int], tokenizer: Any, splitter: Splitter, pauses: Sequence[int]) -> list[int]:
    if not token_ids:
        return []
    special = special_ids(tokenizer)
    if splitter.size is not None:
        written = [number for number, token in enumerate(token_ids) if token not in special]
        last = written[-1] if written else 0
        return [min(number, last) // splitter.size for number in range(len(token_ids))]
    placed = place_tokens(token_ids, tokenizer, pauses)
    if not placed.text:
        return [0] * len(token_ids)
    is_special = np.fromiter((token in special for token in token_ids), dtype=bool, count=len(token_ids))
    return _numbers(placed, is_special, splitter)


def _numbers(placed: PlacedTokens, is_special: NDArray[np.bool_], splitter: Splitter) -> list[int]:
    text = placed.text
    plain = _without_special(placed, is_special)
    size = len(text)
    begins = np.zeros(size, dtype=np.int64)
    begins[splitter.starts(text if splitter.kind == "regex" else plain)] = 1
    first = placed.first_solid(plain)
    of_characters = np.cumsum(begins)
    steps = np.maximum.accumulate(np.where(first < size, of_characters[np.minimum(first, size - 1)], 0))
    # A step has no tokens if all its characters stand in tokens of other steps. The other steps are renumbered.
    numbers: list[int] = np.unique(steps, return_inverse=True)[1].tolist()
    return numbers


def _without_special(placed: PlacedTokens, is_special: NDArray[np.bool_]) -> str:
    """The text with line breaks in place of special tokens, except tags such as `<think>`."""
    parts, place = [], 0
    for start, end in zip(placed.starts[is_special].tolist(), placed.ends[is_special].tolist(), strict=True):
        if not TAG.fullmatch(placed.text[start:end].strip()):
            parts += [placed.text[place:start], "\n" * (end - start)]
            place = end
    return "".join([*parts, placed.text[place:]])


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the special tokens, without the token for unknown words, which stands for text."""
    added = (token for token, content in tokenizer.added_tokens_decoder.items() if content.special)
    special = frozenset([*tokenizer.all_special_ids, *added])
    marks = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return special if tokenizer.unk_token_id in marks else special - {tokenizer.unk_token_id}
