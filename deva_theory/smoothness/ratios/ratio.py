r"""The effective smoothness ratio ρ of SPEC S7: does variance adaptation allow a larger guaranteed decrease, or not.

One step along d with its own best step size decreases a function of curvature L along d by at least ``<g,d>²/(2L)``.  A smaller
smoothness constant alone proves nothing, because the progress <g,d> shrinks with it; the quotient of the two guarantees does not
depend on the length of d.  *Worst-case*: the curvature is the supremum over the set in which the rule moves,

    ρ(Γ) = [L_Γ / <g, D>²] / [L / ‖g‖_*²] ,      L_Γ = sup_{‖O‖≤1} <T O, H T O> ,   T O = Q_L (Γ ⊙ O) Q_Rᵀ ,

with ``‖·‖_* = ‖·‖_1`` and T = diag(γ) in the ℓ∞ geometry, the nuclear norm in the spectral one.  *Realised*: the curvature is dᵀHd
itself, one Hessian-vector product, for any direction.  ρ < 1 is a larger guaranteed decrease than that of the unadapted step.

H is the Hessian at one point: neither form bounds the curvature along a whole step, which is a supremum over the segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deva_theory.rules import Diagnostics
from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.balls import Ball
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.estimators.krylov import euclidean_smoothness
from deva_theory.smoothness.estimators.operator_norms import operator_norm
from deva_theory.smoothness.estimators.programs import Program, run
from deva_theory.smoothness.weighting import Adaptation, Weights, weighted_program

DENSE = 256
"""Largest block whose ``Σ_ij |H_ij| γ_i γ_j`` is computed, from all of its d products."""


@dataclass(frozen=True)
class RealisedStep:
    """A direction against the reference direction of its geometry, by the curvature along each.

    Attributes
    ----------
    progress, curvature : float
        <g, d> and dᵀHd.
    reference_progress, reference_curvature : float
        The same for the reference: sign g, msign G, or g itself (ℓ2).

    Notes
    -----
    SPEC S7.  In units of the loss f: `decrease` is f, `ratio` has none; `best_step` is the multiple of d.
    """

    progress: float
    curvature: float
    reference_progress: float
    reference_curvature: float

    @property
    def ratio(self) -> float:
        """ρ = (dᵀHd/<g,d>²) / (rᵀHr/<g,r>²).

        * NaN if g = 0: no direction makes progress, nothing is to be compared;
        * infinite if <g,d> ≤ 0: d does not descend, no step along it has a guaranteed decrease;
        * NaN if rᵀHr ≤ 0: the reference's model is unbounded below, there is no finite decrease to compare with;
        * ≤ 0 if dᵀHd ≤ 0: d pays no curvature at this point, its quadratic model is unbounded below.
        """
        if not self.reference_progress > 0:
            return math.nan
        if not self.progress > 0:
            return math.inf
        if not self.reference_curvature > 0:
            return math.nan
        # The quotient first: squares of small gradients underflow.
        return self.curvature / self.reference_curvature * (self.reference_progress / self.progress) ** 2

    @property
    def best_step(self) -> float:
        """η* = <g,d>/dᵀHd; 0 without descent, infinite without curvature."""
        if not self.progress > 0:
            return 0.0
        return self.progress / self.curvature if self.curvature > 0 else math.inf

    @property
    def decrease(self) -> float:
        """``<g,d>²/(2 dᵀHd)``, the quadratic model's decrease at η*; 0 without descent, infinite without curvature."""
        return 0.5 * self.best_step * self.progress if self.progress > 0 else 0.0

    @property
    def note(self) -> str:
        """What keeps the ratio from being an ordinary positive number; empty if it is one."""
        if not self.reference_progress > 0:
            return "the gradient vanishes: the ratio is undefined"
        if not self.progress > 0:
            return "no descent, <g,d> <= 0: no guaranteed decrease"
        if not self.reference_curvature > 0:
            return "no curvature along the reference direction: nothing finite to compare with"
        if not self.curvature > 0:
            return "no curvature along the direction: its quadratic model is unbounded below"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return fields and derived numbers; infinite ones and NaN as None."""
        numbers = {**vars(self), "ratio": self.ratio, "best_step": self.best_step, "decrease": self.decrease}
        return {**{k: finite_or_none(v) for k, v in numbers.items()}, "note": self.note}


@dataclass(frozen=True)
class WorstCaseRatio:
    """``lower ≤ ρ ≤ upper``, from intervals of both smoothness constants.

    Attributes
    ----------
    lower, upper : float
        NaN if g = 0 or both constants vanish; infinite if <g, D> ≤ 0.
    progress, reference_progress : float
        <g, D> and ‖g‖_*.
    smoothness : (float, float)
        Interval of ``L_Γ / L``.
    failure : float
        Probability that the interval is wrong.
    note : str
        Why the ratio is not an ordinary number; empty if it is one.
    """

    lower: float
    upper: float
    progress: float
    reference_progress: float
    smoothness: tuple[float, float]
    failure: float = 0.0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; infinite ones and NaN as None."""
        numbers = {k: finite_or_none(v) for k, v in vars(self).items() if isinstance(v, float)}
        return {**numbers, "smoothness": [finite_or_none(v) for v in self.smoothness], "note": self.note}


