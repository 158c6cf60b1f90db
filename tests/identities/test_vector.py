"""The vector decomposition, SPEC D1 to D8, one by one.

Every identity is a checker ``(example) -> bool`` with a keyword that makes it false. The true one must hold
on every generated example; its twin must be ``refuted`` by some, so that no check passes on everything.
"""

import functools
import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from deva_theory import decompose
from deva_theory.linalg import Scaled, bias_correction
from deva_theory.linalg.floating import scaled_ema_update, scaled_ratio, scaled_rms_update
from deva_theory.rules import adam, deva_linf, rmsprop
from tests.oracles.scaled_decomposition import adagrad_gamma, adam_gamma, ema_gamma, linf_gamma
from tests.strategies import adversarial_values, gradient_histories, refuted
from tests.ulps import (
    BITS,
    coordinates,
    exact,
    gammas,
    moments,
    quotient,
    root,
    ulp,
    ulp_error,
    worst_ulp_error,
)

DTYPES = [torch.float64, torch.float32]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}

steps = st.integers(1, 6)
shapes = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 2), st.integers(1, 3)))
beta2s = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1e-3, 1.0 - 2.0**-30])


def histories(dtype, *, adversarial=True, T=steps):
    return gradient_histories(T, shapes, dtype, adversarial=adversarial)


def holds(strategy, check, **options):
    """Assert `check` on every example of the profile."""

    @given(strategy)
    def body(x):
        assert check(x, **options)

    body()


def kinds():
    """Draw (kind, options) of the entrywise kinds, RMSprop and Adam with and without bias correction."""
    corrections = st.booleans()
    rms = st.tuples(beta2s, corrections).map(lambda b: ("rmsprop", {"beta2": b[0], "bias_correction": b[1]}))
    pairs = st.sampled_from([(0.0, 0.9), (0.5, 0.5), (0.9, 0.99), (0.9, 0.999), (0.95, 0.95), (0.99, 0.9)])
    both_moments = st.tuples(pairs, corrections).map(
        lambda b: ("adam", {"betas": b[0], "bias_correction": b[1]})
    )
    return st.one_of(st.just(("adagrad", {})), rms, both_moments)


def oracle(kind, options):
    """Return the correctly rounded γ of the last step as a function of one coordinate's history."""
    if kind == "adagrad":
        return adagrad_gamma
    if kind == "rmsprop":
        return lambda g: ema_gamma(g, options["beta2"], options["bias_correction"])
    return lambda g: adam_gamma(g, *options["betas"], options["bias_correction"])


# --- D1: g/√S = γ ⊙ sign(g), γ = √(g²/S) ----------------------------------------------------------


def d1_splits(h, *, gamma_of=lambda past, now: (past, now), signed=True):
    """Check ``γ sign(g)`` against ``g/√S``; `gamma_of` may misplace what enters S."""
    split = decompose(h, kind="adagrad")
    product = split.variance_adaptation * (split.scale_invariant if signed else 1.0)
    if not torch.equal(split.scale_invariant, h.sign()) or (split.variance_adaptation < 0).any():
        return False
    for computed, column in zip(product.reshape(len(h), -1).mT.tolist(), coordinates(h), strict=True):
        for t, g in enumerate(column):
            past, now = gamma_of(column[:t], g)
            with mpmath.workprec(BITS):
                S = sum((exact(x) ** 2 for x in [*past, now]), mpmath.mpf(0))
                true = mpmath.sign(g) * quotient(exact(g), S)
            if ulp_error(computed[t], true, h.dtype) > 2 * t + 4:
                return False
    return True


@both
def test_d1_adagrad_splits(dtype):
    holds(histories(dtype), d1_splits)


@both
def test_d1_twins(dtype):
    examples = histories(dtype)
    lagged = lambda past, now: (past[:-1], now)  # noqa: E731
    assert refuted(examples, lambda h: d1_splits(h, gamma_of=lagged))
    assert refuted(examples, lambda h: d1_splits(h, signed=False))


@both
def test_d1_batched_is_unbatched_and_numpy_is_torch(dtype):
    @given(gradient_histories(steps, (2, 3), dtype, adversarial=True), kinds())
    def check(h, kind):
        name, options = kind
        whole = decompose(h, kind=name, **options)
        for i, j in itertools.product(range(2), range(3)):
            alone = decompose(h[:, i, j], kind=name, **options)
            assert torch.equal(alone.variance_adaptation, whole.variance_adaptation[:, i, j])
            assert torch.equal(alone.update, whole.update[:, i, j])
        array = decompose(h.numpy(), kind=name, **options)
        assert array.update.dtype == h.numpy().dtype
        np.testing.assert_array_equal(array.variance_adaptation, whole.variance_adaptation.numpy())
        np.testing.assert_array_equal(array.scale_invariant, whole.scale_invariant.numpy())
        np.testing.assert_array_equal(array.update, whole.update.numpy())

    check()


# --- D2: scale invariance -------------------------------------------------------------------------


def d2_bit_for_bit(drawn, *, rule=None, per_step=False):
    """Multiply each coordinate by its own power of two: γ and sign must not change in a single bit."""
    h, exponents, (kind, options) = drawn
    D = torch.tensor([2.0**e for e in exponents[: h[0].numel()]], dtype=h.dtype).reshape(h[0].shape)
    if per_step:
        D = D * 2.0 ** torch.arange(len(h), dtype=h.dtype).reshape(-1, *(1,) * (h.ndim - 1))
    scaled = h * D
    assume(torch.equal(scaled / D, h) and bool(torch.isfinite(scaled).all()))
    run = (
        (lambda x: decompose(x, kind=kind, **options))
        if rule is None
        else (lambda x: decompose(x, kind=rule))
    )
    a, b = run(h), run(scaled)
    return torch.equal(a.variance_adaptation, b.variance_adaptation) and torch.equal(
        a.scale_invariant, b.scale_invariant
    )


