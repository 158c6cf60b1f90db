"""The corners of the unit box."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES = 2**22  # of the table of corners held at one time


def sign_vectors(size: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """Return the sign vectors of ℝ^d up to a global sign, shape ``(2^{d-1}, d)``.

    An even function, such as a quadratic form, takes its values at all 2^d corners on these; the last sign is +1.

    Parameters
    ----------
    size : int
        d ≥ 0.
    """
    numbers = torch.arange(2 ** max(size - 1, 0), device=device)
    powers = 2 ** torch.arange(size, device=device)
    return 1.0 - 2.0 * ((numbers.unsqueeze(-1) & powers) > 0).to(dtype)


def largest_at_corners(H: Tensor, gamma: Tensor) -> Tensor:
    """Return ``max_{s ∈ {±1}^d} (γ ⊙ s)ᵀ H (γ ⊙ s)``, the maximum of uᵀHu over ``|u_i| ≤ γ_i`` if H ≽ 0 (SPEC S2, S4).

    Parameters
    ----------
    H : Tensor, shape ``(..., d, d)``
        Symmetric; 2^{d-1} sign vectors are enumerated, in parts that fit in memory.
    gamma : Tensor, shape ``(..., d)``
    """
    batch = torch.broadcast_shapes(H.shape[:-2], gamma.shape[:-1])
    best = torch.full(batch, -torch.inf, dtype=H.dtype, device=H.device)
    table = sign_vectors(H.shape[-1], dtype=H.dtype, device=H.device)
    for signs in table.split(max(1, _ENTRIES // (max(1, H.shape[-1]) * max(1, batch.numel())))):
        corners = signs * gamma.unsqueeze(-2)
        best = torch.maximum(best, ((corners @ H) * corners).sum(-1).amax(-1))
    return best
