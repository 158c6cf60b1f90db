"""Tables: named columns of equal length, written as CSV, compared with tolerances, printed as text.

CSV files are committed, so they are written to be diffed: a fixed number of significant digits, Unix line
ends, columns in the table's order. Comparing allows for that rounding.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ColumnChange", "Table", "compare_tables", "format_table", "read_csv", "write_csv"]

Column = np.ndarray | Sequence[str]
Table = Mapping[str, Column]

DEFAULT_TOLERANCE = (1e-6, 0.0)


@dataclass(frozen=True)
class ColumnChange:
    """One column that differs between two tables.

    Attributes
    ----------
    column : str
        Its name; empty if the tables differ as a whole.
    reason : str
        What differs, in words, with the worst row's numbers.
    deviation : float
        Worst absolute deviation; NaN where that has no meaning.
    row : int or None
        The row of the worst deviation, counted from 0 without the header.
    """

    column: str
    reason: str
    deviation: float = math.nan
    row: int | None = None


def write_csv(path: Path | str, table: Table, digits: int = 6) -> None:
    """Write a table as CSV.

    Parameters
    ----------
    path : Path or str
        The file; its folder is made if needed.
    table : Mapping
        Column name to 1-D array, or to a list of strings; all of one length.
    digits : int, default 6
        Significant digits of floating-point numbers. They keep a ``.`` or an exponent, so that `read_csv`
        finds the same type again.

    Raises
    ------
    ValueError
        If the columns differ in length, are not 1-D, or there are none.
    TypeError
        If a column holds anything but numbers, booleans and strings.
    """
    columns = {name: _column(name, values) for name, values in table.items()}
    _check_lengths(columns, str(path))
    cells = [[_cell(value, digits) for value in values.tolist()] for values in columns.values()]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))


def read_csv(path: Path | str) -> dict[str, np.ndarray]:
    """Read a table that `write_csv` wrote.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    dict
        Column name to 1-D array: int64 or bool if every cell is one, else float64 if every cell is a number
        (``nan`` and ``inf`` included), else strings.

    Raises
    ------
    ValueError
        If the file is empty, repeats a column name, or has a row of another length; names the line.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        if not names:
            raise ValueError(f"{path}: no header line; restore or remove the file")
        if len(set(names)) != len(names):
            raise ValueError(f"{path}: a column name occurs twice in {', '.join(names)}")
        rows = []
        for row in reader:
            if len(row) != len(names):
                raise ValueError(f"{path}, line {reader.line_num}: {len(row)} cells for {len(names)} columns")
            rows.append(row)
    return {name: _parsed([row[i] for row in rows]) for i, name in enumerate(names)}


def compare_tables(
    new: Table,
    old: Table,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
    *,
    digits: int = 6,
) -> list[ColumnChange]:
    """Find the columns in which two tables differ by more than a tolerance.

    A number passes if ``|new - old| <= atol + rtol * |old| + unit``, where `unit` is one unit of the last
    significant digit that `write_csv` keeps of `old`: a value at a rounding boundary may fall to either side.
    Two NaNs are equal, and so are two infinities of one sign. Strings are compared exactly.

    Parameters
    ----------
    new, old : Mapping
        Column name to 1-D array or list of strings.
    tolerances : Mapping, optional
        Column name to ``(rtol, atol)``; ``(1e-6, 0)`` for a numeric column that it does not name.
    digits : int, default 6
        Significant digits that `old` was rounded to.

    Returns
    -------
    list of ColumnChange
        Empty if the tables agree.

    Raises
    ------
    ValueError
        If a tolerance names a column that `new` does not have.
    """
    tolerances = tolerances or {}
    for name in tolerances:
        if name not in new:
            raise ValueError(f"a tolerance names column {name!r}; the table has {', '.join(new)}")
    changes = [ColumnChange(name, "the committed table lacks this column") for name in new if name not in old]
    changes += [ColumnChange(name, "the new table lacks this column") for name in old if name not in new]
    for name in new:
        if name in old:
            rtol, atol = tolerances.get(name, DEFAULT_TOLERANCE)
            new_column, old_column = _column(name, new[name]), _column(name, old[name])
            change = _compare_column(name, new_column, old_column, rtol, atol, digits)
            if change is not None:
                changes.append(change)
    return changes