def scalings(dtype, adversarial=False):
    limit = {torch.float64: 900, torch.float32: 100}[dtype]
    exponents = st.lists(st.integers(-limit, limit), min_size=6, max_size=6)
    return st.tuples(histories(dtype, adversarial=adversarial), exponents, kinds())


@both
def test_d2_powers_of_two_change_no_bit(dtype):
    holds(scalings(dtype), d2_bit_for_bit)


@both
@pytest.mark.parametrize("preset", ["paper", "reference", "corrected"])
def test_d2_linf_rule_without_epsilon(dtype, preset):
    # The rule stores plain roots, so the factors stay where no root becomes subnormal.
    rule = deva_linf(preset=preset, betas=(0.9, 0.99), eps=0.0)
    small = st.lists(st.integers(-40, 40), min_size=6, max_size=6)
    examples = st.tuples(histories(dtype, adversarial=False), small, st.just(("adagrad", {})))
    holds(examples, d2_bit_for_bit, rule=rule)


@both
def test_d2_twins(dtype):
    assert refuted(scalings(dtype), lambda x: d2_bit_for_bit(x, per_step=True))
    for rule in (rmsprop(eps=1e-3), rmsprop(eps=1e-3, eps_mode="inside"), deva_linf(preset="paper")):
        assert refuted(scalings(dtype), lambda x, rule=rule: d2_bit_for_bit(x, rule=rule))


def d2_any_diagonal(drawn, *, shift=0.0):
    """For D that is no power of two, ``D g`` itself is rounded: ½ ulp more in g, ½ in the root."""
    h, seed, (kind, options) = drawn
    D = torch.from_numpy(np.random.default_rng(seed).lognormal(0.0, 8.0, tuple(h[0].shape))).to(h.dtype)
    a = decompose(h, kind=kind, **options)
    b = decompose(h * D + shift, kind=kind, **options)
    # Momentum may cancel, which magnifies the rounding of D g: measure γ √v against the average of |g|.
    slack = torch.ones_like(h)
    if kind == "adam":
        slack = decompose(h.abs(), kind=kind, **options).variance_adaptation
    else:
        slack = a.variance_adaptation
    t = torch.arange(1, len(h) + 1, dtype=h.dtype).reshape(-1, *(1,) * (h.ndim - 1))
    error = (a.variance_adaptation - b.variance_adaptation).abs()
    return bool((error <= (2 * (2 * t + 4) + 2) * EPS[h.dtype] * slack).all())


def diagonals(dtype):
    return st.tuples(histories(dtype, adversarial=False), st.integers(0, 2**32 - 1), kinds())


@both
def test_d2_any_positive_diagonal(dtype):
    holds(diagonals(dtype), d2_any_diagonal)
    assert refuted(diagonals(dtype), lambda x: d2_any_diagonal(x, shift=1.0))


# --- D3: the range of γ ---------------------------------------------------------------------------


def d3_supremum(kind, options, t):
    """Return the least upper bound of γ_t over all histories (AdaGrad, RMSprop)."""
    if kind == "adagrad":
        return 1.0
    beta2 = options["beta2"]
    top = bias_correction(beta2, t) if options["bias_correction"] else 1.0
    return math.sqrt(top / (1.0 - beta2))


def d3_in_range(drawn, *, supremum=d3_supremum):
    h, (kind, options) = drawn
    gamma = decompose(h, kind=kind, **options).variance_adaptation
    for t, (g, values) in enumerate(zip(h, gamma, strict=True), start=1):
        bound = supremum(kind, options, t) * (1.0 + 4 * EPS[h.dtype])
        if (values > bound).any() or (values[g == 0] != 0).any() or (values < 0).any():
            return False
        # Positive, unless the true value is below the smallest subnormal number.
        for gone in torch.nonzero((values == 0) & (g != 0)).tolist():
            column = h[:t][(slice(None), *gone)].double().tolist()
            with mpmath.workprec(BITS):
                if oracle(kind, options)(column) > float(ulp(mpmath.mpf(0), h.dtype)):
                    return False
    return True


def one_moment_kinds():
    return kinds().filter(lambda kind: kind[0] != "adam")


@both
def test_d3_range(dtype):
    holds(st.tuples(histories(dtype), one_moment_kinds()), d3_in_range)


@both
def test_d3_adagrad_never_exceeds_one_at_all(dtype):
    holds(histories(dtype), lambda h: bool((decompose(h, kind="adagrad").variance_adaptation <= 1).all()))


@both
def test_d3_twins(dtype):
    examples = st.tuples(histories(dtype), one_moment_kinds())
    assert refuted(examples, lambda x: d3_in_range(x, supremum=lambda *_: 1.0))

    def corrected_always(kind, options, t):
        return d3_supremum(kind, {**options, "bias_correction": True}, t)

    assert refuted(examples, lambda x: d3_in_range(x, supremum=corrected_always))
    # Attained: a bound that is lower by 1e-5 is violated as well.
    assert refuted(examples, lambda x: d3_in_range(x, supremum=lambda *a: d3_supremum(*a) * (1 - 1e-5)))


