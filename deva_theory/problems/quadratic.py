"""Matrix quadratics ``f(X) = ½ tr(XᵀHX) + tr(BᵀX)``, batched over instances (SPEC E1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class FactoredQuadratic(TraceQuadratic):
    r"""``½ ‖AX‖_F² + tr(CᵀAX) = ½ ‖AX + C‖_F² - ½ ‖C‖_F²``: H = AᵀA, and B = AᵀC in its range.

    For a singular H.  Rounding makes eigenvalues of 0 slightly negative, and a component of B in the null space: a matrix of numbers
    near H is no quadratic bounded below, while this form is one whatever the numbers in A and C.

    Attributes
    ----------
    A : Tensor, shape ``(..., r, m)``
    C : Tensor, shape ``(..., r, n)``, optional
        Absent by default, and then B = 0.
    """

    A: Tensor = field(kw_only=True)
    C: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, A: Tensor, C: Tensor | None = None) -> FactoredQuadratic:
        """Return it with the rounded H and B that belong to A and C."""
        return cls(A.mT @ A, None if C is None else A.mT @ C, A=A, C=C)

    def value(self, X: Tensor) -> Tensor:
        """Return f(X), shape ``(...)``; at least 0 without C."""
        image = self.A @ X
        value = 0.5 * (image**2).sum(dim=(-2, -1))
        return value if self.C is None else value + (self.C * image).sum(dim=(-2, -1))

    def gradient(self, X: Tensor) -> Tensor:
        """Return ``Aᵀ(AX + C)``."""
        image = self.A @ X
        return self.A.mT @ (image if self.C is None else image + self.C)

    def gap(self, X: Tensor) -> Tensor:
        """Return ``½ ‖AX + C‖_F²`` in float64: f(X) less ``-½ ‖C‖_F²``."""
        image = self.A.to(torch.float64) @ X.to(torch.float64)
        return 0.5 * ((image if self.C is None else image + self.C) ** 2).sum(dim=(-2, -1))
