"""The ledger: claims.toml, read and validated, with errors that name the line and the field."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from deva_theory.claims.model import Claim, Kind, Verdict

__all__ = ["Ledger", "LedgerError", "load_ledger", "parse_ledger"]

_Choice = TypeVar("_Choice", bound=StrEnum)
_ID = re.compile(r"[A-Z][A-Za-z0-9]*(-[a-z0-9]+)*\Z")
_CHECK = re.compile(r"[a-z_][a-z0-9_]*:[a-z_][a-zA-Z0-9_]*\Z")
_TITLE = 90
_TIERS = ("fast", "full")
_TEXTS = ("id", "title", "kind", "source", "statement", "latex", "method", "tolerance", "control", "expected")
_LISTS = ("assumptions", "depends_on")
_OPTIONAL = ("check", "falsify", "tier", "extra", "reason")


class LedgerError(ValueError):
    """claims.toml cannot be used; the message names the line, the claim and the field."""


class Ledger(Mapping[str, Claim]):
    """All claims by id, in the order of the file."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = {claim.id: claim for claim in claims}

    def __getitem__(self, key: str) -> Claim:
        """Return the claim of this id."""
        return self._claims[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids in the file's order."""
        return iter(self._claims)

    def __len__(self) -> int:
        """Count the claims."""
        return len(self._claims)

    def select(self, ids: Sequence[str]) -> list[Claim]:
        """Return the named claims in the ledger's order; all of them if no name is given.

        A name also stands for its sub-statements: ``D3`` selects D3 and every ``D3-…``.

        Raises
        ------
        LedgerError
            If a name is unknown; suggests the nearest.
        """
        if not ids:
            return list(self.values())
        chosen: set[str] = set()
        for name in ids:
            found = [key for key in self if key == name or key.startswith(f"{name}-")]
            if not found:
                raise LedgerError(f"unknown claim {name!r}: {self._nearest(name)}; `deva-theory claims` lists them")
            chosen.update(found)
        return [claim for key, claim in self.items() if key in chosen]

    def one(self, name: str) -> Claim:
        """Return the claim of exactly this id.

        Raises
        ------
        LedgerError
            If there is none; names its sub-statements, or the nearest.
        """
        if name in self:
            return self[name]
        parts = [key for key in self if key.startswith(f"{name}-")]
        if parts:
            raise LedgerError(f"{name} is split into {', '.join(parts)}: name one of them")
        raise LedgerError(f"unknown claim {name!r}: {self._nearest(name)}; `deva-theory claims` lists them")

    def refuted_premises(self, claim: Claim, verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
        """Return the claims below `claim`, at any depth, that `verdicts` calls REFUTED."""
        seen: dict[str, None] = {}
        waiting = list(claim.depends_on)
        while waiting:
            premise = waiting.pop(0)
            if premise not in seen:
                seen[premise] = None
                waiting += self[premise].depends_on
        return tuple(premise for premise in seen if verdicts.get(premise, self[premise].expected) is Verdict.REFUTED)

    def _nearest(self, name: str) -> str:
        known = {key.upper(): key for name in self for key in (name.partition("-")[0], name)}
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.4)
        return f"did you mean {known[near[0]]}?" if near else f"none is spelled like it; items are {', '.join(self._items())}"

    def _items(self) -> list[str]:
        return list(dict.fromkeys(name.partition("-")[0] for name in self)) or ["none: the ledger is empty"]


def load_ledger(path: Path) -> Ledger:
    """Read and validate a claims.toml.

    Raises
    ------
    LedgerError
        If the file is missing, is no TOML, or an entry is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LedgerError(f"{path.name} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except FileNotFoundError:
        raise LedgerError(f"{path.name} does not exist: restore it from the clone") from None
    return parse_ledger(text, path.name)


def parse_ledger(text: str, name: str = "claims.toml") -> Ledger:
    """Validate the text of a claims.toml; see `load_ledger`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error).replace("at end of document", f"at the end, line {text.count(chr(10)) + 1}")
        raise LedgerError(f"{name}: {message}: correct the TOML there") from None
    unknown = [key for key in data if key != "claim"]
    if unknown:
        raise LedgerError(f"{name}, {_where(text, unknown[0])}: unknown table {unknown[0]!r}; entries are [[claim]]")
    entries = data.get("claim", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LedgerError(f"{name}, {_where(text, 'claim')}: 'claim' is no list of tables; write [[claim]] before each entry")
    lines = text.split("\n")  # TOML's own lines: str.splitlines splits at more characters
    starts = [i for i, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*claim\s*\]\]", line)]
    read: list[_Entry] = []
    for i, entry in enumerate(entries):
        start = starts[i] if i < len(starts) else 1
        end = starts[i + 1] if i + 1 < len(starts) else len(lines) + 1
        read.append(_Entry(name, entry, lines, start, end))
    claims = [entry.claim() for entry in read]
    _check_references(claims, read)
    return Ledger(claims)


