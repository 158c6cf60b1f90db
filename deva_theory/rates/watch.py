r"""What every statement assumes, looked at along a run: f ≥ f*, the gradient is that of f, and f is as smooth as its constants say.

All inequalities follow from the constants (`deva_theory.problems.families.Constants`), with d the step that was made, B the constant of
``‖∇f(x) - ∇f(y)‖_1 ≤ B‖x - y‖_∞``, and only rounding is allowed for:

* ``-½B‖d‖_∞² ≤ f(x+d) - f(x) - <∇f(x), d> ≤ ½L_∞‖d‖_∞²``, the left side 0 where f is convex;
* ``<∇f(x+d) - ∇f(x), d>`` is at most L_∞‖d‖_∞², Σ L_i d_i² and λ_max‖d‖_2²;
* ``‖∇f(x+d) - ∇f(x)‖_1 ≤ B‖d‖_∞``;
* at the start, along signs v: ``|f(x+hv) - f(x) - h<∇f(x), v>| ≤ ½Bh²``.

A run that breaks one of them shows that a constant, the gradient or f itself is not what it claims.  None broken shows no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deva_theory.problems.families import AssumptionError, Problem

_SPARE = 16.0
"""Times the rounding that was seen."""
_ULPS = 1e3
"""Times the unit roundoff: what sums and products of a few hundred terms may lose."""


def value_noise(problem: Problem, x: Tensor) -> Tensor:
    """Return how far f is off by rounding near x, float64, shape ``(*samples, *batch)``.

    Second differences of f over a step s, less the Bs² that the constants allow f itself, for s of a few units of roundoff of x up to
    their fourth root.  f may cancel inside, as ``log cosh`` near 0 or xᵀHx along a flat direction do, and its value then does not tell how
    exact it is.
    """
    event = tuple(range(-problem.event_ndim, 0))
    shape, eps = x.shape[x.ndim - problem.event_ndim :], torch.finfo(x.dtype).eps
    random = 0.5 + 0.5 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    largest = x.abs().amax(event).double()
    found = torch.zeros_like(largest)
    for pace in (4 * eps, *(eps**power for power in (0.75, 0.6, 0.5, 0.45, 0.4, 0.35, 0.25))):
        # Towards 0: a start on the edge of its ball has no room outside.
        values = torch.stack([problem.value(x * (1 - k * pace * random)).double() for k in range(5)])
        second = (values[2:] - 2 * values[1:-1] + values[:-2]).abs().amax(0)
        found = torch.maximum(found, second - problem.constants.gradient_lipschitz_linf * (pace * largest).square())
    # Beyond the range of floating point there is nothing to compare.
    return (_SPARE * found).nan_to_num(nan=0.0)


class Watch:
    """The inequalities of the module's head, added up step by step and judged after the last.

    Parameters
    ----------
    problem : Problem
    x : Tensor, shape ``(T, scale, seed, *batch, *event)``
        Where the runs start.
    horizons : sequence of int
        T, for messages.

    Raises
    ------
    AssumptionError
        "smoothness": at the start the gradient is not that of f, or f is not as smooth as its constants say.
    ValueError
        Fewer digits than single precision: then rounding would hide everything.
    """

    def __init__(self, problem: Problem, x: Tensor, horizons: Sequence[int]) -> None:
        if torch.finfo(x.dtype).eps > torch.finfo(torch.float32).eps:
            raise ValueError(f"{problem.name} has {x.dtype}: rounding would hide what bounds say; use float64, or float32")
        self.problem, self.event, self.horizons = problem, tuple(range(-problem.event_ndim, 0)), horizons
        limits = torch.finfo(x.dtype)
        self.eps, self.tiny = _ULPS * limits.eps, _ULPS * limits.tiny  # tiny: where squares underflow
        self.value = problem.value(x).double()
        # Over T and step sizes the starts repeat themselves.
        self.noise = value_noise(problem, x[0, 0])
        self._check_gradient(x[0, 0])
        self.last: tuple[Tensor, Tensor] | None = None
        # Largest excess of each inequality, in units of what rounding may do.
        self.excess = {name: torch.zeros_like(self.value) for name in ("below", "value", "curvature", "gradient")}

    def _check_gradient(self, x: Tensor) -> None:
        problem, event = self.problem, self.event
        gradient, value = problem.gradient(x).double(), problem.value(x).double()
        B = problem.constants.gradient_lipschitz_linf
        noise = self.noise + self.eps * value.abs() + self.tiny
        signs = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0).to(x)
        towards = -signs * torch.where((x * signs).sum(event, keepdim=True) < 0, -1.0, 1.0)
        # The h with the least tolerance; a linear f has none, and any will do.
        h = torch.where(B > 0, (4 * noise / torch.where(B > 0, B, 1.0)).sqrt(), 1e-3 * x.abs().amax(event).double())
        moved = x + (h[(..., *(None,) * problem.event_ndim)] * towards).to(x)
        inside = problem.inside(moved)
        moved = torch.where(inside[(..., *(None,) * problem.event_ndim)], moved, x)
        d = (moved.double() - x.double())
        error = (problem.value(moved).double() - value - (gradient * d).sum(event)).abs()
        allowed = 0.5 * B * d.abs().amax(event).square() * (1 + self.eps) + 2 * noise + self.eps * (gradient.abs() * d.abs()).sum(event)
        bad = error > 2 * allowed
        if bool(bad.any()):
            raise AssumptionError(
                "smoothness", f"f of {problem.name} is not as smooth as its constants say, or its gradient is not that of f: differences "
                f"of values disagree with it at {int(bad.sum())} of {bad.numel()} starts",
            )

    def narrow(self, active: int) -> None:
        """Keep the runs that are not over."""
        self.value = self.value[:active]
        self.last = None if self.last is None else (self.last[0][:active], self.last[1][:active])

    def add(self, x: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Look at the step x_t - x_{t+1}, which led to x, and at the gradient where it began."""
        constants, event = self.problem.constants, self.event
        after, gradient = self.problem.value(x).double(), gradient.double()
        length, B = step.abs().amax(event), constants.gradient_lipschitz_linf
        change = after - self.value + (gradient * step).sum(event)
        upper, lower = 0.5 * constants.box * length.square(), 0.0 if constants.convex else 0.5 * B * length.square()
        size = self.value.abs() + after.abs() + (gradient * step).sum(event).abs() + upper
        slack = self.eps * size + self.noise + self.tiny
        self._note("value", torch.maximum(change - upper, -change - lower) / slack)
        fall = constants.optimum - after
        if bool((fall > slack).any()):
            # The family may know the distance to f* better than the difference of two values does.
            fall = torch.fmin(fall, -self.problem.gap(x).double())
        self._note("below", fall / (self.eps * (after.abs() + constants.optimum.abs()) + self.noise + self.tiny))
        self.value = after
        size = gradient.abs().sum(event)
        if self.last is not None:
            before, moved = self.last
            difference, length = gradient - before, moved.abs().amax(event)
            rounding = self.eps * (size + before.abs().sum(event) + B * (x.double() + step).abs().amax(event)) + self.tiny
            self._note("gradient", (difference.abs().sum(event) - B * length) / rounding)
            limit = torch.minimum(constants.box * length.square(), constants.euclidean * moved.square().sum(event))
            limit = torch.minimum(limit, (constants.coordinate * moved.square()).sum(event))
            # Moved is x_{t-1} - x_t, so that <∇f(x_t) - ∇f(x_{t-1}), x_t - x_{t-1}> = -<difference, moved>.
            self._note("curvature", (-(difference * moved).sum(event) - limit) / (rounding * length + self.tiny))
        self.last = gradient, step

    def _note(self, name: str, excess: Tensor) -> None:
        kept = self.excess[name]
        kept[: len(excess)] = torch.fmax(kept[: len(excess)], excess)

    def check(self) -> None:
        """Raise if an inequality was broken by more than rounding."""
        name = self.problem.name
        texts = {
            "below": ("bounded below", f"{name} falls below its f*"),
            "value": ("smoothness", f"a step of {name} breaks -½B‖d‖² ≤ f(x+d) - f(x) - <∇f(x), d> ≤ ½L_∞‖d‖² (convex: 0 ≤)"),
            "curvature": ("smoothness", f"a step of {name} has more curvature than L_∞, L_i or λ_max allow"),
            "gradient": ("smoothness", f"a step of {name} breaks ‖∇f(x+d) - ∇f(x)‖_1 ≤ B‖d‖_∞ (gradient_lipschitz_linf)"),
        }
        for key, (assumption, text) in texts.items():
            bad = self.excess[key] > 1
            if bool(bad.any()):
                horizon, scale, seed, *instance = bad.nonzero()[0].tolist()
                where = f"T = {self.horizons[horizon]}, step size {scale}, seed {seed}, instance {tuple(instance)}"
                raise AssumptionError(
                    assumption, f"{text} along {int(bad.sum())} of {bad.numel()} runs, one at {where} (counted from 0); its constants, its "
                    "gradient or its values are wrong",
                )
