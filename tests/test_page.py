"""The page without a browser: columns, tokens in order, the size limit, words, and HTML in which text stays text."""

import base64
import errno
import hashlib
import itertools
import json
import math
import zlib
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from antiphase.errors import InvalidInputError
from antiphase.page.building import facts_of, signals_document, training_document
from antiphase.page.document import Document, Run, Subject, joined
from antiphase.page.overview import estimators_of, interval, lines_of, number, share, signed
from antiphase.page.packing import LOGPROB_STEP, Blobs, log_coded, logprob_coded, packed, smallest_unsigned
from antiphase.page.payload import evenly, finite, payload_of
from antiphase.page.render import add_page, json_for_script, plain_text, render_overview, render_page, write_page
from antiphase.page.spacing import spaces_before
from antiphase.page.subjects import reading_of, subjects_of
from antiphase.page.wording import ESTIMATORS, FEW_PROMPTS, FEW_TOKENS, verdict, warnings_of
from antiphase.types import cell_column
from page_cases import result, synthetic, tables

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"

# Columns


def unpacked(text, dtype, length):
    """As the page does: planes of equal significance back into numbers."""
    dtype = np.dtype(dtype).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(dtype.itemsize, length)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()


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


def log_decoded(levels, low, high):
    """As the page does."""
    values = np.exp(low + (levels.astype(np.float64) - 2) / 65_533 * (high - low))
    return np.where(levels == 0, np.nan, np.where(levels == 1, 0.0, values))


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


# Subjects


def two_estimators(num_tokens=20):
    """`own` and `full:5`, whose strengths are NaN at most tokens."""
    own, rollouts = tables("m", 4, num_tokens)
    full = own.assign(estimator="full")
    full.loc[full.position % 4 != 0, [name for name in full if name.startswith("strength")]] = np.nan
    # As a probe writes them, but with the rows of the second estimator in another order.
    shuffled = full.sample(frac=1, random_state=0)
    tokens = pd.concat([own, shuffled], ignore_index=True)
    both = pd.concat([rollouts, rollouts.assign(estimator="full", spearman=0.25, shuffled=0.5)], ignore_index=True)
    results = [result(own, rollouts, "m"), result(full, rollouts, "m", "full") | {"targets_per_rollout": 5}]
    return tokens, both, results


def test_estimators_stand_side_by_side_in_one_order() -> None:
    tokens, rollouts, results = two_estimators()
    (subject,) = subjects_of(tokens, rollouts, results)
    own, full = (tokens[tokens.estimator == name] for name in ("own", "full"))
    assert list(subject.strengths) == ["own", "full"]
    np.testing.assert_array_equal(subject.strengths["own"], own.strength)
    expected = full.sort_values(["rollout_id", "position"]).strength
    np.testing.assert_array_equal(subject.strengths["full"], expected)
    assert np.isnan(subject.strengths["full"]).sum() == 60
    assert subject.tokens.token.tolist() == own.token.tolist()
    assert subject.starts.tolist() == [0, 20, 40, 60, 80]
    assert subject.correlations["own"].tolist() == rollouts.spearman.tolist()[:4]
    assert subject.correlations["full"].tolist() == [0.25] * 4
    assert subject.shuffled["full"].tolist() == [0.5] * 4
    names = [cell_column(layer, name) for layer in (0, 1) for name in "QKVO"]
    np.testing.assert_array_equal(subject.cells["own"], own[names])
    np.testing.assert_array_equal(
        subject.cells["full"], full.sort_values(["rollout_id", "position"])[names].to_numpy()
    )
    assert [reading["estimator"] for reading in subject.readings] == ["own", "full"]
    assert subject.readings[1]["targets_per_rollout"] == 5


def test_rollouts_in_another_order_than_their_tokens() -> None:
    tokens, rollouts = tables("m", 4, 6)
    turned = rollouts.iloc[::-1].reset_index(drop=True)
    (subject,) = subjects_of(tokens, turned, [result(tokens, rollouts, "m")])
    assert subject.rollouts.rollout_id.tolist() == turned.rollout_id.tolist()
    for place, name in enumerate(turned.rollout_id):
        own = tokens[tokens.rollout_id == name]
        found = subject.tokens.iloc[subject.starts[place] : subject.starts[place + 1]]
        assert found.entropy.tolist() == own.entropy.tolist()


def evaluated(*, greedy=(True, False, False, False), task="t"):
    """Tables and result of an evaluation of four rollouts."""
    tokens, rollouts = tables("m", 4, 12)
    rollouts = rollouts.assign(
        task=task, greedy=list(greedy), correct=[True, False, True, True], outcome="x", answer="1", reference="1"
    )
    tokens = tokens.assign(task=task)
    statistics = result(tokens, rollouts, "m")
    keys = ("spearman", "logprob_control", "num_tokens", "num_rollouts", "num_prompts", "num_undefined")
    entry = {
        **{key: statistics[key] for key in ("model", "estimator", "layers", "projections")},
        "task": task,
        "num_rollouts": 4,
        "num_problems": 2,
        "metrics": {"avg@3": {"value": 0.5, "low": 0.25, "high": 0.75}, "greedy": {"value": 1.0}},
        "signals": {key: statistics[key] for key in keys},
    }
    return tokens, rollouts, entry


