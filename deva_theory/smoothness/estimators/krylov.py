r"""Extreme eigenvalues by Lanczos, with an a-posteriori probabilistic certificate.

Lanczos from a unit vector q gives orthonormal polynomials π_0 = 1, π_1, ..., π_k (three-term recurrence with the
computed α_j, β_j) with ``π_j(H) q = q_j`` orthonormal.  Let u be a unit eigenvector of the eigenvalue λ.  For every
``p = Σ_j c_j π_j``,

    p(λ)² <q,u>² ≤ ‖p(H) q‖² = Σ_j c_j² ,     so with c_j = π_j(λ):     Σ_{j≤k} π_j(λ)² ≤ 1/<q,u>² .

(Parseval for u in the orthonormal q_j: the left side is the sum of <q_j,u>²/<q,u>², at most 1/<q,u>².)  Beyond the
largest zero of π_k, the largest Ritz value, the sum increases without bound.  If ``<q,u>² ≥ τ²``, then λ_max is at
most the point λ* where the sum reaches 1/τ²; likewise below for λ_min.  For q uniform on the sphere, <q,u>² has the
Beta(½, (d-1)/2) law whatever u is; τ² is its quantile at δ/2, and both ends hold with probability at least 1-δ.

The event does not depend on k, so the certificate may be read at every step and stopped on.  It sees the gap, and it is
never weaker than the worst case over spectra: with p the Chebyshev polynomial T_{k-1} on the Ritz interval, whose norm is
at most one by Gauss quadrature, ``λ* - θ_max ≤ (θ_max - θ_min) sinh²(arcosh(1/τ) / (2k-2))``.  The bound of Kuczyński
and Woźniakowski (1992) is this one up to constants, with 2k-1.  Hochstenbach and others (van Dorsselaer, Hochstenbach,
van der Vorst, SIMAX 2000) use one polynomial, ``|π_k(λ)| ≤ 1/τ``; the sum is the best over all polynomials of that degree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.programs import Program

_CHUNK = 16
STOPS = ("certificate", "value")
_SEARCH = 1e-4
"""Relative accuracy of the certified excess over the Ritz value."""


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
        "value" stops as soon as the residual of the Ritz value of largest modulus is at most `tolerance`, relatively, and the
        certificate at most ``√(2.5 · tolerance)`` wide.  A residual alone concerns *some* eigenvalue: it is small at an inner
        eigenvalue while a larger one has not shown yet, and the sharper ``res²/gap`` takes the gap from the same Ritz values
        (about 5% of the blocks of small networks are missed then).  The certificate limits how much larger that one could
        be: the value is that accurate except with probability `failure`.  That it is accurate to `tolerance` is no theorem
        (none of 800 runs on blocks of trained networks missed it, and a few in a thousand on spectra with dense edges).
    max_products : int
        Stop here in any case; the interval is valid, only wider.
    noise : float
        Relative accuracy of the products: about 1e-14 in float64, 1e-6 in float32; at least 8 units of rounding of
        `dtype`.  Floor and ceiling are moved outward by ``noise · max|θ|``.
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
    if size < 1 or max_products < 1 or not 1e-100 < failure < 1 or not tolerance > 0:
        raise ValueError(
            f"extreme_eigenvalues: size {size}, max_products {max_products}, failure {failure}, tolerance {tolerance}; "
            "sizes and budgets are at least 1, the failure probability lies in (1e-100, 1), the tolerance is positive"
        )
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    q = (q / torch.linalg.vector_norm(q)).to(dtype)
    squared_overlap = float(stats.beta.ppf(failure / 2, 0.5, (size - 1) / 2)) if size > 1 else 1.0
    basis = torch.empty(min(_CHUNK, max_products), size, dtype=dtype, device=device)
    noise = max(noise, 8 * torch.finfo(dtype).eps)
    target = 1.0 / squared_overlap
    alphas: list[float] = []
    betas: list[float] = []
    limit = min(max_products, size)
    exponent = 0
    while True:
        k = len(alphas)
        if k == len(basis):
            more = torch.empty(min(_CHUNK, limit - k), size, dtype=dtype, device=device)
            basis = torch.cat((basis, more))
        basis[k] = q
        w = (yield q.unsqueeze(0)).squeeze(0).to(dtype)
        if k == 0:
            exponent = binary_exponent(w)
        w = w * 2.0**-exponent
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
        found = max(abs(values[0]), abs(values[-1]))
        # The whole space, or H q = 0 for a random q: nothing is left for chance.
        complete = k + 1 == size or scale == 0.0
        width = tolerance if stop == "certificate" else max(tolerance, math.sqrt(2.5 * tolerance))
        if both_ends:
            low, high = float(values[0]) - width * found, float(values[-1]) + width * found
        else:
            low, high = -(1 + width) * found, (1 + width) * found
        met = complete
        if not met and (stop == "certificate" or exhausted or _settled(values, betas[-1] * np.abs(vectors[-1]), tolerance)):
            # Cheaper than the certificate itself: has the sum reached its target at the ends of the wanted interval?
            low, high = low + noise * scale, high - noise * scale
            met = low <= values[0] and values[-1] <= high and all(_exceeds(alphas, betas, x, target) for x in (low, high))
        if met or exhausted or k + 1 >= limit:
            break
        q = w / beta
    if complete:
        ceiling, floor = float(values[-1]) + noise * scale, float(values[0]) - noise * scale
    else:
        ceiling = _reach(alphas, betas, target, float(values[-1]), scale, high if met else None) + noise * scale
        floor = -_reach([-a for a in alphas], betas, target, -float(values[0]), scale, -low if met else None) - noise * scale
    ends = torch.from_numpy(np.ascontiguousarray(vectors[:, [0, -1]].T)).to(basis)
    lowest, highest, floor, ceiling = (scaled(float(x), exponent) for x in (values[0], values[-1], floor, ceiling))
    return Spectrum(lowest, highest, floor, ceiling, ends @ basis[: len(alphas)], len(alphas), 0.0 if size == 1 else failure, met)


def binary_exponent(x: Tensor) -> int:
    """Return e with ``max|x| < 2^e ≤ 2 max|x|``, 0 for x = 0, within the range where ``2^-e`` is a normal number.

    Estimators form squares of products; scaled by ``2^-e``, exactly, these neither overflow nor underflow.
    """
    largest = float(x.abs().max())
    limit = math.frexp(torch.finfo(x.dtype).max)[1] - 2
    return max(-limit, min(limit, math.frexp(largest)[1])) if largest > 0 else 0


def scaled(value: float, exponent: int) -> float:
    """Return ``value · 2^exponent``, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return float(np.ldexp(value, exponent))


