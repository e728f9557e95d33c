"""Measure how well a score, such as inversion, tells right rollouts of a problem from wrong ones of the same model.

Only rollouts of the same problem are compared, so that the difficulty of a problem plays no part. Across problems, any
score that depends on difficulty would seem to judge correctness. The module `association` relates scores to accuracy
across models.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import gammaln
from scipy.stats import rankdata

from antiphase.errors import InvalidInputError
from antiphase.statistics.estimate import Estimate, share_interval

Problems = Shaped[np.ndarray, "rollout"] | Sequence[Any]


def _places(scores: Float[np.ndarray, "rollout"], problems: Problems) -> tuple[np.ndarray, list[Any]]:
    """Return the number of each rollout's problem, and the problems in the order of these numbers.

    The problems are numbered from 0, in the order in which they first appear.
    """
    names = problems.tolist() if isinstance(problems, np.ndarray) else list(problems)
    if len(names) != len(scores):
        raise InvalidInputError(
            f"the argument 'problems' must name one problem for every rollout; got {len(names)} names for "
            f"{len(scores)} scores."
        )
    numbers: dict[Any, int] = {}
    places = [numbers.setdefault(name, len(numbers)) for name in names]
    return np.array(places, dtype=np.int64), list(numbers)


def _by_problem(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems
) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Return a mapping from each problem to (the scores of its rollouts, whether each rollout is right).

    The problems are in the order in which they first appear.
    """
    places, names = _places(scores, problems)
    starts = np.cumsum(np.bincount(places, minlength=len(names)))[:-1]
    groups = np.split(np.argsort(places, kind="stable"), starts) if names else []
    return {name: (scores[rows].astype(np.float64), correct[rows]) for name, rows in zip(names, groups, strict=True)}


def problem_aurocs(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems
) -> Float[np.ndarray, "problem"]:
    """Compute the AUROC of the score within each problem.

    The AUROC is the probability that a right rollout has a higher score than a wrong one; a tie counts one half. Let r
    be the ranks of the scores (equal scores get their mean rank), n the number of rollouts, and c the number of right
    ones. The AUROC is (Σ_right r − c(c+1)/2) / (c (n−c)), the Mann–Whitney statistic divided by its maximum.

    Args:
        scores: the score of each rollout; rollouts with NaN are left out.
        correct: whether each rollout is right.
        problems: the problem of each rollout.

    Returns:
        One value for each problem, in the order in which problems first appear. It is NaN for a problem that does not
        have both a right and a wrong rollout with a score.

    Raises:
        InvalidInputError: there is not one problem for every rollout.

    >>> problem_aurocs(np.array([0.9, 0.2, 0.2, 0.5]), np.array([True, False, True, True]), ["a", "a", "a", "b"])
    array([0.75,  nan])
    """
    places, names = _places(scores, problems)
    num_problems = len(names)
    scores = scores.astype(np.float64)
    defined = ~np.isnan(scores)
    places, right, known = places[defined], correct[defined].astype(bool), scores[defined]
    total = np.bincount(places, minlength=num_problems)
    num_right = np.bincount(places[right], minlength=num_problems)
    # One ranking of all rollouts, first by problem and then by score. A rollout's rank within its problem is this rank
    # minus the number of rollouts of the problems before.
    levels = rankdata(known, method="dense")
    ranks = rankdata(places * (levels.max(initial=0) + 1) + levels) - (np.cumsum(total) - total)[places]
    sums = np.bincount(places[right], weights=ranks[right], minlength=num_problems)
    pairs = num_right * (total - num_right)
    areas = np.full(num_problems, math.nan)
    np.divide(sums - num_right * (num_right + 1) / 2, pairs, out=areas, where=pairs > 0)
    return areas


def within_problem_auroc(
    scores: Float[np.ndarray, "rollout"],
    correct: Bool[np.ndarray, "rollout"],
    problems: Problems,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean of the AUROCs of all problems, with an interval over problems; 0.5 is chance.

    An AUROC lies in [0, 1], so the interval is the clustered Wilson interval of `share_interval`. Unlike a bootstrap
    interval, it has a width even if the score is perfect in every problem of the sample.

    Args:
        scores: the score of each rollout; rollouts with NaN are left out.
        correct: whether each rollout is right.
        problems: the problem of each rollout.
        confidence: the confidence of the interval.

    Returns:
        The mean with its interval; `num_problems` counts the problems in which a right and a wrong rollout have a
        score. The mean is NaN if there is no such problem.

    Raises:
        InvalidInputError: the lengths differ, or the confidence is outside (0, 1).

    >>> right = np.array([True, False] * 10)
    >>> print(within_problem_auroc(right.astype(float), right, np.arange(20) // 2))
    1.000 [0.661, 1.000] (n=10)
    """
    return share_interval(problem_aurocs(scores, correct, problems), confidence)


def best_of_k(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems, k: int
) -> Float[np.ndarray, "problem"]:
    """Compute, for each problem, the expected accuracy if the rollout with the highest score among k is picked.

    k of the problem's n rollouts are drawn without replacement. A rollout is picked with the probability
    C(n−1−r, k−1) / C(n, k), if r other rollouts have a higher score. C is the binomial coefficient. Rollouts with
    equal scores share their probability evenly. The result is exact, because the formula covers all draws.

    Args:
        scores: the score of each rollout. NaN (undefined) counts as the lowest score.
        correct: whether each rollout is right.
        problems: the problem of each rollout.
        k: the number of rollouts that are drawn.

    Returns:
        The accuracy of each problem, in [0, 1], in the order in which problems first appear.

    Raises:
        InvalidInputError: the lengths differ, or k is not in 1 … n of a problem.

    >>> best_of_k(np.array([0.9, 0.5, 0.1]), np.array([True, False, False]), ["a"] * 3, 2).round(6)
    array([0.666667])
    """
    values = []
    for name, (own_scores, own_correct) in _by_problem(scores, correct, problems).items():
        num = len(own_scores)
        if not 1 <= k <= num:
            raise InvalidInputError(
                f"problem {name!r}: k must lie between 1 and its number of rollouts; got k={k} with {num} rollouts. "
                "Draw more samples or lower k."
            )
        ranked = np.where(np.isnan(own_scores), -np.inf, own_scores)
        _, level, size = np.unique(-ranked, return_inverse=True, return_counts=True)
        share = np.bincount(level, weights=own_correct.astype(np.float64)) / size
        # A level holds the rollouts of one score, from the best down. The probability that the best of the k is on a
        # level is how much P(the best is on this level or a better one) grows from the level before.
        at_least = np.concatenate([[0.0], 1 - _none_drawn(num, np.cumsum(size), k)])
        values.append(float((np.diff(at_least) * share).sum()))
    return np.array(values, dtype=np.float64)


def _none_drawn(num: int, taken: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that a draw of k from `num` rollouts contains none of some given rollouts.

    Each entry of the array `taken` is a number of given rollouts. The result has one probability for each entry. The
    draw is without replacement, so the probability is C(num − taken, k) / C(num, k).
    """
    left = num - taken.astype(np.float64)
    possible = left >= k
    left = np.maximum(left, k)
    logs = gammaln(left + 1) - gammaln(left - k + 1) - (gammaln(num + 1) - gammaln(num - k + 1))
    return np.where(possible, np.exp(logs), 0.0)
