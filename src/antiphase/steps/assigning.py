"""Find the step (such as the sentence) of every token of a completion (docs/method.md).

A step is a part of a completion: some tokens one after another. The steps of a completion are numbered from 0.
"""

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
    """Return the number of the step (such as the sentence) of every token of a completion.

    The tokens are decoded into one text, and the splitter finds where the steps of the text begin. Then each token is
    assigned to a step:

    * A token belongs to the step of its first character that is not a space. So a space before a word belongs to the
      word. A token that contains the end of one step and the beginning of the next belongs to the earlier step.
    * A token of white space, or a token without text, belongs to the step of the token before it.
    * A special token ends a step, except with the splitter `regex`. Special tokens at the end of the completion belong
      to the last step.

    Our reading: a step ends between two tokens. The paper does not say where a token belongs that contains the end of
    one step and the beginning of the next.

    Args:
        token_ids: the token ids of the completion.
        tokenizer: a Hugging Face tokenizer.
        splitter: how to cut the text: a `Splitter`, or a name that `Splitter.parse` reads, such as `sentence`.

    Returns:
        The number of the step of each token. The first number is 0, and the numbers go up by 1 from step to step.

    Raises:
        InvalidInputError: there is no such splitter, or its pattern takes too long on this text.
    """
    splitter = _splitter(splitter)
    return _steps([int(token) for token in token_ids], tokenizer, splitter, pauses=())


def batch_steps(batch: TokenBatch, tokenizer: Any, splitter: Splitter | str) -> Int[Tensor, "batch token"]:
    """Return the number of the step (such as the sentence) of every completion token; −1 at all other positions.

    The steps of each rollout are counted from 0.

    A completion may contain tokens that the model did not write, such as the answer of a tool. A blank line takes
    their place when the text is cut.

    Args:
        batch: the rollouts.
        tokenizer: a Hugging Face tokenizer.
        splitter: how to cut the text: a `Splitter`, or a name that `Splitter.parse` reads, such as `sentence`.

    Raises:
        InvalidInputError: there is no such splitter, or its pattern takes too long on a text.
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
    """Return the indices of the generated tokens that stand directly after text that the model did not write.

    Args:
        places: the columns of a rollout's generated tokens, ascending. A gap between two of these columns is text that
            the model did not write.
    """
    pauses: list[int] = (torch.nonzero(places.diff() > 1).flatten() + 1).tolist()
    return pauses


def _splitter(given: Splitter | str) -> Splitter:
    """Return the splitter that has the given name. A `Splitter` is returned unchanged."""
    return given if isinstance(given, Splitter) else Splitter.parse(given)


def _steps(token_ids: list[int], tokenizer: Any, splitter: Splitter, pauses: Sequence[int]) -> list[int]:
    """Return the number of the step (such as the sentence) of every token of a completion.

    Args:
        token_ids: the token ids.
        tokenizer: a Hugging Face tokenizer.
        splitter: the rule that cuts the text into steps.
        pauses: the indices of tokens before which a blank line is put into the text.
    """
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
    """Return the number of the step (such as the sentence) of every token of a completion.

    Args:
        placed: the text of the completion, and the offsets of each token in it.
        is_special: for each token, whether it is a special token.
        splitter: the rule that cuts the text into steps.
    """
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
    """Return the text of a completion with line breaks in place of special tokens. Tags such as `<think>` stay.

    Args:
        placed: the text, and the offsets of each token in it.
        is_special: for each token, whether it is a special token.
    """
    parts, place = [], 0
    for start, end in zip(placed.starts[is_special].tolist(), placed.ends[is_special].tolist(), strict=True):
        if not TAG.fullmatch(placed.text[start:end].strip()):
            parts += [placed.text[place:start], "\n" * (end - start)]
            place = end
    return "".join([*parts, placed.text[place:]])


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, without the token for unknown words.

    The token for unknown words stands for text that the vocabulary does not cover, so it counts as text. But if the
    tokenizer also uses it to begin, end or pad a text, it is special.
    """
    added = (token for token, content in tokenizer.added_tokens_decoder.items() if content.special)
    special = frozenset([*tokenizer.all_special_ids, *added])
    marks = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return special if tokenizer.unk_token_id in marks else special - {tokenizer.unk_token_id}
