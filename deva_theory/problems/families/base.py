"""What every problem family offers: values, gradients, a start, and constants that are known and not estimated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


class AssumptionError(ValueError):
    """An assumption of SPEC section 5 fails, so that no constant or bound means anything.

    Attributes
    ----------
    assumption : str
        The assumption, with which the message begins: "bounded below", "smoothness", "finite variance", ...
    """

    def __init__(self, assumption: str, detail: str) -> None:
        super().__init__(f"{assumption}: {detail}")
        self.assumption = assumption


@dataclass(frozen=True, eq=False)
class Constants:
    r"""Known constants of one problem, for every instance of its batch (SPEC S1, R1-R5).

    All tensors are float64 on the problem's device, whatever the dtype of its parameters.  Each constant holds on the ball
    ``‖x‖_2 ≤ radius`` (Frobenius for matrices), which is convex and so contains the segments between its points; with
    ``radius = None`` it holds everywhere.  All are rigorous up to rounding.

    Attributes
    ----------
    optimum : Tensor, shape ``(...)``
        f*: the infimum over the domain, or a number below it.
    optimum_exact : bool
        Whether `optimum` is the infimum (to 1e-14 for logistic regression) and not merely below it.
    coordinate : Tensor, shape ``(..., *event)``
        L_i of ``f(y) ≤ f(x) + <∇f(x), y-x> + ½ Σ L_i (y_i-x_i)²``.  A vector, not a set of separate constants: ``∇²f ≼ diag(L)``.
    box : Tensor, shape ``(...)``
        ``L_∞ ≥ sup_x sup_{‖u‖_∞≤1} <u, ∇²f(x) u>``: ``f(y) ≤ f(x) + <∇f(x), y-x> + ½ L_∞ ‖y-x‖_∞²``.
    box_exact : bool
        Whether `box` is that supremum and not merely above it.
    euclidean : Tensor, shape ``(...)``
        ``≥ sup_x λ_max(∇²f(x))``.
    gradient_lipschitz_linf : Tensor, shape ``(...)``
        L of ``‖∇f(x) - ∇f(y)‖_1 ≤ L ‖x-y‖_∞`` (R5): ``≥ sup_x ‖∇²f(x)‖_{∞→1}``.
    convex : bool
    spectral : Tensor, shape ``(...)``, or None
        ``L_S ≥ sup_X sup_{‖D‖_{2→2}≤1} <D, ∇²f(X)[D]>``; None for vectors.
    radius : float or None
        Radius of the ball the constants hold on.

    Notes
    -----
    Why a bound on the Hessian is enough: with ``d = y - x``, ``f(y) - f(x) - <∇f(x), d> = ∫_0^1 (1-t) <d, ∇²f(x+td) d> dt``, and
    ``∫(1-t) dt = ½``; for the gradients, ``∇f(y) - ∇f(x) = ∫_0^1 ∇²f(x+td) d dt``.
    """

    optimum: Tensor
    optimum_exact: bool
    coordinate: Tensor
    box: Tensor
    box_exact: bool
    euclidean: Tensor
    gradient_lipschitz_linf: Tensor
    convex: bool
    spectral: Tensor | None = None
    radius: float | None = None


class Problem(ABC):
    """A differentiable objective with known constants, batched over instances.

    A point has the shape ``(*samples, *batch, *event)``: parameters of shape ``(*batch, ...)`` broadcast against it from the right, so
    that seeds and step sizes are leading dimensions in front of the instances.

    Subclasses give `name`, `batch_shape`, `event_shape`, `constants`, ``_value`` and ``_gradient``.
    """

    event_ndim: ClassVar[int] = 1
    """Trailing dimensions of one variable: 1 for vectors, 2 for matrices."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Family and variant, for tables."""

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of instances."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """Shape of one variable."""

    @property
    @abstractmethod
    def constants(self) -> Constants:
        """The known constants; computed once."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A parameter of the problem: variables have its dtype and device."""

    @property
    def radius(self) -> float | None:
        """Radius of the ball on which the problem is considered, None for the whole space."""
        return None

    @abstractmethod
    def _value(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _gradient(self, x: Tensor) -> Tensor: ...

    def value(self, x: Tensor) -> Tensor:
        """Return f(x), shape ``(*samples, *batch)``.

        Parameters
        ----------
        x : Tensor, shape ``(*samples, *batch, *event)`` or broadcastable to it

        Raises
        ------
        TypeError, ValueError
            Not a floating-point tensor; a wrong shape.
        AssumptionError
            Outside the ball the constants hold on.
        """
        self.check(x)
        return self._value(x)

    def gradient(self, x: Tensor) -> Tensor:
        """Return ∇f(x), shape ``(*samples, *batch, *event)``; errors as in :meth:`value`."""
        self.check(x)
        return self._gradient(x)

    def start(self, generator: torch.Generator | int, shape: Sequence[int] = ()) -> Tensor:
        """Return starting points of shape ``(*shape, *batch, *event)``, with standard normal entries unless the family says otherwise.

        Parameters
        ----------
        generator : torch.Generator or int
            A generator, or the seed of a new one.
        shape : sequence of int
            Leading dimensions in front of the batch, for seeds.
        """
        return standard_normal((*shape, *self.batch_shape, *self.event_shape), generator, self.like)

    def inside(self, x: Tensor) -> Tensor:
        """Return whether each point lies in the ball the constants hold on, bool, shape ``(...)``; NaN does not."""
        norm = torch.linalg.vector_norm(x, dim=tuple(range(-self.event_ndim, 0)))
        return norm <= (math.inf if self.radius is None else self.radius)

    def check(self, x: Tensor) -> None:
        """Raise unless x is a variable of this problem within its domain; see :meth:`value`."""
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            raise TypeError(f"{self.name}: x must be a floating-point tensor")
        event = tuple(self.event_shape)
        if tuple(x.shape[-self.event_ndim :]) != event:
            raise ValueError(f"{self.name}: x has the shape {tuple(x.shape)}; its last dimensions must be {event}")
        try:
            torch.broadcast_shapes(x.shape[: -self.event_ndim], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"{self.name}: x of shape {tuple(x.shape)} does not broadcast with {tuple(self.batch_shape)} instances of {event}"
            ) from None
        if self.radius is not None and not bool(self.inside(x).all()):
            raise AssumptionError(
                "bounded domain",
                f"{self.name}: an iterate left the ball of radius {self.radius:g} on which the constants hold; "
                "take a smaller step, fewer steps, a nearer start, or a larger radius",
            )


class FiniteSum(Problem):
    """A problem ``f = (1/n) Σ_i f_i`` whose components can be sampled."""

    @property
    @abstractmethod
    def components(self) -> int:
        """Number n of components."""

    @abstractmethod
    def weighted_gradient(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return ``Σ_i w_i ∇f_i(x)`` for weights that sum to 1.

        Parameters
        ----------
        x : Tensor, shape ``(..., *event)``
        weights : Tensor, shape ``(..., n)``
        """

    @abstractmethod
    def component_variance(self, x: Tensor) -> Tensor:
        """Return ``(1/n) Σ_i (∂_j f_i(x) - ∂_j f(x))²`` for each coordinate j, shape ``(..., *event)``."""

    @abstractmethod
    def component_deviation(self, radius: float | None) -> Tensor:
        """Return an upper bound, for each coordinate, on the root of :meth:`component_variance` over ``‖x‖_2 ≤ radius``.

        Parameters
        ----------
        radius : float or None
            None: over the whole space.

        Returns
        -------
        Tensor of float64, shape ``(*batch, *event)``

        Raises
        ------
        AssumptionError
            "finite variance", where the supremum is infinite.
        """


def standard_normal(shape: Sequence[int], generator: torch.Generator | int, like: Tensor) -> Tensor:
    """Return standard normal numbers, drawn in float64 on the generator's device, in the dtype and on the device of `like`."""
    source = seeded(generator)
    return torch.randn(*shape, generator=source, dtype=torch.float64, device=source.device).to(like)


def seeded(generator: torch.Generator | int) -> torch.Generator:
    """Return a generator: the given one, or a new one on the CPU with the given seed."""
    return generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator)


def check_weights(name: str, what: str, weights: Tensor, event_ndim: int = 1) -> None:
    """Raise unless `weights` are at least 0 ("bounded below"), finite ("smoothness") and not empty, floating-point, event by event."""
    if not isinstance(weights, Tensor) or not weights.dtype.is_floating_point:
        raise TypeError(f"{name}: {what} must be a floating-point tensor")
    if weights.ndim < event_ndim or 0 in weights.shape:
        raise ValueError(f"{name}: {what} of shape {tuple(weights.shape)}; expected at least {event_ndim} dimensions, none of them empty")
    if not bool(weights.isfinite().all()):
        raise AssumptionError("smoothness", f"{name}: {what} must be finite")
    if bool((weights < 0).any()):
        raise AssumptionError("bounded below", f"{name}: {what} must be >= 0, the least is {float(weights.min()):.3g}")
