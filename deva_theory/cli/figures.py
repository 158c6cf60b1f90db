"""``deva-theory figures``: some figures, computed and compared or redrawn from the committed tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.pipeline import (
    check_readme,
    compare_experiment,
    draw_figure,
    publish,
    refresh_readme,
    run_experiment,
    set_threads,
)
from deva_theory.cli.project import Project, find_root
from deva_theory.runtime import Cache, Progress

__all__ = ["make_figures", "run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    project = Project(find_root(options.root))
    return make_figures(project, project.select_figures(options.names), options, reuse=options.reuse_data)


def make_figures(
    project: Project, names: Sequence[str], options: argparse.Namespace, *, reuse: bool = False
) -> Exit:
    """Compute (unless `reuse`), draw and compare the named figures, and print what came out.

    Parameters
    ----------
    project : Project
        The clone.
    names : sequence of str
        Names of existing figures.
    options : argparse.Namespace
        ``threads``, ``formats``, ``update``, ``no_cache`` and ``quiet``.
    reuse : bool, default False
        Draw from the committed tables and compute nothing.

    Returns
    -------
    Exit
        ``CHANGED`` if a table differs from the committed one and is not updated now.
    """
    # Before anything long: a figure that cannot be loaded, a README that cannot be filled and a place that cannot be written
    # are errors at once.
    figures = {name: project.figure(name) for name in names}
    formats = tuple(options.formats)
    if options.update:
        check_readme(project)
        if not reuse:
            # Tables and pictures are committed together: all figures of an experiment, in the formats that documents show.
            touched = {module.EXPERIMENT for module in figures.values()}
            others = {name: project.figure(name) for name in project.figure_names()}
            figures |= {name: module for name, module in others.items() if module.EXPERIMENT in touched}
            formats = tuple(dict.fromkeys((*formats, "pdf", "png")))
    project.build.mkdir(parents=True, exist_ok=True)
    changes: list[str] = []
    made: list[Path] = []
    texts: list[str] = []
    with Progress("silent" if options.quiet else "auto") as progress:
        if reuse:
            data = project.committed_data
        else:
            data = project.build / "data"
            set_threads(options.threads)
            cache = Cache(project.cache, enabled=not options.no_cache)
            for experiment_name in dict.fromkeys(module.EXPERIMENT for module in figures.values()):
                experiment = run_experiment(project, experiment_name, cache=cache, progress=progress)
                _check_tables(experiment_name, figures, experiment.tables)
                changes += compare_experiment(project, experiment)
                made += experiment.files
                texts.append(experiment.text)
        with progress.task("drawing", total=len(figures)) as task:
            for name, module in figures.items():
                made += draw_figure(project, name, module, data, formats)
                task.advance()
    # Printed after the bars are gone: standard output holds results alone.
    for text in texts:
        print(text)
    if options.update:
        made = publish(project, made)
        made += refresh_readme(project)
    for path in made:
        print(path.relative_to(project.root).as_posix())
    return _verdict(changes, updated=options.update, compared=not reuse)


def _check_tables(experiment: str, figures: dict, tables: dict) -> None:
    # A stale CSV from an earlier run may lie in build/data: ask the experiment, not the disk.
    for name, module in figures.items():
        if module.EXPERIMENT == experiment:
            for stem in module.TABLES:
                if stem not in tables:
                    raise BadInput(
                        f"figures/{name}.py reads table {stem!r}, but experiments/{experiment}.py makes "
                        f"{', '.join(tables)}: correct TABLES"
                    )


def _verdict(changes: list[str], *, updated: bool, compared: bool) -> Exit:
    for line in changes:
        print(f"{'updated' if updated else 'changed'}: {line}")
    if updated:
        print("copied to figures/; commit them if the changes are meant")
        return Exit.OK
    if changes:
        print(
            f"{len(changes)} changes against the committed tables; if they are meant, run again with --update"
        )
        return Exit.CHANGED
    if compared:
        print("all tables agree with the committed ones")
    return Exit.OK
