"""Smoothness of real models: Γ of their gradients, L_Γ against L, the plotted sum, the chain of bounds, the estimators (S2-S4, S6)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import deva_linf
from deva_theory.smoothness.estimators.balls import Ball, Box, SpectralBall
from deva_theory.smoothness.estimators.entrywise import entrywise_norm
from deva_theory.smoothness.estimators.estimate import Bounds
from deva_theory.smoothness.estimators.krylov import euclidean_smoothness
from deva_theory.smoothness.estimators.operator_norms import Effort, operator_norm
from deva_theory.smoothness.estimators.programs import run as run_program
from paper_checks.arrays import tensor
from paper_checks.model_states import (
    LINF,
    SEEDS,
    SPECTRAL,
    STAGES,
    WARM,
    Seen,
    curvatures_at,
    dense,
    ends,
    one_thread,
    over_runs,
    runs,
    seen_at,
    share_above,
    state,
    t_interval,
    trained,
)

ROUNDING = 1e-9
"""Relative; the numbers are float64 sums of at most a million terms."""

CERTAIN = 14
"""Boxes of at most so many coordinates are enumerated: their ρ is a number, not an interval."""


def scope(run: Run, stages: Sequence[int] = STAGES) -> str:
    """Return what was looked at."""
    models = ", ".join(dict.fromkeys(model for model, _ in runs(run)))
    where = ", ".join("initialisation" if stage == 0 else f"step {stage}" for stage in stages)
    seeds = f"seeds {', '.join(map(str, SEEDS))}" if run.full else f"seed {SEEDS[0]}"
    return "; ".join(x for x in (f"tiny models {models}", seeds, where, "AdamW") if x)


# ---- S2: the size of Γ, and what it does to the smoothness ------------------------------------------------


@cache
@one_thread()
def gammas(model: str, seed: int, steps: int, rule: str) -> dict[str, list[Tensor]]:
    """Return Γ of a rule at every step of training, by tensor; the spectral rules for weight matrices only."""
    stream, _, _ = trained(model, seed, steps)
    chosen = (SPECTRAL | LINF)[rule]
    found: dict[str, list[Tensor]] = {}
    for name, first in stream[0].items():
        if rule in SPECTRAL and (first.ndim != 2 or min(first.shape) == 1):
            continue
        shape = first.shape if rule in SPECTRAL else first.flatten().shape
        memory, found[name] = chosen.init(first.reshape(shape)), []
        for gradients in stream:
            _, memory, details = chosen.update(gradients[name].reshape(shape), memory, diagnostics=True)
            assert details is not None
            found[name].append(details.variance_adaptation)
    return found


def gamma_excess(gradients: list[float]) -> float:
    """Return Γ - 1 of the ℓ∞ rule after one coordinate's gradients."""
    rule = deva_linf()
    memory, details = rule.init(tensor(gradients[:1])), None
    for g in gradients:
        _, memory, details = rule.update(tensor([g]), memory, diagnostics=True)
    assert details is not None
    return details.variance_adaptation.max().item() - 1.0


def _history(run: Run, steps: int) -> tuple[list[float], str]:
    """Return the shortest history of a coordinate with Γ > 1.5, and where it was seen."""
    best: tuple[list[float], str] = ([], "")
    for model, seed in runs(Run()):
        for name, series in gammas(model, seed, steps, "linf").items():
            t = next((t for t, gamma in enumerate(series) if gamma.max() > 1.5), None)
            if t is not None and (not best[0] or t + 1 < len(best[0])):
                i = int(series[t].argmax())
                stream = trained(model, seed, steps)[0]
                history = [g[name].flatten()[i].item() for g in stream[: t + 1]]
                best = history, f"{name} of {model}, seed {seed}, coordinate {i}, step {t + 1}"
    return best


