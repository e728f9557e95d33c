"""Hold sampled rollouts, and the numbers ("facts") that are known about each rollout once it is measured.

`RolloutIds` are unpadded token ids. `RolloutFacts` are tensors with one number for each rollout of one process; the
method `gathered` returns those of all processes. Nothing here measures signals or computes rewards.
"""

import math
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.inversion.token_facts import TokenFacts
from antiphase.scores import RolloutScores
from antiphase.types import TokenBatch

# A function that takes the [rollout, fact] numbers of this process, and returns those of all processes, one process
# after another.
Gather = Callable[[Tensor], Tensor]

NGRAM = 4
_OF_SCORES = ("inversion", "correlation", "given_length", "entropy", "strength", "self_certainty")
_COUNTS = ("num_tokens", "num_items")
_OWN = ("length", "truncated", "repetition", "digest", "seconds")


def repetition(token_ids: Sequence[int]) -> float:
    """Return the share of 4-grams (four tokens in a row) that already occurred earlier in the same completion.

    The result is NaN for a completion of fewer than 5 tokens.

    >>> round(repetition([1, 2, 3, 4, 1, 2, 3, 4]), 6)
    0.2
    """
    grams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return math.nan if len(grams) < 2 else 1 - len(set(grams)) / len(grams)


def digest(token_ids: Sequence[int]) -> int:
    """Return a checksum of a completion. Different completions almost always have different checksums.

    The checksum is a whole number below 2²⁴. The processes send it to one another as a float32, which can hold every
    such number exactly.
    """
    return zlib.crc32(",".join(map(str, token_ids)).encode()) & 0xFFFFFF


@dataclass(frozen=True)
class RolloutIds:
    """Rollouts as an engine sampled them, unpadded.

    Args:
        prompt_ids: token ids of each prompt.
        completion_ids: token ids of each completion, including its end token.
        generated: 1 for a completion token that the model wrote, 0 for one that a tool returned; None if all are 1.
    """

    prompt_ids: Sequence[Sequence[int]]
    completion_ids: Sequence[Sequence[int]]
    generated: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, batch: TokenBatch) -> "RolloutIds":
        """Return the rollouts of a padded batch, without padding.

        The completion of a rollout begins at the first token at which the batch's `completion_mask` is True.
        """
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
        """Return a padded batch with the first `limit` tokens of each rollout; None keeps all tokens.

        The limit is the context length of the model that will measure the batch.
        """
        prompts = [ids[:limit] for ids in self.prompt_ids]
        room = [None if limit is None else limit - len(ids) for ids in prompts]
        completions = [ids[:most] for ids, most in zip(self.completion_ids, room, strict=True)]
        generated = self.generated and [mask[:most] for mask, most in zip(self.generated, room, strict=True)]
        return TokenBatch.from_ids(prompts, completions, generated=generated)


@dataclass(frozen=True)
class RolloutFacts:
    """The numbers that are known about each rollout, in float64 on the CPU; NaN where undefined.

    Args:
        scores: the inversion score, and the correlations and means that are logged with it.
        length: number of tokens that the model generated.
        truncated: 1 if the completion has no end token, else 0.
        repetition: share of repeated 4-grams; see `repetition`.
        digest: a number that is equal for equal completions; see `digest`.
        seconds: time that was spent on measuring the batch of this rollout.
        tokens: the signals of each token of the rollouts of this process; None unless they were asked for.
    """

    scores: RolloutScores
    length: Float[Tensor, "rollout"]
    truncated: Float[Tensor, "rollout"]
    repetition: Float[Tensor, "rollout"]
    digest: Float[Tensor, "rollout"]
    seconds: Float[Tensor, "rollout"]
    tokens: TokenFacts | None = None

    @classmethod
    def of(
        cls, scores: RolloutScores, rollouts: RolloutIds, *, end_ids: Collection[int | None], seconds: float
    ) -> "RolloutFacts":
        """Compute the facts (some numbers for each rollout) from rollouts and their scores.

        Args:
            scores: the scores of the rollouts.
            rollouts: the whole rollouts, including tokens beyond the model's context that were not measured.
            end_ids: tokens that end a completion. A None among them is ignored.
            seconds: time that was spent on measuring the rollouts.
        """
        completions = rollouts.completion_ids
        wrote = rollouts.generated or [[1] * len(ids) for ids in completions]
        return cls(
            scores=scores,
            length=_column([float(sum(mask)) for mask in wrote]),
            truncated=_column([float(not ids or ids[-1] not in end_ids) for ids in completions]),
            repetition=_column([repetition(ids) for ids in completions]),
            digest=_column([float(digest(ids)) for ids in completions]),
            seconds=_column([seconds] * len(completions)),
        )

    def __len__(self) -> int:
        return len(self.length)

    def gathered(self, gather: Gather) -> "RolloutFacts":
        """Return the facts of the rollouts of all processes, one process after another.

        The field `tokens` of the result is None.

        Args:
            gather: a function that takes a float64 `[rollout, fact]` tensor on the CPU, and returns the tensors of all
                processes joined along the first axis, on any device and in any floating dtype.
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
            tokens=None,
            scores=RolloutScores(**of_scores, **counts, by_unit=by_unit),
            **{name: next(joined) for name in _OWN},
        )


def _column(values: Sequence[float]) -> Float[Tensor, "rollout"]:
    """Return a float64 tensor of a list that has one number for each rollout."""
    return torch.tensor(values, dtype=torch.float64)
