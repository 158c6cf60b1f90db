"""What the polynomial iterations do to singular values (SPEC M12, A6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deva_theory.certify import RationalMatrix, enclose_polynomial
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.linalg import CUBIC, QUINTIC, REFERENCE_QUINTIC, optimal_quintic, polar_express_coefficients, polar_factor
from paper_checks.verdicts import exactly

Array = NDArray[np.float64]
Steps = Sequence[Sequence[float]]
Ends = tuple[str | Fraction, str | Fraction]

FIVE: Steps = [REFERENCE_QUINTIC] * 5
NEAR_ONE = ("0.99999999", "1.00000001")
JUST_ABOVE_ONE = "1.000000001"
"""1 is attained, and rounded intervals cannot end exactly at an attained value."""
CENTRED = "1/100000000"
"""Remez stops at double precision, the grid finds interior extrema to the square of its spacing."""
WIDEST = 0.02407327424182761
"""Ratio of the ends beyond which Polar Express optimises for the upper part only (Amsel et al. 2025)."""
CUSHION = 1.01
"""Amsel et al. 2025, section 4; every polynomial but the last sees σ over it."""

AGREE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""Relative: rounding times the slope at 0: 3.4445⁵ = 485 for the quintic, about 7e3 for Polar Express."""


# ---- M12: certified enclosures -------------------------------------------------------------------


def applied(sets: Steps, cushion: float = CUSHION) -> list[tuple[float, ...]]:
    """Return Polar Express polynomials as `polar_factor` applies them: all but the last on σ/cushion."""
    return [tuple(a / cushion ** (2 * k + 1) for k, a in enumerate(s)) for s in sets[:-1]] + [tuple(sets[-1])]


class Image(NamedTuple):
    """An interval that contains the image of another one, with certificates: one polynomial each, domain to image."""

    lower: Fraction
    upper: Fraction
    certificates: list[Mapping[str, Any]]


def image(sets: Steps, domain: Ends) -> Image:
    """Enclose the image under polynomials one after the other: the image of an interval is an interval, and images compose."""
    certificates = []
    ends = Fraction(domain[0]), Fraction(domain[1])
    for polynomial in sets:
        found = enclose_polynomial([polynomial], ends, 1e-12)
        ends = Fraction(found.lower), Fraction(found.upper)
        certificates.append(found.certificate)
    return Image(*ends, certificates)


def attained(sets: Steps, domain: Ends) -> tuple[Fraction, Fraction]:
    """Return values near the ends of the image that are attained, computed at grid points with 40 digits."""
    low, high = float(Fraction(domain[0])), float(Fraction(domain[1]))
    grid = np.concatenate([np.linspace(low, high, 100_001), np.geomspace(low, high, 50_001)]).clip(low, high)
    values = composed(sets, grid)
    found = []
    with mpmath.workdps(40):
        for x in (grid[values.argmin()], grid[values.argmax()]):
            y = mpmath.mpf(float(x))
            for polynomial in sets:
                y = sum(mpmath.mpf(repr(a)) * y ** (2 * k + 1) for k, a in enumerate(polynomial))
            found.append(Fraction(mpmath.nstr(y, 30)))
    return found[0], found[1]


def _maps(sets: Steps, domain: Ends, claimed: Ends, digits: int = 7) -> Evidence:
    """Certify that polynomials map one interval into another, or find a point that they do not."""
    low, high = Fraction(claimed[0]), Fraction(claimed[1])
    found, (least, largest) = image(sets, domain), attained(sets, domain)
    inside = low <= found.lower and found.upper <= high
    beyond = Verdict.REFUTED if least < low or largest > high else Verdict.INCONCLUSIVE
    values = {"type": "values", "show": [[str(low), "<=", str(found.lower)], [str(found.upper), "<=", str(high)]]}
    ends = [round(float(x), digits) for x in (found.lower, found.upper)]
    return Evidence(
        Verdict.CERTIFIED if inside else beyond, "interval arithmetic",
        f"image within [{ends[0]}, {ends[1]}]; attained {float(least):.{digits}g} and {float(largest):.{digits}g}",
        numbers={"lower": ends[0], "upper": ends[1]}, margin=float(min(found.lower - low, high - found.upper)) if inside else None,
        certificates=[*found.certificates, values] if inside else (),
    )


def quintic(run: Run) -> Evidence:
    """[.05, 1] under the reference's five steps. Control: a narrower interval."""
    return _maps(FIVE, ("1/20", "1"), ("0.6819", "1.1343") if run.twin else ("0.6818", "1.1344"))