def gamma_at_most_one(run: Run) -> Evidence:
    """S2: Γ of real gradients is at most 1.  Twin: at most the bound of D3, √((1-β2^t)/(1-β2))."""
    steps, largest, total, above = run.count(40, 200), 0.0, 0, 0.0
    most: dict[str, float] = {}
    for model, seed in runs(run):
        for rule in ("linf", "spectral"):
            beta = {"linf": 0.999, "spectral": 0.95}[rule]
            for series in gammas(model, seed, steps, rule).values():
                for t, gamma in enumerate(series, 1):
                    bound = math.sqrt((1 - beta**t) / (1 - beta)) if run.twin else 1.0
                    largest = max(largest, gamma.max().item() / bound)
                    total, above = total + 1, above + share_above(gamma / bound)
                    most[rule] = max(most.get(rule, 0.0), gamma.max().item())
    refuted = largest > 1.0 + ROUNDING
    example = None
    if refuted:
        history, where = _history(run, steps)
        example = Counterexample(
            "S2-models-gamma",
            f"Γ of real gradients is at most 1. False for the ℓ∞ rule on {where}: the history of that coordinate's gradients; "
            "violation: Γ - 1.",
            "paper_checks.smoothness_models:gamma_excess", {"gradients": history}, margin=0.4,
        ) if history else None
    return Evidence(
        Verdict.REFUTED if refuted else Verdict.SUPPORTED, "statistics",
        f"largest Γ {most['linf']:.3g} (ℓ∞), {most['spectral']:.3g} (S∞); {above / total:.0%} of the entries above the bound",
        covers=f"every step of training up to {steps}; {scope(run, ())}",
        numbers={"largest_over_bound": largest, "share_above": above / total},
        margin=abs(largest - 1.0), budget={"runs": len(runs(run)), "tensor_steps": total}, counterexample=example,
    )


def snr_at_most_one(run: Run) -> Evidence:
    """S2: past 20 steps at most 1% of the entries of Γ of S∞ with snr are above 1, in every run.  Twin: of the full rule."""
    rule, steps = "spectral" if run.twin else "spectral snr", run.count(40, 200)
    shares, largest, count = {}, 0.0, 0
    for model, seed in runs(run):
        later = [gamma for series in gammas(model, seed, steps, rule).values() for gamma in series[WARM:]]
        shares[f"{model} {seed}"] = torch.cat([(gamma > 1.0 + 1e-12).flatten().double() for gamma in later]).mean().item()
        largest, count = max(largest, *(gamma.max().item() for gamma in later)), count + len(later)
    worst = max(shares.values())
    return Evidence(
        Verdict.SUPPORTED if worst <= 0.01 else Verdict.REFUTED, "statistics",
        f"at most {worst:.2%} of a run's entries above 1, largest Γ {largest:.3g}",
        covers=f"steps {WARM + 1} to {steps}; {scope(run, ())}", numbers=shares, margin=abs(worst - 0.01),
        budget={"runs": len(shares), "matrix_steps": count},
    )


def majority(mean: float, low: float, high: float) -> Verdict:
    """Return SUPPORTED where the interval of a share is above one half, REFUTED where it is below."""
    return Verdict.SUPPORTED if low > 0.5 else Verdict.REFUTED if high < 0.5 else Verdict.INCONCLUSIVE


def smoother(run: Run) -> Evidence:
    """S2: in a majority of tensors Γ of the ℓ∞ rule lowers the box smoothness.  Twin: Γ of the reference preset."""
    rows = [row for row in seen_at(run) if row.rule == ("linf reference" if run.twin else "linf")]
    # Undecided tensors count against the statement when it is to be supported, and for it when it is to be refuted.
    certain = over_runs(rows, lambda row: row.weighted[1] < row.plain[0])
    possible = over_runs(rows, lambda row: row.weighted[0] <= row.plain[1])
    verdict = Verdict.SUPPORTED if majority(*certain) is Verdict.SUPPORTED else (
        Verdict.REFUTED if majority(*possible) is Verdict.REFUTED else Verdict.INCONCLUSIVE
    )
    return Evidence(
        verdict, "t interval over runs",
        f"L_Γ < L_∞ in {certain[0]:.0%} of the tensors, 95% interval {certain[1]:.0%} to {certain[2]:.0%}; L_Γ > L_∞ in "
        f"{1 - possible[0]:.0%}",
        covers=scope(run), numbers={"lower": certain[0], "lower_from": certain[1], "higher": 1 - possible[0], **by_model(
            rows, lambda row: row.weighted[1] < row.plain[0])},
        margin=abs(certain[1] - 0.5), budget={"runs": len(runs(run)), "tensors": len(rows)},
    )


