r"""Rules whose variance adaptation is a matrix: full-matrix AdaGrad and Shampoo.

Both are ``direction = (accumulated second moment)^{†p} applied to the moment``.  Their exact split into variance adaptation
and scale-invariant term (SPEC M1, M3) multiplies that power by the root of the present sample's own second moment:

    S^{†1/2} g          = [S^{†1/2} (g gᵀ)^{1/2}] · g/‖g‖
    L^{†1/4} G R^{†1/4} = [L^{†1/4} (GGᵀ)^{1/4}] · msign(G) · [(GᵀG)^{1/4} R^{†1/4}]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.linalg import ema_update, symmetric_power
from deva_theory.linalg.floating import working_dtype
from deva_theory.rules.parts import Moment, State, state_tensor
from deva_theory.rules.rule import Diagnostics
from deva_theory.rules.validation import check_beta, check_gradient, check_nonnegative, check_real_tensor


@dataclass(frozen=True)
class FullMatrixAdaGrad:
    """``(S + ε·tr(S)/d · I)^{†1/2} g`` with ``S = Σ g gᵀ`` (or an EMA), g the last dimension (Duchi et al. 2011).

    Attributes
    ----------
    beta : float or None
        None: sum; otherwise EMA factor.
    eps : float
        Relative regularisation; 0 uses the pseudo-inverse.
    """

    beta: float | None = None
    eps: float = 0.0
    name: str = "full_matrix_adagrad"
    event_ndim: int = 1
    decay: str = "before"

    def __post_init__(self) -> None:
        _check(self.beta, self.eps)

    def init(self, params: Tensor) -> State:
        """Return S = 0, of shape ``(..., d, d)``."""
        like = _zeros(self.name, params, 1)
        return {"step": 0, "second_moment": like.unsqueeze(-1) * like.unsqueeze(-2)}

    def only_builds(self, state: State) -> bool:
        """Return False: every call steps."""
        return False

    def update(
        self, grad: Tensor, state: State, *, diagnostics: bool = False, donate: bool = False, check_finite: bool = True
    ) -> tuple[Tensor, State, Diagnostics | None]:
        """Return ``(direction, state, None)``; the split is :func:`deva_theory.decompose` with kind "full_matrix"."""
        S = state_tensor(state, "second_moment")
        g = _gradient(self, grad, S.shape[:-1], check_finite)
        state = dict(state)
        state["step"] = int(state["step"]) + 1
        state["second_moment"] = S = _accumulate(S, g.unsqueeze(-1) * g.unsqueeze(-2), self.beta)
        power = symmetric_power(_regularised(S, self.eps), -0.5)
        return (power @ g.unsqueeze(-1)).squeeze(-1), state, None


@dataclass(frozen=True)
class Shampoo:
    """``L^{†1/4} M R^{†1/4}`` with ``L = Σ GGᵀ``, ``R = Σ GᵀG`` (or EMAs) and M the moment (Gupta et al. 2018).

    Attributes
    ----------
    beta : float or None
        None: sum; otherwise EMA factor of L and R.
    moment : Moment
        First moment.
    eps : float
        Relative regularisation, ``ε·tr(L)/m·I``; 0 uses the pseudo-inverse.
    """

    beta: float | None = None
    moment: Moment = Moment()
    eps: float = 0.0
    name: str = "shampoo"
    event_ndim: int = 2
    decay: str = "before"

    def __post_init__(self) -> None:
        _check(self.beta, self.eps)

    def init(self, params: Tensor) -> State:
        """Return L = 0, R = 0."""
        like = _zeros(self.name, params, 2)
        state: State = {"step": 0, "L": like @ like.mT, "R": like.mT @ like}
        return state | self.moment.init(like)

    def only_builds(self, state: State) -> bool:
        """Return False: every call steps."""
        return False

    def update(
        self, grad: Tensor, state: State, *, diagnostics: bool = False, donate: bool = False, check_finite: bool = True
    ) -> tuple[Tensor, State, Diagnostics | None]:
        """Return ``(direction, state, None)``; the split is :func:`deva_theory.decompose` with kind "shampoo"."""
        L, R = state_tensor(state, "L"), state_tensor(state, "R")
        G = _gradient(self, grad, L.shape[:-1] + R.shape[-1:], check_finite)
        state = dict(state)
        state["step"] = int(state["step"]) + 1
        state["L"] = L = _accumulate(L, G @ G.mT, self.beta)
        state["R"] = R = _accumulate(R, G.mT @ G, self.beta)
        M = self.moment.lookahead(self.moment.update(G, state, donate=False), G)
        left = symmetric_power(_regularised(L, self.eps), -0.25)
        right = symmetric_power(_regularised(R, self.eps), -0.25)
        return left @ M @ right, state, None


def _check(beta: float | None, eps: float) -> None:
    if beta is not None:
        check_beta("beta2", beta)
    check_nonnegative("eps", eps)


def _zeros(name: str, params: Tensor, event_ndim: int) -> Tensor:
    params = check_real_tensor(f"{name}: params", params)
    if params.ndim < event_ndim:
        raise ValueError(f"{name}: params has shape {tuple(params.shape)}; the rule acts on the last {event_ndim} dimension(s)")
    return torch.zeros_like(params.detach(), dtype=working_dtype(params.dtype))


def _gradient(rule: FullMatrixAdaGrad | Shampoo, grad: Tensor, shape: torch.Size, finite: bool) -> Tensor:
    grad = check_gradient(grad, name=rule.name, expected=shape, event_ndim=rule.event_ndim, finite=finite)
    return grad.detach().to(working_dtype(grad.dtype))


def _accumulate(S: Tensor, x: Tensor, beta: float | None) -> Tensor:
    return S + x if beta is None else ema_update(S, x, beta)


def _regularised(S: Tensor, eps: float) -> Tensor:
    if eps == 0.0:
        return S
    trace = torch.diagonal(S, dim1=-2, dim2=-1).mean(-1)
    return S + eps * trace[..., None, None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
