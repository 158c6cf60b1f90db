"""A second opinion on rates of gradient descent from performance estimation (PEPit), an optional extra.

Drori and Teboulle (2014), Taylor, Hendrickx and Glineur (2017): the worst case of a first-order method over a whole class of functions
is a semidefinite program.  Its dual value is an upper bound on the worst case, its primal value is a function that attains it; both are
floating-point numbers and both are returned, because an unconverged solver (PEPit's default, SCS) can put the
"upper bound" below the truth.

It applies where everything is a quadratic form of gradients and differences of points, so that a Gram matrix holds all of it: Euclidean
norms, also block by block, and steps linear in gradients.  Signs are no linear function of the gradient, and max-norm and 1-norm no
function of a Gram matrix, so R1 to R5 themselves are out of its reach; what it checks is their argument in the Euclidean norm.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deva_theory.certify.missing import optional

__all__ = ["WorstCase", "average_worst_case", "block_worst_case", "convex_worst_case", "nonconvex_worst_case"]

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
        The worst case by a formula, where one is known for this step size; the function says whose.
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
    problem, slopes = descend(steps + 1, L, step_size, gap)
    for slope in slopes:
        problem.set_performance_metric(slope**2)
    h = L * step_size
    return solve(problem, solver, rtol, 4 * L * gap / (steps * min(4 * h - h**2, 4 * h - h**3) + 2) if h < math.sqrt(3) else None)


def average_worst_case(
    steps: int, L: float, step_size: float, *, gap: float = 1.0, solver: str = "CLARABEL", rtol: float = RTOL
) -> WorstCase:
    r"""Return the largest :math:`\frac1T \sum_{t < T} \|\nabla f(x_t)\|^2` of gradient descent on L-smooth functions, T = steps.

    With ``f(x_0) - inf f <= gap``.  `theory`, for step sizes h/L with 0 < h < 2, is what :math:`\tfrac12 L x^2` attains:
    :math:`2 L \Delta (1 - (1-h)^{2T}) / (T h (2-h))`.  The descent lemma alone gives that without the power of 1-h, which is
    :math:`\Delta / (\eta T (1 - \eta L/2))`, exact for h = 1 (`deva_theory.rates.known.sgd` with σ = 0).  That no function does worse
    than ½Lx² for other h is what the solver finds, not a published result.

    Raises
    ------
    MissingExtra
        Without PEPit and clarabel (extra ``certify``).
    ArithmeticError
        If there is no finite worst case, or its two sides differ by more than `rtol`, relatively.
    """
    validate("average_worst_case", steps, L, step_size, gap, least=1)
    problem, slopes = descend(steps, L, step_size, gap)
    problem.set_performance_metric(sum(slope**2 for slope in slopes) / steps)
    h = L * step_size
    return solve(problem, solver, rtol, 2 * L * gap * (1 - (1 - h) ** (2 * steps)) / (steps * h * (2 - h)) if h < 2 else None)


def descend(count: int, L: float, step_size: float, gap: float) -> tuple[Any, list[Any]]:
    """Return a problem on L-smooth functions with ``f(x_0) - inf f <= gap``, and `count` gradients along gradient descent from x_0."""
    problem, function = declare("SmoothFunction", L)
    x = problem.set_initial_point()
    slope, first = function.oracle(x)
    value, slopes = first, [slope]
    for t in range(count):
        if t:
            x = x - step_size * slope
            slope, value = function.oracle(x)
            slopes.append(slope)
        # inf f <= f(x_t) - ‖∇f(x_t)‖²/(2L), and some function through these points attains the least of them (Drori, Shamir 2020).
        problem.set_initial_condition(first - value + slope**2 / (2 * L) <= gap)
    return problem, slopes


def block_worst_case(
    steps: int, L: Sequence[float], *, cyclic: bool, gap: float = 1.0, solver: str = "CLARABEL", rtol: float = RTOL
) -> WorstCase:
    r"""Return the largest average of :math:`\sum_b \|\nabla_b f(x_t)\|^2 / L_b` over t < T = steps on convex functions smooth by blocks.

    With ``f(x_0) - min f <= gap``, ``‖∇_b f(x + u) - ∇_b f(x)‖ <= L_b ‖u‖`` for u in block b alone, and d blocks.

    Parameters
    ----------
    steps : int
        T.
    L : sequence of float
        L_b, one for each block.
    cyclic : bool
        True: step t moves the block b = t mod d alone, by :math:`-\nabla_b f/L_b`, and the sum has that b alone; the descent lemma gives
        :math:`2\Delta/T`.  False: all blocks move, by :math:`-\nabla_b f/(d L_b)`, and the sum has all; it gives :math:`2d\Delta/T`, as
        f is d-smooth in the norm :math:`(\sum_b L_b \|x_b\|^2)^{1/2}`.
    gap : float
        Δ.

    Returns
    -------
    WorstCase
        `theory` is that bound.  It is attained by :math:`\tfrac12 (\sum_b \sqrt{L_b}\, x_b)^2`, cyclic by
        :math:`\tfrac12 L_0 x_0^2`, both of which are at their minimum after one step.

    Raises
    ------
    MissingExtra
        Without PEPit and clarabel (extra ``certify``).
    ArithmeticError
        If there is no finite worst case, or its two sides differ by more than `rtol`, relatively.

    Notes
    -----
    PEPit's conditions on such functions (Shi, Liu 2016) are necessary and perhaps not sufficient: `upper` bounds the worst case, and the
    primal value need not be a function.
    """
    validate("block_worst_case", steps, min(L, default=0.0), max(L, default=0.0), gap, least=1)
    d = len(L)
    problem, function = declare("BlockSmoothConvexFunctionCheap", list(L), blocks=d)
    minimiser = function.stationary_point()
    x = problem.set_initial_point()
    problem.set_initial_condition(function(x) - function(minimiser) <= gap)
    total: Any = 0
    for t in range(steps):
        slope = function.gradient(x)
        for b in [t % d] if cyclic else range(d):
            part = slope if d == 1 else function.partition.get_block(slope, b)
            total = part**2 / L[b] + total
            x = x - part / (L[b] if cyclic else d * L[b])
    problem.set_performance_metric(total / steps)
    return solve(problem, solver, rtol, (1 if cyclic else d) * 2 * gap / steps)


def validate(name: str, steps: int, L: float, step_size: float, size: float, *, least: int = 0) -> None:
    """Reject what has no worst case."""
    if steps < least or not all(0 < v < math.inf for v in (L, step_size, size)):
        given = f"{steps}, {L}, {step_size}, {size}"
        raise ValueError(f"{name}: need steps >= {least} and positive, finite L, step_size and start; got {given}")


def declare(kind: str, L: float | list[float], blocks: int = 0) -> tuple[Any, Any]:
    """Return a fresh performance-estimation problem and a function of a class, if need be with a partition of the space into blocks."""
    with theirs():
        pepit = optional("PEPit", "certify", PURPOSE)
        functions = optional("PEPit.functions", "certify", PURPOSE)
        problem = pepit.PEP()
        more = {"partition": problem.declare_block_partition(d=blocks)} if blocks else {}
        return problem, problem.declare_function(getattr(functions, kind), L=L, **more)


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
