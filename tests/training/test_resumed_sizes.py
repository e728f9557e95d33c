"""A run that continues with other batches: refused where its prompts would come in another order, else continued."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from antiphase.errors import InvalidInputError
from antiphase.training.trajectory import read_trajectory
from training_cases import flags, parity, run, weights

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
ROOT = Path(__file__).parents[2]
KEPT = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "inversion_weight": 0.5}


class Asked:
    """A reward function that keeps the prompts of each generation."""

    __name__ = "asked"

    def __init__(self):
        self.prompts = []

    def __call__(self, prompts, completions, **_):
        self.prompts.append(list(prompts))
        return parity(completions)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 4 steps with a checkpoint at step 2, its prompts, and its weights."""
    folder, asked = tmp_path_factory.mktemp("whole"), Asked()
    trainer = run(folder, rewards=[asked], **KEPT)
    return folder / "checkpoint-2", asked.prompts, weights(trainer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_train_batch_size": 4}, "an optimizer step trains on was 8, is 4; .*generation_batch_size"),
        ({"gradient_accumulation_steps": 2}, "an optimizer step trains on was 8, is 16"),
        ({"num_generations": 2}, r"of each prompt \(num_generations\) was 4, is 2"),
        ({"num_iterations": 2}, r"same rollouts \(num_iterations\) was 1, is 2"),
        ({"steps_per_generation": 2}, r"generated together \(generation_batch_size\) was 8, is 16"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_batches_are_refused_before_anything_is_generated(tmp_path, whole, changes, message):
    asked = Asked()
    trainer = run(tmp_path, rewards=[asked], train=False, **{**KEPT, **changes})
    with pytest.raises(InvalidInputError, match=message) as refused:
        trainer.train(resume_from_checkpoint=str(whole[0]))
    assert "These three may change if their product stays" in str(refused.value)
    assert asked.prompts == []


def test_the_same_batch_in_two_parts_continues_the_run(tmp_path, whole):
    """The same prompts in the same order, the same rollouts, and the same weights up to rounding."""
    checkpoint, prompts, expected = whole
    asked = Asked()
    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = run(tmp_path, rewards=[asked], train=False, **{**KEPT, **changes})
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert asked.prompts == prompts[2:]
    for found, weight in zip(weights(trainer), expected, strict=True):
        assert torch.allclose(found, weight, atol=2e-4)


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_its_batches(tmp_path, whole):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    for file in whole[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = json.loads((folder / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["Watch"]["attributes"]["batches"]
    (folder / "trainer_state.json").write_text(json.dumps(state))
    trainer = run(tmp_path / "run", train=False, **{**KEPT, "per_device_train_batch_size": 4})
    trainer.train(resume_from_checkpoint=str(folder))
    assert trainer.state.global_step == 4


def test_the_command_continues_with_the_batch_in_two_parts(tmp_path, model_dir, capsys):
    """Its recipe may name other parts of the same batch. A recipe with another batch is refused."""
    from antiphase.training.train import train

    out = tmp_path / "run"
    plain = {"eval_problems": 0, "save_steps": 2, "preset": "corr-po-fast", "save_total_limit": 5}
    train(flags(model_dir, out, **plain))
    before = read_trajectory(out)
    for left in ("summary.json", "checkpoint-4"):
        path = out / left
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises(InvalidInputError, match="num_generations was 4, is 2"):
        train([*flags(model_dir, out, **plain, **parts, num_generations=2), "--resume"])
    with pytest.raises(InvalidInputError, match="generation_batch_size was 8, is 4"):
        train([*flags(model_dir, out, **plain, per_device_train_batch_size=4), "--resume"])
    result = train([*flags(model_dir, out, **plain, **parts), "--resume"])
    assert result.summary["num_steps"] == 4
    after = read_trajectory(out)
    assert [row["step"] for row in after] == [row["step"] for row in before]
    assert after[2]["task/mean"] == before[2]["task/mean"]
    assert after[2]["rollout/entropy"] == pytest.approx(before[2]["rollout/entropy"], rel=1e-6)


RESUMED = """
import json, os, sys
sys.path.insert(0, {tests!r})
from conftest import byte_tokenizer, tiny_model
from training_cases import data, parity, settings
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig

def asked(prompts, completions, **_):
    with open({out!r} + f"/prompts-{{os.environ.get('RANK', 0)}}.jsonl", "a") as file:
        file.write(json.dumps(prompts) + "\\n")
    # The first rollout of the batch has no reward, and the process of this rollout knows its text.
    return [None if place == 0 and os.environ.get("RANK") == "1" else 1.0 for place in range(len(prompts))]

config = CorRPOConfig(**settings({out!r}, save_strategy="steps", save_steps=2, max_steps=4, inversion_weight=0.5,
    per_device_train_batch_size={batch}))
trainer = CorRPOTrainer(tiny_model(), [asked], config, train_dataset=data(), processing_class=byte_tokenizer())
trainer.train(resume_from_checkpoint={checkpoint!r})
"""


def launched(folder, checkpoint, batch):
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(
        RESUMED.format(tests=str(ROOT / "tests"), out=str(folder), batch=batch, checkpoint=str(checkpoint))
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)],
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_continue_what_one_began(tmp_path, whole):
    """With half of the batch each, the prompts of a step are those of the run on one process."""
    checkpoint, prompts, _ = whole
    done = launched(tmp_path / "halves", checkpoint, 4)
    assert done.returncode == 0, done.stderr[-3000:]
    asked = [
        [json.loads(line) for line in (tmp_path / "halves" / f"prompts-{rank}.jsonl").read_text().splitlines()]
        for rank in range(2)
    ]
    assert [[*first, *second] for first, second in zip(*asked, strict=True)] == prompts[2:]
    # The main process says which rollout of another process has no reward, once for each batch.
    assert done.stderr.count("every reward function returned None for 1 of 8 rollouts") == 2


@pytest.mark.slow
def test_two_processes_with_the_whole_batch_each_are_refused(tmp_path, whole):
    done = launched(tmp_path / "wholes", whole[0], 8)
    assert done.returncode != 0
    assert "an optimizer step trains on was 8, is 16" in done.stderr
    assert "Now there are 2 processes" in done.stderr
    assert not list((tmp_path / "wholes").glob("prompts-*"))
