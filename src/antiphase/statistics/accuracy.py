"""Compute the accuracy on one problem from several samples: pass@k and the majority vote.

The module `estimate` averages over problems and makes intervals. The module `ranking` picks a sample by a score.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from antiphase.errors import InvalidInputError


def check_draw(num_samples: int, k: int) -> None:
    """Raise `InvalidInputError` unless k samples can be drawn, without replacement, from `num_samples` samples."""
    if not 1 <= k <= num_samples:
        raise InvalidInputError(
            f"k must lie between 1 and the number of samples; got k={k} with {num_samples} samples. Draw more samples "
            "or lower k."
        )


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate pass@k without bias: the probability that at least one of k samples is right.

    Of n samples, c are right. All possible ways to draw k of them are considered. The estimate is the share of these
    draws that contain a right sample: 1 − C(n−c, k) / C(n, k), with binomial coefficients C (Chen et al. 2021,
    arXiv 2107.03374, eq. 1). It is computed as −expm1 Σ_{i=n−c+1}^{n} ln(1 − k/i), which neither overflows nor loses
    digits.

    Args:
        num_samples: n, the number of samples.
        num_correct: c, the number of right samples.
        k: the number of samples that are drawn.

    Raises:
        InvalidInputError: k is not in 1 … n, or c is not in 0 … n.

    >>> round(pass_at_k(5, 2, 3), 12)
    0.9
    """
    check_draw(num_samples, k)
    if not 0 <= num_correct <= num_samples:
        raise InvalidInputError(
            f"num_correct must lie between 0 and the number of samples, {num_samples}; got {num_correct}."
        )
    if k > num_samples - num_correct:
        return 1.0
    # C(n−c, k) / C(n, k) is symmetric in c and k, so the product with fewer factors is computed.
    short, long = sorted((num_correct, k))
    factors = np.arange(num_samples - short + 1, num_samples + 1, dtype=np.float64)
    return float(-np.expm1(np.log1p(-long / factors).sum()))


def chance_of_unequal_shares(left: int, num_left: int, right: int, num_right: int) -> float:
    """Compute the probability that two equally good sides have different shares of right samples on a problem.

    A side is a model or a method. Equally good means that every sample of both sides is right with the same
    probability, independently of other samples. Let n_left and n_right be the numbers of samples, and K the number of
    right samples of both sides together. As in Fisher's exact test, K is held fixed, so the number of right samples of
    the left side is hypergeometric. The two shares are equal only if this number is a = K n_left / (n_left + n_right).
    The result is therefore 1 − C(n_left, a) C(n_right, K − a) / C(n_left + n_right, K), or 1 if a is no whole number.

    The result says nothing about chance if n_left and n_right have no common divisor above 1, as when a side has one
    sample. The shares are then equal only if all samples are right or all are wrong. So the result is 1 whenever the
    observed shares differ, and 0 whenever they are equal.

    Args:
        left, num_left: number of right samples and number of all samples of the left side.
        right, num_right: the same two numbers of the right side.

    >>> round(chance_of_unequal_shares(2, 2, 0, 2), 6)
    0.333333
    """
    total = left + right
    equal, rest = divmod(total * num_left, num_left + num_right)
    if rest:
        return 1.0
    ways = math.comb(num_left, equal) * math.comb(num_right, total - equal)
    return 1 - ways / math.comb(num_left + num_right, total)


def majority_at_k(
    answers: Sequence[str | None],
    correct: Sequence[bool],
    k: int,
    *,
    num_subsets: int = 1000,
    seed: int = 0,
) -> float:
    """Compute the expected accuracy of a majority vote over k of the n samples.

    The vote is called self-consistency (Wang et al. 2022, arXiv 2203.11171): k samples are drawn without replacement,
    and the most frequent answer among them is taken. The value of an answer is the mean of `correct` over all samples
    that gave it, because a verifier may judge equal strings differently. If answers are tied, their values are
    averaged.

    Args:
        answers: the answer of each sample, compared as strings. A sample whose answer is None does not vote. If no
            sample votes, the result counts as wrong.
        correct: whether each sample is right.
        k: the number of samples that are drawn.
        num_subsets: the largest number of subsets of k samples to average over. If there are more,
            `num_subsets` random subsets are used.
        seed: seed of the random generator that draws the subsets.

    Raises:
        InvalidInputError: k is not in 1 … n, the lengths differ, or `num_subsets` is below 1.

    >>> round(majority_at_k(["7", "7", "3", None], [True, True, False, False], 3), 12)
    0.75
    """
    if len(answers) != len(correct):
        raise InvalidInputError(
            "the arguments 'answers' and 'correct' must each have one entry for every sample; got "
            f"{len(answers)} and {len(correct)} entries."
        )
    check_draw(len(answers), k)
    if num_subsets < 1:
        raise InvalidInputError(f"num_subsets must be at least 1; got {num_subsets}. 1000 is usual.")
    distinct = sorted({answer for answer in answers if answer is not None})
    if not distinct:
        return 0.0
    votes = np.array([[answer == each for each in distinct] for answer in answers], dtype=np.float64)
    rightness = (votes * np.asarray(correct, dtype=np.float64)[:, None]).sum(0) / votes.sum(0)
    counts = votes[_subsets(len(answers), k, num_subsets, seed)].sum(1)
    # A subset in which all answers are None has no winner, because all its counts are 0.
    winners = (counts == counts.max(1, keepdims=True)) & (counts > 0)
    return float(((winners * rightness).sum(1) / np.maximum(winners.sum(1), 1)).mean())


def _subsets(num_samples: int, k: int, num_subsets: int, seed: int) -> np.ndarray:
    """Return the indices of the samples in all subsets of k samples, `[subset, k]`.

    If there are more than `num_subsets` such subsets, only `num_subsets` of them are returned, which are drawn at
    random.
    """
    if math.comb(num_samples, k) <= num_subsets:
        return np.array(list(itertools.combinations(range(num_samples), k)), dtype=np.intp)
    keys = np.random.default_rng(seed).random((num_subsets, num_samples))
    return np.argpartition(keys, k - 1, axis=1)[:, :k]
