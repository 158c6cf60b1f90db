"""Whether the assumptions of a case can hold together: a search in floating point for one point where they do.

Only to find a case that speaks about nothing, from which everything would follow; no sign is ever concluded from it.
"""

from __future__ import annotations

import ast
import math
import operator
import random
from collections.abc import Mapping, Sequence

from .reading import exponent_of

POINTS = 5000

_FLOAT = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


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
    for trial in range(POINTS):
        values = {}
        for name in free:
            # Uniform on (0, 1), and over several orders of magnitude with and without large values: sums may have to be small.
            size = rng.random() if trial % 3 == 0 else 10.0 ** rng.uniform(-3.0, 3.0 if trial % 3 == 1 else 0.0)
            if least[name] < 1 and rng.random() < 0.1:
                size = 0.0
            values[name] = -size if least[name] < 0 and rng.random() < 0.5 else size
        try:
            # The margin is far above rounding, so that a difference that is 0 does not count as positive.
            if all(_value(ast.Name(name), values, definitions, squares) >= (1e-6 if least[name] == 1 else 0.0) for name in assumed):
                return True
        except (ArithmeticError, ValueError):
            pass
    return False


def _value(node: ast.expr, values: dict[str, float], definitions: Mapping[str, ast.expr], squares: Mapping[str, ast.expr]) -> float:
    """Return the value of an expression; the names' values are kept in `values`."""
    if isinstance(node, ast.Name):
        if node.id not in values:
            root = node.id in squares
            inner = _value(squares[node.id] if root else definitions[node.id], values, definitions, squares)
            values[node.id] = math.sqrt(inner) if root else inner
        return values[node.id]
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, values, definitions, squares)
        return -inner if isinstance(node.op, ast.USub) else inner
    assert isinstance(node, ast.BinOp)
    left = _value(node.left, values, definitions, squares)
    if isinstance(node.op, ast.Pow):
        return float(left ** exponent_of(node.right))
    return float(_FLOAT[type(node.op)](left, _value(node.right, values, definitions, squares)))
