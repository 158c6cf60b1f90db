"""Errors in units in the last place, against exact values held by mpmath.

An ulp of y is the distance of neighbouring numbers of the dtype at |y|; where y is subnormal (or zero) it is
the smallest positive number.  Exact means 6000 bits: a few squares of float64 numbers need about 4200.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mpmath
import torch
from torch import Tensor

BITS = 6000
_WIDTH = {
    torch.float64: (53, -1074),
    torch.float32: (24, -149),
    torch.float16: (11, -24),
    torch.bfloat16: (8, -133),
}


def exact(x: float) -> mpmath.mpf:
    """Return x as an mpmath number, without rounding."""
    return mpmath.mpf(x)


def ulp(y: mpmath.mpf, dtype: torch.dtype) -> mpmath.mpf:
    """Return the ulp of `dtype` at |y|."""
    digits, least = _WIDTH[dtype]
    if y == 0:
        return mpmath.ldexp(1, least)
    _, exponent = mpmath.frexp(abs(y))
    return mpmath.ldexp(1, max(int(exponent) - digits, least))


def ulp_error(computed: float, true: mpmath.mpf, dtype: torch.dtype) -> float:
    """Return ``|computed - true|`` in ulps of the true value."""
    if computed != computed or computed in (float("inf"), float("-inf")):
        return float("inf")
    with mpmath.workprec(BITS):
        return float(abs(exact(computed) - true) / ulp(true, dtype))


def moments(
    gradients: Sequence[float], *, beta1: float = 0.0, beta2: float | None = None
) -> Iterator[tuple[mpmath.mpf, mpmath.mpf]]:
    """Yield ``(m_t, v_t)`` of one coordinate, uncorrected and exact; v is a plain sum if beta2 is None."""
    m = v = mpmath.mpf(0)
    for x in gradients:
        with mpmath.workprec(BITS):
            g = exact(x)
            m = exact(beta1) * m + (1 - exact(beta1)) * g
            v = v + g * g if beta2 is None else exact(beta2) * v + (1 - exact(beta2)) * g * g
        yield m, v


def root(x: mpmath.mpf) -> mpmath.mpf:
    """Return √x to 200 bits."""
    with mpmath.workprec(200):
        return mpmath.sqrt(x)


def quotient(m: mpmath.mpf, v: mpmath.mpf) -> mpmath.mpf:
    """Return ``|m|/√v`` to 200 bits, with 0/0 := 0."""
    with mpmath.workprec(200):
        return mpmath.mpf(0) if m == 0 else abs(m) / mpmath.sqrt(v)


def gammas(
    gradients: Sequence[float],
    *,
    beta1: float = 0.0,
    beta2: float | None = None,
    bias_correction: bool = False,
) -> list[mpmath.mpf]:
    """Return the exact variance adaptation ``|m_t|/√v_t`` of every step of one coordinate."""
    out = []
    for t, (m, v) in enumerate(moments(gradients, beta1=beta1, beta2=beta2), start=1):
        with mpmath.workprec(300):
            factor = mpmath.mpf(1)
            if bias_correction and beta2 is not None:
                factor = mpmath.sqrt(1 - exact(beta2) ** t) / (1 - exact(beta1) ** t)
            out.append(factor * quotient(m, v))
    return out


def worst_ulp_error(
    computed: Tensor, true: Sequence[Sequence[mpmath.mpf]], dtype: torch.dtype | None = None
) -> list[float]:
    """Return, for each step, the largest error over the coordinates; `true` is indexed [coordinate][step]."""
    dtype = dtype or computed.dtype
    values = computed.double().reshape(computed.shape[0], -1).tolist()
    return [
        max((ulp_error(x, column[t], dtype) for x, column in zip(row, true, strict=True)), default=0.0)
        for t, row in enumerate(values)
    ]


def coordinates(history: Tensor) -> list[list[float]]:
    """Return the gradients of every coordinate as Python floats, indexed [coordinate][step]."""
    return history.double().reshape(history.shape[0], -1).mT.tolist()
