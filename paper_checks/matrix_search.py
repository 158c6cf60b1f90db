"""False neighbours of the matrix decomposition: smallest counter-examples by enumeration, and their replays (SPEC M3 to M6).

A refuted statement and its repair go through the same enumeration: small integers in order of their sum. The first violation is the
counter-example; for the repair there must be none at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from deva_theory.linalg import eigenbasis, gram_power, polar_factor, symmetric_power
from deva_theory.rules import Adaptation
from deva_theory.rules.parts import marginals
from paper_checks.arrays import tensor
from paper_checks.matrix_code import mp_split

Rows = Sequence[Sequence[float]]
ROUNDING = 1e-9
"""A repaired statement may be missed by this much: no eigenvalue of the enumerated integers comes near zero without being zero."""


def integers(values: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return every array of these entries, ``(B, *shape)``, smallest first: by sum of sizes, fewest minus signs, large entries in front."""
    points = torch.tensor(list(product(sorted(values, reverse=True), repeat=math.prod(shape))), dtype=torch.float64)
    order = sorted(range(len(points)), key=lambda i: (float(points[i].abs().sum()), int((points[i] < 0).sum())))
    return points[order].reshape(-1, *shape)


def enumerated(
    run: Run,
    points: Tensor,
    violation: Callable[[Tensor], Tensor],
    margin: float,
    *,
    name: str,
    statement: str,
    replay: str,
    data: Callable[[Any], Mapping[str, Any]],
    summary: str,
    repair: str,
) -> Evidence:
    """Refute by the first point beyond the margin; support the repair where all stay within rounding."""
    values = violation(points)
    assert len(values) == len(points) and not bool(torch.isnan(values).any())
    worst = float(values.max())
    beyond = torch.nonzero(values > margin)[:, 0]
    counts = {"instances": len(points)}
    if len(beyond) == 0:
        verdict = Verdict.SUPPORTED if worst <= ROUNDING else Verdict.INCONCLUSIVE
        text = f"{repair if run.twin else summary}: largest violation {worst:.2g} on {len(points)} small integer instances"
        return Evidence(verdict, "search", text, numbers={"largest_violation": worst}, budget=counts, margin=margin - worst, seed=run.seed)
    first = int(beyond[0])
    found = float(values[first])
    return Evidence(
        Verdict.REFUTED,
        method="search",
        summary=f"{summary}: violated by {found:.4g} at {points[first].tolist()}, the smallest of {len(points)} integer instances",
        numbers={"violation": found, "violated": len(beyond)},
        margin=found - margin,
        budget=counts,
        seed=run.seed,
        counterexample=Counterexample(name, statement, f"paper_checks.{replay}", dict(data(points[first].tolist())), margin),
    )


# ---- M3: brackets ------------------------------------------------------------------------------------------


def _bracket(gradients: Tensor, exponent: float) -> Tensor:
    """Return ``‖L^{†p} (G_tG_tᵀ)^p‖`` at the last of ``(B, T, m, n)``, L the sum of all."""
    L = (gradients @ gradients.mT).sum(1)
    return torch.linalg.matrix_norm(symmetric_power(L, -exponent) @ gram_power(gradients[:, -1], exponent), 2)


def bracket_excess(*, gradients: Sequence[Rows], exponent: float) -> float:
    """Return ``‖L^{†p} (G_tG_tᵀ)^p‖ - 1`` at the last gradient."""
    return float(_bracket(tensor(gradients).unsqueeze(0), exponent)) - 1.0


def whole_powers(run: Run) -> Evidence:
    """The bracket ``L^† G_tG_tᵀ`` of whole powers is ≤ 1 as well; the repair takes the power 1/2."""
    exponent = 0.5 if run.twin else 1.0
    return enumerated(
        run, integers((-2, -1, 0, 1, 2) if run.full else (-1, 0, 1, 2), (2, 2, 1)), lambda x: _bracket(x, exponent) - 1.0, 0.1,
        name="M3-whole-powers", replay="matrix_search:bracket_excess", data=lambda x: {"gradients": x, "exponent": exponent},
        statement="‖L^{†p}(G_tG_tᵀ)^p‖ ≤ 1 for p = 1, as for p ≤ 1/2. False: squaring does not keep the order of matrices.",
        summary="‖L^† G_tG_tᵀ‖ ≤ 1", repair="‖L^{†1/2}(G_tG_tᵀ)^{1/2}‖ ≤ 1",
    )