def _where(text: str, key: str) -> str:
    for i, line in enumerate(text.split("\n"), 1):
        if re.match(rf"\s*\[*\s*[\"']?{re.escape(key)}\b", line):
            return f"line {i}"
    return "line 1"


class _Entry:
    """One [[claim]], with the lines it was read from."""

    def __init__(self, file: str, entry: dict[str, Any], lines: list[str], start: int, end: int) -> None:
        self.file, self.entry, self.lines, self.start, self.end = file, entry, lines, start, end

    def error(self, field: str, what: str) -> LedgerError:
        line = next(
            (i for i in range(self.start, self.end) if re.match(rf"\s*[\"']?{re.escape(field)}[\"']?\s*=", self.lines[i - 1])), self.start
        )
        return LedgerError(f"{self.file}, line {line}, claim {self.entry.get('id', '?')!r}, field {field!r}: {what}")

    def claim(self) -> Claim:
        known = (*_TEXTS, *_LISTS, *_OPTIONAL)
        for key in self.entry:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise self.error(key, f"unknown field{f'; did you mean {near[0]}?' if near else '; fields are ' + ', '.join(known)}")
        texts = {key: self._text(key) for key in _TEXTS}
        lists = {key: self._list(key) for key in _LISTS}
        optional = {key: self._text(key) for key in _OPTIONAL if key in self.entry}
        if not _ID.match(texts["id"]):
            raise self.error("id", f"{texts['id']!r} is no id such as D3 or D3-ema")
        if len(texts["title"]) > _TITLE:
            raise self.error("title", f"{len(texts['title'])} characters; at most {_TITLE}")
        expected = self._choice("expected", texts.pop("expected"), Verdict)
        kind = self._choice("kind", texts.pop("kind"), Kind)
        if optional.get("tier", "fast") not in _TIERS:
            raise self.error("tier", f"{optional['tier']!r} is none of {', '.join(_TIERS)}")
        for key in ("check", "falsify"):
            if key in optional and not _CHECK.match(optional[key]):
                raise self.error(key, f"{optional[key]!r} is not of the form module:function")
        unchecked = expected is Verdict.NOT_CHECKED
        if unchecked and "reason" not in optional:
            raise self.error("reason", "missing: say why the claim is NOT_CHECKED")
        if unchecked and "check" in optional:
            raise self.error("check", "a claim with a check is run: expect what it finds, not NOT_CHECKED")
        if not unchecked and "check" not in optional:
            raise self.error("check", "missing: name module:function below paper_checks, or expect NOT_CHECKED with a reason")
        if not unchecked and "reason" in optional:
            raise self.error("reason", "only a NOT_CHECKED claim has a reason")
        fields: dict[str, Any] = {**texts, **optional, **{key: tuple(value) for key, value in lists.items()}}
        return Claim(**fields, kind=kind, expected=expected, line=self.start)

    def _text(self, key: str) -> str:
        if key not in self.entry:
            raise self.error(key, "missing")
        value = self.entry[key]
        if not isinstance(value, str):
            raise self.error(key, f"a string is needed, not {value!r}")
        if not value.strip():
            raise self.error(key, "empty")
        return " ".join(value.split()) if key != "latex" else value.strip()

    def _list(self, key: str) -> list[str]:
        if key not in self.entry:
            raise self.error(key, "missing; [] says there are none")
        value = self.entry[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"a list of strings is needed, not {value!r}")
        return [" ".join(item.split()) for item in value]

    def _choice(self, key: str, value: str, choices: type[_Choice]) -> _Choice:
        try:
            return choices(value)
        except ValueError:
            near = difflib.get_close_matches(value.upper(), [c.value.upper() for c in choices], n=1, cutoff=0.5)
            hint = f"; did you mean {next(c.value for c in choices if c.value.upper() == near[0])}?" if near else ""
            raise self.error(key, f"{value!r} is none of {', '.join(choices)}{hint}") from None


def _check_references(claims: Sequence[Claim], entries: Sequence[_Entry]) -> None:
    by_id: dict[str, Claim] = {}
    entry_of: dict[str, _Entry] = {}
    for claim, entry in zip(claims, entries, strict=True):
        if claim.id in by_id:
            raise entry.error("id", f"the claim of line {by_id[claim.id].line} has it already")
        by_id[claim.id] = claim
        entry_of[claim.id] = entry
    for claim in claims:
        for premise in claim.depends_on:
            if premise not in by_id:
                near = difflib.get_close_matches(premise, by_id, n=1, cutoff=0.0)
                raise entry_of[claim.id].error("depends_on", f"unknown claim {premise!r}; did you mean {near[0]}?")
    done: set[str] = set()

    def visit(key: str, path: tuple[str, ...]) -> None:
        if key in path:
            circle = " -> ".join((*path[path.index(key) :], key))
            raise entry_of[key].error("depends_on", f"a circle, {circle}")
        if key not in done:
            for premise in by_id[key].depends_on:
                visit(premise, (*path, key))
            done.add(key)

    for key in by_id:
        visit(key, ())
