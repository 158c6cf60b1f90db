"""The runner on a toy clone: what makes a verdict worthless, changed, marked, cached or not checked."""

import sys
from dataclasses import replace

import pytest

from deva_theory.claims import Claim, Evidence, LedgerError, Run, Store, Verdict, control_fails, load_ledger, replay_file, resolve, verify
from deva_theory.claims.results import verdicts_document
from deva_theory.claims.runner import fingerprint
from deva_theory.recheck import recheck_file
from deva_theory.runtime import Cache
from tests.toy_clone import claim, make_clone, no_checks_loaded


@pytest.fixture
def clone(tmp_path):
    with no_checks_loaded():
        yield lambda *claims: make_clone(tmp_path, *claims)


def outcomes_of(root, **options):
    ledger = load_ledger(root / "paper_checks" / "claims.toml")
    return {outcome.claim.id: outcome for outcome in verify(ledger, list(ledger.values()), root, **options)}


def ran(root):
    log = root / "log.txt"
    return log.read_text().split() if log.exists() else []


def test_good_claims_have_nothing_to_look_at(clone):
    found = outcomes_of(clone(claim("T1", "squares"), claim("T2", "above_one", "REFUTED"), claim("T3", "proved", "PROVED")))
    assert [(o.verdict, o.changed, o.origin) for o in found.values()] == [
        (Verdict.SUPPORTED, False, "run"), (Verdict.REFUTED, False, "run"), (Verdict.PROVED, False, "run"),
    ]
    assert found["T1"].control == {"statement": "another level", "verdict": "REFUTED", "summary": "the toy is REFUTED"}
    assert found["T2"].evidence["counterexample"]["violation"] == 1.0


# check: (verdict of the check, words of the problem)
WORTHLESS = {
    "blind": ("SUPPORTED", "the negative control passed: SUPPORTED for the claim, SUPPORTED for 'another level'"),
    "blind_refuter": ("REFUTED", "the negative control passed: REFUTED for the claim, REFUTED for"),
    "proved_wrongly": ("PROVED", "the certificate was rejected: certificate 0 (values): REJECTED"),
    "refuted_without": ("REFUTED", "REFUTED without a counter-example"),
    "refuted_below_margin": ("REFUTED", "the counter-example bad does not replay: violation 1, margin 1.5"),
    "refuted_with_no_margin": ("REFUTED", "the counter-example bad does not replay: violation 1, margin 0"),
    "refuted_by_nan": ("REFUTED", "the counter-example bad does not replay: violation nan"),
    "refuted_by_nobody": ("INCONCLUSIVE", "claims.toml, line 1: 'paper_checks.toy:nobody': paper_checks/toy.py has no function nobody"),
    "raising": ("INCONCLUSIVE", "the check raised ZeroDivisionError: division by zero (toy.py, line "),
    "raising_control": ("INCONCLUSIVE", "the check raised ValueError: two"),
    "proved_by_nothing": ("INCONCLUSIVE", "PROVED needs a certificate that can be re-checked"),
    "nothing": ("INCONCLUSIVE", "TypeError: toy:nothing returned a NoneType, not an Evidence"),
    "unwritable": ("INCONCLUSIVE", "TypeError: T1.numbers.f: a builtin_function_or_method cannot be written as JSON"),
    "no_such_check": ("INCONCLUSIVE", "claims.toml, line 1: 'toy:no_such_check': paper_checks/toy.py has no function no_such_check"),
    "needing": ("INCONCLUSIVE", "pip install 'deva-theory[certify]' (claims.toml names no extra for this claim)"),
}


@pytest.mark.parametrize(("check", "verdict", "words"), [(check, *rest) for check, rest in WORTHLESS.items()], ids=WORTHLESS)
def test_worthless_check_is_a_problem_and_hides_no_other(clone, check, verdict, words):
    # Expected is what it says: the problem alone makes it a change.
    expected = verdict if verdict != "INCONCLUSIVE" else "SUPPORTED"
    found = outcomes_of(clone(claim("T1", check, expected), claim("T2", "squares")))
    assert found["T1"].verdict == verdict
    (problem,) = found["T1"].problems
    assert words in problem
    assert found["T1"].changed
    assert found["T2"].verdict == "SUPPORTED" and not found["T2"].changed
    assert verdicts_document(list(found.values()), full=False, seconds=0.0)["changed"] == ["T1"]


