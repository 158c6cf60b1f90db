"""Kernels that have second derivatives.

Fused attention has none on any device, and cuDNN's recurrent layers have none (nor a backward pass in evaluation
mode).  Their plain counterparts compute the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Select the plain kernels of attention, and of recurrent layers where `model` has any; the settings return on exit."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextmanager
def evaluation(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Switch every module to evaluation mode (no dropout, batch norm with running statistics); each one's mode returns on exit.

    So do the buffers that are written to meanwhile: outside evaluation mode, batch norm's running statistics.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(m, name, b, b._version, b.clone()) for m in modes for name, b in m._buffers.items() if b is not None]
    if enabled:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            # Not module.train(mode): it would recurse, and some models override it.
            module.training = mode
        for module, name, buffer, version, value in buffers:
            module._buffers[name] = buffer
            # Batch norm writes its statistics past the version counter.
            if buffer._version != version or (not enabled and not torch.equal(buffer, value)):
                # Past it here, too: graphs that are kept do not need what is restored.
                buffer.data.copy_(value)


def differentiable_once(gradients: Iterable[Tensor | None]) -> bool:
    """Return whether a gradient's graph passes through a function marked ``once_differentiable``.

    Autograd leaves a node there that raises an error when it is run, but ``torch.autograd.grad`` never runs it: the second
    derivative would silently lack that function's part.
    """
    stack = [g.grad_fn for g in gradients if g is not None and g.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node.name() == "torch::autograd::Error":
            return True
        fresh = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= fresh
        stack += fresh
    return False
