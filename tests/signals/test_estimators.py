"""The fast estimators against their definitions, in float64 and float32, over architectures and paddings."""

import dataclasses

import pytest
import torch

from antiphase.errors import InvalidInputError, NonFiniteError, UnsupportedModelError
from antiphase.models.architecture import find_attention
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import ARCHITECTURES, VOCAB, pure_double, tiny_model

DEFINITION = {"own": "oracle-own", "last": "oracle", "full": "oracle"}
NORMS = ("nuclear", "frobenius", "l1")


def rollouts(side: str = "right", lengths=((7, 9), (3, 5), (1, 12))) -> TokenBatch:
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randint(3, VOCAB, (n,), generator=generator).tolist()  # noqa: E731
    prompts, completions = zip(*[(draw(p), draw(c)) for p, c in lengths], strict=True)
    return TokenBatch.from_ids(prompts, completions, padding_side=side, pad_token_id=2)


def relative_error(fast: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest relative error; gradients that vanish (a first token attends to itself alone) must vanish in both."""
    assert torch.equal(fast.isfinite(), truth.isfinite())
    both = fast.isfinite()
    assert both.any()
    rounding = 1e-10 if fast.dtype == torch.float64 else 1e-5
    fast, truth = fast[both].double(), truth[both].double()
    nothing = truth < rounding * truth.median()
    assert (fast[nothing] < rounding * truth.median()).all()
    assert nothing.double().mean() < 0.1
    return float((fast[~nothing] / truth[~nothing] - 1).abs().max())


def measure(model, batch, estimator: str, **changes):
    layers = "last" if estimator == "last" or changes.pop("last", False) else changes.pop("layers", "all")
    return token_signals(model, batch, SignalSpec(estimator=estimator, layers=layers, **changes))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matches_definition_in_float64(architecture: str, estimator: str, side: str) -> None:
    batch = rollouts(side)
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        fast = measure(model, batch, estimator)
        truth = measure(model, batch, DEFINITION[estimator], last=estimator == "last")
    assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-8
    for name in ("entropy", "logprob", "logprob_control", "self_certainty"):
        torch.testing.assert_close(getattr(fast, name), getattr(truth, name), equal_nan=True, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", ["logit", "logprob"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2"])
def test_norms_and_targets(architecture: str, estimator: str, norm: str, target: str) -> None:
    batch = rollouts()
    options = {"norm": norm, "target": target, "temperature": 0.7, "projections": ("V", "K", "O")}
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        fast = measure(model, batch, estimator, **options)
        truth = measure(model, batch, DEFINITION[estimator], last=estimator == "last", **options)
    assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-8


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_error_is_the_oracles_own(architecture: str, estimator: str) -> None:
    # Weights of moderate size: with large ones a few tokens amplify the rounding of the forward pass itself, in the
    # oracle as in the fast path, and the comparison would be one of two draws of noise.
    batch, definition = rollouts(), DEFINITION[estimator]
    with pure_double():
        exact = tiny_model(architecture, torch.float64, noise=0.7)
        truth = measure(exact, batch, definition, last=estimator == "last").strength_by_projection
    model = tiny_model(architecture, noise=0.7)
    slow = measure(model, batch, definition, last=estimator == "last").strength_by_projection
    fast = measure(model, batch, estimator).strength_by_projection
    assert fast.dtype == torch.float32
    assert relative_error(fast, truth) <= relative_error(slow, truth) + 1e-5


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_own_position_and_full_context_differ(estimator: str) -> None:
    # A test of the tests: the two observables must not be mistaken for each other.
    model, batch = tiny_model(), rollouts()
    own = measure(model, batch, "oracle-own", last=estimator == "last").strength
    full = measure(model, batch, "oracle", last=estimator == "last").strength
    assert relative_error(own, full) > 0.05


@pytest.mark.parametrize("estimator", ["own", "full", "oracle"])
def test_chosen_layers_are_slices_of_all(estimator: str) -> None:
    model, batch = tiny_model("mistral-window"), rollouts()
    everything = measure(model, batch, estimator).strength_by_projection
    some = measure(model, batch, estimator, layers="-1,0", projections=("O", "Q"))
    assert some.layers == (0, 2)
    torch.testing.assert_close(
        some.strength_by_projection, everything[:, :, [0, 2]][..., [3, 0]], equal_nan=True, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_accumulates_wide(estimator: str, dtype: torch.dtype) -> None:
    batch = rollouts()
    truth = measure(tiny_model(), batch, estimator).strength
    half = measure(tiny_model(dtype=dtype), batch, estimator).strength
    assert half.dtype == torch.float32
    assert relative_error(half, truth) < 0.15
    # bf16 sums would collapse onto few values.
    assert half[half.isfinite()].unique().numel() == int(half.isfinite().sum())


def test_long_rows_run_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphase.signals import attention_blocks, full, last_layer

    batch = rollouts(lengths=((9, 31), (4, 17)))
    model = tiny_model("gemma2")
    whole = [measure(model, batch, name).strength for name in ("own", "last", "full")]
    monkeypatch.setattr(attention_blocks, "_BLOCK_ELEMENTS", 2 * 4 * 40 * 7)
    monkeypatch.setattr(last_layer, "_CHUNK_ELEMENTS", 2 * 40 * 24 * 5)
    monkeypatch.setattr(full, "_TARGETS_PER_BLOCK", 5)
    blocks = [measure(model, batch, name).strength for name in ("own", "last", "full")]
    for left, right in zip(whole, blocks, strict=True):
        torch.testing.assert_close(left, right, equal_nan=True, rtol=2e-5, atol=0)


def test_frozen_attention_keeps_the_forward() -> None:
    model, batch = tiny_model("gemma2"), rollouts()
    own, oracle = measure(model, batch, "own"), measure(model, batch, "oracle")
    torch.testing.assert_close(own.entropy, oracle.entropy, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_control_is_the_norm_of_the_logprob_gradient() -> None:
    model, batch = tiny_model(), rollouts()
    signals = measure(model, batch, "own", temperature=0.5)
    logits = model(input_ids=batch.input_ids[:1, :16]).logits[0, 9].detach().requires_grad_()
    # The closed form is taken at z / temperature.
    scaled = (logits.detach() / 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(scaled.log_softmax(-1)[batch.input_ids[0, 10]], scaled)
    assert signals.logprob_control[0, 10].item() == pytest.approx(gradient.norm().item(), rel=1e-5)


@pytest.mark.parametrize("prompt", [[5, 6, 7], [5]])
@pytest.mark.parametrize("estimator", ["own", "last"])
def test_model_that_mixes_positions_elsewhere_is_refused(estimator: str, prompt: list[int]) -> None:
    model = tiny_model()

    class Smeared(torch.nn.Module):
        """An MLP that also looks one position back."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) + 0.1 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]

    model.model.layers[2].mlp = Smeared(model.model.layers[2].mlp)
    batch = TokenBatch.from_ids([prompt], [[8, 9, 10, 11]])
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="outside softmax attention"):
            measure(model, batch, estimator)
    assert measure(model, batch, "full").strength.isfinite().any()


