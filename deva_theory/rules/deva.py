"""DeVA in both geometries: three presets and the variants of one rule (SPEC section 3)."""

from __future__ import annotations

from dataclasses import replace

import torch

from deva_theory.rules.basis import KroneckerBasis
from deva_theory.rules.parts import Adaptation, Moment, Polar, Sign, StepScale
from deva_theory.rules.rule import Rule
from deva_theory.rules.validation import check_betas, check_choice

PRESETS = ("corrected", "paper", "reference")
VARIANTS = ("full", "memory", "instantaneous", "sign", "none", "snr")

# The smallest relative ε that still stands clear of rounding in float32: √ε = 1e-8 of the largest root.
_RELATIVE_EPS = 1e-16


def deva_linf(
    *,
    preset: str = "corrected",
    variant: str = "full",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    nesterov: bool | None = None,
    event_ndim: int = 1,
) -> Rule:
    r"""Return the ℓ∞ rule, ``direction = Γ ⊙ sign(m)`` with ``Γ = |m|/√(v+ε)``, ``v = EMA_{β2}(m²)``.

    Parameters
    ----------
    preset : {"corrected", "paper", "reference"}
        ``paper``: as printed, ε = 1e-8 inside the root.  ``reference``: ε = 1e-5 inside the root, no bias
        correction.  ``corrected`` (default): amplitudes of ``m/(1-β1^t)``, mean square over ``1-β2^t`` and ε relative to the
        largest entry, so that a constant gradient gives Γ = 1 from the first step and the scale of the gradients does not matter.
    variant : {"full", "memory", "instantaneous", "sign", "none", "snr"}
        ``instantaneous``: |g| instead of |m| in Γ.  ``none``: Γ = 1 (SignSGD with momentum).  ``snr``: v averages g²,
        the numerator stays |m| (with ``corrected`` this is Adam).  ``memory`` and ``sign`` are for matrices; on
        vectors they are ``full``: the second moment has the size of a vector, and sign(sign(m)) = sign(m).
    betas : (float, float)
        β1 and β2.
    eps : float, optional
        Overrides the preset's ε (relative for ``corrected``).
    nesterov : bool, optional
        sign then takes ``(1-β1)g + β1 m``; off in every preset.
    event_ndim : int
        Dimensions of one parameter tensor; matters for the relative ε only.

    Raises
    ------
    ValueError
        Unknown preset or variant, hyper-parameters out of range.

    Notes
    -----
    SPEC section 3 and D5.  With β1 = 0 it is RMSprop with ε inside the root; with β1 > 0 it is not textbook Adam.
    """
    check_choice("preset", preset, PRESETS)
    check_choice("variant", variant, VARIANTS)
    beta1, beta2 = check_betas(betas)
    corrected = preset == "corrected"
    default_eps = {"corrected": _RELATIVE_EPS, "paper": 1e-8, "reference": 1e-5}[preset]
    adaptation = Adaptation(
        beta=beta2,
        numerator="gradient" if variant == "instantaneous" else "momentum",
        tracked="gradient" if variant in ("instantaneous", "snr") else "momentum",
        eps=default_eps if eps is None else eps,
        eps_mode="relative" if corrected else "inside",
        bias_correction=corrected,
    )
    return Rule(
        name=f"deva_linf[{preset}, {variant}]",
        event_ndim=event_ndim,
        moment=Moment(beta1, nesterov=False if nesterov is None else nesterov, bias_correction=corrected),
        scale_invariant=Sign(),
        adaptation=None if variant == "none" else adaptation,
    )


