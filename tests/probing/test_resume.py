"""Interrupted runs: killed, resumed, refused, and what is kept."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.runs.run_folder import RunFolder
from conftest import byte_tokenizer, tiny_model

OPTIONS = {"num_prompts": 3, "samples": 2, "max_new_tokens": 24, "batch_size": 2, "num_resamples": 50}


def command(model_dir, out, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "antiphase", "probe", str(model_dir), "--num-prompts", "12", "--max-new-tokens", "24",
        "--batch-size", "2", "--num-resamples", "20", "--no-figures", "--out", str(out), *more,
    ]  # fmt: skip


def assert_same_run(left, right) -> None:
    for name in ("tokens", "rollouts", "alternatives"):
        a, b = (pq.read_table(path / f"{name}.parquet").to_pandas() for path in (left, right))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (left, right)]
    assert summaries[0]["results"] == summaries[1]["results"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed_run_resumes_to_the_same_result(model_dir, tmp_path, stop: signal.Signals) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(model_dir, whole), check=True, capture_output=True, env=environment)
    # A shell may start this test with SIGINT ignored, which children inherit.
    process = subprocess.Popen(
        command(model_dir, cut),
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads yet
    )
    deadline = time.monotonic() + 600
    while len(list(cut.glob("parts/*/*.rollouts.parquet"))) < 2:
        assert process.poll() is None, "finished before it could be cut"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # While the run goes on, a second process cannot write to its folder.
    process.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        command(model_dir, cut, "--resume"), capture_output=True, text=True, env=environment, check=False
    )
    process.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"{str(cut)!r} is in use by process {process.pid} on" in second.stderr
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if stop == signal.SIGINT else -9)
    if stop == signal.SIGINT:
        assert "--resume" in errors
        assert "Traceback" not in errors
    kept = {path: path.stat().st_mtime_ns for path in cut.glob("parts/*/*.parquet")}
    assert len(kept) >= 4
    with pytest.raises(InvalidInputError, match="unfinished run"):
        antiphase.Fingerprint.load(cut)
    # Without --resume the folder is not touched, nor with other options.
    again = subprocess.run(command(model_dir, cut), capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    other = command(model_dir, cut, "--resume", "--seed", "5")
    refused = subprocess.run(other, capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2
    assert "seed was 0, is 5" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in cut.glob("parts/*/*.parquet")} == kept
    subprocess.run(command(model_dir, cut, "--resume"), check=True, capture_output=True, env=environment)
    assert_same_run(whole, cut)


def test_resume_begins_where_there_is_nothing(model_dir, tmp_path) -> None:
    out = tmp_path / "new"
    found = antiphase.probe(str(model_dir), out=out, resume=True, figures=False, progress=False, **OPTIONS)
    assert antiphase.Fingerprint.load(out).summary == found.summary


def interrupted(model, tokenizer, out, monkeypatch: pytest.MonkeyPatch, batches: int = 1, **more) -> None:
    """A run of a model in memory that stops after some batches."""
    from antiphase.probing.probe import _ProbeRun

    run, calls = _ProbeRun.tables, []

    def stop(*args):
        calls.append(1)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_ProbeRun, "tables", stop)
        with pytest.raises(KeyboardInterrupt):
            antiphase.probe(model, tokenizer=tokenizer, out=out, figures=False, progress=False, **OPTIONS, **more)


def test_resume_with_another_model_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, tokenizer, model = tmp_path / "run", byte_tokenizer(), tiny_model()
    interrupted(model, tokenizer, out, monkeypatch)
    again = {"tokenizer": tokenizer, "out": out, "resume": True, "figures": False, "progress": False, **OPTIONS}
    for other in (tiny_model("qwen3"), tiny_model(dtype=torch.bfloat16)):
        with pytest.raises(InvalidInputError, match="begun with another model"):
            antiphase.probe(other, **again)
    changed = tiny_model()
    with torch.no_grad():
        changed.model.layers[1].self_attn.q_proj.weight += 0.01
    with pytest.raises(InvalidInputError, match="weights was"):
        antiphase.probe(changed, **again)
    # A smaller budget is what an out-of-memory error asks for, and moves no number.
    found = antiphase.probe(model, token_budget=50, **again)
    whole = antiphase.probe(model, tokenizer=tokenizer, progress=False, **OPTIONS)
    assert found.spearman == pytest.approx(whole.spearman, abs=1e-3)


def test_interrupt_before_the_first_batch_keeps_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    interrupted(tiny_model(), byte_tokenizer(), out, monkeypatch, batches=0)
    assert not out.exists()


def test_finished_run_is_returned_at_once_on_resume(model_dir, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    found = antiphase.probe(str(model_dir), out=out, figures=False, progress=False, **OPTIONS)
    monkeypatch.setattr("antiphase.runs.run.inspect_model", None)
    again = antiphase.probe(str(model_dir), out=out, resume=True, figures=False, progress=False, **OPTIONS)
    assert again.summary == found.summary


def test_foreign_folders_are_refused(model_dir, tmp_path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    for resume, message in ((False, "not an empty folder"), (True, "not the folder of a probe")):
        with pytest.raises(InvalidInputError, match=message):
            antiphase.probe(str(model_dir), out=tmp_path, resume=resume, progress=False)
    (tmp_path / "config.json").write_text('{"format": "something else"}')
    with pytest.raises(InvalidInputError, match="something else"):
        antiphase.probe(str(model_dir), out=tmp_path, resume=True, progress=False)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        antiphase.Fingerprint.load(tmp_path)
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_failed_start_leaves_no_folder(tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(antiphase.AntiphaseError):
        antiphase.probe("no-such/model", out=out, progress=False)
    assert not out.exists()


def test_full_disk_keeps_what_was_written(model_dir, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    out, write = tmp_path / "run", pq.write_table
    calls = []

    def full(table, where, **options):
        calls.append(where)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, **options)

    monkeypatch.setattr("antiphase.runs.run_folder.pq.write_table", full)
    with pytest.raises(InvalidInputError, match=r"No space left.*--resume"):
        antiphase.probe(str(model_dir), out=out, figures=False, progress=False, **OPTIONS)
    monkeypatch.undo()
    assert len(list(out.glob("parts/*/*.parquet"))) == 4
    assert not list(out.rglob("*.tmp"))
    found = antiphase.probe(str(model_dir), out=out, resume=True, figures=False, progress=False, **OPTIONS)
    whole = antiphase.probe(str(model_dir), progress=False, **OPTIONS)
    pd.testing.assert_frame_equal(found.tokens, whole.tokens)


def test_parts_of_an_unfinished_run_can_be_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, tokenizer, model = tmp_path / "run", byte_tokenizer(), tiny_model()
    interrupted(model, tokenizer, out, monkeypatch, batches=2)
    folder = RunFolder.open(out)
    parts = {kind: folder.read_parts(kind) for kind in ("tokens", "rollouts", "alternatives")}
    assert folder.read_alternatives() is None
    assert len(parts["rollouts"]) == 4
    # A batch of which only some files are there does not count.
    for kind in ("tokens", "alternatives"):
        part = out / "parts" / "model-000"
        (part / f"batch-000002.{kind}.parquet").write_bytes((part / f"batch-000001.{kind}.parquet").read_bytes())
    for kind, frame in parts.items():
        pd.testing.assert_frame_equal(folder.read_parts(kind), frame)
    again = {"tokenizer": tokenizer, "out": out, "resume": True, "figures": False, "progress": False, **OPTIONS}
    found = antiphase.probe(model, **again)
    for kind, frame in parts.items():
        pd.testing.assert_frame_equal(getattr(found, kind)[: len(frame)], frame)
    assert [folder.read_parts(kind) for kind in parts] == [None] * 3
    pd.testing.assert_frame_equal(folder.read_alternatives(), found.alternatives)
    whole = antiphase.probe(model, tokenizer=tokenizer, progress=False, **OPTIONS)
    pd.testing.assert_frame_equal(whole.alternatives, found.alternatives)


@pytest.mark.parametrize("renamed", range(1, 5))
def test_batch_cut_between_its_files_is_run_again(tmp_path, monkeypatch: pytest.MonkeyPatch, renamed: int) -> None:
    out, tokenizer, model = tmp_path / "run", byte_tokenizer(), tiny_model()
    options = {"tokenizer": tokenizer, "out": out, "figures": False, "progress": False, **OPTIONS}
    replace, done = os.replace, []

    def cut(source, target) -> None:
        if str(target).endswith(".parquet"):
            if len(done) == renamed:
                raise KeyboardInterrupt
            done.append(os.path.basename(target).split(".")[1])
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            antiphase.probe(model, **options)
    # The rollouts come last: only then does the batch count.
    assert done == ["tokens", "alternatives", "steps", "rollouts"][:renamed]
    folder = RunFolder.open(out)
    assert folder.has_part(0, 0) == (renamed == 4)
    for kind in ("tokens", "rollouts", "alternatives"):
        assert (folder.read_parts(kind) is None) == (renamed < 4)
    found = antiphase.probe(model, resume=True, **options)
    whole = antiphase.probe(model, tokenizer=tokenizer, progress=False, **OPTIONS)
    pd.testing.assert_frame_equal(whole.tokens, found.tokens)
    pd.testing.assert_frame_equal(whole.alternatives, found.alternatives)


def test_unreadable_part_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    interrupted(tiny_model(), byte_tokenizer(), out, monkeypatch)
    (out / "parts" / "model-000" / "batch-000000.tokens.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInputError, match="parts cannot be read"):
        RunFolder.open(out).read_parts("tokens")


def forget_alternatives(out) -> None:
    """Make the config that of a run from before the option."""
    for name in ("config.json", "summary.json"):
        if (out / name).exists():
            value = json.loads((out / name).read_text())
            del value["config"]["alternatives"]
            (out / name).write_text(json.dumps(value))


def test_unfinished_run_from_before_alternatives(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, tokenizer, model = tmp_path / "run", byte_tokenizer(), tiny_model()
    interrupted(model, tokenizer, out, monkeypatch, alternatives=0)
    forget_alternatives(out)
    assert RunFolder.open(out).read_parts("alternatives") is None
    again = {"tokenizer": tokenizer, "out": out, "resume": True, "figures": False, "progress": False, **OPTIONS}
    with pytest.raises(InvalidInputError, match=r"cannot be continued: alternatives was 0, is 5\. Undo"):
        antiphase.probe(model, **again)
    found = antiphase.probe(model, alternatives=0, **again)
    assert found.alternatives is None
    assert json.loads((out / "config.json").read_text())["config"]["alternatives"] == 0
    whole = antiphase.probe(model, tokenizer=tokenizer, progress=False, **OPTIONS)
    pd.testing.assert_frame_equal(found.tokens, whole.tokens)


def test_finished_run_from_before_alternatives(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    found = antiphase.probe(str(model_dir), out=out, figures=False, progress=False, alternatives=0, **OPTIONS)
    forget_alternatives(out)
    old = antiphase.Fingerprint.load(out)
    assert old.alternatives is None
    pd.testing.assert_frame_equal(old.tokens, found.tokens)
    # It can be saved again, and is returned where its command is repeated.
    assert antiphase.Fingerprint.load(old.save(tmp_path / "copy")).alternatives is None
    again = {"out": out, "resume": True, "figures": False, "progress": False, **OPTIONS}
    assert antiphase.probe(str(model_dir), alternatives=0, **again).spearman == found.spearman


def forget_draws(out) -> None:
    """Make the folder one of a version in which the seeds of rollouts belonged to batches."""
    path = out / "config.json"
    marker = json.loads(path.read_text())
    assert marker["config"].pop("draws") == 2
    path.write_text(json.dumps(marker))


EARLIER = r"unfinished run that was begun by an earlier version.*seeds .* belonged to batches.*with a new --out"


def test_an_unfinished_run_whose_seeds_belonged_to_batches_is_not_continued(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, out = tiny_model(), byte_tokenizer(), tmp_path / "run"
    interrupted(model, tokenizer, out, monkeypatch)
    forget_draws(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    options = {"tokenizer": tokenizer, "out": out, "resume": True, "figures": False, "progress": False, **OPTIONS}
    with pytest.raises(InvalidInputError, match=EARLIER):
        antiphase.probe(model, **options)
    # If another option differs too, the message names this option.
    with pytest.raises(InvalidInputError, match=r"temperature was 1\.0, is 0\.0"):
        antiphase.probe(model, **{**options, "temperature": 0.0})
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_unfinished_greedy_run_of_any_version_is_continued(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, out = tiny_model(), byte_tokenizer(), tmp_path / "run"
    interrupted(model, tokenizer, out, monkeypatch, temperature=0.0)
    assert "draws" not in json.loads((out / "config.json").read_text())["config"]
    options = {"tokenizer": tokenizer, "figures": False, "progress": False, "temperature": 0.0, **OPTIONS}
    antiphase.probe(model, out=out, resume=True, **options)


def test_a_finished_run_whose_seeds_belonged_to_batches_is_returned(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    options = {"out": out, "figures": False, "progress": False, **OPTIONS}
    first = antiphase.probe(str(model_dir), **options)
    forget_draws(out)
    assert antiphase.probe(str(model_dir), resume=True, **options).summary == first.summary
    assert antiphase.Fingerprint.load(out).summary == first.summary


@pytest.mark.parametrize(("samples", "refused"), [(2, True), (0, False)])
def test_an_evaluation_with_samples_stores_how_its_seeds_are_made(samples, refused, model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    options = {"tasks": ("digit_sum",), "num_problems": 2, "samples": samples, "max_new_tokens": 8, "out": out}
    options |= {"estimators": ("none",), "figures": False, "report": False, "progress": False}
    antiphase.evaluate(str(model_dir), **options)
    if not refused:
        assert "draws" not in json.loads((out / "config.json").read_text())["config"]
        return
    forget_draws(out)
    antiphase.evaluate(str(model_dir), resume=True, **options)
    (out / "summary.json").unlink()
    with pytest.raises(InvalidInputError, match=EARLIER):
        antiphase.evaluate(str(model_dir), resume=True, **options)
