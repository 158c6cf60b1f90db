"""Proofs of SPEC D1, D2, D3 and D6 for every t and every history.

No step mentions t. What the past left behind is one symbol, P = S_{t-1} or v_{t-1}, of which nothing but P ≥ 0 is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal, positive, sign_cases
from deva_theory.claims.model import Evidence, Run
from deva_theory.decomposition import decompose
from paper_checks.verdicts import proved

EVERY_HISTORY = "every t, every past (P ≥ 0 is all that is used of it)"


# --- D1, D2 ---------------------------------------------------------------------------------------


def adagrad_split(run: Run) -> Evidence:
    """D1; the control leaves the sign out."""
    term = "1" if run.twin else "sign(g)"

    def steps(signs: Mapping[str, int]) -> list[Any]:
        if not any(signs.values()):
            return [cite("S = 0: γ := 0 by 0/0 := 0"), equal("0", f"0*({term})")]
        return [
            equal("(abs(g)/r)**2", "g**2/(P + g**2)"),
            at_most("0", "abs(g)/r", because="abs(g)/r"),
            cite("a number ≥ 0 has one nonnegative root: |g|/√S is γ = √(g²/S)"),
            equal("g/r", f"(abs(g)/r)*({term})"),
        ]

    cases = sign_cases(steps, signed={"g": (1, 0, -1), "P": (0, 1)}, squares={"r": "P + g**2"})
    return proved(cases, "g/√S = √(g²/S)·sign(g) in each sign case", covers=EVERY_HISTORY + "; 0/0 := 0 where S = 0")


def scale_invariance(run: Run) -> Evidence:
    """D2; in the control the factor of the past differs from that of the present."""
    e = "e" if run.twin else "d"
    case = Case(
        "one step",
        positive=["d", "e"],
        nonnegative=["P", "w", "u"],
        real=["g", "M", "b"],
        steps=[
            # State: the past square is multiplied by d², as its terms are; weights w = u = 1 for AdaGrad, β2 and 1-β2 for averages.
            equal(f"w*({e}**2*P) + u*(d*g)**2", "d**2*(w*P + u*g**2)"),
            equal(f"b*({e}*M) + (1 - b)*(d*g)", "d*(b*M + (1 - b)*g)"),
        ],
    )
    ratio = Case(
        "the quotient",
        positive=["d", "v"],
        nonnegative=["n"],
        squares={"r": "v"},
        steps=[equal("(d*r)**2", "d**2*v"), positive("d*r"), cite("so √(d²v) = d√v, and sign(dm) = sign(m)"), equal("(d*n)/(d*r)", "n/r")],
    )
    return proved(
        [case, ratio],
        "S, v and m scale with d², d² and d, so γ and sign do not change",
        covers="AdaGrad, RMSprop, Adam and ℓ∞ at ε = 0; " + EVERY_HISTORY,
    )


# --- D3 -------------------------------------------------------------------------------------------

_EMA: dict[str, Any] = {"positive": ["p", "a"], "nonnegative": ["b", "P"], "definitions": {"a": "1 - b"}}
"""β2 = b, 1-β2 = a, |g| or |m| = p ≠ 0, v_{t-1} = P."""


def range_adagrad(run: Run) -> Evidence:
    """D3-adagrad; the control gives the present square the weight 1-β2."""
    square = "(b*P + a*p**2)" if run.twin else "(P + p**2)"
    rest = "b*P" if run.twin else "P"
    case = Case(
        "g ≠ 0, p = |g|",
        **_EMA,
        steps=[
            at_most(f"p**2/{square}", "1", because=f"{rest}/{square}"),
            positive(f"p**2/{square}"),
            equal("p**2/(0 + p**2)", "1"),
        ],
    )
    return proved([case], "1 - γ² = S_{t-1}/S_t ≥ 0 and γ > 0; 1 is attained at the first gradient", covers=EVERY_HISTORY)


def range_ema(run: Run) -> Evidence:
    """D3-ema; the control claims the bound of the bias-corrected average."""
    bound = "(1 - B)/a" if run.twin else "1/a"
    case = Case(
        "g ≠ 0, p = |g|, B = β2^t",
        **{**_EMA, "nonnegative": ["b", "P", "B"]},
        steps=[
            at_most("p**2/(b*P + a*p**2)", bound, because="b*P/(a*(b*P + a*p**2))"),
            positive("p**2/(b*P + a*p**2)"),
            equal("p**2/(b*0 + a*p**2)", bound),
        ],
    )
    strict = Case(
        "β2 > 0 and a past that is not zero",
        **{**_EMA, "positive": ["p", "a", "b", "P"], "nonnegative": ["B"]},
        steps=[
            cite("P = Σ w_s g_s² over the past with weights w_s = (1-β2)β2^(t-1-s) > 0 is 0 only if every past gradient is"),
            equal(f"{bound} - p**2/(b*P + a*p**2)", "b*P/(a*(b*P + a*p**2))"),
            positive("b*P/(a*(b*P + a*p**2))"),
        ],
    )
    no_memory = Case("β2 = 0: always equal", positive=["p"], nonnegative=["P"], steps=[equal("p**2/(0*P + 1*p**2)", "1/1")])
    return proved(
        [case, strict, no_memory],
        "1/(1-β2) - γ² = β2 P/((1-β2) v): 0 for P = 0, positive for P > 0 and β2 > 0",
        covers=EVERY_HISTORY,
    )


def range_corrected(run: Run) -> Evidence:
    """D3-corrected; the control claims 1, the bound of the first step, at every step."""
    bound = "1" if run.twin else "c/a"
    names: dict[str, Any] = {"positive": ["p", "a", "c"], "nonnegative": ["b", "P", "B"], "definitions": {"a": "1 - b", "c": "1 - B"}}
    always = Case(
        "g ≠ 0, B = β2^t",
        **names,
        steps=[
            at_most("c*p**2/(b*P + a*p**2)", bound, because="c*b*P/(a*(b*P + a*p**2))"),
            equal("c*p**2/(b*0 + a*p**2)", bound),
        ],
    )
    first = Case("t = 1", positive=["p", "a"], definitions={"a": "1 - b"}, real=["b"], steps=[equal("p**2/((b*0 + a*p**2)/(1 - b))", "1")])
    grows = Case("the bound at t + 1 is not smaller", **names, steps=[at_most("c/a", "(1 - b*B)/a", because="B")])
    return proved([always, first, grows], "γ̂² ≤ (1-β2^t)/(1-β2), attained for P = 0; 1 at t = 1", covers=EVERY_HISTORY)


def range_linf(run: Run) -> Evidence:
    """D3-linf: the same with m for g; the control has β1 in the bound."""
    bound = "1/(1 - x)" if run.twin else "1/a"
    names: dict[str, Any] = {"positive": ["p", "a", "y"], "nonnegative": ["b", "P", "x", "B"], "definitions": {"a": "1 - b", "y": "1 - x"}}
    case = Case(
        "m ≠ 0, p = |m|, x = β1",
        **names,
        steps=[
            at_most("p**2/(b*P + a*p**2)", bound, because="b*P/(a*(b*P + a*p**2))"),
            equal("p**2/(b*0 + a*p**2)", bound),
        ],
    )
    corrected = Case(
        "preset corrected: p = |m̂|, c = 1 - β2^t",
        positive=["p", "a", "c"],
        nonnegative=["b", "P"],
        definitions={"a": "1 - b"},
        steps=[
            at_most("c*p**2/(b*P + a*p**2)", "c/a", because="c*b*P/(a*(b*P + a*p**2))"),
        ],
    )
    attained = Case(
        "zero past: m_{t-1} = 0 and P = 0",
        positive=["y", "a"],
        nonnegative=["x", "b"],
        real=["g"],
        definitions={"a": "1 - b", "y": "1 - x"},
        steps=[
            equal("x*0 + y*g", "y*g"),
            cite("m = (1-β1) g ≠ 0 there, and P = Σ w m_s² = 0 only if every m_s, hence every past gradient, is 0"),
        ],
    )
    return proved([case, corrected, attained], "γ² ≤ 1/(1-β2), corrected (1-β2^t)/(1-β2), attained for a zero past", covers=EVERY_HISTORY)


def epsilon_lowers(run: Run) -> Evidence:
    """D3-eps; the control puts ε into the numerator, where the printed S∞ rule has it."""
    above = "(n**2 + e)/s**2" if run.twin else "n**2/(s**2 + e)"
    names: dict[str, Any] = {"positive": ["s"], "nonnegative": ["n", "e"]}
    cases = [
        Case("inside the root, s = √v", **names, steps=[at_most(above, "n**2/s**2", because="n**2*e/(s**2*(s**2 + e))")]),
        Case("outside the root", **names, steps=[at_most("n/(s + e)", "n/s", because="n*e/(s*(s + e))")]),
        Case(
            "relative: max(v, ε max v) = v + e with some e ≥ 0",
            **names,
            steps=[at_most("n**2/(s**2 + e)", "n**2/s**2", because="n**2*e/(s**2*(s**2 + e))")],
        ),
    ]
    return proved(cases, "γ with ε ≤ γ without, in the three places of ε", covers="n = |m| or |g|, v > 0; where v = 0, γ is 0 either way")


# --- D6 -------------------------------------------------------------------------------------------


def potential_log(run: Run) -> Evidence:
    """D6-log; the control has ½ for the 1 in front of the logarithm."""
    cases = [
        Case("the first non-zero gradient", positive=["p"], steps=[at_most("p**2/(0 + p**2)", "1/2" if run.twin else "1", because="0")]),
        Case(
            "a later one, P = S_{t-1} > 0",
            positive=["P"],
            real=["g"],
            steps=[
                equal("g**2/(P + g**2)", "1 - P/(P + g**2)"),
                positive("P/(P + g**2)"),
                cite("ln y ≤ y - 1 at y = S_{t-1}/S_t > 0: γ_t² ≤ ln(S_t/S_{t-1})"),
            ],
        ),
    ]
    return proved(
        cases, "γ² = 1 - S_{t-1}/S_t ≤ ln(S_t/S_{t-1}), summed", covers=EVERY_HISTORY + "; ln y ≤ y - 1 is cited, the sum telescopes"
    )


def potential_root(run: Run) -> Evidence:
    """D6-root; the control has the constant 1."""
    c = "1" if run.twin else "2"
    case = Case(
        "g ≠ 0, p = |g|, r = √S_{t-1}, s = √S_t",
        positive=["p"],
        nonnegative=["P"],
        squares={"r": "P", "s": "P + p**2"},
        steps=[
            at_most("p**2/s", f"{c}*(s - r)", because="(s - r)**2/s"),
        ],
    )
    return proved([case], "g²/√S_t ≤ 2 (√S_t - √S_{t-1}), summed", covers=EVERY_HISTORY + "; the sum telescopes")


# --- attacks on what is proved --------------------------------------------------------------------


def range_violation(*, history: list[float], beta2: float) -> float:
    """Return ``(1-β2) γ² - 1`` of RMSprop at the last step, by `decompose`."""
    gamma = decompose(torch.tensor(history, dtype=torch.float64), kind="rmsprop", beta2=beta2).variance_adaptation
    return (1.0 - beta2) * float(gamma[-1]) ** 2 - 1.0


def range_attack() -> SearchProblem:
    """Look for a history on which RMSprop's γ exceeds (1-β2)^(-1/2)."""
    beta2 = 0.9

    def violation(x: Tensor) -> Tensor:
        weights = beta2 ** torch.arange(x.shape[1] - 1, -1, -1, dtype=torch.float64)
        return x[:, -1].square() / (x.square() @ weights) - 1.0

    return SearchProblem(
        (6,),
        violation,
        replay="paper_checks.vector:range_violation",
        name="D3-ema",
        statement="RMSprop's γ is at most (1-β2)^(-1/2).",
        margin=1e-9,
        variable_length=True,
        data=lambda x: {"history": x.tolist(), "beta2": beta2},
    )


def potential_violation(*, history: list[float]) -> float:
    """Return ``Σ g²/√S / (2 √S_T) - 1``, with γ from `decompose`."""
    h = torch.tensor(history, dtype=torch.float64)
    gamma = decompose(h, kind="adagrad").variance_adaptation
    return float((h.abs() * gamma).sum() / (2.0 * h.square().sum().sqrt())) - 1.0


def potential_attack() -> SearchProblem:
    """Look for a history on which ``Σ g²/√S`` exceeds ``2 √S_T``."""

    def violation(x: Tensor) -> Tensor:
        S = x.square().cumsum(1)
        return (x.square() / torch.where(S > 0, S, 1.0).sqrt()).sum(1) / (2.0 * S[:, -1].sqrt()) - 1.0

    return SearchProblem(
        (10,),
        violation,
        replay="paper_checks.vector:potential_violation",
        name="D6-root",
        statement="Σ g²/√S is at most 2 √S_T.",
        margin=1e-9,
        variable_length=True,
        data=lambda x: {"history": x.tolist()},
    )
