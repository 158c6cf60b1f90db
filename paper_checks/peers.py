"""What the library has beside DeVA's two rules, against NumPy written from the formulas: other norms, peers, refreshes, memory.

M8-norms-code, E1-peers-code, E1-soap-code, A2-basis-code, A3-range-code, Sinf-donate-code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.geometry import L1, L2, LInf, Product, Schatten
from deva_theory.linalg import refresh_eigenbasis
from deva_theory.rules import Adaptation, Rule, adamuon, deva_linf, deva_spectral, muon, soap
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


def _refreshed(A: Array, Q: Array) -> tuple[Array, Array]:
    """Sort the columns by Rayleigh quotient, descending, then one step of orthogonal iteration."""
    order = np.argsort(-np.einsum("ij,ik,kj->j", Q, A, Q), kind="stable")
    return np.linalg.qr(A @ Q[:, order])[0], order


def _descending(A: Array) -> Array:
    return np.linalg.eigh(A)[1][:, ::-1]


def soap_code(run: Run) -> Evidence:
    """SOAP without momentum, bases refreshed every second step. Control: V stays where it was when columns change places."""
    worst, count, swaps = 0.0, 0, 0
    beta2, eps = 0.6, 1e-3
    for k, (m, n) in enumerate([(3, 3), (4, 3), (3, 4)] * run.count(2, 20)):
        # Weights that move from one row and column to another make the eigenvalues cross.
        tilt = np.geomspace(1.0, 4.0, m)[:, None] * np.geomspace(1.0, 3.0, n)
        G = run.rng(k).standard_normal((9, m, n)) * np.where(np.arange(9)[:, None, None] < 4, tilt, tilt[::-1, ::-1])
        rule = soap(betas=(0.0, beta2), eps=eps, refresh_every=2)
        state = rule.init(torch.from_numpy(G[0]))
        _, state, _ = rule.update(torch.from_numpy(G[0]), state)
        L, R, V = (1 - beta2) * G[0] @ G[0].T, (1 - beta2) * G[0].T @ G[0], np.zeros((m, n))
        P, Q = _descending(L), _descending(R)
        for t, step in enumerate(G[1:], 1):
            turned = P.T @ step @ Q
            V = beta2 * V + (1 - beta2) * turned**2
            expected = P @ (turned / (np.sqrt(V / (1 - beta2**t)) + eps)) @ Q.T
            found, state, _ = rule.update(torch.from_numpy(step), state)
            worst, count = max(worst, _error(found.numpy(), expected)), count + 1
            L, R = beta2 * L + (1 - beta2) * step @ step.T, beta2 * R + (1 - beta2) * step.T @ step
            if t % 2 == 0:
                (P, rows), (Q, columns) = _refreshed(L, P), _refreshed(R, Q)
                swaps += int((rows != np.arange(m)).any() or (columns != np.arange(n)).any())
                V = V if run.twin else V[rows][:, columns]
    evidence = _evidence(worst, count, f"steps, columns reordered at {swaps} refreshes,", run)
    return evidence if swaps else Evidence(Verdict.INCONCLUSIVE, evidence.method, "no refresh reordered the columns")


def refresh_code(run: Run) -> Evidence:
    """The rotation refresh is quadratic, and V is mixed by squared overlaps. Control: linear convergence, overlaps not squared."""
    worst, count, carry = 0.0, 0, 0.0
    for k in range(run.count(10, 100)):
        rng, d = run.rng(k), 2 + k % 4
        exact = np.linalg.qr(rng.standard_normal((d, d)))[0]
        A = (exact * np.arange(d, 0, -1.0)) @ exact.T  # eigenvalues d, ..., 1
        skew = rng.standard_normal((d, d))
        skew = 1e-3 * (skew - skew.T) / np.abs(skew - skew.T).max()
        near = exact @ np.linalg.solve(np.eye(d) - skew, np.eye(d) + skew)  # Cayley: off by an angle of about 2e-3
        basis = refresh_eigenbasis(torch.from_numpy(A), torch.from_numpy(near), method="rotation")[0].numpy()
        before, after = (np.abs(B.T @ A @ B - np.diag(np.diag(B.T @ A @ B))).max() for B in (near, basis))
        # Second order: every pair's error is a product of two others' angles times eigenvalues, at most d² of them.
        bound = before * 1e-12 if run.twin else d**2 * before**2
        worst, count = max(worst, float(after / bound)), count + 1
        V = rng.standard_normal((d, d + 1)) ** 2
        left, right = (np.linalg.qr(rng.standard_normal((j, j)))[0] for j in (d, d + 1))
        state: dict[str, Any] = {"rms": torch.from_numpy(np.sqrt(V))}
        Adaptation(0.9, amplitude="marginals").carry(state, torch.from_numpy(left), torch.from_numpy(right))
        power = 1 if run.twin else 2
        carry = max(carry, _error(state["rms"].numpy() ** 2, np.abs(left) ** power @ V @ np.abs(right.T) ** power))
    holds = worst <= 1 and carry <= AGREE
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED, "independent computation",
        f"off-diagonal after a rotation at most {worst:.2g} of d² times its square before, {count} bases; V off by {carry:.2g}",
        numbers={"rotation": worst, "carry": carry}, budget={"bases": count}, seed=run.seed,
    )


def _stream_error(first: Rule, second: Rule, gradients: Array, scale: float, *, donate: bool) -> float:
    """Return the largest relative distance of the steps of two rules; the second sees scaled gradients and may reuse its state."""
    one, other, worst = first.init(torch.from_numpy(gradients[0])), second.init(torch.from_numpy(gradients[0])), 0.0
    for G in gradients:
        step, one, _ = first.update(torch.from_numpy(G), one)
        again, other, _ = second.update(torch.from_numpy(G * scale), other, donate=donate)
        worst = max(worst, _error(again.numpy(), step.numpy()) if step.any() else 0.0)
    return worst


def tiny_code(run: Run) -> Evidence:
    """The corrected rules on gradients near the end of the float range. Control: the reference preset, whose ε is absolute."""
    worst, count = 0.0, 0
    preset = "reference" if run.twin else "corrected"
    for k in range(run.count(6, 60)):
        G = run.rng(k).standard_normal((5, 3, 2 + k % 3))
        for rule in (deva_linf(preset=preset), deva_spectral(preset=preset, polar="svd")):
            for scale in (2.0**-560, 2.0**400):
                worst, count = max(worst, _stream_error(rule, rule, G, scale, donate=False)), count + 5
    return _evidence(worst, count, "steps at 2^-560 and 2^400", run)


def donate_code(run: Run) -> Evidence:
    """Steps that reuse the state's memory against steps that do not. Control: the reusing rule has other betas."""
    worst, count = 0.0, 0
    for k in range(run.count(6, 60)):
        G = run.rng(k).standard_normal((6, 3, 2 + k % 3))
        for make in (deva_linf, deva_spectral):
            other = make(betas=(0.8, 0.7)) if run.twin else make(betas=(0.9, 0.8))
            worst, count = max(worst, _stream_error(make(betas=(0.9, 0.8)), other, G, 1.0, donate=True)), count + 6
    return _evidence(worst, count, "steps that reuse memory", run)
