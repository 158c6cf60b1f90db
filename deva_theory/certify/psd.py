"""Exact certificates that a rational symmetric matrix is positive semidefinite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import frexp, isfinite, lcm
from typing import Any, TypeAlias

from deva_theory.certify.matrices import RationalMatrix

__all__ = ["RepairedMatrix", "ldl", "psd_certificate", "rational_matrix", "repair_psd"]

Rows: TypeAlias = RationalMatrix | Sequence[Sequence[Fraction | int | str]]


def _symmetric(matrix: Rows) -> list[list[Fraction]]:
    rows = (matrix if isinstance(matrix, RationalMatrix) else RationalMatrix(matrix)).tolist()
    if len(rows) != len(rows[0]) or any(rows[i][j] != rows[j][i] for i in range(len(rows)) for j in range(i)):
        raise ValueError("the matrix is not symmetric: semidefiniteness is a statement about symmetric matrices")
    return rows


def ldl(matrix: Rows) -> tuple[list[list[Fraction]], list[Fraction]] | None:
    """Return L (unit lower triangular) and d ≥ 0 with ``A = L diag(d) Lᵀ``, or None when A is not positive semidefinite.

    Raises
    ------
    ValueError
        When A is not symmetric.

    Notes
    -----
    Fraction-free elimination: the Schur complements are kept as integers over the last non-zero pivot, whose divisions
    are exact (Bareiss).  A zero on the diagonal of a positive semidefinite Schur complement forces a zero row.
    """
    rows = _symmetric(matrix)
    n = len(rows)
    common = lcm(*(x.denominator for row in rows for x in row))
    S = [[int(x * common) for x in row] for row in rows]
    L = [[Fraction(i == j) for j in range(n)] for i in range(n)]
    d = []
    previous = 1
    for k in range(n):
        pivot = S[k][k]
        if pivot < 0 or (pivot == 0 and any(S[i][k] for i in range(k + 1, n))):
            return None
        d.append(Fraction(pivot, previous * common))
        if pivot == 0:
            continue
        for i in range(k + 1, n):
            L[i][k] = Fraction(S[i][k], pivot)
        for i in range(k + 1, n):
            for j in range(k + 1, i + 1):
                S[i][j] = S[j][i] = (S[i][j] * pivot - S[i][k] * S[j][k]) // previous
        previous = pivot
    return L, d


def psd_certificate(matrix: Rows, *, name: str | None = None) -> dict[str, Any] | None:
    """Return a certificate that the rational symmetric matrix is positive semidefinite, or None when it is not.

    Raises
    ------
    ValueError
        When the matrix is not symmetric.
    """
    if ldl(matrix) is None:
        return None
    strings = [[str(x) for x in row] for row in _symmetric(matrix)]
    return {"type": "psd", "matrix": strings} | ({"name": name} if name else {})


def rational_matrix(array: Any, bits: int | None = None) -> list[list[Fraction]]:
    """Return the entries of a float matrix (tensor, array or nested lists) as fractions.

    Parameters
    ----------
    array : Tensor, ndarray or sequence of sequences of float
    bits : int, optional
        Round to multiples of ``2^(e - bits)``, ``2^e`` the power of two above the largest entry: fewer digits, faster
        arithmetic.  By default every float is converted exactly.

    Raises
    ------
    ValueError
        When an entry is not finite, or the array is not a matrix.
    """
    rows: Iterable[Iterable[float]] = array.tolist() if hasattr(array, "tolist") else array
    try:
        floats = [[float(x) for x in row] for row in rows]
    except TypeError as error:
        raise ValueError("rational_matrix: give a matrix, two dimensions") from error
    if not all(isfinite(x) for row in floats for x in row):
        raise ValueError("rational_matrix: an entry is infinite or not a number")
    if bits is None:
        return [[Fraction(x) for x in row] for row in floats]
    largest = max((abs(x) for row in floats for x in row), default=0.0)
    unit = Fraction(2) ** (frexp(largest)[1] - bits)
    return [[round(Fraction(x) / unit) * unit for x in row] for row in floats]


@dataclass(frozen=True)
class RepairedMatrix:
    """An exactly positive semidefinite matrix near a float one.

    Attributes
    ----------
    matrix : RationalMatrix
        The symmetric part of the input, converted exactly or rounded, plus `shift` times the identity.
    shift : Fraction
        0 or a power of two.
    certificate : dict
        Of type "psd", for `matrix`.
    """

    matrix: RationalMatrix
    shift: Fraction
    certificate: dict[str, Any]


def repair_psd(
    array: Any, *, bits: int | None = None, largest: Fraction | int | str = "1/1000000", name: str | None = None
) -> RepairedMatrix | None:
    """Add the smallest power of two times the identity that makes a numerically semidefinite matrix exactly so.

    Parameters
    ----------
    array : Tensor, ndarray or sequence of sequences of float
        Its symmetric part is taken.
    bits : int, optional
        As in `rational_matrix`.
    largest : rational
        The largest shift allowed, relative to the largest absolute entry; None is returned when that is not enough.
    name : str, optional
        For the certificate.

    Notes
    -----
    Tried in turn: no shift, then the powers of two from ``2⁻⁶⁴`` of the largest entry upwards.
    """
    A = rational_matrix(array, bits)
    n = len(A)
    if any(len(row) != n for row in A):
        raise ValueError("repair_psd: the matrix is not square")
    A = [[(A[i][j] + A[j][i]) / 2 for j in range(n)] for i in range(n)]
    size = max(abs(x) for row in A for x in row)
    shift, limit = Fraction(0), size * Fraction(largest)
    while shift <= limit:
        shifted = [[x + shift if i == j else x for j, x in enumerate(row)] for i, row in enumerate(A)]
        certificate = psd_certificate(shifted, name=name)
        if certificate is not None:
            return RepairedMatrix(RationalMatrix(shifted), shift, certificate)
        shift = shift * 2 or Fraction(2) ** (frexp(float(size))[1] - 64)
    return None
