"""Numbers written as nested lists, as the float64 tensors in which the checks run the library; no claims of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tensor(rows: Any) -> Tensor:
    """Return float64 numbers."""
    return torch.as_tensor(rows, dtype=torch.float64)
