"""E1's matrix quadratics ``½ tr(XᵀHX) + tr(BᵀX)`` as a family: constants, and the finite sum over the rows of ``H^{1/2}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, Constants, FiniteSum
from deva_theory.problems.families.majorants import box_smoothness, coordinate_majorant
from deva_theory.problems.quadratic import SPECTRA, TraceQuadratic, block_hessian


@dataclass(frozen=True, eq=False)
class TraceProblem(FiniteSum):
    r"""``f(X) = ½ tr(XᵀHX) + tr(BᵀX)``, H ≽ 0, X m×n (SPEC E1), also as ``(1/m) Σ_i [½ m ‖a_iᵀX‖² + tr(BᵀX)]`` with ``H = Σ a_i a_iᵀ``.

    Attributes
    ----------
    quadratic : TraceQuadratic
        H of shape ``(*batch, m, m)``, B absent or of shape ``(*batch, m, n)``.
    columns : int
        n.

    Raises
    ------
    AssumptionError
        "bounded below": H has a negative eigenvalue, or B a component in the null space of H. "smoothness": H is not finite.
    ValueError
        H is not symmetric, or shapes do not fit.

    Notes
    -----
    The Hessian in vec X is ``I_n ⊗ H``, so a coordinate majorant of H serves every column, ``λ_max`` is H's, the box constant is
    ``n · L_∞(H)`` and the spectral one the sum of the min(m, n) largest eigenvalues (S5), exact; L_∞ is exact up to 16 rows.
    ``f* = -½ tr(BᵀH^†B)``.

    The a_i are the rows of ``H^{1/2}``.  Entry (j, k) of component i's gradient is ``m a_ij <a_i, x_k> + B_jk`` for the column x_k, with
    variance ``x_kᵀ C_j x_k``, ``C_j = m Σ_i a_ij² a_i a_iᵀ - h_j h_jᵀ``, h_j row j of H: unbounded on the whole space, and at most
    ``R² λ_max(C_j)`` on ``‖X‖_F ≤ R``, attained.
    """

    event_ndim: ClassVar[int] = 2

    quadratic: TraceQuadratic
    columns: int

    def __post_init__(self) -> None:
        H, B = self.quadratic.H, self.quadratic.B
        if H.ndim < 2 or H.shape[-1] != H.shape[-2] or 0 in H.shape or not H.dtype.is_floating_point:
            raise ValueError(f"{self.name}: H must be a floating-point square matrix, not {H.dtype} of shape {tuple(H.shape)}")
        if self.columns < 1:
            raise ValueError(f"{self.name}: at least one column is needed")
        if not bool(H.isfinite().all()):
            raise AssumptionError("smoothness", f"{self.name}: H must be finite")
        tolerance = 100 * H.shape[-1] * torch.finfo(H.dtype).eps
        if bool(((H - H.mT).abs().amax(dim=(-2, -1)) > tolerance * H.abs().amax(dim=(-2, -1))).any()):
            raise ValueError(f"{self.name}: H is not symmetric")
        eigenvalues, Q = torch.linalg.eigh(H.to(torch.float64))
        null = tolerance * eigenvalues[..., -1:].clamp_min(0)
        if bool((eigenvalues < -null).any()):
            raise AssumptionError("bounded below", f"{self.name}: H has the eigenvalue {float(eigenvalues.min()):.3g}")
        if B is None:
            return
        if B.shape != (*H.shape[:-1], self.columns):
            raise ValueError(f"{self.name}: B has the shape {tuple(B.shape)}, not {(*H.shape[:-1], self.columns)}")
        inside = Q.mT @ B.to(torch.float64)
        lost = torch.linalg.vector_norm(inside * (eigenvalues <= null).unsqueeze(-1), dim=(-2, -1))
        if not bool((lost <= torch.finfo(H.dtype).eps ** 0.5 * torch.linalg.vector_norm(inside, dim=(-2, -1))).all()):
            raise AssumptionError("bounded below", f"{self.name}: B has a component in the null space of H, along which f is linear")

    @classmethod
    def published(cls, spectrum: str, *, instances: Sequence[int] = (), columns: int = 9, seed: int = 0) -> TraceProblem:
        """Return E1's problem "heterogeneous" or "homogeneous", float64, a Hessian drawn anew for each instance.

        Parameters
        ----------
        spectrum : str
            A key of :data:`~deva_theory.problems.SPECTRA`.
        instances : sequence of int
            Shape of the batch.
        columns : int
            n.
        seed : int
            Of the random bases of the blocks.
        """
        if spectrum not in SPECTRA:
            raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, not {spectrum!r}")
        rng = np.random.default_rng(seed)
        H = np.stack([block_hessian(SPECTRA[spectrum], rng) for _ in range(prod(instances))])
        return cls(TraceQuadratic(torch.from_numpy(H).reshape(*instances, *H.shape[1:])), columns)

    @property
    def name(self) -> str:
        """Return "trace quadratic"."""
        return "trace quadratic"

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of instances."""
        return self.quadratic.H.shape[:-2]

    @property
    def event_shape(self) -> torch.Size:
        """``(m, n)``."""
        return torch.Size((self.quadratic.H.shape[-1], self.columns))

    @property
    def like(self) -> Tensor:
        """H."""
        return self.quadratic.H

    def _value(self, x: Tensor) -> Tensor:
        return self.quadratic.value(x)

    def _gradient(self, x: Tensor) -> Tensor:
        return self.quadratic.gradient(x)

    @cached_property
    def constants(self) -> Constants:
        """The known constants."""
        H = self.quadratic.H.to(torch.float64)
        H = 0.5 * (H + H.mT)
        eigenvalues, Q = torch.linalg.eigh(H)
        y = coordinate_majorant(H)
        box, exact = box_smoothness(H, y)
        box = self.columns * box
        optimum = torch.zeros_like(box)
        if self.quadratic.B is not None:
            live = eigenvalues > 100 * H.shape[-1] * torch.finfo(self.quadratic.H.dtype).eps * eigenvalues[..., -1:]
            inverse = torch.where(live, 1 / torch.where(live, eigenvalues, 1.0), 0.0)
            optimum = -0.5 * (inverse.unsqueeze(-1) * (Q.mT @ self.quadratic.B.to(torch.float64)) ** 2).sum(dim=(-2, -1))
        return Constants(
            optimum=optimum, optimum_exact=True, coordinate=y.unsqueeze(-1).expand(*y.shape, self.columns), box=box, box_exact=exact,
            euclidean=eigenvalues[..., -1], gradient_lipschitz_linf=box, convex=True,
            spectral=eigenvalues[..., -min(self.event_shape) :].clamp_min(0).sum(-1),
        )  # fmt: skip

    @cached_property
    def root(self) -> Tensor:
        """``H^{1/2}``, shape ``(*batch, m, m)``, whose rows are the samples."""
        return self.quadratic.root()

    @property
    def components(self) -> int:
        """Number m of rows."""
        return self.event_shape[0]

    def weighted_gradient(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return ``m Σ_i w_i a_i a_iᵀ X + B``; with counts over rows, :meth:`TraceQuadratic.row_gradient` of the squared loss."""
        self.check(x)
        A = self.root
        gradient = A.mT @ (self.components * weights.unsqueeze(-1) * (A @ x))
        return gradient if self.quadratic.B is None else gradient + self.quadratic.B

    def component_variance(self, x: Tensor) -> Tensor:
        """Return ``x_kᵀ C_j x_k`` for each entry (j, k), shape ``(..., m, n)``; see the class."""
        self.check(x)
        A = self.root
        return (self.components * ((A**2).mT @ (A @ x) ** 2) - (self.quadratic.H @ x) ** 2).clamp_min(0)

    def component_deviation(self, radius: float | None) -> Tensor:
        """Return ``R √λ_max(C_j)``, shape ``(*batch, m, n)``: attained on ``‖X‖_F ≤ R``; an error without a radius."""
        if radius is None:
            raise AssumptionError(
                "finite variance", f"{self.name}: the variance of a sampled row grows with ‖X‖²; give the radius of a ball of iterates"
            )
        A, H = self.root.to(torch.float64), self.quadratic.H.to(torch.float64)
        C = self.components * torch.einsum("...ij,...ik,...il->...jkl", A**2, A, A) - H.unsqueeze(-1) * H.unsqueeze(-2)
        sigma = radius * torch.linalg.eigvalsh(C)[..., -1].clamp_min(0).sqrt()
        return sigma.unsqueeze(-1).expand(*sigma.shape, self.columns)
