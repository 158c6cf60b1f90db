"""Matrices of names and expressions, the input of `prove`: products, forms and norms written out; no claims of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def total(terms: Iterable[str]) -> str:
    """Return the sum of expressions."""
    return " + ".join(f"({term})" for term in terms) or "0"


def names(letter: str, *sizes: int) -> Any:
    """Return names such as x1, x2 or c11, c12, nested like the sizes."""
    if not sizes:
        return letter
    return [names(f"{letter}{i + 1}", *sizes[1:]) for i in range(sizes[0])]


def flat(nested: Any) -> list[str]:
    """Return all names of a nested list."""
    return [nested] if isinstance(nested, str) else [name for part in nested for name in flat(part)]


def dot(a: Sequence[str], b: Sequence[str]) -> str:
    """Return the inner product of two lists of expressions."""
    return total(f"({x})*({y})" for x, y in zip(a, b, strict=True))


def transposed(A: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the transpose of a matrix of expressions."""
    return [list(column) for column in zip(*A, strict=True)]


def times(A: Sequence[Sequence[str]], B: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the product of two matrices of expressions."""
    return [[dot(row, column) for column in transposed(B)] for row in A]


def form(H: Sequence[Sequence[str]], u: Sequence[str]) -> str:
    """Return uᵀHu."""
    return dot(u, [dot(row, u) for row in H])


def symmetric(letter: str, d: int) -> list[list[str]]:
    """Return a symmetric matrix of names."""
    return [[f"{letter}{min(i, j) + 1}{max(i, j) + 1}" for j in range(d)] for i in range(d)]


def square_norm(vector: Sequence[str]) -> str:
    """Return the sum of the squares of expressions."""
    return total(f"({x})**2" for x in vector)
