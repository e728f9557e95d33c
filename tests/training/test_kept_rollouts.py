"""Rollouts that a training keeps token by token: which ones, with what numbers, on resume, in two processes."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from antiphase.cli import main
from antiphase.data.given_rollouts import load_rollouts
from antiphase.errors import InvalidInputError
from antiphase.training.batch_checks import UnscoredWarning
from antiphase.training.kept_folder import FOLDER, SCHEMA, read_kept
from antiphase.training.kept_rule import (
    check_keep,
)
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer
from training_cases import flags, run, same, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
ROOT = Path(__file__).parents[2]
STEPPED = {"inversion_unit": "step", "inversion_splitter": "fixed:3", "inversion_min_steps": 3}


# What is kept


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The trainer, its folder, and the columns that TRL normalised, for a training of three steps."""
    folder, seen = tmp_path_factory.mktemp("kept"), []

    class Watching(CorRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            seen.append({name: output[name] for name in ("completion_ids", "completion_mask", "advantages")})
            return output

    trainer = run(folder, trainer=Watching, keep_rollouts=8, inversion_weight=0.5, save_strategy="no", **STEPPED)
    return trainer, folder, seen


def test_the_rows_are_the_sampled_rollouts_with_their_advantages(kept) -> None:
    _, folder, seen = kept
    frame = read_kept(folder)
    assert frame.step.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for step, own in frame.groupby("step"):
        output = seen[step]
        pairs = zip(output["completion_ids"], output["completion_mask"].bool(), strict=True)
        ids = [row[mask].tolist() for row, mask in pairs]
        assert [list(row) for row in own.completion_ids] == ids
        assert own.advantage.tolist() == pytest.approx(output["advantages"].tolist(), abs=1e-12)
        assert own.num_tokens.tolist() == [len(row) for row in ids]
        assert [len(tokens) for tokens in own.tokens] == own.num_tokens.tolist()
        assert own.rollout_id.tolist() == [f"{step}-{i // 4}/{i % 4}" for i in range(8)]
        assert own.prompt_id.nunique() == 2
        assert all(len(set(group.prompt)) == 1 for _, group in own.groupby("prompt_id"))


def test_the_numbers_are_those_of_the_reward(kept) -> None:
    _, folder, _ = kept
    frame, trajectory = read_kept(folder), read_trajectory(folder)
    for step, own in frame.groupby("step"):
        row = trajectory[step]
        for column, metric in (
            ("inversion", "inversion/mean"), ("task_reward", "task/mean"), ("correlation", "inversion/correlation"),
            ("correlation_token", "inversion/correlation_token"), ("weight", "inversion/weight"),
        ):  # fmt: skip
            assert own[column].mean() == pytest.approx(row[metric], abs=1e-9), column
        assert own.inversion.isna().mean() == row["inversion/undefined"]
    assert [dict(row)["parity"] for row in frame.rewards] == frame.task_reward.tolist()
    scored = frame[frame.inversion.notna()]
    expected = scored.task_reward + scored.weight * scored.inversion
    assert scored.reward.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_signals_give_the_correlations(kept) -> None:
    _, folder, _ = kept
    for row in read_kept(folder).to_dict("records"):
        count = row["num_tokens"]
        assert all(len(row[name]) == count for name in ("entropy", "logprob", "strength"))
        starts = row["step_start"].tolist()
        assert starts == list(range(0, count, 3))[: len(starts)]
        bounds = [*starts, count]
        for number, (low, high) in enumerate(itertools.pairwise(bounds)):
            assert row["step_entropy"][number] == pytest.approx(np.mean(row["entropy"][low:high]), rel=1e-5)
            assert row["step_strength"][number] == pytest.approx(np.mean(row["strength"][low:high]), rel=1e-5)
        if not math.isnan(row["correlation_token"]):
            assert row["correlation_token"] == pytest.approx(spearmanr(row["entropy"], row["strength"])[0], abs=1e-6)
        if not math.isnan(row["correlation_step"]):
            found = spearmanr(row["step_entropy"], row["step_strength"])[0]
            assert row["correlation_step"] == pytest.approx(found, abs=1e-6)
            assert row["inversion"] == pytest.approx(-found, abs=1e-6)


def test_the_signals_are_those_of_the_policy(tmp_path) -> None:
    """With a learning rate of 0, a measurement after the training gives the same signals."""
    from antiphase.signals.measure import token_signals
    from antiphase.types import TokenBatch

    trainer = run(tmp_path, keep_rollouts=4, max_steps=1, learning_rate=0.0)
    frame = read_kept(tmp_path)
    batch = TokenBatch.from_ids(*([ids.tolist() for ids in frame[name]] for name in ("prompt_ids", "completion_ids")))
    signals = token_signals(trainer.model.eval(), batch, trainer.args.signal_spec())
    for place, row in enumerate(frame.to_dict("records")):
        start = len(row["prompt_ids"])
        for name in ("entropy", "logprob", "strength"):
            again = getattr(signals, name)[place, start : start + row["num_tokens"]].tolist()
            assert row[name].tolist() == pytest.approx(again, rel=1e-4, abs=1e-6), name


def test_a_part_of_a_group(tmp_path) -> None:
    run(tmp_path, keep_rollouts=3, max_steps=2)
    frame = read_kept(tmp_path)
    assert frame.groupby("step").prompt_id.nunique().tolist() == [1, 1]
    assert [name.rpartition("/")[2] for name in frame.rollout_id] == ["0", "1", "2"] * 2


def test_the_files_can_be_probed(kept) -> None:
    _, folder, _ = kept
    file = folder / FOLDER / "step-000001.parquet"
    frame = pd.read_parquet(file)
    given = load_rollouts(file)
    assert [rollout.rollout_id for rollout in given] == frame.rollout_id.tolist()
    assert [list(rollout.completion_ids) for rollout in given] == [list(ids) for ids in frame.completion_ids]
    assert len(pd.read_parquet(folder / FOLDER)) == 24


def test_tool_tokens_and_joint_strengths(tmp_path) -> None:
    """A token that the model did not write has no signals; with `full` and `joint` no token has a strength."""

    def given(prompts, trainer):
        ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
        wrote = [[30 + (7 * i + 11 * j) % 90 for j in range(12)] for i in range(len(prompts))]
        mask = [[1] * 5 + [0] * 3 + [1] * 4 for _ in prompts]
        return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None, "env_mask": mask}

    joint = {**STEPPED, "inversion_estimator": "full", "inversion_step_strength": "joint"}
    with pytest.warns(UserWarning, match="rollout_func"):
        run(tmp_path, keep_rollouts=4, max_steps=1, extra={"rollout_func": given}, **joint)
    for row in read_kept(tmp_path).to_dict("records"):
        assert np.isnan(row["entropy"]).tolist() == [False] * 5 + [True] * 3 + [False] * 4
        assert np.isnan(row["strength"]).all()
        # Windows of 3 tokens that the model wrote: the second one goes on after the tool's tokens.
        assert row["step_start"].tolist() == [0, 3, 9]
        assert not np.isnan(row["step_strength"]).any()
        assert math.isnan(row["correlation_token"])
        assert row["estimator"] == "full"
        assert row["num_tokens"] == 12


