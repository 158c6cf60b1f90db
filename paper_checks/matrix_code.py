"""Whether the library computes what SPEC M1, M3, M4 and M6 say; M7 is in `matrix_transition`.

Every claim runs public functions against numbers that come from elsewhere: rational singular value decompositions whose powers are
exact, eigenvalues at 40 digits, or the formulas in plain NumPy and Python floats, one number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deva_theory.certify import RationalSVD, random_orthogonal, rational_svd
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from deva_theory.linalg import gram_power, polar_factor, symmetric_power
from deva_theory.rules import Adaptation, FullMatrixAdaGrad, Rule, Shampoo, deva_spectral

Array = NDArray[np.float64]
TOLERANCE = 1e-6
"""Relative to numbers of size 1: rounding times condition numbers (at most 1e4 for P), and its root where a Γ should be 0; a wrong
formula is off by percents."""

SHAPES = ((2, 2), (3, 2), (2, 3), (3, 3), (1, 3), (3, 1))
PRESETS = ("corrected", "paper", "reference")
VARIANTS = ("full", "memory", "instantaneous", "sign", "none", "snr")


class Comparison:
    """The largest difference between what the library returned and what it should have."""

    def __init__(self) -> None:
        self.worst, self.count, self.where = 0.0, 0, ""

    def add(self, where: str, found: Any, expected: Any) -> None:
        """Compare two arrays; a difference counts relative to the largest expected entry, or to 1 if that is less."""
        a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if a.shape != b.shape:
            raise AssertionError(f"{where}: shape {a.shape}, expected {b.shape}")
        self.count += a.size
        difference = float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1.0))
        # A NaN must not pass for agreement.
        if not difference <= self.worst:
            self.worst, self.where = difference if math.isfinite(difference) else math.inf, where

    def evidence(self, run: Run, subject: str) -> Evidence:
        """Return the verdict: support within the tolerance, refutation beyond it."""
        agrees = self.worst <= TOLERANCE
        where = "" if agrees else f", in {self.where}"
        return Evidence(
            Verdict.SUPPORTED if agrees and self.count else Verdict.REFUTED,
            method="comparison",
            summary=f"{subject}: largest difference {self.worst:.2g}{where}; {self.count} numbers",
            numbers={"largest_difference": self.worst, "tolerance": TOLERANCE},
            margin=TOLERANCE - self.worst if math.isfinite(self.worst) else None,
            budget={"numbers": self.count},
            seed=run.seed,
        )


# ---- M1: one sample ----------------------------------------------------------------------------------------


def _batches(run: Run, stream: int, size: int) -> Iterator[list[RationalSVD]]:
    """Draw batches of matrices of one shape, every rank from full to 0 among them."""
    rng = run.rng(stream)
    for m, n in SHAPES:
        yield [rational_svd(rng, m, n, min(m, n) - i % (min(m, n) + 1), distinct=i % 3 != 1) for i in range(size)]


def _stack(matrices: Iterable[Any]) -> Array:
    return np.stack([A.numpy() for A in matrices])


def one_sample(run: Run) -> Evidence:
    """Polar factor, Kronecker and Shampoo updates, brackets at t = 1; twin: the gradient over its 2-norm as polar factor."""
    found = Comparison()
    for batch in _batches(run, 20, run.count(8, 64)):
        G, O = _stack(s.matrix() for s in batch), _stack(s.msign() for s in batch)
        left, right = (_stack(s.power_left(0) for s in batch), _stack(s.power_right(0) for s in batch))
        outer = np.stack([np.kron(R, L) for L, R in zip(left, right, strict=True)])
        if run.twin:
            O = G / np.array([max(float(max(s.sigma)), 1e-300) for s in batch])[:, None, None]
        x, shape = torch.from_numpy(G), f"{G.shape[1]}×{G.shape[2]}"
        found.add(f"polar_factor, {shape}", polar_factor(x), O)
        found.add(f"polar_factor of a power of two, {shape}", polar_factor(x * 2.0**600), O)
        split = decompose(G[None], kind="kronecker")  # a NumPy history
        for name in ("scale_invariant", "update"):
            found.add(f"kronecker {name}, {shape}", getattr(split, name)[0], O)
        found.add(f"kronecker bracket, {shape}", split.variance_adaptation[0], outer)
        found.add(f"kronecker recomposed, {shape}", split.recompose()[0], O)
        for beta in (None, 0.75):
            weight = 1.0 if beta is None else 1.0 - beta
            split = decompose(x[None], kind="shampoo", beta=beta)
            found.add(f"shampoo polar factor, {shape}, {beta}", split.scale_invariant[0], O)
            for name, y in (("update", split.update), ("recomposed", split.recompose())):
                found.add(f"shampoo {name}, {shape}, {beta}", y[0], O * weight**-0.5)
            for name, y, projector in zip(("left", "right"), split.variance_adaptation, (left, right), strict=True):
                found.add(f"shampoo {name} bracket, {shape}, {beta}", y[0], projector * weight**-0.25)
            rule = Shampoo(beta=beta)
            found.add(f"Shampoo rule, {shape}, {beta}", rule.update(x, rule.init(x))[0], O * weight**-0.5)
    return found.evidence(run, "polar factor and one-step Kronecker and Shampoo")


def powers(run: Run) -> Evidence:
    """`symmetric_power` and `gram_power` at multiples of 1/4; twin: the root forgotten, exponent 2p for p."""
    found = Comparison()
    exponents = [Fraction(k, 4) for k in (4, 2, 1, 0, -1, -2, -4)]
    for batch in _batches(run, 21, run.count(8, 64)):
        G = torch.from_numpy(_stack(s.matrix() for s in batch))
        for p in exponents:
            q = 2 * p if run.twin else p
            left, right = _stack(s.power_left(q) for s in batch), _stack(s.power_right(q) for s in batch)
            found.add(f"gram_power(G, {p})", gram_power(G, float(p)), left)
            found.add(f"gram_power(Gᵀ, {p})", gram_power(G.mT, float(p)), right)
            found.add(f"symmetric_power(GGᵀ, {p})", symmetric_power(G @ G.mT, float(p)), left)
            # Far from 1, where a naive power would overflow or vanish.
            for e in (600, -600):
                scaled = symmetric_power(G.mT @ G * 2.0**e, float(p)) * 2.0 ** (-e * float(p))
                found.add(f"symmetric_power(2^{e} GᵀG, {p})", scaled, right)
    return found.evidence(run, "powers of psd matrices")


# ---- M3: histories, at 40 digits ---------------------------------------------------------------------------


def mp_power(A: Any, p: float) -> Any:
    """Return the (pseudo-inverse) power of a psd matrix; eigenvalues below 1e-20 of the largest count as zero."""
    eigenvalues, Q = mpmath.eigsy(A)
    cut = max([abs(x) for x in eigenvalues]) * mpmath.mpf(10) ** -20
    return Q * mpmath.diag([x ** mpmath.mpf(p) if x > cut else mpmath.mpf(0) for x in eigenvalues]) * Q.T


def mp_kron(A: Any, B: Any) -> Any:
    """Return ``A ⊗ B``."""
    return mpmath.matrix([[A[i, j] * B[k, l] for j in range(A.cols) for l in range(B.cols)] for i in range(A.rows) for k in range(B.rows)])


def mp_vec(G: Any) -> Any:
    """Return the columns of G, stacked."""
    return mpmath.matrix([G[i, j] for j in range(G.cols) for i in range(G.rows)])


def _floats(A: Any) -> Array:
    return np.array([[float(A[i, j]) for j in range(A.cols)] for i in range(A.rows)])


def _weighted(matrices: Sequence[Any], beta: float | None) -> Any:
    """Return the sum, or the EMA started at 0."""
    total = matrices[0] * 0
    for A in matrices:
        total = total + A if beta is None else mpmath.mpf(beta) * total + (1 - mpmath.mpf(beta)) * A
    return total


def mp_split(kind: str, past: Sequence[Any], beta: float | None = None, root: float = 0.5) -> tuple[Array, list[Array], Array]:
    """Return update, brackets and scale-invariant term at the last of the gradients; `root`: the power of the present sample's own P."""
    G = past[-1]
    polar = _floats(mp_power(G * G.T, -0.5) * G)
    if kind == "kronecker":
        P = [mp_kron(mp_power(A.T * A, 0.5), mp_power(A * A.T, 0.5)) for A in past]
        inverse = mp_power(_weighted(P, beta), -0.5)
        update = _floats(inverse * mp_vec(G)).reshape(G.cols, G.rows).T
        return update, [_floats(inverse * mp_power(P[-1], root))], polar
    if kind == "shampoo":
        L = mp_power(_weighted([A * A.T for A in past], beta), -0.25)
        R = mp_power(_weighted([A.T * A for A in past], beta), -0.25)
        return _floats(L * G * R), [_floats(L * mp_power(G * G.T, root / 2)), _floats(mp_power(G.T * G, root / 2) * R)], polar
    g = mp_vec(G)
    inverse = mp_power(_weighted([mp_vec(A) * mp_vec(A).T for A in past], beta), -0.5)
    norm = mpmath.norm(g)
    return _floats(inverse * g)[:, 0], [_floats(inverse * mp_power(g * g.T, root))], _floats(g / norm if norm else g)[:, 0]


