"""Problem families at the limits of floating point: singular Hessians, optima near cancellation, ranges, copies, and what a step costs."""

import doctest
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

from deva_theory.problems import SPECTRA, TraceQuadratic, block_hessian
from deva_theory.problems import families as F
from deva_theory.problems.families import base, trace
from deva_theory.problems.families.exact import above, below, floats, integers, power, quadratic_minimum
from deva_theory.problems.quadratic import FactoredQuadratic

D = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def tensor(*rows):
    return torch.tensor(rows, dtype=D)


def diagonal(entries, B=None, columns=1, dtype=D):
    return F.TraceProblem(TraceQuadratic(torch.diag(tensor(*entries)).to(dtype), None if B is None else tensor(*B)[:, None]), columns)


def rotated(condition, seed):
    """A rotated 3×3 Hessian, and its eigenvectors."""
    Q = F.random_orthogonal(3, seed)
    H = (Q * tensor(1.0, 0.5, 1 / condition)) @ Q.mT
    return 0.5 * (H + H.mT), Q


def fractions(x):
    return [[Fraction(a) for a in row] for row in x.tolist()]


def product(A, B):
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*B, strict=True)] for row in A]


def solved(H, B):
    """``H^{-1}B`` in fractions, by elimination."""
    rows = [h + b for h, b in zip(H, B, strict=True)]
    m = len(rows)
    for k in range(m):
        top = next(i for i in range(k, m) if rows[i][k])
        rows[k], rows[top] = rows[top], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(m):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[m:] for row in rows]


def trace_of(A, B):
    return sum(a * b for x, y in zip(A, B, strict=True) for a, b in zip(x, y, strict=True))


def exact_value(H, B, X):
    """``½ tr(XᵀHX) + tr(BᵀX)`` in fractions."""
    return trace_of(product(H, X), X) / 2 + trace_of(B, X)


# ---- bounded below ----

UNBOUNDED = {
    "B in the null space": lambda: diagonal((1.0, 0.0), (1.0, 1e-8)),
    "B along a tiny eigenvalue": lambda: diagonal((1.0, 1e-15), (1.0, 1.4e-8)),
    "negative to float32": lambda: diagonal((1.0, -2e-5), dtype=torch.float32),
    "negative to float64": lambda: diagonal((1.0, -1e-14)),
    "a product in float32": lambda: F.TraceProblem(TraceQuadratic((lambda A: A @ A.mT)(normal(9, 3).float())), 1),
    "no curvature at all": lambda: diagonal((0.0, 0.0), (1.0, 0.0)),
}


@pytest.mark.parametrize("case", UNBOUNDED)
def test_what_falls_without_end_is_refused_with_advice(case):
    with pytest.raises(F.AssumptionError, match=r"^bounded below: trace quadratic: .*(times the identity|take B = HM)"):
        UNBOUNDED[case]()


def test_a_linear_term_that_is_not_finite_is_refused():
    for entry in (math.nan, math.inf):
        with pytest.raises(F.AssumptionError, match=r"^smoothness: .*finite"):
            diagonal((1.0, 1.0), (entry, 1.0))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("linear", [False, True])
