r"""Extreme eigenvalues by Lanczos, with an a-posteriori probabilistic certificate.

The recurrence, its restarts and when to stop; what it proves is in :mod:`deva_theory.smoothness.estimators.certificate`.

**Accuracy of the products.**  Model: what is computed is the product with a symmetric H + E, ``‖E‖_2 ≤ noise · ‖H‖_2``.  By Weyl's
inequality every eigenvalue moves by ``noise · ‖H‖_2`` at most, so both ends of an interval move outward by that much; the larger of
``max|θ|`` and ``max|α| + max β`` stands for ‖H‖_2.  That rounding is the same E for all products is an assumption: it
holds for the rounding of the forward pass, which all products share, and what changes from product to product is of the same size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from deva_theory.smoothness.estimators.certificate import Run, evidence, excludes, reach
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.programs import Program
from deva_theory.smoothness.estimators.randomness import generator

_CHUNK = 16
_EVIDENCE = 2.0
"""Evidence of the finished runs, each, without which there is no other run."""
STOPS = ("certificate", "value")


@dataclass(frozen=True)
class Spectrum:
    """Enclosure of the extreme eigenvalues of a symmetric operator.

    Attributes
    ----------
    lowest, highest : float
        Extreme Ritz values, moved inward by the accuracy of the products: ``λ_min ≤ lowest``, ``highest ≤ λ_max`` for sure.
        If all eigenvalues are equal, `lowest` is the larger one.
    floor, ceiling : float
        ``floor ≤ λ_min``, ``λ_max ≤ ceiling`` with probability at least ``1 - failure``.
    vectors : Tensor, shape ``(2, d)``
        Unit Ritz vectors of both ends.
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
        return max(self.highest, -self.lowest, 0.0), max(abs(self.floor), abs(self.ceiling))


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
    stream: str = "lanczos",
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
        and stops there, too.  The certificate limits how much larger that one could be: the value is that accurate except
        with probability `failure`.  That it is accurate to `tolerance` is no theorem; ``benchmarks/smoothness_intervals.py``
        counts the misses.
    max_products : int
        Stop here in any case; the interval is valid, only wider.
    noise : float
        Relative accuracy of the products: about 1e-14 in float64, 1e-6 in float32; at least 8 units of rounding of
        `dtype`.  Every end is moved outward by about ``noise · ‖H‖``, twice that if there was a restart (a Ritz vector may
        then combine runs, whose coupling of at most that size is not computed).
    seed, stream : int, str
        Of the start vectors, which must not depend on the operator, see
        :func:`~deva_theory.smoothness.estimators.randomness.generator`.
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
    draws = generator(seed, stream)

    def start(known: Tensor) -> Tensor:
        """Return a uniform unit vector of the complement of the orthonormal rows `known`."""
        r = torch.randn(size, generator=draws, dtype=torch.float64, device="cpu").to(device)
        r = (r / torch.linalg.vector_norm(r)).to(dtype)
        if len(known):
            # The second pass removes what cancellation leaves in a small complement.
            for _ in range(2):
                r = r - known.T @ (known @ r)
                r = r / torch.linalg.vector_norm(r)
        return r

    basis = torch.empty(min(_CHUNK, max_products), size, dtype=dtype, device=device)
    q = start(basis[:0])
    noise = max(noise, 8 * torch.finfo(dtype).eps)
    noise /= 1 - min(noise, 0.5)  # relative to what is computed, not to H
    runs = [Run(size)]
    alphas: list[float] = []
    couplings: list[float] = []  # β between q_j and q_{j+1}; 0 between runs
    limit = min(max_products, size)
    exponent, largest_beta = 0, 0.0
    while True:
        k, run = len(alphas), runs[-1]
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
        largest_beta = max(largest_beta, beta)
        scale = max(map(abs, alphas)) + largest_beta
        # β below the accuracy of the products is rounding: the certificate counts it as large as that accuracy.
        exhausted = beta <= noise * scale or k + 1 == size
        run.alphas.append(alpha)
        run.betas.append(max(beta, noise * scale))
        values, vectors = eigh_tridiagonal(np.array(alphas), np.array(couplings))
        lowest, highest = float(values[0]), float(values[-1])
        margin = noise * max(scale, highest, -lowest) * min(2, len(runs))
        found = max(highest, -lowest) - margin
        # The whole space, or H q = 0 for a random q: nothing is left for chance.
        complete = k + 1 == size or scale == 0.0
        width = tolerance if stop == "certificate" else max(tolerance, math.sqrt(2.5 * tolerance))
        if both_ends:
            low, high = lowest + margin - width * found, highest - margin + width * found
        else:
            low, high = -(1 + width) * found, (1 + width) * found
        met = low + margin <= lowest and highest <= high - margin
        if met and not complete:
            met = stop == "certificate" or exhausted or _settled(values, beta * np.abs(vectors[-1]), tolerance)
            # Cheaper than the certificate itself: is the end of the wanted interval excluded?
            met = met and excludes(runs, high - margin, failure / 2)
            met = met and excludes([r.mirrored() for r in runs], -(low + margin), failure / 2)
        if met or complete or k + 1 >= limit:
            break
        if exhausted:
            # Little evidence from a run at this accuracy means little from the next ones: chance alone gives one each.
            gained = min(evidence(runs, high - margin), evidence([r.mirrored() for r in runs], -(low + margin)))
            if gained < _EVIDENCE * len(runs):
                break
            couplings.append(0.0)
            runs.append(Run(size - k - 1))
            q = start(known)
        else:
            couplings.append(beta)
            q = w / beta
    floor, ceiling = lowest - margin, highest + margin
    if not complete:
        ceiling = reach(runs, failure / 2, highest, scale, high - margin if met else None) + margin
        floor = -reach([r.mirrored() for r in runs], failure / 2, -lowest, scale, -(low + margin) if met else None) - margin
    if met:  # the sums above may round up
        floor, ceiling = max(floor, low), min(ceiling, high)
    ends = torch.from_numpy(np.ascontiguousarray(vectors[:, [0, -1]].T)).to(basis)
    lowest, highest, floor, ceiling = (scaled(x, exponent) for x in (lowest + margin, highest - margin, floor, ceiling))
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


