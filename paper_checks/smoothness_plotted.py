"""The sum Σ H_ij Γ_ij that is plotted in place of a smoothness: S3."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deva_theory.certify import Case, at_most, cite, equal, prove
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.smoothness import absolute_weighted_sum, signed_weighted_sum, weighted_box_smoothness
from paper_checks.arrays import tensor
from paper_checks.expressions import dot, flat, form, names, square_norm, symmetric, times, total, transposed
from paper_checks.quadratic_forms import Matrix, fractions, quadratic_form, semidefinite, symmetric_integers
from paper_checks.smoothness_code import brute_box
from paper_checks.verdicts import ROUNDING, conclude

SMOOTHNESS_TABLE = Path(__file__).parent.parent / "figures" / "data" / "trace_quadratic_smoothness.csv"


def hessian(run: Run) -> Evidence:
    """S3: the Hessian of ½ tr(XᵀHX) in vec X is I⊗H.  Twin: H⊗I."""
    m, n = 2, 2
    H, X = symmetric("h", m), names("x", m, n)
    stacked = flat(transposed(X))  # columns one below the other

    def entry(i: int, j: int, matrix: Any, zero: Any) -> Any:
        if run.twin:
            return matrix[i // n][j // n] if i % n == j % n else zero
        return matrix[i % m][j % m] if i // m == j // m else zero

    full = [[entry(i, j, H, "0") for j in range(m * n)] for i in range(m * n)]
    value = total(form(H, column) for column in transposed(X))
    proof = prove([Case("½ vec(X)^T (I⊗H) vec(X)", real=[*flat(H), *stacked], steps=[
        equal(f"1/2*({value})", f"1/2*({form(full, stacked)})"),
        cite("a quadratic form determines its symmetric matrix"),
    ]), Case("any m, one more column x: I⊗H gains a diagonal block H", real=["V", "q"], steps=[
        cite("V the sum over the columns so far, q = xᵀHx; blocks off the diagonal are 0"),
        equal("1/2*(V + q)", "1/2*V + 1/2*q"),
    ])])
    violation, count = Fraction(0), 0
    for A in symmetric_integers(run, run.count(5, 50), sizes=(m,)):

        def f(position: Sequence[int], A: Matrix = A) -> Fraction:
            columns = [[Fraction(position.count(j * m + i)) for i in range(m)] for j in range(n)]
            return sum((quadratic_form(A, column) for column in columns), Fraction(0)) / 2

        for i, j in itertools.product(range(m * n), repeat=2):
            second = f((i, j)) - f((i,)) - f((j,))  # exact for quadratics
            violation, count = max(violation, abs(second - entry(i, j, A, Fraction(0)))), count + 1
    return conclude(
        proof, violation, summary="½ tr(XᵀHX) = ½ vec(X)ᵀ(I⊗H)vec(X)", budget={"second differences": count},
        covers="2×2 written out; any size by one more diagonal block per column",
    )


def sum_against_smoothness(H: list[list[float]], gamma: list[list[float]]) -> float:
    """Return |Σ H_ij Γ_ij - L_Γ(H)|, L_Γ over the box."""
    return float((signed_weighted_sum(tensor(H), tensor(gamma)) - weighted_box_smoothness(tensor(H), tensor(gamma))).abs())


def small_pairs(run: Run) -> Iterator[tuple[list[list[float]], list[list[float]]]]:
    """Yield small H ≽ 0 and square Γ with entries in {0, 1/2, 1, 2}, 1×1 first."""
    for H in symmetric_integers(run, run.count(6, 40), sizes=(1, 2)):
        if not semidefinite(H) or not any(map(any, H)):
            continue
        choices = itertools.product((0.0, 0.5, 1.0, 2.0), repeat=len(H) ** 2)
        for entries in choices:
            yield [[float(h) for h in row] for row in H], [list(entries[i * len(H) : (i + 1) * len(H)]) for i in range(len(H))]


def size_of(data: dict[str, Any]) -> float:
    """Return the sum of the absolute entries of H and Γ: the simplest counter-example has the least."""
    return float(sum(np.abs(np.array(value)).sum() for value in data.values()))


def plotted_equals(run: Run) -> Evidence:
    """S3: the plotted signed sum is the weighted smoothness.  Twin: Σ_j max_s (γ_j⊙s)ᵀH(γ_j⊙s) is."""
    worst, data, count = 0.0, {}, 0
    for H, gamma in small_pairs(run):
        exact = brute_box(np.array(H), np.array(gamma))
        value = weighted_box_smoothness if run.twin else signed_weighted_sum
        gap = abs(float(value(tensor(H), tensor(gamma))) - exact)
        count += 1
        if worst <= ROUNDING < gap:
            worst, data = gap, {"H": H, "gamma": gamma}
    return Evidence(
        Verdict.REFUTED if worst > ROUNDING else Verdict.SUPPORTED, "exact rationals",
        f"against brute force over the corners of I⊗H: {count} pairs, first gap {worst:.6g}"
        + (f" at H = {data['H']}, Γ = {data['gamma']}" if data else ""),
        covers="H ≽ 0 up to 2×2", numbers={"gap": worst}, margin=abs(worst - ROUNDING), budget={"instances": count},
        counterexample=Counterexample(
            "S3-equals", "The plotted Σ_ij H_ij Γ_ij is the Γ-weighted smoothness. False at 1×1: it is linear in Γ, L_Γ = Γ²H.",
            "paper_checks.smoothness_plotted:sum_against_smoothness", data, margin=0.1,
        ) if data else None,
    )


def minus_signed_sum(H: list[list[float]], gamma: list[list[float]]) -> float:
    """Return -Σ H_ij Γ_ij."""
    return -float(signed_weighted_sum(tensor(H), tensor(gamma)))


def plotted_sign(run: Run) -> Evidence:
    """S3: the signed sum is nonnegative for H ≽ 0 and Γ ≥ 0.  Twin: for Γ ≽ 0."""
    d = 2
    C, E, G = names("c", d, d), names("e", d, d), symmetric("g", d)
    gram = times(C, transposed(C))
    weights = times(E, transposed(E)) if run.twin else G
    pairing = total(f"({gram[i][j]})*({weights[i][j]})" for i in range(d) for j in range(d))
    # tr(CC^T G) = Σ_k c_k^T G c_k over the columns of C
    because = total(
        square_norm([dot(column, e) for e in transposed(E)]) if run.twin else form(G, column) for column in transposed(C)
    )
    proof = prove([Case("trace of a product", real=[*flat(C), *flat(E)], nonnegative=sorted({*flat(G)}),
        steps=[at_most("0", pairing, because)])])
    worst, data, count = 0.0, {}, 0
    for H, gamma in small_pairs(run):
        square = fractions(gamma)
        if run.twin and not (square == [list(row) for row in zip(*square, strict=True)] and semidefinite(square)):
            continue
        violation, trial, count = minus_signed_sum(H, gamma), {"H": H, "gamma": gamma}, count + 1
        worst = max(worst, violation)
        if violation >= 1.0 and (not data or size_of(trial) < size_of(data)):
            data = trial
    return conclude(
        proof, worst, summary="-Σ H_ijΓ_ij", covers="the identity at 2×2, Γ symmetric in it", budget={"instances": count},
        counterexample=Counterexample(
            "S3-signed",
            "The plotted Σ_ij H_ij Γ_ij is nonnegative for H ≽ 0, Γ ≥ 0. False: a Γ off the diagonal sees the negative entries of H only.",
            "paper_checks.smoothness_plotted:minus_signed_sum", data, margin=0.5,
        ) if data else None,
    )


def absolute_shortfall(H: list[list[float]], gamma: list[list[float]]) -> float:
    """Return L_Γ(H) - Σ|H_ij|Γ_ij."""
    return float(weighted_box_smoothness(tensor(H), tensor(gamma)) - absolute_weighted_sum(tensor(H), tensor(gamma)))


def absolute_bound(run: Run) -> Evidence:
    """S3: Σ|H_ij|Γ_ij bounds L_Γ from above where Γ ≤ 1.  Twin: Σ_ik |H_ik| Σ_j Γ_ijΓ_kj does."""
    # One pair of entries in one column: γ_i γ_k H u_i u_k against the bound's share.
    share = "p*g*h" if run.twin else "p*g"
    cases = []
    for sign, other in (("", "-"), ("-", "+")):
        slack = f"p*g*h*((a + b)/2 + (u {other} v)**2/2)" + ("" if run.twin else " + p*g*(1 - h)")
        cases.append(Case(
            f"H_ik = {sign}p", nonnegative=["p", "g", "h", "a", "b"], real=["u", "v"], definitions={"a": "1 - u**2", "b": "1 - v**2"},
            steps=[at_most(f"{sign}p*g*h*u*v", share, slack)],
        ))
    proof = prove(cases)
    worst, data, count = 0.0, {}, 0
    for H, gamma in small_pairs(run):
        if max(map(max, gamma)) > 1.0:
            continue
        A, G = np.array(H), np.array(gamma)
        bound = float((np.abs(A) * (G @ G.T)).sum()) if run.twin else float(absolute_weighted_sum(tensor(H), tensor(gamma)))
        violation, trial, count = brute_box(A, G) - bound, {"H": H, "gamma": gamma}, count + 1
        worst = max(worst, violation)
        if violation >= 1.0 and (not data or size_of(trial) < size_of(data)):
            data = trial
    return conclude(
        proof, worst, margin=ROUNDING, summary="L_Γ minus the sum", covers="the proof, where there is one, pair by pair at any size",
        budget={"instances": count},
        counterexample=Counterexample(
            "S3-absolute",
            "Σ_ij |H_ij| Γ_ij bounds the Γ-weighted smoothness from above for Γ ≤ 1. False: at H = I the sum sees the diagonal of Γ "
            "only, and without adaptation, Γ = 1, it counts the row Hessian once, not once for every column.",
            "paper_checks.smoothness_plotted:absolute_shortfall", data, margin=0.5,
        ) if data else None,
    )


def reversed_order(H: list[list[float]], first: list[list[float]], second: list[list[float]]) -> float:
    """Return by how much the signed sum calls `first` the smaller one while L_Γ calls `second` so: the lesser of both gaps."""
    A, P, Q = tensor(H), tensor(first), tensor(second)
    sums = signed_weighted_sum(A, Q) - signed_weighted_sum(A, P)
    return float(torch.minimum(sums, weighted_box_smoothness(A, P) - weighted_box_smoothness(A, Q)))


def trace_pairs(column: str) -> tuple[int, int]:
    """Return at how many recorded steps of E1 two methods are ordered by L_Γ, and at how many of these `column` orders them otherwise.

    Both are relative to their value at Γ = 1, and L_Γ to that of the method's own geometry.
    """
    table: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in read_table():
        table.setdefault((row["hessian"], row["step"]), {})[row["method"]] = {k: float(v) for k, v in row.items()
            if k not in ("hessian", "method")}
    decided = other = 0
    plain = {"signed_median": "plain_signed", "lower_median": "plain_smoothness"}[column]
    for methods in table.values():
        for p, q in itertools.combinations(methods.values(), 2):
            if p["ratio_upper"] < q["ratio_lower"] or q["ratio_upper"] < p["ratio_lower"]:
                decided += 1
                other += (p[column] / p[plain] < q[column] / q[plain]) != (p["ratio_lower"] < q["ratio_lower"])
    return decided, other


def read_table() -> list[dict[str, str]]:
    """Return the rows of the committed table of E1's smoothness."""
    with SMOOTHNESS_TABLE.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def plotted_ranks(run: Run) -> Evidence:
    """S3: the signed sum ranks adaptations as L_Γ does.  Twin: the lower end of L_Γ's own interval does."""
    H = [[1.0, 0.0], [0.0, 1.0]]
    choices = [[list(map(float, e[:2])), list(map(float, e[2:]))] for e in itertools.product((0, 1), repeat=4)]
    worst, data, count = 0.0, {}, 0
    for first, second in itertools.permutations(choices, 2):
        A, P, Q = tensor(H), tensor(first), tensor(second)
        rank = weighted_box_smoothness if run.twin else signed_weighted_sum
        violation = min(float(rank(A, Q) - rank(A, P)), brute_box(np.array(H), np.array(first)) - brute_box(np.array(H), np.array(second)))
        count += 1
        if violation > worst:
            worst, data = violation, {"H": H, "first": first, "second": second}
    decided, other = trace_pairs("lower_median" if run.twin else "signed_median")
    return Evidence(
        Verdict.REFUTED if worst > ROUNDING else Verdict.SUPPORTED, "search",
        f"pairs of 0-1 Γ at H = I: largest reversal {worst:.4g}; on E1's runs {other} of {decided} decided pairs of methods are reversed",
        covers="2×2, H = I; E1's committed table for the second number", numbers={"reversal": worst, "decided": decided, "reversed": other},
        margin=abs(worst - ROUNDING), budget={"pairs": count},
        counterexample=Counterexample(
            "S3-ranks",
            "The plotted sum ranks adaptations as the weighted smoothness does. False at H = I, where it sees the diagonal of Γ only; "
            "violation: the lesser of the two gaps.",
            "paper_checks.smoothness_plotted:reversed_order", data, margin=0.9,
        ) if data else None,
    )