def test_a_singular_hessian_is_projected_and_then_truly_bounded_below(linear, columns):
    A = normal(5, 9, 3, seed=1)
    H = A @ A.mT
    B = H @ normal(5, 9, columns, seed=2) if linear else None
    problem = F.TraceProblem(TraceQuadratic(H, B), columns)
    torch.testing.assert_close(problem.quadratic.H, H, rtol=0, atol=1e-13 * float(H.abs().max()))
    null = torch.linalg.eigh(H).eigenvectors[..., :6]
    c = problem.constants
    assert c.optimum_exact is not linear
    assert bool((c.coordinate >= 0).all())
    # Far along the null space, where a negative eigenvalue of 1e-16 would be an abyss.
    X = 1e9 * null @ normal(50, 5, 6, columns, seed=3)
    assert bool((problem.gap(X) >= 0).all())
    assert bool((problem.value(X) >= c.optimum - 1e-12 * c.optimum.abs()).all())
    if not linear:
        assert bool((problem.value(X) >= 0).all())
        assert bool((0.5 * (X * (H @ X)).sum((-2, -1)) < 0).any())  # the control: H itself goes below
    else:
        minimum = -torch.linalg.lstsq(H, B, rcond=1e-12, driver="gelsd").solution
        torch.testing.assert_close(problem.value(minimum), c.optimum, rtol=1e-11, atol=0)
        assert bool((problem.gap(minimum) <= 1e-20 * c.optimum.abs()).all())
    x = normal(4, 5, 9, columns, seed=4).requires_grad_()
    (g,) = torch.autograd.grad(problem.value(x).sum(), x)
    torch.testing.assert_close(problem.gradient(x), g, rtol=1e-11, atol=1e-10)
    plain = TraceQuadratic(H, B)
    torch.testing.assert_close(problem.gradient(x), plain.gradient(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(problem.value(x), plain.value(x), rtol=1e-9, atol=1e-9)


def test_an_optimum_beside_an_eigenvalue_near_zero_is_never_called_exact():
    assert not diagonal((1.0, 0.0), (1.0, 0.0)).constants.optimum_exact
    assert not diagonal((1.0, 1e-15), (1.0, 0.0)).constants.optimum_exact
    assert diagonal((1.0, 1e-15)).constants.optimum_exact
    assert diagonal((1.0, 1e-3), (1.0, 1e-3)).constants.optimum_exact
    assert diagonal((0.0, 0.0), (0.0, 0.0)).constants.optimum_exact


def test_a_small_eigenvalue_of_a_float32_hessian_counts():
    problem = F.TraceProblem(TraceQuadratic(torch.diag(torch.tensor([1.0, 1e-5])), torch.tensor([[1.0], [3e-4]])), 1)
    H, B = (fractions(x) for x in (problem.quadratic.H, problem.quadratic.B))
    true = -trace_of(B, solved(H, B)) / 2
    assert Fraction(problem.constants.optimum.item()) <= true
    assert problem.constants.optimum.item() == pytest.approx(float(true), rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_published_problems_are_what_they_were(spectrum, dtype):
    rng = np.random.default_rng(3)
    H = torch.from_numpy(np.stack([block_hessian(SPECTRA[spectrum], rng) for _ in range(4)]))
    published = F.TraceProblem.published(spectrum, instances=(4,), seed=3)
    assert torch.equal(published.quadratic.H, H)
    problem = F.TraceProblem(TraceQuadratic(H.to(dtype)), 9)
    X = problem.start(0, (2,))
    assert not isinstance(problem.quadratic, FactoredQuadratic)
    assert torch.equal(problem.quadratic.H, H.to(dtype))
    assert torch.equal(problem.value(X), TraceQuadratic(H.to(dtype)).value(X))
    assert problem.constants.optimum_exact and torch.equal(problem.constants.optimum, torch.zeros(4, dtype=D))
    torch.testing.assert_close(problem.gap(X), problem.value(X).to(D), rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_asymmetry_beyond_the_last_digit_is_averaged_away():
    H = torch.tensor([[1.0, 1e-5], [0.0, 1.0]])
    x = torch.tensor([[1.0], [2.0]], requires_grad=True)
    problem = F.TraceProblem(TraceQuadratic(H), 1)
    (g,) = torch.autograd.grad(problem.value(x).sum(), x)
    torch.testing.assert_close(problem.gradient(x), g, rtol=1e-7, atol=0)


# ---- the optimum ----


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12, 1e14])
def test_the_optimum_is_a_lower_bound_whatever_the_condition(condition):
    for seed in range(3):
        H, Q = rotated(condition, seed)
        for B in (Q[:, 2:].clone(), normal(3, 2, seed=seed)):
            problem = F.TraceProblem(TraceQuadratic(H, B), B.shape[1])
            exact = [fractions(H), fractions(B)]
            true = -trace_of(exact[1], solved(*exact)) / 2
            found = Fraction(problem.constants.optimum.item())
            assert found <= true
            assert abs(found - true) <= Fraction(4, 10**16) * abs(true)
            assert problem.constants.optimum_exact
            # What eigenvectors say is off by about ε times the condition, to either side.
            values = torch.linalg.eigvalsh(H)
            rough = -0.5 * ((Q.mT @ B) ** 2 / values.flip(0)[:, None]).sum()
            assert abs(float(Fraction(rough.item()) - true)) <= 1e-15 * condition * abs(float(true))


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e300])
def test_the_optimum_neither_underflows_nor_overflows(scale):
    H = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=D) * scale / 4
    problem = F.TraceProblem(TraceQuadratic(H, torch.full((2, 1), scale / 4, dtype=D)), 1)
    assert problem.constants.optimum.item() / scale == pytest.approx(-1 / 12, rel=1e-14)
    assert problem.constants.optimum_exact
    assert problem.gap(torch.ones(2, 1, dtype=D)).item() / scale == pytest.approx(4 / 3, rel=1e-14)


