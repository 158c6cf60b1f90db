"""What a smaller smoothness is worth: S7, L_Γ against the progress <g, Γ ⊙ sign g>."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal, prove
from deva_theory.claims.model import Counterexample, Evidence, Run
from deva_theory.smoothness import weighted_box_smoothness
from paper_checks.arrays import tensor
from paper_checks.expressions import dot, flat, form, names, symmetric
from paper_checks.inductions import cauchy_schwarz
from paper_checks.quadratic_forms import Matrix, box_maximum, fractions, quadratic_form, scaled, semidefinite, symmetric_integers
from paper_checks.verdicts import conclude


def weighted_smoothness(H: Matrix, gamma: Sequence[Fraction]) -> Fraction:
    """Return L_Γ(H) exactly."""
    return box_maximum(scaled(H, gamma))


def progress(g: Sequence[Fraction], gamma: Sequence[Fraction]) -> Fraction:
    """Return <g, Γ⊙sign g> = Σ γ_i|g_i|."""
    return sum((c * abs(x) for c, x in zip(gamma, g, strict=True)), Fraction(0))


def small_problems(run: Run, count: int) -> Iterator[tuple[list[list[Fraction]], list[Fraction], list[list[Fraction]]]]:
    """Yield H ≽ 0, g and a list of Γ with entries in {1, 1/2, 0}."""
    levels = (Fraction(1), Fraction(1, 2), Fraction(0))
    for H in symmetric_integers(run, count, sizes=(1, 2)):
        if semidefinite(H) and all(H[i][i] for i in range(len(H))):
            for g in itertools.product((1, 2, -1), repeat=len(H)):
                yield H, [Fraction(x) for x in g], [list(gamma) for gamma in itertools.product(levels, repeat=len(H)) if any(gamma)]


def ratio_scale(run: Run) -> Evidence:
    """S7: ρ(cΓ) = ρ(Γ).  Twin: without the square of the progress."""
    power, d = 1 if run.twin else 2, 2
    H, u, g = symmetric("h", d), names("u", d), names("g", d)
    proof = prove([
        Case("both terms scale", real=[*flat(H), *u], nonnegative=g, positive=["c", "p1", "p2"], steps=[
            equal(form(H, [f"c*{x}" for x in u]), f"c**2*({form(H, u)})"),
            equal(dot([f"c*{x}" for x in ("p1", "p2")], g), f"c*({dot(('p1', 'p2'), g)})"),
            cite("so L_cΓ = c² L_Γ and <g, cΓ sign g> = c <g, Γ sign g>"),
        ]),
        Case("the ratio", positive=["c", "l", "a", "l0", "a0"],
            steps=[equal(f"(c**2*l/(c*a)**{power})/(l0/a0**{power})", f"(l/a**{power})/(l0/a0**{power})")]),
    ])
    violation, count = Fraction(0), 0
    for A, gradient, gammas in small_problems(run, run.count(3, 20)):
        for gamma in gammas:
            if progress(gradient, gamma):
                values = [weighted_smoothness(A, [s * x for x in gamma]) / progress(gradient, [s * x for x in gamma]) ** power
                    for s in (1, 3)]
                violation, count = max(violation, abs(values[1] - values[0])), count + 1
    return conclude(proof, violation, summary="ρ(cΓ) = ρ(Γ)", covers="any d, c > 0; the first case at d = 2", budget={"instances": count})


def best_step(run: Run) -> Evidence:
    """S7: the best step guarantees <g,d>²/(2L).  Twin: <g,d>²/L."""
    share = 1 if run.twin else 2
    proof = prove([Case("maximise η a - η² L/2", positive=["l"], real=["a", "t"], steps=[
        cite("the descent lemma guarantees a decrease of t a - t² l/2 at step t, a = <g,d>"),
        equal("(a/l)*a - (a/l)**2*l/2", f"a**2/({share}*l)"),
        at_most("t*a - t**2*l/2", f"a**2/({share}*l)", "l/2*(t - a/l)**2"),
    ])])
    violation, count = Fraction(0), 0
    for a, smooth in itertools.product((0, 1, 2, 3), (1, 2, 5)):
        best = max(Fraction(k, smooth) * a - Fraction(k, smooth) ** 2 * smooth / 2 for k in range(5))  # t = a/L is among them
        violation, count = max(violation, abs(best - Fraction(a * a, share * smooth))), count + 1
    return conclude(proof, violation, summary="max_t (ta - t²L/2) = a²/(2L)", covers="every a, L > 0 and step", budget={"instances": count})


def realised(run: Run) -> Evidence:
    """S7: on a quadratic with dᵀHd > 0 the best step along -d decreases f by <g,d>²/(2dᵀHd), at least the guarantee.  Twin: at most."""
    d = 2
    H, x, v, b = symmetric("h", d), names("x", d), names("v", d), names("b", d)
    moved = [f"({p} - t*{q})" for p, q in zip(x, v, strict=True)]
    slope = [f"({dot(row, x)} + {c})" for row, c in zip(H, b, strict=True)]

    def f(point: Sequence[str]) -> str:
        return f"(1/2*({form(H, point)}) + {dot(b, point)})"

    lower, upper = ("a**2/(2*l)", "a**2/(2*q)")
    small, large, because = (lower, upper, "a**2*e/(2*l*q)") if not run.twin else (upper, lower, "-a**2*e/(2*l*q)")
    proof = prove([
        Case("exact decrease at step t", real=[*flat(H), *x, *v, *b, "t"],
            steps=[equal(f"{f(x)} - {f(moved)}", f"t*({dot(slope, v)}) - t**2/2*({form(H, v)})")]),
        Case("its maximum, and the guarantee", positive=["l", "q"], nonnegative=["e"], real=["a", "t"], definitions={"e": "l - q"}, steps=[
            cite("a = <g,d>, q = d^T H d, and q <= l since d lies in the set over which l is the supremum"),
            at_most("t*a - t**2*q/2", "a**2/(2*q)", "q/2*(t - a/q)**2"),
            at_most(small, large, because),
        ]),
    ])
    violation, count = Fraction(0), 0
    for A, gradient, gammas in small_problems(run, run.count(3, 20)):
        for gamma in gammas:
            direction = [c * (1 if g > 0 else -1) for c, g in zip(gamma, gradient, strict=True)]
            curvature, smooth, a = quadratic_form(A, direction), weighted_smoothness(A, gamma), progress(gradient, gamma)
            if curvature > 0:
                gap = a * a / (2 * smooth) - a * a / (2 * curvature)
                violation, count = max(violation, -gap if run.twin else gap), count + 1
    return conclude(proof, violation, summary="realised decrease a²/(2dᵀHd) against the guaranteed a²/(2L)", covers="quadratics, dᵀHd > 0",
                    budget={"instances": count})


def best_weights(run: Run) -> Evidence:
    """S7: for H = diag(L) ≻ 0 the best Γ is |g_i|/L_i up to scale.  Twin: |g_i|/L_i²."""
    exponent = 2 if run.twin else 1
    proof = prove([
        *cauchy_schwarz("l"),
        Case("a = γ, x = |g|: the ratio's lower bound", positive=["C", "X"], nonnegative=["K"], definitions={"A": "(C**2 + K)/X"}, steps=[
            cite("L_Γ = A = Σ L_i γ_i² for diagonal H, C = <g, Γ sign g>, X = Σ g_i²/L_i, which is positive for g ≠ 0"),
            at_most("1/X", "A/C**2", "K/(C**2*X)"),
        ]),
        Case("one coordinate of the best Γ", positive=["l"], nonnegative=["x"], definitions={"a": f"x/l**{exponent}"}, steps=[
            equal("a*x", "x**2/l"), equal("l*a**2", "x**2/l"), cite("so C = A = X there:"),
        ]),
        Case("the ratio there", positive=["X"], steps=[equal("X/X**2", "1/X")]),
    ])
    violation, count = Fraction(0), 0
    levels = [Fraction(k, 4) for k in (0, 1, 2, 4)]
    for bounds, gradient in itertools.product(itertools.product((1, 2, 4), repeat=2), itertools.product((1, 2), repeat=2)):
        H = fractions([[bounds[0], 0], [0, bounds[1]]])
        own = [Fraction(x, b**exponent) for x, b in zip(gradient, bounds, strict=True)]
        target = [Fraction(x) for x in gradient]
        reached = weighted_smoothness(H, own) / progress(target, own) ** 2
        others = [list(w) for w in itertools.product(levels, repeat=2) if any(w)]
        least = min(weighted_smoothness(H, w) / progress(target, w) ** 2 for w in others)
        violation, count = max(violation, reached - least), count + len(others)
    return conclude(proof, violation, summary="L_Γ/<g,Γ sign g>² is least at γ_i = |g_i|/L_i",
        covers="every d, by induction over the coordinates; L > 0, g ≠ 0",
                    budget={"instances": count})


def weights_attack() -> SearchProblem:
    """Return the search for L, g and Γ (the columns of a 4×3 point, absolute values) that do better than |g_i|/L_i."""

    def violation(x: Tensor) -> Tensor:
        L, g, gamma = (x[..., k].abs() for k in range(3))
        ratio = (L * gamma**2).sum(-1) / (gamma * g).sum(-1) ** 2
        return 1 - ratio * (g**2 / L).sum(-1)

    return SearchProblem((4, 3), violation, name="S7-optimal", margin=1e-6, replay="paper_checks.smoothness_progress:weights_violation",
                         statement="For H = diag(L) the best Γ is |g_i|/L_i up to scale.")


def weights_violation(x: list[list[float]]) -> float:
    """Recompute the violation of `weights_attack` at one point."""
    return weights_attack().value(tensor(x))


def smaller_is_better(H: list[list[float]], g: list[float], first: list[float], second: list[float]) -> float:
    """Return by how much `first` has the smaller L_Γ and yet the smaller guaranteed decrease: the lesser of the two gaps."""
    A, gradient = tensor(H), tensor(g)
    smooth, decrease = [], []
    for gamma in (tensor(first), tensor(second)):
        smooth.append(weighted_box_smoothness(A, gamma.unsqueeze(-1)))
        decrease.append((gamma * gradient.abs()).sum() ** 2 / (2 * smooth[-1]))
    return float(torch.minimum(smooth[1] - smooth[0], decrease[1] - decrease[0]))


def smaller(run: Run) -> Evidence:
    """S7: a smaller L_Γ guarantees a larger decrease.  Twin: a smaller ρ does."""
    key = "(l/a**2)/(l0/a0**2)" if run.twin else "l"
    proof = prove([Case("decrease times key is constant", positive=["l", "a", "l0", "a0"], steps=[
        cite("the guaranteed decrease is a²/(2l), a = <g, Γ sign g>; l0, a0: at Γ = 1"), equal(f"a**2/(2*l)*({key})", "a0**2/(2*l0)"),
    ])])
    worst, data, count = Fraction(0), {}, 0
    for H, g, gammas in small_problems(run, run.count(2, 20)):
        whole = [Fraction(1)] * len(H)
        facts = []
        for gamma in gammas:
            smooth, a = weighted_smoothness(H, gamma), progress(g, gamma)
            if smooth and a:
                ratio = smooth / a**2 / (weighted_smoothness(H, whole) / progress(g, whole) ** 2)
                facts.append((ratio if run.twin else smooth, a**2 / (2 * smooth), gamma))
        for p, q in itertools.permutations(facts, 2):
            count += 1
            if p[0] < q[0] and q[1] > p[1]:
                violation = q[1] - p[1]
                if not data:
                    data = {"H": H, "g": [g], "first": [p[2]], "second": [q[2]]}
                worst = max(worst, violation)
    if data:
        data = {key: [[float(x) for x in row] for row in rows] for key, rows in data.items()}
        data |= {key: data[key][0] for key in ("g", "first", "second")}
    return conclude(
        proof, worst, summary=f"pairs of Γ compared by {'ρ' if run.twin else 'L_Γ'}", covers="the identity for any d",
        budget={"pairs": count},
        counterexample=Counterexample(
            "S7-smaller",
            "A smaller L_Γ guarantees a larger decrease. False: the progress <g,Γ sign g> shrinks too; violation: the lesser of the two "
            "gaps.",
            "paper_checks.smoothness_progress:smaller_is_better", data, margin=0.01,
        ) if data else None,
    )
