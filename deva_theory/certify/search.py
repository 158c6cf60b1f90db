"""Search for inputs that violate a statement, and shrink what was found until a reader can check it by hand.

A statement is a function ``violation`` of a batch of tensors, positive where the statement fails. The search is
a multistart one: every start is one batch entry, so a hundred starts are one tensor program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify.missing import optional
from deva_theory.certify.multistart import FARTHEST, Ledger, adaptive_ascent, evolution, finite, pattern_search, quasi_newton, size_of
from deva_theory.certify.simplify import simplify

__all__ = ["SearchProblem", "SearchResult", "as_data", "falsify_for", "search", "shrink", "target_violation"]


@dataclass(frozen=True)
class SearchProblem:
    """A statement about a tensor, as something that can be searched for a counter-example.

    Attributes
    ----------
    shape : tuple of int
        Shape of one point.
    violation : callable
        ``violation(x)``, ``(B, *shape) -> (B,)`` in float64: positive where the statement fails. NaN and infinite
        values count as "no violation".
    start : callable, optional
        ``start(generator, count) -> (count, *shape)``; default: normal entries of mixed magnitudes, some of them 0.
    project : callable, optional
        ``(B, *shape) -> (B, *shape)``: the nearest admissible point, a no-op on admissible points. Differentiable where
        ``differentiable`` is set.
    differentiable : bool
        Whether torch may differentiate ``violation``; otherwise an evolution and pattern search runs.
    replay : str, optional
        ``paper_checks.module:function`` that recomputes the violation from `as_data`.
    name, statement : str
        As a `Counterexample` has them.
    margin : float
        What a violation must exceed to count, far above rounding.
    variable_length : bool
        The first axis is a history: ``violation`` and ``project`` take any length ≥ 1, and shrinking may drop steps.
    data : callable, optional
        ``data(x) -> dict`` of JSON values, the keyword arguments of ``replay``; default ``{"x": nested list}``.
    """

    shape: tuple[int, ...]
    violation: Callable[[Tensor], Tensor]
    start: Callable[[torch.Generator, int], Tensor] | None = None
    project: Callable[[Tensor], Tensor] | None = None
    differentiable: bool = True
    replay: str | None = None
    name: str = ""
    statement: str = ""
    margin: float = 1e-6
    variable_length: bool = False
    data: Callable[[Tensor], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.shape):
            raise ValueError(f"SearchProblem: shape {self.shape} has an empty axis")
        if self.variable_length and not self.shape:
            raise ValueError("SearchProblem: variable_length needs a leading axis; give a shape")

    def starts(self, generator: torch.Generator, count: int) -> Tensor:
        """Return admissible starting points, ``(count, *shape)``."""
        start = self.start or (lambda g, n: mixed_magnitudes(g, n, self.shape))
        x = start(generator, count).detach().to(torch.float64)
        if x.shape != (count, *self.shape):
            raise ValueError(f"SearchProblem: start returned shape {tuple(x.shape)}, expected {(count, *self.shape)}")
        return self.admissible(x)

    def admissible(self, x: Tensor) -> Tensor:
        """Return the projected points."""
        return x if self.project is None else self.project(x)

    def value(self, x: Tensor) -> float:
        """Return the violation at one point (any length if ``variable_length``); NaN and ±inf become -inf."""
        with torch.no_grad():
            return float(finite(self.violation(x.detach().to(torch.float64).unsqueeze(0)))[0][0])


@dataclass(frozen=True)
class SearchResult:
    """The worst point of a search.

    Attributes
    ----------
    x : Tensor, shape ``shape``
    violation : float
        -inf if every evaluation was NaN or infinite.
    evaluations : int
        Points at which ``violation`` was computed.
    invalid : int
        How many of them were NaN or infinite.
    seed : int
        Of the round that found ``x``.
    """

    x: Tensor
    violation: float
    evaluations: int
    invalid: int = 0
    seed: int = 0


def mixed_magnitudes(generator: torch.Generator, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return normal points; a third of them with magnitudes spread over decades, a third with about half their entries 0."""
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    spread = torch.exp(2.0 * torch.randn(count, *shape, generator=generator, dtype=torch.float64))
    kept = torch.rand(count, *shape, generator=generator, dtype=torch.float64) < 0.5
    kind = (torch.arange(count) % 3).view(-1, *[1] * len(shape))
    return torch.where(kind == 1, x * spread, torch.where((kind == 2) & ~kept, 0.0, x))


