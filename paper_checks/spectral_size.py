"""How long an S∞ step can be: ‖Γ ⊙ O‖ over ‖O‖ ≤ 1, the Schur norm of Γ (SPEC M11)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deva_theory.certify import Case, RationalMatrix, SearchProblem, at_most, cite, equal, psd_certificate, rational_matrix, repair_psd
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.linalg import polar_factor
from deva_theory.rules import deva_spectral
from paper_checks.arrays import tensor
from paper_checks.inductions import cauchy_schwarz
from paper_checks.spectral import blocks
from paper_checks.verdicts import proved

TIGHT = 1e-6
"""Relative: how near the two ends of a certified interval must be. The iteration reaches 1e-9, rationals are rounded to 2⁻⁴⁰."""


# ---- bounds that hold for every Γ ----------------------------------------------------------------


def separable(run: Run) -> Evidence:
    """‖(abᵀ) ⊙ O‖ ≤ ‖a‖_∞ ‖b‖_∞ for ‖O‖ ≤ 1. Control: half of that."""
    factor = "1/2*" if run.twin else ""
    case = Case(
        "one coordinate", nonnegative=("A", "u", "w"), real=("a", "x", "o", "b"), definitions={"u": "A - a", "w": "A + a"},
        steps=[
            equal("(a*b)*o", "a*o*b"),
            cite("(abᵀ) ⊙ O = diag(a) O diag(b), and xᵀ diag(a) O diag(b) y ≤ ‖a ⊙ x‖ ‖O‖ ‖b ⊙ y‖"),
            at_most("(a*x)**2", f"{factor}(A*x)**2", because="u*w*x**2"),
            cite("summed over the coordinates: ‖a ⊙ x‖ ≤ ‖a‖_∞ ‖x‖, and the same for b, y"),
        ],
    )
    found = []
    for k, (m, n) in enumerate([(2, 2), (3, 2), (2, 3)]):
        rng = run.rng(k)
        a, b = ([Fraction(int(x), 3) for x in rng.integers(-3, 4, size=d)] for d in (m, n))
        O = RationalMatrix(rational_matrix((1 - 1e-9) * polar_factor(torch.from_numpy(rng.standard_normal((m, n)))), 40))
        bound = max(map(abs, a)) * max(map(abs, b)) / (2 if run.twin else 1)
        scaled = RationalMatrix.diagonal(a) @ O @ RationalMatrix.diagonal(b)
        found.append(_contraction(O, 1, "‖O‖ ≤ 1"))
        found.append(_contraction(scaled, bound, "‖diag(a) O diag(b)‖ ≤ ‖a‖_∞ ‖b‖_∞"))
    return proved(
        [case], "‖diag(a) O diag(b)‖ ≤ ‖a‖_∞ ‖O‖ ‖b‖_∞, and three exact instances", "every size; Cauchy-Schwarz cited",
        certificates=None if None in found else [c for c in found if c],
    )


def _contraction(A: RationalMatrix, bound: Fraction | int, name: str) -> dict[str, Any] | None:
    """Certify ‖A‖ ≤ bound."""
    m, n = A.shape
    return psd_certificate(blocks(bound * RationalMatrix.identity(m), A, bound * RationalMatrix.identity(n)), name=name)


def largest_entry(run: Run) -> Evidence:
    """Max|Γ| ≤ ‖Γ‖_Schur. Control: the largest row norm is a lower bound."""
    bound = "G**2 + rest" if run.twin else "G**2"  # rest: squares of the row's other entries
    case = Case("O = e_i e_jᵀ", real=("G", "x", "other"), positive=("rest",), nonnegative=("R",), steps=[
        cite("(O x)_i = x_j and the other coordinates are 0; R sums the squares of the other entries of x, so that ‖O x‖ ≤ ‖x‖"),
        at_most("(1*x)**2", "x**2 + R", because="R"),
        cite("‖Γ ⊙ O‖ ≥ |e_iᵀ (Γ ⊙ O) e_j|, and Γ ⊙ O has the entry G = Γ_ij at (i, j), 0 elsewhere:"),
        equal("other*0", "0"), at_most(bound, "(G*1)**2", because="0"),
    ])
    return proved([case], "O = e_i e_jᵀ is a contraction with ‖Γ ⊙ O‖ = |Γ_ij|", "every size and every entry")


def row_norm(run: Run) -> Evidence:
    """‖Γ‖_Schur ≤ largest row 2-norm, and by transposition column 2-norm. Control: the largest entry."""
    # Control: h compares R² with one entry of the row instead of the whole row, rest are the squares of the others.
    row = "R**2 - h + rest" if run.twin else "R**2 - h"
    cases = [
        *cauchy_schwarz(),
        Case("a column of Γ ⊙ O against u: c = Σ_i (u_i Γ_ik) O_ik, size = Σ_i (u_i Γ_ik)²", nonnegative=("size", "s", "w"),
             definitions={"column": "1 - w", "square": "size*column - s"}, steps=[
            cite("c² = square by the cases before; the columns of a contraction O have norm at most 1"),
            at_most("square", "size", because="s + size*w"),
        ]),
        Case("one more column: P = Σ v_k c_k, Q = Σ v_k², S = Σ c_k² so far", positive=("R",), nonnegative=("Q", "S", "h"), real=("v", "c"),
             definitions={"P": "(R**2*Q + S - h)/(2*R)"}, steps=[
            at_most("2*R*(P + v*c)", "R**2*(Q + v**2) + S + c**2", because="h + (R*v - c)**2"),
        ]),
        Case("one more row: U = Σ u_i², M = Σ u_i² Σ_k Γ_ik² so far", nonnegative=("U", "h", "s"), positive=("rest",), real=("R", "u"),
             definitions={"row": row, "M": "R**2*U - s"}, steps=[
            cite("R is the largest row norm, row the square of this one's; summed by columns, M is the sum of the sizes"),
            at_most("M + u**2*row", "R**2*(U + u**2)", because="s + u**2*h"),
        ]),
        Case("unit u and v", positive=("R",), nonnegative=("h", "s"),
             definitions={"S": "R**2 - s", "P": "(R**2*1 + S - h)/(2*R)"}, steps=[at_most("P", "R", because="(h + s)/(2*R)")]),
    ]
    return proved(
        cases, "2R uᵀ(Γ ⊙ O)v ≤ R²‖v‖² + R²‖u‖² with R the largest row norm; Oᵀ gives the columns",
        "every size, by induction over rows and columns; Γ ≠ 0, for Γ = 0 both sides are 0",
    )


# ---- the exact value -----------------------------------------------------------------------------


class Bounds(NamedTuple):
    """``lower ≤ ‖Γ‖_Schur ≤ upper``, exactly, with certificates."""

    lower: Fraction
    upper: Fraction
    certificates: list[dict[str, Any]]


def schur_bounds(gamma: NDArray[np.float64], iterations: int = 4000) -> Bounds:
    """Certify the Schur norm of Γ ≥ 0 from both sides.

    Upper end: ``[[P, Γ], [Γᵀ, Q]] ≽ 0`` gives ``‖Γ‖_Schur ≤ max(P_ii, Q_jj)`` (γ_2(Γ) is the least such bound, by Haagerup's theorem
    equal to ‖Γ‖_Schur). Lower end: unit u, v and a contraction O with ``uᵀ(Γ ⊙ O)v``. Both come from maximising the concave
    ``‖diag(√p) Γ diag(√q)‖_*`` over probability vectors p, q by multiplicative updates; with its SVD WΣZᵀ, ``O = WZᵀ``,
    ``P = diag(√p)⁻¹ WΣWᵀ diag(√p)⁻¹``.
    """
    m, n = gamma.shape
    p, q = np.full(m, 1 / m), np.full(n, 1 / n)
    best = (math.inf, p, q)
    for _ in range(iterations):
        W, s, Zt = np.linalg.svd(np.sqrt(p)[:, None] * gamma * np.sqrt(q), full_matrices=False)
        a, b = (W * W) @ s, (Zt.T**2) @ s
        bound = math.sqrt((a / p).max() * (b / q).max())
        if bound < best[0]:
            best = (bound, p, q)
        if bound - s.sum() < 1e-9 * bound:
            break
        p, q = np.maximum(a / a.sum(), 1e-13), np.maximum(b / b.sum(), 1e-13)
    _, p, q = best
    W, s, Zt = np.linalg.svd(np.sqrt(p)[:, None] * gamma * np.sqrt(q), full_matrices=False)
    P, Q = (W * s) @ W.T / np.sqrt(np.outer(p, p)), (Zt.T * s) @ Zt / np.sqrt(np.outer(q, q))
    balance = math.sqrt(np.diag(Q).max() / np.diag(P).max())
    block = np.block([[P * balance, gamma], [gamma.T, Q / balance]])
    repaired = repair_psd(block, name="[[P, Γ], [Γᵀ, Q]]")
    if repaired is None:
        raise ArithmeticError("schur_bounds: the block matrix is far from semidefinite")
    upper = max(repaired.matrix[i, i] for i in range(m + n))
    O = RationalMatrix(rational_matrix((1 - 1e-9) * W @ Zt, 40))
    feasible = _contraction(O, 1, "‖O‖ ≤ 1")
    if feasible is None:
        raise ArithmeticError("schur_bounds: O is not a contraction")
    u, v = (rational_matrix(np.sqrt(x)[None], 40)[0] for x in (p, q))
    exact = rational_matrix(gamma)
    value = sum(u[i] * exact[i][j] * O[i, j] * v[j] for i in range(m) for j in range(n))
    square = sum(x * x for x in u) * sum(x * x for x in v)
    lower = Fraction(math.floor(math.sqrt(value * value / square) * (1 - 1e-12) * 2**40), 2**40)
    terms = " + ".join(f"({u[i]})*({exact[i][j]})*({O[i, j]})*({v[j]})" for i in range(m) for j in range(n))
    lengths = [" + ".join(f"({x})**2" for x in w) for w in (u, v)]
    # (uᵀ(Γ ⊙ O)v)² ≥ lower² ‖u‖² ‖v‖², the left side positive before squaring.
    show = [[terms, ">", "0"], [f"({terms})**2", ">=", f"({lower})**2*({lengths[0]})*({lengths[1]})"]]
    assert value > 0 and value * value >= lower * lower * square
    return Bounds(lower, upper, [repaired.certificate, feasible, {"type": "values", "show": show}])


TRIANGLE = np.array([[1.0, 1.0], [0.0, 1.0]])


def _adaptations(run: Run) -> Iterator[NDArray[np.float64]]:
    """Yield the triangle, random Γ, and Γ that the rule makes."""
    yield TRIANGLE
    for k in range(run.count(3, 12)):
        yield rational_floats(run.rng(k).uniform(0.05, 1.0, [(2, 2), (2, 3), (3, 4)][k % 3]))
    count = run.count(2, 8)
    gradients = torch.randn(6, count, 3, 3, generator=run.generator(), dtype=torch.float64)
    rule = deva_spectral(betas=(0.0, 0.9))
    state = rule.init(gradients[0])
    for G in gradients:
        _, state, details = rule.update(G, state, diagnostics=True)
    yield from map(rational_floats, details.variance_adaptation.numpy())


def rational_floats(gamma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to multiples of 2⁻²⁰: short rationals."""
    return np.round(gamma * 2**20) / 2**20