def worst_case_ratio(
    adapted: Estimate, plain: Estimate, *, progress: float, reference_progress: float, limits: tuple[float, float] = (0.0, math.inf)
) -> WorstCaseRatio:
    """Return ``ρ = [L_Γ/<g,D>²] / [L/‖g‖_*²]`` as an interval.

    Parameters
    ----------
    adapted, plain : Estimate
        Of L_Γ and L, in one geometry; their `quadratic` bounds count, as in a descent lemma.
    progress, reference_progress : float
        <g, D> for the rule's D, without scalar factors or with those that `adapted` has; ‖g‖_* (likewise with `plain`'s).
    limits : (float, float)
        What is known of L_Γ/L anyway, see :func:`smoothness_limits`.

    Raises
    ------
    ValueError
        Estimates without a quadratic part (``l11``), or of blocks of different size.

    Notes
    -----
    SPEC S7.  Γ times a constant c multiplies L_Γ by c² and <g,D> by c: ρ does not change.
    """
    if adapted.quadratic is None or plain.quadratic is None:
        raise ValueError(f"{adapted.norm} and {plain.norm}: the ratio needs sup uᵀHu over a ball, which an entrywise sum is not")
    if adapted.size != plain.size:
        raise ValueError(f"the estimates are of blocks of {adapted.size} and {plain.size} parameters")
    a, p = adapted.quadratic, plain.quadratic
    failure = min(1.0, a.failure + p.failure)
    lower = a.lower / p.upper if p.upper > 0 else 0.0
    upper = a.upper / p.lower if p.lower > 0 else math.inf
    lower = max(lower, limits[0])
    # Rounding may leave exact ends an ulp apart the wrong way.
    upper = max(lower, min(upper, limits[1]))
    flat = a.upper == 0.0 and p.upper == 0.0
    return ratio_of_smoothness((lower, upper), progress=progress, reference_progress=reference_progress, failure=failure, flat=flat)


def ratio_of_smoothness(
    smoothness: tuple[float, float], *, progress: float, reference_progress: float, failure: float = 0.0, flat: bool = False
) -> WorstCaseRatio:
    """Return ρ from an interval of ``L_Γ/L``; `flat`: both vanish, every step has an unbounded guarantee."""
    lower = upper = math.nan
    note = ""
    if not reference_progress > 0:
        note = "the gradient vanishes: the ratio is undefined"
    elif not progress > 0:
        lower = upper = math.inf
        note = "no descent, <g,D> <= 0: no guaranteed decrease"
    elif flat:
        note = "neither set meets positive curvature"
    else:
        lower, upper = (value * (reference_progress / progress) ** 2 for value in smoothness)
    return WorstCaseRatio(lower, upper, progress, reference_progress, smoothness, failure, note)