def test_an_optimum_beyond_the_range_of_float64_is_refused():
    problem = diagonal((1.0, 1e-12), (1.0, 1e200))
    with pytest.raises(F.AssumptionError, match=r"^bounded below: .*rescale"):
        _ = problem.constants


def test_a_certificate_that_is_wide_is_not_called_exact(monkeypatch):
    H, B = np.diag([1.0, 1e-3]), np.ones((2, 1))
    tight = quadratic_minimum(H, B, eigenvalues=np.array([1e-3, 1.0]), Q=np.eye(2)[:, ::-1], least=1e-3)
    # Wrong eigenvectors: the steps do not converge, and the bound says so.
    poor = quadratic_minimum(H, B, eigenvalues=np.array([0.9, 1.0]), Q=np.eye(2)[:, ::-1], least=1e-3)
    assert tight.lower == pytest.approx(-500.5, rel=1e-15) and tight.width < 1e-20
    assert poor.lower <= -500.5 and poor.width > 1e-14
    monkeypatch.setattr(trace, "quadratic_minimum", lambda *given, **facts: poor)
    problem = diagonal((1.0, 1e-3), (1.0, 1.0))
    assert not problem.constants.optimum_exact and problem.constants.optimum.item() == poor.lower


def test_gap_keeps_its_digits_near_the_minimum_and_is_no_less_than_the_truth():
    for condition, seed in ((1.0, 0), (1e3, 1), (1e8, 2)):
        H, _ = rotated(condition, seed)
        B = 1e7 * normal(3, 2, seed=seed)
        problem = F.TraceProblem(TraceQuadratic(H, B), 2)
        exact = [fractions(H), fractions(B)]
        minimum = solved(*exact)
        least = -trace_of(exact[1], minimum) / 2
        centre = -torch.tensor([[float(a) for a in row] for row in minimum], dtype=D)
        for distance in (1e-2, 1.0, 1e4):
            X = centre + distance * normal(5, 3, 2, seed=7)
            found = problem.gap(X)
            assert found.shape == (5,)
            for x, gap in zip(X, found.tolist(), strict=True):
                true = float(exact_value(*exact, fractions(x)) - least)
                # Rounding of D and HD.
                size = float((x - centre).abs().sum() ** 2) * 1e-15
                assert gap == pytest.approx(true, rel=1e-14, abs=size)
        assert bool((problem.gap(centre) >= 0).all())
    # The control: a difference of two values has lost everything.
    problem = F.TraceProblem(TraceQuadratic(torch.eye(2, dtype=D), tensor([1e8], [3e8 / 7])), 1)
    x = 0.1 - problem.quadratic.B
    assert problem.gap(x).item() == pytest.approx(0.01, rel=1e-7)
    assert abs(float(problem.value(x) - problem.constants.optimum) - 0.01) > 0.5


