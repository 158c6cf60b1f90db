"""Products with every tensor block of a GPT, in gradients; agreement with float64; what rebuilding the graph would cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from deva_theory.problems import zoo
from deva_theory.problems.zoo.language import GPT
from deva_theory.report.tables import format_table
from deva_theory.smoothness.curvature.kernels import twice_differentiable
from deva_theory.smoothness.curvature.products import CurvatureOperator

# width, context, examples: the zoo's small GPT, and wider ones with as many blocks
SHAPES = {"zoo (32)": (32, 32, 16), "64": (64, 64, 8), "128": (128, 64, 4), "256": (256, 64, 8)}


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of `repeats` calls after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def sweep_costs(width: int, context: int, examples: int, *, vocabulary: int = 96) -> dict[str, float]:
    """Time one product for each of the 53 tensor blocks in units of one gradient of the same model (float32)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(vocabulary=vocabulary, context=context, width=width, num_heads=4, depth=4, expansion=4, tied=False)
        tokens = torch.randint(0, vocabulary, (2, examples, context))
    batch = (tokens[0], tokens[1])
    criterion = nn.CrossEntropyLoss()
    model.eval()
    parameters = list(model.parameters())

    def gradient() -> None:
        torch.autograd.grad(criterion(model(batch[0]), batch[1]), parameters)

    def plain_gradient() -> None:
        with twice_differentiable(model):
            gradient()

    kept = CurvatureOperator(model, criterion, batch, keep_graph=True)
    rebuilt = CurvatureOperator(model, criterion, batch, keep_graph=False)
    kept.gradient()
    single = {block.name: (block, torch.randn(1, block.size)) for block in kept.blocks}
    several = {block.name: (block, torch.randn(8, block.size)) for block in kept.blocks}

    def one_operator_per_block() -> None:
        for name, request in single.items():
            rebuilt.sweep({name: request})

    unit = median_seconds(gradient, 9)
    # Wide models take seconds per sweep: fewer repeats there.
    few = 3 if width < 128 else 1
    return {
        "blocks": len(kept.blocks), "gradient_ms": 1e3 * unit, "plain_kernel_gradient": median_seconds(plain_gradient, 9) / unit,
        "kept": median_seconds(lambda: kept.sweep(single), 2 * few + 1) / unit,
        "rebuilt_each_sweep": median_seconds(lambda: rebuilt.sweep(single), few) / unit,
        "graph_per_block": median_seconds(one_operator_per_block, few) / unit,
        "eight_vectors_each": median_seconds(lambda: kept.sweep(several), few) / unit / 8,
    }


def accuracy(name: str) -> dict[str, float]:
    """Compare the dense Hessian of a tiny zoo model from float32 products with the float64 one."""
    dense = {}
    for dtype in (torch.float64, torch.float32):
        problem = zoo.load(name, size="tiny", dtype=dtype)
        operator = CurvatureOperator(problem.model, problem.criterion, problem.batches, blocks="model")
        block = operator.blocks[0]
        dense[dtype] = operator.product(block, torch.eye(block.size, dtype=torch.float64))
    H = dense[torch.float64]
    norm = torch.linalg.matrix_norm(H).item()
    return {
        "parameters": len(H), "asymmetry": torch.linalg.matrix_norm(H - H.T).item() / norm,
        "float32_error": torch.linalg.matrix_norm(dense[torch.float32] - H).item() / norm,
    }


def run() -> dict[str, object]:
    """Measure both tables."""
    return {
        "sweep": {label: sweep_costs(*shape) for label, shape in SHAPES.items()},
        "accuracy": {name: accuracy(name) for name in ("mlp", "cnn", "vit", "gpt", "gpt-tied", "lstm", "logistic")},
    }


def summary(result: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the tables as text."""
    sweep = format_table(
        [
            [label, r["blocks"], r["gradient_ms"], r["kept"], r["rebuilt_each_sweep"], r["graph_per_block"], r["eight_vectors_each"],
             r["plain_kernel_gradient"]]
            for label, r in result["sweep"].items()
        ],
        ["width", "blocks", "gradient, ms", "graph kept", "rebuilt per sweep", "graph per block", "8 vectors, each",
         "plain-kernel gradient"],
        digits=3,
    )
    accuracy = format_table(
        [[name, r["parameters"], r["asymmetry"], r["float32_error"]] for name, r in result["accuracy"].items()],
        ["model (tiny)", "parameters", "asymmetry, float64", "float32 against float64"],
        digits=2,
    )
    return (
        "One product for each of the 53 tensor blocks of a 4-layer GPT, in gradients of the same model (fused attention, one thread)\n\n"
        f"{sweep}\n\nDense Hessians from products, relative to ‖H‖_F\n\n{accuracy}"
    )
