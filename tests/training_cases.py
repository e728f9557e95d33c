"""A tiny trainer for the tests of training."""

import torch
from datasets import Dataset

from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from conftest import byte_tokenizer, tiny_model

TASK = "digit_sum:base=3,num_digits=4"
PROMPTS = ["hello", "abcd", "what is", "xyz"]


def parity(completions, **_):
    """A verifier that a random model satisfies half of the time, whatever its tokens."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [float(sum(map(ord, text)) % 2) for text in texts]


def data(chat=False):
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS] if chat else PROMPTS
    return Dataset.from_dict({"prompt": prompts * 4, "answer": ["1"] * 16})


def settings(folder, config=CorRPOConfig, **changes):
    # Over tokens, as rollouts of 14 random letters have no sentences; tests of steps say so.
    own = {"inversion_unit": "token", "inversion_combine": "sum"} if config is CorRPOConfig else {}
    plain = {
        **own,
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 14,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return {**plain, **changes}


def run(
    folder,
    *,
    trainer=CorRPOTrainer,
    config=CorRPOConfig,
    model=None,
    rewards=None,
    train=True,
    extra=None,
    tokenizer=None,
    **changes,
):
    made = trainer(
        tiny_model() if model is None else model,
        [parity] if rewards is None else rewards,
        config(**settings(folder, config, **changes)),
        train_dataset=data(chat=tokenizer is not None),
        processing_class=tokenizer or byte_tokenizer(),
        **(extra or {}),
    )
    if train:
        made.train()
    return made


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


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
