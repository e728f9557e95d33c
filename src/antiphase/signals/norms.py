"""Norms of gradients that are kept as factors, G = Δᵀ A, without forming G.

* rank one: ‖δ aᵀ‖ = ‖δ‖ ‖a‖ for every unitarily invariant norm, ‖δ‖₁ ‖a‖₁ for the entrywise L1 norm.
* factored: with A = L Q (Q Qᵀ = 1), ‖Δᵀ A‖ = ‖Δᵀ L‖ for every unitarily invariant norm. One L serves all targets of
  a sequence, and Q, K and V, which share their input.

Nuclear norms come from the eigenvalues of the smaller Gram matrix in float64: relative error about 1e-7 on real
float32 gradients, against 1e-2 for a float32 Gram. Squaring costs half of the digits, so float64 input takes the
singular values instead.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.types import Norm


def _wide(x: Tensor) -> Tensor:
    """float64, on a device that has it (mps does not)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def nuclear_norm(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Sum of the singular values.

    Cost: one Gram product and one `eigvalsh` of its smaller side; `svdvals` for float64 input.

    >>> nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
    7.0
    """
    if matrix.dtype == torch.float64:
        exact: Tensor = torch.linalg.svdvals(matrix)
        return exact.sum(-1)
    return _gram_nuclear_norm(_wide(matrix)).to(matrix)


def _gram_nuclear_norm(wide: Tensor) -> Tensor:
    gram = wide @ wide.mT if wide.shape[-2] <= wide.shape[-1] else wide.mT @ wide
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
    factor: Tensor = torch.linalg.qr(_wide(wide).mT, mode="r").R.mT
    return factor.to(wide.device, wide.dtype if wide.device.type == "mps" else torch.float64)


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
