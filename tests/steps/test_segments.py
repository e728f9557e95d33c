"""Segments: which tokens of a completion are its thought, and which are its answer, under tokenizers of every kind."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphase.steps import Splitter
from antiphase.steps.assigning import token_steps
from antiphase.steps.places import place_tokens
from antiphase.steps.segments import batch_segments, measured_batch, segment_batch, segment_steps, token_segments
from antiphase.steps.thoughts import completion_text, spoken
from antiphase.types import TokenBatch
from conftest import byte_tokenizer
from step_cases import tokenizer

ATOMS = ("<think>", "</think>", "◁think▷", "◁/think▷", "<", "/think>", " ", "\n", "a", "B. ", "é", "中", "😀", "\x00")
texts = st.lists(st.sampled_from(ATOMS), max_size=30).map("".join)


def encoded(text, tok):
    return tok(text, add_special_tokens=False).input_ids


def parts(text, tok, prompt=""):
    """The texts of the two segments."""
    ids = encoded(text, tok)
    segments = token_segments(ids, tok, encoded(prompt, tok))
    count = segments.count("thought")
    assert segments == ["thought"] * count + ["answer"] * (len(ids) - count)
    return tok.decode(ids[:count]), tok.decode(ids[count:])


def with_special(*names):
    """The byte tokenizer with special tokens, one for each name."""
    tok = byte_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": list(names)})
    return tok


@pytest.mark.parametrize("kind", ["bytes", "byte-level BPE", "unigram", "characters"])
@pytest.mark.parametrize(
    ("thought", "answer"),
    [
        ("<think>ab c</think>\n\n", "The x"),
        ("<think>\n\n</think>", "No thought. So"),
        ("No tag opens it</think> ", "but one ends it"),
        ("Text <think>a</think> b\n<think>c</think>", "d"),
        ("<think>it never ends", ""),
        ("<think>a</think>b\n<think>and again", ""),
        ("<think>a</think>\n \n", ""),
        ("", "no tags"),
        ("", "it has <think> in a line"),
        ("", ""),
    ],
)
def test_texts_are_cut_as_by_hand(kind, thought, answer) -> None:
    assert parts(thought + answer, tokenizer(kind)) == (thought, answer)


def test_tags_of_several_characters_and_bytes() -> None:
    tok = byte_tokenizer()
    assert parts("◁think▷中◁/think▷ 中文", tok) == ("◁think▷中◁/think▷ ", "中文")
    assert parts("[THINK]a[/THINK]é", tok) == ("[THINK]a[/THINK]", "é")


def test_tags_that_are_special_tokens() -> None:
    tok = with_special("<think>", "</think>")
    assert parts("<think>ab</think>cd</s>", tok) == ("<think>ab</think>", "cd</s>")
    # A special token that is no tag is read as a space: it joins what stands before it, and hides no opening.
    assert parts("<think>ab</think></s>", tok) == ("<think>ab</think></s>", "")
    assert parts("<s><think>ab", tok) == ("<s><think>ab", "")
    assert parts("</s>", tok) == ("", "</s>")
    channels = with_special("<|channel|>", "<|message|>", "<|end|>")
    thought = "<|channel|>analysis<|message|>ab<|end|><|channel|>final<|message|>"
    assert parts(f"{thought}cd", channels) == (thought, "cd")
    assert completion_text(channels, encoded(f"{thought}cd", channels)).endswith("final<|message|>cd")


def test_a_prompt_may_have_opened_the_thought() -> None:
    tok = byte_tokenizer()
    assert parts("ab</think>cd", tok, "q<think>\n") == ("ab</think>", "cd")
    assert parts("it never ends", tok, "q<think>\n") == ("it never ends", "")
    assert parts("it has no thought", tok, "q<think>\n\n</think>\n\n") == ("", "it has no thought")
    assert parts("<think>ab</think>cd", tok, "q<think>") == ("<think>ab</think>", "cd")
    assert parts("</s>", with_special("<think>"), "<think>") == ("</s>", "")
    assert token_segments([], tok, encoded("<think>", tok)) == []


def test_a_token_on_the_border_belongs_to_the_thought() -> None:
    tok = byte_tokenizer()
    tok.add_tokens(["k>Go", "> T"])
    assert parts("<think>a</think>Go on", tok) == ("<think>a</think>Go ", "on")
    assert parts("<think>a</think> The", tok) == ("<think>a</think> T", "he")


def test_tags_of_ones_own() -> None:
    tok = byte_tokenizer()
    ids = encoded("<plan>a</plan>b", tok)
    assert token_segments(ids, tok).count("thought") == 0
    assert token_segments(ids, tok, tags=[("<plan>", "</plan>")]).count("thought") == len("<plan>a</plan>")


@pytest.mark.parametrize("kind", ["bytes", "characters"])
@given(text=texts)
def test_segments_are_contiguous_and_are_what_is_spoken(kind, text) -> None:
    tok = tokenizer(kind)
    ids = encoded(text, tok)
    segments = token_segments(ids, tok)
    count = segments.count("thought")
    assert segments == sorted(segments, reverse=True)
    placed = place_tokens(ids, tok)
    cut = spoken(placed.text)
    border = int(placed.ends[count - 1]) if count else 0
    if cut.answer is None or not cut.thought:
        assert border == (len(placed.text) if cut.answer is None else 0)
    else:
        # White space after the closing tag joins the thought.
        rest = cut.answer.lstrip()
        assert (placed.text[:border], placed.text[border:]) == (placed.text[: len(placed.text) - len(rest)], rest)


@pytest.mark.parametrize("kind", ["byte-level BPE", "unigram"])
@given(text=texts)
def test_no_token_of_the_answer_holds_text_of_the_thought(kind, text) -> None:
    tok = tokenizer(kind)
    ids = encoded(text, tok)
    count = token_segments(ids, tok).count("thought")
    placed = place_tokens(ids, tok)
    cut = spoken(placed.text)
    end = len(placed.text) if cut.answer is None else len(cut.thought)
    for start, stop in zip(placed.starts[count:], placed.ends[count:], strict=True):
        assert not placed.text[start : min(stop, end)].strip()
    if 0 < count < len(ids):
        # The first token of the answer begins it, if only behind white space.
        assert placed.text[placed.starts[count] : placed.ends[count]].strip()


ROLLOUTS = ("<think>One. Two.</think>\nIt is 5. Yes.", "Plain. No thought.", "Never ends. So", "")
PROMPTS = ("q", "q", "q<think>", "q")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_has_the_segments_of_its_rollouts(side) -> None:
    tok = byte_tokenizer()
    prompts, completions = [encoded(t, tok) for t in PROMPTS], [encoded(t, tok) for t in ROLLOUTS]
    batch = TokenBatch.from_ids(prompts, completions, padding_side=side)
    segments = batch_segments(batch, tok)
    assert torch.equal(segments >= 0, batch.completion_mask)
    for row, (prompt, ids) in enumerate(zip(prompts, completions, strict=True)):
        names = [("thought", "answer")[code] for code in segments[row][segments[row] >= 0].tolist()]
        assert names == token_segments(ids, tok, prompt)
    counts = [measured_batch(batch, tok, part).completion_mask.sum(1).tolist() for part in ("thought", "answer")]
    assert counts == [[25, 0, 14, 0], [13, 18, 0, 0]]
    assert measured_batch(batch, tok, "all") is batch


def test_what_a_tool_wrote_is_in_no_segment() -> None:
    tok = byte_tokenizer()
    texts = ["<think>a", "</think>tool", "b</think>c"]
    ids = [encoded(text, tok) for text in texts]
    marks = [int(place != 1) for place, row in enumerate(ids) for _ in row]
    batch = TokenBatch.from_ids([encoded("q", tok)], [[token for row in ids for token in row]], generated=[marks])
    (segments,) = batch_segments(batch, tok).tolist()
    assert segments == [-1, *[0] * 8, *[-1] * 12, *[0] * 9, 1]


def test_steps_are_cut_inside_each_segment() -> None:
    tok = byte_tokenizer()
    batch = TokenBatch.from_ids([encoded(t, tok) for t in PROMPTS], [encoded(t, tok) for t in ROLLOUTS])
    segments = batch_segments(batch, tok)
    for splitter in (Splitter(), Splitter.parse("fixed:6"), Splitter.parse("regex:5")):
        steps = segment_steps(batch, segments, tok, splitter)
        assert torch.equal(steps >= 0, batch.completion_mask)
        for row in range(len(batch)):
            found, first = [], 0
            for part in ("thought", "answer"):
                ids = batch.input_ids[row, segment_batch(batch, segments, part).completion_mask[row]].tolist()
                own = token_steps(ids, tok, splitter)
                found += [first + step for step in own]
                first = found[-1] + 1 if found else 0
            assert steps[row][steps[row] >= 0].tolist() == found
    # "fixed:6" begins anew with the answer: 25 tokens of thought are five steps.
    fixed = segment_steps(batch, segments, tok, Splitter.parse("fixed:6"))[0]
    assert fixed[segments[0] == 1].tolist() == [5] * 6 + [6] * 6 + [7]


def test_long_completions_take_little_time() -> None:
    tok = with_special("<think>", "</think>")
    for text in ("<think>a. </think>", "a", "\n<think>", "</think>", "< think"):
        ids = encoded(text * (20_000 // len(text)), tok)
        start = time.perf_counter()
        token_segments(ids, tok)
        assert time.perf_counter() - start < 2, text
