"""A run is of the commit that was checked out when it began, whatever is committed while it goes on."""

import json
import subprocess
from types import SimpleNamespace

import pytest

import antiphase
import antiphase.evaluation.evaluate
from antiphase.evaluation.evaluate import evaluate
from antiphase.probing.probe import _ProbeRun
from antiphase.runs import versions as summary
from evaluation_cases import TASK

OPTIONS = {"max_new_tokens": 8, "num_resamples": 10, "figures": False, "report": False, "progress": False}


@pytest.fixture
def head(monkeypatch):
    """What a stand-in for git says, `before` until a test changes it."""
    said = SimpleNamespace(stdout="before\n", returncode=0)
    git = SimpleNamespace(run=lambda *_, **__: said, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(summary, "subprocess", git)
    summary.commit.cache_clear()
    yield said
    summary.commit.cache_clear()


def test_a_repository_without_a_commit_has_none(head):
    head.stdout, head.returncode = "HEAD\n", 128
    assert summary.commit() is None


def moving(monkeypatch, head, owner, name):
    """Has a commit made when this function of the run is called."""
    function = getattr(owner, name)

    def called(*args, **kwargs):
        head.stdout = "during\n"
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def test_probes(model_dir, tmp_path, monkeypatch, head) -> None:
    moving(monkeypatch, head, _ProbeRun, "tables")
    found = antiphase.probe(str(model_dir), num_prompts=2, **OPTIONS)
    assert (head.stdout, found.summary["commit"]) == ("during\n", "before")
    head.stdout = "before\n"
    series = antiphase.probe_checkpoints([str(model_dir)], num_prompts=2, out=tmp_path / "run", **OPTIONS)
    assert (head.stdout, series.summary["commit"]) == ("during\n", "before")
    point = series.summary["checkpoints"][0]
    assert antiphase.Fingerprint.load(tmp_path / "run" / point["folder"]).summary["commit"] == "before"


def test_evaluations(model_dir, monkeypatch, head) -> None:
    moving(monkeypatch, head, antiphase.evaluation.evaluate, "score_batch")
    found = evaluate(str(model_dir), tasks=(TASK,), num_problems=2, samples=2, **OPTIONS)
    assert (head.stdout, found.summary["commit"]) == ("during\n", "before")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_trainings(model_dir, tmp_path, monkeypatch, head) -> None:
    pytest.importorskip("trl", reason="TRL is not installed; pip install 'antiphase[train]'")
    import antiphase.training.train
    from training_cases import flags

    moving(monkeypatch, head, antiphase.training.train, "_trainer")
    antiphase.training.train.train(flags(model_dir, tmp_path / "run", max_steps=1, eval_problems=0))
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (head.stdout, written["commit"]) == ("during\n", "before")
