"""`antiphase train` from end to end on a tiny model: files, resume, interruption, bad input, two processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from antiphase.cli import main
from antiphase.signals.measure import token_signals
from antiphase.training import step_estimate as estimate
from antiphase.training.recipe import parse_recipe
from antiphase.training.training_folder import prepared
from antiphase.training.trajectory import read_trajectory
from training_cases import TASK, flags

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_dir):
    out = tmp_path_factory.mktemp("train") / "run"
    assert main(["train", *flags(model_dir, out, preset="grpo+corr-po", inversion_weight=0.5)]) == 0
    return out


def test_files_of_a_run(finished, capsys):
    summary = json.loads((finished / "summary.json").read_text())
    trajectory = read_trajectory(finished)
    steps = [row for row in trajectory if row["kind"] == "step"]
    evals = [row for row in trajectory if row["kind"] == "eval"]
    assert [row["step"] for row in steps] == [0, 1, 2, 3]
    assert [row["step"] for row in evals] == [0, 4]
    assert summary["num_steps"] == 4
    assert summary["format"] == "antiphase-train"
    assert summary["change"]["heldout/pass@1"] == [row["heldout/pass@1"] for row in evals]
    assert summary["change"]["inversion/mean"] == [steps[0]["inversion/mean"], steps[3]["inversion/mean"]]
    assert summary["measuring_seconds"] == pytest.approx(sum(row["inversion/seconds"] for row in steps))
    assert summary["config"]["beta"] == 0.04
    assert set(summary["versions"]) >= {"antiphase", "trl", "torch", "transformers"}
    card = (finished / "README.md").read_text()
    assert "DeepSeekMath" in card
    assert "2605.17770" in card
    assert "inversion_weight: 0.5" in card
    # TRL names neither a base model that is a folder nor a model that is not pushed.
    assert "None" not in card
    assert f"fine-tuned version of `{summary['config']['model_name_or_path']}`." in card
    (shown,) = re.findall(r'pipeline\("text-generation", model="(.*?)"', card)
    assert Path(shown) == finished
    assert (finished / "figures" / "trajectory.png").stat().st_size > 5_000
    assert (finished / "figures" / "trajectory.svg").read_text().startswith("<?xml")
    assert not list(finished.glob(".*.tmp"))


def test_the_result_loads_and_probes(finished):
    from antiphase import load_model

    loaded = load_model(str(finished))
    assert loaded.tokenizer("1=?").input_ids


def test_a_finished_run_and_other_folders_are_kept(finished, model_dir, capsys, tmp_path):
    before = (finished / "summary.json").read_bytes()
    assert main(["train", *flags(model_dir, finished)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    same = flags(model_dir, finished, preset="grpo+corr-po", inversion_weight=0.5)
    assert main(["train", *same, "--resume"]) == 2
    assert "is finished" in capsys.readouterr().err
    assert (finished / "summary.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["train", *flags(model_dir, tmp_path), "--resume"]) == 2
    assert "not the folder of a training run" in capsys.readouterr().err


def _start(words):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "antiphase", "train", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for(path, number, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.is_file() and path.read_text().count('"step"') >= number:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(process.communicate()[0])


def test_kill_9_and_resume_end_bitwise_where_the_whole_run_does(tmp_path, model_dir, capsys):
    options = {"max_steps": 60, "save_steps": 10, "eval_problems": 0, "inversion_weight": 0.5}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *flags(model_dir, whole, **options)]) == 0
    process = _start(flags(model_dir, cut, **options))
    _wait_for(cut / "trajectory.jsonl", 25, process)
    process.send_signal(signal.SIGSTOP)
    assert main(["train", *flags(model_dir, cut, **options), "--resume"]) == 2
    assert f"{str(cut)!r} is in use by process {process.pid} on" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cut / "summary.json").exists()
    assert len(list(cut.glob("checkpoint-*"))) >= 1
    assert main(["train", *flags(model_dir, cut, **options), "--resume"]) == 0
    assert equal(weights(whole), weights(cut))
    rows = [[(r["step"], r["task/mean"], r["inversion/mean"]) for r in read_trajectory(f)] for f in (whole, cut)]
    assert rows[0] == rows[1]


def test_a_run_cut_after_its_last_step_is_finished_without_another(finished, model_dir, tmp_path):
    import shutil

    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    for name in ("summary.json", "model.safetensors", "README.md"):
        (cut / name).unlink()
    words = flags(model_dir, cut, preset="grpo+corr-po", inversion_weight=0.5)
    assert main(["train", *words, "--resume"]) == 0
    assert json.loads((cut / "summary.json").read_text())["num_steps"] == 4
    assert equal(weights(finished), weights(cut))
    assert read_trajectory(cut) == read_trajectory(finished)


def test_ctrl_c_saves_a_checkpoint(tmp_path, model_dir):
    words = flags(model_dir, tmp_path / "run", max_steps=400, save_steps=400, eval_problems=0)
    process = _start(words)
    _wait_for(tmp_path / "run" / "trajectory.jsonl", 3, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "--resume" in output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert int(checkpoint.name.split("-")[1]) < 400
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_full_disk_is_one_line(tmp_path, model_dir, capsys, monkeypatch):
    from antiphase.training.trainer import CorRPOTrainer

    def full(self, model, trial):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CorRPOTrainer, "_save_checkpoint", full)
    assert main(["train", *flags(model_dir, tmp_path / "run", eval_problems=0)]) == 2
    assert "disk is full. Free some space" in capsys.readouterr().err
    assert len(read_trajectory(tmp_path / "run")) == 1


def test_checkpoints_that_are_not_whole_are_passed_over(tmp_path):
    from antiphase.training.training_folder import last_checkpoint

    assert last_checkpoint(tmp_path) is None
    for name, state in (
        ("checkpoint-2", "{}"),
        ("checkpoint-10", '{"global'),
        ("checkpoint-12", None),
        ("other-20", "{}"),
    ):
        (tmp_path / name).mkdir()
        if state is not None:
            (tmp_path / name / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize("option", [("inversion_weight", 0.25), ("learning_rate", "5e-4"), ("seed", 7)])
def test_resume_refuses_other_settings(tmp_path, model_dir, capsys, option):
    out = tmp_path / "run"
    out.mkdir()
    recipe = parse_recipe(flags(model_dir, out))
    (out / "recipe.json").write_text(json.dumps(recipe.resolved))
    assert main(["train", *flags(model_dir, out, **dict([option])), "--resume"]) == 2
    message = "holds a run that was made with other options, so it cannot be continued: "
    assert f"{message}{option[0]} was" in capsys.readouterr().err


def test_resume_compares_the_tags_of_thoughts_with_older_runs_too(tmp_path, model_dir, capsys):
    out = tmp_path / "run"
    out.mkdir()
    settings = parse_recipe(flags(model_dir, out)).resolved
    assert settings.pop("think_tags") == []
    (out / "recipe.json").write_text(json.dumps(settings))
    assert main(["train", *flags(model_dir, out), "--think-tags", "<plan> </plan>", "--resume"]) == 2
    assert "think_tags was [], is ['<plan> </plan>']" in capsys.readouterr().err
    with prepared(out, parse_recipe([*flags(model_dir, out), "--resume"])):
        assert json.loads((out / "recipe.json").read_text())["think_tags"] == []


def test_dry_run_trains_nothing(tmp_path, model_dir, capsys):
    assert main(["train", *flags(model_dir, tmp_path / "run"), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert '"num_generations": 4' in output
    assert "a step takes roughly" in output
    assert "peak roughly" in output
    assert not (tmp_path / "run").exists()


def test_dry_run_times_steps_of_the_splitters_size(tmp_path, model_dir, capsys, monkeypatch):
    timed = []

    def measure(*args, steps, **options):
        timed.append(steps)
        return token_signals(*args, steps=steps, **options)

    monkeypatch.setattr(estimate, "token_signals", measure)
    words = flags(model_dir, tmp_path / "run", preset="corr-po", inversion_splitter="fixed:2")
    assert main(["train", *words, "--dry-run"]) == 0
    counts = [int((row == 0).sum()) for row in timed[0]]
    assert counts == [2] * len(counts)
    assert "by step (fixed:2, joint), estimator full" in capsys.readouterr().out


def test_the_printed_pins_of_a_first_release_recipe_are_those_that_hold(tmp_path, model_dir, capsys):
    words = flags(model_dir, tmp_path / "run", preset="grpo+corr-po", inversion_combine="centered")
    assert main(["train", *words, "--dry-run"]) == 0
    (pins,) = [line for line in capsys.readouterr().out.splitlines() if "inversion_unit=" in line]
    assert "inversion_unit=token" in pins
    assert "inversion_estimator=own" in pins


BAD = {
    "unknown flag": (["--lerning_rate", "1"], "unknown flag --lerning_rate. Did you mean 'learning_rate'?"),
    "preset": (["--preset", "dappo"], "Did you mean 'dapo'?"),
    "preset alone with a weight": (["--preset", "dapo", "--inversion_weight", "0.1"], "Ask for 'dapo+corr-po'"),
    "task": (["--tasks", "digit_summ"], "digit_sum"),
    "task option": (["--tasks", "digit_sum:bas=3"], "base"),
    "twice": (["--tasks", TASK, TASK], "named twice"),
    "estimator": (["--inversion_estimator", "owm"], "own, last, full"),
    "weight": (["--inversion_weight", "-1"], "must be 0 or positive"),
    "type": (["--max_steps", "many"], "max_steps"),
    "reward": (["--reward_funcs", "acuracy"], "Did you mean 'accuracy'?"),
    "reward file": (["--reward_funcs", "nowhere.py:f"], "no file 'nowhere.py'"),
    "reward module": (["--reward_funcs", "no_such_module_x:f"], "cannot be imported"),
    "template": (["--prompt_template", "text"], "must contain {prompt}"),
    "group": (["--num_generations", "3"], "divisible by num_generations"),
    "model": (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    "think tags": (["--think_tags", "<plan>"], "must be an opening and a closing tag"),
    "end tokens": (["--end_tokens", "abc"], "3 tokens of this model"),
    "split": (["--eval_split", "train"], "held-out problems are training problems too"),
    "context": (["--max_completion_length", "2000"], "exceed the model's context of 1024"),
    "eval strategy": (["--eval_strategy", "steps"], "eval_every"),
    "resume path": (["--resume_from_checkpoint", "x"], "from its last checkpoint, use --resume"),
    "lora": (["--use_peft", "--lora_target_modules", "no_such"], "no_such"),
    "problems": (["--num_problems", "1000"], "1000 problems"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_at_once(tmp_path, model_dir, capsys, case):
    words, message = BAD[case]
    key = words[0].lstrip("-")
    plain = flags(model_dir, tmp_path / "run")
    if f"--{key}" in plain:
        place = plain.index(f"--{key}")
        del plain[place : place + 2]
    assert main(["train", *plain, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_an_offline_training_is_told_to_give_is_taken(tmp_path, model_dir, capsys, monkeypatch):
    """GSM8K's train split is on the hub alone; the message names a local copy, which is then trained on."""
    import datasets

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    words = {"max_completion_length": 8, "eval_problems": 4, "num_problems": 20}
    assert main(["train", *flags(model_dir, tmp_path / "run", tasks="gsm8k", **words)]) == 2
    assert "Or give a local copy: gsm8k:file=PATH." in capsys.readouterr().err
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(f'{{"question": "{i}+{i}?", "answer": "#### {2 * i}"}}\n' for i in range(20)))
    from antiphase.training.inputs import draw_problems

    recipe = parse_recipe(flags(model_dir, tmp_path / "run", tasks=f"gsm8k:file={path}", **words))
    training, held = draw_problems(recipe)
    assert [len(training), len(held)] == [20, 4]
    assert all(problem.problem_id.startswith("gsm8k_test-") for problem in held)


