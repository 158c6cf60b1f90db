"""From experiments to pictures: compute the tables, draw from their CSV files, compare, and copy on request.

Everything is written to ``build/`` first. The committed places below ``figures/`` change on `publish` alone.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deva_theory.cli.errors import BadInput
from deva_theory.cli.project import Project
from deva_theory.report.includes import refresh_includes
from deva_theory.report.tables import Table, compare_tables, read_csv, write_csv
from deva_theory.runtime import Cache, Progress

__all__ = ["Experiment", "check_readme", "compare_experiment", "draw_figure", "publish", "refresh_readme", "run_experiment", "set_threads"]


@dataclass(frozen=True)
class Experiment:
    """What one experiment made.

    Attributes
    ----------
    name : str
        File stem in ``experiments/``.
    tables : dict of str to Table
        Stem of the CSV file to table.
    text : str
        The experiment's own summary.
    files : tuple of Path
        What was written to ``build/``.
    tolerances : dict
        Stem to column to ``(rtol, atol)``.
    changes : callable, optional
        The experiment's own comparison, instead of one by tolerances.
    """

    name: str
    tables: dict[str, Table]
    text: str
    files: tuple[Path, ...]
    tolerances: dict[str, dict[str, tuple[float, float]]]
    changes: Callable[[str, Table, Table], list[str]] | None = None


def set_threads(number: int) -> None:
    """Let torch compute with `number` threads."""
    import torch

    torch.set_num_threads(number)


def run_experiment(project: Project, name: str, *, cache: Cache, progress: Progress) -> Experiment:
    """Compute an experiment in its published setting and write its tables and text to ``build/``.

    Raises
    ------
    BadInput
        If the experiment does not keep to its contract.
    """
    module = project.experiment(name)
    tables = dict(module.compute(module.Config(), cache=cache, progress=progress))
    tolerances = getattr(module, "TOLERANCES", {})
    for stem in tolerances:
        if stem not in tables:
            raise BadInput(
                f"experiments/{name}.py: TOLERANCES names {stem!r}, its tables are {', '.join(tables)}"
            )
    files = []
    for stem, table in tables.items():
        files.append(project.build / "data" / f"{stem}.csv")
        try:
            write_csv(files[-1], table)
        except (TypeError, ValueError) as error:
            raise BadInput(f"experiments/{name}.py: table {stem!r} cannot be written: {error}") from error
    text = module.summary(tables).rstrip() + "\n"
    files.append(project.build / f"{name}.txt")
    files[-1].write_text(text, encoding="utf-8")
    return Experiment(name, tables, text, tuple(files), tolerances, getattr(module, "changes", None))


def compare_experiment(project: Project, experiment: Experiment) -> list[str]:
    """Compare an experiment's tables with the committed ones.

    Returns
    -------
    list of str
        One line for each column that changed, naming file, column and worst deviation.
    """
    lines = []
    for stem, table in experiment.tables.items():
        path = project.committed_data / f"{stem}.csv"
        label = path.relative_to(project.root).as_posix()
        if not path.is_file():
            lines.append(f"{label}: not committed yet")
            continue
        try:
            committed = read_csv(path)
        except ValueError as error:
            lines.append(f"{label}: damaged: {error}")
            continue
        if experiment.changes is not None:
            # Read back what was written: both sides then carry the same rounding and types.
            written = read_csv(project.build / "data" / f"{stem}.csv")
            lines += [f"{label}: {line}" for line in experiment.changes(stem, written, committed)]
            continue
        try:
            changes = compare_tables(table, committed, experiment.tolerances.get(stem))
        except ValueError as error:
            raise BadInput(f"experiments/{experiment.name}.py: TOLERANCES[{stem!r}]: {error}") from error
        for change in changes:
            where = "" if change.row is None else f", row {change.row}"
            lines.append(f"{label}, column {change.column}{where}: {change.reason}")
    return lines


def draw_figure(
    project: Project, name: str, module: ModuleType, data: Path, formats: Sequence[str]
) -> list[Path]:
    """Draw one figure into ``build/figures`` from the tables in `data`.

    Raises
    ------
    BadInput
        If a table is missing.
    """
    for stem in module.TABLES:
        if not (data / f"{stem}.csv").is_file():
            where = data.relative_to(project.root).as_posix()
            raise BadInput(f"{where}/{stem}.csv is missing: run `deva-theory figures {name}` to compute it")
    # Without dates inside, unchanged pictures are equal files.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out = project.build / "figures"
    out.mkdir(parents=True, exist_ok=True)
    try:
        return [Path(path) for path in module.draw(data, out, formats)]
    except (KeyError, ValueError) as error:
        where = data.relative_to(project.root).as_posix()
        raise BadInput(f"figure {name} cannot be drawn from {where}: {error}; restore the tables or run without --reuse-data") from error
    finally:
        pyplot.close("all")


def publish(project: Project, files: Iterable[Path]) -> list[Path]:
    """Copy files to their committed places: tables to ``figures/data``, the rest to ``figures``.

    Returns
    -------
    list of Path
        The copies.
    """
    copies = []
    for file in files:
        folder = project.committed_data if file.suffix == ".csv" else project.committed
        folder.mkdir(parents=True, exist_ok=True)
        copies.append(folder / file.name)
        shutil.copyfile(file, copies[-1])
    return copies


def check_readme(project: Project) -> None:
    """Raise BadInput if the include blocks of a document cannot be filled; change nothing."""
    for document in _documents(project):
        _filled(project, document)


def refresh_readme(project: Project) -> list[Path]:
    """Fill the documents' include blocks from the committed result files; return those that changed.

    Raises
    ------
    BadInput
        If a block names a missing file or is malformed.
    """
    changed = []
    for document in _documents(project):
        old, new = _filled(project, document)
        if new != old:
            document.write_text(new, encoding="utf-8")
            changed.append(document)
    return changed


def _documents(project: Project) -> list[Path]:
    return [path for path in (project.root / "README.md", project.root / "paper_checks" / "README.md") if path.is_file()]


def _filled(project: Project, document: Path) -> tuple[str, str]:
    old = document.read_text(encoding="utf-8")
    try:
        return old, refresh_includes(old, project.root, document.parent)
    except (OSError, ValueError) as error:
        raise BadInput(f"{document.relative_to(project.root).as_posix()}: {error}") from error
