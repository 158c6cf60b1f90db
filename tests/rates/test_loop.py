"""The loop of all measured runs: what it notices when a problem's constants, gradient, or oracle are not what they say."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deva_theory.problems.families import (
    Constants,
    DiagonalQuadratic,
    Gaussian,
    MatrixFactorisation,
    Problem,
    RotatedQuadratic,
    TraceProblem,
)
from deva_theory.problems.quadratic import TraceQuadratic
from deva_theory.rates.catalogue import METHODS, diagonal, trace
from deva_theory.rates.comparison import compare_known
from deva_theory.rates.loop import beyond, factor_average, rounding, starting_gap
from deva_theory.rates.runner import measure
from deva_theory.rates.statement import AssumptionError


class Claimed(Problem):
    """A function of two variables with the constants that its author claims."""

    def __init__(self, value, gradient, *, optimum: float = 0.0, L: float = 1.0, **claims: float) -> None:
        self.function, self.derivative = value, gradient
        each = torch.full((2,), L, dtype=torch.float64)
        wrong = {name: torch.tensor(x, dtype=torch.float64) for name, x in claims.items()}
        self.claims = replace(Constants(
            optimum=torch.tensor(optimum, dtype=torch.float64), optimum_exact=True, coordinate=each, box=each.sum(), box_exact=True,
            euclidean=each.max(), gradient_lipschitz_linf=each.sum(), convex=True,
        ), **wrong)  # fmt: skip

    name = "claimed"
    batch_shape = torch.Size(())
    event_shape = torch.Size((2,))

    @property
    def constants(self) -> Constants:
        return self.claims

    @property
    def like(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)

    def _value(self, x: Tensor) -> Tensor:
        return self.function(x)

    def _gradient(self, x: Tensor) -> Tensor:
        return self.derivative(x)


HONEST = {"value": lambda x: 0.5 * (x**2).sum(-1), "gradient": lambda x: x}
LIARS = {
    "not smooth": (Claimed(lambda x: x.abs().sum(-1), torch.sign), "smoothness"),
    "smoother than it is": (Claimed(lambda x: (x**4).sum(-1), lambda x: 4 * x**3), "smooth"),
    "another gradient": (Claimed(HONEST["value"], lambda x: -x), "smoothness: .*gradient"),
    "a third of the gradient": (Claimed(HONEST["value"], lambda x: x / 3), "smoothness: .*gradient"),
    "no gradient": (Claimed(HONEST["value"], torch.zeros_like), "smoothness: .*gradient"),
    "λ_max": (Claimed(**HONEST, euclidean=0.5), "smoothness: a step"),
    "L_∞": (Claimed(**HONEST, box=0.5), "smoothness"),
    "B": (Claimed(**HONEST, gradient_lipschitz_linf=1e-6), "as smooth as its constants say"),
    "B, a little": (Claimed(**HONEST, gradient_lipschitz_linf=1.9), "gradient_lipschitz_linf"),
    "not convex": (Claimed(lambda x: x.cos().sum(-1) + 2, lambda x: -x.sin()), "smoothness: a step .* T = 256, step size 0, seed 0"),
    "unbounded": (Claimed(lambda x: x.sum(-1), torch.ones_like, optimum=-5.0), "bounded below"),
    "a minimum that is none": (Claimed(lambda x: HONEST["value"](x) - 1.0, HONEST["gradient"]), "bounded below"),
}


@pytest.mark.parametrize("statement", ["R1", "R2", "R5"])
@pytest.mark.parametrize("name", LIARS)
def test_false_constants_are_noticed(name, statement):
    problem, assumption = LIARS[name]
    oracle = None if statement == "R1" else Gaussian(0.01 * torch.ones(2, dtype=torch.float64))
    start = torch.tensor([[1.5, -0.7], [2.0, 1.0], [3.0, 2.0]], dtype=torch.float64)
    if name in ("L_∞", "B, a little") and statement != "R1":
        pytest.skip("noisy steps need not go along the corner of the box")
    with pytest.raises(AssumptionError, match=assumption):
        measure(problem, METHODS["signsgd"].rule(1), statement=statement, steps=(16, 64, 256), seeds=3, oracle=oracle, start=start)


@pytest.mark.parametrize("name", LIARS)
def test_false_constants_are_an_error_of_the_comparison_too(name):
    with pytest.raises(AssumptionError, match=r"smooth|bounded below"):
        compare_known(LIARS[name][0], gradients=(16, 64), seeds=3)


def test_a_false_spectral_constant_is_noticed():
    problem = trace(5, 0)

    class Understated(type(problem)):
        @property
        def constants(self):
            return replace(problem.constants, spectral=0.8 * problem.constants.spectral)

    claimed = Understated(problem.quadratic, problem.columns)
    rule = METHODS["muon"].rule(2)
    assert measure(problem, rule, statement="R3", steps=(1, 16), seeds=3).exceeded() == 0
    with pytest.raises(AssumptionError, match="smoothness: a step"):
        measure(claimed, rule, statement="R3", steps=(1, 16), seeds=3)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"torch\.float16.*use float64"):
        problem = diagonal(2, 0)
        measure(type(problem)(problem.curvature.half()), METHODS["signsgd"].rule(1), statement="R1", steps=(4,))


def test_true_constants_are_not_blamed():
    problem = Claimed(**HONEST)
    start = torch.tensor([[1.5, -0.7], [1e6, 1e-6], [0.0, 1e-12]], dtype=torch.float64)
    found = measure(problem, METHODS["signsgd"].rule(1), statement="R1", steps=(1, 100), seeds=3, start=start)
    assert found.closest()[1] == 0


CANCELLING = {
    # log cosh is rounded to a unit of 1, its value may be 1e-12.
    "log cosh": Claimed(lambda x: (x.abs() + torch.log1p((-2 * x.abs()).exp()) - math.log(2)).sum(-1), torch.tanh),
    "flat": TraceProblem(TraceQuadratic(torch.diag(torch.tensor([1e8, 1.0, 1e-4], dtype=torch.float64))), 1),
    # A gradient rounded to a unit of ½, and values of 2 ln 2: balanced logistic regression.
    "coin": Claimed(lambda x: (x.abs() / 2 + torch.log1p((-x.abs()).exp())).sum(-1), lambda x: torch.sigmoid(x) - 0.5, L=0.25,
                    optimum=2 * math.log(2)),
    "to 1": Claimed(lambda x: (0.5 * x**2 - x + 0.5).sum(-1), lambda x: x - 1),
    "far": DiagonalQuadratic(torch.tensor([4.0, 1.0], dtype=torch.float64), torch.full((2,), 1e8, dtype=torch.float64)),
    "steep": DiagonalQuadratic(torch.full((2,), 1e30, dtype=torch.float64)),
    "turned": RotatedQuadratic.random(torch.tensor([1e8, 1.0, 1e-4], dtype=torch.float64), torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", CANCELLING)
def test_values_that_cancel_inside_are_not_blamed(name, size):
    problem = CANCELLING[name]
    start = size * torch.randn(3, *problem.event_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if name == "flat":
        start[:, :2] = 0
    if name == "far":
        start = start + 1e8
    # R1 has no step size at a minimum, which 0 is of most.
    statements = ("R1", "R5") if size > 0 or name == "to 1" else ("R5",)
    for rule in ("signsgd", "adagrad", "deva-linf"):
        for statement in statements:
            oracle = None if statement == "R1" else Gaussian(torch.full(tuple(problem.event_shape), max(size, 1e-3), dtype=torch.float64))
            for scale in (1.0, 8.0):
                options = {"statement": statement, "steps": (1, 64, 500), "seeds": 3, "start": start, "scales": (scale,)}
                found = measure(problem, METHODS[rule].rule(problem.event_ndim), oracle=oracle, **options)
                assert found.closest()[1] == 0 and found.exceeded() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_blamed(dtype):
    problem = diagonal(20, 0)
    problem = type(problem)(problem.curvature.to(dtype))
    for name in ("signsgd", "adagrad", "deva-linf"):
        found = measure(problem, METHODS[name].rule(1), statement="R1", steps=(1, 10, 1000), seeds=2)
        assert found.closest()[1] == 0
    # One step exactly onto the minimum, where R1 is attained: single precision does not break it.
    assert rounding(torch.tensor([10]), torch.float32) > rounding(torch.tensor([10]), torch.float64) == 1e-9


def test_a_false_bound_is_still_noticed_in_single_precision():
    problem = diagonal(20, 0)
    problem = type(problem)(problem.curvature.float())
    found = measure(problem, METHODS["signsgd"].rule(1), statement="R1", steps=(10, 1000), seeds=2)
    assert found.closest(weights={"smoothness": 0.5})[1] > 0


@pytest.mark.parametrize("steps", [(1,), (1, 2)])
def test_the_last_iterate_is_in_the_domain(steps):
    problem = MatrixFactorisation(torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1, 4.0)
    with pytest.raises(AssumptionError, match="ball"):
        measure(problem, METHODS["signsgd"].rule(2), statement="R1", steps=steps, seeds=2, scales=(1e3,))


class Endless(Gaussian):
    """Says that its variance is infinite."""

    def variance(self, problem, x):
        return torch.full_like(x, math.inf)


def test_infinite_variance_along_the_run_is_named():
    oracle = Endless(torch.ones(6, dtype=torch.float64))
    with pytest.raises(AssumptionError, match="finite variance"):
        measure(diagonal(2, 0), METHODS["signsgd"].rule(1), statement="R2", steps=(4,), seeds=2, oracle=oracle)


def test_a_start_below_the_minimum_is_no_start_at_it():
    problem = Claimed(HONEST["value"], HONEST["gradient"], optimum=10.0)
    with pytest.raises(AssumptionError, match="bounded below"):
        starting_gap(problem, torch.ones(1, 2, dtype=torch.float64), "R1")
    with pytest.raises(AssumptionError, match="bounded below"):
        compare_known(problem, gradients=(4,), seeds=2)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_minimum_is_told_by_the_scale_of_f(scale):
    def value(x):
        return scale * (1 + HONEST["value"](x))

    for shift, good in ((0.0, True), (1e-6, False)):
        problem = Claimed(value, lambda x: scale * x, optimum=scale * (1 + shift))
        if good:
            assert starting_gap(problem, torch.zeros(1, 2, dtype=torch.float64), "R1") == 0
        else:
            with pytest.raises(AssumptionError, match="bounded below"):
                starting_gap(problem, torch.zeros(1, 2, dtype=torch.float64), "R1")


def test_factor_average():
    rule = METHODS["deva-linf"].rule(1)
    like = torch.zeros(3, 2)
    t = torch.arange(1, 6, dtype=torch.float64)
    top = ((1 - 0.99**t) / 0.01).sqrt()
    for power, wanted in ((0, top.max()), (1, top.mean()), (2, top.square().mean())):
        value = factor_average(rule, (5, 1), power, like)
        assert value.shape == (2, 1, 1, 1)
        torch.testing.assert_close(value[0].squeeze(), wanted)


@pytest.mark.parametrize("changed, message", [
    ({"problem": "diagonal"}, "problem is a str"), ({"rule": "signsgd"}, "rule is a str"), ({"oracle": "gaussian"}, "oracle is a str"),
    ({"steps": 5}, "different whole numbers"), ({"steps": [1, "a"]}, "different whole numbers"), ({"steps": [True, 2]}, "whole numbers"),
    ({"seeds": 1.5}, "seeds is 1.5"), ({"seeds": True}, "seeds is True"), ({"seed": None}, "seed is None"), ({"scales": 1.0}, "scales is"),
])
def test_bad_arguments(changed, message):
    given = {"problem": diagonal(1, 0), "rule": METHODS["signsgd"].rule(1), "statement": "R1", "steps": (2, 4)} | changed
    with pytest.raises((TypeError, ValueError), match=message):
        measure(**given)


def test_unknown_weights_are_refused():
    found = measure(diagonal(1, 0), METHODS["signsgd"].rule(1), statement="R1", steps=(2, 4))
    with pytest.raises(ValueError, match="no term smothness"):
        found.closest(weights={"smothness": 0.5})


@pytest.mark.parametrize("seeds, deviations", [(4, 157), (10, 12), (20, 7)])
def test_few_seeds_are_given_more_room(seeds, deviations):
    noise = torch.linspace(-1, 1, seeds, dtype=torch.float64)[:, None]
    error = float(noise.std()) / math.sqrt(seeds)
    right = torch.ones(seeds, 1, dtype=torch.float64)
    for times, exceeded in ((deviations - 1, False), (deviations + 1, True)):
        assert bool(beyond(right + noise + times * error, right, torch.zeros(()), 0)) is exceeded


def test_beyond():
    share = torch.zeros(())
    left = torch.tensor([[9.0, 10.0, 8.0], [9.0, 10.0, 8.0]], dtype=torch.float64).repeat(1, 10)
    right = torch.tensor([[1.0], [8.95]], dtype=torch.float64).expand(2, 30)
    assert beyond(left, right, share, 1).tolist() == [True, False]
    # Three seeds know little, one nothing; infinite bounds bound, and NaN is a violation.
    assert not beyond(left[:, :3], right[:, :3], share, 1).any() and not beyond(left[:, :1], right[:, :1], share, 1).any()
    endless = torch.full_like(left, math.inf)
    assert not beyond(left, endless, share, 1).any() and not beyond(left[:, :1], endless[:, :1], share, 1).any()
    assert beyond(left * math.nan, right, share, 1).all() and beyond(left[:, :1] * math.nan, right[:, :1], share, 1).all()
