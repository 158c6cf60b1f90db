"""SPEC D8: what becomes of the vector formulas in floating point, and the naive formula that fails.

Errors are in ulps of the true value, the distance of neighbouring numbers there (the smallest positive number where it is
subnormal or zero). True values come from multiple precision: sums of squares do not cancel, so that 300 bits are plenty;
momentum cancels, and is summed exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from deva_theory.linalg import Scaled, bias_correction
from deva_theory.linalg.floating import scaled_ema_update, scaled_ratio, scaled_rms_update
from deva_theory.rules import Rule, adagrad, adam, deva_linf
from paper_checks.vector_formula import number

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DIGITS = {torch.float64: (53, -1074), torch.float32: (24, -149), torch.bfloat16: (8, -133), torch.float16: (11, -24)}

_ldexp = np.frompyfunc(lambda mantissa, exponent: mpmath.ldexp(mantissa, int(exponent)), 2, 1)
_exponent = np.frompyfunc(lambda x: mpmath.frexp(x)[1] if x else -(1 << 20), 1, 1)


def _quotient(a: Any, square: Any) -> Any:
    """Return |a|/√square, 0/0 := 0."""
    return np.frompyfunc(lambda x, y: abs(x) / mpmath.sqrt(y) if x else mpmath.mpf(0), 2, 1)(a, square)


def _exact(x: Tensor) -> Any:
    return number(x.double().numpy())


def ulps(computed: Tensor, true: Any, at: Any = None) -> float:
    """Return the largest ``|computed - true|`` in ulps at `at` (default: at the true value); inf where it is not finite."""
    if not bool(torch.isfinite(computed).all()):
        return math.inf
    digits, least = _DIGITS[computed.dtype]
    with mpmath.workprec(300):
        error = abs(_exact(computed) - true)
        unit = np.frompyfunc(lambda e: mpmath.ldexp(1, max(int(e) - digits, least)), 1, 1)(_exponent(true if at is None else at))
        return float(np.max(error / unit, initial=0.0))


def wild(run: Run, stream: int, count: int, dtype: torch.dtype, *, length: int = 6, width: int = 6) -> Iterator[Tensor]:
    """Yield histories with entries from the whole finite range of `dtype`: subnormal ones, the ends, zeros, everyday ones."""
    rng, info = run.rng(stream), torch.finfo(dtype)
    low, high = math.log2(info.tiny * info.eps), math.log2(info.max)
    middle = round(high / 2)
    special = [0.0, info.max, info.tiny, info.tiny * info.eps, 3 * info.tiny * info.eps, info.tiny * (1 - info.eps), 1.0, 1.0 + info.eps]
    special += [2.0**e for e in (middle - 1, middle, middle + 1, -middle, 1 - middle, round(low / 2) - 1, round(low / 2))]
    for _ in range(count):
        shape = (int(rng.integers(1, length + 1)), width)
        anything = (1.0 + rng.random(shape)) * np.exp2(np.floor(rng.uniform(low, high - 1, shape)))
        kind = rng.integers(0, 6, shape)
        size = np.select([kind <= 2, kind == 3, kind == 4], [anything, rng.choice(special, shape), rng.standard_normal(shape)], 0.0)
        yield torch.from_numpy(np.where(rng.random(shape) < 0.5, -size, size)).to(dtype).clamp(info.min, info.max)


def _supported(worst: float, allowed: float, what: str, run: Run, **budget: int) -> Evidence:
    finite = min(worst, 1e9)  # evidence holds finite numbers only
    return Evidence(
        Verdict.SUPPORTED if worst <= allowed else Verdict.REFUTED,
        "multiple precision",
        f"{what}: {finite:.4g} where {allowed:g} is allowed",
        numbers={"worst": finite, "allowed": allowed},
        margin=allowed - finite,
        budget=budget,
        seed=run.seed,
    )


# --- the naive formula ----------------------------------------------------------------------------


def naive(history: Tensor) -> Tensor:
    """Return γ as it is printed, ``√(g²/S)`` with ``S = Σ g²``, 0 where S is 0."""
    S = torch.cumsum(history.square(), 0)
    return torch.where(S > 0, torch.sqrt(history.square() / S), 0.0)


def naive_violation(*, examples: dict[str, float]) -> float:
    """Return the least error of `naive` against the library over one-step histories, one per dtype; NaN counts as 1."""
    errors = []
    for name, value in examples.items():
        history = torch.tensor([value], dtype=DTYPES[name])
        gap = (naive(history) - decompose(history, kind="adagrad").variance_adaptation).double().abs()
        errors.append(float(torch.nan_to_num(gap, nan=1.0).max()))
    return min(errors)


def naive_formula(run: Run) -> Evidence:
    """D8-naive: scan one-step histories ``2^e``, for which γ = 1, over the range; the control takes the library's scaled formula."""
    gamma: Callable[[Tensor], Tensor] = (lambda h: decompose(h, kind="adagrad").variance_adaptation) if run.twin else naive
    numbers: dict[str, int] = {}
    examples: dict[str, float] = {}
    scanned = wrong = 0
    for name, dtype in DTYPES.items():
        _, least = _DIGITS[dtype]
        exponents = range(least, math.frexp(torch.finfo(dtype).max)[1])
        h = torch.from_numpy(np.exp2(np.array(exponents, dtype=float))).to(dtype).unsqueeze(0)
        bad = [e for e, y in zip(exponents, gamma(h)[0].tolist(), strict=True) if not abs(y - 1.0) <= 4 * torch.finfo(dtype).eps]
        scanned, wrong = scanned + len(exponents), wrong + len(bad)
        over, under = [e for e in bad if e > 0], [e for e in bad if e < 0]
        if over and under:
            numbers |= {f"{name}: wrong from 2^": min(over), f"{name}: wrong up to 2^": max(under)}
            examples[name] = 2.0 ** min(over)
    found = Counterexample(
        "D8-naive",
        "√(g²/S) as printed is right for every finite g. False for a single g: its square overflows, and inf/inf is NaN where γ = 1; "
        "violation: least error over the dtypes, NaN counting as 1.",
        "paper_checks.vector_float:naive_violation",
        {"examples": examples},
        0.99,
    )
    return Evidence(
        Verdict.REFUTED if wrong else Verdict.SUPPORTED,
        "scan of all powers of two",
        f"wrong at {wrong} of {scanned} powers of two; smallest: {', '.join(f'{k} {v:.4g}' for k, v in examples.items()) or 'none'}",
        numbers={"wrong": wrong, **numbers},
        budget={"histories": scanned},
        counterexample=found if examples else None,
    )


