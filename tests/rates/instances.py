"""Random instances of the rates' tests, L_Γ by enumeration, and means held against a limit."""

import itertools
import math

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def standing(samples: Tensor, limit: Tensor) -> bool:
    """Is the mean of the samples at most the limit, by five standard errors."""
    return bool(samples.mean() - 5 * samples.std() / math.sqrt(len(samples)) <= limit)


def box(H: Tensor, gamma: Tensor) -> Tensor:
    """L_Γ of H ≽ 0: the corners of the box |u_i| ≤ γ_i attain it."""
    corners = torch.tensor(list(itertools.product((1.0, -1.0), repeat=H.shape[-1])), dtype=torch.float64)
    u = corners * gamma[..., None, :]
    return torch.einsum("...ki,...ij,...kj->...k", u, H, u).amax(-1)


def semidefinite(count: int, d: int, seed: int) -> Tensor:
    A = randn(count, d, d, seed=seed)
    return A @ A.mT
