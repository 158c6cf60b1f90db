"""What is probed, wherever it came from."""

import dataclasses
from typing import Any

from torch import nn

from deva_theory.problems import zoo

__all__ = ["Subject"]


@dataclasses.dataclass
class Subject:
    """A model with loss and data, ready to be probed.

    Attributes
    ----------
    model : nn.Module
        On the device and in the dtype that were asked for.
    loss : callable, criterion or None
    batches
        What `deva_theory.smoothness.probing.probe` takes.
    remarks : list of str
        What a reader of the results must know.
    problem : ZooProblem or None
        Where training gradients come from.
    """

    model: nn.Module
    loss: Any
    batches: Any
    remarks: list[str] = dataclasses.field(default_factory=list)
    problem: zoo.ZooProblem | None = None
