r"""What the runner adds up along a run: left sides, smoothness, and the noise terms of the right sides.

Runs are ordered by falling T, so that the first entries of every sum belong to the runs that are not over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem, TraceProblem
from deva_theory.rates.coverage import UpdateRule, polar_exact, unit_factors
from deva_theory.rates.weighted import weighted_smoothness
from deva_theory.rules import Diagnostics

_SEED = 2  # the dimension of seeds, behind T and scale


class Record(ABC):
    """Sums over the steps, averages after `finish`.

    Attributes
    ----------
    left, plain : Tensor, shape ``(T, scale, seed, *batch)``
        The statement's left side, and ‖∇f‖_1 or ‖∇f‖_*.
    smoothness : Tensor, of that shape
        L_Γ; for R3 a bound on <D, ∇²f[D]>.
    noise : Tensor, of that shape
        The size of the noise as the proofs meet it, before any expectation.
    moment : Tensor, with seeds averaged away (size 1)
        Its bound by second moments of one sample, without the factor 1/√B.
    alignment, ratio, gamma_max : Tensor, of the shape of `left`
        κ, ρ and the largest factor.
    exact : bool
        Whether `smoothness` is exact.
    resolution : Tensor, of the shape of `left`
        What rounding may do to either side; set by who runs.
    """

    def __init__(self, problem: Problem, rule: UpdateRule, oracle: Oracle | None, shape: tuple[int, ...]) -> None:
        self.problem, self.rule, self.oracle = problem, rule, oracle
        self.event = tuple(range(-problem.event_ndim, 0))

        def zeros() -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=problem.like.device)

        self.left, self.plain, self.smoothness, self.noise, self.ratio = zeros(), zeros(), zeros(), zeros(), zeros()
        self.moment = zeros().narrow(_SEED, 0, 1).clone()
        self.gamma_max, self.alignment = zeros(), zeros() + torch.inf
        self.exact, self.resolution = True, zeros()

    @abstractmethod
    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step; see `deva_theory.rates.loop.Recorder`."""

    def finish(self, steps: Tensor) -> None:
        """Divide by T."""
        T = steps.to(self.left).reshape(-1, *(1,) * (self.left.ndim - 1))
        for name in ("left", "plain", "smoothness", "noise", "ratio", "moment"):
            setattr(self, name, getattr(self, name) / T)

    def _variance(self, x: Tensor) -> Tensor:
        """Return the expected variance of one sample, by coordinates, over seeds."""
        assert self.oracle is not None
        return self.oracle.variance(self.problem, x).double().mean(_SEED, keepdim=True)


class VectorRecord(Record):
    """R1, R2 and R5: sums of ``‖∇f‖_{1,Γ}``, L_Γ and ``Σ γ_i |ĝ_i - ∂_i f|``."""

    def __init__(self, problem: Problem, rule: UpdateRule, oracle: Oracle | None, shape: tuple[int, ...]) -> None:
        super().__init__(problem, rule, oracle, shape)
        self.unit = unit_factors(rule)
        self.weighted = weighted_smoothness(problem)
        self.exact = problem.constants.box_exact if self.unit else self.weighted.exact

    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step; see `deva_theory.rates.loop.Recorder`."""
        k = len(x)
        gamma, size, event = details.variance_adaptation, gradient.abs(), self.event
        weighted, plain = (gamma * size).sum(event), size.sum(event)
        box = self.problem.constants.box
        smooth = box.expand(weighted.shape) if self.unit else self.weighted.value(gamma)
        self.left[:k] += weighted
        self.plain[:k] += plain
        self.smoothness[:k] += smooth
        self.gamma_max[:k] = torch.maximum(self.gamma_max[:k], gamma.amax(event))
        # At a minimum κ and ρ have no value, and bound nothing; elsewhere a Γ that holds every moving coordinate has κ = 0 and ρ = ∞.
        moving = (plain > 0) & (weighted > 0)
        kappa = torch.where(moving, weighted / torch.where(plain > 0, plain, 1.0), torch.where(plain > 0, 0.0, torch.inf))
        self.alignment[:k] = torch.minimum(self.alignment[:k], kappa)
        # Twice over κ: its square may leave the range of float64 where ρ does not.
        divisor = torch.where(moving, kappa, 1.0)
        self.ratio[:k] += torch.where(moving, smooth / box / divisor / divisor, torch.where(plain > 0, torch.inf, 1.0))
        if self.oracle is not None:
            self.noise[:k] += (gamma * (seen - gradient).abs()).sum(event)
            rms = gamma.double().square().mean(_SEED, keepdim=True).sqrt()
            self.moment[:k] += (rms * self._variance(x).sqrt()).sum(event)


class MatrixRecord(Record):
    """R3: sums of ``‖∇f‖_*`` or ``<Ĝ, D>``, of the curvature along D, and of ``‖D‖ ‖Ĝ - ∇f‖_*``."""

    def __init__(self, problem: Problem, rule: UpdateRule, oracle: Oracle | None, shape: tuple[int, ...]) -> None:
        super().__init__(problem, rule, oracle, shape)
        self.polar = polar_exact(rule)
        self.exact = isinstance(problem, TraceProblem)

    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step; see `deva_theory.rates.loop.Recorder`."""
        k = len(x)
        nuclear = torch.linalg.svdvals(gradient).sum(-1)
        spectral = self.problem.constants.spectral
        assert spectral is not None
        size = torch.ones_like(nuclear) if self.polar else torch.linalg.svdvals(direction)[..., 0]
        if self.polar:
            curvature = spectral.expand(nuclear.shape)
        elif isinstance(self.problem, TraceProblem):
            # The Hessian is constant: the curvature along the step itself.
            curvature = (direction * (self.problem.quadratic.H @ direction)).sum(self.event).clamp_min(0)
        else:
            curvature = size**2 * spectral
        self.plain[:k] += nuclear
        self.left[:k] += nuclear if self.polar else (seen * direction).sum(self.event)
        self.smoothness[:k] += curvature
        self.gamma_max[:k] = torch.maximum(self.gamma_max[:k], size)
        self.alignment[:k] = 1.0
        self.ratio[:k] += 1.0
        if self.oracle is not None:
            self.noise[:k] += size * torch.linalg.svdvals(seen - gradient).sum(-1)
            rank = min(self.problem.event_shape)
            rms = size.double().square().mean(_SEED, keepdim=True).sqrt()
            self.moment[:k] += rms * (rank * self._variance(x).sum(self.event)).sqrt()
