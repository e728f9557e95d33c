"""Coefficients against scipy, hand-computed cases, and coverage of the intervals by simulation."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from antiphase.errors import InvalidInputError
from antiphase.statistics.correlation import average_ranks, by_group, coefficients, correlate
from antiphase.statistics.effective_size import effective_pairs
from antiphase.statistics.partial_correlation import partial_coefficients, pooled_partial
from antiphase.statistics.pooled_correlation import pooled_correlation
from antiphase.types import SignalSpec, StepSignals, TokenSignals
from coverage_cases import autoregressive_series as autoregressive

# Few distinct values, so that ties abound.
series = st.lists(st.integers(-4, 4).map(float), min_size=3, max_size=40)


@given(st.data())
def test_equals_scipy_with_ties_and_masks(data: st.DataObject) -> None:
    x = data.draw(series)
    y = data.draw(st.lists(st.floats(-1e3, 1e3, width=32), min_size=len(x), max_size=len(x)))
    mask = data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x)))
    kept_x, kept_y = np.array(x)[mask], np.array(y)[mask]
    for method, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        ours = coefficients(
            torch.tensor([x]),
            torch.tensor([y], dtype=torch.float64),
            torch.tensor([mask]),
            method=method,
            min_tokens=2,
        ).item()
        if len(kept_x) < 2 or np.ptp(kept_x) == 0 or np.ptp(kept_y) == 0:
            assert math.isnan(ours)
        else:
            # scipy's pearsonr overflows its own centring on nearly constant series; ranks never do.
            spread = np.ptp(kept_y) / max(1.0, np.abs(kept_y).max())
            if method == "spearman" or spread > 1e-6:
                assert ours == pytest.approx(reference(kept_x, kept_y).statistic, abs=1e-12)


@given(series)
def test_ranks_equal_scipy(values: list[float]) -> None:
    ours = average_ranks(torch.tensor([values]), torch.ones(1, len(values), dtype=torch.bool))
    assert ours[0].tolist() == stats.rankdata(values).tolist()


@given(st.integers(0, 2**31), st.floats(0.1, 50), st.floats(-20, 20))
def test_affine_and_monotone_invariance(seed: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 1, 30, generator=generator, dtype=torch.float64)
    for method in ("spearman", "pearson"):
        value = coefficients(x, y, method=method)
        torch.testing.assert_close(coefficients(x * scale + shift, y, method=method), value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(coefficients(-x, y, method=method), -value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(coefficients(x.exp(), y), coefficients(x, y))


def test_padding_changes_nothing() -> None:
    x, y = torch.randn(2, 3, 20, dtype=torch.float64)
    mask = torch.ones(3, 20, dtype=torch.bool)
    wide_x, wide_y, wide_mask = (torch.nn.functional.pad(t, (4, 7)) for t in (x, y, mask))
    torch.testing.assert_close(coefficients(wide_x, wide_y, wide_mask), coefficients(x, y, mask), rtol=0, atol=1e-14)
    left, right = correlate(wide_x, wide_y, mask=wide_mask), correlate(x, y)
    for a, b in zip(left, right, strict=True):
        assert a.low == pytest.approx(b.low, abs=1e-12)
        assert a.num_effective == pytest.approx(b.num_effective, rel=1e-12)


def test_undefined_is_nan_with_a_count() -> None:
    constant, line = torch.ones(9), torch.arange(9.0)
    for x, y in ((constant, line), (line, constant), (line[:7], line[:7]), (line * torch.nan, line)):
        (result,) = correlate(x, y)
        assert not result.defined
        assert math.isnan(result.value)
        assert math.isnan(result.low)
        assert math.isnan(result.inversion)
    assert correlate(line[:7], line[:7])[0].num_tokens == 7
    # 0.1 has no exact square: centring leaves rounding noise that must not count as variation.
    assert not correlate(torch.full((50,), 0.1), torch.randn(50))[0].defined


def test_infinite_values_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="infinite"):
        correlate(torch.tensor([1.0, math.inf, 2.0]), torch.arange(3.0))


def test_shape_mismatch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\(3,\) and \(4,\)"):
        correlate(torch.arange(3.0), torch.arange(4.0))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "function", [correlate, coefficients, pooled_correlation, partial_coefficients, pooled_partial]
)
def test_an_unknown_method_is_refused(function: Callable) -> None:
    x = torch.arange(20.0)
    series = (x[None], x[None]) if function in (coefficients, partial_coefficients) else (x, x)
    given = [[series[0]]] if function in (partial_coefficients, pooled_partial) else []
    clusters = [torch.arange(20)] if function in (pooled_correlation, pooled_partial) else []
    function(*series, *given, *clusters, method="pearson")
    with pytest.raises(InvalidInputError, match="method must be one of spearman, pearson; got 'kendall'"):
        function(*series, *given, *clusters, method="kendall")


def test_fisher_interval_by_hand() -> None:
    # White noise of known n_eff: compare with the formula written out.
    x = torch.tensor([1.0, 5, 2, 8, 3, 9, 4, 7, 6, 0, 11, 10])
    y = torch.tensor([2.0, 1, 7, 3, 9, 5, 0, 8, 4, 6, 10, 11])
    for method, factor in (("spearman", lambda r: 1 + r**2 / 2), ("pearson", lambda r: 1.0)):
        (result,) = correlate(x, y, method=method)
        reach = 1.959963984540054 * math.sqrt(factor(result.value) / (result.num_effective - 3))
        assert result.low == pytest.approx(math.tanh(math.atanh(result.value) - reach), abs=1e-12)
        assert result.high == pytest.approx(math.tanh(math.atanh(result.value) + reach), abs=1e-12)


def test_effective_pairs_by_hand() -> None:
    # Direct double sum over lags for a series with gaps.
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 25, generator=generator, dtype=torch.float64).cumsum(-1)
    mask = torch.rand(1, 25, generator=generator) < 0.7
    mask[0, 0] = mask[0, -1] = True
    n = int(mask.sum())
    cx = (x - x[mask].mean()).masked_fill(~mask, 0)
    cy = (y - y[mask].mean()).masked_fill(~mask, 0)
    total = 0.0
    for lag in range(1, 25):
        both = mask[0, lag:] & mask[0, : 25 - lag]
        pairs = int(both.sum())
        if pairs:
            taper = (1 - lag / 25) * n / pairs
            rx = float((cx[0, lag:] * cx[0, : 25 - lag]).sum() / (cx**2).sum()) * taper
            ry = float((cy[0, lag:] * cy[0, : 25 - lag]).sum() / (cy**2).sum()) * taper
            total += pairs * rx * ry
    expected = n / max(1.0, 1 + 2 * total / n)
    assert effective_pairs(cx, cy, mask).item() == pytest.approx(expected, rel=1e-9)


def test_by_group_averages_each_id() -> None:
    means = by_group(torch.tensor([1.0, 3, 5]), torch.tensor([2.0, 4, 9]), torch.tensor([7, 7, 1]))
    assert [m.tolist() for m in means] == [[5.0, 2.0], [9.0, 3.0]]
    x, y, ids = torch.randn(40), torch.randn(40), torch.randint(0, 12, (40,))
    (result,) = correlate(x, y, token_ids=ids)
    averaged = by_group(x, y, ids)
    assert result.num_tokens == len(ids.unique())
    assert result.value == pytest.approx(stats.spearmanr(*averaged).statistic, abs=1e-12)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize(("phi", "length"), [(0.0, 256), (0.5, 256), (0.8, 128), (0.8, 512)])
def test_rollout_interval_covers(phi: float, length: int, method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (autoregressive((600, length), phi, generator) for _ in range(2))
    covered = np.mean([c.low <= 0 <= c.high for c in correlate(x, y, method=method)])
    # 600 replicates: ±1.8 points of noise at two standard errors. The i.i.d. interval covers 66 % at φ = 0.8.
    assert 0.92 <= covered <= 0.985


def test_nothing_at_all_is_undefined() -> None:
    empty = torch.zeros(0)
    assert not correlate(empty, empty)[0].defined
    assert not correlate(empty, empty, token_ids=empty.long())[0].defined
    assert not pooled_correlation(torch.ones(9), torch.full((9,), torch.nan), torch.arange(9)).defined
    nothing = torch.zeros(9, dtype=torch.bool)
    assert not correlate(torch.randn(9), torch.randn(9), mask=nothing, token_ids=torch.arange(9))[0].defined


def test_groups_of_equal_values_tie() -> None:
    # 0.1 + 0.1 + 0.1 is not 0.3: means by division alone would differ.
    values = torch.full((6,), 0.1, dtype=torch.float64)
    means = by_group(values, torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 2]))[0]
    assert means.tolist() == [0.1, 0.1, 0.1]
    ids = torch.arange(60) % 11
    constant = torch.full((60,), 0.1, dtype=torch.float64)
    assert not pooled_correlation(torch.randn(60), constant, torch.arange(60) // 10, token_ids=ids).defined


def test_types_stand_at_all_their_places() -> None:
    # The double sum over places, weights 1/occurrences, written out.
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 30, generator=generator, dtype=torch.float64).cumsum(-1)
    ids = torch.randint(0, 14, (30,), generator=generator)
    (result,) = correlate(x, y, token_ids=ids)
    distinct, place, occurrences = ids.unique(return_inverse=True, return_counts=True)
    ranks = [stats.rankdata(series) - (len(distinct) + 1) / 2 for series in by_group(x, y, ids)]
    weights, num = 1 / occurrences[place].double().numpy(), len(distinct)
    a, b = (series[place.numpy()] * np.sqrt(weights) for series in ranks)
    total = 0.0
    for lag in range(1, 30):
        products = [(s[lag:] * s[:-lag]).sum() / (s @ s) * (1 - lag / 30) * num for s in (a, b)]
        total += products[0] * products[1] / (weights[lag:] * weights[:-lag]).sum()
    assert result.num_effective == pytest.approx(num / max(1.0, 1 + 2 * total / num), rel=1e-9)
    assert result.num_effective < num


def test_units_of_a_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 20, generator=generator)
    ids = torch.randint(0, 12, (2, 20), generator=generator)
    assert [c.unit for c in correlate(x, y)] == ["token", "token"]
    assert [c.unit for c in correlate(x, y, token_ids=ids)] == ["type", "type"]
    # Named, the unit decides: ids change nothing for tokens and steps.
    assert correlate(x, y, unit="token", token_ids=ids) == correlate(x, y)
    steps = correlate(x, y, unit="step", token_ids=ids)
    assert [(c.value, c.low, c.unit) for c in steps] == [(c.value, c.low, "step") for c in correlate(x, y)]
    clusters = torch.arange(2).repeat_interleave(20)
    assert pooled_correlation(x.flatten(), y.flatten(), clusters, unit="step").unit == "step"
    # Five steps are enough, seven tokens or types are not.
    assert correlate(x[:, :5], y[:, :5], unit="step")[0].defined
    assert not correlate(x[:, :7], y[:, :7])[0].defined
    assert not correlate(x[:, :7], y[:, :7], token_ids=torch.arange(7).expand(2, 7))[0].defined
    assert not correlate(x[:, :4], y[:, :4], unit="step")[0].defined
    for refused in ({"unit": "type"}, {"token_ids": ids[:, 1:]}, {"mask": ids[:1] > 0}):
        with pytest.raises(InvalidInputError):
            correlate(x, y, **refused)


def test_steps_of_signals() -> None:
    generator = torch.Generator().manual_seed(0)
    entropy, strength = torch.randn(2, 2, 9, generator=generator)
    steps = StepSignals(entropy, strength, torch.zeros(2, 9, 1, 1), torch.ones(2, 9, dtype=torch.long), entropy)
    nothing = torch.full((2, 40), torch.nan)
    spec = SignalSpec()
    signals = TokenSignals(
        *[nothing] * 3, torch.full((2, 40, 1, 1), torch.nan), nothing, nothing, nothing > 0, (0,), spec, steps=steps
    )
    assert correlate(signals, unit="step") == correlate(entropy, strength, unit="step")
    with pytest.raises(InvalidInputError, match="no steps"):
        correlate(replace(signals, steps=None), unit="step")


def test_perfect_order_of_few_steps_is_not_certain() -> None:
    x = torch.tensor([0.0, 1, 5, 2, 4, 3])  # hardly autocorrelated
    (result,) = correlate(x, x.exp(), unit="step")
    assert result.value == pytest.approx(1, abs=1e-12)
    center = 1 - 6 / (6 * 35)
    reach = 1.959963984540054 * math.sqrt((1 + center**2 / 2) / (result.num_effective - 3))
    assert result.low == pytest.approx(math.tanh(math.atanh(center) - reach), abs=1e-12)
    assert 0 < result.low < 0.9
    assert result.high >= result.value
