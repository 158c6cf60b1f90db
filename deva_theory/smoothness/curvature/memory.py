"""How much memory there is, how much a graph keeps, and what "out of memory" looks like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def available_bytes(device: torch.device) -> int:
    """Return the free memory of a CUDA device, or the machine's available memory within the process's control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    known = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        known += [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        known.append(max(0, int(text) - int(used.read_text())))
    if not known and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known) if known else 4 << 30


class GraphBytes:
    """Counts the bytes of tensors that a graph saves for later, each storage once."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                self.total += storage.nbytes()
        # Not the tensor itself: a node that saves its own output would own itself and never be freed.
        return tensor.detach(), tensor._version

    @staticmethod
    def _unpack(saved: tuple[Tensor, int]) -> Tensor:
        tensor, version = saved
        if tensor._version != version:
            # Autograd checks this itself only for what is saved without hooks.
            raise RuntimeError("a tensor that the second derivative needs was modified in place after it was saved")
        return tensor

    @contextmanager
    def counting(self) -> Iterator[GraphBytes]:
        """Count while the block runs."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield self


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
