"""Cases by the signs of some names."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import sympy

from deva_theory.certify.cases import Case, Step, cite, name_list
from deva_theory.certify.domain import Point
from deva_theory.certify.grammar import fold, names, parse

__all__ = ["sign_cases"]

_FUNCTIONS = ("sign", "abs")
Signs: TypeAlias = Mapping[str, int]
"""The sign of every signed name in one case."""


def sign_cases(
    steps: Sequence[Step] | Callable[[Signs], Sequence[Step]],
    signed: Sequence[str] | Mapping[str, Sequence[int]],
    *,
    skip_zero: bool = False,
    definitions: Mapping[str, Any] | Callable[[Signs], Mapping[str, Any]] | None = None,
    squares: Mapping[str, Any] | None = None,
    **declarations: Any,
) -> list[Case]:
    """Write one case for every combination of signs.

    Expressions may use g, ``sign(g)`` and ``abs(g)``; ``sign`` and ``abs`` of larger expressions are allowed where SymPy
    knows the sign in every case.  For g > 0, g = 0, g < 0 it puts ``g = abs_g``, ``0``, ``-abs_g`` with ``abs_g`` positive.

    Parameters
    ----------
    steps : sequence of steps, or function of the signs that returns them
        The function is called with {"g": -1, 0 or 1} and writes down what the conventions (0/0 := 0) make of the step
        there; a case for which it returns nothing is left out.
    signed : sequence of str, or mapping
        The names; a mapping gives the signs that each can have, as ``{"g": (-1, 0, 1), "P": (0, 1)}``.
    skip_zero : bool
        Where some name is 0, leave out the steps that divide by zero everywhere in the case.  The case says so.
    definitions, squares : mapping
        As in `Case`; may use the signed names.  Definitions may be a function of the signs, too.
    **declarations
        ``positive``, ``nonnegative``, ``real`` of `Case`.
    """
    if isinstance(signed, str):
        signed = name_list(signed)
    ranges = {name: tuple(signed[name]) for name in signed} if isinstance(signed, Mapping) else dict.fromkeys(signed, (1, 0, -1))
    cases = []
    for combination in itertools.product(*ranges.values()):
        signs = dict(zip(ranges, combination, strict=True))
        written = steps(signs) if callable(steps) else steps
        if written:
            defined = (definitions(signs) if callable(definitions) else definitions) or {}
            case = _sign_case(signs, ranges, written, defined, squares or {}, declarations)
            cases.append(_without_undefined(case) if skip_zero and 0 in combination else case)
    return cases


def _sign_case(
    signs: Signs,
    ranges: Mapping[str, Sequence[int]],
    steps: Sequence[Step],
    definitions: Mapping[str, Any],
    squares: Mapping[str, Any],
    declarations: Mapping[str, Any],
) -> Case:
    values: dict[str, ast.expr] = {}
    sizes = []
    for name, sign in signs.items():
        size = name if -1 not in ranges[name] else f"abs_{name}"  # a name that is never negative needs no other
        values[name] = ast.Constant(0) if sign == 0 else ast.Name(size) if sign > 0 else ast.UnaryOp(ast.USub(), ast.Name(size))
        sizes += [size] if sign else []
    label = ", ".join(f"{name} {'<=>'[sign + 1]} 0" for name, sign in signs.items())
    plain = Case(label, **{**declarations, "positive": (*sizes, *name_list(declarations.get("positive", ())))})
    listed = [name for group in plain.signs().values() for name in group]
    if clash := sorted({name for name in listed if listed.count(name) > 1 and name in sizes} | (set(listed) - set(sizes)) & signs.keys()):
        raise ValueError(f"sign_cases: {clash[0]!r} is declared besides being signed")
    table = {name: sympy.Symbol(name, **{sign: True}) for sign in ("real", "nonnegative", "positive") for name in plain.signs()[sign]}

    def put(text: object) -> str:
        try:
            return ast.unparse(_Signs(values, table).visit(parse(text, _FUNCTIONS)))
        except ValueError as error:
            raise ValueError(f"case {label!r}: {error}") from error

    def put_step(step: Step) -> Step:
        if not isinstance(step, Mapping) or "cite" in step:
            return step
        return {key: [*map(put, part)] if isinstance(part, list) else put(part) for key, part in step.items()}

    return replace(
        plain,
        definitions={name: put(text) for name, text in definitions.items()},
        squares={name: put(text) for name, text in squares.items()},
        steps=[put_step(step) for step in steps],
    )


class _Signs(ast.NodeTransformer):
    """Puts the signed names' values into an expression, then the values of sign and abs."""

    def __init__(self, values: Mapping[str, ast.expr], table: Mapping[str, sympy.Symbol]) -> None:
        self.values = values
        self.table = table

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        argument = self.visit(node.args[0])
        if unknown := sorted(names(argument) - self.table.keys()):
            raise ValueError(f"{ast.unparse(node)}: the sign of {unknown[0]!r} is not declared")
        sign = sympy.sign(fold(argument, sympy.Integer, self.table.__getitem__))
        if sign not in (-1, 0, 1):
            raise ValueError(f"{ast.unparse(node)}: the sign of {ast.unparse(argument)} is unknown in this case; list its names as signed")
        if sign == 0:
            return ast.Constant(0)
        size = argument if node.func.id == "abs" else ast.Constant(1)
        return size if sign > 0 else _minus(size)


def _minus(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    return ast.UnaryOp(ast.USub(), node)


def _without_undefined(case: Case) -> Case:
    """Leave out what divides by zero at every point: definitions, and steps, which become a note."""
    domain = case.domain()
    points = domain.points

    def undefined(*nodes: ast.expr) -> bool:
        return bool(points) and not any(_defined(point, nodes) for point in points)

    steps: list[Step] = [
        cite(f"not defined here, left out: {read.text}") if read.nodes and undefined(*read.nodes) else step
        for step, read in zip(case.steps, case.read(domain), strict=True)
    ]
    kept = {name: text for name, text in case.definitions.items() if not undefined(parse(name))}
    return replace(case, steps=steps, definitions=kept)


def _defined(point: Point, nodes: Sequence[ast.expr]) -> bool:
    try:
        for node in nodes:
            point.evaluate(node)
    except ZeroDivisionError:
        return False
    return True
