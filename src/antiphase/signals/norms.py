"""Compute norms of weight gradients G = Δᵀ A from their factors, without forming G.

A holds a projection's inputs, one row per token, and Δ holds the gradients at its outputs.

* Rank one (one token): ‖δ aᵀ‖ = ‖δ‖ ‖a‖ for every unitarily invariant norm, and ‖δ‖₁ ‖a‖₁ for the entrywise L1 norm.
* Factored (many tokens): with A = L Q (Q Qᵀ = 1), ‖Δᵀ A‖ = ‖Δᵀ L‖ for every unitarily invariant norm. One L serves all
  targets of a sequence. It also serves the projections Q, K and V, which share their input.

Nuclear norms are computed from the eigenvalues of the smaller Gram matrix in float64. The relative error is about 1e-7
on real float32 gradients. With a Gram matrix in float32 it would be 1e-2, because the Gram matrix contains squares,
which lose half of the digits. Float64 input would lose half of its digits too, so its singular values are computed
instead.

A GPU that multiplies float64 matrices fast would mostly wait for eigenvalue and QR solvers. On such a GPU, nuclear
norms are computed by matrix products (`gram_root`), and L by a Cholesky decomposition of A Aᵀ.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.devices import has_double
from antiphase.signal_spec import Norm
from antiphase.signals.gram_root import trace_of_root

# The compute capabilities of data-centre GPUs, whose float64 rate is at least half of their float32 rate. Other GPUs
# reach a 32nd or a 64th of it.
_FAST_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
# Longer inputs use QR, because the shift that makes the Cholesky decomposition possible grows with their number.
_CHOLESKY_TOKENS = 512
# A Gram matrix of at least this many rows is computed in this many blocks of columns.
_LEAST_ROWS_IN_BLOCKS, _GRAM_BLOCKS = 192, 4


def _wide(x: Tensor) -> Tensor:
    """Return the tensor in float64. It is moved to the CPU if its device has no float64."""
    return (x if has_double(x.device) else x.cpu()).double()


@cache
def _multiplies_double(device: torch.device) -> bool:
    """Return whether the device multiplies float64 matrices much faster than it finds eigenvalues or QR factors.

    This is so on some NVIDIA GPUs.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) in _FAST_DOUBLE