def test_data_is_replayed_as_the_file_will_hold_it(clone):
    found = outcomes_of(clone(claim("T1", "refuted_by_a_tensor", "REFUTED")))["T1"]
    assert not found.problems
    assert found.evidence["counterexample"]["data"] == {"x": 0.5, "level": 1.0}
    assert found.evidence["counterexample"]["violation"] == 0.75


def test_check_in_a_missing_or_broken_module(clone):
    root = clone(claim("T1", "other:f"), claim("T2", "broken:f"), claim("T3", "lacking:f"))
    (root / "paper_checks" / "broken.py").write_text("def f(:\n")
    (root / "paper_checks" / "lacking.py").write_text("import surely_not_installed\n")
    found = outcomes_of(root)
    missing = "claims.toml, line 1: 'other:f': paper_checks/other.py does not exist; correct the entry or add the file"
    assert found["T1"].problems == (missing,)
    assert "the check raised SyntaxError" in found["T2"].problems[0] and "broken.py" in found["T2"].problems[0]
    assert "ModuleNotFoundError: No module named 'surely_not_installed' (lacking.py, line 1)" in found["T3"].problems[0]


@pytest.mark.parametrize(
    ("check", "expected", "found"),
    [
        ("above_one", "SUPPORTED", "REFUTED"), ("squares", "REFUTED", "SUPPORTED"), ("squares", "PROVED", "SUPPORTED"),
        ("proved", "SUPPORTED", "PROVED"), ("undecided", "SUPPORTED", "INCONCLUSIVE"), ("squares", "INCONCLUSIVE", "SUPPORTED"),
    ],
)
def test_another_verdict_is_a_change_in_every_direction(clone, check, expected, found):
    outcome = outcomes_of(clone(claim("T1", check, expected)))["T1"]
    assert (outcome.verdict, outcome.problems, outcome.changed) == (found, (), True)


def test_undecided_as_expected_is_no_change(clone):
    assert not outcomes_of(clone(claim("T1", "undecided", "INCONCLUSIVE")))["T1"].changed


def test_control_must_give_the_opposite_verdict():
    standing = [verdict for verdict in Verdict if verdict.stands]
    assert standing == ["PROVED", "CERTIFIED", "SUPPORTED", "HOLDS_IF"]
    for verdict in Verdict:
        for twin in Verdict:
            opposite = twin == "REFUTED" if verdict in standing else twin in standing if verdict == "REFUTED" else True
            assert control_fails(verdict, twin) is not opposite


def test_refuted_premise_marks_everything_above_it(clone):
    chain = [claim("T2", "squares", depends_on=["T1"]), claim("T3", "squares", depends_on=["T2"]), claim("T4", "squares")]
    found = outcomes_of(clone(claim("T1", "above_one", "REFUTED"), *chain))
    assert [o.marked for o in found.values()] == [(), ("T1",), ("T1",), ()]
    assert not any(o.changed for o in found.values())
    assert verdicts_document(list(found.values()), full=False, seconds=0.0)["claims"][2]["refuted_premises"] == ["T1"]


def test_marks_follow_what_is_found_not_what_is_expected(clone):
    root = clone(
        claim("T1", "above_one", "SUPPORTED"), claim("T2", "squares", "REFUTED"), claim("T3", "squares", depends_on=["T1", "T2"]),
    )
    assert outcomes_of(root)["T3"].marked == ("T1",)
    # A premise outside of this run counts as expected.
    ledger = load_ledger(root / "paper_checks" / "claims.toml")
    (alone,) = verify(ledger, [ledger["T3"]], root)
    assert alone.marked == ("T2",)


def test_missing_extra_is_one_line_and_no_change(clone):
    found = outcomes_of(clone(claim("T1", "needing", "PROVED", extra="certify"), claim("T2", "squares")))
    assert (found["T1"].verdict, found["T1"].origin, found["T1"].changed) == (Verdict.NOT_CHECKED, "extra", False)
    assert found["T1"].note == "the cross-check needs PEPit: pip install 'deva-theory[certify]'"
    entry = verdicts_document(list(found.values()), full=False, seconds=0.0)["claims"][0]
    assert (entry["verdict"], entry["origin"], entry["summary"]) == ("NOT_CHECKED", "extra", found["T1"].note)
    assert not found["T2"].changed