@both
@pytest.mark.parametrize("past", [0, 1, 7, 100])
@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.9, 0.999, 1.0 - 2.0**-30])
def test_d3_attained_by_a_past_of_zeros(dtype, past, beta2):
    h = torch.zeros(past + 1, 3, dtype=dtype)
    h[-1] = torch.tensor([1.0, -3e-30, 2e30])
    for correct in (False, True):
        gamma = decompose(h, kind="rmsprop", beta2=beta2, bias_correction=correct).variance_adaptation[-1]
        bound = d3_supremum("rmsprop", {"beta2": beta2, "bias_correction": correct}, past + 1)
        torch.testing.assert_close(gamma, torch.full_like(gamma, bound), rtol=4 * EPS[dtype], atol=0)
    assert decompose(h, kind="adagrad").variance_adaptation[-1].tolist() == [1.0, 1.0, 1.0]


@both
def test_d3_first_step_of_corrected_rules_is_one(dtype):
    @given(gradient_histories(1, 3, dtype, adversarial=True), beta2s)
    def check(h, beta2):
        gamma = decompose(h, kind="rmsprop", beta2=beta2, bias_correction=True).variance_adaptation
        torch.testing.assert_close(gamma, (h != 0).to(dtype), rtol=2 * EPS[dtype], atol=0)

    check()


def linf_gamma_values(h, *, preset, betas, eps):
    return decompose(h, kind="deva_linf", preset=preset, betas=betas, eps=eps).variance_adaptation


@both
@pytest.mark.parametrize("preset", ["paper", "reference", "corrected"])
def test_d3_linf_rule(dtype, preset):
    """The same bounds with m for g; a first non-zero gradient attains them; ε only lowers γ."""

    def in_range(drawn, *, factor=1.0):
        h, beta1, beta2 = drawn
        gamma = linf_gamma_values(h, preset=preset, betas=(beta1, beta2), eps=0.0)
        options = {"beta2": beta2, "bias_correction": preset == "corrected"}
        return all(
            bool((row <= factor * d3_supremum("rmsprop", options, t) * (1 + 8 * EPS[dtype])).all())
            for t, row in enumerate(gamma, start=1)
        )

    examples = st.tuples(histories(dtype, adversarial=False), st.sampled_from([0.0, 0.9]), beta2s)
    holds(examples, in_range)
    assert refuted(examples, lambda x: in_range(x, factor=1 - 1e-5))


def d3_eps_lowers(drawn, *, mode=None):
    h, eps, size = drawn
    h = h * size
    beta2 = 0.9
    if mode is None:
        rules = [
            lambda e, m=m: rmsprop(beta2=beta2, eps=e, eps_mode=m) for m in ("outside", "inside", "relative")
        ] + [lambda e, p=p: deva_linf(preset=p, betas=(0.9, beta2), eps=e) for p in ("paper", "corrected")]
    else:
        rules = [lambda e: rmsprop(beta2=beta2, eps=e, eps_mode=mode)]
    for make in rules:
        plain, lowered = (decompose(h, kind=make(e)).variance_adaptation for e in (0.0, eps))
        if (lowered > plain * (1 + 2 * EPS[h.dtype])).any():
            return False
    return True


@both
def test_d3_epsilon_only_lowers(dtype):
    sizes = st.sampled_from([1.0, 1e-8, 1e8])
    examples = st.tuples(
        histories(dtype, adversarial=False), st.sampled_from([1e-16, 1e-8, 1e-2, 1.0]), sizes
    )
    holds(examples, d3_eps_lowers)
    # The twin: ε in the numerator, where the printed S∞ rule has it, raises γ.
    assert refuted(examples, lambda x: d3_eps_lowers(x, mode="numerator"))


# --- D4: textbook Adam ----------------------------------------------------------------------------


def d4_weights(beta, t, *, normalise=True):
    weights = [(1 - Fraction(beta)) * Fraction(beta) ** k for k in range(t)]
    total = sum(weights) if normalise else Fraction(1)
    return [w / total for w in weights]


def d4_supremum(beta1, beta2, t, *, bias_correction=True):
    """Return ``Σ a_k²/b_k``, exact."""
    a = d4_weights(beta1, t, normalise=bias_correction)
    b = d4_weights(beta2, t, normalise=bias_correction)
    return sum(x * x / y for x, y in zip(a, b, strict=True))


def d4_maximiser(beta1, beta2, t):
    """Return the gradients, oldest first, for which Cauchy-Schwarz is an equality: g_k ∝ a_k/b_k."""
    ratio = [float(a / b) for a, b in zip(d4_weights(beta1, t), d4_weights(beta2, t), strict=True)]
    return torch.tensor(ratio[::-1], dtype=torch.float64)


D4_PAIRS = [(0.9, 0.99), (0.9, 0.999), (0.5, 0.25), (0.99, 0.9), (0.0, 0.9), (0.95, 0.95), (0.3, 0.3)]
d4_examples = st.tuples(
    gradient_histories(st.integers(1, 12), 3, torch.float64), st.sampled_from(D4_PAIRS), st.booleans()
)


def d4_bounded(drawn, *, bound=None):
    h, betas, correct = drawn
    gamma = decompose(h, kind="adam", betas=betas, bias_correction=correct).variance_adaptation
    for t, row in enumerate(gamma, start=1):
        top = float(d4_supremum(*betas, t, bias_correction=correct)) if bound is None else bound
        if (row.square() > top * (1 + 1e-12)).any():
            return False
    return True


