"""Smoothness without weights: S1, what the norms mean and how they are ordered, and S4, the chain of bounds for the box norm.

Inequalities between suprema are inclusions: the supremum over a part is at most that over the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.certify import Case, Proof, SearchProblem, at_most, cite, equal, prove, psd_certificate
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from paper_checks.arrays import tensor
from paper_checks.expressions import dot, flat, form, names, square_norm, symmetric, times, total, transposed
from paper_checks.inductions import cauchy_schwarz
from paper_checks.quadratic_forms import Matrix, box_maximum, corner_maximum, fractions, quadratic_form, semidefinite, symmetric_integers
from paper_checks.verdicts import conclude


def coordinatewise(run: Run) -> Evidence:
    """S1: on quadratics the coordinatewise bound is H ≼ diag(L).  Twin: H ≼ 2 diag(L) is enough."""
    factor = 2 if run.twin else 1
    d = 3
    v, x, b, L, C = names("v", d), names("x", d), names("b", d), names("l", d), names("c", d, d)
    gram = times(C, transposed(C))
    H = [[f"{factor * (i == j)}*{L[i]} - ({gram[i][j]})" for j in range(d)] for i in range(d)]
    h = symmetric("h", d)

    def f(matrix: Sequence[Sequence[str]], point: Sequence[str]) -> str:
        return f"1/2*({form(matrix, point)}) + {dot(b, point)}"

    moved = [f"({p} + {q})" for p, q in zip(x, v, strict=True)]
    slope = [f"({dot(row, x)} + {c})" for row, c in zip(h, b, strict=True)]
    bound = f"1/2*({total(f'{p}*{q}**2' for p, q in zip(L, v, strict=True))})"
    gap = [[f"{int(i == j)}*{L[i]} - {h[i][j]}" for j in range(d)] for i in range(d)]
    proof = prove([
        Case("second-order expansion", real=[*flat(h), *b, *x, *v, *L], steps=[
            equal(f"{f(h, moved)} - ({f(h, x)}) - ({dot(slope, v)})", f"1/2*({form(h, v)})"),
            equal(f"{bound} - 1/2*({form(h, v)})", f"1/2*({form(gap, v)})"),
            cite("so the bound at every v is the semidefiniteness of diag(L) - H: necessary and sufficient"),
            cite(f"written out for d = {d}; the same sums at any size"),
        ]),
        Case("the expansion at any size", real=["xx", "xv", "vv", "bx", "bv"], steps=[
            cite("xx = xᵀHx, xv = xᵀHv = vᵀHx, vv = vᵀHv, bx = bᵀx, bv = bᵀv: forms are bilinear and H is symmetric"),
            equal("(1/2*(xx + 2*xv + vv) + (bx + bv)) - (1/2*xx + bx) - (xv + bv)", "1/2*vv"),
        ]),
        Case("H = diag(L) - CC^T", real=[*flat(C), *v, *L], steps=[
            cite("a matrix is positive semidefinite exactly if it is CC^T"),
            at_most(f"1/2*({form(H, v)})", bound, f"1/2*({square_norm([dot(column, v) for column in transposed(C)])})"),
        ]),
    ])
    violation, count = Fraction(0), 0
    for A in symmetric_integers(run, run.count(20, 200), sizes=(1, 2)):
        size = len(A)
        for bounds in itertools.product((1, 2), repeat=size):
            H_exact = [[factor * bounds[i] * (i == j) - sum(A[i][k] * A[j][k] for k in range(size)) for j in range(size)]
                for i in range(size)]
            for u in itertools.product((-1, 0, 1), repeat=size):
                count += 1
                violation = max(violation, (quadratic_form(H_exact, u) - sum(c * e * e for c, e in zip(bounds, u, strict=True))) / 2)
    return conclude(
        proof, violation, summary="½ΣL_iv_i² - ½vᵀHv is a sum of squares", budget={"instances": count},
        covers="quadratics of any size, by bilinearity; with all coordinates written out at d = 3",
    )


def norm_order(run: Run) -> Evidence:
    """S1: order of the Euclidean, spectral and box suprema.  Twin: the factor min(m, n) lowered by one."""
    lowered = int(run.twin)
    proof = prove([
        Case("spectral ball in the box", real=["x"], nonnegative=["rest", "s"], definitions={"s": "1 - (x**2 + rest)"}, steps=[
            cite("the columns of a matrix of 2-norm at most 1 have 2-norm at most 1; rest sums the squares of the column's other entries"),
            at_most("x**2", "1", "s + rest"),
        ]),
        Case("and in a Frobenius ball: the first column", nonnegative=["s"], definitions={"column": "1 - s"}, steps=[
            at_most("column", f"1 - {lowered}", "s" + (" - 1" if run.twin else "")),
        ]),
        Case("one more column", nonnegative=["s", "q"], real=["k"],
             definitions={"column": "1 - s", "so_far": f"k - {lowered} - q"}, steps=[
            at_most("so_far + column", f"(k + 1) - {lowered}", "q + s"),
            cite("likewise with the rows: ‖D‖_F² is at most n and at most m"),
        ]),
        *cauchy_schwarz(),
        Case("Frobenius ball in the spectral ball: one more row", nonnegative=["F", "row", "X", "s", "q"], steps=[
            cite("(row · x)² = |row|²|x|² - s by the last cases; the rows so far have ‖Dx‖² = F|x|² - q"),
            at_most("(F*X - q) + (row*X - s)", "(F + row)*X", "q + s"),
            cite("a supremum over a subset is at most that over the set; over the Frobenius ball it is max(0, lambda_max)"),
        ]),
    ])
    m = n = 2
    r = min(m, n) - run.twin
    violation, count = Fraction(0), 0
    rng = run.rng()
    for k in range(run.count(50, 2000)):
        H = [Fraction(int(h)) for h in (rng.integers(-2, 4, size=4) if k else np.ones(4))]  # diagonal on the entries of D
        cosine, sine = Fraction(1 - k * k, 1 + k * k), Fraction(2 * k, 1 + k * k)
        value = cosine**2 * (H[0] + H[3]) + sine**2 * (H[1] + H[2])  # at a rotation
        top = max(Fraction(0), *H)
        violation = max(violation, value - r * top, value - sum(max(Fraction(0), h) for h in H))
        count += 1
    return conclude(
        proof, violation, summary="λ_max ≤ L_S ≤ min(m,n) λ_max and L_S ≤ L_∞ by inclusion of balls", budget={"instances": count},
        covers="every size, by induction over rows and columns; the instances are 2×2",
    )


def bilinear_norm(H: Matrix) -> Fraction:
    """Return ‖H‖_{∞→1} = max ‖Hs‖_1 over sign vectors (convex, so corners suffice)."""
    signs = itertools.product((1, -1), repeat=len(H))
    return max(sum(abs(sum(h * e for h, e in zip(row, s, strict=True))) for row in H) for s in signs)


def bilinear_gap(H: list[list[float]]) -> float:
    """Return ‖H‖_{∞→1} - sup_{‖u‖_∞≤1} uᵀHu."""
    return float(bilinear_norm(fractions(H)) - box_maximum(fractions(H)))


def bilinear(run: Run) -> Evidence:
    """S1: the quadratic supremum is the operator norm.  Twin: for H ≽ 0."""
    d = 2
    C, x, y = names("c", d, d), names("x", d), names("y", d)
    gram = times(C, transposed(C))
    shift = "0" if run.twin else "e"  # every symmetric matrix is CC^T - e I
    H = [[f"{gram[i][j]} - {int(i == j)}*{shift}" for j in range(d)] for i in range(d)]
    difference = [f"({p} - {q})" for p, q in zip(x, y, strict=True)]
    squares = f"1/2*({square_norm([dot(column, difference) for column in transposed(C)])}) - 1/2*{shift}*({square_norm(difference)})"
    crossed = dot(y, [dot(row, x) for row in H])
    proof = prove([
        Case("the bilinear form is at most the mean of two quadratic ones", real=[*flat(C), *x, *y], nonnegative=["e"], steps=[
            at_most(crossed, f"1/2*({form(H, x)}) + 1/2*({form(H, y)})", squares),
            cite("the operator norm is the supremum of y^T H x over two boxes; x = y gives the other inequality"),
        ]),
    ])
    worst, example, count = Fraction(0), None, 0
    for matrix in symmetric_integers(run, run.count(60, 400)):
        if run.twin and not semidefinite(matrix):
            continue
        count += 1
        gap = bilinear_norm(matrix) - box_maximum(matrix)
        if gap > 0 and (example is None or (len(matrix), abs(matrix[0][0])) < (len(example), abs(example[0][0]))):
            worst, example = gap, matrix
    counterexample = None if example is None else Counterexample(
        "S1-bilinear", "The box smoothness sup uᵀHu is the operator norm ‖H‖_{∞→1}. False for H = -1: uᵀHu is at most 0, |H| is 1.",
        "paper_checks.smoothness_bounds:bilinear_gap", {"H": [[float(h) for h in row] for row in example]}, margin=0.5,
    )
    return conclude(
        proof, worst, summary="‖H‖_{∞→1} against sup uᵀHu", covers="d ≤ 3 on the instances, the identity at d = 2",
        budget={"instances": count}, counterexample=counterexample,
    )


def trace_below(run: Run) -> Evidence:
    """S4: tr H ≤ L_∞(H).  Twin: 2 tr H."""
    factor = 2 if run.twin else 1
    slack = {"a": "m - (F + 2*C + h + G)", "b": "m - (F - 2*C + h + G)"}
    proof = prove([
        Case("one coordinate less", real=["F", "C", "G", "h", "m"], nonnegative=[*slack], definitions=slack, steps=[
            cite("m = L_∞ is at least sᵀHs for sign vectors s. Hypothesis: form over the coordinates that are left + G <= m for all their "
                 "signs, G the diagonal of the others; the next coordinate, ±1, adds h ± 2C, F is the form without it"),
            equal("1/2*((F + 2*C + h + G) + (F - 2*C + h + G))", "F + (G + h)"),
            at_most("F + (G + h)", "m", "(a + b)/2"),
        ]),
        Case("none left: F = 0, G = tr H", real=["G", "m"], nonnegative=["e"], definitions={"e": "m - (0 + G)"}, steps=[
            at_most(f"{factor}*G", "m", "e" + (" - G" if run.twin else "")),
        ]),
    ])
    return chain(run, proof, "the mean of sᵀHs over sign vectors is tr H",
        lambda H: factor * sum(H[i][i] for i in range(len(H))) - box_maximum(H),
                 "every d, by induction over the coordinates")


def chain(run: Run, proof: Proof, summary: str, violation: Any, covers: str) -> Evidence:
    """Evaluate a statement about symmetric matrices on exact instances."""
    values = [violation(H) for H in symmetric_integers(run, run.count(40, 400))]
    return conclude(proof, max(values), summary=summary, covers=covers, budget={"instances": len(values)})


def weak_duality(run: Run) -> Evidence:
    """S4: L_∞ ≤ 1ᵀy where diag(y) ≽ H, y ≥ 0.  Twin: without y ≥ 0."""
    signed = [] if run.twin else ["y"]
    proof = prove([
        Case("one more coordinate", real=["u", "y", "Y"], nonnegative=["e", "s", *signed], definitions={
            "e": "1 - u**2", "V": "Y - s",
        }, steps=[
            cite("V = Σ y_i u_i² and Y = Σ y_i so far"),
            at_most("V + y*u**2", "Y + y", "s + y*e"),
        ]),
        Case("weak duality", real=["Y"], nonnegative=["s", "w"], definitions={"V": "Y - s", "value": "V - w"}, steps=[
            cite("uᵀHu = V - w, w = uᵀ(diag(y) - H)u >= 0"), at_most("value", "Y", "s + w"),
        ]),
    ])
    levels = range(-2, 5) if run.twin else range(0, 5)

    def violation(H: Matrix) -> Fraction:
        feasible = [y for y in itertools.product(levels, repeat=len(H))
            if semidefinite([[y[i] * (i == j) - H[i][j] for j in range(len(H))] for i in range(len(H))])]
        return box_maximum(H) - min(map(sum, feasible)) if feasible else Fraction(-1)

    values = [violation(H) for H in symmetric_integers(run, run.count(5, 60), sizes=(1, 2))]
    return conclude(proof, max(values), summary="1ᵀy - uᵀHu = Σ y_i(1-u_i²) + uᵀ(diag(y)-H)u", budget={"instances": len(values)},
                    covers="every d, by induction over the coordinates")


def entries_above(run: Run) -> Evidence:
    """S4: L_∞ ≤ Σ|H_ij|.  Twin: ≤ Σ H_ij."""
    cases = []
    for sign, other in (("", "-"), ("-", "+")):
        because = f"p*(a + b)/2 + p*(u {other} v)**2/2" + ("" if not (run.twin and sign) else " - 2*p")
        share = "-p" if run.twin and sign else "p"
        cases.append(Case(f"H_ij = {sign or '+'}p", nonnegative=["p", "a", "b"], real=["u", "v"],
            definitions={"a": "1 - u**2", "b": "1 - v**2"}, steps=[
            at_most(f"{sign}p*u*v", share, because),
        ]))
    size = (lambda x: x) if run.twin else abs
    return chain(run, prove(cases), "H_ij u_i u_j ≤ |H_ij| entry by entry",
        lambda H: box_maximum(H) - sum(size(x) for row in H for x in row), "any d")


def euclidean_above(run: Run) -> Evidence:
    """S4: L_∞ ≤ d max(0, λ_max).  Twin: (d-1) in place of d."""
    proof = prove([
        Case("one more coordinate", real=["u", "k"], nonnegative=["e", "s"], definitions={"e": "1 - u**2", "U": "k - s"}, steps=[
            cite("U = Σ u_i² over k coordinates"), at_most("U + u**2", "k + 1", "s + e"),
        ]),
        Case("t = max(0, λ_max)", real=["d"], nonnegative=["t", "s", "w"], definitions={"U": "d - s", "value": "t*U - w"}, steps=[
            cite("uᵀHu = tU - w, w = uᵀ(tI - H)u >= 0"),
            at_most("value", f"(d - {int(run.twin)})*t", "t*s + w" + (" - t" if run.twin else "")),
        ]),
    ])

    def violation(H: Matrix) -> Fraction:
        top = next(t for t in range(50) if semidefinite([[t * (i == j) - H[i][j] for j in range(len(H))]
            for i in range(len(H))]))  # ≥ λ_max
        return box_maximum(H) - (len(H) - run.twin) * top

    return chain(run, proof, "d t - uᵀHu = uᵀ(tI-H)u + t Σ(1-u_i²)", violation, "every d, by induction over the coordinates")


def corners(run: Run) -> Evidence:
    """S4: sign vectors attain L_∞ where H_ii ≥ 0.  Twin: for every H."""
    return _corners(run, any_diagonal=run.twin)


def corners_always(run: Run) -> Evidence:
    """S4: sign vectors attain L_∞ for every symmetric H.  Twin: where H_ii ≥ 0."""
    return _corners(run, any_diagonal=not run.twin)


def interior_excess(H: list[list[float]], u: list[float]) -> float:
    """Return uᵀHu at a point of the box minus the best sign vector's value."""
    if max(map(abs, u)) > 1:
        raise ValueError("u lies outside the box")
    A = fractions(H)
    return float(quadratic_form(A, [Fraction(x) for x in u]) - corner_maximum(A))


