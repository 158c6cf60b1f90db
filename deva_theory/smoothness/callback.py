"""Probes during training: a callback that collects intervals at chosen steps and leaves the training as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deva_theory.smoothness.curvature.objective import Loss, ProbeError, as_batches
from deva_theory.smoothness.estimators.estimate import NORMS
from deva_theory.smoothness.probing import check_limit, probe
from deva_theory.smoothness.result import NORM_LABELS, ProbeResult

_IN_LEGEND = 12
"""More blocks than this are told apart by a colour bar."""


class ProbeCallback:
    """Probe a model at chosen steps of its training.

    The parameters, their gradients, the modules' modes and torch's random state are what they were before the call:
    the training with the callback is, bit for bit, the training without it.

    Parameters
    ----------
    loss, batches
        As for :func:`~deva_theory.smoothness.probing.probe`; the batches are read once and serve every probe.
    every : int, optional
        Probe at the steps that it divides.
    at : int or iterable of int, optional
        Probe at these steps, also.
    folder : path, optional
        Each result is written to ``step-<number>.json`` there as soon as it is there.
    **options
        Of :func:`~deva_theory.smoothness.probing.probe`, except ``resume``: a journal belongs to one set of parameters.

    Attributes
    ----------
    results : dict
        Step to :class:`~deva_theory.smoothness.result.ProbeResult`, in the order of the calls.

    Raises
    ------
    ProbeError
        No step is ever probed, a step below 0, or ``resume`` among the options.

    Examples
    --------
    >>> from deva_theory.problems import zoo
    >>> problem = zoo.load("logistic", size="tiny", dtype=torch.float64)
    >>> callback = ProbeCallback(problem.criterion, problem.batches, at=(1, 4))
    >>> _ = problem.train(4, callback=callback)
    >>> list(callback.results)
    [1, 4]
    """

    def __init__(
        self,
        loss: Loss | nn.Module | None,
        batches: Any,
        *,
        every: int | None = None,
        at: int | Iterable[int] | None = None,
        folder: Path | str | None = None,
        **options: Any,
    ) -> None:
        if every is None and at is None:
            raise ProbeError("no step is probed: give every=, at=, or both")
        if every is not None and (not _is_step(every) or every < 1):
            raise ProbeError(f"every is {every!r}; it must be an integer, at least 1")
        self.every = every
        steps = () if at is None else tuple(at) if isinstance(at, Iterable) else (at,)
        if not all(_is_step(step) for step in steps):
            raise ProbeError(f"at is {at!r}; give a step or a sequence of steps, as integers")
        self.at = frozenset(steps)
        if any(step < 0 for step in self.at):
            raise ProbeError(f"at holds the step {min(self.at)}; steps are not negative")
        if options.get("resume") is not None:
            raise ProbeError("resume= is for one set of parameters, and training changes them: use folder= to keep results as they come")
        self.loss = loss
        limit = options.pop("max_batches", None)
        check_limit(limit)
        self.batches = as_batches(batches, limit=limit)
        self.folder = None if folder is None else Path(folder)
        self.options = options
        self.results: dict[int, ProbeResult] = {}

    def __call__(self, step: int, model: nn.Module) -> ProbeResult | None:
        """Probe if it is time; return the result, or None."""
        if not (step in self.at or (self.every is not None and step % self.every == 0)):
            return None
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        # A probe outside evaluation mode may draw dropout masks; the training's own draws must not notice.
        with torch.random.fork_rng(devices=list(devices)):
            result = probe(model, self.loss, self.batches, **self.options)
        self.results[step] = result
        if self.folder is not None:
            result.to_json(self.folder / f"step-{step:06d}.json")
        return result

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per step, block and norm."""
        return [{"step": step, **row} for step, result in self.results.items() for row in result.rows()]

    def to_dataframe(self) -> Any:
        """Return :meth:`rows` as a pandas DataFrame (pandas is imported here)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def plot(self, ax: Any = None, norm: str = "l2") -> Any:
        """Draw each block's interval over the steps, as a band, on a logarithmic axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        norm : str
            One of the probed norms.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ProbeError
            Nothing was probed yet, or not in this norm.
        """
        norms = list(dict.fromkeys(name for result in self.results.values() for name in result.norms))
        if norm not in norms:
            raise ProbeError(f"norm {norm!r} was not probed; there is {', '.join(norms) or 'no result yet'}")
        import matplotlib.pyplot as plt
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        if ax is None:
            _, ax = plt.subplots()
        names = list(dict.fromkeys(block.name for result in self.results.values() for block in result))
        # By depth, dark to bright; the brightest end would be too pale on white.
        depth = Normalize(0, max(len(names) - 1, 1) / 0.9)
        colours = plt.get_cmap("viridis")
        for k, name in enumerate(names):
            bands = [
                (step, block.estimates[norm].bilinear)
                for step, result in sorted(self.results.items())
                for block in result
                if block.name == name and norm in block.estimates
            ]
            points = [(step, b.lower, b.upper) for step, b in bands if b.lower > 0 and math.isfinite(b.upper)]
            if not points:
                continue
            steps, lower, upper = zip(*points, strict=True)
            colour = colours(depth(k))
            ax.fill_between(steps, lower, upper, color=colour, alpha=0.35, linewidth=0)
            middle = [math.sqrt(low * high) for low, high in zip(lower, upper, strict=True)]
            ax.plot(steps, middle, color=colour, marker="o", markersize=3, linewidth=1, label=name)
        ax.set_yscale("log")
        ax.set_xlabel("training step")
        plain = norm.removeprefix("gamma-")
        ax.set_ylabel((NORM_LABELS[plain] if plain in NORMS else plain) + (", Γ" if plain != norm else "") + " (certified interval)")
        if len(names) > _IN_LEGEND:
            bar = ScalarMappable(depth, colours)
            ax.figure.colorbar(bar, ax=ax, label="block, in the order of the model", boundaries=range(len(names) + 1))
        elif ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
