r"""The entrywise norm Σ_ij |H_ij| of a symmetric H, and Σ_ij a_i |H_ij| b_j, from products with H (SPEC S6).

Write ``s_j = ‖He_j‖₁``.  **The sketch** (Indyk 2006; Li, Hastie, Church 2007): for v ~ Cauchy(0,1)^d, (Hv)_j is Cauchy with scale s_j.

**The column estimator** draws columns j_1, j_2, ... one after another without replacement and evaluates each exactly.  Let S be
the columns known before draw k.  H is symmetric, so the rows in S are known as well; unknown is only the rest
``R = Σ_{j∉S} r_j`` with ``r_j = Σ_{i∉S}|H_ij|``.  With any forecasts c_j and any probabilities q_j > 0 made from what was known
before draw k,

    t_k = Σ_{i∈S or j∈S}|H_ij| + Σ_{j∉S} c_j + (r_J - c_J)/q_J ,     J ~ q ,

has the conditional mean Σ|H_ij| (Des Raj 1956 is the case c = 0 without the rows).  The t_k - Σ|H_ij| are martingale differences:
uncorrelated although everything adapts.  Hence, *proved*, for weights w_k fixed beforehand, Σw_k = 1, w_k < ½: ``T = Σ w_k t_k`` is
unbiased given the pilot, and with ``α_k = w_k²/(1-2w_k)`` the estimate ``Σ α_k (t_k-T)² / (1+Σα_k)`` of its variance is unbiased too.
Here w_k ∝ √k (Owen and Zhou 2020), because forecasts improve.  *Approximate* is the interval: Student's t with
Satterthwaite's degrees of freedom and the larger of this and the equally weighted standard error, its end on the side of the longer
tail moved out by the first-order Edgeworth term of the skewness.

**Forecasts** change the variance, never the mean.  A pilot of Cauchy vectors estimates s_j without bias; one of Rademacher vectors
estimates ‖He_j‖₂ and H_jj with light tails.  What both find on the diagonal is forecast separately, so that a nearly diagonal H leaves
only its off-diagonal part to chance.  The products are kept free of the columns already known.  Logarithms are shrunk to
their mean by the correlation of the two halves of a pilot (with equal rows the pilot is all noise); exact columns are rows too and
forecast every r_j.  From the fourth draw on, the level is such that the whole forecast is the mean of the t_k so far.  Among these
forecasts the one with the least estimated variance at the columns drawn so far makes the next batch.

A matrix of many small blocks of equal size is the case in which the plain sketch has the smaller deviation: its rows are independent,
and no pilot ranks them better than chance.

**Accuracy of the products.**  Model: a column is computed with an error ``‖e_j‖_2 ≤ noise ‖He_j‖_2``, so ``‖e_j‖_1 ≤ noise √d ‖He_j‖_2``.
A column stands for its row as well, so its error counts twice at most.  Over the columns evaluated the ratio κ of
``Σ 2 √d ‖He_j‖_2`` to ``Σ ‖He_j‖_1`` is measured (between 2 and 3 unless columns are sparse), and all ends move outward by
``noise κ`` of themselves.  With all columns that is rigorous in the model; with a sample, κ is that of the sample.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deva_theory.smoothness.estimators.cauchy import (
    CauchySketch,
    Pilot,
    cauchy_sketch,
    cauchy_vectors,
    median_correction,
    proportional,
    row_limits,
    validate,
)
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.krylov import binary_exponent, scaled
from deva_theory.smoothness.estimators.mean_interval import mean_weights, weighted_summary
from deva_theory.smoothness.estimators.programs import Program
from deva_theory.smoothness.estimators.randomness import generator

__all__ = ["CauchySketch", "Entrywise", "cauchy_sketch", "entrywise_norm", "median_correction", "weighted_entrywise"]

_DEFENSIVE = 0.1
"""Share of the uniform law in q, and again of the law proportional to the whole forecast: q_J is never tiny by a bad forecast."""
_ENOUGH = 6
"""Draws before a forecast may be judged by them."""
_ROUNDING = 1000
"""Units of rounding by which an interval is widened."""


@dataclass(frozen=True)
class Entrywise:
    """Result of :func:`entrywise_norm` and :func:`weighted_entrywise`.

    Attributes
    ----------
    estimate : Estimate
        Norm ``l11``; `bilinear` is the confidence interval.
    value : float
        Unbiased; it may lie below `deterministic_lower`, the interval may not.
    standard_error : float
        Square root of an unbiased estimate of the variance of `value`; 0 if exact.
    deterministic_lower : float
        Below the norm for sure: the entries seen, and ``Σ|(Bx)_i|`` of the rest B of H for sign vectors x.
    certified_upper : float
        Above the norm with probability at least `confidence` at any budget: order statistics of the Cauchy pilot.
    """

    estimate: Estimate
    value: float
    standard_error: float
    deterministic_lower: float
    certified_upper: float


def entrywise_norm(
    size: int,
    *,
    vectors: int = 50,
    pilot_fraction: float = 0.22,
    confidence: float = 0.95,
    tolerance: float = 0.1,
    noise: float = 1e-13,
    seed: int = 0,
    batch: int = 8,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Program[Entrywise]:
    r"""Estimate Σ_ij |H_ij| of a symmetric H without bias, with a confidence interval.

    The column estimator of the module's head.  Columns whose forecast share is at least one draw are taken for certain first (at
    most half of them).  If at most the budget's number of rows is non-zero (a zero product with a Cauchy vector is a zero row with
    probability 1), all columns are taken and the interval is a point.

    Parameters
    ----------
    size : int
        d ≥ 1.
    vectors : int
        Budget of products, at least 7 unless it is d or more.
    pilot_fraction : float
        Share of the budget for the pilot, in (0, ½]: at least 4 vectors, half Cauchy, half Rademacher.
    confidence : float
        Of the interval (approximate) and of `certified_upper` (exact), in (0, 1).
    tolerance : float
        `met` says whether ``upper ≤ (1 + tolerance) lower``; it does not stop the program.
    noise : float
        Relative accuracy of the products, at least 8 units of rounding of `dtype`; all ends are moved outward, see the module's head.
    seed : int
        Of everything random.
    batch : int
        Vectors asked for at once, which is also how often the probabilities adapt.  Beyond these, the pilot's vectors
        and products are kept.
    dtype, device
        Of the vectors; sums are in float64.

    Raises
    ------
    ValueError
        Sizes, shares or probabilities that make no sense.

    Notes
    -----
    Des Raj, JASA 51 (1956); Owen and Zhou, "The square root rule for adaptive importance sampling" (2020); SPEC S6.
    """
    return (yield from _columns(
        "entrywise_norm", size, torch.ones((), device="cpu").expand(size), torch.ones((), device="cpu").expand(size), vectors,
        pilot_fraction, confidence, tolerance, noise, seed, batch, dtype, device,
    ))


def weighted_entrywise(
    a: Tensor,
    b: Tensor,
    *,
    vectors: int = 50,
    pilot_fraction: float = 0.22,
    confidence: float = 0.95,
    tolerance: float = 0.1,
    noise: float = 1e-13,
    seed: int = 0,
    batch: int = 8,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Program[Entrywise]:
    r"""Estimate Σ_ij a_i |H_ij| b_j: :func:`entrywise_norm` for the weights γ_ij = a_i b_j.

    The product ``He_j`` holds column *and* row j of the weighted matrix.  Column sums ``b_j Σ_i a_i|H_ij|`` are row sums of the
    transpose ``diag(b) H diag(a)``: the pilot scales its vectors by a and its products by b.

    Parameters
    ----------
    a, b : Tensor, shape ``(d,)``
        Non-negative, finite.
    vectors, pilot_fraction, confidence, tolerance, noise, seed, batch, dtype, device
        As for :func:`entrywise_norm`.

    Raises
    ------
    ValueError
        As :func:`entrywise_norm`, and for weights that are no non-negative vectors of one length.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"weighted_entrywise: weights of shapes {tuple(a.shape)} and {tuple(b.shape)}; give two vectors of one length")
    if not all(bool(torch.isfinite(w).all()) and bool((w >= 0).all()) for w in (a, b)):
        raise ValueError("weighted_entrywise: weights must be finite and not negative")
    return (yield from _columns(
        "weighted_entrywise", len(a), a, b, vectors, pilot_fraction, confidence, tolerance, noise, seed, batch, dtype, device
    ))


