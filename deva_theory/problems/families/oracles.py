r"""Stochastic gradients of exactly known variance (SPEC R2, R5).

Each oracle returns the mean ĝ of B independent samples, unbiased, with ``E(ĝ_i - ∂_i f(x))² = variance_i(x)/B ≤ σ_i²/B``.  Where the law of
that mean is known it is drawn directly, so that B = T costs no more than B = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, FiniteSum, Problem, keep_copies, standard_normal

_ENTRIES = 2**22  # random numbers held at one time


class Oracle(ABC):
    """A stochastic gradient: `sigma`, `variance` and `sample`."""

    @property
    @abstractmethod
    def sigma(self) -> Tensor:
        """σ_i: bound on the standard deviation of one sample, for each coordinate, on the domain; broadcasts to ``(*batch, *event)``."""

    @abstractmethod
    def variance(self, problem: Problem, x: Tensor) -> Tensor:
        """Return the exact variance of one sample at x, for each coordinate, shape ``(..., *event)``."""

    @abstractmethod
    def _sample(self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, gradient: Tensor | None) -> Tensor:
        """Return what `sample` does; `gradient` is ∇f(x) where the caller has it."""

    def sample(
        self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, *, gradient: Tensor | None = None
    ) -> Tensor:
        """Return the mean of `batch` independent stochastic gradients at x.

        Parameters
        ----------
        problem : Problem
        x : Tensor, shape ``(*samples, *batch, *event)``
            Each event has noise of its own.
        batch : int
            B ≥ 1.
        generator : torch.Generator
            On any device; the numbers are moved to that of x.
        gradient : Tensor, optional
            ``problem.gradient(x)``, where the caller has it: additive noise then computes it no second time.  The sample is the same.

        Returns
        -------
        Tensor, shape of ``problem.gradient(x)``
        """
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"the batch must be an integer of at least 1, not {batch!r}")
        if gradient is not None and gradient.shape != problem.full_shape(x):
            raise ValueError(f"the gradient has the shape {tuple(gradient.shape)}, not {tuple(problem.full_shape(x))}")
        return self._sample(problem, x, batch, generator, gradient)


@dataclass(frozen=True, eq=False)
class Additive(Oracle):
    """The gradient plus noise whose law does not depend on x: the variance is σ_i² exactly, everywhere.

    Attributes
    ----------
    deviation : Tensor, shape broadcastable to ``(*batch, *event)``
        σ ≥ 0.

    Raises
    ------
    AssumptionError
        "finite variance": σ negative, infinite or NaN.
    """

    deviation: Tensor

    def __post_init__(self) -> None:
        keep_copies(self, "deviation")
        if not isinstance(self.deviation, Tensor) or not self.deviation.dtype.is_floating_point:
            raise TypeError("deviation must be a floating-point tensor")
        if not bool((self.deviation.isfinite() & (self.deviation >= 0)).all()):
            raise AssumptionError("finite variance", "every standard deviation must be finite and >= 0")

    @property
    def sigma(self) -> Tensor:
        """σ, attained."""
        return self.deviation

    def _checked_sigma(self, problem: Problem, shape: torch.Size) -> Tensor:
        own = self.deviation.shape
        # The first comparison is all that most steps need.
        if own != shape[len(shape) - len(own) :] and not _fits(own, shape):
            raise ValueError(f"deviation of shape {tuple(own)} does not broadcast to the gradients' {tuple(shape)}")
        return self.deviation.to(problem.like.device)

    def variance(self, problem: Problem, x: Tensor) -> Tensor:
        """Return σ², shape ``(..., *event)``."""
        problem.check(x)
        shape = problem.full_shape(x)
        return (self._checked_sigma(problem, shape) ** 2).expand(shape)

    def _sample(self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, gradient: Tensor | None) -> Tensor:
        gradient = problem.gradient(x) if gradient is None else gradient
        noise = self._mean_noise(gradient, problem.event_ndim, batch, generator)
        return gradient + (self._checked_sigma(problem, gradient.shape) * noise).to(gradient.dtype)

    @abstractmethod
    def _mean_noise(self, gradient: Tensor, event_ndim: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the mean of `batch` samples of mean 0 and variance 1, float64, in the shape and on the device of `gradient`."""


