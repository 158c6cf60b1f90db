"""Exact powers of two, and root-mean-square accumulators that neither overflow nor underflow.

Every second moment of the package is kept as its *root*, ``rms = √v``, and updated with
``hypot``: squares are never formed, so a float32 gradient of 1e-25 or 1e25 is as good as
one of size 1.  Where even the root may leave the range (AdaGrad's ``√S`` over a huge history,
subnormal gradients), the root is stored as a pair ``(mantissa, exponent)``; both forms call
the same :func:`rms_update`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_EXPONENT_FIELD = {
    torch.float64: (torch.int64, 52, 1023),
    torch.float32: (torch.int32, 23, 127),
}
# Below every exponent that a finite float64 can have, with room for differences in int32.
_EXPONENT_OF_ZERO = -(1 << 20)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a formula on `dtype` tensors is evaluated.

    float64 and float32 stay what they are; float16 and bfloat16 are evaluated in float32,
    whose exponent range holds every finite half-precision number as a normal one.
    """
    return dtype if dtype in _EXPONENT_FIELD else torch.float32


def exponent_limit(dtype: torch.dtype) -> int:
    """Return the largest e for which ``2**e`` and ``2**-e`` are both normal numbers of `dtype`."""
    return _EXPONENT_FIELD[dtype][2] - 1


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``2**exponent`` exactly, for exponents of normal numbers of `dtype`.

    The bits are assembled directly: ``exp2`` need not be exact on every back end, and
    ``torch.ldexp`` forms the power in the default dtype.
    """
    integer, width, bias = _EXPONENT_FIELD[dtype]
    return ((exponent.to(integer) + bias) << width).view(dtype)


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """Return ``x · 2**exponent`` with at most one subnormal ulp of error.

    Exact whenever the result is a normal number or zero.

    Parameters
    ----------
    x : Tensor
        float32 or float64.
    exponent : Tensor
        Integer tensor, broadcastable against `x`.
    """
    limit = exponent_limit(x.dtype)
    # Three factors cover 2**(-2098) .. 2**2098, the widest ratio of two finite float64 numbers.
    for _ in range(3):
        part = exponent.clamp(-limit, limit)
        x = x * power_of_two(part, x.dtype)
        exponent = exponent - part
    return x


def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(mantissa, exponent)``, ``x = mantissa · 2**exponent``, ``½ ≤ |mantissa| < 1``.

    Unlike :func:`torch.frexp`, zeros get an exponent below every other one, so that a maximum
    over exponents ignores them.
    """
    mantissa, exponent = torch.frexp(x)
    return mantissa, torch.where(x == 0, _EXPONENT_OF_ZERO, exponent)


def exponent_of(x: Tensor, ndim: int) -> Tensor:
    """Return the binary exponent of the largest entry of each event, clamped to those of exact reciprocals.

    Parameters
    ----------
    x : Tensor, shape ``(..., *event)``
        float32 or float64; the event is the last `ndim` dimensions.

    Returns
    -------
    Tensor, int32, shape ``(..., 1, …, 1)``
        e with ``2**(e-1) ≤ max|x| < 2**e``, within ±1022 (float64) or ±126 (float32); 0 for an event that is
        empty or not finite, the lower end for one that is zero.
    """
    shape = x.shape[: x.ndim - ndim] + (1,) * ndim
    if x.numel() == 0:
        return torch.zeros(shape, dtype=torch.int32, device=x.device)
    largest = x.abs().amax(dim=tuple(range(-ndim, 0)), keepdim=True)
    mantissa, exponent = frexp(largest)
    limit = exponent_limit(x.dtype)
    return torch.where(torch.isfinite(mantissa), exponent, 0).clamp(-limit, limit)


