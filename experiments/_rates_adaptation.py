r"""R4: diagonal quadratics on which factors Γ help, and where they hurt, in the unweighted norm ‖∇f‖_1, with proofs.

*Setting.*  ``f = ½ Σ L_i x_i²``, exact gradients, ``x_0,i = r_i (1 + u_i)`` with r > 0 and independent u_i uniform on [0, δ].  Fixed
factors Γ > 0, ``x⁺ = x - ηΓ⊙sign(∇f)``: every coordinate is sign descent with its own step ``h = ηγ_i``.  A_T(Γ) is the infimum, over
all constant η, of the expected average E (1/T) Σ_{t<T} ‖∇f(x_t)‖_1.  From one fixed start a lucky η lands on 0 exactly in every
coordinate (r = (1/Λ, 1) at η = 1/Λ), and the average then is of order 1/T; from a random start every η lands with probability 0.

*One coordinate.*  Where x ≠ 0, ``½(x - h sign x)² = ½x² - h|x| + ½h²``; summed over t < T, without landing,

    avg |x_t| = (x_0² - x_T²)/(2hT) + h/2.

If x_0 ≥ hT, x_T = x_0 - hT.  Else x has crossed 0, |x_T| ≤ h.  With ``H_x(q) = x²/(2q)`` for q ≥ x and ``x - q/2`` for q ≤ x,

    H_{x_0}(hT) + ½h(1 - 1/T)  ≤  avg |x_t|  ≤  H_{x_0}(hT) + ½h.

*Expectation.*  H is convex in x and concave as a function of x², so by Jensen H at E x_0 = (1 + δ/2) r and at √E x_0² = κr,
κ² = 1 + δ + δ²/3, are below and above E H_{x_0}.  Hence `bracket`,

    min_η Σ L_i [H_{(1+δ/2)r_i}(ηγ_iT) + ½ηγ_i(1 - 1/T)]  ≤  A_T(Γ)  ≤  min_η Σ L_i [H_{κr_i}(ηγ_iT) + ½ηγ_i],

for every T ≥ 2; a factor of κ/(1 + δ/2)/√(1 - 1/T) at most lies between the two (1.0006 for T = 2048).  ∎

*Large T.*  With ``C(Γ) = √(Σ L_i r_i²/γ_i · Σ L_i γ_i)`` and H_x(q) ≤ x²/(2q), A_T ≤ κC(Γ)/√T; once the best η lets every coordinate
cross, A_T ≥ (1 + δ/2) √(1 - 1/T) C(Γ)/√T.  **For large T, Γ is faster than Γ ≡ 1 if C(Γ) < C(1), slower if C(Γ) > C(1).**  By
Cauchy-Schwarz C(Γ) ≥ ΣL_ir_i, with equality exactly for Γ ∝ r = |g_i|/L_i: SPEC S7's best Γ, where C(Γ)/C(1) = √ρ.

*Family.*  L = (Λ, 1), r = (1/Λ, 1): one coordinate is stiff and near its minimum, one flat and far away.  Γ ∝ r^s.  At s = 1,
``C(Γ)/C(1) = 2/√(Λ + 2 + 1/Λ)``: faster.  At s = -1, the opposite order, ``C(Γ)/C(1) = (Λ + 1/Λ)/√(Λ + 2 + 1/Λ)``: slower.

*What ρ tells.*  For Γ ∝ r^s, s ≤ 1, r not constant: **ρ < 1 ⇔ C(Γ) < C(1) ⇔ s > 0**, a theorem, so that runs cannot disagree.
With the convex ``K(a) = log Σ L_i r_i^a``: log ρ = K(2s) + 2K(1) - 2K(1+s) - K(0), and
2 log C(Γ)/C(1) = K(2-s) + K(s) - K(2) - K(0).  For 0 ≤ s ≤ 1 (1+s, 1+s, 0) majorises (2s, 1, 1) and (2, 0) majorises (2-s, s); for
s ≤ 0 both the other way round (Karamata).  Strictly, since K is strictly convex.  In general ρ < 1 proves nothing: Γ ∝ r^s with s > 2
has C(Γ) > C(1) and may have ρ < 1, as L = (10, 1), r = (.1, 1), s = 5: ρ = .36, C(Γ)/C(1) = 28.7.  A coordinate with hardly any speed
does not show in the decrease of a single step.

*AdaGrad at its best η is faster for large T.*  x⁺ = x - ηx/z_t, z_t² = Σ_{s≤t} x_s², in each coordinate, and any η ≤ min r_i:
0 ≤ 1 - η/z_t < 1, so x falls and keeps its sign.  z_T = Σ_t x_t²/z_T ≤ Σ_t x_t²/z_t = Σ_t x_t(x_t - x_{t+1})/η ≤ x_0²/η, so
x_{t+1} ≤ (1 - η²/x_0²) x_t, and Σ_t |x_t| ≤ x_0³/η².  Hence, x_0 ≤ (1+δ)r,

    E (1/T) Σ ‖∇f‖_1  ≤  (1+δ)³ Σ L_i r_i³/(η²T):

order 1/T on every diagonal quadratic, against A_T(1) of order T^{-1/2}, below which SignSGD does not get with any constant η.

*AdaGrad at SignSGD's own η is slower.*  For η = √(2Δ/(L_∞T)), Δ = ½ΣL_ir_i², that is c/√T with c² = ΣL_ir_i²/ΣL_i: as long as x
falls, z_t² ≥ (t+1)x_t², the step is at most η/√(t+1), and x_t ≥ x_0 - 2η√t.  In a coordinate with 2c ≤ r_i that is positive up to T, and
avg |x_t| ≥ r_i - (4/3)c.  So avg ‖∇f‖_1 ≥ Σ_{2c ≤ r_i} L_i (r_i - (4/3)c) for **every** T, no convergence, where SignSGD has at most
½(1 + κ²)C(1)/√T.  On the family c = Λ^{-1/2}: slower by √T (1 - (4/3)Λ^{-1/2})/(1.06 C(1)), Λ ≥ 4.  The floor holds for any c, but it is
empty where 2c exceeds every r_i: at R2's η = 1/√T, c = 1, it says nothing about the family.

*Rules that are slower at their best η.*  T = 3, L = (2, 1), r = (10⁻³, 1), δ = .1.  The stiff coordinate sums to
|x_0| + |x_1| + |x_2| ≥ x_0 + |x_0 - η| ≥ η for every rule whose first step is a sign's.  The flat one, from y = 1 + u with h = η/y, has
x_1 = y(1 - h) and x_2 = x_1(1 - h/w), where w² = 1 + (1-h)² ≥ 1 for AdaGrad and (β_2 + (1-h)²)/(1 + β_2) ≥ .49 for ℓ∞ with β_2 = .99: for
h < 1, 2η plus its sum is at least y(3 - h(1-h)/w) ≥ y(3 - 1/(4w)), and for h ≥ 1 at least 3y.  E y = 1.05: at least 2.887 for AdaGrad,
2.775 for ℓ∞.  SignSGD at η = ½ has 2(½ + x_0) + 3y - 3/2, expected at most 2.653.  Slower by 8% and 4%.  The other instances of `SLOWER`,
for more steps, were found by random search and are measured, not proved; for AdaGrad with T ≥ 4 the search found none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.problems.families import DiagonalQuadratic
from deva_theory.rates.coverage import UpdateRule
from deva_theory.rates.loop import run_grid
from deva_theory.rules import Diagnostics

RULES = ("adagrad", "deva-linf")
DELTA = 0.1
"""Starting points are up to this much, relatively, beyond r."""
STARTS = 16
DIMENSIONS = (2, 6)
"""Of the random instances."""


# ---- what is proved ------------------------------------------------------------------------------


def constant(L: Tensor, r: Tensor, gamma: Tensor) -> Tensor:
    """Return ``C(Γ) = √(Σ L_i r_i²/γ_i · Σ L_i γ_i)``, coordinates on the last axis."""
    return ((L * r**2 / gamma).sum(-1) * (L * gamma).sum(-1)).sqrt()


def smoothness_ratio(L: Tensor, r: Tensor, gamma: Tensor) -> Tensor:
    """Return S7's ρ(Γ) at r."""
    g = L * r
    return (L * gamma**2).sum(-1) / (gamma * g).sum(-1) ** 2 * g.sum(-1) ** 2 / L.sum(-1)


