"""Which module of a model is to blame: each one's calls recorded, and each tested alone.

A module's second derivative is that of ``φ(x, θ) = Σ <w, y + y²/2s>`` with outputs ``y = module(x; θ)`` of size s and fixed
random w, near the inputs x it was called with and its parameters θ; it is compared with central differences of the first.
The square also reveals a wrong first derivative (of a straight-through estimator, say).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deva_theory.smoothness.curvature.kernels import differentiable_once
from deva_theory.smoothness.curvature.objective import ProbeError, moved, rebuilt, tensors_of
from deva_theory.smoothness.curvature.products import CurvatureOperator

TOLERANCE = 1e-4
"""Relative error of a float64 product against differences that is put down to the differences."""
DISPLACEMENT = 1e-2
"""How far to go from a point to leave kinks, relative to each tensor's root mean square."""

# Steps relative to each tensor's root mean square.  Smooth functions pass at the first; below the last, rounding hides everything.
_STEPS = {torch.float64: (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9), torch.float32: (1e-2, 3e-3, 1e-3)}
_ROUNDING = 32.0
"""A gradient's relative rounding error, in units of the dtype's epsilon."""


class Call(NamedTuple):
    """One call of a module: copies of what went in, and of what came out if that was asked for."""

    name: str
    module: nn.Module
    args: Any
    kwargs: Any
    output: Any

    @property
    def title(self) -> str:
        """The module's qualified name and class."""
        kind = type(self.module).__name__
        return f"module {self.name!r} ({kind})" if self.name else f"the model itself ({kind})"


