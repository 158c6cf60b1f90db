"""The right sides of a finished grid of runs: which function of `deva_theory.rates` takes which measured or known number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates import matrix_bounds, momentum_bounds, vector_bounds
from deva_theory.rates.coverage import UpdateRule, polar_exact
from deva_theory.rates.loop import by_horizon, factor_average, sample_deviation
from deva_theory.rates.records import Record
from deva_theory.rates.statement import Bound


@dataclass(frozen=True, eq=False)
class Finished:
    """A grid of runs that is over.

    Attributes
    ----------
    problem, rule, statement, oracle
        As given to `deva_theory.rates.runner.measure`.
    horizons, scales : tuple
        T, falling, and multiples of η.
    eta : Tensor, shape ``(T, scale, seed or 1, *batch or 1)``
    gap : Tensor, shape ``(seed, *batch)``
        Δ.
    start : Tensor, shape ``(seed, *batch, *event)``
    record : Record
        Averages over the steps.
    """

    problem: Problem
    rule: UpdateRule
    statement: str
    horizons: tuple[int, ...]
    scales: tuple[float, ...]
    eta: Tensor
    gap: Tensor
    start: Tensor
    oracle: Oracle | None
    record: Record

    @property
    def T(self) -> Tensor:
        """T in front of scales, seeds and instances."""
        return by_horizon(self.horizons, self.gap)

    def sigma(self) -> Tensor:
        """Return σ_i of one sample, shape ``(*batch, *event)``; 0 for exact gradients."""
        return sample_deviation(self.problem, self.oracle)

    def factors(self, power: int) -> Tensor:
        """Return the average over a run of the bound on Γ_t, or of its square; 0: the largest."""
        return factor_average(self.rule, self.horizons, power, self.gap)


def right_sides(runs: Finished) -> dict[str, Bound]:
    """Return the bounds by name, see `deva_theory.rates.runner`; their first dimension is T, falling."""
    return {"R1": _deterministic, "R2": _stochastic, "R3": _matrix, "R5": _momentum}[runs.statement](runs)


def _pathwise(runs: Finished) -> Bound:
    record = runs.record
    bound = vector_bounds.stochastic(runs.gap, runs.T, runs.eta, record.smoothness, record.noise)
    average = "m̃" if runs.statement == "R5" else "ĝ"
    label = f"{runs.statement} for one run: avg ‖∇f‖_{{1,Γ}} ≤ Δ/(ηT) + (η/2) avg L_Γ + 2 avg Σ γ_i|{average}_i-∂_i f|"
    return replace(bound, statement=label, assumptions=(vector_bounds.BELOW, vector_bounds.DESCENT))


def _deterministic(runs: Finished) -> dict[str, Bound]:
    measured = vector_bounds.deterministic(runs.gap, runs.T, runs.eta, runs.record.smoothness)
    L = runs.factors(2) * runs.problem.constants.box
    return {"pathwise": measured, "measured": measured, "a_priori": vector_bounds.deterministic(runs.gap, runs.T, runs.eta, L)}


def _stochastic(runs: Finished) -> dict[str, Bound]:
    gap, T, record = runs.gap, runs.T, runs.record
    L = runs.factors(2) * runs.problem.constants.box
    noise = runs.factors(1) * _summed(runs, runs.sigma())
    bounds = {"pathwise": _pathwise(runs)}
    for name, smoothness, size in (("measured", record.smoothness, record.moment), ("a_priori", L, noise)):
        if runs.scales == (1.0,):
            bounds[name] = vector_bounds.stochastic_paper_setting(gap, T, smoothness, size)
        else:
            bounds[name] = vector_bounds.stochastic(gap, T, runs.eta, smoothness, size, batch=T)
    return bounds


def _momentum(runs: Finished) -> dict[str, Bound]:
    gap, T, eta = runs.gap, runs.T, runs.eta
    L, sigma = runs.problem.constants.gradient_lipschitz_linf, _summed(runs, runs.sigma())
    first = _summed(runs, runs.problem.gradient(runs.start).double().abs())
    gamma_max = runs.factors(0)
    beta, _ = momentum_bounds.schedule(T)
    if runs.scales == (1.0,):
        stated = momentum_bounds.momentum_schedule(gap, T, L, sigma, first, gamma_max=gamma_max)
    else:
        stated = momentum_bounds.momentum(gap, T, eta, L, sigma, first, beta=beta, gamma_max=gamma_max)
    return {
        "pathwise": _pathwise(runs), "a_priori": stated,
        "sharp": momentum_bounds.momentum_sharp(gap, T, eta, L, sigma, first, beta=beta, gamma_max=gamma_max),
        "corrected": momentum_bounds.momentum_corrected(gap, T, eta, L, sigma, beta=beta, gamma_max=gamma_max),
    }


def _matrix(runs: Finished) -> dict[str, Bound]:
    record, T, constants = runs.record, runs.T, runs.problem.constants
    assert constants.spectral is not None
    exact = polar_exact(runs.rule)
    bound = matrix_bounds.spectral if exact else matrix_bounds.any_direction
    bounds = {
        "pathwise": bound(runs.gap, T, runs.eta, record.smoothness, record.noise),
        "measured": bound(runs.gap, T, runs.eta, record.smoothness, record.moment / T.sqrt()),
    }
    if exact:
        sigma = runs.sigma().square().sum((-2, -1)).sqrt()
        noise = matrix_bounds.nuclear_noise(sigma, min(runs.problem.event_shape), batch=T)
        bounds["a_priori"] = bound(runs.gap, T, runs.eta, constants.spectral, noise)
    return bounds


def _summed(runs: Finished, x: Tensor) -> Tensor:
    return x.sum(tuple(range(-runs.problem.event_ndim, 0)))
