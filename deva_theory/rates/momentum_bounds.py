r"""R5: momentum and one sample per step, ``m_t = β m_{t-1} + (1-β) ĝ_t``, ``x_{t+1} = x_t - η Γ_t ⊙ sign(m_t)``.

Setting of all bounds here: m starts at 0, so m_0 = (1-β)ĝ_0; ĝ_t = ∇f(x_t) + n_t with E n_t = 0 and E n_{t,i}² ≤ σ_i² given the past
(all noises before t); 0 ≤ Γ_t ≤ γ_max, with any dependence on the past and on the current noise; f bounded below; and

    ‖∇f(x) - ∇f(y)‖_1 ≤ L ‖x - y‖_∞   for x, y on the segment between successive iterates.                   (L)

At the iterates alone it is not enough: f = 1 - cos x, x_0 = π/2 and η = 2π have ∇f(x_1) = ∇f(x_0) after a step that gains nothing.

Common part of the proofs.  Let e_t = m̃_t - ∇f(x_t), m̃_t any positive multiple of m_t (it has the same signs).

1. (L) gives f(x_{t+1}) ≤ f(x_t) - η<∇f(x_t), d_t> + ½L‖ηd_t‖_∞², ‖d_t‖_∞ ≤ γ_max: integrate <∇f(x_t - sηd) - ∇f(x_t), d>, at most
   ‖·‖_1‖·‖_∞ ≤ Lsη‖d‖_∞², over s in [0, 1].
2. Wrong signs: -∂_i sign(m̃_i) ≤ -|∂_i| + 2|e_i| as in R2; times γ_i ≤ γ_max: -<∇f, d> ≤ -‖∇f‖_{1,Γ} + 2γ_max‖e_t‖_1.
3. Sum over t, in expectation, f(x_T) ≥ f*, divide by ηT:

       avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max avg E‖e_t‖_1 .                                        (E)

What is left is the error e_t: a *drift*, because m remembers gradients of earlier points, *noise*, and the *start* at 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deva_theory.rates.statement import AssumptionError, Bound, Numbers, descent_terms, finite, inputs, total
from deva_theory.rates.vector_bounds import BELOW, best_step

LIPSCHITZ = "‖∇f(x)-∇f(y)‖_1 ≤ L‖x-y‖_∞ for x, y on the segment between successive iterates"
ORACLE = "unbiased gradients, conditional variance ≤ σ_i² per coordinate, one sample per step"
FACTORS = "0 ≤ Γ ≤ γ_max, with any dependence on the past and on the current noise"
ASSUMPTIONS = (BELOW, LIPSCHITZ, ORACLE, FACTORS)
"""Of every bound of this module."""


def momentum(
    gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, sigma: Numbers, first_gradient: Numbers, *, beta: Numbers,
    gamma_max: Numbers = 1.0,
) -> Bound:
    r"""R5, batch 1: the rate of sign descent with momentum, at any η and β.

    avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max [‖∇f(x_0)‖_1/(T(1-β)) + βηLγ_max/(1-β) + √((1-β)/(1+β)) Σσ_i]

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η.
    L : number or array
        Of (L), from the max-norm to the 1-norm: ‖H‖_{∞→1}, at least L_∞, for quadratics.
    sigma : number or array
        ‖σ‖_1 = Σ_i σ_i, already summed.
    first_gradient : number or array
        ‖∇f(x_0)‖_1.
    beta, gamma_max : number or array
        β and the upper bound on Γ.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness``, ``start``, ``drift`` and ``noise``.

    Notes
    -----
    SPEC R5.  Proof, from (E) with m̃ = m.

    4. *Recursion.* e_t = β e_{t-1} + β(∇f(x_{t-1}) - ∇f(x_t)) + (1-β) n_t, and e_0 = -β∇f(x_0) + (1-β) n_0: subtract ∇f(x_t) from
       m_t = β m_{t-1} + (1-β)(∇f(x_t) + n_t).
    5. *Solved.* e_t = -β^{t+1}∇f(x_0) + Σ_{s=1..t} β^{t-s+1}(∇f(x_{s-1}) - ∇f(x_s)) + Σ_{s≤t} (1-β)β^{t-s} n_s.
    6. *Start.* Σ_t β^{t+1} = β(1-β^T)/(1-β) ≤ 1/(1-β).
    7. *Drift.* By (L) each difference is at most ηLγ_max in the 1-norm, and Σ_{k=1..t} β^k = β(1-β^t)/(1-β) ≤ β/(1-β).
    8. *Noise.* The n_s are orthogonal in each coordinate (martingale differences), so the variance of the last sum is at most
       σ_i² (1-β)² Σ_{k≤t} β^{2k} = σ_i² (1-β)/(1+β) (1-β^{2t+2}) ≤ σ_i² (1-β)/(1+β); Jensen: E|·| ≤ the root.
    9. Average 6-8 over t, put them into (E).  ∎

    `momentum_sharp` keeps the sums of 6-8; `momentum_corrected` has no start term.
    """
    gap, steps, eta, L, sigma, first_gradient, beta, gamma_max = inputs(
        "R5", gap=gap, steps=steps, eta=eta, L=L, sigma=sigma, first_gradient=first_gradient, beta=beta, gamma_max=gamma_max
    )
    room, terms = 1 - beta, descent_terms(gap, steps, eta, L, gamma_max)
    return total(
        "R5: avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max[‖∇f(x_0)‖_1/(T(1-β)) + βηLγ_max/(1-β) + √((1-β)/(1+β)) Σσ_i]", ASSUMPTIONS,
        "l1_weighted", **terms, start=2 * gamma_max * (first_gradient / (steps * room)), drift=4 * (beta / room) * terms["smoothness"],
        noise=2 * gamma_max * ((room / (1 + beta)).sqrt() * sigma),
    )


def momentum_sharp(
    gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, sigma: Numbers, first_gradient: Numbers, *, beta: Numbers,
    gamma_max: Numbers = 1.0,
) -> Bound:
    r"""R5 with its sums kept: never above `momentum`, and R2's bound with B = 1 at β = 0.

    In the brackets of `momentum`:

    * start ‖∇f(x_0)‖_1 β(1-β^T)/(T(1-β));
    * drift ηLγ_max β/(1-β) · [1 - (1-β^T)/(T(1-β))];
    * noise √((1-β)/(1+β)) √(1 - β²(1-β^{2T})/(T(1-β²))) Σσ_i.

    Parameters
    ----------
    gap, steps, eta, L, sigma, first_gradient, beta, gamma_max
        As in `momentum`.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness``, ``start``, ``drift`` and ``noise``.

    Notes
    -----
    SPEC R5, improved.  Proof: steps 1-8 of `momentum`.  The start is the sum of step 6 itself.  The drift is the average of
    β(1-β^t)/(1-β) over t < T, Σ_t β^t = (1-β^T)/(1-β).  The noise is the average of √(1-β^{2t+2}), by Jensen at most the root of the
    average, Σ_t β^{2t+2} = β²(1-β^{2T})/(1-β²).  ∎

    Next to β = 1 the brackets are differences of nearly equal numbers; they are summed as series there, to a few units in the last place.
    """
    gap, steps, eta, L, sigma, first_gradient, beta, gamma_max = inputs(
        "R5", gap=gap, steps=steps, eta=eta, L=L, sigma=sigma, first_gradient=first_gradient, beta=beta, gamma_max=gamma_max
    )
    room, log, terms = 1 - beta, beta.log(), descent_terms(gap, steps, eta, L, gamma_max)
    # 1-β² as a product: the square of β is rounded to 1 before β is.
    squared, of_squares = room * (1 + beta), 2 * log
    # 1 - β²M = (1-M) + (1-β²)M for the mean M of the β^{2t}: a sum of positive numbers.
    kept = _mean_missing(of_squares, squared, steps) + squared * _mean_power(of_squares, squared, steps)
    return total(
        "R5, sums kept: avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max avg E‖m-∇f‖_1, start and drift summed exactly", ASSUMPTIONS,
        "l1_weighted", **terms, start=2 * gamma_max * (first_gradient * (beta * _mean_power(log, room, steps))),
        drift=4 * (beta * (_mean_missing(log, room, steps) / room)) * terms["smoothness"],
        noise=2 * gamma_max * ((room / (1 + beta)).sqrt() * kept.sqrt() * sigma),
    )


def momentum_corrected(
    gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, sigma: Numbers, *, beta: Numbers, gamma_max: Numbers = 1.0,
) -> Bound:
    r"""R5 without ``‖∇f(x_0)‖_1``, for the same method: m and its bias-corrected form m/(1-β^{t+1}) have the same signs.

    avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max [ηLγ_max min{β/(1-β), (T-1)/4} + √((1-β)/(1+β) + a) Σσ_i],
    a = min{(1 + ln T)/T, 2β/(T(1-β²))}

    Parameters
    ----------
    gap, steps, eta, L, sigma, beta, gamma_max
        As in `momentum`.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness``, ``drift`` and ``noise``.

    Notes
    -----
    SPEC R5, improved.  Proof, from (E) with m̃_t = m_t/(1-β^{t+1}).

    4. m̃_t = Σ_{k=0..t} a_k ĝ_{t-k}, a_k = (1-β)β^k/(1-β^{t+1}), which are weights of sum 1; so e_t = Σ a_k (∇f(x_{t-k}) - ∇f(x_t)) +
       Σ a_k n_{t-k}: a start at 0 has no part in it.
    5. *Drift.* By (L) at most ηLγ_max Σ_k k a_k.  The mean of k under these weights is at most that of the whole geometric law,
       β/(1-β), and at most t/2, as the weights do not increase (Chebyshev's sum inequality); the average of t/2 is (T-1)/4.
    6. *Noise.* With n = t+1, Σ a_k² = (1-β)/(1+β) · (1+β^n)/(1-β^n) = (1-β)/(1+β) + r_n, r_n = 2β^n(1-β)/((1+β)(1-β^n)).
    7. r_n ≤ 1/n: (1-β^n)/(1-β) = Σ_{k<n} β^k ≥ nβ^{(n-1)/2} and 1+β ≥ 2√β, by the inequality of the means, so r_n ≤ β^n/(nβ^{n/2}) ≤
       1/n.  And r_n ≤ 2β^n/(1+β), as 1-β ≤ 1-β^n.
    8. Averages over n = 1 … T: of 1/n at most (1 + ln T)/T, of 2β^n/(1+β) at most 2β/(T(1-β²)).  Jensen twice, E|·| ≤ √E(·)² and
       the average of roots ≤ the root of the average.  ∎
    """
    gap, steps, eta, L, sigma, beta, gamma_max = inputs(
        "R5, bias-corrected", gap=gap, steps=steps, eta=eta, L=L, sigma=sigma, beta=beta, gamma_max=gamma_max
    )
    room, terms = 1 - beta, descent_terms(gap, steps, eta, L, gamma_max)
    extra = torch.minimum((1 + steps.log()) / steps, 2 * beta / (steps * room * (1 + beta)))
    memory = torch.minimum(beta / room, (steps - 1) / 4)
    return total(
        "R5, bias-corrected: avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + ηLγ_max²/2 + 2γ_max[ηLγ_max min{β/(1-β), (T-1)/4} + √((1-β)/(1+β) + a) Σσ_i]",
        ASSUMPTIONS, "l1_weighted", **terms, drift=4 * memory * terms["smoothness"],
        noise=2 * gamma_max * ((room / (1 + beta) + extra).sqrt() * sigma),
    )


def schedule(steps: Numbers) -> tuple[Tensor, Tensor]:
    """Return R5's ``β = 1 - T^{-1/2}`` and ``η = T^{-3/4}``.

    Parameters
    ----------
    steps : number or array
        T, known before the run.

    Raises
    ------
    AssumptionError
        T is so large that β is 1 in float64.
    """
    (steps,) = inputs("R5's schedule", steps=steps)
    beta = 1 - steps.rsqrt()
    if bool((beta == 1).any()):
        raise AssumptionError(f"R5's schedule assumes a T for which 1 - T^{{-1/2}} is below 1 in float64, T < 8e31; T is {steps.max():g}")
    return beta, steps.pow(-0.75)


def momentum_schedule(
    gap: Numbers, steps: Numbers, L: Numbers, sigma: Numbers, first_gradient: Numbers, *, gamma_max: Numbers = 1.0
) -> Bound:
    r"""R5 with β = 1 - T^{-1/2}, η = T^{-3/4}: at most ``T^{-1/4} [Δ + Lγ_max²/2 + 2γ_max(‖∇f(x_0)‖_1 + Lγ_max + Σσ_i)]``.

    Parameters
    ----------
    gap, steps, L, sigma, first_gradient, gamma_max
        As in `momentum`.

    Returns
    -------
    Bound
        Of `momentum`, term by term (the value is smaller than the formula above).

    Notes
    -----
    SPEC R5.  Proof of the order, with 1-β = T^{-1/2} and T ≥ 1, term by term: Δ/(ηT) = ΔT^{-1/4}; ηL/2 = LT^{-3/4}/2;
    ‖∇f(x_0)‖_1/(T(1-β)) = ‖∇f(x_0)‖_1 T^{-1/2}; βηL/(1-β) ≤ LT^{-1/4}; √((1-β)/(1+β)) ≤ T^{-1/4} as 1+β ≥ 1.  ∎

    T steps cost T samples: N^{-1/4} in samples, as R2 has with N = T².
    """
    beta, eta = schedule(steps)
    bound = momentum(gap, steps, eta, L, sigma, first_gradient, beta=beta, gamma_max=gamma_max)
    chosen = "β = 1-T^{-1/2}, η = T^{-3/4}"
    return replace(bound, statement=bound.statement.replace("R5:", f"R5, {chosen}:"), assumptions=(*bound.assumptions, chosen))


def momentum_best(
    gap: Numbers, steps: Numbers, L: Numbers, sigma: Numbers, first_gradient: Numbers, *, gamma_max: Numbers = 1.0
) -> Bound:
    r"""R5 with β = 1 - T^{-1/2} at its best η: ``2√(cΔ/T) + 2γ_max‖∇f(x_0)‖_1/√T + 2γ_max √((1-β)/(1+β)) Σσ_i``.

    Parameters
    ----------
    gap, steps, L, sigma, first_gradient, gamma_max
        As in `momentum`, Δ > 0, L > 0 and γ_max > 0.

    Returns
    -------
    Bound
        Of `momentum` at `momentum_best_step`.

    Notes
    -----
    SPEC R5.  Proof: of the terms of `momentum` Δ/(ηT) and cη, with c = Lγ_max²(½ + 2β/(1-β)), depend on η; their sum is least at
    η = √(Δ/(cT)), where both are √(cΔ/T).  ∎  The order stays T^{-1/4}, since c ≤ 2Lγ_max²√T.
    """
    beta, _ = schedule(steps)
    eta = momentum_best_step(gap, steps, L, gamma_max=gamma_max)
    bound = momentum(gap, steps, eta, L, sigma, first_gradient, beta=beta, gamma_max=gamma_max)
    chosen = "β = 1-T^{-1/2}, best η"
    return replace(bound, statement=bound.statement.replace("R5:", f"R5, {chosen}:"), assumptions=(*bound.assumptions, chosen))


def momentum_best_step(gap: Numbers, steps: Numbers, L: Numbers, *, gamma_max: Numbers = 1.0) -> Tensor:
    """Return ``√(Δ/(cT))``, c = Lγ_max²(½ + 2β/(1-β)), β = 1 - T^{-1/2}: see `momentum_best`.

    Parameters
    ----------
    gap, steps, L, gamma_max
        As in `momentum_best`.
    """
    beta, _ = schedule(steps)
    L, gamma_max, beta = inputs("R5 at its best η", curvature=L, gamma_max=gamma_max, beta=beta)
    # R1's, for twice c.
    return best_step(gap, steps, finite("R5 at its best η", L * gamma_max.square() * (1 + 4 * beta / (1 - beta))))


def momentum_order(
    gap: Numbers, L: Numbers, sigma: Numbers, first_gradient: Numbers, *, gamma_max: Numbers = 1.0
) -> Tensor:
    """Return C = Δ + Lγ_max²/2 + 2γ_max(‖∇f(x_0)‖_1 + Lγ_max + Σσ_i), for which `momentum_schedule` is at most C T^{-1/4} for every T.

    Parameters
    ----------
    gap, L, sigma, first_gradient, gamma_max
        As in `momentum`.

    Notes
    -----
    SPEC R5; the proof is in `momentum_schedule`.
    """
    gap, L, sigma, first_gradient, gamma_max = inputs(
        "R5's order", gap=gap, L=L, sigma=sigma, first_gradient=first_gradient, gamma_max=gamma_max
    )
    reach = L * gamma_max
    return finite("R5's order", gap + reach * gamma_max / 2 + 2 * gamma_max * (first_gradient + reach + sigma))


def momentum_plateau(
    L: Numbers, sigma: Numbers, *, beta: Numbers, eta: Numbers | None = None, gamma_max: Numbers = 1.0
) -> Bound:
    r"""R5's limit as T → ∞ at fixed β: ``2γ_max √((1-β)/(1+β)) Σσ_i``, plus ``ηLγ_max²(½ + 2β/(1-β))`` if η is fixed too.

    Parameters
    ----------
    L, sigma, gamma_max
        As in `momentum`.
    beta : number or array
        β, fixed.
    eta : number or array, optional
        η, fixed; by default η → 0 and ηT → ∞.

    Returns
    -------
    Bound
        On the limes superior of avg E‖∇f‖_{1,Γ}; terms ``smoothness``, ``drift`` and ``noise``.

    Notes
    -----
    SPEC R5.  Proof: the terms of `momentum` with 1/T vanish.  ∎

    The plateau is not an artefact of the proof at β = 0: noise that turns every second sign makes the run a martingale on a slope, at
    every T (the ledger's R5-plateau).  At fixed β > 0, noise that is usually small and against the gradient, and rarely large and along it,
    has the same effect in simulated runs (a test).
    """
    still = eta is None
    L, sigma, beta, gamma_max, eta = inputs(
        "R5's plateau", L=L, sigma=sigma, beta=beta, gamma_max=gamma_max, eta=1.0 if eta is None else eta
    )
    if still:
        eta = torch.zeros_like(eta)
    room, smoothness = 1 - beta, (eta * gamma_max) * (L * gamma_max) / 2
    return total(
        "R5, T → ∞: limsup avg E‖∇f‖_{1,Γ} ≤ ηLγ_max²/2 + 2γ_max[βηLγ_max/(1-β) + √((1-β)/(1+β)) Σσ_i]", ASSUMPTIONS, "l1_weighted",
        smoothness=smoothness, drift=4 * (beta / room) * smoothness, noise=2 * gamma_max * ((room / (1 + beta)).sqrt() * sigma),
    )


def _mean_power(log: Tensor, room: Tensor, steps: Tensor) -> Tensor:
    """Return the average of b^t over t = 0 … T-1 from ln b and 1-b, also next to b = 1."""
    # 1 - b^T = -expm1(T ln b); at b = 0 the logarithm is -∞ and the numerator 1, as it should be.
    return -torch.expm1(steps * log) / (steps * room)


_SERIES = 20
"""Terms where T(1-b) ≤ 1: they fall faster than 1/k!."""


def _mean_missing(log: Tensor, room: Tensor, steps: Tensor) -> Tensor:
    """Return 1 minus that average.

    The difference loses digits where T(1-b) is small; there the binomial series Σ_{k≥2} (-1)^k C(T,k) (1-b)^{k-1}/T takes its place.
    """
    term = (steps - 1) / 2 * room
    series = term
    for k in range(2, _SERIES):
        term = -term * (steps - k) * room / (k + 1)
        series = series + term
    return torch.where(steps * room <= 1, series, 1 - _mean_power(log, room, steps))
