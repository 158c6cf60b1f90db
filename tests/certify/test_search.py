"""The search finds what random sampling misses, finds nothing where the statement is true, and shrinks to what a reader can check."""

from __future__ import annotations

import json
import math
import pickle
import sys
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.certify.missing import MissingExtra, optional
from deva_theory.certify.search import SearchProblem, SearchResult, as_data, falsify_for, search, shrink, target_violation
from deva_theory.certify.simplify import complexity, readable


def adam_ratio(g: torch.Tensor, beta1: float, beta2: float) -> torch.Tensor:
    """Bias-corrected m̂²/v̂ of histories ``(B, t)``, written out from the definition."""
    t = g.shape[1]
    age = torch.arange(t - 1, -1, -1, dtype=torch.float64)
    m = g @ ((1 - beta1) * beta1**age / (1 - beta1**t))
    v = g.square() @ ((1 - beta2) * beta2**age / (1 - beta2**t))
    return m.square() / v


def adam_problem(beta1: float = 0.9, beta2: float = 0.99, t: int = 12, **settings) -> SearchProblem:
    return SearchProblem((t,), lambda g: adam_ratio(g, beta1, beta2) - 1.0, **{"variable_length": True, "margin": 1e-3, **settings})


def adam_supremum(beta1: Fraction, beta2: Fraction, t: int) -> float:
    """SPEC D4, ``Σ a_k²/b_k`` in exact rationals."""
    a, b = ([(1 - beta) * beta**k / (1 - beta**t) for k in range(t)] for beta in (beta1, beta2))
    return float(sum(x * x / y for x, y in zip(a, b, strict=True)))


SUPREMUM = adam_supremum(Fraction(9, 10), Fraction(99, 100), 12)
METHODS = pytest.mark.parametrize("differentiable", [True, False], ids=["gradients", "evolution"])


@METHODS
@pytest.mark.parametrize("seed", range(3))
def test_reaches_the_supremum_of_textbook_adam(differentiable, seed):
    found = search(adam_problem(differentiable=differentiable), seed=seed)
    assert SUPREMUM == pytest.approx(1.104372, abs=1e-6)
    assert 1.0 + found.violation == pytest.approx(SUPREMUM, abs=1e-6)
    # A batch may be summed in another order than one sequence.
    assert found.violation == pytest.approx(adam_problem().value(found.x), rel=1e-12)


def test_random_sampling_misses_what_the_search_finds():
    g = torch.randn(100_000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(adam_ratio(g, 0.9, 0.99).max()) < 1.0
    assert search(adam_problem(), starts=8, steps=60).violation > 0.1


@METHODS
def test_sampling_with_the_same_budget_stays_far_below(differentiable):
    problem = adam_problem(differentiable=differentiable)
    found = search(problem)
    samples = problem.starts(torch.Generator().manual_seed(1), found.evaluations)
    assert found.violation - float(problem.violation(samples).nan_to_num(nan=-1.0).max()) > 1e-2


@METHODS
def test_finds_nothing_where_the_statement_is_true(differentiable):
    # Equal decay rates: Cauchy-Schwarz.
    found = search(adam_problem(0.9, 0.9, differentiable=differentiable), seed=1)
    assert -1e-3 < found.violation < 1e-12


@METHODS
def test_constrained_and_nonsmooth(differentiable):
    A = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    A = A + A.T
    sphere = SearchProblem(
        (6,),
        lambda x: torch.einsum("bi,ij,bj->b", x, A, x),
        project=lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-300),
        differentiable=differentiable,
    )
    found = search(sphere, starts=32, steps=300)
    assert found.violation == pytest.approx(float(torch.linalg.eigvalsh(A)[-1]), rel=1e-6)
    assert float(found.x.norm()) == pytest.approx(1.0, abs=1e-12)
    box = SearchProblem(
        (4,), lambda x: (x - 0.3).abs().sum(1) - 5.0, project=lambda x: x.clamp(-1.0, 1.0), differentiable=differentiable
    )
    assert search(box, starts=32, steps=100).violation == pytest.approx(0.2, abs=1e-9)
    kink = SearchProblem((3, 3), lambda X: -torch.linalg.matrix_norm(X - torch.eye(3, dtype=X.dtype), 2), differentiable=differentiable)
    assert search(kink, starts=32, steps=600).violation > (-1e-2 if differentiable else -0.05)


