r"""R4: diagonal quadratics on which factors Γ help, and where they hurt, in the unweighted norm ‖∇f‖_1, with proofs.

*Setting.*  ``f = ½ Σ L_i x_i²``, ``x_0 = r > 0``, exact gradients, fixed factors Γ > 0, ``x⁺ = x - ηΓ⊙sign(∇f)``: every coordinate is sign
descent with its own step ``h = ηγ_i``.  Write ``C(Γ) = √(Σ L_i r_i²/γ_i · Σ L_i γ_i)``, and A_T for the least, over constant η, of
``(1/T) Σ_t ‖∇f(x_t)‖_1``.

*Upper bound:* ``A_T ≤ C(Γ)/√T``.  R1 for one coordinate, Δ = ½L_ir_i² and step h: the average of |∂_i f| is at most
``L_i r_i²/(2hT) + hL_i/2``.  Sum over i; the least over η of a/(ηT) + bη is 2√(ab/T), here with a = ½ΣL_ir_i²/γ_i, b = ½ΣL_iγ_i.

*Lower bound:* ``A_T ≥ min{C(Γ)/(2√T), ½ min_i L_i r_i}`` for even T, the infimum over all η but those countably many at which a coordinate
lands on 0 exactly (r_i/h a whole number).

1. |x| + |x - h sign x| ≥ h wherever x ≠ 0, so two successive |∂_i f| sum to at least L_ih, and the average is at least L_ih/2.
2. |x_t| ≥ r_i - th.  If hT ≥ r_i, Σ_t (r_i - th)_+ ≥ ∫_0^{r_i/h} (r_i - sh) ds = r_i²/(2h): the average is at least L_ir_i²/(2hT).  If
   hT < r_i, Σ_t (r_i - th) ≥ ∫_0^T = r_iT - hT²/2 ≥ r_iT/2: the average is at least L_ir_i/2, which is the second entry.
3. Else, max{u, v} ≥ ½(u + v) in every coordinate: the average of ‖∇f‖_1 is at least ½(a/(ηT) + bη) ≥ √(ab/T) = C(Γ)/(2√T).  ∎

So adaptation is **provably faster** than Γ ≡ 1 if C(Γ) < ½C(1), and **provably slower** if C(Γ) > 2C(1) (T ≥ C(Γ)² and L_ir_i ≥ 1).  By
Cauchy-Schwarz C(Γ) ≥ ΣL_ir_i, with equality exactly for Γ ∝ r = |g_i|/L_i: SPEC S7's best Γ, where C(Γ)/C(1) = √ρ.

*Family.*  L = (Λ, 1), r = (1/Λ, 1): one coordinate is stiff and near its minimum, one flat and far away.  Γ ∝ r^s.  At s = 1,
``C(Γ)/C(1) = 2/√(Λ + 2 + 1/Λ)``: faster for large Λ.  At s = -1, the opposite order, ``C(Γ)/C(1) = (Λ + 1/Λ)/√(Λ + 2 + 1/Λ)``: slower.

*AdaGrad itself is faster too.*  For x⁺ = x - ηx/z_t, z_t² = Σ_{s≤t} x_s², in each coordinate, and any η ≤ min r_i: 0 ≤ 1 - η/z_t < 1, so x
falls and keeps its sign.  z_T = Σ_t x_t²/z_T ≤ Σ_t x_t²/z_t = Σ_t x_t(x_t - x_{t+1})/η ≤ r_i²/η, so x_{t+1} ≤ (1 - η²/r_i²) x_t,
and Σ_t |x_t| ≤ r_i³/η².  Hence ``(1/T) Σ ‖∇f‖_1 ≤ Σ L_i r_i³/(η²T)``: order 1/T, against the T^{-1/2} below which SignSGD
does not get with any constant η.  ρ, which compares single steps with their own best η, does not see factors that shrink together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deva_theory.problems.families import DiagonalQuadratic
from deva_theory.rates.catalogue import METHODS
from deva_theory.rates.coverage import FixedFactors, UpdateRule
from deva_theory.rates.runner import measure

RULES = ("adagrad", "deva-linf")


def constant(L: Tensor, r: Tensor, gamma: Tensor) -> Tensor:
    """Return ``C(Γ) = √(Σ L_i r_i²/γ_i · Σ L_i γ_i)``, coordinates on the last axis."""
    return ((L * r**2 / gamma).sum(-1) * (L * gamma).sum(-1)).sqrt()


def lower_bound(L: Tensor, r: Tensor, gamma: Tensor, steps: int) -> Tensor:
    """Return ``min{C(Γ)/(2√T), ½ min_i L_i r_i}``, which no constant η can get below."""
    return torch.minimum(constant(L, r, gamma) / (2 * steps**0.5), 0.5 * (L * r).amin(-1))


def upper_bound(L: Tensor, r: Tensor, gamma: Tensor, steps: int) -> Tensor:
    """Return ``C(Γ)/√T``, which the best constant η attains."""
    return constant(L, r, gamma) / steps**0.5


def smoothness_ratio(L: Tensor, r: Tensor, gamma: Tensor) -> Tensor:
    """Return S7's ρ(Γ) at the start."""
    g = L * r
    return (L * gamma**2).sum(-1) / (gamma * g).sum(-1) ** 2 * g.sum(-1) ** 2 / L.sum(-1)


