"""Reports of runs in their folders: of every kind, finished, cut, damaged and foreign; several on one page.

The module is long because all of its tests share two sets of real runs, which are made once for a module.
"""

import contextlib
import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.evaluation.compare import compare
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.result import Evaluation
from antiphase.page.html import render_page
from antiphase.report.entries import sources_of
from antiphase.report.sources import NothingFinishedError, read_run
from antiphase.report.writing import document_of, write_report
from antiphase.runs.run_folder import RunFolder
from antiphase.types import MAGNITUDES
from conftest import byte_tokenizer, tiny_model
from damage_cases import BROKEN_TEXT, DAMAGE, break_text
from evaluation_cases import TASK, scored
from page_cases import cut_after
from report_cases import (
    PATTERN,
    PROBE,
    RESULTS,
    copied,
    correlation,
    edit,
    edit_table,
    full_for,
    probed,
    summary_of,
    values_of,
)

FLAGS = {
    "report": {"runs", "--out", "--markers", "--forking-share"},
    "view": {"runs", "--port", "--no-browser", "--markers", "--forking-share"},
}


@pytest.fixture(scope="module")
def runs(model_dir, tmp_path_factory) -> Path:
    """Small runs of every kind but training."""
    folder = tmp_path_factory.mktemp("runs")
    probed(folder / "probe", estimators=("own", "full:6"))
    probed(folder / "again", seed=1, report=False)
    scored(model_dir, PATTERN, out=folder / "eval", by_projection=True)
    scored(model_dir, PATTERN[::-1], out=folder / "eval-b", report=False)
    scored(model_dir, PATTERN, out=folder / "unmeasured", estimators="none")
    compare([f"a={folder / 'eval'}", f"b={folder / 'eval-b'}"], out=folder / "compare", figures=False)
    return folder


# Every kind


def test_a_probe_is_its_summary(runs) -> None:
    document = read_run(runs / "probe")
    (subject,) = document.subjects
    assert (subject.label, document.runs[0].kind, document.runs[0].name) == ("mine", "probe", "probe")
    results = summary_of(runs / "probe")["results"]
    assert [reading["estimator"] for reading in subject.readings] == ["own", "full"]
    for reading, entry in zip(subject.readings, results, strict=True):
        for key in ("spearman", "spearman_within", "logprob_control", "by_projection", "num_tokens", "layers", "norm"):
            assert reading[key] == entry[key]
        for key in ("headline", "units", "chain", "controls", "splitter", "step_strength"):
            assert reading[key] == entry[key]
        steps = pq.read_table(runs / "probe" / "steps.parquet").to_pandas()
        steps = steps[steps.estimator == reading["estimator"]]
        assert subject.steps.start.tolist() == steps.start.tolist()
        for name, held in (("entropy", subject.steps.entropies), ("strength", subject.steps.strengths)):
            assert held[reading["estimator"]].tolist() == pytest.approx(steps[name].tolist(), nan_ok=True)
        rollouts = pq.read_table(runs / "probe" / "rollouts.parquet").to_pandas()
        rollouts = rollouts[rollouts.estimator == reading["estimator"]]
        for column, held in subject.by_unit.items():
            assert held[reading["estimator"]].tolist() == pytest.approx(rollouts[column].tolist(), nan_ok=True)
        tokens = pq.read_table(runs / "probe" / "tokens.parquet").to_pandas()
        own = tokens[tokens.estimator == reading["estimator"]]
        assert subject.strengths[reading["estimator"]].tolist() == pytest.approx(own.strength.tolist(), nan_ok=True)
    assert subject.alternatives is not None
    assert subject.alternatives[0].shape == (len(own), 2)
    facts = dict(document.runs[0].facts)
    assert facts["seed"] == "0"
    assert facts["samples"] == "2"
    assert any("strength by own, strength by full" in key for key in facts)
    (agreement,) = summary_of(runs / "probe")["agreement"]
    assert f"{agreement['num_tokens']} tokens" in " ".join(facts.values())