def test_greedy_rollouts_are_left_out_where_there_are_samples() -> None:
    tokens, rollouts, entry = evaluated()
    (subject,) = subjects_of(tokens, rollouts, [entry])
    assert subject.rollouts.rollout_id.tolist() == rollouts.rollout_id.tolist()[1:]
    assert subject.rollouts.correct.tolist() == [False, True, True]
    assert len(subject.tokens) == 36
    np.testing.assert_array_equal(subject.strengths["own"], tokens.strength[12:])
    tokens, rollouts, entry = evaluated(greedy=[True] * 4)
    (subject,) = subjects_of(tokens, rollouts, [entry])
    assert len(subject.rollouts) == 4


def test_an_evaluation_may_lack_cells_and_verdicts_stay() -> None:
    tokens, rollouts, entry = evaluated()
    kept = [name for name in tokens if not name.startswith("strength_L")]
    (subject,) = subjects_of(tokens[kept], rollouts, [entry])
    assert subject.cells == {}
    assert {"correct", "outcome", "answer", "reference"} <= set(subject.rollouts)
    assert subject.readings[0]["accuracy"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert subject.readings[0]["accuracy_name"] == "avg@3"


def test_several_models_and_tasks_are_several_subjects() -> None:
    parts = [evaluated(task=task) for task in ("sums", "words")]
    tokens, rollouts = (pd.concat([part[place] for part in parts], ignore_index=True) for place in (0, 1))
    # The second task's tokens differ, to be told apart.
    tokens.loc[tokens.task == "words", "strength"] += 1
    subjects = subjects_of(tokens, rollouts, [part[2] for part in parts])
    assert [subject.label for subject in subjects] == ["m · sums", "m · words"]
    assert subjects[1].strengths["own"].min() > 1
    labelled = subjects_of(tokens, rollouts, [part[2] for part in parts], label="mine")
    assert [subject.label for subject in labelled] == ["mine · sums", "mine · words"]
    document = synthetic(["a", "b"], 2, 9)
    assert [subject.label for subject in document.subjects] == ["a", "b"]
    assert document.subjects[0].strengths["own"].tolist() != document.subjects[1].strengths["own"].tolist()


def changed(what):
    tokens, rollouts, results = two_estimators()
    if what == "a token is missing":
        tokens = tokens.drop(index=3)
    elif what == "a token of all estimators is missing":
        tokens = tokens[(tokens.rollout_id != "p0/1") | (tokens.position != 7)]
    elif what == "tokens of another run":
        tokens = tokens.assign(rollout_id="x" + tokens.rollout_id)
    elif what == "tokens of another model":
        tokens = tokens.assign(model="other")
    elif what == "a token stands twice":
        tokens.loc[1, "position"] = 0
    elif what == "two rollouts of one id":
        rollouts.loc[1, "rollout_id"] = "p0/0"
    elif what == "two of one id in the second estimator":
        rollouts.loc[5, "rollout_id"] = "p0/0"
    return tokens, rollouts, results


@pytest.mark.parametrize(
    ("what", "message"),
    {
        "a token is missing": "not measured on the same tokens",
        "a token of all estimators is missing": "rollout 'p0/1' has 20 tokens, and the token table 19",
        "tokens of another run": "rollout 'p0/0' has 20 tokens, and the token table 0",
        "tokens of another model": "rollout 'p0/0' has 20 tokens, and the token table 0",
        "a token stands twice": "two tokens of 'own' share a rollout and a position",
        "two rollouts of one id": "two rollouts share an id",
        "two of one id in the second estimator": "two rollouts share an id",
    }.items(),
)
def test_tables_that_do_not_match_are_refused(what, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        subjects_of(*changed(what))


def test_a_subject_checks_its_own_tables() -> None:
    document = synthetic(["a"], 2, 9)
    given = vars(document.subjects[0])
    for starts in ([0, 9], [0, 9, 17]):
        with pytest.raises(InvalidInputError, match="do not match"):
            Subject(**{**given, "starts": np.array(starts)})


def test_older_runs_and_runs_without_tokens() -> None:
    tokens, rollouts = tables("m", 2, 9)
    entry = result(tokens, rollouts, "m")
    (subject,) = subjects_of(tokens, rollouts.drop(columns="shuffled"), [entry])
    assert subject.shuffled == {}
    (subject,) = subjects_of(tokens.iloc[:0], rollouts, [entry])
    assert (len(subject.tokens), subject.starts.tolist(), subject.strengths) == (0, [0, 0, 0], {})
    (subject,) = subjects_of(pd.DataFrame(), rollouts, [entry])
    assert len(subject.rollouts) == 2
    # Empty completions alone, in a run of two models of which the other has tokens.
    other = rollouts.assign(model="other", num_tokens=0, completion="")
    both = pd.concat([rollouts, other], ignore_index=True)
    subjects = subjects_of(tokens, both, [entry, entry | {"model": "other"}])
    assert [len(subject.tokens) for subject in subjects] == [18, 0]


def alternatives_of(tokens, count=2):
    frame = tokens[["model", "rollout_id", "position"]].loc[tokens.index.repeat(count)].reset_index(drop=True)
    rank = np.tile(np.arange(count), len(tokens))
    return frame.assign(rank=rank, token=[f"alt{i}" for i in range(len(frame))], logprob=-0.5 * (rank + 1))


def test_alternatives_stand_at_their_tokens() -> None:
    tokens, rollouts = tables("m", 2, 5)
    frame = alternatives_of(tokens)
    # Out of order, one missing, and some of a rollout that is not shown.
    foreign = frame.assign(rollout_id="elsewhere")
    given = pd.concat([frame.drop(index=5).sample(frac=1, random_state=0), foreign], ignore_index=True)
    (subject,) = subjects_of(tokens, rollouts, [result(tokens, rollouts, "m")], alternatives=given)
    texts, logprobs = subject.alternatives
    wanted = np.array([f"alt{i}" for i in range(20)], dtype=object).reshape(10, 2)
    wanted[2, 1] = ""
    assert texts.tolist() == wanted.tolist()
    assert np.isnan(logprobs[2, 1])
    assert np.delete(logprobs, 2, axis=0).tolist() == [[-0.5, -1.0]] * 9
    for nothing in (None, frame.iloc[:0], foreign, frame.assign(model="other")):
        (subject,) = subjects_of(tokens, rollouts, [result(tokens, rollouts, "m")], alternatives=nothing)
        assert subject.alternatives is None


def test_readings_of_probe_evaluation_and_nothing() -> None:
    tokens, rollouts, entry = evaluated()
    probe = result(tokens, rollouts, "m")
    reading = reading_of(probe)
    assert reading["spearman"] == probe["spearman"]
    assert (reading["accuracy"], reading["accuracy_name"]) == (None, None)
    assert reading["by_projection"] == probe["by_projection"]
    judged = reading_of(entry)
    assert judged["spearman"] == probe["spearman"]
    assert (judged["num_rollouts"], judged["by_projection"]) == (4, [])
    unmeasured = {key: value for key, value in entry.items() if key != "signals"} | {"estimator": "none"}
    none = reading_of(unmeasured)
    assert none["spearman"] == {"value": None, "low": None, "high": None}
    assert (none["num_tokens"], none["num_rollouts"], none["num_prompts"]) == (0, 4, 2)
    assert none["accuracy"]["value"] == 0.5
    greedy = reading_of({**unmeasured, "metrics": {"greedy": {"value": 1.0}}})
    assert greedy["accuracy_name"] == "greedy"
    assert greedy["accuracy"] == {"value": 1.0, "low": None, "high": None}
    nan = reading_of(probe | {"spearman": {"value": math.nan, "low": math.nan, "high": math.nan}})
    assert nan["spearman"]["value"] is None
    assert verdict(nan) == "undefined"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_tokens", "many"),
        ("num_prompts", None),
        ("entropy_mean", "0.5"),
        ("spearman", {"value": "−0.2", "low": None, "high": None}),
        ("logprob_control", {"value": 0.1, "low": [], "high": None}),
    ],
)
def test_readings_that_are_no_numbers_are_refused(key, value) -> None:
    tokens, rollouts = tables("m", 2, 9)
    with pytest.raises(InvalidInputError, match=rf"the result of 'm': {key} must be a number"):
        reading_of(result(tokens, rollouts, "m") | {key: value})