def unit_scale(x: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Scale each event by one exact power of two so that its largest entry lies in [½, 1).

    Returns
    -------
    scaled : Tensor
        ``x · 2**(-exponent)``; entries of 2**-1022 (float64) of the largest one or smaller may round to zero.
        Where max|x| is subnormal or within a factor 4 of overflow the largest entry stays below 4 and above 2**-53.
    exponent : Tensor
        See :func:`exponent_of`.
    """
    exponent = exponent_of(x, ndim)
    return x * power_of_two(-exponent, x.dtype), exponent


def bias_correction(beta: float, step: int) -> float:
    """Return ``1 - beta**step`` without cancellation: the weight an EMA started at 0 has gathered."""
    if beta == 0.0:
        return 1.0
    return -math.expm1(step * math.log(beta))


def ema_update(mean: Tensor, x: Tensor, beta: float, *, donate: bool = False) -> Tensor:
    """Return ``β·mean + (1-β)·x``; with `donate` the memory of `mean` is reused.

    Written as a sum of two products, not as ``lerp``, whose difference ``x - mean`` overflows
    for huge entries of opposite sign.
    """
    if beta == 0.0:
        return mean.copy_(x) if donate else x.clone()
    if donate:
        return mean.mul_(beta).add_(x, alpha=1.0 - beta)
    return (beta * mean).add_(x, alpha=1.0 - beta)


def rms_update(rms: Tensor, x: Tensor, decay: float, weight: float, *, donate: bool = False) -> Tensor:
    """Return ``√(decay·rms² + weight·x²)`` without forming a square.

    ``decay=β, weight=1-β`` is the root of an EMA of squares, ``decay=weight=1`` AdaGrad's ``√S``.
    """
    new = x.abs() * math.sqrt(weight)
    if decay == 0.0:
        return rms.copy_(new) if donate else new
    if donate:
        return torch.hypot(rms.mul_(math.sqrt(decay)), new, out=rms)
    return torch.hypot(rms * math.sqrt(decay), new)


class Scaled(NamedTuple):
    """The tensor ``mantissa · 2**exponent``; ½ ≤ |mantissa| < 1 except at zeros."""

    mantissa: Tensor
    exponent: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scaled:
        """Split a float32 or float64 tensor; exact."""
        return cls(*frexp(x))

    @classmethod
    def zeros_like(cls, x: Tensor) -> Scaled:
        """Return the scaled zero of the shape of `x`."""
        return cls.of(torch.zeros_like(x))

    def value(self) -> Tensor:
        """Return the plain tensor (which may overflow or underflow)."""
        return ldexp(self.mantissa, self.exponent)

    def aligned(self, other: Scaled) -> tuple[Tensor, Tensor, Tensor]:
        """Return both mantissas over the larger exponent, and that exponent."""
        top = torch.maximum(self.exponent, other.exponent)
        return ldexp(self.mantissa, self.exponent - top), ldexp(other.mantissa, other.exponent - top), top

    def renormalised(self) -> Scaled:
        """Bring the mantissa back to [½, 1)."""
        mantissa, shift = frexp(self.mantissa)
        return Scaled(mantissa, torch.where(mantissa == 0, _EXPONENT_OF_ZERO, self.exponent + shift))


def scaled_rms_update(rms: Scaled, x: Scaled, decay: float, weight: float) -> Scaled:
    """:func:`rms_update` on scaled tensors: no overflow or underflow for any finite history."""
    a, b, top = _times(rms, math.sqrt(decay)).aligned(_times(x, math.sqrt(weight)))
    return Scaled(rms_update(a, b, 1.0, 1.0), top).renormalised()


def scaled_ema_update(mean: Scaled, x: Scaled, beta: float) -> Scaled:
    """:func:`ema_update` on scaled tensors."""
    a, b, top = _times(mean, beta).aligned(_times(x, 1.0 - beta))
    return Scaled(a + b, top).renormalised()


def _times(x: Scaled, factor: float) -> Scaled:
    """Return ``factor·x``."""
    # Weights come before the alignment: a term that they make small must not push the other one out.
    mantissa, exponent = math.frexp(factor)
    return Scaled(x.mantissa * mantissa, x.exponent + exponent).renormalised()


def scaled_ratio(numerator: Scaled, denominator: Scaled, factor: float = 1.0) -> Tensor:
    """Return ``factor·|numerator|/denominator`` with ``0/0 := 0``, to 1.5 ulps (subnormal results: 1 ulp more)."""
    quotient = numerator.mantissa.abs() / denominator.mantissa
    quotient = torch.where(numerator.mantissa == 0, 0.0, quotient * factor)
    return ldexp(quotient, torch.where(quotient == 0, 0, numerator.exponent - denominator.exponent))
