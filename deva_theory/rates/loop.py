"""The one loop of all measured runs: horizons, step sizes, seeds and instances as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates.coverage import UpdateRule, factor_bound
from deva_theory.rates.statement import AssumptionError
from deva_theory.rules import Diagnostics, State

ROUNDING = 1e-9
"""Least relative excess over a bound that is put down to rounding."""


def rounding(T: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the relative excess over a bound that is put down to rounding in T steps of a dtype: 1e-9 or 8Tε."""
    return (8 * torch.finfo(dtype).eps * T.double()).clamp_min(ROUNDING)




class Recorder(Protocol):
    """What sees every step."""

    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step of the runs that are not over.

        Parameters
        ----------
        x, gradient : Tensor, shape ``(active, scale, seed, *batch, *event)``
            The iterate and ∇f there.
        seen : Tensor, of that shape
            What the rule was given: ĝ, or the corrected momentum.
        direction, details
            What the rule answered.
        """


def by_horizon(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Return one value per T in front of scales, seeds and instances; `like` has the latter two."""
    return torch.as_tensor(values, dtype=torch.float64, device=like.device).reshape(-1, 1, *(1,) * like.ndim)


def factor_average(rule: UpdateRule, horizons: Sequence[int], power: int, like: Tensor) -> Tensor:
    """Return, by horizon, the average over a run of the bound on Γ_t, or of its square; power 0: the largest."""
    bounds = [factor_bound(rule, T) for T in horizons]
    return by_horizon([float((f**power).mean() if power else f.max()) for f in bounds], like)


def sample_deviation(problem: Problem, oracle: Oracle | None) -> Tensor:
    """Return σ_i of one sample, shape ``(*batch, *event)``; 0 for exact gradients."""
    shape = (*problem.batch_shape, *problem.event_shape)
    if oracle is None:
        return torch.zeros(shape, dtype=torch.float64, device=problem.like.device)
    return oracle.sigma.double().expand(shape)


def starting_gap(problem: Problem, start: Tensor, statement: str) -> Tensor:
    """Return Δ = f(x_0) - f*, float64, 0 where rounding makes it negative.

    Raises
    ------
    AssumptionError
        "bounded below by f*": Δ is negative beyond rounding.
    """
    value, optimum, gap = problem.value(start).double(), problem.constants.optimum, problem.gap(start).double()
    limits = torch.finfo(start.dtype)
    slack = 1e3 * (limits.eps * (value.abs() + optimum.abs()) + limits.tiny)
    if not bool((gap >= -slack).all()):
        raise AssumptionError(f"{statement} assumes that f is bounded below by f*; f(x_0) - f* is {float(gap.min()):g} on {problem.name}")
    return gap.clamp_min(0)


def run_grid(
    problem: Problem, rule: UpdateRule, start: Tensor, recorder: Recorder, *, horizons: Sequence[int], eta: Tensor,
    oracle: Oracle | None, batches: Sequence[int] | None, beta: Tensor | None, generator: torch.Generator,
) -> None:
    r"""Run ``x⁺ = x - η · rule(ĝ)``, or of the momentum of ĝ, for every horizon at the same time.

    Parameters
    ----------
    problem : Problem
    rule : UpdateRule
    start : Tensor, shape ``(seed, *batch, *event)``
    recorder : Recorder
        Sees every step; runs that are over have left the batch.
    horizons : sequence of int
        T, falling: the runs that are not over stand in front.
    eta : Tensor, shape ``(T, scale, seed or 1, *batch or 1)``
    oracle : Oracle or None
        None: exact gradients.
    batches : sequence of int, or None
        Samples in a mini-batch, for each T; needs an oracle.
    beta : Tensor, shape ``(T,)``, or None
        Of the momentum, which is bias-corrected; None: none.
    generator : torch.Generator
        Of the noise.

    Raises
    ------
    AssumptionError
        What every statement assumes fails along the run: f falls below f*; a step breaks ``f(x - ηd) ≤ f(x) - η<∇f(x), d> + ½η²L_∞‖d‖_∞²``
        beyond rounding, so that f is not as smooth as its constants say, or the gradient is not its gradient; from the family: an
        iterate, the last one included, left the domain.  A run that leaves the range of floating point is left to the recorder.
    """
    shape = (len(horizons), eta.shape[1], *start.shape)
    x = start.expand(shape).clone()
    # Moments of the rule in the batch's own layout: everything is stacked on leading dimensions.
    state = rule.init(x)
    step_size = eta[(..., *(None,) * problem.event_ndim)].to(x)
    averaging = None if beta is None else by_horizon(beta, start).to(x)
    moment = torch.zeros_like(x)
    watch = _Watch(problem, x)
    for t in range(horizons[0]):
        active = sum(t < T for T in horizons)
        if active < len(x):
            x, moment, state = x[:active], moment[:active], _narrowed(state, active)
            watch.narrow(active)
        gradient = problem.gradient(x)
        noisy = gradient if oracle is None or batches is None else _sampled(problem, oracle, x, gradient, batches, generator)
        seen = noisy
        if averaging is not None:
            b = averaging[:active]
            moment = b * moment + (1 - b) * noisy
            # The bias-corrected mean has the same signs, and a Γ of amplitudes then is that of the rule's own momentum.
            seen = moment / (1 - b ** (t + 1))
        direction, state, details = rule.update(seen, state, diagnostics=True, check_finite=False)
        recorder.add(x, gradient, seen, direction, details)
        before, x = x, x - step_size[:active] * direction
        # The step that was made, rounding included.
        watch.add(x, gradient, before.double() - x.double())
    watch.check()


