r"""Secant estimates of the smoothness along a training trajectory, and the fit ``L ≈ L0 + L1‖g‖_*``.

For the same fixed data at two observed points,

    ‖∇f(x_{t+1}) - ∇f(x_t)‖_* / ‖x_{t+1} - x_t‖ ,

with the pairs ℓ2/ℓ2, ℓ1/ℓ∞, nuclear/spectral.  Because ``∇f(y) - ∇f(x) = ∫ ∇²f(x + s(y-x)) (y-x) ds``, a secant is a *lower* bound on the
supremum over the segment of the operator norm ‖∇²f‖ (max|λ|, ‖·‖_{∞→1}, ‖·‖_{S∞→S1}), never an upper one.  That holds for a block of
*all* parameters that moved.  A smaller block's own gradient also changes because the others moved; ``isolated=True`` evaluates the
block's gradient with the other blocks held at x_{t+1}, and the bound is then one on the block's own ∇²_bb f.

Zhang, He, Sra, Jadbabaie (2020) fit the same line with the Euclidean pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deva_theory.geometry import L2
from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.objective import Batch, Loss, ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.ratios.ratio import finite_or_none
from deva_theory.smoothness.secant_fit import LineFit, fit_line

NORMS = ("l2", "linf", "spectral")
_LEAST = 3
"""Secants a line is fitted to at least: two always lie on one."""


@dataclass(frozen=True)
class Secant:
    """One block and norm between two observations.

    Attributes
    ----------
    block, norm : str
    start, end : int
        The steps that were given to :meth:`SecantRecorder.observe`.
    value : float
        ``change / distance``.
    change, distance : float
        ``‖∇f(x_{t+1}) - ∇f(x_t)‖_*``, ``‖x_{t+1} - x_t‖``.
    gradient_norm : float
        Mean of ‖∇f‖_* at both ends, the abscissa of the fit.
    rounding : float
        ``ε (‖∇f(x_t)‖_* + ‖∇f(x_{t+1})‖_*) / distance`` with ε of the model's dtype: secants of this size are noise.
    """

    block: str
    norm: str
    start: int
    end: int
    value: float
    change: float
    distance: float
    gradient_norm: float
    rounding: float


@dataclass(frozen=True)
class SecantResult:
    """Secants of a trajectory.

    Attributes
    ----------
    secants : tuple of Secant
    fits : dict
        ``{(block, norm): LineFit}``, where there are at least three secants.
    steps : tuple of int
        Observed steps.
    losses : tuple of float
        f at each.
    isolated : bool
        See :class:`SecantRecorder`.
    notes : tuple of str
        What was skipped, and what the numbers do not say.
    """

    secants: tuple[Secant, ...]
    fits: dict[tuple[str, str], LineFit]
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    isolated: bool
    notes: tuple[str, ...] = ()

    def of(self, block: str, norm: str) -> tuple[Secant, ...]:
        """Return the secants of one block and norm, in order."""
        return tuple(s for s in self.secants if (s.block, s.norm) == (block, norm))

    def fit(self, block: str, norm: str) -> LineFit:
        """Return one fit.

        Raises
        ------
        KeyError
            Naming what there is.
        """
        if (block, norm) not in self.fits:
            raise KeyError(f"no fit of block {block!r} in {norm!r}; fits: {', '.join(f'{b} {n}' for b, n in self.fits) or 'none'}")
        return self.fits[block, norm]

    def summary(self) -> str:
        """Return a table: a line per block and norm."""
        lines = [["block", "norm", "secants", "median", "max", "L0", "L1", "R²"]]
        for block, norm in dict.fromkeys((s.block, s.norm) for s in self.secants):
            values = [s.value for s in self.of(block, norm)]
            fit = self.fits.get((block, norm))
            fitted = [f"{fit.L0:.4g}", f"{fit.L1:.4g}", f"{fit.r_squared:.3f}"] if fit else ["", "", ""]
            lines.append([block, norm, str(len(values)), f"{float(np.median(values)):.4g}", f"{max(values):.4g}", *fitted])
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        text = ["  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))) for line in lines]
        span = f"{len(self.steps)} observations, steps {self.steps[0]} to {self.steps[-1]}"
        text += ["", f"{span}; each secant is a lower bound along its segment"]
        return "\n".join(text + [f"*  {note}" for note in self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; infinite numbers and NaN as None."""
        return {
            "steps": list(self.steps), "losses": list(self.losses), "isolated": self.isolated, "notes": list(self.notes),
            "secants": [{k: finite_or_none(v) if isinstance(v, float) else v for k, v in vars(s).items()} for s in self.secants],
            "fits": [{"block": block, "norm": norm, **fit.to_dict()} for (block, norm), fit in self.fits.items()],
        }

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row per secant (pandas is imported here)."""
        import pandas

        return pandas.DataFrame([vars(s) for s in self.secants])

    def plot(self, ax: Any = None, *, norm: str | None = None) -> Any:
        """Draw secants over gradient norms, a colour and marker per block, with the fitted lines; logarithmic axes.

        Parameters
        ----------
        norm : str, optional
            Default: the first that was recorded; norms do not share an axis.

        Returns
        -------
        matplotlib Axes
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        norm = norm or self.secants[0].norm
        colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F")
        for k, block in enumerate(dict.fromkeys(s.block for s in self.secants)):
            points = [s for s in self.of(block, norm) if s.value > 0 and s.gradient_norm > 0]
            if not points:
                continue
            x = np.array([s.gradient_norm for s in points])
            ax.plot(x, [s.value for s in points], "os^Dv<>P"[k % 8], markersize=3.5, color=colours[k % 8], label=block)
            if (block, norm) in self.fits:
                fit, grid = self.fits[block, norm], np.geomspace(x.min(), x.max(), 50)
                line = fit.L0 + fit.L1 * grid
                if line.max() > 0:
                    ax.plot(grid, line, color=colours[k % 8], linewidth=1.0)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(f"dual norm of the gradient ({norm})")
        ax.set_ylabel(f"secant smoothness ({norm})")
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
        return ax


