"""Powers of symmetric positive semidefinite matrices, with the pseudo-inverse convention."""

from __future__ import annotations

import torch
from torch import Tensor

from deva_theory.linalg.floating import ldexp, unit_scale, working_dtype


def symmetric_power(A: Tensor, p: float, *, rtol: float | None = None) -> Tensor:
    r"""Return ``A^p`` for p > 0 and ``A^{†|p|} = (A^†)^{|p|}`` for p < 0, batched.

    ``A = Q diag(λ) Qᵀ ↦ Q diag(λ^p) Qᵀ``, the sum running over ``λ > rtol·λ_max`` only.

    Parameters
    ----------
    A : Tensor, shape ``(..., d, d)``
        Symmetric positive semidefinite; only its lower triangle is read.
    p : float
        Any exponent; ``p = 0`` gives the orthogonal projector on the range.
    rtol : float, optional
        Relative rank tolerance, default ``d·eps``.

    Raises
    ------
    ValueError
        When the last two dimensions differ.
    TypeError
        For integer or complex input.

    Notes
    -----
    SPEC conventions, ``P^{†p} = (P^†)^p``. The matrix is scaled by a power of two first, so that no entry
    over- or underflows within the eigenvalue solver.
    """
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"symmetric_power: A has shape {tuple(A.shape)}; its last two dimensions must be equal")
    if not A.dtype.is_floating_point:
        raise TypeError(f"symmetric_power: A has dtype {A.dtype}; convert it to a real floating-point dtype")
    if A.numel() == 0:
        return torch.zeros_like(A)
    X, exponent = unit_scale(A.to(working_dtype(A.dtype)), 2)
    eigenvalues, Q = torch.linalg.eigh(X)
    if rtol is None:
        rtol = torch.finfo(X.dtype).eps * A.shape[-1]
    kept = eigenvalues > rtol * eigenvalues[..., -1:].clamp_min(0)
    powered = torch.where(kept, torch.where(kept, eigenvalues, 1.0).pow(p), 0.0)
    result = (Q * powered.unsqueeze(-2)) @ Q.mT
    # 2**(p·e): the whole part exactly, the fraction as a factor in [1, 2).
    total = exponent.to(torch.float64) * p
    whole = total.floor()
    return ldexp(result * torch.exp2(total - whole).to(X.dtype), whole.to(torch.int32)).to(A.dtype)


def gram_power(A: Tensor, p: float, *, rtol: float | None = None) -> Tensor:
    r"""Return ``(AAᵀ)^p`` (``(AAᵀ)^{†|p|}`` for p < 0) from the SVD of A, without squaring its condition number.

    Parameters
    ----------
    A : Tensor, shape ``(..., d, k)``
        Any factor of the positive semidefinite matrix; float32 or float64, scaled near 1.
    p : float
        Exponent of the Gram matrix: singular values enter as ``σ^{2p}``.
    rtol : float, optional
        Relative rank tolerance on σ, default ``eps·max(d, k)``.
    """
    if A.numel() == 0:
        return A.new_zeros(*A.shape[:-1], A.shape[-2])
    U, S, _ = torch.linalg.svd(A, full_matrices=False)
    if rtol is None:
        rtol = torch.finfo(A.dtype).eps * max(A.shape[-2:])
    kept = S > rtol * S[..., :1]
    powered = torch.where(kept, torch.where(kept, S, 1.0).pow(2.0 * p), 0.0)
    return (U * powered.unsqueeze(-2)) @ U.mT
