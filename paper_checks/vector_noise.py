"""SPEC D7: what noise does to γ. Proofs about averages, and statistics of i.i.d. gradients run through the library's rules."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import Case, at_most, cite, equal, positive
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from deva_theory.rules import Rule, adam, deva_linf
from paper_checks.vector import EVERY_HISTORY
from paper_checks.vector_adam import gamma_squared
from paper_checks.verdicts import proved

# --- proofs ---------------------------------------------------------------------------------------


def noise_tracking(run: Run) -> Evidence:
    """D7-tracking; the control has σ²(1-β1) for the noise left in m."""
    left = "(1 - x)" if run.twin else "(1 - x)/(1 + x)"
    moment = "(u**2*(1 - {X})**2 + s*" + left + "*(1 - ({X})**2))"
    names: dict[str, Any] = {"nonnegative": ["x", "s"], "real": ["u", "X", "D", "y"], "definitions": {"L": f"u**2 + s*{left}"}}
    cases = [
        Case(
            "E m_t = μ(1-X), E m_t² as written, X = β1^t: from t-1 to t",
            **names,
            steps=[
                equal(moment.format(X="1"), "0"),
                equal("x*u*(1 - X) + (1 - x)*u", "u*(1 - x*X)"),
                cite("g is uncorrelated with m_{t-1}: E m_t² = β1² E m_{t-1}² + 2 β1(1-β1) E m_{t-1} μ + (1-β1)²(μ²+σ²)"),
                equal(f"x**2*{moment.format(X='X')} + 2*x*(1 - x)*u*(1 - X)*u + (1 - x)**2*(u**2 + s)", moment.format(X="x*X")),
            ],
        ),
        Case(
            "X → 0: the limit L = μ² + σ²(1-β1)/(1+β1), and E v_t - L = β2 (E v_{t-1} - L) + (1-β2)(E m_t² - L)",
            **names,
            steps=[
                equal(moment.format(X="0"), "L"),
                equal("y*(L + D) + (1 - y)*(L + X) - L", "y*D + (1 - y)*X"),
            ],
        ),
    ]
    return proved(
        cases,
        "E m_t² = μ²(1-β1^t)² + σ²(1-β1^2t)(1-β1)/(1+β1) → L, and E v_t → L",
        covers="every t; i.i.d. (uncorrelated) gradients of finite variance",
    )


def average_square(run: Run) -> Evidence:
    """D7-average; the control leaves out the factor β2/(1-β2)."""
    factor = "1" if run.twin else "(y/a)"
    case = Case(
        "V = v_{t-1} > 0, n = |m| or |g|",
        positive=["V", "a", "y"],
        nonnegative=["n"],
        definitions={"a": "1 - y", "N": "y*V + a*n**2"},
        steps=[
            equal("n**2/N", f"1 + {factor}*(1 - V/N)"),
            positive("V/N"),
            cite("1 - z ≤ -ln z at z = v_{t-1}/v_t: γ_t² ≤ 1 + β2/(1-β2) ln(v_t/v_{t-1})"),
        ],
    )
    return proved(
        [case],
        "γ_t² = 1 + β2/(1-β2) (1 - v_{t-1}/v_t) ≤ 1 + β2/(1-β2) ln(v_t/v_{t-1}), summed",
        covers=EVERY_HISTORY + "; ln z ≤ z - 1 is cited",
    )


def optimal_sign(run: Run) -> Evidence:
    """D7-optimal-sign; the control claims ρ."""
    best = "r" if run.twin else "(2*r - 1)"
    loss = "(r*({c} - 1)**2 + (1 - r)*({c} + 1)**2)"
    case = Case(
        "r = ρ",
        nonnegative=["r", "q"],
        real=["c"],
        definitions={"q": "1 - r"},
        steps=[
            at_most(loss.format(c=best), loss.format(c="c"), because=f"(c - {best})**2"),
            equal(loss.format(c="(2*r - 1)"), "4*r*q"),
        ],
    )
    return proved([case], "E(γ sign g - sign μ)² = (γ - (2ρ-1))² + 4ρ(1-ρ)", covers="each coordinate, P(g = 0) = 0")


def optimal_value(run: Run) -> Evidence:
    """D7-optimal-value; the control claims the square root of it, Adam's factor."""
    best = "f" if run.twin else "(u**2/(u**2 + s))"
    loss = "({c}**2*(u**2 + s) - 2*{c}*u**2 + u**2)"
    cases = [
        Case(
            f"μ {sign} 0, u = |μ|, s = σ²",
            positive=["u"],
            nonnegative=["s"],
            real=["c", "h"],
            squares={"f": "u**2/(u**2 + s)"},
            steps=[
                equal(f"(c*({mu} + h) - ({mu}))**2", f"c**2*(u**2 + h**2) - 2*c*u**2 + u**2 + 2*c*(c - 1)*({mu})*h"),
                cite("E h = 0, E h² = s"),
                at_most(loss.format(c=best), loss.format(c="c"), because=f"(u**2 + s)*(c - {best})**2"),
                equal("u**2/(u**2 + s)", "1/(1 + s/u**2)"),
            ],
        )
        for sign, mu in ((">", "u"), ("<", "-u"))
    ]
    return proved(cases, "E(γ g - μ)² = (μ²+σ²)(γ - μ²/(μ²+σ²))² + const", covers="each coordinate, μ ≠ 0")


