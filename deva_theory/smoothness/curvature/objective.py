"""What is probed: a model, a loss and fixed data, in the forms in which users have them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[..., Any]
Batch = Any

# By these names a function's first argument tells a criterion from a loss(model, batch).
_OUTPUT_NAMES = (
    "input", "outputs", "output", "out", "logits", "prediction", "predictions", "predicted", "pred", "preds", "y_pred", "y_hat", "yhat",
)
_MODEL_NAMES = ("model", "m", "module", "net", "network")


class ProbeError(ValueError):
    """The model, the loss or the data cannot be probed; one line says what is wrong, where, and what to do."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that torch.compile was given: what is compiled has no second derivative, and other names."""
    # By name: importing the compiler takes seconds.
    inner = getattr(model, "_orig_mod", None) if type(model).__name__ == "OptimizedModule" else None
    return inner if isinstance(inner, nn.Module) else model


class Objective:
    """A scalar loss of a model on a batch.

    Parameters
    ----------
    model : nn.Module
    loss : callable, nn.Module or None
        * a function ``loss(model, batch) -> scalar``;
        * a criterion, i.e. an ``nn.Module`` or a function of ``torch``: ``criterion(model(inputs), targets)`` on batches
          ``(inputs, targets)`` or ``{"inputs": …, "targets": …}``;
        * None: the model returns its own loss, ``model(**batch).loss`` (transformers' convention).

        The loss is the *mean* over the batch's examples; batches are combined with weights proportional to their sizes.

    Attributes
    ----------
    has_outputs : bool
        Whether outputs and criterion are known separately, which the Gauss-Newton operator needs.
    """

    def __init__(self, model: nn.Module, loss: Loss | nn.Module | None) -> None:
        if not isinstance(model, nn.Module):
            raise ProbeError(f"model is a {type(model).__name__}; pass a torch.nn.Module")
        if loss is not None and not callable(loss):
            raise ProbeError(
                f"loss is a {type(loss).__name__}; pass a function loss(model, batch), a criterion such as nn.CrossEntropyLoss(), or None"
            )
        self.model = model
        self._loss = loss
        self.has_outputs = loss is not None and _is_criterion(loss)

    def value(self, batch: Batch) -> Tensor:
        """Return the loss on `batch`.

        Raises
        ------
        ProbeError
            No scalar, not attached to a graph, complex or an integer.
        """
        if self._loss is None:
            result = self._own_loss(batch)
        elif self.has_outputs:
            inputs, targets = _pair(batch)
            result = self._loss(self._forward(inputs), targets)
        else:
            result = self._called(self._loss, batch)
        if not isinstance(result, Tensor):
            raise ProbeError(f"the loss is a {type(result).__name__}; return a scalar tensor that depends on the parameters")
        if result.numel() != 1:
            raise ProbeError(f"the loss has shape {tuple(result.shape)}; return a scalar, for instance its mean over the batch")
        if not result.dtype.is_floating_point:
            raise ProbeError(f"the loss has dtype {result.dtype}; return a real floating-point scalar")
        return result.reshape(())

    def outputs(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return (outputs, targets); see `has_outputs`."""
        inputs, targets = _pair(batch)
        outputs = self._forward(inputs)
        if not isinstance(outputs, Tensor):
            raise ProbeError(f"the model returns a {type(outputs).__name__}; the Gauss-Newton operator needs a tensor of outputs")
        return outputs, targets

    def criterion(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return ``criterion(outputs, targets)``."""
        assert self._loss is not None
        result: Tensor = self._loss(outputs, targets)
        return result

    def _called(self, loss: Loss, batch: Batch) -> Any:
        try:
            return loss(self.model, batch)
        except (TypeError, AttributeError) as error:
            names = _argument_names(loss)
            if len(names) != 2 or names[0] in _MODEL_NAMES:
                raise  # the user's own: it says more as it is
            raise ProbeError(
                f"loss({', '.join(names)}), called with model and batch, failed: {_first_line(error)}; a criterion of outputs and targets "
                f"must be an nn.Module, a function of torch, or name its first argument 'outputs'"
            ) from error

    def _forward(self, inputs: Any) -> Any:
        return self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)

    def _own_loss(self, batch: Batch) -> Any:
        _refuse_arrays(batch)
        output = self.model(**batch) if isinstance(batch, Mapping) else self.model(batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is None:
            raise ProbeError("the model returned no loss; put labels into the batch, or pass loss=")
        return loss


def as_batches(data: Any, *, limit: int | None = None) -> list[Batch]:
    """Return the data as a list of batches.

    Parameters
    ----------
    data
        A tensor, a tuple or a mapping is one batch; any other iterable (a list, a DataLoader, a generator) gives batches.
        They are read once and kept, because every product passes over the same data; an endless generator is read for ever
        unless there is a limit.
    limit : int, optional
        Read at most so many (`max_batches` of a probe).

    Raises
    ------
    ProbeError
        No data, or a NumPy array.
    """
    if data is None:
        raise ProbeError("no data: pass batches=, a tensor, a tuple, a dictionary or an iterable of them")
    if _is_array(data):
        raise ProbeError("batches is a NumPy array; convert it with torch.as_tensor")
    if isinstance(data, Tensor | tuple | Mapping) or (_is_record(data) and not isinstance(data, Iterable)):
        batches = [data]
    elif isinstance(data, Iterable):
        batches = list(islice(data, limit))
    else:
        raise ProbeError(f"batches is a {type(data).__name__}; pass a tensor, a tuple, a dictionary or an iterable of them")
    if not batches:
        raise ProbeError("no data: batches is empty (an iterator that was read before gives nothing)")
    for k, batch in enumerate(batches):
        if batch_size(batch) == 0:
            raise ProbeError(f"batch {k} is empty: drop it")
    return batches


def batch_size(batch: Batch) -> int:
    """Return the number of examples: the first size of the first tensor found in the batch; 1 if none is found."""
    first = next(tensors_of(batch), None)
    return 1 if first is None or first.ndim == 0 else len(first)


def batch_weights(batches: Sequence[Batch], weights: Callable[[Batch], float] | Sequence[float] | None) -> list[float]:
    """Return the batches' weights, by default their sizes.

    Raises
    ------
    ProbeError
        A weight is negative or not finite, all vanish, or their number is wrong; no tensor gives the size of one of several batches.
    """
    if weights is None:
        for k, batch in enumerate(batches):
            if len(batches) > 1 and next(tensors_of(batch), None) is None:
                raise ProbeError(
                    f"batch {k} is a {type(batch).__name__} without tensors, so its size is unknown: convert arrays, or pass weights="
                )
        values = [float(batch_size(batch)) for batch in batches]
    elif callable(weights):
        values = [float(weights(batch)) for batch in batches]
    else:
        values = [float(w) for w in weights]
    if len(values) != len(batches):
        raise ProbeError(f"{len(values)} weights for {len(batches)} batches")
    if not all(0 <= w < float("inf") for w in values) or not sum(values) > 0:
        raise ProbeError(f"the weights of the batches are {values}; they must be finite, not negative and not all zero")
    return values


def moved(batch: Batch, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
    """Return the batch on `device`, its floating-point tensors in `dtype` if one is given."""
    if isinstance(batch, Tensor):
        result = batch.to(device, dtype if dtype is not None and batch.dtype.is_floating_point else None)
        # Tensors of inference mode cannot be saved for a backward pass.
        return result.clone() if result.is_inference() and not torch.is_inference_mode_enabled() else result
    if isinstance(batch, Mapping):
        return rebuilt(batch, {key: moved(value, device, dtype) for key, value in batch.items()})
    if _is_record(batch):
        record = copy.copy(batch)
        for field in dataclasses.fields(record):
            if hasattr(record, field.name):
                object.__setattr__(record, field.name, moved(getattr(record, field.name), device, dtype))  # also where it is frozen
        return record
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device, dtype) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device, dtype) for value in batch)
    return batch


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors of a nested batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)
    elif _is_record(batch):
        for field in dataclasses.fields(batch):
            yield from tensors_of(getattr(batch, field.name, None))


