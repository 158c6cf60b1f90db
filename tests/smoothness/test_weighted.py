"""Weighted smoothness of ½ tr(XᵀHX): closed forms, brute force and the duality bound (SPEC S2 to S5)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import polar_factor
from deva_theory.smoothness import (
    absolute_weighted_sum,
    box_smoothness,
    signed_weighted_sum,
    spectral_smoothness,
    weighted_box_smoothness,
    weighted_spectral_smoothness,
)
from tests.strategies import orthogonal, refuted, spd, tensors


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def psd(m, *, rank=None, seed=0):
    A = normal(m, m if rank is None else rank, seed=seed)
    return A @ A.mT


@st.composite
def instances(draw, m, n, *, largest=2.0):
    """H ≽ 0 and Γ ≥ 0, zeros and rank-deficient Hessians included."""
    A = draw(tensors((m, m)))
    gamma = draw(tensors((m, n))).abs()
    return A @ A.mT, largest * gamma / gamma.max().clamp_min(1e-300)


def brute_box(H, gamma):
    """Largest uᵀ(I⊗H)u over the corners |u| = vec Γ, with the full Hessian in NumPy."""
    m, n = gamma.shape
    full = np.kron(np.eye(n), H.numpy())
    radii = gamma.numpy().reshape(-1, order="F")
    corners = radii * np.array(list(itertools.product([-1.0, 1.0], repeat=m * n)))
    return np.einsum("ki,ij,kj->k", corners, full, corners).max()


# ---- the plotted sums (S3) ---------------------------------------------------------------------------------


def test_sums_are_the_entrywise_pairing():
    H, gamma = psd(3), normal(3, 3, seed=1).abs()
    signed = sum(float(H[i, j] * gamma[i, j]) for i in range(3) for j in range(3))
    absolute = sum(abs(float(H[i, j])) * float(gamma[i, j]) for i in range(3) for j in range(3))
    assert float(signed_weighted_sum(H, gamma)) == pytest.approx(signed, rel=1e-14)
    assert float(absolute_weighted_sum(H, gamma)) == pytest.approx(absolute, rel=1e-14)
    batch = signed_weighted_sum(torch.stack([H, 2 * H]), gamma)
    torch.testing.assert_close(batch, signed * torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_signed_sum_may_be_negative_where_every_smoothness_is_positive():
    H = torch.tensor([[1.0, -0.9], [-0.9, 1.0]], dtype=torch.float64)
    gamma = torch.tensor([[0.1, 1.0], [1.0, 0.1]], dtype=torch.float64)
    assert signed_weighted_sum(H, gamma) < 0 < absolute_weighted_sum(H, gamma)
    assert weighted_box_smoothness(H, gamma) > 0


# ---- box (S2, S4, S5) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("m, n", [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (4, 3)])
def test_weighted_box_is_brute_force(m, n):
    @given(instances(m, n))
    def check(example):
        H, gamma = example
        brute = brute_box(H, gamma)
        assert float(weighted_box_smoothness(H, gamma)) == pytest.approx(brute, rel=1e-12, abs=1e-12)

    check()


def test_brute_force_distinguishes_the_row_hessian_from_the_true_one():
    """Twin: one column counted n times instead of every column with its own Γ."""
    H, gamma = psd(2), torch.tensor([[1.0, 0.1], [0.3, 1.0]], dtype=torch.float64)
    wrong = 2 * float(weighted_box_smoothness(H, gamma[:, :1]))
    assert abs(wrong - brute_box(H, gamma)) > 0.1


@given(instances(3, 1), st.integers(1, 3))
def test_box_smoothness_of_n_columns_is_n_times_that_of_one(example, n):
    H, _ = example
    expected = brute_box(H, torch.ones(3, n, dtype=torch.float64))
    assert n * float(box_smoothness(H)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(instances(3, 2, largest=1.0))
def test_adaptation_at_most_one_never_worsens_box_smoothness(example):
    H, gamma = example
    assert weighted_box_smoothness(H, gamma) <= 2 * box_smoothness(H) * (1 + 1e-12)


def test_larger_adaptation_does():
    """Twin: Γ up to 2, as an EMA's first steps may have."""
    def holds(example):
        H, gamma = example
        return bool(weighted_box_smoothness(H, gamma) <= 2 * box_smoothness(H) * (1 + 1e-12))

    assert refuted(instances(3, 2, largest=2.0), holds)


