r"""Named problem families and rules for measured rates: what ``deva-theory rates`` and ``experiments/rates.py`` run.

Every family is a batch of instances drawn from a seed, with constants of the order of 1 (E1's Hessians have their published eigenvalues).
Starting points and noise are drawn from ``torch.Generator().manual_seed(seed)`` by whoever runs a problem; parameters come from a stream
of their own (:func:`parameter_generator`), so that both may be given the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deva_theory.problems.families import (
    DiagonalQuadratic,
    FiniteSum,
    Gaussian,
    LogisticRegression,
    MatrixFactorisation,
    NonConvexWells,
    Oracle,
    Problem,
    RotatedQuadratic,
    RowSampling,
    SparseSpikes,
    StudentT,
    TraceProblem,
)
from deva_theory.problems.families.quadratics import random_orthogonal
from deva_theory.problems.quadratic import TraceQuadratic
from deva_theory.rules import Rule, adagrad, deva_linf, deva_spectral, muon, sign_sgd

DIMENSION = 6
BETA2 = 0.99
E1_BALL = 40.0
"""Radius of the ball of iterates on which the variance of E1's sampled rows is bounded; starting points have a norm of about 9.

Fixed, so that σ is the same for all runs: an iterate outside is an error.
"""


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Return numbers whose logarithm is uniform."""
    exponent = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return low * (high / low) ** exponent


def _normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def parameter_generator(seed: int) -> torch.Generator:
    """Return the generator of a family's parameters: a stream of `seed` that has nothing in common with ``manual_seed(seed)``.

    Its own seed is what `numpy.random.SeedSequence` makes of `seed` for its first child.
    """
    (child,) = np.random.SeedSequence(seed % 2**64).spawn(1)
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0]))


def diagonal(instances: int, seed: int, spread: float = 10.0) -> DiagonalQuadratic:
    """Return diagonal quadratics in 6 variables, curvatures log-uniform on [1/spread, spread]."""
    generator = parameter_generator(seed)
    return DiagonalQuadratic(_uniform(generator, (instances, DIMENSION), 1 / spread, spread))


def rotated(instances: int, seed: int, spread: float = 10.0) -> RotatedQuadratic:
    """Return the same spectra in random orthogonal bases."""
    generator = parameter_generator(seed)
    return RotatedQuadratic.random(_uniform(generator, (instances, DIMENSION), 1 / spread, spread), generator)


def wells(instances: int, seed: int, spread: float = 3.0) -> NonConvexWells:
    """Return cosine wells in 6 variables with curvatures log-uniform on [1/spread, spread], and one more along a random direction."""
    generator = parameter_generator(seed)
    curvature = _uniform(generator, (instances, DIMENSION), 1 / spread, spread)
    return NonConvexWells(curvature, "cosine", 0.5 * _normal(generator, (instances, DIMENSION)))


def trace(instances: int, seed: int, spread: float = 10.0) -> TraceProblem:
    """Return ½tr(XᵀHX), X 3×2, H with eigenvalues log-uniform on [1/spread, spread] in random orthogonal bases."""
    generator = parameter_generator(seed)
    Q = random_orthogonal(3, generator, (instances,))
    H = (Q * _uniform(generator, (instances, 1, 3), 1 / spread, spread)) @ Q.mT
    return TraceProblem(TraceQuadratic(0.5 * (H + H.mT)), 2)


def factorisation(instances: int, seed: int) -> MatrixFactorisation:
    """Return the factorisation of random 5×4 matrices with rank 2 on a ball of radius 6."""
    generator = parameter_generator(seed)
    return MatrixFactorisation(_normal(generator, (instances, 5, 4)), 2, 6.0)


def logistic(instances: int, seed: int) -> LogisticRegression:
    """Return logistic regression on real data, with regularisation from 0.01 to 0.1; `seed` has no effect, the data are what they are."""
    return LogisticRegression.breast_cancer(torch.logspace(-2, -1, instances, dtype=torch.float64).tolist())


def _published(spectrum: str) -> Callable[[int, int], TraceProblem]:
    return lambda instances, seed: TraceProblem.published(spectrum, instances=(instances,), seed=seed)


FAMILIES: dict[str, Callable[[int, int], Problem]] = {
    "diagonal": diagonal, "rotated": rotated, "e1-heterogeneous": _published("heterogeneous"), "e1-homogeneous": _published("homogeneous"),
    "logistic": logistic, "wells": wells, "factorisation": factorisation,
}
"""Name to a function of the number of instances and a seed."""
ORACLES = ("gaussian", "spikes", "student", "rows")


@dataclass(frozen=True)
class Method:
    """A rule by name.

    Attributes
    ----------
    rule : callable
        The number of dimensions of one variable to the rule.
    matrices : bool
        Whether it is one for matrices, which R3 covers, and not R1, R2 and R5.
    """

    rule: Callable[[int], Rule]
    matrices: bool = False


METHODS: dict[str, Method] = {
    "signsgd": Method(lambda event_ndim: sign_sgd(event_ndim=event_ndim)),
    "adagrad": Method(lambda event_ndim: adagrad(eps=0.0)),
    "deva-linf": Method(lambda event_ndim: deva_linf(betas=(0.0, BETA2), event_ndim=event_ndim)),
    "muon": Method(lambda event_ndim: muon(beta1=0.0, nesterov=False, polar="svd", shape="none"), matrices=True),
    "deva-spectral": Method(lambda event_ndim: deva_spectral(betas=(0.0, BETA2), refresh_every=1), matrices=True),
}
"""SignSGD, AdaGrad, corrected DeVA without momentum (RMSprop with bias correction), Muon with exact msign, the corrected S∞ rule."""


def default_oracle(problem: Problem) -> str:
    """Return "rows" where a family is a finite sum, else "gaussian"."""
    return "rows" if isinstance(problem, FiniteSum) else "gaussian"


def oracle(name: str, problem: Problem) -> Oracle:
    """Return a stochastic gradient by name.

    Parameters
    ----------
    name : {"gaussian", "spikes", "student", "rows"}
        Noise of standard deviation 1 in every coordinate; "rows" samples the components of a finite sum, for E1's quadratics while the
        iterates stay in the ball of radius 40 (:data:`E1_BALL`).
    problem : Problem
        What it is a gradient of.

    Raises
    ------
    ValueError
        An unknown name; "rows" without a finite sum.
    """
    ones = torch.ones(tuple(problem.event_shape), dtype=torch.float64)
    if name == "gaussian":
        return Gaussian(ones)
    if name == "spikes":
        return SparseSpikes(ones, 0.05)
    if name == "student":
        return StudentT(ones, 3.0)
    if name != "rows":
        raise ValueError(f"unknown oracle {name!r}: use one of {', '.join(ORACLES)}")
    if not isinstance(problem, FiniteSum):
        raise ValueError(f"the oracle 'rows' samples the terms of a finite sum, and {problem.name} is none; use gaussian")
    return RowSampling(problem, E1_BALL if isinstance(problem, TraceProblem) else None)
