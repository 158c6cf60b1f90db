"""Rational functions over the rationals, with square roots reduced by r² → p.

A polynomial is a dict from exponent tuples to nonzero fractions.  A `Ratio` is a polynomial over a product of polynomial
factors.  What is kept true throughout: at every point of the domain each factor is nonzero and the ratio equals the
expression it came from.  The caller vouches for divisors (`Ring.divide`) and for what names stand for (`adopt_root`,
`adopt_definition`); everything else preserves it.  A ratio whose numerator reduces to 0 is therefore 0 on the domain; the
converse is not needed: a difference that does not reduce to 0 is simply not accepted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from operator import add

from .reading import Rejected

Monomial = tuple[int, ...]
Polynomial = dict[Monomial, Fraction]
Key = tuple[tuple[Monomial, Fraction], ...]
"""A monic polynomial (leading coefficient 1) as something that can be looked up."""

MAX_TERMS = 20_000
MAX_DEGREE = 400
MAX_EXPONENT = 200
MAX_BITS = 20_000
MAX_WORK = 3_000_000
"""Limits: beyond them a certificate is rejected with a line that says so, rather than left to run."""


@dataclass(frozen=True)
class Ratio:
    """A numerator over a product of monic factors, each nonzero on the whole domain."""

    top: Polynomial
    factors: Mapping[Key, int] = field(default_factory=dict)

    @property
    def constant(self) -> Fraction | None:
        """The value, where it is plainly a number."""
        if self.factors or any(any(monomial) for monomial in self.top):
            return None
        return next(iter(self.top.values()), Fraction(0))


def _bits(p: Polynomial) -> int:
    return max((max(c.numerator.bit_length(), c.denominator.bit_length()) for c in p.values()), default=0)


def monic(p: Polynomial) -> tuple[Fraction, Key]:
    """Return the leading coefficient and the polynomial divided by it; p is not 0."""
    lead = p[max(p)]
    return lead, tuple(sorted((monomial, c / lead) for monomial, c in p.items()))


class Ring:
    """Arithmetic of ratios in fixed names, some of which are square roots.

    Parameters
    ----------
    names : sequence of str
        All variables, square roots included.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        # In order of adoption: what a name stands for holds only names adopted before it.
        self._squares: dict[int, Ratio] = {}
        self._definitions: dict[int, Ratio] = {}
        self._work = 0

    def constant(self, value: int | Fraction) -> Ratio:
        """Return a number."""
        return Ratio(self._checked({(0,) * len(self.names): Fraction(value)} if value else {}))

    def variable(self, name: str) -> Ratio:
        """Return a name as a ratio."""
        return Ratio({self._unit(self.names.index(name)): Fraction(1)})

    def adopt_root(self, name: str, square: Ratio) -> None:
        """Let ``name² = square`` from now on."""
        self._squares[self.names.index(name)] = square

    def adopt_definition(self, name: str, ratio: Ratio) -> None:
        """Let `expanded` replace the name by a ratio from now on."""
        self._definitions[self.names.index(name)] = ratio

    def negate(self, a: Ratio) -> Ratio:
        """Return -a."""
        return Ratio({monomial: -c for monomial, c in a.top.items()}, a.factors)

    def add(self, a: Ratio, b: Ratio) -> Ratio:
        """Return a + b over the least common multiple of the factors as written."""
        common = {key: max(a.factors.get(key, 0), b.factors.get(key, 0)) for key in {**a.factors, **b.factors}}
        total = dict(self._over(a, common))
        for monomial, c in self._over(b, common).items():
            total[monomial] = total.get(monomial, Fraction(0)) + c
        return self._normal(self._checked({monomial: c for monomial, c in total.items() if c}), common)

    def multiply(self, a: Ratio, b: Ratio) -> Ratio:
        """Return ab."""
        factors = {key: a.factors.get(key, 0) + b.factors.get(key, 0) for key in {**a.factors, **b.factors}}
        return self._normal(self._times(a.top, b.top), factors)

    def divide(self, a: Ratio, b: Ratio) -> Ratio:
        """Return a/b.  The caller has shown that b is nonzero at every point of the domain."""
        if not b.top:
            raise Rejected("a divisor is identically zero")
        # At each point a product is nonzero, so its factors are: the common monomial may be split off.
        shared = tuple(map(min, zip(*b.top, strict=True))) if self.names else ()
        rest = {tuple(e - s for e, s in zip(monomial, shared, strict=True)): c for monomial, c in b.top.items()}
        lead, key = monic(rest)
        factors = dict(a.factors)
        if len(rest) > 1:
            factors[key] = factors.get(key, 0) + 1
        for i, exponent in enumerate(shared):
            if exponent:
                variable = ((self._unit(i), Fraction(1)),)
                factors[variable] = factors.get(variable, 0) + exponent
        top = self._times(self._over(Ratio(a.top), b.factors), {(0,) * len(self.names): 1 / lead})
        return self._normal(top, factors)

    def power(self, a: Ratio, exponent: int) -> Ratio:
        """Return a to a nonnegative integer power (a⁰ = 1)."""
        if exponent > MAX_EXPONENT:
            raise Rejected(f"the exponent {exponent} exceeds the limit {MAX_EXPONENT}")
        result = self.constant(1)
        for _ in range(exponent):
            result = self.multiply(result, a)
        return result

    def expanded(self, a: Ratio) -> Ratio:
        """Return the ratio with every adopted definition replaced by what it stands for."""
        for i in reversed(self._definitions):
            if any(monomial[i] for p in (a.top, *map(dict, a.factors)) for monomial in p):
                result = self._substituted(a.top, i)
                for key, exponent in a.factors.items():
                    result = self.divide(result, self.power(self._substituted(dict(key), i), exponent))
                a = result
        return a

    def square_root(self, a: Ratio) -> Ratio | None:
        """Return a ratio whose square is `a`, of whichever sign, if there is one without new roots: √(pq)/q for p/q."""
        denominator = self._over(Ratio(self.constant(1).top), a.factors)
        left = self._times(a.top, denominator)
        root: Polynomial = {}
        while left:
            # The leading terms of p = r² in the lexicographic order: first r's own, then those of 2r·(the rest of r).
            lead = max(left)
            if root:
                first = max(root)
                monomial, c = tuple(e - f for e, f in zip(lead, first, strict=True)), left[lead] / (2 * root[first])
            else:
                c = Fraction(math.isqrt(abs(left[lead].numerator)), math.isqrt(left[lead].denominator))
                monomial = tuple(e // 2 for e in lead)
                if c * c != left[lead] or any(e % 2 for e in lead):
                    return None
            if min(monomial, default=0) < 0 or (root and monomial >= min(root)):
                return None
            step = {monomial: c}
            change = self._times(step, {m: (1 if m == monomial else 2) * d for m, d in {**root, **step}.items()})
            left = self.add(Ratio(left), self.negate(Ratio(change))).top
            root[monomial] = c
        result = self.divide(Ratio(root), Ratio(denominator))
        # Reducing roots on the way may have dropped a factor of `left`: believe only the square itself.
        return None if self.add(self.multiply(result, result), self.negate(a)).top else result

    def show(self, p: Polynomial, terms: int = 6) -> str:
        """Return the first terms of a polynomial for a message."""
        parts = []
        for monomial in sorted(p, reverse=True)[:terms]:
            names = [n if e == 1 else f"{n}**{e}" for n, e in zip(self.names, monomial, strict=True) if e]
            c = p[monomial]
            long = max(c.numerator.bit_length(), c.denominator.bit_length()) > 128
            parts.append("*".join([f"({float(c):.6g})" if long and abs(c) < 10**300 else "(...)" if long else f"({c})", *names]))
        return (" + ".join(parts) or "0") + (f" + ... ({len(p)} terms)" if len(p) > terms else "")

    def _unit(self, i: int) -> Monomial:
        return tuple(int(j == i) for j in range(len(self.names)))

    def _times(self, a: Polynomial, b: Polynomial) -> Polynomial:
        self._work += len(a) * len(b) * (1 + (_bits(a) + _bits(b)) // 512)
        if self._work > MAX_WORK:
            raise Rejected(f"expanding needs more than {MAX_WORK} products of terms; split the case or name subexpressions")
        product: Polynomial = {}
        for monomial, c in a.items():
            for other, d in b.items():
                key = tuple(map(add, monomial, other))
                product[key] = product[key] + c * d if key in product else c * d
            if len(product) > MAX_TERMS:
                break
        return self._checked({monomial: c for monomial, c in product.items() if c} if len(product) <= MAX_TERMS else product)

    def _checked(self, p: Polynomial) -> Polynomial:
        if len(p) > MAX_TERMS:
            raise Rejected(f"a polynomial has more than {MAX_TERMS} terms")
        if max(map(sum, p), default=0) > MAX_DEGREE:
            raise Rejected(f"a polynomial has a degree above {MAX_DEGREE}")
        if _bits(p) > MAX_BITS:
            raise Rejected(f"a coefficient has more than {MAX_BITS} bits")
        return p

    def _over(self, a: Ratio, common: Mapping[Key, int]) -> Polynomial:
        """Return the numerator of `a` over a multiple of its denominator."""
        top = a.top
        for key, exponent in common.items():
            for _ in range(exponent - a.factors.get(key, 0)):
                top = self._times(top, dict(key))
        return top

    def _normal(self, top: Polynomial, factors: Mapping[Key, int]) -> Ratio:
        """Reduce the roots of the numerator to exponents 0 and 1, then cancel what plainly cancels."""
        left = dict(factors)
        for i in reversed(self._squares):
            most = max((monomial[i] // 2 for monomial in top), default=0)
            if most:
                top = self._without_squares(top, i, most)
                for key, exponent in self._squares[i].factors.items():
                    left[key] = left.get(key, 0) + exponent * most
        if not top:
            return Ratio({})
        for key in list(left):
            # Both cancellations divide by something nonzero at every point of the domain.
            if len(key) == 1:
                i = key[0][0].index(1)
                cut = min(left[key], min(monomial[i] for monomial in top))
                if cut:
                    top = {(*m[:i], m[i] - cut, *m[i + 1 :]): c for m, c in top.items()}
                    left[key] -= cut
            elif left[key] and len(key) == len(top):
                lead, whole = monic(top)
                if whole == key:
                    top = {(0,) * len(self.names): lead}
                    left[key] -= 1
        return Ratio(top, {key: exponent for key, exponent in left.items() if exponent})

    def _substituted(self, p: Polynomial, i: int) -> Ratio:
        """Return the polynomial with the i-th name replaced by its definition."""
        by_power: dict[int, Polynomial] = {}
        for monomial, c in p.items():
            by_power.setdefault(monomial[i], {})[(*monomial[:i], 0, *monomial[i + 1 :])] = c
        value = Ratio({})
        for exponent in range(max(by_power, default=0), -1, -1):
            value = self.add(self.multiply(value, self._definitions[i]), Ratio(by_power.get(exponent, {})))
        return value

    def _without_squares(self, top: Polynomial, i: int, most: int) -> Polynomial:
        """Return ``top · q^most`` with r² replaced by p/q, r the i-th name."""
        square = self._squares[i]
        by_power: dict[int, Polynomial] = {}
        for monomial, c in top.items():
            half, odd = divmod(monomial[i], 2)
            by_power.setdefault(half, {})[(*monomial[:i], odd, *monomial[i + 1 :])] = c
        total: Polynomial = {}
        for half, part in by_power.items():
            for _ in range(half):
                part = self._times(part, square.top)
            part = self._over(Ratio(part), {key: exponent * (most - half) for key, exponent in square.factors.items()})
            for monomial, c in part.items():
                total[monomial] = total.get(monomial, Fraction(0)) + c
        return self._checked({monomial: c for monomial, c in total.items() if c})
