"""Enclosures: the interval arithmetic contains the exact results, true bounds pass, narrower ones do not."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.recheck import recheck
from deva_theory.recheck.enclosure import PRECISION, OddPolynomial, add, horner, multiply, outward, square

MUON = ["3.4445", "-4.7750", "2.0315"]
CUBIC = ["3/2", "-1/2"]
PADE = ["1.875", "-1.25", "0.375"]


def report(steps, domain, enclosure, **more):
    return recheck({"certificates": [{"type": "enclosure", "map": steps, "domain": domain, "enclosure": enclosure, **more}]})


@pytest.mark.parametrize(
    ("steps", "domain", "enclosure"),
    [
        ([MUON] * 5, ["1/20", "1"], ["0.6818", "1.1344"]),
        ([MUON] * 5, ["0.002", "1"], ["0.6818", "1.2024"]),
        ([MUON], ["0", "1"], ["0", "1.2031"]),
        ([CUBIC] * 12, ["1/10", "17/10"], ["0.1", "1.0000001"]),
        ([PADE] * 6, ["0.001", "1"], ["0.01", "1.000000001"]),
        ([["1"]], ["-1/3", "1/3"], ["-0.3334", "0.3334"]),
        ([["0"]], ["-1", "1"], ["0", "0"]),
        ([["-1", "0", "0", "1/7"]], ["-1", "1"], ["-1", "1"]),
        ([MUON] * 5, ["1/2", "1/2"], ["0.5", "1.2"]),
    ],
)
def test_true_bounds_are_accepted(steps, domain, enclosure):
    found = report(steps, domain, enclosure)
    assert found.ok, found.lines


@pytest.mark.parametrize("slack", ["1e-6", "1e-9"])
def test_bounds_with_little_slack_pass_and_without_fail(slack):
    # x - x³ on [0, 1]: the maximum 2/(3√3) at 1/√3.
    above = Fraction(math.isqrt(4 * 10**60 // 27) + 1, 10**30)
    assert report([["1", "-1"]], ["0", "1"], ["-1e-12", str(above + Fraction(slack))]).ok
    assert not report([["1", "-1"]], ["0", "1"], ["-1e-12", str(above - Fraction(slack))]).ok
    assert not report([["1", "-1"]], ["0", "1"], [slack, "1"]).ok


@pytest.mark.parametrize(
    "enclosure",
    [["0.68184", "1.1344"], ["0.6818", "1.13435"], ["0.6818", "1.1343572"], ["-1", "0"], ["2", "3"]],
)
def test_slightly_narrow_bounds_are_rejected(enclosure):
    found = report([MUON] * 5, ["1/20", "1"], enclosure)
    assert not found.ok and "not inside" in found.lines[0]


@pytest.mark.parametrize(
    ("witness", "ok"),
    [
        ({"x": "1/20", "value_at_most": "1"}, True),
        ({"x": "1", "value_at_least": "0.68"}, True),
        ({"x": "1", "value_at_least": "1.2"}, False),
        ({"x": "1", "value_at_most": "0.6"}, False),
        ({"x": "1", "value_at_least": "0.68", "value_at_most": "0.6"}, False),
        ({"x": "2", "value_at_most": "1000000"}, False),
        ({"x": "1"}, False),
        ({"x": 1.0, "value_at_least": "0"}, False),
        ("1", False),
    ],
    ids=str,
)
def test_witnesses(witness, ok):
    found = report([MUON] * 5, ["1/20", "1"], ["0.6818", "1.1344"], witnesses=[witness])
    assert found.ok == ok, found.lines
    assert "cannot be checked" not in found.lines[0]


@pytest.mark.parametrize(
    ("steps", "domain", "enclosure"),
    [
        ([], ["0", "1"], ["0", "1"]),
        ([[]], ["0", "1"], ["0", "1"]),
        ([["1"]], ["1", "0"], ["0", "1"]),
        ([["1"]], ["0", "1"], ["1", "0"]),
        ([["1"]], ["0"], ["0", "1"]),
        ([["1"]], ["0", "1", "2"], ["0", "1"]),
        ([[0.5]], ["0", "1"], ["0", "1"]),
        ([["1"]], ["0", "inf"], ["0", "1"]),
        ([["3", "3"]] * 60, ["0", "10"], ["0", "1"]),
        ([["1"]] * 101, ["0", "1"], ["0", "2"]),
        ([["1"] * 25], ["0", "1"], ["0", "100"]),
        ("MUON", ["0", "1"], ["0", "1"]),
    ],
    ids=lambda v: str(v)[:30],
)
def test_malformed_or_divergent_is_a_line(steps, domain, enclosure):
    found = report(steps, domain, enclosure)
    assert not found.ok and "cannot be checked" not in found.lines[0]


RATIONALS = st.fractions(-8, 8, max_denominator=97)


@st.composite
def intervals(draw):
    """Ends, and a point in between."""
    a, b = sorted((draw(RATIONALS), draw(RATIONALS)))
    return outward(a, b), a + (b - a) * Fraction(draw(st.integers(0, 16)), 16)


def contains(interval, x):
    return interval[0] <= x * 2**PRECISION <= interval[1]


@given(intervals(), intervals())
def test_operations_contain_the_exact_result(first, second):
    (a, x), (b, y) = first, second
    assert contains(a, x) and contains(b, y)
    assert contains(add(a, b), x + y)
    assert contains(multiply(a, b), x * y)
    assert contains(square(a), x * x)
    assert contains(horner([a, b, a], b), x + y * (y + x * y))


UNITS = st.integers(-(2**PRECISION) * 3, 2**PRECISION * 3)


@given(UNITS, UNITS)
def test_products_are_rounded_outwards(p, q):
    exact = Fraction(p * q, 2**PRECISION)
    low, high = multiply((p, p), (q, q))
    assert low == math.floor(exact) and high == math.ceil(exact)
    low, high = square((p, p))
    assert low == math.floor(Fraction(p * p, 2**PRECISION)) and high == math.ceil(Fraction(p * p, 2**PRECISION))


@given(RATIONALS, RATIONALS)
def test_rounding_is_outward_and_tight(x, y):
    a, b = outward(x, x), outward(y, y)
    for interval in (a, b, multiply(a, b), square(a)):
        assert 0 <= interval[1] - interval[0] <= 40


POLYNOMIALS = st.lists(st.fractions(-4, 4, max_denominator=20), min_size=1, max_size=4)


def exactly(coefficients, x):
    return sum((a * x ** (2 * k + 1) for k, a in enumerate(coefficients)), Fraction(0))


@given(POLYNOMIALS, st.fractions(-2, 2, max_denominator=12), st.fractions(0, 2, max_denominator=12))
def test_image_contains_all_values_and_hardly_more(coefficients, low, width):
    high = low + width
    step = OddPolynomial(coefficients)
    image = step.image(outward(low, high))
    n = 400
    values = [exactly(coefficients, low + width * Fraction(i, n)) for i in range(n + 1)]
    assert all(contains(image, v) for v in values)
    # Between two samples the polynomial strays from the nearer one by half a gap times its largest slope at most.
    slope = sum((2 * k + 1) * abs(a) * max(abs(low), abs(high)) ** (2 * k) for k, a in enumerate(coefficients))
    slack = slope * width / (2 * n) + Fraction(1, 10**12)
    assert image[0] >= (min(values) - slack) * 2**PRECISION and image[1] <= (max(values) + slack) * 2**PRECISION


@given(POLYNOMIALS, POLYNOMIALS, st.fractions(0, Fraction(1, 2), max_denominator=12), st.integers(1, 9))
def test_bounds_below_an_attained_value_are_rejected(first, second, x, k):
    value = exactly(second, exactly(first, x))
    steps = [[str(a) for a in first], [str(a) for a in second]]
    hair = Fraction(1, 10**20)
    domain = ["0", str(x + Fraction(k, 10))]
    assert not report(steps, domain, ["-1e18", str(value - hair)]).ok
    assert not report(steps, domain, [str(value + hair), "1e18"]).ok
    assert report(steps, domain, ["-1e18", "1e18"], witnesses=[{"x": str(x), "value_at_least": str(value - hair)}]).ok
