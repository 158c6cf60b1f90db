r"""Operator norms ``‖H‖_{∞→1}``, ``‖H‖_{S∞→S1}`` and the quadratic maxima over the same balls, two-sided.

One program for every ball of :mod:`deva_theory.smoothness.estimators.balls`:

1. *lift*: k vectors, ``G = H[V]``, ``V ← lifted steepest direction of G``; this solves the semidefinite relaxation from
   below and leaves its multiplier, the majorant M;
2. *round*: random combinations of the lifted vectors start the power iteration ``D ← steepest(H[D])``, whose value
   ``‖H[D]‖_*`` never falls; the best pair (D, steepest(H[D])) is the lower witness;
3. *certify*: Lanczos on ``M^{-1/2} H M^{-1/2}`` from a start vector independent of M; the trace bound of the ball
   turns its certified spectrum into upper bounds of both quantities.

A block of few parameters is written out once (d products) and everything after that is exact arithmetic on the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deva_theory.geometry import sign_vectors
from deva_theory.smoothness.estimators.balls import Ball, Box, Majorant
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.krylov import Spectrum, binary_exponent, dense_spectrum, extreme_eigenvalues, scaled
from deva_theory.smoothness.estimators.programs import Program, congruence

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
        Relative accuracy of the products.

    Notes
    -----
    SPEC S4-S6, ESTIMATORS.  Boxes of at most 14 coordinates are enumerated: ``‖H‖_{∞→1} = max_{s ∈ {±1}^d} ‖H s‖_1``.
    """
    effort = effort or Effort()
    size = ball.size
    used = 0
    exponent: int | None = None  # of two: products are scaled to order one, because their squares are summed
    H: Tensor | None = None
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)

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
    best = _Best(ball, size)
    V = normal(effort.columns, size)
    majorant: Majorant | None = None
    upper_bilinear = upper_quadratic = torch.inf
    certified_by, met = "", False
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
            starts = ball.steepest(normal(effort.restarts, effort.columns) @ V)
            yield from _climb(ball, starts, product, best, effort.ascents)
        bound = majorant.floored(floor)
        spectrum: Spectrum
        root = _root(bound)
        if H is not None:
            spectrum = dense_spectrum(root(root(H).mT))
        else:
            assert exponent is not None
            unit = 2.0**-exponent
            # A narrower certificate than this would not show in the ratio.
            spectrum = yield from congruence(
                extreme_eigenvalues(
                    size, tolerance=5e-3, failure=failure / len(_FLOORS), max_products=effort.certificate_products,
                    noise=noise, seed=seed + 1 + attempt, dtype=dtype, device=device,
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
        met = upper_bilinear <= (1 + tolerance) * best.bilinear
        if met:
            break
    chance = 0.0 if H is not None else failure
    lower_method = "power iteration from lifted starts"
    quadratic_method, quadratic_certified_by = "projected ascent, evaluated", "trace bound, largest eigenvalue"
    if H is not None and isinstance(ball, Box) and size <= _ENUMERATED:
        upper_bilinear, best.pair = _enumerate(H, lambda S, G: G.abs().sum(-1))
        best.bilinear = upper_bilinear
        certified_by, lower_method, met = "all sign vectors", "all sign vectors", True
        if bool((H.diagonal() >= 0).all()):
            # Convex in each coordinate: a vertex attains the maximum of uᵀHu as well.
            upper_quadratic, (best.single, _) = _enumerate(H, lambda S, G: (S * G).sum(-1))
            best.quadratic = upper_quadratic
            quadratic_method = quadratic_certified_by = "all sign vectors"
    # The two quantities bound each other; rounding may leave a witness an ulp above its certificate.
    if best.single is not None and best.quadratic > best.bilinear:
        best.bilinear, best.pair = best.quadratic, (best.single, best.single)
    upper_bilinear = max(upper_bilinear, best.bilinear)
    upper_quadratic = max(min(upper_quadratic, upper_bilinear), best.quadratic)
    lower, upper, low, high = (scaled(x, exponent or 0) for x in (best.bilinear, upper_bilinear, best.quadratic, upper_quadratic))
    bilinear = Bounds(lower, upper, lower_method, certified_by, chance, witness=best.pair)
    quadratic = Bounds(low, high, quadratic_method, quadratic_certified_by, chance, witness=best.single)
    notes = () if met else (f"the interval has ratio {bilinear.ratio:.3g}: certificate and witness do not meet at this effort",)
    return Estimate(norm, size, bilinear, quadratic, used, tolerance, met, notes)


@dataclass
class _Best:
    """The best feasible directions so far; every value is evaluated at the point that is kept."""

    ball: Ball
    size: int
    bilinear: float = 0.0
    quadratic: float = 0.0
    pair: tuple[Tensor, Tensor] | None = None
    single: Tensor | None = None

    def offer_pairs(self, D: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Offer ``<steepest(G), G> = ‖H D‖_*``; return the partners steepest(G) and the values."""
        partner = self.ball.steepest(G)
        values = (partner * G).sum(-1)
        top = int(values.argmax())
        if float(values[top]) > self.bilinear:
            self.bilinear, self.pair = float(values[top]), (partner[top].clone(), D[top].clone())
        return partner, values

    def offer_singles(self, D: Tensor, G: Tensor) -> None:
        """Offer ``<D, H D>``."""
        values = (D * G).sum(-1)
        top = int(values.argmax())
        if float(values[top]) > self.quadratic:
            self.quadratic, self.single = float(values[top]), D[top].clone()


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
    assert best.pair is not None or best.bilinear == 0.0
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
        before = best.quadratic
        best.offer_singles(D, G)
        best.offer_pairs(D, G)
        if best.quadratic <= before * (1 + 1e-6) and done >= 2:
            break
        D = ball.project(D + pace * majorant.power(G, -1.0))


def _root(majorant: Majorant) -> Callable[[Tensor], Tensor]:
    return lambda V: majorant.power(V, -0.5)


def _enumerate(H: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, tuple[Tensor, Tensor]]:
    """Return ``max_s value(s, H s)`` over sign vectors s (s and -s agree, so the last sign is fixed), s and ``sign(H s)``."""
    d = len(H)
    signs = sign_vectors(d, dtype=H.dtype, device=H.device)
    G = signs @ H
    values = value(signs, G)
    top = int(values.argmax())
    return float(values[top]), (signs[top].clone(), Box(d).steepest(G[top]))


def _vanishing(norm: str, size: int, used: int, tolerance: float) -> Estimate:
    """H annihilates random vectors: it is zero, with probability one."""
    zero = Bounds(0.0, 0.0, "products with random vectors vanish", "products with random vectors vanish")
    return Estimate(norm, size, zero, replace(zero), used, tolerance, True, ("the block has no curvature",))
