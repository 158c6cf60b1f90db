"""Eigenbasis refreshes and polar factors: accuracy and time against the factorisation they replace."""

from __future__ import annotations

import time

import numpy as np
import torch

from deva_theory.linalg import REFRESH_METHODS, eigenbasis, polar_factor, refresh_eigenbasis
from deva_theory.report.tables import format_table


def _off_diagonal(A: torch.Tensor, Q: torch.Tensor) -> float:
    B = Q.mT @ A @ Q
    off = B - torch.diag_embed(torch.diagonal(B, dim1=-2, dim2=-1))
    return float(torch.linalg.vector_norm(off) / torch.linalg.vector_norm(B))


def refresh(side: int, *, refreshes: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, float]]:
    """Track an EMA of Gram matrices, β3 = .95, refreshed every 10 gradients; every method on the same stream."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, side, dtype=dtype)

    def gradient() -> torch.Tensor:
        return scales[:, None] * torch.randn(side, 2 * side, generator=generator, dtype=dtype)

    A = sum((G @ G.mT for G in (gradient() for _ in range(20))), torch.zeros(side, side, dtype=dtype)) / 20
    bases = {method: eigenbasis(A) for method in REFRESH_METHODS}
    times: dict[str, list[float]] = {m: [] for m in bases}
    errors: dict[str, list[float]] = {m: [] for m in bases}
    for _ in range(refreshes):
        for _ in range(10):
            G = gradient()
            A = 0.95 * A + 0.05 * G @ G.mT
        for method in bases:
            start = time.perf_counter()
            bases[method], _ = refresh_eigenbasis(A, bases[method], method=method)
            times[method].append(time.perf_counter() - start)
            errors[method].append(_off_diagonal(A, bases[method]))
    reference = float(np.median(times["qr"]))
    return {
        m: {"time_over_qr": float(np.median(times[m])) / reference, "off_diagonal": float(np.median(errors[m]))}
        for m in bases
    }


def polar(side: int, condition: float) -> dict[str, dict[str, float]]:
    """Relative Frobenius error against the exact polar factor and time over the SVD, float32, one geometric spectrum."""
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q
    G = (U * torch.logspace(0, -np.log10(condition), side, dtype=torch.float64)) @ V.mT
    exact = U @ V.mT
    out = {}
    for name, options in {
        "svd": {},
        "newton_schulz": {"method": "newton_schulz"},
        "polar_express": {"method": "polar_express"},
        "polar_express, float64": {"method": "polar_express"},
    }.items():
        X = G if name.endswith("float64") else G.float()
        polar_factor(X, **options)  # type: ignore[arg-type]
        times = []
        for _ in range(5):
            start = time.perf_counter()
            O = polar_factor(X, **options)  # type: ignore[arg-type]
            times.append(time.perf_counter() - start)
        error = float(torch.linalg.vector_norm(O.double() - exact) / torch.linalg.vector_norm(exact))
        out[name] = {"error": error, "seconds": float(np.median(times))}
    base = out["svd"]["seconds"]
    return {name: {"error": r["error"], "time_over_svd": r["seconds"] / base} for name, r in out.items()}


def run() -> dict[str, object]:
    """Measure every size."""
    return {
        "refresh": {str(side): refresh(side) for side in (64, 256, 512)},
        "polar": {f"{side}, condition {c:g}": polar(side, c) for side in (256,) for c in (1e2, 1e4)},
    }


def summary(result: dict) -> str:
    """Return the tables of :func:`run`."""
    refreshes = [
        (f"{side}x{side}", method, row["off_diagonal"], row["time_over_qr"])
        for side, methods in result["refresh"].items() for method, row in methods.items()
    ]
    polars = [
        (case, method, row["error"], row["time_over_svd"])
        for case, methods in result["polar"].items() for method, row in methods.items()
    ]
    return "\n\n".join((
        format_table(refreshes, ("basis", "refresh", "off-diagonal", "time / qr"), digits=3),
        format_table(polars, ("matrix", "polar factor", "relative error", "time / svd"), digits=3),
    ))
