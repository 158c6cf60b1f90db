"""Update rules compared at one state of one model: their Γ, and the effective smoothness ratio of their steps (SPEC S7).

Every rule sees the same stream of gradients; at the present parameters each then has a direction d and, where it adapts, a Γ.  Three
ratios answer three questions:

* *realised*: dᵀHd of the actual direction, momentum included, against the reference of its geometry;
* *realised, Γ alone*: the same for ``Γ ⊙ sign g``, resp. ``Q_L(Γ ⊙ msign(Q_LᵀGQ_R))Q_Rᵀ``: only the adaptation differs from the reference;
* *worst case*: interval of ``[L_Γ/<g,D>²]/[L/‖g‖_*²]``, for either D.

The reference of a parameter is its rule with Γ ≡ 1 and the exact gradient: sign g where the scale-invariant term is a sign, msign G where
it is a polar factor, g itself for gradient descent; times the rule's shape factor, which decides how the parameters of one block weigh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deva_theory.rules import Rule
from deva_theory.smoothness.curvature.blocks import Block, make_blocks
from deva_theory.smoothness.curvature.objective import Loss, ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.balls import Ball, Box, ProductBall, SpectralBall
from deva_theory.smoothness.estimators.estimate import NOISE, Estimate
from deva_theory.smoothness.estimators.operator_norms import operator_norm
from deva_theory.smoothness.estimators.programs import NotFinite, Program, run_together
from deva_theory.smoothness.ratios.comparison_result import RuleComparison, RuleRow, gamma_statistics
from deva_theory.smoothness.ratios.directions import (
    Gradients,
    Move,
    Pair,
    checked_stream,
    constant_gamma,
    default_rules,
    directions_of,
    rule_pair,
)
from deva_theory.smoothness.ratios.ratio import (
    GammaSums,
    RealisedStep,
    WorstCaseRatio,
    adapted_program,
    gamma_sums,
    ratio_of_smoothness,
    realised_ratio,
    smoothness_limits,
    worst_case_ratio,
)
from deva_theory.smoothness.weighting import Weights

LAST = ("full", "stream")


def compare_rules(
    model: nn.Module,
    loss: Loss | nn.Module | None,
    batches: Any,
    rules: Mapping[str, Rule | Pair] | None = None,
    *,
    gradients: Sequence[Gradients] | int = 20,
    last: str = "full",
    blocks: str | Mapping[str, str] | Sequence[Block] = "tensor",
    select: str | None = None,
    whole: bool = True,
    worst_case: bool | Sequence[str] = True,
    sums: bool = True,
    curvature: str = "hessian",
    estimator: Mapping[str, Any] | None = None,
    **options: Any,
) -> RuleComparison:
    """Compare update rules at the model's present parameters.

    Parameters
    ----------
    model, loss, batches
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`; H and g are those of the mean over all batches.
    rules : mapping, optional
        Name to a rule, or to a pair (rule of vectors, rule of matrices); default :func:`default_rules`.  The matrix rule takes the
        parameters that :class:`~deva_theory.optim.DeVA` gives to its S∞ rule (two dimensions, no side of 1), the other one the rest,
        flattened.
    gradients : sequence of mappings, or int
        What the rules have seen: gradients by parameter name, as recorded along a training trajectory (:func:`gradients_of`), oldest first.
        An integer: so many gradients of the batches, in turn, at the present parameters.
    last : {"full", "stream"}
        The gradient of the step that is judged: that of all batches, appended to the stream; or the stream's own last one.
    blocks, select
        See :func:`~deva_theory.smoothness.curvature.blocks.make_blocks`; blocks of whole tensors.
    whole : bool
        Also the whole model as one block, "model".
    worst_case : bool or sequence of str
        Enclose the worst-case ratio of these rules; True: of those whose name begins with "DeVA".  Not of the whole model.
    sums : bool
        Also :class:`~deva_theory.smoothness.ratios.ratio.GammaSums`.
    estimator : mapping, optional
        Options of :func:`~deva_theory.smoothness.estimators.operator_norms.operator_norm`.
    curvature, **options
        Of :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`.

    Returns
    -------
    RuleComparison

    Raises
    ------
    ProbeError
        Unusable model, loss, data or stream (a parameter without a gradient, another shape, NaN), an unknown option.

    Notes
    -----
    SPEC S7.  Indefinite Hessians make references without curvature frequent (NaN, with a note); ``curvature="gauss_newton"`` has none.  The
    worst case takes the polar factor to be exact: 5-step Newton-Schulz leaves the unit ball by up to a fifth.  The whole model's Hessian
    couples its blocks: its ratio is no average of theirs.
    """
    if last not in LAST:
        raise ProbeError(f"last is {last!r}; use one of {', '.join(LAST)}")
    pairs = {name: rule_pair(name, rule) for name, rule in (default_rules() if rules is None else rules).items()}
    if isinstance(worst_case, bool):
        enclosed = {name for name in pairs if worst_case and name.startswith("DeVA")}
    else:
        enclosed = set(worst_case)
        if not enclosed <= set(pairs):
            raise ProbeError(f"worst_case names {sorted(enclosed - set(pairs))[0]!r}, which is none of the rules: {', '.join(pairs)}")
    made = make_blocks(model, blocks, select=select)
    sliced = next((piece.parameter for block in made for piece in block.pieces if piece.index), None)
    if sliced is not None:
        raise ProbeError(f"a block holds a slice of {sliced!r}; rules act on whole tensors: use blocks of whole tensors")
    if whole and len(made) > 1 and all(block.name != "model" for block in made):
        made += make_blocks(model, [replace(make_blocks(model, "model")[0], depth=len(made))])
    operator = CurvatureOperator(model, loss, batches, blocks=made, curvature=curvature, **options)
    gradient = operator.gradient()
    stream = checked_stream(operator, gradients, model, loss, options)
    if last == "full":
        stream.append(gradient)
    if not stream:
        raise ProbeError("last is 'stream' and there are no gradients; give at least one, or last='full'")
    moves = directions_of(operator.parameters, pairs, stream, gradient)
    task = _Task(operator, {name: [moves[name, p] for p in operator.parameters] for name in pairs}, gradient, dict(estimator or {}))
    rows = task.rows(enclosed, sums)
    settings = {
        "gradients": len(stream), "last": last, "curvature": curvature, "batches": len(operator.all_batches), "rules": list(pairs),
        "worst_case": sorted(enclosed),
    }
    return RuleComparison(tuple(rows), operator.loss_value, settings, {"gradients": operator.gradients, "products": operator.products})


class _Task:
    """All programs of a comparison, so that every round of products is one sweep over the data."""

    def __init__(
        self, operator: CurvatureOperator, moves: Mapping[str, Sequence[Move]], gradient: Gradients, estimator: dict[str, Any]
    ) -> None:
        self.operator = operator
        self.gradient = gradient
        self.estimator = {"device": operator.device, "noise": NOISE.get(operator.precision, 1e-2), **estimator}
        self.moves = {name: {move.name: move for move in own} for name, own in moves.items()}
        self._programs: dict[tuple, Program[Any]] = {}
        self._block_of: dict[tuple, Block] = {}

    def _of(self, rule: str, block: Block) -> list[Move]:
        return [self.moves[rule][parameter] for parameter in block.parameters]

    def _ask(self, key: tuple, block: Block, program: Program[Any]) -> None:
        self._programs[key] = program
        self._block_of[key] = block

    def _flat(self, block: Block, tensors: Mapping[str, Tensor]) -> Tensor:
        return block.gather(dict(tensors)).double()

    def rows(self, enclosed: set[str], sums: bool) -> list[RuleRow]:
        """Run everything and return the rows, block by block."""
        flat = {block.name: self._flat(block, self.gradient) for block in self.operator.blocks}
        for block in self.operator.blocks:
            directions, references = {}, {}
            for rule in self.moves:
                own = self._of(rule, block)
                reference = self._flat(block, {m.name: m.reference for m in own})
                for kind in ("direction", "adapted"):
                    directions[f"{kind} {rule}"] = self._flat(block, {m.name: getattr(m, kind) for m in own})
                    references[f"{kind} {rule}"] = reference
            self._ask(("realised", block.name), block, realised_ratio(flat[block.name], directions, references))
            for rule in self.moves:
                self._ask_about_gamma(rule, block, rule in enclosed and block.name != "model", sums)
        try:
            results = run_together(
                self._programs, lambda requests: self.operator.sweep({k: (self._block_of[k], V) for k, V in requests.items()})
            )
        except NotFinite as error:
            raise ProbeError(str(error)) from error
        return [
            self._row(rule, block, flat[block.name], results, rule in enclosed and block.name != "model")
            for block in self.operator.blocks
            for rule in self.moves
        ]

    def _ask_about_gamma(self, rule: str, block: Block, enclose: bool, sums: bool) -> None:
        own = self._of(rule, block)
        if all(m.rule.adaptation is None for m in own) or any(m.diagnostics.skipped for m in own):
            return
        key, weights, _ = self._weighting(block, own)
        if sums and ("sums", *key) not in self._programs:
            self._ask(("sums", *key), block, gamma_sums(block, {m.name: m.weights(1.0) for m in own}))
        if not enclose or constant_gamma(own) is not None or any(m.geometry == "l2" for m in own):
            return
        norm, ball, unit = self._ball(block, own)
        if ("plain", *unit) not in self._programs:
            scales = {m.name: torch.full_like(m.reference, s) for m, s in zip(own, unit[-1], strict=True)}
            if all(s == 1.0 for s in unit[-1]):
                program = operator_norm(ball, norm=norm, **self.estimator)
            else:
                program = adapted_program(block, scales, norm=norm, ball=ball, **self.estimator)
            self._ask(("plain", *unit), block, program)
        if ("adapted", *key) not in self._programs:
            self._ask(("adapted", *key), block, adapted_program(block, weights, norm=norm, ball=ball, **self.estimator))

    def _weighting(self, block: Block, own: Sequence[Move]) -> tuple[tuple, dict[str, Weights], list[float]]:
        """Return a key that rules with the same Γ share, the weights, and the shape factors relative to the largest."""
        largest = max(m.scale for m in own) or 1.0
        scales = [m.scale / largest for m in own]
        return (block.name, *(m.rule for m in own)), {m.name: m.weights(s) for m, s in zip(own, scales, strict=True)}, scales

    def _ball(self, block: Block, own: Sequence[Move]) -> tuple[str, Ball, tuple]:
        """Return norm, ball and key of the unit ball of the scale-invariant terms, with its shape factors."""
        balls: list[Ball] = [
            SpectralBall(*m.reference.shape) if m.geometry == "spectral" else Box(m.reference.numel()) for m in own
        ]
        kinds = tuple(m.geometry for m in own)
        norm = "spectral" if "spectral" in kinds else "linf"
        return norm, balls[0] if len(balls) == 1 else ProductBall(balls), (block.name, kinds, tuple(self._weighting(block, own)[2]))

    def _row(self, rule: str, block: Block, g: Tensor, results: Mapping[tuple, Any], enclose: bool) -> RuleRow:
        own = self._of(rule, block)
        kinds = dict.fromkeys(m.geometry for m in own)
        steps: dict[str, RealisedStep] = results["realised", block.name]
        step, alone = steps[f"direction {rule}"], steps[f"adapted {rule}"]
        skipped = any(m.diagnostics.skipped for m in own)
        adapts = any(m.rule.adaptation is not None for m in own) and not skipped
        key = self._weighting(block, own)[0]
        plotted: GammaSums | None = results.get(("sums", *key)) if adapts else None
        worst = worst_alone = None
        if enclose and not skipped and "l2" not in kinds:
            worst, worst_alone = (self._worst(own, block, key, results, s) for s in (step, alone))
        notes = tuple(dict.fromkeys(n for n in (
            step.note, "the first update only builds bases: give it two gradients" if skipped else "", worst.note if worst else "",
        ) if n))
        statistics = gamma_statistics(torch.cat([m.diagnostics.variance_adaptation.flatten() for m in own])) if adapts else None
        return RuleRow(
            block.name, block.size, block.depth, rule, " and ".join(dict.fromkeys(m.rule.name for m in own)), " and ".join(kinds),
            torch.linalg.vector_norm(g).item(), step, alone, statistics, worst, worst_alone, plotted, notes,
        )

    def _worst(
        self, own: Sequence[Move], block: Block, key: tuple, results: Mapping[tuple, Any], step: RealisedStep
    ) -> WorstCaseRatio:
        # Both progresses carry the shape factors; L carries their ratios to the largest one.  The quotients agree.
        constant = constant_gamma(own)
        if constant is not None:
            return ratio_of_smoothness((constant**2, constant**2), progress=step.progress, reference_progress=step.reference_progress)
        adapted: Estimate = results["adapted", *key]
        plain: Estimate = results["plain", *self._ball(block, own)[2]]
        limits = [
            smoothness_limits(m.diagnostics.variance_adaptation, norm=m.geometry)
            if m.geometry == "spectral" or m.diagnostics.basis is None else (0.0, float("inf"))
            for m in own
        ]
        return worst_case_ratio(
            adapted, plain, progress=step.progress, reference_progress=step.reference_progress,
            limits=(min(low for low, _ in limits), max(high for _, high in limits)),
        )
