"""Breaking a formula of the library must change what a claim finds."""

import json
import subprocess
import sys

import pytest

from deva_theory.claims import load_ledger
from tests.claims.mutants import CONTROL, EQUIVALENT, GAP, MUTANTS, ROOT, SURVIVORS, Finding, examine


def findings():
    """All mutants and the control, from a fresh process: this one has imported the library unchanged."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.claims.mutants", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return [Finding(**fields) for fields in json.loads(done.stdout)]


def test_names_are_unique():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 40
    assert set(SURVIVORS) <= set(names)
    assert all(kind in (EQUIVALENT, GAP) and reason for kind, reason in SURVIVORS.values())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_no_mutant_is_stale(mutant):
    assert mutant.new != mutant.old
    compile(mutant.source(), mutant.file, "exec")


def test_the_claims_are_fast_ones_that_need_no_extra():
    ledger = load_ledger(ROOT / "paper_checks" / "claims.toml")
    for name in {name for mutant in MUTANTS for name in mutant.claims}:
        claim = ledger.one(name)
        assert claim.check and claim.tier == "fast" and claim.extra is None, name


def test_this_process_cannot_examine_them():
    import deva_theory.rules  # noqa: F401

    with pytest.raises(RuntimeError, match="fresh process"):
        examine(MUTANTS[:1])


def test_claims_notice_every_mutant_but_the_survivors():
    """One test, so that parallel test processes do not examine the mutants twice."""
    found = findings()
    unchanged = [finding for finding in found if finding.name.startswith(CONTROL)]
    assert unchanged and not [finding for finding in unchanged if finding.claim], "claims notice something where nothing is changed"
    examined = [finding for finding in found if not finding.name.startswith(CONTROL)]
    assert [finding.name for finding in examined] == [mutant.name for mutant in MUTANTS]
    assert {finding.name for finding in examined if not finding.claim} == set(SURVIVORS)
    # A misspelt name is noticed by every claim and says nothing about them.
    trivial = {"NameError", "SyntaxError", "ImportError", "ModuleNotFoundError", "AttributeError", "TypeError", "no answer"}
    assert not [finding for finding in examined if finding.how in trivial]
