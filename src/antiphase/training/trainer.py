"""`CorRPOTrainer`: TRL's `GRPOTrainer` whose reward carries the inversion score (METHOD §4).

The host generates, scores, normalises and updates. Added are one reward column, measured on the very token ids that
the host sampled by the engine that `antiphase probe` uses, and, under `centered`, a term of the advantage. The column
is found by its function: the host appends a column of its own for each environment that owns a reward. Nothing of the
host's own arithmetic is repeated here, so every loss and option of GRPO works with it.
"""

import copy
import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from trl import GRPOTrainer

from antiphase.devices import has_double
from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import unwrap
from antiphase.reward import InversionTerm, inversion_term
from antiphase.scores import RolloutScores, rollout_scores
from antiphase.signals.measure import chosen_layers, token_signals, trial_batch
from antiphase.steps.assigning import batch_steps
from antiphase.training.checks import (
    check_columns,
    check_functions,
    check_rewarded,
    checkpoint_state,
    own_config,
    verifier_index,
)
from antiphase.training.host import HostError, check_host, check_instance
from antiphase.training.policy import check_sharding, is_sharded, whole_policy
from antiphase.training.reward_functions import MajorityVoteReward, SignalReward, checked
from antiphase.training.step_metrics import BatchFacts, repetition, step_metrics
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import Trajectory
from antiphase.training.watch import Watch
from antiphase.types import TokenBatch

COLUMN = "inversion"
_FACTS = (
    *("inversion", "correlation", "token", "type", "step", "given_length", "items"),
    *("entropy", "strength", "length", "truncated", "repetition", "seconds"),
)