# What the page holds


def blob(columns, entry):
    return unpacked(columns[entry["blob"]], entry["dtype"], entry["length"])


def full_document(num_rollouts=4, num_tokens=20):
    tokens, rollouts = tables("m", num_rollouts, num_tokens, words=["so", "wait", "é", " ", "\n"])
    rollouts["completion"] = rollouts.completion.str.replace("so", " so")
    entry = result(tokens, rollouts, "m")
    frame = alternatives_of(tokens)
    summary = {"config": {}, "results": [entry]}
    return tokens, signals_document("probe", "run", tokens, rollouts, summary, alternatives=frame)


def test_the_page_holds_the_tables_values() -> None:
    tokens, document = full_document()
    values, columns = payload_of(document)
    (subject,) = values["subjects"]
    for name in ("entropy", "logprob"):
        assert blob(columns, subject[name]).tobytes() == tokens[name].to_numpy(dtype="<f4").tobytes()
    assert blob(columns, subject["strengths"]["own"]).tobytes() == tokens.strength.to_numpy(dtype="<f4").tobytes()
    texts = np.array(values["vocabulary"], dtype=object)
    assert texts[blob(columns, subject["token"])].tolist() == tokens.token.tolist()
    assert subject["starts"] == [0, 20, 40, 60, 80]
    assert (blob(columns, subject["spaced"]) == (tokens.token == "so")).all()
    assert subject["detailed"] == [0, 1, 2, 3]
    cells = subject["cells"]["own"]
    levels = blob(columns, cells).reshape(8, 80)
    names = [cell_column(layer, name) for layer in (0, 1) for name in "QKVO"]
    np.testing.assert_allclose(log_decoded(levels, cells["low"], cells["high"]).T, tokens[names], rtol=1e-3)
    assert (cells["dtype"], subject["readings"][0]["layers"]) == ("uint16", [0, 1])
    alternatives = subject["alternatives"]
    assert texts[blob(columns, alternatives["token"])].tolist() == [f"alt{i}" for i in range(160)]
    steps = blob(columns, alternatives["logprob"]).reshape(80, alternatives["count"])
    np.testing.assert_allclose(steps * alternatives["step"], np.tile([0.5, 1.0], (80, 1)), atol=3e-4)
    assert subject["correlations"]["own"] == document.subjects[0].correlations["own"].tolist()
    assert [rollout["id"] for rollout in subject["rollouts"]] == ["p0/0", "p0/1", "p1/0", "p1/1"]
    assert [rollout["prompt"] for rollout in subject["rollouts"]] == [0, 0, 1, 1]
    assert subject["prompts"] == ["Question p0?", "Question p1?"]
    assert "cut" not in subject["rollouts"][0]
    json.dumps(values, allow_nan=False)


