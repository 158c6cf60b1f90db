r"""Unit balls of blocks: steepest directions, projections, and the quadratic majorants that certify an operator norm.

A *majorant* of a ball is a positive semidefinite M with a number ``trace`` such that ``<D, M D> ≤ trace`` on the ball.
By Cauchy-Schwarz, for every symmetric H,

    |<X, H Y>| ≤ trace · ‖M^{-1/2} H M^{-1/2}‖_2 ,     <D, H D> ≤ trace · max(0, λ_max(M^{-1/2} H M^{-1/2})) .

* box ``‖u‖_∞ ≤ 1``: ``M = diag(d)``, ``trace = Σ d_i``;
* spectral ball ``‖D‖_{2→2} ≤ 1`` of m×n matrices: ``M[D] = D A + B D`` with A (n×n) and B (m×m) positive semidefinite,
  ``trace = tr A + tr B``, because ``<D, D A> = tr(A DᵀD) ≤ tr A``;
* a product of balls (outer maximum): the direct sum, the traces add up.

The best majorant of the box is the dual of Grothendieck's semidefinite program (constant < 1.783), that of the
spectral ball the dual of the non-commutative one.  Both are found by one iteration on a *lifted* direction: k vectors
V_1..V_k whose Gram sums lie in the ball, ``Σ_k V_k,i² ≤ 1``, resp. ``Σ V_kᵀV_k ≼ I`` and ``Σ V_kV_kᵀ ≼ I``.  Given the
products ``G_k = H[V_k]``, the lifted steepest direction is ``V_k = 2 M^{-1}[G_k]`` with M the multiplier of those
constraints; M is what certifies.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.geometry import LInf, Spectral
from deva_theory.linalg import polar_factor

MAX_SIDE = 4096
"""Matrices with a longer side get a majorant on their shorter side only (its eigenbasis costs the side cubed)."""
_SVD_SIDE = 256
_TINY = 1e-10
_FAINT = 1e-3


class Majorant(ABC):
    """A quadratic form that dominates the square of the ball's gauge, up to `trace`."""

    trace: float
    length: int
    """Number of eigenvalues that `trace` sums."""

    @abstractmethod
    def power(self, V: Tensor, exponent: float) -> Tensor:
        """Return ``M^p V`` for p = -1 or -½, on rows (k, d)."""

    @abstractmethod
    def raised(self, amount: float) -> Majorant:
        """Return the majorant with `amount` added to every eigenvalue."""

    def floored(self, share: float, least: float = 0.0) -> Majorant:
        """Return it raised by `share` of the mean eigenvalue, or of `least` if that is more, so that M^{-1/2} is bounded."""
        return self.raised(share * (max(self.trace / self.length, least) or 1.0))


class Ball(ABC):
    """A symmetric convex body in ℝ^d; vectors are rows of (k, d).

    Attributes
    ----------
    size : int
        d.
    radius : float
        Largest Euclidean norm in the ball.
    """

    size: int
    radius: float

    @abstractmethod
    def steepest(self, G: Tensor) -> Tensor:
        """Return the maximiser of <D, G> over the ball, for each row."""

    @abstractmethod
    def dual_norm(self, G: Tensor) -> Tensor:
        """Return ``max <D, G>`` over the ball, shape (k,)."""

    @abstractmethod
    def gauge(self, D: Tensor) -> Tensor:
        """Return the norm whose unit ball this is, shape (k,)."""

    @abstractmethod
    def project(self, X: Tensor) -> Tensor:
        """Return the nearest point of the ball, for each row."""

    @abstractmethod
    def lift(self, G: Tensor, majorant: Majorant | None) -> Majorant:
        """Return the multiplier of the lifted steepest direction of the k rows of G, after one step from `majorant`."""


@dataclass(frozen=True)
class _Diagonal(Majorant):
    d: Tensor

    @property
    def trace(self) -> float:  # type: ignore[override]
        return float(self.d.sum())

    def power(self, V: Tensor, exponent: float) -> Tensor:
        scaled = torch.where(self.d > 0, self.d, 1.0).pow(exponent)
        return V * torch.where(self.d > 0, scaled, 0.0)

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self.d)

    def raised(self, amount: float) -> _Diagonal:
        return _Diagonal(self.d + amount)


@dataclass(frozen=True)
class Box(Ball):
    """``‖u‖_∞ ≤ 1``: the geometry of SignSGD and Adam."""

    size: int

    @property
    def radius(self) -> float:  # type: ignore[override]
        """``√d``, of the vertices."""
        return math.sqrt(self.size)

    def steepest(self, G: Tensor) -> Tensor:
        """Return ``sign(G)``, with +1 at zeros: a vertex is never worse for a form that may be maximised there."""
        return torch.where(G < 0, -1.0, 1.0).to(G)

    def dual_norm(self, G: Tensor) -> Tensor:
        """Return ``‖G‖_1``."""
        return LInf().dual.norm(G)

    def gauge(self, D: Tensor) -> Tensor:
        """Return ``max|D_i|``."""
        return LInf().norm(D)

    def project(self, X: Tensor) -> Tensor:
        """Return the entries clipped to [-1, 1]."""
        return X.clamp(-1.0, 1.0)

    def lift(self, G: Tensor, majorant: Majorant | None) -> Majorant:
        """Return ``M = 2 diag(‖G_:i‖_2)``, exact: ``V_i = 2 M^{-1} G_:i`` has unit norm in every coordinate."""
        return _Diagonal(2.0 * torch.linalg.vector_norm(G, dim=0))


