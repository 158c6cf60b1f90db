"""A geometry is a norm with its dual norm and its steepest direction (SPEC M8).

An optimizer that moves by ``-η · steepest(g)`` is steepest descent in that norm: gradient descent for ℓ2,
SignSGD for ℓ∞, Muon for the spectral norm.  Every method takes the *event* (a vector or a matrix) in the last
`event_ndim` dimensions and is batched over the leading ones.  Each event is scaled by an exact power of two
before anything is squared or decomposed, so only a norm that itself exceeds the range of its dtype overflows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.linalg import ldexp, polar_factor, unit_scale
from deva_theory.linalg.floating import working_dtype


class Geometry(ABC):
    r"""A norm ‖·‖ on vectors or matrices: ``‖g‖_* = sup{<d, g> : ‖d‖ ≤ 1}`` and a maximiser of it.

    Subclasses give ``_norm`` and ``_steepest`` on checked float32 or float64 tensors, `dual` and `radius`.

    Notes
    -----
    SPEC M8, S1.  ``<d, g> = Σ d_i g_i`` over the event.  float16 and bfloat16 are evaluated in float32.
    """

    @property
    @abstractmethod
    def event_ndim(self) -> int:
        """Number of trailing dimensions that form one event: 1 for vectors, 2 for matrices."""

    @property
    @abstractmethod
    def dual(self) -> Geometry:
        """The geometry whose norm is this one's dual norm."""

    @abstractmethod
    def radius(self, shape: Sequence[int]) -> float:
        """Return ``max{‖x‖_2 : ‖x‖ ≤ 1}``, the Euclidean (Frobenius) radius of the unit ball.

        Parameters
        ----------
        shape : sequence of int
            Shape of the tensor; its last `event_ndim` sizes are read.  An event without entries has radius 0.
        """

    @abstractmethod
    def _norm(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _steepest(self, g: Tensor) -> Tensor: ...

    def norm(self, x: Tensor) -> Tensor:
        """Return ‖x‖ of each event.

        Parameters
        ----------
        x : Tensor, shape ``(..., *event)``

        Returns
        -------
        Tensor, shape ``(...)``, in the dtype of `x`.

        Raises
        ------
        TypeError
            Not a tensor, or an integer or complex one.
        ValueError
            Fewer than `event_ndim` dimensions, or a NaN or infinite entry.
        """
        return self._norm(self._checked("x", x)).to(x.dtype)

    def dual_norm(self, g: Tensor) -> Tensor:
        """Return ``‖g‖_* = max{<d, g> : ‖d‖ ≤ 1}`` of each event; shapes and errors as in :meth:`norm`."""
        return self.dual._norm(self._checked("g", g)).to(g.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """Return d with ``‖d‖ = 1`` and ``<d, g> = ‖g‖_*``, and d = 0 where g = 0.

        Parameters
        ----------
        g : Tensor, shape ``(..., *event)``

        Returns
        -------
        Tensor, shape and dtype of `g`.
            Odd and invariant under positive scaling of `g`; of several maximisers the one that vanishes on
            coordinates and singular directions where `g` does.  L1 takes the first of tied largest entries;
            in Schatten-1 rounding decides between tied largest singular values, so that neither property
            is sure there.

        Raises
        ------
        TypeError, ValueError
            As :meth:`norm`.
        """
        return self._steepest(self._checked("g", g)).to(g.dtype)

    def lmo(self, g: Tensor) -> Tensor:
        """Return ``-steepest(g)``, a minimiser of ``<d, g>`` over the unit ball (the LMO)."""
        return -self.steepest(g)

    def _checked(self, name: str, x: object) -> Tensor:
        label = f"{type(self).__name__}: {name}"
        if not isinstance(x, Tensor):
            raise TypeError(f"{label} is a {type(x).__name__}; pass a torch.Tensor")
        if not x.dtype.is_floating_point:
            raise TypeError(f"{label} has dtype {x.dtype}; convert it to a real floating-point dtype")
        if x.ndim < self.event_ndim:
            raise ValueError(
                f"{label} has shape {tuple(x.shape)}; it needs at least {self.event_ndim} dimension(s), "
                f"the last {self.event_ndim} being one event"
            )
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).sum())
            raise ValueError(f"{label} has {bad} NaN or infinite entries of {x.numel()}; remove them first")
        return x.to(working_dtype(x.dtype))

    def _batch(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - self.event_ndim])

    def _event_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        event = tuple(shape)[-self.event_ndim :]
        if len(event) < self.event_ndim or any(size < 0 for size in event):
            raise ValueError(
                f"{type(self).__name__}: shape is {tuple(shape)}; give {self.event_ndim} or more sizes >= 0"
            )
        return event


