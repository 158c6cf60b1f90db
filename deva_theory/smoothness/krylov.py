r"""Extreme eigenvalues by Lanczos, with an a-posteriori probabilistic certificate.

Lanczos from a unit vector q gives orthonormal polynomials π_0 = 1, π_1, ..., π_k (three-term recurrence with the
computed α_j, β_j) with ``π_j(H) q = q_j`` orthonormal.  Let u be a unit eigenvector of the eigenvalue λ.  For every
``p = Σ_j c_j π_j``,

    p(λ)² <q,u>² ≤ ‖p(H) q‖² = Σ_j c_j² ,     so with c_j = π_j(λ):     Σ_{j≤k} π_j(λ)² ≤ 1/<q,u>² .

(Parseval for u in the orthonormal q_j: the left side is the sum of <q_j,u>²/<q,u>², at most 1/<q,u>².)  Beyond the
largest zero of π_k, the largest Ritz value, the sum increases without bound.  If ``<q,u>² ≥ τ²``, then λ_max is at
most the point λ* where the sum reaches 1/τ²; likewise below for λ_min.  For q uniform on the sphere, <q,u>² has the
Beta(½, (d-1)/2) law whatever u is; τ² is its quantile at δ/2, and both ends hold with probability at least 1-δ.

The event does not depend on k, so the certificate may be read at every step and stopped on.  It is never weaker than
the bound of Kuczyński and Woźniakowski (1992), a worst case over all spectra, and it sees the gap.  Hochstenbach and
others (van Dorsselaer, Hochstenbach, van der Vorst, SIMAX 2000) use one polynomial, ``|π_k(λ)| ≤ 1/τ``; the sum is
the best over all polynomials of that degree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from deva_theory.smoothness.estimate import Bounds, Estimate
from deva_theory.smoothness.programs import Program

_CHUNK = 16
STOPS = ("certificate", "value")
_REDUCTION = 33
"""Points per round of the search for λ*."""


@dataclass(frozen=True)
class Spectrum:
    """Enclosure of the extreme eigenvalues of a symmetric operator.

    Attributes
    ----------
    lowest, highest : float
        Extreme Ritz values: ``λ_min ≤ lowest``, ``highest ≤ λ_max`` for sure.
    floor, ceiling : float
        ``floor ≤ λ_min``, ``λ_max ≤ ceiling`` with probability at least ``1 - failure``.
    vectors : Tensor, shape ``(2, d)``
        Unit Ritz vectors of `lowest` and `highest`.
    products : int
        Operator-vector products used.
    failure : float
        δ, for both ends together.
    met : bool
        Whether the requested stopping rule was reached.
    """

    lowest: float
    highest: float
    floor: float
    ceiling: float
    vectors: Tensor
    products: int
    failure: float
    met: bool

    @property
    def modulus(self) -> tuple[float, float]:
        """Lower and upper bound of max|λ|."""
        return max(abs(self.lowest), abs(self.highest)), max(abs(self.floor), abs(self.ceiling))


def extreme_eigenvalues(
    size: int,
    *,
    tolerance: float = 1e-3,
    failure: float = 1e-3,
    max_products: int = 300,
    both_ends: bool = False,
    stop: str = "certificate",
    noise: float = 1e-14,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Program[Spectrum]:
    """Enclose λ_min and λ_max of a symmetric operator on ℝ^d.

    Parameters
    ----------
    size : int
        d ≥ 1.
    tolerance : float
        Stop once ``max|λ|`` is enclosed to this relative width; with `both_ends` once each end is enclosed to
        ``tolerance · max|λ|``.
    failure : float
        δ in (0, 1), for both ends together.
    stop : {"certificate", "value"}
        "value" stops as soon as the residual rule ``min(res, res²/gap)`` says that the Ritz value of largest modulus has
        the relative accuracy `tolerance`.  The rule is no certificate (it concerns *some* eigenvalue and estimates the
        gap); it needs about half the products, and the certified interval is wider than `tolerance` then.
    max_products : int
        Stop here in any case; the interval is valid, only wider.
    noise : float
        Relative accuracy of the products: about 1e-14 in float64, 1e-6 in float32.  The ends are moved outward by
        ``noise · max|θ|``.
    seed : int
        Of the start vector, which must not depend on the operator.
    dtype, device
        Of the vectors; full reorthogonalisation, twice.

    Raises
    ------
    ValueError
        A size, tolerance, probability or budget that makes no sense.
    """
    if stop not in STOPS:
        raise ValueError(f"extreme_eigenvalues: stop is {stop!r}; use one of {', '.join(STOPS)}")
    if size < 1 or max_products < 1 or not 0 < failure < 1 or not tolerance > 0:
        raise ValueError(
            f"extreme_eigenvalues: size {size}, max_products {max_products}, failure {failure}, tolerance {tolerance}; "
            "sizes and budgets are at least 1, the failure probability lies in (0, 1), the tolerance is positive"
        )
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    q = (q / torch.linalg.vector_norm(q)).to(dtype)
    squared_overlap = float(stats.beta.ppf(failure / 2, 0.5, (size - 1) / 2)) if size > 1 else 1.0
    basis = torch.empty(min(_CHUNK, max_products), size, dtype=dtype, device=device)
    alphas: list[float] = []
    betas: list[float] = []
    limit = min(max_products, size)
    while True:
        k = len(alphas)
        if k == len(basis):
            more = torch.empty(min(_CHUNK, limit - k), size, dtype=dtype, device=device)
            basis = torch.cat((basis, more))
        basis[k] = q
        w = (yield q.unsqueeze(0)).squeeze(0).to(dtype)
        known = basis[: k + 1]
        alpha = float(torch.dot(q, w))
        for _ in range(2):
            w = w - known.T @ (known @ w)
        beta = float(torch.linalg.vector_norm(w))
        alphas.append(alpha)
        betas.append(beta)
        scale = max(map(abs, alphas)) + max(betas)
        # β below the accuracy of the products is rounding: the certificate counts it as large as that accuracy.
        exhausted = beta <= noise * scale or k + 1 == size
        betas[-1] = max(beta, noise * scale)
        values, vectors = eigh_tridiagonal(np.array(alphas), np.array(betas[:-1]))
        if k + 1 == size or scale == 0.0:
            # The whole space, or H q = 0 for a random q: nothing is left for chance.
            ceiling, floor = float(values[-1]) + noise * scale, float(values[0]) - noise * scale
        else:
            ceiling = _reach(alphas, betas, squared_overlap, float(values[-1]), scale) + noise * scale
            floor = -_reach([-a for a in alphas], betas, squared_overlap, -float(values[0]), scale) - noise * scale
        found = max(abs(values[0]), abs(values[-1]))
        if stop == "value":
            met = _settled(values, betas[-1] * np.abs(vectors[-1]), tolerance)
        elif both_ends:
            met = max(ceiling - values[-1], values[0] - floor) <= tolerance * found
        else:
            met = max(abs(floor), abs(ceiling)) <= (1 + tolerance) * found
        if met or exhausted or k + 1 >= limit:
            break
        q = w / beta
    ends = torch.from_numpy(np.ascontiguousarray(vectors[:, [0, -1]].T)).to(basis)
    return Spectrum(
        float(values[0]), float(values[-1]), floor, ceiling, ends @ basis[: len(alphas)], len(alphas),
        0.0 if size == 1 else failure, bool(met or k + 1 == size),
    )


def dense_spectrum(H: Tensor) -> Spectrum:
    """Return the spectrum of a matrix at hand, to rounding."""
    values, vectors = torch.linalg.eigh(H)
    low, high = float(values[0]), float(values[-1])
    slack = 10 * len(H) * torch.finfo(H.dtype).eps * max(abs(low), abs(high))
    return Spectrum(low, high, low - slack, high + slack, vectors[:, [0, -1]].T, 0, 0.0, True)


def _settled(values: np.ndarray, residuals: np.ndarray, tolerance: float) -> bool:
    """Return whether the Ritz value of largest modulus is accurate to `tolerance` by the residual-gap rule."""
    top = int(np.argmax(np.abs(values)))
    if len(values) < 3:
        return bool(residuals.max(initial=0.0) == 0.0)
    gap = np.abs(np.delete(values, top) - values[top]).min() - residuals[top]
    error = residuals[top] if gap <= 0 else min(residuals[top], residuals[top] ** 2 / gap)
    # The other end must not be about to overtake it.
    rivals = np.abs(values) + residuals > abs(values[top])
    rivals[top] = False
    rivals &= np.sign(values) != np.sign(values[top])
    return bool(error <= tolerance * abs(values[top]) and not rivals.any())


def euclidean_smoothness(size: int, *, tolerance: float = 1e-3, **options: object) -> Program[Estimate]:
    """Enclose ``max|λ|`` (bilinear) and ``max(0, λ_max)`` (quadratic); options of :func:`extreme_eigenvalues`."""
    spectrum = yield from extreme_eigenvalues(size, tolerance=tolerance, **options)  # type: ignore[arg-type]
    lower, upper = spectrum.modulus
    top = int(abs(spectrum.highest) >= abs(spectrum.lowest))
    method = "Lanczos, sum of squared Lanczos polynomials"
    bilinear = Bounds(lower, upper, "Ritz value", method, spectrum.failure, witness=spectrum.vectors[top])
    quadratic = Bounds(
        max(0.0, spectrum.highest), max(0.0, spectrum.ceiling), "Ritz value", method, spectrum.failure, witness=spectrum.vectors[1]
    )
    notes = () if spectrum.met else (f"stopped at {spectrum.products} products before the tolerance was reached",)
    return Estimate("l2", size, bilinear, quadratic, spectrum.products, tolerance, spectrum.met, notes)


def _reach(alphas: list[float], betas: list[float], squared_overlap: float, largest: float, scale: float) -> float:
    """Return the point beyond the largest Ritz value where the sum of squared polynomials reaches 1/τ²."""
    target = 1.0 / squared_overlap
    low, high = largest, largest + scale
    while _squares(alphas, betas, np.array([high]))[0] <= target:
        high = largest + 2.0 * (high - largest)
    for _ in range(6):
        points = np.linspace(low, high, _REDUCTION)
        beyond = _squares(alphas, betas, points) > target
        beyond[-1] = True
        first = int(np.argmax(beyond))
        low, high = points[max(first - 1, 0)], points[first]
        if high - low <= 1e-9 * scale:
            break
    return float(high)


def _squares(alphas: list[float], betas: list[float], x: np.ndarray) -> np.ndarray:
    """Return ``Σ_{j≤k} π_j(x)²``, infinite where it overflows."""
    before, current = np.zeros_like(x), np.ones_like(x)
    total = np.ones_like(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for j, (alpha, beta) in enumerate(zip(alphas, betas, strict=True)):
            following = ((x - alpha) * current - (betas[j - 1] if j else 0.0) * before) / beta
            total += following**2
            before, current = current, following
    total[np.isnan(total)] = np.inf
    return total
