"""Limits, orders and shapes of the bounds, and inputs outside the statements."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory import rates
from deva_theory.rates import AssumptionError


@given(st.floats(0, 1e3), st.integers(1, 1000), st.floats(1e-3, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_limits(gap, T, eta, L, sigma):
    plain = rates.deterministic(gap, T, eta, L)
    assert rates.stochastic(gap, T, eta, L, 0.0).value == plain.value
    one_sample = rates.stochastic(gap, T, eta, L, sigma).value.item()
    assert rates.stochastic(gap, T, eta, L, sigma, batch=4).terms["noise"].item() == pytest.approx(sigma)
    assert rates.momentum_sharp(gap, T, eta, L, sigma, 7.0, beta=0.0).value.item() == pytest.approx(one_sample)
    assert rates.momentum_corrected(gap, T, eta, L, sigma, beta=0.0).value.item() == pytest.approx(one_sample)
    assert rates.momentum(gap, T, eta, L, sigma, 0.0, beta=0.0).value.item() == pytest.approx(one_sample)
    assert rates.spectral(gap, T, eta, L, sigma).value.item() == pytest.approx(one_sample)


@given(st.floats(0, 10), st.integers(1, 10**9), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 3))
def test_order_of_the_schedule(gap, T, L, sigma, first, gamma_max):
    bound = rates.momentum_schedule(gap, T, L, sigma, first, gamma_max=gamma_max)
    assert bound.value <= rates.momentum_order(gap, L, sigma, first, gamma_max=gamma_max) * T**-0.25 * (1 + 1e-9)


def test_the_schedule_has_its_exponent():
    T = torch.tensor([1e10, 1e14], dtype=torch.float64)
    value = rates.momentum_schedule(1.0, T, 1.0, 1.0, 1.0).value
    assert (value[1] / value[0]).log10().item() / 4 == pytest.approx(-0.25, abs=5e-3)
    value = rates.stochastic_paper_setting(1.0, T, 1.0, 1.0).value
    assert (value[1] / value[0]).log10().item() / 4 == pytest.approx(-0.5)


def test_the_plateau_is_the_limit():
    constants = {"L": 2.0, "sigma": 3.0, "beta": 0.9, "eta": 0.1, "gamma_max": 1.5}
    far = rates.momentum(1.0, 10**12, first_gradient=1.0, **constants)
    assert far.value.item() == pytest.approx(rates.momentum_plateau(**constants).value.item(), rel=1e-9)
    still = rates.momentum_plateau(2.0, 3.0, beta=0.9, gamma_max=1.5)
    assert still.value == still.terms["noise"] and still.value < far.value


STEP = {"gap": 1.0, "steps": 9, "eta": 0.1, "L": 2.0}
BEST = {"gap": 1.0, "steps": 9, "L": 2.0}
AVERAGED = {"sigma": 1.0, "beta": 0.9, "gamma_max": 1.0}
CALLS = {
    "deterministic": (rates.deterministic, STEP),
    "deterministic_best": (rates.deterministic_best, BEST),
    "stochastic": (rates.stochastic, {**STEP, "noise": 1.0, "batch": 3}),
    "stochastic_paper_setting": (rates.stochastic_paper_setting, {**BEST, "noise": 1.0}),
    "stochastic_best": (rates.stochastic_best, {**BEST, "noise": 1.0, "batch": 3}),
    "signs_in_expectation": (rates.signs_in_expectation, {**STEP, "wrong": 1.0}),
    "spectral": (rates.spectral, {**STEP, "noise": 1.0}),
    "singular_weighted": (rates.singular_weighted, {**STEP, "noise": 1.0}),
    "any_direction": (rates.any_direction, {**STEP, "noise": 1.0}),
    "momentum": (rates.momentum, {**STEP, **AVERAGED, "first_gradient": 3.0}),
    "momentum_sharp": (rates.momentum_sharp, {**STEP, **AVERAGED, "first_gradient": 3.0}),
    "momentum_corrected": (rates.momentum_corrected, {**STEP, **AVERAGED}),
    "momentum_schedule": (rates.momentum_schedule, {**BEST, "sigma": 1.0, "first_gradient": 3.0, "gamma_max": 1.0}),
}
GROWING = ("gap", "L", "noise", "sigma", "wrong", "first_gradient", "gamma_max")


@pytest.mark.parametrize("name", CALLS)
def test_terms_shapes_and_monotonicity(name):
    function, constants = CALLS[name]
    bound = function(**constants)
    torch.testing.assert_close(sum(bound.terms.values()), bound.value, rtol=1e-12, atol=0)
    assert bound.value.dtype == torch.float64 and bound.value.shape == () and bound.value > 0
    assert all(term >= 0 for term in bound.terms.values()) and bound.assumptions and "≤" in bound.statement
    assert bound.statement in bound.summary() and bound.to_dict()["value"] == bound.value.item()
    for key in set(GROWING) & set(constants):
        assert function(**{**constants, key: 2 * constants[key]}).value > bound.value
    # Arrays of any of the three kinds, one axis against another.
    wide = function(**{**constants, "steps": np.array([[9], [16]]), "L": torch.tensor([2.0, 3.0, 4.0])})
    assert wide.value.shape == (2, 3) and all(term.shape == (2, 3) for term in wide.terms.values())
    torch.testing.assert_close(wide.value[0, 0], bound.value, rtol=1e-12, atol=0)


BAD = {
    "gap": ([-1.0, math.inf, math.nan], "Δ"),
    "steps": ([0, -3, 2.5, math.inf, math.nan], "T"),
    "eta": ([0.0, -0.1, math.inf, math.nan], "step size"),
    "L": ([-1.0, math.inf, math.nan], "smoothness constant"),
    "noise": ([-1.0, math.inf, math.nan], "bounded variance"),
    "wrong": ([-1.0, math.inf, math.nan], "wrong signs of a finite share"),
    "sigma": ([-1.0, math.inf, math.nan], "bounded variance"),
    "batch": ([0, 1.5, math.nan], "batch"),
    "beta": ([-0.1, 1.0, 1.5, math.nan], "0 ≤ β < 1"),
    "gamma_max": ([-1.0, math.inf, math.nan], "γ_max"),
    "first_gradient": ([-1.0, math.inf, math.nan], "first gradient"),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_input_outside_the_statement_names_the_assumption(name):
    function, constants = CALLS[name]
    assert set(constants) <= set(BAD)
    for key in constants:
        values, message = BAD[key]
        for value in values:
            with pytest.raises(AssumptionError, match=message):
                function(**{**constants, key: value})
            with pytest.raises(AssumptionError, match=r"at index 1"):
                function(**{**constants, key: torch.tensor([constants[key], value], dtype=torch.float64)})


@pytest.mark.parametrize("call, message", [
    (lambda: rates.deterministic("1", 1, 1, 1), "give a number"),
    (lambda: rates.deterministic(True, 1, 1, 1), "give a number"),
    (lambda: rates.deterministic(1j * torch.ones(1), 1, 1, 1), "real numbers"),
    (lambda: rates.deterministic(np.array(["1"]), 1, 1, 1), "real numbers"),
    (lambda: rates.deterministic(10**400, 1, 1, 1), "real numbers"),
    (lambda: rates.deterministic(torch.ones(2) > 0, 1, 1, 1), "real numbers"),
    (lambda: rates.deterministic(torch.ones(2), torch.ones(3), 1, 1), "do not broadcast"),
    (lambda: rates.deterministic(1e300, 1, 1e-300, 1), "exceeds the range"),
    (lambda: rates.deterministic_best(0.0, 1, 1.0), "0 < Δ"),
    (lambda: rates.best_step(1.0, 1, 0.0), "L > 0"),
    (lambda: rates.conversion(rates.deterministic(1, 1, 1, 1), 0.0), "unless it is clipped"),
    (lambda: rates.conversion(rates.deterministic(1, 1, 1, 1), math.nan), "0 < γ_min"),
    (lambda: rates.aligned_conversion(rates.deterministic(1, 1, 1, 1), -1.0), "0 < κ"),
    (lambda: rates.nuclear_conversion(rates.singular_weighted(1, 1, 1, 1, 1), 0.0, 1.0), "γ_min"),
    (lambda: rates.nuclear_noise(math.inf, 2), "bounded variance"),
    (lambda: rates.nuclear_noise(1.0, 0), "rank"),
    (lambda: rates.noise_moment([1.0], 1.0), "give a number"),
    (lambda: rates.noise_moment(1.0, math.inf), "second moment"),
    (lambda: rates.clipped_smoothness(1.0, 1.0, 0.0, 1.0), "γ_min"),
    (lambda: rates.clipped_rms(-1.0, 1.0), "factors"),
    (lambda: rates.schedule(0), "T"),
    (lambda: rates.schedule(1e34), "T < 8e31; T is 1e\\+34"),
    (lambda: rates.momentum_schedule(1.0, 1e34, 1.0, 1.0, 1.0), "R5's schedule"),
    (lambda: rates.deterministic(np.ma.masked_array([1.0, 2.0], [0, 1]), 1, 1, 1), "Δ is a masked array"),
    (lambda: rates.noise_moment(torch.empty(0)), "d ≥ 1; the last axis, of the coordinates, is empty"),
    (lambda: rates.noise_moment(1e200, 1e200), "exceeds the range"),
    (lambda: rates.noise_moment(np.full(2, 1e308)), "exceeds the range"),
    (lambda: rates.nuclear_noise(1e200, 4, gamma_rms=1e200), "exceeds the range"),
    (lambda: rates.best_step(1e308, 1, 1e-320), "exceeds the range"),
    (lambda: rates.clipped_smoothness(1e308, 1e308, 1.0, 10.0), "exceeds the range"),
    (lambda: rates.clipped_rms(1.7e308, 1.7e308), "exceeds the range"),
    (lambda: rates.momentum_order(1.0, 1.0, 1.0, 1.0, gamma_max=1e200), "exceeds the range"),
    (lambda: rates.signs_in_expectation(1, 1, 1, 1, math.inf), "wrong signs"),
    (lambda: rates.momentum_plateau(1.0, 1.0, beta=1.0), "0 ≤ β < 1"),
    (lambda: rates.momentum_plateau(1.0, 1.0, beta=0.5, eta=0.0), "η > 0"),
    (lambda: rates.momentum_order(-1.0, 1.0, 1.0, 1.0), "Δ"),
])
def test_errors(call, message):
    with pytest.raises(AssumptionError, match=message):
        call()


def test_conversion_without_its_assumption_fails():
    # One step on ½Σ L_i x_i² from x_i = ηγ_i, where R1 is an equality.
    L, gamma, eta = torch.tensor([1.0, 50.0]), torch.tensor([1.0, 0.1]), 1.0
    g = L * eta * gamma
    bound = rates.deterministic((g.square() / L).sum() / 2, 1, eta, (L * gamma.square()).sum())
    assert bound.value.item() == pytest.approx((gamma * g).sum().item())
    assert g.sum() <= rates.conversion(bound, gamma.min()).value
    # γ_min taken for the largest factor, κ for more than the ratio: violated at once.
    assert g.sum() > rates.conversion(bound, gamma.max()).value
    kappa = (gamma * g).sum() / g.sum()
    assert rates.aligned_conversion(bound, kappa).value.item() == pytest.approx(g.sum().item())
    assert g.sum() > rates.aligned_conversion(bound, 1.1 * kappa).value


CONVERSIONS = {
    "conversion": (lambda bound: rates.conversion(bound, 0.5), "l1_weighted", "l1"),
    "aligned_conversion": (lambda bound: rates.aligned_conversion(bound, 0.5), "l1_weighted", "l1"),
    "nuclear_conversion": (lambda bound: rates.nuclear_conversion(bound, 0.5, 1.0), "singular", "nuclear"),
}
LEFT_SIDES = {"spectral": "nuclear", "singular_weighted": "singular", "any_direction": "inner"}


@pytest.mark.parametrize("name", CALLS)
def test_conversions_take_bounds_of_their_own_left_side_only(name):
    function, constants = CALLS[name]
    bound = function(**constants)
    assert bound.left == LEFT_SIDES.get(name, "l1_weighted") and bound.to_dict()["left"] == bound.left
    for convert, wanted, given_back in CONVERSIONS.values():
        if bound.left == wanted:
            converted = convert(bound)
            assert converted.left == given_back
            with pytest.raises(AssumptionError, match="assumes a bound on"):
                convert(converted)
        else:
            with pytest.raises(AssumptionError, match=r"assumes a bound on .*; this one is on "):
                convert(bound)


def test_values_at_the_ends_of_the_range():
    # ηT, 2Δ, γ_max² and products of small factors leave float64 where the result does not.
    assert rates.deterministic(1e308, 10**9, 1e300, 0.0).value.item() == pytest.approx(0.1, rel=1e-14)
    assert rates.stochastic(1e308, 10**9, 1e300, 0.0, 0.0).value.item() == pytest.approx(0.1, rel=1e-14)
    assert rates.spectral(1e308, 10**9, 1e300, 0.0, 0.0).value.item() == pytest.approx(0.1, rel=1e-14)
    assert rates.best_step(1e308, 1, 1.0).item() == pytest.approx(math.sqrt(2) * 1e154, rel=1e-14)
    assert rates.clipped_smoothness(1.0, 0.0, 1e200, 1.0).item() == 0.0
    assert rates.clipped_smoothness(4.0, 1e-300, 1e200, 1.0).item() == pytest.approx(1e100, rel=1e-14)
    assert rates.noise_moment(1.7e308).item() == 1.7e308 and rates.nuclear_noise(1e308, 100, batch=100).item() == pytest.approx(1e308)
    assert rates.momentum_order(1.0, 0.0, 1.0, 1.0, gamma_max=1e200).item() == pytest.approx(4e200)
    tiny = rates.momentum(0.0, 1, 1e50, 1e300, 0.0, 0.0, beta=0.5, gamma_max=1e-170).terms
    assert tiny["smoothness"].item() == pytest.approx(0.5e10) and tiny["drift"].item() == pytest.approx(2e10)
    assert rates.momentum_plateau(1e300, 0.0, beta=0.5, eta=1e50, gamma_max=1e-170).value.item() == pytest.approx(2.5e10)


def test_noise_moment():
    sigma, gamma = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(rates.noise_moment(sigma, gamma), torch.tensor([2.5, 3.0], dtype=torch.float64))
    # A number is one coordinate, and beside factors the σ_i of each.
    assert rates.noise_moment(3.0).item() == 3.0
    assert rates.noise_moment(3.0, torch.ones(4)).item() == 12.0