def by_model(rows: Sequence[Seen], value: Callable[[Seen], bool | float]) -> dict[str, float]:
    """Return a share for each model."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(float(value(row)))
    return {model: sum(values) / len(values) for model, values in found.items()}


def spectral_where_small(run: Run) -> Evidence:
    """S2: a Γ ≤ 1 that the S∞ rule makes of real gradients never raises the spectral smoothness.  Twin: nor does any other Γ."""
    rows = [row for row in seen_at(run, STAGES if run.full else (WARM,)) if row.geometry == "spectral"]
    taken = [row for row in rows if run.twin or row.largest <= 1.0 + 1e-12]
    worst = max(row.weighted[0] / row.plain[1] for row in taken)
    raised = sum(row.weighted[0] > row.plain[1] for row in taken)
    proved = sum(row.weighted[1] <= row.plain[0] for row in taken)
    return Evidence(
        Verdict.REFUTED if raised else Verdict.SUPPORTED, "certified intervals",
        f"{raised} of {len(taken)} raised, {proved} certainly not; largest certain L_Γ/L_S {worst:.3g}",
        covers=f"the full rule, snr and the reference; {scope(run, STAGES if run.full else (WARM,))}",
        numbers={"raised": raised, "not_raised": proved, "largest": worst}, margin=abs(worst - 1.0), budget={"matrices": len(taken)},
    )


# ---- S3: the plotted sum ------------------------------------------------------------------------------------


def orders(run: Run, quantity: str, geometry: str) -> tuple[tuple[float, float, float], int]:
    """Return the share of the pairs of rules, decided by L_Γ or ρ, that the signed sum orders alike; and their number."""
    alike: dict[tuple[str, int], list[float]] = {}
    groups: dict[tuple[str, int, int, str], list[Seen]] = {}
    for row in seen_at(run):
        if row.geometry == geometry:
            groups.setdefault((row.model, row.seed, row.stage, row.block), []).append(row)
    for (model, seed, _, _), rows in groups.items():
        for first, second in itertools.combinations(rows, 2):
            a, b = (row.weighted if quantity == "smoothness" else row.ratio for row in (first, second))
            if a[1] < b[0] or b[1] < a[0]:
                alike.setdefault((model, seed), []).append(float((first.signed < second.signed) == (a[1] < b[0])))
    return t_interval([sum(x) / len(x) for x in alike.values()]), sum(map(len, alike.values()))


def _ranks(run: Run, quantity: str) -> Evidence:
    found = {geometry: orders(run, quantity, geometry) for geometry in ("linf", "spectral")}
    lines = [f"{100 * share:.0f}% [{100 * low:.0f}, {100 * high:.0f}] of {count} ({geometry})"
             for geometry, ((share, low, high), count) in found.items()]
    lows, highs = [low for (_, low, _), _ in found.values()], [high for (_, _, high), _ in found.values()]
    verdict = Verdict.SUPPORTED if min(lows) > 2 / 3 else Verdict.REFUTED if min(highs) < 2 / 3 else Verdict.INCONCLUSIVE
    return Evidence(
        verdict, "t interval over runs", f"decided pairs ordered alike: {'; '.join(lines)}", covers=scope(run),
        numbers={f"{geometry}_{key}": value for geometry, (interval, _) in found.items()
                 for key, value in zip(("share", "from", "to"), interval, strict=True)},
        margin=min(lows) - 2 / 3 if verdict is Verdict.SUPPORTED else 2 / 3 - min(highs),
        budget={"runs": len(runs(run)), "pairs": sum(count for _, count in found.values())},
    )


def ranks_smoothness(run: Run) -> Evidence:
    """S3: the signed sum orders two thirds of the pairs of rules as L_Γ does, in both geometries.  Twin: as ρ does."""
    return _ranks(run, "ratio" if run.twin else "smoothness")


def exact_ratio(H: Tensor, g: Tensor, gamma: Tensor) -> tuple[float, float]:
    """Return ``γᵀHγ`` and ``L_Γ/<g, γ ⊙ sign g>²`` (ρ up to a factor that all γ share) by enumeration; small boxes."""
    weighted = gamma[:, None] * H * gamma
    bounds = run_program(operator_norm(Box(len(g)), norm="linf"), lambda V: V @ weighted).quadratic
    assert bounds is not None
    return weighted.sum().item(), bounds.lower / ((g.abs() * gamma).sum() ** 2).item()


def reversal(H: list[list[float]], g: list[float], first: list[float], second: list[float]) -> float:
    """Return by which share the signed sum calls `first` the smaller one while ρ calls `second` so: the lesser of both."""
    (a, p), (b, q) = (exact_ratio(tensor(H), tensor(g), tensor(gamma)) for gamma in (first, second))
    return min(1 - a / b, 1 - q / p) if a > 0 and b > 0 and p > 0 and q > 0 else -1.0


@one_thread()
def ranks_progress(run: Run) -> Evidence:
    """S3: the signed sum orders two thirds of the pairs of rules as ρ does.  Twin: as L_Γ does."""
    evidence = _ranks(run, "smoothness" if run.twin else "ratio")
    if evidence.verdict is not Verdict.REFUTED:
        return evidence
    worst, where = 0.0, ""
    data: dict[str, Any] = {}
    for model, seed in runs(Run()):
        operator, stream = state(model, seed, WARM)
        gradient = operator.gradient()
        for block in operator.blocks:
            if block.size > CERTAIN:
                continue
            H, g = dense(operator, block.name), gradient[block.name]
            for one, other in itertools.permutations(LINF, 2):
                first, second = (gammas(model, seed, len(stream), rule)[block.name][-1] for rule in (one, other))
                trial = {"H": H.tolist(), "g": g.tolist(), "first": first.tolist(), "second": second.tolist()}
                if reversal(**trial) > worst:
                    worst, data, where = reversal(**trial), trial, f"{one} and {other} on {block.name} of {model}, seed {seed}, step {WARM}"
    return replace(evidence, counterexample=Counterexample(
        "S3-models-progress",
        f"The plotted sum orders adaptations as ρ does. False for {where}: it calls the first one smaller, ρ the second; violation: "
        "the lesser of the relative gaps.", "paper_checks.smoothness_models:reversal", data, margin=0.5 * worst,
    ) if data else None)


def minus_signed(H: list[list[float]], gamma: list[float]) -> float:
    """Return ``-Σ H_ij γ_i γ_j`` over ``Σ |H_ij| γ_i γ_j``."""
    weighted = tensor(gamma)[:, None] * tensor(H) * tensor(gamma)
    return -(weighted.sum() / weighted.abs().sum()).item()


@one_thread()
def sums_positive(run: Run) -> Evidence:
    """S3: the signed sum over a tensor's Hessian is positive, as a log axis needs.  Twin: the absolute sum is."""
    rows = seen_at(run, STAGES if run.full else (0,))
    negative = [row for row in rows if (row.absolute if run.twin else row.signed) <= 0]
    data: dict[str, Any] = {}
    worst, where = 0.0, ""
    quick = [row for row in negative if (row.model, row.seed) in runs(Run()) and row.stage == 0 and row.rule in LINF]
    if quick:
        row = min(quick, key=lambda row: (max(row.size, CERTAIN), row.signed / row.absolute))  # small and plain to see
        operator, stream = state(row.model, row.seed, 0)
        rule = LINF[row.rule]
        memory, details = rule.init(stream[0][row.block].flatten()), None
        for gradients in stream:
            _, memory, details = rule.update(gradients[row.block].flatten(), memory, diagnostics=True)
        assert details is not None
        worst, where = -row.signed / row.absolute, f"{row.block} of {row.model}, seed {row.seed}, initialisation, with Γ of {row.rule}"
        data = {"H": dense(operator, row.block).tolist(), "gamma": details.variance_adaptation.tolist()}
    stages = {f"stage {stage}": sum(row.stage == stage for row in negative) / max(1, sum(row.stage == stage for row in rows))
              for stage in dict.fromkeys(row.stage for row in rows)}
    return Evidence(
        Verdict.REFUTED if negative else Verdict.SUPPORTED, "exact Hessians",
        f"{len(negative)} of {len(rows)} sums ≤ 0: " + ", ".join(f"{key} {value:.0%}" for key, value in stages.items()),
        covers=scope(run, STAGES if run.full else (0,)), numbers=stages, margin=worst, budget={"sums": len(rows)},
        counterexample=Counterexample(
            "S3-models-sign",
            f"Σ H_ij γ_i γ_j is positive on real models. False on {where}; violation: minus the sum, relative to "
            "Σ|H_ij| γ_i γ_j.", "paper_checks.smoothness_models:minus_signed", data, margin=0.5 * worst,
        ) if data else None,
    )


