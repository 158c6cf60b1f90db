"""SPEC D4 and D5: textbook Adam's γ may exceed 1, and what the ℓ∞ rule has to do with it.

Proofs for every t go by induction over the step or over the number of terms; false statements come with the smallest integers
that break them, found by enumeration in exact rationals.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal, positive, search
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from paper_checks.vector import EVERY_HISTORY
from paper_checks.verdicts import proved

# --- D4: proofs -----------------------------------------------------------------------------------


def adam_equal_betas(run: Run) -> Evidence:
    """D4-equal; the control lets β1 and β2 differ in the first half."""
    # u = m̂_{t-1}, v̂_{t-1} = u² + K; q is the weight of g in the new v̂, h that in the new m̂.
    h, more = ("h", ["h"]) if run.twin else ("q", [])
    induction = Case(
        "β1 = β2: m̂² ≤ v̂ passes from t-1 to t",
        nonnegative=["K", "q", "p", *more],
        real=["u", "g"],
        definitions={"p": "1 - q"},
        steps=[at_most(f"((1 - {h})*u + {h}*g)**2", "p*(u**2 + K) + q*g**2", because="p*K + p*q*(u - g)**2")],
    )
    weight = Case(
        "the weight q = (1-β)/(1-β^t) is that of both",
        positive=["a", "W"],
        nonnegative=["b"],
        real=["u", "g", "B"],
        definitions={"a": "1 - b", "N": "b*W + a", "q": "a/N"},
        steps=[
            cite("W = 1-β^(t-1), N = 1-β^t:"),
            equal("b*(1 - B) + 1 - b", "1 - b*B"),
            equal("(b*(W*u) + a*g)/N", "(1 - q)*u + q*g"),
            cite("at t = 1 m̂ = g and v̂ = g²:"),
            equal("(a*g)/a", "g"),
            equal("(a*g**2)/a", "g**2"),
        ],
    )

    def converse(name: str, definition: dict[str, str], *, free: str) -> Case:
        steps = [
            equal("(1 - x)*(1 + x)", "1 - x**2"),
            cite("so m̂_2 = (x g_1 + g_2)/(1+x) and v̂_2 = (y g_1² + g_2²)/(1+y); take g_1 = f, g_2 = h:"),
            equal("((x*f + h)/(1 + x))**2 / ((y*f**2 + h**2)/(1 + y)) - 1", "d**2/(y*(1 + x)**2)"),
            positive("d**2/(y*(1 + x)**2)"),
        ]
        names: dict[str, Any] = {"positive": ["d", "y"] if free == "y" else ["d"], "nonnegative": ["x"] if free == "x" else []}
        return Case(name, **names, definitions={**definition, "f": "x*(1 + y)/(y*(1 + x))", "h": "(1 + y)/(1 + x)"}, steps=steps)

    cases = [
        induction,
        weight,
        converse("β1 = x < y = β2: γ² > 1 at t = 2", {"y": "x + d"}, free="x"),
        converse("β1 = x > y = β2: γ² > 1 at t = 2", {"x": "y + d"}, free="y"),
    ]
    return proved(
        cases,
        "β1 = β2: v̂ - m̂² is a variance, by induction over t; β1 ≠ β2: γ² - 1 = (β1-β2)²/(β2(1+β1)²) at t = 2",
        covers="every t and every history, 0 ≤ β1 < 1, 0 < β2 < 1",
    )


def adam_supremum(run: Run) -> Evidence:
    """D4-supremum: m² ≤ (Σ a²/b) v by induction over the number of terms; the control exchanges a and b.

    The value at β1 = .9, β2 = .99, t = 12 is recomputed from its twelve terms and from the geometric sums.
    """
    term = "b**2/a" if run.twin else "a**2/b"
    growth = "b**2*K/(a*Q)" if run.twin else "a**2*K/(b*Q)"
    more = Case(
        "one more term: Q = Σ a²/b, v = (K + m²)/Q with K ≥ 0",
        positive=["Q", "b"] + (["a"] if run.twin else []),
        nonnegative=["K", "a"],
        real=["m", "g"],
        definitions={"v": "(K + m**2)/Q"},
        steps=[
            at_most("(m + a*g)**2", f"(Q + {term})*(v + b*g**2)", because=f"K + Q*b*(g - m*a/(Q*b))**2 + {growth}"),
        ],
    )
    first = Case("one term", positive=["a", "b"], real=["g"], steps=[at_most("(a*g)**2", f"({term})*(b*g**2)", because="0")])
    attained = Case(
        "g_k = a_k/b_k: m = v = Q",
        positive=["b", "Q"],
        nonnegative=["a"],
        steps=[
            equal("Q + a*(a/b)", "Q + a**2/b"),
            equal("Q + b*(a/b)**2", "Q + a**2/b"),
            equal("Q**2/Q", "Q"),
        ],
    )
    t = 12
    x, y = Fraction(9, 10), Fraction(99, 100)
    value = supremum(y, x, t) if run.twin else supremum(x, y, t)
    digits = Fraction(1104372, 10**6)
    sums = "(1/10/(1 - (9/10)**12))**2*((1 - (99/100)**12)/(1/100))"  # times (β1²/β2)^k = (9/11)^k, k < 12
    terms = f"{sums}*(" + " + ".join(f"(9/11)**{k}" for k in range(t)) + ")"
    closed = f"{sums}*(1 - (9/11)**12)/(1 - 9/11)"
    values = {"type": "values", "show": [[terms, "==", closed], [terms, ">", "1104372/1000000"], [terms, "<", "1104373/1000000"]]}
    evidence = proved(
        [first, more, attained],
        f"sup m̂²/v̂ = Σ a²/b, attained; {float(value):.6f}… at β1 = .9, β2 = .99, t = 12",
        covers="every t, arbitrary positive weights b",
        certificates=[values],
        numbers={"value": float(value)},
    )
    if not digits < value < digits + Fraction(1, 10**6):
        return Evidence(
            Verdict.REFUTED, "exact rationals", f"Σ a²/b = {float(value):.6f} at t = 12, not 1.104372…", numbers={"value": float(value)}
        )
    return evidence


def adam_limit(run: Run) -> Evidence:
    """D4-limit; the control forgets the factor 1/(1 - β1²/β2)."""
    limit = "z**2/w" if run.twin else "z**2/(w*s)"
    names: dict[str, Any] = {
        "positive": ["y", "z", "w", "s"],
        "nonnegative": ["x", "R"],
        "definitions": {"z": "1 - x", "w": "1 - y", "q": "x**2/y", "s": "1 - q"},
    }
    cases = [
        Case(
            "a term of Σ a²/b, X = β1^k, Y = β2^k",
            positive=["w", "y", "Y"],
            nonnegative=["z", "X"],
            definitions={"w": "1 - y"},
            steps=[
                equal("(z*X)**2/(w*Y)", "z**2/w*(X**2/Y)"),
            ],
        ),
        Case(
            "the partial sum (1-R)/(1-q), R = q^t",
            **names,
            steps=[
                equal("(1 - 1)/s", "0"),
                equal("(1 - R)/s + R", "(1 - q*R)/s"),
            ],
        ),
        Case(
            "it is below the limit and the difference is R times it",
            **names,
            steps=[
                at_most("z**2/w*((1 - R)/s)", limit, because="R*z**2/(w*s)"),
                equal(f"{limit} - z**2/w*((1 - R)/s)", f"R*({limit})"),
                cite("R = q^t → 0, since 0 ≤ q < 1"),
            ],
        ),
    ]
    return proved(cases, "Σ_{k<t} a²/b = (1 - q^t) (1-β1)²/((1-β2)(1-q)), q = β1²/β2 < 1", covers="every t, β1² < β2; with D4-supremum")


def adam_diverges(run: Run) -> Evidence:
    """D4-divergence; the control has β1² < β2."""
    case = Case(
        "R = q^k ≥ 1 and Σ_{j<k} q^j ≥ n give Σ_{j≤k} ≥ n + 1 and q^(k+1) ≥ 1",
        positive=["y"],
        nonnegative=["x", "d", "s", "r", "n"],
        definitions={"q": "x**2/y", "d": "1 - q" if run.twin else "q - 1"},
        steps=[
            cite("R = 1 + r, Σ = n + s"),
            at_most("n + 1", "(n + s) + (1 + r)", because="s + r"),
            at_most("1", "q*(1 + r)", because="d + r + d*r"),
        ],
    )
    term = Case("the first term is (1-β1)²/(1-β2) > 0", positive=["z", "w"], steps=[positive("z**2/w")])
    return proved(
        [case, term],
        "Σ_{k<t} a²/b ≥ t (1-β1)²/(1-β2) for β1² ≥ β2",
        covers="every t, β1² ≥ β2 > 0; with D4-supremum",
    )


def gamma_squared(history: Sequence[int], beta1: Fraction, beta2: Fraction, *, tracked: str = "gradient", correct: bool = True) -> Fraction:
    """Return ``m_t²/v_t`` at the last step in exact rationals, v the average of g² or (`tracked` "momentum") of m²."""
    m = v = Fraction(0)
    for t, g in enumerate(history, start=1):
        m = beta1 * m + (1 - beta1) * g
        unbiased = m / (1 - beta1**t) if correct else m
        v = beta2 * v + (1 - beta2) * (unbiased if tracked == "momentum" else g) ** 2
    full = 1 - beta2 ** len(history) if correct else 1
    return unbiased**2 * full / v if v else Fraction(0)


def supremum(beta1: Fraction, beta2: Fraction, t: int) -> Fraction:
    """Return ``Σ a²/b`` of the normalised weights (D4-supremum)."""
    a, b = ([z**k * (1 - z) / (1 - z**t) for k in range(t)] for z in (beta1, beta2))
    return sum((x * x / y for x, y in zip(a, b, strict=True)), Fraction(0))


# --- D4: textbook Adam exceeds 1 ------------------------------------------------------------------


def adam_gamma_squared(history: Tensor, beta1: float, beta2: float) -> Tensor:
    """Return ``m̂²/v̂`` at the last step of histories ``(B, T)``."""
    age = torch.arange(history.shape[1] - 1, -1, -1, dtype=torch.float64)
    a, b = (beta**age / (beta**age).sum() for beta in (beta1, beta2))
    return (history @ a).square() / (history.square() @ b)


def adam_violation(*, history: list[float], betas: list[float]) -> float:
    """Return ``γ² - 1`` of textbook Adam at the last step, by `decompose`."""
    gamma = decompose(torch.tensor(history, dtype=torch.float64), kind="adam", betas=tuple(betas)).variance_adaptation
    return float(gamma[-1]) ** 2 - 1.0


def adam_attack(beta1: float = 0.9, beta2: float = 0.999) -> SearchProblem:
    """Look for a history on which textbook Adam's γ exceeds 1."""
    return SearchProblem(
        (12,),
        lambda x: adam_gamma_squared(x, beta1, beta2) - 1.0,
        replay="paper_checks.vector_adam:adam_violation",
        name="D4-bound",
        statement=f"Textbook Adam with betas ({beta1}, {beta2}) has |m̂| ≤ √v̂.",
        margin=1e-3,
        variable_length=True,
        data=lambda x: {"history": x.tolist(), "betas": [beta1, beta2]},
    )