def nuclear_norm(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the nuclear norm of each matrix, which is the sum of its singular values.

    Cost: one `svdvals` for float64 input. For other input, one product (the smaller of the two Gram matrices), and its
    `eigvalsh`, or `trace_of_root` on some GPUs.

    >>> nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
    7.0
    """
    if matrix.dtype == torch.float64:
        exact: Tensor = torch.linalg.svdvals(matrix)
        return exact.sum(-1)
    return _gram_nuclear_norm(_wide(matrix))[0].to(matrix)


def effective_rank(values: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Return the effective rank of matrices with the given singular values σ: exp(−Σ_j s_j ln s_j), s_j = σ_j / Σ σ.

    The source is Roy & Vetterli 2007. arXiv 2504.10766 uses it for gradients. The effective rank lies between 1 (one
    singular value is not 0) and the number of singular values (all are equal). It is NaN for a matrix of zeros.

    >>> effective_rank(torch.tensor([[2.0, 2.0, 0.0], [5.0, 0.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    shares = values / values.sum(-1, keepdim=True)
    rank: Tensor = torch.special.entr(shares).sum(-1).exp()
    return rank


def _gram_nuclear_norm(wide: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return (the nuclear norm, the singular values) of each float64 matrix.

    The returned singular values of a matrix are scaled: all are divided by one positive number. They are None if the
    norm is computed without them. The norm is computed from the smaller of the two Gram matrices M Mᵀ and Mᵀ M.
    """
    gram = _gram(wide if wide.shape[-2] <= wide.shape[-1] else wide.mT)
    if _multiplies_double(gram.device):
        fast = trace_of_root(gram)
        # On some singular matrices, rounding makes the iteration diverge. The solver below always works.
        if bool(fast.isfinite().all()):
            return fast, None
    scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    values: Tensor = torch.linalg.eigvalsh(gram / scale[..., None, None])
    roots = values.clamp_min(0).sqrt()
    return roots.sum(-1) * scale.sqrt(), roots


def _product(delta: Tensor, factor: Tensor) -> Tensor:
    """Return Δᵀ L as a float64 tensor, where Δ is `delta` and L is `factor`.

    On a CPU, float32 gradients are multiplied in float32, which takes half of the time of float64. This adds no more
    rounding than the oracle has, which computes the weight gradient in float32 too. Other devices may round float32
    products more (TF32), so they multiply in float64.
    """
    if delta.device.type == "cpu" and delta.dtype == torch.float32:
        return (delta.mT @ factor.float()).double()
    return _wide(delta).mT @ _wide(factor)


def _gram(wide: Tensor) -> Tensor:
    """Return the Gram matrix M Mᵀ of each matrix M in `wide`.

    If M is large and on a CPU, only the blocks on and below the diagonal are computed. The blocks above it are 0. The
    eigenvalue solver does not read them.
    """
    num_rows = wide.shape[-2]
    if wide.device.type != "cpu" or num_rows < _LEAST_ROWS_IN_BLOCKS or _multiplies_double(wide.device):
        return wide @ wide.mT
    gram = wide.new_zeros(*wide.shape[:-1], num_rows)
    size = -(-num_rows // _GRAM_BLOCKS)
    for start in range(0, num_rows, size):
        gram[..., start:, start : start + size] = wide[..., start:, :] @ wide[..., start : start + size, :].mT
    return gram


def matrix_norm(matrix: Float[Tensor, "*batch rows columns"], norm: Norm) -> Float[Tensor, "*batch"]:
    """Return the chosen norm (nuclear, Frobenius or entrywise L1) of each matrix.

    Other functions of this module need only factors of a matrix. This one needs the matrix itself.
    """
    if norm == "nuclear":
        return nuclear_norm(matrix)
    if norm == "frobenius":
        frobenius: Tensor = torch.linalg.matrix_norm(matrix)
        return frobenius
    return matrix.abs().sum((-2, -1))


def rank_one_norm(
    delta: Float[Tensor, "*batch rows"], inputs: Float[Tensor, "*batch columns"], norm: Norm
) -> Float[Tensor, "*batch"]:
    """Return the norm of the rank-one matrices δ aᵀ, accumulated in float32 or wider.

    Args:
        delta: the vectors δ.
        inputs: the vectors a.
        norm: the norm to compute.
    """
    return vector_norm(delta, norm) * vector_norm(inputs, norm)


def vector_norm(vectors: Float[Tensor, "*batch value"], norm: Norm) -> Float[Tensor, "*batch"]:
    """Return the Euclidean norm of each vector; for `l1`, return the sum of its absolute values.

    With these norms, the matrix norm `norm` of a rank-one matrix δ aᵀ is the product of the norms of δ and a. They are
    accumulated in float32 or wider.
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    result: Tensor = torch.linalg.vector_norm(vectors, 1 if norm == "l1" else 2, dim=-1, dtype=dtype)
    return result


def shared_factor(inputs: Float[Tensor, "batch token columns"], norm: Norm) -> Float[Tensor, "batch token rank"]:
    """Return the factor L of the decomposition A = L Q, where the rows of Q are orthonormal.

    ‖Δᵀ A‖ = ‖Δᵀ L‖ for all gradients Δ at the projection's outputs, so one L serves all targets of a sequence. L is
    zero above its diagonal, so its first t rows are the factor of the first t inputs. L is in float32 or wider. The
    entrywise L1 norm has no such factor; A itself is returned for it.

    Args:
        inputs: the inputs A of a projection, one row for each token.
        norm: the norm that `factored_norm` will compute.
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


def leading(
    factor: Float[Tensor, "*batch token rank"], num_tokens: int, norm: Norm
) -> Float[Tensor, "*batch few less"]:
    """Return the factor L of the first `num_tokens` tokens of a sequence.

    It is a part of `factor`, the result of `shared_factor` for all tokens. L is zero above its diagonal, so the part
    for t tokens needs only t columns, or fewer if L itself has fewer.
    """
    first = factor[..., :num_tokens, :]
    return first if norm == "l1" else first[..., :num_tokens]


def _cholesky_factor(inputs: Tensor) -> Tensor | None:
    """Return the lower triangular L with L Lᵀ = A Aᵀ + s·1, for inputs A; None if the decomposition fails.

    The small number s makes the decomposition possible if A Aᵀ is singular. It is singular, for example, in the first
    layer, where repeated tokens have equal inputs. The error of a nuclear norm ‖Δᵀ A‖_* that is computed with L is at
    most √s · ‖Δ‖_*. For 32 tokens, this is 3e-7 ‖A‖_F ‖Δ‖_*.
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
    """Return the norm ‖Δᵀ A‖ of a weight gradient from Δ and the factor of A.

    Args:
        delta: the gradients Δ at the projection's outputs, one matrix for each target (generated token).
        factor: the result of `shared_factor` for the inputs A of the same tokens.
        norm: the norm that was given to `shared_factor`.
    """
    return _factored(delta, factor, norm)[0]


def factored_norm_and_rank(
    delta: Float[Tensor, "*#batch token rows"], factor: Float[Tensor, "*#batch token rank"], norm: Norm
) -> tuple[Float[Tensor, "*#batch"], Float[Tensor, "*#batch"]]:
    """Return (the norm, the effective rank) of each weight gradient Δᵀ A.

    The arguments are those of `factored_norm`. The rank is computed from the singular values that the nuclear norm
    needs. It is NaN for the other norms, and on a GPU that computes the nuclear norm without singular values.
    """
    value, values = _factored(delta, factor, norm)
    return value, torch.full_like(value, torch.nan) if values is None else effective_rank(values).to(value)


def _factored(delta: Tensor, factor: Tensor, norm: Norm) -> tuple[Tensor, Tensor | None]:
    """Return (the norm, the singular values) of each weight gradient Δᵀ A. The arguments are those of `factored_norm`.

    The returned singular values of a matrix may be scaled: all are divided by one positive number. They are None if
    the norm is computed without them.
    """
    if norm == "l1":
        return (delta.to(factor.dtype).mT @ factor).abs().sum((-2, -1)), None
    product, values = _product(delta, factor), None
    if norm == "frobenius":
        result: Tensor = torch.linalg.matrix_norm(product)
    elif delta.dtype == torch.float64:
        values = torch.linalg.svdvals(product)
        result = values.sum(-1)
    else:
        result, values = _gram_nuclear_norm(product)
    return result.to(delta.device, torch.promote_types(delta.dtype, torch.float32)), values
