"""Algebra certificates: true steps pass, false ones do not, and every accepted sign and value is right at points."""

from __future__ import annotations

import ast
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deva_theory.recheck import recheck
from deva_theory.recheck.cases import Case
from deva_theory.recheck.points import _root
from deva_theory.recheck.reading import Rejected, parse

ROOT = {"nonnegative": ["P"], "positive": ["g"], "squares": {"r": "P + g**2", "q": "P"}}
RATE = {"nonnegative": ["b"], "positive": ["a", "p"], "real": ["x", "y"], "definitions": {"a": "1 - b"}}


def report(*steps, **case):
    return recheck({"certificates": [{"type": "algebra", "cases": [{"name": "c", **case, "steps": list(steps)}]}]})


def equal(left, right):
    return {"equal": [left, right]}


def at_most(small, large, because):
    return {"at_most": [small, large], "because": because}


TRUE = {
    "expanding": (RATE, equal("(x + y)**3", "x**3 + 3*x**2*y + 3*x*y**2 + y**3")),
    "rational function": (RATE, equal("1/p - 1/(p + 1)", "1/(p*(p + 1))")),
    "negative exponent": (RATE, equal("p**-2*p", "1/p")),
    "definition": (RATE, equal("a + b", "1")),
    "dividing by an assumed definition": (RATE, equal("(1 - b**2)/a", "1 + b")),
    "dividing by it spelled out": (RATE, equal("(1 - b**2)/(1 - b)", "1 + b")),
    "dividing by its negative": (RATE, equal("(1 - b**2)/(b - 1)", "-1 - b")),
    "an even power of a nonzero divisor": (RATE, at_most("0", "x**2/(b - 1)**2", "x**2/(b - 1)**2")),
    "a root squared": (ROOT, equal("(g/r)**2", "g**2/(P + g**2)")),
    "dividing by a root": (ROOT, equal("g/r", "g*r/(P + g**2)")),
    "two roots": (ROOT, equal("(r - q)*(r + q)", "g**2")),
    "a divisor with a root": (ROOT, equal("g**2/(r + q)", "r - q")),
    "D6": (ROOT, at_most("g**2/r", "2*(r - q)", "(r - q)**2/r")),
    "D3": (ROOT, at_most("(g/r)**2", "1", "P/(P + g**2)")),
    "square written as a product": (RATE, at_most("2*x*y", "x**2 + y**2", "(x - y)*(x - y)")),
    "evident only when multiplied out": (RATE, at_most("0", "x**2 + y**2", "(x + y)**2 - 2*x*y")),
    "positive with an assumed definition": (RATE, {"positive": "a*p + x**2"}),
    "multiplied out with the definition kept": (RATE, {"positive": "(a + x)**2 - 2*a*x"}),
    "a divisor that cancels": (RATE, equal("(p + 1)/(p + 1)", "1")),
    "zero is at most zero": (RATE, at_most("x - x", "0", "0")),
    "a nonnegative constant": (RATE, at_most("1/3 + x", "1/2 + x", "1/6")),
    "power zero": (RATE, equal("x**0", "1")),
}
FALSE = {
    "sign flipped": (RATE, equal("(x - y)**2", "x**2 + 2*x*y + y**2")),
    "wrong multiplier": (ROOT, at_most("g**2/r", "2*(r - q)", "2*(r - q)**2/r")),
    "wrong direction": (ROOT, at_most("2*(r - q)", "g**2/r", "(r - q)**2/r")),
    "a wrong root": (ROOT, equal("r", "q + g")),
    "root mistaken for its square": (ROOT, equal("r", "P + g**2")),
    "because is not the difference": (RATE, at_most("0", "x", "x**2")),
    "because is a real name": (RATE, at_most("0", "x", "x")),
    "because is a difference": (RATE, at_most("b", "1/2", "1/2 - b")),
    "because is negative": (RATE, at_most("p", "0", "-p")),
    "because is an odd power": (RATE, at_most("0", "x**3", "x**3")),
    "because over a divisor of unknown sign": (RATE, at_most("0", "b/x", "b/x")),
    "because over a negative divisor": (RATE, at_most("0", "x**2/(b - 1)", "x**2/(b - 1)")),
    "undeclared name": (RATE, equal("z", "z")),
    "positive, but only nonnegative": (RATE, {"positive": "b"}),
    "positive, but only a square": (RATE, {"positive": "x**2"}),
    "division by a real name": (RATE, equal("x/x", "1")),
    "division by a nonnegative name": (RATE, equal("b/b", "1")),
    "division by a difference": (RATE, equal("(p - 1)/(p - 1)", "1")),
    "division by zero": (RATE, equal("1/(p - p)", "1/(p - p)")),
    "division by zero in a definition's words": (RATE, equal("1/(a + b - 1)", "1/(a + b - 1)")),
    "negative power of what can vanish": (RATE, equal("x**-1*x", "1")),
    "division by a root of what can vanish": (ROOT, equal("q/q", "1")),
    "exponent is a name": (RATE, equal("x**p", "x**p")),
    "exponent is a fraction": (RATE, equal("p**(1/2)", "p**(1/2)")),
    "true division is no integer": (RATE, equal("1/2", "0")),
    "call": (RATE, equal("__import__('os').getpid()", "1")),
    "bare import": (RATE, equal("__import__", "__import__")),
    "call of a name": (RATE, equal("x(1)", "1")),
    "attribute": (RATE, equal("x.real", "x")),
    "transpose": (RATE, equal("x.T", "x")),
    "subscript": (RATE, equal("x[0]", "x")),
    "comparison": (RATE, equal("x < y", "1")),
    "conditional": (RATE, equal("x if y else x", "x")),
    "lambda": (RATE, equal("(lambda: x)()", "x")),
    "walrus": (RATE, equal("(p := x)", "x")),
    "comment": (RATE, equal("x # + y", "x")),
    "decimal": (RATE, equal("0.5*x", "x/2")),
    "imaginary": (RATE, equal("1j*1j", "-1")),
    "boolean": (RATE, equal("True", "1")),
    "floor division": (RATE, equal("3//2", "1")),
    "matrix product": (RATE, equal("x@y", "x*y")),
    "empty": (RATE, equal("", "")),
    "not a string": (RATE, equal(1, 1)),
    "one side": (RATE, {"equal": ["x"]}),
    "no because": (RATE, {"at_most": ["0", "p"]}),
    "unknown step": (RATE, {"less": ["0", "p"]}),
    "two steps in one": (RATE, {"equal": ["x", "x"], "positive": "x"}),
    "step is no object": (RATE, "x = x"),
    "empty citation": (RATE, {"cite": " "}),
}