def euclidean_products(size: int, max_products: int) -> tuple[int, int]:
    """Return (typical, at most) numbers of products; typical of trained networks at the default tolerance."""
    most = min(max_products, size)
    return min(most, round(8 + 2.5 * math.log(size))), most


def dense_spectrum(H: Tensor) -> Spectrum:
    """Return the spectrum of a matrix at hand, to rounding."""
    values, vectors = torch.linalg.eigh(H)
    low, high = float(values[0]), float(values[-1])
    slack = 10 * len(H) * torch.finfo(H.dtype).eps * max(abs(low), abs(high))
    return Spectrum(low, high, low - slack, high + slack, vectors[:, [0, -1]].T, 0, 0.0, True)


def _settled(values: np.ndarray, residuals: np.ndarray, tolerance: float) -> bool:
    """Return whether the Ritz value of largest modulus has a small residual and the other end cannot overtake it."""
    top = int(np.argmax(np.abs(values)))
    rivals = (np.sign(values) != np.sign(values[top])) & (np.abs(values) + residuals > abs(values[top]))
    return bool(residuals[top] <= tolerance * abs(values[top]) and not rivals.any())


def euclidean_smoothness(size: int, *, tolerance: float = 1e-3, **options: object) -> Program[Estimate]:
    """Enclose ``max|λ|`` (bilinear) and ``max(0, λ_max)`` (quadratic); options of :func:`extreme_eigenvalues`."""
    spectrum = yield from extreme_eigenvalues(size, tolerance=tolerance, **options)  # type: ignore[arg-type]
    lower, upper = spectrum.modulus
    top = int(abs(spectrum.highest) >= abs(spectrum.lowest))
    u = spectrum.vectors[top]
    value = spectrum.highest if top else spectrum.lowest
    pair = None if value == 0 else (u if value > 0 else -u, u)
    method = "Lanczos, sum of squared Lanczos polynomials"
    bilinear = Bounds(lower, upper, "Ritz value", method, spectrum.failure, witness=pair)
    positive = spectrum.vectors[1] if spectrum.highest > 0 else None
    quadratic = Bounds(
        max(0.0, spectrum.highest), max(0.0, spectrum.ceiling), "Ritz value", method, spectrum.failure, witness=positive
    )
    notes: tuple[str, ...] = ()
    if not spectrum.met:
        notes = (f"stopped at {spectrum.products} products before the tolerance was reached",)
    elif upper > (1 + tolerance) * lower:
        notes = ("stopped by the residual rule: the value has the tolerance, the certified interval is wider",)
    return Estimate("l2", size, bilinear, quadratic, spectrum.products, tolerance, spectrum.met, notes)


def _exceeds(alphas: list[float], betas: list[float], x: float, target: float) -> bool:
    """Return whether ``Σ_{j≤k} π_j(x)² > target`` at a point outside the Ritz interval, where the sum grows outward."""
    before, current, total, last = 0.0, 1.0, 1.0, 0.0
    for alpha, beta in zip(alphas, betas, strict=True):
        before, current, last = current, ((x - alpha) * current - last * before) / beta, beta
        total += current * current
        if total > target:
            return True
    return False


def _reach(alphas: list[float], betas: list[float], target: float, largest: float, scale: float, known: float | None) -> float:
    """Return a point beyond the largest Ritz value where the sum of squared polynomials exceeds `target`, 1/τ²; at most `known`."""
    if _exceeds(alphas, betas, largest, target):
        return largest
    high = largest + scale if known is None else known
    while not _exceeds(alphas, betas, high, target):
        high = largest + 2.0 * (high - largest)
    low = largest
    while high - low > _SEARCH * (high - largest):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if _exceeds(alphas, betas, middle, target):
            high = middle
        else:
            low = middle
    return high
