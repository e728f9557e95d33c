"""Units, steps, chain and controls: the page holds the numbers of the summary and of the tables."""

import numpy as np
import pandas as pd
import pytest

from antiphase.errors import InvalidInputError
from antiphase.page.building import signals_document
from antiphase.page.html import render_page
from antiphase.page.payload import payload_of
from antiphase.page.subjects import BY_UNIT, reading_of, subjects_of
from antiphase.page.unit_correlations import headline_entry
from antiphase.page.wording import verdict, warnings_of
from page_cases import by_unit, in_units, result, stepped, synthetic, tables, unpacked


def stored(columns, entry):
    return unpacked(columns[entry["blob"]], entry["dtype"], entry["length"])


def case(num_rollouts=4, num_tokens=25, length=10):
    """Tables of two estimators on the same tokens, and their results."""
    found = [tables("m", num_rollouts, num_tokens, estimator=name) for name in ("own", "last")]
    results = [in_units(result(*frames, "m", name)) for name, frames in zip(("own", "last"), found, strict=True)]
    tokens, rollouts = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    return tokens, by_unit(rollouts), stepped(tokens, length), results


def document_of(tokens, rollouts, steps, results):
    return signals_document("probe", "run", tokens, rollouts, {"config": {}, "results": results}, steps=steps)


# The summary's numbers


def test_readings_keep_every_number_of_the_summary() -> None:
    entry = in_units(result(*tables("m", 4, 25), "m"))
    for found in (reading_of(entry), reading_of({**entry, "task": "t", "signals": entry, "metrics": {}})):
        assert found["headline"] == "type"
        assert list(found["units"]) == ["type", "token", "step"]
        for key in ("units", "chain", "controls"):
            assert found[key] == entry[key]
        assert headline_entry(found) == entry["units"]["type"]


def test_readings_of_before_there_were_units() -> None:
    entry = result(*tables("m", 4, 25), "m")
    entry["spearman_unique"] = {"value": -0.3, "low": -0.4, "high": -0.2}
    found = reading_of(entry)
    assert (found["headline"], found["chain"], found["controls"]) == ("token", [], {})
    token = found["units"]["token"]
    assert {end: token[end] for end in ("value", "low", "high")} == entry["spearman"]
    assert (token["num_items"], token["num_undefined"]) == (100, 0)
    assert found["units"]["type"] == {
        **entry["spearman_unique"], "num_items": entry["num_unique_tokens"], "num_undefined": None, "within": None,
    }  # fmt: skip
    assert "step" not in found["units"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["units"]["step"].update(value="low"), "units step must be a number, got 'low'"),
        (lambda e: e["units"]["type"].update(num_items=0.5), "units type num_items must be a number, got 0.5"),
        (lambda e: e["units"]["token"]["within"].update(high=[]), "units token within must be a number"),
        (lambda e: e["units"]["step"]["given"]["both"].update(low="x"), "units step given both must be a number"),
        (lambda e: e["chain"][0].update(value="x"), "chain entropy–logit must be a number, got 'x'"),
        (lambda e: e["controls"]["position"]["partial"].update(value="x"), "controls position partial must be a numb"),
        (lambda e: e.update(headline="word"), "headline must be one of type, token, step, got 'word'"),
    ],
)
def test_units_that_are_no_numbers_are_refused(change, message) -> None:
    entry = in_units(result(*tables("m", 4, 25), "m"))
    change(entry)
    with pytest.raises(InvalidInputError, match=f"the result of 'm': {message}"):
        reading_of(entry)


def test_the_verdict_and_the_warnings_are_about_the_headline() -> None:
    entry = in_units(result(*tables("m", 4, 25), "m")) | {"num_prompts": 4}
    ends = {"value": -0.5, "low": -0.6, "high": -0.4}
    for headline in ("type", "step"):
        for unit in entry["units"]:
            entry["units"][unit] |= ends if unit == headline else {"value": 0.5, "low": 0.4, "high": 0.6}
        entry["units"]["step"]["given"]["both"] = {"value": -0.1, "low": -0.3, "high": 0.1}
        found = reading_of(entry | {"headline": headline})
        assert verdict(found) == "inverted"
        said = "; ".join(warnings_of(found))
        assert "without a ρ of their own (too few measured items, or a constant series): 1 of 4 by step" in said
        held = "with the lengths and places of the steps held fixed, ρ over them is undecided (−0.10)"
        assert (held in said) == (headline == "step")
    found["units"]["step"]["given"]["both"] = ends
    assert "held fixed" not in "; ".join(warnings_of(found))


def test_the_overview_prints_every_unit() -> None:
    document = synthetic(["m"], 4, 25)
    html = " ".join(render_page(document).replace("−", "-").replace("&nbsp;", " ").split())
    (reading,) = document.subjects[0].readings
    for unit, entry in reading["units"].items():
        mark = ' <small class="tag">headline</small>' if unit == "type" else ""
        count = f"<small>{entry['num_items']:,} {unit}s, {entry['num_undefined']} undefined</small>"
        assert f"{entry['value']:+.3f}{mark} <br>[{entry['low']:+.3f}, {entry['high']:+.3f}] <br>{count}" in html


