"""Update rules as pure functions on batched tensors.

``rule.init(params) -> state``; ``rule.update(grad, state) -> (direction, state, diagnostics)``.
:func:`deva_linf` and :func:`deva_spectral` are DeVA, :mod:`deva_theory.rules.baselines` the other methods, and
:mod:`deva_theory.rules.parts` what all of them are composed of.
"""

from deva_theory.rules.baselines import adagrad, adam, adamuon, gradient_descent, muon, normalised_sgd, rmsprop, sign_sgd, soap
from deva_theory.rules.basis import KroneckerBasis
from deva_theory.rules.deva import PRESETS, VARIANTS, deva_linf, deva_spectral, without_rotation_back
from deva_theory.rules.parts import Adaptation, Identity, Moment, Polar, Sign, State, StepScale
from deva_theory.rules.preconditioned import FullMatrixAdaGrad, Shampoo
from deva_theory.rules.rule import Diagnostics, Rule, apply_direction

__all__ = [
    "PRESETS",
    "VARIANTS",
    "Adaptation",
    "Diagnostics",
    "FullMatrixAdaGrad",
    "Identity",
    "KroneckerBasis",
    "Moment",
    "Polar",
    "Rule",
    "Shampoo",
    "Sign",
    "State",
    "StepScale",
    "adagrad",
    "adam",
    "adamuon",
    "apply_direction",
    "deva_linf",
    "deva_spectral",
    "gradient_descent",
    "muon",
    "normalised_sgd",
    "rmsprop",
    "sign_sgd",
    "soap",
    "without_rotation_back",
]
