"""The names of a symbolic case: where they range, what they stand for in SymPy, and sample points."""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt
from typing import Any

import sympy

from deva_theory.certify.grammar import divisors, fold, names, parse

__all__ = ["Domain", "Point", "Unjustified"]

_SIGNS = ("real", "nonnegative", "positive")  # weakest first
_POOL = [Fraction(x) for x in "1 2 1/2 3 1/3 3/2 4 2/3 5 1/4 3/4 1/5 1/10 8 1/20 7/3 1/50".split()]
_DRAWS = 4000
_POINTS = 16
_MORE = 300
_BITS = 240
_SLACK = Fraction(1, 2**100)


class Unjustified(Exception):
    """A declaration or a step that is well formed but was not shown; the message says why."""


@dataclass(frozen=True)
class Point:
    """Rational values of the free names, and what follows for the others.

    Attributes
    ----------
    free : mapping
        The values drawn.
    values : mapping
        Those and the definitions and square roots; None where a definition divides by zero.
    exact : bool
        Whether every square root is rational; otherwise they are good to `_BITS` bits.
    """

    free: Mapping[str, Fraction]
    values: Mapping[str, Fraction | None]
    exact: bool

    @property
    def slack(self) -> Fraction:
        """Below this a difference at this point counts as zero."""
        return Fraction(0) if self.exact else _SLACK

    def evaluate(self, node: ast.expr) -> Fraction:
        """Return the value of an expression; ZeroDivisionError where it has none."""
        return fold(node, Fraction, self._value, divide_by=self._divide_by)

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.free.items()) or "every point"

    def _value(self, name: str) -> Fraction:
        value = self.values[name]
        if value is None:
            raise ZeroDivisionError(f"{name} divides by zero")
        return value

    def _divide_by(self, value: Fraction) -> None:
        if abs(value) <= self.slack:
            raise ZeroDivisionError("a divisor is zero")


def _root(value: Fraction) -> tuple[Fraction, bool]:
    """Return the square root, and whether it is exact."""
    p, q = isqrt(value.numerator), isqrt(value.denominator)
    if (p * p, q * q) == (value.numerator, value.denominator):
        return Fraction(p, q), True
    return Fraction(isqrt(value.numerator * value.denominator << 2 * _BITS), value.denominator << _BITS), False


