r"""What every statement assumes, looked at along a run: f ≥ f*, the gradient is that of f, and f is as smooth as its constants say.

All inequalities follow from the constants (`deva_theory.problems.families.Constants`), with d the step that was made, B the constant of
``‖∇f(x) - ∇f(y)‖_1 ≤ B‖x - y‖_∞``, and q(d) the least of L_∞‖d‖_∞², Σ L_i d_i², λ_max‖d‖_2² and, for matrices, L_S‖d‖_{2→2}²:

* ``-½B‖d‖_∞² ≤ f(x+d) - f(x) - <∇f(x), d> ≤ ½q(d)``, the left side 0 where f is convex;
* ``<∇f(x+d) - ∇f(x), d> ≤ q(d)``;
* ``‖∇f(x+d) - ∇f(x)‖_1 ≤ B‖d‖_∞``;
* at the start, along signs v: ``|f(x+hv) - f(x) - h<∇f(x), v>| ≤ ½Bh²``.

A run that breaks one of them by more than rounding shows that a constant, the gradient or f itself is not what it claims.  None broken
shows no more than that: the variance of an oracle is not looked at, nor are small errors late in a run.

*Rounding* is judged from what runs show: a thousand units of roundoff of the largest value and gradient along the run, and how far values
and gradients near the run are off, since both may cancel inside (`noise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deva_theory.problems.families import AssumptionError, Problem

_SPARE = 16.0
"""Times the rounding that was seen."""
_ULPS = 1e3
"""Times the unit roundoff: what sums and products of a few hundred terms may lose."""


def noise(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far f, and its gradient in ‖·‖_1, are off by rounding near x, float64, each of shape ``(*samples, *batch)``.

    Second differences of f over a step s, less the Bs² that the constants allow f itself, and differences of gradients, less Bs, for s
    from a few units of roundoff of x up, in factors of 2: only where f changes by about what it is rounded to do they show it.  f may
    cancel inside, as ``log cosh`` near 0 or xᵀHx along a flat direction do, and its value then does not tell how exact it is; so may a
    gradient, as ``sigmoid(x) - ½`` near 0.
    """
    event = tuple(range(-problem.event_ndim, 0))
    shape, eps = x.shape[x.ndim - problem.event_ndim :], torch.finfo(x.dtype).eps
    random = 0.5 + 0.5 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    B, count = problem.constants.gradient_lipschitz_linf, int(-0.75 * math.log2(eps))
    pace = (4 * eps * 2.0 ** torch.arange(count, dtype=x.dtype, device=x.device)).reshape(1, -1, *(1,) * x.ndim)
    # Towards 0: a start on the edge of its ball has no room outside.
    points = x * (1 - torch.arange(3, dtype=x.dtype, device=x.device).reshape(-1, 1, *(1,) * x.ndim) * pace * random)
    moved = points.double().diff(dim=0).abs().amax(event)
    second = problem.value(points).double().diff(n=2, dim=0).abs()[0] - B * moved.amax(0).square()
    change = problem.gradient(points).double().diff(dim=0).abs().sum(event) - B * moved
    # Beyond the range of floating point there is nothing to compare.
    in_value, in_gradient = second.amax(0).clamp_min(0), change.amax((0, 1)).clamp_min(0)
    return (_SPARE * in_value).nan_to_num(nan=0.0), (_SPARE * in_gradient).nan_to_num(nan=0.0)


