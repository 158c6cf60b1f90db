"""Vectorised backward passes, and what their errors mean for a probe."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deva_theory.smoothness.curvature.objective import ProbeError

REENTRANT = "activation checkpointing with use_reentrant=True has no second derivative; set use_reentrant=False, or switch it off"


def vector_jacobian(outputs: Sequence[Tensor | None], inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the vector-Jacobian products for a leading dimension of cotangents, vectorised where torch can."""
    arguments: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    if len(cotangents[0]) == 1:
        single = torch.autograd.grad(outputs, inputs, [c[0] for c in cotangents], **arguments)  # type: ignore[arg-type]
        return [None if g is None else g.detach().unsqueeze(0) for g in single]
    try:
        with warnings.catch_warnings():
            # Operations without a batching rule are looped over: slower, not wrong.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            batched = torch.autograd.grad(
                outputs, inputs, cotangents, is_grads_batched=True, **arguments  # type: ignore[arg-type]
            )
        return [None if g is None else g.detach() for g in batched]
    except RuntimeError as error:
        if "vmap" not in str(error) and "batching rule" not in str(error).lower():
            raise
    rows = [vector_jacobian(outputs, inputs, [c[k : k + 1] for c in cotangents]) for k in range(len(cotangents[0]))]
    return [None if column[0] is None else torch.cat(column) for column in zip(*rows, strict=True)]


def explained(error: Exception) -> Exception:
    """Return what autograd's error means for a probe."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "is not implemented" in text and "derivative for" in text:
        operation = text.partition("derivative for")[2].strip(" '\"").split("'")[0].split(" is not")[0].strip()
        return ProbeError(f"the operation {operation} has no second derivative; replace it by a twice differentiable implementation")
    if "once_differentiable" in text or "differentiate twice" in text:
        return ProbeError(f"an autograd function of the model is differentiable once only ({text}); give it a double backward")
    if "use_reentrant" in text or "checkpoint is incompatible with .grad()" in text:
        return ProbeError(REENTRANT)
    if "aot_autograd" in text and "double backward" in text:
        return ProbeError("a module compiled by torch.compile has no second derivative: probe the model that is not compiled")
    if isinstance(error, RuntimeError | NotImplementedError):
        return ProbeError(f"the loss or its second derivative failed: {text}")
    return error  # the user's own: it says more as it is
