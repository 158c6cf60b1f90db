"""Directions of update rules at one state of a model: the same stream of gradients for every rule, the optimizer's own routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deva_theory.geometry import Geometry, LInf, Spectral
from deva_theory.optim import DeVA
from deva_theory.rules import Diagnostics, Identity, Polar, Rule, adam, deva_linf, deva_spectral, gradient_descent, muon, sign_sgd, soap
from deva_theory.rules.deva import VARIANTS
from deva_theory.smoothness.curvature.objective import Batch, ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.weighting import Weights

Pair = tuple[Rule, Rule]
Gradients = Mapping[str, Tensor]


def default_rules(*, polar: str = "svd") -> dict[str, Pair]:
    """Return the table of rules: name to (rule of vectors, rule of matrices).

    Rules of the ℓ∞ geometry have β = (.9, .999), matrix rules (.95, .95), as DeVA's defaults; the partners of a matrix rule on vectors and
    convolutions are SignSGD (Muon), Adam (SOAP) and DeVA ℓ∞ (DeVA S∞, in the same variant).  `polar` is the polar factor.
    """
    signum, textbook = sign_sgd(beta1=0.9), adam()
    table: dict[str, Pair] = {
        "GD": (gradient_descent(), gradient_descent()),
        "SignSGD": (signum, signum),
        "Muon": (signum, muon(polar=polar)),
        "Adam": (textbook, textbook),
        "SOAP": (textbook, soap()),
        "DeVA linf": (deva_linf(), deva_linf()),
    }
    for variant in VARIANTS:
        name = "DeVA Sinf" if variant == "full" else f"DeVA Sinf {variant}"
        table[name] = (deva_linf(variant=variant), deva_spectral(variant=variant, polar=polar))
    return table


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients that `backward` left on a model, by name: one entry of :func:`compare_rules`'s stream."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def rule_pair(name: str, rule: object) -> Pair:
    """Return (rule of vectors, rule of matrices) of an entry of the table; a :class:`ProbeError` names an unusable one."""
    pair = (rule, rule) if isinstance(rule, Rule) else rule
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(r, Rule) for r in pair)):
        raise ProbeError(f"rule {name!r} is {rule!r}; give a deva_theory.rules.Rule, or a pair of them (for vectors, for matrices)")
    if pair[0].event_ndim != 1:
        raise ProbeError(f"rule {name!r} acts on matrices only; give a pair (rule for vectors, rule for matrices)")
    return pair


def checked_stream(
    operator: CurvatureOperator, gradients: Sequence[Gradients] | int, model: nn.Module, loss: Any, options: Mapping[str, Any]
) -> list[dict[str, Tensor]]:
    """Return the checked stream as parameter-shaped tensors of the operator's parameters."""
    if isinstance(gradients, int):
        if gradients < 0:
            raise ProbeError(f"gradients is {gradients}; give a count, or a sequence of gradients")
        batches: list[Batch] = operator.all_batches[:gradients]
        kept = {k: v for k, v in options.items() if k not in ("weights", "keep_graph")}
        each = [
            CurvatureOperator(model, loss, [batch], blocks=list(operator.blocks), keep_graph=False, **kept).gradient() for batch in batches
        ]
        return [each[k % len(each)] for k in range(gradients)]
    stream = []
    for t, entry in enumerate(gradients):
        checked = {}
        for name, p in operator.parameters.items():
            g = entry.get(name)
            if g is None or g.shape != p.shape:
                found = "no gradient" if g is None else f"a gradient of shape {tuple(g.shape)}"
                raise ProbeError(f"gradient {t} of the stream has {found} for {name!r}, shape {tuple(p.shape)}")
            if not bool(torch.isfinite(g).all()):
                raise ProbeError(f"gradient {t} of the stream has NaN or infinite entries for {name!r}; drop it")
            checked[name] = g.detach()
        stream.append(checked)
    return stream


class Move(NamedTuple):
    """One rule's step of one parameter; all tensors have the parameter's shape, those of `diagnostics` the event's."""

    name: str
    rule: Rule
    geometry: str
    direction: Tensor
    diagnostics: Diagnostics
    adapted: Tensor  # Γ applied to the exact gradient's scale-invariant term
    reference: Tensor

    @property
    def scale(self) -> float:
        """The scalar in front of the direction."""
        scale = self.diagnostics.scale
        return scale.item() if isinstance(scale, Tensor) else float(scale)

    def weights(self, factor: float) -> Weights:
        """Return ``factor · Γ`` as a weighting of the parameter."""
        gamma = factor * self.diagnostics.variance_adaptation
        if self.diagnostics.basis is None:
            return gamma.reshape(self.direction.shape)
        return replace(self.diagnostics, variance_adaptation=gamma)


def directions_of(
    parameters: Mapping[str, nn.Parameter], pairs: Mapping[str, Pair], stream: Sequence[Gradients], gradient: Gradients
) -> dict[tuple[str, str], Move]:
    """Feed the stream to every rule, once for every rule and parameter that share it."""
    # The optimizer's own routing: it is built for that, and steps nothing.
    router = DeVA(list(parameters.items()), lr=0.0)
    matrix = {name: router.rule_for(p, router.param_groups[0]).event_ndim == 2 for name, p in parameters.items()}
    done: dict[tuple[Rule, str], Move] = {}
    result = {}
    for label, pair in pairs.items():
        for name, p in parameters.items():
            rule = pair[matrix[name]]
            if (rule, name) not in done:
                done[rule, name] = _move(rule, name, p, [entry[name] for entry in stream], gradient[name])
            result[label, name] = done[rule, name]
    return result


def _move(rule: Rule, name: str, p: Tensor, stream: Sequence[Tensor], gradient: Tensor) -> Move:
    event = p.shape if rule.event_ndim == 2 else torch.Size([p.numel()])
    state = rule.init(gradient.reshape(event))
    diagnostics = None
    direction = torch.zeros_like(gradient)
    for t, g in enumerate(stream):
        direction, state, diagnostics = rule.update(g.to(gradient).reshape(event), state, diagnostics=t == len(stream) - 1)
    assert diagnostics is not None
    G = gradient.reshape(event)
    geometry: Geometry | None
    if isinstance(rule.scale_invariant, Identity):
        kind, geometry = "l2", None
    elif isinstance(rule.scale_invariant, Polar):
        kind, geometry = "spectral", Spectral()
    else:
        kind, geometry = "linf", LInf(rule.event_ndim)
    reference = G if geometry is None else geometry.steepest(G)
    adapted = diagnostics.variance_adaptation * reference
    if diagnostics.basis is not None and not (kind == "spectral" and rule.adaptation is None):
        # (The polar factor commutes with rotations: without Γ the reference itself, to the last bit.)
        Q_L, Q_R = diagnostics.basis
        rotated = Q_L.mT @ G @ Q_R
        adapted = Q_L @ (diagnostics.variance_adaptation * (rotated if geometry is None else geometry.steepest(rotated))) @ Q_R.mT
    scale = diagnostics.scale
    return Move(
        name, rule, kind, direction.reshape(p.shape), diagnostics, (scale * adapted).reshape(p.shape), (scale * reference).reshape(p.shape)
    )


def constant_gamma(own: Sequence[Move]) -> float | None:
    """Return c if Γ is c everywhere and the ball does not see the bases: then L_Γ = c² L without any estimate."""
    values = torch.cat([m.diagnostics.variance_adaptation.flatten() for m in own])
    if any(m.geometry == "linf" and m.diagnostics.basis is not None for m in own) or not bool((values == values[0]).all()):
        return None
    return values[0].item()
