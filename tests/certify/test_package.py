"""The public names load lazily, each from its own file."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deva_theory.certify as certify


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_library() -> None:
    libraries = ("sympy", "torch", "scipy", "flint", "numpy", "mpmath")
    assert _run(f"import sys, deva_theory.certify; print([m for m in {libraries} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize(
    ("name", "libraries"),
    # SymPy takes python-flint's integers where it finds them, so `prove` may load flint.
    [
        ("prove", ("torch", "scipy", "numpy")),
        ("RationalMatrix", ("torch", "scipy", "sympy", "numpy")),
        ("psd_certificate", ("torch", "scipy", "sympy", "numpy")),
    ],
)
def test_a_name_loads_only_what_it_needs(name: str, libraries: tuple[str, ...]) -> None:
    assert _run(f"import sys; from deva_theory.certify import {name}; print([m for m in {libraries} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("name", certify.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(certify, name).__module__.startswith("deva_theory.certify.")
    assert name in dir(certify)


def test_search_is_the_function_whatever_was_imported_before() -> None:
    for before in ("from deva_theory.certify.search import SearchProblem", "from deva_theory.certify import SearchProblem"):
        assert _run(f"{before}; from deva_theory.certify import search; print(callable(search))") == "True\n"


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match=r"'deva_theory\.certify' has no attribute 'guess'"):
        _ = certify.guess
