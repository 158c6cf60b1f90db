"""The committed tables of E1, and how a lead or a smoothness is read off them; no claims of its own.

Verdicts about runs are read from ``figures/data/*.csv``, which `reproduce` regenerates and compares; replays read the same files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from deva_theory.claims.model import Counterexample, Evidence, Verdict
from deva_theory.report.tables import read_csv
from experiments._trace_quadratic_runs import HESSIANS, METHODS, Config, Instances, losses
from experiments._trace_quadratic_summary import _tuned_rows, diverged_is_infinite, wilson_interval, win_fraction

DATA = Path(__file__).resolve().parents[1] / "figures" / "data"

HETEROGENEOUS, HOMOGENEOUS = HESSIANS

ADAPTIVE = [(h, m) for h in HESSIANS for m in ("adam", "deva_linf", "deva_spectral")]
"""Settings, (Hessian, method), in which a variance adaptation was recorded."""

ADAM_HOMOGENEOUS = [(HOMOGENEOUS, "adam")]
"""The setting in which it helps Adam."""

RUNS_FIGURE, SMOOTHNESS_FIGURE = "figures/trace_quadratic.png", "figures/trace_quadratic_smoothness.png"


@lru_cache
def table(stem: str) -> dict[str, np.ndarray]:
    """Return a committed table of E1."""
    return read_csv(DATA / f"{stem}.csv")


@lru_cache
def finals(protocol: str, hessian: str) -> dict[str, np.ndarray]:
    """Return every method's suboptimality after the last step, seed by seed; "tuned ..." from the sweep."""
    if protocol.startswith("tuned "):
        rows = {label: final for label, final, _ in _tuned_rows({"trace_quadratic_sweep": table("trace_quadratic_sweep")}, METHODS)}
        return rows[f"{protocol}, {hessian}"]
    t = table("trace_quadratic_final")
    chosen = (t["protocol"] == protocol) & (t["hessian"] == hessian)
    return {m: diverged_is_infinite(t[m][chosen]) for m in METHODS}


def duel(protocol: str, hessian: str, method: str, rival: str) -> tuple[float, float, float]:
    """Return on which fraction of the seeds a method ends below its rival, with the 95% Wilson interval."""
    final = finals(protocol, hessian)
    return win_fraction(final[method], final[rival])


def lead_missing(protocol: str, hessian: str, method: str, rival: str, wins: float, seeds: int) -> float:
    """Return ½ minus the lower end of the Wilson interval of "method below rival": what is missing to a significant majority.

    From the recorded counts and from the committed table; the smaller of the two.
    """
    recorded = wilson_interval(wins, seeds)[0] if seeds else 1.0
    return 0.5 - max(recorded, duel(protocol, hessian, method, rival)[1])


def lead(name: str, statement: str, settings: Sequence[tuple[str, str, str]], *, rivals: Sequence[str] = METHODS) -> Evidence:
    """Judge "method m significantly beats every rival" in every setting ``(protocol, hessian, m)``."""
    worst, setting, fraction, duels = math.inf, ("", "", "", ""), 0.0, 0
    for protocol, hessian, method in settings:
        for rival in (r for r in rivals if r != method):
            share, low, _ = duel(protocol, hessian, method, rival)
            duels += 1
            if low < worst:
                worst, setting, fraction = low, (protocol, hessian, method, rival), share
    protocol, hessian, method, rival = setting
    seeds = len(finals(protocol, hessian)[method])
    data = dict(zip(("protocol", "hessian", "method", "rival"), setting, strict=True)) | {"wins": fraction * seeds, "seeds": seeds}
    verdict = Verdict.SUPPORTED if worst > 0.5 else Verdict.REFUTED
    medians = {m: float(np.median(finals(protocol, hessian)[m])) for m in (method, rival)}
    return Evidence(
        verdict, "paired Wilson intervals",
        f"{method} ends below {rival} on {fraction * seeds:g} of {seeds} seeds ({protocol}, {hessian}; medians {medians[method]:.3g} and "
        f"{medians[rival]:.3g}), 95% interval from {worst:.3f}: the closest of {duels} duels",
        numbers={"fraction": fraction, "interval from": worst}, margin=worst - 0.5, budget={"seeds": seeds, "duels": duels},
        counterexample=Counterexample(name, statement, f"{__name__}:lead_missing", data, 0.005) if verdict is Verdict.REFUTED else None,
        figure=RUNS_FIGURE,
    )


@lru_cache
def rerun(method: str, seeds: int) -> dict[str, np.ndarray]:
    """Return final losses and step lengths of one method on the first seeds of E1, ``(hessian, seed)``."""
    config = Config()
    found = losses(method, Instances.draw(config, seeds), config.lr, config, squared=False, matched=False)
    return {"f": found["f"][-1].reshape(len(HESSIANS), seeds), "step_length": found["step_length"].reshape(len(HESSIANS), seeds)}


def along(hessian: str, method: str) -> dict[str, np.ndarray]:
    """Return the recorded smoothness along the runs of a method on a Hessian, records of all steps."""
    t = table("trace_quadratic_smoothness")
    chosen = (t["hessian"] == hessian) & (t["method"] == method)
    return {k: v[chosen] for k, v in t.items()}


def smoothness_gained(hessian: str, method: str, ratio: float) -> float:
    """Return the median over the records of the attained L_Γ over the unweighted L, minus 1: recorded and table, the smaller."""
    return min(ratio, float(np.median(along(hessian, method)["ratio_lower"]))) - 1.0


def improves(name: str, settings: Sequence[tuple[str, str]]) -> Evidence:
    """Judge "L_Γ is below L" in every setting: REFUTED by an attained value above, SUPPORTED by upper ends below."""
    lower = {s: float(np.median(along(*s)["ratio_lower"])) for s in settings}
    upper = max(float(np.median(along(*s)["ratio_upper"])) for s in settings)
    (hessian, method), ratio = max(lower.items(), key=lambda item: item[1])
    verdict = Verdict.REFUTED if ratio > 1.05 else Verdict.SUPPORTED if upper < 0.95 else Verdict.INCONCLUSIVE
    above = float((along(hessian, method)["ratio_lower"] > 1.0).mean())
    statement = (
        f"Along E1 the adaptation of {method} improves the smoothness a descent lemma needs. False on the {hessian} Hessian; "
        "violation: median over the records of L_Γ/L (a value attained by a step of that shape), minus 1."
    )
    data = {"hessian": hessian, "method": method, "ratio": ratio}
    return Evidence(
        verdict, "committed table",
        f"median L_Γ/L {ratio:.3g} at least ({method}, {hessian}), above 1 in {above:.0%} of the records",
        numbers={"ratio": ratio, "above": above},
        margin=abs(ratio - 1.0), budget={"settings": len(settings)},
        counterexample=Counterexample(name, statement, f"{__name__}:smoothness_gained", data, 0.05) if verdict is Verdict.REFUTED else None,
        figure=SMOOTHNESS_FIGURE,
    )
