"""An estimator that a user adds, as docs/extend.md shows."""

import json

import pytest
import torch

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.signal_spec import ESTIMATORS, EstimatorKind, SignalSpec
from antiphase.signals.capture import observe
from antiphase.signals.chunk import ChunkSignals
from antiphase.signals.measure import token_signals
from antiphase.signals.own import head_of_targets
from antiphase.types import TokenBatch
from conftest import tiny_model


def hidden_norm(model, layers, chunk, spec, tick) -> ChunkSignals:
    """The norm of the final hidden state in place of a gradient, the same for every layer and projection."""
    with observe(model, layers) as seen:
        hidden = seen.hidden(chunk.input_ids, grad=False)
        head = head_of_targets(seen, chunk, spec, hidden, want_seed=False)
    strength = head.magnitudes.hidden_norm[chunk.measured]
    tick(len(strength))
    return ChunkSignals(head, strength[:, None, None].repeat(1, len(layers), len(spec.projections)))


@pytest.fixture
def added():
    ESTIMATORS.add("hidden-norm", EstimatorKind(hidden_norm, context="own-position"))
    yield
    ESTIMATORS.remove("hidden-norm")


def test_an_added_estimator_measures_tokens(added) -> None:
    batch = TokenBatch.from_ids([[5, 6], [7]], [[8, 9], [4, 3, 9]])
    signals = token_signals(tiny_model(), batch, SignalSpec("hidden-norm"))
    assert signals.spec.context == "own-position"
    expected = signals.magnitudes.hidden_norm
    assert int(signals.measured.sum()) == 5
    torch.testing.assert_close(signals.strength, expected, equal_nan=True)
    own = token_signals(tiny_model(), batch, SignalSpec("own"))
    torch.testing.assert_close(signals.entropy, own.entropy, equal_nan=True)


def test_an_added_estimator_is_probed_with(added, model_dir, tmp_path) -> None:
    options = {"num_prompts": 2, "max_new_tokens": 12, "min_tokens": 4, "num_resamples": 10, "progress": False}
    out = tmp_path / "run"
    found = antiphase.probe(str(model_dir), estimators=("hidden-norm:6", "own"), out=out, figures=False, **options)
    assert set(found.tokens.estimator) == {"hidden-norm", "own"}
    assert max(found.rollouts.num_measured[found.rollouts.estimator == "hidden-norm"]) == 6
    assert "hidden-norm: an estimator that was added." in str(found)
    results = json.loads((out / "summary.json").read_text())["results"]
    assert [result["context"] for result in results] == ["own-position", "own-position"]


def test_a_removed_estimator_is_unknown() -> None:
    with pytest.raises(InvalidInputError, match=r"the estimator must be one of oracle, .*; got 'hidden-norm'"):
        SignalSpec("hidden-norm")


def test_the_names_of_estimators_are_a_collection() -> None:
    assert list(ESTIMATORS) == ["oracle", "oracle-own", "full", "last", "own"]
    assert "own" in ESTIMATORS
    assert "mine" not in ESTIMATORS