def _integer_history(rng: np.random.Generator, shape: tuple[int, int], kind: int) -> Array:
    """Return three gradients of small integers: generic, of rank one, or with a zero gradient in front."""
    history = rng.integers(-2, 3, (3, *shape)).astype(np.float64)
    history[1] = np.outer(rng.integers(1, 3, shape[0]), rng.integers(-1, 3, shape[1])) if kind % 3 == 1 else history[1]
    history[0] = 0.0 if kind % 3 == 2 else history[0]
    return history


def history_split(run: Run) -> Evidence:
    """Updates, brackets and scale-invariant terms of whole histories, brackets of sums ≤ 1; twin: P_t for P_t^{1/2} in the brackets."""
    found, rng, largest = Comparison(), run.rng(22), 0.0
    cases = [("kronecker", None), ("shampoo", None), ("shampoo", 0.75), ("full_matrix", None)]
    with mpmath.workdps(40):
        for i, (round_, shape) in enumerate(product(range(run.count(1, 8)), SHAPES)):
            history = _integer_history(rng, shape, i + round_)
            exact = [mpmath.matrix(G.tolist()) for G in history]
            for kind, beta in cases:
                flat = history.transpose(0, 2, 1).reshape(3, -1) if kind == "full_matrix" else history
                options = {"beta": beta} if kind == "shampoo" else {}
                split = decompose(flat, kind=kind, **options)
                brackets = split.variance_adaptation if isinstance(split.variance_adaptation, tuple) else (split.variance_adaptation,)
                rules: dict[str, FullMatrixAdaGrad | Shampoo] = {"full_matrix": FullMatrixAdaGrad(beta=beta), "shampoo": Shampoo(beta=beta)}
                rule = rules.get(kind)
                state = rule.init(torch.from_numpy(flat[0])) if rule else None
                for t in range(len(history)):
                    update, factors, unit = mp_split(kind, exact[: t + 1], beta, 1.0 if run.twin else 0.5)
                    place = f"{kind}, beta {beta}, {shape[0]}×{shape[1]}, t = {t + 1}"
                    found.add(f"{place}: update", split.update[t], update)
                    found.add(f"{place}: recomposed", split.recompose()[t], update)
                    found.add(f"{place}: scale-invariant term", split.scale_invariant[t], unit)
                    for B, F in zip(brackets, factors, strict=True):
                        found.add(f"{place}: bracket", B[t], F)
                        largest = max(largest, float(np.linalg.norm(B[t], 2)) * (1.0 if beta is None else (1.0 - beta) ** 0.25))
                    if rule is not None and state is not None:
                        direction, state, _ = rule.update(torch.from_numpy(flat[t].copy()), state)
                        found.add(f"{place}: {rule.name} rule", direction, update)
    found.add("largest bracket norm over its bound", max(largest, 1.0), 1.0)
    evidence = found.evidence(run, "Kronecker, Shampoo and full-matrix splits at 40 digits")
    return replace(evidence, numbers={**evidence.numbers, "largest_bracket_over_bound": largest})


