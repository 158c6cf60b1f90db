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
from deva_theory.certify.simplify import simplify

__all__ = ["SearchProblem", "SearchResult", "as_data", "falsify_for", "search", "shrink", "target_violation"]

NOTHING = -math.inf
"""The violation of a point at which the statement says nothing: NaN or infinite."""


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
        The first axis is a history: ``violation`` takes any length ≥ 1, and shrinking may drop steps.
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
        x = mixed_magnitudes(generator, count, self.shape) if self.start is None else self.start(generator, count).detach().to(torch.float64)
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


def finite(values: Tensor) -> tuple[Tensor, int]:
    """Return the violations with NaN and ±inf replaced by -inf, and how many those were."""
    values = values.detach().to(torch.float64)
    bad = ~values.isfinite()
    return values.masked_fill(bad, NOTHING), int(bad.sum())


class Ledger:
    """Evaluates a problem, counting, and keeps the best point seen."""

    def __init__(self, problem: SearchProblem, stop: Callable[[float], bool] | None) -> None:
        self.problem = problem
        self.stop = stop
        self.evaluations = 0
        self.invalid = 0
        self.best = NOTHING
        self.x: Tensor | None = None

    def done(self) -> bool:
        """Whether the caller wants no more."""
        return self.stop is not None and self.stop(self.best)

    def record(self, x: Tensor, raw: Tensor) -> Tensor:
        """Count the evaluations, remember the best point and return clean values."""
        if raw.shape != x.shape[:1]:
            raise ValueError(f"SearchProblem: violation returned shape {tuple(raw.shape)} for {x.shape[0]} points; expected ({x.shape[0]},)")
        values, bad = finite(raw)
        self.evaluations += len(values)
        self.invalid += bad
        index = int(values.argmax())
        if self.x is None or float(values[index]) > self.best:
            self.best, self.x = float(values[index]), x[index].detach().clone()
        return values

    def values(self, x: Tensor) -> Tensor:
        """Return the violations of admissible points."""
        with torch.no_grad():
            return self.record(x, self.problem.violation(x))

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the projected points, their violations and the gradient of their sum, non-finite entries set to 0."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            point = self.problem.admissible(leaf)
            raw = self.problem.violation(point)
            if not raw.requires_grad:
                raise ValueError("SearchProblem: violation has no gradient; pass differentiable=False")
            # A NaN of one point must not reach the others, whatever the sum does with it.
            (slope,) = torch.autograd.grad(torch.where(raw.isfinite(), raw, 0.0).sum(), leaf)
        point = point.detach()
        return point, self.record(point, raw), torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)


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
    the steps, then monotone L-BFGS from every start. Otherwise: an evolution strategy whose step sizes adapt for each start (with differences
    of other members as directions), then a coordinate pattern search around the best point.
    """
    if starts < 1 or steps < 1:
        raise ValueError(f"search: starts is {starts} and steps is {steps}; both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    ledger = Ledger(problem, stop)
    x = problem.starts(generator, starts)
    if problem.differentiable:
        x = adaptive_ascent(ledger, x, (steps + 1) // 2)
        quasi_newton(ledger, x, steps // 2)
    else:
        evolution(ledger, x, max(1, (3 * steps) // 4), generator)
        pattern_search(ledger, (steps // 4) * starts)
    assert ledger.x is not None
    return SearchResult(ledger.x, ledger.best, ledger.evaluations, ledger.invalid, seed)


def size_of(x: Tensor) -> Tensor:
    """Return each point's root mean square, shaped to broadcast against it; 1 where it is 0."""
    flat = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    rms = flat.square().mean(1).sqrt()
    return torch.where(rms > 0, rms, 1.0).view(-1, *[1] * (x.ndim - 1))


