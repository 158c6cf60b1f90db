"""Whether the assumptions of a case can hold together: a search for one rational point where they certainly do.

Only to find a case that speaks about nothing, from which everything would follow; no sign is ever concluded from it.
Nothing is rounded: a value is an interval with rational ends, of length 0 unless a square root on the way is irrational, and
a sign counts only if the whole interval has it.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction

from .reading import exponent_of

POINTS = 5000
MAX_WORK = 500_000
"""Operations; long expressions are tried at fewer points."""

MAX_BITS = 20_000
ROOT_BITS = 96

Interval = tuple[Fraction, Fraction]


class _Undecided(Exception):
    """There is no value at this point, or none that is worth computing."""


class _Point:
    """The values of all names at one point, computed as they are needed."""

    def __init__(
        self, free: Mapping[str, Fraction], definitions: Mapping[str, ast.expr], squares: Mapping[str, ast.expr], work: int
    ) -> None:
        self.work = work
        self._values = {name: (value, value) for name, value in free.items()}
        self._definitions, self._squares = definitions, squares

    def name(self, name: str) -> Interval:
        """Return the value of a name."""
        if name not in self._values:
            root = name in self._squares
            inner = self.value(self._squares[name] if root else self._definitions[name])
            self._values[name] = _root(inner) if root else inner
        return self._values[name]

    def value(self, node: ast.expr) -> Interval:
        """Return the value of an expression; long sums are walked without recursion."""
        spine: list[ast.BinOp] = []
        while isinstance(node, ast.BinOp):
            spine.append(node)
            node = node.left
        if isinstance(node, ast.Name):
            x = self.name(node.id)
        elif isinstance(node, ast.UnaryOp):
            x = self.value(node.operand)
            x = (-x[1], -x[0]) if isinstance(node.op, ast.USub) else x
        else:
            assert isinstance(node, ast.Constant)
            x = (Fraction(int(node.value)),) * 2  # type: ignore[arg-type]
        for step in reversed(spine):
            self.work -= 1
            if self.work < 0:
                raise _Undecided
            x = self._combined(x, step)
            if max(max(end.numerator.bit_length(), end.denominator.bit_length()) for end in x) > MAX_BITS:
                raise _Undecided
        return x

    def _combined(self, x: Interval, step: ast.BinOp) -> Interval:
        if isinstance(step.op, ast.Pow):
            return _power(x, exponent_of(step.right))
        y = self.value(step.right)
        if isinstance(step.op, ast.Add):
            return x[0] + y[0], x[1] + y[1]
        if isinstance(step.op, ast.Sub):
            return x[0] - y[1], x[1] - y[0]
        return _product(x, y if isinstance(step.op, ast.Mult) else _reciprocal(y))


def _product(x: Interval, y: Interval) -> Interval:
    if x[0] == x[1] and y[0] == y[1]:
        return (x[0] * y[0],) * 2
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


def _reciprocal(x: Interval) -> Interval:
    if x[0] <= 0 <= x[1]:
        raise _Undecided
    return 1 / x[1], 1 / x[0]


def _power(x: Interval, exponent: int) -> Interval:
    if exponent < 0:
        return _power(_reciprocal(x), -exponent)
    if exponent * max(max(end.numerator.bit_length(), end.denominator.bit_length()) for end in x) > 2 * MAX_BITS:
        raise _Undecided
    low, high = sorted(end**exponent for end in x)
    return (Fraction(0) if exponent and exponent % 2 == 0 and x[0] < 0 < x[1] else low), high


def _root(x: Interval) -> Interval:
    """Return an interval that contains the square roots; their own where both ends are squares."""
    if x[0] < 0:
        raise _Undecided
    ends = []
    for end, up in zip(x, (0, 1), strict=True):
        square = end.numerator * end.denominator << 2 * ROOT_BITS
        root = math.isqrt(square)
        ends.append(Fraction(root + (up if root * root < square else 0), end.denominator << ROOT_BITS))
    return ends[0], ends[1]


def _drawn(rng: random.Random, kind: int, least: int) -> Fraction:
    """Return a number of a permitted sign."""
    if kind == 0:  # simple numbers: equations between names come true
        size = Fraction(rng.randint(0, 4), rng.randint(1, 3))
    elif kind == 1:  # squares: their roots are rational
        size = Fraction(rng.randint(0, 5), rng.choice((1, 2, 3, 4, 8, 16))) ** 2
    else:  # several orders of magnitude, with and without large values: sums may have to be small
        size = Fraction(rng.randint(1, 31), 32) * Fraction(4) ** rng.randint(-5, 5 if kind == 2 else 0)
        if least < 1 and rng.random() < 0.1:
            size = Fraction(0)
    if not size and least == 1:
        size = Fraction(1)
    return -size if least < 0 and rng.random() < 0.5 else size


def any_point(
    free: Sequence[str],
    assumed: Sequence[str],
    least: Mapping[str, int],
    definitions: Mapping[str, ast.expr],
    squares: Mapping[str, ast.expr],
) -> bool:
    """Return whether a point was found.

    Parameters
    ----------
    free, assumed : sequences of str
        The free names, and the definitions with an assumed sign.
    least : mapping
        The least sign each of them may have: 1 positive, 0 nonnegative, -1 real.
    definitions, squares : mappings
        What the other names stand for, or are the square roots of.
    """
    rng = random.Random(0)
    work = MAX_WORK
    for trial in range(POINTS):
        point = _Point({name: _drawn(rng, trial % 4, least[name]) for name in free}, definitions, squares, work)
        try:
            lower = (point.name(name)[0] for name in assumed)
            if all(low > 0 if least[name] == 1 else low >= 0 for name, low in zip(assumed, lower, strict=True)):
                return True
        except _Undecided:
            pass
        work = point.work
        if work < 0:
            break
    return False