def _fits(own: torch.Size, shape: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(own, shape) == shape
    except RuntimeError:
        return False


@dataclass(frozen=True, eq=False)
class Gaussian(Additive):
    """``∂_i f(x) + σ_i N(0, 1)``, independent coordinates; the mean of B samples is ``∂_i f + σ_i N(0, 1/B)``, one draw."""

    def _mean_noise(self, gradient: Tensor, event_ndim: int, batch: int, generator: torch.Generator) -> Tensor:
        return standard_normal(gradient.shape, generator, gradient.detach().to(torch.float64)) / math.sqrt(batch)


@dataclass(frozen=True, eq=False)
class SparseSpikes(Additive):
    r"""With probability p a spike ``±σ_i/√p`` of random sign, else nothing, independently for each coordinate.

    Attributes
    ----------
    probability : float
        p in (0, 1].

    Notes
    -----
    Variance ``p · σ_i²/p = σ_i²``, fourth moment ``σ_i⁴/p``.  Of B samples ``K ~ Bin(B, p)`` are spikes and ``K⁺ ~ Bin(K, ½)`` of them
    positive, so the mean is ``(2K⁺ - K) σ_i / (B√p)``: two draws for every B.
    """

    probability: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.probability <= 1:
            raise AssumptionError("finite variance", f"the probability of a spike must be in (0, 1], not {self.probability}")

    def _mean_noise(self, gradient: Tensor, event_ndim: int, batch: int, generator: torch.Generator) -> Tensor:
        total = torch.full(gradient.shape, float(batch), dtype=torch.float64, device=generator.device)
        spikes = torch.binomial(total, torch.full_like(total, self.probability), generator=generator)
        positive = torch.binomial(spikes, torch.full_like(total, 0.5), generator=generator)
        return ((2 * positive - spikes) / (batch * math.sqrt(self.probability))).to(gradient.device)


@dataclass(frozen=True, eq=False)
class StudentT(Additive):
    r"""``∂_i f(x) + σ_i √((ν-2)/ν) t_i``, t multivariate Student with ν degrees of freedom and uncorrelated coordinates.

    Attributes
    ----------
    df : float
        ν > 2; moments of order ν and above are infinite.

    Raises
    ------
    AssumptionError
        "finite variance", for ν ≤ 2.

    Notes
    -----
    Var t_i = ν/(ν-2).  ``t = √W z`` with ``z ~ N(0, I)`` and ``W = (ν/2)/Gamma(ν/2)`` shared by the coordinates of one sample, each of
    which is Student t: a large sample is large everywhere.  Given their W's, the mean of B samples is ``N(0, ΣW/B² I)``, so a mini-batch
    needs B draws of W and one normal vector: O(B + d).
    """

    df: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.df > 2:
            raise AssumptionError("finite variance", f"Student's t has infinite variance unless df > 2; df is {self.df}")
        if not math.isfinite(self.df):
            raise ValueError("df must be finite; use Gaussian for the limit")

    def _mean_noise(self, gradient: Tensor, event_ndim: int, batch: int, generator: torch.Generator) -> Tensor:
        events = gradient.shape[: gradient.ndim - event_ndim]
        total = torch.zeros(events, dtype=torch.float64, device=generator.device)
        done = 0
        while done < batch:
            count = min(batch - done, max(1, _ENTRIES // max(1, total.numel())))
            shape = torch.full((*events, count), self.df / 2, dtype=torch.float64, device=generator.device)
            # torch.distributions draws from the same function, but takes no generator.
            total += (self.df / 2 / torch._standard_gamma(shape, generator=generator)).sum(-1)
            done += count
        scale = (total * (self.df - 2) / self.df).sqrt().to(gradient.device) / batch
        normal = standard_normal(gradient.shape, generator, gradient.detach().to(torch.float64))
        return scale[(..., *(None,) * event_ndim)] * normal


@dataclass(frozen=True, eq=False)
class RowSampling(Oracle):
    r"""Gradients of components of one finite sum, drawn uniformly with replacement.

    Attributes
    ----------
    problem : FiniteSum
        The one it samples; `sample` and `variance` take no other.
    domain : float, optional
        Radius of the ball of iterates for which `sigma` is the bound: needed where the variance is unbounded on the whole space.  Outside
        the ball `sample` raises "finite variance".

    Notes
    -----
    Components i.i.d. uniform: the mean of B of them is ``Σ_i (K_i/B) ∇f_i(x)`` with multinomial counts K, its own for each event.
    Unbiased; the variance of one sample is :meth:`FiniteSum.component_variance`.
    """

    problem: FiniteSum
    domain: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.problem, FiniteSum):
            raise TypeError("RowSampling needs a finite sum: TraceProblem or LogisticRegression")
        if self.domain is not None and not (math.isfinite(self.domain) and self.domain > 0):
            raise AssumptionError("bounded domain", f"RowSampling: the radius must be positive and finite, not {self.domain}")
        _ = self.sigma  # an unbounded variance is an error now and not at the first bound

    @cached_property
    def sigma(self) -> Tensor:
        """:meth:`FiniteSum.component_deviation` of the problem on the domain, shape ``(*batch, *event)``."""
        return self.problem.component_deviation(self.domain)

    def variance(self, problem: Problem, x: Tensor) -> Tensor:
        """Return the components' variance at x."""
        self._check(problem, x)
        return self.problem.component_variance(x)

    def _check(self, problem: Problem, x: Tensor) -> None:
        if problem is not self.problem:
            raise ValueError("RowSampling belongs to one problem, and this is another: sigma would not be its bound")
        if self.domain is None:
            return
        norm = torch.linalg.vector_norm(x, dim=tuple(range(-problem.event_ndim, 0)))
        if not bool((norm <= self.domain).all()):
            raise AssumptionError(
                "finite variance",
                f"{problem.name}: an iterate left the ball of radius {self.domain:g} on which the sigma of the sampled rows is a bound; "
                "take a smaller step (scale), fewer steps, a nearer start, Gaussian noise, or RowSampling with a larger domain",
            )

    def _sample(self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, gradient: Tensor | None) -> Tensor:
        self.problem.check(x)
        self._check(problem, x)
        events = problem.full_shape(x)[: -problem.event_ndim]
        counts = multinomial_counts(batch, self.problem.components, events, generator)
        return self.problem.weighted_gradient(x, (counts / batch).to(x))


def multinomial_counts(total: int, categories: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return counts of `total` uniform draws among `categories`, float64, shape ``(*shape, categories)``, on the generator's device.

    Few categories: each count is binomial given those before it.  Else the indices are drawn and counted.
    """
    device = generator.device
    counts = torch.zeros(*shape, categories, dtype=torch.float64, device=device)
    if 8 * categories <= total:
        left = torch.full(shape, float(total), dtype=torch.float64, device=device)
        for i in range(categories - 1):
            counts[..., i] = torch.binomial(left, torch.full_like(left, 1 / (categories - i)), generator=generator)
            left = left - counts[..., i]
        counts[..., -1] = left
        return counts
    done = 0
    while done < total:
        part = min(total - done, max(1, _ENTRIES // max(1, math.prod(shape))))
        indices = torch.randint(categories, (*shape, part), generator=generator, device=device)
        counts.scatter_add_(-1, indices, torch.ones((), dtype=counts.dtype, device=device).expand(indices.shape))
        done += part
    return counts
