"""``deva-theory rates``: tables, files, the user's own problems and rules, and one line for what cannot be."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deva_theory.cli import main, outputs, rates, rates_known, rates_options, rates_subject
from deva_theory.problems.families import RotatedQuadratic
from deva_theory.rates import Measurement, catalogue, comparison
from deva_theory.report.style import method_style

ROOT = Path(__file__).resolve().parents[2]
GRID = ["--steps", "4,8,16,32,64", "--seeds", "3"]
SMALL = ["--steps", "2,4", "--seeds", "2"]

OWN = '''
import torch
from dataclasses import replace
from deva_theory.problems.families import DiagonalQuadratic
from deva_theory.rates.catalogue import trace
from deva_theory.rates.coverage import FixedFactors
from deva_theory.rules import deva_linf, muon, sign_sgd

def quadratic(instances, seed):
    return DiagonalQuadratic(1.0 + torch.arange(3.0 * instances, dtype=torch.float64).reshape(instances, 3) + seed)

class Edited(DiagonalQuadratic):
    """With other constants than its own."""
    edit = {}
    @property
    def constants(self):
        return replace(super().constants, **self.edit)

def edited(**edit):
    return type("Edited", (Edited,), {"edit": edit})(torch.ones(1, 3, dtype=torch.float64))

problem = quadratic(1, 0)
single = DiagonalQuadratic(torch.ones(3, dtype=torch.float64))
below = edited(coordinate=torch.full((1, 3), 1e-6, dtype=torch.float64))
rough = edited(box=torch.tensor([0.1], dtype=torch.float64))
half = edited(box=torch.tensor([3.0]))

class WrongGradient(DiagonalQuadratic):
    def _gradient(self, x):
        return 2 * super()._gradient(x)

class Failing(DiagonalQuadratic):
    calls = 0
    def _gradient(self, x):
        type(self).calls += 1
        if type(self).calls > 3:
            raise KeyError("late")
        return super()._gradient(x)

wrong_gradient = WrongGradient(problem.curvature)
failing = Failing(problem.curvature)
unfitting = type("Unfitting", (DiagonalQuadratic,), {"_value": lambda self, x: x})(problem.curvature)

def stiff(instances, seed):
    problem = trace(instances, seed)
    vars(problem)["constants"] = replace(problem.constants, spectral=0.01 * problem.constants.spectral)
    return problem

def broken(instances, seed):
    raise RuntimeError("no such\\nthing")

def three(*ignored):
    return 3

def nesterov_free(event_ndim):
    return deva_linf(betas=(0.0, 0.9), event_ndim=event_ndim)

def with_momentum(event_ndim):
    return sign_sgd(beta1=0.9, event_ndim=event_ndim)

def polar(event_ndim):
    return muon(beta1=0.0, nesterov=False, polar="svd", shape="none")

number = 3

class Typed(DiagonalQuadratic):
    """With a start of another type."""
    dtype = torch.int64
    def start(self, generator, shape=()):
        return super().start(generator, shape).to(self.dtype)

integers = Typed(problem.curvature)
halves = type("Halves", (Typed,), {"dtype": torch.bfloat16})(problem.curvature)
flat = type("Flat", (DiagonalQuadratic,), {"event_shape": 3})(problem.curvature)
listed = type("Listed", (DiagonalQuadratic,), {"batch_shape": [1]})(problem.curvature)

class Tracked(DiagonalQuadratic):
    def _value(self, x):
        return super()._value(x) * torch.ones((), dtype=x.dtype, requires_grad=True)

tracked = Tracked(problem.curvature)

def leaves(*ignored):
    raise SystemExit(0)

def too_short(event_ndim):
    return FixedFactors(torch.ones(2, dtype=torch.float64))

class Signs:
    """What a rule must have at least."""
    name, answer, after = "signs", staticmethod(torch.sign), None
    calls = 0
    def init(self, params):
        return {}
    def update(self, grad, state, *, diagnostics=False, check_finite=True):
        type(self).calls += 1
        late = self.after is not None and self.calls > self.after
        return self.answer(grad) * (float("nan") if late else 1.0), state, None

def least(event_ndim):
    return Signs()

def of(**edit):
    return lambda event_ndim: type("Edited", (Signs,), edit)()

without_keywords = of(update=lambda self, grad, state: (torch.sign(grad), state, None))
not_finite = of(answer=staticmethod(lambda grad: grad * float("nan")))
not_finite_later = of(after=2)
cut = of(answer=staticmethod(lambda grad: grad[..., :1]))
alone = of(update=lambda self, grad, state, diagnostics, check_finite: torch.sign(grad))
'''


def run(*arguments):
    try:
        return main(["rates", "--threads", "1", "--quiet", *arguments])
    except SystemExit as stop:
        return stop.code


def one_line(text):
    (line,) = text.splitlines()
    assert line.startswith("deva-theory: ")
    return line


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # outside any clone
    Path("own_rates.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_rates", raising=False)
    return tmp_path


def test_tables_and_files(capsys):
    assert run("rotated", "--rule", "deva-linf,signsgd", *GRID, "--json", "r.json", "--csv", "r.csv", "--figure", "r.png") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines()[-3:] == ["r.json", "r.csv", "r.png"]
    assert out.count("\nslope -") == 6 and out.count("single runs: 0 of 30 exceed") == 6
    record = json.loads(Path("r.json").read_text())
    expected = [(statement, rule) for statement in ("R1", "R2", "R5") for rule in ("deva-linf", "signsgd")]
    assert [(row["statement"], row["rule"]) for row in record["rows"]] == expected
    for row in record["rows"]:
        assert row["slope"]["low"] < row["slope"]["slope"] < row["slope"]["high"]
        assert all(b >= x for b, x in zip(row["curves"]["bound"], row["curves"]["observed"], strict=True))
    with open("r.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30 and lines[0]["T"] == "4"
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path().glob(".deva-theory-*"))


def test_the_json_file_has_everything(capsys):
    assert run("wells", "--statement", "R1,R2", *GRID, "--scale", "0.5", "--sigma", "0.25", "--seed", "3", "--json", "r.json") == 0
    record = json.loads(Path("r.json").read_text())
    assert record["horizons"] == [4, 8, 16, 32, 64] and (record["scale"], record["sigma"], record["seed"]) == (0.5, 0.25, 3)
    assert np.shape(record["constants"]["coordinate"]) == (2, 6) and record["constants"]["spectral"] is None
    assert record["provenance"]["packages"]["torch"] == torch.__version__.partition("+")[0] or record["provenance"]["packages"]["torch"]
    for row in record["rows"]:
        left, plain = (np.array(row["per_seed"][name]) for name in ("left", "plain"))
        assert left.shape == plain.shape == (3, 5)
        assert np.allclose(left.mean(0), row["curves"]["observed"]) and np.allclose(plain.mean(0), row["curves"]["plain"])
        assert row["expected"] == "measured" and {"pathwise", "measured", "a_priori"} == set(row["bounds"])
        for bound in row["bounds"].values():
            assert bound["statement"] and bound["assumptions"]
            assert np.allclose(sum(np.array(x) for x in bound["terms"].values()), bound["per_seed"])
        assert np.allclose(np.array(row["bounds"]["measured"]["per_seed"]).mean(0), row["curves"]["bound"])
        if row["statement"] == "R2":
            assert np.allclose(np.array(row["eta"]).reshape(5, -1), 0.5 * np.array([4, 8, 16, 32, 64])[:, None] ** -0.5)


def test_matrices(capsys):
    size = ["--steps", "2,4", "--seeds", "1", "--instances", "1"]
    assert run("e1-heterogeneous", "--rule", "muon,deva-spectral", *size, "--json", "r.json", "--figure", "r.pdf") == 0
    assert "‖∇f‖_*" in capsys.readouterr().out
    rows = json.loads(Path("r.json").read_text())["rows"]
    assert [row["slope"] for row in rows] == [None, None] and rows[1]["curves"]["a_priori"] == [None, None]
    assert run("e1-heterogeneous", "--rule", "muon", *size, "--oracle", "none") == 0
    out, err = capsys.readouterr()
    assert "noise:" not in out and err == ""


def test_every_family_and_oracle(capsys):
    for family in rates_options.FAMILIES:
        assert run(family, "--rule", "adagrad", "--statement", "R2", "--steps", "3", "--seeds", "2") == 0
    for oracle in ("spikes", "student"):
        assert run("wells", "--oracle", oracle, "--statement", "R2", "--steps", "3,5", "--seeds", "2", "--scale", "0.5") == 0
    assert "R2" in capsys.readouterr().out


def test_names_are_those_of_the_catalogue():
    assert set(rates_options.FAMILIES) == set(catalogue.FAMILIES) and set(rates_options.RULES) == set(catalogue.METHODS)
    assert rates_options.ORACLES == ("none", *catalogue.ORACLES)
    assert set(rates_options.MATRIX_RULES) == {name for name, method in catalogue.METHODS.items() if method.matrices}
    assert all(method_style(name) for name in rates_options.RULES)


def test_sigma_is_of_additive_noise_alone(capsys):
    for arguments, sigma in (
        (["logistic", "--statement", "R2"], None), (["wells", "--oracle", "none"], None), (["wells", "--statement", "R2"], 1.0),
        (["wells", "--known", "--gradients", "4", "--oracle", "none"], None), (["wells", "--known", "--gradients", "4"], 1.0),
    ):  # fmt: skip
        size = ["--seeds", "2"] if "--known" in arguments else SMALL
        assert run(*arguments, *size, "--json", "r.json") == 0
        record = json.loads(Path("r.json").read_text())
        assert record["sigma"] == sigma
        assert {"radius", "convex", "optimum_exact", "box_exact"} <= set(record["constants"])
    assert record["constants"]["convex"] is False and record["constants"]["radius"] is None


def test_the_tables_have_every_digit(capsys):
    assert run("wells", "--statement", "R1", *SMALL, "--json", "r.json", "--csv", "r.csv") == 0
    with open("r.csv") as file:
        found = [float(line["observed"]) for line in csv.DictReader(file)]
    rows = json.loads(Path("r.json").read_text())["rows"]
    assert found == [x for row in rows for x in row["curves"]["observed"]]


def test_pictures_name_left_sides_and_keep_the_legend_outside(capsys, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (seen.append(self), Path(path).touch()))
    rules = "signsgd,adagrad,muon,deva-spectral,own_rates:nesterov_free"
    assert run("factorisation", "--rule", rules, "--statement", "R1,R2,R3", *SMALL, "--figure", "r.png") == 0
    (figure,) = seen
    left = [axes.get_ylabel() for axes in figure.axes]
    assert left[0] == r"avg $\|\nabla f\|_{1,\Gamma}$" and left[1] == r"avg E$\|\nabla f\|_{1,\Gamma}$"
    assert left[2] == r"avg E$\|\nabla f\|_*$ or avg E$\langle\hat G, D\rangle$"
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["nesterov_free", "its bound"]
    assert len(figure.legends[0].get_texts()) == 6


def test_sigma_scales_the_noise(capsys):
    found = {}
    for sigma in ("1", "0.5", "0"):
        noise = ["--statement", "R2", "--oracle", "spikes", "--sigma", sigma]
        assert run("diagonal", "--rule", "signsgd", *noise, *SMALL, "--json", "r.json") == 0
        (row,) = json.loads(Path("r.json").read_text())["rows"]
        found[sigma] = np.array(row["bounds"]["a_priori"]["terms"]["noise"])
    assert np.allclose(found["0.5"], 0.5 * found["1"]) and (found["0"] == 0).all()


NOTES = {
    "oracle of R1": (["wells", "--statement", "R1", "--oracle", "student"], "R1 has exact gradients: --oracle student changes nothing"),
    "sigma of R1": (["wells", "--statement", "R1", "--sigma", "2"], "R1 has exact gradients: --sigma 2.0 changes nothing"),
    "no noise": (["wells", "--oracle", "none"], "R2 and R5 are about noise, and --oracle none leaves them out"),
    "statement": (["wells", "--statement", "R1,R3"], "no rule here falls under R3: left out"),
    "data": (["logistic", "--statement", "R1", "--seed", "3"], "the data of logistic are what they are"),
    "instances": (["own_rates:problem", "--statement", "R1", "--instances", "3", "--seed", "1"], "whatever --instances and --seed say"),
}


@pytest.mark.parametrize(("arguments", "message"), NOTES.values(), ids=NOTES)
def test_what_changes_nothing_is_said(arguments, message, capsys):
    assert run(*arguments, *SMALL) == 0
    line = one_line(capsys.readouterr().err)
    assert line.startswith("deva-theory: note: ") and message in line


def test_own_problems_and_rules(capsys):
    assert run("own_rates:quadratic", "--rule", "signsgd,own_rates:nesterov_free", "--instances", "3", "--seed", "1", *SMALL,
               "--json", "r.json", "--figure", "r.svg") == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert err == "" and "3 instances, 2 seeds" in out and out.count("own_rates:nesterov_free") == 3
    record = json.loads(Path("r.json").read_text())
    assert record["constants"]["coordinate"][0] == [2.0, 3.0, 4.0]
    picture = Path("r.svg").read_text()
    assert picture.count(">nesterov_free<") == picture.count(">its bound<") == 1
    assert run("own_rates:single", "--known", "--gradients", "4", "--seeds", "2") == 0
    assert run("own_rates:single", *SMALL) == 0
    assert run("factorisation", "--rule", "own_rates:least", *SMALL) == 0
    assert run("e1-homogeneous", "--rule", "own_rates:polar", *SMALL, "--statement", "R3") == 0
    assert run("factorisation", "--rule", "own_rates:with_momentum", "--steps", "2", "--seeds", "1") == 0
    out = capsys.readouterr().out
    assert out.count("R3") == 3 and "2 instances, 1 seed;" in out and "1 seeds" not in out


@pytest.mark.parametrize(("statement", "runs", "averages", "words"), [
    ("R1", 3, 3, "3 single runs"), ("R2", 0, 1, "1 average"), ("R2", 1, 3, "1 single run and 2 averages"),
])  # fmt: skip
def test_an_exceeded_bound_is_told_last_and_by_the_exit_code(statement, runs, averages, words, capsys, monkeypatch):
    monkeypatch.setattr(Measurement, "exceeded", lambda self: averages if self.rule.startswith("deva") else 0)
    closest = Measurement.closest
    monkeypatch.setattr(Measurement, "closest", lambda self: (9, runs, 0.5) if self.rule.startswith("deva") else closest(self))
    command = ["wells", "--rule", "signsgd,deva-linf", "--statement", statement, *SMALL]
    assert run(*command, "--csv", "r.csv", "--json", "r.json") == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"VIOLATED: bounds exceeded beyond doubt ({statement} deva-linf: {words})" and out[-2] == "r.csv"
    row = json.loads(Path("r.json").read_text())["rows"][1]
    assert (row["single_runs"]["violated"], row["averages"]["violated"]) == (runs, averages - runs)


def test_an_exceeded_bound_is_told(capsys, monkeypatch):
    monkeypatch.setattr(Measurement, "closest", lambda self, name="pathwise", weights=None: (16, 2, 0.9))
    monkeypatch.setattr(Measurement, "exceeded", lambda self: 5)
    assert run("e1-homogeneous", "--rule", "muon", "--statement", "R3", *GRID, "--seeds", "2") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "VIOLATED: bounds exceeded beyond doubt (R3 muon: 2 single runs and 3 averages)"


def test_an_exceeded_bound_of_a_known_rate_is_told_too(capsys, monkeypatch):
    def compare(*arguments, **options):
        rows = comparison.compare_known(*arguments, **options)
        rows[0] = comparison.KnownRow("signsgd", "Γ ⊙ sign, exact", 4, 4, 1, "l1", left_out="bounded domain: it left the ball\nof …")
        return [replace(row, exceeded=2 * (row.method == "muon")) for row in rows]

    monkeypatch.setattr(rates_known, "compare_known", compare)
    assert run("e1-homogeneous", "--known", "--gradients", "4", "--seeds", "1", "--oracle", "none") == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "VIOLATED: bounds exceeded beyond doubt (muon, Muon without momentum, N = 4: 2 instances)"
    assert "left out: signsgd, Γ ⊙ sign, exact: bounded domain: it left the ball" in out


def test_known_rates(capsys):
    assert run("rotated", "--known", "--gradients", "4,16", "--seeds", "2", "--json", "k.json", "--csv", "k.csv") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines()[-2:] == ["k.json", "k.csv"]
    assert "exact gradients\nmethod" in out and "gaussian noise\nmethod" in out and "muon" not in out
    header = next(line for line in out.splitlines() if line.startswith("method"))
    sides = "left side|bound|observed|ratio|l1 bound|l1 observed|l2 bound|l2 observed"
    assert re.split(r"  +", header) == ["method", "known rate", "T", "batch", *sides.split("|")]
    record = json.loads(Path("k.json").read_text())
    assert record["gradients"] == [4, 16] and record["provenance"]
    with open("k.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(record["rows"]) and {line["oracle"] for line in lines} == {"none", "gaussian"}
    for row in record["rows"]:
        assert row["T"] * row["batch"] == row["gradients"] and row["observed"] <= row["bound"]


def test_known_rates_of_matrices_with_one_kind_of_gradients(capsys):
    assert run("factorisation", "--known", "--gradients", "3", "--seeds", "1", "--oracle", "none") == 0
    out = capsys.readouterr().out
    assert "muon" in out and "noise" not in out and "left out" not in out
    assert run("wells", "--known", "--gradients", "4", "--seeds", "2", "--oracle", "student", "--sigma", "2") == 0
    assert "exact gradients" not in capsys.readouterr().out


ERRORS = {
    "family": (["nowhere"], "unknown problem 'nowhere', use one of diagonal"),
    "typing error": (["welsl"], "did you mean wells?"),
    "rule": (["wells", "--rule", "lion"], "unknown rule 'lion'"),
    "rule nearly": (["wells", "--rule", "deva_linf"], "did you mean deva-linf?"),
    "matrix rule": (["wells", "--rule", "muon"], "muon is a rule for matrices"),
    "statement": (["wells", "--statement", "R3"], "names none that covers signsgd"),
    "unknown statement": (["wells", "--statement", "R4"], "unknown statement 'R4'"),
    "oracle": (["wells", "--oracle", "rows"], "samples the terms of a finite sum"),
    "no oracle": (["wells", "--oracle", "none", "--statement", "R2"], "R2 assumes a stochastic gradient"),
    "sigma": (["wells", "--sigma", "-1"], "is no standard deviation"),
    "sigma of rows": (["logistic", "--sigma", "2"], "rows of logistic have their own: add --oracle gaussian"),
    "step size": (["wells", "--scale", "-1"], "assumes a finite step size"),
    "domain": (["factorisation", "--scale", "300"], "left the ball of radius 6"),
    "steps": (["wells", "--steps", "4,3"], "horizons are increasing whole numbers"),
    "long": (["wells", "--steps", "1000000000000"], "from 1 to 10^9"),
    "seeds": (["wells", "--seeds", "0"], "no positive whole number"),
    "seed": (["wells", "--seed", "-1"], "no whole number from 0 to 4294967295"),
    "large seed": (["wells", "--seed", "9" * 23], "no whole number from 0 to 4294967295"),
    "threads": (["wells", "--threads", "3000000000"], "threads are too many: use at most"),
    "too many threads": (["wells", "--threads", "100000"], "threads are too many: use at most"),
    "too many instances": (["wells", "--instances", "1000000000000"], "1000000000000 instances × 20 seeds × 8 horizons up to 512 need"),
    "too many seeds": (["wells", "--seeds", "1000000000000"], "GB: use fewer"),
    "too many of both": (["wells", "--known", "--seeds", "1000000000000"], "× 5 numbers of gradients up to 4096 need about"),
    "figure": (["wells", "--figure", "r.gif"], "end the name in .pdf"),
    "folder": (["wells", "--csv", "nowhere/r/x.json/../../r.csv", "--json", "no/r.json"], "its folder does not exist"),
    "a folder": (["wells", "--json", "."], "is a folder: name a file"),
    "no name": (["wells", "--json", ""], "argument --json: the name is empty: name a file"),
    "one file twice": (["wells", "--json", "r.json", "--csv", "./r.json"], "--json and --csv both write r.json: name two files"),
    "gradients": (["wells", "--gradients", "16"], "--gradients goes with --known"),
    "no squares": (["wells", "--known", "--gradients", "8"], "use squares"),
    "known rules": (["wells", "--known", "--rule", "signsgd"], "drop --rule"),
    "known figure": (["wells", "--known", "--figure", "r.png"], "drop --figure"),
    "no module": (["nowhere:problem"], "no module 'nowhere'"),
    "no attribute": (["own_rates:problm"], "did you mean problem?"),
    "half a name": (["own_rates:"], "PROBLEM is 'own_rates:'; write it as PKG.MOD:NAME"),
    "no function": (["own_rates:number"], "gives a int: name a deva_theory.problems.families.Problem, or a function"),
    "another thing": (["own_rates:three"], "gives a int: name a deva_theory.problems.families.Problem, or a function"),
    "raises": (["own_rates:broken"], "own_rates:broken failed: RuntimeError: no such (own_rates.py, line"),
    "signature": (["own_rates:polar"], "it is called with the number of instances and a seed"),
    "raises late": (["own_rates:failing", *SMALL], "your own code failed (own_rates:failing): KeyError: 'late' (own_rates.py, line"),
    "wrong gradient": (["own_rates:wrong_gradient"], "its gradient is not that of f"),
    "wrong shape": (["own_rates:unfitting"], "_value has shape (1, 1, 3)"),
    "dtype": (["own_rates:half"], "constants.box is torch.float32 of shape (1,); use a float64 tensor of shape (1,)"),
    "too smooth": (["own_rates:rough", *SMALL], "its constants, its gradient or its values are wrong"),
    "no rule": (["wells", "--rule", "own_rates:number"], "own_rates:number is a int: name a function"),
    "another rule": (["wells", "--rule", "own_rates:three"], "gives a int: name a function"),
    "class": (["wells", "--rule", "deva_theory.rules:Rule"], "is a class: name a function"),
    "rule raises": (["wells", "--rule", "own_rates:broken"], "own_rates:broken failed: TypeError"),
    "momentum": (["wells", "--rule", "own_rates:with_momentum"], "has β1 = 0.9, use β1 = 0"),
    "own polar": (["wells", "--rule", "own_rates:polar"], "muon is no such rule (for matrices use R3)"),
    "event shape": (["own_rates:flat"], "own_rates:flat: event_shape is 3; use a torch.Size"),
    "batch shape": (["own_rates:listed"], "own_rates:listed: batch_shape is [1]; use a torch.Size"),
    "whole numbers": (["own_rates:integers"], "start(generator, (1,)) is of torch.int64; use a tensor of float32 or float64"),
    "few digits": (["own_rates:halves"], "start(generator, (1,)) is of torch.bfloat16; use a tensor of float32 or float64"),
    "requires grad": (["own_rates:tracked"], "own_rates:tracked: _value requires a gradient: detach()"),
    "exits": (["own_rates:leaves"], "own_rates:leaves failed: SystemExit: 0 (own_rates.py, line"),
    "rule exits": (["wells", "--rule", "own_rates:leaves"], "own_rates:leaves failed: SystemExit: 0 (own_rates.py, line"),
    "factors": (["own_rates:problem", "--rule", "own_rates:too_short"], "random gradient of shape (8, 1, 20, 1, 3) failed: RuntimeError"),
    "keywords": (["factorisation", "--rule", "own_rates:without_keywords"], "own_rates:without_keywords: update(gradient, state, d"),
    "not finite": (["factorisation", "--rule", "own_rates:not_finite"], "gives a direction that is not finite"),
    "not finite later": (["factorisation", "--rule", "own_rates:not_finite_later", *SMALL], "own_rates:not_finite_later cannot be run: "),
    "cut": (["factorisation", "--rule", "own_rates:cut"], "return torch.float64 of the gradient's shape"),
    "alone": (["factorisation", "--rule", "own_rates:alone"], "returns a Tensor; return the direction, the state (a dict)"),
    "spectral constant": (["own_rates:stiff", "--rule", "muon", "--statement", "R3", *GRID], "smoothness: a step of"),
    "known constants": (["own_rates:below", "--known", "--gradients", "16"], "smoothness: a step of diagonal quadratic breaks"),
    "own vector": (["e1-homogeneous", "--rule", "own_rates:polar", "--statement", "R1"], "use R3"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in one_line(err)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …")]
)
def test_memory_that_is_not_there_is_one_line(error, capsys, monkeypatch):
    def measure(*_, **__):
        raise error

    monkeypatch.setattr(rates, "measure", measure)
    assert run("wells", "--seeds", "1000") == 2
    assert "2 instances × 1000 seeds × 8 horizons up to 512 need about" in one_line(capsys.readouterr().err)


def test_errors_of_the_library_stay_visible(monkeypatch):
    def measure(*_, **__):
        return RotatedQuadratic.random(None, 3)

    monkeypatch.setattr(rates, "measure", measure)
    monkeypatch.setattr(rates_subject, "users_frame", lambda error: "")  # this test's own frames are no user's
    with pytest.raises((TypeError, AttributeError)):
        run("wells")


def test_files_that_cannot_be_written_are_told_before_the_work(capsys, monkeypatch):
    Path("r.json").write_text("old")
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path).name != "r.json")
    monkeypatch.setattr(rates, "measure", None)
    assert run("wells", "--json", "r.json") == 2
    assert "no permission to write there" in one_line(capsys.readouterr().err)
    assert Path("r.json").read_text() == "old"


def test_a_loop_of_links_is_no_file(capsys):
    Path("loop").symlink_to("loop")
    assert run("wells", "--json", "loop") == 2
    assert "--json loop: its links lead round in a loop" in one_line(capsys.readouterr().err)
    Path("away").symlink_to("nowhere/r.json")
    assert run("wells", "--json", "away") == 2
    assert "its folder does not exist" in one_line(capsys.readouterr().err)


def test_files_are_written_whole_or_not_at_all():
    target = Path("r.json")
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), outputs.whole(target) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(Path().glob("*r.json*")) == [target]
    Path("link").symlink_to(target)
    with outputs.whole(Path("link")) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new" and Path("link").is_symlink()
    with outputs.whole(Path(os.devnull)) as temporary:
        temporary.write_text("nothing")
    assert not Path(os.devnull).is_file()


# ---- the process itself ----------------------------------------------------------------------------------------------


def shell(command, **environment):
    program = f"{shlex.quote(sys.executable)} -m deva_theory"
    return subprocess.run(
        ["bash", "-c", command.replace("deva-theory", program)], capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}, timeout=120,
    )  # fmt: skip


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_reader_that_stops_is_no_error():
    done = shell("deva-theory rates wells --quiet --steps 2,4 --seeds 2 --json r.json | head -1; exit ${PIPESTATUS[1]}")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.count(b"\n") == 1
    assert json.loads(Path("r.json").read_text())["rows"]
    done = shell("deva-theory rates wells --quiet --steps 2,4 --seeds 2 | (exec <&-; sleep 0); exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141) and done.stderr == b""


def test_a_terminal_without_the_symbols_shows_question_marks():
    done = shell("deva-theory rates wells --quiet --steps 2 --seeds 1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and b"avg ??f?" in done.stdout and done.stderr == b""


def test_help_imports_nothing_heavy_and_names_everything():
    code = """
    import sys
    from deva_theory.cli import main
    try:
        main(["rates", "--help"])
    finally:
        print("heavy:", sorted({"torch", "numpy", "scipy", "matplotlib"} & set(sys.modules)))
    """
    done = python("-c", "if True:" + code)
    assert done.returncode == 0 and "heavy: []" in done.stdout
    words = ["five standard", "worst case", "full precision"]
    words += ["matrices only", "observed", "a priori", "bound", "ratio", "exit codes", "figures rates", "claims R6"]
    words += [*rates_options.FAMILIES, *rates_options.RULES, *rates_options.EXAMPLES]
    assert [word for word in words if word not in done.stdout] == []


@pytest.mark.parametrize("example", rates_options.EXAMPLES)
def test_the_examples_of_the_help_run(example, capsys):
    assert main([*shlex.split(example)[1:], "--quiet"]) == 0
    assert "0 of" in capsys.readouterr().out or "--known" in example


# ---- README ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"\n## Rates against bounds\n(.*?)\n## ", text, re.DOTALL)[1]


def test_the_commands_of_the_readme_run(readme, capsys):
    (command,) = re.findall(r"^    (deva-theory rates .*)$", readme, re.MULTILINE)
    assert main([*shlex.split(command)[1:], *SMALL, "--quiet"]) == 0
    assert all(f"`{name}`" in readme for name in rates_options.FAMILIES)


def test_the_example_of_the_readme_runs(readme, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    Path("own.py").write_text(code)
    done = python("own.py")
    assert done.returncode == 0 and done.stderr == ""
    assert "R2, deva_linf" in done.stdout and "on pseudo-Huber" in done.stdout and "pathwise: 0 of 30 violated" in done.stdout
    done = shell("deva-theory rates own:problem --rule own:rule --quiet --steps 2,4 --seeds 2")
    assert done.returncode == 0 and b"pathwise" not in done.stdout  # importing it runs nothing
