"""Compute the entropy, the log-probability and other signals of tokens from the final hidden states.

The model's own output head, with its bias, softcap and logit scale, is applied to tiles: to some positions and a part
of the vocabulary at a time (`vocabulary_tiles`). All signals are computed from sums over the tiles (`logit_sums`), so
there is never a tensor `[token, vocab]`. A head that cannot be cut into tiles is applied to a few positions at a time,
over the whole vocabulary. The same pass gives ∂target_i/∂h_i, the gradient of each token's target at the final hidden
state. This gradient is called the seed, because the estimators of gradient strength propagate it back through the
network.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from antiphase.errors import NonFiniteError
from antiphase.models.placement import numbers_of
from antiphase.signal_spec import SignalSpec
from antiphase.signals.alternatives import Candidates, in_order, joined
from antiphase.signals.logit_sums import LogitSums, joined_sums, sums_of
from antiphase.signals.output_head import head_of
from antiphase.signals.target_gradient import seeded_logits
from antiphase.signals.vocabulary_tiles import TiledHead, head_in_tiles
from antiphase.types import MAGNITUDES, Alternatives, Magnitudes

# The greatest number of logits in one pass of a head that is applied to the whole vocabulary. A GPU needs more of them
# to be busy.
_CHUNK_ELEMENTS = 1 << 23
_CUDA_CHUNK_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class HeadSignals:
    """The signals of each target (generated token) that are computed from its logits.

    Args:
        entropy: the entropy of the next-token distribution p that predicts the target, in nats.
        logprob: the log-probability of the target token y, in nats.
        logprob_control: the norm of ∂ ln p_y / ∂z for the logits z; see `logit_statistics`.
        self_certainty: the distance of p from the uniform distribution, in nats.
        impurity: the Gini impurity of p; see `gini_impurity`.
        magnitudes: the raw logit of the token, and the norms of the hidden state and of the token's unembedding row.
        seed: the gradient of the target's logit (or log-probability) at the hidden state. The backward pass through
            the network starts with it. None if it is not needed.
        alternatives: the most probable tokens; None if none were asked for.
    """

    entropy: Float[Tensor, "target"]
    logprob: Float[Tensor, "target"]
    logprob_control: Float[Tensor, "target"]
    self_certainty: Float[Tensor, "target"]
    impurity: Float[Tensor, "target"]
    magnitudes: Magnitudes
    seed: Float[Tensor, "target hidden"] | None = None
    alternatives: Alternatives | None = None

    def without_seed(self) -> "HeadSignals":
        """Return a copy in which `seed` is None. The seed takes as much memory as the hidden states."""
        return dataclasses.replace(self, seed=None)


def joined_head(parts: Sequence[HeadSignals]) -> HeadSignals:
    """Concatenate the signals of successive targets (generated tokens). The gradients `seed` are left out."""
    tops = [part.alternatives for part in parts if part.alternatives is not None]
    magnitudes = {name: torch.cat([getattr(part.magnitudes, name) for part in parts]) for name in MAGNITUDES}
    return HeadSignals(
        entropy=torch.cat([part.entropy for part in parts]),
        logprob=torch.cat([part.logprob for part in parts]),
        logprob_control=torch.cat([part.logprob_control for part in parts]),
        self_certainty=torch.cat([part.self_certainty for part in parts]),
        impurity=torch.cat([part.impurity for part in parts]),
        magnitudes=Magnitudes(**magnitudes),
        alternatives=joined(tops),
    )


def log_probabilities(
    logits: Float[Tensor, "target vocab"], temperature: float = 1.0
) -> Float[Tensor, "target vocab"]:
    """Return the log-probabilities ln softmax(z / temperature), in float32 (float64 for float64 logits)."""
    sums = _sums_of_all(logits, temperature)
    wide = logits.to(_wide(logits))
    greatest, log_sum = (found[:, None].to(wide.dtype) for found in (sums.greatest, sums.log_sum()))
    return (wide - greatest) / temperature - log_sum


def logit_statistics(
    logits: Float[Tensor, "target vocab"], token_ids: Int[Tensor, "target"], temperature: float = 1.0
) -> tuple[Float[Tensor, "target"], Float[Tensor, "target"], Float[Tensor, "target"]]:
    """Return (entropy, log-probability, log-probability control) of tokens, computed from their logits.

    H = −Σ_v p_v ln p_v,  ln p_y,  ‖∂ ln p_y / ∂z‖ = √(1 − 2 p_y + Σ_v p_v²),  with p = softmax(z / temperature) and y
    the generated token (docs/method.md). The third value is the norm of a gradient. It rises with entropy by
    construction, and serves as a control. Its formula is that of arXiv 2506.12912, at z / temperature.

    Args:
        logits: the raw logits z.
        token_ids: the generated tokens.
        temperature: the logits are divided by it.

    Returns:
        Entropy in nats, log-probability in nats, and the control without unit, in float32 (float64 for float64
        logits). In float32 the error of the entropy H is below 1e-6 (1 + H), also where one token is almost sure.

    >>> entropy, logprob, control = logit_statistics(torch.zeros(1, 4), torch.tensor([2]))
    >>> round(entropy.item(), 6), round(logprob.item(), 6), round(control.item(), 6)
    (1.386294, -1.386294, 0.866025)
    """
    sums = sums_of(logits, token_ids, temperature)
    entropy, logprob, control = (
        found.to(_wide(logits))
        for found in (sums.entropy(), sums.logprob(temperature), sums.logprob_control(temperature))
    )
    return entropy, logprob, control


def self_certainty(logits: Float[Tensor, "target vocab"], temperature: float = 1.0) -> Float[Tensor, "target"]:
    """Return the self-certainty of each distribution: its distance from the uniform distribution U, in nats.

    KL(U‖p) = ln Σ_v exp z_v − z̄ − ln V,  where z = logits / temperature, z̄ is their mean, and V is their number. The
    self-certainty is infinite if a logit is −inf. The source is Intuitor, arXiv 2505.19590.

    >>> round(self_certainty(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()[1], 6)
    0.433781
    """
    return _sums_of_all(logits, temperature).self_certainty().to(_wide(logits))


def gini_impurity(logits: Float[Tensor, "target vocab"], temperature: float = 1.0) -> Float[Tensor, "target"]:
    """Return the Gini impurity 1 − Σ_v p_v² of each distribution p = softmax(logits / temperature), in [0, 1).

    It is the probability that two tokens that are drawn from p differ. It rises with entropy by construction. Its sum
    Σ p² is part of the norm ‖∂ ln p_y / ∂z‖ (arXiv 2506.12912) and of the token baseline of arXiv 2602.07078. In
    float32, the relative error is below 1e-5 even where one token is almost sure.

    >>> round(gini_impurity(torch.zeros(1, 4)).item(), 6)
    0.75
    """
    return _sums_of_all(logits, temperature).impurity().to(_wide(logits))


def _wide(logits: Tensor) -> torch.dtype:
    """Return the dtype in which signals are computed from these logits: float32, or float64 for float64 logits."""
    return torch.promote_types(logits.dtype, torch.float32)


def _sums_of_all(logits: Tensor, temperature: float) -> LogitSums:
    """Return the sums over the logits that `LogitSums` explains.

    The field `chosen` has no meaning, because no target token is given.
    """
    return sums_of(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), temperature)


def unembedding_norms(model: nn.Module, token_ids: Int[Tensor, "target"]) -> Float[Tensor, "target"]:
    """Return the norm ‖w_y‖ of each token's row in the output embedding.

    The result is NaN if the rows cannot be read, for example because the weight is quantised.
    """
    layer = cast(Any, model).get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        return torch.full((len(token_ids),), torch.nan, device=token_ids.device)
    numbers = numbers_of(layer)
    rows = numbers[token_ids.to(numbers.device)]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
    return norms.to(token_ids.device)


def magnitudes_of(
    model: nn.Module,
    hidden: Float[Tensor, "target hidden"],
    before: Float[Tensor, "target width"] | None,
    chosen: Float[Tensor, "target"],
    token_ids: Int[Tensor, "target"],
) -> Magnitudes:
    """Return the raw logit of each generated token, and the norms of two vectors.

    The two vectors are the final hidden state, and the token's row in the output embedding. Their dot product is
    the logit.

    Args:
        model: the model.
        hidden: the final hidden states, as the output head reads them.
        before: the same states before the model's last normalisation layer; None if they are not known.
        chosen: the raw logit of each token.
        token_ids: the ids of the generated tokens.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)

    def norm(states: Tensor | None) -> Tensor:
        if states is None:
            return torch.full_like(chosen, torch.nan, dtype=dtype)
        result: Tensor = torch.linalg.vector_norm(states.detach(), dim=-1, dtype=dtype)
        return result

    return Magnitudes(chosen.to(dtype), norm(hidden), norm(before), unembedding_norms(model, token_ids))


