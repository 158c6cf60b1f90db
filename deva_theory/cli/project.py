"""The clone that the command line works in: where it is, and its experiments and figures.

The package never imports the project's own files: they are found on disk below the root and loaded by path.

A figure, ``figures/NAME.py``, has a docstring (its first line is the title) and

* ``EXPERIMENT``, the name of a file in ``experiments/``;
* ``TABLES``, the stems of the CSV files that it reads;
* ``draw(data, out, formats)``, which reads ``<data>/<stem>.csv``, writes pictures into ``out`` and returns
  their paths.

An experiment, ``experiments/NAME.py``, has

* ``Config``, a frozen dataclass whose defaults are the published setting;
* ``compute(config, *, cache, progress)``, which returns a dict from stems to tables;
* ``summary(tables)``, which returns a text;
* optionally ``TOLERANCES``, a dict from stem to column to ``(rtol, atol)``, or ``changes(stem, new, committed)``, which
  returns one line for each disagreement, where pointwise tolerances say nothing (chaotic runs).

Files whose names start with ``_`` are neither; they are imported as ``figures._x`` or ``experiments._x``.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from deva_theory.cli.errors import BadInput

__all__ = ["Project", "find_root"]

MARKER = Path("paper_checks", "claims.toml")

_CONTRACT = {
    "figures": ("EXPERIMENT", "TABLES", "draw"),
    "experiments": ("Config", "compute", "summary"),
}


def find_root(given: Path | None, start: Path | None = None) -> Path:
    """Root of the clone.

    Parameters
    ----------
    given : Path or None
        The user's ``--root``, if any.
    start : Path, optional
        Where to look upwards from without one; default the working folder.

    Returns
    -------
    Path
        An absolute path, which holds ``paper_checks/claims.toml``.

    Raises
    ------
    BadInput
        If there is no such folder.
    """
    if given is not None:
        if not (given / MARKER).is_file():
            raise BadInput(f"--root {given} holds no {MARKER}: name the top folder of a clone of deva_theory")
        return given.resolve()
    start = (Path.cwd() if start is None else start).resolve()
    for folder in (start, *start.parents):
        if (folder / MARKER).is_file():
            return folder
    raise BadInput(
        "this command needs a clone of deva_theory, for its experiments and figures: "
        "run it inside the clone or name it with --root DIR"
    )


@dataclass(frozen=True)
class Project:
    """Paths and modules of a clone.

    Attributes
    ----------
    root : Path
        The clone's top folder.
    """

    root: Path

    @property
    def build(self) -> Path:
        """Ignored folder that every run writes to."""
        return self.root / "build"

    @property
    def cache(self) -> Path:
        """Folder of cached results."""
        return self.build / "cache"

    @property
    def committed(self) -> Path:
        """Folder of the committed pictures and texts."""
        return self.root / "figures"

    @property
    def committed_data(self) -> Path:
        """Folder of the committed tables."""
        return self.root / "figures" / "data"

    def figure_names(self) -> list[str]:
        """Names of all figures, sorted."""
        return sorted(file.stem for file in self.committed.glob("*.py") if not file.name.startswith("_"))

    def select_figures(self, names: Sequence[str]) -> list[str]:
        """Check the names of figures that a user typed; ``all`` stands for all.

        Raises
        ------
        BadInput
            If a name is unknown (suggests the nearest) or there are no figures.
        """
        known = self.figure_names()
        if not known:
            raise BadInput(f"{self.committed} holds no figures: check out the clone completely")
        if "all" in names:
            return known
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise BadInput(f"unknown figure {name!r}: {hint}")
        return list(dict.fromkeys(names))

    def figure(self, name: str) -> ModuleType:
        """Load ``figures/<name>.py``."""
        return self._load("figures", name)

    def experiment(self, name: str) -> ModuleType:
        """Load ``experiments/<name>.py``."""
        return self._load("experiments", name)

    def _load(self, folder: str, name: str) -> ModuleType:
        path = self.root / folder / f"{name}.py"
        if not path.is_file():
            raise BadInput(f"{folder}/{name}.py does not exist: add it, or correct the name that asks for it")
        # The modules import each other as `experiments.x`, as the tests do.
        if str(self.root) not in sys.path:
            sys.path.insert(0, str(self.root))
        # A private name: another clone's module, or one already imported, must not stand in for this file.
        qualified = f"_deva_project.{folder}.{name}"
        spec = spec_from_file_location(qualified, path)
        if spec is None or spec.loader is None:
            raise BadInput(f"{folder}/{name}.py cannot be imported: rename it to a Python identifier")
        module = module_from_spec(spec)
        sys.modules[qualified] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        missing = [attribute for attribute in _CONTRACT[folder] if not hasattr(module, attribute)]
        if missing:
            raise BadInput(
                f"{folder}/{name}.py lacks {', '.join(missing)}: define it at the module's top level"
            )
        return module
