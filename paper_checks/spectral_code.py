"""Whether the library runs the S∞ rule of SPEC section 3: presets, variants, the optimizer, and Muon as the variant none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.optim import DeVA
from deva_theory.rules import Rule, deva_spectral
from paper_checks.spectral_rule import VARIANTS, Array, Independent, Setting, polar, stream

TOLERANCE = 1e-6
"""Relative. Rounding, times condition numbers of nearly rank-deficient momenta up to 1e9; a wrong formula is off by percents."""


def library_steps(rule: Rule, gradients: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """Yield direction and diagnostics of every call."""
    state = rule.init(gradients[0])
    for G in gradients:
        D, state, details = rule.update(G, state, diagnostics=True)
        yield D, details


def disagreement(library: Setting, formula: Setting, gradients: Array) -> float:
    """Return the largest relative difference of directions, Γ, scales and bases over a stream, (T, m, n) or (T, B, m, n)."""
    batched = gradients if gradients.ndim == 4 else gradients[:, None]
    given = torch.from_numpy(batched if gradients.ndim == 4 else gradients)
    ours = [Independent(formula, gradients.shape[-2:]) for _ in range(batched.shape[1])]
    worst = 0.0
    for t, (D, details) in enumerate(library_steps(library.rule(), given)):
        directions, gammas = (x.numpy().reshape(batched.shape[1:]) for x in (D, details.variance_adaptation))
        left, right = (Q.numpy().reshape(batched.shape[1], *Q.shape[-2:]) for Q in details.basis)
        for b, independent in enumerate(ours):
            step = independent(batched[t, b], (left[b], right[b]))
            worst = max(worst, step.residual, _relative(directions[b], step.direction))
            worst = max(worst, _relative(gammas[b][step.live], step.gamma[step.live]))
    return worst


def _relative(found: Array, expected: Array) -> float:
    size = float(np.linalg.norm(expected))
    gap = float(np.linalg.norm(found - expected)) / (size if size > 0 else 1.0)
    return gap if math.isfinite(gap) else 1e9


def _settings(preset: str, variant: str, run: Run) -> Iterator[tuple[Setting, Array]]:
    """Yield rules and streams: every shape and kind of rank deficiency, k = 1 and more, ε that matters, the defaults."""
    rng = run.rng(VARIANTS.index(variant))
    # With ε in the numerator, or a literal sign, rounding in a null space decides: no statement about rank-deficient streams.
    literal_sign = preset == "reference" and variant in ("sign", "memory")
    base = Setting(preset, variant, betas=(0.9, 0.7), beta3=0.8, eps={"corrected": 0.05, "paper": 1e-7, "reference": 1e-7}[preset])
    yield replace(base, every=1), stream(rng, (3, 3), "full", 5, 1e-3)
    yield replace(base, every=2, nesterov=True), stream(rng, (4, 2), "full", 6, 1e-3)
    yield replace(base, every=3, nesterov=False), stream(rng, (2, 4), "full", 8, 1e-3)
    yield Setting(preset, variant), stream(rng, (3, 2), "full", 13, 1e-4)
    two = np.stack([stream(rng, (2, 3), "full", 5, size) for size in (1e-3, 1e-2)], axis=1)
    yield replace(base, every=2, beta3=None), two
    if not literal_sign:
        exact = replace(base, eps=0.0 if preset == "paper" else base.eps)
        yield replace(exact, every=2), stream(rng, (3, 3), "fixed", 6)
        yield replace(exact, every=3), stream(rng, (4, 2), "one", 8)
    if preset == "corrected":
        yield replace(base, every=2, refresh="eigh"), stream(rng, (3, 3), "full", 5)
    for k in range(run.count(0, 6)):
        shape = [(1, 3), (5, 5), (3, 1), (6, 3), (3, 6), (4, 4)][k]
        yield replace(base, every=k + 1), stream(rng, shape, "full", 25, 1e-3)


def _conforms(run: Run, preset: str, control: dict[str, Any]) -> Evidence:
    """Compare a preset in all variants; the control alters the formula, never the library."""
    gaps, cases, calls = {}, 0, 0
    for variant in VARIANTS:
        gaps[variant] = 0.0
        for setting, gradients in _settings(preset, variant, run):
            formula = replace(setting, **control) if run.twin else setting
            gaps[variant] = max(gaps[variant], disagreement(setting, formula, gradients))
            cases, calls = cases + 1, calls + len(gradients)
    return _evidence(run, max(gaps.values()), gaps, {"streams": cases, "calls": calls}, "relative difference of direction, Γ and bases")


def _evidence(run: Run, worst: float, numbers: dict[str, float], budget: dict[str, int], what: str) -> Evidence:
    # Rounding differs between machines: numbers below the tolerance are recorded as 0.
    numbers = {key: float(f"{gap:.1e}") if gap > TOLERANCE else 0.0 for key, gap in numbers.items()}
    agrees = worst <= TOLERANCE
    return Evidence(
        Verdict.SUPPORTED if agrees else Verdict.REFUTED,
        "independent implementation",
        f"{what}: {'below ' + format(TOLERANCE, 'g') if agrees else format(worst, '.3g')} in {budget['calls']} calls",
        numbers=numbers, budget=budget, seed=run.seed,
    )


def paper(run: Run) -> Evidence:
    """Algorithm 2 as printed, k = 1 and more, and its variants. Control: M' is re-rotated at a refresh."""
    return _conforms(run, "paper", {"carries": True})


