"""Certificates of type "dual": an upper bound of a linear program, by weak duality in exact rationals.

For every x with ``rowᵢ·x ≤ bᵢ`` and multipliers ``yᵢ ≥ 0`` with ``Σ yᵢ rowᵢ = c``:  ``c·x = Σ yᵢ rowᵢ·x ≤ Σ yᵢ bᵢ``.
The variables are free; a sign of a variable is a constraint like any other.  Constraints that nothing satisfies would make
every bound true: a "point" that satisfies them is part of the certificate.  Where the objective
there equals the bound, no better bound holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .reading import Rejected, fields, items, number, quoted, shown


def _row(value: object, what: str, variables: set[str]) -> dict[str, Fraction]:
    row = {}
    for name, coefficient in fields(value, what).items():
        if name not in variables:
            raise Rejected(f"{what} has {quoted(name)}, which is not among the variables")
        row[name] = number(coefficient)
    return row


def _at(row: Mapping[str, Fraction], point: Mapping[str, Fraction]) -> Fraction:
    return sum((c * point[name] for name, c in row.items()), Fraction(0))


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "dual"."""
    needed = ("variables", "objective", "constraints", "multipliers", "bound", "point")
    fields(certificate, "the certificate", needed, ("type", "name", "statement", "note"))
    names = items(certificate["variables"], "variables", 1)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise Rejected("the variables are not distinct names")
    variables = set(names)
    objective = _row(certificate["objective"], "the objective", variables)
    if not any(objective.values()):
        raise Rejected("the objective is 0")
    constraints = items(certificate["constraints"], "constraints", 1)
    multipliers = items(certificate["multipliers"], "multipliers")
    if len(multipliers) != len(constraints):
        raise Rejected(f"{len(multipliers)} multipliers for {len(constraints)} constraints")
    total = dict.fromkeys(names, Fraction(0))
    at_most = Fraction(0)
    point = _row(certificate["point"], "the point", variables)
    if len(point) < len(names):
        raise Rejected("the point does not give every variable")
    for i, (constraint, multiplier) in enumerate(zip(constraints, multipliers, strict=True)):
        what = f"constraint {i}"
        fields(constraint, what, ("row", "at_most"), ("name", "note"))
        what += f" {quoted(constraint.get('name', ''))}"
        y, limit = number(multiplier), number(constraint["at_most"])
        row = _row(constraint["row"], what, variables)
        if y < 0:
            raise Rejected(f"the multiplier of {what} is negative")
        for name, coefficient in row.items():
            total[name] += y * coefficient
        at_most += y * limit
        if _at(row, point) > limit:
            raise Rejected(f"the point violates {what}")
    for name in names:
        wanted = objective.get(name, Fraction(0))
        if total[name] != wanted:
            raise Rejected(f"the multipliers give {shown(total[name])} for {quoted(name)}; the objective has {shown(wanted)}")
    bound = number(certificate["bound"])
    if at_most > bound:
        raise Rejected(f"the multipliers show {shown(at_most)} at most; the bound {shown(bound)} is below that")
    reached = _at(objective, point)
    at_point = "attained" if reached == bound else f"{shown(reached)} at the point"
    return f"{len(constraints)} constraints in {len(names)} variables; at most {shown(bound)}, {at_point}"
