"""Split what a method changes in ι into a part that entropy explains, a part that length explains, and the rest.

ι = −ρ is the inversion of a rollout over its sentences. Among the rollouts that the reference method gives to one
problem, ι goes with the mean entropy and the length of the rollout; least squares give a slope for each. A method that
lowers entropy by ΔH and changes length by ΔL is then expected to change ι by slope_H · ΔH + slope_L · ΔL, without any
change in how a model couples entropy to gradients. The rest is what these two do not explain. A slope is no cause:
the split says what goes together, as a regression does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from emergence_findings import Value, value_of

from antiphase.study.analysis import group_of
from antiphase.study.definition import read_study
from antiphase.study.store import load_cells

_CAUSES = ("entropy", "length")
PARTS = ("gain", *_CAUSES, "rest")


def rollouts_of(study_file: Path, results: Path) -> pd.DataFrame:
    """Return the sampled rollouts of a sweep. ι is NaN where a rollout has too few sentences.

    Args:
        study_file: the YAML file of the sweep.
        results: the folder of its results.

    Returns:
        a table with a row for each rollout and the columns group, method, seed, problem, correct, iota, entropy and
        length. It has no row if no cell is stored.
    """
    if not (results / "cells.jsonl").is_file() and not any((results / "cells").glob("*.json")):
        return pd.DataFrame()
    parts = []
    for cell in load_cells(results, read_study(study_file)):
        rows = cell.rollouts[~cell.rollouts.greedy]
        parts.append(
            pd.DataFrame(
                {
                    "group": group_of(cell), "method": cell.record["method"], "seed": cell.record["seed"],
                    "problem": rows.problem_id.astype(str), "correct": rows.correct.astype(float),
                    "iota": -rows.spearman_step, "entropy": rows.entropy_mean, "length": rows.num_tokens.astype(float),
                }
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def slopes(rollouts: pd.DataFrame) -> dict[str, float]:
    """Return how ι rises with entropy (per nat) and length (per token) among the rollouts of one problem and seed.

    Both slopes come from one regression, so each holds the other number fixed.

    Args:
        rollouts: the rollouts of one method, as `rollouts_of` returns them.
    """
    columns = ["iota", *_CAUSES]
    inner = rollouts[columns] - rollouts.groupby(["seed", "problem"])[columns].transform("mean")
    found, *_ = np.linalg.lstsq(inner[list(_CAUSES)].to_numpy(), inner.iota.to_numpy(), rcond=None)
    return dict(zip(_CAUSES, map(float, found), strict=True))


def gain_split(rollouts: pd.DataFrame, method: str, reference: str) -> Mapping[str, Value]:
    """Return the parts of a method's gain of ι over the reference, on the seeds and problems that both have.

    Args:
        rollouts: the rollouts of one group, as `rollouts_of` returns them.
        method, reference: the methods that are compared.

    Returns:
        for each name in `PARTS`, the mean over seeds and problems with its interval. The interval takes the slopes as
        given.
    """
    rollouts = rollouts[rollouts.iota.notna()]
    if not {method, reference} <= {*rollouts.method}:
        return {name: value_of([]) for name in PARTS}
    slope = slopes(rollouts[rollouts.method == reference])
    means = rollouts.groupby(["method", "seed", "problem"])[["iota", *_CAUSES]].mean()
    change = (means.loc[method] - means.loc[reference]).dropna()
    parts = {"gain": change.iota, **{name: slope[name] * change[name] for name in _CAUSES}}
    parts["rest"] = change.iota - parts["entropy"] - parts["length"]
    return {name: value_of(_table(column)) for name, column in parts.items()}


def contrast(rollouts: pd.DataFrame, method: str, other: str, column: str) -> Value:
    """Return the mean of a column under one method minus that under another one, on the seeds and problems of both.

    Args:
        rollouts: the rollouts of one group, as `rollouts_of` returns them.
        method, other: the methods that are compared.
        column: the name of the column, such as `correct`. Rollouts in which it is NaN are left out.
    """
    means = rollouts.groupby(["method", "seed", "problem"])[column].mean().dropna()
    if not {method, other} <= {*means.index.get_level_values("method")}:
        return value_of([])
    change = (means.loc[method] - means.loc[other]).dropna()
    return value_of(_table(change) if len(change) else [])


def _table(column: pd.Series) -> list[list[float]]:
    """Return a column by seed and problem as a list for each seed; NaN where a seed lacks a problem."""
    wide: Sequence[Sequence[float]] = column.unstack("problem").to_numpy().tolist()
    return [list(row) for row in wide]
