"""What is known elsewhere: the lemmas of its proofs, runs against each bound, and the table."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deva_theory import rates
from deva_theory.rates import AssumptionError, known, momentum_bounds
from tests.rates.instances import generator, randn, standing

seeds = st.integers(0, 2**32 - 1)


# --- Lemmas ----------------------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 60), st.integers(-3, 3))
def test_potential_lemmas(seed, T, size):
    g = randn(T, seed=seed) * 10.0 ** (size * randn(T, seed=seed + 1))
    S = g.square().cumsum(0)
    assert (g.square() / S).sum() <= (1 + (S[-1] / S[0]).log()) * (1 + 1e-9)
    assert (g.square() / S.sqrt()).sum() >= S[-1].sqrt() * (1 - 1e-9)
    assert g.abs().sum() <= math.sqrt(T) * S[-1].sqrt() * (1 + 1e-9)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_tangent_of_the_logarithm(u, a):
    assert math.log(u) <= u / a + math.log(a) - 1 + 1e-9


@given(seeds, st.integers(1, 6), st.sampled_from([1e-2, 1.0, 1e2]))
def test_normalised_direction(seed, d, scale):
    g, n = randn(d, seed=seed), scale * randn(d, seed=seed + 1)
    direction = (g + n) / (g + n).norm()
    assert g @ direction >= g.norm() - 2 * n.norm() - 1e-9 * scale
    assert g.abs().sum() <= math.sqrt(d) * g.norm() * (1 + 1e-12)


# --- Runs on ½ Σ L_i x_i² --------------------------------------------------------------------------------------------------------

L = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)


def gap_of(x: Tensor) -> Tensor:
    return 0.5 * (L * x.square()).sum(-1)


@pytest.mark.parametrize("T", [1, 3, 20, 200])
@pytest.mark.parametrize("eta", [0.05, 0.5, 5.0])
def test_adagrad(T, eta):
    x = x0 = 2 * randn(300, 3, seed=T)
    S, plain, first = torch.zeros_like(x), 0.0, None
    for _ in range(T):
        g = L * x
        S = S + g.square()
        first = S if first is None else first
        plain = plain + g.abs().sum(-1) / T
        x = x - eta * g / S.sqrt()
    measured = known.adagrad_measured(gap_of(x0), T, eta, L, (S / first).log())
    assert (plain <= measured.value * (1 + 1e-9)).all()
    before = known.adagrad(gap_of(x0), T, eta, L, first.sqrt())
    assert (plain <= before.value * (1 + 1e-9)).all()
    torch.testing.assert_close(sum(before.terms.values()), before.value)


def test_adagrad_half_the_constant_is_violated():
    # One step of any size: |g_1| against (1/√1)[Δ/η + ηL/2] at η = √(2Δ/L) = x_0, where the two are equal.
    bound = known.adagrad_measured(0.5, 1, 1.0, 1.0, 0.0)
    assert bound.value == 1.0 and 1.0 > (bound.value - bound.terms["smoothness"] / 2)


def test_adagrad_shapes():
    T = torch.tensor([10, 100])
    assert known.adagrad(1.0, T, 0.1, L, torch.ones(3)).value.shape == (2,)
    assert known.adagrad(1.0, T, torch.tensor([[0.1], [0.2], [0.3]]), 1.0, 1.0).value.shape == (3, 2)
    one, three = known.adagrad(1.0, 10, 0.1, 1.0, 1.0), known.adagrad(1.0, 10, 0.1, torch.ones(3), 1.0)
    torch.testing.assert_close(three.terms["smoothness"], 3 * one.terms["smoothness"])


def noisy(x: Tensor, sigma: float, source: torch.Generator) -> Tensor:
    """One gradient, with isotropic noise of E‖n‖² = σ²."""
    return L * x + sigma / math.sqrt(x.shape[-1]) * torch.randn(x.shape, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("eta", [0.02, 0.1, 0.45])
def test_euclidean_methods(sigma, eta):
    T, runs = 20, 1500
    x0 = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    for normalised in (True, False):
        x, source = x0.expand(runs, 3), generator(7)
        norm, square, plain = 0.0, 0.0, 0.0
        for _ in range(T):
            g = L * x
            norm, square, plain = norm + g.norm(dim=-1) / T, square + g.square().sum(-1) / T, plain + g.abs().sum(-1) / T
            estimate = noisy(x, sigma, source)
            x = x - eta * (estimate / estimate.norm(dim=-1, keepdim=True) if normalised else estimate)
        function = known.normalised_sgd if normalised else known.sgd
        bound = function(gap_of(x0), T, eta, L.max(), sigma)
        assert standing(norm, bound.value)
        assert standing(plain, known.l1_from_l2(bound, 3).value)
        if not normalised:
            assert standing(square, bound.value**2)
            torch.testing.assert_close(sum(bound.terms.values()), bound.value)


def test_normalised_sgd_is_attained_and_half_is_violated():
    # R1's worst case in one dimension.
    T, eta, x, norm = 6, 0.5, 3.0, 0.0
    for _ in range(T):
        norm, x = norm + 2 * abs(x) / T, x - eta * math.copysign(1, x) * (x != 0)
    bound = known.normalised_sgd(9.0, T, eta, 2.0)
    assert norm == pytest.approx(bound.value.item(), rel=1e-12)
    assert norm > (bound.value - bound.terms["smoothness"] / 2).item()


@pytest.mark.parametrize("T", [4, 25])
@pytest.mark.parametrize("sigma", [0.3, 5.0])
def test_signsgd(T, sigma):
    runs, eta = 1500, 1 / math.sqrt(L.sum().item() * T)
    x0 = torch.tensor([0.5, -0.5, 2.0], dtype=torch.float64)
    x, source, norm = x0.expand(runs, 3), generator(8), 0.0
    for _ in range(T):
        norm = norm + (L * x).abs().sum(-1) / T
        # σ_i = sigma for one sample; a batch of T.
        x = x - eta * noisy(x, sigma * math.sqrt(3 / T), source).sign()
    bound = known.signsgd(gap_of(x0), T, L.sum(), rates.noise_moment(torch.full((3,), sigma, dtype=torch.float64)))
    assert standing(norm, bound.value)


@given(st.floats(0, 1e3), st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_signsgd_and_muon_are_special_cases(gap, T, curvature, sigma):
    eta = 1 / math.sqrt(curvature * T)
    general = rates.stochastic(gap, T, eta, curvature, sigma, batch=T).value.item()
    assert known.signsgd(gap, T, curvature, sigma).value.item() == pytest.approx(general, rel=1e-9)
    if gap > 1e-6:
        eta = rates.best_step(gap, T, curvature)
        spectral = rates.spectral(gap, T, eta, curvature, rates.nuclear_noise(sigma, 3, batch=5)).value.item()
        assert known.muon(gap, T, curvature, sigma, 3, batch=5).value.item() == pytest.approx(spectral, rel=1e-9)


def test_values():
    # Written out once more; in one dimension, near the largest step size, noise and curvature count fully.
    gap, T, eta, curvature, sigma, B = 1.3, 7, 0.21, 2.9, 0.6, 3
    right = (gap / (eta * T) + eta * curvature * sigma**2 / (2 * B)) / (1 - eta * curvature / 2)
    assert known.sgd(gap, T, eta, curvature, sigma, batch=B).value.item() == pytest.approx(math.sqrt(right), rel=1e-12)
    right = gap / (eta * T) + eta * curvature / 2 + 2 * sigma / math.sqrt(B)
    assert known.normalised_sgd(gap, T, eta, curvature, sigma, batch=B).value.item() == pytest.approx(right, rel=1e-12)
    right = (2 * gap / eta + eta * curvature * (2 * math.log(2 * eta * curvature / 0.4) - 1)) / math.sqrt(T)
    assert known.adagrad(gap, T, eta, curvature, 0.4).value.item() == pytest.approx(right, rel=1e-12)


def test_sgd_is_attained_by_its_stationary_law():
    # ½Lx² with noise: E x² = ησ²/(L(2 - ηL)) repeats itself, and the bound is exact where Δ/(ηT) → 0.  Half of the noise is violated.
    eta, curvature, sigma = 0.3, 2.0, 1.5
    square = curvature**2 * eta * sigma**2 / (curvature * (2 - eta * curvature))
    bound = known.sgd(0.0, 1, eta, curvature, sigma).value.item() ** 2
    assert square == pytest.approx(bound, rel=1e-12) and square > bound / 2


def test_gradient_descent_at_the_optimum():
    bound = known.sgd(0.0, 10, 0.1, 1.0)
    assert bound.value == 0 and all(term == 0 for term in bound.terms.values())


def test_sgd_at_the_ends_of_the_range():
    # σ² and Δ/η would leave it, the value does not.
    for sigma in (1e-170, 1e200):
        bound = known.sgd(0.0, 1, 1.0, 1.0, sigma)
        assert bound.value.item() == pytest.approx(sigma, rel=1e-14) and bound.terms["noise"] == bound.value
    assert known.sgd(1e300, 1, 1e-100, 1.0).value.item() == pytest.approx(1e200, rel=1e-14)


def test_the_signs_and_the_noise_of_biased_samples():
    # Ĝ = -0.01 ∇f in every sample: no mean of B of them comes closer to ∇f, and sign descent climbs for ever.  f has the slope 1 from
    # x_0 on, and falls by 2 to its minimum on the other side; curvature 2.
    T, slope, error = 100, 1.0, 1.01
    left = slope
    assert known.signsgd(2.0, T, 2.0, rates.noise_moment(error)).value < left
    eta = 1 / math.sqrt(2.0 * T)
    assert rates.stochastic(2.0, T, eta, 2.0, rates.noise_moment(error), batch=1).value >= left


@pytest.mark.parametrize("make, left", [
    (lambda: known.signsgd(1.0, 1, 1.0, 1.0), "l1"),
    (lambda: known.adagrad(1.0, 1, 1.0, 1.0, 1.0), "l1"),
    (lambda: known.adagrad_measured(1.0, 1, 1.0, 1.0, 1.0), "l1"),
    (lambda: known.muon(1.0, 1, 1.0, 1.0, 1), "nuclear"),
    (lambda: known.normalised_sgd(1.0, 1, 1.0, 1.0), "l2"),
    (lambda: known.sgd(1.0, 1, 1.0, 1.0), "l2"),
    (lambda: known.l1_from_l2(known.sgd(1.0, 1, 1.0, 1.0), 3), "l1"),
    (lambda: known.l2_from_larger(known.muon(1.0, 1, 1.0, 1.0, 1)), "l2"),
    (lambda: known.l2_from_larger(rates.conversion(rates.deterministic_best(1.0, 1, 1.0), 1.0)), "l2"),
    (lambda: known.l1_from_l2(known.l2_from_larger(rates.spectral(1.0, 1, 1.0, 1.0, 0.0)), 4), "l1"),
])
def test_left_sides(make, left):
    bound = make()
    assert bound.left == left and bound.to_dict()["left"] == left


# --- The table -------------------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "gap": 1.0, "L": 2.0, "noise": 1.0, "sigma": 1.0, "rank": 2, "first": 0.5, "first_gradient": 1.0,
}


@pytest.mark.parametrize("row", known.KNOWN_RATES, ids=lambda row: row.name)
def test_the_exponents_of_the_table(row):
    T = torch.tensor([1e10, 1e14], dtype=torch.float64)
    wanted = inspect.signature(row.rate).parameters
    arguments = {name: x for name, x in ARGUMENTS.items() if name in wanted and not (name == "sigma" and "exact" in row.batch)}
    if "batch" in wanted and row.batch.startswith("T"):
        arguments["batch"] = T
    if "eta" in wanted:
        arguments["eta"] = 1.0 if row.name.startswith("AdaGrad") else T**-0.5
    if row.rate is rates.singular_weighted:
        arguments["noise"] = T**-0.5
    value = row.rate(steps=T, **arguments).value
    exponent = ((value[1] / value[0]).log10() / 4).item()
    assert exponent == pytest.approx(row.exponent, abs=5e-3)
    per_step = 2 if row.batch.startswith("T") else 1
    assert row.sample_exponent == row.exponent / per_step
    assert row.to_dict()["rate"] == row.rate.__name__ and row.source and row.assumptions


def test_the_row_of_the_momentum_has_all_of_its_assumptions():
    (row,) = (row for row in known.KNOWN_RATES if row.rate is rates.momentum_schedule)
    assert row.assumptions == momentum_bounds.ASSUMPTIONS and any("Γ ≤ γ_max" in text for text in row.assumptions)
    assert row.assumptions == rates.momentum(1.0, 1, 1.0, 1.0, 1.0, 1.0, beta=0.5).assumptions


def test_every_row_names_a_proof():
    homes = {name: function for module in (rates, known) for name, function in inspect.getmembers(module, inspect.isfunction)}
    for row in known.KNOWN_RATES:
        assert "Proof" in (homes[row.proved].__doc__ or "")


@pytest.mark.parametrize("call, message", [
    (lambda: known.signsgd(1.0, 0, 1.0, 1.0), "T ≥ 1"),
    (lambda: known.signsgd(1.0, 1, 0.0, 1.0), "L > 0"),
    (lambda: known.signsgd(1.0, 1, 1.0, math.inf), "bounded variance"),
    (lambda: known.muon(0.0, 1, 1.0, 1.0, 1), "0 < Δ"),
    (lambda: known.muon(1.0, 1, 1.0, 1.0, 0), "rank"),
    (lambda: known.adagrad(1.0, 1, 1.0, 1.0, 0.0), "not 0 in the coordinate"),
    (lambda: known.adagrad(1.0, 1, 1.0, 0.0, 1.0), "L > 0"),
    (lambda: known.adagrad(0.1, 1, 1.0, 1.0, 1e9), "no function has these constants"),
    (lambda: known.adagrad(1.0, 1, 0.0, 1.0, 1.0), "η > 0"),
    (lambda: known.adagrad_measured(1.0, 1, 1.0, 1.0, -1.0), "grow"),
    (lambda: known.normalised_sgd(1.0, 1, 1.0, 1.0, math.nan), "bounded variance"),
    (lambda: known.sgd(1.0, 1, 2.0, 1.0), "η < 2/L"),
    (lambda: known.sgd(1.0, 1, torch.tensor([0.1, 3.0]), 1.0), "η < 2/L"),
    (lambda: known.sgd(-1.0, 1, 0.1, 1.0), "bounded below"),
    (lambda: known.l1_from_l2(known.sgd(1.0, 1, 0.1, 1.0), 0), "dimension"),
    (lambda: known.l1_from_l2(known.signsgd(1.0, 1, 1.0, 1.0), 4), "assumes a bound on avg E‖∇f‖_2; this one is on avg E‖∇f‖_1"),
    (lambda: known.l1_from_l2(rates.deterministic(1, 1, 1, 1), 4), "assumes a bound on avg E‖∇f‖_2"),
    (lambda: known.l2_from_larger(rates.deterministic(1, 1, 1, 1)), "with Γ ≡ 1 that is ‖∇f‖_1: conversion"),
    (lambda: known.l2_from_larger(known.sgd(1.0, 1, 0.1, 1.0)), r"avg E‖∇f‖_1 or avg E‖∇f‖_\*; this one is on avg E‖∇f‖_2"),
    (lambda: known.l2_from_larger(rates.any_direction(1, 1, 1, 1, 1)), "this one is on avg E<Ĝ,D>"),
    (lambda: known.adagrad(1.0, 1, 1.0, torch.empty(0), torch.empty(0)), "the last axis, of the coordinates, is empty"),
    (lambda: known.muon(1.0, 1, 1.0, 1e200, 10**10, batch=np.ma.masked_array([1.0, 2.0], [0, 1])), "masked array"),
])
def test_errors(call, message):
    with pytest.raises(AssumptionError, match=message):
        call()
