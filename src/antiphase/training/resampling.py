"""`ResamplingTrainer`: TRL's `GRPOTrainer` with DAPO's dynamic sampling (arXiv 2503.14476, section 3.2).

TRL samples a generation batch, scores it, and trains on it. With `dynamic_sampling`, this class first completes and
scores the prompts itself. It replaces each group whose task rewards are all equal by a group of another prompt. Then
it gives the completions and rewards of the final batch to TRL, which makes no new ones. TRL does everything else, such
as advantages, log-probabilities and loss, as for an ordinary batch.

Only task rewards decide which groups are replaced. Inversion is measured once, on the final batch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from antiphase.errors import InvalidInputError
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.training.batch_checks import check_finite
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.dynamic_sampling import (
    further_rows,
    groups_to_sample,
    groups_without_signal,
    judged_rewards,
    prompt_key,
    sampling_metrics,
)
from antiphase.training.reading import ReadingTrainer
from antiphase.training.reward_column import chosen_columns
from antiphase.training.reward_functions import SignalReward


@dataclass(frozen=True)
class _Rollout:
    """A completed prompt of this process.

    It holds the data row, what TRL's `_generate` returned for the prompt, and the columns that reward functions
    logged.
    """

    row: Mapping[str, Any]
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    tool_mask: Sequence[int] | None
    completion: Any
    logprobs: Sequence[float] | None
    extras: Mapping[str, Any]


@dataclass(frozen=True)
class _Sample:
    """The rollouts of this process, and the rewards and lengths of the rollouts of all processes.

    `columns` has the rewards of the task functions, one column for each function. A function that reads the policy's
    distributions is called later, so its column is NaN here. `lengths` has the numbers of completion tokens.
    """

    rollouts: list[_Rollout]
    columns: Float[Tensor, "rollout function"]
    lengths: Float[Tensor, "rollout"]


class ResamplingTrainer(ReadingTrainer):
    """TRL's `GRPOTrainer` that replaces groups of rollouts with equal task rewards, if `dynamic_sampling` is above 0.

    The constructor of a subclass sets three attributes, and then calls `check_dynamic_sampling`. The attributes are
    `_column` (the index of the inversion reward; all other functions are task rewards), `_task_weights`, and
    `_verifier` (the index of the verifier, or None).
    """

    # The final batch, while TRL scores it; else None.
    _final: _Sample | None = None
    sampling_metrics: Mapping[str, float] = {}
    # The optimizer step of the latest sampled batch, and how many batches were sampled at this step before it.
    _place: tuple[int, int] = (-1, 0)
    _column: int
    _task_weights: Tensor
    _verifier: int | None

    def check_dynamic_sampling(self) -> None:
        """Raise InvalidInputError if `dynamic_sampling` is on and the trainer's arguments do not fit it."""
        args = cast(Any, self.args)
        if not args.dynamic_sampling:
            return
        if isinstance(self.train_dataset, IterableDataset) or not hasattr(self.train_dataset, "__getitem__"):
            raise InvalidInputError(
                "dynamic_sampling draws further prompts from any place of the training data, and a streamed data set "
                "can only be read in order. Load the data set without streaming=True, or set dynamic_sampling to 0."
            )
        if self.tools or self.environment_factories is not None:
            raise InvalidInputError("dynamic_sampling does not work with tools or environments. Set it to 0.")
        if args.inversion_combine == "only":
            raise InvalidInputError(
                "dynamic_sampling looks for groups in which all task rewards are equal, and inversion_combine='only' "
                "trains without a task reward. Set dynamic_sampling to 0, or choose another inversion_combine."
            )
        if not bool((self._judging_weights() != 0).any()):
            raise InvalidInputError(
                "dynamic_sampling looks for groups in which all task rewards are equal. This training has no reward "
                "function that can tell: rewards that are read from the policy's distributions always differ, and "
                "rewards of weight 0 do not count. Add a verifier, or set dynamic_sampling to 0."
            )

    def _tasks(self) -> list[int]:
        """Return the indices of the reward functions other than the inversion reward."""
        return [place for place in range(len(self.reward_funcs)) if place != self._column]

    def _judging_weights(self) -> Tensor:
        """Return the weights of the task functions in the choice of the groups to replace.

        They are the reward weights, but 0 for a function that reads the policy's distributions.
        """
        signals = [isinstance(self.reward_funcs[place], SignalReward) for place in self._tasks()]
        return self._task_weights.double().masked_fill(torch.tensor(signals, dtype=torch.bool), 0.0)

    # TRL calls these three methods, in this order, for every generation batch.

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.sampling_metrics = {}
        if not cast(Any, self.args).dynamic_sampling or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._final = self._sampled(inputs)
        try:
            return super()._generate_and_score_completions([dict(rollout.row) for rollout in self._final.rollouts])
        finally:
            self._final = None

    def _generate(self, prompts: Any) -> Any:
        if self._final is None:
            return super()._generate(prompts)
        kept = self._final.rollouts
        columns = {
            name: [getattr(rollout, name) for rollout in kept]
            for name in ("prompt_ids", "completion_ids", "tool_mask", "completion", "logprobs")
        }
        for name in ("tool_mask", "logprobs"):
            if any(value is None for value in columns[name]):
                columns[name] = cast(Any, None)
        # The last three are extra fields, which are in the rows already, and images, of which there are none.
        return (*columns.values(), {}, None, [])

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self._final is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        tasks = self._tasks()
        known = self._final.columns
        rewards = known.new_full((len(known), len(self.reward_funcs)), torch.nan)
        rewards[:, tasks] = known
        for place, function in enumerate(self.reward_funcs):
            if place == self._column or isinstance(function, SignalReward):
                values = function(
                    prompts=prompts,
                    completions=completions,
                    completion_ids=completion_ids_list,
                    log_extra=self._log_completion_extra,
                )
                numbers = [math.nan if value is None else float(value) for value in values]
                rewards[:, place] = self.accelerator.gather(
                    torch.tensor(numbers, dtype=rewards.dtype, device=rewards.device)
                )
        return rewards

    # The rounds of sampling.

    def _sampled(self, inputs: Sequence[Mapping[str, Any]]) -> _Sample:
        """Complete and score the batch, then replace groups with equal rewards in at most `dynamic_sampling` rounds.

        Return the final batch. A round completes and scores one further prompt for each group that is still to be
        replaced.
        """
        size, bound = int(self.num_generations), int(cast(Any, self.args).dynamic_sampling)
        with self._logged_metrics() as readers:
            final = self._sample(inputs, readers)
            bare = self._without_signal(final)
            first, tied, groups, tokens, rounds = final, int(bare.sum()), len(bare), final.lengths.sum(), 0
            stream = self._stream(inputs)
            while bare.any() and rounds < bound:
                rows = self._further(stream, int(bare.sum()))
                if not rows:
                    break
                rounds += 1
                share = len(rows) * size // self.accelerator.num_processes
                mine = [dict(row) for row in rows for _ in range(size)][self._slice(share)]
                new = self._sample(mine, readers)
                empty = self._without_signal(new)
                tied, groups, tokens = tied + int(empty.sum()), groups + len(empty), tokens + new.lengths.sum()
                pairs = list(zip(bare.nonzero()[:, 0].tolist(), (~empty).nonzero()[:, 0].tolist(), strict=False))
                final = self._replaced(final, new, pairs)
                bare[[old for old, _ in pairs]] = False
        self._give_extras([rollout.extras for rollout in final.rollouts])
        self.sampling_metrics = sampling_metrics(
            rounds=rounds,
            num_groups=groups,
            num_tied=tied,
            tokens=float(tokens),
            kept_tokens=float(final.lengths.sum()),
            accuracy=self._accuracy(first),
        )
        return final

    def _sample(self, rows: Sequence[Mapping[str, Any]], readers: list[CompletionReader]) -> _Sample:
        """Complete the prompts of the rows, and score the completions.

        Functions that read the policy's distributions are not called yet. The reader of the completions is appended to
        `readers`.
        """
        prompts = [row["prompt"] for row in rows]
        output = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask, completions, logprobs, fields = output[:6]
        merged = [dict(row) for row in rows]
        for place, row in enumerate(merged):
            for key, values in fields.items():
                if not isinstance(values, list):
                    row[key] = values
                elif place < len(values):
                    row[key] = values[place]
        self.read_completions(RolloutIds(prompt_ids, completion_ids, tool_mask), completions)
        readers.append(cast(CompletionReader, self._reader))
        columns = self._judged_columns(merged, prompts, completions, completion_ids)
        extras = self._taken_extras(len(merged))
        nothing = [None] * len(merged)
        rollouts = [
            _Rollout(*values)
            for values in zip(
                merged, prompt_ids, completion_ids, tool_mask or nothing, completions, logprobs or nothing, extras,
                strict=True,
            )
        ]  # fmt: skip
        lengths = torch.tensor([len(ids) for ids in completion_ids], dtype=torch.float32, device=columns.device)
        return _Sample(rollouts, columns, self.accelerator.gather(lengths))

    def _judged_columns(self, rows: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
        """Return the rewards of the task functions, `[rollout, function]`.

        The rewards are NaN for functions that read the policy's distributions, since these are not called yet.
        """
        tasks = self._tasks()
        early = [place for place in tasks if not isinstance(self.reward_funcs[place], SignalReward)]
        with chosen_columns(self, early):
            found = super()._calculate_rewards(rows, prompts, completions, completion_ids)[:, :-1]
        check_finite(found, [self.reward_func_names[place] for place in early])
        columns = found.new_full((len(found), len(tasks)), torch.nan)
        columns[:, [tasks.index(place) for place in early]] = found
        return cast(Tensor, columns)

    def _without_signal(self, sample: _Sample) -> Tensor:
        """Return for each group whether it is to be replaced.

        The rewards are gathered from all processes, so every process finds the same groups.
        """
        weights, size = self._judging_weights(), int(self.num_generations)
        if not bool((weights != 0).any()):
            # A callback has set all weights to 0, so no reward says what a further prompt would be better for.
            return torch.zeros(len(sample.columns) // size, dtype=torch.bool)
        return groups_without_signal(judged_rewards(sample.columns.cpu(), weights, self._verifier), size)

    def _accuracy(self, sample: _Sample) -> float:
        """Return the share of right rollouts among those that the verifier judged; NaN if it judged none."""
        if self._verifier is None:
            return math.nan
        values = sample.columns[:, self._verifier].double()
        # The mean of no values is NaN.
        return float(cast(Any, self.args).inversion_spec().accepts(values[~values.isnan()]).double().mean())

    def _stream(self, inputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Return an iterator over further rows of the training data, without the prompts of the batch (`inputs`).

        The order depends only on the seed, the step, and how many batches were sampled at this step before.
        """
        step = self.state.global_step
        self._place = (step, self._place[1] + 1 if self._place[0] == step else 0)
        known = gather_object([prompt_key(row) for row in inputs])
        rows = cast(Any, self.train_dataset)
        if hasattr(rows, "column_names"):
            # TRL's batches have only the columns that this method keeps.
            rows = self._remove_unused_columns(rows)
        return further_rows(rows, known, seed=self.args.seed, step=step, generation=self._place[1])

    def _further(self, stream: Iterator[Mapping[str, Any]], missing: int) -> list[Mapping[str, Any]]:
        """Return the next rows of the stream for a round that replaces `missing` groups, one row for each new group.

        The list is empty if too few rows are left.
        """
        size, processes = int(self.num_generations), self.accelerator.num_processes
        rows = list(islice(stream, groups_to_sample(missing, size, processes)))
        whole = groups_to_sample(1, size, processes)
        return rows[: len(rows) // whole * whole]

    def _slice(self, share: int) -> slice:
        first = self.accelerator.process_index * share
        return slice(first, first + share)

    def _replaced(self, final: _Sample, new: _Sample, pairs: Sequence[tuple[int, int]]) -> _Sample:
        """Return a copy of the batch, in which groups of the new sample replace some groups.

        Args:
            final: the batch so far.
            new: the new sample, whose groups may replace groups of the batch.
            pairs: pairs of two indices. The first is that of a group in the batch. The second is that of the group in
                the new sample that replaces the first group.
        """
        size = int(self.num_generations)
        moves = {fresh * size + member: old * size + member for old, fresh in pairs for member in range(size)}
        share, width = len(new.rollouts), len(final.rollouts)
        start = self.accelerator.process_index * share
        moved = gather_object(
            [(moves[start + own], new.rollouts[own]) for own in range(share) if start + own in moves]
        )
        first = self.accelerator.process_index * width
        rollouts = list(final.rollouts)
        for place, rollout in moved:
            if first <= place < first + width:
                rollouts[place - first] = rollout
        columns, lengths = final.columns.clone(), final.lengths.clone()
        columns[list(moves.values())] = new.columns[list(moves)]
        lengths[list(moves.values())] = new.lengths[list(moves)]
        return replace(final, rollouts=rollouts, columns=columns, lengths=lengths)
