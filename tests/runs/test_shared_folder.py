"""The folder of a run that several processes share, in one process: the others are played through the store."""

import pytest
from torch.distributed import HashStore

import antiphase
from antiphase.errors import InvalidInputError, LostProcessError
from antiphase.probing.probe import _ProbeRun as ProbeRun
from antiphase.runs.launch import Launch
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.team import Team

SMALL = {"num_prompts": 1, "samples": 1, "max_new_tokens": 16, "min_tokens": 4, "progress": False, "report": False}


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr("antiphase.runs.team._SECONDS_TO_LEAVE_AFTER_ERROR", 0.1)
    return HashStore()


def play(monkeypatch, store, rank: int) -> None:
    """Let this process be one of two."""
    monkeypatch.setattr("antiphase.runs.run.team_of", lambda out: Team(Launch(rank, 2, rank, 2), store, 60.0))


def test_a_failure_of_process_0_leaves_the_folder_to_the_others(model_dir, tmp_path, monkeypatch, store) -> None:
    """A process may still write a batch when process 0 fails. The batch needs the config.json of its folder."""

    def full(*_):
        raise InvalidInputError("the disk is full")

    play(monkeypatch, store, 0)
    monkeypatch.setattr(ProbeRun, "_load", full)
    with pytest.raises(InvalidInputError, match="the disk is full"):
        antiphase.probe(str(model_dir), out=tmp_path / "run", **SMALL)
    assert (tmp_path / "run" / "config.json").is_file()


def test_a_folder_that_is_not_shared_is_told_before_a_model_is_loaded(model_dir, tmp_path, monkeypatch, store) -> None:
    """The other process looks into a folder of its own, which holds an earlier run."""
    monkeypatch.setattr("antiphase.runs.model_work._SECONDS_FOR_FOLDER", 0.3)
    monkeypatch.setattr(ProbeRun, "_load", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(ProbeRun, "_identity", lambda _: {})
    begun = {"identity": {}, "complete": False, "marker": {"format": "antiphase-probe"}}
    begun |= {"moment": "2026-01-01T00:00:00", "missing": [[0]], "plans": [{}], "prompts": {}}
    Team(Launch(0, 2, 0, 2), store, 60.0).publish("begun", begun)
    play(monkeypatch, store, 1)
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    RunFolder.create(out, {})
    with pytest.raises(InvalidInputError, match=r"process 1 does not see the config\.json .*that all processes share"):
        antiphase.probe(str(model_dir), out=out, **SMALL)


def test_nothing_is_written_after_the_run_has_failed(model_dir, tmp_path, monkeypatch, store) -> None:
    other = Team(Launch(1, 2, 1, 2), store, 60.0)
    measure = ProbeRun.tables

    def tables(*arguments):
        found = measure(*arguments)
        other.publish("failed", [1, "node1", "the disk is full", True])
        return found

    play(monkeypatch, store, 0)
    monkeypatch.setattr(ProbeRun, "tables", tables)
    with pytest.raises(LostProcessError, match="process 1 of 2 on node1 ended: the disk is full"):
        antiphase.probe(str(model_dir), out=tmp_path / "run", **SMALL)
    assert not list(tmp_path.glob("run/parts/*/*.parquet"))
