"""E1's matrix quadratics ``½ tr(XᵀHX) + tr(BᵀX)`` as a family: constants, and the finite sum over the rows of ``H^{1/2}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, Constants, FiniteSum, whole_number
from deva_theory.problems.families.exact import quadratic_minimum
from deva_theory.problems.families.majorants import box_smoothness, coordinate_majorant
from deva_theory.problems.quadratic import SPECTRA, FactoredQuadratic, TraceQuadratic, block_hessian

_EPS = torch.finfo(torch.float64).eps


class _Minimum(NamedTuple):
    """f* or a number below it, whether it is f*; for B ≠ 0 and H ≻ 0 also a point near the minimum, ∇f there and a bound on Δ there."""

    lower: Tensor
    exact: bool
    point: Tensor | None = None
    slope: Tensor | None = None
    excess: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TraceProblem(FiniteSum):
    r"""``f(X) = ½ tr(XᵀHX) + tr(BᵀX)``, H ≽ 0, X m×n (SPEC E1), also as ``(1/m) Σ_i [½ m ‖a_iᵀX‖² + tr(BᵀX)]`` with ``H = Σ a_i a_iᵀ``.

    Attributes
    ----------
    quadratic : TraceQuadratic
        H of shape ``(*batch, m, m)``, B absent or of shape ``(*batch, m, n)``.  A copy of what is given; for a singular H the projection
        below, a :class:`~deva_theory.problems.quadratic.FactoredQuadratic`.
    columns : int
        n.

    Raises
    ------
    AssumptionError
        "bounded below": H has a negative eigenvalue, or B a component in the null space of H. "smoothness": H or B is not finite, or the
        constants leave the range of float64.
    TypeError, ValueError
        H is not symmetric (to rounding in its dtype; its symmetric part is used), or shapes or dtypes do not fit.

    Notes
    -----
    The Hessian in vec X is ``I_n ⊗ H``, so a coordinate majorant of H serves every column, ``λ_max`` is H's, the box constant is
    ``n · L_∞(H)`` and the spectral one the sum of the min(m, n) largest eigenvalues (S5), exact; L_∞ is exact up to 16 rows.

    **Bounded below.**  f falls without end if H has any negative eigenvalue, or B any component in the null space.  Eigenvalues of H (of
    its float64 copy, whatever its dtype: an H that was rounded to float32 may well be indefinite) are known to e = 4mελ_max, ε = 2^-52.
    Below -e is an error; between -e and 2e they cannot be told from 0, and are taken as 0: with the others, ``A = Λ^{1/2}Qᵀ`` and
    ``C = Λ^{-1/2}QᵀB``, value and gradient are those of ``½‖AX + C‖² - ½‖C‖²``.  That changes H by at most 2e, and B by its component in
    the null space, which may be at most 100mε‖B‖, and has f* = -½‖C‖² whatever rounding did to A and C.

    **f*.**  ``-½ tr(BᵀH^†B)``: 0 without B; for H ≻ 0 a certified lower bound, ``f(X̂) - ‖∇f(X̂)‖²/(2(λ_min - e))`` in exact arithmetic,
    rounded down.  It is called exact unless it may be off by more than 1e-14 of itself, or an eigenvalue was taken as 0 and B ≠ 0.

    The a_i are the rows of ``H^{1/2}``.  Entry (j, k) of component i's gradient is ``m a_ij <a_i, x_k> + B_jk`` for the column x_k, with
    variance ``x_kᵀ C_j x_k``, ``C_j = m Σ_i a_ij² a_i a_iᵀ - h_j h_jᵀ``, h_j row j of H: unbounded on the whole space, and at most
    ``R² λ_max(C_j)`` on ``‖X‖_F ≤ R``, attained.
    """

    event_ndim: ClassVar[int] = 2

    quadratic: TraceQuadratic
    columns: int

    def __post_init__(self) -> None:
        H, B = self.quadratic.H.detach().clone(), self.quadratic.B
        if H.ndim < 2 or H.shape[-1] != H.shape[-2] or 0 in H.shape or not H.dtype.is_floating_point:
            raise ValueError(f"{self.name}: H must be a floating-point square matrix, not {H.dtype} of shape {tuple(H.shape)}")
        object.__setattr__(self, "columns", whole_number(self.name, "the number of columns", self.columns))
        if B is not None:
            if B.shape != (*H.shape[:-1], self.columns):
                raise ValueError(f"{self.name}: B has the shape {tuple(B.shape)}, not {(*H.shape[:-1], self.columns)}")
            B = B.detach().to(H, copy=True)
        if not bool(H.isfinite().all()) or not (B is None or bool(B.isfinite().all())):
            raise AssumptionError("smoothness", f"{self.name}: H and B must be finite")
        asymmetry, size = (H - H.mT).abs().amax(dim=(-2, -1)), H.abs().amax(dim=(-2, -1))
        eps = torch.finfo(H.dtype).eps
        if bool((asymmetry > 100 * H.shape[-1] * eps * size).any()):
            raise ValueError(f"{self.name}: H is not symmetric")
        if bool((asymmetry > 4 * eps * size).any()):
            H = 0.5 * (H + H.mT)  # else HX + B is not the gradient of f to rounding
        object.__setattr__(self, "quadratic", self._bounded_below(H, B))

    def _bounded_below(self, H: Tensor, B: Tensor | None) -> TraceQuadratic:
        """Return the quadratic, or its projection where H is singular; see the class."""
        eigenvalues, Q = torch.linalg.eigh(_symmetric(H))
        error = _error(eigenvalues)
        negative = eigenvalues[..., 0] < -error
        if bool(negative.any()):
            least = float(eigenvalues[..., 0][negative].min())
            raise AssumptionError(
                "bounded below",
                f"{self.name}: H has the eigenvalue {least:.3g} in float64; compute a semidefinite H in float64, or add at least "
                f"{-least:.2g} times the identity",
            )
        null = eigenvalues <= 2 * error.unsqueeze(-1)
        if not bool(null.any()):
            return TraceQuadratic(H, B)
        root = torch.where(null, 0.0, eigenvalues).sqrt().unsqueeze(-1)
        A = (root * Q.mT).to(H)
        if B is None:
            return FactoredQuadratic.of(A)
        inside = Q.mT @ B.to(torch.float64)
        lost, whole = (_norm(x) for x in (inside * null.unsqueeze(-1), inside))
        allowed = 100 * H.shape[-1] * _EPS * whole
        if bool((lost > allowed).any()):
            share = float((lost / whole)[lost > allowed].max())
            raise AssumptionError(
                "bounded below",
                f"{self.name}: B has a component in the null space of H ({share:.2g} of its size), along which f is linear and falls "
                "without end; take B = HM, computed in float64, or an H without eigenvalues near 0",
            )
        return FactoredQuadratic.of(A, torch.where(null.unsqueeze(-1), 0.0, inside / torch.where(root > 0, root, 1.0)).to(H))

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

    def gap(self, x: Tensor) -> Tensor:
        """Return Δ = f(x) - f* or slightly more, float64, shape ``(*samples, *batch)``, never as a difference of two values.

        Singular H: ``½‖AX + C‖²``.  No B: ``½ tr(XᵀHX)``.  Else ``½ tr(DᵀHD) + <∇f(X̂), D> + (a bound on f(X̂) - f*)`` with ``D = X - X̂``,
        X̂ the minimum rounded to float64: the last two terms are what that rounding costs.
        """
        self.check(x)
        if isinstance(self.quadratic, FactoredQuadratic):
            return self.quadratic.gap(x)
        H, minimum = self.quadratic.H.to(torch.float64), self._minimum
        if minimum.point is None or minimum.slope is None or minimum.excess is None:
            return TraceQuadratic(H).value(x.to(torch.float64))
        return (TraceQuadratic(H, minimum.slope).value(x.to(torch.float64) - minimum.point) + minimum.excess).clamp_min(0)

    @cached_property
    def _minimum(self) -> _Minimum:
        H, B = self.quadratic.H, self.quadratic.B
        zero = torch.zeros(self.batch_shape, dtype=torch.float64, device=H.device)
        if B is None or not bool(B.any()):
            return _Minimum(zero, True)
        if isinstance(self.quadratic, FactoredQuadratic) and self.quadratic.C is not None:
            # The sum is off by less than half of one ε a term; its terms by what underflow takes.
            C, terms = self.quadratic.C.to(torch.float64), prod(self.event_shape)
            least = -0.5 * (C**2).sum(dim=(-2, -1)) * (1 + (terms + 4) * _EPS) - terms * 5e-324
            return _Minimum(torch.where((C != 0).any(dim=-1).any(dim=-1), least, zero), False)
        eigenvalues, Q = torch.linalg.eigh(_symmetric(H))
        positive = eigenvalues[..., 0] - _error(eigenvalues)
        exact = True
        lower, excess, point, slope = (np.zeros(shape) for shape in (self.batch_shape, self.batch_shape, B.shape, B.shape))
        parts = [x.to("cpu", torch.float64).numpy() for x in (H, B, eigenvalues, Q, positive)]
        for i in np.ndindex(*self.batch_shape):
            h, b, values, basis, bound = (part[i] for part in parts)
            if not b.any():
                continue
            one = quadratic_minimum(h, b, eigenvalues=values, Q=basis, least=float(bound))
            lower[i], excess[i], point[i], slope[i] = one.lower, one.excess, one.point, one.slope
            exact = exact and one.width <= 1e-14
        tensors = [torch.from_numpy(x).to(zero.device) for x in (lower, point, slope, excess)]
        return _Minimum(tensors[0], exact, *tensors[1:])

    @cached_property
    def constants(self) -> Constants:
        """The known constants."""
        H = _symmetric(self.quadratic.H)
        if isinstance(self.quadratic, FactoredQuadratic):
            A = self.quadratic.A.to(torch.float64)
            H = _symmetric(A.mT @ A)
        y = coordinate_majorant(H)
        box, exact = box_smoothness(H, y)
        box = self.columns * box
        eigenvalues = torch.linalg.eigvalsh(H).clamp_min(0)
        return Constants(
            optimum=self._minimum.lower, optimum_exact=self._minimum.exact, coordinate=y.unsqueeze(-1).expand(*y.shape, self.columns),
            box=box, box_exact=exact, euclidean=eigenvalues[..., -1], gradient_lipschitz_linf=box, convex=True,
            spectral=eigenvalues[..., -min(self.event_shape) :].sum(-1),
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


def _symmetric(H: Tensor) -> Tensor:
    H = H.to(torch.float64)
    return 0.5 * (H + H.mT)


def _error(eigenvalues: Tensor) -> Tensor:
    """Return a bound on the error of computed eigenvalues, shape ``(...)``: the backward error of a symmetric solver is of this order."""
    return 4 * eigenvalues.shape[-1] * _EPS * eigenvalues.abs().amax(-1)


def _norm(x: Tensor) -> Tensor:
    """Return the Frobenius norm; squares of large or small entries stay within the range of float64."""
    largest = x.abs().amax(dim=(-2, -1), keepdim=True)
    unit = torch.where(largest > 0, largest, 1.0)
    return (unit * torch.linalg.vector_norm(x / unit, dim=(-2, -1), keepdim=True)).squeeze((-2, -1))
