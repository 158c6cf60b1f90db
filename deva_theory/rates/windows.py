r"""The window of a fit: the longest stretch of large T on which log-log curves are straight, one curve per seed.

Every window ends at the largest T, since a rate is a statement for large T.  It is chosen by the curves themselves, and so is part of
what a bootstrap has to repeat: `window_slopes`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]
MIN_POINTS = 5
"""Fewest points of a window: a parabola takes three, and two are left to tell."""
LEVEL, TOLERANCE = 0.05, 0.02
"""Of the test for straight windows, see `choose_window`."""
FEW = 3
"""Up to so many seeds, curves that bend look straight to Student's t across seeds."""


@dataclass(frozen=True)
class Window:
    """The points used for a fit: ``T[start:]``.

    Attributes
    ----------
    start, points : int
        Index of the first point, and their number.
    first, last : float
        The smallest and the largest T.
    bend : float
        How much the slope changes from the first to the last point, from a parabola in log T; mean over seeds.
    p_value : float
        Of the hypothesis that the mean bend is 0, see `choose_window`.
    straight : bool
        False if no window passes, and this is the shortest.
    """

    start: int
    points: int
    first: float
    last: float
    bend: float
    p_value: float
    straight: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def theil_sen(x: ArrayLike, y: ArrayLike) -> Array:
    """Return the median slope of all pairs of points, for each row of `y`.

    Parameters
    ----------
    x : array (n,)
        Different numbers.
    y : array (…, n)

    Returns
    -------
    array (…)
        As `scipy.stats.theilslopes` for each row.

    Raises
    ------
    ValueError
        Fewer than two points, two equal x, or another number of y.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or len(np.unique(x)) < len(x):
        raise ValueError("theil_sen: x must be at least two different numbers")
    if y.ndim < 1 or y.shape[-1] != len(x):
        raise ValueError(f"theil_sen: y has shape {y.shape}; use (…, {len(x)})")
    first, second = np.triu_indices(len(x), 1)
    return np.median((y[..., second] - y[..., first]) / (x[second] - x[first]), axis=-1)


def choose_window(
    T: ArrayLike, values: ArrayLike, *, level: float = LEVEL, tolerance: float = TOLERANCE, min_points: int = MIN_POINTS
) -> Window:
    r"""Return the longest window ``T[start:]`` whose curvature is insignificant.

    Parameters
    ----------
    T : array (n,)
        Increasing, at least `min_points` of them.
    values : array (n,) or (seeds, n)
        Positive.
    level : float
        A window passes if the p-value of its bend exceeds this, or …
    tolerance : float
        … if the slope changes by at most this from one end to the other, however significant that is.
    min_points : int
        Fewest points of a window, at least 4.

    Returns
    -------
    Window
        The first that passes, from the whole range down, one point less at a time; else the shortest, with `straight` false.

    Raises
    ------
    ValueError
        The input is not such curves.

    Notes
    -----
    With u = log T, each seed's log y is fitted by least squares with a + bu + cu²; its bend is 2c(u_last - u_first).  The mean bend is
    tested by Student's t across seeds, which needs no independence between the points of a curve; with one seed by the t of c from the
    residuals.  Two or three seeds must pass both, each at half the level and the second with their residuals pooled, since across so few
    seeds hardly any bend is significant.  Seeds with the same curve are one.  The tolerance keeps curves without noise, where every bend
    is significant.
    """
    T, values = checked_curves(T, values)
    if not 4 <= min_points <= len(T):
        raise ValueError(f"choose_window: min_points is {min_points}; use 4 to {len(T)}, the number of points")
    if not (0 < level < 1 and tolerance >= 0):
        raise ValueError(f"choose_window: level is {level}, tolerance {tolerance}; use 0 < level < 1 and tolerance >= 0")
    curves, which = _distinct(np.log(values))
    bends, p_values = _Windows.of(np.log(T), curves, min_points).tests(np.bincount(which)[None])
    straight = (p_values > level) | (abs(bends) <= tolerance)
    (start,) = _first(straight)
    return Window(
        int(start), int(len(T) - start), float(T[start]), float(T[-1]), float(bends[0, start]), float(p_values[0, start]),
        bool(straight[0, start]),
    )


def _first(straight: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the first window of each row that passes, else the last, which is the shortest."""
    return np.where(straight.any(1), straight.argmax(1), straight.shape[1] - 1)


def _distinct(rows: Array) -> tuple[Array, NDArray[np.intp]]:
    """Return the rows that differ, and for each row which of them it is."""
    curves, which = np.unique(rows, axis=0, return_inverse=True)
    return curves, which.reshape(-1)


