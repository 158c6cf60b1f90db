"""Gradients of a weighted mean loss with their graphs, batch by batch; the graphs are kept as long as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from deva_theory.smoothness.curvature.backward import REENTRANT, explained
from deva_theory.smoothness.curvature.kernels import SpareBuffers, differentiable_once, probing, reentrant
from deva_theory.smoothness.curvature.memory import GraphBytes, available_bytes, is_out_of_memory
from deva_theory.smoothness.curvature.objective import Batch, Objective, ProbeError, as_batches, batch_weights, moved


@dataclass
class Graph:
    """One batch's gradient with its graph; for Gauss-Newton the outputs and the two maps J and ∇²ℓ instead."""

    loss: Tensor
    parameters: dict[str, nn.Parameter]
    gradient: dict[str, Tensor | None]
    outputs: Tensor | None = None
    cotangent: Tensor | None = None  # u in u ↦ Jᵀu
    output_gradient: Tensor | None = None
    output_leaf: Tensor | None = None


class BatchGraphs:
    """The gradients of an objective on batches, with their graphs.

    Parameters
    ----------
    objective : Objective
    parameters : mapping
        What is differentiated by, by name.
    batches, weights, eval_mode, keep_graph, memory, group
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`.
    curvature : {"hessian", "gauss_newton"}
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Mapping[str, nn.Parameter],
        batches: Any,
        *,
        curvature: str,
        weights: Callable[[Batch], float] | Sequence[float] | None,
        eval_mode: bool,
        keep_graph: bool | None,
        memory: int | None,
        group: Any,
    ) -> None:
        self.objective, self.model = objective, objective.model
        self.curvature = curvature
        self.parameters = dict(parameters)
        first = next(iter(self.parameters.values()))
        self.device, self.dtype = first.device, first.dtype
        self.precision = max((p.dtype for p in self.parameters.values()), key=_rounding)
        self.group = group if group is not None or not _distributed() else torch.distributed.group.WORLD
        everything = as_batches(batches)
        all_weights = batch_weights(everything, weights)
        rank, world = 0, 1
        if self.group is not None:
            rank, world = torch.distributed.get_rank(self.group), torch.distributed.get_world_size(self.group)
        self.all_batches = everything
        self.batches, self.weights = everything[rank::world], all_weights[rank::world]
        self.total_weight = sum(all_weights)
        self.eval_mode = eval_mode
        free = torch.tensor(available_bytes(self.device) if memory is None else int(memory), device=self.device)
        if self.group is not None:
            torch.distributed.all_reduce(free, torch.distributed.ReduceOp.MIN, group=self.group)
        self.memory = int(free)
        self.buffers = SpareBuffers(self.model)
        self._keep = keep_graph
        self._kept: dict[int, Graph] = {}
        self._versions: list[Any] = []
        self.graph_bytes = 0
        self.loss_value = float("nan")
        self.keeps_graph = False
        self.gradients = 0

    def mode(self) -> AbstractContextManager[None]:
        """Return the context in which the model is run and differentiated.

        Also backward passes run in it: activation checkpointing runs parts of the model again there.
        """
        return probing(self.model, self.device, self.eval_mode, self.buffers)

    def gradient(self) -> dict[str, Tensor]:
        """Return the gradient of the weighted mean loss, by parameter name.

        Raises
        ------
        ProbeError
            The loss or the gradient is NaN or infinite.
        """
        with self.mode():
            total = {name: torch.zeros_like(p, dtype=_wide(p.dtype), requires_grad=False) for name, p in self.parameters.items()}
            value = torch.zeros((), dtype=torch.float64, device=self.device)
            for graph, weight in self._graphs():
                value += weight * graph.loss.to(value.dtype)
                _add(total, graph.gradient, weight)
                del graph  # before the next one is built
        self._reduce([value, *total.values()])
        kept = torch.tensor(int(len(self._kept) == len(self.batches)), device=self.device)
        if self.group is not None:
            # Ranks run in step only if they divide the work alike.
            torch.distributed.all_reduce(kept, torch.distributed.ReduceOp.MIN, group=self.group)
        self.keeps_graph = bool(kept)
        self.loss_value = value.item()
        if not all(bool(torch.isfinite(g).all()) for g in total.values()):
            bad = next(name for name, g in total.items() if not bool(torch.isfinite(g).all()))
            raise ProbeError(f"the gradient of {bad!r} has NaN or infinite entries at these parameters; nothing can be probed there")
        return total

    def release(self) -> None:
        """Drop the kept graphs."""
        self._kept = {}
        self.buffers.forget()

    def _graphs(self, names: tuple[str, ...] | None = None) -> Iterator[tuple[Graph, float]]:
        """Yield the graph and the normalised weight of each batch, within `mode`; rebuilt each time unless they are kept."""
        versions = [*(p._version for p in self.model.parameters()), *self.buffers.versions()]
        if versions != self._versions:
            # Parameters were changed; kept graphs are those of the old ones.
            self._kept, self._versions = {}, versions
        for position, (batch, weight) in enumerate(zip(self.batches, self.weights, strict=True)):
            # Asked for one by one: memory that runs out on the way drops those that are kept.
            graph = self._kept.get(position)
            if graph is None:
                graph = self._fitted(batch, position, names)
                if self._keep is None:
                    self._keep = 2 * self.graph_bytes * len(self.batches) <= self.memory
                if self._keep:
                    self._kept[position] = graph
            yield graph, weight / self.total_weight
            del graph

    def _fitted(self, batch: Batch, position: int, names: tuple[str, ...] | None) -> Graph:
        """Build a graph; if memory runs out, drop those that are kept and try once more."""
        try:
            return self._build(batch, position, names if self._keep is False else None)
        except ProbeError as error:
            if not self._kept or error.__cause__ is None or not is_out_of_memory(error.__cause__):
                raise
        # Only now: the exception held the graph that did not fit.
        self._drop()
        return self._build(batch, position, names)

    def _drop(self) -> None:
        """Drop the kept graphs and keep none from now on."""
        self._kept, self._keep = {}, False
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _build(self, batch: Batch, position: int, names: tuple[str, ...] | None) -> Graph:
        counter = GraphBytes()
        self.buffers.renew()
        try:
            with counter.counting():
                graph = self._differentiate(moved(batch, self.device), names)
        except ProbeError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise ProbeError(f"out of memory in the gradient of batch {position}: use smaller batches, or fewer blocks") from error
            raise explained(error) from error
        finally:
            if self.buffers.settle():
                # This batch wrote to buffers that others only read; their graphs hold what was overwritten.
                self._kept = {}
        if not self.gradients and differentiable_once(graph.gradient.values()):
            raise ProbeError("an autograd function of the model is differentiable once only; give it a double backward")
        self._untouched(graph)
        self.gradients += 1
        # A loss may be computed in less than the parameters' precision (transformers casts logits to float32).
        self.precision = max(self.precision, graph.loss.dtype, key=_rounding)
        self.graph_bytes = max(self.graph_bytes, counter.total)
        if not bool(torch.isfinite(graph.loss)):
            raise ProbeError(f"the loss is {graph.loss.item()} on batch {position}; nothing can be probed at these parameters")
        return graph

    def _untouched(self, graph: Graph) -> None:
        for (name, p), version in zip(self.model.named_parameters(), self._versions, strict=False):
            if p._version != version:
                raise ProbeError(f"the forward pass changes the parameter {name!r} in place; let it work on a copy, or a buffer")
        for name, g in graph.gradient.items():
            if g is not None and g.layout != torch.strided:
                raise ProbeError(f"the gradient of {name!r} is sparse, which has no second derivative here: set sparse=False")

    def _differentiate(self, batch: Batch, names: tuple[str, ...] | None) -> Graph:
        """Differentiate once, with a graph: by all probed parameters, or by those that this sweep is about."""
        parameters = self.parameters if names is None else {name: self.parameters[name] for name in names}
        inputs = list(parameters.values())
        if self.curvature == "hessian":
            loss = self.objective.value(batch)
            if not loss.requires_grad:
                raise ProbeError("the loss does not depend on the probed parameters (is it computed under no_grad, or detached?)")
            self._no_reentrance(loss)
            gradient = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
            return Graph(loss.detach(), parameters, dict(zip(parameters, gradient, strict=True)))
        outputs, targets = self.objective.outputs(batch)
        self._no_reentrance(outputs)
        leaf = outputs.detach().requires_grad_()
        loss = self.objective.criterion(leaf, targets)
        (output_gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        # The gradient itself, for `gradient()`, is Jᵀ∇ℓ; its graph in u gives J.
        cotangent = output_gradient.detach().clone().requires_grad_()
        gradient = torch.autograd.grad(outputs, inputs, cotangent, create_graph=True, allow_unused=True)
        return Graph(
            loss.detach(), parameters, dict(zip(parameters, gradient, strict=True)), outputs, cotangent, output_gradient, leaf
        )

    def _no_reentrance(self, result: Tensor) -> None:
        if not self.gradients and reentrant(result):
            raise ProbeError(REENTRANT)

    def _reduce(self, tensors: list[Tensor]) -> None:
        if self.group is not None:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor, group=self.group)


def _add(total: Mapping[str, Tensor], gradient: Mapping[str, Tensor | None], weight: float) -> None:
    for name, g in gradient.items():
        if g is not None:
            total[name] += weight * g.detach()


def _rounding(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
