"""A second opinion on rates of gradient descent from performance estimation (PEPit), an optional extra.

Drori and Teboulle (2014), Taylor, Hendrickx and Glineur (2017): the worst case of a first-order method over a whole class of functions
is a semidefinite program.  Its dual value is an upper bound on the worst case, its primal value is a function that attains it; both are
floating-point numbers and both are returned, because an unconverged solver (PEPit's default, SCS) can put the
"upper bound" below the truth.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deva_theory.certify.missing import optional

__all__ = ["WorstCase", "convex_worst_case", "nonconvex_worst_case"]

PURPOSE = "performance estimation"
RTOL = 1e-5
"""Largest relative difference of primal and dual value; CLARABEL leaves about 1e-8."""


@dataclass(frozen=True)
class WorstCase:
    """The worst case of a method over a class of functions, from both sides.

    Attributes
    ----------
    lower, upper : float
        Primal and dual value of the semidefinite program, up to the solver's accuracy.
    solver : str
    theory : float or None
        The published worst case, where one is known for this step size.
    """

    lower: float
    upper: float
    solver: str
    theory: float | None = None

    @property
    def duality_gap(self) -> float:
        """Upper minus lower, relative; negative beyond rounding means that the solver did not converge."""
        return (self.upper - self.lower) / max(abs(self.lower), abs(self.upper), 1e-300)

    def converged(self, rtol: float = RTOL) -> bool:
        """Whether both sides agree, so that the value can be trusted to that accuracy."""
        return math.isfinite(self.duality_gap) and abs(self.duality_gap) <= rtol


def convex_worst_case(
    steps: int, L: float, step_size: float, *, radius: float = 1.0, solver: str = "CLARABEL", rtol: float = RTOL
) -> WorstCase:
    r"""Return the largest ``f(x_N) - f_*`` of gradient descent on L-smooth convex functions with ``‖x_0 - x_*‖ <= radius``.

    Known (Drori, Teboulle 2014) for step sizes up to 1/L: :math:`L R^2 / (4 N L h + 2)`.

    Raises
    ------
    MissingExtra
        Without PEPit and clarabel (extra ``certify``).
    ArithmeticError
        If there is no finite worst case, or its two sides differ by more than `rtol`, relatively.
    """
    validate("convex_worst_case", steps, L, step_size, radius)
    problem, function = declare("SmoothConvexFunction", L)
    minimiser = function.stationary_point()
    x = problem.set_initial_point()
    problem.set_initial_condition((x - minimiser) ** 2 <= radius**2)
    for _ in range(steps):
        x = x - step_size * function.gradient(x)
    problem.set_performance_metric(function(x) - function(minimiser))
    h = L * step_size
    return solve(problem, solver, rtol, L * radius**2 / (4 * steps * h + 2) if h <= 1 + 1e-12 else None)


def nonconvex_worst_case(
    steps: int, L: float, step_size: float, *, gap: float = 1.0, solver: str = "CLARABEL", rtol: float = RTOL
) -> WorstCase:
    r"""Return the largest ``min_{t <= N} ‖∇f(x_t)‖²`` of gradient descent on L-smooth functions with ``f(x_0) - inf f <= gap``.

    Known (Abbaszadehpeivasti, de Klerk, Zamani 2021) for step sizes h/L with :math:`h < \sqrt 3`:
    :math:`4 L \Delta / (N \min(4h - h^2, 4h - h^3) + 2)`; for h = 1 that is :math:`4 L \Delta / (3 N + 2)`. The descent lemma alone
    gives :math:`2 L \Delta / (N + 1)` there.

    Raises
    ------
    MissingExtra
        Without PEPit and clarabel (extra ``certify``).
    ArithmeticError
        If there is no finite worst case, or its two sides differ by more than `rtol`, relatively.
    """
    validate("nonconvex_worst_case", steps, L, step_size, gap)
    problem, function = declare("SmoothFunction", L)
    x = problem.set_initial_point()
    slope, first = function.oracle(x)
    problem.set_performance_metric(slope**2)
    value = first
    for t in range(steps + 1):
        if t:
            x = x - step_size * slope
            slope, value = function.oracle(x)
            problem.set_performance_metric(slope**2)
        # inf f <= f(x_t) - ‖∇f(x_t)‖²/(2L), and some function through these points attains the least of them (Drori, Shamir 2020).
        problem.set_initial_condition(first - value + slope**2 / (2 * L) <= gap)
    h = L * step_size
    return solve(problem, solver, rtol, 4 * L * gap / (steps * min(4 * h - h**2, 4 * h - h**3) + 2) if h < math.sqrt(3) else None)


def validate(name: str, steps: int, L: float, step_size: float, size: float) -> None:
    """Reject what has no worst case."""
    if steps < 0 or not all(0 < v < math.inf for v in (L, step_size, size)):
        raise ValueError(f"{name}: need steps >= 0 and positive, finite L, step_size and start; got {steps}, {L}, {step_size}, {size}")


def declare(kind: str, L: float) -> tuple[Any, Any]:
    """Return a fresh performance-estimation problem and a function of a class."""
    with theirs():
        pepit = optional("PEPit", "certify", PURPOSE)
        functions = optional("PEPit.functions", "certify", PURPOSE)
        problem = pepit.PEP()
        return problem, problem.declare_function(getattr(functions, kind), L=L)


def solve(problem: Any, solver: str, rtol: float, theory: float | None) -> WorstCase:
    """Solve and return both values, if they agree."""
    if solver == "CLARABEL":
        optional("clarabel", "certify", PURPOSE)
    with theirs():
        upper = problem.solve(wrapper="cvxpy", solver=solver, verbose=0)
        if upper is None or not math.isfinite(upper):
            raise ArithmeticError(f"{PURPOSE}: {solver} finds no finite worst case")
        lower = problem.objective.eval()
    found = WorstCase(float(lower), float(upper), solver, theory)
    if not found.converged(rtol):
        raise ArithmeticError(f"{PURPOSE}: {solver} did not converge: relative gap {found.duality_gap:.3g} beyond {rtol:g}")
    return found


@contextlib.contextmanager
def theirs() -> Iterator[None]:
    """Keep what PEPit prints and what it and its solvers warn about to themselves; the gap says it better."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", module=r"(cvxpy|PEPit|scs|clarabel)(\.|$)")
        yield
