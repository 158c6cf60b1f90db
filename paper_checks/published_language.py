"""The published language model: E3, what the printed token counts and costs imply."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import sympy

from deva_theory.claims.model import Evidence, Run, Verdict
from paper_checks.verdicts import arithmetic, refutation

TOKENS = {"deva": "1268/1000", "soap": "1298/1000", "muon": "1357/1000"}
"""Billions of tokens to loss 3.31, as printed."""

COST = {"deva": "1649/100", "muon": "1072/100"}
"""As printed, unit unclear."""

HALF_UNIT = "1/2000"
"""How far rounding to three decimals moves a token count."""

FEWER = f"({TOKENS['deva']})/({TOKENS['muon']})"

PER_TOKEN = f"({COST['deva']})/({COST['muon']})"


def _rounds_to(expression: str, stated: str, half_unit: str, covers: str) -> Evidence:
    """Judge "the expression, rounded, is the stated number"."""
    value = float(sympy.sympify(expression))
    show = [[expression, ">=", f"{stated} - {half_unit}"], [expression, "<", f"{stated} + {half_unit}"]]
    summary = f"{expression} = {value:.5f}, stated {float(sympy.sympify(stated)):g}"
    return arithmetic(show, summary, covers=covers, numbers={"value": value})


def _saving(method: str, base: str, percent: str) -> Evidence:
    covers = "arithmetic of the printed figures, not their measurement"
    return _rounds_to(f"1 - ({TOKENS[method]})/({TOKENS[base]})", f"({percent})/100", HALF_UNIT, covers)


def saving_muon(run: Run) -> Evidence:
    """E3-muon: 6.6% fewer tokens than Muon; the control says 7.0%, the same difference over DeVA's own tokens."""
    return _saving("deva", "muon", "7" if run.twin else "66/10")


def saving_soap(run: Run) -> Evidence:
    """E3-soap: SOAP takes 4.3% fewer tokens than Muon; the control says 4.5%, the difference over SOAP's own."""
    return _saving("soap", "muon", "45/10" if run.twin else "43/10")


def saving_over_soap(run: Run) -> Evidence:
    """E3-deva-soap: DeVA takes 2.3% fewer tokens than SOAP; the control says 6.6%."""
    return _saving("deva", "soap", "66/10" if run.twin else "23/10")


def around(run: Run) -> Evidence:
    """E3-around: whatever the fourth decimals were, the saving is 6.48-6.64%; the control claims 6.55-6.65%, what 6.6% means."""
    low, high = ("655/10000", "665/10000") if run.twin else ("648/10000", "664/10000")
    # The quotient is monotone in both counts, so that its extremes are at the corners.
    least = f"1 - ({TOKENS['deva']} + {HALF_UNIT})/({TOKENS['muon']} - {HALF_UNIT})"
    most = f"1 - ({TOKENS['deva']} - {HALF_UNIT})/({TOKENS['muon']} + {HALF_UNIT})"
    ends = [float(sympy.sympify(e)) for e in (least, most)]
    return arithmetic(
        [[least, ">=", low], [most, "<=", high]], f"the saving is between {ends[0]:.5f} and {ends[1]:.5f}",
        covers="rounding of the printed counts; run-to-run variation is unknown", numbers={"least": ends[0], "most": ends[1]},
    )


def last_digit(deva: str, muon: str, stated: str, half_unit: str) -> float:
    """Return how far the saving of these token counts lies from the stated one beyond half a unit of its last digit.

    Negative as well where a count does not round to the printed one: then nothing is violated.
    """
    counts = ((deva, TOKENS["deva"]), (muon, TOKENS["muon"]))
    if any(abs(Fraction(count) - Fraction(printed)) >= Fraction(HALF_UNIT) for count, printed in counts):
        return -1.0
    return float(abs(1 - Fraction(deva) / Fraction(muon) - Fraction(stated)) - Fraction(half_unit))


def rounding(run: Run) -> Evidence:
    """E3-digit: the printed counts fix the saving to 6.6%, last digit included; the control asks for half a percentage point."""
    data = {"deva": "1.2684", "muon": "1.3566", "stated": "0.066", "half_unit": "0.0005"}
    return refutation(
        run, "e3-last-digit",
        "Token counts that round to 1.268B and 1.357B mean a saving that rounds to 6.6%. False: 1.2684B and 1.3566B give 6.50%; "
        "violation: distance from 6.6% beyond half a unit.",
        last_digit, data, margin=1e-4, repair={"half_unit": "0.005"},
        summary="a saving that the printed counts allow, 1 - 1.2684/1.3566, lies {:+.5f} outside the stated interval",
    )


def cost_per_token(run: Run) -> Evidence:
    """E3-token-cost: DeVA costs 1.54 times as much per token; the control says 1.44, that times the token ratio."""
    return _rounds_to(PER_TOKEN, "144/100" if run.twin else "154/100", "1/200", "if both costs are for equal numbers of tokens")


def time_to_target(run: Run) -> Evidence:
    """E3-time: the cost to the target is 1.44 times Muon's; the control says .93, the tokens alone."""
    return _rounds_to(f"{FEWER}*{PER_TOKEN}", "93/100" if run.twin else "144/100", "1/200", "if cost is proportional to tokens")


def break_even(run: Run) -> Evidence:
    """E3-break-even: the saved tokens pay for at most 1.07 times the cost per token; the control finds the printed costs below that."""
    limit = f"1/({FEWER})"
    show = [[limit, ">=", "1065/1000"], [limit, "<", "1075/1000"], [PER_TOKEN, "<" if run.twin else ">", limit]]
    values = [float(sympy.sympify(e)) for e in (limit, PER_TOKEN)]
    return arithmetic(
        show, f"break-even at {values[0]:.4f} times the cost per token; the printed costs say {values[1]:.4f}",
        covers="if cost is proportional to tokens", numbers={"break-even": values[0], "printed": values[1]},
    )


def cost_excess(tokens: Sequence[str], costs: Sequence[str], saving: str) -> float:
    """Return the relative cost of (DeVA, Muon) to the target minus what the stated saving leaves, the smaller of both readings.

    Readings of the printed costs: for equal tokens (so they multiply the tokens), or to the target (so they stand alone).
    """
    per_token = Fraction(costs[0]) / Fraction(costs[1])
    fewer = Fraction(tokens[0]) / Fraction(tokens[1])
    return float(min(per_token, per_token * fewer) - (1 - Fraction(saving)))


def cheaper(run: Run) -> Evidence:
    """E3-cost: training to 3.31 costs 6.6% less than with Muon; the control counts tokens as the cost."""
    # .0649: the least saving that the rounded counts allow.
    data = {"tokens": ["1.268", "1.357"], "costs": ["16.49", "10.72"], "saving": "0.0649"}
    return refutation(
        run, "e3-cost",
        "DeVA reduces the cost of training to loss 3.31 by about 6.6% against Muon. False in the paper's own cost figures, under both "
        "readings of their unit (for equal tokens; to the target); violation: relative cost minus what the saving leaves.",
        cost_excess, data, margin=0.1, repair={"costs": ["1", "1"]}, standing=Verdict.HOLDS_IF,
        summary="relative cost minus what the saving leaves: {:+.3f} (the reading that favours the statement)",
    )
