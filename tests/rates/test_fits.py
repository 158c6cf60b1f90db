"""Fits: against SciPy row by row, on synthetic power laws with noise, and the window on curves of two regimes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deva_theory.rates import fits, windows

T = np.unique(np.geomspace(10, 10_000, 16).round())


def power_law(slope: float, *, noise: float, seeds: int = 20, constant: float = 3.0, seed: int = 0) -> np.ndarray:
    shake = np.random.default_rng(seed).standard_normal((seeds, len(T)))
    return constant * T**slope * np.exp(noise * shake)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_theil_sen_is_that_of_scipy(seed, n):
    source = np.random.default_rng(seed)
    x, y = np.cumsum(source.random(n) + 0.1), source.standard_normal((3, n))
    expected = [stats.theilslopes(row, x).slope for row in y]
    np.testing.assert_allclose(fits.theil_sen(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize("slope", [-1.0, -0.5, -0.25, 0.0])
def test_exact_power_laws(slope):
    fit = fits.fit_slope(T, power_law(slope, noise=0.0, seeds=3))
    assert fit.slope == pytest.approx(slope, abs=1e-9) and np.exp(fit.intercept) == pytest.approx(3.0)
    assert fit.low == pytest.approx(slope, abs=1e-9) and fit.high == pytest.approx(slope, abs=1e-9)
    assert fit.window.straight and fit.window.start == 0
    alone = fits.fit_slope(T, power_law(slope, noise=0.0, seeds=1)[0])
    assert alone.low is None and alone.high is None and alone.slope == pytest.approx(slope, abs=1e-9)


def test_one_outlying_T_does_not_spoil_the_slope():
    values = power_law(-0.5, noise=0.01)
    values[:, 3] *= 50
    window = fits.Window(0, len(T), T[0], T[-1], 0.0, 1.0, True)
    assert fits.fit_slope(T, values, window=window).slope == pytest.approx(-0.5, abs=0.03)
    assert abs(np.polyfit(np.log(T), np.log(values).mean(0), 1)[0] + 0.5) > 0.05


@pytest.mark.parametrize("seeds", [4, 20])
def test_the_interval_covers(seeds):
    whole = fits.Window(0, len(T), T[0], T[-1], 0.0, 1.0, True)
    trials, covered, widths = 300, 0, []
    for trial in range(trials):
        fit = fits.fit_slope(T, power_law(-0.5, noise=0.3, seeds=seeds, seed=trial), window=whole, resamples=400, seed=trial)
        covered += fit.low <= -0.5 <= fit.high
        widths.append(fit.high - fit.low)
    # Nominal .95; the few resamples and the skewness of small samples cost a little, five binomial errors are allowed on top.
    assert covered / trials >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / trials)
    assert np.mean(widths) < (0.5 if seeds == 4 else 0.06)


def two_regimes(noise: float, seeds: int = 10, seed: int = 5) -> np.ndarray:
    """T^{-1} before the knee at 300, T^{-1/2} after."""
    curve = np.where(T < 300, 300**0.5 / T, T**-0.5)
    return curve * np.exp(noise * np.random.default_rng(seed).standard_normal((seeds, len(T))))


@pytest.mark.parametrize("seeds", [4, 10])
def test_the_interval_covers_where_the_window_is_chosen(seeds):
    trials, covered, fixed, straight = 200, 0, 0, 0
    for trial in range(trials):
        values = two_regimes(0.1, seeds, seed=trial)
        fit = fits.fit_slope(T, values, resamples=400, seed=trial)
        covered += fit.low <= -0.5 <= fit.high
        alone = fits.fit_slope(T, values, window=fit.window, resamples=400, seed=trial)
        fixed += alone.low <= -0.5 <= alone.high
        assert alone.slope == fit.slope and alone.window == fit.window
        line = fits.fit_slope(T, power_law(-0.5, noise=0.1, seeds=seeds, seed=trial), resamples=400, seed=trial)
        straight += line.low <= -0.5 <= line.high
    limit = 0.95 - 5 * np.sqrt(0.95 * 0.05 / trials)
    assert covered / trials >= limit and straight / trials >= limit
    # The control: the interval for the window that happened to be chosen.
    assert fixed / trials < limit


@pytest.mark.parametrize("seeds", [2, 3, 4, 10])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_every_resample_has_its_own_window(seeds, noise):
    values, u = two_regimes(noise, seeds), np.log(T)
    drawn = fits._resampled(seeds, 60, 0)
    expected = []
    for rows in drawn:
        window = fits.choose_window(T, values[rows])
        expected.append(fits.theil_sen(u[window.start :], np.log(values[rows][:, window.start :])).mean())
    np.testing.assert_allclose(windows.window_slopes(u, np.log(values), drawn), expected, rtol=1e-12)


def test_the_interval_contains_its_estimate():
    # Three curves: any two of them bend, and send the resamples to windows of which all slopes are steeper.
    for trial in range(100):
        fit = fits.fit_slope(T, two_regimes(0.2, 3, seed=trial), resamples=100)
        assert fit.low <= fit.slope <= fit.high


def test_the_interval_without_its_widening_does_not():
    # The control: plain percentiles for four seeds.
    source, covered = np.random.default_rng(0), 0
    for trial in range(300):
        x = source.standard_normal(4)
        means = x[fits._resampled(4, 400, trial)].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered += low <= 0 <= high
    assert covered / 300 < 0.9


def test_the_widening_is_that_of_student():
    # Where the resampled means have a normal law of the size that the bootstrap gives them, s√((n-1)/n)/√n, the interval is Student's.
    n, x = 5, np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    law = stats.norm(x.mean(), x.std() / np.sqrt(n)).ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = stats.t.interval(0.9, n - 1, x.mean(), x.std(ddof=1) / np.sqrt(n))
    np.testing.assert_allclose(fits._percentiles(x.mean(), law, n, 0.9), expected, rtol=1e-4)


def test_the_test_of_the_bend_is_that_of_libraries():
    u = np.log(T)
    values = power_law(-0.5, noise=0.1, seeds=6) * np.exp(0.01 * u**2)
    window = fits.choose_window(T, values, level=1e-12)
    bends = np.polyfit(u, np.log(values).T, 2)[0] * 2 * (u[-1] - u[0])
    assert window.start == 0 and window.bend == pytest.approx(bends.mean())
    assert window.p_value == pytest.approx(stats.ttest_1samp(bends, 0.0).pvalue)
    alone = fits.choose_window(T, values[0], level=1e-12)
    coefficients, covariance = np.polyfit(u, np.log(values[0]), 2, cov=True)
    assert alone.bend == pytest.approx(bends[0])
    assert alone.p_value == pytest.approx(2 * stats.t.sf(abs(coefficients[0]) / np.sqrt(covariance[0, 0]), len(T) - 3))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_window_skips_the_first_regime(noise):
    values = two_regimes(noise)
    window = fits.choose_window(T, values)
    assert window.straight and 150 <= window.first <= 700 and window.last == T[-1] and window.points == len(T) - window.start
    fit = fits.fit_slope(T, values)
    assert fit.window == window and fit.slope == pytest.approx(-0.5, abs=0.03)
    # The control: the whole range is another slope.
    whole = fits.Window(0, len(T), T[0], T[-1], 0.0, 1.0, True)
    assert abs(fits.fit_slope(T, values, window=whole).slope + 0.5) > 0.1


def test_the_window_is_the_longest_that_passes():
    values = two_regimes(0.01)
    window = fits.choose_window(T, values)
    for start in range(window.start):
        earlier = fits.choose_window(T[start:], values[:, start:])
        assert earlier.first == window.first
    assert fits.choose_window(T, values) == window


def test_two_seeds_see_the_bend(monkeypatch):
    curves = [two_regimes(0.1, 2, seed=trial) for trial in range(200)]
    assert all(fits.choose_window(T, values).first >= 100 for values in curves)
    # The control: by Student's t across two seeds alone, windows from far before the knee are straight.
    monkeypatch.setattr(windows, "FEW", 1)
    assert np.mean([fits.choose_window(T, values).first < 100 for values in curves]) > 0.5


def test_the_p_value_of_few_seeds():
    # Twice the smaller of the two: across seeds, and by the pooled residuals.
    values, u = power_law(-0.5, noise=0.1, seeds=3, seed=3), np.log(T)
    powers = np.stack([np.ones_like(u), u, u**2], axis=1)
    coefficients = np.linalg.lstsq(powers, np.log(values).T, rcond=None)[0]
    residual, freedom = np.log(values).T - powers @ coefficients, 3 * (len(T) - 3)
    error = np.sqrt((residual**2).sum() / freedom * np.linalg.inv(powers.T @ powers)[2, 2] / 3)
    by_residuals = 2 * stats.t.sf(abs(coefficients[2].mean()) / error, freedom)
    across = stats.ttest_1samp(coefficients[2], 0.0).pvalue
    window = fits.choose_window(T, values, level=1e-12)
    assert window.p_value == pytest.approx(min(1.0, 2 * min(across, by_residuals)), rel=1e-6)


def test_equal_curves_are_one():
    values = power_law(-0.5, noise=0.1, seeds=1) * np.exp(0.01 * np.log(T) ** 2)
    assert fits.choose_window(T, np.repeat(values, 5, axis=0)) == fits.choose_window(T, values)
    fit = fits.fit_slope(T, np.repeat(values, 5, axis=0))
    assert fit.low == pytest.approx(fit.slope) == fit.high


@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
def test_the_window_keeps_straight_noisy_curves(seeds):
    kept = [fits.choose_window(T, power_law(-0.5, noise=0.1, seeds=seeds, seed=k)).start == 0 for k in range(200)]
    # The test has level .05.
    assert np.mean(kept) >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / 200)


def test_a_curve_that_bends_everywhere_says_so():
    window = fits.choose_window(T, np.exp(-np.log(T) ** 2 / 4))
    assert not window.straight and window.points == fits.MIN_POINTS
    assert window.bend == pytest.approx(-np.log(window.last / window.first) / 2)
    assert "curved" in fits.fit_slope(T, np.exp(-np.log(T) ** 2 / 4)).summary()


def test_bound_ratio():
    observed = power_law(-0.5, noise=0.2, seeds=40, constant=2.0)
    fit = fits.bound_ratio(T, 3.0 * T**-0.5, observed)
    np.testing.assert_allclose(fit.ratio, 3.0 * T**-0.5 / observed.mean(0))
    assert all(low <= ratio <= high for low, ratio, high in zip(fit.low, fit.ratio, fit.high, strict=True))
    # E exp(.2 z) = exp(.02): at most a few of the intervals miss.
    truth = 1.5 / np.exp(0.02)
    assert np.mean([low <= truth <= high for low, high in zip(fit.low, fit.high, strict=True)]) > 0.7
    assert fit.closest == min(fit.ratio) and fit.closest_T == T[int(np.argmin(fit.ratio))]
    assert fit.smallest_seed < fit.closest and not any(fit.violated)
    # The control: half of the bound is violated at every T, and the interval says so.
    assert all(fits.bound_ratio(T, 1.5 * T**-0.5, observed).violated)
    alone = fits.bound_ratio(T, 1.5 * T**-0.5, observed[0])
    assert alone.low is None and alone.violated == tuple(x < 1 for x in alone.ratio)


def test_a_bound_for_each_seed_is_resampled_with_it():
    observed = power_law(-0.5, noise=0.5)
    fit = fits.bound_ratio(T, 1.2 * observed, observed)
    np.testing.assert_allclose([fit.ratio, fit.low, fit.high], 1.2)
    assert fit.smallest_seed == pytest.approx(1.2)


def test_the_same_input_gives_the_same_numbers_and_json():
    values = power_law(-0.5, noise=0.3)
    for make in (lambda: fits.fit_slope(T, values), lambda: fits.bound_ratio(T, T**-0.5, values), lambda: fits.choose_window(T, values)):
        assert make() == make()
        assert json.loads(json.dumps(make().to_dict())) == make().to_dict()
    assert "interval" in fits.fit_slope(T, values).summary() and "violated" in fits.bound_ratio(T, T**-0.5, values).summary()
    assert fits.fit_slope(T, values, seed=1) != fits.fit_slope(T, values)


GOOD = np.ones((2, len(T)))


@pytest.mark.parametrize("call, message", [
    (lambda: fits.theil_sen([1.0], [1.0]), "at least two different"),
    (lambda: fits.theil_sen([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]), "at least two different"),
    (lambda: fits.theil_sen([1.0, 2.0], [1.0, 2.0, 3.0]), "y has shape"),
    (lambda: fits.fit_slope([1.0, 1.0], [1.0, 1.0]), "increase"),
    (lambda: fits.fit_slope([0.0, 1.0], [1.0, 1.0]), "positive"),
    (lambda: fits.fit_slope(T, np.ones(3)), "shape"),
    (lambda: fits.fit_slope(T, np.where(T > 100, 0.0, 1.0)), "seed 0 at T = "),
    (lambda: fits.fit_slope(T, np.where(T > 100, np.nan, 1.0)), "positive finite"),
    (lambda: fits.fit_slope(T[:3], np.ones(3)), "min_points"),
    (lambda: fits.choose_window(T, GOOD, min_points=3), "min_points"),
    (lambda: fits.choose_window(T, GOOD, level=0.0), "level"),
    (lambda: fits.choose_window(T, GOOD, tolerance=-1.0), "tolerance"),
    (lambda: fits.fit_slope(T, GOOD, level=1.0), "level"),
    (lambda: fits.fit_slope(T, GOOD, resamples=0), "resamples"),
    (lambda: fits.fit_slope(T, GOOD, window=fits.Window(len(T), 0, 1.0, 1.0, 0.0, 1.0, True)), "window"),
    (lambda: fits.bound_ratio(T, np.ones(3), GOOD), "bound has shape"),
    (lambda: fits.bound_ratio(T, -np.ones(len(T)), GOOD), "positive finite"),
    (lambda: fits.bound_ratio(T, np.ones(len(T)), 0 * GOOD), "observed of seed"),
])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
