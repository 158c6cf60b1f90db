"""From vectors to matrices: where the S∞ rule on diag(g) is the ℓ∞ rule on g, and where it is not (SPEC M7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.rules import Rule, StepScale, deva_linf, deva_spectral
from paper_checks.arrays import tensor
from paper_checks.matrix_code import PRESETS, VARIANTS, Array, Comparison, ema, root_ratio, run_rule
from paper_checks.matrix_search import ROUNDING, Rows, enumerated, integers


def _distances(history: Tensor, spectral: Rule, linf: Rule) -> Tensor:
    """Return, per batch element of ``(T, B, d)``, the largest difference over the largest entry of the ℓ∞ direction."""
    vectors = torch.diag_embed(torch.stack([direction for direction, _ in run_rule(linf, history)]))
    difference = torch.stack([direction for direction, _ in run_rule(spectral, torch.diag_embed(history))]) - vectors
    size = vectors.abs().amax((0, 2, 3))
    return difference.abs().amax((0, 2, 3)) / torch.where(size > 0, size, 1.0)


def _without_shape(rule: Rule) -> Rule:
    """Return the rule on the coordinates themselves, without shape and bias factors."""
    return replace(rule, basis=None, step_scale=StepScale())


def diagonal_gaps(
    history: Tensor, *, betas: Sequence[float], preset: str, variant: str = "full", eps: float | None = None,
    nesterov: bool | None = None,
) -> Tensor:
    """Return `_distances` of S∞ on diag(g), identity bases and exact msign, from ℓ∞ full on g; other options as given."""
    beta1, beta2 = betas
    spectral = deva_spectral(preset=preset, variant=variant, betas=(beta1, beta2), eps=eps, polar="svd", nesterov=nesterov)
    return _distances(history, _without_shape(spectral), deva_linf(preset=preset, betas=(beta1, beta2), eps=eps, nesterov=nesterov))


def diagonal_gap(*, history: Rows, **options: Any) -> float:
    """Return the relative distance of the two rules on one history ``(T, d)``."""
    return float(diagonal_gaps(tensor(history).unsqueeze(1), **options))


def _transition(run: Run, points: Tensor, margin: float, options: dict[str, Any], **words: str) -> Evidence:
    """Enumerate histories ``(B, T, 1)`` of one coordinate."""
    return enumerated(
        run, points, lambda x: diagonal_gaps(x.movedim(1, 0), **options), margin, replay="matrix_transition:diagonal_gap",
        data=lambda x: {"history": x} | options, **words,
    )


def memory(run: Run) -> Evidence:
    """The printed memory variant on diagonals is the ℓ∞ rule too; the repair: the `corrected` memory variant is."""
    options = {"betas": [0.0, 0.5], "preset": "corrected" if run.twin else "paper", "variant": "memory", "eps": 0.0}
    return _transition(
        run, integers(range(-3, 4), (3, 1) if run.twin else (1, 1)), 0.1, options, name="M7-memory",
        statement="The memory variant as printed, V_ij = EMA(r)_i EMA(c)_j, is the ℓ∞ rule on diagonal matrices. False: (EMA|m|)² is not "
        "EMA(m²), and at the first step it has the weight (1-β2)² for 1-β2; violation: relative distance.",
        summary="S∞ memory as printed is ℓ∞ on diagonals", repair="S∞ memory, corrected, is ℓ∞ on diagonals",
    )


def nesterov(run: Run) -> Evidence:
    """With each geometry's default for Nesterov the `reference` presets agree; the repair: with Nesterov in both."""
    options: dict[str, Any] = {"betas": [0.5, 0.5], "preset": "reference", "eps": 0.0, "nesterov": True if run.twin else None}
    return _transition(
        run, integers(range(-4, 5) if run.full else range(-3, 4), (2, 1)), 0.1, options, name="M7-nesterov",
        statement="With the reference's own defaults, Nesterov on in S∞ and off in ℓ∞, the rules agree on diagonal matrices. False: msign "
        "sees (1-β1)g + β1 m, whose sign can differ from that of m; violation: relative distance.",
        summary="reference S∞ and ℓ∞ agree on diagonals, Nesterov as each has it", repair="they agree with Nesterov in both",
    )


def printed_eps(run: Run) -> Evidence:
    """As printed, with ε = 1e-8 in each, the rules agree on diagonals; the repair: ε = 0."""
    options = {"betas": [0.0, 0.95], "preset": "paper", "eps": 0.0 if run.twin else 1e-8}
    sizes = tensor([[[10.0**-k]] for k in range(9)])
    return _transition(
        run, sizes, 0.5, options, name="M7-printed-eps",
        statement="On diag(g) the S∞ rule as printed is the ℓ∞ rule as printed. False: ε = 1e-8 enlarges the numerator of the one, "
        "(r c + ε)/V, and the denominator of the other, m²/(v + ε); violation: relative distance at one step.",
        summary="the printed rules agree on diagonals", repair="at ε = 0 they agree",
    )


