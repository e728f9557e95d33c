"""The measurement leaves the model as it was, also after an exception in the middle."""

import pytest
import torch

from antiphase.errors import NonFiniteError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import Sampling, generate
from antiphase.signal_spec import ESTIMATORS, SignalSpec
from antiphase.signals import frozen_attention, norms
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch
from conftest import tiny_model

BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [[10, 11, 12], [13, 14]])


def snapshot(model) -> dict:
    return {
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "versions": {n: p._version for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "training": {n: m.training for n, m in model.named_modules()},
        "hooks": {
            n: [len(getattr(m, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for n, m in model.named_modules()
        },
        "forwards": {n: "forward" in vars(m) for n, m in model.named_modules()},
        "attention": (model.config._attn_implementation, model.config.to_json_string()),
        "rng": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
        "trace": frozen_attention._TRACE.get(),
    }


def assert_same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        other = after[name]
        if isinstance(value, dict):
            assert value.keys() == other.keys()
            for key, item in value.items():
                equal = torch.equal(item, other[key]) if isinstance(item, torch.Tensor) else item == other[key]
                assert equal, f"{name}: {key}"
        else:
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def used_model():
    """A model in the middle of training: mixed modes, gradients, a frozen weight, dropout, a user's hook."""
    model = tiny_model(attention_dropout=0.3)
    model.train()
    model.model.layers[1].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    model(input_ids=BATCH.input_ids[:1, :4]).logits.sum().backward()
    model.model.layers[0].register_forward_hook(lambda *_: None)
    model.activation_checkpointing_enable()
    return model


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_after_a_measurement(estimator: str) -> None:
    model = used_model()
    before = snapshot(model)
    token_signals(model, BATCH, SignalSpec(estimator=estimator))
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_after_an_exception(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = used_model()

    def fail(*_, **__):
        raise ZeroDivisionError

    if estimator.startswith("oracle"):
        monkeypatch.setattr(torch.linalg, "svdvals", fail)
    else:
        places = {"own": "own_backward.placed", "last": "last_layer.rank_one_norm", "full": "full.factored_norm"}
        monkeypatch.setattr(f"antiphase.signals.{places[estimator]}", fail)
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        token_signals(model, BATCH, SignalSpec(estimator=estimator))
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_after_an_exception_inside_the_models_forward(estimator: str) -> None:
    model = used_model()

    def fail(*_):
        raise KeyboardInterrupt

    handle = model.model.layers[2].mlp.register_forward_hook(fail)
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        token_signals(model, BATCH, SignalSpec(estimator=estimator))
    assert_same(before, snapshot(model))
    handle.remove()


def test_after_an_exception_inside_the_head() -> None:
    model = used_model()
    with torch.no_grad():
        model.lm_head.weight[40] = torch.nan
    before = snapshot(model)
    del before["parameters"]
    with pytest.raises(NonFiniteError, match="contain NaN"):
        token_signals(model, BATCH)
    after = snapshot(model)
    del after["parameters"]
    assert_same(before, after)


def test_training_mode_measures_as_evaluation_mode() -> None:
    # Dropout off, gradient checkpointing off: hooks fire once, values are the policy's.
    trained, plain = used_model(), tiny_model()
    for estimator in ("own", "last", "full", "oracle"):
        left, right = (token_signals(m, BATCH, SignalSpec(estimator=estimator)).strength for m in (trained, plain))
        torch.testing.assert_close(left, right, equal_nan=True, rtol=1e-5, atol=1e-7)


def test_inside_no_grad_and_inference_mode() -> None:
    model = tiny_model()
    expected = token_signals(model, BATCH).strength
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(token_signals(model, BATCH).strength.nan_to_num(), expected.nan_to_num())


def test_under_autocast() -> None:
    model = tiny_model()
    for estimator in ("own", "last", "full"):
        expected = token_signals(model, BATCH, SignalSpec(estimator=estimator)).strength
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = token_signals(model, BATCH, SignalSpec(estimator=estimator)).strength
        torch.testing.assert_close(mixed, expected, equal_nan=True, rtol=0.2, atol=0)


def test_generation_leaves_no_trace() -> None:
    model = used_model()
    from conftest import byte_tokenizer

    loaded = LoadedModel("tiny", model, byte_tokenizer(), None)
    before = snapshot(model)
    first = generate(loaded, [[5, 6], [7]], Sampling(max_new_tokens=6), [1, 2])
    assert_same(before, snapshot(model))
    torch.manual_seed(99)
    assert generate(loaded, [[5, 6], [7]], Sampling(max_new_tokens=6), [1, 2]) == first
    # What the checkpoint suggests for sampling is not applied.
    model.generation_config.update(repetition_penalty=9.0, min_p=0.9, top_k=1, max_new_tokens=2)
    suggested = model.generation_config
    assert generate(loaded, [[5, 6], [7]], Sampling(max_new_tokens=6), [1, 2]) == first
    assert model.generation_config is suggested
    assert generate(loaded, [[5, 6], [7]], Sampling(max_new_tokens=6), [2, 1]) != first


def test_norms_of_rank_one_and_factored_forms_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4, 7, 9, generator=generator, dtype=torch.float64)
    for norm, order in (("nuclear", "nuc"), ("frobenius", "fro"), ("l1", None)):
        explicit = delta.mT @ inputs
        truth = explicit.abs().sum((-2, -1)) if order is None else torch.linalg.matrix_norm(explicit, order)
        torch.testing.assert_close(norms.matrix_norm(explicit, norm), truth)
        torch.testing.assert_close(norms.factored_norm(delta, norms.shared_factor(inputs, norm), norm), truth)
        narrow = norms.factored_norm(delta.float(), norms.shared_factor(inputs.float(), norm), norm)
        torch.testing.assert_close(narrow.double(), truth, rtol=1e-5, atol=0)
        # The factor of a prefix is a prefix of the factor.
        short = norms.factored_norm(delta[:, :3], norms.shared_factor(inputs, norm)[:, :3], norm)
        cut = delta[:, :3].mT @ inputs[:, :3]
        cut_truth = cut.abs().sum((-2, -1)) if order is None else torch.linalg.matrix_norm(cut, order)
        torch.testing.assert_close(short, cut_truth)
        single = norms.rank_one_norm(delta[:, 0], inputs[:, 0], norm)
        outer = delta[:, 0, :, None] * inputs[:, 0, None]
        single_truth = outer.abs().sum((-2, -1)) if order is None else torch.linalg.matrix_norm(outer, order)
        torch.testing.assert_close(single, single_truth)
    zero = torch.zeros(2, 3, 3)
    assert norms.nuclear_norm(zero).tolist() == [0.0, 0.0]