def least_envelope(L: Tensor, x: Tensor, gamma: Tensor, steps: int, share: float) -> Tensor:
    """Return ``min_η Σ L_i [H_{x_i}(ηγ_iT) + ½ηγ_i share]``, coordinates on the last axis.

    Convex in η, and a/η + bη + c between those η at which a coordinate begins to cross 0, x_i/(γ_iT).
    """
    L, x, gamma = torch.broadcast_tensors(L, x, gamma)
    crossing, order = (x / (gamma * steps)).sort(-1)
    L, x, gamma = (values.gather(-1, order) for values in (L, x, gamma))

    def others(terms: Tensor) -> Tensor:
        """Sums over all but the first k coordinates, k = 1 … d, without cancellation."""
        return torch.cat((terms.flip(-1).cumsum(-1).flip(-1)[..., 1:], torch.zeros_like(terms[..., :1])), -1)

    # The first k have crossed.  As long as none has, larger η are better: k = 0 needs no look.
    a, c = (L * x**2 / (2 * gamma * steps)).cumsum(-1), others(L * x)
    b = 0.5 * share * (L * gamma).sum(-1, keepdim=True) - 0.5 * steps * others(L * gamma)
    until = torch.cat((crossing[..., 1:], torch.full_like(crossing[..., :1], torch.inf)), -1)
    eta = torch.where(b > 0, (a / b.where(b > 0, 1.0)).sqrt(), until)
    eta = torch.minimum(torch.maximum(eta, crossing), until)
    return (a / eta + b * eta + c).amin(-1)


