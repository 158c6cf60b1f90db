"""Figure 2's full workload as one batched program, against stepping one seed at a time through an optimizer object."""

from __future__ import annotations

import time

import numpy as np
import torch

from deva_theory.optim import RuleOptimizer
from deva_theory.problems import TraceQuadratic
from deva_theory.report.tables import format_table
from experiments._trace_quadratic_runs import METHODS, Config, Instances, losses, method_rule, schedule


def one_by_one(method: str, instances: Instances, config: Config) -> list[torch.Tensor]:
    """Step every instance of the batch on its own through :class:`RuleOptimizer`; return the end points."""
    lr = config.gd_lr if method == "gd" else config.lr
    factors = schedule(config)
    ends = []
    for index in range(len(instances.H)):
        H, A, rows = instances.H[index], instances.A[index], instances.rows[:, index]
        X = torch.nn.Parameter(instances.X0[index].clone())
        optimizer = RuleOptimizer([X], method_rule(method, config), lr, check_finite=False)
        problem = TraceQuadratic(H)
        for step in range(config.steps):
            with torch.no_grad():
                if method == "gd":
                    X.grad = problem.gradient(X)
                else:
                    optimizer.param_groups[0]["lr"] = lr * factors[step]
                    X.grad = problem.row_gradient(A, X, rows[step], squared=False)
            optimizer.step()
        ends.append(X.detach())
    return ends


def run(loop_seeds: int = 2) -> dict[str, object]:
    """Time both ways in alternation; the loop on `loop_seeds` seeds per Hessian, scaled to all of them."""
    config = Config()
    many, few = Instances.draw(config, config.seeds), Instances.draw(config, loop_seeds)
    scale = config.seeds / loop_seeds
    rows = {}
    for method in METHODS:
        lr = config.gd_lr if method == "gd" else config.lr
        losses(method, few, lr, config, squared=False, matched=False)  # warm-up
        start = time.perf_counter()
        one_by_one(method, few, config)
        loop = (time.perf_counter() - start) * scale
        batched = []
        for _ in range(3):
            start = time.perf_counter()
            losses(method, many, lr, config, squared=False, matched=False)
            batched.append(time.perf_counter() - start)
        rows[method] = {"loop_s": loop, "batched_s": float(np.median(batched))}
    total_loop = sum(r["loop_s"] for r in rows.values())
    total_batched = sum(r["batched_s"] for r in rows.values())
    return {
        "what": f"{config.seeds} seeds x {len(METHODS)} methods x 2 Hessians x {config.steps} steps; "
        f"loop measured on {loop_seeds} seeds per Hessian and scaled by {scale:g}; batched: median of 3",
        "methods": {m: r | {"ratio": r["loop_s"] / r["batched_s"]} for m, r in rows.items()},
        "loop_s": total_loop,
        "batched_s": total_batched,
        "ratio": total_loop / total_batched,
    }


def summary(result: dict) -> str:
    """Return the table of :func:`run`."""
    rows = [(m, r["loop_s"], r["batched_s"], r["ratio"]) for m, r in result["methods"].items()]
    rows.append(("all", result["loop_s"], result["batched_s"], result["ratio"]))
    table = format_table(rows, ("method", "one seed at a time, s", "batched, s", "ratio"), digits=3)
    return f"{result['what']}\n\n{table}"
