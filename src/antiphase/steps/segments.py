"""Find the segment of every token of a completion: the thought or the answer (docs/steps.md).

`thoughts` cuts the text of a completion into a thought and an answer. This module makes the same cut between tokens.
Then ρ can be computed over one segment alone, and each segment can be cut into steps. Nothing here measures a signal.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from antiphase.signal_spec import PARTS, Part, Segment
from antiphase.steps.assigning import batch_steps, pauses_of, special_ids
from antiphase.steps.places import PlacedTokens, place_tokens
from antiphase.steps.splitter import Splitter
from antiphase.steps.thoughts import TAGS, either_tag, opened_in_prompt, spoken, with_opening
from antiphase.types import TokenBatch

Tags = Sequence[tuple[str, str]]


def token_segments(
    completion_ids: Sequence[int], tokenizer: Any, prompt_ids: Sequence[int] = (), tags: Tags = TAGS
) -> list[Part]:
    """Return the segment of every token of a completion, `thought` or `answer`.

    The thought is everything up to and including the closing tag that `thoughts.spoken` finds. If the completion or
    the prompt begins a thought, and no closing tag ends it, every token belongs to the thought. If there are no tags,
    every token belongs to the answer. A special token that is not a tag is read as spaces.

    A token belongs to the segment of its first character that is not a space. For example, a token that contains the
    end of the closing tag and the beginning of the answer belongs to the thought. A token of white space, a token
    without text and a special token that is not a tag belong to the segment of the token before them.

    Our reading: the paper correlates the reasoning sentences of a rollout. It does not say whether the sentences of
    the answer are among them, nor where the thoughts of its models end.

    Args:
        completion_ids: the token ids of the completion.
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt, whose template may open the thought.
        tags: pairs of an opening and a closing tag.

    Returns:
        `thought` or `answer` for each token. The tokens of the thought come first. The time is linear in the number of
        tokens.
    """
    ids = [int(token) for token in completion_ids]
    count = _num_thought(ids, tokenizer, prompt_ids, tags, pauses=())
    return [PARTS[0]] * count + [PARTS[1]] * (len(ids) - count)


def batch_segments(batch: TokenBatch, tokenizer: Any, tags: Tags = TAGS) -> Int[Tensor, "batch token"]:
    """Return the segment, thought or answer, of every completion token of a batch.

    The prompt of a row consists of the tokens before its first completion token. Later tokens that the model did not
    write, such as a tool's answer, are read as a blank line.

    Args:
        batch: the rollouts.
        tokenizer: the model's tokenizer.
        tags: pairs of an opening and a closing tag.

    Returns:
        0 at a token of the thought, 1 at a token of the answer, and −1 at every other position.
    """
    segments = torch.full(batch.input_ids.shape, -1, dtype=torch.long)
    wanted, real = batch.completion_mask.cpu(), batch.attention_mask.cpu()
    for row, ids in enumerate(batch.input_ids.cpu()):
        places = torch.nonzero(wanted[row]).flatten()
        if len(places):
            start = int(places[0])
            prompt = ids[:start][real[row, :start]].tolist()
            count = _num_thought(ids[places].tolist(), tokenizer, prompt, tags, pauses_of(places))
            segments[row, places] = (torch.arange(len(places)) >= count).long()
    return segments.to(batch.input_ids.device)


def segment_batch(batch: TokenBatch, segments: Int[Tensor, "batch token"], segment: Segment) -> TokenBatch:
    """Return the batch with a completion mask that covers only one segment: the thought or the answer.

    The other tokens are then not measured.

    Args:
        batch: the rollouts.
        segments: the segment of every token, as `batch_segments` returns them.
        segment: `thought` or `answer`; `all` returns the batch unchanged. If a rollout has no token of the segment,
            nothing of this rollout is measured.
    """
    if segment == "all":
        return batch
    return dataclasses.replace(batch, completion_mask=batch.completion_mask & (segments == PARTS.index(segment)))


def measured_batch(batch: TokenBatch, tokenizer: Any, segment: Segment, tags: Tags = TAGS) -> TokenBatch:
    """Return the batch with a completion mask that covers only the thought, or only the answer, of each completion.

    Args:
        batch: the rollouts.
        tokenizer: the model's tokenizer.
        segment: `thought` or `answer`; `all` returns the batch unchanged.
        tags: pairs of an opening and a closing tag.
    """
    return batch if segment == "all" else segment_batch(batch, batch_segments(batch, tokenizer, tags), segment)


def segment_steps(
    batch: TokenBatch, segments: Int[Tensor, "batch token"], tokenizer: Any, splitter: Splitter
) -> Int[Tensor, "batch token"]:
    """Return the number of the step (such as the sentence) of every completion token; −1 at all other positions.

    The thought and the answer are cut separately, so no step contains tokens of both. The numbers of the answer's
    steps follow those of the thought.

    Args:
        batch: the rollouts.
        segments: the segment of every token, as `batch_segments` returns them.
        tokenizer: the model's tokenizer.
        splitter: the rule that cuts a text into steps.
    """
    thought, answer = (batch_steps(segment_batch(batch, segments, part), tokenizer, splitter) for part in PARTS)
    first = thought.amax(1, keepdim=True) + 1
    return torch.where(answer >= 0, answer + first, thought)


def _num_thought(ids: list[int], tokenizer: Any, prompt_ids: Sequence[int], tags: Tags, pauses: Sequence[int]) -> int:
    """Return how many tokens at the beginning of a completion belong to the thought.

    Args:
        ids: the token ids of the completion.
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt, whose template may open the thought.
        tags: pairs of an opening and a closing tag.
        pauses: the indices of tokens that come after text that the model did not write, such as a tool's answer. A
            blank line is read in place of this text.
    """
    if not ids:
        return 0
    placed = place_tokens(ids, tokenizer, pauses)
    text = _with_tags(placed, ids, tokenizer, tags)
    whole = with_opening(text, opened_in_prompt(tokenizer, prompt_ids, tags) or "", tags)
    cut = spoken(whole, tags)
    if cut.answer is None:
        return len(ids)
    end = len(cut.thought) - (len(whole) - len(text))
    if end <= 0:
        return 0
    first = placed.first_solid(text)
    of_answer = np.flatnonzero((first >= end) & (first < len(text)))
    return int(of_answer[0]) if len(of_answer) else len(ids)


def _with_tags(placed: PlacedTokens, ids: Sequence[int], tokenizer: Any, tags: Tags) -> str:
    """Return the text of a completion with spaces in place of special tokens. Tags of a thought stay.

    Args:
        placed: the text, and the offsets of each token in it.
        ids: the token ids.
        tokenizer: the model's tokenizer.
        tags: pairs of an opening and a closing tag.
    """
    text, special = placed.text, special_ids(tokenizer)
    numbers = [number for number, token in enumerate(ids) if token in special]
    if not numbers:
        return text
    in_tag = np.zeros(len(text), dtype=bool)
    for found in re.finditer(either_tag(tags), text):
        in_tag[found.start() : found.end()] = True
    parts, place = [], 0
    for number in numbers:
        start, end = int(placed.starts[number]), int(placed.ends[number])
        if not in_tag[start:end].any():
            parts += [text[place:start], " " * (end - start)]
            place = end
    return "".join([*parts, text[place:]])