def test_verdicts_on_the_page() -> None:
    tokens, rollouts, entry = evaluated()
    rollouts["answer"] = [None, None, "2", "3"]
    rollouts["correct"] = np.array([True, False, True, True])
    document = signals_document("eval", "run", tokens, rollouts, {"config": {}, "results": [entry]})
    (subject,) = payload_of(document)[0]["subjects"]
    assert [rollout["correct"] for rollout in subject["rollouts"]] == [False, True, True]
    assert [rollout.get("answer") for rollout in subject["rollouts"]] == [None, "2", "3"]


def size(columns):
    return sum(map(len, columns))


def is_even(places, number):
    """Whether places among `number` stand as evenly as whole numbers can."""
    gaps = np.diff([*places, number])
    return places[0] == 0 and gaps.max() - gaps.min() <= 1


def test_details_are_thinned_first_and_evenly() -> None:
    _, document = full_document(num_rollouts=30, num_tokens=40)
    whole, all_columns = payload_of(document)
    main = sum(len(all_columns[i]) for i in range(5))
    details = size(all_columns) - main
    counts = []
    for part in (0.75, 0.4, 0.2):
        limit = int(main + part * details)
        assert main <= 0.8 * limit
        values, columns = payload_of(document, limit)
        (subject,) = values["subjects"]
        assert size(columns) <= limit
        assert len(subject["rollouts"]) == 30
        counts.append(len(subject["detailed"]))
        if subject["detailed"]:
            assert is_even(subject["detailed"], 30)
            length = subject["cells"]["own"]["length"]
            assert length == 8 * 40 * len(subject["detailed"])
        assert subject["readings"] == whole["subjects"][0]["readings"]
    assert 0.75 * 30 >= counts[0] > counts[1] > counts[2] >= 0.05 * 30
    assert counts[0] > 0.3 * 30


def test_details_that_deflate_worse_than_the_trial_keep_the_limit() -> None:
    tokens, rollouts = tables("m", 40, 40)
    tried = {rollouts.rollout_id[place] for place in evenly(40, 4)}
    cells = [name for name in tokens if name.startswith("strength_L")]
    tokens.loc[tokens.rollout_id.isin(tried), cells] = 1.0
    summary = {"config": {}, "results": [result(tokens, rollouts, "m")]}
    frame = alternatives_of(tokens)
    document = signals_document("probe", "run", tokens, rollouts, summary, alternatives=frame)
    whole = payload_of(document)[1]
    main = sum(len(whole[i]) for i in range(5))
    limit = int(1.3 * main)
    values, columns = payload_of(document, limit)
    (subject,) = values["subjects"]
    assert size(columns) <= limit
    assert len(subject["rollouts"]) == 40
    assert 0 < len(subject["detailed"]) < 40
    # Texts of what was tried and did not fit are gone.
    shown = blob(columns, subject["alternatives"]["token"])
    assert set(range(len(values["vocabulary"]))) == {*blob(columns, subject["token"]).tolist(), *shown.tolist()}


def test_main_columns_are_thinned_evenly_where_they_must_be() -> None:
    tokens, document = full_document(num_rollouts=31, num_tokens=40)
    whole, all_columns = payload_of(document)
    main = sum(len(all_columns[i]) for i in range(5))
    kept = []
    for part in (0.7, 0.3, 0.1):
        values, columns = payload_of(document, int(part * main))
        (subject,) = values["subjects"]
        assert size(columns) <= part * main
        assert subject["numRollouts"] == 31
        ids = [rollout["id"] for rollout in subject["rollouts"]]
        places = [document.subjects[0].rollouts.rollout_id.tolist().index(name) for name in ids]
        assert is_even(places, 31)
        kept.append(len(places))
        own = tokens[tokens.rollout_id.isin(ids)]
        assert blob(columns, subject["entropy"]).tolist() == own.entropy.tolist()
        assert subject["correlations"]["own"] == document.subjects[0].correlations["own"][places].tolist()
        assert subject["starts"] == list(range(0, 40 * len(ids) + 1, 40))
        # What is reported is of all of them.
        assert subject["readings"] == whole["subjects"][0]["readings"]
    assert 31 > kept[0] > kept[1] > kept[2] >= 1
    # Four fifths of the room are theirs.
    assert kept[0] >= 0.85 * 0.8 * 0.7 * 31


@given(
    lengths=st.lists(st.integers(0, 60) | st.integers(300, 800), min_size=1, max_size=8),
    room=st.integers(0, 20_000),
    num_models=st.integers(1, 3),
)
def test_the_limit_is_kept_whatever_the_lengths(lengths, room, num_models) -> None:
    documents = []
    for model in range(num_models):
        parts = [tables(f"m{model}", 1, max(1, length), seed=place) for place, length in enumerate(lengths)]
        tokens = pd.concat([t.assign(rollout_id=f"p{i}/0") for i, (t, _) in enumerate(parts)], ignore_index=True)
        rollouts = pd.concat([r.assign(rollout_id=f"p{i}/0") for i, (_, r) in enumerate(parts)], ignore_index=True)
        entry = result(tokens, rollouts, f"m{model}")
        summary = {"config": {}, "results": [entry]}
        documents.append(
            signals_document("probe", "run", tokens, rollouts, summary, alternatives=alternatives_of(tokens))
        )
    values, columns = payload_of(joined(documents, "all"), room)
    empty = len(packed(np.zeros(0)))
    assert size(columns) <= max(room, empty * len(columns))
    used = set()
    for subject, document in zip(values["subjects"], documents, strict=True):
        assert subject["readings"] == [dict(reading) for reading in document.subjects[0].readings]
        total = subject["starts"][-1]
        assert len(subject["starts"]) == len(subject["rollouts"]) + 1
        assert {blob(columns, subject[name]).size for name in ("token", "entropy", "logprob", "spaced")} == {total}
        used |= set(blob(columns, subject["token"]).tolist())
        for rollout, start, end in zip(subject["rollouts"], subject["starts"], subject["starts"][1:], strict=False):
            whole = max(1, lengths[int(rollout["id"][1:].split("/")[0])])
            assert end - start + rollout.get("cut", 0) == whole
        if subject["detailed"]:
            held = [subject["starts"][i + 1] - subject["starts"][i] for i in subject["detailed"]]
            assert subject["cells"]["own"]["length"] == 8 * sum(held)
            used |= set(blob(columns, subject["alternatives"]["token"]).tolist())
    # The vocabulary holds what is shown, and nothing of what was tried.
    assert used == set(range(len(values["vocabulary"])))


