"""Measured rates against the bounds R1, R2, R3 and R5, their slopes, bound/observed, and R4: where adaptation helps.

First row: the average left side over runs of horizon T (mean and 10th to 90th percentile over seeds) and, thin, the bound with the
constants measured along the runs (R5: with constants alone; SignSGD's and AdaGrad's are the same).  Bounds are means over starts, too.
Each rule has its own Γ in its left side, so the curves of different rules cannot be compared there; they can in the second row, the same
runs in ‖∇f‖_1 (R3: ‖∇f‖_*).  Third row: slopes of the left sides of all families with 95% intervals over seeds against the exponents;
bound over observed, median and range over families, rules and noises, and, large and hollow, the worst instances that a search finds (R2,
R3: among those with a large noise term); the closest bound over observed with the true and with a false bound; R4, each method at its own
best step size, against SPEC S7's ρ, on L = (Λ, 1) from starts near r = (1/Λ, 1) and on random diagonal quadratics; hollow: AdaGrad at
SignSGD's step size.
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
from figures._panels import FAMILY_MARKERS, rows, save

EXPERIMENT = "rates"
TABLES = ("rates", "rates_slopes", "rates_pairs", "rates_adaptation", "rates_worst")

# statement: (family, oracle, title, left side)
_CURVES = {
    "R1": ("rotated", "none", "R1: exact gradients, rotated quadratics", r"avg $\|\nabla f\|_{1,\Gamma}$"),
    "R2": ("wells", "gaussian", r"R2: batch $T$, non-convex wells", r"avg E$\|\nabla f\|_{1,\Gamma}$"),
    "R3": ("e1-heterogeneous", "rows", r"R3: matrices, batch $T$, E1", r"avg E$\langle\hat G, D\rangle$ or E$\|\nabla f\|_*$"),
    "R5": ("rotated", "gaussian", "R5: momentum, batch 1, rotated", r"avg E$\|\nabla f\|_{1,\Gamma}$"),
}
_STATEMENTS = {"R1": ("#000000", "-", "o"), "R2": ("#0072B2", "--", "s"), "R3": ("#D55E00", "-.", "^"), "R5": ("#7F7F7F", ":", "D")}


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw the twelve panels."""
    curves, slopes, pairs, adapted, worst = (read_csv(data / f"{stem}.csv") for stem in TABLES)
    with plt.rc_context(figure_style(width=12.0, height=9.8)):
        figure = plt.figure()
        # Rows of their own layout: the legend below the slopes would squeeze the others.
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1.0))
        curve_panels = upper.subplots(2, 4, sharex="col", height_ratios=(1.0, 0.75))
        for k, statement in enumerate(_CURVES):
            _curve_panel(curve_panels[0, k], statement, curves)
            _plain_panel(curve_panels[1, k], statement, curves)
        panels = lower.subplots(1, 4, width_ratios=(1.5, 1.0, 0.55, 1.0))
        _slope_panel(panels[0], slopes)
        _ratio_panel(panels[1], curves, worst)
        _control_panel(panels[2], pairs)
        _adaptation_panel(panels[3], adapted)
        handles = [Line2D([], [], **method_style(name)) for name in dict.fromkeys(curves["rule"].tolist())]
        bound = {"linewidth": 0.6, "marker": "o", "markerfacecolor": "none", "markersize": 5}
        handles.append(Line2D([], [], color="black", label="thin: its bound", **bound))
        upper.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return save(figure, out, "rates", formats)


def _curve_panel(axes: Axes, statement: str, table: Mapping[str, np.ndarray]) -> None:
    family, oracle, title, label = _CURVES[statement]
    chosen = rows(table, statement=statement, family=family, oracle=oracle)
    for rule in dict.fromkeys(chosen["rule"].tolist()):
        run = rows(chosen, rule=rule)
        style = method_style(rule)
        axes.plot(run["T"], run["observed"], **style)
        axes.fill_between(run["T"], run["low"], run["high"], color=style["color"], alpha=0.18, linewidth=0)
        # Thin: the same colour says whose bound, the marker on its last point also in grey.
        axes.plot(run["T"], run["bound"], color=style["color"], linewidth=0.6, linestyle="-", marker=style["marker"],
                  markevery=[len(run["T"]) - 1], markerfacecolor="none", markersize=5)  # fmt: skip
    axes.set(xscale="log", yscale="log", ylabel=label, title=title)


