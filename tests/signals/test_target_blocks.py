"""The blocks of `full`: the least work, every span once, and the same numbers whatever the blocks and copies are."""

import itertools

import pytest
import torch
from test_estimators import measure, relative_error, rollouts
from test_joint import steps_of

from antiphase.signals import full, norms
from antiphase.signals.measure import token_signals
from antiphase.signals.target_blocks import _FORWARD, Span, blocks_of
from antiphase.types import SignalSpec
from conftest import tiny_model


def spans_of(*reaches: list[int]) -> list[Span]:
    pairs = [(row, reach) for row, queue in enumerate(reaches) for reach in queue]
    return [Span(row, (place,), place, reach) for place, (row, reach) in enumerate(pairs)]


def work(blocks) -> float:
    return sum(len(block.rows) * block.length * (len(block.passes) + _FORWARD) for block in blocks)


def all_divisions(reaches: list[int]):
    for number in range(len(reaches)):
        for cuts in itertools.combinations(range(1, len(reaches)), number):
            yield [reaches[a:b] for a, b in itertools.pairwise((0, *cuts, len(reaches)))]


@pytest.mark.parametrize("seed", range(6))
def test_no_division_takes_less_work(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    reaches = torch.randint(1, 60, (9,), generator=draw).tolist()
    found = work(blocks_of(spans_of(reaches), 64))
    least = min(sum(max(part) * (len(part) + _FORWARD) for part in parts) for parts in all_divisions(sorted(reaches)))
    assert found == pytest.approx(least)


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("length", [None, 40])
def test_every_span_is_served_once_where_it_is_seen(copies: int, length: int | None) -> None:
    spans = spans_of([3, 9, 4, 30, 31, 32, 33], [5], [6, 7, 8, 40])
    blocks = list(blocks_of(spans, 3, copies, length))
    served = []
    for block in blocks:
        assert len(block.passes) <= 3
        for one in block.passes:
            assert len({lane for lane, _ in one}) == len(one)
            for lane, span in one:
                assert block.rows[lane] == span.row
                assert block.length >= span.reach
                served.append(span.place)
        if length is not None:
            assert block.length == length
    assert sorted(served) == list(range(len(spans)))
    assert list(blocks_of([], 3)) == []


@pytest.mark.parametrize("architecture", ["llama-gqa", "gpt2"])
def test_copies_of_rows_change_nothing(architecture: str, monkeypatch) -> None:
    model, batch = tiny_model(architecture), rollouts()
    spec, steps = SignalSpec("full", step_strength="joint", targets_per_rollout=7), steps_of(batch)
    one = token_signals(model, batch, spec, steps=steps)
    monkeypatch.setattr(full, "_copies", lambda chunk, spec: 3)
    many = token_signals(model, batch, spec, steps=steps)
    torch.testing.assert_close(many.strength, one.strength, equal_nan=True, rtol=2e-5, atol=0)
    torch.testing.assert_close(many.steps.strength, one.steps.strength, equal_nan=True, rtol=2e-5, atol=0)
    torch.testing.assert_close(many.steps.effective_rank, one.steps.effective_rank, equal_nan=True, rtol=1e-3, atol=0)


def test_copies_follow_the_budget() -> None:
    from dataclasses import replace

    from antiphase.signals.chunk import chunk_of, rows_of

    batch = rollouts()
    chunk = chunk_of(rows_of(batch, SignalSpec("full")), torch.device("cpu"))
    assert full._copies(chunk, SignalSpec("full")) == 1
    there = replace(chunk, input_ids=chunk.input_ids.to("meta"))
    assert full._copies(there, SignalSpec("full", token_budget=10 * chunk.input_ids.numel())) == 10
    assert full._copies(there, SignalSpec("full", token_budget=1)) == 1


def test_large_grams_in_blocks() -> None:
    matrix = torch.randn(2, 250, 300, generator=torch.Generator().manual_seed(0)).double()
    gram = norms._gram(matrix)
    torch.testing.assert_close(gram.tril(), (matrix @ matrix.mT).tril())
    assert (gram.triu(1) == 0).any()  # so the blocks were taken
    expected = torch.linalg.svdvals(matrix).sum(-1)
    torch.testing.assert_close(norms._gram_nuclear_norm(matrix)[0], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("num_tokens", [30, 400])
def test_factors_of_leading_tokens(num_tokens: int) -> None:
    draw = torch.Generator().manual_seed(1)
    inputs, delta = torch.randn(1, num_tokens, 220, generator=draw), torch.randn(1, num_tokens, 210, generator=draw)
    for norm in ("nuclear", "frobenius", "l1"):
        factor = norms.shared_factor(inputs, norm)
        for reach in (1, 7, num_tokens):
            found = norms.factored_norm(delta[:, :reach], norms.leading(factor, reach, norm), norm)
            gradient = delta[0, :reach].double().mT @ inputs[0, :reach].double()
            values = torch.linalg.svdvals(gradient)
            truth = {"nuclear": values.sum(), "frobenius": gradient.norm(), "l1": gradient.abs().sum()}[norm]
            assert found.item() == pytest.approx(truth.item(), rel=2e-6)


def test_random_targets_equal_the_oracle() -> None:
    # Few targets far apart: the blocks have different lengths.
    batch = rollouts(lengths=((5, 60), (3, 9)))
    model = tiny_model("llama-gqa", noise=0.7)
    found = measure(model, batch, "full", targets_per_rollout=5)
    truth = measure(model, batch, "oracle", targets_per_rollout=5)
    assert relative_error(found.strength_by_projection, truth.strength_by_projection) <= 2e-5
