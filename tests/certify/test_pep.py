"""Performance estimation reproduces the known rates and stays below what the descent lemma alone gives."""

from __future__ import annotations

import sys

import pytest

from deva_theory.certify.descent import descent_to_rate
from deva_theory.certify.duality import solve_exactly
from deva_theory.certify.linear_program import LinearProgram
from deva_theory.certify.missing import MissingExtra
from deva_theory.certify.pep import WorstCase, average_worst_case, block_worst_case, convex_worst_case, nonconvex_worst_case


@pytest.fixture
def pepit():
    pytest.importorskip("PEPit")
    pytest.importorskip("clarabel")


@pytest.mark.parametrize(("steps", "L", "radius"), [(0, 1.0, 1.0), (1, 3.0, 1.0), (4, 3.0, 2.0)])
def test_convex_rate(pepit, capfd, steps, L, radius):
    found = convex_worst_case(steps, L, 1 / L, radius=radius)
    assert found.converged() and abs(found.duality_gap) < 1e-6
    assert found.upper == pytest.approx(L * radius**2 / (4 * steps + 2), rel=1e-6)
    assert found.theory == pytest.approx(L * radius**2 / (4 * steps + 2), rel=1e-12)
    assert capfd.readouterr().out == ""


def huber(radius: float, delta: float, L: float, steps: int) -> float:
    """f(x_N) of gradient descent with step 1/L on Huber's function, quadratic below delta."""
    x = radius
    for _ in range(steps):
        x -= max(min(x, delta), -delta)
    return L * (x * x / 2 if abs(x) <= delta else delta * (abs(x) - delta / 2))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_function_attains_the_convex_worst_case(pepit, steps):
    L, radius = 3.0, 2.0
    found = convex_worst_case(steps, L, 1 / L, radius=radius)
    assert huber(radius, radius / (2 * steps + 1), L, steps) == pytest.approx(found.lower, rel=1e-6)
    assert max(huber(radius, radius / k, L, steps) for k in (1, 2, steps + 1, 4 * steps)) < found.lower


@pytest.mark.parametrize("h", [0.3, 1.0, 1.4])
def test_theory_of_other_steps(pepit, h):
    L = 2.0
    found = nonconvex_worst_case(3, L, h / L, gap=1.5)
    assert found.theory == pytest.approx(found.upper, rel=1e-6)
    # h(1 - h/2) ‖∇f‖²/L <= f(x) - f(x⁺), the descent lemma with |step| = h‖∇f‖/L: R1 with squared norms, and no curvature term left.
    bound = descent_to_rate(4, h * (1 - h / 2) / L, 0, 1.5).bound
    assert found.upper < float(bound)
    convex = convex_worst_case(3, L, h / L)
    assert convex.theory is None if h > 1 else convex.theory == pytest.approx(convex.upper, rel=1e-6)


def test_no_theory_beyond_the_known_steps(pepit):
    assert nonconvex_worst_case(2, 1.0, 1.8).theory is None


def test_the_result_is_frozen():
    with pytest.raises(AttributeError):
        WorstCase(1.0, 1.0, "any").lower = 2.0


@pytest.mark.parametrize(("steps", "L", "gap"), [(0, 2.0, 1.0), (1, 2.0, 1.5), (5, 1.0, 1.0)])
def test_nonconvex_rate(pepit, steps, L, gap):
    found = nonconvex_worst_case(steps, L, 1 / L, gap=gap)
    assert found.converged()
    assert found.upper == pytest.approx(4 * L * gap / (3 * steps + 2), rel=1e-6)
    # The same from the descent lemma, f(x - g/L) <= f(x) - |g|²/(2L), by exact linear programming: weaker, and not by much.
    lemma = LinearProgram()
    for t in range(steps + 2):
        lemma.variable(f"f{t}")
    lemma.variable("least")
    for t in range(steps + 1):
        lemma.at_most(f"descent {t}", {f"f{t + 1}": 1, f"f{t}": -1, "least": 1 / (2 * L)}, 0)
    lemma.at_most("gap", {"f0": 1, f"f{steps + 1}": -1}, gap)
    lemma.maximise({"least": 1})
    bound = float(solve_exactly(lemma).bound)
    assert bound == pytest.approx(2 * L * gap / (steps + 1))
    assert found.upper <= bound * (1 + 1e-6) <= 1.5 * found.upper * (1 + 1e-6)


@pytest.mark.parametrize(("steps", "L", "h", "gap"), [
    (1, 2.0, 0.5, 1.0), (2, 2.0, 0.5, 1.5), (4, 1.0, 1.5, 1.0), (5, 3.0, 1.0, 2.0), (3, 1.0, 1.9, 1.0),
])  # fmt: skip
def test_a_quadratic_attains_the_worst_average(pepit, steps, L, h, gap):
    found = average_worst_case(steps, L, h / L, gap=gap)
    assert found.converged()
    x, total = (2 * gap / L) ** 0.5, 0.0
    for _ in range(steps):
        total += (L * x) ** 2
        x -= h * x
    assert found.theory == pytest.approx(total / steps, rel=1e-12)
    assert found.upper == pytest.approx(found.theory, rel=1e-6) and found.lower == pytest.approx(found.theory, rel=1e-6)
    # The descent lemma, summed: exact where the first step ends at the minimum.
    bound = float(descent_to_rate(steps, h * (1 - h / 2) / L, 0, gap).bound)
    assert found.upper <= bound * (1 + 1e-6)
    assert bound == pytest.approx(found.upper, rel=1e-6) or h != 1


