r"""Runs that a statement of SPEC §5 is about, with both of its sides: one tensor program over T, step sizes, seeds and instances.

A statement for horizon T sets η (and β) from T, so every T is a run of its own.  Runs stand in one batch of shape
``(T, scale, seed, *batch)``, the longest first; those whose T is over leave the batch.  The mini-batch of R2 and R3 has T samples: the
oracle draws their mean, directly where its law is known.

Three right sides, from the same functions of `deva_theory.rates`:

* *pathwise*, for every single run: the measured average of L_Γ and, in place of the noise term, ``2 avg Σ γ_i|ĝ_i - ∂_i f|``
  (R5: m̃ in place of ĝ; R3: nuclear norms), which the proofs bound in their last step.  No run may exceed it.
* *measured*, for expectations over seeds: avg E L_Γ, and the noise term from the measured ``√(E γ²)`` and the exact variances along
  the run.
* *a_priori*: from constants known before the run alone.

R5 has only constants in its statement; its *sharp* and *corrected* forms stand in for *measured*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates import momentum_bounds, vector_bounds
from deva_theory.rates.coverage import UpdateRule, check_covered
from deva_theory.rates.loop import beyond, by_horizon, check_arguments, falling, rounding, run_grid, starting_gap
from deva_theory.rates.records import MatrixRecord, Record, VectorRecord
from deva_theory.rates.sides import Finished, right_sides
from deva_theory.rates.statement import AssumptionError, Bound


@dataclass(frozen=True, eq=False)
class Measurement:
    """Both sides of a statement on a grid of runs.

    Attributes
    ----------
    statement, rule, problem : str
        R1, R2, R3 or R5; the names of rule and family.
    T : Tensor of int64, shape ``(n,)``
        Increasing.
    scales : tuple of float
        Multiples of the statement's own η.
    eta : Tensor, shape ``(n, scales, seeds or 1, *batch or 1)``
        η.
    left : Tensor, shape ``(n, scales, seeds, *batch)``
        The average over the run of the statement's left side, before the expectation.
    plain : Tensor, of the shape of `left`
        The average of ‖∇f‖_1 (R3: ‖∇f‖_*).
    smoothness : Tensor, of the shape of `left`
        The average of L_Γ, or of a certified bound on it.
    smoothness_exact : bool
        Which of the two.
    alignment : Tensor, of the shape of `left`
        The least ‖∇f‖_{1,Γ}/‖∇f‖_1 along the run, R4's κ; 1 for R3.
    ratio : Tensor, of the shape of `left`
        The average over the run of S7's ρ, by L_Γ and L_∞; 1 for R3.
    gamma_max : Tensor, of the shape of `left`
        The largest factor along the run; for R3 the largest ‖D‖_{2→2}.
    bounds : dict of str to Bound
        Right sides: see the head of the module.  Shapes broadcast to that of `left`.
    dtype : torch.dtype
        Of the iterates.
    resolution : Tensor, of the shape of `left`
        What rounding of values and gradients may do to either side.
    """

    statement: str
    rule: str
    problem: str
    T: Tensor
    scales: tuple[float, ...]
    eta: Tensor
    left: Tensor
    plain: Tensor
    smoothness: Tensor
    smoothness_exact: bool
    alignment: Tensor
    ratio: Tensor
    gamma_max: Tensor
    bounds: dict[str, Bound]
    dtype: torch.dtype
    resolution: Tensor

    @property
    def expected(self) -> str:
        """The name of the sharpest bound on the expectation: ``measured``, for R5 ``sharp``."""
        return "measured" if "measured" in self.bounds else "sharp"

    def right(self, name: str, weights: Mapping[str, float] | None = None) -> Tensor:
        """Return a right side in the shape of `left`; `weights` multiply its terms, 1 by default."""
        bound = self.bounds[name]
        unknown = set(weights or ()) - set(bound.terms)
        if unknown:
            raise ValueError(f"{name} of {self.statement} has no term {', '.join(sorted(unknown))}: its terms are {', '.join(bound.terms)}")
        value = sum(((weights or {}).get(key, 1.0) * term for key, term in bound.terms.items()), torch.zeros((), dtype=torch.float64))
        return (bound.value if weights is None else value).expand(self.left.shape)

    def curve(self, x: Tensor, scale: int = 0) -> NDArray[np.float64]:
        """Return the rows that `deva_theory.rates.fits` takes, shape ``(seeds, n)``: means over instances of a field or of a right side.

        Parameters
        ----------
        x : Tensor, of a shape that broadcasts to that of `left`
        scale : int
            Index of the step size.
        """
        chosen = x.expand(self.left.shape)[:, scale]
        return chosen.reshape(*chosen.shape[:2], -1).mean(-1).mT.cpu().numpy()

    def closest(self, name: str = "pathwise", weights: Mapping[str, float] | None = None) -> tuple[int, int, float]:
        """Compare the sides.

        Parameters
        ----------
        name : str
            "pathwise": every run is a pair; the others: averages over seeds are.  They are compared as they are, so that with noise
            and few seeds a true bound may be exceeded: `exceeded` allows for that.
        weights : mapping, optional
            Multiplies terms of the bound: a negative control, for instance with half the smoothness or no noise.

        Returns
        -------
        (int, int, float)
            The number of (instance, T) pairs, how many of them exceed the bound, and the least bound/observed.
        """
        left, right, resolution = self.left, self.right(name, weights), self.resolution
        if name != "pathwise":
            left, right, resolution = left.mean(2), right.mean(2), resolution.mean(2)
        positive = left > 0
        least = float((right[positive] / left[positive]).min()) if bool(positive.any()) else math.inf
        # Written so that a NaN on either side is a violation.
        slack = rounding(self.T, self.dtype).reshape(-1, *(1,) * (left.ndim - 1)).to(left.device)
        return left.numel(), int((~(left <= right * (1 + slack) + resolution)).sum()), least

    def exceeded(self) -> int:
        """Return how many bounds are exceeded beyond doubt: "pathwise" by runs, the others by averages over seeds.

        See `deva_theory.rates.loop.beyond`; without noise "pathwise" says all.
        """
        share = rounding(self.T, self.dtype).reshape(-1, *(1,) * (self.left.ndim - 1)).to(self.left.device)
        count = self.closest()[1]
        for name in self.bounds:
            if name != "pathwise" and self.statement != "R1":
                count += int(beyond(self.left, self.right(name) + self.resolution, share, 2).sum())
        return count

    def summary(self) -> str:
        """Return one line for each bound."""
        lines = [f"{self.statement}, {self.rule} on {self.problem}, T = {', '.join(map(str, self.T.tolist()))}"]
        for name in self.bounds:
            pairs, violated, least = self.closest(name)
            lines.append(f"  {name}: {violated} of {pairs} violated, bound/observed at least {least:.4g}")
        return "\n".join(lines)


def measure(
    problem: Problem, rule: UpdateRule, *, statement: str, steps: Sequence[int], seeds: int = 1, oracle: Oracle | None = None,
    scales: Sequence[float] = (1.0,), seed: int = 0, start: Tensor | None = None,
) -> Measurement:
    r"""Run a rule as a statement prescribes, for every T, and return both sides.

    Parameters
    ----------
    problem : Problem
        A batch of instances.
    rule : Rule or FixedFactors
        Without momentum: R5's, with its own β for each T, is added here.
    statement : {"R1", "R2", "R3", "R5"}
        R1: exact gradients, ``η = √(2Δ/(L_∞T))``.  R2: batch T, ``η = 1/√T``.  R3: exact or batch T, ``η = √(2Δ/(L_S T))``.  R5: batch 1,
        ``β = 1-T^{-1/2}``, ``η = T^{-3/4}``.
    steps : sequence of int
        Horizons T ≥ 1, all different.
    seeds : int
        Independent starting points and noises.
    oracle : Oracle, optional
        The stochastic gradient: needed for R2 and R5, refused by R1.
    scales : sequence of float
        Multiples of η, each a run of its own; R1, R2, R3 and R5 hold for every η > 0.
    seed : int
        Of starting points and noise.
    start : Tensor, shape ``(seeds, *batch, *event)``, optional
        Starting points instead of the family's.

    Returns
    -------
    Measurement

    Raises
    ------
    AssumptionError
        The statement does not cover the rule, η is not positive and finite, a run left the range of float64, an iterate
        left the domain, a variance is infinite, f falls below f* or is not as smooth as its constants say.
    ValueError
        Unusable `steps` or `seeds`; shapes that do not fit.
    """
    check_arguments(problem, rule, oracle, seeds, seed)
    check_covered(statement, rule)
    _check_oracle(statement, oracle)
    horizons = _horizons(steps)
    generator = torch.Generator().manual_seed(seed)
    x0 = problem.start(generator, (seeds,)) if start is None else start.detach()
    if x0.shape != (seeds, *problem.batch_shape, *problem.event_shape):
        raise ValueError(f"start has shape {tuple(x0.shape)}; use (seeds, *batch, *event)")
    gap = starting_gap(problem, x0, statement)
    eta = _step_sizes(statement, problem, gap, horizons, scales)
    record = _run(problem, rule, statement, horizons, eta, x0, oracle, generator)
    return _measurement(problem, rule, statement, horizons, scales, eta, gap, x0, oracle, record)


def _check_oracle(statement: str, oracle: Oracle | None) -> None:
    if statement == "R1" and oracle is not None:
        raise AssumptionError("R1 assumes exact gradients; leave out the oracle, or use R2")
    if statement in ("R2", "R5") and oracle is None:
        raise AssumptionError(f"{statement} assumes a stochastic gradient of known variance; give an oracle, or use R1")


def _horizons(steps: Sequence[int]) -> list[int]:
    horizons = falling(steps, "steps")
    if horizons[-1] < 1:
        raise AssumptionError(f"every statement assumes a whole number of steps T ≥ 1; T is {horizons[-1]}")
    return horizons


def _step_sizes(statement: str, problem: Problem, gap: Tensor, horizons: list[int], scales: Sequence[float]) -> Tensor:
    """Return η, shape ``(T, scale, seed or 1, *batch or 1)``."""
    T = by_horizon(horizons, gap)
    if statement == "R2":
        eta = T.rsqrt()
    elif statement == "R5":
        eta = momentum_bounds.schedule(T)[1]
    elif statement == "R3":
        if problem.constants.spectral is None:
            raise AssumptionError(f"R3 assumes matrix parameters with a known L_S; {problem.name} has vectors")
        eta = vector_bounds.best_step(gap, T, problem.constants.spectral)
    else:
        eta = vector_bounds.best_step(gap, T, problem.constants.box)
    if isinstance(scales, int | float):
        raise ValueError(f"scales is {scales}; use a sequence of multiples such as ({scales},)")
    factors = torch.as_tensor(list(scales), dtype=torch.float64, device=gap.device)
    if not factors.numel() or not bool((factors.isfinite() & (factors > 0)).all()):
        raise AssumptionError(f"{statement} assumes a finite step size η > 0; the scales are {list(scales)}")
    return eta * factors.reshape(-1, *(1,) * gap.ndim)


def _run(
    problem: Problem, rule: UpdateRule, statement: str, horizons: list[int], eta: Tensor, x0: Tensor, oracle: Oracle | None,
    generator: torch.Generator,
) -> Record:
    shape = (*eta.shape[:2], *x0.shape[: x0.ndim - problem.event_ndim])
    record: Record = (MatrixRecord if statement == "R3" else VectorRecord)(problem, rule, oracle, shape)
    batches = [1] * len(horizons) if statement == "R5" else horizons
    beta = momentum_bounds.schedule(torch.tensor(horizons))[0] if statement == "R5" else None
    watch = run_grid(
        problem, rule, x0, record, horizons=horizons, eta=eta, oracle=oracle, batches=None if oracle is None else batches, beta=beta,
        generator=generator,
    )
    record.finish(torch.tensor(horizons))
    in_value, in_gradient = watch.resolution()
    record.resolution = in_value / (eta * by_horizon(horizons, in_value[0, 0])) + in_gradient * record.gamma_max.clamp_min(1.0)
    if not all(bool(total.isfinite().all()) for total in (record.left, record.plain, record.smoothness, record.noise)):
        raise AssumptionError(f"{statement}: a run left the range of float64 on {problem.name}; take a smaller scale or rescale f")
    if not bool(record.moment.isfinite().all()):
        raise AssumptionError(f"{statement} assumes a finite variance; that of the oracle is not, along a run on {problem.name}")
    return record


def _measurement(
    problem: Problem, rule: UpdateRule, statement: str, horizons: list[int], scales: Sequence[float], eta: Tensor, gap: Tensor, x0: Tensor,
    oracle: Oracle | None, record: Record,
) -> Measurement:
    bounds = right_sides(Finished(problem, rule, statement, tuple(horizons), tuple(scales), eta, gap, x0, oracle, record))
    increasing = {
        name: replace(bound, value=bound.value.flip(0), terms={key: term.flip(0) for key, term in bound.terms.items()})
        for name, bound in bounds.items()
    }
    return Measurement(
        statement, rule.name, problem.name, torch.tensor(horizons[::-1]), tuple(scales), eta.flip(0), record.left.flip(0),
        record.plain.flip(0), record.smoothness.flip(0), record.exact, record.alignment.flip(0), record.ratio.flip(0),
        record.gamma_max.flip(0), increasing, x0.dtype, record.resolution.flip(0),
    )