def test_unchecked_and_full_tier_claims_run_nothing_in_the_fast_tier(clone):
    root = clone(claim("T1", None, "NOT_CHECKED", reason="too hard"), claim("T2", "only_full", tier="full"))
    found = outcomes_of(root)
    assert (found["T1"].verdict, found["T1"].note, found["T1"].changed) == (Verdict.NOT_CHECKED, "too hard", False)
    assert (found["T2"].verdict, found["T2"].origin, found["T2"].changed) == (Verdict.SUPPORTED, "tier", False)
    assert ran(root) == []
    assert outcomes_of(root, full=True)["T2"].origin == "run"
    assert ran(root) == ["only_full", "only_full"]  # the claim and its control


def test_interrupted_run_resumes(clone):
    root = clone(claim("T1", "squares"), claim("T2", "second"))
    (root / "interrupt-second").touch()
    kept = []
    with pytest.raises(KeyboardInterrupt):
        outcomes_of(root, cache=Cache(root / "cache"), on_outcome=kept.append)
    assert [outcome.claim.id for outcome in kept] == ["T1"]
    (root / "interrupt-second").unlink()
    found = outcomes_of(root, cache=Cache(root / "cache"))
    assert [(o.origin, o.verdict) for o in found.values()] == [("cache", "SUPPORTED"), ("run", "SUPPORTED")]
    assert found["T1"].evidence == kept[0].evidence and found["T1"].control == kept[0].control
    assert ran(root) == ["squares", "second", "second"]


def test_cache_belongs_to_code_entry_and_tier(clone):
    root = clone(claim("T1", "squares"), claim("T2", "only_full", tier="full"))

    def origin(**options):
        return outcomes_of(root, cache=Cache(root / "cache"), **options)["T1"].origin

    states = [fingerprint(root)]
    assert [origin(), origin(), origin(full=True), origin(full=True)] == ["run", "cache", "run", "cache"]
    # The runner's own clone is one process, so that the loaded module stays the old one: only the address changes here.
    edits = {"paper_checks/toy.py": "# a comment", "paper_checks/new.py": "", "experiments/e.py": "x = 1", "figures/data/t.csv": "a\n1\n"}
    for file, text in edits.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
        states.append(fingerprint(root))
        assert origin() == "run", file
    assert len(set(states)) == len(states)
    make_clone(root, claim("T1", "squares", control="yet another level"))
    assert origin() == "run"
    make_clone(root, claim("T1", "second", control="yet another level"))
    assert origin() == "run"
    assert origin() == "cache"


def test_failed_check_is_not_kept_and_a_worthless_one_stays_worthless(clone):
    root = clone(claim("T1", "raising"), claim("T2", "blind"))
    for origin in ("run", "cache"):
        found = outcomes_of(root, cache=Cache(root / "cache"))
        assert found["T1"].problems and found["T1"].origin == "run"
        assert found["T2"].problems and found["T2"].origin == origin and found["T2"].changed


def test_store_writes_what_was_found_and_sees_what_is_wrong_with_it(clone):
    checked = [claim("T1", "squares"), claim("T2", "above_one", "REFUTED"), claim("T3", "proved", "PROVED")]
    root = clone(*checked, claim("T4", None, "NOT_CHECKED", reason="r"))
    ledger, store = load_ledger(root / "paper_checks" / "claims.toml"), Store(root / "store")
    assert [line.partition(" ")[0] for line in store.problems(ledger)] == ["evidence/T1.json", "evidence/T2.json", "evidence/T3.json"]
    found = verify(ledger, list(ledger.values()), root, full=True)
    written = [path.relative_to(store.folder).as_posix() for outcome in found for path in store.write(outcome, full=True)]
    assert written == ["evidence/T1.json", "evidence/T2.json", "counterexamples/zero.json", "evidence/T3.json"]
    assert store.problems(ledger) == []
    assert replay_file(store.counterexample("zero"), root) == (1.0, 0.5)
    assert recheck_file(store.evidence("T3")).ok and not recheck_file(store.evidence("T1")).ok

    edited = store.evidence("T1").read_text()
    store.evidence("T1").write_text(edited.replace('"gap": 0.0', '"gap": -1.0'))
    assert store.problems(ledger) == [
        "evidence/T1.json was edited by hand: its content does not fit its hash; "
        "make it again with `deva-theory verify --tier full --update`"
    ]
    store.evidence("T1").write_text(edited)
    # A file under another's name.
    store.evidence("T3").rename(store.evidence("T5"))
    store.evidence("T3").write_text(edited)
    assert store.problems(ledger) == [
        "evidence/T3.json is about T1: run `deva-theory verify T3 --tier full --update`",
        "evidence/T5.json belongs to no claim: delete it",
    ]
    store.evidence("T5").replace(store.evidence("T3"))
    store.counterexample("zero").unlink()
    assert "counterexamples/zero.json does not exist" in store.problems(ledger)[0]


