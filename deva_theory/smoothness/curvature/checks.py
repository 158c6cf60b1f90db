r"""Self-checks of a curvature operator, run before anything is read off it.

Three numbers on the first batch, all probed parameters at once:

* determinism: the loss and the gradient, computed twice, must agree;
* symmetry: ``uᵀHv = vᵀHu``;
* central differences: ``Hv ≈ (∇f(x + hv) - ∇f(x - hv)) / 2h`` for each parameter tensor, at the best of several h.
  The comparison allows for the gradient's rounding, ``ε‖∇f‖/h``.

Double backward sees no kinks (ReLU, max-pooling): a difference that steps over one disagrees, and at a kink itself (a zero
bias behind a zero input) no h is small enough.  A disagreement therefore counts only if it persists in float64, where h
can be so small that kinks are rarely crossed, and at randomly displaced parameters; products in another precision than
float64 are then compared with those of a float64 copy of the model.

When a check fails, the modules are tested one by one, see :mod:`deva_theory.smoothness.curvature.isolation`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.isolation import DISPLACEMENT, TOLERANCE, alone, best_step, first_change, random_direction, ratio
from deva_theory.smoothness.curvature.kernels import SpareBuffers
from deva_theory.smoothness.curvature.memory import is_out_of_memory
from deva_theory.smoothness.curvature.objective import ProbeError, moved
from deva_theory.smoothness.curvature.products import CurvatureOperator

# Determinism, symmetry, central differences; the second row for half precision, whose differences are the float64 copy's.
_TOLERANCES = {torch.float64: (1e-10, 1e-8, TOLERANCE), torch.float32: (1e-5, 1e-3, 1e-2)}
_COARSE = (1e-2, 1e-1, 1e-1)


@dataclass(frozen=True)
class Checks:
    """What the self-checks measured; all of it passed.

    Attributes
    ----------
    determinism : float
        Relative difference of two evaluations of the loss and its gradient.
    symmetry : float
        ``|uᵀHv - vᵀHu| / (‖Hu‖‖v‖)``.
    central_difference : float or None
        Largest relative error over the parameter tensors, at the best step; None for Gauss-Newton, which is not the
        derivative of a gradient.
    """

    determinism: float
    symmetry: float
    central_difference: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name."""
        return asdict(self)


@torch.inference_mode(False)
def check_operator(operator: CurvatureOperator, *, seed: int = 0, tolerance: float | None = None) -> Checks:
    """Check that an operator's products are those of the Hessian, or of a Gauss-Newton matrix.

    Costs a few gradients and products on the first batch; what goes wrong on other batches only (a branch that they alone
    take, noise that they alone meet) is not seen.  The operator, its counters and its kept graphs are left alone.
    The parameters point to displaced copies during the differences and to their own memory again afterwards, also when
    an exception passes through.  Every rank of a distributed operator checks the same batch by itself.

    Parameters
    ----------
    operator : CurvatureOperator
    seed : int
        Of the random directions.
    tolerance : float, optional
        One relative tolerance for all comparisons, in place of the defaults: determinism 1e-10, symmetry 1e-8 and
        differences 1e-4 in float64; 1e-5, 1e-3 and 1e-2 in float32.

    Returns
    -------
    Checks

    Raises
    ------
    ProbeError
        A check fails; the module to blame is named where there is one.
    """
    if tolerance is not None and not tolerance > 0:
        raise ProbeError(f"the tolerance of the checks is {tolerance}; it must be positive")
    local = _first_batch(operator)
    generator = torch.Generator().manual_seed(seed)
    try:
        determinism, size = _determinism(local, tolerance)
        limits = _limits(local, tolerance)
        v, u = (random_direction(local.parameters, generator) for _ in range(2))
        Hv, Hu = _products(local, v, u)
        symmetry = ratio(abs(_dot(u, Hv) - _dot(v, Hu)), _norm(Hu) * _norm(v))
        if not symmetry <= limits[1]:
            matrix = "Hessian" if local.curvature == "hessian" else "Gauss-Newton matrix"
            raise ProbeError(f"the {matrix} H is not symmetric, uᵀHv and vᵀHu differ by {symmetry:.1e} of ‖Hu‖‖v‖: {_blamed(local)}")
        if local.curvature == "gauss_newton":
            _positive(v, Hv, limits[1])
            return Checks(determinism, symmetry, None)
        error, worst = _differences(local, v, Hv, size, limits[2])
        if not error <= limits[2]:
            again = _second_opinion(local, v, Hv, limits[2], generator)
            if again is None:
                # No number in half precision, which has no differences of its own.
                size_and_place = f" by {error:.1e} (most for {worst!r})" if math.isfinite(error) else ""
                raise ProbeError(f"second derivatives disagree with differences of the gradient{size_and_place}: {_blamed(local)}")
            error = again
    finally:
        local.release()
    return Checks(determinism, symmetry, error)


def _first_batch(operator: CurvatureOperator) -> CurvatureOperator:
    """Return the same operator on one batch, in this process alone, with graphs and counters of its own."""
    local = copy.copy(operator)
    local.gradients = local.products = 0
    local.batches, local.weights, local.total_weight, local.group = operator.all_batches[:1], [1.0], 1.0, None
    local._kept, local.buffers = {}, SpareBuffers(operator.model)
    return local


def _limits(local: CurvatureOperator, tolerance: float | None) -> tuple[float, float, float]:
    """Return the tolerances of the precision that the loss turned out to be computed in."""
    return _TOLERANCES.get(local.precision, _COARSE) if tolerance is None else (tolerance,) * 3