CONDITIONS = ("identity bases", "exact msign", "ε = 0", "no shape factor")


def _as_printed(history: Tensor, betas: tuple[float, float], met: Sequence[str]) -> float:
    """Return the distance of S∞ as printed from ℓ∞ as printed, after the repairs in `met`."""
    eps = 0.0 if "ε = 0" in met else None
    rule = deva_spectral(preset="paper", betas=betas, eps=eps, polar="svd" if "exact msign" in met else "newton_schulz")
    rule = replace(rule, basis=None if "identity bases" in met else rule.basis)
    rule = replace(rule, step_scale=StepScale() if "no shape factor" in met else rule.step_scale)
    return float(_distances(history, rule, deva_linf(preset="paper", betas=betas, eps=eps)).max())


def seamless(run: Run) -> Evidence:
    """S∞ on diag(g) is ℓ∞ on g after four repairs, each of them needed; twin: one is left out, the shape factor."""
    history = 1e-3 * torch.randn(12, run.count(4, 32), 4, generator=run.generator(26), dtype=torch.float64)
    conditions = CONDITIONS[:-1] if run.twin else CONDITIONS
    repaired = _as_printed(history, (0.9, 0.99), conditions)
    missing = {c: _as_printed(history, (0.9, 0.99), [d for d in conditions if d != c]) for c in conditions}
    unrepaired = _as_printed(history, (0.9, 0.99), [])
    if repaired > 1e-3:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.HOLDS_IF if repaired <= ROUNDING and min(missing.values()) > 1e-3 else Verdict.INCONCLUSIVE
    each = ", ".join(f"{name} {x:.2g}" for name, x in missing.items())
    return Evidence(
        verdict,
        method="comparison",
        summary=f"distance {repaired:.2g} with {', '.join(conditions)}; with none of them {unrepaired:.2g}; leaving one out: {each}",
        covers="the paper preset, variant full; Nesterov is off in both; without exact msign: five quintic Newton-Schulz steps",
        numbers={"repaired": repaired, "as_printed": unrepaired} | {f"without {name}": x for name, x in missing.items()},
        margin=min(missing.values()) - 1e-3,
        budget={"instances": history.shape[1]},
        seed=run.seed,
    )


# ---- The library against the formula ------------------------------------------------------------------------


def linf_formula(g: Array, betas: tuple[float, float], preset: str, variant: str, *, squares: bool) -> Array:
    """Return the ℓ∞ direction after the history ``(T, d)`` at ε = 0; `squares`: whether v averages g² instead of m²."""
    (beta1, beta2), t = betas, len(g)
    corrected = preset == "corrected"
    m = np.stack([ema(g[: s + 1], beta1) / (1.0 - beta1 ** (s + 1) if corrected else 1.0) for s in range(t)])
    if variant == "none":
        return np.sign(m[-1])
    v = ema((g if squares else m) ** 2, beta2) / (1.0 - beta2**t if corrected else 1.0)
    return np.sign(m[-1]) * root_ratio((g[-1] if variant == "instantaneous" else m[-1]) ** 2, v)


def conformity(run: Run) -> Evidence:
    """S∞ on diag(g) and ℓ∞ on g against the ℓ∞ formula; twin: v averages g² throughout."""
    found, rng = Comparison(), run.rng(25)
    cases = list(product(PRESETS, VARIANTS))
    for i, (round_, (preset, variant)) in enumerate(product(range(run.count(1, 6)), cases)):
        d, betas = 1 + (i + round_) % 4, ((0.9, 0.99), (0.5, 0.8))[(i + round_) % 2]
        g = rng.normal(size=(5, d)) * 10.0 ** rng.uniform(-3, 3, d)
        g[:2, 0] = 0.0  # 0/0
        options: dict[str, Any] = {"preset": preset, "betas": betas, "eps": 0.0, "nesterov": False}
        spectral = replace(deva_spectral(variant=variant, polar="svd", **options), step_scale=StepScale())
        rules = [("ℓ∞", deva_linf(variant=variant, **options), g), ("identity bases", replace(spectral, basis=None), _diagonals(g))]
        if variant == "memory" and preset != "corrected":
            rules = rules[:1]  # M7-memory: not the ℓ∞ rule
        elif preset == "corrected" and variant != "sign":
            own = replace(spectral, basis=replace(spectral.basis, refresh_every=2))
            rules.append(("its own bases", own, _diagonals(g)))
        for name, rule, history in rules:
            for t, (direction, _) in enumerate(run_rule(rule, torch.from_numpy(history)), start=1):
                expected = linf_formula(g[:t], betas, preset, variant, squares=run.twin or variant in ("snr", "instantaneous"))
                found.add(f"{name}, {preset}, {variant}, t = {t}", direction, np.diag(expected) if direction.ndim == 2 else expected)
    return found.evidence(run, "S∞ on diag(g), ℓ∞ on g and the ℓ∞ formula")


def _diagonals(g: Array) -> Array:
    return np.stack([np.diag(row) for row in g])