@dataclass(frozen=True)
class _Entrywise(Geometry):
    """A norm of the entries, whatever the shape of the event.

    Attributes
    ----------
    event_ndim : {1, 2}
        1 for vectors, 2 for matrices.
    """

    event_ndim: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.event_ndim, bool) or self.event_ndim not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}: event_ndim is {self.event_ndim!r}; use 1 (vectors) or 2 (matrices)"
            )

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-self.event_ndim, 0))

    def _size(self, shape: Sequence[int]) -> int:
        return math.prod(self._event_shape(shape))


@dataclass(frozen=True)
class L2(_Entrywise):
    """Euclidean norm ``√Σ x_i²`` (Frobenius on matrices); self-dual; ``steepest(g) = g/‖g‖_2``; radius 1.

    Attributes
    ----------
    event_ndim : {1, 2}
        1 for vectors, 2 for matrices.
    """

    @property
    def dual(self) -> L2:
        """The geometry itself."""
        return self

    def radius(self, shape: Sequence[int]) -> float:
        """Return 1 (0 for an event without entries)."""
        return 1.0 if self._size(shape) else 0.0

    def _norm(self, x: Tensor) -> Tensor:
        scaled, exponent = unit_scale(x, self.event_ndim)
        return ldexp(torch.linalg.vector_norm(scaled, dim=self._dims), exponent.reshape(self._batch(x)))

    def _steepest(self, g: Tensor) -> Tensor:
        scaled, _ = unit_scale(g, self.event_ndim)
        norm = torch.linalg.vector_norm(scaled, dim=self._dims, keepdim=True)
        return scaled / torch.where(norm > 0, norm, 1.0)


