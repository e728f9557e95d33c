"""The split of a gain of ι: slopes within problems, and parts that add up."""

import math

import pandas as pd
import pytest
from gain_split import PARTS, gain_split, slopes
from split_rows import made


def test_slopes_are_those_within_a_problem():
    assert slopes(made()) == pytest.approx({"entropy": -0.5, "length": 0.01})


def test_the_parts_of_a_gain():
    rollouts = pd.concat([made(), made(coupling=0.07, entropy_shift=-0.4, length_shift=10, method="corr-po")])
    parts = gain_split(rollouts, "corr-po", "grpo")
    assert tuple(parts) == PARTS
    values = {name: part.value for name, part in parts.items()}
    assert values == pytest.approx({"gain": 0.2 + 0.1 + 0.07, "entropy": 0.2, "length": 0.1, "rest": 0.07})
    assert {(part.num_seeds, part.num_texts) for part in parts.values()} == {(3, 12)}


def test_rollouts_without_a_rho_are_left_out():
    rows = pd.concat([made(), made(coupling=0.07, method="m")])
    rows.loc[rows.method == "m", "iota"] = math.nan
    assert all(part.num_seeds == 0 for part in gain_split(rows, "m", "grpo").values())
    assert all(part.num_seeds == 0 for part in gain_split(rows, "grpo", "m").values())


def test_a_problem_that_one_side_lacks_is_left_out():
    other = made(coupling=0.07, method="corr-po")
    other = other[(other.problem != "p3") & ~((other.problem == "p4") & (other.seed == 1))]
    parts = gain_split(pd.concat([made(), other]), "corr-po", "grpo")
    assert (parts["gain"].value, parts["gain"].num_texts) == (pytest.approx(0.07), 10)
