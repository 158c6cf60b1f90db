"""The rate that a descent lemma implies: R1, and of R6 how tight it is.

Every bound is a chain of links, each checked where it can be: an inequality for one step in cases of signs, a telescoping sum (by
induction on the steps, and exact multipliers from linear programming), and constants.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from deva_theory.certify import Case, SearchProblem, at_most, cite, descent_to_rate, equal, prove
from deva_theory.claims.model import Evidence, Run
from paper_checks.arrays import tensor
from paper_checks.inductions import telescoped
from paper_checks.verdicts import conclude


def sign(x: Fraction) -> int:
    """Return the sign, 0 at 0."""
    return (x > 0) - (x < 0)


def descend(L: Sequence[Fraction], x0: Sequence[Fraction], gammas: Sequence[Sequence[Fraction]], eta: Fraction) -> dict[str, Fraction]:
    """Run ``x ← x - ηΓ⊙sign(∇f)`` on ``f = ½ Σ L_i x_i²``, exactly.

    Returns
    -------
    dict
        ``norm`` and ``plain``: averages of ‖∇f‖_{1,Γ} and ‖∇f‖_1; ``smoothness``: average of L_Γ; ``gap``: f(x_0) - f*.
    """
    x, T = list(x0), len(gammas)
    result = dict.fromkeys(("norm", "plain", "smoothness"), Fraction(0))
    result["gap"] = sum((b * p * p for b, p in zip(L, x, strict=True)), Fraction(0)) / 2
    for gamma in gammas:
        slope = [b * p for b, p in zip(L, x, strict=True)]
        result["norm"] += sum(c * abs(g) for c, g in zip(gamma, slope, strict=True)) / T
        result["plain"] += sum(map(abs, slope)) / T
        result["smoothness"] += sum(b * c * c for b, c in zip(L, gamma, strict=True)) / T
        x = [p - eta * c * sign(g) for p, c, g in zip(x, gamma, slope, strict=True)]
    return result


def summed(half: Fraction, *, errors: bool = False) -> list[Case]:
    """Return the sum over any number of steps of ``f_{t+1} ≤ f_t - η n_t + ½η² l_t (+ η e_t)``, with `half` in place of ½ at the end."""
    short = Fraction(1, 2) - half
    small, large, because = "N/k", f"gap/(t*k) + {half}*t*S/k", "(q + below + above)/(t*k)" + (f" - {short}*t*S/k" if short else "")
    if errors:
        return telescoped(
            lambda n, l, e: f"t*({n}) - t**2*({l})/2 - t*({e})", {"n": "N", "l": "S", "e": "E"}, (small, f"{large} + E/k", because),
            positive=["t"],
        )
    return telescoped(lambda n, l: f"t*({n}) - t**2*({l})/2", {"n": "N", "l": "S"}, (small, large, because), positive=["t"])


def signed_steps() -> list[Case]:
    """Return ``<∂f, γ sign(∂f)> = γ|∂f|`` in the three cases of signs."""
    cited = cite("f(x - ηd) ≤ f(x) - η<∇f, d> + ½η²L_Γ for d = Γ⊙sign(∇f) is what L_Γ means; <∇f, d> = Σ ∂_i γ_i sign(∂_i), i by i")
    return [
        Case(f"derivative {name}", positive=["p"], nonnegative=["c"], steps=[cited, equal(f"({g})*c*({s})", f"c*({a})")])
        for name, g, s, a in (("> 0", "p", "1", "p"), ("= 0", "0", "0", "0"), ("< 0", "-p", "-1", "p"))
    ]


def deterministic(run: Run) -> Evidence:
    """R1: avg ‖∇f‖_{1,Γ} ≤ Δ/(ηT) + (η/2) avg L_Γ.  Twin: η/4."""
    half = Fraction(1, 4 if run.twin else 2)
    proof = prove([*signed_steps(), *summed(half)])
    certificates, gaps = [], []
    for T in (1, 2, 5, 10, 20) if not run.full else (1, 2, 5, 10, 20, 50, 100):
        eta, gap = Fraction(1, 10), Fraction(3, 2)
        smooth = [Fraction(1 + (3 * t) % 7, 2) for t in range(T)]
        dual = descent_to_rate(T, eta, smooth, gap)
        gaps.append(dual.bound - (gap / (eta * T) + half * eta * sum(smooth) / T))  # what the rows imply minus what is claimed
        certificates.append(dual.certificate)
    worst, count = Fraction(-1), 0
    for start, T, scale in itertools.product((1, 2, 3, 5), (1, 2, 3, 5), (1, 2)):
        gammas = [[Fraction(1, 1 + t % scale)] for t in range(T)]
        found = descend([Fraction(scale)], [Fraction(start, 2)], gammas, Fraction(1, 2))
        bound = found["gap"] / (Fraction(1, 2) * T) + half * Fraction(1, 2) * found["smoothness"]
        worst, count = max(worst, found["norm"] - bound), count + 1
    return conclude(
        proof, max(worst, *gaps),
        summary=f"exact multipliers for T = 1 … {100 if run.full else 20}: bound minus claim {float(max(gaps)):.6g}",
        covers="every T by induction on the sum; any dimension; any norm, n_t its dual norm of the gradient",
        budget={"programs": len(gaps), "runs": count}, certificates=certificates[:4],
    )


def rate_attack() -> SearchProblem:
    """Return the search for a quadratic (rows: L, x_0, then the rows of Γ_t) on which R1's bound fails at η = 1/2."""

    def violation(x: torch.Tensor) -> torch.Tensor:
        L, position, gammas = x[:, 0].abs(), x[:, 1], x[:, 2:].abs()
        gap, T = 0.5 * (L * position**2).sum(-1), gammas.shape[1]
        norm = smooth = torch.zeros_like(gap)
        for t in range(T):
            slope = L * position
            norm = norm + (gammas[:, t] * slope.abs()).sum(-1) / T
            smooth = smooth + (L * gammas[:, t] ** 2).sum(-1) / T
            position = position - 0.5 * gammas[:, t] * slope.sign()
        bound = gap / (0.5 * T) + 0.25 * smooth
        return norm / bound - 1

    return SearchProblem((6, 2), violation, differentiable=False, name="R1", margin=1e-6,
        replay="paper_checks.rates_descent:rate_violation",
                         statement="avg ‖∇f‖_{1,Γ} ≤ Δ/(ηT) + (η/2) avg L_Γ.")


