"""Intervals from counts of items in bins agree with those of the exact resamples."""

import time

import pytest
import torch

from antiphase.statistics import correlation_matrices, many_items, pooled_correlation
from antiphase.statistics.correlation_matrices import token_matrices
from antiphase.statistics.many_items import MANY_ITEMS, matrices_of_many
from antiphase.statistics.partial_correlation import pooled_partial
from antiphase.statistics.resampling import Resampler
from intervals import series


@pytest.mark.parametrize("kind", ["smooth", "tied", "uneven"])
def test_ends_of_the_interval_at_50_000_items(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = series(50_000, kind)
    exact = pooled_correlation.pooled_correlation(*data, num_resamples=300)
    monkeypatch.setattr(pooled_correlation, "MANY_ITEMS", 1)
    counted = pooled_correlation.pooled_correlation(*data, num_resamples=300)
    assert counted.value == exact.value
    assert exact.high - exact.low > 0.02
    assert counted.low == pytest.approx(exact.low, abs=5e-4)
    assert counted.high == pytest.approx(exact.high, abs=5e-4)


@pytest.mark.parametrize(("method", "tolerance"), [("spearman", 5e-4), ("pearson", 1e-11)])
def test_every_resample_and_every_pair(method, tolerance, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, clusters = series(20_000, num_prompts=30)
    rows = torch.stack([x, y, x * y, torch.full_like(x, 0.1)])
    resampler = Resampler.of(clusters, 40, 1)
    exact = token_matrices(rows, resampler, method)
    counted = matrices_of_many(rows, resampler, method)
    torch.testing.assert_close(counted, exact, rtol=0, atol=tolerance)
    assert bool((counted[:, 3] == 0).all())
    monkeypatch.setattr(correlation_matrices, "MANY_ITEMS", len(x))
    assert torch.equal(token_matrices(rows, resampler, method), counted)


def test_a_series_that_is_constant_in_a_resample() -> None:
    # Every item of a prompt has the same value, and the first resample draws one prompt alone.
    clusters = torch.arange(6000) % 3
    generator = torch.Generator().manual_seed(3)
    rows = torch.stack([clusters.double() + 0.1, torch.randn(6000, generator=generator).double()])
    resampler = Resampler(clusters, 3, torch.tensor([[3.0, 0, 0], [1, 1, 1]], dtype=torch.float64))
    for method in ("spearman", "pearson"):
        found = matrices_of_many(rows, resampler, method)
        assert (found[0, 0] == 0).all()
        assert found[0, 1, 1] == pytest.approx(1)
        assert found[1, 0, 1] != 0


def test_few_values_are_exact() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, many_items.BINS, (2, 5000), generator=generator).double()
    resampler = Resampler.of(torch.arange(5000) % 17, 25, 0)
    exact = token_matrices(rows, resampler, "spearman")
    torch.testing.assert_close(matrices_of_many(rows, resampler, "spearman"), exact, rtol=0, atol=1e-12)


def test_partial_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, clusters = series(30_000, num_prompts=50)
    given = [(x + y).exp()]
    exact = pooled_partial(x, y, given, clusters, num_resamples=100)
    monkeypatch.setattr(correlation_matrices, "MANY_ITEMS", 1)
    counted = pooled_partial(x, y, given, clusters, num_resamples=100)
    assert (counted.low, counted.high) == pytest.approx((exact.low, exact.high), abs=2e-3)


def test_a_million_tokens_take_seconds() -> None:
    data = series(10 * MANY_ITEMS)
    start = time.process_time()
    found = pooled_correlation.pooled_correlation(*data)
    # About 2 s of one thread; the exact resamples would take minutes.
    assert time.process_time() - start < 30
    assert found.low < found.value < found.high