def bracket(L: Tensor, r: Tensor, gamma: Tensor, steps: int, delta: float = DELTA) -> tuple[Tensor, Tensor]:
    """Return the proved lower and upper bounds on A_T(Γ), coordinates on the last axis.

    Raises
    ------
    ValueError
        T < 2, or not all of L, r and Γ are positive.
    """
    if steps < 2 or not all(bool((values > 0).all()) for values in (L, r, gamma)):
        raise ValueError("the bounds are for T of at least 2 and positive L, r and Γ")
    low = least_envelope(L, (1 + delta / 2) * r, gamma, steps, 1 - 1 / steps)
    return low, least_envelope(L, (1 + delta + delta**2 / 3) ** 0.5 * r, gamma, steps, 1.0)


def adagrad_bound(L: Tensor, r: Tensor, steps: int, delta: float = DELTA) -> Tensor:
    """Return ``(1+δ)³ Σ L_i r_i³/(η²T)`` at η = min r_i: above AdaGrad's average there."""
    return (1 + delta) ** 3 * (L * r**3).sum(-1) / (r.amin(-1) ** 2 * steps)


def adagrad_floor(L: Tensor, r: Tensor) -> Tensor:
    """Return ``Σ_{2c ≤ r_i} L_i (r_i - (4/3)c)``, c² = ΣL_ir_i²/ΣL_i: below AdaGrad's average at η = c/√T for every T."""
    c = ((L * r**2).sum(-1, keepdim=True) / L.sum(-1, keepdim=True)).sqrt()
    return torch.where(2 * c <= r, L * (r - 4 / 3 * c), 0.0).sum(-1)


@dataclass(frozen=True)
class Slower:
    """An instance on which a rule, at its own best η, has the larger average ‖∇f‖_1.

    Attributes
    ----------
    method : str
        Of `RULES`.
    steps : int
        T.
    L, r : tuple of float
    proved : float
        By how much, at least, if that is proved.
    """

    method: str
    steps: int
    L: tuple[float, ...]
    r: tuple[float, ...]
    proved: float = math.nan


SLOWER = (
    Slower("adagrad", 3, (2.0, 1.0), (1e-3, 1.0), 1.08),
    Slower("deva-linf", 3, (2.0, 1.0), (1e-3, 1.0), 1.04),
    Slower("deva-linf", 32, (0.4571, 4.3), (3.355, 0.09951)),
    Slower("deva-linf", 128, (0.64, 0.02097), (0.1528, 16.6)),
    Slower("deva-linf", 512, (3.698, 0.105), (0.02483, 6.103)),
    Slower("deva-linf", 512, (0.3024, 1.806, 2.015, 0.1206, 2.475, 90.02), (90.02, 0.5492, 0.4296, 16.33, 85.99, 0.3928)),
    Slower("deva-linf", 512, (2.276, 5.586), (10.79, 0.1828)),
)


# ---- instances -----------------------------------------------------------------------------------


