"""Steps on real models: the effective ratio ρ of DeVA's Γ block by block (S7), and how its direction compares with Muon's (A2, M10)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import deva_spectral, muon
from paper_checks.model_states import SEEDS, SPECTRAL, STAGES, WARM, Seen, measured, one_thread, over_runs, runs, seen_at, trained
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


def realised_missing(model: str, seed: int, stage: int, rule: str, kind: str) -> float:
    """Return ½ minus the share of one run's tensors with a realised ρ < 1."""
    rows = taken(measured(model, seed, stage)[0], rule, kind)
    return 0.5 - sum(row.realised < 1.0 for row in rows) / len(rows)


def ratio_excess(model: str, seed: int, stage: int, rule: str, block: str) -> float:
    """Return the certified lower end of the worst-case ρ on one tensor, minus 1; measured again."""
    return next(row for row in measured(model, seed, stage)[0] if (row.rule, row.block) == (rule, block)).ratio[0] - 1.0


def shares(run: Run, rule: str, kind: str) -> dict[str, float]:
    """Return on which shares of the tensors ρ is certainly below 1, and certainly not, with 95% intervals, by stage."""
    found = {}
    for stage in STAGES:
        rows = taken(seen_at(run, (stage,)), rule, kind)
        for name, value in (("below", below), ("above", above)):
            for end, share in zip(("", " from", " to"), over_runs(rows, value), strict=True):
                found[f"{kind}, step {stage}, {name}{end}"] = round(share, 4)
    return found


def _everywhere(run: Run, name: str, rule: str, kinds: Sequence[str]) -> Evidence:
    """Judge "ρ < 1 on every tensor"; the control: on some tensor of every model."""
    rows = [row for kind in kinds for row in taken(seen_at(run), rule, kind)]
    violated = [row for row in rows if above(row)]
    lacking = [model for model, share in by_model(rows, below).items() if share == 0.0]
    refuted = bool(lacking) if run.twin else bool(violated)
    numbers = {key: value for kind in kinds for key, value in shares(run, rule, kind).items()}
    line = "; ".join(
        f"{kind}: " + ", ".join(f"{numbers[f'{kind}, step {s}, below']:.0%} and {numbers[f'{kind}, step {s}, above']:.0%}" for s in STAGES)
        for kind in kinds
    )
    example = None
    quick = [row for row in violated if (row.model, row.seed) in runs(Run())]
    if quick and not run.twin:
        row = max(quick, key=lambda row: min(row.ratio[0], 2.0) - row.size * 1e-6)  # a clear one, and of these the smallest
        example = Counterexample(
            name,
            f"The Γ of DeVA ({rule}) raises the guaranteed decrease on every tensor. False on {row.block} of {row.model}, seed {row.seed}, "
            f"stage {row.stage}, measured again: the worst-case ρ is at least {row.ratio[0]:.3g}; violation: that minus 1.",
            f"{__name__}:{ratio_excess.__name__}",
            {"model": row.model, "seed": row.seed, "stage": row.stage, "rule": rule, "block": row.block}, 0.5 * (row.ratio[0] - 1.0),
        )
    return Evidence(
        Verdict.REFUTED if refuted else Verdict.SUPPORTED, "certified intervals",
        f"ρ certainly < 1 and certainly ≥ 1 at steps {', '.join(map(str, STAGES))}, {line}",
        covers=scope(run), numbers=numbers | by_model(rows, below), margin=max(row.ratio[0] for row in rows) - 1.0,
        budget={"runs": len(runs(run)), "tensors": len(rows)}, counterexample=example,
    )


def linf_everywhere(run: Run) -> Evidence:
    """S7: ρ < 1 for the ℓ∞ rule on every tensor.  Twin: on some tensor of every model."""
    return _everywhere(run, "S7-models-rho-linf", "linf", ("matrices", "vectors"))


def spectral_everywhere(run: Run) -> Evidence:
    """S7: ρ < 1 for the S∞ rule on every weight matrix.  Twin: on some weight matrix of every model."""
    return _everywhere(run, "S7-models-rho-spectral", "spectral", ("matrices",))


def snr_late(run: Run) -> Evidence:
    """S7: at step 200 ρ < 1 for the S∞ rule with snr on a majority of the weight matrices.  Twin: ρ ≥ 1."""
    rows = taken(seen_at(run, (LATE,)), "spectral snr", "matrices")
    # At most one of both statements is true; undecided tensors count for neither.
    yes, no = (over_runs(rows, value) for value in ((above, below) if run.twin else (below, above)))
    verdict = Verdict.SUPPORTED if yes[1] > 0.5 else Verdict.REFUTED if no[1] > 0.5 else Verdict.INCONCLUSIVE
    return Evidence(
        verdict, "t interval over runs",
        f"on {yes[0]:.0%} [{yes[1]:.0%}, {yes[2]:.0%}], the opposite on {no[0]:.0%} of {len(rows)} matrices",
        covers=scope(run, (LATE,)),
        numbers={"share": yes[0], "from": yes[1], "opposite": no[0]} | by_model(rows, below) | shares(run, "spectral snr", "matrices"),
        margin=abs(yes[1] - 0.5), budget={"runs": len(runs(run)), "matrices": len(rows)},
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


@one_thread()
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
@one_thread()
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