def _columns(
    name: str, size: int, a: Tensor, b: Tensor, vectors: int, pilot_fraction: float, confidence: float, tolerance: float,
    noise: float, seed: int, batch: int, dtype: torch.dtype, device: torch.device | str,
) -> Program[Entrywise]:
    """Scale weights and products by powers of two, so that squares and floors are those of numbers of order one; scale the result back."""
    validate(name, size, vectors, min(7, size), batch, confidence)
    if not 0 < pilot_fraction <= 0.5 or not tolerance > 0:
        raise ValueError(f"{name}: pilot_fraction {pilot_fraction}, tolerance {tolerance}; the share lies in (0, 1/2], both are positive")
    units = [binary_exponent(a), binary_exponent(b)]
    a, b = (w.double() * 2.0**-unit for w, unit in zip((a, b), units, strict=True))
    program = _scaled_columns(
        size, a.to(device, dtype), b.to(device, dtype), vectors, pilot_fraction, confidence, tolerance,
        max(noise, 8 * torch.finfo(dtype).eps), seed, batch, dtype, device,
    )
    unit: int | None = None
    V = next(program)
    while True:
        answer = (yield V).to(dtype)
        # A first batch that vanishes says nothing about the size of the others.
        if unit is None and bool(answer.any()):
            unit = binary_exponent(answer)
        try:
            V = program.send(answer if unit is None else answer * 2.0**-unit)
        except StopIteration as stop:
            return _unscaled(stop.value, sum(units) + (unit or 0))