def test_gap_is_batched_and_by_default_the_difference():
    H = F.TraceProblem.published("homogeneous", instances=(2, 3)).quadratic.H
    B = normal(2, 3, 9, 2)
    B[1, 1] = 0  # an instance with nothing to minimise
    problem = F.TraceProblem(TraceQuadratic(H, B), 2)
    X = problem.start(0, (4,))
    assert problem.gap(X).shape == (4, 2, 3)
    torch.testing.assert_close(problem.gap(X), problem.value(X) - problem.constants.optimum, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(problem.gap(X[0, :1, :1]), F.Problem.gap(problem, X[0, :1, :1]), rtol=1e-12, atol=1e-9)
    wells = F.NonConvexWells(torch.ones(3, 2))
    x = wells.start(0)
    assert torch.equal(wells.gap(x), wells.value(x).to(D)) and wells.gap(x).dtype == D
    with pytest.raises(ValueError, match="last dimensions"):
        problem.gap(X[..., :1])


def test_integers_and_roundings_are_exact():
    x = np.array([[1.5, -3e-310, 0.0], [2.0**900, -7.25, 5e-324]])
    whole, exponent = integers(x)
    assert all(power(exponent) * int(a) == Fraction(b) for a, b in zip(whole.ravel(), x.ravel().tolist(), strict=True))
    assert np.array_equal(floats(whole, exponent), x)
    assert floats(np.array([1, -1], dtype=object), 5000).tolist() == [math.inf, -math.inf]
    third = Fraction(1, 3)
    assert Fraction(below(third)) < third < Fraction(above(third)) and np.nextafter(below(third), 1) == above(third)
    assert below(Fraction(1, 4)) == above(Fraction(1, 4)) == 0.25
    assert below(-power(2000)) == -math.inf and below(power(2000)) == np.finfo(float).max and below(-power(-2000)) == -5e-324
    assert integers(np.zeros(2))[0].tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
def test_logistic_optimum_is_tight_for_separable_data_and_never_negative(scale):
    A = normal(20, 3)
    regularisation = tensor(1e-2, 1e-8, 1e-12)
    problem = F.LogisticRegression(A * scale, torch.sign(A[:, 0]), regularisation)
    c = problem.constants
    assert c.optimum_exact
    # w = t e_1 is a feasible guess for every t: f* is below, and at most the least of them.
    t = torch.logspace(-8, 8, 2000, dtype=D)
    guesses = t[:, None, None] * tensor(1.0, 0.0, 0.0)
    least = problem.value(guesses.expand(2000, 3, 3)).amin(0)
    assert bool(((c.optimum > 0) & (c.optimum <= least)).all())
    assert bool((c.optimum >= 1e-3 * least).all())
    assert F.LogisticRegression(A * 1e150, torch.sign(A[:, 0]), tensor(1e-150)).constants.optimum.item() == 0.0
    # A third of f* = 1e-85 is small, and not small beside f*.
    assert not F.LogisticRegression(A * 1e20, torch.sign(A[:, 0]), tensor(1e-50)).constants.optimum_exact


# ---- ranges ----


def bounded(problem):
    """Every constant by name."""
    c = problem.constants
    return {name: getattr(c, name) for name in ("optimum", "coordinate", "box", "euclidean", "gradient_lipschitz_linf")}


SCALED = {
    "diagonal": lambda s: F.DiagonalQuadratic(tensor(1.0, 2.0) * s),
    "rotated": lambda s: F.RotatedQuadratic.random(tensor(1.0, 0.5, 0.2) * s, 1),
    "trace": lambda s: F.TraceProblem(TraceQuadratic(tensor([2.0, 1.0], [1.0, 2.0]) * s, tensor([1.0], [3.0]) * s), 1),
    "singular": lambda s: F.TraceProblem(TraceQuadratic(tensor([1.0, 1.0], [1.0, 1.0]) * s, tensor([1.0], [1.0]) * s), 1),
    "wells": lambda s: F.NonConvexWells(tensor(1.0, 2.0) * s, "cosine", tensor(1.0, 1.0), torch.tensor(s, dtype=D)),
}


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("family", SCALED)
def test_constants_scale_with_the_problem(family, scale):
    one, other = bounded(SCALED[family](1.0)), bounded(SCALED[family](scale))
    for name, value in one.items():
        torch.testing.assert_close(other[name] / scale, value, rtol=1e-7, atol=1e-14)


OUT_OF_RANGE = {
    "one direction": lambda: F.NonConvexWells(tensor(1.0), "cosine", tensor(1e160)),
    "direction": lambda: F.NonConvexWells(tensor(1.0, 0.5), "cosine", tensor(1.0, 1.0) * 1e160),
    "features": lambda: F.LogisticRegression(tensor([1.0], [2.0]) * 1e160, tensor(1.0, 1.0), torch.tensor(0.1, dtype=D)),
    "ball": lambda: F.MatrixFactorisation(torch.ones(2, 1, dtype=D), 1, 1e160),
    "target": lambda: F.MatrixFactorisation(torch.ones(2, 1, dtype=D) * 1e308, 1, 1.0),
    "eigenvalues": lambda: F.RotatedQuadratic.random(tensor(1.0, 0.5, 0.2) * 1.7e308, 1),
    "H": lambda: diagonal((1.7e308, 1.7e308), columns=2),
}


def test_a_direction_out_of_range_is_named():
    with pytest.raises(F.AssumptionError, match=r"coupled cosine wells: .*rescale the direction"):
        _ = OUT_OF_RANGE["direction"]().constants


@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_constants_that_leave_the_range_are_an_error(case):
    with pytest.raises(F.AssumptionError, match=r"^smoothness: .*(finite|rescale)"):
        _ = OUT_OF_RANGE[case]().constants


def constants(**changed):
    one = torch.ones((), dtype=D)
    given = {
        "optimum": 0 * one, "optimum_exact": True, "coordinate": torch.ones(2, dtype=D), "box": 2 * one, "box_exact": True,
        "euclidean": one, "gradient_lipschitz_linf": 2 * one, "convex": True,
    }  # fmt: skip
    return F.Constants(**(given | changed))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["coordinate", "box", "euclidean", "gradient_lipschitz_linf", "spectral"])
