"""The rate with stochastic gradients: R2, and of R6 how small its factor can be.

A false constant is refuted by a process whose law is computed, not sampled: `walk`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal, prove
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from paper_checks.arrays import tensor
from paper_checks.inductions import telescoped
from paper_checks.rates_descent import sign
from paper_checks.verdicts import conclude


@dataclass(frozen=True)
class Walk:
    """Averages of a stochastic run in one dimension, from the exact law of its position.

    Attributes
    ----------
    norm : float
        avg E γ|∂f|.
    plain : float
        avg |∂f|, expected.
    progress : float
        Δ/(ηT).
    smooth : float
        (η/2) avg E L_Γ.
    noise, first : float
        √(E n²) √(E γ²) and √(E n²) E γ, n = ĝ - ∂f, where |∂f| = 1 (elsewhere smaller).
    absolute : float
        E γ_max|n| likewise.
    """

    norm: float
    plain: float
    progress: float
    smooth: float
    noise: float
    first: float
    absolute: float


def walk(T: int, odds: int, L: float, start: int, *, flips: float | None = None, even: bool = False, unbiased: bool = True) -> Walk:
    """Run ``x ← x - γ sign(ĝ)/√T`` on the Huber function with slope 1 and curvature L.

    With probability p the noise turns the sign of ĝ: n = -1.01 ∂f, γ = 1.  Otherwise γ = 1/odds (1 if `even`), and n makes ĝ
    unbiased or is 0.  With p = 1/(odds+1), the default, the position is a martingale: no progress on average, however long the run.

    Parameters
    ----------
    T, odds, start : int
        Steps; ratio of the two γ; x_0 = (start + ½) η/odds.
    L : float
    flips : float, optional
        p.
    even, unbiased : bool
    """
    eta, p, ahead = 1 / math.sqrt(T), 1 / (odds + 1) if flips is None else flips, odds if even else 1
    half = start + odds * T if odds * T < 4000 else start + 200 + odds * 40 + int(8 * math.sqrt(T * odds))
    x = (np.arange(-half, half) + 0.5) * eta / odds
    slope = np.minimum(np.abs(x) * L, 1.0)
    law = np.zeros(2 * half)
    law[half + start] = 1.0
    mean = 0.0
    for _ in range(T):
        mean += float(law @ slope) / T
        moved = np.zeros_like(law)
        for side, outward in ((slice(half, None), 1), (slice(None, half), -1)):
            part = np.zeros_like(law)
            part[side] = law[side]
            moved += p * np.roll(part, outward * odds) + (1 - p) * np.roll(part, -outward * ahead)
        law = moved
    if abs(law.sum() - 1.0) > 1e-9 or law[:odds].max() > 1e-6 or law[-odds:].max() > 1e-6:
        raise ArithmeticError("walk: the grid is too small")
    small = 1.0 if even else 1 / odds
    gamma, square = p + (1 - p) * small, p + (1 - p) * small**2
    x0 = (start + 0.5) * eta / odds
    gap = x0 - 0.5 / L if x0 > 1 / L else 0.5 * L * x0**2
    variance = p * 1.01**2 * (1 / (1 - p) if unbiased else 1.0)
    return Walk(
        mean * gamma, mean, gap / math.sqrt(T), L * square / (2 * math.sqrt(T)), math.sqrt(variance * square), math.sqrt(variance) * gamma,
        1.01 * p * (2 if unbiased else 1),
    )


def noise_excess(T: int, odds: int, L: float, start: int, factor: float, moment: str) -> float:
    """Return avg E‖∇f‖_{1,Γ} minus ``Δ/√T + ½ avg E L_Γ/√T + factor · noise`` on `walk`; `moment` 2: σ√(Eγ²), 1: σ Eγ."""
    found = walk(T, odds, L, start)
    return found.norm - found.progress - found.smooth - factor * (found.noise if moment == "2" else found.first)


def wrong_sign_cases(factor: Fraction) -> list[Case]:
    """Return ``-∂ sign(ĝ) ≤ -|∂| + 2·factor|ĝ - ∂|`` and ``|∂| 1{wrong sign} ≤ factor|ĝ - ∂|`` in the nine cases of signs.

    p and q are |∂| and |ĝ|; where both have one sign the noise |p - q| is e.
    """
    cases = []
    for a, b in itertools.product((1, 0, -1), repeat=2):
        size, noise = "p" if a else "0", {-1: "p + q", 0: ("p" if a else "q") if a or b else "0", 1: "e"}[a * b]
        wrong = size if a != b else "0"
        left = f"-({a * b}*p)"
        because = [f"{2 * factor}*({noise}) - p*({a * b} - {abs(a)})", f"{factor}*({noise}) - ({wrong})"]
        if factor == 1:
            because = [{-1: "2*q", 0: ("p" if a else "2*q") if a or b else "0", 1: "2*e"}[a * b],
                {-1: "q", 0: "0" if a else noise, 1: "e"}[a * b]]
        cases.append(Case(f"sign of the derivative {a}, of the estimate {b}", positive=["p", "q"], nonnegative=["e"], steps=[
            at_most(wrong, f"{factor}*({noise})", because[1]), at_most(left, f"-({size}) + {2 * factor}*({noise})", because[0]),
        ]))
    return cases


def wrong_sign(run: Run) -> Evidence:
    """R2: |∂f| 1{sign(ĝ) ≠ sign(∂f)} ≤ |ĝ - ∂f|.  Twin: ≤ ½|ĝ - ∂f|."""
    factor = Fraction(1, 2) if run.twin else Fraction(1)
    proof = prove(wrong_sign_cases(factor))
    values = [Fraction(k, 2) for k in range(-4, 5)]
    violation = max((abs(g) if sign(g) != sign(h) else Fraction(0)) - factor * abs(h - g) for g, h in itertools.product(values, repeat=2))
    return conclude(proof, violation, summary="nine cases of signs", covers="all real ∂f and ĝ, sign(0) = 0",
        budget={"instances": len(values) ** 2})


def stochastic(run: Run) -> Evidence:
    """R2: the bound with noise term 2 avg Σ σ_i √(E γ_i²).  Twin: with E γ_i in place of √(E γ_i²)."""
    # a = E γ², g = E γ, b = E γ|n|, c = E n² ≤ σ²/T for one coordinate; the expectation of a square is nonnegative.
    second = "g**2" if run.twin else "a"
    lost = " - (a - g**2)*c" if run.twin else ""
    holder = Case("Cauchy-Schwarz", positive=["c"], nonnegative=["a", "b", "g", "square", "spread"],
                  definitions={"square": "a - 2*(b/c)*b + (b/c)**2*c", "spread": "a - g**2"}, steps=[
        cite("square is E(γ - (b/c)|n|)²; where c = 0 the noise is 0 and so is b"),
        at_most("b**2", f"{second}*c", f"square*c{lost}"),
    ])
    # η = 1/r, r = √T; z is a root mean square of γ, s a σ, and b ≤ σ z / r by Hölder; B, Z sum them over steps and coordinates.
    pairs = Case("one more step or coordinate", positive=["r"], nonnegative=["s", "z", "w", "W"], real=["Z"],
                 definitions={"b": "s*z/r - w", "B": "Z/r - W"}, steps=[equal("0/r - 0", "0"), at_most("B + b", "(Z + s*z)/r", "W + w")])
    steps = telescoped(
        lambda n, b, l: f"({n})/r - 2*({b})/r - ({l})/(2*r**2)", {"n": "N", "b": "B", "l": "S"},
        ("N/k", "1/r*(gap + 1/2*S/k + 2*Z/k)", "(q + below + above)*r/k + 2*W/k"), positive=["r"], nonnegative=["Z"],
        given={"W": "Z/r - B"}, definitions={"k": "r**2"},
    )
    cited = cite("E f(x_{t+1}) <= E f(x_t) - η E<∂f, Γ sign ĝ> + η² E L_Γ/2, then the cases of signs times γ, summed over coordinates, "
                 "b = Σ E γ_i|ĝ_i - ∂_i f|")
    steps[1] = replace(steps[1], steps=[cited, *steps[1].steps])
    proof = prove([*wrong_sign_cases(Fraction(1)), holder, pairs, *steps])
    moment = "1" if run.twin else "2"
    instances = [(400, 7, 2.0, 112), (200, 3, 2.0, 51), (100, 1, 1.0, 20), (50, 1, 4.0, 5)]
    violation = max(noise_excess(*instance, 2.0, moment) for instance in instances)
    return conclude(
        proof, violation, margin=1e-3, summary="chain of signs, Cauchy-Schwarz and a telescoping sum; runs with γ tied to the noise",
        covers="every T and dimension, by induction on the sums; the descent lemma in expectation is cited",
        budget={"processes": len(instances)},
    )


def smaller_noise(run: Run) -> Evidence:
    """R6: R2 holds with 3/2 in place of 2 before its noise term.  Twin: with 2."""
    factor = 2.0 if run.twin else 1.5
    data = {"T": 1600, "odds": 7, "L": 2.0, "start": 224, "factor": factor, "moment": "2"}
    violation = noise_excess(**data)
    found = walk(*(data[key] for key in ("T", "odds", "L", "start")))
    needed = (found.norm - found.progress - found.smooth) / found.noise
    return Evidence(
        Verdict.REFUTED if violation > 0 else Verdict.SUPPORTED, "exact law of a walk",
        f"the noise term needs the factor {needed:.4f} on this process, claimed {factor:g}; bound over observed with 2: "
        f"{(found.progress + found.smooth + 2 * found.noise) / found.norm:.4f}",
        covers="one process: γ = 1 where the noise turns the sign (probability 1/8), 1/7 elsewhere, T = 1600",
        numbers={"needed_factor": needed},
        margin=abs(violation), budget={"processes": 1},
        counterexample=Counterexample(
            "R6-noise",
            "R2 holds with 3/2 in place of 2. False where γ is larger exactly when the noise turns the sign: with probability p = 1/8, "
            "γ = 1 against 1/7, the run is a martingale on a slope of 1; as p → 0 and T → ∞ no factor below 2 is enough.",
            "paper_checks.rates_noise:noise_excess", data, margin=0.003,
        ) if violation > 0 else None,
    )


def noise_attack() -> SearchProblem:
    """Return the search for a pair (∂f, ĝ) that violates R2-noise."""

    def violation(x: torch.Tensor) -> torch.Tensor:
        wrong = torch.sign(x[:, 0]) != torch.sign(x[:, 1])
        return (torch.where(wrong, x[:, 0].abs(), 0.0) - (x[:, 1] - x[:, 0]).abs()) / x.abs().amax(1).clamp_min(1e-30)

    return SearchProblem((2,), violation, differentiable=False, name="R2-noise", margin=1e-6,
                         replay="paper_checks.rates_noise:noise_violation", statement="|∂f| 1{sign(ĝ) ≠ sign(∂f)} ≤ |ĝ - ∂f|.")


def noise_violation(x: list[float]) -> float:
    """Recompute the violation of `noise_attack` at one point."""
    return noise_attack().value(tensor(x))
