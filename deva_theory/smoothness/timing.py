"""Times that a plan is made of: products of some blocks, and the estimators' own arithmetic on some sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.operator_norms import EFFORTS
from deva_theory.smoothness.estimators.programs import Program
from deva_theory.smoothness.request import Request

_MEASURED = 6
"""Blocks whose products are timed."""
_ROWS = (1, 8, 64)
"""Vectors per timed pass."""
_REHEARSAL = 0.3
"""Seconds at most that the rehearsal of one program takes."""


class ProductTimes:
    """Seconds of products over all data, from passes of some blocks over one batch; other blocks lie between their neighbours."""

    def __init__(self, operator: CurvatureOperator, scale: float) -> None:
        self._place = {block.name: k for k, block in enumerate(operator.blocks)}
        self._scale = scale
        self.measured = _spread(operator.blocks)
        # A pass of many vectors is timed only if memory lets it be one pass.
        limit = min(operator.vector_batch(block) for block in self.measured)
        self._rows = [rows for rows in _ROWS if rows <= max(limit, 1)]
        generator = torch.Generator().manual_seed(0)
        table = []
        for block in self.measured:
            seconds = []
            for rows in self._rows:
                V = torch.randn(rows, block.size, generator=generator).to(operator.device, torch.float64)
                # The shorter of two: the first pass may load kernels.
                seconds.append(min(timed(operator, partial(operator.product, block, V)) for _ in range(2)))
            table.append(seconds)
        self._table = np.array(table)

    def __call__(self, block: Block, count: int, rows: int) -> float:
        """Seconds of `count` products in passes of `rows`."""
        place = self._place[block.name]
        at = [self._place[b.name] for b in self.measured]
        seconds = [float(np.interp(place, at, column)) for column in self._table.T]
        rows = min(rows, count)
        if rows <= self._rows[-1]:
            each = float(np.interp(rows, self._rows, seconds))
        else:  # larger passes are as efficient as the largest that was timed
            each = seconds[-1] * rows / self._rows[-1]
        return self._scale * each * count / rows


class Rehearsals:
    """Seconds of a program's own arithmetic, from running it on a few sizes against a matrix that is cheap to apply."""

    def __init__(self, request: Request, norm: str) -> None:
        self._quadratic = norm.removeprefix("gamma-") == "l2"
        self._dense = EFFORTS[request.effort].dense
        blocks, operator = request.operator.blocks, request.operator
        self._found: dict[bool, list[tuple[int, int, float]]] = {}
        for small in (True, False):
            members = sorted((b for b in blocks if (b.size <= self._dense) == small), key=lambda b: b.size)
            chosen = dict.fromkeys((members[0].size, members[len(members) // 2].size, members[-1].size)) if members else {}
            by_size = {b.size: b for b in members}
            self._found[small] = [(size, *_rehearse(request.program(norm, by_size[size]), by_size[size], operator)) for size in chosen]

    def __call__(self, block: Block, count: int) -> float:
        """Seconds of the arithmetic around `count` products."""
        found = self._found[block.size <= self._dense]
        sizes = [math.log(size) for size, _, _ in found]
        values = []
        for _, served, seconds in found:
            share = count / served
            # Each step of Lanczos costs as much as it has predecessors.
            values.append(seconds * (share**2 if self._quadratic and share > 1 else share))
        return float(np.interp(math.log(block.size), sizes, values))


def _rehearse(program: Program[Any], block: Block, operator: CurvatureOperator) -> tuple[int, float]:
    """Return (vectors served, seconds between requests) of a program that runs to its end, or until time is up."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(4, block.size, generator=generator).to(operator.device, torch.float64) / math.sqrt(block.size)
    bulk = 0.01 * torch.randn(block.size, generator=generator).to(few)

    def apply(V: Tensor) -> Tensor:
        # Few large eigenvalues over a small indefinite bulk, like a network's Hessian.
        return (V.to(few) * bulk + (V.to(few) @ few.T) @ few).to(V)

    served, spent = 0, 0.0
    began = time.perf_counter()
    try:
        V = next(program)
        while True:
            spent += time.perf_counter() - began
            answer = apply(V)
            served += len(V)
            if spent > _REHEARSAL:
                break
            began = time.perf_counter()
            V = program.send(answer)
    except StopIteration:
        spent += time.perf_counter() - began
    finally:
        program.close()
    return max(served, 1), spent


def _spread(blocks: Sequence[Block]) -> list[Block]:
    """Return the largest, a median and some evenly spaced blocks, in the order of the model."""
    by_size = sorted(range(len(blocks)), key=lambda k: blocks[k].size)
    chosen = {by_size[-1], by_size[len(blocks) // 2]}
    chosen |= {round(x) for x in np.linspace(0, len(blocks) - 1, _MEASURED - 2)}
    return [blocks[k] for k in sorted(chosen)]


def timed(operator: CurvatureOperator, work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes, the device's queue included."""
    def settle() -> None:
        if operator.device.type == "cuda":
            torch.cuda.synchronize(operator.device)

    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began
