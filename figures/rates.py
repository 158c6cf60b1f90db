"""Measured rates against the bounds R1, R2, R3 and R5, their slopes, bound/observed, and R4: where adaptation helps.

Upper row: the average left side over runs of horizon T (mean and 10th to 90th percentile over seeds) and, dotted, the bound with the
constants measured along the runs (R5: with constants alone).  Lower row: slopes of all families with 95% intervals against the exponents;
bound over observed (median and range over families, rules and oracles); R4, each method at its own best step size, against SPEC S7's ρ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deva_theory.report.style import figure_style, method_label, method_style
from deva_theory.report.tables import read_csv
from figures._panels import rows, save

EXPERIMENT = "rates"
TABLES = ("rates", "rates_slopes", "rates_pairs", "rates_adaptation")

# statement: (family, oracle, title, left side)
_CURVES = {
    "R1": ("rotated", "none", "R1: exact gradients, rotated quadratics", r"avg $\|\nabla f\|_{1,\Gamma}$"),
    "R2": ("wells", "gaussian", r"R2: batch $T$, non-convex wells", r"avg E$\|\nabla f\|_{1,\Gamma}$"),
    "R3": ("e1-heterogeneous", "rows", r"R3: matrices, batch $T$, E1", r"avg E$\langle\hat G, D\rangle$ or E$\|\nabla f\|_*$"),
    "R5": ("rotated", "gaussian", "R5: momentum, batch 1, rotated", r"avg E$\|\nabla f\|_{1,\Gamma}$"),
}
# Shapes tell families apart; colours stay with the rules.
_MARKERS = {
    "diagonal": "o", "rotated": "s", "e1-heterogeneous": "^", "e1-homogeneous": "v", "logistic": "D", "wells": "P", "factorisation": "X",
}  # fmt: skip
_STATEMENTS = {"R1": ("#000000", "-", "o"), "R2": ("#0072B2", "--", "s"), "R3": ("#D55E00", "-.", "^"), "R5": ("#7F7F7F", ":", "D")}


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw the seven panels."""
    curves, slopes, _, adapted = (read_csv(data / f"{stem}.csv") for stem in TABLES)
    with plt.rc_context(figure_style(width=11.0, height=7.2)):
        figure = plt.figure()
        grid = figure.add_gridspec(2, 4, height_ratios=(1.0, 1.35))
        for k, statement in enumerate(_CURVES):
            _curve_panel(figure.add_subplot(grid[0, k]), statement, curves)
        _slope_panel(figure.add_subplot(grid[1, :2]), slopes)
        _ratio_panel(figure.add_subplot(grid[1, 2]), curves)
        _adaptation_panel(figure.add_subplot(grid[1, 3]), adapted)
        handles = [Line2D([], [], **method_style(name)) for name in dict.fromkeys(curves["rule"].tolist())]
        handles.append(Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (1, 1)), label="its bound"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return save(figure, out, "rates", formats)


def _curve_panel(axes: Axes, statement: str, table: Mapping[str, np.ndarray]) -> None:
    family, oracle, title, label = _CURVES[statement]
    chosen = rows(table, statement=statement, family=family, oracle=oracle)
    for rule in dict.fromkeys(chosen["rule"].tolist()):
        run = rows(chosen, rule=rule)
        style = method_style(rule)
        axes.plot(run["T"], run["observed"], **style)
        axes.fill_between(run["T"], run["low"], run["high"], color=style["color"], alpha=0.18, linewidth=0)
        # Dotted and without markers: the same colour says whose bound, the marker on its last point also in grey.
        axes.plot(run["T"], run["bound"], color=style["color"], linewidth=0.8, linestyle=(0, (1, 1)), marker=style["marker"],
                  markevery=[len(run["T"]) - 1], markerfacecolor="none", markersize=5)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=r"horizon $T$", ylabel=label, title=title)


