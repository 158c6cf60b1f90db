"""The one loop of all measured runs: horizons, step sizes, seeds and instances as one batch of tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Protocol

import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates.coverage import UpdateRule, factor_bound
from deva_theory.rates.statement import AssumptionError
from deva_theory.rates.watch import Watch, noise
from deva_theory.rules import Diagnostics, State

ROUNDING = 1e-9
"""Least relative excess over a bound that is put down to rounding."""


def rounding(T: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the relative excess over a bound that is put down to rounding in T steps of a dtype: 1e-9 or 8Tε."""
    return (8 * torch.finfo(dtype).eps * T.double()).clamp_min(ROUNDING)


_DEVIATIONS = 5.0
"""Standard errors: one false alarm in three million."""


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


def check_arguments(problem: object, rule: object, oracle: object, seeds: object, seed: object) -> None:
    """Raise TypeError or ValueError, saying what to use, unless these can be run; a rule of None is none."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem is a {type(problem).__name__}; use a deva_theory.problems.families.Problem, such as DiagonalQuadratic(L)")
    if rule is not None and not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise TypeError(f"rule is a {type(rule).__name__}; use a deva_theory.rules.Rule, such as sign_sgd(), or FixedFactors(Γ)")
    if not (oracle is None or isinstance(oracle, Oracle)):
        raise TypeError(f"oracle is a {type(oracle).__name__}; use a deva_theory.problems.families.Oracle, such as Gaussian(σ)")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; use a whole number from 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; use a whole number")


def falling(numbers: Sequence[int], name: str) -> list[int]:
    """Return different whole numbers, the largest first.

    Raises
    ------
    ValueError
        They are none, or not all different; `name` is what to call them.
    """
    try:
        # Booleans are whole numbers to Python, and a mistake here.
        found = sorted((operator.index(x) for x in numbers if not isinstance(x, bool)), reverse=True)
        complete = len(set(found)) == len(numbers)
    except TypeError:
        found, complete = [], False
    if not found or not complete:
        raise ValueError(f"{name} are {numbers!r}; use a sequence of different whole numbers such as (16, 64, 256)")
    return found


def by_horizon(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Return one value per T in front of scales, seeds and instances; `like` has the latter two."""
    return torch.as_tensor(values, dtype=torch.float64, device=like.device).reshape(-1, 1, *(1,) * like.ndim)


def factor_average(rule: UpdateRule, horizons: Sequence[int], power: int, like: Tensor) -> Tensor:
    """Return, by horizon, the average over a run of the bound on Γ_t, or of its square; power 0: the largest."""
    bounds = [factor_bound(rule, T) for T in horizons]
    return by_horizon([float((f**power).mean() if power else f.max()) for f in bounds], like)


def beyond(left: Tensor, right: Tensor, share: Tensor, dim: int) -> Tensor:
    """Return whether the mean over seeds is beyond the bound by more than rounding and five standard errors of their difference.

    Parameters
    ----------
    left, right : Tensor
        Both sides for every seed, seeds on dimension `dim`.
    share : Tensor
        `rounding`, relative to the bound.
    dim : int

    Notes
    -----
    Few seeds know their own spread badly: in place of 5 stands Student's quantile of the same level, 3e-7, which is 7 for 20 seeds, 12 for
    10 and 157 for 4.  One seed tells nothing, and is never beyond.  A NaN is.
    """
    # Nothing is beyond an infinite bound.
    excess, count = torch.where(right == math.inf, -1.0, left - right), left.shape[dim]
    right = torch.where(right == math.inf, 0.0, right)
    if count < 2:
        return excess.mean(dim).isnan()
    quantile = float(stdtrit(count - 1, ndtr(_DEVIATIONS)))
    spread = excess.std(dim) / math.sqrt(count)
    return ~(excess.mean(dim) <= (share * right.abs()).mean(dim) + quantile * spread)


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
    slack = 1e3 * (limits.eps * (value.abs() + optimum.abs()) + limits.tiny) + noise(problem, start)[0]
    if not bool((gap >= -slack).all()):
        raise AssumptionError(f"{statement} assumes that f is bounded below by f*; f(x_0) - f* is {float(gap.min()):g} on {problem.name}")
    return gap.clamp_min(0)


def run_grid(
    problem: Problem, rule: UpdateRule, start: Tensor, recorder: Recorder, *, horizons: Sequence[int], eta: Tensor,
    oracle: Oracle | None, batches: Sequence[int] | None, beta: Tensor | None, generator: torch.Generator,
) -> Watch:
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

    Returns
    -------
    Watch
        What was seen: how far rounding reaches.

    Raises
    ------
    AssumptionError
        What every statement assumes fails along the run, see `deva_theory.rates.watch`; from the family: an iterate, the last one
        included, left the domain.  A run that leaves the range of floating point is left to the recorder.
    """
    shape = (len(horizons), eta.shape[1], *start.shape)
    x = start.expand(shape).clone()
    # Moments of the rule in the batch's own layout: everything is stacked on leading dimensions.
    state = rule.init(x)
    step_size = eta[(..., *(None,) * problem.event_ndim)].to(x)
    averaging = None if beta is None else by_horizon(beta, start).to(x)
    moment = torch.zeros_like(x)
    watch = Watch(problem, x, horizons)
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
    return watch


def _narrowed(state: State, active: int) -> State:
    return {key: value[:active] if isinstance(value, Tensor) else value for key, value in state.items()}


def _sampled(
    problem: Problem, oracle: Oracle, x: Tensor, gradient: Tensor, batches: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Return ĝ: one call where all mini-batches are equally large, else one for each T."""
    if len(set(batches)) == 1:
        return oracle.sample(problem, x, batches[0], generator, gradient=gradient)
    return torch.stack([oracle.sample(problem, x[k], batches[k], generator, gradient=gradient[k]) for k in range(len(x))])
