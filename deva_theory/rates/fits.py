r"""Exponents and constants read off measured curves ``y(T)``, one row per seed.

*Slope.*  Per seed the Theil-Sen slope of log y against log T, the median of the slopes of all pairs of points, which one outlying T
cannot spoil.  The estimate is the mean over seeds.

*Interval.*  By bootstrap over seeds.  The distance of each percentile from the estimate is multiplied by √(n/(n-1)) t_{n-1}/z for n
seeds (quantiles of Student and of the normal law; Hesterberg 2015, "What teachers should know about the bootstrap", corrects the level
instead, which cannot help where the percentile is the smallest of n numbers already).  Without it few seeds are covered too rarely.

*Window.*  A rate is a statement for large T, so a window always ends at the largest T, see `choose_window`.  Where it is chosen from the
curves, it is chosen anew in every resample: an interval for the window that happened to be chosen is too narrow.

All randomness comes from a seed: the same input gives the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

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


@dataclass(frozen=True)
class SlopeFit:
    """A log-log slope with its interval.

    Attributes
    ----------
    slope : float
        The mean over seeds.
    low, high : float or None
        The interval; None with one seed.  If `window` was given, it is an interval for the slope in that window; else it allows for the
        choice of the window.
    level : float
        Its nominal coverage.
    per_seed : tuple of float
        Theil-Sen slopes.
    intercept : float
        The mean over seeds of the median of log y - slope · log T: log of the constant, natural.
    window : Window
        The one given, or chosen.
    """

    slope: float
    low: float | None
    high: float | None
    level: float
    per_seed: tuple[float, ...]
    intercept: float
    window: Window

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, the window as a dictionary."""
        return {**asdict(self), "per_seed": list(self.per_seed)}

    def summary(self) -> str:
        """Return one line."""
        interval = "one seed, no interval" if self.low is None else f"{self.level:.0%} interval [{self.low:.4f}, {self.high:.4f}]"
        note = "" if self.window.straight else "; curved in every window"
        return f"slope {self.slope:.4f}, {interval}, T from {self.window.first:g} to {self.window.last:g}{note}"