def smoothness_limits(gamma: Tensor, *, norm: str) -> tuple[float, float]:
    r"""Return ``(lower, upper)`` that hold for ``L_Γ/L`` whatever H with L > 0 is.

    Parameters
    ----------
    gamma : Tensor
        Γ ≥ 0; a matrix in the rotated basis for "spectral".
    norm : {"linf", "spectral"}

    Notes
    -----
    If ``‖Γ ⊙ O‖ ≤ s‖O‖`` then ``L_Γ ≤ s² L``: s = max γ for the box (SPEC S2); for the spectral ball the Schur norm of Γ, here its bound
    ``min(max row 2-norm, max column 2-norm)`` (SPEC M11).  The lower limit is that of 1/Γ the other way round, 0 where Γ has zeros.
    """
    if not gamma.numel():
        return 0.0, math.inf

    def multiplier(x: Tensor) -> float:
        if norm == "linf":
            return x.abs().max().item()
        if bool((x == x.flatten()[0]).all()):  # c·11ᵀ is separable: its Schur norm is c
            return x.abs().max().item()
        return min(torch.linalg.vector_norm(x, dim=d).max().item() for d in (-1, -2))

    least = gamma.min().item()
    return (multiplier(1.0 / gamma) ** -2 if least > 0 else 0.0), multiplier(gamma) ** 2


def realised_ratio(
    gradient: Tensor, directions: Mapping[str, Tensor], reference: Mapping[str, Tensor] | Tensor
) -> Program[dict[str, RealisedStep]]:
    """Compare directions by the curvature along each: one product per direction, all in one batch.

    Parameters
    ----------
    gradient : Tensor, shape ``(d,)``
        g, of the loss whose Hessian the program is run against.
    directions : mapping
        Name to d, shape ``(d,)``; ``x ← x - ηd`` is the step.
    reference : Tensor or mapping
        The reference direction (sign g for ℓ∞, msign G for spectral, g for ℓ2), one for all or one by name.

    Returns
    -------
    Program
        Run it with :func:`~deva_theory.smoothness.estimators.programs.run`; its result is ``{name: RealisedStep}``.

    Raises
    ------
    ValueError
        A direction of another size than the gradient.

    Examples
    --------
    >>> H, g = torch.diag(torch.tensor([4.0, 1.0])).double(), torch.tensor([1.0, 1.0]).double()
    >>> newton = run(realised_ratio(g, {"newton": g / H.diagonal()}, g.sign()), lambda V: V @ H)["newton"]
    >>> round(newton.ratio, 6)  # (1.25/1.25²) / (5/2²)
    0.64
    """
    g = gradient.double()
    against = reference if isinstance(reference, Mapping) else dict.fromkeys(directions, reference)
    for name, d in [*directions.items(), *((f"reference of {name}", against[name]) for name in directions)]:
        if d.shape != g.shape:
            raise ValueError(f"direction {name!r} has shape {tuple(d.shape)}, the gradient {tuple(g.shape)}; flatten both over the block")
    if not directions:
        return {}
    # Shared references are multiplied once.
    distinct = {id(row): row for row in (*directions.values(), *(against[name] for name in directions))}
    V = torch.stack(list(distinct.values())).to(g)
    HV = yield V
    progress = dict(zip(distinct, (V @ g).tolist(), strict=True))
    curvature = dict(zip(distinct, (V * HV.to(V)).sum(-1).tolist(), strict=True))
    return {
        name: RealisedStep(progress[id(d)], curvature[id(d)], progress[id(against[name])], curvature[id(against[name])])
        for name, d in directions.items()
    }


def adapted_program(
    block: Block, gamma: Mapping[str, Weights], *, norm: str = "linf", ball: Ball | None = None, **options: Any
) -> Program[Estimate]:
    """Return the program of L_Γ: the plain estimator run against ``TᵀHT``.

    Parameters
    ----------
    block : Block
    gamma : mapping
        Γ by parameter: a tensor of the parameter's shape, or the :class:`~deva_theory.rules.Diagnostics` of an update.
    norm : {"l2", "linf", "spectral"}
    ball : Ball, optional
        Unit ball of the scale-invariant term, where it is not that of `norm` on this block.
    **options
        Of :func:`~deva_theory.smoothness.estimators.operator_norms.operator_norm` or
        :func:`~deva_theory.smoothness.estimators.krylov.euclidean_smoothness`.

    Raises
    ------
    ValueError
        Another norm.
    """
    if norm == "l2":
        program = euclidean_smoothness(block.size, **options)
    elif norm in ("linf", "spectral") or ball is not None:
        program = operator_norm(block.ball(norm) if ball is None else ball, norm=norm, **options)
    else:
        raise ValueError(f"norm is {norm!r}; use 'l2', 'linf' or 'spectral'")
    return weighted_program(program, block, gamma, name=f"gamma-{norm}")


