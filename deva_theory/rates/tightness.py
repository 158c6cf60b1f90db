r"""R6: how close an instance can come to a bound, by search over the instances of a family.

An instance is a point of a few numbers: curvatures, start, factors or noise.  Many random starts are one batch of
`deva_theory.rates.runner.measure`, perturbed and kept where the ratio observed/bound grows (`deva_theory.certify.search`).  What is
found is a lower bound on the supremum, never the supremum.

With noise the left side is a mean over seeds, and the largest of many noisy means is too large.  The ratio that is returned is therefore
measured once more, with new noise, together with its standard error.

Without noise R2 and R3 are R1 in their norm, and attained: `noise_share` keeps the search among instances whose noise term is at least
that part of the bound.

`deva_theory.rates.needed` asks the other way round: does an instance exceed the bound with one of its terms left out?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deva_theory.certify import SearchProblem, search
from deva_theory.problems.families import DiagonalQuadratic, Gaussian, NonConvexWells, Oracle, Problem, SparseSpikes, TraceProblem
from deva_theory.problems.quadratic import TraceQuadratic
from deva_theory.rates.coverage import STATEMENTS, FixedFactors, UpdateRule
from deva_theory.rates.runner import Measurement, measure
from deva_theory.rates.statement import AssumptionError
from deva_theory.rules import muon, sign_sgd

FAMILIES = ("quadratic", "wells", "trace")
NOISES = ("none", "gaussian", "signs", "against")
FORMS = {"R1": ("measured",), "R2": ("measured",), "R3": ("pathwise", "measured"), "R5": ("a_priori", "sharp", "corrected")}
"""Statement to the forms of its bound that hold for expectations, see `deva_theory.rates.runner`; the first is the default."""
DIMENSION = 2
"""Coordinates of "quadratic" and "wells"; rows and columns of "trace"."""
SEARCHES: dict[str, dict[str, Any]] = {
    "R1": {"statement": "R1"},
    "R1 wells": {"statement": "R1", "family": "wells"},
    "R2": {"statement": "R2", "noise": "gaussian"},
    "R2 noisy": {"statement": "R2", "noise": "gaussian", "noise_share": 0.5},
    "R2 noisy, signs": {"statement": "R2", "family": "wells", "noise": "signs", "noise_share": 0.5},
    "R3": {"statement": "R3", "family": "trace", "scales": tuple(2 ** (k / 2) for k in range(-6, 3))},
    "R2 noisy, against": {"statement": "R2", "noise": "against", "noise_share": 0.5},
    "R3 noisy": {"statement": "R3", "family": "trace", "noise": "gaussian", "noise_share": 0.5},
    "R3 noisy, against": {"statement": "R3", "family": "trace", "noise": "against", "noise_share": 0.5},
    "R5": {"statement": "R5", "noise": "gaussian"},
    "R5 noisy, signs": {"statement": "R5", "family": "wells", "noise": "signs", "noise_share": 0.5},
    "R5 sharp": {"statement": "R5", "form": "sharp", "noise": "gaussian"},
    "R5 sharp, signs": {"statement": "R5", "form": "sharp", "family": "wells", "noise": "signs"},
}
"""Name to arguments of `worst_case`; "noisy": at least half of the bound is its noise term."""
_SPARE = 0.05
"""Relative excess of the noise's share that the search demands, and what it may fall short of it by with new noise."""
_LEAST, _SMALLEST = 1e-12, 1e-200
"""Of Δ over L‖x_0‖_∞², which every other start on a quadratic exceeds by far, and of Δ."""
_RANGE = 4.0
"""Logarithms stay within [-4, 4]: a factor of at most 3000 between the largest and the smallest curvature, factor or deviation."""