def test_undefined_numbers_are_null(tmp_path) -> None:
    def nothing(completions, **_):
        return [None] * len(completions)

    with pytest.warns(UnscoredWarning, match="returned None for 8 of 8 rollouts"):
        run(tmp_path, rewards=[nothing], keep_rollouts=8, max_steps=1, inversion_min_tokens=50)
    (file,) = (tmp_path / FOLDER).iterdir()
    for row in pq.read_table(file).to_pylist():
        assert row["inversion"] is row["task_reward"] is row["reward"] is None
        assert row["rewards"] == [("nothing", None)]
        assert row["advantage"] == 0


def test_an_evaluation_keeps_nothing(tmp_path) -> None:
    from training_cases import data

    extra = {"eval_dataset": data()}
    run(tmp_path, extra=extra, keep_rollouts=8, max_steps=2, eval_strategy="steps", eval_steps=1,
        per_device_eval_batch_size=8)  # fmt: skip
    assert read_kept(tmp_path).step.tolist() == [0] * 8 + [1] * 8


def test_several_batches_for_one_step(tmp_path) -> None:
    """The first of two generation batches of a step is kept; a batch that serves two steps is kept once."""
    run(tmp_path / "two", keep_rollouts=4, max_steps=2, gradient_accumulation_steps=2, steps_per_generation=1)
    assert read_kept(tmp_path / "two").step.tolist() == [0] * 4 + [1] * 4
    run(tmp_path / "one", keep_rollouts=4, max_steps=4, num_iterations=2)
    assert read_kept(tmp_path / "one").step.tolist() == [0] * 4 + [2] * 4