def _corners(run: Run, *, any_diagonal: bool) -> Evidence:
    proof = prove([Case("one coordinate x", real=["h", "C", "F", "x"] if any_diagonal else ["C", "F", "x"],
        nonnegative=["a"] if any_diagonal else ["a", "h"], definitions={"a": "1 - x**2"}, steps=[
        cite("in one coordinate the form is h x² + 2C x + F, h its diagonal entry, C and F from the others"),
        at_most("h*x**2 + 2*C*x + F", "(1 + x)/2*(h + 2*C + F) + (1 - x)/2*(h - 2*C + F)", "h*a"),
        cite("a mean of the values at the two ends is at most the larger of them; move one coordinate after the other to an end"),
    ])])
    worst, data, count = Fraction(0), {}, 0
    indefinite = [fractions([[1, 0], [0, -1]])]
    for A in itertools.chain(indefinite, symmetric_integers(run, run.count(40, 400))):
        if not any_diagonal and min(A[i][i] for i in range(len(A))) < 0:
            continue
        count += 1
        excess = box_maximum(A) - corner_maximum(A)
        if excess > worst:
            worst = excess
        if excess > 0 and not data:
            data = {"H": [[float(x) for x in row] for row in A], "u": [1.0] + [0.0] * (len(A) - 1)}
    return conclude(
        proof, worst, summary="box supremum against the best sign vector",
        covers="every d, one coordinate after the other",
        budget={"instances": count},
        counterexample=Counterexample(
            "S4-signs", "Sign vectors attain the box smoothness of every H. False for diag(1,-1): all four give 0, u = (1, 0) gives 1.",
            "paper_checks.smoothness_bounds:interior_excess", data, margin=0.9,
        ) if data else None,
    )


