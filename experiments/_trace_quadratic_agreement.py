"""When do two runs of E1 agree?  Statistically: the runs are chaotic.

Sign and polar factor turn a rounding difference of 1e-7 into a difference of order one near the minimum, so another
processor gives other trajectories of the same distribution. How far a perturbation of the starting points by 1e-7
(``Config.perturbation``) moves every column is measured by ``benchmarks/sensitivity.py``; the tolerances here leave room for it:

* per-seed tables are compared as distributions over seeds (two-sample Kolmogorov-Smirnov, family-wise level 1e-3);
* medians along a run must lie within the committed quartile band, widened by a tenth of its logarithmic width
  plus 2%;
* quartiles must agree within a factor 30, ratios and factors within 2 to 10, shares of values within .1;
* what is not chaotic (the Hessians) must agree to float32 rounding, step lengths to 5%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import ks_2samp

from deva_theory.report.tables import Table, compare_tables
from experiments._trace_quadratic_summary import diverged_is_infinite

_FAMILY_LEVEL = 1e-3
_QUARTILE = 30.0


def changes(stem: str, new: Table, committed: Table, methods: Sequence[str]) -> list[str]:
    """Return one line for each disagreement between a new table of E1 and the committed one."""
    if list(new) != list(committed):
        return [f"columns are {', '.join(new)}, committed are {', '.join(committed)}"]
    a = {k: np.asarray(v) for k, v in new.items()}
    b = {k: np.asarray(v) for k, v in committed.items()}
    keys = [k for k in ("protocol", "hessian", "method", "step", "seed", "lr", "i", "j") if k in a]
    if any(len(a[k]) != len(b[k]) or not _same(a[k], b[k]) for k in keys):
        return ["the rows are not those of the committed table (another configuration?)"]
    if stem in ("trace_quadratic_final", "trace_quadratic_sweep"):
        return _distributions(a, b, methods)
    if stem == "trace_quadratic":
        return _bands(a, b, "median", "q25", "q75") + _within(a, b, {"q25": _QUARTILE, "q75": _QUARTILE})
    if stem == "trace_quadratic_smoothness":
        lines = []
        for name in ("signed", "absolute", "lower", "upper"):
            lines += _bands(a, b, f"{name}_median", f"{name}_q25", f"{name}_q75")
            lines += _within(a, b, {f"{name}_q25": _QUARTILE, f"{name}_q75": _QUARTILE})
        factors = {"ratio_lower": 3.0, "ratio_upper": 3.0, "gamma_max_median": 2.0, "signed_median_on_log_axis": 10.0}
        plain = {k: (1e-5, 0.0) for k in a if k.startswith("plain_")}
        return lines + _within(a, b, factors) + _pointwise(a, b, plain | {"signed_nonpositive": (0.0, 0.1)})
    rtol = 0.05 if stem == "trace_quadratic_steps" else 1e-5
    # Hessian entries outside the blocks are exact zeros; inside, rounding is absolute.
    return _pointwise(a, b, {k: (rtol, 0.0 if rtol > 1e-3 else 1e-2) for k in a if k not in keys})


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.allclose(x, y, rtol=1e-5) if x.dtype.kind == "f" else (x == y).all())


def _distributions(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], methods: Sequence[str]) -> list[str]:
    groups = [k for k in ("protocol", "lr", "hessian") if k in b]
    settings = list(dict.fromkeys(zip(*(b[k].tolist() for k in groups), strict=True)))
    level = _FAMILY_LEVEL / (len(settings) * len(methods))
    lines = []
    for setting in settings:
        chosen = np.all([b[k] == value for k, value in zip(groups, setting, strict=True)], axis=0)
        for method in methods:
            test = ks_2samp(*(diverged_is_infinite(t[method][chosen]) for t in (a, b)))
            if not test.pvalue > level:
                lines.append(
                    f"{', '.join(map(str, setting))}, {method}: distribution over seeds moved, KS distance "
                    f"{test.statistic:.2f}, p = {test.pvalue:.1e}, medians {np.median(b[method][chosen]):.3g} -> "
                    f"{np.median(a[method][chosen]):.3g}"
                )
    return lines


def _bands(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], median: str, low: str, high: str) -> list[str]:
    x, below, above = a[median], b[low], b[high]
    positive = (below > 0) & (above > 0)
    width = np.where(positive, np.log(np.where(positive, above, 1.0) / np.where(positive, below, 1.0)), 0.0)
    slack = np.exp(0.1 * width) * 1.02
    spread = 0.1 * (above - below) + 0.02 * np.maximum(np.abs(below), np.abs(above))
    lower = np.where(positive, below / slack, below - spread)
    upper = np.where(positive, above * slack, above + spread)
    outside = np.flatnonzero(~((x >= lower) & (x <= upper)))
    if not outside.size:
        return []
    row = int(outside[0])
    return [
        f"column {median}: {outside.size} of {x.size} medians outside the committed quartile band, first in row {row}: "
        f"{x[row]:.4g} not in [{lower[row]:.4g}, {upper[row]:.4g}]"
    ]


def _within(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], factors: Mapping[str, float]) -> list[str]:
    """Compare up to a factor; in columns with both signs, values below the median size only by their size."""
    lines = []
    for column, factor in factors.items():
        x, y = a[column], b[column]
        good = (x <= y * factor) & (x >= y / factor) & (y > 0)
        if not (y > 0).all():
            size = np.median(np.abs(y))
            good |= (np.abs(x) <= factor * size) & (np.abs(y) <= size)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            count = int((~good).sum())
            lines.append(f"column {column}: {count} values moved by more than {factor:g} times, first {y[row]:.4g} -> {x[row]:.4g}")
    return lines


def _pointwise(a: Table, b: Table, tolerances: Mapping[str, tuple[float, float]]) -> list[str]:
    columns = list(tolerances)
    found = compare_tables({k: a[k] for k in columns}, {k: b[k] for k in columns}, tolerances)
    return [f"column {change.column}: {change.reason}" for change in found]