@dataclass(frozen=True)
class _Sylvester(Majorant):
    """``M[D] = D A + B D``, in the eigenbases of A and B."""

    a: Tensor
    U_a: Tensor | None
    b: Tensor
    U_b: Tensor | None
    shape: tuple[int, int]

    @property
    def trace(self) -> float:  # type: ignore[override]
        return float(self.a.sum() + self.b.sum())

    def power(self, V: Tensor, exponent: float) -> Tensor:
        D = V.reshape(-1, *self.shape)
        denominator = self.a.unsqueeze(-2) + self.b.unsqueeze(-1)
        kept = denominator > 0
        factor = torch.where(kept, torch.where(kept, denominator, 1.0).pow(exponent), 0.0)
        if self.U_b is not None:
            D = self.U_b.mT @ D
        if self.U_a is not None:
            D = D @ self.U_a
        D = D * factor
        if self.U_b is not None:
            D = self.U_b @ D
        if self.U_a is not None:
            D = D @ self.U_a.mT
        return D.reshape(V.shape)

    @property
    def length(self) -> int:  # type: ignore[override]
        return (self.U_a is not None) * len(self.a) + (self.U_b is not None) * len(self.b)

    def raised(self, amount: float) -> _Sylvester:
        # A side without a majorant of its own stays without: its floor would cost its whole length.
        a = self.a if self.U_a is None else self.a + amount
        b = self.b if self.U_b is None else self.b + amount
        return _Sylvester(a, self.U_a, b, self.U_b, self.shape)


@dataclass(frozen=True)
class SpectralBall(Ball):
    """``‖D‖_{2→2} ≤ 1`` on m×n matrices, flattened by rows: the geometry of Muon and the S∞ rule."""

    rows: int
    columns: int

    @property
    def size(self) -> int:  # type: ignore[override]
        """``m n``."""
        return self.rows * self.columns

    @property
    def radius(self) -> float:  # type: ignore[override]
        """``√min(m, n)``, of the (partial) isometries."""
        return math.sqrt(min(self.rows, self.columns))

    def _matrices(self, X: Tensor) -> Tensor:
        return X.reshape(-1, self.rows, self.columns)

    def steepest(self, G: Tensor) -> Tensor:
        """Return ``msign(G)``; for sides over 256 by Polar Express, scaled into the ball."""
        D = self._matrices(G)
        if min(self.rows, self.columns) <= _SVD_SIDE:
            return Spectral().steepest(D).reshape(G.shape)
        D = polar_factor(D, method="polar_express", steps=10)
        norm = self.gauge(D.reshape(G.shape)).clamp_min(1.0)
        return D.reshape(G.shape) / norm.unsqueeze(-1)

    def dual_norm(self, G: Tensor) -> Tensor:
        """Return the nuclear norm."""
        return Spectral().dual.norm(self._matrices(G))

    def gauge(self, D: Tensor) -> Tensor:
        """Return the largest singular value, from the Gram matrix of the shorter side."""
        X = self._matrices(D)
        gram = X @ X.mT if self.rows <= self.columns else X.mT @ X
        return torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()

    def project(self, X: Tensor) -> Tensor:
        """Return the matrices with singular values clipped at 1."""
        U, S, Vh = torch.linalg.svd(self._matrices(X), full_matrices=False)
        return ((U * S.clamp_max(1.0).unsqueeze(-2)) @ Vh).reshape(X.shape)

    def lift(self, G: Tensor, majorant: Majorant | None) -> Majorant:
        r"""Return the next (A, B): ``A ← A^{1/2}(Σ V_kᵀV_k)^{1/2}A^{1/2}`` with ``V_k = 2M^{-1}[G_k]``, and likewise B.

        A fixed point satisfies complementarity: ``Σ V_kᵀV_k = I`` on the range of A, ``Σ V_kV_kᵀ = I`` on that of B.  The
        start is ``A = (Σ G_kᵀG_k)^{1/2}``, ``B = (Σ G_kG_kᵀ)^{1/2}``, exact for k = 1, where V = msign(G).
        """
        X = self._matrices(G)
        right, left = self.columns <= MAX_SIDE, self.rows <= MAX_SIDE
        if not right and not left:
            raise ValueError(f"a {self.rows}x{self.columns} matrix is too large for the spectral norm: one side must be at most {MAX_SIDE}")
        if not (right and left):
            side = X.flatten(0, 1) if right else X.mT.flatten(0, 1)  # (k·long, short): one multiplier is exact in one step
            values, U = _eigh_root(side.mT @ side)
            values = 2.0 * values  # V = 2M⁻¹G then satisfies ΣVᵀV = I
            zero = values.new_zeros(self.rows if right else self.columns)
            if right:
                return _Sylvester(values, U, zero, None, (self.rows, self.columns))
            return _Sylvester(zero, None, values, U, (self.rows, self.columns))
        if not isinstance(majorant, _Sylvester):
            a, U_a = _eigh_root((X.mT @ X).sum(0))
            b, U_b = _eigh_root((X @ X.mT).sum(0))
            return _Sylvester(a, U_a, b, U_b, (self.rows, self.columns))
        V = self._matrices(2.0 * majorant.power(G, -1.0))
        a, U_a = _sandwich(majorant.a, majorant.U_a, (V.mT @ V).sum(0))
        b, U_b = _sandwich(majorant.b, majorant.U_b, (V @ V.mT).sum(0))
        # Kept away from exact zero: a multiplicative step cannot leave it.
        least = _TINY * (a.max() + b.max())
        return _Sylvester(a.clamp_min(least), U_a, b.clamp_min(least), U_b, (self.rows, self.columns))


