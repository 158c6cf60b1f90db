"""Properties of the update rules on matrices: M7, M9, M10 and M11 of the specification."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import polar_factor
from deva_theory.problems.quadratic import SPECTRA, TraceQuadratic, block_hessian
from deva_theory.rules import PRESETS, VARIANTS, StepScale, deva_linf, deva_spectral, without_rotation_back
from paper_checks.spectral_rotation import equivariance_gap
from tests.strategies import orthogonal, refuted, tensors


def directions(rule, gradients):
    state, found = rule.init(gradients[0]), []
    for G in gradients:
        direction, state, _ = rule.update(G, state)
        found.append(direction)
    return torch.stack(found)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- M7: vectors as diagonal matrices ----------------------------------------------------------------------

BETAS = (0.9, 0.99)


def diagonal_gap(spectral, linf, g):
    """Largest difference of the S∞ rule on diag(g) and the ℓ∞ rule on g, relative to the latter."""
    vectors = torch.diag_embed(directions(linf, g))
    return float((directions(spectral, torch.diag_embed(g)) - vectors).abs().max() / vectors.abs().max())


def shape_free(rule, *, identity):
    """Remove shape and bias factors, and with `identity` the bases."""
    rule = replace(rule, step_scale=StepScale())
    return replace(rule, basis=None) if identity else rule


# EMA(r)EMA(c) is not EMA(r²); the reference's memory variant takes r and c of the gradient, as ℓ∞ snr does.
LINF_OF_MEMORY = {"corrected": "memory", "paper": None, "reference": "snr"}
CORRESPONDING = [
    (preset, variant, LINF_OF_MEMORY[preset] if variant == "memory" else variant)
    for preset in PRESETS
    for variant in VARIANTS
]


@pytest.mark.parametrize("preset, variant, linf", CORRESPONDING)
def test_diagonal_matrices_with_identity_bases_are_vectors(preset, variant, linf):
    g = normal(12, 4)
    spectral = deva_spectral(
        preset=preset, variant=variant, eps=0.0, polar="svd", nesterov=False, betas=BETAS
    )
    vectors = deva_linf(preset=preset, variant=linf or variant, eps=0.0, betas=BETAS)
    gap = diagonal_gap(shape_free(spectral, identity=True), vectors, g)
    if linf is None:
        assert gap > 0.5
        return
    assert gap < 1e-14
    # Twins: the shape factor 0.2 √d left in; another β1.
    assert diagonal_gap(replace(spectral, basis=None), vectors, g) > 0.1
    assert diagonal_gap(shape_free(spectral, identity=True), replace(vectors, moment=replace(
        vectors.moment, beta=0.5)), g) > 0.01


@pytest.mark.parametrize("every", [1, 4, 100])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "sign"])
def test_corrected_needs_no_identity_bases(variant, every):
    """Eigenbases of diagonal matrices are signed permutations, which the preset follows in M' and V."""
    spectral = deva_spectral(variant=variant, eps=0.0, betas=BETAS, refresh_every=every)
    vectors = deva_linf(variant=variant, eps=0.0, betas=BETAS)
    assert diagonal_gap(shape_free(spectral, identity=False), vectors, normal(12, 4)) < 1e-13


def test_paper_needs_bases_that_keep_their_order():
    """M' and V stay where they are at a refresh: the order of the eigenvalues must not change."""
    vectors = deva_linf(preset="paper", eps=0.0, betas=BETAS)
    often = deva_spectral(preset="paper", eps=0.0, betas=BETAS, refresh_every=1)
    g = normal(12, 4)
    assert diagonal_gap(shape_free(often, identity=False), vectors, g) > 0.1
    ordered = g.sign() * torch.tensor([8.0, 4.0, 2.0, 1.0]) * (1 + 0.1 * g.abs())
    assert diagonal_gap(shape_free(often, identity=False), vectors, ordered) < 1e-14


