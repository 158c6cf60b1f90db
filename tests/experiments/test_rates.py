"""The rates experiment: reduced tables, what is proved about adaptation, agreement that can fail, and a figure of the committed tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deva_theory.report.tables import read_csv
from deva_theory.runtime import Cache, Progress
from experiments import _rates_adaptation as adaptation
from experiments.rates import TOLERANCES, Config, cells, changes, compute, summary
from figures.rates import TABLES, draw

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"
REDUCED = replace(
    Config(), families=("diagonal", "e1-homogeneous"), steps=(4, 8, 16, 32, 64), matrix_steps=(2, 4, 6, 8, 12), seeds=3,
    more_noise=("diagonal",), search_instances=10, search_steps=(2, 8), contrasts=(4.0, 32.0), exponents=(-1.0, 0.0, 1.0),
    adaptation_steps=1024, adaptation_scales=41,
)  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    return compute(REDUCED, cache=Cache("unused", enabled=False), progress=Progress("silent"))


def test_no_violation_and_controls(tables):
    pairs = tables["rates_pairs"]
    assert pairs["violated"].sum() == 0 and pairs["averages_violated"].sum() == 0
    statements = np.asarray(pairs["statement"])
    for statement in ("R1", "R2", "R3", "R5"):
        assert pairs["control_violated"][statements == statement].sum() > 0, statement
    assert (pairs["closest"] >= 1 - 1e-9).all()
    assert (tables["rates"]["ratio"] >= 1 - 1e-9).all()
    assert "all" in summary(tables)


def test_every_covered_combination_runs():
    listed = set(cells(Config()))
    assert len(listed) == len(list(cells(Config())))
    for statement in ("R1", "R2", "R5"):
        assert {cell.family for cell in listed if cell.statement == statement} == set(Config().families)
    assert {cell.rule for cell in listed if cell.statement == "R3"} == {"muon", "deva-spectral"}
    assert {cell.oracle for cell in listed} == {"none", "gaussian", "spikes", "student", "rows"}


def test_adaptation_lies_between_its_proved_bounds(tables):
    table = {key: np.asarray(column) for key, column in tables["rates_adaptation"].items()}
    fixed = {key: column[table["method"] == "power"] for key, column in table.items()}
    assert (fixed["ratio"] >= fixed["proved_low"]).all() and (fixed["ratio"] <= fixed["proved_high"] * 1.05).all()
    largest = fixed["contrast"] == 32
    assert fixed["proved_high"][largest & (fixed["exponent"] == 1)] < 1 < fixed["proved_low"][largest & (fixed["exponent"] == -1)]
    side = np.sign(np.round(np.log(fixed["rho"]), 9))
    assert (side == np.sign(np.round(np.log(fixed["ratio"]), 9))).all() and set(side) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("steps", [32, 500])
def test_the_lower_bound_holds_for_every_step_size(steps):
    L, r, gamma = adaptation.family((7.3,), (-0.8, 0.0, 1.3))
    low = adaptation.lower_bound(L, r, gamma, steps)
    for eta in np.geomspace(1e-4, 30, 60):
        # Irrational, so that no coordinate lands on its minimum.
        h = eta * 2**0.5 * gamma
        x, total = r.clone(), torch.zeros(low.shape, dtype=torch.float64)
        for _ in range(steps):
            total += (L * x.abs()).sum(-1) / steps
            x = x - h * torch.sign(x)
        assert (total >= low * (1 - 1e-12)).all()


def test_adagrad_has_its_faster_rate():
    L, r, steps = torch.tensor([5.0, 0.7, 1.0]), torch.tensor([1.0, 2.0, 1.4]), 400
    eta, x, S, total = 1.0, r.clone(), torch.zeros(3), 0.0
    for _ in range(steps):
        g = L * x
        total += float(g.abs().sum()) / steps
        S += g**2
        x = x - eta * g / S.sqrt()
    assert total <= float((L * r**3).sum()) / (eta**2 * steps)


@pytest.mark.parametrize("stem", sorted(TOLERANCES))
def test_committed_tables_agree_with_themselves_and_not_with_broken_ones(stem):
    table = read_csv(DATA / f"{stem}.csv")
    assert changes(stem, table, table) == []
    for name, column in table.items():
        if column.dtype.kind == "f" and name in TOLERANCES[stem] and name != "first":
            assert changes(stem, table | {name: column * 3 + 1}, table), name
    if "family" in table:
        without = {key: column[table["family"] != "logistic"] for key, column in table.items()}
        assert changes(stem, without, table) == [] and changes(stem, table, without)


def test_committed_pairs_are_many_and_none_is_violated():
    pairs = read_csv(DATA / "rates_pairs.csv")
    assert pairs["pairs"].sum() >= 100_000 and pairs["violated"].sum() == 0 and pairs["averages_violated"].sum() == 0
    assert pairs["control_violated"].sum() > 0


def test_the_committed_text_is_the_summary_and_the_figure_draws(tmp_path):
    committed = {stem: read_csv(DATA / f"{stem}.csv") for stem in TABLES}
    assert summary(committed).strip() == (ROOT / "figures" / "rates.txt").read_text(encoding="utf-8").strip()
    (path,) = draw(DATA, tmp_path, ["png"])
    assert path.read_bytes().startswith(b"\x89PNG")
