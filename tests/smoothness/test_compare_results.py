"""Two probes side by side: verdicts follow from the intervals and from nothing else."""

import csv
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.smoothness.compare_results import OPEN, ROUGHER, SMOOTHER, compare
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.result import BlockResult, ProbeResult


def result(intervals, *, norm="l2", sizes=None, settings=None):
    """A probe whose blocks have these intervals in one norm, or in the norms of a mapping."""
    blocks = []
    for depth, (name, ends) in enumerate(intervals.items()):
        by_norm = ends if isinstance(ends, dict) else {norm: ends}
        size = (sizes or {}).get(name, 4)
        estimates = {
            key: Estimate(key, size, Bounds(low, high, "given", "given"), None, 1, 0.1, True) for key, (low, high) in by_norm.items()
        }
        blocks.append(BlockResult(name, size, depth, ((size,),), {}, estimates))
    return ProbeResult(tuple(blocks), 1.0, settings or {}, {}, {"products": 1, "seconds": 0.0})


CASES = {
    "apart above": ((1.0, 2.0), (3.0, 4.0), (1.5, 4.0), ROUGHER),
    "apart below": ((3.0, 4.0), (1.0, 2.0), (0.25, 2 / 3), SMOOTHER),
    "overlap": ((1.0, 2.0), (1.5, 3.0), (0.75, 3.0), OPEN),
    "touch": ((1.0, 2.0), (2.0, 3.0), (1.0, 3.0), OPEN),
    "points": ((2.0, 2.0), (2.0, 2.0), (1.0, 1.0), OPEN),
    "from zero": ((0.0, 0.0), (1.0, 2.0), (math.inf, math.inf), ROUGHER),
    "to zero": ((1.0, 2.0), (0.0, 0.0), (0.0, 0.0), SMOOTHER),
    "both zero": ((0.0, 0.0), (0.0, 0.0), (0.0, math.inf), OPEN),
    "unbounded a": ((1.0, math.inf), (2.0, 3.0), (0.0, 3.0), OPEN),
    "unbounded b": ((1.0, 2.0), (3.0, math.inf), (1.5, math.inf), ROUGHER),
}


@pytest.mark.parametrize(("a", "b", "ratio", "verdict"), CASES.values(), ids=CASES)
def test_ratio_and_verdict(a, b, ratio, verdict):
    (entry,) = compare(result({"w": a}), result({"w": b}))
    assert entry.ratio == pytest.approx(ratio)
    assert entry.verdict == verdict


ends = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted)
shares = st.floats(0, 1)


@given(ends, ends, shares, shares)
def test_whatever_the_values_in_the_intervals_the_ratio_holds_and_the_verdict_is_right(a, b, s, t):
    x, y = a[0] + s * (a[1] - a[0]), b[0] + t * (b[1] - b[0])
    (entry,) = compare(result({"w": tuple(a)}), result({"w": tuple(b)}))
    if x > 1e-300:
        assert entry.ratio[0] * (1 - 1e-9) <= y / x <= entry.ratio[1] * (1 + 1e-9)
    if entry.verdict == ROUGHER:
        assert y >= x * (1 - 1e-12)
    if entry.verdict == SMOOTHER:
        assert y <= x * (1 + 1e-12)


def test_blocks_and_norms_of_one_side_are_listed_once():
    a = result({"w": {"l2": (1, 1), "l11": (2, 2)}, "gone": {"l2": (1, 1), "l11": (1, 1)}, "part": {"l2": (1, 1), "linf": (1, 1)}})
    b = result({"w": {"l2": (1, 1), "linf": (3, 3)}, "new": {"l2": (1, 1)}, "part": {"linf": (1, 1)}})
    found = compare(a, b)
    assert [(e.block, e.norm) for e in found] == [("w", "l2"), ("part", "linf")]
    assert found.only_a == ("norm l11", "gone", "part (l2)")
    assert found.only_b == ("w (linf)", "new")
    assert "only in b: w (linf), new" in found.summary()


def test_differences_of_size_and_settings_are_remarked():
    a = result({"w": (1, 2)}, settings={"curvature": "hessian", "seed": 1})
    b = result({"w": (1, 2)}, sizes={"w": 5}, settings={"curvature": "gauss_newton", "seed": 2})
    text = compare(a, b).summary()
    assert "w has 4 parameters in a and 5 in b" in text
    assert "the probes differ in curvature: hessian in a, gauss_newton in b" in text
    assert "seed" not in text


def test_forms(tmp_path):
    found = compare(result({"w": (0, 1), "u": (1, 2)}), result({"w": (1, 2), "u": (5, 6)}))
    assert "1 b rougher, 0 b smoother, 1 not separated" in found.summary()
    found.to_csv(tmp_path / "c.csv")
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["block"] for row in rows] == ["w", "u"]
    assert float(rows[1]["ratio_lower"]) == 2.5
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"][0]["ratio_upper"] is None
    assert len(found) == 2


def test_nothing_in_common_is_no_error(tmp_path):
    found = compare(result({"w": (0, 1)}), result({"u": (0, 1)}))
    assert "0 b rougher" in found.summary()
    found.to_csv(tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text() == "block\n"