def _unscaled(found: Entrywise, exponent: int) -> Entrywise:
    """Return the result for products ``2^exponent`` times as large; a lower end beyond the largest number is no number."""
    bounds = found.estimate.bilinear
    lower, certain = (min(scaled(x, exponent), sys.float_info.max) for x in (bounds.lower, found.deterministic_lower))
    bilinear = replace(bounds, lower=lower, upper=scaled(bounds.upper, exponent))
    value, error, limit = (scaled(x, exponent) for x in (found.value, found.standard_error, found.certified_upper))
    return Entrywise(replace(found.estimate, bilinear=bilinear), value, error, certain, limit)


def _scaled_columns(
    size: int, a: Tensor, b: Tensor, vectors: int, pilot_fraction: float, confidence: float, tolerance: float,
    noise: float, seed: int, batch: int, dtype: torch.dtype, device: torch.device | str,
) -> Program[Entrywise]:
    known, seen = 0.0, torch.zeros(size, dtype=torch.float64, device=device)
    unknown = torch.ones(size, dtype=torch.bool, device=device)
    absolute, euclidean = 0.0, 0.0  # of the columns evaluated: sums of ‖·‖₁ and of 2 √d ‖·‖₂

    def take(j: int, column: Tensor) -> tuple[float, Tensor]:
        """Count row and column j of the weighted matrix; return r_j and column j of |G|."""
        nonlocal known, absolute, euclidean
        magnitudes = column.abs().double() * unknown
        rest, across = float(b[j] * (a * magnitudes).sum()), float(a[j] * (b * magnitudes).sum())
        known += rest + across - float(a[j] * b[j] * magnitudes[j])
        weighted = b[j] * a * column
        absolute += float(weighted.abs().double().sum())
        euclidean += 2 * math.sqrt(size) * float(torch.linalg.vector_norm(weighted.double()))
        column_sums = a[j] * b * column.abs().double()
        seen.add_(column_sums)
        unknown[j] = False
        return rest, column_sums

    def result(value: float, error: float, ends: tuple[float, float] | None, lower: float, upper: float, products: int) -> Entrywise:
        methods, notes = ("all columns", "all columns"), ("every column that is not zero was evaluated",)
        share = noise / (1 - min(noise, 0.5)) * max(1.0, euclidean / absolute if absolute > 0 else 1.0)
        lower, upper = max(0.0, (1 - share) * lower), (1 + share) * upper
        bounds = Bounds(lower, upper, *methods)
        if ends is not None:
            slack = (_ROUNDING * torch.finfo(dtype).eps + share) * abs(value)
            low = max(lower, ends[0] - slack)
            text = f"exact columns, adaptive forecasts: Student's t with skewness, {confidence:.3g}"
            bounds = Bounds(low, max(low, ends[1] + slack), text, text, 1 - confidence, approximate=True)
            notes = ("value is unbiased; the interval's probability is asymptotic",)
        met = bounds.upper <= (1 + tolerance) * bounds.lower
        return Entrywise(Estimate("l11", size, bounds, None, products, tolerance, met, notes), value, error, lower, upper)

    if vectors >= size:
        yield from _exact(list(range(size)), batch, size, dtype, device, take)
        return result(known, 0.0, None, known, known, size)

    draw = generator(seed, "entrywise norm")
    pilots = min(max(4, round(pilot_fraction * vectors)), vectors - 3)
    split = (pilots + 1) // 2
    signs = torch.randint(0, 2, (pilots - split, size), generator=draw, dtype=torch.float64, device="cpu") * 2 - 1
    probes = torch.cat((cauchy_vectors(split, size, draw), signs)).to(device, dtype)
    found = []
    for part in probes.split(batch):
        found.append(b * (yield part * a))
    answers = torch.cat(found)
    pilot = Pilot(probes[:split], answers[:split].clone(), probes[split:], answers[split:].clone())
    limits = row_limits(pilot.Y, (1 - confidence) / size)
    draws = vectors - pilots
    if int(pilot.ready.sum()) <= draws:
        some = pilot.ready.nonzero().squeeze(1).tolist()
        yield from _exact(some, batch, size, dtype, device, take)
        return result(known, 0.0, None, known, known, pilots + len(some))

    def remember(j: int, column: Tensor) -> tuple[float, Tensor]:
        taken = take(j, column)
        pilot.remove(j, a[j] * b * column)
        return taken

    diagonal, rest = pilot.forecasts(pilot.ready)
    certain = _certain(torch.where(pilot.ready, diagonal + rest["both"], 0.0), draws)
    yield from _exact(certain, batch, size, dtype, device, remember)
    draws -= len(certain)

    values: list[float] = []
    past: list[tuple[float, float, dict[str, float]]] = []  # (r_J - diagonal forecast)², q_J, laws at J
    sums = torch.zeros_like(seen)
    while len(values) < draws:
        left = unknown & pilot.ready
        diagonal, rest = pilot.forecasts(left)
        mean = float(rest["l1"][left].mean())
        if len(values) >= _ENOUGH:
            columns = sums / len(values)
            average = float(columns[left].mean())
            columns = 0.95 * columns + 0.05 * average
            level = math.sqrt(average / mean) if mean > 0 else 0.0
            rest |= {f"columns and {key}": (columns * r).sqrt() * level for key, r in rest.items()} | {"columns": columns}
        rest["equal"] = torch.full_like(seen, mean)
        uniform = proportional(torch.zeros_like(seen), left)
        laws = {
            key: (1 - 2 * _DEFENSIVE) * proportional(r, left) + _DEFENSIVE * (uniform + proportional(diagonal + r, left))
            for key, r in rest.items()
        }
        best = _best(past, laws)
        # Within the batch q is what it was before, less the columns drawn; t_k may use all that precedes draw k.
        remaining, chosen, probabilities = laws[best].clone(), [], []
        for _ in range(min(batch, draws - len(values))):
            cumulative = remaining.cumsum(0)
            point = cumulative[-1] * torch.rand((), generator=draw, dtype=torch.float64, device="cpu").to(device)
            # The first index beyond the point has mass; rounding at the last must not step over the end.
            j = min(int(torch.searchsorted(cumulative, point, right=True)), int(remaining.nonzero()[-1]))
            chosen.append(j)
            probabilities.append(float(remaining[j] / cumulative[-1]))
            remaining[j] = 0.0
        answers = yield _one_hot(chosen, size, dtype, device)
        for j, q, column in zip(chosen, probabilities, answers, strict=True):
            left = unknown & pilot.ready
            forecast = diagonal + _level(values, known + float(diagonal[left].sum()), float(rest[best][left].sum())) * rest[best]
            total, at, before = float(forecast[left].sum()), float(forecast[j]), known
            r, column_sums = remember(j, column)
            values.append(before + total + (r - at) / q)
            past.append(((r - float(diagonal[j])) ** 2, q, {key: float(law[j]) for key, law in laws.items()}))
            sums += torch.where(torch.arange(size, device=device) == j, 0.0, column_sums) / q
    left = unknown & pilot.ready
    value, error, ends = weighted_summary(torch.tensor(values, dtype=torch.float64, device="cpu"), confidence)
    lower = (1 - _ROUNDING * torch.finfo(dtype).eps) * (known + float((pilot.Z.abs().double() * left).sum(1).max()))
    upper = known + float((limits - seen).clamp_min(0)[left].sum())
    return result(value, error, ends, lower, max(upper, lower), vectors)


