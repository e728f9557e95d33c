"""Ask whether a score helps to tell right rollouts of a problem from wrong ones if another score is known.

The method is the rank analysis of covariance of Quade (1967), on the aligned ranks of Hodges & Lehmann (1962):

1. The mean score of each problem is subtracted from the scores of its rollouts.
2. The results of all rollouts are ranked together. So a small and a large difference within a problem have different
   ranks.
3. The mean rank of each problem is subtracted from the ranks of its rollouts. The results are called the aligned
   ranks of the score.
4. The mean correctness of each problem is subtracted from the correctness (1 or 0) of its rollouts. So only rollouts
   of the same problem are compared.
5. The answer is the partial correlation of the aligned ranks and the correctness over all rollouts, with the other
   scores held fixed.

A score that is held fixed is represented by six series (`features`), because correctness need not depend linearly on
the aligned ranks of this score. The six series together describe smooth functions of the score, but not every function
(docs/rivals.md has the rates of false findings that were simulated).

A problem is called a stratum here. With several seeds, a stratum is one problem and one seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata

from antiphase.statistics.partial_correlation import Joint
from antiphase.statistics.resampling import MOST_UNDEFINED
from antiphase.types import Correlation

# Scores are measured in float32. Differences below this share of a typical value are noise of rounding.
ROUNDING = 1e-5


@dataclass(frozen=True)
class WithinProblems(Correlation):
    """A correlation over the rollouts of problems that have both right and wrong rollouts.

    Args:
        num_problems: the number of these problems. A problem that several seeds answered counts once.
    """

    num_problems: int = 0


def aligned_ranks(
    values: Float[np.ndarray, "rollout"], strata: Int[np.ndarray, "rollout"]
) -> Float[np.ndarray, "rollout"]:
    """Return the aligned ranks of the values, which compare values only within their stratum.

    A stratum is one problem, or one problem and one seed. First, the mean value of each stratum is subtracted from its
    values. Then the results of all strata are ranked together. Last, the mean rank of each stratum is subtracted from
    its ranks.

    A small difference may be the rounding noise of float32 scores. So values that differ by less than 1e-5 of the
    median absolute value get the same rank. Zeros are left out of this median.

    Args:
        values: the values, all finite.
        strata: the stratum of each value, numbered from 0.

    >>> aligned_ranks(np.array([5.0, 7.0, 1.0, 1.0, 9.0]), np.array([0, 0, 1, 1, 1])).round(2).tolist()
    [-0.5, 0.5, -1.17, -1.17, 2.33]
    """
    return _centred(rankdata(_rounded(_centred(values, strata), _noise(values))), strata)


def features(values: Float[np.ndarray, "rollout"], strata: Int[np.ndarray, "rollout"]) -> list[np.ndarray]:
    """Return the six series that represent a score which is held fixed, each minus its mean within each stratum.

    A stratum is one problem, or one problem and one seed. These are the series:

    1. The aligned ranks of the values (see `aligned_ranks`). They show how far a value lies from the other values
       of its stratum.
    2. The aligned ranks of the normal scores Φ⁻¹((r − ½) / n), where r is the rank of the value among all n rollouts.
       They show this distance for a skewed score, such as a length.
    3. The ranks r / n.
    4. The squares (r / n)², because correctness may depend on the ranks along a curve.
    5. The ranks within the stratum, divided by the size of the stratum.
    6. The aligned ranks of the standardised values: the mean value of the stratum is subtracted, and the result is
       divided by the standard deviation of the stratum. Series 5 and 6 do not depend on the scale of the values in a
       stratum.

    Args:
        values: the values, all finite.
        strata: the stratum of each value, numbered from 0.

    >>> [each.round(2).tolist() for each in features(np.array([5.0, 7.0, 1.0, 9.0]), np.array([0, 0, 1, 1]))]
    ... # doctest: +NORMALIZE_WHITESPACE
    [[-0.5, 0.5, -1.5, 1.5], [-0.5, 0.5, -1.5, 1.5], [-0.12, 0.12, -0.38, 0.38], [-0.16, 0.16, -0.47, 0.47],
     [-0.25, 0.25, -0.25, 0.25], [-1.0, 1.0, -1.0, 1.0]]
    """
    if not len(values):
        return [values] * 6
    noise, sizes, centred = _noise(values), np.bincount(strata), _centred(values, strata)
    pooled = rankdata(_rounded(values, noise)) / len(values)
    normal = norm.ppf(pooled - 0.5 / len(values))
    # In these numbers, the values of a stratum lie together. Ranks within the stratum follow from their ranks.
    place = rankdata(strata * (len(values) + 1) + rankdata(_rounded(centred, noise)))
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    within = (place - before[strata]) / sizes[strata]
    deviation = np.sqrt(np.bincount(strata, weights=centred**2) / sizes)[strata]
    scaled = np.where(deviation > noise, centred / np.maximum(deviation, noise), 0.0)
    first, second, last = (aligned_ranks(each, strata) for each in (values, normal, scaled))
    return [first, second, *(_centred(each, strata) for each in (pooled, pooled**2, within)), last]


def _noise(values: np.ndarray) -> float:
    """Return the largest difference that counts as rounding noise: `ROUNDING` × the median absolute value.

    Values of 0 are left out of the median.
    """
    sizes = np.abs(values[values != 0])
    return ROUNDING * float(np.median(sizes)) if len(sizes) else 1.0


def _rounded(values: np.ndarray, unit: float) -> np.ndarray:
    """Return the values divided by a unit and rounded to whole numbers."""
    whole: np.ndarray = np.round(values / unit)
    return whole


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
) -> WithinProblems:
    """Correlate a score with correctness within problems, with other scores held fixed.

    A value of 0 says that the score adds nothing to the given scores. A positive value says: if the given scores rank
    two rollouts of a problem equally, the right one tends to have the higher score. Each given score is held fixed by
    its six `features`, which describe smooth functions of the score, but not every function.

    Args:
        score: the score of each rollout.
        correct: whether each rollout is right.
        problems: the problem of each rollout. With several seeds, name the problem together with the seed. Only
            problems that have both a right and a wrong rollout count.
        given: the scores that are held fixed. A rollout with a NaN or an infinite value in any score is left
            out.
        clusters: the cluster of each rollout. The interval comes from resamples of clusters. If None is
            given, each of the `problems` is a cluster. With several seeds, give the problems without their seeds.
        num_resamples: the number of resamples of clusters.
        seed: seed of the random generator that draws the resamples.

    Returns:
        The partial correlation with its interval. `num_tokens` is the number of rollouts that count, and
        `num_problems` the number of their clusters. The value is NaN if, within every problem, the score is constant
        or explained by the given scores. There is no interval if the value is undefined in more than 5 % of the
        resamples.

    >>> right = np.array([True, False, True, False] * 5)
    >>> problems = np.arange(20) // 4
    >>> round(within_problem_association(right + 0.0, right, problems.tolist()).value, 3)
    1.0
    """
    kept = _mixed(np.isfinite(np.stack([score, *given])).all(axis=0), correct, problems)
    strata = _numbers([name for name, there in zip(problems, kept, strict=True) if there])
    owners = problems if clusters is None else clusters
    of_rollout = _numbers([name for name, there in zip(owners, kept, strict=True) if there])
    held = [each for other in given for each in features(np.asarray(other[kept], dtype=np.float64), strata)]
    right = _centred(correct[kept].astype(np.float64), strata)
    own = aligned_ranks(np.asarray(score[kept], dtype=np.float64), strata)
    joint = Joint.of(
        [torch.from_numpy(each) for each in (own, right, *held)],
        torch.from_numpy(of_rollout),
        unit="token",
        method="pearson",
        num_resamples=num_resamples,
        seed=seed,
    )
    found = joint.correlation(0, 1, range(2, 2 + len(held)), min_tokens=3)
    if joint.undefined_share(0, 1, range(2, 2 + len(held))) > MOST_UNDEFINED:
        found = replace(found, low=math.nan, high=math.nan)
    return WithinProblems(**vars(found), num_problems=len(set(of_rollout.tolist())))


def _numbers(names: Sequence[Any]) -> Int[np.ndarray, "rollout"]:
    """Replace each name by a number, counted from 0. Equal names get the same number."""
    found = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([found[name] for name in names], dtype=np.int64)


def _mixed(known: np.ndarray, correct: np.ndarray, problems: Sequence[Any]) -> np.ndarray:
    """Return a mask of the rollouts that count.

    A rollout counts if its scores are all finite (then `known` is True), and if its problem has both a right and a
    wrong rollout with finite scores.
    """
    seen: dict[Any, set[bool]] = {}
    for name, right, there in zip(problems, correct.tolist(), known.tolist(), strict=True):
        if there:
            seen.setdefault(name, set()).add(bool(right))
    mixed: np.ndarray = known & np.array([len(seen.get(name, ())) == 2 for name in problems], dtype=bool)
    return mixed
