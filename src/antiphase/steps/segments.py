"""Find the segment of every token of a completion: its thought or its answer (docs/steps.md).

`thoughts` cuts the text of a completion where its thought ends. Here the same cut is made between tokens. So the two
segments can be correlated apart, and steps can be cut inside each of them. Nothing here measures a signal.
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
from antiphase.steps.thoughts import TAGS, opened_in_prompt, spoken, with_opening
from antiphase.types import TokenBatch

Tags = Sequence[tuple[str, str]]


def token_segments(
    completion_ids: Sequence[int], tokenizer: Any, prompt_ids: Sequence[int] = (), tags: Tags = TAGS
) -> list[Part]:
    """Return the segment of every token of a completion, `thought` or `answer`, by the rule of `spoken`.

    The thought runs from the beginning of the completion to the end of the last closing tag, tags included. A thought
    that was begun and not ended is all thought. The prompt may have begun it. A completion without tags is all answer.
    Special tokens that are no tags are read as spaces.

    A token belongs to the segment of its first character that is no space. So a token that holds the end of the
    closing tag and the beginning of the answer belongs to the thought. A token of white space, or without text, joins
    the segment of the token before it. So does a special token that is no tag.

    Our reading: the paper correlates the reasoning sentences of a rollout. It does not say whether those of the answer
    are among them, nor where its models' thoughts end.

    Args:
        completion_ids: the token ids of the completion.
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt, whose template may open the thought.
        tags: what opens and what closes a thought.

    Returns:
        One name for each token: first the thought's tokens, then the answer's. The time is linear in their number.
    """
    ids = [int(token) for token in completion_ids]
    count = _num_thought(ids, tokenizer, prompt_ids, tags, pauses=())
    return [PARTS[0]] * count + [PARTS[1]] * (len(ids) - count)


def batch_segments(batch: TokenBatch, tokenizer: Any, tags: Tags = TAGS) -> Int[Tensor, "batch token"]:
    """Return the segment of every completion token of a batch.

    The prompt of a row is what stands before its first completion token. Tokens that the model did not write, such as
    a tool's answer, are replaced by a blank line in the text.

    Args:
        batch: the rollouts.
        tokenizer: the model's tokenizer.
        tags: what opens and what closes a thought.

    Returns:
        0 at a token of the thought, 1 at a token of the answer, and −1 at all other places.
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
    """Return the batch with only the tokens of one segment to measure; `all` changes nothing.

    Args:
        batch: the rollouts.
        segments: their segments, as `batch_segments` gives them.
        segment: `thought`, `answer` or `all`. A rollout without a token in it then has nothing to measure.
    """
    if segment == "all":
        return batch
    return dataclasses.replace(batch, completion_mask=batch.completion_mask & (segments == PARTS.index(segment)))


def measured_batch(batch: TokenBatch, tokenizer: Any, segment: Segment, tags: Tags = TAGS) -> TokenBatch:
    """Find the segments of a batch, and return the batch with only one of them to measure; `all` changes nothing.

    Args:
        batch: the rollouts.
        tokenizer: the model's tokenizer.
        segment: `thought`, `answer` or `all`.
        tags: what opens and what closes a thought.
    """
    return batch if segment == "all" else segment_batch(batch, batch_segments(batch, tokenizer, tags), segment)


def segment_steps(
    batch: TokenBatch, segments: Int[Tensor, "batch token"], tokenizer: Any, splitter: Splitter
) -> Int[Tensor, "batch token"]:
    """Return the step of every completion token, where no step has tokens of both segments.

    The steps of the thought come first. Those of the answer are cut as if the answer stood alone, and their numbers
    continue.

    Args:
        batch: the rollouts.
        segments: their segments, as `batch_segments` gives them.
        tokenizer: the model's tokenizer.
        splitter: how to cut each segment.
    """
    thought, answer = (batch_steps(segment_batch(batch, segments, part), tokenizer, splitter) for part in PARTS)
    first = thought.amax(1, keepdim=True) + 1
    return torch.where(answer >= 0, answer + first, thought)


def _num_thought(ids: list[int], tokenizer: Any, prompt_ids: Sequence[int], tags: Tags, pauses: Sequence[int]) -> int:
    """The number of tokens of the thought, which are the first ones."""
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
    """The text with spaces in place of special tokens, except those that make up a tag."""
    text, special = placed.text, special_ids(tokenizer)
    numbers = [number for number, token in enumerate(ids) if token in special]
    if not numbers:
        return text
    in_tag = np.zeros(len(text), dtype=bool)
    for found in re.finditer("|".join(re.escape(tag) for pair in tags for tag in pair), text):
        in_tag[found.start() : found.end()] = True
    parts, place = [], 0
    for number in numbers:
        start, end = int(placed.starts[number]), int(placed.ends[number])
        if not in_tag[start:end].any():
            parts += [text[place:start], " " * (end - start)]
            place = end
    return "".join([*parts, text[place:]])
