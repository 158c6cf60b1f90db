"""What an estimator returns: two-sided bounds with their methods, their failure probability and a witness."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NOISE = {torch.float64: 1e-13, torch.float32: 2e-6}
"""Relative accuracy of a product, by the dtype of the model."""
NORMS = ("l2", "linf", "spectral", "l11")
"""Unit balls in which a block is probed; ``l11`` is the entrywise sum Σ|H_ij|."""


@dataclass(frozen=True)
class Bounds:
    """``lower ≤ value ≤ upper``, except with probability `failure`.

    Attributes
    ----------
    lower, upper : float
        Ends of the interval.
    lower_method, upper_method : str
        How each end was obtained.
    failure : float
        Probability, over the estimator's own random numbers, that an end is wrong; 0: neither depends on chance.
    approximate : bool
        The stated probability is asymptotic (a central-limit interval) and not a theorem at this budget.
    witness : Tensor or pair of Tensor, optional
        The feasible direction(s) at which `lower` is attained, flat: u with uᵀHu for
        the quadratic quantity, (x, y) with xᵀHy for the bilinear one.  None where `lower` is zero (the zero direction).
    """

    lower: float
    upper: float
    lower_method: str
    upper_method: str
    failure: float = 0.0
    approximate: bool = False
    witness: Tensor | tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:  # NaN too
            raise ValueError(f"bounds are not ordered: lower {self.lower!r}, upper {self.upper!r}")

    @property
    def ratio(self) -> float:
        """``upper / lower``; 1 if both vanish, infinite if only `lower` does."""
        if self.lower > 0:
            return self.upper / self.lower
        return 1.0 if self.upper == self.lower else math.inf

    def contains(self, value: float, *, rtol: float = 0.0) -> bool:
        """Return whether `value` lies in the interval, widened by ``rtol · max(|lower|, |upper|)``."""
        slack = rtol * max(abs(self.lower), abs(self.upper))
        return self.lower - slack <= value <= self.upper + slack

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the witness."""
        fields = {k: v for k, v in vars(self).items() if k != "witness"}
        return {**fields, "upper": _json_number(self.upper), "ratio": _json_number(self.ratio)}


@dataclass(frozen=True)
class Estimate:
    """One quantity of one block.

    Attributes
    ----------
    norm : str
        One of :data:`NORMS`.
    size : int
        Number of parameters of the block.
    bilinear : Bounds
        Of the operator norm: max|λ|, ‖H‖_{∞→1}, ‖H‖_{S∞→S1}; Σ|H_ij| for ``l11``.
    quadratic : Bounds or None
        Of ``sup uᵀHu`` over the unit ball; equal to `bilinear` if H ≽ 0; None for ``l11``.
    products : int
        Hessian-vector products used.
    tolerance : float
        Requested: ``upper ≤ (1 + tolerance) lower`` for `bilinear`.
    met : bool
        Whether the stopping rule was reached: the tolerance, or under ``stop="value"`` (l2) a value accurate to the tolerance, in
        an interval that may be wider.
    notes : tuple of str
        What a reader must know: a budget that ran out, a small block computed densely.
    """

    norm: str
    size: int
    bilinear: Bounds
    quadratic: Bounds | None
    products: int
    tolerance: float
    met: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the witnesses as JSON values."""
        return {
            "norm": self.norm, "size": self.size, "bilinear": self.bilinear.to_dict(),
            "quadratic": self.quadratic and self.quadratic.to_dict(), "products": self.products,
            "tolerance": self.tolerance, "met": self.met, "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Estimate:
        """Return the estimate that :meth:`to_dict` wrote (without witnesses)."""

        def bounds(entry: dict[str, Any]) -> Bounds:
            fields = {k: v for k, v in entry.items() if k != "ratio"}
            return Bounds(**{**fields, "upper": math.inf if entry["upper"] is None else entry["upper"]})

        quadratic = data["quadratic"] and bounds(data["quadratic"])
        return cls(**{**data, "bilinear": bounds(data["bilinear"]), "quadratic": quadratic, "notes": tuple(data["notes"])})


def _json_number(value: float) -> float | None:
    """Infinity is no JSON number."""
    return value if math.isfinite(value) else None