@METHODS
def test_finds_a_sign_pattern_and_a_tiny_scale(differentiable):
    wanted = torch.tensor([1.0, -1, -1, 1, -1, 1], dtype=torch.float64)
    hidden = SearchProblem((6,), lambda x: (torch.tanh(x) * wanted).sum(1) - 5.9, differentiable=differentiable)
    assert search(hidden, starts=32, steps=200).violation > 0.05
    start = lambda g, n: 1e-9 * torch.randn(n, 2, generator=g, dtype=torch.float64)  # noqa: E731
    tiny = SearchProblem((2,), lambda x: 1.0 - (x / 1e-9 - 2.0).square().sum(1), start=start, differentiable=differentiable)
    assert search(tiny, starts=16, steps=200).violation == pytest.approx(1.0, abs=1e-9)


@METHODS
def test_depends_on_the_seed_only_and_counts_every_evaluation(differentiable):
    seen = 0

    def violation(g):
        nonlocal seen
        seen += len(g)
        return adam_ratio(g, 0.9, 0.99) - 1.0

    problem = SearchProblem((5,), violation, differentiable=differentiable)
    first = search(problem, starts=10, steps=30, seed=7)
    assert first.evaluations == seen <= 10 * 30
    torch.manual_seed(123)
    again = search(problem, starts=10, steps=30, seed=7)
    assert torch.equal(first.x, again.x) and first.violation == again.violation and again.seed == 7
    assert not torch.equal(first.x, search(problem, starts=10, steps=30, seed=8).x)


@METHODS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_undefined_values_are_no_violations(differentiable, bad):
    problem = SearchProblem((2,), lambda x: torch.where(x[:, 0] > 0, x[:, 1] * bad, -x.square().sum(1)), differentiable=differentiable)
    found = search(problem, starts=16, steps=60)
    assert found.x[0] <= 0 and -1e-4 < found.violation <= 0.0
    assert 0 < found.invalid < found.evaluations
    never = SearchProblem((2,), lambda x: x[:, 0] * math.nan, differentiable=differentiable)
    found = search(never, starts=4, steps=5)
    assert found.violation == -math.inf and found.invalid == found.evaluations and found.x.isfinite().all()


def test_one_undefined_gradient_does_not_reach_the_other_starts():
    # The root's slope at 0 is infinite times 0.
    problem = SearchProblem((2,), lambda x: 1.0 - (x - 1.0).square().sum(1) + 0.0 * (x[:, 0] * 0.0).sqrt())
    assert search(problem, starts=8, steps=20).violation > -math.inf
    start = lambda g, n: torch.cat([torch.zeros(1, 2), torch.randn(n - 1, 2, generator=g)])  # noqa: E731
    partly = SearchProblem((2,), lambda x: 1.0 - (x.square().sum(1).sqrt() - 2.0).square(), start=start)
    assert search(partly, starts=8, steps=60).violation == pytest.approx(1.0, abs=1e-9)


@METHODS
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_starts_whose_squares_leave_the_floats(differentiable, scale):
    start = lambda g, n: scale * torch.randn(n, 2, generator=g, dtype=torch.float64)  # noqa: E731
    problem = SearchProblem((2,), lambda x: 1.0 - (x / scale - 2.0).square().sum(1), start=start, differentiable=differentiable)
    assert search(problem, starts=16, steps=200).violation == pytest.approx(1.0, abs=1e-6)


@METHODS
def test_unbounded_violations_do_not_overflow(differentiable):
    # The singular value decomposition raises on infinite entries.
    problem = SearchProblem((3, 3), lambda X: torch.linalg.matrix_norm(X, 2).exp() + X.sum((1, 2)), differentiable=differentiable)
    found = search(problem, starts=16, steps=200)
    assert 1e3 < found.violation < math.inf and found.x.isfinite().all()
    linear = SearchProblem((3, 3), lambda X: torch.linalg.matrix_norm(X, 2), differentiable=differentiable)
    found = search(linear, starts=16, steps=400)
    assert 10.0 < found.violation < 1e9 and found.invalid == 0


