"""Compute the trace of √G of positive semi-definite matrices G from matrix products alone, for fast GPUs.

If G = M Mᵀ, this trace is the nuclear norm of M. The module `norms` uses this trace on GPUs that multiply float64
matrices fast. There an eigenvalue solver mostly waits: on an H200 it takes 9.7 ms for one float64 matrix of 1024 rows.
The polynomial iteration below consists of matrix products, which such a GPU computes at full rate.

The iteration starts with X₀ = M / ‖M‖_F. Each step applies an odd polynomial x ← a x + b x³ + c x⁵ to the singular
values of X. The singular values tend to 1, so X tends to the polar factor of M, and ⟨M, X⟩ tends to the nuclear norm
‖M‖_*. The numbers (a, b, c) of each step are the best ones for the interval in which the previous step leaves the
singular values (Remez exchange; Amsel et al. 2025, "The Polar Express"). With twelve steps, every singular value in
[1e-6, 1] comes within 1e-5 of 1. The iteration needs only G = M Mᵀ: X_k = Q_k M, where Q_k is a polynomial of G, and
R_k = X_k X_kᵀ.

Error: a singular value σ ≥ 1e-6 ‖M‖_F is added with a relative error of 1e-5. In place of a smaller σ, a number
between 0 and σ is added. So the error of a nuclear norm is less than n · 1e-6 · ‖M‖_F for n rows. On gradients of
SmolLM2-135M the relative error was at most 1.3e-6, including the error of the factors in `norms`. A limit below 1e-6
would lose digits: rounding leaves R with eigenvalues near −1e-16, and they grow by the factor 1.6e13, which is the
square of the factor by which a small σ grows.
"""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

_SMALLEST, _SPREAD, _CUSHION = 1e-6, 1e-5, 0.024


def trace_of_root(gram: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Return the trace of √G, which is the nuclear norm of any matrix M with M Mᵀ = G.

    Args:
        gram: positive semi-definite matrices in float64; narrower dtypes lose the small singular values.

    Cost: 45 products of n × n matrices. The CPU does not wait for the device.

    >>> round(trace_of_root(torch.diag(torch.tensor([9.0, 16.0, 0.0], dtype=torch.float64))).item(), 7)
    7.0
    """
    flat = gram.reshape(-1, *gram.shape[-2:])
    scale = flat.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    first = ratio = flat / scale[:, None, None]
    product = torch.empty(0)
    steps = _coefficients()
    for number, (linear, cubic, quintic) in enumerate(steps):
        # The factor of this step is a + b R + c R².
        factor = torch.baddbmm(ratio, ratio, ratio, beta=cubic, alpha=quintic)
        factor.diagonal(dim1=-2, dim2=-1).add_(linear)
        product = factor if number == 0 else product @ factor
        if number + 1 < len(steps):
            ratio = factor @ ratio @ factor
    result = (product * first).sum((-2, -1)) * scale.sqrt()
    return result.view(gram.shape[:-2])


@cache
def _coefficients() -> tuple[tuple[float, float, float], ...]:
    """Return the numbers (a, b, c) for every step of the iteration that the docstring of the module explains.

    >>> len(_coefficients())
    12
    """
    low, high = _SMALLEST, 1.0
    steps = []
    while 1 - low > _SPREAD:
        # The lower end of the interval is raised a little for this step. Otherwise large singular values could become
        # small in the step, which loses digits. This costs little.
        linear, cubic, quintic = _best_quintic(max(low, _CUSHION * high), high)

        def value(x: float, of: tuple[float, float, float] = (linear, cubic, quintic)) -> float:
            return of[0] * x + of[1] * x**3 + of[2] * x**5

        centre = (value(low) + value(high)) / 2
        steps.append((linear / centre, cubic / centre, quintic / centre))
        low = value(low) / centre
        high = 2 - low
    return tuple(steps)


def _best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """Return the (a, b, c) of the polynomial a x + b x³ + c x⁵ that stays closest to 1 on [low, high].

    The greatest distance from 1 is minimised by Remez exchange.
    """
    if low >= 0.999 * high:
        return 1.875 / high, -1.25 / high**3, 0.375 / high**5
    inner = ((3 * low + high) / 4, (low + 3 * high) / 4)
    before = math.inf
    while True:
        points = torch.tensor([low, *inner, high], dtype=torch.float64)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        system = torch.stack([points, points**3, points**5, signs], -1)
        linear, cubic, quintic, distance = torch.linalg.solve(system, torch.ones_like(points)).tolist()
        if abs(distance - before) < 1e-14:
            return linear, cubic, quintic
        before = distance
        # The new inner points are the places where the derivative a + 3 b x² + 5 c x⁴ is zero.
        spread = math.sqrt(9 * cubic**2 - 20 * linear * quintic)
        inner = (
            math.sqrt((-3 * cubic - spread) / (10 * quintic)),
            math.sqrt((-3 * cubic + spread) / (10 * quintic)),
        )
