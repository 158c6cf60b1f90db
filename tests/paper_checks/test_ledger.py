"""The real ledger: complete, every check and control run, and the committed evidence re-checked from its files alone."""

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from deva_theory.certify import SearchProblem, as_data, falsify_for, shrink
from deva_theory.claims import Run, Store, Verdict, control_fails, load_ledger, resolve, run_claim
from deva_theory.claims.files import plain
from deva_theory.recheck import recheck_file

ROOT = Path(__file__).resolve().parents[2]
LEDGER = load_ledger(ROOT / "paper_checks" / "claims.toml")
STORE = Store(ROOT / "paper_checks")
CHECKED = [claim for claim in LEDGER.values() if claim.check]

ITEMS = [
    *(f"D{i}" for i in range(1, 9)), *(f"M{i}" for i in range(1, 13)), *(f"A{i}" for i in range(1, 7)),
    *(f"S{i}" for i in range(1, 8)), *(f"R{i}" for i in range(1, 7)), *(f"E{i}" for i in range(1, 4)),
]


def files(folder):
    return sorted((STORE.folder / folder).glob("*.json"))


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_of_the_specification_has_an_entry(item):
    assert LEDGER.select([item])


def test_ledger_is_large_and_has_the_two_claims_of_the_abstract():
    assert len(LEDGER) >= 40
    assert len({claim.statement for claim in LEDGER.values()}) == len({claim.title for claim in LEDGER.values()}) == len(LEDGER)
    abstract = LEDGER.select(["Abstract"])
    assert any("6.6%" in claim.title for claim in abstract) and any("blockwise smoothness" in claim.title for claim in abstract)
    assert all("abstract" in claim.source and claim.check for claim in abstract)


def test_every_check_is_named_once():
    # One check per statement: a check that serves two claims would have to know which one it speaks about.
    twice = [check for check, count in Counter(claim.check for claim in CHECKED).items() if count > 1]
    assert twice == []


@pytest.mark.parametrize(
    "claim", [pytest.param(claim, id=claim.id, marks=[pytest.mark.slow] if claim.tier == "full" else []) for claim in CHECKED]
)
def test_check_finds_the_expected_verdict_and_its_control_the_opposite(claim):
    if claim.extra:
        pytest.importorskip({"certify": "PEPit", "exact": "flint", "zoo": "sklearn"}[claim.extra])
    found = run_claim(claim, ROOT, full=claim.tier == "full")
    assert found["problems"] == []
    assert found["evidence"]["verdict"] == claim.expected
    # Said again without the runner's own judgement.
    control = Verdict(found["control"]["verdict"])
    assert control is Verdict.REFUTED if claim.expected.stands else control.stands
    assert not control_fails(claim.expected, control)


@pytest.mark.parametrize("claim", [claim for claim in CHECKED if claim.falsify], ids=lambda claim: claim.id)
def test_attacks_are_well_formed(claim):
    """The attack of a false claim finds a violation that replays; that of a true one and its replay agree, on random points."""
    problem = resolve(ROOT, claim.falsify)()
    assert isinstance(problem, SearchProblem) and problem.statement and problem.margin > 0
    assert problem.replay, "a violation could not be kept"
    replay = resolve(ROOT, problem.replay)

    def replayed(x):
        return replay(**json.loads(json.dumps(plain(as_data(problem, x)))))

    if claim.expected is Verdict.REFUTED:
        found = falsify_for(problem, 20.0)
        assert found.violation > problem.margin
        assert replayed(shrink(problem, found.x)) > problem.margin
        return
    x = problem.starts(torch.Generator().manual_seed(0), 4)
    with torch.no_grad():
        values = problem.violation(x)
    assert values.shape == (4,)
    for point, value in zip(x, values.tolist(), strict=True):
        if math.isfinite(value):  # else the statement says nothing about the point
            assert value <= problem.margin
            assert replayed(point) == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_checks_with_seeds_depend_on_them():
    """A check that reports a seed draws from the run's generators: another seed gives other numbers, the same one the same."""
    claim = LEDGER["D7-adam"]
    check = resolve(ROOT, claim.check)
    first, again, other = (plain(check(Run(seed=seed))) for seed in (0, 0, 1))
    assert first == again
    assert first["seed"] == 0 and other["seed"] == 1 and other["numbers"] != first["numbers"]


