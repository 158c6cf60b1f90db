r"""The probabilistic certificate of Lanczos runs: how far an eigenvalue may lie beyond all Ritz values.

**One run** from a unit vector q gives orthonormal polynomials π_0 = 1, π_1, ..., π_k (three-term recurrence with the computed
α_j, β_j) with ``π_j(H) q = q_j`` orthonormal.  Let u be a unit eigenvector of the eigenvalue λ.  For every ``p = Σ_j c_j π_j``,

    p(λ)² <q,u>² ≤ ‖p(H) q‖² = Σ_j c_j² ,     so with c_j = π_j(λ):     S(λ) := Σ_{j≤k} π_j(λ)² ≤ 1/<q,u>² .

(Parseval for u in the orthonormal q_j: the left side is the sum of <q_j,u>²/<q,u>², at most 1/<q,u>².)  Beyond the largest
zero of π_k, the largest Ritz value, S increases without bound.  For q uniform on the sphere of dimension D, <q,u>² has the
Beta(½, (D-1)/2) law whatever u is.  With its distribution function F, ``U = F(<q,u>²)`` is uniform and ``U ≤ F(1/S(λ))``:
λ is excluded where F(1/S(λ)) ≤ δ, and wrongly so with probability at most δ.

The event U ≤ δ does not depend on k, so the certificate may be read at every step and stopped on.  It sees the gap, and it is
never weaker than the worst case over spectra: with p the Chebyshev polynomial T_{k-1} on the Ritz interval, whose norm is
at most one by Gauss quadrature, ``λ* - θ_max ≤ (θ_max - θ_min) sinh²(arcosh(1/τ) / (2k-2))`` with F(τ²) = δ.  The bound of
Kuczyński and Woźniakowski (1992) is this one up to constants, with 2k-1.  Hochstenbach and others (van Dorsselaer, Hochstenbach,
van der Vorst, SIMAX 2000) use one polynomial, ``|π_k(λ)| ≤ 1/τ``; the sum is the best over all polynomials of that degree.

**Several runs.**  A run ends when β_k is no more than the accuracy ε of the products: the direction of what is left is rounding,
and a recurrence continued in it would say nothing about q.  ε is then all that is known of β_k, and S, with ε in its place, still
holds, but it may not have reached its target: with accuracy 2e-6 a multiple of the identity is known to some percent.  The next run
starts from a fresh vector r, uniform on the sphere in the complement of the space K found so far, and works on the operator projected
there.  From ``H Q = Q T + w e_kᵀ``, ‖w‖ ≤ ε, an eigenvector u of an eigenvalue λ off the Ritz values by γ has ``‖Qᵀu‖ ≤ ε/γ``, and
its projection is an eigenvector of the projected operator up to ``ε ‖Qᵀu‖ ≤ ε²/γ``: second order in the accuracy of the products.
So the second run bounds <r,u>² as the first bounds <q,u>², with an independent U.  After m runs ``Π U_i ≤ Π F_i(1/S_i(λ))``, and
``-Σ ln U_i`` has the Gamma(m) law (Fisher's combination): λ is excluded where the probability of so small a product is at most δ_m.
The number of runs depends on H and on chance, hence ``Σ_m δ_m = δ``: nearly all is spent on the first run, the rest as 1/(m(m-1)) on
the later ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy.special import betainc, gammaincc

_SEARCH = 1e-4
"""Relative accuracy of the certified excess over the Ritz value."""
_LATER = 0.05
"""Share of the failure probability that the second and later runs may spend."""
_HUGE = 1e250
"""A sum of squares beyond which no eigenvalue can be; far from overflow."""


@dataclass
class Run:
    """The recurrence of one Lanczos run from a uniform vector in `dimension` dimensions; the last β never below the accuracy."""

    dimension: int
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)

    def mirrored(self) -> Run:
        """Return the run of -H."""
        return Run(self.dimension, [-a for a in self.alphas], self.betas)

    def sum_of_squares(self, x: float) -> float:
        """Return ``Σ_{j≤k} π_j(x)²``; outside the Ritz interval it grows outward."""
        before, current, total, last = 0.0, 1.0, 1.0, 0.0
        for alpha, beta in zip(self.alphas, self.betas, strict=True):
            before, current, last = current, ((x - alpha) * current - last * before) / beta, beta
            total += current * current
            if total > _HUGE:
                return math.inf
        return total


def excludes(runs: Sequence[Run], x: float, failure: float) -> bool:
    """Return whether no eigenvalue lies at x or beyond, x outside the Ritz interval, except with probability `failure`."""
    return float(gammaincc(len(runs), evidence(runs, x))) <= _share(len(runs), failure)


def evidence(runs: Sequence[Run], x: float) -> float:
    """Return ``-Σ ln F_i(1/S_i(x))``; it would be about the number of runs by chance alone."""
    total = 0.0
    for run in runs:
        chance = float(betainc(0.5, (run.dimension - 1) / 2, 1.0 / run.sum_of_squares(x))) if run.dimension > 1 else 0.0
        if chance == 0.0:
            return math.inf
        total -= math.log(chance)
    return total


def reach(runs: Sequence[Run], failure: float, largest: float, scale: float, known: float | None) -> float:
    """Return a point at or beyond the largest Ritz value that is excluded; at most `known`, which is."""
    if excludes(runs, largest, failure):
        return largest
    high = largest + scale if known is None else known
    while not excludes(runs, high, failure):
        high = largest + 2.0 * (high - largest)
    low = largest
    while high - low > _SEARCH * (high - largest):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if excludes(runs, middle, failure):
            high = middle
        else:
            low = middle
    return high


def _share(runs: int, failure: float) -> float:
    # 1/(m(m-1)) sums to 1 over m = 2, 3, ...
    return failure * ((1 - _LATER) if runs == 1 else _LATER / (runs * (runs - 1)))