def format_table(rows: Iterable[Sequence[Any]], headers: Sequence[str], *, digits: int = 4) -> str:
    """Lay out rows as a text table.

    Parameters
    ----------
    rows : iterable of sequences
        Cells: strings stand left, numbers right; None is an empty cell.
    headers : sequence of str
        One for each column.
    digits : int, default 4
        Significant digits of floating-point cells.

    Returns
    -------
    str
        Lines without trailing blanks, joined by newlines; a rule stands under the headers.

    Raises
    ------
    ValueError
        If a row has another length than `headers`.

    Examples
    --------
    >>> print(format_table([("Adam", 0.5), ("SOAP", 12)], ("method", "loss")))
    method  loss
    ------  ----
    Adam     0.5
    SOAP      12
    """
    body = [list(row) for row in rows]
    for i, row in enumerate(body):
        if len(row) != len(headers):
            raise ValueError(f"row {i} has {len(row)} cells, but there are {len(headers)} headers")
    # A column is numeric if no cell in it is text.
    numeric = [bool(body) and not any(isinstance(row[j], str) for row in body) for j in range(len(headers))]
    texts = [list(headers)] + [["" if cell is None else _text(cell, digits) for cell in row] for row in body]
    widths = [max(len(row[j]) for row in texts) for j in range(len(headers))]
    texts.insert(1, ["-" * width for width in widths])
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _column(name: str, values: Column) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"column {name!r} has {array.ndim} dimensions; a table's column has one")
    if array.dtype.kind not in "biufU":
        raise TypeError(f"column {name!r} has dtype {array.dtype}; use numbers, booleans or strings")
    return array


def _check_lengths(columns: Mapping[str, np.ndarray], where: str) -> None:
    if not columns:
        raise ValueError(f"{where}: a table needs at least one column")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"{where}: columns of different lengths ({listing})")


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = f"{value + 0.0:.{digits}g}"  # + 0.0 turns -0.0 into 0.0
        # "1" would be read back as an integer.
        return text if not text.lstrip("-").isdigit() else f"{text}.0"
    return str(value)


def _text(value: Any, digits: int) -> str:
    return f"{float(value):.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def _parsed(cells: list[str]) -> np.ndarray:
    if cells and all(cell in ("true", "false") for cell in cells):
        return np.array([cell == "true" for cell in cells])
    for dtype in (np.int64, np.float64):
        try:
            return np.array([_number(cell, dtype) for cell in cells], dtype=dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(cells)


def _number(cell: str, dtype: type) -> float:
    # int("1_000") and float(" 1") are fine for Python, but no number that write_csv makes.
    if "_" in cell or cell != cell.strip():
        raise ValueError(cell)
    return int(cell) if dtype is np.int64 else float(cell)


def _compare_column(
    name: str, new: np.ndarray, old: np.ndarray, rtol: float, atol: float, digits: int
) -> ColumnChange | None:
    if len(new) != len(old):
        return ColumnChange(name, f"{len(new)} rows, committed {len(old)}")
    if len(new) == 0:
        return None
    if "U" in (new.dtype.kind, old.dtype.kind):
        differs = np.flatnonzero(new.astype(str) != old.astype(str))
        if len(differs) == 0:
            return None
        row = int(differs[0])
        return ColumnChange(name, f"{len(differs)} cells differ, first {new[row]} for {old[row]}", row=row)
    new, old = new.astype(np.float64), old.astype(np.float64)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(new - old)
    deviation[(new == old) | (np.isnan(new) & np.isnan(old))] = 0.0
    deviation[np.isnan(deviation)] = np.inf  # a NaN or an infinity against something else
    allowed = atol + rtol * np.abs(old) + _last_unit(old, digits)
    allowed[~np.isfinite(old)] = 0.0
    excess = deviation > allowed
    if not excess.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(excess, deviation / allowed, 0.0)
    row = int(np.argmax(ratio))
    reason = (
        f"{int(excess.sum())} of {len(new)} values differ, worst {new[row]:.{digits + 2}g} for "
        f"{old[row]:.{digits}g}, deviation {deviation[row]:.2g}, allowed {allowed[row]:.2g}"
    )
    return ColumnChange(name, reason, deviation=float(deviation[row]), row=row)


def _last_unit(values: np.ndarray, digits: int) -> np.ndarray:
    """One unit of the last of `digits` significant digits; 0 for 0 and what is not finite."""
    unit = np.zeros_like(values)
    ordinary = np.isfinite(values) & (values != 0)
    # The nudge keeps an exact power of ten in its own decade, however log10 rounds.
    exponent = np.floor(np.log10(np.abs(values[ordinary])) + 1e-9)
    unit[ordinary] = 10.0 ** (exponent - digits + 1)
    return unit
