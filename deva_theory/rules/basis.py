"""The Kronecker eigenbasis in which SOAP and the S∞ rule work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.linalg import REFRESH_METHODS, canonical_null_space, eigenbasis, ema_update, refresh_eigenbasis
from deva_theory.linalg.floating import exponent_limit, exponent_of, power_of_two
from deva_theory.rules.parts import Adaptation, State, state_tensor
from deva_theory.rules.validation import check_beta, check_choice, check_positive_int

CARRIES = ("none", "permute", "overlap")


@dataclass(frozen=True)
class KroneckerBasis:
    """Eigenbases Q_L, Q_R of ``L = EMA(GGᵀ)`` and ``R = EMA(GᵀG)``, refreshed every k steps.

    Attributes
    ----------
    beta : float
        β3 of the averages.
    refresh_every : int
        k.
    refresh : {"qr", "eigh", "rotation"}
        How a basis is moved, see :func:`deva_theory.linalg.refresh_eigenbasis`; the first is by eigh.
    lagged : bool
        False: L and R take the current gradient before it is projected, refreshes happen at t = 1, 1+k, …
        True (reference, SOAP): the first call only builds L, R and their bases; later L and R take the
        gradient after the update and refreshes happen when t mod k = 0.
    carry_momentum : bool
        Rotate the first moment into the new basis (exact).
    carry_adaptation : {"none", "permute", "overlap"}
        What happens to the second moment: nothing; reordered with the columns; mixed by squared overlaps.
    restores : bool
        False leaves updates in the rotated basis: Algorithm 2 as the paper's first version printed it, kept as
        a counter-example (SPEC M9).
    canonical : bool
        Choose the null space of the first L and R by :func:`deva_theory.linalg.canonical_null_space` and keep directions
        without gradient at a refresh, so that for gradients of low rank the step does not depend on rounding, hence not on
        their scale.
    """

    beta: float = 0.95
    refresh_every: int = 10
    refresh: str = "qr"
    lagged: bool = False
    carry_momentum: bool = True
    carry_adaptation: str = "permute"
    restores: bool = True
    canonical: bool = False

    def __post_init__(self) -> None:
        check_beta("beta3", self.beta)
        check_positive_int("refresh_every", self.refresh_every)
        check_choice("refresh", self.refresh, REFRESH_METHODS)
        check_choice("carry_adaptation", self.carry_adaptation, CARRIES)

    def init(self, params: Tensor) -> State:
        """Return zero averages and identity bases."""
        m, n = params.shape[-2:]
        batch = params.shape[:-2]
        state: State = {}
        for side, d in (("L", m), ("R", n)):
            state[side] = params.new_zeros(*batch, d, d)
            state[f"Q_{side}"] = torch.eye(d, dtype=params.dtype, device=params.device).expand(*batch, d, d).clone()
        # Units of L and R, as a binary exponent; that of zero is the least.
        state["exponent"] = exponent_of(torch.zeros_like(params), 2)
        return state

    def project(self, G: Tensor, state: State) -> Tensor:
        """Return ``Q_Lᵀ G Q_R``."""
        return state_tensor(state, "Q_L").mT @ G @ state_tensor(state, "Q_R")

    def restore(self, X: Tensor, state: State) -> Tensor:
        """Return ``Q_L X Q_Rᵀ``."""
        if not self.restores:
            return X
        return state_tensor(state, "Q_L") @ X @ state_tensor(state, "Q_R").mT

    def learn(self, G: Tensor, state: State, *, donate: bool) -> None:
        """Advance L and R."""
        # Eigenbases forget the scale: L and R are kept in the units of what they hold or of the present gradient,
        # whichever is larger, so that G Gᵀ neither overflows nor underflows and a spike is forgotten.
        old, limit = state_tensor(state, "exponent"), exponent_limit(G.dtype)
        held = torch.maximum(exponent_of(state_tensor(state, "L"), 2), exponent_of(state_tensor(state, "R"), 2))
        exponent = torch.maximum(old + held // 2, exponent_of(G, 2)).clamp(-limit, limit)
        state["exponent"] = exponent
        shrink = power_of_two((2 * (old - exponent)).clamp(-limit, limit), G.dtype)
        scaled = G * power_of_two(-exponent, G.dtype)
        for side, gram in (("L", scaled @ scaled.mT), ("R", scaled.mT @ scaled)):
            average = state_tensor(state, side)
            average = average.mul_(shrink) if donate else average * shrink
            state[side] = ema_update(average, gram, self.beta, donate=True)

    def build(self, state: State) -> None:
        """Take the first bases from L and R."""
        for side in ("L", "R"):
            average = state_tensor(state, side)
            Q = eigenbasis(average)
            state[f"Q_{side}"] = canonical_null_space(average, Q) if self.canonical else Q

    def move(self, state: State, adaptation: Adaptation | None) -> None:
        """Refresh both bases and carry the moments along."""
        old = state_tensor(state, "Q_L"), state_tensor(state, "Q_R")
        keep = self.canonical and self.refresh == "qr"
        Q_L, rows = refresh_eigenbasis(state_tensor(state, "L"), old[0], method=self.refresh, keep_dead=keep)
        Q_R, columns = refresh_eigenbasis(state_tensor(state, "R"), old[1], method=self.refresh, keep_dead=keep)
        left, right = Q_L.mT @ old[0], Q_R.mT @ old[1]
        state["Q_L"], state["Q_R"] = Q_L, Q_R
        if self.carry_momentum and "momentum" in state:
            state["momentum"] = left @ state_tensor(state, "momentum") @ right.mT
        if adaptation is not None and self.carry_adaptation == "permute":
            adaptation.permute(state, rows, columns)
        if adaptation is not None and self.carry_adaptation == "overlap":
            adaptation.carry(state, left, right)
