"""Equivariance of the S∞ rule under rotations, of the ℓ∞ rule under signed permutations and scaling (SPEC M9)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, cite, equal
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.rules import PRESETS, VARIANTS, Rule, deva_linf, deva_spectral, without_rotation_back
from paper_checks.arrays import tensor
from paper_checks.gradient_streams import directions
from paper_checks.verdicts import proved

EQUAL = 1e-8
"""Relative: 2⁻⁵³ over the smallest relative gap of eigenvalues in the streams (above 1e-6)."""

DIFFERENT = 0.05
"""Relative, far above rounding: what a counter-example's violation must exceed."""


def equivariance_gap(rule: Rule, gradients: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    """Return the largest ``‖update(P G Qᵀ) - P update(G) Qᵀ‖_F / ‖update(G)‖_F`` over the steps, for every stream of a batch."""
    plain = directions(rule, gradients)
    gap = torch.linalg.matrix_norm(directions(rule, P @ gradients @ Q.mT) - P @ plain @ Q.mT)
    norm = torch.linalg.matrix_norm(plain)
    # A call that only builds the bases has the direction zero in both runs.
    return (gap / torch.where(norm > 0, norm, 1.0)).amax(0)


def _spectral(*, preset: str, rotates_back: bool = True, **options: Any) -> Rule:
    rule = deva_spectral(preset=preset, **({"eps": 0.0, "polar": "svd"} | options))
    return rule if rotates_back else without_rotation_back(rule)


def rotated_gap(*, gradients: Any, left: Any, right: Any, **options: Any) -> float:
    """Return the `equivariance_gap` of the S∞ rule on one stream; ε = 0 and exact msign unless `options` say otherwise."""
    return float(equivariance_gap(_spectral(**options), tensor(gradients), tensor(left), tensor(right)))


def _random(run: Run, steps: int, shape: tuple[int, int], count: int, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return streams ``(steps, count, m, n)`` and orthogonal matrices."""
    g = run.generator(stream)
    P, Q = (torch.linalg.qr(torch.randn(count, d, d, generator=g, dtype=torch.float64)).Q for d in shape)
    return torch.randn(steps, count, *shape, generator=g, dtype=torch.float64), P, Q


def _largest(run: Run, rules: Mapping[str, Rule], shapes: Sequence[tuple[int, int]], count: int) -> tuple[float, int]:
    """Return the largest gap of some rules over random streams of some shapes, and the number of streams."""
    gaps = [
        float(equivariance_gap(rule, *_random(run, 8, shape, count, k)).max()) for rule in rules.values() for k, shape in enumerate(shapes)
    ]
    return max(gaps), count * len(gaps)


# ---- where it holds ------------------------------------------------------------------------------


def _told(gap: float) -> str:
    return f"largest relative gap {'below ' + format(EQUAL, 'g') if gap <= EQUAL else format(gap, '.2g')}"


def _supported(run: Run, gap: float, streams: int, where: str) -> Evidence:
    verdict = Verdict.SUPPORTED if gap <= EQUAL else Verdict.REFUTED
    return Evidence(verdict, "search", f"{_told(gap)} {where}", budget={"streams": streams}, seed=run.seed)


def _holds_if(run: Run, repaired: float, plain: float, streams: int, repair: str) -> Evidence:
    """HOLDS_IF when the repaired statement holds and the plain one does not."""
    standing = Verdict.HOLDS_IF if plain > DIFFERENT else Verdict.SUPPORTED
    return Evidence(
        standing if repaired <= EQUAL else Verdict.REFUTED, "search", f"{_told(repaired)} with {repair}; {plain:.2f} without",
        covers=repair, numbers={"without the repair": round(plain, 3)}, budget={"streams": streams}, seed=run.seed,
    )


def equivariant(run: Run) -> Evidence:
    """Square matrices, every variant of the presets that re-rotate M', k = 1 and 3. Control: the printed preset, which does not."""
    count = run.count(6, 60)
    kept = ("paper",) if run.twin else ("corrected", "reference")
    rules = {f"{p}, {v}, k = {k}": _spectral(preset=p, variant=v, refresh_every=k) for p in kept for v in VARIANTS for k in (1, 3)}
    repaired, streams = _largest(run, rules, [(4, 4)], count)
    plain, more = _largest(run, {"paper": _spectral(preset="paper", refresh_every=3)}, [(4, 4)], count)
    return _holds_if(run, repaired, plain, streams + more, "M' re-rotated at every refresh and simple spectra of L and R")


def equivariant_inexact(run: Run) -> Evidence:
    """Neither ε = 0 nor an exact msign is needed. Control: the printed preset, with ε = 0 and exact msign."""
    choices: list[dict[str, Any]] = [
        {"preset": "corrected", "eps": 0.05}, {"preset": "corrected", "polar": "newton_schulz", "polar_dtype": torch.float64},
        {"preset": "corrected", "polar": "polar_express"}, {"preset": "reference", "eps": 0.1}, {"preset": "reference", "polar": None},
    ]
    choices = [{"preset": "paper"}] if run.twin else choices
    rules = {f"{o}, {v}": _spectral(**o, variant=v, refresh_every=3) for o in choices for v in VARIANTS}
    gap, streams = _largest(run, rules, [(4, 4)], run.count(6, 60))
    return _supported(run, gap, streams, "with absolute and relative ε > 0, Newton-Schulz in float64 and bfloat16, Polar Express")


def equivariant_every_step(run: Run) -> Evidence:
    """Rectangular, k = 1 with the current G included: if the bases are solved anew. Control: every third step only."""
    count, shapes = run.count(6, 60), [(5, 3), (3, 5), (4, 2)]
    every = 3 if run.twin else 1
    rules = {v: _spectral(preset="corrected", variant=v, refresh="eigh", refresh_every=every) for v in VARIANTS}
    repaired, streams = _largest(run, rules, shapes, count)
    plain, more = _largest(run, {"qr": _spectral(preset="corrected", refresh="qr", refresh_every=1)}, shapes, count)
    return _holds_if(run, repaired, plain, streams + more, "eigenvectors computed anew at every step (eigh, not one step of QR)")


def equivariant_near_square(run: Run) -> Evidence:
    """Bases kept for three steps, |m - n| = 1: the null space is a line. Control: |m - n| = 2."""
    shapes = [(5, 3), (2, 4)] if run.twin else [(4, 3), (2, 3), (2, 1)]
    rules = {f"{p}, {v}": _spectral(preset=p, variant=v, refresh_every=3) for p in ("corrected", "reference") for v in VARIANTS}
    gap, streams = _largest(run, rules, shapes, run.count(4, 40))
    return _supported(run, gap, streams, f"for {', '.join(f'{m}×{n}' for m, n in shapes)}, refreshed every third step")


def signs_harmless(run: Run) -> Evidence:
    """The signs of the eigenvectors do not matter. Control: Γ from row and column sums instead of norms."""
    # R: the norm's square (control: the sum) of a row or column so far; a, b: entries of Q_L, Q_R; o: an entry of msign(M').
    size = "(R + {0})**2" if run.twin else "R + ({0})**2"
    cases = [
        Case(f"one more term, s = {s}, t = {t}", real=("R", "x", "G", "a", "b", "o", "total"), steps=[
            cite("the bases become Q_L S, Q_R T, M' becomes S M' T, and msign(M') becomes S msign(M') T: polar factors are unique"),
            equal(size.format(f"({s})*({t})*x"), size.format("x")),
            equal(f"total + (a*({s}))*(G*(({s})*o*({t})))*(({t})*b)", "total + a*(G*o)*b"),
        ])
        for s, t in itertools.product((1, -1), repeat=2)
    ]
    return proved(
        cases, "norms of rows and columns, hence V and Γ, keep their values, and Q_L S (Γ ⊙ S O T) T Q_Rᵀ = Q_L (Γ ⊙ O) Q_Rᵀ",
        "every size: the sums keep their values term by term; uniqueness of the polar factor is cited",
    )


# ---- where it fails ------------------------------------------------------------------------------

_TURN = [[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]]


def _tall(*columns: tuple[float, ...]) -> list[list[list[float]]]:
    return [[[x] for x in column] for column in columns]


NOT_EQUIVARIANT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "M9-repeated-eigenvalues": (
        "L has a repeated eigenvalue at a refresh. False: G_1 = I makes every basis an eigenbasis; then G_2 = [[0,1],[0,0]], P the 3-4-5 "
        "rotation",
        {
            "gradients": [[[1, 0], [0, 1]], [[0, 1], [0, 0]]], "left": [[0.6, -0.8], [0.8, 0.6]], "right": [[1, 0], [0, 1]],
            "preset": "corrected",
        },
        {"gradients": [[[2, 0], [0, 1]], [[0, 1], [0, 0]]]},
    ),
    "M9-lagged-tall": (
        "m - n = 2 and the bases lag. False: the basis of e_1 says nothing about the plane in which P turns, where the gradients e_2 and "
        "e_3 lie",
        {"gradients": _tall((1, 0, 0), (0, 1, 0), (0, 0, 1)), "left": _TURN, "right": [[1]], "preset": "reference"},
        {"preset": "corrected", "refresh": "eigh", "refresh_every": 1},
    ),
    "M9-qr-tall": (
        "m - n = 2, k = 1, and a refresh is one step of QR. False: it remembers the arbitrary null space of the first basis; gradients "
        "e_1, e_1, (1, 1, 2)",
        {
            "gradients": _tall((1, 0, 0), (1, 0, 0), (1, 1, 2)), "left": _TURN, "right": [[1]], "preset": "corrected", "refresh": "qr",
            "refresh_every": 1,
        },
        {"refresh": "eigh"},
    ),
    "M9-no-rerotation": (
        "M' stays in the old coordinates at a refresh, as printed. False: with the gradients e_1, e_2, a quarter turn and β3 = 0 the two "
        "runs add their two parts with opposite relative signs, whatever signs the eigenvectors have",
        {
            "gradients": _tall((1, 0), (0, 1)), "left": [[0, -1], [1, 0]], "right": [[1]], "preset": "paper", "beta3": 0.0,
            "refresh_every": 1,
        },
        {"preset": "corrected"},
    ),
    "M9-no-rotation-back": (
        "the update is not rotated back (Algorithm 2 of the paper's first version). False: one gradient e_1, P exchanges the coordinates",
        {"gradients": _tall((1, 0)), "left": [[0, 1], [1, 0]], "right": [[1]], "preset": "corrected", "rotates_back": False},
        {"rotates_back": True},
    ),
}
"""Name: why, the numbers, and what in them the repair changes."""


def _not_equivariant(run: Run, name: str) -> Evidence:
    """Compute the gap on the counter-example and on random streams of its shape; the control repairs the one defect."""
    why, data, repair = NOT_EQUIVARIANT[name]
    used = data | (repair if run.twin else {})
    violation, drawn = rotated_gap(**used), run.count(5, 50)
    T, m, n = tensor(used["gradients"]).shape
    options = {key: value for key, value in used.items() if key not in ("gradients", "left", "right")}
    gap = float(equivariance_gap(_spectral(**options), *_random(run, T + 3, (m, n), drawn, 0)).max())
    equal = max(violation, gap) <= EQUAL
    verdict = Verdict.REFUTED if violation > DIFFERENT else Verdict.SUPPORTED if equal else Verdict.INCONCLUSIVE
    example = Counterexample(
        name, f"The S∞ rule is equivariant under rotations also where {why}; violation: relative distance of the updates.",
        "paper_checks.spectral_rotation:rotated_gap", data, DIFFERENT,
    )
    return Evidence(
        verdict, "replay", f"relative distance below {EQUAL:g}, on random streams too" if equal else f"relative distance {violation:.4g}",
        margin=None if equal else violation - DIFFERENT, budget={"random streams": drawn}, seed=run.seed,
        counterexample=example if verdict is Verdict.REFUTED else None,
    )


def repeated_eigenvalues(run: Run) -> Evidence:
    """Control: distinct eigenvalues."""
    return _not_equivariant(run, "M9-repeated-eigenvalues")


def lagged_tall(run: Run) -> Evidence:
    """Control: the current gradient included, eigenvectors anew at every step."""
    return _not_equivariant(run, "M9-lagged-tall")


def qr_tall(run: Run) -> Evidence:
    """Control: eigenvectors anew at every step."""
    return _not_equivariant(run, "M9-qr-tall")


def no_rerotation(run: Run) -> Evidence:
    """Control: M' is carried into the new basis."""
    return _not_equivariant(run, "M9-no-rerotation")


def no_rotation_back(run: Run) -> Evidence:
    """Control: the update is rotated back."""
    return _not_equivariant(run, "M9-no-rotation-back")


# ---- the ℓ∞ rule ---------------------------------------------------------------------------------


def linf_signs(run: Run) -> Evidence:
    """The ℓ∞ rule is equivariant under signed permutations. Control: invariant under them."""
    image = "1" if run.twin else "-1"
    cases = [
        Case(
            name, positive=("e", *names), nonnegative=("V", "c", "w"), real=("M", "g", "b"), definitions={"w": "1 - c"},
            steps=[
                cite("the rule acts coordinate by coordinate: permutations pass through; induction: m becomes -m, v stays, up to here"),
                equal("b*(-M) + (1 - b)*(-g)", "-(b*M + (1 - b)*g)"),
                equal(f"c*V + w*(-({m}))**2", f"c*V + w*({m})**2"),
                equal(f"(-({m}))**2/(c*V + w*({m})**2 + e)", f"({m})**2/(c*V + w*({m})**2 + e)"),
                equal(f"-({sign})", f"({image})*({sign})"),
            ],
        )
        for name, names, m, sign in (("m > 0", ("p",), "p", "1"), ("m = 0", (), "0", "0"), ("m < 0", ("p",), "-p", "-1"))
    ]
    return proved(cases, "m changes its sign, v and Γ do not: the update changes sign", "Γ = √(m²/(v + ε)), one step of the induction")


def linf_scaling(run: Run) -> Evidence:
    """At ε = 0 the ℓ∞ rule is invariant under positive scaling of the coordinates. Control: ε > 0."""
    eps = " + e" if run.twin else ""
    cases = [
        Case(
            name, positive=("d", "e", "V", "c"), nonnegative=("w", "p"), real=("M", "g", "b"), definitions={"w": "1 - c"},
            steps=[
                cite("induction: m becomes d m, v becomes d² v, up to here; d > 0 leaves sign(m) as it is"),
                equal("b*(d*M) + (1 - b)*(d*g)", "d*(b*M + (1 - b)*g)"),
                equal(f"c*(d**2*V) + w*(d*({m}))**2", f"d**2*(c*V + w*({m})**2)"),
                equal(f"(d*({m}))**2/(d**2*(c*V + w*({m})**2){eps})", f"({m})**2/(c*V + w*({m})**2{eps})"),
            ],
        )
        for name, m in (("m ≥ 0", "p"), ("m ≤ 0", "-p"))
    ]
    return proved(cases, "Γ² = m²/v does not change, nor does sign(m)", "v > 0; while all m so far are 0 the update is 0 on both sides")


def linf_code(run: Run) -> Evidence:
    """`deva_linf`: signed permutations, and scaling by powers of 2 at ε = 0, to the last bit. Control: the presets' ε."""
    failures, found = 0, 0
    signs = tensor([1.0, -1.0, -1.0, 1.0, -1.0])
    scale = tensor([2.0**-40, 1.0, 2.0**10, 2.0**-3, 2.0**33])
    for k in range(run.count(3, 30)):
        g = torch.randn(6, 5, generator=run.generator(k), dtype=torch.float64)
        order = torch.randperm(5, generator=run.generator(k))
        for preset, variant in itertools.product(PRESETS, VARIANTS):
            rule = deva_linf(preset=preset, variant=variant)
            exact = rule if run.twin or rule.adaptation is None else replace(rule, adaptation=replace(rule.adaptation, eps=0.0))
            failures += not torch.equal(directions(rule, signs * g[:, order]), signs * directions(rule, g)[:, order])
            failures += not torch.equal(directions(exact, scale * g), directions(exact, g))
            found += 2
    return Evidence(
        Verdict.SUPPORTED if failures == 0 else Verdict.REFUTED, "exact comparison", f"{failures} of {found} comparisons differ in a bit",
        budget={"comparisons": found}, seed=run.seed,
    )


WELL_SEPARATED = 0.1
"""What the attack on M9 keeps to at every refresh: the eigenvalue gaps of L and R over the largest eigenvalue."""

ATTACK = 1e-6
"""Rounding turns eigenvectors by 2⁻⁵³ over the gap, and a whole history of them passes Γ, which is not Lipschitz at 0."""


def turned_gap(*, gradients: Any, angles: Sequence[float]) -> float:
    """Return the `equivariance_gap` of the corrected rule when a 2×2 stream is turned by two angles."""
    turns = _turns(tensor(list(angles)))
    return float(equivariance_gap(_spectral(preset="corrected"), tensor(gradients), turns[0], turns[1]))


def _turns(angles: Tensor) -> Tensor:
    c, s = torch.cos(angles), torch.sin(angles)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def equivariance_attack() -> SearchProblem:
    """Look for a 2×2 stream, with well separated eigenvalues at every refresh, and two angles that break equivariance."""
    rule = _spectral(preset="corrected")

    def violation(x: Tensor) -> Tensor:
        gradients, turns = x[:, :3].transpose(0, 1), _turns(x[:, 3, 0])
        simple = torch.ones(x.shape[0], dtype=torch.bool)
        L = R = torch.zeros_like(gradients[0])
        for G in gradients:  # L and R of equal weights; those of the EMA, β3 = .95, are within 10% of them, so that its gaps stay open
            L, R = L + G @ G.mT, R + G.mT @ G
            for A in (L, R):
                low, high = torch.linalg.eigvalsh(A).unbind(-1)
                simple &= (high - low > WELL_SEPARATED * high) & (low > WELL_SEPARATED**2 * high)
        return torch.where(simple, equivariance_gap(rule, gradients, turns[:, 0], turns[:, 1]), torch.nan)

    return SearchProblem(
        (4, 2, 2), violation, differentiable=False, name="M9", statement="The S∞ rule is equivariant under rotations.", margin=ATTACK,
        replay="paper_checks.spectral_rotation:turned_gap",
        data=lambda x: {"gradients": x[:3].tolist(), "angles": x[3, 0].tolist()},
    )
