"""Smoothness in closed form: S5, the spectral norm of a trace quadratic by eigenvalues, the box norm column by column."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deva_theory.certify import Case, at_most, cite, equal, prove
from deva_theory.claims.model import Evidence, Run
from paper_checks.expressions import dot, flat, form, names, symmetric, total, transposed
from paper_checks.quadratic_forms import box_maximum, symmetric_integers
from paper_checks.verdicts import ROUNDING, conclude


def ky_fan(run: Run) -> Evidence:
    """S5: the spectral smoothness sums the positive parts of the min(m, n) largest eigenvalues.  Twin: not the positive parts."""
    cases = []
    for m, r, p in ((size, rank, count) for size in (1, 2, 3, 4) for rank in range(1, size + 1) for count in range(size + 1)):
        w, gaps = names("w", m), names("g", m)
        # In descending order, p of them ≥ 0: the first p are sums of gaps down to 0, the others minus sums of gaps.
        eigenvalues = [total(gaps[i:p]) if i < p else f"-({total(gaps[p : i + 1])})" for i in range(m)]
        kept = min(r, p)
        slack = {f"s{i + 1}": f"1 - {w[i]}" for i in range(m)} | {"rest": f"{r} - ({total(w)})"}
        claimed = total(eigenvalues[: r if run.twin else kept])
        cases.append(Case(f"m = {m}, min(m, n) = {r}, {p} eigenvalues >= 0", nonnegative=[*w, *gaps, *slack], definitions=slack, steps=[
            at_most(dot(eigenvalues, w), claimed, trace_slack(m, r, p, w, gaps)),
        ]))
    cases[0] = Case(cases[0].name, cases[0].positive, cases[0].nonnegative, cases[0].real, cases[0].definitions, cases[0].squares, [
        cite("in the eigenbasis of H the form is the sum of λ_i W_ii, W = DD^T; ‖D‖ <= 1 gives 0 <= W_ii <= 1 and tr W <= min(m, n)"),
        cite("attained by D = the eigenvectors with λ_i >= 0 among the first min(m, n) beside each other"),
        *cases[0].steps,
    ])
    proof = prove(cases)
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
        budget={"instances": count, "cases": len(cases)},
        covers="m ≤ 4, every min(m, n) and every number of nonnegative eigenvalues",
    )


def trace_slack(m: int, r: int, p: int, w: list[str], gaps: list[str]) -> str:
    """Return ``Σ_{i≤min(r,p)} λ_i - Σλ_iw_i`` as a sum of products of nonnegative numbers (multiplier λ_r, or 0 where p < r)."""
    kept, terms = min(r, p), []
    between = gaps[kept - 1 : p] if kept == r else []  # λ_r as a sum of gaps, where it is ≥ 0
    for i in range(m):
        if i < kept:
            own = gaps[i : kept - 1] if kept == r else gaps[i:p]
            terms += [f"({total(own)})*s{i + 1}"] if own else []
        elif i < p:
            own = gaps[kept - 1 : i]
            terms.append(f"({total(own)})*{w[i]}")
        else:
            terms.append(f"({total([*between, *gaps[p : i + 1]])})*{w[i]}")
    if between:
        terms.append(f"({total(between)})*rest")
    return total(terms)


def box_columns(run: Run) -> Evidence:
    """S5: the box smoothness of ½tr(XᵀHX) is n L_∞(H).  Twin: L_∞(H)."""
    m, n = 2, 3
    H, U = symmetric("h", m), names("u", m, n)
    slack = {f"s{j + 1}": f"l - ({form(H, column)})" for j, column in enumerate(transposed(U))}
    factor = "1" if run.twin else str(n)
    because = total([*slack]) + (f" - {n - 1}*l" if run.twin else "")
    value = total(form(H, column) for column in transposed(U))
    same = [names("v", m)] * n
    proof = prove([Case("column by column", real=[*flat(H), *flat(U), *same[0]], nonnegative=["l", *slack], definitions=slack, steps=[
        at_most(value, f"{factor}*l", because),
        equal(total(form(H, column) for column in same), f"{n}*({form(H, same[0])})"),
        cite("attained by the same best column n times"),
    ])])
    violation, count = Fraction(0), 0
    for A in symmetric_integers(run, run.count(4, 40), sizes=(1, 2)):
        for k in (1, 2) if len(A) == 2 else (1, 2, 3):
            d = len(A)
            zero = Fraction(0)
            full = [[A[i % d][j % d] if i // d == j // d else zero for j in range(d * k)] for i in range(d * k)]
            claimed = box_maximum(A) * (1 if run.twin else k)
            violation, count = max(violation, abs(box_maximum(full) - claimed)), count + 1
    return conclude(proof, violation, summary="tr(uᵀHu) = Σ_j u_jᵀHu_j", budget={"instances": count},
        covers="m = 2, n = 3; one term per column at any size")
