"""``deva-theory reproduce``: the claims' fast tier, then every figure, computed, drawn and compared, with provenance."""

import argparse
import json
import time

from deva_theory.cli.claims import project_ledger
from deva_theory.cli.errors import Exit
from deva_theory.cli.figures import make_figures
from deva_theory.cli.verify import verify_claims
from deva_theory.runtime import provenance

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    began = time.monotonic()
    project, ledger = project_ledger(options)
    figures = project.select_figures(["all"])
    # --update is about tables and pictures: evidence is kept by `verify --tier full --update`.
    fast = argparse.Namespace(**{**vars(options), "ids": [], "tier": "fast", "json": None, "update": False})
    claims = verify_claims(project, ledger, fast) if ledger else Exit.OK
    code = max(claims, make_figures(project, figures, options))
    record = json.dumps(provenance(seconds=time.monotonic() - began), indent=2)
    (project.build / "provenance.json").write_text(record + "\n", encoding="utf-8")
    print(f"provenance in build/provenance.json, {time.monotonic() - began:.0f} s")
    return code
