r"""R3: matrix parameters, steps ``X⁺ = X - η D`` with D made from a stochastic gradient Ĝ.

The descent lemma in use is ``f(X - ηD) ≤ f(X) - η <∇f(X), D> + ½ η² L`` along every step; L is a bound on <D, ∇²f(Y)[D]> over the
segment, for instance L_{S,Γ} of SPEC S2, the supremum over all directions of the rule.  N = Ĝ - ∇f(X) is the noise.  Its size enters by
the nuclear norm, by the duality ``<A, D> ≤ ‖A‖_* ‖D‖_{2→2}`` (von Neumann).
"""

from __future__ import annotations

from torch import Tensor

from deva_theory.rates.statement import Bound, Numbers, about, descent_terms, finite, inputs, total
from deva_theory.rates.vector_bounds import BELOW

DESCENT = "f(X - ηD) ≤ f(X) - η<∇f(X), D> + ½η²L along every step, L the average over the steps (expected, if they are random)"
SECOND_MOMENT = "E‖Ĝ - ∇f‖_F² ≤ σ²/B (B i.i.d. unbiased samples with E‖G - ∇f‖_F² ≤ σ² each)"


def spectral(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, noise: Numbers) -> Bound:
    r"""R3, Γ ≡ 1, ``D = msign(Ĝ)``: ``(1/T) Σ_t E‖∇f(X_t)‖_* ≤ Δ/(ηT) + ηL_S/2 + 2 avg E‖Ĝ_t - ∇f(X_t)‖_*``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η.
    L : number or array
        L_S, the supremum of <D, ∇²f[D]> over ‖D‖_{2→2} ≤ 1 along the steps, or the average over the steps of their curvatures.
    noise : number or array
        avg E‖Ĝ - ∇f‖_*, see `nuclear_noise`.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``.

    Notes
    -----
    SPEC R3.  Proof.

    1. <Ĝ, D> = ‖Ĝ‖_* (SPEC M8) and ‖D‖ ≤ 1, so <∇f, D> = ‖Ĝ‖_* - <N, D> ≥ ‖Ĝ‖_* - ‖N‖_*.
    2. Triangle inequality: ‖Ĝ‖_* ≥ ‖∇f‖_* - ‖N‖_*; with step 1, <∇f, D> ≥ ‖∇f‖_* - 2‖N‖_*.
    3. The descent lemma in expectation: η E‖∇f(X_t)‖_* ≤ E f(X_t) - E f(X_{t+1}) + ½η²L + 2η E‖N_t‖_*; sum over t, E f(X_T) ≥ f*,
       divide by ηT.  ∎

    The proof uses no more than that D attains the dual norm.  An approximate polar factor (Newton-Schulz, SPEC M12) does not; for it
    see `any_direction`.
    """
    gap, steps, eta, L, noise = inputs("R3", gap=gap, steps=steps, eta=eta, L=L, noise=noise)
    return total(
        "R3, Γ ≡ 1: avg E‖∇f‖_* ≤ Δ/(ηT) + ηL_S/2 + 2 avg E‖Ĝ-∇f‖_*", (BELOW, DESCENT, "D = msign(Ĝ), exact"), "nuclear",
        **descent_terms(gap, steps, eta, L), noise=2 * noise,
    )


def singular_weighted(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, noise: Numbers) -> Bound:
    r"""R3 in the singular basis: ``avg E Σ_i γ_i σ_i(Ĝ) ≤ Δ/(ηT) + (η/2) avg E L_{S,Γ} + avg E[max_i γ_i ‖Ĝ-∇f‖_*]``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η.
    L : number or array
        avg E L_{S,Γ}, L_{S,Γ} the supremum of <D, ∇²f[D]> over the directions of the rule with this Γ.
    noise : number or array
        avg E[max_i γ_i ‖Ĝ-∇f‖_*], see `nuclear_noise`.

    Notes
    -----
    SPEC R3; Ĝ = U diag(σ) Vᵀ, D = U diag(γ) Vᵀ, γ ≥ 0.  Proof: <Ĝ, D> = Σ_i γ_i σ_i(Ĝ) because U and V have orthonormal columns, and
    ‖D‖_{2→2} = max_i γ_i for the same reason; `any_direction` with these.  ∎

    The left side has the singular values of Ĝ, not of ∇f: `nuclear_conversion` goes back to ‖∇f‖_*.  The S∞ rule is not covered, its
    bases are those of averaged GGᵀ and GᵀG and not Ĝ's.
    """
    gap, steps, eta, L, noise = inputs("R3 in Ĝ's singular basis", gap=gap, steps=steps, eta=eta, L=L, noise=noise)
    return total(
        "R3, singular basis: avg E Σ γ_iσ_i(Ĝ) ≤ Δ/(ηT) + (η/2) avg E L_{S,Γ} + avg E[max γ_i ‖Ĝ-∇f‖_*]",
        (BELOW, DESCENT, "D = U diag(γ) Vᵀ in the singular basis of Ĝ, γ ≥ 0"), "singular",
        **descent_terms(gap, steps, eta, L), noise=noise,
    )


