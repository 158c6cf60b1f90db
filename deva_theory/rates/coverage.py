r"""Which update rules a statement of SPEC §5 covers, and what is known of their Γ before a run.

R1, R2 and R5 are about ``x⁺ = x - η Γ ⊙ sign(·)`` with entrywise Γ ≥ 0; the momentum of R5 is the runner's own, since its β depends on T.
R3's first form is about the exact polar factor alone; its form for any direction covers every rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deva_theory.rates.statement import AssumptionError
from deva_theory.rules import Diagnostics, Polar, Rule, Sign, State

STATEMENTS = ("R1", "R2", "R3", "R5")


class UpdateRule(Protocol):
    """What the runner needs of a rule: a `Rule`, or `FixedFactors`."""

    @property
    def name(self) -> str:
        """For tables and errors."""

    def init(self, params: Tensor) -> State:
        """Return the state before the first step."""

    def update(self, grad: Tensor, state: State, *, diagnostics: bool = ..., check_finite: bool = ...) -> tuple[Tensor, State, Any]:
        """Return the direction, the state and what the direction was made of."""


@dataclass(frozen=True, eq=False)
class FixedFactors:
    """Γ ⊙ sign(g) with a Γ that never changes.

    Attributes
    ----------
    factors : Tensor, shape broadcastable to ``(*batch, *event)``
        Γ ≥ 0, finite.
    name : str
        For tables.

    Raises
    ------
    AssumptionError
        Γ is negative or not finite.
    """

    factors: Tensor
    name: str = "fixed factors"

    def __post_init__(self) -> None:
        if not bool((self.factors.isfinite() & (self.factors >= 0)).all()):
            raise AssumptionError(f"{self.name}: R1 to R5 assume finite factors Γ ≥ 0")

    def init(self, params: Tensor) -> State:
        """Return no state."""
        return {"step": 0}

    def update(
        self, grad: Tensor, state: State, *, diagnostics: bool = False, check_finite: bool = True
    ) -> tuple[Tensor, State, Diagnostics | None]:
        """Return ``Γ ⊙ sign(grad)``, as `Rule.update`."""
        sign = torch.sign(grad)
        gamma = self.factors.to(grad).expand(grad.shape)
        return gamma * sign, state, Diagnostics(gamma, sign, None, 1.0) if diagnostics else None


@dataclass(frozen=True, eq=False)
class SingularAdaGrad:
    r"""``U diag(γ) Vᵀ`` in the singular basis of Ĝ = U diag(σ) Vᵀ, ``γ_i = σ_i/√(Σ_{s≤t} σ_i(Ĝ_s)²)``, singular values falling.

    AdaGrad on the singular values by rank: what R3's form with factors covers, and Γ ≤ 1.  In a fixed eigenbasis it is SPEC M4's update.
    """

    name: str = "singular_adagrad"

    def init(self, params: Tensor) -> State:
        """Return the zero sum of squares."""
        return {"step": 0, "squares": torch.zeros_like(params[..., : min(params.shape[-2:]), 0])}

    def update(
        self, grad: Tensor, state: State, *, diagnostics: bool = False, check_finite: bool = True
    ) -> tuple[Tensor, State, Diagnostics | None]:
        """Return the direction, the new sum and, as Γ, the factors as a row; as `Rule.update`."""
        U, sigma, Vh = torch.linalg.svd(grad, full_matrices=False)
        past = state["squares"]
        assert isinstance(past, Tensor)
        squares = past + sigma.square()
        gamma = torch.where(squares > 0, sigma / torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)
        details = Diagnostics(gamma, U @ Vh, None, 1.0) if diagnostics else None
        return (U * gamma.unsqueeze(-2)) @ Vh, {"step": 0, "squares": squares}, details


def unit_factors(rule: UpdateRule) -> bool:
    """Return whether Γ ≡ 1: the constants of the family then serve, without a look at the run."""
    return isinstance(rule, Rule) and rule.adaptation is None


def polar_exact(rule: UpdateRule) -> bool:
    """Return whether D = msign(Ĝ) exactly, R3's first form; every other rule for matrices falls under its form for any direction."""
    return (
        isinstance(rule, Rule) and isinstance(rule.scale_invariant, Polar) and rule.scale_invariant.method == "svd"
        and not rule.scale_invariant.of_sign and rule.adaptation is None and rule.basis is None and rule.moment.beta == 0
        and rule.step_scale.shape == "none" and rule.step_scale.coefficient == 1 and rule.step_scale.bias == "none"
    )