def test_scalar_points():
    problem = SearchProblem((), lambda x: 1.0 - (x - 0.25).square())
    assert search(problem, starts=4, steps=60).violation == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchProblem((0,), lambda x: x), "empty axis"),
        (lambda: SearchProblem((), lambda x: x, variable_length=True), "needs a leading axis"),
        (lambda: search(SearchProblem((2,), lambda x: x.sum(1)), starts=0), "at least 1"),
        (lambda: search(SearchProblem((2,), lambda x: x), starts=3), "expected \\(3,\\)"),
        (lambda: search(SearchProblem((2,), lambda x: x.sum(1), start=lambda g, n: torch.zeros(n, 3))), "start returned shape"),
        (lambda: search(SearchProblem((2,), lambda x: x.detach().sum(1))), "differentiable=False"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_falsify_stops_at_the_first_violation():
    seen: list[SearchResult] = []
    found = falsify_for(adam_problem(), 60.0, seen.append, starts=16, steps=200)
    assert found.violation > 1e-3 and found.evaluations < 16 * 200
    assert [r.violation for r in seen] == [found.violation]


def test_falsify_ends_with_its_time_and_totals_the_rounds():
    seen: list[SearchResult] = []
    found = falsify_for(adam_problem(0.9, 0.9), 0.2, seen.append, starts=4, steps=10, first_seed=5)
    assert found.violation < 1e-12 and found.evaluations == seen[-1].evaluations > seen[0].evaluations
    assert len(seen) > 1 and seen[0].seed == 5
    assert [r.violation for r in seen] == sorted(r.violation for r in seen)
    assert falsify_for(adam_problem(0.9, 0.9), 0.0, starts=4, steps=10).evaluations == 4


@METHODS
def test_falsify_overruns_its_time_by_one_batch_at_most(monkeypatch, differentiable):
    # A clock that only evaluations move: one second per batch.
    now = 0.0
    monkeypatch.setattr(sys.modules[falsify_for.__module__], "time", SimpleNamespace(monotonic=lambda: now))

    def violation(x):
        nonlocal now
        now += 1.0
        return -x.square().sum(1)

    problem = SearchProblem((3,), violation, differentiable=differentiable)
    found = falsify_for(problem, 25.0, starts=4, steps=10)
    assert 25 <= now <= 27 and found.evaluations <= 4 * now


def test_shrinks_textbook_adam_to_two_gradients():
    problem = adam_problem()
    x = search(problem).x
    small = shrink(problem, x)
    assert small.shape == (2,) and problem.value(small) > 1e-3
    assert torch.equal(small, shrink(problem, small))
    assert all(v == round(v) for v in small.tolist()) and len(readable(small)) <= 8
    # With most of the violation to keep, fewer steps can go.
    assert 2 < len(shrink(problem, x, 0.08)) < 12
    fixed = shrink(adam_problem(variable_length=False), x, 1e-3)
    assert fixed.shape == (12,) and len(readable(fixed)) < 50


def test_shrink_needs_a_violation():
    with pytest.raises(ValueError, match="not above the margin"):
        shrink(adam_problem(), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("violation", "x", "expected"),
    [
        (lambda x: x.sum(1) - 2.5, [1.234, 7.9, -0.3], "[0, 3, 0]"),
        (lambda x: -(x - 0.3335).abs().amax(1) + 0.01, [0.3341, 0.3339], "[1/3, 1/3]"),
        (lambda x: -(x[:, 0] - 0.1007).abs() + 0.001, [0.10071, 5.0], "[1/10, 0]"),
        (lambda x: -(x[:, 0] / 1.03e154 - 1).abs() + 0.05, [1.0371e154, 2.0], "[1e+154, 0]"),
        (lambda x: (x[:, 0] < 0).double(), [-3.7, 1.1], "[-1, 0]"),
        (lambda x: (x[:, 0] * x[:, 1] < -0.2).double(), [-3.7, 1.1], "[-1, 1]"),
        (lambda x: (x[:, 0] < -2.5).double(), [-3.7, -0.0], "[-3, 0]"),
        (lambda x: -(x[:, 0] - 1234.5678).abs() + 1e-9, [1234.5678, 1.0], "[1234.5678, 0]"),
    ],
)
def test_shrinks_to_simple_numbers(violation, x, expected):
    problem = SearchProblem((len(x),), violation, margin=0.0, differentiable=False)
    assert readable(shrink(problem, torch.tensor(x, dtype=torch.float64))) == expected


def test_shrink_stays_admissible():
    # On the circle no entry can change alone, and few points have short coordinates.
    problem = SearchProblem((2,), lambda x: x.sum(1) - 1.3, project=lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-300), margin=0.0)
    x = torch.tensor([0.6 + 0.01, 0.0], dtype=torch.float64)
    x[1] = (1 - x[0] ** 2).sqrt()
    assert shrink(problem, x).tolist() == [0.6, 0.8]
    box = SearchProblem((2,), lambda x: x.sum(1), project=lambda x: x.clamp(0.3, 2.0), margin=0.0)
    small = shrink(box, torch.tensor([0.77, 1.93], dtype=torch.float64))
    assert small.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="not admissible"):
        shrink(box, torch.tensor([5.0, 1.0], dtype=torch.float64))
    scalar = SearchProblem((), lambda x: x - 1.0, project=lambda x: x.clamp(max=3.0))
    assert shrink(scalar, torch.tensor(2.345, dtype=torch.float64)) == 2.0


