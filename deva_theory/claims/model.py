"""What a claim is, what a check finds, and how strongly it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `deva-theory claims` prints at once: torch is imported by the checks
    import numpy as np
    import torch

__all__ = ["Claim", "Counterexample", "Evidence", "Kind", "Run", "Verdict"]


class Kind(StrEnum):
    """What sort of statement a claim is."""

    IDENTITY = "identity"
    INEQUALITY = "inequality"
    RATE = "rate"
    EMPIRICAL = "empirical"
    PAPER_VS_CODE = "paper-vs-code"


class Verdict(StrEnum):
    """How a claim stands, strongest method first.

    PROVED: symbolic, or an exact-rational dual certificate.  CERTIFIED: rigorous numerics.  SUPPORTED: exact equality on
    random rational instances, search or statistics, with its budget.  HOLDS_IF: true after a stated repair.  REFUTED: a
    counter-example is saved and replays.  INCONCLUSIVE: the method decided nothing.  NOT_CHECKED: nobody tried, with the reason.
    """

    PROVED = "PROVED"
    CERTIFIED = "CERTIFIED"
    SUPPORTED = "SUPPORTED"
    HOLDS_IF = "HOLDS_IF"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_CHECKED = "NOT_CHECKED"

    @property
    def stands(self) -> bool:
        """Whether the statement, with its stated repair if any, is true as far as we know."""
        return self in (Verdict.PROVED, Verdict.CERTIFIED, Verdict.SUPPORTED, Verdict.HOLDS_IF)

    @property
    def recheckable(self) -> bool:
        """Whether the evidence must hold certificates that `deva_theory.recheck` accepts."""
        return self in (Verdict.PROVED, Verdict.CERTIFIED)


@dataclass(frozen=True)
class Claim:
    """One statement that can be true or false, as claims.toml has it.

    Attributes
    ----------
    id, title : str
        The key, and the statement in at most 90 characters for the table.
    kind : Kind
    source : str
        Where the statement stands; "number unknown" where we have not read the paper's numbering.
    statement, latex : str
        In words, and as a formula.
    assumptions : tuple of str
    depends_on : tuple of str
        Claims whose refutation marks this one.
    method, tolerance, control : str
        How it is checked, how far numbers may be off and why, and the deliberately false variant.
    expected : Verdict
        What the last accepted run found; another verdict is a change.
    check : str or None
        ``module:function`` below ``paper_checks``; None for NOT_CHECKED.
    falsify : str or None
        ``module:function`` that returns a `deva_theory.certify.SearchProblem`, or None.
    tier : str
        "fast" (run in both tiers) or "full".
    extra : str or None
        The optional dependency group the check needs; without it the claim is NOT_CHECKED in this run.
    reason : str or None
        Why nothing is checked.
    line : int
        Where it begins in claims.toml.
    """

    id: str
    title: str
    kind: Kind
    source: str
    statement: str
    latex: str
    assumptions: tuple[str, ...]
    depends_on: tuple[str, ...]
    method: str
    tolerance: str
    control: str
    expected: Verdict
    check: str | None = None
    falsify: str | None = None
    tier: str = "fast"
    extra: str | None = None
    reason: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Counterexample:
    """Numbers that violate a statement, and the function that recomputes by how much.

    Attributes
    ----------
    name : str
        File name below ``paper_checks/counterexamples`` without suffix.
    statement : str
        The false statement, and in words why the numbers break it.
    replay : str
        ``paper_checks.module:function``; called with ``**data`` it returns the violation as a float.
    data : mapping
        JSON values: the numbers.
    margin : float
        What the violation must exceed, far above rounding.
    """

    name: str
    statement: str
    replay: str
    data: Mapping[str, Any]
    margin: float


@dataclass(frozen=True)
class Evidence:
    """What one check found.

    Attributes
    ----------
    verdict : Verdict
    method : str
        "symbolic", "LP duality", "interval arithmetic", "exact rationals", "search", "statistics", "replay", ...
    summary : str
        One line with the decisive numbers.
    covers : str
        What exactly the verdict speaks about, where that is less than the statement.
    numbers : mapping
        JSON scalars by name.
    margin : float or None
        Distance between what was found and where the verdict would change.
    budget : mapping
        Evaluations, instances, starts: counts, never seconds.
    seed : int or None
    certificates : sequence of mappings
        For `deva_theory.recheck`; needed for PROVED and CERTIFIED.
    counterexample : Counterexample or None
        Needed for REFUTED (the runner sees to it, except in a control).
    steps : sequence of str
        Lines that ``explain`` prints.
    figure : str or None
        Path below the project's root.
    """

    verdict: Verdict
    method: str
    summary: str
    covers: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    margin: float | None = None
    budget: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    certificates: Sequence[Mapping[str, Any]] = ()
    counterexample: Counterexample | None = None
    steps: Sequence[str] = ()
    figure: str | None = None

    def __post_init__(self) -> None:
        if self.verdict.recheckable and not self.certificates:
            raise ValueError(f"{self.verdict} needs a certificate that can be re-checked; return SUPPORTED without one")


@dataclass(frozen=True)
class Run:
    """How a check is run.

    Attributes
    ----------
    twin : bool
        Check the negative control, the deliberately altered statement, by the same code.
    full : bool
        The full tier's budgets.
    seed : int
        0 in `verify`; `falsify` counts it up.
    """

    twin: bool = False
    full: bool = False
    seed: int = 0

    def count(self, fast: int, full: int) -> int:
        """Return the tier's budget: a number of evaluations, instances or starts."""
        return full if self.full else fast

    def generator(self, stream: int = 0) -> torch.Generator:
        """Return a torch generator that depends on the seed and a stream number only."""
        import torch

        return torch.Generator().manual_seed(1_000_003 * self.seed + stream)

    def rng(self, stream: int = 0) -> np.random.Generator:
        """Return a NumPy generator that depends on the seed and a stream number only."""
        import numpy as np

        return np.random.default_rng([self.seed, stream])
