"""Upper bounds on a positive semidefinite Hessian: the best diagonal above it, and its exact maximum over the corners of the box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deva_theory.geometry import largest_at_corners
from deva_theory.problems.families.base import AssumptionError

ENUMERATED = 16
"""Largest number of coordinates whose sign vectors are enumerated."""


def coordinate_majorant(H: Tensor, *, sweeps: int = 1000) -> Tensor:
    r"""Return y ≥ 0 with ``diag(y) ≽ H``, near the one of least sum; its sum is an upper bound on ``L_∞(H)`` (SPEC S4).

    Parameters
    ----------
    H : Tensor, shape ``(..., d, d)``
        Symmetric positive semidefinite.
    sweeps : int
        At most so many passes over the coordinates; fewer once the sum grows by less than 1e-8 of itself.

    Returns
    -------
    Tensor of float64, shape ``(..., d)``
        Equality ``uᵀHu = uᵀdiag(y)u`` holds for some u ≠ 0 (unless H = 0): no multiple of y below 1 would do.

    Raises
    ------
    AssumptionError
        "smoothness": H is not finite.

    Notes
    -----
    ``min{Σy : diag(y) ≽ H}`` is dual to ``max{<H, Z> : Z ≽ 0, Z_ii = 1}`` and at most (π/2) L_∞(H) (Nesterov 1998).  Writing
    ``Z = VVᵀ`` with unit rows of V, the mixing method (Wang, Chang & Kolter 2017) maximises over one row at a time:
    ``v_i ∝ Σ_{j≠i} H_ij v_j``; at the maximum ``y_i = H_ii + ‖Σ_{j≠i} H_ij v_j‖``.  Whatever y it ends with is made feasible: with
    ``ρ = λ_max(D H D)``, ``D = diag(y)^{-1/2}``, one has ``H ≼ ρ diag(y)``.  A row of H with ``H_ii = 0`` is zero, and y_i = 0 serves.
    """
    H = H.to(torch.float64)
    if not bool(H.isfinite().all()):
        raise AssumptionError("smoothness", "a bound on the Hessian is not finite in float64; rescale f or its variables")
    d = H.shape[-1]
    # Squares of the entries must stay within the range of float64: divide by a power of two near the largest.
    largest = H.abs().amax(dim=(-2, -1), keepdim=True)
    unit = torch.where(largest > 0, largest / (2 * torch.frexp(largest).mantissa), 1.0)
    H = H / unit
    # Rank √(2d) suffices for the maximum over V to equal the one over Z (Barvinok, Pataki).
    rank = min(d, math.ceil(math.sqrt(2 * d)) + 1)
    V = torch.randn(d, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").to(H.device)
    V = (V / torch.linalg.vector_norm(V, dim=-1, keepdim=True)).expand(*H.shape[:-1], rank).clone()
    diagonal = torch.diagonal(H, dim1=-2, dim2=-1)
    off = H - torch.diag_embed(diagonal)
    y, swept = diagonal.clone(), diagonal.clone()
    total = torch.zeros(H.shape[:-2], dtype=H.dtype, device=H.device)
    live = torch.ones_like(total, dtype=torch.bool)
    for _ in range(sweeps):
        for i in range(d):
            pull = (off[..., i, None, :] @ V).squeeze(-2)
            norm = torch.linalg.vector_norm(pull, dim=-1)
            V[..., i, :] = torch.where((norm > 0).unsqueeze(-1), pull / norm.unsqueeze(-1), V[..., i, :])
            swept[..., i] = diagonal[..., i] + norm
        # Each instance stops by itself, so that its constants do not depend on the batch it stands in.
        y = torch.where(live.unsqueeze(-1), swept, y)
        last, total = total, swept.sum(-1)
        live = live & (total > last * (1 + 1e-8))
        if not bool(live.any()):
            break
    scale = torch.where(y > 0, y, 1.0).rsqrt() * (y > 0)
    rho = torch.linalg.eigvalsh(scale.unsqueeze(-1) * H * scale.unsqueeze(-2))[..., -1].clamp_min(0)
    return y.clamp_min(0) * (rho * (1 + 8 * d * torch.finfo(H.dtype).eps)).unsqueeze(-1) * unit.squeeze(-1)


def box_smoothness(H: Tensor, coordinate: Tensor) -> tuple[Tensor, bool]:
    r"""Return ``L_∞(H) = max_{s ∈ {±1}^d} sᵀHs`` for H ≽ 0, or the bound ``Σ_i L_i`` on it, and whether it is exact (SPEC S4).

    Parameters
    ----------
    H : Tensor, shape ``(..., d, d)``
        Positive semidefinite: a convex function attains its maximum over a box at a corner.
    coordinate : Tensor, shape ``(..., d)``
        L with ``diag(L) ≽ H``: ``uᵀHu ≤ Σ L_i u_i² ≤ Σ L_i``.

    Returns
    -------
    (Tensor of float64, shape ``(...)``, bool)
        Exact, by enumeration, up to :data:`ENUMERATED` coordinates.
    """
    d = H.shape[-1]
    if d > ENUMERATED:
        return coordinate.to(torch.float64).sum(-1), False
    H = H.to(torch.float64)
    return largest_at_corners(H, H.new_ones(d)), True
