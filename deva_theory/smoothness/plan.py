"""What a probe would cost, from one batch: numbers of products, seconds and bytes, before anything long begins.

The number of products is known from the programs: at most so many, and typically as many as on networks of the zoo.
Seconds are measured on some blocks: one gradient, products of one and of several vectors, and the estimators' own
arithmetic, rehearsed against a matrix that costs nothing.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import asdict, dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn

from deva_theory.smoothness.blocks import Block
from deva_theory.smoothness.objective import Loss, as_batches, batch_size
from deva_theory.smoothness.operator_norm import _STEPS, Effort
from deva_theory.smoothness.plan_timing import ProductTimes, Rehearsals, timed
from deva_theory.smoothness.probe import _SINGLE, COLUMNS, _grouped, _norms, _placed, _program, _tolerances, probe
from deva_theory.smoothness.products import CurvatureOperator
from deva_theory.smoothness.programs import Program

_CHECK_GRADIENTS = 12
"""Gradients of one batch that the self-checks cost, about."""

Range = tuple[float, float]
"""(typical, at most)."""


@dataclass(frozen=True)
class BlockPlan:
    """One block in one norm.

    Attributes
    ----------
    block, norm : str
    size : int
        Number of parameters.
    products : (int, int)
        Hessian-vector products over all data: typical, at most.
    seconds : (float, float)
        Estimated, without the passes over data that graphs which are not kept need.
    """

    block: str
    norm: str
    size: int
    products: tuple[int, int]
    seconds: Range


@dataclass(frozen=True)
class Plan:
    """The cost of a probe; pairs are (typical, at most).

    Attributes
    ----------
    entries : tuple of BlockPlan
    batches : int
    gradient_seconds : float
        Of all batches, once, measured on the first.
    product_seconds : dict
        Measured blocks: seconds of one product over all batches.
    keeps_graph : bool
        Whether the graphs of all batches fit in half the memory; if not, they are built again for every product.
    graph_bytes : int
        Of one batch.
    memory : int
        Bytes that may be used.
    peak_bytes : int
        Estimated: graphs, passes through them, and the vectors of the programs that run in step.
    seconds : (float, float)
        Estimated for the whole probe.
    """

    entries: tuple[BlockPlan, ...]
    batches: int
    gradient_seconds: float
    product_seconds: dict[str, float]
    keeps_graph: bool
    graph_bytes: int
    memory: int
    peak_bytes: int
    seconds: Range

    @property
    def products(self) -> tuple[int, int]:
        """Products of all blocks and norms."""
        return sum(entry.products[0] for entry in self.entries), sum(entry.products[1] for entry in self.entries)

    def summary(self) -> str:
        """Return the plan as text: a line per norm, then times and memory."""
        blocks = dict.fromkeys(entry.block for entry in self.entries)
        parameters = sum({entry.block: entry.size for entry in self.entries}.values())
        lines = [f"{len(blocks)} blocks of {parameters} parameters, {self.batches} batches; nothing was probed", ""]
        table = [("norm", "products: typical", "at most", "time: typical", "at most")]
        for norm in dict.fromkeys(entry.norm for entry in self.entries):
            own = [entry for entry in self.entries if entry.norm == norm]
            table.append((
                norm, str(sum(e.products[0] for e in own)), str(sum(e.products[1] for e in own)),
                _time(sum(e.seconds[0] for e in own)), _time(sum(e.seconds[1] for e in own)),
            ))
        widths = [max(len(line[k]) for line in table) for k in range(5)]
        for row in table:
            cells = (c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
            lines.append("  ".join(cells))
        slowest = max(self.product_seconds, key=lambda name: self.product_seconds[name])
        kept = "kept for all batches" if self.keeps_graph else "built again for every product: not all fit in half the memory"
        lines += [
            "",
            f"over all batches: one gradient {_time(self.gradient_seconds)}, one product up to "
            f"{_time(self.product_seconds[slowest])} ({slowest})",
            f"graphs: {_bytes(self.graph_bytes)} a batch, {kept}",
            f"about {_time(self.seconds[0])}, at most {_time(self.seconds[1])}; about {_bytes(self.peak_bytes)} of "
            f"{_bytes(self.memory)} memory",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        fields = {**asdict(self), "seconds": list(self.seconds), "products": list(self.products)}
        fields["entries"] = [{**asdict(e), "products": list(e.products), "seconds": list(e.seconds)} for e in self.entries]
        return fields


def plan(model: nn.Module, loss: Loss | nn.Module | None, batches: Any, **options: Any) -> Plan:
    """Estimate what a probe would cost.

    Parameters
    ----------
    model, loss, batches, **options
        As for :func:`~deva_theory.smoothness.probe.probe`; what does not bear on the cost is ignored.

    Returns
    -------
    Plan
        ``products[1]`` is an upper bound for sure; times are estimates, good to a factor of about 3.

    Raises
    ------
    ProbeError
        What a probe of these arguments would raise before or at its first batch.
    TypeError
        An option that :func:`~deva_theory.smoothness.probe.probe` does not have.
    """
    bound = inspect.signature(probe).bind(model, loss, batches, **options)
    bound.apply_defaults()
    o = SimpleNamespace(**bound.arguments)
    norms = _norms(o.norm, o.gamma)
    tolerances = _tolerances(norms, o.tolerance)
    data = as_batches(batches, limit=o.max_batches)
    model, data = _placed(model, data, o.device, o.dtype)
    operator = CurvatureOperator(
        model, loss, data[:1], blocks=o.blocks, select=o.select, curvature=o.curvature, eval_mode=o.eval_mode, memory=o.memory,
        keep_graph=True, vector_batch=o.vector_batch, group=o.group,
    )
    operator.gradient()
    # The first pass also loads kernels: the second one is timed.
    operator.release()
    gradient_seconds = timed(operator, operator.gradient)
    # The other batches cost as much as they are larger.
    scale = sum(batch_size(batch) for batch in data) / batch_size(data[0])
    keeps = o.keep_graph if o.keep_graph is not None else 2 * operator.graph_bytes * len(data) <= operator.memory
    settings = {"failure": o.failure, "stop": o.stop, "max_products": o.max_products, "seed": o.seed}

    def program(name: str, block: Block) -> Program[Any]:
        return _program(name, block, operator, o.gamma, tolerance=tolerances[name], **settings)

    passes = ProductTimes(operator, scale)
    entries = []
    for name in norms:
        arithmetic = Rehearsals(operator.blocks, partial(program, name), name, operator)
        for block in operator.blocks:
            counts = products(name, block, memory=operator.memory, max_products=o.max_products)
            seconds = [
                passes(block, count, rows_per_pass(name, block, memory=operator.memory)) + arithmetic(block, count) for count in counts
            ]
            entries.append(BlockPlan(block.name, name, block.size, counts, (seconds[0], seconds[1])))
    groups = _grouped(SimpleNamespace(blocks=operator.blocks, keeps_graph=keeps, memory=operator.memory))  # type: ignore[arg-type]
    once = (scale + (_CHECK_GRADIENTS if o.check else 0)) * gradient_seconds
    total = [sum(entry.seconds[k] for entry in entries) + once for k in (0, 1)]
    if not keeps:
        # Blocks of a group share each pass over the data, and every pass builds the graphs again.
        for k in (0, 1):
            total[k] += scale * gradient_seconds * sum(
                max(
                    products(name, block, memory=operator.memory, max_products=o.max_products)[k]
                    / rows_per_pass(name, block, memory=operator.memory)
                    for block in members for name in norms
                )
                for members in groups
            )
    vectors = max(
        sum(_vector_bytes(name, block, operator.memory, o.max_products) for block in members for name in norms) for members in groups
    )
    peak = operator.graph_bytes * (len(data) if keeps else 1) + vectors
    # A pass of several vectors holds the graph's tensors once per vector.
    peak += max(
        min(max(rows_per_pass(name, block, memory=operator.memory) for name in norms), operator._vector_batch(block)) * operator.graph_bytes
        for block in operator.blocks
    )
    return Plan(
        tuple(entries), len(data), scale * gradient_seconds, {block.name: passes(block, 1, 1) for block in passes.measured}, keeps,
        operator.graph_bytes, operator.memory, int(peak), (total[0], total[1]),
    )


def products(norm: str, block: Block, *, memory: int, max_products: int = 300) -> tuple[int, int]:
    """Return (typical, at most) numbers of products of one block: :attr:`Estimate.products` never exceeds the second.

    Parameters
    ----------
    norm : str
        With or without ``gamma-``.
    memory : int
        Bytes that the programs may use, as they are given to them.
    """
    d = block.size
    plain = norm.removeprefix("gamma-")
    room = _room(block, memory)
    if plain == "l2":
        most = min(max_products, room, d)
        return min(most, round(8 + 2.5 * math.log(d))), most
    if plain == "l11":
        most = min(d, max(7, min(max_products, COLUMNS)))
        return most, most
    effort = Effort()
    if d <= effort.dense:
        return d, d
    columns = _columns(block, memory)
    certificate = min(100, room, d)
    # Four starts, each at every step size, eight rounds.
    quadratic = 4 * len(_STEPS) * 8
    # On the zoo starts climb about six rounds and a certificate takes about forty steps; a second attempt is the exception.
    typical = columns * (effort.lifts + min(6, effort.ascents)) + min(40, certificate) + quadratic
    most = columns * (effort.lifts + effort.lifts // 2 + effort.ascents) + 2 * certificate + quadratic
    return min(typical, most), most


def rows_per_pass(norm: str, block: Block, *, memory: int) -> int:
    """Return how many vectors a program asks for at once, for the most part."""
    plain = norm.removeprefix("gamma-")
    if plain == "l2":
        return 1
    if plain == "l11":
        return min(8, block.size)
    if block.size <= Effort().dense:
        return block.size
    return _columns(block, memory)


def _room(block: Block, memory: int) -> int:
    return max(20, memory // (4 * block.size * _itemsize(block)))


def _columns(block: Block, memory: int) -> int:
    return int(max(2, min(8, memory // (40 * block.size * _itemsize(block)))))


def _itemsize(block: Block) -> int:
    return 8 if block.size <= _SINGLE else 4


def _vector_bytes(norm: str, block: Block, memory: int, max_products: int) -> int:
    """Bytes of the vectors that a program holds at its peak."""
    plain = norm.removeprefix("gamma-")
    typical, _ = products(norm, block, memory=memory, max_products=max_products)
    if plain == "l2":
        held = float(typical)
    elif plain == "l11":
        held = 0.25 * typical  # the pilot's vectors and products
    elif block.size <= Effort().dense:
        held = 3.0 * block.size
    else:
        held = max(5.0 * _columns(block, memory), 40.0)
    return int((held + 2 * rows_per_pass(norm, block, memory=memory)) * block.size * _itemsize(block))


def _time(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
