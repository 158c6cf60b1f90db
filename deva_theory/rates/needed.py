r"""R6: whether every term of a bound is needed, and its constant.

`deva_theory.rates.tightness` searches for the largest observed/bound.  Here a term of the bound is left out first, or halved.  A ratio
above 1 then is an instance that needs the term; a ratio of at most 1 says no more than that this search found none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deva_theory.rates.tightness import WorstCase, worst_case

_SHORT, _LONG, _AROUND = (0.0625, 0.125, 0.25, 0.5), (2.0, 4.0, 8.0, 16.0), (0.25, 1.0, 4.0)
"""Multiples of η: short steps make the initial term large, long ones the smoothness."""
NEEDED: dict[tuple[str, str], dict[str, tuple[dict[str, Any], ...]]] = {
    ("R1", "measured"): {
        "initial": ({"steps": (16,), "scales": _SHORT},),
        "smoothness": ({"steps": (16,), "scales": _LONG},),
    },
    ("R2", "measured"): {
        "initial": ({"noise": "gaussian", "steps": (16,)},),
        "smoothness": ({"noise": "gaussian", "steps": (16,)},),
        "noise": ({"noise": "against", "steps": (256,)},),
    },
    ("R3", "pathwise"): {
        "initial": ({"family": "trace", "steps": (16,), "scales": _SHORT},),
        "smoothness": ({"family": "trace", "steps": (16,), "scales": _LONG},),
        "noise": ({"family": "trace", "noise": "against", "steps": (64,)},),
    },
    ("R5", "sharp"): {
        # Of order 1/√T beside it are the start, as the first gradient is large, and the drift: only a large T shows the constant.
        "initial": ({"noise": "signs", "steps": (256,), "scales": (0.25, 0.5)},),
        "smoothness": ({"noise": "gaussian", "steps": (1, 2, 4)},),
        # At T = 1 β is 0, and so are these two.
        "start": ({"noise": "signs", "steps": (2, 3, 4, 9, 16), "scales": _AROUND}, {"family": "wells", "noise": "signs", "steps": (2, 4)}),
        "drift": tuple({"family": family, "noise": "signs", "steps": (64,), "scales": _AROUND} for family in ("quadratic", "wells")),
        "noise": ({"noise": "signs", "steps": (64, 256)},),
    },
}
"""Statement and form to its terms, each with the searches that are made without it: arguments of `worst_case`."""
TOP = 10.0
"""A ratio that stands for all larger ones: without one of its terms a bound can be too small by any factor."""
ERRORS = 5.0
"""Standard errors by which a run must exceed what is left of the bound."""


@dataclass(frozen=True)
class NeededTerm:
    """What a search finds against a bound with less of one term.

    Attributes
    ----------
    statement, form, term : str
        What was searched.
    weight : float
        What is left of the term: 0, or a part.
    ratio, error : float
        Observed over what is left of the bound, at most `TOP`, and its standard error; of several searches, of the one with the largest
        ratio - 5·error.  The error is 0 where even that is at least `TOP`.
    T : int
        Steps of that run.
    noise : str
        Its noise.
    instances : int
        Tried.
    """

    statement: str
    form: str
    term: str
    weight: float
    ratio: float
    error: float
    T: int
    noise: str
    instances: int

    @property
    def needed(self) -> bool:
        """Whether the run exceeds what is left by more than five standard errors; if not, nothing is known."""
        return self.ratio > 1 + 1e-9 + ERRORS * self.error

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line."""
        left = "without" if self.weight == 0 else f"with {self.weight:g} of"
        top = " or more" if self.ratio == TOP else ""
        found = "needed" if self.needed else "not shown to be needed"
        return f"{self.statement} {left} its term {self.term}: observed/bound {self.ratio:.3f}{top} at T = {self.T}, {found}"


def needed_terms(
    statement: str, form: str | None = None, *, weights: Sequence[float] = (0.0, 0.5), starts: int = 12, rounds: int = 20, seeds: int = 8,
    final_seeds: int = 2048, seed: int = 0,
) -> list[NeededTerm]:
    r"""Search for violations of a bound with less of one of its terms, one term after the other.

    Parameters
    ----------
    statement, form : str
        A key of `NEEDED`; by default the form that is there.
    weights : sequence of float
        In [0, 1): what is left of the term.  0 asks for the term, ½ for its constant.
    starts, rounds, seeds, final_seeds, seed
        As in `worst_case`.

    Returns
    -------
    list of NeededTerm
        For every term and weight.  Of several searches that one counts which is the largest in ratio - 5·error, so that a larger ratio
        that may be chance hides no smaller one that is none.  Above 1: it is needed.  At most 1: the search does not show that, which is
        no proof of the contrary.

    Notes
    -----
    What to expect, with rules and noise as in the searches:

    * R2's noise, half: needed only with a bias, or with Γ that depends on the noise (the ledger's R6-noise).  Unbiased noise n turns the
      sign of g with a probability of at most σ²/(σ²+g²) (Cantelli), which costs 2|g|σ²/(σ²+g²) ≤ σ: with Γ fixed beforehand 1 may stand
      for 2.
    * R3's noise, half: likewise.  Of unbiased noise, E|n| ≥ 2|g| P(n turns the sign) for numbers.
    * R5's start: not needed without noise.  `deva_theory.rates.momentum_bounds.momentum_corrected` has none, and its weights a_k make the
      memory Σ_k k a_k = Σ_{k=1..t} (β^k - β^{t+1})/(1-β^{t+1}) ≤ Σ_{k=1..t} β^k, the drift of the sharp form.  Nor in the limit β → 1,
      with any noise: ‖∇f(x_t)‖_1 ≤ ‖∇f(x_0)‖_1 + ηLt, whose average is that of t = 0 plus ηL(T-1)/2, and ‖∇f(x_0)‖_1 ≤ √(2LΔ) ≤
      Δ/(ηT) + ηLT/2; together Δ/(ηT) + ηL/2 + ηL(T-1), which are initial, smoothness and drift.

    Raises
    ------
    ValueError
        A bound without searches, a weight outside [0, 1).
    """
    form = form or next((key[1] for key in NEEDED if key[0] == statement), "")
    if (statement, form) not in NEEDED:
        raise ValueError(f"no searches for {statement} {form}: use one of {', '.join(' '.join(key) for key in NEEDED)}")
    if any(not 0 <= weight < 1 for weight in weights):
        raise ValueError(f"the weights are {list(weights)}; use numbers in [0, 1)")
    rows = []
    for term, searches in NEEDED[statement, form].items():
        for weight in weights:
            # Without the noise that counts, a search ends at instances with none, on which the bound is attained.
            share = 0.3 if term == "noise" and weight > 0 else 0.0
            found = [
                worst_case(
                    statement, form=form, **options, weights={term: weight}, noise_share=share, starts=starts, rounds=rounds, seeds=seeds,
                    final_seeds=final_seeds, seed=seed,
                )
                for options in searches
            ]
            worst = max(found, key=_least)
            rows.append(NeededTerm(
                statement, form, term, float(weight), min(worst.ratio, TOP), worst.error if _least(worst) < TOP else 0.0, worst.steps,
                worst.noise, sum(x.evaluations for x in found),
            ))  # fmt: skip
    return rows


def _least(found: WorstCase) -> float:
    """Return the ratio less its standard errors: what is left where it is not chance."""
    return found.ratio - ERRORS * found.error
