"""Evidence and counter-examples as files: hashed content, provenance beside it.

A file is ``{"content": {...}, "sha256": "...", "provenance": {...}}``.  The hash is of the content's canonical JSON
(`deva_theory.recheck.canonical_hash`), so a number edited by hand no longer fits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from deva_theory.recheck import canonical_hash

__all__ = ["EvidenceError", "plain", "read_file", "write_file"]


class EvidenceError(ValueError):
    """An evidence or counter-example file cannot be trusted; the message says which, why and what to do."""


def plain(value: Any, where: str = "value") -> Any:
    """Return `value` in JSON types: tensors and arrays as lists, fractions and infinities as strings.

    Raises
    ------
    TypeError
        If something has no JSON form; names its place.
    """
    if value is None or isinstance(value, bool | int | str):
        return value + "" if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Fraction):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # torch tensors, NumPy arrays and scalars
        return plain(value.tolist(), where)
    raise TypeError(f"{where}: a {type(value).__name__} cannot be written as JSON")


def write_file(path: Path, content: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> str:
    """Write content with its hash, atomically, and return the hash."""
    content = plain(content, path.stem)
    digest = canonical_hash(content)
    document: dict[str, Any] = {"content": content, "sha256": digest}
    if provenance is not None:
        document["provenance"] = plain(provenance)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        Path(temporary).chmod(0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return digest


def read_file(path: Path) -> dict[str, Any]:
    """Return the document of a file whose content fits its hash.

    Raises
    ------
    EvidenceError
        If the file is missing, damaged, or was edited by hand.
    """
    again = "make it again with `deva-theory verify --tier full --update`"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
        content, digest = document["content"], document["sha256"]
        found = canonical_hash(content)
    except FileNotFoundError:
        raise EvidenceError(f"{path.parent.name}/{path.name} does not exist; {again}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # NaN and infinity have no canonical form either
        raise EvidenceError(f"{path.parent.name}/{path.name} is damaged ({type(error).__name__}: {error}); {again}") from None
    if not isinstance(content, dict) or found != digest:
        raise EvidenceError(f"{path.parent.name}/{path.name} was edited by hand: its content does not fit its hash; {again}")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):  # a reader may see the first of two equal keys, the hash covers the last
        raise ValueError("a key occurs twice in one object")
    return result