def quintic_small(run: Run) -> Evidence:
    """[.002, 1] under the same. Control: a smaller upper end."""
    return _maps(FIVE, ("1/500", "1"), ("0.6818", "1.2023" if run.twin else "1.2024"))


def quintic_invariant(run: Run) -> Evidence:
    """One step maps the interval into itself, and its one fixed point there is repelling. Control: a narrower interval."""
    ends = ("0.6819", "1.1343") if run.twin else ("0.6818", "1.1344")
    stays = _maps(FIVE[:1], ends, ends)
    a, b, c = map(str, map(Fraction, map(str, REFERENCE_QUINTIC)))
    # p(x)/x - 1 is a convex quadratic in x²: positive, then negative up to the upper end, it has one zero in the interval. p' is
    # convex in x², too, hence at most the larger of its values at the ends of the bracket.
    (first, last), low, high = map(str, map(Fraction, ends)), "868/1000", "869/1000"
    show = [[c, ">", "0"]]
    show += [[f"{a} + ({b})*({x})**2 + {c}*({x})**4 - 1", sign, "0"] for x, sign in ((first, ">"), (low, ">"), (high, "<"), (last, "<"))]
    show += [[f"{a} + 3*({b})*({x})**2 + 5*{c}*({x})**4", "<", "-1"] for x in (low, high)]
    repels = exactly(show)
    return replace(
        stays, verdict=stays.verdict if stays.verdict is not Verdict.CERTIFIED or repels else Verdict.INCONCLUSIVE,
        summary=f"{stays.summary}; the only fixed point in it lies in [.868, .869], where p' < -1: {'shown' if repels else 'not shown'}",
        certificates=[*stays.certificates, {"type": "values", "show": show}] if stays.certificates and repels else (),
        steps=[" ".join(row) for row in show],
    )


def cubic(run: Run) -> Evidence:
    """[.05, 1] under five cubic steps. Control: a larger lower end."""
    return _maps([CUBIC] * 5, ("1/20", "1"), ("0.3659" if run.twin else "0.3658", JUST_ABOVE_ONE))


def pade(run: Run) -> Evidence:
    """[.05, 1] under five Padé quintic steps. Control: a larger lower end."""
    return _maps([QUINTIC] * 5, ("1/20", "1"), ("0.8522" if run.twin else "0.8521", JUST_ABOVE_ONE))


def express(run: Run) -> Evidence:
    """[.001, 1] under eight Polar Express polynomials. Control: seven."""
    return _maps(polar_express_coefficients(7 if run.twin else 8), ("1/1000", "1"), ("0.999999999999", "1.000000000001"), 13)


def express_applied(run: Run) -> Evidence:
    """The same as `polar_factor` applies them, with cushion. Control: five polynomials."""
    return _maps(applied(polar_express_coefficients(5 if run.twin else 8)), ("1/1000", "1"), NEAR_ONE, 10)


def express_centred(run: Run) -> Evidence:
    """Every Polar Express polynomial maps the previous image onto one symmetric around 1. Control: the first one is the plain optimum."""
    sets, ends = list(polar_express_coefficients(8)), ("1/1000", "1")
    if run.twin:
        sets[0] = optimal_quintic(WIDEST)[0]
    domain: Ends = ends
    certificates: list[Mapping[str, Any]] = []
    centres, slack = [], []
    for polynomial in sets:
        found, (least, largest) = image([polynomial], domain), attained([polynomial], domain)
        centres.append(abs(found.lower + found.upper - 2))
        slack.append(max(least - found.lower, found.upper - largest))
        certificates += [*found.certificates, {"type": "values", "show": [
            [f"({found.lower}) + ({found.upper}) - 2", "<=", CENTRED], [f"2 - ({found.lower}) - ({found.upper})", "<=", CENTRED],
        ]}]
        domain = found.lower, found.upper
    centred, tight = max(centres) <= Fraction(CENTRED), max(slack) <= Fraction(CENTRED)
    return Evidence(
        (Verdict.CERTIFIED if centred else Verdict.REFUTED) if tight else Verdict.INCONCLUSIVE, "interval arithmetic",
        f"the ends of each of eight images sum to 2 up to {float(max(centres)):.2g}; both ends are attained up to {float(max(slack)):.2g}",
        certificates=certificates if centred and tight else (),
    )


