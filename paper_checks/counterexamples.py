"""Counter-examples to statements about DeVA that sound true, as plain numbers that replay on the library.

``python -m paper_checks.counterexamples`` recomputes each one and prints how far it violates its statement.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deva_theory.decomposition import decompose
from deva_theory.linalg import eigenbasis, polar_factor
from deva_theory.rules import Rule, StepScale, deva_linf, deva_spectral, without_rotation_back
from deva_theory.rules.parts import marginals
from deva_theory.smoothness import weighted_spectral_smoothness


@dataclass(frozen=True)
class CounterExample:
    """One statement and numbers that violate it.

    Attributes
    ----------
    id : str
        Key in `COUNTEREXAMPLES`.
    claim : str
        The item of the specification it belongs to.
    statement : str
        The false statement, the numbers, and why they break it.
    replay : callable
        Recomputes the violation: 0 or less if the statement held on these numbers.
    margin : float
        What the violation exceeds, far above rounding.
    """

    id: str
    claim: str
    statement: str
    replay: Callable[[], float]
    margin: float


def _matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return _matrix([[c, -s], [s, c]])


def _directions(rule: Rule, gradients: Tensor) -> Tensor:
    state, directions = rule.init(gradients[0]), []
    for G in gradients:
        direction, state, _ = rule.update(G, state)
        directions.append(direction)
    return torch.stack(directions)


def equivariance_gap(rule: Rule, gradients: Tensor, P: Tensor, Q: Tensor) -> float:
    r"""Return the largest ``‖update(P G Qᵀ) - P update(G) Qᵀ‖_F / ‖update(G)‖_F`` over the steps (SPEC M9).

    Parameters
    ----------
    gradients : Tensor, shape ``(T, m, n)``
    P, Q : Tensor, shapes ``(m, m)`` and ``(n, n)``
        Orthogonal.
    """
    plain = _directions(rule, gradients)
    turned = _directions(rule, P @ gradients @ Q.mT)
    gap = torch.linalg.matrix_norm(turned - P @ plain @ Q.mT)
    norm = torch.linalg.matrix_norm(plain)
    # A call that only builds the bases has the direction zero in both runs.
    return float((gap / torch.where(norm > 0, norm, 1.0)).max())


def moving_bases_gap(angle: float) -> float:
    r"""Return how far the entrywise update is from the exact one when the left bases differ by `angle`.

    ``‖entrywise - exact‖₂ / ‖exact‖₂`` at the second of diag(30, 1), Rot(angle) diag(10, 1).
    Exact: ``(P_1+P_2)^{-1/2} vec G_2``.  Entrywise: Γ from the sums of r cᵀ in the eigenbases of ``Σ GGᵀ``
    and ``Σ GᵀG``, applied to ``msign(G_2)`` there (SPEC M5).
    """
    history = torch.stack([_matrix([[30, 0], [0, 1]]), _rotation(angle) @ _matrix([[10, 0], [0, 1]])])
    exact = decompose(history, kind="kronecker").update[1]
    Q_L = eigenbasis((history @ history.mT).sum(0))
    Q_R = eigenbasis((history.mT @ history).sum(0))
    rows, columns = marginals(Q_L.mT @ history @ Q_R)
    amplitude = rows * columns
    gamma = (amplitude[1] / amplitude.sum(0)).sqrt()
    entrywise = Q_L @ (gamma * (Q_L.mT @ polar_factor(history[1]) @ Q_R)) @ Q_R.mT
    return float(torch.linalg.matrix_norm(entrywise - exact, 2) / torch.linalg.matrix_norm(exact, 2))


def _moving_bases() -> float:
    return moving_bases_gap(0.3)


def _plain_means() -> float:
    """Both signs of Γ(plain means) - Γ(covariance) occur; return the smaller of the two excesses."""
    def gammas(sigma: Tensor) -> tuple[Tensor, Tensor]:
        now = sigma[-1].unsqueeze(-1) * sigma[-1]
        covariance = (sigma.unsqueeze(-1) * sigma.unsqueeze(-2)).mean(0)
        mean = sigma.mean(0)
        return (now / covariance).sqrt(), (now / (mean.unsqueeze(-1) * mean)).sqrt()

    together = gammas(_matrix([[1, 1], [3, 3]]))
    apart = gammas(_matrix([[1, 3], [3, 1]]))
    above = together[1] - together[0]  # E[σ_1 σ_2] = 5 > 4
    below = apart[0] - apart[1]  # E[σ_1 σ_2] = 3 < 4
    return min(float(above[0, 1]), float(below[0, 1]))


def _printed_eps() -> float:
    g = torch.tensor([1e-4, 1e-4], dtype=torch.float64)
    betas = (0.0, 0.95)
    spectral = replace(deva_spectral(preset="paper", betas=betas), step_scale=StepScale())
    matrix = _directions(spectral, torch.diag(g).unsqueeze(0))[0, 0, 0]
    vector = _directions(deva_linf(preset="paper", betas=betas), g.unsqueeze(0))[0, 0]
    return float(matrix / vector) - 1.0


# Simple spectra at every refresh; only what a counter-example is about is degenerate.
_GENERIC = [[[2, 1], [0, 1]], [[1, -1], [2, 1]], [[0, 2], [1, 1]]]


def _repeated_eigenvalues() -> float:
    # G_1 = I gives L = R = I: every basis is an eigenbasis, and Γ at step 2 depends on the one eigh returns.
    gradients = _matrix([[[1, 0], [0, 1]], [[3, 1], [0, 1]]])
    rule = deva_spectral(preset="corrected", eps=0.0)
    P, Q = _matrix([[0.6, -0.8], [0.8, 0.6]]), torch.eye(2, dtype=torch.float64)
    return equivariance_gap(rule, gradients, P, Q)


def _lagged_tall() -> float:
    # The bases come from (1,0,0) alone, which P leaves as it is; P turns the null space of its GGᵀ.
    gradients = _matrix([[[1], [0], [0]], [[1], [2], [3]], [[2], [-1], [1]]])
    P = _matrix([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])
    rule = deva_spectral(preset="reference", eps=0.0, polar="svd")
    return equivariance_gap(rule, gradients, P, torch.eye(1, dtype=torch.float64))


def _worst_over_rotations(rule: Rule) -> float:
    # Which signs eigh gives to the new basis is not in the data: take the worst of several rotations.
    gradients = _matrix(_GENERIC)
    angles = (0.5, 1.0, 2.0, 2.5, 4.0)
    return max(equivariance_gap(rule, gradients, _rotation(a), _rotation(-b)) for a in angles for b in angles)


def _no_rerotation() -> float:
    return _worst_over_rotations(deva_spectral(preset="paper", eps=0.0, refresh_every=2))


def _no_rotation_back() -> float:
    return _worst_over_rotations(without_rotation_back(deva_spectral(preset="corrected", eps=0.0)))


_MOMENTUM = [[2, 1], [3, 2]]


def _negative_entry() -> float:
    M = _matrix(_MOMENTUM)
    return -float((M * polar_factor(M)).min())


def _ascent() -> float:
    M = _matrix(_MOMENTUM)
    gamma = _matrix([[1], [0.01]]) @ _matrix([[0.01, 1]])
    return -float((M * gamma * polar_factor(M)).sum())


def _spectral_growth() -> float:
    # u attains the Schur norm 2/√3 of Γ; H = u uᵀ, so that tr H = 1 is the smoothness with Γ = 1.
    u = torch.tensor([math.sqrt(2 / 3), math.sqrt(1 / 3)], dtype=torch.float64)
    H, identity = torch.outer(u, u), torch.eye(2, dtype=torch.float64)
    weighted = weighted_spectral_smoothness(H, _matrix([[1, 1], [0, 1]]), identity).lower
    plain = weighted_spectral_smoothness(H, torch.ones_like(H), identity).upper
    return float(weighted - plain)


def _adam_above_one() -> float:
    beta1, beta2, steps = 0.9, 0.99, 12
    # Equality in Cauchy-Schwarz: the weight of g_s in v̂ times g_s is the weight of g_s in m̂.
    history = torch.tensor([(beta1 / beta2) ** (steps - s) for s in range(1, steps + 1)], dtype=torch.float64)
    gamma = decompose(history.unsqueeze(-1), kind="adam", betas=(beta1, beta2)).variance_adaptation
    return float(gamma[-1, 0]) ** 2 - 1.0


def _interior_maximum() -> float:
    H = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)  # up to a common sign these are all
    corners = ((signs @ H) * signs).sum(-1).max()
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return float(u @ H @ u - corners)


def _sign_of_rounding() -> float:
    # Ten rank-one gradients of scale 1e-4: for which of them eigh leaves an exact zero is up to LAPACK.
    scale, eps, betas = 1e-4, 1e-8, (0.95, 0.95)
    gradients = scale * torch.stack([_matrix([[1], [k]]) for k in range(1, 11)])
    rule = deva_spectral(preset="paper", variant="sign", betas=betas, eps=eps)
    rule = replace(rule, scale_invariant=replace(rule.scale_invariant, sign_floor=False))  # sign as a program without guard takes it
    found = torch.linalg.matrix_norm(_directions(rule, gradients.unsqueeze(0))[0])
    # In exact arithmetic M' = (r, 0)ᵀ: the second row has V = 0, hence Γ = 0, and msign(sign(M')) = (±1, 0)ᵀ.
    square = ((1.0 - betas[0]) * torch.linalg.matrix_norm(gradients)) ** 2
    exact = 0.2 * math.sqrt(2) * ((square + eps) / ((1.0 - betas[1]) * square)).sqrt()
    return float((found / exact).max()) - 1.0


def _memory_first_step() -> float:
    G = _matrix(_GENERIC[0]).unsqueeze(0)
    sizes = [
        torch.linalg.matrix_norm(_directions(deva_spectral(preset="paper", variant=v, eps=0.0), G)[0], 2)
        for v in ("memory", "full")
    ]
    return float(sizes[0] / sizes[1]) - 1.0


_ALL = [
    CounterExample(
        "M5-moving-bases", "M5",
        "The entrywise Γ is the exact split. False when the eigenbases move: G_1 = diag(30, 1), G_2 = "
        "Rot(0.3) diag(10, 1); violation: relative 2-norm distance of the two updates at step 2.",
        _moving_bases, 0.3,
    ),
    CounterExample(
        "M6-plain-means", "M6",
        "Γ from plain means is ordered against Γ from the covariance. False: with σ = (1,1), (3,3) it "
        "is larger off the diagonal, with σ = (1,3), (3,1) smaller; violation: the smaller of the two "
        "excesses.",
        _plain_means, 0.1,
    ),
    CounterExample(
        "M7-printed-eps", "M7",
        "On diag(g) the S∞ rule as printed is the ℓ∞ rule as printed. False: ε = 1e-8 enlarges the "
        "numerator of the one and the denominator of the other; g = (1e-4, 1e-4), β1 = 0, β2 = .95, "
        "first step; violation: ratio of the steps minus 1.",
        _printed_eps, 5.0,
    ),
    CounterExample(
        "M9-repeated-eigenvalues", "M9",
        "The S∞ rule is equivariant under rotations. False when L has a repeated eigenvalue at a "
        "refresh: G_1 = I, G_2 = [[3,1],[0,1]], P the 3-4-5 rotation, Q = I; violation: relative "
        "distance.",
        _repeated_eigenvalues, 0.06,
    ),
    CounterExample(
        "M9-lagged-tall", "M9",
        "The S∞ rule is equivariant under rotations. False for m - n ≥ 2 with a lagged basis: the bases"
        " of (1,0,0)ᵀ say nothing about the plane in which P turns, and the next gradient has a part in"
        " it; violation: relative distance.",
        _lagged_tall, 0.05,
    ),
    CounterExample(
        "M9-no-rerotation", "M9",
        "The S∞ rule as printed is equivariant under rotations. False: M' stays in the old coordinates "
        "at a refresh, so that the signs of the new eigenvectors matter; k = 2, three 2×2 gradients; "
        "violation: relative distance, worst of 25 rotations.",
        _no_rerotation, 0.1,
    ),
    CounterExample(
        "M9-no-rotation-back", "M9",
        "Algorithm 2 without the rotation back (the paper's first version) is equivariant under "
        "rotations. False: its update stays in the eigenbasis; violation: relative distance, worst of "
        "25 rotations.",
        _no_rotation_back, 0.1,
    ),
    CounterExample(
        "M10-negative-entry", "M10",
        "The entries of M' ⊙ msign(M') are nonnegative, as those of m ⊙ sign(m). False: M' = "
        "[[2,1],[3,2]]; violation: minus the least.",
        _negative_entry, 0.4,
    ),
    CounterExample(
        "M10-ascent", "M10",
        "Γ ⊙ msign(M') is a descent direction for M'. False: M' = [[2,1],[3,2]], separable Γ = "
        "(1,.01)(.01,1)ᵀ ≤ 1; violation: minus the inner product.",
        _ascent, 0.4,
    ),
    CounterExample(
        "S2-spectral", "S2",
        "Γ ≤ 1 never increases the spectral smoothness. False: Γ = [[1,1],[0,1]], H = uuᵀ with u = (√⅔,"
        " √⅓): 4/3 against 1, the square of the Schur norm 2/√3 of Γ; violation: the difference.",
        _spectral_growth, 0.333,
    ),
    CounterExample(
        "D4-adam-above-one", "D4",
        "In textbook Adam |m̂|/√v̂ ≤ 1. False for β1 ≠ β2: (.9, .99), g_s = (.9/.99)^(12-s), t = 12; "
        "violation: γ² - 1.",
        _adam_above_one, 0.1,
    ),
    CounterExample(
        "S4-interior-maximum", "S4",
        "Sign vectors attain the box smoothness of every H. False for diag(1,-1): all four give 0, u = "
        "(1, 0) gives 1.",
        _interior_maximum, 0.99,
    ),
    CounterExample(
        "paper-sign-of-rounding", "section 3",
        "With ε > 0 the S∞ rule as printed takes bounded steps. False for the sign variant on a rank-"
        "deficient gradient, say 2×1: row 2 of M' = Q_LᵀGQ_R is zero only up to rounding, r_2 c ~ "
        "1e-24. sign turns it into ±1, and ε beside r cᵀ in the numerator, 1e-8, is not in V = (1-β2) "
        "r_2 c, so Γ = √((r_2 c+ε)/V) ~ 1e8 or more. Violation: step norm over that of exact "
        "arithmetic, minus 1, worst of ten gradients 1e-4·(1, k).",
        _sign_of_rounding, 1e6,
    ),
    CounterExample(
        "paper-memory-first-step", "A1",
        "The memory variant as printed starts with steps of the size of the full rule's. False: "
        "EMA(r)EMA(c) carries (1-β2)² where EMA(r cᵀ) carries 1-β2, so its first Γ is 1/(1-β2), larger "
        "by (1-β2)^(-1/2) = 4.47 at β2 = .95; violation: that factor minus 1.",
        _memory_first_step, 3.4,
    ),
]

COUNTEREXAMPLES: dict[str, CounterExample] = {c.id: c for c in _ALL}
"""Every shipped counter-example by its id."""


def main(argv: Sequence[str] | None = None) -> int:
    """Replay those named in `argv` (default: all) and print a table; return 0 when all still violate."""
    names = list(sys.argv[1:] if argv is None else argv) or list(COUNTEREXAMPLES)
    unknown = [n for n in names if n not in COUNTEREXAMPLES]
    if unknown:
        known = ", ".join(COUNTEREXAMPLES)
        print(f"unknown counter-example {unknown[0]!r}; use any of {known}", file=sys.stderr)
        return 2
    lost = 0
    print(f"{'id':26}{'violation':>12}{'margin':>10}")
    for name in names:
        example = COUNTEREXAMPLES[name]
        violation = example.replay()
        lost += violation <= example.margin
        print(f"{name:26}{violation:12.4g}{example.margin:10.3g}")
        print(textwrap.indent(textwrap.fill(example.statement, 96), "    "))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
