"""The table of known rates on the families' instances: the guarantees of all methods, and their runs, at equal numbers of gradients."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import deva_theory.linalg
import deva_theory.problems
import deva_theory.rates
import deva_theory.rules
from deva_theory.rates import catalogue
from deva_theory.rates.comparison import compare_known
from deva_theory.rates.known import KNOWN_RATES
from deva_theory.report.tables import Table, compare_tables, format_table
from deva_theory.runtime import Cache, Progress
from deva_theory.runtime.threads import one_thread
from experiments._rates_families import available, columns, comparable, stacked

SOURCES = (deva_theory.linalg, deva_theory.problems, deva_theory.rates, deva_theory.rules, Path(__file__))


@dataclass(frozen=True)
class Config:
    """Defaults are the published setting.

    Attributes
    ----------
    families : tuple of str
        Names of `deva_theory.rates.catalogue`.
    gradients : tuple of int
        Squares: mini-batches of T cost T² samples.
    seeds, instances : int
    """

    families: tuple[str, ...] = tuple(catalogue.FAMILIES)
    gradients: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    seeds: int = 10
    instances: int = 2


def compute(config: Config, *, cache: Cache, progress: Progress) -> dict[str, Table]:
    """Run everything and return the tables; without scikit-learn, which has its data, logistic regression is left out."""
    tables: list[Table] = []
    families = available(config.families, progress)
    with one_thread(), progress.task("rates: known methods", total=2 * len(families)) as task:
        for family in families:
            for noisy in (False, True):
                tables.append(cache.get_or_compute(
                    f"rates-known-{family}-{noisy}", config, lambda family=family, noisy=noisy: run(family, noisy, config), sources=SOURCES
                ))  # fmt: skip
                task.advance()
    return {"rates_known": stacked(tables)}


def run(family: str, noisy: bool, config: Config) -> Table:
    """Return the rows of one family with exact or with stochastic gradients."""
    problem = catalogue.FAMILIES[family](config.instances, 0)
    name = catalogue.default_oracle(problem) if noisy else "none"
    found = compare_known(
        problem, gradients=config.gradients, seeds=config.seeds, oracle=catalogue.oracle(name, problem) if noisy else None
    )
    return columns([{"family": family, "oracle": name, **row.to_dict()} for row in found])


def summary(tables: dict[str, Table]) -> str:
    """Return what each statement assumes, and what it guarantees and its method does at the largest number of gradients."""
    table = {k: np.asarray(v) for k, v in tables["rates_known"].items()}
    last = {k: v[table["gradients"] == table["gradients"].max()] for k, v in table.items()}
    # Assumptions by letter: most are shared.
    letters = {text: chr(ord("a") + k) for k, text in enumerate(dict.fromkeys(text for row in KNOWN_RATES for text in row.assumptions))}
    lines = ["Known rates: left side, what the constant depends on, samples in a step, exponents of steps T and of samples N, assumptions"]
    body = [
        [row.name, row.left_side, row.constants, row.batch, f"{row.exponent:g}", f"{row.sample_exponent:g}",
         "".join(letters[text] for text in row.assumptions), row.source] for row in KNOWN_RATES
    ]  # fmt: skip
    lines += [format_table(body, ["", "left side", "constants", "batch", "T", "N", "assumes", "from"]), ""]
    for text, letter in letters.items():
        lines += textwrap.wrap(text, 120, initial_indent=f"    {letter}: ", subsequent_indent="       ", break_on_hyphens=False)
    for title, chosen in (("exact gradients", last["oracle"] == "none"), ("samples", last["oracle"] != "none")):
        rows = {k: v[chosen] for k, v in last.items()}
        families = np.unique(rows["family"])
        lines += [
            "", f"On the same instances with {int(rows['gradients'][0])} {title}, {len(families)} families.  Own: bound/observed of the "
            "statement itself, least and largest.  l1:",
            "the bound on ‖∇f‖_1 and what was observed, over the least observed of all methods (medians).  Least: in how many families",
            "its bound on and its observed ‖∇f‖_1 and ‖∇f‖_2 are the least of all",
            format_table(list(_compared(rows)), _HEADERS),
        ]  # fmt: skip
    lines += [
        "", "Every method has the step size of its own statement, from constants known beforehand; for an adaptive Γ that is the worst",
        "case, γ_max.  So the rows rank guarantees, not tuned methods.  inf: the statement says nothing about ‖∇f‖_1.",
    ]  # fmt: skip
    exceeded, pairs = int(table["exceeded"].sum()), int((table["left_out"] == "").sum())
    lines += ["", f"{exceeded} averages beyond their bound in {pairs} rows of method, family and number of gradients"]
    out = [f"    {a}, {b}: {why}" for a, b, why in _left_out(table)]
    return "\n".join(lines + (["left out:", *out] if out else []))


_HEADERS = ["", "known rate", "T", "batch", "families", "own", "to", "l1: bound", "observed", "least l1 bound", "l1", "l2 bound", "l2"]


def _compared(rows: dict[str, np.ndarray]) -> Iterator[list[Any]]:
    least = {}
    for family in np.unique(rows["family"]):
        chosen = (rows["family"] == family) & (rows["left_out"] == "")
        least[family] = {key: rows[key][chosen].min() for key in ("l1_bound", "l1", "l2_bound", "l2")}
    for method, name in dict.fromkeys(zip(rows["method"].tolist(), rows["known"].tolist(), strict=True)):
        of = {k: v[(rows["method"] == method) & (rows["known"] == name) & (rows["left_out"] == "")] for k, v in rows.items()}
        if not len(of["family"]):
            continue
        own = of["bound"] / of["observed"]
        unit = np.array([least[family]["l1"] for family in of["family"]])
        wins = [
            sum(bool(np.isfinite(x)) and x <= least[family][key] * (1 + 1e-9) for x, family in zip(of[key], of["family"], strict=True))
            for key in ("l1_bound", "l1", "l2_bound", "l2")
        ]
        yield [
            method, name, int(of["T"][0]), int(of["batch"][0]), len(of["family"]), own.min(), own.max(), np.median(of["l1_bound"] / unit),
            np.median(of["l1"] / unit), *wins,
        ]  # fmt: skip


def _left_out(table: dict[str, np.ndarray]) -> Iterator[tuple[str, str, str]]:
    seen = zip(table["known"].tolist(), table["family"].tolist(), table["left_out"].tolist(), strict=True)
    yield from dict.fromkeys(row for row in seen if row[2])


_LOOSE = (0.25, 0.0)
TOLERANCES = {"rates_known": {
    key: _LOOSE for key in ("bound", "observed", "l1_bound", "l1", "l2_bound", "l2")
} | {"error": (0.5, 1e-6), "alignment": (0.9, 1.0)}}  # fmt: skip
"""Runs are chaotic near a minimum; κ, a least ratio over all steps, most of all, and with it the bounds that it divides."""


def changes(stem: str, new: Table, committed: Table) -> list[str]:
    """Return where a new table disagrees with the committed one, which may have logistic regression where this machine has not."""
    committed = comparable(new, committed)
    aligned = np.isfinite(np.asarray(committed["alignment"]))
    if len(aligned) == len(np.asarray(new["alignment"])):
        new, committed = dict(new), dict(committed)
        for key in ("l1_bound", "l2_bound"):
            for table in (new, committed):
                table[key] = np.where(aligned, np.nan, np.asarray(table[key]))
    return [f"column {change.column}: {change.reason}" for change in compare_tables(new, committed, TOLERANCES[stem])]
