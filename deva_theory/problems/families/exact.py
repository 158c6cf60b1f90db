"""Exact arithmetic on arrays of floats: the minimum of a quadratic with a certificate, and roundings that keep a bound a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_STEPS = 60


def integers(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Return Python integers and an exponent e with ``x = integers · 2^e`` exactly; x is finite."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    whole = (mantissa * 2.0**53).astype(np.int64)
    least = int(exponent[whole != 0].min(initial=2000))
    shifted = [int(a) << max(0, int(e) - least) for a, e in zip(whole.ravel(), exponent.ravel(), strict=True)]
    return np.array(shifted, dtype=object).reshape(whole.shape), least - 53


def floats(x: np.ndarray, exponent: int) -> np.ndarray:
    """Return ``x · 2^exponent`` for Python integers x, rounded to the nearest float64; infinite beyond its range."""
    return np.array([_float(a, exponent) for a in x.ravel()], dtype=np.float64).reshape(x.shape)


def _float(a: int, exponent: int) -> float:
    try:
        return a / (1 << -exponent) if exponent < 0 else float(a << exponent)  # both round to the nearest
    except OverflowError:
        return math.copysign(math.inf, a)


def power(exponent: int) -> Fraction:
    """Return ``2^exponent``."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def below(x: Fraction) -> float:
    """Return the largest float64 that is at most x; ``-inf`` if there is none."""
    try:
        near = x.numerator / x.denominator
    except OverflowError:
        near = math.inf if x > 0 else -math.inf
    return near if math.isfinite(near) and Fraction(near) <= x else float(np.nextafter(near, -np.inf))


def above(x: Fraction) -> float:
    """Return the least float64 that is at least x; ``inf`` if there is none."""
    return -below(-x)


@dataclass(frozen=True)
class Minimum:
    """The minimum of ``f(X) = ½ tr(XᵀHX) + tr(BᵀX)``, H ≻ 0, as far as float64 can say it.

    Attributes
    ----------
    lower : float
        At most f*.
    width : float
        At least ``(f* - lower)/|lower|``, apart from the rounding of `lower`.
    point : ndarray, shape ``(m, n)``
        The minimum, rounded.
    slope : ndarray, shape ``(m, n)``
        ∇f there, rounded: the rounding of `point` shows in it.
    excess : float
        At least ``f(point) - f*``.
    """

    lower: float
    width: float
    point: np.ndarray
    slope: np.ndarray
    excess: float


def quadratic_minimum(H: np.ndarray, B: np.ndarray, *, eigenvalues: np.ndarray, Q: np.ndarray, least: float) -> Minimum:
    r"""Minimise ``½ tr(XᵀHX) + tr(BᵀX)`` with a certificate.

    Parameters
    ----------
    H : ndarray, shape ``(m, m)``
        Its symmetric part counts.
    B : ndarray, shape ``(m, n)``
        Not 0.
    eigenvalues, Q : ndarray, shapes ``(m,)`` and ``(m, m)``
        Of H, increasing, approximate: they serve to find X̂.
    least : float
        A number in ``(0, λ_min(H)]``, on which the bound rests.

    Notes
    -----
    X̂ is an array of integers times one power of 2, improved by ``X̂ ← X̂ - H^{-1}R`` until the exact residual ``R = HX̂ + B`` stops falling:
    each time by the factor that the float64 eigenvectors lose, about ε λ_max/λ_min.  As
    ``f(X̂) - f* = ½ tr(RᵀH^{-1}R) ≤ ‖R‖_F²/(2λ_min)``, the number ``f(X̂) - ‖R‖_F²/(2 least)`` is at most f*; everything in it is rational,
    and rounded down once.
    """
    twice, h = integers(H)
    S, h = twice + twice.T, h - 1
    flat, b = integers(B)
    largest = float(eigenvalues[-1])
    # The unit of X̂: with R of the order of λ_max times it, ‖R‖²/(2λ_min) is 2^-120 of |f*| ≥ ‖B‖²/(2λ_max), and less than what rounding X̂
    # to float64 costs, 2^-106.
    digits = (math.log2(largest) - math.log2(least) + math.log2(B.size)) / 2 + 60
    unit = min(int(_log2(flat) + b - math.log2(largest) - digits), b - h)
    linear = flat * (1 << (b - h - unit))  # in the residual's unit 2^(h + unit)
    X, residual = np.zeros(B.shape, dtype=object), linear
    scale, top = math.frexp(largest)
    for _ in range(_STEPS):
        size = _log2(residual)
        if size == -math.inf:
            break
        # Residual and eigenvalues are divided by their sizes, so that nothing leaves the range of float64.
        shift = int(size)
        step, e = integers(-Q @ ((Q.T @ floats(residual, -shift)) / (eigenvalues / largest)[:, None] / scale))
        e += h + shift - top
        moved = X + (step * (1 << e) if e >= 0 else (step + (1 << -e >> 1)) >> -e)
        found = S @ moved + linear
        if _log2(found) >= size:
            break
        X, residual = moved, found
    width = power(2 * (h + unit)) * int((residual**2).sum()) / (2 * Fraction(least))
    lower = power(h + 2 * unit) * int((X * (residual + linear)).sum()) / 2 - width
    point = floats(X, unit)
    if not np.isfinite(point).all():
        return Minimum(-math.inf, math.inf, point, point, math.inf)
    # Value and gradient once more, at the rounded point.
    rounded, p = integers(point)
    common = min(h + p, b)
    slope = (S @ rounded) * (1 << (h + p - common)) + flat * (1 << (b - common))
    value = (power(common + p) * int((rounded * slope).sum()) + power(b + p) * int((rounded * flat).sum())) / 2
    return Minimum(below(lower), above(width / abs(lower)), point, floats(slope, common), above(value - lower))


def _log2(x: np.ndarray) -> float:
    """Return the logarithm of the largest absolute value, within 1e-9; ``-inf`` for 0."""
    top = max(abs(int(a)) for a in x.ravel())
    if not top:
        return -math.inf
    surplus = max(0, top.bit_length() - 64)
    return math.log2(top >> surplus) + surplus