def test_constants_refuse_what_is_none(field, bad):
    assert constants().box.item() == 2
    with pytest.raises(F.AssumptionError, match=f"^smoothness: the constant '{field}'"):
        constants(**{field: tensor(1.0, bad)})


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_constants_refuse_an_optimum_that_is_not_finite(bad):
    with pytest.raises(F.AssumptionError, match=r"^bounded below: "):
        constants(optimum=torch.tensor(bad, dtype=D))


@pytest.mark.parametrize("H", [torch.full((2, 2), math.nan, dtype=D), torch.eye(2, dtype=D) * math.inf])
def test_majorant_refuses_what_is_not_finite(H):
    with pytest.raises(F.AssumptionError, match=r"^smoothness: "):
        F.coordinate_majorant(H)


def test_euclidean_constant_is_that_of_the_hessian_and_not_of_the_eigenvalues():
    Q = F.random_orthogonal(4, 0).float() * (1 + 1.5e-4)
    problem = F.RotatedQuadratic(torch.tensor([4.0, 3.0, 2.0, 1.0]), Q)
    top = Q[:, 0] / torch.linalg.vector_norm(Q[:, 0])
    needed = 2 * float(problem.value(top))
    assert 4.001 < needed <= float(problem.constants.euclidean) * (1 + 1e-6)


