"""Proofs in cases and steps: what is accepted, what is refused, and where a false step fails."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from math import sqrt

import pytest

from deva_theory.certify import Case, at_most, cite, equal, positive, prove, sign_cases

# Every true case stands beside a false twin that differs from it in one place.
TWINS = {
    "square of a sum": (
        Case("c", real="x y", steps=[equal("(x + y)**2", "x**2 + 2*x*y + y**2")]),
        Case("c", real="x y", steps=[equal("(x + y)**2", "x**2 + x*y + y**2")]),
    ),
    "quotients": (
        Case("c", positive="p q", steps=[equal("1/p + 1/q", "(p + q)/(p*q)")]),
        Case("c", positive="p q", steps=[equal("1/p + 1/q", "(p + q + 1)/(p*q)")]),
    ),
    "negative exponent": (
        Case("c", positive="p", steps=[equal("p**-2", "1/p**2")]),
        Case("c", positive="p", steps=[equal("p**-2", "1/p**3")]),
    ),
    "square root": (
        Case("c", positive="p", nonnegative="P", squares={"r": "P + p**2"}, steps=[equal("p/r", "p*r/(P + p**2)")]),
        Case("c", positive="p", nonnegative="P", squares={"r": "P + p**2"}, steps=[equal("p/r", "p*r/(P + 2*p**2)")]),
    ),
    "root of a root": (
        Case("c", positive="p q", squares={"r": "p + q", "s": "p*r"}, steps=[equal("s**4", "p**2*(p + q)")]),
        Case("c", positive="p q", squares={"r": "p + q", "s": "p*r"}, steps=[equal("s**4", "p**2*(p + q)**2")]),
    ),
    "root of a quotient": (
        Case("c", positive="p q", squares={"r": "p/(p + q)"}, steps=[equal("r**2*(p + q)/p", "1"), equal("r**-2", "1 + q/p")]),
        Case("c", positive="p q", squares={"r": "p/(p + q)"}, steps=[equal("r**2*(p + q)/p", "r")]),
    ),
    "two roots that only multiply to a third": (
        Case("c", positive="p q", squares={"r": "p", "s": "q"}, steps=[equal("(r + s)*(r - s)", "p - q")]),
        Case("c", positive="p q", squares={"r": "p", "s": "q"}, steps=[equal("(r + s)*(r - s)", "p + q")]),
    ),
    "root of a perfect square": (
        Case("c", positive="p q", squares={"r": "(p + q)**2/4"}, steps=[equal("r", "(p + q)/2")]),
        Case("c", positive="p q", squares={"r": "(p + q)**2/4"}, steps=[equal("r", "p + q")]),
    ),
    "arithmetic and geometric mean": (
        Case("c", real="x y", steps=[at_most("2*x*y", "x**2 + y**2", "(x - y)**2")]),
        Case("c", real="x y", steps=[at_most("3*x*y", "x**2 + y**2", "(x - y)**2 - x*y")]),
    ),
    "Cauchy-Schwarz": (
        Case("c", real="a b c d", steps=[at_most("(a*c + b*d)**2", "(a**2 + b**2)*(c**2 + d**2)", "(a*d - b*c)**2")]),
        Case("c", real="a b c d", steps=[at_most("(a*c + b*d)**2", "(a**2 + b**2)*(c**2 + d**2)", "(a*d + b*c)**2")]),
    ),
    "expanded reason": (
        Case("c", positive="p", nonnegative="P", steps=[at_most("p**2", "(p + P)**2", "(p + P)**2 - p**2")]),
        Case("c", positive="p", real="P", steps=[at_most("p**2", "(p + P)**2", "(p + P)**2 - p**2")]),
    ),
    "assumption on a definition": (
        Case("c", positive="b a", definitions={"a": "1 - b"}, steps=[at_most("b", "1", "a"), at_most("b*(1 - b)", "1 - b", "(1 - b)**2")]),
        Case("c", positive="b", real="a", definitions={"a": "1 - b"}, steps=[at_most("b", "1", "a")]),
    ),
    "definition without an assumption": (
        Case("c", positive="p q", definitions={"s": "p + q"}, steps=[positive("s"), equal("1/s", "1/(p + q)")]),
        Case("c", positive="p q", definitions={"s": "p - q"}, steps=[positive("s")]),
    ),
    "definition that uses a root that uses a definition": (
        Case("c", "p", (), "x", definitions={"g": "x/r", "v": "x**2 + p"}, squares={"r": "v"}, steps=[at_most("g**2", "1", "p/v")]),
        Case("c", "p", (), "x", definitions={"g": "x/r", "v": "x**2 + p"}, squares={"r": "v"}, steps=[at_most("g**2", "1", "p/r")]),
    ),
    "positive": (
        Case("c", positive="p", nonnegative="P", steps=[positive("p*(P + 1) + P/p")]),
        Case("c", positive="p", nonnegative="P", steps=[positive("p*P")]),
    ),
    "no names": (
        Case("c", steps=[equal("1/3 + 1/6", "1/2"), at_most("1/3", "1/2", "1/6"), positive("1/6")]),
        Case("c", steps=[equal("1/3 + 1/6", "1/3")]),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_true_case_holds_and_false_twin_fails_at_a_point(name: str) -> None:
    true, false = TWINS[name]
    proof = prove(true)
    assert proof.holds, proof.failure
    assert proof.failure == ""
    assert not any("FAILS" in line for line in proof.lines)
    refuted = prove([false])
    assert not refuted.holds
    assert "case 'c', step" in refuted.failure and " at " in refuted.failure
    assert sum("FAILS" in line for line in refuted.lines) == 1


@pytest.mark.parametrize("name", TWINS)
def test_algebra_alone_refuses_false_twins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points settle false steps early; what they might miss must not pass."""
    monkeypatch.setattr("deva_theory.certify.symbolic._at_points", lambda step, points: "")
    true, false = TWINS[name]
    assert prove(true).holds
    assert "no failure at" in prove(false).failure


