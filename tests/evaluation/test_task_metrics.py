"""The samples of a problem, and the metrics over them."""

import pandas as pd
import pytest

from antiphase.evaluation.task_metrics import passed_at, samples_by_problem, voted_at


def test_samples_are_grouped_in_the_order_of_their_problems():
    rows = pd.DataFrame(
        {
            "problem_id": pd.Categorical(["b", "a", "b", "a", "a"]),
            "answer": ["7", None, "3", "7", "7"],
            "correct": [True, False, False, True, True],
        }
    )
    found = samples_by_problem(rows)
    assert list(found) == ["b", "a"]
    assert found["b"] == (["7", "3"], [True, False])
    assert found["a"] == ([None, "7", "7"], [False, True, True])
    assert passed_at(found["b"], 2) == 1
    assert passed_at(found["a"], 1) == pytest.approx(2 / 3)
    assert voted_at(found["a"], 3) == 1  # A sample without an answer has no vote.


def test_no_rows():
    assert samples_by_problem(pd.DataFrame({"problem_id": [], "answer": [], "correct": []})) == {}
