"""Steps on real models: the effective ratio ρ of DeVA's Γ block by block (S7), and how its direction compares with Muon's (A2, M10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch

from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import deva_spectral, muon
from paper_checks.model_states import SEEDS, SPECTRAL, STAGES, WARM, Seen, measured, over_runs, runs, seen_at, trained
from paper_checks.smoothness_models import by_model, majority, scope
from paper_checks.spectral_descent import measure

LATE = max(STAGES)
QUICKEST = ("mlp", SEEDS[0])
"""The run of the counter-examples: seconds to train and to measure."""


def taken(rows: Sequence[Seen], rule: str, kind: str) -> list[Seen]:
    """Return one rule's rows on "all" tensors, on the "matrices" or on the "vectors" (convolutions among them)."""
    wanted = {"all": (True, False), "matrices": (True,), "vectors": (False,)}[kind]
    return [row for row in rows if row.rule == rule and row.matrix in wanted]


def below(row: Seen) -> bool:
    """Whether the worst-case ρ is certainly below 1."""
    return row.ratio[1] < 1.0


def above(row: Seen) -> bool:
    """Whether it is certainly not."""
    return row.ratio[0] >= 1.0


def share_missing(model: str, seed: int, stage: int, rule: str, kind: str) -> float:
    """Return ½ minus the share of one run's tensors on which ρ < 1 is possible by the intervals."""
    rows = taken(measured(model, seed, stage)[0], rule, kind)
    return 0.5 - sum(not above(row) for row in rows) / len(rows)


def realised_missing(model: str, seed: int, stage: int, rule: str, kind: str) -> float:
    """Return ½ minus the share of one run's tensors with a realised ρ < 1."""
    rows = taken(measured(model, seed, stage)[0], rule, kind)
    return 0.5 - sum(row.realised < 1.0 for row in rows) / len(rows)


def _shares(run: Run, stage: int, rule: str, kind: str) -> tuple[Verdict, str, dict[str, float], int]:
    """Judge "ρ < 1 on a majority of tensors", undecided intervals against either verdict; return it with a line and numbers."""
    rows = taken(seen_at(run, (stage,)), rule, kind)
    yes, no = over_runs(rows, below), over_runs(rows, above)
    verdict = majority(*yes) if yes[1] > 0.5 else majority(1 - no[0], 1 - no[2], 1 - no[1])
    if verdict is Verdict.SUPPORTED and not yes[1] > 0.5:
        verdict = Verdict.INCONCLUSIVE
    line = (f"{rule}, step {stage}, {kind}: ρ < 1 on {yes[0]:.0%} [{yes[1]:.0%}, {yes[2]:.0%}], ρ ≥ 1 on {no[0]:.0%} [{no[1]:.0%}, "
            f"{no[2]:.0%}]")
    numbers = {"below": yes[0], "below_from": yes[1], "below_to": yes[2], "above": no[0], "above_from": no[1], "above_to": no[2]}
    return verdict, line, numbers | by_model(rows, below), len(rows)


def _majority(
    run: Run, stage: int, rule: str, kind: str, *, name: str = "", statement: str = "", replay: Callable[..., float] = share_missing
) -> Evidence:
    verdict, line, numbers, count = _shares(run, stage, rule, kind)
    example = None
    if verdict is Verdict.REFUTED and name:
        data = {"model": QUICKEST[0], "seed": QUICKEST[1], "stage": stage, "rule": rule, "kind": kind}
        example = Counterexample(name, statement, f"{__name__}:{replay.__name__}", data, 0.05)
    return Evidence(
        verdict, "t interval over runs", line, covers=scope(run, (stage,)), numbers=numbers,
        margin=abs((numbers["below_from"] if verdict is Verdict.SUPPORTED else 1 - numbers["above_from"]) - 0.5),
        budget={"runs": len(runs(run)), "tensors": count}, counterexample=example,
    )


