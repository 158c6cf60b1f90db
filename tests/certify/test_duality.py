"""Bounds come out of the linear program exactly, and a wrong lemma changes them."""

from __future__ import annotations

import json
import random
from fractions import Fraction

import pytest

from deva_theory.certify import duality
from deva_theory.certify.descent import descent_program, descent_to_rate
from deva_theory.certify.duality import solve_exactly
from deva_theory.certify.linear_program import InfeasibleProgram, LinearProgram, UnboundedProgram
from deva_theory.certify.rational import as_text, rational
from deva_theory.recheck import recheck


def accepted(certificate: dict) -> bool:
    return recheck({"certificates": [certificate]}).ok


def resum(certificate: dict) -> Fraction:
    """The certificate's bound from its own strings: nonnegative multipliers, combination equal to the objective."""
    total: dict[str, Fraction] = {}
    bound = Fraction(0)
    for y, row in zip(map(Fraction, certificate["multipliers"]), certificate["constraints"], strict=True):
        assert y >= 0
        bound += y * Fraction(row["at_most"])
        for name, a in row["row"].items():
            total[name] = total.get(name, Fraction(0)) + y * Fraction(a)
    assert {k: v for k, v in total.items() if v} == {k: Fraction(v) for k, v in certificate["objective"].items()}
    return bound


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 60])
def test_descent_lemma_gives_the_rate(steps):
    eta, L, gap = Fraction(1, 10), Fraction(3), Fraction(7, 4)
    found = descent_to_rate(steps, eta, L, gap)
    assert found.bound == gap / (eta * steps) + eta * L / 2
    assert found.attained
    assert resum(json.loads(json.dumps(found.certificate))) == found.bound == Fraction(found.certificate["bound"])
    # Each descent step is used equally often, nonnegativity of the norms never.
    assert found.multipliers == dict.fromkeys([*(f"descent {t}" for t in range(steps)), "gap", "lower bound"], 1 / (eta * steps))


def test_rate_with_varying_smoothness_steps_and_noise():
    L = [Fraction(k, 3) for k in (5, 1, 4, 2)]
    eta, gap = Fraction(1, 7), 2
    assert descent_to_rate(4, eta, L, gap).bound == gap / (4 * eta) + eta * sum(L) / 8
    etas = [Fraction(1, k) for k in (2, 3, 4, 5)]
    noise = [Fraction(1, 9), 0, 1, "0.3"]
    expected = (gap + sum(h * h * l / 2 + h * Fraction(e) for h, l, e in zip(etas, L, noise, strict=True))) / sum(etas)
    assert descent_to_rate(4, etas, L, gap, noise=noise).bound == expected
    assert descent_to_rate(3, 0.1, 2, 1).bound == Fraction(10, 3) + Fraction(1, 10)  # 0.1 is 1/10


def test_the_optimum_is_an_admissible_point_that_attains_the_bound():
    program = descent_program(5, "1/10", 1, "1/4")
    found = solve_exactly(program)
    assert found.optimum is not None
    assert program.value(found.optimum) == found.bound
    assert min(program.slack(name, found.optimum) for name in program.rows) == 0


@pytest.mark.parametrize("dropped", [*(f"descent {t}" for t in range(4)), "gap", "lower bound"])
def test_without_one_row_nothing_is_bounded(dropped):
    program = descent_program(4, "1/10", 1, "1/4").without(dropped)
    with pytest.raises(UnboundedProgram, match="grows along") as caught:
        solve_exactly(program)
    ray = caught.value.ray
    assert program.value(ray) == 1
    for row, _ in program.rows.values():
        assert sum(a * ray[name] for name, a in row.items()) <= 0


def test_a_wrong_lemma_gives_another_bound():
    eta, L, gap = Fraction(1, 10), 3, Fraction(7, 4)
    right = descent_to_rate(6, eta, L, gap).bound
    program = descent_program(6, eta, L, gap)
    row, _ = program.rows["descent 3"]
    weak = program.without("descent 3")
    weak.at_most("descent 3", row, eta**2 * L)  # twice the curvature term in one step
    assert solve_exactly(weak).bound == right + eta * L / 12
    # Nonnegative norms alone are not needed; without them the same bound follows.
    assert solve_exactly(program.without(*(f"n{t} >= 0" for t in range(6)))).bound == right


