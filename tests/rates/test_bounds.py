"""The bounds of R1-R5: the inequalities of their proofs, exact and simulated runs, controls that must fail, limits and errors."""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deva_theory import rates
from deva_theory.certify import descent_to_rate
from deva_theory.linalg import polar_factor
from deva_theory.rates import AssumptionError
from paper_checks.rates_momentum import momentum_bound
from paper_checks.rates_noise import walk

# Zero or of a size whose square is a number.
reals = st.just(0.0) | st.floats(1e-6, 1e6).flatmap(lambda x: st.sampled_from([x, -x]))
factors = st.just(0.0) | st.floats(1e-6, 10)
betas = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999]) | st.floats(0, 0.9999, allow_subnormal=False)
seeds = st.integers(0, 2**32 - 1)
ROUNDING = 1e-9


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def box(H: Tensor, gamma: Tensor) -> Tensor:
    """L_Γ of H ≽ 0: the corners of the box |u_i| ≤ γ_i attain it."""
    corners = torch.tensor(list(itertools.product((1.0, -1.0), repeat=H.shape[-1])), dtype=torch.float64)
    u = corners * gamma[..., None, :]
    return torch.einsum("...ki,...ij,...kj->...k", u, H, u).amax(-1)


def semidefinite(count: int, d: int, seed: int) -> Tensor:
    A = randn(count, d, d, seed=seed)
    return A @ A.mT


# --- The inequalities that the proofs cite ---------------------------------------------------------------------------------------


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


# --- Runs ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """What a batch of runs shows, one entry per run: averages over the steps."""

    weighted: Tensor
    plain: Tensor
    smoothness: Tensor
    gap: Tensor
    first: Tensor
    gammas: Tensor  # (T, runs, d)
    least_alignment: Tensor


def adagrad_factors(history: list[Tensor], noise: Tensor) -> Tensor:
    """γ of AdaGrad; it depends on the current noise."""
    S = torch.stack(history).square().sum(0)
    return (history[-1].square() / S).nan_to_num(0.0).sqrt()


def adversarial_factors(history: list[Tensor], noise: Tensor) -> Tensor:
    """1 where the noise turns the sign, small elsewhere: what makes R2's factor 2 necessary."""
    return torch.where(history[-1].sign() != (history[-1] - noise).sign(), 1.0, 0.1)


RULES = {
    "Γ ≡ 1": lambda history, noise: torch.ones_like(noise),
    "fixed": lambda history, noise: torch.linspace(0.2, 1.5, noise.shape[-1], dtype=torch.float64).expand_as(noise),
    "AdaGrad": adagrad_factors,
    "with the noise": adversarial_factors,
}


def simulate(H: Tensor, x: Tensor, eta: Tensor, T: int, rule: str, *, sigma: float = 0.0, beta: float = 0.0, seed: int = 0) -> Rows:
    """Run x ← x - ηΓ⊙sign(m) on ½xᵀHx, for a batch of instances; H ≽ 0."""
    gap, source = 0.5 * torch.einsum("ni,nij,nj->n", x, H, x), generator(seed)
    history, m, gammas = [], torch.zeros_like(x), []
    weighted = plain = smoothness = torch.zeros_like(gap)
    first, alignment = None, torch.full_like(gap, math.inf)
    for _ in range(T):
        g = torch.einsum("nij,nj->ni", H, x)
        noise = sigma * torch.randn(g.shape, generator=source, dtype=torch.float64)
        m = beta * m + (1 - beta) * (g + noise)
        history.append(g + noise)
        gamma = RULES[rule](history, noise)
        first = g.abs().sum(-1) if first is None else first
        norms = (gamma * g.abs()).sum(-1), g.abs().sum(-1)
        weighted, plain = weighted + norms[0] / T, plain + norms[1] / T
        alignment = torch.minimum(alignment, norms[0] / norms[1])
        smoothness = smoothness + box(H, gamma) / T
        gammas.append(gamma)
        x = x - eta[:, None] * gamma * m.sign()
    return Rows(weighted, plain, smoothness, gap, first, torch.stack(gammas), alignment)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [1, 4, 30])