@dataclass(frozen=True)
class _Rollouts:
    """This process's rollouts as the host generated them, unpadded."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    generated: list[list[int]] | None


@dataclass(frozen=True)
class _Measured:
    scores: RolloutScores
    facts: Tensor
    """`[rollout, fact]`, in the order of `_FACTS`."""


class CorRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer` with the inversion score in its reward; the arguments are the host's.

    R_i = r_i − λ (1 + ρ_i) and its variants: see `inversion_term`. With λ = 0 the weights after training are bitwise
    those of the host.

    Args:
        model: see `GRPOTrainer`.
        reward_funcs: the task rewards. May also hold `SelfCertaintyReward`, `NegativeEntropyReward` and
            `MajorityVoteReward`.
        args: a `CorRPOConfig`.
        positional, named: the host's other arguments, in the host's order.

    Raises:
        HostError: TRL is not what antiphase relies on.
        InvalidInputError: arguments that do not fit together.
        UnsupportedModelError: the estimator cannot measure the model, or the model reads images.

    Our reading: the reward, the unit and the gradient are the paper's, as a public digest of it reports; λ, what a
    sentence is, how its strength is made and what an undefined ρ counts as are ours. See docs/training.md.
    """

    _tag_names: ClassVar = ["trl", "grpo", "corr-po", "antiphase"]
    _name = "CorR-PO"
    _paper: ClassVar = {
        "title": "Entropy-Gradient Inversion: Moving Toward Internal Mechanism of Large Reasoning Models",
        "id": "2605.17770",
    }

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *positional: Any, **named: Any) -> None:
        check_host(GRPOTrainer)
        args = own_config(model, args)
        functions = [] if reward_funcs is None else reward_funcs
        functions = list(functions) if isinstance(functions, list | tuple) else [functions]
        check_functions(functions, args)
        host_args = copy.copy(args)
        if args.reward_weights is not None:
            host_args.reward_weights = [*args.reward_weights, 0.0]
        bound = inspect.signature(GRPOTrainer.__init__).bind(
            self, model, [*map(checked, functions), self.inversion], host_args, *positional, **named
        )
        check_columns(bound.arguments, functions)
        classes = bound.arguments.get("reward_processing_classes")
        if classes is not None:
            bound.arguments["reward_processing_classes"] = [
                *(classes if isinstance(classes, list) else [classes]),
                None,
            ]
        self._rollouts: _Rollouts | None = None
        self._measured: _Measured | None = None
        self._served = False
        self._term: InversionTerm | None = None
        self._weight = 0.0
        super().__init__(*bound.args[1:], **bound.kwargs)
        check_instance(self)
        self._column = self.reward_funcs.index(self.inversion)
        check_rewarded(len(self.reward_funcs) - 1, args)
        check_sharding(self.accelerator)
        if self._is_vlm:
            raise UnsupportedModelError(
                "inversion is measured on token ids alone, and this model reads images too. Train its language model."
            )
        self._task_weights = self._without_own(cast(Tensor, vars(self)["reward_weights"]))
        names, tasks = ([*values] for values in (self.reward_func_names, self.reward_funcs))
        names.pop(self._column), tasks.pop(self._column)
        self._verifier = verifier_index(names, tasks, args)
        self._signal_spec, self._score_spec, self._splitter = args.signal_spec(), args.score_spec(), args.splitter()
        self._check_measurable()
        self.trajectory = Trajectory(Path(args.output_dir))
        self.watch = Watch(self.trajectory, args)
        self.add_callback(self.watch)

    @property
    def inversion_weight(self) -> float:
        """λ at the current step; 0 after the alarm dropped it."""
        config = cast(CorRPOConfig, self.args)
        return 0.0 if self.watch.dropped else config.weight_at(self.state.global_step, self.state.max_steps)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Raises:
            InvalidInputError: the checkpoint was made with other inversion settings.
        """
        if resume_from_checkpoint:
            folder = resume_from_checkpoint
            if folder is True:
                from transformers.trainer_utils import get_last_checkpoint

                folder = get_last_checkpoint(self.args.output_dir)
            if folder is not None:
                self.watch.restore(checkpoint_state(Path(folder), cast(CorRPOConfig, self.args)))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # What the host calls, in this order, for every generation batch.

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._term = None
        output = super()._generate_and_score_completions(inputs)
        term = cast("InversionTerm | None", self._term)
        if term is None:
            raise HostError("TRL scored completions without calling _calculate_rewards: inversion had no part in it.")
        if cast(CorRPOConfig, self.args).combine == "centered":
            self._add_to_advantages(output, term.advantage * self._weight)
        return output

    def _generate(self, prompts: Any) -> Any:
        self._measured = None
        output = super()._generate(prompts)
        # Items 0 to 2: unpadded prompt ids, completion ids, and which completion tokens the model wrote.
        self._rollouts = _Rollouts(*output[:3])
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self._rollouts is None or self._rollouts.completion_ids != completion_ids_list:
            raise HostError("TRL scores other completions than _generate returned; inversion cannot be measured.")
        self._measured = self._measure(self._rollouts)
        self._rollouts, self._served = None, False
        for function in self.reward_funcs:
            if isinstance(function, SignalReward):
                function.scores = self._measured.scores
            if isinstance(function, MajorityVoteReward):
                function.group_size = self._group_size
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self._served:
            raise HostError("TRL did not call the inversion reward: it would have had no effect.")
        return self._combine(rewards)

    def inversion(self, completion_ids: Any, log_extra: Any = None, **_: Any) -> list[float | None]:
        """The reward column: ι of this process's rollouts, as measured just before; None where undefined."""
        if self._measured is None:
            raise HostError("TRL asked for the inversion reward of a batch that was not measured.")
        scores, self._served = self._measured.scores, True
        if log_extra is not None:
            for name in ("inversion", "entropy", "strength"):
                log_extra(name, _or_none(getattr(scores, name)))
        return _or_none(scores.inversion)

    # What is added to it.

    @property
    def _group_size(self) -> int:
        return int(self.num_generations if self.model.training else self.num_generations_eval)

    def _check_measurable(self) -> None:
        chosen_layers(unwrap(self.accelerator.unwrap_model(self.model)), self._signal_spec)
        if not is_sharded(self.accelerator):
            # One token, so that what the estimator cannot measure is known now and not after the first generation.
            with whole_policy(self.model, self.accelerator) as policy:
                row = trial_batch(unwrap(policy))
                steps = batch_steps(row, self._tokenizer, self._splitter)
                token_signals(policy, row, self._signal_spec, steps=steps)

    def _measure(self, rollouts: _Rollouts) -> _Measured:
        start = time.perf_counter()
        batch = _within_context(rollouts, self.model)
        steps = batch_steps(batch, self._tokenizer, self._splitter)
        with whole_policy(self.model_wrapped, self.accelerator, self.args.gradient_checkpointing_kwargs) as policy:
            signals = token_signals(policy, batch, self._signal_spec, steps=steps)
        scores = rollout_scores(signals, batch, self._score_spec)
        seconds = time.perf_counter() - start
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        wrote = rollouts.generated or [[1] * len(ids) for ids in rollouts.completion_ids]
        columns: dict[str, Sequence[float] | Tensor] = {
            "length": [float(sum(mask)) for mask in wrote],
            "truncated": [float(not ids or ids[-1] not in ends) for ids in rollouts.completion_ids],
            "repetition": [repetition(ids) for ids in rollouts.completion_ids],
            "seconds": [seconds] * len(batch),
            "items": scores.num_items,
            **{str(unit): values for unit, values in scores.by_unit.items()},
        }
        facts = [
            torch.as_tensor(columns.get(name, getattr(scores, name, None)), dtype=torch.float64) for name in _FACTS
        ]
        return _Measured(scores, torch.stack(facts, dim=1))

    def _combine(self, rewards: Tensor) -> Tensor:
        """Replace the gathered column of scores by the term that its combine mode makes of it, and log."""
        config, measured = cast(CorRPOConfig, self.args), cast(_Measured, self._measured)
        device = rewards.device
        local = measured.facts.to(device, torch.float64 if has_double(device) else torch.float32)
        gathered = dict(zip(_FACTS, self.accelerator.gather(local).cpu().double().unbind(1), strict=True))
        task_columns = self._without_own(rewards).cpu().double()
        unscored = task_columns.isnan().all(1)
        task = (task_columns * self._task_weights.double()).nansum(1).masked_fill(unscored, torch.nan)
        right = torch.zeros_like(unscored)
        if self._verifier is not None:
            right = task_columns[:, self._verifier] >= config.inversion_accept
        weight = self.inversion_weight
        # The host leaves rollouts out that no function scored; our term must not bring them back.
        unscored &= bool(task_columns.shape[1]) and config.combine != "only"
        self._weight = weight
        self._term = inversion_term(
            gathered["inversion"].masked_fill(unscored, torch.nan),
            task.nan_to_num(nan=-torch.inf),
            right,
            group_size=self._group_size,
            combine=config.combine,
            weight=weight,
            clip=config.inversion_clip,
            undefined=config.undefined,
            excluded=unscored,
        )
        rewards[:, self._column] = self._term.reward.to(rewards)
        rewards[unscored.to(device), self._column] = torch.nan
        before, after = (self._task_weights * (0.0 if config.combine == "only" else 1.0)).tensor_split([self._column])
        self.reward_weights = torch.cat([before, torch.tensor([weight]), after])
        self._record(gathered, task, right, weight)
        return rewards

    def _without_own(self, columns: Tensor) -> Tensor:
        """The last axis without the column of the inversion reward."""
        return torch.cat([columns[..., : self._column], columns[..., self._column + 1 :]], dim=-1)

    def _record(self, gathered: dict[str, Tensor], task: Tensor, right: Tensor, weight: float) -> None:
        seconds = float(gathered["seconds"].max())
        facts = BatchFacts(task=task, accepted=right, **{name: gathered[name] for name in _FACTS[:-1]})
        metrics = step_metrics(facts, group_size=self._group_size, weight=weight, seconds=seconds)
        if self._verifier is None:
            metrics |= dict.fromkeys(
                ("task/accuracy", "inversion/top_accuracy", "inversion/bottom_accuracy"), math.nan
            )
        mode = "train" if self.model.training else "eval"
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        if mode == "train":
            self.watch.step(self.state.global_step, metrics, self.accelerator.is_main_process)

    def _add_to_advantages(self, output: dict[str, Any], term: Tensor) -> None:
        advantages = output["advantages"]
        size = len(advantages)
        if advantages.shape != (size,) or len(term) != size * self.accelerator.num_processes:
            raise HostError(
                f"TRL's advantages have shape {tuple(advantages.shape)} for {len(term)} rollouts; expected one each."
            )
        first = self.accelerator.process_index * size
        output["advantages"] = advantages + term[first : first + size].to(advantages)
        logged = self._logs["advantages"]
        latest = list(logged)
        # The host keeps the latest rows alone, which may be fewer than this batch has.
        added = term.tolist()[-len(latest) :]
        for place, value in enumerate(added, start=len(latest) - len(added)):
            latest[place] += value
        logged.clear()
        logged.extend(latest)


def _within_context(rollouts: _Rollouts, model: Any) -> TokenBatch:
    """The rollouts up to the model's context; the host only warns of tokens beyond it."""
    config = cast(Any, unwrap(model)).config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    prompts = [ids[:limit] for ids in rollouts.prompt_ids]
    room = [None if limit is None else limit - len(ids) for ids in prompts]
    pairs = zip(rollouts.completion_ids, room, strict=True)
    completions = [ids[:most] for ids, most in pairs]
    generated = rollouts.generated and [mask[:most] for mask, most in zip(rollouts.generated, room, strict=True)]
    return TokenBatch.from_ids(prompts, completions, generated=generated)


def _or_none(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
