"""The decomposition itself: an adaptive step as variance adaptation times scale-invariant term.

:func:`decompose` takes a gradient history and returns both terms for every step: entrywise for AdaGrad, RMSprop and
Adam, as matrices for full-matrix AdaGrad, Shampoo and the Kronecker preconditioner, entrywise in a rotated basis for DeVA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.linalg import bias_correction, gram_power, polar_factor, symmetric_power, unit_scale
from deva_theory.linalg.floating import (
    Scaled,
    scaled_ema_update,
    scaled_ratio,
    scaled_rms_update,
    working_dtype,
)
from deva_theory.rules import Rule, deva_linf, deva_spectral
from deva_theory.rules.validation import check_beta, check_betas, check_choice

Array = Any
"""A torch tensor or a NumPy array: results come back as what the history was."""


@dataclass(frozen=True)
class Decomposition:
    """Variance adaptation and scale-invariant term of every step of a history.

    Attributes
    ----------
    kind : str
        What was decomposed.
    variance_adaptation : array or pair of arrays
        Entrywise factor ``(T, …)``; for "full_matrix" ``(T, …, d, d)`` and "kronecker" ``(T, …, mn, mn)`` matrices (acting on
        column-stacked vec); for "shampoo" the pair (left, right).
    scale_invariant : array, shape ``(T, …)``
        sign, ``g/‖g‖`` or the polar factor, in the original basis.
    update : array, shape ``(T, …)``
        The step of the method itself, without learning rate, computed without the split wherever the split is not its definition.
    basis : pair of arrays, optional
        (Q_L, Q_R) in which the factor acts entrywise.
    scale : array, optional
        Shape and bias factors of each step, ``(T,)``.
    """

    kind: str
    variance_adaptation: Array
    scale_invariant: Array
    update: Array
    basis: tuple[Array, Array] | None = None
    scale: Array | None = None

    def recompose(self) -> Array:
        """Return variance adaptation applied to the scale-invariant term: equals `update`."""
        parts = _map(self, _as_tensor)
        factor, s = parts.variance_adaptation, parts.scale_invariant
        if self.kind == "full_matrix":
            out = (factor @ s.unsqueeze(-1)).squeeze(-1)
        elif self.kind == "kronecker":
            out = _unvec(factor @ _vec(s), s.shape)
        elif self.kind == "shampoo":
            out = factor[0] @ s @ factor[1]
        elif parts.basis is not None:
            Q_L, Q_R = parts.basis
            out = Q_L @ (factor * (Q_L.mT @ s @ Q_R)) @ Q_R.mT
        else:
            out = factor * s
        if parts.scale is not None:
            out = out * parts.scale.reshape(-1, *(1,) * (out.ndim - 1))
        return out.numpy() if isinstance(self.update, np.ndarray) else out

    def summary(self) -> str:
        """Return one line: kind, steps, range of the variance adaptation and the recomposition error."""
        update = _as_tensor(self.update)
        error = (_as_tensor(self.recompose()) - update).abs().max() if update.numel() else torch.zeros(())
        factors = self.variance_adaptation if isinstance(self.variance_adaptation, tuple) else (self.variance_adaptation,)
        values = [_as_tensor(f) for f in factors]
        if not all(v.numel() for v in values):
            return f"{self.kind}: {update.shape[0]} steps of shape {tuple(update.shape[1:])}, empty"
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        return (
            f"{self.kind}: {update.shape[0]} steps of shape {tuple(update.shape[1:])}, variance adaptation in "
            f"[{low:.3g}, {high:.3g}], recomposition error {float(error):.1e}"
        )


def decompose(history: Array, *, kind: str | Rule, **options: Any) -> Decomposition:
    r"""Split every step of an adaptive method into variance adaptation and scale-invariant term.

    Parameters
    ----------
    history : Tensor or ndarray, shape ``(T, ...)``
        Gradients stacked on a leading time axis, real floating point, finite. Matrix kinds act on the last two
        dimensions, "full_matrix" on the last one; dimensions in between are batch. NumPy arrays are read without a copy.
    kind : str or Rule
        ===============  =======================================================  ================================
        kind             update                                                   options (defaults)
        ===============  =======================================================  ================================
        "adagrad"        ``g/√S`` (SPEC D1)
        "rmsprop"        ``g/√v``, v = EMA(g²)                                    beta2=.999, bias_correction=False
        "adam"           ``m̂/√v̂`` (D4)                                           betas=(.9, .999), bias_correction=True
        "full_matrix"    ``S^{†1/2} g``, S = Σ g gᵀ
        "shampoo"        ``L^{†1/4} G R^{†1/4}`` (M3)                             beta=None: sums; else EMA factor
        "kronecker"      ``(Σ P)^{†1/2} vec G``, P = (GᵀG)^{1/2} ⊗ (GGᵀ)^{1/2}      (M1, M3)
        "deva_linf"      the ℓ∞ rule                                              those of :func:`deva_linf`
        "deva_spectral"  the S∞ rule                                              those of :func:`deva_spectral`
        a Rule           any composed rule
        ===============  =======================================================  ================================

    Returns
    -------
    Decomposition
        Arrays of the same library, dtype and device as `history` (rules on half precision: float32).

    Raises
    ------
    TypeError
        Not a floating-point tensor or array; an option the kind does not have.
    ValueError
        Unknown kind, too few dimensions, empty time axis, NaN or infinite entries.

    Notes
    -----
    The entrywise kinds take ε = 0 and work on (mantissa, exponent) pairs (SPEC D8): given the stored state each γ of AdaGrad and
    RMSprop is right to 4 ulps over the whole finite range, and after t steps to 2t+4 ulps. Adam's first moment may cancel:
    there the error is 6κ ulps, ``κ = (β1|m| + (1-β1)|g|) / |β1 m + (1-β1) g|``.
    The matrix kinds work from SVDs of the stacked gradients, so condition numbers are not squared ("kronecker" excepted).

    Examples
    --------
    >>> import numpy as np
    >>> split = decompose(np.array([[3.0, -1e200], [4.0, 1e-200]]), kind="adagrad")
    >>> split.variance_adaptation
    array([[1. , 1. ],
           [0.8, 0. ]])
    >>> split.scale_invariant
    array([[ 1., -1.],
           [ 1.,  1.]])
    """
    tensor = _checked_history(history)
    if isinstance(kind, Rule):
        if options:
            raise TypeError(f"decompose: options {sorted(options)} do not apply to a Rule; set them on the rule")
        result = _decompose_rule(tensor, kind, kind.name)
    else:
        check_choice("decompose: kind", kind, _KINDS)
        try:
            result = _KINDS[kind](tensor, **options)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            named = re.search(r"argument '(\w+)'", str(error))
            raise TypeError(f"decompose: kind {kind!r} has no option {named[0][9:] if named else error}") from None
    return _map(result, Tensor.numpy) if isinstance(history, np.ndarray) else result


def _checked_history(history: Array) -> Tensor:
    if isinstance(history, np.ndarray):
        if history.dtype.kind != "f" or history.dtype.itemsize > 8:
            raise TypeError(f"decompose: history has dtype {history.dtype}; convert it to float16, float32 or float64")
        native = history.dtype.newbyteorder("=")
        usable = history.flags.writeable and history.dtype == native and all(s >= 0 and s % native.itemsize == 0 for s in history.strides)
        tensor = torch.from_numpy(history if usable else history.astype(native, order="C", copy=True))
    elif isinstance(history, Tensor):
        tensor = history.detach()
    else:
        raise TypeError(f"decompose: history is a {type(history).__name__}; pass a torch.Tensor or a numpy.ndarray")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"decompose: history has dtype {tensor.dtype}; convert it to a real floating-point dtype")
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise ValueError(f"decompose: history has shape {tuple(tensor.shape)}; stack at least one gradient on a leading time axis")
    if not bool(torch.isfinite(tensor).all()):
        where = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
        raise ValueError(f"decompose: history has a NaN or infinite entry at index {tuple(where)}; remove that step")
    return tensor


def _decompose_entries(
    history: Tensor, kind: str, *, beta1: float, beta2: float | None, bias_correction_on: bool
) -> Decomposition:
    # Half precision is evaluated in float32, where its whole range is normal, and rounded once at the end.
    x = history.to(working_dtype(history.dtype))
    decay, weight = (1.0, 1.0) if beta2 is None else (beta2, 1.0 - beta2)
    rms = mean = Scaled.zeros_like(x[0])
    gammas, signs = [], []
    for step, gradient in enumerate(x, start=1):
        g = Scaled.of(gradient)
        mean = scaled_ema_update(mean, g, beta1) if beta1 > 0.0 else g
        rms = scaled_rms_update(rms, g, decay, weight)
        factor = 1.0
        if bias_correction_on and beta2 is not None:
            factor = math.sqrt(bias_correction(beta2, step)) / bias_correction(beta1, step)
        gammas.append(scaled_ratio(mean, rms, factor))
        signs.append(mean.mantissa.sign())
    gamma, sign = torch.stack(gammas).to(history.dtype), torch.stack(signs).to(history.dtype)
    return Decomposition(kind, gamma, sign, gamma * sign)


def _adagrad(history: Tensor) -> Decomposition:
    return _decompose_entries(history, "adagrad", beta1=0.0, beta2=None, bias_correction_on=False)


def _rmsprop(history: Tensor, beta2: float = 0.999, bias_correction: bool = False) -> Decomposition:
    check_beta("beta2", beta2)
    return _decompose_entries(history, "rmsprop", beta1=0.0, beta2=beta2, bias_correction_on=bias_correction)


def _adam(
    history: Tensor, betas: tuple[float, float] = (0.9, 0.999), bias_correction: bool = True
) -> Decomposition:
    beta1, beta2 = check_betas(betas)
    if beta2 == 0.0 and beta1 > 0.0:
        raise ValueError("decompose: beta2 is 0 and beta1 is not: m/√v is then unbounded (0 < beta2 is needed)")
    return _decompose_entries(history, "adam", beta1=beta1, beta2=beta2, bias_correction_on=bias_correction)


def _full_matrix(history: Tensor) -> Decomposition:
    x = _event_history(history, "full_matrix", 1)
    factor = torch.zeros_like(x[0]).unsqueeze(-1)
    adaptations, units, updates = [], [], []
    for gradient in x:
        g = gradient.unsqueeze(-1)
        factor = _compressed(torch.cat([factor, g], dim=-1))
        norm = torch.linalg.vector_norm(g, dim=-2, keepdim=True)
        unit = g / torch.where(norm > 0, norm, 1.0)
        root = gram_power(factor, -0.5)
        updates.append((root @ g).squeeze(-1))
        # (g gᵀ)^{1/2} = g gᵀ/‖g‖, written with the unit vector so that nothing is squared.
        adaptations.append(root @ (norm * unit) @ unit.mT)
        units.append(unit.squeeze(-1))
    return _stacked("full_matrix", history, adaptations, units, updates)


def _shampoo(history: Tensor, beta: float | None = None) -> Decomposition:
    if beta is not None:
        check_beta("beta", beta)
    keep, new = (1.0, 1.0) if beta is None else (math.sqrt(beta), math.sqrt(1.0 - beta))
    x = _event_history(history, "shampoo", 2)
    left = right = None
    lefts, rights, polars, updates = [], [], [], []
    for G in x:
        left = _compressed(G * new if left is None else torch.cat([left * keep, G * new], dim=-1))
        right = _compressed(G.mT * new if right is None else torch.cat([right * keep, G.mT * new], dim=-1))
        L, R = gram_power(left, -0.25), gram_power(right, -0.25)
        updates.append(L @ G @ R)
        lefts.append(L @ gram_power(G, 0.25))
        rights.append(gram_power(G.mT, 0.25) @ R)
        polars.append(polar_factor(G))
    result = _stacked("shampoo", history, lefts, polars, updates)
    return replace(result, variance_adaptation=(result.variance_adaptation, torch.stack(rights).to(history.dtype)))


def _kronecker(history: Tensor) -> Decomposition:
    x = _event_history(history, "kronecker", 2)
    total: Tensor | None = None
    adaptations, polars, updates = [], [], []
    for G in x:
        P = _kron(gram_power(G.mT, 0.5), gram_power(G, 0.5))
        total = P if total is None else total + P
        root = symmetric_power(total, -0.5)
        # P^{1/2} is the Kronecker product of the factors' fourth roots.
        adaptations.append(root @ _kron(gram_power(G.mT, 0.25), gram_power(G, 0.25)))
        polars.append(polar_factor(G))
        updates.append(_unvec(root @ _vec(G), G.shape))
    return _stacked("kronecker", history, adaptations, polars, updates)


def _decompose_rule(history: Tensor, rule: Rule, kind: str) -> Decomposition:
    if history.ndim - 1 < rule.event_ndim:
        raise ValueError(
            f"decompose: {kind} acts on {rule.event_ndim} dimension(s) behind the time axis; history has shape {tuple(history.shape)}"
        )
    state = rule.init(history[0])
    rows: list[tuple[Tensor, ...]] = []
    scales = []
    for gradient in history:
        direction, state, details = rule.update(gradient, state, diagnostics=True, check_finite=False)
        assert details is not None
        bases: tuple[Tensor, ...] = () if details.basis is None else details.basis
        rows.append((details.variance_adaptation, details.scale_invariant, direction, *bases))
        scales.append(torch.as_tensor(details.scale, dtype=direction.dtype, device=direction.device))
    gamma, s, update, *stacked = (torch.stack(column) for column in zip(*rows, strict=True))
    scale = torch.stack(scales)
    if scale.ndim > 1:
        gamma, scale = gamma * scale, torch.ones(len(rows), dtype=scale.dtype, device=scale.device)
    return Decomposition(kind, gamma, s, update, (stacked[0], stacked[1]) if stacked else None, scale)


def _deva_linf(history: Tensor, **options: Any) -> Decomposition:
    return _decompose_rule(history, deva_linf(**options), "deva_linf")


def _deva_spectral(history: Tensor, **options: Any) -> Decomposition:
    return _decompose_rule(history, deva_spectral(**options), "deva_spectral")


_KINDS: dict[str, Callable[..., Decomposition]] = {
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "full_matrix": _full_matrix,
    "shampoo": _shampoo,
    "kronecker": _kronecker,
    "deva_linf": _deva_linf,
    "deva_spectral": _deva_spectral,
}


def _event_history(history: Tensor, kind: str, event_ndim: int) -> Tensor:
    if history.ndim - 1 < event_ndim:
        raise ValueError(
            f"decompose: kind {kind!r} acts on {event_ndim} dimension(s) behind the time axis; history has shape {tuple(history.shape)}"
        )
    x = history.to(working_dtype(history.dtype))
    # All matrix kinds are invariant under scaling the whole history: one power of two per batch element.
    moved = x.movedim(0, -event_ndim - 1)
    return unit_scale(moved, event_ndim + 1)[0].movedim(-event_ndim - 1, 0)


def _compressed(A: Tensor) -> Tensor:
    """Return a factor with the same Gram matrix AAᵀ and at most as many columns as rows."""
    if A.numel() == 0 or A.shape[-1] <= A.shape[-2]:
        return A
    U, S, _ = torch.linalg.svd(A, full_matrices=False)
    return U * S.unsqueeze(-2)


def _stacked(kind: str, history: Tensor, adaptation: list, invariant: list, update: list) -> Decomposition:
    dtype = history.dtype
    return Decomposition(
        kind, torch.stack(adaptation).to(dtype), torch.stack(invariant).to(dtype), torch.stack(update).to(dtype)
    )


def _kron(A: Tensor, B: Tensor) -> Tensor:
    """Batched Kronecker product; ``(B ⊗ A) vec X = vec(A X Bᵀ)`` with vec stacking columns."""
    product = A[..., :, None, :, None] * B[..., None, :, None, :]
    return product.reshape(*A.shape[:-2], A.shape[-2] * B.shape[-2], A.shape[-1] * B.shape[-1])


def _vec(X: Tensor) -> Tensor:
    return X.mT.reshape(*X.shape[:-2], -1, 1)


def _unvec(x: Tensor, shape: torch.Size) -> Tensor:
    return x.reshape(*shape[:-2], shape[-1], shape[-2]).mT


def _as_tensor(x: Array) -> Tensor:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def _map(result: Decomposition, convert: Callable[[Any], Any]) -> Decomposition:
    def apply(value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        return tuple(convert(v) for v in value) if isinstance(value, tuple) else convert(value)

    return replace(result, **{f.name: apply(getattr(result, f.name)) for f in fields(result)})