def test_an_evaluation_is_its_summary(runs, model_dir) -> None:
    document = read_run(runs / "eval")
    (subject,) = document.subjects
    (entry,) = summary_of(runs / "eval")["results"]
    (reading,) = subject.readings
    assert reading["accuracy"]["value"] == entry["metrics"]["avg@2"]["value"] == 0.5
    assert reading["spearman"] == entry["signals"]["spearman"]
    assert (reading["min_tokens"], reading["min_steps"]) == (8, 5)
    assert (reading["headline"], reading["units"]) == (entry["signals"]["headline"], entry["signals"]["units"])
    assert subject.steps is not None
    assert subject.steps.starts[-1] == len(pq.read_table(runs / "eval" / "steps.parquet"))
    rollouts = pq.read_table(runs / "eval" / "rollouts.parquet").to_pandas()
    assert subject.rollouts.correct.tolist() == rollouts.correct.tolist()
    assert subject.cells["own"].shape == (len(subject.tokens), 12)
    assert read_run(runs / "eval-b").subjects[0].cells == {}
    none = read_run(runs / "unmeasured").subjects[0]
    assert none.readings[0]["accuracy"]["value"] == 0.5
    assert none.strengths == {}


def test_a_comparison_has_its_tables_and_evaluations(runs, model_dir) -> None:
    document = read_run(runs / "compare")
    assert [run.kind for run in document.runs] == ["compare"]
    table, *rivals = document.tables
    assert [row[0] for row in table.rows] == ["a", "b"]
    titles = [f"what else tells right from wrong: {name}, {TASK}; ι over tokens" for name in "ab"]
    assert [table.title for table in rivals] == titles
    found = values_of(runs / "compare" / "report.html")
    assert [subject["label"] for subject in found["subjects"]] == ["a", "b"]
    assert [run["name"] for run in found["runs"]] == ["comparison", "a", "b"]
    shown = html.unescape((runs / "compare" / "report.html").read_text(encoding="utf-8"))
    assert all(f">{cell}<" in shown for row in table.rows for cell in row)


# At the end of a run


def test_runs_write_their_page_unless_told_not_to(runs) -> None:
    for name in ("probe", "eval", "compare", "unmeasured"):
        assert (runs / name / "report.html").is_file()
    for name in ("again", "eval-b"):
        assert not (runs / name / "report.html").exists()
    made = values_of(runs / "probe" / "report.html")
    again = values_of(write_report(runs / "probe", runs / "elsewhere.html"))
    assert made["subjects"] == again["subjects"]


