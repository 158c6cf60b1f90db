"""Run the benchmarks and write ``benchmarks/results/*.json`` and ``*.txt``: ``make bench``, or ``python benchmarks/run.py [NAME ...]``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import batching, carry, linear_algebra
from deva_theory.runtime import provenance

SUMMARIES = {"batching": batching.summary, "carry": carry.summary, "linear_algebra": linear_algebra.summary}
BENCHMARKS = {"batching": batching.run, "carry": carry.run, "linear_algebra": linear_algebra.run}


def main(names: list[str]) -> int:
    """Run the named benchmarks, all by default."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        start = time.perf_counter()
        result = BENCHMARKS[name]()
        record = {"result": result, "provenance": provenance(seconds=time.perf_counter() - start)}
        text = json.dumps(record, indent=1, default=float, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        summary = SUMMARIES[name](json.loads(text)["result"])
        (folder / f"{name}.txt").write_text(summary + "\n", encoding="utf-8")
        print(f"== {name}\n{summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
