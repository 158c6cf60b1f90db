"""Sums of any length by induction, one more term at a time, the input of `prove`; shared by the checks, no claims of its own.

What a sum is so far is one name; how far a hypothesis about it is from equality is another, which is not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deva_theory.certify import Case, at_most, equal


def telescoped(
    drop: Callable[..., str], terms: Mapping[str, str], conclusion: tuple[str, str, str], *, given: Mapping[str, str] | None = None,
    positive: Sequence[str] = (), nonnegative: Sequence[str] = (), definitions: Mapping[str, str] | None = None,
) -> list[Case]:
    """Return the cases in which ``f_{t+1} ≤ f_t - drop(terms of t)``, summed over any number of steps, bounds an average.

    Parameters
    ----------
    drop : callable
        What one step lowers f by at least: expressions to an expression that is linear in them.
    terms : mapping
        The expressions of one step, in the order of `drop`, to the names of their sums; "1" to "k" for what is the same in every step.
    conclusion : tuple
        ``(small, large, because)`` after k steps. It may use gap, the bound on ``f_0 - f*``, and the slacks q, below and above of the
        summed steps, of ``f* ≤ f_k`` and of the gap.
    given : mapping
        What else is known of the sums, for the conclusion only: names of nonnegative expressions.
    positive, nonnegative, definitions
        Of the other names.
    """
    real = [x for x in (*terms, *terms.values()) if x.isidentifier() and x not in (*positive, *nonnegative)]
    definitions, given = definitions or {}, given or {}
    more = [f"({total}) + ({term})" for term, total in terms.items()]
    so_far = {"f": f"f0 - ({drop(*terms.values())}) - q"}
    return [
        Case("no step yet", positive=positive, nonnegative=nonnegative, real=["f0", *real], definitions=definitions,
             steps=[equal(f"f0 + ({drop(*['0'] * len(terms))})", "f0")]),
        Case(
            "one more step: f + what the steps lowered it by stays at most f_0", positive=positive, nonnegative=[*nonnegative, "q", "d"],
            real=["f0", *real], definitions={**definitions, **so_far, "next": f"f - ({drop(*terms)}) - d"},
            steps=[at_most(f"next + ({drop(*more)})", "f0", "q + d")],
        ),
        Case(
            "after k steps", positive=["k", *positive], nonnegative=[*nonnegative, "q", "below", "above", *given],
            real=["f0", *(x for x in real if x != "k")],
            definitions={**definitions, **so_far, "least": "f - below", "gap": "f0 - least + above", **given}, steps=[at_most(*conclusion)],
        ),
    ]


def cauchy_schwarz(weight: str = "") -> list[Case]:
    """Return the cases of ``(Σ a x)² ≤ (Σ l a²)(Σ x²/l)``, l = 1 without a weight: C, A and X are the three sums so far."""
    l, positive = (weight, [weight]) if weight else ("1", [])
    left, right = "(C + a*x)**2", f"(A + {l}*a**2)*(X + x**2/{l})"
    return [
        Case("one more term", positive=["A", *positive], nonnegative=["K"], real=["C", "a", "x"], definitions={"X": "(K + C**2)/A"}, steps=[
            equal("A*X - C**2", "K"),
            at_most(left, right, f"K + (A*x - C*{l}*a)**2/({l}*A) + K*{l}*a**2/A"),
        ]),
        Case("the same after zeros: A = C = 0", positive=positive, nonnegative=["X"], real=["a", "x"], definitions={"A": "0", "C": "0"},
             steps=[at_most(left, right, f"{l}*a**2*X")]),
    ]
