"""Finished estimates, kept on disk as they finish, so that an interrupted probe goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from deva_theory.smoothness.curvature.objective import ProbeError, tensors_of
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.sampling import SamplingInterval

_FORMAT = "deva_theory probe journal 2"

Entry = tuple[Estimate, SamplingInterval | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """What all estimates of a journal are about: a function at a point.

    Numbers are compared and not hashed, because sums on a GPU, or over another number of threads, differ in the last digits
    from run to run.

    Attributes
    ----------
    key : str
        Hash of the parameters, buffers, data, weights of the batches, and settings of the operator.
    loss : float
    gradients : dict
        Block to norm and a fixed projection of its gradient: another loss, or another model on the same tensors, has others.
    accuracy : float
        Difference up to which numbers agree, relative to the loss and to the norm of all gradients.
    """

    key: str
    loss: float
    gradients: dict[str, tuple[float, float]]
    accuracy: float

    def same_loss(self, loss: float) -> bool:
        """Return whether a header's loss is this one."""
        return abs(loss - self.loss) <= self.accuracy * abs(self.loss)

    def same_gradient(self, block: str, numbers: Sequence[float]) -> bool:
        """Return whether an entry's gradient is that of the block."""
        # Of all blocks: a gradient that vanishes is nothing but rounding of the others.
        scale = math.hypot(*(norm for norm, _ in self.gradients.values()))
        return all(abs(a - b) <= self.accuracy * scale for a, b in zip(self.gradients[block], numbers, strict=True))


class Journal:
    """A file of JSON lines: a header with the identity, then a line per finished block and norm; later lines win.

    Under torch.distributed only the group's first rank touches the file; what it finds is broadcast.

    Parameters
    ----------
    path : path
    identity : Identity
    keys : mapping
        (block, norm) to the hash of what that estimate depends on beyond the identity; entries of another hash are passed over.
    sampling : str, optional
        Hash of the batches of the sampling intervals, if they are wanted.  An entry without them is passed over, because they
        need the witness, which no journal holds: that estimate is computed again.
    group : ProcessGroup, optional
    device : torch.device, optional
        Where the group's broadcasts take place.

    Raises
    ------
    ProbeError
        The file exists and is no journal, or belongs to another probe; the path cannot be read or written.
    """

    def __init__(
        self, path: Path | str, identity: Identity, keys: Mapping[tuple[str, str], str], sampling: str | None = None, *,
        group: Any = None, device: torch.device | None = None,
    ) -> None:
        self.path = Path(path)
        self.identity, self.keys, self.sampling = identity, dict(keys), sampling
        self._first = group is None or torch.distributed.get_rank(group) == 0
        self._entries = _from_first(self._open, self._first, group, device)

    def read(self) -> dict[tuple[str, str], Entry]:
        """Return the finished estimates (without witnesses) by (block, norm)."""
        return dict(self._entries)

    def write(self, block: str, norm: str, estimate: Estimate, interval: SamplingInterval | None = None, *, sampled: bool = False) -> None:
        """Append one estimate and force it to the disk; `sampled`: `interval` is final, also when it is None."""
        if self._first:
            self._append({
                "block": block, "norm": norm, "key": self.keys[block, norm], "gradient": list(self.identity.gradients[block]),
                "estimate": estimate.to_dict(),
                "sampling": interval and interval.to_dict(), "sampling_key": self.sampling if sampled else None,
            })

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _open(self) -> dict[tuple[str, str], Entry]:
        name = self.path.name
        if self.path.is_dir():
            raise ProbeError(f"resume is the folder {name!r}; name a file in it")
        header = {"format": _FORMAT, "key": self.identity.key, "loss": self.identity.loss}
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
            if json.dumps(header).startswith(text):
                # New, empty, or interrupted in the header.
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text("", encoding="utf-8")
                self._append(header)
                return {}
            entries = self._parsed(text)
            if not text.endswith("\n"):
                # Close a torn line, so that the next one starts on its own.
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n")
        except OSError as error:
            raise ProbeError(f"the journal {name!r} cannot be read and written ({error.strerror})") from None
        return entries

    def _parsed(self, text: str) -> dict[tuple[str, str], Entry]:
        lines = text.split("\n")
        try:
            header = json.loads(lines[0])
            known = header["format"] == _FORMAT
            same = known and header["key"] == self.identity.key and self.identity.same_loss(header["loss"])
        except (json.JSONDecodeError, KeyError, TypeError):
            known = same = False
        if not known:
            raise ProbeError(f"{self.path.name} is no journal of a probe (of this version); name another file")
        foreign = ProbeError(
            f"{self.path.name} belongs to a probe of other parameters, data or settings, or of another loss; "
            "delete it, or name another file"
        )
        if not same:
            raise foreign
        entries: dict[tuple[str, str], Entry] = {}
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                place = entry["block"], entry["norm"]
                if self.keys.get(place) != entry["key"]:
                    continue
                interval = entry["sampling"] and SamplingInterval(**entry["sampling"])
                estimate, key = Estimate.from_dict(entry["estimate"]), entry["sampling_key"]
                same = self.identity.same_gradient(place[0], entry["gradient"])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # the last line of an interrupted write: that estimate is computed again
            if not same:
                raise foreign
            if self.sampling is None:
                entries[place] = estimate, None
            elif key == self.sampling:
                entries[place] = estimate, interval
        return entries


def identity(
    operator: CurvatureOperator, gradient: Mapping[str, Tensor], weights: Sequence[float], settings: Mapping[str, Any]
) -> Identity:
    """Return the identity of the function that an operator is about, at its parameters.

    Parameters
    ----------
    operator : CurvatureOperator
        After :meth:`~deva_theory.smoothness.curvature.products.CurvatureOperator.gradient`.
    gradient : mapping
        What that returned.
    weights : sequence of float
        Of all batches.
    settings : mapping
        Of the operator, as JSON values.
    """
    values = torch.tensor(weights, dtype=torch.float64)
    state = {name: tensor for name, tensor in operator.model.state_dict().items() if isinstance(tensor, Tensor)}
    key = hashed({**settings, "state": list(state)}, [*state.values(), *tensors_of(operator.all_batches), values / values.sum()])
    gradients = {}
    for block in operator.blocks:
        flat = operator.block_gradient(block, gradient).detach().double()
        wave = torch.arange(len(flat), dtype=torch.float64, device=flat.device).cos()
        gradients[block.name] = float(torch.linalg.vector_norm(flat)), float(flat @ wave)
    return Identity(key, operator.loss_value, gradients, min(1e-3, torch.finfo(operator.precision).eps ** 0.6))


def hashed(settings: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """Hash JSON values and tensors."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def _from_first(work: Callable[[], T], first: bool, group: Any, device: torch.device | None) -> T:
    """Return what `work` gives on the first rank, on every rank; its error likewise."""
    box: list[Any] = [None, None]
    if first:
        try:
            box[0] = work()
        except ProbeError as error:
            box[1] = str(error)
    if group is not None:
        # Objects travel as tensors; NCCL has none on the CPU.
        place = device if device is not None and device.type == "cuda" else None
        torch.distributed.broadcast_object_list(box, group=group, group_src=0, device=place)
    if box[1] is not None:
        raise ProbeError(box[1])
    found: T = box[0]
    return found
