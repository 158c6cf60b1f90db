"""What a run of `verify` leaves behind: evidence files, counter-example files and one JSON with all verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deva_theory.claims.files import EvidenceError, plain, read_file, write_file
from deva_theory.claims.ledger import Ledger
from deva_theory.claims.model import Evidence
from deva_theory.claims.runner import Outcome, evidence_content, replay_violation
from deva_theory.runtime import provenance

__all__ = ["Store", "replay_file", "verdicts_document"]

_FIELDS = ("claim", "statement", "tolerance", *(field.name for field in fields(Evidence)), "control", "problems")


@dataclass(frozen=True)
class Store:
    """A folder with ``evidence/<ID>.json`` and ``counterexamples/<name>.json``."""

    folder: Path

    def evidence(self, claim_id: str) -> Path:
        """Path of a claim's evidence."""
        return self.folder / "evidence" / f"{claim_id}.json"

    def counterexample(self, name: str) -> Path:
        """Path of a counter-example."""
        return self.folder / "counterexamples" / f"{name}.json"

    def write(self, outcome: Outcome, *, full: bool) -> list[Path]:
        """Write the evidence and counter-example of an outcome that came from a check."""
        if not outcome.evidence:
            return []
        written = [self.evidence(outcome.claim.id)]
        write_file(written[0], evidence_content(outcome, full=full), provenance(seconds=outcome.seconds))
        counterexample = outcome.evidence.get("counterexample")
        if counterexample:
            written.append(self.counterexample(counterexample["name"]))
            write_file(written[-1], {**counterexample, "claim": outcome.claim.id})
        return written

    def read(self, claim_id: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the contents of a claim's evidence and, if it names one, of its counter-example.

        Raises
        ------
        EvidenceError
            If a file is missing, damaged, edited by hand, incomplete, or another claim's.
        """
        content = self._evidence(claim_id)
        return content, self._counterexample(content) if content["counterexample"] else None

    def _evidence(self, claim_id: str) -> dict[str, Any]:
        content = read_file(self.evidence(claim_id))["content"]
        missing = [key for key in _FIELDS if key not in content]
        if missing:
            raise EvidenceError(f"evidence/{claim_id}.json lacks {', '.join(missing)}: run {_again(claim_id)}")
        if content["claim"] != claim_id:
            raise EvidenceError(f"evidence/{claim_id}.json is about {content['claim']}: run {_again(claim_id)}")
        return content

    def _counterexample(self, content: Mapping[str, Any]) -> dict[str, Any]:
        name, claim_id = content["counterexample"], content["claim"]
        found = read_file(self.counterexample(name))["content"]
        if found.get("claim") != claim_id:
            raise EvidenceError(f"counterexamples/{name}.json is about {found.get('claim')}, not {claim_id}: run {_again(claim_id)}")
        return found

    def problems(self, ledger: Ledger) -> list[str]:
        """Return one line for each file that is missing, edited, stale or belongs to no claim."""
        lines = []
        names = set()
        for claim in ledger.values():
            if claim.check is None:
                continue
            try:
                content = self._evidence(claim.id)
                if content["counterexample"]:
                    names.add(content["counterexample"])
                    self._counterexample(content)
            except EvidenceError as error:
                lines.append(str(error))
                continue
            if content["statement"] != claim.statement or content["tolerance"] != claim.tolerance:
                lines.append(f"evidence/{claim.id}.json is about another wording: run {_again(claim.id)}")
            elif content["verdict"] != claim.expected:
                lines.append(f"evidence/{claim.id}.json says {content['verdict']}, claims.toml expects {claim.expected}")
            elif content["problems"]:
                lines.append(f"evidence/{claim.id}.json is worthless: {content['problems'][0]}")
        for folder, known in (("evidence", set(ledger)), ("counterexamples", names)):
            for file in sorted((self.folder / folder).glob("*.json")):
                if file.stem not in known:
                    lines.append(f"{folder}/{file.name} belongs to no claim: delete it")
        return lines


def verdicts_document(outcomes: Sequence[Outcome], *, full: bool, seconds: float) -> dict[str, Any]:
    """Return the content of ``verify --json``: every claim with its verdict, in the ledger's order."""
    return {
        "format": 1,
        "tier": "full" if full else "fast",
        "counts": dict(sorted(Counter(str(outcome.verdict) for outcome in outcomes).items())),
        "changed": [outcome.claim.id for outcome in outcomes if outcome.changed],
        "claims": [_entry(outcome) for outcome in outcomes],
        "seconds": round(seconds, 1),
    }


def _again(claim_id: str) -> str:
    return f"`deva-theory verify {claim_id} --tier full --update`"


def _entry(outcome: Outcome) -> dict[str, Any]:
    claim = outcome.claim
    return {
        "id": claim.id,
        "title": claim.title,
        "kind": str(claim.kind),
        "source": claim.source,
        "verdict": str(outcome.verdict),
        "expected": str(claim.expected),
        "changed": outcome.changed,
        "origin": outcome.origin if outcome.origin != "cache" else "run",
        "method": outcome.evidence.get("method", claim.method),
        "summary": outcome.evidence.get("summary", outcome.note),
        "counterexample": (outcome.evidence.get("counterexample") or {}).get("name"),
        "control": plain(dict(outcome.control)),
        "refuted_premises": list(outcome.marked),
        "problems": list(outcome.problems),
    }


def replay_file(path: Path, root: Path) -> tuple[float, float]:
    """Replay a counter-example file; return its violation now and the margin it must exceed.

    Raises
    ------
    EvidenceError
        If the file is missing, damaged or was edited by hand.
    """
    content: Mapping[str, Any] = read_file(path)["content"]
    return replay_violation(content, root), float(content["margin"])

