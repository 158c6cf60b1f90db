"""What a probe returns, and its forms: text, JSON, CSV, data frame, figure."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.sampling import SamplingInterval

FORMAT = "deva_theory probe 1"
NORM_LABELS = {
    "l2": "max |λ|",
    "linf": "‖H‖ ∞→1",
    "spectral": "‖H‖ S∞→S1",
    "l11": "Σ|H_ij|",
}
"""What the `bilinear` value of each norm is; ``gamma-`` in front: weighted by Γ."""


@dataclass(frozen=True)
class BlockResult:
    """One block of a probe.

    Attributes
    ----------
    name : str
    size : int
        Number of parameters.
    depth : int
        Position in the model.
    shapes : tuple of tuple of int
        Of its pieces.
    gradient : dict
        Dual norms of the block's gradient: ``l2``, ``linf`` (its ℓ1 norm) and ``spectral`` (nuclear).
    estimates : dict
        Norm to :class:`~deva_theory.smoothness.estimators.estimate.Estimate`.
    sampling : dict
        Norm to :class:`~deva_theory.smoothness.sampling.SamplingInterval`, where it was asked for.
    """

    name: str
    size: int
    depth: int
    shapes: tuple[tuple[int, ...], ...]
    gradient: dict[str, float]
    estimates: dict[str, Estimate]
    sampling: dict[str, SamplingInterval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name, "size": self.size, "depth": self.depth, "shapes": [list(s) for s in self.shapes],
            "gradient": self.gradient, "estimates": {k: e.to_dict() for k, e in self.estimates.items()},
            "sampling": {k: s.to_dict() for k, s in self.sampling.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BlockResult:
        """Return what :meth:`to_dict` wrote."""
        estimates = {k: Estimate.from_dict(e) for k, e in data["estimates"].items()}
        if any(e.size != data["size"] for e in estimates.values()):
            raise ValueError(f"block {data['name']!r} has {data['size']} parameters, and an estimate of another size")
        return cls(
            data["name"], data["size"], data["depth"], tuple(tuple(s) for s in data["shapes"]), dict(data["gradient"]), estimates,
            {k: SamplingInterval(**s) for k, s in data["sampling"].items()},
        )


@dataclass(frozen=True)
class ProbeResult:
    """Intervals of every block, in the order of the model.

    Attributes
    ----------
    blocks : tuple of BlockResult
    loss : float
        The weighted mean loss at the probed parameters.
    settings : dict
        What was asked for.
    checks : dict
        Relative errors of the operator's self-checks; empty if they were switched off.
    cost : dict
        ``gradients``, ``products``, ``seconds``.
    provenance : dict
        Versions, commit, threads.
    """

    blocks: tuple[BlockResult, ...]
    loss: float
    settings: dict[str, Any]
    checks: dict[str, Any]
    cost: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> BlockResult:
        for block in self.blocks:
            if block.name == name:
                return block
        raise KeyError(f"no block {name!r}; blocks: {', '.join(block.name for block in self.blocks)}")

    def __iter__(self) -> Iterator[BlockResult]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms that were probed."""
        return tuple(dict.fromkeys(norm for block in self.blocks for norm in block.estimates))

    def summary(self) -> str:
        """Return a table: a line per block, an interval per norm, marked where it is wider than the requested tolerance."""
        header = ["block", "size"]
        for norm in self.norms:
            header += [_label(norm), "up/low"]
        rows = []
        for block in self.blocks:
            row = [block.name, str(block.size)]
            for norm in self.norms:
                estimate = block.estimates.get(norm)
                if estimate is None:
                    row += ["", ""]
                    continue
                bounds = estimate.bilinear
                mark = " !" if not estimate.met else " ~" if self._by_value(norm, estimate) else ""
                row += [f"[{bounds.lower:.4g}, {bounds.upper:.4g}]", f"{bounds.ratio:.3f}{mark}"]
            rows.append(row)
        widths = [max(len(line[k]) for line in [header, *rows]) for k in range(len(header))]
        lines = ["  ".join(cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True)))
                 for line in [header, *rows]]
        every = [e for b in self.blocks for e in b.estimates.values()]
        chance = max((e.bilinear.failure for e in every if not e.bilinear.approximate), default=0.0)
        loose = max((e.bilinear.failure for e in every if e.bilinear.approximate), default=0.0)
        lines.append("")
        lines.append(
            f"loss {self.loss:.6g}; {self.cost['products']:.0f} products in {self.cost['seconds']:.1f} s; "
            + "; ".join(
                [f"each interval is wrong with probability at most {chance:g}"] * any(not e.bilinear.approximate for e in every)
                + [f"confidence intervals for Σ|H_ij| ({1 - loose:.3g}, asymptotically)"] * any(e.bilinear.approximate for e in every)
            )
        )
        if any(not e.met for e in every):
            lines.append("!  the requested tolerance was not met; the interval holds all the same")
        if any(self._by_value(norm, e) for b in self.blocks for norm, e in b.estimates.items()):
            lines.append('~  stopped at the value (stop="value"); the interval is wider than the tolerance')
        return "\n".join(lines)

    def _by_value(self, norm: str, estimate: Estimate) -> bool:
        """Whether an estimate met its stopping rule by the value and not by the interval's width."""
        if self.settings.get("stop") != "value" or norm.removeprefix("gamma-") != "l2":
            return False
        # A factor for the rounding of a ratio that stopped just at the tolerance.
        return estimate.met and estimate.bilinear.ratio > (1 + estimate.tolerance) * (1 + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the witnesses as JSON values."""
        return {
            "format": FORMAT, "loss": self.loss, "settings": self.settings, "checks": self.checks, "cost": self.cost,
            "provenance": self.provenance, "blocks": [block.to_dict() for block in self.blocks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeResult:
        """Return what :meth:`to_dict` wrote.

        Raises
        ------
        ProbeError
            The data are not a probe of this version.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ProbeError(f"this is no probe result of the format {FORMAT!r}")
        try:
            return cls(
                tuple(BlockResult.from_dict(block) for block in data["blocks"]), data["loss"], dict(data["settings"]),
                dict(data["checks"]), dict(data["cost"]), dict(data["provenance"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Entries that are missing, of another type, or contradict each other.
            raise ProbeError(f"its entries are inconsistent: {type(error).__name__}: {error}") from None

    def to_json(self, path: Path | str) -> None:
        """Write the result to a file, whole or not at all."""
        write_whole(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: Path | str) -> ProbeResult:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ProbeError
            The file is missing or no probe result.
        """
        path = Path(path)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ProbeError(f"{path.name}: no such file; write it with probe --json") from None
        except OSError as error:
            raise ProbeError(f"{path.name} cannot be read ({error.strerror})") from None
        except ValueError as error:  # of JSON, of the encoding, or of what it says
            raise ProbeError(f"{path.name} is no probe result ({error})") from None

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per block and norm."""
        return [
            {
                "block": block.name, "size": block.size, "depth": block.depth, "norm": norm,
                "lower": estimate.bilinear.lower, "upper": estimate.bilinear.upper,
                "quadratic_lower": estimate.quadratic.lower if estimate.quadratic else math.nan,
                "quadratic_upper": estimate.quadratic.upper if estimate.quadratic else math.nan,
                "failure": estimate.bilinear.failure, "approximate": estimate.bilinear.approximate,
                "products": estimate.products, "tolerance": estimate.tolerance, "met": estimate.met,
                "lower_method": estimate.bilinear.lower_method, "upper_method": estimate.bilinear.upper_method,
                "sampling_lower": block.sampling[norm].lower if norm in block.sampling else math.nan,
                "sampling_upper": block.sampling[norm].upper if norm in block.sampling else math.nan,
            }
            for block in self.blocks
            for norm, estimate in block.estimates.items()
        ]

    def to_csv(self, path: Path | str) -> None:
        """Write :meth:`rows` to a CSV file, whole or not at all."""
        write_rows(Path(path), self.rows())

    def to_dataframe(self) -> Any:
        """Return :meth:`rows` as a pandas DataFrame (pandas is imported here)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def plot(self, ax: Any = None) -> Any:
        """Draw the intervals of each block over its depth, one marker per norm, on a logarithmic axis.

        Returns
        -------
        matplotlib Axes
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        draw_intervals(ax, {"": self})
        return ax


def draw_intervals(ax: Any, results: Mapping[str, ProbeResult]) -> None:
    """Draw one or more results into one axes: colour and marker by norm, filled and open by result."""
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F")
    markers = "os^Dv<>P"
    norms = list(dict.fromkeys(norm for result in results.values() for norm in result.norms))
    names = list(dict.fromkeys(block.name for result in results.values() for block in result.blocks))
    place = {name: k for k, name in enumerate(names)}
    series = len(norms) * len(results)
    for r, (label, result) in enumerate(results.items()):
        for k, norm in enumerate(norms):
            shift = 0.6 * ((r * len(norms) + k + 0.5) / series - 0.5)
            points = [(place[b.name] + shift, b.estimates[norm].bilinear) for b in result.blocks if norm in b.estimates]
            points = [(x, bounds) for x, bounds in points if bounds.lower > 0 and math.isfinite(bounds.upper)]
            if not points:
                continue
            middle = [math.sqrt(b.lower * b.upper) for _, b in points]
            errors = [
                [m - b.lower for m, (_, b) in zip(middle, points, strict=True)],
                [b.upper - m for m, (_, b) in zip(middle, points, strict=True)],
            ]
            text = _label(norm) + (f", {label}" if label else "")
            ax.errorbar(
                [x for x, _ in points], middle, yerr=errors, linestyle="none", marker=markers[k % len(markers)], markersize=3.5,
                color=colours[k % len(colours)], markerfacecolor=colours[k % len(colours)] if r == 0 else "white", elinewidth=1.0,
                capsize=2.0, label=text,
            )
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)))
    # Long names are drawn while they can be read.
    every = math.ceil(len(names) / 60)
    ax.set_xticklabels([name if k % every == 0 else "" for k, name in enumerate(names)], rotation=90)
    ax.set_xlabel("block, in the order of the model")
    ax.set_ylabel("smoothness (certified interval)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys to a CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["block"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_whole(path: Path, text: str) -> None:
    """Write a file through a temporary one beside it: a reader sees the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _label(norm: str) -> str:
    if norm.startswith("gamma-"):
        return f"{NORM_LABELS[norm.removeprefix('gamma-')]}, Γ"
    return NORM_LABELS[norm]
