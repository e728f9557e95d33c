"""Reports of runs that were cut, of damaged folders, and of folders that hold no run."""

import json
import os
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from antiphase.errors import InvalidInputError
from antiphase.report.sources import NothingFinishedError, read_run
from antiphase.report.writing import write_report
from antiphase.runs.run_folder import RunFolder
from antiphase.types import MAGNITUDES
from damage_cases import BROKEN_TEXT, DAMAGE, break_text
from report_cases import (
    RESULTS,
    copied,
    correlation,
    edit,
    edit_table,
    summary_of,
)

# Runs that were cut


def test_a_probe_of_before_there_were_steps(runs, tmp_path) -> None:
    """Its tables and its summary lack them; the page shows what it has."""
    out = copied(runs / "probe", tmp_path / "run")
    (out / "steps.parquet").unlink()
    lost = ("headline", "units", "chain", "controls", "splitter", "step_strength")
    edit(
        out / "summary.json",
        lambda value: [entry.pop(key) for entry in value[RESULTS] for key in lost] and None,
    )
    columns = ["step", *MAGNITUDES]
    edit_table(out / "tokens.parquet", lambda table: table.drop(columns=columns))
    units = ("spearman_token", "spearman_type", "spearman_step", "spearman_step_low", "spearman_step_high")
    edit_table(
        out / "rollouts.parquet", lambda table: table.drop(columns=[*units, "spearman_given_length", "num_steps"])
    )
    (subject,) = read_run(out).subjects
    assert (subject.steps, dict(subject.by_unit)) == (None, {})
    for reading, entry in zip(subject.readings, summary_of(runs / "probe")[RESULTS], strict=True):
        assert reading["headline"] == "token"
        assert {end: reading["units"]["token"][end] for end in ("value", "low", "high")} == entry["spearman"]
        assert reading["units"]["type"]["value"] == entry["spearman_unique"]["value"]
        assert (reading["chain"], reading["controls"]) == ([], {})
    text = write_report(out).read_text(encoding="utf-8")
    assert 'id="tokens"' in text
    assert 'id="steps"' not in text


def test_a_model_that_was_not_begun(cut, model_dir) -> None:
    document = read_run(cut / "probe")
    (subject,) = document.subjects
    assert subject.label == str(model_dir)
    assert len(subject.rollouts) == 4
    frames = [pq.read_table(part).to_pandas() for part in sorted(cut.glob("probe/parts/*/*.tokens.parquet"))]
    assert subject.readings[0]["spearman"]["value"] == pytest.approx(correlation(pd.concat(frames)), abs=1e-9)
    assert "20 resamples" in document.notes[0]


def test_an_evaluation_of_parts_alone(cut, model_dir) -> None:
    document = read_run(cut / "eval")
    parts = sorted(cut.glob("eval/parts/*/*.rollouts.parquet"))
    rollouts = pd.concat([pq.read_table(part).to_pandas() for part in parts])
    tokens = pd.concat([pq.read_table(str(part).replace("rollouts", "tokens")).to_pandas() for part in parts])
    cases = rollouts.groupby(["model", "task"], sort=False)
    assert len(document.subjects) == len(cases) >= 1
    for subject, ((model, task), rows) in zip(document.subjects, cases, strict=True):
        (reading,) = subject.readings
        drawn = rows[~rows.greedy] if (~rows.greedy).any() else rows
        assert reading["num_rollouts"] == len(drawn)
        own = tokens[(tokens.model == model) & (tokens.task == task) & tokens.rollout_id.isin(drawn.rollout_id)]
        assert reading["spearman"]["value"] == pytest.approx(correlation(own), abs=1e-9)
        shown = {"avg@2": drawn.correct.mean(), "greedy": rows[rows.greedy].correct.mean()}
        assert reading["accuracy"]["value"] == pytest.approx(shown[reading["accuracy_name"]])
    assert "of 200 resamples" in document.notes[0]
    assert not document.runs[0].finished


