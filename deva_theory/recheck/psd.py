"""Certificates of type "psd": a symmetric rational matrix is positive semidefinite, by an exact LDLᵀ factorisation.

With pivot d > 0 the matrix is semidefinite iff its Schur complement is; a pivot d < 0 is ``eᵀAe < 0``; with d = 0 and an
entry a ≠ 0 in its row, a 2×2 minor is -a² < 0, and with a zero row the row may be dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .reading import Rejected, fields, matrix, shown

MAX_SIZE = 80
MAX_BITS = 200_000


def factorise(a: list[list[Fraction]]) -> list[Fraction]:
    """Return the pivots of a symmetric positive semidefinite matrix; the argument is used up.

    Raises
    ------
    Rejected
        If it is not positive semidefinite.
    """
    n = len(a)
    pivots = []
    for k in range(n):
        d = a[k][k]
        if d < 0:
            raise Rejected(f"pivot {k} is negative ({shown(d)}): not positive semidefinite")
        if d == 0 and any(a[k][j] for j in range(k + 1, n)):
            raise Rejected(f"pivot {k} is zero and its row is not: not positive semidefinite")
        pivots.append(d)
        if d.denominator.bit_length() > MAX_BITS:
            raise Rejected(f"a pivot has more than {MAX_BITS} bits")
        for i in range(k + 1, n):
            if a[i][k]:
                factor = a[i][k] / d
                for j in range(k + 1, i + 1):
                    a[i][j] -= factor * a[k][j]
                    a[j][i] = a[i][j]
    return pivots


def check(certificate: Mapping[str, Any]) -> str:
    """Check a certificate of type "psd"."""
    fields(certificate, "the certificate", ("matrix",), ("type", "name", "statement", "note"))
    a = matrix(certificate["matrix"], "the matrix", MAX_SIZE)
    n = len(a)
    if len(a[0]) != n:
        raise Rejected("the matrix is not square")
    if any(a[i][j] != a[j][i] for i in range(n) for j in range(i)):
        raise Rejected("the matrix is not symmetric")
    pivots = factorise(a)
    return f"{n} x {n}, rank {sum(1 for d in pivots if d)}"
