"""The inequalities that the proofs of R1-R5 cite, each on random instances, and the facts on conversion (R4)."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory import rates
from deva_theory.linalg import polar_factor
from tests.rates.instances import box, randn, semidefinite, uniform

# Zero or of a size whose square is a number.
reals = st.just(0.0) | st.floats(1e-6, 1e6).flatmap(lambda x: st.sampled_from([x, -x]))
factors = st.just(0.0) | st.floats(1e-6, 10)
betas = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999]) | st.floats(0, 0.9999, allow_subnormal=False)
seeds = st.integers(0, 2**32 - 1)


@given(reals, reals)
def test_wrong_sign(true, estimate):
    noise = abs(estimate - true)
    if np.sign(true) != np.sign(estimate):
        assert abs(true) <= noise * (1 + 1e-15)
    assert -true * np.sign(estimate) <= -abs(true) + 2 * noise + 1e-9 * abs(true)


@given(st.lists(st.tuples(factors, reals), min_size=1, max_size=20))
def test_cauchy_schwarz_with_dependence(pairs):
    gamma, n = np.array(pairs).T
    assert np.mean(gamma * abs(n)) <= math.sqrt(np.mean(gamma**2)) * math.sqrt(np.mean(n**2)) * (1 + 1e-12)


@given(seeds, st.integers(1, 4))
def test_descent_lemma_on_quadratics(seed, d):
    H, x = semidefinite(1, d, seed)[0], randn(d, seed=seed + 1)
    gamma, eta = 2 * uniform(d, seed=seed + 2), 0.3
    step = gamma * randn(d, seed=seed + 3).sign()
    after = x - eta * step
    right = 0.5 * x @ H @ x - eta * (H @ x) @ step + 0.5 * eta**2 * box(H, gamma)
    assert 0.5 * after @ H @ after <= right + 1e-9 * (1 + right.abs())


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1e-2, 1.0, 1e2]))
def test_matrix_lemmas(seed, m, n, scale):
    G, D = randn(m, n, seed=seed), randn(m, n, seed=seed + 1)
    N = scale * randn(m, n, seed=seed + 2)
    nuclear = lambda X: torch.linalg.svdvals(X).sum()  # noqa: E731
    slack = 1e-12 * (1 + scale) * m * n
    assert (N * D).sum() <= nuclear(N) * torch.linalg.matrix_norm(D, 2) + slack
    assert (G * polar_factor(G + N)).sum() >= nuclear(G) - 2 * nuclear(N) - slack
    assert nuclear(N) <= math.sqrt(min(m, n)) * N.norm() + slack
    U, sigma, Vt = torch.linalg.svd(G + N, full_matrices=False)
    gamma = uniform(len(sigma), seed=seed + 3)
    torch.testing.assert_close(((G + N) * ((U * gamma) @ Vt)).sum(), (gamma * sigma).sum(), rtol=1e-10, atol=1e-10)


@given(betas, st.integers(1, 60), seeds)
def test_momentum_error_recursion(beta, T, seed):
    gradients, noise = randn(T, seed=seed), randn(T, seed=seed + 1)
    m = previous = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        m = beta * m + (1 - beta) * (gradients[t] + noise[t])
        drift = beta * (gradients[t - 1] - gradients[t]) if t else -beta * gradients[0]
        error = beta * previous + drift + (1 - beta) * noise[t]
        torch.testing.assert_close(m - gradients[t], error, rtol=1e-9, atol=1e-12)
        previous = error
    t = T - 1
    solved = -(beta ** (t + 1)) * gradients[0] + sum((1 - beta) * beta ** (t - s) * noise[s] for s in range(T))
    solved += sum(beta ** (t - s + 1) * (gradients[s - 1] - gradients[s]) for s in range(1, T))
    torch.testing.assert_close(previous, solved, rtol=1e-9, atol=1e-12)


@given(betas, st.integers(1, 300))
def test_sums_of_the_momentum_bounds(beta, T):
    t = np.arange(T)
    weights = [(1 - beta) * beta ** np.arange(k + 1) for k in t]
    noise = np.array([np.sqrt((w**2).sum()) for w in weights])
    drift = np.array([(beta ** np.arange(1, k + 1)).sum() for k in t])
    unit = {"gap": 0.0, "steps": T, "eta": 1.0, "first_gradient": 1.0, "beta": beta}
    sharp = rates.momentum_sharp(L=1.0, sigma=1.0, **unit).terms
    assert sharp["start"].item() == pytest.approx(2 * (beta ** (t + 1.0)).mean(), rel=1e-9)
    assert sharp["drift"].item() == pytest.approx(2 * drift.mean(), rel=1e-9, abs=1e-9)
    assert 2 * noise.mean() <= sharp["noise"].item() * (1 + 1e-9)
    loose = rates.momentum(L=1.0, sigma=1.0, **unit)
    for name, term in sharp.items():
        assert term <= loose.terms[name] * (1 + 1e-9)
    # The bias-corrected average: weights of sum 1.
    normalised = [w / w.sum() for w in weights]
    del unit["first_gradient"]
    corrected = rates.momentum_corrected(L=1.0, sigma=1.0, **unit).terms
    assert 2 * np.mean([(w * np.arange(len(w))).sum() for w in normalised]) <= corrected["drift"].item() * (1 + 1e-9) + 1e-12
    assert 2 * np.mean([np.sqrt((w**2).sum()) for w in normalised]) <= corrected["noise"].item() * (1 + 1e-9)
    n = t + 1.0
    rest = 2 * beta**n * (1 - beta) / ((1 + beta) * (1 - beta**n))
    assert (rest <= 1 / n + 1e-12).all() and (rest <= 2 * beta**n / (1 + beta) + 1e-12).all()
    assert (1 / n).sum() <= 1 + math.log(T) + 1e-12
    np.testing.assert_allclose([(w**2).sum() for w in normalised], (1 - beta) / (1 + beta) + rest, rtol=1e-9)


def exact_brackets(beta: float, T: int) -> dict[str, Fraction]:
    """The start, the drift and the square of the noise of `momentum_sharp` at unit constants, summed as in its proof."""
    b = Fraction(beta)
    powers = [b**t for t in range(T)]
    mean, of_squares = sum(powers) / T, sum(p * p for p in powers) / T
    drift = sum(b * (1 - p) / (1 - b) for p in powers) / T
    return {"start": 2 * b * mean, "drift": 2 * drift, "noise": 4 * (1 - b) / (1 + b) * (1 - b * b * of_squares)}


NEXT_TO_ONE = [1 - 2.0**-53, *(1 - 10.0**-k for k in range(2, 16))]


@pytest.mark.parametrize("T", [1, 2, 3, 10, 99])
@pytest.mark.parametrize("beta", [0.0, 1e-300, 0.3, 0.5, 0.6, 0.9, *NEXT_TO_ONE])
def test_the_sums_lose_no_digits_next_to_one(beta, T):
    found = rates.momentum_sharp(0.0, T, 1.0, 1.0, 1.0, 1.0, beta=beta).terms
    for name, exact in exact_brackets(beta, T).items():
        if name == "drift" and T == 1:
            assert found[name] == 0
        elif exact > Fraction(10) ** -290:
            value = Fraction(found[name].item()) ** (2 if name == "noise" else 1)
            assert abs(value / exact - 1) < 8 * Fraction(2) ** -52, (name, float(value / exact - 1))


def test_plain_differences_lose_them():
    # The control: 1 minus the mean of the powers, as it is written.
    beta, T = 1 - 1e-15, 2
    mean = (1 - beta**T) / (T * (1 - beta))
    assert abs(2 * beta / (1 - beta) * (1 - mean) / float(exact_brackets(beta, T)["drift"]) - 1) > 0.1


@given(st.floats(1e-3, 1e3), st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_no_step_size_is_better_than_the_best(gap, steps, L, factor):
    best, eta = rates.deterministic_best(gap, steps, L), rates.best_step(gap, steps, L)
    assert best.value.item() == pytest.approx(math.sqrt(2 * gap * L / steps), rel=1e-12)
    assert rates.deterministic(gap, steps, eta, L).value.item() == pytest.approx(best.value.item(), rel=1e-12)
    assert rates.deterministic(gap, steps, factor * eta, L).value >= best.value * (1 - 1e-12)
    noisy = rates.stochastic_best(gap, steps, L, 3.0, batch=4)
    assert (noisy.value - best.value).item() == pytest.approx(3.0)


@given(seeds, st.integers(1, 4), st.floats(0.01, 2))
def test_clipping(seed, d, least):
    H, gamma = semidefinite(1, d, seed)[0], 1.5 * uniform(d, seed=seed + 1)
    one = torch.ones(d, dtype=torch.float64)
    limit = rates.clipped_smoothness(box(H, gamma), box(H, one), least, gamma.max())
    assert box(H, gamma.clamp_min(least)) <= limit * (1 + 1e-9)
    samples = 1.5 * uniform(50, seed=seed + 2)
    rms = lambda x: x.square().mean().sqrt()  # noqa: E731
    assert rms(samples.clamp_min(least)) <= rates.clipped_rms(rms(samples), least) * (1 + 1e-12)


def test_clipping_needs_the_triangle():
    # H = 11ᵀ, Γ = (1, 0), clipped at .1: L_Γ + γ_min² L_∞ is too small.
    H, gamma, least = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 0.1
    assert box(H, gamma.clamp_min(least)).item() == pytest.approx(1.21)
    assert box(H, gamma) + least**2 * 4 < 1.21
    assert rates.clipped_smoothness(1.0, 4.0, least, 1.0).item() >= 1.21


@given(seeds, st.integers(1, 4), st.floats(0.01, 1), st.floats(0.01, 10))
def test_conversion_by_the_smallest_factor_never_shows_an_advantage(seed, d, least, eta):
    H = semidefinite(1, d, seed)[0]
    gamma = torch.maximum(2 * uniform(d, seed=seed + 1), torch.tensor(least, dtype=torch.float64))
    sigma, ones = uniform(d, seed=seed + 2), torch.ones(d, dtype=torch.float64)
    adapted = rates.conversion(rates.stochastic(1.0, 7, eta, box(H, gamma), rates.noise_moment(sigma, gamma)), least)
    plain = rates.stochastic(1.0, 7, eta * least, box(H, ones), rates.noise_moment(sigma))
    for name, term in plain.terms.items():
        assert adapted.terms[name] >= term * (1 - 1e-12)


@given(seeds, st.integers(1, 4))
def test_alignment_gives_the_root_of_rho(seed, d):
    H, g = semidefinite(1, d, seed)[0], randn(d, seed=seed + 1)
    gamma = 0.1 + uniform(d, seed=seed + 2)
    L, L_inf = box(H, gamma), box(H, torch.ones(d, dtype=torch.float64))
    kappa = (gamma * g.abs()).sum() / g.abs().sum()
    assert gamma.min() <= kappa * (1 + 1e-12)
    quotient = rates.aligned_conversion(rates.deterministic_best(1.0, 9, L), kappa).value / rates.deterministic_best(1.0, 9, L_inf).value
    rho = (L / (gamma * g.abs()).sum() ** 2) / (L_inf / g.abs().sum() ** 2)
    torch.testing.assert_close(quotient, rho.sqrt(), rtol=1e-10, atol=0)
