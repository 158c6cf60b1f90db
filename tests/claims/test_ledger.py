"""claims.toml as bad input: every error is one line that names the file, the line, the claim and the field."""

import re

import pytest

from deva_theory.claims import Kind, LedgerError, Verdict, load_ledger, parse_ledger

ENTRY = {
    "id": '"T1"',
    "title": '"x = x"',
    "kind": '"identity"',
    "source": '"derived here"',
    "statement": '"Every x equals itself."',
    "latex": "'x = x'",
    "assumptions": "[]",
    "depends_on": "[]",
    "method": '"search"',
    "tolerance": '"none: exact"',
    "control": '"x = x + 1"',
    "expected": '"SUPPORTED"',
    "check": '"toy:same"',
}


def entry(**changes):
    """One [[claim]], a field a line; None leaves a field out. Line 1 is the header, line 2 the id, and so on."""
    fields = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    return "\n".join(["[[claim]]", *(f"{key} = {value}" for key, value in fields.items())]) + "\n"


def message_of(text):
    with pytest.raises(LedgerError) as caught:
        parse_ledger(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def line_of(text, start):
    """Line of the last line of a text that starts so."""
    return max(i for i, line in enumerate(text.split("\n"), 1) if line.startswith(start))


# what is wrong: (changes to a good entry, field, words)
FIELDS = {
    "unknown field": ({"tolerence": '"1e-6"'}, "tolerence", "unknown field; did you mean tolerance?"),
    "field like no other": ({"zzzz": "1"}, "zzzz", "unknown field; fields are id, title"),
    "subtable": ({"extras.x": "1"}, "extras", "unknown field; did you mean extra?"),
    "no statement": ({"statement": None}, "statement", "missing"),
    "no list": ({"depends_on": None}, "depends_on", "missing; [] says there are none"),
    "number for a text": ({"title": "3"}, "title", "a string is needed, not 3"),
    "list for a text": ({"source": '["a"]'}, "source", "a string is needed, not ['a']"),
    "empty text": ({"statement": '"  "'}, "statement", "empty"),
    "text for a list": ({"assumptions": '"none"'}, "assumptions", "a list of strings is needed, not 'none'"),
    "numbers in a list": ({"assumptions": "[1]"}, "assumptions", "a list of strings is needed, not [1]"),
    "optional of a wrong type": ({"tier": "1"}, "tier", "a string is needed, not 1"),
    "kind": ({"kind": '"identty"'}, "kind", "none of identity, inequality, rate, empirical, paper-vs-code; did you mean identity?"),
    "verdict": ({"expected": '"PROVEN"'}, "expected", "did you mean PROVED?"),
    "verdict in small letters": ({"expected": '"supported"'}, "expected", "did you mean SUPPORTED?"),
    "verdict like no other": ({"expected": '"42"'}, "expected", "'42' is none of PROVED, CERTIFIED, "),
    "id": ({"id": '"t 1"'}, "id", "'t 1' is no id such as D3 or D3-ema"),
    "id as a path": ({"id": '"../T1"'}, "id", "is no id"),
    "title too long": ({"title": f'"{"x" * 91}"'}, "title", "91 characters; at most 90"),
    "tier": ({"tier": '"slow"'}, "tier", "'slow' is none of fast, full"),
    "check without a function": ({"check": '"toy"'}, "check", "'toy' is not of the form module:function"),
    "check outside the folder": ({"check": '"os.path:join"'}, "check", "not of the form module:function"),
    "falsify": ({"falsify": '"toy attack"'}, "falsify", "not of the form module:function"),
    "no check": ({"check": None}, "check", "missing: name module:function below paper_checks, or expect NOT_CHECKED"),
    "no reason": ({"check": None, "expected": '"NOT_CHECKED"'}, "reason", "missing: say why the claim is NOT_CHECKED"),
    "unchecked with a check": ({"expected": '"NOT_CHECKED"', "reason": '"hard"'}, "check", "expect what it finds, not NOT_CHECKED"),
    "reason without a need": ({"reason": '"hard"'}, "reason", "only a NOT_CHECKED claim has a reason"),
    "unknown premise": ({"depends_on": '["T0", "S1"]'}, "depends_on", "unknown claim 'S1'; did you mean T1?"),
    "premise of itself": ({"depends_on": '["T1"]'}, "depends_on", "a circle, T1 -> T1"),
    "duplicate": ({"id": '"T0"'}, "id", "the claim of line 2 has it already"),
}


@pytest.mark.parametrize(("changes", "field", "words"), FIELDS.values(), ids=FIELDS)
def test_malformed_entry_is_named_with_line_claim_and_field(changes, field, words):
    second = entry(**changes)
    text = "# two claims\n" + entry(id='"T0"') + "\n" + second
    message = message_of(text)
    # A missing field is reported where its entry begins.
    line = line_of(text, f"{field} =" if re.search(rf"^{field} =", second, re.MULTILINE) else "[[claim]]")
    claim = (ENTRY | changes)["id"].strip('"')
    assert message.startswith(f"claims.toml, line {line}, claim {claim!r}, field {field!r}: ")
    assert words in message


def test_entry_without_an_id_is_named_by_its_line():
    assert message_of(entry() + entry(id=None)).startswith("claims.toml, line 15, claim '?', field 'id': missing")


def test_circle_through_several_claims_is_printed():
    premises = {"T2": '["T4"]', "T3": '["T1", "T2"]', "T4": '["T3"]'}
    text = entry() + "".join(entry(id=f'"{name}"', depends_on=below) for name, below in premises.items())
    assert message_of(text) == "claims.toml, line 23, claim 'T2', field 'depends_on': a circle, T2 -> T4 -> T3 -> T2"


# Texts that are no list of entries: (text, line, words)
FILES = {
    "not TOML": (entry() + "title 3\n", 15, "Expected '=' after a key"),
    "field twice": (entry() + 'title = "again"\n', 15, "Cannot overwrite a value"),
    "open string": (entry(check='"toy'), 14, "Illegal character"),
    "open at the end": (entry().rstrip("\n") + "\nreason = '''never closed\n", 16, "at the end"),
    "open list": (entry(assumptions="["), 9, "Invalid value"),
    "other table": (entry() + "[settings]\nx = 1\n", 15, "unknown table 'settings'; entries are [[claim]]"),
    "misspelt table": (entry() + entry().replace("claim", "claims"), 15, "unknown table 'claims'"),
    "one table": ("\n[claim]\nid = 'T1'\n", 2, "write [[claim]] before each entry"),
    "a number": ("claim = 3\n", 1, "write [[claim]] before each entry"),
    "numbers": ("claim = [1, 2]\n", 1, "write [[claim]] before each entry"),
}


@pytest.mark.parametrize(("text", "line", "words"), FILES.values(), ids=FILES)
def test_malformed_file_is_named_with_its_line(text, line, words):
    message = message_of(text)
    assert message.startswith("claims.toml")
    assert re.search(rf"\bline {line}\b", message)
    assert words in message


def test_lines_are_counted_as_toml_counts_them():
    text = '# a comment with a line separator:\u2028and a next line:\x85\n' + entry(kind='"x"')
    assert message_of(text).startswith("claims.toml, line 5, ")
    assert message_of(text.replace("\n", "\r\n")).startswith("claims.toml, line 5, ")


def test_entries_in_one_line_are_still_named():
    fields = ", ".join(f"{key} = {value}" for key, value in (ENTRY | {"kind": '"x"'}).items())
    assert message_of(f"claim = [{{{fields}}}]\n").startswith("claims.toml, line 1, claim 'T1', field 'kind': 'x' is none of ")


def test_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "claims.toml"
    with pytest.raises(LedgerError, match=r"claims\.toml does not exist: restore it"):
        load_ledger(path)
    path.write_bytes(entry().encode() + b'# caf\xe9\n')
    with pytest.raises(LedgerError, match=rf"claims\.toml is not UTF-8 at byte {len(entry().encode()) + 5}"):
        load_ledger(path)


@pytest.fixture
def ledger():
    refuted = {"expected": '"REFUTED"'}
    return parse_ledger(
        entry() + entry(id='"D3-ema"', depends_on='["D4"]') + entry(id='"D3-linf"', depends_on='["D3-ema", "T1"]')
        + entry(id='"D4"', **refuted) + entry(id='"D30"', check=None, expected='"NOT_CHECKED"', reason='"no  data\\n yet"')
    )


def test_good_ledger(ledger):
    assert list(ledger) == ["T1", "D3-ema", "D3-linf", "D4", "D30"] and len(ledger) == 5
    claim = ledger["T1"]
    assert (claim.kind, claim.expected, claim.check, claim.tier, claim.line) == (Kind.IDENTITY, Verdict.SUPPORTED, "toy:same", "fast", 1)
    assert ledger["D30"].check is None and ledger["D30"].reason == "no data yet"
    assert len(parse_ledger("")) == 0


def test_select_takes_whole_names_and_families_in_the_order_of_the_file(ledger):
    assert ledger.select([]) == list(ledger.values())
    assert [claim.id for claim in ledger.select(["D4", "D3"])] == ["D3-ema", "D3-linf", "D4"]  # and not D30
    assert [claim.id for claim in ledger.select(["D3-linf", "D3-linf"])] == ["D3-linf"]


@pytest.mark.parametrize(("name", "near"), [("d4", "D4"), ("T2", "T1"), ("D3-emma", "D3-ema"), ("D3-LINF", "D3-linf"), ("d3", "D3")])
def test_unknown_name_gets_the_nearest(ledger, name, near):
    for ask in (ledger.one, lambda unknown: ledger.select(["T1", unknown])):
        with pytest.raises(LedgerError) as caught:
            ask(name)
        assert str(caught.value) == f"unknown claim {name!r}: did you mean {near}?; `deva-theory claims` lists them"


def test_one_names_the_parts_of_a_family(ledger):
    assert ledger.one("D3-ema").id == "D3-ema"
    with pytest.raises(LedgerError, match="D3 is split into D3-ema, D3-linf: name one of them"):
        ledger.one("D3")
    with pytest.raises(LedgerError, match="the ledger is empty"):
        parse_ledger("").one("D3")


def test_refuted_premises_are_found_at_any_depth_and_new_verdicts_go_first(ledger):
    assert ledger.refuted_premises(ledger["D3-linf"], {}) == ("D4",)
    assert ledger.refuted_premises(ledger["D3-linf"], {"D4": Verdict.PROVED}) == ()
    assert ledger.refuted_premises(ledger["D3-linf"], {"T1": Verdict.REFUTED}) == ("T1", "D4")
    assert ledger.refuted_premises(ledger["D4"], {}) == ()
