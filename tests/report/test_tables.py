import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.report import compare_tables, format_table, read_csv, write_csv

TABLE = {
    "method": ["adam", 'DeVA "ℓ∞", β', ""],
    "step": np.array([0, 1, -2]),
    "loss": np.array([1.0, 1.23456789e-30, np.nan]),
    "bound": np.array([np.inf, -np.inf, -0.0], dtype=np.float32),
    "best": np.array([True, False, True]),
}


def test_round_trip_keeps_types_and_six_digits(tmp_path):
    write_csv(tmp_path / "new" / "t.csv", TABLE)
    back = read_csv(tmp_path / "new" / "t.csv")
    assert list(back) == list(TABLE)
    assert back["method"].tolist() == TABLE["method"]
    assert [back[name].dtype for name in ("step", "loss", "bound", "best")] == [
        np.int64,
        np.float64,
        np.float64,
        np.bool_,
    ]
    np.testing.assert_allclose(back["loss"], [1.0, 1.23457e-30, np.nan], rtol=1e-12)
    assert compare_tables(TABLE, back) == []


def test_file_is_stable_text(tmp_path):
    write_csv(tmp_path / "t.csv", TABLE)
    assert (tmp_path / "t.csv").read_bytes().decode() == (
        "method,step,loss,bound,best\n"
        "adam,0,1.0,inf,true\n"
        '"DeVA ""ℓ∞"", β",1,1.23457e-30,-inf,false\n'
        ",-2,nan,0.0,true\n"
    )


# Rounding the largest floats up to few digits overflows; results of 1e307 have other problems.
NUMBERS = st.floats(-1e307, 1e307) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(st.lists(NUMBERS, max_size=20), st.integers(1, 17))
def test_what_is_written_compares_equal_to_what_it_came_from(tmp_path_factory, values, digits):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    table = {"x": np.array(values, dtype=np.float64)}
    write_csv(path, table, digits)
    assert compare_tables(table, read_csv(path), digits=digits) == []


@given(st.floats(1e-300, 1e300), st.booleans())
def test_two_units_of_the_last_digit_are_a_change(value, down):
    old = float(f"{value:.5e}")
    new = old * (1 + (-1 if down else 1) * 2.5e-5)
    assert len(compare_tables({"x": np.array([new])}, {"x": np.array([old])})) == 1


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        ([1.0, 2.0], [1.0, 2.1], "1 of 2 values differ, worst 2 for 2.1"),
        ([1.0, np.nan], [1.0, 2.0], "worst nan for 2"),
        ([1.0, 2.0], [1.0, np.nan], "worst 2 for nan"),
        ([np.inf], [-np.inf], "worst inf for -inf"),
        ([1.0], [np.inf], "worst 1 for inf"),
        ([1e-12], [0.0], "worst 1e-12 for 0"),
        ([1.0], [1.0, 2.0], "1 rows, committed 2"),
        (["a", "b"], ["a", "c"], "1 cells differ, first b for c"),
        ([1, 2], ["1", "x"], "first 2 for x"),
    ],
)
def test_changes_are_described(new, old, words):
    (change,) = compare_tables({"x": np.array(new)}, {"x": np.array(old)})
    assert change.column == "x"
    assert words in change.reason


def test_the_worst_row_is_named():
    old = np.array([1.0, 1e6, 3.0])
    (change,) = compare_tables({"x": old + np.array([0.1, 1.5, 2.0])}, {"x": old})
    assert change.row == 2  # by what is allowed there, not by size
    assert change.deviation == 2.0


def test_tolerances_by_column():
    old = {"x": np.array([1.0, 0.0]), "y": np.array([1.0, 0.0])}
    new = {"x": np.array([1.01, 0.001]), "y": np.array([1.01, 0.001])}
    changes = compare_tables(new, old, {"x": (0.02, 0.002)})
    assert [change.column for change in changes] == ["y"]
    with pytest.raises(ValueError, match="names column 'z'"):
        compare_tables(new, old, {"z": (0.1, 0.1)})


def test_missing_and_additional_columns_are_changes():
    a, b = {"x": np.ones(1)}, {"y": np.ones(1)}
    assert [change.column for change in compare_tables(a, b)] == ["x", "y"]


def test_empty_table_round_trips(tmp_path):
    write_csv(tmp_path / "t.csv", {"x": np.zeros(0), "name": []})
    assert compare_tables({"x": np.zeros(0), "name": []}, read_csv(tmp_path / "t.csv")) == []


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ({}, ValueError, "at least one column"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, ValueError, r"x: 2, y: 3"),
        ({"x": np.zeros((2, 2))}, ValueError, "'x' has 2 dimensions"),
        ({"x": np.array([None])}, TypeError, "dtype object"),
        ({"x": np.zeros(1, dtype=complex)}, TypeError, "complex"),
    ],
)
def test_tables_that_cannot_be_written(tmp_path, table, error, words):
    with pytest.raises(error, match=words):
        write_csv(tmp_path / "t.csv", table)
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no header"), ("a,a\n1,2\n", "twice"), ("a,b\n1,2\n3\n", "line 3: 1 cells for 2 columns")],
)
def test_files_that_are_no_tables(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_csv(tmp_path / "t.csv")


def test_cells_that_only_python_takes_for_numbers_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1_000, 1\n2,2\n")
    assert [values.dtype.kind for values in read_csv(tmp_path / "t.csv").values()] == ["U", "U"]


def test_text_table():
    text = format_table([("Adam", 0.123456, None), ("SOAP", 12.0, 3)], ("method", "loss", "wins"))
    assert text.splitlines() == [
        "method    loss  wins",
        "------  ------  ----",
        "Adam    0.1235",
        "SOAP        12     3",
    ]
    assert format_table([], ("a", "bc")) == "a  bc\n-  --"
    with pytest.raises(ValueError, match="row 0 has 1 cells"):
        format_table([(math.pi,)], ("a", "b"))
