"""The runner: its batch equals single runs written out plainly, no bound is exceeded, controls are, and bad input names its assumption."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from deva_theory import rates
from deva_theory.linalg import polar_factor
from deva_theory.problems import families
from deva_theory.problems.families import (
    DiagonalQuadratic,
    Gaussian,
    MatrixFactorisation,
    NonConvexWells,
    Oracle,
    Problem,
    RotatedQuadratic,
    StudentT,
    TraceProblem,
)
from deva_theory.problems.quadratic import TraceQuadratic
from deva_theory.rates import catalogue
from deva_theory.rates.coverage import FixedFactors, factor_bound
from deva_theory.rates.runner import measure
from deva_theory.rates.weighted import weighted_smoothness
from deva_theory.rules import adagrad, adam, adamuon, deva_linf, deva_spectral, gradient_descent, muon, rmsprop, sign_sgd
from deva_theory.rules.parts import Adaptation
from tests.rates.instances import uniform

STEPS = (1, 4, 7, 20)


@dataclass(frozen=True, eq=False)
class Wave(Oracle):
    """"Noise" that is a function of the point and the batch: a run is then the same alone and in any batch."""

    @property
    def sigma(self) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    def variance(self, problem: Problem, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def _sample(self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, gradient: Tensor | None) -> Tensor:
        return problem.gradient(x) + torch.sin(3 * x + batch) / math.sqrt(batch)


class Corners:
    """L_Γ of a given H ≽ 0 by its definition."""

    def __init__(self, H: Tensor) -> None:
        self.H = H
        self.corners = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(H))), dtype=torch.float64)

    def __call__(self, gamma: Tensor) -> float:
        u = self.corners * gamma
        return float(((u @ self.H) * u).sum(-1).max())


def plain_run(problem, rule, statement, T, eta, x, H):
    """One run in the words of the statement: (left, L_Γ, noise, ‖∇f‖_1), averages over T steps."""
    state, beta = rule.init(x), 1 - T**-0.5 if statement == "R5" else 0.0
    box, sums, m = Corners(H), torch.zeros(4, dtype=torch.float64), torch.zeros_like(x)
    for t in range(T):
        g = problem.gradient(x)
        noise = {"R1": 0.0, "R2": torch.sin(3 * x + T) / math.sqrt(T), "R5": torch.sin(3 * x + 1)}[statement]
        m = beta * m + (1 - beta) * (g + noise)
        seen = m / (1 - beta ** (t + 1))
        direction, state, details = rule.update(seen, state, diagnostics=True)
        gamma = details.variance_adaptation
        sums += torch.tensor([
            float((gamma * g.abs()).sum()), box(gamma), float((gamma * (seen - g).abs()).sum()), float(g.abs().sum()),
        ], dtype=torch.float64)  # fmt: skip
        x = x - eta * direction
    return sums / T


@pytest.mark.parametrize("statement", ["R1", "R2", "R5"])
@pytest.mark.parametrize("rule", [sign_sgd(), adagrad(eps=0.0), deva_linf(betas=(0.0, 0.9))], ids=lambda rule: rule.name)
def test_batched_equals_one_at_a_time(statement, rule):
    problem = RotatedQuadratic.random(0.1 + 3 * uniform(2, 4, seed=1), 2)
    oracle = None if statement == "R1" else Wave()
    found = measure(problem, rule, statement=statement, steps=STEPS, seeds=3, oracle=oracle, scales=(0.5, 1.0), seed=5)
    assert found.left.shape == (4, 2, 3, 2) and found.T.tolist() == list(STEPS) and found.smoothness_exact
    start = problem.start(5, (3,))
    for (k, T), (j, scale), seed, i in itertools.product(enumerate(STEPS), enumerate((0.5, 1.0)), range(3), range(2)):
        one = RotatedQuadratic(problem.eigenvalues[i], problem.rotation[i])
        x = start[seed, i]
        gap, H = float(one.value(x)), one.hessian
        eta = scale * {"R1": math.sqrt(2 * gap / (Corners(H)(torch.ones(4)) * T)), "R2": T**-0.5, "R5": T**-0.75}[statement]
        left, L, noise, norm = plain_run(one, rule, statement, T, eta, x, H)
        where = k, j, seed, i
        assert found.left[where].item() == pytest.approx(float(left), rel=1e-8)
        assert found.smoothness[where].item() == pytest.approx(float(L), rel=1e-8)
        assert found.plain[where].item() == pytest.approx(float(norm), rel=1e-8)
        right = gap / (eta * T) + eta * float(L) / 2 + 2 * float(noise)
        assert found.right("pathwise")[where].item() == pytest.approx(right, rel=1e-8)


def test_momentum_of_the_runner_is_that_of_the_rule():
    problem, T = catalogue.rotated(1, 0), 9
    found = measure(problem, deva_linf(betas=(0.0, 0.9)), statement="R5", steps=[T], seeds=1, oracle=Wave(), seed=3)
    rule = deva_linf(betas=(1 - T**-0.5, 0.9))
    x, total = problem.start(3, (1,)), 0.0
    state = rule.init(x)
    for _ in range(T):
        g = problem.gradient(x)
        direction, state, details = rule.update(g + torch.sin(3 * x + 1), state, diagnostics=True)
        total += float((details.variance_adaptation * g.abs()).sum()) / T
        x = x - T**-0.75 * direction
    assert found.left.item() == pytest.approx(total, rel=1e-8)


def test_spectral_run_written_out():
    problem, T = TraceProblem.published("homogeneous", columns=4), 5
    found = measure(problem, catalogue.METHODS["muon"].rule(2), statement="R3", steps=[2, T], seeds=1, oracle=Wave(), seed=1)
    x = problem.start(1, (1,))[0]
    gap = float(problem.value(x))
    eta = math.sqrt(2 * gap / (float(problem.constants.spectral) * T))
    left = noise = 0.0
    for _ in range(T):
        g, n = problem.gradient(x), torch.sin(3 * x + T) / math.sqrt(T)
        left += float(torch.linalg.matrix_norm(g, "nuc")) / T
        noise += float(torch.linalg.matrix_norm(n, "nuc")) / T
        x = x - eta * polar_factor(g + n)
    assert found.left[1].item() == pytest.approx(left, rel=1e-8)
    right = gap / (eta * T) + eta * float(problem.constants.spectral) / 2 + 2 * noise
    assert found.right("pathwise")[1].item() == pytest.approx(right, rel=1e-8)


# --- L_Γ ------------------------------------------------------------------------------------------------------------------------


def test_weighted_smoothness_is_exact_by_blocks():
    problem = TraceProblem.published("heterogeneous", instances=(2,), columns=3)
    gamma = uniform(5, 2, 9, 3, seed=0)
    function = weighted_smoothness(problem)
    value = function.value(gamma)
    assert function.exact and value.shape == (5, 2)
    for s, i in itertools.product(range(5), range(2)):
        box = Corners(problem.quadratic.H[i].double())
        assert value[s, i].item() == pytest.approx(sum(box(gamma[s, i, :, k]) for k in range(3)), rel=1e-12)
    large = RotatedQuadratic.random(uniform(10, seed=2), 3)
    function = weighted_smoothness(large)
    assert not function.exact and float(function.value(gamma[0, 0].flatten()[:10])) >= Corners(large.hessian)(gamma[0, 0].flatten()[:10])


@pytest.mark.parametrize("family", ["logistic", "wells", "factorisation", "diagonal"])
def test_weighted_smoothness_bounds_curvature(family):
    problem = catalogue.FAMILIES[family](2, 0)
    event = problem.event_ndim
    x = problem.start(0, (20,))
    gamma = uniform(*x.shape, seed=1)
    u = gamma * torch.where(uniform(*x.shape, seed=2) < 0.5, -1.0, 1.0)
    h = 1e-5
    curvature = (u * (problem.gradient(x + h * u) - problem.gradient(x - h * u))).sum(tuple(range(-event, 0))) / (2 * h)
    value = weighted_smoothness(problem).value(gamma)
    assert bool((curvature <= value * (1 + 1e-6)).all())
    ones = weighted_smoothness(problem).value(torch.ones_like(gamma))
    assert bool((ones <= problem.constants.box * (1 + 1e-9)).all())


def test_wells_attain_it_at_the_origin():
    problem = NonConvexWells(uniform(5, seed=0), "cosine", uniform(5, seed=1) - 0.5, 0.7)
    H = torch.diag(problem.curvature) + 0.7 * torch.outer(problem.direction, problem.direction)
    gamma = uniform(5, seed=3)
    assert float(weighted_smoothness(problem).value(gamma)) == pytest.approx(Corners(H)(gamma), rel=1e-12)


# --- Bounds ---------------------------------------------------------------------------------------------------------------------

CONTROLS = {"R1": {"smoothness": 0.5}, "R2": {"noise": 0.0}, "R5": {"noise": 0.0}, "R3": {"smoothness": 0.5}}


@pytest.mark.parametrize("statement", CONTROLS)
@pytest.mark.parametrize("family", ["rotated", "e1-homogeneous", "wells", "factorisation"])
def test_no_bound_is_exceeded_and_controls_are(family, statement):
    problem = catalogue.FAMILIES[family](3, 0)
    if statement == "R3" and problem.event_ndim == 1:
        pytest.skip("R3 is about matrices")
    oracle = None if statement == "R1" else catalogue.oracle(catalogue.default_oracle(problem), problem)
    # A control needs runs that come near their bounds: short ones, and R2's with more noise than gradient.
    loud = Gaussian(torch.full(tuple(problem.event_shape), 30.0, dtype=torch.float64))
    caught = 0
    for method in catalogue.METHODS.values():
        if method.matrices == (statement == "R3"):
            rule = method.rule(problem.event_ndim)
            found = measure(problem, rule, statement=statement, steps=(2, 8, 30), seeds=6, oracle=oracle)
            for name in found.bounds:
                pairs, violated, least = found.closest(name)
                assert pairs in (54, 9) and violated == 0 and least >= 1 - 1e-9, (name, found.summary())
            assert bool((found.right("a_priori") >= found.right(found.expected) * (1 - 1e-9)).all() if "a_priori" in found.bounds else True)
            caught += found.closest(weights=CONTROLS[statement])[1]
            if statement == "R2" and family != "factorisation":
                noisy = measure(problem, rule, statement=statement, steps=(2, 8, 30), seeds=6, oracle=loud)
                caught += noisy.closest(weights=CONTROLS[statement])[1]
    if statement == "R3":
        # Without noise; with it, its term hides half the smoothness.
        caught += measure(problem, rule, statement="R3", steps=(2, 8, 30), seeds=6).closest(weights=CONTROLS["R3"])[1]
    # The constants of a factorisation hold on its whole ball, and are too large for runs to notice.
    assert caught > 0 or family == "factorisation"


def test_an_assumption_dropped_is_noticed():
    """With a σ far below the true one R2's bound in expectation fails: the noise term is needed."""
    problem = DiagonalQuadratic(torch.full((1,), 0.01, dtype=torch.float64))
    start = torch.full((200, 1), 5.0, dtype=torch.float64)
    loud = Gaussian(torch.full((1,), 20.0, dtype=torch.float64))
    found = measure(problem, sign_sgd(), statement="R2", steps=(64,), seeds=200, oracle=loud, start=start, scales=(100.0,))
    assert found.closest("measured")[1] == 0
    assert found.closest("measured", {"noise": 0.0, "smoothness": 0.0})[1] == 1


