"""Random rational orthogonal matrices and singular value decompositions with exact powers.

Identities between matrices are checked on random rational instances on which every square and fourth root that occurs
is rational: equality is then equality, with no tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from deva_theory.certify.matrices import RationalMatrix, backend, fraction

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RationalMatrix", "RationalSVD", "backend", "cayley", "random_orthogonal", "rational_svd"]


def cayley(K: RationalMatrix) -> RationalMatrix:
    """Return ``(I - K)(I + K)⁻¹``, a rotation, for skew-symmetric K.

    Raises
    ------
    ValueError
        When ``K ≠ -Kᵀ``.
    """
    if K.shape[0] != K.shape[1] or K != -K.T:
        raise ValueError("cayley: K must be skew-symmetric")
    eye = RationalMatrix(RationalMatrix.identity(K.shape[0]).tolist(), backend=K.backend)
    return (eye - K) @ (eye + K).inverse()


def random_orthogonal(rng: np.random.Generator, n: int) -> RationalMatrix:
    """Return a random rational orthogonal n × n matrix with small numerators and denominators.

    A Cayley transform of a skew matrix of small rationals, its rows permuted and their signs drawn, so that both
    determinants and the eigenvalue -1 occur.  For n ≥ 2 it is never a mere signed permutation.  Large n is made of
    blocks of at most 4 rows in two different groupings, to bound the height.
    """
    if n < 1:
        raise ValueError(f"random_orthogonal: n = {n}, must be at least 1")
    Q = _rotation(rng, n) if n <= 4 else _blocks(rng, n) @ _permute(rng, RationalMatrix.identity(n)) @ _blocks(rng, n)
    return _permute(rng, Q)


def _rotation(rng: np.random.Generator, n: int) -> RationalMatrix:
    """Return a Cayley transform that is no signed permutation (n ≥ 2)."""
    while True:
        scale = int(rng.integers(1, 4))
        K = [[Fraction(0)] * n for _ in range(n)]
        for i in range(n):
            for j in range(i):
                K[i][j] = Fraction(int(rng.integers(-2, 3)), scale)
                K[j][i] = -K[i][j]
        Q = cayley(RationalMatrix(K))
        if n == 1 or sum(x != 0 for row in Q.tolist() for x in row) > n:
            return Q


def _blocks(rng: np.random.Generator, n: int) -> RationalMatrix:
    """Return a block-diagonal orthogonal matrix of blocks of 2 to 4 rows (n ≥ 2)."""
    rows = [[Fraction(0)] * n for _ in range(n)]
    start = 0
    while start < n:
        size = n - start if n - start <= 4 else min(4, n - start - 2)
        for i, row in enumerate(_rotation(rng, size).tolist()):
            rows[start + i][start : start + size] = row
        start += size
    return RationalMatrix(rows)


def _permute(rng: np.random.Generator, Q: RationalMatrix) -> RationalMatrix:
    rows = Q.tolist()
    signs = rng.choice([-1, 1], size=len(rows)).tolist()
    return RationalMatrix([[sign * x for x in rows[i]] for sign, i in zip(signs, rng.permutation(len(rows)).tolist(), strict=True)])


@dataclass(frozen=True)
class RationalSVD:
    """``G = U diag(σ) Vᵀ`` with rational factors, and its exact pseudo-inverse powers.

    Attributes
    ----------
    U : RationalMatrix, shape ``(m, m)``
        Orthogonal.
    sigma : tuple of Fraction
        The min(m, n) singular values, zeros among them when the rank is lower; any order.
    V : RationalMatrix, shape ``(n, n)``
        Orthogonal.
    roots : tuple of Fraction or None
        ``√σ`` where rational and asked for: with them the powers ±1/4 of ``GGᵀ`` are rational.

    Raises
    ------
    ValueError
        When a factor is not orthogonal, a singular value is negative, their number is wrong, or a root is not the root.
    """

    U: RationalMatrix
    sigma: tuple[Fraction, ...]
    V: RationalMatrix
    roots: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", tuple(map(fraction, self.sigma)))
        if self.roots is not None:
            object.__setattr__(self, "roots", tuple(map(fraction, self.roots)))
        for name, Q in (("U", self.U), ("V", self.V)):
            if Q.shape[0] != Q.shape[1] or Q @ Q.T != RationalMatrix.identity(Q.shape[0]):
                raise ValueError(f"RationalSVD: {name} is not orthogonal")
        if len(self.sigma) != min(self.shape) or min(self.sigma) < 0:
            raise ValueError(f"RationalSVD: give {min(self.shape)} singular values, none negative")
        if self.roots is not None and ([x * x for x in self.roots] != list(self.sigma) or min(self.roots) < 0):
            raise ValueError("RationalSVD: the roots are not the square roots of the singular values")

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``."""
        return self.U.shape[0], self.V.shape[0]

    @property
    def rank(self) -> int:
        """The number of non-zero singular values."""
        return sum(x > 0 for x in self.sigma)

    def matrix(self) -> RationalMatrix:
        """Return ``G = U diag(σ) Vᵀ``."""
        return self._with(self.sigma)

    def msign(self) -> RationalMatrix:
        """Return the polar factor: ``U Vᵀ`` restricted to σ > 0."""
        return self._with([Fraction(x > 0) for x in self.sigma])

    def power_left(self, p: Fraction | float) -> RationalMatrix:
        """Return ``(GGᵀ)^{†p}`` for any multiple p of 1/4 (of 1/2 without `roots`); p = 0 is the projector on the range.

        For p < 0 it is ``(GGᵀ)^{†|p|}``, a power of the pseudo-inverse.
        """
        return self.U @ RationalMatrix.diagonal(self._powers(p), self.U.shape) @ self.U.T

    def power_right(self, p: Fraction | float) -> RationalMatrix:
        """Return ``(GᵀG)^{†p}``, as `power_left`."""
        return self.V @ RationalMatrix.diagonal(self._powers(p), self.V.shape) @ self.V.T

    def _with(self, diagonal: Sequence[Fraction]) -> RationalMatrix:
        return self.U @ RationalMatrix.diagonal(diagonal, self.shape) @ self.V.T

    def _powers(self, p: Fraction | float) -> list[Fraction]:
        base, exponent = (self.sigma, 2 * Fraction(p)) if self.roots is None else (self.roots, 4 * Fraction(p))
        if exponent.denominator != 1:
            raise ValueError(f"the power {p} of these singular values is not rational: use multiples of 1/{2 if self.roots is None else 4}")
        return [x ** int(exponent) if x else Fraction(0) for x in base]


