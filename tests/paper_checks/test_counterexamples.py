"""Every shipped counter-example replays; the ones that a repair fixes pass once it is in place."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deva_theory.rules import StepScale, deva_linf, deva_spectral
from paper_checks import counterexamples as ce

EXPECTED = {
    "M5-moving-bases": 0.4076,
    "M6-plain-means": 1 - 0.75**0.5,  # √(3/3) - √(3/4), less than √(9/4) - √(9/5)
    "M7-printed-eps": 5.481,
    "M9-repeated-eigenvalues": 0.0632,
    "M9-lagged-tall": 0.0545,
    "M9-no-rerotation": None,  # up to LAPACK's signs
    "M9-no-rotation-back": None,
    "M10-negative-entry": 0.2**0.5,
    "M10-ascent": 0.4113,
    "S2-spectral": 1 / 3,
    "D4-adam-above-one": 0.104372,
    "S4-interior-maximum": 1.0,
    "paper-sign-of-rounding": None,  # up to rounding in eigh
    "paper-memory-first-step": 20**0.5 - 1,
}


@pytest.mark.parametrize("name", ce.COUNTEREXAMPLES)
def test_violates_its_statement(name):
    example = ce.COUNTEREXAMPLES[name]
    assert example.id == name and example.statement and example.claim
    violation = example.replay()
    assert violation > example.margin > 1e-3
    if EXPECTED[name] is not None:
        assert violation == pytest.approx(EXPECTED[name], rel=2e-3)


def test_every_counterexample_has_an_expected_figure():
    assert set(EXPECTED) == set(ce.COUNTEREXAMPLES)


@pytest.mark.parametrize("name, argument", [
    ("M5: bases that do not move", lambda: ce.moving_bases_gap(0.0)),
    ("M9: corrected, rotated", lambda: ce._worst_over_rotations(deva_spectral(eps=0.0))),
    ("M9: corrected, k = 2", lambda: ce._worst_over_rotations(deva_spectral(eps=0.0, refresh_every=2))),
    ("M9: printed, basis never refreshed",
     lambda: ce._worst_over_rotations(deva_spectral(preset="paper", eps=0.0, refresh_every=100))),
])
def test_the_same_measure_vanishes_without_the_defect(name, argument):
    assert argument() < 1e-12


def test_tall_matrix_is_equivariant_when_the_lagged_basis_leaves_one_dimension_open():
    """m - n = 1: the null space of the first GGᵀ is a line, so that L still has a simple spectrum."""
    gradients = torch.tensor([[[1.0], [2.0]], [[3.0], [-1.0]], [[1.0], [1.0]]], dtype=torch.float64)
    rule = deva_spectral(preset="reference", eps=0.0, polar="svd")
    assert ce.equivariance_gap(rule, gradients, ce._rotation(1.0), torch.eye(1, dtype=torch.float64)) < 1e-12


def test_printed_eps_is_harmless_where_it_is_small():
    g = torch.ones(2, dtype=torch.float64)
    spectral = replace(deva_spectral(preset="paper", betas=(0.0, 0.95)), step_scale=StepScale())
    matrix = ce._directions(spectral, torch.diag(g)[None])[0, 0, 0]
    vector = ce._directions(deva_linf(preset="paper", betas=(0.0, 0.95)), g[None])[0, 0]
    assert abs(matrix / vector - 1) < 1e-6


@pytest.mark.parametrize("preset, variant", [("paper", "full"), ("reference", "sign"), ("corrected", "sign")])
def test_rounding_level_rows_stay_small_elsewhere(preset, variant):
    """The explosion needs all three: ε in the numerator, a sign, and a row zero only up to rounding."""
    gradients = 1e-4 * torch.tensor([[[1.0], [float(k)]] for k in range(1, 11)], dtype=torch.float64)
    rule = deva_spectral(preset=preset, variant=variant, polar="svd")
    history = torch.stack([gradients, gradients])
    assert torch.linalg.matrix_norm(ce._directions(rule, history)).max() < 20


def test_main_prints_a_table_and_knows_its_names(capsys):
    assert ce.main(["M10-ascent", "S4-interior-maximum"]) == 0
    assert "M10-ascent" in capsys.readouterr().out
    assert ce.main(["nothing"]) == 2
    assert "M10-ascent" in capsys.readouterr().err


def test_a_lost_counterexample_changes_the_exit_status(monkeypatch, capsys):
    lost = replace(ce.COUNTEREXAMPLES["M10-ascent"], replay=lambda: 0.0)
    monkeypatch.setitem(ce.COUNTEREXAMPLES, "M10-ascent", lost)
    assert ce.main(["M10-ascent"]) == 1


def test_replays_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-m", "paper_checks.counterexamples", "M10-ascent"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
        encoding="utf-8", env=None,
    )
    assert done.returncode == 0, done.stderr
    assert "0.4113" in done.stdout
