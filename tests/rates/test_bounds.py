"""The bounds R1-R5 against runs: exact and simulated, attained where they are, and controls that must fail."""

import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from deva_theory import rates
from deva_theory.certify import descent_to_rate
from deva_theory.linalg import polar_factor
from paper_checks.rates_momentum import momentum_bound
from paper_checks.rates_noise import walk
from tests.rates.instances import box, generator, randn, semidefinite, standing, uniform

ROUNDING = 1e-9


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


# --- Assumptions that are needed ---------------------------------------------------------------------------------------------------


def test_the_noise_falls_with_the_batch_for_samples_without_bias_only():
    # Every sample is -0.01 f': so is the mean of any number of them.  f is the Huber function, slope 1 and curvature 2, and sign descent
    # climbs it.  With σ² the second moment of one sample's error and B = T the bound is false; it needs the mean's error, B = 1.
    T, gap, error = 100, 2.0, 1.01
    x, eta, left = gap + 0.25, 100**-0.5, 0.0
    for _ in range(T):
        slope = max(-1.0, min(1.0, 2 * x))
        left += abs(slope) / T
        x -= eta * math.copysign(1, -0.01 * slope)
    noise = rates.noise_moment(error)
    assert left > rates.stochastic(gap, T, eta, 2.0, noise, batch=T).value
    assert left > rates.stochastic_paper_setting(gap, T, 2.0, noise).value
    assert left <= rates.stochastic(gap, T, eta, 2.0, noise, batch=1).value
    # The same of matrices: Ĝ - ∇f = 1.01·I in every sample, hence in their mean.
    error_size = torch.linalg.svdvals(1.01 * torch.eye(2, dtype=torch.float64)).sum()
    sigma = 1.01 * math.sqrt(2)
    assert error_size > rates.nuclear_noise(sigma, 2, batch=100)
    assert error_size <= rates.nuclear_noise(sigma, 2, batch=1) * (1 + 1e-12)


def test_the_rank_is_that_of_the_mean():
    # Samples ±E_kk, k = 1, 2, 3, all equally likely: unbiased noise of rank 1 and ‖·‖_F = 1; the mean of two has rank 2.
    samples = [sign * torch.diag(torch.eye(3, dtype=torch.float64)[k]) for k in range(3) for sign in (1, -1)]
    means = torch.stack([(a + b) / 2 for a in samples for b in samples])
    size = torch.linalg.svdvals(means).sum(-1).mean()
    assert size.item() == pytest.approx(5 / 6)
    assert size > rates.nuclear_noise(1.0, 1, batch=2)
    assert size <= rates.nuclear_noise(1.0, int(torch.linalg.matrix_rank(means).max()), batch=2)


def test_smoothness_at_the_iterates_alone_is_not_enough_for_R5():
    # f = 1 - cos x, x_0 = π/2, η = 2π: f and f' are the same after the step, L would be 0.  On the segment between them L is 1.
    x, eta = math.pi / 2, 2 * math.pi
    after = x - eta
    assert math.sin(after) == pytest.approx(math.sin(x))
    bounds = {
        "R5": lambda L: rates.momentum(1.0, 1, eta, L, 0.0, 0.0, beta=0.0),
        "sums": lambda L: rates.momentum_sharp(1.0, 1, eta, L, 0.0, 1.0, beta=0.0),
        "corrected": lambda L: rates.momentum_corrected(1.0, 1, eta, L, 0.0, beta=0.0),
    }
    for bound in bounds.values():
        assert abs(math.sin(x)) > bound(0.0).value and abs(math.sin(x)) <= bound(1.0).value
    assert any("segment" in text for text in bounds["R5"](1.0).assumptions)


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
    # Bias-corrected, short against its memory: the average of t/2.
    short = rates.momentum_corrected(gap, T, eta, L, sigma, beta=0.999)
    assert short.terms["drift"].item() == pytest.approx(2 * eta * L * (T - 1) / 4, rel=1e-12)
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


@pytest.mark.parametrize("T", [1, 9, 10_000])
def test_the_best_step_of_momentum_is_the_best(T):
    constants = (1.3, T)
    beta, _ = rates.schedule(T)
    best = rates.momentum_best(*constants, 2.0, 0.7, 0.9, gamma_max=1.5).value.item()
    eta = rates.momentum_best_step(*constants, 2.0, gamma_max=1.5) * torch.logspace(-2, 2, 401, dtype=torch.float64)
    others = rates.momentum(*constants, eta, 2.0, 0.7, 0.9, beta=beta, gamma_max=1.5).value
    assert others.argmin() == 200 and others.min().item() == pytest.approx(best, rel=1e-12)
    c = 2.0 * 1.5**2 * (0.5 + 2 * beta.item() / (1 - beta.item()))
    rest = 2 * 1.5 * (0.9 / T**0.5 + math.sqrt((1 - beta.item()) / (1 + beta.item())) * 0.7)
    assert best == pytest.approx(2 * math.sqrt(c * 1.3 / T) + rest, rel=1e-12)
