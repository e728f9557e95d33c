"""Rollouts as an engine sampled them, and the facts that are known of each once it is measured.

`RolloutIds` are unpadded token ids. `RolloutFacts` are tensors with a number for each rollout, of one process or,
after `gathered`, of all processes. Nothing here measures a signal or makes a reward.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.inversion.step_metrics import BatchFacts, repetition
from antiphase.scores import RolloutScores
from antiphase.types import TokenBatch

# Takes the [rollout, fact] numbers of this process, and returns those of all processes, one process after another.
Gather = Callable[[Tensor], Tensor]

_OF_SCORES = ("inversion", "correlation", "given_length", "entropy", "strength", "self_certainty")
_COUNTS = ("num_tokens", "num_items")
_OWN = ("length", "truncated", "repetition", "seconds")


@dataclass(frozen=True)
class RolloutIds:
    """Rollouts as an engine sampled them, unpadded.

    Args:
        prompt_ids: token ids of each prompt.
        completion_ids: token ids of each completion, its end token included.
        generated: 1 at completion tokens that the model wrote, 0 at those that tools returned; None if all are 1.
    """

    prompt_ids: Sequence[Sequence[int]]
    completion_ids: Sequence[Sequence[int]]
    generated: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, batch: TokenBatch) -> "RolloutIds":
        """The rollouts of a batch. A prompt ends before the first token that is to be measured."""
        prompts, completions, generated = [], [], []
        for ids, real, wrote in zip(
            batch.input_ids.cpu(), batch.attention_mask.cpu(), batch.completion_mask.cpu(), strict=True
        ):
            row, marks = ids[real].tolist(), wrote[real].long().tolist()
            start = marks.index(1) if 1 in marks else len(row)
            prompts.append(row[:start])
            completions.append(row[start:])
            generated.append(marks[start:])
        return cls(prompts, completions, generated)

    def within(self, limit: int | None) -> TokenBatch:
        """The batch to measure: the first `limit` tokens of each rollout, where `limit` is a model's context."""
        prompts = [ids[:limit] for ids in self.prompt_ids]
        room = [None if limit is None else limit - len(ids) for ids in prompts]
        completions = [ids[:most] for ids, most in zip(self.completion_ids, room, strict=True)]
        generated = self.generated and [mask[:most] for mask, most in zip(self.generated, room, strict=True)]
        return TokenBatch.from_ids(prompts, completions, generated=generated)


@dataclass(frozen=True)
class RolloutFacts:
    """The facts of each rollout, in float64 on the CPU; NaN where undefined.

    Args:
        scores: ι, ρ over each unit, entropy and strength, over the tokens that were measured.
        length: number of tokens that the model generated.
        truncated: 1 where the completion has no end token, else 0.
        repetition: share of repeated 4-grams; see `step_metrics.repetition`.
        seconds: time that was spent measuring the rollout's batch.
    """

    scores: RolloutScores
    length: Float[Tensor, "rollout"]
    truncated: Float[Tensor, "rollout"]
    repetition: Float[Tensor, "rollout"]
    seconds: Float[Tensor, "rollout"]

    @classmethod
    def of(
        cls, scores: RolloutScores, rollouts: RolloutIds, *, end_ids: Collection[int | None], seconds: float
    ) -> "RolloutFacts":
        """The facts of rollouts whose scores are known.

        Args:
            scores: the scores of the rollouts.
            rollouts: the whole rollouts, also where only the part within a model's context was measured.
            end_ids: tokens that end a completion; a None among them is ignored.
            seconds: time that was spent measuring the rollouts.
        """
        completions = rollouts.completion_ids
        wrote = rollouts.generated or [[1] * len(ids) for ids in completions]
        return cls(
            scores=scores,
            length=_column([float(sum(mask)) for mask in wrote]),
            truncated=_column([float(not ids or ids[-1] not in end_ids) for ids in completions]),
            repetition=_column([repetition(ids) for ids in completions]),
            seconds=_column([seconds] * len(completions)),
        )

    def __len__(self) -> int:
        return len(self.length)

    def gathered(self, gather: Gather) -> "RolloutFacts":
        """The facts of the rollouts of all processes, in the order of the processes.

        Args:
            gather: takes a float64 `[rollout, fact]` tensor on the CPU, and returns the tensors of all processes
                joined along the first axis, on any device and in any floating dtype.
        """
        scores = self.scores
        columns = [getattr(scores, name).double() for name in (*_OF_SCORES, *_COUNTS)]
        columns += [*scores.by_unit.values(), *(getattr(self, name) for name in _OWN)]
        joined = iter(gather(torch.stack(columns, dim=1)).cpu().double().unbind(1))
        of_scores = {name: next(joined) for name in _OF_SCORES}
        counts = {name: next(joined).long() for name in _COUNTS}
        by_unit = {unit: next(joined) for unit in scores.by_unit}
        return replace(
            self,
            scores=RolloutScores(**of_scores, **counts, by_unit=by_unit),
            **{name: next(joined) for name in _OWN},
        )

    def with_task(self, task: Float[Tensor, "rollout"], accepted: Tensor) -> BatchFacts:
        """The facts together with the task rewards, as `step_metrics` takes them."""
        scores, unmeasured = self.scores, torch.full_like(self.length, torch.nan)
        return BatchFacts(
            task=task,
            accepted=accepted,
            inversion=scores.inversion,
            correlation=scores.correlation,
            token=scores.by_unit.get("token", unmeasured),
            type=scores.by_unit.get("type", unmeasured),
            step=scores.by_unit.get("step", unmeasured),
            given_length=scores.given_length,
            items=scores.num_items.double(),
            entropy=scores.entropy,
            strength=scores.strength,
            length=self.length,
            truncated=self.truncated,
            repetition=self.repetition,
        )


def _column(values: Sequence[float]) -> Float[Tensor, "rollout"]:
    return torch.tensor(values, dtype=torch.float64)
