"""What the constants of a weighted rate mean: R4, from ‖∇f‖_{1,Γ} back to ‖∇f‖_1, and whether a smaller L_Γ is faster."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch

from deva_theory.certify import Case, at_most, prove
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import deva_linf
from paper_checks.arrays import tensor
from paper_checks.rates_descent import descend
from paper_checks.verdicts import ROUNDING, conclude


def conversion(run: Run) -> Evidence:
    """R4: where γ_i ≥ γ_min > 0, ‖g‖_1 ≤ ‖g‖_{1,Γ}/γ_min.  Twin: 1/γ_max."""
    bound = "high" if run.twin else "low"
    definitions = {**{f"a{i}": f"c{i} - low" for i in (1, 2, 3)}, **{f"b{i}": f"high - c{i}" for i in (1, 2, 3)}}
    sizes, weighted = "g1 + g2 + g3", "c1*g1 + c2*g2 + c3*g3"
    because = "(a1*g1 + a2*g2 + a3*g3)/low" if not run.twin else "-(b1*g1 + b2*g2 + b3*g3)/high"
    proof = prove([Case("entry by entry", positive=["low", "high"], nonnegative=["g1", "g2", "g3", *definitions], real=["c1", "c2", "c3"],
                        definitions=definitions, steps=[at_most(sizes, f"({weighted})/{bound}", because)])])
    violation, count = Fraction(0), 0
    levels = (Fraction(1, 4), Fraction(1, 2), Fraction(1))
    for gamma, g in itertools.product(itertools.product(levels, repeat=2), itertools.product((0, 1, 3), repeat=2)):
        chosen = max(gamma) if run.twin else min(gamma)
        violation = max(violation, sum(g) - sum(c * x for c, x in zip(gamma, g, strict=True)) / chosen)
        count += 1
    return conclude(
        proof, violation, summary="γ_min‖g‖_1 ≤ ‖g‖_{1,Γ}", budget={"instances": count},
        covers="any dimension, one term per entry; turns R1 and R2 into rates for ‖∇f‖_1",
    )


def beyond(gradients: list[list[float]], beta2: float, low: float, high: float) -> float:
    """Return how far Γ of the ℓ∞ rule (β1 = 0, corrected, ε = 0) leaves [low, high] at the last gradient's non-zero entries."""
    history = tensor(gradients)
    rule = deva_linf(betas=(0.0, beta2), eps=0.0)
    state, made = rule.init(history[0]), None
    for g in history:
        _, state, made = rule.update(g, state, diagnostics=True)
    assert made is not None
    gamma = made.variance_adaptation[history[-1] != 0]
    return float(torch.maximum(low - gamma, gamma - high).max())


def floor(run: Run) -> Evidence:
    """R4: Γ of the ℓ∞ rule is at least √(1-β2) where g ≠ 0 (and at most D3's upper end).  Twin: at least 0."""
    worst, data, count = -math.inf, {}, 0
    for beta2, spike, t in itertools.product((0.5, 0.9), (1.0, 10.0, 1000.0), (1, 2, 3)):
        low, high = 0.0 if run.twin else math.sqrt(1 - beta2), math.sqrt((1 - beta2**t) / (1 - beta2))
        trial = {"gradients": [[spike]] * (t - 1) + [[1.0]], "beta2": beta2, "low": low, "high": high}
        excess = beyond(**trial)
        worst, count = max(worst, excess), count + 1
        if excess > ROUNDING and not data:
            data = trial
    violated = worst > ROUNDING
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED, "search",
        f"farthest outside the range {worst:.4g} over {count} histories with spikes", covers="one coordinate, t ≤ 3, spikes up to 1000",
        numbers={"excess": worst}, margin=abs(worst), budget={"histories": count},
        counterexample=Counterexample(
            "R4-floor",
            "Γ is at least √(1-β2) where g ≠ 0. False: after one gradient K a gradient 1 has Γ of order 1/K; no floor depends on β2 alone.",
            "paper_checks.rates_constants:beyond", data, margin=0.3,
        ) if violated else None,
    )


def slower(L: list[float], x0: list[float], gamma: list[float], steps: int) -> float:
    """Return how much larger, relatively, the average ‖∇f‖_1 is with Γ than without, each at its own best step; -1 if L_Γ ≥ L."""
    runs = [own_best(L, x0, weights, steps) for weights in (gamma, [1.0] * len(L))]
    return float(runs[0]["plain"] / runs[1]["plain"]) - 1 if runs[0]["smoothness"] < runs[1]["smoothness"] else -1.0


def own_best(L: list[float], x0: list[float], gamma: list[float], steps: int) -> dict[str, Fraction]:
    """Run a constant Γ with the η that minimises R1's bound."""
    start, bounds, weights = ([Fraction(x) for x in row] for row in (x0, L, gamma))
    gap = sum(b * x * x for b, x in zip(bounds, start, strict=True)) / 2
    smooth = sum(b * c * c for b, c in zip(bounds, weights, strict=True))
    return descend(bounds, start, [weights] * steps, Fraction(math.sqrt(2 * gap / (smooth * steps))))


def faster(run: Run) -> Evidence:
    """R4: a smaller constant L_Γ means a smaller avg ‖∇f‖_1.  Twin: avg ‖∇f‖_1 ≤ √(2ΔL_Γ/T)/γ_min."""
    worst, data, count = -math.inf, {}, 0
    for L, share, steps in itertools.product(([1.0, 1.0], [2.0, 1.0], [1.0, 4.0]), (0.5, 0.25), (2, 4, 9)):
        trial = {"L": L, "x0": [1.0, 1.0], "gamma": [1.0, share], "steps": steps}
        if run.twin:
            found = own_best(**trial)
            limit = math.sqrt(2 * found["gap"] * found["smoothness"] / steps) / share
            excess = float(found["plain"]) / limit - 1
        else:
            excess = slower(**trial)
        count += 1
        if excess > worst:
            worst, data = excess, trial
    violated = worst > ROUNDING
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED, "search",
        f"largest relative excess {worst:.4g} at L = {data['L']}, Γ = {data['gamma']}, T = {data['steps']}, each at the η that is "
        "best for its bound",
        covers="½ΣL_ix_i² in two dimensions, constant Γ ≤ 1", numbers={"excess": worst}, margin=abs(worst), budget={"runs": count},
        counterexample=Counterexample(
            "R4-faster",
            "The smaller constant L_Γ ≤ L means a smaller average ‖∇f‖_1. False: the left side of R1 shrinks with Γ too, and a "
            "coordinate with small Γ hardly moves; violation: relative excess.",
            "paper_checks.rates_constants:slower", data, margin=0.1,
        ) if violated else None,
    )
