"""Evidence files, the command line, malformed content, and that the package stands alone."""

from __future__ import annotations

import ast
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deva_theory.recheck
from deva_theory.recheck import Report, Unreadable, canonical_hash, recheck, recheck_file
from deva_theory.recheck.__main__ import main

GOOD = {
    "verdict": "PROVED",
    "summary": "γ ≤ 1",
    "certificates": [
        {
            "type": "algebra",
            "cases": [
                {
                    "name": "g > 0",
                    "positive": ["g", "a"],
                    "nonnegative": ["P", "b"],
                    "real": ["x"],
                    "definitions": {"a": "1 - b"},
                    "squares": {"r": "P + g**2"},
                    "steps": [
                        {"cite": "the mean value theorem"},
                        {"equal": ["(g/r)**2", "g**2/(P + g**2)"]},
                        {"at_most": ["(g/r)**2", "1"], "because": "P/(P + g**2)"},
                        {"equal": ["a + b", "1"]},
                        {"positive": "a*g"},
                    ],
                }
            ],
        },
        {
            "type": "dual",
            "variables": ["x"],
            "objective": {"x": "1"},
            "constraints": [{"name": "c", "row": {"x": "2"}, "at_most": "4"}],
            "multipliers": ["1/2"],
            "bound": "2",
            "point": {"x": "2"},
        },
        {
            "type": "enclosure",
            "map": [["3/2", "-1/2"]],
            "domain": ["1/2", "1"],
            "enclosure": ["0.6", "1.1"],
            "witnesses": [{"x": "1", "value_at_least": "0.99"}],
        },
        {"type": "psd", "matrix": [["1", "1/2"], ["1/2", "1"]]},
        {"type": "values", "show": [["4/3", ">", "1"]]},
        {"type": "products", "statement": "U is orthogonal", "matrices": {"U": [["0", "1"], ["1", "0"]]}, "show": [["U*U.T", "I"]]},
    ],
}


def write(path, content, **change):
    evidence = {"content": content, "sha256": canonical_hash(content), "provenance": {"seconds": 1.5}, **change}
    path.write_text(json.dumps(evidence, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def test_all_types_in_one_content():
    found = recheck(GOOD)
    assert found.ok and len(found.lines) == 6, found.lines
    assert isinstance(found, Report) and all("\n" not in line for line in found.lines)


@pytest.mark.parametrize("index", range(6))
def test_one_bad_certificate_is_enough(index):
    content = copy.deepcopy(GOOD)
    content["certificates"][index]["type"] = "trust me"
    found = recheck(content)
    assert not found.ok and f"certificate {index} ('trust me'): REJECTED: unknown type" in found.lines[index]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"certificates": []},
        {"certificates": None},
        {"certificates": {}},
        {"certificates": "psd"},
        [],
        None,
        1,
        {"certificates": [None]},
    ],
    ids=str,
)
def test_no_certificates_is_not_ok(content):
    assert not recheck(content).ok


def test_every_key_matters():
    optional = {"name", "real", "witnesses", "statement", "value_at_least"}
    for path in list(paths(GOOD["certificates"])):
        if isinstance(path[-1], str) and path[-1] not in optional:
            content = copy.deepcopy(GOOD)
            node = content["certificates"]
            for key in path[:-1]:
                node = node[key]
            del node[path[-1]]
            assert not recheck(content).ok, path


