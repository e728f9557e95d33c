"""Signals from sums over logits: no digits are lost in float32, and the vocabulary may be cut anywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphase.signals import logit_sums
from antiphase.signals.entropy import gini_impurity, log_probabilities, logit_statistics, self_certainty
from antiphase.signals.logit_sums import LogitSums, sums_of

LARGE, ROWS = 151_936, 6
NAMES = ("entropy", "logprob", "control", "impurity", "certainty")


def distribution(kind: str) -> torch.Tensor:
    """Float32 logits of a large vocabulary, `[row, vocab]`."""
    generator = torch.Generator().manual_seed(0)
    normal = 2 * torch.randn(ROWS, LARGE, generator=generator)
    shift = 20 * torch.randn(ROWS, 1, generator=generator)
    if kind.startswith("sure"):
        normal[:, 777] = normal.max(-1).values + float(kind.split()[1])
        return normal
    even = shift.expand(-1, LARGE).clone()
    if kind.startswith("one over even"):
        even[:, 777] += float(kind.rsplit(maxsplit=1)[1])
        return even
    if kind.startswith("two over even"):
        even[:, [777, 90_000]] += float(kind.rsplit(maxsplit=1)[1])
        return even
    if kind == "uniform":
        return even
    ranks = torch.arange(1, LARGE + 1).float().log()
    if kind.startswith("power law"):
        order = torch.randperm(LARGE, generator=generator)
        return shift - float(kind.rsplit(maxsplit=1)[1]) * ranks[order]
    banned = normal * 4
    banned[:, : LARGE // 2] = -torch.inf
    banned[:, ::3] = -torch.inf
    banned[:, 777] = 1.0
    return banned


KINDS = [
    *(f"sure {gap}" for gap in (0, 8, 12, 16, 20, 25)),
    *(f"one over even {gap}" for gap in (6, 10, 12, 14, 16, 18, 20, 30)),
    *(f"two over even {gap}" for gap in (12, 14, 16, 20)),
    "uniform", "power law 1.01", "power law 1.3", "power law 2", "banned",
]  # fmt: skip


def truth_of(logits: torch.Tensor, ids: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """The signals in float64, by formulas that do not cancel there."""
    z = logits.double() / temperature
    log_p, rows = z.log_softmax(-1), torch.arange(len(z))
    p = log_p.exp()
    others = p.clone()
    others[rows, ids] = 0
    best = p.argmax(-1)
    but_best = p.clone()
    but_best[rows, best] = 0
    rest = but_best.sum(-1)
    return {
        "entropy": -(p * log_p.clamp_min(-1e6)).sum(-1),
        "logprob": torch.where(ids == best, torch.log1p(-rest), log_p[rows, ids]),
        "control": (others.sum(-1) ** 2 + (others**2).sum(-1)).sqrt(),
        "impurity": p[rows, best] * rest + (but_best * (1 - but_best)).sum(-1),
        "certainty": z.logsumexp(-1) - z.mean(-1) - torch.tensor(float(z.shape[-1])).double().log(),
    }


def of_sums(sums: LogitSums, temperature: float) -> dict[str, torch.Tensor]:
    found = (sums.entropy(), sums.logprob(temperature), sums.logprob_control(temperature), sums.impurity(),
             sums.self_certainty())  # fmt: skip
    return dict(zip(NAMES, found, strict=True))


def in_tiles(logits: torch.Tensor, ids: torch.Tensor, temperature: float, width: int) -> LogitSums:
    sums = None
    for first in range(0, logits.shape[-1], width):
        part = sums_of(logits[:, first : first + width], ids, temperature, first)
        sums = part if sums is None else sums.merged(part, temperature)
    return sums


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_loses_no_digits(kind: str, temperature: float) -> None:
    logits = distribution(kind)
    ids = torch.tensor([777, 777, 151_000, 100_001, 777, 150_002])
    truth = truth_of(logits, ids, temperature)
    entropy, logprob, control = logit_statistics(logits, ids, temperature)
    public = dict(zip(NAMES, (entropy, logprob, control, gini_impurity(logits, temperature),
                              self_certainty(logits, temperature)), strict=True))  # fmt: skip
    for found in (public, of_sums(in_tiles(logits, ids, temperature, 2048), temperature)):
        for name in ("entropy", "logprob", "certainty"):
            error = (found[name].double() - truth[name]).abs() / (1 + truth[name].abs())
            assert error.nan_to_num(0).max() < 1e-6, name
        assert torch.equal(found["certainty"] == torch.inf, truth["certainty"] == torch.inf)
        for name in ("control", "impurity"):
            torch.testing.assert_close(found[name].double(), truth[name], rtol=1e-5, atol=1e-30)
    chosen = log_probabilities(logits, temperature).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(chosen.double(), truth["logprob"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened(dtype: torch.dtype) -> None:
    logits = distribution("sure 12").to(dtype)
    ids = torch.full((ROWS,), 777)
    truth = truth_of(logits, ids, 1.0)
    found = of_sums(in_tiles(logits, ids, 1.0, 4096), 1.0)
    for name in NAMES:
        torch.testing.assert_close(found[name], truth[name], rtol=2e-6, atol=1e-6)


LEVELS = st.sampled_from([-torch.inf, -1e9, -40.0, -1.0, 0.0, 0.25, 7.0, 300.0])
TABLES = st.integers(1, 9).flatmap(lambda size: st.lists(st.lists(LEVELS, min_size=size, max_size=size), min_size=1))


@given(TABLES, st.integers(1, 9), st.sampled_from([1.0, 0.3, 4.0]), st.booleans())
def test_the_vocabulary_may_be_cut_anywhere(rows, width: int, temperature: float, small_blocks: bool) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    logits[:, -1] = 0.5  # at least one is finite
    ids = torch.full((len(logits),), logits.shape[-1] - 1)
    whole = of_sums(sums_of(logits, ids, temperature), temperature)
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(logit_sums, "_BLOCK_ELEMENTS", 1)
        found = of_sums(in_tiles(logits, ids, temperature, width), temperature)
    truth = truth_of(logits, ids, temperature)
    for name in NAMES:
        torch.testing.assert_close(found[name], whole[name], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found[name], truth[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 128, 640, 641])
def test_the_greatest_logit_is_found_at_every_width(width: int) -> None:
    logits = torch.randn(50, width, generator=torch.Generator().manual_seed(width))
    greatest, place = logit_sums._greatest(logits)
    assert torch.equal(greatest, logits.amax(-1, keepdim=True))
    assert torch.equal(logits.gather(-1, place), greatest)
    logits[3, width // 2] = torch.nan
    assert logit_sums._greatest(logits)[0][3].isnan()


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    logit_statistics(logits, torch.zeros(5, dtype=torch.long))
    assert torch.equal(logits, before)


def test_gradients_of_the_public_functions() -> None:
    logits = torch.randn(4, 130, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    ids = torch.tensor([3, 128, 0, 64])
    mine = (*logit_statistics(logits, ids, 0.7)[:2], log_probabilities(logits, 0.7)[:, 5])
    p = torch.distributions.Categorical(logits=logits / 0.7)
    truth = (p.entropy(), p.log_prob(ids), p.logits[:, 5])
    for found, expected in zip(mine, truth, strict=True):
        left, right = (torch.autograd.grad(one.sum(), logits, retain_graph=True)[0] for one in (found, expected))
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vocab", [100, 256])
def test_zero_targets(vocab: int) -> None:
    assert [len(x) for x in logit_statistics(torch.zeros(0, vocab), torch.zeros(0, dtype=torch.long))] == [0, 0, 0]
    assert gini_impurity(torch.zeros(0, vocab)).shape == (0,)


def test_the_gradient_at_equal_logits() -> None:
    logits = torch.zeros(1, 256, dtype=torch.float64)
    logits[0, [3, 67]] = 5.0
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(logit_statistics(leaf, torch.tensor([3]))[1].sum(), leaf)
    expected = torch.zeros_like(logits)
    expected[0, 3] = 1.0
    torch.testing.assert_close(found, expected - logits.softmax(-1))
