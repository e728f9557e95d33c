"""Estimates the time and memory of an optimizer step from one micro-batch of the real model, before the training."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.signals.measure import token_signals
from antiphase.training.policy import whole_policy
from antiphase.types import TokenBatch

# Number of tokens that are generated to time the generation.
_TIMED_TOKENS = 8
# Assumed number of tokens of a sentence: a reasoning rollout of 1,000 tokens has about 40 sentences.
_STEP_TOKENS = 25


@dataclass(frozen=True)
class StepEstimate:
    """Estimated seconds of each part of an optimizer step on this process, and the estimated memory of a training.

    The times are those of completions of the greatest length. Most completions are shorter, so a real step is faster.
    Rounds of dynamic sampling take further time. The number of rounds is not known before the training.

    Args:
        generating, measuring, updating: seconds of sampling the completions, of measuring inversion, and of the
            update.
        rereading: seconds of the forward pass for the entropies that `token_advantages` needs; 0 without this option.
        rounds: the greatest number of rounds of `dynamic_sampling`. A round samples at most as many rollouts as the
            batch has, so it takes at most the time `generating`.
        parameters: number of all parameters, and number of the trained parameters.
        state_bytes: bytes of the weights, the gradients and the two moments of Adam.
        peak_bytes: the most bytes that this process (or its GPU) held during the timing, plus Adam's moments.
    """

    generating: float
    measuring: float
    updating: float
    rereading: float
    rounds: int
    parameters: tuple[int, int]
    state_bytes: int
    peak_bytes: int

    def __str__(self) -> str:
        total = self.generating + self.measuring + self.updating + self.rereading
        everything, trained = self.parameters
        entropies = f", entropies for token_advantages {self.rereading:.1f}" if self.rereading else ""
        most = total + self.rounds * self.generating
        sampling = (
            f"dynamic sampling comes on top: with 0 to {self.rounds} rounds, a step takes roughly {total:.1f} to "
            f"{most:.1f} s. Each round generates for the groups whose rewards tie, at most as long as the batch.\n"
        )
        return (
            f"a step takes roughly {total:.1f} s: generating {self.generating:.1f}, measuring inversion "
            f"{self.measuring:.1f} ({self.measuring / total:.0%}), updating {self.updating:.1f}{entropies}\n"
            f"{sampling if self.rounds else ''}"
            f"parameters {everything / 1e6:.1f} M, {trained / 1e6:.1f} M of them trained; weights, gradients and "
            f"optimizer {self.state_bytes / 2**30:.2f} GiB, peak roughly {self.peak_bytes / 2**30:.2f} GiB"
        )


def estimate_step(trainer: Any, prompt_ids: Sequence[Sequence[int]]) -> StepEstimate:
    """Time each part of a step on one micro-batch, and return the estimate for a whole step.

    The policy's weights and gradients are left as they were.

    Args:
        trainer: a `CorRPOTrainer` that has not begun to train.
        prompt_ids: token ids of some training prompts.
    """
    args = trainer.args
    rows = args.per_device_train_batch_size
    batches = args.steps_per_generation
    prompts = [prompt_ids[i % len(prompt_ids)] for i in range(rows)]
    new = args.max_completion_length or _TIMED_TOKENS
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with whole_policy(trainer.model, trainer.accelerator) as policy:
        loaded = LoadedModel("policy", policy, trainer.processing_class, None)
        start = _now()
        generate(loaded, prompts, Sampling(max_new_tokens=min(new, _TIMED_TOKENS)), rollout_seeds(0, prompts))
        generating = (_now() - start) * new / min(new, _TIMED_TOKENS)
        batch = TokenBatch.from_ids(prompts, [[5 + i % 7 for i in range(new)]] * rows, device=loaded.device)
        size = args.splitter().size or _STEP_TOKENS
        steps = torch.where(batch.completion_mask, (batch.completion_mask.cumsum(1) - 1) // size, -1)
        start = _now()
        token_signals(policy, batch, args.signal_spec(), steps=steps)
        measuring = _now() - start
        rereading = _time_forward(policy, batch) if args.token_advantages != "none" else 0.0
    updating = _time_update(trainer, batch)
    weights = list(trainer.model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trained)
    state = sum(weight.numel() * weight.element_size() for weight in weights) + 3 * gradients
    # A generation batch serves num_iterations passes of `steps_per_generation` micro-batches.
    scale = args.gradient_accumulation_steps / (batches * args.num_iterations)
    return StepEstimate(
        generating * scale * batches,
        measuring * scale * batches,
        updating * args.gradient_accumulation_steps,
        rereading * scale * batches,
        args.dynamic_sampling,
        (sum(w.numel() for w in weights), sum(w.numel() for w in trained)),
        state,
        _peak_bytes() + 2 * gradients,
    )


def _time_forward(policy: Any, batch: TokenBatch) -> float:
    """Return the seconds of a forward pass in which the entropy of each token's distribution is computed too."""
    start = _now()
    with torch.no_grad():
        logits = policy(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
        for row in logits:
            torch.distributions.Categorical(logits=row.float()).entropy()
    return _now() - start


def _time_update(trainer: Any, batch: TokenBatch) -> float:
    model = trainer.model
    before = model.training
    # In training mode, so that gradient checkpointing is timed too.
    model.train()
    start = _now()
    with trainer.accelerator.autocast():
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), labels=batch.input_ids)
    output.loss.backward()
    seconds = _now() - start
    model.zero_grad(set_to_none=True)
    model.train(before)
    return seconds


def _now() -> float:
    """Wait until the GPU has done its work, and return the time in seconds. Python alone would not wait."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
