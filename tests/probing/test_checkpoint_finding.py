"""The checkpoints that `probe --checkpoints` finds, and those that it refuses."""

import json
import shutil

import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.models.saved import step_in
from antiphase.probing.checkpoints import find_checkpoints
from antiphase.probing.family import check_family
from checkpoint_cases import saved, trained
from conftest import byte_tokenizer, tiny_model

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

            monkeypatch.setattr("antiphase.runs.model_work.load_model", never)
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
