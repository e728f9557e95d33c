"""Keeps some rollouts of a training with their tokens, so that the run's HTML page can show what the policy wrote.

For each generation batch, `CorRPOTrainer` calls the class `Keeper` three times: before the rollouts are measured,
after the rewards are combined, and after TRL has computed the advantages. Keeping changes no number of the training.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from antiphase.inversion.rollout_facts import RolloutFacts
from antiphase.steps.segments import token_segments
from antiphase.steps.thoughts import TAGS
from antiphase.training.advantage_term import trained_tokens
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.kept_folder import KeptFolder
from antiphase.training.kept_rule import interval, is_kept, kept_places, num_kept
from antiphase.training.trainer_config import CorRPOConfig


@dataclasses.dataclass(frozen=True)
class RewardedBatch:
    """The scores and rewards of a generation batch, after the task rewards were combined with inversion.

    Each tensor has a number for each rollout of all processes; NaN where the number is undefined.

    Args:
        facts: what was measured on each rollout, such as its inversion and its length.
        group_size: number of rollouts of each prompt.
        weight: λ, the weight of inversion.
        task: the task reward of each rollout: the weighted sum of what all reward functions returned.
        reward: the task reward plus λ times the inversion term.
        by_function: a mapping from the name of each reward function to the rewards that it returned.
    """

    facts: RolloutFacts
    group_size: int
    weight: float
    task: Tensor
    reward: Tensor
    by_function: Mapping[str, Tensor]


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Writes the kept rollouts of a training to its folder; `kept_rule` says which rollouts are kept.

    If there are several processes, each process sends its kept rollouts to the main process. The main process writes
    the file.

    Args:
        config: the trainer's arguments. With `keep_rollouts` 0, nothing is kept.
        run: the folder of the run.
        tokenizer: the policy's tokenizer.

    Attributes:
        tags: pairs of the tag that opens a thought and the tag that closes it.
    """

    def __init__(self, config: CorRPOConfig, run: Path, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.folder = KeptFolder(run)
        self.tags: Sequence[tuple[str, str]] = TAGS
        self._step: int | None = None
        self._done: int | None = None
        self._rows: list[dict[str, Any]] = []
        self._places: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Prepare the folder of kept rollouts.

        An older folder is renamed. If the training is resumed, the files that it will write again are removed instead.

        Raises:
            InvalidInputError: rollouts are to be kept, and the folder for them cannot be made.
        """
        self._done = None
        if state.is_world_process_zero:
            self.folder.begin(state.global_step, writing=self.config.keep_rollouts > 0)

    def begin_batch(self, step: int, max_steps: int, *, is_training: bool) -> bool:
        """Return whether rollouts of the batch that was just sampled will be kept.

        Args:
            step: number of optimizer steps so far.
            max_steps: number of optimizer steps of the training.
            is_training: False if the batch is sampled for an evaluation. No rollouts of evaluations are kept.
        """
        config, self._step = self.config, None
        # If one optimizer step needs several batches, only the first of them is kept.
        if config.keep_rollouts and is_training and step != self._done:
            kept = num_kept(config.keep_rollouts, config.num_generations)
            every = interval(max_steps, kept, config.max_completion_length)
            span = Fraction(config.steps_per_generation * config.num_iterations, config.gradient_accumulation_steps)
            self._step = step if is_kept(step, max_steps, every, span) else None
        return self._step is not None

    def take(self, batch: RewardedBatch, own: RolloutFacts, reader: CompletionReader | None, process: int) -> None:
        """Choose which rollouts of a batch are kept. Make a table row for each chosen rollout of this process.

        Args:
            batch: the scores and rewards of the rollouts of all processes.
            own: what was measured on the rollouts of this process, with the signals of their tokens.
            reader: the token ids of the rollouts of this process, and how each rollout ended.
            process: the index of this process, counted from 0.
        """
        if self._step is None or reader is None:
            return
        first, config = process * len(own), self.config
        total = len(batch.task)
        places = kept_places(total, batch.group_size, config.keep_rollouts, config.seed, self._step)
        self._places = [place - first for place in places if 0 <= place - first < len(own)]
        self._rows = [
            {**self._of_batch(batch, first + place), **self._of_tokens(own, reader, place)} for place in self._places
        ]

    def write(self, output: Mapping[str, Any], *, is_main_process: bool) -> None:
        """Add the advantages to the table rows that `take` made, and write the rows of all processes to a file.

        Args:
            output: the batch of this process, as TRL's `_generate_and_score_completions` returned it. Its entry
                `advantages` has one number for each rollout, `[rollout]`, or one for each token, `[rollout, token]`.
                If there is one for each token, the row gets the mean over the tokens that are trained on; None if
                there are no such tokens.
            is_main_process: whether this process writes the file.
        """
        if self._step is None:
            return
        for row, place in zip(self._rows, self._places, strict=True):
            own = output["advantages"][place]
            if own.dim():
                own = own[trained_tokens(output)[place].bool()].mean()
            row["advantage"] = _known(float(own))
        rows = gather_object(self._rows)
        if is_main_process:
            self.folder.write(self._step, rows)
        self._done, self._step, self._rows, self._places = self._step, None, [], []

    def _of_batch(self, batch: RewardedBatch, place: int) -> dict[str, Any]:
        """Return part of a rollout's table row: a mapping with its ids, settings, scores and rewards.

        `place` is the index of the rollout in the batch of all processes.
        """
        scores, config = batch.facts.scores, self.config
        group, number = divmod(place, batch.group_size)
        found = {
            "inversion": scores.inversion,
            "correlation": scores.correlation,
            **{f"correlation_{unit}": values for unit, values in scores.by_unit.items()},
            "correlation_given_length": scores.given_length,
            "task_reward": batch.task,
            "reward": batch.reward,
        }
        return {
            "step": self._step,
            "prompt_id": f"{self._step}-{group}",
            "rollout_id": f"{self._step}-{group}/{number}",
            "estimator": config.inversion_estimator,
            "unit": config.inversion_unit,
            "weight": batch.weight,
            **{name: _known(float(values[place])) for name, values in found.items()},
            "rewards": {name: _known(float(values[place])) for name, values in batch.by_function.items()},
        }

    def _of_tokens(self, own: RolloutFacts, reader: CompletionReader, row: int) -> dict[str, Any]:
        """Return part of a rollout's table row: a mapping with its texts, tokens and signals.

        `row` is the index of the rollout among those of this process.
        """
        assert own.tokens is not None
        prompt, ids = (list(of[row]) for of in (reader.rollouts.prompt_ids, reader.rollouts.completion_ids))
        segments = token_segments(ids, self.tokenizer, prompt, self.tags)
        return {
            "prompt": str(self.tokenizer.decode(prompt)),
            "completion": str(self.tokenizer.decode(ids)),
            "finish": reader.finishes[row],
            "num_tokens": len(ids),
            "num_thought_tokens": segments.count("thought"),
            "prompt_ids": prompt,
            "completion_ids": ids,
            "tokens": [str(self.tokenizer.decode([token])) for token in ids],
            **own.tokens.of_rollout(row, len(prompt), len(ids)),
        }


def _known(value: float) -> float | None:
    """Return the number, or None if it is NaN or infinite."""
    return value if math.isfinite(value) else None
