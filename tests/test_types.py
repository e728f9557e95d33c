"""What the public types refuse, without the run-time checker that other tests run under."""

import math

import numpy as np
import pytest
import torch

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.types import Correlation, SignalSpec, TokenBatch


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "magic"}, "estimator must be one of oracle, oracle-own, full, last, own; got 'magic'"),
        ({"norm": "x"}, "norm must be one of nuclear"),
        ({"target": "x"}, "target must be one of logit"),
        ({"projections": ()}, "projections is empty"),
        ({"projections": ("Q", "R")}, "projections must be one of Q, K, V, O; got 'R'"),
        ({"projections": ("Q", "Q")}, "names a projection twice"),
        ({"targets_per_rollout": 0}, "at least 1; got 0"),
        ({"token_budget": 0}, "token_budget must be at least 1"),
        ({"num_alternatives": -1}, "num_alternatives must be at least 0; got -1"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"temperature": math.inf}, "temperature must be a positive number"),
        ({"layers": "x"}, "layers must be"),
    ],
)
def test_spec(options: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        SignalSpec(**options)
    # Callers who know nothing of antiphase catch the standard type.
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AntiphaseError)


def test_context_is_named() -> None:
    contexts = {e: SignalSpec(estimator=e).context for e in ("own", "oracle-own", "last", "full", "oracle")}
    assert contexts == {
        "own": "own-position", "oracle-own": "own-position", "last": "full", "full": "full", "oracle": "full",
    }  # fmt: skip


def test_batch_from_ids() -> None:
    left = TokenBatch.from_ids([[5, 6], [7]], [[8], []], padding_side="left", pad_token_id=3)
    assert left.input_ids.tolist() == [[5, 6, 8], [3, 3, 7]]
    assert left.attention_mask.int().tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left.completion_mask.int().tolist() == [[0, 0, 1], [0, 0, 0]]
    assert len(left) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("ids", "attention", "completion", "message"),
    [
        ([[1, 2]], [[1, 1, 1]], [[0, 1]], "one shape"),
        ([1, 2], [1, 1], [0, 1], "one shape"),
        ([[1, 2, 3]], [[1, 0, 1]], [[0, 0, 1]], "row 0: attention_mask .* in 2 separate pieces"),
        ([[1, 2], [1, 2]], [[1, 1], [0, 0]], [[0, 1], [0, 0]], "row 1: attention_mask"),
        ([[1, 2, 3]], [[0, 1, 1]], [[0, 1, 1]], "row 0: the first token is marked as generated"),
        ([[1, 2, 3]], [[1, 1, 0]], [[0, 1, 1]], "True at padded positions"),
    ],
)
def test_bad_batches(ids, attention, completion, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TokenBatch(torch.tensor(ids), torch.tensor(attention).bool(), torch.tensor(completion).bool())


def test_empty_prompt_and_empty_batch_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="nothing predicts it"):
        TokenBatch.from_ids([[]], [[1, 2]])
    with pytest.raises(InvalidInputError, match="got 0 and 0"):
        TokenBatch.from_ids([], [])
    with pytest.raises(InvalidInputError, match="got 1 and 2"):
        TokenBatch.from_ids([[1]], [[1], [2]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated": [[1], [1]]}, r"The rows have \[2, 1\] completion tokens; got \[1, 1\] marks"),
        ({"generated": [[1, 0]]}, r"got \[2\]"),
        ({"padding_side": "middle"}, "padding_side must be one of left, right; got 'middle'"),
    ],
)
def test_from_ids_refuses(options: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TokenBatch.from_ids([[1], [2]], [[3, 4], [5]], **options)


def test_correlation_prints_itself() -> None:
    assert str(Correlation(-0.5, -0.6, -0.4, 30, 20.0, "spearman", 0.95)) == "-0.500 [-0.600, -0.400] (n=30)"
    nothing = Correlation(math.nan, math.nan, math.nan, 4, math.nan, "spearman", 0.95)
    assert str(nothing) == "undefined (n=4)"
    one_prompt = Correlation(-0.5, math.nan, math.nan, 30, math.nan, "spearman", 0.95)
    assert str(one_prompt) == "-0.500, no interval (n=30)"
    assert Correlation(-0.5, -0.6, -0.4, 30, 20.0, "spearman", 0.95).inversion == 0.5


@pytest.mark.parametrize(
    ("prompt", "completion", "got"), [([5.0], [6], "5.0"), ([5], [1.7], "1.7"), ("ab", [1], "'a'")]
)
def test_ids_that_are_no_whole_numbers_are_refused(unchecked, prompt, completion, got) -> None:
    with pytest.raises(InvalidInputError, match=f"row 1: token ids must be whole numbers; got {got}"):
        TokenBatch.from_ids([[1], prompt], [[2], completion])


def test_ids_of_numpy_and_torch_are_whole_numbers(unchecked) -> None:
    batch = TokenBatch.from_ids([np.array([5])], [torch.tensor([6, 7])])
    assert batch.input_ids.tolist() == [[5, 6, 7]]
