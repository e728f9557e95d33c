"""`sweep`: cells, budgets, a kill in the middle, and a report that is always the same."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import antiphase.study.sweep as module
from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.study.definition import read_study
from antiphase.study.records import done_cells
from antiphase.study.store import load_cells
from antiphase.study.sweep import sweep

TASK = "digit_sum:base=3,num_digits=4"
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"


def content(model_dir, **changes):
    plain = {
        "name": "small",
        "seeds": [0, 1],
        "models": {"tiny": {"make": ["python", "-c", f"seed = {{seed}}; {COPY}", str(model_dir), "{out}"]}},
        "methods": {"dapo": {"preset": "dapo"}, "corr-po": {"preset": "dapo+corr-po", "inversion_weight": 0.2}},
        "train": {
            "tasks": [TASK],
            "num_problems": 16,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 12,
            "learning_rate": 1e-3,
            "gradient_checkpointing": False,
            "bf16": False,
            "save_strategy": "no",
        },
        "eval": {"tasks": [TASK], "num_problems": 4, "samples": 2, "max_new_tokens": 12, "num_resamples": 20},
        "compare": {"reference": "dapo"},
    }
    return {**plain, **changes}


def write(path, model_dir, **changes):
    path.write_text(yaml.safe_dump(content(model_dir, **changes), sort_keys=False))
    return path


@pytest.fixture(scope="module")
def swept(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path = write(folder / "study.yaml", model_dir)
    said = []
    return sweep(path, folder / "out", say=said.append), path, said


def test_all_cells_run_and_are_compared(swept):
    result, path, said = swept
    assert result.failed == {}
    assert result.num_cells == result.num_done == 6
    assert "6 cells (4 trained and evaluated, 2 evaluated alone), 2 models to make" in said[0]
    assert "8 optimizer steps, 64 rollouts of up to 12 tokens" in said[0]
    cells = load_cells(result.out, read_study(path))
    assert [cell.record["cell"] for cell in cells][:3] == [
        "tiny.all.base.s0",
        "tiny.all.dapo.s0",
        "tiny.all.corr-po.s0",
    ]
    assert all(len(cell.rollouts) == 4 * 3 for cell in cells)
    assert cells[1].record["training"]["num_steps"] == 2
    assert "corr-po" in result.report
    assert (result.out / "report.md").read_text() == result.report
    names = {path.name for path in (result.out / "figures").glob("*.png")}
    assert names == {"differences.png", "accuracy_inversion.png"}
    assert not (result.out / "cells").exists()  # packed
    assert not [path for path in (result.out / "work").iterdir() if path.is_dir()]


def test_the_base_is_evaluated_as_it_is(swept, model_dir):
    from antiphase.evaluation.evaluate import evaluate

    result, path, _ = swept
    base = load_cells(result.out, read_study(path))[0]
    options = content(model_dir)["eval"]
    alone = evaluate(str(model_dir), seed=0, progress=False, **options)
    assert base.rollouts.correct.tolist() == alone.rollouts.correct.tolist()
    assert base.rollouts.answer.fillna("").tolist() == alone.rollouts.answer.fillna("").tolist()
    assert base.record["results"][0]["metrics"] == alone.result()["metrics"]


def test_a_done_sweep_does_nothing_and_says_the_same(swept):
    result, path, _ = swept
    before = {name: (result.out / name).stat().st_mtime_ns for name in ("cells.jsonl", "rollouts.parquet")}
    said = []
    again = sweep(path, result.out, say=said.append)
    assert said == []
    assert again.report == result.report
    assert before == {name: (result.out / name).stat().st_mtime_ns for name in before}


def test_other_settings_are_refused(swept, model_dir, tmp_path):
    result, _, _ = swept
    changed = content(model_dir)
    changed["train"]["learning_rate"] = 2e-3
    message = (
        r"holds a run that was made with other options, so it cannot be continued: the options of the cell "
        r"tiny\.all\.dapo\.s0 in"
    )
    with pytest.raises(InvalidInputError, match=message):
        sweep(write(tmp_path / "study.yaml", model_dir, train=changed["train"]), result.out)


@pytest.mark.slow
def test_kill_9_in_the_middle(swept, tmp_path):
    whole, path, _ = swept
    out = tmp_path / "out"
    words = [sys.executable, "-m", "antiphase", "sweep", str(path), "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while time.time() < deadline and len(list(out.glob("cells/*.json"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    early = {path.name: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert 2 <= len(early) < 6
    made = {path: path.stat().st_mtime_ns for path in out.glob("models/*/made.json")}
    # The processes that it started end with it.
    time.sleep(1.5)
    assert not [pid for pid in _processes(str(out)) if pid != os.getpid()]
    said = []
    again = sweep(path, out, say=said.append)
    ran = [line.split()[2].rstrip(":") for line in said if line.startswith("cell ")]
    assert sorted(ran) == sorted({cell.name for cell in read_study(path).cells} - {Path(name).stem for name in early})
    assert not [line for line in said if line.startswith("model ")]
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert _tables(again.report) == _tables(whole.report)
    for name in ("groups.csv", "findings.json"):
        assert (out / "tables" / name).read_text() == (whole.out / "tables" / name).read_text()


def _processes(text):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _tables(report):
    return [line for line in report.splitlines() if "hours of cells' own time" not in line]


def test_commands_for_a_scheduler(swept, model_dir, tmp_path):
    result, path, _ = swept
    said = []
    sweep(path, tmp_path / "out", commands=True, say=said.append)
    assert len(said) == 6
    assert said[0].endswith(f"sweep {path} --out {tmp_path / 'out'} --cell tiny.all.base.s0")
    assert main(said[0].split()[3:]) == 0
    said.clear()
    sweep(path, tmp_path / "out", commands=True, say=said.append)
    assert len(said) == 5
    done = done_cells(tmp_path / "out", read_study(path))
    first = done_cells(result.out, read_study(path))["tiny.all.base.s0"]
    assert done["tiny.all.base.s0"]["results"] == first["results"]


def test_a_failing_cell_is_named_and_the_others_run(model_dir, tmp_path, capsys):
    models = {
        "broken": {"make": ["python", "-c", "import sys; sys.exit('no luck')"]},
        "tiny": {"path": str(model_dir)},
    }
    path = write(tmp_path / "study.yaml", model_dir, models=models, methods={"dapo": {"preset": "dapo"}}, seeds=[0])
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "1 of 4 failed: broken: making broken failed with status 1" in printed.err
    assert "no luck" in printed.err
    assert "2 of 4 cells are done" in printed.out
    assert "Not done: 2 cells" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {}}, "unknown key 'method'. Did you mean 'methods'?"),
        ({"methods": {}}, "methods is empty"),
        ({"seeds": ["a"]}, "seeds must be a list of different whole numbers"),
        ({"models": {"a/b": "x"}}, "the name 'a/b' must consist of letters"),
        ({"models": {"a": {"path": "x", "make": "y"}}}, "give either path"),
        ({"models": {"a": {"path": "x", "methods": ["dap"]}}}, "unknown method 'dap'. Did you mean 'dapo'?"),
        ({"compare": {"reference": "gspo"}}, "reference 'gspo' is not a method"),
        ({"settings": {"s": {"trian": {}}}}, "unknown key 'trian'. Did you mean 'train'?"),
        ({"settings": ["s"]}, "settings must be a mapping with a name for each entry; got list"),
        ({"methods": {"dapo": {"preset": "dap"}}, "compare": {}}, "'dap' is not a preset. Did you mean 'dapo'?"),
        (
            {"methods": {"dapo": {"epsilom": 1}}, "compare": {}},
            "method 'dapo' of the model 'tiny': unknown key 'epsilom'",
        ),
        (
            {"methods": {"dapo": {}, "long": {"max_steps": 4}}, "compare": {}},
            "unequal budgets (steps is 4 and 2; rollouts is 32 and 16)",
        ),
        ({"compare": {"tuned": ["max_steps"]}}, "'max_steps' is not an option in which methods may differ"),
        ({"eval": {"tasks": ["gsm8"]}}, "unknown task 'gsm8'"),
        ({"eval": {"suite": "papr"}}, "unknown suite 'papr'. Did you mean 'paper'"),
        ({"eval": {"tasks": [TASK], "samples": "4"}}, "samples must be int | None; got '4'"),
        ({"eval": {"tasks": [TASK], "seed": 3}}, "eval: the study itself sets seed"),
        ({"train": {"model": "x"}}, "train: the study itself sets model"),
        ({"train": ["a"]}, "train must map keys to values"),
        ({"methods": {"dapo": "dapo"}, "compare": {}}, "methods: dapo must map keys to values"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"compare": {"smallest": 0}}, "smallest must be a difference between 0 and 1"),
        ({"models": {"a": {"path": "nobody/x", "stages": {"s": "checkpoint-1"}}}}, "stages are folders in"),
        ({"models": {"a": {"path": "x", "settings": "all"}}}, "settings must be a list of names"),
        ({"eval": {"tasks": [TASK], "sampels": 3}}, "unknown option 'sampels'"),
    ],
)
def test_bad_studies(changes, message, model_dir, tmp_path):
    path = write(tmp_path / "study.yaml", model_dir, **changes)
    with pytest.raises(InvalidInputError) as caught:
        sweep(path, tmp_path / "out", dry_run=True, say=lambda _: None)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unreadable_studies(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be read"):
        sweep(tmp_path / "none.yaml", tmp_path / "out")
    for text, message in (("a: [", "is not YAML"), ("- a", "must map keys"), ("", "must map keys")):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            sweep(tmp_path / "study.yaml", tmp_path / "out")


def test_a_damaged_record_is_named(swept, tmp_path, model_dir):
    _, path, _ = swept
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "tiny.all.base.s0.json").write_text("{")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        done_cells(tmp_path, read_study(path))


def test_two_sweeps_do_not_run_one_cell_twice(swept, tmp_path):
    import fcntl

    _, path, _ = swept
    lock = tmp_path / "out" / "work" / "tiny.all.base.s0.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InvalidInputError, match=r"the cell tiny\.all\.base\.s0 is being run by another process\."):
            sweep(path, tmp_path / "out", cells=["tiny.all.base.s0"], say=lambda _: None)
        both = ["tiny.all.base.s0", "tiny.all.base.s1"]
        result = sweep(path, tmp_path / "out", cells=both, say=lambda _: None)
    assert "the cell tiny.all.base.s0 is being run by another process." in result.failed["tiny.all.base.s0"]
    assert result.num_done == 1
    with pytest.raises(InvalidInputError, match=r"has no cell 'tiny\.all\.bas\.s0'"):
        sweep(path, tmp_path / "out", cells=["tiny.all.bas.s0"])


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("studies/first/*.yaml")), ids=lambda path: path.stem
)
def test_shipped_studies_are_what_was_run(path):
    study = read_study(path)
    results = path.with_name(f"results-{path.stem}")
    done = done_cells(results, study)
    assert sorted(done) == sorted(cell.name for cell in study.cells)
    assert json.loads((results / "tables" / "findings.json").read_text())["groups"]["tasks"]


def test_stages_of_a_directory_are_what_is_evaluated(model_dir, tmp_path):
    import shutil

    import torch

    from conftest import byte_tokenizer, tiny_model

    root = shutil.copytree(model_dir, tmp_path / "model")
    stage = tiny_model()
    with torch.no_grad():
        stage.lm_head.weight.mul_(0.01)
    stage.save_pretrained(root / "early")
    byte_tokenizer().save_pretrained(root / "early")
    models = {"tiny": {"path": str(root), "stages": {"early": "early"}, "methods": []}}
    path = write(tmp_path / "study.yaml", model_dir, models=models, seeds=[0], compare={})
    out = tmp_path / "out"
    sweep(path, out, cells=["tiny.all.early.s0", "tiny.all.base.s0"], say=lambda _: None)
    early, base = (json.loads((out / "cells" / f"tiny.all.{n}.s0.json").read_text()) for n in ("early", "base"))
    # Nearly uniform: ln 300 nats.
    assert early["results"][0]["signals"]["entropy_mean"] > base["results"][0]["signals"]["entropy_mean"] + 0.5


def test_cells_of_another_version_stay(swept, model_dir, tmp_path):
    import shutil

    whole, path, _ = swept
    out = shutil.copytree(whole.out, tmp_path / "out")
    models = {"other": {"path": str(model_dir), "methods": ["dapo"]}}
    second = write(tmp_path / "second.yaml", model_dir, models=models, seeds=[0])
    other = sweep(second, out, say=lambda _: None)
    assert other.num_done == 2
    # A sweep of the first version that comes to its end now does not take the report of the second one for its own.
    mine = module._finish(read_study(path), out, {}, 0)
    assert _tables(mine.report) == _tables(whole.report) != _tables(other.report)
    said = []
    again = sweep(path, out, say=said.append)
    assert said == []
    assert again.report == whole.report


def test_a_folder_of_another_study_is_refused(swept, model_dir):
    whole, path, _ = swept
    second = write(path.with_name("second.yaml"), model_dir, name="large")
    before = {file: file.read_bytes() for file in whole.out.iterdir() if file.is_file()}
    for options in ({}, {"tables": True}, {"dry_run": True}, {"commands": True}):
        with pytest.raises(InvalidInputError) as caught:
            sweep(second, whole.out, say=lambda _: None, **options)
        assert str(caught.value) == (
            f"{str(whole.out)!r} belongs to the study 'small', so the study 'large' in {second} cannot be run there. "
            "Choose another --out."
        )
    assert before == {file: file.read_bytes() for file in whole.out.iterdir() if file.is_file()}


@pytest.mark.parametrize("linked", [False, True])
def test_a_model_is_kept_although_its_process_was_killed(model_dir, tmp_path, monkeypatch, linked):
    """The process ends after it has written the record. Repeating the command keeps the model, and trains nothing."""
    from antiphase.study import cells

    path = write(tmp_path / "study.yaml", model_dir, models={"tiny": str(model_dir)}, seeds=[0])
    name, out = "tiny.all.dapo.s0", tmp_path / "out"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cells, "_tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(path, out, cells=[name], keep_models=True, say=lambda _: None)
    assert set(done_cells(out, read_study(path))) == {name}
    if linked:  # as if `models` were on another disk
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "")))
    weights = (out / "work" / name / "train" / "model.safetensors").read_bytes()
    monkeypatch.setattr(cells, "_run", killed)
    sweep(path, out, cells=[name], keep_models=True, say=lambda _: None)
    assert (out / "models" / name / "model.safetensors").read_bytes() == weights
    assert not (out / "work" / name).exists()


def test_a_changed_recipe_is_trained_anew(model_dir, tmp_path):
    from antiphase.study.cells import run_cell

    cell = read_study(write(tmp_path / "one.yaml", model_dir)).cell("tiny.all.dapo.s0")
    out = tmp_path / "out"
    work = out / "work" / cell.name
    (work / "train").mkdir(parents=True)
    (work / "train" / "summary.json").write_text("{}")
    (work / "cell.sha256").write_text("another")
    run_cell(cell, out)
    assert json.loads((out / "cells" / f"{cell.name}.json").read_text())["training"]["num_steps"] == 2
    before = (out / "cells" / f"{cell.name}.json").stat().st_mtime_ns
    run_cell(cell, out)
    assert (out / "cells" / f"{cell.name}.json").stat().st_mtime_ns == before


def test_models_are_looked_at_before_anything_runs(model_dir, tmp_path):
    from antiphase.errors import ModelNotFoundError

    gone = write(tmp_path / "gone.yaml", model_dir, models={"gone": "nobody/nothing"})
    with pytest.raises(ModelNotFoundError, match="could not load 'nobody/nothing'"):
        sweep(gone, tmp_path / "out", say=lambda _: None)
    layers = {**content(model_dir)["eval"], "layers": "99"}
    path = write(tmp_path / "layers.yaml", model_dir, models={"tiny": str(model_dir)}, eval=layers)
    with pytest.raises(InvalidInputError, match="layer 99 does not exist"):
        sweep(path, tmp_path / "out", dry_run=True, say=lambda _: None)
    assert not (tmp_path / "out").exists()
