"""Three layers of GPT-2's 124M-parameter configuration with random weights, probed on the CPU: time and peak memory."""

from __future__ import annotations

import resource
import time

import torch

from deva_theory.certify.missing import optional
from deva_theory.report.tables import format_table
from deva_theory.smoothness import ProbeResult, probe

LAYERS = r"h\.0\.attn\.c_attn\.weight|h\.5\.attn\.c_proj\.weight|h\.11\.mlp\.c_fc\.weight"
# norm: (effort, Lanczos steps at most)
NORMS = {"l2": ("normal", 100), "linf": ("low", 100), "spectral": ("low", 100)}
TOKENS = 64
_GIB = 2**30


def run() -> dict[str, object]:
    """Probe one norm after the other; needs transformers (extra ``hf``)."""
    transformers = optional("transformers", "hf", "probing GPT-2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        tokens = torch.randint(0, model.config.vocab_size, (1, TOKENS))
    batch = {"input_ids": tokens, "labels": tokens}
    started = time.perf_counter()
    found: dict[str, ProbeResult] = {}
    for norm, (effort, steps) in NORMS.items():
        found[norm] = probe(
            model, None, batch, norm=norm, select=LAYERS, effort=effort, max_products=steps, tolerance={"l2": 1e-2}, check=norm == "l2"
        )
    return {
        "parameters": sum(p.numel() for p in model.parameters()), "tokens": TOKENS, "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - started, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB,
        "norms": {
            norm: {
                "seconds": result.cost["seconds"],
                "blocks": {
                    block.name: {
                        "size": block.size, "lower": block.estimates[norm].bilinear.lower, "upper": block.estimates[norm].bilinear.upper,
                        "products": block.estimates[norm].products,
                    }
                    for block in result
                },
            }
            for norm, result in found.items()
        },
    }


def summary(result: dict) -> str:
    """Return the table as text."""
    rows = [
        [norm, name.removeprefix("transformer."), block["size"], block["lower"], block["upper"], block["upper"] / block["lower"],
         block["products"]]
        for norm, entry in result["norms"].items()
        for name, block in entry["blocks"].items()
    ]
    table = format_table(rows, ["norm", "block", "parameters", "lower", "upper", "upper/lower", "products"])
    times = ", ".join(f"{norm} {entry['seconds']:.0f} s" for norm, entry in result["norms"].items())
    return (
        f"GPT-2, {result['parameters']:,} parameters (random weights), {result['tokens']} tokens, {result['threads']} CPU thread(s): "
        f"{times}; {result['seconds']:.0f} s in all, peak memory {result['peak_gib']:.1f} GiB\n\n{table}"
    )
