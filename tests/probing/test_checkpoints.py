"""`probe --checkpoints`: found, refused, measured one at a time, resumed, drawn, and shown."""

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
from transformers import Trainer, TrainingArguments

import antiphase
from antiphase import cli
from antiphase.data.published import published_curves
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.figures.checkpoints import checkpoint_curves
from antiphase.models.saved import step_in
from antiphase.probing.checkpoints import find_checkpoints
from antiphase.probing.family import check_family
from antiphase.probing.series_summary import CheckpointSeries
from antiphase.report.sources import NothingFinishedError, read_run
from conftest import byte_tokenizer, tiny_model

OPTIONS = {"num_prompts": 4, "max_new_tokens": 40, "batch_size": 2, "num_resamples": 20, "min_steps": 3}
QUIET = {"figures": False, "report": False, "progress": False}
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def trained(folder, model, steps: int = 4, save: int = 2) -> None:
    """A trainer's output folder, as `Trainer` leaves it."""
    from datasets import Dataset

    ids = [
        byte_tokenizer()(text).input_ids[:12] for text in ("One two. Three.", "four five. Six", "abc abc. Abc d") * 4
    ]
    rows = Dataset.from_list([{"input_ids": row, "labels": row, "attention_mask": [1] * len(row)} for row in ids])
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
        use_cpu=True, save_steps=save, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=byte_tokenizer())
    trainer.train()
    trainer.save_model()


def saved(folder, model=None, tokenizer=None):
    (model or tiny_model()).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


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


