"""Run the benchmarks and write ``benchmarks/results/*.json`` and ``*.txt``: ``make bench``, or ``python benchmarks/run.py [NAME ...]``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import batching, carry, linear_algebra, sensitivity
from deva_theory.runtime import provenance

MODULES = {"batching": batching, "carry": carry, "linear_algebra": linear_algebra, "sensitivity": sensitivity}


def main(names: list[str]) -> int:
    """Run the named benchmarks, all by default."""
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for name in names or MODULES:
        start = time.perf_counter()
        result = MODULES[name].run()
        record = {"result": result, "provenance": provenance(seconds=time.perf_counter() - start)}
        text = json.dumps(record, indent=1, default=float, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        summary = MODULES[name].summary(json.loads(text)["result"])
        (folder / f"{name}.txt").write_text(summary + "\n", encoding="utf-8")
        print(f"== {name}\n{summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