class _Watch:
    """The assumptions of the descent lemma, looked at in every step and judged after the last."""

    def __init__(self, problem: Problem, x: Tensor) -> None:
        self.problem, self.event = problem, tuple(range(-problem.event_ndim, 0))
        self.value = problem.value(x).double()
        self.eps = 1e3 * torch.finfo(x.dtype).eps
        self.tiny = 1e3 * torch.finfo(x.dtype).tiny  # where squares underflow
        # Relative to what rounding may do: the largest fall below f*, the largest excess over the lemma.
        self.below, self.excess = torch.zeros_like(self.value), torch.zeros_like(self.value)

    def narrow(self, active: int) -> None:
        self.value = self.value[:active]

    def add(self, x: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Look at the step that led to x, from where the gradient is."""
        constants = self.problem.constants
        after = self.problem.value(x).double()
        promised = (gradient.double() * step).sum(self.event)
        curvature = 0.5 * constants.box * step.abs().amax(self.event).square()
        size = self.value.abs() + after.abs() + promised.abs() + curvature
        k = len(after)
        self.excess[:k] = torch.fmax(self.excess[:k], (after - self.value + promised - curvature) / (self.eps * size + self.tiny))
        slack = self.eps * (after.abs() + constants.optimum.abs()) + self.tiny
        fall = (constants.optimum - after) / slack
        if bool((fall > 1).any()):
            # The family may know the distance to f* better than the difference of two values does.
            fall = torch.fmin(fall, -self.problem.gap(x).double() / slack)
        self.below[:k] = torch.fmax(self.below[:k], fall)
        self.value = after

    def check(self) -> None:
        """Raise if an assumption failed."""
        name = self.problem.name
        if bool((self.below > 1).any()):
            raise AssumptionError(f"bounded below: {name} falls below its f* along {_which(self.below > 1)}; its constants are wrong")
        if bool((self.excess > 1).any()):
            raise AssumptionError(
                f"smoothness: a step of {name} breaks f(x - ηd) ≤ f(x) - η<∇f(x), d> + ½η²L_∞‖d‖² along {_which(self.excess > 1)}; f is "
                "not as smooth as its constants say, or its gradient is wrong"
            )


def _which(bad: Tensor) -> str:
    index = tuple(bad.nonzero()[0].tolist())
    return f"{int(bad.sum())} of {bad.numel()} runs, the first at (T, scale, seed, *instance) = {index}"


def _narrowed(state: State, active: int) -> State:
    return {key: value[:active] if isinstance(value, Tensor) else value for key, value in state.items()}


def _sampled(
    problem: Problem, oracle: Oracle, x: Tensor, gradient: Tensor, batches: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Return ĝ: one call where all mini-batches are equally large, else one for each T."""
    if len(set(batches)) == 1:
        return oracle.sample(problem, x, batches[0], generator, gradient=gradient)
    return torch.stack([oracle.sample(problem, x[k], batches[k], generator, gradient=gradient[k]) for k in range(len(x))])
