"""R1 in the Euclidean norm beside performance estimation: a rate derived from one inequality, and a worst case over all functions."""

from __future__ import annotations

from fractions import Fraction

from deva_theory.certify import convex_worst_case, descent_to_rate, nonconvex_worst_case
from deva_theory.claims.model import Evidence, Run, Verdict

ACCURACY = 1e-6
"""Relative; the solver's primal and dual values must agree to it, and do to about 1e-8."""


def performance_estimation(run: Run) -> Evidence:
    r"""R1-pepit: 2LΔ/T is not below the worst case of min ‖∇f‖², and at most 3/2 of it.  Twin: LΔ/T.

    Gradient descent with step 1/L has :math:`\eta_t = \|\nabla f(x_t)\|/L`, so R1's descent inequality becomes
    :math:`f_{t+1} \le f_t - \|\nabla f(x_t)\|^2/(2L)`: the same linear program with squared norms and no curvature term left.
    """
    L, gap = Fraction(4), Fraction(3, 2)
    known = convex_worst_case(3, float(L), float(1 / L), rtol=ACCURACY)
    assert known.theory is not None
    error = abs(known.upper / known.theory - 1)  # the solver's, on a worst case that is known

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