@given(instances(4, 1))
def test_chain_of_bounds_for_the_box_norm(example):
    """tr H ≤ L_∞ ≤ min(Σ|H_ij|, d λ_max) for H ≽ 0 (S4)."""
    H, value = example[0], box_smoothness(example[0])
    slack = 1e-12 * (1 + float(value))
    assert H.trace() <= value + slack
    assert value <= min(H.abs().sum(), 4 * torch.linalg.eigvalsh(H)[-1]) + slack


def test_box_smoothness_of_diagonal_and_rank_one():
    d = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    assert box_smoothness(torch.diag(d)) == 8.0
    assert box_smoothness(torch.outer(d, d)) == 64.0


@pytest.mark.parametrize("H", [torch.diag(torch.tensor([1.0, -1.0])), -torch.eye(3)])
def test_box_smoothness_refuses_indefinite_hessians(H):
    with pytest.raises(ValueError, match="eigenvalue -1"):
        box_smoothness(H)


def test_the_upper_end_is_tight_for_tall_parameters_without_adaptation():
    for m, n in ((4, 1), (5, 2)):
        H = psd(m, seed=m)
        found = weighted_spectral_smoothness(H, torch.ones(m, n, dtype=H.dtype), torch.eye(m, dtype=H.dtype))
        torch.testing.assert_close(found.upper, spectral_smoothness(H, n), rtol=1e-9, atol=0)


def test_box_is_batched_over_hessians_and_weights():
    H, gamma = torch.stack([psd(3, seed=s) for s in range(4)]).reshape(2, 2, 3, 3), normal(2, 3, 2).abs()
    found = weighted_box_smoothness(H, gamma)
    assert found.shape == (2, 2)
    for i, j in itertools.product(range(2), range(2)):
        torch.testing.assert_close(found[i, j], weighted_box_smoothness(H[i, j], gamma[j]))


def test_enumeration_has_a_limit():
    assert box_smoothness(torch.eye(10, dtype=torch.float64)) == 10.0
    with pytest.raises(ValueError, match="17 rows"):
        weighted_box_smoothness(torch.eye(17, dtype=torch.float64), torch.ones(17, 1, dtype=torch.float64))


# ---- spectral, closed form (S5) ----------------------------------------------------------------------------


def polar_search(H, n, starts=30, seed=0):
    """Best <O, HO> found by O ← msign(HO) from random starts."""
    best = 0.0
    shift = max(0.0, -float(torch.linalg.eigvalsh(H)[0])) * torch.eye(len(H), dtype=torch.float64)
    for start in range(starts):
        O = polar_factor(normal(len(H), n, seed=seed + start))
        for _ in range(200):
            # The shift makes the form convex, so that the iteration ascends it.
            O = polar_factor((H + shift) @ O)
        best = max(best, float((O * (H @ O)).sum()))
    return best


@pytest.mark.parametrize("m, n", [(1, 1), (3, 2), (2, 3), (3, 3), (4, 1)])
def test_spectral_smoothness_is_what_a_search_finds(m, n):
    H = psd(m, seed=m + 10 * n)
    assert float(spectral_smoothness(H, n)) == pytest.approx(polar_search(H, n), rel=1e-6)


def test_spectral_smoothness_takes_positive_parts():
    H = torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    assert [float(spectral_smoothness(H, n)) for n in (1, 2, 3, 5)] == [3.0, 4.0, 4.0, 4.0]
    assert spectral_smoothness(-torch.eye(2, dtype=torch.float64), 2) == 0.0


# ---- spectral, weighted (S2) -------------------------------------------------------------------------------


