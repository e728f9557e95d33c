"""`probe --checkpoints`: measured one at a time, resumed, drawn, and shown."""

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import antiphase
from antiphase import cli
from antiphase.data.published import published_curves
from antiphase.errors import InvalidInputError
from antiphase.probing.series_summary import CheckpointSeries
from antiphase.report.sources import NothingFinishedError, read_run
from checkpoint_cases import OPTIONS, QUIET, saved, trained
from conftest import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_dir):
    """The output folder of a trainer with checkpoint-2, checkpoint-4 and the final model, equal to the latter."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    trained(folder, tiny_model())
    return folder


@pytest.fixture
def out_dir(made, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(made, tmp_path / "out")


@pytest.fixture(scope="module")
def whole(made, model_dir, tmp_path_factory):
    """The trajectory of the base model and the trainer's folder."""
    out = tmp_path_factory.mktemp("series") / "run"
    return antiphase.probe_checkpoints(f"{model_dir},{made}", out=out, progress=False, **OPTIONS)


def same_frames(left, right) -> None:
    for name in ("tokens", "rollouts", "steps", "alternatives"):
        a, b = (pq.read_table(path / f"{name}.parquet").to_pandas() for path in (left, right))
        pd.testing.assert_frame_equal(a, b, check_exact=True)


class TestMeasuring:
    def test_numbers_are_those_of_a_probe(self, whole, made, model_dir):
        """Each checkpoint on its own rollouts of the same prompts."""
        assert [point["step"] for point in whole.summary["checkpoints"]] == [0, 2, 4]
        assert whole.summary["rollouts"] == "own"
        texts = []
        for place, path in enumerate((model_dir, made / "checkpoint-2", made / "checkpoint-4")):
            alone = antiphase.probe(str(path), progress=False, **OPTIONS)
            (result,) = whole.summary["checkpoints"][place]["results"]
            assert result["units"] == alone.result()["units"]
            run = antiphase.Fingerprint.load(whole.folder / whole.summary["checkpoints"][place]["folder"])
            pd.testing.assert_frame_equal(run.tokens, alone.tokens)
            texts.append((list(run.rollouts.prompt), list(run.rollouts.completion)))
        assert texts[0][0] == texts[1][0] == texts[2][0]
        assert texts[0][1] != texts[2][1]

    def test_files(self, whole):
        names = {path.name for path in whole.folder.iterdir()}
        assert names == {
            "config.json", "checkpoints.json", "checkpoints", "trajectory.json", "trajectory.csv", "figures",
            "report.html",
        }  # fmt: skip
        assert {path.name for path in (whole.folder / "figures").iterdir()} == {"trajectory.png", "trajectory.svg"}
        table = pd.read_csv(whole.folder / "trajectory.csv")
        pd.testing.assert_frame_equal(table, whole.to_frame(), check_dtype=False)
        assert list(table.unit) == ["token", "type", "step"] * 3
        for row in whole.to_frame().to_dict("records"):
            point = next(p for p in whole.summary["checkpoints"] if p["step"] == row["step"])
            entry = point["results"][0]["units"][row["unit"]]
            for key in ("value", "low", "high"):
                assert row[key] == pytest.approx(math.nan if entry[key] is None else entry[key], abs=0, nan_ok=True)
            assert row["num_undefined"] == entry["num_undefined"]
        again = CheckpointSeries.load(whole.folder)
        assert again.summary == whole.summary
        assert "checkpoint-4" in str(again)
        assert repr(again) == "<CheckpointSeries of 3 checkpoints, steps 0 to 4>"

    def test_one_model_at_a_time(self, made, model_dir, monkeypatch):
        import antiphase.runs.model_work as runner

        load, alive = runner.load_model, []

        def watched(*arguments, **options):
            gc.collect()
            assert not any(reference() is not None for reference in alive)
            loaded = load(*arguments, **options)
            alive.append(weakref.ref(loaded.model))
            return loaded

        monkeypatch.setattr(runner, "load_model", watched)
        antiphase.probe_checkpoints([model_dir, made], progress=False, **OPTIONS)
        assert len(alive) == 3

    def test_on_fixed_rollouts(self, made, tmp_path):
        shared = antiphase.probe_checkpoints(made, out=tmp_path / "s", share_rollouts=True, **QUIET, **OPTIONS)
        first, second = (
            antiphase.Fingerprint.load(tmp_path / "s" / "checkpoints" / f"checkpoint-{n}") for n in (2, 4)
        )
        assert [list(i) for i in first.rollouts.completion_ids] == [list(i) for i in second.rollouts.completion_ids]
        assert not torch.equal(*(torch.tensor(f.tokens.strength.to_numpy(copy=True)) for f in (first, second)))
        assert shared.summary["rollouts"] == "of checkpoint-2"
        assert "rollouts: those of checkpoint-2; prompts: the same 4." in str(shared)
        # The same from the file of the first one's rollouts.
        file = tmp_path / "s" / "checkpoints" / "checkpoint-2" / "rollouts.parquet"
        given = antiphase.probe_checkpoints(
            made, out=tmp_path / "g", rollouts=file, allow_short=True, **QUIET, **OPTIONS
        )
        assert given.summary["rollouts"] == "given"
        pd.testing.assert_frame_equal(given.to_frame(), shared.to_frame())
        # And in memory.
        rows = pd.read_parquet(file)
        memory = antiphase.probe_checkpoints(made, rollouts=rows, allow_short=True, progress=False, **OPTIONS)
        pd.testing.assert_frame_equal(memory.to_frame(), shared.to_frame())
        assert memory.folder is None
        assert len(memory.document().trainings) == 1

    def test_adapters(self, model_dir, tmp_path):
        """Checkpoints of a LoRA training have the numbers of the merged models."""
        peft = pytest.importorskip("peft", reason="peft is not installed")
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(str(model_dir))
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trained(tmp_path / "lora", peft.get_peft_model(base, config), steps=2, save=1)
        for folder in (tmp_path / "lora" / "checkpoint-1", tmp_path / "lora" / "checkpoint-2"):
            assert not (folder / "config.json").exists()
            merged = peft.AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()
            saved(tmp_path / "merged" / folder.name, merged)
        # One of them without its tokenizer: the base model's is taken.
        for file in (tmp_path / "lora" / "checkpoint-1").glob("tokenizer*"):
            file.unlink()
        options = {**OPTIONS, "progress": False}
        found = antiphase.probe_checkpoints([model_dir, tmp_path / "lora"], **options).to_frame()
        wanted = antiphase.probe_checkpoints([model_dir, tmp_path / "merged"], **options).to_frame()
        assert list(found.step) == [0] * 3 + [1] * 3 + [2] * 3
        # Ranks of nearly equal strengths may swap between the two ways of computing them.
        assert found.value.to_numpy() == pytest.approx(wanted.value.to_numpy(), abs=0.05, nan_ok=True)


