"""Hold the signals of every token and step of measured rollouts, for a trainer that keeps some rollouts to look at.

`RolloutFacts` has a few numbers for each rollout. `TokenFacts` has the signals from which these numbers were computed.
Nothing here is used in the reward.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from antiphase.types import TokenBatch, TokenSignals


@dataclass(frozen=True)
class TokenFacts:
    """The signals of the tokens and steps of one process's rollouts, on the CPU; NaN where nothing was measured.

    Args:
        entropy: the entropy at each token, in nats.
        logprob: the log-probability of each token, in nats.
        strength: the gradient strength of each token.
        step: the step (the sentence) of each completion token, counted from 0 in each rollout; −1 at other positions.
        step_entropy, step_strength: the mean entropy and the gradient strength of each step.
        first: the column of each rollout's first prompt token.
    """

    entropy: Float[Tensor, "batch token"]
    logprob: Float[Tensor, "batch token"]
    strength: Float[Tensor, "batch token"]
    step: Int[Tensor, "batch token"]
    step_entropy: Float[Tensor, "batch step"]
    step_strength: Float[Tensor, "batch step"]
    first: Int[Tensor, "batch"]

    @classmethod
    def of(cls, signals: TokenSignals, batch: TokenBatch, steps: Int[Tensor, "batch token"]) -> "TokenFacts":
        """Copy the signals of tokens and steps to the CPU. The strengths of single layers are left out.

        Args:
            signals: the signals of the batch, including the signals of its steps.
            batch: the rollouts.
            steps: the step (sentence) of each token, as `batch_steps` returns them.
        """
        assert signals.steps is not None
        return cls(
            entropy=_plain(signals.entropy),
            logprob=_plain(signals.logprob),
            strength=_plain(signals.strength),
            step=steps.cpu(),
            step_entropy=_plain(signals.steps.entropy),
            step_strength=_plain(signals.steps.strength),
            first=batch.attention_mask.cpu().int().argmax(1),
        )

    def of_rollout(self, row: int, num_prompt_tokens: int, num_tokens: int) -> dict[str, list[float]]:
        """Return the signals of one rollout as lists.

        Args:
            row: the index of the rollout.
            num_prompt_tokens: the number of tokens of its prompt.
            num_tokens: the number of tokens of its completion.

        Returns:
            A mapping with six lists. `entropy`, `logprob` and `strength` have a number for each token of the
            completion; it is NaN for a token that was not measured, or that is beyond the model's context.
            `step_start` has, for each step (sentence), the index of its first token in the completion. `step_entropy`
            and `step_strength` have the signals of each step.
        """
        start = int(self.first[row]) + num_prompt_tokens
        own = slice(start, start + num_tokens)
        found: dict[str, list[float]] = {}
        for name in ("entropy", "logprob", "strength"):
            values: list[float] = getattr(self, name)[row, own].tolist()
            found[name] = values + [math.nan] * (num_tokens - len(values))
        numbers = self.step[row, own].tolist()
        count = max(numbers, default=-1) + 1
        found["step_start"] = [numbers.index(number) for number in range(count)]
        found["step_entropy"] = self.step_entropy[row, :count].tolist()
        found["step_strength"] = self.step_strength[row, :count].tolist()
        return found


def _plain(values: Tensor) -> Tensor:
    """Return the values in float32 on the CPU, without gradient."""
    return values.detach().float().cpu()
