"""From a proof, instances, a measurement or a replay to a verdict; shared by the checks, no claims of its own.

A statement that is proved needs every step; one that is refuted needs numbers that violate it: a step that merely is not shown
decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy

from deva_theory.certify import Case, Proof, prove
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict

ROUNDING = 1e-9
"""What float64 with a dozen operations on numbers near 1 cannot reach; used where no exact value exists."""

WRONG = 1e9
"""Stands for an error beyond any tolerance (evidence holds finite numbers only)."""


def conclude(
    proof: Proof, violation: Fraction | float, *, summary: str, covers: str, budget: dict[str, int], margin: float = 0.0,
    counterexample: Counterexample | None = None, certificates: Sequence[dict[str, Any]] = (),
) -> Evidence:
    """Return REFUTED where instances violate the statement, PROVED where the proof holds, otherwise INCONCLUSIVE."""
    verdict = Verdict.REFUTED if violation > margin else Verdict.PROVED if proof.holds else Verdict.INCONCLUSIVE
    return Evidence(
        verdict,
        method="symbolic" if verdict is not Verdict.REFUTED else "exact instances",
        summary=f"{summary}; largest violation on the instances {float(violation):.6g}"
        + ("" if proof.holds else f"; no proof: {proof.failure}"),
        covers=covers,
        numbers={"largest_violation": float(violation)},
        budget=budget,
        certificates=[proof.certificate, *certificates] if verdict is Verdict.PROVED else [],
        counterexample=counterexample if verdict is Verdict.REFUTED else None,
        steps=proof.lines,
    )


def measured(worst: float, *, allowed: float, summary: str, covers: str, budget: dict[str, int], method: str = "comparison") -> Evidence:
    """Return SUPPORTED where the worst disagreement is allowed, REFUTED otherwise."""
    worst = worst if math.isfinite(worst) else WRONG
    return Evidence(
        Verdict.SUPPORTED if worst <= allowed else Verdict.REFUTED,
        method=method,
        summary=f"{summary}: worst {worst:.3g}, allowed {allowed:.3g}",
        covers=covers,
        numbers={"worst": worst, "allowed": allowed},
        margin=allowed - worst,
        budget=budget,
    )


def exactly(show: Sequence[Sequence[str]]) -> bool:
    """Return whether every exact comparison ``[left, relation, right]`` of a "values" certificate holds."""
    relations: dict[str, Callable[[Any, Any], Any]] = {
        ">": sympy.Gt, ">=": sympy.Ge, "<": sympy.Lt, "<=": sympy.Le, "==": sympy.Eq,
    }
    return bool(show) and all(relations[op](sympy.sympify(left), sympy.sympify(right)) == sympy.true for left, op, right in show)


def arithmetic(show: Sequence[Sequence[str]], summary: str, *, covers: str = "", numbers: Mapping[str, float] | None = None) -> Evidence:
    """Return PROVED with a "values" certificate, or REFUTED where a comparison of exact rationals fails."""
    holds = exactly(show)
    return Evidence(
        Verdict.PROVED if holds else Verdict.REFUTED, "exact rationals", summary, covers=covers, numbers=numbers or {},
        certificates=[{"type": "values", "show": [list(row) for row in show]}] if holds else (),
        steps=[" ".join(row) for row in show],
    )


def refutation(
    run: Run, name: str, statement: str, replay: Callable[..., float], data: Mapping[str, Any], *, margin: float,
    repair: Mapping[str, Any], summary: str, standing: Verdict = Verdict.SUPPORTED, rounding: float = 1e-9,
    figure: str | None = None,
) -> Evidence:
    """Judge a statement by its violation on given numbers: REFUTED beyond `margin`, `standing` at 0 up to `rounding`.

    The control replays the same function with the arguments of `repair` in place of the data's. `summary` is formatted with the
    violation.
    """
    numbers = {**data, **repair} if run.twin else dict(data)
    violation = replay(**numbers)
    verdict = Verdict.REFUTED if violation > margin else standing if violation <= rounding else Verdict.INCONCLUSIVE
    counterexample = None
    if verdict is Verdict.REFUTED:
        counterexample = Counterexample(name, statement, f"{replay.__module__}:{replay.__name__}", numbers, margin)
    return Evidence(
        verdict, "replay", summary.format(violation), numbers={"violation": violation}, margin=violation - margin,
        counterexample=counterexample, figure=figure,
    )


def proved(
    cases: Sequence[Case], summary: str, covers: str = "", *, certificates: Iterable[Mapping[str, Any]] | None = (),
    numbers: Mapping[str, Any] | None = None, shown: Sequence[Sequence[str]] = (),
) -> Evidence:
    """Return PROVED if every step of every case holds, REFUTED where one is false at a point of its case, otherwise INCONCLUSIVE.

    Parameters
    ----------
    cases : sequence of Case
    summary, covers : str
    certificates : iterable of certificates, or None
        Of exact instances. None: one contradicts the statement.
    numbers : mapping, optional
    shown : sequence of comparisons
        Exact comparisons that have to hold, too; they become a "values" certificate.
    """
    proof = prove(list(cases))
    steps = [*proof.lines, *(" ".join(row) for row in shown)]
    numbers = numbers or {}
    against = ""
    if not proof.holds:
        against = f"a step fails: {proof.failure}"
    elif certificates is None:
        against = "an exact instance contradicts the statement"
    elif shown and not exactly(shown):
        against = "an exact comparison fails"
    if against or certificates is None:
        # A step may also fail because its reason does not fit or a sign is not evident: that decides nothing.
        verdict = Verdict.REFUTED if proof.holds or proof.refuted else Verdict.INCONCLUSIVE
        return Evidence(verdict, "symbolic", against, covers, numbers=numbers, steps=steps)
    values = [{"type": "values", "show": [list(row) for row in shown]}] if shown else []
    evidence = [proof.certificate, *certificates, *values]
    return Evidence(Verdict.PROVED, "symbolic", summary, covers, numbers=numbers, certificates=evidence, steps=steps)