@pytest.mark.parametrize("size, ratio", [(1.0, 1.0), (1e-2, 1.0011), (1e-4, 6.4807), (1e-6, 44_730.0)])
def test_printed_eps_separates_the_two_rules(size, ratio):
    """First step at β1 = 0, β2 = .95: √((g²+ε)/V) against √(g²/(v+ε)), ε = 1e-8."""
    g = torch.full((1, 2), size, dtype=torch.float64)
    spectral = deva_spectral(preset="paper", betas=(0.0, 0.95))
    matrix = directions(shape_free(spectral, identity=True), torch.diag_embed(g))[0, 0, 0]
    vector = directions(deva_linf(preset="paper", betas=(0.0, 0.95)), g)[0, 0]
    v = 0.05 * size**2
    expected = math.sqrt((size**2 + 1e-8) * (v + 1e-8) / (v * size**2))
    assert matrix / vector == pytest.approx(expected, rel=1e-9)
    assert matrix / vector == pytest.approx(ratio, rel=1e-3)


# ---- M9: equivariance --------------------------------------------------------------------------------------

EQUIVARIANT = [v for v in VARIANTS if v != "sign"]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("variant", EQUIVARIANT)
def test_corrected_is_equivariant_under_rotations(variant, every):
    rule = deva_spectral(variant=variant, eps=0.0, refresh_every=every)

    @given(orthogonal(4), orthogonal(4), st.integers(0, 99))
    def check(P, Q, seed):
        assert equivariance_gap(rule, normal(8, 4, 4, seed=seed), P, Q) < 1e-8

    check()
    # Twin: matrices that are not orthogonal.
    stretch = torch.diag(torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64))
    assert equivariance_gap(rule, normal(8, 4, 4), stretch, torch.eye(4, dtype=torch.float64)) > 0.01


@pytest.mark.parametrize("variant", EQUIVARIANT)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 3)])
def test_rectangular_needs_exact_bases_at_every_step_or_a_null_space_of_dimension_one(shape, variant):
    """The first gradient leaves a null space of dimension |m-n|, whose basis is arbitrary.

    That is harmless if the next refresh solves anew; one step of orthogonal iteration remembers the
    arbitrary start, also with k = 1.
    """
    m, n = shape
    P, Q = torch.linalg.qr(normal(m, m)).Q, torch.linalg.qr(normal(n, n, seed=1)).Q
    gaps = {
        refresh: max(
            equivariance_gap(
                deva_spectral(variant=variant, eps=0.0, refresh_every=1, refresh=refresh),
                normal(8, m, n, seed=s), P, Q,
            )
            for s in range(5)
        )
        for refresh in ("eigh", "qr")
    }
    assert gaps["eigh"] < 1e-8
    if variant == "none" or abs(m - n) == 1:
        assert gaps["qr"] < 1e-8
    else:
        assert gaps["qr"] > 1e-3


@pytest.mark.parametrize("rule", [
    deva_spectral(preset="paper", eps=0.0, refresh_every=2),
    deva_spectral(preset="paper", eps=0.0, refresh_every=1),
    without_rotation_back(deva_spectral(eps=0.0)),
], ids=["paper, k = 2", "paper, k = 1", "without rotation back"])
def test_not_equivariant(rule):
    found = [
        equivariance_gap(rule, normal(4, 4, 4, seed=s), *(torch.linalg.qr(normal(2, 4, 4, seed=s + 50)).Q))
        for s in range(5)
    ]
    assert max(found) > 0.1


