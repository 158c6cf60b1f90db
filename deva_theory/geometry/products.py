r"""Norms of several blocks at once: the parameters of a model, the layers, the heads of an attention layer.

The norm of the whole is an outer norm of the block norms.  The outer maximum is what blockwise optimizers
descend in (every block takes a full step of its own); outer ℓ2 shares one step among the blocks by their dual
norms; outer ℓ1 moves one block only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from deva_theory.geometry.norms import Geometry
from deva_theory.linalg import Scaled, ldexp, unit_scale

OUTER_NORMS = ("max", "l2", "l1")
_OUTER_DUAL = {"max": "l1", "l2": "l2", "l1": "max"}

T = TypeVar("T")


@dataclass(frozen=True)
class Product:
    r"""A norm on a tuple or dict of blocks: an outer norm of weighted block norms.

    With block norms ``‖·‖_b``, weights ``w_b > 0`` and an outer norm N (max, ℓ2 or ℓ1) over the blocks,

    * ``‖x‖ = N(‖x_b‖_b / w_b)``: the weight is the size block b has in the unit ball,
    * ``‖g‖_* = N_*(w_b ‖g_b‖_{b,*})``, N_* the dual of N (max ↔ ℓ1, ℓ2 itself),
    * ``steepest(g)_b = w_b a_b steepest_b(g_b)``, ``a ≥ 0`` a maximiser of ``Σ a_b z_b`` over ``N(a) ≤ 1``
      with ``z_b = w_b ‖g_b‖_{b,*}``: 1 for max; ``z/‖z‖_2`` for ℓ2; ``e_k`` for ℓ1, k the first largest z,
    * radius, with ``ρ_b = w_b radius_b``: max ``√Σ ρ_b²``; ℓ2 and ℓ1 ``max ρ_b``.

    Proof of the dual: ``<x, g> ≤ Σ ‖x_b‖_b ‖g_b‖_{b,*} = Σ (‖x_b‖_b/w_b) z_b ≤ N(‖x_b‖_b/w_b) N_*(z)``, with
    equality in both places at the maximiser above.

    Attributes
    ----------
    blocks : tuple or dict of Geometry
        At least one.  Tensors are passed in the same form: a tuple or list in the same order, or a mapping
        with the same keys.
    outer : {"max", "l2", "l1"}
        Outer norm.
    weights : tuple or dict of float, optional
        Positive and finite, in the form of `blocks`; default 1 for each block.

    Raises
    ------
    TypeError
        A block that is no :class:`Geometry`, or blocks in another form than a tuple, list or mapping.
    ValueError
        No blocks, an unknown outer norm, weights that do not fit the blocks or are not positive and finite.

    Notes
    -----
    SPEC S1 (blockwise smoothness), M8.
    """

    blocks: tuple[Geometry, ...] | dict[str, Geometry]
    outer: str = "max"
    weights: tuple[float, ...] | dict[str, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.blocks, Mapping):
            object.__setattr__(self, "blocks", dict(self.blocks))
        elif isinstance(self.blocks, (tuple, list)):
            object.__setattr__(self, "blocks", tuple(self.blocks))
        else:
            raise TypeError(f"Product: blocks is a {type(self.blocks).__name__}; pass a tuple or dict")
        if not self.blocks:
            raise ValueError("Product: blocks is empty; give at least one geometry")
        for name, block in self._named():
            if not isinstance(block, Geometry):
                raise TypeError(
                    f"Product: blocks[{name!r}] is a {type(block).__name__}; pass a Geometry such as LInf()"
                )
        if self.outer not in OUTER_NORMS:
            raise ValueError(f"Product: outer is {self.outer!r}; use one of {', '.join(OUTER_NORMS)}")
        given = self._packed([1.0] * len(self.blocks)) if self.weights is None else self.weights
        weights = self._in_order("weights", given)
        for (name, _), weight in zip(self._named(), weights, strict=True):
            # An inverse that overflows would leave the dual without a weight.
            if not (_is_real(weight) and 0.0 < weight < math.inf and math.isfinite(1.0 / weight)):
                raise ValueError(
                    f"Product: weights[{name!r}] is {weight!r}; it and its inverse must be positive, finite"
                )
        object.__setattr__(self, "weights", self._packed([float(w) for w in weights]))

    @property
    def dual(self) -> Product:
        """Product of the dual blocks with the dual outer norm and weights ``1/w_b``."""
        duals = self._packed([block.dual for _, block in self._named()])
        return Product(duals, _OUTER_DUAL[self.outer], self._packed([1.0 / w for w in self._weights()]))

    def norm(self, x: Sequence[Tensor] | Mapping[str, Tensor]) -> Tensor:
        """Return ``‖x‖ = N(‖x_b‖_b / w_b)``.

        Parameters
        ----------
        x : tuple, list or mapping of Tensor, shapes ``(..., *event_b)``
            One tensor per block, all with the same leading dimensions, on the same device.

        Returns
        -------
        Tensor, shape ``(...)``, in the widest dtype of the blocks.

        Raises
        ------
        TypeError
            Another form than that of `blocks`, or a block that is not a real floating-point tensor.
        ValueError
            Missing, unknown or too many blocks; leading dimensions or devices that differ; NaN or infinite
            entries.
        """
        sizes, top = self._sizes(self._checked("x", x), dual=False)
        return ldexp(_outer_norm(self.outer, sizes), top).to(_promoted(self._in_order("x", x)))

    def dual_norm(self, g: Sequence[Tensor] | Mapping[str, Tensor]) -> Tensor:
        """Return ``‖g‖_* = N_*(w_b ‖g_b‖_{b,*})``; shapes and errors as in :meth:`norm`."""
        sizes, top = self._sizes(self._checked("g", g), dual=True)
        return ldexp(_outer_norm(_OUTER_DUAL[self.outer], sizes), top).to(_promoted(self._in_order("g", g)))

    def steepest(self, g: Sequence[Tensor] | Mapping[str, Tensor]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Return d with ``‖d‖ = 1`` and ``<d, g> = Σ_b <d_b, g_b> = ‖g‖_*``, and d = 0 where g = 0.

        Returns
        -------
        tuple or dict of Tensor
            In the form of `blocks`; each block with the shape and dtype of its gradient.

        Raises
        ------
        TypeError, ValueError
            As :meth:`norm`.
        """
        tensors = self._checked("g", g)
        shares: Iterable[Tensor | None] = [None] * len(tensors)
        if self.outer != "max":
            sizes, _ = self._sizes(tensors, dual=True)
            shares = _outer_steepest(self.outer, sizes).unbind(-1)
        directions = []
        blocks = zip(self._named(), tensors, self._weights(), shares, strict=True)
        for (_, block), tensor, weight, share in blocks:
            direction = block._steepest(tensor)
            if share is not None:
                direction = direction * share.reshape(share.shape + (1,) * block.event_ndim)
            directions.append(direction * weight)
        originals = self._in_order("g", g)
        return self._packed([d.to(t.dtype) for d, t in zip(directions, originals, strict=True)])

    def lmo(self, g: Sequence[Tensor] | Mapping[str, Tensor]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Return ``-steepest(g)``, a minimiser of ``<d, g>`` over the unit ball."""
        direction = self.steepest(g)
        return self._packed([-d for d in self._in_order("g", direction)])

    def radius(self, shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]]) -> float:
        """Return the largest Euclidean norm ``√Σ ‖x_b‖_2²`` in the unit ball.

        Parameters
        ----------
        shapes : tuple, list or mapping of shapes
            In the form of `blocks`; the last `event_ndim` sizes of each are read.
        """
        ordered = self._in_order("shapes", shapes)
        blocks = zip(self._named(), self._weights(), ordered, strict=True)
        radii = [weight * block.radius(shape) for (_, block), weight, shape in blocks]
        return math.hypot(*radii) if self.outer == "max" else max(radii)

    def _named(self) -> list[tuple[str | int, Geometry]]:
        return list(self.blocks.items()) if isinstance(self.blocks, dict) else list(enumerate(self.blocks))

    def _weights(self) -> list[float]:
        assert self.weights is not None
        return self._in_order("weights", self.weights)

    def _packed(self, values: list[T]) -> tuple[T, ...] | dict[str, T]:
        if isinstance(self.blocks, dict):
            return dict(zip(self.blocks, values, strict=True))
        return tuple(values)

    def _in_order(self, name: str, values: Sequence[T] | Mapping[str, T]) -> list[T]:
        """Return one value per block, in the order of the blocks."""
        if isinstance(self.blocks, dict):
            if not isinstance(values, Mapping):
                raise TypeError(
                    f"Product: {name} is a {type(values).__name__}; the blocks are named, so pass a mapping"
                )
            missing = [key for key in self.blocks if key not in values]
            unknown = [key for key in values if key not in self.blocks]
            if missing or unknown:
                raise ValueError(
                    f"Product: {name} lacks the blocks {missing} and has unknown ones {unknown}"
                )
            return [values[key] for key in self.blocks]
        if not isinstance(values, (tuple, list)):
            raise TypeError(f"Product: {name} is a {type(values).__name__}; pass a tuple, one per block")
        if len(values) != len(self.blocks):
            raise ValueError(
                f"Product: {name} has {len(values)} entries for {len(self.blocks)} blocks; pass one per block"
            )
        return list(values)

    def _checked(self, name: str, x: Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
        """Return the blocks in order, in their working dtypes."""
        tensors = self._in_order(name, x)
        first, leading = self._named()[0]
        checked: list[Tensor] = []
        for (key, block), tensor in zip(self._named(), tensors, strict=True):
            if checked and isinstance(tensor, Tensor) and tensor.device != checked[0].device:
                raise ValueError(
                    f"Product: {name}[{key!r}] is on {tensor.device}, "
                    f"{name}[{first!r}] on {checked[0].device}; move them to one device"
                )
            checked.append(block._checked(f"{name}[{key!r}]", tensor))
            batch, expected = block._batch(tensor), leading._batch(checked[0])
            if batch != expected:
                raise ValueError(
                    f"Product: {name}[{key!r}] has leading dimensions {batch}, "
                    f"{name}[{first!r}] has {expected}; all blocks need the same"
                )
        return checked

    def _sizes(self, tensors: list[Tensor], *, dual: bool) -> tuple[Tensor, Tensor]:
        """Return ``(z, e)``: block sizes are ``z·2**e``, z of shape ``(..., blocks)``, largest z in [½, 1).

        The sizes are ``‖x_b‖_b / w_b``, or ``w_b ‖x_b‖_{b,*}`` with `dual`.  They share one exponent: neither
        block norms nor weights at the ends of the range overflow before the outer norm itself does.
        """
        mantissas, exponents = [], []
        for (_, block), tensor, weight in zip(self._named(), tensors, self._weights(), strict=True):
            scaled, exponent = unit_scale(tensor, block.event_ndim)
            fraction, power = math.frexp(weight)
            inner = block.dual._norm(scaled) * fraction if dual else block._norm(scaled) / fraction
            size = Scaled(inner, exponent.reshape(inner.shape) + (power if dual else -power)).renormalised()
            mantissas.append(size.mantissa)
            exponents.append(size.exponent)
        dtype = _promoted(mantissas)
        exponent = torch.stack(exponents, dim=-1)
        top = exponent.amax(dim=-1)
        mantissa = torch.stack([m.to(dtype) for m in mantissas], dim=-1)
        return ldexp(mantissa, exponent - top.unsqueeze(-1)), top


def _outer_norm(outer: str, z: Tensor) -> Tensor:
    if outer == "max":
        return z.amax(dim=-1)
    return torch.linalg.vector_norm(z, ord=2 if outer == "l2" else 1, dim=-1)


def _outer_steepest(outer: str, z: Tensor) -> Tensor:
    """Return the share of each block in the steepest direction of outer ℓ2 or ℓ1, for sizes z ≥ 0."""
    if outer == "l2":
        norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        return z / torch.where(norm > 0, norm, 1.0)
    return torch.zeros_like(z).scatter(-1, z.argmax(dim=-1, keepdim=True), 1.0)


def _promoted(tensors: list[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