def test_attention_outside_the_interface_is_refused() -> None:
    model = tiny_model()
    attention = model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **_: (
        attention.o_proj(attention.v_proj(hidden_states).repeat(1, 1, 2)),
        None,
    )
    with pytest.raises(UnsupportedModelError, match="AttentionInterface"):
        measure(model, rollouts(), "own")


def test_per_head_and_additive_masks() -> None:
    from antiphase.signals.attention_blocks import AttentionCall, attention_weights

    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 5, 6, generator=generator), torch.randn(2, 2, 5, 6, generator=generator)
    bias = torch.randn(2, 4, 5, 5, generator=generator).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    scores = query @ key.repeat_interleave(2, 1).mT * 0.4 + bias
    call = AttentionCall(query, key, key, bias, 0.4, None)
    weights, _ = attention_weights(call, torch.arange(5).expand(2, -1), 5)
    torch.testing.assert_close(weights.flatten(1, 2), scores.softmax(-1))


@pytest.mark.parametrize("estimator", ["last", "full", "oracle"])
def test_gradients_that_overflow_are_named(estimator: str) -> None:
    model = tiny_model()
    model.model.layers[2].mlp.register_full_backward_hook(lambda m, g, o: (g[0] * torch.inf,))
    with pytest.raises(NonFiniteError, match="gradient is NaN or infinite"):
        measure(model, rollouts(), estimator)


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [4.0] * 3, "rope_theta": 10000.0,
        "original_max_position_embeddings": 12}  # fmt: skip


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_longrope_rows_do_not_depend_on_their_neighbours(estimator: str) -> None:
    model = tiny_model("phi3", rope_parameters=LONG, original_max_position_embeddings=12)
    lengths = ((4, 5), (4, 20), (6, 6))
    together = measure(model, rollouts(lengths=lengths), estimator)
    batch = rollouts(lengths=lengths)
    for row, (prompt, completion) in enumerate(lengths):
        stop = prompt + completion
        alone = TokenBatch(*(getattr(batch, f.name)[row : row + 1, :stop] for f in dataclasses.fields(batch)))
        truth = measure(model, alone, "oracle" if estimator != "own" else "own", last=estimator == "last")
        assert (
            relative_error(together.strength_by_projection[row : row + 1, :stop], truth.strength_by_projection) < 1e-4
        )


