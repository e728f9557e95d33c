"""What the page holds of a document, and its limit."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.page.building import signals_document, training_document
from antiphase.page.document import joined
from antiphase.page.packing import packed
from antiphase.page.payload import evenly, finite, payload_of
from antiphase.types import cell_column
from page_cases import alternatives_of, evaluated, log_decoded, result, tables, unpacked

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"


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


def test_runs_without_settings_are_no_seeds_of_each_other() -> None:
    rows = [{"kind": "probe", "step": 1, "probe/spearman": 0.1}]
    documents = [training_document(name, rows, {}, None) for name in ("a", "b")]
    assert len({document.trainings[0].group for document in documents}) == 2
