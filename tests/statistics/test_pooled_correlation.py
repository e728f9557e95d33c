"""Correlations over all rollouts, and their intervals over prompts: resamples, coverage and edge cases."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from antiphase.errors import InvalidInputError
from antiphase.statistics.correlation import by_group, coefficients
from antiphase.statistics.correlation_matrices import type_matrices
from antiphase.statistics.partial_correlation import pooled_partial
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.statistics.resampling import Resampler
from coverage_cases import autoregressive_series as autoregressive


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("entropy", "strength", "clusters", "more", "message"),
    [
        ((2, 9), (2, 9), (2,), {}, r"signals.entropy\[signals.measured\]"),
        ((9,), (8,), (9,), {}, r"entropy \(9,\), strength \(8,\)"),
        ((9,), (9,), (8,), {}, r"clusters \(8,\)"),
        ((9,), (9,), (9,), {"token_ids": torch.zeros(8, dtype=torch.long)}, r"token_ids \(8,\)"),
        ((9,), (9,), (9,), {"confidence": 95}, "between 0 and 1; got 95"),
    ],
)
def test_what_pooling_refuses(entropy, strength, clusters, more, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        pooled_correlation(
            torch.randn(entropy), torch.randn(strength), torch.zeros(clusters, dtype=torch.long), **more
        )


@pytest.mark.usefixtures("unchecked")
def test_partial_pooling_refuses_other_clusters() -> None:
    x = torch.randn(9)
    with pytest.raises(InvalidInputError, match=r"\(9,\), \(9,\), \(9,\), \(8,\)"):
        pooled_partial(x, x, [x], torch.arange(8))


def test_pooled_interval_covers() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(num_prompts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        offsets = torch.randn(2, num_prompts, 1, generator=generator, dtype=torch.float64) * 0.5
        slope = -0.4 + 0.3 * torch.randn(num_prompts, 1, generator=generator, dtype=torch.float64)
        x = autoregressive((num_prompts, 30), 0.6, generator)
        y = slope * x + autoregressive((num_prompts, 30), 0.6, generator) + offsets[1]
        return (x + offsets[0]).flatten(), y.flatten(), torch.arange(num_prompts).repeat_interleave(30)

    x, y, _ = draw(20000)
    truth = coefficients(x[None], y[None]).item()
    hits = 0
    for seed in range(300):
        x, y, clusters = draw(12)
        result = pooled_correlation(x, y, clusters, num_resamples=200, seed=seed)
        hits += result.low <= truth <= result.high
    assert 0.92 <= hits / 300 <= 0.98


def test_perfect_resamples_do_not_blow_up_the_interval() -> None:
    # Four prompts: a resample of one prompt alone may be perfectly correlated.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, generator=generator, dtype=torch.float64)
    y = x + 0.03 * torch.randn(40, generator=generator, dtype=torch.float64)
    result = pooled_correlation(x, y, torch.arange(40) // 10)
    assert 0.99 < result.value < 1
    assert 0.9 < result.low < result.value < result.high <= 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ids", [None, torch.arange(80) % 9])
@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_pooled_perfect_order_is_not_certain(sign: int, ids, method) -> None:
    # With C prompts as C ranks: 8 in perfect order, half an adjacent swap less, have n_eff − 3 = 5.
    x = torch.arange(80.0)
    most = 1 - 6 / (8 * 63)
    end = math.tanh(math.atanh(most) - 1.959964 * math.sqrt((1 + most**2 / 2) / 5))
    result = pooled_correlation(x, sign * x, torch.arange(80) // 10, token_ids=ids, method=method)
    assert result.value == pytest.approx(sign)
    assert sorted([sign * result.low, sign * result.high]) == pytest.approx([end, 1], abs=1e-6)
    three = pooled_correlation(x, sign * x, torch.arange(80) // 30, token_ids=ids, method=method)
    assert three.defined
    assert math.isnan(three.low)
    assert math.isnan(three.high)
    within = mean_within(torch.full((8,), float(sign)), torch.arange(8))
    assert [within.low, within.high] == pytest.approx([result.low, result.high])


def test_two_prompts_have_an_end_on_each_side_of_the_value() -> None:
    # All resamples lie above the pooled ρ: the lower end is as far from it as the upper one.
    resampler = Resampler.of(torch.tensor([0, 0, 1, 1]), 100, 0)
    low, high = resampler.interval(-0.5, torch.linspace(-0.5, -0.4, 100, dtype=torch.float64), 0.95)
    assert low < -0.5 < high
    assert math.atanh(-0.5) - math.atanh(low) == pytest.approx(math.atanh(high) - math.atanh(-0.5))


def test_resampling_weights_equal_repeated_rows() -> None:
    from antiphase.statistics.pooled_correlation import _statistic

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (30,), generator=generator).double()
    y = torch.randn(30, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 9, (30,), generator=generator)
    weights = torch.randint(0, 4, (3, 30), generator=generator).double()
    for method, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        ours = _statistic(x, y, method)(weights)
        resampler = Resampler(torch.arange(30), 30, weights)
        unique = type_matrices(torch.stack([x, y]), ids, resampler, method)[:, 0, 1]
        for row in range(3):
            again = weights[row].long()
            rx, ry, rid = (t.repeat_interleave(again) for t in (x, y, ids))
            assert ours[row].item() == pytest.approx(reference(rx, ry).statistic, abs=1e-12)
            assert unique[row].item() == pytest.approx(reference(*by_group(rx, ry, rid)).statistic, abs=1e-12)


def test_pooled_is_reproducible_and_undefined_where_it_must_be() -> None:
    x, y = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    clusters = torch.arange(6).repeat_interleave(10)
    first, second = (pooled_correlation(x, y, clusters, seed=3) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    one_prompt = pooled_correlation(x, y, torch.zeros(60, dtype=torch.long))
    assert one_prompt.defined
    assert math.isnan(one_prompt.low)
    assert not pooled_correlation(x[:5], y[:5], clusters[:5]).defined
    holes = y.clone()
    holes[::2] = torch.nan
    assert pooled_correlation(x, holes, clusters).value == pytest.approx(
        stats.spearmanr(x[1::2], y[1::2]).statistic, abs=1e-12
    )


def test_mean_within_leaves_undefined_out() -> None:
    values = torch.tensor([-0.5, torch.nan, -0.1, -0.3])
    result = mean_within(values, torch.tensor([0, 0, 1, 2]))
    assert result.value == pytest.approx(-0.3)
    assert result.num_tokens == 3
    assert result.low < -0.3 < result.high
    assert not mean_within(values[1:2], torch.tensor([0])).defined


def test_types_leave_each_prompt_out_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, generator=generator, dtype=torch.float64)
    y, ids = x + torch.randn(90, generator=generator), torch.randint(0, 40, (90,), generator=generator)
    prompts = torch.arange(90) // 15
    result = pooled_correlation(x, y, prompts, token_ids=ids)
    without = [stats.spearmanr(*by_group(*(s[prompts != one] for s in (x, y, ids)))).statistic for one in range(6)]
    error = math.sqrt(5 * np.var(np.arctanh(without)))
    reach = stats.t.ppf(0.975, 5) * error
    assert result.low == pytest.approx(math.tanh(math.atanh(result.value) - reach), abs=1e-12)
    assert result.high == pytest.approx(math.tanh(math.atanh(result.value) + reach), abs=1e-12)
    # With fewer resamples than prompts, groups of prompts are left out; every prompt is in one of them.
    few = Resampler.leaving_out(prompts, 4, seed=1)
    assert few.draws.shape == (4, 6)
    assert (1 - few.draws).sum(0).tolist() == [1] * 6
    assert pooled_correlation(x, y, prompts, token_ids=ids, num_resamples=4, seed=1).low < result.value
    assert math.isnan(pooled_correlation(x, y, torch.zeros(90, dtype=torch.long), token_ids=ids).low)
