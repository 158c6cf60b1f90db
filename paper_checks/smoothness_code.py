"""The library's smoothness against independent computations: S2-code, S3-code and S5-code."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from deva_theory.claims.model import Evidence, Run
from deva_theory.problems.quadratic import TraceQuadratic
from deva_theory.smoothness import (
    absolute_weighted_sum,
    box_smoothness,
    signed_weighted_sum,
    spectral_smoothness,
    weighted_box_smoothness,
    weighted_spectral_smoothness,
)
from paper_checks.arrays import tensor
from paper_checks.quadratic_forms import corner_maximum, fractions, scaled
from paper_checks.verdicts import ROUNDING, WRONG, measured


def random_orthogonal(rng: np.random.Generator, m: int) -> np.ndarray:
    """Return the orthogonal factor of a random matrix."""
    return np.linalg.qr(rng.standard_normal((m, m)))[0]


def brute_box(H: np.ndarray, gamma: np.ndarray) -> float:
    """Return the largest uᵀ(I⊗H)u over all corners of the weighted box, with the full Hessian in exact arithmetic."""
    m, n = gamma.shape
    A, radii = fractions(H.tolist()), [Fraction(x) for x in gamma.reshape(-1, order="F").tolist()]
    zero = Fraction(0)
    full = [[A[i % m][j % m] if i // m == j // m else zero for j in range(m * n)] for i in range(m * n)]
    return float(corner_maximum(scaled(full, radii)))


def brute_spectral(H: np.ndarray, gamma: np.ndarray, Q_L: np.ndarray, rng: np.random.Generator, *, rotated: bool = True) -> float:
    """Return the best <D, HD> over D = Q_L(Γ⊙O) that ascent by polar factors finds from many starts; Γ⊙(Q_L O) if not `rotated`."""
    best = 0.0
    for _ in range(24):
        O = rng.standard_normal(gamma.shape)
        for _ in range(60):
            D = Q_L @ (gamma * O) if rotated else gamma * (Q_L @ O)
            slope = gamma * (Q_L.T @ H @ D) if rotated else Q_L.T @ (gamma * (H @ D))
            U, _, Vt = np.linalg.svd(slope, full_matrices=False)
            best, O = max(best, float((D * (H @ D)).sum()) if np.linalg.norm(O, 2) <= 1 + 1e-12 else 0.0), U @ Vt
    return best


def weighted_code(run: Run) -> Evidence:
    """S2: the library's weighted smoothness is what brute force finds.  Twin: brute force with Γ on the wrong side of the rotation."""
    rng = run.rng()
    worst, count = {"box": 0.0, "below": 0.0, "above": 0.0, "closed": 0.0}, 0
    for m, n in ((1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3)):
        for k in range(run.count(1, 5)):
            C = np.round(rng.standard_normal((m, m if k % 2 else max(1, m - 1))), 3)
            gamma = np.round(np.abs(rng.standard_normal((m, n))) * rng.integers(0, 3, size=(m, n)), 3)
            H, Q = C @ C.T, random_orthogonal(rng, m)
            if m * n <= 6:
                exact = brute_box(H, gamma)
                worst["box"] = max(worst["box"], abs(float(weighted_box_smoothness(tensor(H), tensor(gamma))) - exact) / max(exact, 1e-3))
            found = weighted_spectral_smoothness(tensor(H), tensor(gamma), tensor(Q), iterations=60, restarts=24)
            best = brute_spectral(H, gamma, Q, rng, rotated=not run.twin)
            scale = max(best, 1e-3)
            worst["below"] = max(worst["below"], (best - float(found.lower)) / scale)  # the witness misses the maximum
            worst["above"] = max(worst["above"], (best - float(found.upper)) / scale)  # the certificate is broken
            full_rank = H + np.eye(m) if m > n else H  # where the eigenvalues beyond the n-th matter
            worst["closed"] = max(worst["closed"], *closed_forms(full_rank, gamma, Q))
            count += 1
    u = math.sqrt(2 / 3), math.sqrt(1 / 3)
    known = weighted_spectral_smoothness(tensor([[a * b for b in u] for a in u]), tensor([[1, 1], [0, 1]]), tensor(np.eye(2)))
    worst["closed"] = max(worst["closed"], abs(float(known.lower) - 4 / 3), 4 / 3 - float(known.upper))
    batch = [tensor(rng.standard_normal(s)) for s in ((2, 1, 3, 3), (2, 3, 2), (2, 1, 3, 3))]
    batch[0] = batch[0] @ batch[0].mT
    together = (
        weighted_spectral_smoothness(batch[0], batch[1].abs(), torch.linalg.qr(batch[2]).Q),
        weighted_box_smoothness(batch[0], batch[1].abs()),
    )
    for i, j in itertools.product(range(2), range(2)):
        alone = weighted_spectral_smoothness(batch[0][i, 0], batch[1][j].abs(), torch.linalg.qr(batch[2][i, 0]).Q)
        box = weighted_box_smoothness(batch[0][i, 0], batch[1][j].abs())
        pairs = [(together[0].lower[i, j], alone.lower), (together[1][i, j], box)]
        worst["closed"] = max(worst["closed"], *(float((p - q).abs() / q) for p, q in pairs))
    for m, n in ((2, 2), (3, 2), (2, 3)):  # a certificate read off a poor witness is a certificate all the same
        C, weights = (torch.randn(200, m, k, generator=run.generator(m), dtype=torch.float64) for k in (m, n))
        poor = weighted_spectral_smoothness(C @ C.mT, weights.abs(), torch.eye(m, dtype=C.dtype).expand_as(C), iterations=0, restarts=1)
        good = weighted_spectral_smoothness(C @ C.mT, weights.abs(), torch.eye(m, dtype=C.dtype).expand_as(C))
        worst["above"] = max(worst["above"], float(((good.lower - poor.upper) / good.lower).max()))
        count += len(C)
    broken = WRONG if not refuses(weighted_box_smoothness, tensor(np.diag([1.0, -1.0])), torch.ones(2, 1)) else 0.0
    # The polar iteration converges linearly, so that two searches with 24 starts each agree to 1e-4 and closed forms to 1e-6.
    ratio = max(worst["box"] / ROUNDING, worst["below"] / 1e-4, worst["above"] / ROUNDING, worst["closed"] / 1e-6, broken)
    return measured(
        ratio, allowed=1.0, summary=f"errors over what is allowed: {', '.join(f'{k} {v:.2g}' for k, v in worst.items())}",
        covers="shapes up to 3×3, tall and wide, rank-deficient H, zeros in Γ, batches, an indefinite H refused",
        budget={"instances": count},
    )