def test_R1_on_quadratics(rule, T):
    n = 400
    H, eta = semidefinite(n, 3, T), 10 ** (2 * uniform(n, seed=T) - 1.5)
    rows = simulate(H, 3 * randn(n, 3, seed=T + 1), eta, T, rule)
    bound = rates.deterministic(rows.gap, T, eta, rows.smoothness)
    assert (rows.weighted <= bound.value * (1 + ROUNDING)).all()
    # The conversion, by the alignment of each run.
    usable = rows.least_alignment > 1e-6
    of_usable = rates.deterministic(rows.gap[usable], T, eta[usable], rows.smoothness[usable])
    back = rates.aligned_conversion(of_usable, rows.least_alignment[usable])
    assert (rows.plain[usable] <= back.value * (1 + ROUNDING)).all()
    least = rows.gammas.amin((0, 2))
    clipped = least > 0
    worst = rates.conversion(rates.deterministic(rows.gap[clipped], T, eta[clipped], rows.smoothness[clipped]), least[clipped])
    assert (rows.plain[clipped] <= worst.value * (1 + ROUNDING)).all()


@pytest.mark.parametrize("T", [1, 2, 7, 50])
def test_R1_is_attained_and_half_of_either_term_is_not_enough(T):
    eta = torch.tensor([0.5], dtype=torch.float64)
    H = torch.full((1, 1, 1), 3.0, dtype=torch.float64)
    rows = simulate(H, T * eta[:, None], eta, T, "Γ ≡ 1")
    bound = rates.deterministic(rows.gap, T, eta, rows.smoothness)
    torch.testing.assert_close(rows.weighted, bound.value, rtol=1e-12, atol=0)
    for name in bound.terms:
        assert (rows.weighted > (bound.value - bound.terms[name] / 2) * (1 + ROUNDING)).all()


def standing(samples: Tensor, limit: Tensor) -> bool:
    """Is the mean of the samples at most the limit, by five standard errors."""
    return bool(samples.mean() - 5 * samples.std() / math.sqrt(len(samples)) <= limit)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sigma", [0.3, 5.0])
@pytest.mark.parametrize("T", [4, 25])
def test_R2_with_gaussian_noise(rule, sigma, T):
    runs, L = 1500, torch.tensor([3.0, 1.0], dtype=torch.float64)
    H, eta = torch.diag(L).expand(runs, 2, 2), torch.full((runs,), T**-0.5, dtype=torch.float64)
    rows = simulate(H, torch.tensor([[1.0, -0.5]], dtype=torch.float64).repeat(runs, 1), eta, T, rule, sigma=sigma / math.sqrt(T), seed=T)
    noise = rates.noise_moment(sigma, rows.gammas.square().mean(1).sqrt().mean(0))
    bound = rates.stochastic_paper_setting(rows.gap[0], T, rows.smoothness.mean(), noise)
    assert standing(rows.weighted, bound.value)
    general = rates.stochastic(rows.gap[0], T, eta[0], rows.smoothness.mean(), noise, batch=T)
    torch.testing.assert_close(general.value, bound.value, rtol=1e-12, atol=0)


def huber_walk(T: int, runs: int, *, start: float, factors: tuple[float, float], turned: float, seed: int) -> tuple[float, float, float]:
    """Sign descent on the Huber function (slope 1, curvature 2) with η = 1/√T; noise turns the sign with probability `turned`.

    Γ is factors[0] where it is turned, else factors[1].  Returns the averages of γ|f'| and γ|f'|1{wrong}, and E γ².
    """
    eta = T**-0.5
    x, source = torch.full((runs,), start * math.sqrt(T) * eta, dtype=torch.float64), generator(seed)
    norm = wrong = square = 0.0
    for _ in range(T):
        slope = (2 * x).clamp(-1, 1)
        turn = torch.rand(runs, generator=source, dtype=torch.float64) < turned
        gamma = torch.where(turn, factors[0], factors[1])
        norm, wrong = norm + (gamma * slope.abs()).mean().item() / T, wrong + (gamma * slope.abs() * turn).mean().item() / T
        square += gamma.square().mean().item() / T
        x = x - eta * gamma * torch.where(turn, -slope.sign(), slope.sign())
    return norm, wrong, square


