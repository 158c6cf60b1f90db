"""Run the benchmarks and write ``benchmarks/results/*.json`` and ``*.txt``: ``make bench``, or ``python benchmarks/run.py [NAME ...]``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import batching, carry, entrywise_norm, gpt2_probe, hessian_products, linear_algebra, sensitivity, smoothness_intervals
from deva_theory.certify.missing import MissingExtra
from deva_theory.runtime import provenance

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        batching, carry, entrywise_norm, gpt2_probe, hessian_products, linear_algebra, sensitivity, smoothness_intervals,
    )
}


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
        try:
            result = MODULES[name].run()
        except MissingExtra as missing:
            print(f"== {name}\nskipped: {missing}")
            continue
        record = {"result": result, "provenance": provenance(seconds=time.perf_counter() - start)}
        text = json.dumps(record, indent=1, default=float, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        summary = MODULES[name].summary(json.loads(text)["result"])
        (folder / f"{name}.txt").write_text(summary + "\n", encoding="utf-8")
        print(f"== {name}\n{summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
