"""What a token adds to a text is remembered: decoding again would take most of the time of finding steps."""

import pytest

from antiphase.steps import places
from antiphase.steps.places import place_tokens
from conftest import byte_tokenizer

TEXT = "One step. Then ½ of another step; and a third."


@pytest.fixture
def decoded(monkeypatch):
    """The rows of token ids that the tokenizer decoded."""
    rows, decode = [], places._decode
    monkeypatch.setattr(places, "_decode", lambda some, tokenizer: rows.extend(some) or decode(some, tokenizer))
    return rows


def same(left, right):
    return left.text == right.text and left.starts.tolist() == right.starts.tolist()


def test_nothing_is_decoded_twice(decoded):
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT).input_ids
    first = place_tokens(ids, tokenizer)
    assert first.text == TEXT
    assert len(decoded) == len({tuple(row) for row in decoded}) > 20
    decoded.clear()
    assert same(place_tokens(ids, tokenizer), first)
    assert not decoded
    # Only the pair that is new is decoded: the space before the first letter.
    place_tokens([*ids, *tokenizer(" O").input_ids], tokenizer)
    assert all(len(row) == 2 for row in decoded)
    assert len(decoded) <= 2


def test_each_tokenizer_has_its_own_texts(decoded):
    one, other = byte_tokenizer(), byte_tokenizer()
    other.add_tokens(["step"])
    ids = one(TEXT).input_ids
    place_tokens(ids, one)
    decoded.clear()
    assert same(place_tokens(ids, other), place_tokens(ids, one))
    assert len(decoded) > 20


def test_a_tokenizer_with_more_tokens_is_read_anew(decoded):
    tokenizer = byte_tokenizer()
    place_tokens(tokenizer(TEXT).input_ids, tokenizer)
    tokenizer.add_tokens(["another"])
    decoded.clear()
    ids = tokenizer(TEXT).input_ids
    assert place_tokens(ids, tokenizer).text == TEXT
    assert [ids[0]] in decoded


def test_the_memory_is_bounded(decoded, monkeypatch):
    monkeypatch.setattr(places, "_MOST_PAIRS", 10)
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT).input_ids
    first = place_tokens(ids, tokenizer)
    decoded.clear()
    assert same(place_tokens(ids, tokenizer), first)
    assert decoded
    assert len(places._KNOWN[tokenizer].added) <= len(ids)
