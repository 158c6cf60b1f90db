"""Panels that several figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deva_theory.report.style import method_style

# Shapes tell families apart; colours stay with the rules.
FAMILY_MARKERS = {
    "diagonal": "o", "rotated": "s", "e1-heterogeneous": "^", "e1-homogeneous": "v", "logistic": "D", "wells": "P", "factorisation": "X",
}  # fmt: skip
LOWEST = 1e-8  # loss panels end here; what falls below is off the panel, not missing


def rows(table: Mapping[str, np.ndarray], **where: object) -> dict[str, np.ndarray]:
    """Return the rows of a table in which every named column has the given value."""
    chosen = np.all([table[key] == value for key, value in where.items()], axis=0)
    return {key: column[chosen] for key, column in table.items()}


def loss_panel(axes: Axes, table: Mapping[str, np.ndarray], methods: Sequence[str], lowest: float = LOWEST) -> None:
    """Draw median suboptimality and interquartile band over steps, one line per method, log axis."""
    for number, method in enumerate(methods):
        run = rows(table, method=method)
        style = method_style(method)
        # Markers of different methods sit at different steps, so that none hides another.
        mark = (2 * number, 25)
        axes.plot(run["step"], np.maximum(run["median"], lowest / 100), markevery=mark, **style)
        axes.fill_between(
            run["step"], np.maximum(run["q25"], lowest / 100), np.maximum(run["q75"], lowest / 100),
            color=style["color"], alpha=0.15, linewidth=0,
        )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(r"$f(X_t) - f^\star$")
    axes.set_xlim(0, float(table["step"].max()))
    axes.set_ylim(bottom=max(lowest, float(table["q25"][table["q25"] > 0].min()) / 3))


def save(figure: Figure, out: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """Write a figure in every format and return the paths."""
    paths = [out / f"{stem}.{kind}" for kind in formats]
    for path in paths:
        figure.savefig(path)
    return paths
