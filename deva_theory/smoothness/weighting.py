r"""Γ-weighted smoothness: the same estimators over the set in which an adaptive rule moves (SPEC S2).

A rule moves along ``T(O) = Q_L (Γ ⊙ O) Q_Rᵀ`` (bases only where Γ lives in rotated coordinates) with O in the unit ball of
its scale-invariant term.  ``L_Γ(H) = sup_{‖O‖≤1} <T O, H T O>`` is the plain quantity of ``TᵀHT``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deva_theory.rules import Diagnostics
from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.programs import Program, congruence

Weights = Tensor | Diagnostics
"""Γ of one parameter, entrywise on the coordinates, or with its bases."""


def checked_weights(gamma: Any, model: nn.Module) -> dict[str, Weights]:
    """Return Γ by the names under which parameters are probed: a tied parameter has one of its several names.

    Raises
    ------
    ProbeError
        No mapping, a name that the model does not have, two values for one parameter, Γ that is no tensor, of another
        shape, negative or not finite.
    """
    if not isinstance(gamma, Mapping):
        raise ProbeError(f"gamma is a {type(gamma).__name__}; pass a mapping from the names of parameters to their Γ")
    named = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, parameter in named.items():
        first.setdefault(id(parameter), name)
    found: dict[str, Weights] = {}
    for name, weights in gamma.items():
        if name not in named:
            near = difflib.get_close_matches(str(name), list(named), n=3, cutoff=0.0)
            raise ProbeError(f"gamma has {name!r}, and the model no such parameter; near names: {', '.join(near)}")
        probed = first[id(named[name])]
        if probed in found:
            raise ProbeError(f"gamma has {name!r} and {probed!r}, which are one tied parameter; give one of them")
        _check(name, weights, tuple(named[name].shape))
        found[probed] = weights
    return found


def _check(name: str, weights: Any, shape: tuple[int, ...]) -> None:
    values = weights.variance_adaptation if isinstance(weights, Diagnostics) else weights
    if not isinstance(values, Tensor):
        raise ProbeError(f"Γ of {name!r} is a {type(values).__name__}; pass a tensor of the parameter's shape {shape}, or Diagnostics")
    if tuple(values.shape) != shape:
        raise ProbeError(f"Γ of {name!r} has shape {tuple(values.shape)}, the parameter {shape}")
    if values.is_complex() or not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ProbeError(f"Γ of {name!r} has entries that are negative, complex, NaN or infinite")
    for Q in (isinstance(weights, Diagnostics) and weights.basis) or ():
        if not bool(torch.isfinite(Q).all()):
            raise ProbeError(f"the basis of Γ of {name!r} has NaN or infinite entries")


def weight_tensors(block: Block, gamma: Mapping[str, Weights]) -> Iterator[Tensor]:
    """Yield the tensors that Γ of a block's parameters is made of, in order; parameters without Γ give an empty one."""
    for name in block.parameters:
        weights = gamma.get(name)
        if isinstance(weights, Diagnostics):
            yield from (weights.variance_adaptation, *(weights.basis or ()))
        else:
            yield torch.empty(0) if weights is None else weights


def weighted_program(program: Program[Estimate], block: Block, gamma: Mapping[str, Weights], *, name: str) -> Program[Estimate]:
    """Return the program of ``TᵀHT``; its witnesses are directions ``T(O)`` of the original space.

    Parameters
    ----------
    program : Program
        Of the plain quantity.
    gamma : mapping
        Γ by parameter name; parameters that are missing have Γ ≡ 1.
    name : str
        What the estimate is called.

    Raises
    ------
    ProbeError
        Γ of another shape than the parameter, or rotated where a block holds only a slice.
    """
    adaptation = Adaptation(block, gamma)
    estimate = yield from congruence(program, adaptation.apply, adaptation.adjoint)
    quadratic = estimate.quadratic and _restored(estimate.quadratic, adaptation)
    return replace(estimate, norm=name, bilinear=_restored(estimate.bilinear, adaptation), quadratic=quadratic)


class Adaptation:
    """T and Tᵀ on rows (k, d) of a block."""

    def __init__(self, block: Block, gamma: Mapping[str, Weights]) -> None:
        self.block = block
        self._parts = [(piece, _of_piece(piece, gamma.get(piece.parameter))) for piece in block.pieces]

    def apply(self, V: Tensor) -> Tensor:
        """Return ``T V``."""
        return self._map(V, adjoint=False)

    def adjoint(self, V: Tensor) -> Tensor:
        """Return ``Tᵀ V``: ``Γ ⊙ Q_Lᵀ V Q_R``."""
        return self._map(V, adjoint=True)

    def _map(self, V: Tensor, *, adjoint: bool) -> Tensor:
        result = V.clone()
        start = 0
        for piece, (weights, basis) in self._parts:
            part = result[:, start : start + piece.size]
            start += piece.size
            if weights is None:
                continue
            matrices = part.reshape(len(V), *piece.shape)
            if basis is None:
                matrices = matrices * weights.to(V)
            else:
                Q_L, Q_R = (Q.to(V) for Q in basis)
                if adjoint:
                    matrices = weights.to(V) * (Q_L.mT @ matrices @ Q_R)
                else:
                    matrices = Q_L @ (weights.to(V) * matrices) @ Q_R.mT
            part.copy_(matrices.reshape(len(V), -1))
        return result


def _of_piece(piece: Piece, weights: Weights | None) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    if weights is None:
        return None, None
    basis = weights.basis if isinstance(weights, Diagnostics) else None
    values = weights.variance_adaptation if isinstance(weights, Diagnostics) else weights
    if basis is not None:
        if piece.index:
            raise ProbeError(f"Γ of {piece.parameter!r} lives in a rotated basis of the whole matrix; probe blocks of whole tensors")
        if tuple(values.shape) != piece.shape:
            raise ProbeError(f"Γ of {piece.parameter!r} has shape {tuple(values.shape)}, the parameter {piece.shape}")
        return values.detach(), basis
    values = values.detach()[piece.index] if piece.index else values.detach()
    if tuple(values.shape) != piece.shape:
        raise ProbeError(f"Γ of {piece.parameter!r} has shape {tuple(values.shape)}, the block's part of it {piece.shape}")
    return values, None


def _restored(bounds: Bounds, adaptation: Adaptation) -> Bounds:
    """Return the bounds with their witness in the original space."""
    witness = bounds.witness
    if witness is None:
        return bounds
    if isinstance(witness, tuple):
        x, y = (adaptation.apply(part.unsqueeze(0)).squeeze(0) for part in witness)
        return replace(bounds, witness=(x, y))
    return replace(bounds, witness=adaptation.apply(witness.unsqueeze(0)).squeeze(0))
