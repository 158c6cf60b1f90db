"""Where a result came from: versions, commit, threads and time, without naming a machine or a path."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import deva_theory

__all__ = ["provenance"]

_PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "sympy")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def provenance(*, seconds: float | None = None) -> dict[str, Any]:
    """Describe the software that runs now, for a file beside the results.

    Parameters
    ----------
    seconds : float, optional
        How long the work took.

    Returns
    -------
    dict
        JSON values: ``package`` (version, commit, whether files differ from it; None outside a clone),
        ``python``, ``packages``, ``platform`` (system and processor family; no host name, no path),
        ``threads``, ``utc`` (ISO 8601) and ``seconds``.
    """
    commit, dirty = _commit(Path(deva_theory.__file__).parent)
    return {
        "package": {"version": deva_theory.__version__, "commit": commit, "dirty": dirty},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
        "threads": _threads(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 2),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _threads() -> dict[str, int | str]:
    threads: dict[str, int | str] = {}
    threads.update({name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ})
    # Only if it is loaded: provenance costs no import.
    torch = sys.modules.get("torch")
    if torch is not None:
        threads["torch"] = torch.get_num_threads()
    return threads


def _commit(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the clone that tracks `package`, and whether tracked files differ from it."""
    # An installed copy may lie inside somebody else's repository: that commit says nothing about this code.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
