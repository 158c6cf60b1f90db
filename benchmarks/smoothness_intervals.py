"""Two-sided smoothness estimates against dense Hessians: products, time, error and width, beside eigsh and power iteration.

Blocks: the tensors of the trained tiny zoo, their Hessians formed by products with the identity, and random indefinite
matrices.  Times include the same products through the same operator, a batch of one, and exclude forming.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from deva_theory.problems import zoo
from deva_theory.report.tables import format_table
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.balls import Ball, Box, SpectralBall
from deva_theory.smoothness.estimators.krylov import euclidean_smoothness
from deva_theory.smoothness.estimators.operator_norms import Effort, operator_norm
from deva_theory.smoothness.estimators.programs import run as run_program

TOLERANCE = 1e-3
_REPEATS = 3
_POWER_STEPS = 100

Apply = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Block:
    model: str
    name: str
    H: torch.Tensor
    ball: Ball
    apply: Apply
    largest: float  # max|λ| of H


def _zoo() -> list[_Block]:
    """Return the blocks of 2 to 1500 parameters."""
    found = []
    for model in zoo.ALL_NAMES:
        problem = zoo.load(model, size="tiny", dtype=torch.float64)
        problem.train(100)
        operator = CurvatureOperator(problem.model, problem.criterion, list(problem.batches), blocks="tensor")
        for block in operator.blocks:
            if 2 <= block.size <= 1500:
                H = operator.product(block, torch.eye(block.size, dtype=torch.float64))
                H = 0.5 * (H + H.mT)
                found.append(_Block(
                    model, block.name, H, block.ball("spectral"),
                    lambda V, operator=operator, block=block: operator.product(block, V),  # type: ignore[misc]
                    float(torch.linalg.eigvalsh(H).abs().max()),
                ))
    return found


def _random() -> list[_Block]:
    """Return Gaussian symmetric matrices: indefinite, without structure."""
    found = []
    for index, (m, n) in enumerate([(5, 6), (8, 8), (4, 30), (16, 16), (12, 30), (20, 25)]):
        generator = torch.Generator().manual_seed(index)
        A = torch.randn(m * n, m * n, generator=generator, dtype=torch.float64)
        H = A + A.mT
        largest = float(torch.linalg.eigvalsh(H).abs().max())
        found.append(_Block("random", f"{m}x{n}", H, SpectralBall(m, n), lambda V, H=H: V @ H, largest))  # type: ignore[misc]
    return found


# ---- largest eigenvalue ------------------------------------------------------------------------------------------


def _ours(block: _Block, stop: str, seed: int) -> tuple[int, float, bool]:
    e = run_program(euclidean_smoothness(len(block.H), tolerance=TOLERANCE, stop=stop, seed=seed), block.apply)
    return e.products, e.bilinear.lower, e.bilinear.contains(block.largest, rtol=1e-10)


def _eigsh(block: _Block, seed: int) -> tuple[int, float, bool]:
    count, d = 0, len(block.H)

    def matvec(v: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return block.apply(torch.from_numpy(np.ascontiguousarray(v)).reshape(1, d)).reshape(d).numpy()

    start = np.random.default_rng(seed).standard_normal(d)
    try:
        value = eigsh(
            LinearOperator((d, d), matvec=matvec, dtype=np.float64), k=1, which="LM", tol=TOLERANCE, v0=start, return_eigenvectors=False
        )
    except ArpackError:
        return count, 0.0, True
    return count, float(abs(value[0])), True


def _power(block: _Block, seed: int) -> tuple[int, float, bool]:
    """The usual rule: stop when the Rayleigh quotient changes by less than the tolerance, relatively."""
    v = torch.randn(1, len(block.H), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value, products = 0.0, 0
    for _ in range(_POWER_STEPS):
        v = v / v.norm()
        w = block.apply(v)
        products += 1
        before, value = value, float((v * w).sum())
        if abs(value - before) <= TOLERANCE * abs(value) or not bool(w.any()):
            break
        v = w
    return products, abs(value), True


METHODS: dict[str, Callable[[_Block, int], tuple[int, float, bool]]] = {
    "certificate": lambda block, seed: _ours(block, "certificate", seed),
    "value": lambda block, seed: _ours(block, "value", seed),
    "eigsh": _eigsh,
    "power iteration": _power,
}


def _eigenvalues(blocks: list[_Block]) -> list[dict[str, object]]:
    """Run every method on every block, in alternation, from several starts; products and times are means over the starts."""
    rows = []
    for block in blocks:
        truth = block.largest
        row: dict[str, object] = {"model": block.model, "block": block.name, "size": len(block.H)}
        block.apply(torch.ones(1, len(block.H), dtype=torch.float64))  # warm-up
        for method in METHODS:
            row[method] = {"products": 0.0, "seconds": 0.0, "errors": [], "contained": 0}
        for seed in range(_REPEATS):
            for method, solve in METHODS.items():
                start = time.perf_counter()
                products, value, contained = solve(block, seed)
                seconds = time.perf_counter() - start
                entry = row[method]
                assert isinstance(entry, dict)
                entry["products"] += products / _REPEATS
                entry["seconds"] += seconds / _REPEATS
                entry["errors"].append(abs(value - truth) / truth if truth > 0 else abs(value))
                entry["contained"] += contained
        rows.append(row)
    return rows


# ---- box and spectral norm ---------------------------------------------------------------------------------------


EFFORTS = {"products only": Effort(dense=0), "default": Effort()}


def _baselines(block: _Block, ball: Ball) -> dict[str, float]:
    """Return what a dense matrix gives at once: d·max|λ|, Σ|H_ij| and the trace bound at the row sums, or r·max|λ|."""
    H, largest = block.H, block.largest
    if isinstance(ball, SpectralBall):
        return {"r max|λ|": min(ball.rows, ball.columns) * largest}
    sums = H.abs().sum(-1)
    kept = sums > 0
    root = sums[kept].rsqrt()
    scaled = root.unsqueeze(-1) * H[kept][:, kept] * root
    return {
        "d max|λ|": len(H) * largest,
        "Σ|H_ij|": float(sums.sum()),
        "row sums": float(sums.sum() * torch.linalg.eigvalsh(scaled).abs().max()),
    }


def _widths(blocks: list[_Block]) -> list[dict[str, object]]:
    rows = []
    for block in blocks:
        for norm in ("linf", "spectral"):
            ball = Box(len(block.H)) if norm == "linf" else block.ball
            if norm == "spectral" and not isinstance(ball, SpectralBall):
                continue
            row: dict[str, object] = {"model": block.model, "block": block.name, "size": len(block.H), "norm": norm}
            for name, effort in EFFORTS.items():
                start = time.perf_counter()
                e = run_program(operator_norm(ball, norm=norm, effort=effort), lambda V, H=block.H: V @ H)  # type: ignore[misc]
                row[name] = {"products": e.products, "seconds": time.perf_counter() - start, "ratio": e.bilinear.ratio}
                lower = e.bilinear.lower
            row["baselines"] = {name: value / lower if lower > 0 else 1.0 for name, value in _baselines(block, ball).items()}
            rows.append(row)
    return rows


def run() -> dict[str, object]:
    """Measure everything in one run."""
    small, random = _zoo(), _random()
    return {"eigenvalues": _eigenvalues(small + random), "widths": _widths(small + random)}


def summary(result: dict) -> str:
    """Return the tables of :func:`run`."""
    return "\n\n".join((
        f"max|λ| to {TOLERANCE:g}: mean of {_REPEATS} starts; missed: share of runs with a larger relative error",
        _eigenvalue_table(result["eigenvalues"], ["all zoo", "random"]),
        "upper/lower of the operator norms, and dense upper bounds over the same lower end",
        _width_table(result["widths"]),
        "per model",
        _eigenvalue_table(result["eigenvalues"], sorted({row["model"] for row in result["eigenvalues"]} - {"random"})),
    ))


def _eigenvalue_table(rows: list[dict], models: list[str]) -> str:
    lines = []
    for model in models:
        chosen = [row for row in rows if row["model"] == model or (model == "all zoo" and row["model"] != "random")]
        reference = {key: sum(row["eigsh"][key] for row in chosen) for key in ("products", "seconds")}
        for method in METHODS:
            entries = [row[method] for row in chosen]
            errors = np.array([error for entry in entries for error in entry["errors"]])
            products, seconds = (sum(entry[key] for entry in entries) for key in ("products", "seconds"))
            contained = f"{sum(entry['contained'] for entry in entries) / len(errors):.3g}" if method in ("certificate", "value") else "-"
            lines.append((
                f"{model} ({len(chosen)})", method, products, products / reference["products"], seconds / reference["seconds"],
                float((errors > TOLERANCE).mean()), float(errors.max()), contained,
            ))
    head = ("blocks", "method", "products", "/ eigsh", "time / eigsh", "missed", "largest error", "contained")
    return format_table(lines, head, digits=3)


def _width_table(rows: list[dict]) -> str:
    lines = []
    for norm in ("linf", "spectral"):
        for kind in ("zoo", "random"):
            chosen = [row for row in rows if row["norm"] == norm and (row["model"] == "random") == (kind == "random")]
            for name in (*EFFORTS, *chosen[0]["baselines"]):
                ours = name in EFFORTS
                ratios = [row[name]["ratio"] if ours else row["baselines"][name] for row in chosen]
                products = f"{np.mean([row[name]['products'] for row in chosen]):.0f}" if ours else "dense"
                quantiles = (float(q) for q in np.quantile(ratios, (0.5, 0.9, 1.0)))
                lines.append((norm, f"{kind} ({len(chosen)})", f"ours, {name}" if ours else name, *quantiles, products))
    return format_table(lines, ("norm", "blocks", "upper end", "median", "90%", "max", "products"), digits=3)
