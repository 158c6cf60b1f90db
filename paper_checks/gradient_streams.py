"""Streams of gradients to run a rule on; shared by the findings A1 to A3, no claims of its own.

A constant signal plus noise (`stationary`), and the gradients of a small language model (`language_gradients`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from deva_theory.claims.model import Run
from deva_theory.rules import Rule, adam


def directions(rule: Rule, gradients: Sequence[Tensor] | Tensor) -> Tensor:
    """Return the directions of a rule along a stream, stacked."""
    state, found = rule.init(gradients[0]), []
    for G in gradients:
        direction, state, _ = rule.update(G, state)
        found.append(direction)
    return torch.stack(found)


def stationary(
    run: Run, stream: int, shape: tuple[int, ...], *, steps: int, noise: Sequence[float] = (1.0,), seeds: int = 4
) -> Tensor:
    """Return a constant normal signal plus `noise` times as much noise, ``(steps, noises, seeds, *shape)``."""
    generator = run.generator(stream)
    signal = torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)
    noises = torch.randn(steps, 1, seeds, *shape, generator=generator, dtype=torch.float64)
    return signal + torch.tensor(noise, dtype=torch.float64).view(-1, 1, *[1] * len(shape)) * noises


@lru_cache
def language_gradients(steps: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of both layers of a character-level network along its training by Adam, float64.

    The text is the Zen of Python; 6 characters of context, embedded at random in 8 dimensions, 24 hidden units.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    text = "".join(this.d.get(c, c) for c in this.s)
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    context, width, hidden = 6, 8, 24
    embedding = normal(len(letters), width)
    layers = [normal(hidden, context * width) / math.sqrt(context * width), normal(len(letters), hidden) / math.sqrt(hidden)]
    rule = adam()
    states, gradients = [rule.init(W.flatten()) for W in layers], []
    for _ in range(steps):
        at = torch.randint(0, len(ids) - context, (batch,), generator=generator)
        x = embedding[ids[at[:, None] + torch.arange(context)]].flatten(1)
        leaves = [W.clone().requires_grad_() for W in layers]
        loss = torch.nn.functional.cross_entropy(torch.tanh(x @ leaves[0].mT) @ leaves[1].mT, ids[at + context])
        gradients.append(torch.autograd.grad(loss, leaves))
        for i, G in enumerate(gradients[-1]):
            D, states[i], _ = rule.update(G.flatten(), states[i])
            layers[i] = layers[i] - 3e-3 * D.view_as(G)
    return torch.stack([g[0] for g in gradients]), torch.stack([g[1] for g in gradients])


def networks(run: Run, seeds: int) -> Iterator[Tensor]:
    """Yield the gradient streams of both layers for several batch sizes and seeds."""
    for batch, seed in itertools.product((4, 256, 32)[: run.count(2, 3)], range(seeds)):
        yield from language_gradients(run.count(160, 300), batch, run.seed + seed)