def command(checkpoints, out, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "antiphase", "probe", "--checkpoints", str(checkpoints), "--num-prompts", "8",
        "--max-new-tokens", "32", "--batch-size", "1", "--num-resamples", "20", "--no-figures", "--no-report",
        "--quiet", "--out", str(out), *more,
    ]  # fmt: skip


class TestResuming:
    @pytest.mark.slow
    def test_killed_and_continued_bit_by_bit(self, made, tmp_path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        full, cut = tmp_path / "full", tmp_path / "cut"
        subprocess.run(command(made, full), check=True, capture_output=True, env=environment)
        process = subprocess.Popen(command(made, cut), stdout=subprocess.DEVNULL, env=environment)
        try:
            deadline = time.monotonic() + 600
            # In the middle of the second checkpoint.
            while not any(cut.glob("checkpoints/checkpoint-4/parts/*/*.rollouts.parquet")):
                assert process.poll() is None, "finished before it could be cut"
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGSTOP)
            second = subprocess.run(
                command(made, cut, "--resume"), capture_output=True, text=True, env=environment, check=False
            )
            assert (second.returncode, f"in use by process {process.pid} on" in second.stderr) == (2, True)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        assert not (cut / "trajectory.json").exists()
        files = [*cut.glob("checkpoints/checkpoint-2/*"), *cut.glob("checkpoints/*/parts/*/*.parquet")]
        kept = {path: path.stat().st_mtime_ns for path in files}
        with pytest.raises(InvalidInputError, match="unfinished probe of checkpoints"):
            CheckpointSeries.load(cut)
        # Its page shows what is finished.
        page = read_run(cut)
        assert [subject.label for subject in page.subjects] == ["checkpoint-2"]
        assert not page.runs[0].finished
        again = subprocess.run(command(made, cut), capture_output=True, text=True, env=environment, check=False)
        assert (again.returncode, "--resume" in again.stderr) == (2, True)
        other = command(made, cut, "--resume", "--seed", "5")
        refused = subprocess.run(other, capture_output=True, text=True, env=environment, check=False)
        assert refused.returncode == 2
        assert "seed was 0, is 5" in refused.stderr
        subprocess.run(command(made, cut, "--resume"), check=True, capture_output=True, env=environment)
        for name in ("checkpoint-2", "checkpoint-4"):
            same_frames(full / "checkpoints" / name, cut / "checkpoints" / name)
        assert (full / "trajectory.csv").read_bytes() == (cut / "trajectory.csv").read_bytes()
        numbers = [json.loads((path / "trajectory.json").read_text()) for path in (full, cut)]
        assert {**numbers[0], "created": None} == {**numbers[1], "created": None}
        done = [path for path in kept if "checkpoint-2" in str(path)]
        assert {path: path.stat().st_mtime_ns for path in done} == {path: kept[path] for path in done}

    def test_new_ones_are_added_and_lost_ones_stay(self, out_dir, tmp_path, monkeypatch):
        import antiphase.probing.series as series

        run_probe, measured = series.run_probe, []
        monkeypatch.setattr(
            series, "run_probe", lambda request, **o: measured.extend(request.config.models) or run_probe(request, **o)
        )
        run = {"out": tmp_path / "run", "resume": True, **QUIET, **OPTIONS}
        before = antiphase.probe_checkpoints(out_dir, **run)
        measured.clear()
        # The trainer goes on, and deletes its first checkpoint. Its folder may have moved.
        saved(out_dir / "checkpoint-6", tiny_model(noise=0.5))
        saved(out_dir / "checkpoint-3", tiny_model(noise=0.6))
        shutil.rmtree(out_dir / "checkpoint-2")
        moved = out_dir.rename(tmp_path / "moved")
        after = antiphase.probe_checkpoints(moved, **run)
        assert [name.rpartition("/")[2] for name in measured] == ["checkpoint-3", "checkpoint-6"]
        assert [point["step"] for point in after.summary["checkpoints"]] == [2, 3, 4, 6]
        old = after.to_frame()[lambda frame: frame.step.isin([2, 4])].reset_index(drop=True)
        pd.testing.assert_frame_equal(old, before.to_frame())
        measured.clear()
        antiphase.probe_checkpoints(moved, **run)
        assert measured == []
        # Another model at a step that was measured.
        saved(moved / "checkpoint-4", tiny_model(noise=0.7))
        with pytest.raises(InvalidInputError, match=r"has already measured step 4, with other weights"):
            antiphase.probe_checkpoints(moved, **run)

    def test_cut_before_anything_was_measured(self, made, tmp_path, monkeypatch):
        from antiphase.probing.probe import _ProbeRun

        def stop(*_):
            raise KeyboardInterrupt

        out = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(_ProbeRun, "tables", stop)
            with pytest.raises(KeyboardInterrupt):
                antiphase.probe_checkpoints(made, out=out, **QUIET, **OPTIONS)
        assert not out.exists()

    def test_one_that_is_gone_before_its_end(self, out_dir, tmp_path, monkeypatch):
        from antiphase.probing.probe import _ProbeRun

        batch, calls = _ProbeRun.tables, []

        def stop(*arguments):
            calls.append(1)
            if len(calls) > 3:
                raise KeyboardInterrupt
            return batch(*arguments)

        run = {"out": tmp_path / "run", "resume": True, **QUIET, **OPTIONS}
        with monkeypatch.context() as patch:
            patch.setattr(_ProbeRun, "tables", stop)
            with pytest.raises(KeyboardInterrupt):
                antiphase.probe_checkpoints(out_dir, **run)
        shutil.move(out_dir / "checkpoint-4", out_dir / "checkpoint-5")
        found = antiphase.probe_checkpoints(out_dir, **run)
        assert [point["step"] for point in found.summary["checkpoints"]] == [2, 5]
        assert found.summary["notes"][-1] == "checkpoint-4 is left out: it is gone, and was not measured to its end."

    def test_places_need_their_order(self, made, model_dir, tmp_path):
        base, last = saved(tmp_path / "base"), saved(tmp_path / "last", tiny_model(noise=0.5))
        run = {"out": tmp_path / "run", "resume": True, **QUIET, **OPTIONS}
        antiphase.probe_checkpoints([base], **run)
        with pytest.raises(InvalidInputError, match="in this order"):
            antiphase.probe_checkpoints([last, base], **run)
        found = antiphase.probe_checkpoints([base, last], **run)
        assert [point["checkpoint"] for point in found.summary["checkpoints"]] == ["base", "last"]

    def test_foreign_folders(self, made, model_dir, tmp_path, whole):
        with pytest.raises(InvalidInputError, match="not the folder of a probe that this version"):
            antiphase.probe(str(model_dir), out=whole.folder, resume=True, **QUIET, **OPTIONS)
        antiphase.probe(str(model_dir), out=tmp_path / "probe", **QUIET, **OPTIONS)
        with pytest.raises(InvalidInputError, match="not the folder of a probe of checkpoints"):
            antiphase.probe_checkpoints(made, out=tmp_path / "probe", resume=True, **QUIET, **OPTIONS)


