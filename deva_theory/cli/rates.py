"""``deva-theory rates``: measured convergence of update rules against the bounds that cover them; needs no clone."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.pipeline import set_threads
from deva_theory.problems.families import Problem
from deva_theory.rates import catalogue
from deva_theory.rates.fits import MIN_POINTS, RatioFit, SlopeFit, bound_ratio, fit_slope
from deva_theory.rates.runner import Measurement, measure
from deva_theory.report.style import figure_style, method_style
from deva_theory.report.tables import format_table, write_csv
from deva_theory.runtime import Progress

__all__ = ["run"]

_FIGURES = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class _Row:
    """One rule under one statement."""

    statement: str
    rule: str
    oracle: str
    found: Measurement
    ratio: RatioFit | None
    slope: SlopeFit | None

    def table(self) -> dict[str, Any]:
        """Return the columns over T."""
        found = self.found
        n = len(found.T)
        left = found.curve(found.left)
        nothing = np.full(n, np.nan)
        prior = found.curve(found.right("a_priori")).mean(0) if "a_priori" in found.bounds else nothing
        ratio = self.ratio
        return {
            "statement": [self.statement] * n, "rule": [self.rule] * n, "oracle": [self.oracle] * n, "T": found.T.numpy(),
            "observed": left.mean(0), "plain": found.curve(found.plain).mean(0), "bound": found.curve(found.right(found.expected)).mean(0),
            "a_priori": prior, "ratio": nothing if ratio is None else np.asarray(ratio.ratio),
            "ratio_low": nothing if ratio is None or ratio.low is None else np.asarray(ratio.low),
            "ratio_high": nothing if ratio is None or ratio.high is None else np.asarray(ratio.high),
        }  # fmt: skip


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.rates_options` for its options.

    Raises
    ------
    BadInput
        An assumption of a statement fails, an option does not fit the problem, or an optional package is missing.
    """
    if options.figure is not None and options.figure.suffix.lower() not in _FIGURES:
        raise BadInput(f"--figure {options.figure}: end the name in one of {', '.join(_FIGURES)}")
    set_threads(options.threads)
    try:
        problem = catalogue.FAMILIES[options.problem](options.instances, options.seed)
        wanted = _wanted(problem, options)
        rows = []
        with Progress("silent" if options.quiet else "auto") as progress, progress.task("runs", total=len(wanted)) as task:
            for statement, rule in wanted:
                rows.append(_measured(problem, statement, rule, options))
                task.advance()
    except (ValueError, ImportError) as error:
        raise BadInput(str(error).splitlines()[0]) from error
    print(f"{problem.name}, {options.instances} instances, {options.seeds} seeds; means over both, bound/observed with 95% intervals")
    for row in rows:
        print()
        print(_text(row))
    _write(options, rows)
    return Exit.OK


