r"""Exponents and constants read off measured curves ``y(T)``, one row per seed.

*Slope.*  Per seed the Theil-Sen slope of log y against log T, the median of the slopes of all pairs of points, which one outlying T
cannot spoil.  The estimate is the mean over seeds.

*Interval.*  By bootstrap over seeds.  The distance of each percentile from the estimate is multiplied by √(n/(n-1)) t_{n-1}/z for n
seeds (quantiles of Student and of the normal law; Hesterberg 2015, "What teachers should know about the bootstrap", corrects the level
instead, which cannot help where the percentile is the smallest of n numbers already).  Without it few seeds are covered too rarely.

*Window.*  A rate is a statement for large T, so a window always ends at the largest T, see `choose_window`.  Where it is chosen from the
curves, it is chosen anew in every resample: an interval for the window that happened to be chosen is too narrow, and next to a bend
covers in as few as .6 of all cases, not .95 (a test).  With two or three seeds the interval remains too narrow there: about .85 and .9.

All randomness comes from a seed: the same input gives the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from deva_theory.rates.windows import FEW, MIN_POINTS, Window, checked_curves, choose_window, count_draws, theil_sen, window_slopes

Array = NDArray[np.float64]

__all__ = ["MIN_POINTS", "RatioFit", "SlopeFit", "Window", "bound_ratio", "choose_window", "fit_slope", "theil_sen"]


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
    T, values = checked_curves(T, values)
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
        kept, refitted = slopes[drawn].mean(1), window_slopes(u, w, drawn) if window is None else None
        # Of few seeds all resamples may have other windows than the curves themselves: the interval in that window is added.
        among = [kept] if refitted is None else [refitted, kept] if len(slopes) <= FEW else [refitted]
        ends = [float(x) for means in among for x in _percentiles(np.float64(slope), means, len(slopes), level)]
        # Resamples may prefer other windows, all of them with steeper slopes: the estimate belongs to its interval.
        low, high = min(*ends, slope), max(*ends, slope)
    return SlopeFit(slope, low, high, level, tuple(slopes.tolist()), intercept, chosen)


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
    T, observed = checked_curves(T, observed, "observed")
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
    return count_draws(drawn, len(rows)) @ rows / len(rows)


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