@dataclass(frozen=True)
class LInf(_Entrywise):
    """Largest entry ``max|x_i|``; dual ℓ1; ``steepest(g) = sign(g)`` (SPEC M8); radius √d, √(mn).

    Attributes
    ----------
    event_ndim : {1, 2}
        1 for vectors, 2 for matrices (entrywise, ``max|x_ij|``; the operator norm is :func:`Spectral`).
    """

    @property
    def dual(self) -> L1:
        """Entrywise ℓ1."""
        return L1(self.event_ndim)

    def radius(self, shape: Sequence[int]) -> float:
        """Return the root of the number of entries, attained at sign vectors."""
        return math.sqrt(self._size(shape))

    def _norm(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_zeros(self._batch(x))
        return x.abs().amax(dim=self._dims)

    def _steepest(self, g: Tensor) -> Tensor:
        return torch.sign(g)


@dataclass(frozen=True)
class L1(_Entrywise):
    """Sum ``Σ|x_i|``; dual ℓ∞; ``steepest(g) = sign(g_k) e_k``, k the first largest entry; radius 1.

    Attributes
    ----------
    event_ndim : {1, 2}
        1 for vectors, 2 for matrices (entrywise).
    """

    @property
    def dual(self) -> LInf:
        """Entrywise ℓ∞."""
        return LInf(self.event_ndim)

    def radius(self, shape: Sequence[int]) -> float:
        """Return 1, attained at the unit vectors (0 for an event without entries)."""
        return 1.0 if self._size(shape) else 0.0

    def _norm(self, x: Tensor) -> Tensor:
        return x.abs().sum(dim=self._dims)

    def _steepest(self, g: Tensor) -> Tensor:
        if g.numel() == 0:
            return torch.zeros_like(g)
        flat = g.flatten(-self.event_ndim)
        largest = flat.abs().argmax(dim=-1, keepdim=True)
        vertex = torch.zeros_like(flat).scatter(-1, largest, torch.sign(flat).gather(-1, largest))
        return vertex.reshape(g.shape)


@dataclass(frozen=True)
class Schatten(Geometry):
    r"""Schatten-p norm of a matrix, the ℓp norm of its singular values, by SVD.

    With ``G = U diag(σ) Vᵀ`` and ``1/p + 1/q = 1``,

    * ``‖X‖_p = (Σ σ_i(X)^p)^{1/p}``, ``‖G‖_* = ‖G‖_q``,
    * ``steepest(G) = U diag((σ_i/‖σ‖_q)^{q-1}) Vᵀ``: msign(G) for p = ∞, G/‖G‖_F for 2, u_1 v_1ᵀ for 1,
    * radius ``min(m, n)^{max(0, 1/2 - 1/p)}``.

    Attributes
    ----------
    p : float
        ``1 ≤ p ≤ ∞``: 1 nuclear, 2 Frobenius, ∞ spectral (see :func:`Spectral`).

    Notes
    -----
    SPEC M8.  `steepest` counts singular values up to ``eps·max(m, n)·σ_max`` as zero, as
    :func:`deva_theory.linalg.polar_factor` does: the direction of a singular vector is noise there.
    """

    p: float

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not self.p >= 1:
            raise ValueError(f"Schatten: p is {self.p!r}; it must be a number with 1 <= p <= inf")
        object.__setattr__(self, "p", float(self.p))

    @property
    def event_ndim(self) -> int:
        """2: matrices."""
        return 2

    @property
    def dual(self) -> Schatten:
        """Schatten-q, ``q = p/(p-1)``."""
        if self.p == 1.0:
            return Schatten(math.inf)
        return Schatten(1.0 if math.isinf(self.p) else self.p / (self.p - 1.0))

    def radius(self, shape: Sequence[int]) -> float:
        """Return ``min(m, n)^{max(0, 1/2 - 1/p)}``, attained at isometries (p ≥ 2) or at rank one."""
        rank = min(self._event_shape(shape))
        return rank ** max(0.0, 0.5 - 1.0 / self.p) if rank else 0.0

    def _norm(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_zeros(self._batch(x))
        scaled, exponent = unit_scale(x, 2)
        S = torch.linalg.svdvals(scaled)
        largest = S[..., 0]
        if math.isfinite(self.p):
            largest = largest * _relative(S).pow(self.p).sum(dim=-1).pow(1.0 / self.p)
        return ldexp(largest, exponent.reshape(self._batch(x)))

    def _steepest(self, g: Tensor) -> Tensor:
        if math.isinf(self.p) or g.numel() == 0:
            return polar_factor(g, method="svd")
        scaled, _ = unit_scale(g, 2)
        U, S, Vh = torch.linalg.svd(scaled, full_matrices=False)
        if self.p == 1.0:
            return torch.where(S[..., :1, None] > 0, U[..., :, :1] @ Vh[..., :1, :], 0.0)
        ratio = _relative(S)
        kept = ratio > torch.finfo(S.dtype).eps * max(g.shape[-2:])
        # (σ/‖σ‖_q)^{q-1} with q - 1 = 1/(p - 1) and (q - 1)/q = 1/p, on ratios to the largest σ.
        power = torch.where(kept, ratio.pow(1.0 / (self.p - 1.0)), 0.0)
        total = (power * ratio).sum(dim=-1, keepdim=True)
        weight = power / torch.where(total > 0, total, 1.0).pow(1.0 / self.p)
        return (U * weight.unsqueeze(-2)) @ Vh


def Spectral() -> Schatten:
    """Return Schatten-∞, the operator norm ``‖X‖_{2→2} = σ_max``.

    Dual: the nuclear norm; ``steepest(G) = msign(G)``, the polar factor (SPEC M8); radius √min(m, n).
    """
    return Schatten(math.inf)


def _relative(S: Tensor) -> Tensor:
    """Return singular values over the largest of them, 0/0 := 0."""
    largest = S[..., :1]
    return S / torch.where(largest > 0, largest, 1.0)