def ema_excess(*, gradients: Sequence[Rows], beta: float, bound: float) -> float:
    """Return how far the larger Shampoo bracket at the last gradient exceeds the bound, with EMAs in place of sums."""
    return float(_ema_brackets(tensor(gradients).unsqueeze(1), beta)) - bound


def _ema_brackets(history: Tensor, beta: float) -> Tensor:
    left, right = decompose(history, kind="shampoo", beta=beta).variance_adaptation
    return torch.maximum(torch.linalg.matrix_norm(left[-1], 2), torch.linalg.matrix_norm(right[-1], 2))


def ema_brackets(run: Run) -> Evidence:
    """With EMAs from zero the brackets stay ≤ 1; the repair's bound is ``(1-β)^{-1/4}``."""
    beta = 0.5
    bound = (1.0 - beta) ** -0.25 if run.twin else 1.0
    return enumerated(
        run, integers((-1, 0, 1), (2, 2, 2) if run.twin else (1, 1, 1)),
        lambda x: _ema_brackets(x.movedim(1, 0), beta) - bound, 0.1,
        name="M3-ema-brackets", replay="matrix_search:ema_excess", data=lambda x: {"gradients": x, "beta": beta, "bound": bound},
        statement="The Shampoo brackets are ≤ 1 with EMAs in place of sums. False: the present sample has the weight 1-β, and alone it "
        "gives (1-β)^{-1/4}.",
        summary="EMA brackets ≤ 1", repair="EMA brackets ≤ (1-β)^{-1/4}",
    )


# ---- M4: signs ---------------------------------------------------------------------------------------------


def _eigenvalue_gap(sigma: Tensor, absolute: bool) -> Tensor:
    """Return ``‖P - diag(σ_j σ_i)‖₂`` for G = diag(σ), P from the library's powers."""
    G = torch.diag_embed(sigma)
    right, left = gram_power(G.mT, 0.5), gram_power(G, 0.5)
    P = torch.stack([torch.kron(R, L) for R, L in zip(right, left, strict=True)])
    s = sigma.abs() if absolute else sigma
    return torch.linalg.matrix_norm(P - torch.diag_embed((s.unsqueeze(-1) * s.unsqueeze(-2)).flatten(1)), 2)


def sign_gap(*, sigma: Sequence[float]) -> float:
    """Return the distance of P from the formula with signed coefficients."""
    return float(_eigenvalue_gap(tensor([sigma]), absolute=False))


def signed(run: Run) -> Evidence:
    """M4's eigenvalues are σ_j σ_i also for coefficients of either sign; the repair takes their absolute values."""
    return enumerated(
        run, integers(range(-3, 4) if run.full else (-1, 0, 1), (2,)), lambda x: _eigenvalue_gap(x, run.twin), 1.0,
        name="M4-signs", replay="matrix_search:sign_gap", data=lambda x: {"sigma": x},
        statement="P = (V⊗U) diag(σ_j σ_i) (V⊗U)ᵀ for G = U diag(σ) Vᵀ with σ of any sign. False: P is positive semidefinite, and "
        "σ_1 σ_2 may be negative; violation: 2-norm of the difference.",
        summary="the eigenvalues of P are σ_j σ_i for signed σ", repair="the eigenvalues of P are |σ_j σ_i|",
    )


# ---- M5: bases that move -----------------------------------------------------------------------------------