def test_one_rollout_that_is_too_long_keeps_its_beginning() -> None:
    tokens, rollouts = tables("m", 1, 3000)
    document = signals_document(
        "probe", "run", tokens, rollouts, {"config": {}, "results": [result(tokens, rollouts, "m")]}
    )
    values, columns = payload_of(document, 20_000)
    (subject,) = values["subjects"]
    kept = subject["starts"][-1]
    assert 300 < kept < 3000
    assert size(columns) <= 20_000
    assert subject["rollouts"][0]["cut"] == 3000 - kept
    assert blob(columns, subject["entropy"]).tolist() == tokens.entropy[:kept].tolist()


@pytest.mark.parametrize(("number", "kept"), [(0, 0), (0, 4), (5, 0), (5, 5), (5, 9), (7, 3), (1000, 333)])
def test_evenly(number, kept) -> None:
    places = evenly(number, kept)
    assert len(places) == min(number, kept)
    assert len(places) == 0 or is_even(places, number)


def test_long_prompts_and_answers_are_clipped() -> None:
    tokens, rollouts, entry = evaluated()
    rollouts["prompt"], rollouts["answer"] = "q" * 100_000, "a" * 30_000
    document = signals_document("eval", "run", tokens, rollouts, {"config": {}, "results": [entry]})
    (subject,) = payload_of(document)[0]["subjects"]
    assert subject["prompts"] == ["q" * 20_000 + " […80,000 more characters]"]
    assert subject["rollouts"][0]["answer"].endswith(" […10,000 more characters]")
    rollouts["prompt"] = [f"{i}" * 1000 for i in range(4)]
    document = signals_document("eval", "run", tokens, rollouts, {"config": {}, "results": [entry]})
    assert [len(text) for text in payload_of(document)[0]["subjects"][0]["prompts"]] == [1000] * 3


def test_trajectories_become_columns() -> None:
    rows = [
        {"kind": "step", "step": 0, "task/accuracy": 0.25, "note": "text", "done": True, "nan": math.nan},
        {"kind": "eval", "step": 0, "heldout/pass@1": 0.5},
        {"kind": "step", "step": 1, "task/accuracy": None, "loss": 3, "huge": 10**400},
        {"kind": "alarm", "step": 1, "inversion": 0.3},
        {"kind": "other", "step": 7},
    ]
    document = training_document("run", rows, {"seed": 3, "learning_rate": 0.1}, None)
    (training,) = payload_of(document)[0]["trainings"]
    assert training["step"] == {
        "step": [0, 1],
        "task/accuracy": [0.25, None],
        "loss": [None, 3.0],
        "nan": [None, None],
    }
    assert training["eval"] == {"step": [0], "heldout/pass@1": [0.5]}
    assert training["probe"] == {"step": []}
    assert training["alarms"] == [1]


def test_seeds_of_one_recipe_share_a_group() -> None:
    settings = {"seed": 0, "data_seed": 0, "output_dir": "a", "learning_rate": 0.1, "tasks": ["x", "y"]}
    groups = [
        training_document("run", [], {**settings, **changes}, None).trainings[0].group
        for changes in ({}, {"seed": 1, "data_seed": 5, "output_dir": "b", "run_name": "b"}, {"learning_rate": 0.2})
    ]
    assert groups[0] == groups[1] != groups[2]
    assert training_document("run", [], settings, None, group="mine").trainings[0].group == "mine"
    document = training_document("run", [], settings, {"created": "now", "seed": 0, "versions": {"torch": "2"}})
    assert document.runs[0].finished
    assert ("tasks", "x, y") in document.runs[0].facts
    assert ("torch version", "2") in document.runs[0].facts


def test_finite() -> None:
    value = {1: [np.float32(0.5), math.nan, -math.inf], "n": np.int64(3), "b": np.bool_(True), "t": ("a", None)}
    assert finite(value) == {"1": [0.5, None, None], "n": 3, "b": True, "t": ["a", None]}


# Words


def reading(**changes):
    """One that no warning fits."""
    plain = {
        "model": "m", "estimator": "own", "num_tokens": 500, "num_prompts": 8, "num_undefined": 0, "num_rollouts": 20,
        "spearman": {"value": -0.5, "low": -0.6, "high": -0.4}, "logprob_control": {"value": 0.9, "low": 0, "high": 1},
        "spearman_within": {"value": -0.5, "low": -0.6, "high": -0.4}, "targets_per_rollout": None,
    }  # fmt: skip
    return {**plain, **changes}