def all_2x2(count=20_001):
    """A fine grid over the extreme points of the unit ball: rotations and reflections."""
    a = torch.linspace(0, 2 * torch.pi, count, dtype=torch.float64)
    c, s = a.cos(), a.sin()
    rotations = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return torch.cat([rotations, rotations * torch.tensor([1.0, -1.0], dtype=torch.float64)])


GRID = all_2x2()


def grid_values(H, gamma, Q_L):
    D = Q_L @ (gamma * GRID)
    return (D * (H @ D)).sum((-2, -1))


@given(instances(2, 2), orthogonal(2))
def test_interval_contains_the_value_on_a_grid_over_all_orthogonal_matrices(example, Q_L):
    H, gamma = example
    interval = weighted_spectral_smoothness(H, gamma, Q_L)
    best = float(grid_values(H, gamma, Q_L).max())
    # Second order in the spacing of the grid.
    slack = 1e-6 * max(1.0, float(interval.upper))
    assert float(interval.lower) <= best + slack
    assert best <= float(interval.upper) + 1e-10 * max(1.0, float(interval.upper))


def test_upper_end_is_needed():
    """Twin: A = 0 and b_j = max_i (K_j)_ii, diagonal entries in place of eigenvalues, is no bound."""
    def holds(example):
        H, gamma = example
        value = float(grid_values(H, gamma, torch.eye(2, dtype=torch.float64)).max())
        claimed = sum(float((gamma[:, j] ** 2 * H.diagonal()).max()) for j in range(2))
        return value <= claimed + 1e-9

    assert refuted(instances(2, 2), holds)


def test_witness_reaches_the_value_on_most_instances():
    """The lower end is a feasible value; four starts find the global one nearly always on 2×2."""
    missed = 0
    for seed in range(40):
        H, gamma = psd(2, seed=seed), normal(2, 2, seed=seed + 100).abs()
        I = torch.eye(2, dtype=torch.float64)
        lower = float(weighted_spectral_smoothness(H, gamma, I).lower)
        missed += lower < float(grid_values(H, gamma, I).max()) * (1 - 1e-5)
    assert missed <= 4


def test_schur_norm_example():
    """Γ = [[1,1],[0,1]] ≤ 1 raises 1 to 4/3 (S2): u = (√⅔, √⅓), H = uuᵀ."""
    u = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64).sqrt()
    H, gamma = torch.outer(u, u), torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    I = torch.eye(2, dtype=torch.float64)
    interval = weighted_spectral_smoothness(H, gamma, I)
    assert float(grid_values(H, gamma, I).max()) == pytest.approx(4 / 3, abs=1e-6)
    assert float(interval.lower) == pytest.approx(4 / 3, abs=1e-6)
    assert interval.upper >= 4 / 3 - 1e-12
    assert float(spectral_smoothness(H, 2)) == pytest.approx(1.0, abs=1e-12)
    # Other unit vectors give less: 4/3 is the square of the Schur norm 2/√3.
    for angle in torch.linspace(0, torch.pi, 19):
        v = torch.tensor([angle.cos(), angle.sin()], dtype=torch.float64)
        assert grid_values(torch.outer(v, v), gamma, I).max() <= 4 / 3 + 1e-6


@pytest.mark.parametrize("m, n", [(1, 1), (3, 3), (3, 2), (2, 3), (4, 1), (1, 4)])
def test_without_adaptation_the_interval_holds_the_closed_form(m, n):
    """It closes where m ≤ n; for m > n the upper end is loose, by less than a factor 2 here."""
    H = psd(m, seed=3)
    Q = torch.linalg.qr(normal(m, m)).Q
    interval = weighted_spectral_smoothness(H, torch.ones(m, n, dtype=torch.float64), Q, iterations=300)
    value = float(spectral_smoothness(H, n))
    assert float(interval.lower) == pytest.approx(value, rel=1e-7)
    assert value * (1 - 1e-12) <= float(interval.upper) < value * (1 + 1e-6 if m <= n else 2)


