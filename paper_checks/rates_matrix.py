"""The rate for matrices: R3, by the duality of the spectral and the nuclear norm."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from deva_theory.certify import Case, at_most, cite, prove
from deva_theory.claims.model import Evidence, Run
from deva_theory.linalg import polar_factor
from paper_checks.arrays import tensor
from paper_checks.rates_descent import summed
from paper_checks.rates_noise import walk
from paper_checks.verdicts import ROUNDING, conclude

SUMMED = "every T by induction on the sum; cited: <A, D> ≤ ‖A‖_* ‖D‖ (von Neumann), the triangle inequality, E of the descent lemma"


def inner_cases(factor: int) -> list[Case]:
    """Return the steps of R3 for one direction: what -<∇f, D> is at most."""
    return [
        Case("Γ = 1: D = msign(Ĝ)", nonnegative=["noise", "true", "estimate", "dual", "triangle"], real=["c"],
             definitions={"dual": "noise - c", "triangle": "estimate - (true - noise)"}, steps=[
                 cite("the assumption dual ≥ 0: <A, D> ≤ ‖A‖_* ‖D‖ (von Neumann) at A = Ĝ-∇f, c = <A, D>, noise = ‖A‖_*, ‖D‖ ≤ 1"),
                 cite("the assumption triangle ≥ 0: ‖Ĝ‖_* ≥ ‖∇f‖_* - ‖Ĝ-∇f‖_*, the triangle inequality"),
                 cite("<Ĝ, msign(Ĝ)> = ‖Ĝ‖_* (M8), so that <∇f, D> = ‖Ĝ‖_* - c"),
                 at_most("-(estimate - c)", f"-true + {factor}*noise", "dual + triangle" + (" - noise" if factor == 1 else "")),
             ]),
        Case("any D", nonnegative=["size", "noise", "dual"], real=["c", "pairing"], definitions={"dual": "size*noise - c"}, steps=[
            cite("the assumption dual ≥ 0: <A, D> ≤ ‖A‖_* ‖D‖ (von Neumann) at A = Ĝ-∇f, c = <A, D>, noise = ‖A‖_*, size = ‖D‖"),
            cite("<∇f, D> = <Ĝ, D> - c"),
            at_most("-(pairing - c)", f"-pairing + {Fraction(factor, 2)}*size*noise", "dual" + (" - size*noise/2" if factor == 1 else "")),
        ]),
    ]


def matrix_instances(run: Run) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return pairs of a gradient and an estimate, some with turned signs."""
    pairs = [(tensor([[1.0]]), tensor([[-0.01]])), (tensor([[2.0, 0.0], [0.0, 1.0]]), tensor([[2.0, 0.0], [0.0, -0.01]]))]
    for k in range(run.count(40, 400)):
        shape = ((2, 2), (2, 3), (3, 2), (3, 3))[k % 4]
        G = torch.randn(*shape, generator=run.generator(k), dtype=torch.float64)
        noise = torch.randn(*shape, generator=run.generator(k + 10_000), dtype=torch.float64)
        pairs.append((G, G + 10.0 ** (k % 5 - 2) * noise))
    return pairs


def nuclear(X: torch.Tensor) -> float:
    """Return the nuclear norm."""
    return float(torch.linalg.svdvals(X).sum())


def matrix_rate(run: Run) -> Evidence:
    """R3, Γ = 1: avg E‖∇f‖_* ≤ Δ/(ηT) + ηL_S/2 + 2 avg E‖Ĝ-∇f‖_*.  Twin: 1 in place of 2."""
    factor = 1 if run.twin else 2
    proof = prove([inner_cases(factor)[0], *summed(Fraction(1, 2), errors=True)])
    pairs = matrix_instances(run)
    violation = max((nuclear(G) - factor * nuclear(E - G) - float((G * polar_factor(E)).sum())) / nuclear(G) for G, E in pairs)
    run_out = walk(400, 1, 2.0, 40, unbiased=False)  # 1×1, turned signs half of the time
    assembled = run_out.norm - run_out.progress - run_out.smooth - factor * run_out.absolute
    return conclude(
        proof, max(violation, assembled), margin=ROUNDING, summary="<∇f, msign(Ĝ)> ≥ ‖∇f‖_* - 2‖Ĝ-∇f‖_*, then the telescoping sum",
        covers=f"every shape; {SUMMED}", budget={"instances": len(pairs), "processes": 1},
    )


def matrix_direction(run: Run) -> Evidence:
    """R3, any D: avg E<Ĝ,D> ≤ Δ/(ηT) + (η/2) avg L + avg E[‖D‖ ‖Ĝ-∇f‖_*].  Twin: half the noise term."""
    return _directions(run, singular=False, covers=f"every shape and D; {SUMMED}")


def matrix_weighted(run: Run) -> Evidence:
    """R3, D = U diag(γ) Vᵀ in the singular basis of Ĝ: avg E Σγ_iσ_i(Ĝ) ≤ … + avg E[max γ ‖Ĝ-∇f‖_*].  Twin: half the noise term."""
    return _directions(run, singular=True, covers=f"every shape; the S∞ rule's D is not of this form; {SUMMED}")


def _directions(run: Run, *, singular: bool, covers: str) -> Evidence:
    factor = 1 if run.twin else 2
    proof = prove([inner_cases(factor)[1], *summed(Fraction(1, 2), errors=True)])
    violation, count = -math.inf, 0
    for G, E in matrix_instances(run):
        U, sigma, Vt = torch.linalg.svd(E, full_matrices=False)
        gamma = torch.rand(len(Vt), generator=run.generator(count), dtype=torch.float64)
        D = (U * gamma) @ Vt if singular else torch.randn(E.shape, generator=run.generator(count + 777), dtype=torch.float64)
        first = (gamma.max(), (gamma * sigma).sum()) if singular else (torch.linalg.matrix_norm(D, 2), (E * D).sum())
        for direction, size, pairing in ((D, *map(float, first)), (polar_factor(E), 1.0, float(sigma.sum()))):
            gap = pairing - float((G * direction).sum()) - factor / 2 * size * nuclear(E - G)
            violation, count = max(violation, gap / (size * nuclear(E - G))), count + 1
    return conclude(
        proof, violation, margin=ROUNDING, summary="<Ĝ,D> - <∇f,D> ≤ ‖D‖ ‖Ĝ-∇f‖_*, then the telescoping sum", covers=covers,
        budget={"instances": count},
    )