def closed_forms(H: np.ndarray, gamma: np.ndarray, Q: np.ndarray) -> list[float]:
    """Return relative errors of both ends of the interval where a closed form exists: Γ = 1, Γ = a1ᵀ (m ≤ n), one row, one column."""
    m, n = gamma.shape
    rotated = Q.T @ H @ Q
    top = np.linalg.eigvalsh(H)[::-1][: min(m, n)].clip(min=0).sum()
    cases = [(np.ones((m, n)), top, True)]
    if m <= n:
        a = gamma[:, :1] + 0.5
        cases.append((np.broadcast_to(a, (m, n)).copy(), float((a[:, 0] ** 2 * np.diag(rotated)).sum()), True))
    if m == 1:
        near = np.array([[1.0, 0.95, 0.1]])[:, :n]  # two above the mean: the witness must choose
        cases.append((near, float(H[0, 0]), False))
    if n == 1:
        cases.append((gamma, float(np.linalg.eigvalsh(gamma * rotated * gamma.T)[-1]), False))
    errors = []
    for weights, value, at_once in cases:
        found = weighted_spectral_smoothness(tensor(H), tensor(weights), tensor(Q), iterations=100)
        ends = [*found]
        if at_once:  # the certificate does not need a good witness
            ends.append(weighted_spectral_smoothness(tensor(H), tensor(weights), tensor(Q), iterations=0, restarts=1).upper)
        errors += [abs(float(end) - value) / max(value, 1e-3) for end in ends]
    return errors


def refuses(function: Any, *arguments: Any) -> bool:
    """Return whether a call raises ValueError."""
    try:
        function(*arguments)
    except ValueError:
        return True
    return False


