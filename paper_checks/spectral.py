"""Steepest directions in the ℓ∞ and the spectral geometry (SPEC M8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import Case, RationalMatrix, RationalSVD, SearchProblem, at_most, cite, equal, psd_certificate, rational_svd
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.geometry import Geometry, LInf, Spectral
from deva_theory.linalg import polar_factor
from paper_checks.arrays import tensor
from paper_checks.verdicts import proved

Certificates = Iterable[Mapping[str, Any]]

EXACT = {torch.float64: 1e-12, torch.float32: 1e-4}
"""Relative: rounding of a 5×5 SVD times the condition numbers of the rational instances, at most 1e3."""


def blocks(A: RationalMatrix, B: RationalMatrix, C: RationalMatrix) -> list[list[Fraction]]:
    """Return [[A, B], [Bᵀ, C]]."""
    top = [a + b for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    return top + [b + c for b, c in zip(B.T.tolist(), C.tolist(), strict=True)]


# ---- maximisers over the unit ball ---------------------------------------------------------------


def sign_maximises(run: Run) -> Evidence:
    """<g, d> ≤ ‖g‖_1 for ‖d‖_∞ ≤ 1, attained by sign(g). Control: over the ball of radius 2."""
    radius = 2 if run.twin else 1
    cases = [
        Case(
            name, positive=names, nonnegative=("u", "v"), real=("d",), definitions={"u": f"{radius} - d", "v": f"{radius} + d"},
            steps=[
                cite("<g, d> and ‖g‖_1 are sums over coordinates, and the ball is a product: one coordinate decides"),
                at_most(f"({g})*d", size, because=gap), equal(f"({g})*({sign})", size),
            ],
        )
        for name, names, g, sign, size, gap in (
            ("g > 0", ("p",), "p", "1", "p", "p*u"), ("g = 0", (), "0", "0", "0", "0"), ("g < 0", ("p",), "-p", "-1", "p", "p*v"),
        )
    ]
    return proved(cases, "‖g‖_1 - <g, d> = Σ |g_i| (1 - sign(g_i) d_i) ≥ 0, and 0 at d = sign(g)", "every dimension")


def msign_maximises(run: Run) -> Evidence:
    """<G, D> ≤ ‖G‖_* for ‖D‖_{2→2} ≤ 1, attained by msign(G). Control: over the ball of radius 2."""
    radius = 2 if run.twin else 1
    case = Case(
        "one singular triple", nonnegative=("s", "u"), real=("d",), definitions={"u": f"{radius} - d"},
        steps=[
            cite("singular value decomposition: <G, D> = Σ σ_i d_i with d_i = u_iᵀ D v_i"),
            cite("Cauchy-Schwarz: d_i ≤ ‖D‖_{2→2} for unit u_i, v_i; msign(G) has d_i = 1 where σ_i > 0"),
            at_most("s*d", "s", because="s*u"), equal("s*1", "s"),
        ],
    )
    found = [
        _semidefinite_proof(rational_svd(run.rng(k), m, n, rank), radius)
        for k, (m, n, rank) in enumerate([(2, 2, 2), (3, 2, 2), (2, 3, 1), (3, 3, 2)])
    ]
    return proved(
        [case], "‖G‖_* - <G, D> = Σ σ_i (1 - d_i) ≥ 0, and 0 at D = msign(G); exact semidefinite proof on 4 rational matrices",
        "every G; cited: the SVD and u_iᵀDv_i ≤ ‖D‖ (Cauchy-Schwarz), which von Neumann's inequality rests on; "
        "instances: square, tall, wide, two of four rank deficient",
        certificates=None if None in found else itertools.chain.from_iterable(filter(None, found)),
    )


def _semidefinite_proof(svd: RationalSVD, radius: int) -> list[dict[str, Any]] | None:
    """Certify max {<G, D> : ‖D‖ ≤ radius} = <G, O>: two semidefinite block matrices, whose inner product is ≥ 0, and traces."""
    G, O, P, Q = svd.matrix(), svd.msign(), svd.power_left(Fraction(1, 2)), svd.power_right(Fraction(1, 2))
    m, n = G.shape
    dual = psd_certificate(blocks(P, -G, Q), name="[[(GGᵀ)^{1/2}, -G], [-Gᵀ, (GᵀG)^{1/2}]]")
    feasible = psd_certificate(blocks(RationalMatrix.identity(m), O, RationalMatrix.identity(n)), name="[[I, O], [Oᵀ, I]], so ‖O‖ ≤ 1")
    bound = radius * (P.trace() + Q.trace()) / 2
    if dual is None or feasible is None or G.inner(O) != bound:
        return None
    sizes, ones = (RationalMatrix.diagonal(x, G.shape) for x in (svd.sigma, [Fraction(x > 0) for x in svd.sigma]))
    matrices = {"U": svd.U, "V": svd.V, "S": sizes, "J": ones, "G": G, "O": O}
    return [
        dual, feasible,
        {
            "type": "products", "statement": "O = msign(G)", "matrices": {name: A.strings() for name, A in matrices.items()},
            "show": [["U*U.T", "I"], ["V*V.T", "I"], ["G", "U*S*V.T"], ["O", "U*J*V.T"]],
        },
        {"type": "values", "show": [[str(G.inner(O)), "==", str(bound)]]},
    ]


def scale_invariant(run: Run) -> Evidence:
    """Positive 0-homogeneity of sign and msign. Control: also for c < 0."""
    return _scalar_function("c", [("-c" if run.twin else "c", "1")], "msign(cG) = msign(G), c > 0")


def odd(run: Run) -> Evidence:
    """Oddness of sign and msign. Control: evenness."""
    return _scalar_function("", [("-1", "1" if run.twin else "-1")], "msign(-G) = -msign(G)")


def idempotent(run: Run) -> Evidence:
    """Idempotence of sign and msign. Control: twice is minus once."""
    return _scalar_function("", [], "msign(msign(G)) = msign(G)", twice="-1" if run.twin else "1")


def _scalar_function(factor: str, scalings: Sequence[tuple[str, str]], statement: str, twice: str = "") -> Evidence:
    """Prove statements about g/√(g²), the function that msign applies to singular values and sign to entries."""
    cases = []
    for name, g in (("g > 0", "p"), ("g < 0", "-p")):
        squares = {"r": f"({g})**2"} | {f"q{k}": f"(({c})*({g}))**2" for k, (c, _) in enumerate(scalings)}
        steps = [cite("sign acts on entries, msign(U diag(σ) Vᵀ) = U diag(sign σ) Vᵀ, and sign 0 = 0: one number g ≠ 0 decides")]
        steps += [equal(f"({c})*({g})/q{k}", f"({image})*({g})/r") for k, (c, image) in enumerate(scalings)]
        if twice:
            squares["z"] = f"(({g})/r)**2"
            steps.append(equal(f"({g})/r/z", f"({twice})*({g})/r"))
        cases.append(Case(name, positive=("p", *factor), squares=squares, steps=steps))
    return proved(cases, statement + ", from sign g = g/√(g²) and the SVD", "every size; 0 is mapped to 0 by convention")


# ---- uniqueness ----------------------------------------------------------------------------------


def second_maximiser(*, g: Any, other: Any) -> float:
    """Return how far another maximiser of <g, ·> over the unit ball is from the library's; -1 if it is none."""
    G, D = tensor(g), tensor(other)
    geometry: Geometry = LInf() if G.ndim == 1 else Spectral()
    attains = geometry.norm(D) <= 1 + 1e-12 and (G * D).sum() >= geometry.dual_norm(G) - 1e-12
    return float((D - geometry.steepest(G)).norm()) if attains else -1.0