def equal_betas_attack() -> SearchProblem:
    """The same with β1 = β2, where D4-equal proves that nothing can be found."""
    return replace(adam_attack(0.9, 0.9), name="D4-equal", margin=1e-9)


def adam_bounded(run: Run) -> Evidence:
    """D4-bound: all integer pairs in exact rationals, random histories, a search; the control has β1 = β2."""
    beta1, beta2 = Fraction(9, 10), Fraction(9, 10) if run.twin else Fraction(999, 1000)
    first: tuple[int, ...] | None = None
    pairs = 0
    for size in range(1, 9):
        for pair in itertools.product(range(-size, size + 1), repeat=2):
            if max(abs(pair[0]), pair[1]) == size and pair[1] > 0:  # γ is even: the last gradient may be positive
                pairs += 1
                if first is None and gamma_squared(pair, beta1, beta2) > 1:
                    first = pair
    problem = adam_attack(float(beta1), float(beta2))
    found = search(problem, starts=24, steps=run.count(40, 200), seed=run.seed)
    drawn = run.count(20_000, 200_000)
    suprema = {t: float(supremum(beta1, beta2, t) - 1) for t in (2, 12, 100)}
    numbers: dict[str, float] = {"search, γ² - 1 at t = 12": found.violation}
    for t in suprema:
        numbers[f"supremum of γ² - 1, t = {t}"] = suprema[t]
        x = torch.randn(drawn, t, generator=run.generator(t), dtype=torch.float64)
        numbers[f"random histories above 1 of {drawn}, t = {t}"] = int((adam_gamma_squared(x, float(beta1), float(beta2)) > 1 + 1e-9).sum())
    violated = first is not None or found.violation > problem.margin
    example = None
    if first is not None:
        numbers["γ² - 1 at the smallest integers"] = float(gamma_squared(first, beta1, beta2) - 1)
        example = Counterexample(
            "D4-bound",
            f"Textbook Adam with betas (.9, .999) has |m̂| ≤ √v̂. False: two gradients {first}; they rise about as slowly as "
            "(β1/β2), 1, for which Cauchy-Schwarz is an equality; violation: γ² - 1.",
            "paper_checks.vector_adam:adam_violation",
            {"history": list(first), "betas": [float(beta1), float(beta2)]},
            1e-3,
        )
    return Evidence(
        Verdict.REFUTED if violated else Verdict.SUPPORTED,
        "exact rationals and search",
        f"smallest integer pair {first}; search reaches γ² - 1 = {found.violation:.4g} of {suprema[12]:.4g} at t = 12; "
        + ", ".join(f"{v} {k}" for k, v in numbers.items() if k.startswith("random")),
        numbers=numbers,
        budget={"integer pairs": pairs, "evaluations": found.evaluations, "random histories": 3 * drawn},
        seed=run.seed,
        counterexample=example,
        margin=None if first is None else float(gamma_squared(first, beta1, beta2) - 1),
    )


