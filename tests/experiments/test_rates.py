"""The rates experiment: reduced tables, what is proved about adaptation, agreement that can fail, and a figure of the committed tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deva_theory.rates.catalogue import METHODS
from deva_theory.rates.coverage import FixedFactors
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
    search_seeds=2, adaptation_steps=1024, adaptation_scales=81, worst_steps=(1, 4), worst_starts=4, worst_rounds=4, term_starts=4,
    term_rounds=4,
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
        if statement not in ("R1", "R5"):
            assert pairs["averages_control_violated"][statements == statement].sum() > 0, statement
    assert (pairs["closest"] >= 1 - 1e-9).all()
    assert (pairs["averages_closest"] >= 1 - 1e-9).all()
    assert (tables["rates"]["ratio"] >= 1 - 1e-9).all()
    worst = {key: np.asarray(column) for key, column in tables["rates_worst"].items()}
    assert (worst["ratio"] - 5 * worst["error"] <= 1 + 1e-9).all() and set(worst["T"]) == {1, 4}
    text = summary(tables)
    assert "0 violate theirs" in text and "random factors, 6 coordinates" in text and "noisy, against" in text


def test_every_covered_combination_runs():
    listed = set(cells(Config()))
    assert len(listed) == len(list(cells(Config())))
    for statement in ("R1", "R2", "R5"):
        assert {cell.family for cell in listed if cell.statement == statement} == set(Config().families)
    assert {cell.rule for cell in listed if cell.statement == "R3"} == {"muon", "deva-spectral"}
    assert {cell.oracle for cell in listed} == {"none", "gaussian", "spikes", "student", "rows"}


def test_adaptation_lies_between_its_proved_bounds(tables):
    table = {key: np.asarray(column) for key, column in tables["rates_adaptation"].items()}
    fixed = {key: column[np.isin(table["method"], ("power", "random"))] for key, column in table.items()}
    # Stratified starts and a grid of η stand for the expectation and the infimum.
    assert (fixed["ratio"] >= fixed["proved_low"] * 0.995).all() and (fixed["ratio"] <= fixed["proved_high"] * 1.005).all()
    assert (fixed["proved_high"] / fixed["proved_low"] < 1.003).all()
    assert np.array_equal(fixed["rho"], fixed["rho_start"])
    power = {key: column[table["method"] == "power"] for key, column in table.items()}
    assert (power["proved_high"][power["exponent"] == 1] < 1).all() and (power["proved_low"][power["exponent"] == -1] > 1).all()
    # Of random factors ρ is sometimes on the wrong side.
    random = {key: column[table["method"] == "random"] for key, column in table.items()}
    assert set(random["dimension"]) == {2, 6} and ((random["rho"] < 1) & (random["proved_low"] > 1)).any()


def test_rules_are_faster_on_the_family_and_slower_elsewhere(tables):
    table = {key: np.asarray(column) for key, column in tables["rates_adaptation"].items()}
    for name in adaptation.RULES:
        rule = {key: column[table["method"] == name] for key, column in table.items()}
        family, best = ~np.isnan(rule["contrast"]), rule["step_size"] == "best"
        assert (rule["ratio"][family & best] < 1).all() and (rule["ratio"][~family] > 1).all() and (~family).any()
        assert not (rule["ratio"] < rule["proved_low"]).any() and not (rule["ratio"] > rule["proved_high"]).any()
    own = table["step_size"] == "R1"
    assert own.any() and (table["proved_low"][own] > 2).all()


CASES = [adaptation.family((7.3, 1e3), (-0.8, 0.0, 1.3)), adaptation.random_instances(4, 1, 0), adaptation.random_instances(4, 5, 1)]


@pytest.mark.parametrize("instances", CASES, ids=["family", "one coordinate", "five coordinates"])
@pytest.mark.parametrize("steps", [2, 3, 32, 501])
def test_bracket_holds_on_runs_for_every_step_size(instances, steps):
    """By brute force over η, with the mean over stratified starts, and against the envelope on a grid."""
    L, r, gamma = instances
    low, high = adaptation.bracket(L, r, gamma, steps)
    starts = adaptation.random_starts(r, 64, 0)
    eta = adaptation.own_step(L, r, gamma, steps) * torch.logspace(-3, 3, 2001, dtype=torch.float64).reshape(-1, *(1,) * (r.ndim - 1))
    average = adaptation.sign_descent_average(L, starts, gamma, eta, steps)
    assert (average >= low * (1 - 2e-3)).all()
    assert (average.amin(0) <= high * (1 + 2e-3)).all()
    q, x = eta.unsqueeze(-1) * gamma * steps, (1 + adaptation.DELTA / 2) * r
    envelope = (L * (torch.where(q >= x, x**2 / (2 * q), x - q / 2) + q / (2 * steps) * (1 - 1 / steps))).sum(-1).amin(0)
    assert torch.allclose(envelope, low, rtol=1e-4) and (envelope >= low * (1 - 1e-12)).all()


@pytest.mark.parametrize("steps", [1, 2, 9, 100])
def test_closed_form_is_what_runs_average(steps):
    L, r, gamma = adaptation.random_instances(3, 4, 2)
    starts = adaptation.random_starts(r, 5, 1)
    eta = adaptation.own_step(L, r, gamma, steps) * torch.logspace(-2, 2, 7, dtype=torch.float64).unsqueeze(-1)
    plain, rho = adaptation.averages(L, starts, FixedFactors(gamma), eta, steps)
    assert torch.allclose(adaptation.sign_descent_average(L, starts, gamma, eta, steps), plain, rtol=1e-10)
    # ρ of x in place of r, averaged over the run.
    x, expected = starts.expand(7, *starts.shape).clone(), torch.zeros(7, 5, 3, dtype=torch.float64)
    for _ in range(steps):
        expected += adaptation.smoothness_ratio(L, x.abs(), gamma) / steps
        x = x - eta[:, None, :, None] * gamma * torch.sign(x)
    assert torch.allclose(rho, expected.mean(1), rtol=1e-10)


def test_a_fixed_start_lands_and_random_ones_do_not_get_below_the_bound():
    steps, Lambda = 512, 4.0
    L, r, ones = (values[0, 0] for values in adaptation.family((Lambda,), (0.0,)))
    low, _ = adaptation.bracket(L, r, ones, steps)
    eta = torch.tensor([1 / Lambda], dtype=torch.float64)
    run = [float(adaptation.averages(L, starts, METHODS["signsgd"].rule(1), eta, steps)[0])
           for starts in (r.unsqueeze(0), adaptation.random_starts(r, 64, 0))]  # fmt: skip
    assert run[0] < 0.1 * low < low < run[1]


def test_starts_are_uniform_and_the_bracket_checks_its_arguments():
    r = torch.tensor([1e-3, 50.0], dtype=torch.float64)
    u = (adaptation.random_starts(r, 1000, 3) / r - 1) / adaptation.DELTA
    assert (u >= 0).all() and (u <= 1 + 1e-9).all()
    expected = torch.arange(1000).unsqueeze(-1).expand(1000, 2)
    assert torch.equal((u.sort(0).values * 1000 + 1e-9).floor().long().clamp(max=999), expected)
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 0.15
    for L, gamma, steps in ((r, r, 1), (r * 0, r, 2), (r, -r, 2)):
        with pytest.raises(ValueError, match="T of at least 2"):
            adaptation.bracket(L, r, gamma, steps)


def test_adagrad_has_its_faster_rate():
    L, r, steps = torch.tensor([5.0, 0.7, 1.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 1.4], dtype=torch.float64), 400
    starts, eta = adaptation.random_starts(r, 8, 0), torch.ones(1, dtype=torch.float64)
    found, _ = adaptation.averages(L, starts, METHODS["adagrad"].rule(1), eta, steps)
    assert float(found) <= adaptation.adagrad_bound(L, r, steps)


@pytest.mark.parametrize("steps", [1, 4, 100, 3000])
def test_adagrad_does_not_converge_at_the_step_size_of_signsgd(steps):
    L, r, ones = (values[:, 0] for values in adaptation.family((4.0, 100.0), (0.0,)))
    eta = adaptation.own_step(L, r, ones, steps).unsqueeze(0)
    found, _ = adaptation.averages(L, r.unsqueeze(0), METHODS["adagrad"].rule(1), eta, steps)
    floor = adaptation.adagrad_floor(L, r)
    assert torch.allclose(floor, torch.tensor([1 / 3, 1 - 4 / 30], dtype=torch.float64)) and (found[0] >= floor).all()


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


def committed(stem):
    return read_csv(DATA / f"{stem}.csv")


def test_intervals_that_grow_over_the_exponent_are_a_change():
    slopes = committed("rates_slopes")
    wide = slopes | {"low": slopes["low"] - 0.09, "high": slopes["high"] + 0.09}
    lines = changes("rates_slopes", wide, slopes)
    assert any(line.startswith("column low:") for line in lines) and any(line.startswith("column high:") for line in lines)
    # Within the tolerance, an interval still must not change its side, but for ends next to the exponent.
    shifted = slopes | {"low": slopes["low"] - 0.045, "high": slopes["high"] + 0.045}
    sides = changes("rates_slopes", shifted, slopes)
    assert sides and all(line.startswith("exponent ") and ": the interval is in [" in line for line in sides)


@pytest.mark.parametrize(("old", "new", "caught"), [
    ((-0.478, -0.46), (-0.523, -0.46), True), ((-0.485, -0.46), (-0.51, -0.46), False), ((-0.54, -0.53), (-0.53, -0.49), False),
    ((-0.54, -0.525), (-0.54, -0.475), True), ((-0.51, -0.49), (-0.485, -0.47), False), ((-0.53, -0.525), (-0.485, -0.475), True),
    ((-0.54, -0.47), (-0.53, -0.46), False), ((-0.51, -0.505), (-0.495, -0.49), False), ((float("nan"),) * 2, (float("nan"),) * 2, False),
])  # fmt: skip
def test_a_side_of_the_exponent_counts_unless_its_end_is_near(old, new, caught):
    table = {"statement": ["R1"], "family": ["wells"], "oracle": ["none"], "rule": ["signsgd"], "exponent": np.array([-0.5]),
             "slope": np.array([-0.5]), "bound_slope": np.array([-0.5]), "plain_slope": np.array([-0.5]), "first": np.array([64.0]),
             "straight": np.array([1])}  # fmt: skip
    tables = [table | {"low": np.array([ends[0]]), "high": np.array([ends[1]])} for ends in (new, old)]
    assert len(changes("rates_slopes", *tables)) == caught
    assert len(changes("rates_slopes", *tables[::-1])) == caught


def test_more_than_a_tenth_of_the_bends_is_a_change():
    slopes = committed("rates_slopes")
    (line,) = changes("rates_slopes", slopes | {"straight": 1 - slopes["straight"]}, slopes)
    assert line.startswith("column straight: ") and line.endswith("allowed 10%")
    tenth = len(slopes["straight"]) // 10
    for count in (tenth, tenth + 1):
        other = np.where(np.arange(len(slopes["straight"])) < count, 1 - slopes["straight"], slopes["straight"])
        assert len(changes("rates_slopes", slopes | {"straight": other}, slopes)) == count - tenth


def test_a_term_that_is_needed_no_longer_is_a_change():
    terms = committed("rates_terms")
    between = (terms["ratio"] > 1) & (terms["ratio"] < 1.5)
    less = terms | {"ratio": np.where(between, 0.66 * terms["ratio"], terms["ratio"])}
    lines = changes("rates_terms", less, terms)
    assert len(lines) == between.sum() > 0 and all("not shown to be needed" in line for line in lines)
    # Nor one that is needed all of a sudden, nor an error that makes it chance.
    again = [line for line in changes("rates_terms", terms, less) if not line.startswith("column ")]
    assert len(again) == len(lines) and all(": needed," in line for line in again)
    doubtful = changes("rates_terms", terms | {"error": terms["error"] + 0.09}, terms)
    assert doubtful and all("not shown to be needed" in line for line in doubtful)


@pytest.mark.parametrize(("old", "new", "caught"), [
    (1.17, 0.77, True), (0.95, 1.2, True), (1.03, 0.99, False), (0.93, 1.07, False), (1.3, 1.1, False), (0.9, 0.7, False),
])  # fmt: skip
def test_a_ratio_next_to_1_may_fall_to_either_side(old, new, caught):
    terms = {key: column[:1] for key, column in committed("rates_terms").items()} | {"error": np.zeros(1)}
    assert len(changes("rates_terms", terms | {"ratio": np.array([new])}, terms | {"ratio": np.array([old])})) == caught


def test_other_rows_have_no_conclusions_to_compare():
    slopes = committed("rates_slopes")
    other = slopes | {"straight": 1 - slopes["straight"], "rule": slopes["rule"][::-1]}
    assert [line.split(":")[0] for line in changes("rates_slopes", other, slopes)] == ["column rule"]


def test_committed_pairs_are_many_and_none_is_violated():
    pairs = read_csv(DATA / "rates_pairs.csv")
    assert pairs["pairs"].sum() >= 100_000 and pairs["violated"].sum() == 0 and pairs["averages_violated"].sum() == 0
    assert pairs["control_violated"].sum() > 0


def test_the_committed_text_is_the_summary_and_the_figure_draws(tmp_path):
    committed = {stem: read_csv(DATA / f"{stem}.csv") for stem in TOLERANCES}
    assert set(TABLES) <= set(committed)
    assert summary(committed).strip() == (ROOT / "figures" / "rates.txt").read_text(encoding="utf-8").strip()
    (path,) = draw(DATA, tmp_path, ["png"])
    assert path.read_bytes().startswith(b"\x89PNG")