def adapted_smoothness(
    operator: CurvatureOperator, block: Block | str, gamma: Mapping[str, Weights] | Weights, *, norm: str = "linf", **options: Any
) -> Estimate:
    """Enclose ``L_Γ = sup_{‖O‖≤1} <T O, H T O>`` of one block of a model (SPEC S2).

    Parameters
    ----------
    operator : CurvatureOperator
    block : Block or str
        One of the operator's blocks, or its name.
    gamma : mapping, Tensor or Diagnostics
        See :func:`adapted_program`; a single Γ is that of a block with one parameter.
    norm, **options
        See :func:`adapted_program`.

    Raises
    ------
    ValueError
        An unknown block, or a single Γ for a block of several parameters.
    """
    known = {b.name: b for b in operator.blocks}
    if isinstance(block, str):
        if block not in known:
            raise ValueError(f"the operator has no block {block!r}; blocks: {', '.join(known)}")
        block = known[block]
    if isinstance(gamma, Tensor | Diagnostics):
        if len(block.parameters) != 1:
            raise ValueError(f"block {block.name!r} has {len(block.parameters)} parameters; give Γ by parameter name")
        gamma = {block.parameters[0]: gamma}
    found = block
    return run(
        adapted_program(found, gamma, norm=norm, device=operator.device, **options), lambda V: operator.product(found, V)
    )


@dataclass(frozen=True)
class GammaSums:
    r"""``‖H‖_{1,Γ}`` for a block with weights, the plotted quantity carried over to general models.

    Attributes
    ----------
    signed : float
        ``Σ_ij H_ij γ_i γ_j``, one product with γ; may be negative.
    absolute : float or None
        ``Σ_ij |H_ij| γ_i γ_j``; None for blocks of more than :data:`DENSE` parameters.

    Notes
    -----
    SPEC S3.  The paper's figure pairs entries, ``Σ_ij H_ij Γ_ij``, with H the *row* Hessian and Γ the array of parameter entries: that is
    defined for the trace quadratic with a square X only (:func:`~deva_theory.smoothness.signed_weighted_sum`).  A block of d
    parameters has a d×d Hessian and d weights; the pairing that has the right shape and is quadratic in Γ, as a smoothness is, uses
    the weights ``γ_i γ_j``.  This reading is ours.  H is taken in the coordinates of Γ: rotated where Γ is.  For the box,
    ``signed ≤ L_Γ ≤ absolute``, because γ itself lies in the set.
    """

    signed: float
    absolute: float | None


def gamma_sums(block: Block, gamma: Mapping[str, Weights], *, dense: int = DENSE) -> Program[GammaSums]:
    """Return the program of both sums; parameters that `gamma` lacks have Γ ≡ 1."""
    adaptation = Adaptation(block, gamma)
    if block.size <= dense:
        T = adaptation.apply(torch.eye(block.size, dtype=torch.float64, device=device_of(gamma)))
        weighted = adaptation.adjoint((yield T))
        return GammaSums(weighted.sum().item(), weighted.abs().sum().item())
    u = adaptation.apply(torch.ones(1, block.size, dtype=torch.float64, device=device_of(gamma)))
    return GammaSums((u * (yield u)).sum().item(), None)


def device_of(gamma: Mapping[str, Weights]) -> torch.device:
    """Return where the weights live; the CPU if there are none."""
    first = next(iter(gamma.values()), None)
    if first is None:
        return torch.device("cpu")
    return (first.variance_adaptation if isinstance(first, Diagnostics) else first).device


def finite_or_none(value: float) -> float | None:
    """Return a JSON number: None for infinite values and NaN."""
    return value if math.isfinite(value) else None
