"""Run by torchrun: verl's FSDP 2 engine on the CPU measures ragged rollouts, and then trains a step.

Arguments: the folder of a model, the file of the rollouts, the folder for the results, and `measure` or `plain`.
"""

import json
import sys
from pathlib import Path

import torch
from cpu_verl import register_engine
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine_workers import TrainingWorkerConfig

import verl  # noqa: F401  (imports cpu_verl, which VERL_USE_EXTERNAL_MODULES names)
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.verl.worker import FACTS, InversionTrainingWorker

FULL = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def made(model_dir):
    register_engine()
    # verl would ask for the backend `cpu:gloo,cpu:gloo`, which PyTorch refuses.
    torch.distributed.init_process_group("gloo")
    model = HFModelConfig(
        path=model_dir,
        use_remove_padding=False,
        enable_gradient_checkpointing=True,
        override_config={"attn_implementation": "sdpa"},
    )
    engine = FSDPEngineConfig(strategy="fsdp2", mixed_precision=FULL, use_torch_compile=False, model_dtype="fp32")
    worker = InversionTrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=model,
            engine_config=engine,
            optimizer_config=FSDPOptimizerConfig(lr=1e-2, total_training_steps=2),
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    return worker


def batch(rows):
    def nested(name):
        return torch.nested.as_nested_tensor([torch.tensor(row[name]) for row in rows], layout=torch.jagged)

    fields = {"prompts": nested("prompt_ids"), "responses": nested("completion_ids"), "response_mask": nested("marks")}
    return TensorDict(fields, batch_size=[len(rows)])


def local(parameters):
    return [parameter.detach().to_local().clone() for parameter in parameters]


def train(worker, rank):
    """One optimizer step on a loss that differs between the processes."""
    ids = torch.arange(3, 11)[None] + rank
    with worker.engine.train_mode():
        worker.engine.optimizer_zero_grad()
        worker.engine.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().mean().backward()
        worker.engine.optimizer_step()


def main(model_dir, rollouts, out, mode):
    worker = made(model_dir)
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = [json.loads(line) for line in Path(rollouts).read_text().splitlines()]
    # The first process has all rows but one, so the processes need different numbers of passes.
    mine = rows[:-1] if rank == 0 and size > 1 else rows[-1:] if size > 1 else rows
    parameters = list(worker.engine.module.parameters())
    if mode == "measure":
        before = local(parameters)
        worker.set_inversion(InversionSpec(unit="token", token_budget=32))
        facts = worker.measure_inversion(batch(mine))[FACTS]
        assert all(parameter.grad is None for parameter in parameters)
        assert not worker.engine.optimizer.state
        assert all(torch.equal(a, b) for a, b in zip(before, local(parameters), strict=True))
        torch.save(facts, Path(out) / f"facts{rank}.pt")
    train(worker, rank)
    torch.save(local(parameters), Path(out) / f"weights-{mode}-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
