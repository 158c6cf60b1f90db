r"""``L_Γ`` of a problem family, step by step along a run: exact where that is cheap, else a certified upper bound.

The descent lemma needs the supremum of uᵀ∇²f(y)u over |u_i| ≤ γ_i along a step; every number here bounds it over the whole domain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.geometry import sign_vectors
from deva_theory.problems.families import DiagonalQuadratic, NonConvexWells, Problem, RotatedQuadratic, TraceProblem

ENUMERATED = 8
"""Largest block of a Hessian whose corners are enumerated in every step."""


@dataclass(frozen=True)
class WeightedSmoothness:
    """A function of Γ, with what it is.

    Attributes
    ----------
    value : callable
        Γ of shape ``(*samples, *batch, *event)`` to float64 of shape ``(*samples, *batch)``.
    exact : bool
        Whether it is the supremum over the domain and not merely above it.
    """

    value: Callable[[Tensor], Tensor]
    exact: bool


def weighted_smoothness(problem: Problem) -> WeightedSmoothness:
    r"""Return L_Γ as a function of Γ.

    Parameters
    ----------
    problem : Problem
        Of any family.

    Returns
    -------
    WeightedSmoothness
        Diagonal and rotated quadratics and E1's: for H ≽ 0 a convex function attains its maximum at a corner of the box, the blocks of H
        (coordinates that it couples) are independent, and blocks of up to `ENUMERATED` coordinates are enumerated: exact; larger ones
        contribute ``Σ L_i γ_i²`` with the family's majorant diag(L) ≽ H.  Wells: ``Σ L_i γ_i² + c (Σ |w_i| γ_i)²``, exact, because
        the Hessian at 0 dominates, and its coupling is at most that of a u with the signs of w.  Every other family:
        ``min{Σ L_i γ_i², max γ² L_∞}``, from its coordinate and box constants.
    """
    match problem:
        case DiagonalQuadratic():
            return WeightedSmoothness(lambda gamma: (problem.constants.coordinate * gamma.double() ** 2).sum(-1), True)
        case RotatedQuadratic():
            corners, exact = _quadratic(problem.hessian, problem.constants.coordinate)
            return WeightedSmoothness(corners, exact)
        case TraceProblem():
            # I ⊗ H: the columns of Γ are Γ's of H, and add up.
            H = problem.quadratic.H.double()
            corners, exact = _quadratic((0.5 * (H + H.mT)).unsqueeze(-3), problem.constants.coordinate.mT)
            return WeightedSmoothness(lambda gamma: corners(gamma.mT).sum(-1), exact)
        case NonConvexWells():
            return WeightedSmoothness(lambda gamma: _wells(problem, gamma), True)
        case _:
            return WeightedSmoothness(lambda gamma: _by_constants(problem, gamma), False)


def _wells(problem: NonConvexWells, gamma: Tensor) -> Tensor:
    gamma = gamma.double()
    value = (problem.curvature.double() * gamma**2).sum(-1)
    if problem.direction is None:
        return value
    return value + problem.coupling * (problem.direction.double().abs() * gamma).sum(-1) ** 2


def _by_constants(problem: Problem, gamma: Tensor) -> Tensor:
    event = tuple(range(-problem.event_ndim, 0))
    square = gamma.double() ** 2
    return torch.minimum((problem.constants.coordinate * square).sum(event), square.amax(event) * problem.constants.box)


def _quadratic(H: Tensor, coordinate: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
    """Return γ ↦ max of uᵀHu over |u_i| ≤ γ_i for H ≽ 0 of shape (*batch, d, d), and whether every block is enumerated."""
    single: list[int] = []
    large: list[int] = []
    tables: list[tuple[list[int], Tensor]] = []
    for block in _blocks(H):
        if len(block) == 1:
            single += block
        elif len(block) > ENUMERATED:
            large += block
        else:
            # uᵀHu at the corner s ⊙ γ is Σ_{i≤j} (s_i s_j H_ij (2 - δ_ij)) γ_i γ_j: linear in the products γ_i γ_j, so that all corners
            # are one matrix product.
            signs = sign_vectors(len(block), device=H.device)
            i, j = torch.triu_indices(len(block), len(block), device=H.device)
            entries = H[..., block, :][..., block][..., i, j] * torch.where(i == j, 1.0, 2.0)
            tables.append((block, entries.unsqueeze(-1) * (signs[:, i] * signs[:, j]).mT))
    diagonal = torch.diagonal(H, dim1=-2, dim2=-1)

    def value(gamma: Tensor) -> Tensor:
        gamma = gamma.double()
        total = (diagonal[..., single] * gamma[..., single] ** 2).sum(-1)
        for block, table in tables:
            i, j = torch.triu_indices(len(block), len(block), device=H.device)
            part = gamma[..., block]
            total = total + _largest(part[..., i] * part[..., j], table)
        return total + (coordinate[..., large] * gamma[..., large] ** 2).sum(-1) if large else total

    return value, not large


def _largest(products: Tensor, table: Tensor) -> Tensor:
    """Return the largest entry of ``products @ table`` for rows of shape ``(*samples, *batch, p)`` and tables ``(*batch, p, corners)``."""
    shape = torch.broadcast_shapes(products.shape[:-1], table.shape[:-2])
    products = products.expand(*shape, products.shape[-1])
    batch = (1,) * (len(shape) - table.ndim + 2) + tuple(table.shape[:-2])
    own = [k for k, size in enumerate(batch) if size > 1]
    # All that shares a table as the rows of one matrix: a product with a single row would be a walk over the table.
    order = [*own, *(k for k in range(len(shape)) if k not in own)]
    rows = products.permute(*order, -1).reshape(*(batch[k] for k in own), -1, products.shape[-1])
    largest = (rows @ table.reshape(*(batch[k] for k in own), *table.shape[-2:])).amax(-1)
    return largest.reshape([shape[k] for k in order]).permute(*(order.index(k) for k in range(len(shape))))


def _blocks(H: Tensor) -> list[list[int]]:
    """Return the sets of coordinates that H couples, in any instance of the batch."""
    d = H.shape[-1]
    linked = (H != 0).reshape(-1, d, d).any(0) | torch.eye(d, dtype=torch.bool, device=H.device)
    for _ in range(max(1, d.bit_length())):
        linked = (linked.double() @ linked.double()) > 0  # paths of twice the length
    return [row.nonzero().flatten().tolist() for i, row in enumerate(linked) if int(row.nonzero()[0]) == i]
