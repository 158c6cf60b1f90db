"""Polynomial coefficient sets: the published Polar Express table, minimax optimality, convergence orders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import (
    CUBIC,
    QUINTIC,
    REFERENCE_QUINTIC,
    odd_polynomial,
    optimal_quintic,
    polar_express_coefficients,
)
from tests.strategies import refuted

# Amsel, Persson, Musco, Gower 2025 (arXiv 2505.16932), their listing: l = 1e-3, before the safety factor.
PUBLISHED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
]


def test_polar_express_reproduces_the_published_table():
    np.testing.assert_allclose(polar_express_coefficients(6), PUBLISHED, rtol=1e-12)


def test_polar_express_ends_in_the_pade_quintic():
    later = polar_express_coefficients(10)[6:]
    np.testing.assert_allclose(later[0], QUINTIC, atol=2e-6)
    np.testing.assert_allclose(later[1:], [QUINTIC] * 3, atol=3e-9)


def test_polar_express_sets_do_not_depend_on_the_number_of_steps():
    assert polar_express_coefficients(10)[:4] == polar_express_coefficients(4)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_polar_express_maps_its_interval_around_one(steps):
    x = np.geomspace(1e-3, 1.0, 20001)
    for quintic in polar_express_coefficients(steps):
        x = odd_polynomial(quintic, x)
    bounds = {1: 0.9931, 3: 0.866, 8: 1e-12}
    assert np.abs(x - 1.0).max() <= bounds[steps]
    # Positive throughout: no singular value is driven through zero.
    assert x.min() > 0


@pytest.mark.parametrize("steps", [0, -1])
def test_polar_express_needs_a_step(steps):
    with pytest.raises(ValueError, match="use at least 1"):
        polar_express_coefficients(steps)


def test_odd_polynomial_against_powers():
    x = np.linspace(-2, 2, 41)
    for set_ in [(2.0,), CUBIC, QUINTIC, REFERENCE_QUINTIC, (35 / 16, -35 / 16, 21 / 16, -5 / 16)]:
        expected = sum(a * x ** (2 * k + 1) for k, a in enumerate(set_))
        np.testing.assert_allclose(odd_polynomial(set_, x), expected, atol=1e-12)
        np.testing.assert_array_equal(odd_polynomial(set_, -x), -odd_polynomial(set_, x))


intervals = st.tuples(st.floats(1e-3, 0.95), st.sampled_from([0.5, 1.0, 1.9])).map(
    lambda i: (i[0] * i[1], i[1])
)


def largest_error(quintic, lower, upper):
    grid = np.concatenate([np.linspace(lower, upper, 20001), [lower, upper]])
    return np.abs(1.0 - odd_polynomial(quintic, grid)).max()


def equioscillates(interval, *, shift=0.0):
    """Four alternating extrema of one size: Chebyshev's criterion in a 3-dimensional Haar space."""
    lower, upper = interval
    (a, b, c), error = optimal_quintic(lower, upper)
    a += shift
    slopes = np.roots([5 * c, 0, 3 * b, 0, a])
    inner = sorted(float(r.real) for r in slopes if abs(r.imag) < 1e-9 and lower < r.real < upper)
    if len(inner) != 2:
        return False
    values = 1.0 - odd_polynomial((a, b, c), np.array([lower, *inner, upper]))
    # Small errors are differences of numbers near 1 (narrow intervals): an absolute part of 1e-11.
    return np.allclose(values, error * np.array([1, -1, 1, -1]), rtol=1e-6, atol=1e-11)


@given(intervals)
def test_optimal_quintic_equioscillates(interval):
    assert equioscillates(interval)


def test_optimal_quintic_equioscillation_twin():
    assert refuted(intervals, lambda i: equioscillates(i, shift=1e-3))


@given(intervals, st.integers(0, 2**32 - 1))
def test_optimal_quintic_beats_perturbed_coefficients(interval, seed):
    quintic, error = optimal_quintic(*interval)
    best = largest_error(quintic, *interval)
    assert best <= error * (1 + 1e-6) + 1e-11
    rng = np.random.default_rng(seed)
    for size in (1e-4, 1e-2):
        other = np.array(quintic) * (1 + size * rng.standard_normal(3))
        assert largest_error(tuple(other), *interval) >= best - 1e-11


def test_optimal_quintic_beats_the_fixed_sets():
    for lower in (1e-3, 0.05, 0.3):
        _, error = optimal_quintic(lower)
        for set_ in (QUINTIC, REFERENCE_QUINTIC, (*CUBIC, 0.0)):
            assert error < largest_error(set_, lower, 1.0)


@pytest.mark.parametrize("upper", [1.0, 0.25])
def test_optimal_quintic_scales(upper):
    quintic, error = optimal_quintic(0.1 * upper, upper)
    unit, unit_error = optimal_quintic(0.1, 1.0)
    np.testing.assert_allclose([a * upper ** (2 * k + 1) for k, a in enumerate(quintic)], unit, rtol=1e-9)
    assert error == pytest.approx(unit_error, rel=1e-9)


def test_optimal_quintic_of_a_point_is_pade():
    quintic, error = optimal_quintic(1.0, 1.0)
    assert quintic == QUINTIC and error == 0.0
    np.testing.assert_allclose(optimal_quintic(1.0 - 1e-3, 1.0)[0], QUINTIC, atol=5e-3)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (-0.1, 1.0), (1.0, 0.5), (float("nan"), 1.0)])
def test_optimal_quintic_rejects_bad_intervals(lower, upper):
    with pytest.raises(ValueError, match="need 0 < lower <= upper"):
        optimal_quintic(lower, upper)


@pytest.mark.parametrize(
    ("set_", "order"), [(CUBIC, 2), (QUINTIC, 3), ((35 / 16, -35 / 16, 21 / 16, -5 / 16), 4)]
)
def test_convergence_order_at_one(set_, order):
    h = np.array([1e-1, 1e-2])
    errors = np.abs(odd_polynomial(set_, 1.0 - h) - 1.0)
    assert np.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_reference_quintic_does_not_fix_one():
    assert abs(odd_polynomial(REFERENCE_QUINTIC, np.array([1.0]))[0] - 1.0) > 0.25
