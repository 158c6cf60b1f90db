"""Eigenbases and their refresh: fixed points, orders of convergence, orthogonality, the permutation."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import REFRESH_METHODS, eigenbasis, refresh_eigenbasis
from tests.strategies import matrix_batches, orthogonal, refuted, spd

DTYPES = [torch.float64, torch.float32]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
methods = pytest.mark.parametrize("method", REFRESH_METHODS)
ITERATIVE = ["qr", "rotation"]


def off_diagonal(A, Q):
    """The largest off-diagonal entry of QᵀAQ relative to A."""
    B = Q.mT @ A @ Q
    B = B - torch.diag_embed(torch.diagonal(B, dim1=-2, dim2=-1))
    return float((B.abs().amax((-2, -1)) / A.abs().amax((-2, -1)).clamp_min(1e-30)).max())


def orthogonality(Q):
    return float((Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype)).abs().max())


def rotation(n, size, seed=0, dtype=torch.float64):
    K = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.matrix_exp(size * (K - K.mT) / torch.linalg.matrix_norm(K - K.mT, 2)).to(dtype)


def gapped(n=5, ratio=0.5, seed=0):
    """A symmetric matrix with eigenvalues ratio^i, and its eigenbasis."""
    Q = torch.linalg.qr(
        torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).Q
    return (Q * ratio ** torch.arange(n, dtype=torch.float64)) @ Q.mT, Q


def distance(P, Q):
    """Largest entry of |PᵀQ| - I: blind to the signs of the columns."""
    return float(((P.mT @ Q).abs() - torch.eye(P.shape[-1], dtype=P.dtype)).abs().max())


def diagonalises(G, *, basis=eigenbasis):
    A = G @ G.mT
    Q = basis(A)
    d = torch.diagonal(Q.mT @ A @ Q, dim1=-2, dim2=-1)
    tolerance = 50 * torch.finfo(A.dtype).eps
    size = A.abs().amax((-2, -1)).clamp_min(1e-30).unsqueeze(-1)
    return (
        orthogonality(Q) < tolerance
        and off_diagonal(A, Q) < tolerance
        and bool((d[..., 1:] <= d[..., :-1] + tolerance * size).all())
    )


@both
def test_eigenbasis_diagonalises_descending(dtype):
    given(matrix_batches(dtype=dtype))(lambda G: _assert(diagonalises(G)))()
    # The twin: torch's own order is ascending.
    assert refuted(
        matrix_batches(dtype=dtype),
        lambda G: diagonalises(G, basis=lambda A: torch.linalg.eigh(A).eigenvectors),
    )


def _assert(truth):
    assert truth


@given(matrix_batches())
def test_eigenbasis_batched_is_unbatched(G):
    A = G @ G.mT
    flat = A.reshape(-1, *A.shape[-2:])
    # Not bit by bit: how a matrix product rounds may depend on where its operands lie in memory.
    size = torch.linalg.matrix_norm(flat)[:, None, None]
    inside = []
    for Q in (eigenbasis(A).reshape(flat.shape), torch.stack([eigenbasis(a) for a in flat])):
        D = Q.mT @ flat @ Q
        assert bool(((D - torch.diag_embed(torch.diagonal(D, dim1=-2, dim2=-1))).abs() <= 1e-13 * size).all())
        inside.append(D)
    assert bool(((inside[0] - inside[1]).abs() <= 1e-13 * size).all())


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
@methods
def test_scale_does_not_matter(scale, method):
    A, Q = gapped()
    start = Q @ rotation(5, 0.05)
    expected, order = refresh_eigenbasis(A, start, method=method)
    basis, scaled_order = refresh_eigenbasis(A * scale, start, method=method)
    assert distance(basis, expected) < 1e-12 and torch.equal(order, scaled_order)


@methods
@pytest.mark.parametrize("shape", [(0, 0), (3, 0, 0), (0, 2, 2)])
def test_empty(method, shape):
    Q, order = refresh_eigenbasis(torch.zeros(shape), torch.zeros(shape), method=method)
    assert Q.shape == shape and order.shape == shape[:-1]
    assert eigenbasis(torch.zeros(shape)).shape == shape


@methods
def test_an_eigenbasis_is_a_fixed_point(method):
    @given(spd(4, max_condition=50.0))
    def check(A):
        Q = eigenbasis(A)
        moved, order = refresh_eigenbasis(A, Q, method=method)
        assert orthogonality(moved) < 1e-13 and off_diagonal(A, moved) < 1e-12
        if len(set(torch.linalg.eigvalsh(A).round(decimals=6).tolist())) == 4:
            assert distance(moved, Q) < 1e-9 and order.tolist() == [0, 1, 2, 3]

    check()


@both
@methods
def test_refreshed_bases_are_orthogonal(method, dtype):
    """For every positive semidefinite matrix, degenerate ones included, and any starting basis."""

    @given(st.tuples(matrix_batches(dtype=dtype, max_side=4), orthogonal(4, dtype)))
    def check(drawn):
        G, Q = drawn
        n = G.shape[-2]
        A = G @ G.mT
        start = torch.linalg.qr(Q[:n, :n] + 2 * torch.eye(n, dtype=dtype)).Q.expand_as(A)
        moved, order = refresh_eigenbasis(A, start, method=method)
        assert orthogonality(moved) < 60 * torch.finfo(dtype).eps
        assert torch.equal(order.sort(-1).values, torch.arange(n).expand_as(order))

    check()


@methods
def test_order_is_the_permutation_that_v_must_follow(method):
    """Scrambled columns of an eigenbasis come back sorted, and `order` says where each one went."""

    @given(st.permutations(range(5)), st.lists(st.sampled_from([1.0, -1.0]), min_size=5, max_size=5))
    def check(scramble, signs):
        A, Q = gapped()
        start = Q[:, list(scramble)] * torch.tensor(signs, dtype=torch.float64)
        moved, order = refresh_eigenbasis(A, start, method=method)
        assert distance(moved, Q) < 1e-12
        if method == "eigh":
            assert order.tolist() == list(range(5))
        else:
            # Second moments of the old columns, taken along: those of the sorted eigenvalues.
            old = torch.diagonal(start.mT @ A @ start)
            torch.testing.assert_close(
                old[order], torch.diagonal(moved.mT @ A @ moved), rtol=1e-10, atol=1e-14
            )
            assert distance(moved, start[:, order]) < 1e-12
            # The twin: left in place, they belong to other columns.
            if list(scramble) != sorted(scramble):
                assert not torch.allclose(old, torch.diagonal(moved.mT @ A @ moved), rtol=1e-3)

    check()


@pytest.mark.parametrize("method", ITERATIVE)
def test_order_is_stable_and_batched(method):
    A = torch.stack([torch.diag(torch.tensor(d)) for d in ([1.0, 3.0, 3.0, 2.0], [4.0, 3.0, 3.0, 5.0])])
    _, order = refresh_eigenbasis(A, torch.eye(4).expand(2, 4, 4), method=method)
    assert order.tolist() == [[1, 2, 3, 0], [3, 0, 1, 2]]


@pytest.mark.parametrize("method", ITERATIVE)
def test_batched_refresh_is_unbatched(method):
    A = torch.stack([gapped(4, seed=s)[0] for s in range(3)])
    Q = torch.stack([gapped(4, seed=s)[1] @ rotation(4, 0.1, s) for s in range(3)])
    before = A.clone(), Q.clone()
    moved, order = refresh_eigenbasis(A, Q, method=method)
    for i in range(3):
        alone, alone_order = refresh_eigenbasis(A[i], Q[i], method=method)
        torch.testing.assert_close(moved[i], alone, rtol=0, atol=1e-14)
        assert torch.equal(order[i], alone_order)
    assert torch.equal(A, before[0]) and torch.equal(Q, before[1])


def errors_over_refreshes(method, size=1e-2, count=4, ratio=0.5):
    A, Q = gapped(ratio=ratio)
    basis, out = Q @ rotation(5, size), []
    for _ in range(count):
        out.append(float((basis.mT @ Q).abs().fill_diagonal_(0.0).max()))
        basis, _ = refresh_eigenbasis(A, basis, method=method)
    return out


def test_qr_converges_linearly_at_the_ratio_of_the_eigenvalues():
    errors = errors_over_refreshes("qr", size=1e-3, count=12)
    rates = [b / a for a, b in itertools.pairwise(errors[4:])]
    assert all(rate == pytest.approx(0.5, abs=0.08) for rate in rates)


def test_rotation_converges_quadratically():
    errors = errors_over_refreshes("rotation")
    assert errors[0] > 1e-3
    for before, after in itertools.pairwise(errors):
        assert after < max(20 * before**2, 1e-14)
    assert errors[3] < 1e-14
    # qr is no twin of it: the same bound fails there.
    slow = errors_over_refreshes("qr")
    assert any(after > max(20 * before**2, 1e-14) for before, after in itertools.pairwise(slow))


@pytest.mark.parametrize("method", ITERATIVE)
@pytest.mark.parametrize("size", [0.1, 0.5, 1.5])
def test_converges_from_afar(method, size):
    A, Q = gapped(ratio=0.4)
    basis = Q @ rotation(5, size, seed=3)
    for _ in range(60):
        basis, _ = refresh_eigenbasis(A, basis, method=method)
    assert off_diagonal(A, basis) < 1e-12 and distance(basis, Q) < 1e-9


@both
@pytest.mark.parametrize("method", ITERATIVE)
def test_orthogonal_after_two_hundred_refreshes(method, dtype):
    generator = torch.Generator().manual_seed(1)
    A = torch.zeros(2, 6, 6, dtype=dtype)
    Q = torch.eye(6, dtype=dtype).expand(2, 6, 6)
    for _ in range(200):
        G = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64).to(dtype)
        A = 0.9 * A + 0.1 * (G @ G.mT)
        Q, _ = refresh_eigenbasis(A, Q, method=method)
    assert orthogonality(Q) < 20 * torch.finfo(dtype).eps
    # No worse than after one refresh from an exact basis; and it still follows A.
    d = torch.diagonal(Q.mT @ A @ Q, dim1=-2, dim2=-1)
    assert off_diagonal(A, Q) < 0.5 and bool((d > 0).all())


@pytest.mark.parametrize("method", ITERATIVE)
def test_repeated_eigenvalues_keep_their_space(method):
    A = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    R = rotation(2, 0.7)
    Q = torch.block_diag(R, torch.ones(1, 1, dtype=torch.float64))
    moved, _ = refresh_eigenbasis(A, Q, method=method)
    # Rounding may turn the basis within the eigenspace (`rotation` does), but not out of it.
    assert off_diagonal(A, moved) < 1e-15 and orthogonality(moved) < 1e-14
    assert float((moved[:, :2] @ moved[:, :2].mT - Q[:, :2] @ Q[:, :2].mT).abs().max()) < 1e-14


@pytest.mark.parametrize("method", ITERATIVE)
def test_zero_matrix_gives_an_orthogonal_basis(method):
    moved, order = refresh_eigenbasis(torch.zeros(3, 3), rotation(3, 0.4, dtype=torch.float32), method=method)
    assert orthogonality(moved) < 1e-6 and order.tolist() == [0, 1, 2]


def test_unknown_method():
    with pytest.raises(ValueError, match=r"unknown method 'jacobi'; use one of eigh, qr, rotation"):
        refresh_eigenbasis(torch.eye(2), torch.eye(2), method="jacobi")
