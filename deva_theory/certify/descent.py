"""From a descent lemma to a rate, as a linear program (SPEC R1): any norm, any step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from deva_theory.certify.duality import DualCertificate, solve_exactly
from deva_theory.certify.linear_program import LinearProgram
from deva_theory.certify.rational import Number, rational

__all__ = ["descent_program", "descent_to_rate"]


def descent_program(
    steps: int, eta: Number | Sequence[Number], L: Number | Sequence[Number], gap: Number, *, noise: Number | Sequence[Number] = 0
) -> LinearProgram:
    r"""Return the program "how large can the average gradient norm be" under the descent lemma.

    Variables: ``f0 … fT`` and ``f_star`` free, dual norms ``n0 … n(T-1) >= 0`` of the gradients. Rows:
    ``descent t``: :math:`f_{t+1} \le f_t - \eta_t n_t + \eta_t^2 L_t / 2 + \eta_t e_t`; ``gap``: :math:`f_0 - f_* \le` gap;
    ``lower bound``: :math:`f_T \ge f_*`. Objective: the average of n, with weights :math:`\eta_t / \sum \eta`.

    Parameters
    ----------
    steps : int
        T.
    eta, L, noise : rational, or one per step
        Step size, smoothness along the step in the norm of the geometry, and error :math:`e_t` of the direction (SPEC R2, R3). Any
        norm: n is the dual norm that steepest descent in it decreases f by.
    gap : rational
        Bound on :math:`f(x_0) - f_*`.

    Notes
    -----
    SPEC R1.
    """
    if steps < 1:
        raise ValueError(f"descent_program: steps is {steps}; use at least 1")
    etas, smoothness, errors = per_step(eta, steps, "eta"), per_step(L, steps, "L"), per_step(noise, steps, "noise")
    if min(etas) <= 0:
        raise ValueError("descent_program: every eta must be positive")
    program = LinearProgram()
    for t in range(steps + 1):
        program.variable(f"f{t}")
    program.variable("f_star")
    for t in range(steps):
        program.variable(f"n{t}", nonnegative=True)
    for t in range(steps):
        drop = etas[t] ** 2 * smoothness[t] / 2 + etas[t] * errors[t]
        program.at_most(f"descent {t}", {f"f{t + 1}": 1, f"f{t}": -1, f"n{t}": etas[t]}, drop)
    program.at_most("gap", {"f0": 1, "f_star": -1}, gap)
    program.at_least("lower bound", {f"f{steps}": 1, "f_star": -1}, 0)
    program.maximise({f"n{t}": etas[t] / sum(etas) for t in range(steps)})
    return program


def descent_to_rate(
    steps: int, eta: Number | Sequence[Number], L: Number | Sequence[Number], gap: Number, *, noise: Number | Sequence[Number] = 0
) -> DualCertificate:
    """Derive the rate that the descent lemma implies, by linear-programming duality: see `descent_program`."""
    return solve_exactly(descent_program(steps, eta, L, gap, noise=noise))


def per_step(value: Number | Sequence[Number], steps: int, name: str) -> list[Fraction]:
    """Return one number per step."""
    if isinstance(value, int | float | str | Fraction):
        return [rational(value)] * steps
    if len(value) != steps:
        raise ValueError(f"descent_program: {name} has {len(value)} entries for {steps} steps")
    return [rational(v) for v in value]
