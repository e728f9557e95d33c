"""Norms of gradients that are kept as factors, G = Δᵀ A, without forming G.

* rank one: ‖δ aᵀ‖ = ‖δ‖ ‖a‖ for every unitarily invariant norm, ‖δ‖₁ ‖a‖₁ for the entrywise L1 norm.
* factored: with A = L Q (Q Qᵀ = 1), ‖Δᵀ A‖ = ‖Δᵀ L‖ for every unitarily invariant norm. One L serves all targets of
  a sequence, and Q, K and V, which share their input.

Nuclear norms come from the eigenvalues of the smaller Gram matrix in float64: relative error about 1e-7 on real
float32 gradients, against 1e-2 for a float32 Gram. Squaring costs half of the digits, so float64 input takes the
singular values instead.

A GPU that multiplies float64 at a high rate takes the sum of the roots from matrix products instead of an eigenvalue
solver (`gram_root`), and L from a Cholesky factor of A Aᵀ instead of a QR decomposition: solvers leave it idle.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.devices import has_double
from antiphase.signal_spec import Norm
from antiphase.signals.gram_root import trace_of_root

# Data-centre GPUs: float64 at half the rate of float32, or at the same. Others have a 32nd or a 64th of it.
_FAST_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
# Longer inputs take QR: the shift that keeps a Cholesky factor finite grows with their number.
_CHOLESKY_TOKENS = 512


def _wide(x: Tensor) -> Tensor:
    """float64, on the CPU where the device has none."""
    return (x if has_double(x.device) else x.cpu()).double()


@cache
def _multiplies_double(device: torch.device) -> bool:
    """Whether float64 products are fast on the device, beside what its solvers take."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) in _FAST_DOUBLE


def nuclear_norm(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Sum of the singular values.

    Cost: one Gram product and one `eigvalsh` of its smaller side, or `trace_of_root`; `svdvals` for float64 input.

    >>> nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
    7.0
    """
    if matrix.dtype == torch.float64:
        exact: Tensor = torch.linalg.svdvals(matrix)
        return exact.sum(-1)
    return _gram_nuclear_norm(_wide(matrix)).to(matrix)


def _gram_nuclear_norm(wide: Tensor) -> Tensor:
    gram = wide @ wide.mT if wide.shape[-2] <= wide.shape[-1] else wide.mT @ wide
    if _multiplies_double(gram.device):
        fast = trace_of_root(gram)
        # Rounding may drive the iteration off on a matrix that is singular in an unlucky way; the solver never is.
        if bool(fast.isfinite().all()):
            return fast
    scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    values: Tensor = torch.linalg.eigvalsh(gram / scale[..., None, None])
    return values.clamp_min(0).sqrt().sum(-1) * scale.sqrt()


def matrix_norm(matrix: Float[Tensor, "*batch rows columns"], norm: Norm) -> Float[Tensor, "*batch"]:
    """The chosen norm of explicit matrices."""
    if norm == "nuclear":
        return nuclear_norm(matrix)
    if norm == "frobenius":
        frobenius: Tensor = torch.linalg.matrix_norm(matrix)
        return frobenius
    return matrix.abs().sum((-2, -1))


def rank_one_norm(
    delta: Float[Tensor, "*batch rows"], inputs: Float[Tensor, "*batch columns"], norm: Norm
) -> Float[Tensor, "*batch"]:
    """‖δ aᵀ‖, accumulated in float32 or wider."""
    order = 1 if norm == "l1" else 2
    dtype = torch.promote_types(delta.dtype, torch.float32)
    left: Tensor = torch.linalg.vector_norm(delta, order, dim=-1, dtype=dtype)
    right: Tensor = torch.linalg.vector_norm(inputs, order, dim=-1, dtype=dtype)
    return left * right


def shared_factor(inputs: Float[Tensor, "batch token columns"], norm: Norm) -> Float[Tensor, "batch token rank"]:
    """What every target's norm needs of the inputs A: L of A = L Q (float32 or wider), or A itself for L1.

    L is lower trapezoidal, so its first t rows are the factor of the first t inputs.
    """
    wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if norm == "l1":
        return wide
    few = wide.shape[-2] <= min(wide.shape[-1], _CHOLESKY_TOKENS)
    if few and wide.dtype != torch.float64 and _multiplies_double(wide.device):
        lower = _cholesky_factor(wide.double())
        if lower is not None:
            return lower
    factor: Tensor = torch.linalg.qr(_wide(wide).mT, mode="r").R.mT
    return factor.to(wide.device, torch.float64 if has_double(wide.device) else wide.dtype)


def _cholesky_factor(inputs: Tensor) -> Tensor | None:
    """L with L Lᵀ = A Aᵀ + s, with a shift s for a singular A Aᵀ; None where L is not finite all the same.

    Tokens that repeat have equal inputs in the first layer, and padding has none. The shift adds at most
    √s · ‖Δ‖_* to a nuclear norm: 3e-7 ‖A‖_F ‖Δ‖_* for 32 tokens.
    """
    gram = inputs @ inputs.mT
    least = 8 * inputs.shape[-2] * torch.finfo(gram.dtype).eps
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += (least * diagonal.sum(-1, keepdim=True)).clamp_min(torch.finfo(gram.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(gram)
    lower: Tensor = factor
    return None if bool((failed != 0).any()) else lower


def factored_norm(
    delta: Float[Tensor, "*#batch token rows"], factor: Float[Tensor, "*#batch token rank"], norm: Norm
) -> Float[Tensor, "*#batch"]:
    """‖Δᵀ A‖ from Δ and the shared factor of A.

    Args:
        delta: gradient at the projection's outputs, one matrix per target.
        factor: from `shared_factor`, cut to the same tokens.
        norm: as for `shared_factor`.
    """
    if norm == "l1":
        return (delta.to(factor.dtype).mT @ factor).abs().sum((-2, -1))
    product = _wide(delta).mT @ _wide(factor)
    if norm == "frobenius":
        result: Tensor = torch.linalg.matrix_norm(product)
    elif delta.dtype == torch.float64:
        result = torch.linalg.svdvals(product).sum(-1)
    else:
        result = _gram_nuclear_norm(product)
    return result.to(delta.device, torch.promote_types(delta.dtype, torch.float32))
