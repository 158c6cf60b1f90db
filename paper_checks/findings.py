"""The findings A1 to A5: what users of the rules meet, proved where a formula exists, measured on streams, E1 and a small network.

Streams are a constant signal plus noise (`stationary`), diagonal gradients, on which the S∞ rule is an entrywise formula
(`entrywise`, written here without the library), and the gradients of a small language model (`language_gradients`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, equal, positive, prove
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.problems import SPECTRA, TraceQuadratic, block_hessian
from deva_theory.rules import PRESETS, VARIANTS, Rule, adam, deva_linf, deva_spectral, muon
from experiments._trace_quadratic_runs import HESSIANS, Config, Instances, schedule, trajectory
from experiments._trace_quadratic_summary import win_fraction
from paper_checks.published import HETEROGENEOUS, HOMOGENEOUS, duel, exactly, finals, lead, refutation, rerun, table

# ---- streams, runs, proofs -------------------------------------------------------------------------


def directions(rule: Rule, gradients: Sequence[Tensor] | Tensor) -> Tensor:
    """Return the directions of a rule along a stream, stacked."""
    state, found = rule.init(gradients[0]), []
    for G in gradients:
        direction, state, _ = rule.update(G, state)
        found.append(direction)
    return torch.stack(found)


def stationary(
    run: Run, stream: int, shape: tuple[int, ...], *, steps: int, noise: Sequence[float] = (1.0,), seeds: int = 4
) -> Tensor:
    """Return a constant normal signal plus `noise` times as much noise, ``(steps, noises, seeds, *shape)``."""
    generator = run.generator(stream)
    signal = torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)
    noises = torch.randn(steps, 1, seeds, *shape, generator=generator, dtype=torch.float64)
    return signal + torch.tensor(noise, dtype=torch.float64).view(-1, 1, *[1] * len(shape)) * noises


@lru_cache
def language_gradients(steps: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of both layers of a character-level network along its training by Adam, float64.

    The text is the Zen of Python; 6 characters of context, embedded at random in 8 dimensions, 24 hidden units.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    text = "".join(this.d.get(c, c) for c in this.s)
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    context, width, hidden = 6, 8, 24
    embedding = normal(len(letters), width)
    layers = [normal(hidden, context * width) / math.sqrt(context * width), normal(len(letters), hidden) / math.sqrt(hidden)]
    rule = adam()
    states, gradients = [rule.init(W.flatten()) for W in layers], []
    for _ in range(steps):
        at = torch.randint(0, len(ids) - context, (batch,), generator=generator)
        x = embedding[ids[at[:, None] + torch.arange(context)]].flatten(1)
        leaves = [W.clone().requires_grad_() for W in layers]
        loss = torch.nn.functional.cross_entropy(torch.tanh(x @ leaves[0].mT) @ leaves[1].mT, ids[at + context])
        gradients.append(torch.autograd.grad(loss, leaves))
        for i, G in enumerate(gradients[-1]):
            D, states[i], _ = rule.update(G.flatten(), states[i])
            layers[i] = layers[i] - 3e-3 * D.view_as(G)
    return torch.stack([g[0] for g in gradients]), torch.stack([g[1] for g in gradients])


def entrywise(
    g: np.ndarray, preset: str, betas: tuple[float, float], eps: float, *, spectral: bool, variant: str = "full",
    nesterov: bool = False, bias_factor: bool = True,
) -> np.ndarray:
    """Return the directions of a DeVA rule coordinate by coordinate, ``(T, d)``, written from SPEC section 3.

    With `spectral`: on ``diag(g_t)``, whose eigenbases are permutations, without the shape factor. ε is relative for `corrected`,
    beside the numerator for the printed S∞ rule, and inside the root otherwise. The first call of the reference's S∞ rule is skipped.
    """
    b1, b2 = betas
    skip = spectral and preset == "reference"
    m, v, rows = np.zeros(g.shape[1]), np.zeros(g.shape[1]), []
    for t, x in enumerate(g[1:] if skip else g, start=1):
        m = b1 * m + (1 - b1) * x
        size = np.abs(m) / (1 - b1**t) if preset == "corrected" else np.abs(m)
        from_gradient = variant in ("snr", "instantaneous") or (spectral and variant == "memory" and preset == "reference")
        tracked = np.abs(x) if from_gradient else size
        above = np.abs(x) if variant == "instantaneous" else size
        if spectral and variant == "memory" and preset == "paper":
            v = b2 * v + (1 - b2) * tracked
            second = v**2
        else:
            v = b2 * v + (1 - b2) * tracked**2
            second = v / (1 - b2**t) if preset == "corrected" else v
        if preset == "corrected":
            gamma2 = above**2 / np.maximum(second, eps * second.max())
        elif preset == "paper" and spectral:
            gamma2 = (above**2 + eps) / second
        else:
            gamma2 = above**2 / (second + eps)
        ahead = (1 - b1) * x + b1 * m if nesterov else m
        factor = np.sqrt(1 - b2**t) / (1 - b1**t) if skip and bias_factor else 1.0
        rows.append(factor * (1.0 if variant == "none" else np.sqrt(gamma2)) * np.sign(ahead))
    return np.array([np.zeros(g.shape[1]), *rows] if skip else rows)


def _embedded(g: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Put the vectors of a stream on the diagonals of matrices; what is left over is zero."""
    out = torch.zeros(len(g), *shape, dtype=torch.float64)
    index = torch.arange(g.shape[1])
    out[:, index, index] = torch.from_numpy(g)
    return out