def test_batch_is_T():
    seen = []

    class Counting(Gaussian):
        def _sample(self, problem, x, batch, generator, gradient):
            seen.append((batch, tuple(x.shape)))
            return super()._sample(problem, x, batch, generator, gradient)

    problem = catalogue.diagonal(2, 0)
    measure(problem, sign_sgd(), statement="R2", steps=(2, 1000), seeds=1, oracle=Counting(torch.ones(6, dtype=torch.float64)))
    assert seen[:2] == [(1000, (1, 1, 2, 6)), (2, (1, 1, 2, 6))] and len(seen) == 1002
    assert {batch for batch, _ in seen[4:]} == {1000}


def test_general_step_sizes_use_the_general_forms():
    problem = catalogue.diagonal(1, 0)
    oracle = Gaussian(torch.ones(6, dtype=torch.float64))
    for statement in ("R2", "R5"):
        one = measure(problem, sign_sgd(), statement=statement, steps=(4,), seeds=2, oracle=oracle)
        two = measure(problem, sign_sgd(), statement=statement, steps=(4,), seeds=2, oracle=oracle, scales=(1.0, 2.0))
        for name in ("a_priori", one.expected):
            torch.testing.assert_close(one.right(name)[:, 0], two.right(name)[:, 0], rtol=1e-12, atol=0)
        assert "η =" in one.bounds["a_priori"].statement and "η =" not in two.bounds["a_priori"].statement