def dual_bracket(H: Matrix, rng: np.random.Generator) -> tuple[Fraction, Fraction, dict[str, Any]]:
    """Return exact bounds of ``min{1ᵀy : diag(y) ≽ H, y ≥ 0}`` from below and above, and the certificate of the upper one."""
    A = np.array([[float(x) for x in row] for row in H])
    d = len(A)
    V = rng.standard_normal((d, d + 1))
    for _ in range(2000):  # coordinate ascent of <H, VVᵀ> over unit rows
        for i in range(d):
            pull = A[i] @ V - A[i, i] * V[i]
            V[i] = pull / np.linalg.norm(pull) if np.linalg.norm(pull) > 1e-12 else V[i] / np.linalg.norm(V[i])
    y = np.linalg.norm(A @ V, axis=1)
    y = y + max(0.0, -np.linalg.eigvalsh(np.diag(y) - A)[0]) + 1e-9
    multipliers = [Fraction(x).limit_denominator(10**12) for x in y]
    certificate = psd_certificate([[multipliers[i] * (i == j) - H[i][j] for j in range(d)] for i in range(d)], name="diag(y) - H")
    if certificate is None:
        raise ArithmeticError("dual_bracket: the rounded y is not feasible")
    rows = [[Fraction(x).limit_denominator(10**6) for x in row] for row in V.tolist()]
    X = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    lower = sum(H[i][j] * X[i][j] for i in range(d) for j in range(d)) / max(X[i][i] for i in range(d))
    return lower, sum(multipliers, Fraction(0)), certificate


