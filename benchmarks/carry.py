"""How should V follow the basis at a refresh?  Compared with V recomputed from the whole history in the new basis.

SPEC section 3 offers squared overlaps "or a better way you can justify". The measure is the median over refreshes of the mean
|ln(V / V*)| over entries, where V* averages ``r c`` of every past momentum, each rotated into the present basis.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from deva_theory.report.tables import format_table
from deva_theory.rules import deva_spectral
from deva_theory.rules.parts import marginals

_BETA1, _BETA2, _EVERY = 0.9, 0.95, 10


def error(carry: str, shape: tuple[int, int], noise: float, drift: float, *, seeds: int = 20, steps: int = 120) -> float:
    """Return the measure for one stream of gradients: a drifting signal with a graded spectrum, plus noise."""
    generator = torch.Generator().manual_seed(1)
    m, n = shape
    grade = torch.logspace(0, -1.5, n, dtype=torch.float64)

    def normal() -> torch.Tensor:
        return torch.randn(seeds, m, n, generator=generator, dtype=torch.float64)

    rule = deva_spectral(betas=(_BETA1, _BETA2), refresh_every=_EVERY)
    assert rule.basis is not None
    rule = replace(rule, basis=replace(rule.basis, carry_adaptation=carry))
    signal = normal() * grade
    state = rule.init(signal)
    momentum, history, errors = torch.zeros_like(signal), [], []
    for t in range(1, steps + 1):
        signal = signal + drift * normal() * grade
        G = signal + noise * normal()
        _, state, _ = rule.update(G, state)
        momentum = _BETA1 * momentum + (1 - _BETA1) * G
        history.append(momentum / (1 - _BETA1**t))
        if t > 4 * _EVERY and (t - 1) % _EVERY == 0:
            Q_L, Q_R, rms = (state[k] for k in ("Q_L", "Q_R", "rms"))
            assert isinstance(Q_L, torch.Tensor) and isinstance(Q_R, torch.Tensor) and isinstance(rms, torch.Tensor)
            V = torch.zeros_like(rms)
            for age, M in enumerate(reversed(history)):
                r, c = marginals(Q_L.mT @ M @ Q_R)
                V = V + (1 - _BETA2) * _BETA2**age * r * c
            errors.append(float((rms.square() / V).log().abs().mean()))
    return float(np.median(errors))


def run() -> dict[str, dict[str, float]]:
    """Measure the three ways on nine streams."""
    return {
        f"{m}x{n}, noise {noise:g}, drift {drift:g}": {c: error(c, (m, n), noise, drift) for c in ("none", "permute", "overlap")}
        for m, n in ((8, 8), (16, 8), (32, 32))
        for noise, drift in ((0.1, 0.1), (1.0, 0.1), (3.0, 0.0))
    }


def summary(result: dict) -> str:
    """Return the table of :func:`run`."""
    ways = ("none", "permute", "overlap")
    return format_table([(stream, *(row[w] for w in ways)) for stream, row in result.items()], ("stream", *ways), digits=3)
