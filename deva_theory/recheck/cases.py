"""One case of an algebra certificate: its names, and for each expression the function it is and the signs it can have.

Every subexpression gets a `Value`: the rational function it equals, and a set of signs (from -1, 0, 1) that contains its
sign at every point of the domain.  The domain is all real points that respect the declared signs; an assumption on a
definition restricts it further.  Signs come from

* the syntax: sums, products, quotients, powers of what is known, even powers of anything;
* the polynomial multiplied out: the signs of its monomials, added up;
* facts: assumptions on definitions, and what earlier steps have shown, looked up by the polynomial multiplied out.

A definition with an assumed sign stays a variable until two expressions are compared or a fact is looked up.

A divisor whose set of signs contains 0 is an error.  So no step holds by dividing by something that may vanish.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .points import POINTS, any_point
from .polynomials import Key, Polynomial, Ratio, Ring, monic
from .reading import Rejected, exponent_of, fields, items, parse, quoted

Signs = frozenset[int]
POSITIVE: Signs = frozenset({1})
NONNEGATIVE: Signs = frozenset({0, 1})
REAL: Signs = frozenset({-1, 0, 1})

DECLARATIONS = {"positive": POSITIVE, "nonnegative": NONNEGATIVE, "real": REAL}


@dataclass(frozen=True)
class Value:
    """A rational function, and the signs it can have on the domain."""

    ratio: Ratio
    signs: Signs


def plus(a: Signs, b: Signs) -> Signs:
    """Return the signs a sum can have."""
    return frozenset(s for x in a for y in b for s in ((x or y,) if x * y >= 0 else (-1, 0, 1)))


def times(a: Signs, b: Signs) -> Signs:
    """Return the signs a product can have; a quotient's too, where b lacks 0."""
    return frozenset(x * y for x in a for y in b)


def to_power(a: Signs, exponent: int) -> Signs:
    """Return the signs of a power; x⁰ = 1."""
    return frozenset(x**exponent if x or exponent >= 0 else 0 for x in a)


def _group(op: ast.operator) -> str:
    return "sum" if isinstance(op, (ast.Add, ast.Sub)) else "product"