def test_dynamic_rope_is_refused_where_it_depends_on_history() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = tiny_model(rope_parameters=dynamic, max_position_embeddings=16)
    assert measure(model, rollouts(lengths=((3, 9),)), "own").strength.isfinite().any()
    with pytest.raises(UnsupportedModelError, match="dynamic RoPE"):
        measure(tiny_model(rope_parameters={**dynamic, "original_max_position_embeddings": 10}), rollouts(), "own")


def test_row_beyond_the_context_is_refused() -> None:
    batch = TokenBatch.from_ids([[5] * 60], [[6] * 10])
    with pytest.raises(InvalidInputError, match="70 tokens is longer than the model's context of 64"):
        measure(tiny_model("gpt2", n_positions=64), batch, "own")


def test_last_refuses_other_layers() -> None:
    with pytest.raises(InvalidInputError, match="last attention layer alone"):
        token_signals(tiny_model(), rollouts(), SignalSpec(estimator="last", layers="0"))


def test_targets_subsample_is_a_subset_and_does_not_depend_on_the_batch() -> None:
    model, batch = tiny_model(), rollouts()
    everything = measure(model, batch, "full")
    some = measure(model, batch, "full", targets_per_rollout=4)
    assert some.measured.sum(1).tolist() == [4, 4, 4]
    assert torch.equal(some.strength.isfinite(), some.measured)
    torch.testing.assert_close(some.strength[some.measured], everything.strength[some.measured], rtol=1e-5, atol=0)
    assert torch.equal(some.entropy.isfinite(), batch.completion_mask)
    alone = TokenBatch(*(getattr(batch, f.name)[1:2] for f in dataclasses.fields(batch)))
    assert torch.equal(measure(model, alone, "full", targets_per_rollout=4).measured, some.measured[1:2])
    other = measure(model, batch, "full", targets_per_rollout=4, seed=1)
    assert not torch.equal(other.measured, some.measured)


def test_layout_of_every_architecture_is_found() -> None:
    for architecture in ARCHITECTURES:
        layers = find_attention(tiny_model(architecture))
        assert [layer.index for layer in layers] == [0, 1, 2]


def test_mamba_is_refused_by_name() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("mamba", vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*q_proj.*found the modules .*in_proj"):
        token_signals(AutoModelForCausalLM.from_config(config), rollouts())
