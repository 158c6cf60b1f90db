"""E1: the batched program equals single runs, agreement is statistical but can fail, the README is not stale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.batching import one_by_one
from deva_theory.report.includes import refresh_includes
from deva_theory.report.tables import read_csv
from experiments._trace_quadratic_runs import METHODS, Config, Instances, losses, schedule, trajectory
from experiments._trace_quadratic_summary import _verdict, diverged_is_infinite, win_fraction
from experiments.trace_quadratic import changes, summary

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"
STEMS = sorted(p.stem for p in DATA.glob("trace_quadratic*.csv"))


@pytest.mark.parametrize("method", METHODS)
def test_batched_equals_one_by_one(method):
    # Many rows: gradients of full rank, so that no basis vector is left to rounding.
    config = Config(steps=6, decay_from=3, seeds=2, refresh_every=4, rows=60)
    drawn = Instances.draw(config, 2)
    # In double precision: in single precision the entries of a projected gradient along flat directions are rounding, and so are the signs
    # of the first steps along them, which depend on how a processor adds up.
    instances = replace(drawn, H=drawn.H.double(), A=drawn.A.double(), X0=drawn.X0.double())
    lr = config.gd_lr if method == "gd" else config.lr
    *_, (_, ends, _) = trajectory(method, instances, lr, config, squared=False, matched=False)
    for mine, other in zip(ends, one_by_one(method, instances, config), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-2)  # bfloat16 msign


def test_schedule_and_common_instances():
    factors = schedule(Config())
    assert factors[199] == 1.0 and factors[-1] == pytest.approx(0.005) and factors[200] < 1.0
    few, many = Instances.draw(Config(), 2), Instances.draw(Config(), 5)
    assert torch.equal(few.X0[1], many.X0[1]) and torch.equal(few.H[2], many.H[5])


@pytest.mark.parametrize("stem", STEMS)
def test_committed_tables_agree_with_themselves_and_not_with_broken_ones(stem):
    table = read_csv(DATA / f"{stem}.csv")
    assert changes(stem, table, table) == []
    keys = ("step", "seed", "lr", "i", "j")
    for name, column in table.items():
        if column.dtype.kind == "f" and name not in keys and name != "value":
            assert changes(stem, table | {name: column * 1e3}, table), name
    assert changes(stem, {k: v[1:] for k, v in table.items()}, table)


def test_summary_is_made_of_the_tables():
    tables = {stem: read_csv(DATA / f"{stem}.csv") for stem in STEMS}
    assert summary(tables).strip() == (ROOT / "figures" / "trace_quadratic.txt").read_text(encoding="utf-8").strip()
    fraction, low, high = win_fraction(np.arange(10.0), np.arange(10.0) + 1)
    assert fraction == 1.0 and 0.5 < low < 1.0 and high <= 1.0 + 1e-12


@pytest.mark.parametrize("folder", [ROOT, ROOT / "paper_checks"], ids=["top", "paper_checks"])
def test_readme_blocks_are_fresh(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert refresh_includes(text, ROOT, folder) == text
    for start in ("```text\n", "|---|---|---|---|\n"):
        stale = text.replace(start, start + "stale\n", 1)
        assert refresh_includes(stale, ROOT, folder) == text


def test_perturbed_config_is_another_distribution_of_the_same_law():
    config = replace(Config(), perturbation=1e-7)
    assert not torch.equal(Instances.draw(config, 1).X0, Instances.draw(Config(), 1).X0)


def test_a_diverged_run_never_wins():
    best, _ = _verdict({"gd": np.r_[np.full(39, np.inf), 1.0], "adam": np.ones(40)})
    assert best == "adam"
    assert diverged_is_infinite(np.array([np.nan, 1.0])).tolist() == [np.inf, 1.0]


@pytest.mark.parametrize("method", METHODS)
def test_matched_steps_have_one_length(method):
    config = Config(steps=40, decay_from=20, seeds=2)
    found = losses(method, Instances.draw(config, 2), 0.1, config, squared=False, matched=True)["step_length"]
    # Sign and polar factor of an exactly dead gradient may be zero, and the first call of lagged rules does not step.
    np.testing.assert_allclose(found, 9.0, rtol=0.05)
