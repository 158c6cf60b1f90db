"""Known rates on the same instances: what each method's statement guarantees, and what its runs do, with equally many gradients.

Every method has the step size of its own statement, from constants known beforehand: the rows rank guarantees, not tuned methods.

Upper row: exact gradients; lower row: as many samples, in mini-batches of T or one by one.  Left and middle: for every family the bound
(hollow) and the observed average (filled) of ‖∇f‖_1 and ‖∇f‖_2, each over the least that any method was observed to reach there; a bound on
another left side is carried over; an arrow at the axis's end: that gives nothing below it.  Right: ‖∇f‖_1 against the
number of gradients on the matrix factorisation (without best η), thin the bounds that are about it; hollow: momentum, and AdaGrad by
its own statement.
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

EXPERIMENT = "rates_known"
TABLES = ("rates_known",)
CURVES = "factorisation"
END = 1e6
"""Of the axis of the left and middle panels."""
_SHORT = {
    "Γ ⊙ sign, exact": "R1", "Γ ⊙ sign, B = T": r"R2, $B=T$", "Γ ⊙ sign with momentum": r"R5, $B=1$", 
    "Γ ⊙ sign, B = T, best η": r"R2, best $\eta$",
    "Γ ⊙ sign with momentum, best η": r"R5, best $\eta$", "SignSGD, B = T": r"$B=T$",
    "AdaGrad, exact": "own bound", "singular values weighted": "R3", "Muon without momentum": "R3", "normalised SGD": "", "SGD": "",
}  # fmt: skip


def draw(data: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw the six panels."""
    table = read_csv(data / "rates_known.csv")
    table = {key: column[table["left_out"] == ""] for key, column in table.items()}
    with plt.rc_context(figure_style(width=12.0, height=8.2)):
        figure, panels = plt.subplots(2, 3, width_ratios=(1.0, 1.0, 0.85), height_ratios=(1.0, 1.45))
        for row, (title, chosen) in enumerate((("exact gradients", table["oracle"] == "none"), ("samples", table["oracle"] != "none"))):
            part = {key: column[chosen] for key, column in table.items()}
            count = int(part["gradients"].max())
            last = rows(part, gradients=count)
            for panel, key, norm in ((panels[row, 0], "l1", r"\|\nabla f\|_1"), (panels[row, 1], "l2", r"\|\nabla f\|_2")):
                _dumbbells(panel, last, key, labels=key == "l1")
                panel.set_title(f"avg ${norm}$ after {count} {title}")
            _curves(panels[row, 2], rows(part, family=CURVES), title)
        families = [name for name in FAMILY_MARKERS if name in table["family"]]
        handles = [Line2D([], [], color="black", marker=FAMILY_MARKERS[name], linestyle="none", label=name) for name in families]
        handles += [
            Line2D([], [], color="black", marker="o", linestyle="-", linewidth=0.6, label="observed"),
            Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="-", linewidth=0.6, label="guaranteed"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return save(figure, out, "rates_known", formats)


def _dumbbells(axes: Axes, table: Mapping[str, np.ndarray], key: str, *, labels: bool) -> None:
    contestants = list(dict.fromkeys(zip(table["method"].tolist(), table["known"].tolist(), strict=True)))
    least = {family: table[key][table["family"] == family].min() for family in dict.fromkeys(table["family"].tolist())}
    for number, (method, known) in enumerate(contestants):
        chosen = rows(table, method=method, known=known)
        color = method_style(method)["color"]
        for k, family in enumerate(chosen["family"].tolist()):
            y = number + 0.7 * ((k + 0.5) / len(chosen["family"]) - 0.5)
            seen, bound = chosen[key][k] / least[family], chosen[f"{key}_bound"][k] / least[family]
            look = {"color": color, "marker": FAMILY_MARKERS[family], "markersize": 3.6, "linestyle": "none", "markeredgewidth": 0.7}
            axes.plot([seen, min(bound, END)], [y, y], color=color, linewidth=0.5)
            axes.plot(seen, y, **look)
            if bound < END:
                axes.plot(bound, y, **(look | {"markerfacecolor": "white"}))
            else:
                axes.plot(END, y, color=color, marker=">", markersize=4, linestyle="none", clip_on=False)
    noisy = "none" not in table["oracle"]
    names = [f"{'SGD' if noisy and method == 'gd' else method_label(method)} {_SHORT[known]}".strip() for method, known in contestants]
    axes.set_yticks(range(len(names)), names if labels else [""] * len(names))
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color="0.85", linewidth=0.5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xscale="log", xlim=(0.7, END), xlabel="over the least observed of all methods")


def _curves(axes: Axes, table: Mapping[str, np.ndarray], title: str) -> None:
    drawn = dict.fromkeys(zip(table["method"].tolist(), table["known"].tolist(), strict=True))
    for method, known in drawn:
        run = rows(table, method=method, known=known)
        style = method_style(method)
        label = f"{style['label']} {_SHORT[known]}".strip()
        hollow = {"markerfacecolor": "white"} if known.startswith("Γ ⊙ sign with momentum") or known == "AdaGrad, exact" else {}
        if known.endswith("best η"):
            continue
        axes.plot(run["gradients"], run["l1"], **(style | hollow | {"label": label}))
        # Only statements about ‖∇f‖_1 itself: what is carried over from elsewhere is in the other panels.
        if np.allclose(run["l1_bound"], run["bound"]):
            axes.plot(run["gradients"], run["l1_bound"], color=style["color"], linewidth=0.6, linestyle="-", marker=style["marker"],
                      markevery=[len(run["gradients"]) - 1], markerfacecolor="none")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=title, ylabel=r"avg $\|\nabla f\|_1$", title=f"{CURVES}; thin: bounds on it")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3.0)
