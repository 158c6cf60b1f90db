"""Figure 2 of the paper: suboptimality of eight methods, and the published smoothness quantity.

The published protocol of E1, 100 seeds: median and interquartile band. Insets: log10|H| of the first seed. Lower row:
the published quantity, the signed sum over H_ij Γ_ij, against its unweighted value; values that are not positive leave the
log axis, as in the paper (their share is in the legend).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from deva_theory.report.style import figure_style, method_style
from deva_theory.report.tables import read_csv
from figures._panels import loss_panel, rows, save

EXPERIMENT = "trace_quadratic"
TABLES = ("trace_quadratic", "trace_quadratic_smoothness", "trace_quadratic_hessian")


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw the four panels."""
    loss, smooth, hessian = (read_csv(data / f"{stem}.csv") for stem in TABLES)
    published = rows(loss, protocol="published")
    methods = list(dict.fromkeys(published["method"].tolist()))
    names = list(dict.fromkeys(published["hessian"].tolist()))
    with plt.rc_context(figure_style(height=5.6)):
        figure, axes = plt.subplots(2, 2)
        for k, name in enumerate(names):
            panel = axes[0, k]
            loss_panel(panel, rows(published, hessian=name), methods)
            panel.set_title(f"({'ab'[k]}) {name} Hessian")
            _inset(panel, rows(hessian, hessian=name))
            _signed(axes[1, k], rows(smooth, hessian=name))
            axes[1, k].set_title(f"({'cd'[k]}) published " + r"$\|H\|_{1,\Gamma}$, " + name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=8, handlelength=2.4, columnspacing=1.0)
        return save(figure, out, "trace_quadratic", formats)


def _inset(panel: Axes, entries: dict[str, np.ndarray]) -> None:
    size = int(entries["i"].max()) + 1
    H = np.full((size, size), np.nan)
    H[entries["i"], entries["j"]] = entries["value"]
    with np.errstate(divide="ignore"):
        picture = np.log10(np.abs(H))
    picture[~np.isfinite(picture)] = np.nan  # exact zeros off the blocks stay blank
    inset = panel.inset_axes((0.03, 0.05, 0.24, 0.3))
    image = inset.imshow(picture, cmap="viridis", vmin=-2, vmax=4)
    inset.set_xticks([])
    inset.set_yticks([])
    inset.grid(visible=False)
    for spine in inset.spines.values():
        spine.set_visible(True)
    bar = panel.figure.colorbar(image, cax=panel.inset_axes((0.275, 0.05, 0.015, 0.3)), ticks=[-2, 1, 4])
    bar.ax.tick_params(labelsize=5.5, length=1.5, pad=1)
    inset.set_title(r"$\log_{10}|H|$", fontsize=6, pad=2)


def _signed(panel: Axes, table: dict[str, np.ndarray]) -> None:
    for method in ("deva_linf", "deva_spectral"):
        run = rows(table, method=method)
        style = method_style(method)
        dropped = run["signed_nonpositive"].mean()
        style["label"] += f" ({100 * dropped:.1f}% of values " + r"$\leq 0$)"
        panel.plot(run["step"], _positive(run["signed_median"]), markevery=4, **style)
        panel.fill_between(
            run["step"], _positive(run["signed_q25"]), _positive(run["signed_q75"]),
            color=style["color"], alpha=0.15, linewidth=0,
        )
    panel.axhline(table["plain_signed"][0], color="black", linestyle="--", linewidth=1.0, label=r"no adaptation: $\sum H_{ij}$")
    panel.set_yscale("log")
    panel.set_xlim(0, float(table["step"].max()))
    panel.set_xlabel("step")
    panel.set_ylabel(r"$\sum_{ij} H_{ij}\Gamma_{ij}$")
    panel.legend(loc="lower left")


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