def dense_spectrum(H: Tensor, *, noise: float = 0.0) -> Spectrum:
    """Return the spectrum of a matrix at hand, to rounding and to the relative accuracy `noise` of its entries."""
    values, vectors = torch.linalg.eigh(H)
    low, high = float(values[0]), float(values[-1])
    slack = max(10 * len(H) * torch.finfo(H.dtype).eps, noise / (1 - min(noise, 0.5))) * max(abs(low), abs(high))
    return Spectrum(low + slack, high - slack, low - slack, high + slack, vectors[:, [0, -1]].T, 0, 0.0, True)


def _settled(values: np.ndarray, residuals: np.ndarray, tolerance: float) -> bool:
    """Return whether the Ritz value of largest modulus has a small residual and the other end cannot overtake it."""
    top = int(np.argmax(np.abs(values)))
    rivals = (np.sign(values) != np.sign(values[top])) & (np.abs(values) + residuals > abs(values[top]))
    return bool(residuals[top] <= tolerance * abs(values[top]) and not rivals.any())


def euclidean_smoothness(size: int, *, tolerance: float = 1e-3, **options: object) -> Program[Estimate]:
    """Enclose ``max|λ|`` (bilinear) and ``max(0, λ_max)`` (quadratic); options of :func:`extreme_eigenvalues`."""
    spectrum = yield from extreme_eigenvalues(size, tolerance=tolerance, **options)  # type: ignore[arg-type]
    lower, upper = spectrum.modulus
    top = int(spectrum.highest >= -spectrum.lowest)
    u = spectrum.vectors[top]
    pair = None if lower == 0 else (u if top else -u, u)
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
