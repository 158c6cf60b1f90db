"""Two-sided estimators of the smoothness of a symmetric operator, from products with it alone.

To add one: write a program (see :mod:`deva_theory.smoothness.estimators.programs`) that returns an
:class:`~deva_theory.smoothness.estimators.estimate.Estimate`, and name it in :mod:`deva_theory.smoothness.request`.
"""

from deva_theory.smoothness.estimators.balls import Ball, Box, ProductBall, SpectralBall
from deva_theory.smoothness.estimators.entrywise import cauchy_sketch, entrywise_norm, weighted_entrywise
from deva_theory.smoothness.estimators.estimate import NORMS, Bounds, Estimate
from deva_theory.smoothness.estimators.krylov import Spectrum, euclidean_smoothness, extreme_eigenvalues
from deva_theory.smoothness.estimators.operator_norms import EFFORTS, Effort, operator_norm
from deva_theory.smoothness.estimators.programs import NotFinite, Program, congruence, run, run_together
from deva_theory.smoothness.estimators.weighted import (
    Interval,
    absolute_weighted_sum,
    box_smoothness,
    signed_weighted_sum,
    spectral_smoothness,
    weighted_box_smoothness,
    weighted_spectral_smoothness,
)

__all__ = [
    "EFFORTS",
    "NORMS",
    "Ball",
    "Bounds",
    "Box",
    "Effort",
    "Estimate",
    "Interval",
    "NotFinite",
    "ProductBall",
    "Program",
    "SpectralBall",
    "Spectrum",
    "absolute_weighted_sum",
    "box_smoothness",
    "cauchy_sketch",
    "congruence",
    "entrywise_norm",
    "euclidean_smoothness",
    "extreme_eigenvalues",
    "operator_norm",
    "run",
    "run_together",
    "signed_weighted_sum",
    "spectral_smoothness",
    "weighted_box_smoothness",
    "weighted_entrywise",
    "weighted_spectral_smoothness",
]