@pytest.mark.parametrize("factor, violated", [(1.0, False), (0.5, True)])
def test_the_noise_terms_are_needed(factor, violated):
    T, start, eta = 400, 3.0, 400**-0.5
    norm, wrong, square = huber_walk(T, 400, start=start, factors=(1.0, 1.0), turned=0.5, seed=1)
    gap, L = start - 0.25, 2.0 * square
    # The noise is -1.01 f' with probability ½ and else 0 (R2, R3), or what makes it unbiased (R5 at β = 0).
    sigma, absolute = 1.01 * math.sqrt(0.5), 1.01 / 2
    bounds = (
        rates.stochastic(gap, T, eta, L, sigma * math.sqrt(square)), rates.spectral(gap, T, eta, L, absolute),
        rates.momentum(gap, T, eta, 2.0, 1.01, 1.0, beta=0.0),
    )
    # Half of R5's is not enough only for the smaller second moment: at β = 0 its proof needs no unbiased noise either.
    bounds = (*bounds[:2], bounds[2] if not violated else rates.momentum(gap, T, eta, 2.0, sigma, 1.0, beta=0.0))
    for bound in bounds:
        assert (norm > (bound.value - (1 - factor) * bound.terms["noise"]).item() * 1.02) == violated
    by_signs = rates.signs_in_expectation(gap, T, eta, L, wrong)
    assert norm <= by_signs.value.item() * 1.02 <= bounds[0].value.item() * 1.02


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("sigma", [0.0, 4.0])
@pytest.mark.parametrize("rule", RULES)
def test_R5_on_quadratics(rule, sigma, beta):
    runs, L, T = 800, torch.tensor([2.0, 1.0], dtype=torch.float64), 40
    x0, eta = torch.tensor([[0.4, -1.0]], dtype=torch.float64), T**-0.75
    rows = simulate(torch.diag(L).expand(runs, 2, 2), x0.repeat(runs, 1), torch.full((runs,), eta, dtype=torch.float64), T, rule,
                    sigma=sigma, beta=beta, seed=5)
    constants = {"gap": rows.gap[0], "steps": T, "eta": eta, "L": L.sum(), "sigma": 2 * sigma, "beta": beta, "gamma_max": rows.gammas.max()}
    first = rows.first[0]
    for bound in (rates.momentum(first_gradient=first, **constants), rates.momentum_sharp(first_gradient=first, **constants),
                  rates.momentum_corrected(**constants)):
        assert standing(rows.weighted, bound.value)