def random_direction(tensors: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return random tensors, each with the root mean square of the one given: parameters of unlike scales are moved alike."""
    sizes = {name: _size(t) for name, t in tensors.items()}
    # For tensors that are zero, such as fresh biases.
    usual = sum(sizes.values()) / max(1, sum(s > 0 for s in sizes.values())) or 1.0
    return {name: (sizes[name] or usual) * _noise(t, generator) for name, t in tensors.items()}


def best_step(
    gradient: Callable[[float], Mapping[str, Tensor]], products: Mapping[str, Tensor], size: float, dtype: torch.dtype, tolerance: float
) -> tuple[float, str]:
    """Compare products with central differences at decreasing steps.

    Parameters
    ----------
    gradient : callable
        The gradient, by name, at ``x + h v`` for a step h.
    products : mapping
        ``Hv`` by name, flat and float64.
    size : float
        Length of the gradient, ``‖∇f‖``: differences are off by ``32 ε ‖∇f‖/h`` from rounding alone, which is allowed for.
    dtype : torch.dtype
        Decides the steps and ε.
    tolerance : float
        The first step at which the error is no larger is taken.

    Returns
    -------
    tuple of float and str
        The largest relative error over the names at the best step, and its name.
    """
    best, worst = math.inf, next(iter(products))
    for step in _STEPS.get(dtype, ()):
        try:
            plus, minus = gradient(step), gradient(-step)
        except ProbeError:
            continue  # the loss is not finite there; nearer it may be
        # Where Hv vanishes, an error that rounding explains comes out as the tolerance.
        floor = _ROUNDING * torch.finfo(dtype).eps * size / (step * tolerance)
        errors = {}
        for name, product in products.items():
            difference = (plus[name] - minus[name]).double().reshape(-1) / (2 * step)
            errors[name] = ratio((difference - product).norm().item(), product.norm().item() + floor)
        # NaN is the worst of all.
        name = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
        if errors[name] < best:
            best, worst = errors[name], name
        if best <= tolerance:
            break
    return best, worst


def ratio(error: float, size: float) -> float:
    """Return the error relative to a size, or the error itself if that is zero."""
    return error / size if size > 0 else error


def first_change(operator: CurvatureOperator) -> Call | None:
    """Return the innermost module whose inputs agree in two forward passes on the first batch, and whose output does not."""
    first, second = ({}, {})  # type: dict[tuple[str, int], Call], dict[tuple[str, int], Call]
    for run in (first, second):
        seen: Counter[str] = Counter()
        for call in _calls(operator, outputs=True):
            run[call.name, seen[call.name]] = call
            seen[call.name] += 1
    for key, a in first.items():
        if (b := second.get(key)) is not None and _equal(a[2:4], b[2:4]) and not _equal(a.output, b.output):
            return a
    return None


def alone(operator: CurvatureOperator, *, seed: int = 0) -> Iterator[tuple[Call, float | Exception]]:
    """Test each module on the inputs of its first call on the first batch, inner modules before outer ones.

    Copies are tested, in float64 where they work in it.  A module that cannot be copied, or run alone, is passed over.

    Yields
    ------
    tuple of Call and float or Exception
        The relative error of its second derivative, or what was raised in place of one.
    """
    tested: set[nn.Module] = set()
    try:
        calls = _calls(operator)
    except Exception:
        return  # the model does not run at all, which whoever asks has seen
    for call in calls:
        if call.module in tested:
            continue
        tested.add(call.module)
        with operator.mode():
            for dtype in dict.fromkeys((torch.float64, operator.dtype)):
                try:
                    module = copy.deepcopy(call.module).to(dtype=dtype)
                    part = _Alone(module, moved((call.args, call.kwargs), operator.device, dtype), seed)
                    part.gradient(0.0)
                except Exception:
                    continue
                try:
                    result: float | Exception = part.error(dtype)
                except Exception as error:
                    result = error
                yield call, result
                break


class _Alone:
    def __init__(self, module: nn.Module, arguments: tuple[Any, Any], seed: int) -> None:
        self._module, self._arguments = module, arguments
        self._generator = torch.Generator().manual_seed(seed)
        self._parameters = {f"parameter {name}": p for name, p in module.named_parameters() if p.requires_grad and _varies(p)}
        inputs = {f"input {k}": t for k, t in enumerate(t for t in tensors_of(arguments) if _varies(t))}
        centre: dict[str, Tensor] = inputs | {name: p.detach().clone() for name, p in self._parameters.items()}
        away = random_direction(centre, self._generator)
        self._moves = random_direction(centre, self._generator)
        self._centre = {name: t + DISPLACEMENT * away[name] for name, t in centre.items()}
        self._weights: list[Tensor] = []
        self._sizes: list[float] = []

    def gradient(self, step: float) -> dict[str, Tensor]:
        """Return the gradient of φ at `step` along the direction."""
        return {name: g.detach() for name, g in self._graph(step)[1].items()}

    def error(self, dtype: torch.dtype) -> float:
        """Return the relative error of the second derivative along the direction."""
        leaves, first = self._graph(0.0)
        if differentiable_once(first.values()):
            raise ProbeError("it is differentiable once only")
        size = math.hypot(*(g.detach().norm().item() for g in first.values()))
        slope = torch.stack([(self._moves[name] * g).sum() for name, g in first.items()]).sum()
        second: Sequence[Tensor | None] = [None] * len(leaves)
        if slope.requires_grad:
            second = torch.autograd.grad(slope, list(leaves.values()), allow_unused=True)
        if dtype not in _STEPS:
            return 0.0  # too coarse for differences; that the derivative exists is what was tested
        products = {n: _dense(h, t).double().reshape(-1) for (n, t), h in zip(leaves.items(), second, strict=True)}
        return best_step(self.gradient, products, size, dtype, TOLERANCE)[0]

    def _graph(self, step: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        leaves: dict[str, Tensor] = {}
        for name, t in self._centre.items():
            point = t + step * self._moves[name]
            if name in self._parameters:
                self._parameters[name].data = point
            leaves[name] = self._parameters[name] if name in self._parameters else point.requires_grad_()
        args, kwargs = _replaced(self._arguments, iter([t for name, t in leaves.items() if name not in self._parameters]))
        outputs = [t for t in tensors_of(self._module(*args, **kwargs)) if _varies(t)]
        if not self._weights:
            self._weights = [_noise(t, self._generator) for t in outputs]
            self._sizes = [_size(t) or 1.0 for t in outputs]
        terms = [(w * (t + t * t / (2 * s))).sum() for w, t, s in zip(self._weights, outputs, self._sizes, strict=True)]
        value = torch.stack(terms).sum()
        gradient = torch.autograd.grad(value, list(leaves.values()), create_graph=True, allow_unused=True)
        return leaves, {n: _dense(g, t) for (n, t), g in zip(leaves.items(), gradient, strict=True)}


# -- calls -----------------------------------------------------------------------------------------------------------


def _calls(operator: CurvatureOperator, *, outputs: bool = False) -> list[Call]:
    """Return every module's calls in one forward pass on the first batch, in the order in which they return."""
    pending: list[tuple[Any, Any]] = []
    calls: list[Call] = []
    with ExitStack() as stack:
        stack.enter_context(operator.mode())
        for name, module in operator.model.named_modules():

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                # Copied now: some modules overwrite their input.
                pending.append((_copied(args), _copied(kwargs)))

            def after(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                calls.append(Call(name, module, *pending.pop(), _copied(output) if outputs else None))

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        operator.objective.value(moved(operator.batches[0], operator.device))
    return calls


def _equal(a: Any, b: Any) -> bool:
    return all(map(torch.equal, tensors_of(a), tensors_of(b)))


def _copied(value: Any) -> Any:
    return _mapped(value, lambda t: t.detach().clone())


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    # Cloned, as a module may overwrite its input.
    return _mapped(value, lambda t: next(tensors).clone() if _varies(t) else t)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return rebuilt(value, {key: _mapped(entry, change) for key, entry in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(entry, change) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, change) for entry in value)
    return value


def _varies(tensor: Tensor) -> bool:
    """Return whether a tensor is differentiated by; masks of -inf are not."""
    return tensor.dtype.is_floating_point and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


def _size(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach().double()).item() / math.sqrt(tensor.numel())


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn in one precision on one device, for the same numbers everywhere.
    return torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like.device, like.dtype)


def _dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
