"""Reports of finished runs in their folders: of every kind, and several on one page."""

import html

import pyarrow.parquet as pq
import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.evaluation.compare import compare
from antiphase.evaluation.result import Evaluation
from antiphase.page.html import render_page
from antiphase.report.entries import sources_of
from antiphase.report.sources import read_run
from antiphase.report.writing import document_of, write_report
from evaluation_cases import TASK, scored
from report_cases import (
    PATTERN,
    copied,
    full_for,
    probed,
    summary_of,
    values_of,
)

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
