"""Cauchy random projections of a symmetric H: the plain estimate of Σ|H_ij|, and the pilot of the column estimator (SPEC S6).

For v ~ Cauchy(0,1)^d, the entry (Hv)_i is Cauchy with scale Σ_j|H_ij| (Indyk 2006; Li, Hastie, Church 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy import integrate, stats
from torch import Tensor

from deva_theory.smoothness.estimators.programs import Program
from deva_theory.smoothness.estimators.randomness import generator

CORRECTIONS = ("median", "geometric", "likelihood")
_CHUNK = 1 << 16
"""Rows of a sketch worked on at once."""


@dataclass(frozen=True)
class CauchySketch:
    """Result of :func:`cauchy_sketch`.

    Attributes
    ----------
    value : float
        Estimate of Σ|H_ij|.
    upper : float
        At least Σ|H_ij|, with probability at least ``1 - failure``.
    failure : float
        Of `upper`.
    correction : str
        One of :data:`CORRECTIONS`.
    products : int
        Hessian-vector products used.
    rows : Tensor, shape ``(d,)``
        Estimates of the row sums Σ_j|H_ij|.
    """

    value: float
    upper: float
    failure: float
    correction: str
    products: int
    rows: Tensor = field(compare=False, repr=False)


def median_correction(vectors: int) -> float:
    r"""Return b_K: the mean of the median of K absolute values of Cauchy(0,1), about ``1 + π²/(8K)``.

    |v| = tan(πu/2) with u uniform, and the median of K = 2m+1 uniforms is Beta(m+1, m+1):
    ``b_K = ∫₀¹ tan(πu/2) Beta(m+1, m+1)(u) du``, infinite for K = 1.  The mirror u ↦ 1-u removes the singularity.

    Raises
    ------
    ValueError
        K is even or below 3.
    """
    if vectors < 3 or vectors % 2 == 0:
        raise ValueError(f"median_correction: {vectors} vectors; the median's mean is known for odd numbers of at least 3")
    m = (vectors - 1) // 2
    density = stats.beta(m + 1, m + 1).pdf
    return float(integrate.quad(lambda u: 2.0 / math.sin(math.pi * u) * density(u), 1e-300, 0.5, epsabs=0, epsrel=1e-12)[0])


def cauchy_sketch(
    size: int,
    *,
    vectors: int = 50,
    correction: str = "median",
    confidence: float = 0.95,
    seed: int = 0,
    batch: int = 8,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Program[CauchySketch]:
    r"""Estimate Σ|H_ij| by Cauchy random projections.

    Per row, from ``|y_k| = |(Hv_k)_i|``: median/b_K and ``Π|y_k|^{1/K} cos^K(π/(2K))`` have no bias; the maximum likelihood estimate
    times (1 - 1/K) has one of order 1/K².  The upper limit takes the r-th smallest |y_k|, divided by tan(πα/2) with
    ``P(Binomial(K, α) ≥ r) = (1-confidence)/d``, and adds the rows: exact, by a union over rows.  All rows share the v_k, so that the
    sum averages little unless H is nearly diagonal.  Products of float32 carry rounding in proportion to the largest |v_j|, of order d.

    Parameters
    ----------
    size : int
        d ≥ 1.
    vectors : int
        K ≥ 2; odd and at least 3 for the median, one product less than asked if it is even.
    correction : {"median", "geometric", "likelihood"}
        Estimate of a row.
    confidence : float
        Of `upper`.
    seed : int
        Of the vectors.
    batch : int
        Vectors asked for at once; all K products are kept.
    dtype, device
        Of the vectors.

    Raises
    ------
    ValueError
        An unknown correction, or sizes and probabilities that make no sense.

    Notes
    -----
    Li, Hastie and Church, JMLR 8 (2007); SPEC S6.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"cauchy_sketch: correction is {correction!r}; use one of {', '.join(CORRECTIONS)}")
    fewest = 3 if correction == "median" else 2
    validate("cauchy_sketch", size, vectors, fewest, batch, confidence)
    K = vectors - 1 if correction == "median" and vectors % 2 == 0 else vectors
    draws = generator(seed, "cauchy sketch")
    found = []
    for first in range(0, K, batch):
        found.append((yield cauchy_vectors(min(batch, K - first), size, draws).to(device, dtype)))
    products = torch.cat(found)
    estimator: Callable[[Tensor], Tensor] = {"median": _median, "geometric": _geometric, "likelihood": _likelihood}[correction]
    rows = torch.cat([estimator(part.abs().double()) for part in products.split(_CHUNK, dim=1)])
    upper = float(row_limits(products, (1 - confidence) / size).sum())
    return CauchySketch(float(rows.sum()), upper, 1 - confidence, correction, K, rows)


def validate(name: str, size: int, vectors: int, fewest: int, batch: int, confidence: float) -> None:
    """Raise ValueError for sizes and probabilities that make no sense."""
    if size < 1 or batch < 1 or not 0 < confidence < 1:
        raise ValueError(f"{name}: size {size}, batch {batch}, confidence {confidence}; at least 1, at least 1, in (0, 1)")
    if vectors < fewest:
        raise ValueError(f"{name}: {vectors} vectors; give at least {fewest}")


def cauchy_vectors(count: int, size: int, draws: torch.Generator) -> Tensor:
    """Return `count` vectors of independent Cauchy(0,1) entries."""
    return torch.tan(math.pi * (torch.rand(count, size, generator=draws, dtype=torch.float64, device="cpu") - 0.5))


