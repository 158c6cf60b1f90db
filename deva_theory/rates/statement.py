"""What the bounds share: the result, the named assumptions on their inputs, the terms of every descent, and the error where one fails.

Inputs are Python numbers, NumPy arrays or torch tensors that broadcast against each other, in any combination; everything is computed
in float64.  An input outside the range of a statement raises `AssumptionError` and names the assumption: a bound never returns a number
that its assumptions do not support, nor one that left the range of float64 on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deva_theory.problems.families import AssumptionError

__all__ = [
    "LEFT", "AssumptionError", "Bound", "Left", "Numbers", "about", "balanced_terms", "descent_terms", "finite", "inputs", "summed",
    "total",
]  # fmt: skip

Numbers = float | NDArray[Any] | Tensor
"""A number, or an array of them that broadcasts."""

Left = Literal["l1_weighted", "l1", "nuclear", "singular", "inner", "l2"]
LEFT: Mapping[Left, str] = {
    "l1_weighted": "avg E‖∇f‖_{1,Γ}", "l1": "avg E‖∇f‖_1", "nuclear": "avg E‖∇f‖_*", "singular": "avg E Σ γ_iσ_i(Ĝ)", "inner": "avg E<Ĝ,D>",
    "l2": "avg E‖∇f‖_2",
}
"""What a bound is about, by name; for matrices ‖·‖_2 is the Frobenius norm."""


@dataclass(frozen=True, eq=False)
class Bound:
    """The right side of a numbered statement, whole and by terms.

    Attributes
    ----------
    value : Tensor
        The sum of the terms, float64, of the broadcast shape of the inputs; in units of the left side.
    terms : dict
        The summands by name, each of the shape of `value`: initial, smoothness, noise, …
    statement : str
        Its label in SPEC §5 and its formula, left side first.
    assumptions : tuple of str
        All that the proof uses.
    left : str
        The kind of its left side, a key of `LEFT`: conversions ask for the kind that they are about.
    """

    value: Tensor
    terms: dict[str, Tensor]
    statement: str
    assumptions: tuple[str, ...]
    left: Left

    def summary(self) -> str:
        """Return the statement, the assumptions and, for one number, the terms."""
        lines = [self.statement, *(f"  assumes {text}" for text in self.assumptions)]
        if self.value.numel() == 1:
            parts = " + ".join(f"{name} {x.item():.4g}" for name, x in self.terms.items())
            lines.append(f"  {self.value.item():.4g} = {parts}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings."""
        return {
            "statement": self.statement, "value": self.value.tolist(), "terms": {name: x.tolist() for name, x in self.terms.items()},
            "assumptions": list(self.assumptions), "left": self.left,
        }


@dataclass(frozen=True)
class _Assumption:
    symbol: str
    text: str
    holds: Callable[[Tensor], Tensor]


def _nonnegative(x: Tensor) -> Tensor:
    return x >= 0


def _positive(x: Tensor) -> Tensor:
    return x > 0


def _count(x: Tensor) -> Tensor:
    return (x >= 1) & (x == x.floor())


_SMOOTH = "a smoothness constant that is finite along the steps and not negative (a bound on L is at least 0)"
_VARIANCE = "bounded variance: the noise is finite, and not negative"
_ASSUMPTIONS: Mapping[str, _Assumption] = {
    "gap": _Assumption("Δ", "f bounded below, 0 ≤ Δ = f(x_0) - f* < ∞", _nonnegative),
    "steps": _Assumption("T", "a whole number of steps T ≥ 1", _count),
    "eta": _Assumption("η", "a finite step size η > 0", _positive),
    "batch": _Assumption("B", "a whole number B ≥ 1 of samples in a batch", _count),
    "L": _Assumption("L", _SMOOTH, _nonnegative),
    "L_gamma": _Assumption("L_Γ", _SMOOTH, _nonnegative),
    "L_inf": _Assumption("L_∞", _SMOOTH, _nonnegative),
    "curvature": _Assumption("L", "a finite smoothness constant L > 0 (with L = 0 no step size is the best)", _positive),
    "distance": _Assumption("Δ", "f bounded below and x_0 not optimal, 0 < Δ < ∞ (with Δ = 0 no step size is the best)", _positive),
    "noise": _Assumption("the noise", _VARIANCE, _nonnegative),
    "wrong": _Assumption("Σ E γ|∂f|1{wrong sign}", "wrong signs of a finite share in ‖∇f‖_{1,Γ}, not negative", _nonnegative),
    "sigma": _Assumption("σ", _VARIANCE, _nonnegative),
    "gamma_rms": _Assumption("√(E γ²)", "factors γ ≥ 0 with a finite second moment", _nonnegative),
    "gamma_min": _Assumption("γ_min", "a positive lower bound 0 < γ_min ≤ Γ (DeVA's Γ has none unless it is clipped)", _positive),
    "alignment": _Assumption("κ", "a positive lower bound 0 < κ ≤ ‖∇f(x_t)‖_{1,Γ_t}/‖∇f(x_t)‖_1", _positive),
    "gamma_max": _Assumption("γ_max", "bounded factors, 0 ≤ Γ ≤ γ_max < ∞", _nonnegative),
    "beta": _Assumption("β", "an averaging factor 0 ≤ β < 1", lambda x: (x >= 0) & (x < 1)),
    "first_gradient": _Assumption("‖∇f(x_0)‖", "a finite first gradient", _nonnegative),
    "first_nonzero": _Assumption("|g_1|", "a first gradient that is not 0 in the coordinate (leave out those that never move)", _positive),
    "growth": _Assumption("ln(S_T/S_1)", "sums of squares that grow: ln(S_T/S_1) ≥ 0", _nonnegative),
    "rank": _Assumption("r", "a whole number r ≥ 1 that bounds the rank", _count),
    "dimension": _Assumption("d", "a whole dimension d ≥ 1", _count),
}