def entrywise_gaps(history: Tensor, norm: int | str = 2) -> Tensor:
    r"""Return ``‖entrywise - exact‖ / ‖exact‖`` at the last step of histories ``(T, B, m, n)``.

    Exact: ``(ΣP)^{†1/2} vec G_t``.  Entrywise: ``Γ_ij = √(r_i c_j / Σ_s r_i c_j)`` in the eigenbases of ``Σ GGᵀ`` and ``Σ GᵀG``,
    applied to ``msign G_t`` there.
    """
    exact = decompose(history, kind="kronecker").update[-1]
    Q_L, Q_R = eigenbasis((history @ history.mT).sum(0)), eigenbasis((history.mT @ history).sum(0))
    rows, columns = marginals(Q_L.mT @ history @ Q_R)
    amplitude = rows * columns
    total = amplitude.sum(0)
    gamma = torch.where(total > 0, amplitude[-1] / torch.where(total > 0, total, 1.0), 0.0).sqrt()
    entrywise = Q_L @ (gamma * (Q_L.mT @ polar_factor(history[-1]) @ Q_R)) @ Q_R.mT
    size = torch.linalg.matrix_norm(exact, norm)
    return torch.linalg.matrix_norm(entrywise - exact, norm) / torch.where(size > 0, size, 1.0)


def entrywise_gap(*, gradients: Sequence[Rows]) -> float:
    """Return the relative 2-norm distance of the two updates at the last gradient."""
    return float(entrywise_gaps(tensor(gradients).unsqueeze(1)))


def _clear_spectra(history: Tensor) -> Tensor:
    """Whether both sums have simple spectra, so that the eigenbases are unique up to signs, which do not matter."""
    def simple(A: Tensor) -> Tensor:
        values = torch.linalg.eigvalsh(A)
        return (values.diff(dim=-1) > 1e-6 * values[..., -1:]).all(-1)

    return simple((history @ history.mT).sum(0)) & simple((history.mT @ history).sum(0))


def _pairs(run: Run, invertible: bool) -> Tensor:
    """Return pairs of 2×2 matrices of small integers; for the repair, pairs in a common eigenbasis."""
    if run.twin:
        sigma = integers(range(4 if run.full else 3), (2, 2))
        turn = tensor([[0.6, -0.8], [0.8, 0.6]])
        bases = [torch.eye(2, dtype=torch.float64), turn, tensor([[0, 1], [1, 0]]) @ turn]
        pairs = torch.cat([U @ torch.diag_embed(sigma) @ V.mT for U in bases for V in bases])
    else:
        pairs = integers((-1, 0, 1), (2, 2, 2))
    last = torch.linalg.matrix_norm(pairs[:, 1]) > 0
    whole = (torch.linalg.det(pairs).abs() > 0.5).all(1) if invertible else last
    return pairs[_clear_spectra(pairs.movedim(1, 0)) & last & whole]


def _moving(run: Run, *, invertible: bool, name: str, statement: str) -> Evidence:
    return enumerated(
        run, _pairs(run, invertible), lambda x: entrywise_gaps(x.movedim(1, 0)), 0.1, name=name, statement=statement,
        replay="matrix_search:entrywise_gap", data=lambda x: {"gradients": x},
        summary="the entrywise Γ gives the exact update", repair="in a common eigenbasis the entrywise Γ gives the exact update",
    )


def moving(run: Run) -> Evidence:
    """The entrywise Γ is the exact split of any history; the repair: of histories in one eigenbasis."""
    evidence = _moving(
        run, invertible=False, name="M5-entrywise",
        statement="Γ_ij = √(r_i c_j/Σ r_i c_j) in the eigenbases of ΣGGᵀ and ΣGᵀG gives the exact update (ΣP)^{†1/2} vec G_t. False when "
        "the eigenbases of the gradients differ; violation: relative 2-norm distance of the updates.",
    )
    gaps = zip(MEASURED, entrywise_gaps(_turned(list(MEASURED))).tolist(), strict=True)
    return replace(evidence, numbers={**evidence.numbers, **{f"diag(30,1), Rot({a}) diag(10,1)": gap for a, gap in gaps}})


def moving_invertible(run: Run) -> Evidence:
    """The same for gradients of full rank."""
    return _moving(
        run, invertible=True, name="M5-invertible",
        statement="For invertible gradients the entrywise Γ in the eigenbases of ΣGGᵀ and ΣGᵀG gives the exact update. False all the same; "
        "violation: relative 2-norm distance of the updates.",
    )


