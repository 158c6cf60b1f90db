"""The S∞ rule of SPEC section 3 in plain NumPy, to compare the library with.

`Independent` is written from the formulas alone, for one matrix at a time: plain squares, one `if` per preset. It shares no
code with the package. Eigenvectors are determined up to sign only (a null space up to rotation), and what the rule does
depends on them where M' is not carried; so `Independent` is told the bases that the library used, and measures whether they
are bases of *its own* L and R.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deva_theory.rules import Rule, deva_spectral

Array = NDArray[np.float64]
Bases = tuple[Array, Array]

VARIANTS = ("full", "memory", "instantaneous", "sign", "none", "snr")
ROUNDING_LEVEL = 1e-9
"""Relative size below which a number is a zero that rounding has hidden."""


def polar(X: Array) -> Array:
    """Return U Vᵀ over the singular values that are not zero up to rounding."""
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = s > ROUNDING_LEVEL * s.max()
    return U[:, kept] @ Vt[kept]


def quintic(X: Array, *, renormalise: bool = True) -> Array:
    """Return the reference's msign: five quintic steps after ‖·‖_F, the first one re-normalised by ‖(YYᵀ)²‖_F^{1/4}."""
    Y = X / max(np.linalg.norm(X), 1e-300)
    Y = Y.T if X.shape[0] > X.shape[1] else Y
    size = np.linalg.norm(Y @ Y.T @ Y @ Y.T) ** 0.25
    Y = Y / size if renormalise and size > 0 else Y
    for _ in range(5):
        A = Y @ Y.T
        Y = 3.4445 * Y + (-4.7750 * A + 2.0315 * A @ A) @ Y
    return Y.T if X.shape[0] > X.shape[1] else Y


MSIGN: dict[str, Callable[[Array], Array]] = {"svd": polar, "quintic": quintic, "plain quintic": partial(quintic, renormalise=False)}


def norms(X: Array) -> tuple[Array, Array]:
    """Return the 2-norms of the rows and of the columns."""
    return np.sqrt((X**2).sum(1)), np.sqrt((X**2).sum(0))


@dataclass(frozen=True)
class Setting:
    """Which rule, for both sides of the comparison.

    Attributes
    ----------
    preset, variant, betas, beta3, eps, every, nesterov, refresh
        As `deva_spectral` takes them (`every` is k); None is the default, which `Independent` knows from SPEC.
    method : str
        A key of `MSIGN`: the library's is exact, or the reference's quintic in float64.
    carries : bool, optional
        Whether `Independent` takes M' along at a refresh; None as the preset has it, controls turn it over.
    restores : bool
        Whether `Independent` rotates back.
    decays_first : bool, optional
        Whether weight decay precedes the update; None as the preset has it.
    """

    preset: str
    variant: str = "full"
    betas: tuple[float, float] | None = None
    beta3: float | None = None
    eps: float | None = None
    every: int | None = None
    nesterov: bool | None = None
    refresh: str | None = None
    method: str = "svd"
    carries: bool | None = None
    restores: bool = True
    decays_first: bool | None = None

    def rule(self) -> Rule:
        """Return the library's rule; options left at None are not passed."""
        given = {
            "betas": self.betas, "beta3": self.beta3, "eps": self.eps, "refresh_every": self.every, "nesterov": self.nesterov,
            "refresh": self.refresh,
        }
        given |= {"polar": "newton_schulz", "polar_dtype": torch.float64} if self.method == "quintic" else {"polar": "svd"}
        return deva_spectral(preset=self.preset, variant=self.variant, **{k: v for k, v in given.items() if v is not None})


class Step(NamedTuple):
    """One call: the direction, Γ, where Γ acts on more than rounding, and how far the bases are from what they should be."""

    direction: Array
    gamma: Array
    live: NDArray[np.bool_]
    residual: float