def deva_spectral(
    *,
    preset: str = "corrected",
    variant: str = "full",
    betas: tuple[float, float] = (0.95, 0.95),
    beta3: float | None = None,
    eps: float | None = None,
    refresh_every: int = 10,
    refresh: str | None = None,
    polar: str | None = None,
    polar_dtype: torch.dtype | None = None,
    nesterov: bool | None = None,
) -> Rule:
    r"""Return the S∞ rule, ``direction = 0.2√max(m,n) · Q_L (Γ ⊙ msign(M')) Q_Rᵀ``.

    ``Γ_ij = √(r_i c_j / V_ij)``, r and c the row and column norms of the rotated momentum M', ``V = EMA_{β2}(r cᵀ)``.

    Parameters
    ----------
    preset : {"corrected", "paper", "reference"}
        ``paper``: Algorithm 2 as printed (second version): ε beside r cᵀ in the numerator, M' and V left as they are at
        a refresh, bases by eigh.  ``reference``: the eight points of the published implementation, see SPEC section 3.
        ``corrected`` (default): r, c from ``M'/(1-β1^t)``, ``V/(1-β2^t)``, relative ε, no skipped step, M' carried exactly into
        the refreshed basis, V with the columns it belongs to. The step does not depend on the scale of the gradients beyond
        rounding; in float32 that rounding can grow to percents for gradients of rank far below the sides, where the QR of nearly
        dependent columns amplifies it.
    variant : {"full", "memory", "instantaneous", "sign", "none", "snr"}
        ``memory``: second moment of size m + n (``paper``: EMA(r)EMA(c); ``reference``: √(EMA(r²)EMA(c²)) of the projected
        gradient, sign before msign; ``corrected``: √(EMA(r²)EMA(c²)) of the momentum).  ``instantaneous``: r, c from the
        projected gradient in both places.  ``sign``: msign(sign(M')).  ``none``: Γ = 1, Muon up to the shape
        factor when M' is carried.  ``snr``: V from the projected gradient, numerator from M', so that noise enters Γ.
    betas, beta3 : (float, float), float
        β1, β2 and β3 (default β2).
    eps : float, optional
        Overrides the preset's ε (relative for ``corrected``).
    refresh_every : int
        k.
    refresh : {"qr", "eigh", "rotation"}, optional
        Default ``eigh`` for ``paper``, otherwise ``qr``.
    polar, polar_dtype : str, torch.dtype, optional
        Polar factor: default exact SVD, and for ``reference`` five quintic Newton-Schulz steps in bfloat16
        (give ``polar_dtype=torch.float32`` for float32 arithmetic).
    nesterov : bool, optional
        msign takes ``(1-β1)G' + β1 M'``; default on for ``reference`` only.

    Raises
    ------
    ValueError
        Unknown preset, variant, refresh or polar method, hyper-parameters out of range.
    """
    check_choice("preset", preset, PRESETS)
    check_choice("variant", variant, VARIANTS)
    beta1, beta2 = check_betas(betas)
    reference, corrected = preset == "reference", preset == "corrected"
    from_gradient = variant == "instantaneous" or (variant == "memory" and reference)
    if variant == "memory":
        factored = "mean" if preset == "paper" else "root_mean_square"
    else:
        factored = "no"
    default_eps = {"corrected": _RELATIVE_EPS, "paper": 1e-8, "reference": 1e-8}[preset]
    adaptation = Adaptation(
        beta=beta2,
        numerator="gradient" if variant == "instantaneous" else "momentum",
        tracked="gradient" if from_gradient or variant == "snr" else "momentum",
        amplitude="marginals",
        factored=factored,
        eps=default_eps if eps is None else eps,
        eps_mode={"corrected": "relative", "paper": "numerator", "reference": "inside"}[preset],
        bias_correction=corrected,
    )
    method = polar or ("newton_schulz" if reference else "svd")
    if polar_dtype is None and reference and method == "newton_schulz":
        polar_dtype = torch.bfloat16
    basis = KroneckerBasis(
        beta=beta2 if beta3 is None else beta3,
        refresh_every=refresh_every,
        refresh=refresh or ("eigh" if preset == "paper" else "qr"),
        lagged=reference,
        carry_momentum=preset != "paper",
        canonical=corrected,
        carry_adaptation="none" if preset == "paper" else "permute",
    )
    return Rule(
        name=f"deva_spectral[{preset}, {variant}]",
        event_ndim=2,
        moment=Moment(beta1, nesterov=reference if nesterov is None else nesterov, bias_correction=corrected),
        scale_invariant=Polar(
            method, polar_dtype, of_sign=variant == "sign" or (variant == "memory" and reference), sign_floor=not reference
        ),
        adaptation=None if variant == "none" else adaptation,
        basis=basis,
        step_scale=StepScale("sqrt_max", 0.2, bias="adam" if reference else "none", beta2=beta2),
        decay="after" if reference else "before",
    )


def without_rotation_back(rule: Rule) -> Rule:
    """Return the rule of the paper's first version: its updates stay in the rotated basis (SPEC M9, a counter-example)."""
    if rule.basis is None:
        raise ValueError(f"without_rotation_back: {rule.name} has no basis to rotate back from")
    return replace(rule, name=f"{rule.name} without rotation back", basis=replace(rule.basis, restores=False))
