"""The claim table, as Markdown for the README and as text for the terminal, from the JSON that ``verify`` writes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

__all__ = ["claim_summary_markdown", "claim_table_markdown", "claim_table_text", "counts_line"]

_ORDER = ("PROVED", "CERTIFIED", "SUPPORTED", "HOLDS_IF", "REFUTED", "INCONCLUSIVE", "NOT_CHECKED")
_SUMMARY = 160


def counts_line(document: Mapping[str, Any]) -> str:
    """Return how many claims there are of each verdict."""
    counts = document["counts"]
    total = sum(counts.values())
    return f"{total} claims: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts.get(verdict))


def claim_table_markdown(text: str, *, evidence: str = "paper_checks/evidence") -> str:
    """Return the Markdown table of a ``verify --json`` document.

    Parameters
    ----------
    text : str
        The JSON text.
    evidence : str
        Folder that the ids link to.

    Raises
    ------
    ValueError
        If the text is no such document.
    """
    document = _document(text)
    lines = [counts_line(document) + ".", "", "| claim | statement | verdict | how we know, or what breaks it |", "|---|---|---|---|"]
    for claim in document["claims"]:
        name = claim["id"] if claim["verdict"] == "NOT_CHECKED" else f"[{claim['id']}]({evidence}/{claim['id']}.json)"
        verdict = f"**{claim['verdict']}**" if claim["verdict"] == "REFUTED" else claim["verdict"]
        if claim["refuted_premises"]:
            verdict += f" (rests on refuted {', '.join(claim['refuted_premises'])})"
        how = claim["summary"] if claim["verdict"] == "NOT_CHECKED" else f"{claim['method']}: {claim['summary']}"
        lines.append(f"| {name} | {_cell(claim['title'])} | {verdict} | {_cell(_short(how))} |")
    return "\n".join(lines)


def claim_summary_markdown(text: str, *, evidence: str = "paper_checks/evidence") -> str:
    """Return one row for each item of the specification: how many of its statements stand, and which are refuted.

    Parameters and errors as in `claim_table_markdown`.
    """
    document = _document(text)
    items: dict[str, list[Mapping[str, Any]]] = {}
    for claim in document["claims"]:
        items.setdefault(claim["id"].partition("-")[0], []).append(claim)
    lines = [counts_line(document) + ".", "", "| item | stands | first statement | refuted, with a counter-example |", "|---|---|---|---|"]
    for item, claims in items.items():
        counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in _ORDER}
        stands = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != "REFUTED")
        head = next((claim for claim in claims if claim["verdict"] != "REFUTED"), claims[0])
        broken = [f"[{c['id']}]({evidence}/{c['id']}.json) {_cell(c['title'])}" for c in claims if c["verdict"] == "REFUTED"]
        lines.append(f"| {item} | {stands or 'none'} | {_cell(head['title'])} | {'<br>'.join(broken)} |")
    return "\n".join(lines)


def claim_table_text(document: Mapping[str, Any]) -> str:
    """Return the terminal's table: one line for each claim, problems and refuted premises below it."""
    width = max((len(claim["id"]) for claim in document["claims"]), default=2)
    lines = []
    for claim in document["claims"]:
        flag = "!" if claim["changed"] else " "
        lines.append(f"{flag} {claim['id']:<{width}}  {claim['verdict']:<12}  {claim['title']}")
        below = [f"expected {claim['expected']}"] if claim["changed"] and claim["verdict"] != claim["expected"] else []
        below += claim["problems"]
        below += [f"rests on refuted {', '.join(claim['refuted_premises'])}"] if claim["refuted_premises"] else []
        below += [claim["summary"]] if claim["origin"] == "extra" else []
        lines += [f"  {'':<{width}}  {line}" for text in below for line in text.splitlines()]
    return "\n".join(lines)


def _document(text: str) -> Mapping[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict) or "claims" not in document:
        raise ValueError("no document of `deva-theory verify --json`")
    return document


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), _SUMMARY, placeholder=" …")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