def _median(magnitudes: Tensor) -> Tensor:
    return magnitudes.median(dim=0).values / median_correction(len(magnitudes))


def _geometric(magnitudes: Tensor) -> Tensor:
    K = len(magnitudes)
    return magnitudes.log().mean(dim=0).exp() * math.cos(math.pi / (2 * K)) ** K


def _likelihood(magnitudes: Tensor) -> Tensor:
    """Solve ``Σ c²/(y²+c²) = K/2``, increasing in c, by bisection of ln c; all y = 0 gives 0."""
    K = len(magnitudes)
    tiny = torch.finfo(magnitudes.dtype).tiny
    low, high = (magnitudes.amin(0) + tiny).log(), (magnitudes.amax(0) + tiny).log()
    for _ in range(60):
        middle = (low + high) / 2
        ratio = magnitudes / middle.exp()
        below = (1 / (1 + ratio * ratio)).sum(0) < K / 2
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(magnitudes.amax(0) > 0, high.exp(), 0.0) * (1 - 1 / K)


def row_limits(products: Tensor, failure: float) -> Tensor:
    """Upper confidence limit of every row's scale, from the order statistic whose limit is least at its own median."""
    K = len(products)
    orders = range(1, K + 1)
    levels = [math.tan(math.pi / 2 * float(stats.beta.ppf(failure, r, K - r + 1))) for r in orders]
    typical = [math.tan(math.pi / 2 * float(stats.beta.median(r, K - r + 1))) for r in orders]
    r = min(orders, key=lambda r: typical[r - 1] / levels[r - 1] if levels[r - 1] > 0 else math.inf)
    return torch.cat([part.abs().double().kthvalue(r, dim=0).values for part in products.split(_CHUNK, dim=1)]) / levels[r - 1]


class Pilot:
    """Products of G = diag(b) H diag(a), of order one, with Cauchy vectors V and sign vectors X, kept free of the known columns.

    ``ready`` are the rows that are not zero.
    """

    def __init__(self, V: Tensor, Y: Tensor, X: Tensor, Z: Tensor) -> None:
        self.V, self.Y, self.X, self.Z = V, Y, X, Z
        self.ready = (Y != 0).any(0)
        largest = Y.abs().amax(0).double()
        # What is left after a subtraction is rounding below this; no logarithm may see it.
        self.floor = 100 * torch.finfo(Y.dtype).eps * largest + 1e-150

    def remove(self, j: int, column: Tensor) -> None:
        """Take column j of G, now known, out of the products."""
        self.Y -= self.V[:, j].clone().unsqueeze(1) * column
        self.Z -= self.X[:, j].clone().unsqueeze(1) * column

    def forecasts(self, live: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the forecast of |G_jj| and those of the rest of row j, each of shape (d,)."""
        V, Y, X, Z = self.V, self.Y, self.X, self.Z
        diagonal = self._diagonal()
        cauchy = (Y - V * diagonal).abs().double().clamp_min(self.floor).log()
        signs = (Z - X * diagonal).abs().double().clamp_min(self.floor).square()
        weight = proportional(cauchy.mean(0).exp(), live)
        half, other = len(cauchy) // 2, len(signs) // 2
        centre, l1 = _shrunk(cauchy[:half].mean(0), cauchy[half:].mean(0), cauchy.mean(0), weight)
        _, l2 = _shrunk(signs[:other].mean(0).log() / 2, signs[other:].mean(0).log() / 2, signs.mean(0).log() / 2, weight)
        # Rows differ less in ‖·‖₂/‖·‖₁ than either is known: the Cauchy vectors set the level.
        rest = {"l1": (centre + l1).exp(), "l2": (centre + l2).exp(), "both": (centre + (l1 + l2) / 2).exp()}
        return diagonal.abs().double(), rest

    def _diagonal(self) -> Tensor:
        """G_jj as far as it stands out: least absolute deviations of Y on V, and the mean of XZ, less their scatter.

        Either alone is far off now and then; where both agree they are not.
        """
        ratio, order = (self.Y / torch.where(self.V == 0, 1.0, self.V)).sort(dim=0)
        mass = self.V.abs().gather(0, order).cumsum(0)
        regression = ratio.gather(0, (mass < mass[-1:] / 2).sum(0, keepdim=True)).squeeze(0)
        # One residual is zero, by the regression.
        scatter = (self.Y - regression * self.V).abs().sort(dim=0).values[1:].log().mean(0).exp()
        average = (self.X * self.Z).mean(0)
        size = (torch.minimum(regression.abs(), average.abs()) - scatter).clamp_min(0)
        return torch.where(regression.sign() == average.sign(), average.sign() * size, 0)


def _shrunk(first: Tensor, second: Tensor, whole: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of `whole` and its deviations, shrunk by the correlation of its halves (Spearman-Brown)."""
    x, y = first - (weight * first).sum(), second - (weight * second).sum()
    scale = ((weight * x * x).sum() * (weight * y * y).sum()).sqrt()
    r = float(((weight * x * y).sum() / scale).clamp(0, 1)) if float(scale) > 0 else 0.0
    centre = (weight * whole).sum()
    return centre, 2 * r / (1 + r) * (whole - centre)


def proportional(forecast: Tensor, live: Tensor) -> Tensor:
    """Probabilities proportional to the forecast, over `live`."""
    kept = torch.where(live, forecast, 0.0)
    total = float(kept.sum())
    return kept / total if 0 < total < math.inf else live.double() / live.sum()
