"""``deva-theory verify``: run the checks with their controls, compare with the expected verdicts, keep the evidence."""

import argparse
import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

from deva_theory.claims import Ledger, Outcome, Store, verdicts_document, verify
from deva_theory.cli.claims import committed_store, project_ledger, select
from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.pipeline import check_readme, refresh_readme, set_threads
from deva_theory.cli.project import MARKER, Project
from deva_theory.report.claims import claim_table_text, counts_line
from deva_theory.runtime import Cache, Progress

__all__ = ["VERDICTS", "run", "verify_claims"]

VERDICTS = "verdicts.json"


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    project, ledger = project_ledger(options)
    if options.update and options.tier != "full":
        raise BadInput("--update keeps the evidence of the full tier: add --tier full")
    return verify_claims(project, ledger, options)


def verify_claims(project: Project, ledger: Ledger, options: argparse.Namespace) -> Exit:
    """Check the named claims, print the table, and write evidence to ``build/claims``.

    Parameters
    ----------
    project : Project
    ledger : Ledger
    options : argparse.Namespace
        ``ids``, ``tier``, ``json``, ``update``, ``threads``, ``no_cache`` and ``quiet``.

    Returns
    -------
    Exit
        ``CHANGED`` if a verdict is not the expected one, a check is worthless, or committed evidence is missing, stale
        or edited.
    """
    claims = select(ledger, options.ids)
    full = options.tier == "full"
    if options.json is not None and not options.json.parent.is_dir():
        raise BadInput(f"--json {options.json}: its folder does not exist")
    if options.json is not None and options.json.is_dir():
        raise BadInput(f"--json {options.json} is a folder: name a file")
    if options.update:  # what would fail after the long run fails before it
        if _committed_entries(project) is not None:
            check_readme(project)
        elif len(claims) < len(ledger):
            raise BadInput(f"{VERDICTS} is missing or damaged: run `deva-theory verify --tier full --update` for all claims")
    store = Store(project.build / "claims")
    set_threads(options.threads)
    began = time.monotonic()
    with Progress("silent" if options.quiet else "auto") as progress:
        outcomes = verify(
            ledger, claims, project.root, full=full,
            cache=Cache(project.cache, enabled=not options.no_cache), progress=progress,
            on_outcome=lambda outcome: store.write(outcome, full=full),
        )
    seconds = time.monotonic() - began
    document = verdicts_document(outcomes, full=full, seconds=seconds)
    _write_json(store.folder / VERDICTS, document)
    if options.json is not None:
        _write_json(options.json, document)
    print(claim_table_text(document))
    print(f"{counts_line(document)}; {options.tier} tier, {seconds:.0f} s")
    if find_spec("flint") is None:
        print("exact arithmetic by fractions and mpmath, the same verdicts slower; python-flint: pip install 'deva-theory[exact]'")
    if options.update:
        _update(project, ledger, outcomes, document)
    stale = committed_store(project).problems(ledger) if len(claims) == len(ledger) else []
    for line in stale:
        print(f"evidence: {line}")
    for outcome in outcomes:
        if outcome.changed and not outcome.problems:
            print(
                f"changed: {outcome.claim.id} is {outcome.verdict}, expected {outcome.claim.expected}; "
                f"if it is meant, edit {MARKER.as_posix()}, line {outcome.claim.line}"
            )
        elif outcome.problems:
            print(f"worthless: {outcome.claim.id}: {outcome.problems[0]}")
    if stale or any(outcome.changed for outcome in outcomes):
        return Exit.CHANGED
    print("all verdicts as expected")
    return Exit.OK


def _update(project: Project, ledger: Ledger, outcomes: list[Outcome], document: dict) -> None:
    """Copy evidence and verdicts to ``paper_checks`` and fill the README; what has a problem or did not run is left alone."""
    built, committed = Store(project.build / "claims"), committed_store(project)
    for outcome in outcomes:
        if outcome.problems or not outcome.evidence:
            continue
        pairs = [(built.evidence(outcome.claim.id), committed.evidence(outcome.claim.id))]
        counterexample = outcome.evidence.get("counterexample")
        if counterexample:
            pairs.append((built.counterexample(counterexample["name"]), committed.counterexample(counterexample["name"])))
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    kept = _committed_entries(project) or {}
    left = {outcome.claim.id for outcome in outcomes if outcome.problems or outcome.origin == "extra"}
    fresh = {entry["id"]: entry for entry in document["claims"] if entry["id"] not in left}
    entries = [fresh.get(key, kept.get(key)) for key in ledger]
    _write_json(committed.folder / VERDICTS, _document([entry for entry in entries if entry], document))
    refresh_readme(project)
    print(f"copied to {MARKER.parent.as_posix()}/; commit it if the changes are meant")
    if left:
        print(f"not copied: {', '.join(sorted(left))}")


def _committed_entries(project: Project) -> dict[str, dict] | None:
    """Return the committed verdicts by id; None if they are missing or damaged."""
    try:
        text = (committed_store(project).folder / VERDICTS).read_text(encoding="utf-8")
        return {entry["id"]: entry for entry in json.loads(text)["claims"] if {"verdict", "changed"} <= set(entry)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _document(entries: list[dict], document: dict) -> dict:
    """Return the document with these entries instead, without the time of a run that may have checked a few of them only."""
    verdicts = [entry["verdict"] for entry in entries]
    return {
        **{key: value for key, value in document.items() if key != "seconds"},
        "counts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "changed": [entry["id"] for entry in entries if entry["changed"]],
        "claims": entries,
    }


def _write_json(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