def sign_unique(run: Run) -> Evidence:
    """Uniqueness of the maximiser over ‖d‖_∞ ≤ 1 for g ≠ 0. Control: for g without zeros."""
    return _unique(run, (2,), LInf(), "M8-unique-vector", "g = (1, 0), the second coordinate of d is free")


def msign_unique(run: Run) -> Evidence:
    """Uniqueness of the maximiser over ‖D‖_{2→2} ≤ 1 for G ≠ 0. Control: for G of full rank."""
    return _unique(run, (2, 2), Spectral(), "M8-unique-matrix", "G = diag(1, 0), D_22 is free")


def _unique(run: Run, shape: tuple[int, ...], geometry: Geometry, name: str, why: str) -> Evidence:
    size = 2 ** len(shape)
    grid = tensor(list(itertools.product((0.0, 1.0, -1.0), repeat=size))).reshape(-1, *shape)
    ball = grid[geometry.norm(grid) <= 1 + 1e-12]
    points = grid[grid.flatten(1).abs().sum(1) > 0]
    if run.twin:
        points = points[(torch.linalg.det(points) if len(shape) == 2 else points.prod(1)) != 0]
    attained = points.flatten(1) @ ball.flatten(1).T >= geometry.dual_norm(points).unsqueeze(1) - 1e-12
    several = attained.sum(1) > 1
    budget = {"directions": len(points), "points of the ball": len(ball)}
    if not several.any():
        return Evidence(
            Verdict.SUPPORTED, "enumeration", f"no second maximiser with entries 0, ±1 for {len(points)} directions", budget=budget
        )
    # Fewest entries, then fewest minus signs; the other maximiser farthest from the library's.
    order = [(float(p.abs().sum()), [-x for x in p.flatten().tolist()], k) for k, p in enumerate(points) if several[k]]
    smallest = min(order)[2]
    choices = [{"g": points[smallest].tolist(), "other": D.tolist()} for D in ball[attained[smallest]]]
    data = max(choices, key=lambda choice: (second_maximiser(**choice), choice["other"]))
    return Evidence(
        Verdict.REFUTED, "enumeration",
        f"{int(several.sum())} of {len(points)} directions with entries 0, ±1 have several maximisers; the smallest is {data['g']}",
        margin=second_maximiser(**data), budget=budget,
        counterexample=Counterexample(
            name, f"For a non-zero direction the maximiser over the unit ball is unique. False: {why}; violation: distance of two of them.",
            "paper_checks.spectral:second_maximiser", data, 0.5,
        ),
    )