def head_signals(
    model: nn.Module,
    hidden: Float[Tensor, "target hidden"],
    token_ids: Int[Tensor, "target"],
    spec: SignalSpec,
    *,
    want_seed: bool,
    before: Float[Tensor, "target width"] | None = None,
) -> HeadSignals:
    """Compute the signals of each target token from the hidden state that predicts it.

    Args:
        model: the model whose head is applied.
        hidden: the final hidden states, as the head reads them.
        token_ids: the generated tokens.
        spec: gives the temperature, the target and the number of alternatives.
        want_seed: whether ∂target/∂h is also computed.
        before: the same states before the model's last normalisation layer; None if they are not known.

    Raises:
        NonFiniteError: a logit is NaN, or the probability of a target token is 0.
    """
    with head_of(model) as head:
        arguments = model, head, hidden.detach(), token_ids, spec
        found = head_in_tiles(*arguments, want_seed=want_seed) or _over_whole_vocabulary(*arguments, want_seed)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    sums, temperature = found.sums, spec.temperature
    entropy, logprob = sums.entropy(), sums.logprob(temperature)
    for row in torch.nonzero(~(entropy.isfinite() & logprob.isfinite())).flatten().tolist():
        raise NonFiniteError(
            f"the logits of target token {row} (id {int(token_ids[row])}) contain NaN or give it no probability. "
            "Check the weights, or load in a wider dtype (--dtype float32)."
        )
    return HeadSignals(
        entropy=entropy.to(dtype),
        logprob=logprob.to(dtype),
        logprob_control=sums.logprob_control(temperature).to(dtype),
        self_certainty=sums.self_certainty().to(dtype),
        impurity=sums.impurity().to(dtype),
        magnitudes=magnitudes_of(model, hidden, before, sums.chosen, token_ids),
        seed=found.seed,
        alternatives=_alternatives(found, temperature, dtype),
    )


