"""Symbolic proofs in steps, checked by SymPy one case of signs at a time.

Signs and square roots are what symbolic simplification gets wrong, so there are none: a case declares which names are
positive or nonnegative, a square root is a name with a square, and what is left are identities of rational functions
and sums of evidently nonnegative terms.  A proof yields a certificate that `deva_theory.recheck` expands without SymPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from deva_theory.certify.cases import Case, ReadStep, at_most, cite, equal, positive
from deva_theory.certify.domain import Domain, Point, Unjustified
from deva_theory.certify.signs import sign_cases

__all__ = ["Case", "Proof", "at_most", "cite", "equal", "positive", "prove", "sign_cases"]


@dataclass(frozen=True)
class Proof:
    """What `prove` found.

    Attributes
    ----------
    holds : bool
        Whether every step of every case was shown.
    certificate : dict
        Of type "algebra".  When `holds` is False it is the failed attempt, which a re-check rejects.
    lines : list of str
        Every case and step; those that fail are marked.
    failure : str
        The first failing step and, if one was found, a rational point at which it fails; empty when the proof holds.
    refuted : bool
        Whether a step itself, not just its reason or the evidence for a sign, is false at a rational point of its case.
    """

    holds: bool
    certificate: dict[str, Any]
    lines: list[str]
    failure: str
    refuted: bool = False


def prove(cases: Case | Sequence[Case]) -> Proof:
    """Check every step of every case.

    Each step is evaluated at a few rational points first, which settles false ones; then SymPy shows it: identities by
    reducing the numerator modulo the squares to zero, signs by its assumptions about the names, term by term.

    Parameters
    ----------
    cases : Case or sequence of Case

    Raises
    ------
    ValueError
        When a step is malformed (it is named), or there is nothing to check: cited steps alone prove nothing.
    """
    cases = [cases] if isinstance(cases, Case) else list(cases)
    if not any("cite" not in step for case in cases for step in case.steps):
        raise ValueError("prove: no step to check; cited steps alone prove nothing")
    lines: list[str] = []
    failures: list[str] = []
    refuted = False
    content = []
    for case in cases:
        domain = case.domain()
        steps = case.read(domain)
        lines += case.header()
        rational: Mapping[str, object] = {}
        try:
            domain.settle()
            rational = domain.rational
        except Unjustified as reason:
            failures.append(f"case {case.name!r}: {reason}")
            lines.append(f"  FAILS: {reason}")
        else:
            for step in steps:
                try:
                    _show(step, domain)
                    lines.append(f"  {step.text}")
                except Unjustified as reason:
                    refuted |= isinstance(reason, _False)
                    failures.append(f"{step.place}, {step.text}: {reason}")
                    lines.append(f"  FAILS: {step.text}: {reason}")
        content.append(case.to_dict(rational))
    return Proof(not failures, {"type": "algebra", "cases": content}, lines, failures[0] if failures else "", refuted)


class _False(Unjustified):
    """A step that is false at a point."""


def _show(step: ReadStep, domain: Domain) -> None:
    """Show the step, or raise `Unjustified` with the reason and a point, if one is found."""
    if step.kind == "cite":
        return
    fault = _at_points(step, domain.points)
    if not fault:
        if reason := _by_algebra(step, domain):
            tried = len(domain.points) + len(domain.more_points)
            fault = _at_points(step, domain.more_points) or Unjustified(f"{reason}; no failure at {tried} points")
    elif step.kind == "at_most" and not isinstance(fault, _False):
        # The reason is wrong; the inequality may be, too.
        worse = _at_points(step, domain.more_points)
        fault = worse if isinstance(worse, _False) else fault
    if fault:
        raise fault
    if step.kind == "positive":
        domain.learn(step.nodes[0])


def _by_algebra(step: ReadStep, domain: Domain) -> str:
    """Return why SymPy does not show the step, or "" when it does."""
    for node in step.nodes:
        if reason := domain.unsafe_divisor(node):
            return reason
    if step.kind == "positive":
        return "" if domain.positive(step.nodes[0]) else "it is not evidently positive"
    if step.kind == "equal":
        left, right = map(domain.value, step.nodes)
        return "" if domain.vanishes(left - right) else "the two sides are not equal modulo the squares"
    small, large, because = map(domain.value, step.nodes)
    if not domain.vanishes(large - small - because):
        return "the reason is not the difference modulo the squares"
    return "" if domain.nonnegative(step.nodes[2]) else "the reason is not evidently nonnegative"


def _at_points(step: ReadStep, points: Sequence[Point]) -> Unjustified | None:
    """Return what goes wrong at the first point at which something does, if anything: `_False` where it is the step itself."""
    defined = []
    undefined = ""
    for point in points:
        try:
            defined.append((point, [point.evaluate(node) for node in step.nodes]))
        except ZeroDivisionError:
            undefined = undefined or f"divides by zero at {point}"
    if points and not defined:
        raise ValueError(f"{step.place}, {step.text}: divides by zero everywhere")
    for rank, violated in enumerate(_violations(step.kind)):
        for point, values in defined:
            if message := violated(values, point.slack * (1 + sum(map(abs, values)))):
                return (Unjustified if rank else _False)(f"{message} at {point}")
    return Unjustified(undefined) if undefined else None


def _violations(kind: str) -> Iterator[Callable[[list[Fraction], Fraction], str]]:
    """Yield what can go wrong at a point, first that the step is false: functions of values and slack that return a message or ""."""
    if kind == "equal":
        yield lambda v, slack: f"{_short(v[0])} is not {_short(v[1])}" if abs(v[0] - v[1]) > slack else ""
    elif kind == "positive":
        yield lambda v, slack: f"it is {_short(v[0])}" if v[0] < -slack or (v[0] <= 0 and slack == 0) else ""
    else:
        yield lambda v, slack: f"{_short(v[0])} exceeds {_short(v[1])}" if v[0] - v[1] > slack else ""
        yield lambda v, slack: f"the reason is {_short(v[2])}" if v[2] < -slack else ""
        yield (
            lambda v, slack: (
                f"the difference is {_short(v[1] - v[0])}, the reason {_short(v[2])}" if abs(v[1] - v[0] - v[2]) > slack else ""
            )
        )


def _short(value: Fraction) -> str:
    return str(value) if len(str(value)) <= 24 else f"{float(value):.9g}..."
