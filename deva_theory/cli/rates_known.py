"""``deva-theory rates PROBLEM --known``: what every known method guarantees on these instances, and what its runs do."""

import argparse
import math
import time
from dataclasses import replace
from typing import Any

from deva_theory.cli.errors import Exit
from deva_theory.cli.outputs import whole
from deva_theory.cli.rates_files import DIGITS, plain, settings, write_json
from deva_theory.cli.rates_subject import add_noise, check_size, checked, counted, guarded, note, plural
from deva_theory.problems.families import Oracle
from deva_theory.rates.comparison import KnownRow, compare_known
from deva_theory.report.tables import format_table, write_csv
from deva_theory.runtime import Progress, provenance

__all__ = ["run_known"]

_HEADERS = ("method", "known rate", "T", "batch", "left side", "bound", "observed", "ratio", "l1 bound", "l1 observed", "l2 bound",
            "l2 observed")  # fmt: skip
Entry = tuple[str, KnownRow]


def run_known(options: argparse.Namespace, gradients: tuple[int, ...]) -> Exit:
    """Run and print the table of known rates, with exact and with stochastic gradients unless ``--oracle`` names one kind.

    Returns
    -------
    Exit
        ``CHANGED`` if a bound is exceeded beyond doubt.

    Raises
    ------
    BadInput
        As `deva_theory.cli.rates.run`; noisy numbers of gradients that are no squares; runs prove a constant or a gradient wrong.
    """
    begin = time.perf_counter()
    found: list[Entry] = []
    with guarded(options, gradients):
        check_size(options, gradients, 1)
        problem = checked(options, gradients)
        noisy = [] if options.oracle == "none" else [add_noise(problem, options)]
        if options.sigma is not None and not noisy:
            note("--oracle none has exact gradients: --sigma changes nothing")
        kinds: list[tuple[str, Oracle | None]] = [*([("none", None)] if options.oracle in (None, "none") else []), *noisy]
        with Progress("silent" if options.quiet else "auto") as progress, progress.task("known methods", total=len(kinds)) as task:
            for name, oracle in kinds:
                rows = compare_known(problem, gradients=gradients, seeds=options.seeds, oracle=oracle, seed=options.seed)
                found += [(name, replace(row, left_out=row.left_out.partition("\n")[0])) for row in rows]
                task.advance()
    written = []
    if options.json is not None:
        content = {"gradients": list(gradients), "rows": [{key: plain(x) for key, x in _cells(entry).items()} for entry in found]}
        asked = settings(options, problem, [name for name, _ in kinds])
        write_json(options.json, {**asked, **content, "provenance": provenance(seconds=time.perf_counter() - begin)})
        written.append(options.json)
    if options.csv is not None:
        cells = [_cells(entry) for entry in found]
        with whole(options.csv) as temporary:
            write_csv(temporary, {key: [row[key] for row in cells] for key in cells[0]}, digits=DIGITS)
        written.append(options.csv)
    print(f"{counted(problem, options)}; means over both")
    for name, _ in kinds:
        print()
        print(_text(name, [row for kind, row in found if kind == name]))
    for path in written:
        print(path)
    exceeding = [(name, row) for name, row in found if row.exceeded]
    if exceeding:
        names = "; ".join(f"{row.method}, {row.known}, N = {row.gradients}: {plural(row.exceeded, 'instance')}" for _, row in exceeding)
        print(f"VIOLATED: bounds exceeded beyond doubt ({names})")
    return Exit.CHANGED if exceeding else Exit.OK


def _cells(entry: Entry) -> dict[str, Any]:
    return {"oracle": entry[0], **entry[1].to_dict()}


def _text(name: str, rows: list[KnownRow]) -> str:
    body = [
        [row.method, row.known, row.T, row.batch, row.left, row.bound, row.observed, row.bound / row.observed if row.observed > 0 else None,
         _finite(row.l1_bound), row.l1, _finite(row.l2_bound), row.l2]
        for row in rows if not row.left_out
    ]  # fmt: skip
    lines = [
        "exact gradients" if name == "none" else f"{name} noise",
        format_table(body, _HEADERS) if body else "no method's assumptions hold here",
        *dict.fromkeys(f"left out: {row.method}, {row.known}: {row.left_out}" for row in rows if row.left_out),
        "empty: the bound does not carry over to that norm, or nothing was observed" if any(None in row for row in body) else "",
    ]
    return "\n".join(line for line in lines if line)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
