"""Smoothness weighted by a variance adaptation: S2, where Γ ≤ 1 lowers it and where it does not.

The statements about sets are inclusions: what is proved is the inequality that makes one set part of the other, the supremum over a
part being at most that over the whole.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal, prove, psd_certificate
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import deva_linf, deva_spectral
from deva_theory.smoothness import box_smoothness, spectral_smoothness, weighted_box_smoothness, weighted_spectral_smoothness
from paper_checks.arrays import tensor
from paper_checks.expressions import dot, flat, form, names, square_norm, symmetric, times, total, transposed
from paper_checks.quadratic_forms import Matrix, box_maximum, fractions, quadratic_form, scaled, semidefinite, symmetric_integers
from paper_checks.verdicts import ROUNDING, conclude


def box_inclusion(run: Run) -> Evidence:
    """S2: Γ ≤ 1 never worsens the box smoothness, whatever H.  Twin: Γ ≤ 2."""
    limit = 2 if run.twin else 1
    proof = prove([
        Case("u_i = γ_i t_i stays in the box", real=["g", "t"], nonnegative=["a", "b"],
             definitions={"a": f"{limit**2} - g**2", "b": "1 - t**2"}, steps=[
                 at_most("(g*t)**2", "1", f"a + g**2*b + {1 - limit**2}"),
                 cite("so the weighted box is part of the box, and a supremum over a part is at most that over the whole"),
             ]),
    ])
    violation, count = Fraction(0), 0
    for H in symmetric_integers(run, run.count(8, 50)):
        whole = box_maximum(H)
        for gamma in itertools.product((Fraction(0), Fraction(limit, 2), Fraction(limit)), repeat=len(H)):
            count += 1
            violation = max(violation, box_maximum(scaled(H, gamma)) - whole)
    return conclude(
        proof, violation, summary="|γ_i t_i| ≤ 1 where |γ_i|, |t_i| ≤ 1",
        covers="every symmetric H and every dimension: one coordinate at a time",
        budget={"instances": count},
    )


def box_attack() -> SearchProblem:
    """Return the search for H ≽ 0 and Γ ≤ 1 (a 2×3 point: H = CCᵀ beside Γ) that violates S2-box."""

    def project(x: Tensor) -> Tensor:
        return torch.cat([x[..., :2], x[..., 2:].clamp(0, 1)], -1)

    def violation(x: Tensor) -> Tensor:
        H = x[..., :2] @ x[..., :2].mT
        size = H.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-30)
        return (weighted_box_smoothness(H, x[..., 2:]) - box_smoothness(H)) / size

    return SearchProblem(
        (2, 3), violation, project=project, replay="paper_checks.smoothness_weighted:box_growth", name="S2-box", margin=1e-6,
        statement="Γ ≤ 1 never worsens the box smoothness.",
        data=lambda x: {"H": (x[:, :2] @ x[:, :2].T).tolist(), "gamma": x[:, 2:].tolist()},
    )


def box_growth(H: list[list[float]], gamma: list[list[float]]) -> float:
    """Return L_Γ(H) - n L_∞(H), relative to the trace."""
    A, G = tensor(H), tensor(gamma)
    return float((weighted_box_smoothness(A, G) - G.shape[-1] * box_smoothness(A)) / A.trace().clamp_min(1e-30))


def first_step_growth(H: list[list[float]], gradient: list[float], beta2: float, preset: str) -> float:
    """Return L_Γ(H) - L_∞(H) for the Γ that the ℓ∞ rule makes of its first gradient (β1 = 0, ε = 0)."""
    rule = deva_linf(preset=preset, betas=(0.0, beta2), eps=0.0)
    _, _, made = rule.update(tensor(gradient), rule.init(tensor(gradient)), diagnostics=True)
    assert made is not None
    return float(weighted_box_smoothness(tensor(H), made.variance_adaptation.unsqueeze(-1)) - box_smoothness(tensor(H)))


def above_one(run: Run) -> Evidence:
    """S2: variance adaptation never worsens box smoothness, even where Γ > 1.  Twin: with bias-corrected averages, at the first step."""
    preset = "corrected" if run.twin else "paper"
    worst, data, count = -math.inf, {}, 0
    for H, beta2, size in itertools.product(symmetric_integers(run, run.count(2, 20), sizes=(1, 2)), (0.75, 0.99), (1.0, 2.0)):
        if not semidefinite(H):
            continue
        trial = {"H": [[float(h) for h in row] for row in H], "gradient": [size] * len(H), "beta2": beta2, "preset": preset}
        growth = first_step_growth(**trial)
        count += 1
        if not data or (worst <= ROUNDING < growth):  # the first violation: the smallest matrix
            worst, data = growth, trial
    violated = worst > ROUNDING
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED, "search",
        f"first step of the ℓ∞ rule ({preset}): L_Γ - L_∞ = {worst:.6g} at H = {data['H']}, β2 = {data['beta2']}",
        numbers={"growth": worst}, margin=abs(worst - ROUNDING), budget={"instances": count},
        counterexample=Counterexample(
            "S2-above-one",
            "Variance adaptation never worsens the box smoothness. False where Γ > 1: with averages from zero the first Γ is "
            "(1-β2)^(-1/2), here 2, and L_Γ = Γ²H = 4 against 1.",
            "paper_checks.smoothness_weighted:first_step_growth", data, margin=2.5,
        ) if violated else None,
    )


def spectral_growth(H: list[list[float]], gamma: list[list[float]]) -> float:
    """Return (L_Γ(H) - L_S(H)) / L_S(H) in the spectral geometry: what a direction attains over the closed form."""
    A, G = tensor(H), tensor(gamma)
    plain = spectral_smoothness(A, G.shape[-1])
    return float((weighted_spectral_smoothness(A, G, torch.eye(len(A), dtype=A.dtype)).lower - plain) / plain)


def zero_one_growth(rank: int) -> tuple[float, dict[str, Any], int]:
    """Return the largest growth over 2×2 Γ of zeros and ones up to a rank and H = uuᵀ, the first pair that grows, and their number."""
    patterns = [np.array(entries, dtype=float).reshape(2, 2) for entries in itertools.product((1, 0), repeat=4)]
    gammas = tensor(np.stack([gamma for gamma in patterns if np.linalg.matrix_rank(gamma) <= rank]))
    hessians = tensor([[[a * a, a * b], [a * b, b * b]] for a, b in ((1, 0), (0, 1), (1, 1), (1, 2), (2, 1))]).unsqueeze(1)
    plain = spectral_smoothness(hessians, 2)
    growth = (weighted_spectral_smoothness(hessians, gammas.expand(5, -1, -1, -1), torch.eye(2, dtype=torch.float64)).lower - plain) / plain
    grown = (growth > ROUNDING).nonzero()
    data = {"H": hessians[grown[0, 0], 0].tolist(), "gamma": gammas[grown[0, 1]].tolist()} if len(grown) else {}
    return float(growth.max()), data, growth.numel()


def rational_witness(H: Matrix, gamma: Matrix) -> Fraction:
    """Return the largest <D, HD>, D = Γ⊙O, over the orthogonal 2×2 matrices with entries 0, ±1, ±3/5, ±4/5, exactly."""
    best = Fraction(0)
    for c, s, sign, flip in itertools.product((0, 1, Fraction(3, 5), Fraction(4, 5)), (-1, 1), (-1, 1), (-1, 1)):
        other = s * {0: Fraction(1), 1: Fraction(0), Fraction(3, 5): Fraction(4, 5), Fraction(4, 5): Fraction(3, 5)}[c]
        O = [[c, other], [-flip * other, flip * c]]
        columns = [[gamma[i][j] * O[i][j] * sign for i in range(2)] for j in range(2)]
        best = max(best, sum((quadratic_form(H, column) for column in columns), Fraction(0)))
    return best


def spectral_inclusion(run: Run) -> Evidence:
    """S2: Γ ≤ 1 never worsens the spectral smoothness.  Twin: for separable Γ."""
    worst, data, count = zero_one_growth(rank=1 if run.twin else 2)
    violated = worst > ROUNDING
    exact = rational_witness(fractions(data["H"]), fractions(data["gamma"])) if data else Fraction(0)
    trace = sum(int(row[i]) for i, row in enumerate(data["H"])) if data else 0
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED, "search",
        f"largest growth {worst:.4g} over {count} pairs of a 0-1 Γ{' of rank 1' if run.twin else ''} and H = uuᵀ",
        covers="2×2, Γ of zeros and ones", numbers={"growth": worst}, margin=abs(worst - ROUNDING), budget={"instances": count},
        certificates=[{"type": "values", "show": [[str(exact), ">", str(trace)]]}] if violated else [],
        counterexample=Counterexample(
            "S2-spectral",
            "Γ ≤ 1 never worsens the spectral smoothness. False: Γ of ones but for one 0 is no Schur contraction (violation: relative "
            f"growth). By hand, O the best 3-4-5 rotation or reflection: <Γ⊙O, H(Γ⊙O)> = {exact} > {trace} = tr H.",
            "paper_checks.smoothness_weighted:spectral_growth", data, margin=0.25,
        ) if violated else None,
        steps=[f"H = {data['H']}, Γ = {data['gamma']}, O a 3-4-5 rotation or reflection: {exact} > {trace} = tr H"] if data else [],
    )


def schur_factor(run: Run) -> Evidence:
    """S2: for Γ = [[1,1],[0,1]] the worst growth over all Hessians is exactly 4/3.  Twin: it is 13/10."""
    factor = Fraction(13, 10) if run.twin else Fraction(4, 3)
    half = factor / 2
    gram = [[factor, half, 1, 1], [half, factor, 0, 1], [1, 0, 1, Fraction(1, 2)], [1, 1, Fraction(1, 2), 1]]
    upper = psd_certificate(gram, name="Gram matrix of x_1, x_2, y_1, y_2 with <x_i, y_j> = Γ_ij")
    proof = prove([
        Case("attained", squares={"s": "2", "r": "3"}, positive=["s", "r"], steps=[
            cite("Γ_ij = <x_i, y_j> gives ‖Γ⊙O‖ ≤ max|x_i| max|y_j| ‖O‖ (Schur, Haagerup); the Gram matrix has |x_i|² = factor, |y_j| = 1"),
            cite("so Γ⊙O stays in √factor times the ball, and the quadratic form in factor times its supremum"),
            equal("(s/r)**2 + (1/r)**2", "1"),  # of u and of the rows of O = [[s/r, 1/r], [-1/r, s/r]]
            equal("(s/r*s/r)**2 + (s/r*1/r + 1/r*s/r)**2", str(factor)),  # |u^T (Γ⊙O)|², H = uu^T, tr H = 1
        ]),
    ])
    # A rational direction near the best one: u = (4/5, 3/5), the 3-4-5 rotation.
    near = Fraction(16, 25) ** 2 + Fraction(24, 25) ** 2
    evidence = conclude(
        proof, near - factor, summary=f"worst growth {factor}, a rational direction attains {near}",
        covers="every Hessian H[·] of a 2×2 parameter, and H = uuᵀ for the value; cited, not proved: Γ_ij = <x_i, y_j> gives ‖Γ⊙O‖ ≤ "
            "max|x_i| max|y_j| ‖O‖ (Schur, Haagerup)", budget={"instances": 1},
        certificates=[upper] if upper else [],
    )
    if evidence.verdict is Verdict.PROVED and upper is None:
        raise ArithmeticError("schur_factor: the Gram matrix is not semidefinite")
    return evidence


def separable(run: Run) -> Evidence:
    """S2: a separable Γ = abᵀ ≤ 1 never worsens the spectral smoothness.  Twin: Γ = abᵀ plus a number in one entry."""
    # Sums over the coordinates so far: Z = |Oz|², I = Σ (a_i (Oz)_i)²; the control has w O_ij x_j, here w v, beside one a_i (Oz)_i.
    image = "a*y + w*v" if run.twin else "a*y"
    proof = prove([
        Case("one more coordinate", nonnegative=["a", "p", "w", "r", "s", "Z"], real=["y", "v"],
             definitions={"r": "p**2 - a**2", "I": "p**2*Z - s"}, steps=[
            cite("p and q are the largest entries of a and b; the same step with b, q and x bounds z = b⊙x"),
            at_most(f"I + ({image})**2", "p**2*(Z + y**2)", "s + r*y**2"),
        ]),
        Case("diag(a) O diag(b) is a contraction", nonnegative=["p", "q", "X", "product", "s", "t", "contraction"],
             definitions={"product": "1 - p*q", "zz": "q**2*X - t", "Z": "zz - contraction", "I": "p**2*Z - s"}, steps=[
            cite("X = |x|², zz = |z|², pq <= 1; ‖O‖ <= 1 gives |Oz| <= |z|"),
            at_most("I", "X", "s + p**2*contraction + p**2*t + product*(1 + p*q)*X"),
            cite("so Q_L(Γ⊙O)Q_R^T stays in the ball, for every H"),
        ]),
    ])
    worst, _, count = zero_one_growth(rank=2 if run.twin else 1)
    return conclude(
        proof, worst, margin=ROUNDING, summary="‖diag(a) O diag(b)‖ ≤ ‖a‖_∞ ‖b‖_∞ ‖O‖", budget={"instances": count},
        covers="every H and size, by induction over the coordinates",
    )


def separable_attack() -> SearchProblem:
    """Return the search for H ≽ 0 and separable Γ ≤ 1 (a 3×5 point: C, a, b) that violates S2-separable."""

    def project(x: Tensor) -> Tensor:
        return torch.cat([x[..., :3], x[..., 3:].clamp(0, 1)], -1)

    def violation(x: Tensor) -> Tensor:
        H = x[..., :3] @ x[..., :3].mT
        eye = torch.eye(3, dtype=x.dtype).expand_as(H)
        weighted = weighted_spectral_smoothness(H, x[..., 3:4] * x[..., 4:].mT, eye).lower
        return weighted / spectral_smoothness(H, 3).clamp_min(1e-30) - 1

    return SearchProblem(
        (3, 5), violation, project=project, differentiable=False, name="S2-separable", margin=1e-6,
        replay="paper_checks.smoothness_weighted:spectral_growth", statement="A separable Γ ≤ 1 never worsens the spectral smoothness.",
        data=lambda x: {"H": (x[:, :3] @ x[:, :3].T).tolist(), "gamma": torch.outer(x[:, 3], x[:, 4]).tolist()},
    )


def one_sided(run: Run) -> Evidence:
    """S2: Γ = a1ᵀ, m ≤ n: the value is Σ a_i² (QᵀHQ)_ii.  Twin: m > n."""
    m, n = (2, 1) if run.twin else (2, 3)
    a, Q, h, O = names("a", m), names("q", m, m), symmetric("h", m), names("o", m, n)
    rotated = times(transposed(Q), times(h, Q))
    K = [[f"{a[i]}*({rotated[i][j]})*{a[j]}" for j in range(m)] for i in range(m)]
    value = total(f"{a[i]}**2*({rotated[i][i]})" for i in range(m))
    weighted = [[f"{a[i]}*{O[i][j]}" for j in range(n)] for i in range(m)]
    D = times(Q, weighted)
    F = names("f", m, m)
    lost = {f"w{k + 1}": f"{square_norm(row)} - ({square_norm([dot(row, column) for column in transposed(O)])})"
            for k, row in enumerate(transposed(F))}
    gram = times(F, transposed(F))
    first = [[str(int(i == j)) for j in range(n)] for i in range(m)]  # a contraction, with orthonormal rows where m ≤ n
    proof = prove([
        Case("the form is a trace", real=[*a, *flat(Q), *flat(h), *flat(O)], steps=[
            equal(total(form(h, column) for column in transposed(D)), total(form(K, column) for column in transposed(O))),
            equal(total(form(K, column) for column in transposed(first)), value),
        ]),
        Case("upper bound", real=[*flat(F), *flat(O)], nonnegative=[*lost], definitions=lost, steps=[
            cite("K = diag(a) Q^T H Q diag(a) = FF^T since H is positive semidefinite; ‖O‖ <= 1 gives |O^T f| <= |f|"),
            at_most(total(form(gram, column) for column in transposed(O)), total(gram[i][i] for i in range(m)), total([*lost])),
        ]),
        Case("upper bound at any size: one more column f of F", nonnegative=["w", "s"], real=["ff", "K"],
             definitions={"image": "ff - w", "V": "K - s"}, steps=[
            cite("tr(O^T K O) = Σ |O^T f|² and tr K = Σ |f|² over the columns of F; tr(O^T K O) = tr K where OO^T = I, as for O = [I 0]"),
            at_most("V + image", "K + ff", "s + w"),
        ]),
    ])
    violation, count = 0.0, 0
    for seed in range(run.count(10, 100)):
        A = torch.randn(m, m, generator=run.generator(seed), dtype=torch.float64) if seed else torch.eye(m, dtype=torch.float64)
        Q_L = torch.linalg.qr(A + torch.eye(m, dtype=A.dtype)).Q
        H, weights = A @ A.mT, torch.rand(m, generator=run.generator(seed + 1000), dtype=torch.float64)
        claimed = (weights**2 * (Q_L.mT @ H @ Q_L).diagonal()).sum()
        found = weighted_spectral_smoothness(H, weights.unsqueeze(-1).expand(m, n), Q_L)
        violation = max(violation, float(torch.maximum(claimed - found.upper, found.lower - claimed) / claimed.abs()))
        count += 1
    return conclude(
        proof, violation, margin=ROUNDING, summary=f"Σ a_i²(QᵀHQ)_ii at m = {m}, n = {n}", budget={"instances": count},
        covers=f"the upper bound at any size, by induction over the columns of F; the traces written out at m = {m}, n = {n}, cited at any "
            "size: tr(O^T K O) = tr(K O O^T)",
    )


def rule_made(gradients: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    """Return Γ and Q_L that the S∞ rule with its defaults makes of histories ``(T, ..., m, n)``, at the last step."""
    rule = deva_spectral(variant=variant)
    state, made = rule.init(gradients[0]), None
    for G in gradients:
        _, state, made = rule.update(G, state, diagnostics=True)
    assert made is not None and made.basis is not None
    return made.variance_adaptation, made.basis[0]


def rule_made_growth(H: list[list[float]], gradients: list[list[list[float]]], variant: str) -> float:
    """Return (L_Γ - L_S)/L_S for the Γ the S∞ rule made; -inf if that Γ has an entry above 1."""
    A, history = tensor(H), tensor(gradients)
    gamma, Q_L = rule_made(history, variant)
    if float(gamma.max()) > 1.0:
        return -math.inf
    plain = spectral_smoothness(A, history.shape[-1])
    return float((weighted_spectral_smoothness(A, gamma, Q_L).lower - plain) / plain)


def rule_growth(run: Run) -> Evidence:
    """S2: a Γ ≤ 1 made by the S∞ rule itself never worsens spectral smoothness.  Twin: the memory variant, whose Γ is separable."""
    variant = "memory" if run.twin else "full"
    # Momentum: a spike in one direction, then two multiples of I, the later one smaller. The gradients that make it, in integers.
    grid = [(k, -a, b) for k in (20, 40) for a in range(10, 36) for b in range(4, 16)]
    spikes = tensor([[[k, 0, 0, 0], [a, 0, 0, b], [1, 0, 0, 1]] for k, a, b in grid]).reshape(-1, 3, 2, 2)
    draws = run.count(1500, 15_000)
    random = torch.randn(draws, 3, 2, 2, generator=run.generator(), dtype=torch.float64)
    H = tensor([[[a * a, a * b], [a * b, b * b]] for a, b in ((1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (1, -1), (2, -3))])
    worst, data, shares = -math.inf, {}, {}
    for name, histories in (("spikes", spikes), ("random", random)):
        gamma, Q_L = rule_made(histories.transpose(0, 1), variant)
        below = gamma.amax(dim=(-2, -1)) <= 1.0
        growth = torch.full((len(histories), len(H)), -math.inf, dtype=torch.float64)
        if bool(below.any()):
            kept = weighted_spectral_smoothness(H, gamma[below].unsqueeze(1).expand(-1, len(H), 2, 2), Q_L[below].unsqueeze(1)).lower
            growth[below] = kept / spectral_smoothness(H, 2) - 1
        shares[f"{name}_at_most_one"] = int(below.sum())
        shares[f"{name}_worse"] = int((growth.amax(-1) > ROUNDING).sum())
        i, j = divmod(int(growth.argmax()), len(H))
        if float(growth[i, j]) > worst:
            worst, data = float(growth[i, j]), {"H": H[j].tolist(), "gradients": histories[i].tolist(), "variant": variant}
    violated = worst > ROUNDING
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED, "search",
        f"{variant}: largest relative growth {worst:.4g} at three 2×2 gradients {data['gradients']}; of Γ ≤ 1 made, worse are "
        f"{shares['spikes_worse']} of {shares['spikes_at_most_one']} (spikes), {shares['random_worse']} of "
        f"{shares['random_at_most_one']} (random)",
        covers="the default S∞ rule (β = .95, k = 10), 2×2, step 3", numbers={"growth": worst, **shares}, margin=abs(worst - ROUNDING),
        budget={"histories": len(spikes) + draws, "hessians": len(H)}, seed=run.seed,
        counterexample=Counterexample(
            "S2-rule",
            "A Γ ≤ 1 made by the S∞ rule never worsens the spectral smoothness. False after three diagonal gradients with the defaults: "
            "a momentum spike in one direction, then one that shrinks evenly, leave Γ near [[0,1],[1,1]]; violation: relative growth.",
            "paper_checks.smoothness_weighted:rule_made_growth", data, margin=0.1,
        ) if violated else None,
    )