def adaptive_ascent(ledger: Ledger, x: Tensor, steps: int) -> Tensor:
    """Run Adam with a geometrically shrinking step and return each start's best point."""
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    best_x, best = x.clone(), torch.full((len(x),), NOTHING, dtype=torch.float64)
    scale = size_of(x)
    for k in range(steps):
        x, values, slope = ledger.gradient(x)
        better = values > best
        best = torch.where(better, values, best)
        best_x[better] = x[better]
        if ledger.done():
            break
        # Adam does not see the gradient's scale, but its squares must not underflow.
        slope = slope / size_of(slope)
        mean = 0.8 * mean + 0.2 * slope
        square = 0.95 * square + 0.05 * slope.square()
        direction = (mean / (1 - 0.8 ** (k + 1))) / ((square / (1 - 0.95 ** (k + 1))).sqrt() + 1e-12)
        x = ledger.problem.admissible(x + 0.3 * scale * 0.01 ** (k / steps) * direction).detach()
    return best_x


def quasi_newton(ledger: Ledger, x: Tensor, steps: int, memory: int = 8) -> None:
    """Climb from every point by L-BFGS; one evaluation per step, halving a start's step length when it does not improve."""
    if steps < 1 or ledger.done():
        return
    shape, count = x.shape, len(x)
    x, value, slope = ledger.gradient(x)
    x, slope = x.reshape(count, -1), slope.reshape(count, -1)
    moves: list[Tensor] = []
    turns: list[Tensor] = []
    length = torch.ones(count, 1, dtype=torch.float64)
    plain = torch.zeros(count, 1, dtype=torch.bool)  # start over along the gradient
    for _ in range(steps - 1):
        if ledger.done():
            return
        direction = two_loop(slope, moves, turns)
        gradient_step = slope * (0.1 * size_of(x) / size_of(slope))
        uphill = (direction * slope).sum(1, keepdim=True) > 0
        direction = torch.where(uphill & direction.isfinite().all(1, keepdim=True) & ~plain & bool(moves), direction, gradient_step)
        trial, trial_value, trial_slope = ledger.gradient((x + length * direction).reshape(shape))
        trial, trial_slope = trial.reshape(count, -1), trial_slope.reshape(count, -1)
        better = (trial_value > value).unsqueeze(1)
        move = torch.where(better, trial - x, 0.0)
        turn = torch.where(better, slope - trial_slope, 0.0)  # of the negated function: positive curvature at a maximum
        keep = (move * turn).sum(1, keepdim=True) > 1e-12 * move.norm(dim=1, keepdim=True) * turn.norm(dim=1, keepdim=True)
        moves, turns = [*moves[1 - memory :], torch.where(keep, move, 0.0)], [*turns[1 - memory :], torch.where(keep, turn, 0.0)]
        x, slope = torch.where(better, trial, x), torch.where(better, trial_slope, slope)
        value = torch.maximum(value, trial_value)
        plain = torch.where(better, False, plain | (length < 1e-3))
        length = torch.where(better, (2.0 * length).clamp(max=1.0), 0.4 * length)
        length = torch.where(length < 1e-12, 1.0, length)


def two_loop(slope: Tensor, moves: list[Tensor], turns: list[Tensor]) -> Tensor:
    """Return the L-BFGS direction of each point; pairs that are 0 for a point do nothing to it."""
    q = slope.clone()
    weights = []
    scale = torch.ones(len(slope), 1, dtype=torch.float64)
    for s, y in zip(moves, turns, strict=True):
        curvature = (s * y).sum(1, keepdim=True)
        inner = torch.where(curvature > 0, curvature, 1.0)
        scale = torch.where(curvature > 0, curvature / y.square().sum(1, keepdim=True).clamp_min(1e-300), scale)
        weights.append(torch.where(curvature > 0, 1.0 / inner, 0.0))
    alphas = []
    for s, y, rho in zip(reversed(moves), reversed(turns), reversed(weights), strict=True):
        alpha = rho * (s * q).sum(1, keepdim=True)
        q = q - alpha * y
        alphas.append(alpha)
    q = scale * q
    for s, y, rho, alpha in zip(moves, turns, weights, reversed(alphas), strict=True):
        q = q + s * (alpha - rho * (y * q).sum(1, keepdim=True))
    return q


