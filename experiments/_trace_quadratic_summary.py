"""The text table of E1: who wins where, decided by paired comparisons over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deva_theory.report.tables import Table, format_table

_NORMAL_95 = 1.959963984540054
_RESAMPLES = 2000


def median_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Return the median and its 95% percentile-bootstrap interval over seeds."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975], method="inverted_cdf")  # no interpolation: may be infinite
    return float(np.median(values)), float(low), float(high)


def wilson_interval(wins: float, trials: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a proportion."""
    p, z2 = wins / trials, _NORMAL_95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _NORMAL_95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return centre - half, centre + half


def win_fraction(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return the fraction of seeds on which a < b (ties count half) and its Wilson interval."""
    wins = float((a < b).sum() + 0.5 * (a == b).sum())
    return (wins / len(a), *wilson_interval(wins, len(a)))


def diverged_is_infinite(values: np.ndarray) -> np.ndarray:
    """Return the values with NaN as +inf: a run that has diverged is worse than any other, never missing."""
    return np.where(np.isnan(values), np.inf, values)


def _verdict(final: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Return the method of least median, and the methods from which it cannot be told apart."""
    best = min(final, key=lambda m: float(np.median(final[m])))
    # The winner must beat every other on more than half of the seeds, beyond sampling error.
    open_ = [m for m in final if m != best and win_fraction(final[best], final[m])[1] <= 0.5]
    return best, ", ".join(open_) or "none"


def _final_rows(tables: Mapping[str, Table], methods: Sequence[str]) -> Iterable[tuple]:
    table = {k: np.asarray(v) for k, v in tables["trace_quadratic_final"].items()}
    for protocol, hessian in _pairs(table):
        chosen = (table["protocol"] == protocol) & (table["hessian"] == hessian)
        yield f"{protocol}, {hessian}", {m: diverged_is_infinite(table[m][chosen]) for m in methods}, {}


def _tuned_rows(tables: Mapping[str, Table], methods: Sequence[str]) -> Iterable[tuple]:
    """Learning rate chosen on the even seeds, result reported on the odd ones."""
    table = {k: np.asarray(v) for k, v in tables["trace_quadratic_sweep"].items()}
    for protocol, hessian in _pairs(table):
        base = (table["protocol"] == protocol) & (table["hessian"] == hessian)
        even = base & (table["seed"] % 2 == 0)
        final, lrs = {}, {}
        for m in methods:
            rates = np.unique(table["lr"])
            medians = [np.median(diverged_is_infinite(table[m][even & (table["lr"] == lr)])) for lr in rates]
            lrs[m] = float(rates[int(np.argmin(medians))])
            final[m] = diverged_is_infinite(table[m][base & (table["seed"] % 2 == 1) & (table["lr"] == lrs[m])])
        yield f"tuned {protocol}, {hessian}", final, lrs


def _pairs(table: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(table["protocol"].tolist(), table["hessian"].tolist(), strict=True)))


def summarise(tables: Mapping[str, Table], methods: Sequence[str]) -> str:
    """Return the report on E1: winners, medians with intervals, step lengths, smoothness."""
    settings = [*_final_rows(tables, methods), *_tuned_rows(tables, methods)]
    winners, details = [], []
    for label, final, lrs in settings:
        best, rivals = _verdict(final)
        middle, low, high = median_interval(final[best])
        winners.append((label, best, f"{middle:.3g} [{low:.3g}, {high:.3g}]", rivals))
        ranking = sorted(final, key=lambda m: float(np.median(final[m])))
        cells = []
        for m in ranking:
            middle, low, high = median_interval(final[m])
            rate = f" at lr {lrs[m]:g}" if m in lrs and m != "gd" else ""
            cells.append(f"{m} {middle:.2g} [{low:.2g}, {high:.2g}]{rate}")
        details.append(f"{label}: " + "; ".join(cells))
    out = [
        "E1: suboptimality after the last step, median over seeds with its 95% bootstrap interval.",
        "'Not beaten' names the methods that the winner does not beat on significantly more than half of the seeds",
        "(paired by seed, 95% Wilson interval). 'tuned': learning rate chosen on even seeds, result on odd seeds.",
        "",
        format_table(winners, ("setting", "least median", "median f - f*", "not beaten")),
        "",
        "All methods, best first:",
        *details,
        "",
        "Mean length of a direction (Frobenius norm of the step over the learning rate), median over seeds:",
        _steps(tables, methods),
        "",
        "Weighted smoothness along the published runs, median over seeds and steps. 'signed' is the published sum",
        "over H_ij Γ_ij over its unweighted value; 'dropped' is the share of values <= 0, which a log axis loses;",
        "'L_Γ/L' is the consistent quantity over its unweighted value (below 1: adaptation improves smoothness).",
        _smoothness(tables),
    ]
    return "\n".join(out) + "\n"


def _steps(tables: Mapping[str, Table], methods: Sequence[str]) -> str:
    table = tables["trace_quadratic_steps"]
    rows = [
        (f"{p}, {h}", *(float(table[m][i]) for m in methods), float(table["muon"][i]) / float(table["deva_spectral"][i]))
        for i, (p, h) in enumerate(zip(table["protocol"], table["hessian"], strict=True))
    ]
    return format_table(rows, ("setting", *methods, "muon/deva_spectral"), digits=3)


def _smoothness(tables: Mapping[str, Table]) -> str:
    table = {k: np.asarray(v) for k, v in tables["trace_quadratic_smoothness"].items()}
    rows = []
    for hessian in dict.fromkeys(table["hessian"].tolist()):
        for method in dict.fromkeys(table["method"].tolist()):
            chosen = (table["hessian"] == hessian) & (table["method"] == method)

            def middle(column: str, chosen: np.ndarray = chosen) -> float:
                return float(np.median(table[column][chosen]))

            rows.append((
                hessian, method, middle("signed_median") / middle("plain_signed"),
                float(table["signed_nonpositive"][chosen].mean()), middle("absolute_median") / middle("plain_absolute"),
                f"[{middle('ratio_lower'):.3g}, {middle('ratio_upper'):.3g}]", middle("gamma_max_median"),
            ))
    return format_table(rows, ("hessian", "method", "signed", "dropped", "absolute", "L_Γ/L", "max Γ"), digits=3)
