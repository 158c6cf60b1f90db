"""The baselines of the paper, composed of the same parts as DeVA.

The table to read is the parts that differ:

===========  ==============  ======================  =============================  =================
rule         basis           scale-invariant map     variance adaptation            step scale
===========  ==============  ======================  =============================  =================
SignSGD      coordinates     sign                    1                              1
AdaGrad      coordinates     sign                    |g| / √Σg²                     1
RMSprop      coordinates     sign                    |g| / √EMA(g²)                 1
Adam         coordinates     sign                    |m̂| / √v̂, v of g²              1
Muon         coordinates     msign                   1                              √max(m, n)
SOAP         Kronecker       sign                    |m̂'| / √v̂', v of g'²           1
AdaMuon      coordinates     msign ∘ sign            1 / √EMA(O²), O = msign(..)    0.2 √(mn) / ‖D‖_F
===========  ==============  ======================  =============================  =================

Shampoo and full-matrix AdaGrad adapt by matrices instead, see :mod:`deva_theory.rules.preconditioned`.
"""

from __future__ import annotations

import torch

from deva_theory.rules.basis import KroneckerBasis
from deva_theory.rules.parts import Adaptation, Identity, Moment, Polar, Sign, StepScale
from deva_theory.rules.rule import Rule
from deva_theory.rules.validation import check_betas


def gradient_descent(*, beta1: float = 0.0) -> Rule:
    """Return plain (momentum) gradient descent: the identity map, no adaptation."""
    return Rule("gradient_descent", moment=Moment(beta1), scale_invariant=Identity())


def normalised_sgd(*, event_ndim: int = 1) -> Rule:
    """Return normalised SGD, ``g/‖g‖_2`` (Frobenius for matrices), 0 at 0: steepest descent in the Euclidean norm."""
    return Rule("normalised_sgd", event_ndim, scale_invariant=Identity(), step_scale=StepScale("unit_norm"))


def sign_sgd(*, beta1: float = 0.0, nesterov: bool = False, event_ndim: int = 1) -> Rule:
    """Return SignSGD, ``sign(m)`` (Bernstein et al. 2018); `beta1` > 0 is its momentum form Signum."""
    return Rule("sign_sgd", event_ndim, Moment(beta1, nesterov=nesterov))


def adagrad(*, eps: float = 1e-10) -> Rule:
    """Return diagonal AdaGrad, ``g/(√S+ε)``, ``S = Σ g²`` (Duchi et al. 2011; SPEC D1)."""
    return Rule("adagrad", adaptation=Adaptation(None, numerator="gradient", tracked="gradient", eps=eps))


def rmsprop(*, beta2: float = 0.99, eps: float = 1e-8, eps_mode: str = "outside", bias_correction: bool = False) -> Rule:
    """Return RMSprop, ``g/(√v+ε)`` or with `eps_mode` "inside" ``g/√(v+ε)`` (Tieleman and Hinton 2012)."""
    adaptation = Adaptation(
        beta2, numerator="gradient", tracked="gradient", eps=eps, eps_mode=eps_mode, bias_correction=bias_correction
    )
    return Rule("rmsprop", adaptation=adaptation)


def adam(*, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, bias_correction: bool = True) -> Rule:
    """Return Adam, ``m̂/(√v̂+ε)`` (Kingma and Ba 2015; SPEC D4)."""
    check_betas(betas)
    adaptation = Adaptation(betas[1], tracked="gradient", eps=eps, bias_correction=bias_correction)
    return Rule("adam", moment=Moment(betas[0], bias_correction=bias_correction), adaptation=adaptation)


def muon(
    *, beta1: float = 0.95, nesterov: bool = True, polar: str = "newton_schulz",
    polar_dtype: torch.dtype | None = None, shape: str = "sqrt_max", coefficient: float = 1.0,
) -> Rule:
    """Return Muon, ``scale · msign(m)`` (Jordan et al. 2024).

    `shape` "sqrt_max" is the scaling of SPEC E1, "sqrt_ratio" the original ``√max(1, m/n)``; with `coefficient` 0.2
    "sqrt_max" matches Adam's root mean square.
    """
    return Rule(
        "muon", 2, Moment(beta1, nesterov=nesterov), Polar(polar, polar_dtype), step_scale=StepScale(shape, coefficient)
    )


def soap(
    *, betas: tuple[float, float] = (0.95, 0.95), beta3: float | None = None, eps: float = 1e-8,
    refresh_every: int = 10, bias_correction: bool = True,
) -> Rule:
    """Return SOAP: Adam in the eigenbasis of Shampoo's factors (Vyas et al. 2025); its first call only builds the bases."""
    check_betas(betas)
    return Rule(
        "soap",
        2,
        Moment(betas[0], bias_correction=bias_correction),
        Sign(),
        Adaptation(betas[1], tracked="gradient", eps=eps, bias_correction=bias_correction),
        KroneckerBasis(
            betas[1] if beta3 is None else beta3, refresh_every, lagged=True, carry_adaptation="permute"
        ),
    )


def adamuon(
    *, betas: tuple[float, float] = (0.95, 0.95), eps: float = 1e-8, nesterov: bool = False,
    polar: str = "newton_schulz", polar_dtype: torch.dtype | None = None,
) -> Rule:
    """Return AdaMuon as SPEC E1 describes it: ``O = msign(sign(m))``, ``O/(√EMA(O²)+ε)``, root mean square aligned to 0.2.

    Whether the momentum is a sum or an average does not matter: sign forgets the scale.
    """
    check_betas(betas)
    return Rule(
        "adamuon",
        2,
        Moment(betas[0], nesterov=nesterov),
        Polar(polar, polar_dtype, of_sign=True),
        Adaptation(betas[1], numerator="unit", tracked="scale_invariant", eps=eps),
        step_scale=StepScale("unit_rms", 0.2),
    )