def _wanted(problem: Problem, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return (statement, rule) pairs, the statements that cover each rule unless the user names some."""
    pairs = []
    for rule in options.rules:
        matrices = catalogue.METHODS[rule].matrices
        if matrices and problem.event_ndim == 1:
            fitting = "e1-heterogeneous, e1-homogeneous or factorisation"
            raise BadInput(f"{rule} is a rule for matrices, and {problem.name} has vectors: use {fitting}")
        covering = ("R3",) if matrices else ("R1", "R2", "R5")
        chosen = [statement for statement in (options.statements or covering) if statement in covering]
        if not chosen:
            raise BadInput(f"--statement {','.join(options.statements)} names none that covers {rule}: use {', '.join(covering)}")
        pairs += [(statement, rule) for statement in chosen]
    return sorted(pairs, key=lambda pair: pair[0])


def _measured(problem: Problem, statement: str, rule: str, options: argparse.Namespace) -> _Row:
    name = "none" if statement == "R1" else options.oracle or catalogue.default_oracle(problem)
    oracle = None if name == "none" else catalogue.oracle(name, problem)
    found = measure(
        problem, catalogue.METHODS[rule].rule(problem.event_ndim), statement=statement, steps=options.steps, seeds=options.seeds,
        oracle=oracle, scales=(options.scale,), seed=options.seed,
    )
    left, T = found.curve(found.left), found.T.numpy()
    # Logarithms need positive numbers: R3's left side for any direction may be negative.
    usable = bool((left > 0).all()) and len(T) > 1
    ratio = bound_ratio(T, found.curve(found.right(found.expected)), left) if usable else None
    return _Row(statement, rule, name, found, ratio, fit_slope(T, left) if usable and len(T) >= MIN_POINTS else None)


def _text(row: _Row) -> str:
    found, table = row.found, row.table()
    noise = "" if row.oracle == "none" else f", {row.oracle} noise"
    bound = found.bounds[found.expected]
    body = [
        [int(T), observed, plain, right, "" if np.isnan(prior) else prior, "" if np.isnan(ratio) else ratio,
         "" if np.isnan(low) else f"[{low:.4g}, {high:.4g}]"]
        for T, observed, plain, right, prior, ratio, low, high in zip(
            *(table[key] for key in ("T", "observed", "plain", "bound", "a_priori", "ratio", "ratio_low", "ratio_high")), strict=True
        )
    ]  # fmt: skip
    norm = "‖∇f‖_*" if row.statement == "R3" else "‖∇f‖_1"
    pairs, violated, least = found.closest()
    lines = [
        f"{row.rule}{noise}: {bound.statement}",
        format_table(body, ["T", "observed", norm, "bound", "a priori", "ratio", "interval"]),
        "no slope: it takes at least five horizons and positive left sides" if row.slope is None else row.slope.summary(),
        f"single runs: {violated} of {pairs} exceed their bound, bound/observed at least {least:.6g}",
    ]
    return "\n".join(lines)


def _write(options: argparse.Namespace, rows: Sequence[_Row]) -> None:
    if options.json is not None:
        record = {
            "problem": options.problem, "seeds": options.seeds, "instances": options.instances, "seed": options.seed,
            "scale": options.scale, "rows": [_record(row) for row in rows],
        }  # fmt: skip
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.csv is not None:
        tables = [row.table() for row in rows]
        write_csv(options.csv, {
            key: [cell for t in tables for cell in t[key]] if isinstance(tables[0][key], list) else np.concatenate([t[key] for t in tables])
            for key in tables[0]
        })  # fmt: skip
    if options.figure is not None:
        _draw(options.figure, rows)
    for path in (options.json, options.csv, options.figure):
        if path is not None:
            print(path)


def _record(row: _Row) -> dict[str, Any]:
    pairs, violated, least = row.found.closest()
    bound = row.found.bounds[row.found.expected]
    curves = {
        key: [None if isinstance(x, float) and np.isnan(x) else x for x in column.tolist()]
        for key, column in row.table().items() if isinstance(column, np.ndarray)
    }  # fmt: skip
    return {
        "statement": row.statement, "rule": row.rule, "oracle": row.oracle, "bound": bound.statement,
        "assumptions": list(bound.assumptions), "curves": curves, "slope": None if row.slope is None else row.slope.to_dict(),
        "single_runs": {"pairs": pairs, "violated": violated, "closest": least if np.isfinite(least) else None},
        "smoothness_exact": row.found.smoothness_exact,
    }  # fmt: skip


def _draw(path: Path, rows: Sequence[_Row]) -> None:
    """Draw one panel for each statement: observed with a band over seeds, and dotted its bound."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # without dates inside, unchanged pictures are equal files
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    statements = list(dict.fromkeys(row.statement for row in rows))
    style: Any = figure_style(width=0.4 + 2.9 * len(statements), height=3.2)
    with matplotlib.rc_context(style):
        figure, panels = pyplot.subplots(1, len(statements), squeeze=False)
        try:
            for panel, statement in zip(panels[0], statements, strict=True):
                for row in rows:
                    if row.statement != statement:
                        continue
                    table, look = row.table(), method_style(row.rule)
                    left = row.found.curve(row.found.left)
                    low, high = np.quantile(left, [0.1, 0.9], axis=0)
                    panel.plot(table["T"], table["observed"], **look)
                    panel.fill_between(table["T"], low, high, color=look["color"], alpha=0.18, linewidth=0)
                    panel.plot(table["T"], table["bound"], color=look["color"], linewidth=0.9, linestyle=(0, (1, 1)), marker=look["marker"],
                               markevery=[len(table["T"]) - 1], markerfacecolor="none", label=f"{look['label']}, bound")  # fmt: skip
                panel.set(xscale="log", xlabel=r"horizon $T$", title=statement, ylabel="left side")
                # R3's left side for any direction may be negative.
                positive = all((row.table()["observed"] > 0).all() for row in rows if row.statement == statement)
                panel.set_yscale("log" if positive else "symlog")
                panel.legend()
            figure.savefig(path)
        finally:
            pyplot.close(figure)
