"""Rates: one function per numbered statement of SPEC §5.

What is known of related methods is in `deva_theory.rates.known`; fits of measured curves, which import scipy.stats, are in
`deva_theory.rates.fits`.
"""

from deva_theory.rates.conversion import aligned_conversion, clipped_rms, clipped_smoothness, conversion
from deva_theory.rates.matrix_bounds import any_direction, nuclear_conversion, nuclear_noise, singular_weighted, spectral
from deva_theory.rates.momentum_bounds import (
    momentum,
    momentum_corrected,
    momentum_order,
    momentum_plateau,
    momentum_schedule,
    momentum_sharp,
    schedule,
)
from deva_theory.rates.statement import AssumptionError, Bound
from deva_theory.rates.vector_bounds import (
    best_step,
    deterministic,
    deterministic_best,
    noise_moment,
    signs_in_expectation,
    stochastic,
    stochastic_best,
    stochastic_paper_setting,
)

__all__ = [
    "AssumptionError",
    "Bound",
    "aligned_conversion",
    "any_direction",
    "best_step",
    "clipped_rms",
    "clipped_smoothness",
    "conversion",
    "deterministic",
    "deterministic_best",
    "momentum",
    "momentum_corrected",
    "momentum_order",
    "momentum_plateau",
    "momentum_schedule",
    "momentum_sharp",
    "noise_moment",
    "nuclear_conversion",
    "nuclear_noise",
    "schedule",
    "signs_in_expectation",
    "singular_weighted",
    "spectral",
    "stochastic",
    "stochastic_best",
    "stochastic_paper_setting",
]
