"""Certificates of type "algebra": identities of rational functions and evident signs, case by case."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .cases import DECLARATIONS, NONNEGATIVE, POSITIVE, Case
from .reading import Rejected, fields, items, parse, quoted


def constant(text: object) -> Fraction:
    """Return the exact value of an expression without names."""
    value = Case({}).value(parse(text)).ratio.constant
    if value is None:
        raise Rejected(f"{quoted(text)} is not a number")
    return value


def check_step(case: Case, step: Mapping[str, Any]) -> str:
    """Check one step and let the case learn from it; return the text of a citation, else nothing."""
    ring = case.ring
    kind = next((key for key in ("equal", "at_most", "positive", "cite") if key in step), None)
    if kind is None:
        raise Rejected("a step is none of 'equal', 'at_most', 'positive', 'cite'")
    fields(step, "the step", ("at_most", "because") if kind == "at_most" else (kind,), ("note",))
    if kind == "cite":
        if not isinstance(step["cite"], str) or not step["cite"].strip():
            raise Rejected("a citation has no text")
        return step["cite"].strip()
    if kind == "positive":
        value = case.value(parse(step["positive"]))
        if value.signs != POSITIVE:
            raise Rejected(f"{quoted(step['positive'])} is not evidently positive")
        case.learn(value.ratio, POSITIVE)
        return ""
    pair = items(step[kind], kind)
    if len(pair) != 2:
        raise Rejected(f"{kind!r} has {len(pair)} entries, not 2")
    left, right = (case.value(parse(text)) for text in pair)
    if kind == "equal":
        difference = ring.expanded(ring.add(left.ratio, ring.negate(right.ratio)))
        if difference.top:
            raise Rejected(f"{quoted(pair[0])} - ({quoted(pair[1])}) is not 0; its numerator is {ring.show(difference.top)}")
        signs = left.signs & right.signs
        case.learn(left.ratio, signs)
        case.learn(right.ratio, signs)
        return ""
    because = case.value(parse(step["because"]))
    difference = ring.add(right.ratio, ring.negate(left.ratio))
    rest = ring.expanded(ring.add(difference, ring.negate(because.ratio)))
    if rest.top:
        raise Rejected(f"{quoted(pair[1])} - ({quoted(pair[0])}) is not {quoted(step['because'])}; they differ by {ring.show(rest.top)}")
    if not because.signs <= NONNEGATIVE:
        raise Rejected(f"{quoted(step['because'])} is not evidently nonnegative")
    case.learn(difference, because.signs)
    return ""


def _names(entry: Any) -> bool:
    """Whether an expression, or one of a pair, contains a name."""
    texts = [entry] if isinstance(entry, str) else entry
    return any(isinstance(node, ast.Name) for text in texts for node in ast.walk(parse(text)))


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "algebra"; return what it assumes and cites."""
    fields(certificate, "the certificate", ("cases",), ("type", "name", "statement", "note"))
    cases = items(certificate["cases"], "cases", 1)
    checked, citations, assumed, cited = 0, 0, [], []
    named = False
    for i, content in enumerate(cases):
        place = f"case {i}"
        try:
            fields(content, "the case", ("steps",), ("name", *DECLARATIONS, "definitions", "squares", "note"))
            place += f" {quoted(content.get('name', ''))}"
            case = Case(content)
            assumed += case.assumptions()
            for k, step in enumerate(items(content["steps"], "steps", 1)):
                try:
                    text = check_step(case, fields(step, "the step"))
                except Rejected as failure:
                    raise Rejected(f"step {k}: {failure}") from None
                if text:
                    citations += 1
                    cited.append(quoted(text, 200))
                    continue
                checked += 1
                named = named or any(_names(entry) for key, entry in step.items() if key != "note")
        except Rejected as failure:
            raise Rejected(f"{place}: {failure}") from None
    if not checked:
        raise Rejected("it only cites; nothing is checked")
    if not named:
        raise Rejected("no checked step contains a name: it is about numbers only")
    line = f"{len(cases)} cases, {checked} steps checked, {citations} cited"
    for word, texts in (("assumes", assumed), ("cites", cited)):
        line += f"; {word} " + ", ".join(dict.fromkeys(texts)) if texts else ""
    return line
