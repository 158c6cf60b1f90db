"""Data that are already on the machine: scikit-learn's bundled sets and the standard library's own source text."""

from __future__ import annotations

import functools
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

TEXT_MODULES = (
    "argparse", "calendar", "configparser", "contextlib", "csv", "dataclasses", "difflib", "enum", "fractions", "functools",
    "inspect", "ipaddress", "pickle", "pprint", "random", "shutil", "statistics", "subprocess", "tarfile", "textwrap", "typing",
    "uuid", "weakref",
)
"""Modules whose source is the text: single .py files in every supported Python, in this order."""

COARSE_ALPHABET = (
    "\n", " ", "0123456789", "_", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "([{", ")]}", "'\"`", ".,:;", "ae", "iou", "tn", "sr", "ldc",
    "mpf",
)
"""Characters merged into one symbol each, for the tiny language models; every other byte is the symbol 15."""


class Source(Protocol):
    """Indexed training examples."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets) of the examples ``index``, int64, shape ``(batch,)``."""

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Source:
        """Return the examples on a device, floating-point inputs in ``dtype``."""


@dataclass(frozen=True, eq=False)
class Table:
    """Examples stored row by row.

    Attributes
    ----------
    inputs : Tensor of float64, shape ``(n, ...)``
    targets : Tensor of int64, shape ``(n,)``
        Class indices.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows ``index`` of inputs and targets, copied."""
        index = index.to(self.targets.device)
        return self.inputs[index], self.targets[index]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Table:
        """Return the table on a device, its inputs in ``dtype``."""
        return Table(self.inputs.to(device=device, dtype=dtype), self.targets.to(device))


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of a token stream; the targets are the inputs shifted by one.

    Attributes
    ----------
    tokens : Tensor of int64, shape ``(n,)``
    context : int
        Tokens per window. Example i is ``tokens[i : i + context]``, its targets ``tokens[i + 1 : i + context + 1]``.
    """

    tokens: Tensor
    context: int

    def __len__(self) -> int:
        return len(self.tokens) - self.context

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the windows that start at ``index``, each of shape ``(batch, context)``."""
        device = self.tokens.device
        window = self.tokens[index.to(device)[:, None] + torch.arange(self.context + 1, device=device)]
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Windows:
        """Return the windows on a device; tokens have no floating-point type, so ``dtype`` changes nothing."""
        return Windows(self.tokens.to(device), self.context)


def _sklearn_datasets() -> ModuleType:
    """Import scikit-learn's data sets only now: the package works without them."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("the zoo's digits and tables need scikit-learn: pip install 'deva-theory[zoo]'") from error
    return datasets


def digits() -> Table:
    """Return scikit-learn's 1797 handwritten digits: 10 classes, grey values in [0, 1], shape ``(1797, 1, 8, 8)``.

    Raises
    ------
    ImportError
        Without scikit-learn.
    """
    pixels, labels = _sklearn_datasets().load_digits(return_X_y=True)
    # `torch.tensor` would put them on the caller's default device.
    return Table(torch.from_numpy(pixels / 16).view(-1, 1, 8, 8), torch.from_numpy(labels.astype(np.int64)))


def table(name: str) -> Table:
    """Return a bundled classification set, each feature at mean zero and (population) variance one.

    Parameters
    ----------
    name : {"wine", "breast_cancer"}
        178 rows, 13 features, 3 classes; or 569 rows, 30 features, 2 classes.

    Raises
    ------
    ImportError
        Without scikit-learn.
    """
    features, labels = getattr(_sklearn_datasets(), f"load_{name}")(return_X_y=True)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    return Table(torch.from_numpy(standard), torch.from_numpy(labels.astype(np.int64)))


@functools.cache
def _source(folder: str) -> bytes:
    parts = []
    for module in TEXT_MODULES:
        try:
            parts.append((Path(folder) / f"{module}.py").read_bytes())
        except OSError:
            raise FileNotFoundError(
                f"the zoo's text is the standard library's source, and {module}.py is not to be read in {folder} (a zipped or "
                "stripped Python?): use a Python installed with its .py files"
            ) from None
    # One text on every system: some installers write other line ends.
    return b"\n".join(parts).replace(b"\r\n", b"\n")


def text(*, coarse: bool = False) -> Tensor:
    """Return the source of :data:`TEXT_MODULES` as tokens, about one million; the text is that of the running Python's version.

    Parameters
    ----------
    coarse : bool
        False: the bytes, 0 to 255. True: the symbols 0 to 15 of :data:`COARSE_ALPHABET`.

    Returns
    -------
    Tensor of int64, one dimension, on the CPU

    Raises
    ------
    FileNotFoundError
        Where Python came without its standard library's .py files.
    """
    # From the installation's folder and not by import: neither a module of the same name elsewhere nor one compiled into
    # the interpreter can take a file's place.
    tokens = np.frombuffer(_source(sysconfig.get_path("stdlib")), dtype=np.uint8)
    if coarse:
        symbols = np.full(256, len(COARSE_ALPHABET), dtype=np.uint8)
        for symbol, characters in enumerate(COARSE_ALPHABET):
            symbols[list(characters.encode())] = symbol
        tokens = symbols[tokens]
    return torch.from_numpy(tokens.astype(np.int64))
