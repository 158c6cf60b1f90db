"""Enclosures contain what dense sampling finds, nearly touch it, and are the same from both interval libraries."""

from __future__ import annotations

import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.certify.enclosure import enclose_polynomial
from deva_theory.certify.rational import rational
from deva_theory.linalg.coefficients import CUBIC, QUINTIC, REFERENCE_QUINTIC, odd_polynomial, polar_express_coefficients
from deva_theory.recheck import recheck

FIVE = [REFERENCE_QUINTIC] * 5
SETS = {
    "quintic": (FIVE, ("0.05", 1)),
    "quintic from .002": (FIVE, ("0.002", 1)),
    "quintic, both signs": (FIVE, (-1, 1)),
    "cubic": ([CUBIC] * 5, ("1/20", 1)),
    "Padé quintic": ([QUINTIC] * 5, (0.05, 1)),
    "Polar Express": (polar_express_coefficients(8), ("0.001", 1)),
    "one Polar Express step": (polar_express_coefficients(1), ("0.001", 1)),
    "mixed degrees": ([(2, -1, "1/3", "-1/20"), ("-1/2",), CUBIC], ("-1/7", "13/8")),
}


def ratio(value) -> mpmath.mpf:
    exact = rational(value)
    return mpmath.mpf(exact.numerator) / exact.denominator


def accepted(certificate: dict) -> bool:
    return recheck({"certificates": [certificate]}).ok


def sampled(steps, domain) -> np.ndarray:
    low, high = (float(Fraction(end)) for end in domain)
    x = np.linspace(low, high, 400_001)
    for step in steps:
        x = odd_polynomial(tuple(float(Fraction(a)) for a in step), x)
    return x


@pytest.fixture(params=["arb", "iv"])
def backend(request):
    if request.param == "arb":
        pytest.importorskip("flint")
    return request.param


@pytest.mark.parametrize("name", SETS)
def test_contains_and_nearly_touches_the_samples(name, backend):
    steps, domain = SETS[name]
    found = enclose_polynomial(steps, domain, backend=backend)
    values = sampled(steps, domain)
    assert found.lower <= values.min() and values.max() <= found.upper
    # 400 000 samples miss a maximum by about the curvature of the composition: 1e-3 · 2.5e-6² · 1e9.
    assert values.min() - found.lower < 1e-5 and found.upper - values.max() < 1e-5
    assert 2.5e-7 <= found.images[-1][0] - found.lower <= 1e-6
    assert 2.5e-7 <= found.upper - found.images[-1][1] <= 1e-6


@pytest.mark.parametrize("name", SETS)
def test_witnesses_are_exact_and_within_the_tolerance(name, backend):
    steps, domain = SETS[name]
    found = enclose_polynomial(steps, domain, backend=backend)
    (x_low, at_most), (x_high, at_least) = found.witnesses
    assert at_most - found.lower <= Fraction(1, 10**6) and found.upper - at_least <= Fraction(1, 10**6)
    with mpmath.workdps(80):
        for x, bound, sign in ((x_low, at_most, -1), (x_high, at_least, 1)):
            assert rational(domain[0]) <= x <= rational(domain[1])
            y = ratio(x)
            for step in steps:
                y = sum(ratio(a) * y ** (2 * k + 1) for k, a in enumerate(step))
            assert sign * y >= sign * ratio(bound)


@pytest.mark.parametrize("name", SETS)
def test_both_libraries_agree(name):
    pytest.importorskip("flint")
    steps, domain = SETS[name]
    arb, iv = (enclose_polynomial(steps, domain, backend=backend) for backend in ("arb", "iv"))
    assert (arb.lower, arb.upper) == (iv.lower, iv.upper)
    assert all(abs(a - b) < Fraction(1, 10**13) for x, y in zip(arb.images, iv.images, strict=True) for a, b in zip(x, y, strict=True))


def test_numbers_of_the_reference_quintic():
    # SPEC M12
    found = enclose_polynomial(FIVE, ("0.05", 1))
    assert Fraction("0.6818") < found.lower and found.upper < Fraction("1.1344")
    assert found.witnesses[0][1] < Fraction("0.6819") and found.witnesses[1][1] > Fraction("1.1343")
    wider = enclose_polynomial(FIVE, ("0.002", 1))
    assert Fraction("1.2023") < wider.witnesses[1][1] < wider.upper < Fraction("1.2024")
    # It oscillates, the others converge.
    express = enclose_polynomial(polar_express_coefficients(8), ("0.001", 1))
    assert abs(express.lower - 1) < Fraction(1, 10**6) and abs(express.upper - 1) < Fraction(1, 10**6)


