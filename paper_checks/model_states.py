"""States of real models for the claims about them: gradients of training, exact block Hessians, Γ and ρ of rules; no claims of its own.

The models are the tiny ones of :mod:`deva_theory.problems.zoo` (under 1500 parameters), so that the Hessian of every tensor is written out
and no estimate stands between a claim and the curvature.  The loss is the mean over 256 training examples (all 178 wines), 128 windows of 8
tokens for the language models: with few examples the noise of their own gradient decides ρ late in training.  A *run* is a model and a
seed, which decides initial parameters, probe data and mini-batches; training is the zoo's own, AdamW.  Stage 0 is the initialisation, where
the rules have seen 20 mini-batch gradients at the same parameters; at stage t they have seen the t gradients of training, and the
curvature is taken where the last of these was taken.

The statements were found on seeds 0 and 1.  What is counted here are other seeds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from deva_theory.certify.missing import optional
from deva_theory.claims.model import Run
from deva_theory.rules import Rule, adam, deva_linf, deva_spectral
from deva_theory.runtime.threads import one_thread
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.balls import Ball, Box, SpectralBall
from deva_theory.smoothness.estimators.operator_norms import operator_norm
from deva_theory.smoothness.estimators.programs import run as run_program
from deva_theory.smoothness.ratios.directions import directions_of, gradients_of
from deva_theory.smoothness.ratios.ratio import adapted_program, gamma_sums, realised_ratio, smoothness_limits, worst_case_ratio

MODELS = ("logistic", "mlp", "cnn", "vit", "lstm", "gpt", "gpt-tied")
LANGUAGE = ("lstm", "gpt", "gpt-tied")
QUICK = ("logistic", "mlp")
"""Models of the fast tier; the runs of the full tier contain its runs."""

STAGES = (0, 20, 200)
WARM = 20
"""Gradients that the rules see before anything is measured; the largest weights of an average come with its first steps."""

SEEDS = (2, 3)

LINF = {
    "linf": deva_linf(), "linf snr": adam(), "linf instantaneous": deva_linf(variant="instantaneous"),
    "linf reference": deva_linf(preset="reference"),
}
SPECTRAL = {
    "spectral": deva_spectral(polar="svd"), "spectral snr": deva_spectral(variant="snr", polar="svd"),
    "spectral reference": deva_spectral(preset="reference", polar="svd"),
}
"""The rules whose Γ is compared, by geometry; with the corrected preset the variant snr of the ℓ∞ rule is Adam."""

_PAIRS: dict[str, tuple[Rule, Rule]] = {name: (rule, rule) for name, rule in LINF.items()} | {
    name: (LINF["linf"], rule) for name, rule in SPECTRAL.items()
}


@dataclass(frozen=True)
class Seen:
    """One rule on one tensor at one stage.

    Attributes
    ----------
    model, seed, stage, block, size, rule
    geometry : str
        "linf" or "spectral"; the second for weight matrices only.
    matrix : bool
        Whether the tensor is a weight matrix, for which both geometries are at hand.
    largest, above : float
        Of Γ: its largest entry, the share of entries above 1.
    plain, weighted, ratio : (float, float)
        Intervals of L, L_Γ and of the worst-case ρ of Γ applied to the exact gradient.
    realised : float
        The realised ρ of the same step (NaN, infinite and negative values as in ``RealisedStep.ratio``).
    signed, absolute : float
        ``Σ H_ij γ_i γ_j`` and ``Σ |H_ij| γ_i γ_j``, H in the coordinates of Γ.
    """

    model: str
    seed: int
    stage: int
    block: str
    size: int
    rule: str
    geometry: str
    matrix: bool
    largest: float
    above: float
    plain: tuple[float, float]
    weighted: tuple[float, float]
    ratio: tuple[float, float]
    realised: float
    signed: float
    absolute: float


@dataclass(frozen=True)
class Curvature:
    """The Hessian of one tensor at one stage.

    Attributes
    ----------
    trace, entries : float
        tr H, Σ|H_ij|.
    lowest, highest : float
        Extreme eigenvalues.
    box : (float, float)
        Witness and dual bound of L_∞.
    """

    model: str
    seed: int
    stage: int
    block: str
    size: int
    trace: float
    entries: float
    lowest: float
    highest: float
    box: tuple[float, float]


def runs(run: Run) -> list[tuple[str, int]]:
    """Return the runs of a tier, (model, seed)."""
    return [(model, seed) for model in (MODELS if run.full else QUICK) for seed in SEEDS[: run.count(1, len(SEEDS))]]


@cache
@one_thread()
def trained(
    model: str, seed: int, steps: int = max(STAGES), *, frozen: bool = False
) -> tuple[list[dict[str, Tensor]], dict[int, nn.Module], Any]:
    """Return the gradients of a run, copies of the model where those of the stages were taken, and the problem.

    With `frozen` the parameters do not move.
    """
    optional("sklearn", "zoo", "the models' data")
    from deva_theory.problems.zoo import load

    examples = 178 if model == "logistic" else 128 if model in LANGUAGE else 256
    problem = load(model, size="tiny", seed=seed, dtype=torch.float64, batches=1, batch_size=examples)
    gradients: list[dict[str, Tensor]] = []
    copies: dict[int, nn.Module] = {}

    def after(step: int, moved: nn.Module) -> None:
        gradients.append(gradients_of(moved))
        if step + 1 in STAGES:
            copies[step + 1] = copy.deepcopy(moved)

    still = (lambda parameters: torch.optim.SGD(parameters, lr=0.0)) if frozen else None
    problem.train(steps, seed=seed, optimizer=still, callback=after)
    return gradients, copies, problem


def state(model: str, seed: int, stage: int) -> tuple[CurvatureOperator, list[dict[str, Tensor]]]:
    """Return the operator of a stage's loss, a block for each tensor, and the gradients that the rules have seen."""
    gradients, copies, problem = trained(model, seed, WARM, frozen=True) if stage == 0 else trained(model, seed)
    return CurvatureOperator(copies[stage or WARM], problem.loss, list(problem.batches)), gradients[: stage or WARM]


