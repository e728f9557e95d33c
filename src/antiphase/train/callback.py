"""`InversionCallback`: follow the inversion of any model that a Hugging Face trainer trains (SFT, RL, anything)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from antiphase.bootstrap import mean_within, pooled_correlation
from antiphase.correlation import MIN_TOKENS, coefficients
from antiphase.data.prompts import Messages
from antiphase.data.rendering import PromptFormat
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.generation import Sampling, generate
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.signals.measure import chosen_layers, token_signals
from antiphase.train.policy import is_sharded, whole_policy
from antiphase.train.tracking import log_numbers
from antiphase.train.trajectory import Trajectory, begin_once
from antiphase.types import SignalSpec, TokenBatch


@dataclass(frozen=True)
class ProbeSet:
    """The fixed prompts (or whole rollouts) on which a model is followed.

    Args:
        tokenizer: of the model.
        prompt_ids: one row a rollout; rows of one prompt have one cluster.
        clusters: the prompt that each row belongs to.
        completion_ids: given completions; None lets the model write its own at every measurement, drawn anew with
            the same seed.
        sampling: of those.
        batch_size: rollouts generated at a time.
    """

    tokenizer: Any
    prompt_ids: tuple[tuple[int, ...], ...]
    clusters: tuple[int, ...]
    completion_ids: tuple[tuple[int, ...], ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 16

    @classmethod
    def from_prompts(
        cls,
        prompts: Sequence[str | Messages],
        tokenizer: Any,
        *,
        samples: int = 1,
        sampling: Sampling | None = None,
        template: str | None = None,
        batch_size: int = 16,
    ) -> "ProbeSet":
        """Prompts that the model completes itself at every measurement: what METHOD §1 measures.

        Args:
            prompts: plain texts or chats.
            tokenizer: of the model.
            samples: completions of each prompt.
            sampling: how they are drawn.
            template: text with `{prompt}` in it; see `PromptFormat`.
            batch_size: rollouts generated at a time.

        Raises:
            InvalidInputError: no prompt, or one without tokens.
        """
        _check_some(prompts)
        form = PromptFormat(template)
        rows = [
            tuple(form.encode(tokenizer, prompt, f"prompt {i}"))
            for i, prompt in enumerate(prompts)
            for _ in range(samples)
        ]
        clusters = tuple(i for i in range(len(prompts)) for _ in range(samples))
        return cls(tokenizer, tuple(rows), clusters, None, sampling or Sampling(), batch_size)

    @classmethod
    def from_rollouts(
        cls,
        prompts: Sequence[str | Messages],
        completions: Sequence[str],
        tokenizer: Any,
        *,
        template: str | None = None,
    ) -> "ProbeSet":
        """Given rollouts, read by the model and not written by it: cheap, and the same tokens at every step.

        Args:
            prompts: plain texts or chats.
            completions: one for each prompt.
            tokenizer: of the model.
            template: text with `{prompt}` in it; see `PromptFormat`.

        Raises:
            InvalidInputError: not as many completions as prompts, or one without tokens.
        """
        _check_some(prompts)
        if len(prompts) != len(completions):
            raise InvalidInputError(f"{len(prompts)} prompts for {len(completions)} completions; give one for each.")
        form = PromptFormat(template)
        rows = [tuple(form.encode(tokenizer, prompt, f"prompt {i}")) for i, prompt in enumerate(prompts)]
        texts = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in completions]
        for place, ids in enumerate(texts):
            if not ids:
                raise InvalidInputError(f"completion {place} has no tokens.")
        first = {str(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
        return cls(tokenizer, tuple(rows), tuple(first[str(prompt)] for prompt in prompts), tuple(texts))


def _check_some(prompts: Sequence[Any]) -> None:
    if not prompts:
        raise InvalidInputError("the probe set is empty; give at least one prompt.")


def probe_policy(
    model: Any,
    probe_set: ProbeSet,
    spec: SignalSpec,
    *,
    min_tokens: int = MIN_TOKENS,
    num_resamples: int = 1000,
) -> dict[str, float | str | int]:
    """ρ pooled over the probe set with its interval over prompts, and what belongs to it.

    The engine and the statistics are those of `antiphase probe`.

    Args:
        model: unwrapped, whole.
        probe_set: what to measure on.
        spec: what to measure.
        min_tokens: rollouts with fewer tokens have no correlation of their own.
        num_resamples: of the bootstrap over prompts.
    """
    completions = probe_set.completion_ids
    if completions is None:
        loaded = LoadedModel("policy", model, probe_set.tokenizer, None)
        drawn: list[tuple[int, ...]] = []
        for start in range(0, len(probe_set.prompt_ids), probe_set.batch_size):
            prompts = probe_set.prompt_ids[start : start + probe_set.batch_size]
            drawn += [tuple(ids) for ids, _ in generate(loaded, prompts, probe_set.sampling, start)]
        completions = tuple(drawn)
    batch = TokenBatch.from_ids(probe_set.prompt_ids, completions)
    signals = token_signals(model, batch, spec)
    rows, columns = torch.nonzero(batch.completion_mask, as_tuple=True)
    entropy, strength = (values[rows, columns].double().cpu() for values in (signals.entropy, signals.strength))
    clusters = torch.tensor(probe_set.clusters)
    pooled = pooled_correlation(
        entropy, strength, clusters[rows], min_tokens=min_tokens, num_resamples=num_resamples, seed=spec.seed
    )
    each = coefficients(signals.entropy.cpu(), signals.strength.cpu(), signals.measured.cpu(), min_tokens=min_tokens)
    within = mean_within(each, clusters, num_resamples=num_resamples, seed=spec.seed)
    return {
        "probe/spearman": pooled.value,
        "probe/spearman_low": pooled.low,
        "probe/spearman_high": pooled.high,
        "probe/inversion": pooled.inversion,
        "probe/spearman_within": within.value,
        "probe/entropy": float(entropy.mean()) if len(entropy) else math.nan,
        "probe/strength": float(strength.nanmean()) if len(strength) else math.nan,
        "probe/length": len(entropy) / len(batch),
        "probe/undefined": float(each.isnan().double().mean()),
        "probe/num_tokens": pooled.num_tokens,
        "probe/estimator": spec.estimator,
        "probe/rollouts": "own" if probe_set.completion_ids is None else "given",
    }


class InversionCallback(TrainerCallback):  # type: ignore[misc]
    """Measures ρ with its interval on a fixed probe set every few steps of any Hugging Face trainer.

    Rows of kind `probe` go to `trajectory.jsonl` in the trainer's output directory, and the numbers to the trainer's
    log history and, where the callback was attached, to its trackers. The training itself is not moved: no random
    state, gradient or parameter changes.

    Args:
        every_n_steps: measure every so many optimizer steps, besides the beginning and the end.
        probe_set: what to measure on.
        spec: what to measure; the default is the estimator `own` on all layers.
        min_tokens, num_resamples: see `probe_policy`.

    Raises:
        InvalidInputError: `every_n_steps` below 1.

    Examples:
        ```python
        callback = InversionCallback(50, ProbeSet.from_prompts(questions, tokenizer))
        callback.attach(trainer)  # or Trainer(..., callbacks=[callback])
        ```
    """

    def __init__(
        self,
        every_n_steps: int,
        probe_set: ProbeSet,
        spec: SignalSpec | None = None,
        *,
        min_tokens: int = MIN_TOKENS,
        num_resamples: int = 1000,
    ) -> None:
        if every_n_steps < 1:
            raise InvalidInputError(f"every_n_steps must be at least 1; got {every_n_steps}.")
        self.every_n_steps, self.probe_set, self.spec = every_n_steps, probe_set, spec or SignalSpec()
        self.min_tokens, self.num_resamples = min_tokens, num_resamples
        self.trainer: Any = None
        self._done_at: int | None = None

    def attach(self, trainer: Any) -> "InversionCallback":
        """Add the callback to a trainer, with its trackers and, under FSDP 2 or ZeRO-3, its sharded model."""
        self.trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the model can be measured, and measure it untrained."""
        if self.trainer is None or not is_sharded(self.trainer.accelerator):
            chosen_layers(unwrap(kwargs["model"]), self.spec)
        if state.is_world_process_zero:
            begin_once(Trajectory(Path(args.output_dir)), state)
        if state.global_step == 0:
            self._measure(args, state, control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure on the way, and after the last step."""
        if state.global_step % self.every_n_steps == 0 or state.global_step >= state.max_steps:
            self._measure(args, state, control, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure a model whose training ended early."""
        if self._done_at != state.global_step:
            self._measure(args, state, control, kwargs["model"], track=False)

    def _measure(self, args: Any, state: Any, control: Any, model: Any, *, track: bool = True) -> None:
        self._done_at = state.global_step
        if self.trainer is not None:
            accelerator = self.trainer.accelerator
            with whole_policy(self.trainer.model_wrapped, accelerator, args.gradient_checkpointing_kwargs) as policy:
                row = self._probe(policy)
        else:
            if _has_shards(model):
                raise UnsupportedModelError(
                    "the model is sharded (FSDP or ZeRO-3); attach the callback with callback.attach(trainer), so "
                    "that it can gather the parameters."
                )
            row = self._probe(model)
        if state.is_world_process_zero:
            Trajectory(Path(args.output_dir)).append("probe", state.global_step, row)
        if self.trainer is not None and track:
            log_numbers(self.trainer, control, row)
        else:
            numbers = {key: value for key, value in row.items() if not isinstance(value, str)}
            state.log_history.append({**numbers, "step": state.global_step})

    def _probe(self, model: Any) -> dict[str, float | str | int]:
        # Every process measures the whole set: it is small, and the result is then the same everywhere.
        return probe_policy(
            model, self.probe_set, self.spec, min_tokens=self.min_tokens, num_resamples=self.num_resamples
        )


def _has_shards(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    return sharded or any(parameter.numel() == 0 for parameter in model.parameters())