def rational_svd(
    rng: np.random.Generator, m: int, n: int, rank: int | None = None, *, fourth_roots: bool = True, distinct: bool = True
) -> RationalSVD:
    """Return a random m × n matrix by its exact singular value decomposition.

    Parameters
    ----------
    rng : numpy.random.Generator
    m, n : int
    rank : int, optional
        At most min(m, n), the default.
    fourth_roots : bool
        Draw the singular values as squares, so that ``(GGᵀ)^{±1/4}`` is rational; otherwise only ``(GGᵀ)^{±1/2}`` is.
    distinct : bool
        Draw the non-zero singular values without replacement, so that the singular vectors are unique up to signs.
    """
    rank = min(m, n) if rank is None else rank
    if not 0 <= rank <= min(m, n):
        raise ValueError(f"rational_svd: rank = {rank}, must lie between 0 and {min(m, n)}")
    bound = 3
    while len(pool := sorted({Fraction(p, q) for p in range(1, bound + 1) for q in range(1, bound + 1)})) < 2 * rank:
        bound += 1
    chosen = rng.choice(len(pool), size=rank, replace=not distinct).tolist() if rank else []
    values = (*sorted((pool[i] for i in chosen), reverse=True), *[Fraction(0)] * (min(m, n) - rank))
    U, V = random_orthogonal(rng, m), random_orthogonal(rng, n)
    if not fourth_roots:
        return RationalSVD(U, values, V)
    return RationalSVD(U, tuple(x * x for x in values), V, roots=values)
