"""Compute the seed ∂z_y/∂h: the gradient of each target's logit z_y at the final hidden state h that predicts it.

Most output heads are one linear layer, followed by functions of each single logit (a softcap, a scale). Then the
gradient of z_y at the output of the layer is zero except at y, and the seed is a multiple of row y of the weight. This
shortcut saves a second matrix product of the size of the vocabulary. Every call checks that the gradient at the output
of the layer is zero except at y. If it is not, autograd differentiates the whole head.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from antiphase.signal_spec import SignalSpec
from antiphase.signals.logit_sums import shifted_logits, sums_of


def seeded_logits(
    model: nn.Module,
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "target hidden"],
    token_ids: Int[Tensor, "target"],
    spec: SignalSpec,
) -> tuple[Float[Tensor, "target vocab"], Float[Tensor, "target hidden"]]:
    """Return (the logits without autograd graph, the gradient ∂target_i/∂h_i of each target at its hidden state).

    Args:
        model: the model.
        head: the model's function from hidden states to logits; see `head_of`.
        hidden: the final hidden states, without graph.
        token_ids: the generated tokens.
        spec: says whether the target is the `logit` or the `logprob` of the token. The module's docstring explains a
            shortcut for `logit`. There is no shortcut for `logprob`, which depends on every logit.

    Cost: one matrix product of the hidden states with the vocabulary; two if the shortcut cannot be used.
    """
    leaf = hidden.detach().requires_grad_()
    linear = plain_linear(model) if spec.target == "logit" else None
    with torch.enable_grad():
        if linear is not None:
            logits, seed = seeds_by_rows(linear, head, leaf, token_ids)
            if seed is not None:
                return logits.detach(), seed
        logits = head(leaf)
        if spec.target == "logit":
            (seed,) = torch.autograd.grad(logits.gather(-1, token_ids[:, None]).sum(), leaf)
        else:
            slope = _slope_of_logprob(logits.detach(), token_ids, spec.temperature)
            (seed,) = torch.autograd.grad(logits, leaf, slope.to(logits.dtype))
    return logits.detach(), seed


def _slope_of_logprob(logits: Tensor, token_ids: Tensor, temperature: float) -> Tensor:
    """Return the gradient ∂ ln p_y / ∂z of each generated token y at its logits z, `[target, vocab]`.

    It is (1 − p_y) / temperature at y, and −p_v / temperature at every other token v.
    """
    sums = sums_of(logits, token_ids, temperature)
    shifted = shifted_logits(logits, sums.greatest[:, None], temperature)
    p = shifted.sub_(sums.log_sum()[:, None].to(shifted.dtype)).exp_()
    rest = sums.rest_of_chosen(temperature)[:, None].to(p.dtype)
    return p.neg_().scatter_(-1, token_ids[:, None], rest).div_(temperature)


def plain_linear(model: nn.Module) -> nn.Linear | None:
    """Return the output layer if it computes exactly x Wᵀ + b; else None.

    The result is None for a layer with an adapter or a hook, and for a weight that is quantised or sharded over
    devices.
    """
    layer: object = cast(Any, model).get_output_embeddings()
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        return None
    if "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    weight = layer.weight
    # A weight that is sharded over devices is a subclass of Tensor, or is empty outside the layer's own forward.
    plain = type(weight.data) is Tensor and weight.is_floating_point()
    return layer if plain and weight.shape == (layer.out_features, layer.in_features) else None


def seeds_by_rows(
    linear: nn.Linear, head: Callable[[Tensor], Tensor], leaf: Tensor, token_ids: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return (the logits, the gradient of each token's logit at the final hidden state), by a shortcut.

    The gradient is a multiple of the token's row of the weight; see the docstring of the module. The gradient is
    None if the shortcut cannot be used.

    Args:
        linear: the output layer.
        head: the model's function from hidden states to logits.
        leaf: the final hidden states, `[target, hidden]`, which require a gradient.
        token_ids: the generated tokens.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def cut(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        raw = output.detach().requires_grad_()
        calls.append((args[0], raw))
        # The head gets a copy, since it may write into the output of its layer. This is not allowed for a leaf.
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
    d_raw = d_raw.view(len(token_ids), d_raw.shape[-1])
    slope = d_raw.gather(-1, token_ids[:, None])
    if int(d_raw.count_nonzero()) != int(slope.count_nonzero()):
        return logits, None
    rows = linear.weight.detach()[token_ids]
    (seed,) = torch.autograd.grad(inputs, leaf, (slope * rows).to(inputs.dtype).view_as(inputs))
    return logits, seed
