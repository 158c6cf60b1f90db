r"""Operator norms ``‖H‖_{∞→1}``, ``‖H‖_{S∞→S1}`` and the quadratic maxima over the same balls, two-sided.

One program for every ball of :mod:`deva_theory.smoothness.estimators.balls`:

1. *lift*: k vectors, ``G = H[V]``, ``V ← lifted steepest direction of G``; this solves the semidefinite relaxation from
   below and leaves its multiplier, the majorant M;
2. *round*: random combinations of the lifted vectors start the power iteration ``D ← steepest(H[D])``, whose value
   ``‖H[D]‖_*`` never falls; the best pair (D, steepest(H[D])) is the lower witness;
3. *certify*: Lanczos on ``M^{-1/2} H M^{-1/2}`` from a start vector independent of M; the trace bound of the ball
   turns its certified spectrum into upper bounds of both quantities.

A block of few parameters is written out once (d products) and everything after that is exact arithmetic on the matrix.

**Accuracy of the products.**  Model: what is computed is the product with a symmetric H + E, and the error of no product in the
ball exceeds ``noise`` times the largest one, ``‖E y‖_2 ≤ noise · g``, ``g = max ‖H y‖_2``.  Let R be the largest Euclidean norm in
the ball.  Then, without further assumptions, ``|<x, E y>| ≤ noise · R · g`` for x, y in the ball, and both quantities of H and of
H + E differ by no more.

* Upper ends: ``g ≤ max ‖H y‖_*``, because the dual norms are at least Euclidean: the allowance is ``noise · R`` of the norm.  For a
  box it also covers every E with ``|E_ij| ≤ noise |H_ij| / √2``: the mean over sign vectors gives
  ``‖H‖_{∞→1} ≥ Σ_i ‖H_i‖_2/√2 ≥ Σ|H_ij|/√(2d)`` (Khinchine).  Taking H + E for fixed and comparing *norms* avoids the factor
  ``‖M^{-1}‖ trace``, of the order of d, by which whitening enlarges E itself.
* Lower ends: ``noise · ‖x‖_2 · g`` with the largest g seen, near the maximum since the power iteration maximises ‖H y‖_*.

That E is the same for all products is an assumption (see :mod:`deva_theory.smoothness.estimators.krylov`); what changes from
product to product is allowed for by Lanczos, relative to the whitened operator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deva_theory.geometry import sign_vectors
from deva_theory.smoothness.estimators.balls import Ball, Box, Majorant
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.krylov import Spectrum, binary_exponent, dense_spectrum, extreme_eigenvalues, scaled
from deva_theory.smoothness.estimators.programs import Program, congruence
from deva_theory.smoothness.estimators.randomness import generator

_ENUMERATED = 14
_FLOORS = (0.01, 0.1)
_STEPS = (1.0, 4.0, 16.0)
"""Step sizes of the projected ascent, in units of 1/‖N‖."""
_STARTS = 4
"""Starting points of the projected ascent."""


@dataclass(frozen=True)
class Effort:
    """How hard :func:`operator_norm` works.

    Attributes
    ----------
    columns : int
        k, lifted vectors; the products of one round are one batch.
    lifts : int
        Lifted iterations before the first certificate; half as many before the second.
    restarts, ascents : int
        Rounded starts of the power iteration, and its length (it stops earlier when no start improves).
    rounds : int
        At most so many rounds of the projected ascent, where H is indefinite: twelve products each.
    certificate_products : int
        At most so many Lanczos steps per certificate.
    dense : int
        Blocks of at most so many parameters are written out.
    """

    columns: int = 8
    lifts: int = 20
    restarts: int = 8
    ascents: int = 10
    rounds: int = 8
    certificate_products: int = 100
    dense: int = 256


EFFORTS = {
    "low": Effort(columns=4, lifts=8, restarts=4, ascents=5, rounds=2, certificate_products=40, dense=128),
    "normal": Effort(),
    "high": Effort(columns=16, lifts=40, restarts=16, ascents=20, certificate_products=200, dense=512),
}


def operator_norm_products(size: int, effort: Effort) -> tuple[int, int]:
    """Return (typical, at most) numbers of products of :func:`operator_norm`."""
    if size <= effort.dense:
        return size, size
    certificate = min(effort.certificate_products, size)
    quadratic = _STARTS * len(_STEPS) * effort.rounds
    # On small networks starts climb about six rounds and a certificate takes about forty steps; a second attempt is the exception.
    typical = effort.columns * effort.lifts + effort.restarts * min(6, effort.ascents) + min(40, certificate) + quadratic
    most = effort.columns * (effort.lifts + effort.lifts // 2) + effort.restarts * effort.ascents + 2 * certificate + quadratic
    return min(typical, most), most


def operator_norm(
    ball: Ball,
    *,
    norm: str,
    tolerance: float = 0.25,
    failure: float = 1e-3,
    effort: Effort | None = None,
    noise: float = 1e-14,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Program[Estimate]:
    """Enclose ``sup <X, H Y>`` and ``sup <D, H D>`` over a ball, for symmetric H.

    Parameters
    ----------
    ball : Ball
        :class:`~deva_theory.smoothness.estimators.balls.Box`, ``SpectralBall`` or a product of them.
    norm : str
        Name that the estimate carries: "linf" or "spectral".
    tolerance : float
        A second certificate is tried when ``upper > (1 + tolerance) lower`` after the first.
    failure : float
        δ: probability that an upper end is wrong (the lower ends are evaluated, not estimated).
    noise : float
        Relative accuracy of the products, at least 8 units of rounding of `dtype`; all ends are moved outward, see above.

    Notes
    -----
    SPEC S4-S6, ESTIMATORS.  Boxes of at most 14 coordinates are enumerated: ``‖H‖_{∞→1} = max_{s ∈ {±1}^d} ‖H s‖_1``.
    """
    effort = effort or Effort()
    size = ball.size
    used = 0
    exponent: int | None = None  # of two: products are scaled to order one, because their squares are summed
    H: Tensor | None = None
    noise = max(noise, 8 * torch.finfo(dtype).eps)

    def normal(rows: int, columns: int, stream: str) -> Tensor:
        draws = generator(seed, f"operator norm: {stream}")
        return torch.randn(rows, columns, generator=draws, dtype=torch.float64, device="cpu").to(device=device, dtype=dtype)

    def product(V: Tensor) -> Program[Tensor]:
        nonlocal used, exponent
        if H is not None:
            return V @ H
        used += len(V)
        answer = (yield V).to(dtype)
        if exponent is None:
            exponent = binary_exponent(answer)
        return answer * 2.0**-exponent

    if size <= effort.dense:
        identity = torch.eye(size, dtype=dtype, device=device)
        columns = yield from product(identity)
        H = 0.5 * (columns + columns.mT)
    best = _Best(ball, noise)
    V = normal(effort.columns, size, "lift")
    majorant: Majorant | None = None
    upper_bilinear = upper_quadratic = torch.inf
    certified_by = ""
    for attempt, floor in enumerate(_FLOORS):
        for _ in range(effort.lifts if attempt == 0 else max(1, effort.lifts // 2)):
            G = yield from product(V)
            if not bool(G.any()):
                # Only the first time, V being Gaussian: <V, H M⁻¹ H V> = ‖M^{-1/2} H V‖² > 0 afterwards.
                return _vanishing(norm, size, used, tolerance)
            majorant = ball.lift(G, majorant)
            V = 2.0 * majorant.power(G, -1.0)
        assert majorant is not None
        if attempt == 0:
            starts = ball.steepest(normal(effort.restarts, effort.columns, "rounding") @ V)
            yield from _climb(ball, starts, product, best, effort.ascents)
        bound = majorant.floored(floor)
        spectrum: Spectrum
        root = _root(bound)
        if H is not None:
            spectrum = dense_spectrum(root(root(H).mT), noise=noise)
        else:
            assert exponent is not None
            unit = 2.0**-exponent
            # A narrower certificate than this would not show in the ratio.
            spectrum = yield from congruence(
                extreme_eigenvalues(
                    size, tolerance=5e-3, failure=failure / len(_FLOORS), max_products=effort.certificate_products,
                    noise=noise, seed=seed, stream=f"operator norm: certificate {attempt}", dtype=dtype, device=device,
                ),
                root, lambda W, root=root, unit=unit: root(W.to(dtype) * unit),  # type: ignore[misc]
            )
            used += spectrum.products
        modulus = bound.trace * spectrum.modulus[1]
        if modulus < upper_bilinear:
            upper_bilinear = modulus
            certified_by = "trace bound, dense eigenvalues" if H is not None else "trace bound, Lanczos certificate"
        upper_quadratic = min(upper_quadratic, bound.trace * max(0.0, spectrum.ceiling))
        if attempt == 0:
            yield from _climb_quadratic(ball, bound, spectrum, product, best, effort.rounds)
        if (1 + noise * ball.radius) * upper_bilinear <= (1 + tolerance) * best.bilinear:
            break
    chance = 0.0 if H is not None else failure
    lower_method = "power iteration from lifted starts"
    quadratic_method, quadratic_certified_by = "projected ascent, evaluated", "trace bound, largest eigenvalue"
    if H is not None and isinstance(ball, Box) and size <= _ENUMERATED:
        S, G = _vertices(H)
        best.offer_pairs(S, G)
        upper_bilinear = float(ball.dual_norm(G).max())
        certified_by, lower_method = "all sign vectors", "all sign vectors"
        if bool((H.diagonal() >= 0).all()):
            # Convex in each coordinate: a vertex attains the maximum of uᵀHu as well.
            best.offer_singles(S, G)
            upper_quadratic = float((S * G).sum(-1).max())
            quadratic_method = quadratic_certified_by = "all sign vectors"
    # The two quantities bound each other; rounding may leave a witness an ulp above its certificate.
    if best.single is not None and best.quadratic > best.bilinear:
        best.pair_value, best.pair = best.single_value, (best.single, best.single)
    if best.quadratic == 0.0:  # what is not above the accuracy of the products is no witness
        best.single = None
    if best.bilinear == 0.0:
        best.pair = None
    upper_bilinear = max(upper_bilinear, best.bilinear)
    upper_quadratic = max(min(upper_quadratic, upper_bilinear), best.quadratic)
    share = noise * ball.radius
    # Relative to H's own norm, hence the denominator; where the model leaves nothing, twice the first order.
    slack = share * upper_bilinear / (1 - min(share, 0.5))
    upper_bilinear, upper_quadratic = upper_bilinear + slack, upper_quadratic + slack
    met = upper_bilinear <= (1 + tolerance) * best.bilinear
    upper, high = scaled(upper_bilinear, exponent or 0), scaled(upper_quadratic, exponent or 0)
    # A lower end beyond the largest number is no number.
    lower, low = (min(scaled(x, exponent or 0), sys.float_info.max) for x in (best.bilinear, best.quadratic))
    bilinear = Bounds(lower, upper, lower_method, certified_by, chance, witness=best.pair)
    quadratic = Bounds(low, high, quadratic_method, quadratic_certified_by, chance, witness=best.single)
    notes = () if met else (f"the interval has ratio {bilinear.ratio:.3g}: certificate and witness do not meet at this effort",)
    return Estimate(norm, size, bilinear, quadratic, used, tolerance, met, notes)


@dataclass
class _Best:
    """The best feasible directions so far; every value is evaluated at the point that is kept, less what rounding may have added."""

    ball: Ball
    noise: float
    pair: tuple[Tensor, Tensor] | None = None
    single: Tensor | None = None
    pair_value: float = 0.0
    single_value: float = 0.0
    largest: float = 0.0
    """Largest ``‖H y‖_2`` seen, y in the ball."""

    @property
    def bilinear(self) -> float:
        """Below the bilinear quantity."""
        return 0.0 if self.pair is None else max(0.0, self.pair_value - self._allowance(self.pair[0]))

    @property
    def quadratic(self) -> float:
        """Below the quadratic quantity."""
        return 0.0 if self.single is None else max(0.0, self.single_value - self._allowance(self.single))

    def _allowance(self, x: Tensor) -> float:
        return self.noise * self.largest * float(torch.linalg.vector_norm(x))

    def offer_pairs(self, D: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Offer ``<steepest(G), G> = ‖H D‖_*``; return the partners steepest(G) and the values."""
        self._see(G)
        partner = self.ball.steepest(G)
        values = (partner * G).sum(-1)
        top = int(values.argmax())
        if float(values[top]) > self.pair_value:
            self.pair_value, self.pair = float(values[top]), (partner[top].clone(), D[top].clone())
        return partner, values

    def offer_singles(self, D: Tensor, G: Tensor) -> None:
        """Offer ``<D, H D>``."""
        self._see(G)
        values = (D * G).sum(-1)
        top = int(values.argmax())
        if float(values[top]) > self.single_value:
            self.single_value, self.single = float(values[top]), D[top].clone()

    def _see(self, G: Tensor) -> None:
        self.largest = max(self.largest, float(torch.linalg.vector_norm(G, dim=-1).max()))