# --- D5 -------------------------------------------------------------------------------------------


def no_momentum(run: Run) -> Evidence:
    """D5; the control has β1 = ½."""
    m = "(x*M + (1 - x)*g)"
    case = Case(
        "one step, M = m_{t-1}, P = v_{t-1}",
        positive=["e", "a"],
        nonnegative=["b", "P"],
        real=["g", "M"],
        definitions={"x": "1/2" if run.twin else "0", "a": "1 - b"},
        steps=[
            equal(m, "g"),
            equal(f"b*P + a*{m}**2 + e", "b*P + a*g**2 + e"),
            equal(f"{m}**2/(b*P + a*{m}**2 + e)", "g**2/(b*P + a*g**2 + e)"),
        ],
    )
    return proved([case], "m = g, v = EMA(g²) and γ² = g²/(v+ε): RMSprop, uncorrected, ε inside the root", covers=EVERY_HISTORY)


def linf_adam_violation(*, history: Sequence[Sequence[float]], betas: list[float], variant: str = "full") -> float:
    """Return by how much ``γ_ℓ∞²/γ_Adam²`` varies over the coordinates at the last step, max/min - 1, by the library.

    A factor common to all coordinates, such as a bias correction, cancels. Both presets are tried; the smaller value counts.
    """
    x = torch.tensor(history, dtype=torch.float64)
    book = decompose(x, kind="adam", betas=tuple(betas)).variance_adaptation[-1]
    spreads = []
    for preset in ("paper", "corrected"):
        own = decompose(x, kind="deva_linf", preset=preset, variant=variant, betas=tuple(betas), eps=0.0).variance_adaptation[-1]
        ratio = (own / book).square()
        spreads.append(float(ratio.max() / ratio.min()) - 1.0)
    return min(spreads)


