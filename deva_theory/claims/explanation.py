"""One claim in full, as text: statement, assumptions, method, evidence, control, and the counter-example as a snippet."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from deva_theory.claims.model import Claim, Verdict

__all__ = ["explain", "snippet"]

_WIDTH = 100


def explain(
    claim: Claim,
    content: Mapping[str, Any] | None,
    counterexample: Mapping[str, Any] | None,
    *,
    refuted_premises: tuple[str, ...] = (),
    evidence_path: str = "",
    steps: int | None = 40,
) -> str:
    """Return the text of ``deva-theory explain ID``.

    Parameters
    ----------
    claim : Claim
    content : mapping or None
        The hashed part of the claim's evidence file; None for NOT_CHECKED.
    counterexample : mapping or None
        The hashed part of its counter-example file.
    refuted_premises : tuple of str
    evidence_path : str
        Shown with the command that re-checks the file.
    steps : int or None, default 40
        How many lines of the derivation to print; None prints all.
    """
    verdict = content["verdict"] if content else str(claim.expected)
    lines = [f"{claim.id}: {claim.title}", "=" * min(_WIDTH, len(claim.id) + len(claim.title) + 2), f"verdict      {verdict}"]
    if verdict != claim.expected:
        lines.append(f"expected     {claim.expected}  (the verdict has changed)")
    if content and content["statement"] != claim.statement:
        lines.append(_item("stale", f"the evidence is about another wording: run `deva-theory verify {claim.id} --tier full --update`"))
    if refuted_premises:
        lines.append(f"marked       rests on refuted {', '.join(refuted_premises)}")
    lines += [f"kind         {claim.kind}", _item("source", claim.source)]
    lines += ["", _fill(claim.statement), "", textwrap.indent(claim.latex, "    ")]
    if claim.assumptions:
        lines += ["", "assumptions", *(_bullet(text) for text in claim.assumptions)]
    if claim.depends_on:
        lines += ["", _item("depends on", ", ".join(claim.depends_on))]
    lines += ["", _item("method", content["method"] if content else claim.method), _item("tolerance", claim.tolerance)]
    if content is None:
        lines += ["", _item("not checked", claim.reason or "")]
        return "\n".join(lines) + "\n"
    lines += ["", "evidence", _fill(content["summary"], "    ")]
    if content["covers"]:
        lines.append(_item("covers", content["covers"]))
    budget = ", ".join(f"{value:,} {key}" for key, value in content["budget"].items())
    for name, text in (("budget", budget), ("seed", content["seed"]), ("margin", content["margin"]), ("figure", content["figure"])):
        if text not in (None, ""):
            lines.append(_item(name, f"{text:.6g}" if isinstance(text, float) else str(text)))
    lines += [f"    {key} = {_number(value)}" for key, value in content["numbers"].items()]
    if content["steps"]:
        shown = content["steps"] if steps is None else content["steps"][:steps]
        lines += ["", "derivation", *(f"    {line}" for line in shown)]
        if len(shown) < len(content["steps"]):
            lines.append(f"    ... {len(content['steps']) - len(shown)} more lines: --all")
    control = content["control"]
    lines += ["", "negative control", _fill(control["statement"], "    ")]
    lines.append(_fill(f"found {control['verdict']}: {control['summary']}", "    "))
    lines += [_item("PROBLEM", problem) for problem in content["problems"]]
    if counterexample:
        # The snippet is not indented: it is copied and run.
        lines += ["", "counter-example", _fill(counterexample["statement"], "    "), "", snippet(counterexample)]
    if evidence_path and Verdict(verdict).recheckable:
        lines += ["", "re-check, without the code that found it", f"    python -m deva_theory.recheck {evidence_path}"]
    return "\n".join(lines) + "\n"


def snippet(counterexample: Mapping[str, Any]) -> str:
    """Return Python that replays a counter-example in the clone's top folder."""
    module, _, function = counterexample["replay"].partition(":")
    arguments = "".join(f"    {key}={value!r},\n" for key, value in counterexample["data"].items())
    violation = counterexample.get("violation")
    comment = f"  # {violation:.6g}: positive, so the statement fails" if isinstance(violation, float | int) else ""
    return f"from {module} import {function}\n\nviolation = {function}(\n{arguments})\nprint(violation){comment}"


def _item(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<12} {text}", _WIDTH, subsequent_indent=" " * 13)


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _bullet(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="    - ", subsequent_indent="      ")


def _number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
