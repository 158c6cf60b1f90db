"""Two probes side by side: which blocks became rougher or smoother, as far as their intervals can tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deva_theory.smoothness.estimators.estimate import Bounds
from deva_theory.smoothness.result import NORM_LABELS, ProbeResult, write_rows

ROUGHER, SMOOTHER, OPEN = "b rougher", "b smoother", "not separated"
"""The verdicts."""
_TOLD = ("curvature", "dtype", "eval_mode", "batches", "weights")
"""Settings that change what a value means; a difference is worth a line."""


@dataclass(frozen=True)
class Comparison:
    """One block in one norm.

    Attributes
    ----------
    block, norm : str
    size : int
        Parameters of the block, in the first probe.
    a, b : (float, float)
        The two intervals.
    ratio : (float, float)
        ``(lower_b / upper_a, upper_b / lower_a)``: holds b/a if both intervals hold; the upper end may be infinite.
    verdict : str
        :data:`ROUGHER` if the ratio exceeds 1 throughout, :data:`SMOOTHER` if it stays below, otherwise :data:`OPEN`.
    """

    block: str
    norm: str
    size: int
    a: tuple[float, float]
    b: tuple[float, float]
    ratio: tuple[float, float]
    verdict: str


@dataclass(frozen=True)
class ComparedResults:
    """Two probes, block by block.

    Attributes
    ----------
    entries : tuple of Comparison
        Blocks and norms that both probes have, in the order of the first.
    only_a, only_b : tuple of str
        What one probe has and the other lacks: a block, ``"norm l11"``, or ``"block (norm)"`` where the others have that norm.
    remarks : tuple of str
        Differences of settings and sizes under which a ratio compares unlike things.
    """

    entries: tuple[Comparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> str:
        """Return a table: a line per block and norm, then counts, what only one probe has, and remarks."""
        table = [("block", "norm", "a", "b", "b/a", "")]
        for entry in self.entries:
            table.append((
                entry.block, _label(entry.norm), _interval(entry.a), _interval(entry.b), _interval(entry.ratio, digits=3), entry.verdict
            ))
        widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
        lines = []
        for line in table:
            # Words to the left, numbers to the right.
            cells = [cell.rjust(w) if 2 <= k <= 4 else cell.ljust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        verdicts = [entry.verdict for entry in self.entries]
        lines += ["", ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (ROUGHER, SMOOTHER, OPEN))]
        lines += [f"only in {side}: {', '.join(names)}" for side, names in (("a", self.only_a), ("b", self.only_b)) if names]
        lines += self.remarks
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per block and norm."""
        return [
            {
                "block": entry.block, "norm": entry.norm, "size": entry.size,
                "a_lower": entry.a[0], "a_upper": entry.a[1], "b_lower": entry.b[0], "b_upper": entry.b[1],
                "ratio_lower": entry.ratio[0], "ratio_upper": entry.ratio[1], "verdict": entry.verdict,
            }
            for entry in self.entries
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; an infinite end is None."""
        rows = [{k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()} for row in self.rows()]
        return {"rows": rows, "only_a": list(self.only_a), "only_b": list(self.only_b), "remarks": list(self.remarks)}

    def to_csv(self, path: Path | str) -> None:
        """Write :meth:`rows` to a CSV file, whole or not at all."""
        write_rows(Path(path), self.rows())


def compare(a: ProbeResult, b: ProbeResult) -> ComparedResults:
    """Compare two probes block by block, with verdicts that follow from the intervals alone.

    Parameters
    ----------
    a, b : ProbeResult
        Of one model at two times, say, or of two models with blocks of the same names.

    Returns
    -------
    ComparedResults

    Notes
    -----
    A verdict is wrong with at most the sum of the two intervals' failure probabilities; those of ``l11`` are asymptotic.

    Examples
    --------
    >>> import torch
    >>> from deva_theory.smoothness.probing import probe
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> model, batch = torch.nn.Linear(2, 1, bias=False).double(), (x, torch.zeros(2, 1, dtype=torch.float64))
    >>> a = probe(model, torch.nn.MSELoss(), batch)
    >>> b = probe(model, torch.nn.MSELoss(), (3 * x, batch[1]))
    >>> [(entry.block, entry.verdict) for entry in compare(a, b)]
    [('weight', 'b rougher')]
    """
    found_a = {(block.name, norm): (block.size, estimate.bilinear) for block in a for norm, estimate in block.estimates.items()}
    found_b = {(block.name, norm): (block.size, estimate.bilinear) for block in b for norm, estimate in block.estimates.items()}
    entries, remarks = [], []
    for key, (size, first) in found_a.items():
        if key not in found_b:
            continue
        other, second = found_b[key]
        if other != size:
            remarks.append(f"{key[0]} has {size} parameters in a and {other} in b")
        low, high = _ratio(first, second)
        verdict = ROUGHER if low > 1 else SMOOTHER if high < 1 else OPEN
        entries.append(
            Comparison(key[0], key[1], size, (first.lower, first.upper), (second.lower, second.upper), (low, high), verdict)
        )
    for setting in _TOLD:
        mine, theirs = a.settings.get(setting), b.settings.get(setting)
        if mine != theirs:
            remarks.append(f"the probes differ in {setting.replace('_', ' ')}: {mine} in a, {theirs} in b")
    return ComparedResults(
        tuple(entries),
        _alone(found_a, found_b),
        _alone(found_b, found_a),
        tuple(dict.fromkeys(remarks)),
    )


def _alone(mine: Iterable[tuple[str, str]], theirs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Name what is in the first only, whole blocks and whole norms once."""
    other = set(theirs)
    blocks, norms = {block for block, _ in other}, {norm for _, norm in other}
    names = (
        block if block not in blocks else f"norm {norm}" if norm not in norms else f"{block} ({norm})"
        for block, norm in mine if (block, norm) not in other
    )
    return tuple(dict.fromkeys(names))


def _ratio(a: Bounds, b: Bounds) -> tuple[float, float]:
    """Return the range of b/a; 0/0 may be anything."""
    low = b.lower / a.upper if a.upper > 0 else (math.inf if b.lower > 0 else 0.0)
    high = b.upper / a.lower if a.lower > 0 else math.inf
    return low, high


def _interval(ends: tuple[float, float], digits: int = 4) -> str:
    return f"[{ends[0]:.{digits}g}, {ends[1]:.{digits}g}]"


def _label(norm: str) -> str:
    plain = norm.removeprefix("gamma-")
    return NORM_LABELS.get(plain, plain) + (", Γ" if plain != norm else "")
