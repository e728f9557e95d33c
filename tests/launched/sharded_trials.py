"""Measures models that FSDP 2 shards again and again, with other numbers of passes in each process.

Usage: sharded_trials.py NUM_TRIALS. Tests launch this script with two processes.
"""

import os
import random
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
warnings.simplefilter("ignore")

from cpu_shards import use_fsdp2

use_fsdp2()

from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule, fully_shard

from antiphase.models.whole_weights import whole_weights
from antiphase.signal_spec import SignalSpec
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch
from conftest import tiny_model

LIMIT = timedelta(seconds=60)
accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=LIMIT)])
RANK = accelerator.process_index


def layer_by_layer():
    model = tiny_model().train()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def by_accelerate(**changes):
    """As accelerate shards: the final norm and the head make one unit, the embeddings another one, or all three."""
    return fsdp2_prepare_model(accelerator, tiny_model(**changes).train())


def gradients(model, *, measure=None):
    """The gradients of two micro-batches, of which only the second one is exchanged."""
    model.zero_grad()
    model.set_requires_gradient_sync(False)
    first = torch.arange(20)[None] + 3 + RANK
    model(input_ids=first, labels=first).loss.backward()
    if measure is not None:
        measure()
    model.set_requires_gradient_sync(True)
    model(input_ids=first + 7, labels=first + 7).loss.backward()
    return [parameter.grad.to_local().clone() for parameter in model.parameters()]


def batch_of(draw):
    """Rollouts of this process. The other process has other numbers of rollouts and tokens."""
    completions = [[3 + draw.randrange(250) for _ in range(draw.randint(1, 14))] for _ in range(draw.randint(1, 5))]
    return TokenBatch.from_ids([[5, 6, 7 + i] for i in range(len(completions))], completions)


def main(num_trials):
    plain = {"untied": tiny_model(), "tied": tiny_model(tie_word_embeddings=True)}
    sharded = {
        "layer by layer": (layer_by_layer(), plain["untied"]),
        "by accelerate": (by_accelerate(), plain["untied"]),
        "tied": (by_accelerate(tie_word_embeddings=True), plain["tied"]),
    }
    # Measured before their first pass in training, as with an engine of its own for generating.
    for model, whole in sharded.values():
        check(model, whole, random.Random(RANK), SignalSpec())
    before = {name: gradients(model) for name, (model, _) in sharded.items()}
    passes = 0
    for trial in range(num_trials):
        shared, own = random.Random(trial), random.Random(2 * trial + RANK)
        name = shared.choice(list(sharded))
        estimator = shared.choice(["own", "own", "last", "full"])
        model, whole = sharded[name]
        # Processes also divide their rollouts differently.
        spec = SignalSpec(
            estimator=estimator, token_budget=own.choice([16, 40, 600]),
            targets_per_rollout=2 if estimator == "full" else None,
        )  # fmt: skip
        after = gradients(model, measure=lambda m=model, w=whole, o=own, s=spec: check(m, w, o, s))
        assert all(torch.equal(a, b) for a, b in zip(before[name], after, strict=True)), (trial, name, estimator)
        passes += 1
    accelerator.wait_for_everyone()
    os.write(1, f"rank {RANK}: {passes} trials\n".encode())


def check(model, whole, draw, spec):
    """Compare the signals of the sharded model with those of the whole one."""
    batch = batch_of(draw)
    with whole_weights(model):
        found = token_signals(model, batch, spec)
    assert all(isinstance(layer, FSDPModule) for layer in model.model.layers)
    expected = token_signals(whole, batch, spec)
    for name in ("entropy", "strength"):
        one, other = getattr(found, name), getattr(expected, name)
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True), (spec.estimator, name)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    torch.distributed.destroy_process_group()
