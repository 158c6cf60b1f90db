"""What a probe would cost, from one batch: numbers of products, seconds and bytes, before anything long begins.

The number of products is known from the programs: at most so many, and typically as many as on networks of the zoo.
Seconds are measured on some blocks: one gradient, products of one and of several vectors, and the estimators' own
arithmetic, rehearsed against a matrix that costs nothing.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from deva_theory.smoothness.curvature.objective import Loss, batch_size
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.probing import prepared, probe
from deva_theory.smoothness.request import Request
from deva_theory.smoothness.timing import ProductTimes, Rehearsals, timed

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
        As for :func:`~deva_theory.smoothness.probing.probe`; what does not bear on the cost is ignored.

    Returns
    -------
    Plan
        ``products[1]`` is an upper bound for sure; times are estimates, good to a factor of about 3.

    Raises
    ------
    ProbeError
        What a probe of these arguments would raise before or at its first batch.
    TypeError
        An option that :func:`~deva_theory.smoothness.probing.probe` does not have.
    """
    bound = inspect.signature(probe).bind(model, loss, batches, **options)
    bound.apply_defaults()
    o = SimpleNamespace(**bound.arguments)
    model, data, _ = prepared(model, batches, blocks=o.blocks, max_batches=o.max_batches, device=o.device, dtype=o.dtype)
    operator = CurvatureOperator(
        model, loss, data[:1], blocks=o.blocks, select=o.select, curvature=o.curvature, eval_mode=o.eval_mode, memory=o.memory,
        keep_graph=True, vector_batch=o.vector_batch, group=o.group,
    )
    request = Request.checked(
        operator, norm=o.norm, tolerance=o.tolerance, failure=o.failure, stop=o.stop, max_products=o.max_products, effort=o.effort,
        seed=o.seed, gamma=o.gamma,
    )
    operator.gradient()
    # The first pass also loads kernels: the second one is timed.
    operator.release()
    gradient_seconds = timed(operator, operator.gradient)
    # The other batches cost as much as they are larger.
    scale = sum(batch_size(batch) for batch in data) / batch_size(data[0])
    keeps = o.keep_graph if o.keep_graph is not None else 2 * operator.graph_bytes * len(data) <= operator.memory
    passes = ProductTimes(operator, scale)
    entries = []
    for name in request.norms:
        arithmetic = Rehearsals(request, name)
        for block in operator.blocks:
            counts = request.products(name, block)
            seconds = [
                passes(block, count, request.rows_per_pass(name, block)) + arithmetic(block, count) for count in counts
            ]
            entries.append(BlockPlan(block.name, name, block.size, counts, (seconds[0], seconds[1])))
    groups = request.in_step(keeps)
    once = (scale + (_CHECK_GRADIENTS if o.check else 0)) * gradient_seconds
    total = [sum(entry.seconds[k] for entry in entries) + once for k in (0, 1)]
    if not keeps:
        # Blocks of a group share each pass over the data, and every pass builds the graphs again.
        for k in (0, 1):
            total[k] += scale * gradient_seconds * sum(
                max(
                    request.products(name, block)[k]
                    / request.rows_per_pass(name, block)
                    for block in members for name in request.norms
                )
                for members in groups
            )
    vectors = max(
        sum(request.vector_bytes(name, block) for block in members for name in request.norms) for members in groups
    )
    peak = operator.graph_bytes * (len(data) if keeps else 1) + vectors
    # A pass of several vectors holds the graph's tensors once per vector.
    peak += max(
        min(max(request.rows_per_pass(name, block) for name in request.norms), operator.vector_batch(block)) * operator.graph_bytes
        for block in operator.blocks
    )
    return Plan(
        tuple(entries), len(data), scale * gradient_seconds, {block.name: passes(block, 1, 1) for block in passes.measured}, keeps,
        operator.graph_bytes, operator.memory, int(peak), (total[0], total[1]),
    )


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