def exact_norm(run: Run) -> Evidence:
    """‖Γ‖_Schur = γ_2(Γ). Control: the largest entry instead of γ_2."""
    certificates: list[dict[str, Any]] = []
    gaps, count = [], 0
    for gamma in _adaptations(run):
        bounds = schur_bounds(gamma)
        claimed = Fraction(float(gamma.max())) if run.twin else bounds.upper
        gaps.append(float((claimed - bounds.lower) / bounds.upper))
        certificates += bounds.certificates
        count += 1
    tight = -TIGHT < min(gaps) and max(gaps) <= TIGHT
    apart = Verdict.REFUTED if min(gaps) <= -TIGHT else Verdict.INCONCLUSIVE
    return Evidence(
        Verdict.CERTIFIED if tight else apart, "semidefinite duality, exact rationals",
        f"both ends within {TIGHT:g}, {count} matrices" if tight else f"claimed minus lower end from {min(gaps):.2g} to {max(gaps):.2g}",
        covers=f"{count} matrices: [[1,1],[0,1]], uniform random ones up to 3×4, Γ of the rule; equality in general is Haagerup's theorem",
        margin=None if tight else -min(gaps), budget={"matrices": count}, seed=run.seed, certificates=certificates if tight else (),
    )


def triangle(run: Run) -> Evidence:
    """‖[[1,1],[0,1]]‖_Schur = 2/√3. Control: 1, its largest entry."""
    bounds = schur_bounds(TRIANGLE)
    square = Fraction(1) if run.twin else Fraction(4, 3)
    inside = bounds.lower**2 <= square <= bounds.upper**2
    values = {"type": "values", "show": [[f"({bounds.lower})**2", "<=", str(square)], [str(square), "<=", f"({bounds.upper})**2"]]}
    narrow = bounds.upper - bounds.lower <= Fraction(TIGHT)
    return Evidence(
        (Verdict.CERTIFIED if narrow else Verdict.INCONCLUSIVE) if inside else Verdict.REFUTED, "semidefinite duality, exact rationals",
        f"in [{float(bounds.lower):.8f}, {float(bounds.upper):.8f}], {'which holds' if inside else 'not'} √({square})",
        numbers={"lower": round(float(bounds.lower), 7), "upper": round(float(bounds.upper), 7)},
        certificates=[*bounds.certificates, values] if inside and narrow else (),
    )


