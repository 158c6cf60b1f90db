r"""Hessian- and Gauss-Newton-vector products of a model's blocks.

The loss is ``f(x) = Σ_b w_b f_b(x) / Σ_b w_b`` over batches b.  For each batch the gradient is computed once with its
graph, and the graph is kept as long as memory allows
(:mod:`deva_theory.smoothness.curvature.graphs`).  A block's product ``H_bb v`` is then one backward pass through
the part of that graph between the block and its own gradient; several vectors go through it at once (vectorised
double backward).  All blocks share the forward and the first backward pass.

Gauss-Newton: with outputs z(x) and ``f = ℓ(z)``, ``G v = Jᵀ ∇²ℓ J v``.  ``J v`` comes from differentiating ``u ↦ Jᵀu``, so
that reverse mode suffices; forward-over-reverse is avoided everywhere (it is silently wrong for some layers).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deva_theory.smoothness.curvature.backward import explained, vector_jacobian
from deva_theory.smoothness.curvature.blocks import Block, check_blocks, make_blocks, trainable
from deva_theory.smoothness.curvature.graphs import BatchGraphs, Graph
from deva_theory.smoothness.curvature.memory import is_out_of_memory
from deva_theory.smoothness.curvature.objective import Batch, Loss, Objective, ProbeError, unwrapped

CURVATURES = ("hessian", "gauss_newton")
_MAX_VECTORS = 256

K = TypeVar("K", bound=Hashable)


class CurvatureOperator(BatchGraphs):
    """Products of blocks of the Hessian (or Gauss-Newton matrix) with vectors.

    Parameters
    ----------
    model : nn.Module
        Left as it is: modes, gradients, requires_grad and buffers are untouched.  One compiled by torch.compile is replaced
        by the model that it was made of, as what is compiled has no second derivative.
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
        model = unwrapped(model)
        objective = Objective(model, loss)
        if curvature == "gauss_newton" and not objective.has_outputs:
            raise ProbeError(
                "the Gauss-Newton operator needs outputs and criterion apart: pass a criterion such as nn.CrossEntropyLoss() as loss"
            )
        parameters = trainable(model)
        _refuse_renormalisation(model)
        self.blocks = tuple(make_blocks(model, blocks, select=select))
        check_blocks(self.blocks, parameters)
        used = dict.fromkeys(name for block in self.blocks for name in block.parameters)
        self._index = {block.name: block for block in self.blocks}
        super().__init__(
            objective, {name: parameters[name] for name in used}, batches, curvature=curvature, weights=weights, eval_mode=eval_mode,
            keep_graph=keep_graph, memory=memory, group=group,
        )
        self._shapes = {name: p.shape for name, p in self.parameters.items()}
        self._vectors = vector_batch
        self.products = 0

    def block_gradient(self, block: Block, gradient: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the block's gradient, flat."""
        tensors: dict[str, Tensor | None] = dict(self.gradient() if gradient is None else gradient)
        return block.gather(tensors)

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
        # Requests of one block travel together: one batched pass.
        grouped: dict[str, list[K]] = {}
        for key, (block, V) in requests.items():
            if V.ndim != 2 or V.shape[1] != block.size:
                raise ValueError(
                    f"block {block.name!r} has {block.size} parameters; its vectors have shape {tuple(V.shape)}, not (k, {block.size})"
                )
            grouped.setdefault(block.name, []).append(key)
        names = tuple(dict.fromkeys(p for block, _ in requests.values() for p in block.parameters))
        # Entered once: per block it would cost a tenth of the time.
        with self.mode():
            answers = {key: torch.zeros_like(V) for key, (_, V) in requests.items()}
            for graph, weight in self._graphs(names):
                for keys in grouped.values():
                    block = requests[keys[0]][0]
                    V = torch.cat([requests[key][1] for key in keys]) if len(keys) > 1 else requests[keys[0]][1]
                    product = self._product(graph, block, V)
                    for key, part in zip(keys, product.split([len(requests[key][1]) for key in keys]), strict=True):
                        answers[key].add_(part, alpha=weight)
                del graph  # before the next one is built
        self.products += sum(len(V) for V in answers.values())
        self._reduce(list(answers.values()))
        return answers

    def batch_moments(self, block: Block, X: Tensor, Y: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return the number of batches, and mean and variance of the mean of ``<x, H_b y>`` over them, for pairs of rows.

        The variance is ``n/(n-1) Σ w_b² (form_b - mean)² / (Σ w_b)²``; NaN for a single batch.
        """
        with self.mode():
            sums = torch.zeros(3, len(X), dtype=torch.float64, device=X.device)
            extra = torch.zeros(2, dtype=torch.float64, device=X.device)
            for graph, weight in self._graphs(block.parameters):
                form = (X * self._product(graph, block, Y)).sum(-1).double()
                del graph  # before the next one is built
                sums += torch.stack((weight * form, weight**2 * form, weight**2 * form**2))
                extra += torch.tensor([1.0, weight**2], dtype=torch.float64, device=X.device)
        self._reduce([sums, extra])
        count, squares = int(extra[0]), extra[1]
        mean = sums[0]
        spread = sums[2] - 2 * mean * sums[1] + mean**2 * squares
        return count, mean, spread.clamp_min(0) * count / (count - 1) if count > 1 else torch.full_like(mean, torch.nan)

    def _product(self, graph: Graph, block: Block, V: Tensor) -> Tensor:
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

    def _backward(self, graph: Graph, block: Block, V: Tensor) -> Tensor:
        cotangents = {name: c.to(self.parameters[name].dtype) for name, c in block.scatter(V, self._shapes).items()}
        names = [name for name in cotangents if _attached(graph.gradient[name])]
        if not names:  # the loss is linear in the block, or does not depend on it
            return torch.zeros_like(V)
        if self.curvature == "gauss_newton":
            result = self._gauss_newton(graph, names, cotangents)
        else:
            outputs = [graph.gradient[name] for name in names]
            result = vector_jacobian(outputs, [graph.parameters[name] for name in cotangents], [cotangents[name] for name in names])
        return block.gather(dict(zip(cotangents, result, strict=True)), batched=True, like=V)

    def _gauss_newton(self, graph: Graph, names: list[str], cotangents: dict[str, Tensor]) -> list[Tensor | None]:
        (tangent,) = vector_jacobian([graph.gradient[name] for name in names], [graph.cotangent], [cotangents[name] for name in names])
        if tangent is None or not _attached(graph.output_gradient):
            return [None] * len(cotangents)
        (curved,) = vector_jacobian([graph.output_gradient], [graph.output_leaf], [tangent])
        if curved is None:
            return [None] * len(cotangents)
        return vector_jacobian([graph.outputs], [graph.parameters[name] for name in cotangents], [curved])

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
            self._drop()
        else:
            raise ProbeError(
                "out of memory with one vector at a time: use smaller batches (the graph of one batch must fit twice)"
            ) from error


def _attached(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _refuse_renormalisation(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise ProbeError(
                f"module {name!r} ({type(module).__name__}) rescales its rows in every forward pass (max_norm={module.max_norm}), which "
                "changes the parameters that are probed: set its max_norm to None for the probe"
            )
