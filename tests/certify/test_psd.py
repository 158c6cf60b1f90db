"""Exact certificates of semidefiniteness, and the repair of matrices that rounding made indefinite."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from deva_theory.certify import RationalMatrix, ldl, psd_certificate, rational_matrix, repair_psd


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    if not rows:
        return Fraction(1)
    minors = ([row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows)))
    return sum(((-1) ** j * rows[0][j] * _determinant(minor) for j, minor in enumerate(minors)), Fraction())


def _is_psd_by_minors(rows: list[list[Fraction]]) -> bool:
    """All principal minors are nonnegative."""
    indices = range(len(rows))
    subsets = (s for size in range(1, len(rows) + 1) for s in itertools.combinations(indices, size))
    return all(_determinant([[rows[i][j] for j in s] for i in s]) >= 0 for s in subsets)


def _random_symmetric(rng: np.random.Generator) -> list[list[Fraction]]:
    """Often semidefinite and singular, often just not so, with zeros on the diagonal."""
    n = int(rng.integers(1, 5))
    B = [[Fraction(int(rng.integers(-2, 3)), int(rng.integers(1, 3))) for _ in range(n)] for _ in range(int(rng.integers(1, n + 1)))]
    A = [[sum((row[i] * row[j] for row in B), Fraction()) for j in range(n)] for i in range(n)]
    if rng.random() < 0.7:
        i, j = (int(k) for k in rng.integers(0, n, size=2))
        A[i][j] += Fraction(int(rng.choice([-1, 1])), 100)
        A[j][i] = A[i][j]
    return A


def test_against_all_principal_minors() -> None:
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(300):
        A = _random_symmetric(rng)
        expected = _is_psd_by_minors(A)
        seen[expected] += 1
        factors = ldl(A)
        assert (factors is not None) == (psd_certificate(A) is not None) == expected
        if factors is not None:
            L, d = factors
            n = len(A)
            assert all(x >= 0 for x in d)
            assert all(L[i][j] == (i == j) for i in range(n) for j in range(i, n))
            assert [[sum(L[i][k] * d[k] * L[j][k] for k in range(n)) for j in range(n)] for i in range(n)] == A
    assert min(seen.values()) > 50


CASES = {
    "identity": ([[1, 0], [0, 1]], True),
    "zero": ([[0, 0], [0, 0]], True),
    "rank one": ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], True),
    "zero pivot first": ([[0, 0], [0, 3]], True),
    "zero pivot with a row": ([[0, 1], [1, 5]], False),
    "zero pivot inside": ([[1, 1, 0], [1, 1, 1], [0, 1, 9]], False),
    "negative": ([[-1]], False),
    "just inside": ([[1, "999999999999/1000000000000"], ["999999999999/1000000000000", 1]], True),
    "just outside": ([[1, "1000000000001/1000000000000"], ["1000000000001/1000000000000", 1]], False),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    matrix, expected = CASES[name]
    certificate = psd_certificate(RationalMatrix(matrix), name=name)
    assert certificate == ({"type": "psd", "matrix": RationalMatrix(matrix).strings(), "name": name} if expected else None)
    assert psd_certificate(matrix) == (None if certificate is None else {"type": "psd", "matrix": certificate["matrix"]})


def test_asymmetric_matrices_are_refused() -> None:
    for matrix in ([[1, 0], ["1/1000000000", 1]], [[1, 2]]):
        with pytest.raises(ValueError, match="not symmetric"):
            psd_certificate(matrix)


def test_floats_become_the_fractions_they_are() -> None:
    values = [[0.1, -3.0], [5e-324, 1e300]]
    for array in (values, np.array(values), torch.tensor(values, dtype=torch.float64)):
        assert rational_matrix(array) == [[Fraction(0.1), Fraction(-3)], [Fraction(5e-324), Fraction(1e300)]]
    assert rational_matrix(torch.tensor([[0.1]])) == [[Fraction(float(np.float32(0.1)))]]
    assert rational_matrix([[0.1]]) != [[Fraction(1, 10)]]


def test_rounding_to_bits() -> None:
    rows = rational_matrix([[0.75, 0.1], [-0.1, 0.0]], bits=10)
    assert rows == [[Fraction(3, 4), Fraction(102, 1024)], [Fraction(-102, 1024), Fraction(0)]]
    big = rational_matrix([[1000.0, 0.3]], bits=10)  # relative to the largest entry
    assert big == [[Fraction(1000), Fraction(0)]]
    assert rational_matrix([[0.0]], bits=4) == [[Fraction(0)]]
    x = np.random.default_rng(0).standard_normal((5, 5))
    error = np.abs(RationalMatrix(rational_matrix(x, bits=20)).numpy() - x).max()
    assert 0 < error <= np.abs(x).max() * 2**-20


@pytest.mark.parametrize("array", [[[np.nan]], [[np.inf, 1.0]], [1.0, 2.0], np.zeros((2, 2, 2))], ids=["nan", "inf", "vector", "tensor"])
def test_what_is_no_finite_matrix(array: object) -> None:
    with pytest.raises(ValueError, match="rational_matrix"):
        rational_matrix(array)


@pytest.mark.parametrize("bits", [None, 40])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_repair_of_a_singular_gram_matrix(bits: int | None, scale: float) -> None:
    B = np.random.default_rng(0).standard_normal((8, 5))
    A = (B @ B.T) * scale
    assert psd_certificate(rational_matrix(np.tril(A) + np.tril(A, -1).T, bits)) is None  # as it stands, rounding made it indefinite
    repaired = repair_psd(A, bits=bits, name="gram")
    assert repaired is not None
    assert repaired.certificate == psd_certificate(repaired.matrix, name="gram")
    shift = repaired.shift
    assert 0 < shift < np.abs(A).max() * (1e-14 if bits is None else 1e-10)
    assert shift == Fraction(2) ** round(np.log2(float(shift)))
    # It is the stated change of the stated matrix, and half of it would not do.
    exact = rational_matrix(A, bits)
    symmetric = [[(exact[i][j] + exact[j][i]) / 2 for j in range(8)] for i in range(8)]
    assert repaired.matrix == RationalMatrix(symmetric) + shift * RationalMatrix.identity(8)
    assert psd_certificate(RationalMatrix(symmetric) + shift / 2 * RationalMatrix.identity(8)) is None


def test_repair_changes_nothing_that_is_semidefinite() -> None:
    repaired = repair_psd(torch.tensor([[2.0, 1.0], [1.0, 0.5]]))
    assert repaired is not None and repaired.shift == 0
    assert repaired.matrix == RationalMatrix([[2, 1], [1, "1/2"]])
    assert repair_psd([[0.0]]).shift == 0


def test_repair_refuses_what_is_indefinite() -> None:
    A = [[1.0, 0.0], [0.0, -1e-5]]
    assert repair_psd(A) is None
    repaired = repair_psd(A, largest="1/1000")
    assert repaired is not None and repaired.shift == Fraction(1, 2**16)  # the first power of two from 1e-5 on
    with pytest.raises(ValueError, match="not square"):
        repair_psd([[1.0, 2.0]])