@dataclass(frozen=True, eq=False)
class _Windows:
    """The parabolas of every curve in every window, the longest first.

    Attributes
    ----------
    bends, variances : array (windows, curves)
        The change of slope over the window, and the variance of that by the residuals.
    freedom : array (windows,)
        Degrees of freedom of one curve's residuals.
    """

    bends: Array
    variances: Array
    freedom: Array

    @classmethod
    def of(cls, u: Array, w: Array, min_points: int) -> _Windows:
        """Fit; the shortest window has `min_points`."""
        bends, variances, freedom = [], [], []
        for start in range(len(u) - min_points + 1):
            x, y = u[start:], w[:, start:]
            # Centred and scaled to [-1, 1], so that the normal equations are well conditioned: the change of slope in u is 4c/half-width.
            half = (x[-1] - x[0]) / 2
            v = (x - (x[-1] + x[0]) / 2) / half
            powers = np.stack([np.ones_like(v), v, v**2], axis=1)
            inverse = np.linalg.pinv(powers)
            coefficients = y @ inverse.T
            residuals = y - coefficients @ powers.T
            freedom.append(len(x) - 3.0)
            bends.append(4 * coefficients[:, 2] / half)
            variances.append((residuals**2).sum(1) / freedom[-1] * (np.linalg.norm(inverse[2]) * 4 / half) ** 2)
        return cls(np.array(bends), np.array(variances), np.array(freedom))

    def tests(self, counts: NDArray[np.intp]) -> tuple[Array, Array]:
        """Return the mean bends and their p-values in every window, each of shape (samples, windows).

        Parameters
        ----------
        counts : array (samples, curves)
            How often a sample has each curve; all samples have the same size.
        """
        # By residuals: one variance for the curves of a sample, of which those drawn twice tell no more than once.
        size = int(counts[0].sum())
        share = counts / size
        mean, different = share @ self.bends.T, (counts > 0).sum(1)[:, None]
        by_residuals = _two_sided(mean, np.sqrt((share**2).sum(1)[:, None] * (share @ self.variances.T)), different * self.freedom)
        if size == 1:
            return mean, by_residuals
        centred = self.bends - self.bends.mean(1, keepdims=True)
        spread = (share @ (centred**2).T - (share @ centred.T) ** 2).clip(min=0) / (size - 1)
        across = _two_sided(mean, np.sqrt(spread), np.full_like(spread, size - 1))
        if size <= FEW:
            across = np.minimum(2 * np.minimum(across, by_residuals), 1.0)
        return mean, np.where(different > 1, across, by_residuals)


def _two_sided(mean: Array, error: Array, freedom: Array) -> Array:
    """Return Student's p-values; a mean without error is 0 or significant."""
    certain = np.where(mean == 0, 1.0, 0.0)
    return np.where(error > 0, 2 * special.stdtr(freedom, -abs(mean) / np.where(error > 0, error, 1.0)), certain)


def window_slopes(u: Array, w: Array, drawn: NDArray[np.intp]) -> Array:
    """Return the slope of each resample in the window that `choose_window` gives it.

    Parameters
    ----------
    u, w : array (n,), array (seeds, n)
        Logarithms of T and of the values.
    drawn : array (resamples, seeds)
        Which seeds each resample has.

    Returns
    -------
    array (resamples,)
        Means over the resample of Theil-Sen slopes.
    """
    curves, which = _distinct(w)
    counts = count_draws(which[drawn], len(curves))
    bends, p_values = _Windows.of(u, curves, MIN_POINTS).tests(counts)
    starts = _first((p_values > LEVEL) | (abs(bends) <= TOLERANCE))
    means = np.empty(len(drawn))
    for start in np.unique(starts):
        here = starts == start
        means[here] = counts[here] @ theil_sen(u[start:], curves[:, start:]) / len(w)
    return means


def count_draws(drawn: NDArray[np.intp], different: int) -> NDArray[np.intp]:
    """Return how often each resample has each of so many things."""
    counts = np.zeros((len(drawn), different), dtype=np.intp)
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
    return counts


def checked_curves(T: ArrayLike, values: ArrayLike, name: str = "values") -> tuple[Array, Array]:
    """Return T and the rows of values, checked."""
    T, values = np.asarray(T, dtype=np.float64), np.atleast_2d(np.asarray(values, dtype=np.float64))
    if T.ndim != 1 or len(T) < 2 or not np.isfinite(T).all() or T[0] <= 0 or not (np.diff(T) > 0).all():
        raise ValueError("T must be at least two positive numbers that increase")
    if values.ndim != 2 or values.shape[1] != len(T) or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; use (seeds, {len(T)})")
    if not (np.isfinite(values).all() and (values > 0).all()):
        row, column = np.argwhere(~(np.isfinite(values) & (values > 0)))[0]
        raise ValueError(f"{name} of seed {row} at T = {T[column]:g} is {values[row, column]:g}; logarithms need positive finite numbers")
    return T, values
