"""The runs of E1: configuration, instances, and one batched trajectory per method."""

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
from deva_theory.rules import Rule, adam, adamuon, deva_linf, deva_spectral, gradient_descent, muon, sign_sgd, soap
from deva_theory.smoothness import (
    absolute_weighted_sum,
    signed_weighted_sum,
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
    constant = method == "gd" and not matched
    target = math.sqrt(X.shape[-2] * X.shape[-1])
    yield 0, X, None
    for step in range(config.steps):
        if method == "gd":
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
) -> dict[str, np.ndarray]:
    """Run one method and return what the tables need, float64.

    Returns
    -------
    dict
        ``f``: the objective as ½‖H^{1/2}X‖² (never negative by rounding), shape ``(recorded steps, batch)``;
        ``step_length``: ``Σ_t ‖X_{t+1} - X_t‖_F / Σ_t η_t``, the mean length of a direction, shape ``(batch,)``.
    """
    A = instances.A.double()
    keep = set(recorded_steps(config))
    values = []
    path, last = torch.zeros(len(instances.H)), instances.X0
    for step, X, _ in trajectory(method, instances, lr, config, squared=squared, matched=matched):
        if step in keep:
            values.append(0.5 * (A @ X.double()).square().sum(dim=(-2, -1)))
        path, last = path + torch.linalg.vector_norm(X - last, dim=(-2, -1)), X
    total = lr * (config.steps if method == "gd" and not matched else float(schedule(config).sum()))
    return {"f": torch.stack(values).numpy(), "step_length": (path / torch.as_tensor(total).flatten()).double().numpy()}


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
