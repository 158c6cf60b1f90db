"""The corners of the unit box."""

from __future__ import annotations

import torch
from torch import Tensor


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
