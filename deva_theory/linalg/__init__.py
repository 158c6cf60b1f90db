"""Batched linear algebra: polar factors, symmetric powers, eigenbases, exact scaling."""

from deva_theory.linalg.coefficients import (
    CUBIC,
    QUINTIC,
    REFERENCE_QUINTIC,
    odd_polynomial,
    optimal_quintic,
    polar_express_coefficients,
)
from deva_theory.linalg.eigenbasis import REFRESH_METHODS, canonical_null_space, eigenbasis, refresh_eigenbasis
from deva_theory.linalg.floating import (
    Scaled,
    bias_correction,
    ema_update,
    exponent_limit,
    exponent_of,
    ldexp,
    power_of_two,
    rms_update,
    unit_scale,
)
from deva_theory.linalg.polar import POLAR_METHODS, polar_factor
from deva_theory.linalg.powers import gram_power, symmetric_power

__all__ = [
    "CUBIC",
    "POLAR_METHODS",
    "QUINTIC",
    "REFERENCE_QUINTIC",
    "REFRESH_METHODS",
    "Scaled",
    "bias_correction",
    "canonical_null_space",
    "eigenbasis",
    "ema_update",
    "exponent_limit",
    "exponent_of",
    "gram_power",
    "ldexp",
    "odd_polynomial",
    "optimal_quintic",
    "polar_express_coefficients",
    "polar_factor",
    "power_of_two",
    "refresh_eigenbasis",
    "rms_update",
    "symmetric_power",
    "unit_scale",
]