@given(d4_examples)
@example((d4_maximiser(0.9, 0.99, 12).unsqueeze(-1), (0.9, 0.99), True))
@example((d4_maximiser(0.99, 0.9, 12).unsqueeze(-1), (0.99, 0.9), False))
def test_d4_cauchy_schwarz_bounds_every_sequence(drawn):
    assert d4_bounded(drawn)


@pytest.mark.parametrize("t", [1, 2, 5, 12])
@pytest.mark.parametrize("betas", D4_PAIRS, ids=str)
@pytest.mark.parametrize("correct", [True, False])
def test_d4_supremum_is_attained(betas, t, correct):
    g = d4_maximiser(*betas, t)
    top = d4_supremum(*betas, t, bias_correction=correct)
    for h in (g, -g, g * 1e-250, g.unsqueeze(-1).expand(t, 4)):
        gamma = decompose(h, kind="adam", betas=betas, bias_correction=correct).variance_adaptation[-1]
        torch.testing.assert_close(gamma**2, torch.full_like(gamma, float(top)), rtol=1e-12, atol=0)
    # Attained, so every smaller bound is wrong: the twin.
    assert not d4_bounded((g, betas, correct), bound=float(top) * (1 - 1e-9))


def test_d4_the_number_of_the_specification():
    assert float(d4_supremum(Fraction(9, 10), Fraction(99, 100), 12)) == pytest.approx(1.104372, abs=5e-7)
    gamma = adam(betas=(0.9, 0.99), eps=0.0)
    update = decompose(d4_maximiser(0.9, 0.99, 12).unsqueeze(-1), kind=gamma).update[-1]
    assert float(update) ** 2 == pytest.approx(1.104372, abs=5e-7)


@given(
    st.fractions(0, Fraction(99, 100), max_denominator=100),
    st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100),
)
@example(Fraction(9, 10), Fraction(9, 10))
def test_d4_at_most_one_if_and_only_if_the_betas_are_equal(beta1, beta2):
    tops = [d4_supremum(beta1, beta2, t) for t in range(1, 8)]
    assert tops[0] == 1
    if beta1 == beta2:
        assert all(top == 1 for top in tops)
    else:
        assert all(top > 1 for top in tops[1:])
        assert all(a <= b for a, b in itertools.pairwise(tops))


def test_d4_twin_at_most_one_for_all_betas():
    """γ ≤ 1 is false for β1 ≠ β2; random sequences do not show it, so the example is constructed."""
    assert not d4_bounded((d4_maximiser(0.9, 0.99, 12).unsqueeze(-1), (0.9, 0.99), True), bound=1.0)
    h = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 20000)))
    found = decompose(h, kind="adam", betas=(0.9, 0.99)).variance_adaptation[-1].square().max()
    assert found < 1.0 < 1.104 < float(d4_supremum(0.9, 0.99, 12))


@given(st.floats(0.0, 0.99), st.floats(0.01, 0.99))
def test_d4_limit_without_correction(beta1, beta2):
    ratio = Fraction(beta1) ** 2 / Fraction(beta2)
    first = (1 - Fraction(beta1)) ** 2 / (1 - Fraction(beta2))
    partial = [float(d4_supremum(beta1, beta2, t, bias_correction=False)) for t in (1, 2, 10)]
    if ratio < 1:
        limit = float((1 - Fraction(beta1)) ** 2 / ((1 - Fraction(beta2)) * (1 - ratio)))
        # Σ_{k<t} of a geometric series: what is missing is ratio^t of the limit.
        for t, value in zip((1, 2, 10), partial, strict=True):
            assert value == pytest.approx(limit * (1 - float(ratio) ** t), rel=1e-9)
        assert partial[2] <= limit * (1 + 1e-12)
    else:
        # Terms that do not decrease: the sum grows at least linearly, without a limit.
        assert partial[2] >= 10 * float(first) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("betas", "finite"), [((0.9, 0.999), True), ((0.9, 0.82), True), ((0.9, 0.8), False)]
)
def test_d4_limit_is_reached_by_decompose(betas, finite):
    beta1, beta2 = betas
    values = []
    for t in (50, 200, 800):
        g = torch.tensor([(beta1 / beta2) ** k for k in range(t)][::-1], dtype=torch.float64)
        values.append(float(decompose(g, kind="adam", betas=betas, bias_correction=False).update[-1]) ** 2)
    if finite:
        limit = (1 - beta1) ** 2 / ((1 - beta2) * (1 - beta1**2 / beta2))
        assert (
            values[-1] == pytest.approx(limit * (1 - (beta1**2 / beta2) ** 800), rel=1e-9)
            and values[0] <= values[1] <= values[2]
        )
        # The twin: the formula without the second factor is wrong.
        assert values[-1] > 1.1 * (1 - beta1) ** 2 / (1 - beta2)
    else:
        assert values[1] > 5 * values[0] and values[2] > 1000 * values[1]


@pytest.mark.parametrize("t", [1, 3, 12])
def test_d4_random_search_stays_below_the_supremum(t):
    h = torch.from_numpy(np.random.default_rng(1).standard_normal((t, 2000)))
    for betas in D4_PAIRS:
        assert d4_bounded((h, betas, True)) and d4_bounded((h, betas, False))


# --- D5: what "recovers Adam" means ---------------------------------------------------------------