class Case:
    """The names of one case, and the value of any expression in them.

    Parameters
    ----------
    content : mapping
        A case of the certificate; its declarations are read and checked, its steps are not.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.declared: dict[str, Signs] = {}
        for key, signs in DECLARATIONS.items():
            for name in items(content.get(key, ()), key):
                if not isinstance(name, str) or not isinstance(parse(name), ast.Name) or name.strip() != name:
                    raise Rejected(f"{quoted(name)} in {key!r} is not a name")
                self.declared[name] = self.declared.get(name, REAL) & signs
        self.definitions = {name: parse(text) for name, text in fields(content.get("definitions", {}), "definitions").items()}
        self.squares = {name: parse(text) for name, text in fields(content.get("squares", {}), "squares").items()}
        for name in {*self.definitions, *self.squares}:
            if not (name.isascii() and name.isidentifier()):
                raise Rejected(f"{quoted(name)} is not a name")
            if name in self.definitions and name in self.squares:
                raise Rejected(f"{name!r} is both defined and a square root")
        free = sorted(set(self.declared) - set(self.definitions) - set(self.squares))
        self.assumed = [name for name in self.definitions if self.declared.get(name, REAL) != REAL]
        self.ring = Ring([*free, *self.assumed, *self.squares])
        self.known = {name: Value(self.ring.variable(name), self.declared[name]) for name in free}
        self.free = free
        # The signs of the ring's variables; a root that turns out rational has none, as it never becomes a variable.
        self._signs_of = {name: self.declared[name] for name in free}
        self._open: set[str] = set()
        self._facts: dict[tuple[Key, frozenset[tuple[Key, int]]], Signs] = {}
        self._settle()

    def value(self, node: ast.expr) -> Value:
        """Return the value of an expression.  Left-deep chains, such as long sums, are walked without recursion."""
        spine: list[ast.BinOp] = []
        while isinstance(node, ast.BinOp):
            spine.append(node)
            node = node.left
        value = self._leaf(node)
        previous = ""
        for step in reversed(spine):
            if (previous and _group(step.op) != previous) or isinstance(step.op, ast.Pow):
                value = self._refined(value)
            value = self._combined(value, step)
            previous = _group(step.op)
        return self._refined(value)

    def learn(self, ratio: Ratio, signs: Signs) -> None:
        """Keep a fact: on the domain the ratio has one of these signs."""
        ratio = self.ring.expanded(ratio)
        if ratio.top:
            lead, key = monic(ratio.top)
            fact = (key, frozenset(ratio.factors.items()))
            self._facts[fact] = self._facts.get(fact, REAL) & times(signs, frozenset({1 if lead > 0 else -1}))
            if not self._facts[fact]:
                raise Rejected("the assumptions contradict each other")

    def assumptions(self) -> list[str]:
        """Return the assumptions on definitions, as the certificate writes them, then what the names in them stand for."""
        sign = {POSITIVE: " > 0", NONNEGATIVE: " >= 0", REAL: ""}
        texts, names = [], list(self.assumed)
        for name in names:
            node = self.definitions[name] if name in self.definitions else self.squares[name]
            text = ast.unparse(node)
            texts.append(f"{name} = " + (f"{text}{sign[self.declared.get(name, REAL)]}" if name in self.definitions else f"sqrt({text})"))
            inner = {entry.id: None for entry in ast.walk(node) if isinstance(entry, ast.Name)}
            names += [entry for entry in inner if entry not in names and (entry in self.definitions or entry in self.squares)]
        return texts

    def _settle(self) -> None:
        """Give every definition and root its value.  Any order will do: a failure is final when no name makes progress."""
        waiting = [*self.definitions, *self.squares]
        while waiting:
            left, failures = [], []
            for name in waiting:
                try:
                    self._lookup(name)
                except Rejected as failure:
                    left.append(name)
                    failures.append(failure)
            if len(left) == len(waiting):
                raise failures[0]
            waiting = left
        least = {name: min(self.declared[name]) for name in (*self.free, *self.assumed)}
        if self.assumed and not any_point(self.free, self.assumed, least, self.definitions, self.squares):
            raise Rejected(f"none of {POINTS} points satisfies the assumptions on definitions: the case may be empty")

    def _lookup(self, name: str) -> Value:
        if name in self.known:
            return self.known[name]
        if name in self._open:
            raise Rejected(f"{name!r} is defined by itself")
        node = self.definitions.get(name, self.squares.get(name))
        if node is None:
            raise Rejected(f"{quoted(name)} is not declared")
        self._open.add(name)
        try:
            value = self.value(node)
        finally:
            self._open.discard(name)
        declared = self.declared.get(name, REAL)
        self.known[name] = self._defined(name, value, declared) if name in self.definitions else self._rooted(name, value, declared)
        return self.known[name]

    def _defined(self, name: str, value: Value, declared: Signs) -> Value:
        signs = value.signs & declared
        if not signs:
            raise Rejected(f"the assumption on {name!r} contradicts its definition")
        if declared == REAL:
            return Value(value.ratio, signs)
        self.learn(value.ratio, signs)
        self.ring.adopt_definition(name, value.ratio)
        self._signs_of[name] = signs
        return Value(self.ring.variable(name), signs)

    def _rooted(self, name: str, value: Value, declared: Signs) -> Value:
        if not value.signs <= NONNEGATIVE:
            raise Rejected(f"{name!r} is the root of {quoted(ast.unparse(self.squares[name]))}, which is not evidently nonnegative")
        if not value.signs <= declared:
            raise Rejected(f"{name!r} is declared positive, but {quoted(ast.unparse(self.squares[name]))} is not evidently positive")
        for square in (value.ratio, self.ring.expanded(value.ratio)):
            # √(p²) is |p|: where p has an evident sign, that is p or -p, and no new variable is needed.
            root = self.ring.square_root(square)
            if root is not None:
                for candidate in (self._refined(Value(root, REAL)), self._refined(Value(self.ring.negate(root), REAL))):
                    if candidate.signs <= NONNEGATIVE:
                        return Value(candidate.ratio, candidate.signs & value.signs)
        self.ring.adopt_root(name, value.ratio)
        self._signs_of[name] = value.signs
        return Value(self.ring.variable(name), value.signs)

    def _leaf(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Constant):
            constant = int(node.value)  # type: ignore[arg-type]
            return Value(self.ring.constant(constant), frozenset({(constant > 0) - (constant < 0)}))
        if isinstance(node, ast.Name):
            return self._lookup(node.id)
        if isinstance(node, ast.UnaryOp):
            value = self.value(node.operand)
            if isinstance(node.op, ast.UAdd):
                return value
            return Value(self.ring.negate(value.ratio), times(value.signs, frozenset({-1})))
        raise Rejected(f"{type(node).__name__} is not allowed")

    def _combined(self, left: Value, node: ast.BinOp) -> Value:
        ring = self.ring
        if isinstance(node.op, ast.Pow):
            exponent = exponent_of(node.right)
            raised = Value(ring.power(left.ratio, abs(exponent)), to_power(left.signs, abs(exponent)))
            if exponent >= 0:
                return raised
            if 0 in left.signs:
                raise Rejected(f"{ast.unparse(node)}: the base is not evidently nonzero")
            return Value(ring.divide(ring.constant(1), raised.ratio), raised.signs)
        right = self.value(node.right)
        if isinstance(node.op, ast.Add):
            return Value(ring.add(left.ratio, right.ratio), plus(left.signs, right.signs))
        if isinstance(node.op, ast.Sub):
            return Value(ring.add(left.ratio, ring.negate(right.ratio)), plus(left.signs, times(right.signs, frozenset({-1}))))
        if isinstance(node.op, ast.Mult):
            signs = to_power(left.signs, 2) if left.ratio == right.ratio else times(left.signs, right.signs)
            return Value(ring.multiply(left.ratio, right.ratio), signs)
        if 0 in right.signs:
            raise Rejected(f"the divisor {quoted(ast.unparse(node.right))} is not evidently nonzero")
        return Value(ring.divide(left.ratio, right.ratio), times(left.signs, right.signs))

    def _refined(self, value: Value) -> Value:
        """Narrow the signs by the polynomials multiplied out and by the facts."""
        if len(value.signs) == 1:
            return value
        signs = value.signs & self._ratio_signs(value.ratio)
        if len(signs) > 1 and (self.assumed or self._facts):
            plain = self.ring.expanded(value.ratio)
            signs &= self._ratio_signs(plain)
            if plain.top:
                lead, key = monic(plain.top)
                fact = self._facts.get((key, frozenset(plain.factors.items())), REAL)
                signs &= times(fact, frozenset({1 if lead > 0 else -1}))
        if not signs:
            raise Rejected("the assumptions contradict each other")
        return Value(value.ratio, signs)

    def _ratio_signs(self, ratio: Ratio) -> Signs:
        signs = self._polynomial_signs(ratio.top)
        for key, exponent in ratio.factors.items():
            if exponent % 2:  # an even power of a factor, which is nonzero, is positive
                signs = times(signs, self._polynomial_signs(dict(key)) - {0})
        return signs

    def _polynomial_signs(self, p: Polynomial) -> Signs:
        """Return the signs a polynomial can have, from its monomials."""
        total: Signs = frozenset({0})
        for monomial, c in p.items():
            term = frozenset({1 if c > 0 else -1})
            for name, exponent in zip(self.ring.names, monomial, strict=True):
                if exponent:
                    term = times(term, to_power(self._signs_of[name], exponent))
            total = plus(total, term)
            if total == REAL:
                break
        return total
