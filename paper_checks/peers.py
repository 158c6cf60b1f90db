"""M8-norms-code and E1-peers-code: the library's other norms and the peers' rules against NumPy written from their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.geometry import L1, L2, LInf, Product, Schatten
from deva_theory.rules import adamuon, muon
from deva_theory.rules.preconditioned import FullMatrixAdaGrad, Shampoo

Array = NDArray[np.float64]

AGREE = 1e-9
"""Relative: a dozen operations in float64, roots of matrices of condition at most 1e4 between them."""


def _evidence(worst: float, count: int, what: str, run: Run) -> Evidence:
    agrees = worst <= AGREE
    return Evidence(
        Verdict.SUPPORTED if agrees else Verdict.REFUTED, "independent computation",
        f"{count} {what} agree; largest relative error {worst:.2g}" if agrees else f"largest relative error {worst:.3g}",
        numbers={"largest relative error": worst}, margin=AGREE - worst if agrees else None, budget={"comparisons": count}, seed=run.seed,
    )


def _error(found: Any, expected: Any) -> float:
    found, expected = (np.asarray(x, dtype=float) for x in (found, expected))
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))
    return error if math.isfinite(error) else 1e9


def _holder(values: Array, p: float) -> float:
    return float(values.max() if math.isinf(p) else (values**p).sum() ** (1 / p))


def norms_code(run: Run) -> Evidence:
    """Norm, dual norm, steepest direction and radius of ℓ1, ℓ2, Schatten-p and products. Control: the dual exponent p for q."""
    worst, count = 0.0, 0
    for k in range(run.count(12, 120)):
        rng = run.rng(k)
        G, g = rng.standard_normal((3, 2 + k % 3)), rng.standard_normal(4)
        cases: list[tuple[Any, Array, float]] = [(L1(), g, 1.0), (L2(), g, 2.0), (LInf(), g, math.inf)]
        cases += [(Schatten(p), G, p) for p in (1.5, 2.0, 3.0, math.inf)]
        for geometry, x, p in cases:
            q = p if run.twin else math.inf if p == 1.0 else 1.0 if math.isinf(p) else p / (p - 1)
            sizes = np.abs(x) if x.ndim == 1 else np.linalg.svd(x, compute_uv=False)
            d = geometry.steepest(torch.from_numpy(x)).numpy()
            length = _holder(np.abs(d) if d.ndim == 1 else np.linalg.svd(d, compute_uv=False), p)
            dual = _holder(sizes, q)
            radius = len(sizes) ** max(0.0, 0.5 - (0.0 if math.isinf(p) else 1 / p))
            pairs = [
                (float(geometry.norm(torch.from_numpy(x))), _holder(sizes, p)), (float(geometry.dual_norm(torch.from_numpy(x))), dual),
                ((d * x).sum(), dual), (length, 1.0), (geometry.radius(x.shape), radius),
            ]
            worst, count = max(worst, *(_error(*pair) for pair in pairs)), count + len(pairs)
        for found, expected in _product(g, G, 0.5 + k % 4, run.twin):
            worst, count = max(worst, _error(found, expected)), count + 1
    return _evidence(worst, count, "norms, directions and radii", run)


def _product(g: Array, G: Array, weight: float, twin: bool) -> Iterator[tuple[Any, Any]]:
    """Compare a product of ℓ∞ on g and Schatten-∞ on G, with weights (1, weight), for each outer norm."""
    singular, x = np.linalg.svd(G, compute_uv=False), (torch.from_numpy(g), torch.from_numpy(G))
    primal = np.array([np.abs(g).max(), singular.max() / weight])
    dual = np.array([np.abs(g).sum(), singular.sum() * weight])
    exponent = {"max": math.inf, "l2": 2.0, "l1": 1.0}
    conjugate = exponent if twin else {"max": 1.0, "l2": 2.0, "l1": math.inf}
    for outer in exponent:
        product = Product((LInf(), Schatten(math.inf)), outer=outer, weights=(1.0, weight))
        d = [part.numpy() for part in product.steepest(x)]
        lengths = np.array([np.abs(d[0]).max(), np.linalg.norm(d[1], 2) / weight])
        yield float(product.norm(x)), _holder(primal, exponent[outer])
        yield float(product.dual_norm(x)), _holder(dual, conjugate[outer])
        yield float(product.dual.norm(x)), _holder(dual, conjugate[outer])
        yield (d[0] * g).sum() + (d[1] * G).sum(), _holder(dual, conjugate[outer])
        yield _holder(lengths, exponent[outer]), 1.0


def _msign(X: Array) -> Array:
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    return U[:, s > 1e-12 * s.max()] @ Vt[s > 1e-12 * s.max()]


def _power(A: Array, p: float) -> Array:
    values, vectors = np.linalg.eigh(A)
    return (vectors * values**p) @ vectors.T


def _ridge(A: Array, eps: float) -> Array:
    return A + eps * np.trace(A) / len(A) * np.eye(len(A))


def peers_code(run: Run) -> Evidence:
    """Muon, AdaMuon, Shampoo and full-matrix AdaGrad along streams. Control: root mean square, shape factor and exponent altered."""
    worst, count = 0.0, 0
    beta1, beta2, eps = 0.8, 0.6, 1e-2
    for k, shape in enumerate([(4, 3), (3, 3), (3, 5), (6, 2)] * run.count(1, 10)):
        G = run.rng(k).standard_normal((5, *shape))
        m, n = shape
        long = m / n if run.twin else math.sqrt(max(1.0, m / n))
        power = -0.5 if run.twin else -0.25
        rules = {
            "muon": muon(beta1=beta1, shape="sqrt_ratio", polar="svd"), "adamuon": adamuon(betas=(beta1, beta2), eps=eps, polar="svd"),
            "shampoo": Shampoo(eps=eps), "full": FullMatrixAdaGrad(eps=eps),
        }
        states = {name: rule.init(torch.from_numpy(G[0, 0] if name == "full" else G[0])) for name, rule in rules.items()}
        M, V, L, R, S = np.zeros(shape), np.zeros(shape), np.zeros((m, m)), np.zeros((n, n)), np.zeros((n, n))
        for step in G:
            M = beta1 * M + (1 - beta1) * step
            O = _msign(np.sign(M))
            V = beta2 * V + (1 - beta2) * O**2
            D = O / (np.sqrt(V) + eps)
            L, R, S = L + step @ step.T, R + step.T @ step, S + np.outer(step[0], step[0])
            expected = {
                "muon": long * _msign(beta1 * M + (1 - beta1) * step),
                "adamuon": 0.2 * D / np.sqrt((D**2).mean()),
                "shampoo": _power(_ridge(L, eps), power) @ step @ _power(_ridge(R, eps), power),
                "full": _power(_ridge(S, eps), -0.5) @ step[0],
            }
            for name, rule in rules.items():
                found, states[name], _ = rule.update(torch.from_numpy(step[0] if name == "full" else step), states[name])
                worst, count = max(worst, _error(found.numpy(), expected[name])), count + 1
    return _evidence(worst, count, "steps", run)