@pytest.mark.parametrize("name", TRUE)
def test_true_step_is_accepted(name):
    case, step = TRUE[name]
    found = report(step, **case)
    assert found.ok, found.lines


@pytest.mark.parametrize("name", FALSE)
def test_false_step_is_rejected(name):
    case, step = FALSE[name]
    # A true step beside it: the certificate must not pass on that one's strength.
    for steps in ([step], [equal("x - x", "0") if "x" in case.get("real", ()) else equal("P - P", "0"), step]):
        found = report(*steps, **case)
        assert not found.ok
        assert "case 0 'c': step" in found.lines[0] and "cannot be checked" not in found.lines[0]


CASES = {
    "only cites": (False, {}, {"cite": "Cauchy-Schwarz"}),
    "no steps": (False, {}),
    "cites and checks": (True, {"real": ["x"]}, {"cite": "Cauchy-Schwarz"}, equal("2*x", "x + x")),
    "cites and checks numbers": (False, {"real": ["x"]}, {"cite": "Cauchy-Schwarz"}, equal("2", "1 + 1")),
    "a name in a citation and a note": (False, {"real": ["x"]}, {"cite": "x"}, {**equal("1", "1"), "note": "x"}),
    "a name on one side": (True, {"real": ["x"]}, equal("1", "x - x + 1")),
    "a name in the reason": (True, {"real": ["x"]}, at_most("0", "1", "1 + x - x")),
    "a name that is positive": (True, {"positive": ["x"]}, {"positive": "x"}),
    "a name that looks like another": (False, {"real": ["\u0445"]}, equal("\u0445", "\u0445")),
    "a name that Python reads as another": (False, {"real": ["x"], "definitions": {"\uff58": "1"}}, equal("x", "x")),
    "root of a real name": (False, {"real": ["x"], "squares": {"s": "x"}}, equal("s**2", "x")),
    "root of a square": (True, {"real": ["x"], "squares": {"s": "x**2"}}, equal("s**2", "x**2")),
    "which is not the name itself": (False, {"real": ["x"], "squares": {"s": "x**2"}}, equal("s", "x")),
    "unless that is nonnegative": (True, {"nonnegative": ["x"], "squares": {"s": "x**2"}}, equal("s", "x")),
    "or nonpositive": (True, {"nonnegative": ["x"], "definitions": {"y": "-x"}, "squares": {"s": "y**2"}}, equal("s", "-y")),
    "a rational root": (
        True,
        {"positive": ["x", "y"], "squares": {"s": "(x + y)**2/(4*x**2)"}},
        equal("s", "(x + y)/(2*x)"),
    ),
    "its wrong sign": (False, {"positive": ["x", "y"], "squares": {"s": "(x + y)**2"}}, equal("s", "-x - y")),
    "a root of unknown sign": (False, {"positive": ["x", "y"], "squares": {"s": "(x - y)**2"}}, equal("s", "x - y")),
    "root of an assumed definition": (
        True,
        {"nonnegative": ["d"], "real": ["x"], "definitions": {"d": "1 - x**2"}, "squares": {"s": "d"}},
        equal("s**2 + x**2", "1"),
    ),
    "or of its words": (
        True,
        {"nonnegative": ["d"], "real": ["x"], "definitions": {"d": "1 - x**2"}, "squares": {"s": "1 - x**2"}},
        equal("s**4", "d**2"),
    ),
    "but not without the assumption": (
        False,
        {"real": ["x"], "definitions": {"d": "1 - x**2"}, "squares": {"s": "d"}},
        equal("s**2 + x**2", "1"),
    ),
    "root positive without reason": (False, {"nonnegative": ["P"], "positive": ["r"], "squares": {"r": "P"}}, equal("r/r", "1")),
    "root positive without reason or use": (False, {"nonnegative": ["P"], "positive": ["r"], "squares": {"r": "P"}}, equal("1", "1")),
    "root positive with reason": (True, {"positive": ["P", "r"], "squares": {"r": "P"}}, equal("r/r", "1")),
    "root of a root": (True, {"positive": ["P"], "squares": {"r": "P", "s": "r"}}, equal("s**4", "P")),
    "root of a quotient": (True, {"positive": ["P", "Q"], "squares": {"r": "P/(P + Q)"}}, equal("r**3*(P + Q)", "P*r")),
    "the same, wrong": (False, {"positive": ["P", "Q"], "squares": {"r": "P/(P + Q)"}}, equal("r**3*(P + Q)", "Q*r")),
    "a higher power": (True, {"positive": ["P", "Q"], "squares": {"r": "P/(P + Q)"}}, equal("r**5*(P + Q)**2", "P**2*r")),
    "and a wrong one": (False, {"positive": ["P", "Q"], "squares": {"r": "P/(P + Q)"}}, equal("r**5*(P + Q)", "P**2*r")),
    "high powers of a root over a divisor": (
        True,
        {"positive": ["P", "Q"], "squares": {"r": "P/(P + Q)"}},
        equal("1/(r + 1)/(r + 1)/(r + 1) + r", "(1 + r*(r + 1)**3)/(r + 1)**3"),
    ),
    "any order": (True, {"positive": ["P"], "squares": {"a": "b"}, "definitions": {"b": "c**2", "c": "P + 1"}}, equal("a", "P + 1")),
    "a cycle": (False, {"definitions": {"a": "b", "b": "a"}}, equal("1", "1")),
    "a cycle through a root": (False, {"positive": ["r"], "squares": {"r": "r"}}, equal("1", "1")),
    "defined twice": (False, {"positive": ["P"], "definitions": {"r": "P"}, "squares": {"r": "P"}}, equal("1", "1")),
    "undeclared in a definition": (False, {"definitions": {"a": "b"}}, equal("1", "1")),
    "division in a definition": (False, {"real": ["x"], "definitions": {"a": "1/x"}}, equal("1", "1")),
    "contradiction": (False, {"positive": ["x", "y"], "definitions": {"y": "-x"}}, equal("1", "2")),
    "hidden contradiction": (False, {"positive": ["y"], "real": ["x"], "definitions": {"y": "2*x - x**2 - 2"}}, {"positive": "y"}),
    "contradiction with a root": (
        False,
        {"real": ["x"], "positive": ["d"], "squares": {"s": "x**2"}, "definitions": {"d": "x - s"}},
        {"positive": "d"},
    ),
    "two assumptions": (
        False,
        {"real": ["x"], "positive": ["d", "e"], "definitions": {"d": "x - 1", "e": "1 - x"}},
        {"positive": "d"},
    ),
    "a contradiction below rounding": (
        False,
        {"real": ["x", "y", "z"], "nonnegative": ["a"], "definitions": {"a": "2*x*y - x**2 - y**2 - 1 + 10**17 - 10**17"}},
        at_most("1", "z**2", "a + (x - y)**2 + z**2"),
    ),
    "a contradiction below underflow": (
        False,
        {"real": ["x", "y", "z"], "nonnegative": ["a"], "definitions": {"a": "2*x*y - x**2 - y**2 - 1/10**200/10**200"}},
        at_most("1", "z**2", "10**200*10**200*a + 10**200*10**200*(x - y)**2 + z**2"),
    ),
    "a contradiction below a root's rounding": (
        False,
        {
            "nonnegative": ["p", "a"],
            "squares": {"r": "p"},
            "definitions": {"a": "r*r - p - 1/10**100"},
        },
        at_most("1", "p", "10**100*a*p + p + 10**100*a"),
    ),
    "just possible": (
        True,
        {"real": ["x", "y"], "nonnegative": ["a"], "definitions": {"a": "2*x*y - x**2 - y**2"}},
        equal("a + (x - y)**2", "0"),
    ),
    "just possible with a root": (
        True,
        {"positive": ["p", "g"], "nonnegative": ["a"], "squares": {"r": "p + g**2"}, "definitions": {"a": "2*r*g - r**2 - g**2 + p**2"}},
        equal("a + (r - g)**2", "p**2"),
    ),
    "an irrational root": (
        True,
        {"positive": ["x", "a"], "squares": {"r": "2*x**2"}, "definitions": {"a": "2*r/x - 2"}},
        equal("a*x", "2*r - 2*x"),
    ),
    "narrow but possible": (
        True,
        {"positive": ["b", "c", "d", "f", "a"], "definitions": {"a": "1 - b - c - d - f"}},
        equal("a + b + c", "1 - d - f"),
    ),
    "unknown declaration": (False, {"positve": ["x"]}, equal("1", "1")),
    "a name that is an expression": (False, {"positive": ["x + y"]}, equal("1", "1")),
    "a name that is a number": (False, {"positive": ["1"]}, equal("1", "1")),
    "definitions as a list": (False, {"definitions": [["a", "1"]]}, equal("1", "1")),
    "names as a string": (False, {"positive": "xy"}, equal("1", "1")),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    ok, case, *steps = CASES[name]
    found = report(*steps, **case)
    assert found.ok == ok, found.lines
    assert "cannot be checked" not in found.lines[0]


def test_later_steps_use_earlier_ones():
    case = {"nonnegative": ["b"], "positive": ["a"], "real": ["x"], "definitions": {"a": "1 - b"}}
    shown = equal("1 - b**2", "a*(1 + b)")
    use = equal("(x - b**2*x)/(1 - b**2)", "x")
    assert not report(use, **case).ok
    assert report(shown, use, **case).ok
    assert not report(equal("b", "b"), {"positive": "b"}, **case).ok, "an identity alone says nothing about a sign"
    assert not report(use, shown, **case).ok, "a step must not use a later one"
    split = recheck({"certificates": [{"type": "algebra", "cases": [{**case, "steps": [shown]}, {**case, "steps": [use]}]}]})
    assert not split.ok, "nor another case's"


def test_lines_say_what_is_assumed_and_cited():
    line = report(equal("a + b", "1"), {"cite": "the mean value\ntheorem"}, **RATE).lines[0]
    assert "a = 1 - b > 0" in line and "the mean value theorem" in line and "\n" not in line
    assert "1 steps checked, 1 cited;" in line


def test_lines_say_what_the_names_in_assumptions_stand_for():
    case = {"positive": ["d"], "real": ["x"], "definitions": {"d": "e - s", "e": "x + 1"}, "squares": {"s": "t", "t": "x**2"}}
    line = report(equal("d + s", "e"), **case).lines[0]
    assert line.endswith("assumes d = e - s > 0, e = x + 1, s = sqrt(t), t = sqrt(x ** 2)")


def test_hopeless_assumptions_are_given_up_quickly():
    names = [f"x{i}" for i in range(30)]
    total = " + ".join(f"({n} - {m})**2" for n in names for m in names)
    powers = {"a": "b**200*0 - 1", "b": "c**200", "c": "(1/p)**200"}
    start = time.perf_counter()
    assert not report(equal("a", "a"), real=names, nonnegative=["a"], definitions={"a": f"-1 - ({total})*p"}, positive=["p"]).ok
    assert not report(equal("a", "a"), positive=["p"], nonnegative=["a"], definitions=powers).ok
    assert time.perf_counter() - start < 20


@given(st.fractions(0, 10**6), st.fractions(0, 10**6))
def test_root_encloses(x, y):
    low, high = _root((min(x, y), max(x, y)))
    assert 0 <= low <= high and low**2 <= min(x, y) and max(x, y) <= high**2
    assert _root((x**2, x**2)) == (x, x)


def test_every_case_counts():
    good, bad = {"real": ["x"], "steps": [equal("x + x", "2*x")]}, {"name": "second", "steps": [equal("1", "2")]}
    found = recheck({"certificates": [{"type": "algebra", "cases": [good, bad]}]})
    assert not found.ok and "case 1 'second': step 0" in found.lines[0]


@pytest.mark.parametrize(
    "expression",
    [
        "(x + y + z + u + v + w + 1)**60",
        "x**100000",
        "((((x**100)**100)**100)**100)",
        "9**200**200**200",
        "((9**200)**200)**200",
        "+".join(["x"] * 40_000),
        "(" * 5000 + "x" + ")" * 5000,
        "-" * 5000 + "x",
        "9" * 6000,
    ],
)
def test_blow_up_is_a_line(expression):
    found = report(equal(expression, "0"), real=list("xyzuvw"))
    assert not found.ok
    assert len(found.lines) == 1 and len(found.lines[0]) < 600


def test_long_sums_are_no_problem():
    n = 2000
    assert report(equal(" + ".join(["x"] * n), f"{n}*x"), real=["x"]).ok


# Soundness at points ------------------------------------------------------------------------------------------------

LEAVES = st.sampled_from(["p", "b", "x", "y", "a", "s", "t", "e", "0", "1", "2", "3"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "*", "/"]), inner).map(lambda v: f"({v[0]}) {v[1]} ({v[2]})"),
        st.tuples(inner, st.integers(-3, 4)).map(lambda v: f"({v[0]})**{v[1]}"),
        inner.map(lambda v: f"-({v})"),
    ),
    max_leaves=9,
)
CASE = {
    "positive": ["p", "a"],
    "nonnegative": ["b"],
    "real": ["x", "y"],
    "definitions": {"a": "1 - b", "e": "x*y/(p + b)"},
    "squares": {"s": "p**2 + b**2", "t": "x**2/(1 + b)**2"},
    "steps": [],
}
# Legs and hypotenuse, so that s is rational.
TRIPLES = [(3, 4, 5), (4, 3, 5), (5, 12, 13), (15, 8, 17), (1, 0, 1)]


