"""Weighted smoothness of quadratics; estimators for whole models build on these definitions."""

from deva_theory.smoothness.weighted import (
    Interval,
    absolute_weighted_sum,
    box_smoothness,
    signed_weighted_sum,
    spectral_smoothness,
    weighted_box_smoothness,
    weighted_spectral_smoothness,
)

__all__ = [
    "Interval",
    "absolute_weighted_sum",
    "box_smoothness",
    "signed_weighted_sum",
    "spectral_smoothness",
    "weighted_box_smoothness",
    "weighted_spectral_smoothness",
]