@dataclass(frozen=True)
class RatioFit:
    """Bound over observed average, for each T.

    Attributes
    ----------
    T, ratio : tuple of float
        T, and the mean bound over the mean observed value.
    low, high : tuple of float or None
        The interval at each T; None with one seed.
    level : float
        Nominal coverage at each T by itself.
    closest, closest_T : float
        The smallest ratio, and where.
    smallest_seed : float
        The smallest ratio of one seed, at any T; below 1 is no violation of a statement in expectation.
    violated : tuple of bool
        Where the whole interval (with one seed: the ratio) is below 1.
    """

    T: tuple[float, ...]
    ratio: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    level: float
    closest: float
    closest_T: float
    smallest_seed: float
    violated: tuple[bool, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, tuples as lists."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}

    def summary(self) -> str:
        """Return one line."""
        return f"bound/observed at least {self.closest:.4g}, at T = {self.closest_T:g}; {sum(self.violated)} of {len(self.T)} T violated"


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
    residuals.  Two or three seeds must pass both (each at half the level), since across so few seeds hardly any bend is significant.  Seeds
    with the same curve are one.  The tolerance keeps curves without noise, where every bend is significant.
    """
    T, values = _curves(T, values)
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


def fit_slope(
    T: ArrayLike, values: ArrayLike, *, window: Window | None = None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> SlopeFit:
    """Fit the exponent of ``y ≈ C T^slope``.

    Parameters
    ----------
    T : array (n,)
        Increasing.
    values : array (n,) or (seeds, n)
        y, positive.
    window : Window, optional
        Given, it is taken as it is.  By default that of `choose_window`, chosen anew in every resample; `SlopeFit.window` is the one of the
        curves themselves, for another fit in the same window.
    level : float
        Of the interval.
    resamples, seed : int
        Of the bootstrap over seeds.

    Returns
    -------
    SlopeFit

    Raises
    ------
    ValueError
        The input is not such curves.
    """
    T, values = _curves(T, values)
    _check_bootstrap(level, resamples)
    chosen = choose_window(T, values) if window is None else window
    if not 0 <= chosen.start <= len(T) - 2:
        raise ValueError(f"fit_slope: the window starts at point {chosen.start} of {len(T)}; leave at least two")
    u, w = np.log(T), np.log(values)
    inside, within = u[chosen.start :], w[:, chosen.start :]
    slopes = theil_sen(inside, within)
    slope = float(slopes.mean())
    intercept = float(np.median(within - slopes[:, None] * inside, axis=1).mean())
    low = high = None
    if len(slopes) > 1:
        drawn = _resampled(len(slopes), resamples, seed)
        means = slopes[drawn].mean(1) if window is not None else _refitted(u, w, drawn)
        lower, upper = (float(x) for x in _percentiles(np.float64(slope), means, len(slopes), level))
        # Resamples may prefer longer or shorter windows, all with steeper slopes, say: the estimate belongs to its interval.
        low, high = min(lower, slope), max(upper, slope)
    return SlopeFit(slope, low, high, level, tuple(slopes.tolist()), intercept, chosen)


def _refitted(u: Array, w: Array, drawn: NDArray[np.intp]) -> Array:
    """Return the slope of each resample in the window that `choose_window` gives it."""
    curves, which = _distinct(w)
    counts = _counts(which[drawn], len(curves))
    bends, p_values = _Windows.of(u, curves, MIN_POINTS).tests(counts)
    starts = _first((p_values > LEVEL) | (abs(bends) <= TOLERANCE))
    means = np.empty(len(drawn))
    for start in np.unique(starts):
        here = starts == start
        means[here] = counts[here] @ theil_sen(u[start:], curves[:, start:]) / len(w)
    return means


def bound_ratio(
    T: ArrayLike, bound: ArrayLike, observed: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> RatioFit:
    """Compare a bound with what was observed: the mean bound over the mean observed value, at each T.

    Parameters
    ----------
    T : array (n,)
        Increasing.
    bound : array (n,) or (seeds, n)
        For each seed where its constants were measured along the run; resampled together with `observed`.
    observed : array (n,) or (seeds, n)
        Left sides, positive.
    level, resamples, seed
        As in `fit_slope`.

    Returns
    -------
    RatioFit

    Raises
    ------
    ValueError
        The input is not such curves.
    """
    T, observed = _curves(T, observed, "observed")
    _check_bootstrap(level, resamples)
    seeds = len(observed)
    bound = np.asarray(bound, dtype=np.float64)
    if bound.shape not in ((len(T),), observed.shape):
        raise ValueError(f"bound_ratio: bound has shape {bound.shape}; use ({len(T)},) or {observed.shape}")
    if not (np.isfinite(bound).all() and (bound > 0).all()):
        raise ValueError("bound_ratio: a bound is not a positive finite number")
    bound = np.broadcast_to(bound, observed.shape)
    ratio = bound.mean(0) / observed.mean(0)
    low = high = None
    upper = ratio
    if seeds > 1:
        drawn = _resampled(seeds, resamples, seed)
        # Logarithms: a widened interval of ratios must not reach below 0.
        lower, upper = np.exp(_percentiles(np.log(ratio), np.log(_means(bound, drawn) / _means(observed, drawn)), seeds, level))
        low, high = tuple(lower.tolist()), tuple(upper.tolist())
    at = int(ratio.argmin())
    return RatioFit(
        tuple(T.tolist()), tuple(ratio.tolist()), low, high, level, float(ratio[at]), float(T[at]), float((bound / observed).min()),
        tuple((upper < 1).tolist()),
    )


def _means(rows: Array, drawn: NDArray[np.intp]) -> Array:
    """Return the mean of each resample, by how often it has each seed: (resamples, seeds) @ (seeds, n)."""
    return _counts(drawn, len(rows)) @ rows / len(rows)


def _counts(drawn: NDArray[np.intp], different: int) -> NDArray[np.intp]:
    """Return how often each resample has each of so many things."""
    counts = np.zeros((len(drawn), different), dtype=np.intp)
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
    return counts


def _resampled(seeds: int, resamples: int, seed: int) -> NDArray[np.intp]:
    return np.random.default_rng(seed).integers(0, seeds, size=(resamples, seeds))


def _percentiles(estimate: Array | np.float64, resampled: Array, seeds: int, level: float) -> Array:
    """Return both ends of the widened percentile interval along the first axis."""
    tail = (1 - level) / 2
    wider = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(tail, seeds - 1) / stats.norm.ppf(tail)
    return estimate + wider * (np.quantile(resampled, [tail, 1 - tail], axis=0) - estimate)


def _check_bootstrap(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"the bootstrap's level is {level}, with {resamples} resamples; use 0 < level < 1 and at least 1")


def _curves(T: ArrayLike, values: ArrayLike, name: str = "values") -> tuple[Array, Array]:
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
