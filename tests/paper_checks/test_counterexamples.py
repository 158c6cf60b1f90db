"""The command that replays saved counter-examples, and what the defects behind some of them need."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deva_theory.rules import StepScale, deva_linf, deva_spectral
from paper_checks import counterexamples
from paper_checks.gradient_streams import directions
from paper_checks.spectral_rotation import equivariance_gap

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "paper_checks" / "counterexamples").glob("*.json"))


def test_all_replay_in_a_fresh_process():
    assert len(NAMES) > 40
    done = subprocess.run(
        [sys.executable, "-m", "paper_checks.counterexamples"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in NAMES)


def test_unknown_names_get_a_suggestion(capsys):
    assert counterexamples.main([NAMES[0].lower()]) == 2
    assert NAMES[0] in capsys.readouterr().err


@pytest.fixture
def copy(tmp_path):
    """A store of its own with one counter-example, and the file's document."""
    target = tmp_path / "paper_checks" / "counterexamples"
    target.mkdir(parents=True)
    shutil.copy(ROOT / "paper_checks" / "counterexamples" / f"{NAMES[0]}.json", target)
    shutil.copytree(ROOT / "paper_checks", tmp_path / "paper_checks", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
    return tmp_path, target / f"{NAMES[0]}.json"


def test_an_edited_number_is_detected(copy, capsys):
    root, path = copy
    document = json.loads(path.read_text(encoding="utf-8"))
    document["content"]["margin"] = document["content"]["margin"] / 2
    path.write_text(json.dumps(document), encoding="utf-8")
    assert counterexamples.main([NAMES[0]], root=root) == 2
    assert "edited by hand" in capsys.readouterr().err


def test_a_lost_counterexample_changes_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(counterexamples, "replay_file", lambda path, root: (0.0, 0.1))
    assert counterexamples.main([NAMES[0]]) == 1


def test_tall_matrix_is_equivariant_when_the_lagged_basis_leaves_one_dimension_open():
    """m - n = 1: the null space of the first GGᵀ is a line, so that L still has a simple spectrum."""
    gradients = torch.tensor([[[1.0], [2.0]], [[3.0], [-1.0]], [[1.0], [1.0]]], dtype=torch.float64)
    rule = deva_spectral(preset="reference", eps=0.0, polar="svd")
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    assert equivariance_gap(rule, gradients, turn, torch.eye(1, dtype=torch.float64)) < 1e-12


def test_printed_eps_is_harmless_where_it_is_small():
    g = torch.ones(2, dtype=torch.float64)
    spectral = replace(deva_spectral(preset="paper", betas=(0.0, 0.95)), step_scale=StepScale())
    matrix = directions(spectral, torch.diag(g)[None])[0, 0, 0]
    vector = directions(deva_linf(preset="paper", betas=(0.0, 0.95)), g[None])[0, 0]
    assert abs(matrix / vector - 1) < 1e-6


@pytest.mark.parametrize("preset, variant", [("paper", "full"), ("reference", "sign"), ("corrected", "sign")])
def test_rounding_level_rows_stay_small_elsewhere(preset, variant):
    """The explosion needs all three: ε in the numerator, a sign, and a row zero only up to rounding."""
    gradients = 1e-4 * torch.tensor([[[1.0], [float(k)]] for k in range(1, 11)], dtype=torch.float64)
    rule = deva_spectral(preset=preset, variant=variant, polar="svd")
    history = torch.stack([gradients, gradients])
    assert torch.linalg.matrix_norm(directions(rule, history)).max() < 20
