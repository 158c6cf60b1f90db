"""``deva-theory reproduce``: every figure, computed, drawn and compared, with its provenance."""

import argparse
import json
import time

from deva_theory.cli.errors import Exit
from deva_theory.cli.figures import make_figures
from deva_theory.cli.project import Project, find_root
from deva_theory.runtime import provenance

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    began = time.monotonic()
    project = Project(find_root(options.root))
    code = make_figures(project, project.select_figures(["all"]), options)
    record = json.dumps(provenance(seconds=time.monotonic() - began), indent=2)
    (project.build / "provenance.json").write_text(record + "\n", encoding="utf-8")
    print(f"provenance in build/provenance.json, {time.monotonic() - began:.0f} s")
    return code
