"""The DeVA rules on diagonal gradients, entry by entry, written without the library; shared by the findings, no claims of its own.

On ``diag(g_t)`` the S∞ rule is an entrywise formula (`entrywise`); `spectral_run` and `linf_run` hold the library against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Verdict
from deva_theory.rules import deva_linf, deva_spectral
from paper_checks.gradient_streams import directions


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


def embedded(g: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Put the vectors of a stream on the diagonals of matrices; what is left over is zero."""
    out = torch.zeros(len(g), *shape, dtype=torch.float64)
    index = torch.arange(g.shape[1])
    out[:, index, index] = torch.from_numpy(g)
    return out


def relative_distance(found: Tensor, expected: Tensor) -> float:
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


def spectral_run(
    g: np.ndarray, shape: tuple[int, int], preset: str, variant: str, betas: tuple[float, float], *, eps: float | None = None,
    formula_eps: float | None = None, bias_factor: bool = True, carry: str | None = None, refresh_every: int = 10,
) -> Subject:
    """Return the S∞ rule on ``diag(g_t)`` with its distance from the formula; `formula_eps`: another ε in the formula."""
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
    found = directions(rule, embedded(g, shape))
    return f"S∞ {preset} {variant} {shape} {betas}", relative_distance(found, scale * embedded(expected, shape))


def linf_run(
    g: np.ndarray, preset: str, variant: str, betas: tuple[float, float], *, eps: float | None = None, formula_eps: float | None = None
) -> Subject:
    """Return the ℓ∞ rule with its distance from the formula; `formula_eps`: another ε in the formula."""
    rule = deva_linf(preset=preset, variant=variant, betas=betas, eps=eps)
    default = {"corrected": 1e-16, "paper": 1e-8, "reference": 1e-5}[preset] if eps is None else eps
    expected = entrywise(g, preset, betas, default if formula_eps is None else formula_eps, spectral=False, variant=variant)
    return f"ℓ∞ {preset} {variant} {betas}", relative_distance(directions(rule, torch.from_numpy(g)), torch.from_numpy(expected))


SHAPES = ((4, 4), (6, 4), (4, 7))
"""Square, tall and wide."""

BETAS = ((0.95, 0.95), (0.9, 0.99), (0.0, 0.9))