def check_covered(statement: str, rule: UpdateRule) -> None:
    """Raise unless the statement covers the rule.

    Parameters
    ----------
    statement : str
        R1, R2, R3 or R5.
    rule : UpdateRule
        The rule.

    Raises
    ------
    AssumptionError
        Names what the rule lacks.
    """
    if statement not in STATEMENTS:
        raise ValueError(f"unknown statement {statement!r}: use one of {', '.join(STATEMENTS)}")
    if statement == "R3" or isinstance(rule, FixedFactors):
        return
    covered = "covers x⁺ = x - ηΓ⊙sign(·) with entrywise Γ"
    if not isinstance(rule, Rule):
        raise AssumptionError(f"{statement} {covered}; of {rule.name} that is not known")
    if not isinstance(rule.scale_invariant, Sign) or rule.basis is not None:
        raise AssumptionError(f"{statement} {covered}; {rule.name} is no such rule (for matrices use R3)")
    if rule.step_scale.shape != "none" or rule.step_scale.coefficient != 1 or rule.step_scale.bias != "none":
        raise AssumptionError(f"{statement} {covered}; {rule.name} multiplies its direction by another factor")
    if rule.moment.beta != 0:
        own = "momentum with β = 1 - T^{-1/2}, which the runner adds" if statement == "R5" else "steps without momentum (R5 has it)"
        raise AssumptionError(f"{statement} assumes {own}; {rule.name} has β1 = {rule.moment.beta:g}, use β1 = 0")


def factor_bound(rule: UpdateRule, steps: int) -> Tensor:
    r"""Return an upper bound on Γ_t for t = 0 … T-1, whatever the gradients are (SPEC D3).

    Parameters
    ----------
    rule : UpdateRule
        A rule that `check_covered` accepts, whose Γ is an amplitude over its own root mean square.
    steps : int
        T.

    Returns
    -------
    Tensor of float64, shape ``(T,)``
        1 for Γ ≡ 1 and AdaGrad; ``√((1-β2^{t+1})/(1-β2))`` for the bias-corrected mean square, ``(1-β2)^{-1/2}`` without correction, and
        ``1/(1-β2)`` where the second moment is a product of two means.

    Raises
    ------
    AssumptionError
        "bounded factors", where no such bound exists.

    Notes
    -----
    Proof.  All averages are of non-negative numbers, so at least 1-β2 times the last one, and without decay at least that; an ε below
    only makes Γ smaller.  With the amplitude a = |g|, or √(rc) from the norms r, c of row and column: V ≥ (1-β2)a², divided by the bias
    1-β2^{t+1}.  V = √(EMA(r²) EMA(c²)) ≥ (1-β2)rc likewise.  V = EMA(r) EMA(c) ≥ (1-β2)²rc: two factors of 1-β2.  Γ = a/√V.  ∎
    Without ε all are attained after gradients that were 0.
    """
    ones = torch.ones(steps, dtype=torch.float64)
    if isinstance(rule, FixedFactors):
        return float(rule.factors.max()) * ones
    adaptation = rule.adaptation if isinstance(rule, Rule) else None
    if adaptation is None:
        return ones
    # Without momentum "momentum" and "gradient" are the same amplitude.
    if adaptation.numerator == "unit" or adaptation.tracked == "scale_invariant" or adaptation.eps_mode == "numerator":
        raise AssumptionError(f"bounded factors, 0 ≤ Γ ≤ γ_max < ∞: {rule.name} has no γ_max known before the run")
    if adaptation.beta is None:
        return ones
    if adaptation.factored == "mean":
        return ones / (1 - adaptation.beta)
    top = 1 / math.sqrt(1 - adaptation.beta)
    if not adaptation.bias_correction:
        return top * ones
    # 1 - β2^t by its logarithm, -∞ at β2 = 0: the difference loses digits next to β2 = 1.
    decay = torch.arange(1, steps + 1, dtype=torch.float64) * torch.tensor(adaptation.beta, dtype=torch.float64).log()
    return top * (-torch.expm1(decay)).sqrt()