@st.composite
def points(draw):
    p, b, s = draw(st.sampled_from(TRIPLES))
    k = Fraction(draw(st.integers(1, 12)), 13 * 12 + 1)
    x, y = (Fraction(draw(st.integers(-3, 3)), draw(st.integers(1, 3))) for _ in range(2))
    p, b, s = p * k, b * k, s * k
    return {"p": p, "b": b, "x": x, "y": y, "a": 1 - b, "s": s, "t": abs(x) / (1 + b), "e": x * y / (p + b)}


def evaluate(node, point):
    if isinstance(node, ast.Name):
        return point[node.id]
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return -evaluate(node.operand, point)
    if isinstance(node.op, ast.Pow):
        return evaluate(node.left, point) ** ast.literal_eval(node.right)
    left, right = evaluate(node.left, point), evaluate(node.right, point)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    return left * right if isinstance(node.op, ast.Mult) else left / right


def at(case, p, point):
    total = Fraction(0)
    for monomial, c in p.items():
        for name, exponent in zip(case.ring.names, monomial, strict=True):
            c *= point[name] ** exponent
        total += c
    return total


def ratio_at(case, ratio, point):
    value = at(case, ratio.top, point)
    for key, exponent in ratio.factors.items():
        value /= at(case, dict(key), point) ** exponent
    return value


