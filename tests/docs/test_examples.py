"""The examples of the documentation run: a REINFORCE loop without TRL."""

import math

import pytest
import torch

from antiphase import InversionSpec
from antiphase.models.loading import LoadedModel
from conftest import byte_tokenizer, tiny_model
from docs_pages import module


@pytest.mark.parametrize(
    "options",
    [{"unit": "token", "combine": "centered"}, {"unit": "step", "splitter": "fixed:2", "combine": "penalty"}],
    ids=lambda options: options["combine"],
)
def test_reinforce(options) -> None:
    example = module("examples/reinforce")

    def trained(weight):
        policy = LoadedModel("tiny", tiny_model(), byte_tokenizer(), None)
        rows = list(example.train(policy, InversionSpec(weight=weight, **options), steps=3, learning_rate=1e-3))
        return rows, [parameter.detach() for parameter in policy.model.parameters()]

    rows, after = trained(0.5)
    assert len(rows) == 3
    for row in rows:
        assert math.isfinite(row["reward"])
        assert math.isfinite(row["inversion/mean"])
        assert row["inversion/weight"] == 0.5
        assert 0 <= row["task/accuracy"] <= 1
    assert all(bool(parameter.isfinite().all()) for parameter in after)
    _, without = trained(0.0)
    for others in (tiny_model().parameters(), without):
        assert any(not torch.equal(a, b) for a, b in zip(after, others, strict=True))
