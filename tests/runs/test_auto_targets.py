"""`full:auto`: refusals, the plan, and a run that is continued."""

import json

import pandas as pd
import pytest

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.probing.probe import _ProbeRun
from antiphase.probing.probe_config import ProbeConfig
from antiphase.runs import target_plan
from antiphase.runs.target_plan import targets_within

OPTIONS = {
    "num_prompts": 3, "samples": 2, "max_new_tokens": 24, "batch_size": 2, "num_resamples": 20, "progress": False,
    "figures": False, "report": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimators": ("own:auto",)}, "'own:auto': 'own' measures all tokens with one backward pass"),
        ({"estimators": ("last:auto",)}, "Use 'last'"),
        ({"estimators": ("full:soon",)}, "expected NAME, NAME:TARGETS or NAME:auto"),
        ({"estimators": ("fall:auto",)}, "fall"),
        ({"estimators": ("full:auto",), "auto_seconds": 0.0}, "must be a positive number of seconds; got 0"),
        ({"estimators": ("full:auto",), "auto_seconds": float("nan")}, "must be a positive number"),
        ({"estimators": ("full:16",), "auto_seconds": 60.0}, "got only full:16"),
        ({"estimators": ("full:auto", "full:16")}, "named twice"),
    ],
)
def test_bad_input(options, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ProbeConfig(("demo",), **options)


def test_plan_by_hand() -> None:
    # a + b = 2 and a + 4 b = 5, so that a = b = 1: ten rollouts take 10 (1 + n).
    assert targets_within(100.0, 2.0, 5.0, rollouts=10) == 9
    assert targets_within(99.0, 2.0, 5.0, rollouts=10) == 8
    assert targets_within(-5.0, 2.0, 5.0, rollouts=10) == 1
    # Four tokens took no longer than one: the plan is bounded all the same.
    assert targets_within(100.0, 3.0, 2.9, rollouts=10) == 13  # 10 / (2.9 / 4)
    assert targets_within(100.0, 3.0, 3.0, rollouts=10, numbers=(1, 1)) == 3
    assert targets_within(100.0, 2.0, 5.0, rollouts=10, numbers=(4, 16)) == 36  # a = 1, b = 0.25


def test_auto_is_the_planned_number(model_dir, monkeypatch) -> None:
    asked = []

    def plan(loaded, items, num_rollouts, spec, units, seconds) -> int:
        asked.append((spec.estimator, len(items), num_rollouts, seconds))
        return 5

    monkeypatch.setattr(target_plan, "plan", plan)
    auto = antiphase.probe(str(model_dir), estimators=("own", "full:auto"), auto_seconds=30.0, **OPTIONS)
    assert asked == [("full", 2, 6, 30.0)]
    given = antiphase.probe(str(model_dir), estimators=("own", "full:5"), **OPTIONS)
    pd.testing.assert_frame_equal(auto.tokens, given.tokens, check_exact=True)
    assert auto.summary["results"] == given.summary["results"]
    assert [result["targets_per_rollout"] for result in auto.summary["results"]] == [None, 5]
    assert auto.summary["config"]["estimators"] == ["own", "full:auto"]


def test_time_limit(model_dir) -> None:
    short, long = (
        antiphase.probe(str(model_dir), estimators=("full:auto",), auto_seconds=seconds, **OPTIONS)
        for seconds in (1e-3, 1e6)
    )
    assert (short.rollouts.num_measured == 1).all()
    assert short.summary["results"][0]["targets_per_rollout"] == 1
    assert (long.rollouts.num_measured == long.rollouts.num_tokens).all()


def test_continued_run_keeps_its_plan(model_dir, tmp_path, monkeypatch) -> None:
    out, tables, calls = tmp_path / "run", _ProbeRun.tables, []

    def stopping(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tables(self, *arguments)

    monkeypatch.setattr(target_plan, "plan", lambda *_: 4)
    monkeypatch.setattr(_ProbeRun, "tables", stopping)
    options = {**OPTIONS, "estimators": ("full:auto",), "auto_seconds": 9.0, "out": out}
    with pytest.raises(KeyboardInterrupt):
        antiphase.probe(str(model_dir), **options)
    facts = json.loads((out / "parts" / "model-000" / "model.json").read_text())
    assert facts["planned_targets"] == {"full": 4}
    # Another plan would now give another number, and must not be made.
    monkeypatch.setattr(target_plan, "plan", lambda *_: pytest.fail("the plan was made again"))
    monkeypatch.setattr(_ProbeRun, "tables", tables)
    found = antiphase.probe(str(model_dir), **options, resume=True)
    assert found.rollouts.num_measured.max() == 4
    assert found.summary["results"][0]["targets_per_rollout"] == 4


def test_evaluation_plans_too(model_dir, monkeypatch) -> None:
    monkeypatch.setattr(target_plan, "plan", lambda *_: 3)
    options = {"tasks": ("digit_sum:num_digits=4",), "num_problems": 2, "max_new_tokens": 12, "num_resamples": 20}
    found = antiphase.evaluate(
        str(model_dir), estimators=("full:auto",), progress=False, figures=False, report=False, **options
    )
    assert found.summary["results"][0]["targets_per_rollout"] == 3
    assert found.rollouts.num_measured.max() == 3


def test_note_of_the_draw(model_dir) -> None:
    found = antiphase.probe(str(model_dir), estimators=("full:9", "own"), **OPTIONS)
    few, every = found.summary["results"]
    for unit in ("token", "type"):
        assert few["units"][unit]["subsampling_error"] > 0
        assert every["units"][unit]["subsampling_error"] == 0
    text = " ".join(str(found).split())
    assert text.count("The draw alone gives ρ by type a standard error of") == 1
    assert "full: at most 9 tokens of each rollout were drawn" in text