@given(spd(3), orthogonal(3), tensors((3,)))
def test_row_weights_have_a_closed_form(H, Q_L, a):
    """Γ = a1ᵀ, m ≤ n: Σ a_i² (Q_LᵀHQ_L)_ii, attained by every O with orthonormal rows."""
    a = a.abs()
    value = float((a**2 * (Q_L.mT @ H @ Q_L).diagonal()).sum())
    for n in (3, 4):
        gamma = a.unsqueeze(-1).expand(3, n)
        interval = weighted_spectral_smoothness(H, gamma, Q_L)
        assert float(interval.lower) == pytest.approx(value, rel=1e-10, abs=1e-12)
        assert float(interval.upper) == pytest.approx(value, rel=1e-9, abs=1e-12)
    if float(a.max()) <= 1:
        assert value <= float(H.trace()) * (1 + 1e-12)


def test_row_weights_closed_form_needs_wide_matrices():
    """Twin: m > n, where O has no orthonormal rows: 2 in place of tr H = 3 for H = I, Γ = 1."""
    H = torch.eye(3, dtype=torch.float64)
    interval = weighted_spectral_smoothness(H, torch.ones(3, 2, dtype=torch.float64), H)
    assert float(interval.lower) == pytest.approx(2.0) == float(spectral_smoothness(H, 2))


@given(instances(3, 3), tensors((3,)), tensors((3,)))
def test_separable_adaptation_at_most_one_never_worsens_spectral_smoothness(example, a, b):
    H, _ = example
    gamma = torch.outer(a.abs() / a.abs().max().clamp_min(1e-9), b.abs() / b.abs().max().clamp_min(1e-9))
    lower = weighted_spectral_smoothness(H, gamma, torch.eye(3, dtype=torch.float64)).lower
    assert float(lower) <= float(spectral_smoothness(H, 3)) * (1 + 1e-10) + 1e-12


@given(instances(3, 3), orthogonal(3), orthogonal(3))
def test_interval_is_ordered_and_feasible(example, Q_L, Q_R):
    """Lower ≤ upper, and no direction of the ball does better than the upper end; Q_R does not enter."""
    H, gamma = example
    interval = weighted_spectral_smoothness(H, gamma, Q_L, iterations=10, restarts=2)
    slack = 1e-10 * (1 + float(interval.upper))
    assert interval.lower <= interval.upper + slack
    for seed in range(5):
        D = Q_L @ (gamma * polar_factor(normal(3, 3, seed=seed))) @ Q_R.mT
        assert (D * (H @ D)).sum() <= interval.upper + slack


def test_weighted_spectral_is_batched():
    H = torch.stack([psd(3, seed=s) for s in range(2)])
    gamma, Q = normal(2, 3, 2).abs(), torch.linalg.qr(normal(2, 3, 3)).Q
    together = weighted_spectral_smoothness(H, gamma, Q)
    for b in range(2):
        alone = weighted_spectral_smoothness(H[b], gamma[b], Q[b])
        torch.testing.assert_close(together.lower[b], alone.lower, rtol=1e-8, atol=0)
        torch.testing.assert_close(together.upper[b], alone.upper, rtol=1e-6, atol=0)


def test_weighted_spectral_in_float32():
    H, gamma = psd(3).float(), normal(3, 3, seed=1).abs().float()
    exact = weighted_spectral_smoothness(H.double(), gamma.double(), torch.eye(3, dtype=torch.float64))
    found = weighted_spectral_smoothness(H, gamma, torch.eye(3))
    assert found.lower.dtype == torch.float32
    assert float(found.lower) == pytest.approx(float(exact.lower), rel=1e-4)


def test_zero_weights_and_zero_hessians_give_zero():
    Z, I = torch.zeros(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for H, gamma in ((Z, torch.ones_like(Z)), (I, Z)):
        assert weighted_spectral_smoothness(H, gamma, I) == (0.0, 0.0)
        assert weighted_box_smoothness(H, gamma) == 0.0