def dense(operator: CurvatureOperator, name: str) -> Tensor:
    """Return the Hessian of a block."""
    block = next(b for b in operator.blocks if b.name == name)
    H = operator.product(block, torch.eye(block.size, dtype=torch.float64))
    return 0.5 * (H + H.mT)


@cache
@one_thread()
def measured(model: str, seed: int, stage: int) -> tuple[tuple[Seen, ...], tuple[Curvature, ...]]:
    """Return what all rules look like at a stage, and the Hessians' numbers."""
    operator, stream = state(model, seed, stage)
    gradient = operator.gradient()
    moves = directions_of(operator.parameters, _PAIRS, stream, gradient)
    seen, curvatures = [], []
    for block in operator.blocks:
        name, tensor = block.name, gradient[block.name]
        H = dense(operator, name)

        def apply(V: Tensor, H: Tensor = H) -> Tensor:
            return V @ H

        matrix = moves["spectral", name].geometry == "spectral"
        balls: dict[str, Ball] = {"linf": Box(block.size)}
        if matrix:
            balls["spectral"] = SpectralBall(*tensor.shape)
        plain = {norm: run_program(operator_norm(ball, norm=norm), apply) for norm, ball in balls.items()}
        for rule in _PAIRS:
            move = moves[rule, name]
            norm = move.geometry
            if rule in SPECTRAL and norm != "spectral":
                continue  # a vector: the ℓ∞ rule again
            gamma, weights = move.diagnostics.variance_adaptation, {name: move.weights(1.0)}
            step = run_program(
                realised_ratio(tensor.flatten(), {rule: move.adapted.flatten()}, move.reference.flatten()), apply
            )[rule]
            adapted = run_program(adapted_program(block, weights, norm=norm, ball=balls[norm]), apply)
            worst = worst_case_ratio(
                adapted, plain[norm], progress=step.progress, reference_progress=step.reference_progress,
                limits=smoothness_limits(gamma, norm=norm),
            )
            sums = run_program(gamma_sums(block, weights, dense=block.size), apply)
            assert adapted.quadratic and plain[norm].quadratic and sums.absolute is not None
            seen.append(Seen(
                model, seed, stage, name, block.size, rule, norm, matrix, gamma.max().item(), share_above(gamma),
                ends(plain[norm].quadratic), ends(adapted.quadratic), (worst.lower, worst.upper), step.ratio, sums.signed, sums.absolute,
            ))
        spectrum = torch.linalg.eigvalsh(H)
        curvatures.append(Curvature(
            model, seed, stage, name, block.size, H.trace().item(), H.abs().sum().item(), spectrum[0].item(), spectrum[-1].item(),
            ends(plain["linf"].quadratic),
        ))
    return tuple(seen), tuple(curvatures)


def ends(bounds: Any) -> tuple[float, float]:
    """Return an interval's ends."""
    return bounds.lower, bounds.upper


def share_above(gamma: Tensor) -> float:
    """Return the share of entries above 1 by more than rounding."""
    return (gamma > 1.0 + 1e-12).double().mean().item()


def seen_at(run: Run, stages: Sequence[int] = STAGES) -> list[Seen]:
    """Return everything that a tier's runs show at some stages."""
    return [row for model, seed in runs(run) for stage in stages for row in measured(model, seed, stage)[0]]


def curvatures_at(run: Run, stages: Sequence[int] = STAGES) -> list[Curvature]:
    """Return the Hessians' numbers of a tier's runs."""
    return [row for model, seed in runs(run) for stage in stages for row in measured(model, seed, stage)[1]]


def over_runs(rows: Iterable[Seen], value: Callable[[Seen], bool | float]) -> tuple[float, float, float]:
    """Return mean and 95% t interval over the runs of a run's mean of `value`.

    The tensors of a run are not independent of each other, runs are; that some share their model makes the interval wider, not narrower.
    """
    by_run: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        by_run.setdefault((row.model, row.seed), []).append(float(value(row)))
    return t_interval([float(np.mean(values)) for values in by_run.values()])


def t_interval(means: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95% t interval of shares."""
    x = np.array(means)
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.inf
    mean = float(x.mean())
    # Shares: what lies outside says nothing.
    return mean, max(0.0, mean - half), min(1.0, mean + half)
