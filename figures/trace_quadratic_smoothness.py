"""What the published smoothness quantity measures, and the consistent one beside it (SPEC S2, S3).

All three are divided by their own value without adaptation, so that below 1 means "adaptation improves smoothness".
The signed sum over H_ij Γ_ij and its absolute version pair the 9×9 row Hessian with the 9×9 array of parameters; L_Γ is the
supremum of the true Hessian's form over the set of updates the rule can make (exact for the coordinatewise rules,
an enclosure for the S∞ rule, drawn as a band). It is what a descent lemma needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from deva_theory.report.style import figure_style, method_style
from deva_theory.report.tables import read_csv
from figures._panels import rows, save

EXPERIMENT = "trace_quadratic"
TABLES = ("trace_quadratic_smoothness",)
_METHODS = ("adam", "deva_linf", "deva_spectral")


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw one row per Hessian, one column per quantity."""
    table = read_csv(data / f"{TABLES[0]}.csv")
    names = list(dict.fromkeys(table["hessian"].tolist()))
    titles = ("signed sum (published)", "absolute sum", r"consistent $L_\Gamma$")
    with plt.rc_context(figure_style(height=4.4)):
        figure, axes = plt.subplots(2, 3, sharex=True, sharey="row")
        for i, name in enumerate(names):
            for method in _METHODS:
                run = rows(table, hessian=name, method=method)
                style = method_style(method) | {"markevery": 5}
                steps = run["step"]
                axes[i, 0].plot(steps, run["signed_median"] / run["plain_signed"], **style)
                axes[i, 1].plot(steps, run["absolute_median"] / run["plain_absolute"], **style)
                axes[i, 2].plot(steps, run["ratio_upper"], **style)
                axes[i, 2].fill_between(
                    steps, run["ratio_lower"], run["ratio_upper"], color=style["color"], alpha=0.3, linewidth=0
                )
            for k, panel in enumerate(axes[i]):
                panel.axhline(1.0, color="black", linewidth=0.8)
                panel.set_yscale("log")
                if i == 0:
                    panel.set_title(titles[k])
                else:
                    panel.set_xlabel("step")
            axes[i, 0].set_ylabel(f"{name}\nweighted / unweighted")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        return save(figure, out, "trace_quadratic_smoothness", formats)
