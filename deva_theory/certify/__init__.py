"""Proofs, certificates and searches: what a check needs to decide a claim.

Exact matrices, symbolic identities, dual and interval certificates, and the search for counter-examples.  The public
names load on first use, so that a check pays only for the libraries (SymPy, python-flint, SciPy, torch) it needs.
`deva_theory.recheck` accepts or rejects the certificates made here and shares no code with this package.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deva_theory.certify.descent import descent_to_rate
    from deva_theory.certify.duality import DualCertificate, solve_exactly
    from deva_theory.certify.enclosure import Enclosure, enclose_polynomial
    from deva_theory.certify.exact import RationalMatrix, RationalSVD, backend, cayley, random_orthogonal, rational_svd
    from deva_theory.certify.linear_program import LinearProgram
    from deva_theory.certify.missing import MissingExtra
    from deva_theory.certify.pep import WorstCase, average_worst_case, block_worst_case, convex_worst_case, nonconvex_worst_case
    from deva_theory.certify.psd import RepairedMatrix, ldl, psd_certificate, rational_matrix, repair_psd
    from deva_theory.certify.search import SearchProblem, SearchResult, as_data, falsify_for, search, shrink
    from deva_theory.certify.symbolic import Case, Proof, at_most, cite, equal, positive, prove, sign_cases

__all__ = [
    "Case",
    "DualCertificate",
    "Enclosure",
    "LinearProgram",
    "MissingExtra",
    "Proof",
    "RationalMatrix",
    "RationalSVD",
    "RepairedMatrix",
    "SearchProblem",
    "SearchResult",
    "WorstCase",
    "as_data",
    "at_most",
    "average_worst_case",
    "backend",
    "block_worst_case",
    "cayley",
    "cite",
    "convex_worst_case",
    "descent_to_rate",
    "enclose_polynomial",
    "equal",
    "falsify_for",
    "ldl",
    "nonconvex_worst_case",
    "positive",
    "prove",
    "psd_certificate",
    "random_orthogonal",
    "rational_matrix",
    "rational_svd",
    "repair_psd",
    "search",
    "shrink",
    "sign_cases",
    "solve_exactly",
]

_MODULES = {
    "descent": ("descent_to_rate",),
    "duality": ("DualCertificate", "solve_exactly"),
    "enclosure": ("Enclosure", "enclose_polynomial"),
    "exact": ("RationalMatrix", "RationalSVD", "backend", "cayley", "random_orthogonal", "rational_svd"),
    "linear_program": ("LinearProgram",),
    "missing": ("MissingExtra",),
    "pep": ("WorstCase", "average_worst_case", "block_worst_case", "convex_worst_case", "nonconvex_worst_case"),
    "psd": ("RepairedMatrix", "ldl", "psd_certificate", "rational_matrix", "repair_psd"),
    "search": ("SearchProblem", "SearchResult", "as_data", "falsify_for", "search", "shrink"),
    "symbolic": ("Case", "Proof", "at_most", "cite", "equal", "positive", "prove", "sign_cases"),
}
_HOME = {name: f"deva_theory.certify.{module}" for module, names in _MODULES.items() for name in names}


class _Package(ModuleType):
    """A package in which the public name `search` is the function, also after the file of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every imported file here, over the function.
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'deva_theory.certify' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the loaded and the lazy names."""
    return sorted({*globals(), *_HOME})
