"""claims, verify, explain and falsify on a toy clone."""

import json
import shutil
import subprocess
import sys

import pytest

from deva_theory.claims import read_file, write_file
from deva_theory.cli import main
from tests.toy_clone import claim, make_clone, no_checks_loaded

README = """# Toy

<!-- include: paper_checks/verdicts.json, as: {form} -->
<!-- end include -->
"""

LEDGER = (
    claim("T1", "squares", title="squares are nonnegative: a|b, x_1 and *y*", assumptions=["x is real"], depends_on=["T2"]),
    claim("T2", "above_one", "REFUTED", title="squares are at least 1"),
    claim("T3-proved", "proved", "PROVED", falsify="toy:below_attack"),
    claim("T3-random", "random_squares"),
    claim("T4", None, "NOT_CHECKED", reason="too hard"),
    claim("T5", "second", "SUPPORTED", falsify="toy:above_attack"),
    claim("T6", "above_one", "REFUTED", falsify="toy:above_attack", depends_on=["T5"]),
    claim("T7", "only_full", tier="full"),
    claim("T8", "needing", "PROVED", extra="certify"),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    make_clone(tmp_path, *(text for text in LEDGER if 'id = "T6"' not in text))
    (tmp_path / "README.md").write_text(README.format(form="claim summary"))
    (tmp_path / "paper_checks" / "README.md").write_text(README.format(form="claim table"))
    monkeypatch.chdir(tmp_path)
    with no_checks_loaded():
        yield tmp_path


@pytest.fixture
def verified(root, capsys):
    """The clone with evidence, verdicts and tables committed (T8 has none: its extra is missing)."""
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 1
    assert "evidence: evidence/T8.json does not exist" in capsys.readouterr().out
    make_clone(root, *(text for text in LEDGER if 'id = "T6"' not in text and 'id = "T8"' not in text))
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 0
    capsys.readouterr()
    return root


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def one_line(text):
    (line,) = text.splitlines()
    return line


def bad_input(arguments, capsys):
    """Run a command that must end with code 2; return its one line."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return one_line(err)


def ran(root):
    log = root / "log.txt"
    return log.read_text().split() if log.exists() else []


def test_claims_lists_without_running(root, capsys):
    assert main(["claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["T1", "SUPPORTED"], ["T2", "REFUTED"], ["T3-proved", "PROVED"]]
    assert lines[-1].startswith("8 claims; ")
    assert main(["claims", "T3", "T4"]) == 0
    assert "T3-random" in (out := capsys.readouterr().out) and "3 claims" in out
    assert main(["claims", "--verdict", "REFUTED", "--verdict", "NOT_CHECKED"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["T2", "T4", "2"]
    assert main(["claims", "T1", "--verdict", "REFUTED"]) == 0
    assert ran(root) == []


def test_claims_and_its_help_import_nothing_heavy(root):
    code = """
import sys
from deva_theory.cli import main
assert main(["claims"]) == 0
print("heavy:", sorted({"torch", "scipy", "sympy", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_verify_on_a_clean_clone(verified, capsys):
    (verified / "log.txt").unlink()
    assert main(["verify", "--quiet", "--json", "out.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == "all verdicts as expected"
    assert "7 claims: 1 PROVED, 4 SUPPORTED, 1 REFUTED, 1 NOT_CHECKED; fast tier, " in out
    assert "  T1         SUPPORTED     squares are nonnegative" in out
    assert "rests on refuted T2" in out
    document = json.loads((verified / "out.json").read_text(encoding="utf-8"))
    assert document == json.loads((verified / "build" / "claims" / "verdicts.json").read_text(encoding="utf-8"))
    assert (document["tier"], document["changed"], document["format"]) == ("fast", [], 1)
    assert document["counts"] == {"NOT_CHECKED": 1, "PROVED": 1, "REFUTED": 1, "SUPPORTED": 4}
    by_id = {entry["id"]: entry for entry in document["claims"]}
    assert list(by_id) == ["T1", "T2", "T3-proved", "T3-random", "T4", "T5", "T7"]
    assert by_id["T1"]["refuted_premises"] == ["T2"]
    assert by_id["T2"]["counterexample"] == "zero"
    assert by_id["T7"]["origin"] == "tier" and by_id["T4"]["summary"] == "too hard"
    assert read_file(verified / "build" / "claims" / "evidence" / "T1.json")["content"]["tier"] == "fast"
    # Both tiers have their own cache, and the committed evidence stays the full tier's.
    assert ran(verified) == ["squares", "second"]
    assert read_file(verified / "paper_checks" / "evidence" / "T1.json")["content"]["tier"] == "full"
    assert main(["verify", "--quiet"]) == 0
    assert ran(verified) == ["squares", "second"]
    assert main(["verify", "--quiet", "--no-cache", "T1"]) == 0
    assert ran(verified) == ["squares", "second", "squares"]


def test_verify_says_what_changed_and_where(root, capsys):
    make_clone(root, claim("T1", "above_one"), claim("T2", "blind"), claim("T3", "squares", "PROVED"))
    assert main(["verify", "T1", "T2", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "! T1  REFUTED       title of T1\n      expected SUPPORTED\n" in out
    assert "! T2  SUPPORTED     title of T2\n      the negative control passed" in out
    assert "changed: T1 is REFUTED, expected SUPPORTED; if it is meant, edit paper_checks/claims.toml, line 1\n" in out
    assert "worthless: T2: the negative control passed: SUPPORTED for the claim" in out
    assert "T3" not in out and "as expected" not in out
    assert main(["verify", "T3", "--quiet"]) == 1  # weaker than expected
    assert "changed: T3 is SUPPORTED, expected PROVED" in capsys.readouterr().out


def test_verify_reports_a_problem_at_once_on_standard_error(root, capsys):
    make_clone(root, claim("T1", "raising"), claim("T2", "squares"))
    assert main(["verify"]) == 1
    out, err = capsys.readouterr()
    assert "T1: the check raised ZeroDivisionError: division by zero (toy.py, line " in err
    assert "  T2  SUPPORTED" in out


def test_missing_extra_is_one_line_below_its_claim_and_no_change(root, capsys):
    assert main(["verify", "T8", "T5", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "  T8  NOT_CHECKED   title of T8\n      the cross-check needs PEPit: pip install 'deva-theory[certify]'\n" in out


def test_missing_extra_keeps_what_is_committed(verified, capsys):
    edit(verified / "paper_checks" / "claims.toml", '"toy:second"', '"toy:needing"\nextra = "certify"')
    committed = (verified / "paper_checks" / "evidence" / "T5.json").read_bytes()
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 0
    assert "not copied: T5" in capsys.readouterr().out
    assert (verified / "paper_checks" / "evidence" / "T5.json").read_bytes() == committed
    assert "T5.json) | title of T5 | SUPPORTED |" in (verified / "paper_checks" / "README.md").read_text(encoding="utf-8")


def test_interrupted_verify_resumes(root, capsys):
    (root / "interrupt-second").touch()
    assert main(["verify", "T1", "T5", "--quiet"]) == 130
    assert "the same command resumes" in one_line(capsys.readouterr().err)
    assert (root / "build" / "claims" / "evidence" / "T1.json").is_file()
    (root / "interrupt-second").unlink()
    assert main(["verify", "T1", "T5", "--quiet"]) == 0
    assert ran(root) == ["squares", "second", "second"]


def test_update_writes_evidence_verdicts_and_tables(root, capsys):
    make_clone(root, *LEDGER[:2])
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "copied to paper_checks/; commit it if the changes are meant" in out and "not copied" not in out
    folder = root / "paper_checks"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json")) == [
        "counterexamples/zero.json", "evidence/T1.json", "evidence/T2.json", "verdicts.json",
    ]
    content = read_file(folder / "evidence" / "T1.json")["content"]
    assert (content["verdict"], content["tier"], content["statement"]) == ("SUPPORTED", "full", "Statement of T1.")
    assert json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))["tier"] == "full"
    assert (root / "README.md").read_text(encoding="utf-8").splitlines()[4:-1] == [
        "2 claims: 1 SUPPORTED, 1 REFUTED.",
        "",
        "| item | stands | first statement | refuted, with a counter-example |",
        "|---|---|---|---|",
        r"| T1 | 1 SUPPORTED | squares are nonnegative: a\|b, x\_1 and \*y\* |  |",
        "| T2 | none | squares are at least 1 | [T2](paper_checks/evidence/T2.json) squares are at least 1 |",
        "",
    ]
    assert (folder / "README.md").read_text(encoding="utf-8").splitlines()[4:-1] == [
        "2 claims: 1 SUPPORTED, 1 REFUTED.",
        "",
        "| claim | statement | verdict | how we know, or what breaks it |",
        "|---|---|---|---|",
        r"| [T1](evidence/T1.json) | squares are nonnegative: a\|b, x\_1 and \*y\* | SUPPORTED (rests on refuted T2) "
        "| search: the toy is SUPPORTED |",
        "| [T2](evidence/T2.json) | squares are at least 1 | **REFUTED** | search: the toy is REFUTED |",
        "",
    ]


def test_update_of_some_claims_keeps_the_others(verified, capsys):
    old = json.loads((verified / "paper_checks" / "verdicts.json").read_text(encoding="utf-8"))
    edit(verified / "paper_checks" / "claims.toml", "squares are at least 1", "each square is at least 1")
    assert main(["verify", "T2", "--tier", "full", "--update", "--quiet"]) == 0
    new = json.loads((verified / "paper_checks" / "verdicts.json").read_text(encoding="utf-8"))
    assert new["claims"].pop(1)["title"] == "each square is at least 1"
    assert old["claims"].pop(1)["title"] == "squares are at least 1"
    assert new["claims"] == old["claims"] and new["counts"] == old["counts"]
    assert "each square is at least 1" in (verified / "README.md").read_text(encoding="utf-8")


def test_update_leaves_worthless_checks_alone(verified, capsys):
    committed = (verified / "paper_checks" / "evidence" / "T5.json").read_bytes()
    edit(verified / "paper_checks" / "claims.toml", '"toy:second"', '"toy:blind"')
    edit(verified / "paper_checks" / "claims.toml", "title of T5", "new title")
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 1
    assert "not copied: T5" in capsys.readouterr().out
    assert (verified / "paper_checks" / "evidence" / "T5.json").read_bytes() == committed
    document = json.loads((verified / "paper_checks" / "verdicts.json").read_text(encoding="utf-8"))
    assert not any(entry["problems"] for entry in document["claims"])
    assert "new title" not in (verified / "README.md").read_text(encoding="utf-8")
    # Without anything committed there is no row at all.
    (verified / "paper_checks" / "verdicts.json").unlink()
    assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 1
    assert "T5" not in (verified / "README.md").read_text(encoding="utf-8")


def test_changed_verdict_is_copied_and_told(verified, capsys):
    edit(verified / "paper_checks" / "claims.toml", '"toy:second"', '"toy:above_one"')
    assert main(["verify", "T5", "--tier", "full", "--update", "--quiet"]) == 1
    assert "changed: T5 is REFUTED, expected SUPPORTED" in capsys.readouterr().out
    document = json.loads((verified / "paper_checks" / "verdicts.json").read_text(encoding="utf-8"))
    assert document["changed"] == ["T5"] and document["counts"]["REFUTED"] == 2


def test_damaged_verdicts_are_made_again_by_the_whole_run_only(verified, capsys):
    path = verified / "paper_checks" / "verdicts.json"
    good = path.read_text(encoding="utf-8")
    for bad in ("<<<<<<< ours\n" + good, "[]", '{"claims": [3]}', None):
        path.unlink() if bad is None else path.write_text(bad, encoding="utf-8")
        (verified / "log.txt").unlink(missing_ok=True)
        capsys.readouterr()
        line = bad_input(["verify", "T1", "--tier", "full", "--update", "--no-cache"], capsys)
        assert "verdicts.json is missing or damaged: run `deva-theory verify --tier full --update` for all claims" in line
        assert ran(verified) == []  # said before the long run
        assert main(["verify", "--tier", "full", "--update", "--quiet"]) == 0
        assert json.loads(path.read_text(encoding="utf-8"))["claims"] == json.loads(good)["claims"]


def test_update_with_a_broken_readme_says_so_before_the_run(verified, capsys):
    edit(verified / "README.md", "as: claim summary", "as: claim list")
    (verified / "log.txt").unlink()
    assert bad_input(["verify", "--tier", "full", "--update", "--no-cache"], capsys).startswith("deva-theory: README.md: ")
    assert ran(verified) == []


STALE = {
    "edited": (lambda path: edit(path, '"gap": 0.0', '"gap": 0.5'), "evidence/T1.json was edited by hand"),
    "damaged": (lambda path: path.write_text("{"), "evidence/T1.json is damaged"),
    "missing": (lambda path: path.unlink(), "evidence/T1.json does not exist"),
    "of no claim": (lambda path: shutil.copy(path, path.with_name("T9.json")), "evidence/T9.json belongs to no claim: delete it"),
    "of another claim": (lambda path: shutil.copy(path.with_name("T5.json"), path), "evidence/T1.json is about T5: run"),
}


@pytest.mark.parametrize(("harm", "words"), STALE.values(), ids=STALE)
def test_verify_notices_committed_evidence_that_cannot_be_trusted(verified, capsys, harm, words):
    harm(verified / "paper_checks" / "evidence" / "T1.json")
    assert main(["verify", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert f"evidence: {words}" in out and "as expected" not in out
    assert main(["verify", "T5", "--quiet"]) == 0  # of all claims only


def test_verify_notices_an_edited_entry(verified, capsys):
    edit(verified / "paper_checks" / "claims.toml", "Statement of T5.", "Another statement.")
    assert main(["verify", "--quiet"]) == 1
    assert "evidence: evidence/T5.json is about another wording: run `deva-theory verify T5 --tier" in capsys.readouterr().out


BAD_INPUT = {
    "unknown claim": (["verify", "TT1"], "unknown claim 'TT1': did you mean T1?"),
    "one of several": (["verify", "T1", "t3-prove"], "unknown claim 't3-prove': did you mean T3-proved?"),
    "listed": (["claims", "t3"], "unknown claim 't3': did you mean T3?"),
    "explained": (["explain", "T11"], "unknown claim 'T11': did you mean T1?"),
    "family explained": (["explain", "T3"], "T3 is split into T3-proved, T3-random: name one of them"),
    "attacked": (["falsify", "t5"], "unknown claim 't5': did you mean T5?"),
    "json in no folder": (["verify", "--json", "no/out.json"], "--json no/out.json: its folder does not exist"),
    "json is a folder": (["verify", "--json", "paper_checks"], "--json paper_checks is a folder: name a file"),
    "update of the fast tier": (["verify", "--update"], "--update keeps the evidence of the full tier: add --tier full"),
    "tier": (["verify", "--tier", "slow"], "invalid choice: 'slow'"),
    "verdict": (["claims", "--verdict", "TRUE"], "invalid choice: 'TRUE'"),
    "root": (["verify", "--root", "paper_checks"], "--root paper_checks holds no paper_checks/claims.toml"),
    "nothing to explain": (["explain"], "ID"),
    "budget": (["falsify", "T5", "--budget", "soon"], "'soon' is no time such as 60s or 2m"),
    "no budget": (["falsify", "T5", "--budget", "0s"], "'0s' is no time such as 60s or 2m"),
    "endless budget": (["falsify", "T5", "--budget", "inf"], "'inf' is no time such as 60s or 2m"),
    "budget not a number": (["falsify", "T5", "--budget", "nan"], "'nan' is no time"),
    "unit of budget": (["falsify", "T5", "--budget", "3d"], "'3d' is no time"),
    "attack on nothing": (["falsify", "T4"], "T4 is NOT_CHECKED (too hard): there is no check to attack"),
    "attack without randomness": (["falsify", "T7", "--budget", "1s"], "T7: its check uses no random numbers"),
    "not verified yet": (["explain", "T1"], "evidence/T1.json does not exist; make it again with `deva-theory verify"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(root, capsys, arguments, words):
    if "falsify" in arguments:
        arguments = [*arguments, "--quiet"]
    assert words in bad_input(arguments, capsys)
    assert "squares" not in ran(root)


@pytest.mark.parametrize("command", [["claims"], ["verify"], ["explain", "T1"], ["falsify", "T1"], ["reproduce"]], ids=" ".join)
def test_malformed_ledger_is_named_with_line_and_field(root, capsys, command):
    edit(root / "paper_checks" / "claims.toml", 'expected = "REFUTED"', 'expected = "REFUTD"')
    line = bad_input(command, capsys)
    assert line.startswith("deva-theory: claims.toml, line 28, claim 'T2', field 'expected': 'REFUTD' is none of ")
    assert line.endswith("did you mean REFUTED?")
    (root / "paper_checks" / "claims.toml").write_text("[[claim]]\nid = T1\n")
    assert "line 2, column 6" in bad_input(command, capsys)
    (root / "paper_checks" / "claims.toml").write_bytes(b"# \xff\n")
    assert "claims.toml is not UTF-8 at byte 2: save it as UTF-8" in bad_input(command, capsys)


def test_explain_has_everything(verified, capsys):
    assert main(["explain", "T1"]) == 0
    out = capsys.readouterr().out
    for words in (
        "T1: squares are nonnegative", "verdict      SUPPORTED", "marked       rests on refuted T2", "kind         identity",
        "source       derived here", "Statement of T1.", "    x = x", "assumptions\n    - x is real", "depends on   T2",
        "method       search",
        "tolerance    none: a toy", "the toy is SUPPORTED", "budget       3 instances", "gap = 0",
        "negative control\n    another level\n    found REFUTED: the toy is REFUTED",
    ):
        assert words in out
    assert "counter-example" not in out and "stale" not in out and "PROBLEM" not in out


def test_explain_of_an_unchecked_claim(verified, capsys):
    assert main(["explain", "T4"]) == 0
    out = capsys.readouterr().out
    assert "verdict      NOT_CHECKED" in out and "not checked  too hard" in out


def test_explain_shows_the_derivation_and_the_command_that_rechecks(verified, capsys):
    assert main(["explain", "T3-proved"]) == 0
    out = capsys.readouterr().out
    assert "    line 39\n    ... 10 more lines: --all" in out and "line 40" not in out
    assert main(["explain", "T3-proved", "--all"]) == 0
    out = capsys.readouterr().out
    assert "    line 49\n" in out and "more lines" not in out
    command = out.splitlines()[-1].split()
    assert command == ["python", "-m", "deva_theory.recheck", "paper_checks/evidence/T3-proved.json"]
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, encoding="utf-8", cwd=verified)
    assert done.returncode == 0, done.stdout


def test_printed_snippet_runs_in_a_fresh_process(verified, capsys):
    assert main(["explain", "T2"]) == 0
    out = capsys.readouterr().out
    assert "counter-example\n    every square is at least 1; 0 is not\n" in out
    snippet = out[out.index("from paper_checks.toy import square_gap") :]
    assert "print(violation)  # 1: positive, so the statement fails" in snippet
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, encoding="utf-8", cwd=verified)
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr


def test_explain_takes_a_new_claims_evidence_from_the_last_run(root, capsys):
    assert main(["verify", "T3-proved", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["explain", "T3-proved"]) == 0
    assert "python -m deva_theory.recheck build/claims/evidence/T3-proved.json" in capsys.readouterr().out


def test_explain_says_that_the_verdict_changed_and_that_the_wording_did(verified, capsys):
    edit(verified / "paper_checks" / "claims.toml", "Statement of T5.", "Another statement.")
    edit(verified / "paper_checks" / "claims.toml", 'check = "toy:second"', 'check = "toy:second"\ntier = "full"')
    assert main(["explain", "T5"]) == 0
    out = capsys.readouterr().out.replace("\n" + " " * 13, " ")  # unwrapped
    assert "stale        the evidence is about another wording: run `deva-theory verify T5 --tier full --update`" in out
    edit(verified / "paper_checks" / "claims.toml", 'expected = "REFUTED"', 'expected = "SUPPORTED"')
    assert main(["explain", "T2"]) == 0
    assert "verdict      REFUTED\nexpected     SUPPORTED  (the verdict has changed)" in capsys.readouterr().out


UNTRUSTED = {
    "edited evidence": ("evidence/T2.json", lambda path: edit(path, "SUPPORTED", "REFUTED"), "evidence/T2.json was edited by hand"),
    "edited numbers": ("counterexamples/zero.json", lambda path: edit(path, '"level": 1.0', '"level": 2.0'), "was edited by hand"),
    "no numbers": ("counterexamples/zero.json", lambda path: path.unlink(), "counterexamples/zero.json does not exist"),
    "not finite": ("evidence/T2.json", lambda path: edit(path, '"seed": null', '"seed": NaN'), "evidence/T2.json is damaged (ValueError"),
    "damaged": ("evidence/T2.json", lambda path: path.write_text("{"), "evidence/T2.json is damaged"),
    "another's": ("evidence/T2.json", lambda path: shutil.copy(path.with_name("T1.json"), path), "evidence/T2.json is about T1: run"),
}


@pytest.mark.parametrize(("file", "harm", "words"), UNTRUSTED.values(), ids=UNTRUSTED)
def test_explain_trusts_no_edited_file(verified, capsys, file, harm, words):
    harm(verified / "paper_checks" / file)
    assert words in bad_input(["explain", "T2"], capsys)


def test_explain_of_evidence_without_its_fields_is_bad_input(verified, capsys):
    write_file(verified / "paper_checks" / "evidence" / "T2.json", {"claim": "T2"})
    assert "evidence/T2.json lacks " in bad_input(["explain", "T2"], capsys)


def test_falsify_finds_shrinks_and_keeps(root, capsys):
    assert main(["falsify", "T5", "--budget", "20s", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "T5: largest violation " in out
    path = root / "build" / "claims" / "counterexamples" / "T5-falsified.json"
    content = read_file(path)["content"]
    assert content["claim"] == "T5" and content["replay"] == "paper_checks.toy:above"
    assert sum(x * x for x in content["data"]["x"]) > 4
    assert all(x == round(x, 2) for x in content["data"]["x"])  # shrunk
    assert "kept in build/claims/counterexamples/T5-falsified.json:" in out
    snippet = out[out.index("from paper_checks.toy import above") :]
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, encoding="utf-8", cwd=root)
    assert done.returncode == 0 and float(done.stdout) > 0, done.stderr


def test_falsify_of_a_refuted_claim_is_as_expected(root, capsys):
    make_clone(root, *LEDGER[:1], LEDGER[1], claim("T6", "above_one", "REFUTED", falsify="toy:above_attack"))
    assert main(["falsify", "T6", "--budget", "20s", "--quiet"]) == 0
    assert "violation " in capsys.readouterr().out
    edit(root / "paper_checks" / "claims.toml", "above_attack", "below_attack")
    assert main(["falsify", "T6", "--budget", "0.05s", "--quiet"]) == 0
    assert "no violation, but T6 is REFUTED: `deva-theory explain T6` shows the known one; raise --budget" in capsys.readouterr().out


def test_falsify_finds_nothing_against_a_true_statement(root, capsys):
    assert main(["falsify", "T3-proved", "--budget", "0.05s", "--quiet"]) == 0
    assert one_line(capsys.readouterr().out).endswith("evaluations; the statement stands (margin 1e-06)")
    assert not (root / "build").exists()


def test_falsify_with_fresh_seeds(root, capsys):
    assert main(["falsify", "T3-random", "--budget", "0.000001s", "--quiet"]) == 0
    assert one_line(capsys.readouterr().out) == "T3-random: 1 fresh seeds, none REFUTED it"
    # Two standard deviations are exceeded soon; the module is imported anew.
    edit(root / "paper_checks" / "toy.py", "level = 0.0 if run.twin else 25.0", "level = 0.0 if run.twin else 4.0")
    with no_checks_loaded():
        assert main(["falsify", "T3-random", "--budget", "20s", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "T3-random: REFUTED with seed 1: " in out and "from paper_checks.toy import excess" in out


def test_falsify_names_what_can_be_attacked_instead(root, capsys):
    make_clone(root, claim("T3-exact", "proved", "PROVED"), *LEDGER[2:])
    assert bad_input(["falsify", "T3-exact"], capsys).endswith("T3-exact is PROVED by search: nothing random to search; attack T3-proved")


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("no_attack", ["paper_checks/toy.py has no function no_attack"]),
        ("no_replay_attack", ["T1: largest violation ", ", at [", "; toy:no_replay_attack sets no replay"]),
        ("other_replay_attack", ["what was found does not replay, violation -", "correct paper_checks.toy:below or the search"]),
    ],
)
def test_falsify_with_a_broken_attack_is_bad_input(root, capsys, attack, words):
    make_clone(root, claim("T1", "squares", falsify=f"toy:{attack}"))
    line = bad_input(["falsify", "T1", "--quiet"], capsys) if attack == "no_attack" else None
    if line is None:
        assert main(["falsify", "T1", "--budget", "20s", "--quiet"]) == 2
        line = one_line(capsys.readouterr().err)
    assert all(part in line for part in words)


def test_reproduce_verifies_the_fast_tier(verified, capsys):
    (verified / "figures").mkdir()
    (verified / "figures" / "growth.py").write_text(
        "EXPERIMENT = 'e'\nTABLES = ('t',)\n\ndef draw(data, out, formats):\n    return []\n"
    )
    (verified / "experiments").mkdir()
    (verified / "experiments" / "e.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Config:\n    n: int = 1\n\n"
        "def compute(config, *, cache, progress):\n    return {'t': {'x': [1.0]}}\n\ndef summary(tables):\n    return 'fine'\n"
    )
    assert main(["reproduce", "--update", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "fast tier, " in out and "all verdicts as expected" in out
    assert read_file(verified / "paper_checks" / "evidence" / "T1.json")["content"]["tier"] == "full"
    edit(verified / "paper_checks" / "claims.toml", 'expected = "REFUTED"', 'expected = "SUPPORTED"')
    assert main(["reproduce", "--quiet"]) == 1
    assert "changed: T2 is REFUTED" in capsys.readouterr().out
