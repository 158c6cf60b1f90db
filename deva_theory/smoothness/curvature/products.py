r"""Hessian- and Gauss-Newton-vector products of a model's blocks.

The loss is ``f(x) = Σ_b w_b f_b(x) / Σ_b w_b`` over batches b.  For each batch the gradient is computed once with its
graph, and the graph is kept as long as memory allows.  A block's product ``H_bb v`` is then one backward pass through
the part of that graph between the block and its own gradient; several vectors go through it at once (vectorised
double backward).  All blocks share the forward and the first backward pass.

Gauss-Newton: with outputs z(x) and ``f = ℓ(z)``, ``G v = Jᵀ ∇²ℓ J v``.  ``J v`` comes from differentiating ``u ↦ Jᵀu``, so
that reverse mode suffices; forward-over-reverse is avoided everywhere (it is silently wrong for some layers).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from deva_theory.smoothness.curvature.backward import explained, vector_jacobian
from deva_theory.smoothness.curvature.blocks import Block, make_blocks, trainable
from deva_theory.smoothness.curvature.kernels import differentiable_once, evaluation, twice_differentiable
from deva_theory.smoothness.curvature.memory import GraphBytes, available_bytes, is_out_of_memory
from deva_theory.smoothness.curvature.objective import Batch, Loss, Objective, ProbeError, as_batches, batch_weights, moved

CURVATURES = ("hessian", "gauss_newton")
_MAX_VECTORS = 256

K = TypeVar("K", bound=Hashable)


@dataclass
class _Graph:
    """One batch's gradient with its graph; for Gauss-Newton the outputs and the two maps J and ∇²ℓ instead."""

    loss: Tensor
    parameters: dict[str, nn.Parameter]
    gradient: dict[str, Tensor | None]
    outputs: Tensor | None = None
    cotangent: Tensor | None = None  # u in u ↦ Jᵀu
    output_gradient: Tensor | None = None
    output_leaf: Tensor | None = None


