"""Smoothness in closed form: S5, the spectral norm of a trace quadratic by eigenvalues, the box norm column by column."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deva_theory.certify import Case, at_most, cite, equal, prove
from deva_theory.claims.model import Evidence, Run
from paper_checks.quadratic_forms import box_maximum, symmetric_integers
from paper_checks.verdicts import ROUNDING, conclude


def ky_fan(run: Run) -> Evidence:
    """S5: the spectral smoothness sums the positive parts of the min(m, n) largest eigenvalues.  Twin: not the positive parts."""
    # The multiplier u is λ_r, r = min(m, n), or 0 where fewer than r are ≥ 0; V = Σλ_iw_i, W = Σw_i, G = Σg_i so far.
    hypothesis = {"V": "u*W + G - s"}
    proof = prove([
        Case("one more: one of the r largest, λ = u + g", nonnegative=["u", "g", "W", "G", "s", "w", "e"], definitions={
            **hypothesis, "e": "1 - w",
        }, steps=[
            cite("in the eigenbasis of H the form is the sum of λ_i W_ii, W = DD^T; ‖D‖ <= 1 gives 0 <= W_ii <= 1 and tr W <= min(m, n)"),
            at_most("V + (u + g)*w", "u*(W + w) + (G + g)", "s + g*e"),
        ]),
        Case("one more: another, or a negative one, λ = u - h", nonnegative=["u", "h", "W", "G", "s", "w"], definitions=hypothesis, steps=[
            at_most("V + (u - h)*w", "u*(W + w) + G", "s + h*w"),
        ]),
        Case("λ_r >= 0: the r largest are u + g_i, their sum r u + G", nonnegative=["u", "W", "G", "s", "e"], real=["r", "k", "K", "g"],
             definitions={"W": "r - e", **hypothesis}, steps=[
            equal("(k*u + K) + (u + g)", "(k + 1)*u + (K + g)"), at_most("V", "r*u + G", "s + u*e"),
        ]),
        Case("λ_r < 0: u = 0, the positive ones are the g_i; -h sums what else is among the r largest", positive=["h"],
             nonnegative=["W", "G", "s"], definitions={"u": "0", **hypothesis}, steps=[
            at_most("V", "G" + (" - h" if run.twin else ""), "s" + (" - h" if run.twin else "")),
            cite("attained by D = the eigenvectors with λ_i >= 0 among the first min(m, n) beside each other"),
        ]),
    ])
    violation, count, rng = 0.0, 0, run.rng()
    for H in symmetric_integers(run, run.count(20, 200)):
        A = np.array([[float(x) for x in row] for row in H])
        values, vectors = np.linalg.eigh(A)
        for n in (1, 2, 3):
            r = min(len(A), n)
            claimed = values[::-1][:r].sum() if run.twin else values[::-1][:r].clip(min=0).sum()
            best = vectors[:, [k for k in range(len(A))[::-1][:r] if values[k] > 0]]  # a feasible direction
            other = np.linalg.qr(rng.standard_normal((max(len(A), n), r)))[0][: len(A)]  # a random one
            violation = max(violation, abs(float((best * (A @ best)).sum()) - claimed), float((other * (A @ other)).sum()) - claimed)
            count += 1
    return conclude(
        proof, violation, margin=ROUNDING, summary="Σλ_iW_ii ≤ the sum of the largest positive ones",
        budget={"instances": count},
        covers="every m, n and H, by induction over the eigenvalues; the eigenbasis is cited",
    )


def box_columns(run: Run) -> Evidence:
    """S5: the box smoothness of ½tr(XᵀHX) is n L_∞(H).  Twin: L_∞(H)."""
    proof = prove([
        Case("one more column", nonnegative=["l", "e", "s"], real=["n", "q"], definitions={"column": "l - e", "V": "n*l - s"}, steps=[
            cite("tr(UᵀHU) = Σ_j u_jᵀHu_j over the n columns, each at most l = L_∞(H), with columns chosen freely"),
            at_most("V + column", "(n + 1)*l", "s + e"),
            cite("attained by the same best column n times:"),
            equal("n*q + q", "(n + 1)*q"),
        ]),
        Case("all n columns", nonnegative=["l", "s"], real=["n"], definitions={"V": "n*l - s"}, steps=[
            at_most("V", "l" if run.twin else "n*l", "s" + (" - (n - 1)*l" if run.twin else "")),
        ]),
    ])
    violation, count = Fraction(0), 0
    for A in symmetric_integers(run, run.count(4, 40), sizes=(1, 2)):
        for k in (1, 2) if len(A) == 2 else (1, 2, 3):
            d = len(A)
            zero = Fraction(0)
            full = [[A[i % d][j % d] if i // d == j // d else zero for j in range(d * k)] for i in range(d * k)]
            claimed = box_maximum(A) * (1 if run.twin else k)
            violation, count = max(violation, abs(box_maximum(full) - claimed)), count + 1
    return conclude(proof, violation, summary="tr(uᵀHu) = Σ_j u_jᵀHu_j", budget={"instances": count},
        covers="every m and n, by induction over the columns")