def torch_rmsprop_directions(h, beta2, eps=0.0):
    """Return the steps of torch.optim.RMSprop at learning rate 1 (whose ε stands outside the root)."""
    p = torch.nn.Parameter(torch.zeros_like(h[0]))
    optimizer = torch.optim.RMSprop([p], lr=1.0, alpha=beta2, eps=eps)
    out = []
    for g in h:
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
        out.append(before - p.detach())
        with torch.no_grad():
            p.zero_()
    return torch.stack(out)


def d5_equal(drawn, *, beta1=0.0, other=None):
    h, beta2, eps = drawn
    tolerance = {"rtol": 1e-6, "atol": 1e-12} if h.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    rule = deva_linf(preset="paper", betas=(beta1, beta2), eps=eps)
    linf = decompose(h, kind=rule).update
    own = decompose(
        h, kind=rmsprop(beta2=beta2, eps=eps, eps_mode="inside") if other is None else other
    ).update
    return torch.allclose(linf, own, **tolerance)


def d5_examples(dtype):
    beta2 = st.sampled_from([0.5, 0.9, 0.99, 0.999])
    return st.tuples(histories(dtype, adversarial=False), beta2, st.sampled_from([0.0, 1e-8, 1e-2]))


@both
def test_d5_without_momentum_linf_is_rmsprop(dtype):
    holds(d5_examples(dtype), d5_equal)


@both
def test_d5_twins(dtype):
    examples = d5_examples(dtype)
    assert refuted(examples, lambda x: d5_equal(x, beta1=0.9))
    assert refuted(examples, lambda x: d5_equal(x, other=rmsprop(beta2=x[1], eps=x[2], eps_mode="outside")))
    assert refuted(examples, lambda x: d5_equal(x, other=rmsprop(beta2=x[1], eps=x[2], bias_correction=True)))