def any_direction(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, noise: Numbers) -> Bound:
    r"""R3 for any D: ``avg E<Ĝ, D> ≤ Δ/(ηT) + (η/2) avg E L_{S,Γ} + avg E[‖D‖_{2→2} ‖Ĝ-∇f‖_*]``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η.
    L : number or array
        The average of E <D, ∇²f[D]>, supremum along each step, or of anything larger.
    noise : number or array
        avg E[‖D‖_{2→2} ‖Ĝ-∇f‖_*], see `nuclear_noise`; SPEC M11 bounds ‖D‖ for the S∞ rule.

    Notes
    -----
    SPEC R3.  Proof: <∇f, D> = <Ĝ, D> - <N, D> ≥ <Ĝ, D> - ‖D‖ ‖N‖_*; put it into the descent lemma in expectation, sum over t,
    E f(X_T) ≥ f*, divide by ηT.  ∎

    D may depend on anything, the current noise included.  The left side can be negative, for the S∞ rule as well (SPEC M10), and then
    the bound says nothing about the gradient.
    """
    gap, steps, eta, L, noise = inputs("R3 for any direction", gap=gap, steps=steps, eta=eta, L=L, noise=noise)
    return total(
        "R3, any D: avg E<Ĝ,D> ≤ Δ/(ηT) + (η/2) avg E L_{S,Γ} + avg E[‖D‖ ‖Ĝ-∇f‖_*]", (BELOW, DESCENT), "inner",
        **descent_terms(gap, steps, eta, L), noise=noise,
    )


def nuclear_noise(sigma: Numbers, rank: Numbers, *, batch: Numbers = 1, gamma_rms: Numbers = 1.0) -> Tensor:
    """Return ``√(E s²) √r σ/√B``, a bound on ``E[s ‖Ĝ-∇f‖_*]`` with s = max γ_i, ‖D‖ or 1: the `noise` of R3.

    Parameters
    ----------
    sigma : number or array
        σ, the root of a bound on E‖G - ∇f‖_F² for one sample.
    rank : number or array
        r, a bound on the rank of Ĝ - ∇f, the error of the mean and not that of one sample: the mean of B samples of rank 1 has rank up
        to B.  min(m, n) always is one.
    batch : number or array
        B, i.i.d. unbiased samples.  For any other Ĝ use 1, with σ² a bound on E‖Ĝ - ∇f‖_F² itself.
    gamma_rms : number or array
        √(E s²); 1 for Γ ≡ 1.

    Notes
    -----
    SPEC R3.  Proof.  ‖A‖_* = Σ σ_i(A) ≤ √r ‖A‖_F by Cauchy-Schwarz over the r non-zero singular values; E[s ‖N‖_F] ≤
    √(E s²) √(E‖N‖_F²), Cauchy-Schwarz again; the mean of B independent samples of mean ∇f has E‖N‖_F² ≤ σ²/B.  ∎
    """
    sigma, rank, batch, gamma_rms = inputs("R3, the noise", sigma=sigma, rank=rank, batch=batch, gamma_rms=gamma_rms)
    return finite("R3, the noise", gamma_rms * (sigma / batch.sqrt() * rank.sqrt()))


def nuclear_conversion(bound: Bound, gamma_min: Numbers, noise: Numbers) -> Bound:
    r"""R4 for matrices: ``avg E‖∇f‖_* ≤ (right side of `singular_weighted`)/γ_min + avg E‖Ĝ-∇f‖_*`` where γ_i ≥ γ_min > 0.

    Parameters
    ----------
    bound : Bound
        Of `singular_weighted`.
    gamma_min : number or array
        A positive lower bound on every γ_i (also those of singular values 0).
    noise : number or array
        avg E‖Ĝ-∇f‖_*, without the factor max γ.

    Returns
    -------
    Bound
        The terms of `bound` over γ_min, and ``triangle``.

    Raises
    ------
    AssumptionError
        γ_min is not positive, or the bound has another left side.

    Notes
    -----
    SPEC R3, R4.  Proof: Σ γ_i σ_i(Ĝ) ≥ γ_min ‖Ĝ‖_* ≥ γ_min (‖∇f‖_* - ‖Ĝ-∇f‖_*), by the triangle inequality.  ∎
    Of γ_min it takes the first inequality alone: a κ ≤ Σ γ_i σ_i(Ĝ)/‖Ĝ‖_* along the runs serves as well.
    """
    gamma_min, noise = inputs("R4 for matrices", gamma_min=gamma_min, noise=noise)
    terms = {name: x / gamma_min for name, x in about("R4 for matrices", bound, "singular").terms.items()}
    terms["triangle"] = noise
    return total(
        f"R4: avg E‖∇f‖_* ≤ (the following)/γ_min + avg E‖Ĝ-∇f‖_*; {bound.statement}", (*bound.assumptions, "γ_i ≥ γ_min > 0"),
        "nuclear", **terms,
    )
