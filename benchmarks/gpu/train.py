"""Train: TRL's GRPO step with and without the inversion term, on random weights in the shape of Qwen3-0.6B.

`bitwise`: with λ = 0 and deterministic algorithms the weights after three steps are bitwise those of `GRPOTrainer`.
`step`: seconds of a step, the share of it that measuring takes, and peak memory; a group of 8 completions of 512
tokens. Random ids stand in for what the model would generate: generation differs from engine to engine by a factor of
ten, and measuring does not depend on it. The last case generates, with transformers. The first step warms up and is
not counted, except where a step takes half a minute. Cases: the host alone, `own`, the paper's own reward (`full`,
joint steps), the same with `own`, LoRA with gradient checkpointing, and float32 weights under bfloat16 autocast, which
is what TRL loads by default.
"""

import contextlib
import gc
import inspect
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from kit import DEVICE, Part, free
from shapes import byte_tokenizer, real_config, real_model

NAME = "Qwen3-0.6B"
GROUP, NEW_TOKENS, STEPS = 8, 512, 3
# Random letters have no sentences, so the plain cases correlate tokens.
TOKENS = {"inversion_unit": "token", "inversion_combine": "sum"}
DRY_GROUP, DRY_NEW_TOKENS = 4, 24
QUESTIONS = ("How many apples are left?", "What is the sum of the digits?", "Which of the numbers is the largest one?")


def spread(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between completions: the share of even ids."""
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def prompts() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": QUESTIONS[index % 3] * 2} for index in range(24)])


def arguments(folder: str, *, group: int, new_tokens: int, steps: int, dry: bool, **more: Any) -> dict[str, Any]:
    """Of the host, for all cases alike."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": group,
        "num_generations": group,
        "max_completion_length": new_tokens,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": dry,
        "gradient_checkpointing": False,
        "bf16": False,
        "beta": 0.0,
        "loss_type": "grpo",
        "seed": 1,
        **more,
    }


def stand_in(vocab: int, new_tokens: int) -> Callable[..., torch.Tensor]:
    """What a model's `generate` returns, with random ids instead."""
    generator = torch.Generator().manual_seed(0)

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        ids = torch.randint(3, vocab, (len(input_ids), new_tokens), generator=generator)
        return torch.cat([input_ids, ids.to(input_ids.device)], 1)

    return generate