def _plain_panel(axes: Axes, statement: str, table: Mapping[str, np.ndarray]) -> None:
    family, oracle, _, _ = _CURVES[statement]
    chosen = rows(table, statement=statement, family=family, oracle=oracle)
    for rule in dict.fromkeys(chosen["rule"].tolist()):
        run = rows(chosen, rule=rule)
        axes.plot(run["T"], run["plain"], **method_style(rule))
    norm = r"\|\nabla f\|_*" if statement == "R3" else r"\|\nabla f\|_1"
    axes.set(xscale="log", yscale="log", xlabel=r"horizon $T$", ylabel=f"avg E${norm}$", title=f"the same runs in ${norm}$")


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
            axes.plot(chosen["slope"][k], y, marker=FAMILY_MARKERS[str(chosen["family"][k])], color=color, markersize=3.6, linestyle="none",
                      markerfacecolor=color if straight else "white", markeredgewidth=0.7)  # fmt: skip
            axes.plot(chosen["bound_slope"][k], y, marker="|", color="0.45", markersize=4, linestyle="none", zorder=1)
        exponent = float(chosen["exponent"][0])
        axes.plot([exponent, exponent], [row - 0.45, row + 0.45], color="black", linewidth=1.4, zorder=0)
    axes.set_yticks(range(len(pairs)), [f"{statement}  {method_label(rule)}" for statement, rule in pairs])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=r"log-log slope of the left side against $T$", title="Slopes, 95% intervals over seeds; bars: exponents")
    present = [name for name in FAMILY_MARKERS if name in slopes["family"]]
    handles = [Line2D([], [], color="black", marker=FAMILY_MARKERS[name], linestyle="none", markersize=3.6, label=name) for name in present]
    bends = Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", markersize=3.6, label="hollow: bends")
    handles += [bends, Line2D([], [], color="0.45", marker="|", linestyle="none", markersize=5, label="the bound's slope")]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=3)


def _ratio_panel(axes: Axes, table: Mapping[str, np.ndarray], worst: Mapping[str, np.ndarray]) -> None:
    for statement, (color, line, marker) in _STATEMENTS.items():
        chosen = rows(table, statement=statement)
        T = np.unique(chosen["T"])
        ratios = [chosen["ratio"][chosen["T"] == t] for t in T]
        axes.plot(T, [np.median(r) for r in ratios], color=color, linestyle=line, marker=marker, label=statement)
        axes.fill_between(T, [r.min() for r in ratios], [r.max() for r in ratios], color=color, alpha=0.1, linewidth=0)
        # Without noise the searches for R2 and R3 are R1's once more: those with a noise term of half of the bound say something.
        searched = rows(worst, statement=statement)
        noisy = np.char.find(searched["search"], "noisy") >= 0
        sought = noisy if statement in ("R2", "R3") else ~noisy
        best = [searched["ratio"][sought & (searched["T"] == t)].max() for t in np.unique(searched["T"])]
        axes.plot(np.unique(searched["T"]), 1 / np.asarray(best), color=color, linestyle="none", marker=marker, markersize=7.5,
                  markerfacecolor="none", markeredgewidth=0.9)  # fmt: skip
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=r"horizon $T$", ylabel="bound / observed", title="Bound over observed")
    handles, _ = axes.get_legend_handles_labels()
    star = Line2D([], [], color="0.3", marker="o", markersize=7.5, markerfacecolor="none", linestyle="none", label="worst found")
    axes.legend(handles=[*handles, star], loc="upper left")


def _control_panel(axes: Axes, table: Mapping[str, np.ndarray]) -> None:
    names = []
    for statement, (color, _, marker) in _STATEMENTS.items():
        chosen = rows(table, statement=statement)
        for kind, prefix, control in (("run", "", "control_closest"), ("average", "averages_", "averages_control_closest")):
            if (statement, kind) == ("R1", "average"):
                continue
            y = len(names)
            names.append(f"{statement} {kind}")
            axes.plot(chosen[f"{prefix}closest"].min(), y, color=color, marker=marker, linestyle="none")
            axes.plot(chosen[control].min(), y, color=color, marker="x", linestyle="none")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xscale="log", xlabel="least bound / observed", title="×: a false bound")


def _adaptation_panel(axes: Axes, table: Mapping[str, np.ndarray]) -> None:
    best = rows(table, step_size="best")
    random = rows(best, method="random")
    for dimension, grey in zip(np.unique(random["dimension"]), ("0.72", "0.45"), strict=False):
        run = rows(random, dimension=dimension)
        label = rf"random $\Gamma$, $d={dimension}$"
        axes.plot(run["rho"], run["ratio"], marker=".", color=grey, markersize=3, linestyle="none", label=label)
    powers = rows(best, method="power")
    for contrast, line in zip(np.unique(powers["contrast"]), (":", "--", "-", "-."), strict=False):
        run = rows(powers, contrast=contrast)
        axes.plot(run["rho"], run["ratio"], marker="o", markersize=3.5, color="#D55E00", linestyle=line, linewidth=0.8,
                  label=rf"$\Gamma\propto r^s$, $\Lambda={contrast:g}$")  # fmt: skip
    for rule in dict.fromkeys(best["method"].tolist()):
        if rule not in ("power", "random"):
            run = rows(best, method=rule)
            axes.plot(run["rho"], run["ratio"], **(method_style(rule) | {"linestyle": "none"}), markersize=6, markeredgecolor="black",
                      markeredgewidth=0.4)  # fmt: skip
    own = rows(table, step_size="R1")
    axes.plot(own["rho"], own["ratio"], **(method_style("adagrad") | {"linestyle": "none"}), markersize=6, markerfacecolor="none")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=r"effective smoothness ratio $\rho$ (S7)", title=r"R4, best $\eta$ each: below 1 is faster")
    axes.set_ylabel(r"least avg $\|\nabla f\|_1$ with $\Gamma$ / that without")
    # The rules' markers are in the legend above the figure.
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles=[handle for handle, name in zip(handles, names, strict=True) if "Gamma" in name], loc="lower right", fontsize=6)
