"""Subjects from the tables, and what is said of their readings."""

import math

import numpy as np
import pandas as pd
import pytest

from antiphase.errors import InvalidInputError
from antiphase.page.document import Subject
from antiphase.page.overview import interval, number, share
from antiphase.page.subjects import reading_of, subjects_of
from antiphase.page.wording import FEW_PROMPTS, FEW_TOKENS, signed, verdict, warnings_of
from antiphase.types import cell_column
from page_cases import alternatives_of, evaluated, result, synthetic, tables

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"


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
        "a token of all estimators is missing": "'p0/1' has 20 tokens in the rollout table and 19 in the token table",
        "tokens of another run": "rollout 'p0/0' has 20 tokens in the rollout table and 0 in the token table",
        "tokens of another model": "rollout 'p0/0' has 20 tokens in the rollout table and 0 in the token table",
        "a token stands twice": "two rows of the estimator 'own' have the same rollout and the same position",
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


def test_one_rollout_is_one() -> None:
    entry = {"value": None, "low": None, "high": None, "num_undefined": 1, "num_items": 3}
    said = warnings_of(reading(num_rollouts=1, targets_per_rollout=1, units={"token": entry}, headline="token"))
    assert any(text.endswith("series): 1 of 1 by token") for text in said)
    assert any(text.startswith("only 1 random token of each rollout") for text in said)


def test_three_prompts_have_no_verdict() -> None:
    said = {num: verdict(reading(num_prompts=num, **bounds(-0.5, -0.6, -0.4))) for num in (2, 3, 4)}
    assert said == {2: "undecided", 3: "undecided", 4: "inverted"}


def test_nothing_to_warn_of() -> None:
    assert warnings_of(reading(), np.array([0.1, -0.1])) == []
    assert warnings_of(reading()) == []


@pytest.mark.parametrize(
    ("fires", "silent", "message"),
    [
        ({"num_tokens": FEW_TOKENS - 1}, {"num_tokens": FEW_TOKENS}, "few tokens: 499, below 500"),
        ({"num_prompts": FEW_PROMPTS - 1}, {"num_prompts": FEW_PROMPTS}, "few prompts: 7"),
        (
            {"num_undefined": 1},
            {"num_undefined": 0},
            r"without a ρ of their own \(too few measured items, or a constant series\): 1 of 20 by token",
        ),
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