@pytest.mark.parametrize("command", ["probe", "eval", "compare"])
def test_no_report_as_a_flag(command, runs, model_dir, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    words = {
        "probe": [str(model_dir), "--num-prompts", "1", "--max-new-tokens", "9", "--num-resamples", "9", "--quiet"],
        "eval": [
            str(model_dir), "--tasks", TASK, "--num-problems", "1", "--samples", "1", "--max-new-tokens", "9",
            "--num-resamples", "9", "--quiet",
        ],
        "compare": [f"a={runs / 'eval'}", f"b={runs / 'eval-b'}"],
    }[command]  # fmt: skip
    assert cli.main([command, *words, "--no-figures", "--no-report", "--out", str(out)]) == 0
    assert "report.html" not in capsys.readouterr().out
    assert not list(out.rglob("report.html"))
    assert any(out.iterdir())


def test_a_full_disk_at_the_page_does_not_lose_an_evaluation(model_dir, runs, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("antiphase.page.html.Path.replace", full_for("report.html"))
        with pytest.warns(UserWarning, match="No space left on device"):
            found = scored(model_dir, PATTERN, out=tmp_path / "run")
        with pytest.warns(UserWarning, match="No space left on device"):
            compare([f"a={runs / 'eval'}", f"b={runs / 'eval-b'}"], out=tmp_path / "compare", figures=False)
    assert Evaluation.load(tmp_path / "run").summary == found.summary
    assert not list(tmp_path.rglob("report.html"))
    assert read_run(tmp_path / "compare").tables
    scored(model_dir, PATTERN, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "report.html").is_file()


def test_results_in_notebooks(runs) -> None:
    for found, rho in (
        (antiphase.Fingerprint.load(runs / "probe"), lambda entry: entry["spearman"]),
        (Evaluation.load(runs / "eval"), lambda entry: entry["signals"]["spearman"]),
        (Evaluation.load(runs / "eval", tokens=False), lambda entry: entry["signals"]["spearman"]),
    ):
        html = found._repr_html_()
        for entry in found.summary["results"]:
            value = rho(entry)
            assert f"{value['value']:+.3f}".replace("-", "−") in html
            assert f"[{value['low']:+.3f}, {value['high']:+.3f}]".replace("-", "−") in html
        assert "<script" not in html
    name = "<script>alert(1)</script>&{{ 1 }}"
    found = probed(None, name=name, num_prompts=1, samples=1)
    html = found._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;{{ 1 }}" in html


# Runs that were cut


@pytest.fixture(scope="module")
def cut(model_dir, tmp_path_factory) -> Path:
    """Runs that were stopped: a probe of two models within the first one, and an evaluation of two tasks."""
    folder = tmp_path_factory.mktemp("cut")
    other = folder / "other"
    tiny_model("qwen3").save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    plain = {"figures": False, "progress": False}
    models = [str(model_dir), str(other)]
    cut_after(2, lambda: antiphase.probe(models, out=folder / "probe", **plain, **PROBE))
    options = {"samples": 2, "num_problems": 2, "max_new_tokens": 10, "batch_size": 2, "num_resamples": 500}
    tasks = ("digit_sum:base=3,num_digits=4", "digit_sum:base=4,num_digits=3")
    cut_after(4, lambda: evaluate(models, tasks=tasks, out=folder / "eval", **plain, **options))
    return folder


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
    shutil.copy(runs / "again" / "tokens.parquet", folder / "other.parquet")
    made = runs / "training"
    made.mkdir()
    (made / "recipe.json").write_text('{"seed": 0}')
    (made / "trajectory.jsonl").write_text('{"kind": "step", "step": 0}\n[1]\n')
    for name, (kind, change, _) in DAMAGE.items():
        source = cut / kind.removeprefix("cut ") if kind.startswith("cut ") else runs / kind
        change(copied(source, folder / name))
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


# Several runs


def test_models_of_one_name_carry_their_folders(runs, tmp_path) -> None:
    found = values_of(write_report([runs / "probe", runs / "again"], tmp_path / "two.html"))
    assert [subject["label"] for subject in found["subjects"]] == ["probe", "again"]
    assert found["title"] == "probe, again"
    assert [subject["run"] for subject in found["subjects"]] == [0, 1]
    rhos = [subject["readings"][0]["spearman"]["value"] for subject in found["subjects"]]
    expected = [summary_of(runs / name)["results"][0]["spearman"]["value"] for name in ("probe", "again")]
    assert rhos == expected
    for name in ("x", "y"):
        copied(runs / "again", tmp_path / name / "same")
    entries = [tmp_path / "x" / "same", tmp_path / "y" / "same"]
    found = values_of(write_report(entries, tmp_path / "two.html"))
    assert [subject["label"] for subject in found["subjects"]] == [str(entry) for entry in entries]


def test_names_of_the_user_come_first(runs, tmp_path, model_dir) -> None:
    found = document_of(sources_of([f"first={runs / 'probe'}", f"second={runs / 'again'}", runs / "eval"]))
    assert [subject.label for subject in found.subjects] == ["first", "second", str(model_dir)]
    # Another run's model is called like that: that run carries its folder, the name stays.
    found = document_of(sources_of([f"mine={runs / 'again'}", runs / "probe"]))
    assert [subject.label for subject in found.subjects] == ["mine", "probe"]
    found = document_of(sources_of([f"s={runs / 'probe'},{runs / 'again'}"]))
    assert [subject.label for subject in found.subjects] == ["s #1", "s #2"]
    found = document_of(sources_of([f"{runs / 'probe'},{runs / 'again'}"]))
    assert [subject.label for subject in found.subjects] == ["probe", "again"]
    other = copied(runs / "again", tmp_path / "other")
    with pytest.raises(InvalidInputError, match="two models on the page are called 'probe'"):
        document_of(sources_of([f"probe={runs / 'again'}", runs / "probe", other]))


def test_entries_that_cannot_be_meant(runs, tmp_path) -> None:
    probe = str(runs / "probe")
    for entries, message in (
        ([], "name at least one run"),
        ([probe, f"{probe}/."], "is named twice"),
        ([f"a={probe}", f"b={probe}"], "is named twice"),
        ([f"a={probe},{probe}"], "names the run .* twice"),
        ([f"a={probe}", f"a={runs / 'again'}"], "two runs are called 'a'"),
        ([f"a={probe},"], "names an empty run"),
        ([f"{runs}/no-such-*"], "matches nothing"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            write_report(entries, tmp_path / "out.html")
    with pytest.raises(InvalidInputError, match=r"needs a file to write to. Name it with --out report\.html"):
        write_report([probe, runs / "again"])
    with pytest.raises(InvalidInputError, match=r"is a folder\. Name a file, such as"):
        write_report(probe, tmp_path)
    assert not list(tmp_path.iterdir())
    # A folder whose name looks like a name and a run is taken as it is.
    odd = copied(runs / "again", tmp_path / "a=b,c")
    assert [source.path for source in sources_of([odd])] == [odd]
    assert [source.path for source in sources_of(str(odd))] == [odd]


def test_markers_and_share_reach_the_page(runs, tmp_path) -> None:
    path = write_report(runs / "again", tmp_path / "p.html", markers=(" Wait", "so", "SO", " "), forking_share=0.35)
    found = values_of(path)
    assert (found["markers"], found["forkingShare"]) == (["wait", "so"], 0.35)
    with pytest.raises(InvalidInputError, match=r"forking_share must lie between 0 and 1; got 1\.5"):
        write_report(runs / "again", tmp_path / "p.html", forking_share=1.5)


def test_a_page_from_a_document_is_the_page_from_the_folder(runs) -> None:
    fingerprint = antiphase.Fingerprint.load(runs / "probe")
    evaluation = Evaluation.load(runs / "eval")
    for found, name in ((fingerprint, "probe"), (evaluation, "eval")):
        assert render_page(found.document(name)) == render_page(read_run(runs / name))


# The commands


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command) -> None:
    (commands,) = (a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices)
    actions = [a for a in commands.choices[command]._actions if "--help" not in a.option_strings]
    assert {a.option_strings[0] if a.option_strings else a.dest for a in actions} == FLAGS[command]


def test_the_command_writes_into_the_folder_or_elsewhere(runs, tmp_path, capsys) -> None:
    run = copied(runs / "again", tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    size = (run / "report.html").stat().st_size
    assert printed == f"written to {run / 'report.html'} ({size / 1e6:.1f} MB)\n"
    out = tmp_path / "new" / "two.html"
    words = ["report", f"a={run}", str(runs / "probe"), "--out", str(out), "--markers", "wait, let", "--forking-share"]
    assert cli.main([*words, "0.1"]) == 0
    found = values_of(out)
    assert (found["markers"], found["forkingShare"]) == (["wait", "let"], 0.1)
    assert [subject["label"] for subject in found["subjects"]] == ["a", "mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{probe}", "--out", "{folder}"], "is a folder. Name a file"),
        (["{probe}", "--out", "{folder}/file/page.html"], "cannot write"),
        (["{probe}", "--out", "{folder}/" + "x" * 999], "cannot write"),
        (["{probe}", "{again}"], "needs a file to write to"),
        (["{probe}", "--forking-share", "0"], "forking_share must lie between 0 and 1; got 0"),
        (["{probe}", "--forking-share", "nan"], "forking_share must lie between 0 and 1; got nan"),
        (["{folder}/nowhere"], "does not exist"),
        (["x" * 5000], "does not exist"),
        ([], "the following arguments are required"),
        (["{probe}", "--port", "80"], "unrecognized arguments: --port 80"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, capsys, words, message) -> None:
    (tmp_path / "file").write_text("mine")
    places = {"probe": runs / "probe", "again": runs / "again", "folder": tmp_path}
    status: object = None
    with contextlib.suppress(SystemExit):  # argparse
        status = cli.main(["report", *(word.format(**places) for word in words)])
    errors = capsys.readouterr().err
    assert status in (2, None)
    assert message in errors
    assert errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
