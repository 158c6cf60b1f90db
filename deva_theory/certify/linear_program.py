"""Linear programs over named variables and rows, in exact numbers; `deva_theory.certify.duality` bounds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from deva_theory.certify.rational import Number, rational

__all__ = ["InfeasibleProgram", "LinearProgram", "Row", "UnboundedProgram"]

Row = dict[str, Fraction]


class UnboundedProgram(ArithmeticError):
    """The rows do not bound the objective.

    Attributes
    ----------
    ray : mapping
        An exact direction along which every row keeps holding and the objective grows by 1 per unit.
    """

    def __init__(self, ray: Mapping[str, Fraction]) -> None:
        moving = ", ".join(f"{name} {value}" for name, value in ray.items() if value)
        super().__init__(f"the constraints do not bound the objective; it grows along ({moving})")
        self.ray = dict(ray)


class InfeasibleProgram(ArithmeticError):
    """No point satisfies all rows: whatever they imply, they imply of nothing.

    Attributes
    ----------
    multipliers : mapping
        Exact and nonnegative: so many times the rows add up to ``0 <= negative``.
    """

    def __init__(self, multipliers: Mapping[str, Fraction]) -> None:
        super().__init__(f"the constraints contradict each other: {', '.join(multipliers)}")
        self.multipliers = dict(multipliers)


@dataclass
class LinearProgram:
    """Maximise a linear function of named variables under named rows ``row · x <= bound``.

    Variables are free unless declared nonnegative, which adds a row. All numbers are read by
    `deva_theory.certify.rational.rational`: exact, floats as their shortest decimal.
    """

    variables: list[str] = field(default_factory=list)
    rows: dict[str, tuple[Row, Fraction]] = field(default_factory=dict)
    objective: Row = field(default_factory=dict)

    def variable(self, name: str, *, nonnegative: bool = False) -> str:
        """Declare a variable and return its name."""
        if name in self.variables:
            raise ValueError(f"LinearProgram: variable {name!r} exists already")
        self.variables.append(name)
        if nonnegative:
            self.at_most(f"{name} >= 0", {name: -1}, 0)
        return name

    def read(self, row: Mapping[str, Number]) -> Row:
        """Return a row in exact numbers, without its zeros."""
        unknown = [name for name in row if name not in self.variables]
        if unknown:
            raise ValueError(f"LinearProgram: {unknown[0]!r} is not a variable; declare it first")
        return {name: exact for name, value in row.items() if (exact := rational(value))}

    def at_most(self, name: str, row: Mapping[str, Number], bound: Number) -> None:
        """Add ``row · x <= bound``."""
        if name in self.rows:
            raise ValueError(f"LinearProgram: row {name!r} exists already")
        self.rows[name] = (self.read(row), rational(bound))

    def at_least(self, name: str, row: Mapping[str, Number], bound: Number) -> None:
        """Add ``row · x >= bound``, kept as its negation."""
        self.at_most(name, {key: -rational(value) for key, value in row.items()}, -rational(bound))

    def equal(self, name: str, row: Mapping[str, Number], value: Number) -> None:
        """Add an equation as two rows, ``name <=`` and ``name >=``."""
        self.at_most(f"{name} <=", row, value)
        self.at_least(f"{name} >=", row, value)

    def maximise(self, objective: Mapping[str, Number]) -> None:
        """Set the objective."""
        self.objective = self.read(objective)

    def without(self, *names: str) -> LinearProgram:
        """Return the program with rows left out, to see what a proof needs."""
        unknown = [name for name in names if name not in self.rows]
        if unknown:
            raise ValueError(f"LinearProgram: no row {unknown[0]!r}; rows are {', '.join(self.rows)}")
        return LinearProgram(list(self.variables), {k: v for k, v in self.rows.items() if k not in names}, dict(self.objective))

    def value(self, x: Mapping[str, Fraction]) -> Fraction:
        """Return the objective at a point."""
        return sum((a * x[name] for name, a in self.objective.items()), Fraction(0))

    def slack(self, name: str, x: Mapping[str, Fraction]) -> Fraction:
        """Return what is left in a row at a point; negative: violated."""
        row, bound = self.rows[name]
        return bound - sum((a * x[key] for key, a in row.items()), Fraction(0))