def nesterov(run: Run) -> Evidence:
    """S4: for H ≽ 0 the dual minimum is at most (π/2) L_∞.  Twin: at most 1.1 L_∞."""
    factor = Fraction(11, 10) if run.twin else Fraction(15707, 10000)  # 1.5707 < π/2
    rng = run.rng()
    triangle = fractions([[2, -1, -1], [-1, 2, -1], [-1, -1, 2]])  # unit vectors at 120°: 9 against 8
    ratios, violated, certificates = [], False, []
    draws = [rng.integers(-3, 4, size=(d, max(1, d - 1))) for d in (2, 3, 4) for _ in range(run.count(2, 20))]
    for H in (triangle, *(fractions([[int(x) for x in row] for row in A @ A.T]) for A in draws if A.any())):
        lower, upper, certificate = dual_bracket(H, rng)
        value = corner_maximum(H)
        violated |= lower > factor * value
        ratios.append((float(lower / value), float(upper / value)))
        certificates.append(certificate)
    largest = max(upper for _, upper in ratios)
    standing = largest <= float(factor)
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED if standing else Verdict.INCONCLUSIVE, "exact rationals",
        f"dual minimum over L_∞ on {len(ratios)} instances: at most {largest:.4f}; claimed {float(factor):.4f} (π/2 = 1.5708)",
        covers="instances with d ≤ 4; the theorem is Nesterov's (1998)",
        numbers={"largest_ratio": largest, "certain_ratio": max(low for low, _ in ratios)},
        margin=abs(float(factor) - largest), budget={"instances": len(ratios)}, seed=run.seed, certificates=certificates[:4] if standing
        else [],
    )


