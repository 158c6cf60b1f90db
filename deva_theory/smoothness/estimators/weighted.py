r"""Γ-weighted smoothness of ``f(X) = ½ tr(XᵀHX)``, H ≽ 0: the plotted quantity and the consistent ones (SPEC S2, S3, S5).

The Hessian in vec X is ``I_n ⊗ H``.  A descent lemma along directions ``Γ ⊙ S`` needs

    L_Γ = sup_{|u_ij| ≤ γ_ij} <u, H u>                        (box, coordinatewise rules)
    L_Γ = sup_{‖O‖ ≤ 1} <D, H D>,  D = Q_L(Γ ⊙ O)Q_Rᵀ         (spectral, the S∞ rule)

and not the signed sum ``Σ_ij H_ij Γ_ij`` of the published figure, which pairs the row Hessian with an array of
parameter entries and may be negative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deva_theory.geometry import largest_at_corners
from deva_theory.linalg import polar_factor

_ENUMERATED = 16


class Interval(NamedTuple):
    """``lower ≤ value ≤ upper``: the lower end is attained by a feasible point, the upper one certified by duality."""

    lower: Tensor
    upper: Tensor


def signed_weighted_sum(H: Tensor, gamma: Tensor) -> Tensor:
    """Return ``Σ_ij H_ij Γ_ij``, what the reference plots as ‖H‖_{1,Γ} (SPEC S3); needs H and Γ of one shape."""
    return (H * gamma).sum(dim=(-2, -1))


def absolute_weighted_sum(H: Tensor, gamma: Tensor) -> Tensor:
    """Return ``Σ_ij |H_ij| Γ_ij``, the same pairing without cancellation."""
    return (H.abs() * gamma).sum(dim=(-2, -1))


def box_smoothness(H: Tensor) -> Tensor:
    """Return ``L_∞(H) = sup_{‖u‖_∞ ≤ 1} uᵀHu`` exactly, for H ≽ 0 of at most 16 rows.

    Raises
    ------
    ValueError
        More than 16 rows: the 2^{m-1} sign vectors are enumerated. H with a negative eigenvalue.
    """
    ones = torch.ones(*H.shape[:-1], 1, dtype=H.dtype, device=H.device)
    return weighted_box_smoothness(H, ones)


def weighted_box_smoothness(H: Tensor, gamma: Tensor) -> Tensor:
    r"""Return ``sup_{|u_ij| ≤ γ_ij} tr(uᵀHu) = Σ_j max_{s ∈ {±1}^m} (γ_j ⊙ s)ᵀ H (γ_j ⊙ s)`` exactly, for H ≽ 0.

    Parameters
    ----------
    H : Tensor, shape ``(..., m, m)``
        Positive semidefinite (a convex function attains its maximum over a box at a corner), m ≤ 16.
    gamma : Tensor, shape ``(..., m, n)``
        Γ ≥ 0.

    Returns
    -------
    Tensor, shape ``(...)``
    """
    m = H.shape[-1]
    if m > _ENUMERATED:
        raise ValueError(f"weighted_box_smoothness: H has {m} rows; enumeration of sign vectors stops at {_ENUMERATED}")
    _check_semidefinite("weighted_box_smoothness", H)
    total = torch.zeros(torch.broadcast_shapes(H.shape[:-2], gamma.shape[:-2]), dtype=H.dtype, device=H.device)
    for j in range(gamma.shape[-1]):  # one column at a time keeps the table of corners small
        total = total + largest_at_corners(H, gamma[..., j])
    return total


def _check_semidefinite(name: str, H: Tensor) -> None:
    if not H.numel():
        return
    eigenvalues = torch.linalg.eigvalsh(H)
    tolerance = 100 * H.shape[-1] * torch.finfo(H.dtype).eps * eigenvalues.abs().amax(dim=-1)
    if bool((eigenvalues[..., 0] < -tolerance).any()):
        raise ValueError(
            f"{name}: H has the eigenvalue {float(eigenvalues[..., 0].min()):.3g}; corners of the box attain the supremum for H ≽ 0 only"
        )


def spectral_smoothness(H: Tensor, n: int) -> Tensor:
    """Return ``sup_{‖D‖ ≤ 1} <D, HD>`` for D m×n: the sum of the positive parts of the min(m, n) largest eigenvalues (S5)."""
    eigenvalues = torch.linalg.eigvalsh(H)
    return eigenvalues[..., -min(H.shape[-1], n) :].clamp_min(0).sum(-1)


def weighted_spectral_smoothness(
    H: Tensor, gamma: Tensor, Q_L: Tensor, *, iterations: int = 30, restarts: int = 4, seed: int = 0
) -> Interval:
    r"""Enclose ``sup_{‖O‖ ≤ 1} <D, HD>``, ``D = Q_L(Γ ⊙ O)Q_Rᵀ``, for H ≽ 0.

    Parameters
    ----------
    H : Tensor, shape ``(..., m, m)``
    gamma : Tensor, shape ``(..., m, n)``
        Γ ≥ 0 in the rotated basis. Q_R does not enter.
    Q_L : Tensor, shape ``(..., m, m)``
        Left basis.
    iterations, restarts, seed : int
        Of the polar iteration ``O ← msign(K[O])``, monotone because the form is convex; the first
        start is O = I, the others are random.

    Returns
    -------
    Interval
        Rigorous up to rounding.

    Notes
    -----
    With ``K_j = diag(Γ_:j) Q_LᵀHQ_L diag(Γ_:j)`` the form is ``Σ_j o_jᵀ K_j o_j`` over the columns of O.
    For every A ≽ 0: ``K_j ≼ A + b_j I`` with ``b_j = λ_max(K_j - A)_+`` gives
    ``Σ_j o_jᵀK_jo_j ≤ tr(A OOᵀ) + Σ_j b_j ‖o_j‖² ≤ tr A + Σ_j b_j``.  A is read off the witness (the stationarity
    condition ``K[O] = AO + O diag(b)``) and, as a second candidate, set to the average of the K_j; the smaller value counts.
    """
    K = gamma.mT.unsqueeze(-1) * (Q_L.mT @ H @ Q_L).unsqueeze(-3) * gamma.mT.unsqueeze(-2)  # (..., n, m, m)

    def form(O: Tensor) -> Tensor:
        return (K @ O.mT.unsqueeze(-1)).squeeze(-1).mT

    m, n = gamma.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    best = torch.full(gamma.shape[:-2], -torch.inf, dtype=gamma.dtype, device=gamma.device)
    witness = torch.zeros_like(gamma)
    for restart in range(restarts):
        if restart == 0:
            O = torch.eye(m, n, dtype=gamma.dtype, device=gamma.device).expand_as(gamma)
        else:
            start = torch.randn(m, n, generator=generator, dtype=torch.float64).to(gamma)
            O = polar_factor(start.expand_as(gamma))
        for _ in range(iterations):
            O = polar_factor(form(O))
        value = (O * form(O)).sum(dim=(-2, -1))
        better = value > best
        best = torch.where(better, value, best)
        witness = torch.where(better[..., None, None], O, witness)
    aligned = form(witness) @ witness.mT
    upper = torch.full_like(best, torch.inf)
    candidates = [0.5 * (aligned + aligned.mT), K.mean(dim=-3)]
    if m > n:
        # O has n columns: tr(A OOᵀ) sees n of the m eigenvalues of A, so shifting the small ones into b pays.
        values, vectors = torch.linalg.eigh(candidates[1])
        for k in range(m):
            shifted = (values - values[..., k : k + 1]).clamp_min(0)
            candidates.append((vectors * shifted.unsqueeze(-2)) @ vectors.mT)
    for A in candidates:
        floor = torch.linalg.eigvalsh(A)[..., :1].clamp_max(0)
        A = A - floor.unsqueeze(-1) * torch.eye(m, dtype=A.dtype, device=A.device)
        b = torch.linalg.eigvalsh(K - A.unsqueeze(-3))[..., -1].clamp_min(0)
        upper = torch.minimum(upper, torch.diagonal(A, dim1=-2, dim2=-1).sum(-1) + b.sum(-1))
    return Interval(best, upper)
