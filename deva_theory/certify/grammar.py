"""Expressions in declared names, as certificates write them: + - * / **, parentheses, integers and names."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

__all__ = ["divisors", "fold", "names", "parse"]

MAX_EXPONENT = 100

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_T = TypeVar("_T")


def parse(text: object, functions: tuple[str, ...] = ()) -> ast.expr:
    """Return the syntax tree of an expression; nothing is compiled or run.

    Parameters
    ----------
    text : object
        A string, or anything whose ``str`` is an expression: an integer, a `Fraction`, a polynomial of SymPy.
    functions : tuple of str
        Names that may be called with one argument.

    Raises
    ------
    ValueError
        When it is not an expression of the grammar.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "2(x)" parses with a warning
            tree = ast.parse(str(text).strip(), mode="eval").body
    except (SyntaxError, ValueError, SyntaxWarning) as error:
        raise ValueError(f"{text!r} is not an expression") from error
    _allow(tree, str(text), functions)
    return tree


def _allow(node: ast.expr, text: str, functions: tuple[str, ...]) -> None:
    first, spine = _spine(node)
    for operation in spine:
        if isinstance(operation.op, ast.Pow):
            if abs(_integer(operation.right, text)) > MAX_EXPONENT:
                raise ValueError(f"{text!r}: an exponent exceeds {MAX_EXPONENT}")
        elif type(operation.op) in _OPERATORS:
            _allow(operation.right, text, functions)
        else:
            raise ValueError(f"{text!r}: only + - * / ** are allowed")
    match first:
        case ast.Name():
            return
        case ast.Constant(value=value):
            if type(value) is not int:
                raise ValueError(f"{text!r}: {value!r} is not an integer; write fractions as 1/2")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _allow(operand, text, functions)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in functions:
            _allow(argument, text, functions)
        case _:
            raise ValueError(f"{text!r}: {ast.unparse(first)!r} is not allowed; write + - * / **, integers and names")


def _integer(node: ast.expr, text: str) -> int:
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if type(value) is int:
            return -value
    raise ValueError(f"{text!r}: the exponent {ast.unparse(node)!r} is not an integer; declare square roots under squares")


def names(node: ast.expr) -> set[str]:
    """Return the names that occur."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def divisors(node: ast.expr) -> Iterator[ast.expr]:
    """Yield what is divided by: right sides of ``/`` and bases of negative powers."""
    for part in ast.walk(node):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div):
            yield part.right
        elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow) and _integer(part.right, "") < 0:
            yield part.left


def fold(
    node: ast.expr,
    constant: Callable[[int], _T],
    lookup: Callable[[str], _T],
    *,
    divide_by: Callable[[_T], None] | None = None,
    after: Callable[[_T], _T] | None = None,
) -> _T:
    """Evaluate the tree in any numbers that have Python's operators.

    Parameters
    ----------
    node : ast.expr
        From `parse`, without calls.
    constant, lookup : callable
        The value of an integer and of a name.
    divide_by : callable, optional
        Called with every divisor before it is used; may raise.
    after : callable, optional
        Applied to the result of every operation.
    """

    def visit(part: ast.expr) -> Any:
        first, spine = _spine(part)
        match first:
            case ast.Constant(value=value):
                result = constant(value)  # type: ignore[arg-type]
            case ast.Name(id=name):
                result = lookup(name)
            case ast.UnaryOp(op=sign, operand=operand):
                result = _OPERATORS[type(sign)](visit(operand))
            case _:
                raise ValueError(f"{ast.unparse(part)!r} cannot be evaluated")
        for operation in spine:
            if isinstance(operation.op, ast.Pow):
                power = _integer(operation.right, "")
                if power < 0 and divide_by is not None:
                    divide_by(result)
                result = _OPERATORS[ast.Pow](result, power)
            else:
                right = visit(operation.right)
                if isinstance(operation.op, ast.Div) and divide_by is not None:
                    divide_by(right)
                result = _OPERATORS[type(operation.op)](result, right)
            if after is not None:
                result = after(result)
        return result

    return visit(node)


def _spine(node: ast.expr) -> tuple[ast.expr, list[ast.BinOp]]:
    """Return the leftmost operand and the operations on it in turn: a long sum nests as deeply as it has terms."""
    spine = []
    while isinstance(node, ast.BinOp):
        spine.append(node)
        node = node.left
    return node, spine[::-1]