def chain_attack() -> SearchProblem:
    """Return the search for a matrix with H_ii ≥ 0 (its lower triangle counts) that breaks the chain tr H ≤ L_∞ ≤ min(Σ|H_ij|, d λ_max)."""
    signs = tensor([(1, *s) for s in itertools.product((1, -1), repeat=2)])

    def violation(x: Tensor) -> Tensor:
        diagonal = x.diagonal(dim1=-2, dim2=-1).abs()
        H = torch.tril(x, -1) + torch.tril(x, -1).mT + torch.diag_embed(diagonal)
        size = H.abs().sum(dim=(-2, -1)).clamp_min(1e-30)
        value = ((signs @ H) * signs).sum(-1).amax(-1)
        euclid = 3 * torch.linalg.eigvalsh(H)[..., -1].clamp_min(0)
        return torch.stack([diagonal.sum(-1) - value, value - H.abs().sum(dim=(-2, -1)), value - euclid]).amax(0) / size

    return SearchProblem((3, 3), violation, name="S4-trace", margin=1e-6, replay="paper_checks.smoothness_bounds:chain_violation",
                         statement="tr H ≤ L_∞ ≤ min(Σ|H_ij|, d λ_max) where H_ii ≥ 0.")


def chain_violation(x: list[list[float]]) -> float:
    """Recompute the violation of `chain_attack` at one point."""
    return chain_attack().value(tensor(x))