Product = Callable[[Tensor], Program[Tensor]]


def _climb(ball: Ball, D: Tensor, product: Product, best: _Best, steps: int) -> Program[None]:
    """Iterate ``D ← steepest(H D)`` on all starts until none improves."""
    before = None
    for _ in range(steps):
        G = yield from product(D)
        best.offer_singles(D, G)
        partner, values = best.offer_pairs(D, G)
        if before is not None and bool((values <= before * (1 + 1e-9)).all()):
            break
        before = values
        D = partner


def _climb_quadratic(
    ball: Ball, majorant: Majorant, spectrum: Spectrum, product: Product, best: _Best, rounds: int
) -> Program[None]:
    """Projected ascent of ``<D, H D>`` (the maximum may lie inside the ball where H is indefinite), from the best points at hand."""
    if best.pair is None or spectrum.ceiling <= 0:
        return
    x, y = best.pair
    root = majorant.power(spectrum.vectors[1].unsqueeze(0), -0.5)
    root = root / ball.gauge(root).clamp_min(torch.finfo(root.dtype).tiny)
    if spectrum.floor >= -1e-3 * spectrum.ceiling:
        # (Almost) positive semidefinite: both members of the best pair are as good as it gets.
        D = torch.stack((x, y))
        best.offer_singles(D, (yield from product(D)))
        return
    # <X,HY> = <P,HP> - <Q,HQ> with P, Q = (X ± Y)/2, both in the ball.
    starts = torch.cat((root, ball.steepest(root), torch.stack(((x + y) / 2, (x - y) / 2))))
    steps = torch.tensor(_STEPS, dtype=x.dtype, device=x.device) / max(spectrum.modulus[1], torch.finfo(x.dtype).tiny)
    D = starts.repeat_interleave(len(steps), dim=0)
    pace = steps.repeat(len(starts)).unsqueeze(-1)
    for done in range(rounds):
        G = yield from product(D)
        before = best.single_value
        best.offer_singles(D, G)
        best.offer_pairs(D, G)
        if best.single_value <= before * (1 + 1e-6) and done >= 2:
            break
        D = ball.project(D + pace * majorant.power(G, -1.0))


def _root(majorant: Majorant) -> Callable[[Tensor], Tensor]:
    return lambda V: majorant.power(V, -0.5)


def _vertices(H: Tensor) -> tuple[Tensor, Tensor]:
    """Return all sign vectors s (s and -s agree, so the last sign is fixed) and their products H s."""
    signs = sign_vectors(len(H), dtype=H.dtype, device=H.device)
    return signs, signs @ H


def _vanishing(norm: str, size: int, used: int, tolerance: float) -> Estimate:
    """H annihilates random vectors: it is zero, with probability one."""
    zero = Bounds(0.0, 0.0, "products with random vectors vanish", "products with random vectors vanish")
    return Estimate(norm, size, zero, replace(zero), used, tolerance, True, ("the block has no curvature",))
