"""The line ``L ≈ L0 + L1 ‖g‖_*`` with L0, L1 ≥ 0: least squares, upper envelope, bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog, nnls


@dataclass(frozen=True)
class LineFit:
    """``L0 + L1 g`` against observed pairs (g, L).

    Attributes
    ----------
    L0, L1 : float
        Non-negative least squares; L0 has the unit of L, L1 that of L/g.
    r_squared : float
        ``1 - Σ residual²/Σ (L - mean)²``; 1 where L is constant and met exactly, NaN where it is constant and not.
    envelope : (float, float)
        (L0, L1) of the line above every observation with the least total slack.
    L0_interval, L1_interval : (float, float)
        Bootstrap percentile intervals of the least-squares line; NaN without resamples.
    level : float
        Their nominal coverage.
    observations : int
    """

    L0: float
    L1: float
    r_squared: float
    envelope: tuple[float, float]
    L0_interval: tuple[float, float]
    L1_interval: tuple[float, float]
    level: float
    observations: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; NaN as None."""

        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {k: plain(v) for k, v in vars(self).items()}


def fit_line(
    gradient_norms: Sequence[float], values: Sequence[float], *, level: float = 0.9, resamples: int = 200, seed: int = 0
) -> LineFit:
    r"""Fit ``L ≈ L0 + L1 g``, L0, L1 ≥ 0.

    Parameters
    ----------
    gradient_norms, values : sequence of float, length n ≥ 2
        g and L, finite and not negative.
    level : float
        Coverage of the bootstrap intervals, in (0, 1).
    resamples : int
        0: no intervals.
    seed : int
        Of the bootstrap.

    Raises
    ------
    ValueError
        Fewer than two pairs, unequal lengths, values that are negative, NaN or infinite, a level outside (0, 1).

    Notes
    -----
    * least squares: ``min Σ (L0 + L1 g_i - L_i)²`` (:func:`scipy.optimize.nnls`);
    * envelope: ``min Σ (L0 + L1 g_i - L_i)`` subject to ``L0 + L1 g_i ≥ L_i``, a linear program in two unknowns;
    * the bootstrap resamples runs of ⌈n^{1/3}⌉ consecutive pairs, because neighbours on a trajectory are alike; its
      coverage is approximate.

    If all g are equal, L0 and L1 cannot be told apart; the line is one of many.

    Examples
    --------
    >>> fit = fit_line([1.0, 2.0, 3.0], [3.0, 5.0, 7.0], resamples=0)
    >>> round(fit.L0, 9), round(fit.L1, 9), round(fit.r_squared, 9)
    (1.0, 2.0, 1.0)
    """
    g, y = np.asarray(gradient_norms, dtype=float), np.asarray(values, dtype=float)
    if g.ndim != 1 or g.shape != y.shape or len(g) < 2:
        raise ValueError(f"fit_line needs two or more pairs; got {g.shape} gradient norms and {y.shape} values")
    if not (np.isfinite(g).all() and np.isfinite(y).all() and (g >= 0).all() and (y >= 0).all()):
        raise ValueError("fit_line: gradient norms and values must be finite and not negative")
    if not 0 < level < 1:
        raise ValueError(f"fit_line: level is {level}; it must lie between 0 and 1")
    # Both columns and the data of order one: the solvers' tolerances are absolute.
    g_unit, y_unit = g.max() or 1.0, y.max() or 1.0
    units = np.array([y_unit, y_unit / g_unit])
    A, b = np.column_stack((np.ones_like(g), g / g_unit)), y / y_unit
    line = nnls(A, b)[0]
    residual, spread = float(((A @ line - b) ** 2).sum()), float(((b - b.mean()) ** 2).sum())
    tiny = len(b) * np.finfo(float).eps
    r_squared = 1.0 - residual / spread if spread > tiny else (1.0 if residual <= tiny else math.nan)
    envelope = linprog(A.sum(0), A_ub=-A, b_ub=-b, bounds=[(0, None)] * 2, method="highs").x
    envelope[0] += max(0.0, float((b - A @ envelope).max()))  # the solver's feasibility is approximate
    low, high = np.full(2, np.nan), np.full(2, np.nan)
    if resamples:
        lines = np.array([nnls(A[rows], b[rows])[0] for rows in _resampled(len(g), resamples, seed)])
        low, high = np.quantile(lines, [(1 - level) / 2, (1 + level) / 2], axis=0)
    (L0, L1), (e0, e1), (low0, low1), (high0, high1) = ((v * units).tolist() for v in (line, envelope, low, high))
    return LineFit(L0, L1, r_squared, (e0, e1), (low0, high0), (low1, high1), level, len(g))


def _resampled(n: int, resamples: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    run = math.ceil(n ** (1 / 3) - 1e-9)
    runs = math.ceil(n / run)
    starts = rng.integers(0, n - run + 1, size=(resamples, runs))
    return list((starts[:, :, None] + np.arange(run)).reshape(resamples, -1)[:, :n])
