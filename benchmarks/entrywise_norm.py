"""Σ|H_ij| from 50 products: the Cauchy sketch with each correction against the adaptive columns (SPEC S6).

Families: dense Gaussian; rank 5 with parameters of sizes over two decades, plus a diagonal; diagonal plus 1e-3 and plus 0.1 of a
Gaussian; diagonal blocks of 10; rank one with log-normal entries; one full row; the loss Hessian of a small trained network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from deva_theory.report.tables import format_table
from deva_theory.smoothness.estimators.entrywise import cauchy_sketch, entrywise_norm
from deva_theory.smoothness.estimators.programs import run as run_program

_CORRECTIONS = ("median", "geometric", "likelihood")
_PRODUCTS = 51
"""Odd, for the median."""


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _symmetric(d: int, seed: int = 0) -> Tensor:
    A = _normal(d, d, seed=seed)
    return A + A.T


def _low_rank(d: int) -> Tensor:
    U = _normal(d, 5) * torch.logspace(0, -2, d, dtype=torch.float64).unsqueeze(1)
    return U @ U.T + torch.diag(0.01 * _normal(d, seed=1).abs())


def _diagonal_plus(d: int, size: float) -> Tensor:
    return torch.diag(_normal(d).exp()) + size * _symmetric(d, 1) / math.sqrt(d)


def _arrow(d: int) -> Tensor:
    H = torch.diag(_normal(d))
    H[0] = H[:, 0] = _normal(d, seed=1)
    return H


def _network(d: int, steps: int = 60) -> Tensor:
    """Hessian of the cross entropy of a two-layer tanh network with about d parameters, after Adam on random data."""
    width = max(4, round(math.sqrt(d / 2)))
    shapes = [(width, width), (width,), (width, width), (width,)]
    parameters = [(_normal(*s, seed=i) / math.sqrt(width)).requires_grad_() for i, s in enumerate(shapes)]
    X, classes = _normal(64, width, seed=9), torch.arange(64) % width

    def loss() -> Tensor:
        W, w, U, u = parameters
        return nn.functional.cross_entropy(torch.tanh(X @ W + w) @ U + u, classes)

    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.cat([g.reshape(-1) for g in torch.autograd.grad(entry, parameters, retain_graph=True)]) for entry in flat]
    H = torch.stack(rows)
    return (H + H.T) / 2


FAMILIES: dict[str, Callable[[int], Tensor]] = {
    "dense": _symmetric,
    "low rank + diagonal": _low_rank,
    "trained network": _network,
    "diagonal + 1e-3": lambda d: _diagonal_plus(d, 1e-3),
    "diagonal + 0.1": lambda d: _diagonal_plus(d, 0.1),
    "blocks of 10": lambda d: torch.block_diag(*(_symmetric(10, s) for s in range(d // 10))),
    "rank one": lambda d: torch.outer(_normal(d).exp(), _normal(d).exp()),
    "one full row": _arrow,
}


def measure(H: Tensor, seeds: int) -> dict[str, dict[str, float]]:
    """Return bias (in standard errors), relative deviation and coverage of each estimator."""
    truth, d = float(H.abs().sum()), len(H)
    out = {}
    for correction in _CORRECTIONS:
        sketches = [
            run_program(cauchy_sketch(d, vectors=_PRODUCTS, correction=correction, seed=s), lambda V: V @ H) for s in range(seeds)
        ]
        out[correction] = _row([s.value / truth for s in sketches], [s.upper >= truth for s in sketches])
    found = [run_program(entrywise_norm(d, vectors=_PRODUCTS, seed=s), lambda V: V @ H) for s in range(seeds)]
    out["columns"] = _row([f.value / truth for f in found], [f.estimate.bilinear.contains(truth) for f in found])
    return out


def _row(values: list[float], covered: list[bool]) -> dict[str, float]:
    errors = np.array(values) - 1
    return {
        "bias": float(errors.mean()),
        "bias_in_errors": float(errors.mean() / (errors.std() / math.sqrt(len(errors)) + 1e-15)),
        "deviation": float(np.sqrt(np.mean(errors**2))),
        "coverage": float(np.mean(covered)),
    }


def run(seeds: int = 150, sizes: tuple[int, ...] = (200, 800)) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every family at every size."""
    return {f"{name}, {len(H)}": measure(H, seeds) for name, make in FAMILIES.items() for H in (make(d) for d in sizes)}


def summary(result: dict) -> str:
    """Return the table of :func:`run`; coverage is that of the upper limit for the sketch, of the interval for the columns."""
    rows = []
    for family, found in result.items():
        best = min(found[c]["deviation"] for c in _CORRECTIONS)
        for name, row in found.items():
            ratio = f"{row['deviation'] / best:.3f}"
            rows.append((family, name, row["bias"], row["bias_in_errors"], row["deviation"], ratio, f"{row['coverage']:.3f}"))
    header = ("family, d", "estimator", "bias", "bias / s.e.", "rel. deviation", "of best sketch", "coverage")
    return format_table(rows, header, digits=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(summary(run()))