@dataclass(frozen=True)
class _Point:
    step: int
    parameters: dict[str, Tensor]
    gradient: dict[str, Tensor]
    loss: float
    buffers: dict[str, Tensor]


class SecantRecorder:
    """Records secants while a model trains.

    Parameters
    ----------
    model, loss, batches, blocks, select, weights
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`.
        The batches are read once: all observations see the same data, in
        evaluation mode, with the same random numbers.
    norms : sequence of str
        Of "l2", "linf", "spectral".
    isolated : bool
        One more gradient per block and observation, for secants that bound each block's own Hessian; see the module.

    Notes
    -----
    Training is not disturbed: modes, ``.grad``, buffers, parameters and the random state of torch are as before.  Between observations the
    recorder holds a copy of the parameters and their gradient.

    Raises
    ------
    ProbeError
        As the operator; an unknown norm.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> recorder = SecantRecorder(model, torch.nn.MSELoss(), (x, torch.zeros(2, 1, dtype=torch.float64)), norms=("l2",))
    >>> recorder.observe(0)
    >>> with torch.no_grad(): _ = model.weight.add_(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    >>> recorder.observe(1)
    >>> round(recorder.result().secants[0].value, 6)  # H = diag(4, 1)
    4.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | nn.Module | None,
        batches: Any,
        blocks: str | Mapping[str, str] | Sequence[Block] = "tensor",
        norms: str | Sequence[str] = NORMS,
        *,
        select: str | None = None,
        isolated: bool = False,
        weights: Callable[[Batch], float] | Sequence[float] | None = None,
    ) -> None:
        self.norms = (norms,) if isinstance(norms, str) else tuple(norms)
        unknown = next((n for n in self.norms if n not in NORMS), None)
        if unknown is not None or not self.norms:
            raise ProbeError(f"norm {unknown!r} is unknown; use some of {', '.join(NORMS)}")
        # Not kept: the parameters move between observations.
        self._operator = CurvatureOperator(model, loss, batches, blocks=blocks, select=select, weights=weights, keep_graph=False)
        self.isolated = isolated
        self._secants: list[Secant] = []
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._notes: dict[str, None] = {}
        self._before: _Point | None = None

    def observe(self, step: int) -> None:
        """Record the model's present parameters and their gradient.

        Parameters
        ----------
        step : int
            Larger than the last one.

        Raises
        ------
        ProbeError
            The gradient is NaN or infinite (what was recorded before stays), or the step does not increase.
        """
        step = int(step)
        if self._steps and step <= self._steps[-1]:
            raise ProbeError(f"step {step} follows step {self._steps[-1]}; steps must increase")
        operator = self._operator
        secants: list[Secant] = []
        try:
            gradient = self._gradient()
            parameters = {name: p.detach().clone() for name, p in operator.parameters.items()}
            buffers = {name: b.detach().clone() for name, b in operator.model.named_buffers() if b.dtype.is_floating_point}
            point = _Point(step, parameters, gradient, operator.loss_value, buffers)
            if self._before is not None:
                secants = list(self._compare(self._before, point))
        except ProbeError as error:
            raise ProbeError(f"step {step}: {error}") from error
        self._secants += secants
        self._before = point
        self._steps.append(step)
        self._losses.append(point.loss)

    def result(self, *, level: float = 0.9, resamples: int = 200, seed: int = 0) -> SecantResult:
        """Return the secants so far with their fits.

        Parameters
        ----------
        level, resamples, seed
            Of the bootstrap, see :func:`~deva_theory.smoothness.secant_fit.fit_line`.

        Raises
        ------
        ProbeError
            Fewer than two observations.
        """
        if len(self._steps) < 2:
            raise ProbeError(f"{len(self._steps)} observation(s); a secant needs two: call observe() at least twice")
        groups: dict[tuple[str, str], list[Secant]] = {}
        for secant in self._secants:
            groups.setdefault((secant.block, secant.norm), []).append(secant)
        fits = {
            key: fit_line([s.gradient_norm for s in own], [s.value for s in own], level=level, resamples=resamples, seed=seed)
            for key, own in groups.items()
            if len(own) >= _LEAST
        }
        notes = list(self._notes)
        if len(fits) < len(groups):
            notes.append(f"fewer than {_LEAST} secants of {len(groups) - len(fits)} block(s) and norm(s): no line is fitted")
        if not self.isolated and len(self._operator.blocks) > 1:
            notes.append("all blocks moved at once: a block's secant includes the others' movement; isolated=True separates them")
        return SecantResult(tuple(self._secants), fits, tuple(self._steps), tuple(self._losses), self.isolated, tuple(notes))

    def _gradient(self) -> dict[str, Tensor]:
        """Return the gradient, with the same random numbers at every observation."""
        device = self._operator.device
        cuda = device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if cuda else []):
            # Not torch.manual_seed: it would also seed the devices whose state is not put back.
            torch.default_generator.manual_seed(0)
            if cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(0)
            return self._operator.gradient()

    def _compare(self, before: _Point, now: _Point) -> Iterator[Secant]:
        if any(not torch.equal(b, now.buffers[name]) for name, b in before.buffers.items() if name in now.buffers):
            self._notes["buffers changed between observations (batch norm's statistics, say): the loss itself changed with them"] = None
        epsilon = torch.finfo(self._operator.dtype).eps
        for block in self._operator.blocks:
            x, y = (block.gather(dict(point.parameters)).double() for point in (before, now))
            if bool((x == y).all()):
                self._notes[f"block {block.name!r} did not move between steps {before.step} and {now.step}: skipped"] = None
                continue
            start = before.gradient
            if self.isolated and len(self._operator.blocks) > 1:
                with self._moved_back(block, before.parameters):
                    start = self._gradient()
            g, h = (block.gather(dict(gradient)).double() for gradient in (start, now.gradient))
            for norm in self.norms:
                distance = _norm(block, norm, y - x)
                change, *ends = (_dual_norm(block, norm, v) for v in (h - g, g, h))
                rounding = epsilon * sum(ends) / distance
                yield Secant(block.name, norm, before.step, now.step, change / distance, change, distance, sum(ends) / 2, rounding)

    @contextmanager
    def _moved_back(self, block: Block, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Put the block's entries back to where they were; the training's own storage is untouched and returns."""
        own = {name: self._operator.parameters[name] for name in block.parameters}
        data = {name: p.data for name, p in own.items()}
        try:
            for name, p in own.items():
                moved = data[name].clone()
                for piece in block.pieces:
                    if piece.parameter == name:
                        moved[piece.index or ...] = parameters[name][piece.index or ...]
                p.data = moved
            yield
        finally:
            for name, p in own.items():
                p.data = data[name]


def _norm(block: Block, norm: str, v: Tensor) -> float:
    return (L2().norm(v) if norm == "l2" else block.ball(norm).gauge(v.unsqueeze(0))[0]).item()


def _dual_norm(block: Block, norm: str, v: Tensor) -> float:
    return (L2().dual_norm(v) if norm == "l2" else block.ball(norm).dual_norm(v.unsqueeze(0))[0]).item()