# --- statistics -----------------------------------------------------------------------------------

NOISE = (0.0, 0.5, 1.0, 3.0, 10.0)
"""σ/μ."""


def under_noise(run: Run, rule: Rule, *, steps: int, width: int) -> Tensor:
    """Return signed γ at the last step of i.i.d. normal gradients of mean 1, ``(len(NOISE), width)``."""
    generator = run.generator(7)
    sigma = torch.tensor(NOISE, dtype=torch.float64).unsqueeze(-1)
    state = rule.init(torch.zeros(len(NOISE), width, dtype=torch.float64))
    for _ in range(steps):
        g = 1.0 + sigma * torch.randn(width, generator=generator, dtype=torch.float64)
        direction, state, _ = rule.update(g, state, donate=True, check_finite=False)
    return direction


def limits(power: float) -> Tensor:
    """Return ``(1 + σ²/μ²)^power`` at each noise level."""
    return (1.0 + torch.tensor(NOISE, dtype=torch.float64).square()) ** power


def adam_sees_noise(run: Run) -> Evidence:
    """D7-adam: the mean of textbook Adam's signed γ against ``1/√(1+σ²/μ²)``; the control claims ``1/(1+σ²/μ²)``.

    First-order bias: ⅜ var(v)/v² + ½ cov(m, v)/(mv) ≤ 2 (1-β2)/(1-β2^T) for normal g. The deviation of a single γ is m's, at most
    √((1-β1)/2), and half of v's.
    """
    regimes = ((0.9, 0.99), (0.95, 0.999), *(((0.99, 0.9999),) if run.full else ()))
    expected = limits(-1.0 if run.twin else -0.5)
    width = run.count(400, 2000)
    worst = spread = 0.0
    numbers: dict[str, float] = {}
    for beta1, beta2 in regimes:
        steps = round(2.0 / (1.0 - beta2))
        gamma = under_noise(run, adam(betas=(beta1, beta2), eps=0.0), steps=steps, width=width)
        error = (gamma.mean(1) - expected).abs()
        allowed = 2.0 * (1.0 - beta2) / (1.0 - beta2**steps) + 5.0 * gamma.std(1) / math.sqrt(width)
        deviation = (gamma - expected.unsqueeze(1)).square().mean(1).sqrt()
        worst = max(worst, float((error / allowed).max()))
        spread = max(spread, float(deviation.max()) / math.sqrt(1.0 - beta1))
        numbers |= {
            f"largest error of the mean, betas {beta1} {beta2}": float(error.max()),
            f"deviation, betas {beta1} {beta2}": float(deviation.max()),
        }
    return Evidence(
        Verdict.SUPPORTED if worst <= 1.0 and spread <= 1.0 else Verdict.REFUTED,
        "statistics",
        f"mean of γ off by {worst:.3g} of the tolerance, a single γ by {spread:.3g} √(1-β1), at σ/μ = 0 to 10",
        numbers=numbers,
        margin=1.0 - max(worst, spread),
        budget={"coordinates": width * len(NOISE), "regimes": len(regimes)},
        seed=run.seed,
    )


BETAS = (0.9, 0.999)
_RATIO = (1.0 - BETAS[1]) * (1.0 + BETAS[0]) / (1.0 - BETAS[0])
"""Relative variance of an EMA of m², up to a factor of order 1: the small parameter of D7's regime."""