def paths(node, prefix=()):
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*prefix, key)
        yield from paths(child, (*prefix, key))


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["", "x", "1/0", "g/0", "1e5", "__import__", "x.T", "((", "9**9**9", "\x00", "é", "²", "\ud800", "r*r", "I"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@given(st.sampled_from(list(paths(GOOD["certificates"]))), JUNK)
def test_junk_anywhere_is_a_line(path, junk):
    content = copy.deepcopy(GOOD)
    node = content["certificates"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = junk
    found = recheck(content)
    assert all(isinstance(line, str) and "\n" not in line and "cannot be checked" not in line for line in found.lines)


@given(JUNK)
def test_junk_as_content_is_a_line(junk):
    assert not recheck(junk).ok
    assert not recheck({"certificates": junk}).ok
    assert not recheck({"certificates": [junk]}).ok


def test_hash_is_of_the_canonical_json():
    assert canonical_hash({"b": [1, 2.5, None], "a": "γ"}) == canonical_hash({"a": "γ", "b": [1, 2.5, None]})
    # sha256 of {"a":"γ"} in UTF-8
    assert canonical_hash({"a": "γ"}) == "9394de7490b1a4caa965e2e44698e434f7c69a0fa33af15a4d59f5576a0799d1"
    assert len({canonical_hash(x) for x in (1, "1", [1], {"1": 1}, None)}) == 5


@pytest.mark.parametrize("content", [float("nan"), float("inf"), {1, 2}, "\ud800"])
def test_hash_needs_json(content):
    with pytest.raises((ValueError, TypeError)):
        canonical_hash({"x": content})


def test_good_file(tmp_path):
    assert recheck_file(write(tmp_path / "D1.json", GOOD)).ok


def test_tampered_file(tmp_path):
    changed = copy.deepcopy(GOOD)
    changed["summary"] = "γ ≤ 2"
    found = recheck_file(write(tmp_path / "D1.json", changed, sha256=canonical_hash(GOOD)))
    assert not found.ok and "sha256" in found.lines[0]


@pytest.mark.parametrize(
    "evidence", [[], 1, {}, {"content": GOOD}, {"sha256": ""}, {"content": GOOD, "sha256": None}], ids=lambda e: str(e)[:20]
)
def test_not_an_evidence_file(tmp_path, evidence):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(evidence))
    assert not recheck_file(path).ok


def test_hashed_but_false(tmp_path):
    changed = copy.deepcopy(GOOD)
    changed["certificates"][4]["show"] = [["4/3", "<", "1"]]
    found = recheck_file(write(tmp_path / "D1.json", changed))
    assert not found.ok and "certificate 4 (values): REJECTED: show 0" in found.lines[4]


UNREADABLE = {
    "malformed": b'{"content": ',
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "NaN": b'{"content": NaN, "sha256": ""}',
    "infinity": b'{"content": {"x": -Infinity}, "sha256": ""}',
    "a key twice": b'{"content": 1, "content": 2, "sha256": ""}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_file(tmp_path, name, capsys):
    path = tmp_path / "x.json"
    path.write_bytes(UNREADABLE[name])
    with pytest.raises(Unreadable):
        recheck_file(path)
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(str(path))


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(Unreadable):
            recheck_file(path)


def test_command_line(tmp_path, capsys):
    good = write(tmp_path / "good.json", GOOD)
    bad = write(tmp_path / "bad.json", {**GOOD, "certificates": [{"type": "values", "show": [["1", "=", "2"]]}]})
    assert main([str(good)]) == 0
    assert main([str(good), str(bad)]) == 1
    assert main([str(tmp_path / "none.json"), str(bad), str(good)]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"{good}: ok, 6 certificates hold"
    assert "bad.json: NOT OK: certificate 0 (values): REJECTED" in out
    assert len(out.splitlines()) == 5 and len(err.splitlines()) == 1
    assert main([]) == 2 and main(["--help"]) == 2 and main(["-v"]) == 2
    capsys.readouterr()
    assert main(["-v", str(good), str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6 + 1 + 1
    assert "4 steps checked, 1 cited; assumes a = 1 - b > 0; cites 'the mean value theorem'" in lines[1]


def test_as_a_module_and_copied_elsewhere(tmp_path):
    # Isolated mode, and a copy: neither the project nor anything installed is within reach.
    source = Path(deva_theory.recheck.__file__).parent
    package = tmp_path / "elsewhere" / "checker"
    package.mkdir(parents=True)
    for file in source.glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    path = write(tmp_path / "D1.json", GOOD)
    run = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('checker', run_name='__main__', alter_sys=True)"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", run, str(package.parent), str(path)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.count("\n") == 1


def test_imports_only_the_standard_library():
    allowed = {
        "__future__",
        "ast",
        "collections",
        "dataclasses",
        "fractions",
        "hashlib",
        "json",
        "math",
        "operator",
        "os",
        "random",
        "re",
        "sys",
    }
    allowed |= {"typing", "warnings"}
    assert allowed <= sys.stdlib_module_names
    files = sorted(Path(deva_theory.recheck.__file__).parent.glob("*.py"))
    assert len(files) > 8
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, file
            elif isinstance(node, ast.ImportFrom):
                # Relative within the package: one dot, never more.
                assert node.level == 1 or (node.level == 0 and node.module.split(".")[0] in allowed), file
            elif isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec", "compile", "__import__", "importlib"}, file
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, file
