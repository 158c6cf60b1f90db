"""Re-check the certificates of evidence files with nothing but the standard library.

This package shares no code with what makes the certificates and imports nothing else of the project: it can be read in one
sitting and copied elsewhere.  ``python -m deva_theory.recheck FILE...`` checks files; with ``-v`` it prints what each
certificate shows, assumes and cites.

Whether the steps say what the claim says is for the reader: no program here compares the two.  Assumptions and citations are
printed for that, and nothing vouches for them; a step that is true may still be beside the point.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import algebra, duality, enclosure, products, psd, values
from .reading import Rejected, quoted

__all__ = ["Report", "Unreadable", "canonical_hash", "recheck", "recheck_file"]

_CHECKS = {
    "algebra": algebra.check,
    "dual": duality.check,
    "enclosure": enclosure.check,
    "products": products.check,
    "psd": psd.check,
    "values": values.check,
}


class Unreadable(ValueError):
    """A file cannot be opened or is not JSON."""


@dataclass(frozen=True)
class Report:
    """What the re-check found.

    Attributes
    ----------
    ok : bool
        Whether there are certificates and every one of them holds.
    lines : tuple of str
        One line per certificate: what it shows, assumes and cites, or the place and the reason of its rejection.
    """

    ok: bool
    lines: tuple[str, ...]


def recheck(content: Mapping[str, Any]) -> Report:
    """Re-check all certificates of an evidence's content; never raises on what they hold.

    Parameters
    ----------
    content : mapping
        Holds a list under "certificates".  None, an empty list and an unknown type are not ok.
    """
    certificates = content.get("certificates") if isinstance(content, Mapping) else None
    if not isinstance(certificates, (list, tuple)) or not certificates:
        return Report(False, ("no certificates",))
    ok, lines = True, []
    for i, certificate in enumerate(certificates):
        kind = certificate.get("type") if isinstance(certificate, Mapping) else None
        check = _CHECKS.get(kind) if isinstance(kind, str) else None
        place = f"certificate {i} ({kind if check else quoted(kind)})"
        try:
            if check is None:
                raise Rejected("unknown type")
            lines.append(f"{place}: {check(certificate)}")
        except Rejected as failure:
            ok = False
            lines.append(f"{place}: REJECTED: {failure}")
        except Exception as failure:  # whatever a malformed certificate provokes, it has not shown anything
            ok = False
            lines.append(f"{place}: REJECTED: cannot be checked ({type(failure).__name__}: {quoted(str(failure))})")
    return Report(ok, tuple(lines))


def canonical_hash(content: Any) -> str:
    """Return the SHA-256 of the content's canonical JSON: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises
    ------
    ValueError, TypeError
        If the content is not JSON.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        # A reader may see the first of two equal keys while the parser keeps the last.
        raise ValueError("a key occurs twice in one object")
    return result


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def recheck_file(path: str | os.PathLike[str]) -> Report:
    """Re-check an evidence file ``{"content": {...}, "sha256": "...", ...}``, the hash first.

    Raises
    ------
    Unreadable
        If the file cannot be opened or is not JSON; one line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            evidence = json.load(file, object_pairs_hook=_object, parse_constant=_not_a_number)
    except OSError as failure:
        raise Unreadable(failure.strerror or "cannot be opened") from None
    except (ValueError, RecursionError) as failure:
        raise Unreadable(f"not JSON: {quoted(str(failure))}") from None
    if not isinstance(evidence, dict) or "content" not in evidence or "sha256" not in evidence:
        return Report(False, ("not an evidence file: 'content' and 'sha256' are needed",))
    try:
        found = canonical_hash(evidence["content"])
    except (ValueError, TypeError, RecursionError):
        return Report(False, ("the content has no canonical form",))
    if found != evidence["sha256"]:
        return Report(False, ("the content does not match its sha256",))
    return recheck(evidence["content"])