def _alternatives(found: TiledHead, temperature: float, dtype: torch.dtype) -> Alternatives | None:
    """Return the most probable tokens of each target with their log-probabilities; None if none were asked for.

    Args:
        found: the result of the output head. It holds the tokens and their logits.
        temperature: the logits are divided by it.
        dtype: the dtype of the log-probabilities.
    """
    if found.candidates is None:
        return None
    logits = found.candidates.logits.to(found.sums.greatest.dtype)
    return in_order(found.candidates.token_ids, found.sums.logprob_of(logits, temperature).to(dtype))


def _over_whole_vocabulary(
    model: nn.Module,
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    token_ids: Tensor,
    spec: SignalSpec,
    want_seed: bool,
) -> TiledHead:
    """Compute what `head_in_tiles` computes, but never cut the vocabulary into tiles.

    The head is applied to a few targets (generated tokens) at a time. The arguments are those of `head_in_tiles`.
    """
    sums: list[LogitSums] = []
    seeds: list[Tensor] = []
    best: list[Candidates] = []
    vocabulary = int(cast(Any, model).config.get_text_config().vocab_size)
    size = max(1, (_CUDA_CHUNK_ELEMENTS if hidden.device.type == "cuda" else _CHUNK_ELEMENTS) // vocabulary)
    for states, ids in zip(hidden.split(size), token_ids.split(size), strict=True):
        if want_seed:
            logits, seed = seeded_logits(model, head, states, ids, spec)
            seeds.append(seed)
        else:
            with torch.no_grad():
                logits = head(states)
        sums.append(sums_of(logits, ids, spec.temperature))
        if spec.num_alternatives:
            best.append(Candidates.of(logits, spec.num_alternatives))
    whole_seed = torch.cat(seeds) if want_seed else None
    return TiledHead(joined_sums(sums), Candidates.joined(best), whole_seed)