class TestFinding:
    def test_a_trainers_folder_by_number(self, out_dir):
        shutil.copytree(out_dir / "checkpoint-2", out_dir / "checkpoint-10")
        (out_dir / "checkpoint-best").mkdir()
        (out_dir / "runs").mkdir()
        found = find_checkpoints(out_dir)
        assert [(c.label, c.step) for c in found.checkpoints][:3] == [
            ("checkpoint-2", 2), ("checkpoint-4", 4), ("checkpoint-10", 10),
        ]  # fmt: skip
        assert found.numbered

    def test_the_final_model(self, out_dir):
        assert [c.label for c in find_checkpoints(out_dir).checkpoints] == ["checkpoint-2", "checkpoint-4"]
        # Another step, as the trainer's state, antiphase's summary or the last checkpoint's plan say.
        saved(out_dir, tiny_model(noise=0.5))
        state = out_dir / "checkpoint-4" / "trainer_state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "max_steps": 5}))
        assert [c.step for c in find_checkpoints(out_dir).checkpoints] == [2, 4, 5]
        (out_dir / "summary.json").write_text('{"num_steps": 6}')
        assert [c.step for c in find_checkpoints(out_dir).checkpoints] == [2, 4, 6]
        (out_dir / "trainer_state.json").write_text('{"global_step": 7}')
        found = find_checkpoints(out_dir)
        assert [(c.label, c.step) for c in found.checkpoints][-1] == ("final", 7)
        assert found.notes == ()
        # Of a step that cannot be, it is left out, with a note.
        (out_dir / "trainer_state.json").write_text('{"global_step": 3}')
        found = find_checkpoints(out_dir)
        assert [c.step for c in found.checkpoints] == [2, 4]
        assert "left out, since its step is not known" in found.notes[0]

    def test_lists(self, made, model_dir, tmp_path):
        found = find_checkpoints(f"{model_dir}, {made}")
        assert [c.step for c in found.checkpoints] == [0, 2, 4]
        # A list is sorted by number, and commas in a folder's name are no separators.
        found = find_checkpoints([made / "checkpoint-4", made / "checkpoint-2"])
        assert [c.step for c in found.checkpoints] == [2, 4]
        comma = shutil.copytree(made, tmp_path / "a,b")
        assert len(find_checkpoints(str(comma)).checkpoints) == 2
        # A folder without a number of its own, but with the trainer's state.
        last = shutil.copytree(made / "checkpoint-4", tmp_path / "last")
        assert [c.step for c in find_checkpoints([made / "checkpoint-2", last]).checkpoints] == [2, 4]
        # Where numbers are lacking, places; the order stays.
        other = saved(tmp_path / "other")
        found = find_checkpoints([made / "checkpoint-4", other, made / "checkpoint-2"])
        assert [(c.label, c.step) for c in found.checkpoints] == [
            ("checkpoint-4", 0), ("other", 1), ("checkpoint-2", 2),
        ]  # fmt: skip
        assert not found.numbered
        assert "'other' carries no number" in found.notes[0]

    def test_revisions(self):
        found = find_checkpoints("org/model@step1000,org/model@step512,org/model@step0")
        assert [(c.revision, c.step) for c in found.checkpoints] == [
            ("step0", 0), ("step512", 512), ("step1000", 1000),
        ]  # fmt: skip
        assert {c.name for c in found.checkpoints} == {"org/model"}
        found = find_checkpoints("org/base,org/model@step-1000")
        assert [(c.name, c.revision, c.step) for c in found.checkpoints] == [
            ("org/base", None, 0), ("org/model", "step-1000", 1000),
        ]  # fmt: skip
        assert [c.step for c in find_checkpoints("org/model@main,org/model@late").checkpoints] == [0, 1]
        # Labels that two share get the whole name.
        labels = [c.label for c in find_checkpoints("a/b@main,c/d@main").checkpoints]
        assert labels == ["a/b@main", "c/d@main"]

    def test_steps_in_names(self):
        names = ("checkpoint-12", "step_0100", "stage1-step1000-tokens5B", "iter-7", "global_step40", "v2.0", "main")
        assert [step_in(name) for name in names] == [12, 100, 1000, 7, 40, None, None]


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestRefusing:
    @pytest.fixture
    def refused(self, tmp_path, capsys, monkeypatch):
        """Run the command; it ends in one line, and nothing is loaded or left."""

        def run(what, *more):
            def never(*_, **__):
                raise AssertionError("a model was loaded")

            monkeypatch.setattr("antiphase.runs.run.load_model", never)
            monkeypatch.chdir(tmp_path)
            capsys.readouterr()
            status = cli.main(["probe", "--checkpoints", str(what), "--out", "series", "--quiet", *more])
            lines = capsys.readouterr().err.strip().splitlines()
            assert status == 2
            assert len(lines) == 1, lines
            assert lines[0].startswith("antiphase: error: ")
            assert not (tmp_path / "series").exists()
            return lines[0]

        return run

    def test_folders_without_checkpoints(self, refused, tmp_path, made):
        (tmp_path / "empty").mkdir()
        assert "'empty' is empty: it has no folders named checkpoint-N, and no saved model" in refused("empty")
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "run.txt").write_text("x")
        assert "'logs' holds no checkpoint: it has no folders named checkpoint-N" in refused("logs")
        assert "there is no folder 'nowhere'." in refused("nowhere")
        assert "there is no folder 'runs/gone/x', and it is no hub id either" in refused("runs/gone/x,demo")
        assert "'./a,./b'" not in refused("./a,./b")
        assert "is a file" in refused("logs/run.txt")
        assert "an empty name" in refused("a,,b")
        saved(tmp_path / "alone")
        assert "is a saved model without folders named checkpoint-N" in refused("alone")

    def test_a_missing_folder_that_may_be_a_hub_id_is_told_as_both(self, refused):
        said = refused("runs/gone,runs/away")
        assert "'runs/gone': there is no folder of that name here, and loading it from the hub failed" in said

    def test_checkpoints_that_cannot_be_loaded(self, refused, tmp_path, made):
        def copy(name):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(made, tmp_path / "run")
            return tmp_path / "run" / name

        (copy("checkpoint-4") / "config.json").unlink()
        assert "checkpoint-4' has neither config.json nor adapter_config.json" in refused("run")
        (copy("checkpoint-2") / "model.safetensors").unlink()
        assert "checkpoint-2' has no weights (*.safetensors)" in refused("run")
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
        (copy("checkpoint-2") / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "lacks model-1.safetensors" in refused("run")
        for file in list(copy("checkpoint-2").glob("tokenizer*")):
            file.unlink()
        assert "checkpoint-2' has no tokenizer" in refused("run")
        (copy("checkpoint-2") / "config.json").write_text("{")
        assert "checkpoint-2" in refused("run")

    def test_mixed_families(self, refused, tmp_path, made):
        saved(tmp_path / "checkpoint-6", tiny_model("qwen3"))
        line = refused(f"{made}/checkpoint-2,checkpoint-6")
        assert "'checkpoint-2' (LlamaForCausalLM, 3 layers of 24, vocabulary 300)" in line
        assert "'checkpoint-6' (Qwen3ForCausalLM, 3 layers of 24, vocabulary 300)" in line
        saved(tmp_path / "checkpoint-8", tiny_model(vocab_size=310))
        assert "vocabulary 310) are not checkpoints of one model" in refused(f"{made}/checkpoint-2,checkpoint-8")
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens(["new"])
        saved(tmp_path / "checkpoint-9", tokenizer=tokenizer)
        line = refused(f"{made}/checkpoint-2,checkpoint-9")
        assert "their tokenizers have different vocabularies (of 259 and 260 tokens)" in line

    def test_the_same_twice(self, refused, made, tmp_path):
        assert "named twice" in refused(f"{made},{made}/checkpoint-2")
        assert "named twice" in refused("org/m@step1,org/m@step1")
        shutil.copytree(made / "checkpoint-2", tmp_path / "other" / "checkpoint-2")
        assert "are both of step 2" in refused(f"{made},other/checkpoint-2")

    def test_revisions_of_folders(self, refused, made):
        line = refused(f"{made}@step1")
        assert "is a local directory, which has no revisions" in line
        assert "write it after each one" in refused(made, "--revision", "main")
        assert "expected HUB-ID@REVISION" in refused("org/model@")

    def test_options(self, refused, made, capsys, tmp_path):
        assert "at least 3" in refused(made, "--min-steps", "2")
        assert "exclude each other" in refused(made, "--share-rollouts", "--rollouts", "x.jsonl")
        assert cli.main(["probe", "demo", "--checkpoints", str(made)]) == 2
        assert f"--checkpoints demo,{made}" in capsys.readouterr().err
        assert cli.main(["probe", "--quiet"]) == 2
        assert "name at least one model" in capsys.readouterr().err
        with pytest.raises(InvalidInputError, match="resume needs out"):
            antiphase.probe_checkpoints(made, resume=True)
        with pytest.raises(InvalidInputError, match="unknown option 'sample'"):
            antiphase.probe_checkpoints(made, sample=2)

    def test_adapters(self, refused, tmp_path, monkeypatch, model_dir):
        adapter = tmp_path / "lora" / "checkpoint-2"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model_dir)}))
        assert "checkpoint-2' has no weights (adapter_model.safetensors)" in refused("lora")
        (adapter / "adapter_model.safetensors").write_bytes(b"")
        edited(adapter / "adapter_config.json", base_model_name_or_path="/gone/base")
        assert "names the base model '/gone/base', which is a folder that does not exist" in refused("lora")
        edited(adapter / "adapter_config.json", base_model_name_or_path=None)
        assert "names no base model" in refused("lora")
        (adapter / "adapter_config.json").write_text("[]")
        assert "expected a JSON object" in refused("lora")
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model_dir)}))
        monkeypatch.setattr("antiphase.models.sources.importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"antiphase\[train\]"):
            check_family(find_checkpoints(tmp_path / "lora").checkpoints)


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
        import antiphase.runs.run as runner

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
        with pytest.raises(InvalidInputError, match="holds other weights of step 4"):
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
        with pytest.raises(InvalidInputError, match="not the folder of a probe of this version"):
            antiphase.probe(str(model_dir), out=whole.folder, resume=True, **QUIET, **OPTIONS)
        antiphase.probe(str(model_dir), out=tmp_path / "probe", **QUIET, **OPTIONS)
        with pytest.raises(InvalidInputError, match="not the folder of a probe of checkpoints"):
            antiphase.probe_checkpoints(made, out=tmp_path / "probe", resume=True, **QUIET, **OPTIONS)


LLAMA_SFT = (
    0.036, -0.468, -0.497, -0.483, -0.500, -0.499, -0.533, -0.509, -0.502, -0.502, -0.511, -0.571, -0.584, -0.606,
)  # fmt: skip
QWEN_SFT = (
    -0.171, -0.308, -0.334, -0.344, -0.370, -0.357, -0.365, -0.380, -0.377, -0.377, -0.379, -0.501, -0.517, -0.494,
)  # fmt: skip
LLAMA_RL = (0.036, -0.362, -0.362, -0.318, -0.234, -0.320, -0.371, -0.332, -0.338, -0.280, -0.314)
QWEN_RL = (-0.171, -0.053, -0.067, -0.085, -0.163, -0.207, -0.280, -0.281, -0.243, -0.318, -0.301)


def test_published_curves_are_those_of_the_method() -> None:
    """What the post and the paper print, number by number."""
    sft, rl = (*range(0, 2001, 200), 4000, 6000, 8000), tuple(range(0, 1001, 100))
    assert {(curve.label, curve.steps, curve.spearman) for curve in published_curves()} == {
        ("SFT, Llama (post)", sft, LLAMA_SFT),
        ("SFT, Qwen (post)", sft, QWEN_SFT),
        ("RL-Zero, Llama (post)", rl, LLAMA_RL),
        ("RL-Zero, Qwen (post)", rl, QWEN_RL),
        ("CorR-PO (paper)", (0, 1000), (-0.171, -0.363)),
        ("GRPO (paper)", (0, 1000), (-0.171, -0.301)),
    }
    for curve in published_curves():
        assert curve.unit == "type"
        assert curve.url.startswith("https://")
        assert curve.read == ("whole" if curve.source == "post" else "as a public digest of the paper reports")


def entry(value, low, high):
    return {"value": value, "low": low, "high": high}


def trajectory(numbered=True, headline="type", steps=(0, 400, 1200)):
    units = {
        "type": entry(-0.2, -0.3, -0.1), "token": entry(0.1, 0.0, 0.2), "step": entry(None, None, None),
    }  # fmt: skip
    results = [{"estimator": name, "headline": headline, "units": units} for name in ("own", "full")]
    points = [{"step": step, "checkpoint": f"checkpoint-{step}", "results": results} for step in steps]
    return {"numbered": numbered, "checkpoints": points}


class TestDrawing:
    def titles(self, figure):
        return [axis.get_title(loc="left") for axis in figure.axes]

    def dotted(self, axis):
        return [line for line in axis.lines if line.get_linestyle() == ":"]

    def test_panels(self):
        figure = checkpoint_curves(trajectory(), published_curves())
        kinds, tokens, steps = figure.axes
        assert self.titles(figure) == ["ρ by type", "ρ by token", "ρ by step"]
        assert [list(line.get_ydata()) for line in kinds.lines[:2]] == [[-0.2] * 3] * 2
        assert list(kinds.lines[0].get_xdata()) == [0, 400, 1200]
        (band, *_) = kinds.collections
        assert band.get_datalim(kinds.transData).y0 == pytest.approx(-0.3)
        assert band.get_datalim(kinds.transData).y1 == pytest.approx(-0.1)
        # References are over types, and reach as far as the trajectory does.
        assert [tuple(line.get_ydata()) for line in self.dotted(kinds)] == [c.spearman for c in published_curves()]
        assert [len(self.dotted(axis)) for axis in (tokens, steps)] == [0, 0]
        assert kinds.get_xlim()[1] == pytest.approx(1.03 * 1200)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [curve.label for curve in published_curves()]

    def test_without_references(self):
        for figure in (checkpoint_curves(trajectory()), checkpoint_curves(trajectory(False), published_curves())):
            assert [self.dotted(axis) for axis in figure.axes] == [[], [], []]
            assert figure.legends == []
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels == ["checkpoint-0", "checkpoint-400", "checkpoint-1200"]

    def test_headline_first_and_one_checkpoint(self):
        figure = checkpoint_curves(trajectory(headline="step", steps=(7,)), published_curves())
        assert self.titles(figure) == ["ρ by step", "ρ by type", "ρ by token"]
        assert len(self.dotted(figure.axes[1])) == len(published_curves())
        assert figure.axes[1].get_xlim()[1] == pytest.approx(1.03 * 200)
        with pytest.raises(InvalidInputError, match="no checkpoint"):
            checkpoint_curves({"numbered": True, "checkpoints": []})

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