def test_shrink_stays_finite():
    # To one digit the largest numbers are infinite, and so is their quotient by the smallest entry.
    problem = SearchProblem((2,), lambda x: torch.sign(x[:, 0] - 1.75e308), margin=0.0, differentiable=False)
    x = torch.tensor([1.79e308, 1e-300], dtype=torch.float64)
    small = shrink(problem, x)
    assert small.isfinite().all() and small[1] == 0.0 and problem.value(small) == 1.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.floats(0.01, 0.99), st.booleans())
def test_shrinking_is_idempotent_and_never_loses_the_violation(entries, share, variable_length):
    x = torch.tensor(entries, dtype=torch.float64)
    problem = SearchProblem(
        tuple(x.shape), lambda x: (x.sin() * (1.0 + x.abs())).sum(1), variable_length=variable_length, differentiable=False
    )
    value = problem.value(x)
    margin = share * value if value > 0 else value - 1.0
    small = shrink(problem, x, margin)
    assert problem.value(small) > margin
    assert torch.equal(small, shrink(problem, small, margin))
    assert sum(complexity(v)[0] for v in small.tolist()) <= sum(complexity(v)[0] for v in x.tolist())


def test_data_is_json():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert json.loads(json.dumps(as_data(SearchProblem((1, 2), lambda x: x), x))) == {"x": [[1.0, 2.0]]}
    named = SearchProblem((1, 2), lambda x: x, data=lambda x: {"history": x.tolist(), "beta": 0.5})
    assert as_data(named, x) == {"history": [[1.0, 2.0]], "beta": 0.5}


def test_hypothesis_attacks_too():
    problem = SearchProblem((2,), lambda x: 3.0 - x[:, 0].abs() - (x[:, 1] - 3.0).abs())
    found = target_violation(problem, max_examples=200, seed=1)
    assert found.violation > 1.0 and found.evaluations >= 200
    assert found.violation == problem.value(found.x)
    assert target_violation(problem, max_examples=50, seed=2).violation == target_violation(problem, max_examples=50, seed=2).violation
    true = SearchProblem((2,), lambda x: -x.square().sum(1))
    assert target_violation(true, max_examples=100).violation <= 0.0
    assert target_violation(SearchProblem((1,), lambda x: x[:, 0] * math.nan), max_examples=10).violation == -math.inf


def test_a_missing_dependency_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtra, match=r"^target_violation needs hypothesis: pip install 'deva-theory\[test\]'$") as caught:
        target_violation(adam_problem())
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.extra == "test" and again.name == "hypothesis"


def test_an_error_inside_an_installed_package_is_not_a_missing_extra(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed") as caught:
        optional("broken_package", "exact", "the test")
    assert not isinstance(caught.value, MissingExtra)