# --- the library ----------------------------------------------------------------------------------


def _stored(s: Scaled) -> Any:
    return _ldexp(_exact(s.mantissa), s.exponent.numpy())


def one_step(run: Run) -> Evidence:
    """D8-code: γ given the stored root, ``√(decay·rms² + weight·g²)``; the control forms the squares."""
    worst, count = 0.0, 0
    decays = (None, 0.5, 0.9, 0.999, 1e-3, 1.0 - 2.0**-30)
    for (i, dtype), beta2 in itertools.product(enumerate((torch.float64, torch.float32)), decays):
        decay, weight = (1.0, 1.0) if beta2 is None else (beta2, 1.0 - beta2)
        for h in wild(run, 20 + i, run.count(5, 60), dtype):
            rms = Scaled.zeros_like(h[0])
            for g in h:
                new = scaled_rms_update(rms, Scaled.of(g), decay, weight)
                if run.twin:
                    v = decay * rms.value().square() + weight * g.square()
                    gamma = torch.where(v > 0, torch.sqrt(g.square() / v), 0.0)
                else:
                    gamma = scaled_ratio(Scaled.of(g), new)
                with mpmath.workprec(300):
                    now = 1 if beta2 is None else 1 - mpmath.mpf(beta2)
                    true = _quotient(_exact(g), mpmath.mpf(decay) * _stored(rms) ** 2 + now * _exact(g) ** 2)
                worst, count, rms = max(worst, ulps(gamma, true)), count + 1, new
    return _supported(worst, 4.0, "largest error of γ given the stored root, in ulps", run, steps=count)


