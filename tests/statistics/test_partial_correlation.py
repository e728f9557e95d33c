"""Partial correlations against residuals by lstsq and scipy, the formula for one given series, and repeated rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from antiphase.errors import InvalidInputError
from antiphase.statistics.correlation import MIN_STEPS, MIN_TOKENS, by_group, coefficients
from antiphase.statistics.correlation_matrices import partial_from, token_matrices, type_matrices
from antiphase.statistics.partial_correlation import partial_coefficients, pooled_partial
from antiphase.statistics.pooled_correlation import pooled_correlation
from antiphase.statistics.resampling import Resampler


def reference(x, y, fixed, method: str) -> float:
    """Correlation of the residuals of least-squares fits, by numpy and scipy."""
    rank = stats.rankdata if method == "spearman" else np.asarray
    x, y, *fixed = (rank(series).astype(np.float64) for series in (x, y, *fixed))
    design = np.column_stack([np.ones(len(x)), *fixed])
    rest = [series - design @ np.linalg.lstsq(design, series, rcond=None)[0] for series in (x, y)]
    return stats.pearsonr(*rest).statistic


def sample(seed: int, num: int, num_given: int) -> list[torch.Tensor]:
    """Correlated series, some of them with ties."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(num, generator=generator, dtype=torch.float64)
    own = torch.randn(2 + num_given, num, generator=generator, dtype=torch.float64)
    return [(common + series).round(decimals=place % 3) for place, series in enumerate(own)]


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(12, 60))
def test_equals_least_squares(seed: int, num_given: int, num: int) -> None:
    x, y, *fixed = sample(seed, num, num_given)
    for method in ("spearman", "pearson"):
        ours = partial_coefficients(x[None], y[None], [series[None] for series in fixed], method=method)
        assert ours.item() == pytest.approx(reference(x, y, fixed, method), abs=1e-10)


def test_equals_the_formula_for_one_and_for_two() -> None:
    x, y, first, second = sample(0, 200, 2)

    def rho(a, b, *fixed):
        if not fixed:
            return stats.spearmanr(a, b).statistic
        (last, *others) = fixed
        ab, ag, bg = rho(a, b, *others), rho(a, last, *others), rho(b, last, *others)
        return (ab - ag * bg) / math.sqrt((1 - ag**2) * (1 - bg**2))

    for fixed in ([first], [first, second]):
        ours = partial_coefficients(x[None], y[None], [series[None] for series in fixed])
        assert ours.item() == pytest.approx(rho(x, y, *fixed), abs=1e-12)


def test_nothing_given_is_the_correlation_itself() -> None:
    rows = torch.stack([torch.stack(sample(seed, 40, 0)) for seed in range(5)])
    mask = torch.rand(5, 40, generator=torch.Generator().manual_seed(1)) < 0.7
    ours = partial_coefficients(rows[:, 0], rows[:, 1], [], mask)
    torch.testing.assert_close(ours, coefficients(rows[:, 0], rows[:, 1], mask), rtol=0, atol=1e-12)


def test_what_adds_nothing_changes_nothing() -> None:
    x, y, fixed = (series[None] for series in sample(3, 50, 1))
    value = partial_coefficients(x, y, [fixed])
    for more in (torch.full((1, 50), 0.1), fixed, fixed.exp(), -fixed):
        for series in ([fixed, more], [more, fixed]):
            torch.testing.assert_close(partial_coefficients(x, y, series), value, rtol=0, atol=1e-9)
    # By values, not by ranks: the sum of two series adds nothing to both.
    other = torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = partial_coefficients(x, y, [fixed, other], method="pearson")
    three = partial_coefficients(x, y, [fixed, other, fixed + other], method="pearson")
    torch.testing.assert_close(three, both, rtol=0, atol=1e-9)