def linf_early(run: Run) -> Evidence:
    """S7: after 20 steps ρ < 1 for the ℓ∞ rule on a majority of the weight matrices.  Twin: ρ > 1."""
    evidence = _majority(run, WARM, "linf", "matrices")
    # Two statements of which at most one is true: the certain majority of one refutes the other.
    opposite = {Verdict.SUPPORTED: Verdict.REFUTED, Verdict.REFUTED: Verdict.SUPPORTED}
    return replace(evidence, verdict=opposite.get(evidence.verdict, evidence.verdict)) if run.twin else evidence


def linf_late(run: Run) -> Evidence:
    """S7: at step 200 ρ < 1 for the ℓ∞ rule on a majority of the vectors and convolutions.  Twin: at step 20, of the weight matrices."""
    return _majority(
        run, WARM if run.twin else LATE, "linf", "matrices" if run.twin else "vectors", name="S7-models-rho-late",
        statement="Late in training the Γ of the ℓ∞ rule has a worst-case ρ < 1 on a majority of the vectors and convolutions. False on "
        "this run, measured again; violation: ½ minus the share on which it is possible.",
    )


def spectral_late(run: Run) -> Evidence:
    """S7: at step 200 ρ < 1 for the S∞ rule on a majority of the weight matrices.  Twin: for its variant snr."""
    return _majority(
        run, LATE, "spectral snr" if run.twin else "spectral", "matrices", name="S7-models-rho-spectral",
        statement="Late in training the Γ of the S∞ rule has a worst-case ρ < 1 on a majority of the weight matrices. False on this run, "
        "measured again; violation: ½ minus the share on which it is possible.",
    )


def realised(run: Run) -> Evidence:
    """S7: at step 200 the realised ρ of Γ is below 1 on a majority of tensors, ℓ∞ rule.  Twin: on the matrices, S∞ rule with snr."""
    rule, kind = ("spectral snr", "matrices") if run.twin else ("linf", "all")
    rows = taken(seen_at(run, (LATE,)), rule, kind)
    share, low, high = over_runs(rows, lambda row: row.realised < 1.0)
    verdict = majority(share, low, high)
    data = {"model": QUICKEST[0], "seed": QUICKEST[1], "stage": LATE, "rule": rule, "kind": kind}
    return Evidence(
        verdict, "t interval over runs", f"{rule}, step {LATE}, {kind}: realised ρ < 1 on {share:.0%} [{low:.0%}, {high:.0%}]",
        covers=scope(run, (LATE,)), numbers={"share": share, "from": low, "to": high, **by_model(rows, lambda row: row.realised < 1.0)},
        margin=max(low - 0.5, 0.5 - high), budget={"runs": len(runs(run)), "tensors": len(rows)},
        counterexample=Counterexample(
            "S7-models-realised",
            "Late in training Γ of the ℓ∞ rule raises the decrease of the best step, dᵀHd measured, on a majority of the tensors. False on "
            "this run, measured again; violation: ½ minus the share with a realised ρ < 1.",
            f"{__name__}:{realised_missing.__name__}", data, 0.05,
        ) if verdict is Verdict.REFUTED else None,
    )


def snr_better(run: Run) -> Evidence:
    """S7: at step 200 snr has a smaller worst-case ρ than the full S∞ rule on a majority of the weight matrices.  Twin: a larger one."""
    rows = seen_at(run, (LATE,))
    full = {(row.model, row.seed, row.block): row for row in taken(rows, "spectral", "matrices")}
    snr = taken(rows, "spectral snr", "matrices")

    def smaller(row: Seen) -> bool:
        return row.ratio[1] < full[row.model, row.seed, row.block].ratio[0]

    def larger(row: Seen) -> bool:
        return row.ratio[0] > full[row.model, row.seed, row.block].ratio[1]

    yes, no = (over_runs(snr, x) for x in ((larger, smaller) if run.twin else (smaller, larger)))
    verdict = Verdict.SUPPORTED if yes[1] > 0.5 else Verdict.REFUTED if no[1] > 0.5 else Verdict.INCONCLUSIVE
    return Evidence(
        verdict, "t interval over runs",
        f"smaller on {yes[0]:.0%} [{yes[1]:.0%}, {yes[2]:.0%}], larger on {no[0]:.0%} of {len(snr)} matrices",
        covers=scope(run, (LATE,)), numbers={"smaller": yes[0], "from": yes[1], "larger": no[0]} | by_model(snr, smaller),
        margin=abs(yes[1] - 0.5), budget={"runs": len(runs(run)), "matrices": len(snr)},
    )


