"""Compute the entropy, the log-probability and other signals of tokens from the final hidden states.

The model's own output head, with its bias, softcap and logit scale, is applied to a few positions at a time, so there
is never a tensor `[batch, token, vocab]`. For this the model's forward runs with a stand-in for its backbone, which
returns the given hidden states. The same pass gives ∂target_i/∂h_i, the gradient of each token's target at the final
hidden state. It is called the seed, because the estimators of gradient strength propagate it back through the network.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.utils import ModelOutput

from antiphase.errors import NonFiniteError, UnsupportedModelError
from antiphase.models.architecture import backbone
from antiphase.signal_spec import SignalSpec
from antiphase.signals.alternatives import joined, top_alternatives
from antiphase.signals.impurity import impurity_beside, impurity_of
from antiphase.signals.target_gradient import seeded_logits
from antiphase.types import MAGNITUDES, Alternatives, Magnitudes

# The greatest number of logits in one pass of the head. More would not fit into the cache of a CPU, but keep a GPU
# busy.
_CHUNK_ELEMENTS = 1 << 23
_CUDA_CHUNK_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class HeadSignals:
    """The signals of each target that are computed from its logits.

    Args:
        entropy: the entropy of the distribution, in nats.
        logprob: the log-probability of the target token, in nats.
        logprob_control: the norm of ∂ ln p_y / ∂z; see `logit_statistics`.
        self_certainty: the distance of the distribution from the uniform one, in nats.
        impurity: the Gini impurity of the distribution; see `gini_impurity`.
        magnitudes: the raw logit and the norms of the vectors behind it.
        seed: ∂target/∂h, with which the backward pass starts; None if it is not needed.
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
        """Return the same signals without the seed, which takes as much memory as the hidden states."""
        return dataclasses.replace(self, seed=None)


def joined_head(parts: Sequence[HeadSignals]) -> HeadSignals:
    """Return the signals of targets that follow one another, without the seeds."""
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
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return wide.log_softmax(-1)


def logit_statistics(
    logits: Float[Tensor, "target vocab"], token_ids: Int[Tensor, "target"], temperature: float = 1.0
) -> tuple[Float[Tensor, "target"], Float[Tensor, "target"], Float[Tensor, "target"]]:
    """Return (entropy, log-probability, log-probability control) of tokens, computed from their logits.

    H = −Σ_v p_v ln p_v,  ln p_y,  ‖∂ ln p_y / ∂z‖ = √(1 − 2 p_y + Σ_v p_v²),  with p = softmax(z / temperature) and y
    the generated token. docs/method.md. The third value is the norm of a gradient that rises with entropy by
    construction, and serves as a control. Its formula is that of arXiv 2506.12912, at z / temperature.

    Args:
        logits: the raw logits z.
        token_ids: the generated tokens.
        temperature: the logits are divided by it.

    Returns:
        Entropy in nats, log-probability in nats, and the control without unit. They are accumulated in float32
        (float64 for float64 logits).

    >>> entropy, logprob, control = logit_statistics(torch.zeros(1, 4), torch.tensor([2]))
    >>> round(entropy.item(), 6), round(logprob.item(), 6), round(control.item(), 6)
    (1.386294, -1.386294, 0.866025)
    """
    return _statistics(log_probabilities(logits, temperature), token_ids)[:3]


