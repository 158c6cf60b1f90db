"""``python -m deva_theory.recheck [-v] FILE...``: one line per file; exit 0 all hold, 1 one does not, 2 one cannot be read.

``-v`` adds a line per certificate: what it shows, assumes and cites.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import Unreadable, recheck_file


def main(arguments: Sequence[str]) -> int:
    """Re-check the files, print a line for each and return the exit code."""
    verbose = list(arguments[:1]) == ["-v"]
    arguments = arguments[1:] if verbose else arguments
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m deva_theory.recheck [-v] FILE...", file=sys.stderr)
        return 2
    code = 0
    for path in arguments:
        try:
            report = recheck_file(path)
        except Unreadable as failure:
            print(f"{path}: {failure}", file=sys.stderr)
            code = 2
            continue
        if report.ok:
            print(f"{path}: ok, {len(report.lines)} certificates hold")
        else:
            print(f"{path}: NOT OK: {next((line for line in report.lines if 'REJECTED' in line), report.lines[0])}")
            code = max(code, 1)
        if verbose:
            print(*(f"    {line}" for line in report.lines), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
