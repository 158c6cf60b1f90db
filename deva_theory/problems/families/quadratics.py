"""Vector quadratics ``½ (x-c)ᵀ H (x-c)`` with H diagonal, or of given eigenvalues in a random orthogonal basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deva_theory.problems.families.base import Constants, Problem, check_weights, keep_copies, standard_normal
from deva_theory.problems.families.majorants import box_smoothness, coordinate_majorant


def random_orthogonal(d: int, generator: torch.Generator | int, shape: Sequence[int] = ()) -> Tensor:
    """Return orthogonal matrices from the Haar measure, float64, shape ``(*shape, d, d)``.

    The Q factor of a standard normal matrix, with the signs that make R's diagonal positive (Mezzadri 2007).
    """
    Z = standard_normal((*shape, d, d), generator, torch.empty(0, dtype=torch.float64))
    Q, R = torch.linalg.qr(Z)
    return Q * torch.where(torch.diagonal(R, dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class DiagonalQuadratic(Problem):
    """``f(x) = ½ Σ L_i (x_i - c_i)²``.

    Attributes
    ----------
    curvature : Tensor, shape ``(*batch, d)``
        L ≥ 0.
    minimiser : Tensor, shape broadcastable to ``(*batch, d)``, optional
        c, the origin by default.

    Raises
    ------
    AssumptionError
        "bounded below", for a negative curvature; "smoothness", for one that is not finite.

    Notes
    -----
    The Hessian is diag(L) everywhere, so all constants are exact: f* = 0, L_∞ = ΣL_i = ‖H‖_{∞→1} (at u = 1), λ_max = max L_i.
    """

    curvature: Tensor
    minimiser: Tensor | None = None

    def __post_init__(self) -> None:
        keep_copies(self, "curvature", "minimiser")
        check_weights(self.name, "curvature", self.curvature)
        check_minimiser(self.name, self.minimiser, self.curvature)

    @property
    def name(self) -> str:
        """Return "diagonal quadratic"."""
        return "diagonal quadratic"

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

    def _shifted(self, x: Tensor) -> Tensor:
        return x if self.minimiser is None else x - self.minimiser

    def _value(self, x: Tensor) -> Tensor:
        return 0.5 * (self.curvature * self._shifted(x) ** 2).sum(-1)

    def _gradient(self, x: Tensor) -> Tensor:
        return self.curvature * self._shifted(x)

    @cached_property
    def constants(self) -> Constants:
        """The known constants, all exact."""
        L = self.curvature.to(torch.float64, copy=True)
        box = L.sum(-1)
        return Constants(
            optimum=torch.zeros_like(box), optimum_exact=True, coordinate=L, box=box, box_exact=True, euclidean=L.amax(-1),
            gradient_lipschitz_linf=box, convex=True,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RotatedQuadratic(Problem):
    r"""``f(x) = ½ (x-c)ᵀ Q diag(λ) Qᵀ (x-c)``.

    Attributes
    ----------
    eigenvalues : Tensor, shape ``(*batch, d)``
        λ ≥ 0.
    rotation : Tensor, shape ``(*batch, d, d)``
        Q, orthogonal.
    minimiser : Tensor, shape broadcastable to ``(*batch, d)``, optional
        c, the origin by default.

    Raises
    ------
    AssumptionError
        "bounded below", for a negative eigenvalue; "smoothness", for one that is not finite.
    ValueError
        Q is not orthogonal (to the square root of the precision), or shapes do not fit.

    Notes
    -----
    The Hessian H is constant.  Exact: f* = 0, λ_max(H) (max λ_i but for the rounding of Q), and L_∞(H) by enumeration up to 16 coordinates;
    beyond, ``Σ L_i``, at most π/2 times too large.  The L_i are :func:`~deva_theory.problems.families.coordinate_majorant`'s.  For H ≽ 0
    ``sᵀHt ≤ √(sᵀHs tᵀHt)``, hence ``‖H‖_{∞→1} = L_∞(H)``.
    """

    eigenvalues: Tensor
    rotation: Tensor
    minimiser: Tensor | None = None

    def __post_init__(self) -> None:
        keep_copies(self, "eigenvalues", "rotation", "minimiser")
        check_weights(self.name, "eigenvalues", self.eigenvalues)
        d = self.eigenvalues.shape[-1]
        if self.rotation.shape != (*self.eigenvalues.shape, d):
            raise ValueError(f"{self.name}: rotation of shape {tuple(self.rotation.shape)}, eigenvalues {tuple(self.eigenvalues.shape)}")
        error = self.rotation.mT @ self.rotation - torch.eye(d, dtype=self.rotation.dtype, device=self.rotation.device)
        if not bool((error.abs() <= torch.finfo(error.dtype).eps ** 0.5).all()):
            raise ValueError(f"{self.name}: the rotation is not orthogonal")
        check_minimiser(self.name, self.minimiser, self.eigenvalues)

    @classmethod
    def random(cls, eigenvalues: Tensor, generator: torch.Generator | int, minimiser: Tensor | None = None) -> RotatedQuadratic:
        """Return the quadratics with these eigenvalues in random orthogonal bases, one for each instance."""
        check_weights("rotated quadratic", "eigenvalues", eigenvalues)
        rotation = random_orthogonal(eigenvalues.shape[-1], generator, eigenvalues.shape[:-1])
        return cls(eigenvalues, rotation.to(eigenvalues), minimiser)

    @property
    def name(self) -> str:
        """Return "rotated quadratic"."""
        return "rotated quadratic"

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of instances."""
        return self.eigenvalues.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        """``(d,)``."""
        return self.eigenvalues.shape[-1:]

    @property
    def like(self) -> Tensor:
        """The eigenvalues."""
        return self.eigenvalues

    @cached_property
    def hessian(self) -> Tensor:
        """``Q diag(λ) Qᵀ`` in float64, exactly symmetric, shape ``(*batch, d, d)``."""
        Q = self.rotation.to(torch.float64)
        H = (Q * self.eigenvalues.to(torch.float64).unsqueeze(-2)) @ Q.mT
        return 0.5 * (H + H.mT)

    def _rotated(self, x: Tensor) -> Tensor:
        return row_times(x if self.minimiser is None else x - self.minimiser, self.rotation)

    def _value(self, x: Tensor) -> Tensor:
        return 0.5 * (self.eigenvalues * self._rotated(x) ** 2).sum(-1)

    def _gradient(self, x: Tensor) -> Tensor:
        return row_times(self.eigenvalues * self._rotated(x), self.rotation.mT)

    @cached_property
    def constants(self) -> Constants:
        """The known constants."""
        coordinate = coordinate_majorant(self.hessian)
        box, exact = box_smoothness(self.hessian, coordinate)
        return Constants(
            optimum=torch.zeros_like(box), optimum_exact=True, coordinate=coordinate, box=box, box_exact=exact,
            euclidean=torch.linalg.eigvalsh(self.hessian)[..., -1].clamp_min(0), gradient_lipschitz_linf=box, convex=True,
        )  # fmt: skip


def row_times(x: Tensor, M: Tensor) -> Tensor:
    """Return ``xᵀM`` for vectors x, shape ``(..., d)``, and M of shape ``(..., d, k)``; one matrix product where M has no batch."""
    return x @ M if M.ndim == 2 else (x.unsqueeze(-2) @ M).squeeze(-2)


def check_minimiser(name: str, minimiser: Tensor | None, weights: Tensor) -> None:
    """Raise unless the minimiser is finite and broadcasts to the shape of the weights, without enlarging it."""
    if minimiser is None:
        return
    if minimiser.shape[-1:] != weights.shape[-1:] or _broadcast(minimiser, weights) != weights.shape:
        raise ValueError(f"{name}: the minimiser of shape {tuple(minimiser.shape)} does not broadcast to {tuple(weights.shape)}")
    if not bool(minimiser.isfinite().all()):
        raise ValueError(f"{name}: the minimiser must be finite")


def _broadcast(a: Tensor, b: Tensor) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        return None