# ---- A2, M10 on real gradients -----------------------------------------------------------------------------


def near_muon(run: Run) -> Evidence:
    """A2: past 20 steps the reference S∞ step has a mean cosine ≥ .95 with Muon's in every run.  Twin: the rule as printed."""
    preset = "paper" if run.twin else "reference"
    rule = deva_spectral(preset=preset, polar="svd")
    other = muon(beta1=rule.moment.beta, nesterov=rule.moment.nesterov, polar="svd")
    steps, means, medians, count = run.count(40, 200), {}, {}, 0
    for model, seed in runs(run):
        stream, cosines, gammas = trained(model, seed, steps)[0], [], []
        for name, first in stream[0].items():
            if first.ndim != 2 or min(first.shape) == 1:
                continue
            memory, plain = rule.init(first), other.init(first)
            for t, gradients in enumerate(stream, 1):
                D, memory, details = rule.update(gradients[name], memory, diagnostics=True)
                assert details is not None
                if details.skipped:
                    continue
                P, plain, _ = other.update(gradients[name], plain)
                if t > WARM:
                    cosines.append(torch.cosine_similarity(D.flatten(), P.flatten(), dim=0).item())
                    gammas.append(details.variance_adaptation.median().item())
        means[f"{model} {seed}"] = sum(cosines) / len(cosines)
        medians[f"{model} {seed} median Γ"] = sorted(gammas)[len(gammas) // 2]
        count += len(cosines)
    least = min(means.values())
    return Evidence(
        Verdict.SUPPORTED if least >= 0.95 else Verdict.REFUTED, "statistics",
        f"mean cosine {least:.3f} to {max(means.values()):.3f}, median Γ {min(medians.values()):.2f} to {max(medians.values()):.2f} by run",
        covers=f"steps {WARM + 1} to {steps}; {scope(run, ())}", numbers=means | medians, margin=abs(least - 0.95),
        budget={"runs": len(means), "matrix_steps": count},
    )


@cache
def _products(model: str, seed: int, steps: int) -> tuple[list[float], list[float]]:
    """Return ``<M, direction>`` and the least entry of M' ⊙ msign(M') of every step, weight matrix and S∞ rule, over ‖M‖_*."""
    stream = trained(model, seed, steps)[0]
    products, entries = [], []
    for name, first in stream[0].items():
        if first.ndim != 2 or min(first.shape) == 1:
            continue
        for rule in SPECTRAL.values():
            for product, _, entry in measure(rule, first, (gradients[name] for gradients in stream)):
                products.append(product.item())
                entries.append(entry.item())
    return products, entries


def descends(run: Run) -> Evidence:
    """M10: along real training no step has a negative product of direction and momentum.  Twin: no entry of M' ⊙ msign(M') is."""
    steps = run.count(40, 200)
    values = [x for model, seed in runs(run) for x in _products(model, seed, steps)[run.twin]]
    negative, least = sum(x < -1e-12 for x in values), min(values)
    return Evidence(
        Verdict.SUPPORTED if negative == 0 else Verdict.REFUTED, "statistics",
        f"{negative} of {len(values)} steps negative, least {least:.2g} ‖M‖_*",
        covers=f"corrected (full and snr) and reference (M: what msign takes), β1 = .95; steps up to {steps}; {scope(run, ())}",
        numbers={"negative": negative, "steps": len(values), "least": float(f"{least:.2g}")}, margin=abs(least),
        budget={"steps": len(values)},
    )
