r"""What is known of related methods, with the interface of the numbered statements, and a table of all of them.

Every constant here is proved in the docstring of its function, in our notation; none is quoted.  Where a source is named, it is the
origin of the method and of the kind of statement.  To compare methods on one instance, bring the left sides together first:
`l1_from_l2` for the Euclidean ones, `conversion` for weighted ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deva_theory.rates.matrix_bounds import DESCENT as MATRIX_DESCENT
from deva_theory.rates.matrix_bounds import SECOND_MOMENT, nuclear_noise, singular_weighted
from deva_theory.rates.momentum_bounds import ASSUMPTIONS as MOMENTUM
from deva_theory.rates.momentum_bounds import momentum_best, momentum_schedule
from deva_theory.rates.statement import AssumptionError, Bound, Numbers, about, balanced_terms, descent_terms, inputs, summed, total
from deva_theory.rates.vector_bounds import (
    BELOW,
    DESCENT,
    EXACT,
    FREE,
    VARIANCE,
    deterministic_best,
    stochastic,
    stochastic_best,
    stochastic_paper_setting,
)

COORDINATES = "f(y) ≤ f(x) + <∇f(x), y-x> + ½ Σ L_i (y_i-x_i)²"
EUCLIDEAN = "f(y) ≤ f(x) + <∇f(x), y-x> + ½L‖y-x‖_2²"
EUCLIDEAN_MOMENT = "E‖ĝ - ∇f‖_2² ≤ σ²/B given the past (B i.i.d. unbiased samples with E‖g - ∇f‖_2² ≤ σ² each)"
UNBIASED = "E ĝ = ∇f and E‖ĝ - ∇f‖_2² ≤ σ²/B given the past"


def signsgd(gap: Numbers, steps: Numbers, L: Numbers, sigma: Numbers) -> Bound:
    r"""SignSGD, B = T, η = 1/√(‖L‖_1 T): ``(1/T) Σ_t E‖∇f(x_t)‖_1 ≤ (1/√T)[√‖L‖_1 (Δ + ½) + 2‖σ‖_1]``.

    Parameters
    ----------
    gap, steps : number or array
        Δ and T.
    L : number or array
        ‖L‖_1 = Σ L_i > 0; L_∞, which is at most that (SPEC S4), serves as well.
    sigma : number or array
        ‖σ‖_1 = Σ σ_i, see `noise_moment`.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``.

    Notes
    -----
    The method and the setting of Bernstein, Wang, Azizzadenesheli and Anandkumar (2018), Theorem 1, who assume smoothness from above and
    from below, and unbiased samples; from above is enough here, and samples without bias are what makes the noise fall as 1/√B.  The
    constant is proved here.  Proof: R2 with Γ ≡ 1 (`stochastic`), where L_Γ = sup_{|u_i| ≤ 1} Σ L_i u_i² = ‖L‖_1, E γ² = 1, B = T; the
    step size makes Δ/(ηT) = Δ√(‖L‖_1/T) and η‖L‖_1/2 = ½√(‖L‖_1/T).  ∎  In samples, N = T², the rate is N^{-1/4}.

    This η is not dimensionally consistent (the sum Δ + ½ depends on the unit of f), that of `stochastic_best` is.
    """
    gap, steps, L, sigma = inputs("SignSGD", gap=gap, steps=steps, curvature=L, sigma=sigma)
    return replace(
        stochastic(gap, steps, 1 / (L.sqrt() * steps.sqrt()), L, sigma, batch=steps), left="l1",
        statement="SignSGD, B = T, η = 1/√(‖L‖_1T): avg E‖∇f‖_1 ≤ (1/√T)[√‖L‖_1 (Δ + ½) + 2‖σ‖_1]",
        assumptions=(BELOW, COORDINATES, VARIANCE, "B = T, η = 1/√(‖L‖_1T)"),
    )


def muon(gap: Numbers, steps: Numbers, L: Numbers, sigma: Numbers, rank: Numbers, *, batch: Numbers = 1) -> Bound:
    r"""Spectral descent (Muon without momentum, exact msign) at η = √(2Δ/(L_S T)): ``avg E‖∇f‖_* ≤ √(2ΔL_S/T) + 2σ√(r/B)``.

    Parameters
    ----------
    gap, steps, L : number or array
        Δ > 0, T and L_S > 0.
    sigma : number or array
        The root of a bound on E‖G - ∇f‖_F² for one sample.
    rank : number or array
        r, a bound on the rank of Ĝ - ∇f, the error of the mean (see `nuclear_noise`); min(m, n) always is one.
    batch : number or array
        B, i.i.d. unbiased samples.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``.

    Notes
    -----
    Direction as in Carlson et al. (2015), whose step has a length proportional to ‖Ĝ‖_*; Jordan et al. (2024) with momentum.  The constant
    is proved here.  Proof: R3 with Γ ≡ 1 (`spectral`), noise bounded as in `nuclear_noise`; the best η as in `deterministic_best`.  ∎
    """
    gap, steps, L = inputs("Muon", distance=gap, steps=steps, curvature=L)
    return total(
        "Muon, best η: avg E‖∇f‖_* ≤ √(2ΔL_S/T) + 2σ√(r/B)",
        (BELOW, MATRIX_DESCENT, SECOND_MOMENT, "D = msign(Ĝ), exact", "η = √(2Δ/(L_ST))"), "nuclear",
        **balanced_terms(gap, steps, L), noise=2 * nuclear_noise(sigma, rank, batch=batch),
    )


def adagrad_measured(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, growth: Numbers) -> Bound:
    r"""AdaGrad with its measured sums: ``(1/T) Σ_t ‖∇f(x_t)‖_1 ≤ (1/√T)[Δ/η + (η/2) Σ_i L_i (1 + ln(S_{T,i}/S_{1,i}))]``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η in x⁺ = x - ηg/√S, S_t = Σ_{s≤t} g_s² with the current gradient, exact gradients, no ε.
    L : number or array (…, d)
        L_i on the last axis, over which the bound is summed.
    growth : number or array (…, d)
        ln(S_T/S_1) after the run, S_1 the first non-zero sum of the coordinate; leave out coordinates that never move.

    Returns
    -------
    Bound
        Terms ``initial`` and ``smoothness``.

    Notes
    -----
    Duchi, Hazan and Singer (2011) for the method; the statement and the constant are proved here, with SPEC D6.  Proof.

    1. The step is -ηγ_i sign(g_i), γ_i = |g_i|/√S_i (SPEC D1), so f(x_{t+1}) ≤ f(x_t) - η Σ_i g_i²/√S_i + ½η² Σ_i L_i γ_i².
    2. Summed over t, with D6's Σ_t γ_i² ≤ 1 + ln(S_T/S_1): η Σ_i Σ_t g_{t,i}²/√S_{t,i} ≤ Δ + ½η² Σ_i L_i (1 + ln(S_{T,i}/S_{1,i})).
    3. S_t ≤ S_T, so Σ_t g_t²/√S_t ≥ S_T/√S_T = √S_T, for each coordinate.
    4. Cauchy-Schwarz: Σ_t |g_{t,i}| ≤ √T √S_{T,i}.  With 2 and 3, (1/T) Σ_t ‖∇f(x_t)‖_1 ≤ (1/√T) Σ_i √S_{T,i} ≤ the bound.  ∎
    """
    gap, steps, eta = inputs("AdaGrad", gap=gap, steps=steps, eta=eta)
    L, growth = _by_coordinate(inputs("AdaGrad", L=L, growth=growth))
    return _summed_over_coordinates(
        "AdaGrad, measured: avg ‖∇f‖_1 ≤ (1/√T)[Δ/η + (η/2) Σ L_i(1 + ln(S_T/S_1))]", gap / eta / steps.sqrt(),
        eta / (2 * steps.sqrt()), L * (1 + growth),
    )


def adagrad(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, first: Numbers) -> Bound:
    r"""AdaGrad, known beforehand: ``(1/T) Σ_t ‖∇f(x_t)‖_1 ≤ (1/√T)[2Δ/η + η Σ_i L_i (2 ln(2ηL_i/|g_{1,i}|) - 1)]``.

    Parameters
    ----------
    gap, steps, eta : number or array
        As in `adagrad_measured`; η is one number or has the shape of Δ and T.
    L : number or array (…, d)
        L_i > 0 on the last axis.
    first : number or array (…, d)
        |g_{1,i}|, the first gradient of the coordinate that is not 0.

    Returns
    -------
    Bound
        Terms ``initial`` and ``smoothness``; the second is negative where the first gradient is large for its curvature.

    Notes
    -----
    Proved here.  Proof.  Steps 1-3 of `adagrad_measured` give, for z_i = √S_{T,i} and z_{1,i} = |g_{1,i}|, Σ z_i ≤ Δ/η + Σ [(η/2)L_i +
    ηL_i ln(z_i/z_{1,i})].  The tangent of the logarithm, ln u ≤ u/a + ln a - 1 at a = 2ηL_i/z_{1,i}, gives ηL_i ln(z_i/z_{1,i}) ≤ z_i/2 +
    ηL_i (ln a - 1).  So ½ Σ z_i ≤ Δ/η + Σ ηL_i (ln a - ½); twice that bounds Σ z_i, and step 4 ends the proof.  ∎

    No logarithm of T: the gradients cannot grow for ever, since the steps shrink with S.
    """
    gap, steps, eta = inputs("AdaGrad", gap=gap, steps=steps, eta=eta)
    L, first = _by_coordinate(inputs("AdaGrad", curvature=L, first_nonzero=first))
    return _summed_over_coordinates(
        "AdaGrad: avg ‖∇f‖_1 ≤ (1/√T)[2Δ/η + η Σ L_i(2 ln(2ηL_i/|g_{1,i}|) - 1)]", 2 * (gap / eta / steps.sqrt()), eta / steps.sqrt(),
        L * (2 * (2 * eta.unsqueeze(-1) * L / first).log() - 1),
    )


def _by_coordinate(values: list[Tensor]) -> list[Tensor]:
    """Return the same with a last axis of coordinates, which numbers have not: they are one coordinate."""
    return [x if x.ndim else x.unsqueeze(0) for x in values]


def _summed_over_coordinates(statement: str, initial: Tensor, factor: Tensor, each: Tensor) -> Bound:
    assumptions = (BELOW, COORDINATES, "exact gradients, x⁺ = x - ηg/√S, S with the current gradient, no ε")
    return total(statement, assumptions, "l1", initial=initial, smoothness=factor * summed(statement, each))


def normalised_sgd(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, sigma: Numbers = 0.0, *, batch: Numbers = 1) -> Bound:
    r"""Normalised SGD, ``x⁺ = x - ηĝ/‖ĝ‖_2``: ``(1/T) Σ_t E‖∇f(x_t)‖_2 ≤ Δ/(ηT) + ηL/2 + 2σ/√B``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η.
    L : number or array
        λ_max, the Euclidean smoothness constant.
    sigma, batch : number or array
        σ with E‖ĝ - ∇f‖_2² ≤ σ²/B, and B, i.i.d. unbiased samples; for any other ĝ B = 1.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``.

    Notes
    -----
    Proof: R3's in the Euclidean norm, its own dual.  With d = ĝ/‖ĝ‖ (0 if ĝ = 0) and n = ĝ - ∇f: <∇f, d> = ‖ĝ‖ - <n, d> ≥
    ‖ĝ‖ - ‖n‖ ≥ ‖∇f‖ - 2‖n‖, ‖d‖ ≤ 1; the descent lemma in expectation, E‖n‖ ≤ σ/√B, sum over t.  ∎
    """
    gap, steps, eta, L, sigma, batch = inputs("normalised SGD", gap=gap, steps=steps, eta=eta, L=L, sigma=sigma, batch=batch)
    return total(
        "normalised SGD: avg E‖∇f‖_2 ≤ Δ/(ηT) + ηL/2 + 2σ/√B", (BELOW, EUCLIDEAN, EUCLIDEAN_MOMENT), "l2",
        **descent_terms(gap, steps, eta, L), noise=2 * (sigma / batch.sqrt()),
    )


def sgd(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, sigma: Numbers = 0.0, *, batch: Numbers = 1) -> Bound:
    r"""SGD with 0 < η < 2/L: ``√((1/T) Σ_t E‖∇f(x_t)‖_2²) ≤ √([Δ/(ηT) + ηLσ²/(2B)]/(1 - ηL/2))``.

    Parameters
    ----------
    gap, steps, eta, L, sigma, batch : number or array
        As in `normalised_sgd`, and ηL < 2; σ = 0 is gradient descent.

    Returns
    -------
    Bound
        On the root mean square, hence on avg E‖∇f‖_2 too (Jensen).  Terms ``initial`` and ``noise``: the value in proportion to the two
        summands below the root.

    Notes
    -----
    The textbook statement (Ghadimi and Lan 2013 for non-convex f); the constant is proved here.  Proof: f(x_{t+1}) ≤ f(x_t) - η<∇f, ĝ> +
    ½η²L‖ĝ‖²; given the past E<∇f, ĝ> = ‖∇f‖² and E‖ĝ‖² ≤ ‖∇f‖² + σ²/B, so η(1 - ηL/2) E‖∇f(x_t)‖² ≤ E f(x_t) - E f(x_{t+1}) +
    ½η²Lσ²/B; sum over t, E f(x_T) ≥ f*.  ∎
    """
    gap, steps, eta, L, sigma, batch = inputs("SGD", gap=gap, steps=steps, eta=eta, L=L, sigma=sigma, batch=batch)
    if not bool((eta * L < 2).all()):
        raise AssumptionError(f"SGD assumes a step size η < 2/L; the largest ηL is {(eta * L).max().item():g}")
    # The roots of both summands, since σ² and Δ/η may leave the range of float64 where the value does not.
    room = (1 - eta * L / 2).sqrt()
    initial, noise = gap.sqrt() / eta.sqrt() / steps.sqrt() / room, sigma * (eta.sqrt() * L.sqrt() / (2 * batch).sqrt() / room)
    value = torch.hypot(initial, noise)
    # Where both are 0 the value is 0 too.
    divisor = torch.where(value > 0, value, 1.0)
    return total(
        "SGD: √(avg E‖∇f‖_2²) ≤ √([Δ/(ηT) + ηLσ²/(2B)]/(1-ηL/2))", (BELOW, EUCLIDEAN, UNBIASED, "0 < η < 2/L"), "l2",
        initial=initial * (initial / divisor), noise=noise * (noise / divisor),
    )


def l1_from_l2(bound: Bound, dimension: Numbers) -> Bound:
    r"""Return ``avg E‖∇f‖_1 ≤ √d (right side)`` for a bound on avg E‖∇f‖_2.

    Parameters
    ----------
    bound : Bound
        Of `normalised_sgd` or `sgd`.
    dimension : number or array
        d.

    Raises
    ------
    AssumptionError
        The bound has another left side.

    Notes
    -----
    Proof: ‖g‖_1 ≤ √d ‖g‖_2, Cauchy-Schwarz; attained where all |g_i| are equal, loose by up to √d where one entry dominates.  ∎
    """
    (dimension,) = inputs("‖g‖_1 ≤ √d‖g‖_2", dimension=dimension)
    terms = {name: x * dimension.sqrt() for name, x in about("‖g‖_1 ≤ √d‖g‖_2", bound, "l2").terms.items()}
    return total(f"avg E‖∇f‖_1 ≤ √d (the following); {bound.statement}", bound.assumptions, "l1", **terms)


def l2_from_larger(bound: Bound) -> Bound:
    r"""Return ``avg E‖∇f‖_2 ≤ right side`` for a bound on avg E‖∇f‖_1 or avg E‖∇f‖_*; ‖·‖_2 is the Frobenius norm for matrices.

    Parameters
    ----------
    bound : Bound
        Of `signsgd`, `adagrad`, `muon`, or of a converted R1, R2, R3 or R5 (with Γ ≡ 1: ``conversion(bound, 1)``).

    Raises
    ------
    AssumptionError
        The bound has another left side.

    Notes
    -----
    Proof: ‖g‖_2² = Σ g_i² ≤ (Σ|g_i|)², and the same with singular values.  ∎  The weakest of these norms: in it no bound loses a factor.
    """
    about("‖g‖_2 ≤ ‖g‖_1, ‖g‖_*", bound, "l1", "nuclear")
    return total(f"avg E‖∇f‖_2 ≤ (the following); {bound.statement}", bound.assumptions, "l2", **bound.terms)


@dataclass(frozen=True)
class KnownRate:
    """One row of the comparison.

    Attributes
    ----------
    name, source : str
        The method and setting; where its kind of statement is from.
    proved : str
        Where the constant is proved; no constant is quoted.
    assumptions : tuple of str
    left_side, constants, batch : str
        What is bounded, what the bound depends on, samples per step.
    exponent, sample_exponent : float
        Of T (steps) and of N (samples) in the rate of the left side, at the step size of the statement.
    rate : callable
        The function that gives the `Bound`.
    """

    name: str
    source: str
    proved: str
    assumptions: tuple[str, ...]
    left_side: str
    constants: str
    batch: str
    exponent: float
    sample_exponent: float
    rate: Callable[..., Bound]

    def to_dict(self) -> dict[str, Any]:
        """Return the row with the function's name in place of the function."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**row, "assumptions": list(self.assumptions), "rate": self.rate.__name__}


