"""Entropy, log-probability and the closed-form control of tokens, computed from hidden states in chunks.

The model's own head, with bias, softcap and logit scale, is applied to a few positions at a time, so no
`[batch, token, vocab]` tensor exists. For this the model's forward runs with a backbone that returns the given hidden
states. The same pass gives the seed ∂target_i/∂h_i that every strength estimator propagates through the network.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
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
from antiphase.signals.target_gradient import seeded_logits
from antiphase.types import Alternatives, Magnitudes

# How many logits one pass of the head computes. Cache and memory limit it on a CPU; a GPU is faster with more.
_CHUNK_ELEMENTS = 1 << 23
_CUDA_CHUNK_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class HeadSignals:
    """What the head says about each target: statistics, and the seed of the backward pass (None if not wanted)."""

    entropy: Float[Tensor, "target"]
    logprob: Float[Tensor, "target"]
    logprob_control: Float[Tensor, "target"]
    self_certainty: Float[Tensor, "target"]
    magnitudes: Magnitudes
    seed: Float[Tensor, "target hidden"] | None = None
    alternatives: Alternatives | None = None

    def without_seed(self) -> "HeadSignals":
        """The same without the seed, which is as large as the hidden states."""
        return dataclasses.replace(self, seed=None)


def log_probabilities(
    logits: Float[Tensor, "target vocab"], temperature: float = 1.0
) -> Float[Tensor, "target vocab"]:
    """Log-probabilities ln softmax(z / temperature), in float32 (float64 for float64 logits)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return wide.log_softmax(-1)


def logit_statistics(
    logits: Float[Tensor, "target vocab"], token_ids: Int[Tensor, "target"], temperature: float = 1.0
) -> tuple[Float[Tensor, "target"], Float[Tensor, "target"], Float[Tensor, "target"]]:
    """Entropy, log-probability and log-prob control of tokens from their logits.

    H = −Σ_v p_v ln p_v,  ln p_y,  ‖∂ ln p_y / ∂z‖ = √(1 − 2 p_y + Σ_v p_v²),  with p = softmax(z / temperature).
    docs/method.md. The control is the closed form of arXiv 2506.12912, at z / temperature.

    Args:
        logits: raw logits.
        token_ids: the generated tokens.
        temperature: divides the logits.

    Returns:
        Entropy in nats, log-probability in nats, and the control without unit; accumulated in float32 (float64 for
        float64 logits).

    >>> entropy, logprob, control = logit_statistics(torch.zeros(1, 4), torch.tensor([2]))
    >>> round(entropy.item(), 6), round(logprob.item(), 6), round(control.item(), 6)
    (1.386294, -1.386294, 0.866025)
    """
    return _statistics(log_probabilities(logits, temperature), token_ids)


def _statistics(log_p: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = log_p.exp()
    # A logit of −inf has p = 0 and contributes 0·(−inf) = 0 to the entropy.
    entropy = -(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    logprob = log_p.gather(-1, token_ids[:, None])[:, 0]
    # (Σ_{v≠y} p_v)² + Σ_{v≠y} p_v²: the same sum, without cancellation when p_y is near 1.
    others = p.scatter(-1, token_ids[:, None], 0.0)
    control = (others.sum(-1) ** 2 + (others**2).sum(-1)).sqrt()
    return entropy, logprob, control


def self_certainty(logits: Float[Tensor, "target vocab"], temperature: float = 1.0) -> Float[Tensor, "target"]:
    """Self-certainty of each distribution in nats: its distance from the uniform one (Intuitor, arXiv 2505.19590).

    KL(U‖p) = ln Σ_v exp z_v − z̄ − ln V,  z = logits / temperature;  infinite where a logit is −inf.

    >>> round(self_certainty(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()[1], 6)
    0.433781
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    certainty: Tensor = wide.logsumexp(-1) - wide.mean(-1) - math.log(logits.shape[-1])
    return certainty


@dataclass
class _BackboneOutput(ModelOutput):  # type: ignore[misc]
    """The output of a replaced backbone: final hidden states, and None for anything else that a head may ask for."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def head_of(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """The model's own map from final hidden states `[target, hidden]` to logits `[target, vocab]`.

    Inside the block the model's backbone is replaced, so the model must not be called in any other way.
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
            raise UnsupportedModelError(f"{type(model).__name__} does not run its head on what its decoder returns.")
        return cast(Tensor, logits)[0]

    try:
        yield head
    finally:
        if before is None:
            body.__dict__.pop("forward", None)
        else:
            body.__dict__["forward"] = before


def unembedding_norms(model: nn.Module, token_ids: Int[Tensor, "target"]) -> Float[Tensor, "target"]:
    """‖w_y‖ of each token's row in the output embedding; NaN if the weight does not give access to such rows."""
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
    """The tokens' raw logits, and the norms of the final hidden states before and after the last norm."""
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
    """Statistics of each target token from the hidden state that predicts it; on demand ∂target/∂h and alternatives.

    Args:
        model: the model whose head is applied.
        hidden: the final hidden states, as the head reads them.
        token_ids: the generated tokens.
        spec: gives the temperature, the target and the number of alternatives.
        want_seed: whether ∂target/∂h is needed.
        before: the same states before the model's last norm; None if they are not known.

    Raises:
        NonFiniteError: a logit is NaN, or a row has no finite logit.
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
    entropy, logprob, control, certainty, chosen = (torch.cat(column) for column in zip(*parts, strict=True))
    for row in torch.nonzero(~(entropy.isfinite() & logprob.isfinite())).flatten().tolist():
        raise NonFiniteError(
            f"the logits of target token {row} (id {int(token_ids[row])}) contain NaN or give it no probability. "
            "Check the weights, or load in a wider dtype (--dtype float32)."
        )
    whole_seed = torch.cat(seeds) if want_seed else None
    magnitudes = magnitudes_of(model, hidden, before, chosen, token_ids)
    return HeadSignals(entropy, logprob, control, certainty, magnitudes, whole_seed, joined(tops))