def test_store_notices_an_edited_entry(clone):
    root = clone(claim("T1", "squares"), claim("T2", "above_one", "REFUTED"))
    ledger, store = load_ledger(root / "paper_checks" / "claims.toml"), Store(root / "store")
    for outcome in verify(ledger, list(ledger.values()), root):
        store.write(outcome, full=True)
    make_clone(root, claim("T1", "squares", statement="Another one."), claim("T2", "above_one"))
    lines = store.problems(load_ledger(root / "paper_checks" / "claims.toml"))
    assert lines == [
        "evidence/T1.json is about another wording: run `deva-theory verify T1 --tier full --update`",
        "evidence/T2.json says REFUTED, claims.toml expects SUPPORTED",
    ]


def test_store_refuses_shared_counterexamples_worthless_and_incomplete_evidence(clone):
    from deva_theory.claims import read_file, write_file

    root = clone(claim("T1", "above_one", "REFUTED"), claim("T2", "above_one", "REFUTED"), claim("T3", "blind"), claim("T4", "squares"))
    ledger, store = load_ledger(root / "paper_checks" / "claims.toml"), Store(root / "store")
    for outcome in verify(ledger, list(ledger.values()), root):
        store.write(outcome, full=True)
    content = read_file(store.evidence("T4"))["content"]
    del content["statement"], content["tolerance"]
    write_file(store.evidence("T4"), content)
    again = "--tier full --update`"
    first, third, fourth = store.problems(ledger)
    assert first == f"counterexamples/zero.json is about T2, not T1: run `deva-theory verify T1 {again}"
    assert third.startswith("evidence/T3.json is worthless: the negative control passed")
    assert fourth == f"evidence/T4.json lacks statement, tolerance: run `deva-theory verify T4 {again}"


def test_resolve_refuses_another_clones_module(clone, tmp_path_factory):
    root = clone()
    assert resolve(root, "toy:squares")(Run()).verdict == "SUPPORTED"
    assert resolve(root, "paper_checks.toy:square_gap")(2.0, 5.0) == 1.0
    other = make_clone(tmp_path_factory.mktemp("other"))
    (other / "paper_checks" / "fresh.py").write_text("def f(run): ...\n")
    for name in ("toy:squares", "fresh:f"):
        with pytest.raises(LedgerError, match="of another clone is loaded; start a fresh process"):
            resolve(other, name)
    assert sys.path.count(str(root)) == 1


def test_resolve_refuses_what_is_no_function(clone):
    with pytest.raises(LedgerError, match=r"paper_checks/toy\.py has no function HERE"):
        resolve(clone(), "toy:HERE")


def test_run_varies_with_seed_stream_and_tier():
    assert (Run().count(2, 9), Run(full=True).count(2, 9)) == (2, 9)

    def draw(run, stream=0):
        import torch

        return torch.rand(1, generator=run.generator(stream)).item(), run.rng(stream).random()

    draws = [draw(Run()), draw(Run(seed=1)), draw(Run(), 1), draw(Run(seed=1), 1)]
    assert draw(Run()) == draws[0] == draw(Run(twin=True, full=True))
    assert len({value for pair in draws for value in pair}) == 8


def test_strong_evidence_needs_certificates():
    for verdict in Verdict:
        if verdict.recheckable:
            with pytest.raises(ValueError, match="return SUPPORTED without one"):
                Evidence(verdict, "symbolic", "s")
        else:
            Evidence(verdict, "symbolic", "s")


def test_line_of_a_claim_does_not_make_it_another_one(clone):
    ledger = load_ledger(clone(claim("T1", "squares")) / "paper_checks" / "claims.toml")
    assert isinstance(ledger["T1"], Claim) and replace(ledger["T1"], line=99) == ledger["T1"]
