"""The values that parts of the package pass to each other: token batches, signals and correlations.

All are frozen dataclasses. Their tensors share the axes `batch token layer projection`. Nothing here computes a signal
or uses a model.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import Method, SignalSpec, Unit, check_one_of


@dataclass(frozen=True)
class TokenBatch:
    """Tokenised rollouts, padded on either side.

    Args:
        input_ids: the token ids; ids at padded positions are never read.
        attention_mask: True at real tokens. The real tokens of a row stand next to each other, without a gap.
        completion_mask: True at the generated tokens, which are to be measured. A token is predicted from the real
            token before it, so the first real token of a row cannot be measured.

    Raises:
        InvalidInputError: the shapes differ, a row has no real token, the real tokens of a row have a gap, or
            `completion_mask` is True at the first real token of a row or at a padded position.
    """

    input_ids: Int[Tensor, "batch token"]
    attention_mask: Bool[Tensor, "batch token"]
    completion_mask: Bool[Tensor, "batch token"]

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in (self.input_ids, self.attention_mask, self.completion_mask)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise InvalidInputError(
                f"TokenBatch needs three [batch, token] tensors of one shape; got {sorted(shapes)}."
            )
        mask = self.attention_mask.int()
        starts = (mask.diff(dim=1, prepend=mask.new_zeros(len(mask), 1)) == 1).sum(1)
        for row, num_starts in enumerate(starts.tolist()):
            if num_starts != 1:
                raise InvalidInputError(
                    f"row {row}: attention_mask must be True at one or more tokens that stand next to each other, "
                    f"without a gap. It is True in {num_starts} separate pieces of the row."
                )
        first = mask.argmax(dim=1)
        rows = torch.arange(len(mask), device=mask.device)
        for row in torch.nonzero(self.completion_mask[rows, first]).flatten().tolist():
            raise InvalidInputError(
                f"row {row}: the first token is marked as generated, but nothing predicts it. Give at least one "
                "prompt token (a BOS token will do)."
            )
        if bool((self.completion_mask & ~self.attention_mask).any()):
            raise InvalidInputError("completion_mask is True at padded positions.")

    @classmethod
    def from_ids(
        cls,
        prompt_ids: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
        *,
        generated: Sequence[Sequence[int]] | None = None,
        padding_side: Literal["left", "right"] = "right",
        pad_token_id: int = 0,
        device: torch.device | str = "cpu",
    ) -> "TokenBatch":
        """Return a batch of rows that are made of a prompt and a completion, padded to one length.

        Args:
            prompt_ids: the token ids of each prompt.
            completion_ids: the token ids of each completion; these tokens are measured.
            generated: for each completion token, 1 if the model wrote it and 0 if it is, for example, the answer of a
                tool; tokens with 0 are not measured. None means that the model wrote all of them.
            padding_side: the side on which shorter rows are padded.
            pad_token_id: the id that is written at padded positions.
            device: the device of the tensors.

        Raises:
            InvalidInputError: there are no prompts, there are more or fewer completions than prompts, `generated` does
                not have one number for each completion token, an id is no whole number, or no token stands before the
                first measured token of a row.

        >>> batch = TokenBatch.from_ids([[5, 6], [7]], [[8], [9, 4, 3]])
        >>> batch.input_ids.tolist()
        [[5, 6, 8, 0], [7, 9, 4, 3]]
        >>> batch.completion_mask.int().tolist()
        [[0, 0, 1, 0], [0, 1, 1, 1]]
        """
        if not prompt_ids or len(prompt_ids) != len(completion_ids):
            raise InvalidInputError(
                f"need as many prompts as completions, at least one; got {len(prompt_ids)} and {len(completion_ids)}."
            )
        check_one_of("padding_side", padding_side, ("left", "right"))
        num_tokens = [len(completion) for completion in completion_ids]
        if generated is not None and [len(marks) for marks in generated] != num_tokens:
            raise InvalidInputError(
                f"generated needs one mark for each completion token. The rows have {num_tokens} completion tokens; "
                f"got {[len(marks) for marks in generated]} marks."
            )
        lengths = [len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
        shape = (len(lengths), max(lengths))
        input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.bool)
        completion_mask = torch.zeros(shape, dtype=torch.bool)
        for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
            start = shape[1] - lengths[row] if padding_side == "left" else 0
            stop = start + lengths[row]
            ids = [_whole(token, row) for token in (*prompt, *completion)]
            input_ids[row, start:stop] = torch.tensor(ids, dtype=torch.long)
            attention_mask[row, start:stop] = True
            completion_mask[row, start + len(prompt) : stop] = (
                True if generated is None else torch.tensor(generated[row], dtype=torch.bool)
            )
        return cls(input_ids.to(device), attention_mask.to(device), completion_mask.to(device))

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def _whole(token: Any, row: int) -> int:
    """Return the token id as an int, or raise InvalidInputError if it is no whole number."""
    try:
        return operator.index(token)
    except TypeError:
        raise InvalidInputError(
            f"row {row}: token ids must be whole numbers; got {token!r}. Encode the text with the model's tokenizer."
        ) from None


@dataclass(frozen=True)
class Alternatives:
    """The most probable next tokens at each position, the most probable first.

    Equally probable tokens are sorted by ascending id.

    Args:
        token_ids: the ids of the tokens; −1 where no token was generated.
        logprobs: their log-probabilities in nats, at the temperature of the entropy; NaN where no token was generated.
    """

    token_ids: Int[Tensor, "*place rank"]
    logprobs: Float[Tensor, "*place rank"]


@dataclass(frozen=True)
class Magnitudes:
    """The quantities that connect entropy and gradient in the paper, for each generated token.

    They are NaN at positions without a generated token.

    Args:
        logit: the generated token's raw logit z_y, at temperature 1.
        hidden_norm: the norm ‖h‖ of the final hidden state that predicts the token, as the output head reads it. This
            is the state after the model's last normalisation layer.
        hidden_norm_before: the norm of the state before the last normalisation layer; NaN if the model has none.
        unembedding_norm: the norm ‖w_y‖ of the token's row in the output embedding; NaN if the model has no such row.
    """

    logit: Float[Tensor, "*place"]
    hidden_norm: Float[Tensor, "*place"]
    hidden_norm_before: Float[Tensor, "*place"]
    unembedding_norm: Float[Tensor, "*place"]


MAGNITUDES: tuple[str, ...] = tuple(part.name for part in fields(Magnitudes))


@dataclass(frozen=True)
class StepSignals:
    """The signals of every step (sentence) of every rollout.

    Rollouts have different numbers of steps. At the indices after a rollout's last step, `num_tokens` is 0 and all
    other values are NaN.

    Args:
        entropy: the mean entropy of the step's tokens, in nats.
        strength: the mean of `strength_by_projection` over layers and projections.
        strength_by_projection: the gradient strength of the step for each projection: the mean over the step's
            measured tokens, or the joint strength (see `SignalSpec.step_strength`).
        num_tokens: the number of tokens in the step.
        position: the mean position of the step's tokens in the completion, counted from 0.
        effective_rank: the effective rank of the step's summed gradient, as the mean over the layers and projections
            whose gradient is not zero; see `norms.effective_rank`. It is None if no joint strengths were measured, and
            NaN where the singular values are not computed.
    """

    entropy: Float[Tensor, "batch step"]
    strength: Float[Tensor, "batch step"]
    strength_by_projection: Float[Tensor, "batch step layer projection"]
    num_tokens: Int[Tensor, "batch step"]
    position: Float[Tensor, "batch step"]
    effective_rank: Float[Tensor, "batch step"] | None = None

    @property
    def measured(self) -> Bool[Tensor, "batch step"]:
        """A mask that is True where a step has both an entropy and a strength."""
        return ~(self.entropy.isnan() | self.strength.isnan())


@dataclass(frozen=True)
class TokenSignals:
    """The signals of every generated token, at the positions of the measured batch; NaN at all other positions.

    Args:
        entropy: the entropy of the model's distribution p at the token's position, in nats.
        logprob: the log-probability ln p_y of the generated token y, in nats.
        strength: the gradient strength, as the mean over the chosen layers and projections. The gradient strength is
            the norm of ∂target/∂W. The target is the token's logit or its log-probability (`spec.target`). NaN where
            the strength was not measured.
        strength_by_projection: the gradient strength for each layer and projection, before averaging; NaN for a
            projection that the layer does not have.
        logprob_control: √(1 − 2 p_y + Σ p²), the norm of ∂ ln p_y / ∂z for the logits z. It rises with entropy by
            construction, so it serves as a control.
        self_certainty: KL(U‖p), the distance of p from the uniform distribution U, in nats (Intuitor).
        measured: True where the strength was measured.
        layers: the indices of the measured layers, counted over all layers of the decoder.
        spec: the options of the measurement. Wherever you show strengths, also say which estimator
            (`spec.estimator`) measured them.
        alternatives: the most probable tokens `[batch, token, rank]`; None if `spec.num_alternatives` is 0.
        magnitudes: the raw logit of each generated token, and the norms of the final hidden state and of the token's
            unembedding row, `[batch, token]`; None if they are not known.
        steps: the signals of the steps; None if no steps were given.
        impurity: the Gini impurity 1 − Σ p² of p, in [0, 1). None if it was not computed.
        attention_entropy: the entropy of the attention weights at the position that predicts the token, in nats, as
            the mean over the query heads and the measured layers. None if the estimator does not compute attention
            weights: only `own` and `last` do.
    """

    entropy: Float[Tensor, "batch token"]
    logprob: Float[Tensor, "batch token"]
    strength: Float[Tensor, "batch token"]
    strength_by_projection: Float[Tensor, "batch token layer projection"]
    logprob_control: Float[Tensor, "batch token"]
    self_certainty: Float[Tensor, "batch token"]
    measured: Bool[Tensor, "batch token"]
    layers: tuple[int, ...]
    spec: SignalSpec
    alternatives: Alternatives | None = None
    magnitudes: Magnitudes | None = None
    steps: StepSignals | None = None
    impurity: Float[Tensor, "batch token"] | None = None
    attention_entropy: Float[Tensor, "batch token"] | None = None


@dataclass(frozen=True)
class Correlation:
    """A correlation with its confidence interval. An undefined value is NaN, never 0.

    Args:
        value: the correlation, in [−1, 1].
        low: the lower end of the interval.
        high: the upper end of the interval.
        num_tokens: the number of pairs that were correlated. A pair belongs to a token, a type or a step; see `unit`.
        num_effective: the number of independent pairs that carry as much information as these pairs. It is smaller
            than `num_tokens`, because neighbouring pairs of a rollout are similar. It is NaN for a correlation over
            many rollouts, because the interval then comes from resamples.
        method: the kind of correlation, `spearman` or `pearson`.
        confidence: the confidence of the interval, such as 0.95.
        unit: what one pair belongs to: a `token` (one position), a `type` (a distinct token id, with the means over
            its occurrences), or a `step` (a sentence).
    """

    value: float
    low: float
    high: float
    num_tokens: int
    num_effective: float
    method: Method
    confidence: float
    unit: Unit = "token"

    @property
    def inversion(self) -> float:
        """The inversion score: the negated correlation. It is positive if entropy and strength are inverted."""
        return -self.value

    @property
    def defined(self) -> bool:
        """True if the value could be computed."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined (n={self.num_tokens})"
        if math.isnan(self.low):
            return f"{self.value:+.3f}, no interval (n={self.num_tokens})"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n={self.num_tokens})"


def cell_column(layer: int, projection: str) -> str:
    """Return the name of the column of tokens.parquet that holds the strength at one projection of one layer.

    An example is `strength_L07_Q`.
    """
    return f"strength_L{layer:02d}_{projection}"
