"""Quadratic forms over a box in fractions; shared by the checks of smoothness, no claims of its own.

`box_maximum` finds the supremum of a quadratic form over a box for every symmetric matrix, `corner_maximum` the one over sign vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from deva_theory.certify import ldl
from deva_theory.claims.model import Run

Matrix = Sequence[Sequence[Fraction]]


def fractions(rows: Iterable[Iterable[Any]]) -> list[list[Fraction]]:
    """Return a matrix of fractions; floats are taken exactly."""
    return [[Fraction(x) for x in row] for row in rows]


def quadratic_form(H: Matrix, u: Sequence[Fraction | int]) -> Fraction:
    """Return uᵀHu."""
    return sum((H[i][j] * u[i] * u[j] for i in range(len(u)) for j in range(len(u))), Fraction(0))


def scaled(H: Matrix, gamma: Sequence[Fraction]) -> list[list[Fraction]]:
    """Return ``diag(γ) H diag(γ)``, whose box maximum is L_Γ(H)."""
    return [[gamma[i] * x * gamma[j] for j, x in enumerate(row)] for i, row in enumerate(H)]


def corner_maximum(H: Matrix) -> Fraction:
    """Return the largest sᵀHs over sign vectors."""
    return max(quadratic_form(H, (1, *s)) for s in itertools.product((1, -1), repeat=len(H) - 1))


def box_maximum(H: Matrix) -> Fraction:
    """Return ``sup_{|u_i| ≤ 1} uᵀHu`` for any symmetric H, exactly.

    A maximiser with as few coordinates inside (-1, 1) as possible is stationary in them with an invertible block (along a null
    direction the form is constant, up to the next face), so that the stationary points of all faces suffice.
    """
    best = Fraction(0)
    for pattern in itertools.product((-1, 0, 1), repeat=len(H)):
        inside = [i for i, s in enumerate(pattern) if s == 0]
        u: list[Fraction] = [Fraction(s) for s in pattern]
        pull = [-sum((H[i][j] * u[j] for j in range(len(H))), Fraction(0)) for i in inside]
        solution = solve([[H[i][j] for j in inside] for i in inside], pull)
        if solution is not None and all(abs(x) <= 1 for x in solution):
            for i, x in zip(inside, solution, strict=True):
                u[i] = x
            best = max(best, quadratic_form(H, u))
    return best


def solve(A: Matrix, b: Sequence[Fraction]) -> list[Fraction] | None:
    """Solve a linear system by elimination, or return None if it is singular."""
    rows = [[*row, value] for row, value in zip(A, b, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = next((i for i in range(k, n) if rows[i][k]), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n] for row in rows]


def symmetric_integers(run: Run, count: int, sizes: Sequence[int] = (1, 2, 3)) -> Iterator[list[list[Fraction]]]:
    """Yield ±I and ((-1)^(i+j)), then random symmetric matrices with entries in -2 … 2 or products of such, which are ≽ 0."""
    rng = run.rng(sum(sizes))
    for d in sizes:
        for sign in (1, -1):
            yield [[Fraction(sign * (i == j)) for j in range(d)] for i in range(d)]
        yield [[Fraction((-1) ** (i + j)) for j in range(d)] for i in range(d)]
        for k in range(count):
            A = rng.integers(-2, 3, size=(d, d))
            H = A @ A.T if k % 2 else np.tril(A) + np.tril(A, -1).T
            yield fractions([[int(x) for x in row] for row in H])


def semidefinite(H: Matrix) -> bool:
    """Return whether H ≽ 0, exactly."""
    return ldl(H) is not None
