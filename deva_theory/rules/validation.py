"""Checks at the public edge of the rules: hyper-parameters when a rule is made, gradients before a state changes."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor

from deva_theory.linalg.floating import working_dtype


def check_beta(name: str, value: float) -> None:
    """Raise ValueError unless 0 ≤ value < 1."""
    if not _is_real(value) or not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value!r}; an averaging factor must be a number in [0, 1)")


def check_betas(betas: object) -> tuple[float, float]:
    """Return the pair (β1, β2), each in [0, 1); raise ValueError otherwise."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas is {betas!r}; give the pair (beta1, beta2)")
    check_beta("beta1", betas[0])
    check_beta("beta2", betas[1])
    return betas[0], betas[1]


def check_bool(name: str, value: object) -> None:
    """Raise ValueError unless value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; use True or False")


def check_nonnegative(name: str, value: float) -> None:
    """Raise ValueError unless value is finite and ≥ 0."""
    if not _is_real(value) or not math.isfinite(value) or value < 0.0:
        raise ValueError(f"{name} is {value!r}; it must be a finite number >= 0")


def check_positive_int(name: str, value: object) -> None:
    """Raise ValueError unless value is an integer ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be an integer >= 1")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of choices; the message suggests the nearest one."""
    known = list(choices)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{name} is {value!r}; {hint}use one of {', '.join(map(repr, known))}")


def check_real_tensor(name: str, x: object) -> Tensor:
    """Raise TypeError unless x is a real floating-point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; pass a torch.Tensor")
    if x.layout != torch.strided:
        raise TypeError(f"{name} is sparse ({x.layout}); pass x.to_dense()")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {x.dtype}; convert it to a real floating-point dtype")
    return x


def check_gradient(
    grad: object, *, name: str, expected: torch.Size | None, event_ndim: int, finite: bool, dtype: torch.dtype | None = None
) -> Tensor:
    """Return `grad` when a rule can take it; otherwise raise before anything has changed.

    Raises
    ------
    TypeError
        Not a dense real floating-point tensor, or one that does not fit the `dtype` of the state.
    ValueError
        Wrong shape, or (with `finite`) a NaN or infinite entry.
    """
    grad = check_real_tensor(f"{name}: grad", grad)
    if grad.ndim < event_ndim:
        raise ValueError(
            f"{name}: grad has shape {tuple(grad.shape)}; this rule acts on the last {event_ndim} dimension(s)"
        )
    if expected is not None and grad.shape != expected:
        raise ValueError(
            f"{name}: grad has shape {tuple(grad.shape)}, the state was initialised for {tuple(expected)}; "
            "pass the gradient of the same parameters, or call init again"
        )
    if dtype is not None and working_dtype(grad.dtype) != dtype:
        raise TypeError(
            f"{name}: grad has dtype {grad.dtype}, the state {dtype}; call init with parameters of the gradient's dtype, or convert"
        )
    if finite and not bool(torch.isfinite(grad).all()):
        bad = int((~torch.isfinite(grad)).sum())
        raise ValueError(
            f"{name}: grad has {bad} NaN or infinite entries out of {grad.numel()}; nothing was changed. "
            "Skip this step or lower the loss scale"
        )
    return grad


def _is_real(value: object) -> bool:
    # NumPy scalars register as numbers too.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
