"""Newton-Schulz and its relatives: M12 of the specification, and finding A6."""

import math

import mpmath
import numpy as np
import pytest
import torch

from deva_theory.linalg import (
    CUBIC,
    QUINTIC,
    REFERENCE_QUINTIC,
    odd_polynomial,
    polar_express_coefficients,
    polar_factor,
)
from deva_theory.linalg.coefficients import POLAR_EXPRESS_CUSHION


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def certified_image(coefficients, low, high):
    """Enclose the image of [low, high] under the polynomials one after the other, by interval arithmetic.

    A continuous image of an interval is an interval, and images compose: each step needs the ends and the
    critical points inside, so that nothing is overestimated but the rounding.
    """
    iv = mpmath.iv
    ends = iv.mpf(low), iv.mpf(high)
    for a, b, c in coefficients:
        a, b, c = iv.mpf(a), iv.mpf(b), iv.mpf(c)

        def p(x, a=a, b=b, c=c):
            return x * (a + x**2 * (b + x**2 * c))

        values = [p(x) for x in ends]
        discriminant = 9 * b**2 - 20 * a * c
        if c.b == 0:  # a + 3b x²
            squares = [-a / (3 * b)]
        elif discriminant.b < 0:
            squares = []
        else:
            root = iv.sqrt(iv.mpf([max(discriminant.a, 0), max(discriminant.b, 0)]))
            squares = [(-3 * b + s * root) / (10 * c) for s in (-1, 1)]
        for square in squares:
            if square.b <= 0:
                continue
            x = iv.sqrt(iv.mpf([max(square.a, 0), square.b]))
            if x.b >= ends[0].a and x.a <= ends[1].b:
                values.append(p(x))
        ends = iv.mpf(min(v.a for v in values)), iv.mpf(max(v.b for v in values))
    return float(ends[0].a), float(ends[1].b)


def composed(coefficients, x):
    for c in coefficients:
        x = odd_polynomial(c, x)
    return x


def polar_express(steps):
    """The polynomials as the library applies them: all but the last see σ/1.01."""
    *first, last = polar_express_coefficients(steps)
    return [tuple(a / POLAR_EXPRESS_CUSHION ** (2 * k + 1) for k, a in enumerate(c)) for c in first] + [last]


FIVE = [REFERENCE_QUINTIC] * 5
CUBICS = [(*CUBIC, 0.0)]


@pytest.mark.parametrize("coefficients, low, expected", [
    (FIVE, 0.05, (0.681831, 1.134358)),
    (FIVE, 0.002, (0.681831, 1.202370)),
    (CUBICS * 5, 0.05, (0.348, 1.0)),
    (CUBICS * 14, 0.05, (1 - 1e-12, 1 + 1e-12)),
    ([QUINTIC] * 5, 0.05, (0.8, 1.0)),
    (list(polar_express_coefficients(8)), 1e-3, (1 - 1.8e-8, 1 + 1.8e-8)),
    (list(polar_express_coefficients(5)), 1e-3, (0.876, 1.124)),
    (polar_express(8), 1e-2, (1 - 1e-12, 1 + 1e-12)),
    (polar_express(8), 1e-3, (1 - 1e-4, 1 + 1e-4)),
], ids=[
    "quintic", "quintic from .002", "cubic", "cubic, 14 steps", "Padé quintic", "Polar Express",
    "Polar Express, 5 steps", "Polar Express as applied", "Polar Express as applied, from .001",
])
def test_certified_enclosure_of_singular_values(coefficients, low, expected):
    """The map is on singular values after the normalisation, whichever it is."""
    found = certified_image(coefficients, low, 1.0)
    points = np.concatenate([np.linspace(low, 1, 200_001), np.geomspace(low, 1, 50_001)])
    grid = composed(coefficients, points)
    assert found[0] - 1e-12 <= grid.min() and grid.max() <= found[1] + 1e-12
    assert grid.min() - found[0] < 1e-5 and found[1] - grid.max() < 1e-5
    assert expected[0] <= found[0] and found[1] <= expected[1]


def test_enclosure_is_the_published_one_and_no_smaller():
    """[.6818, 1.1344] on [.05, 1] (four digits), 1.2024 on [.002, 1]; twin: a narrower one is violated."""
    low, high = certified_image(FIVE, 0.05, 1.0)
    assert (round(low, 4), round(high, 4)) == (0.6818, 1.1344)
    assert round(certified_image(FIVE, 0.002, 1.0)[1], 4) == 1.2024
    grid = composed(FIVE, np.linspace(0.05, 1, 200_001))
    assert grid.min() < 0.6819 and grid.max() > 1.1343


def test_library_iterates_that_map_after_schatten_8_normalisation():
    """The reference's first step divides by ‖Y⁴‖_F^{1/4} = ‖σ‖_8 ≤ ‖σ‖_F: singular values grow.

    Plain Frobenius normalisation would put the same matrix at other points of the same map.
    """
    s = torch.tensor([1.0, 0.7, 0.4, 0.06], dtype=torch.float64)
    found = polar_factor(torch.diag(s), method="newton_schulz").diagonal()
    schatten = composed(FIVE, (s / s.pow(8).sum() ** 0.125).numpy())
    frobenius = composed(FIVE, (s / s.norm()).numpy())
    np.testing.assert_allclose(found.numpy(), schatten, rtol=1e-12)
    assert np.abs(found.numpy() - frobenius).max() > 0.01


def test_polynomial_not_bfloat16_dominates_the_error_of_newton_schulz():
    """A6: about .2 relative (Frobenius) on Gaussian 64×64 matrices; bfloat16 changes it by less than .02."""
    G = normal(4, 64, 64)
    exact = polar_factor(G)

    def error(dtype):
        found = polar_factor(G, method="newton_schulz", dtype=dtype)
        return torch.linalg.matrix_norm(found - exact) / torch.linalg.matrix_norm(exact)

    assert (0.17 < error(None)).all() and (error(None) < 0.23).all()
    assert ((error(torch.bfloat16) - error(None)).abs() < 0.02).all()


@pytest.mark.parametrize("condition, low, high", [(1e2, 0.0, 1e-12), (1e4, 0.1, 0.3)])
def test_polar_express_is_near_exact_at_moderate_condition_only(condition, low, high):
    U, V = torch.linalg.qr(normal(2, 64, 64)).Q
    G = (U * torch.logspace(0, -math.log10(condition), 64, dtype=torch.float64)) @ V.mT
    error = (polar_factor(G, method="polar_express") - polar_factor(G)).norm() / 8
    assert low <= error <= high
