"""Matrix quadratics ``f(X) = ½ tr(XᵀHX) + tr(BᵀX)``, batched over instances (SPEC E1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deva_theory.linalg import symmetric_power

SPECTRA: dict[str, tuple[tuple[float, ...], ...]] = {
    "heterogeneous": ((1.0, 2.0, 3.0), (99.0, 100.0, 101.0), (4998.0, 4999.0, 5000.0)),
    "homogeneous": ((1.0, 99.0, 4998.0), (2.0, 100.0, 4999.0), (3.0, 101.0, 5000.0)),
}
"""Eigenvalues of the diagonal blocks of E1's two Hessians: the same nine numbers, grouped differently."""


def block_hessian(spectrum: Sequence[Sequence[float]], rng: np.random.Generator) -> np.ndarray:
    """Return a block-diagonal matrix with blocks ``Q diag(eigenvalues) Qᵀ``, Q the eigenvectors of a Wishart matrix.

    Parameters
    ----------
    spectrum : sequence of sequences
        Eigenvalues of each block.
    rng : numpy.random.Generator
        Draws the d×d standard normal Z of each block, Wishart matrix ``ZZᵀ``.

    Returns
    -------
    ndarray, float64, shape ``(m, m)``
    """
    m = sum(len(block) for block in spectrum)
    H = np.zeros((m, m))
    start = 0
    for block in spectrum:
        d = len(block)
        Z = rng.standard_normal((d, d))
        Q = np.linalg.eigh(Z @ Z.T).eigenvectors
        H[start : start + d, start : start + d] = (Q * np.asarray(block)) @ Q.T
        start += d
    return H


@dataclass(frozen=True)
class TraceQuadratic:
    """``f(X) = ½ tr(XᵀHX) + tr(BᵀX)`` with H ≽ 0, X m×n; the Hessian in vec X is ``I_n ⊗ H``.

    Attributes
    ----------
    H : Tensor, shape ``(..., m, m)``
        Symmetric positive semidefinite.
    B : Tensor, shape ``(..., m, n)``, optional
        Linear term, absent by default.
    """

    H: Tensor
    B: Tensor | None = None

    def value(self, X: Tensor) -> Tensor:
        """Return f(X), shape ``(...)``."""
        value = 0.5 * (X * (self.H @ X)).sum(dim=(-2, -1))
        return value if self.B is None else value + (self.B * X).sum(dim=(-2, -1))

    def gradient(self, X: Tensor) -> Tensor:
        """Return ``HX + B``."""
        gradient = self.H @ X
        return gradient if self.B is None else gradient + self.B

    def root(self) -> Tensor:
        """Return ``A = H^{1/2}``, whose rows are the samples of the stochastic gradients."""
        return symmetric_power(self.H, 0.5)

    @staticmethod
    def row_gradient(A: Tensor, X: Tensor, rows: Tensor, *, squared: bool) -> Tensor:
        r"""Return the stochastic gradient from sampled rows of A, drawn with replacement.

        Parameters
        ----------
        A : Tensor, shape ``(..., m, m)``
            ``H^{1/2}``.
        rows : Tensor of int64, shape ``(..., b)``
            Indices of the sampled rows.
        squared : bool
            True: of ``½ (m/b) ‖A_b X‖_F²``, an unbiased gradient of ½ tr(XᵀHX).
            False: of ``½ (m/b) ‖A_b X‖_F``, the published experiment's loss; homogeneous of degree 0 in X and
            **not** an unbiased gradient of f (SPEC E1, A5).
        """
        m, b = A.shape[-2], rows.shape[-1]
        sampled = torch.take_along_dim(A, rows.unsqueeze(-1), dim=-2)
        residual = sampled @ X
        gradient = (m / b) * (sampled.mT @ residual)
        if squared:
            return gradient
        norm = torch.linalg.vector_norm(residual, dim=(-2, -1), keepdim=True)
        return 0.5 * gradient / torch.where(norm > 0, norm, 1.0)
