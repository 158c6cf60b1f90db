r"""R4: from the weighted left side ``‖∇f‖_{1,Γ}`` back to ``‖∇f‖_1``, and what the way back costs.

The left sides of R1 and R2 with and without Γ differ, so a smaller right side is not by itself a faster method.  Two ways back:

* by the smallest factor, `conversion`.  It can never show an advantage: Γ ≥ γ_min gives L_Γ ≥ γ_min² L_∞ (the box contains γ_min
  times the unit box), so the converted bound with step size η is at least the bound of Γ ≡ 1 with step size ηγ_min, term by term.
  The same in the noise term, as √(E γ²) ≥ γ_min.
* by the alignment ``κ ≤ ‖∇f‖_{1,Γ}/‖∇f‖_1``, a mean of the factors in which γ_i weighs |∂_i f|, `aligned_conversion`.  At the best step
  sizes, without noise, the ratio of the converted bound to that of Γ ≡ 1 is

      [√(2ΔL_Γ/T)/κ] / √(2ΔL_∞/T) = √(L_Γ/(κ²L_∞)) = √ρ ,

  the root of SPEC S7's ratio for constant L_Γ and κ: **ρ < 1 exactly if the guarantee for ‖∇f‖_1 is better than that without
  adaptation**, ρ > 1 if it is worse.

The corrected and the printed Γ have no positive lower bound (the ledger's R4-floor), so both ways need Γ to be clipped or measured.
Clipping from below has its own price, `clipped_smoothness` and `clipped_rms`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deva_theory.rates.statement import Bound, Numbers, about, finite, inputs, total


def conversion(bound: Bound, gamma_min: Numbers) -> Bound:
    r"""R4: ``avg E‖∇f‖_1 ≤ (right side for ‖∇f‖_{1,Γ})/γ_min`` where every γ_{t,i} ≥ γ_min > 0.

    Parameters
    ----------
    bound : Bound
        Of a left side avg E‖∇f‖_{1,Γ}: R1, R2, R5.
    gamma_min : number or array
        The lower bound, for all i and t; 1 for Γ ≡ 1.

    Returns
    -------
    Bound
        With the terms of `bound`, each over γ_min.

    Raises
    ------
    AssumptionError
        γ_min is not positive, or the bound has another left side.

    Notes
    -----
    SPEC R4.  Proof: ‖g‖_{1,Γ} = Σ γ_i|g_i| ≥ γ_min Σ|g_i|, for every t; average.  ∎

    Never below the bound of Γ ≡ 1 with step size ηγ_min: see the head of this module.
    """
    (gamma_min,) = inputs("R4", gamma_min=gamma_min)
    return _divided(bound, gamma_min, "γ_min", "Γ ≥ γ_min > 0 in every coordinate and step")


def aligned_conversion(bound: Bound, alignment: Numbers) -> Bound:
    r"""R4 with alignment: ``avg E‖∇f‖_1 ≤ (right side for ‖∇f‖_{1,Γ})/κ`` where ‖∇f(x_t)‖_{1,Γ_t} ≥ κ‖∇f(x_t)‖_1 for all t.

    Parameters
    ----------
    bound : Bound
        Of a left side avg E‖∇f‖_{1,Γ}: R1, R2, R5.
    alignment : number or array
        κ > 0.  The least ratio along one run is a statement about that run; for expectations it has to hold on all runs.

    Returns
    -------
    Bound
        With the terms of `bound`, each over κ.

    Raises
    ------
    AssumptionError
        κ is not positive, or the bound has another left side.

    Notes
    -----
    SPEC R4, S7.  Proof: the assumption, averaged.  ∎  κ = γ_min always serves.  The largest κ that the assumption admits is the least of
    the ratios, each a mean of the factors weighted by |∂_i f|; so it is between γ_min and γ_max.
    """
    (alignment,) = inputs("R4 with alignment", alignment=alignment)
    return _divided(bound, alignment, "κ", "‖∇f(x_t)‖_{1,Γ_t} ≥ κ‖∇f(x_t)‖_1 in every step, κ > 0")


def _divided(bound: Bound, divisor: Tensor, symbol: str, assumption: str) -> Bound:
    terms = {name: x / divisor for name, x in about("R4", bound, "l1_weighted").terms.items()}
    return total(f"R4: avg E‖∇f‖_1 ≤ (the following)/{symbol}; {bound.statement}", (*bound.assumptions, assumption), "l1", **terms)


def clipped_smoothness(L_gamma: Numbers, L_inf: Numbers, gamma_min: Numbers, gamma_max: Numbers) -> Tensor:
    r"""Return ``min{(√L_Γ + γ_min √L_∞)², max(γ_min, γ_max)² L_∞}``, which bounds L_{Γ'} of ``Γ' = max(Γ, γ_min)`` where H ≽ 0.

    Parameters
    ----------
    L_gamma, L_inf : number or array
        L_Γ, not clipped, and L_∞.
    gamma_min, gamma_max : number or array
        Where Γ is clipped, and an upper bound on Γ.

    Notes
    -----
    SPEC R4, S2.  Proof.  √(uᵀHu) is a seminorm for H ≽ 0.  A u with |u_i| ≤ max(γ_i, γ_min) is v + w with |v_i| ≤ γ_i and
    |w_i| ≤ γ_min, so its seminorm is at most √L_Γ + γ_min √L_∞.  Also |u_i| ≤ max(γ_min, γ_max), so u is in that multiple of the unit
    box.  ∎  The second holds for every symmetric H, the first not for indefinite ones.

    L_{Γ'} ≤ L_Γ + γ_min² L_∞ holds for diagonal H, and is false in general: H = 11ᵀ, Γ = (1, 0), γ_min = a < 2/3 has
    L_{Γ'} = (1 + a)² against 1 + 4a².
    """
    L_gamma, L_inf, gamma_min, gamma_max = inputs("R4, clipping", L_gamma=L_gamma, L_inf=L_inf, gamma_min=gamma_min, gamma_max=gamma_max)
    root = L_inf.sqrt()
    largest = torch.maximum(gamma_min, gamma_max)
    return finite("R4, clipping", torch.minimum((L_gamma.sqrt() + gamma_min * root).square(), (largest * root).square()))


def clipped_rms(gamma_rms: Numbers, gamma_min: Numbers) -> Tensor:
    """Return ``√(E γ² + γ_min²)``, which bounds √(E γ'²) of ``γ' = max(γ, γ_min)``.

    Parameters
    ----------
    gamma_rms : number or array
        √(E γ²), not clipped.
    gamma_min : number or array
        Where γ is clipped.

    Notes
    -----
    SPEC R4.  Proof: max(γ, γ_min)² ≤ γ² + γ_min², in expectation.  ∎

    One step and one coordinate at a time: s ↦ √(s² + γ_min²) is convex, so at the average over t of √(E γ_t²) it is below the average
    that the noise term needs.  The root of the average over t of E γ_t² may be put in, by concavity of the root.
    """
    gamma_rms, gamma_min = inputs("R4, clipping", gamma_rms=gamma_rms, gamma_min=gamma_min)
    return finite("R4, clipping", torch.hypot(gamma_rms, gamma_min))
