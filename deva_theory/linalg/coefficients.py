"""Odd-polynomial coefficient sets for the polar factor, and the minimax computation behind them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Coefficients = tuple[float, ...]

REFERENCE_QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
"""The quintic of Muon (Jordan 2024) and of the DeVA reference: steep at 0, oscillates around 1."""

CUBIC: Coefficients = (1.5, -0.5)
"""Newton-Schulz: converges quadratically to the polar factor for 0 < σ < √3."""

QUINTIC: Coefficients = (1.875, -1.25, 0.375)
"""The Padé-type quintic: converges cubically; the fixed end of the Polar Express sequence."""

POLAR_EXPRESS_LOWER = 1e-3
"""Smallest normalised singular value for which the default sequence is optimal (Amsel et al. 2025)."""

POLAR_EXPRESS_CUSHION = 1.01
"""Safety factor on the norm (Amsel et al. 2025, section 4): rounding must not push σ above the interval."""


def odd_polynomial(coefficients: Coefficients, x: np.ndarray) -> np.ndarray:
    """Evaluate ``a₁x + a₃x³ + a₅x⁵ + …`` (Horner in x²)."""
    square = x * x
    value = np.zeros_like(x)
    for a in reversed(coefficients):
        value = value * square + a
    return value * x


def optimal_quintic(lower: float, upper: float = 1.0) -> tuple[Coefficients, float]:
    """Return the odd quintic closest to 1 on ``[lower, upper]`` in the maximum norm, and its error.

    Remez exchange on the three-dimensional Haar space {x, x³, x⁵}: the error equioscillates
    at ``lower, q, r, upper``, where q < r are the critical points of the polynomial.

    Raises
    ------
    ValueError
        Unless ``0 < lower ≤ upper``.
    """
    if not 0 < lower <= upper:
        raise ValueError(f"optimal_quintic: need 0 < lower <= upper, got {lower}, {upper}")
    if lower > (1.0 - 5e-6) * upper:
        # The optimum tends to the Padé quintic; Remez would divide by the interval's length.
        return tuple(a / upper ** (2 * k + 1) for k, a in enumerate(QUINTIC)), 0.0
    q, r = 0.75 * lower + 0.25 * upper, 0.25 * lower + 0.75 * upper
    error = np.inf
    solution = np.zeros(4)
    for _ in range(100):
        nodes = np.array([lower, q, r, upper])
        system = np.column_stack([nodes, nodes**3, nodes**5, [1.0, -1.0, 1.0, -1.0]])
        solution = np.linalg.solve(system, np.ones(4))
        a, b, c = solution[:3]
        # p'(x) = a + 3b x² + 5c x⁴ = 0
        roots = np.sqrt((-3 * b + np.array([-1.0, 1.0]) * np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
        q, r = float(roots.min()), float(roots.max())
        if abs(abs(solution[3]) - error) < 1e-15:
            break
        error = abs(solution[3])
    return (float(solution[0]), float(solution[1]), float(solution[2])), float(abs(solution[3]))


@lru_cache(maxsize=64)
def polar_express_coefficients(
    steps: int, lower: float = POLAR_EXPRESS_LOWER, cushion: float = 0.02407327424182761
) -> tuple[Coefficients, ...]:
    """Return the quintics of Polar Express (Amsel, Persson, Musco, Gower 2025), greedy-optimal for ``[lower, 1]``.

    Step i is the optimal quintic for the image of the previous steps; where the interval is still wide
    (``lower_i < cushion·upper_i``) it is optimised for ``[cushion·upper_i, upper_i]`` so that small singular
    values are not driven through 0 by rounding (their algorithm 1, with re-centring around 1).

    Parameters
    ----------
    steps : int
        Number of iterations, at least 1.
    lower : float
        Smallest normalised singular value taken into account.
    cushion : float
        Largest ratio upper/lower per step, as its inverse.
    """
    if steps < 1:
        raise ValueError(f"polar_express_coefficients: steps is {steps}; use at least 1")
    low, high = lower, 1.0
    sets: list[Coefficients] = []
    for _ in range(steps):
        quintic, _ = optimal_quintic(max(low, cushion * high), high)
        if cushion * high > low:
            # Re-centre: the image of [low, high] becomes symmetric around 1.
            ends = odd_polynomial(quintic, np.array([low, high]))
            factor = 2.0 / float(ends.sum())
            quintic = tuple(a * factor for a in quintic)
        sets.append(quintic)
        low = float(odd_polynomial(quintic, np.array([low]))[0])
        high = 2.0 - low
    return tuple(sets)