def test_the_sign_variant_does_not_read_rounding():
    """At t = 1 M' is diagonal up to rounding; sign must take its zeros as zeros."""
    rule = deva_spectral(variant="sign", eps=0.0)
    for s in range(5):
        assert equivariance_gap(rule, normal(1, 4, 4, seed=s), *(torch.linalg.qr(normal(2, 4, 4, seed=s + 50)).Q)) < 1e-8


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_linf_is_equivariant_under_signed_permutations(preset, variant):
    rule = deva_linf(preset=preset, variant=variant)

    coins = st.lists(st.sampled_from([1.0, -1.0]), min_size=4, max_size=4)

    @given(tensors((5, 4)), st.permutations(range(4)), coins)
    def check(g, order, signs):
        s = torch.tensor(signs, dtype=torch.float64)
        torch.testing.assert_close(
            directions(rule, s * g[:, order]), s * directions(rule, g)[:, order], rtol=1e-13, atol=0
        )

    check()
    # Twin: a rotation by 45 degrees.
    c = 0.5**0.5
    g, turn = normal(5, 2), torch.tensor([[c, -c], [c, c]], dtype=torch.float64)
    assert (directions(rule, g @ turn.T) - directions(rule, g) @ turn.T).abs().max() > 0.1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_linf_forgets_the_scale_of_every_coordinate(preset, variant):
    D = torch.tensor([1e-12, 1e-3, 1.0, 7e9], dtype=torch.float64)
    exact = deva_linf(preset=preset, variant=variant, eps=0.0)

    @given(tensors((5, 4)))
    def check(g):
        torch.testing.assert_close(directions(exact, D * g), directions(exact, g), rtol=1e-12, atol=0)

    check()
    if variant != "none":  # Twin: the preset's ε.
        rule, g = deva_linf(preset=preset, variant=variant), normal(5, 4)
        assert (directions(rule, D * g) - directions(rule, g)).abs().max() > 0.1


# ---- M10: descent ------------------------------------------------------------------------------------------


def positive_and_negative(M):
    product = M * polar_factor(M)
    return product.clamp_min(0).sum(), (-product).clamp_min(0).sum()


def test_product_is_nonnegative_for_diagonal_momentum_only():
    diagonal = tensors((3,)).map(torch.diag)
    gamma = normal(3, 3).abs()

    def holds(M):
        return bool((M * gamma * polar_factor(M)).sum() >= -1e-13)

    @given(diagonal)
    def check(M):
        assert holds(M)

    check()
    # Twin: any momentum, adaptation that is small where M' ⊙ O is positive.
    def adverse(M):
        O = polar_factor(M)
        return bool((M * torch.where(M * O > 0, 0.01, 1.0) * O).sum() >= -1e-13)

    assert refuted(tensors((3, 3)), adverse)


@st.composite
def near_condition(draw):
    M = draw(tensors((3, 3)))
    low, high = draw(st.floats(0.01, 1.0)), draw(st.floats(1.0, 10.0))
    which = draw(st.booleans())
    product = M * polar_factor(M)
    # The extreme Γ between low and high, or a random one.
    worst = torch.where(product > 0, low, high).double()
    return M, worst if which else low + (high - low) * torch.rand(
        3, 3, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))), dtype=torch.float64)


def test_sufficient_condition_for_descent():
    def implies(example, factor=1.0):
        M, gamma = example
        positive, negative = positive_and_negative(M)
        if factor * gamma.min() * positive < gamma.max() * negative:
            return True
        return bool((M * gamma * polar_factor(M)).sum() >= -1e-12)

    @given(near_condition())
    def check(example):
        assert implies(example)

    check()
    # Twin: the condition relaxed by a factor; the extreme Γ shows that it is sharp.
    assert refuted(near_condition(), lambda example: implies(example, factor=3.0), max_examples=2000)


def test_momentum_product_along_a_run():
    """E1's quadratic, 16 seeds, 60 steps: <M, D> never turns negative; the condition certifies most steps."""
    rng = np.random.default_rng(0)
    H = torch.from_numpy(np.stack([block_hessian(SPECTRA["heterogeneous"], rng) for _ in range(16)]))
    problem, generator = TraceQuadratic(H), torch.Generator().manual_seed(0)
    A, X = problem.root(), torch.randn(16, 9, 9, generator=generator, dtype=torch.float64)
    rule = deva_spectral(betas=(0.95, 0.95))
    state = rule.init(X)
    products, certified = [], []
    for _ in range(60):
        rows = torch.randint(0, 9, (16, 3), generator=generator)
        gradient = problem.row_gradient(A, X, rows, squared=True)
        D, state, details = rule.update(gradient, state, diagnostics=True)
        Q_L, Q_R = details.basis
        gamma, O = details.variance_adaptation, Q_L.mT @ details.scale_invariant @ Q_R
        product = state["momentum"] * O
        products.append((state["momentum"] * gamma * O).sum((-2, -1)))
        certified.append(
            gamma.amin((-2, -1)) * product.clamp_min(0).sum((-2, -1))
            >= gamma.amax((-2, -1)) * (-product).clamp_min(0).sum((-2, -1))
        )
        X = X - 0.1 * D
    certified, products = torch.stack(certified), torch.stack(products)
    assert (products > 0).all()
    assert 0.9 < certified.double().mean() < 1


