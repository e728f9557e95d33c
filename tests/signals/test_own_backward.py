"""What the backward pass of `own` keeps, and what it says if a gradient is missing."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from antiphase.errors import UnsupportedModelError
from antiphase.signals import measure, own_backward
from antiphase.types import SignalSpec, TokenBatch
from conftest import _BASE, pure_double, shaken, tiny_model


def batch() -> TokenBatch:
    return TokenBatch.from_ids([[1, 5], [7, 8, 9]], [[6, 3, 4, 9, 11], [12, 13]])


def test_outputs_and_gradients_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the gradients of two of the eight layers are alive at the same time.

    Those of the first layer live to the end. A gradient into which PyTorch adds the next one counts once.
    """
    alive: list[weakref.ref[Tensor]] = []
    most = [0]
    arrived = own_backward._LayerPass.arrived

    def watched(self: own_backward._LayerPass, module: nn.Module, gradient: Tensor) -> None:
        arrived(self, module, gradient)
        alive.append(weakref.ref(gradient))
        most[0] = max(most[0], len({id(found) for one in alive if (found := one()) is not None}))

    monkeypatch.setattr(own_backward._LayerPass, "arrived", watched)
    measure.token_signals(tiny_model(num_hidden_layers=8), batch())
    assert len(alive) >= 8 * 4
    assert most[0] <= 8


@pytest.mark.parametrize("layer", [0, 1])
def test_a_projection_that_no_gradient_reaches_is_named(layer: int) -> None:
    model = tiny_model("qwen3")
    norm = model.model.layers[layer].self_attn.k_norm
    norm.register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(UnsupportedModelError, match="no gradient reaches projection K of .*layers." + str(layer)):
        measure.token_signals(model, batch())


@pytest.mark.parametrize("name", ["gpt2", "phi3", "qwen3"])
@pytest.mark.parametrize("step_strength", ["mean", "joint"])
def test_layers_are_independent(name: str, step_strength: str) -> None:
    """Measuring some layers gives the numbers that measuring all layers gives for them."""
    model, rollouts = tiny_model(name), batch()
    steps = torch.zeros_like(rollouts.input_ids)
    every = measure.token_signals(model, rollouts, SignalSpec(step_strength=step_strength), steps=steps)
    some = measure.token_signals(model, rollouts, SignalSpec(step_strength=step_strength, layers="1,2"), steps=steps)
    torch.testing.assert_close(some.strength_by_projection, every.strength_by_projection[:, :, 1:], equal_nan=True)
    if step_strength == "joint":
        found, expected = some.steps.strength_by_projection, every.steps.strength_by_projection[..., 1:, :]
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("frozen", [False, True])
def test_outputs_that_the_model_changes_in_place(estimator: str, frozen: bool) -> None:
    """OLMo clips queries, keys and values in place. A clipped entry passes no gradient."""
    config = AutoConfig.for_model("olmo", **_BASE, clip_qkv=0.8)
    set_seed(0)
    model = (
        shaken(AutoModelForCausalLM.from_config(config, dtype=torch.float32), 1.2).double().requires_grad_(not frozen)
    )
    layers = "last" if estimator == "last" else "all"
    with pure_double():
        fast = measure.token_signals(model, batch(), SignalSpec(estimator, layers)).strength_by_projection
        slow = SignalSpec("oracle-own" if estimator == "own" else "oracle", layers)
        exact = measure.token_signals(model.requires_grad_(), batch(), slow).strength_by_projection
    torch.testing.assert_close(fast, exact, rtol=1e-8, atol=1e-12, equal_nan=True)