def test_alignment_and_ratio_are_those_of_r4():
    L, r = torch.tensor([9.0, 1.0], dtype=torch.float64), torch.tensor([[0.1, 1.0]], dtype=torch.float64)
    gamma = torch.tensor([0.1, 1.0], dtype=torch.float64)
    found = measure(DiagonalQuadratic(L), FixedFactors(gamma), statement="R1", steps=(1,), seeds=1, start=r)
    g = L * r[0]
    kappa = float((gamma * g).sum() / g.sum())
    assert found.alignment.item() == pytest.approx(kappa)
    assert found.ratio.item() == pytest.approx(float((L * gamma**2).sum() / L.sum()) / kappa**2)
    converted = rates.aligned_conversion(found.bounds["measured"], found.alignment)
    assert bool((found.plain <= converted.value * (1 + 1e-12)).all())


@pytest.mark.parametrize("rule", [
    sign_sgd(), adagrad(), deva_linf(betas=(0.0, 0.9)), deva_linf(preset="paper", betas=(0.0, 0.9)), rmsprop(beta2=0.5),
    FixedFactors(torch.tensor([0.5, 2.0])),
], ids=lambda rule: rule.name)  # fmt: skip
def test_factor_bound_holds_for_growing_gradients(rule):
    x = torch.zeros(2, dtype=torch.float64)
    state, limit = rule.init(x), factor_bound(rule, 30)
    for t in range(30):
        _, state, details = rule.update(torch.full((2,), 10.0 ** (t % 7), dtype=torch.float64), state, diagnostics=True)
        assert float(details.variance_adaptation.max()) <= float(limit[t]) * (1 + 1e-12)


