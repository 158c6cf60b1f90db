"""The vector formulas from their definitions, in multiple precision, and the comparison of the library with them.

`Formula` forms plain squares and one root in 800-bit arithmetic, so that it shares neither code nor algorithm with the package,
which never forms a square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Run, Verdict

BITS = 800
"""Exact on these histories: 53 bits a factor β or g, at most 12 steps, and scales of 1e-6 to 1e3."""

WRONG = 1e9
"""Stands for an error beyond any tolerance (evidence holds finite numbers only)."""

ROUNDING = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}

number = np.frompyfunc(mpmath.mpf, 1, 1)
_root = np.frompyfunc(mpmath.sqrt, 1, 1)
_sign = np.frompyfunc(mpmath.sign, 1, 1)
_either = np.frompyfunc(lambda test, a, b: a if test else b, 3, 1)


def _over(a: Any, b: Any) -> Any:
    """Return a/b, 0 where b is 0."""
    zero = b == 0
    return _either(zero, mpmath.mpf(0), a / _either(zero, mpmath.mpf(1), b))


class Term(NamedTuple):
    """One step of a `Formula`: arrays of mpmath numbers of the gradient's shape.

    `condition` is γ computed from absolute values, times the same for v: what cancellation in m multiplies a rounding by.
    `certain` is False where the quantity under the sign cancels to a ten-thousandth of its parts.
    """

    gamma: Any
    condition: Any
    sign: Any
    certain: Any


@dataclass(frozen=True)
class Formula:
    """Variance adaptation ``|a_t|/√v_t`` and sign as the definitions have them.

    Attributes
    ----------
    beta1, beta2 : float, float or None
        ``m = EMA_{β1}(g)``, ``v = EMA_{β2}(tracked²)``; without beta2 v is a plain sum.
    numerator, tracked : str
        "momentum" or "gradient": what a is, and whose square v averages. The numerator "none" stands for γ = 1.
    correct : bool
        m̂ for m (inside v too) and v̂ for v.
    eps, mode : float, str
        inside ``a/√(v+ε)``, outside ``a/(√v+ε)``, numerator ``√((a²+ε)/v)``, relative ``a/√max(v, ε max v)``.
    nesterov : bool
        The sign is that of ``(1-β1) g + β1 m``.
    event_ndim : int
        Trailing dimensions over which the maximum of "relative" goes.
    lagged : bool
        Leave the present square out of v (only controls do so).
    """

    beta1: float = 0.0
    beta2: float | None = None
    numerator: str = "momentum"
    tracked: str = "gradient"
    correct: bool = False
    eps: float = 0.0
    mode: str = "inside"
    nesterov: bool = False
    event_ndim: int = 1
    lagged: bool = False

    def __call__(self, history: Tensor) -> Iterator[Term]:
        """Yield the steps of a history ``(T, ...)``."""
        with mpmath.workprec(BITS):
            gradients = number(history.double().numpy())
            gradients = gradients if gradients.ndim > 1 else gradients[:, None]  # NumPy turns scalars of objects into objects
            b1, eps = mpmath.mpf(self.beta1), mpmath.mpf(self.eps)
            b2, w2 = (mpmath.mpf(1), mpmath.mpf(1)) if self.beta2 is None else (mpmath.mpf(self.beta2), 1 - mpmath.mpf(self.beta2))
        m = size = v = spread = np.full(gradients.shape[1:], mpmath.mpf(0), dtype=object)
        for t, g in enumerate(gradients, start=1):
            with mpmath.workprec(BITS):
                m, size = b1 * m + (1 - b1) * g, b1 * size + (1 - b1) * abs(g)
                unbias = 1 / (1 - b1**t) if self.correct and self.beta1 else mpmath.mpf(1)
                past = v
                below, parts = (g, abs(g)) if self.tracked == "gradient" else (m * unbias, size * unbias)
                v, spread = b2 * v + w2 * below**2, b2 * spread + w2 * parts**2
                now = past if self.lagged else v
                ahead, reach = ((1 - b1) * g + b1 * m, (1 - b1) * abs(g) + b1 * size) if self.nesterov else (m, size)
            with mpmath.workprec(300):
                fill = 1 / (1 - b2**t) if self.correct and self.beta2 is not None else mpmath.mpf(1)
                above, parts = (abs(g), abs(g)) if self.numerator == "gradient" else (abs(m) * unbias, size * unbias)
                root = self._denominator(now * fill, eps)
                if self.mode == "numerator":
                    above, parts = _root(above**2 + eps), _root(parts**2 + eps)
                gamma, condition = _over(above, root), _over(parts, root) * (1 + _root(_over(spread, v)))
                if self.numerator == "none":
                    gamma = condition = np.full_like(gamma, mpmath.mpf(1))
                yield Term(gamma, condition, _sign(ahead), (abs(ahead) > 1e-4 * reach) | (reach == 0))

    def _denominator(self, v: Any, eps: Any) -> Any:
        if self.mode == "inside":
            return _root(v + eps)
        if self.mode == "outside":
            return _root(v) + eps
        if self.mode == "relative":
            top = v.max(axis=tuple(range(-self.event_ndim, 0)), keepdims=True)
            return _root(np.maximum(v, eps * top))
        return _root(v)


def disagreement(history: Tensor, split: Any, formula: Formula, *, allowed: Callable[[int], float] = lambda t: 8.0 * t) -> float:
    """Return the largest error of γ over what is allowed, in roundings of the result's dtype times the condition.

    `WRONG` for a result that is not finite, a wrong sign, or an update that is not γ times the sign to the last bit.
    """
    gammas, signs, updates = (torch.as_tensor(x) for x in (split.variance_adaptation, split.scale_invariant, split.update))
    if not (torch.isfinite(gammas).all() and torch.equal(updates, gammas * signs)):
        return WRONG
    if history.ndim == 1:
        gammas, signs = gammas[:, None], signs[:, None]
    unit, worst = ROUNDING[updates.dtype], 0.0
    for t, term in enumerate(formula(history), start=1):
        sign = signs[t - 1].double().numpy()
        if np.any((sign != term.sign.astype(float)) & term.certain.astype(bool)):
            return WRONG
        error = abs(number(gammas[t - 1].double().numpy()) - term.gamma)
        if np.any((error > 0) & (term.condition == 0)):
            return WRONG
        worst = max(worst, float(np.max(_over(error, term.condition), initial=0.0)) / (allowed(t) * unit))
    return worst


Case = tuple[str, Tensor, Any, Formula]
"""What was run, its history, its `Decomposition`, and the formula it must equal."""


def histories(run: Run, stream: int, count: int, *, length: int = 6) -> Iterator[Tensor]:
    """Yield gradient histories: scalars, vectors, matrices, both dtypes; scales of 1e-6 to 1e3, zeros, a first gradient late."""
    rng = run.rng(stream)
    shapes = ((), (4,), (2, 3), (3, 1))
    for i in range(count):
        shape = shapes[i % len(shapes)]
        steps = int(rng.integers(1, length + 1))
        g = rng.integers(-3, 4, (steps, *shape)) if i % 3 == 0 else rng.standard_normal((steps, *shape))
        g = g * 10.0 ** rng.integers(-6, 4, shape) * (rng.random((steps, *shape)) < 0.85)
        if i % 5 == 0:
            g[: steps // 2] = 0.0
        yield torch.from_numpy(np.asarray(g)).to(torch.float64 if i % 2 == 0 else torch.float32)


def conformity(run: Run, cases: Iterable[Case], alter: Callable[[Formula], Formula], subject: str) -> Evidence:
    """Compare every case with its formula (with the altered one in the control)."""
    worst, where, count = 0.0, "", 0
    for name, history, split, formula in cases:
        error = disagreement(history, split, alter(formula) if run.twin else formula)
        count += 1
        if error > worst:
            worst, where = error, name
    verdict = Verdict.SUPPORTED if 0 < count and worst <= 1.0 else Verdict.REFUTED
    return Evidence(
        verdict,
        "800-bit arithmetic",
        f"{subject}: largest error {worst:.3g} of what rounding allows ({where}), {count} histories",
        numbers={"worst error over allowed": worst, "worst at": where},
        margin=1.0 - worst,
        budget={"histories": count},
        seed=run.seed,
    )