# ---- the committed evidence ------------------------------------------------------------------------------


def test_committed_evidence_is_complete_untouched_and_of_the_full_tier():
    assert STORE.problems(LEDGER) == []
    for claim in CHECKED:
        content, _ = STORE.read(claim.id)
        assert content["tier"] == "full" and content["problems"] == [], claim.id
        control = Verdict(content["control"]["verdict"])
        assert not control_fails(Verdict(content["verdict"]), control) and content["control"]["statement"] == claim.control, claim.id


@pytest.mark.parametrize("claim", [claim for claim in CHECKED if claim.expected.recheckable], ids=lambda claim: claim.id)
def test_strong_verdict_is_rechecked_from_its_file_alone(claim):
    report = recheck_file(STORE.evidence(claim.id))
    assert report.ok, report.lines


def test_every_refuted_claim_has_a_counterexample_that_replays_in_a_fresh_process():
    refuted = [claim for claim in CHECKED if claim.expected is Verdict.REFUTED]
    names = {claim.id: STORE.read(claim.id)[0]["counterexample"] for claim in refuted}
    assert all(names.values()) and len(set(names.values())) == len(refuted) > 0
    assert set(names.values()) <= {path.stem for path in files("counterexamples")}
    script = """
import json, sys
from pathlib import Path
from deva_theory.claims import replay_file
root = Path.cwd()
print(json.dumps({p.stem: replay_file(p, root) for p in sorted((root / "paper_checks" / "counterexamples").glob("*.json"))}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8", cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {path.stem for path in files("counterexamples")}
    lost = {name: pair for name, pair in found.items() if not pair[0] > pair[1] > 0}
    assert lost == {}


def test_hand_edited_copies_are_detected(tmp_path):
    shutil.copytree(STORE.folder / "evidence", tmp_path / "evidence")
    shutil.copytree(STORE.folder / "counterexamples", tmp_path / "counterexamples")
    copy = Store(tmp_path)
    before = copy.problems(LEDGER)
    claim = next(claim for claim in CHECKED if claim.expected is Verdict.REFUTED)
    other = next(claim for claim in CHECKED if claim.expected is Verdict.PROVED)
    name = STORE.read(claim.id)[0]["counterexample"]
    for path in (copy.counterexample(name), copy.evidence(other.id)):
        document = json.loads(path.read_text(encoding="utf-8"))
        document["content"]["statement"] += " "
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    lines = [line for line in copy.problems(LEDGER) if line not in before]
    assert len(lines) == 2 and all("was edited by hand: its content does not fit its hash" in line for line in lines)
    report = recheck_file(copy.evidence(other.id))
    assert not report.ok and report.lines == ("the content does not match its sha256",)


def test_committed_verdicts_are_those_of_the_evidence():
    document = json.loads((STORE.folder / "verdicts.json").read_text(encoding="utf-8"))
    assert document["tier"] == "full" and document["changed"] == []
    assert [entry["id"] for entry in document["claims"]] == list(LEDGER)
    assert document["counts"] == dict(sorted(Counter(entry["verdict"] for entry in document["claims"]).items()))
    for entry in document["claims"]:
        claim = LEDGER[entry["id"]]
        assert (entry["verdict"], entry["title"], entry["problems"]) == (claim.expected, claim.title, [])
        assert tuple(entry["refuted_premises"]) == LEDGER.refuted_premises(claim, {})
        if claim.check:
            content, _ = STORE.read(claim.id)
            assert (entry["summary"], entry["counterexample"]) == (content["summary"], content["counterexample"])