def test_R5_needs_its_drift():
    H, eta = torch.ones(1, 1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    rows = simulate(H, 0.25 * eta[:, None], eta, 40, "Γ ≡ 1", beta=0.9)
    constants = {"gap": rows.gap, "steps": 40, "eta": eta, "L": 1.0, "sigma": 0.0, "beta": 0.9}
    bounds = (
        rates.momentum(first_gradient=rows.first, **constants), rates.momentum_sharp(first_gradient=rows.first, **constants),
        rates.momentum_corrected(**constants),
    )
    for bound in bounds:
        assert rows.weighted <= bound.value
        assert rows.weighted > bound.value - bound.terms["drift"]


def test_the_correction_helps_where_the_first_gradient_is_large():
    constants = {"gap": 1e6, "steps": 10**4, "eta": 1e-3, "L": 1.0, "sigma": 1.0, "beta": 0.99}
    assert rates.momentum_corrected(**constants).value < rates.momentum_sharp(first_gradient=1e6, **constants).value


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_plateau_is_there(beta):
    # Noise -c f' almost always, c(1-p)/p f' rarely: unbiased, and the average of the gradients has the wrong sign most of the time.
    averages, c, p = [], 2.0, 0.002
    for T in (50, 800):
        eta, runs, source = T**-0.5, 200, generator(3)
        x, m, total = torch.full((runs,), 2.0, dtype=torch.float64), torch.zeros(runs, dtype=torch.float64), 0.0
        for _ in range(T):
            slope = (2 * x).clamp(-1, 1)
            rare = torch.rand(runs, generator=source, dtype=torch.float64) < p
            m = beta * m + (1 - beta) * slope * (1 + torch.where(rare, c * (1 - p) / p, -c))
            total += slope.abs().mean().item() / T
            x = x - eta * m.sign()
        averages.append(total)
        bound = rates.momentum_plateau(1.0, c * math.sqrt((1 - p) / p), beta=beta)
        assert total <= bound.value.item()
    assert averages[1] > 0.9 * averages[0] > 0.8


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_R3_on_quadratics(sigma):
    runs, m, n, T, eta = 150, 3, 2, 8, 0.2
    H, source = semidefinite(1, m, 11)[0], generator(4)
    L_S = torch.linalg.eigvalsh(H)[-min(m, n):].sum()
    X0 = randn(m, n, seed=12)
    for kind in ("Γ ≡ 1", "singular", "any"):
        X, left, noise, curvature, nuclear = X0.expand(runs, m, n), 0.0, 0.0, 0.0, 0.0
        smallest, plain = math.inf, 0.0
        for _ in range(T):
            G = H @ X
            N = sigma * torch.randn(runs, m, n, generator=source, dtype=torch.float64)
            U, _, Vt = torch.linalg.svd(G + N, full_matrices=False)
            gamma = torch.ones(runs, n, dtype=torch.float64)
            if kind == "singular":
                gamma = 0.3 + torch.rand(runs, n, generator=source, dtype=torch.float64)
            D = (U * gamma[:, None, :]) @ Vt
            if kind == "any":
                D = D * torch.rand(runs, m, n, generator=source, dtype=torch.float64)
            size = torch.linalg.matrix_norm(D, 2)
            error, true = torch.linalg.svdvals(N).sum(-1), torch.linalg.svdvals(G).sum(-1)
            left = left + (true if kind == "Γ ≡ 1" else ((G + N) * D).sum((-2, -1))) / T
            noise, nuclear, plain = noise + (size * error) / T, nuclear + error / T, plain + true / T
            curvature = curvature + (L_S if kind == "Γ ≡ 1" else torch.einsum("nij,ik,nkj->n", D, H, D)) / T
            smallest = min(smallest, gamma.min().item())
            X = X - eta * D
        gap = 0.5 * (X0 * (H @ X0)).sum()
        function = {"Γ ≡ 1": rates.spectral, "singular": rates.singular_weighted, "any": rates.any_direction}[kind]
        bound = function(gap, T, eta, torch.as_tensor(curvature).mean(), noise.mean())
        assert standing(left, bound.value)
        if kind == "singular":
            assert standing(plain, rates.nuclear_conversion(bound, smallest, nuclear.mean()).value)
        if kind == "Γ ≡ 1":
            assert standing(nuclear, rates.nuclear_noise(sigma * math.sqrt(m * n), n))


def test_R3_is_attained_and_half_is_not_enough():
    # H = L·I on diagonal X_0 = Tη·I: R1's worst case in each singular value.
    T, eta, L, d = 9, 0.5, 3.0, 2
    X, left = T * eta * torch.eye(d, dtype=torch.float64), 0.0
    gap = 0.5 * L * X.square().sum()
    for _ in range(T):
        left += L * torch.linalg.svdvals(X).sum().item() / T
        X = X - eta * polar_factor(X)
    bound = rates.spectral(gap, T, eta, d * L, 0.0)
    assert left == pytest.approx(bound.value.item(), rel=1e-12)
    assert left > (bound.value - bound.terms["smoothness"] / 2).item()


# --- The exact checks of the ledger as oracles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 3, 10])
def test_the_bounds_are_what_the_descent_lemma_implies(T):
    # Linear-programming duality in exact rationals, without the formula.
    eta, gap, L = Fraction(1, 8), Fraction(3, 2), [Fraction(1 + t % 3) for t in range(T)]
    mean = float(sum(L) / T)
    assert rates.deterministic(1.5, T, 0.125, mean).value.item() == pytest.approx(float(descent_to_rate(T, eta, L, gap).bound), rel=1e-12)
    errors = [2 * Fraction(1, 4)] * T  # 2γ|∂f|1{wrong sign} per step
    implied = float(descent_to_rate(T, eta, L, gap, noise=errors).bound)
    assert rates.signs_in_expectation(1.5, T, 0.125, mean, 0.25).value.item() == pytest.approx(implied, rel=1e-12)


@pytest.mark.parametrize("beta", [Fraction(0), Fraction(1, 2), Fraction(9, 10)])
def test_R5_without_noise_is_the_ledgers(beta):
    L, x0, eta, T = [Fraction(2), Fraction(1)], [Fraction(1), Fraction(-3)], Fraction(1, 4), 12
    bound = rates.momentum(5.5, T, 0.25, 3.0, 0.0, 5.0, beta=float(beta))
    assert bound.value.item() == pytest.approx(float(momentum_bound(L, x0, beta, eta, T)), rel=1e-12)


def test_values():
    # Written out from SPEC R5, R2 and R3 once more, with numbers that no coincidence hides.
    gap, T, eta, L, sigma, first, beta, top = 1.3, 7, 0.21, 2.9, 0.6, 4.1, 0.7, 1.7
    bracket = first / (T * (1 - beta)) + beta * eta * L * top / (1 - beta) + math.sqrt((1 - beta) / (1 + beta)) * sigma
    expected = gap / (eta * T) + eta * L * top**2 / 2 + 2 * top * bracket
    assert rates.momentum(gap, T, eta, L, sigma, first, beta=beta, gamma_max=top).value.item() == pytest.approx(expected, rel=1e-12)
    expected = (gap + L / 2 + 2 * sigma) / math.sqrt(T)
    assert rates.stochastic_paper_setting(gap, T, L, sigma).value.item() == pytest.approx(expected, rel=1e-12)
    expected = gap / (eta * T) + eta * L / 2 + 2 * sigma
    assert rates.spectral(gap, T, eta, L, sigma).value.item() == pytest.approx(expected, rel=1e-12)
    for function in (rates.singular_weighted, rates.any_direction):
        assert function(gap, T, eta, L, sigma).value.item() == pytest.approx(expected - sigma, rel=1e-12)
    weighted = rates.singular_weighted(gap, T, eta, L, sigma)
    assert rates.nuclear_conversion(weighted, 0.5, 0.3).value.item() == pytest.approx(2 * (expected - sigma) + 0.3, rel=1e-12)
    assert rates.nuclear_noise(0.6, 3, batch=4, gamma_rms=1.5).item() == pytest.approx(1.5 * 0.3 * math.sqrt(3), rel=1e-12)
    # γ_max enters the refinements as it enters R5 itself.
    sharp = rates.momentum_sharp(gap, T, eta, L, sigma, first, beta=beta, gamma_max=top).terms
    unit = rates.momentum_sharp(gap, T, eta, L, sigma, first, beta=beta).terms
    corrected = rates.momentum_corrected(gap, T, eta, L, sigma, beta=beta, gamma_max=top).terms
    one = rates.momentum_corrected(gap, T, eta, L, sigma, beta=beta).terms
    for found, base in ((sharp, unit), (corrected, one)):
        for name, power in (("initial", 0), ("smoothness", 2), ("start", 1), ("drift", 2), ("noise", 1)):
            if name in found:
                assert found[name].item() == pytest.approx(base[name].item() * top**power, rel=1e-12)


@pytest.mark.parametrize("factor, violated", [(1.0, False), (0.75, True)])
def test_the_noise_term_of_R2_on_the_exact_law_of_a_walk(factor, violated):
    # γ = 1 where the noise turns the sign, 1/7 elsewhere: 3/2 in place of 2 is too small.
    found = walk(1600, 7, 2.0, 224)
    rows = {"initial": found.progress, "smoothness": found.smooth}
    bound = rates.stochastic(found.progress * 40, 1600, 1 / 40, found.smooth * 80, found.noise)
    for name, expected in rows.items():
        assert bound.terms[name].item() == pytest.approx(expected, rel=1e-12)
    assert (found.norm > (bound.value - (1 - factor) * bound.terms["noise"]).item()) == violated


# --- Limits, shapes, errors ------------------------------------------------------------------------------------------------------


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
    "wrong": ([-1.0, math.inf, math.nan], "the noise"),
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
    (lambda: rates.momentum_plateau(1.0, 1.0, beta=1.0), "0 ≤ β < 1"),
    (lambda: rates.momentum_plateau(1.0, 1.0, beta=0.5, eta=0.0), "η > 0"),
    (lambda: rates.momentum_order(-1.0, 1.0, 1.0, 1.0), "Δ"),
])
def test_errors(call, message):
    with pytest.raises(AssumptionError, match=message):
        call()


def test_conversion_without_its_assumption_fails():
    # γ_min taken for the largest factor: violated at once.
    g, gamma = torch.tensor([1.0, 5.0]), torch.tensor([1.0, 0.1])
    assert g.sum() > (gamma * g).sum() / gamma.max()
    assert g.sum() <= (gamma * g).sum() / gamma.min()


def test_noise_moment():
    sigma, gamma = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(rates.noise_moment(sigma, gamma), torch.tensor([2.5, 3.0], dtype=torch.float64))
    assert rates.noise_moment(3.0).item() == 3.0