OWN_REWARDS = """
import math
def good(completions, **_): return [float(len(c)) for c in completions]
def short(completions, **_): return [1.0]
def none(completions, **_): return None
def nan(completions, **_): return [math.nan] * len(completions)
def nothing(completions, **_): return [None] * len(completions)
def state(completions, trainer_state, log_extra, log_metric, **_):
    log_extra(column="x", values=[trainer_state.global_step] * len(completions))
    return [1.0] * len(completions)
def fails(completions, **_): raise KeyError("golden")
"""


@pytest.mark.filterwarnings("ignore::antiphase.training.reward_functions.RewardWarning")
def test_own_reward_functions(tmp_path, model_dir, capsys):
    path = tmp_path / "mine.py"
    path.write_text(OWN_REWARDS)
    for name, message in {
        "short": "returned 1 rewards for 2",
        "none": "returned NoneType",
        "nan": "returns None for every problem tried (NaN counts as None)",
        "nothing": "returns None for every problem",
        "fails": "fails on an empty completion (KeyError",
        "absent": "has no function 'absent'",
    }.items():
        assert main(["train", *flags(model_dir, tmp_path / "run", reward_funcs=f"{path}:{name}")]) == 2
        assert message in capsys.readouterr().err
    for name in ("good", "state"):
        out = tmp_path / name
        assert (
            main(["train", *flags(model_dir, out, reward_funcs=f"{path}:{name}", max_steps=1, eval_problems=0)]) == 0
        )
        assert read_trajectory(out)[0]["task/mean"] > 0
    (tmp_path / "broken.py").write_text("def f(:")
    assert main(["train", *flags(model_dir, tmp_path / "run", reward_funcs=f"{tmp_path}/broken.py:f")]) == 2
    assert "cannot be imported (SyntaxError" in capsys.readouterr().err


def test_secrets_and_trackers(tmp_path, model_dir):
    """Tokens stay out of every file, and TensorBoard gets every metric, held-out ones too."""
    out = tmp_path / "run"
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(tmp_path / "board")
    try:
        words = flags(model_dir, out, max_steps=2, hub_token="hf_SECRET", report_to="tensorboard")
        assert main(["train", *words]) == 0
    finally:
        del os.environ["TENSORBOARD_LOGGING_DIR"]
    for path in out.rglob("*"):
        assert not path.is_file() or b"hf_SECRET" not in path.read_bytes() or path.name == "training_args.bin"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "board").rglob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    tags = " ".join(board.Tags()["scalars"])
    for name in ("inversion/mean", "task/accuracy", "heldout/pass@1", "loss"):
        assert name in tags