def bounds(value, low, high):
    return {"spearman": {"value": value, "low": low, "high": high}}


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        ((-0.5, -0.6, -0.001), "inverted"),
        ((-0.5, -0.6, 0.0), "undecided"),
        ((-0.5, -0.6, 0.1), "undecided"),
        ((0.5, 0.0, 0.6), "undecided"),
        ((0.5, 0.001, 0.6), "not inverted"),
        ((None, None, None), "undefined"),
        ((-0.5, None, None), "no interval"),
        ((-0.5, -0.6, None), "no interval"),
    ],
)
def test_verdicts(rho, expected) -> None:
    assert verdict(reading(**bounds(*rho))) == expected


def test_nothing_to_warn_of() -> None:
    assert warnings_of(reading(), np.array([0.1, -0.1])) == []
    assert warnings_of(reading()) == []


@pytest.mark.parametrize(
    ("fires", "silent", "message"),
    [
        ({"num_tokens": FEW_TOKENS - 1}, {"num_tokens": FEW_TOKENS}, "few tokens: 499, below 500"),
        ({"num_prompts": FEW_PROMPTS - 1}, {"num_prompts": FEW_PROMPTS}, "few prompts: 7"),
        ({"num_undefined": 1}, {"num_undefined": 0}, "1 of 20 rollouts have no ρ of their own"),
        ({"targets_per_rollout": 16}, {"targets_per_rollout": None}, "only 16 random tokens of each rollout"),
        # 0.8 of −0.5, in the same direction only.
        ({"logprob_control": {"value": -0.4}}, {"logprob_control": {"value": -0.3999}}, r"the control.*\(−0\.40\)"),
        ({"logprob_control": {"value": -0.9}}, {"logprob_control": {"value": 0.9}}, "the control"),
        ({"logprob_control": {"value": -0.4}}, {"logprob_control": {"value": None}}, "the control"),
    ],
)
def test_each_warning_at_its_threshold(fires, silent, message) -> None:
    (warning,) = warnings_of(reading(**fires))
    assert pytest.raises(AssertionError, match=message).matches(AssertionError(warning))
    assert warnings_of(reading(**silent)) == []


@pytest.mark.parametrize(
    ("shuffled", "warned"),
    [
        ([0.4, 0.4], True),
        ([-0.3, -0.5], True),
        ([0.6, 0.19], False),
        ([-0.9, 0.9], False),
        ([math.nan, -0.4], True),
        ([math.nan, math.nan], False),
        ([], False),
    ],
)
def test_shuffled_strengths_that_say_as_much(shuffled, warned) -> None:
    found = warnings_of(reading(), np.array(shuffled, dtype=np.float64))
    assert ["shuffled strengths" in text for text in found] == [True] * warned
    assert warnings_of(reading(spearman_within=None), np.array(shuffled)) == []
    assert warnings_of(reading(spearman_within={"value": None}), np.array(shuffled)) == []


def test_undefined_readings_are_not_compared_with_controls() -> None:
    found = warnings_of(reading(num_tokens=0, num_prompts=1, **bounds(None, None, None)))
    assert [text.split(":")[0] for text in found] == ["few tokens", "few prompts"]