def linf_is_adam(run: Run) -> Evidence:
    """D5-momentum: all pairs of 0/1 histories of two steps, in exact rationals; the control lets v average g²."""
    tracked = "gradient" if run.twin else "momentum"
    histories = [h for h in itertools.product((0, 1), repeat=2) if any(h)]

    def spread(a: tuple[int, ...], b: tuple[int, ...], beta1: Fraction, beta2: Fraction) -> Fraction:
        worst = []
        for correct in (False, True):
            ratios = [gamma_squared(h, beta1, beta2, tracked=tracked, correct=correct) / gamma_squared(h, beta1, beta2) for h in (a, b)]
            worst.append(max(ratios) / min(ratios) - 1)
        return min(worst)

    half = Fraction(1, 2)
    a, b = max(itertools.combinations(histories, 2), key=lambda pair: spread(pair[0], pair[1], half, half))
    gap = spread(a, b, half, half)
    usual = spread(a, b, Fraction(9, 10), Fraction(999, 1000))
    columns = [list(row) for row in zip(a, b, strict=True)]
    on_library = linf_adam_violation(history=columns, betas=[0.5, 0.5], variant="snr" if run.twin else "full")
    refuted = gap > 0 and on_library > 1e-9
    example = Counterexample(
        "D5-momentum",
        "Up to bias corrections (a factor of the step) and ε the ℓ∞ rule is textbook Adam. False with β1 = β2 = ½ after the two steps "
        f"{columns[0]}, {columns[1]} of two coordinates: γ_ℓ∞²/γ_Adam² differs between them; violation: largest over smallest, minus 1.",
        "paper_checks.vector_adam:linf_adam_violation",
        {"history": columns, "betas": [0.5, 0.5]},
        0.5,
    )
    return Evidence(
        Verdict.REFUTED if refuted else (Verdict.SUPPORTED if gap == 0 and on_library <= 1e-9 else Verdict.INCONCLUSIVE),
        "exact rationals",
        f"histories {a}, {b}: γ² ratios differ by the factor {1 + gap} (betas ½), {float(1 + usual):.4g} (betas .9, .999); "
        f"on the library {1 + on_library:.6g}",
        numbers={"gap, betas 1/2": str(gap), "gap, betas .9 .999": float(usual), "gap on the library": on_library},
        budget={"pairs": 3},
        counterexample=example if refuted else None,
        margin=float(gap),
    )


def linf_adam_attack() -> SearchProblem:
    """Look for two coordinates whose ratio of ℓ∞ and Adam factors differs, at the default betas without bias correction."""
    beta1, beta2 = 0.9, 0.999

    def violation(x: Tensor) -> Tensor:
        m = v = w = torch.zeros_like(x[:, 0])
        for g in x.unbind(1):
            m = beta1 * m + (1 - beta1) * g
            v, w = beta2 * v + (1 - beta2) * m.square(), beta2 * w + (1 - beta2) * g.square()
        ratio = w / v
        return ratio.amax(1) / ratio.amin(1) - 1.0

    return SearchProblem(
        (3, 2),
        violation,
        replay="paper_checks.vector_adam:linf_adam_violation",
        name="D5-momentum",
        margin=0.1,
        variable_length=True,
        statement="Up to a factor of the step the ℓ∞ rule is textbook Adam.",
        data=lambda x: {"history": x.tolist(), "betas": [beta1, beta2]},
    )