class Independent:
    """SPEC section 3, one matrix."""

    def __init__(self, setting: Setting, shape: tuple[int, int]) -> None:
        m, n = shape
        self.s, self.shape, self.t = setting, shape, 0
        self.reference, self.corrected = setting.preset == "reference", setting.preset == "corrected"
        self.b1, self.b2 = setting.betas or (0.95, 0.95)
        self.b3 = self.b2 if setting.beta3 is None else setting.beta3
        self.every = setting.every or 10
        self.eps = setting.eps if setting.eps is not None else (1e-16 if self.corrected else 1e-8)
        self.nesterov = self.reference if setting.nesterov is None else setting.nesterov
        self.by_qr = (setting.refresh or ("eigh" if setting.preset == "paper" else "qr")) == "qr"
        self.carries = setting.preset != "paper" if setting.carries is None else setting.carries
        self.L, self.R, self.M, self.V = np.zeros((m, m)), np.zeros((n, n)), np.zeros((m, n)), np.zeros((m, n))
        self.rows, self.columns = np.zeros(m), np.zeros(n)
        self.bases: Bases | None = None

    def __call__(self, G: Array, bases: Bases) -> Step:
        """Take one gradient, and the bases that the library projected it on."""
        if self.reference and self.bases is None:  # (1): only L, R and their bases; no step, t stays
            self._average(G)
            residual = self._build(bases)
            return Step(np.zeros(self.shape), np.zeros(self.shape), np.zeros(self.shape, dtype=bool), residual)
        self.t += 1
        if not self.reference:
            self._average(G)
        residual = self._follow(bases)
        Q_L, Q_R = bases
        P = Q_L.T @ G @ Q_R
        self.M = self.b1 * self.M + (1 - self.b1) * P
        gamma = self._adaptation(P)
        N = (1 - self.b1) * P + self.b1 * self.M if self.nesterov else self.M
        if self.s.variant == "sign" or (self.s.variant == "memory" and self.reference):
            N = np.where(np.abs(N) > ROUNDING_LEVEL * np.abs(N).max(), np.sign(N), 0.0)
        D = gamma * MSIGN[self.s.method](N)
        D = Q_L @ D @ Q_R.T if self.s.restores else D
        D = D * 0.2 * math.sqrt(max(self.shape))
        if self.reference:  # (5), (7)
            D = D * math.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
            self._average(G)
        r, c = norms(self.M)
        live = np.outer(r > ROUNDING_LEVEL * r.max(), c > ROUNDING_LEVEL * c.max())
        return Step(D, gamma, live, residual)

    def _average(self, G: Array) -> None:
        self.L = self.b3 * self.L + (1 - self.b3) * G @ G.T
        self.R = self.b3 * self.R + (1 - self.b3) * G.T @ G

    def _adaptation(self, P: Array) -> Array:
        s, b2 = self.s, self.b2
        momentum = self.M / (1 - self.b1**self.t) if self.corrected else self.M
        from_gradient = s.variant in ("instantaneous", "snr") or (s.variant == "memory" and self.reference)
        r, c = norms(P if from_gradient else momentum)
        if s.variant == "memory" and s.preset == "paper":
            self.rows, self.columns = b2 * self.rows + (1 - b2) * r, b2 * self.columns + (1 - b2) * c
            V = np.outer(self.rows, self.columns)
        elif s.variant == "memory":
            self.rows, self.columns = b2 * self.rows + (1 - b2) * r**2, b2 * self.columns + (1 - b2) * c**2
            V = np.sqrt(np.outer(self.rows, self.columns))
        else:
            V = self.V = b2 * self.V + (1 - b2) * np.outer(r, c)
        above = np.outer(*norms(P if s.variant == "instantaneous" else momentum))
        if self.corrected:
            V = V / (1 - b2**self.t)
            below = np.maximum(V, self.eps * V.max())
        elif self.reference:
            below = V + self.eps
        else:
            above, below = above + self.eps, V
        if s.variant == "none":
            return np.ones(self.shape)
        return np.sqrt(np.divide(above, below, out=np.zeros(self.shape), where=below > 0))

    def _build(self, bases: Bases) -> float:
        self.bases = bases
        return max(_eigen_residual(A, Q) for A, Q in zip((self.L, self.R), bases, strict=True))

    def _follow(self, bases: Bases) -> float:
        """Carry the state into the bases of this step; return how far they are from what the rule prescribes."""
        if self.bases is None:
            return self._build(bases)
        if (self.t - 1) % self.every or self.t == 1:
            return max(float(np.abs(Q - old).max()) for Q, old in zip(bases, self.bases, strict=True))
        found = [self._refreshed(A, old, new) for A, old, new in zip((self.L, self.R), self.bases, bases, strict=True)]
        (left, rows), (right, columns) = found
        if self.carries:
            (old_L, old_R), (Q_L, Q_R) = self.bases, bases
            self.M = Q_L.T @ (old_L @ self.M @ old_R.T) @ Q_R
        if self.s.preset != "paper":
            self.V = self.V[rows][:, columns]
            self.rows, self.columns = self.rows[rows], self.columns[columns]
        self.bases = bases
        return max(left, right)

    def _refreshed(self, A: Array, old: Array, new: Array) -> tuple[float, NDArray[np.int64]]:
        """Return the residual of a new basis, and the order of the old columns that it continues."""
        if not self.by_qr:
            return _eigen_residual(A, new), np.arange(len(A))
        image = A @ old
        order = np.argsort(-(old * image).sum(0), kind="stable")
        if self.corrected:
            # Columns whose image depends on those before them go behind the others; their directions are free.
            dependent = _dependent(image[:, order])
            order = np.concatenate([order[~dependent], order[dependent]])
        # new · triangle = image is a QR decomposition, whatever the signs.
        triangle = new.T @ image[:, order]
        return max(float(np.abs(np.tril(triangle, -1)).max(initial=0.0)) / max(np.abs(image).max(), 1e-300), _orthogonality(new)), order


def _dependent(image: Array) -> NDArray[np.bool_]:
    basis, size = np.zeros((len(image), 0)), np.linalg.norm(image, axis=0).max()
    found = []
    for column in image.T:
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)
        found.append(np.linalg.norm(rest) <= ROUNDING_LEVEL * size)
        if not found[-1]:
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return np.array(found)


def _orthogonality(Q: Array) -> float:
    return float(np.abs(Q.T @ Q - np.eye(len(Q))).max())


def _eigen_residual(A: Array, Q: Array) -> float:
    """Return how far Q is from eigenvectors of A with eigenvalues in descending order."""
    B = Q.T @ A @ Q
    size = max(np.abs(A).max(), 1e-300)
    ascent = np.diff(np.diag(B)).max(initial=0.0)
    return max(float(np.abs(B - np.diag(np.diag(B))).max()) / size, float(ascent) / size, _orthogonality(Q))


def stream(rng: np.random.Generator, shape: tuple[int, int], kind: str, steps: int, size: float = 1.0) -> Array:
    """Return gradients: "full" rank; of rank "one", new directions every step; in a "fixed" subspace of lower rank."""
    m, n = shape
    if kind == "full":
        return size * (rng.standard_normal(shape) + rng.standard_normal((steps, m, n)))
    if kind == "one":
        return size * rng.standard_normal((steps, m, 1)) * rng.standard_normal((steps, 1, n))
    rank = max(1, min(shape) - 1)
    left, right = rng.standard_normal((m, rank)), rng.standard_normal((rank, n))
    return size * left @ (rng.standard_normal((rank, rank)) + rng.standard_normal((steps, rank, rank))) @ right
