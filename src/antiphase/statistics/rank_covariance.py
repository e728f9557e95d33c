"""Ask whether a score tells right from wrong rollouts of a problem beyond what another score tells.

The method is the rank analysis of covariance of Quade (1967), on the aligned ranks of Hodges & Lehmann (1962). A score
is aligned by subtracting its mean within each problem. The aligned scores of all rollouts are then ranked together, so
that a small and a large difference within a problem have different ranks. Of these ranks and of the correctness, the
mean within each problem is subtracted again, so that only rollouts of the same problem are compared. The partial
correlation of the results over all problems is the answer.

Ranks within each problem would be simpler, but they forget how large a difference is. A score that merely repeats
another one with noise then seems to add something to it (docs/rivals.md has the numbers).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from antiphase.statistics.partial_correlation import Joint
from antiphase.types import Correlation


def aligned_ranks(
    values: Float[np.ndarray, "rollout"], strata: Int[np.ndarray, "rollout"]
) -> Float[np.ndarray, "rollout"]:
    """Return the ranks of the values minus their mean within each stratum, again minus their mean within each stratum.

    Args:
        values: the values.
        strata: the stratum of each value, numbered from 0.

    >>> aligned_ranks(np.array([5.0, 7.0, 1.0, 1.0, 9.0]), np.array([0, 0, 1, 1, 1])).round(2).tolist()
    [-0.5, 0.5, -1.17, -1.17, 2.33]
    """
    # Differences that are equal but for rounding get the same rank.
    return _centred(rankdata(_centred(values, strata).round(12)), strata)


def _centred(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the values minus their mean within each stratum."""
    if not len(values):
        return values
    means = np.bincount(strata, weights=values) / np.bincount(strata)
    centred: np.ndarray = values - means[strata]
    return centred


def within_problem_association(
    score: Float[np.ndarray, "rollout"],
    correct: Bool[np.ndarray, "rollout"],
    problems: Sequence[Any],
    given: Sequence[Float[np.ndarray, "rollout"]] = (),
    *,
    clusters: Sequence[Any] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Correlation:
    """Correlate a score with correctness within problems, with other scores held fixed.

    A value of 0 says that the score adds nothing to the given ones. A positive value says that of two rollouts of a
    problem that the given scores rank equally, the right one tends to have the higher score.

    Args:
        score: the score of each rollout.
        correct: whether each rollout is right.
        problems: the problem of each rollout. Only problems that have both a right and a wrong rollout count.
        given: the scores that are held fixed. A rollout with a NaN or an infinite value in any score is left
            out.
        clusters: what the interval is over; by default the problems. With several seeds, a stratum is a problem and a
            seed, and the clusters are the problems.
        num_resamples, seed: number of the resamples of clusters, and seed of the random generator that draws them.

    Returns:
        The partial correlation with its interval over clusters; `num_tokens` is the number of rollouts that count. It
        is NaN if a score is constant, or explained by the given ones, within all problems.

    >>> right = np.array([True, False, True, False] * 5)
    >>> problems = np.arange(20) // 4
    >>> round(within_problem_association(right + 0.0, right, problems.tolist()).value, 3)
    1.0
    """
    kept = _mixed(np.isfinite(np.stack([score, *given])).all(axis=0), correct, problems)
    strata = _numbers([name for name, there in zip(problems, kept, strict=True) if there])
    owners = problems if clusters is None else clusters
    of_rollout = _numbers([name for name, there in zip(owners, kept, strict=True) if there])
    ranks = [aligned_ranks(np.asarray(each[kept], dtype=np.float64), strata) for each in (score, *given)]
    right = _centred(correct[kept].astype(np.float64), strata)
    series = [torch.from_numpy(each) for each in (ranks[0], right, *ranks[1:])]
    joint = Joint.of(
        series,
        torch.from_numpy(of_rollout),
        unit="token",
        method="pearson",
        num_resamples=num_resamples,
        seed=seed,
    )
    return joint.correlation(0, 1, range(2, len(series)), min_tokens=3)


def _numbers(names: Sequence[Any]) -> Int[np.ndarray, "rollout"]:
    """Replace each name by a number. Equal names get the same number, counted from 0."""
    found = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([found[name] for name in names], dtype=np.int64)


def _mixed(known: np.ndarray, correct: np.ndarray, problems: Sequence[Any]) -> np.ndarray:
    """Return True at the known rollouts of problems that have both a right and a wrong known rollout."""
    seen: dict[Any, set[bool]] = {}
    for name, right, there in zip(problems, correct.tolist(), known.tolist(), strict=True):
        if there:
            seen.setdefault(name, set()).add(bool(right))
    mixed: np.ndarray = known & np.array([len(seen.get(name, ())) == 2 for name in problems], dtype=bool)
    return mixed
