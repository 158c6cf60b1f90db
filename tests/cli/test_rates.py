"""``deva-theory rates``: tables, files, and one line for what cannot be."""

import csv
import json
from pathlib import Path

import pytest

from deva_theory.cli import main, rates_options
from deva_theory.rates import catalogue
from deva_theory.report.style import method_style

GRID = ["--steps", "4,8,16,32,64", "--seeds", "3"]


def rates(*arguments):
    try:
        return main(["rates", "--threads", "1", "--quiet", *arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(autouse=True)
def outside_any_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_tables_and_files(capsys):
    assert rates("rotated", "--rule", "deva-linf,signsgd", *GRID, "--json", "r.json", "--csv", "r.csv", "--figure", "r.png") == 0
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


def test_matrices(capsys):
    size = ["--steps", "2,4", "--seeds", "1", "--instances", "1"]
    assert rates("e1-heterogeneous", "--rule", "muon,deva-spectral", *size, "--json", "r.json", "--figure", "r.pdf") == 0
    assert "‖∇f‖_*" in capsys.readouterr().out
    rows = json.loads(Path("r.json").read_text())["rows"]
    assert [row["slope"] for row in rows] == [None, None] and rows[1]["curves"]["a_priori"] == [None, None]


def test_every_family_and_oracle(capsys):
    for family in rates_options.FAMILIES:
        assert rates(family, "--rule", "adagrad", "--statement", "R2", "--steps", "3", "--seeds", "2") == 0
    for oracle in ("spikes", "student"):
        assert rates("wells", "--oracle", oracle, "--statement", "R2", "--steps", "3,5", "--seeds", "2", "--scale", "0.5") == 0
    assert "R2" in capsys.readouterr().out


def test_names_are_those_of_the_catalogue():
    assert set(rates_options.FAMILIES) == set(catalogue.FAMILIES) and set(rates_options.RULES) == set(catalogue.METHODS)
    assert rates_options.ORACLES == catalogue.ORACLES
    assert all(method_style(name) for name in rates_options.RULES)


ERRORS = {
    "family": (["nowhere"], "invalid choice: 'nowhere'"),
    "rule": (["wells", "--rule", "lion"], "unknown rule 'lion'"),
    "matrix rule": (["wells", "--rule", "muon"], "muon is a rule for matrices"),
    "statement": (["wells", "--statement", "R3"], "names none that covers signsgd"),
    "unknown statement": (["wells", "--statement", "R4"], "unknown statement 'R4'"),
    "oracle": (["wells", "--oracle", "rows"], "samples the terms of a finite sum"),
    "step size": (["wells", "--scale", "-1"], "assumes a finite step size"),
    "domain": (["factorisation", "--scale", "300"], "left the ball of radius 6"),
    "steps": (["wells", "--steps", "4,3"], "no increasing whole numbers"),
    "seeds": (["wells", "--seeds", "0"], "no positive whole number"),
    "seed": (["wells", "--seed", "-1"], "no whole number from 0"),
    "figure": (["wells", "--figure", "r.gif"], "end the name in one of .pdf"),
    "folder": (["wells", "--steps", "3", "--csv", "nowhere/r/x.json/../../r.csv", "--json", "no/r.json"], "No such file"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert rates(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deva-theory: ") and message in line
