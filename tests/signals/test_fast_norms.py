"""The way of a GPU to nuclear norms (products in place of solvers), taken on the CPU and compared with the solvers."""

import pytest
import torch
from test_joint import steps_of

from antiphase.signals import norms
from antiphase.signals.gram_root import trace_of_root
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import tiny_model


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(norms, "_multiplies_double", lambda device: True)


@pytest.mark.parametrize("spectrum", ["flat", "1/k", "1/k2", "low rank", "one", "none"])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_trace_of_root_is_the_sum_of_the_singular_values(spectrum: str, size: int) -> None:
    places = torch.arange(1, size + 1, dtype=torch.float64)
    values = {
        "flat": torch.ones_like(places),
        "1/k": 1 / places,
        "1/k2": 1 / places**2,
        "low rank": (places <= max(1, size // 4)).double(),
        "one": (places == 1).double(),
        "none": torch.zeros_like(places),
    }[spectrum]
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(size)).double()).Q
    gram = basis @ torch.diag(values**2) @ basis.mT
    assert trace_of_root(gram).item() == pytest.approx(values.sum().item(), rel=2e-5, abs=1e-12)


def test_equal_tokens_and_padding_have_a_factor(fast) -> None:
    row = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([row, row, torch.zeros_like(row), row], 0)[None]
    delta = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(1))
    found = norms.factored_norm(delta, norms.shared_factor(inputs, "nuclear"), "nuclear")
    truth = torch.linalg.svdvals(delta[0].double().mT @ inputs[0].double()).sum()
    assert found.item() == pytest.approx(truth.item(), rel=1e-4)


def test_where_the_fast_way_fails_the_solver_takes_over(fast, monkeypatch) -> None:
    monkeypatch.setattr(norms, "trace_of_root", lambda gram: gram.new_full(gram.shape[:-2], torch.nan))
    monkeypatch.setattr(
        torch.linalg,
        "cholesky_ex",
        lambda gram: (gram * torch.nan, torch.ones(gram.shape[:-2], dtype=torch.int32)),
    )
    inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    delta = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))
    found = norms.factored_norm(delta, norms.shared_factor(inputs, "nuclear"), "nuclear")
    truth = torch.linalg.svdvals(delta.double().mT @ inputs.double()).sum(-1)
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_estimators_agree_with_the_solvers(estimator: str, monkeypatch) -> None:
    # The second row repeats a token, so that inputs of the first layer are equal.
    batch = TokenBatch.from_ids([[5, 6, 7], [0, 1, 0]], [[9, 9, 4, 3, 8], [1, 1, 0, 1, 7]])
    steps = steps_of(batch, ((2, 3), (4, 1)))
    spec = SignalSpec(estimator=estimator, step_strength="joint")
    slow = token_signals(tiny_model("qwen3"), batch, spec, steps=steps)
    monkeypatch.setattr(norms, "_multiplies_double", lambda device: True)
    found = token_signals(tiny_model("qwen3"), batch, spec, steps=steps)
    torch.testing.assert_close(found.strength, slow.strength, equal_nan=True, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.steps.strength, slow.steps.strength, equal_nan=True, rtol=1e-4, atol=0)
