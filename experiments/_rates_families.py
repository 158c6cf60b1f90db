"""Which families of `deva_theory.rates.catalogue` this machine has: logistic regression takes its data from scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deva_theory.rates import catalogue
from deva_theory.report.tables import Table
from deva_theory.runtime import Progress


def available(families: Sequence[str], progress: Progress) -> list[str]:
    """Return the families without those whose data are missing, and say so."""
    if "logistic" not in families:
        return list(families)
    try:
        catalogue.logistic(1, 0)
    except ImportError as error:
        progress.say(f"rates: logistic regression is left out: {error}")
        return [family for family in families if family != "logistic"]
    return list(families)


def comparable(new: Table, committed: Table) -> Table:
    """Return the committed table without the families that only it may have."""
    if "family" not in committed:
        return committed
    missing = set(np.asarray(committed["family"]).tolist()) - set(np.asarray(new["family"]).tolist())
    if missing != {"logistic"}:
        return committed
    kept = np.asarray(committed["family"]) != "logistic"
    return {key: np.asarray(column)[kept] for key, column in committed.items()}


def columns(rows: Sequence[dict[str, object]]) -> dict[str, np.ndarray]:
    """Return the table of rows with equal keys."""
    return {key: np.asarray([row[key] for row in rows]) for key in rows[0]}


def stacked(tables: Sequence[Table]) -> dict[str, np.ndarray]:
    """Return tables of the same columns one below the other."""
    return {key: np.concatenate([np.asarray(table[key]) for table in tables]) for key in tables[0]}