class CurvatureOperator:
    """Products of blocks of the Hessian (or Gauss-Newton matrix) with vectors.

    Parameters
    ----------
    model : nn.Module
        Left as it is: modes, gradients, requires_grad and buffers are untouched.
    loss : callable, criterion or None
        See :class:`~deva_theory.smoothness.curvature.objective.Objective`; a mean over the batch.
    batches
        See :func:`~deva_theory.smoothness.curvature.objective.as_batches`.
    blocks : str, mapping or sequence of Block
        See :func:`~deva_theory.smoothness.curvature.blocks.make_blocks`.
    select : str, optional
        Regular expression that keeps some of the blocks.
    curvature : {"hessian", "gauss_newton"}
    weights : callable or sequence, optional
        Weights of the batches; default their sizes (the number of examples).  Give the number of predictions where
        the loss averages over another count, such as tokens that are not padding.
    eval_mode : bool
        Probe in evaluation mode.
    keep_graph : bool, optional
        Default: if the graphs of all batches fit in half the memory.
    vector_batch : int, optional
        Vectors per pass; default by memory, halved when memory runs out.
    memory : int, optional
        Bytes that may be used; default what is free now.
    group : ProcessGroup, optional
        Data-parallel: each rank computes every world-size-th batch, sums are all-reduced, every rank gets the same numbers.
        Default: the default group where torch.distributed is initialised.

    Raises
    ------
    ProbeError
        Everything that makes the model, the loss or the data unusable, in one line.

    Attributes
    ----------
    blocks : tuple of Block
    loss_value : float
        The weighted mean loss, after :meth:`gradient`.
    precision : torch.dtype
        The coarsest of the parameters' and the loss's; that of the loss is known after :meth:`gradient`.
    keeps_graph : bool
        Whether products run on kept graphs (on every rank), after :meth:`gradient`.
    gradients : int
        Passes over data at the cost of one gradient, so far.
    products : int
        Vectors multiplied so far, over all blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | nn.Module | None,
        batches: Any,
        *,
        blocks: str | Mapping[str, str] | Sequence[Block] = "tensor",
        select: str | None = None,
        curvature: str = "hessian",
        weights: Callable[[Batch], float] | Sequence[float] | None = None,
        eval_mode: bool = True,
        keep_graph: bool | None = None,
        vector_batch: int | None = None,
        memory: int | None = None,
        group: Any = None,
    ) -> None:
        if curvature not in CURVATURES:
            raise ProbeError(f"curvature is {curvature!r}; use one of {', '.join(CURVATURES)}")
        if vector_batch is not None and vector_batch < 1:
            raise ProbeError(f"vector_batch is {vector_batch}; it must be at least 1")
        self.objective = Objective(model, loss)
        if curvature == "gauss_newton" and not self.objective.has_outputs:
            raise ProbeError(
                "the Gauss-Newton operator needs outputs and criterion apart: pass a criterion such as nn.CrossEntropyLoss() as loss"
            )
        self.model = model
        self.curvature = curvature
        self.blocks = tuple(make_blocks(model, blocks, select=select))
        parameters = trainable(model)
        used = dict.fromkeys(name for block in self.blocks for name in block.parameters)
        missing = [name for name in used if name not in parameters]
        if missing:
            raise ProbeError(f"block parameter {missing[0]!r} is not a trainable floating-point parameter of the model")
        self.parameters = {name: parameters[name] for name in used}
        self._shapes = {name: p.shape for name, p in self.parameters.items()}
        self._index = {block.name: block for block in self.blocks}
        if len(self._index) < len(self.blocks):
            raise ProbeError("two blocks have the same name; give each its own")
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
        self._keep = keep_graph
        self._kept: dict[int, _Graph] = {}
        self._versions: list[int] = []
        self._vectors = vector_batch
        self.graph_bytes = 0
        self.loss_value = float("nan")
        self.keeps_graph = False
        self.gradients = 0
        self.products = 0

    # -- gradients ---------------------------------------------------------------------------------------------------

    def gradient(self) -> dict[str, Tensor]:
        """Return the gradient of the weighted mean loss, by parameter name.

        Raises
        ------
        ProbeError
            The loss or the gradient is NaN or infinite.
        """
        total = {name: torch.zeros_like(p, dtype=_wide(p.dtype)) for name, p in self.parameters.items()}
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        for graph, weight in self._graphs():
            value += weight * graph.loss.detach().to(value.dtype)
            for name, g in graph.gradient.items():
                if g is not None:
                    total[name] += weight * g.detach()
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

    def block_gradient(self, block: Block, gradient: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the block's gradient, flat."""
        tensors: dict[str, Tensor | None] = dict(self.gradient() if gradient is None else gradient)
        return block.gather(tensors)

    # -- products ----------------------------------------------------------------------------------------------------

    def product(self, block: Block | str, V: Tensor) -> Tensor:
        """Return ``H_bb v`` for each row v of V (k, d); the dtype of V is kept."""
        found = self._index[block] if isinstance(block, str) else block
        return self.sweep({0: (found, V)})[0]

    def sweep(self, requests: Mapping[K, tuple[Block, Tensor]]) -> dict[K, Tensor]:
        """Return the products of several blocks with their vectors, in one pass over the data.

        Parameters
        ----------
        requests : mapping
            ``{key: (block, V)}``, V of shape (k, d).

        Returns
        -------
        dict
            ``{key: H_bb V}``, in the dtype of V.

        Raises
        ------
        ProbeError
            An operation without a second derivative (named), or memory that does not suffice for one vector.
        """
        answers = {key: torch.zeros_like(V) for key, (_, V) in requests.items()}
        # Requests of one block travel together: one batched pass.
        grouped: dict[str, list[K]] = {}
        for key, (block, V) in requests.items():
            if V.ndim != 2 or V.shape[1] != block.size:
                raise ValueError(
                    f"block {block.name!r} has {block.size} parameters; its vectors have shape {tuple(V.shape)}, not (k, {block.size})"
                )
            grouped.setdefault(block.name, []).append(key)
        names = dict.fromkeys(p for block, _ in requests.values() for p in block.parameters)
        for graph, weight in self._graphs(tuple(names)):
            for keys in grouped.values():
                block = requests[keys[0]][0]
                V = torch.cat([requests[key][1] for key in keys]) if len(keys) > 1 else requests[keys[0]][1]
                product = self._product(graph, block, V)
                for key, part in zip(keys, product.split([len(requests[key][1]) for key in keys]), strict=True):
                    answers[key].add_(part, alpha=weight)
        self.products += sum(len(V) for V in answers.values())
        self._reduce(list(answers.values()))
        return answers

    def batch_moments(self, block: Block, X: Tensor, Y: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return the number of batches, and mean and variance of the mean of ``<x, H_b y>`` over them, for pairs of rows.

        The variance is ``n/(n-1) Σ w_b² (form_b - mean)² / (Σ w_b)²``; NaN for a single batch.
        """
        sums = torch.zeros(3, len(X), dtype=torch.float64, device=X.device)
        extra = torch.zeros(2, dtype=torch.float64, device=X.device)
        for graph, weight in self._graphs(block.parameters):
            form = (X * self._product(graph, block, Y)).sum(-1).double()
            sums += torch.stack((weight * form, weight**2 * form, weight**2 * form**2))
            extra += torch.tensor([1.0, weight**2], dtype=torch.float64, device=X.device)
        self._reduce([sums, extra])
        count, squares = int(extra[0]), extra[1]
        mean = sums[0]
        spread = sums[2] - 2 * mean * sums[1] + mean**2 * squares
        return count, mean, spread.clamp_min(0) * count / (count - 1) if count > 1 else torch.full_like(mean, torch.nan)

    def _product(self, graph: _Graph, block: Block, V: Tensor) -> Tensor:
        """Multiply the rows of V, so many at a time as memory allows."""
        pieces: list[Tensor] = []
        done = 0
        while done < len(V):
            size = self.vector_batch(block)
            part = V[done : done + size]
            try:
                pieces.append(self._backward(graph, block, part.to(self.dtype)).to(V.dtype))
            except Exception as error:
                if is_out_of_memory(error):
                    self._less_memory(min(size, len(part)), error)
                    continue
                raise explained(error) from error
            done += len(part)
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces) if pieces else torch.zeros_like(V)

    def _backward(self, graph: _Graph, block: Block, V: Tensor) -> Tensor:
        cotangents = {name: c.to(self.parameters[name].dtype) for name, c in block.scatter(V, self._shapes).items()}
        names = [name for name in cotangents if _attached(graph.gradient[name])]
        if not names:  # the loss is linear in the block, or does not depend on it
            return torch.zeros_like(V)
        # Modes and kernels were chosen when the graph was built.
        if self.curvature == "gauss_newton":
            result = self._gauss_newton(graph, names, cotangents)
        else:
            outputs = [graph.gradient[name] for name in names]
            result = vector_jacobian(outputs, [graph.parameters[name] for name in cotangents], [cotangents[name] for name in names])
        return block.gather(dict(zip(cotangents, result, strict=True)), batched=True, like=V)

    def _gauss_newton(self, graph: _Graph, names: list[str], cotangents: dict[str, Tensor]) -> list[Tensor | None]:
        (tangent,) = vector_jacobian([graph.gradient[name] for name in names], [graph.cotangent], [cotangents[name] for name in names])
        if tangent is None or not _attached(graph.output_gradient):
            return [None] * len(cotangents)
        (curved,) = vector_jacobian([graph.output_gradient], [graph.output_leaf], [tangent])
        if curved is None:
            return [None] * len(cotangents)
        return vector_jacobian([graph.outputs], [graph.parameters[name] for name in cotangents], [curved])

    # -- graphs ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _mode(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(evaluation(self.model, self.eval_mode))
            stack.enter_context(twice_differentiable(self.model))
            yield

    def _graphs(self, names: tuple[str, ...] | None = None) -> Iterator[tuple[_Graph, float]]:
        """Yield the graph and the normalised weight of each batch; rebuilt each time unless they are kept."""
        normalised = [w / self.total_weight for w in self.weights]
        versions = [p._version for p in self.model.parameters()]
        if versions != self._versions:
            # Parameters were changed; `GraphBytes` hides that from autograd's own check.
            self.release()
            self._versions = versions
        for position, (batch, weight) in enumerate(zip(self.batches, normalised, strict=True)):
            # Asked for one by one: memory that runs out on the way drops those that are kept.
            graph = self._kept.get(position)
            if graph is None:
                graph = self._build(batch, position, names if self._keep is False else None)
                if self._keep is None:
                    self._keep = 2 * self.graph_bytes * len(self.batches) <= self.memory
                if self._keep:
                    self._kept[position] = graph
            yield graph, weight
            del graph

    def _build(self, batch: Batch, position: int, names: tuple[str, ...] | None) -> _Graph:
        counter = GraphBytes()
        try:
            with self._mode(), counter.counting():
                graph = self._differentiate(moved(batch, self.device), names)
        except ProbeError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise ProbeError(f"out of memory in the gradient of batch {position}: use smaller batches, or fewer blocks") from error
            raise explained(error) from error
        if not self.gradients and differentiable_once(graph.gradient.values()):
            raise ProbeError("an autograd function of the model is differentiable once only; give it a double backward")
        self.gradients += 1
        # A loss may be computed in less than the parameters' precision (transformers casts logits to float32).
        self.precision = max(self.precision, graph.loss.dtype, key=_rounding)
        self.graph_bytes = max(self.graph_bytes, counter.total)
        if not bool(torch.isfinite(graph.loss)):
            raise ProbeError(f"the loss is {graph.loss.item()} on batch {position}; nothing can be probed at these parameters")
        return graph

    def _differentiate(self, batch: Batch, names: tuple[str, ...] | None) -> _Graph:
        """Differentiate once, with a graph: by all probed parameters, or by those that this sweep is about."""
        parameters = self.parameters if names is None else {name: self.parameters[name] for name in names}
        inputs = list(parameters.values())
        if self.curvature == "hessian":
            loss = self.objective.value(batch)
            if not loss.requires_grad:
                raise ProbeError("the loss does not depend on the probed parameters (is it computed under no_grad, or detached?)")
            gradient = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
            return _Graph(loss.detach(), parameters, dict(zip(parameters, gradient, strict=True)))
        outputs, targets = self.objective.outputs(batch)
        leaf = outputs.detach().requires_grad_()
        loss = self.objective.criterion(leaf, targets)
        (output_gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        # The gradient itself, for `gradient()`, is Jᵀ∇ℓ; its graph in u gives J.
        cotangent = output_gradient.detach().clone().requires_grad_()
        gradient = torch.autograd.grad(outputs, inputs, cotangent, create_graph=True, allow_unused=True)
        return _Graph(
            loss.detach(), parameters, dict(zip(parameters, gradient, strict=True)), outputs, cotangent, output_gradient, leaf
        )

    # -- memory and processes ----------------------------------------------------------------------------------------

    def vector_batch(self, block: Block) -> int:
        """Return how many vectors of a block go through the graph at once."""
        if self._vectors is None:
            # A vector's pass holds about what the graph holds, once more.
            each = max(self.graph_bytes, 1) + 4 * sum(self._shapes[name].numel() for name in block.parameters) * self.dtype.itemsize
            return max(1, min(_MAX_VECTORS, int(self.memory // 4 // each)))
        return self._vectors

    def _less_memory(self, tried: int, error: Exception) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried > 1:
            self._vectors = tried // 2
        elif len(self._kept) > 1:
            # The graph at hand stays alive while it is used; the others are built again.
            self._kept, self._keep = {}, False
        else:
            raise ProbeError(
                "out of memory with one vector at a time: use smaller batches (the graph of one batch must fit twice)"
            ) from error

    def _reduce(self, tensors: list[Tensor]) -> None:
        if self.group is not None:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor, group=self.group)

    def release(self) -> None:
        """Drop the kept graphs."""
        self._kept = {}


def _attached(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _rounding(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