def sums_code(run: Run) -> Evidence:
    """S3: the library's sums and its trace quadratic against fractions.  Twin: with Γ transposed."""
    rng = run.rng()
    worst, count = 0.0, 0
    for m, n in ((1, 1), (2, 2), (3, 3), (2, 3), (3, 1)):
        for _ in range(run.count(4, 40)):
            A = np.round(rng.standard_normal((m, m)), 3)
            H, gamma, X, B = A + A.T, np.round(rng.standard_normal((m, m)), 3), np.round(rng.standard_normal((m, n)),
                3), np.round(rng.standard_normal((m, n)), 3)
            h, x, b, a = fractions(H.tolist()), fractions(X.tolist()), fractions(B.tolist()), fractions(A.tolist())
            g = fractions((gamma.T if run.twin else gamma).tolist())
            slope = [[sum(h[i][k] * x[k][j] for k in range(m)) + b[i][j] for j in range(n)] for i in range(m)]
            value = sum((slope[i][j] + b[i][j]) * x[i][j] for i in range(m) for j in range(n)) / 2
            cells = [(i, j) for i in range(m) for j in range(m)]
            f = TraceQuadratic(tensor(H), tensor(B))
            pairs = [
                (signed_weighted_sum(tensor(A), tensor(gamma)), sum(a[i][j] * g[i][j] for i, j in cells)),
                (absolute_weighted_sum(tensor(A), tensor(gamma)), sum(abs(a[i][j]) * g[i][j] for i, j in cells)),
                (f.value(tensor(X)), value), *zip(f.gradient(tensor(X)).flatten(), itertools.chain(*slope), strict=True),
            ]
            size = 1.0 + float(np.abs(H).sum())
            worst = max(worst, *(abs(float(found) - float(exact)) / size for found, exact in pairs))
            count += 1
    batch = tensor(rng.standard_normal((3, 2, 2)))
    for value in (signed_weighted_sum, absolute_weighted_sum):
        together = value(batch, batch[0])
        worst = max(worst, *(float((together[i] - value(batch[i], batch[0])).abs()) for i in range(3)))
    return measured(worst, allowed=1e-13, summary="signed and absolute sums, value and gradient of ½tr(XᵀHX)+tr(BᵀX) against fractions",
                    covers="sizes to 3×3, batches", budget={"instances": count})


def exact_code(run: Run) -> Evidence:
    """S5: box_smoothness and spectral_smoothness against enumeration and known eigenvalues.  Twin: without positive parts."""
    rng = run.rng()
    worst, count = 0.0, 0
    for m, k in itertools.product((1, 2, 3, 5), range(run.count(3, 20))):
        C = np.round(rng.standard_normal((m, max(1, m - k % 2))), 3)
        exact = float(corner_maximum(fractions((C @ C.T).tolist())))
        worst = max(worst, abs(float(box_smoothness(tensor(C @ C.T))) - exact) / max(exact, 1e-3))
        eigenvalues = np.sort(rng.integers(-3, 4, size=m).astype(float))[::-1]
        Q = random_orthogonal(rng, m)
        H = (Q * eigenvalues) @ Q.T
        for n in (1, 2, m, m + 1):
            top = eigenvalues[: min(m, n)]
            expected = float(top.sum() if run.twin else top.clip(min=0).sum())
            worst = max(worst, abs(float(spectral_smoothness(tensor((H + H.T) / 2), n)) - expected))
            count += 1
    stack = tensor(rng.standard_normal((2, 3, 4, 4)))
    stack = stack @ stack.mT
    for i, j in itertools.product(range(2), range(3)):
        for value in (box_smoothness, lambda H: spectral_smoothness(H, 2)):
            worst = max(worst, float((value(stack)[i, j] - value(stack[i, j])).abs() / value(stack[i, j])))
    for refused in (torch.eye(17, dtype=torch.float64), tensor([[1.0, 0.0], [0.0, -1.0]])):
        worst = worst if refuses(box_smoothness, refused) else WRONG
    return measured(worst, allowed=1e-11, summary="enumeration in fractions, and H with known eigenvalues", budget={"instances": count},
                    covers="m ≤ 5, n below, at and above m, rank-deficient and indefinite H, batches, refusals")