# The tables' columns


def test_the_page_holds_the_steps_of_the_table() -> None:
    tokens, rollouts, steps, results = case()
    values, columns = payload_of(document_of(tokens, rollouts, steps.sample(frac=1, random_state=0), results))
    (subject,) = values["subjects"]
    assert subject["steps"]["starts"] == [0, 3, 6, 9, 12]
    own = steps[steps.estimator == "own"]
    for name, column in (("start", "start"), ("tokens", "num_tokens"), ("position", "position")):
        assert stored(columns, subject["steps"][name]).tolist() == own[column].tolist()
    for estimator in ("own", "last"):
        rows = steps[steps.estimator == estimator]
        for name in ("entropy", "strength"):
            held = stored(columns, subject["steps"][name][estimator])
            assert held.tobytes() == rows[name].to_numpy(dtype="<f4").tobytes()
        for column in BY_UNIT:
            known = rollouts[rollouts.estimator == estimator][column].to_numpy()
            assert stored(columns, subject["byUnit"][column][estimator]).tobytes() == known.tobytes()


def test_a_page_that_holds_some_rollouts_holds_their_steps() -> None:
    tokens, rollouts, steps, results = case(12, 25)
    values, columns = payload_of(document_of(tokens, rollouts, steps, results), max_characters=4_000)
    (subject,) = values["subjects"]
    ids = [rollout["id"] for rollout in subject["rollouts"]]
    assert 0 < len(ids) < 12
    own = steps[(steps.estimator == "own") & steps.rollout_id.isin(ids)]
    assert subject["steps"]["starts"] == list(range(0, 3 * len(ids) + 1, 3))
    assert stored(columns, subject["steps"]["entropy"]["own"]).tolist() == pytest.approx(own.entropy.tolist())
    held = stored(columns, subject["byUnit"]["spearman_type"]["own"])
    rows = rollouts[(rollouts.estimator == "own") & rollouts.rollout_id.isin(ids)]
    assert held.tolist() == rows.spearman_type.tolist()


def test_rollouts_of_one_step_and_of_none() -> None:
    tokens, rollouts, steps, results = case(3, 9)
    (subject,) = subjects_of(tokens, rollouts, results, steps=steps)
    assert subject.steps.starts.tolist() == [0, 1, 2, 3]
    assert subject.steps.num_tokens.tolist() == [9, 9, 9]
    # A run that was begun before there were steps.
    some = steps[steps.rollout_id != steps.rollout_id[0]]
    (subject,) = subjects_of(tokens, rollouts, results, steps=some)
    assert subject.steps.starts.tolist() == [0, 0, 1, 2]
    (subject,) = subjects_of(tokens, rollouts, results, steps=steps.iloc[:0])
    assert subject.steps.starts.tolist() == [0, 0, 0, 0]
    # Steps of rollouts that are not shown, and a table without tokens.
    other = pd.concat([steps, steps.assign(rollout_id="elsewhere")])
    (subject,) = subjects_of(tokens, rollouts, results, steps=other)
    assert subject.steps.starts.tolist() == [0, 1, 2, 3]
    (subject,) = subjects_of(tokens.iloc[:0], rollouts, results, steps=steps)
    assert subject.steps is None


OTHER_STEPS = "the steps of the estimator 'last' differ from those of the estimator 'own'"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[s.step != 1], "do not cover its rollouts from the first token to the last"),
        (
            lambda s: s.assign(num_tokens=s.num_tokens + 1),
            "do not cover its rollouts from the first token to the last",
        ),
        (
            lambda s: s.assign(start=s.start + (s.step == 1)),
            "do not cover its rollouts from the first token to the last",
        ),
        (lambda s: pd.concat([s, s]), "do not cover its rollouts from the first token to the last"),
        (lambda s: s[(s.estimator == "own") | (s.step != 2)], OTHER_STEPS),
        (lambda s: s[s.estimator == "own"], OTHER_STEPS),
    ],
)
def test_steps_that_do_not_match_are_refused(change, message) -> None:
    tokens, rollouts, steps, results = case()
    with pytest.raises(InvalidInputError, match=message):
        subjects_of(tokens, rollouts, results, steps=change(steps))


def test_an_old_run_has_neither_steps_nor_chain() -> None:
    tokens, rollouts = tables("m", 4, 25)
    old = document_of(tokens, rollouts, None, [result(tokens, rollouts, "m")])
    (subject,) = old.subjects
    assert (subject.steps, dict(subject.by_unit)) == (None, {})
    html = render_page(old)
    assert 'id="steps"' not in html
    assert 'id="chain"' not in html
    assert "not measured" in html
    assert np.isfinite(subject.correlations["own"]).all()
    new = render_page(document_of(*case()))
    assert 'id="steps"' in new
    assert 'id="chain"' in new
