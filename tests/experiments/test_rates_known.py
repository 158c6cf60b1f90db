"""The table of known rates: reduced, committed, drawn, and agreement that can fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deva_theory.rates.known import KNOWN_RATES
from deva_theory.report.tables import read_csv
from deva_theory.runtime import Cache, Progress
from experiments.rates_known import TOLERANCES, Config, changes, compute, summary
from figures.rates_known import TABLES, draw

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"


@pytest.fixture(scope="module")
def table():
    reduced = replace(Config(), families=("diagonal", "factorisation"), gradients=(4, 16), seeds=3)
    return compute(reduced, cache=Cache("unused", enabled=False), progress=Progress("silent"))["rates_known"]


@pytest.fixture(scope="module")
def committed():
    return read_csv(DATA / "rates_known.csv")


def test_every_known_rate_takes_part_and_no_bound_is_exceeded(table, committed):
    for found in (table, committed):
        assert set(found["known"]) == {row.name for row in KNOWN_RATES}
        assert found["exceeded"].sum() == 0 and set(found["left_out"]) == {""}
        exact = found["oracle"] == "none"
        assert (found["observed"][exact] <= found["bound"][exact] * (1 + 1e-5)).all()  # six digits in the file
        assert (found["batch"][exact] == 1).all() and (found["T"] * found["batch"] == found["gradients"]).all()


def test_the_text_names_all_rates(table):
    text = summary({"rates_known": table})
    assert all(row.name in text for row in KNOWN_RATES) and "0 averages beyond their bound" in text
    broken = table | {"left_out": np.where(table["known"] == "SGD", "an assumption fails", "")}
    assert "SGD, diagonal: an assumption fails" in summary({"rates_known": broken})


def test_agreement_can_fail(committed):
    assert changes("rates_known", committed, committed) == []
    for name in TOLERANCES["rates_known"]:
        if name != "alignment":
            assert changes("rates_known", committed | {name: committed[name] * 3 + 1}, committed), name
    assert changes("rates_known", committed | {"exceeded": committed["exceeded"] + 1}, committed)
    without = {key: column[committed["family"] != "logistic"] for key, column in committed.items()}
    assert changes("rates_known", without, committed) == [] and changes("rates_known", committed, without)


def test_the_committed_text_is_the_summary_and_the_figure_draws(committed, tmp_path):
    assert TABLES == ("rates_known",)
    assert summary({"rates_known": committed}).strip() == (ROOT / "figures" / "rates_known.txt").read_text(encoding="utf-8").strip()
    (path,) = draw(DATA, tmp_path, ["png"])
    assert path.read_bytes().startswith(b"\x89PNG")
