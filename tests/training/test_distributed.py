"""Two CPU processes: DDP trains as one process does. Ragged rollouts and FSDP 2 are in test_many_processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from antiphase.training.trajectory import read_trajectory
from conftest import tiny_model

ROOT = Path(__file__).parents[2]


DISTRIBUTED = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from conftest import byte_tokenizer, tiny_model
from datasets import Dataset
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trainer import CorRPOTrainer

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
    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        advantages = self.accelerator.gather(output["advantages"])
        if self.accelerator.is_main_process:
            term = self._term.advantage if {combine!r} == "centered" else self._term.reward
            with open({out!r} + "/advantages.jsonl", "a") as file:
                file.write(json.dumps([advantages.tolist(), term.tolist()]) + "\\n")
        return output

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
    inversion_unit="token", shuffle_dataset=False)
data = Dataset.from_dict({{"prompt": ["hello", "abcd", "what is", "xyz"] * 4}})
trainer = Keeping(tiny_model(), [parity], config, train_dataset=data, processing_class=byte_tokenizer(),
    rollout_func=given)
trainer.train()
if trainer.accelerator.is_main_process:
    torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), {out!r} + "/weights.pt")
"""


@pytest.mark.slow
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
    batches = [
        torch.tensor([json.loads(line) for line in (tmp_path / name / "advantages.jsonl").read_text().splitlines()])
        for name in ("one", "two")
    ]
    assert batches[0].shape == (3, 2, 8)
    assert torch.allclose(batches[0], batches[1], atol=2e-3)
    assert (batches[0][:, 1].abs().amax(1) > 0).all()
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
        # Without a term of inversion, the comparison would say nothing about it.
        assert a["inversion/undefined"] < 1
        assert a["inversion/mean"] != 0