class Watch:
    """The inequalities of the module's head, looked at in every step and judged after the last.

    Parameters
    ----------
    problem : Problem
    x : Tensor, shape ``(T, scale, seed, *batch, *event)``
        Where the runs start.
    horizons : sequence of int
        T, for messages.

    Attributes
    ----------
    value_scale, gradient_scale : Tensor, shape ``(T, scale, seed, *batch)``
        The largest |f| and ‖∇f‖_1 + B‖x‖_∞ along the run.

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
        self.eps, self.tiny = limits.eps, _ULPS * limits.tiny  # tiny: where squares underflow
        self.value = problem.value(x).double()
        self.steps = 0
        self.value_scale = self.value.abs() + problem.constants.optimum.abs()
        self.gradient_scale = torch.zeros_like(self.value)
        self.value_noise = self.gradient_noise = torch.zeros_like(self.value[:1, :1, :1])
        self._look_closely(x)
        # Over T and step sizes the starts repeat themselves.
        self._check_gradient(x[0, 0])
        self.last: tuple[Tensor, Tensor] | None = None
        # The largest excess of each inequality, "curvature" over ‖d‖_∞.
        self.excess = {name: torch.zeros_like(self.value) for name in ("below", "value", "curvature", "gradient")}

    def _look_closely(self, x: Tensor) -> None:
        # A few runs stand for all: how f rounds is the same for every one.
        in_value, in_gradient = (found.amax((0, 1, 2), keepdim=True) for found in noise(self.problem, x[:1, :1, :3]))
        self.value_noise = torch.maximum(self.value_noise, in_value)
        self.gradient_noise = torch.maximum(self.gradient_noise, in_gradient)

    def _check_gradient(self, x: Tensor) -> None:
        problem, event = self.problem, self.event
        gradient, value = problem.gradient(x).double(), problem.value(x).double()
        B, in_gradient = problem.constants.gradient_lipschitz_linf, self.gradient_noise[0, 0]
        off = self.value_noise[0, 0] + _ULPS * self.eps * value.abs() + self.tiny
        signs = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0).to(x)
        towards = -signs * torch.where((x * signs).sum(event, keepdim=True) < 0, -1.0, 1.0)
        # The h with the least tolerance; a linear f has none, and any will do.
        h = torch.where(B > 0, (4 * off / torch.where(B > 0, B, 1.0)).sqrt(), 1e-3 * x.abs().amax(event).double())
        moved = x + (h[(..., *(None,) * problem.event_ndim)] * towards).to(x)
        moved = torch.where(problem.inside(moved)[(..., *(None,) * problem.event_ndim)], moved, x)
        d = moved.double() - x.double()
        length = d.abs().amax(event)
        error = (problem.value(moved).double() - value - (gradient * d).sum(event)).abs()
        rounding = 2 * off + (in_gradient + _ULPS * self.eps * (gradient.abs().sum(event) + B * x.abs().amax(event))) * length
        bad = error > 2 * (0.5 * B * length * length + rounding)
        if bool(bad.any()):
            raise AssumptionError(
                "smoothness", f"f of {problem.name} is not as smooth as its constants say, or its gradient is not that of f: differences "
                f"of values disagree with it at {int(bad.sum())} of {bad.numel()} starts",
            )

    def narrow(self, active: int) -> None:
        """Keep the runs that are not over."""
        self.value = self.value[:active]
        self.last = None if self.last is None else (self.last[0][:active], self.last[1][:active])

    def _curvature(self, d: Tensor, length: Tensor, closely: bool) -> Tensor:
        """Return q(d)/‖d‖_∞, which does not underflow before d does."""
        constants, event = self.problem.constants, self.event
        part = torch.where(length > 0, length, 1.0)
        unit = d / part[(..., *(None,) * self.problem.event_ndim)]
        least = torch.minimum(constants.box, constants.euclidean * unit.square().sum(event))
        least = torch.minimum(least, (constants.coordinate * unit.square()).sum(event))
        if closely and constants.spectral is not None and bool(unit.isfinite().all()):
            least = torch.minimum(least, constants.spectral * torch.linalg.matrix_norm(unit, 2).square())
        return least * length

    def add(self, x: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Look at the step x_t - x_{t+1}, which led to x, and at the gradient where it began."""
        constants, event = self.problem.constants, self.event
        self.steps += 1
        # Powers of two, or of four: what is dear.
        closely = self.steps & (self.steps - 1) == 0
        after, gradient, k = self.problem.value(x).double(), gradient.double(), len(x)
        length, B = step.abs().amax(event), constants.gradient_lipschitz_linf
        change = after - self.value + (gradient * step).sum(event)
        upper = 0.5 * self._curvature(step, length, closely) * length
        lower = 0.0 if constants.convex else 0.5 * B * length * length
        size = gradient.abs().sum(event)
        reach = size + B * torch.maximum(x.abs().amax(event), (x + step).abs().amax(event)).double()
        self.gradient_scale[:k] = torch.fmax(self.gradient_scale[:k], reach)
        # What the gradient is off by counts along the step.
        off = (_ULPS * self.eps * self.gradient_scale[:k] + self.gradient_noise) * length
        self.value_scale[:k] = torch.fmax(self.value_scale[:k], after.abs() + (gradient * step).sum(event).abs())
        self._note("value", torch.maximum(change - upper, -change - lower) - off)
        fall = constants.optimum - after
        if bool((fall > self._value_rounding()[:k]).any()):
            # The family may know the distance to f* better than the difference of two values does.
            fall = torch.fmin(fall, -self.problem.gap(x).double())
        self._note("below", fall)
        self.value = after
        if self.last is not None:
            before, moved = self.last
            difference, length = gradient - before, moved.abs().amax(event)
            self._note("gradient", difference.abs().sum(event) - B * length)
            # Moved is x_{t-1} - x_t, so that <∇f(x_t) - ∇f(x_{t-1}), x_t - x_{t-1}> = -<difference, moved>.
            part = torch.where(length > 0, length, 1.0)
            along = -(difference * (moved / part[(..., *(None,) * self.problem.event_ndim)])).sum(event)
            self._note("curvature", along - self._curvature(moved, length, closely))
        self.last = gradient, step
        if closely and self.steps.bit_length() % 2 and bool(x.isfinite().all()):
            self._look_closely(x)

    def _note(self, name: str, excess: Tensor) -> None:
        kept = self.excess[name]
        kept[: len(excess)] = torch.fmax(kept[: len(excess)], excess)

    def _value_rounding(self) -> Tensor:
        return _ULPS * self.eps * self.value_scale + self.value_noise + self.tiny

    def _gradient_rounding(self) -> Tensor:
        return _ULPS * self.eps * self.gradient_scale + 2 * self.gradient_noise + self.tiny

    def resolution(self) -> tuple[Tensor, Tensor]:
        """Return what rounding may do to f(x_0) - f(x_T) and to ‖∇f‖_1, generously, shape ``(T, scale, seed, *batch)``."""
        return 16 * self.eps * self.value_scale + self.value_noise, 16 * self.eps * self.gradient_scale + self.gradient_noise

    def check(self) -> None:
        """Raise if an inequality was broken by more than rounding."""
        name = self.problem.name
        texts = {
            "below": ("bounded below", f"{name} falls below its f*"),
            "value": ("smoothness", f"a step of {name} breaks -½B‖d‖² ≤ f(x+d) - f(x) - <∇f(x), d> ≤ ½q(d) (convex: 0 ≤)"),
            "curvature": ("smoothness", f"a step of {name} has more curvature than L_∞, L_i, λ_max or L_S allow"),
            "gradient": ("smoothness", f"a step of {name} breaks ‖∇f(x+d) - ∇f(x)‖_1 ≤ B‖d‖_∞ (gradient_lipschitz_linf)"),
        }
        for key, (assumption, text) in texts.items():
            bad = self.excess[key] > (self._value_rounding() if key in ("below", "value") else self._gradient_rounding())
            if bool(bad.any()):
                horizon, scale, seed, *instance = bad.nonzero()[0].tolist()
                where = f"T = {self.horizons[horizon]}, step size {scale}, seed {seed}, instance {tuple(instance)}"
                raise AssumptionError(
                    assumption, f"{text} along {int(bad.sum())} of {bad.numel()} runs, one at {where} (counted from 0); its constants, its "
                    "gradient or its values are wrong",
                )
