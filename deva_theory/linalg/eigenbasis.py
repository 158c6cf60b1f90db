"""Eigenbases of slowly changing symmetric matrices: exact, by power iteration + QR, by matrix products only."""

from __future__ import annotations

import torch
from torch import Tensor

from deva_theory.linalg.coefficients import QUINTIC
from deva_theory.linalg.floating import unit_scale
from deva_theory.linalg.polar import matrix_polynomial

REFRESH_METHODS = ("eigh", "qr", "rotation")


def eigenbasis(A: Tensor) -> Tensor:
    """Return the eigenvectors of each symmetric matrix as columns, eigenvalues descending.

    Parameters
    ----------
    A : Tensor, shape ``(..., d, d)``
        Symmetric, float32 or float64. The zero matrix gives some orthogonal basis.

    Returns
    -------
    Tensor, shape ``(..., d, d)``
    """
    if A.numel() == 0:
        return torch.zeros_like(A)
    return torch.linalg.eigh(unit_scale(A, 2)[0]).eigenvectors.flip(-1)


def canonical_null_space(A: Tensor, Q: Tensor) -> Tensor:
    """Replace the eigenvectors of numerically zero eigenvalues by a basis that rounding does not choose.

    Parameters
    ----------
    A : Tensor, shape ``(..., d, d)``
        Symmetric positive semidefinite.
    Q : Tensor, shape ``(..., d, d)``
        Its eigenvectors, eigenvalues descending.

    Returns
    -------
    Tensor
        Same range vectors; the null space is spanned by the projections of fixed vectors, orthonormalised in order, so that
        it depends on the range alone (continuously), not on the last bits of A.
    """
    if A.numel() == 0:
        return Q
    quotients = (Q * (A @ Q)).sum(dim=-2, keepdim=True)
    tolerance = 10 * Q.shape[-1] ** 0.5 * torch.finfo(A.dtype).eps
    live = quotients > tolerance * quotients.amax(dim=-1, keepdim=True)
    fixed = torch.cos(torch.arange(1, Q.shape[-1] ** 2 + 1, dtype=torch.float64).square()).reshape(Q.shape[-2:]).to(Q)
    return _completed(Q, live, fixed)


def _completed(basis: Tensor, live: Tensor, filling: Tensor) -> Tensor:
    """Keep the live columns of an orthogonal basis (they come first); put the filling, orthonormalised, in place of the others."""
    kept = torch.where(live, basis, 0.0)
    Q, triangle = torch.linalg.qr(torch.where(live, basis, filling - kept @ (kept.mT @ filling)))
    # LAPACK's signs would turn live columns over.
    return Q * torch.where(torch.diagonal(triangle, dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def refresh_eigenbasis(A: Tensor, Q: Tensor, *, method: str = "qr", keep_dead: bool = False) -> tuple[Tensor, Tensor]:
    """Move an approximate eigenbasis towards that of A.

    Parameters
    ----------
    A : Tensor, shape ``(..., d, d)``
        Symmetric positive semidefinite.
    Q : Tensor, shape ``(..., d, d)``
        Orthogonal; the present basis.
    method : {"qr", "eigh", "rotation"}
        ``qr``: sort the columns by Rayleigh quotient, one step of orthogonal iteration ``qr(A Q)``
        (linear convergence; SPEC section 3, reference contract, point 7).
        ``eigh``: solve anew; the old basis is ignored.
        ``rotation``: nine matrix products, no factorisation. After the same sort, rotate every pair of columns at
        once by the Jacobi angle ``½ atan2(2B_ij, b_i - b_j)``, ``B = QᵀAQ``: ``Q ← Q exp(K)``, the exponential by its
        series and one Newton-Schulz step. Quadratic convergence near the eigenbasis (compare Ogita and Aishima 2018).
    keep_dead : bool
        ``qr`` only. Where A has fewer directions than columns, the images ``A q`` are dependent and the trailing columns of a
        QR are rounding noise. True keeps the old directions there, made orthogonal to the live ones, so that the basis does not
        depend on the last bits of A; costs one host synchronisation. False is the plain step.

    Returns
    -------
    basis : Tensor, shape ``(..., d, d)``
    order : Tensor, shape ``(..., d)``
        The permutation of the old columns that the new ones continue (identity for ``eigh``).
    """
    if method not in REFRESH_METHODS:
        raise ValueError(f"refresh_eigenbasis: unknown method {method!r}; use one of {', '.join(REFRESH_METHODS)}")
    if A.numel() == 0:
        return Q, torch.zeros(Q.shape[:-1], dtype=torch.int64, device=Q.device)
    A, _ = unit_scale(A, 2)
    if method == "eigh":
        order = torch.arange(Q.shape[-1], device=Q.device).expand(Q.shape[:-1])
        return eigenbasis(A), order
    image = A @ Q
    # Sort by Rayleigh quotient, descending.
    order = torch.argsort((Q * image).sum(dim=-2), dim=-1, descending=True, stable=True)
    Q, image = (torch.take_along_dim(x, order.unsqueeze(-2), dim=-1) for x in (Q, image))
    if method == "rotation":
        return _rotate(Q, image), order
    basis, triangle = torch.linalg.qr(image)
    if not keep_dead:
        return basis, order
    # The residual of a dependent column is rounding of its whole image: ten times that of an eigenvalue solver's zeros.
    size = torch.diagonal(triangle, dim1=-2, dim2=-1).abs()
    live = size > 100 * Q.shape[-1] ** 0.5 * torch.finfo(A.dtype).eps * size.amax(dim=-1, keepdim=True)
    if bool(live.all()):
        return basis, order
    # Live columns first: a dead one in between would pass its noise on to those behind it.
    pivots = torch.argsort((~live).to(torch.int8), dim=-1, stable=True)
    order, live = torch.take_along_dim(order, pivots, dim=-1), torch.take_along_dim(live, pivots, dim=-1).unsqueeze(-2)
    Q, image = (torch.take_along_dim(x, pivots.unsqueeze(-2), dim=-1) for x in (Q, image))
    return _completed(torch.linalg.qr(image).Q, live, Q), order


def _rotate(Q: Tensor, image: Tensor) -> Tensor:
    B = Q.mT @ image
    b = torch.diagonal(B, dim1=-2, dim2=-1)
    gap = b.unsqueeze(-2) - b.unsqueeze(-1)  # gap_ij = b_j - b_i
    B = 0.5 * (B + B.mT)
    # θ_ij = ½ atan(2B_ij / gap_ij), in [-π/4, π/4]; where the gap closes the pair turns by π/4.
    K = 0.5 * torch.atan2(2.0 * B, gap.abs()) * torch.where(gap >= 0, 1.0, -1.0)
    K = torch.triu(K, 1)
    K = K - K.mT
    square = K @ K
    # Simultaneous rotations interfere when they are large: keep ‖K‖ ≤ ½ (Schatten-4 bounds the 2-norm).
    shrink = 0.5 / torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True).sqrt().clamp_min(0.5)
    K, square = K * shrink, square * shrink.square()
    fourth = square @ square
    # exp(K) to degree 5, error at most ½⁶/720; the last step restores orthogonality to rounding, also that lost over
    # earlier refreshes.
    turn = square / 2 + fourth / 24 + K @ _plus_identity(square / 6 + fourth / 120)
    return matrix_polynomial(Q @ _plus_identity(turn), QUINTIC)


def _plus_identity(X: Tensor) -> Tensor:
    torch.diagonal(X, dim1=-2, dim2=-1).add_(1.0)
    return X