def _worst(found: Tensor, expected: Tensor) -> float:
    """Return the largest relative distance over the steps."""
    gap, size = (found - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    return float((gap / torch.where(size > 0, size, 1.0)).max())


ROUNDING = 1e-9
"""Relative tolerance of float64 runs against `entrywise`: about 1e-15 a step, amplified by eigenbases and refreshes."""

Subject = tuple[str, float]
"""A rule with its stream, and its distance from the formula."""


def conformity(subjects: Iterator[Subject], what: str, seed: int) -> Evidence:
    """Judge "the library computes this formula"."""
    worst, where, count = 0.0, "", 0
    for name, distance in subjects:
        count += 1
        if not distance <= worst:  # NaN as well
            worst, where = (distance if math.isfinite(distance) else 1e9), name
    return Evidence(
        Verdict.SUPPORTED if count and worst <= ROUNDING else Verdict.REFUTED, "independent computation",
        f"{what}: largest relative distance {worst:.2g}{f' ({where})' if where else ''}, {count} runs", numbers={"distance": worst},
        margin=ROUNDING - worst, budget={"runs": count}, seed=seed,
    )


def _spectral_run(
    g: np.ndarray, shape: tuple[int, int], preset: str, variant: str, betas: tuple[float, float], *, eps: float | None = None,
    formula_eps: float | None = None, bias_factor: bool = True, carry: str | None = None, refresh_every: int = 10,
) -> Subject:
    rule = deva_spectral(
        preset=preset, variant=variant, betas=betas, eps=eps, polar="svd" if preset == "reference" else None, refresh_every=refresh_every
    )
    if carry is not None and rule.basis is not None:
        rule = replace(rule, basis=replace(rule.basis, carry_adaptation=carry))
    default = {"corrected": 1e-16, "paper": 1e-8, "reference": 1e-8}[preset] if eps is None else eps
    expected = entrywise(
        g, preset, betas, default if formula_eps is None else formula_eps, spectral=True, variant=variant,
        nesterov=preset == "reference", bias_factor=bias_factor,
    )
    scale = 0.2 * math.sqrt(max(shape))
    found = directions(rule, _embedded(g, shape))
    return f"S∞ {preset} {variant} {shape} {betas}", _worst(found, scale * _embedded(expected, shape))


def _linf_run(
    g: np.ndarray, preset: str, variant: str, betas: tuple[float, float], *, eps: float | None = None, formula_eps: float | None = None
) -> Subject:
    rule = deva_linf(preset=preset, variant=variant, betas=betas, eps=eps)
    default = {"corrected": 1e-16, "paper": 1e-8, "reference": 1e-5}[preset] if eps is None else eps
    expected = entrywise(g, preset, betas, default if formula_eps is None else formula_eps, spectral=False, variant=variant)
    return f"ℓ∞ {preset} {variant} {betas}", _worst(directions(rule, torch.from_numpy(g)), torch.from_numpy(expected))


def proof(cases: Sequence[Case], summary: str, *, covers: str = "", shown: Sequence[Sequence[str]] = ()) -> Evidence:
    """Return PROVED with the algebra's certificate (and a "values" one for exact numbers), or REFUTED where a step fails."""
    found = prove(list(cases))
    holds = found.holds and (not shown or exactly(shown))
    certificates: list[Mapping[str, Any]] = [found.certificate] if holds else []
    if holds and shown:
        certificates.append({"type": "values", "show": [list(row) for row in shown]})
    return Evidence(
        Verdict.PROVED if holds else Verdict.REFUTED, "symbolic",
        summary if holds else f"does not hold: {found.failure or 'an exact comparison fails'}", covers=covers,
        certificates=certificates, steps=[*found.lines, *(" ".join(row) for row in shown)],
    )


# ---- A1: the first steps -------------------------------------------------------------------------------


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
    return proof(
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
        "V ≤ u³ with u = 1-b^t gives κ² ≥ 1/u² ≥ 1", positive=("u", "V"), nonnegative=("s", "z"),
        definitions={"u": "1 - z", "V": "u**3 - s"},
        steps=[at_most("1/u**2", square, because="s/(V*u**2)"), at_most("1", "1/u**2", because="z*(1 + u)/u**2")],
    )
    return proof([induction, conclusion], "κ_t ≥ 1/(1-β^t) for every t; V_0 = 0 = (1-β⁰)³ starts the induction",
                 covers="constant gradient, exact msign, ε = 0, β1 = β2; every t by induction")


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
    return proof(
        [case], "the bias factor √(1-β2^t)/(1-β1^t) is exact for a V made of raw gradients", covers="constant gradient, exact msign, ε = 0"
    )


_CONSTANT = np.array([4.0, 3.0, -2.0, 1.0])
_SHAPES = ((4, 4), (6, 4), (4, 7))
_BETAS = ((0.95, 0.95), (0.9, 0.99), (0.0, 0.9))


def reference_first_steps(run: Run) -> Evidence:
    """A1-code: the reference preset on constant gradients, every variant, against the recurrence; the control drops its bias factor."""
    g = np.tile(_CONSTANT, (run.count(14, 45), 1))
    return conformity(
        (_spectral_run(g, shape, "reference", variant, betas, eps=0.0, bias_factor=not run.twin)
         for shape, variant, betas in itertools.product(_SHAPES, VARIANTS, _BETAS)),
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


def _networks(run: Run, seeds: int) -> Iterator[Tensor]:
    """Yield the gradient streams of both layers for several batch sizes and seeds."""
    for batch, seed in itertools.product((4, 256, 32)[: run.count(2, 3)], range(seeds)):
        yield from language_gradients(run.count(160, 300), batch, run.seed + seed)


def reference_on_network(run: Run) -> Evidence:
    """A1-network: at least 15, 9 and 6 times an exact msign step on a network's gradients; the control is `corrected`."""
    rule, bounds = deva_spectral(preset="corrected" if run.twin else "reference"), (15.0, 9.0, 6.0)
    found = [_beside_exact_msign(rule, gradients[:4])[:3] for gradients in _networks(run, run.count(1, 6))]
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
    return proof([case], "Γ_1 = (1-β2)^(-1/2), for every g ≠ 0 and every β1; ε only lowers it", covers="β2 < 1",
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
        for preset, variant, betas in itertools.product(("paper", "reference"), VARIANTS, _BETAS):
            for eps in (0.0, None):
                if run.twin:
                    rule = deva_linf(preset=preset, variant=variant, betas=betas, eps=eps)
                    expected = entrywise(g, "corrected", betas, 1e-16, spectral=False, variant=variant)
                    yield preset, _worst(directions(rule, torch.from_numpy(g)), torch.from_numpy(expected))
                else:
                    yield _linf_run(g, preset, variant, betas, eps=eps)

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
    return proof([case], "the amplitude of m/(1-β1^t) is that of the gradient, and so is its corrected mean square",
                 covers="constant gradient; entries above √ε of the largest")


def corrected_first_steps(run: Run) -> Evidence:
    """A1-corrected-code: both rules, every variant, take steps of full size from the first; the control expects the printed Γ."""
    g = np.tile(_CONSTANT, (run.count(14, 45), 1))

    def subjects() -> Iterator[Subject]:
        for variant, betas in itertools.product(VARIANTS, _BETAS):
            for shape in _SHAPES:
                rule, scale = deva_spectral(variant=variant, betas=betas), 0.2 * math.sqrt(max(shape))
                signs = _embedded(np.sign(g), shape) * (math.sqrt(1.0 / (1.0 - betas[1])) if run.twin else 1.0)
                yield f"S∞ {variant} {shape} {betas}", _worst(directions(rule, _embedded(g, shape)), scale * signs)
            expected = torch.from_numpy(np.sign(g)) * (math.sqrt(1.0 / (1.0 - betas[1])) if run.twin else 1.0)
            yield f"ℓ∞ {variant} {betas}", _worst(directions(deva_linf(variant=variant, betas=betas), torch.from_numpy(g)), expected)

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
    return proof([case], "Γ_1² = 1/(1-β2)² against 1/(1-β2) of the full rule", covers="first step, ε = 0",
                 shown=[["1/(1 - 19/20)", ">", "(447/100)**2"], ["1/(1 - 19/20)", "<", "(448/100)**2"]])


# ---- A2: Γ and the noise ---------------------------------------------------------------------------------

_NOISES = (0.0, 0.3, 1.0, 3.0, 10.0)


@lru_cache
def beside_muon(preset: str, variant: str, shape: tuple[int, int], run: Run) -> tuple[list[float], list[float]]:
    """Return, for each noise level, the median Γ on the support and the mean cosine with Muon's step, past the first steps."""
    steps, seeds = run.count(160, 300), run.count(4, 8)
    rule = deva_spectral(preset=preset, variant=variant, polar=None if preset == "paper" else "svd")
    gradients = stationary(run, 11, shape, steps=steps, noise=_NOISES, seeds=seeds)
    return _beside_muon(rule, gradients, 100)


def _beside_muon(rule: Rule, gradients: Tensor, start: int) -> tuple[list[float], list[float]]:
    """Return median Γ and mean cosine for each entry of the first batch dimension, from step `start` on."""
    plain = muon(beta1=rule.moment.beta, nesterov=rule.moment.nesterov, polar="svd")
    state, other, k = rule.init(gradients[0]), plain.init(gradients[0]), min(gradients.shape[-2:])
    gammas, cosines = [], []
    for t, G in enumerate(gradients):
        builds = rule.only_builds(state)
        D, state, details = rule.update(G, state, diagnostics=t >= start)
        if builds:
            continue
        P, other, _ = plain.update(G, other)
        if details is not None:
            gammas.append(details.variance_adaptation[..., :k, :k].flatten(1))
            cosines.append(torch.cosine_similarity(D.flatten(-2), P.flatten(-2), dim=-1).flatten(1))
    return torch.cat(gammas, dim=1).median(dim=1).values.tolist(), torch.cat(cosines, dim=1).mean(dim=1).tolist()


def _shapes(run: Run) -> tuple[tuple[int, int], ...]:
    return ((12, 12), (16, 8), (8, 16), (24, 24))[: run.count(2, 4)]


def _same_stream(run: Run) -> Run:
    """Return the run as `beside_muon` is called with: a control changes the rule, not the stream."""
    return replace(run, twin=False)


_STATIONARY = "stationary streams, sides 8 to 24, steps 100 on"


def _by_noise(found: Mapping[tuple[int, int], Sequence[float]]) -> dict[str, float]:
    return {f"{m}x{n}, noise {z:g}": x for (m, n), row in found.items() for z, x in zip(_NOISES, row, strict=True)}


def constant_direction(run: Run) -> Evidence:
    """A2-constant: on a constant gradient Γ is the same in every entry, so the step is parallel to Muon's; the control adds ε."""
    eps = " + e" if run.twin else ""
    case = Case(
        "entries with amplitude² p and q", positive=("p", "q", "w", "v", "e"),
        steps=[equal(f"(w*p)/(v*p{eps})", f"(w*q)/(v*q{eps})")],
    )
    return proof([case], "Γ_ij² = w/v with weights of the two averages only", covers="constant gradient, ε = 0, msign(M') of full support")


def window(run: Run) -> Evidence:
    """A2-window: amplitudes² within [lo, hi] give Γ² within [lo/hi, hi/lo]; the control claims Γ ≤ 1."""
    mean = Case(
        "the mean stays in the range", nonnegative=("b", "a", "x", "y"), positive=("lo",), definitions={"a": "1 - b"},
        steps=[
            at_most("lo", "b*(lo + x) + a*(lo + y)", because="b*x + a*y"),
            at_most("b*(lo - x) + a*(lo - y)", "lo", because="b*x + a*y"),
        ],
    )
    most = "1" if run.twin else "hi/lo"
    ratio = Case(
        "now and mean within [lo, hi]", positive=("lo", "hi", "now", "mean"), nonnegative=("s", "p", "t", "r"),
        definitions={"now": "lo + s", "mean": "lo + p", "t": "hi - now", "r": "hi - mean"},
        steps=[
            at_most("lo/hi", "now/mean", because="(s*hi + lo*r)/(mean*hi)"),
            at_most("now/mean", most, because="(hi*p + lo*t)/(lo*mean)"),
        ],
    )
    return proof([mean, ratio], "Γ² = now/mean lies within [lo/hi, hi/lo]", covers="bias-corrected averages, ε = 0, entry by entry")


def gamma_near_one(run: Run) -> Evidence:
    """A2-gamma: the reference's median Γ is within 5% of 1 at every noise level; the control takes `snr`."""
    found = {s: beside_muon("reference", "snr" if run.twin else "full", s, _same_stream(run))[0] for s in _shapes(run)}
    values = [x for row in found.values() for x in row]
    off = max(abs(x - 1.0) for x in values)
    return Evidence(
        Verdict.SUPPORTED if off <= 0.05 else Verdict.REFUTED, "statistics",
        f"median Γ {min(values):.3f} to {max(values):.3f} over noise/signal 0 to 10", covers=_STATIONARY, numbers=_by_noise(found),
        margin=0.05 - off, budget={"streams": len(values) * run.count(4, 8)}, seed=run.seed,
    )


def near_muon(run: Run) -> Evidence:
    """A2-muon: the reference's steps have mean cosine ≥ .99 with Muon's at every noise level; the control takes the printed rule."""
    found = {s: beside_muon("paper" if run.twin else "reference", "full", s, _same_stream(run))[1] for s in _shapes(run)}
    values = [x for row in found.values() for x in row]
    return Evidence(
        Verdict.SUPPORTED if min(values) >= 0.99 else Verdict.REFUTED, "statistics",
        f"mean cosine {min(values):.4f} to {max(values):.4f} over noise/signal 0 to 10", covers=_STATIONARY, numbers=_by_noise(found),
        margin=min(values) - 0.99, budget={"streams": len(values) * run.count(4, 8)}, seed=run.seed,
    )


def near_muon_on_network(run: Run) -> Evidence:
    """A2-network: on a network's gradients median Γ is within .1 of 1 and the mean cosine ≥ .95; the control takes the printed rule."""
    rule = deva_spectral(preset="paper") if run.twin else deva_spectral(preset="reference", polar="svd")
    gammas, cosines = [], []
    for gradients in _networks(run, run.count(1, 4)):
        gamma, cosine = _beside_muon(rule, gradients[:, None, None], run.count(100, 150))
        gammas += gamma
        cosines += cosine
    off, least = max(abs(x - 1.0) for x in gammas), min(cosines)
    return Evidence(
        Verdict.SUPPORTED if off <= 0.1 and least >= 0.95 else Verdict.REFUTED, "statistics",
        f"median Γ {min(gammas):.3f} to {max(gammas):.3f}, mean cosine {least:.4f} to {max(cosines):.4f}, {len(gammas)} layers and runs",
        covers="a character-level network, batches of 4 to 256", numbers={"gamma off": off, "least cosine": least},
        margin=min(0.1 - off, least - 0.95), budget={"layers": len(gammas)}, seed=run.seed,
    )


def muon_distance(
    gradients: Sequence[Sequence[Sequence[float]]], betas: Sequence[float], preset: str, carry_momentum: bool, cosine: float
) -> float:
    """Return `cosine` minus the cosine of the S∞ rule's last step with Muon's (ε = 0, bases refreshed at every step)."""
    history = torch.tensor(gradients, dtype=torch.float64)
    rule = deva_spectral(preset=preset, betas=(betas[0], betas[1]), eps=0.0, refresh_every=1)
    assert rule.basis is not None
    rule = replace(rule, basis=replace(rule.basis, carry_momentum=carry_momentum))
    plain = muon(beta1=betas[0], nesterov=False, polar="svd")
    ours, theirs = (directions(r, history)[-1].flatten() for r in (rule, plain))
    return cosine - float(torch.cosine_similarity(ours, theirs, dim=0))


def always_near_muon(run: Run) -> Evidence:
    """A2-always: the S∞ rule is within cosine .95 of Muon on every stream; the control's stream keeps its second direction alive."""
    data = {
        "gradients": [[[2, 0], [0, 1]], [[2, 0], [0, 0]], [[2, 0], [0, 0]], [[2, 0], [0, 0]]], "betas": [0.5, 0.5], "preset": "corrected",
        "carry_momentum": True, "cosine": 0.95,
    }
    return refutation(
        run, "a2-dying-direction",
        "The S∞ rule is almost Muon (cosine ≥ .95) on every stream. False where the gradient of a direction dies out: Muon goes on with "
        "full steps along what is left of the momentum, Γ falls with it; violation: .95 minus the cosine.",
        muon_distance, data, margin=0.05, repair={"gradients": [[[2, 0], [0, 1]]] * 4}, summary="cosine {:.4f} below .95",
    )


def printed_near_muon(run: Run) -> Evidence:
    """A2-paper: the printed rule is almost Muon, too; the control carries M' into the refreshed bases."""
    gradients = [[[10, 0], [0, 9]], [[0, 3], [5, 0]]]
    data = {"gradients": gradients, "betas": [0.5, 0.5], "preset": "paper", "carry_momentum": False, "cosine": 0.95}
    measured = beside_muon("paper", "full", (12, 12), _same_stream(run))[1]
    listing = ", ".join(f"{c:.2f}" for c in measured)
    return refutation(
        run, "a2-printed-rule-loses-the-momentum",
        "The S∞ rule as printed is almost Muon (cosine ≥ .95). False where the bases turn: M' keeps its old coordinates, so that the "
        "momentum turns with the bases, here the left one by a right angle; violation: .95 minus the cosine.",
        muon_distance, data, margin=0.5, repair={"carry_momentum": True},
        summary=f"cosine {{:.3f}} below .95; mean over 12×12 streams at noise/signal 0, .3, 1, 3, 10: {listing}",
    )


def snr_sees_noise(run: Run) -> Evidence:
    """A2-snr: with `snr` the median Γ falls from 1 to below .25 as noise/signal grows from 0 to 10; the control takes the full rule."""
    found = {s: beside_muon("reference", "full" if run.twin else "snr", s, _same_stream(run)) for s in _shapes(run)}
    ok = all(g == sorted(g, reverse=True) and abs(g[0] - 1.0) < 0.01 and g[-1] < 0.25 for g, _ in found.values())
    gammas, least = next(iter(found.values()))[0], min(c for _, row in found.values() for c in row)
    return Evidence(
        Verdict.SUPPORTED if ok else Verdict.REFUTED, "statistics",
        f"median Γ {', '.join(f'{x:.2f}' for x in gammas)}; mean cosine with Muon from {least:.3f}", covers=_STATIONARY,
        numbers=_by_noise({s: g for s, (g, _) in found.items()}), margin=0.25 - max(g[-1] for g, _ in found.values()),
        budget={"streams": len(found) * len(_NOISES) * run.count(4, 8)}, seed=run.seed,
    )


def snr_without_momentum(run: Run) -> Evidence:
    """A2-snr-e1: at β1 = 0, E1's setting, `snr` is the full rule to the last bit; the control has β1 = ½."""
    betas, different, count = (0.5 if run.twin else 0.0, 0.9), 0, 0
    for i, (preset, shape) in enumerate(itertools.product(PRESETS, ((4, 4), (5, 3), (3, 5), (6, 1)))):
        gradients = stationary(run, 40 + i, shape, steps=run.count(15, 40), seeds=2)
        for build in (deva_spectral, deva_linf):
            a, b = (directions(build(preset=preset, variant=v, betas=betas), gradients) for v in ("full", "snr"))
            different += not torch.equal(a, b)
            count += 1
    return Evidence(
        Verdict.SUPPORTED if different == 0 else Verdict.REFUTED, "equality to the last bit", f"{different} of {count} runs differ",
        numbers={"different": different}, budget={"runs": count}, seed=run.seed,
    )


@lru_cache
def _tuned_on_e1(variant: str, seeds: int, lrs: tuple[float, ...], constant: bool) -> np.ndarray:
    """Return the final losses of odd seeds in E1 (β1 = .9) at the learning rate that is best on the even ones, ``(hessian, seed)``."""
    config = Config(beta1=0.9)
    instances = Instances.draw(config, seeds).repeated(len(lrs))
    rule = deva_spectral(variant=variant, betas=(0.9, 0.99), polar="newton_schulz", polar_dtype=torch.float32)
    lr = torch.tensor(lrs).repeat_interleave(2 * seeds)[:, None, None]
    factors = np.ones(config.steps) if constant else schedule(config)
    X, state = instances.X0, rule.init(instances.X0)
    for step in range(config.steps):
        gradient = TraceQuadratic.row_gradient(instances.A, X, instances.rows[step], squared=False)
        direction, state, _ = rule.update(gradient, state, check_finite=False)
        X = X - lr * factors[step] * direction
    values = TraceQuadratic(instances.H.double()).value(X.double()).reshape(len(lrs), len(HESSIANS), seeds).numpy()
    best = np.median(values[:, :, ::2], axis=2).argmin(axis=0)
    return np.stack([values[best[h], h, 1::2] for h in range(len(HESSIANS))])


def snr_helps(run: Run) -> Evidence:
    """A2-snr-helps: at a constant, tuned learning rate `snr` ends below the full rule on both Hessians; the control exchanges them."""
    seeds, lrs = run.count(20, 80), (0.0316, 0.1, 0.316)
    a, b = ("full", "snr") if run.twin else ("snr", "full")
    ours, theirs = (_tuned_on_e1(v, seeds, lrs, True) for v in (a, b))
    wins = [win_fraction(ours[h], theirs[h]) for h in range(len(HESSIANS))]
    worst = min(low for _, low, _ in wins)
    text = "; ".join(
        f"{name}: {share:.0%} of the seeds, medians {np.median(ours[h]):.3g} and {np.median(theirs[h]):.3g}"
        for h, (name, (share, _, _)) in enumerate(zip(HESSIANS, wins, strict=True))
    )
    if run.full:
        decayed = [_tuned_on_e1(v, seeds, lrs, False) for v in (a, b)]
        shares = [win_fraction(x, y) for x, y in zip(*decayed, strict=True)]
        text += "; with E1's decaying schedule: " + ", ".join(f"{share:.0%} (interval from {low:.2f})" for share, low, _ in shares)
    return Evidence(
        Verdict.SUPPORTED if worst > 0.5 else Verdict.REFUTED, "paired Wilson intervals", f"{a} below {b}: {text}",
        covers="E1 with β1 = .9 and a constant learning rate chosen on even seeds", numbers={"interval from": worst}, margin=worst - 0.5,
        budget={"seeds": seeds // 2, "runs": 4 * seeds * len(lrs)},
    )


def refresh_carries(run: Run) -> Evidence:
    """A2-refresh-code: a refresh carries M' exactly and V with its columns; the control's rules leave both as they are.

    M': without adaptation the rule is Muon, here an EMA and NumPy's SVD. V: diagonal gradients whose order turns.
    """
    rng = run.rng(5)

    def subjects() -> Iterator[Subject]:
        for preset, shape, refresh in itertools.product(("corrected", "reference"), ((4, 4), (5, 3), (3, 5)), ("qr", "eigh", "rotation")):
            rule = deva_spectral(preset=preset, variant="none", polar="svd", refresh=refresh, refresh_every=3, betas=(0.9, 0.8))
            if run.twin and rule.basis is not None:
                rule = replace(rule, basis=replace(rule.basis, carry_momentum=False))
            gradients = rng.standard_normal((run.count(10, 30), *shape))
            gap, m, t = 0.0, np.zeros(shape), 0
            found = directions(rule, torch.from_numpy(gradients)).numpy()
            for i, G in enumerate(gradients):
                if preset == "reference" and i == 0:
                    continue
                t += 1
                m = 0.9 * m + 0.1 * G
                U, _, Vt = np.linalg.svd(0.1 * G + 0.9 * m if preset == "reference" else m, full_matrices=False)
                bias = math.sqrt(1 - 0.8**t) / (1 - 0.9**t) if preset == "reference" else 1.0
                expected = bias * 0.2 * math.sqrt(max(shape)) * U @ Vt
                gap = max(gap, float(np.linalg.norm(found[i] - expected) / np.linalg.norm(expected)))
            yield f"none {preset} {shape} {refresh}", gap
        sizes = np.array([8.0, 4.0, 2.0, 1.0])
        turning = np.stack([(sizes if t < 6 else sizes[::-1]) * (1 + 0.1 * rng.standard_normal(4)) for t in range(run.count(16, 45))])
        for preset, variant, shape in itertools.product(("corrected", "reference"), ("full", "memory", "instantaneous", "snr"), _SHAPES):
            if (preset, variant) == ("reference", "memory"):
                continue  # its literal sign turns an entry of 5e-16 beside the diagonal into ±1
            carry = "none" if run.twin else None
            yield _spectral_run(turning, shape, preset, variant, (0.9, 0.8), carry=carry, refresh_every=4)

    return conformity(subjects(), "after refreshes", run.seed)


# ---- A3: the scale of the gradients ------------------------------------------------------------------------

_SCALES = (1e-3, 1e-4, 1e-5)


def linf_bound(run: Run) -> Evidence:
    """A3-linf: on gradients times s, Γ ≤ s|m|/√ε with ε inside the root; the control makes ε relative."""
    eps = "e*s**2" if run.twin else "e"
    case = Case(
        "momentum s·m, second moment s²·v", positive=("s", "m", "v", "e"),
        steps=[at_most(f"(s*m)**2/(s**2*v + {eps})", "s**2*m**2/e", because="s**2*m**2*s**2*v/(e*(s**2*v + e))")],
    )
    summary = "Γ² ≤ s²m²/ε: the step vanishes with the scale of the gradients"
    return proof([case], summary, covers="ℓ∞ as printed and in the reference, any β1, β2, any history")


def printed_growth(run: Run) -> Evidence:
    """A3-paper-growth: with ε beside rcᵀ, Γ² exceeds its value at ε = 0 by ε/(s²V); the control puts ε inside the root."""
    gamma = "s**2*q/(s**2*V + e)" if run.twin else "(s**2*q + e)/(s**2*V)"
    case = Case("amplitude² s²q, second moment s²V", positive=("s", "q", "V", "e"), steps=[equal(f"{gamma} - q/V", "e/(s**2*V)")])
    return proof([case], "Γ² = q/V + ε/(s²V): the step grows without bound as the gradients shrink", covers="S∞ as printed, any history")


def _mean_step(rule: Rule, gradients: Tensor) -> float:
    """Return the mean norm of the last 20 steps."""
    found = torch.linalg.matrix_norm(directions(rule, gradients)[-20:])
    return float(found.mean())


def _shrinkage(rule: Rule, gradients: Tensor) -> list[float]:
    base = _mean_step(rule, gradients)
    return [_mean_step(rule, gradients * s) / base for s in _SCALES]


def linf_shrinks(run: Run) -> Evidence:
    """A3-linf-stream: steps of the reference's ℓ∞ rule fall below 1/10, 1/100, 1/1000; the control takes `corrected`."""
    rule = deva_linf(preset="corrected" if run.twin else "reference", event_ndim=2)
    rows = [_shrinkage(rule, stationary(run, 20 + i, s, steps=60, seeds=run.count(4, 40))) for i, s in enumerate(((5, 5), (16, 16)))]
    worst = max(x / limit for row in rows for x, limit in zip(row, (0.1, 0.01, 0.001), strict=True))
    longer = _shrinkage(rule, stationary(run, 20, (5, 5), steps=run.count(400, 4000), seeds=1)) if run.full else []
    late = f"; after 4000 steps {', '.join(f'{x:.2g}' for x in longer)}" if longer else ""
    return Evidence(
        Verdict.SUPPORTED if worst <= 1.0 else Verdict.REFUTED, "statistics",
        f"relative steps {', '.join(f'{x:.2g}' for x in rows[0])} at scales 1e-3, 1e-4, 1e-5 after 60 steps{late}",
        covers="constant signal plus equal noise, β2 = .999, 60 steps",
        numbers={f"scale {s:g}": x for s, x in zip(_SCALES, rows[0], strict=True)}, margin=1.0 - worst,
        budget={"streams": 2 * run.count(4, 40)}, seed=run.seed,
    )


def linf_shrinks_most(run: Run) -> Evidence:
    """A3-most: the reference's ℓ∞ rule loses more than its S∞ rule at each scale; the control exchanges them."""
    rules = [deva_linf(preset="reference", event_ndim=2), deva_spectral(preset="reference", polar="svd")]
    if run.twin:
        rules.reverse()
    gradients = stationary(run, 22, (5, 5), steps=60, seeds=run.count(3, 40))
    first, second = (_shrinkage(rule, gradients) for rule in rules)
    margin = min(math.log10(b / a) for a, b in zip(first, second, strict=True))
    return Evidence(
        Verdict.SUPPORTED if margin > 0 else Verdict.REFUTED, "statistics",
        f"relative steps {', '.join(f'{x:.2g}' for x in first)} against {', '.join(f'{x:.2g}' for x in second)} at scales 1e-3, 1e-4, 1e-5",
        covers="constant signal plus equal noise, 5×5, 60 steps", numbers={"decades": margin}, margin=margin,
        budget={"streams": run.count(3, 40)}, seed=run.seed,
    )


def step_growth(gradient: Sequence[Sequence[float]], scale: float, preset: str) -> float:
    """Return the first S∞ step on scale·G over that on G, minus 1; the reference's first call is not a step."""
    G = torch.tensor(gradient, dtype=torch.float64)
    rule = deva_spectral(preset=preset, polar="svd")
    small, plain = (torch.linalg.matrix_norm(directions(rule, [c * G, c * G])[-1]) for c in (scale, 1.0))
    return float(small / plain) - 1.0


def printed_step_grows(run: Run) -> Evidence:
    """A3-paper: smaller gradients never give a larger S∞ step; the control takes the reference's ε."""
    return refutation(
        run, "a3-printed-step-grows",
        "Smaller gradients never give larger steps. False for the S∞ rule as printed, with ε beside r cᵀ in the numerator: the 1×1 "
        "gradient 1/1000 against 1; violation: ratio of the second steps minus 1.",
        step_growth, {"gradient": [[1.0]], "scale": 1e-3, "preset": "paper"}, margin=0.2, repair={"preset": "reference"},
        summary="relative size {:+.4f} for a gradient a thousand times smaller",
    )


def scale_change(gradients: Sequence[Sequence[Sequence[float]]], scale: float, geometry: str, preset: str, dtype: str) -> float:
    """Return the largest relative change of a step when the gradients are multiplied by `scale`, minus the allowed 1e-4."""
    history = torch.tensor(gradients, dtype=torch.float64)
    rule: Rule = deva_linf(preset=preset, event_ndim=2) if geometry == "linf" else deva_spectral(preset=preset, polar="svd")
    plain, scaled = (directions(rule, (history * c).to(getattr(torch, dtype))).double() for c in (1.0, scale))
    return _worst(scaled, plain) - 1e-4


def reference_scale(run: Run) -> Evidence:
    """A3-invariant: the reference's ℓ∞ step does not depend on the gradients' scale; the control takes `corrected`."""
    data = {"gradients": [[[1.0]]], "scale": 1e-3, "geometry": "linf", "preset": "reference", "dtype": "float64"}
    return refutation(
        run, "a3-scale",
        "The update does not depend on the scale of the gradients. False for the reference's ℓ∞ rule: ε = 1e-5 is absolute, and g = 1/1000 "
        "moves a fraction of g = 1; violation: relative change of the step beyond 1e-4.",
        scale_change, data, margin=0.5, repair={"preset": "corrected"}, summary="relative change {:+.4f} beyond 1e-4",
    )


def corrected_scale(run: Run) -> Evidence:
    """A3-corrected: with ε relative to the largest entry of V̂, Γ does not change with the scale; the control makes ε absolute."""
    floor = "e*top" if run.twin else "e*s**2*top"
    cases = [
        Case("entry above the floor", positive=("s", "q", "v"), steps=[equal("s**2*q/(s**2*v)", "q/v")]),
        Case("entry at the floor ε·max V̂", positive=("s", "q", "e", "top"), steps=[equal(f"s**2*q/({floor})", "q/(e*top)")]),
        Case("the same entries are at the floor", positive=("s",), real=("v", "e", "top"),
             steps=[equal(f"s**2*v - {floor}", "s**2*(v - e*top)")]),
    ]
    return proof(cases, "s² cancels in both cases, and max(s²v, s²ε top) = s² max(v, ε top)", covers="exact arithmetic, any history, s > 0")


def corrected_scale_of_library(run: Run) -> Evidence:
    """A3-corrected-code: steps change by less than 1e-4 under scales 1e-6 to 1e3, in both dtypes; the control takes the reference."""
    worst, where, count = 0.0, "", 0
    preset, variants = ("reference", ("full",)) if run.twin else ("corrected", VARIANTS)
    for i, (shape, dtype) in enumerate(itertools.product(((4, 4), (8, 3), (3, 8)), (torch.float64, torch.float32))):
        gradients = stationary(run, 50 + i, shape, steps=run.count(14, 35), seeds=run.count(2, 6)).to(dtype)
        batch = torch.stack([gradients * s for s in (1.0, 1e-6, 1e-3, 1e3)], dim=1)
        for variant in variants:
            for rule in (deva_spectral(preset=preset, variant=variant), deva_linf(preset=preset, variant=variant, event_ndim=2)):
                found = directions(rule, batch).double().movedim(1, 0).flatten(2, 3)
                gap = max(_worst(found[k].flatten(0, 1), found[0].flatten(0, 1)) for k in range(1, len(found)))
                count += len(found) - 1
                if not gap <= worst:
                    worst, where = gap, f"{rule.name} {shape} {dtype}"
    return Evidence(
        Verdict.SUPPORTED if worst <= 1e-4 else Verdict.REFUTED, "comparison of runs",
        f"largest relative change {worst:.2g} ({where}), {count} runs", covers="full-rank streams; exceptions in float32: A3-float32",
        numbers={"change": worst}, margin=1e-4 - worst, budget={"runs": count}, seed=run.seed,
    )


def scale_attack() -> SearchProblem:
    """Search problem of A3-corrected-code: a short stream on which the corrected S∞ step changes with the scale in float64."""
    rule = deva_spectral()

    def violation(x: Tensor) -> Tensor:
        plain, scaled = (directions(rule, (x * c).movedim(1, 0)) for c in (1.0, 1e-3))
        gap, size = ((d.flatten(2).norm(dim=2)) for d in (scaled - plain, plain))
        return (gap / torch.where(size > 0, size, 1.0)).max(dim=0).values - 1e-4

    return SearchProblem(
        shape=(4, 3, 3), violation=violation, differentiable=False, variable_length=True, margin=1e-4, name="a3-corrected-scale",
        statement="The corrected S∞ step does not change by more than 1e-4 when the gradients are multiplied by 1e-3 (float64).",
        replay="paper_checks.findings:scale_change",
        data=lambda x: {"gradients": x.tolist(), "scale": 1e-3, "geometry": "spectral", "preset": "corrected", "dtype": "float64"},
    )


def corrected_float32(run: Run) -> Evidence:
    """A3-float32: the corrected step keeps to 1e-4 in float32 for every gradient; the control computes in float64."""
    data = {
        "gradients": [[[1, 1.000001, 1], [1, 1, 1.000002], [1.000003, 1, 1]]], "scale": 3.0, "geometry": "spectral",
        "preset": "corrected", "dtype": "float32",
    }
    return refutation(
        run, "a3-float32-ill-conditioned",
        "In float32 the corrected S∞ step changes by less than 1e-4 under a change of scale. False for ill-conditioned gradients: the "
        "entries of 3G are rounded anew, which turns the singular vectors of the two small singular values, about 1e-6 of the largest, "
        "and msign makes those values 1; violation: change beyond 1e-4.",
        scale_change, data, margin=1e-3, repair={"dtype": "float64"}, summary="relative change {:+.2g} beyond 1e-4",
    )


def formulas_with_eps(run: Run) -> Evidence:
    """A3-code: every preset with its ε at scales 1 to 1e-5, against the formulas; the control takes ten times the ε in the formulas."""
    rng = run.rng(6)
    # The last entry lies below √1e-3 of the largest: there the relative ε is the floor.
    g = np.array([8.0, 4.0, 2.0, 0.1]) * (1.0 + 0.1 * rng.standard_normal((run.count(13, 40), 4)))

    def subjects() -> Iterator[Subject]:
        for scale, preset, variant in itertools.product((1.0, 1e-3, 1e-5), PRESETS, ("full", "memory", "instantaneous", "snr")):
            for eps in (None, 1e-3):
                default = {"corrected": 1e-16, "paper": 1e-8, "reference": 1e-8}[preset] if eps is None else eps
                wrong = 10 * default if run.twin else None
                for betas, shape in ((_BETAS[1], (4, 4)), ((0.9, 0.9), (6, 4))):
                    if shape != (4, 4) and preset == "paper":
                        continue  # ε in the numerator meets rows of rounding there: A3-sign-of-rounding
                    yield _spectral_run(scale * g, shape, preset, variant, betas, eps=eps, formula_eps=wrong)
                wrong = 10 * ({"corrected": 1e-16, "paper": 1e-8, "reference": 1e-5}[preset] if eps is None else eps) if run.twin else None
                yield _linf_run(scale * g * rng.choice([-1.0, 1.0], g.shape), preset, variant, _BETAS[1], eps=eps, formula_eps=wrong)

    return conformity(subjects(), "presets with their ε", run.seed)


def rounding_growth(gradients: Sequence[Sequence[Sequence[float]]], eps: float, betas: Sequence[float], sign_floor: bool) -> float:
    """Return the largest first step of the printed sign variant over that of exact arithmetic, minus 1; gradients m×1."""
    G = torch.tensor(gradients, dtype=torch.float64)
    rule = deva_spectral(preset="paper", variant="sign", betas=(betas[0], betas[1]), eps=eps)
    rule = replace(rule, scale_invariant=replace(rule.scale_invariant, sign_floor=sign_floor))
    found = torch.linalg.matrix_norm(directions(rule, G.unsqueeze(0))[0])
    # In exact arithmetic M' = (r, 0)ᵀ: the second row has V = 0, hence Γ = 0, and msign(sign(M')) = (±1, 0)ᵀ.
    square = ((1.0 - betas[0]) * torch.linalg.matrix_norm(G)) ** 2
    exact = 0.2 * math.sqrt(G.shape[-2]) * ((square + eps) / ((1.0 - betas[1]) * square)).sqrt()
    return float((found / exact).max()) - 1.0


def sign_of_rounding(run: Run) -> Evidence:
    """A3-sign-of-rounding: with ε > 0 the printed S∞ rule takes bounded steps; the control's sign has a floor."""
    # For which of the ten gradients eigh leaves an exact zero is up to LAPACK.
    data = {"gradients": [[[1e-4], [k * 1e-4]] for k in range(1, 11)], "eps": 1e-8, "betas": [0.95, 0.95], "sign_floor": False}
    return refutation(
        run, "paper-sign-of-rounding",
        "With ε > 0 the S∞ rule as printed takes bounded steps. False for the sign variant on a rank-deficient gradient, say 2×1: row 2 of "
        "M' = Q_LᵀGQ_R is zero only up to rounding, r_2 c ~ 1e-24. sign turns it into ±1, and ε beside r cᵀ in the numerator, 1e-8, is "
        "not in V = (1-β2) r_2 c, so Γ = √((r_2 c+ε)/V) ~ 1e8 or more. Violation: step norm over that of exact arithmetic, minus 1, worst "
        "of ten gradients 1e-4·(1, k).",
        rounding_growth, data, margin=1e6, repair={"sign_floor": True}, rounding=1e-6,
        summary="largest step over that of exact arithmetic, minus 1: {:.3g}",
    )


# ---- A4: the lengths of steps ------------------------------------------------------------------------------


def shape_factors(run: Run) -> Evidence:
    """A4-shape: on a constant gradient with β1 = 0 Muon moves exactly 5 times as far; the control leaves out the bias factor.

    The squared S∞ step is ``(k/5)² · w · q²/(q²w)``: bias factor² w = 1-β2^t, amplitude² q², second moment q²w, k = √max(m, n).
    """
    bias = "1" if run.twin else "w"
    case = Case("β1 = 0", positive=("k", "q", "w"), steps=[equal(f"k**2/((k/5)**2*{bias}*(q**2/(q**2*w)))", "25")])
    summary = "√max(m,n) against 0.2 √max(m,n), Γ and the bias factor cancel"
    return proof([case], summary, covers="constant gradient, β1 = 0, exact msign, ε = 0")


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


# ---- A5: the unsquared loss ----------------------------------------------------------------------------------


def expected_gradient(A: Tensor, X: Tensor, rows: int, *, squared: bool = False) -> Tensor:
    """Return E ĝ exactly: the mean over all ``m^rows`` draws, grouped by which rows they contain."""
    m = A.shape[-1]
    draws = list(itertools.combinations_with_replacement(range(m), rows))
    weight = [math.factorial(rows) / math.prod(math.factorial(draw.count(i)) for i in set(draw)) / m**rows for draw in draws]
    index = torch.tensor(draws).expand(*A.shape[:-2], -1, -1)
    gradients = TraceQuadratic.row_gradient(A.unsqueeze(-3), X.unsqueeze(-3), index, squared=squared)
    return (gradients * torch.tensor(weight, dtype=A.dtype)[:, None, None]).sum(-3)


def homogeneous_gradient(run: Run) -> Evidence:
    """A5-homogeneous: ĝ(cX) = ĝ(X) for c > 0; the control takes the squared loss.

    Residual entries e1, e2 (the others alike), r their 2-norm; every entry of ĝ is a sum of terms k·e/r.
    """
    over, over_scaled = ("", "") if run.twin else ("/r", "/(c*r)")
    case = Case(
        "e1 ≠ 0, its sign absorbed in k", positive=("c", "e1", "r"), real=("e2", "k"), squares={"r": "e1**2 + e2**2"},
        steps=[
            equal("(c*e1)**2 + (c*e2)**2", "(c*r)**2"), positive("c*r"),
            equal(f"k*(c*e1){over_scaled}", f"k*e1{over}"), equal(f"k*(c*e2){over_scaled}", f"k*e2{over}"),
        ],
    )
    return proof([case], "the residual A_bX and its norm scale alike, so ĝ has degree 0 in X", covers="A_bX ≠ 0, every draw of rows")


def euler(run: Run) -> Evidence:
    """A5-loss: <ĝ, X> is the sampled loss itself, degree 1, so ‖ĝ‖ ≥ loss/‖X‖; the control takes the squared loss's gradient."""
    over = "" if run.twin else "/r"
    case = Case(
        "k = ½ m/b, residual entries e1, e2", positive=("e1", "r", "k"), real=("e2",), squares={"r": "e1**2 + e2**2"},
        steps=[equal(f"k*(e1*e1 + e2*e2){over}", "k*r"), positive("k*r")],
    )
    summary = "<ĝ, X> = ½ (m/b) ‖A_bX‖_F > 0: ĝ does not vanish near the minimum"
    return proof([case], summary, covers="A_bX ≠ 0; <A_bᵀA_bX, X> = ‖A_bX‖² written in entries")


def expected_norm(run: Run) -> Evidence:
    """A5-scale: ‖E ĝ‖ is 45 to 65 at N(0,1) entries times 1, 1e-4, 1e-8, all draws enumerated; the control takes the squared loss."""
    low, high, ratio, count = math.inf, 0.0, 0.0, 0
    for name, seed in itertools.product(SPECTRA, range(run.count(4, 40))):
        rng = run.rng(100 + seed)
        H = torch.from_numpy(block_hessian(SPECTRA[name], rng))
        problem, X = TraceQuadratic(H), torch.from_numpy(rng.standard_normal((9, 9)))
        A = problem.root()
        for scale in (1.0, 1e-4, 1e-8):
            size = float(torch.linalg.matrix_norm(expected_gradient(A, scale * X, 3, squared=run.twin)))
            low, high, count = min(low, size), max(high, size), count + 1
            ratio = max(ratio, float(torch.linalg.matrix_norm(problem.gradient(scale * X))) if scale == 1e-8 else 0.0)
    return Evidence(
        Verdict.SUPPORTED if low >= 45.0 and high <= 65.0 else Verdict.REFUTED, "exact expectation, 729 draws",
        f"‖E ĝ‖ {low:.4g} to {high:.4g} at all scales of X; ‖∇f‖ at most {ratio:.2g} at 1e-8",
        covers="E1's Hessians and starting points, b = 3", numbers={"least": low, "most": high, "true gradient": ratio},
        margin=min(low - 45.0, 65.0 - high), budget={"expectations": count}, seed=run.seed,
    )


def norm_shortfall(eigenvalues: Sequence[float], X: Sequence[Sequence[float]], rows: int) -> float:
    """Return 25 minus ‖E ĝ‖ at X for the diagonal Hessian with these eigenvalues."""
    A = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64).sqrt())
    return 25.0 - float(torch.linalg.matrix_norm(expected_gradient(A, torch.tensor(X, dtype=torch.float64), rows)))


def everywhere(run: Run) -> Evidence:
    """A5-everywhere: ‖E ĝ‖ is at least 25 at every X ≠ 0; the control takes the all-ones column, which has every eigenvector."""
    spectrum = [x for block in SPECTRA[HETEROGENEOUS] for x in block]
    data = {"eigenvalues": spectrum, "X": [[float(i == 0)] for i in range(len(spectrum))], "rows": 3}
    return refutation(
        run, "a5-small-at-an-eigenvector",
        "‖E ĝ‖ stays near 50 (at least 25) wherever X ≠ 0. False: at an eigenvector of the smallest eigenvalue of E1's Hessian (blocks "
        "diagonal) it is below 1; violation: 25 minus ‖E ĝ‖.",
        norm_shortfall, data, margin=20.0, repair={"X": [[1.0] for _ in spectrum]}, summary="25 - ‖E ĝ‖ = {:.3f}",
    )


def along_runs(run: Run) -> Evidence:
    """A5-runs: over E1's runs ‖∇f‖ falls to under 1/50 and ‖E ĝ‖ keeps over 1/20; the control runs on the squared loss."""
    config, seeds = Config(), run.count(4, 20)
    instances = Instances.draw(config, seeds)
    A, problem = instances.A.double(), TraceQuadratic(instances.H.double())

    def sizes(X: Tensor) -> tuple[Tensor, Tensor]:
        mean, true = expected_gradient(A, X.double(), config.rows, squared=run.twin), problem.gradient(X.double())
        return torch.linalg.matrix_norm(mean), torch.linalg.matrix_norm(true)

    start, kept, fallen, text = sizes(instances.X0), math.inf, 0.0, []
    for method in ("adam", "deva_linf", "deva_spectral"):
        *_, (_, X, _) = trajectory(method, instances, config.lr, config, squared=run.twin, matched=False)
        now = sizes(X)
        mean, true = ((a / b).reshape(len(HESSIANS), seeds).median(dim=1).values for a, b in zip(now, start, strict=True))
        kept, fallen = min(kept, float(mean.min())), max(fallen, float(true.max()))
        text.append(f"{method} {float(mean.min()):.2f}")
    return Evidence(
        Verdict.SUPPORTED if kept >= 0.05 and fallen <= 0.02 else Verdict.REFUTED, "statistics, exact expectation",
        f"‖∇f‖ falls to {fallen:.2g} of its first value or less, ‖E ĝ‖ keeps {kept:.2g} or more ({', '.join(text)})",
        covers="E1, last step, median over seeds",
        numbers={"kept": kept, "fallen": fallen}, margin=min(kept - 0.05, 0.02 - fallen), budget={"runs": 6 * seeds},
    )


def bias_of_gradient(root: Sequence[Sequence[float]], X: Sequence[Sequence[float]], rows: int, squared: bool) -> float:
    """Return ``‖E ĝ - ∇f‖/‖∇f‖`` for H = AᵀA, A the root, all draws enumerated."""
    A, point = (torch.tensor(x, dtype=torch.float64) for x in (root, X))
    true = A.mT @ (A @ point)
    return float(torch.linalg.matrix_norm(expected_gradient(A, point, rows, squared=squared) - true) / torch.linalg.matrix_norm(true))


def unbiased(run: Run) -> Evidence:
    """A5-unbiased: the published stochastic gradient is an unbiased gradient of f; the control squares the loss."""
    data = {"root": [[1.0, 0.0], [0.0, 2.0]], "X": [[2.0], [1.0]], "rows": 1, "squared": False}
    return refutation(
        run, "a5-biased",
        "The stochastic gradient of E1 is an unbiased gradient of ½tr(XᵀHX). False: it is that of the unsquared loss; H = diag(1, 4), "
        "X = (2, 1)ᵀ, one row: E ĝ = (½, 1)ᵀ, ∇f = (2, 4)ᵀ; violation: relative distance.",
        bias_of_gradient, data, margin=0.5, repair={"squared": True}, summary="‖E ĝ - ∇f‖/‖∇f‖ = {:.4f}",
    )


def sampled_gradients(run: Run) -> Evidence:
    """A5-code: `row_gradient` is the derivative of the sampled loss, and the squared one's mean is HX; the control swaps the losses."""
    rng = run.rng(7)

    def subjects() -> Iterator[Subject]:
        for m, n, b, squared in itertools.product((2, 9), (1, 4), (1, 3), (False, True)):
            root = rng.standard_normal((m, m))
            A, X = torch.from_numpy(root + root.T), torch.from_numpy(rng.standard_normal((m, n)))
            for _ in range(run.count(2, 20)):
                draw = torch.from_numpy(rng.integers(0, m, b))
                leaf = X.clone().requires_grad_()
                norm = (A[draw] @ leaf).square().sum()
                loss = 0.5 * m / b * (norm if squared else norm.sqrt())
                (expected,) = torch.autograd.grad(loss, leaf)
                found = TraceQuadratic.row_gradient(A, X, draw, squared=squared != run.twin)
                yield f"{m}×{n}, {b} rows, squared {squared}", float((found - expected).norm() / expected.norm())
            true = A.mT @ A @ X
            yield f"mean, {m}×{n}, {b} rows", float((expected_gradient(A, X, b, squared=not run.twin) - true).norm() / true.norm())

    return conformity(subjects(), "sampled gradients", run.seed)