@given(gradient_histories(steps, 4, torch.float64), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_d5_against_torch_rmsprop(h, beta2):
    """At ε = 0 torch divides 0 by 0 where all gradients were zero; keep those coordinates apart."""
    live = (h != 0).cummax(0).values
    expected = torch.where(live, torch_rmsprop_directions(h, beta2), 0.0)
    linf = decompose(h, kind="deva_linf", preset="paper", betas=(0.0, beta2), eps=0.0).update
    torch.testing.assert_close(linf, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        decompose(h, kind="rmsprop", beta2=beta2).update, expected, rtol=1e-6, atol=1e-12
    )


def test_d5_gap_to_textbook_adam_smallest_example():
    """β1 = β2 = ½ and the history (1, 0): γ² is 2/3 and 1/4, or 3/11 and 1/3 with bias corrections."""
    h = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    half = (0.5, 0.5)
    linf = decompose(h, kind="deva_linf", preset="paper", betas=half, eps=0.0).update
    book = decompose(h, kind="adam", betas=half, bias_correction=False).update
    torch.testing.assert_close(linf.square(), torch.tensor([[2.0], [2 / 3]], dtype=torch.float64))
    torch.testing.assert_close(book.square(), torch.tensor([[1 / 2], [1 / 4]], dtype=torch.float64))
    linf = decompose(h, kind="deva_linf", preset="corrected", betas=half, eps=0.0).update
    book = decompose(h, kind="adam", betas=half).update
    torch.testing.assert_close(linf.square(), torch.tensor([[1.0], [3 / 11]], dtype=torch.float64))
    torch.testing.assert_close(book.square(), torch.tensor([[1.0], [1 / 3]], dtype=torch.float64))


@given(gradient_histories(steps, 2, torch.float64), st.sampled_from([(0.9, 0.99), (0.5, 0.5)]), st.booleans())
def test_d5_linf_rule_against_the_oracle(h, betas, correct):
    preset = "corrected" if correct else "paper"
    gamma = linf_gamma_values(h, preset=preset, betas=betas, eps=0.0)
    for values, column in zip(gamma.mT.tolist(), coordinates(h), strict=True):
        for t, value in enumerate(values, start=1):
            true = linf_gamma(column[:t], *betas, correct)
            # m may cancel: compare on the scale of its parts.
            m = sum(betas[0] ** k * abs(x) for k, x in enumerate(reversed(column[:t])))
            v = abs(sum(betas[0] ** k * x for k, x in enumerate(reversed(column[:t]))))
            assert abs(value - true) <= 1e-14 * true * max(1.0, m / v if v else 1.0) + (
                1e-13 if v < 1e-13 * m else 0
            )


# --- D6: potential lemmas -------------------------------------------------------------------------


def d6_logarithm(h, *, constant=1.0):
    """``Σ γ_t² ≤ 1 + ln(S_T/S_1)``, S_1 the first non-zero S."""
    gamma = decompose(h, kind="adagrad").variance_adaptation
    sums = gamma.double().square().sum(0).reshape(-1).tolist()
    for total, column in zip(sums, coordinates(h), strict=True):
        S = [v for _, v in moments(column) if v > 0]
        bound = constant + float(mpmath.log(S[-1] / S[0])) if S else 0.0
        if total > bound + 16 * len(h) * EPS[h.dtype]:
            return False
    return True


def d6_root(h, *, constant=2.0):
    """``Σ g_t²/√S_t ≤ 2 √S_T``; ``g_t²/√S_t`` is ``|g_t| γ_t``."""
    gamma = decompose(h, kind="adagrad").variance_adaptation
    for values, column in zip(gamma.double().reshape(len(h), -1).mT.tolist(), coordinates(h), strict=True):
        with mpmath.workprec(BITS):
            total = sum(
                (abs(exact(g)) * exact(x) for g, x in zip(column, values, strict=True)), mpmath.mpf(0)
            )
        last = root(list(moments(column))[-1][1])
        if total > constant * last * (1 + 8 * len(h) * EPS[h.dtype]):
            return False
    return True


@both
@pytest.mark.parametrize("lemma", [d6_logarithm, d6_root])
def test_d6_potential_lemmas(dtype, lemma):
    holds(histories(dtype, T=st.integers(1, 10)), lemma)
    assert lemma(torch.ones(64, 2, dtype=dtype))


@both
def test_d6_twins(dtype):
    # One step attains the first lemma; the second needs long histories: 64 equal gradients reach 1.82 of 2.
    assert refuted(histories(dtype), lambda h: d6_logarithm(h, constant=0.9))
    assert refuted(histories(dtype), lambda h: d6_logarithm(h, constant=0.999))
    assert refuted(histories(dtype), lambda h: d6_root(h, constant=0.99))
    assert not d6_root(torch.ones(64, 1, dtype=dtype), constant=1.8)


# --- D7: signal and noise -------------------------------------------------------------------------

NOISE = (0.0, 0.5, 1.0, 3.0, 10.0)


@functools.cache
def streams(rule, *, T=4000, width=1000, seed=0):
    """Return the last γ of i.i.d. gradients of mean 1 and standard deviation `NOISE`, and the mean update."""
    rng = np.random.default_rng(seed)
    noise = torch.tensor(NOISE, dtype=torch.float64).unsqueeze(-1)
    state = rule.init(torch.zeros(len(NOISE), width, dtype=torch.float64))
    for step in range(T):
        g = 1.0 + noise * torch.from_numpy(rng.standard_normal(width))
        direction, state, details = rule.update(g, state, diagnostics=step == T - 1)
    return details.variance_adaptation, direction


def d7_sees_noise(rule):
    """``γ → 1/√(1+σ²/μ²)``. m fluctuates by σ√((1-β1)/2): the signed γ averages that out."""
    _, direction = streams(rule)
    expected = 1.0 / np.sqrt(1.0 + np.square(NOISE))
    return bool(np.all(np.abs(direction.mean(-1).numpy() - expected) < 0.02))


def d7_is_blind(rule):
    """The root mean square of γ is about 1 at every noise level."""
    gamma, _ = streams(rule)
    return bool(((gamma.square().mean(-1).sqrt() - 1.0).abs() < 0.05).all())


def test_d7_textbook_adam_sees_noise_and_the_linf_rule_does_not():
    book = adam(betas=(0.95, 0.999), eps=0.0)
    linf = deva_linf(betas=(0.95, 0.999), eps=0.0)
    assert d7_sees_noise(book) and d7_is_blind(linf)
    # Each is the other's twin.
    assert not d7_sees_noise(linf) and not d7_is_blind(book)


def test_d7_snr_variant_sees_noise():
    assert d7_sees_noise(deva_linf(variant="snr", betas=(0.95, 0.999), eps=0.0))


# Gradients with finitely many values, mean not 0, never 0: atoms (value, weight).
atoms = st.lists(
    st.tuples(st.integers(-5, 5).filter(bool), st.integers(1, 6)), min_size=1, max_size=5
).filter(lambda d: sum(x * w for x, w in d) != 0)


def sign(x):
    return (x > 0) - (x < 0)


def d7_optimum(distribution, *, target, claimed):
    """Check that `claimed` minimises ``E (γ a(g) - b)²`` on a grid around it, in exact arithmetic."""
    total = sum(w for _, w in distribution)
    law = [(Fraction(x), Fraction(w, total)) for x, w in distribution]
    mean = sum(x * p for x, p in law)
    square = sum(x * x * p for x, p in law)
    rho = sum((p for x, p in law if sign(x) == sign(mean)), Fraction(0))
    best = claimed(mean, square, rho)

    def loss(gamma):
        if target == "sign":
            return sum(p * (gamma * sign(x) - sign(mean)) ** 2 for x, p in law)
        return sum(p * (gamma * x - mean) ** 2 for x, p in law)

    grid = [best + Fraction(k, 50) for k in range(-100, 101)]
    return all(loss(best) <= loss(gamma) for gamma in grid)


def d7_sign_factor(mean, square, rho):
    return 2 * rho - 1


def d7_value_factor(mean, square, rho):
    return 1 / (1 + (square - mean**2) / mean**2)


@given(atoms)
def test_d7_optimal_factors(distribution):
    assert d7_optimum(distribution, target="sign", claimed=d7_sign_factor)
    assert d7_optimum(distribution, target="value", claimed=d7_value_factor)


def test_d7_twins():
    assert refuted(atoms, lambda d: d7_optimum(d, target="sign", claimed=lambda m, s, rho: rho))
    assert refuted(atoms, lambda d: d7_optimum(d, target="value", claimed=d7_sign_factor))
    assert refuted(atoms, lambda d: d7_optimum(d, target="sign", claimed=d7_value_factor))
    # P(g = 0) = 0 is needed: with an atom at 0 the first formula fails.
    zeros = atoms.map(lambda d: [*d, (0, 3)])
    assert refuted(zeros, lambda d: d7_optimum(d, target="sign", claimed=d7_sign_factor))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_d7_optimal_factors_of_gaussian_gradients(ratio):
    """Closed forms, ρ = Φ(|μ|/σ), against the least squares fit on a sample."""
    g = -1.0 + ratio * np.random.default_rng(2).standard_normal(400_000)
    rho = 0.5 * math.erfc(-1.0 / (ratio * math.sqrt(2.0)))
    assert np.mean(-np.sign(g)) == pytest.approx(2 * rho - 1, abs=5e-3)
    assert np.mean(-g) / np.mean(g * g) == pytest.approx(1 / (1 + ratio**2), abs=5e-3)


# --- D8: floating point ---------------------------------------------------------------------------


def naive_gamma(h, decay=1.0, weight=1.0):
    """√(g²/S) as one would write it."""
    S = torch.zeros_like(h[0])
    out = []
    for g in h:
        S = decay * S + weight * g * g
        out.append(torch.where(S > 0, torch.sqrt(g * g / S), 0.0))
    return torch.stack(out)


def d8_budget(t, kind, options):
    """Return the claimed error of γ_t in ulps: 4 given the stored state, 2 a step for the stored root."""
    return 2 * t + 4


def d8_accurate(drawn, *, gamma=None, budget=d8_budget):
    h, (kind, options) = drawn
    computed = decompose(h, kind=kind, **options).variance_adaptation if gamma is None else gamma(h)
    decays = {"beta2": options.get("beta2"), "bias_correction": options.get("bias_correction", False)}
    errors = worst_ulp_error(computed, [gammas(column, **decays) for column in coordinates(h)])
    return all(error <= budget(t, kind, options) for t, error in enumerate(errors, start=1))


@both
def test_d8_over_a_history(dtype):
    holds(st.tuples(histories(dtype), one_moment_kinds()), d8_accurate)


@both
def test_d8_twins(dtype):
    """Naive squares fail the same check; so would a budget of half an ulp."""
    examples = st.tuples(histories(dtype), st.just(("adagrad", {})))
    assert refuted(examples, lambda x: d8_accurate(x, gamma=naive_gamma))
    tight = st.tuples(histories(dtype, adversarial=False), one_moment_kinds())
    assert refuted(tight, lambda x: d8_accurate(x, budget=lambda *_: 0.6))


HISTORIES = {
    "giants": [1e308] * 50,
    "speck then giant": [5e-324, 1e308],
    "giant then speck": [1e308, 5e-324],
    "zeros": [0.0] * 5,
    "zeros and a speck": [0.0, 0.0, 5e-324, 0.0, 5e-324],
    "specks": [5e-324] * 20,
    "alternating": [1e308, 1e-308] * 10,
    "squares overflow": [1e154, 1.4e154, -2e154, 1e155] * 5,
    "squares vanish": [1e-162, -2e-162, 1e-163, 1e-160] * 5,
    "subnormal": [1e-310, -3e-320, 2e-315],
    "ladder up": [10.0**k for k in range(-320, 309, 20)],
    "ladder down": [10.0**k for k in range(308, -321, -20)],
    "largest": [1.7976931348623157e308] * 9,
}


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("adagrad", {}),
        ("rmsprop", {"beta2": 0.999, "bias_correction": False}),
        ("rmsprop", {"beta2": 0.9, "bias_correction": True}),
        ("rmsprop", {"beta2": 0.0, "bias_correction": False}),
    ],
    ids=str,
)
def test_d8_extreme_histories(name, kind, options):
    h = torch.tensor(HISTORIES[name], dtype=torch.float64)
    assert d8_accurate((h, (kind, options)))
    last = float(decompose(h, kind=kind, **options).variance_adaptation[-1])
    true = oracle(kind, options)(HISTORIES[name])
    assert abs(last - true) <= (2 * len(h) + 5) * max(math.ulp(true), 5e-324)