def search(
    problem: SearchProblem, *, starts: int = 64, steps: int = 200, seed: int = 0, stop: Callable[[float], bool] | None = None
) -> SearchResult:
    """Look for the largest violation from many random starts at once.

    Parameters
    ----------
    problem : SearchProblem
    starts, steps : int
        Size of the batch and number of steps: about ``starts · steps`` evaluations.
    seed : int
        The result depends on it and on nothing else.
    stop : callable, optional
        ``stop(best violation)``, asked between steps; ends the search early.

    Notes
    -----
    Differentiable problems: Adam on the batch with steps relative to the start's size, shrinking geometrically, for half of
    the steps, then monotone L-BFGS from every start. Otherwise: an evolution strategy whose step sizes adapt for each start
    (with differences of other members as directions), then a coordinate pattern search around the best point.
    """
    if starts < 1 or steps < 1:
        raise ValueError(f"search: starts is {starts} and steps is {steps}; both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    ledger = Ledger(problem, stop)
    x = problem.starts(generator, starts)
    ledger.limit = FARTHEST * float(size_of(x).max())
    if problem.differentiable:
        x = adaptive_ascent(ledger, x, (steps + 1) // 2)
        quasi_newton(ledger, x, steps // 2)
    else:
        evolution(ledger, x, max(1, (3 * steps) // 4), generator)
        pattern_search(ledger, (steps // 4) * starts)
    assert ledger.x is not None
    return SearchResult(ledger.x, ledger.best, ledger.evaluations, ledger.invalid, seed)


def falsify_for(
    problem: SearchProblem,
    seconds: float,
    on_progress: Callable[[SearchResult], None] | None = None,
    *,
    starts: int = 64,
    steps: int = 200,
    first_seed: int = 0,
) -> SearchResult:
    """Search with one seed after the other until a violation exceeds the margin or the time is over.

    Parameters
    ----------
    problem : SearchProblem
    seconds : float
    on_progress : callable, optional
        Called after every seed with the best result so far; its ``evaluations`` and ``invalid`` are totals.
    starts, steps : int
        Of each round.
    first_seed : int
        Seeds count up from here.
    """
    deadline = time.monotonic() + seconds
    best: SearchResult | None = None
    seed = first_seed
    while True:
        found = search(
            problem, starts=starts, steps=steps, seed=seed, stop=lambda worst: worst > problem.margin or time.monotonic() >= deadline
        )
        if best is not None:
            worse = best if found.violation <= best.violation else found
            found = replace(worse, evaluations=best.evaluations + found.evaluations, invalid=best.invalid + found.invalid)
        best = found
        if on_progress is not None:
            on_progress(best)
        if best.violation > problem.margin or time.monotonic() >= deadline:
            return best
        seed += 1


def shrink(problem: SearchProblem, x: Tensor, margin: float | None = None) -> Tensor:
    """Return a readable point whose violation still exceeds the margin.

    Greedy: drop steps (``variable_length``), set entries to 0, ±1, small integers, simple fractions, few digits, as long as the
    point stays admissible. Every accepted change lowers a complexity that cannot fall for ever, and shrinking the result
    again returns it unchanged.

    Raises
    ------
    ValueError
        If ``x`` is not admissible or the violation there does not exceed the margin.
    """
    margin = problem.margin if margin is None else margin
    x = x.detach().to(torch.float64)
    if not problem.value(x) > margin:
        raise ValueError(f"shrink: the violation at x is {problem.value(x):.6g}, not above the margin {margin:g}")

    def accepts(batch: Tensor) -> Tensor:
        with torch.no_grad():
            values, _ = finite(problem.violation(batch))
            size = largest(batch)
            good = (values > margin) & size.isfinite()
            if problem.project is not None:
                good &= largest(problem.project(batch) - batch) <= 1e-12 * size.clamp_min(1.0)
        return good

    if problem.project is not None and not accepts(x.unsqueeze(0)).item():
        raise ValueError("shrink: x is not admissible; project it first")
    return simplify(x, accepts, variable_length=problem.variable_length)


def largest(batch: Tensor) -> Tensor:
    """Return each point's largest absolute entry."""
    return batch.abs().reshape(len(batch), -1).amax(1)


def as_data(problem: SearchProblem, x: Tensor) -> dict[str, Any]:
    """Return the JSON values of a point, the keyword arguments of ``problem.replay``."""
    return dict(problem.data(x)) if problem.data is not None else {"x": x.tolist()}


def target_violation(problem: SearchProblem, *, max_examples: int = 200, seed: int = 0) -> SearchResult:
    """Let hypothesis look for the largest violation, steered by ``target``: a second, unrelated search.

    Raises
    ------
    MissingExtra
        When hypothesis, a test dependency, is not installed.
    """
    hypothesis = optional("hypothesis", "test", "target_violation")
    from hypothesis import strategies

    size = math.prod(problem.shape)
    entry = strategies.one_of(strategies.integers(-4, 4).map(float), strategies.floats(-10.0, 10.0), strategies.floats(-1e4, 1e4))
    ledger = Ledger(problem, None)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max_examples, deadline=None, database=None, derandomize=False, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(strategies.lists(entry, min_size=size, max_size=size))
    def attack(entries: list[float]) -> None:
        x = torch.tensor(entries, dtype=torch.float64).reshape(1, *problem.shape)
        value = float(ledger.values(problem.admissible(x))[0])
        if math.isfinite(value):
            hypothesis.target(value)

    attack()
    assert ledger.x is not None
    return SearchResult(ledger.x, ledger.best, ledger.evaluations, ledger.invalid, seed)