ONE = "1 exact gradient"
KNOWN_RATES: tuple[KnownRate, ...] = (
    KnownRate("Γ ⊙ sign, exact", "SPEC R1", "deterministic", (BELOW, DESCENT, EXACT), "avg ‖∇f‖_{1,Γ}", "Δ, avg L_Γ", ONE, -1 / 2,
              -1 / 2, deterministic_best),
    KnownRate("Γ ⊙ sign, B = T", "SPEC R2; the setting of the paper's Theorems 4.12 and 4.15", "stochastic",
              (BELOW, DESCENT, VARIANCE, FREE), "avg E‖∇f‖_{1,Γ}", "Δ, avg E L_Γ, Σ σ_i√(E γ_i²)", "T", -1 / 2, -1 / 4,
              stochastic_paper_setting),
    KnownRate("Γ ⊙ sign, B = T, best η", "SPEC R2 at its best step size", "stochastic_best", (BELOW, DESCENT, VARIANCE, FREE),
              "avg E‖∇f‖_{1,Γ}", "Δ, avg E L_Γ, Σ σ_i√(E γ_i²)", "T", -1 / 2, -1 / 4, stochastic_best),
    KnownRate("singular values weighted", "SPEC R3", "singular_weighted", (BELOW, MATRIX_DESCENT, SECOND_MOMENT), "avg E Σ γ_iσ_i(Ĝ)",
              "Δ, avg E L_{S,Γ}, E[max γ_i ‖Ĝ-∇f‖_*]", "T, with η ∝ 1/√T", -1 / 2, -1 / 4, singular_weighted),
    KnownRate("Γ ⊙ sign with momentum", "SPEC R5", "momentum", MOMENTUM,
              "avg E‖∇f‖_{1,Γ}", "Δ, L, γ_max, ‖∇f(x_0)‖_1, ‖σ‖_1", "1", -1 / 4, -1 / 4, momentum_schedule),
    KnownRate("Γ ⊙ sign with momentum, best η", "SPEC R5 at its best step size", "momentum_best", MOMENTUM, "avg E‖∇f‖_{1,Γ}",
              "Δ, L, γ_max, ‖∇f(x_0)‖_1, ‖σ‖_1", "1", -1 / 4, -1 / 4, momentum_best),
    KnownRate("SignSGD, B = T", "Bernstein et al. 2018, Theorem 1 (its setting)", "signsgd", (BELOW, COORDINATES, VARIANCE), "avg E‖∇f‖_1",
              "Δ, ‖L‖_1, ‖σ‖_1", "T", -1 / 2, -1 / 4, signsgd),
    KnownRate("Muon without momentum", "Jordan et al. 2024 (the method); Carlson et al. 2015 (the direction)", "muon",
              (BELOW, MATRIX_DESCENT, SECOND_MOMENT), "avg E‖∇f‖_*", "Δ, L_S, σ√r", "T", -1 / 2, -1 / 4, muon),
    KnownRate("AdaGrad, exact", "Duchi et al. 2011 (the method)", "adagrad", (BELOW, COORDINATES), "avg ‖∇f‖_1", "Δ, L_i, |g_{1,i}|", ONE,
              -1 / 2, -1 / 2, adagrad),
    KnownRate("normalised SGD", "R3 in the Euclidean norm", "normalised_sgd", (BELOW, EUCLIDEAN, EUCLIDEAN_MOMENT), "avg E‖∇f‖_2",
              "Δ, λ_max, σ", "T, with η ∝ 1/√T", -1 / 2, -1 / 4, normalised_sgd),
    KnownRate("SGD", "Ghadimi and Lan 2013 (its setting)", "sgd", (BELOW, EUCLIDEAN, UNBIASED), "√(avg E‖∇f‖_2²)", "Δ, λ_max, σ",
              "1, with η ∝ 1/√T", -1 / 4, -1 / 4, sgd),
)
"""The numbered statements and what is known elsewhere, in the order of SPEC §5, then by geometry."""