# ---- M4: a fixed eigenbasis --------------------------------------------------------------------------------


def ema(values: Iterable[Array], beta: float) -> Array:
    """Return the EMA from zero of the values."""
    mean: Any = 0.0
    for x in values:
        mean = beta * mean + (1.0 - beta) * x
    return np.asarray(mean)


def root_ratio(above: Array, below: Array) -> Array:
    """Return ``√(above/below)``, 0 where `below` is 0."""
    return np.sqrt(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


def common_basis_gamma(sigma: Array, betas: tuple[float, float], preset: str, variant: str) -> tuple[Array, Array]:
    """Return Γ in the common basis and the momentum's singular values after the history ``(T, k)``, at ε = 0."""
    (beta1, beta2), t = betas, len(sigma)
    corrected = preset == "corrected"
    momenta = np.stack([ema(sigma[: s + 1], beta1) / (1.0 - beta1 ** (s + 1) if corrected else 1.0) for s in range(t)])
    from_gradient = variant in ("snr", "instantaneous") or (variant == "memory" and preset == "reference")
    tracked, now = sigma if from_gradient else momenta, sigma[-1] if variant == "instantaneous" else momenta[-1]
    if variant == "none":
        return np.ones((len(now), len(now))), momenta[-1]
    if variant != "memory":
        V = ema([np.outer(a, a) for a in tracked], beta2)
    elif preset == "paper":
        V = np.outer(ema(tracked, beta2), ema(tracked, beta2))
    else:
        V = np.sqrt(np.outer(ema(tracked**2, beta2), ema(tracked**2, beta2)))
    return root_ratio(np.outer(now, now), V / (1.0 - beta2**t) if corrected else V), momenta[-1]


def run_rule(rule: Rule, history: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """Yield direction and diagnostics of every step."""
    state = rule.init(history[0])
    for G in history:
        direction, state, details = rule.update(G, state, diagnostics=True)
        yield direction, details


def common_basis(run: Run) -> Evidence:
    """The S∞ rule and the Kronecker split under M4's hypothesis; twin: plain means E[σ_i] E[σ_j] below in Γ."""
    found, rng = Comparison(), run.rng(23)
    # A sign of what rounding leaves off the diagonal is noise where the preset takes it literally.
    cases = [c for c in product(PRESETS, VARIANTS) if c not in (("reference", "sign"), ("reference", "memory"))]
    for i, (round_, (preset, variant)) in enumerate(product(range(run.count(1, 10)), cases)):
        m, n = SHAPES[(i + round_) % len(SHAPES)]
        k, betas = min(m, n), ((0.0, 0.9), (0.5, 0.8))[(i + round_) % 2]
        U, V = random_orthogonal(rng, m).numpy()[:, :k], random_orthogonal(rng, n).numpy()[:, :k]
        sigma = rng.uniform(0.5, 2.0, (5, k))
        if k > 1 and betas[0] > 0:
            sigma[2, 1] = 0.0
        dead = i % 4 == 3  # a direction without gradient: its Γ is rounding over rounding
        sigma[:, k - 1] *= not dead
        history = np.einsum("ik,tk,jk->tij", U, sigma, V)
        every = 100 if preset == "paper" else (1, 2, 100)[i % 3]
        options: dict[str, Any] = {"preset": preset, "variant": variant, "betas": betas, "eps": 0.0, "refresh_every": every, "polar": "svd"}
        rule = deva_spectral(**options, nesterov=False)
        probe = U @ rng.normal(size=(k, k)) @ V.T
        seen = sigma[1:] if preset == "reference" else sigma  # its first call only builds the bases
        for t, (direction, details) in enumerate(run_rule(rule, torch.from_numpy(history)), start=len(seen) - len(sigma) + 1):
            place = f"{preset}, {variant}, {m}×{n}, t = {t}"
            if t == 0:
                found.add(f"{place}: skipped", direction, np.zeros((m, n)))
                continue
            gamma, amplitude = common_basis_gamma(seen[:t], betas, preset, variant)
            if run.twin:
                mean = ema(seen[:t], betas[1])
                gamma = root_ratio(np.outer(amplitude, amplitude), np.outer(mean, mean))
            scale = 0.2 * math.sqrt(max(m, n))
            if preset == "reference":
                scale *= math.sqrt(1.0 - betas[1] ** t) / (1.0 - betas[0] ** t)
            found.add(f"{place}: direction", direction, scale * (U * (np.diagonal(gamma) * (amplitude > 0))) @ V.T)
            if not dead:
                found.add(f"{place}: Γ", details.adapt(torch.from_numpy(probe)), U @ (gamma * (U.T @ probe @ V)) @ V.T)
        # AdaGrad on the singular values, by the Kronecker preconditioner and through decompose.
        values = root_ratio(sigma[-1] ** 2, sigma.sum(0) ** 2 if run.twin else (sigma**2).sum(0))
        found.add(f"kronecker, {m}×{n}", decompose(history, kind="kronecker").update[-1], (U * values) @ V.T)
        split = decompose(history, kind=replace(rule, name="S∞"))
        found.add(f"decompose, {preset}, {variant}", split.recompose(), split.update)
    return found.evidence(run, "the S∞ rule in a fixed eigenbasis")


# ---- M6: the adaptation itself -----------------------------------------------------------------------------


def _amplitudes(X: Array, kind: str) -> tuple[Array, ...]:
    if kind == "entries":
        return (np.abs(X),)
    return np.sqrt((X**2).sum(-1, keepdims=True)), np.sqrt((X**2).sum(-2, keepdims=True))


def adaptation_formula(part: Adaptation, sources: dict[str, Array], corrections: dict[str, float]) -> Array:
    """Return Γ at the last step of the sources' histories ``(T, m, n)``, squares and means as SPEC writes them."""
    t = len(sources["momentum"])
    tracked = [_amplitudes(corrections[part.tracked] * X, part.amplitude) for X in sources[part.tracked]]
    above = _amplitudes(corrections[part.numerator] * sources[part.numerator][-1], part.amplitude) if part.numerator != "unit" else None

    def mean(values: list[Array]) -> Array:
        return np.sum(values, 0) if part.beta is None else ema(values, part.beta)

    if part.amplitude == "entries":
        V = mean([a[0] ** 2 for a in tracked])
        square = np.ones_like(V) if above is None else above[0] ** 2
    else:
        if part.factored == "no":
            V = mean([r * c for r, c in tracked])
        elif part.factored == "mean":
            V = mean([r for r, _ in tracked]) * mean([c for _, c in tracked])
        else:
            V = np.sqrt(mean([r**2 for r, _ in tracked]) * mean([c**2 for _, c in tracked]))
        square = np.ones_like(V) if above is None else above[0] * above[1]
    if part.bias_correction and part.beta is not None:
        V = V / (1.0 - part.beta**t)
    zero = V == 0
    if part.eps_mode == "outside":
        gamma = np.sqrt(square) / np.where(zero & (part.eps == 0), 1.0, np.sqrt(V) + part.eps)
    elif part.eps_mode == "inside":
        gamma = np.sqrt(square / np.where(zero & (part.eps == 0), 1.0, V + part.eps))
    elif part.eps_mode == "numerator":
        gamma = np.sqrt((square + part.eps) / np.where(zero, 1.0, V))
    else:
        gamma = np.sqrt(square / np.where(zero & (V.max() * part.eps == 0), 1.0, np.maximum(V, part.eps * V.max())))
    # 0/0 := 0, and Γ := 0 where V = 0 also with ε above it.
    floor = {"outside": part.eps, "inside": part.eps, "numerator": 0.0, "relative": part.eps * V.max()}[part.eps_mode]
    return np.where(zero & (floor == 0), 0.0, gamma)


def adaptation(run: Run) -> Evidence:
    """Γ of every kind, ε, correction and source on matrices with unequal rows and columns; twin: covariance and marginals exchanged."""
    found, rng = Comparison(), run.rng(24)
    kinds = [("entries", "no"), ("marginals", "no"), ("marginals", "root_mean_square"), ("marginals", "mean")]
    modes = [("outside", 0.0), ("outside", 0.1), ("inside", 0.1), ("numerator", 0.1), ("relative", 0.0), ("relative", 0.05)]
    above, below = ("momentum", "gradient", "unit"), ("momentum", "gradient", "scale_invariant")
    reach = list(product(kinds, modes, above, below, (None, 0.8), (False, True)))
    order, swap = -math.inf, {"no": "root_mean_square", "root_mean_square": "no", "mean": "no"}
    for i, ((amplitude, factored), (mode, eps), numerator, tracked, beta, correct) in enumerate(reach):
        if (factored == "mean" and correct) or (not run.full and i % 3):
            continue
        part = Adaptation(beta, numerator, tracked, amplitude, factored, eps, mode, correct)
        m, n = SHAPES[i % len(SHAPES)]
        sources = {name: rng.normal(size=(3, m, n)) for name in ("momentum", "gradient", "scale_invariant")}
        for X in sources.values():
            X[:, 0] *= 0.1  # rows and columns of different sizes
            X[:, :, -1] *= i % 2  # and a column that is zero throughout
        corrections = {"momentum": 1.5 if correct else 1.0, "gradient": 1.0, "scale_invariant": 1.0}
        state = part.init(torch.zeros(m, n, dtype=torch.float64))
        for t in range(3):
            now = {name: torch.from_numpy(X[t].copy()) for name, X in sources.items()}
            gamma = part.update(now, corrections, state, step=t + 1, event_ndim=2, donate=False)
        formula = replace(part, factored=swap[factored]) if run.twin and amplitude == "marginals" and not correct else part
        found.add(f"{part}, {m}×{n}", gamma, adaptation_formula(formula, sources, corrections))
        if factored == "root_mean_square" and numerator == tracked and mode == "outside":
            covariance = adaptation_formula(replace(part, factored="no"), sources, corrections)
            order = max(order, float((gamma.numpy() - covariance).max()))
    found.add("Γ from marginals over Γ from the covariance", max(order, 0.0), 0.0)
    evidence = found.evidence(run, "Γ of the library's adaptation")
    return replace(evidence, numbers={**evidence.numbers, "marginals_minus_covariance": order})