def corrected(run: Run) -> Evidence:
    """The corrected preset and its variants. Control: M' stays in the old coordinates at a refresh."""
    return _conforms(run, "corrected", {"carries": False})


def reference(run: Run) -> Evidence:
    """Points (1), (3) to (5), (7), (8) of the reference contract, with exact msign. Control: no rotation back."""
    return _conforms(run, "reference", {"restores": False})


def reference_msign(run: Run) -> Evidence:
    """Point (2): five quintic steps, re-normalised first step; bfloat16 by default. Control: no re-normalisation."""
    worst, rounding, calls, same = 0.0, [], 0, True
    for k, shape in enumerate([(4, 4), (5, 2), (2, 5), *[(6, 6), (8, 3), (3, 8)][: run.count(0, 3)]]):
        gradients = stream(run.rng(k), shape, "full", 6)
        setting = Setting("reference", every=2, method="quintic")
        formula = replace(setting, method="plain quintic") if run.twin else setting
        worst = max(worst, disagreement(setting, formula, gradients))
        given = torch.from_numpy(gradients)
        default, half, double = (
            torch.stack([D for D, _ in library_steps(rule, given)])
            for rule in (
                deva_spectral(preset="reference", refresh_every=2),
                deva_spectral(preset="reference", refresh_every=2, polar="newton_schulz", polar_dtype=torch.bfloat16),
                setting.rule(),
            )
        )
        same = same and torch.equal(default, half)
        rounding.append(float((half - double).norm() / double.norm()))
        calls += len(gradients)
    # Eight bits: relative errors of 2⁻⁹ an operation, amplified by the polynomial.
    worst = worst if same and 1e-3 < min(rounding) and max(rounding) < 0.1 else 1.0
    numbers = {"float64": worst, "bfloat16, least": min(rounding), "bfloat16, largest": max(rounding)}
    return _evidence(run, worst, numbers, {"streams": len(rounding), "calls": calls}, "relative difference in float64")


def optimizer(run: Run) -> Evidence:
    """`DeVA` and `Rule.step` on parameters: order of decay and update, the call that only builds. Control: the other order."""
    rng, gaps, calls = run.rng(), {}, 0
    lr, decay = 0.25, 0.5
    for preset in ("paper", "corrected", "reference"):
        setting = Setting(preset, betas=(0.9, 0.7), beta3=0.8, eps=0.05, every=2)
        first = preset != "reference"
        formula = replace(setting, decays_first=not first if run.twin else first)
        for shape in [(3, 3), (4, 2), *[(2, 5), (6, 6)][: run.count(0, 2)]]:
            gradients = np.stack([stream(rng, shape, "full", 6) for _ in range(2)], axis=1)
            start = rng.standard_normal((2, *shape))
            found = _trained(setting, start, gradients, lr, decay)
            rule = setting.rule()
            state, X = rule.init(torch.from_numpy(start)), torch.from_numpy(start)
            expected, ours = start.copy(), [Independent(formula, shape) for _ in start]
            gap = 0.0
            for t, G in enumerate(gradients):
                _, _, details = rule.update(torch.from_numpy(G), state, diagnostics=True)
                X, state = rule.step(X, torch.from_numpy(G), state, lr=lr, weight_decay=decay)
                for b, independent in enumerate(ours):
                    D = independent(G[b], tuple(Q[b].numpy() for Q in details.basis)).direction
                    if t or first:  # (1), (6)
                        x, shrink = expected[b], 1 - lr * decay
                        expected[b] = shrink * x - lr * D if formula.decays_first else shrink * (x - lr * D)
                gap = max(gap, _relative(X.numpy(), expected), _relative(found[t], expected))
            gaps[preset] = max(gaps.get(preset, 0.0), gap)
            calls += 2 * len(gradients)
    return _evidence(run, max(gaps.values()), gaps, {"calls": calls}, "relative difference of parameters")


def _trained(setting: Setting, start: Array, gradients: Array, lr: float, decay: float) -> Iterable[Array]:
    """Return the parameters after every step of `DeVA` on two parameters of one shape."""
    params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    made = DeVA(
        params, lr, preset=setting.preset, betas=setting.betas, beta3=setting.beta3, eps=setting.eps, refresh_every=setting.every,
        weight_decay=decay, polar="svd",
    )
    found = []
    for G in gradients:
        for p, g in zip(params, G, strict=True):
            p.grad = torch.from_numpy(g)
        made.step()
        found.append(np.stack([p.detach().numpy().copy() for p in params]))
    return found


def muon(run: Run) -> Evidence:
    """Γ ≡ 1 with M' carried is 0.2 √max(m, n) msign(EMA(G)). Control: the printed preset, which does not carry M'."""
    worst, streams = 0.0, 0
    for k in range(run.count(6, 40)):
        shape = [(3, 3), (5, 2), (2, 5)][k % 3]
        gradients = stream(run.rng(k), shape, "full", 8)
        rule = deva_spectral(preset="paper" if run.twin else "corrected", variant="none", refresh_every=k % 4 + 1)
        M = np.zeros(shape)
        for G, (D, _) in zip(gradients, library_steps(rule, torch.from_numpy(gradients)), strict=True):
            M = 0.95 * M + 0.05 * G
            worst = max(worst, _relative(D.numpy(), 0.2 * math.sqrt(max(shape)) * polar(M)))
        streams += 1
    return _evidence(run, worst, {"gap": worst}, {"streams": streams, "calls": 8 * streams}, "relative difference from Muon")
