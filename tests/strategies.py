"""Hypothesis strategies for tensors on which floating point or degeneracy may bite, shared by all tests.

Small examples come from small integers, so that they shrink to something readable; larger ones draw one
integer, the seed of a NumPy generator, so that they stay cheap.  `dtype` is a torch dtype throughout.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy
from torch import Tensor

KINDS = (
    "generic", "zero", "rank_one", "repeated", "orthogonal", "diagonal", "graded",
    "wide", "tall", "row", "column", "empty",
)
# Kinds that are a matter of the entries, so that they exist in every shape with at least one entry.
ANY_SHAPE = ("generic", "zero", "rank_one", "repeated", "orthogonal", "diagonal", "graded")

# Exponents e for which 2**2e is: the largest finite one, the smallest normal one, the smallest positive one.
_SQUARES = {
    torch.float64: (511, -511, -537),
    torch.float32: (63, -63, -74),
    torch.bfloat16: (63, -63, -66),
    torch.float16: (7, -7, -12),
}
_WIDTH = {torch.float64: 64, torch.float32: 32, torch.bfloat16: 32, torch.float16: 16}

_seeds = st.integers(0, 2**32 - 1)


def adversarial_values(dtype: torch.dtype = torch.float64) -> list[float]:
    """Return the numbers of `dtype` on which naive formulas break, simplest first.

    0, ±1, the neighbours of 1, both sides of the powers of two where the square overflows, becomes subnormal
    or zero, the largest and smallest normal numbers and subnormal ones.
    """
    info = torch.finfo(dtype)
    overflow, normal, positive = _SQUARES[dtype]
    subnormal = info.tiny * info.eps
    sizes = [1.0, 1.0 + info.eps, 1.0 - info.eps / 2]
    for exponent in (overflow, normal, positive):
        sizes += [2.0 ** (exponent - 1), 2.0**exponent, 2.0 ** (exponent + 1)]
    sizes += [info.tiny, info.tiny - subnormal, subnormal, 3 * subnormal, info.max, info.max / 2]
    return [0.0, *sizes, -0.0, *(-size for size in sizes)]


def finite_floats(dtype: torch.dtype = torch.float64) -> SearchStrategy[float]:
    """Draw finite numbers that `dtype` holds exactly: everyday, adversarial and arbitrary ones."""
    info = torch.finfo(dtype)
    anything = st.floats(-info.max, info.max, width=_WIDTH[dtype], allow_nan=False, allow_infinity=False)
    if dtype == torch.bfloat16:
        anything = anything.map(lambda x: torch.tensor(x).to(dtype).clamp(info.min, info.max).item())
    small = st.integers(-4, 4).map(float)
    return st.one_of(small, st.sampled_from(adversarial_values(dtype)), anything)


def powers_of_two(dtype: torch.dtype = torch.float64, *, margin: int = 0) -> SearchStrategy[float]:
    """Draw powers of two over the normal range of `dtype`, `margin` binary orders away from its ends."""
    limit = int(-math.log2(torch.finfo(dtype).tiny)) - margin
    return st.integers(-limit, limit).map(lambda exponent: 2.0**exponent)


def betas() -> SearchStrategy[float]:
    """Draw averaging factors 0 ≤ β < 1, those in use and those next to the ends included."""
    used = st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1e-3, 1.0 - 2.0**-30])
    return st.one_of(used, st.floats(0.0, 1.0, exclude_max=True, allow_subnormal=False))


@st.composite
def tensors(
    draw: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype = torch.float64, *,
    adversarial: bool = False,
) -> Tensor:
    """Draw a tensor of one shape: small integers, normal numbers, or (with `adversarial`) any finite floats.

    Large adversarial tensors mix, entry by entry, numbers from the whole range, adversarial values, everyday
    numbers and zeros.
    """
    size = math.prod(shape)
    if size <= 12 and draw(st.booleans()):
        entry = finite_floats(dtype) if adversarial else st.integers(-3, 3).map(float)
        entries = draw(st.lists(entry, min_size=size, max_size=size))
        return torch.tensor(entries, dtype=torch.float64).to(dtype).reshape(shape)
    rng = np.random.default_rng(draw(_seeds))
    values = rng.standard_normal(shape)
    if not adversarial:
        return torch.from_numpy(np.asarray(values)).to(dtype)
    info = torch.finfo(dtype)
    low, high = math.log2(info.tiny * info.eps), math.log2(info.max) - 3
    mantissas = 1.0 + rng.random(shape)
    wild = np.sign(values) * mantissas * np.exp2(np.floor(rng.uniform(low, high, shape)))
    special = rng.choice(np.array(adversarial_values(dtype)), shape)
    which = rng.integers(0, 5, shape)
    mixture = np.select([which <= 1, which == 2, which == 3], [wild, special, values], 0.0)
    return torch.from_numpy(np.asarray(mixture)).to(dtype)


@st.composite
def gradient_histories(
    draw: Callable[..., Any], T: int | SearchStrategy[int], d: int | tuple[int, int] | SearchStrategy[Any],
    dtype: torch.dtype = torch.float64, *, adversarial: bool = False,
) -> Tensor:
    """Draw gradients stacked on a leading time axis.

    Parameters
    ----------
    T : int or strategy
        Number of steps.
    d : int, pair (m, n), or strategy of either
        Shape of one gradient.
    adversarial : bool
        Any finite floats, mixed magnitudes and zeros included; else numbers near 1.

    Returns
    -------
    Tensor, shape ``(T, d)`` or ``(T, m, n)``
        Some histories start with zeros, and some coordinates stay zero.
    """
    steps = draw(T) if isinstance(T, SearchStrategy) else T
    event = draw(d) if isinstance(d, SearchStrategy) else d
    shape = (event,) if isinstance(event, int) else tuple(event)
    history = draw(tensors((steps, *shape), dtype, adversarial=adversarial)).clone()
    pattern = draw(st.sampled_from(["as drawn", "late start", "dead coordinate"]))
    if pattern == "late start" and steps > 1:
        history[: draw(st.integers(1, steps - 1))] = 0
    elif pattern == "dead coordinate" and math.prod(shape) > 0:
        history[(slice(None), *(0 for _ in shape))] = 0
    return history


@st.composite
def orthogonal(draw: Callable[..., Any], n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw orthogonal n×n matrices: signed permutations, or Haar ones by QR with positive diagonal of R."""
    if draw(st.booleans()):
        order = draw(st.permutations(range(n)))
        signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=n, max_size=n))
        Q = np.eye(n)[list(order)] * np.array(signs).reshape(1, n)
    else:
        Q = _haar(np.random.default_rng(draw(_seeds)), n)
    return torch.from_numpy(Q).to(dtype)