class TestDrawing:
    def dotted(self, axis):
        return [line for line in axis.lines if line.get_linestyle() == ":"]

    def test_references_can_be_switched_off(self, whole, made, tmp_path, capsys):
        assert len(self.dotted(whole.plot().axes[0])) == len(published_curves())
        assert self.dotted(whole.plot(references=False).axes[0]) == []
        svgs = []
        for name, more in (("with", []), ("without", ["--no-references"])):
            out = shutil.copytree(whole.folder, tmp_path / name)
            assert "published" in (out / "figures" / "trajectory.svg").read_text()
            words = ["--num-prompts", "4", "--max-new-tokens", "40", "--batch-size", "2", "--num-resamples", "20"]
            words += ["--min-steps", "3", "--resume", "--quiet", "--out", str(out), *more]
            assert cli.main(["probe", "--checkpoints", str(made), *words]) == 0
            svgs.append("published" in (out / "figures" / "trajectory.svg").read_text())
        assert svgs == [True, False]
        printed = capsys.readouterr().out
        assert "ρ by type" in printed
        assert "the run folder of each" in printed


class TestPage:
    def test_series(self, whole):
        page = whole.document("run")
        (training,) = page.trainings
        assert [row["step"] for row in training.rows] == [0, 2, 4]
        for row, point in zip(training.rows, whole.summary["checkpoints"], strict=True):
            assert row["kind"] == "probe"
            for unit, found in point["results"][0]["units"].items():
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                    assert row[f"probe/spearman_{unit}{end}"] == found[key]
        (table,) = page.tables
        assert [row[1] for row in table.rows] == [point["checkpoint"] for point in whole.summary["checkpoints"]]
        assert [subject.label for subject in page.subjects] == [row[1] for row in table.rows]
        assert (whole.folder / "report.html").stat().st_size > 1_000_000

    def test_names_stand_on_one_line(self, whole):
        long = "stage2-ingredient1-step11000-tokens47B"
        points = [{**point, "checkpoint": long} for point in whole.summary["checkpoints"]]
        table = str(CheckpointSeries({**whole.summary, "checkpoints": points})).partition("\nρ: ")[0]
        rows = [line.split()[:3] for line in table.splitlines() if line.strip()]
        assert rows[2:] == [[str(point["step"]), long, "own"] for point in points]

    def test_large_ones_show_the_first_and_the_last(self, whole, monkeypatch):
        monkeypatch.setattr("antiphase.probing.series_summary._MOST_ON_A_PAGE", 10)
        page = whole.document("run", "mine")
        assert [len(subject.tokens) > 0 for subject in page.subjects] == [True, False, True]
        assert page.subjects[0].label.startswith("mine · ")
        from antiphase.page.html import render_page

        assert "ρ by checkpoint" in render_page(page)

    def test_report(self, whole, tmp_path, made):
        assert antiphase.write_report(whole.folder, tmp_path / "page.html").is_file()
        assert [run.kind for run in read_run(whole.folder).runs] == ["probe of checkpoints", *["probe"] * 3]
        empty = tmp_path / "empty"
        empty.mkdir()
        shutil.copy(whole.folder / "config.json", empty)
        with pytest.raises(NothingFinishedError, match="no checkpoint of this run is finished yet"):
            read_run(empty)


def test_help(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--checkpoints DIR_OR_LIST" in text
    assert "--no-references" in text
