"""Reports of runs that each test makes: a comparison of models, a probe on a full disk, and a killed probe."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest

import antiphase
from antiphase import cli
from antiphase.evaluation.compare import compare
from antiphase.report.sources import NothingFinishedError, read_run
from antiphase.report.writing import write_report
from evaluation_cases import TASK
from report_cases import correlation, full_for, probed, values_of


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_comparison_that_evaluated_its_models(model_dir, tmp_path) -> None:
    out, options = tmp_path / "out", {"tasks": (TASK,), "num_problems": 2, "samples": 1, "max_new_tokens": 10}
    plain = {**options, "progress": False, "figures": False, "num_resamples": 10}
    compare([str(model_dir), f"copy={model_dir}/."], out=out, figures=False, evaluation=plain)
    found = values_of(write_report(out))
    assert len(found["subjects"]) == 2
    assert [run["kind"] for run in found["runs"]] == ["compare", "eval", "eval"]
    # As it is while the second model is evaluated.
    (out / "comparison.json").unlink()
    first, second = sorted((out / "evals").iterdir())
    for name in ("summary.json", "tokens.parquet", "rollouts.parquet"):
        (second / name).unlink()
    document = read_run(out)
    assert [run.finished for run in document.runs] == [False, True]
    assert document.tables == []
    shutil.rmtree(first)
    with pytest.raises(NothingFinishedError, match="nothing of this comparison is finished yet"):
        read_run(out)


def test_a_full_disk_at_the_page_does_not_lose_a_probe(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("antiphase.page.html.Path.replace", full_for("report.html"))
        with pytest.warns(UserWarning, match=rf"No space left on device.*antiphase report {out}"):
            found = probed(out)
    assert antiphase.Fingerprint.load(out).summary == found.summary
    names = {path.name for path in out.iterdir()}
    tables = {f"{name}.parquet" for name in ("tokens", "rollouts", "steps", "alternatives")}
    assert names == {"config.json", "summary.json", *tables}
    # The command again, and `antiphase report`, write it; nothing is measured anew.
    monkeypatch.setattr("antiphase.runs.model_work.ModelWork.run_models", None)
    again = probed(out, resume=True)
    assert again.summary == found.summary
    page = values_of(out / "report.html")
    assert page["subjects"][0]["readings"][0]["spearman"] == found.result()["spearman"]
    before = (out / "report.html").stat().st_mtime_ns
    probed(out, resume=True)
    assert (out / "report.html").stat().st_mtime_ns == before
    (out / "report.html").unlink()
    probed(out, resume=True, report=False)
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_a_killed_probe_shows_what_it_has(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    words = [
        sys.executable, "-m", "antiphase", "probe", str(model_dir), "--num-prompts", "20", "--max-new-tokens", "16",
        "--batch-size", "1", "--no-figures", "--out", str(out), "--estimator", "own,full:6", "--min-tokens", "3",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 600
    while not list(out.glob("parts/*/*.rollouts.parquet")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    parts = sorted(out.glob("parts/*/*.tokens.parquet"))
    done = [part for part in parts if part.with_name(part.name.replace("tokens", "rollouts")).is_file()]
    tokens = pd.concat([pq.read_table(part).to_pandas() for part in done])
    rollouts = pd.concat(
        [pq.read_table(part.with_name(part.name.replace("tokens", "rollouts"))).to_pandas() for part in done]
    )
    document = read_run(out)
    (subject,) = document.subjects
    assert not document.runs[0].finished
    assert document.notes == [
        f"run is unfinished: this is what its {len(done)} finished rollouts say, with intervals of 200 resamples."
    ]
    for reading in subject.readings:
        own = tokens[tokens.estimator == reading["estimator"]]
        assert reading["spearman"]["value"] == pytest.approx(correlation(own), abs=1e-9)
        assert reading["num_rollouts"] == len(done)
        rows = rollouts[rollouts.estimator == reading["estimator"]]
        assert subject.correlations[reading["estimator"]].tolist() == pytest.approx(rows.spearman.tolist())
    assert subject.alternatives is not None
    steps = pd.concat(
        [pq.read_table(part.with_name(part.name.replace("tokens", "steps"))).to_pandas() for part in done]
    )
    assert subject.steps.start.tolist() == steps[steps.estimator == "own"].start.tolist()
    assert cli.main(["report", str(out)]) == 0
    (found,) = values_of(out / "report.html")["subjects"]
    assert found["readings"][0]["spearman"]["value"] == subject.readings[0]["spearman"]["value"]
    # The page in its folder does not keep the run from being continued.
    subprocess.run([*words, "--resume"], check=True, capture_output=True, env=environment)
    assert read_run(out).runs[0].finished
    assert values_of(out / "report.html")["subjects"][0]["readings"][0]["num_rollouts"] == 20
