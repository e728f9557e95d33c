"""Trains on ragged rollouts, on one or several processes. Tests launch this script and read what it writes.

Usage: ragged_training.py KIND MODEL OUT. KIND is plain, ddp, fsdp2, fsdp2-recomputing, zero2 or zero3, and MODEL is
the folder of a model.

Three trainings follow one another: by TRL's own trainer, by CorRPOTrainer with the weight 0, and by it with a weight.
The completions depend on the prompt and on the place in the batch alone, so any number of processes gets the same
ones. In the first batch, all completions of the first process are one token long and have no task reward.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

KIND, MODEL, OUT = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
warnings.simplefilter("ignore")

from cpu_shards import use_fsdp2, use_zero

if KIND.startswith("fsdp2"):
    use_fsdp2(FSDP_ACTIVATION_CHECKPOINTING="true" if KIND == "fsdp2-recomputing" else "false")
elif KIND.startswith("zero"):
    use_zero(KIND[-1])

from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from conftest import byte_tokenizer

WORLD = 1 if KIND == "plain" else 2
LENGTHS = (1, 1, 19, 12, 7, 30, 9, 23)


def parity(completions, log_metric=None, **_):
    """Judge longer completions only, and log a metric if there are any: so some processes log none."""
    long = [len(text) > 3 for text in completions]
    if any(long) and log_metric is not None:
        log_metric("judged", sum(long) / len(long))
    return [float(sum(map(ord, text)) % 2) if judged else None for text, judged in zip(completions, long, strict=True)]


def given(prompts, trainer):
    first, step = trainer.accelerator.process_index * len(prompts), trainer.state.global_step
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = []
    for i, prompt in enumerate(prompts, start=first):
        length = LENGTHS[(i + 3 * step) % len(LENGTHS)]
        wrote.append([3 + (31 * len(prompt) + 17 * i + 7 * j + 13 * step * j) % 250 for j in range(length)])
    return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None}


class Noting(CorRPOTrainer):
    """Notes what was measured of each rollout, in the order of the batch."""

    def _calculate_rewards(self, *arguments):
        rewards = super()._calculate_rewards(*arguments)
        scores = self._measured.scores
        found = {name: getattr(scores, name).tolist() for name in ("correlation", "entropy", "strength")}
        everyone = gather_object([found])
        if self.accelerator.is_main_process:
            row = {name: [value for part in everyone for value in part[name]] for name in found}
            with (OUT / "measured.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        return rewards


def train(name, trainer_class, config_class, **own):
    # Two micro-batches make a step, and each has its own rollouts: so half of the batches are measured where
    # gradients wait for the next micro-batch.
    config = config_class(
        str(OUT / name), per_device_train_batch_size=4 // WORLD, gradient_accumulation_steps=2,
        steps_per_generation=1, num_generations=4, max_completion_length=32, max_steps=2, learning_rate=1e-3,
        report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=KIND == "zero3", logging_steps=1,
        save_strategy="no", disable_tqdm=True, shuffle_dataset=False, **own,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["hello", "abcd", "what is", "xyz"] * 4})
    trainer = trainer_class(
        MODEL, [parity], config, train_dataset=data, processing_class=byte_tokenizer(), rollout_func=given
    )
    trainer.train()
    wrapped = trainer.model_wrapped if KIND.startswith("zero") else trainer.model
    weights = trainer.accelerator.get_state_dict(wrapped)
    if trainer.accelerator.is_main_process:
        torch.save({key: value.cpu() for key, value in weights.items()}, OUT / f"{name}.pt")
    return trainer


if __name__ == "__main__":
    term = {"inversion_unit": "token", "inversion_min_tokens": 5}
    train("host", GRPOTrainer, GRPOConfig)
    train("zero", CorRPOTrainer, CorRPOConfig, inversion_weight=0.0, **term)
    trained = train("ours", Noting, CorRPOConfig, inversion_weight=0.5, keep_rollouts=4, **term)
    if trained.accelerator.is_main_process:
        kind = str(trained.accelerator.distributed_type).split(".")[-1]
        (OUT / "kind.txt").write_text(kind, encoding="utf-8")
    trained.accelerator.wait_for_everyone()