def _gammas(history: Tensor, beta2: float | None, correct: bool = False) -> Iterator[Any]:
    """Yield the true ``|g_t|/√v_t`` of every step."""
    with mpmath.workprec(300):
        decay, weight = (mpmath.mpf(1), mpmath.mpf(1)) if beta2 is None else (mpmath.mpf(beta2), 1 - mpmath.mpf(beta2))
        v = number(np.zeros(history.shape[1:]))
        for t, g in enumerate(_exact(history), start=1):
            v = decay * v + weight * g**2
            yield _quotient(g, v / (1 - decay**t) if correct else v)


def _entrywise(history: Tensor, beta2: float | None, correct: bool) -> Tensor:
    if beta2 is None:
        return decompose(history, kind="adagrad").variance_adaptation
    return decompose(history, kind="rmsprop", beta2=beta2, bias_correction=correct).variance_adaptation


def growth(run: Run) -> Evidence:
    """D8-growth: after t steps at most 2t + 4 ulps; the control claims 4 ulps at every t."""
    worst = largest = 0.0
    longest, count = run.count(50, 1000), 0
    rng = run.rng(22)

    def long(dtype: torch.dtype) -> Iterator[Tensor]:
        span = {torch.float64: 1000, torch.float32: 120}[dtype]
        normal = rng.standard_normal((longest, 2))
        whole = normal * np.exp2(rng.integers(-span, span, normal.shape).astype(float))
        for values in (np.full((longest, 1), 1 / 3), 0.93 ** np.arange(longest)[:, None], normal, whole):
            yield torch.from_numpy(values).to(dtype)

    for i, dtype in enumerate((torch.float64, torch.float32)):
        for h in itertools.chain(wild(run, 23 + i, run.count(4, 60), dtype), long(dtype)):
            for beta2, correct in ((None, False), (0.9, True), (0.999, False)):
                computed = _entrywise(h, beta2, correct)
                for t, true in enumerate(_gammas(h, beta2, correct), start=1):
                    error = ulps(computed[t - 1], true)
                    largest, worst = max(largest, error), max(worst, error / (4.0 if run.twin else 2.0 * t + 4.0))
                count += 1
    return _supported(worst, 1.0, f"largest error {min(largest, 1e9):.3g} ulps; over the claimed one", run, histories=count, steps=longest)


def half_precision(run: Run) -> Evidence:
    """D8-half: float32 arithmetic, then one rounding, ½ ulp and what float32 adds; the control computes in half precision."""
    worst, count = 0.0, 0
    for i, (dtype, share) in enumerate(((torch.float16, 2.0**-13), (torch.bfloat16, 2.0**-16))):
        for h in wild(run, 26 + i, run.count(12, 120), dtype):
            for beta2, correct in ((None, False), (0.9, True), (0.999, False)):
                computed = naive(h) if run.twin and beta2 is None else _entrywise(h, beta2, correct)
                for t, true in enumerate(_gammas(h, beta2, correct), start=1):
                    worst = max(worst, ulps(computed[t - 1], true) / (0.5 + (2 * t + 4) * share))
                count += 1
    return _supported(worst, 1.0, "largest error over ½ ulp + (2t+4) ulps of float32", run, histories=count)


def momentum(run: Run) -> Evidence:
    """D8-adam: given the stored m and v, γ is right to 6κ ulps, κ the cancellation in m; the control leaves κ out."""
    worst, count = 0.0, 0
    for (i, dtype), (beta1, beta2) in itertools.product(
        enumerate((torch.float64, torch.float32)), ((0.9, 0.999), (0.95, 0.95), (0.5, 0.25), (1e-3, 0.999))
    ):
        near = [-beta1 * (1.0 + 2.0**-k) for k in range(1, 24)]  # the second gradient leaves 2^-k of the momentum
        for h in (*wild(run, 28 + i, run.count(4, 60), dtype), torch.tensor([[1.0] * len(near), near], dtype=dtype)):
            rms = mean = Scaled.zeros_like(h[0])
            for t, g in enumerate(h, start=1):
                new_mean = scaled_ema_update(mean, Scaled.of(g), beta1)
                new_rms = scaled_rms_update(rms, Scaled.of(g), beta2, 1.0 - beta2)
                gamma = scaled_ratio(new_mean, new_rms, math.sqrt(bias_correction(beta2, t)) / bias_correction(beta1, t))
                with mpmath.workprec(6000):
                    b1, b2, x = mpmath.mpf(beta1), mpmath.mpf(beta2), _exact(g)
                    parts = b1 * _stored(mean), (1 - b1) * x
                    total, size = parts[0] + parts[1], abs(parts[0]) + abs(parts[1])
                with mpmath.workprec(300):
                    square = (b2 * _stored(rms) ** 2 + (1 - b2) * x**2) / (1 - b2**t) * (1 - b1**t) ** 2
                    true, magnified = _quotient(total, square), _quotient(size, square)
                worst = max(worst, ulps(gamma, true, None if run.twin else magnified))
                count, mean, rms = count + 1, new_mean, new_rms
    return _supported(worst, 6.0, "largest error of γ given the stored m and v, in ulps magnified by κ", run, steps=count)


