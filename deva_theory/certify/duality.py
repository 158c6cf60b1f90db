"""Linear programs whose optimum is certified by rational dual multipliers.

A bound that follows from finitely many linear inequalities is a linear program: the inequalities are the rows, the bounded
quantity is the objective, and the multipliers of the dual are the proof. HiGHS finds the multipliers in floating point; here
they are recomputed exactly from the active set, so that the bound is a theorem about the rows as written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import optimize, sparse

from deva_theory.certify.linear_program import InfeasibleProgram, LinearProgram, Row, UnboundedProgram
from deva_theory.certify.sparse_systems import solve_sparse

__all__ = ["DualCertificate", "solve_exactly"]


@dataclass(frozen=True)
class DualCertificate:
    """An exact upper bound of a linear program and its proof.

    Attributes
    ----------
    bound : Fraction
    certificate : dict
        Of type "dual", for `deva_theory.recheck`.
    multipliers : dict
        The nonzero ones by row: how often each inequality is used.
    optimum : dict or None
        An exact point of the program that attains the bound, so that the rows imply no better one; None if none was found.
    point : dict or None
        An exact admissible point, so that the rows do not contradict each other: the optimum, or another. From `solve_exactly`
        never None; the certificate has it.
    """

    bound: Fraction
    certificate: dict[str, Any]
    multipliers: dict[str, Fraction]
    optimum: dict[str, Fraction] | None
    point: dict[str, Fraction] | None

    @property
    def attained(self) -> bool:
        """Whether an exact point attains the bound."""
        return self.optimum is not None


def solve_exactly(program: LinearProgram) -> DualCertificate:
    """Bound the objective by exact multipliers of the rows.

    HiGHS solves the program in floating point; the rows it uses give a linear system for the multipliers, which is
    solved in fractions. A residual on a variable that is declared nonnegative goes to that row, at the price of a slightly larger
    bound; the bound returned is the exact sum of what the multipliers prove.

    Raises
    ------
    UnboundedProgram, InfeasibleProgram
        When the rows imply no bound, or contradict each other.
    ArithmeticError
        When no exact multipliers, or no exact admissible point, were found near the floating-point ones.
    """
    if not program.variables:
        raise ValueError("solve_exactly: the program has no variables")
    found = bounded(program)
    if found is None:
        # HiGHS only says so: what is raised is shown.
        if clash := contradiction(program):
            raise InfeasibleProgram(clash)
        raise UnboundedProgram(growing_ray(program))
    if found.point is not None:
        return found
    point = interior_point(program)
    if point is None:
        if clash := contradiction(program):  # by less than HiGHS sees
            raise InfeasibleProgram(clash)
        raise ArithmeticError("solve_exactly: no exact admissible point near the floating-point one; rescale the program")
    return replace(found, point=point, certificate=to_certificate(program, found.multipliers, found.bound, point))


def bounded(program: LinearProgram) -> DualCertificate | None:
    """Return the certified bound, or None where HiGHS finds no optimum."""
    names = list(program.rows)
    rough = highs(program, names)
    if rough is None:
        return None
    multipliers = exact_multipliers(program, names, rough)
    bound = sum((y * program.rows[name][1] for name, y in multipliers.items()), Fraction(0))
    points = []
    for point in exact_points(program, names, rough):
        points.append(point)
        if program.value(point) == bound:
            break
    best = max(points, key=program.value, default=None)
    optimum = best if best is not None and program.value(best) == bound else None
    return DualCertificate(bound, to_certificate(program, multipliers, bound, best), multipliers, optimum, best)


@dataclass(frozen=True)
class Rough:
    """A floating-point optimum.

    Attributes
    ----------
    multipliers, x : ndarray
    weights, slacks : ndarray
        Multipliers and slacks of the scaled program, whose numbers can be compared with each other.
    """

    multipliers: np.ndarray
    x: np.ndarray
    weights: np.ndarray
    slacks: np.ndarray


def highs(program: LinearProgram, names: Sequence[str]) -> Rough | None:
    """Solve in floating point; None where there is no optimum.

    HiGHS drops coefficients below 1e-9, takes bounds beyond 1e20 for none and has absolute tolerances, so it is given numbers near 1:
    rows, columns, right-hand sides and objective are scaled by powers of 2.
    """
    place = {name: j for j, name in enumerate(program.variables)}
    rows = [program.rows[name] for name in names]
    column_scale = dict.fromkeys(program.variables, 0)
    for key in column_scale:  # a row with one entry fits any scale
        sizes = [exponent(row[key]) - max(map(exponent, row.values())) for row, _ in rows if key in row and len(row) > 1]
        column_scale[key] = max(sizes, default=0)
    row_scale = [max((exponent(a) - column_scale[key] for key, a in row.items()), default=0) for row, _ in rows]
    right_scale = max((exponent(b) - r for (_, b), r in zip(rows, row_scale, strict=True) if b), default=0)
    cost_scale = max((exponent(a) - column_scale[key] for key, a in program.objective.items()), default=0)
    c = np.zeros(len(place))
    for key, a in program.objective.items():
        c[place[key]] = -scaled(a, -column_scale[key] - cost_scale)
    A = sparse.lil_matrix((max(len(rows), 1), len(place)))  # linprog wants a row
    b = np.zeros(max(len(rows), 1))
    for i, ((row, bound), r) in enumerate(zip(rows, row_scale, strict=True)):
        b[i] = scaled(bound, -r - right_scale)
        for key, a in row.items():
            A[i, place[key]] = scaled(a, -r - column_scale[key])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solved = optimize.linprog(c, A_ub=A.tocsr(), b_ub=b, bounds=(None, None), method="highs-ds", options=options)
    if solved.status in (2, 3, 4):
        return None
    if solved.status != 0:
        raise ArithmeticError(f"solve_exactly: HiGHS stopped with {solved.message!r}")
    count = len(rows)
    weights = np.maximum(-np.asarray(solved.ineqlin.marginals)[:count], 0.0)
    return Rough(
        np.ldexp(weights, np.array([cost_scale - r for r in row_scale], dtype=int)),
        np.ldexp(solved.x, np.array([right_scale - column_scale[name] for name in program.variables])),
        weights,
        np.asarray(solved.ineqlin.residual)[:count] / (1.0 + np.abs(solved.x).max()),
    )


def exponent(value: Fraction) -> int:
    """Return e with |value| between 2^(e-1) and 2^(e+1)."""
    return value.numerator.bit_length() - value.denominator.bit_length()


def scaled(value: Fraction, power: int) -> float:
    """Return ``value · 2^power``."""
    return float(value * Fraction(2) ** power)


def contradiction(program: LinearProgram) -> dict[str, Fraction]:
    """Return multipliers with which the rows add up to ``0 <= negative``; empty if there are none.

    They are those of the program "how little can the worst row be violated", relative to the row's coefficients.
    """
    excess = unused("excess", program.variables)
    relaxed = LinearProgram([*program.variables, excess])
    for name, (row, bound) in program.rows.items():
        relaxed.at_most(name, {**row, excess: -(Fraction(2) ** max(map(exponent, row.values()), default=0))}, bound)
    sign = unused("no excess", program.rows)
    relaxed.at_most(sign, {excess: -1}, 0)
    relaxed.maximise({excess: -1})
    found = bounded(relaxed)
    if found is None or found.bound >= 0:
        return {}
    return {name: y for name, y in found.multipliers.items() if name != sign}


def growing_ray(program: LinearProgram) -> dict[str, Fraction]:
    """Return an exact direction that satisfies the homogeneous rows and raises the objective by 1."""
    cone = LinearProgram(list(program.variables), {name: (row, Fraction(0)) for name, (row, _) in program.rows.items()}, program.objective)
    cone.at_most(unused("growth", program.rows), program.objective, 1)
    found = bounded(cone)
    if found is None or found.optimum is None or cone.value(found.optimum) != 1:
        raise ArithmeticError("solve_exactly: HiGHS finds no optimum, but neither an exact ray nor an exact contradiction was found")
    return found.optimum


def unused(name: str, taken: Collection[str]) -> str:
    """Return the name, with primes if it is taken."""
    while name in taken:
        name += "'"
    return name


def exact_multipliers(program: LinearProgram, names: Sequence[str], rough: Rough) -> dict[str, Fraction]:
    """Return nonnegative multipliers whose combination of the rows is exactly the objective."""
    signs = {next(iter(row)): (name, -next(iter(row.values()))) for name, (row, bound) in program.rows.items() if sign_row(row, bound)}
    largest = float(rough.weights.max(initial=0.0))
    thresholds = (1e-9, 1e-7, 1e-5, 0.0)
    for raising, threshold in ((raising, threshold) for raising in (False, True) for threshold in thresholds):
        support = [i for i in range(len(names)) if rough.weights[i] > threshold * largest] if threshold else list(range(len(names)))
        equations: list[dict[int, Fraction]] = [{} for _ in program.variables]
        place = {name: j for j, name in enumerate(program.variables)}
        for k, i in enumerate(support):
            for key, a in program.rows[names[i]][0].items():
                equations[place[key]][k] = a
        right = [program.objective.get(name, Fraction(0)) for name in program.variables]
        solution = solve_sparse(equations, right, [float(rough.multipliers[i]) for i in support])
        multipliers = {names[i]: y for i, y in zip(support, solution, strict=True) if y > 0}
        if settle(program, multipliers, signs, raising=raising):
            return {name: multipliers[name] for name in names if multipliers.get(name)}
    raise ArithmeticError("solve_exactly: no exact multipliers near the floating-point ones; rescale the program")


def settle(
    program: LinearProgram, multipliers: dict[str, Fraction], signs: Mapping[str, tuple[str, Fraction]], *, raising: bool
) -> bool:
    """Remove what the combination of the rows leaves over on variables ``x >= 0``, in place; False if it cannot.

    Too much of x is any nonnegative multiple of its row ``-x <= 0``. With ``raising``, too little is made up by a row that is
    nonnegative and on such variables only, which makes the bound a little larger.
    """
    if raising:
        harmless = {name: row for name, (row, _) in program.rows.items() if all(a > 0 and key in signs for key, a in row.items())}
        for key, left in residual(program, multipliers).items():
            name = next((name for name, row in harmless.items() if key in row), None)
            if left < 0 and name is not None:
                multipliers[name] = multipliers.get(name, Fraction(0)) - left / harmless[name][key]
    for name, left in residual(program, multipliers).items():
        if name not in signs:
            return False
        sign, factor = signs[name]
        multipliers[sign] = multipliers.get(sign, Fraction(0)) + left / factor
        if multipliers[sign] < 0:
            return False
    return True


def sign_row(row: Row, bound: Fraction) -> bool:
    """Whether a row says that one variable is nonnegative."""
    return len(row) == 1 and bound == 0 and next(iter(row.values())) < 0


def residual(program: LinearProgram, multipliers: Mapping[str, Fraction]) -> Row:
    """Return combination minus objective, without zeros."""
    total: Row = {name: -a for name, a in program.objective.items()}
    for name, y in multipliers.items():
        for key, a in program.rows[name][0].items():
            total[key] = total.get(key, Fraction(0)) + y * a
    return {name: a for name, a in total.items() if a}


def exact_points(program: LinearProgram, names: Sequence[str], rough: Rough) -> Iterator[dict[str, Fraction]]:
    """Yield exact admissible points, from the rows that are tight in floating point."""
    place = {name: j for j, name in enumerate(program.variables)}
    for threshold in (1e-9, 1e-7, 1e-5):
        tight = [i for i in range(len(names)) if rough.slacks[i] <= threshold]
        equations = [{place[key]: a for key, a in program.rows[names[i]][0].items()} for i in tight]
        solution = solve_sparse(equations, [program.rows[names[i]][1] for i in tight], rough.x.tolist())
        point = dict(zip(program.variables, solution, strict=True))
        if all(program.slack(name, point) >= 0 for name in names):
            yield point


def interior_point(program: LinearProgram) -> dict[str, Fraction] | None:
    """Return an exact admissible point that keeps off the rows as far as 1, relative to the row's coefficients, if one is found."""
    depth = unused("depth", program.variables)
    deep = LinearProgram([*program.variables, depth])
    for name, (row, bound) in program.rows.items():
        deep.at_most(name, {**row, depth: Fraction(2) ** max(map(exponent, row.values()), default=0)}, bound)
    deep.at_most(unused("at most 1", program.rows), {depth: 1}, 1)
    deep.maximise({depth: 1})
    found = bounded(deep)
    if found is None or found.point is None or found.point.pop(depth) < 0:
        return None
    return found.point


def to_certificate(
    program: LinearProgram, multipliers: Mapping[str, Fraction], bound: Fraction, point: Mapping[str, Fraction] | None
) -> dict[str, Any]:
    """Return the JSON form: rows that are not used are left out, they prove nothing."""
    used = [name for name in program.rows if multipliers.get(name)]
    return {
        "type": "dual",
        "variables": list(program.variables),
        "objective": {name: str(a) for name, a in program.objective.items()},
        "constraints": [
            {
                "name": name,
                "row": {key: str(a) for key, a in program.rows[name][0].items()},
                "at_most": str(program.rows[name][1]),
            }
            for name in used
        ],
        "multipliers": [str(multipliers[name]) for name in used],
        "bound": str(bound),
        **({} if point is None else {"point": {name: str(x) for name, x in point.items()}}),
    }
