"""Finished estimates, kept on disk as they finish, so that an interrupted probe goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from torch import Tensor

from deva_theory.smoothness.curvature.objective import ProbeError, tensors_of
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.sampling import SamplingInterval

_FORMAT = "deva_theory probe journal 1"

Entry = tuple[Estimate, SamplingInterval | None]


class Journal:
    """A file of JSON lines: a header with a fingerprint, then a line per finished block and norm; later lines win.

    Parameters
    ----------
    path : path
    key : str
        Fingerprint of everything that the results depend on.

    Raises
    ------
    ProbeError
        The file exists and is no journal, or belongs to another probe.
    """

    def __init__(self, path: Path | str, key: str) -> None:
        self.path = Path(path)
        self.key = key
        self._rank = torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
        self._entries: dict[tuple[str, str], Entry] = {}
        if self.path.exists():
            self._load()
        elif self._rank == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"format": _FORMAT, "key": key})

    def read(self) -> dict[tuple[str, str], Entry]:
        """Return the finished estimates (without witnesses) by (block, norm)."""
        return dict(self._entries)

    def write(self, block: str, norm: str, estimate: Estimate, sampling: SamplingInterval | None) -> None:
        """Append one estimate and force it to the disk."""
        if self._rank == 0:
            self._append({"block": block, "norm": norm, "estimate": estimate.to_dict(), "sampling": sampling and sampling.to_dict()})

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _load(self) -> None:
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        try:
            header = json.loads(lines[0])
            known = header["format"] == _FORMAT
        except (json.JSONDecodeError, KeyError, TypeError):
            known = False
        if not known:
            raise ProbeError(f"{self.path.name} is no journal of a probe; name another file")
        if header["key"] != self.key:
            raise ProbeError(
                f"{self.path.name} belongs to a probe of other parameters, data or settings; delete it, or name another file"
            )
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                sampling = entry["sampling"] and SamplingInterval(**entry["sampling"])
                self._entries[entry["block"], entry["norm"]] = Estimate.from_dict(entry["estimate"]), sampling
            except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # the last line of an interrupted write: that estimate is computed again
        if not lines[-1] == "" and self._rank == 0:
            # Close a torn line, so that the next one starts on its own.
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")


def fingerprint(settings: Mapping[str, Any], operator: CurvatureOperator, extra: Any) -> str:
    """Hash the settings, the parameters and buffers, and the data (of this process)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in operator.model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            _update(digest, tensor)
    for tensor in tensors_of([operator.all_batches, extra]):
        _update(digest, tensor)
    return digest.hexdigest()


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
    plain = tensor.detach().cpu().contiguous()
    digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
