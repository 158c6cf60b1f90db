"""The oracles against closed forms, against libraries, and against the numbers SPEC states."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch

from tests.oracles import baselines as bl
from tests.oracles import scalar_matrix as sm
from tests.oracles import scaled_decomposition as sd
from tests.oracles.corrected import NaiveCorrectedLinf, NaiveCorrectedSpectral
from tests.oracles.paper_spectral import NaivePaperSpectral
from tests.oracles.reference_linf import NaivePaperLinf, NaiveReferenceLinf
from tests.oracles.reference_spectral import VARIANTS, NaiveReferenceSpectral

SHAPES = [(4, 4), (5, 3), (3, 5), (1, 4), (4, 1)]


def stream(seed, shape, steps, noise=1.0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=shape)
    return [mean + noise * rng.normal(size=shape) for _ in range(steps)]


def random_orthogonal(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def run(oracle, grads):
    return np.stack([oracle.direction(g) for g in grads])


# --- scalar matrices ---


@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_arithmetic_is_numpys(shape):
    rng = np.random.default_rng(0)
    A, B, M = rng.normal(size=(shape[0],) * 2), rng.normal(size=(shape[1],) * 2), rng.normal(size=shape)
    a, b, x = map(sm.rows_of, (A, B, M))
    np.testing.assert_allclose(sm.rotate(a, x, b), A.T @ M @ B, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(sm.rotate_back(a, x, b), A @ M @ B.T, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(sm.row_norms(x), np.linalg.norm(M, axis=1), rtol=1e-14)
    np.testing.assert_allclose(sm.column_norms(x), np.linalg.norm(M, axis=0), rtol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_polar_is_idempotent_and_dual_to_the_nuclear_norm(shape):
    M = np.random.default_rng(1).normal(size=shape)
    O = np.array(sm.exact_polar(sm.rows_of(M)))
    np.testing.assert_allclose(sm.exact_polar(sm.rows_of(O)), O, atol=1e-13)
    assert (M * O).sum() == pytest.approx(np.linalg.norm(M, "nuc"), rel=1e-13)


def test_exact_polar_leaves_out_the_null_space():
    u, v = np.array([3.0, 4.0]) / 5, np.array([1.0, 2.0, 2.0]) / 3
    np.testing.assert_allclose(sm.exact_polar(sm.rows_of(7.0 * np.outer(u, v))), np.outer(u, v), atol=1e-15)
    assert not np.array(sm.exact_polar(sm.zeros(2, 3))).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("renormalise", [True, False])
def test_newton_schulz_acts_on_singular_values(shape, renormalise):
    # U p(Σ) Vᵀ with p iterated on the singular values alone; the first step divides by (Σσ⁸)^{1/8}.
    M = np.random.default_rng(2).normal(size=shape)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    y = s / np.linalg.norm(s)
    if renormalise:
        y = y / (y**8).sum() ** 0.125
    for _ in range(5):
        y = 3.4445 * y - 4.7750 * y**3 + 2.0315 * y**5
    got = sm.newton_schulz_polar(sm.rows_of(M), dtype=np.float64, renormalise=renormalise)
    np.testing.assert_allclose(got, (U * y) @ Vt, atol=1e-12)
    single = np.array(sm.newton_schulz_polar(sm.rows_of(M), renormalise=renormalise))
    assert np.linalg.norm(single - got) <= 1e-4 * np.linalg.norm(got)


def test_power_iteration_sorts_by_rayleigh_quotient():
    Q, order = sm.power_iteration_basis([[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], np.linalg.qr)
    assert order == [1, 0]
    np.testing.assert_array_equal(np.abs(Q), [[0, 1], [1, 0]])


# --- reference S∞ ---


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_first_call_only_builds_the_bases(variant, shape):
    grads, X = stream(3, shape, 2), np.ones(shape)
    oracle = NaiveReferenceSpectral(variant=variant)
    np.testing.assert_array_equal(oracle.step(X, grads[0], lr=0.1, weight_decay=0.5), X)
    assert (
        oracle.t == 0 and not np.any(oracle.M) and not np.any(np.concatenate([np.ravel(v) for v in oracle.V]))
    )
    D = oracle.direction(grads[1])
    assert oracle.t == 1 and np.isfinite(D).all() and np.linalg.norm(D) > 0


def test_reference_decay_follows_the_update():
    grads, X = stream(4, (3, 3), 2), np.full((3, 3), 2.0)
    direct, stepped = NaiveReferenceSpectral(), NaiveReferenceSpectral()
    direct.direction(grads[0])
    stepped.direction(grads[0])
    D = direct.direction(grads[1])
    expected = (X - 0.1 * D) * (1 - 0.1 * 0.3)
    np.testing.assert_allclose(stepped.step(X, grads[1], 0.1, 0.3), expected, rtol=1e-14)


@pytest.mark.parametrize("beta", [0.95, 0.5])
def test_reference_first_steps_on_a_constant_gradient(beta):
    # A1. m_t = (1-β^t) g, V_t = (1-β) Σ β^{t-s} (1-β^s)² g²: one scalar factor times msign.
    G = random_orthogonal(np.random.default_rng(5), 4) @ np.diag([4.0, 3.0, 2.0, 1.0])
    oracle = NaiveReferenceSpectral(beta1=beta, beta2=beta, eps=0.0, polar=sm.exact_polar)
    oracle.direction(G)
    polar, V = 0.2 * 2.0 * np.array(sm.exact_polar(sm.rows_of(G))), 0.0
    for t in range(1, 25):
        V = beta * V + (1 - beta) * (1 - beta**t) ** 2
        factor = (1 - beta**t) / math.sqrt(V) * math.sqrt(1 - beta**t) / (1 - beta**t)
        np.testing.assert_allclose(oracle.direction(G), factor * polar, atol=1e-10 * factor)
        if beta == 0.95 and t <= 3:
            assert factor == pytest.approx([20.0, 12.8111, 9.4971][t - 1], rel=1e-4)


def test_reference_first_steps_are_as_large_as_stated():
    # A1: about 18.8, 11.7, 8.5 times too large at β = .95 (the iteration's own factor is about .94).
    norms = []
    for seed in range(6):
        oracle, grads = NaiveReferenceSpectral(), stream(10 + seed, (6, 6), 4, noise=1.0)
        norms.append([np.linalg.norm(oracle.direction(g)) for g in grads][1:])
    observed = np.mean(norms, axis=0) / (0.2 * math.sqrt(6) * math.sqrt(6))
    np.testing.assert_allclose(observed, [18.8, 11.7, 8.5], rtol=0.08)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_reference_none_is_muon_in_the_original_basis(shape):
    # The rotations cancel across refreshes; what remains is the bias factor (point 5) and the skipped call.
    grads = stream(6, shape, 26)
    oracle = NaiveReferenceSpectral(variant="none", polar=sm.exact_polar)
    muon = bl.NaiveMuon(scale=sm.shape_factor)
    got = run(oracle, grads)
    for t, g in enumerate(grads[1:], start=1):
        bias = math.sqrt(1 - 0.95**t) / (1 - 0.95**t)
        np.testing.assert_allclose(got[t], bias * muon.direction(g), atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(5, 3), (4, 4)])
def test_reference_does_not_depend_on_the_signs_of_basis_vectors(variant, shape):
    def flipped_qr(A):
        Q, R = np.linalg.qr(A)
        return -Q, -R

    def flipped_eigh(A):
        w, Q = np.linalg.eigh(A)
        return w, Q * np.where(np.arange(len(w)) % 2, -1.0, 1.0)

    grads = stream(7, shape, 24)
    options = {"variant": variant, "dtype": np.float64, "refresh_every": 5}
    one = NaiveReferenceSpectral(**options)
    other = NaiveReferenceSpectral(eigh=flipped_eigh, qr=flipped_qr, **options)
    np.testing.assert_allclose(run(one, grads), run(other, grads), atol=1e-9)


@pytest.mark.parametrize("variant", ["full", "memory"])
def test_reference_on_diagonal_matrices_follows_each_coordinate(variant):
    # Point (7): V is permuted with the basis: entry (i, i) stays with its coordinate when the order changes.
    # The bases are rounded to exact axes, since `memory` takes the sign of what would be rounding errors.
    def axes(function):
        return lambda A: tuple(np.round(x) if x.ndim == 2 else x for x in function(A))

    rng = np.random.default_rng(32)
    vectors = [rng.normal(size=5) * rng.lognormal(size=5) for _ in range(30)]
    oracle = NaiveReferenceSpectral(
        0.9,
        0.97,
        refresh_every=3,
        eps=0.0,
        nesterov=False,
        variant=variant,
        polar=sm.exact_polar,
        eigh=axes(np.linalg.eigh),
        qr=axes(np.linalg.qr),
    )
    got = run(oracle, [np.diag(v) for v in vectors])
    m, v = np.zeros(5), np.zeros(5)
    for t, g in enumerate(vectors[1:], start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.97 * v + 0.03 * (g if variant == "memory" else m) ** 2
        bias = math.sqrt(1 - 0.97**t) / (1 - 0.9**t)
        np.testing.assert_allclose(got[t], 0.2 * math.sqrt(5) * bias * np.diag(m / np.sqrt(v)), atol=1e-12)


@pytest.mark.parametrize("beta3", [None, 0.8])
def test_reference_bases_are_those_of_soap(beta3):
    # Points (1), (7) and (8) are SOAP's; the library keeps its QR in float32.
    grads = stream(8, (4, 4), 25)
    oracle = NaiveReferenceSpectral(0.9, 0.97, beta3)
    run(oracle, grads)
    _, library = bl.torch_optim_trajectory(
        "soap", grads, betas=(0.9, 0.97), shampoo_beta=beta3, return_optimizer=True
    )
    (state,) = library.state.values()
    for ours, theirs in zip((oracle.QL, oracle.QR), state["Q"], strict=True):
        overlaps = np.abs(np.array(ours).T @ theirs.double().numpy())
        np.testing.assert_allclose(overlaps, np.eye(4), atol=1e-4)
    for ours, theirs in zip((oracle.L, oracle.R), state["GG"], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_replayed_factorisations_are_asked_for_left_first():
    grads = stream(9, (3, 2), 12)
    eighs, qrs = [], []

    def recording(function, record):
        def call(A):
            record.append(function(A))
            return record[-1]

        return call

    recorder = NaiveReferenceSpectral(
        eigh=recording(np.linalg.eigh, eighs), qr=recording(np.linalg.qr, qrs), refresh_every=4
    )
    first = run(recorder, grads)
    assert [len(w) for w, _ in eighs] == [3, 2] and [len(Q) for Q, _ in qrs] == [3, 2, 3, 2]
    replay = NaiveReferenceSpectral(eigh=sm.Replay(eighs), qr=sm.Replay(qrs), refresh_every=4)
    np.testing.assert_array_equal(run(replay, grads), first)


def test_reference_refresh_follows_the_step():
    # Point (7): with k = 2 the second counted step still uses the first bases.
    grads = stream(11, (3, 3), 4)
    oracle = NaiveReferenceSpectral(refresh_every=2)
    bases = [oracle.direction(g) is not None and np.array(oracle.QL) for g in grads]
    np.testing.assert_array_equal(bases[0], bases[1])
    assert np.abs(bases[1] - bases[2]).max() > 1e-3
    np.testing.assert_array_equal(bases[2], bases[3])


# --- ℓ∞ ---


def test_linf_without_momentum_is_rmsprop_with_eps_inside():
    grads = stream(12, (7,), 20)
    rmsprop = bl.NaiveRMSprop(beta=0.999, eps=1e-5, eps_inside=True)
    np.testing.assert_allclose(run(NaiveReferenceLinf(beta1=0.0), grads), run(rmsprop, grads), rtol=1e-14)


def test_linf_starts_at_the_inverse_root():
    # A1, D3: (1-β2)^{-1/2} at ε = 0.
    D = NaivePaperLinf(eps=0.0).direction(np.array([2.0, -3.0, 0.0]))
    np.testing.assert_allclose(D, [0.001**-0.5, -(0.001**-0.5), 0.0], rtol=1e-12)


def test_linf_decay_precedes_the_update():
    x, g = np.array([1.0, -2.0]), np.array([0.3, 0.4])
    D = NaiveReferenceLinf().direction(g)
    np.testing.assert_allclose(NaiveReferenceLinf().step(x, g, 0.1, 0.5), 0.95 * x - 0.1 * D, rtol=1e-15)


def test_corrected_linf_on_a_constant_gradient_is_sign():
    g = np.array([1e-3, -5.0, 0.0, 2e6])
    np.testing.assert_allclose(run(NaiveCorrectedLinf(), [g] * 30), [np.sign(g)] * 30, rtol=1e-12)


def test_corrected_linf_floor_is_relative_to_the_largest():
    oracle = NaiveCorrectedLinf(eps=1e-2)
    np.testing.assert_allclose(oracle.direction(np.array([1.0, 0.01, -0.5])), [1.0, 0.1, -1.0], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_corrected_rules_do_not_see_the_scale(scale):
    grads = stream(13, (4, 3), 15)
    for make in (
        lambda: NaiveCorrectedLinf(eps=1e-8),
        lambda: NaiveCorrectedSpectral(eps=1e-8, refresh_every=4),
    ):
        np.testing.assert_allclose(
            run(make(), [scale * g for g in grads]), run(make(), grads), rtol=1e-7, atol=1e-9
        )


# --- paper and corrected S∞ ---


def test_paper_first_step_is_the_polar_factor_times_the_inverse_root():
    G = stream(14, (3, 5), 1)[0]
    expected = 0.2 * math.sqrt(5) * 0.05**-0.5 * np.array(sm.exact_polar(sm.rows_of(G)))
    got = NaivePaperSpectral(eps=0.0).direction(G)
    # The null space of GᵀG has V = 0 up to rounding: only the first three columns of Γ act.
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_paper_gamma_is_zero_where_v_is_zero():
    oracle = NaivePaperSpectral(eps=1.0)
    assert not oracle.direction(np.zeros((2, 3))).any() and not np.any(oracle.gamma)
    oracle.direction(np.diag([2.0, 0.0]) @ np.eye(2, 3))
    # One entry of V is not 0: (r cᵀ + ε)/V with r = c = .05 · 2, V = .05 r c.
    assert sorted(x for row in oracle.gamma for x in row)[:5] == [0.0] * 5
    assert np.max(oracle.gamma) == pytest.approx(math.sqrt(1.01 / 0.0005), rel=1e-12)


def test_paper_refreshes_before_the_first_and_every_kth_step():
    oracle, bases = NaivePaperSpectral(refresh_every=3), []
    for g in stream(15, (3, 3), 7):
        oracle.direction(g)
        bases.append(np.array(oracle.QL))
    changed = [bool(np.abs(a - b).max() > 0) for a, b in itertools.pairwise(bases)]
    assert changed == [False, False, True, False, False, True]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_variants_are_finite_on_every_shape(variant, shape):
    grads = stream(16, shape, 8)
    for cls in (NaivePaperSpectral, NaiveCorrectedSpectral, NaiveReferenceSpectral):
        D = run(cls(variant=variant, refresh_every=3), grads)
        assert D.shape == (8, *shape) and np.isfinite(D).all()


@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "none", "snr"])
def test_corrected_constant_gradient_gives_gamma_one(variant):
    rng = np.random.default_rng(17)
    G = random_orthogonal(rng, 4) @ np.diag([4.0, 3.0, 2.0, 1.0]) @ random_orthogonal(rng, 4)
    polar = 0.2 * 2.0 * np.array(sm.exact_polar(sm.rows_of(G)))
    np.testing.assert_allclose(
        run(NaiveCorrectedSpectral(variant=variant), [G] * 25), [polar] * 25, atol=1e-9
    )


@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "sign", "snr"])
@pytest.mark.parametrize("cls", [NaiveReferenceSpectral, NaivePaperSpectral, NaiveCorrectedSpectral])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3)])
def test_gamma_of_each_variant_between_refreshes(cls, variant, shape):
    # The same formulas on whole arrays, in the bases the oracle chose.
    beta1, beta2, eps = 0.9, 0.97, 1e-3
    oracle = cls(beta1, beta2, eps=eps, variant=variant, refresh_every=1000)
    grads = stream(33, shape, 8)
    corrected, reference = cls is NaiveCorrectedSpectral, cls is NaiveReferenceSpectral
    if reference:
        oracle.direction(grads.pop(0))
    M, V, a, b = np.zeros(shape), np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[1])
    for t, g in enumerate(grads, start=1):
        oracle.direction(g)
        G = np.array(oracle.QL).T @ g @ np.array(oracle.QR)
        M = beta1 * M + (1 - beta1) * G
        momentum = M / (1 - beta1**t) if corrected else M
        top = G if variant == "instantaneous" else momentum
        bottom = G if variant in ("instantaneous", "snr") or (variant == "memory" and reference) else momentum
        r, c = np.linalg.norm(bottom, axis=1), np.linalg.norm(bottom, axis=0)
        V = beta2 * V + (1 - beta2) * np.outer(r, c)
        power = 1 if cls is NaivePaperSpectral else 2
        a, b = beta2 * a + (1 - beta2) * r**power, beta2 * b + (1 - beta2) * c**power
        mean = np.outer(a, b) ** (1 / power) if variant == "memory" else V
        rc = np.outer(np.linalg.norm(top, axis=1), np.linalg.norm(top, axis=0))
        if corrected:
            mean = mean / (1 - beta2**t)
            gamma = np.sqrt(rc / np.maximum(mean, eps * mean.max()))
        else:
            gamma = np.sqrt(rc / (mean + eps)) if reference else np.sqrt((rc + eps) / mean)
        if t > 1 or shape[0] == shape[1]:  # at t = 1 a tall matrix leaves rounding errors in V
            np.testing.assert_allclose(oracle.gamma, gamma, rtol=1e-9)


def test_corrected_on_diagonal_matrices_is_the_linf_rule():
    # M7, across refreshes that reorder the basis.
    rng = np.random.default_rng(18)
    vectors = [rng.normal(size=5) * rng.lognormal(size=5) for _ in range(25)]
    got = run(NaiveCorrectedSpectral(refresh_every=4), [np.diag(v) for v in vectors]) / sm.shape_factor(5, 5)
    want = run(NaiveCorrectedLinf(beta1=0.95, beta2=0.95), vectors)
    np.testing.assert_allclose(got, [np.diag(w) for w in want], atol=1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_corrected_none_is_muon(nesterov, shape):
    grads = stream(19, shape, 25)
    got = run(NaiveCorrectedSpectral(variant="none", nesterov=nesterov, refresh_every=4), grads)
    want = run(bl.NaiveMuon(nesterov=nesterov, scale=sm.shape_factor), grads)
    np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "snr"])
def test_corrected_is_equivariant(variant, exponent):
    # M9: square, simple spectra, ε = 0, exact msign.
    rng = np.random.default_rng(20)
    P, Q = random_orthogonal(rng, 4), random_orthogonal(rng, 4)
    grads = stream(21, (4, 4), 15)
    options = {"variant": variant, "carry_exponent": exponent, "refresh_every": 4}
    plain = run(NaiveCorrectedSpectral(**options), grads)
    rotated = run(NaiveCorrectedSpectral(**options), [P @ g @ Q.T for g in grads])
    np.testing.assert_allclose(rotated, [P @ d @ Q.T for d in plain], atol=1e-9)


def test_paper_is_not_equivalent_to_muon_without_the_rotation_at_refresh():
    grads = stream(22, (4, 4), 12)
    got = run(NaivePaperSpectral(variant="none", refresh_every=5), grads)
    want = run(bl.NaiveMuon(nesterov=False, scale=sm.shape_factor), grads)
    np.testing.assert_allclose(got[:5], want[:5], atol=1e-10)
    assert np.abs(got[5] - want[5]).max() > 1e-2


@pytest.mark.parametrize("variant", ["full", "memory"])
def test_corrected_carry_keeps_the_total(variant):
    # A and B are doubly stochastic: ΣV^p (for memory, of each marginal's squares) survives the new bases.
    oracle = NaiveCorrectedSpectral(variant=variant, refresh_every=1000)
    run(oracle, stream(23, (4, 3), 6))
    total = [np.sum(np.square(oracle.V))] if variant == "full" else [sum(oracle.V[0]), sum(oracle.V[1])]
    oracle._refresh()
    after = [np.sum(np.square(oracle.V))] if variant == "full" else [sum(oracle.V[0]), sum(oracle.V[1])]
    np.testing.assert_allclose(after, total, rtol=1e-12)


# --- baselines against the libraries ---


@pytest.mark.parametrize(
    ("oracle", "name", "options", "tolerance"),
    [
        (lambda: bl.NaiveAdam(0.9, 0.99, 1e-8), "adam", {"betas": (0.9, 0.99)}, 1e-12),
        (lambda: bl.NaiveRMSprop(0.99, 1e-8), "rmsprop", {}, 1e-12),
        (lambda: bl.NaiveAdaGrad(1e-10), "adagrad", {}, 1e-12),
        (
            lambda: bl.NaiveMuon(scale=lambda m, n: math.sqrt(max(1, m / n))),
            "muon",
            {"exact_polar": True},
            1e-10,
        ),
        (
            lambda: bl.NaiveMuon(nesterov=False, scale=sm.shape_factor),
            "muon",
            {"exact_polar": True, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
            1e-10,
        ),
        (
            lambda: bl.NaiveAdaMuon(0.9, 0.95, eps=1e-10, use_sign=False, bias_correction=True),
            "adamuon",
            {"exact_polar": True},
            1e-9,
        ),
    ],
)
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_baselines_are_the_libraries(oracle, name, options, tolerance, shape):
    steps = 25
    grads = stream(24, shape, steps)
    want = bl.torch_optim_trajectory(name, grads, **options)
    np.testing.assert_allclose(run(oracle(), grads), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_the_libraries_own_iteration_differs_by_bfloat16_only(shape):
    def polar(M):
        return sm.newton_schulz_polar(M, renormalise=False)

    grads = stream(31, shape, 12)
    oracle = bl.NaiveMuon(polar=polar, scale=lambda m, n: math.sqrt(max(1, m / n)))
    want = bl.torch_optim_trajectory("muon", grads)
    assert np.linalg.norm(run(oracle, grads) - want) <= 0.06 * np.linalg.norm(want)
    # AdaMuon's first steps are signs of the entries of msign: only its size survives bfloat16.
    D = bl.torch_optim_trajectory("adamuon", grads)
    np.testing.assert_allclose(np.sqrt((D**2).mean(axis=(1, 2))), 0.2, rtol=0.01)


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({}, {}),
        (
            {"betas": (0.9, 0.99), "shampoo_beta": 0.8, "eps": 1e-3, "precondition_frequency": 3},
            {"beta1": 0.9, "beta2": 0.99, "shampoo_beta": 0.8, "eps": 1e-3, "precondition_frequency": 3},
        ),
        (
            {"correct_bias": False, "normalize_gradient": True},
            {"correct_bias": False, "normalize_gradient": True},
        ),
    ],
)
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_naive_soap_is_the_librarys_with_its_factorisations(shape, options, ours):
    # The library's own eigh and QR (float32) outputs: the null-space basis of GGᵀ is arbitrary.
    grads, eighs, qrs = stream(24, shape, 25), [], []

    def recording(function, record):
        def call(A):
            output = function(A)
            record.append(tuple(x.double().numpy().copy() for x in output))
            return output

        return call

    with (
        mock.patch("torch.linalg.eigh", recording(torch.linalg.eigh, eighs)),
        mock.patch("torch.linalg.qr", recording(torch.linalg.qr, qrs)),
    ):
        want = bl.torch_optim_trajectory("soap", grads, **options)
    naive = bl.NaiveSOAP(eigh=sm.Replay(eighs), qr=sm.Replay(qrs), **ours)
    np.testing.assert_allclose(run(naive, grads), want, rtol=1e-9, atol=1e-9)


def test_naive_soap_with_its_own_factorisations_is_the_librarys_to_float32():
    grads = stream(24, (4, 4), 25)
    want = bl.torch_optim_trajectory("soap", grads)
    np.testing.assert_allclose(run(bl.NaiveSOAP(), grads), want, rtol=2e-5, atol=2e-5)


def test_adamuon_has_rms_two_tenths_and_bias_correction_is_immaterial():
    grads = stream(26, (4, 6), 12)
    D = run(bl.NaiveAdaMuon(eps=0.0), grads)
    np.testing.assert_allclose(np.sqrt((D**2).mean(axis=(1, 2))), 0.2, rtol=1e-12)
    np.testing.assert_allclose(run(bl.NaiveAdaMuon(eps=0.0, bias_correction=True), grads), D, rtol=1e-12)


def test_shampoo_and_full_adagrad_first_steps():
    # M1: one-sample Shampoo is the polar factor; one-sample full-matrix AdaGrad is g/‖g‖.
    G = stream(27, (4, 3), 1)[0]
    for beta, factor in [(None, 1.0), (0.9, 0.1**-0.5)]:
        got = bl.NaiveShampoo(beta).direction(G)
        np.testing.assert_allclose(got, factor * np.array(sm.exact_polar(sm.rows_of(G))), atol=1e-7)
    np.testing.assert_allclose(bl.NaiveFullAdaGrad().direction(G), G / np.linalg.norm(G), rtol=1e-10)
    g = G.ravel()
    diagonal, full = bl.NaiveAdaGrad(), bl.NaiveFullAdaGrad()
    for i in range(g.size):
        unit = np.zeros(g.size)
        unit[i] = g[i]
        np.testing.assert_allclose(full.direction(unit), diagonal.direction(unit), atol=1e-10)


def test_signsgd():
    np.testing.assert_array_equal(
        bl.NaiveSignSGD().direction(np.array([-2.0, 0.0, 1e-300])), [-1.0, 0.0, 1.0]
    )


# --- γ in exact arithmetic ---


@pytest.mark.parametrize("exponent", [-1000, -700, -3, 0, 1, 600, 1000])
def test_rounded_sqrt_is_correctly_rounded(exponent):
    rng = np.random.default_rng(28)
    for _ in range(50):
        q = Fraction(int(rng.integers(1, 2**62)), int(rng.integers(1, 2**62))) * Fraction(2) ** (2 * exponent)
        got = sd.rounded_sqrt(q)
        if math.isinf(got):
            assert q > Fraction(math.nextafter(math.inf, 0.0)) ** 2
            continue
        below = (Fraction(got) + Fraction(math.nextafter(got, 0.0))) / 2
        above = (Fraction(got) + Fraction(got) + Fraction(math.ulp(got))) / 2
        assert below**2 <= q <= above**2
        with localcontext() as context:
            context.prec = 60
            independent = float((Decimal(q.numerator) / Decimal(q.denominator)).sqrt())
        assert got == independent
    assert sd.rounded_sqrt(Fraction(0)) == 0.0 and sd.rounded_sqrt(Fraction(9, 4)) == 1.5


def test_gamma_closed_forms():
    # D1, D3
    assert sd.adagrad_gamma([3.0, 4.0]) == 0.8
    assert sd.adagrad_gamma([1e200, 1e200]) == math.sqrt(0.5)
    assert sd.adagrad_gamma([0.0, 0.0]) == 0.0 and sd.adagrad_gamma([5e-324]) == 1.0
    assert sd.ema_gamma([0.0, 0.0, -7e-310], 0.75) == 2.0
    assert sd.ema_gamma([2.5], 0.9, bias_correction=True) == 1.0
    assert sd.ema_gamma([0.0] * 4 + [1.0], 0.99, True) == pytest.approx(
        math.sqrt((1 - 0.99**5) / 0.01), rel=1e-12
    )
    assert sd.linf_gamma([3.0] * 5, 0.9, 0.99, True) == 1.0
    assert sd.linf_gamma([1.0, -2.0, 3.0], 0.0, 0.9) == sd.ema_gamma([1.0, -2.0, 3.0], 0.9)


def test_adam_supremum_is_attained():
    # D4: Σ a_k²/b_k at β1 = .9, β2 = .99, t = 12, by g_k ∝ (β1/β2)^k, k steps ago.
    t, beta1, beta2 = 12, 0.9, 0.99
    history = [(beta1 / beta2) ** (t - 1 - s) for s in range(t)]
    assert sd.adam_gamma(history, beta1, beta2) ** 2 == pytest.approx(1.104372, abs=5e-7)
    a = np.array([beta1**k for k in range(t)]) / sum(beta1**k for k in range(t))
    b = np.array([beta2**k for k in range(t)]) / sum(beta2**k for k in range(t))
    assert sd.adam_gamma(history, beta1, beta2) ** 2 == pytest.approx(float((a**2 / b).sum()), rel=1e-13)
    rng = np.random.default_rng(29)
    other = max(sd.adam_gamma(list(rng.normal(size=t)), beta1, beta2) for _ in range(50))
    assert other**2 < 1.104372


def test_gammas_agree_with_the_float_oracles():
    grads = stream(30, (1,), 15)
    history = [float(g[0]) for g in grads]
    adam = run(bl.NaiveAdam(0.9, 0.99, 0.0), grads)[-1, 0]
    assert abs(adam) == pytest.approx(sd.adam_gamma(history, 0.9, 0.99), rel=1e-13)
    assert abs(run(bl.NaiveAdaGrad(), grads)[-1, 0]) == pytest.approx(sd.adagrad_gamma(history), rel=1e-13)
    assert abs(run(bl.NaiveRMSprop(0.9, 0.0), grads)[-1, 0]) == pytest.approx(
        sd.ema_gamma(history, 0.9), rel=1e-13
    )
    plain = run(NaiveReferenceLinf(0.9, 0.99, 0.0), grads)[-1, 0]
    assert abs(plain) == pytest.approx(sd.linf_gamma(history, 0.9, 0.99), rel=1e-12)
    corrected = run(NaiveCorrectedLinf(0.9, 0.99), grads)[-1, 0]
    assert abs(corrected) == pytest.approx(sd.linf_gamma(history, 0.9, 0.99, True), rel=1e-12)
