"""The variance of a difference of grand means if seeds and problems are crossed random effects.

This module has the variance and the deviations to resample; `paired` has the interval and the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Values that differ by less count as equal: rounding of shares can cause such differences.
_ROUNDING = 1e-12

# (a part of the variance, its degrees of freedom)
Term = tuple[float, float]


@dataclass(frozen=True)
class DifferenceVariance:
    """Variance of a difference of grand means.

    Args:
        value: V; 0 if all problems, and all seeds, differ by the same value.
        degrees: the degrees of freedom of V.
        problems: the deviations of the problems' differences from their mean.
        problem_term: the part of V that comes from problems (its column term).
        seed_term: the part of V that comes from seeds (its row terms); 0 if a side has only one seed.
    """

    value: float
    degrees: float
    problems: Float[np.ndarray, "problem"]
    problem_term: float
    seed_term: float


def difference_variance(
    left: Float[np.ndarray, "seed problem"], right: Float[np.ndarray, "other_seed problem"], paired_seeds: bool
) -> DifferenceVariance:
    """Variance of the difference of grand means, with its degrees of freedom.

    With x_sn = μ + a_s + b_n + e_sn, N problems and S seeds, for the differences x = left − right of paired seeds

        V = s²_rows/S + (1 + 2/m) s²_columns/N − s²_residual/(S N),

    where s² are the sample variances of the row means, of the column means, and of the residuals of both (over
    (S−1)(N−1)). Rows and columns both contain the noise e, which must count only once. With unpaired seeds, rows and
    residuals count once for each side, and the columns are the difference of both sides' column means. V is at least
    the larger of its first two terms. With one seed on a side, V is the column term.

    Deviation: the factor 1 + 2/m, where m problems differ at all, adds one such problem in either direction to the
    variance (as Agresti & Min 2005 do for matched pairs). Without it, the interval covers 85 to 88 % if 3 to 10 % of
    30 to 100 problems differ.

    The degrees of freedom are Satterthwaite's, V² / Σ (term² / its degrees), or those of one term if V is that term.
    Deviation: two paired seeds have one degree, and if they happen to agree, Satterthwaite's formula concludes that
    seeds do not vary (95 % intervals cover 87 to 91 % if seeds vary more than problems). In this case the degrees are
    Σ term / Σ (term / its degrees) over rows and columns, which is never more. The interval then covers 89 to 94 %,
    and up to 99 % if seeds do not vary at all.

    Args:
        left, right: the values of at least two problems, without NaN.
        paired_seeds: whether rows of both sides belong together.

    >>> left, right = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), np.zeros((2, 3))
    >>> round(difference_variance(left, right, True).value, 6)
    0.046296
    """
    columns = left.mean(0) - right.mean(0)
    num = len(columns)
    differing = max(1, int((np.abs(columns) > _ROUNDING).sum()))
    problem_term = variance_of_mean(columns) * (1 + 2 / differing)
    sides = [left - right] if paired_seeds else [left, -right]
    if min(len(side) for side in sides) < 2:
        sides = []
    seed_terms = [(variance_of_mean(side.mean(1)), len(side) - 1) for side in sides]
    noise_terms = [(residual_variance(side) / side.size, (len(side) - 1) * (num - 1)) for side in sides]
    value, degrees = combined_variance((problem_term, num - 1), seed_terms, noise_terms)
    seed_term = float(sum(term for term, _ in seed_terms))
    return DifferenceVariance(value, degrees, columns - columns.mean(), problem_term, seed_term)


def combined_variance(problem: Term, seeds: Sequence[Term], noise: Sequence[Term]) -> tuple[float, float]:
    """(V, its degrees of freedom), from the parts of problems, of seeds, and of the residuals."""
    seed_term = sum(term for term, _ in seeds)
    value = problem[0] + seed_term - sum(term for term, _ in noise)
    parts: Sequence[Term] = [problem, *seeds, *noise]
    if value <= max(problem[0], seed_term):
        value = max(problem[0], seed_term)
        parts = seeds if seed_term > problem[0] else [problem]
    if value == 0:
        return 0.0, problem[1]
    if [own for _, own in seeds] == [1]:
        total = problem[0] + seed_term
        return value, total / (problem[0] / problem[1] + seed_term)
    return value, max(1.0, value**2 / sum(term**2 / own for term, own in parts))


def variance_of_mean(values: Float[np.ndarray, "item"]) -> float:
    """The variance of the mean; 0 if the values differ only by rounding."""
    if np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())):
        return 0.0
    return float(np.var(values, ddof=1)) / len(values)


def residual_variance(side: Float[np.ndarray, "seed problem"]) -> float:
    """The variance of the residuals after the means of seeds and problems are removed."""
    left_over = side - side.mean(1, keepdims=True) - side.mean(0, keepdims=True) + side.mean()
    num_seeds, num_problems = side.shape
    return float((left_over**2).sum() / ((num_seeds - 1) * (num_problems - 1)))