# ---- attacks -------------------------------------------------------------------------------------


def _longest(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x[:, 0] * polar_factor(x[:, 1]), 2)


def row_norm_excesses(x: Tensor) -> Tensor:
    """Return how far ‖Γ ⊙ O‖ exceeds the bound by row and column norms, relative; x stacks Γ and O before msign, for a batch."""
    rows, columns = (torch.linalg.vector_norm(x[:, 0], dim=d).amax(1) for d in (2, 1))
    return _longest(x) / torch.minimum(rows, columns) - 1.0


def row_norm_excess(*, x: Any) -> float:
    """Return how far ‖Γ ⊙ O‖ exceeds the bound by row and column norms, relative; x stacks Γ and O before msign, for one point."""
    return float(row_norm_excesses(tensor(x)[None])[0])


def row_norm_attack() -> SearchProblem:
    """Look for Γ, O with ‖Γ ⊙ O‖ above the smaller of the largest row and column norms."""
    return SearchProblem(
        (2, 3, 3), row_norm_excesses, differentiable=False, name="M11-schur-upper", statement="‖Γ‖_Schur ≤ largest row or column norm.",
        replay="paper_checks.spectral_size:row_norm_excess", margin=1e-9,
    )


def separable_excesses(x: Tensor) -> Tensor:
    """Return how far ‖(abᵀ) ⊙ O‖ exceeds ‖a‖_∞ ‖b‖_∞, relative; x[0] holds a, b, and x[1] O before msign, for a batch."""
    a, b = x[:, 0, 0], x[:, 0, 1]
    long = torch.linalg.matrix_norm(a.unsqueeze(2) * polar_factor(x[:, 1]) * b.unsqueeze(1), 2)
    return long / (a.abs().amax(1) * b.abs().amax(1)) - 1.0


def separable_excess(*, x: Any) -> float:
    """Return how far ‖(abᵀ) ⊙ O‖ exceeds ‖a‖_∞ ‖b‖_∞, relative; x[0] holds a, b, and x[1] O before msign, for one point."""
    return float(separable_excesses(tensor(x)[None])[0])


def separable_attack() -> SearchProblem:
    """Look for a, b, O with ‖(abᵀ) ⊙ O‖ > ‖a‖_∞ ‖b‖_∞."""
    return SearchProblem(
        (2, 3, 3), separable_excesses, differentiable=False, name="M11-separable", statement="‖(abᵀ) ⊙ O‖ ≤ ‖a‖_∞ ‖b‖_∞.",
        replay="paper_checks.spectral_size:separable_excess", margin=1e-9,
    )
