"""What ``deva-theory rates`` writes: everything as JSON, the tables as CSV, a figure."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deva_theory.cli.outputs import whole
from deva_theory.cli.rates_row import Row
from deva_theory.problems.families import Problem
from deva_theory.rates.statement import Left
from deva_theory.report.style import figure_style, method_style
from deva_theory.report.tables import write_csv
from deva_theory.runtime import provenance

__all__ = ["DIGITS", "plain", "settings", "write", "write_json"]

DIGITS = 17
"""Of the tables: every float64 can be read back."""
_NORMS: Mapping[Left, str] = {
    "l1_weighted": r"\|\nabla f\|_{1,\Gamma}", "l1": r"\|\nabla f\|_1", "nuclear": r"\|\nabla f\|_*", "l2": r"\|\nabla f\|_2",
    "singular": r"\sum\gamma_i\sigma_i(\hat G)", "inner": r"\langle\hat G, D\rangle",
}  # fmt: skip
_LINES = ("-", "--", "-.", ":")
_DOTS = (0, (1, 1))
_COLOURS = ("#000000", "#7F7F7F", "#E69F00", "#CC79A7")


def write(options: argparse.Namespace, problem: Problem, horizons: tuple[int, ...], rows: Sequence[Row], *, seconds: float) -> list[Path]:
    """Write the files that the options ask for and return them."""
    if options.json is not None:
        content = {"horizons": list(horizons), "scale": options.scale or 1.0, "rows": [_record(row) for row in rows]}
        asked = settings(options, problem, [row.oracle for row in rows])
        write_json(options.json, {**asked, **content, "provenance": provenance(seconds=seconds)})
    if options.csv is not None:
        tables = [row.table() for row in rows]
        joined = {
            key: [cell for t in tables for cell in t[key]] if isinstance(tables[0][key], list) else np.concatenate([t[key] for t in tables])
            for key in tables[0]
        }
        with whole(options.csv) as temporary:
            write_csv(temporary, joined, digits=DIGITS)
    if options.figure is not None:
        with whole(options.figure) as temporary:
            _draw(temporary, rows)
    return [path for path in (options.json, options.csv, options.figure) if path is not None]


def settings(options: argparse.Namespace, problem: Problem, oracles: Sequence[str]) -> dict[str, Any]:
    """Return what was asked for, and the constants of the problem; `oracles` are those that ran: σ is of additive noise alone."""
    names = [field.name for field in fields(problem.constants)]
    additive = any(name not in ("none", "rows") for name in oracles)
    return {
        "problem": options.problem, "family": problem.name, "batch_shape": list(problem.batch_shape),
        "event_shape": list(problem.event_shape), "seeds": options.seeds, "seed": options.seed,
        "oracle": options.oracle, "sigma": None if not additive else 1.0 if options.sigma is None else options.sigma,
        "constants": {name: None if (x := getattr(problem.constants, name)) is None else plain(x) for name in names},
    }  # fmt: skip


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(x: Any) -> Any:
    """Return numbers and lists for JSON, which has neither NaN nor infinity: null."""
    if isinstance(x, np.ndarray | torch.Tensor):
        x = x.tolist()
    if isinstance(x, list):
        return [plain(item) for item in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def _record(row: Row) -> dict[str, Any]:
    found = row.found
    pairs, violated, least = found.closest()
    bound = found.bounds[found.expected]
    return {
        "statement": row.statement, "rule": row.rule, "oracle": row.oracle, "bound": bound.statement,
        "assumptions": list(bound.assumptions),
        "curves": {key: plain(column) for key, column in row.table().items() if isinstance(column, np.ndarray)},
        # A list over T for each seed: means over instances.
        "per_seed": {name: plain(found.curve(getattr(found, name))) for name in ("left", "plain", "smoothness")},
        # T, then seeds and instances, 1 where they share it.
        "eta": plain(found.eta[:, 0]),
        "bounds": {name: _bound(row, name) for name in found.bounds},
        "expected": found.expected, "slope": None if row.slope is None else row.slope.to_dict(),
        "ratio": None if row.ratio is None else row.ratio.to_dict(),
        "single_runs": {"pairs": pairs, "violated": violated, "closest": plain(least)},
        "averages": {"violated": row.exceeded()[1]}, "smoothness_exact": found.smoothness_exact,
    }  # fmt: skip


def _bound(row: Row, name: str) -> dict[str, Any]:
    found, bound = row.found, row.found.bounds[name]
    return {
        "statement": bound.statement, "assumptions": list(bound.assumptions), "per_seed": plain(found.curve(found.right(name))),
        "terms": {term: plain(found.curve(x)) for term, x in bound.terms.items()},
    }


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw one panel for each statement: observed with a band over seeds, and dotted its bound; the legend is above them."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # without dates inside, unchanged pictures are equal files
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    statements = list(dict.fromkeys(row.statement for row in rows))
    looks = _looks(list(dict.fromkeys(row.rule for row in rows)))
    handles = [Line2D([], [], **look) for look in looks.values()]
    handles.append(Line2D([], [], color="black", linewidth=0.9, linestyle=_DOTS, label="its bound"))
    columns = max(2, min(len(handles), 2 * len(statements)))
    style: Any = figure_style(width=0.6 + 2.9 * len(statements), height=3.2 + 0.16 * -(-len(handles) // columns))
    with matplotlib.rc_context(style):
        figure, panels = pyplot.subplots(1, len(statements), squeeze=False)
        try:
            for panel, statement in zip(panels[0], statements, strict=True):
                for row in rows:
                    if row.statement != statement:
                        continue
                    table, look = row.table(), looks[row.rule]
                    left = row.found.curve(row.found.left)
                    low, high = np.quantile(left, [0.1, 0.9], axis=0)
                    panel.plot(table["T"], table["observed"], **look)
                    panel.fill_between(table["T"], low, high, color=look["color"], alpha=0.18, linewidth=0)
                    panel.plot(table["T"], table["bound"], color=look["color"], linewidth=0.9, linestyle=_DOTS, marker=look["marker"],
                               markevery=[len(table["T"]) - 1], markerfacecolor="none")  # fmt: skip
                panel.set(xscale="log", xlabel=r"horizon $T$", title=statement)
                panel.set_ylabel(" or ".join(dict.fromkeys(_left_side(row) for row in rows if row.statement == statement)))
                # R3's left side for any direction may be negative.
                positive = all((row.table()["observed"] > 0).all() for row in rows if row.statement == statement)
                panel.set_yscale("log" if positive else "symlog")
            figure.legend(handles=handles, loc="outside upper center", ncols=columns)
            figure.savefig(path)
        finally:
            pyplot.close(figure)


def _left_side(row: Row) -> str:
    expectation = "" if row.oracle == "none" else "E"
    return f"avg {expectation}${_NORMS[row.found.bounds[row.found.expected].left]}$"


def _looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the style of each rule; the user's own take colours and lines in turn."""
    own = [name for name in names if ":" in name]
    looks = {name: method_style(name) for name in names if name not in own}
    for k, name in enumerate(own):
        label = name.partition(":")[2].replace("$", r"\$")
        looks[name] = {"label": label, "color": _COLOURS[k % 4], "linestyle": _LINES[k // 4 % 4], "marker": "hpPX"[k % 4]}
    return looks
