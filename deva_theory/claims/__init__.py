"""Claims about DeVA as executable checks: statement, verdict, evidence and a negative control.

``claims.toml`` states them, functions in ``paper_checks`` check them, :func:`verify` runs the checks, and a `Store` keeps the
evidence. The package itself holds no claim.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deva_theory.claims.explanation import explain, snippet
    from deva_theory.claims.files import EvidenceError, read_file, write_file
    from deva_theory.claims.ledger import Ledger, LedgerError, load_ledger, parse_ledger
    from deva_theory.claims.loading import resolve
    from deva_theory.claims.model import Claim, Counterexample, Evidence, Kind, Run, Verdict
    from deva_theory.claims.results import Store, replay_file, verdicts_document
    from deva_theory.claims.runner import Outcome, control_fails, run_claim, verify

__all__ = [
    "Claim",
    "Counterexample",
    "Evidence",
    "EvidenceError",
    "Kind",
    "Ledger",
    "LedgerError",
    "Outcome",
    "Run",
    "Store",
    "Verdict",
    "control_fails",
    "explain",
    "load_ledger",
    "parse_ledger",
    "read_file",
    "replay_file",
    "resolve",
    "run_claim",
    "snippet",
    "verdicts_document",
    "verify",
    "write_file",
]

_HOME = {
    "explanation": ("explain", "snippet"),
    "files": ("EvidenceError", "read_file", "write_file"),
    "ledger": ("Ledger", "LedgerError", "load_ledger", "parse_ledger"),
    "loading": ("resolve",),
    "model": ("Claim", "Counterexample", "Evidence", "Kind", "Run", "Verdict"),
    "results": ("Store", "replay_file", "verdicts_document"),
    "runner": ("Outcome", "control_fails", "run_claim", "verify"),
}
_MODULE = {name: f"{__name__}.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: listing claims must not wait for torch."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)