# True or false, these are not shown: a divisor may vanish, a sign is not visible, or a declaration is not justified.
NOT_SHOWN = {
    "divisor that may vanish": (Case("c", real="x y", steps=[equal("x/(x - y) - y/(x - y)", "1")]), "divides by"),
    "divisor that never vanishes, unseen": (
        Case("c", real="x", steps=[equal("(x**2 - x + 1)/(x**2 - x + 1)", "1")]),
        "not evidently nonzero",
    ),
    "cancelled divisor": (Case("c", nonnegative="P", steps=[equal("P/P", "1")]), "divides by zero at P = 0"),
    "true but unseen sign": (Case("c", real="x", steps=[at_most("x", "x**2 + 1", "x**2 - x + 1")]), "not evidently nonnegative"),
    # SymPy's own `is_positive` says True here.
    "sign that only SymPy finds": (Case("c", positive="p", steps=[positive("2 - 1/(p + 1)")]), "not evidently positive"),
    "product of roots": (
        Case("c", positive="p q", squares={"r": "p", "s": "q", "t": "p*q"}, steps=[equal("t", "r*s")]),
        "not equal modulo the squares",
    ),
    "root of what may be negative": (Case("c", real="x", squares={"r": "x"}, steps=[equal("r**2", "x")]), "x is not evidently nonnegative"),
    "root that may be zero": (
        Case("c", nonnegative="P", positive="r", squares={"r": "P"}, steps=[equal("r**2", "P")]),
        "declared positive, but P is not evidently positive",
    ),
    "contradictory assumptions": (
        Case("c", positive="p a", definitions={"a": "-p"}, steps=[equal("1", "1")]),
        "the case may be empty",
    ),
    "definition that may divide by zero": (
        Case("c", real="x", nonnegative="P", definitions={"y": "x/P"}, steps=[equal("x", "x")]),
        "y = x / P divides by P",
    ),
    "fact of another expression": (Case("c", real="x y", steps=[positive("x**2 + 1"), positive("x**2 + y")]), "step 2"),
}


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_what_is_not_shown_does_not_hold(name: str) -> None:
    case, reason = NOT_SHOWN[name]
    proof = prove(case)
    assert not proof.holds
    assert reason in proof.failure