@pytest.mark.parametrize(
    "name",
    [
        "giants",
        "speck then giant",
        "specks",
        "alternating",
        "squares overflow",
        "squares vanish",
        "largest",
    ],
)
def test_d8_twin_naive_squares_fail_on_extreme_histories(name):
    h = torch.tensor(HISTORIES[name], dtype=torch.float64)
    assert not d8_accurate((h, ("adagrad", {})), gamma=naive_gamma)


def test_d8_root_of_a_huge_history_does_not_overflow():
    """√S of 50 gradients of 1e308 is 7e308, beyond float64; γ_t is 1/√t all the same."""
    T = torch.arange(1, 51, dtype=torch.float64)
    for size, dtype in ((1e308, torch.float64), (3e38, torch.float32)):
        split = decompose(torch.full((50, 2), -size, dtype=dtype), kind="adagrad")
        expected = T.rsqrt().unsqueeze(-1).expand(50, 2).to(dtype)
        torch.testing.assert_close(split.variance_adaptation, expected, rtol=8 * EPS[dtype], atol=0)
        assert (split.update == -split.variance_adaptation).all()
        assert math.isinf(size * math.sqrt(50.0)) or dtype == torch.float32


@both
@pytest.mark.parametrize("beta2", [None, 0.5, 0.9, 0.999, 1e-3, 1.0 - 2.0**-30], ids=str)
def test_d8_one_step_given_the_stored_state(dtype, beta2):
    """Walk along a history with the package's own state; compare every step with the exact one from there."""
    decay, weight = (1.0, 1.0) if beta2 is None else (beta2, 1.0 - beta2)

    @given(histories(dtype, T=st.integers(1, 8)))
    def check(h):
        rms = Scaled.zeros_like(h[0])
        for gradient in h:
            g = Scaled.of(gradient)
            new = scaled_rms_update(rms, g, decay, weight)
            gamma = scaled_ratio(g, new)
            for index in np.ndindex(*gradient.shape):
                with mpmath.workprec(BITS):
                    old = mpmath.ldexp(exact(float(rms.mantissa[index])), int(rms.exponent[index]))
                    v = (
                        exact(decay) * old**2
                        + (1 if beta2 is None else 1 - exact(beta2)) * exact(float(gradient[index])) ** 2
                    )
                true = quotient(exact(float(gradient[index])), v)
                assert ulp_error(float(gamma[index]), true, dtype) <= 4
            rms = new

    check()


