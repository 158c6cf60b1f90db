"""Certificates in exact numbers: dual, psd, values, products."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.recheck import recheck


def report(**certificate):
    return recheck({"certificates": [certificate]})


def strings(rows):
    return [[str(x) for x in row] for row in rows]


# dual: maximise x + y subject to x + 2y <= 4, 3x + y <= 6, the maximum 14/5 at (8/5, 6/5) ---------------------------

DUAL = {
    "type": "dual",
    "variables": ["x", "y"],
    "objective": {"x": "1", "y": "1"},
    "constraints": [
        {"name": "first", "row": {"x": "1", "y": "2"}, "at_most": "4"},
        {"name": "second", "row": {"x": "3", "y": "1"}, "at_most": "6"},
        {"name": "idle", "row": {"x": "-1"}, "at_most": "0"},
    ],
    "multipliers": ["2/5", "1/5", "0"],
    "bound": "14/5",
    "point": {"x": "8/5", "y": "6/5"},
}


def constraint(i, **change):
    return [{**c, **change} if k == i else c for k, c in enumerate(DUAL["constraints"])]


@pytest.mark.parametrize(
    "change",
    [{}, {"bound": "2.8"}, {"bound": "3"}, {"bound": 3}, {"point": {"x": 1, "y": "0"}}, {"objective": {"x": "1", "y": "1.0"}}],
    ids=str,
)
def test_dual_accepts(change):
    found = report(**{**DUAL, **change})
    assert found.ok, found.lines


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bound": "2.799999999999999999"}, "below that"),
        ({"multipliers": ["2/5", "1/4", "0"]}, "the objective has"),
        ({"multipliers": ["2/5", "1/5"]}, "2 multipliers for 3"),
        ({"multipliers": ["2/5", "1/5", "0", "0"]}, "4 multipliers for 3"),
        ({"multipliers": ["2/5", "1/5", "-0.1"]}, "negative"),
        ({"multipliers": [0.4, 0.2, 0]}, "not an exact number"),
        ({"objective": {"x": "1", "y": "-1"}}, "the objective has"),
        ({"objective": {"x": "1", "y": "1", "z": "0"}}, "not among the variables"),
        ({"constraints": constraint(0, row={"x": "1", "y": "-2"})}, "the objective has"),
        ({"constraints": constraint(0, at_most="5")}, "below that"),
        ({"constraints": constraint(1, row={"w": "1"})}, "not among the variables"),
        ({"variables": ["x", "y", "y"]}, "not distinct"),
        ({"variables": ["x", 1]}, "not distinct"),
        ({"bound": "1/0"}, "divides by zero"),
        ({"bound": "inf"}, "not a rational"),
        ({"bound": "nan"}, "not a rational"),
        ({"bound": True}, "not an exact"),
        ({"bound": "1e999999"}, "not a rational"),
        ({"bound": "1e99999"}, "out of range"),
        ({"point": {"x": "2", "y": "2"}}, "violates constraint 0 'first'"),
        ({"point": {"x": "-1/1000000000000000000000", "y": 0}}, "violates constraint 2 'idle'"),
        ({"point": {"z": "0"}}, "not among the variables"),
        ({"point": {"x": 0.5}}, "not an exact number"),
        ({"point": {}}, "every variable"),
        ({"point": {"x": "8/5"}}, "every variable"),
        ({"point": None}, "not an object"),
        ({"objective": {"x": "0"}, "multipliers": [0, 0, 0]}, "objective is 0"),
        ({"surprise": 1}, "unknown key"),
    ],
    ids=str,
)
def test_dual_rejects(change, reason):
    found = report(**{**DUAL, **change})
    assert not found.ok and reason in found.lines[0]


def test_dual_says_whether_the_bound_is_attained():
    assert report(**DUAL).lines[0].endswith("at most 14/5, attained")
    assert report(**{**DUAL, "bound": "3"}).lines[0].endswith("at most 3, 14/5 at the point")
    assert report(**{**DUAL, "point": {"x": 1, "y": 0}}).lines[0].endswith("at most 14/5, 1 at the point")


def test_dual_without_a_feasible_point():
    # x <= -1 and x >= 1 imply any bound.
    nothing = {
        "type": "dual", "variables": ["x"], "objective": {"x": "1"}, "multipliers": ["2", "1"], "bound": "-3",
        "constraints": [{"row": {"x": "1"}, "at_most": "-1"}, {"row": {"x": "-1"}, "at_most": "-1"}],
    }  # fmt: skip
    found = report(**nothing)
    assert not found.ok and "no 'point'" in found.lines[0]
    for x in range(-3, 4):
        assert not report(**nothing, point={"x": x}).ok


def test_dual_with_a_negative_multiplier_that_would_lower_the_bound():
    # y₃ < 0 with the objective re-balanced: the sums fit, only the sign is wrong.
    found = report(**{**DUAL, "multipliers": ["2/5", "1/5", "-1"], "objective": {"x": "2", "y": "1"}})
    assert not found.ok and "negative" in found.lines[0]


# psd --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [["1", "1/2"], ["1/2", "1"]],
        [["0"]],
        [["0", "0"], ["0", "0"]],
        [["1", "1"], ["1", "1"]],
        [["0", "0", "0"], ["0", "2", "-1"], ["0", "-1", "0.5"]],
        [["1", "1", "0"], ["1", "1", "0"], ["0", "0", "1"]],
    ],
)
def test_psd_accepts(rows):
    assert report(type="psd", matrix=rows, name="A").ok


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["-1e-300"]], "negative"),
        ([["1", "1"], ["1", "0.99999999999999999999999999999999"]], "negative"),
        ([["0", "1e-30"], ["1e-30", "1"]], "its row is not"),
        ([["1", "1", "0"], ["1", "1", "1e-9"], ["0", "1e-9", "1"]], "its row is not"),
        ([["1", "0"], ["1e-20", "1"]], "not symmetric"),
        ([["1", "0"]], "not square"),
        ([["1", "0"], ["0"]], "differ in length"),
        ([], "at least 1"),
        ([[]], "at least 1"),
        ([[1.0]], "not an exact"),
        ("1", "not a list"),
        ([["1"] * 81] * 81, "larger than"),
    ],
)
def test_psd_rejects(rows, reason):
    found = report(type="psd", matrix=rows)
    assert not found.ok and reason in found.lines[0]


INTEGERS = st.integers(-3, 3)


@given(st.data(), st.integers(2, 5))
def test_psd_of_a_gram_matrix_and_a_hair_less(data, n):
    rank = data.draw(st.integers(1, n - 1))
    b = [[Fraction(data.draw(INTEGERS), data.draw(st.integers(1, 3))) for _ in range(rank)] for _ in range(n)]
    gram = [[sum((p * q for p, q in zip(u, v, strict=True)), Fraction(0)) for v in b] for u in b]
    assert report(type="psd", matrix=strings(gram)).ok
    # Less 1e-40 of the identity: the rank is below n, so the least eigenvalue is exactly -1e-40.
    less = [[x - (i == j) * Fraction(1, 10**40) for j, x in enumerate(row)] for i, row in enumerate(gram)]
    assert not report(type="psd", matrix=strings(less)).ok


# values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        ["4/3", ">", "1"],
        ["1/3", "=", "2/6"],
        ["1/3", "==", "2/6"],
        ["2**-1", "<=", "1/2"],
        ["-(1 - 2)", ">=", "1"],
        ["1", "!=", "2"],
        ["0", "<", "1"],
    ],
)
def test_values_accepts(entry):
    assert report(type="values", show=[entry]).ok


@pytest.mark.parametrize(
    "entry",
    [
        ["4/3", "<", "1"],
        ["1/3", "=", "333333333333333333/1000000000000000000"],
        ["1", ">", "1"],
        ["1/0", "=", "1/0"],
        ["0**-1", ">", "0"],
        ["x", "=", "x"],
        ["1", "is", "1"],
        ["1", "in", "1"],
        ["1", ["="], "1"],
        ["1", "="],
        ["0.5", "=", "1/2"],
        ["__import__", "=", "1"],
        ["abs(1)", "=", "1"],
        "1=1",
        ["1", "=", 1],
    ],
    ids=str,
)
def test_values_rejects(entry):
    found = report(type="values", show=[["1", "=", "1"], entry])
    assert not found.ok and "show 1" in found.lines[0] and "cannot be checked" not in found.lines[0]


def test_values_needs_a_comparison():
    assert not report(type="values", show=[]).ok


# products ---------------------------------------------------------------------------------------------------------

MATRICES = {
    "U": [["3/5", "4/5"], ["-4/5", "3/5"]],
    "B": [["1", "2", "3"], ["4", "5", "6"]],
    "N": [["0", "1"], ["0", "0"]],
    "Z": [["0", "0"], ["0", "0"]],
}


@pytest.mark.parametrize(
    "pair",
    [
        ["U*U.T", "I"],
        ["U.T*U - I", "0"],
        ["2*I", "U*U.T + I"],
        ["U*(B + B)", "2*U*B"],
        ["(U*B).T", "B.T*U.T"],
        ["N*N", "0"],
        ["N*N", "Z"],
        ["0*B", "0"],
        ["1/2*(B + B)", "B"],
        ["B/2 + B/2", "+B"],
        ["-B", "B - B - B"],
        ["I*B", "B*I"],
        ["0", "U - U"],
    ],
    ids=str,
)
def test_products_accepts(pair):
    found = report(type="products", statement="s", matrices=MATRICES, show=[pair])
    assert found.ok, found.lines


@pytest.mark.parametrize(
    "pair",
    [
        ["U*U", "I"],
        ["U", "U.T"],
        ["U*N", "N*U"],
        ["N*N.T", "0"],
        ["B*B", "B"],
        ["U*B", "U"],
        ["B", "I"],
        ["B + I", "B + I"],
        ["U + 1", "U + 1"],
        ["U", "1"],
        ["1", "I"],
        ["V", "V"],
        ["I", "I"],
        ["1", "1"],
        ["I - I", "0*I"],
        ["U**2", "U*U"],
        ["U.H", "U"],
        ["U.T.real", "U"],
        ["U/U", "I"],
        ["B/0", "B/0"],
        ["trace(U)", "6/5"],
        ["U.T()", "U"],
        ["U[0]", "U"],
        ["U@U.T", "I"],
        ["U*U.T"],
        [1, 1],
    ],
    ids=str,
)
def test_products_rejects(pair):
    found = report(type="products", statement="s", matrices=MATRICES, show=[["U*U.T", "I"], pair])
    assert not found.ok and "show 1" in found.lines[0] and "cannot be checked" not in found.lines[0]


@pytest.mark.parametrize(
    "matrices",
    [{"I": [["2"]]}, {"A": [["1"], ["1", "2"]]}, {"A": "1"}, {"A": [[0.5]]}, {"a b": [["1"]]}, [["1"]], {"A": [["1"] * 65]}],
    ids=lambda m: str(m)[:30],
)
def test_products_rejects_matrices(matrices):
    matrices = {"M": [["1"]], **matrices} if isinstance(matrices, dict) else matrices
    found = report(type="products", matrices=matrices, show=[["M", "M"]])
    assert not found.ok and "show 0" not in found.lines[0]


SQUARES = st.lists(st.lists(INTEGERS, min_size=3, max_size=3), min_size=3, max_size=3)


@given(SQUARES, SQUARES, SQUARES, st.integers(0, 2), st.integers(0, 2), INTEGERS.filter(bool))
def test_products_of_integers(a, b, c, i, j, wrong):
    product = [[sum(a[r][k] * b[k][s] for k in range(3)) + c[r][s] for s in range(3)] for r in range(3)]
    matrices = {"A": a, "B": b, "C": c, "D": product}
    assert report(type="products", matrices=matrices, show=[["A*B + C", "D"], ["B.T*A.T", "(D - C).T"]]).ok
    product[i][j] += wrong
    assert not report(type="products", matrices=matrices, show=[["A*B + C", "D"]]).ok