class Domain:
    """What is known about the names of a case.

    Parameters
    ----------
    signs : mapping
        "positive", "nonnegative" and "real" to sequences of names.
    definitions, squares : mapping
        Name to expression: what it stands for, or of what it is the nonnegative square root; in any order.

    Raises
    ------
    ValueError
        For undeclared names, cycles, and text that is no expression.
    """

    def __init__(self, signs: Mapping[str, Sequence[str]], definitions: Mapping[str, Any], squares: Mapping[str, Any]) -> None:
        self.declared: dict[str, str] = {}
        for sign in _SIGNS:
            self.declared |= dict.fromkeys(signs.get(sign, ()), sign)
        self.definitions = {name: self._parse(name, text) for name, text in definitions.items()}
        self.squares = {name: self._parse(name, text) for name, text in squares.items()}
        if both := sorted(self.definitions.keys() & self.squares.keys()):
            raise ValueError(f"{both[0]!r} is both a definition and a square root")
        for name in (*self.declared, *self.definitions, *self.squares):
            if not isinstance(parse(name), ast.Name):
                raise ValueError(f"{name!r} is not a name")
        self.free = [name for name in self.declared if name not in self.definitions and name not in self.squares]
        self.order = self._ordered()

    def known(self, node: ast.expr) -> ast.expr:
        """Return the expression if all its names are declared; ValueError otherwise."""
        if unknown := sorted(names(node) - {*self.declared, *self.definitions, *self.squares}):
            raise ValueError(f"{ast.unparse(node)!r}: {unknown[0]!r} is not declared")
        return node

    @staticmethod
    def _parse(name: str, text: object) -> ast.expr:
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _ordered(self) -> list[str]:
        """Return the definitions and square roots so that each uses earlier ones only."""
        order: list[str] = []
        waiting = {**self.definitions, **self.squares}
        for node in waiting.values():
            self.known(node)
        while waiting:
            ready = [name for name, node in waiting.items() if not names(node) & waiting.keys()]
            if not ready:
                raise ValueError(f"{', '.join(sorted(waiting))}: defined by each other")
            order += ready
            for name in ready:
                del waiting[name]
        return order

    # Sample points --------------------------------------------------------------------------------------------------

    @cached_property
    def points(self) -> list[Point]:
        """A few points that respect the declarations, those with rational square roots first, then by simplicity."""
        found = list(itertools.islice(self._drawn(random.Random(0)), _POINTS * (4 if self.squares else 1)))
        found.sort(key=lambda p: (not p.exact, sum(x.denominator + abs(x.numerator) for x in p.free.values())))
        # Inexact points too: an identity may hold wherever the roots are rational and small.
        inexact = [p for p in found if not p.exact][: _POINTS // 4]
        return [*[p for p in found if p.exact][: _POINTS - len(inexact)], *inexact]

    @cached_property
    def more_points(self) -> list[Point]:
        """More points, for steps that are not shown."""
        return list(itertools.islice(self._drawn(random.Random(1), start=200), _MORE))

    def _drawn(self, rng: random.Random, start: int = 0) -> Iterator[Point]:
        """Yield different points, simple ones first."""
        seen = set()
        for draw in range(start, start + _DRAWS if self.free else start + 1):
            pool = _POOL[: 3 + draw // 8]
            # Sums may have to be small, as in "a = 1 - b - c is positive": shrink some draws as a whole.
            scale = rng.choice((1, 1, Fraction(1, 4), Fraction(1, 20))) if draw > _POINTS else 1
            free = {name: scale * self._draw(rng, self.declared[name], pool) for name in self.free}
            key = tuple(free.values())
            if key not in seen and (point := self.at(free)) is not None:
                yield point
            seen.add(key)

    def at(self, free: Mapping[str, Fraction]) -> Point | None:
        """Return the point with these values of the free names, or None where a declaration excludes it."""
        values: dict[str, Fraction | None] = dict(free)
        point = Point(free, values, True)
        for name in self.order:
            try:
                value = point.evaluate(self.definitions.get(name) or self.squares[name])
            except ZeroDivisionError:
                if name in self.squares or name in self.declared:
                    return None
                values[name] = None
                continue
            if name in self.squares:
                if value < 0:
                    return None
                value, exact = _root(value)
                point = Point(free, values, point.exact and exact)
            sign = self.declared.get(name, "real")
            if (sign == "positive" and value <= point.slack) or (sign == "nonnegative" and value < 0):
                return None
            values[name] = value
        return point

    @staticmethod
    def _draw(rng: random.Random, sign: str, pool: Sequence[Fraction]) -> Fraction:
        if sign != "positive" and rng.random() < 0.15:
            return Fraction(0)
        return rng.choice(pool) * (rng.choice((-1, 1)) if sign == "real" else 1)

    # SymPy ----------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give every name its SymPy expression and check the declarations.

        Raises
        ------
        ValueError
            When a definition divides by zero at every point.
        Unjustified
            When no point satisfies the assumptions, a divisor may vanish, or a square may be negative.
        """
        self.values: dict[str, sympy.Expr] = {}  # in the free names and square roots: for identities
        self.signed: dict[str, sympy.Expr] = {}  # definitions with an assumed sign are symbols: for signs
        self.roots: list[tuple[sympy.Symbol, sympy.Expr]] = []
        self.rational: dict[str, sympy.Expr] = {}  # square roots that are rational functions
        self._assumed: dict[sympy.Symbol, sympy.Expr] = {}
        self._facts: dict[sympy.Poly, sympy.Symbol] = {}
        if not self.points:
            raise Unjustified(f"none of {_DRAWS} points satisfies the assumptions: the case may be empty")
        for name in self.definitions:
            if all(point.values[name] is None for point in self.points):
                raise ValueError(f"{name} = {ast.unparse(self.definitions[name])} divides by zero everywhere")
        for name in self.free:
            self.values[name] = self.signed[name] = self._symbol(name, self.declared[name])
        for name in self.order:
            if name in self.definitions:
                self._define(name, self.definitions[name])
            else:
                self._root(name, self.squares[name])

    def value(self, node: ast.expr) -> sympy.Expr:
        """Return an expression in the free names and square roots."""
        return fold(node, sympy.Integer, self.values.__getitem__)

    def unsafe_divisor(self, node: ast.expr) -> str:
        """Return a line about the first divisor that is not evidently nonzero, or "" when all are."""
        for divisor in divisors(node):
            if not any(self._judged(form).is_nonzero for form in self._forms(divisor)):
                return f"divides by {ast.unparse(divisor)}, which is not evidently nonzero"
        return ""

    def vanishes(self, expression: sympy.Expr) -> bool:
        """Return whether the expression is identically zero modulo the squares."""
        return self._vanishes(expression, len(self.roots))

    def nonnegative(self, node: ast.expr) -> bool:
        """Return whether the expression, as written or expanded, is evidently nonnegative."""
        return any(self._judged(form).is_nonnegative for form in self._forms(node))

    def positive(self, node: ast.expr) -> bool:
        """Return whether the expression, as written or expanded, is evidently positive."""
        return any(self._judged(form).is_positive for form in self._forms(node))

    def learn(self, node: ast.expr) -> None:
        """Keep the fact that the expression is positive."""
        self._learn(self.value(node), "positive")

    def _define(self, name: str, node: ast.expr) -> None:
        if reason := self.unsafe_divisor(node):
            raise Unjustified(f"{name} = {ast.unparse(node)} {reason}")
        self.values[name] = self.value(node)
        sign = self.declared.get(name, "real")
        if sign == "real":
            self.signed[name] = fold(node, sympy.Integer, self.signed.__getitem__)
            return
        self.signed[name] = self._symbol(name, sign)
        self._assumed[self.signed[name]] = self.values[name]
        self._learn(self.values[name], sign)

    def _root(self, name: str, node: ast.expr) -> None:
        text = ast.unparse(node)
        positive = self.positive(node)
        if reason := self.unsafe_divisor(node):
            raise Unjustified(f"{name} = sqrt({text}) {reason}")
        if not (positive or self.nonnegative(node)):
            raise Unjustified(f"{name} = sqrt({text}): {text} is not evidently nonnegative")
        if self.declared.get(name) == "positive" and not positive:
            raise Unjustified(f"{name} = sqrt({text}) is declared positive, but {text} is not evidently positive")
        square = self.value(node)
        if (rational := self._rational_root(square)) is not None:
            self.rational[name] = self.values[name] = self.signed[name] = rational
            return
        symbol = self._symbol(name, "positive" if positive else "nonnegative")
        self.values[name] = self.signed[name] = symbol
        self.roots.append((symbol, square))

    @staticmethod
    def _symbol(name: str, sign: str) -> sympy.Symbol:
        return sympy.Symbol(name, **{sign: True})

    def _forms(self, node: ast.expr) -> Iterator[sympy.Expr]:
        """Yield the expression for judging its sign, as written and expanded."""
        form = fold(node, sympy.Integer, self.signed.__getitem__)
        yield form
        yield sympy.expand(form)
        if self._facts:
            # A sum with a known sign as one symbol: SymPy would have merged its terms with their neighbours.
            named = fold(node, sympy.Integer, self.signed.__getitem__, after=lambda e: (self._by_fact(e) if e.is_Add else None) or e)
            if named != form:
                yield named
                yield sympy.expand(named)

    def _rational_root(self, square: sympy.Expr) -> sympy.Expr | None:
        """Return the nonnegative rational function whose square this is, if there is one of evident sign."""
        root: sympy.Expr = sympy.Integer(1)
        for part, exponent in zip(sympy.fraction(sympy.together(square)), (1, -1), strict=True):
            coefficient, factors = sympy.factor_list(part)
            coefficient = sympy.sqrt(coefficient)
            if not coefficient.is_rational or any(power % 2 for _, power in factors):
                return None
            root *= (coefficient * sympy.prod(factor ** (power // 2) for factor, power in factors)) ** exponent
        return next((r for r in (root, -root) if self._judged(r).is_nonnegative), None)

    def _vanishes(self, expression: sympy.Expr, roots: int) -> bool:
        numerator = sympy.fraction(sympy.together(expression))[0]
        if roots == 0:
            return sympy.expand(numerator) == 0
        symbol, square = self.roots[roots - 1]
        coefficients = sympy.Poly(numerator, symbol).all_coeffs()[::-1]
        # A + B r is zero where A and B are, A and B free of r.
        halves = (sympy.Add(*(c * square**k for k, c in enumerate(coefficients[start::2]))) for start in (0, 1))
        return all(self._vanishes(half, roots - 1) for half in halves)

    def _judged(self, expression: sympy.Expr) -> sympy.Expr:
        """Return a product or power whose sign SymPy knows exactly where it follows from the terms of each sum.

        Each sum is replaced by a symbol of the sign that its terms, or a fact, give it: SymPy's own treatment of sums
        finds more signs in some cases, which nobody can see.
        """
        if not expression.args:
            return expression
        parts = [self._judged(part) for part in expression.args]
        if not expression.is_Add:
            judged = expression.func(*parts)
            return judged if judged.is_positive or judged.is_negative else self._by_fact(expression) or judged
        for factor in (1, -1):
            terms = [factor * part for part in parts]
            if all(term.is_nonnegative for term in terms):
                positive = any(term.is_positive for term in terms)
                known = factor * sympy.Dummy(**{"positive" if positive else "nonnegative": True})
                return known if positive else self._by_fact(expression) or known
        return self._by_fact(expression) or sympy.Dummy(real=True)

    def _by_fact(self, expression: sympy.Expr) -> sympy.Expr | None:
        """Return a multiple of a symbol that has the sign a fact gives the expression, if one does."""
        if not self._facts or (found := self._key(expression.subs(self._assumed))) is None or found[1] not in self._facts:
            return None
        lead, polynomial = found
        return lead * self._facts[polynomial]

    def _key(self, expression: sympy.Expr) -> tuple[sympy.Expr, sympy.Poly] | None:
        """Return the leading coefficient and the monic polynomial, or None for what is no polynomial."""
        symbols = [self.values[name] for name in self.free] + [symbol for symbol, _ in self.roots]
        if not symbols or not expression.is_polynomial(*symbols):
            return None
        polynomial = sympy.Poly(expression, *symbols, domain="QQ")
        return None if polynomial.is_zero else (polynomial.LC(), polynomial.monic())

    def _learn(self, expression: sympy.Expr, sign: str) -> None:
        """Keep a sign as a symbol that stands for the monic polynomial."""
        if (found := self._key(expression)) is None:
            return
        lead, polynomial = found
        known = self._facts.get(polynomial)
        if known is None or not known.is_nonzero:
            opposite = {"positive": "negative", "nonnegative": "nonpositive"}
            symbol = sympy.Dummy(**{sign if lead > 0 else opposite[sign]: True})
            self._facts[polynomial] = symbol
            self._assumed[symbol] = polynomial.as_expr()