def rebuilt(batch: Mapping[Any, Any], entries: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return the entries as a mapping of the batch's own type, whose attributes a loss may use (transformers' BatchEncoding)."""
    if type(batch) is dict:
        return entries
    try:
        if isinstance(batch, dict | UserDict):
            result: Any = copy.copy(batch)
            result.update(entries)
        else:
            result = type(batch)(entries)  # type: ignore[call-arg]
        if list(result) == list(entries):
            return result
    except Exception:  # whatever a constructor of the user's may raise
        return entries
    return entries


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "dtype")


def _refuse_arrays(value: Any) -> None:
    if _is_array(value):
        raise ProbeError("a batch holds a NumPy array; convert it with torch.as_tensor, in the dtype of the parameters")
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for entry in entries:
        _refuse_arrays(entry)


def _pair(batch: Batch) -> tuple[Any, Any]:
    _refuse_arrays(batch)
    if isinstance(batch, Mapping) and "inputs" in batch and "targets" in batch:
        return batch["inputs"], batch["targets"]
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    raise ProbeError(
        "a criterion needs batches (inputs, targets) or {'inputs': ..., 'targets': ...}; for others pass a function loss(model, batch)"
    )


def _is_criterion(loss: Any) -> bool:
    if isinstance(loss, nn.Module):
        return True
    if (getattr(loss, "__module__", None) or "").split(".")[0] == "torch":
        return True
    return next(iter(_argument_names(loss)), None) in _OUTPUT_NAMES


def _argument_names(function: Any) -> list[str]:
    """Return the names of the arguments without defaults."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
