"""Within one model: does a score of a rollout tell right from wrong rollouts of the same problem?

Comparing only rollouts of one problem cancels its difficulty, which would otherwise make any score that follows
difficulty look like a judge of correctness. How scores go with accuracy across models is in `association`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import gammaln
from scipy.stats import rankdata

from antiphase.errors import InvalidInputError
from antiphase.estimate import Estimate, share_interval

Problems = Shaped[np.ndarray, "rollout"] | Sequence[Any]


def _by_problem(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems
) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Scores and correctness of each problem's rollouts; problems in the order of their first rollout."""
    names = problems.tolist() if isinstance(problems, np.ndarray) else list(problems)
    if len(names) != len(scores):
        raise InvalidInputError(f"problems must name one a rollout; got {len(names)} names for {len(scores)} scores.")
    places: dict[Any, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: (scores[rows].astype(np.float64), correct[rows]) for name, rows in places.items()}


def problem_aurocs(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems
) -> Float[np.ndarray, "problem"]:
    """AUROC of the score within each problem: P(score of a right > of a wrong rollout) + ½ P(tie).

    From ranks r (ties averaged): (Σ_right r − c(c+1)/2) / (c (n−c)), the Mann–Whitney statistic over its maximum.

    Args:
        scores: one a rollout; NaN rollouts are left out.
        correct: whether each rollout is right.
        problems: the problem of each rollout.

    Returns:
        in the order in which problems first appear; NaN where not both a right and a wrong rollout have a score.

    >>> problem_aurocs(np.array([0.9, 0.2, 0.2, 0.5]), np.array([True, False, True, True]), ["a", "a", "a", "b"])
    array([0.75,  nan])
    """
    values = []
    for own_scores, own_correct in _by_problem(scores, correct, problems).values():
        defined = ~np.isnan(own_scores)
        right, num = int(own_correct[defined].sum()), int(defined.sum())
        if right in (0, num):
            values.append(math.nan)
            continue
        ranks = rankdata(own_scores[defined])[own_correct[defined]]
        values.append(float(ranks.sum() - right * (right + 1) / 2) / (right * (num - right)))
    return np.array(values, dtype=np.float64)


def within_problem_auroc(
    scores: Float[np.ndarray, "rollout"],
    correct: Bool[np.ndarray, "rollout"],
    problems: Problems,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Mean over problems of the AUROC within each, with an interval over problems; 0.5 is chance.

    An AUROC lies in [0, 1], so the interval is the clustered Wilson interval of `share_interval`: unlike a bootstrap
    it keeps its width when the score separates every problem that was seen.

    Args:
        scores: one a rollout; NaN rollouts are left out.
        correct: whether each rollout is right.
        problems: the problem of each rollout.
        confidence: of the interval.

    Returns:
        `num_problems` counts the problems with a right and a wrong rollout that have a score; NaN without any.

    Raises:
        InvalidInputError: lengths differ, or a confidence outside (0, 1).

    >>> right = np.array([True, False] * 10)
    >>> print(within_problem_auroc(right.astype(float), right, np.arange(20) // 2))
    1.000 [0.661, 1.000] (n=10)
    """
    return share_interval(problem_aurocs(scores, correct, problems), confidence)


def best_of_k(
    scores: Float[np.ndarray, "rollout"], correct: Bool[np.ndarray, "rollout"], problems: Problems, k: int
) -> Float[np.ndarray, "problem"]:
    """Expected accuracy of picking the highest score among k rollouts of each problem.

    k of the problem's n rollouts are drawn without replacement. The rollout with r better ones is picked with
    probability C(n−1−r, k−1) / C(n, k); tied rollouts share theirs evenly. Exact: nothing is sampled.

    Args:
        scores: one a rollout; undefined (NaN) scores rank last and tie with one another.
        correct: whether each rollout is right.
        problems: the problem of each rollout.
        k: rollouts to pick from.

    Returns:
        in [0, 1], in the order in which problems first appear.

    Raises:
        InvalidInputError: lengths differ, or k is not in 1 … n of a problem.

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
        # The best of the k lies on a level or below it unless none of them does: C(better, ·) telescopes.
        at_least = np.concatenate([[0.0], 1 - _none_drawn(num, np.cumsum(size), k)])
        values.append(float((np.diff(at_least) * share).sum()))
    return np.array(values, dtype=np.float64)


def _none_drawn(num: int, taken: np.ndarray, k: int) -> np.ndarray:
    """C(num − taken, k) / C(num, k): the probability that none of the taken ones is among k drawn."""
    left = num - taken.astype(np.float64)
    possible = left >= k
    left = np.maximum(left, k)
    logs = gammaln(left + 1) - gammaln(left - k + 1) - (gammaln(num + 1) - gammaln(num - k + 1))
    return np.where(possible, np.exp(logs), 0.0)
