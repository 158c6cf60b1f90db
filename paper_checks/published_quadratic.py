"""The published experiment on trace quadratics: E1, who wins, and the smoothness along the runs."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import ks_2samp

from deva_theory.claims.model import Evidence, Run, Verdict
from experiments._trace_quadratic_runs import HESSIANS
from experiments._trace_quadratic_summary import diverged_is_infinite
from paper_checks.recorded_runs import (
    ADAM_HOMOGENEOUS,
    ADAPTIVE,
    HETEROGENEOUS,
    HOMOGENEOUS,
    SMOOTHNESS_FIGURE,
    along,
    finals,
    improves,
    lead,
    rerun,
)
from paper_checks.verdicts import refutation


def heterogeneous(run: Run) -> Evidence:
    """E1-heterogeneous: S∞ leads as published; the control says so of Muon."""
    statement = "The S∞ rule leads E1 on the heterogeneous Hessian. Violation: see lead_missing."
    return lead("e1-heterogeneous", statement, [("published", HETEROGENEOUS, "muon" if run.twin else "deva_spectral")])


def homogeneous(run: Run) -> Evidence:
    """E1-homogeneous: SOAP leads as published; the control says so of S∞."""
    statement = "SOAP leads E1 on the homogeneous Hessian. Violation: see lead_missing."
    return lead("e1-homogeneous", statement, [("published", HOMOGENEOUS, "deva_spectral" if run.twin else "soap")])


def both_hessians(run: Run) -> Evidence:
    """E1-both: S∞ leads on both Hessians; the control keeps the heterogeneous one."""
    chosen = [HETEROGENEOUS] if run.twin else HESSIANS
    statement = "The S∞ rule leads E1 on both Hessians. False on the homogeneous one: SOAP ends lower; violation: see lead_missing."
    return lead("e1-both-hessians", statement, [("published", h, "deva_spectral") for h in chosen])


def over_base(run: Run) -> Evidence:
    """E1-base: the S∞ rule beats Muon on both Hessians; the control keeps the heterogeneous one."""
    chosen = [HETEROGENEOUS] if run.twin else HESSIANS
    statement = "The S∞ rule beats Muon on both Hessians of E1. False on the homogeneous one; violation: see lead_missing."
    return lead("e1-over-muon", statement, [("published", h, "deva_spectral") for h in chosen], rivals=("muon",))


def unsquared(run: Run) -> Evidence:
    """E1-unsquared: the lead of S∞ survives the unbiased stochastic gradient; the control keeps the published one."""
    statement = (
        "The lead of the S∞ rule on the heterogeneous Hessian does not depend on the unsquared loss. False: with the squared one, whose "
        "stochastic gradient is unbiased, it ends above the rival; violation: see lead_missing."
    )
    return lead("e1-unsquared", statement, [("published" if run.twin else "squared", HETEROGENEOUS, "deva_spectral")])


def squared(run: Run) -> Evidence:
    """E1-squared: with the unbiased gradient ℓ∞ leads; the control says so of S∞."""
    statement = "With the squared loss the ℓ∞ rule leads E1 on the heterogeneous Hessian. Violation: see lead_missing."
    return lead("e1-squared", statement, [("squared", HETEROGENEOUS, "deva_spectral" if run.twin else "deva_linf")])


def regenerated(run: Run) -> Evidence:
    """E1-code: the library's runs have the committed distribution; the control compares each method with the next one's column."""
    seeds = run.count(10, 40)
    methods = ("adam", "muon", "soap", "deva_linf", "deva_spectral")
    level, least, where = 1e-3 / (len(methods) * len(HESSIANS)), 1.0, ""
    for k, method in enumerate(methods):
        column = methods[(k + 1) % len(methods)] if run.twin else method
        for h, hessian in enumerate(HESSIANS):
            p = float(ks_2samp(diverged_is_infinite(rerun(method, seeds)["f"][h]), finals("published", hessian)[column]).pvalue)
            if p < least:
                least, where = p, f"{method}, {hessian}"
    return Evidence(
        Verdict.SUPPORTED if least > level else Verdict.REFUTED, "two-sample Kolmogorov-Smirnov",
        f"least p-value {least:.2g} ({where}), rejected below {level:.0e}", numbers={"p": least}, margin=least - level,
        budget={"seeds": seeds, "runs": len(methods) * len(HESSIANS) * seeds},
    )


def plotted_below(run: Run) -> Evidence:
    """E1-plotted: from step 20 on the plotted sum is below the non-adaptive one; the control says so of every recorded step."""
    worst, where, records = -math.inf, "", 0
    for hessian, method in ADAPTIVE:
        rows = along(hessian, method)
        due = rows["step"] >= (0 if run.twin else 20)
        ratio = (rows["signed_median"] / rows["plain_signed"])[due]
        records += int(due.sum())
        if ratio.max() > worst:
            worst, where = float(ratio.max()), f"{method}, {hessian}, step {int(rows['step'][due][ratio.argmax()])}"
    return Evidence(
        Verdict.SUPPORTED if worst < 1.0 else Verdict.REFUTED, "committed table",
        f"largest median of the signed sum over the non-adaptive one: {worst:.3f} ({where})", numbers={"largest ratio": worst},
        margin=1.0 - worst, budget={"records": records}, figure=SMOOTHNESS_FIGURE,
    )


def nonpositive_share(hessian: str, method: str, step: int, share: float) -> float:
    """Return the share of seeds on which the plotted sum is ≤ 0 at a step: the smaller of the recorded and the table's."""
    rows = along(hessian, method)
    return min(share, float(rows["signed_nonpositive"][rows["step"] == step][0]))


