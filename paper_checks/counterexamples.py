"""Replay the saved counter-examples: ``python -m paper_checks.counterexamples [NAME..]``.

Each file below ``paper_checks/counterexamples`` holds a false statement, the numbers that break it, and the function that
recomputes by how much. This prints the violations, and exits 1 if one no longer exceeds its margin.
"""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from deva_theory.claims import EvidenceError, Store, read_file, replay_file

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Replay the named counter-examples (default: all) and print a table; return 0, 1 (one is lost) or 2 (bad input)."""
    store = Store(root / "paper_checks")
    known = sorted(path.stem for path in store.counterexample("x").parent.glob("*.json"))
    names = list(sys.argv[1:] if argv is None else argv) or known
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]}?" if near else "there are none; run `deva-theory verify --tier full --update`"
            print(f"unknown counter-example {name!r}: {hint}", file=sys.stderr)
            return 2
    lost = 0
    width = max(map(len, names), default=2)
    print(f"{'counter-example':{width}}  {'violation':>10}  {'margin':>8}")
    for name in names:
        path = store.counterexample(name)
        try:
            violation, margin = replay_file(path, root)
        except EvidenceError as error:
            print(error, file=sys.stderr)
            return 2
        lost += not violation > margin
        print(f"{name:{width}}  {violation:10.4g}  {margin:8.3g}")
        print(textwrap.indent(textwrap.fill(read_file(path)["content"]["statement"], 96), "    "))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
