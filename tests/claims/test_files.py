"""Evidence files: an edited, damaged or non-finite one is detected, and a write happens whole or not at all."""

import json
import os
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.claims import Counterexample, EvidenceError, Verdict, read_file, write_file
from deva_theory.claims import files as files_module
from deva_theory.claims.files import plain
from deva_theory.recheck import canonical_hash

CONTENT = {"claim": "T1", "numbers": {"γ": 0.1, "n": 3, "best": None}, "list": [1, [True, "x"]], "certificates": []}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evidence" / "T1.json"
    write_file(path, CONTENT, {"seconds": 1.5})
    return path


def error_of(path):
    with pytest.raises(EvidenceError) as caught:
        read_file(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("evidence/T1.json ")
    assert message.endswith("make it again with `deva-theory verify --tier full --update`")
    return message


def test_what_is_written_is_read(path):
    document = read_file(path)
    assert document == {"content": CONTENT, "sha256": canonical_hash(CONTENT), "provenance": {"seconds": 1.5}}
    assert "γ" in path.read_text(encoding="utf-8")  # readable, and equal on every platform
    assert path.stat().st_mode & 0o777 == 0o644
    assert write_file(path, CONTENT) == canonical_hash(CONTENT)
    assert "provenance" not in read_file(path)


def edits(value, place=()):
    """Every document that differs from `value` in one leaf, key or length."""
    if isinstance(value, dict):
        for key in value:
            yield (*place, key), {k: v for k, v in value.items() if k != key}
            for where, edited in edits(value[key], (*place, key)):
                yield where, value | {key: edited}
        yield (*place, "new"), value | {"new": 1}
    elif isinstance(value, list):
        yield place, [*value, 0]
        for i, item in enumerate(value):
            for where, edited in edits(item, (*place, i)):
                yield where, [*value[:i], edited, *value[i + 1 :]]
    else:
        yield place, "other"
        yield place, 0.1000000001 if value == 0.1 else 4


@pytest.mark.parametrize("edited", [edited for _, edited in edits(CONTENT)], ids=str)
def test_every_edit_of_the_content_is_detected(path, edited):
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {"content": edited}), encoding="utf-8")
    assert "was edited by hand: its content does not fit its hash" in error_of(path)


def test_edited_hash_is_detected_and_another_layout_is_no_edit(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document, sort_keys=True, ensure_ascii=True), encoding="utf-8")
    assert read_file(path) == document
    path.write_text(json.dumps(document | {"sha256": "0" * 64}), encoding="utf-8")
    assert "was edited by hand" in error_of(path)


def good(path):
    return path.read_text(encoding="utf-8")


DAMAGE = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "conflict markers": lambda text: "<<<<<<< ours\n" + text,
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "3",
    "no hash": lambda text: '{"content": {}}',
    "no content": lambda text: '{"sha256": "x"}',
    "not a number": lambda text: text.replace("0.1", "NaN"),
    "infinite": lambda text: text.replace("0.1", "-Infinity"),
    "key twice": lambda text: text.replace('"n": 3', '"n": 4, "n": 3'),
    "half a character": lambda text: text.replace('"x"', r'"\ud800"'),
    "nested without end": lambda text: text.replace("0.1", "[" * 200_000),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_file_is_one_line(path, damage):
    path.write_text(damage(good(path)), encoding="utf-8")
    assert "is damaged (" in error_of(path)


def test_file_in_another_encoding_is_damaged(path):
    path.write_bytes(good(path).encode("utf-16"))
    assert "is damaged (UnicodeDecodeError" in error_of(path)


def test_missing_file_is_named(path):
    path.unlink()
    assert "does not exist" in error_of(path)


def test_content_that_is_no_table_is_an_edit(path):
    path.write_text(json.dumps({"content": [1], "sha256": canonical_hash([1])}), encoding="utf-8")
    assert "was edited by hand" in error_of(path)


@dataclass
class Point:
    x: float


def test_plain_values():
    tensor = torch.tensor([[1.0, math_inf], [float("nan"), 0.5]], dtype=torch.float64)
    assert plain(tensor) == [[1.0, "inf"], ["nan", 0.5]]
    assert plain({"a": np.float32(0.5), 1: (np.int64(2), Fraction(1, 3)), "b": -math_inf}) == {"a": 0.5, "1": [2, "1/3"], "b": "-inf"}
    assert plain([Verdict.PROVED, Point(math_inf), True, None]) == ["PROVED", {"x": "inf"}, True, None]
    assert type(plain(Verdict.PROVED)) is str
    assert plain(Counterexample("n", "s", "m:f", {"x": torch.tensor(1.0)}, 0.5))["data"] == {"x": 1.0}
    with pytest.raises(TypeError, match=r"evidence\.steps\[1\]\.f: a function cannot be written as JSON"):
        plain({"steps": [0, {"f": lambda: 0}]}, "evidence")
    with pytest.raises(TypeError, match="value: a set"):
        plain({1})


math_inf = float("inf")


def test_non_finite_numbers_are_written_as_words_and_read_back(tmp_path):
    path = tmp_path / "evidence" / "T1.json"
    write_file(path, {"numbers": {"largest": math_inf, "rate": float("nan"), "x": np.array([-math_inf])}})
    assert read_file(path)["content"] == {"numbers": {"largest": "inf", "rate": "nan", "x": ["-inf"]}}
    json.loads(good(path), parse_constant=pytest.fail)  # a file that every JSON reader accepts


def names(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_what_cannot_be_written_leaves_the_old_file(path):
    old = good(path)
    with pytest.raises(TypeError, match=r"T1\.f: a function"):
        write_file(path, {"f": lambda: 0})
    assert good(path) == old and names(path) == ["T1.json"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["full disk", "interrupt"])
@pytest.mark.parametrize("step", ["dumps", "replace"])
def test_interrupted_write_leaves_the_old_file_whole(path, monkeypatch, error, step):
    old = good(path)

    def stop(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        # canonical_hash has a json module of its own name; only this module's writing breaks.
        patch.setattr(*((os, "replace") if step == "replace" else (files_module, "json")), stop if step == "replace" else Broken(stop))
        with pytest.raises(type(error)):
            write_file(path, CONTENT | {"claim": "T2"})
    assert good(path) == old and names(path) == ["T1.json"]


class Broken:
    """A json module that cannot write."""

    def __init__(self, dumps):
        self.dumps = dumps


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])) | st.fractions(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
        max_leaves=12,
    )
)
def test_any_content_survives_its_file(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_file(path, {"value": value})
    assert read_file(path)["content"] == {"value": plain(value)}