def near_exact(run: Run) -> Evidence:
    """Condition 1e2, min(m, n) ≤ 64: σ over 1.01 ‖σ‖_F is at least 1/808. Control: condition 1e4."""
    return _maps(applied(polar_express_coefficients(8)), ("1/80800" if run.twin else "1/808", "1"), NEAR_ONE, 10)


def minimax(run: Run) -> Evidence:
    """`optimal_quintic` against every odd quintic. Control: its coefficients rounded to two decimals."""
    certificates: list[Mapping[str, Any]] = []
    gaps, errors = [], {}
    for lower in ("1/1000", "1/100", "1/20", "3/10", "1/2")[: run.count(3, 5)]:
        coefficients, _ = optimal_quintic(float(Fraction(lower)))
        least, dual = _best_error(coefficients, Fraction(lower))
        claimed = tuple(round(a, 2) for a in coefficients) if run.twin else coefficients
        found = image([claimed], (lower, "1"))
        error = max(1 - found.lower, found.upper - 1)
        if run.twin:  # what is attained, not what it is bounded by, shows that a better quintic exists
            error = max(abs(1 - y) for y in attained([claimed], (lower, "1")))
        gaps.append(error - least)
        errors[f"error on [{lower}, 1]"] = round(float(error), 7)
        certificates += [*found.certificates, dual]
    optimal = max(gaps) <= Fraction(1, 10**9)
    return Evidence(
        Verdict.CERTIFIED if optimal else Verdict.REFUTED, "LP duality, interval arithmetic",
        f"error above that of the best odd quintic by at most {float(max(gaps)):.2g}, {len(gaps)} intervals", numbers=errors,
        budget={"intervals": len(gaps)}, certificates=certificates if optimal else (),
    )


