"""``deva-theory doctor``: whether this installation is fit to reproduce the results."""

import argparse
import os
import platform
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from deva_theory import __version__
from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.project import MARKER, Project, find_root

__all__ = ["Finding", "run"]

_CORE = ("torch", "numpy", "scipy", "matplotlib", "sympy", "rich")
_EXTRAS = {
    "exact": {"python-flint": "flint"},
    "certify": {"PEPit": "PEPit", "clarabel": "clarabel"},
    "hf": {"transformers": "transformers", "accelerate": "accelerate"},
    "data": {"datasets": "datasets", "Pillow": "PIL"},
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    status : str
        ``"ok"``, ``"note"`` (works, but says something) or ``"FAIL"``.
    subject, detail : str
        What was looked at, and what was found, with the fix if one is needed.
    """

    status: str
    subject: str
    detail: str


def run(options: argparse.Namespace) -> Exit:
    """Print all findings; ``Exit.CHANGED`` (1) if one is a fault."""
    project: Project | None
    try:
        project = Project(find_root(options.root))
    except BadInput:
        # A --root that the user typed must be right; without one, an installation needs no clone.
        if options.root is not None:
            raise
        project = None
    faults = 0
    for finding in _findings(project, options.threads):
        faults += finding.status == "FAIL"
        print(f"{finding.status:4}  {finding.subject}: {finding.detail}", flush=True)
    print("all is well" if not faults else f"{faults} faults")
    return Exit.CHANGED if faults else Exit.OK


def _findings(project: Project | None, threads: int) -> Iterator[Finding]:
    yield Finding("ok", "deva-theory", __version__)
    yield Finding("ok", "python", platform.python_version())
    missing = False
    for package in _CORE:
        finding = _package(package)
        missing |= finding.status == "FAIL"
        yield finding
    if not missing:
        yield from _torch(threads)
        yield _font()
    yield from _clone(project)
    for extra, packages in _EXTRAS.items():
        yield _extra(extra, packages)


def _package(package: str) -> Finding:
    try:
        return Finding("ok", package, version(package))
    except PackageNotFoundError:
        return Finding("FAIL", package, "not installed: pip install deva-theory")


def _torch(threads: int) -> Iterator[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    device = "no CUDA device, computes on the CPU"
    if torch.cuda.is_available():
        device = f"CUDA device {torch.cuda.get_device_name(0)}"
    elif torch.version.cuda:
        device += " (a CPU build is smaller: see TORCH_INDEX in the Makefile)"
    yield Finding("ok", "device", f"{build}, {device}")
    torch.set_num_threads(threads)
    variables = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS",) if name in os.environ]
    yield Finding("ok", "threads", ", ".join([f"torch {threads} of {os.cpu_count()} cores", *variables]))
    # The results rest on float64 decompositions; a broken LAPACK is better found here.
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix)
    error = float((u @ torch.diag(s) @ vh - matrix).abs().max())
    good = error < 1e-14
    yield Finding("ok" if good else "FAIL", "linear algebra", f"float64 SVD reconstructs to {error:.0e}")


def _font() -> Finding:
    from matplotlib import font_manager

    from deva_theory.report.style import figure_style

    family = figure_style()["font.sans-serif"][0]
    try:
        font_manager.findfont(family, fallback_to_default=False)
    except ValueError:
        return Finding("FAIL", "font", f"{family} not found: reinstall matplotlib, which ships it")
    return Finding("ok", "font", family)


def _clone(project: Project | None) -> Iterator[Finding]:
    if project is None:
        yield Finding(
            "note", "clone", "none here: reproduce and figures need one (run inside it, or --root DIR)"
        )
        return
    yield Finding("ok", "clone", str(project.root))
    try:
        tomllib.loads((project.root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Finding("FAIL", MARKER.as_posix(), f"cannot be read ({error}): restore the file")
    figures = project.figure_names()
    yield Finding("ok" if figures else "FAIL", "figures", ", ".join(figures) or "none: restore figures/")
    yield _cache(project.cache)


def _cache(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "FAIL", "cache", f"build/cache cannot be written ({error.strerror}): runs will not resume"
        )
    files = list(folder.glob("*.cache"))
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding("ok", "cache", f"{len(files)} results, {size:.1f} MiB (make clean removes them)")


def _extra(extra: str, packages: dict[str, str]) -> Finding:
    # Looks the modules up without importing them: some take seconds.
    missing = [
        package for package, module in packages.items() if module not in sys.modules and not find_spec(module)
    ]
    if missing:
        fix = f"pip install 'deva-theory[{extra}]'"
        return Finding("note", f"extra {extra}", f"{', '.join(missing)} not installed (optional): {fix}")
    return Finding("ok", f"extra {extra}", ", ".join(f"{name} {_package(name).detail}" for name in packages))