@st.composite
def spd(
    draw: Callable[..., Any], n: int, dtype: torch.dtype = torch.float64, *, max_condition: float = 1e4
) -> Tensor:
    """Draw symmetric positive definite n×n matrices: eigenvalues from 1/max_condition or more to 1."""
    Q = draw(orthogonal(n))
    spread = draw(st.floats(0.0, math.log10(max_condition)))
    spectrum = 10.0 ** -torch.linspace(0.0, spread, n, dtype=torch.float64)
    A = (Q * spectrum) @ Q.mT
    return ((A + A.mT) / 2).to(dtype)


@st.composite
def matrices(
    draw: Callable[..., Any], kind: str | None = None, *, shape: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float64, max_side: int = 5,
) -> Tensor:
    """Draw an m×n matrix with entries of order 1.

    Parameters
    ----------
    kind : str, optional
        One of `KINDS`; by default any that `shape` allows.  ``rank_one`` has rank 1 exactly; ``repeated`` one
        singular value of multiplicity 2 or more where min(m, n) ≥ 2; ``orthogonal`` all singular values 1;
        ``graded`` singular values from 1 down to 1e-12 (1e-4 in float32) or less far; ``diagonal`` a
        rectangular diagonal with zeros and signs; ``row`` 1×n, ``column`` m×1; ``wide``, ``tall`` strictly.
    shape : pair, optional
        The shape.  With it `kind` must be one that this shape can have.
    max_side : int
        Largest side where the shape is drawn, at least 2.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(KINDS)}")
    if kind is None:
        kind = draw(st.sampled_from([k for k in KINDS if shape is None or _fits(k, shape)]))
    elif shape is not None and not _fits(kind, shape):
        raise ValueError(f"a matrix of kind {kind!r} cannot have shape {shape}")
    m, n = draw(_shapes(kind, max_side)) if shape is None else shape
    if kind == "zero" or m * n == 0:
        return torch.zeros(m, n, dtype=dtype)
    if kind not in ANY_SHAPE or kind == "generic":
        return draw(tensors((m, n), dtype))
    k = min(m, n)
    if kind == "rank_one":
        # Integers this small multiply without rounding in every dtype: the rank is exact.
        entry = st.integers(-3, 3).map(float)
        u = draw(st.lists(entry, min_size=m, max_size=m).filter(any))
        v = draw(st.lists(entry, min_size=n, max_size=n).filter(any))
        return torch.outer(torch.tensor(u, dtype=dtype), torch.tensor(v, dtype=dtype))
    if kind == "diagonal":
        D = torch.zeros(m, n, dtype=dtype)
        D.diagonal().copy_(draw(tensors((k,), dtype)))
        return D
    if kind == "repeated":
        values = draw(st.lists(st.integers(0, 3), min_size=k, max_size=k))
        sigma = np.array(sorted(values, reverse=True), dtype=float)
        sigma[: min(2, k)] = max(sigma[0], 1.0)
    elif kind == "orthogonal":
        sigma = np.ones(k)
    else:
        deepest = -12.0 if dtype == torch.float64 else -4.0
        sigma = np.logspace(0.0, draw(st.floats(deepest, 0.0)), k)
    U, V = draw(orthogonal(m)), draw(orthogonal(n))
    return ((U[:, :k] * torch.from_numpy(sigma)) @ V[:, :k].mT).to(dtype)


@st.composite
def batched(draw: Callable[..., Any], elements: SearchStrategy[Tensor], *, max_batch: int = 3) -> Tensor:
    """Draw `elements`, which must all have one shape, stacked over zero, one or two leading dimensions."""
    side = st.integers(1, max_batch)
    batch = draw(st.one_of(st.just(()), st.tuples(side), st.tuples(side, side)))
    drawn = [draw(elements) for _ in range(math.prod(batch))]
    shapes = {tuple(x.shape) for x in drawn}
    if len(shapes) > 1:
        raise ValueError(f"batched: elements of one batch have shapes {sorted(shapes)}; draw the shape first")
    return torch.stack(drawn).reshape(*batch, *drawn[0].shape)


def matrix_batches(
    *, dtype: torch.dtype = torch.float64, max_side: int = 5, max_batch: int = 3
) -> SearchStrategy[Tensor]:
    """Draw batches of matrices of one shape in which the kinds mix: a zero matrix beside a generic one."""
    sides = st.integers(1, max_side)
    return st.tuples(sides, sides).flatmap(
        lambda shape: batched(matrices(shape=shape, dtype=dtype), max_batch=max_batch)
    )


def refuted(
    examples: SearchStrategy[Any], holds: Callable[[Any], bool], *, max_examples: int = 500
) -> bool:
    """Tell whether some example violates `holds`: the twin of a property test, on a false variant.

    The search is the same on every run.
    """
    settings = hypothesis.settings(
        max_examples=max_examples, database=None, deadline=None, phases=[hypothesis.Phase.generate]
    )
    try:
        hypothesis.find(examples, lambda x: not holds(x), settings=settings, random=random.Random(0))
    except NoSuchExample:
        return False
    return True


def _fits(kind: str, shape: tuple[int, int]) -> bool:
    m, n = shape
    if m * n == 0:
        return kind == "empty"
    return {"wide": m < n, "tall": m > n, "row": m == 1, "column": n == 1, "empty": False}.get(kind, True)


def _shapes(kind: str, max_side: int) -> SearchStrategy[tuple[int, int]]:
    side = st.integers(1, max_side)
    more = st.integers(2, max_side)
    if kind == "empty":
        return st.sampled_from([(0, 0), (0, 1), (0, 3), (1, 0), (3, 0)])
    if kind == "row":
        return st.tuples(st.just(1), side)
    if kind == "column":
        return st.tuples(side, st.just(1))
    if kind == "wide":
        return more.flatmap(lambda n: st.tuples(st.integers(1, n - 1), st.just(n)))
    if kind == "tall":
        return more.flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m - 1)))
    if kind == "repeated":
        return st.tuples(more, more)
    return st.tuples(side, side)


def _haar(rng: np.random.Generator, n: int) -> np.ndarray:
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
