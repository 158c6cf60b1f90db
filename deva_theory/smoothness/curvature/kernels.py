"""The state in which a model is differentiated twice: plain kernels, full precision, modes, and copies of its buffers.

Fused attention has no second derivative on any device, and cuDNN's recurrent layers have none (nor a backward pass in
evaluation mode).  Their plain counterparts compute the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Select the plain kernels of attention, and of recurrent layers where `model` has any; the settings return on exit."""
    enabled = torch.backends.cudnn.enabled
    with sdpa_kernel(SDPBackend.MATH):
        try:
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # Not cudnn.flags(): it also sets the precision, and fails where that was set through the newer of torch's interfaces.
                with _settable():
                    torch.backends.cudnn.enabled = False
            yield
        finally:
            with _settable():
                torch.backends.cudnn.enabled = enabled


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let CUDA's matrix products and convolutions use all bits of float32; the settings return on exit.

    torch has two interfaces, whose getters raise an error while they disagree: both are set, and both as they were.
    """
    backends: Any = torch.backends
    cuda = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    holders = (*cuda, backends.mkldnn.matmul)  # the older interface sets the last along with the first
    precisions = [holder.fp32_precision for holder in holders]
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = "highest"  # set through the newer interface alone
    with _settable():
        for holder in cuda:
            holder.fp32_precision = "ieee"
    try:
        cudnn = bool(backends.cudnn.allow_tf32)
    except RuntimeError:
        cudnn = True  # what disagrees with the above

    def older(matmul: str, cudnn: bool) -> None:
        with warnings.catch_warnings(), _settable():
            warnings.simplefilter("ignore")  # some versions recommend the newer interface
            backends.cudnn.allow_tf32 = cudnn
            torch.set_float32_matmul_precision(matmul)

    try:
        if matmul != "highest" or cudnn:
            older("highest", False)
            with _settable():
                for holder in cuda:
                    holder.fp32_precision = "ieee"
        yield
    finally:
        if matmul != "highest" or cudnn:
            older(matmul, cudnn)
        with _settable():
            for holder, precision in zip(holders, precisions, strict=True):
                holder.fp32_precision = precision


def _settable() -> AbstractContextManager[Any]:
    """Allow backend flags to be set where torch's own test harness has frozen them (what ``flags()`` does)."""
    allow = getattr(torch.backends, "__allow_nonbracketed_mutation", nullcontext)
    context: AbstractContextManager[Any] = allow()
    return context


@dataclass
class _Copy:
    source: Tensor
    source_version: int
    tensor: Tensor
    version: int
    uses: int = 0

    @property
    def clean(self) -> bool:
        # Batch norm writes its statistics past the version counter.
        return self.tensor._version == self.version and torch.equal(self.tensor, self.source)


class SpareBuffers:
    """Copies of a model's buffers, to be written to in their place.

    A graph saves buffers, and keeps the copies that it was built with.  Those that the model only reads are copied once
    for all graphs; those that it was found to write to, for each graph anew.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: dict[int, _Copy] = {}
        self._written: set[int] = set()
        self._places: list[tuple[dict[str, Tensor | None], str, Tensor]] = []

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put copies in the buffers' places; the buffers themselves return on exit."""
        self._places = [(m._buffers, name, b) for m in self._model.modules() for name, b in m._buffers.items() if b is not None]
        try:
            self.renew()
            yield
        finally:
            for holder, name, buffer in self._places:
                holder[name] = buffer
            self._places = []

    def renew(self) -> None:
        """Put copies with the buffers' values in their places, whatever was written to the last ones."""
        fresh: set[int] = set()  # modules may share a buffer
        for holder, name, buffer in self._places:
            key = id(buffer)
            known = self._copies.get(key)
            stale = known is None or known.source is not buffer or known.source_version != _version(buffer)
            if known is None or stale or (key in self._written and key not in fresh):
                tensor = buffer.clone()
                known = self._copies[key] = _Copy(buffer, _version(buffer), tensor, tensor._version)
            fresh.add(key)
            holder[name] = known.tensor

    def settle(self) -> bool:
        """Note which copies were written to since the last renewal; return whether graphs from before it had saved one of them."""
        spoiled = False
        for key, known in self._copies.items():
            if key not in self._written and not known.clean:
                self._written.add(key)
                spoiled |= known.uses > 0
            known.uses += 1
        return spoiled

    def forget(self) -> None:
        """Drop the copies, for their memory."""
        self._copies = {}

    def versions(self) -> list[tuple[int, int]]:
        """Return what changes when somebody else replaces a buffer or writes to it."""
        return [(id(buffer), _version(buffer)) for _, _, buffer in self._places]


@contextmanager
def evaluation(model: nn.Module, enabled: bool = True, buffers: SpareBuffers | None = None) -> Iterator[None]:
    """Switch every module to evaluation mode (no dropout, batch norm with running statistics); each one's mode returns on exit.

    Buffers are replaced by copies meanwhile: what is written to them is lost (outside evaluation mode, batch norm's running
    statistics).
    """
    modes = {module: module.training for module in model.modules()}
    with (buffers or SpareBuffers(model)).swapped():
        try:
            if enabled:
                model.eval()
            yield
        finally:
            for module, mode in modes.items():
                # Not module.train(mode): it would recurse, and some models override it.
                module.training = mode


@contextmanager
def probing(model: nn.Module, device: torch.device, eval_mode: bool, buffers: SpareBuffers) -> Iterator[None]:
    """Enter all of this module's states, with gradients enabled also where the caller has disabled them."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(evaluation(model, eval_mode, buffers))
        stack.enter_context(twice_differentiable(model))
        if device.type == "cuda":
            stack.enter_context(without_tf32())
        yield


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def differentiable_once(gradients: Iterable[Tensor | None]) -> bool:
    """Return whether a gradient's graph passes through a function marked ``once_differentiable``.

    Autograd leaves a node there that raises an error when it is run, but ``torch.autograd.grad`` never runs it: the second
    derivative would silently lack that function's part.
    """
    return _passes_through("torch::autograd::Error", gradients)


def reentrant(loss: Tensor) -> bool:
    """Return whether a loss uses activation checkpointing with ``use_reentrant=True``.

    What is checkpointed so is no part of the graph: its parameters' gradient would silently be missing.
    """
    return _passes_through("CheckpointFunctionBackward", [loss])


def _passes_through(node_name: str, tensors: Iterable[Tensor | None]) -> bool:
    stack = [t.grad_fn for t in tensors if t is not None and t.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node.name() == node_name:
            return True
        fresh = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= fresh
        stack += fresh
    return False
