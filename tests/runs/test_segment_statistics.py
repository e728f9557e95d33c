"""ρ of the thought and of the answer: in the tables, the summary and the text of a probe and of an evaluation."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.page.html import render_page
from antiphase.probing.fingerprint import Fingerprint
from antiphase.runs.segments import segment_statistics, signals_within
from antiphase.runs.unit_spec import UnitSpec
from antiphase.signal_spec import PARTS, UNITS, SignalSpec
from antiphase.signals.measure import token_signals
from antiphase.steps.assigning import batch_steps
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model
from evaluation_cases import TASK, problems

THOUGHT = "<think>It is 3. No, 4 then! Wait... is it? Yes it is. So. We have it.</think>\n\n"
ANSWER = "The answer is 4. Done here. And so on it goes. A is b. C is d. E is f."
ROWS = [
    {"prompt": "one", "completion": THOUGHT + ANSWER},
    {"prompt": "two", "completion": "A plain text. It has no thought. Nothing at all? None. Really none! At all."},
    {"prompt": "two", "completion": "<think>It never ends. And it goes on. On and on. Why so? Because. It is."},
    {"prompt": "three", "completion": f"x y z 1 2. {THOUGHT.removeprefix('<think>')}{ANSWER.lower()}"},
    {"prompt": "four", "completion": f"{THOUGHT}It is 4."},
]
OPTIONS = {"num_resamples": 20, "progress": False, "allow_short": True}


def probed(rows=ROWS, **options):
    return antiphase.probe(
        tiny_model(), tokenizer=byte_tokenizer(), rollouts=rows, figures=False, **{**OPTIONS, **options}
    )


@pytest.fixture(scope="module")
def found():
    return probed()


@pytest.fixture(scope="module", params=PARTS)
def chosen(request):
    return probed(segment=request.param)


def pairs(tokens, unit):
    """Entropy and strength of the items of a unit that is no step."""
    kept = tokens.dropna(subset="strength")
    if unit == "type":
        kept = kept.groupby("token_id")[["entropy", "strength"]].mean()
    return kept.entropy, kept.strength


def rho(tokens, unit, least=8):
    x, y = pairs(tokens, unit)
    return stats.spearmanr(x, y).statistic if len(x) >= least else np.nan


def test_every_token_has_its_segment(found) -> None:
    texts = found.tokens.groupby(["rollout_id", "segment"], sort=False).token.agg("".join)
    told = {"one/0": (THOUGHT, ANSWER), "two/0": ("", ROWS[1]["completion"]), "two/1": (ROWS[2]["completion"], "")}
    names = dict(zip(("one/0", "two/0", "two/1", "three/0", "four/0"), found.rollouts.rollout_id, strict=True))
    for name, wanted in told.items():
        assert tuple(texts.get((names[name], part), "") for part in PARTS) == wanted
    assert found.tokens.segment.dtype == found.tokens.token.dtype


def test_summary_and_rollouts_by_hand(found) -> None:
    result = found.result()
    assert result["segment"] == "all"
    for part in PARTS:
        entry, own = result["segments"][part], found.tokens[found.tokens.segment == part]
        assert entry["num_tokens"] == len(own)
        assert entry["num_rollouts"] == own.rollout_id.nunique() == 4
        for unit in ("token", "type"):
            assert entry["units"][unit]["value"] == pytest.approx(rho(own, unit), abs=1e-6)
            column = found.rollouts.set_index("rollout_id")[f"spearman_{unit}_{part}"]
            for rollout_id, value in column.items():
                by_hand = rho(own[own.rollout_id == rollout_id], unit)
                assert value == pytest.approx(by_hand, abs=1e-6, nan_ok=True)
            assert entry["units"][unit]["num_undefined"] == int(column.isna().sum()) - 1
            assert entry["units"][unit]["within"]["value"] == pytest.approx(column.mean())


def test_a_step_is_of_the_segment_of_its_first_token(found) -> None:
    first = found.steps.merge(
        found.tokens[["rollout_id", "position", "segment"]],
        left_on=["rollout_id", "start"],
        right_on=["rollout_id", "position"],
    )
    for part in PARTS:
        own, entry = first[first.segment == part], found.result()["segments"][part]["units"]["step"]
        assert entry["num_items"] == len(own) > 5
        assert entry["value"] == pytest.approx(stats.spearmanr(own.entropy, own.strength).statistic, abs=1e-6)
        for rollout_id, rows in own.groupby("rollout_id"):
            value = found.rollouts.set_index("rollout_id")[f"spearman_step_{part}"][rollout_id]
            by_hand = stats.spearmanr(rows.entropy, rows.strength).statistic if len(rows) >= 5 else np.nan
            assert value == pytest.approx(by_hand, abs=1e-6, nan_ok=True)


def test_the_chosen_segment_alone_is_correlated(found, chosen) -> None:
    part = chosen.summary["config"]["segment"]
    result, other = chosen.result(), found.result()
    assert result["segment"] == part
    # All tokens are measured and kept, with the same numbers; and ρ by token and type is that of the segment.
    columns = [name for name in found.tokens if name != "step"]
    pd.testing.assert_frame_equal(chosen.tokens[columns], found.tokens[columns], check_exact=True)
    for unit in ("token", "type"):
        for end in ("value", "low", "high"):
            assert result["units"][unit][end] == other["segments"][part]["units"][unit][end]
        assert result["units"][unit]["num_undefined"] == other["segments"][part]["units"][unit]["num_undefined"] + 1
        column = f"spearman_{unit}"
        pd.testing.assert_series_equal(
            chosen.rollouts[column], found.rollouts[f"{column}_{part}"], check_names=False, check_exact=True
        )
    own = found.tokens[found.tokens.segment == part]
    assert (result["num_tokens"], result["num_rollouts"]) == (len(own), len(ROWS))
    assert result["entropy_mean"] == pytest.approx(own.entropy.mean())
    control = stats.spearmanr(own.entropy, own.logprob_control).statistic
    assert result["logprob_control"]["value"] == pytest.approx(control, abs=1e-6)
    means = own.groupby("rollout_id").entropy.mean()
    for row in chosen.rollouts.itertuples():
        assert row.entropy_mean == pytest.approx(means.get(row.rollout_id, np.nan), abs=1e-5, nan_ok=True)
        assert row.num_measured == (own.rollout_id == row.rollout_id).sum()
        assert row.num_tokens == (found.tokens.rollout_id == row.rollout_id).sum()


@pytest.mark.parametrize("strength", ["mean", "joint"])
def test_steps_of_the_chosen_segment(strength) -> None:
    """By lines, where a line holds the end of a thought and an answer, and by the same rollouts cut by hand."""
    rows = [{"prompt": "q", "completion": "<think>a\nb c\nd e f\ng\nh i</think> j\nk l\nm n o\np\nq r s"}]
    options = {"splitter": "line", "min_steps": 3, "min_tokens": 3, "step_strength": strength}
    counts = {part: probed(rows, segment=part, **options) for part in PARTS}
    for found in counts.values():
        assert found.steps.num_tokens.sum() == len(found.tokens)
        assert found.tokens.groupby("step").segment.nunique().eq(1).all()
    thought, answer = (counts[part].rollouts.num_steps.item() for part in PARTS)
    assert (thought, answer) == (5, 5)
    for part, first in (("thought", 0), ("answer", 5)):
        steps = counts[part].steps[first : first + 5]
        by_hand = stats.spearmanr(steps.entropy, steps.strength).statistic
        assert counts[part].rollouts.spearman_step.item() == pytest.approx(by_hand, abs=1e-6)
        assert counts[part].correlation("step")["value"] == pytest.approx(by_hand, abs=1e-6)
    # Uncut, the line on the border is one step, of the thought.
    assert len(probed(rows, **options).steps) == 9


def test_a_run_without_thoughts_says_so() -> None:
    found = probed([ROWS[1]])
    assert found.result()["segments"] == {}
    assert "thought" not in str(found)
    for unit in UNITS:
        assert found.rollouts[f"spearman_{unit}_thought"].isna().all()
        assert found.rollouts[f"spearman_{unit}_answer"].tolist() == found.rollouts[f"spearman_{unit}"].tolist()
    # Asked for the thought, everything is undefined and counted, and nothing fails.
    found = probed([ROWS[1]], segment="thought", estimators=("own", "full:4"))
    for result in found.summary["results"]:
        for unit in UNITS:
            assert (result["units"][unit]["value"], result["units"][unit]["num_items"]) == (None, 0)
            assert result["units"][unit]["num_undefined"] == result["num_rollouts"] == 1
    assert found.rollouts[["spearman", "pearson", "logprob_control", "entropy_mean"]].isna().all(axis=None)
    assert "undefined" in str(found)


def test_the_table_and_the_page_show_both(found, chosen) -> None:
    part = chosen.summary["config"]["segment"]
    text, result = str(found), found.result()
    header, _, *rows = text.split("\n")[1:5]
    assert re.search(r"ρ by type +thought +answer +ρ by token", header)
    for name in PARTS:
        entry = result["segments"][name]["units"]["type"]
        value = f"{entry['value']:+.3f}".replace("-", "−")
        assert value in "".join(rows)
        assert f"ρ of the {name} by type {value} [" in " ".join(text.split())
        assert f"{name} {value} [" in render_page(found.document())
    assert "segment:" not in text
    assert f"segment: only the tokens of the {part} are correlated." in str(chosen)
    assert f"only the tokens of the {part} are correlated in this table" in render_page(chosen.document())
    assert "are correlated in this table" not in render_page(found.document())


def test_signals_within_a_part_of_the_tokens() -> None:
    batch = TokenBatch.from_ids([[5, 6], [7]], [[8, 9, 10, 11], [12, 13]], padding_side="left")
    numbers = batch_steps(batch, byte_tokenizer(), "fixed:2")
    signals = token_signals(tiny_model(), batch, SignalSpec(num_alternatives=2), steps=numbers)
    chosen = batch.completion_mask & (torch.arange(6) >= torch.tensor([[3], [5]]))
    found = signals_within(signals, chosen, numbers)
    assert torch.equal(found.measured, chosen)
    for name in ("entropy", "logprob", "strength", "self_certainty", "logprob_control"):
        assert torch.equal(getattr(found, name).isnan(), ~chosen)
        assert torch.equal(getattr(found, name)[chosen], getattr(signals, name)[chosen])
    assert torch.equal(found.magnitudes.logit.isnan(), ~chosen)
    assert torch.equal(found.strength_by_projection[chosen], signals.strength_by_projection[chosen])
    # The first rollout's first step begins at a token that is left out; so does the second rollout's only one.
    assert found.steps.num_tokens.tolist() == [[0, 2], [0, 0]]
    assert found.steps.strength.isnan().tolist() == [[True, False], [True, True]]


def test_a_run_of_before_there_were_segments(found, tmp_path) -> None:
    out = found.save(tmp_path / "run")
    tokens = found.tokens.drop(columns="segment")
    assert segment_statistics(tokens, found.rollouts, found.steps, UnitSpec(), num_resamples=5, seed=0) == {}
    half = found.tokens.assign(segment=found.tokens.segment.where(found.tokens.position > 3, None))
    assert segment_statistics(half, found.rollouts, found.steps, UnitSpec(), num_resamples=5, seed=0) == {}
    tokens.to_parquet(out / "tokens.parquet")
    rollouts = found.rollouts.drop(columns=[f"spearman_{unit}_{part}" for unit in UNITS for part in PARTS])
    rollouts.to_parquet(out / "rollouts.parquet")
    summary = json.loads((out / "summary.json").read_text())
    for result in summary["results"]:
        del result["segment"], result["segments"]
    (out / "summary.json").write_text(json.dumps(summary))
    old = Fingerprint.load(out)
    assert "thought" not in str(old)
    assert "ρ by type" in render_page(old.document())


def test_resuming_compares_the_segment(model_dir, tmp_path) -> None:
    options = {"num_prompts": 2, "max_new_tokens": 12, "out": tmp_path / "run", "figures": False, **OPTIONS}
    antiphase.probe(str(model_dir), report=False, **options)
    with pytest.raises(InvalidInputError, match="segment was 'all', is 'thought'"):
        antiphase.probe(str(model_dir), segment="thought", resume=True, **options)
    # A run that is older than the option correlated all tokens.
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["config"]["segment"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert antiphase.probe(str(model_dir), resume=True, report=False, **options).result()["segment"] == "all"
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InvalidInputError, match="segment must be one of all, thought, answer; got 'both'"):
        antiphase.probe(str(model_dir), segment="both", **options)


def given(think):
    rows = []
    for problem in problems(4):
        for sample, right in enumerate((True, False)):
            answer = problem.answer if right else str((int(problem.answer) + 1) % 3)
            thought = f"<think>{problem.prompt[:9]} is it? So it is.{'.' * sample}</think>\n" if think else ""
            rows.append(
                {
                    "problem_id": problem.problem_id,
                    "completion": f"{thought}It must be so, {answer * 3} or A{answer}",
                    "sample": sample,
                }
            )
    return rows


def test_an_evaluation_by_hand(model_dir, tmp_path) -> None:
    options = {"tasks": (TASK,), "num_problems": 4, "unit": "token", "figures": False, "progress": False}
    runs = {
        segment: antiphase.evaluate(
            str(model_dir), rollouts=given(True), segment=segment, num_resamples=20, out=tmp_path / segment, **options
        )
        for segment in ("all", "thought")
    }
    signals = {segment: run.summary["results"][0]["signals"] for segment, run in runs.items()}
    tokens = runs["all"].tokens
    for part in PARTS:
        by_hand = rho(tokens[tokens.segment == part], "token")
        assert signals["all"]["segments"][part]["units"]["token"]["value"] == pytest.approx(by_hand, abs=1e-6)
    own = rho(tokens[tokens.segment == "thought"], "token")
    assert signals["thought"]["units"]["token"]["value"] == pytest.approx(own, abs=1e-6)
    # ι and its controls are over the segment, the length is not.
    score = runs["thought"].rollouts.set_index("rollout_id")
    for rollout_id, rows in tokens.groupby("rollout_id"):
        kept = rows[rows.segment == "thought"]
        assert score.spearman_token[rollout_id] == pytest.approx(rho(kept, "token"), abs=1e-6)
        assert score.logprob_mean[rollout_id] == pytest.approx(kept.logprob.mean(), abs=1e-5)
        assert score.num_tokens[rollout_id] == len(rows)
    assert re.search(r"ρ by token +thought +answer +ρ by type", str(runs["all"]))
    assert "ρ of the answer by token" in " ".join(str(runs["thought"]).split())
    with pytest.raises(InvalidInputError, match="segment is 'all' and 'thought'"):
        antiphase.compare([f"a={tmp_path}/all", f"b={tmp_path}/thought"])