def rate_violation(x: list[list[float]]) -> float:
    """Recompute the violation of `rate_attack` at one point."""
    return rate_attack().value(tensor(x))


def best_step(run: Run) -> Evidence:
    """R1: the best η gives √(2ΔL/T).  Twin: √(ΔL/T)."""
    factor = 1 if run.twin else 2
    proof = prove([Case("arithmetic and geometric mean", positive=["gap", "l", "n", "r", "t"], squares={"r": f"{factor}*gap*l/n"}, steps=[
        equal("gap/((r/l)*n) + (r/l)*l/2", "r"),  # at η = r/l
        at_most("r", "gap/(t*n) + t*l/2", "(t*l - r)**2/(2*t*l)"),
    ])])
    violation, count = 0.0, 0
    for gap, smooth, T in itertools.product((1, 2, 8), (1, 2, 4), (1, 4, 9)):
        claimed = math.sqrt(factor * gap * smooth / T)
        steps = np.geomspace(1e-2, 1e2, 4001)
        least = min(float((gap / (steps * T) + steps * smooth / 2).min()), gap / (claimed / smooth * T) + claimed / 2)
        violation, count = max(violation, abs(least - claimed)), count + 1
    return conclude(proof, violation, margin=1e-4, summary="min_η Δ/(ηT) + ηL/2 = √(2ΔL/T)", covers="all Δ, L, T, η > 0",
        budget={"instances": count})


