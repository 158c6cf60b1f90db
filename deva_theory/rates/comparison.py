r"""The table of known rates on one set of instances: what each guarantees there, and what runs do.

Every method of `deva_theory.rates.known.KNOWN_RATES` runs on the same instances from the same starts, at the step size of its own
statement, which only constants known beforehand enter, and with the same number of gradients: T exact ones, or N samples, be it T = √N
mini-batches of T or T = N single samples.

Left sides differ, so a bound by itself ranks nothing.  They meet in two norms:

* **‖∇f‖_1**, the largest.  Bounds on ‖∇f‖_2 and ‖∇f‖_* lose √d (`l1_from_l2`; d = mn for matrices, by ‖G‖_F ≤ ‖G‖_*).
* **‖∇f‖_2**, the smallest.  Every bound serves as it is (`l2_from_larger`).

A bound on ‖∇f‖_{1,Γ} is divided by the alignment κ (`conversion`), which is measured: the least over steps and seeds.  It is thus
known after the runs only, and for expectations it holds for these runs; a κ known beforehand does not exist (the ledger's R4-floor).
The same for Σ γ_i σ_i(Ĝ), with κ of ‖Ĝ‖_* and the noise's own norm added (`nuclear_conversion`).  A κ below `LEAST` is of the size of
rounding, and its bound counts as none, infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deva_theory.problems.families import Oracle, Problem
from deva_theory.rates import known, matrix_bounds, momentum_bounds
from deva_theory.rates.contestants import CONTESTANTS, SINGULAR, WEIGHTED, Contestant, Facts
from deva_theory.rates.conversion import aligned_conversion, conversion
from deva_theory.rates.loop import beyond, by_horizon, check_arguments, falling, rounding, run_grid, starting_gap
from deva_theory.rates.statement import AssumptionError, Bound
from deva_theory.rules import Diagnostics

_CONVERTED = {WEIGHTED, SINGULAR}
PROVED_WRONG = ("smoothness", "bounded below")
"""Assumptions whose failure is the problem's and not a method's: see `deva_theory.rates.watch`."""
LEAST = 1e-8
"""Of κ."""


class NormRecord:
    """Averages over a run of the gradient's norms and of the left sides; a `deva_theory.rates.loop.Recorder`.

    Attributes
    ----------
    sums : dict of str to Tensor, shape ``(T, scale, seed, *batch)``
        "l1", "l2", "square" (of ‖∇f‖_2), and for matrices "nuclear"; "weighted" or "singular" where that is the left side.
    alignment : Tensor, of that shape
        The least of the left side over ‖∇f‖_1, or ‖Ĝ‖_*, along the run; inf where all gradients are 0.
    """

    def __init__(self, event_ndim: int, left: str, matrices: bool, shape: tuple[int, ...]) -> None:
        self.event, self.left, self.matrices = tuple(range(-event_ndim, 0)), left, matrices
        names = ["l1", "l2", "square", *(["nuclear"] if matrices else []), *([left] if left in _CONVERTED else [])]
        self.sums = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
        self.alignment = torch.full(shape, math.inf, dtype=torch.float64)

    def add(self, x: Tensor, gradient: Tensor, seen: Tensor, direction: Tensor, details: Diagnostics) -> None:
        """Add one step; see `deva_theory.rates.loop.Recorder`."""
        k, event = len(x), self.event
        l2 = torch.linalg.vector_norm(gradient, dim=event).double()
        now = {"l1": gradient.abs().sum(event).double(), "l2": l2, "square": l2.square()}
        if self.matrices:
            now["nuclear"] = torch.linalg.svdvals(gradient).sum(-1).double()
        if self.left in _CONVERTED:
            weighted = self.left == WEIGHTED
            left = ((details.variance_adaptation * gradient.abs()) if weighted else (seen * direction)).sum(event).double()
            now[self.left] = left
            plain = now["l1"] if weighted else torch.linalg.svdvals(seen).sum(-1).double()
            ratio = torch.where(plain > 0, left / torch.where(plain > 0, plain, 1.0), math.inf)
            self.alignment[:k] = torch.minimum(self.alignment[:k], ratio)
        for name, value in now.items():
            self.sums[name][:k] += value

    def finish(self, horizons: Sequence[int]) -> None:
        """Divide by T."""
        T = torch.tensor(horizons, dtype=torch.float64).reshape(-1, *(1,) * (self.alignment.ndim - 1))
        self.sums = {name: x / T for name, x in self.sums.items()}


@dataclass(frozen=True)
class KnownRow:
    """One method at one number of gradients: bounds beside what was observed, means over seeds and instances.

    Attributes
    ----------
    method, known : str
        See `Contestant`.
    gradients, T, batch : int
        Exact gradients or samples in all; steps; samples in a step (1 for exact gradients).
    left : str
        The statement's left side.
    bound, observed, error : float
        In that; `error` is the standard error of `observed` over seeds, 0 for one seed.
    exceeded : int
        Instances with a run beyond the bound, with noise with an average over seeds beyond it (`deva_theory.rates.loop.beyond`: one
        seed tells nothing).
    alignment : float
        κ, least over steps, seeds and instances; nan where no conversion needs it.
    l1_bound, l1, l2_bound, l2 : float
        ‖∇f‖_1 and ‖∇f‖_2: the bound carried over to it, and the average observed; a bound that does not carry over is infinite.
    left_out : str
        Why there are no numbers: an assumption that fails here.
    """

    method: str
    known: str
    gradients: int
    T: int
    batch: int
    left: str
    bound: float = math.nan
    observed: float = math.nan
    error: float = math.nan
    exceeded: int = 0
    alignment: float = math.nan
    l1_bound: float = math.nan
    l1: float = math.nan
    l2_bound: float = math.nan
    l2: float = math.nan
    left_out: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


LEFT_SIDES = {row.name: row.left_side for row in known.KNOWN_RATES}


def compare_known(
    problem: Problem, *, gradients: Sequence[int], seeds: int = 10, oracle: Oracle | None = None, seed: int = 0,
    contestants: Sequence[Contestant] = CONTESTANTS,
) -> list[KnownRow]:
    r"""Run every known method on the instances of a problem and return bounds beside observations.

    Parameters
    ----------
    problem : Problem
        A batch of instances; methods for matrices take part if it has matrices with a known L_S.
    gradients : sequence of int
        Numbers of gradients; with an oracle squares, N = T², since mini-batches of T cost T² samples.
    seeds : int
        Starting points, the same for all methods, and noises.
    oracle : Oracle, optional
        The stochastic gradient; None: exact gradients.
    seed : int
        Of starts and noises.
    contestants : sequence of Contestant
        What takes part.

    Returns
    -------
    list of KnownRow
        By method, then by growing number of gradients.  A method whose assumption fails here, be it a run that left the domain, says so
        in `left_out`.  That a constant or the gradient of the problem is wrong is an error.

    Raises
    ------
    ValueError
        `gradients` that are no different whole numbers from 1, or with an oracle no squares; fewer than one seed.
    AssumptionError
        The start is outside the domain, or below f*; runs show that a constant or the gradient is wrong.
    """
    check_arguments(problem, None, oracle, seeds, seed)
    budgets = _budgets(gradients, oracle)
    start = problem.start(torch.Generator().manual_seed(seed), (seeds,))
    gap = starting_gap(problem, start, "every statement")
    first = problem.gradient(start).double().abs()
    has_matrices = problem.constants.spectral is not None
    rows = []
    for contestant in contestants:
        takes_part = contestant.exact if oracle is None else contestant.noisy
        if not takes_part or (contestant.matrices and not has_matrices):
            continue
        of_budget = [N if oracle is None or contestant.single else math.isqrt(N) for N in budgets]
        facts = Facts(problem, oracle, gap, first, tuple(of_budget))
        batches = [1 if contestant.single or oracle is None else T for T in of_budget]
        found = [
            KnownRow(contestant.method, contestant.known, N, T, B, LEFT_SIDES[contestant.known])
            for N, T, B in zip(budgets, of_budget, batches, strict=True)
        ]
        try:
            found = _rows(contestant, facts, start, found, batches, has_matrices, torch.Generator().manual_seed(seed + 1))
        except AssumptionError as error:
            if error.assumption in PROVED_WRONG:
                raise
            found = [replace(row, left_out=str(error)) for row in found]
        rows += found[::-1]
    return rows


def _budgets(gradients: Sequence[int], oracle: Oracle | None) -> list[int]:
    budgets = falling(gradients, "gradients")
    if budgets[-1] < 1:
        raise ValueError(f"gradients are {gradients!r}; use different whole numbers from 1")
    if oracle is not None and any(math.isqrt(N) ** 2 != N for N in budgets):
        raise ValueError(f"gradients are {gradients!r}; use squares such as 16, 64, 256: mini-batches of T cost T² samples")
    return budgets


def _rows(
    contestant: Contestant, facts: Facts, start: Tensor, rows: list[KnownRow], batches: list[int], matrices: bool,
    generator: torch.Generator,
) -> list[KnownRow]:
    problem, horizons, oracle = facts.problem, facts.horizons, facts.oracle
    rule = contestant.rule(problem.event_ndim)
    eta = contestant.step(facts, rule)
    bound = contestant.bound(facts, rule, eta)
    record = NormRecord(problem.event_ndim, contestant.left, matrices, (len(horizons), 1, *facts.gap.shape))
    watch = run_grid(
        problem, rule, start, record, horizons=horizons, eta=eta, oracle=oracle, batches=None if oracle is None else batches,
        beta=momentum_bounds.schedule(torch.tensor(horizons))[0] if contestant.momentum else None, generator=generator,
    )
    record.finish(horizons)
    sums = {name: x[:, 0] for name, x in record.sums.items()}
    if not all(bool(x.isfinite().all()) for x in sums.values()):
        raise AssumptionError(f"{contestant.known}: a run left the range of float64 on {problem.name}")
    right = bound.value.expand(len(horizons), 1, *facts.gap.shape)[:, 0]
    # The bound on the mean square is one on each start's; everything else is a bound on a mean.
    squared = contestant.left == "rms"
    left = sums["square"] if squared else sums[contestant.left]
    limit = right.square() if squared else right
    # Seeds are dimension 1; κ for each instance.
    kappa = record.alignment[:, 0].amin(1, keepdim=True)
    l1_bound, l2_bound = _carried_over(contestant, facts, replace(bound, value=right, terms={"all": right}), kappa)
    count = left.shape[1]
    share = by_horizon(rounding(torch.tensor(horizons), start.dtype), facts.gap)[:, 0]
    in_value, in_gradient = (x[:, 0] for x in watch.resolution())
    eta_T = (eta * facts.T).expand(len(horizons), 1, *facts.gap.shape)[:, 0]
    reach = in_value / eta_T + in_gradient
    high = limit + (2 * limit.sqrt() * reach if squared else reach)
    # Written so that a NaN counts.
    exceeded = beyond(left, high, share, 1) if oracle is not None else ~(left <= high * (1 + share)).all(1)

    def mean(x: Tensor, k: int) -> float:
        return float(x[k].mean())

    filled = []
    for k, row in enumerate(rows):
        size, seen = mean(limit, k), mean(left, k)
        over_seeds = left[k].reshape(count, -1).mean(-1)
        error = float(over_seeds.std()) / math.sqrt(count) if count > 1 else 0.0
        if squared:
            size, seen = math.sqrt(size), math.sqrt(seen)
            error = error / (2 * seen) if seen else 0.0
        filled.append(replace(
            row, bound=size, observed=seen, error=error, exceeded=int(exceeded[k].sum()),
            alignment=float(kappa[k].min()) if contestant.left in _CONVERTED else math.nan, l1_bound=mean(l1_bound, k),
            l1=mean(sums["l1"], k), l2_bound=mean(l2_bound, k), l2=mean(sums["l2"], k),
        ))  # fmt: skip
    return filled


def _carried_over(contestant: Contestant, facts: Facts, bound: Bound, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bound on ‖∇f‖_1 and that on ‖∇f‖_2, infinite where there is none."""
    size = bound.value
    d = math.prod(facts.problem.event_shape)
    if contestant.left in ("l2", "rms"):
        return known.l1_from_l2(bound, d).value, size
    if contestant.left in ("l1", "nuclear"):
        # R1, R2 and R5 with Γ ≡ 1 are about ‖∇f‖_1.
        bound = conversion(bound, 1.0) if bound.left == "l1_weighted" else bound
        smaller = known.l2_from_larger(bound)
        return (size if contestant.left == "l1" else known.l1_from_l2(smaller, d).value), smaller.value
    # κ = ∞: every gradient was 0.
    usable = kappa >= LEAST
    divisor = torch.where(usable, kappa, 1.0).clamp_max(1e300)
    if contestant.left == WEIGHTED:
        back = aligned_conversion(bound, divisor)
    else:
        noise = matrix_bounds.nuclear_noise(facts.sigma_2, facts.rank, batch=by_horizon(facts.horizons, facts.gap)[:, 0])
        back = matrix_bounds.nuclear_conversion(bound, divisor, noise)
    back = known.l2_from_larger(back) if contestant.left == SINGULAR else back
    l1 = back.value if contestant.left == WEIGHTED else known.l1_from_l2(back, d).value
    return torch.where(usable, l1, math.inf), torch.where(usable, back.value, math.inf)