def test_undefined_where_nothing_is_left() -> None:
    x, y, fixed = (series[None] for series in sample(4, 50, 1))
    for series in ([x], [y], [x.exp()], [fixed, -y], [x, fixed]):
        assert partial_coefficients(x, y, series).isnan().all()
    for method in ("spearman", "pearson"):
        assert partial_coefficients(torch.full((1, 50), 0.1), y, [fixed], method=method).isnan().all()
    assert not pooled_partial(x[0], y[0], [x[0]], torch.arange(50) // 10).defined


def test_needs_an_item_more_for_each_series_given() -> None:
    generator = torch.Generator().manual_seed(5)
    for least, options in ((MIN_TOKENS, {}), (MIN_STEPS, {"unit": "step"}), (4, {"min_tokens": 4})):
        x, y, first, second = torch.randn(4, 1, least + 1, generator=generator)
        assert partial_coefficients(x, y, [first], **options).isfinite().all()
        assert partial_coefficients(x, y, [first, second], **options).isnan().all()
        # Shorter by a place that one of them lacks.
        hole = first.clone()
        hole[0, 2] = torch.nan
        assert partial_coefficients(x, y, [hole], **options).isnan().all()
        clusters = torch.arange(least + 1) % 3
        assert pooled_partial(x[0], y[0], [first[0]], clusters, **options).defined
        assert not pooled_partial(x[0], y[0], [first[0], second[0]], clusters, **options).defined


def test_padding_and_rows_do_not_matter() -> None:
    rows = torch.stack([torch.stack(sample(seed, 30, 2)) for seed in range(4)], dim=1)
    alone = torch.cat(
        [partial_coefficients(*(s[k : k + 1] for s in rows[:2]), [s[k : k + 1] for s in rows[2:]]) for k in range(4)]
    )
    padded = torch.nn.functional.pad(rows, (3, 5), value=torch.nan)
    together = partial_coefficients(padded[0], padded[1], list(padded[2:]))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_shapes_and_infinities_are_refused() -> None:
    x = torch.randn(1, 20)
    with pytest.raises(InvalidInputError, match=r"\(1, 20\), \(1, 20\), \(1, 19\)"):
        partial_coefficients(x, x, [x[:, 1:]])
    with pytest.raises(InvalidInputError, match="infinite"):
        partial_coefficients(x, x, [x.masked_fill(x > 0, torch.inf)])
    with pytest.raises(InvalidInputError, match="token_ids"):
        pooled_partial(x[0], x[0], [x[0]], torch.arange(20), unit="type")


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_resampled_matrices_equal_repeated_rows(method: str) -> None:
    x, y, first, second = series = sample(6, 30, 2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 12, (30,), generator=generator)
    weights = torch.randint(0, 4, (3, 30), generator=generator).double()
    resampler = Resampler(torch.arange(30), 30, weights)
    tokens = partial_from(token_matrices(torch.stack(series), resampler, method), 0, 1, [2, 3])
    types = partial_from(type_matrices(torch.stack(series), ids, resampler, method), 0, 1, [2, 3])
    for row in range(3):
        again = weights[row].long()
        repeated = [each.repeat_interleave(again) for each in (x, y, first, second)]
        assert tokens[row].item() == pytest.approx(reference(*repeated[:2], repeated[2:], method), abs=1e-10)
        groups = ids.repeat_interleave(again)
        means = [by_group(each, each, groups)[0] for each in repeated]
        assert types[row].item() == pytest.approx(reference(*means[:2], means[2:], method), abs=1e-10)


def test_pooled_value_and_interval() -> None:
    x, y, fixed = sample(7, 300, 1)
    clusters, ids = torch.arange(300) // 25, torch.randint(0, 60, (300,), generator=torch.Generator().manual_seed(0))
    result = pooled_partial(x, y, [fixed], clusters, seed=3)
    assert result.value == pytest.approx(reference(x, y, [fixed], "spearman"), abs=1e-12)
    assert result.low < result.value < result.high
    assert result == pooled_partial(x, y, [fixed], clusters, seed=3)
    types = pooled_partial(x, y, [fixed], clusters, token_ids=ids)
    means = [by_group(each, each, ids)[0] for each in (x, y, fixed)]
    assert types.value == pytest.approx(reference(*means[:2], means[2:], "spearman"), abs=1e-12)
    assert (types.unit, types.num_tokens) == ("type", len(ids.unique()))
    assert types.low < types.value < types.high
    # With nothing given it is the pooled correlation, interval and all.
    for options in ({}, {"token_ids": ids}, {"unit": "step"}, {"method": "pearson"}):
        plain, ours = pooled_correlation(x, y, clusters, **options), pooled_partial(x, y, [], clusters, **options)
        assert (ours.unit, ours.num_tokens, ours.method) == (plain.unit, plain.num_tokens, plain.method)
        assert [ours.value, ours.low, ours.high] == pytest.approx([plain.value, plain.low, plain.high], abs=1e-9)


def test_no_items_at_all() -> None:
    nothing = torch.full((9,), torch.nan)
    assert not pooled_partial(nothing, nothing, [nothing], torch.arange(9)).defined
    assert partial_coefficients(torch.zeros(2, 0), torch.zeros(2, 0), []).isnan().all()
