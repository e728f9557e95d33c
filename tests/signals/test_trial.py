"""The short rollout that a model is tried on, where padding has an embedding of zeros."""

import pytest
import torch

from antiphase.errors import NonFiniteError
from antiphase.signals.measure import token_signals, trial_batch
from antiphase.types import SignalSpec, TokenBatch
from conftest import tiny_model


@pytest.fixture(scope="module")
def deep():
    """Thirty layers in bfloat16, with ids 0 and 2 of zeros: a state of zeros stays one, and its gradient overflows."""
    model = tiny_model("llama-gqa", torch.bfloat16, num_hidden_layers=30)
    with torch.no_grad():
        model.get_input_embeddings().weight[[0, 2]] = 0.0
    return model


def test_avoids_ids_whose_embedding_is_zero(deep) -> None:
    batch = trial_batch(deep)
    assert batch.input_ids.tolist() == [[1, 3, 1, 3]]
    assert batch.completion_mask.sum() == 1
    signals = token_signals(deep, batch, SignalSpec("full"))
    assert signals.strength[signals.measured].isfinite().all()
    with pytest.raises(NonFiniteError):
        token_signals(deep, TokenBatch.from_ids([[0, 1, 0]], [[1]]), SignalSpec("full"))


def test_takes_what_there_is_where_all_are_zero(deep) -> None:
    model = tiny_model("llama-gqa")
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert trial_batch(model).input_ids.tolist() == [[0, 0, 0, 0]]