AMPLITUDES = (("entries", "no"), ("marginals", "no"), ("marginals", "root_mean_square"), ("marginals", "mean"))


def streams(T: int) -> list[Tensor]:
    """Gradients of one size, growing, and 0 until the last; shape (T, 3, 2)."""
    g = uniform(T, 3, 2, seed=0) - 0.5
    late = torch.zeros_like(g)
    late[-1] = g[-1]
    return [g, g * 10.0 ** torch.arange(T, dtype=torch.float64).remainder(9).reshape(-1, 1, 1), late]


@pytest.mark.parametrize("eps_mode", ["outside", "inside", "relative", "numerator"])
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("beta", [None, 0.0, 0.9, 0.999])
@pytest.mark.parametrize(("amplitude", "factored"), AMPLITUDES)
def test_factor_bound_holds_for_every_second_moment_and_is_attained(amplitude, factored, beta, bias_correction, eps_mode):
    given = {"beta": beta, "amplitude": amplitude, "factored": factored, "bias_correction": bias_correction, "eps_mode": eps_mode}
    if factored == "mean" and bias_correction:
        with pytest.raises(ValueError, match="no bias correction"):
            Adaptation(**given)
        return
    base = deva_linf(betas=(0.0, 0.9), event_ndim=2)
    if eps_mode == "numerator":
        with pytest.raises(rates.AssumptionError, match="bounded factors"):
            factor_bound(replace(base, adaptation=Adaptation(**given, eps=0.1)), 4)
        return
    largest = {}
    for eps in (0.0, 0.1):
        rule, T = replace(base, adaptation=Adaptation(**given, eps=eps)), 40
        limit, largest[eps] = factor_bound(rule, T), 0.0
        for gradients in streams(T):
            state = rule.init(gradients[0])
            for t, g in enumerate(gradients):
                _, state, details = rule.update(g, state, diagnostics=True)
                largest[eps] = max(largest[eps], float(details.variance_adaptation.max() / limit[t]))
    assert largest[0.1] <= 1 + 1e-12 and largest[0.0] == pytest.approx(1.0, rel=1e-12)