# ---- S4, S6: bounds and estimators -------------------------------------------------------------------------


def chain(run: Run) -> Evidence:
    """S4: tr H ≤ L_∞ ≤ dual ≤ π/2 L_∞ and L_∞ ≤ Σ|H_ij|, d λ_max where H ≽ 0 up to 1%.  Twin: L_∞ ≤ tr H."""
    stages = STAGES if run.full else (WARM,)
    rows = curvatures_at(run, stages)
    worst, dual, entries, euclid, definite = 0.0, [], [], [], 0
    for c in rows:
        lower, upper = c.box
        sides = [(lower, c.trace)] if run.twin else [
            (c.trace, upper), (lower, c.entries), (lower, c.size * max(0.0, c.highest)),
        ]
        worst = max(worst, *(a - b * (1 + ROUNDING) for a, b in sides))
        if lower > 0:
            entries.append(c.entries / lower)
            euclid.append(c.size * c.highest / lower)
        if c.lowest >= -0.01 * c.highest:
            definite += 1
            dual.append(upper / lower)
    median = [sorted(x)[len(x) // 2] for x in (dual, entries, euclid)]
    holds = worst <= 0 and max(dual) <= math.pi / 2
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED, "exact Hessians",
        f"dual over witness at most {max(dual):.3g} on {definite} nearly definite blocks (median {median[0]:.3f}); medians of Σ|H_ij|/L_∞ "
        f"{median[1]:.3g}, d λ_max/L_∞ {median[2]:.3g}",
        covers=scope(run, stages), numbers={"largest_dual": max(dual), "median_entries": median[1], "largest_entries": max(entries)},
        margin=math.pi / 2 - max(dual) if holds else worst, budget={"blocks": len(rows), "definite": definite},
    )


@one_thread()
def intervals(run: Run) -> Evidence:
    """S6: matrix-free intervals meet the values of the dense Hessian, in all four norms.  Twin: the intervals of diag(H)."""
    missed, widest, count = 0, 0.0, 0
    for model, seed in runs(run):
        if seed != SEEDS[0]:
            continue  # a sweep over shapes, not over seeds
        operator, _ = state(model, seed, WARM)
        gradient = operator.gradient()
        for block in operator.blocks:
            H = dense(operator, block.name)
            if len(H) > 128:
                continue
            for found, exact in _both(H, torch.diag(H.diagonal()) if run.twin else H, gradient[block.name].shape, seed):
                count += 1
                widest = max(widest, found.ratio) if found.lower > 0 else widest
                slack = ROUNDING * max(abs(exact[0]), abs(exact[1]))
                missed += found.upper < exact[0] - slack or found.lower > exact[1] + slack
    return Evidence(
        Verdict.REFUTED if missed else Verdict.SUPPORTED, "comparison",
        f"{missed} of {count} intervals miss the dense value; the widest has upper/lower {widest:.3g}",
        covers=f"blocks of at most 128 parameters; {scope(Run(), ()) if not run.full else 'all tiny models'}, seed {SEEDS[0]}, step {WARM}",
        numbers={"missed": missed, "widest": widest}, margin=float(missed), budget={"intervals": count},
    )


def _both(H: Tensor, used: Tensor, shape: torch.Size, seed: int) -> Iterator[tuple[Bounds, tuple[float, float]]]:
    """Yield matrix-free intervals of `used` beside the values for H: numbers for λ, |λ| and the sum, dense intervals for the balls."""
    size, eigenvalues = len(H), torch.linalg.eigvalsh(H)

    def against(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda V: V @ matrix

    euclidean = run_program(euclidean_smoothness(size, seed=seed), against(used))
    assert euclidean.quadratic is not None
    highest, modulus = max(0.0, eigenvalues[-1].item()), eigenvalues.abs().max().item()
    yield euclidean.quadratic, (highest, highest)
    yield euclidean.bilinear, (modulus, modulus)
    total = H.abs().sum().item()
    entries = run_program(entrywise_norm(size, confidence=0.999, seed=seed), against(used))
    yield Bounds(entries.deterministic_lower, max(entries.deterministic_lower, entries.certified_upper), "", ""), (total, total)
    balls: dict[str, Ball] = {"linf": Box(size)}
    if len(shape) == 2 and min(shape) > 1:
        balls["spectral"] = SpectralBall(*shape)
    for norm, ball in balls.items():
        free = run_program(operator_norm(ball, norm=norm, effort=Effort(dense=0), seed=seed), against(used))
        known = run_program(operator_norm(ball, norm=norm, effort=Effort(dense=size), seed=seed + 1), against(H))
        assert free.quadratic and known.quadratic
        yield free.quadratic, ends(known.quadratic)
        yield free.bilinear, ends(known.bilinear)