@pytest.mark.parametrize("name", SETS)
def test_recheck_accepts_and_rejects_false_twins(name):
    steps, domain = SETS[name]
    certificate = enclose_polynomial(steps, domain).certificate
    assert accepted(certificate)
    low, high = map(Fraction, certificate["enclosure"])
    narrow = Fraction(2, 10**6)
    assert not accepted({**certificate, "enclosure": [str(low + narrow), str(high)]})
    assert not accepted({**certificate, "enclosure": [str(low), str(high - narrow)]})
    below, above = certificate["witnesses"]
    assert not accepted({**certificate, "witnesses": [{**below, "value_at_most": str(low - narrow)}]})
    assert not accepted({**certificate, "witnesses": [{**above, "value_at_least": str(high + narrow)}]})


@pytest.mark.parametrize("tol", ["1e-3", "1/3000", 1e-9, 1e-12])
def test_slack_follows_the_tolerance(tol):
    found = enclose_polynomial(FIVE, ("0.05", 1), tol)
    exact = Fraction(str(tol))
    for slack in (found.images[-1][0] - found.lower, found.upper - found.images[-1][1]):
        assert exact / 4 <= slack + Fraction(1, 10**15) and slack <= exact


@pytest.mark.parametrize("name", SETS)
def test_recheck_follows_to_the_least_tolerance(name):
    steps, domain = SETS[name]
    assert accepted(enclose_polynomial(steps, domain, 1e-12).certificate)


def test_a_tolerance_beyond_the_recheck_is_refused():
    # At 1e-13 the certificate of M12 was correct, and rejected.
    with pytest.raises(ValueError, match="from 1e-12"):
        enclose_polynomial(FIVE, ("0.05", 1), 1e-13)


def test_a_multiple_critical_point_needs_few_pieces(backend):
    # p'(1) = p''(1) = 0 for the Padé quintic: plain bisection takes 1e5 pieces.
    assert enclose_polynomial([QUINTIC] * 5, ("0.05", 1), backend=backend).pieces < 1000


@given(
    st.lists(st.lists(st.fractions(-2, 2, max_denominator=50), min_size=1, max_size=4), min_size=1, max_size=3),
    st.fractions(-1, 1, max_denominator=20),
    st.fractions(0, 1, max_denominator=20),
    st.lists(st.fractions(0, 1, max_denominator=1000), min_size=5, max_size=5),
)
def test_every_exact_value_is_inside(steps, low, width, shares):
    found = enclose_polynomial(steps, (low, low + width), 1e-4)
    for share in (*shares, 0, 1):
        y = low + share * width
        for step in steps:
            y = sum((a * y ** (2 * k + 1) for k, a in enumerate(step)), Fraction(0))
        assert found.images[-1][0] <= y <= found.images[-1][1]
        assert found.lower < y < found.upper


def test_a_point_and_a_constant():
    point = enclose_polynomial([CUBIC], ("1/3", "1/3"))
    assert point.lower < Fraction(1, 2) - Fraction(1, 54) < point.upper and point.upper - point.lower <= Fraction(2, 10**6)
    assert float(enclose_polynomial([[0]], (-1, 1)).upper) <= 1e-6


def test_falls_back_to_mpmath_and_leaves_precisions_alone(monkeypatch):
    before = mpmath.iv.prec, mpmath.mp.prec
    reference = enclose_polynomial(FIVE, ("0.05", 1), backend="iv")
    assert (mpmath.iv.prec, mpmath.mp.prec) == before
    if "flint" in sys.modules:
        assert sys.modules["flint"].ctx.prec == 53
    monkeypatch.setattr("deva_theory.certify.enclosure.find_spec", lambda name: None)
    assert enclose_polynomial(FIVE, ("0.05", 1)) == reference


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([CUBIC], (1, 0)), "empty"),
        (([], (0, 1)), "at least one step"),
        (([[]], (0, 1)), "at least one step"),
        (([CUBIC], (0, 1), 0), "tol"),
        (([CUBIC], (0, 1), 2), "tol"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        enclose_polynomial(*arguments)


def test_unknown_backend():
    with pytest.raises(ValueError, match="use 'arb'"):
        enclose_polynomial([CUBIC], (0, 1), backend="float")
