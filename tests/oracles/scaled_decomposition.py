"""γ of one coordinate, exact in the rationals and rounded once to float64: SPEC D1, D3, D4, D8."""

import math
from fractions import Fraction


def rounded_sqrt(square):
    """√q for a rational q ≥ 0, correctly rounded to float64 (ties to even, subnormals included).

    Parameters
    ----------
    square : Fraction

    Returns
    -------
    float
        inf when √q rounds above the largest float64.
    """
    if square < 0:
        raise ValueError("a square is not negative")
    if square == 0:
        return 0.0
    p, q = square.numerator, square.denominator
    # floor(2^k √(p/q)) with at least 128 significant bits; the sticky bit makes the one rounding below right.
    k = 128 + max(0, (q.bit_length() - p.bit_length()) // 2 + 1)
    scaled_square = p << (2 * k)
    root = math.isqrt(scaled_square // q)
    exact = root * root * q == scaled_square
    value = Fraction(2 * root + (0 if exact else 1), 1 << (k + 1))
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf


def adagrad_gamma(history):
    """γ_t = √(g_t²/Σ_{s≤t} g_s²) of AdaGrad at the last t (D1), 0/0 = 0.

    Parameters
    ----------
    history : sequence of float
        g_1, …, g_t of one coordinate, finite.

    Returns
    -------
    float
        Correctly rounded.
    """
    gs = [Fraction(float(g)) for g in history]
    total = sum((g * g for g in gs), Fraction(0))
    return rounded_sqrt(gs[-1] ** 2 / total) if total else 0.0


def ema_gamma(history, beta2, bias_correction=False):
    """γ_t = √(g_t²/v_t), v = EMA_{β2}(g²) from zero, or v̂_t = v_t/(1-β2^t) (D3, RMSprop), 0/0 = 0.

    Parameters
    ----------
    history : sequence of float
        g_1, …, g_t of one coordinate, finite.
    beta2 : float or Fraction
        Taken at its exact value, and 1-β2 is exact.
    bias_correction : bool

    Returns
    -------
    float
        Correctly rounded.
    """
    gs, beta2 = [Fraction(float(g)) for g in history], Fraction(beta2)
    v = _average([g * g for g in gs], beta2, bias_correction)
    return rounded_sqrt(gs[-1] ** 2 / v) if v else 0.0


def adam_gamma(history, beta1, beta2, bias_correction=True):
    """γ_t = |m̂_t|/√v̂_t of textbook Adam, m̂ and v̂ of g and g² (D4), 0/0 = 0.

    Parameters
    ----------
    history : sequence of float
        g_1, …, g_t of one coordinate, finite.
    beta1, beta2 : float or Fraction
        Taken at their exact values.
    bias_correction : bool
        False: |m_t|/√v_t.

    Returns
    -------
    float
        Correctly rounded.
    """
    gs = [Fraction(float(g)) for g in history]
    m = _average(gs, Fraction(beta1), bias_correction)
    v = _average([g * g for g in gs], Fraction(beta2), bias_correction)
    return rounded_sqrt(m * m / v) if v else 0.0


def linf_gamma(history, beta1, beta2, bias_correction=False):
    """γ_t of the ℓ∞ rule at ε = 0 (D5): |m_t|/√EMA_{β2}(m²)_t, or the same of m̂ with v̂ (preset `corrected`).

    Parameters
    ----------
    history : sequence of float
    beta1, beta2 : float or Fraction
    bias_correction : bool
        True: m̂_s = m_s/(1-β1^s) at every s ≤ t, and v̂ = EMA_{β2}(m̂²)_t/(1-β2^t).

    Returns
    -------
    float
        Correctly rounded.
    """
    gs, beta1 = [Fraction(float(g)) for g in history], Fraction(beta1)
    ms = [_average(gs[: s + 1], beta1, bias_correction) for s in range(len(gs))]
    v = _average([m * m for m in ms], Fraction(beta2), bias_correction)
    return rounded_sqrt(ms[-1] ** 2 / v) if v else 0.0


def _average(values, beta, bias_correction):
    total = Fraction(0)
    for x in values:
        total = beta * total + (1 - beta) * x
    return total / (1 - beta ** len(values)) if bias_correction else total
