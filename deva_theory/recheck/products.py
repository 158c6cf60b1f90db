"""Certificates of type "products": identities between products of rational matrices, computed exactly.

``I`` is the identity of the fitting size, so a multiple of it has no size of its own until it meets a matrix; a plain
number is a scalar, and only 0 may be compared with or added to a matrix.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .algebra import constant
from .reading import Rejected, fields, items, matrix, parse, quoted

MAX_SIZE = 64
Rows = list[list[Fraction]]


@dataclass(frozen=True)
class Scalar:
    """A number, or that multiple of the identity of a size not yet known."""

    value: Fraction
    identity: bool = False


def _sized(a: Rows | Scalar, like: Rows) -> Rows:
    """Return a multiple of the identity, or 0, as a matrix of the other's shape."""
    if not isinstance(a, Scalar):
        return a
    rows, columns = len(like), len(like[0])
    if a.value and not a.identity:
        raise Rejected("a number other than 0 is not a matrix; write 2*I")
    if a.value and rows != columns:
        raise Rejected(f"I does not fit a matrix of {rows} x {columns}")
    return [[a.value if i == j else Fraction(0) for j in range(columns)] for i in range(rows)]


def _matched(a: Rows | Scalar, b: Rows | Scalar) -> tuple[Rows, Rows] | tuple[Scalar, Scalar]:
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        if a.identity != b.identity and a.value and b.value:
            raise Rejected("a number and a multiple of I are different things")
        return a, b
    first, second = (a, _sized(b, a)) if not isinstance(a, Scalar) else (_sized(a, b), b)  # type: ignore[arg-type]
    assert not isinstance(first, Scalar) and not isinstance(second, Scalar)
    if (len(first), len(first[0])) != (len(second), len(second[0])):
        raise Rejected(f"shapes {len(first)} x {len(first[0])} and {len(second)} x {len(second[0])} do not fit")
    return first, second


def _sum(a: Rows | Scalar, b: Rows | Scalar, sign: int) -> Rows | Scalar:
    x, y = _matched(a, b)
    if isinstance(x, Scalar) or isinstance(y, Scalar):
        assert isinstance(x, Scalar) and isinstance(y, Scalar)
        return Scalar(x.value + sign * y.value, x.identity or y.identity)
    return [[p + sign * q for p, q in zip(u, v, strict=True)] for u, v in zip(x, y, strict=True)]


def _product(a: Rows | Scalar, b: Rows | Scalar) -> Rows | Scalar:
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        return Scalar(a.value * b.value, a.identity or b.identity)
    if isinstance(a, Scalar) or isinstance(b, Scalar):
        scalar, rows = (a, b) if isinstance(a, Scalar) else (b, a)
        assert isinstance(scalar, Scalar) and not isinstance(rows, Scalar)
        return [[scalar.value * p for p in row] for row in rows]
    if len(a[0]) != len(b):
        raise Rejected(f"a product of {len(a)} x {len(a[0])} and {len(b)} x {len(b[0])} does not exist")
    columns = list(zip(*b, strict=True))
    return [[sum((p * q for p, q in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in a]


def evaluate(node: ast.expr, matrices: Mapping[str, Rows]) -> Rows | Scalar:
    """Return the value of a matrix expression."""
    if isinstance(node, ast.Constant):
        return Scalar(constant(ast.unparse(node)))
    if isinstance(node, ast.Name):
        if node.id == "I":
            return Scalar(Fraction(1), identity=True)
        if node.id not in matrices:
            raise Rejected(f"{quoted(node.id)} is not among the matrices")
        return matrices[node.id]
    if isinstance(node, ast.Attribute):  # parse() lets only .T pass
        a = evaluate(node.value, matrices)
        return a if isinstance(a, Scalar) else [list(column) for column in zip(*a, strict=True)]
    if isinstance(node, ast.UnaryOp):
        a = evaluate(node.operand, matrices)
        return _product(Scalar(Fraction(-1)), a) if isinstance(node.op, ast.USub) else a
    if not isinstance(node, ast.BinOp) or isinstance(node.op, ast.Pow):
        raise Rejected("powers are not in the grammar; write products")
    a, b = evaluate(node.left, matrices), evaluate(node.right, matrices)
    if isinstance(node.op, ast.Mult):
        return _product(a, b)
    if isinstance(node.op, ast.Div):
        if not isinstance(b, Scalar) or b.identity or not b.value:
            raise Rejected("only division by a number other than 0 is in the grammar")
        return _product(Scalar(1 / b.value), a)
    return _sum(a, b, 1 if isinstance(node.op, ast.Add) else -1)


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "products"."""
    fields(certificate, "the certificate", ("matrices", "show"), ("type", "name", "statement", "note"))
    matrices = {}
    for name, rows in fields(certificate["matrices"], "matrices").items():
        if not (name.isascii() and name.isidentifier()) or name == "I":
            raise Rejected(f"{quoted(name)} cannot name a matrix")
        matrices[name] = matrix(rows, f"matrix {name!r}", MAX_SIZE)
    show = items(certificate["show"], "show", 1)
    for i, pair in enumerate(show):
        if len(items(pair, f"show {i}")) != 2:
            raise Rejected(f"show {i} is not [expression, expression]")
        try:
            first, second = (evaluate(parse(text, transpose=True), matrices) for text in pair)
            if isinstance(first, Scalar) and isinstance(second, Scalar):
                raise Rejected("neither side has a matrix")
            left, right = _matched(first, second)
        except Rejected as failure:
            raise Rejected(f"show {i}: {failure}") from None
        if left != right:
            raise Rejected(f"show {i}: {quoted(pair[0])} is not {quoted(pair[1])}")
    return f"{len(show)} products of {len(matrices)} matrices"
