"""E1 beyond the paper: the unbiased (squared) loss, matched step sizes, and a sweep of the learning rate (SPEC A4).

Rows: heterogeneous and homogeneous Hessian. First column: the squared loss, whose stochastic gradient is unbiased. Second:
the published loss with every direction rescaled to one Frobenius norm. Third and fourth: suboptimality after the last step
over learning rates (median and quartiles over seeds; GD's rate is in the same proportion to its own default).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from deva_theory.report.style import figure_style, method_style
from deva_theory.report.tables import read_csv
from figures._panels import LOWEST, loss_panel, rows, save

EXPERIMENT = "trace_quadratic"
TABLES = ("trace_quadratic", "trace_quadratic_sweep")


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw the eight panels."""
    loss, sweep = (read_csv(data / f"{stem}.csv") for stem in TABLES)
    methods = list(dict.fromkeys(loss["method"].tolist()))
    names = list(dict.fromkeys(loss["hessian"].tolist()))
    titles = ("squared loss", "matched step size", "sweep, published loss", "sweep, squared loss")
    with plt.rc_context(figure_style(width=10.0, height=5.4)):
        figure, axes = plt.subplots(2, 4, sharey="row")
        for i, name in enumerate(names):
            for k, protocol in enumerate(("squared", "matched")):
                loss_panel(axes[i, k], rows(loss, protocol=protocol, hessian=name), methods)
            for k, protocol in enumerate(("published", "squared")):
                _sweep_panel(axes[i, 2 + k], rows(sweep, protocol=protocol, hessian=name), methods)
            for k, panel in enumerate(axes[i]):
                panel.set_ylim(LOWEST, 1e8)
                if k:
                    panel.set_ylabel("")
                if i == 0:
                    panel.set_title(titles[k])
                    panel.set_xlabel("")
            axes[i, 0].set_ylabel(f"{name}\n" + r"$f(X_t) - f^\star$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=8)
        return save(figure, out, "trace_quadratic_beyond", formats)


def _sweep_panel(panel: Axes, table: dict[str, np.ndarray], methods: Sequence[str]) -> None:
    rates = np.unique(table["lr"])
    for method in methods:
        # A diverged seed counts as infinite; where the quantile itself is infinite the curve ends.
        finals = [np.nan_to_num(rows(table, lr=lr)[method], nan=np.inf, posinf=np.inf) for lr in rates]
        bands = np.asarray([np.quantile(f, [0.25, 0.5, 0.75], method="inverted_cdf") for f in finals])
        low, middle, high = np.maximum(np.where(np.isfinite(bands), bands, np.nan), LOWEST / 100).T
        style = method_style(method)
        panel.plot(rates, middle, **style)
        panel.fill_between(rates, low, high, color=style["color"], alpha=0.12, linewidth=0)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("learning rate")