def _slope_panel(axes: Axes, slopes: Mapping[str, np.ndarray]) -> None:
    pairs = sorted(set(zip(slopes["statement"].tolist(), slopes["rule"].tolist(), strict=True)))
    for row, (statement, rule) in enumerate(pairs):
        chosen = rows(slopes, statement=statement, rule=rule)
        color = method_style(rule)["color"]
        count = len(chosen["slope"])
        for k in range(count):
            # Families one below the other within the row; hollow where the curve bends in every window.
            y = row + 0.62 * ((k + 0.5) / count - 0.5)
            straight = bool(chosen["straight"][k])
            axes.plot([chosen["low"][k], chosen["high"][k]], [y, y], color=color, linewidth=0.9)
            axes.plot(chosen["slope"][k], y, marker=_MARKERS[str(chosen["family"][k])], color=color, markersize=3.6, linestyle="none",
                      markerfacecolor=color if straight else "white", markeredgewidth=0.7)  # fmt: skip
        exponent = float(chosen["exponent"][0])
        axes.plot([exponent, exponent], [row - 0.45, row + 0.45], color="black", linewidth=1.4)
    axes.set_yticks(range(len(pairs)), [f"{statement}  {method_label(rule)}" for statement, rule in pairs])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=r"log-log slope of the left side against $T$", title="Slopes with 95% intervals; bars: exponents of the bounds")
    present = [name for name in _MARKERS if name in slopes["family"]]
    handles = [Line2D([], [], color="black", marker=_MARKERS[name], linestyle="none", markersize=3.6, label=name) for name in present]
    bends = Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", markersize=3.6, label="hollow: bends")
    handles.append(bends)
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=4)


def _ratio_panel(axes: Axes, table: Mapping[str, np.ndarray]) -> None:
    for statement, (color, line, marker) in _STATEMENTS.items():
        chosen = rows(table, statement=statement)
        T = np.unique(chosen["T"])
        ratios = [chosen["ratio"][chosen["T"] == t] for t in T]
        axes.plot(T, [np.median(r) for r in ratios], color=color, linestyle=line, marker=marker, label=statement)
        axes.fill_between(T, [r.min() for r in ratios], [r.max() for r in ratios], color=color, alpha=0.1, linewidth=0)
        axes.plot(T, [r.min() for r in ratios], color=color, linestyle=line, linewidth=0.6)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=r"horizon $T$", ylabel="bound / observed", title="Bound over observed: median, range")
    axes.legend(loc="upper left")


def _adaptation_panel(axes: Axes, table: Mapping[str, np.ndarray]) -> None:
    fixed = rows(table, method="power")
    contrasts = np.unique(fixed["contrast"])
    for contrast, marker, grey in zip(contrasts, ("o", "s", "^", "D"), ("0.75", "0.5", "0.0"), strict=False):
        run = rows(fixed, contrast=contrast)
        axes.plot(run["rho"], run["ratio"], marker=marker, color=grey, linestyle="-", linewidth=0.7, label=rf"$\Lambda = {contrast:g}$")
        proved = (run["proved_high"] < 1) | (run["proved_low"] > 1)
        axes.plot(run["rho"][proved], run["ratio"][proved], marker="o", linestyle="none", color="#D55E00", markerfacecolor="none",
                  markersize=8.5, markeredgewidth=1.0)  # fmt: skip
    for rule in dict.fromkeys(table["method"][table["method"] != "power"].tolist()):
        style = method_style(rule)
        run = rows(table, method=rule)
        axes.plot(run["rho"], run["ratio"], **(style | {"linestyle": "none"}), markersize=6, markeredgecolor="black", markeredgewidth=0.4)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=r"effective smoothness ratio $\rho$ (S7)", title="R4: diagonal quadratics")
    axes.set_ylabel(r"least avg $\|\nabla f\|_1$, over $\Gamma \equiv 1$")
    ring = Line2D([], [], color="#D55E00", marker="o", markerfacecolor="none", markersize=8.5, linestyle="none", label="proved")
    handles, _ = axes.get_legend_handles_labels()
    # The rules' markers are in the legend above the figure.
    kept = [handle for handle in handles if str(handle.get_label()).startswith(r"$\Lambda")]
    axes.legend(handles=[*kept, ring], loc="upper left")