def _mean_square(run: Run, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the mean of γ² at each noise level and how far sampling and the regime may move it, relatively."""
    width = run.count(400, 4000)
    squares = under_noise(run, rule, steps=run.count(2000, 5000), width=width).square()
    mean = squares.mean(1)
    return mean, 4.0 * _RATIO + 5.0 * squares.std(1) / mean / math.sqrt(width)


def adam_mean_square() -> Tensor:
    """Return ``(μ² + σ²(1-β1)/(1+β1))/(μ²+σ²)``: E m² over E g²."""
    noise = torch.tensor(NOISE, dtype=torch.float64).square()
    return (1.0 + noise * (1.0 - BETAS[0]) / (1.0 + BETAS[0])) / (1.0 + noise)


def linf_is_blind(run: Run) -> Evidence:
    """D7-blind: the root mean square of the ℓ∞ rule's γ is about 1 at every noise level; the control asks textbook Adam."""
    mean, allowed = _mean_square(run, adam(betas=BETAS, eps=0.0) if run.twin else deva_linf(betas=BETAS, eps=0.0))
    error = (mean - 1.0).abs() / allowed
    return Evidence(
        Verdict.SUPPORTED if float(error.max()) <= 1.0 else Verdict.REFUTED,
        "statistics",
        "root mean square of γ " + ", ".join(f"{float(x) ** 0.5:.3f}" for x in mean) + f" at σ/μ = {', '.join(f'{x:g}' for x in NOISE)}",
        numbers={f"rms of γ at σ/μ = {s:g}": float(x) ** 0.5 for s, x in zip(NOISE, mean, strict=True)},
        margin=1.0 - float(error.max()),
        budget={"coordinates": run.count(400, 4000) * len(NOISE), "steps": run.count(2000, 5000)},
        seed=run.seed,
    )


def noise_violation(*, values: list[int], steps: int, betas: list[float], variant: str = "full") -> float:
    """Return ``E γ_ℓ∞² - E γ_Adam²`` after some steps of i.i.d. gradients that take each value equally often, by the library.

    All sequences are run, one per coordinate, so that the expectation is exact.
    """
    x = torch.tensor(list(itertools.product(values, repeat=steps)), dtype=torch.float64).T
    own = decompose(x, kind="deva_linf", variant=variant, betas=tuple(betas), eps=0.0).variance_adaptation[-1]
    book = decompose(x, kind="adam", betas=tuple(betas)).variance_adaptation[-1]
    return float((own.square() - book.square()).mean())


def linf_sees_noise(run: Run) -> Evidence:
    """D7-linf: E γ² of the ℓ∞ rule against Adam's ``(μ² + σ²(1-β1)/(1+β1))/(μ²+σ²)``; the control lets v average g² (`snr`)."""
    variant = "snr" if run.twin else "full"
    mean, allowed = _mean_square(run, deva_linf(variant=variant, betas=BETAS, eps=0.0))
    expected = adam_mean_square()
    excess = (mean - expected).abs() / expected
    statistics = bool((excess > allowed).any())
    beta1, beta2 = (Fraction(str(b)) for b in BETAS)
    tracked = "gradient" if run.twin else "momentum"
    numbers: dict[str, float] = {f"E γ² at σ/μ = {s:g}": float(x) for s, x in zip(NOISE, mean, strict=True)}
    exact: dict[int, Fraction] = {}
    for steps in (2, 3):
        own, book = (
            sum((gamma_squared(h, beta1, beta2, tracked=t) for h in itertools.product((0, 1), repeat=steps)), Fraction(0)) / 2**steps
            for t in (tracked, "gradient")
        )
        exact[steps] = own - book
        numbers |= {f"E γ² of the rule, {{0, 1}}, t = {steps}": float(own), f"E γ² of Adam, {{0, 1}}, t = {steps}": float(book)}
    refuted = statistics and exact[2] > 0
    example = Counterexample(
        "D7-linf",
        "Noise lowers the ℓ∞ rule's γ as it lowers Adam's. False: i.i.d. gradients 0 or 1 with equal chances, all four histories of two "
        "steps, betas (.9, .999); violation: E γ² minus Adam's E γ².",
        "paper_checks.vector_noise:noise_violation",
        {"values": [0, 1], "steps": 2, "betas": list(BETAS)},
        0.3,
    )
    return Evidence(
        Verdict.REFUTED if refuted else (Verdict.INCONCLUSIVE if statistics or exact[2] else Verdict.SUPPORTED),
        "statistics and exact rationals",
        f"E γ² {float(mean[-1]):.3g} at σ/μ = 10 where Adam has {float(expected[-1]):.3g}; "
        f"exactly {float(exact[2]):.3g} more for two gradients of {{0, 1}}",
        numbers=numbers,
        margin=float((excess - allowed).max()),
        budget={"coordinates": run.count(400, 4000) * len(NOISE), "steps": run.count(2000, 5000)},
        seed=run.seed,
        counterexample=example if refuted else None,
    )
