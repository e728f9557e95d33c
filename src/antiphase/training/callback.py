"""The class `InversionCallback` measures the inversion of a model while any Hugging Face trainer trains it.

Inversion is −ρ, where ρ is the correlation of token entropy and gradient strength. The callback works in supervised
fine-tuning, RL and every other training. It only measures. To train on inversion, use `CorRPOTrainer`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.models.architecture import unwrap
from antiphase.runs.unit_spec import DEFAULT_UNIT
from antiphase.signal_spec import Segment, SignalSpec, StepStrength, Unit
from antiphase.signals.measure import chosen_layers
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.steps import DEFAULT_SPLITTER
from antiphase.steps.thoughts import thought_tags
from antiphase.training.policy import is_sharded, whole_policy
from antiphase.training.probe_set import ProbeSet, checked_options, probe_policy, with_step_strength
from antiphase.training.step_clock import timed
from antiphase.training.tracking import log_numbers
from antiphase.training.trajectory import Trajectory, begin_once


class InversionCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that measures ρ, the correlation of entropy and gradient strength, every few steps of a training.

    All measurements are on the same probe set. A measurement is ρ with its interval. It becomes a row of kind `probe`
    in `trajectory.jsonl`, in the trainer's output directory, and it goes to the trainer's log history. If the callback
    was added with `attach`, it also goes to the trainer's trackers, such as TensorBoard. Measuring does not change the
    training: random states, gradients and parameters stay as they are.

    Args:
        every_n_steps: number of optimizer steps between two measurements. The model is also measured before the first
            step and after the last one.
        probe_set: the prompts or rollouts on which the model is measured.
        spec: what to measure; the default is the estimator `own` on all layers.
        unit: the main unit. A unit is what ρ is computed over: `type` (distinct token ids), `token` (positions) or
            `step` (sentences). ρ over every unit is logged, as `probe/spearman_type` and so on. ρ over the main unit
            is also logged as `probe/spearman`.
        segment: which tokens of a rollout are measured: those of its `thought`, those of its `answer`, or `all`.
        splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`.
        step_strength: how the strength of a step with n tokens is computed. `mean` is the mean of its tokens'
            strengths. `joint` is the norm of the gradient of the sum of its tokens' logits (or other targets),
            divided by n^0.9. None keeps what `spec` says.
        min_tokens: a rollout with fewer tokens has no ρ over tokens, and one with fewer types has no ρ over types.
        min_steps: a rollout with fewer steps has no ρ over steps.
        num_resamples: number of bootstrap samples of the prompts, from which the intervals are computed.
        think_tags: tags between which the model thinks, besides those of the model families that antiphase knows. Each
            text holds an opening and a closing tag, as in `<plan> </plan>`.

    Raises:
        InvalidInputError: `every_n_steps` is below 1, a unit, segment, splitter or step strength is unknown, or
            `min_tokens` or `min_steps` is below 3.

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
        unit: Unit = DEFAULT_UNIT,
        segment: Segment = "all",
        splitter: str = DEFAULT_SPLITTER,
        step_strength: StepStrength | None = None,
        min_tokens: int = MIN_TOKENS,
        min_steps: int = MIN_STEPS,
        num_resamples: int = 1000,
        think_tags: Sequence[str] | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise InvalidInputError(f"every_n_steps must be at least 1; got {every_n_steps}.")
        checked_options(unit, splitter, min_tokens, min_steps, segment)
        self.every_n_steps, self.probe_set = every_n_steps, probe_set
        self.spec = with_step_strength(spec or SignalSpec(), step_strength)
        self.options: dict[str, Any] = {
            "unit": unit,
            "segment": segment,
            "tags": thought_tags(think_tags),
            "splitter": splitter,
            "min_tokens": min_tokens,
            "min_steps": min_steps,
            "num_resamples": num_resamples,
        }
        self.trainer: Any = None
        self._done_at: int | None = None

    def attach(self, trainer: Any) -> "InversionCallback":
        """Add the callback to a trainer, and return the callback.

        The callback can then write to the trainer's trackers, and can measure a model that FSDP 2 or ZeRO-3 shards.
        """
        self.trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the model can be measured, and measure it before its first step."""
        if self.trainer is None or not is_sharded(self.trainer.accelerator):
            chosen_layers(unwrap(kwargs["model"]), self.spec)
        if state.is_world_process_zero:
            begin_once(Trajectory(Path(args.output_dir)), state)
        if state.global_step == 0:
            self._measure(args, state, control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model after every `every_n_steps` steps, and after the last step."""
        if state.global_step % self.every_n_steps == 0 or state.global_step >= state.max_steps:
            self._measure(args, state, control, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model if the training ended before its last planned step."""
        if self._done_at != state.global_step:
            self._measure(args, state, control, kwargs["model"], track=False)

    def _measure(self, args: Any, state: Any, control: Any, model: Any, *, track: bool = True) -> None:
        self._done_at = state.global_step
        if self.trainer is not None:
            accelerator = self.trainer.accelerator
            whole = whole_policy(self.trainer.model_wrapped, accelerator, args.gradient_checkpointing_kwargs)
            with timed(self.trainer, "evaluation"), whole as policy:
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
        # Every process measures the whole set. The set is small, and all processes then have the same result.
        return probe_policy(model, self.probe_set, self.spec, **self.options)


def _has_shards(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    return sharded or any(parameter.numel() == 0 for parameter in model.parameters())
