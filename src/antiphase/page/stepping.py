"""Read the steps of a model's rollouts from the rows of steps.parquet, in the order of the rollouts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.page.document import Steps

_SHARED = ("start", "num_tokens")


def steps_of(
    label: str, table: pd.DataFrame, order: "pd.Series[int]", starts: np.ndarray, estimators: Sequence[str]
) -> Steps:
    """Return the steps (sentences, for example) of the rollouts that the page shows.

    Args:
        label: the name of the model or checkpoint (the subject), for error messages.
        table: the rows of steps.parquet for this subject.
        order: for each id of a shown rollout, the index of the rollout on the page.
        starts: index of each rollout's first token; the last entry is the number of all tokens, `[rollout + 1]`.
        estimators: the estimators whose steps are wanted. All were measured on the same steps.

    Raises:
        InvalidInputError: the steps of an estimator are missing, or they do not cover their rollouts from the first
            token to the last. A rollout without any steps raises no error, because a run may have begun before steps
            were measured.
    """
    place = table.rollout_id.map(order)
    shown = table.assign(rollout=place)[place.notna()].sort_values(["rollout", "step"], kind="stable")
    frames = {str(name): rows for name, rows in shown.groupby("estimator", sort=False)}
    empty = shown.iloc[:0]
    base = frames.get(estimators[0], empty)
    lengths = np.diff(starts)
    rollout = base.rollout.to_numpy(dtype=np.int64)
    start, count = (base[name].to_numpy(dtype=np.int64) for name in _SHARED)
    bounds = np.concatenate([[0], np.bincount(rollout, minlength=len(lengths)).cumsum()]).astype(np.int64)
    parted = np.bincount(rollout, weights=count, minlength=len(lengths)).astype(np.int64)
    # A step begins where the one before it ends.
    before = count.cumsum() - count
    begun = before - before[bounds[:-1][rollout]] if len(rollout) else before
    whole = bool((parted == lengths)[parted > 0].all())
    if not whole or not np.array_equal(begun, start):
        raise InvalidInputError(
            f"{label}: the steps do not cover its rollouts from the first token to the last. Do the tables come from "
            "one run?"
        )
    for name in estimators:
        found = frames.get(name, empty)
        if not np.array_equal(found[["rollout", *_SHARED]].to_numpy(), base[["rollout", *_SHARED]].to_numpy()):
            raise InvalidInputError(
                f"{label}: the steps of the estimator {name!r} differ from those of the estimator {estimators[0]!r}."
            )
    return Steps(
        starts=bounds,
        start=start,
        num_tokens=count,
        position=floats(base, "position"),
        entropies={name: floats(frames.get(name, empty), "entropy") for name in estimators},
        strengths={name: floats(frames.get(name, empty), "strength") for name in estimators},
    )


def floats(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as float32, with NaN for missing values."""
    return frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
