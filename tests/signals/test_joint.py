"""Strength of steps, `mean` and `joint`, against the oracles in float64, over architectures and paddings."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_estimators import DEFINITION, relative_error, rollouts

from antiphase.errors import InvalidInputError
from antiphase.signals.joint import StepFactors, per_length
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import ARCHITECTURES, pure_double, tiny_model


def steps_of(batch: TokenBatch, lengths=((3, 1, 5), (2, 3), (1, 4, 6, 1))) -> torch.Tensor:
    steps = torch.full_like(batch.input_ids, -1)
    for row, sizes in enumerate(lengths):
        steps[row, batch.completion_mask[row]] = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return steps


def measure(model, batch, estimator: str, *, last: bool = False, steps=None, **changes):
    layers = "last" if estimator == "last" or last else "all"
    spec = SignalSpec(estimator=estimator, layers=layers, **{"step_strength": "joint", **changes})
    return token_signals(model, batch, spec, steps=steps_of(batch) if steps is None else steps)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_joint_matches_definition_in_float64(architecture: str, estimator: str, side: str) -> None:
    batch = rollouts(side)
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        fast = measure(model, batch, estimator)
        truth = measure(model, batch, DEFINITION[estimator], last=estimator == "last")
    assert fast.steps is not None
    assert truth.steps is not None
    assert relative_error(fast.steps.strength_by_projection, truth.steps.strength_by_projection) <= 1e-8
    assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-8
    assert fast.steps.num_tokens.tolist() == [[3, 1, 5, 0], [2, 3, 0, 0], [1, 4, 6, 1]]
    for name in ("entropy", "position"):
        torch.testing.assert_close(
            getattr(fast.steps, name), getattr(truth.steps, name), equal_nan=True, rtol=1e-10, atol=1e-13
        )


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("norm", ["nuclear", "frobenius", "l1"])
@pytest.mark.parametrize("target", ["logit", "logprob"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2"])
def test_joint_norms_and_targets(architecture: str, estimator: str, norm: str, target: str) -> None:
    batch = rollouts()
    options = {"norm": norm, "target": target, "temperature": 0.7, "projections": ("V", "K", "O")}
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        fast = measure(model, batch, estimator, **options)
        truth = measure(model, batch, DEFINITION[estimator], last=estimator == "last", **options)
    assert relative_error(fast.steps.strength_by_projection, truth.steps.strength_by_projection) <= 1e-8


@pytest.mark.parametrize("estimator", ["own", "last", "full", "oracle", "oracle-own"])
def test_a_step_of_one_token_has_the_tokens_strength(estimator: str) -> None:
    batch = rollouts()
    steps = torch.where(batch.completion_mask, batch.completion_mask.cumsum(1) - 1, -1)
    with pure_double():
        found = measure(tiny_model(dtype=torch.float64), batch, estimator, steps=steps, last=estimator == "oracle")
    for row in range(len(batch)):
        mask = batch.completion_mask[row]
        length = int(mask.sum())
        torch.testing.assert_close(found.steps.strength[row, :length], found.strength[row, mask], rtol=1e-9, atol=0)
        torch.testing.assert_close(found.steps.entropy[row, :length], found.entropy[row, mask])
        assert found.steps.position[row, :length].tolist() == list(range(length))


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_mean_is_the_mean_of_the_measured_tokens(estimator: str) -> None:
    model, batch = tiny_model(), rollouts()
    steps = steps_of(batch)
    found = measure(model, batch, estimator, step_strength="mean", targets_per_rollout=4)
    for row in range(len(batch)):
        for step in range(int(found.steps.num_tokens.shape[1])):
            inside = steps[row] == step
            chosen = inside & found.measured[row]
            expected = found.strength[row, chosen].double().mean()
            torch.testing.assert_close(
                found.steps.strength[row, step].double(), expected, equal_nan=True, rtol=1e-6, atol=0
            )
            torch.testing.assert_close(
                found.steps.entropy[row, step].double(), found.entropy[row, inside].double().mean(), equal_nan=True
            )
    assert found.steps.measured.any()


@pytest.mark.parametrize("estimator", ["own", "last", "full", "oracle", "oracle-own"])
def test_steps_alone(estimator: str) -> None:
    model, batch = tiny_model("qwen3"), rollouts()
    whole = measure(model, batch, estimator, last=True)
    alone = measure(model, batch, estimator, last=True, targets_per_rollout=0)
    assert not alone.measured.any()
    assert alone.strength.isnan().all()
    torch.testing.assert_close(alone.steps.strength, whole.steps.strength, equal_nan=True, rtol=1e-5, atol=0)
    torch.testing.assert_close(alone.entropy, whole.entropy, equal_nan=True)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_tokens_do_not_change_with_steps(estimator: str) -> None:
    model, batch = tiny_model("llama-gqa"), rollouts()
    plain = token_signals(model, batch, SignalSpec(estimator=estimator))
    beside = measure(model, batch, estimator)
    assert torch.equal(plain.strength.nan_to_num(), beside.strength.nan_to_num())
    assert torch.equal(plain.entropy.nan_to_num(), beside.entropy.nan_to_num())


@pytest.mark.parametrize("estimator", ["own", "full"])
def test_prefixes_and_chunks_change_nothing(estimator: str) -> None:
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randint(3, 300, (40,), generator=generator).tolist()
    completions = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in (12, 5, 9, 12)]
    batch = TokenBatch.from_ids([prompt] * 4, completions)
    steps = steps_of(batch, ((3, 4, 5), (5,), (1, 8), (6, 6)))
    model = tiny_model()
    spec = SignalSpec(estimator=estimator, step_strength="joint")
    together = token_signals(model, batch, spec, steps=steps)
    apart = token_signals(model, batch, dataclasses.replace(spec, token_budget=1), steps=steps)
    torch.testing.assert_close(together.steps.strength, apart.steps.strength, equal_nan=True, rtol=1e-4, atol=0)


def test_an_empty_completion_has_no_steps() -> None:
    batch = TokenBatch.from_ids([[5, 6], [7, 8]], [[9, 4, 3], []])
    steps = torch.tensor([[-1, -1, 0, 0, 1], [-1] * 5])
    for estimator in ("own", "last", "full"):
        found = measure(tiny_model(), batch, estimator, steps=steps).steps
        assert found.strength[0].isfinite().all()
        assert found.strength[1].isnan().all()
        assert found.num_tokens.tolist() == [[2, 1], [0, 0]]


def test_a_number_without_tokens_is_an_undefined_step() -> None:
    batch = TokenBatch.from_ids([[5, 6]], [[9, 4, 3]])
    steps = torch.tensor([[-1, -1, 0, 2, 2]])
    for estimator in ("own", "last", "full", "oracle"):
        found = measure(tiny_model(), batch, estimator, steps=steps).steps
        assert found.strength[0].isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (torch.zeros(1, 4, dtype=torch.long), "shape of the batch"),
        (torch.tensor([[-1, -1, 0, -1, 1]]), "from 0 upwards"),
        (torch.tensor([[-1, -1, 1, 0, 1]]), "from 0 upwards"),
        (torch.tensor([[-1.0, -1.0, 0.0, 0.0, 1.0]]), "whole numbers"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_steps_that_do_not_fit_are_refused(steps: torch.Tensor, message: str) -> None:
    batch = TokenBatch.from_ids([[5, 6]], [[9, 4, 3]])
    with pytest.raises(InvalidInputError, match=message):
        measure(tiny_model(), batch, "own", steps=steps)


def test_nothing_to_measure_is_refused() -> None:
    batch = TokenBatch.from_ids([[5, 6]], [[9, 4, 3]])
    with pytest.raises(InvalidInputError, match="nothing would be measured"):
        token_signals(tiny_model(), batch, SignalSpec(targets_per_rollout=0, step_strength="joint"))
    with pytest.raises(InvalidInputError, match="at least 1"):
        SignalSpec(targets_per_rollout=0)


@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=7),
    norm=st.sampled_from(["nuclear", "frobenius", "l1"]),
    seed=st.integers(0, 99),
)
def test_factored_norms_of_sums_are_those_of_explicit_matrices(lengths: list[int], norm: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    delta = torch.randn(len(steps), 9, dtype=torch.float64, generator=generator)
    inputs = torch.randn(len(steps), 7, dtype=torch.float64, generator=generator)
    found = StepFactors(steps, len(lengths), norm).norms([delta], [inputs], (0,))[0]
    scaled = per_length(found[:, None, None], steps).flatten()
    for step, length in enumerate(lengths):
        chosen = steps == step
        matrix = delta[chosen].mT @ inputs[chosen]
        expected = {
            "nuclear": torch.linalg.svdvals(matrix).sum(),
            "frobenius": matrix.norm(),
            "l1": matrix.abs().sum(),
        }[norm]
        torch.testing.assert_close(found[step], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(scaled[step], expected / length**0.9, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("estimator", ["own", "last", "full", "oracle", "oracle-own"])
def test_magnitudes_are_those_of_the_models_own_pass(architecture: str, estimator: str) -> None:
    batch = rollouts()
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        found = token_signals(
            model, batch, SignalSpec(estimator=estimator, layers="last", temperature=0.5, targets_per_rollout=1)
        ).magnitudes
        row, column = 1, 6
        ids = batch.input_ids[row : row + 1, : column + 1]
        inner = []
        outside = [m for n, m in model.named_modules() if not any(part.isdecimal() for part in n.split("."))]
        norm = [module for module in outside if "norm" in type(module).__name__.lower()][-1]
        handle = norm.register_forward_hook(lambda _, args, output: inner.append((args[0], output)))
        logits = model(input_ids=ids).logits[0, -2]
        handle.remove()
    before, after = inner[0]
    weight = model.get_output_embeddings().weight[ids[0, -1]]
    for name, expected in (
        ("logit", logits[ids[0, -1]]),
        ("hidden_norm", after[0, -2].norm()),
        ("hidden_norm_before", before[0, -2].norm()),
        ("unembedding_norm", weight.norm()),
    ):
        torch.testing.assert_close(getattr(found, name)[row, column], expected.detach(), rtol=1e-9, atol=1e-12)
        assert torch.equal(getattr(found, name).isfinite(), batch.completion_mask), name