# ---- the library ---------------------------------------------------------------------------------


def geometry_code(run: Run) -> Evidence:
    """`LInf`, `Spectral` and `polar_factor` against exact decompositions. Control: normalised gradients instead of signs."""
    worst, count = 0.0, 0
    shapes = [(1, 1), (2, 2), (3, 3), (4, 2), (2, 4), (5, 3), (1, 3), (3, 1)]
    spectral, box = Spectral(), LInf(2)
    for k in range(run.count(16, 160)):
        m, n = shapes[k % len(shapes)]
        pair = [rational_svd(run.rng(2 * k + j), m, n, max(1, min(m, n) - (k // len(shapes) + j) % 2)) for j in range(2)]
        exact, O = (torch.stack([A.tensor() for A in part]) for part in zip(*((s.matrix(), s.msign()) for s in pair), strict=True))
        nuclear, largest = (tensor([float(f(svd.sigma)) for svd in pair]) for f in (sum, max))
        signs = (exact > 0).double() - (exact < 0).double()
        if run.twin:
            O = signs = exact / exact.norm(dim=(1, 2), keepdim=True)
        sizes = exact.abs().flatten(1)
        for dtype, rounding in EXACT.items():
            G = exact.to(dtype)
            found = [
                (spectral.norm(G), largest), (spectral.dual_norm(G), nuclear), (spectral.dual.norm(G), nuclear), (spectral.steepest(G), O),
                (spectral.lmo(G), -O), (polar_factor(G), O), (polar_factor(G.mT), O.mT), (polar_factor(2.0**40 * G), O),
                (box.norm(G), sizes.amax(1)), (box.dual_norm(G), sizes.sum(1)), (box.steepest(G), signs), (box.lmo(G), -signs),
                (LInf().steepest(G[0, 0]), signs[0, 0]), (LInf().dual_norm(G[0, 0]), exact[0, 0].abs().sum()),
            ]
            for value, expected in found:
                size = float(expected.abs().max())
                error = float((value.double() - expected).abs().max()) / (size if size > 0 else 1.0) / rounding
                worst = max(worst, error if error == error else 1e9)
            count += len(found)
    zero = torch.zeros(2, 3, dtype=torch.float64)
    agrees = worst <= 1 and not spectral.steepest(zero).any() and not box.steepest(zero).any()
    return Evidence(
        Verdict.SUPPORTED if agrees else Verdict.REFUTED, "exact rationals",
        f"{count} norms and directions agree to rounding" if agrees else f"largest error {worst:.3g} tolerances",
        budget={"comparisons": count}, seed=run.seed,
    )


def msign_excesses(x: Tensor) -> Tensor:
    """Return how far <G, D> exceeds ‖G‖_*, relative; x stacks G and D, for a batch."""
    return (x[:, 0] * x[:, 1]).sum((-2, -1)) / torch.linalg.svdvals(x[:, 0]).sum(-1) - 1.0


def msign_excess(*, x: Any) -> float:
    """Return how far <G, D> exceeds ‖G‖_*, relative; x stacks G and D, for one point."""
    return float(msign_excesses(tensor(x)[None])[0])


def msign_attack() -> SearchProblem:
    """Look for a matrix of the unit ball on which <G, ·> exceeds ‖G‖_*."""

    def project(x: Tensor) -> Tensor:
        size = torch.linalg.matrix_norm(x[:, 1], 2).clamp_min(1.0)
        return torch.stack([x[:, 0], x[:, 1] / size[:, None, None]], dim=1)

    return SearchProblem(
        (2, 3, 3), msign_excesses, project=project, name="M8-msign", statement="<G, D> ≤ ‖G‖_* for ‖D‖ ≤ 1.",
        replay="paper_checks.spectral:msign_excess", margin=1e-9,
    )
