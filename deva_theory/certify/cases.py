"""What a symbolic proof is written in: steps, and cases that declare their names."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from deva_theory.certify.domain import Domain
from deva_theory.certify.grammar import parse

__all__ = ["Case", "ReadStep", "Step", "at_most", "cite", "equal", "name_list", "positive"]

Step: TypeAlias = Mapping[str, Any]
"""One step, as the certificate has it: made by `equal`, `at_most`, `positive` or `cite`."""


def equal(left: object, right: object) -> dict[str, Any]:
    """Step: ``left = right`` wherever the case's declarations hold."""
    return {"equal": [str(left), str(right)]}


def at_most(small: object, large: object, because: object) -> dict[str, Any]:
    """Step: ``small ≤ large``, because ``large - small = because`` and that is evidently nonnegative."""
    return {"at_most": [str(small), str(large)], "because": str(because)}


def positive(expression: object) -> dict[str, Any]:
    """Step: the expression is evidently positive.  Later steps of the case may use it."""
    return {"positive": str(expression)}


def cite(text: str) -> dict[str, Any]:
    """Step: an inequality or a reduction that is cited, printed but not checked."""
    return {"cite": text}


def name_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of "p, q" or of a sequence."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Case:
    """Declared names and the steps that hold for them.

    Attributes
    ----------
    name : str
        As "g > 0".
    positive, nonnegative, real : sequence of str, or one string "p, q"
        Names by where they range.  A definition may be listed too: that is an assumption about its expression.
    definitions : mapping
        Name to the expression it stands for.
    squares : mapping
        Name to the expression of which it is the nonnegative square root.
    steps : sequence of mappings
        From `equal`, `at_most`, `positive`, `cite`.
    """

    name: str
    positive: str | Sequence[str] = ()
    nonnegative: str | Sequence[str] = ()
    real: str | Sequence[str] = ()
    definitions: Mapping[str, Any] = field(default_factory=dict)
    squares: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Step] = ()

    def signs(self) -> dict[str, tuple[str, ...]]:
        """Return the declared names by their sign."""
        return {"positive": name_list(self.positive), "nonnegative": name_list(self.nonnegative), "real": name_list(self.real)}

    def domain(self) -> Domain:
        """Return the names with their sample points; ValueError when the declarations are malformed."""
        try:
            return Domain(self.signs(), self.definitions, self.squares)
        except ValueError as error:
            raise ValueError(f"case {self.name!r}: {error}") from error

    def read(self, domain: Domain) -> list[ReadStep]:
        """Return the steps with their expressions; ValueError that names the step when one is malformed."""
        return [_read(step, f"case {self.name!r}, step {number}", domain) for number, step in enumerate(self.steps, 1)]

    def to_dict(self, rational: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return the case as certificates have it, square roots that are `rational` written as definitions."""
        rational = rational or {}
        listed = {sign: [name for name in listed if name not in rational] for sign, listed in self.signs().items()}
        content = {
            **listed,
            "definitions": {name: str(text) for name, text in {**self.definitions, **rational}.items()},
            "squares": {name: str(text) for name, text in self.squares.items() if name not in rational},
        }
        declared = {key: value for key, value in content.items() if value}
        return {"name": self.name, **declared, "steps": [dict(step) for step in self.steps]}

    def header(self) -> list[str]:
        """Return the declarations as lines to read."""
        defined = {*self.definitions, *self.squares}
        ranges = {"positive": " > 0", "nonnegative": " >= 0", "real": " real"}
        free = [f"{name}{ranges[sign]}" for sign, listed in self.signs().items() for name in listed if name not in defined]
        sign_of = {name: ranges[sign] for sign, listed in self.signs().items() if sign != "real" for name in listed}
        lines = [f"case {self.name}" + (f": {', '.join(free)}" if free else "")]
        for name, text in self.definitions.items():
            lines.append(f"  let {name} = {text}" + (f", assuming {name}{sign_of[name]}" if name in sign_of else ""))
        return [*lines, *(f"  let {name} = sqrt({text})" for name, text in self.squares.items())]


@dataclass(frozen=True)
class ReadStep:
    """A step that was read.

    Attributes
    ----------
    kind : str
        "equal", "at_most", "positive" or "cite".
    nodes : tuple of ast.expr
        Its expressions, in the order of the function that made it.
    text : str
        The step as a line to read.
    place : str
        Where it stands, for messages.
    """

    kind: str
    nodes: tuple[ast.expr, ...]
    text: str
    place: str


def _read(step: Step, place: str, domain: Domain) -> ReadStep:
    parts: tuple[object, ...]
    match step:
        case {"equal": [left, right], **rest} if not rest:
            kind, parts, text = "equal", (left, right), f"{left} = {right}"
        case {"at_most": [small, large], "because": because, **rest} if not rest:
            kind, parts, text = "at_most", (small, large, because), f"{small} <= {large}, since the difference is {because} >= 0"
        case {"positive": expression, **rest} if not rest:
            kind, parts, text = "positive", (expression,), f"{expression} > 0"
        case {"cite": str(words), **rest} if not rest and words.strip():
            return ReadStep("cite", (), f"cited: {words}", place)
        case _:
            raise ValueError(f"{place}: {step!r} is not made by equal, at_most, positive or cite")
    try:
        return ReadStep(kind, tuple(domain.known(parse(part)) for part in parts), text, place)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