@dataclass(frozen=True)
class WorstCase:
    """The instance that came closest to a bound.

    Attributes
    ----------
    statement, form, family, noise : str
        What was searched.
    steps : int
        T.
    scale : float
        Multiple of the statement's own η.
    ratio : float
        Observed over bound, with noise other than the search's; 0 where no instance had (within 5%) the demanded noise.
    error : float
        Standard error of `ratio`; 0 without noise.
    left, bound : float
        The two sides.
    noise_share : float
        Noise term over bound.
    instance : dict of str to list of float
        The parameters.
    evaluations : int
        Instances tried, over all T.
    seed : int
        All depends on it and the arguments alone.
    """

    statement: str
    form: str
    family: str
    noise: str
    steps: int
    scale: float
    ratio: float
    error: float
    left: float
    bound: float
    noise_share: float
    instance: dict[str, list[float]]
    evaluations: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line."""
        spread = f" ± {self.error:.2g}" if self.error else ""
        bound = "bound" if self.form == FORMS[self.statement][0] else f"{self.form} bound"
        return f"{self.statement}, {self.family}, noise {self.noise}: {self.ratio:.4f}{spread} of the {bound} at T = {self.steps}"


@dataclass(frozen=True, eq=False)
class Against(Oracle):
    r"""With probability ½ just enough against the gradient to turn it, else the exact gradient: what R2 and R3 allow, and R5 does not.

    The error in ∂_i f is ``-min(1.001|∂_i f|, √2 σ_i/√B) sign(∂_i f)``, so that its second moment is at most σ_i²/B; in a matrix the
    singular values take the place of the entries.  It has a bias, and is no mean of B samples: R2 and R3 ask for neither.  Where σ allows
    it, a coordinate stands still on average.

    Attributes
    ----------
    deviation : Tensor, shape broadcastable to ``(*batch, *event)``
        σ > 0; one number for each matrix.
    batch : int
        B, the only one of which it can be asked.
    """

    deviation: Tensor
    batch: int

    @property
    def sigma(self) -> Tensor:
        """σ."""
        return self.deviation

    def _error(self, gradient: Tensor, event_ndim: int) -> Tensor:
        most = math.sqrt(2 / self.batch) * self.deviation
        if event_ndim == 1:
            return -(1.001 * gradient.abs()).minimum(most) * gradient.sign()
        U, values, Vh = torch.linalg.svd(gradient, full_matrices=False)
        return -(U * (1.001 * values).minimum(most[..., 0]).unsqueeze(-2)) @ Vh

    def variance(self, problem: Problem, x: Tensor) -> Tensor:
        """Return B times the second moment of the error at x, shape ``(..., *event)``."""
        return self.batch * self._error(problem.gradient(x), problem.event_ndim).square() / 2

    def _sample(self, problem: Problem, x: Tensor, batch: int, generator: torch.Generator, gradient: Tensor | None) -> Tensor:
        if batch != self.batch:
            raise ValueError(f"the error was made for B = {self.batch}, not {batch}")
        gradient = problem.gradient(x) if gradient is None else gradient
        coins = gradient.shape if problem.event_ndim == 1 else (*gradient.shape[:-2], 1, 1)
        turned = torch.rand(coins, generator=generator, dtype=torch.float64) < 0.5
        return gradient + turned * self._error(gradient, problem.event_ndim)


@dataclass(frozen=True)
class _Instances:
    """Instances by columns of a batch of points."""

    statement: str
    family: str
    noise: str

    @property
    def layout(self) -> dict[str, int]:
        """Name of a parameter to how many numbers it has."""
        d = DIMENSION
        start = d * d if self.family == "trace" else d
        layout = {"log curvature": d, "start": start}
        # A factor common to all coordinates is a step size of the instance's own.  R5's γ_max is one number for a rule, so it has none.
        if self.statement in ("R1", "R2"):
            layout["log factors"] = d
        if self.noise != "none":
            layout["log deviation"] = 1 if self.family == "trace" else d
        return layout

    def split(self, points: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name, from points of shape ``(B, numbers)``."""
        return dict(zip(self.layout, points.split(list(self.layout.values()), -1), strict=True))

    def admissible(self, points: Tensor) -> Tensor:
        """Return the points with their logarithms in range."""
        parts = [x.clamp(-_RANGE, _RANGE) if name.startswith("log") else x for name, x in self.split(points).items()]
        return torch.cat(parts, -1)

    def build(self, points: Tensor, T: int) -> tuple[Problem, UpdateRule, Oracle | None, Tensor]:
        """Return the batch of problems, the rule, the oracle for mini-batches of T and the starts ``(B, *event)``."""
        part = self.split(points)
        curvature, start = part["log curvature"].exp(), part["start"]
        problem: Problem
        if self.family == "trace":
            # Rotations of the rows change neither side: H is diagonal.
            problem = TraceProblem(TraceQuadratic(torch.diag_embed(curvature)), DIMENSION)
            start = start.reshape(-1, DIMENSION, DIMENSION)
        else:
            problem = DiagonalQuadratic(curvature) if self.family == "quadratic" else NonConvexWells(curvature)
        rule: UpdateRule = sign_sgd()
        if self.statement == "R3":
            rule = muon(beta1=0.0, nesterov=False, polar="svd", shape="none")
        elif "log factors" in part:
            rule = FixedFactors(part["log factors"].exp())
        oracle: Oracle | None = None
        if self.noise != "none":
            deviation = part["log deviation"].exp()
            deviation = deviation.unsqueeze(-1) if self.family == "trace" else deviation
            if self.noise == "against":
                oracle = Against(deviation, T)
            else:
                oracle = Gaussian(deviation) if self.noise == "gaussian" else SparseSpikes(deviation, 1.0)
        return problem, rule, oracle, start

    def measurable(self, problem: Problem, start: Tensor) -> Tensor:
        """Return where the statement has a step size, and one that rounding leaves alone, shape ``(B,)``.

        R1's and R3's η is made from Δ, and is none at a minimum; next to one of the wells' far minima it is lost in the digits of x.
        """
        if self.statement not in ("R1", "R3"):
            return torch.ones(len(start), dtype=torch.bool)
        L = problem.constants.box if problem.constants.spectral is None else problem.constants.spectral
        size = start.abs().flatten(1).amax(1)
        return problem.value(start) - problem.constants.optimum > (_LEAST * L * size.square()).clamp_min(_SMALLEST)


