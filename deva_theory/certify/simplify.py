"""Make a tensor readable while a condition keeps holding.

Each value has a complexity: 0 first, then 1, -1, small integers, simple fractions by their denominator, then numbers of few
significant digits. A change is accepted when the condition holds and the total complexity falls, so the process ends, and
what it ends at cannot be simplified by any of its moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["complexity", "readable", "simplify"]

DENOMINATORS = (1, 2, 3, 4, 5, 6, 8, 10)
SMALL = 10
"""Integers and numerators up to this count as small, relative to their denominator."""
DIGITS = 15
ZERO, ONE, MINUS_ONE = 0, 1, 2
FRACTIONS = 3
SIGNIFICANT = FRACTIONS + len(DENOMINATORS)
ARBITRARY = SIGNIFICANT + DIGITS


def complexity(value: float) -> tuple[int, float, bool]:
    """Return the class of a value, and within simple fractions its size; smaller is more readable."""
    if value == 0.0:
        return ZERO, 0.0, False
    if value == 1.0:
        return ONE, 0.0, False
    if value == -1.0:
        return MINUS_ONE, 0.0, False
    if abs(value) <= SMALL:
        for k, q in enumerate(DENOMINATORS):
            if round(value * q) / q == value:
                return FRACTIONS + k, abs(value), value < 0
    for digits in range(1, DIGITS + 1):
        if float(f"{value:.{digits - 1}e}") == value:
            return SIGNIFICANT + digits - 1, 0.0, value < 0
    return ARBITRARY, 0.0, value < 0


def measure(x: Tensor) -> tuple[int, int, float, int]:
    """Return what every accepted change lowers: number of entries, then classes, sizes and minus signs in total."""
    parts = [complexity(v) for v in x.flatten().tolist()]
    return len(parts), sum(p[0] for p in parts), math.fsum(p[1] for p in parts), sum(p[2] for p in parts)


def readable(x: Tensor) -> str:
    """Return nested brackets with 1/3 for the float nearest to it, and few digits elsewhere."""
    if x.ndim:
        return "[" + ", ".join(readable(row) for row in x) + "]"
    value = x.item()
    kind = complexity(value)[0]
    if FRACTIONS < kind < SIGNIFICANT:
        return str(Fraction(value).limit_denominator(DENOMINATORS[-1]))
    return f"{value:.{DIGITS}g}" if float(f"{value:.{DIGITS}g}") == value else repr(value)


def alternatives(value: float) -> list[float]:
    """Return simpler values to try in place of this one, simplest first."""
    tried = {0.0, 1.0, -1.0, abs(value), *(float(k) for k in range(-SMALL, SMALL + 1))}
    for q in DENOMINATORS[1:]:
        tried.update(p / q for p in range(-q, q + 1))
        if abs(value) <= SMALL:
            tried.update({math.floor(value * q) / q, math.ceil(value * q) / q})
    tried.update(with_digits(value, digits) for digits in range(1, DIGITS + 1))
    limit = complexity(value)
    return sorted((v for v in tried if complexity(v) < limit and math.isfinite(v)), key=lambda v: (complexity(v), abs(v - value)))


def with_digits(value: float, digits: int) -> float:
    """Return the value rounded to so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def rounded(value: float, kind: int) -> float:
    """Return the value moved into a class, unless it is simpler already."""
    if complexity(value)[0] <= kind or not math.isfinite(value):
        return value
    if kind < FRACTIONS:
        return 0.0 if kind == ZERO else math.copysign(1.0, value)
    if kind < SIGNIFICANT:
        q = DENOMINATORS[kind - FRACTIONS]
        return round(value * q) / q if abs(value) <= SMALL else value
    return with_digits(value, kind - SIGNIFICANT + 1)


def shorter(x: Tensor) -> Iterator[Tensor]:
    """Yield batches in which a block of the leading axis is left out: halves first, single steps last."""
    length = len(x)
    block = length // 2
    while block >= 1:
        offsets = range(0, length - block + 1, max(1, block // 2))
        yield torch.stack([torch.cat([x[:k], x[k + block :]]) for k in offsets])
        block //= 2


def jointly(x: Tensor) -> Iterator[Tensor]:
    """Yield one batch: all entries, or all entries of one slice of an axis, zeroed or rounded together, also after rescaling."""
    entries = x.flatten().tolist()
    sizes = sorted({abs(v) for v in entries if v != 0 and math.isfinite(v)})
    scales = [1.0, *(dict.fromkeys((sizes[0], sizes[-1], sizes[len(sizes) // 2])) if sizes else ())]
    scales += [1.0 / q for q in DENOMINATORS[1:]]  # clears denominators
    scales += [-scale for scale in scales]
    candidates = [
        torch.tensor([rounded(v / scale, kind) for v in entries], dtype=x.dtype).reshape(x.shape)
        for kind in range(ONE, ARBITRARY)
        for scale in scales
    ]
    for axis in range(x.ndim):
        for k in range(x.shape[axis]):
            candidate = x.clone()
            candidate.select(axis, k).zero_()
            candidates.append(candidate)
    yield torch.stack(candidates) + 0.0  # no -0


def sweep(x: Tensor, accepts: Callable[[Tensor], Tensor]) -> Tensor:
    """Go through the entries once, most complex first, and give each the simplest accepted value."""
    entries = x.flatten().tolist()
    for k in sorted(range(len(entries)), key=lambda k: complexity(entries[k]), reverse=True):
        values = alternatives(entries[k])
        if not values:
            continue
        batch = x.flatten().repeat(len(values), 1)
        batch[:, k] = torch.tensor(values, dtype=x.dtype)
        batch = batch.reshape(-1, *x.shape)
        good = accepts(batch).nonzero().flatten()
        if len(good):  # the values are sorted
            x = batch[int(good[0])].clone()
    return x


def descend(x: Tensor, move: Callable[[Tensor], Iterator[Tensor]], accepts: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a move while it makes the point simpler."""
    while True:
        before = measure(x)
        for batch in move(x):
            good = [(measure(batch[k]), k) for k in accepts(batch).nonzero().flatten().tolist()]
            if good and min(good)[0] < before:
                x = batch[min(good)[1]].clone()
                break
        else:
            return x


def simplify(x: Tensor, accepts: Callable[[Tensor], Tensor], *, variable_length: bool = False) -> Tensor:
    """Return a point that ``accepts`` and that none of the moves makes simpler.

    Parameters
    ----------
    x : Tensor
        Accepted to begin with.
    accepts : callable
        ``(B, *shape) -> (B,)`` of bool.
    variable_length : bool
        Whether slices of the first axis may be left out.
    """
    plain = x + 0.0  # no -0, if the sign of zero does not matter
    if bool(accepts(plain.unsqueeze(0))[0]):
        x = plain
    while True:
        before = measure(x)
        if variable_length:
            x = descend(x, shorter, accepts)
        x = sweep(descend(x, jointly, accepts), accepts)
        if not measure(x) < before:
            return x