def test_batches_that_end_while_the_run_is_read(cut, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are read after rollouts, and may be of more batches."""
    out = copied(cut / "probe", tmp_path / "run")
    late = [path for path in out.glob("parts/*/*.rollouts.parquet") if "000001" in path.name]
    hidden = [path.rename(path.with_suffix(".hidden")) for path in late]
    before = read_run(out)
    read = RunFolder.read_parts

    def grown(self, kind):
        found = read(self, kind)
        for path in hidden:
            if path.exists():
                path.rename(path.with_suffix(".parquet"))
        return found

    monkeypatch.setattr(RunFolder, "read_parts", grown)
    document = read_run(out)
    assert all(not path.exists() for path in hidden)
    assert document.subjects[0].readings == before.subjects[0].readings
    assert len(document.subjects[0].tokens) == len(before.subjects[0].tokens)
    monkeypatch.undo()
    assert len(read_run(out).subjects[0].rollouts) == 4


def test_a_run_without_a_finished_batch(cut, tmp_path) -> None:
    out = copied(cut / "probe", tmp_path / "run")
    for path in out.glob("parts/*/*.rollouts.parquet"):
        path.unlink()
    with pytest.raises(NothingFinishedError, match="no batch of this run is finished yet"):
        write_report(out)
    assert not (out / "report.html").exists()


def test_a_config_with_options_of_another_version(cut, tmp_path) -> None:
    out = copied(cut / "probe", tmp_path / "run")
    edit(out / "config.json", lambda value: value["config"].update(new_option=3))
    assert read_run(out).subjects[0].readings == read_run(cut / "probe").subjects[0].readings


# Folders that are none, or damaged


@pytest.fixture(scope="module")
def damaged(runs, cut, tmp_path_factory, model_dir):
    """Status and messages of `antiphase report` for every damaged copy, from one process without type checks."""
    folder = tmp_path_factory.mktemp("damaged")
    # The rollouts of the other run are shorter.
    tokens = pd.read_parquet(runs / "again" / "tokens.parquet")
    tokens[tokens.position > 0].to_parquet(folder / "other.parquet", index=False)
    made = tmp_path_factory.mktemp("training")
    (made / "recipe.json").write_text('{"seed": 0}')
    (made / "trajectory.jsonl").write_text('{"kind": "step", "step": 0}\n[1]\n')
    others = {"training": made, "cut probe": cut / "probe", "cut eval": cut / "eval"}
    for name, (kind, change, _) in DAMAGE.items():
        change(copied(others.get(kind, runs / kind), folder / name))
        (folder / name / "report.html").unlink(missing_ok=True)
    for column in BROKEN_TEXT:
        copy = copied(runs / "probe", folder / f"broken {column}")
        table = "tokens" if column in ("token", "rollout_id") else "rollouts"
        break_text(copy / f"{table}.parquet", column)
    script = (
        "import contextlib, io, json, sys, traceback\nfrom antiphase import cli\nfound = {}\n"
        "for path in sys.argv[1:]:\n"
        "    errors = io.StringIO()\n"
        "    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):\n"
        "        try:\n            status = cli.main(['report', path])\n"
        "        except Exception:\n            status = traceback.format_exc()\n"
        "    found[path.rpartition('/')[2]] = [status, errors.getvalue()]\n"
        "print(json.dumps(found))\n"
    )
    paths = [str(path) for path in folder.iterdir() if path.is_dir()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *paths],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(damaged, name) -> None:
    folder, found = damaged
    status, errors = found[name]
    assert status == 2, status
    assert errors.startswith("antiphase: error: ")
    assert errors.count("\n") == 1
    assert len(errors) < 600
    assert pytest.raises(AssertionError, match=DAMAGE[name][2]).matches(AssertionError(errors))
    said = ("share an id", "do not match", "must be a number", "do not cover its rollouts", "headline must be one of")
    assert name in errors or any(words in errors for words in said)
    assert not (folder / name / "report.html").exists()


@pytest.mark.parametrize("column", BROKEN_TEXT)
def test_broken_utf8_in_a_table(damaged, column) -> None:
    _, found = damaged
    status, errors = found[f"broken {column}"]
    assert status == 2, status
    assert errors.count("\n") == 1
    assert pytest.raises(AssertionError, match=r"parquet cannot be read \(.*UTF8").matches(AssertionError(errors))


def test_folders_that_are_no_runs(runs, model_dir, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "cells.jsonl").write_text("{}\n")
    kinds = "Name the folder of a probe, an evaluation, a comparison or a training run"
    for path, message in {
        tmp_path / "nowhere": f"does not exist. {kinds}",
        tmp_path / ("x" * 5000): f"does not exist. {kinds}",
        tmp_path / "empty": f"is empty. {kinds}",
        tmp_path / "file": f"is a file. {kinds}",
        tmp_path / "foreign": f"is not the folder of a run. {kinds}",
        tmp_path / "study": "is the folder of a study",
        model_dir: "is a saved model. Probe it first: antiphase probe",
    }.items():
        with pytest.raises(InvalidInputError, match=message):
            write_report(path)
    assert sorted(path.name for path in tmp_path.rglob("*.html")) == []
