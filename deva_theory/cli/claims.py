"""``deva-theory claims``: the ledger, without running anything."""

import argparse

from deva_theory.claims import Ledger, LedgerError, Store, load_ledger
from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.project import MARKER, Project, find_root

__all__ = ["committed_store", "project_ledger", "run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    _, ledger = project_ledger(options)
    claims = select(ledger, options.ids)
    if options.verdict:
        claims = [claim for claim in claims if claim.expected in options.verdict]
    width = max((len(claim.id) for claim in claims), default=0)
    for claim in claims:
        print(f"{claim.id:<{width}}  {claim.expected:<12}  {claim.title}")
    print(f"{len(claims)} claims; `deva-theory explain ID` says more, `deva-theory verify` checks them")
    return Exit.OK


def project_ledger(options: argparse.Namespace) -> tuple[Project, Ledger]:
    """Find the clone and read its ledger.

    Raises
    ------
    BadInput
        If there is none, or it is malformed: one line naming line and field.
    """
    project = Project(find_root(options.root))
    try:
        return project, load_ledger(project.root / MARKER)
    except LedgerError as error:
        raise BadInput(str(error)) from None


def select(ledger: Ledger, ids: list[str]) -> list:
    """Return the claims a user named; all without a name."""
    try:
        return ledger.select(ids)
    except LedgerError as error:
        raise BadInput(str(error)) from None


def committed_store(project: Project) -> Store:
    """Return the committed evidence."""
    return Store(project.root / MARKER.parent)
