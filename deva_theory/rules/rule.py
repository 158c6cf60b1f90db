"""The update rule: one pure, batched function composed of the parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.linalg.floating import working_dtype
from deva_theory.rules.basis import KroneckerBasis
from deva_theory.rules.parts import Adaptation, Identity, Moment, Polar, Sign, State, StepScale
from deva_theory.rules.validation import check_choice, check_gradient, check_real_tensor

DECAY_ORDERS = ("before", "after")


@dataclass(frozen=True)
class Diagnostics:
    """What one update was made of.

    ``direction = scale · restore(variance_adaptation ⊙ project(scale_invariant))``.

    Attributes
    ----------
    variance_adaptation : Tensor
        Γ, entrywise in the working basis (all ones where a rule has no adaptation).
    scale_invariant : Tensor
        The scale-invariant term in the original basis.
    basis : tuple of Tensor, optional
        (Q_L, Q_R), None when the rule works on the coordinates.
    scale : Tensor or float
        Shape and bias factors.
    skipped : bool
        The call only built the bases (reference contract, point 1); the direction is zero.
    """

    variance_adaptation: Tensor
    scale_invariant: Tensor
    basis: tuple[Tensor, Tensor] | None
    scale: Tensor | float
    skipped: bool = False

    def adapt(self, x: Tensor) -> Tensor:
        """Apply the variance adaptation to `x` in the original basis: ``Q_L(Γ ⊙ Q_LᵀxQ_R)Q_Rᵀ``."""
        if self.basis is None:
            return self.variance_adaptation * x
        Q_L, Q_R = self.basis
        return Q_L @ (self.variance_adaptation * (Q_L.mT @ x @ Q_R)) @ Q_R.mT

    @property
    def variance_adaptation_original(self) -> Tensor:
        """Γ itself rotated to the original basis, ``Q_L Γ Q_Rᵀ`` (not entrywise there: see :meth:`adapt`)."""
        if self.basis is None:
            return self.variance_adaptation
        Q_L, Q_R = self.basis
        return Q_L @ self.variance_adaptation @ Q_R.mT


@dataclass(frozen=True)
class Rule:
    r"""``direction = step_scale · restore(Γ ⊙ scale_invariant(moment(project(grad))))``.

    Pure: `init` and `update` change nothing of the caller's (unless `donate` is set), and everything is
    batched over the dimensions in front of the event.

    Attributes
    ----------
    name : str
        Used in error messages, tables and figures.
    event_ndim : int
        1: vectors, 2: matrices. Entrywise rules use it only for a relative ε and for unit-rms scaling.
    moment, scale_invariant, adaptation, basis, step_scale
        The parts, see :mod:`deva_theory.rules.parts` and :mod:`deva_theory.rules.basis`.
    decay : {"before", "after"}
        Whether decoupled weight decay acts on the parameters before or after the update.

    Notes
    -----
    A direction includes the shape and bias factors and excludes learning rate and weight decay. Half-precision
    parameters get float32 states and directions.
    """

    name: str
    event_ndim: int = 1
    moment: Moment = Moment()
    scale_invariant: Identity | Sign | Polar = Sign()
    adaptation: Adaptation | None = None
    basis: KroneckerBasis | None = None
    step_scale: StepScale = StepScale()
    decay: str = "before"

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, DECAY_ORDERS)
        if self.event_ndim not in (1, 2):
            raise ValueError(f"event_ndim is {self.event_ndim!r}; use 1 (vectors) or 2 (matrices)")
        needs_matrix = (
            self.basis is not None or isinstance(self.scale_invariant, Polar)
            or self.step_scale.shape.startswith("sqrt")
            or (self.adaptation is not None and self.adaptation.amplitude == "marginals")
        )
        if needs_matrix and self.event_ndim != 2:
            raise ValueError(f"{self.name}: its parts act on matrices; set event_ndim=2")

    def init(self, params: Tensor) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        params : Tensor, shape ``(..., *event)``
            Only shape, dtype and device matter.

        Raises
        ------
        TypeError, ValueError
            Not a real floating-point tensor; too few dimensions.
        """
        params = check_real_tensor(f"{self.name}: params", params)
        if params.ndim < self.event_ndim:
            raise ValueError(
                f"{self.name}: params has shape {tuple(params.shape)}; the rule acts on the last {self.event_ndim} "
                "dimension(s). Reshape it, or use a rule for vectors"
            )
        like = params.detach().to(working_dtype(params.dtype))
        state: State = {"step": 0}
        if self.basis is not None:
            state |= {"built": 0} | self.basis.init(like)
        state |= self.moment.init(like)
        if self.adaptation is not None:
            state |= self.adaptation.init(like)
        return state

    def only_builds(self, state: State) -> bool:
        """Return whether the next update only builds the bases: no step, no weight decay, t not advanced."""
        return self.basis is not None and self.basis.lagged and int(state["built"]) == 0

    def update(
        self, grad: Tensor, state: State, *, diagnostics: bool = False, donate: bool = False, check_finite: bool = True
    ) -> tuple[Tensor, State, Diagnostics | None]:
        """Return ``(direction, state, diagnostics)`` for one gradient.

        Parameters
        ----------
        grad : Tensor, shape ``(..., *event)``
        state : dict
            From :meth:`init` or the previous call.
        diagnostics : bool
            Also return the decomposition of this direction.
        donate : bool
            Reuse the memory of `state`, which is then invalid (for optimizers).
        check_finite : bool
            Reject NaN and infinite gradients; costs one host synchronisation on a GPU.

        Raises
        ------
        TypeError, ValueError
            Unusable gradient; the state is unchanged.
        """
        shape, dtype = _layout(state)
        grad = check_gradient(
            grad, name=self.name, expected=shape, event_ndim=self.event_ndim, finite=check_finite, dtype=dtype
        )
        with torch.no_grad():
            result = self._update(grad.to(working_dtype(grad.dtype)), dict(state), diagnostics, donate)
        if check_finite and not bool(torch.isfinite(result[0]).all()):
            raise ValueError(
                f"{self.name}: the direction is not finite though grad is: its entries, up to {float(grad.abs().max()):.3g}, overflow in "
                f"{grad.dtype}. Scale the gradients down" + ("; the donated state is lost" if donate else "; the state is unchanged")
            )
        return result

    def _update(
        self, grad: Tensor, state: State, diagnostics: bool, donate: bool
    ) -> tuple[Tensor, State, Diagnostics | None]:
        basis, adaptation = self.basis, self.adaptation
        if self.only_builds(state) and basis is not None:
            basis.learn(grad, state, donate=False)
            basis.build(state)
            state["built"] = 1
            zero = torch.zeros_like(grad)
            return zero, state, self._diagnose(zero, zero, 1.0, state, skipped=True) if diagnostics else None
        step = int(state["step"]) + 1
        state["step"] = step
        g = grad
        if basis is not None:
            if not basis.lagged:
                due = (step - 1) % basis.refresh_every == 0
                # eigh may fail: keep the old averages until it has not.
                basis.learn(grad, state, donate=donate and not due)
                if not state["built"]:
                    basis.build(state)
                    state["built"] = 1
                elif due:
                    basis.move(state, adaptation)
            g = basis.project(grad, state)
        m = self.moment.update(g, state, donate=donate)
        s = self.scale_invariant(self.moment.lookahead(m, g))
        if adaptation is None:
            gamma, D = None, s
        else:
            gamma = adaptation.update(
                {"momentum": m, "gradient": g, "scale_invariant": s},
                {"momentum": self.moment.correction(step), "gradient": 1.0, "scale_invariant": 1.0},
                state, step=step, event_ndim=self.event_ndim, donate=donate,
            )
            D = gamma * s
        scale = self.step_scale(D, step=step, beta1=self.moment.beta, event_ndim=self.event_ndim)
        details = None
        if diagnostics:
            details = self._diagnose(torch.ones_like(s) if gamma is None else gamma, s, scale, state)
        if basis is not None:
            D = basis.restore(D, state)
            if basis.lagged:
                due = step % basis.refresh_every == 0
                basis.learn(grad, state, donate=donate and not due)
                if due:
                    basis.move(state, adaptation)
        return D * scale, state, details

    def _diagnose(
        self, gamma: Tensor, s: Tensor, scale: Tensor | float, state: State, *, skipped: bool = False
    ) -> Diagnostics:
        if self.basis is None:
            return Diagnostics(gamma, s, None, scale, skipped)
        bases = state["Q_L"], state["Q_R"]
        assert isinstance(bases[0], Tensor) and isinstance(bases[1], Tensor)
        return Diagnostics(gamma, self.basis.restore(s, state), (bases[0], bases[1]), scale, skipped)

    def step(
        self, params: Tensor, grad: Tensor, state: State, *, lr: Tensor | float, weight_decay: float = 0.0,
        check_finite: bool = True,
    ) -> tuple[Tensor, State]:
        """Return the parameters and the state after one step with decoupled weight decay.

        ``x ← (1-ηλ)x - ηd`` (decay before) or ``x ← (1-ηλ)(x - ηd)`` (after); nothing moves on a call that only builds.
        """
        skipped = self.only_builds(state)
        direction, state, _ = self.update(grad, state, check_finite=check_finite)
        if skipped:
            return params, state
        return apply_direction(params, direction, lr=lr, weight_decay=weight_decay, decay=self.decay), state


def _layout(state: State) -> tuple[torch.Size | None, torch.dtype | None]:
    """Return shape and dtype of the parameters that a state belongs to, None for stateless rules."""
    for keys in (("momentum",), ("rms",), ("rms_rows", "rms_columns"), ("L", "R")):
        found = [v for k in keys if isinstance(v := state.get(k), Tensor)]
        if found:
            shape = found[0].shape if len(found) == 1 else found[0].shape[:-1] + found[1].shape[-1:]
            return shape, found[0].dtype
    return None, None


def apply_direction(
    params: Tensor, direction: Tensor, *, lr: Tensor | float, weight_decay: float, decay: str
) -> Tensor:
    """Return ``(1-ηλ)x - ηd`` (`decay` "before") or ``(1-ηλ)(x - ηd)`` ("after")."""
    shrink = 1.0 - lr * weight_decay
    # Half-precision parameters are rounded once, after the step, not also after the decay.
    params = params.to(torch.promote_types(params.dtype, direction.dtype))
    if decay == "before":
        return shrink * params - lr * direction
    return shrink * (params - lr * direction)