def _statistics(log_p: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the values of `logit_statistics` and then the Gini impurity, from log-probabilities."""
    p = log_p.exp()
    # A token with a logit of −inf has p = 0 and must contribute 0 to the entropy. Clamping prevents 0·(−inf) = NaN.
    entropy = -(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    logprob = log_p.gather(-1, token_ids[:, None])[:, 0]
    # (Σ_{v≠y} p_v)² + Σ_{v≠y} p_v² equals 1 − 2 p_y + Σ_v p_v², and loses no digits if p_y is near 1.
    others = p.scatter(-1, token_ids[:, None], 0.0)
    rest, squares = others.sum(-1), (others**2).sum(-1)
    control = (rest**2 + squares).sqrt()
    impurity = impurity_beside(logprob.exp(), rest, squares)
    # Where another token is almost sure, the difference in `impurity_beside` cancels.
    rows = (squares > 0.25).nonzero()[:, 0]
    impurity[rows] = impurity_of(p[rows])
    return entropy, logprob, control, impurity


def self_certainty(logits: Float[Tensor, "target vocab"], temperature: float = 1.0) -> Float[Tensor, "target"]:
    """Return the self-certainty of each distribution: its distance from the uniform distribution U, in nats.

    KL(U‖p) = ln Σ_v exp z_v − z̄ − ln V,  where z = logits / temperature, z̄ is their mean, and V is their number. It
    is infinite if a logit is −inf. The source is Intuitor, arXiv 2505.19590.

    >>> round(self_certainty(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()[1], 6)
    0.433781
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    certainty: Tensor = wide.logsumexp(-1) - wide.mean(-1) - math.log(logits.shape[-1])
    return certainty


def gini_impurity(logits: Float[Tensor, "target vocab"], temperature: float = 1.0) -> Float[Tensor, "target"]:
    """Return the Gini impurity 1 − Σ_v p_v² of each distribution p = softmax(logits / temperature), in [0, 1).

    It is the probability that two tokens that are drawn from p differ. It rises with entropy by construction. Its sum
    Σ p² is part of the norm ‖∂ ln p_y / ∂z‖ (arXiv 2506.12912) and of the token baseline of arXiv 2602.07078. In
    float32, the relative error is below 1e-5 even where one token is almost sure.

    >>> round(gini_impurity(torch.zeros(1, 4)).item(), 6)
    0.75
    """
    return impurity_of(log_probabilities(logits, temperature).exp())


@dataclass
class _BackboneOutput(ModelOutput):  # type: ignore[misc]
    """The output of the stand-in for the backbone: the final hidden states, and None for all other attributes."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def head_of(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the model's own function from final hidden states `[target, hidden]` to logits `[target, vocab]`.

    Inside the `with` block the model's backbone is replaced, so the model must not be called directly.

    Raises:
        UnsupportedModelError: when the function is called, if the model does not compute its logits from the output of
            its backbone.
    """
    body = backbone(model)
    before = body.__dict__.get("forward")

    def head(hidden: Tensor) -> Tensor:
        calls = []

        def stand_in(*_: Any, **__: Any) -> _BackboneOutput:
            calls.append(1)
            return _BackboneOutput(last_hidden_state=hidden[None])

        body.__dict__["forward"] = stand_in
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
        logits = cast(Any, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        if not calls:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not compute its logits from the output of its decoder."
            )
        return cast(Tensor, logits)[0]

    try:
        yield head
    finally:
        if before is None:
            body.__dict__.pop("forward", None)
        else:
            body.__dict__["forward"] = before


def unembedding_norms(model: nn.Module, token_ids: Int[Tensor, "target"]) -> Float[Tensor, "target"]:
    """Return the norm ‖w_y‖ of each token's row in the output embedding.

    The result is NaN if the rows cannot be read, for example because the weight is quantised.
    """
    layer = cast(Any, model).get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        return torch.full((len(token_ids),), torch.nan, device=token_ids.device)
    rows = weight.detach()[token_ids]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
    return norms


def magnitudes_of(
    model: nn.Module,
    hidden: Float[Tensor, "target hidden"],
    before: Float[Tensor, "target width"] | None,
    chosen: Float[Tensor, "target"],
    token_ids: Int[Tensor, "target"],
) -> Magnitudes:
    """Return the tokens' raw logits, and the norms of the vectors behind them.

    Args:
        model: the model.
        hidden: the final hidden states, as the head reads them.
        before: the same states before the model's last normalisation layer; None if they are not known.
        chosen: the raw logit of each token.
        token_ids: the tokens.
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
    parts: list[tuple[Tensor, ...]] = []
    seeds: list[Tensor] = []
    tops: list[Alternatives] = []
    vocab = int(cast(Any, model).config.get_text_config().vocab_size)
    size = max(1, (_CUDA_CHUNK_ELEMENTS if hidden.device.type == "cuda" else _CHUNK_ELEMENTS) // vocab)
    with head_of(model) as head:
        for states, ids in zip(hidden.detach().split(size), token_ids.split(size), strict=True):
            if want_seed:
                logits, seed = seeded_logits(model, head, states, ids, spec)
                seeds.append(seed)
            with torch.no_grad():
                logits = logits if want_seed else head(states)
                certainty = self_certainty(logits, spec.temperature)
                log_p = log_probabilities(logits, spec.temperature)
                parts.append((*_statistics(log_p, ids), certainty, logits.gather(-1, ids[:, None])[:, 0]))
                if spec.num_alternatives:
                    tops.append(top_alternatives(log_p, spec.num_alternatives))
    entropy, logprob, control, impurity, certainty, chosen = (torch.cat(column) for column in zip(*parts, strict=True))
    for row in torch.nonzero(~(entropy.isfinite() & logprob.isfinite())).flatten().tolist():
        raise NonFiniteError(
            f"the logits of target token {row} (id {int(token_ids[row])}) contain NaN or give it no probability. "
            "Check the weights, or load in a wider dtype (--dtype float32)."
        )
    whole_seed = torch.cat(seeds) if want_seed else None
    magnitudes = magnitudes_of(model, hidden, before, chosen, token_ids)
    return HeadSignals(entropy, logprob, control, certainty, impurity, magnitudes, whole_seed, joined(tops))
