"""Certificates of type "values": exact comparisons of rational expressions without names."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from .algebra import constant
from .reading import Rejected, fields, items, quoted

_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "values"."""
    fields(certificate, "the certificate", ("show",), ("type", "name", "statement", "note"))
    show = items(certificate["show"], "show", 1)
    for i, entry in enumerate(show):
        if len(items(entry, f"show {i}")) != 3:
            raise Rejected(f"show {i} is not [expression, comparison, expression]")
        left, comparison, right = entry
        if not isinstance(comparison, str) or comparison not in _COMPARISONS:
            raise Rejected(f"show {i}: {quoted(comparison)} is none of {' '.join(_COMPARISONS)}")
        try:
            holds = _COMPARISONS[comparison](constant(left), constant(right))
        except Rejected as failure:
            raise Rejected(f"show {i}: {failure}") from None
        if not holds:
            raise Rejected(f"show {i}: {quoted(left)} {comparison} {quoted(right)} is false")
    return f"{len(show)} comparisons"
