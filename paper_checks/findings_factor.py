"""The first steps: A1, the bias factor of the reference, and how far the first steps of each preset exceed full size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import sympy
import torch
from torch import Tensor

from deva_theory.certify import Case, at_most, cite, equal, positive
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.rules import VARIANTS, Rule, deva_linf, deva_spectral, muon
from paper_checks.entrywise_formula import (
    BETAS,
    SHAPES,
    Subject,
    conformity,
    embedded,
    entrywise,
    linf_run,
    relative_distance,
    spectral_run,
)
from paper_checks.gradient_streams import directions, networks, stationary
from paper_checks.verdicts import proved, refutation


def bias_factor(run: Run) -> Evidence:
    """A1-factor: κ_1, κ_2, κ_3 of the reference on a constant gradient; the control leaves the bias factor out of the product.

    ``κ_t² = (1-β^t)/(1-β^t)² · (1-β^t)²/V_t`` with ``V_t = βV_{t-1} + (1-β)(1-β^t)²``, the gradient's amplitude divided out.
    """
    factor = {t: "1" if run.twin else f"(w{t}/w{t}**2)" for t in (1, 2, 3)}
    weights = {"w1": "a", "w2": "a*(1 + b)", "w3": "a*(1 + b + b**2)"}
    case = Case(
        "β1 = β2 = b", nonnegative=("b",), positive=("a",),
        definitions={"a": "1 - b", **weights, "V1": "a*w1**2", "V2": "b*V1 + a*w2**2", "V3": "b*V2 + a*w3**2"},
        steps=[
            *(equal(f"w{t}", f"1 - b**{t}") for t in (1, 2, 3)),
            equal(f"{factor[1]}*w1**2/V1", "1/a**2"),
            equal(f"{factor[2]}*w2**2/V2", "(1 + b)/(a**2*(b + (1 + b)**2))"),
            equal(f"{factor[3]}*w3**2/V3", "(1 + b + b**2)/(a**2*(b**2 + b*(1 + b)**2 + (1 + b + b**2)**2))"),
        ],
    )
    second = "(1 + 19/20)*400/(19/20 + (1 + 19/20)**2)"
    third = "(1 + 19/20 + (19/20)**2)*400/((19/20)**2 + 19/20*(1 + 19/20)**2 + (1 + 19/20 + (19/20)**2)**2)"
    shown = [
        ["1/(1 - 19/20)**2", "==", "20**2"], [second, ">", "(1281/100)**2"], [second, "<", "(1282/100)**2"],
        [third, ">", "(949/100)**2"], [third, "<", "(950/100)**2"],
    ]
    values = ", ".join(f"{float(sympy.sqrt(sympy.sympify(e))):.3f}" for e in ("400", second, third))
    return proved(
        [case], f"κ = {values} at β = .95, for t = 1, 2, 3", covers="constant gradient, exact msign, ε = 0, β1 = β2", shown=shown
    )


def bias_bound(run: Run) -> Evidence:
    """A1-bound: κ_t ≥ 1/(1-β^t) > 1 at every step, by induction on V_t ≤ (1-β^t)³; the control leaves the bias factor out."""
    induction = Case(
        "V_{t-1} ≤ (1-w)³ with w = b^{t-1} gives V_t ≤ (1-bw)³", nonnegative=("b", "w", "d", "a", "A"),
        definitions={"a": "1 - b", "A": "1 - w", "V": "A**3 - d"},
        steps=[at_most("b*V + a*(1 - b*w)**2", "(1 - b*w)**3", because="b*d + b*A*w*a*(2*A + w*a)")],
    )
    square = "u**2/V" if run.twin else "(u/u**2)*u**2/V"
    conclusion = Case(
        "V ≤ u³ with u = 1-z, z = β^t > 0 gives κ² ≥ 1/u² > 1", positive=("u", "V", "z"), nonnegative=("s",),
        definitions={"u": "1 - z", "V": "u**3 - s"},
        steps=[
            at_most("1/u**2", square, because="s/(V*u**2)"),
            equal("1/u**2 - 1", "z*(1 + u)/u**2"), positive("z*(1 + u)/u**2"),
            cite("κ and 1/u are positive: the order of the squares is theirs"),
        ],
    )
    return proved([induction, conclusion], "κ_t ≥ 1/(1-β^t) for every t; V_0 = 0 = (1-β⁰)³ starts the induction",
                 covers="constant gradient, exact msign, ε = 0, 0 < β1 = β2 < 1; every t by induction")


def bias_fits_memory(run: Run) -> Evidence:
    """A1-fits: κ_t = 1 where V averages the raw gradient (reference's memory, snr); the control averages the momentum (t = 1)."""
    V = "q*w2*w1**2" if run.twin else "q*w2"
    case = Case(
        "amplitude² q, w1 = 1-β1^t, w2 = 1-β2^t", positive=("q", "w1", "w2"), nonnegative=("b", "w"),
        steps=[
            equal("b*(q*(1 - w)) + (1 - b)*q", "q*(1 - b*w)"),
            equal(f"(w2/w1**2)*((q*w1**2)/({V}))", "1"),
        ],
    )
    return proved(
        [case], "the bias factor √(1-β2^t)/(1-β1^t) is exact for a V made of raw gradients", covers="constant gradient, exact msign, ε = 0"
    )


_CONSTANT = np.array([4.0, 3.0, -2.0, 1.0])


def reference_first_steps(run: Run) -> Evidence:
    """A1-code: the reference preset on constant gradients, every variant, against the recurrence; the control drops its bias factor."""
    g = np.tile(_CONSTANT, (run.count(14, 45), 1))
    return conformity(
        (spectral_run(g, shape, "reference", variant, betas, eps=0.0, bias_factor=not run.twin)
         for shape, variant, betas in itertools.product(SHAPES, VARIANTS, BETAS)),
        "reference S∞, constant gradient", run.seed,
    )


def _beside_exact_msign(rule: Rule, gradients: Tensor) -> list[float]:
    """Return the mean length of each step over that of an exact msign of the same momentum, DeVA's shape factor included."""
    exact = muon(beta1=rule.moment.beta, nesterov=rule.moment.nesterov, polar="svd", coefficient=0.2)
    skipped = int(rule.only_builds(rule.init(gradients[0])))
    ours = torch.linalg.matrix_norm(directions(rule, gradients.float()).double())[skipped:]
    theirs = torch.linalg.matrix_norm(directions(exact, gradients[skipped:]))
    return (ours / theirs).reshape(len(theirs), -1).mean(1).tolist()


def reference_on_streams(run: Run) -> Evidence:
    """A1-stream: 18.8, 11.7, 8.5 at noise 1, Newton-Schulz included; the control takes the bias factor out of the rule."""
    rule = deva_spectral(preset="reference")
    if run.twin:
        rule = replace(rule, step_scale=replace(rule.step_scale, bias="none"))
    shapes, expected = ((6, 6), (16, 6), (6, 16), (16, 16)), (18.8, 11.7, 8.5)
    seeds = run.count(12, 100)
    found = [_beside_exact_msign(rule, stationary(run, i, shape, steps=4, seeds=seeds)) for i, shape in enumerate(shapes)]
    off = max(abs(x / e - 1.0) for row in found for x, e in zip(row, expected, strict=True))
    mean = [sum(column) / len(found) for column in zip(*found, strict=True)]
    return Evidence(
        Verdict.SUPPORTED if off <= 0.1 else Verdict.REFUTED, "statistics",
        f"{mean[0]:.1f}, {mean[1]:.1f}, {mean[2]:.1f} times an exact msign step, mean of {len(shapes)} shapes; largest deviation {off:.1%}",
        covers="noise/signal 1, sides 6 to 16, second to fourth call", numbers={"deviation": off}, margin=0.1 - off,
        budget={"streams": seeds * len(shapes)}, seed=run.seed,
    )


def reference_on_network(run: Run) -> Evidence:
    """A1-network: at least 15, 9 and 6 times an exact msign step on a network's gradients; the control is `corrected`."""
    rule, bounds = deva_spectral(preset="corrected" if run.twin else "reference"), (15.0, 9.0, 6.0)
    found = [_beside_exact_msign(rule, gradients[:4])[:3] for gradients in networks(run, run.count(1, 6))]
    least = [min(column) for column in zip(*found, strict=True)]
    margin = min(a - b for a, b in zip(least, bounds, strict=True))
    return Evidence(
        Verdict.SUPPORTED if margin >= 0.0 else Verdict.REFUTED, "statistics",
        f"least {least[0]:.1f}, {least[1]:.1f}, {least[2]:.1f} times an exact msign step over {len(found)} layers and runs",
        covers="a character-level network, batches of 4 to 256", numbers={f"step {i + 1}": x for i, x in enumerate(least)},
        margin=margin, budget={"layers": len(found)}, seed=run.seed,
    )


def linf_first_step(run: Run) -> Evidence:
    """A1-linf: Γ_1² = 1/(1-β2) at ε = 0 and less for ε > 0; the control corrects the bias of v."""
    v = "m**2" if run.twin else "a*m**2"
    case = Case(
        "m = (1-β1)|g| > 0, a = 1-β2", positive=("m", "a"), nonnegative=("e",),
        steps=[equal(f"m**2/({v})", "1/a"), at_most(f"m**2/({v} + e)", "1/a", because=f"e/(a*({v} + e))")],
    )
    return proved([case], "Γ_1 = (1-β2)^(-1/2), for every g ≠ 0 and every β1; ε only lowers it", covers="β2 < 1",
                 shown=[["1/(1 - 999/1000)", "==", "1000"]])


def linf_shortfall(g: float, betas: Sequence[float], eps: float) -> float:
    """Return 1 minus the first Γ of the reference's ℓ∞ rule over (1-β2)^(-1/2)."""
    rule = deva_linf(preset="reference", betas=(betas[0], betas[1]), eps=eps)
    step = directions(rule, torch.tensor([[g]], dtype=torch.float64))[0, 0]
    return 1.0 - abs(float(step)) * math.sqrt(1.0 - betas[1])


def linf_with_eps(run: Run) -> Evidence:
    """A1-linf-eps: the shipped ε leaves the start at 31.6 for a gradient of size 1; the control sets ε = 0."""
    return refutation(
        run, "a1-linf-eps",
        "The reference's ℓ∞ rule with its defaults starts at (1-β2)^(-1/2) = 31.6 for g = 1. False: v_1 = 1e-5 is as large as ε; "
        "violation: relative shortfall.",
        linf_shortfall, {"g": 1.0, "betas": [0.9, 0.999], "eps": 1e-5}, margin=0.2, repair={"eps": 0.0},
        summary="shortfall {:.4f}",
    )


def linf_first_steps(run: Run) -> Evidence:
    """A1-linf-code: paper and reference ℓ∞ on constant gradients against the recurrence; the control corrects the formula's bias."""
    g = np.tile(_CONSTANT, (12, 1))

    def subjects() -> Iterator[Subject]:
        for preset, variant, betas in itertools.product(("paper", "reference"), VARIANTS, BETAS):
            for eps in (0.0, None):
                if run.twin:
                    rule = deva_linf(preset=preset, variant=variant, betas=betas, eps=eps)
                    expected = entrywise(g, "corrected", betas, 1e-16, spectral=False, variant=variant)
                    yield preset, relative_distance(directions(rule, torch.from_numpy(g)), torch.from_numpy(expected))
                else:
                    yield linf_run(g, preset, variant, betas, eps=eps)

    return conformity(subjects(), "ℓ∞ without bias correction, constant gradient", run.seed)


def corrected_constant(run: Run) -> Evidence:
    """A1-corrected: Γ_t = 1 at every step on a constant gradient; the control does not correct m."""
    above = "q*w1**2" if run.twin else "q*w1**2/w1**2"
    case = Case(
        "amplitude² q, w1 = 1-β1^t, w2 = 1-β2^t", positive=("q", "w1", "w2"), nonnegative=("b", "w"),
        steps=[
            equal("b*(q*(1 - w)) + (1 - b)*q", "q*(1 - b*w)"),
            equal(f"({above})/((q*w2)/w2)", "1"),
        ],
    )
    return proved([case], "the amplitude of m/(1-β1^t) is that of the gradient, and so is its corrected mean square",
                 covers="constant gradient; entries above √ε of the largest")


def corrected_first_steps(run: Run) -> Evidence:
    """A1-corrected-code: both rules, every variant, take steps of full size from the first; the control expects the printed Γ."""
    g = np.tile(_CONSTANT, (run.count(14, 45), 1))

    def subjects() -> Iterator[Subject]:
        for variant, betas in itertools.product(VARIANTS, BETAS):
            for shape in SHAPES:
                rule, scale = deva_spectral(variant=variant, betas=betas), 0.2 * math.sqrt(max(shape))
                signs = embedded(np.sign(g), shape) * (math.sqrt(1.0 / (1.0 - betas[1])) if run.twin else 1.0)
                yield f"S∞ {variant} {shape} {betas}", relative_distance(directions(rule, embedded(g, shape)), scale * signs)
            expected = torch.from_numpy(np.sign(g)) * (math.sqrt(1.0 / (1.0 - betas[1])) if run.twin else 1.0)
            found = directions(deva_linf(variant=variant, betas=betas), torch.from_numpy(g))
            yield f"ℓ∞ {variant} {betas}", relative_distance(found, expected)

    return conformity(subjects(), "corrected, constant gradient: distance from Γ = 1", run.seed)


def memory_excess(gradient: Sequence[Sequence[float]], factored: str) -> float:
    """Return the first step of the printed memory variant over that of the full rule, minus 1 (spectral norms, ε = 0)."""
    G = torch.tensor([gradient], dtype=torch.float64)
    memory = deva_spectral(preset="paper", variant="memory", eps=0.0)
    assert memory.adaptation is not None
    memory = replace(memory, adaptation=replace(memory.adaptation, factored=factored))
    sizes = [torch.linalg.matrix_norm(directions(rule, G)[0], 2) for rule in (memory, deva_spectral(preset="paper", eps=0.0))]
    return float(sizes[0] / sizes[1]) - 1.0


def memory_first_step(run: Run) -> Evidence:
    """A1-memory: the printed memory variant starts as the full rule; the control averages squares, √(EMA(r²) EMA(c²))."""
    return refutation(
        run, "paper-memory-first-step",
        "The memory variant as printed starts with steps of the size of the full rule's. False: EMA(r)EMA(c) carries (1-β2)² where "
        "EMA(r cᵀ) carries 1-β2, so its first Γ is 1/(1-β2), larger by (1-β2)^(-1/2) = 4.47 at β2 = .95; violation: that factor minus 1.",
        memory_excess, {"gradient": [[2, 1], [0, 1]], "factored": "mean"}, margin=3.4, repair={"factored": "root_mean_square"},
        summary="first step {:+.4f} relative to the full rule's",
    )


def memory_factor(run: Run) -> Evidence:
    """A1-memory-factor: the printed memory variant's first Γ is 1/(1-β2); the control says (1-β2)^(-1/2)."""
    case = Case(
        "r, c > 0, a = 1-β2", positive=("r", "c", "a"),
        steps=[equal("(r*c)/((a*r)*(a*c))", "1/a" if run.twin else "1/a**2"), equal("(r*c)/(a*(r*c))", "1/a")],
    )
    return proved([case], "Γ_1² = 1/(1-β2)² against 1/(1-β2) of the full rule", covers="first step, ε = 0",
                 shown=[["1/(1 - 19/20)", ">", "(447/100)**2"], ["1/(1 - 19/20)", "<", "(448/100)**2"]])
