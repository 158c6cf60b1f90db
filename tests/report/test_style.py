import itertools

import matplotlib
import pytest

from deva_theory.report import figure_style, method_label, method_style
from deva_theory.report.style import _METHODS


def test_style_is_a_pure_function_that_matplotlib_accepts():
    before = dict(matplotlib.rcParams)
    style = figure_style(width=3.0)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context(style):
        assert matplotlib.rcParams["pdf.fonttype"] == 42
        assert not matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["figure.figsize"][0] == 3.0


def test_methods_can_be_told_apart_without_colour():
    for first, second in itertools.combinations(map(method_style, _METHODS), 2):
        assert first["marker"] != second["marker"]
        assert (first["color"], first["linestyle"]) != (second["color"], second["linestyle"])
        assert first["label"] != second["label"]


def test_names_are_forgiving_and_unknown_ones_get_a_suggestion():
    assert method_style("DeVA-Linf") == method_style("deva_linf")
    assert method_label("soap") == "SOAP"
    with pytest.raises(ValueError, match="did you mean 'adamuon'"):
        method_style("adamuonn")
    with pytest.raises(ValueError, match="known are gd, "):
        method_style("zzz")