@pytest.mark.parametrize(("dtype", "large"), [(torch.float64, 1e200), (torch.float32, 1e30)])
def test_geman_mcclure_flattens_out_however_far(dtype, large):
    problem = F.NonConvexWells(torch.ones(1, dtype=dtype), "geman-mcclure")
    x = torch.tensor([[large], [-large], [math.inf]], dtype=dtype)
    assert problem.value(x).tolist() == [0.5, 0.5, 0.5]
    assert bool((problem.gradient(x[:2]).abs() < 1e-20).all())
    assert bool(problem.value(torch.tensor([math.nan], dtype=dtype)).isnan())
    # The two branches meet, and the slope does not vanish before it must.
    t = torch.tensor([[0.0], [1e-3], [0.999999], [1.0], [1.000001], [7.0]], dtype=dtype, requires_grad=True)
    value = problem.value(t)
    torch.testing.assert_close(value, (0.5 * t**2 / (1 + t**2))[:, 0], rtol=4 * torch.finfo(dtype).eps, atol=0)
    (g,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(problem.gradient(t), g, rtol=1e-5, atol=0)
    assert float(F.NonConvexWells(torch.ones(1), "geman-mcclure").gradient(torch.tensor([1e10]))) == pytest.approx(1e-30, rel=1e-6, abs=0)


# ---- what is the caller's stays the caller's ----

PARAMETERS = {
    "diagonal": lambda t: F.DiagonalQuadratic(t, t),
    "rotated": lambda t: F.RotatedQuadratic(t, torch.eye(2, dtype=D), t),
    "wells": lambda t: F.NonConvexWells(t, "cosine", t, t[0]),
    "trace": lambda t: F.TraceProblem(TraceQuadratic(torch.diag(t), t[:, None]), 1),
    "one row": lambda t: F.TraceProblem(TraceQuadratic(t[:1, None], t[None, :1]), 1),
    "factorisation": lambda t: F.MatrixFactorisation(t[None], 1, 5.0),
    "logistic": lambda t: F.LogisticRegression(t[None], torch.ones(1, dtype=D), t),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_changing_a_parameter_in_place_changes_nothing(name):
    given = torch.ones(2, dtype=D)
    problem = PARAMETERS[name](given)
    x = torch.full(tuple(problem.event_shape), 0.5, dtype=D)
    before, value = bounded(problem), problem.value(x)
    given.mul_(100)
    for field, constant in bounded(problem).items():
        assert torch.equal(constant, before[field]), field
    fresh = PARAMETERS[name](torch.ones(2, dtype=D))
    assert torch.equal(problem.value(x), value) and torch.equal(value, fresh.value(x))
    for field, constant in bounded(fresh).items():
        assert torch.equal(constant, before[field]), field


def test_parameters_lose_their_gradient_and_deviations_are_copied():
    curvature = torch.ones(2, dtype=D, requires_grad=True)
    assert not F.DiagonalQuadratic(curvature).constants.box.requires_grad
    sigma = torch.ones(2, dtype=D)
    oracle = F.Gaussian(sigma)
    sigma.mul_(100)
    assert oracle.sigma.tolist() == [1.0, 1.0]
    problem = F.DiagonalQuadratic(torch.ones(2, dtype=D))
    problem.constants.coordinate.mul_(100)
    assert problem.curvature.tolist() == [1.0, 1.0]


def test_whole_numbers_may_be_numpys():
    assert F.MatrixFactorisation(torch.ones(2, 3, dtype=D), np.int64(2), 5).event_shape == (5, 2)
    assert F.TraceProblem(TraceQuadratic(torch.eye(2, dtype=D)), np.int64(3)).event_shape == (2, 3)


# ---- errors ----


def test_an_assumption_error_takes_a_message_alone_and_survives_pickling():
    named, plain = F.AssumptionError("smoothness", "too rough"), F.AssumptionError("R1 assumes Δ >= 0")
    assert (str(named), named.assumption) == ("smoothness: too rough", "smoothness")
    assert (str(plain), plain.assumption) == ("R1 assumes Δ >= 0", "")
    for error in (named, plain):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.assumption) == (F.AssumptionError, str(error), error.assumption)


def test_the_example_of_an_own_problem_runs():
    found = doctest.testmod(base)
    assert found.failed == 0 and found.attempted > 4


# ---- cost of a step ----


class Counted(F.DiagonalQuadratic):
    """Counts gradients."""

    calls = 0

    def _gradient(self, x):
        type(self).calls += 1
        return super()._gradient(x)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_known_gradient_is_used_and_changes_no_sample(batch):
    problem = Counted(tensor([1.0, 2.0], [3.0, 4.0]))
    x = problem.start(0, (3,))
    sigma = tensor(1.0, 0.5)
    oracles = (F.Gaussian(sigma), F.SparseSpikes(sigma, 0.5), F.StudentT(sigma))
    expected = [oracle.sample(problem, x, batch, torch.Generator().manual_seed(2)) for oracle in oracles]
    gradient = problem.gradient(x)
    Counted.calls = 0
    found = [oracle.sample(problem, x, batch, torch.Generator().manual_seed(2), gradient=gradient) for oracle in oracles]
    assert Counted.calls == 0
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    published = F.TraceProblem.published("homogeneous")
    rows, X = F.RowSampling(published, 40.0), published.start(1, (2,))
    samples = [rows.sample(published, X, batch, torch.Generator().manual_seed(2), gradient=g) for g in (None, published.gradient(X))]
    assert torch.equal(*samples)


def test_a_gradient_of_another_shape_is_refused():
    problem = F.DiagonalQuadratic(tensor(1.0, 2.0))
    with pytest.raises(ValueError, match="the gradient has the shape"):
        F.Gaussian(tensor(1.0, 1.0)).sample(problem, problem.start(0), 1, torch.Generator(), gradient=tensor(1.0))


def test_full_shapes_are_checked_without_broadcasting(monkeypatch):
    problem = F.DiagonalQuadratic(torch.ones(3, 2, dtype=D))
    oracle, x = F.Gaussian(torch.ones(2, dtype=D)), problem.start(0, (5,))
    monkeypatch.setattr(torch, "broadcast_shapes", None)
    found = (problem.value(x), problem.gradient(x), oracle.variance(problem, x), oracle.sample(problem, x, 1, torch.Generator()))
    assert all(y.shape[:2] == (5, 3) for y in found)
    monkeypatch.undo()
    assert problem.value(x[0, 0]).shape == (3,)
    assert problem.full_shape(x[:, :1]) == (5, 3, 2) and problem.full_shape(x[0, 0]) == (3, 2)
    # The trailing shape fits by chance, and the radius is looked at all the same.
    ball = F.MatrixFactorisation(torch.ones(2, 1, dtype=D), 1, 1.0)
    with pytest.raises(F.AssumptionError, match="left the ball"):
        ball.value(torch.ones(3, 1, dtype=D))