# The training itself


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_keeping_changes_no_bit(tmp_path, weight) -> None:
    options = {"inversion_weight": weight, "temperature": 0.9, **STEPPED}
    plain, keeping = run(tmp_path / "a", **options), run(tmp_path / "b", keep_rollouts=8, **options)
    assert same(plain, keeping)
    rows = [
        [{key: value for key, value in row.items() if key != "inversion/seconds"} for row in read_trajectory(folder)]
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert rows[0] == rows[1]
    assert read_kept(tmp_path / "a") is None
    assert not (tmp_path / "a" / FOLDER).exists()


def equal_frames(left, right) -> None:
    for name in SCHEMA.names:
        for a, b in zip(left[name], right[name], strict=True):
            assert np.array_equal(np.asarray(a, dtype=object), np.asarray(b, dtype=object)) or str(a) == str(b), name


@pytest.mark.slow
def test_a_killed_run_resumes_without_duplicates(tmp_path, model_dir) -> None:
    options = {"max_steps": 40, "save_steps": 10, "eval_problems": 0, "inversion_weight": 0.5, "keep_rollouts": 4}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *flags(model_dir, whole, **options)]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "antiphase", "train", *flags(model_dir, cut, **options)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    folder = cut / FOLDER
    while process.poll() is None and len(list(folder.glob("step-*.parquet"))) < 15:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = read_kept(cut)
    assert 15 <= before.step.nunique() < 40
    assert main(["train", *flags(model_dir, cut, **options), "--resume"]) == 0
    found = read_kept(cut)
    assert found.step.tolist() == [step for step in range(40) for _ in range(4)]
    equal_frames(found, read_kept(whole))
    assert not list(folder.glob(".*"))
    assert (cut / "report.html").read_text().count('"rewardUnit":"step"') == 1


# Wrong numbers


@pytest.mark.parametrize("keep", [-1, 2.5, True, "4"])
def test_a_wrong_number_is_refused(keep) -> None:
    with pytest.raises(InvalidInputError, match="keep_rollouts must be 0 or a positive whole number"):
        check_keep(keep)


def test_the_config_refuses_a_wrong_number(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="keep_rollouts must be 0 or a positive whole number"):
        CorRPOConfig(**settings(tmp_path, keep_rollouts=-1))


def test_more_rollouts_than_a_batch_has_are_refused(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="keep_rollouts is 9, and a generation batch has 8 rollouts"):
        CorRPOConfig(**settings(tmp_path, keep_rollouts=9))


@pytest.mark.parametrize(
    ("value", "message"), [("-2", "must be 0 or a positive"), ("99", "has 8 rollouts"), ("some", "invalid int")]
)
def test_wrong_flags_end_before_anything_is_written(tmp_path, model_dir, capsys, value, message) -> None:
    out = tmp_path / "out"
    assert main(["train", *flags(model_dir, out), "--keep-rollouts", value]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


# Several processes

DISTRIBUTED = """
import os, sys
sys.path.insert(0, {tests!r})
from conftest import byte_tokenizer, tiny_model
from datasets import Dataset
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig

def parity(completions, **_):
    return [float(sum(map(ord, text)) % 2) for text in completions]

def given(prompts, trainer):
    first = trainer.accelerator.process_index * len(prompts)
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = [[3 + (31 * len(p) + 17 * (first + i) + 7 * j) % 250 for j in range(12)] for i, p in enumerate(prompts)]
    return {{"prompt_ids": ids, "completion_ids": wrote, "logprobs": None}}

world = int(os.environ.get("WORLD_SIZE", 1))
config = CorRPOConfig({out!r}, per_device_train_batch_size=12 // world, num_generations=4, max_completion_length=12,
    max_steps=3, learning_rate=1e-3, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
    logging_steps=1, save_strategy="no", disable_tqdm=True, inversion_unit="token", keep_rollouts=8,
    shuffle_dataset=False)
data = Dataset.from_dict({{"prompt": ["hello", "abcd", "what is", "xyz"] * 6}})
CorRPOTrainer(tiny_model(), [parity], config, train_dataset=data, processing_class=byte_tokenizer(),
    rollout_func=given).train()
"""


@pytest.mark.slow
def test_two_processes_keep_what_one_process_keeps(tmp_path) -> None:
    """Groups of 4 on 2 processes with 6 rollouts each: the second group is on both."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONWARNINGS"] = "ignore"
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        (tmp_path / name).mkdir()
        script = tmp_path / f"{name}.py"
        script.write_text(DISTRIBUTED.format(tests=str(ROOT / "tests"), out=str(tmp_path / name)))
        command = [sys.executable, *launcher, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_kept(tmp_path / name) for name in ("one", "two"))
    exact = ["step", "prompt_id", "rollout_id", "prompt", "completion", "finish", "num_tokens", "task_reward"]
    assert one[exact].to_dict("records") == two[exact].to_dict("records")
    assert one.step.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for name in ("inversion", "correlation_token", "reward", "advantage"):
        assert two[name].to_numpy() == pytest.approx(one[name].to_numpy(), rel=1e-2, abs=2e-3, nan_ok=True), name
    for name in ("entropy", "logprob", "strength"):
        assert np.concatenate(two[name].tolist()) == pytest.approx(np.concatenate(one[name].tolist()), rel=1e-2), name


def test_json_of_the_recipe_has_the_option(tmp_path, model_dir) -> None:
    out = tmp_path / "out"
    assert main(["train", *flags(model_dir, out, max_steps=1, eval_problems=0, keep_rollouts=4)]) == 0
    assert json.loads((out / "recipe.json").read_text())["keep_rollouts"] == 4
    assert byte_tokenizer().decode(read_kept(out).completion_ids[0]) == read_kept(out).completion[0]
