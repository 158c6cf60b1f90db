"""``deva-theory explain``: one claim with its evidence, and its counter-example as a snippet that runs."""

import argparse

from deva_theory.claims import EvidenceError, LedgerError, Store, explain
from deva_theory.cli.claims import committed_store, project_ledger
from deva_theory.cli.errors import BadInput, Exit

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    project, ledger = project_ledger(options)
    try:
        claim = ledger.one(options.id)
        content = counterexample = None
        path = ""
        if claim.check is not None:
            store = committed_store(project)
            if not store.evidence(claim.id).is_file() and Store(project.build / "claims").evidence(claim.id).is_file():
                store = Store(project.build / "claims")  # a new claim, verified but not committed
            path = store.evidence(claim.id).relative_to(project.root).as_posix()
            content, counterexample = store.read(claim.id)
    except (EvidenceError, LedgerError) as error:
        raise BadInput(str(error)) from None
    marked = ledger.refuted_premises(claim, {})
    steps = None if options.all else 40
    print(explain(claim, content, counterexample, refuted_premises=marked, evidence_path=path, steps=steps), end="")
    return Exit.OK
