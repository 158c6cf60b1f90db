r"""Smooth non-convex functions whose constants are exact: a separable sum, and one that couples all coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, Constants, Problem, check_weights, keep_copies


class Well(NamedTuple):
    """φ ≥ 0 with ``φ(0) = 0``, ``φ''(0) = 1`` and ``|φ''| ≤ 1``, and its derivative."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def _flattening(t: Tensor) -> Tensor:
    """Return ``½t²/(1+t²)``; beyond 1 as ``½/(1+1/t²)``, since t² leaves the range of the dtype long before t."""
    near, far = t.clamp(-1, 1), t.abs().clamp_min(1)
    return torch.where(t.abs() > 1, 0.5 / (1 + far**-2), 0.5 * near**2 / (1 + near**2))


WELLS: dict[str, Well] = {
    # φ'' = cos; written with the half angle, since 1 - cos t loses all digits near 0.
    "cosine": Well(lambda t: 2 * torch.sin(t / 2) ** 2, torch.sin),
    # φ'' = (1-3t²)/(1+t²)³ falls from 1 at 0 to its least value -1/4 at |t| = 1, then rises to 0 (φ''' = 12t(t²-1)/(1+t²)⁴).
    "geman-mcclure": Well(_flattening, lambda t: t / (1 + t**2) / (1 + t**2)),
}
"""``cosine``: 1 - cos t, periodic; ``geman-mcclure``: ½t²/(1+t²), which flattens out, so that gradients vanish far away."""


@dataclass(frozen=True, eq=False)
class NonConvexWells(Problem):
    r"""``f(x) = Σ_i L_i φ(x_i) + c (1 - cos <w, x>)``.

    Attributes
    ----------
    curvature : Tensor, shape ``(*batch, d)``
        L ≥ 0.
    well : {"cosine", "geman-mcclure"}
        φ, see :data:`WELLS`.
    direction : Tensor, shape ``(*batch, d)``, optional
        w; absent by default, and then f is separable.
    coupling : Tensor, shape ``(*batch)``, or float
        c ≥ 0.

    Raises
    ------
    AssumptionError
        "bounded below", for negative weights (the constants suppose minima where the wells are); "smoothness", for weights that
        are not finite.

    Notes
    -----
    The Hessian is ``diag(L_i φ''(x_i)) + c cos(<w,x>) wwᵀ`` with ``|φ''| ≤ 1``, and ``diag(L) + c wwᵀ`` at x = 0, so suprema over
    directions are attained there and every constant is exact: ``L_∞ = ΣL_i + c‖w‖_1²`` (at u = sign w), which also bounds
    ``sᵀHt`` for sign vectors s, t; ``λ_max(diag(L) + c wwᵀ)``; and, as ``<w,u>² ≤ ‖w‖_1 Σ|w_i|u_i²`` by Cauchy-Schwarz, the
    coordinate constants ``L_i + c|w_i| ‖w‖_1``, whose sum L_∞ is the least possible (SPEC S4).  ``f* = 0 = f(0)``, all terms being
    at least 0.
    """

    curvature: Tensor
    well: str = "cosine"
    direction: Tensor | None = None
    coupling: Tensor | float = 1.0

    def __post_init__(self) -> None:
        keep_copies(self, "curvature", "direction", "coupling")
        if self.well not in WELLS:
            raise ValueError(f"well must be one of {', '.join(WELLS)}, not {self.well!r}: other functions have no constants here")
        check_weights(self.name, "curvature", self.curvature)
        if self.direction is None:
            return
        if self.direction.shape != self.curvature.shape:
            raise ValueError(f"{self.name}: direction of shape {tuple(self.direction.shape)}, curvature {tuple(self.curvature.shape)}")
        if not bool(self.direction.isfinite().all()):
            raise AssumptionError("smoothness", f"{self.name}: direction must be finite")
        strength = torch.as_tensor(self.coupling, dtype=self.curvature.dtype, device=self.curvature.device)
        check_weights(self.name, "coupling", strength, event_ndim=0)
        if strength.ndim and strength.shape != self.batch_shape:
            raise ValueError(f"{self.name}: coupling has the shape {tuple(strength.shape)}, the batch {tuple(self.batch_shape)}")

    @property
    def name(self) -> str:
        """The well, and whether coordinates are coupled."""
        return f"{'separable' if self.direction is None else 'coupled'} {self.well} wells"

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of instances."""
        return self.curvature.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        """``(d,)``."""
        return self.curvature.shape[-1:]

    @property
    def like(self) -> Tensor:
        """The curvature."""
        return self.curvature

    def _value(self, x: Tensor) -> Tensor:
        value = (self.curvature * WELLS[self.well].value(x)).sum(-1)
        if self.direction is None:
            return value
        return value + self.coupling * WELLS["cosine"].value((self.direction * x).sum(-1))

    def _gradient(self, x: Tensor) -> Tensor:
        gradient = self.curvature * WELLS[self.well].derivative(x)
        if self.direction is None:
            return gradient
        slope = self.coupling * torch.sin((self.direction * x).sum(-1))
        return gradient + slope.unsqueeze(-1) * self.direction

    @cached_property
    def constants(self) -> Constants:
        """The known constants, all exact."""
        coordinate = self.curvature.to(torch.float64, copy=True)
        euclidean = coordinate.amax(-1)
        if self.direction is not None:
            w = self.direction.to(torch.float64)
            c = torch.as_tensor(self.coupling, dtype=torch.float64, device=w.device).unsqueeze(-1)
            H = torch.diag_embed(coordinate) + c.unsqueeze(-1) * w.unsqueeze(-1) * w.unsqueeze(-2)
            if not bool(H.isfinite().all()):
                raise AssumptionError("smoothness", f"{self.name}: c wwᵀ is not finite in float64; rescale the direction")
            euclidean = torch.linalg.eigvalsh(H)[..., -1]
            coordinate = coordinate + c * w.abs() * w.abs().sum(-1, keepdim=True)
        box = coordinate.sum(-1)
        return Constants(
            optimum=torch.zeros_like(box), optimum_exact=True, coordinate=coordinate, box=box, box_exact=True, euclidean=euclidean,
            gradient_lipschitz_linf=box, convex=False,
        )  # fmt: skip