@dataclass(frozen=True)
class _Sum(Majorant):
    parts: tuple[Majorant, ...]
    sizes: tuple[int, ...]

    @property
    def trace(self) -> float:  # type: ignore[override]
        return sum(part.trace for part in self.parts)

    def power(self, V: Tensor, exponent: float) -> Tensor:
        pieces = V.split(self.sizes, dim=-1)
        return torch.cat([part.power(piece, exponent) for part, piece in zip(self.parts, pieces, strict=True)], dim=-1)

    @property
    def length(self) -> int:  # type: ignore[override]
        return sum(part.length for part in self.parts)

    def raised(self, amount: float) -> _Sum:
        return _Sum(tuple(part.raised(amount) for part in self.parts), self.sizes)

    def floored(self, share: float, least: float = 0.0) -> _Sum:
        # A piece without curvature needs a floor, but one that costs nothing beside the others.
        least = max(least, _FAINT * self.trace / self.length)
        return _Sum(tuple(part.floored(share, least) for part in self.parts), self.sizes)


class ProductBall(Ball):
    """Product of balls, ``max`` of their gauges: every piece takes a full step of its own."""

    def __init__(self, parts: Sequence[Ball]) -> None:
        if not parts:
            raise ValueError("ProductBall: give at least one ball")
        self.parts = tuple(parts)
        self.sizes = tuple(part.size for part in self.parts)
        self.size = sum(self.sizes)
        self.radius = math.hypot(*(part.radius for part in self.parts))

    def __repr__(self) -> str:
        return f"ProductBall({list(self.parts)!r})"

    def _split(self, X: Tensor) -> list[tuple[Ball, Tensor]]:
        return list(zip(self.parts, X.split(self.sizes, dim=-1), strict=True))

    def steepest(self, G: Tensor) -> Tensor:
        """Return each piece's own steepest direction."""
        return torch.cat([ball.steepest(piece) for ball, piece in self._split(G)], dim=-1)

    def dual_norm(self, G: Tensor) -> Tensor:
        """Return the sum of the dual norms."""
        return torch.stack([ball.dual_norm(piece) for ball, piece in self._split(G)]).sum(0)

    def gauge(self, D: Tensor) -> Tensor:
        """Return the largest gauge."""
        return torch.stack([ball.gauge(piece) for ball, piece in self._split(D)]).amax(0)

    def project(self, X: Tensor) -> Tensor:
        """Return each piece projected."""
        return torch.cat([ball.project(piece) for ball, piece in self._split(X)], dim=-1)

    def lift(self, G: Tensor, majorant: Majorant | None) -> Majorant:
        """Return the direct sum of the pieces' multipliers."""
        before = majorant.parts if isinstance(majorant, _Sum) else (None,) * len(self.parts)
        lifted = [ball.lift(piece, old) for (ball, piece), old in zip(self._split(G), before, strict=True)]
        return _Sum(tuple(lifted), self.sizes)


def _eigh_root(S: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and basis of the square root of S ≽ 0."""
    values, U = torch.linalg.eigh(0.5 * (S + S.mT))
    return values.clamp_min(0).sqrt(), U


def _sandwich(values: Tensor, U: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and basis of ``A^{1/2} S^{1/2} A^{1/2}``."""
    assert U is not None
    middle, W = _eigh_root(S)
    root = (U * values.sqrt()) @ (U.mT @ W) * middle.sqrt()  # A^{1/2} S^{1/4}, up to a rotation
    squared, basis = torch.linalg.eigh(root @ root.mT)
    return squared.clamp_min(0), basis