def inputs(statement: str, **values: Numbers) -> list[Tensor]:
    """Return the inputs as float64 tensors of one shape, each checked against the assumption of its name.

    Parameters
    ----------
    statement : str
        The label to blame in errors.
    **values : number or array
        Named as in the list of assumptions of this module.

    Raises
    ------
    AssumptionError
        A value is NaN, infinite or outside its range, or the shapes do not broadcast.
    """
    tensors = [_checked(statement, _ASSUMPTIONS[name], x) for name, x in values.items()]
    try:
        return list(torch.broadcast_tensors(*tensors))
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip(values, tensors, strict=True))
        raise AssumptionError(f"{statement}: the shapes do not broadcast: {shapes}") from error


def _checked(statement: str, assumption: _Assumption, x: Numbers) -> Tensor:
    if isinstance(x, bool) or not isinstance(x, int | float | np.number | np.ndarray | Tensor):
        raise AssumptionError(f"{statement}: {assumption.symbol} is {x!r}; give a number, an array or a tensor")
    if isinstance(x, np.ma.MaskedArray):
        raise AssumptionError(f"{statement}: {assumption.symbol} is a masked array; fill in its values, or leave those entries out")
    if isinstance(x, Tensor):
        real, tensor = not x.dtype.is_complex and x.dtype != torch.bool, x.detach()
    else:
        # A copy: torch warns about read-only arrays, and a bound must not change when its input does later.
        array = np.array(x)
        real = array.dtype.kind in "iuf"
        tensor = torch.from_numpy(array.astype(np.float64)) if real else torch.empty(0)
    if not real:
        raise AssumptionError(f"{statement}: {assumption.symbol} is not made of real numbers of a fixed size (float64, int64, …)")
    tensor = tensor.double()
    good = tensor.isfinite() & assumption.holds(tensor)
    if not bool(good.all()):
        first = (~good).nonzero()[0].tolist()
        where = f" at index {first[0] if len(first) == 1 else tuple(first)}" if first else ""
        raise AssumptionError(f"{statement} assumes {assumption.text}; {assumption.symbol} is {tensor[tuple(first)].item():g}{where}")
    return tensor


def total(statement: str, assumptions: tuple[str, ...], left: Left, /, **terms: Tensor) -> Bound:
    """Return the bound that is the sum of the terms.

    Parameters
    ----------
    statement, assumptions, left
        See `Bound`.
    **terms : Tensor
        The summands.

    Raises
    ------
    AssumptionError
        The sum exceeds the range of float64, or is negative: then no function has these constants.
    """
    shaped = dict(zip(terms, (x.clone() for x in torch.broadcast_tensors(*terms.values())), strict=True))
    value = finite(statement, torch.stack(list(shaped.values())).sum(0))
    if bool((value < 0).any()):
        raise AssumptionError(f"{statement}: the bound is negative, so no function has these constants together")
    return Bound(value, shaped, statement, assumptions, left)


def finite(statement: str, x: Tensor) -> Tensor:
    """Return x, or raise `AssumptionError` where it left the range of float64."""
    if not bool(x.isfinite().all()):
        raise AssumptionError(f"{statement}: the bound exceeds the range of float64; rescale f")
    return x


def summed(statement: str, x: Tensor) -> Tensor:
    """Return the sum over the coordinates, the last axis; a number is one coordinate.

    Raises
    ------
    AssumptionError
        There is no coordinate, or the sum exceeds the range of float64.
    """
    if x.ndim and not x.shape[-1]:
        raise AssumptionError(f"{statement} assumes {_ASSUMPTIONS['dimension'].text}; the last axis, of the coordinates, is empty")
    return finite(statement, x.sum(-1) if x.ndim else x)


def descent_terms(gap: Tensor, steps: Tensor, eta: Tensor, L: Tensor, gamma_max: Tensor | None = None) -> dict[str, Tensor]:
    """Return the terms of every telescoped descent: ``initial`` Δ/(ηT) and ``smoothness`` (η/2) L γ_max²; γ_max is 1 by default."""
    # In this order neither a product of two large factors nor a square of a small one leaves the range before the whole term does.
    smoothness = eta * L / 2 if gamma_max is None else (eta * gamma_max) * (L * gamma_max) / 2
    return {"initial": gap / eta / steps, "smoothness": smoothness}


def balanced_terms(gap: Tensor, steps: Tensor, L: Tensor) -> dict[str, Tensor]:
    """Return `descent_terms` at η = √(2Δ/(LT)), where they are equal: each √(ΔL/(2T))."""
    half = (gap / 2).sqrt() * L.sqrt() / steps.sqrt()
    return {"initial": half, "smoothness": half}


def about(statement: str, bound: Bound, *kinds: Left) -> Bound:
    """Return the bound if its left side is of one of the kinds, keys of `LEFT`.

    Raises
    ------
    AssumptionError
        It is about something else, for which the conversion would give a false number.
    """
    if bound.left not in kinds:
        wanted = " or ".join(LEFT[kind] for kind in kinds)
        hint = "; with Γ ≡ 1 that is ‖∇f‖_1: conversion(bound, 1)" if bound.left == "l1_weighted" and "l1" in kinds else ""
        raise AssumptionError(f"{statement} assumes a bound on {wanted}; this one is on {LEFT[bound.left]}{hint} ({bound.statement})")
    return bound
