"""The names of `deva_theory.rates`: complete, and no dearer than what is asked for."""

import subprocess
import sys

import pytest

from deva_theory import rates


def test_all_names_load_and_are_listed():
    assert set(rates.__all__) <= set(dir(rates))
    assert all(getattr(rates, name) is getattr(rates, name) for name in rates.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        rates.nothing  # noqa: B018


def test_bounds_need_neither_runs_nor_statistics():
    code = "import sys, deva_theory.rates\nprint(sorted({'scipy.stats', 'deva_theory.rates.runner'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