def test_averages_are_not_below_the_least_and_have_no_formula_beyond_2(pepit):
    average, least = average_worst_case(4, 2.0, 0.4), nonconvex_worst_case(3, 2.0, 0.4)
    assert average.upper > least.upper
    wild = average_worst_case(3, 2.0, 1.25)
    # x⁺ = -1.5x on ½Lx²: nothing bounds the average for more and more steps.
    assert wild.theory is None and wild.upper >= 4 * (1 + 1.5**2 + 1.5**4) / 3 * (1 - 1e-6)


@pytest.mark.parametrize("L", [[2.0], [1.0, 4.0], [1.0, 4.0, 0.5]])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("cyclic", [True, False])
def test_block_rates_are_attained(pepit, L, steps, cyclic):
    gap, d = 1.5, len(L)
    found = block_worst_case(steps, L, cyclic=cyclic, gap=gap)
    assert found.converged()
    assert found.theory == pytest.approx(2 * gap / steps * (1 if cyclic else d))
    assert found.upper == pytest.approx(found.theory, rel=1e-6)
    # ½(Σ_b √L_b x_b)², or ½L_0x_0²: all blocks' weighted squares at the start, none after one step.
    slope = (2 * gap) ** 0.5
    squares = sum((c**0.5 * slope) ** 2 / c for c in ([L[0]] if cyclic else L))
    assert squares / steps == pytest.approx(found.theory)


def test_a_false_rate_is_exceeded_by_an_example(pepit):
    # "L R²/(4N + 4)" is false: the primal value is a function that breaks it.
    found = convex_worst_case(3, 1.0, 1.0)
    assert found.lower > 1 / (4 * 3 + 4) and found.lower == pytest.approx(1 / 14, rel=1e-6)


def test_steps_too_long_gain_nothing(pepit):
    # Whatever the steps, ‖∇f(x_0)‖² <= 2L(f(x_0) - inf f); for h >= 2 some function lets no later point do better.
    for h in (2.0, 2.5):
        assert nonconvex_worst_case(2, 3.0, h / 3, gap=1.5).upper == pytest.approx(9.0, rel=1e-6)


def test_a_loose_solver_shows_in_the_gap(pepit):
    pytest.importorskip("scs")
    loose, tight = (convex_worst_case(2, 3.0, 1 / 3, solver=solver, rtol=float("inf")) for solver in ("SCS", "CLARABEL"))
    assert abs(tight.duality_gap) < 1e-6 < abs(loose.duality_gap)
    with pytest.raises(ArithmeticError, match=r"SCS did not converge: relative gap .* beyond 1e-06"):
        convex_worst_case(2, 3.0, 1 / 3, solver="SCS", rtol=1e-6)


def test_the_gap_says_whether_to_trust_the_bound():
    assert WorstCase(1.0, 1.0 + 1e-8, "any").converged()
    assert not WorstCase(1.0, 0.999, "any").converged()  # an "upper bound" below an example
    assert not WorstCase(1.0, 1.001, "any").converged()
    assert not WorstCase(float("nan"), 1.0, "any").converged()


@pytest.mark.parametrize("function", [convex_worst_case, nonconvex_worst_case])
@pytest.mark.parametrize("arguments", [(-1, 1.0, 1.0), (2, 0.0, 1.0), (2, 1.0, -1.0), (2, 1.0, float("nan"))])
def test_bad_input(function, arguments):
    with pytest.raises(ValueError, match="need steps >= 0"):
        function(*arguments)


@pytest.mark.parametrize("arguments", [(0, 1.0, 1.0), (2, 0.0, 1.0), (2, 1.0, -1.0), (2, 1.0, float("nan"))])
def test_bad_input_of_averages(arguments):
    with pytest.raises(ValueError, match="average_worst_case: need steps >= 1"):
        average_worst_case(*arguments)


@pytest.mark.parametrize("arguments", [(0, [1.0]), (2, []), (2, [1.0, -1.0]), (2, [1.0, float("inf")])])
def test_bad_input_of_blocks(arguments):
    with pytest.raises(ValueError, match="block_worst_case: need steps >= 1"):
        block_worst_case(*arguments, cyclic=True)


def test_without_pepit_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PEPit", None)
    with pytest.raises(MissingExtra, match=r"^performance estimation needs PEPit: pip install 'deva-theory\[certify\]'$"):
        convex_worst_case(1, 1.0, 1.0)
    monkeypatch.undo()
    pytest.importorskip("PEPit")
    monkeypatch.setitem(sys.modules, "clarabel", None)
    with pytest.raises(MissingExtra, match="needs clarabel"):
        convex_worst_case(1, 1.0, 1.0)