def worst_case(
    statement: str, family: str = "quadratic", *, noise: str = "none", form: str | None = None, steps: Sequence[int] = (1, 2, 4, 8),
    scales: Sequence[float] = (1.0,), starts: int = 24, rounds: int = 40, seeds: int = 32, final_seeds: int = 4096,
    noise_share: float = 0.0, weights: Mapping[str, float] | None = None, seed: int = 0,
) -> WorstCase:
    r"""Search for the instance whose observed average is the largest part of its bound.

    Parameters
    ----------
    statement : {"R1", "R2", "R3", "R5"}
        With the statement's own T, η (and β), see `deva_theory.rates.runner.measure`.  R1 and R2 take fixed factors Γ, part of the
        instance; R3 and R5 take Γ ≡ 1.
    family : {"quadratic", "wells", "trace"}
        Diagonal quadratics, separable cosine wells, matrix quadratics; the last for R3 only.
    noise : {"none", "gaussian", "signs", "against"}
        "signs": every sample is off by exactly ±σ_i; "against": see `Against`.  R2 and R5 need noise, R1 takes none, R5 none with a bias.
    form : str, optional
        Of the bound, one of `FORMS`; R5's default is the one as stated, with all constants known beforehand.
    steps : sequence of int
        T, one search for each.
    scales : sequence of float
        Multiples of the statement's η, all tried on each instance.
    starts, rounds : int
        Size of the search: about ``starts · rounds`` instances for each T.
    seeds, final_seeds : int
        Runs whose mean stands for the expectation, in the search and for the result.
    noise_share : float
        Least part of the bound that its noise term must be, in [0, 1).
    weights : mapping, optional
        Multiplies terms of the bound: a negative control.
    seed : int
        Of the starts and of the noise.

    Returns
    -------
    WorstCase

    Raises
    ------
    ValueError
        An unknown name, a family or a form that the statement does not have, an empty budget.
    deva_theory.rates.statement.AssumptionError
        Noise that the statement excludes or needs; η ≤ 0; T < 1.
    """
    form = form or FORMS.get(statement, ("",))[0]
    _check(statement, family, noise, form, noise_share)
    if not steps or min(starts, rounds, seeds) < 1 or final_seeds < 2:
        raise ValueError("give at least one T, start, round and seed, and two final seeds")
    instances = _Instances(statement, family, noise)
    single = noise == "none"

    def ratios(points: Tensor, T: int, runs: int, stream: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return left, its standard error, bound and noise term, each of shape (scales, B)."""
        problem, rule, oracle, start = instances.build(points, T)
        good = instances.measurable(problem, start)
        start = torch.where(good.reshape(-1, *(1,) * (start.ndim - 1)), start, 1.0)
        count = 1 if single else runs
        found = measure(
            problem, rule, statement=statement, steps=[T], seeds=count, oracle=oracle, scales=scales, seed=stream,
            start=start.expand(count, *start.shape),
        )
        left, error, bound, noisy = _sides(found, form, weights)
        # Not a number: the search takes such a point for worse than all others.
        return left.where(good, torch.nan), error, bound, noisy

    # R3's noise term is a mean over seeds: what the search takes for enough must be so for other seeds, too.
    demanded = noise_share * (1 + _SPARE)

    def value(points: Tensor, T: int) -> Tensor:
        left, _, bound, noisy = ratios(points, T, seeds, seed)
        share = noisy / bound
        # Below every ratio, and growing towards the instances that count.
        return torch.where(share >= demanded, left / bound, share - demanded - 1.0).amax(0)

    best: WorstCase | None = None
    evaluations = 0
    width = sum(instances.layout.values())
    for T in steps:
        problem = SearchProblem(
            (width,), partial(value, T=T), project=instances.admissible, differentiable=False,
            start=lambda generator, count: torch.randn(count, width, generator=generator, dtype=torch.float64),
        )
        found = search(problem, starts=starts, steps=rounds, seed=seed)
        evaluations += found.evaluations
        left, error, bound, noisy = (x[:, 0] for x in ratios(found.x.unsqueeze(0), T, final_seeds, seed + 1))
        counted = torch.where((noisy / bound >= noise_share * (1 - _SPARE)) & left.isfinite(), left / bound, 0.0)
        k = int(counted.argmax())
        if best is None or float(counted[k]) > best.ratio:
            parameters = {name: x[0].tolist() for name, x in instances.split(found.x.unsqueeze(0)).items()}
            best = WorstCase(
                statement, form, family, noise, T, float(scales[k]), float(counted[k]), float(error[k] / bound[k]), float(left[k]),
                float(bound[k]), float(noisy[k] / bound[k]), parameters, 0, seed,
            )
    assert best is not None
    return WorstCase(**{**best.to_dict(), "evaluations": evaluations})


def _sides(found: Measurement, form: str, weights: Mapping[str, float] | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return means over seeds at the only T: left, its standard error, bound, noise term; R3's noise term is a mean of norms, not a σ."""
    left = found.left[0]
    count = left.shape[1]
    error = left.std(1) / math.sqrt(count) if count > 1 else torch.zeros_like(left[:, 0])
    noisy = found.bounds[form].terms.get("noise")
    share = torch.zeros_like(left) if noisy is None else (weights or {}).get("noise", 1.0) * noisy[0].expand(left.shape)
    return left.mean(1), error, found.right(form, weights)[0].mean(1), share.mean(1)


def _check(statement: str, family: str, noise: str, form: str, noise_share: float) -> None:
    if statement not in STATEMENTS:
        raise ValueError(f"unknown statement {statement!r}: use one of {', '.join(STATEMENTS)}")
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: use one of {', '.join(FAMILIES)}")
    if noise not in NOISES:
        raise ValueError(f"unknown noise {noise!r}: use one of {', '.join(NOISES)}")
    if form not in FORMS[statement]:
        raise ValueError(f"{statement} has no form {form!r} for expectations: use one of {', '.join(FORMS[statement])}")
    if (statement == "R3") != (family == "trace"):
        raise ValueError(f"{statement} does not speak of the family {family!r}: R3 is about matrices, R1, R2 and R5 are about vectors")
    if noise != "none" and statement == "R1":
        raise AssumptionError("R1 assumes exact gradients; use noise='none', or R2")
    if noise == "none" and statement in ("R2", "R5"):
        raise AssumptionError(f"{statement} assumes a stochastic gradient of known variance; use noise='gaussian', or R1")
    if noise == "against" and statement == "R5":
        raise AssumptionError("R5 assumes an unbiased stochastic gradient; use noise='gaussian' or 'signs'")
    if not 0 <= noise_share < 1 or (noise == "none" and noise_share > 0):
        raise ValueError(f"noise_share is {noise_share}; use a number in [0, 1), and 0 without noise")
