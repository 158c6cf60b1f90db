"""Rates in Euclidean norms beside performance estimation: each derived from one inequality, and a worst case over all functions."""

from __future__ import annotations

from fractions import Fraction

from deva_theory.certify import average_worst_case, block_worst_case, convex_worst_case, descent_to_rate, nonconvex_worst_case
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.rates.known import sgd

ACCURACY = 1e-6
"""Relative; the solver's primal and dual values must agree to it, and do to about 1e-8."""


def solver_error(L: float) -> float:
    """Return the solver's relative error on a worst case that is known."""
    known = convex_worst_case(3, L, 1 / L, rtol=ACCURACY)
    assert known.theory is not None
    return abs(known.upper / known.theory - 1)


def performance_estimation(run: Run) -> Evidence:
    r"""R1-pepit: 2LΔ/T is not below the worst case of min ‖∇f‖², and at most 3/2 of it.  Twin: LΔ/T.

    Gradient descent with step 1/L has :math:`\eta_t = \|\nabla f(x_t)\|/L`, so R1's descent inequality becomes
    :math:`f_{t+1} \le f_t - \|\nabla f(x_t)\|^2/(2L)`: the same linear program with squared norms and no curvature term left.
    """
    L, gap = Fraction(4), Fraction(3, 2)
    error = solver_error(float(L))

    share = Fraction(1, 2 if run.twin else 1)
    counts = (1, 2, 3, 5, 8) if not run.full else (1, 2, 3, 5, 8, 12, 20)
    ratios, certificates = [], []
    for T in counts:
        rate = descent_to_rate(T, 1 / (2 * L), 0, gap)
        worst = nonconvex_worst_case(T - 1, float(L), float(1 / L), gap=float(gap), rtol=ACCURACY)
        ratios.append(float(share * rate.bound) / worst.upper)
        certificates.append(rate.certificate)
    margin = min(min(ratios) - (1 - ACCURACY), 1.5 + ACCURACY - max(ratios))
    return Evidence(
        Verdict.INCONCLUSIVE if error > ACCURACY else Verdict.SUPPORTED if margin >= 0 else Verdict.REFUTED,
        method="performance estimation",
        summary=f"rate over worst case: {ratios[0]:.6f} for T = 1 up to {ratios[-1]:.6f} for T = {counts[-1]}",
        covers=f"gradient descent with step 1/L, T = {', '.join(map(str, counts))}; L = {L}, Δ = {gap}, to which others scale",
        numbers={"least_ratio": min(ratios), "largest_ratio": max(ratios), "solver_error": error},
        margin=margin,
        budget={"semidefinite programs": len(counts) + 1},
        certificates=certificates,
    )


def averages(run: Run) -> Evidence:
    r"""R6-pepit: bounds on the average of ‖∇f‖² are not below its worst case, and equal to it at ηL = 1 and for blocks.  Twin: Δ/(ηT).

    Gradient descent: :math:`\Delta/(\eta T(1-\eta L/2))`.  Convex functions smooth by d blocks, steps :math:`-\nabla_b f/L_b` of one block
    after the other, or :math:`-\nabla_b f/(dL_b)` of all: :math:`2\Delta/T` and :math:`2d\Delta/T` in the norm
    :math:`\sum_b\|\nabla_b f\|^2/L_b`.  Each is the descent lemma, summed.  The twin leaves out the step's own second-order part.
    """
    L, gap = 4.0, Fraction(3, 2)
    counts = (1, 2, 4, 8) if not run.full else (1, 2, 3, 5, 8, 12, 20)
    ratios: dict[float, list[float]] = {}
    for h in (0.5, 1.0, 1.5):
        room = 1 - h / 2 if run.twin else 1.0
        ratios[h] = [
            room * sgd(float(gap), T, h / L, L).value.item() ** 2 / average_worst_case(T, L, h / L, gap=float(gap), rtol=ACCURACY).upper
            for T in counts
        ]
    weights = ([1.0, 4.0], [1.0, 4.0, 0.5])
    blocks, certificates = [], []
    for cyclic in (True, False):
        for constants in weights:
            for T in counts[:4]:
                # Half of the first-order decrease is left to the second order.
                share = Fraction(1, 1 if run.twin else 2) / (1 if cyclic else len(constants))
                rate = descent_to_rate(T, share, 0, gap)
                blocks.append(float(rate.bound) / block_worst_case(T, constants, cyclic=cyclic, gap=float(gap), rtol=ACCURACY).upper)
                certificates.append(rate.certificate)
    error = solver_error(L)
    exact = [*ratios[1.0], *blocks]
    least = min(min(exact), *(min(x) for x in ratios.values()))
    margin = min(least - (1 - ACCURACY), 1 + ACCURACY - max(exact))
    return Evidence(
        Verdict.INCONCLUSIVE if error > ACCURACY else Verdict.SUPPORTED if margin >= 0 else Verdict.REFUTED,
        method="performance estimation",
        summary=f"bound over worst case at T = {', '.join(map(str, counts))}: "
        + "; ".join(f"ηL = {h:g}: {', '.join(f'{x:.6f}' for x in found)}" for h, found in ratios.items())
        + f"; blocks: {min(blocks):.6f} to {max(blocks):.6f}",
        covers=f"gradient descent at three ηL on L-smooth functions; blocks: 2 and 3 of them, convex functions, T up to {counts[3]}, by "
        "PEPit's necessary conditions. Not covered: sign steps, R1 to R5 themselves, which are no function of a Gram matrix",
        numbers={"least_ratio": least, "largest_exact": max(exact), "solver_error": error}
        | {f"ηL = {h:g}, T = {T}": x for h, found in ratios.items() for T, x in zip(counts, found, strict=True)},
        margin=margin,
        budget={"semidefinite programs": 3 * len(counts) + len(blocks) + 1},
        certificates=certificates,
    )