def evolution(ledger: Ledger, x: Tensor, steps: int, generator: torch.Generator) -> None:
    """Mutate every member of the population and keep what is not worse; step sizes follow the successes."""
    shape, count = x.shape, len(x)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    def members() -> Tensor:
        return torch.randint(count, (count,), generator=generator)

    value = ledger.values(x)
    x = x.reshape(count, -1)
    length = torch.full((count, 1), 0.5, dtype=torch.float64)
    for k in range(steps - 1):
        if ledger.done():
            return
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        kind = uniform(count, 1)
        few = uniform(*x.shape) < 1.5 / x.shape[1]
        several = uniform(*x.shape) < 0.3 + 0.7 * uniform(count, 1)
        step = length * size_of(x) * noise
        everywhere = x + step
        somewhere = torch.where(few, x + step, x)
        relative = torch.where(several, x * torch.exp(length * noise), x)
        difference = torch.where(several, x + (0.4 + 0.6 * uniform(count, 1)) * (x[members()] - x[members()]), x)
        toward = torch.where(several, x + 0.5 * (x[int(value.argmax())] - x) + 0.7 * (x[members()] - x[members()]), x)
        edge = torch.where(few, torch.where(noise > 0, -x, 0.0), x)
        trial = edge
        for share, option in ((0.95, toward), (0.75, difference), (0.55, relative), (0.4, somewhere), (0.2, everywhere)):
            trial = torch.where(kind < share, option, trial)
        points = ledger.problem.admissible(trial.reshape(shape)).detach()
        trial_value = ledger.values(points)
        trial = points.reshape(count, -1)
        better = (trial_value >= value).unsqueeze(1)
        strictly = (trial_value > value).unsqueeze(1)
        sized = kind < 0.55  # the other moves do not use the step size
        length = torch.where(sized, torch.where(strictly, 1.6 * length, 0.88 * length), length).clamp(1e-9, 4.0)
        x, value = torch.where(better, trial, x), torch.maximum(value, trial_value)
        if k % 20 == 19:  # the worst quarter restarts near the better ones
            order = value.argsort()
            poor, good = order[: count // 4], order[count - count // 4 :]
            x[poor], value[poor], length[poor] = x[good].clone(), value[good], 2.0 * length[good]


def pattern_search(ledger: Ledger, budget: int) -> None:
    """Try ± a step in every coordinate of the best point at once; halve the step when nothing improves."""
    assert ledger.x is not None
    size = ledger.x.numel()
    step = 0.1
    limit = ledger.evaluations + budget
    while ledger.evaluations < limit and step > 1e-13 and not ledger.done():
        x, before = ledger.x, ledger.best
        scale = torch.maximum(x.abs(), size_of(x.unsqueeze(0)).reshape(())).reshape(-1)
        moves = torch.diag(step * scale).reshape(size, *x.shape)
        candidates = torch.cat([x + moves, x - moves])[: max(1, limit - ledger.evaluations)]
        candidates = ledger.problem.admissible(candidates).detach()
        values = ledger.values(candidates)
        gain = (values - before).clamp_min(0.0)
        if ledger.best > before and ledger.evaluations < limit:
            # All improving moves together often do better than the best one.
            total = ((candidates - x) * (gain > 0).reshape(-1, *[1] * x.ndim)).sum(0)
            ledger.values(ledger.problem.admissible((x + total).unsqueeze(0)).detach())
            continue
        step *= 0.5


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
        If the violation at ``x`` does not exceed the margin.
    """
    margin = problem.margin if margin is None else margin
    x = x.detach().to(torch.float64)
    if not problem.value(x) > margin:
        raise ValueError(f"shrink: the violation at x is {problem.value(x):.6g}, not above the margin {margin:g}")

    def accepts(batch: Tensor) -> Tensor:
        with torch.no_grad():
            values, _ = finite(problem.violation(batch))
            good = values > margin
            if problem.project is not None:
                moved = (problem.project(batch) - batch).abs().flatten(1).amax(1)
                good &= moved <= 1e-12 * batch.abs().flatten(1).amax(1).clamp_min(1.0)
        return good

    return simplify(x, accepts, variable_length=problem.variable_length)


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
    entry = strategies.one_of(
        strategies.integers(-4, 4).map(float), strategies.floats(-10.0, 10.0, allow_nan=False), strategies.floats(-1e4, 1e4, allow_nan=False)
    )
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
