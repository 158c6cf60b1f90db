"""Sparse linear systems in fractions, near a floating-point guess."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

__all__ = ["solve_sparse"]


def solve_sparse(equations: Sequence[dict[int, Fraction]], right: Sequence[Fraction], guess: Sequence[float]) -> list[Fraction]:
    """Solve as many of the equations as are consistent, exactly, near the guess; unknowns they leave open are rounded.

    Gauss-Jordan elimination on the sparse rows, shortest row first.
    """
    rest = [(dict(row), value) for row, value in zip(equations, right, strict=True)]
    done: list[tuple[int, dict[int, Fraction], Fraction]] = []
    while rest:
        rest = [(row, value) for row, value in rest if row]
        if not rest:
            break
        index = min(range(len(rest)), key=lambda k: len(rest[k][0]))
        row, value = rest.pop(index)
        pivot = max(row, key=lambda k: abs(row[k]) * (1.0 + abs(guess[k])))
        scale = row.pop(pivot)
        row = {k: a / scale for k, a in row.items()}
        value /= scale
        rest = [substitute(other, number, pivot, row, value) for other, number in rest]
        done.append((pivot, row, value))
    solution = [Fraction(g).limit_denominator(10**6) for g in guess]
    for pivot, row, value in reversed(done):
        solution[pivot] = value - sum((a * solution[k] for k, a in row.items()), Fraction(0))
    return solution


def substitute(
    other: dict[int, Fraction], number: Fraction, pivot: int, row: dict[int, Fraction], value: Fraction
) -> tuple[dict[int, Fraction], Fraction]:
    """Eliminate one unknown, ``x_pivot = value - row · x``, from another equation."""
    factor = other.pop(pivot, None)
    if factor is not None:
        number -= factor * value
        for k, a in row.items():
            left = other.get(k, Fraction(0)) - factor * a
            if left:
                other[k] = left
            else:
                other.pop(k, None)
    return other, number