def tight(run: Run) -> Evidence:
    """R1: on ½Lx² from x_0 = Tη the bound is attained, for every T and η.  Twin: from x_0 = (T+½)η."""
    late = Fraction(1, 2) if run.twin else Fraction(0)
    # The sum of |∂f| = L x over x = (j + late) η, j = 1 … T, as a function of T: first value and increment.
    area = f"l*t*(k*(k + 1)/2 + {late}*k)"
    proof = prove([
        Case("the sum, by induction on T", positive=["l", "t"], nonnegative=["k"], steps=[
            equal(area.replace("k", "0"), "0"),
            equal(f"{area.replace('k', '(k + 1)')} - {area}", f"l*t*(k + 1 + {late})"),
        ]),
        Case("the bound", positive=["l", "t", "k"], steps=[equal(f"{area}/k", f"l*((k + {late})*t)**2/2/(t*k) + t*l/2")]),
    ])
    violation, count = Fraction(0), 0
    for T, L, eta in itertools.product((1, 2, 3, 7, 20), (1, 3), (Fraction(1, 2), Fraction(2))):
        found = descend([Fraction(L)], [(T + late) * eta], [[Fraction(1)]] * T, eta)
        violation = max(violation, abs(found["gap"] / (eta * T) + eta * found["smoothness"] / 2 - found["norm"]))
        count += 1
    return conclude(proof, violation, summary="bound minus average on ½Lx² from x_0 = Tη", covers="every T, L, η", budget={"runs": count})


def nearly_tight(run: Run) -> Evidence:
    """R6: from x_0 = (k+½)η, k ≤ T, R1's bound exceeds the average by exactly Lη/(8T).  Twin: by nothing."""
    share = Fraction(0) if run.twin else Fraction(1, 8)
    proof = prove([Case("k steps down, then to and fro", positive=["l", "t", "n"], nonnegative=["k", "rest"],
        definitions={"rest": "n - k"}, steps=[
        cite("x_t = (k + 1/2 - t) eta down to eta/2, then ±eta/2: the sum of |x_t|/eta is k(k+1)/2 + k/2 + (T-k)/2"),
        equal("l*((k + 1/2)*t)**2/2/(t*n) + t*l/2 - l*t*(k*(k + 1)/2 + k/2 + rest/2)/n", f"{share}*l*t/n"),
    ])])
    violation, count = Fraction(0), 0
    for T, k in itertools.product((1, 3, 8, 25), (0, 1, 3, 8)):
        if k <= T:
            found = descend([Fraction(2)], [(k + Fraction(1, 2)) * 3], [[Fraction(1)]] * T, Fraction(3))
            gap = found["gap"] / (3 * T) + Fraction(3, 2) * found["smoothness"] - found["norm"]
            violation, count = max(violation, abs(gap - share * 6 / T)), count + 1
    return conclude(proof, violation, summary="bound - average = Lη/(8T)", covers="½Lx², every T, L, η and k ≤ T", budget={"runs": count})


def multipliers(run: Run) -> Evidence:
    """R6: the descent inequalities imply no better rate than R1's.  Twin: they imply one better by Δ/(2ηT)."""
    gaps, certificates = [], []
    for T in (1, 3, 8) if not run.full else (1, 3, 8, 30, 100):
        eta, gap = Fraction(1, 5), Fraction(2)
        smooth = [Fraction(1 + t % 3) for t in range(T)]
        dual = descent_to_rate(T, eta, smooth, gap)
        claimed = gap / (eta * T) + eta * sum(smooth) / (2 * T) - (gap / (2 * eta * T) if run.twin else 0)
        gaps.append(abs(dual.bound - claimed) if dual.attained else Fraction(1))
        certificates.append(dual.certificate)
    # One admissible point for every T: all of the gap is spent in the first step, f_t = least afterwards.
    first, later = "gap/t + t*l0/2", "t*l1/2"
    signs = {"positive": ["t", "n"], "nonnegative": ["gap", "l0", "l1"], "real": ["least"]}
    proof = prove(Case("an admissible point that attains the bound", **signs, steps=[
        equal(f"(least + gap) - t*({first}) + t**2*l0/2", "least"),
        equal(f"least - t*({later}) + t**2*l1/2", "least"),
        equal(f"(({first}) + (n - 1)*({later}))/n", "gap/(t*n) + t*(l0 + (n - 1)*l1)/(2*n)" + (" - gap/(2*t*n)" if run.twin else "")),
    ]))
    return conclude(
        proof, max(gaps), summary="optimum of the linear program (attained by an exact point) against R1's bound",
        budget={"programs": len(gaps)},
        covers="every T with L_t = l1 for t ≥ 1; varying L_t for the T of the programs. What functions allow can be less",
        certificates=certificates,
    )
