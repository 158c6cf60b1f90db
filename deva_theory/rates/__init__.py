"""Rates: one function per numbered statement of SPEC §5, and runs that measure both of its sides.

What is known of related methods is in `deva_theory.rates.known`; fits of measured curves, which import scipy.stats, are in
`deva_theory.rates.fits`.  Of the runs, `measure`, `Measurement`, `compare_known` and `KnownRow` load on first use.

Where to add

* a family: ``catalogue.FAMILIES``, ``cli/rates_options.FAMILIES``, ``figures/_panels.FAMILY_MARKERS``;
* a rule: ``catalogue.METHODS``, ``cli/rates_options.RULES``, ``report/style``;
* a known rate: ``known.KNOWN_RATES``, ``contestants.CONTESTANTS``, ``figures/rates_known._SHORT``;
* a statement: ``coverage.STATEMENTS``, ``runner._step_sizes``, `sides`, `records`, ``cli/rates_options.STATEMENTS``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deva_theory.rates.conversion import aligned_conversion, clipped_rms, clipped_smoothness, conversion
from deva_theory.rates.matrix_bounds import any_direction, nuclear_conversion, nuclear_noise, singular_weighted, spectral
from deva_theory.rates.momentum_bounds import (
    momentum,
    momentum_best,
    momentum_best_step,
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

if TYPE_CHECKING:
    from deva_theory.rates.comparison import KnownRow, compare_known
    from deva_theory.rates.runner import Measurement, measure

__all__ = [
    "AssumptionError",
    "Bound",
    "KnownRow",
    "Measurement",
    "aligned_conversion",
    "any_direction",
    "best_step",
    "clipped_rms",
    "clipped_smoothness",
    "compare_known",
    "conversion",
    "deterministic",
    "deterministic_best",
    "measure",
    "momentum",
    "momentum_best",
    "momentum_best_step",
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

_HOME = {
    **dict.fromkeys(("KnownRow", "compare_known"), "deva_theory.rates.comparison"),
    **dict.fromkeys(("Measurement", "measure"), "deva_theory.rates.runner"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'deva_theory.rates' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the loaded and the lazy names."""
    return sorted({*globals(), *_HOME})
