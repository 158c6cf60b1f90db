"""Γ of DeVA's rules at a model's parameters, for the weighted norms of ``deva-theory probe``."""

import argparse
import copy
import dataclasses
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from deva_theory.cli.probe_subject import Subject
from deva_theory.rules import Diagnostics, Rule, deva_linf, deva_spectral
from deva_theory.smoothness.curvature.blocks import trainable
from deva_theory.smoothness.curvature.kernels import evaluation
from deva_theory.smoothness.curvature.objective import Objective, ProbeError, as_batches, moved

__all__ = ["prepare", "tensors_of_gamma"]

_LONGEST_SIDE = 8192
"""Longer matrices take the ℓ∞ rule, as in `deva_theory.optim.DeVA`."""

Gamma = dict[str, Diagnostics]


class _Recorder:
    """Feeds gradients to one rule per parameter and keeps the last diagnostics."""

    def __init__(self, model: nn.Module, rule: str) -> None:
        self._parameters = trainable(model)
        self._rules = {name: _rule(parameter, rule) for name, parameter in self._parameters.items()}
        self._states = {name: self._rules[name].init(self._event(name, p.detach())) for name, p in self._parameters.items()}
        self.gamma: Gamma = {}

    def _event(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self._rules[name].event_ndim == 2 else tensor.reshape(-1)

    def feed(self, gradients: dict[str, Tensor | None]) -> None:
        """Take one gradient per parameter; None counts as zero."""
        for name, parameter in self._parameters.items():
            gradient = gradients.get(name)
            gradient = torch.zeros_like(parameter) if gradient is None else gradient.detach()
            _, self._states[name], found = self._rules[name].update(self._event(name, gradient), self._states[name], diagnostics=True)
            assert found is not None
            if found.basis is None:
                found = dataclasses.replace(
                    found, variance_adaptation=found.variance_adaptation.reshape(parameter.shape),
                    scale_invariant=found.scale_invariant.reshape(parameter.shape),
                )
            self.gamma[name] = found


def prepare(found: Subject, options: argparse.Namespace, rule: str | None) -> Gamma | None:
    """Train a zoo model if that is asked for, and return Γ of `rule` after its warm-up (None: no Γ is needed).

    Γ comes from the last ``--warmup`` gradients of the training.  Without training they are taken at the given parameters: from
    the zoo's training mini-batches, or from the probe's own batches in turn.
    """
    if found.problem is not None and options.train:
        recorder = _Recorder(found.model, rule) if rule is not None else None
        first = options.train - options.warmup

        def record(step: int, model: nn.Module) -> None:
            if recorder is not None and step > first:
                recorder.feed({name: p.grad for name, p in model.named_parameters()})

        losses = found.problem.train(options.train, seed=options.seed, callback=record)
        found.remarks.append(f"{options.train} training steps, mini-batch loss {losses[0]:.4g} to {losses[-1]:.4g}")
        if recorder is None:
            return None
        found.remarks.append(f"Γ of {rule} after the last {min(options.warmup, options.train)} of them")
        return recorder.gamma
    if rule is None:
        return None
    recorder = _Recorder(found.model, rule)
    if found.problem is not None:
        # At rest: a step of length zero, on a copy whose running statistics may move.
        still = dataclasses.replace(found.problem, model=copy.deepcopy(found.model))
        still.train(
            options.warmup, seed=options.seed, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
            callback=lambda _, model: recorder.feed({name: p.grad for name, p in model.named_parameters()}),
        )
    else:
        found.batches = as_batches(found.batches, limit=options.max_batches)
        for gradients in islice(cycle(_gradients(found)), options.warmup):
            recorder.feed(gradients)
    found.remarks.append(f"Γ of {rule} after {options.warmup} gradients at these parameters")
    return recorder.gamma


def _gradients(found: Subject) -> list[dict[str, Tensor | None]]:
    """Gradients of each batch: the parameters do not move, so each is computed once."""
    parameters = trainable(found.model)
    device = next(iter(parameters.values())).device
    dtype = next(iter(parameters.values())).dtype
    objective = Objective(found.model, found.loss)
    made: list[dict[str, Tensor | None]] = []
    with evaluation(found.model):
        for batch in found.batches:
            try:
                loss = objective.value(moved(batch, device, dtype))
                values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            except RuntimeError as error:
                raise ProbeError(f"the gradient of a batch failed: {str(error).splitlines()[0]}") from error
            made.append(dict(zip(parameters, values, strict=True)))
    return made


def _rule(parameter: Tensor, rule: str) -> Rule:
    matrix = parameter.ndim == 2 and 2 <= min(parameter.shape) and max(parameter.shape) <= _LONGEST_SIDE
    return deva_spectral() if rule == "deva-spectral" and matrix else deva_linf()


def tensors_of_gamma(gamma: dict[str, Any] | None) -> list[Tensor]:
    """Return every tensor of Γ, in a fixed order: processes that computed it each for itself must agree on one."""
    if gamma is None:
        return []
    return [t for found in gamma.values() for t in (found.variance_adaptation, *(found.basis or ()))]
