"""The claims of the abstract: the tokens saved against each method, and whether the adaptation improves the smoothness."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.problems import TraceQuadratic
from deva_theory.rules import deva_spectral
from deva_theory.smoothness import box_smoothness, spectral_smoothness, weighted_box_smoothness, weighted_spectral_smoothness
from experiments._trace_quadratic_runs import Config, Instances, schedule, trajectory
from paper_checks.recorded_runs import ADAM_HOMOGENEOUS, ADAPTIVE, improves
from paper_checks.verdicts import refutation


def saving_missing(tokens: str, base: str, stated: str, tolerance: str) -> float:
    """Return what the saving lacks of the stated one beyond a tolerance."""
    return float(Fraction(stated) - Fraction(tolerance) - (1 - Fraction(tokens) / Fraction(base)))


def each_method(run: Run) -> Evidence:
    """Abstract-tokens: around 6.6% fewer tokens, if than Muon; the control compares with SOAP."""
    data = {"tokens": "1.268", "base": "1.357", "stated": "0.066", "tolerance": "0.005"}
    return refutation(
        run, "abstract-tokens",
        "DeVA needs around 6.6% fewer tokens than SOAP, too. False: 1 - 1.268/1.298 = 2.3%; violation: what is missing to 6.6%, half a "
        "percentage point allowed.",
        saving_missing, data, margin=0.01, repair={"base": "1.298"}, standing=Verdict.HOLDS_IF,
        summary="the saving lacks {:+.4f} of 6.6% ± .5%",
    )


def _e1_gammas(method: str, seeds: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (H, Γ) along the published run of a coordinatewise method."""
    config = Config(gamma_every=every)
    instances = Instances.draw(config, seeds)
    for _, _, record in trajectory(method, instances, config.lr, config, squared=False, matched=False):
        if record is not None:
            yield instances.H.double(), record["gamma"].double()


def box_holds(run: Run) -> Evidence:
    """Abstract-box: with Γ clipped at 1, L_Γ ≤ L_∞ along Adam's and ℓ∞'s runs of E1; the control leaves out the clipping."""
    seeds, worst, unclipped, count = run.count(4, 30), 0.0, 0.0, 0
    for method in ("adam", "deva_linf"):
        for H, gamma in _e1_gammas(method, seeds, 40):
            plain = gamma.shape[-1] * box_smoothness(H)
            raw = weighted_box_smoothness(H, gamma) / plain
            kept = raw if run.twin else weighted_box_smoothness(H, gamma.clamp(max=1.0)) / plain
            worst, unclipped, count = max(worst, float(kept.max())), max(unclipped, float(raw.max())), count + kept.numel()
    return Evidence(
        Verdict.HOLDS_IF if worst <= 1.0 + 1e-9 else Verdict.REFUTED, "exact enumeration of sign vectors",
        f"largest L_Γ/L_∞ {worst:.4f}, {unclipped:.3g} with Γ as the rules make it, {count} matrices Γ of E1",
        covers="the repair Γ ≤ 1 (S2-box proves it for every H)",
        numbers={"clipped": worst, "unclipped": unclipped}, margin=1.0 - worst, budget={"matrices": count},
    )


def separable_holds(run: Run) -> Evidence:
    """Abstract-separable: with the separable Γ of `memory` scaled to at most 1, no O lifts L_Γ above L_S; the control does not scale."""
    seeds, worst, count, config = run.count(3, 20), 0.0, 0, Config()
    instances = Instances.draw(config, seeds)
    H = instances.H.double()
    plain = spectral_smoothness(H, config.columns)
    rule = deva_spectral(variant="memory", betas=(config.beta1, config.beta2))
    X, state, factors, rank = instances.X0, rule.init(instances.X0), schedule(config), 0.0
    for step in range(120):
        gradient = TraceQuadratic.row_gradient(instances.A, X, instances.rows[step], squared=False)
        direction, state, details = rule.update(gradient, state, diagnostics=step % 20 == 9)
        X = X - config.lr * factors[step] * direction
        if details is None or details.basis is None:
            continue
        gamma = details.variance_adaptation.double()
        values = torch.linalg.svdvals(gamma)
        rank = max(rank, float((values[..., 1] / values[..., 0]).max()))
        gamma = gamma if run.twin else gamma / gamma.amax(dim=(-2, -1), keepdim=True)
        found = weighted_spectral_smoothness(H, gamma, details.basis[0].double(), iterations=15, restarts=2).lower / plain
        worst, count = max(worst, float(found.max())), count + found.numel()
    return Evidence(
        Verdict.HOLDS_IF if worst <= 1.0 + 1e-9 and rank < 1e-5 else Verdict.REFUTED, "polar iteration",
        f"largest L_Γ/L_S found {worst:.4f}, {count} matrices Γ; second singular value of Γ {rank:.0e} of the first",
        covers="the repair Γ = abᵀ ≤ 1 (S2-separable proves it for every H)",
        numbers={"worst": worst}, margin=1.0 - worst, budget={"matrices": count},
    )


def abstract_measured(run: Run) -> Evidence:
    """Abstract-measured: along E1 the adaptation of all three methods improves L_Γ on both Hessians; the control keeps one setting."""
    return improves("abstract-smoothness-measured", ADAM_HOMOGENEOUS if run.twin else ADAPTIVE)
