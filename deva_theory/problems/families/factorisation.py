"""Matrix factorisation ``½ ‖XYᵀ - A‖_F²`` on a ball: smooth, non-convex, with a known global minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, Constants, Problem, keep_copies, standard_normal, whole_number


@dataclass(frozen=True, eq=False)
class MatrixFactorisation(Problem):
    r"""``f(Z) = ½ ‖XYᵀ - A‖_F²`` with ``Z = [X; Y]``, X m×r stacked on Y n×r, on the ball ``‖Z‖_F ≤ R``.

    Attributes
    ----------
    target : Tensor, shape ``(*batch, m, n)``
        A.
    rank : int
        r ≥ 1.
    ball : float
        R > 0.  Nothing keeps iterates in the ball: on the whole space no constant exists, and `value` and `gradient` raise
        "bounded domain" at the first point outside (:meth:`inside` tells which instances are).  T steps with directions
        ``‖d‖_∞ ≤ 1`` and step size η cannot leave it if ``‖Z_0‖_F + ηT √((m+n)r) ≤ R``.

    Raises
    ------
    AssumptionError
        "bounded domain": R is not positive and finite. "smoothness": A is not finite, or the constants leave the range of float64.
    TypeError, ValueError
        A is no floating-point matrix, R no number; the rank is no whole number of at least 1.

    Notes
    -----
    For ``D = [P; Q]`` and ``E = XYᵀ - A``, ``<D, ∇²f[D]> = ‖PYᵀ + XQᵀ‖_F² + 2<E, PQᵀ>``.  Write ``x = ‖X‖_F``, ``y = ‖Y‖_F``:
    ``x² + y² ≤ R²``, so ``‖XYᵀ‖_* ≤ xy ≤ R²/2``.

    * Euclidean, ``‖D‖_F = 1``: the first term is ``≤ (y‖P‖_F + x‖Q‖_F)² ≤ R²``, the second ``≤ 2‖E‖_{2→2}‖P‖_F‖Q‖_F ≤ R²/2 + σ_1(A)``.
      The sum ``3R²/2 + σ_1(A)`` is attained at ``X = tu``, ``Y = -tv`` (first columns), ``t = R/√2``, u and v the leading singular
      vectors, along ``P ∝ u``, ``Q ∝ -v``.  The coordinate constants are all this number.
    * Box, ``|D_ij| ≤ 1``: ``‖P‖_F ≤ √(mr)``, ``‖Q‖_F ≤ √(nr)``, ``2<XYᵀ, PQᵀ> ≤ 2xy·r√(mn)`` and, column by column of P and Q,
      ``2<A, PQᵀ> ≤ 2r ‖A‖_{∞→1} ≤ 2r min(√(mn) σ_1(A), Σ|A_ij|)``.  Apart from A, the sum is ``≤ r(nx² + 4√(mn)xy + my²)``, at most
      ``R² r`` times the larger eigenvalue of ``[[n, 2√(mn)], [2√(mn), m]]``.  Attained for A proportional to the matrix of ones.  The
      same steps bound ``<D, ∇²f[D']>``, hence ``‖∇²f‖_{∞→1}``.
    * Spectral, ``PᵀP + QᵀQ ≼ I``: PQᵀ is an off-diagonal block of ``0 ≼ DDᵀ ≼ I`` and has rank ≤ r, hence norm ≤ ½ and
      ``-2<A, PQᵀ> ≤ Σ_{k≤r} σ_k(A)``.  The rest is, with ``M = PᵀX``, ``N = QᵀY`` and their symmetric parts,
      ``‖XQᵀ‖_F² + ‖YPᵀ‖_F² + 4<sym M, sym N> ≤ 2R²``: by the mean inequality ``4<sym M, sym N> ≤ 2‖sym M‖_F² + 2‖sym N‖_F²``,
      and ``2‖sym M‖_F² = ‖PᵀX‖_F² + tr((XPᵀ)²) ≤ x² + ‖XPᵀ‖_F²``, where ``‖XPᵀ‖_F² + ‖XQᵀ‖_F² ≤ x²``; likewise for N and y.
      Attained for A = 0 and r ≥ 2 with X and Y in different columns.  For r = 1 the spectral norm of D is its Euclidean norm.
    * ``f* = ½ Σ_{k>r} σ_k(A)²`` (Eckart-Young), attained in the ball if ``R² ≥ 2 Σ_{k≤r} σ_k(A)``, else a lower bound.
    """

    event_ndim: ClassVar[int] = 2

    target: Tensor
    rank: int
    ball: float

    def __post_init__(self) -> None:
        keep_copies(self, "target")
        if self.target.ndim < 2 or 0 in self.target.shape or not self.target.dtype.is_floating_point:
            raise ValueError(f"{self.name}: the target must be a floating-point matrix, not of shape {tuple(self.target.shape)}")
        object.__setattr__(self, "rank", whole_number(self.name, "the rank", self.rank))
        if isinstance(self.ball, bool) or not isinstance(self.ball, int | float):
            raise TypeError(f"{self.name}: the ball's radius must be a number, not {self.ball!r}")
        if not (math.isfinite(self.ball) and self.ball > 0):
            raise AssumptionError("bounded domain", f"{self.name}: the ball's radius must be positive and finite, not {self.ball}")
        if not bool(self.target.isfinite().all()):
            raise AssumptionError("smoothness", f"{self.name}: the target must be finite")

    @property
    def name(self) -> str:
        """Return "matrix factorisation"."""
        return "matrix factorisation"

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of instances."""
        return self.target.shape[:-2]

    @property
    def event_shape(self) -> torch.Size:
        """``(m + n, r)``."""
        return torch.Size((sum(self.target.shape[-2:]), self.rank))

    @property
    def like(self) -> Tensor:
        """The target."""
        return self.target

    @property
    def radius(self) -> float:
        """Radius of the ball in the Frobenius norm."""
        return self.ball

    def factors(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """Return (X, Y) of shapes ``(..., m, r)`` and ``(..., n, r)``, views of Z."""
        m = self.target.shape[-2]
        return Z[..., :m, :], Z[..., m:, :]

    def start(self, generator: torch.Generator | int, shape: Sequence[int] = ()) -> Tensor:
        """Return random points of Frobenius norm R/2, uniform on that sphere, shape ``(*shape, *batch, m + n, r)``."""
        Z = standard_normal((*shape, *self.batch_shape, *self.event_shape), generator, self.like)
        return 0.5 * self.ball * Z / torch.linalg.vector_norm(Z, dim=(-2, -1), keepdim=True)

    def _value(self, x: Tensor) -> Tensor:
        X, Y = self.factors(x)
        return 0.5 * ((X @ Y.mT - self.target) ** 2).sum(dim=(-2, -1))

    def _gradient(self, x: Tensor) -> Tensor:
        X, Y = self.factors(x)
        E = X @ Y.mT - self.target
        return torch.cat((E @ Y, E.mT @ X), dim=-2)

    @cached_property
    def constants(self) -> Constants:
        """The known constants, valid on the ball."""
        A = self.target.to(torch.float64)
        (m, n), r, square = A.shape[-2:], self.rank, float(self.ball) * self.ball  # infinite where ** would raise
        sigma = torch.linalg.svdvals(A)
        kept = sigma[..., :r].sum(-1)
        euclidean = 1.5 * square + sigma[..., 0]
        entrywise = torch.minimum(math.sqrt(m * n) * sigma[..., 0], A.abs().sum(dim=(-2, -1)))
        box = square * r * ((m + n) / 2 + math.sqrt((m - n) ** 2 / 4 + 4 * m * n)) + 2 * r * entrywise
        return Constants(
            optimum=0.5 * (sigma[..., r:] ** 2).sum(-1), optimum_exact=bool((2 * kept <= square).all()),
            coordinate=euclidean[..., None, None].expand(*A.shape[:-2], *self.event_shape).clone(), box=box, box_exact=False,
            euclidean=euclidean, gradient_lipschitz_linf=box, convex=False,
            spectral=(1.5 if r == 1 else 2.0) * square + kept, radius=self.ball,
        )  # fmt: skip