@given(EXPRESSIONS, st.lists(points(), min_size=3, max_size=6))
def test_values_and_signs_are_right_at_points(text, where):
    case = Case(CASE)
    node = parse(text)
    try:
        value = case.value(node)
    except Rejected:
        assume(False)
    plain = case.ring.expanded(value.ratio)
    for point in where:
        exact = evaluate(node, point)  # an accepted expression has a value everywhere on the domain
        assert ratio_at(case, value.ratio, point) == exact == ratio_at(case, plain, point)
        assert (exact > 0) - (exact < 0) in value.signs


@given(EXPRESSIONS, EXPRESSIONS, points())
def test_accepted_steps_hold_at_points(left, right, point):
    steps = [equal(left, right), at_most(left, right, f"({right}) - ({left})"), {"positive": left}]
    for step in steps:
        if not report(step, **{**CASE, "steps": []}).ok:
            continue
        x = evaluate(parse(left), point)
        if "positive" in step:
            assert x > 0
        else:
            y = evaluate(parse(right), point)
            assert x == y if "equal" in step else x <= y


MONOMIALS = st.tuples(st.integers(-4, 4).filter(bool), st.integers(0, 3), st.integers(0, 3))
SMALL = st.lists(MONOMIALS, min_size=1, max_size=4).map(lambda ms: " + ".join(f"({c})*x**{i}*y**{j}" for c, i, j in ms))


@given(SMALL, SMALL, MONOMIALS)
def test_wrong_polynomial_identities_are_rejected(u, v, wrong):
    c, i, j = wrong
    left, right = f"(({u}) + ({v}))*(({u}) - ({v}))", f"({u})**2 - ({v})*({v})"
    assert report(equal(left, right), real=["x", "y"]).ok
    found = report(equal(left, f"{right} + ({c})*x**{i}*y**{j}"), real=["x", "y"])
    assert not found.ok and "is not 0" in found.lines[0]


@given(SMALL, SMALL, MONOMIALS)
def test_wrong_rational_identities_are_rejected(u, v, wrong):
    c, i, j = wrong
    left, right = f"({u})/(x**2 + 1) - ({v})/(y**2 + 2)", f"(({u})*(y**2 + 2) - ({v})*(x**2 + 1))/((x**2 + 1)*(y**2 + 2))"
    assert report(equal(left, right), real=["x", "y"]).ok
    assert not report(equal(left, f"{right} + ({c})*x**{i}*y**{j}/(x**4 + 3)"), real=["x", "y"]).ok
