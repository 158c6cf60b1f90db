"""``deva-theory rates``: measured convergence of update rules against the bounds that cover them; needs no clone."""

import argparse
import time

import numpy as np

from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.outputs import check_outputs
from deva_theory.cli.pipeline import set_threads
from deva_theory.cli.rates_options import GRADIENTS, STEPS
from deva_theory.cli.rates_row import Row
from deva_theory.cli.rates_subject import Wanted, add_noise, check_size, checked, counted, guarded, plural, wanted
from deva_theory.problems.families import Problem
from deva_theory.rates.fits import MIN_POINTS, bound_ratio, fit_slope
from deva_theory.rates.runner import measure
from deva_theory.report.tables import format_table
from deva_theory.runtime import Progress

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.rates_options` for its options.

    Returns
    -------
    Exit
        ``CHANGED`` if a bound is exceeded beyond doubt, by single runs or by averages over seeds.

    Raises
    ------
    BadInput
        An assumption of a statement fails, an option does not fit the problem, a file cannot be written, the runs are too many for the
        memory, or an optional package is missing.
    """
    _refuse(options)
    check_outputs(options, ("json", "csv", "figure"))
    set_threads(options.threads)
    if options.known:
        from deva_theory.cli.rates_known import run_known

        return run_known(options, options.gradients or GRADIENTS)
    horizons = options.steps or STEPS
    begin = time.perf_counter()
    with guarded(options, horizons):
        check_size(options, horizons, 1)
        problem = checked(options, horizons)
        chosen = wanted(problem, options, horizons)
        rows = []
        with Progress("silent" if options.quiet else "auto") as progress, progress.task("runs", total=len(chosen)) as task:
            for one in chosen:
                rows.append(_measured(problem, one, horizons, options))
                task.advance()
    # Written first: a reader of the text may stop early.
    from deva_theory.cli.rates_files import write

    written = write(options, problem, horizons, rows, seconds=time.perf_counter() - begin)
    print(f"{counted(problem, options)}; means over both, bound/observed with 95% intervals")
    for row in rows:
        print()
        print(_text(row))
    for path in written:
        print(path)
    exceeding = [(row, *row.exceeded()) for row in rows if any(row.exceeded())]
    if exceeding:
        names = ", ".join(f"{row.statement} {row.rule}: {_several(runs, averages)}" for row, runs, averages in exceeding)
        print(f"VIOLATED: bounds exceeded beyond doubt ({names})")
    return Exit.CHANGED if exceeding else Exit.OK


def _several(runs: int, averages: int) -> str:
    return " and ".join(plural(n, what) for n, what in ((runs, "single run"), (averages, "average")) if n)


def _refuse(options: argparse.Namespace) -> None:
    """Options that would silently do nothing are errors."""
    if not options.known:
        if options.gradients is not None:
            raise BadInput("--gradients goes with --known; without it, --steps gives the horizons")
        return
    given = {"--rule": options.rules, "--statement": options.statements, "--steps": options.steps, "--scale": options.scale,
             "--figure": options.figure}  # fmt: skip
    for option, value in given.items():
        if value is not None:
            raise BadInput(f"--known runs every known method at its own step size and draws nothing: drop {option}")


def _measured(problem: Problem, one: Wanted, horizons: tuple[int, ...], options: argparse.Namespace) -> Row:
    name, oracle = ("none", None) if one.statement == "R1" else add_noise(problem, options)
    found = measure(
        problem, one.rule, statement=one.statement, steps=horizons, seeds=options.seeds, oracle=oracle,
        scales=(1.0 if options.scale is None else options.scale,), seed=options.seed,
    )
    left, T = found.curve(found.left), found.T.numpy()
    # Logarithms need positive numbers: R3's left side for any direction may be negative.
    usable = bool((left > 0).all()) and len(T) > 1
    right = found.curve(found.right(found.expected))
    ratio = bound_ratio(T, right, left) if usable and bool((right > 0).all()) else None
    return Row(one.statement, one.name, name, found, ratio, fit_slope(T, left) if usable and len(T) >= MIN_POINTS else None)


def _text(row: Row) -> str:
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
    closest = f", bound/observed at least {least:.6g}" if np.isfinite(least) else ""
    # R1 is about single runs: without noise an average tells no more.
    averages = "" if row.statement == "R1" else f"; averages over seeds: {row.exceeded()[1]} beyond doubt"
    lines = [
        f"{row.rule}{noise}: {bound.statement}",
        format_table(body, ["T", "observed", norm, "bound", "a priori", "ratio", "interval"]),
        "no slope: it takes at least five horizons and positive left sides" if row.slope is None else row.slope.summary(),
        f"single runs: {violated} of {pairs} exceed their bound{closest}{averages}",
    ]
    return "\n".join(lines)