def plain_roots(run: Run) -> Evidence:
    """D8-rules: rules store plain roots, so no bit changes at scales whose squares leave the range; the control's rule forms squares."""
    changed = compared = 0
    rng = run.rng(30)
    rules: list[Rule] = [adagrad(eps=0.0), adam(betas=(0.9, 0.99), eps=0.0)]
    rules += [deva_linf(preset=p, betas=(0.9, 0.99), eps=0.0) for p in ("paper", "reference", "corrected")]
    for dtype, reach in ((torch.float64, 900), (torch.float32, 100)):
        for _ in range(run.count(4, 40)):
            h = torch.from_numpy(rng.standard_normal((6, 4))).to(dtype)
            for rule, scale in itertools.product(rules, (2.0**-reach, 2.0**reach)):
                a, b = (naive(x) if run.twin else decompose(x, kind=rule).variance_adaptation for x in (h, h * scale))
                changed += not torch.equal(a, b)
                compared += 1
    return Evidence(
        Verdict.SUPPORTED if changed == 0 else Verdict.REFUTED,
        "equality to the last bit",
        f"γ changed in {changed} of {compared} comparisons at scales 2^±900 (float64), 2^±100 (float32)",
        numbers={"changed": changed},
        budget={"comparisons": compared},
        seed=run.seed,
    )


def ends_violation(*, history: list[float]) -> float:
    """Return how far γ of the AdaGrad rule is from that of `decompose` at the last step; both have ε = 0."""
    h = torch.tensor(history, dtype=torch.float64).unsqueeze(-1)
    return float((decompose(h, kind=adagrad(eps=0.0)).update - decompose(h, kind="adagrad").update)[-1].abs().max())


def rule_ends(run: Run) -> Evidence:
    """D8-ends: four gradients 2^e, for which AdaGrad's γ is ½ at the end; the control takes the scaled roots of `decompose`."""
    scanned = 0
    wrong: dict[str, list[int]] = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        exponents = range(_DIGITS[dtype][1], math.frexp(torch.finfo(dtype).max)[1])
        h = torch.from_numpy(np.exp2(np.array(exponents, dtype=float))).to(dtype).expand(4, -1)
        gamma = decompose(h, kind="adagrad" if run.twin else adagrad(eps=0.0)).variance_adaptation[-1].tolist()
        wrong[name] = [e for e, y in zip(exponents, gamma, strict=True) if not abs(y - 0.5) <= 2 * torch.finfo(dtype).eps]
        scanned += len(exponents)
    count = sum(map(len, wrong.values()))
    found = Counterexample(
        "D8-ends",
        "The rules' γ, from plain roots, is right on the whole finite range. False for AdaGrad: √S of four gradients 2^1023 is 2^1024, "
        "infinite in float64, and γ is 0 instead of ½; violation: distance from the scaled evaluation.",
        "paper_checks.vector_float:ends_violation",
        {"history": [2.0**1023] * 4},
        0.4,
    )
    return Evidence(
        Verdict.REFUTED if count else Verdict.SUPPORTED,
        "scan of all powers of two",
        f"wrong at {count} of {scanned} powers of two: " + "; ".join(f"{name} {e}" for name, e in wrong.items()),
        numbers={f"{name}: wrong powers": len(e) for name, e in wrong.items()},
        budget={"histories": scanned},
        counterexample=found if count else None,
    )
