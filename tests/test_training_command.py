"""`antiphase train` from end to end on a tiny model: files, resume, interruption, bad input, two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.train.presets import PRESETS, resolve_preset
from antiphase.train.recipe import parse_recipe
from antiphase.train.trajectory import read_trajectory
from conftest import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
ROOT = Path(__file__).parents[1]
TASK = "digit_sum:base=3,num_digits=4"


def flags(model_dir, out, **changes):
    plain = {
        "model": model_dir,
        "tasks": TASK,
        "out": out,
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "eval_problems": 4,
        "eval_samples": 2,
        "use_cpu": "true",
        "bf16": "false",
        "gradient_checkpointing": "false",
        "learning_rate": "1e-3",
        "report_to": "none",
    }
    return [str(word) for key, value in {**plain, **changes}.items() for word in (f"--{key}", value)]


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


def test_kill_9_and_resume_end_bitwise_where_the_whole_run_does(tmp_path, model_dir):
    options = {"max_steps": 60, "save_steps": 10, "eval_problems": 0, "inversion_weight": 0.5}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *flags(model_dir, whole, **options)]) == 0
    process = _start(flags(model_dir, cut, **options))
    _wait_for(cut / "trajectory.jsonl", 25, process)
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
    from antiphase.train.trainer import CorRPOTrainer

    def full(self, model, trial):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CorRPOTrainer, "_save_checkpoint", full)
    assert main(["train", *flags(model_dir, tmp_path / "run", eval_problems=0)]) == 2
    assert "disk is full. Free some space" in capsys.readouterr().err
    assert len(read_trajectory(tmp_path / "run")) == 1


def test_checkpoints_that_are_not_whole_are_passed_over(tmp_path):
    from antiphase.train.folder import last_checkpoint

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
    assert f"other settings, so it cannot be continued: {option[0]} was" in capsys.readouterr().err


def test_dry_run_trains_nothing(tmp_path, model_dir, capsys):
    assert main(["train", *flags(model_dir, tmp_path / "run"), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert '"num_generations": 4' in output
    assert "a step takes roughly" in output
    assert "peak roughly" in output
    assert not (tmp_path / "run").exists()


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
    "end tokens": (["--end_tokens", "abc"], "3 tokens of this model"),
    "split": (["--eval_split", "train"], "held-out problems are training problems too"),
    "context": (["--max_completion_length", "2000"], "exceed the model's context of 1024"),
    "eval strategy": (["--eval_strategy", "steps"], "eval_every"),
    "resume path": (["--resume_from_checkpoint", "x"], "--resume takes"),
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


def test_own_reward_functions(tmp_path, model_dir, capsys):
    path = tmp_path / "mine.py"
    path.write_text(OWN_REWARDS)
    for name, message in {
        "short": "returned 1 rewards for 2",
        "none": "returned NoneType",
        "nan": "returned nan",
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


def test_recipe_files(tmp_path, model_dir):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {model_dir}\ntasks: '{TASK}'\nlearning_rate: 1e-5\nmax_steps: 7\nreward_weights: [2]\nbf16: false\n"
        "use_cpu: true\noutput_dir: somewhere\npreset: dapo+corr-po\nepsilon_high: 0.3\n"
    )
    recipe = parse_recipe(["--config", str(path), "--max_steps", "9", "--out", str(tmp_path / "o")])
    assert recipe.config.learning_rate == 1e-5
    assert recipe.config.max_steps == 9
    assert recipe.config.reward_weights == [2.0]
    assert recipe.config.output_dir == str(tmp_path / "o")
    assert recipe.config.epsilon_high == 0.3
    assert recipe.config.loss_type == "dapo"
    assert recipe.config.inversion_weight == 0.1
    for content, message in {
        "modle: x": "unknown key 'modle'. Did you mean 'model'?",
        "max_steps: soon": "max_steps: 'soon' is no valid value",
        "model: [a, b]": "model takes one value; got a list",
        "- a": "must map keys to values",
        "a: [": "is not YAML",
        "optim: adm": "optim",
    }.items():
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=message.replace("[", r"\[").replace("?", r"\?")):
            parse_recipe(["--config", str(path)])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        parse_recipe(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(InvalidInputError, match="name a model"):
        parse_recipe(["--tasks", TASK])
    with pytest.raises(InvalidInputError, match="name at least one task"):
        parse_recipe(["--model", "x"])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_arguments_of_the_pinned_host(name, tmp_path, model_dir):
    preset, with_inversion = resolve_preset(name)
    assert not with_inversion
    assert preset.source
    assert preset.deviations
    alone = parse_recipe(flags(model_dir, tmp_path, preset=name))
    both = parse_recipe(flags(model_dir, tmp_path, preset=f"{name}+corr-po"))
    assert alone.config.inversion_weight == 0
    assert both.config.inversion_weight == 0.1
    for key, value in preset.arguments.items():
        assert getattr(alone.config, key) == getattr(both.config, key) == value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name, tmp_path, model_dir):
    words = flags(
        model_dir, tmp_path / "run", preset=f"{name}+corr-po", max_steps=1, eval_problems=0, save_strategy="no"
    )
    assert main(["train", *words]) == 0
    assert read_trajectory(tmp_path / "run")[0]["inversion/weight"] == 0.1


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/*.yaml")), ids=lambda path: path.parent.name)
def test_shipped_recipes_parse(path, monkeypatch):
    from antiphase.train import recipe as module

    # The embedded model may not be installed here.
    monkeypatch.setattr(module, "demo_model_path", lambda: "demo")
    recipe = parse_recipe(["--config", str(path)])
    assert set(yaml.safe_load(path.read_text())) == set(recipe.given)
    assert (path.parent / "README.md").is_file()


DISTRIBUTED = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from conftest import byte_tokenizer, tiny_model
from datasets import Dataset
from antiphase.train.config import CorRPOConfig
from antiphase.train.trainer import CorRPOTrainer

def parity(completions, **_):
    return [float(sum(map(ord, text)) % 2) for text in completions]

def given(prompts, trainer):
    # Rollouts that depend on prompt and place alone, so that every layout of processes scores the same.
    state = trainer.accelerator
    first = state.process_index * len(prompts)
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = [
        [3 + (31 * len(p) + 17 * (first + i) + 7 * j + 13 * trainer.state.global_step * j) % 250 for j in range(12)]
        for i, p in enumerate(prompts)
    ]
    return {{"prompt_ids": ids, "completion_ids": wrote, "logprobs": None}}

class Keeping(CorRPOTrainer):
    def _calculate_rewards(self, *arguments):
        rewards = super()._calculate_rewards(*arguments)
        if self.accelerator.is_main_process:
            with open({out!r} + "/rewards.jsonl", "a") as file:
                file.write(json.dumps(rewards.tolist()) + "\\n")
        return rewards

import os
world = int(os.environ.get("WORLD_SIZE", 1))
config = CorRPOConfig({out!r}, per_device_train_batch_size=8 // world, num_generations=4, max_completion_length=12,
    max_steps=3, learning_rate=1e-3, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
    logging_steps=1, save_strategy="no", disable_tqdm=True, inversion_weight=0.5, inversion_combine={combine!r},
    shuffle_dataset=False)
data = Dataset.from_dict({{"prompt": ["hello", "abcd", "what is", "xyz"] * 4}})
trainer = Keeping(tiny_model(), [parity], config, train_dataset=data, processing_class=byte_tokenizer(),
    rollout_func=given)
trainer.train()
if trainer.accelerator.is_main_process:
    torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), {out!r} + "/weights.pt")
"""


@pytest.mark.parametrize("combine", ["centered", "gated"])
def test_two_processes_train_as_one(tmp_path, combine):
    """Done when 5: the same rewards, and within tolerance the same trajectory and weights."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONWARNINGS"] = "ignore"
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        out = tmp_path / name
        out.mkdir()
        script = out / "script.py"
        script.write_text(DISTRIBUTED.format(tests=str(ROOT / "tests"), out=str(out), combine=combine))
        command = [sys.executable, *launcher, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    rewards = [
        torch.tensor([json.loads(line) for line in (tmp_path / name / "rewards.jsonl").read_text().splitlines()])
        for name in ("one", "two")
    ]
    assert rewards[0].shape == (3, 8, 2)
    assert torch.allclose(rewards[0], rewards[1], atol=1e-4, equal_nan=True)
    assert torch.equal(rewards[0][0], rewards[1][0])  # the first step is measured on equal weights
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    start = tiny_model().state_dict()
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    apart = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert apart < 0.05 * moved
    left, right = (read_trajectory(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(left, right, strict=True):
        for key in a:
            if key not in ("kind", "inversion/seconds") and a[key] is not None:
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-4), key
