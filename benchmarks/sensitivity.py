"""How far does rounding move the tables of E1?  The starting points are perturbed by 1e-7, relatively."""

from __future__ import annotations

import tempfile

import numpy as np

from deva_theory.report.tables import format_table
from deva_theory.runtime import Cache, Progress
from experiments.trace_quadratic import Config, changes, compute

_KEYS = ("step", "seed", "lr", "i", "j")


def run(perturbation: float = 1e-7) -> dict[str, dict[str, dict[str, float]]]:
    """Return for every column the largest and the median factor between the two runs, and what the comparison says."""
    with tempfile.TemporaryDirectory() as folder:
        cache, silent = Cache(folder, enabled=False), Progress("silent")
        plain = compute(Config(), cache=cache, progress=silent)
        moved = compute(Config(perturbation=perturbation), cache=cache, progress=silent)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for stem, table in plain.items():
        rows = {}
        for name, column in table.items():
            x, y = np.asarray(column), np.asarray(moved[stem][name])
            if x.dtype.kind != "f" or name in _KEYS:
                continue
            both = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
            if both.any():
                factor = np.exp(np.abs(np.log(x[both] / y[both])))
                rows[name] = {"largest": float(factor.max()), "median": float(np.median(factor))}
        out[stem] = rows
        rows["(disagreements found)"] = {"largest": float(len(changes(stem, moved[stem], table))), "median": 0.0}
    return out


def summary(result: dict) -> str:
    """Return the table of :func:`run`."""
    rows = [(stem, name, row["largest"], row["median"]) for stem, columns in result.items() for name, row in columns.items()]
    return format_table(rows, ("table", "column", "largest factor", "median factor"), digits=3)
