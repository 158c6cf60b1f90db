"""What every problem of the zoo shares: the problem with its trainer, seeded streams and the initialisation."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from deva_theory.problems.zoo.data import Source

SIZES = ("tiny", "small")
"""The sizes of every problem."""

_STREAMS = ("model", "probe", "train")


@dataclass(frozen=True)
class Recipe:
    """What a family's builder returns; :func:`deva_theory.problems.zoo.load` makes the problem of it.

    Attributes
    ----------
    model : nn.Module
        Its parameters are drawn afterwards, by :func:`initialise`.
    data : Source
        The training data.
    train_batch, probe_batch : int
        Examples per mini-batch in training, and by default in the probe.
    rate : float
        AdamW's default learning rate.
    """

    model: nn.Module
    data: Source
    train_batch: int
    probe_batch: int
    rate: float


# Compared by identity: equality of fields is no truth value where the fields are tensors.
@dataclass(frozen=True, eq=False)
class ZooProblem:
    """A model, its loss and the fixed mini-batches over which a probe takes the loss.

    Attributes
    ----------
    name : str
        The name :func:`deva_theory.problems.zoo.load` was given.
    model : nn.Module
        Maps inputs to logits, shape ``(batch, classes)``, or ``(batch, vocabulary, time)`` for the language models.
    criterion : nn.Module
        ``criterion(model(inputs), targets)`` is the mean cross-entropy in nats over all predictions of the mini-batch.
    batches : list of (inputs, targets)
        The probe data. The last mini-batch may be smaller: weight by ``targets.numel()`` for the mean over all.
    data : Source, optional
        The training data, of which the probe data are a subset.
    train_batch : int
        Examples per training step.
    rate : float
        AdamW's learning rate where :meth:`train` is given none.
    """

    name: str
    model: nn.Module
    criterion: nn.Module
    batches: list[tuple[Tensor, Tensor]] = field(repr=False)
    data: Source | None = field(default=None, repr=False)
    train_batch: int = 64
    rate: float = 1e-3

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the scalar ``criterion(model(inputs), targets)`` of one mini-batch, in nats per prediction."""
        inputs, targets = batch
        return self.criterion(model(inputs), targets)

    def train(
        self,
        steps: int,
        *,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
        lr: float | None = None,
        seed: int = 0,
        callback: Callable[[int, nn.Module], object] | None = None,
    ) -> list[float]:
        """Train ``model`` in place on mini-batches drawn with replacement from the training data.

        The model is in train mode meanwhile; the mode of every module is then what it was, and the gradients are cleared.

        Parameters
        ----------
        steps : int, not negative
            Number of optimizer steps.
        optimizer : callable, optional
            Takes the list of parameters and returns the optimizer; AdamW by default.
        lr : float, positive, optional
            AdamW's learning rate; by default the problem's own, ``rate``. Not with ``optimizer``, which sets its own.
        seed : int, not negative
            Decides the mini-batches, together with nothing else.
        callback : callable, optional
            ``callback(step, model)`` after each step, ``step = 1, …, steps``; the step's gradients are still there.

        Returns
        -------
        list of float
            The mini-batch losses in nats, each from before its step; length ``steps``.

        Raises
        ------
        ValueError
            For a negative count or seed, a rate that is not positive and finite, a rate next to an optimizer, or a
            problem without training data.
        """
        steps, seed = at_least("steps", steps, 0), at_least("seed", seed, 0)
        if self.data is None:
            raise ValueError(f"the problem {self.name!r} has no training data")
        if lr is not None and optimizer is not None:
            raise ValueError("lr is AdamW's: an optimizer of your own sets its own learning rate")
        if lr is not None and not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr must be positive and finite, not {lr!r}")
        parameters = list(self.model.parameters())
        rule = torch.optim.AdamW(parameters, lr=lr or self.rate) if optimizer is None else optimizer(parameters)
        draws = generator(seed, "train")
        modes = [(module, module.training) for module in self.model.modules()]
        losses = []
        try:
            for step in range(1, steps + 1):
                self.model.train()   # every step, as the callback may probe in evaluation mode
                index = torch.randint(len(self.data), (self.train_batch,), generator=draws, device="cpu")
                rule.zero_grad()
                with torch.enable_grad():
                    loss = self.loss(self.model, self.data.take(index))
                    loss.backward()
                rule.step()
                losses.append(loss.item())
                if callback is not None:
                    callback(step, self.model)
        finally:
            for module, mode in modes:
                module.training = mode
            self.model.zero_grad()
        return losses


def at_least(name: str, value: int, least: int) -> int:
    """Return ``value`` as an int; a ValueError names it where it is no integer or below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator; the streams "model", "probe" and "train" of one seed are independent."""
    state = np.random.SeedSequence([seed, _STREAMS.index(stream)]).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(state) >> 1)


def pristine(build: Callable[[], Recipe], seed: int) -> Recipe:
    """Return ``build()``, its model initialised from ``seed`` in float64 on the CPU and in train mode.

    The global generators stay as they were, and the caller's default device and dtype decide nothing.
    """
    # The layers' constructors draw from the CPU's global generator, numbers that `initialise` overwrites.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        recipe = build()
    recipe.model.double()
    initialise(recipe.model, generator(seed, "model"))
    return recipe


@torch.no_grad()
def initialise(model: nn.Module, draws: torch.Generator) -> None:
    """Draw every parameter in place, uniform on ±1/√fan-in; normalisations stay at weight one and bias zero.

    Fan-in is the number of inputs of a linear map's or convolution's output, the width of an embedding, the hidden size of
    an LSTM (PyTorch's rule; the variance 1/(3·768) is the usual 0.02² of a transformer of width 768).
    A parameter that two modules share is drawn once, by the first.
    """
    drawn: set[nn.Parameter] = set()
    for module in model.modules():
        fan_in = _fan_in(module)
        for parameter in module.parameters(recurse=False):
            if fan_in and parameter not in drawn:
                bound = fan_in**-0.5
                parameter.uniform_(-bound, bound, generator=draws)
                drawn.add(parameter)


def _fan_in(module: nn.Module) -> int | None:
    match module:
        case nn.Linear():
            return module.in_features
        case nn.Conv2d():
            return module.in_channels * math.prod(module.kernel_size)
        case nn.Embedding():
            return module.embedding_dim
        case nn.LSTM():
            return module.hidden_size
    return None
