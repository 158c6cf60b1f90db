"""Theory of decoupled variance adaptation: update rules, decompositions, smoothness.

The public names load on first use, so that ``import deva_theory`` (and with it the command line) does not
wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deva_theory.decomposition import Decomposition, decompose
    from deva_theory.linalg import polar_factor
    from deva_theory.optim import DeVA, RuleOptimizer
    from deva_theory.rules import deva_linf, deva_spectral
    from deva_theory.smoothness import ProbeCallback, ProbeResult, SecantRecorder, compare_rules, plan, probe

__version__ = "0.1.0"

__all__ = [
    "DeVA",
    "Decomposition",
    "ProbeCallback",
    "ProbeResult",
    "RuleOptimizer",
    "SecantRecorder",
    "__version__",
    "compare_rules",
    "decompose",
    "deva_linf",
    "deva_spectral",
    "plan",
    "polar_factor",
    "probe",
]

_HOME = {
    "Decomposition": "deva_theory.decomposition",
    "decompose": "deva_theory.decomposition",
    "polar_factor": "deva_theory.linalg",
    "DeVA": "deva_theory.optim",
    "RuleOptimizer": "deva_theory.optim",
    "deva_linf": "deva_theory.rules",
    "deva_spectral": "deva_theory.rules",
    **dict.fromkeys(("ProbeCallback", "ProbeResult", "SecantRecorder", "compare_rules", "plan", "probe"), "deva_theory.smoothness"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'deva_theory' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the loaded and the lazy names."""
    return sorted({*globals(), *_HOME})