# ---- M11: size of the update -------------------------------------------------------------------------------


def schur_interval(gamma, *, iterations=300, starts=4):
    """Enclose ``‖Γ‖_Schur = sup {‖Γ⊙O‖ : ‖O‖ ≤ 1}``.

    Lower end: ascent over O, then over unit u, v in ``uᵀ(Γ⊙O)v = <O, Γ⊙uvᵀ>``; O = msign(Γ⊙uvᵀ).
    Upper end: with ``diag(u)Γdiag(v) = WΣZᵀ`` and u, v > 0 the block matrix [[P, Γ], [Γᵀ, Q]],
    ``P = D_u⁻¹WΣWᵀD_u⁻¹``, ``Q = D_v⁻¹ZΣZᵀD_v⁻¹``, is positive semidefinite: γ_2(Γ) ≤ √(max P_ii · max Q_jj).
    """
    lower, upper = gamma.max(), math.inf  # u and v unit vectors of one entry
    rng = np.random.default_rng(0)
    for _ in range(starts):
        u, v = np.abs(rng.standard_normal(gamma.shape[0])), np.abs(rng.standard_normal(gamma.shape[1]))
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
        for _ in range(iterations):
            W, s, Zt = np.linalg.svd(u[:, None] * gamma * v, full_matrices=False)
            lower = max(lower, np.linalg.norm(gamma * (W @ Zt), 2))
            # Stationarity: (WΣWᵀ)_ii = ‖·‖_* u_i², and the same for v.
            u = np.maximum(np.sqrt(np.einsum("ik,k,ik->i", W, s, W) / s.sum()), 1e-9)
            v = np.maximum(np.sqrt(np.einsum("kj,k,kj->j", Zt, s, Zt) / s.sum()), 1e-9)
        W, s, Zt = np.linalg.svd(u[:, None] * gamma * v, full_matrices=False)
        P = np.einsum("ik,k,ik->i", W, s, W) / u**2
        Q = np.einsum("kj,k,kj->j", Zt, s, Zt) / v**2
        upper = min(upper, math.sqrt(P.max() * Q.max()))
    return lower, upper


def test_schur_norm_of_the_triangular_matrix():
    lower, upper = schur_interval(np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert lower == pytest.approx(2 / 3**0.5, abs=1e-6) and lower <= upper + 1e-12
    assert upper == pytest.approx(lower, abs=1e-4)


def test_schur_norm_lies_between_its_bounds():
    """max|Γ| ≤ ‖Γ‖_Schur ≤ min(max row norm, max column norm)."""
    strict = 0
    for seed in range(20):
        gamma = np.random.default_rng(seed).uniform(0.05, 1, (3, 4))
        lower, upper = schur_interval(gamma, iterations=200, starts=2)
        rows, columns = np.linalg.norm(gamma, axis=1).max(), np.linalg.norm(gamma, axis=0).max()
        assert gamma.max() <= lower <= upper + 1e-12
        assert lower <= min(rows, columns) + 1e-12
        assert upper - lower < 5e-3 * lower
        strict += lower > gamma.max() + 1e-3
    # Twin: the largest entry is not an upper bound.
    assert strict > 5


@given(tensors((4,)), tensors((3,)), tensors((4, 3)))
def test_separable_adaptation_does_not_enlarge_the_update(a, b, G):
    a, b, O = a.abs(), b.abs(), polar_factor(G)
    size = torch.linalg.matrix_norm(torch.outer(a, b) * O, 2)
    assert size <= a.max() * b.max() * (1 + 1e-13)


def test_adaptation_that_is_not_separable_does():
    """Twin: Γ ≤ 1, yet the update is longer than 1."""
    def holds(O):
        return bool(torch.linalg.matrix_norm(torch.tensor([[1.0, 1.0], [0.0, 1.0]]) * O, 2) <= 1 + 1e-9)

    assert refuted(orthogonal(2), holds)
