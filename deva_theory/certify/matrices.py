"""Matrices of rational numbers with exact arithmetic.

python-flint does the arithmetic when it is installed, `fractions` otherwise; the results are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RationalMatrix", "backend", "fraction"]

Rational: TypeAlias = Fraction | int | str
"""What is read as a rational number; strings are "3/4" or "0.75"."""

_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make new matrices with the arithmetic of `name`, "flint" or "fractions", within the block."""
    if name not in ("flint", "fractions"):
        raise ValueError(f"backend {name!r}: choose 'flint' or 'fractions'")
    if name == "flint" and find_spec("flint") is None:
        raise ModuleNotFoundError("backend 'flint' needs python-flint: install the extra 'exact'")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def _backend() -> str:
    return _chosen.get() or ("flint" if find_spec("flint") else "fractions")


def fraction(value: Any) -> Fraction:
    """Return the rational number; TypeError for floats, whose conversion is a decision (see `rational_matrix`)."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, str):
        return Fraction(value)
    if hasattr(value, "__index__") and not isinstance(value, bool):
        return Fraction(int(value))
    raise TypeError(f"{value!r} is not a rational number: give a Fraction, an integer or a string, or convert floats with rational_matrix")


def _dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction())


class RationalMatrix:
    """A matrix of rational numbers with exact arithmetic.

    Parameters
    ----------
    rows : sequence of sequences of Fraction, int or str
        At least one row and one column.
    backend : {"flint", "fractions"}, optional
        Default: python-flint when it is installed, or what the context manager `backend` says.

    Notes
    -----
    ``A @ B``, ``A + B``, ``A - B``, ``-A``, ``c * A``, ``A / c``, ``A.T``, ``A == B``, ``A[i, j]``.  Matrices are not
    changed after they are made.  A result has the arithmetic of its left operand.
    """

    __hash__ = None  # type: ignore[assignment]  # equal matrices of either backend would need equal hashes
    __slots__ = ("_data", "shape")

    def __init__(self, rows: Iterable[Iterable[Rational]], *, backend: str | None = None) -> None:
        entries = [[fraction(entry) for entry in row] for row in rows]
        if not entries or not entries[0] or len({len(row) for row in entries}) > 1:
            raise ValueError("RationalMatrix: give at least one row and one column, all rows of one length")
        self.shape = (len(entries), len(entries[0]))
        if (backend or _backend()) == "flint":
            from flint import fmpq, fmpq_mat

            self._data: Any = fmpq_mat(*self.shape, [fmpq(x.numerator, x.denominator) for row in entries for x in row])
        elif backend in (None, "fractions"):
            self._data = entries
        else:
            raise ValueError(f"backend {backend!r}: choose 'flint' or 'fractions'")

    @classmethod
    def _wrap(cls, data: Any) -> RationalMatrix:
        matrix = cls.__new__(cls)
        matrix._data = data
        matrix.shape = (len(data), len(data[0])) if isinstance(data, list) else (data.nrows(), data.ncols())
        return matrix

    @classmethod
    def identity(cls, n: int) -> RationalMatrix:
        """Return the n × n identity."""
        return cls.diagonal([1] * n)

    @classmethod
    def zeros(cls, m: int, n: int) -> RationalMatrix:
        """Return the m × n zero matrix."""
        return cls([[0] * n for _ in range(m)])

    @classmethod
    def diagonal(cls, entries: Sequence[Rational], shape: tuple[int, int] | None = None) -> RationalMatrix:
        """Return the matrix with `entries` on the diagonal from the top left corner, square unless `shape` says otherwise."""
        m, n = shape or (len(entries), len(entries))
        if len(entries) > min(m, n):
            raise ValueError(f"diagonal: {len(entries)} entries do not fit the shape {(m, n)}")
        return cls([[entries[i] if i == j and i < len(entries) else 0 for j in range(n)] for i in range(m)])

    @property
    def backend(self) -> str:
        """The arithmetic in use, "flint" or "fractions"."""
        return "fractions" if isinstance(self._data, list) else "flint"

    @property
    def T(self) -> RationalMatrix:
        """The transpose."""
        if isinstance(self._data, list):
            return self._wrap([list(column) for column in zip(*self._data, strict=True)])
        return self._wrap(self._data.transpose())

    def tolist(self) -> list[list[Fraction]]:
        """Return the rows as lists of `Fraction`."""
        if isinstance(self._data, list):
            return [row.copy() for row in self._data]
        return [[Fraction(int(x.p), int(x.q)) for x in row] for row in self._data.tolist()]

    def strings(self) -> list[list[str]]:
        """Return the rows as strings such as "-3/4", as certificates hold them."""
        return [[str(x) for x in row] for row in self.tolist()]

    def numpy(self) -> NDArray[np.float64]:
        """Return a float64 array, each entry rounded to nearest."""
        import numpy as np

        return np.array([[float(x) for x in row] for row in self.tolist()], dtype=np.float64)

    def tensor(self) -> Any:
        """Return a float64 torch tensor, each entry rounded to nearest."""
        import torch

        return torch.from_numpy(self.numpy())

    def height(self) -> int:
        """Return the largest absolute numerator or denominator: what exact arithmetic costs grows with its length."""
        return max(max(abs(x.numerator), x.denominator) for row in self.tolist() for x in row)

    def __getitem__(self, index: tuple[int, int]) -> Fraction:
        i, j = index
        if not (-self.shape[0] <= i < self.shape[0] and -self.shape[1] <= j < self.shape[1]):
            raise IndexError(f"{index} lies outside the shape {self.shape}")
        i, j = i % self.shape[0], j % self.shape[1]
        if isinstance(self._data, list):
            return self._data[i][j]
        entry = self._data[i, j]
        return Fraction(int(entry.p), int(entry.q))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RationalMatrix):
            return NotImplemented
        return self.shape == other.shape and bool(self._data == self._like(other))

    def __repr__(self) -> str:
        return f"RationalMatrix({self.strings()})"

    def _like(self, other: RationalMatrix) -> Any:
        """Return the other matrix's entries in this one's arithmetic."""
        if other.backend == self.backend:
            return other._data
        return RationalMatrix(other.tolist(), backend=self.backend)._data

    def _same_shape(self, other: RationalMatrix) -> Any:
        if self.shape != other.shape:
            raise ValueError(f"the shapes {self.shape} and {other.shape} differ")
        return self._like(other)

    def __add__(self, other: RationalMatrix) -> RationalMatrix:
        if not isinstance(other, RationalMatrix):
            return NotImplemented
        data = self._same_shape(other)
        if isinstance(self._data, list):
            return self._wrap([[x + y for x, y in zip(a, b, strict=True)] for a, b in zip(self._data, data, strict=True)])
        return self._wrap(self._data + data)

    def __neg__(self) -> RationalMatrix:
        return -1 * self

    def __sub__(self, other: RationalMatrix) -> RationalMatrix:
        if not isinstance(other, RationalMatrix):
            return NotImplemented
        return self + (-other)

    def __mul__(self, scalar: object) -> RationalMatrix:
        if isinstance(scalar, RationalMatrix):
            raise TypeError("A * B is ambiguous: write A @ B for the product, A.hadamard(B) for the entrywise one")
        c = fraction(scalar)
        if isinstance(self._data, list):
            return self._wrap([[c * x for x in row] for row in self._data])
        from flint import fmpq

        return self._wrap(self._data * fmpq(c.numerator, c.denominator))

    __rmul__ = __mul__

    def __truediv__(self, scalar: object) -> RationalMatrix:
        return self * (1 / fraction(scalar))

    def __matmul__(self, other: RationalMatrix) -> RationalMatrix:
        if not isinstance(other, RationalMatrix):
            return NotImplemented
        if self.shape[1] != other.shape[0]:
            raise ValueError(f"the shapes {self.shape} and {other.shape} do not fit a product")
        data = self._like(other)
        if isinstance(self._data, list):
            columns = list(zip(*data, strict=True))
            return self._wrap([[_dot(row, column) for column in columns] for row in self._data])
        return self._wrap(self._data * data)

    def inverse(self) -> RationalMatrix:
        """Return the inverse.

        Raises
        ------
        ZeroDivisionError
            When the matrix is singular.
        ValueError
            When it is not square.
        """
        n = self.shape[0]
        if self.shape != (n, n):
            raise ValueError(f"inverse: the shape {self.shape} is not square")
        if not isinstance(self._data, list):
            return self._wrap(self._data.inv())
        rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(self._data)]
        for k in range(n):
            pivot = next((i for i in range(k, n) if rows[i][k]), None)
            if pivot is None:
                raise ZeroDivisionError("inverse: the matrix is singular")
            rows[k], rows[pivot] = rows[pivot], rows[k]
            rows[k] = [x / rows[k][k] for x in rows[k]]
            for i in range(n):
                if i != k and rows[i][k]:
                    rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
        return self._wrap([row[n:] for row in rows])

    def trace(self) -> Fraction:
        """Return the sum of the diagonal."""
        return sum((self[i, i] for i in range(min(self.shape))), Fraction())

    def inner(self, other: RationalMatrix) -> Fraction:
        """Return the Frobenius inner product ``<A, B>``."""
        self._same_shape(other)
        return sum(map(_dot, self.tolist(), other.tolist()), Fraction())

    def hadamard(self, other: RationalMatrix) -> RationalMatrix:
        """Return the entrywise product ``A ⊙ B``."""
        self._same_shape(other)
        rows = [[x * y for x, y in zip(a, b, strict=True)] for a, b in zip(self.tolist(), other.tolist(), strict=True)]
        return RationalMatrix(rows, backend=self.backend)

    def kron(self, other: RationalMatrix) -> RationalMatrix:
        """Return the Kronecker product ``A ⊗ B``: with `vec`, ``(B ⊗ A) vec X = vec(A X Bᵀ)``."""
        right = other.tolist()
        rows = [[x * y for x in a for y in b] for a in self.tolist() for b in right]
        return RationalMatrix(rows, backend=self.backend)

    def vec(self) -> RationalMatrix:
        """Return the columns stacked into one, shape ``(m·n, 1)``."""
        return RationalMatrix([[x] for column in zip(*self.tolist(), strict=True) for x in column], backend=self.backend)

    def unvec(self, m: int, n: int) -> RationalMatrix:
        """Return the m × n matrix whose `vec` this is."""
        if self.shape != (m * n, 1):
            raise ValueError(f"unvec: the shape {self.shape} is not ({m * n}, 1)")
        entries = [row[0] for row in self.tolist()]
        return RationalMatrix([entries[i::m] for i in range(m)], backend=self.backend)
