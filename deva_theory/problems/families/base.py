"""What every problem family offers: values, gradients, a start, and constants that are known and not estimated."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor


class AssumptionError(ValueError):
    """An assumption of SPEC section 5 fails, so that no constant or bound means anything.

    ``AssumptionError(assumption, detail)`` names the assumption in front of the detail; ``AssumptionError(message)`` names it in the
    message, wherever it stands there.

    Attributes
    ----------
    assumption : str
        The assumption, with which the message begins: "bounded below", "smoothness", "finite variance", ...; "" where only a message was
        given.
    """

    def __init__(self, assumption: str, detail: str | None = None) -> None:
        super().__init__(assumption if detail is None else f"{assumption}: {detail}")
        self.assumption = "" if detail is None else assumption


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
        Whether `optimum` is the infimum (to 1e-14 of it where it is computed) and not merely below it.
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

    Raises
    ------
    AssumptionError
        "smoothness": a constant of the Hessian is infinite, NaN or negative (where a supremum is negative, 0 bounds it as well).
        "bounded below": f* is not finite.

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

    def __post_init__(self) -> None:
        if not bool(self.optimum.isfinite().all()):
            raise AssumptionError("bounded below", "the optimum f* is not finite in float64; give a finite bound, or rescale f")
        for name in ("coordinate", "box", "euclidean", "gradient_lipschitz_linf", "spectral"):
            value = getattr(self, name)
            # Written so that a NaN is refused.
            if value is not None and not bool((value.isfinite() & (value >= 0)).all()):
                raise AssumptionError(
                    "smoothness", f"the constant {name!r} is {_first_bad(value):g}, and must be finite in float64 and >= 0; rescale f"
                )


def _first_bad(value: Tensor) -> float:
    return float(value[~(value.isfinite() & (value >= 0))][0])


class Problem(ABC):
    """A differentiable objective with known constants, batched over instances.

    A point has the shape ``(*samples, *batch, *event)``: parameters of shape ``(*batch, ...)`` broadcast against it from the right, so
    that seeds and step sizes are leading dimensions in front of the instances.

    Subclasses give `name`, `batch_shape`, `event_shape`, `like`, `constants`, ``_value`` and ``_gradient``, as attributes or properties;
    `constants` should be computed once (``functools.cached_property``).  They may give `event_ndim` (2 for matrices), `radius` (constants
    that hold on a ball only), `start`, and `gap` (without the cancellation of ``f(x) - f*``).

    Examples
    --------
    ``f(x) = Σ a_i log cosh x_i``, whose second derivatives ``a_i / cosh² x_i`` are at most a_i, and equal to it at 0:

    >>> from functools import cached_property
    >>> class LogCosh(Problem):
    ...     name, batch_shape, event_shape = "log cosh", torch.Size(()), torch.Size((3,))
    ...     like = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ...
    ...     @cached_property
    ...     def constants(self):
    ...         a = self.like
    ...         return Constants(
    ...             optimum=torch.zeros_like(a.sum()), optimum_exact=True, coordinate=a.clone(), box=a.sum(), box_exact=True,
    ...             euclidean=a.max(), gradient_lipschitz_linf=a.sum(), convex=True)
    ...
    ...     def _value(self, x):
    ...         return (self.like * (torch.logaddexp(x, -x) - math.log(2))).sum(-1)
    ...
    ...     def _gradient(self, x):
    ...         return self.like * torch.tanh(x)
    >>> problem = LogCosh()
    >>> x = problem.start(0, (5,))  # five points
    >>> problem.value(x).shape, problem.gradient(x).shape
    (torch.Size([5]), torch.Size([5, 3]))
    >>> bool((problem.gap(x) <= 0.5 * problem.constants.box * x.abs().amax(-1) ** 2).all())  # the descent lemma at the minimum
    True
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
        """A parameter of the problem, or any other tensor: variables have its dtype and device."""

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

    def gap(self, x: Tensor) -> Tensor:
        """Return Δ = f(x) - f*, or a bound above it, float64, shape ``(*samples, *batch)``; errors as in :meth:`value`.

        Here ``value(x) - constants.optimum``, with the rounding errors of both: negative where the optimum is none.  The quadratics take
        it from the distance to the minimum, and lose no digits near it.
        """
        return self.value(x).to(torch.float64) - self.constants.optimum

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
        self.full_shape(x)
        if self.radius is not None and not bool(self.inside(x).all()):
            raise AssumptionError(
                "bounded domain",
                f"{self.name}: an iterate left the ball of radius {self.radius:g} on which the constants hold; "
                "take a smaller step, fewer steps, a nearer start, or a larger radius",
            )


    def full_shape(self, x: Tensor) -> torch.Size:
        """Return the shape ``(*samples, *batch, *event)`` of the gradient at x.

        Raises
        ------
        ValueError
            x does not broadcast to it.
        """
        shape, batch, event = x.shape, tuple(self.batch_shape), tuple(self.event_shape)
        # Every step of every run passes here, nearly always with a full shape; broadcast_shapes costs as much as a small gradient.
        if shape[-len(batch) - len(event) :] == (*batch, *event):
            return shape
        if shape[-len(event) :] != event:
            raise ValueError(f"{self.name}: x has the shape {tuple(shape)}; its last dimensions must be {event}")
        try:
            return torch.Size((*torch.broadcast_shapes(shape[: -len(event)], batch), *event))
        except RuntimeError:
            raise ValueError(
                f"{self.name}: x of shape {tuple(shape)} does not broadcast with {batch} instances of {event}"
            ) from None


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


def keep_copies(instance: object, *names: str) -> None:
    """Replace tensors among the fields of a frozen dataclass by copies without a gradient, which later changes in place do not reach."""
    for name in names:
        value = getattr(instance, name)
        if isinstance(value, Tensor):
            object.__setattr__(instance, name, value.detach().clone())


def whole_number(name: str, what: str, value: SupportsIndex) -> int:
    """Return a whole number of at least 1 as an int, also from NumPy; raise ValueError for anything else."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}: {what} must be a whole number of at least 1, not {value!r}")
    return int(number)


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