def _best_error(coefficients: Sequence[float], lower: Fraction) -> tuple[Fraction, dict[str, Any]]:
    """Return a lower bound of max |1 - ax - bx³ - cx⁵| over all a, b, c, from four points with alternating errors.

    Weights w > 0 with Σ w = 1 and Σ ± w x = Σ ± w x³ = Σ ± w x⁵ = 0 show t ≥ Σ ± w for every bound t of the error.
    """
    a, b, c = coefficients
    inner = np.sqrt((-3 * b + np.array([-1.0, 1.0]) * math.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
    points = [lower, *(Fraction(float(x)).limit_denominator(10**6) for x in np.sort(inner)), Fraction(1)]
    signs = [1, -1, 1, -1]  # the error 1 - p is positive at the lower end
    system = [[s * x**power for s, x in zip(signs, points, strict=True)] for power in (1, 3, 5)] + [[Fraction(1)] * 4]
    inverse = RationalMatrix(system).inverse()
    weights = [inverse[k, 3] for k in range(4)]
    bound = sum(s * w for s, w in zip(signs, weights, strict=True))
    constraints = [
        {
            "name": f"error at {x}", "at_most": str(-s),
            "row": {"a": str(-s * x), "b": str(-s * x**3), "c": str(-s * x**5), "t": "-1"},
        }
        for s, x in zip(signs, points, strict=True)
    ]
    # Some point must satisfy the constraints: the coefficients themselves, with their error at the four points.
    polynomial = {"a": Fraction(a), "b": Fraction(b), "c": Fraction(c)}
    error = max(abs(1 - sum(p * x**power for p, power in zip(polynomial.values(), (1, 3, 5), strict=True))) for x in points)
    return bound, {
        "type": "dual", "variables": ["a", "b", "c", "t"], "objective": {"t": "-1"}, "constraints": constraints,
        "multipliers": [str(w) for w in weights], "bound": str(-bound),
        "point": {name: str(x) for name, x in {**polynomial, "t": error}.items()},
    }


# ---- M12: the library ----------------------------------------------------------------------------


def composed(sets: Steps, x: Array) -> Array:
    """Return ``a₁x + a₃x³ + a₅x⁵ + …``, one polynomial after the other."""
    for polynomial in sets:
        x = sum(a * x ** (2 * k + 1) for k, a in enumerate(polynomial))
    return x


def _matrices(run: Run) -> list[tuple[Array, Array, Array]]:
    """Return U, σ, V of matrices of all shapes: condition up to 1e2, rank deficient, zero."""
    found = []
    shapes = [(3, 3), (5, 3), (3, 5), (6, 4), (1, 4), (4, 1), (1, 1), (8, 8)]
    for k in range(run.count(8, 80)):
        m, n = shapes[k % len(shapes)]
        rng, r = run.rng(k), min(m, n)
        U, V = (np.linalg.qr(rng.standard_normal((d, r)))[0] for d in (m, n))
        s = 10.0 ** rng.uniform(-2, 0, size=r)
        s[0] = 1.0
        s[r - k % 2 * (r > 1):] = 0.0
        found.append((U, s, V))
    return found


def polar_code(run: Run) -> Evidence:
    """`polar_factor` maps singular values by the composed polynomial. Control: plain Frobenius normalisation for Newton-Schulz."""
    cubic, pade = [CUBIC] * 4, [QUINTIC, QUINTIC, CUBIC]
    eight = polar_express_coefficients(8)
    variants: list[tuple[dict[str, Any], list[Sequence[float]]]] = [
        ({"method": "newton_schulz"}, [(3.4445, -4.7750, 2.0315)] * 5),
        ({"method": "newton_schulz", "steps": 2}, [(3.4445, -4.7750, 2.0315)] * 2),
        ({"method": "newton_schulz", "coefficients": cubic}, cubic),
        ({"method": "newton_schulz", "coefficients": pade, "steps": 5}, [*pade, CUBIC, CUBIC]),
        ({"method": "polar_express"}, list(eight)),
        ({"method": "polar_express", "steps": 3}, list(polar_express_coefficients(3))),
        ({"method": "polar_express", "coefficients": pade}, pade),
    ]
    worst, count = 0.0, 0
    for U, s, V in _matrices(run):
        for options, sets in variants:
            if options["method"] == "newton_schulz":
                seen = composed(sets, s / np.linalg.norm(s, 2 if run.twin else 8))
            else:
                seen = composed(applied(sets), s / (np.linalg.norm(s) * CUSHION))
            expected = (U * seen) @ V.T
            for dtype, rounding in AGREE.items():
                G = torch.from_numpy((U * s) @ V.T).to(dtype)
                for scaled in (G, 2.0**40 * G, 0.7e-9 * G):
                    found = polar_factor(scaled, **options).double().numpy()
                    error = float(np.abs(found - expected).max()) / rounding
                    worst, count = max(worst, error if math.isfinite(error) else 1e9), count + 1
                pair = polar_factor(torch.stack([G, G.flip(-1)]), **options)
                worst = max(worst, float((pair[1].flip(-1) - pair[0]).abs().max()) / rounding)
    zero = all(not polar_factor(torch.zeros(2, 3, dtype=torch.float64), **options).any() for options, _ in variants)
    agrees = worst <= 1 and zero
    return Evidence(
        Verdict.SUPPORTED if agrees else Verdict.REFUTED, "independent implementation",
        f"{count} factors agree with the polynomial of their singular values" if agrees else f"largest error {worst:.3g} tolerances",
        budget={"factors": count}, seed=run.seed,
    )


def not_msign(*, gradient: Any, coefficients: Sequence[float], steps: int) -> float:
    """Return the spectral-norm distance of the iterate and msign."""
    G = torch.tensor(gradient, dtype=torch.float64)
    found = polar_factor(G, method="newton_schulz", coefficients=[list(coefficients)], steps=steps)
    return float(torch.linalg.matrix_norm(found - polar_factor(G), 2))


def converges(run: Run) -> Evidence:
    """The reference's five steps end at msign. Control: the Padé quintic (1.875, -1.25, .375)."""
    coefficients = list(QUINTIC if run.twin else REFERENCE_QUINTIC)
    data = {"gradient": [[1.0]], "coefficients": coefficients, "steps": 5}
    distances = {steps: not_msign(**(data | {"steps": steps})) for steps in (5, 10, 20, 40)}
    # 1 is msign of [[1]]; a sequence that tends to 1 needs p(1) = 1.
    fixed = sum(Fraction(str(a)) for a in coefficients)
    moves = fixed != 1 and min(distances.values()) > 0.01
    return Evidence(
        Verdict.REFUTED if moves else Verdict.SUPPORTED if max(distances.values()) <= 1e-12 else Verdict.INCONCLUSIVE, "exact rationals",
        f"p(1) = {fixed}; distance from msign([[1]]) = 1 after 5, 10, 20, 40 steps: " + ", ".join(f"{d:.3f}" for d in distances.values()),
        numbers={f"{steps} steps": round(d, 4) for steps, d in distances.items()}, margin=distances[5],
        counterexample=Counterexample(
            "M12-converges", "Five (or more) steps of the quintic (3.4445, -4.7750, 2.0315) converge to msign. False for G = [[1]]: p(1) = "
            "701/1000, so 1 is not a fixed point; violation: distance from 1 after five steps.", "paper_checks.spectral_polar:not_msign",
            data, 0.1,
        ) if moves else None,
    )


# ---- A6 ------------------------------------------------------------------------------------------


def _gaussian(run: Run, size: int, count: int) -> Tensor:
    return torch.randn(count, size, size, generator=run.generator(size), dtype=torch.float64)


def _distance(A: Tensor, B: Tensor) -> Tensor:
    """Return ``‖A - B‖_F/‖B‖_F``."""
    return torch.linalg.matrix_norm(A - B) / torch.linalg.matrix_norm(B)


def polynomial_error(run: Run) -> Evidence:
    """Five quintic steps in float64 are about .19 off, relative, on Gaussian 64×64. Control: eight Polar Express steps."""
    G = _gaussian(run, 64, run.count(8, 100))
    options = {"method": "polar_express"} if run.twin else {"method": "newton_schulz"}
    error = _distance(polar_factor(G, **options), polar_factor(G))
    mean, low, high = (float(x) for x in (error.mean(), error.min(), error.max()))
    holds = abs(mean - 0.19) <= 0.02 and low >= 0.15 and high <= 0.25
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED, "statistics", f"mean {mean:.3f}, from {low:.3f} to {high:.3f}, {len(G)} matrices",
        covers="square Gaussian matrices of side 64; smaller ones spread more (side 4: up to .3)", numbers={"mean": round(mean, 3)},
        margin=0.02 - abs(mean - 0.19), budget={"matrices": len(G)}, seed=run.seed,
    )


def bfloat16_error(run: Run) -> Evidence:
    """Whether bfloat16 moves the five-step result by less than half of the polynomial's own error. Control: eight Polar Express steps."""
    options: dict[str, Any] = {"method": "polar_express"} if run.twin else {"method": "newton_schulz"}
    ratios = []
    for size in (16, 64, 128):
        G = _gaussian(run, size, run.count(3, 30))
        exact, double = polar_factor(G), polar_factor(G, **options)
        half = polar_factor(G, **options, dtype=torch.bfloat16)
        ratios.append(float((_distance(half, double) / _distance(double, exact)).mean()))
    largest = max(ratios)
    return Evidence(
        Verdict.SUPPORTED if largest <= 0.5 else Verdict.REFUTED, "statistics",
        f"rounding over polynomial error {', '.join(f'{r:.2g}' for r in ratios)} at side 16, 64, 128",
        covers="square Gaussian matrices, mean ratio",
        numbers={f"side {n}": float(f"{r:.2g}") for n, r in zip((16, 64, 128), ratios, strict=True)}, margin=abs(0.5 - largest),
        budget={"matrices": 3 * run.count(3, 30)}, seed=run.seed,
    )


def far_from_msign(*, sigma: Sequence[float]) -> float:
    """Return the relative Frobenius error of eight Polar Express steps in float64 on diag(σ)."""
    G = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    return float(_distance(polar_factor(G, method="polar_express"), polar_factor(G)))


def ill_conditioned(run: Run) -> Evidence:
    """Eight Polar Express steps are near exact at condition 1e4. Control: at condition 1e2."""
    condition = 1e2 if run.twin else 1e4
    data = {"sigma": [1.0, 1.0 / condition]}
    errors = [far_from_msign(**data)]
    for size in (4, 16, 64):
        U, V = (torch.linalg.qr(_gaussian(run, size, 2)[k]).Q for k in (0, 1))
        G = (U * torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)) @ V.mT
        errors.append(float(_distance(polar_factor(G, method="polar_express"), polar_factor(G))))
    poor = errors[0] > 0.1
    return Evidence(
        Verdict.REFUTED if poor else Verdict.SUPPORTED if max(errors) <= 1e-12 else Verdict.INCONCLUSIVE, "replay",
        f"relative error {errors[0]:.2g} on diag(1, {1 / condition:g}), up to {max(errors):.2g} at sides 4, 16, 64",
        numbers={"diag": float(f"{errors[0]:.3g}") if poor else 0.0}, margin=errors[0] - 0.1 if poor else None,
        counterexample=Counterexample(
            "A6-ill-conditioned", "Eight Polar Express steps are near exact at condition 1e4. False for diag(1, 1e-4): the coefficients are"
            " optimal down to 1e-3 only; violation: relative Frobenius error.", "paper_checks.spectral_polar:far_from_msign", data, 0.1,
        ) if poor else None,
    )