def family(contrasts: Sequence[float], exponents: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (L, r, Γ) of shapes ``(contrasts, exponents, 2)``, Γ = r^s scaled to largest entry 1."""
    stiff = torch.tensor(contrasts, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, len(exponents), 1)
    ones = torch.ones_like(stiff)
    L, r = torch.cat((stiff, ones), -1), torch.cat((1 / stiff, ones), -1)
    gamma = r ** torch.tensor(exponents, dtype=torch.float64).reshape(1, -1, 1)
    return L, r, gamma / gamma.amax(-1, keepdim=True)


def random_instances(count: int, dimension: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (L, r, Γ) of shapes ``(count, dimension)``, all log-normal: log of standard deviation 1.5, independent."""
    normal = torch.randn(3, count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    L, r, gamma = (1.5 * normal).exp()
    return L, r, gamma


def random_starts(r: Tensor, count: int, seed: int, delta: float = DELTA) -> Tensor:
    """Return points ``r_i (1 + u_i)``, u uniform on [0, δ], shape ``(count, *r.shape)``: one in each of `count` strata, per coordinate.

    A Latin hypercube: each point alone has the law of the setting, and sums over coordinates have averages of little variance.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *r.shape)
    strata = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(0)
    return r * (1 + delta * (strata + torch.rand(shape, generator=generator, dtype=torch.float64)) / count)


# ---- runs ----------------------------------------------------------------------------------------


def averages(L: Tensor, starts: Tensor, rule: UpdateRule, eta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Run a rule with exact gradients and constant η.

    Parameters
    ----------
    L : Tensor, shape ``(*batch, d)``
    starts : Tensor, shape ``(starts, *batch, d)``
    rule : UpdateRule
    eta : Tensor, shape ``(scales, *batch)``
    steps : int
        T.

    Returns
    -------
    (Tensor, Tensor), shapes ``(scales, *batch)``
        The averages over the run and over the starts of ‖∇f‖_1 and of ρ.
    """
    record = _Averages(L, (1, len(eta), *starts.shape[:-1]))
    run_grid(
        DiagonalQuadratic(L), rule, starts, record, horizons=[steps], eta=eta[None, :, None], oracle=None, batches=None, beta=None,
        generator=torch.Generator(),
    )
    return record.plain[0].mean(1) / steps, record.rho[0].mean(1) / steps


class _Averages:
    """Sums of ‖∇f‖_1 and of ρ; a `deva_theory.rates.loop.Recorder`."""

    def __init__(self, L: Tensor, shape: tuple[int, ...]) -> None:
        self.L, self.plain, self.rho = L, torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)

    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step."""
        gamma, size = details.variance_adaptation, gradient.abs()
        norm, weighted = size.sum(-1), (gamma * size).sum(-1)
        self.plain += norm
        # Relative to their mean: squares of tiny factors are no float64 numbers.  At a minimum ρ has no value.
        along = (self.L * (gamma * (norm / weighted).unsqueeze(-1)) ** 2).sum(-1) / self.L.sum(-1)
        self.rho += torch.where((norm > 0) & (weighted > 0), along, 1.0)


def sign_descent_average(L: Tensor, starts: Tensor, gamma: Tensor, eta: Tensor, steps: int) -> Tensor:
    """Return what `averages` has for fixed Γ, in closed form: ``Σ L_i [(x_0² - x_T²)/(2hT) + h/2]``, h = ηγ_i, where none lands on 0.

    Shapes as there, Γ's is that of L; the mean over the starts.
    """
    h = eta[:, None, ..., None] * gamma
    whole = torch.floor(starts / h)
    rest = starts - whole * h
    last = torch.where(whole >= steps, starts - steps * h, torch.where((steps - whole) % 2 == 0, rest, h - rest))
    return (L * ((starts**2 - last**2) / (2 * h * steps) + h / 2)).sum(-1).mean(1)


def own_step(L: Tensor, r: Tensor, gamma: Tensor, steps: int) -> Tensor:
    """Return the η that is best for C(Γ)/√T, ``√(Σ L_i r_i²/γ_i / (Σ L_i γ_i T))``; for Γ ≡ 1 that is R1's √(2Δ/(L_∞T)) at r."""
    return ((L * r**2 / gamma).sum(-1) / ((L * gamma).sum(-1) * steps)).sqrt()


def _grid(L: Tensor, r: Tensor, gamma: Tensor, steps: int, scales: Sequence[float]) -> Tensor:
    """Return η, shape ``(scales, *batch)``."""
    factors = torch.as_tensor(list(scales), dtype=torch.float64)
    return own_step(L, r, gamma, steps) * factors.reshape(-1, *(1,) * (r.ndim - 1))


def best_of_rule(
    L: Tensor, r: Tensor, rule: UpdateRule, steps: int, scales: Sequence[float], *, gamma: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the least of `averages` over `scales` times `own_step` (of Γ, by default 1), and ρ along those runs; shapes ``(*batch)``."""
    eta = _grid(L, r, torch.ones_like(r) if gamma is None else gamma, steps, scales)
    plain, rho = averages(L, random_starts(r, STARTS, seed), rule, eta, steps)
    least, where = plain.min(0)
    return least, rho.gather(0, where.unsqueeze(0))[0]


def best_of_factors(L: Tensor, r: Tensor, gamma: Tensor, steps: int, scales: Sequence[float], *, seed: int = 0) -> Tensor:
    """Return the same for fixed Γ, in closed form."""
    return sign_descent_average(L, random_starts(r, STARTS, seed), gamma, _grid(L, r, gamma, steps, scales), steps).amin(0)
