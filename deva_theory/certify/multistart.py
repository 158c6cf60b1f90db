"""The engines behind `deva_theory.certify.search`: every start is one batch entry and climbs by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from deva_theory.certify.search import SearchProblem

__all__ = ["FARTHEST", "Ledger", "adaptive_ascent", "evolution", "finite", "pattern_search", "quasi_newton", "size_of"]

NOTHING = -math.inf
"""The violation of a point at which the statement says nothing: NaN or infinite."""

FARTHEST = 1e6
"""A violation that grows without bound must not carry the points to overflow: they stay within this many times the largest start."""


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
        self.limit = math.inf

    def done(self) -> bool:
        """Whether the caller wants no more."""
        return self.stop is not None and self.stop(self.best)

    def record(self, x: Tensor, raw: Tensor) -> Tensor:
        """Count the evaluations, remember the best point and return clean values."""
        if raw.shape != x.shape[:1]:
            raise ValueError(f"SearchProblem: violation returned shape {tuple(raw.shape)} for {len(x)} points; expected ({len(x)},)")
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


def size_of(x: Tensor) -> Tensor:
    """Return each point's root mean square, shaped to broadcast against it; 1 where it is 0."""
    flat = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    largest = flat.abs().amax(1)  # squares must neither overflow nor vanish
    rms = largest * (flat / torch.where(largest > 0, largest, 1.0).unsqueeze(1)).square().mean(1).sqrt()
    return torch.where(rms > 0, rms, 1.0).view(-1, *[1] * (x.ndim - 1))


def within(trial: Tensor, x: Tensor, limit: float) -> Tensor:
    """Return the trial points, and the old ones in place of those that are not finite or too far out."""
    near = trial.isfinite() & (trial.abs() <= limit)
    return torch.where(near.reshape(len(near), -1).all(1).view(-1, *[1] * (trial.ndim - 1)), trial, x)


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
        x = ledger.problem.admissible(within(x + 0.3 * scale * 0.01 ** (k / steps) * direction, x, ledger.limit)).detach()
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
        trial, trial_value, trial_slope = ledger.gradient(within(x + length * direction, x, ledger.limit).reshape(shape))
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
        points = ledger.problem.admissible(within(trial, x, ledger.limit).reshape(shape)).detach()
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
        candidates = ledger.problem.admissible(within(candidates, x, ledger.limit)).detach()
        values = ledger.values(candidates)
        gain = (values - before).clamp_min(0.0)
        if ledger.best > before and ledger.evaluations < limit:
            # All improving moves together often do better than the best one.
            total = ((candidates - x) * (gain > 0).reshape(-1, *[1] * x.ndim)).sum(0)
            ledger.values(ledger.problem.admissible(within((x + total).unsqueeze(0), x, ledger.limit)).detach())
            continue
        step *= 0.5