def family(contrasts: Sequence[float], exponents: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (L, r, Γ) of shapes ``(contrasts, exponents, 2)``, Γ = r^s scaled to largest entry 1."""
    stiff = torch.tensor(contrasts, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, len(exponents), 1)
    ones = torch.ones_like(stiff)
    L, r = torch.cat((stiff, ones), -1), torch.cat((1 / stiff, ones), -1)
    gamma = r ** torch.tensor(exponents, dtype=torch.float64).reshape(1, -1, 1)
    return L, r, gamma / gamma.amax(-1, keepdim=True)


def adaptation_rows(
    contrasts: Sequence[float], exponents: Sequence[float], steps: int, scales: Sequence[float]
) -> dict[str, np.ndarray | list[str]]:
    """Return, for each contrast and Γ, the least average ‖∇f‖_1 among `scales` over that of Γ ≡ 1, with what was predicted and proved.

    Parameters
    ----------
    contrasts, exponents : sequence of float
        Λ and s.
    steps : int
        T, even.
    scales : sequence of float
        Multiples of √(2Δ/(L_∞T)) among which each method has its best.

    Returns
    -------
    dict
        Columns ``method`` ("power" for Γ ∝ r^s, or a rule), ``contrast``, ``exponent`` (NaN for rules), ``rho`` (at the start; for
        rules the average over the run), ``ratio`` (measured), ``proved_low``, ``proved_high`` (of the ratio; NaN for rules).
    """
    L, r, gamma = family(contrasts, exponents)
    problem, start = DiagonalQuadratic(L), r.unsqueeze(0)

    def best(rule: UpdateRule) -> tuple[Tensor, Tensor]:
        runs = measure(problem, rule, statement="R1", steps=[steps], scales=scales, start=start)
        average, where = runs.plain[0, :, 0].min(0)
        return average, runs.ratio[0, :, 0].gather(0, where.unsqueeze(0))[0]

    ones = torch.ones_like(gamma)
    plain, _ = best(FixedFactors(ones))
    adapted, _ = best(FixedFactors(gamma, "powers of the distance"))
    low = lower_bound(L, r, gamma, steps) / upper_bound(L, r, ones, steps)
    high = upper_bound(L, r, gamma, steps) / lower_bound(L, r, ones, steps)
    rho = smoothness_ratio(L, r, gamma)
    rows = [
        ("power", Lambda, s, rho[i, j], adapted[i, j] / plain[i, j], low[i, j], high[i, j])
        for i, Lambda in enumerate(contrasts) for j, s in enumerate(exponents)
    ]
    for name in RULES:
        average, along = best(METHODS[name].rule(1))
        rows += [(name, Lambda, np.nan, along[i, 0], average[i, 0] / plain[i, 0], np.nan, np.nan) for i, Lambda in enumerate(contrasts)]
    names = ("contrast", "exponent", "rho", "ratio", "proved_low", "proved_high")
    return {"method": [row[0] for row in rows]} | {key: np.asarray([float(row[k + 1]) for row in rows]) for k, key in enumerate(names)}