FIRST, SECOND = [[30.0, 0.0], [0.0, 1.0]], [[10.0, 0.0], [0.0, 1.0]]
MEASURED = {0.1: 0.152, 0.3: 0.408, 0.8: 0.521}
"""What SPEC M5 rounds to .15, .41, .52: gap by angle, for diag(30, 1) and Rot(angle) diag(10, 1), relative 2-norm."""


def _turned(angles: Sequence[float], first: Rows = FIRST, second: Rows = SECOND) -> Tensor:
    a = tensor(angles)
    turns = torch.stack([torch.stack([a.cos(), -a.sin()], -1), torch.stack([a.sin(), a.cos()], -1)], -2)
    return torch.stack([tensor(first).expand(len(angles), 2, 2), turns @ tensor(second)])


def moving_bases_gap(*, first: Rows, second: Rows, angle: float) -> float:
    """Return how far the entrywise update is from the exact one at the second of `first`, Rot(angle) `second`."""
    return float(entrywise_gaps(_turned([angle], first, second)))


def independent_gap(angle: float, norm: Any = 2) -> float:
    """Return the same for SPEC's pair without the library: NumPy's eigenvectors, the exact update at 40 digits."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    history = [np.array(FIRST), turn @ np.array(SECOND)]
    with mpmath.workdps(40):
        exact, _, polar = mp_split("kronecker", [mpmath.matrix(G.tolist()) for G in history])
    Q_L, Q_R = (np.linalg.eigh(sum(grams))[1] for grams in ([G @ G.T for G in history], [G.T @ G for G in history]))
    turned = [Q_L.T @ G @ Q_R for G in history]
    amplitudes = [np.outer(np.sqrt((X**2).sum(1)), np.sqrt((X**2).sum(0))) for X in turned]
    entrywise = Q_L @ (np.sqrt(amplitudes[-1] / sum(amplitudes)) * (Q_L.T @ polar @ Q_R)) @ Q_R.T
    return float(np.linalg.norm(entrywise - exact, norm) / np.linalg.norm(exact, norm))


def gap(run: Run) -> Evidence:
    """The gaps at .1, .3, .8 rad are .152, .408, .521 in the relative 2-norm; twin: the Frobenius norm."""
    norm = "fro" if run.twin else 2
    found = entrywise_gaps(_turned(list(MEASURED)), norm).tolist()
    again = [independent_gap(angle, norm) for angle in MEASURED]
    off = max(abs(x - y) for x, y in zip(found, MEASURED.values(), strict=True))
    apart = max(abs(x - y) for x, y in zip(found, again, strict=True))
    slope = float(entrywise_gaps(_turned([1e-4]), norm)) / 1e-4
    holds = off <= 5e-4 and apart <= ROUNDING
    values = ", ".join(f"{x:.4f} at {a}" for a, x in zip(MEASURED, found, strict=True))
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED,
        method="comparison",
        summary=f"gap {values} rad: off by {off:.1g} from .152, .408, .521; {slope:.3f}·angle for small ones",
        numbers={f"gap_at_{a}": x for a, x in zip(MEASURED, found, strict=True)} | {"from_independent": apart, "slope_at_0": slope},
        margin=5e-4 - off,
        budget={"instances": len(found)},
        seed=run.seed,
    )


def gap_fall(*, first: Rows, second: Rows, angles: Sequence[float]) -> float:
    """Return by how much the gap at the first angle exceeds that at the second, larger one."""
    return moving_bases_gap(first=first, second=second, angle=angles[0]) - moving_bases_gap(first=first, second=second, angle=angles[1])


def monotone(run: Run) -> Evidence:
    """The gap grows with the angle up to a right angle; the repair: up to half a radian."""
    steps = run.count(1, 10)
    angles = [k / (10 * steps) for k in range((5 if run.twin else 15) * steps + 1)]
    gaps = entrywise_gaps(_turned(angles))
    peak = steps * int(gaps[::steps].argmax())  # a tenth of a radian is fine enough for an example
    fall = float(gaps[peak] - gaps[-1])
    falls = bool((gaps.diff() < 0).any())
    data = {"first": FIRST, "second": SECOND, "angles": [angles[peak], angles[-1]]}
    example = Counterexample(
        "M5-monotone", "The further the left bases of diag(30, 1) and Rot(angle) diag(10, 1) are apart, up to a right angle, the larger "
        "the gap. False: at a right angle they agree again but for order and sign; violation: by how much the gap falls.",
        "paper_checks.matrix_search:gap_fall", data, 0.1,
    )
    return Evidence(
        Verdict.REFUTED if fall > 0.1 else Verdict.INCONCLUSIVE if falls else Verdict.SUPPORTED,
        method="search",
        summary=f"gap {float(gaps[peak]):.4f} at {angles[peak]:g} rad, {float(gaps[-1]):.4f} at {angles[-1]:g} rad; {len(angles)} angles",
        numbers={"peak": angles[peak], "largest": float(gaps[peak]), "last": float(gaps[-1])},
        margin=abs(fall - 0.1),
        budget={"instances": len(angles)},
        seed=run.seed,
        counterexample=example if fall > 0.1 else None,
    )


# ---- M6: plain means ---------------------------------------------------------------------------------------


def _gammas(samples: Tensor, factored: str) -> Tensor:
    """Return Γ of the last of the samples σ ``(B, T, k)`` by the library, means over the T samples."""
    part = Adaptation(None, numerator="gradient", tracked="gradient", amplitude="marginals", factored=factored)
    X = torch.diag_embed(samples).movedim(1, 0)
    state = part.init(X[0])
    for G in X:
        sources = {"gradient": G, "momentum": G, "scale_invariant": G}
        gamma = part.update(sources, dict.fromkeys(sources, 1.0), state, step=1, event_ndim=2, donate=False)
    # The part sums: √T turns the sum of products into a mean, T the product of two sums.
    return gamma * (len(X) if factored == "mean" else len(X) ** 0.5)


def plain_means(samples: Tensor, marginal: str) -> Tensor:
    """Return Γ_12 from the marginals minus Γ_12 from the covariance."""
    return (_gammas(samples, marginal) - _gammas(samples, "no"))[:, 0, 1]


def plain_means_excess(*, samples: Rows, sign: int) -> float:
    """Return ``sign·(Γ_12 from plain means - Γ_12 from the covariance)`` at the last sample."""
    return sign * float(plain_means(tensor(samples).unsqueeze(0), "mean"))


def plain_means_below(run: Run) -> Evidence:
    """Γ from plain means is never smaller than Γ from the covariance; the repair: not on the diagonal."""
    def violation(x: Tensor) -> Tensor:
        return plain_means(x[..., :1].expand_as(x) if run.twin else x, "mean").neg()

    return enumerated(
        run, integers(range(5) if run.full else range(4), (2, 2)), violation, 0.1,
        name="M6-plain-means-below", replay="matrix_search:plain_means_excess", data=lambda x: {"samples": x, "sign": -1},
        statement="Γ_ij = √(σ_i σ_j/(E[σ_i] E[σ_j])) is never smaller than √(σ_i σ_j/E[σ_i σ_j]). False where σ_i and σ_j are negatively "
        "correlated; violation: by how much it is smaller.",
        summary="Γ from plain means is never the smaller", repair="on the diagonal Γ from plain means is never the smaller",
    )


def plain_means_above(run: Run) -> Evidence:
    """Γ from plain means is never larger than Γ from the covariance; the repair: Γ from root-mean-square marginals is not."""
    marginal = "root_mean_square" if run.twin else "mean"
    return enumerated(
        run, integers(range(5) if run.full else range(4), (2, 2)), lambda x: plain_means(x, marginal), 0.1,
        name="M6-plain-means-above", replay="matrix_search:plain_means_excess", data=lambda x: {"samples": x, "sign": 1},
        statement="Γ_ij = √(σ_i σ_j/(E[σ_i] E[σ_j])) is never larger than √(σ_i σ_j/E[σ_i σ_j]). False where σ_i and σ_j are positively "
        "correlated; violation: by how much it is larger.",
        summary="Γ from plain means is never the larger", repair="Γ from root-mean-square marginals is never the larger",
    )