def _determinism(local: CurvatureOperator, tolerance: float | None) -> tuple[float, float]:
    """Return the relative difference of two evaluations, and the gradient's length."""
    with _naming(local):
        first, loss = local.gradient(), local.loss_value
    local.release()
    second = local.gradient()
    parts = {name: (first[name] - second[name]).norm().item() for name in first}
    size = _norm(first)
    change = max(ratio(math.hypot(*parts.values()), size), ratio(abs(local.loss_value - loss), abs(loss)))
    if not change <= _limits(local, tolerance)[0]:
        call = first_change(local)
        if call is not None:
            where = f"the output of {call.title} changes from call to call"
        else:
            where = (
                f"no module's output changes by itself, so look at the loss and at kernels of the backward pass "
                f"(the gradient of {max(parts, key=parts.__getitem__)!r} differs most)"
            )
        raise ProbeError(
            f"two evaluations on the same batch differ by {change:.1e}: {where}; probe in evaluation mode, without dropout or sampling, "
            "and with deterministic kernels (torch.use_deterministic_algorithms)"
        )
    return change, size


def _products(local: CurvatureOperator, *directions: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the products with all parameters at once, flat and in float64, by name; name the module without one."""
    whole = Block("all parameters", tuple(Piece(name, tuple(p.shape)) for name, p in local.parameters.items()))
    V = torch.stack([whole.gather(dict(v)).double() for v in directions])
    with _naming(local):
        rows = local.product(whole, V)
    return [dict(zip(whole.parameters, row.split([piece.size for piece in whole.pieces]), strict=True)) for row in rows]


@contextmanager
def _naming(local: CurvatureOperator) -> Iterator[None]:
    """Name the module without a second derivative in an error that says that one is missing."""
    try:
        yield
    except ProbeError as error:
        missing = "differentiable once" in str(error) or (error.__cause__ is not None and not is_out_of_memory(error.__cause__))
        title = next((call.title for call, result in alone(local) if isinstance(result, Exception)), None) if missing else None
        if title is None:
            raise
        raise ProbeError(f"{title}: {error}") from error


def _blamed(local: CurvatureOperator) -> str:
    for call, result in alone(local):
        if isinstance(result, Exception):
            return f"{call.title} has no second derivative"
        if not result <= TOLERANCE:
            return f"the second derivative of {call.title} disagrees with differences of its first by {result:.1e}"
    return "no module fails on its own, so look at what is called outside modules (custom autograd functions, detach) and at the loss"


def _positive(v: Mapping[str, Tensor], Gv: Mapping[str, Tensor], tolerance: float) -> None:
    form = ratio(_dot(v, Gv), _norm(v) * _norm(Gv))
    if form < -tolerance:
        raise ProbeError(
            f"the Gauss-Newton matrix G is not positive semidefinite, vᵀGv is {form:.1e} of ‖v‖‖Gv‖: the criterion is not convex in the "
            "outputs; use curvature='hessian'"
        )


@contextmanager
def _displaced(parameters: Mapping[str, Tensor], moves: Mapping[str, Tensor], step: float) -> Iterator[None]:
    """Let parameters be ``x + step·move`` for a while.

    They point to other memory meanwhile: their own is never written to, so that there is nothing to undo in it, and
    version counters, by which autograd tells whether kept graphs are valid, stay as they are.
    """
    own = {name: p.data for name, p in parameters.items()}
    try:
        for name, p in parameters.items():
            p.data = own[name] + step * moves[name]
        yield
    finally:
        for name, p in parameters.items():
            p.data = own[name]


def _differences(
    local: CurvatureOperator, v: Mapping[str, Tensor], Hv: Mapping[str, Tensor], size: float, tolerance: float
) -> tuple[float, str]:
    """Return the largest error over the parameter tensors at the best step, and the tensor."""

    def gradient(step: float) -> dict[str, Tensor]:
        with _displaced(local.parameters, v, step):
            local.release()
            try:
                return local.gradient()
            finally:
                # Not the graph of other parameters.
                local.release()

    return best_step(gradient, Hv, size, local.precision, tolerance)


def _second_opinion(
    local: CurvatureOperator, v: Mapping[str, Tensor], Hv: Mapping[str, Tensor], tolerance: float, generator: torch.Generator
) -> float | None:
    """Return the error in float64 at displaced parameters, away from kinks; None if it is too large there as well.

    In another precision: at least the error of the products themselves against a float64 copy's; None without a copy.
    """
    error, limit = 0.0, tolerance
    if local.dtype != torch.float64:
        limit = TOLERANCE
        v = {name: t.double() for name, t in v.items()}
        try:
            local = _in_double(local)
            (precise,) = _products(local, v)
        except Exception:
            return None
        error = ratio(_norm({name: precise[name] - Hv[name] for name in Hv}), _norm(precise))
    with _displaced(local.parameters, random_direction(local.parameters, generator), DISPLACEMENT):
        local.release()
        size = _norm(local.gradient())
        (there,) = _products(local, v)
        differences, _ = _differences(local, v, there, size, limit)
    return max(error, differences) if error <= tolerance and differences <= limit else None


def _in_double(local: CurvatureOperator) -> CurvatureOperator:
    double = copy.copy(local)
    double.model = copy.deepcopy(local.model).double()
    double.objective = copy.copy(local.objective)
    double.objective.model = double.model
    if isinstance(double.objective._loss, nn.Module):
        double.objective._loss = copy.deepcopy(double.objective._loss).double()
    named = dict(double.model.named_parameters())
    double.parameters = {name: named[name] for name in local.parameters}
    double.batches = [moved(batch, local.device, torch.float64) for batch in local.batches]
    double.dtype = double.precision = torch.float64
    double._kept, double.buffers = {}, SpareBuffers(double.model)
    return double


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.hypot(*(t.double().norm().item() for t in tensors.values()))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum((a[name].double().reshape(-1) @ b[name].double().reshape(-1)).item() for name in a)