def _one_hot(indices: list[int], size: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    vectors = torch.zeros(len(indices), size, dtype=dtype, device=device)
    vectors[range(len(indices)), indices] = 1
    return vectors


def _exact(
    indices: list[int], batch: int, size: int, dtype: torch.dtype, device: torch.device | str, take: Callable[[int, Tensor], object]
) -> Program[None]:
    for first in range(0, len(indices), batch):
        some = indices[first : first + batch]
        for j, column in zip(some, (yield _one_hot(some, size, dtype, device)), strict=True):
            take(j, column)


def _certain(forecast: Tensor, draws: int) -> list[int]:
    """Columns whose share of what remains is at least one of the remaining draws; half of the draws, and 3, are left."""
    some, room = forecast.topk(min(draws, len(forecast))), min(draws // 2, draws - 3)
    total = float(forecast.sum())
    certain: list[int] = []
    for share, j in zip(some.values.tolist(), some.indices.tolist(), strict=True):
        if len(certain) >= room or share <= 0 or share * (draws - len(certain)) < total:
            break
        certain.append(j)
        total -= share
    return certain


def _best(past: list[tuple[float, float, dict[str, float]]], laws: dict[str, Tensor]) -> str:
    """Return the law p with the least estimate of ``Σ_j (r_j - diagonal_j)²/p_j`` from the draws that it was a choice for."""
    scores = {}
    for key in laws:
        terms = [square / (q * law[key]) for square, q, law in past if key in law]
        if len(terms) >= _ENOUGH:
            scores[key] = sum(terms) / len(terms)
    return min(scores, key=lambda key: scores[key]) if scores else "both"


def _level(values: list[float], forecast: float, rest: float) -> float:
    """Return the factor of the forecast `rest` that makes the whole forecast the mean of the t_k so far, within limits."""
    if len(values) < 3 or rest <= 0:
        return 1.0
    mean = float(mean_weights(len(values)) @ torch.tensor(values, dtype=torch.float64, device="cpu"))
    return min(4.0, max(0.25, (mean - forecast) / rest))
