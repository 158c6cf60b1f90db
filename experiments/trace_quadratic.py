"""E1: eight methods on matrix quadratics with heterogeneous and homogeneous block Hessians (Figure 2 of the paper).

Every protocol runs as one batched program over both Hessians, all seeds and, in the sweep, all learning rates. Every
method sees the same Hessians, starting points and sampled rows (common random numbers), so that methods are compared seed by seed.

Protocols: ``published`` (SPEC E1), ``squared`` (the same with the unbiased stochastic gradient), ``matched``
(published, every direction rescaled to one Frobenius norm), ``matched_squared``, and a learning-rate sweep of the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from deva_theory.report.tables import Table
from deva_theory.runtime import Cache, Progress
from deva_theory.smoothness import box_smoothness, signed_weighted_sum, spectral_smoothness
from experiments._trace_quadratic_agreement import changes as disagreements
from experiments._trace_quadratic_runs import (
    ADAPTIVE,
    HESSIANS,
    METHODS,
    PROTOCOLS,
    SOURCES,
    Config,
    Instances,
    losses,
    recorded_steps,
    smoothness_along,
)
from experiments._trace_quadratic_summary import summarise

__all__ = ["Config", "changes", "compute", "summary"]


def compute(config: Config, *, cache: Cache, progress: Progress) -> dict[str, Table]:
    """Run everything and return the tables of the figures."""
    instances = Instances.draw(config, config.seeds)
    few = Instances.draw(config, config.sweep_seeds)
    width = len(config.sweep_lrs)
    lrs = torch.tensor(config.sweep_lrs).repeat_interleave(2 * config.sweep_seeds)[:, None, None]
    runs: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    sweeps: dict[tuple[str, str], np.ndarray] = {}
    smooth: dict[str, dict[str, np.ndarray]] = {}

    def cached(name: str, run: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return cache.get_or_compute(f"trace_quadratic-{name}", config, run, sources=SOURCES)

    total = len(METHODS) * (len(PROTOCOLS) + 2) + len(ADAPTIVE)
    with progress.task("E1: quadratic runs", total=total) as task:
        for method in METHODS:
            base = config.gd_lr if method == "gd" else config.lr
            for protocol in PROTOCOLS:
                squared, matched = protocol.endswith("squared"), protocol.startswith("matched")
                lr = config.lr if matched else base

                def run(method: str = method, lr: float = lr, squared: bool = squared, matched: bool = matched) -> dict:
                    return losses(method, instances, lr, config, squared=squared, matched=matched)

                runs[protocol, method] = cached(f"{protocol}-{method}", run)
                task.advance()
            for protocol in ("published", "squared"):

                def sweep(method: str = method, base: float = base, squared: bool = protocol == "squared") -> dict:
                    tiled, scaled = few.repeated(width), lrs * (base / config.lr)
                    f = losses(method, tiled, scaled, config, squared=squared, matched=False)["f"]
                    return {"f": f[-1].reshape(width, len(HESSIANS), config.sweep_seeds)}

                sweeps[protocol, method] = cached(f"sweep-{protocol}-{method}", sweep)["f"]
                task.advance()
        for method in ADAPTIVE:

            def gammas(method: str = method) -> dict[str, np.ndarray]:
                return smoothness_along(method, instances, config)

            smooth[method] = cached(f"gamma-{method}", gammas)
            task.advance()
    return {
        "trace_quadratic": _loss_table(runs, config),
        "trace_quadratic_final": _final_table(runs, config),
        "trace_quadratic_steps": _step_table(runs, config),
        "trace_quadratic_sweep": _sweep_table(sweeps, config),
        "trace_quadratic_smoothness": _smoothness_table(smooth, instances, config),
        "trace_quadratic_hessian": _hessian_table(instances, config),
    }


def _collect(rows: list[dict]) -> dict[str, np.ndarray | list[str]]:
    table: dict[str, np.ndarray | list[str]] = {}
    for key in rows[0]:
        column = [row[key] for row in rows]
        table[key] = column if isinstance(column[0], str) else np.asarray(column)
    return table


def _quartiles(values: np.ndarray) -> dict[str, np.ndarray]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=-1)
    return {"median": middle, "q25": low, "q75": high}


def _loss_table(runs: dict, config: Config) -> Table:
    rows = []
    for (protocol, method), run in runs.items():
        f = run["f"]
        by_hessian = f.reshape(f.shape[0], len(HESSIANS), config.seeds)
        for h, hessian in enumerate(HESSIANS):
            band = _quartiles(by_hessian[:, h])
            for i, step in enumerate(recorded_steps(config)):
                rows.append({"protocol": protocol, "hessian": hessian, "method": method, "step": step}
                            | {k: float(v[i]) for k, v in band.items()})
    return _collect(rows)


def _final_table(runs: dict, config: Config) -> Table:
    """One row per method and seed: the suboptimality after the last step."""
    rows = []
    for protocol in PROTOCOLS:
        final = {m: runs[protocol, m]["f"][-1].reshape(len(HESSIANS), config.seeds) for m in METHODS}
        for h, hessian in enumerate(HESSIANS):
            for seed in range(config.seeds):
                rows.append({"protocol": protocol, "hessian": hessian, "seed": seed}
                            | {m: float(final[m][h, seed]) for m in METHODS})
    return _collect(rows)


def _step_table(runs: dict, config: Config) -> Table:
    """Mean length of a direction, median over seeds (A4: at equal learning rate methods move differently far)."""
    rows = []
    for protocol in ("published", "squared"):
        for h, hessian in enumerate(HESSIANS):
            block = slice(h * config.seeds, (h + 1) * config.seeds)
            lengths = {m: float(np.median(runs[protocol, m]["step_length"][block])) for m in METHODS}
            rows.append({"protocol": protocol, "hessian": hessian} | lengths)
    return _collect(rows)


def _sweep_table(sweeps: dict, config: Config) -> Table:
    """One row per learning rate and seed, a column per method (GD: its own learning rate, in the same proportion)."""
    rows = []
    for protocol in ("published", "squared"):
        for k, lr in enumerate(config.sweep_lrs):
            for h, hessian in enumerate(HESSIANS):
                for seed in range(config.sweep_seeds):
                    rows.append({"protocol": protocol, "lr": lr, "hessian": hessian, "seed": seed}
                                | {m: float(sweeps[protocol, m][k, h, seed]) for m in METHODS})
    return _collect(rows)


def _smoothness_table(smooth: dict, instances: Instances, config: Config) -> Table:
    H = instances.H.double()
    ones = torch.ones(*H.shape[:-1], config.columns, dtype=H.dtype)
    plain = {
        "adam": config.columns * box_smoothness(H),
        "deva_linf": config.columns * box_smoothness(H),
        "deva_spectral": spectral_smoothness(H, config.columns),
    }
    reference = {"signed": signed_weighted_sum(H, ones[..., : H.shape[-1]]), "absolute": H.abs().sum(dim=(-2, -1))}
    rows = []
    for method, quantities in smooth.items():
        records = quantities["signed"].shape[0]
        for h, hessian in enumerate(HESSIANS):
            block = slice(h * config.seeds, (h + 1) * config.seeds)
            unweighted = plain[method][block].numpy()
            for i in range(records):
                row = {"hessian": hessian, "method": method, "step": (i + 1) * config.gamma_every}
                for name in ("signed", "absolute", "lower", "upper"):
                    band = _quartiles(quantities[name][i, block])
                    row |= {f"{name}_{k}": float(v) for k, v in band.items()}
                signed = quantities["signed"][i, block]
                row["signed_nonpositive"] = float((signed <= 0).mean())
                row["signed_median_on_log_axis"] = float(np.median(signed[signed > 0])) if (signed > 0).any() else math.nan
                row["plain_signed"] = float(np.median(reference["signed"][block].numpy()))
                row["plain_absolute"] = float(np.median(reference["absolute"][block].numpy()))
                row["plain_smoothness"] = float(np.median(unweighted))
                row["ratio_lower"] = float(np.median(quantities["lower"][i, block] / unweighted))
                row["ratio_upper"] = float(np.median(quantities["upper"][i, block] / unweighted))
                row["gamma_max_median"] = float(np.median(quantities["gamma_max"][i, block]))
                rows.append(row)
    return _collect(rows)


def _hessian_table(instances: Instances, config: Config) -> Table:
    """Entries of the first seed's Hessians, for the insets."""
    rows = []
    for h, hessian in enumerate(HESSIANS):
        H = instances.H[h * config.seeds].double().numpy()
        rows += [{"hessian": hessian, "i": i, "j": j, "value": float(H[i, j])} for i in range(len(H)) for j in range(len(H))]
    return _collect(rows)


def summary(tables: dict[str, Table]) -> str:
    """Return which method wins where, with intervals over seeds, see :mod:`experiments._trace_quadratic_summary`."""
    return summarise(tables, METHODS)


def changes(stem: str, new: Table, committed: Table) -> list[str]:
    """Return where a new table disagrees with the committed one, see :mod:`experiments._trace_quadratic_agreement`."""
    return disagreements(stem, new, committed, METHODS)
