"""The class `CorRPOTrainer`: TRL's `GRPOTrainer` with the inversion score in its reward (docs/training.md).

TRL generates, scores, normalises and updates. This trainer adds a column to the rewards. With
`inversion_combine="centered"`, it also adds a term to the advantages. The column holds inversion scores. The code of
`antiphase probe` measures them on exactly the token ids that TRL sampled. The column is the last one, and is there
only while TRL scores a batch; see `reward_column`. None of TRL's arithmetic is repeated here, so every loss and option
of GRPO works.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from trl import GRPOTrainer

from antiphase.devices import has_double, return_freed_memory
from antiphase.errors import UnsupportedModelError
from antiphase.inversion.inversion_reward import CombinedRewards, InversionReward
from antiphase.inversion.rollout_facts import RolloutFacts, RolloutIds
from antiphase.reward import InversionTerm
from antiphase.training.advantage_term import add_to_advantages, log_advantages
from antiphase.training.batch_checks import check_finite, check_names, checked_rollouts, warn_unscored
from antiphase.training.batch_logs import log_columns, log_metrics, mean_over_processes
from antiphase.training.checks import (
    check_rewarded,
    check_token_advantages,
    checkpoint_state,
    own_config,
    verifier_index,
)
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.host import HostError, check_host, check_instance
from antiphase.training.host_arguments import host_arguments
from antiphase.training.keeping import Keeper, RewardedBatch
from antiphase.training.pass_budget import within_update
from antiphase.training.policy import check_compilation, check_sharding, is_sharded, whole_policy
from antiphase.training.reward_column import added_column, remove_column
from antiphase.training.reward_functions import MajorityVoteReward, SignalReward, unwrapped
from antiphase.training.shared_logprobs import SharingTrainer, check_shared
from antiphase.training.step_clock import StepTimes
from antiphase.training.token_advantages import token_advantages
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import Trajectory
from antiphase.training.watch import Watch


class CorRPOTrainer(SharingTrainer):
    """TRL's `GRPOTrainer` with the inversion score in its reward. It takes the same arguments.

    The reward of rollout i is R_i = r_i − λ (1 + ρ_i) or a variant of it; see `inversion_term`. Here r_i is the task
    reward, λ the weight of inversion, and ρ_i the rollout's correlation of entropy and gradient strength. With λ = 0
    the weights after training are bitwise those of TRL.

    Args:
        model: the model or its name, as `GRPOTrainer` takes it.
        reward_funcs: the task rewards. `SelfCertaintyReward`, `NegativeEntropyReward` and `MajorityVoteReward` may be
            among them.
        args: a `CorRPOConfig`.
        positional, named: the other arguments of `GRPOTrainer`, as positional arguments or as keyword arguments.

    Raises:
        HostError: the installed TRL lacks something that antiphase relies on.
        InvalidInputError: arguments do not fit together.
        UnsupportedModelError: the estimator cannot measure the model, or the model reads images.

    Our reading: the reward, the unit and the gradient are the paper's, as a public digest reports. We chose the
    value of λ, where a sentence ends, how its strength is computed, and how an undefined ρ is treated. See
    docs/training.md.
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
        bound = host_arguments(self, model, reward_funcs, args, positional, named)
        self._served = False
        self._term: InversionTerm | None = None
        self._weight = 0.0
        self._right, self._token_rewards = torch.empty(0), torch.empty(0)
        super().__init__(*bound.args[1:], **bound.kwargs)
        check_instance(self)
        self.args.reward_weights = args.reward_weights
        self._column = self.reward_funcs.index(self.inversion)
        check_rewarded(len(self.reward_funcs) - 1, args)
        check_sharding(self.accelerator, self.model)
        check_compilation(self.accelerator)
        if self._is_vlm:
            raise UnsupportedModelError(
                "inversion is measured on token ids alone, and this model reads images too. Train its language model."
            )
        self._task_weights = self._without_own(cast(Tensor, vars(self)["reward_weights"]))
        names, tasks = ([*values] for values in (self.reward_func_names, self.reward_funcs))
        names.pop(self._column), tasks.pop(self._column)
        check_names(names, log_completions=self.log_completions)
        rollout_func = cast(Any, vars(self)["rollout_func"])
        self.rollout_func = None if rollout_func is None else checked_rollouts(rollout_func)
        self._verifier = verifier_index(names, tasks, args)
        self._inversion_reward = InversionReward(args.inversion_spec())
        self.check_dynamic_sampling()
        check_token_advantages(args, self._verifier)
        self._check_measurable()
        if args.share_logprobs:
            check_shared(self)
        self.trajectory = Trajectory(Path(args.output_dir))
        self.watch = Watch(self.trajectory, args)
        self.keeper = Keeper(args, self.trajectory.folder, self._tokenizer)
        self.times = StepTimes(self)
        for callback in (self.watch, self.keeper, self.times):
            self.add_callback(callback)
        remove_column(self, self._column)
        self._column = len(self.reward_funcs)

    def know_tags(self, tags: Sequence[tuple[str, str]]) -> None:
        """Set the tags by which the trainer finds the thought in a completion. `inversion_segment` needs the thought.

        Args:
            tags: pairs of the tag that opens a thought and the tag that closes it.
        """
        self._inversion_reward = replace(self._inversion_reward, tags=tuple(tags))
        self.keeper.tags = tuple(tags)

    @property
    def inversion_weight(self) -> float:
        """The weight λ of inversion at the current step; 0 after the collapse alarm has switched inversion off."""
        config = cast(CorRPOConfig, self.args)
        return 0.0 if self.watch.dropped else config.weight_at(self.state.global_step, self.state.max_steps)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train the policy, from the start or from a checkpoint, and return what `transformers.Trainer.train` returns.

        Args:
            resume_from_checkpoint: the folder of a checkpoint, or True for the last one in the output directory.
            args, kwargs: the other arguments of `transformers.Trainer.train`.

        Raises:
            InvalidInputError: the folder is no complete checkpoint of this class, or has other inversion settings.
        """
        if resume_from_checkpoint:
            folder = resume_from_checkpoint
            if folder is True:
                from transformers.trainer_utils import get_last_checkpoint

                folder = get_last_checkpoint(self.args.output_dir)
            if folder is not None:
                self.watch.restore(checkpoint_state(Path(folder), cast(CorRPOConfig, self.args)))
        self.clock.start()
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self.times.finish()
        return result

    # TRL calls these methods, in this order, for every generation batch.

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._term, self._task_weights = None, self.reward_weights
        with added_column(self, self.inversion, "inversion"):
            output = super()._generate_and_score_completions(inputs)
        term = cast("InversionTerm | None", self._term)
        if term is None:
            raise HostError("TRL scored completions without calling _calculate_rewards: inversion was not included.")
        if cast(CorRPOConfig, self.args).token_advantages == "gtpo":
            shaped = token_advantages(self, output, self._token_rewards, self._right, self._group_size)
            output["advantages"], means = shaped
            log_advantages(self._logs["advantages"], means.tolist())
        if self._inversion_reward.spec.combine == "centered":
            add_to_advantages(
                output,
                self._logs["advantages"],
                term.advantage * self._weight,
                process=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
                by_token=cast(CorRPOConfig, self.args).token_advantages != "none",
            )
        self.keeper.write(output, is_main_process=self.accelerator.is_main_process)
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self._rollouts is None or self._rollouts.completion_ids != completion_ids_list:
            raise HostError("TRL scores other completions than _generate returned; inversion cannot be measured.")
        measured = self._measured_batch()
        # With dynamic sampling, rewards have been logged while the rounds were sampled.
        logged = None if self._final is None or self._reader is None else self._reader.logged
        self.read_completions(self._rollouts, completions)
        if logged is not None:
            cast(CompletionReader, self._reader).logged = logged
        self._rollouts, self._served = None, False
        for function in self.reward_funcs:
            if isinstance(function, SignalReward):
                function.scores = measured.scores
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self._served:
            raise HostError("TRL did not call the inversion reward: it would have had no effect.")
        check_finite(rewards, self.reward_func_names)
        log_columns(self, measured.scores)
        combined = self._combine(rewards)
        warn_unscored(combined.excluded, prompts, completions, self.state.global_step, self.accelerator.process_index)
        return rewards

    def read_completions(self, rollouts: RolloutIds, completions: Any) -> None:
        """Prepare the texts that reward functions will read, and the group size of majority votes."""
        super().read_completions(rollouts, completions)
        for function in self.reward_funcs:
            if isinstance(unwrapped(function), MajorityVoteReward):
                unwrapped(function).group_size = self._group_size

    def inversion(self, completion_ids: Any, **_: Any) -> list[float]:
        """Return the reward column: the inversion ι of each rollout of this process, and 0 where it is undefined.

        TRL calls this method as a reward function, after `_calculate_rewards` has measured the scores. Then
        `_calculate_rewards` replaces these numbers by the term that `inversion_combine` makes of them.
        """
        if self._measured is None:
            raise HostError("TRL asked for the inversion reward of a batch that was not measured.")
        self._served = True
        return cast("list[float]", self._measured.scores.inversion.nan_to_num(0.0).tolist())

    @property
    def _group_size(self) -> int:
        return int(self.num_generations if self.model.training else self.num_generations_eval)

    def _check_measurable(self) -> None:
        self._inversion_reward.check_layers(self.accelerator.unwrap_model(self.model))
        if not is_sharded(self.accelerator):
            with whole_policy(self.model, self.accelerator) as policy:
                self._inversion_reward.check(policy, self._tokenizer)

    def _measure(self, rollouts: RolloutIds) -> RolloutFacts:
        start, state = time.perf_counter(), self.state
        kept = self.keeper.begin_batch(state.global_step, state.max_steps, is_training=self.model.training)
        share = cast(CorRPOConfig, self.args).share_logprobs
        with whole_policy(self.model_wrapped, self.accelerator, self.args.gradient_checkpointing_kwargs) as policy:
            facts = within_update(self._inversion_reward, rollouts, policy, self.args).measure(
                policy, rollouts, self._tokenizer, end_ids=self._end_ids, by_token=kept or share
            )
        return_freed_memory(self.accelerator.device)
        # The time includes the gathering of the weights, which is part of the cost.
        return replace(facts, seconds=torch.full_like(facts.seconds, time.perf_counter() - start))

    def _combine(self, rewards: Tensor) -> CombinedRewards:
        """Replace the column of scores by the term that `inversion_combine` makes of them, and log the metrics.

        Args:
            rewards: the rewards `[rollout, function]` of the rollouts of all processes. They are changed in place.

        Returns:
            the combined rewards of the rollouts of all processes, with the term and the metrics.
        """
        facts = cast(RolloutFacts, self._measured).gathered(self._gathered)
        task_columns = self._without_own(rewards).cpu().double()
        unscored = task_columns.isnan().all(1)
        task = (task_columns * self._task_weights.double()).nansum(1).masked_fill(unscored, torch.nan)
        spec, verifier = self._inversion_reward.spec, self._verifier
        self._weight = self.inversion_weight
        accepted, judged = None, None
        if verifier is not None:
            accepted, judged = spec.accepts(task_columns[:, verifier]), ~task_columns[:, verifier].isnan()
        combined = self._inversion_reward.combine(
            facts, task, group_size=self._group_size, weight=self._weight, accepted=accepted, judged=judged
        )
        self._term = combined.term
        if accepted is not None and judged is not None:
            self._right = accepted
            # GTPO's reward of a wrong rollout is −1, whatever its verifier says.
            self._token_rewards = torch.where(accepted, task, -1.0) + self._weight * combined.term.reward
            self._token_rewards[combined.excluded | ~judged] = torch.nan
        rewards[:, self._column] = combined.term.reward.to(rewards)
        rewards[combined.excluded.to(rewards.device), self._column] = torch.nan
        before, after = (self._task_weights * (0.0 if spec.combine == "only" else 1.0)).tensor_split([self._column])
        self.reward_weights = torch.cat([before, torch.tensor([self._weight]), after])
        names = [name for place, name in enumerate(self.reward_func_names) if place != self._column]
        by_function = dict(zip(names, task_columns.unbind(1), strict=True))
        batch = RewardedBatch(facts, self._group_size, self._weight, task, combined.reward, by_function)
        self.keeper.take(batch, cast(RolloutFacts, self._measured), self._reader, self.accelerator.process_index)
        self._record(combined)
        return combined

    def _gathered(self, table: Tensor) -> Tensor:
        device = self.accelerator.device
        return cast(
            Tensor, self.accelerator.gather(table.to(device, torch.float64 if has_double(device) else torch.float32))
        )

    def _without_own(self, columns: Tensor) -> Tensor:
        """Return `columns` without the inversion reward. The last axis has one entry for each reward function."""
        return torch.cat([columns[..., : self._column], columns[..., self._column + 1 :]], dim=-1)

    def _record(self, combined: CombinedRewards) -> None:
        metrics = {**combined.metrics, **self.sampling_metrics}
        log_metrics(self, metrics)
        # TRL writes these numbers to its own log.
        logged = mean_over_processes({} if self._reader is None else self._reader.logged, self._gathered)
        self._reader = None
        if self.model.training:
            self.watch.step(self.state.global_step, {**metrics, **logged}, self.accelerator.is_main_process)
