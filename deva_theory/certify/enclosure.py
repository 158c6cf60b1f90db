"""Rigorous ranges of compositions of odd polynomials (SPEC M12), by interval arithmetic.

A polynomial is continuous, so it maps an interval onto the interval between its extrema, and the image under a composition is
the composition of the images: every step is enclosed by itself, and no dependency is lost between steps.  Within a step,
adaptive bisection; a piece X with centre c is settled

* where 0 is not inside p'(X): the extrema are at its ends (p' also in its centred form);
* where ``p(c) + p'(X)(X - c)`` leaves the values known to be attained by less than `SETTLED`.

Intervals are python-flint's ``arb`` where it is installed and mpmath's ``iv`` otherwise; both round outwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Protocol

from deva_theory.certify.rational import Number, as_text, rational

__all__ = ["Enclosure", "enclose_polynomial"]

BITS = 200
SETTLED = Fraction(1, 2**70)
"""Far below every tolerance, also after the slopes of later steps have magnified it."""
LEAST_TOL = Fraction(1, 10**12)
MOST_PIECES = 100_000
Ends = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Enclosure:
    """An interval that contains the image of the domain, and how nearly it is attained.

    Attributes
    ----------
    lower, upper : Fraction
        The image lies between them and reaches within the tolerance of both.
    witnesses : pair of pairs
        ``(x, value)`` for the lower and the upper end: the image of the exact x is at most (at least) the value.
    certificate : dict
        Of type "enclosure", for `deva_theory.recheck`.
    images : tuple of pairs
        The interval after each step, without slack.
    pieces : int
        Intervals looked at.
    """

    lower: Fraction
    upper: Fraction
    witnesses: tuple[Ends, Ends]
    certificate: dict[str, Any]
    images: tuple[Ends, ...]
    pieces: int


class Intervals(Protocol):
    """Outward-rounding arithmetic, reduced to what is needed here; its intervals have ``+ - *``."""

    def hull(self, low: Fraction, high: Fraction) -> Any:
        """Return an interval that contains [low, high]."""

    def ends(self, x: Any) -> Ends:
        """Return the exact ends of an interval."""


def enclose_polynomial(
    steps: Sequence[Sequence[Number]], domain: tuple[Number, Number], tol: Number = 1e-6, *, backend: str | None = None
) -> Enclosure:
    """Enclose the image of the domain under odd polynomials applied one after the other.

    Parameters
    ----------
    steps : sequence of sequences of numbers
        ``(a1, a3, a5, …)`` for each step ``x -> a1 x + a3 x³ + a5 x⁵ + …``, the first applied first; floats are read as
        the decimals they print.
    domain : pair of numbers
    tol : number, default 1e-6
        The ends exceed the image by tol/4 to tol, so that a coarser arithmetic can re-check them; at least 1e-12, below which
        `deva_theory.recheck`, exact to 2⁻⁴⁴ in each step, may not follow.
    backend : {"arb", "iv"}, optional
        Default: "arb" where python-flint is installed.

    Raises
    ------
    ValueError
        For an empty domain, no steps, a tolerance out of range or an unknown backend.
    ArithmeticError
        If the bisection does not settle.
    """
    start = low, high = rational(domain[0]), rational(domain[1])
    if low > high:
        raise ValueError(f"enclose_polynomial: the domain [{domain[0]}, {domain[1]}] is empty; give the lower end first")
    polynomials = [[rational(a) for a in step] for step in steps]
    if not polynomials or not all(polynomials):
        raise ValueError("enclose_polynomial: give at least one step, each with at least one coefficient")
    slack = rational(tol) / 4
    if not LEAST_TOL <= 4 * slack < 1:
        raise ValueError(f"enclose_polynomial: tol is {tol}; use a number from 1e-12 up to 1")
    images: list[Ends] = []
    extremal: list[Ends] = []
    pieces = 0
    with arithmetic(backend) as intervals:
        for polynomial in polynomials:
            step = OddPolynomial(polynomial, intervals)
            (low, high), points, used = image(step, low, high)
            images.append((low, high))
            extremal.append(points)
            pieces += used
        places = decimal_places(slack)
        lowest = pull_back(polynomials, extremal, start, 0)
        highest = pull_back(polynomials, extremal, start, 1)
        reached = (
            rounded(value(polynomials, lowest, intervals)[1] + slack / 100, places + 2, up=True),
            rounded(value(polynomials, highest, intervals)[0] - slack / 100, places + 2, up=False),
        )
    lower, upper = rounded(low - slack, places, up=False), rounded(high + slack, places, up=True)
    certificate = {
        "type": "enclosure",
        "map": [[as_text(a) for a in polynomial] for polynomial in polynomials],
        "domain": [as_text(end) for end in start],
        "enclosure": [as_text(lower), as_text(upper)],
        "witnesses": [
            {"x": as_text(lowest), "value_at_most": as_text(reached[0])},
            {"x": as_text(highest), "value_at_least": as_text(reached[1])},
        ],
    }
    return Enclosure(lower, upper, ((lowest, reached[0]), (highest, reached[1])), certificate, tuple(images), pieces)


class OddPolynomial:
    """``a1 x + a3 x³ + …`` and its derivative on intervals."""

    def __init__(self, coefficients: Sequence[Fraction], intervals: Intervals) -> None:
        self.intervals = intervals
        self.coefficients = [intervals.hull(a, a) for a in coefficients]
        self.slopes = [intervals.hull(a, a) for a in ((2 * k + 1) * a for k, a in enumerate(coefficients))]
        self.curvatures = [intervals.hull(a, a) for a in (2 * k * (2 * k + 1) * a for k, a in enumerate(coefficients))][1:]

    def on(self, X: Any) -> Any:
        """Return an interval that contains p(X)."""
        return X * horner(self.coefficients, X * X)

    def at(self, x: Fraction) -> Ends:
        """Return bounds of p at one point."""
        return self.intervals.ends(self.on(self.intervals.hull(x, x)))

    def slope(self, X: Any, C: Any) -> Ends:
        """Return bounds of p'(X); C is the centre of X, and the better of two forms counts.

        Near a zero of p' of higher order, as the Padé quintic has at 1, only the centred form ``p'(c) + p''(X)(X - c)`` has the
        right sign on pieces that are not tiny.
        """
        plain = self.intervals.ends(horner(self.slopes, X * X))
        if plain[0] >= 0 or plain[1] <= 0 or not self.curvatures:
            return plain
        centred = self.intervals.ends(horner(self.slopes, C * C) + X * horner(self.curvatures, X * X) * (X - C))
        return max(plain[0], centred[0]), min(plain[1], centred[1])


def horner(coefficients: Sequence[Any], y: Any) -> Any:
    """Return ``c0 + c1 y + c2 y² + …``."""
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * y + c
    return total


def image(p: OddPolynomial, low: Fraction, high: Fraction) -> tuple[Ends, Ends, int]:
    """Return bounds of p on [low, high], points where they are nearly attained, and the number of pieces."""
    at_low, at_high = p.at(low), p.at(high)
    # Certainly attained: the least upper bound and the largest lower bound of a value, and where.
    least, most = min((at_low[1], low), (at_high[1], high)), max((at_low[0], low), (at_high[0], high))
    bottom, top = min(at_low[0], at_high[0]), max(at_low[1], at_high[1])
    waiting, used = [(low, high)], 0
    while waiting:
        a, b = waiting.pop()
        used += 1
        if used > MOST_PIECES:
            raise ArithmeticError(f"enclose_polynomial: {MOST_PIECES} pieces do not settle the range on [{float(low)}, {float(high)}]")
        c = (a + b) / 2
        X, C = p.intervals.hull(a, b), p.intervals.hull(c, c)
        flat = p.slope(X, C)
        if flat[0] >= 0 or flat[1] <= 0:  # monotone: the ends of pieces are points of the bisection, evaluated there
            at_a, at_b = p.at(a), p.at(b)
            least, most = min(least, (at_a[1], a), (at_b[1], b)), max(most, (at_a[0], a), (at_b[0], b))
            bottom, top = min(bottom, at_a[0], at_b[0]), max(top, at_a[1], at_b[1])
            continue
        centre = p.on(C)
        middle = p.intervals.ends(centre)
        least, most = min(least, (middle[1], c)), max(most, (middle[0], c))
        bounds = p.intervals.ends(centre + p.intervals.hull(*flat) * (X - C))
        if bounds[0] < least[0] - SETTLED or bounds[1] > most[0] + SETTLED:
            waiting += [(a, c), (c, b)]
        else:
            bottom, top = min(bottom, bounds[0]), max(top, bounds[1])
    return (bottom, top), (least[1], most[1]), used


def value(polynomials: Sequence[Sequence[Fraction]], x: Fraction, intervals: Intervals) -> Ends:
    """Return bounds of the composition at one point."""
    X = intervals.hull(x, x)
    for polynomial in polynomials:
        X = OddPolynomial(polynomial, intervals).on(X)
    return intervals.ends(X)


def pull_back(polynomials: Sequence[Sequence[Fraction]], extremal: Sequence[Ends], domain: Ends, end: int) -> Fraction:
    """Return a decimal in the domain whose image is near one end: backwards through the steps from the extremal point of the last.

    p takes every value between its extremal points p(u) <= y <= p(v) on the way from u to v, so bisection finds a preimage of y.
    """
    x = extremal[-1][end]
    for polynomial, (u, v) in zip(reversed(polynomials[:-1]), reversed(extremal[:-1]), strict=True):
        x = preimage(polynomial, x, u, v)
    return min(max(rounded(x, 36, up=True), domain[0]), domain[1])


def preimage(polynomial: Sequence[Fraction], y: Fraction, u: Fraction, v: Fraction) -> Fraction:
    """Return x between u and v with p(x) near y; an extremal point itself where y is not inside its image."""

    def p(x: Fraction) -> Fraction:
        return x * horner(polynomial, x * x)

    if not p(u) < y < p(v):
        return u if y <= p(u) else v
    for _ in range(120):
        c = Fraction(round((u + v) * 2**129), 2**130)
        u, v = (c, v) if p(c) < y else (u, c)
    return v


def decimal_places(slack: Fraction) -> int:
    """Return the fewest decimals such that rounding moves a number by less than the slack."""
    places = 0
    while slack * 10**places < 1:
        places += 1
    return places


def rounded(x: Fraction, places: int, *, up: bool) -> Fraction:
    """Round to so many decimals, up or down."""
    scaled = x * 10**places
    return Fraction(-((-scaled.numerator) // scaled.denominator) if up else scaled.numerator // scaled.denominator, 10**places)


@contextmanager
def arithmetic(name: str | None) -> Iterator[Intervals]:
    """Yield the interval arithmetic at the working precision."""
    name = name or ("arb" if find_spec("flint") else "iv")
    if name == "arb":
        import flint

        with flint.ctx.workprec(BITS):
            yield Arb(flint.arb, flint.fmpq)
    elif name == "iv":
        from mpmath.ctx_iv import MPIntervalContext

        context = MPIntervalContext()  # not mpmath.iv: its precision belongs to everybody
        context.prec = BITS
        yield Iv(context)
    else:
        raise ValueError(f"enclose_polynomial: unknown interval arithmetic {name!r}; use 'arb' (python-flint) or 'iv' (mpmath)")


@dataclass(frozen=True)
class Arb:
    """python-flint's balls."""

    ball: Callable[..., Any]
    ratio: Callable[..., Any]

    def hull(self, low: Fraction, high: Fraction) -> Any:
        """Return a ball around [low, high]."""
        left = self.ball(self.ratio(low.numerator, low.denominator))
        return left if low == high else left.union(self.ball(self.ratio(high.numerator, high.denominator)))

    def ends(self, x: Any) -> Ends:
        """Return the ball's exact ends."""
        low, high = (binary(*(int(part) for part in end.man_exp())) for end in (x.lower(), x.upper()))
        return low, high


@dataclass(frozen=True)
class Iv:
    """mpmath's intervals."""

    context: Any

    def hull(self, low: Fraction, high: Fraction) -> Any:
        """Return an interval around [low, high]."""
        mpf = self.context.mpf
        left = mpf(low.numerator) / mpf(low.denominator)
        return left if low == high else mpf([left.a, (mpf(high.numerator) / mpf(high.denominator)).b])

    def ends(self, x: Any) -> Ends:
        """Return the interval's exact ends."""
        low, high = (binary((-1) ** sign * int(mantissa), int(exponent)) for sign, mantissa, exponent, _ in x._mpi_)
        return low, high


def binary(mantissa: int, exponent: int) -> Fraction:
    """Return ``mantissa · 2^exponent``."""
    return Fraction(mantissa << exponent) if exponent >= 0 else Fraction(mantissa, 1 << -exponent)
