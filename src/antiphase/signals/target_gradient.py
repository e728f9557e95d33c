"""∂z_y/∂h of each target, without a second product of vocabulary size if the head allows it.

Most heads are one linear layer, followed by maps of each logit (a softcap, a scale). Then ∂z_y/∂(the layer's output)
is zero except at y, and the seed is a multiple of row y of the weight. Every call checks this on the gradient itself.
If it does not hold, autograd differentiates the whole head.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from antiphase.signal_spec import SignalSpec


def seeded_logits(
    model: nn.Module,
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "target hidden"],
    token_ids: Int[Tensor, "target"],
    spec: SignalSpec,
) -> tuple[Float[Tensor, "target vocab"], Float[Tensor, "target hidden"]]:
    """(logits without graph, ∂target_i/∂h_i).

    Args:
        model: the model whose head it is.
        head: the map from hidden states to logits; see `head_of`.
        hidden: the final hidden states, without graph.
        token_ids: the generated tokens.
        spec: names the target. `logprob` depends on every logit, so for it the whole head is differentiated.

    Cost: one product of hidden states and vocabulary; two if the shortcut does not hold.
    """
    leaf = hidden.detach().requires_grad_()
    linear = _plain_linear(model) if spec.target == "logit" else None
    with torch.enable_grad():
        if linear is not None:
            logits, seed = _by_rows(linear, head, leaf, token_ids)
            if seed is not None:
                return logits.detach(), seed
        logits = head(leaf)
        (seed,) = torch.autograd.grad(_target(logits, token_ids, spec).sum(), leaf)
    return logits.detach(), seed


def _target(logits: Tensor, token_ids: Tensor, spec: SignalSpec) -> Tensor:
    chosen = logits.gather(-1, token_ids[:, None])[:, 0]
    if spec.target == "logit":
        return chosen
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / spec.temperature
    return chosen / spec.temperature - wide.logsumexp(-1)


def _plain_linear(model: nn.Module) -> nn.Linear | None:
    """The output layer if it computes exactly x Wᵀ + b, without adapter, quantisation, sharding or hook; else None."""
    layer: object = cast(Any, model).get_output_embeddings()
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        return None
    if "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    weight = layer.weight
    # A sharded weight is a subclass of Tensor, or is empty outside the layer's own forward.
    plain = type(weight.data) is Tensor and weight.is_floating_point()
    return layer if plain and weight.shape == (layer.out_features, layer.in_features) else None


def _by_rows(
    linear: nn.Linear, head: Callable[[Tensor], Tensor], leaf: Tensor, token_ids: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(logits, the seed from the weight's rows or None if ∂z_y/∂(linear's output) is not zero except at y)."""
    calls: list[tuple[Tensor, Tensor]] = []

    def cut(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        raw = output.detach().requires_grad_()
        calls.append((args[0], raw))
        # A copy, since a head may write into its layer's output, which is not allowed for a leaf.
        return raw.clone()

    handle = linear.register_forward_hook(cut)
    try:
        logits = head(leaf)
    finally:
        handle.remove()
    if len(calls) != 1 or not calls[0][0].requires_grad or calls[0][1].shape[:-1].numel() != len(token_ids):
        return logits, None
    inputs, raw = calls[0]
    chosen = logits.gather(-1, token_ids[:, None])
    found: tuple[Tensor | None, ...] = torch.autograd.grad(chosen.sum(), [raw, leaf], allow_unused=True)
    d_raw, around = found
    if d_raw is None or around is not None:
        return logits, None
    d_raw = d_raw.view(len(token_ids), -1)
    slope = d_raw.gather(-1, token_ids[:, None])
    if int(d_raw.count_nonzero()) != int(slope.count_nonzero()):
        return logits, None
    rows = linear.weight.detach()[token_ids]
    (seed,) = torch.autograd.grad(inputs, leaf, (slope * rows).to(inputs.dtype).view_as(inputs))
    return logits, seed
