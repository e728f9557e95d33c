"""Columns as the page holds them, and the spaces that tokens lost."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from antiphase.page.packing import LOGPROB_STEP, Blobs, log_coded, logprob_coded, packed, smallest_unsigned
from antiphase.page.spacing import spaces_before
from page_cases import log_decoded, unpacked

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"


# Columns


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64"])
@given(data=st.data())
def test_a_column_comes_back_bit_by_bit(dtype, data) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=40))
    # Any bits, so also every NaN and infinity.
    raw = data.draw(hnp.arrays(np.dtype(f"uint{8 * np.dtype(dtype).itemsize}"), shape))
    values = raw.view(dtype)
    # A transposed view is what details are packed from.
    for column in (values, values.T):
        back = unpacked(packed(column), dtype, column.size)
        assert back.tobytes() == np.ascontiguousarray(column).tobytes()


def test_big_endian_columns_are_packed_little() -> None:
    values = np.array([1.5, np.nan, -2.0], dtype=">f4")
    assert unpacked(packed(values), "float32", 3).tobytes() == values.astype("<f4").tobytes()


def test_blobs_say_where_and_what_they_are() -> None:
    blobs = Blobs()
    first = blobs.add(np.zeros(0, dtype=np.float32))
    second = blobs.add(np.arange(6, dtype=np.uint16).reshape(2, 3))
    assert first == {"blob": 0, "dtype": "float32", "length": 0}
    assert second == {"blob": 1, "dtype": "uint16", "length": 6}
    assert unpacked(blobs.texts[0], "float32", 0).size == 0
    assert unpacked(blobs.texts[1], "uint16", 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert blobs.size == sum(len(text) for text in blobs.texts)
    blobs.forget(1)
    assert len(blobs.texts) == 1


@pytest.mark.parametrize(
    ("top", "dtype"), [(0, "uint8"), (255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_smallest_unsigned(top, dtype) -> None:
    found = smallest_unsigned(np.array([0, top]))
    assert found.dtype == dtype
    assert found.tolist() == [0, top]
    assert smallest_unsigned(np.zeros(0, dtype=np.int64)).dtype == np.uint8


tiny, huge = float(np.finfo(np.float32).tiny), float(np.float32(3e38))
strength = st.floats(tiny, huge, width=32) | st.just(0.0) | st.just(math.nan)


@given(values=hnp.arrays(np.float32, st.integers(0, 60), elements=strength))
def test_log_coding_errs_by_half_a_step(values) -> None:
    levels, low, high = log_coded(values)
    assert levels.dtype == np.uint16
    back = log_decoded(levels, low, high)
    assert (np.isnan(back) == np.isnan(values)).all()
    assert ((back == 0) == (values == 0)).all()
    positive = values > 0
    error = np.abs(back[positive] / values[positive].astype(np.float64) - 1)
    # Logarithms are taken in float32: 88 (1 + 2⁻²⁴) is the largest.
    assert error.max(initial=0) <= math.expm1((high - low) / 2 / 65_533) + 2e-5
    if high - low <= math.log(1e6):
        assert error.max(initial=0) < 1e-3


def test_log_coding_of_six_decades_and_of_a_constant() -> None:
    values = np.logspace(-3, 3, 5001)
    back = log_decoded(*log_coded(values))
    assert np.abs(back / values - 1).max() < 1.1e-4
    assert (np.diff(back) >= 0).all()
    assert log_decoded(*log_coded(np.full(4, 0.37)))[0] == pytest.approx(0.37)
    levels, low, high = log_coded(np.array([np.nan, 0.0, np.nan]))
    assert (levels.tolist(), low, high) == ([0, 1, 0], 0.0, 0.0)


@given(values=hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-31.75, 0, width=32)))
def test_log_probabilities_err_by_half_a_step(values) -> None:
    coded = logprob_coded(values)
    assert coded.dtype == np.uint16
    assert np.abs(coded * LOGPROB_STEP + values).max(initial=0) <= LOGPROB_STEP / 2 + 1e-5


def test_log_probabilities_at_their_ends() -> None:
    # The last step says that there is none; a rounding error above 0 is 0.
    values = np.array([1e-6, 0.0, -31.999, -32.0, -1e30, -np.inf, np.nan], dtype=np.float32)
    coded = logprob_coded(values).tolist()
    assert coded[:2] == [0, 0]
    assert coded[2] < 65_535
    assert coded[3:] == [65_535] * 4


# Spaces that tokens lost


def rebuilt(tokens, flags):
    return "".join(" " * flag + token for token, flag in zip(tokens, flags, strict=True))


words = st.lists(st.text(st.characters(blacklist_categories=["Z", "C"]), min_size=1, max_size=6), max_size=12)


@given(words=words)
def test_words_without_their_spaces_give_the_text_back(words) -> None:
    text = " ".join(words)
    assert rebuilt(words, spaces_before(text, words)) == text


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_tokens_with_their_spaces_gain_none(text, cuts) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    tokens = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert spaces_before(text, tokens) == [False] * len(tokens)


@given(text=st.text(" ab\n�", max_size=30), tokens=st.lists(st.text(" ab\n�<", max_size=4), max_size=12))
def test_any_tokens_get_a_flag_each(text, tokens) -> None:
    flags = spaces_before(text, tokens)
    assert len(flags) == len(tokens)
    # Never more spaces than the text has.
    assert sum(flags) <= text.count(" ")


@pytest.mark.parametrize(
    ("text", "tokens", "flags"),
    {
        "sentence pieces": ("I see, wait a", ["I", "see", ",", "wait", "a"], [0, 1, 0, 1, 1]),
        "a beginning with a space": (" I see", ["I", "see"], [1, 1]),
        "mixed": ("So 2 + 2", ["So", " 2", "+", " 2"], [0, 0, 1, 0]),
        "special tokens that the text leaves out": ("a b", ["<s>", "a", "</s>", "b", "</s>"], [0, 0, 0, 1, 0]),
        "pieces of a character": ("na é so", ["na", "�", "�", "so"], [0, 0, 0, 1]),
        "a piece and no space": ("xéy", ["x", "�", "�", "y"], [0, 0, 0, 0]),
        "many pieces": ("是" * 30 + " so it is", ["�"] * 90 + ["so", "it", "is"], [0] * 90 + [1] * 3),
        "a token that is a space": ("a  b", ["a", "", "b"], [0, 1, 1]),
        "an empty token": ("ab", ["a", "", "b"], [0, 0, 0]),
        "newlines": ("a\n b", ["a", "\n", "b"], [0, 0, 1]),
        "twice the same word": ("the cat the", ["the", "cat", "the"], [0, 1, 1]),
        "no text": ("", ["a", "", " "], [0, 0, 0]),
        "nothing": ("text", [], []),
    }.values(),
)
def test_spaces(text, tokens, flags) -> None:
    assert spaces_before(text, tokens) == [bool(flag) for flag in flags]


def test_hostile_tokens_cost_no_time() -> None:
    assert not any(spaces_before("a" * 100_000, ["a" * 100_000 + "b"] * 50 + ["\ud800", "\u202e"]))
