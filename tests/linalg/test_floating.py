"""Exact scaling, averages and root-mean-square accumulators over the whole finite range (SPEC D8)."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import (
    Scaled,
    bias_correction,
    ema_update,
    exponent_limit,
    exponent_of,
    ldexp,
    power_of_two,
    rms_update,
    unit_scale,
)
from deva_theory.linalg.floating import (
    frexp,
    scaled_ema_update,
    scaled_ratio,
    scaled_rms_update,
    working_dtype,
)
from tests.strategies import adversarial_values, betas, finite_floats, refuted, tensors
from tests.ulps import BITS, exact, root, ulp, ulp_error

DTYPES = [torch.float64, torch.float32]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def one(x, dtype):
    return torch.tensor([x], dtype=torch.float64).to(dtype)


def of_scaled(s):
    """The exact value of a one-entry Scaled."""
    return mpmath.ldexp(exact(float(s.mantissa)), int(s.exponent))


# --- powers of two --------------------------------------------------------------------------------


@both
def test_power_of_two_is_exact_for_every_normal_exponent(dtype):
    limit = exponent_limit(dtype)
    exponents = torch.arange(-limit, limit + 2)
    expected = torch.tensor([math.ldexp(1.0, int(e)) for e in exponents], dtype=torch.float64).to(dtype)
    assert torch.equal(power_of_two(exponents, dtype), expected)
    assert power_of_two(exponents, dtype).dtype == dtype


def true_ldexp(x, e):
    try:
        return math.ldexp(x, e)
    except OverflowError:
        return math.copysign(math.inf, x)


@given(finite_floats(), st.one_of(st.integers(-2200, 2200), st.just(-(1 << 20)), st.integers(-1080, -1000)))
def test_ldexp_float64_against_the_c_library(x, e):
    computed, expected = float(ldexp(one(x, torch.float64), torch.tensor([e]))), true_ldexp(x, e)
    if expected == 0 or abs(expected) < torch.finfo(torch.float64).tiny:
        assert abs(computed - expected) <= 2.0**-1074
    else:
        assert computed == expected
    if x == 0:
        assert math.copysign(1.0, computed) == math.copysign(1.0, x)


@given(finite_floats(torch.float32), st.integers(-300, 300))
def test_ldexp_float32_against_float64(x, e):
    computed = float(ldexp(one(x, torch.float32), torch.tensor([e], dtype=torch.int32)))
    with np.errstate(over="ignore"):
        expected = float(np.float32(math.ldexp(x, e)))
    if abs(expected) < torch.finfo(torch.float32).tiny:
        assert abs(computed - expected) <= 2.0**-149
    else:
        assert computed == expected


def test_ldexp_reaches_every_subnormal_power():
    exponents = torch.arange(-1074, 1024)
    values = ldexp(torch.ones((), dtype=torch.float64), exponents)
    assert values.tolist() == [math.ldexp(1.0, int(e)) for e in exponents]


def test_ldexp_across_the_widest_ratio():
    largest, smallest = torch.finfo(torch.float64).max, 5e-324
    assert float(ldexp(one(smallest, torch.float64), torch.tensor([2097]))) == 2.0**1023
    assert float(ldexp(one(largest, torch.float64), torch.tensor([-2097]))) == math.ldexp(largest, -2097)


@both
def test_ldexp_broadcasts_and_leaves_its_arguments(dtype):
    x = torch.tensor([[1.0], [3.0]], dtype=dtype)
    e = torch.tensor([-1, 0, 2])
    result = ldexp(x, e)
    assert result.tolist() == [[0.5, 1.0, 4.0], [1.5, 3.0, 12.0]]
    assert x.tolist() == [[1.0], [3.0]] and e.tolist() == [-1, 0, 2]


@both
def test_frexp_and_scaled_round_trip(dtype):
    @given(tensors((6,), dtype, adversarial=True))
    def check(x):
        mantissa, exponent = frexp(x)
        size = mantissa[x != 0].abs()
        assert ((size >= 0.5) & (size < 1)).all()
        assert (exponent[x == 0] < -3000).all()
        assert torch.equal(Scaled.of(x).value(), x)

    check()


def test_scaled_zero():
    zero = Scaled.zeros_like(torch.ones(2, 3))
    assert zero.value().tolist() == [[0.0] * 3] * 2
    a, b, top = zero.aligned(Scaled.of(torch.full((2, 3), 4.0)))
    assert a.tolist() == [[0.0] * 3] * 2 and b.tolist() == [[0.5] * 3] * 2 and top.tolist() == [[3] * 3] * 2


@both
def test_unit_scale_brings_the_largest_entry_to_one_half(dtype):
    limit, info = exponent_limit(dtype), torch.finfo(dtype)

    @given(tensors((2, 2, 3), dtype, adversarial=True), st.sampled_from([1, 2, 3]))
    def check(x, ndim):
        scaled, exponent = unit_scale(x, ndim)
        dims = tuple(range(-ndim, 0))
        assert exponent.shape == x.shape[: 3 - ndim] + (1,) * ndim
        assert exponent.abs().max() <= limit
        largest, before = scaled.abs().amax(dims), x.abs().amax(dims)
        # Normal, not next to overflow: exactly [1/2, 1); elsewhere the documented window.
        inside = (before >= info.tiny) & (before < 2.0**limit)
        assert ((largest >= 0.5) & (largest < 1))[inside].all()
        assert (largest < 4).all() and (largest[before > 0] > 2.0**-info.bits).all()
        assert torch.equal(scaled.abs().amax(dims) == 0, before == 0)
        # Exact: whatever stayed normal comes back (the least normal number may have been rounded up to).
        kept = scaled.abs() > info.tiny
        assert torch.equal(ldexp(scaled, exponent)[kept], x[kept])

    check()


@both
def test_exponent_of_is_the_same_batched_and_unbatched(dtype):
    @given(tensors((3, 2, 2), dtype, adversarial=True))
    def check(x):
        together = exponent_of(x, 2)
        assert torch.equal(together, torch.stack([exponent_of(m, 2) for m in x]))

    check()


def test_exponent_of_degenerate_events():
    assert exponent_of(torch.zeros(2, 0, 3), 2).tolist() == [[[0]], [[0]]]
    assert exponent_of(torch.zeros(1, 2), 1).item() == -126
    assert exponent_of(torch.tensor([1.0, math.inf]), 1).item() == 0
    assert exponent_of(torch.tensor([1.0, math.nan]), 1).item() == 0
    assert exponent_of(torch.tensor([1.0, -4.0]), 1).item() == 3


def test_working_dtypes():
    assert [working_dtype(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)] == [
        torch.float64,
        torch.float32,
        torch.float32,
        torch.float32,
    ]


# --- bias correction ------------------------------------------------------------------------------


def bias_is_accurate(example, *, formula=bias_correction):
    beta, step = example
    with mpmath.workprec(400):
        true = 1 - mpmath.mpf(beta) ** step
        return abs(mpmath.mpf(formula(beta, step)) - true) <= 8 * mpmath.mpf(2) ** -53 * true


STEPS = st.one_of(st.integers(1, 20), st.sampled_from([100, 10**3, 10**4, 10**6, 10**9]))


@given(st.tuples(betas(), STEPS))
def test_bias_correction_against_mpmath(example):
    assert bias_is_accurate(example)


def test_bias_correction_twin_cancellation():
    naive = lambda beta, step: 1.0 - beta**step  # noqa: E731
    assert refuted(st.tuples(betas(), STEPS), lambda e: bias_is_accurate(e, formula=naive))


@pytest.mark.parametrize("beta", [0.0, 5e-324, 1e-300, 1e-20, 2.0**-54, 0.5, 1.0 - 2.0**-53])
def test_bias_correction_at_the_ends(beta):
    assert bias_correction(beta, 1) == pytest.approx(1.0 - beta, rel=4e-16)
    assert bias_correction(0.0, 7) == 1.0


def test_bias_correction_is_the_weight_of_an_average_of_ones():
    mean = torch.zeros(1, dtype=torch.float64)
    for step in range(1, 30):
        mean = ema_update(mean, torch.ones(1, dtype=torch.float64), 0.9)
        assert float(mean) == pytest.approx(bias_correction(0.9, step), rel=1e-14)


# --- averages -------------------------------------------------------------------------------------


def ema_is_exact(example, *, formula=ema_update):
    """Within 2 ulps of the larger term: β·mean and (1-β)·x are rounded, and their sum."""
    mean, x, beta, dtype = example
    computed = float(formula(one(mean, dtype), one(x, dtype), beta))
    if not math.isfinite(computed):
        return False
    terms = Fraction(beta) * Fraction(mean), (1 - Fraction(beta)) * Fraction(x)
    size = abs(terms[0]) + abs(terms[1])
    with mpmath.workprec(BITS):
        unit = ulp(mpmath.mpf(size.numerator) / size.denominator, dtype)
        error = abs(Fraction(computed) - sum(terms))
        return mpmath.mpf(error.numerator) / error.denominator <= 3 * unit


def emas(dtype):
    beta = st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.999, 1e-3, 1e-30])
    return st.tuples(finite_floats(dtype), finite_floats(dtype), beta, st.just(dtype))


@both
def test_ema_update_on_the_whole_range(dtype):
    given(emas(dtype))(lambda e: _assert(ema_is_exact(e)))()


@both
def test_ema_update_twin_lerp_overflows(dtype):
    assert refuted(emas(dtype), lambda e: ema_is_exact(e, formula=lambda m, x, b: torch.lerp(m, x, 1.0 - b)))


def test_ema_of_opposite_giants():
    big = torch.finfo(torch.float64).max
    assert float(ema_update(one(big, torch.float64), one(-big, torch.float64), 0.5)) == 0.0


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_ema_and_rms_update_change_nothing_unless_the_memory_is_donated(beta):
    state, x = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    for update in (
        lambda s, donate: ema_update(s, x, beta, donate=donate),
        lambda s, donate: rms_update(s, x, beta, 1.0 - beta, donate=donate),
    ):
        fresh = update(state, False)
        assert state.tolist() == [1.0, -2.0] and x.tolist() == [3.0, 5.0]
        assert fresh.data_ptr() not in (state.data_ptr(), x.data_ptr())
        given_away = state.clone()
        reused = update(given_away, True)
        assert reused.data_ptr() == given_away.data_ptr()
        assert torch.equal(reused, fresh) and x.tolist() == [3.0, 5.0]


# --- roots of mean squares ------------------------------------------------------------------------


def true_rms(rms, x, decay, weight):
    with mpmath.workprec(BITS):
        v = mpmath.mpf(decay) * exact(rms) ** 2 + mpmath.mpf(weight) * exact(x) ** 2
    return root(v)


def naive_rms(rms, x, decay, weight):
    return torch.sqrt(decay * rms * rms + weight * x * x)


def rms_is_accurate(example, *, formula=rms_update):
    """Within 4 ulps, or infinite where the true root is beyond the range."""
    rms, x, (decay, weight), dtype = example
    rms = abs(rms)
    computed, true = (
        float(formula(one(rms, dtype), one(x, dtype), decay, weight)),
        true_rms(rms, x, decay, weight),
    )
    if true > torch.finfo(dtype).max * 0.999999:
        return True
    return ulp_error(computed, true, dtype) <= 4


def rms_examples(dtype):
    beta = st.sampled_from([0.0, 0.5, 0.9, 0.999, 1e-3, 1e-30])
    weights = st.one_of(st.just((1.0, 1.0)), beta.map(lambda b: (b, 1.0 - b)))
    return st.tuples(finite_floats(dtype), finite_floats(dtype), weights, st.just(dtype))


def _assert(truth):
    assert truth


@both
def test_rms_update_on_the_whole_range(dtype):
    given(rms_examples(dtype))(lambda e: _assert(rms_is_accurate(e)))()


@both
def test_rms_update_twin_squares(dtype):
    assert refuted(rms_examples(dtype), lambda e: rms_is_accurate(e, formula=naive_rms))


def scaled_step_errors(rms, x, decay, weight, dtype):
    """Errors in ulps of one scaled step given the stored state: of the root and of γ = |x|/root.

    The stored root is ``rms · 2**3``, so that it may lie beyond the range of the dtype.
    """
    stored = Scaled(*frexp(one(abs(rms), dtype)))
    stored = Scaled(stored.mantissa, torch.where(stored.mantissa == 0, stored.exponent, stored.exponent + 3))
    new = scaled_rms_update(stored, Scaled.of(one(x, dtype)), decay, weight)
    with mpmath.workprec(BITS):
        v = mpmath.mpf(decay) * of_scaled(stored) ** 2 + mpmath.mpf(weight) * exact(x) ** 2
    true = root(v)
    if true == 0:
        assert float(new.mantissa) == 0
        return 0.0, float(scaled_ratio(Scaled.of(one(x, dtype)), new))
    with mpmath.workprec(300):
        # No subnormals among scaled numbers: an ulp relative to the value itself.
        digits = {torch.float64: 53, torch.float32: 24}[dtype]
        _, exponent = mpmath.frexp(true)
        error = float(abs(of_scaled(new) - true) / mpmath.ldexp(1, int(exponent) - digits))
        gamma = abs(exact(x)) / true
    return error, ulp_error(float(scaled_ratio(Scaled.of(one(x, dtype)), new)), gamma, dtype)


@both
def test_scaled_update_and_ratio_given_the_stored_root(dtype):
    @given(rms_examples(dtype))
    def check(example):
        rms, x, weights, _ = example
        root_error, gamma_error = scaled_step_errors(rms, x, *weights, dtype)
        assert root_error <= 4 and gamma_error <= 4

    check()


@both
def test_a_forgotten_giant_does_not_push_the_present_out(dtype):
    # Weights of 0 and 1: the giant must be gone, whatever its exponent was.
    giant, speck = Scaled.of(one(torch.finfo(dtype).max, dtype)), one(math.ldexp(1.0, -149), dtype)
    for beta in (0.0, 1e-300):
        assert torch.equal(scaled_rms_update(giant, Scaled.of(speck), 0.0, 1.0).value(), speck)
        assert torch.equal(scaled_ema_update(giant, Scaled.of(speck), 0.0).value(), speck)
        mean = scaled_ema_update(giant, Scaled.of(speck), beta)
        with mpmath.workprec(BITS):
            true = exact(beta) * exact(torch.finfo(dtype).max) + (1 - exact(beta)) * exact(float(speck))
            assert abs(of_scaled(mean) / true - 1) < 3 * torch.finfo(dtype).eps


@both
def test_scaled_ema_given_the_stored_mean(dtype):
    @given(emas(dtype))
    def check(example):
        mean, x, beta, _ = example
        new = scaled_ema_update(Scaled.of(one(mean, dtype)), Scaled.of(one(x, dtype)), beta)
        with mpmath.workprec(BITS):
            old = exact(beta) * exact(mean), (1 - exact(beta)) * exact(x)
            size = abs(old[0]) + abs(old[1])
            error = abs(of_scaled(new) - old[0] - old[1])
            digits = {torch.float64: 53, torch.float32: 24}[dtype]
            assert error <= 4 * size * mpmath.mpf(2) ** -digits

    check()


@both
def test_scaled_ratio_conventions(dtype):
    zero, x = Scaled.of(one(0.0, dtype)), Scaled.of(one(-3.0, dtype))
    assert float(scaled_ratio(zero, zero)) == 0.0
    assert float(scaled_ratio(zero, x)) == 0.0
    assert float(scaled_ratio(x, Scaled.of(one(1.5, dtype)))) == 2.0
    assert float(scaled_ratio(x, Scaled.of(one(1.5, dtype)), 0.25)) == 0.5
    assert math.isinf(float(scaled_ratio(x, zero)))


@both
def test_adversarial_values_survive_renormalisation(dtype):
    values = torch.tensor(adversarial_values(dtype), dtype=torch.float64).to(dtype)
    s = Scaled.of(values)
    shifted = Scaled(ldexp(s.mantissa, torch.tensor(-20)), s.exponent + 20).renormalised()
    assert torch.equal(shifted.mantissa, s.mantissa)
    assert torch.equal(shifted.exponent[values != 0], s.exponent[values != 0])
    assert torch.equal(shifted.value(), values)
