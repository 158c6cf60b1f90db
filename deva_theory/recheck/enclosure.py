"""Certificates of type "enclosure": a composition of odd polynomials maps an interval into another.

Intervals have ends k·2⁻ᴾ with integer k, every operation rounds outwards, so each interval contains the true result.  The
image of [l, u] under a polynomial p is the interval [min p, max p] (p is continuous), so the image of a composition is the
composition of the images and nothing is lost between steps but rounding.  Within a step: bisection.  A piece X is settled

* by monotonicity, if 0 is not inside p'(X): its image lies between the values at its ends;
* by the mean value theorem, ``p(X) ⊆ p(c) + p'(X)(X - c)``, if that is not beyond the values already seen by more than 2⁻ᵀ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from .reading import Rejected, fields, items, number, numbers

PRECISION = 192  # P
TOLERANCE = 1 << (PRECISION - 44)  # 2^-T, T = 44
LARGEST = 1 << (PRECISION + 64)
MAX_PIECES = 20_000
MAX_STEPS = 100
MAX_TERMS = 24

Interval = tuple[int, int]
"""Both ends in units of 2^-PRECISION."""


def outward(low: Fraction, high: Fraction) -> Interval:
    """Return the smallest interval with representable ends that contains [low, high]."""
    scale = 1 << PRECISION
    return (low.numerator * scale) // low.denominator, -((-high.numerator * scale) // high.denominator)


def add(a: Interval, b: Interval) -> Interval:
    """Return a + b, exactly."""
    return a[0] + b[0], a[1] + b[1]


def multiply(a: Interval, b: Interval) -> Interval:
    """Return ab, rounded outwards."""
    ends = (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])
    return min(ends) >> PRECISION, -(-max(ends) >> PRECISION)


def square(a: Interval) -> Interval:
    """Return a², rounded outwards; unlike the product a·a it is never negative."""
    low, high = sorted((a[0] * a[0], a[1] * a[1]))
    return 0 if a[0] < 0 < a[1] else low >> PRECISION, -(-high >> PRECISION)


def horner(coefficients: Sequence[Interval], y: Interval) -> Interval:
    """Return ``c0 + c1 y + c2 y² + …``."""
    value = (0, 0)
    for c in reversed(coefficients):
        value = add(multiply(value, y), c)
    return value


class OddPolynomial:
    """``a1 x + a3 x³ + …`` and its derivative on intervals."""

    def __init__(self, coefficients: Sequence[Fraction]) -> None:
        self._values = [outward(a, a) for a in coefficients]
        self._slopes = [outward((2 * k + 1) * a, (2 * k + 1) * a) for k, a in enumerate(coefficients)]

    def at(self, x: Interval) -> Interval:
        """Return an interval that contains the polynomial's values on x."""
        return multiply(x, horner(self._values, square(x)))

    def slope(self, x: Interval) -> Interval:
        """Return an interval that contains the derivative's values on x."""
        return horner(self._slopes, square(x))

    def image(self, x: Interval) -> Interval:
        """Return an interval that contains the image of x, and exceeds it by little more than 2⁻ᵀ."""
        ends = [self.at((end, end)) for end in x]
        # What is certainly attained: a piece that stays within it need not be looked at more closely.
        seen_low = min(high for _, high in ends)
        seen_high = max(low for low, _ in ends)
        result_low, result_high = min(low for low, _ in ends), max(high for _, high in ends)
        pieces, count = [x], 0
        while pieces:
            count += 1
            if count > MAX_PIECES:
                raise Rejected(f"a step needs more than {MAX_PIECES} subdivisions")
            low, high = pieces.pop()
            slope = self.slope((low, high))
            if slope[0] >= 0 or slope[1] <= 0:
                first, last = self.at((low, low)), self.at((high, high))
                bound = min(first[0], last[0]), max(first[1], last[1])
            else:
                middle = (low + high) >> 1
                value = self.at((middle, middle))
                seen_low, seen_high = min(seen_low, value[1]), max(seen_high, value[0])
                bound = add(value, multiply(slope, (low - middle, high - middle)))
                settled = seen_low - TOLERANCE <= bound[0] and bound[1] <= seen_high + TOLERANCE
                if not settled and high - low > 1:
                    pieces += [(low, middle), (middle, high)]
                    continue
            result_low, result_high = min(result_low, bound[0]), max(result_high, bound[1])
        if max(-result_low, result_high) > LARGEST:
            raise Rejected("the iterates exceed 2**64")
        return result_low, result_high


def _show(x: Interval) -> str:
    return f"[{float(Fraction(x[0], 1 << PRECISION)):.12g}, {float(Fraction(x[1], 1 << PRECISION)):.12g}]"


def _ends(value: object, what: str) -> tuple[Fraction, Fraction]:
    ends = numbers(value, what)
    if len(ends) != 2 or ends[0] > ends[1] or max(abs(ends[0]), abs(ends[1])) > 2**64:
        raise Rejected(f"{what} is not [lower, upper] with lower <= upper")
    return ends[0], ends[1]


def _check_witness(witness: object, what: str, steps: Sequence[OddPolynomial], domain: tuple[Fraction, Fraction]) -> None:
    content = fields(witness, what, ("x",), ("value_at_least", "value_at_most", "note"))
    if "value_at_least" not in content and "value_at_most" not in content:
        raise Rejected(f"{what} claims nothing")
    x = number(content["x"])
    if not domain[0] <= x <= domain[1]:
        raise Rejected(f"{what} is outside the domain")
    value = outward(x, x)
    for step in steps:
        value = step.at(value)
    if "value_at_least" in content and Fraction(value[0], 1 << PRECISION) < number(content["value_at_least"]):
        raise Rejected(f"{what}: the value is in {_show(value)}, not at least {content['value_at_least']}")
    if "value_at_most" in content and Fraction(value[1], 1 << PRECISION) > number(content["value_at_most"]):
        raise Rejected(f"{what}: the value is in {_show(value)}, not at most {content['value_at_most']}")


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "enclosure"."""
    needed = ("map", "domain", "enclosure")
    fields(certificate, "the certificate", needed, ("type", "name", "statement", "note", "witnesses"))
    sets = [numbers(coefficients, f"step {i}") for i, coefficients in enumerate(items(certificate["map"], "map", 1))]
    if len(sets) > MAX_STEPS or max(map(len, sets)) > MAX_TERMS or max(abs(a) for step in sets for a in step) > 2**64:
        raise Rejected(f"more than {MAX_STEPS} steps or {MAX_TERMS} coefficients, or a coefficient above 2**64")
    steps = [OddPolynomial(coefficients) for coefficients in sets]
    domain, claimed = _ends(certificate["domain"], "domain"), _ends(certificate["enclosure"], "enclosure")
    x = outward(*domain)
    for i, step in enumerate(steps):
        try:
            x = step.image(x)
        except Rejected as failure:
            raise Rejected(f"step {i}: {failure}") from None
    low, high = Fraction(x[0], 1 << PRECISION), Fraction(x[1], 1 << PRECISION)
    if low < claimed[0] or high > claimed[1]:
        raise Rejected(f"the image lies in {_show(x)}, which is not inside [{float(claimed[0]):.12g}, {float(claimed[1]):.12g}]")
    witnesses = items(certificate.get("witnesses", ()), "witnesses")
    for i, witness in enumerate(witnesses):
        _check_witness(witness, f"witness {i}", steps, domain)
    return f"{len(steps)} steps, image in {_show(x)}, {len(witnesses)} witnesses"
