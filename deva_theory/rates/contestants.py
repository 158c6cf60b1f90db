r"""Who takes part in `deva_theory.rates.comparison`: each method with its statement, its step size and its bound, from known constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates import known, matrix_bounds, momentum_bounds, vector_bounds
from deva_theory.rates.catalogue import METHODS
from deva_theory.rates.coverage import SingularAdaGrad, UpdateRule
from deva_theory.rates.loop import by_horizon, factor_average, sample_deviation
from deva_theory.rates.statement import Bound
from deva_theory.rules import gradient_descent, normalised_sgd

WEIGHTED, SINGULAR = "weighted", "singular"
"""Left sides that are carried over by a measured alignment."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the runs of one method before they are made.

    Attributes
    ----------
    problem : Problem
    oracle : Oracle or None
    gap : Tensor, shape ``(seed, *batch)``
        Δ.
    first : Tensor, shape ``(seed, *batch, *event)``
        |∂_i f(x_0)|.
    horizons : tuple of int
        T, falling.
    """

    problem: Problem
    oracle: Oracle | None
    gap: Tensor
    first: Tensor
    horizons: tuple[int, ...]

    @cached_property
    def T(self) -> Tensor:
        """T in front of scales, seeds and instances."""
        return by_horizon(self.horizons, self.gap)

    @cached_property
    def sigma(self) -> Tensor:
        """σ_i of one sample, shape ``(*batch, d)``; 0 for exact gradients."""
        return sample_deviation(self.problem, self.oracle).flatten(-self.problem.event_ndim)

    @property
    def sigma_1(self) -> Tensor:
        """‖σ‖_1."""
        return self.sigma.sum(-1)

    @property
    def sigma_2(self) -> Tensor:
        """‖σ‖_2."""
        return self.sigma.square().sum(-1).sqrt()

    @property
    def first_1(self) -> Tensor:
        """‖∇f(x_0)‖_1."""
        return self.first.flatten(-self.problem.event_ndim).sum(-1)

    @property
    def lipschitz(self) -> Tensor:
        """R5's L."""
        return self.problem.constants.gradient_lipschitz_linf

    @property
    def coordinate(self) -> Tensor:
        """L_i on the last axis, shape ``(*batch, d)``."""
        return self.problem.constants.coordinate.flatten(-self.problem.event_ndim)

    @property
    def spectral(self) -> Tensor:
        """L_S, which vectors have not."""
        assert self.problem.constants.spectral is not None
        return self.problem.constants.spectral

    @property
    def rank(self) -> int:
        """The largest rank of a gradient."""
        return min(self.problem.event_shape)

    def factors(self, rule: UpdateRule, power: int) -> Tensor:
        """The average over a run of the bound on Γ_t, or of its square; 0: the largest."""
        return factor_average(rule, self.horizons, power, self.gap)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A method with the statement about it.

    Attributes
    ----------
    method, known : str
        A name for tables; the row of `deva_theory.rates.known.KNOWN_RATES`.
    rule : callable
        The number of dimensions of one variable to the rule.
    left : {"l1", "weighted", "nuclear", "singular", "l2", "rms"}
        The statement's left side.
    step : callable
        `Facts` and rule to η, of a shape that broadcasts to ``(T, scale, seed, *batch)``.
    bound : callable
        `Facts`, rule and η to the bound.
    noisy, exact : bool
        Whether it takes part with stochastic and with exact gradients.
    single : bool
        One sample in every step, T = N; else mini-batches of T = √N.
    momentum : bool
        R5's.
    """

    method: str
    known: str
    rule: Callable[[int], UpdateRule]
    left: str
    step: Callable[[Facts, UpdateRule], Tensor]
    bound: Callable[[Facts, UpdateRule, Tensor], Bound]
    noisy: bool = True
    exact: bool = True
    single: bool = False
    momentum: bool = False

    @property
    def matrices(self) -> bool:
        """Whether it needs matrices."""
        return self.left in ("nuclear", SINGULAR)


def _smoothness(facts: Facts, rule: UpdateRule) -> Tensor:
    """Return a bound on avg L_Γ known beforehand: avg γ_max² L_∞."""
    return facts.factors(rule, 2) * facts.problem.constants.box


def _step_exact(facts: Facts, rule: UpdateRule) -> Tensor:
    return vector_bounds.best_step(facts.gap, facts.T, _smoothness(facts, rule))


def _bound_exact(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return vector_bounds.deterministic_best(facts.gap, facts.T, _smoothness(facts, rule))


def _step_batch(facts: Facts, rule: UpdateRule) -> Tensor:
    return facts.T.rsqrt()


def _bound_batch(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return vector_bounds.stochastic_paper_setting(facts.gap, facts.T, _smoothness(facts, rule), facts.factors(rule, 1) * facts.sigma_1)


def _bound_batch_best(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    noise = facts.factors(rule, 1) * facts.sigma_1
    return vector_bounds.stochastic_best(facts.gap, facts.T, _smoothness(facts, rule), noise, batch=facts.T)


def _step_signsgd(facts: Facts, rule: UpdateRule) -> Tensor:
    return (facts.problem.constants.box * facts.T).rsqrt()


def _bound_signsgd(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return known.signsgd(facts.gap, facts.T, facts.problem.constants.box, facts.sigma_1)


def _step_momentum(facts: Facts, rule: UpdateRule) -> Tensor:
    return momentum_bounds.schedule(facts.T)[1]


def _bound_momentum(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    gamma_max = facts.factors(rule, 0)
    return momentum_bounds.momentum_schedule(facts.gap, facts.T, facts.lipschitz, facts.sigma_1, facts.first_1, gamma_max=gamma_max)


def _step_momentum_best(facts: Facts, rule: UpdateRule) -> Tensor:
    return momentum_bounds.momentum_best_step(facts.gap, facts.T, facts.lipschitz, gamma_max=facts.factors(rule, 0))


def _bound_momentum_best(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    gamma_max = facts.factors(rule, 0)
    return momentum_bounds.momentum_best(facts.gap, facts.T, facts.lipschitz, facts.sigma_1, facts.first_1, gamma_max=gamma_max)


def _step_spectral(facts: Facts, rule: UpdateRule) -> Tensor:
    return vector_bounds.best_step(facts.gap, facts.T, facts.spectral)


def _bound_muon(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return known.muon(facts.gap, facts.T, facts.spectral, facts.sigma_2, facts.rank, batch=facts.T)


def _bound_singular(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    # γ ≤ 1: neither L_{S,Γ} nor the noise exceeds that of the polar factor.
    noise = matrix_bounds.nuclear_noise(facts.sigma_2, facts.rank, batch=facts.T)
    return matrix_bounds.singular_weighted(facts.gap, facts.T, eta, facts.spectral, noise)


def _step_adagrad(facts: Facts, rule: UpdateRule) -> Tensor:
    """Return √(2Δ/‖L‖_1): T does not enter."""
    return vector_bounds.best_step(facts.gap, 1, facts.coordinate.sum(-1)).expand(len(facts.horizons), 1, *facts.gap.shape)


def _bound_adagrad(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return known.adagrad(facts.gap, facts.T, eta, facts.coordinate, facts.first.flatten(-facts.problem.event_ndim))


def _step_normalised(facts: Facts, rule: UpdateRule) -> Tensor:
    return vector_bounds.best_step(facts.gap, facts.T, facts.problem.constants.euclidean)


def _bound_normalised(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return known.normalised_sgd(facts.gap, facts.T, eta, facts.problem.constants.euclidean, facts.sigma_2, batch=facts.T)


def _step_sgd(facts: Facts, rule: UpdateRule) -> Tensor:
    """Return min{1/L, √(2Δ/(Lσ²T))}: the second is the best where ηL ≪ 1."""
    L = facts.problem.constants.euclidean
    best = vector_bounds.best_step(facts.gap, facts.T, L)
    sigma = torch.where(facts.sigma_2 > 0, facts.sigma_2, 1.0)
    return torch.where(facts.sigma_2 > 0, torch.minimum(1 / L, best / sigma), 1 / L).expand_as(best)


def _bound_sgd(facts: Facts, rule: UpdateRule, eta: Tensor) -> Bound:
    return known.sgd(facts.gap, facts.T, eta, facts.problem.constants.euclidean, facts.sigma_2)


_ENTRYWISE = ("adagrad", "deva-linf")
_SIGNED = (("signsgd", "l1"), *((name, WEIGHTED) for name in _ENTRYWISE))
CONTESTANTS: tuple[Contestant, ...] = (
    Contestant("signsgd", "Γ ⊙ sign, exact", METHODS["signsgd"].rule, "l1", _step_exact, _bound_exact, noisy=False),
    Contestant("signsgd", "SignSGD, B = T", METHODS["signsgd"].rule, "l1", _step_signsgd, _bound_signsgd, exact=False),
    *(Contestant(name, "Γ ⊙ sign, exact", METHODS[name].rule, WEIGHTED, _step_exact, _bound_exact, noisy=False) for name in _ENTRYWISE),
    *(Contestant(name, "Γ ⊙ sign, B = T", METHODS[name].rule, WEIGHTED, _step_batch, _bound_batch, exact=False) for name in _ENTRYWISE),
    *(
        Contestant(name, "Γ ⊙ sign, B = T, best η", METHODS[name].rule, left, _step_exact, _bound_batch_best, exact=False)
        for name, left in _SIGNED
    ),
    *(
        Contestant(name, f"Γ ⊙ sign with momentum{chosen}", METHODS[name].rule, left, step, bound, exact=False, single=True, momentum=True)
        for chosen, step, bound in (("", _step_momentum, _bound_momentum), (", best η", _step_momentum_best, _bound_momentum_best))
        for name, left in _SIGNED
    ),
    Contestant("adagrad", "AdaGrad, exact", METHODS["adagrad"].rule, "l1", _step_adagrad, _bound_adagrad, noisy=False),
    Contestant("muon", "Muon without momentum", METHODS["muon"].rule, "nuclear", _step_spectral, _bound_muon),
    Contestant("singular_adagrad", "singular values weighted", lambda event_ndim: SingularAdaGrad(), SINGULAR, _step_spectral,
               _bound_singular),
    Contestant("normalised_sgd", "normalised SGD", lambda event_ndim: normalised_sgd(event_ndim=event_ndim), "l2", _step_normalised,
               _bound_normalised),
    Contestant("gd", "SGD", lambda event_ndim: gradient_descent(), "rms", _step_sgd, _bound_sgd, single=True),
)  # fmt: skip
