"""E1: eight methods on matrix quadratics with heterogeneous and homogeneous block Hessians (Figure 2 of the paper).

Every protocol runs as one batched program over both Hessians, all seeds and, in the sweep, all learning rates. Every
method sees the same Hessians, starting points and sampled rows (common random numbers), so that methods are compared seed by seed.

Protocols: ``published`` (SPEC E1), ``squared`` (the same with the unbiased stochastic gradient), ``matched``
(published, every direction rescaled to one Frobenius norm), ``matched_squared``, and a learning-rate sweep of the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import deva_theory.linalg
import deva_theory.problems
import deva_theory.rules
import deva_theory.smoothness
from deva_theory.problems import SPECTRA, TraceQuadratic, block_hessian
from deva_theory.report.tables import Table, format_table
from deva_theory.rules import Rule, adam, adamuon, deva_linf, deva_spectral, gradient_descent, muon, sign_sgd, soap
from deva_theory.runtime import Cache, Progress
from deva_theory.smoothness import (
    absolute_weighted_sum,
    box_smoothness,
    signed_weighted_sum,
    spectral_smoothness,
    weighted_box_smoothness,
    weighted_spectral_smoothness,
)

HESSIANS = tuple(SPECTRA)
METHODS = ("gd", "signsgd", "adam", "muon", "soap", "adamuon", "deva_linf", "deva_spectral")
PROTOCOLS = ("published", "squared", "matched", "matched_squared")
ADAPTIVE = ("adam", "deva_linf", "deva_spectral")
SOURCES = (deva_theory.linalg, deva_theory.problems, deva_theory.rules, deva_theory.smoothness, Path(__file__))


@dataclass(frozen=True)
class Config:
    """Defaults are the published setting.

    Attributes
    ----------
    seeds, steps : int
        Independent Hessians, starting points and row samples; steps of each run.
    beta1, beta2 : float
        For every method that has them.
    lr, gd_lr : float
        Learning rate of all methods but GD, and of GD (full gradient, constant).
    decay_from, final_factor : int, float
        Constant until this step, then linear, `final_factor` of it at the last step.
    rows : int
        Sampled rows of H^{1/2} in a stochastic gradient.
    columns : int
        n of X (m is the size of H).
    refresh_every : int
        Period of the eigenbases.
    record_every, gamma_every : int
        Steps between recorded losses, and between recorded variance adaptations.
    sweep_lrs, sweep_seeds
        Learning rates and number of seeds of the sweep.
    perturbation : float
        Relative perturbation of the starting points: how far do results move when rounding does?
    """

    seeds: int = 100
    steps: int = 400
    beta1: float = 0.0
    beta2: float = 0.99
    lr: float = 0.1
    gd_lr: float = 1e-4
    decay_from: int = 200
    final_factor: float = 0.005
    rows: int = 3
    columns: int = 9
    refresh_every: int = 10
    record_every: int = 4
    gamma_every: int = 10
    sweep_lrs: tuple[float, ...] = (1e-3, 3.16e-3, 1e-2, 3.16e-2, 0.1, 0.316, 1.0)
    sweep_seeds: int = 40
    perturbation: float = 0.0


def method_rule(name: str, config: Config) -> Rule:
    """Return the update rule of a method as E1 configures it (DeVA: the reference's contract)."""
    betas = (config.beta1, config.beta2)
    low = torch.bfloat16
    rules: dict[str, Callable[[], Rule]] = {
        "gd": gradient_descent,
        "signsgd": lambda: sign_sgd(beta1=config.beta1, event_ndim=2),
        "adam": lambda: adam(betas=betas),
        "muon": lambda: muon(beta1=config.beta1, nesterov=True, polar_dtype=low),
        "soap": lambda: soap(betas=betas, refresh_every=config.refresh_every),
        "adamuon": lambda: adamuon(betas=betas, polar_dtype=low),
        "deva_linf": lambda: deva_linf(preset="reference", betas=betas, event_ndim=2),
        "deva_spectral": lambda: deva_spectral(preset="reference", betas=betas, refresh_every=config.refresh_every),
    }
    return rules[name]()


def schedule(config: Config) -> np.ndarray:
    """Return the learning-rate factor of every step: constant, then linear to `final_factor` at the last step."""
    step = np.arange(config.steps)
    span = max(config.steps - config.decay_from, 1)
    return 1.0 - (1.0 - config.final_factor) * np.clip((step - config.decay_from + 1) / span, 0.0, 1.0)


@dataclass(frozen=True)
class Instances:
    """A batch of problems, one per Hessian and seed.

    Attributes
    ----------
    H, A, X0 : Tensor
        Float32, shapes ``(2·seeds, m, m)``, the same, ``(2·seeds, m, n)``; heterogeneous first.
    rows : Tensor of int64, shape ``(steps, 2·seeds, b)``
    """

    H: Tensor
    A: Tensor
    X0: Tensor
    rows: Tensor

    @classmethod
    def draw(cls, config: Config, seeds: int) -> Instances:
        """Draw the instances; seed s gives the same one however many are drawn."""
        hessians, starts, rows = [], [], []
        for index, name in enumerate(HESSIANS):
            for seed in range(seeds):
                rng = np.random.default_rng([seed, index])
                hessians.append(block_hessian(SPECTRA[name], rng))
                m = hessians[-1].shape[0]
                start = rng.standard_normal((m, config.columns))
                rows.append(rng.integers(0, m, size=(config.steps, config.rows)))
                starts.append(start * (1.0 + config.perturbation * rng.standard_normal(start.shape)))
        H = torch.from_numpy(np.stack(hessians))
        A = TraceQuadratic(H).root()
        X0 = torch.from_numpy(np.stack(starts))
        return cls(H.float(), A.float(), X0.float(), torch.from_numpy(np.stack(rows, axis=1)))

    def repeated(self, times: int) -> Instances:
        """Return the batch repeated along its first dimension (slowest)."""
        def tile(x: Tensor) -> Tensor:
            return x.repeat(times, 1, 1)

        return Instances(tile(self.H), tile(self.A), tile(self.X0), self.rows.repeat(1, times, 1))


def recorded_steps(config: Config) -> list[int]:
    """Return the steps after which losses are recorded: 0, every `record_every`, the last."""
    return sorted({*range(0, config.steps + 1, config.record_every), config.steps})


def trajectory(
    method: str, instances: Instances, lr: Tensor | float, config: Config, *, squared: bool, matched: bool
) -> Iterator[tuple[int, Tensor, dict[str, Tensor] | None]]:
    """Yield ``(steps taken, X, Γ diagnostics or None)`` of one method on a batch of instances."""
    rule = method_rule(method, config)
    problem = TraceQuadratic(instances.H)
    X = instances.X0
    state = rule.init(X)
    factors = schedule(config)
    constant = method == "gd"
    target = math.sqrt(X.shape[-2] * X.shape[-1])
    yield 0, X, None
    for step in range(config.steps):
        if constant:
            gradient = problem.gradient(X)
        else:
            gradient = problem.row_gradient(instances.A, X, instances.rows[step], squared=squared)
        wanted = method in ADAPTIVE and (step + 1) % config.gamma_every == 0
        direction, state, details = rule.update(gradient, state, diagnostics=wanted, check_finite=False)
        if matched:
            norm = torch.linalg.vector_norm(direction, dim=(-2, -1), keepdim=True)
            direction = direction * (target / torch.where(norm > 0, norm, 1.0))
        X = X - (lr if constant else lr * factors[step]) * direction
        record = None
        if details is not None:
            record = {"gamma": details.variance_adaptation}
            if details.basis is not None:
                record["Q_L"] = details.basis[0]
        yield step + 1, X, record


def losses(
    method: str, instances: Instances, lr: Tensor | float, config: Config, *, squared: bool, matched: bool
) -> np.ndarray:
    """Return f along the runs, float64, shape ``(recorded steps, batch)``, as ½‖H^{1/2}X‖² (never negative by rounding)."""
    A = instances.A.double()
    keep = set(recorded_steps(config))
    values = [
        0.5 * (A @ X.double()).square().sum(dim=(-2, -1))
        for step, X, _ in trajectory(method, instances, lr, config, squared=squared, matched=matched)
        if step in keep
    ]
    return torch.stack(values).numpy()


def smoothness_along(method: str, instances: Instances, config: Config) -> dict[str, np.ndarray]:
    """Return the weighted smoothness quantities along the published runs, each of shape ``(records, batch)``."""
    out: dict[str, list[Tensor]] = {k: [] for k in ("signed", "absolute", "lower", "upper", "gamma_max")}
    H = instances.H.double()
    for _, _, record in trajectory(method, instances, config.lr, config, squared=False, matched=False):
        if record is None:
            continue
        gamma = record["gamma"].double()
        out["signed"].append(signed_weighted_sum(H, gamma))
        out["absolute"].append(absolute_weighted_sum(H, gamma))
        out["gamma_max"].append(gamma.amax(dim=(-2, -1)))
        if "Q_L" in record:
            enclosed = weighted_spectral_smoothness(H, gamma, record["Q_L"].double(), iterations=15, restarts=2)
            out["lower"].append(enclosed.lower)
            out["upper"].append(enclosed.upper)
        else:
            exact = weighted_box_smoothness(H, gamma)
            out["lower"].append(exact)
            out["upper"].append(exact)
    return {k: torch.stack(v).numpy() for k, v in out.items()}


def compute(config: Config, *, cache: Cache, progress: Progress) -> dict[str, Table]:
    """Run everything and return the tables of the figures."""
    instances = Instances.draw(config, config.seeds)
    few = Instances.draw(config, config.sweep_seeds)
    width = len(config.sweep_lrs)
    lrs = torch.tensor(config.sweep_lrs).repeat_interleave(2 * config.sweep_seeds)[:, None, None]
    runs: dict[tuple[str, str], np.ndarray] = {}
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
                    return {"f": losses(method, instances, lr, config, squared=squared, matched=matched)}

                runs[protocol, method] = cached(f"{protocol}-{method}", run)["f"]
                task.advance()
            for protocol in ("published", "squared"):

                def sweep(method: str = method, base: float = base, squared: bool = protocol == "squared") -> dict:
                    f = losses(
                        method, few.repeated(width), lrs * (base / config.lr), config, squared=squared, matched=False
                    )
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
    for (protocol, method), f in runs.items():
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
        final = {m: runs[protocol, m][-1].reshape(len(HESSIANS), config.seeds) for m in METHODS}
        for h, hessian in enumerate(HESSIANS):
            for seed in range(config.seeds):
                rows.append({"protocol": protocol, "hessian": hessian, "seed": seed}
                            | {m: float(final[m][h, seed]) for m in METHODS})
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
    """Return which method wins where, with intervals over seeds; nothing here is typed by hand."""
    from experiments.trace_quadratic_summary import summarise

    return summarise(tables)
