"""What a comparison of update rules returns, and its forms: text, JSON, data frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deva_theory.smoothness.ratios.ratio import GammaSums, RealisedStep, WorstCaseRatio, finite_or_none


@dataclass(frozen=True)
class GammaStatistics:
    """Entries of Γ over a block.

    Attributes
    ----------
    least, median, largest : float
    share_above_one : float
        Share of entries above 1 by more than rounding (four ulps): where adaptation lengthens the step.
    """

    least: float
    median: float
    largest: float
    share_above_one: float


def gamma_statistics(gamma: Tensor) -> GammaStatistics:
    """Return the statistics of a non-empty tensor."""
    above = (gamma > 1 + 4 * torch.finfo(gamma.dtype).eps).double().mean().item()
    return GammaStatistics(gamma.min().item(), gamma.median().item(), gamma.max().item(), above)


@dataclass(frozen=True)
class RuleRow:
    """One rule on one block.

    Attributes
    ----------
    block, size, depth
        The block, its number of parameters, its position in the model.
    rule, update : str
        The table's name; the name(s) of the update rule(s) that acted.
    geometry : str
        "linf", "spectral", "l2"; joined by "and" where the block's parameters differ.
    gradient_norm : float
        ‖g‖_2.
    step : RealisedStep
        The actual direction.
    adapted : RealisedStep
        Γ applied to the exact gradient's scale-invariant term: the effect of Γ without that of momentum.
    gamma : GammaStatistics or None
        None where the rule has no adaptation.
    worst, worst_adapted : WorstCaseRatio or None
        For the progress of `step` and of `adapted`; None where it was not asked for, or has no meaning (ℓ2).
    sums : GammaSums or None
    notes : tuple of str
    """

    block: str
    size: int
    depth: int
    rule: str
    update: str
    geometry: str
    gradient_norm: float
    step: RealisedStep
    adapted: RealisedStep
    gamma: GammaStatistics | None
    worst: WorstCaseRatio | None
    worst_adapted: WorstCaseRatio | None
    sums: GammaSums | None
    notes: tuple[str, ...] = ()

    def flat(self) -> dict[str, Any]:
        """Return the row as numbers and strings; NaN where there is none."""
        gamma, sums = self.gamma, self.sums
        entry: dict[str, Any] = {
            "block": self.block, "size": self.size, "depth": self.depth, "rule": self.rule, "update": self.update,
            "geometry": self.geometry, "gradient_norm": self.gradient_norm,
            "progress": self.step.progress, "curvature": self.step.curvature,
            "ratio": self.step.ratio, "best_step": self.step.best_step, "decrease": self.step.decrease, "adapted_ratio": self.adapted.ratio,
            "gamma_least": gamma.least if gamma else math.nan, "gamma_median": gamma.median if gamma else math.nan,
            "gamma_largest": gamma.largest if gamma else math.nan, "gamma_above_one": gamma.share_above_one if gamma else math.nan,
        }
        for name, worst in (("worst", self.worst), ("worst_adapted", self.worst_adapted)):
            entry |= {f"{name}_lower": worst.lower if worst else math.nan, f"{name}_upper": worst.upper if worst else math.nan}
        absolute = sums.absolute if sums and sums.absolute is not None else math.nan
        return entry | {"signed_sum": sums.signed if sums else math.nan, "absolute_sum": absolute, "notes": "; ".join(self.notes)}


@dataclass(frozen=True)
class RuleComparison:
    """Rules side by side, block by block.

    Attributes
    ----------
    rows : tuple of RuleRow
        In the order of the model, then of the rules.
    loss : float
        Weighted mean loss at the present parameters.
    settings : dict
    cost : dict
        ``gradients``, ``products``.
    """

    rows: tuple[RuleRow, ...]
    loss: float
    settings: dict[str, Any]
    cost: dict[str, int]

    def __iter__(self) -> Iterator[RuleRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[str, str]) -> RuleRow:
        block, rule = key
        for row in self.rows:
            if (row.block, row.rule) == (block, rule):
                return row
        raise KeyError(
            f"no row of block {block!r} and rule {rule!r}; blocks: {', '.join(dict.fromkeys(r.block for r in self.rows))}; "
            f"rules: {', '.join(dict.fromkeys(r.rule for r in self.rows))}"
        )

    def summary(self) -> str:
        """Return a table: a line per block and rule."""
        header = ["block", "rule", "geometry", "rho", "rho of Γ", "rho, worst case of Γ", "Γ median", "Γ max", "Γ > 1", "decrease"]
        lines = [header]
        for row in self.rows:
            worst, gamma = row.worst_adapted, row.gamma
            lines.append([
                row.block, row.rule, row.geometry, f"{row.step.ratio:.3g}", f"{row.adapted.ratio:.3g}" if gamma else "",
                f"[{worst.lower:.3g}, {worst.upper:.3g}]" if worst else "",
                *((f"{gamma.median:.3g}", f"{gamma.largest:.3g}", f"{gamma.share_above_one:.0%}") if gamma else ("", "", "")),
                f"{row.step.decrease:.3g}" + (" *" if row.notes else ""),
            ])
        widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
        text = ["  ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))) for line in lines]
        text += ["", f"loss {self.loss:.6g}; {self.settings['gradients']} gradients seen; {self.cost['products']} products; "
                 "rho < 1: a larger guaranteed decrease than with Γ = 1 and the exact gradient"]
        text += [f"*  {note}" for note in dict.fromkeys(note for row in self.rows for note in row.notes)]
        return "\n".join(text)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; infinite numbers and NaN as None."""
        rows = [{k: finite_or_none(v) if isinstance(v, float) else v for k, v in row.flat().items()} for row in self.rows]
        return {"loss": self.loss, "settings": self.settings, "cost": self.cost, "rows": rows}

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row per block and rule (pandas is imported here)."""
        import pandas

        return pandas.DataFrame([row.flat() for row in self.rows])