def test_the_a_priori_bound_holds_for_a_product_of_two_means():
    # The first step has Γ = 1/(1-β2), not its root.
    adaptation = Adaptation(beta=0.99, amplitude="marginals", factored="mean")
    rule = replace(deva_linf(betas=(0.0, 0.99), event_ndim=2), adaptation=adaptation)
    problem, start = TraceProblem(TraceQuadratic(torch.ones(1, 1, dtype=torch.float64)), 1), torch.ones(1, 1, 1, dtype=torch.float64)
    found = measure(problem, rule, statement="R1", steps=(1,), start=start, scales=(0.01,))
    assert found.gamma_max.item() == pytest.approx(100.0) and found.closest("a_priori")[1] == 0
    assert found.closest("a_priori", {"smoothness": 0.1})[1] == 1


# --- Bad input ------------------------------------------------------------------------------------------------------------------

NOISE = Gaussian(torch.ones(6, dtype=torch.float64))
MATRIX = TraceProblem.published("homogeneous")
ERRORS = {
    "polar rule": ({"rule": muon(beta1=0.0)}, "entrywise Γ; muon is no such rule"),
    "basis": ({"rule": deva_spectral()}, "for matrices use R3"),
    "gradient descent": ({"rule": gradient_descent()}, "entrywise Γ"),
    "scaled": ({"rule": replace(sign_sgd(), step_scale=muon().step_scale, event_ndim=2)}, "another factor"),
    "momentum": ({"rule": sign_sgd(beta1=0.9)}, "without momentum.*β1 = 0.9"),
    "momentum twice": ({"rule": sign_sgd(beta1=0.9), "statement": "R5", "oracle": NOISE}, "which the runner adds"),
    "unbounded factors": ({"rule": replace(adam(), moment=sign_sgd().moment, adaptation=adamuon().adaptation)}, "bounded factors"),
    "oracle in R1": ({"oracle": NOISE}, "R1 assumes exact gradients"),
    "no oracle": ({"statement": "R2"}, "give an oracle"),
    "step size 0": ({"scales": (0.0,)}, "η > 0"),
    "step size infinite": ({"scales": (math.inf,)}, "η > 0"),
    "vectors in R3": ({"statement": "R3"}, "matrix parameters"),
    "T = 0": ({"steps": (0, 4)}, "T ≥ 1"),
    "T twice": ({"steps": (4, 4)}, "different whole numbers"),
    "T = 2.5": ({"steps": (2.5,)}, "different whole numbers"),
    "no seed": ({"seeds": 0}, "seeds is 0"),
    "statement": ({"statement": "R4"}, "unknown statement"),
    "start": ({"start": torch.zeros(2, 6, dtype=torch.float64)}, "start has shape"),
    "optimal start": ({"start": torch.zeros(1, 1, 6, dtype=torch.float64)}, "x_0 not optimal"),
    "overflow": ({"start": torch.full((1, 1, 6), 1e200, dtype=torch.float64)}, "float64|finite|< ∞"),
}


@pytest.mark.parametrize(("changed", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_assumption(changed, message):
    given = {"problem": catalogue.diagonal(1, 0), "rule": sign_sgd(), "statement": "R1", "steps": (2, 4)} | changed
    with pytest.raises(ValueError, match=message):
        measure(given.pop("problem"), given.pop("rule"), **given)


def test_errors_of_the_families_pass_through():
    problem = MatrixFactorisation(uniform(4, 3, seed=0), 1, 2.0)
    with pytest.raises(families.AssumptionError, match="left the ball"):
        measure(problem, sign_sgd(), statement="R1", steps=(3,), scales=(50.0,))
    with pytest.raises(families.AssumptionError, match="infinite variance"):
        StudentT(torch.ones(6, dtype=torch.float64), 2.0)
    with pytest.raises(families.AssumptionError, match="bounded below"):
        DiagonalQuadratic(torch.tensor([-1.0]))
    with pytest.raises(rates.AssumptionError, match="factors Γ ≥ 0"):
        FixedFactors(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="unknown oracle"):
        catalogue.oracle("cauchy", MATRIX)
    with pytest.raises(ValueError, match="finite sum"):
        catalogue.oracle("rows", problem)