def nonpositive_shares() -> dict[str, float]:
    """Return the share of (step, seed) at which the signed sum is ≤ 0, by Hessian and method, from E1's committed table."""
    shares: dict[str, list[float]] = {}
    for row in read_table():
        shares.setdefault(f"{row['hessian']} {row['method']}", []).append(float(row["signed_nonpositive"]))
    return {key: sum(values) / len(values) for key, values in shares.items()}


def outside(shares: dict[str, float], low: float, high: float) -> float:
    """Return how far the farthest share lies outside [low, high]."""
    return max(max(low - share, share - high) for share in shares.values())


def plotted_share(run: Run) -> Evidence:
    """S3: on E1 the signed sum is ≤ 0 in 7 to 10% of steps.  Twin: in at most 10%."""
    low, high = (0.0, 0.1) if run.twin else (0.07, 0.1)
    shares = nonpositive_shares()
    violation = outside(shares, low, high)
    return Evidence(
        Verdict.REFUTED if violation > 0 else Verdict.SUPPORTED, "replay",
        f"share of (step, seed) with a sum ≤ 0: {', '.join(f'{k} {v:.2%}' for k, v in shares.items())}",
        covers="steps 10, 20, …, 400 of 100 seeds, the committed table", numbers=shares, margin=abs(violation),
        budget={"cells": len(shares)},
        counterexample=Counterexample(
            "S3-share",
            "On E1 the plotted sum is ≤ 0 in 7 to 10% of the steps. Measured over steps 10 to 400 it is rarer; violation: distance of "
            "the farthest share from that range.",
            "paper_checks.smoothness_plotted:outside", {"shares": shares, "low": low, "high": high}, margin=0.05,
        ) if violation > 0 else None,
    )


def log_axis(run: Run) -> Evidence:
    """S3: a logarithmic axis, which drops values ≤ 0, raises the plotted median.  Twin: lowers it."""
    direction = -1.0 if run.twin else 1.0
    shifts = [math.log(float(row["signed_median_on_log_axis"]) / float(row["signed_median"])) for row in read_table()
        if float(row["signed_nonpositive"]) > 0]
    signed = [direction * shift for shift in shifts]
    return Evidence(
        Verdict.SUPPORTED if shifts and min(signed) > 0 else Verdict.REFUTED, "replay",
        f"in all {len(shifts)} cells with values ≤ 0 the median moves up by a factor {math.exp(min(shifts)):.3f} to "
        f"{math.exp(max(shifts)):.3f}",
        covers="the committed table of E1", numbers={"least": min(shifts), "most": max(shifts)}, margin=min(signed),
        budget={"cells": len(shifts)},
    )
