"""The trials of the tuning study: the best one of each method, and ties."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "studies/second/tuned.py"
_SPEC = importlib.util.spec_from_file_location("tuned", SCRIPT)
tuned = importlib.util.module_from_spec(_SPEC)
sys.modules["tuned"] = tuned
_SPEC.loader.exec_module(tuned)


def record(method, accuracy, trained=True):
    return {"method": method, "trained": trained, "results": [{"metrics": {"pass@1": {"value": accuracy}}}]}


def test_the_best_mean_over_seeds_wins_and_ties_go_to_the_lower_rate():
    rows = [
        record("base", 1.0, trained=False),
        record("grpo-lr1e-4", 0.5),
        record("grpo-lr1e-4", 0.9),
        record("grpo-lr8e-4", 0.8),
        record("grpo-lr8e-4", 0.4),
        record("corr-po-dapo-lr1_6e-3-w1", 0.75),
        record("corr-po-dapo-lr1_6e-3-w1", 0.65),
        record("corr-po-dapo-lr2e-4-w02", 0.65),
        record("corr-po-dapo-lr2e-4-w02", 0.75),
    ]
    trials = tuned.trials_of(rows)
    assert [(trial.method, trial.num_seeds) for trial in trials] == [
        ("grpo", 2), ("grpo", 2), ("corr-po-dapo", 2), ("corr-po-dapo", 2)
    ]  # fmt: skip
    grpo, corr = tuned.best_of(trials)
    assert (grpo.learning_rate, grpo.accuracy) == (1e-4, pytest.approx(0.7))
    assert (corr.learning_rate, corr.weight) == (2e-4, "02")
    assert trials[2].learning_rate == pytest.approx(1.6e-3)


def test_an_unfinished_tuning_is_refused():
    two_seeds = [record("grpo-lr1e-4", 0.5), record("grpo-lr1e-4", 0.9), record("grpo-lr2e-4", 0.8)]
    with pytest.raises(ValueError, match="equally many seeds"):
        tuned.best_of(tuned.trials_of(two_seeds))
    one_trial = [record("grpo-lr1e-4", 0.5), record("grpo-lr2e-4", 0.5), record("dapo-lr2e-4", 0.8)]
    with pytest.raises(ValueError, match=r"equally many trials.*'grpo': 2, 'dapo': 1"):
        tuned.best_of(tuned.trials_of(one_trial))


def test_a_name_without_a_learning_rate_is_refused():
    with pytest.raises(ValueError, match="'grpo' is not named METHOD-lrRATE"):
        tuned.trials_of([record("grpo", 0.5)])


def test_the_second_round_decides_between_the_two_best():
    first = [record("grpo-lr1e-4", 0.5), record("grpo-lr2e-4", 0.75), record("grpo-lr4e-4", 0.7)]
    kept = tuned.best_of(tuned.trials_of(first), 2)
    assert [trial.learning_rate for trial in kept] == [2e-4, 4e-4]
    second = [record("grpo-lr2e-4", 0.25), record("grpo-lr4e-4", 0.5)]
    joined = tuned.both_rounds(tuned.trials_of(first), tuned.trials_of(second))
    assert [(trial.accuracy, trial.num_seeds) for trial in joined] == [(0.5, 2), (pytest.approx(0.6), 2)]
    assert tuned.best_of(joined)[0].learning_rate == 4e-4


def test_a_second_round_of_other_trials_is_refused():
    first = [record("grpo-lr1e-4", 0.5), record("grpo-lr2e-4", 0.75), record("grpo-lr4e-4", 0.7)]
    second = [record("grpo-lr1e-4", 0.5), record("grpo-lr2e-4", 0.5)]
    with pytest.raises(ValueError, match=r"Missing: grpo with 0\.0004\. Not among the two best: grpo with 0\.0001\."):
        tuned.both_rounds(tuned.trials_of(first), tuned.trials_of(second))


def test_the_table_marks_the_best(tmp_path, monkeypatch, capsys):
    rows = [record("gspo-lr1e-4", 0.5), record("gspo-lr2e-4", 0.625), record("gspo-lr4e-4", 0.25)]
    write(tmp_path / "first", rows)
    monkeypatch.setattr(sys, "argv", ["tuned.py", str(tmp_path / "first")])
    tuned.main()
    printed = capsys.readouterr().out
    assert "| gspo | 0.0002 | — | **0.625** | 1 |" in printed
    assert "| gspo | 0.0001 | — | **0.500** | 1 |" in printed
    assert "| gspo | 0.0004 | — | 0.250 | 1 |" in printed
    write(tmp_path / "second", [record("gspo-lr1e-4", 0.75), record("gspo-lr2e-4", 0.25)])
    monkeypatch.setattr(sys, "argv", ["tuned.py", str(tmp_path / "first"), str(tmp_path / "second")])
    tuned.main()
    assert "| gspo | 0.0001 | — | **0.625** | 2 |" in capsys.readouterr().out


def write(folder, rows):
    folder.mkdir()
    (folder / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
