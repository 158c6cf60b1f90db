"""The figures' style, as values: nothing here changes matplotlib's state.

Use it as ``with matplotlib.rc_context(figure_style()): ...`` and ``axes.plot(x, y, **method_style("adam"))``.
Colours are the colour-blind-safe set of Okabe and Ito; every method differs from every other in its marker,
and in its pair of colour and line style, so that a figure can be read in grey.
"""

import difflib
from typing import Any

__all__ = ["figure_style", "method_label", "method_style"]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#C9B800",  # Okabe and Ito's yellow, darkened: the original is too pale for a thin line on white
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#7F7F7F",
)
_DASHED, _DOTTED, _DASHDOT = "--", ":", "-."
_SHORT = (0, (3, 1.2))
_DOUBLE_DOT = (0, (4, 1.2, 1, 1.2, 1, 1.2))

# name: (label, colour, line style, marker); matrix methods and their vector relatives share a colour family.
_METHODS: dict[str, tuple[str, str, Any, str]] = {
    "gd": ("GD", GREY, _DOTTED, "."),
    "normalised_sgd": ("normalised SGD", BLACK, _DOTTED, "x"),
    "signsgd": ("SignSGD", SKY, _DASHED, "v"),
    "adagrad": ("AdaGrad", GREEN, _DOTTED, "<"),
    "adagrad_full": ("AdaGrad (full matrix)", GREEN, _DASHED, ">"),
    "rmsprop": ("RMSprop", YELLOW, _DASHDOT, "1"),
    "adam": ("Adam", ORANGE, _SHORT, "s"),
    "shampoo": ("Shampoo", PURPLE, _DOTTED, "P"),
    "soap": ("SOAP", GREEN, _DASHDOT, "D"),
    "muon": ("Muon", PURPLE, _DASHED, "^"),
    "singular_adagrad": (r"AdaGrad on $\sigma(G)$", ORANGE, _DASHDOT, "d"),
    "adamuon": ("AdaMuon", BLACK, _DOUBLE_DOT, "X"),
    "deva_linf": (r"DeVA $\ell_\infty$", BLUE, "-", "o"),
    "deva_spectral": (r"DeVA $S_\infty$", VERMILION, "-", "*"),
}


def figure_style(*, width: float = 6.75, height: float = 4.6, font_size: float = 8.0) -> dict[str, Any]:
    """Matplotlib parameters of every figure.

    Parameters
    ----------
    width, height : float
        Size of the figure in inches; 6.75 is the text width of a two-column conference page.
    font_size : float, default 8
        Size of the text in points.

    Returns
    -------
    dict
        For `matplotlib.rc_context`: TrueType fonts embedded in PDF (fonttype 42), the DejaVu fonts that
        matplotlib ships, mathematics by matplotlib itself (no LaTeX).
    """
    return {
        "figure.figsize": (width, height),
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "text.usetex": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "mathtext.fontset": "dejavusans",
        "font.size": font_size,
        "axes.titlesize": font_size,
        "axes.labelsize": font_size,
        "xtick.labelsize": font_size - 1,
        "ytick.labelsize": font_size - 1,
        "legend.fontsize": font_size - 1,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "grid.linewidth": 0.4,
        "grid.alpha": 0.4,
        "lines.linewidth": 1.2,
        "lines.markersize": 4.0,
    }


def method_style(name: str) -> dict[str, Any]:
    """How a method is drawn, in every figure.

    Parameters
    ----------
    name : str
        ``"gd"``, ``"signsgd"``, ``"adagrad"``, ``"adagrad_full"``, ``"rmsprop"``, ``"adam"``, ``"shampoo"``,
        ``"soap"``, ``"muon"``, ``"adamuon"``, ``"deva_linf"`` or ``"deva_spectral"``; case and ``-`` for
        ``_`` do not matter.

    Returns
    -------
    dict
        ``label``, ``color``, ``linestyle`` and ``marker``, for `matplotlib.axes.Axes.plot`; add
        ``markevery`` where there are many points.

    Raises
    ------
    ValueError
        If the name is unknown; suggests the nearest.
    """
    label, color, linestyle, marker = _METHODS[_known(name)]
    return {"label": label, "color": color, "linestyle": linestyle, "marker": marker}


def method_label(name: str) -> str:
    """Name of a method for readers, with mathematics in matplotlib's notation; see `method_style`."""
    return _METHODS[_known(name)][0]


def _known(name: str) -> str:
    key = name.lower().replace("-", "_")
    if key in _METHODS:
        return key
    near = difflib.get_close_matches(key, _METHODS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_METHODS)}"
    raise ValueError(f"unknown method {name!r}: {hint}")
