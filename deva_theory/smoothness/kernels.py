"""Kernels that have second derivatives.

Fused attention has none on any device, and cuDNN's recurrent layers have none (nor a backward pass in evaluation
mode).  Their plain counterparts compute the same function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
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
    """Switch every module to evaluation mode (no dropout, batch norm with running statistics); each one's mode returns on exit."""
    modes = {module: module.training for module in model.modules()}
    if enabled:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            # Not module.train(mode): it would recurse, and some models override it.
            module.training = mode