def plotted_positive(run: Run) -> Evidence:
    """E1-positive: the plotted sum is positive and can be drawn on a log axis; the control keeps S∞ on the heterogeneous Hessian."""
    settings = [(HETEROGENEOUS, "deva_spectral")] if run.twin else ADAPTIVE
    found = []
    for hessian, method in settings:
        rows = along(hessian, method)
        i = int(rows["signed_nonpositive"].argmax())
        found.append((float(rows["signed_nonpositive"][i]), hessian, method, int(rows["step"][i])))
    share, hessian, method, step = max(found)
    return refutation(
        run, "e1-signed-sum-negative",
        "The plotted sum Σ H_ij Γ_ij is positive. False on this share of the seeds (the violation): the log axis drops them.",
        nonpositive_share, {"hessian": hessian, "method": method, "step": step, "share": share}, margin=0.02, repair={},
        summary=f"≤ 0 on {{:.0%}} of the seeds at step {step} ({method}, {hessian}), the largest share", figure=SMOOTHNESS_FIGURE,
    )


def spectral_improves(run: Run) -> Evidence:
    """E1-spectral: L_Γ < L along S∞'s runs on both Hessians; the control is Adam on the homogeneous one."""
    return improves("e1-spectral-smoothness", ADAM_HOMOGENEOUS if run.twin else [(h, "deva_spectral") for h in HESSIANS])


def linf_improves(run: Run) -> Evidence:
    """E1-linf: L_Γ < L along ℓ∞'s runs on both Hessians; the control is Adam on the homogeneous one."""
    return improves("e1-linf-smoothness", ADAM_HOMOGENEOUS if run.twin else [(h, "deva_linf") for h in HESSIANS])


def adam_improves(run: Run) -> Evidence:
    """E1-adam: L_Γ < L along Adam's runs on the homogeneous Hessian; the control is S∞ there."""
    return improves("e1-adam-smoothness", [(HOMOGENEOUS, "deva_spectral")] if run.twin else ADAM_HOMOGENEOUS)


def plot_contradicts(hessian: str, method: str, signed: float, consistent: float) -> float:
    """Return by how much the plotted ratio is below 1 while the consistent one is above, the smaller of both; recorded and table."""
    rows = along(hessian, method)
    plotted = float(np.median(rows["signed_median"] / rows["plain_signed"]))
    attained = float(np.median(rows["ratio_lower"]))
    return min(1.0 - max(signed, plotted), min(consistent, attained) - 1.0)


def plot_agrees(run: Run) -> Evidence:
    """E1-agree: the plotted quantity tells whether L_Γ improves; the control keeps Adam on the homogeneous Hessian."""
    found = []
    for hessian, method in ADAM_HOMOGENEOUS if run.twin else ADAPTIVE:
        rows = along(hessian, method)
        data = {
            "hessian": hessian, "method": method, "signed": float(np.median(rows["signed_median"] / rows["plain_signed"])),
            "consistent": float(np.median(rows["ratio_lower"])),
        }
        found.append((plot_contradicts(**data), data))
    data = max(found, key=lambda item: item[0])[1]
    return refutation(
        run, "e1-plot-contradicts",
        "A published ‖H‖_{1,Γ} below the non-adaptive sum means a smaller L_Γ. False: the one ratio is below 1, the other above; "
        "violation: the smaller distance from 1.", plot_contradicts, data, margin=0.3, repair={},
        summary=f"{data['method']}, {data['hessian']}: plotted {data['signed']:.3g}, consistent {data['consistent']:.3g} of the unweighted "
        "value; contradiction {:.3g}", figure=SMOOTHNESS_FIGURE,
    )