MALFORMED = {
    "undeclared": (Case("c", real="x", steps=[equal("x", "x"), equal("x", "y")]), "case 'c', step 2: .*'y' is not declared"),
    "undeclared in a definition": (Case("c", definitions={"a": "1 - b"}, steps=[equal("a", "a")]), "'b' is not declared"),
    "cycle": (Case("c", definitions={"a": "b", "b": "a"}, steps=[equal("a", "b")]), "a, b: defined by each other"),
    "defined twice": (Case("c", definitions={"a": "1"}, squares={"a": "1"}, steps=[equal("a", "1")]), "both a definition and a square"),
    "not a name": (Case("c", real=["x+y"], steps=[equal("1", "1")]), "not a name"),
    "syntax": (Case("c", real="x", steps=[equal("x +", "x")]), "step 1: 'x \\+' is not an expression"),
    "function": (Case("c", real="x", steps=[equal("sqrt(x)", "x")]), "'sqrt\\(x\\)' is not allowed"),
    "attribute": (Case("c", real="x", steps=[equal("x.real", "x")]), "not allowed"),
    "float": (Case("c", real="x", steps=[equal("0.5*x", "x")]), "write fractions as 1/2"),
    "bool": (Case("c", real="x", steps=[equal("True", "x")]), "not an integer"),
    "other operator": (Case("c", real="x", steps=[equal("x % 2", "x")]), "only \\+ - \\* / \\*\\*"),
    "symbolic exponent": (Case("c", real="x", steps=[equal("x**x", "x")]), "exponent"),
    "fractional exponent": (Case("c", positive="x", steps=[equal("x**(1/2)", "x")]), "square roots under squares"),
    "huge exponent": (Case("c", positive="x", steps=[equal("x**1000", "x")]), "exponent exceeds"),
    "zero divisor": (Case("c", real="x", steps=[equal("x/(x - x)", "x")]), "step 1, .*divides by zero everywhere"),
    "hidden zero divisor": (
        Case("c", positive="p", squares={"r": "p"}, steps=[equal("1/(r**2 - p)", "1")]),
        "step 1, .*divides by zero everywhere",
    ),
    "definition by zero": (
        Case("c", real="x", definitions={"y": "x/(2 - 2)"}, steps=[equal("y", "x")]),
        "y = .* divides by zero everywhere",
    ),
    "unknown step": (Case("c", real="x", steps=[{"equals": ["x", "x"]}]), "step 1"),
    "step with too much": (Case("c", real="x", steps=[{"equal": ["x", "x"], "because": "x"}]), "step 1"),
    "reason missing": (Case("c", real="x", steps=[{"at_most": ["x", "x"]}]), "step 1"),
    "empty citation": (Case("c", real="x", steps=[equal("x", "x"), cite(" ")]), "step 2"),
    "only citations": (Case("c", real="x", steps=[cite("known")]), "cited steps alone"),
    "no steps": (Case("c", real="x"), "no step"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_cases_are_named(name: str) -> None:
    case, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message):
        prove(case)


def test_no_case_is_no_proof() -> None:
    with pytest.raises(ValueError, match="no step"):
        prove([])


def test_failure_is_the_first_and_every_step_is_printed() -> None:
    steps = [cite("known"), equal("x", "x"), equal("x", "2*x"), equal("x", "3*x"), positive("x**2 + 1")]
    proof = prove([Case("good", real="y", steps=[equal("y", "y")]), Case("bad", real="x", steps=steps)])
    assert proof.failure.startswith("case 'bad', step 3, x = 2*x: ")
    assert [line for line in proof.lines if line.startswith("case")] == ["case good: y real", "case bad: x real"]
    assert [line.split(":")[0].strip() for line in proof.lines[3:]] == ["cited", "x = x", "FAILS", "FAILS", "x**2 + 1 > 0"]


def test_the_point_in_the_failure_is_a_counter_example() -> None:
    failure = prove(Case("c", positive="p", real="x", steps=[at_most("x*p", "x**2 + p", "(x - p)**2")])).failure
    assert "exceeds" in failure  # the inequality itself, not just the reason
    point = dict(part.split(" = ") for part in failure.rsplit(" at ", 1)[1].split(", "))
    p, x = Fraction(point["p"]), Fraction(point["x"])
    assert p > 0 and x * p > x**2 + p


def test_a_wrong_reason_for_a_true_inequality_fails() -> None:
    proof = prove(Case("c", real="x", steps=[at_most("0", "x**2 + 1", "x**2")]))
    assert not proof.holds and "the difference is" in proof.failure
    proof = prove(Case("c", real="x", steps=[at_most("x**2 - 1", "x**2", "1")]))
    assert proof.holds


def test_false_only_where_the_root_is_irrational() -> None:
    # r**2 = 2: no rational point has an exact root, so the identity r = 7/5 must fail on the approximation.
    proof = prove(Case("c", real="x", squares={"r": "2"}, steps=[equal("r*x", "1414213562373095/1000000000000000*x")]))
    assert not proof.holds and " at x = " in proof.failure
    assert prove(Case("c", real="x", squares={"r": "2"}, steps=[equal("(r*x)**2", "2*x**2"), positive("r")])).holds


def test_earlier_positive_steps_may_be_used() -> None:
    declared = {"positive": "b a", "definitions": {"a": "1 - b"}}
    # 1 - b > 0 is the assumption under another name, 1 - b² > 0 has to be shown first.
    shown = [positive("1 - b"), equal("(1 - b**2)/(1 - b)", "1 + b"), positive("(1 - b)*b*b + (1 - b)"), positive("(1 - b)*(1 + b)")]
    assert prove(Case("c", **declared, steps=[*shown, equal("b/(1 - b**2) + b/(2*b**2 - 2)", "b/(2 - 2*b**2)")])).holds
    assert "divides by 1 - b ** 2" in prove(Case("c", **declared, steps=[*shown[:3], equal("b/(1 - b**2)", "b/(1 - b**2)")])).failure
    assert prove(Case("c", **declared, steps=[equal("(b**2 - 1)/(b - 1)", "1 + b"), at_most("(b - 1)*b", "0", "b*(1 - b)")])).holds
    assert not prove(Case("c", positive="b", steps=[equal("(1 - b**2)/(1 - b)", "1 + b")])).holds
    assert not prove(Case("c", **declared, steps=[positive("b - 1")])).holds


def test_certificate_is_plain_json_in_the_grammar() -> None:
    case = Case(
        "g > 0", positive=("p", "a"), nonnegative="P", real="x", definitions={"a": "1 - x"}, squares={"r": "P + p**2", "u": "p**2"},
        steps=[equal(Fraction(1, 2), "u/(2*p)"), at_most("p", "p + P", "P"), positive("r"), cite("words"), positive("u")],
    )  # fmt: skip
    proof = prove(case)
    assert proof.holds, proof.failure
    (content,) = json.loads(json.dumps(proof.certificate))["cases"]
    assert proof.certificate["type"] == "algebra"
    assert content == {
        "name": "g > 0",
        "positive": ["p", "a"],
        "nonnegative": ["P"],
        "real": ["x"],
        # The re-check knows r² only: a root that is rational is written as what it is.
        "definitions": {"a": "1 - x", "u": "p"},
        "squares": {"r": "P + p**2"},
        "steps": [
            {"equal": ["1/2", "u/(2*p)"]},
            {"at_most": ["p", "p + P"], "because": "P"},
            {"positive": "r"},
            {"cite": "words"},
            {"positive": "u"},
        ],
    }


@pytest.mark.parametrize("name", TWINS)
def test_certified_steps_hold_in_floating_point(name: str) -> None:
    """Independent of the package's own evaluation: Python's, on floats."""
    (content,) = prove(TWINS[name][0]).certificate["cases"]
    rng = random.Random(1)
    tried = 0
    for _ in range(200):
        defined = {*content.get("definitions", {}), *content.get("squares", {})}
        values = {n: rng.uniform(0.05, 1) for key in ("positive", "nonnegative") for n in content.get(key, ()) if n not in defined}
        values |= {n: rng.uniform(-2, 2) for n in content.get("real", ()) if n not in defined}
        for _ in range(len(defined)):
            for n, text in {**content.get("definitions", {}), **content.get("squares", {})}.items():
                try:
                    value = eval(text, {}, values)
                except NameError:
                    continue
                values[n] = sqrt(value) if n in content.get("squares", {}) else value
        if any(values[n] <= 0 for n in content.get("positive", ())):
            continue
        tried += 1
        for step in content["steps"]:
            if "equal" in step:
                left, right = (eval(text, {}, values) for text in step["equal"])
                assert left == pytest.approx(right, rel=1e-9, abs=1e-9)
            elif "at_most" in step:
                small, large = (eval(text, {}, values) for text in step["at_most"])
                because = eval(step["because"], {}, values)
                assert because >= -1e-9 and large - small == pytest.approx(because, rel=1e-9, abs=1e-9)
            else:
                assert eval(step["positive"], {}, values) > 0
    assert tried > 20


def test_long_sums_and_many_weights() -> None:
    powers = " + ".join(f"b**{k % 40}" for k in range(600))
    assert prove(Case("c", positive="b", steps=[positive(powers), equal(powers, powers)])).holds
    weights = [f"w{k}" for k in range(7)]
    rest = {"rest": "1 - " + " - ".join(weights)}
    steps = [at_most("w0 + w1", "1", "rest + w2 + w3 + w4 + w5 + w6")]
    assert prove(Case("simplex", [*weights, "rest"], definitions=rest, steps=steps)).holds


def _random_expression(rng: random.Random, depth: int) -> str:
    if depth == 0:
        return rng.choice(["p", "P", "x", "a", "r", "1", "2"])
    left = _random_expression(rng, depth - 1)
    if rng.random() < 0.3:
        return f"({left})**{rng.choice([2, 3, -2])}"
    return f"({left} {rng.choice('+++-*/')} {_random_expression(rng, rng.randrange(depth))})"


def test_accepted_signs_and_divisors_are_true_at_random_points() -> None:
    """The sign judgement against plain floats, on expressions nobody chose."""
    rng = random.Random(0)
    accepted = refused = 0
    for _ in range(200):
        text = _random_expression(rng, 3)
        case = Case("c", "p a", "P", "x", definitions={"a": "1 - x"}, squares={"r": "P + x**2"}, steps=[positive(text)])
        try:
            proof = prove(case)
        except ValueError as error:
            assert "divides by zero everywhere" in str(error)
            continue
        accepted += proof.holds
        refused += not proof.holds
        for _ in range(50 if proof.holds else 0):
            p, P, x = rng.choice([1e-3, 0.5, 7.0]), rng.choice([0.0, 0.2, 9.0]), rng.choice([-8.0, -0.3, 0.0, 0.4, 0.99])
            values = {"p": p, "P": P, "x": x, "a": 1 - x, "r": sqrt(P + x * x)}
            assert eval(text, {}, values) > 0, text
    assert accepted > 20 and refused > 50


# Sign cases -----------------------------------------------------------------------------------------------------------


def _split(factor: str = "sign(g)", **options: object) -> list[Case]:
    """AdaGrad's split with history P: g/S = γ·sign(g), γ = |g|/S."""
    return sign_cases(
        [equal("g/S", f"gamma*{factor}"), at_most("gamma**2", "1", "P/(P + g**2)")],
        signed={"g": (-1, 0, 1), "P": (0, 1)},
        skip_zero=True,
        definitions={"gamma": "abs(g)/S"},
        squares={"S": "P + g**2"},
        **options,
    )


def test_sign_cases_prove_a_split_and_refute_its_twin() -> None:
    cases = _split()
    assert [case.name for case in cases] == ["g < 0, P = 0", "g < 0, P > 0", "g = 0, P = 0", "g = 0, P > 0", "g > 0, P = 0", "g > 0, P > 0"]
    proof = prove(cases)
    assert proof.holds, proof.failure
    # At g = 0 = P both steps divide by zero: the case says so and checks nothing.
    undefined = cases[2]
    assert undefined.definitions == {}
    assert [list(step) for step in undefined.steps] == [["cite"], ["cite"]]
    assert all("not defined here, left out" in step["cite"] for step in undefined.steps)
    twin = prove(_split("1"))
    assert not twin.holds and twin.failure.startswith("case 'g < 0, P = 0', step 1")


def test_undefined_steps_must_be_asked_to_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"case 'g = 0', step 1, .*divides by zero everywhere"):
        prove(sign_cases([equal("g/abs(g)", "sign(g)")], ["g"]))
    assert prove(sign_cases([equal("g/abs(g)", "sign(g)")], ["g"], skip_zero=True)).holds
    assert prove(sign_cases([equal("g/abs(g)", "sign(g)")], {"g": (1, -1)})).holds
    # Only what divides by zero everywhere is left out: here P may be positive.
    partly = sign_cases([equal("(g + P)/(abs(g) + P)", "1")], {"g": (0, 1)}, skip_zero=True, nonnegative="P")
    assert "divides by zero at P = 0" in prove(partly).failure