def trained(
    model: Any, kind: str, options: dict[str, Any], vocab: int, peft: Any = None, *, generates: bool = True
) -> tuple[Any, list[float]]:
    """The trainer after training, and when each step ended."""
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from antiphase import CorRPOConfig, CorRPOTrainer

    marks: list[float] = []

    class Ends(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.append(clock())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(clock())

    trainer_class, config_class = (GRPOTrainer, GRPOConfig) if kind == "grpo" else (CorRPOTrainer, CorRPOConfig)
    trainer = trainer_class(
        model,
        [spread],
        args=config_class(**options),
        train_dataset=prompts(),
        processing_class=byte_tokenizer(vocab),
        peft_config=peft,
    )
    trainer.add_callback(Ends())
    if not generates:
        trainer.model.generate = stand_in(vocab, options["max_completion_length"])
    trainer.train()
    return trainer, marks


def clock() -> float:
    """Seconds, after the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bitwise(part: Part) -> None:
    """λ = 0 is the host, to the last bit."""
    changes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    changes |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}
    for dtype in (torch.float32, torch.bfloat16)[: 1 if part.dry else 2]:
        with (
            part.cell("bitwise", 60, dtype=str(dtype).removeprefix("torch.")) as row,
            tempfile.TemporaryDirectory() as to,
        ):
            torch.use_deterministic_algorithms(True)
            weights = {}
            for kind in ("grpo", "corr-po", "corr-po λ=1"):
                model = real_model(NAME, DEVICE, dtype, dry=False, **changes)
                options = arguments(to, group=4, new_tokens=16, steps=3, dry=part.dry, learning_rate=1e-2)
                if kind != "grpo":
                    options |= {"inversion_weight": float(kind.endswith("1")), "inversion_alarm": "off", **TOKENS}
                trainer, _ = trained(model, kind, options, 300)
                weights[kind] = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            start = real_model(NAME, DEVICE, dtype, dry=False, **changes)
            first = dict(start.named_parameters())
            row["moved"] = any(not torch.equal(first[name], value) for name, value in weights["grpo"].items())
            equal = [torch.equal(value, weights["corr-po"][name]) for name, value in weights["grpo"].items()]
            other = [torch.equal(value, weights["corr-po λ=1"][name]) for name, value in weights["grpo"].items()]
            row |= {"equal": all(equal), "weight_matters": not all(other), "tensors": len(equal)}
            if not (row["equal"] and row["moved"] and row["weight_matters"]):
                row["status"] = "wrong"
        torch.use_deterministic_algorithms(False)


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Case → what is special about it."""

    def lora() -> Any:
        from peft import LoraConfig

        return LoraConfig(r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")

    budget = {"inversion_token_budget": 8192, **TOKENS}
    own = {"inversion_estimator": "own", **budget}
    paper = {**budget, "inversion_estimator": "full", "inversion_unit": "step", "inversion_step_strength": "joint"}
    paper |= {"inversion_combine": "penalty", "inversion_splitter": "fixed:32"}
    fast = {**paper, "inversion_estimator": "own"}
    full = {"inversion_estimator": "full", "inversion_targets_per_rollout": 4, "inversion_min_tokens": 3, **budget}
    checkpointing = {"gradient_checkpointing": True}
    return {
        "own": lambda: {"kind": "corr-po", "inversion": own},
        "host alone": lambda: {"kind": "grpo"},
        "own, joint steps": lambda: {"kind": "corr-po", "inversion": fast},
        "full, joint steps": lambda: {"kind": "corr-po", "inversion": paper, "steps": 0},
        "own, LoRA, checkpointing": lambda: {
            **{"kind": "corr-po", "inversion": own, "peft": lora(), "host": checkpointing}
        },
        "own, float32 weights": lambda: {
            **{"kind": "corr-po", "inversion": own, "dtype": torch.float32},
            "host": {"bf16": True, **checkpointing},
        },
        "full, 4 tokens": lambda: {"kind": "corr-po", "inversion": full, "steps": 1},
        "own, generating": lambda: {"kind": "corr-po", "inversion": own, "steps": 1, "generates": True},
    }


def step(part: Part, case: str, special: dict[str, Any]) -> None:
    """Train one case for a few steps; one row."""
    group, new_tokens = (DRY_GROUP, DRY_NEW_TOKENS) if part.dry else (GROUP, NEW_TOKENS)
    vocab = int(real_config(NAME, dry=part.dry).vocab_size)
    generates, num_steps = special.get("generates", False), special.get("steps", STEPS)
    facts = {"name": case, "group": group, "new_tokens": new_tokens, "generates": generates}
    with part.cell("step", max(part.left, 1), **facts) as row:
        with tempfile.TemporaryDirectory() as folder:
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            model = real_model(NAME, DEVICE, special.get("dtype", torch.bfloat16), dry=part.dry)
            model.generation_config.eos_token_id = None
            host = special.get("host", {})
            options = arguments(folder, group=group, new_tokens=new_tokens, steps=1 + num_steps, dry=part.dry, **host)
            options |= special.get("inversion", {})
            trainer, marks = trained(model, special["kind"], options, vocab, special.get("peft"), generates=generates)
        if DEVICE.type == "cuda":
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        took = [after - before for before, after in itertools.pairwise(marks)]
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
        measuring = [entry.get("inversion/seconds", 0.0) for entry in logs]
        first = min(1, num_steps)
        row |= {"warm_up_seconds": took[0], "step_seconds": took[first:], "measuring_seconds": measuring[first:]}
        row["share"] = sum(measuring[first:]) / sum(took[first:])
        row["length"] = logs[-1]["completions/mean_length"]
        row["log"] = {key: value for key, value in logs[-1].items() if isinstance(value, float | int)}
        del trainer, model
    gc.collect()
    free()


def main() -> None:
    part = Part.from_command_line("train")
    try:
        import trl
    except ImportError as error:
        part.row("trl", status="skipped: TRL is not installed", error=str(error))
        return
    part.row(
        "trl", status="ok", version=trl.__version__, signature=list(inspect.signature(trl.GRPOTrainer).parameters)
    )
    for case, special in cases().items():
        if part.left < (1 if part.dry else 15):
            part.row("step", status="skipped: no time", name=case)
            continue
        step(part, case, special())
        if case == "own, joint steps" and (part.left > 60 or part.dry):
            bitwise(part)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
        sys.exit(0)
