"""The lengths of steps: A4, Muon's against S∞'s at equal learning rate, and who leads once they are matched or tuned."""

from __future__ import annotations

import numpy as np

from deva_theory.certify import Case, equal
from deva_theory.claims.model import Evidence, Run, Verdict
from experiments._trace_quadratic_runs import HESSIANS
from paper_checks.recorded_runs import HETEROGENEOUS, HOMOGENEOUS, duel, finals, lead, rerun, table
from paper_checks.verdicts import proved, refutation


def shape_factors(run: Run) -> Evidence:
    """A4-shape: on a constant gradient with β1 = 0 Muon moves exactly 5 times as far; the control leaves out the bias factor.

    The squared S∞ step is ``(k/5)² · w · q²/(q²w)``: bias factor² w = 1-β2^t, amplitude² q², second moment q²w, k = √max(m, n).
    """
    bias = "1" if run.twin else "w"
    case = Case("β1 = 0", positive=("k", "q", "w"), steps=[equal(f"k**2/((k/5)**2*{bias}*(q**2/(q**2*w)))", "25")])
    summary = "√max(m,n) against 0.2 √max(m,n), Γ and the bias factor cancel"
    return proved([case], summary, covers="constant gradient, β1 = 0, exact msign, ε = 0")


def lengths_of_library(run: Run) -> Evidence:
    """A4-code: lengths of Muon's and S∞'s directions in E1, run again, are the committed ones; the control exchanges the Hessians."""
    seeds, t = run.count(10, 40), table("trace_quadratic_steps")
    off, ratios = 0.0, []
    for h, hessian in enumerate(HESSIANS):
        column = HESSIANS[1 - h] if run.twin else hessian
        row = int(np.flatnonzero((t["protocol"] == "published") & (t["hessian"] == column))[0])
        medians = {m: float(np.median(rerun(m, seeds)["step_length"][h])) for m in ("muon", "deva_spectral")}
        off = max(off, *(abs(medians[m] / t[m][row] - 1.0) for m in medians))
        ratios.append(medians["muon"] / medians["deva_spectral"])
    return Evidence(
        Verdict.SUPPORTED if off <= 0.1 else Verdict.REFUTED, "comparison with the committed table",
        f"Muon moves {ratios[0]:.2f} and {ratios[1]:.2f} times as far (heterogeneous, homogeneous); a length is off by at most {off:.1%}",
        numbers={"deviation": off, "heterogeneous": ratios[0], "homogeneous": ratios[1]}, margin=0.1 - off, budget={"seeds": seeds},
    )


def ratio_below(hessian: str, least: float, ratio: float) -> float:
    """Return `least` minus Muon's length over S∞'s in E1 as published: recorded and committed, the smaller."""
    t = table("trace_quadratic_steps")
    row = int(np.flatnonzero((t["protocol"] == "published") & (t["hessian"] == hessian))[0])
    return least - max(ratio, float(t["muon"][row] / t["deva_spectral"][row]))


def three_to_five(run: Run) -> Evidence:
    """A4-length: at equal learning rate Muon moves at least 3 times as far on both Hessians; the control says 2."""
    t = table("trace_quadratic_steps")
    published = t["protocol"] == "published"
    ratios = dict(zip(t["hessian"][published].tolist(), (t["muon"] / t["deva_spectral"])[published].tolist(), strict=True))
    hessian = min(ratios, key=lambda h: ratios[h])
    return refutation(
        run, "a4-length",
        "At equal learning rate Muon moves 3 to 5 times as far as the S∞ rule on both Hessians of E1. False: violation: 3 minus the ratio.",
        ratio_below, {"hessian": hessian, "least": 3.0, "ratio": ratios[hessian]}, margin=0.1, repair={"least": 2.0},
        summary=", ".join(f"{x:.2f} ({h})" for h, x in ratios.items()) + "; {:+.2f} below the stated range",
    )


def matched_lead(run: Run) -> Evidence:
    """A4-matched: S∞ leads on the heterogeneous Hessian at matched step lengths, too; the control keeps the published lengths."""
    statement = (
        "The lead of the S∞ rule on the heterogeneous Hessian does not come from the length of its steps. False: with all directions "
        "scaled to one length it beats this rival on no significant majority of the seeds; violation: see lead_missing."
    )
    return lead("a4-matched", statement, [("published" if run.twin else "matched", HETEROGENEOUS, "deva_spectral")])


def tuned_lead(run: Run) -> Evidence:
    """A4-tuned: S∞ leads on the heterogeneous Hessian with tuned learning rates, too; the control keeps the published ones."""
    statement = (
        "The lead of the S∞ rule on the heterogeneous Hessian survives tuning every method's learning rate. False: with rates chosen on "
        "even seeds it beats this rival on no significant majority of the odd ones; violation: see lead_missing."
    )
    return lead("a4-tuned", statement, [("published" if run.twin else "tuned published", HETEROGENEOUS, "deva_spectral")])


def order_turns(run: Run) -> Evidence:
    """A4-order: on the homogeneous Hessian Muon beats S∞ at equal, S∞ beats Muon at matched lengths; the control says so of the other."""
    hessian = HETEROGENEOUS if run.twin else HOMOGENEOUS
    equal_lr, matched = duel("published", hessian, "muon", "deva_spectral"), duel("matched", hessian, "deva_spectral", "muon")
    worst, seeds = min(equal_lr[1], matched[1]), len(finals("published", hessian)["muon"])
    return Evidence(
        Verdict.SUPPORTED if worst > 0.5 else Verdict.REFUTED, "paired Wilson intervals",
        f"of {seeds} seeds Muon ends below S∞ on {equal_lr[0]:.0%} at equal learning rate, S∞ below Muon on {matched[0]:.0%} at matched "
        "lengths",
        numbers={"equal": equal_lr[0], "matched": matched[0]}, margin=worst - 0.5, budget={"seeds": seeds},
    )