def test_steps_and_definitions_per_case() -> None:
    def steps(signs):
        return [equal("gamma", "1")] if signs["g"] else []  # 0/0 := 0 is the caller's to say

    cases = sign_cases(steps, ["g"], definitions=lambda signs: {"gamma": "g/(g*sign(g))*sign(g)"} if signs["g"] else {})
    assert [case.name for case in cases] == ["g > 0", "g < 0"]
    assert prove(cases).holds
    zero = sign_cases(lambda signs: [equal("u", "sign(g)")], ["g"], definitions=lambda signs: {"u": "g/abs(g)" if signs["g"] else "0"})
    assert len(zero) == 3 and prove(zero).holds


def test_signs_of_products_and_declared_names() -> None:
    cases = sign_cases([equal("abs(g*h)", "abs(g)*abs(h)"), equal("sign(g*h*p)", "sign(g)*sign(h)")], ["g", "h"], positive="p")
    assert len(cases) == 9
    assert prove(cases).holds
    assert not prove(sign_cases([equal("abs(g*h)", "abs(g)*h")], "g, h")).holds
    with pytest.raises(ValueError, match=r"the sign of .* is unknown in this case"):
        sign_cases([equal("abs(g + h)", "abs(g) + abs(h)")], ["g", "h"])
    with pytest.raises(ValueError, match="'m' is not declared"):
        sign_cases([equal("abs(m)", "m")], ["g"])
    with pytest.raises(ValueError, match="'g' is declared besides being signed"):
        sign_cases([equal("g", "g")], ["g"], real="g")
    with pytest.raises(ValueError, match="'abs_g' is declared besides"):
        sign_cases([equal("g", "g")], ["g"], real="abs_g")


def test_root_of_a_signed_square_becomes_rational() -> None:
    proof = prove(sign_cases([equal("S", "abs(g)")], ["g"], squares={"S": "g**2"}))
    assert proof.holds
    assert [case["definitions"]["S"] for case in proof.certificate["cases"]] == ["abs_g", "0", "abs_g"]
    assert not prove(sign_cases([equal("S", "g")], ["g"], squares={"S": "g**2"})).holds
