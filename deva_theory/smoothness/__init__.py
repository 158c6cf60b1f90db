"""Smoothness: how curved a loss is along the directions in which an optimizer moves.

:func:`probe` encloses the smoothness of every block of a model, :func:`plan` says what that costs, :func:`compare_rules`
asks whether variance adaptation helps there, :class:`SecantRecorder` and :class:`ProbeCallback` watch a training run.
Below them: ``curvature`` (products with a model's Hessian), ``estimators`` (intervals from products) and ``ratios`` (ρ).
The names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deva_theory.smoothness.callback import ProbeCallback
    from deva_theory.smoothness.compare_results import compare
    from deva_theory.smoothness.curvature import Block, CurvatureOperator, ProbeError
    from deva_theory.smoothness.estimators import (
        Bounds,
        Estimate,
        Interval,
        absolute_weighted_sum,
        box_smoothness,
        signed_weighted_sum,
        spectral_smoothness,
        weighted_box_smoothness,
        weighted_spectral_smoothness,
    )
    from deva_theory.smoothness.planning import Plan, plan
    from deva_theory.smoothness.probing import probe
    from deva_theory.smoothness.ratios import compare_rules
    from deva_theory.smoothness.result import BlockResult, ProbeResult
    from deva_theory.smoothness.secant import SecantRecorder, SecantResult

_HOME = {
    "callback": ("ProbeCallback",),
    "compare_results": ("compare",),
    "curvature": ("Block", "CurvatureOperator", "ProbeError"),
    "estimators": (
        "Bounds",
        "Estimate",
        "Interval",
        "absolute_weighted_sum",
        "box_smoothness",
        "signed_weighted_sum",
        "spectral_smoothness",
        "weighted_box_smoothness",
        "weighted_spectral_smoothness",
    ),
    "planning": ("Plan", "plan"),
    "probing": ("probe",),
    "ratios": ("compare_rules",),
    "result": ("BlockResult", "ProbeResult"),
    "secant": ("SecantRecorder", "SecantResult"),
}
_MODULE = {name: f"{__name__}.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "Block",
    "BlockResult",
    "Bounds",
    "CurvatureOperator",
    "Estimate",
    "Interval",
    "Plan",
    "ProbeCallback",
    "ProbeError",
    "ProbeResult",
    "SecantRecorder",
    "SecantResult",
    "absolute_weighted_sum",
    "box_smoothness",
    "compare",
    "compare_rules",
    "plan",
    "probe",
    "signed_weighted_sum",
    "spectral_smoothness",
    "weighted_box_smoothness",
    "weighted_spectral_smoothness",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the loaded and the lazy names."""
    return sorted({*globals(), *_MODULE})
