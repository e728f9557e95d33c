"""The signals that stand beside entropy and strength: attention entropy, Gini impurity and effective rank."""

import pytest
import torch
from test_joint import steps_of

from antiphase.models.architecture import find_attention
from antiphase.signals import attention_blocks, norms, prefix
from antiphase.signals.entropy import gini_impurity
from antiphase.signals.logit_sums import sums_of
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import ARCHITECTURES, pure_double, tiny_model
from model_families import FAMILIES, family_batch, family_model, finding

COUNTS = ((2, 4), (1, 7))


def plain_attention_entropy(model, batch, layers):
    """−Σ α ln α of the probabilities that the model itself returns, as the mean over heads and layers."""
    found = torch.full(batch.input_ids.shape, torch.nan, dtype=torch.float64)
    model.set_attn_implementation("eager")
    attention = [layer.index for layer in find_attention(model)]
    for row in range(len(batch)):
        real = torch.nonzero(batch.attention_mask[row]).flatten()
        with torch.no_grad():
            seen = model(input_ids=batch.input_ids[row : row + 1, real], output_attentions=True).attentions
        # Layers without attention return nothing, or None.
        weights = [one[0].double() for one in seen if one is not None]
        assert len(weights) == len(attention)
        chosen = [weights[attention.index(layer)] for layer in layers]
        of_layers = torch.stack([-(one * one.clamp_min(1e-300).log()).sum(-1).mean(0) for one in chosen])
        for target in torch.nonzero(batch.completion_mask[row, real]).flatten().tolist():
            found[row, real[target]] = of_layers[:, target - 1].mean()
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_entropy_is_that_of_the_model(name: str, side: str) -> None:
    with pure_double():
        model, batch = tiny_model(name, dtype=torch.float64), family_batch(side)
        found = token_signals(model, batch)
        truth = plain_attention_entropy(model, batch, found.layers)
    torch.testing.assert_close(found.attention_entropy, truth, equal_nan=True, rtol=1e-10, atol=1e-12)
    assert (found.attention_entropy[batch.completion_mask] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_entropy_of_families_is_that_of_the_model_or_absent(family: str) -> None:
    measured = finding(family).measured
    for name, (fast, definition) in measured.items():
        assert definition.attention_entropy is None
        assert (fast.attention_entropy is None) == (name == "full")
        if name == "full":
            continue
        with pure_double():
            truth = plain_attention_entropy(family_model(family, torch.float64), family_batch(), fast.layers)
        torch.testing.assert_close(fast.attention_entropy, truth, equal_nan=True, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("estimator", "layers"), [("own", "0,2"), ("own", "1"), ("last", "last")])
def test_attention_entropy_is_that_of_the_measured_layers(estimator: str, layers: str) -> None:
    with pure_double():
        model = tiny_model("llama-gqa", dtype=torch.float64)
        found = token_signals(model, family_batch(), SignalSpec(estimator, layers))
        truth = plain_attention_entropy(model, family_batch(), found.layers)
    torch.testing.assert_close(found.attention_entropy, truth, equal_nan=True, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2"])
def test_attention_entropy_after_a_shared_prompt_and_in_blocks(name: str, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randint(3, 300, (30,), generator=generator).tolist()
    batch = TokenBatch.from_ids([prompt] * 3, [[7, 8, 9], [11, 12], [13, 14, 15, 16]])
    with pure_double():
        model = tiny_model(name, dtype=torch.float64)
        assert prefix.split(model, measured_rows(batch))[0], "the prompt is run once"
        two = token_signals(model, batch).attention_entropy
        monkeypatch.setattr(attention_blocks, "_BLOCK_ELEMENTS", 1)
        blocks = token_signals(model, batch).attention_entropy
        truth = plain_attention_entropy(model, batch, range(model.config.num_hidden_layers))
    for found in (two, blocks):
        torch.testing.assert_close(found, truth, equal_nan=True, rtol=1e-10, atol=1e-12)


def measured_rows(batch):
    from antiphase.signals.chunk import rows_of

    return rows_of(batch, SignalSpec())


def test_looking_at_the_attention_changes_no_other_number(monkeypatch) -> None:
    model, batch = tiny_model("llama-gqa"), family_batch()
    steps, spec = steps_of(batch, COUNTS), SignalSpec(step_strength="joint")
    seen = token_signals(model, batch, spec, steps=steps)
    plain = prefix.tracing
    monkeypatch.setattr(prefix, "tracing", lambda **options: plain(**{**options, "entropies_of": ()}))
    monkeypatch.setattr("antiphase.signals.own.mean_over_layers", lambda *_: torch.zeros(2, 20))
    blind = token_signals(model, batch, spec, steps=steps)
    for name in ("entropy", "logprob", "strength", "strength_by_projection", "logprob_control", "impurity"):
        torch.testing.assert_close(getattr(seen, name), getattr(blind, name), equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(seen.steps.strength, blind.steps.strength, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(seen.attention_entropy.nan_to_num(), blind.attention_entropy.nan_to_num())


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_impurity_is_one_minus_the_sum_of_squares(estimator: str, temperature: float) -> None:
    layers = "last" if estimator == "last" else "all"
    with pure_double():
        model, batch = tiny_model(dtype=torch.float64), family_batch()
        found = token_signals(model, batch, SignalSpec(estimator, layers, temperature=temperature)).impurity
        oracle = token_signals(model, batch, SignalSpec("oracle", "last", temperature=temperature)).impurity
        logits = model(input_ids=batch.input_ids[:1, :10]).logits[0, -1].detach() / temperature
    torch.testing.assert_close(found, oracle, equal_nan=True, rtol=0, atol=1e-14)
    assert found[0, 10].item() == pytest.approx(1 - float((logits.softmax(-1) ** 2).sum()), abs=1e-14)


def test_impurity_of_a_sure_model_keeps_its_digits() -> None:
    # A model that is sure of token 0, with two others of probability 1e-9: 1 − Σ p² = 4e-9, which float32 cannot
    # compute as a difference.
    logits = torch.tensor([[0.0, -20.723266, -20.723266]])
    impurity = sums_of(logits, torch.tensor([0]), 1.0).impurity().item()
    assert impurity == pytest.approx(4e-9, rel=1e-4)
    # The digits stay if the token that was written is not the sure one.
    assert sums_of(logits, torch.tensor([1]), 1.0).impurity().item() == pytest.approx(4e-9, rel=1e-4)
    assert gini_impurity(logits).item() == pytest.approx(4e-9, rel=1e-4)


@pytest.mark.parametrize("gap", [0, 8, 10, 12, 14, 16, 20, 25, 30])
def test_impurity_of_a_large_vocabulary_in_float32(gap: int) -> None:
    # The top token is `gap` above 150,000 normal logits: it has a probability from 1e-5 to 1 − 4e-10.
    logits = torch.randn(4, 150_000, generator=torch.Generator().manual_seed(gap))
    logits[:, 7] = logits.max(-1).values + gap
    p = logits.double().softmax(-1)
    top, rest = p[:, 7].clone(), p.scatter(1, torch.full((4, 1), 7), 0.0)
    truth = top * rest.sum(-1) + (rest * (1 - rest)).sum(-1)
    for written in (7, 3):
        found = sums_of(logits, torch.full((4,), written), 1.0).impurity()
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=0)
    found = gini_impurity(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["Gemma 4, small (reused keys and values)", "SmolLM3"])
@pytest.mark.parametrize(("fast", "definition"), [("own", "oracle-own"), ("full", "oracle"), ("last", "oracle")])
def test_effective_rank_is_that_of_the_weight_gradient(family: str, fast: str, definition: str) -> None:
    batch, layers = family_batch(), "last" if fast == "last" else "all"
    steps = steps_of(batch, COUNTS)
    with pure_double():
        model = family_model(family, torch.float64)
        found, truth = (
            token_signals(model, batch, SignalSpec(name, layers, step_strength="joint"), steps=steps).steps
            for name in (fast, definition)
        )
    torch.testing.assert_close(found.effective_rank, truth.effective_rank, equal_nan=True, rtol=1e-6, atol=0)
    assert torch.equal(found.effective_rank.isfinite(), found.num_tokens > 0)
    assert (found.effective_rank[found.num_tokens > 0] >= 1).all()
    if fast == "own":  # a sum of n matrices of rank one
        there = found.num_tokens > 0
        assert (found.effective_rank[there] <= found.num_tokens[there] + 1e-9).all()


def test_effective_rank_in_float32_is_that_of_float64() -> None:
    batch = family_batch()
    steps, spec = steps_of(batch, COUNTS), SignalSpec(step_strength="joint")
    narrow = token_signals(tiny_model(), batch, spec, steps=steps).steps.effective_rank
    with pure_double():
        wide = token_signals(tiny_model(dtype=torch.float64), batch, spec, steps=steps).steps.effective_rank
    torch.testing.assert_close(narrow.double(), wide, equal_nan=True, rtol=1e-4, atol=0)


def test_effective_rank_is_absent_without_joint_strengths_and_undefined_without_singular_values(monkeypatch) -> None:
    model, batch = tiny_model(), family_batch()
    steps = steps_of(batch, COUNTS)
    assert token_signals(model, batch, steps=steps).steps.effective_rank is None
    for norm in ("frobenius", "l1"):
        spec = SignalSpec(step_strength="joint", norm=norm)
        assert token_signals(model, batch, spec, steps=steps).steps.effective_rank.isnan().all()
    monkeypatch.setattr(norms, "_multiplies_double", lambda device: True)
    fast = token_signals(model, batch, SignalSpec(step_strength="joint"), steps=steps).steps
    assert fast.effective_rank.isnan().all()
    assert fast.strength[fast.num_tokens > 0].isfinite().all()


def test_effective_rank_by_hand() -> None:
    # Singular values 3 and 1: shares 0.75 and 0.25.
    assert norms.effective_rank(torch.tensor([3.0, 1.0, 0.0])).item() == pytest.approx(1.7548, abs=1e-4)
    assert norms.effective_rank(torch.zeros(4)).isnan()