def test_numbers_as_text() -> None:
    assert [signed(value) for value in (0.12345, -0.12345, 0.0, None)] == ["+0.123", "−0.123", "+0.000", "undefined"]
    assert interval({"low": -0.2, "high": 0.1}) == "[−0.200, +0.100]"
    assert [interval(value) for value in (None, {"low": None, "high": None}, {"low": 0.1, "high": None})] == ["—"] * 3
    assert share({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert share({"value": 0.5, "low": 0.2, "high": None}) == "0.500"
    assert [share(value) for value in (None, {"value": None})] == ["—", "—"]
    assert [number(value) for value in (None, -1.23456, 2.0)] == ["—", "−1.235", "2.000"]


# HTML


class Reader(HTMLParser):
    """Elements, their attributes, what scripts hold and what is text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.text, self.tables = [], [], [], []
        self.in_script = self.in_cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.in_script = tag == "script"
        self.in_cell = self.in_cell or tag in ("td", "th")

    def handle_endtag(self, tag):
        self.in_script = False
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1][1] += data
            return
        self.text.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def policy_of(reader):
    (policy,) = [a["content"] for a in reader.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


def check_inert(html, live=False):
    """Nothing of the page runs or loads but its own scripts; returns the page as read."""
    reader = Reader(html)
    running = [text for attrs, text in reader.scripts if "type" not in attrs]
    digests = {f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in running}
    policy = policy_of(reader)
    assert set(policy["script-src"].split()) == digests
    assert len(running) == len(digests) == 2 + live
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == ("'self'" if live else "'none'")
    assert {attrs.get("type") for attrs, _ in reader.scripts} <= {None, "application/json", "application/octet-stream"}
    for tag, attrs in reader.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcdoc", "formaction", "ping")]
        for name in ("src", "href", "action", "data", "xlink:href", "poster", "srcset"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    assert {tag for tag, _ in reader.elements} & {"iframe", "object", "embed", "base", "link", "svg", "img"} == set()
    styles = "".join(attrs.get("style", "") for _, attrs in reader.elements)
    assert "url(" not in styles
    return reader


def values_of(reader):
    (text,) = [text for attrs, text in reader.scripts if attrs.get("id") == "values"]
    assert not set("<>&") & set(text)
    assert text.isascii()
    return json.loads(text)


@pytest.mark.parametrize("live", [None, "version-1"])
def test_only_the_pages_own_scripts_may_run(live) -> None:
    html = render_page(synthetic(["a", "b"], 3, 9), live=live)
    reader = check_inert(html, live is not None)
    assert ('data-version="version-1"' in html) == (live is not None)
    values = values_of(reader)
    assert [subject["label"] for subject in values["subjects"]] == ["a", "b"]
    columns = [attrs["id"] for attrs, _ in reader.scripts if attrs.get("type") == "application/octet-stream"]
    assert columns == [f"blob-{i}" for i in range(len(columns))]
    assert len(columns) == 2 * 6
    for _, text in reader.scripts:
        # A parser would turn them into \n, and the digest would be another.
        assert "\r" not in text
    for script in (text for attrs, text in reader.scripts if "type" not in attrs):
        assert "eval(" not in script or len(script) > 500_000  # ECharts has it in a name


def test_style_sheets_load_nothing() -> None:
    html = render_page(synthetic(["a"], 2, 9))
    style = html.split("<style>", 1)[1].split("</style>", 1)[0]
    assert "@import" not in style
    assert "url(" not in style.replace("url(data:", "")


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!-- <script>",
    "-->]]>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a\u2028b\u2029c",
    "\u202eevil\u2066\u061c\u200f",
    "lone \ud800 and \udfff",
    "&lt;script&gt;&#x3c;b&#x3e;",
    "\x00\x08\x1b[31m",
    "x" * 100_000,
    "",
]


def storable(text):
    """The text as a table can hold it."""
    return text.encode("utf-8", "replace").decode()


def hostile_document(label):
    tokens, rollouts = tables("m", 2, len(HOSTILE))
    text = storable(label)
    tokens["token"] = [storable(token) for token in HOSTILE] * 2
    tokens["rollout_id"] = text + tokens.rollout_id
    rollouts = rollouts.assign(
        rollout_id=text + rollouts.rollout_id,
        prompt=text,
        completion=text,
        finish=text,
        correct=[True, False],
        outcome=text,
        answer=text,
        reference=text,
    )
    for frame in (tokens, rollouts):
        frame["model"] = text
    entry = result(tokens, rollouts, text) | {"device": label, "dtype": label, "target": label}
    summary = {
        "config": {"prompts": label, "samples": [label]},
        "results": [entry, entry | {"estimator": label}],
        "versions": {label: label},
        "created": label,
        "commit": label,
        "agreement": [{"model": label, "estimators": [label, label], "spearman": {"value": None}, "num_tokens": 3}],
    }
    signals = signals_document("probe", label, tokens, rollouts, summary, label=label, notes=[label])
    rows = [{"kind": "step", "step": i, label: float(i)} for i in range(3)]
    document = joined([signals, training_document(label, rows, {"model": label}, None, group=label)], label)
    return Document(**{**vars(document), "markers": (label,), "created": label})


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_hostile_text_stays_text(text) -> None:
    html = render_page(hostile_document(text))
    html.encode("utf-8")
    reader = check_inert(html)
    for character in "\u202e\u2066\u061c\u200f":
        assert character not in "".join(reader.text)
    (subject,) = values_of(reader)["subjects"]
    assert subject["label"] == text
    assert subject["rollouts"][0]["id"] == storable(f"{text}p0/0")
    assert set(values_of(reader)["vocabulary"]) == set(map(storable, HOSTILE))
    seen = plain_text(text).replace("\x00", "\ufffd")
    shown = "".join(reader.text)
    assert seen in shown or seen in shown.replace("\x00", "\ufffd")
    # As often as the page without it names a model and so on: markup was not read as such.
    tame = Reader(render_page(hostile_document("tame")))
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in tame.elements]
    assert [sorted(attrs) for _, attrs in reader.elements] == [sorted(attrs) for _, attrs in tame.elements]


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_hostile_text_in_notebooks(text) -> None:
    html = render_overview(hostile_document(text))
    reader, tame = Reader(html), Reader(render_overview(hostile_document("tame")))
    assert reader.elements == tame.elements
    assert reader.scripts == []
    assert plain_text(text) in "".join(reader.text)
    html.encode("utf-8")


@given(text=st.text(st.characters(blacklist_categories=[]), max_size=20))
def test_plain_text_can_be_written_and_turns_nothing(text) -> None:
    plain = plain_text(text)
    plain.encode("utf-8")
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c") & set(plain)
    if text.isascii():
        assert plain == text


@given(value=st.recursive(st.text(max_size=9) | st.integers() | st.none(), lambda x: st.lists(x, max_size=3)))
def test_json_of_scripts_comes_back(value) -> None:
    text = json_for_script(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_json_of_scripts_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_for_script(math.nan)


def test_the_overview_prints_the_readings() -> None:
    document = synthetic(["a", "b"], 3, 9)
    document.subjects[1].readings[0]["accuracy"] = {"value": 0.5, "low": 0.25, "high": 0.75}
    for html in (render_page(document), render_overview(document)):
        header, *rows = next(table for table in Reader(html).tables if table[0][0] == "model")
        assert len(rows) == 2
        for row, subject in zip(rows, document.subjects, strict=True):
            (reading,) = subject.readings
            cells = dict(zip(header, map(str.strip, row), strict=True))
            rho = reading["spearman"]
            assert cells["model"] == subject.label
            assert cells["ρ pooled"] == f"{rho['value']:+.3f}".replace("-", "−")
            assert cells["95 % interval"] == f"[{rho['low']:+.3f}, {rho['high']:+.3f}]".replace("-", "−")
            assert cells["reading"] == verdict(reading)
            assert cells["ρ control"] == "+0.600"
            assert cells["entropy"] == f"{reading['entropy_mean']:.3f}"
            assert (cells["tokens"], cells["rollouts"], cells["undefined"]) == ("27", "3", "0")
        assert [row[-1].strip() for row in rows] == ["—", "0.500 [0.250, 0.750]"]
        text = " ".join(Reader(html).text)
        assert "few tokens: 27, below 500" in text
        assert ESTIMATORS["own"] in text


def test_lines_of_evaluations_without_signals() -> None:
    tokens, rollouts, entry = evaluated()
    none = {key: value for key, value in entry.items() if key != "signals"} | {"estimator": "none"}
    rollouts = rollouts.assign(estimator="none")
    document = signals_document("eval", "run", tokens.iloc[:0], rollouts, {"config": {}, "results": [none]})
    (line,) = lines_of(document)
    assert (line.verdict, line.warnings) == ("undefined", ["no signals were measured"])
    assert estimators_of(document) == {}
    html = render_page(document)
    check_inert(html)
    assert 'id="scatter"' not in html
    assert "0.500 [0.250, 0.750]" in html


def test_an_unfinished_run_is_called_so() -> None:
    tokens, rollouts = tables("m", 2, 9)
    summary = {"config": {}, "results": [result(tokens, rollouts, "m")]}
    document = signals_document("probe", "run", tokens, rollouts, summary, finished=False, notes=["half of it"])
    assert lines_of(document)[0].unfinished
    text = " ".join(Reader(render_page(document)).text)
    assert "(unfinished)" in text
    assert "half of it" in text
    assert "unfinished" not in " ".join(Reader(render_page(synthetic(["m"], 2, 9))).text)


def test_facts_of_a_run() -> None:
    facts = facts_of(
        {
            "created": "2026-01-01", "seed": 0, "device": None, "commit": "abc",
            "config": {"samples": 2, "top_p": None, "prompts": ["a", "b"], "other": 1},
            "versions": {"torch": "2.6"},
            "agreement": [
                {"model": "m", "estimators": ["own", "full"], "spearman": {"value": -0.25}, "num_tokens": 1234},
                {"model": "m", "estimators": ["own", "last"], "spearman": {"value": None}, "num_tokens": 0},
            ],
        }
    )  # fmt: skip
    assert facts == [
        ("created", "2026-01-01"), ("seed", "0"), ("commit", "abc"), ("samples", "2"), ("prompts", "a, b"),
        ("torch version", "2.6"), ("m: ρ(strength by own, strength by full)", "−0.250, 1,234 tokens"),
        ("m: ρ(strength by own, strength by last)", "undefined"),
    ]  # fmt: skip


def test_a_page_is_a_function_of_its_document() -> None:
    pages = [render_page(synthetic(["a"], 3, 9)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_documents_are_checked() -> None:
    document = synthetic(["a"], 2, 9)
    with pytest.raises(InvalidInputError, match="two models on the page are called 'a'"):
        joined([document, document], "both")
    for value in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidInputError, match="forking_share must lie between 0 and 1"):
            Document("title", [Run("run", "probe")], forking_share=value)
    both = joined([synthetic(["a", "b"], 2, 9), synthetic(["c"], 2, 9)], "both")
    assert [subject.run for subject in both.subjects] == [0, 0, 1]


# Files


def test_a_page_that_cannot_be_written_is_one_error(tmp_path) -> None:
    document = synthetic(["a"], 2, 9)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "file" / "page.html",
        tmp_path / "folder",
        tmp_path / ("x" * 300),
        Path("/proc/page.html"),
    ):
        with pytest.raises(InvalidInputError, match="cannot write"):
            write_page(document, path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
    assert write_page(document, tmp_path / "new" / "page.html").is_file()


def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(synthetic(["old"], 2, 9), tmp_path / "page.html")
    before = path.read_bytes()
    write = Path.write_text

    def full(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InvalidInputError, match=r"cannot write .*page\.html.* \(No space left on device\)"):
        write_page(synthetic(["new"], 2, 9), path)
    with pytest.warns(UserWarning, match=r"No space left.*The results are complete.*antiphase report .*"):
        add_page(lambda: synthetic(["new"], 2, 9), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == before


def test_a_page_appears_under_its_name_only_when_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_text, []

    def watched(self, text, **options):
        assert not (tmp_path / "page.html").exists()
        written.append(self.name)
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", watched)
    write_page(synthetic(["m"], 2, 9), tmp_path / "page.html")
    assert len(written) == 1
    assert written[0].startswith(".page.html.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_the_charting_library_is_the_one_that_was_looked_at() -> None:
    assets = resources.files("antiphase.page") / "assets"
    text = (assets / "echarts.min.js").read_bytes()
    assert hashlib.sha256(text).hexdigest() == ECHARTS_SHA256
    assert b"Licensed to the Apache Software Foundation" in text[:400]
    assert "Apache License" in (assets / "licences" / "ECHARTS-LICENSE").read_text()
    assert "Apache ECharts" in (assets / "licences" / "ECHARTS-NOTICE").read_text()
    assert "Mike Bostock" in (assets / "licences" / "D3-LICENSE").read_text()