@both
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.95, 0.95), (0.5, 0.25), (1e-3, 0.999)], ids=str)
def test_d8_momentum_is_right_up_to_its_own_cancellation(dtype, betas):
    """With β1 > 0, γ is right to 4 ulps given the new m and v; given the old ones the error grows with the
    cancellation in m, ``κ = (β1|m| + (1-β1)|g|)/|β1 m + (1-β1) g|``: at most 6 κ ulps.
    """
    beta1, beta2 = betas

    @given(histories(dtype, T=st.integers(1, 6)))
    def check(h):
        rms = mean = Scaled.zeros_like(h[0])
        for t, gradient in enumerate(h, start=1):
            g = Scaled.of(gradient)
            m, v = scaled_ema_update(mean, g, beta1), scaled_rms_update(rms, g, beta2, 1.0 - beta2)
            gamma = scaled_ratio(m, v, math.sqrt(bias_correction(beta2, t)) / bias_correction(beta1, t))
            for index in np.ndindex(*gradient.shape):

                def stored(s, index=index):
                    return mpmath.ldexp(exact(float(s.mantissa[index])), int(s.exponent[index]))

                with mpmath.workprec(BITS):
                    x, b1, b2 = exact(float(gradient[index])), exact(beta1), exact(beta2)
                    parts = b1 * stored(mean), (1 - b1) * x
                    square = b2 * stored(rms) ** 2 + (1 - b2) * x * x
                    given_new = quotient(stored(m), stored(v) ** 2)
                with mpmath.workprec(300):
                    factor = mpmath.sqrt(1 - b2**t) / (1 - b1**t)
                    assert ulp_error(float(gamma[index]), factor * given_new, dtype) <= 4
                with mpmath.workprec(BITS):
                    size, total = abs(parts[0]) + abs(parts[1]), parts[0] + parts[1]
                if size:
                    true, scale = factor * quotient(total, square), factor * quotient(size, square)
                    assert abs(exact(float(gamma[index])) - true) <= 6 * ulp(scale, dtype)
            mean, rms = m, v

    check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_d8_half_precision_is_rounded_once(dtype):
    """Float32 arithmetic, then one rounding: half an ulp, and a few thousandths for float32's own error."""
    excess = {torch.float16: 2.0**-13, torch.bfloat16: 2.0**-16}[dtype]

    def budget(t, kind, options):
        return 0.5 + (2 * t + 4) * excess

    examples = st.tuples(histories(dtype), one_moment_kinds())
    holds(examples, d8_accurate, budget=budget)
    # The twins: arithmetic in half precision, by squares, and a budget that one rounding cannot meet.
    plain = st.tuples(histories(dtype), st.just(("adagrad", {})))
    assert refuted(plain, lambda x: d8_accurate(x, gamma=naive_gamma, budget=budget))
    assert refuted(examples, lambda x: d8_accurate(x, budget=lambda *_: 0.4))


@both
@pytest.mark.parametrize("beta2", [None, 0.9, 0.999], ids=str)
@pytest.mark.parametrize("shape", ["constant", "decaying", "random", "whole range"])
def test_d8_growth_over_a_long_history(dtype, beta2, shape):
    """Over 300 steps the error stays below 2t + 4 ulps (observed: about a quarter of it)."""
    T = 300
    rng = np.random.default_rng(3)
    wide = {torch.float64: 1000, torch.float32: 120}[dtype]
    h = torch.from_numpy(
        {
            "constant": np.full((T, 1), 1 / 3),
            "decaying": 0.93 ** np.arange(T)[:, None],
            "random": rng.standard_normal((T, 2)),
            "whole range": rng.standard_normal((T, 2))
            * np.exp2(rng.integers(-wide, wide, (T, 2)).astype(float)),
        }[shape]
    ).to(dtype)
    options = {} if beta2 is None else {"beta2": beta2, "bias_correction": False}
    assert d8_accurate((h, ("adagrad" if beta2 is None else "rmsprop", options)))


@pytest.mark.parametrize("value", [x for x in adversarial_values() if x > 0])
def test_d8_every_adversarial_pair(value):
    h = torch.tensor([[value] * len(adversarial_values()), adversarial_values()], dtype=torch.float64)
    assert d8_accurate((h, ("adagrad", {})))


@given(histories(torch.float64, T=st.integers(1, 4)), kinds())
def test_the_two_oracles_agree(h, kind):
    """Exact rationals (tests/oracles) and 6000-bit mpmath (tests/ulps) check each other."""
    name, options = kind
    for column in coordinates(h):
        beta1, beta2 = options.get("betas", (0.0, options.get("beta2")))
        values = gammas(
            column, beta1=beta1, beta2=beta2, bias_correction=options.get("bias_correction", False)
        )
        for t, value in enumerate(values, start=1):
            rounded = oracle(name, options)(column[:t])
            assert abs(exact(rounded) - value) <= mpmath.mpf(0.5000001) * ulp(value, torch.float64)