def test_recheck_accepts_the_certificate_and_rejects_a_smaller_bound():
    certificate = descent_to_rate(7, "1/9", [1, 2, 3, 4, 3, 2, 1], "5/3").certificate
    assert accepted(certificate)
    smaller = {**certificate, "bound": str(Fraction(certificate["bound"]) - Fraction(1, 10**9))}
    assert not accepted(smaller)


def first(rows: list, **changes: object) -> list:
    return [{**rows[0], **changes}, *rows[1:]]


TAMPERED = {
    "a negative multiplier": lambda c: {**c, "multipliers": [str(-Fraction(c["multipliers"][0])), *c["multipliers"][1:]]},
    "a smaller multiplier": lambda c: {**c, "multipliers": [str(Fraction(c["multipliers"][0]) / 2), *c["multipliers"][1:]]},
    "a multiplier left out": lambda c: {**c, "multipliers": c["multipliers"][1:]},
    "a row left out": lambda c: {**c, "constraints": c["constraints"][1:], "multipliers": c["multipliers"][1:]},
    "another coefficient": lambda c: {**c, "constraints": first(c["constraints"], row={**c["constraints"][0]["row"], "n0": "1/10"})},
    "another right-hand side": lambda c: {**c, "constraints": first(c["constraints"], at_most="1")},
    "another objective": lambda c: {**c, "objective": {**c["objective"], "n0": "1/2"}},
    "an unknown variable": lambda c: {**c, "variables": c["variables"][1:]},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_recheck_rejects_a_tampered_certificate(name):
    certificate = descent_to_rate(3, "1/9", [1, 2, 3], "5/3").certificate
    assert accepted(certificate)
    assert not accepted(TAMPERED[name](certificate))


@pytest.mark.parametrize("eta", ["1e-12", "1e-9", "1e9"])
@pytest.mark.parametrize("gap", ["1e-15", "1e21"])
@pytest.mark.parametrize("L", ["1e-9", "1e12"])
def test_scales_far_from_one(eta, gap, L):
    # HiGHS by itself drops coefficients below 1e-9 and bounds beyond 1e20: such programs were called unbounded.
    found = descent_to_rate(3, eta, L, gap)
    assert found.bound == Fraction(gap) / (3 * Fraction(eta)) + Fraction(eta) * Fraction(L) / 2
    assert accepted(found.certificate)


def test_a_small_coefficient_is_no_contradiction():
    program = LinearProgram()
    program.variable("x")
    program.at_least("below", {"x": "1e-12"}, 1)
    program.at_most("above", {"x": 1}, "1e13")
    program.maximise({"x": 1})
    assert solve_exactly(program).bound == 10**13
    program.at_most("above too", {"x": 1}, "1e11")
    with pytest.raises(InfeasibleProgram, match="below, above too") as caught:
        solve_exactly(program)
    multipliers = caught.value.multipliers
    assert min(multipliers.values()) > 0
    assert sum(y * program.rows[name][0]["x"] for name, y in multipliers.items()) == 0
    assert sum(y * program.rows[name][1] for name, y in multipliers.items()) < 0


def test_rows_and_variables_may_have_any_name():
    program = LinearProgram()
    program.variable("excess")
    program.at_least("growth", {"excess": 1}, 1)
    program.maximise({"excess": 1})
    with pytest.raises(UnboundedProgram):
        solve_exactly(program)
    program.at_most("no excess", {"excess": 1}, 0)
    with pytest.raises(InfeasibleProgram):
        solve_exactly(program)


@pytest.mark.parametrize("seed", range(25))
def test_random_programs_are_solved_to_optimality(seed):
    rng = random.Random(seed)

    def number(low: int) -> Fraction:
        return Fraction(rng.randint(low, 9), rng.randint(1, 9))

    program = LinearProgram()
    for j in range(5):
        program.variable(f"x{j}", nonnegative=j % 2 == 0)
    for i in range(8):
        program.at_most(f"row {i}", {f"x{j}": number(-9) for j in range(5) if rng.random() < 0.7}, number(0))
    for j in range(5):
        program.at_most(f"above {j}", {f"x{j}": 1}, 10)
        program.at_least(f"below {j}", {f"x{j}": 1}, -10)
    program.equal("plane", {"x0": 1, "x1": number(-9), "x4": number(-9)}, 0)  # 0 is admissible
    program.maximise({f"x{j}": number(-9) for j in range(5)})
    found = solve_exactly(program)
    assert found.attained and resum(found.certificate) == found.bound
    assert accepted(found.certificate)


def test_multipliers_below_the_solvers_tolerance():
    tiny = Fraction(1, 10**13)
    for names in ("xy", "yx"):
        for heavy in "xy":
            program = LinearProgram()
            for name in names:
                program.variable(name, nonnegative=True)
            program.at_most("sum", {"x": 1, "y": 1}, 1)
            program.maximise({name: 1 + tiny if name == heavy else 1 for name in names})
            found = solve_exactly(program)
            assert resum(found.certificate) == found.bound == 1 + tiny
            assert accepted(found.certificate)


def test_the_certificate_has_an_admissible_point():
    found = descent_to_rate(4, "1/9", 2, "5/3")
    assert found.point == found.optimum == {name: Fraction(x) for name, x in found.certificate["point"].items()}
    assert set(found.certificate["point"]) == set(found.certificate["variables"])
    assert not accepted({key: value for key, value in found.certificate.items() if key != "point"})


def test_a_point_off_the_rows():
    program = descent_program(4, "1/9", 2, "5/3")
    point = duality.interior_point(program)
    assert point is not None and set(point) == set(program.variables)
    assert min(program.slack(name, point) for name in program.rows) > 0
    program.equal("start", {"f0": 3}, 1)  # nothing is off this one
    point = duality.interior_point(program)
    assert point is not None and min(program.slack(name, point) for name in program.rows) == 0


def test_a_point_is_found_when_the_vertices_are_not_admissible(monkeypatch):
    program = descent_program(2, "1/9", 2, "5/3")
    vertices = duality.exact_points
    monkeypatch.setattr(duality, "exact_points", lambda p, *rest: iter(()) if p is program else vertices(p, *rest))
    found = solve_exactly(program)
    assert not found.attained and found.point is not None and accepted(found.certificate)


def test_a_contradiction_below_the_solvers_tolerance():
    program = LinearProgram()
    program.variable("x")
    program.at_most("above", {"x": 1}, 1)
    program.at_least("below", {"x": 1}, 1 + Fraction(1, 10**20))
    program.maximise({"x": 1})
    with pytest.raises(ArithmeticError, match=r"contradict|no exact admissible point"):
        solve_exactly(program)


def test_contradiction_and_no_rows():
    program = LinearProgram()
    program.variable("x")
    program.maximise({"x": 1})
    with pytest.raises(UnboundedProgram):
        solve_exactly(program)
    program.at_most("above", {"x": 1}, 0)
    assert solve_exactly(program).bound == 0
    program.at_least("below", {"x": 1}, 1)
    with pytest.raises(InfeasibleProgram, match="contradict"):
        solve_exactly(program)


def program_with_x() -> LinearProgram:
    program = LinearProgram()
    program.variable("x", nonnegative=True)
    return program


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: program_with_x().variable("x"), "exists already"),
        (lambda: program_with_x().at_most("x >= 0", {"x": 1}, 1), "exists already"),
        (lambda: program_with_x().maximise({"z": 1}), "'z' is not a variable"),
        (lambda: program_with_x().without("gap"), "no row 'gap'; rows are x >= 0"),
        (lambda: solve_exactly(LinearProgram()), "no variables"),
        (lambda: descent_program(0, 1, 1, 1), "at least 1"),
        (lambda: descent_program(2, 0, 1, 1), "eta must be positive"),
        (lambda: descent_program(2, 1, [1, 2, 3], 1), "L has 3 entries for 2 steps"),
        (lambda: rational(float("nan")), "nan"),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), ("1/3", "1/3"), (-0.05, "-0.05"), (7, "7"), ("1e-7", "0.0000001"), (2.5, "2.5"), ("-22/8", "-2.75")]
)
def test_numbers_are_read_and_printed_exactly(value, text):
    assert as_text(rational(value)) == text
    assert Fraction(text) == rational(value)
